//! One dead letter: what it says, for people and for programs, and the job that it was.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use warren::broker::{HeaderValue, Message};
use warren::job::{Class, Code};
use warren::topology::UNSERVED;
use warren::wire::JOBS;

/// What death put into the headers of a job; `attempt` and `history` stay.
const DEATH: [&str; 8] = ["job", "code", "reason", "died-at", "died-from", "plugin", "digest", "deadline"];
/// What it put into those of an event.
const UNDELIVERED: [&str; 4] = ["code", "event-code", "reason", "reply-to"];
/// Characters of a body that are shown, and of a reason in one line.
const SHOWN: usize = 4000;
const LINE: usize = 100;

fn text<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message.properties.text(name)
}

/// The job's id.
pub fn job(message: &Message) -> &str {
    text(message, "job").or(message.properties.correlation_id.as_deref()).unwrap_or("-")
}

/// The model asked for.
pub fn model(message: &Message) -> &str {
    match text(message, "model") {
        // An event.
        Some(model) if message.properties.kind.is_some() => model,
        _ => Class::split(&message.routing_key).0,
    }
}

/// The broker dead-letters what no host took: it came from this queue.
fn died_by_itself(message: &Message) -> bool {
    text(message, "code").is_none() && text(message, "x-first-death-queue") == Some(UNSERVED)
}

/// Why it is here, as a code.
pub fn code(message: &Message) -> &str {
    if died_by_itself(message) {
        return Code::NoModel.info().name;
    }
    text(message, "code").unwrap_or("-")
}

fn reason(message: &Message) -> &str {
    if died_by_itself(message) {
        return "no host with a plugin for the model was there in time (unserved_ms)";
    }
    text(message, "reason").unwrap_or("-")
}

fn attempt(message: &Message) -> i64 {
    message.properties.int("attempt").unwrap_or(0)
}

fn died_at(message: &Message) -> Option<SystemTime> {
    let seconds = u64::try_from(message.properties.int("died-at")?).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn shown_time(time: Option<SystemTime>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| humantime::format_rfc3339_seconds(time).to_string())
}

/// What it is: a job, or an event of one.
fn what(message: &Message) -> &str {
    message.properties.kind.as_deref().unwrap_or("job")
}

/// Where the events go, or should have gone.
fn reply_to(message: &Message) -> Option<&str> {
    text(message, "reply-to").or(message.properties.reply_to.as_deref())
}

/// Where a message is sent to.
pub fn place(message: &Message) -> String {
    match message.exchange.as_str() {
        "" => format!("queue {}", message.routing_key),
        exchange => format!("{exchange}/{}", message.routing_key),
    }
}

/// One line.
pub fn line(message: &Message) -> String {
    let reason = reason(message).lines().next().unwrap_or_default();
    let reason: String = reason.chars().take(LINE).collect();
    format!(
        "{}  {}  {:<7} {:<18} attempt {}  {}  {reason}",
        job(message),
        shown_time(died_at(message)),
        what(message),
        code(message),
        attempt(message),
        model(message),
    )
}

fn headers(message: &Message) -> Value {
    let value = |value: &HeaderValue| match value {
        HeaderValue::Bool(v) => json!(v),
        HeaderValue::Int(v) => json!(v),
        HeaderValue::Text(v) => json!(v),
        HeaderValue::Float(v) => json!(v),
        HeaderValue::Double(v) => json!(v),
        HeaderValue::Timestamp(v) => json!(v),
        other => json!({ "type": other.kind() }),
    };
    Value::Object(message.properties.headers.iter().map(|(n, v)| (n.clone(), value(v))).collect())
}

fn history(message: &Message) -> Vec<&str> {
    text(message, "history").map(|history| history.lines().collect()).unwrap_or_default()
}

