//! What RabbitMQ says when it refuses, in this house's words. It says it in a reply text and no
//! other way, so the text is read.

use lapin::ErrorKind;

use crate::broker::{BrokerError, Loss};

/// AMQP reply codes.
pub(super) const ACCESS_REFUSED: u16 = 403;
pub(super) const NOT_FOUND: u16 = 404;
pub(super) const RESOURCE_LOCKED: u16 = 405;
pub(super) const PRECONDITION_FAILED: u16 = 406;

/// Code and text, if the broker said something.
pub(super) fn reply(error: &lapin::Error) -> Option<(u16, &str)> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some((error.get_id(), error.get_message().as_str())),
        _ => None,
    }
}

/// The first text in single quotes after `before`.
fn quoted<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split_once('\'').map(|(inside, _)| inside)
}

/// The exchange or queue that a text says is not there.
pub(super) fn missing<'a>(text: &'a str, what: &str) -> Option<&'a str> {
    quoted(text, &format!("no {what} '"))
}

/// The name that a text about permissions speaks of.
pub(super) fn refused_exchange(text: &str) -> Option<&str> {
    quoted(text, "exchange '")
}

/// Why a channel that delivers was closed.
pub(super) fn loss(error: &lapin::Error) -> Loss {
    match reply(error) {
        Some((PRECONDITION_FAILED, text)) if text.contains("timed out") => Loss::Timeout,
        _ => Loss::Connection,
    }
}

/// The length that a text says is too much for a message, and the most that is taken.
pub(super) fn too_large(text: &str) -> Option<(u64, u64)> {
    let rest = text.split_once("message size ")?.1;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The error of an operation on the queue or exchange `name`.
pub(super) fn of(
    operation: &'static str,
    what: &'static str,
    name: &str,
    error: &lapin::Error,
) -> BrokerError {
    match reply(error) {
        Some((NOT_FOUND, text)) => {
            match ["queue", "exchange"].iter().find_map(|w| Some((*w, missing(text, w)?))) {
                Some((what, name)) => BrokerError::NotFound { what, name: name.to_owned() },
                // "home node 'x' of durable queue 'y' is down": it will be there again.
                None => BrokerError::Refused { operation, reason: text.to_owned() },
            }
        }
        Some((PRECONDITION_FAILED, text)) => conflict(what, name, text)
            .unwrap_or_else(|| BrokerError::Refused { operation, reason: text.to_owned() }),
        Some((RESOURCE_LOCKED, _)) => BrokerError::Conflict {
            what,
            name: name.to_owned(),
            argument: "exclusive",
            found: "true, for another connection".to_owned(),
            wanted: "a queue of this connection".to_owned(),
        },
        // 3xx and 5xx end the connection; the operation is worth another try on the next.
        Some((code, text)) if (400..500).contains(&code) => {
            BrokerError::Refused { operation, reason: text.to_owned() }
        }
        _ => BrokerError::ConnectionLost,
    }
}

/// An argument that has one value on the broker and another in a declaration.
pub(super) struct Inequivalent<'a> {
    pub argument: &'a str,
    /// Value and type; none where it is not set.
    pub found: Option<(&'a str, &'a str)>,
    pub wanted: Option<(&'a str, &'a str)>,
}

/// Reads `inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received none but current is
/// the value '60000' of type 'signedint'`. The type is empty where the text gives none.
pub(super) fn inequivalent(text: &str) -> Option<Inequivalent<'_>> {
    fn value(text: &str) -> Option<(&str, &str)> {
        let text = text.trim();
        let rest = text.strip_prefix("the value '").or_else(|| text.strip_prefix('\''))?;
        let (value, rest) = rest.split_once('\'').unwrap_or((rest, ""));
        Some((value, quoted(rest, "of type '").unwrap_or_default()))
    }
    let argument = quoted(text, "inequivalent arg '")?;
    let Some((wanted, found)) =
        text.rsplit_once("received ").and_then(|(_, rest)| rest.split_once(" but current is "))
    else {
        // A reply text has at most 255 bytes.
        let cut = Some(("another value (the broker's answer is cut off)", "cut"));
        return Some(Inequivalent { argument, found: cut, wanted: Some(("the declared one", "cut")) });
    };
    Some(Inequivalent { argument, found: value(found), wanted: value(wanted) })
}

fn conflict(what: &'static str, name: &str, text: &str) -> Option<BrokerError> {
    let Inequivalent { argument, found, wanted } = inequivalent(text)?;
    let value = |value: Option<(&str, &str)>| value.map_or("none", |(value, _)| value).to_owned();
    Some(BrokerError::Conflict {
        what,
        name: name.to_owned(),
        argument: known(argument),
        found: value(found),
        wanted: value(wanted),
    })
}

/// The argument's name; those that this house never sets share one.
fn known(argument: &str) -> &'static str {
    const KNOWN: &[&str] = &[
        "x-queue-type",
        "x-message-ttl",
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-dead-letter-strategy",
        "x-delivery-limit",
        "x-max-length",
        "x-overflow",
        "x-expires",
        "x-max-priority",
        "x-single-active-consumer",
        "durable",
        "exclusive",
        "auto_delete",
        "internal",
        "type",
        "alternate-exchange",
    ];
    KNOWN.iter().find(|k| **k == argument).copied().unwrap_or("another argument")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn conflicts_name_both_values() {
        for (text, argument, wanted, found) in [
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'it's' in vhost '/': received none but current is the value '60000' of type 'signedint'",
                "x-message-ttl",
                "none",
                "60000",
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'it's' in vhost '/': received the value 'quorum' of type 'longstr' but current is none",
                "x-queue-type",
                "quorum",
                "none",
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'it's' in vhost '/': received 'fanout' but current is 'topic'",
                "type",
                "fanout",
                "topic",
            ),
        ] {
            let expected = BrokerError::Conflict {
                what: "queue",
                name: "it's".to_owned(),
                argument,
                found: found.to_owned(),
                wanted: wanted.to_owned(),
            };
            assert_eq!(conflict("queue", "it's", text).unwrap(), expected);
        }
    }

    #[test]
    fn a_reply_that_is_cut_off_names_the_argument_all_the_same() {
        let text = "PRECONDITION_FAILED - inequivalent arg 'x-overflow' for queue 'long' in vhost '/': received 'reje";
        let Some(BrokerError::Conflict { argument, found, .. }) = conflict("queue", "long", text) else {
            unreachable!("no conflict is read from {text}");
        };
        assert_eq!(argument, "x-overflow");
        assert!(found.contains("cut off"), "{found}");
    }

    #[test]
    fn sizes_and_names_are_read() {
        let text = "PRECONDITION_FAILED - message size 200 is larger than configured max size 100";
        assert_eq!(too_large(text), Some((200, 100)));
        assert_eq!(missing("NOT_FOUND - no exchange 'a b' in vhost '/'", "exchange"), Some("a b"));
        assert_eq!(missing("NOT_FOUND - no exchange 'a b' in vhost '/'", "queue"), None);
        let text = "ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'u'";
        assert_eq!(refused_exchange(text), Some("amq.default"));
    }
}
