//! The embedded broker under the contract's tests, and what is its own.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::broker::contract::CASES;
use crate::broker::{Confirmation, Delivery, HeaderValue, Properties};

impl Embedded {
    /// Deletes a queue as its owner would: what a lost connection does to it.
    pub(in crate::broker) fn shut(&self, queue: &str) {
        self.shared.lock().remove_queue(queue);
    }
}

fn spec(name: &str) -> QueueSpec {
    QueueSpec { name: name.to_owned(), ..QueueSpec::default() }
}

fn message(key: &str, body: &str) -> Message {
    Message {
        exchange: String::new(),
        routing_key: key.to_owned(),
        properties: Properties::default(),
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

async fn take(consumer: &mut Consumer) -> Delivery {
    tokio::time::timeout(Duration::from_secs(10), consumer.deliveries.recv()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_contract() {
    // Each for itself, then all on one broker at once.
    for (name, case) in CASES {
        println!("{name}");
        case(&Embedded::new()).await;
    }
    let broker = Arc::new(Embedded::new());
    let mut running = tokio::task::JoinSet::new();
    for (_, case) in CASES {
        let broker = Arc::clone(&broker);
        running.spawn(async move { case(&*broker).await });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn a_connection_takes_its_exclusive_queues_and_consumers_along() {
    let broker = Embedded::new();
    broker.declare_queue(&spec("shared")).await.unwrap();
    let client = broker.connect();
    let exclusive = QueueSpec { exclusive: true, ..spec("replies") };
    client.declare_queue(&exclusive).await.unwrap();
    client.declare_queue(&exclusive).await.unwrap();
    let mut shared = client.consume("shared", 1).await.unwrap();

    // Others may publish to it, and nothing else.
    assert_eq!(broker.publish(message("replies", "x"), true).await, Ok(Confirmation::Confirmed));
    for error in [
        broker.consume("replies", 1).await.err().unwrap(),
        broker.declare_queue(&exclusive).await.unwrap_err(),
        broker.delete_queue("replies").await.unwrap_err(),
    ] {
        assert!(matches!(error, BrokerError::Conflict { argument: "exclusive", .. }), "{error}");
    }
    broker.publish(message("shared", "job"), true).await.unwrap();
    let held = take(&mut shared).await;

    drop(client);
    assert!(shared.deliveries.recv().await.is_none());
    assert_eq!(broker.publish(message("replies", "x"), true).await, Ok(Confirmation::Returned));
    assert_eq!(broker.depth("shared").await, Ok(QueueDepth { ready: 1, unacked: 0 }));
    broker.settle(held.tag, Settle::Ack);
    let mut again = broker.consume("shared", 1).await.unwrap();
    assert_eq!(take(&mut again).await.delivery_count, 1);
}

#[tokio::test]
async fn a_return_unprocessed_is_not_counted() {
    let broker = Embedded::new();
    broker.declare_queue(&QueueSpec { delivery_limit: Some(1), ..spec("q") }).await.unwrap();
    broker.publish(message("q", "x"), true).await.unwrap();
    let mut consumer = broker.consume("q", 1).await.unwrap();
    for _ in 0..10 {
        let delivery = take(&mut consumer).await;
        assert_eq!(delivery.delivery_count, 0);
        broker.settle(delivery.tag, Settle::Nack);
    }
}

#[tokio::test]
async fn expiry_in_a_circle_ends() {
    let broker = Embedded::new();
    let to = |queue: &str| Some((String::new(), Some(queue.to_owned())));
    let message_ttl = Some(Duration::ZERO);
    broker.declare_queue(&QueueSpec { message_ttl, dead_letter: to("b"), ..spec("a") }).await.unwrap();
    broker.declare_queue(&QueueSpec { message_ttl, dead_letter: to("a"), ..spec("b") }).await.unwrap();
    broker.publish(message("a", "x"), true).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    for queue in ["a", "b"] {
        assert_eq!(broker.depth(queue).await, Ok(QueueDepth::default()), "{queue}");
    }
    // No time to live at all still lets a waiting consumer have the message.
    let mut consumer = broker.consume("a", 1).await.unwrap();
    broker.publish(message("a", "y"), true).await.unwrap();
    assert_eq!(&take(&mut consumer).await.message.body[..], b"y");
}

#[tokio::test]
async fn dead_letters_keep_the_first_cause() {
    let broker = Embedded::new();
    let to = |queue: &str| Some((String::new(), Some(queue.to_owned())));
    broker.declare_queue(&spec("end")).await.unwrap();
    broker
        .declare_queue(&QueueSpec { delivery_limit: Some(0), dead_letter: to("end"), ..spec("b") })
        .await
        .unwrap();
    let message_ttl = Some(Duration::from_millis(20));
    broker.declare_queue(&QueueSpec { message_ttl, dead_letter: to("b"), ..spec("a") }).await.unwrap();
    broker.publish(message("a", "x"), true).await.unwrap();
    let mut b = broker.consume("b", 1).await.unwrap();
    let delivery = take(&mut b).await;
    broker.settle(delivery.tag, Settle::Reject);
    let letter = take(&mut broker.consume("end", 1).await.unwrap()).await;
    let header = |name| letter.message.properties.header(name).cloned();
    assert_eq!(header("x-first-death-reason"), Some(HeaderValue::Text("expired".to_owned())));
    assert_eq!(header("x-first-death-queue"), Some(HeaderValue::Text("a".to_owned())));
}

#[tokio::test]
async fn a_dead_consumers_messages_are_buried_in_order() {
    let broker = Embedded::new();
    broker.declare_queue(&spec("end")).await.unwrap();
    let dead_letter = Some((String::new(), Some("end".to_owned())));
    broker.declare_queue(&QueueSpec { delivery_limit: Some(0), dead_letter, ..spec("q") }).await.unwrap();
    for i in 0..20 {
        broker.publish(message("q", &i.to_string()), true).await.unwrap();
    }
    drop(broker.consume("q", 20).await.unwrap());
    let mut end = broker.consume("end", 20).await.unwrap();
    for i in 0..20 {
        assert_eq!(take(&mut end).await.message.body, i.to_string());
    }
}

#[tokio::test]
async fn a_consumer_that_stopped_receiving_is_passed_over() {
    let broker = Embedded::new();
    broker.declare_queue(&spec("q")).await.unwrap();
    let gone = broker.consume("q", 5).await.unwrap();
    drop(gone.deliveries);
    let mut other = broker.consume("q", 5).await.unwrap();
    for _ in 0..4 {
        broker.publish(message("q", "x"), true).await.unwrap();
        assert_eq!(take(&mut other).await.delivery_count, 0);
    }
}

/// Publishers, consumers that settle in all ways, consumers that die, on several threads at once:
/// every message is acknowledged exactly once in the end, and nothing is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_under_concurrent_use() {
    const PUBLISHERS: usize = 4;
    const EACH: usize = 2000;
    let broker = Arc::new(Embedded::new());
    broker.declare_queue(&spec("q")).await.unwrap();
    let mut publishers = tokio::task::JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let broker = Arc::clone(&broker);
        publishers.spawn(async move {
            for i in 0..EACH {
                let body = format!("{publisher}:{i}");
                assert_eq!(broker.publish(message("q", &body), true).await, Ok(Confirmation::Confirmed));
                if i % 64 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    let acked = Arc::new(Mutex::new(std::collections::HashSet::new()));
    let mut consumers = tokio::task::JoinSet::new();
    for who in 0..4usize {
        let (broker, acked) = (Arc::clone(&broker), Arc::clone(&acked));
        consumers.spawn(async move {
            let mut turn = who;
            while acked.lock().unwrap().len() < PUBLISHERS * EACH {
                let mut consumer = broker.consume("q", 16).await.unwrap();
                // Dies with what it holds after a hundred deliveries.
                for _ in 0..100 {
                    let wait = tokio::time::timeout(Duration::from_millis(20), consumer.deliveries.recv());
                    let Ok(Some(delivery)) = wait.await else { break };
                    turn += 1;
                    match turn % 7 {
                        0 => broker.settle(delivery.tag, Settle::Nack),
                        1 => broker.settle(delivery.tag, Settle::Reject),
                        _ => {
                            let fresh = acked.lock().unwrap().insert(delivery.message.body.clone());
                            assert!(fresh, "{:?} was acknowledged before", delivery.message.body);
                            broker.settle(delivery.tag, Settle::Ack);
                        }
                    }
                }
            }
        });
    }
    let all = async {
        while let Some(done) = publishers.join_next().await {
            done.unwrap();
        }
        while let Some(done) = consumers.join_next().await {
            done.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
    assert_eq!(broker.depth("q").await, Ok(QueueDepth::default()));
}

#[tokio::test]
async fn the_expiring_task_ends_with_the_broker() {
    let broker = Embedded::new();
    let shared = Arc::downgrade(&broker.shared);
    broker
        .declare_queue(&QueueSpec { message_ttl: Some(Duration::from_secs(3600)), ..spec("q") })
        .await
        .unwrap();
    broker.publish(message("q", "x"), true).await.unwrap();
    drop(broker);
    assert!(shared.upgrade().is_none());
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    for _ in 0..100 {
        if alive() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{} tasks are still there", alive());
}
