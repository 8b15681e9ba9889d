//! RabbitMQ under the contract's tests, and under the faults that are its own. Each test has a vhost
//! of the binary's one node; those that hurt the node have a node of their own.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../../../../../tests/src/rabbitmq.rs"]
mod node;

mod faults;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::*;
use crate::broker::contract::CASES;
use crate::broker::{Confirmation, Delivery, HeaderValue, Properties};

pub(super) async fn connect(address: &str) -> Arc<RabbitMq> {
    let options = Options {
        addresses: vec![address.to_owned()],
        operation_timeout: Duration::from_secs(20),
        startup_timeout: Duration::from_secs(60),
        ..Options::default()
    };
    Arc::new(RabbitMq::connect(options).await.unwrap())
}

pub(super) fn spec(name: &str) -> QueueSpec {
    QueueSpec { name: name.to_owned(), ..QueueSpec::default() }
}

pub(super) fn message(key: &str, body: impl Into<Bytes>) -> Message {
    Message {
        exchange: String::new(),
        routing_key: key.to_owned(),
        properties: Properties { persistent: true, ..Properties::default() },
        body: body.into(),
    }
}

pub(super) async fn take(consumer: &mut Consumer) -> Delivery {
    tokio::time::timeout(Duration::from_secs(30), consumer.deliveries.recv()).await.unwrap().unwrap()
}

