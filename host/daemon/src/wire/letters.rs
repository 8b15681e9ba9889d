//! Jobs on their way without a result: back for another attempt, taken from their queue undone, or
//! to the dead-letter queue.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use warren_client::oip;

use super::{DEAD, ISOLATED, JOBS, MAX_ATTEMPT, RETRY, Rejected, envelope, retry_tier, short};
use crate::broker::{Delivery, HeaderValue, Message, Properties};
use crate::job::{Code, Envelope, Failure, Identity, Job};
use crate::losses::Lost;

/// Characters of one line of a job's history, and lines.
const LINE: usize = 200;
const LINES: usize = 32;

/// The delivery's message again, for the retry tier of `delay`: same key and body, the attempts so
/// far in header `attempt`, and in its history the `cause`: a code, or that the plugin asked. The time to live becomes an absolute deadline: a broker counts
/// `expiration` anew in each queue, and forgets it when it dead-letters.
pub fn retry(
    delivery: &Delivery,
    job: &Job,
    delay: Duration,
    host: &str,
    cause: Option<Code>,
    text: &str,
) -> Message {
    let mut message = moved(delivery, retry_tier(delay), job.deadline);
    let properties = &mut message.properties;
    properties.set("attempt", HeaderValue::Int(i64::from(job.envelope.attempt)));
    // A job that came without an id must keep the one that its events have by now.
    properties.correlation_id = Some(job.envelope.id.clone());
    if cause == Some(Code::DeviceLost) {
        properties.set(DEVICE_LOST, HeaderValue::Int(i64::from(job.envelope.attempt)));
    }
    let cause = cause.map_or("RETRY", |code| code.info().name);
    record(properties, job.envelope.attempt, host, cause, text);
    message
}

/// Header of a job that lost a device: at which attempt.
const DEVICE_LOST: &str = "device-lost";

/// Whether the job has been tried a second time for the loss of its device. What it lost before an
/// operator sent it back does not count.
pub fn had_its_second(delivery: &Delivery, attempt: u32) -> bool {
    let lost = delivery.message.properties.int(DEVICE_LOST).unwrap_or(0);
    lost > i64::from(forgiven(delivery, attempt))
}

/// Attempts that do not count any more, for an operator has sent the job back after them. Less than
/// `attempt`, whatever the header says.
pub fn forgiven(delivery: &Delivery, attempt: u32) -> u32 {
    let requeued = delivery.message.properties.int("requeued").unwrap_or(0);
    u32::try_from(requeued).unwrap_or(0).min(attempt.saturating_sub(1))
}

/// The delivery's message again, for another exchange.
fn moved(delivery: &Delivery, exchange: String, deadline: Option<SystemTime>) -> Message {
    let mut message = delivery.message.clone();
    message.exchange = exchange;
    message.properties.persistent = true;
    message.properties.expiration = None;
    if let Some(deadline) = deadline {
        let ms = deadline.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        message.properties.set("deadline", HeaderValue::Int(i64::try_from(ms).unwrap_or(i64::MAX)));
    }
    message
}

/// The delivery's message again, for the queue of jobs that run alone.
pub fn isolate(delivery: &Delivery, received: SystemTime, host: &str) -> Message {
    anew(delivery, ISOLATED, received, host, "the host that had it did not come back")
}

/// The delivery's message again, for the queue that it came from: its broker would soon take it for
/// undeliverable, and it is not.
pub fn renew(delivery: &Delivery, alone: bool, received: SystemTime, host: &str) -> Message {
    let exchange = if alone { ISOLATED } else { JOBS };
    anew(delivery, exchange, received, host, "the hosts that had it lost their broker, again and again")
}

/// Headers of a job that waits for whoever lost it and lives to say so.
const SUSPECTED: [&str; 3] = ["suspected", "suspected-losses", "suspected-since"];

/// A job that was lost while it ran alone, and as far as is known by no host that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspicion {
    /// By what its losses are known.
    pub key: String,
    /// How many there were.
    pub times: u32,
    /// When it began to wait.
    pub since: SystemTime,
}

/// The delivery's message again, for the retry tier of `delay`: there it waits, and no host that dies
/// meanwhile can have died of it.
pub fn suspect(delivery: &Delivery, delay: Duration, key: &str, received: SystemTime, host: &str) -> Message {
    let text = "the host that ran it alone did not come back";
    let mut message = anew(delivery, &retry_tier(delay), received, host, text);
    let ms = received.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let values = [
        HeaderValue::Text(key.to_owned()),
        HeaderValue::Int(i64::from(delivery.delivery_count)),
        HeaderValue::Int(i64::try_from(ms).unwrap_or(i64::MAX)),
    ];
    SUSPECTED.iter().zip(values).for_each(|(name, value)| message.properties.set(name, value));
    message
}

