//! Events as clients read them.

use bytes::Bytes;
use warren::broker::client;
use warren::broker::{HeaderValue, Message, Properties};
use warren_client::{EventBody, Follower};

use crate::check_text;
use crate::take::Take;

const HEADERS: [&str; 10] = [
    "attempt",
    "sequence",
    "final",
    "job",
    "code",
    "model",
    "plugin",
    "digest",
    "inference-header-content-length",
    "other",
];
const KINDS: [&str; 6] = ["status", "partial", "result", "error", "news", ""];

/// One message: type, headers, length of the body, body.
fn message(take: &mut Take<'_>) -> Message {
    let kind = match take.below(8) {
        at @ 0..6 => Some(KINDS[at].to_owned()),
        6 => Some(take.text()),
        _ => None,
    };
    let mut properties = Properties { kind, ..Properties::default() };
    properties.content_type = take.optional(Take::text);
    // As a host writes them, and then whatever is said otherwise.
    let numbers = take.u8();
    properties.set("job", HeaderValue::Text("j".to_owned()));
    properties.set("attempt", HeaderValue::Int(i64::from(numbers & 3) + 1));
    properties.set("sequence", HeaderValue::Int(i64::from(numbers >> 2 & 15)));
    properties.set("final", HeaderValue::Bool(numbers & 64 != 0));
    for _ in 0..take.below(6) {
        let name = take.pick(&HEADERS);
        let value = take.header(0);
        properties.set(name, value);
    }
    let length = usize::from(take.u16());
    let body = Bytes::copy_from_slice(take.bytes(length));
    Message { exchange: String::new(), routing_key: String::new(), properties, body }
}

/// A job's messages one after another: the events in them rise, and none follows the final one.
pub fn event(bytes: &[u8]) {
    let mut take = Take::new(bytes);
    let mut follower = Follower::new("j");
    let mut last = None;
    for _ in 0..32 {
        if take.is_empty() {
            break;
        }
        let Some(message) = client::event(message(&mut take)) else { continue };
        assert!(!message.job.is_empty());
        let (done, ours) = (follower.is_done(), message.job == "j");
        let (final_, number) = (message.last, (message.attempt, message.sequence));
        match follower.take(message) {
            None => {}
            Some(answer) => {
                assert!(ours && !done, "an event of another job, or after the last");
                assert!(last < Some(number), "{number:?} after {last:?}");
                last = Some(number);
                assert_eq!(follower.is_done(), final_);
                match answer {
                    Ok(event) => {
                        assert_eq!((event.attempt, event.sequence), number);
                        assert_eq!(event.is_final(), final_);
                        assert!(event.missed <= event.sequence);
                        if let EventBody::Partial(tensor) = event.body {
                            assert!(tensor.elements().is_some());
                        }
                    }
                    Err(error) => check_text(&error.to_string()),
                }
            }
        }
    }
}
