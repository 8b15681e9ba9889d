//! Message properties and headers, between the contract's form and AMQP 0-9-1's.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable, LongString, ShortString};

use super::filter::content_header;
use crate::broker::{HeaderValue, Properties};

/// Headers that RabbitMQ writes and believes. A message that is published again must not carry
/// them along: a stale `x-delivery-count` would be counted, a stale `x-death` looks like a circle.
const BROKERS_OWN: &[&str] = &[
    "x-delivery-count",
    "x-acquired-count",
    "x-death",
    "x-first-death-reason",
    "x-first-death-queue",
    "x-first-death-exchange",
    "x-last-death-reason",
    "x-last-death-queue",
    "x-last-death-exchange",
];

/// A short string, or nothing where AMQP cannot carry it (255 bytes is its limit).
pub(super) fn short(text: &str) -> Option<ShortString> {
    ShortString::try_new(text).ok()
}

/// The properties as they go out. `token` is a mark for telling returned messages apart; it goes
/// into `cluster-id`, which AMQP reserves and nobody reads. An id that is too long for AMQP is left
/// out: what it says stands in the headers `job`, `attempt` and `sequence` as well.
pub(super) fn outgoing(properties: &Properties, token: Option<&str>) -> BasicProperties {
    let mut out = BasicProperties::default().with_delivery_mode(if properties.persistent { 2 } else { 1 });
    let text = |value: &Option<String>| value.as_deref().and_then(short);
    if let Some(value) = text(&properties.content_type) {
        out = out.with_content_type(value);
    }
    if let Some(value) = text(&properties.correlation_id) {
        out = out.with_correlation_id(value);
    }
    if let Some(value) = text(&properties.reply_to) {
        out = out.with_reply_to(value);
    }
    if let Some(value) = text(&properties.message_id) {
        out = out.with_message_id(value);
    }
    if let Some(value) = text(&properties.kind) {
        out = out.with_type(value);
    }
    if let Some(ttl) = properties.expiration {
        // RabbitMQ refuses more than this with an error that would close the channel.
        let ms = ttl.as_millis().min(u128::from(u32::MAX));
        out = out.with_expiration(ms.to_string().into());
    }
    if let Some(token) = token.and_then(short) {
        out = out.with_cluster_id(token);
    }
    if let Some(value) = text(&properties.content_encoding) {
        out = out.with_content_encoding(value);
    }
    if let Some(value) = properties.priority {
        out = out.with_priority(value);
    }
    if let Some(value) = properties.timestamp {
        out = out.with_timestamp(value);
    }
    if let Some(value) = text(&properties.app_id) {
        out = out.with_app_id(value);
    }
    let kept = properties.headers.iter().filter(|(name, _)| !BROKERS_OWN.contains(&name.as_str()));
    let table = table(kept);
    if !table.inner().is_empty() {
        out = out.with_headers(table);
    }
    out
}

fn table<'a>(entries: impl Iterator<Item = &'a (String, HeaderValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        if let (Some(name), Some(value)) = (short(name), field(value)) {
            table.insert(name, value);
        }
    }
    table
}

fn field(value: &HeaderValue) -> Option<AMQPValue> {
    Some(match value {
        HeaderValue::Bool(value) => AMQPValue::Boolean(*value),
        HeaderValue::Int(value) => AMQPValue::LongLongInt(*value),
        HeaderValue::Text(value) => AMQPValue::LongString(LongString::from(value.as_bytes())),
        HeaderValue::Float(value) => AMQPValue::Float(*value),
        HeaderValue::Double(value) => AMQPValue::Double(*value),
        HeaderValue::Decimal(scale, value) => {
            AMQPValue::DecimalValue(DecimalValue { scale: *scale, value: *value })
        }
        HeaderValue::Timestamp(value) => AMQPValue::Timestamp(*value),
        HeaderValue::Bytes(value) => AMQPValue::ByteArray(ByteArray::from(value.as_slice())),
        HeaderValue::List(values) => {
            let mut list = FieldArray::default();
            values.iter().filter_map(field).for_each(|value| list.push(value));
            AMQPValue::FieldArray(list)
        }
        HeaderValue::Table(entries) => AMQPValue::FieldTable(table(entries.iter())),
        HeaderValue::Void => AMQPValue::Void,
        HeaderValue::TooDeep => return None,
    })
}