/// Takes the suspicion off a job that comes back with one.
pub fn take_suspicion(delivery: &mut Delivery) -> Option<Suspicion> {
    let properties = &mut delivery.message.properties;
    let [key, times, since] = SUSPECTED;
    let suspicion = properties.text(key).and_then(|key| {
        let since = Duration::from_millis(u64::try_from(properties.int(since)?).ok()?);
        Some(Suspicion {
            key: key.to_owned(),
            times: u32::try_from(properties.int(times)?).ok()?,
            since: SystemTime::UNIX_EPOCH.checked_add(since)?,
        })
    });
    unsuspected(properties);
    suspicion
}

fn unsuspected(properties: &mut Properties) {
    properties.headers.retain(|(name, _)| !SUSPECTED.contains(&name.as_str()));
}

/// The delivery's message for an exchange of jobs. The deliveries so far go into header `attempt`; the
/// broker counts them anew. Header values that make no sense stay as they are, for whoever reads the
/// job there refuses it.
fn anew(delivery: &Delivery, exchange: &str, received: SystemTime, host: &str, text: &str) -> Message {
    let properties = &delivery.message.properties;
    let deadline = match properties.header("deadline") {
        Some(_) => None,
        None => properties.expiration.and_then(|ttl| received.checked_add(ttl)),
    };
    let mut message = moved(delivery, exchange.to_owned(), deadline);
    let base = match properties.header("attempt") {
        None => Some(0),
        Some(HeaderValue::Int(base)) if (0..=MAX_ATTEMPT).contains(base) => Some(*base),
        Some(_) => None,
    };
    if let Some(base) = base {
        let attempts = base.saturating_add(i64::from(delivery.delivery_count)).min(MAX_ATTEMPT);
        message.properties.set("attempt", HeaderValue::Int(attempts));
        let attempt = u32::try_from(attempts).unwrap_or(u32::MAX);
        record(&mut message.properties, attempt, host, "LOST", text);
    }
    message
}

/// The delivery's message again, as its client published it.
pub fn again(delivery: &Delivery) -> Message {
    let mut message = delivery.message.clone();
    message.exchange = JOBS.to_owned();
    message
}

/// Adds a line to the job's history: attempt, time, host, code, text.
fn record(properties: &mut Properties, attempt: u32, host: &str, code: &str, text: &str) {
    let now = humantime::format_rfc3339_millis(SystemTime::now());
    let text: String = text.lines().next().unwrap_or_default().chars().take(LINE).collect();
    let line = format!("attempt {attempt}, {now}, {host}, {code}: {text}");
    let history = properties.text("history").unwrap_or_default();
    // What a client put there is no longer than what hosts put there.
    let mut lines: Vec<&str> = history.lines().filter(|l| l.len() < 6 * LINE).collect();
    lines.push(&line);
    let from = lines.len().saturating_sub(LINES);
    let kept = lines.get(from..).unwrap_or_default().join("\n");
    properties.set("history", HeaderValue::Text(kept));
}

/// Lost deliveries, for the other hosts. Only `own` is a host's to say: its own message is no news.
pub fn lost(exchange: &str, own: &str, all: &[Lost]) -> Message {
    let list = |timed_out: bool| {
        all.iter().filter(|l| l.timed_out == timed_out).map(|l| Cow::from(l.key.as_str())).collect()
    };
    let body = Losses { lost: list(false), timed_out: list(true) };
    let properties = Properties {
        content_type: Some(oip::JSON.to_owned()),
        kind: Some("lost".to_owned()),
        headers: vec![("host".to_owned(), HeaderValue::Text(own.to_owned()))],
        ..Properties::default()
    };
    // Texts and lists of them have a JSON form always.
    let body = serde_json::to_vec(&body).unwrap_or_default().into();
    Message { exchange: exchange.to_owned(), routing_key: String::new(), properties, body }
}

/// The lost deliveries that another host tells of; none if it was this one.
///
/// # Errors
/// What is wrong with the message.
pub fn losses(delivery: &Delivery, own: &str) -> Result<Vec<Lost>, String> {
    if delivery.message.properties.text("host") == Some(own) {
        return Ok(Vec::new());
    }
    let body: Losses<'_> =
        serde_json::from_slice(&delivery.message.body).map_err(|e| short(&e.to_string()))?;
    let all = body
        .lost
        .into_iter()
        .map(|key| (key, false))
        .chain(body.timed_out.into_iter().map(|key| (key, true)));
    Ok(all.map(|(key, timed_out)| Lost { key: key.into_owned(), timed_out }).collect())
}

/// The body of a message of lost deliveries.
#[derive(Serialize, Deserialize)]
struct Losses<'a> {
    #[serde(borrow)]
    lost: Vec<Cow<'a, str>>,
    #[serde(borrow)]
    timed_out: Vec<Cow<'a, str>>,
}

