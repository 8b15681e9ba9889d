//! A table of jobs that must fail, each with its code.

use warren::broker::Message;
use warren::job::Code;

use crate::inbox::{error, kind};
use crate::{House, Inbox};

/// One row.
pub struct Case {
    name: &'static str,
    code: Code,
    /// What the text must hold.
    says: &'static [&'static str],
    message: Message,
}

/// A row: the job `message` must end in an error event with this code, and a text that holds all of
/// `says`. Its reply address is set here.
pub fn case(name: &'static str, code: Code, says: &'static [&'static str], message: Message) -> Case {
    Case { name, code, says, message }
}

/// The client's view of one row, or what is wrong with it.
async fn check(house: &House, inbox: &mut Inbox<'_>, case: Case) -> Result<(), String> {
    let Case { name, code, says, mut message } = case;
    message.properties.reply_to = Some(inbox.queue.clone());
    let sent = message.clone();
    house.publish(message).await;
    let events = inbox.until_final().await;
    let last = events.last().expect("one");
    let (found, text) = error(last);
    let line: String = text.lines().next().unwrap_or_default().chars().take(200).collect();
    println!("{name} | {found} | {line}");
    let mut wrong = Vec::new();
    if kind(last) != "error" || found != code.info().name {
        wrong.push(format!("{found}: {text}\n  where {code} is due"));
    }
    wrong.extend(says.iter().filter(|s| !text.contains(*s)).map(|s| format!("{text:?} does not say {s:?}")));
    if last.properties.correlation_id != sent.properties.correlation_id {
        wrong.push(format!("the event is for job {:?}", last.properties.correlation_id));
    }
    house.answers(name).await;
    house.quiet().await;
    let more = inbox.arrived();
    if !more.is_empty() {
        wrong.push(format!("events after the final one: {more:?}"));
    }
    let letters = house.dead_letters().await;
    let due = usize::from(code.info().disposition.leaves_letter());
    if letters.len() != due {
        wrong.push(format!("{} dead letters where {due} are due: {letters:?}", letters.len()));
    }
    for letter in letters {
        let header = |name| letter.properties.text(name).unwrap_or("none").to_owned();
        if letter.body != sent.body || header("code") != found || header("reason") != text {
            wrong.push(format!("a dead letter that is not the job with its code and reason: {letter:?}"));
        }
        if letter.routing_key != sent.routing_key || letter.properties.reply_to != sent.properties.reply_to {
            wrong.push(format!("a dead letter that cannot be sent again: {letter:?}"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("{name}:\n  {}", wrong.join("\n  "))) }
}

/// Sends every row to a house that serves `echo`, and prints case, code and text. After each the
/// host answers as before, no queue holds anything, and there is a dead letter exactly where the
/// table of codes says so. Panics with all that is wrong: one row does not hide the next.
pub async fn check_all(house: &House, cases: Vec<Case>) {
    let mut inbox = Inbox::open(&house.broker, "replies").await;
    let mut wrong = Vec::new();
    for case in cases {
        wrong.extend(check(house, &mut inbox, case).await.err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
