//! The properties of an AMQP message, as the server sends them: what any publisher chose.

use warren::broker::HeaderValue;
use warren::broker::rabbitmq::arrived;

use crate::memory;

/// The payload of a content header.
pub fn properties(bytes: &[u8]) {
    let mut payload = bytes.to_vec();
    let found = memory::within((64 << 10) + 256 * bytes.len(), || arrived(&mut payload));
    assert_eq!(payload.len(), bytes.len(), "only bytes change");
    // An error here would end the connection, and again at each delivery.
    let Some(properties) = found.expect("what is let through can be read") else { return };
    for (_, value) in &properties.headers {
        assert!(depth(value) <= 17, "nested without end");
    }
    // What has been looked over is let through as it is.
    let once = payload.clone();
    let again = arrived(&mut payload).expect("the same");
    assert_eq!(payload, once);
    // By their texts: a number that is none is not equal to itself.
    assert_eq!(again.map(|p| format!("{p:?}")), Some(format!("{properties:?}")));
}

fn depth(value: &HeaderValue) -> usize {
    match value {
        HeaderValue::List(all) => 1 + all.iter().map(depth).max().unwrap_or(0),
        HeaderValue::Table(all) => 1 + all.iter().map(|(_, v)| depth(v)).max().unwrap_or(0),
        _ => 0,
    }
}
