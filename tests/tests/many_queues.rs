//! More subscriptions than a connection has channels: the host takes more connections, and loses none.

use std::time::Instant;

use warren::broker::rabbitmq::{Options, RabbitMq};
use warren::broker::{Broker, Confirmation, Message, Properties, QueueSpec, Settle};
use warren_tests::rabbitmq::Node;
use warren_tests::{GLANCE, PATIENCE, within};

/// So few that a dozen subscriptions fill a connection.
const CHANNELS: usize = 40;
const QUEUES: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_queues_are_consumed_on_several_connections() {
    let node = Node::start(&format!("channel_max = {CHANNELS}"));
    let options = Options { addresses: vec![node.address("/")], ..Options::default() };
    let broker = RabbitMq::connect(options).await.expect("it connects");
    let mut consumers = Vec::new();
    for number in 0..QUEUES {
        let name = format!("many.{number}");
        let spec = QueueSpec { name: name.clone(), ..QueueSpec::default() };
        within("a declaration", broker.declare_queue(&spec)).await.expect("declared");
        consumers.push(within("a subscription", broker.consume(&name, 10)).await.expect("consumed"));
    }
    // A new prefetch takes a second channel for a while.
    for consumer in &consumers {
        consumer.subscription.set_prefetch(20);
    }
    for round in 0..4 {
        if round == 3 {
            // All connections break: every queue finds a place again.
            node.close_all_connections();
            let start = Instant::now();
            while broker.connects() < 4 || !broker.is_connected() {
                assert!(start.elapsed() < PATIENCE, "{} connects", broker.connects());
                tokio::time::sleep(GLANCE).await;
            }
        }
        for (number, consumer) in consumers.iter_mut().enumerate() {
            let message = Message {
                exchange: String::new(),
                routing_key: format!("many.{number}"),
                properties: Properties { persistent: true, ..Properties::default() },
                body: format!("{round} {number}").into(),
            };
            let confirmed = within("a confirm", broker.publish(message, true)).await;
            assert_eq!(confirmed.expect("the broker is there"), Confirmation::Confirmed);
            // What was in hand when a channel gave way to another may come again before it.
            loop {
                let delivery = within("a delivery", consumer.deliveries.recv()).await.expect("delivered");
                broker.settle(delivery.tag, Settle::Ack);
                if delivery.message.body[..] == *format!("{round} {number}").as_bytes() {
                    break;
                }
            }
        }
    }
    let connects = broker.connects();
    let connections = node.ctl(&["list_connections", "channels", "--no-table-headers"]);
    let channels: Vec<usize> = connections.lines().filter_map(|l| l.trim().parse().ok()).collect();
    println!("channels of each connection: {channels:?}");
    assert!(channels.len() >= 6 && channels.iter().all(|&c| c <= CHANNELS), "{channels:?}");
    assert_eq!(connects, 4, "no connection was given up but by the broker");
    // Nothing is left in hand, wherever it was acknowledged.
    let start = Instant::now();
    for number in 0..QUEUES {
        loop {
            let depth = broker.depth(&format!("many.{number}")).await.expect("it is there");
            if (depth.ready, depth.unacked) == (0, 0) {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "queue {number}: {depth:?}");
            tokio::time::sleep(GLANCE).await;
        }
    }
}