/// For programs.
pub fn json(message: &Message, with_body: bool) -> Value {
    let mut shown = json!({
        "job": job(message), "what": what(message), "model": model(message), "routing_key": message.routing_key,
        "code": code(message), "reason": reason(message), "attempt": attempt(message),
        "died_at": died_at(message).map(|time| shown_time(Some(time))), "died_from": text(message, "died-from"),
        "plugin": text(message, "plugin"), "digest": text(message, "digest"), "reply_to": reply_to(message),
        "message_id": message.properties.message_id, "content_type": message.properties.content_type,
        "history": history(message), "headers": headers(message), "size": message.body.len(),
    });
    if with_body {
        shown["body"] = match std::str::from_utf8(&message.body) {
            Ok(text) => json!(text),
            Err(_) => {
                json!({ "base16": message.body.iter().map(|b| format!("{b:02x}")).collect::<String>() })
            }
        };
    }
    shown
}

/// For people.
pub fn page(message: &Message) -> String {
    let mut page = String::new();
    let mut row = |name: &str, value: &str| {
        let value = value.replace('\n', "\n            ");
        // Writing to a string cannot fail.
        let _ = writeln!(page, "{name:<11} {value}");
    };
    row(if what(message) == "job" { "job" } else { "event of job" }, job(message));
    let (model, class) = match what(message) {
        "job" => Class::split(&message.routing_key),
        _ => (model(message), Class::Normal),
    };
    row("model", &format!("{model}{}", class.suffix()));
    row("code", code(message));
    row("reason", reason(message));
    if let Some(code) = Code::ALL.iter().find(|c| c.info().name == code(message)) {
        row("what to do", code.info().advice);
    }
    let from = text(message, "died-from").map(|queue| format!(" from {queue}")).unwrap_or_default();
    row("died", &format!("{}{from}", shown_time(died_at(message))));
    row("attempt", &attempt(message).to_string());
    if let Some(plugin) = text(message, "plugin") {
        row("plugin", &format!("{plugin} {}", text(message, "digest").unwrap_or_default()));
    }
    row("events to", reply_to(message).unwrap_or("the common response queue"));
    if !history(message).is_empty() {
        row("history", &history(message).join("\n"));
    }
    let known = ["history", "attempt", "model", "event-code", "reply-to"];
    for (name, value) in &message.properties.headers {
        let broker = name.starts_with("x-");
        if !broker && !DEATH.contains(&name.as_str()) && !known.contains(&name.as_str()) {
            row("header", &format!("{name} = {value}"));
        }
    }
    let kind = message.properties.content_type.as_deref().unwrap_or("of no stated type");
    row("body", &format!("{} bytes, {kind}", message.body.len()));
    page + &body(message)
}

/// The body, or the part of it that is text.
fn body(message: &Message) -> String {
    let length = message.properties.int("inference-header-content-length");
    let end = length.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX).min(message.body.len());
    let Ok(text) = std::str::from_utf8(&message.body[..end]) else {
        return "<no text: `--body` writes it as it is>\n".to_owned();
    };
    let pretty = serde_json::from_str::<Value>(text).map_or_else(|_| text.to_owned(), |v| format!("{v:#}"));
    let mut shown: String = pretty.chars().take(SHOWN).collect();
    if shown.len() < pretty.len() {
        shown.push_str("\n… (`--body` writes all of it)");
    }
    if end < message.body.len() {
        shown.push_str(&format!("\n… and {} bytes of tensors", message.body.len() - end));
    }
    shown.push('\n');
    shown
}