/// The properties as they came in. Headers are in the order of their names: the client library
/// keeps no other.
pub(super) fn incoming(properties: &BasicProperties) -> Properties {
    let text = |value: &Option<ShortString>| value.as_ref().map(|v| v.as_str().to_owned());
    let headers = properties.headers().as_ref().map(|table| {
        table.inner().iter().map(|(name, value)| (name.as_str().to_owned(), header(value, DEEPEST))).collect()
    });
    Properties {
        content_type: text(properties.content_type()),
        correlation_id: text(properties.correlation_id()),
        reply_to: text(properties.reply_to()),
        message_id: text(properties.message_id()),
        kind: text(properties.kind()),
        expiration: properties
            .expiration()
            .as_ref()
            .and_then(|ms| ms.as_str().parse().ok())
            .map(Duration::from_millis),
        persistent: *properties.delivery_mode() == Some(2),
        content_encoding: text(properties.content_encoding()),
        priority: *properties.priority(),
        timestamp: *properties.timestamp(),
        app_id: text(properties.app_id()),
        headers: headers.unwrap_or_default(),
    }
}

/// What arrives of the properties in a content header's payload: looked over, and then read by the
/// client library. None where the payload is refused before that. For fuzzing.
///
/// # Errors
/// The client library refuses what was let through: that ends its connection.
pub fn arrived(payload: &mut [u8]) -> Result<Option<Properties>, &'static str> {
    if content_header(payload).is_none() {
        return Ok(None);
    }
    let properties = payload.get(12..).unwrap_or_default();
    match lapin::protocol::basic::parse_properties(properties) {
        Ok((_, properties)) => Ok(Some(incoming(&properties))),
        Err(_) => Err("the client library refuses what the filter lets through"),
    }
}

/// Tables and arrays within each other that are kept.
const DEEPEST: usize = 16;

fn header(value: &AMQPValue, deepest: usize) -> HeaderValue {
    match value {
        AMQPValue::Boolean(v) => HeaderValue::Bool(*v),
        AMQPValue::ShortShortInt(v) => HeaderValue::Int(i64::from(*v)),
        AMQPValue::ShortShortUInt(v) => HeaderValue::Int(i64::from(*v)),
        AMQPValue::ShortInt(v) => HeaderValue::Int(i64::from(*v)),
        AMQPValue::ShortUInt(v) => HeaderValue::Int(i64::from(*v)),
        AMQPValue::LongInt(v) => HeaderValue::Int(i64::from(*v)),
        AMQPValue::LongUInt(v) => HeaderValue::Int(i64::from(*v)),
        AMQPValue::LongLongInt(v) => HeaderValue::Int(*v),
        AMQPValue::ShortString(v) => HeaderValue::Text(v.as_str().to_owned()),
        AMQPValue::LongString(v) => match std::str::from_utf8(v.as_bytes()) {
            Ok(text) => HeaderValue::Text(text.to_owned()),
            Err(_) => HeaderValue::Bytes(v.as_bytes().to_vec()),
        },
        AMQPValue::Float(v) => HeaderValue::Float(*v),
        AMQPValue::Double(v) => HeaderValue::Double(*v),
        AMQPValue::DecimalValue(v) => HeaderValue::Decimal(v.scale, v.value),
        AMQPValue::Timestamp(v) => HeaderValue::Timestamp(*v),
        AMQPValue::ByteArray(v) => HeaderValue::Bytes(v.as_slice().to_vec()),
        AMQPValue::Void => HeaderValue::Void,
        AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) if deepest == 0 => HeaderValue::TooDeep,
        AMQPValue::FieldArray(all) => {
            HeaderValue::List(all.as_slice().iter().map(|v| header(v, deepest - 1)).collect())
        }
        AMQPValue::FieldTable(all) => HeaderValue::Table(
            all.inner().iter().map(|(n, v)| (n.as_str().to_owned(), header(v, deepest - 1))).collect(),
        ),
    }
}