/// Waits until it holds.
pub(super) async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A vhost of the shared node. The node starts at the first call, which blocks.
pub(super) async fn vhost(name: &'static str) -> String {
    tokio::task::spawn_blocking(move || node::shared().vhost(name)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_contract() {
    let broker = connect(&vhost("contract").await).await;
    for (name, case) in CASES {
        let start = Instant::now();
        case(&*broker).await;
        println!("{name} {:?}", start.elapsed());
    }
    assert_eq!(broker.connects(), 2, "no case may cost a connection");
    assert_eq!(broker.version().as_deref().map(|v| v.split('.').count()), Some(3), "{:?}", broker.version());
}

#[tokio::test]
async fn what_is_wrong_with_an_address_is_said() {
    let address = vhost("addresses").await;
    let quick = |address: &str| Options {
        addresses: vec![address.to_owned()],
        startup_timeout: Duration::from_secs(2),
        ..Options::default()
    };
    let error = RabbitMq::connect(quick("http://u:secret@host")).await.err().unwrap();
    assert!(matches!(error, ConnectError::Address { .. }), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    let error = RabbitMq::connect(quick(&address.replace("guest:guest", "guest:wrong"))).await.err().unwrap();
    assert!(matches!(error, ConnectError::Refused(_)), "{error}");
    let error = RabbitMq::connect(quick(&address.replace("addresses", "no-such-vhost"))).await.err().unwrap();
    assert!(matches!(error, ConnectError::Refused(_)), "{error}");
    let error = RabbitMq::connect(quick("amqp://guest:guest@127.0.0.1:1/%2f")).await.err().unwrap();
    assert!(matches!(error, ConnectError::Unreachable(_)), "{error}");
    // The second address serves when the first does not.
    let options = Options { addresses: vec!["amqp://127.0.0.1:1".to_owned(), address], ..Options::default() };
    RabbitMq::connect(options).await.unwrap();
}

/// Many tasks at once, routable and not, with and without ids, and one id many times: each publish
/// gets its own fate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_publish_gets_its_own_fate() {
    let broker = connect(&vhost("fates").await).await;
    broker.declare_queue(&spec("there")).await.unwrap();
    broker.declare_exchange(&ExchangeSpec::new("own", crate::broker::ExchangeKind::Direct)).await.unwrap();
    // Mixed, and without what takes the broker longest: then it confirms many with one frame, and
    // lapin lets those confirms take returned messages in no order.
    for kinds in [4, 2] {
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..8u32 {
            let broker = Arc::clone(&broker);
            tasks.spawn(async move {
                let mut confirms = Vec::new();
                for i in 0..500u32 {
                    let (key, mandatory, expected) = match (task * 31 + i * 7) % kinds {
                        0 => ("nowhere", true, Confirmation::Returned),
                        1 => ("nowhere", false, Confirmation::Confirmed),
                        _ => ("there", true, Confirmation::Confirmed),
                    };
                    let mut message = message(key, format!("{task}:{i}"));
                    message.properties.message_id = match i % 3 {
                        0 => None,
                        1 => Some("the same".to_owned()),
                        _ => Some(format!("{task}:{i}")),
                    };
                    confirms.push((expected, broker.publish(message, mandatory)));
                    if i % 50 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                for (i, (expected, confirm)) in confirms.into_iter().enumerate() {
                    assert_eq!(confirm.await, Ok(expected), "{task}:{i}");
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    }
    assert_eq!(broker.depth("there").await.unwrap().ready, 8 * 500 / 2);
}

/// A publish to an exchange that is not there costs only its own lane: what others have on their way
/// is confirmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_exchange_takes_nothing_else_with_it() {
    let broker = connect(&vhost("lanes").await).await;
    broker.declare_queue(&spec("q")).await.unwrap();
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for i in 0..300 {
        good.push(broker.publish(message("q", i.to_string()), true));
        if i % 10 == 0 {
            bad.push(broker.publish(Message { exchange: "gone".to_owned(), ..message("k", "x") }, true));
        }
    }
    for confirm in good {
        assert_eq!(confirm.await, Ok(Confirmation::Confirmed));
    }
    for confirm in bad {
        let error = confirm.await.unwrap_err();
        assert!(matches!(&error, BrokerError::NotFound { name, .. } if name == "gone"), "{error}");
    }
    assert_eq!(broker.connects(), 2);
}

#[tokio::test]
async fn delivery_counts_after_rejects_and_death() {
    let broker = connect(&vhost("counts").await).await;
    broker.declare_queue(&spec("q")).await.unwrap();
    let mut forged = message("q", "x");
    forged.properties.set("x-delivery-count", HeaderValue::Int(9));
    broker.publish(forged, true).await.unwrap();
    let mut consumer = broker.consume("q", 1).await.unwrap();
    for count in 0..3 {
        let delivery = take(&mut consumer).await;
        assert_eq!(delivery.delivery_count, count);
        broker.settle(delivery.tag, Settle::Reject);
    }
    assert_eq!(take(&mut consumer).await.delivery_count, 3);
    drop(consumer);
    let mut consumer = broker.consume("q", 1).await.unwrap();
    assert_eq!(take(&mut consumer).await.delivery_count, 4);
}

/// Acknowledged in any order and in runs, everything goes, and nothing that is still open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledging_in_runs_covers_what_is_finished_only() {
    let broker = connect(&vhost("acks").await).await;
    broker.declare_queue(&spec("q")).await.unwrap();
    for i in 0..1000 {
        drop(broker.publish(message("q", i.to_string()), true));
    }
    let mut consumer = broker.consume("q", 100).await.unwrap();
    let mut open: Vec<Delivery> = Vec::new();
    let mut kept = Vec::new();
    for i in 0..1000u64 {
        open.push(take(&mut consumer).await);
        // Every fortieth stays open, and a window of ten is settled in a mixed order.
        if i % 40 == 13 {
            kept.push(open.pop().unwrap());
        }
        if open.len() >= 10 {
            open.sort_by_key(|d| (d.tag.number * 7919) % 13);
            for delivery in open.drain(..) {
                broker.settle(delivery.tag, Settle::Ack);
                broker.settle(delivery.tag, Settle::Reject);
            }
        }
    }
    for delivery in open {
        broker.settle(delivery.tag, Settle::Ack);
    }
    until("only the kept ones are open", async || {
        broker.depth("q").await.unwrap() == QueueDepth { ready: 0, unacked: kept.len() as u64 }
    })
    .await;
    // With something open it is closed at once, and the broker may forget the latest.
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop(consumer);
    until("the kept ones are back", async || broker.depth("q").await.unwrap().ready == kept.len() as u64)
        .await;
    assert_eq!(broker.connects(), 2);
}

/// Properties that are no text and headers nested without end are another client's to send and must
/// not harm this one. Sent over a socket by hand, for no client library writes them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_properties_do_no_harm() {
    let broker = connect(&vhost("hostile").await).await;
    broker.declare_queue(&spec("q")).await.unwrap();
    let mut consumer = broker.consume("q", 10).await.unwrap();
    let mut nested: Vec<u8> = Vec::new();
    for _ in 0..9_000 {
        nested = [&b"\x01kF"[..], &(nested.len() as u32).to_be_bytes(), &nested].concat();
    }
    tokio::task::spawn_blocking(move || {
        for (flags, properties) in [
            (1u16 << 10, b"\x03a\xff\xfe".to_vec()),
            (1 << 13, [&(nested.len() as u32).to_be_bytes()[..], &nested].concat()),
            (1 << 13, b"\x00\x00\x00\x04\x02\xc3(V".to_vec()),
        ] {
            faults::publish_raw(node::shared().port(), "hostile", "q", flags, &properties);
        }
    })
    .await
    .unwrap();
    let first = take(&mut consumer).await;
    assert_eq!(first.message.properties.correlation_id.as_deref(), Some("a??"));
    let second = take(&mut consumer).await;
    assert_eq!(second.message.properties.header("k").map(HeaderValue::kind), Some("table"));
    let third = take(&mut consumer).await;
    assert_eq!(third.message.properties.headers, [("?(".to_owned(), HeaderValue::Void)]);
    for delivery in [first, second, third] {
        broker.settle(delivery.tag, Settle::Ack);
    }
    until("all are settled", async || broker.depth("q").await.unwrap() == QueueDepth::default()).await;
    assert_eq!(broker.connects(), 2);
}