/// The job as it was, to be worked on again: body and properties are kept, what its death added is
/// taken off. Its attempts go on counting, so that clients accept what comes of it. An event that
/// was not delivered goes to its address again.
pub fn revived(mut message: Message, to: Option<&str>) -> Message {
    let properties = &mut message.properties;
    // A broker's own notes; it would count from them.
    properties.headers.retain(|(name, _)| !name.starts_with("x-"));
    if properties.kind.is_some() {
        let address = to.map(str::to_owned).or_else(|| properties.text("reply-to").map(str::to_owned));
        let code = properties.header("event-code").cloned();
        properties.headers.retain(|(name, _)| !UNDELIVERED.contains(&name.as_str()));
        if let Some(code) = code {
            properties.set("code", code);
        }
        let address = address.unwrap_or_default();
        let (exchange, key) = address.split_once('/').unwrap_or(("", &address));
        (message.exchange, message.routing_key) = (exchange.to_owned(), key.to_owned());
        return message;
    }
    if let Some(job) = properties.text("job").map(str::to_owned) {
        properties.correlation_id = Some(job);
    }
    properties.headers.retain(|(name, _)| !DEATH.contains(&name.as_str()));
    let now = humantime::format_rfc3339_millis(SystemTime::now());
    let line = format!("{now}, requeued by an operator");
    let history = properties.text("history").map_or(line.clone(), |history| format!("{history}\n{line}"));
    properties.set("history", HeaderValue::Text(history));
    // Hosts give it all of its retries again.
    if let Some(attempt) = properties.header("attempt").cloned() {
        properties.set("requeued", attempt);
    }
    if let Some(to) = to {
        properties.reply_to = Some(to.to_owned());
    }
    message.exchange = JOBS.to_owned();
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren::broker::Properties;

    fn letter(headers: &[(&str, HeaderValue)]) -> Message {
        Message {
            exchange: "warren.dead".to_owned(),
            routing_key: "echo.urgent".to_owned(),
            properties: Properties {
                reply_to: Some("mine".to_owned()),
                message_id: Some("m".to_owned()),
                headers: headers.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect(),
                ..Properties::default()
            },
            body: "{\"inputs\": []}".into(),
        }
    }

    fn words(text: &str) -> HeaderValue {
        HeaderValue::Text(text.to_owned())
    }

    #[test]
    fn a_revived_job_is_what_it_was_and_counts_on() {
        let dead = letter(&[
            ("job", words("j")),
            ("attempt", HeaderValue::Int(7)),
            ("code", words("PLUGIN_FAILED")),
            ("reason", words("it broke")),
            ("died-at", HeaderValue::Int(1)),
            ("deadline", HeaderValue::Int(1)),
            ("tenant", words("acme")),
            ("x-delivery-count", HeaderValue::Int(3)),
            ("history", words("attempt 7")),
        ]);
        let job = revived(dead.clone(), None);
        assert_eq!((job.exchange.as_str(), job.routing_key.as_str()), (JOBS, "echo.urgent"));
        assert_eq!(job.body, dead.body);
        assert_eq!(job.properties.correlation_id.as_deref(), Some("j"));
        assert_eq!(job.properties.reply_to.as_deref(), Some("mine"));
        let names: Vec<&str> = job.properties.headers.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["attempt", "tenant", "history", "requeued"]);
        let base = |name| job.properties.int(name);
        assert_eq!((base("attempt"), base("requeued")), (Some(7), Some(7)));
        let history: Vec<&str> = history(&job);
        assert!(history.len() == 2 && history[1].ends_with("requeued by an operator"), "{history:?}");
        assert_eq!(revived(dead, Some("elsewhere")).properties.reply_to.as_deref(), Some("elsewhere"));
    }

    #[test]
    fn an_undelivered_event_goes_to_its_address() {
        let mut dead = letter(&[
            ("job", words("j")),
            ("model", words("echo")),
            ("code", words("REPLY_UNROUTABLE")),
            ("event-code", words("EXPIRED")),
            ("reason", words("gone")),
            ("reply-to", words("there/key")),
            ("sequence", HeaderValue::Int(3)),
        ]);
        dead.properties.kind = Some("error".to_owned());
        assert!(page(&dead).contains("there/key"), "{}", page(&dead));
        let event = revived(dead.clone(), None);
        assert_eq!((event.exchange.as_str(), event.routing_key.as_str()), ("there", "key"));
        let names: Vec<&str> = event.properties.headers.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["job", "model", "sequence", "code"]);
        assert_eq!(event.properties.text("code"), Some("EXPIRED"));
        let event = revived(dead, Some("queue"));
        assert_eq!((event.exchange.as_str(), event.routing_key.as_str()), ("", "queue"));
    }

    #[test]
    fn what_no_host_took_says_so() {
        let dead = letter(&[("x-first-death-queue", words(UNSERVED))]);
        assert_eq!(code(&dead), "NO_MODEL");
        assert!(line(&dead).contains("no host"), "{}", line(&dead));
        assert!(page(&dead).contains("\"inputs\""), "{}", page(&dead));
    }
}