/// A final event that its address would not take, for the dead-letter queue: the event itself, its
/// address in headers.
pub fn undelivered(mut event: Message, failure: &Failure) -> Message {
    let address = if event.exchange.is_empty() {
        event.routing_key.clone()
    } else {
        format!("{}/{}", event.exchange, event.routing_key)
    };
    event.properties.set("reply-to", HeaderValue::Text(address));
    // For whoever sends the event after all.
    if let Some(code) = event.properties.header("code").cloned() {
        event.properties.set("event-code", code);
    }
    event.properties.set("code", HeaderValue::Text(failure.code.info().name.to_owned()));
    event.properties.set("reason", HeaderValue::Text(failure.text.clone()));
    event.exchange = DEAD.to_owned();
    event
}

/// The envelope of a job that its broker took from the queue undone. It does not say how often it
/// was delivered before, at most `limit` + 1 times: the attempt is above all of those, or the
/// client would drop the final event as that of an attempt that was overtaken.
pub fn undone(delivery: &Delivery, limit: u32) -> Result<Envelope, Box<Rejected>> {
    let mut envelope = unread(delivery)?;
    envelope.attempt = envelope.attempt.saturating_add(limit).saturating_add(1);
    Ok(envelope)
}

/// The envelope of a job whose body is better not read.
///
/// # Errors
/// [`Rejected`] as [`super::decode`].
pub fn unread(delivery: &Delivery) -> Result<Envelope, Box<Rejected>> {
    let mut envelope = envelope(delivery)?;
    if envelope.id.is_empty() {
        envelope.id = uuid::Uuid::new_v4().to_string();
    }
    Ok(envelope)
}

/// The failure of a job that its broker took from the queue undone.
pub fn undone_failure(delivery: &Delivery) -> Failure {
    let properties = &delivery.message.properties;
    // Brokers keep the first death of all. When that was in a retry tier, the job had no time to
    // live any more, so what took it now was the delivery limit.
    let retried = properties.text("x-first-death-queue").is_some_and(|queue| queue.starts_with(RETRY));
    match properties.text("x-first-death-reason") {
        Some(reason) if retried || reason == "delivery_limit" => {
            Failure::new(Code::DeliveryLimit, "delivered to host after host, and none of them could answer")
        }
        _ => Failure::new(Code::Expired, "the job's time to live ran out in the queue"),
    }
}

/// The delivery's message again, for the dead-letter queue: unchanged, and why in headers.
pub fn dead_letter(
    delivery: &Delivery,
    envelope: &Envelope,
    identity: Option<&Identity>,
    host: &str,
    failure: &Failure,
) -> Message {
    let mut message = delivery.message.clone();
    message.exchange = DEAD.to_owned();
    unsuspected(&mut message.properties);
    message.properties.persistent = true;
    message.properties.expiration = None;
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    message.properties.set("job", HeaderValue::Text(envelope.id.clone()));
    message.properties.set("attempt", HeaderValue::Int(i64::from(envelope.attempt)));
    message.properties.set("code", HeaderValue::Text(failure.code.info().name.to_owned()));
    message.properties.set("reason", HeaderValue::Text(failure.text.clone()));
    message.properties.set("died-at", HeaderValue::Int(i64::try_from(seconds).unwrap_or(i64::MAX)));
    message.properties.set("died-from", HeaderValue::Text(delivery.queue.to_string()));
    record(&mut message.properties, envelope.attempt, host, failure.code.info().name, &failure.text);
    if let Some(identity) = identity {
        message.properties.set("plugin", HeaderValue::Text(identity.plugin.to_string()));
        message.properties.set("digest", HeaderValue::Text(identity.digest.to_string()));
    }
    message
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::broker::Tag;

    #[test]
    fn a_suspicion_comes_back_from_the_tier_and_leaves_no_trace() {
        let message = Message {
            exchange: ISOLATED.to_owned(),
            routing_key: "m.urgent".to_owned(),
            properties: Properties::default(),
            body: bytes::Bytes::new(),
        };
        let tag = Tag { channel: 1, number: 1 };
        let mut delivery = Delivery { message, queue: "warren.isolated.m".into(), tag, delivery_count: 2 };
        let received = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let sent = suspect(&delivery, Duration::from_secs(10), "the key", received, "host");
        assert_eq!((sent.exchange.as_str(), sent.routing_key.as_str()), ("warren.retry.10000", "m.urgent"));
        assert_eq!(sent.properties.int("attempt"), Some(2), "attempts go on from there");
        delivery.message = sent;
        delivery.delivery_count = 0;
        let suspicion = take_suspicion(&mut delivery).unwrap();
        assert_eq!(suspicion, Suspicion { key: "the key".to_owned(), times: 2, since: received });
        assert_eq!(take_suspicion(&mut delivery), None);
        let names: Vec<&str> = delivery.message.properties.headers.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["attempt", "history"]);
        // Not one of ours: it is dropped.
        delivery.message.properties.set("suspected", HeaderValue::Text("x".to_owned()));
        delivery.message.properties.set("suspected-losses", HeaderValue::Int(-1));
        assert_eq!(take_suspicion(&mut delivery), None);
        assert_eq!(delivery.message.properties.headers.len(), 2);
    }
}