/// Earlier deliveries that were not acknowledged. The header counts only on a message that is
/// marked as delivered before: on a first delivery it is what the publisher wrote. Classic queues
/// have the mark alone.
pub(super) fn delivery_count(properties: &Properties, redelivered: bool) -> u32 {
    if !redelivered {
        return 0;
    }
    match properties.int("x-delivery-count") {
        Some(count) => u32::try_from(count.max(0)).unwrap_or(u32::MAX),
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn all_integers_are_widened_and_the_rest_is_named() {
        for (value, expected) in [
            (AMQPValue::ShortShortInt(-1), HeaderValue::Int(-1)),
            (AMQPValue::ShortShortUInt(255), HeaderValue::Int(255)),
            (AMQPValue::ShortInt(-2), HeaderValue::Int(-2)),
            (AMQPValue::ShortUInt(65535), HeaderValue::Int(65535)),
            (AMQPValue::LongInt(-3), HeaderValue::Int(-3)),
            (AMQPValue::LongUInt(u32::MAX), HeaderValue::Int(i64::from(u32::MAX))),
            (AMQPValue::LongLongInt(i64::MIN), HeaderValue::Int(i64::MIN)),
            (AMQPValue::LongString(vec![0xff].into()), HeaderValue::Bytes(vec![0xff])),
            (AMQPValue::Double(1.0), HeaderValue::Double(1.0)),
            (AMQPValue::FieldTable(FieldTable::default()), HeaderValue::Table(Vec::new())),
        ] {
            assert_eq!(header(&value, DEEPEST), expected);
        }
    }

    #[test]
    fn what_the_contract_does_not_name_is_kept() {
        let list = HeaderValue::List(vec![HeaderValue::Void, HeaderValue::Decimal(2, 314)]);
        let inner = vec![("list".to_owned(), list), ("t".to_owned(), HeaderValue::Timestamp(7))];
        let properties = Properties {
            content_encoding: Some("utf-8".to_owned()),
            priority: Some(3),
            timestamp: Some(1_700_000_000),
            app_id: Some("shop".to_owned()),
            headers: vec![
                ("d".to_owned(), HeaderValue::Double(0.5)),
                ("f".to_owned(), HeaderValue::Float(0.25)),
                ("raw".to_owned(), HeaderValue::Bytes(vec![0, 255])),
                ("table".to_owned(), HeaderValue::Table(inner)),
            ],
            ..Properties::default()
        };
        assert_eq!(incoming(&outgoing(&properties, None)), properties);
    }

    #[test]
    fn tables_without_end_are_not_followed() {
        let mut deep = AMQPValue::FieldTable(FieldTable::default());
        for _ in 0..DEEPEST + 5 {
            let mut table = FieldTable::default();
            table.insert("k".into(), deep);
            deep = AMQPValue::FieldTable(table);
        }
        let mut value = &header(&deep, DEEPEST);
        let mut depth = 0;
        while let HeaderValue::Table(entries) = value {
            value = &entries[0].1;
            depth += 1;
        }
        assert_eq!((depth, value), (DEEPEST, &HeaderValue::TooDeep));
        assert_eq!(field(value), None);
    }

    #[test]
    fn what_amqp_cannot_carry_is_left_out() {
        let long = "x".repeat(256);
        let properties = Properties {
            message_id: Some(long.clone()),
            correlation_id: Some("x".repeat(255)),
            expiration: Some(Duration::MAX),
            headers: vec![
                (long, HeaderValue::Bool(true)),
                ("x-delivery-count".to_owned(), HeaderValue::Int(3)),
                ("kept".to_owned(), HeaderValue::Int(3)),
            ],
            ..Properties::default()
        };
        let out = outgoing(&properties, None);
        assert_eq!(*out.message_id(), None);
        assert_eq!(out.correlation_id().as_ref().unwrap().as_str().len(), 255);
        assert_eq!(out.expiration().as_ref().unwrap().as_str(), "4294967295");
        let names: Vec<&str> =
            out.headers().as_ref().unwrap().inner().keys().map(ShortString::as_str).collect();
        assert_eq!(names, ["kept"]);
    }

    #[test]
    fn a_forged_count_is_not_believed() {
        let mut properties = Properties::default();
        properties.set("x-delivery-count", HeaderValue::Int(7));
        assert_eq!(delivery_count(&properties, false), 0);
        assert_eq!(delivery_count(&properties, true), 7);
        assert_eq!(delivery_count(&Properties::default(), true), 1);
    }
}
