//! What every broker behind the trait must do, as tests against the trait. Each gets a broker and a
//! prefix for names, so that one broker can serve all of them; a test cleans up nothing.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    BoxFuture, Broker, BrokerError, Confirmation, Consumer, Delivery, ExchangeKind, ExchangeSpec,
    HeaderValue, Message, Properties, QueueDepth, QueueSpec, Settle,
};

/// A test: its name, which also prefixes the queues it declares, and itself.
pub(crate) type Case = (&'static str, fn(&dyn Broker) -> BoxFuture<'_, ()>);

/// All of them.
pub(crate) const CASES: &[Case] = &[
    ("order", |b| Box::pin(order(b))),
    ("everything_is_carried", |b| Box::pin(everything_is_carried(b))),
    ("routing", |b| Box::pin(routing(b))),
    ("mandatory", |b| Box::pin(mandatory(b))),
    ("alternate", |b| Box::pin(alternate(b))),
    ("prefetch", |b| Box::pin(prefetch(b))),
    ("another_prefetch", |b| Box::pin(another_prefetch(b))),
    ("turns", |b| Box::pin(turns(b))),
    ("settling", |b| Box::pin(settling(b))),
    ("dead_consumer", |b| Box::pin(dead_consumer(b))),
    ("delivery_limit", |b| Box::pin(delivery_limit(b))),
    ("queue_ttl", |b| Box::pin(queue_ttl(b))),
    ("message_ttl", |b| Box::pin(message_ttl(b))),
    ("both_ttls", |b| Box::pin(both_ttls(b))),
    ("retry_tiers", |b| Box::pin(retry_tiers(b))),
    ("max_length", |b| Box::pin(max_length(b))),
    ("conflicts", |b| Box::pin(conflicts(b))),
    ("deleted_queue", |b| Box::pin(deleted_queue(b))),
    ("missing", |b| Box::pin(missing(b))),
];

fn spec(name: &str) -> QueueSpec {
    QueueSpec { name: name.to_owned(), ..QueueSpec::default() }
}

fn message(exchange: &str, routing_key: &str, body: impl Into<Bytes>) -> Message {
    let properties = Properties { persistent: true, ..Properties::default() };
    Message {
        exchange: exchange.to_owned(),
        routing_key: routing_key.to_owned(),
        properties,
        body: body.into(),
    }
}

/// Publishes to the queue `name` and waits for the confirm.
async fn put(broker: &dyn Broker, name: &str, body: impl Into<Bytes>) -> Confirmation {
    within(broker.publish(message("", name, body), true)).await.unwrap()
}

/// Nothing here may take long.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.unwrap()
}

async fn take(consumer: &mut Consumer) -> Delivery {
    within(consumer.deliveries.recv()).await.unwrap()
}

fn text(delivery: &Delivery) -> &str {
    std::str::from_utf8(&delivery.message.body).unwrap()
}

/// No delivery comes for a while.
async fn nothing(consumer: &mut Consumer) {
    let wait = tokio::time::timeout(Duration::from_millis(150), consumer.deliveries.recv());
    assert!(wait.await.is_err(), "a delivery, or the end, where none should be");
}

/// Waits until the queue holds that much: settling is not awaited.
async fn holds(broker: &dyn Broker, queue: &str, ready: u64, unacked: u64) {
    let wanted = QueueDepth { ready, unacked };
    let start = Instant::now();
    loop {
        let depth = broker.depth(queue).await.unwrap();
        if depth == wanted {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{queue} holds {depth:?}, not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn order(broker: &dyn Broker) {
    broker.declare_queue(&spec("order")).await.unwrap();
    let confirms: Vec<_> =
        (0..1000).map(|i| broker.publish(message("", "order", i.to_string()), true)).collect();
    for confirm in confirms {
        assert_eq!(within(confirm).await.unwrap(), Confirmation::Confirmed);
    }
    holds(broker, "order", 1000, 0).await;
    let mut consumer = broker.consume("order", 7).await.unwrap();
    for i in 0..1000 {
        let delivery = take(&mut consumer).await;
        assert_eq!((text(&delivery), delivery.delivery_count), (&*i.to_string(), 0));
        assert_eq!(&*delivery.queue, "order");
        broker.settle(delivery.tag, Settle::Ack);
    }
    holds(broker, "order", 0, 0).await;
}

async fn everything_is_carried(broker: &dyn Broker) {
    broker.declare_queue(&spec("carried")).await.unwrap();
    let mut sent = message("", "carried", vec![0u8, 255, 1]);
    sent.properties = Properties {
        content_type: Some("application/json".to_owned()),
        correlation_id: Some("j1".to_owned()),
        reply_to: Some("exchange/key".to_owned()),
        message_id: Some("j1:1:0".to_owned()),
        kind: Some("status".to_owned()),
        expiration: Some(Duration::from_secs(3600)),
        persistent: true,
        content_encoding: Some("utf-8".to_owned()),
        priority: Some(0),
        timestamp: Some(1_700_000_000),
        app_id: Some("a shop".to_owned()),
        headers: vec![
            // By name: a client library may keep no other order.
            ("attempt".to_owned(), HeaderValue::Int(i64::MAX)),
            ("final".to_owned(), HeaderValue::Bool(true)),
            ("scores".to_owned(), HeaderValue::List(vec![HeaderValue::Double(0.5), HeaderValue::Void])),
            ("table".to_owned(), HeaderValue::Table(vec![("t".to_owned(), HeaderValue::Timestamp(7))])),
            ("tenant".to_owned(), HeaderValue::Text("ü".to_owned())),
        ],
    };
    assert_eq!(within(broker.publish(sent.clone(), true)).await.unwrap(), Confirmation::Confirmed);
    let mut consumer = broker.consume("carried", 1).await.unwrap();
    assert_eq!(take(&mut consumer).await.message, sent);
}

async fn routing(broker: &dyn Broker) {
    for (exchange, kind, bindings) in [
        (
            "routing.topic",
            ExchangeKind::Topic,
            &[("a", "m"), ("a", "m.*"), ("b", "m.urgent"), ("c", "#")][..],
        ),
        ("routing.direct", ExchangeKind::Direct, &[("a", "m"), ("b", "m.*"), ("c", "#")][..]),
        ("routing.fanout", ExchangeKind::Fanout, &[("a", ""), ("b", "x"), ("b", "y")][..]),
    ] {
        broker.declare_exchange(&ExchangeSpec::new(exchange, kind)).await.unwrap();
        broker.declare_exchange(&ExchangeSpec::new(exchange, kind)).await.unwrap();
        for queue in ["a", "b", "c"] {
            broker.declare_queue(&spec(&format!("{exchange}.{queue}"))).await.unwrap();
        }
        for (queue, key) in bindings {
            broker.bind(&format!("{exchange}.{queue}"), exchange, key).await.unwrap();
            broker.bind(&format!("{exchange}.{queue}"), exchange, key).await.unwrap();
        }
        for key in ["m", "m.urgent", "n.o"] {
            within(broker.publish(message(exchange, key, key), false)).await.unwrap();
        }
    }
    for (queue, expected) in [
        ("routing.topic.a", &["m", "m.urgent"][..]),
        ("routing.topic.b", &["m.urgent"]),
        ("routing.topic.c", &["m", "m.urgent", "n.o"]),
        ("routing.direct.a", &["m"]),
        ("routing.direct.b", &[]),
        ("routing.direct.c", &[]),
        ("routing.fanout.a", &["m", "m.urgent", "n.o"]),
        ("routing.fanout.b", &["m", "m.urgent", "n.o"]),
        ("routing.fanout.c", &[]),
    ] {
        holds(broker, queue, expected.len() as u64, 0).await;
        let mut consumer = broker.consume(queue, 10).await.unwrap();
        for key in expected {
            let delivery = take(&mut consumer).await;
            assert_eq!(delivery.message.routing_key, *key, "{queue}");
            broker.settle(delivery.tag, Settle::Ack);
        }
    }
}

async fn mandatory(broker: &dyn Broker) {
    broker.declare_exchange(&ExchangeSpec::new("mandatory", ExchangeKind::Topic)).await.unwrap();
    let publish =
        |exchange: &str, key: &str, mandatory| within(broker.publish(message(exchange, key, "x"), mandatory));
    assert_eq!(publish("mandatory", "nobody", true).await.unwrap(), Confirmation::Returned);
    assert_eq!(publish("mandatory", "nobody", false).await.unwrap(), Confirmation::Confirmed);
    assert_eq!(publish("", "mandatory.nobody", true).await.unwrap(), Confirmation::Returned);
    broker.declare_queue(&spec("mandatory.queue")).await.unwrap();
    broker.bind("mandatory.queue", "mandatory", "somebody").await.unwrap();
    assert_eq!(publish("mandatory", "somebody", true).await.unwrap(), Confirmation::Confirmed);
    assert_eq!(publish("mandatory", "nobody", true).await.unwrap(), Confirmation::Returned);
}

async fn prefetch(broker: &dyn Broker) {
    broker.declare_queue(&spec("prefetch")).await.unwrap();
    for i in 0..5 {
        put(broker, "prefetch", i.to_string()).await;
    }
    let mut consumer = broker.consume("prefetch", 2).await.unwrap();
    let first = take(&mut consumer).await;
    let second = take(&mut consumer).await;
    nothing(&mut consumer).await;
    holds(broker, "prefetch", 3, 2).await;
    // Out of order, and once more for the same tag: that settles nothing.
    broker.settle(second.tag, Settle::Ack);
    broker.settle(second.tag, Settle::Ack);
    assert_eq!(text(&take(&mut consumer).await), "2");
    nothing(&mut consumer).await;
    holds(broker, "prefetch", 2, 2).await;
    broker.settle(first.tag, Settle::Ack);
    assert_eq!(text(&take(&mut consumer).await), "3");
}

/// Nothing is delivered twice, counted or out of order because a subscription is allowed more or less.
async fn another_prefetch(broker: &dyn Broker) {
    broker.declare_queue(&QueueSpec { delivery_limit: Some(20), ..spec("another-prefetch") }).await.unwrap();
    for i in 0..40 {
        put(broker, "another-prefetch", i.to_string()).await;
    }
    let mut consumer = broker.consume("another-prefetch", 1).await.unwrap();
    let mut held = vec![take(&mut consumer).await];
    nothing(&mut consumer).await;
    consumer.subscription.set_prefetch(30);
    while held.len() < 30 {
        held.push(take(&mut consumer).await);
    }
    // What was held when more was allowed may come on top.
    let more = tokio::time::timeout(Duration::from_millis(300), consumer.deliveries.recv()).await;
    held.extend(more.ok().flatten());
    consumer.subscription.set_prefetch(2);
    nothing(&mut consumer).await;
    assert_eq!(
        held.iter().map(text).collect::<Vec<_>>(),
        (0..held.len()).map(|i| i.to_string()).collect::<Vec<_>>()
    );
    // Settled out of order, on whichever channel each was delivered.
    held.reverse();
    let mut seen: Vec<String> = Vec::new();
    for delivery in held {
        assert_eq!(delivery.delivery_count, 0, "{delivery:?}");
        seen.push(text(&delivery).to_owned());
        broker.settle(delivery.tag, Settle::Ack);
    }
    while seen.len() < 40 {
        let delivery = take(&mut consumer).await;
        assert_eq!(delivery.delivery_count, 0, "{delivery:?}");
        seen.push(text(&delivery).to_owned());
        broker.settle(delivery.tag, Settle::Ack);
    }
    nothing(&mut consumer).await;
    holds(broker, "another-prefetch", 0, 0).await;
    seen.sort_by_key(|n| n.parse::<u32>().unwrap());
    assert_eq!(seen, (0..40).map(|i| i.to_string()).collect::<Vec<_>>());
}

async fn alternate(broker: &dyn Broker) {
    let jobs = ExchangeSpec {
        alternate: Some("alternate.rest".to_owned()),
        ..ExchangeSpec::new("alternate.jobs", ExchangeKind::Topic)
    };
    broker.declare_exchange(&jobs).await.unwrap();
    let publish = |key: &str| within(broker.publish(message("alternate.jobs", key, key.to_owned()), true));
    // The alternate need not be there.
    assert_eq!(publish("early").await.unwrap(), Confirmation::Returned);
    broker.declare_exchange(&ExchangeSpec::new("alternate.rest", ExchangeKind::Fanout)).await.unwrap();
    for queue in ["alternate.known", "alternate.unknown"] {
        broker.declare_queue(&spec(queue)).await.unwrap();
    }
    broker.bind("alternate.known", "alternate.jobs", "known").await.unwrap();
    broker.bind("alternate.unknown", "alternate.rest", "").await.unwrap();
    for key in ["known", "unknown"] {
        assert_eq!(publish(key).await.unwrap(), Confirmation::Confirmed);
        let mut consumer = broker.consume(&format!("alternate.{key}"), 10).await.unwrap();
        let delivery = take(&mut consumer).await;
        assert_eq!((text(&delivery), delivery.message.routing_key.as_str()), (key, key));
        nothing(&mut consumer).await;
    }
    let plain = ExchangeSpec { alternate: None, ..jobs };
    let error = broker.declare_exchange(&plain).await.unwrap_err();
    let BrokerError::Conflict { argument, found, .. } = &error else { panic!("{error}") };
    assert!(*argument == "alternate-exchange" && found.contains("alternate.rest"), "{error}");
}

async fn turns(broker: &dyn Broker) {
    broker.declare_queue(&spec("turns")).await.unwrap();
    let mut one = broker.consume("turns", 100).await.unwrap();
    let mut two = broker.consume("turns", 100).await.unwrap();
    for i in 0..20 {
        put(broker, "turns", i.to_string()).await;
    }
    for consumer in [&mut one, &mut two] {
        for _ in 0..10 {
            take(consumer).await;
        }
        nothing(consumer).await;
    }
}

async fn settling(broker: &dyn Broker) {
    // RabbitMQ puts a returned message last, and not back in its place, where there is no limit.
    broker.declare_queue(&QueueSpec { delivery_limit: Some(20), ..spec("settling") }).await.unwrap();
    for body in ["a", "b", "c"] {
        put(broker, "settling", body).await;
    }
    let mut consumer = broker.consume("settling", 2).await.unwrap();
    let (a, b) = (take(&mut consumer).await, take(&mut consumer).await);
    assert_eq!((text(&a), text(&b)), ("a", "b"));
    broker.settle(a.tag, Settle::Reject);
    let again = take(&mut consumer).await;
    assert_eq!(
        (text(&again), again.delivery_count),
        ("a", 1),
        "a rejected message is counted, and first again"
    );
    assert_ne!(again.tag, a.tag);
    broker.settle(b.tag, Settle::Nack);
    let again = take(&mut consumer).await;
    // Brokers before RabbitMQ 4.3 count what is returned unprocessed as well.
    assert_eq!(text(&again), "b");
    assert!(again.delivery_count <= 1);
    broker.settle(again.tag, Settle::Ack);
    assert_eq!(text(&take(&mut consumer).await), "c");
}

async fn dead_consumer(broker: &dyn Broker) {
    broker.declare_queue(&QueueSpec { delivery_limit: Some(20), ..spec("dead-consumer") }).await.unwrap();
    for i in 0..6 {
        put(broker, "dead-consumer", i.to_string()).await;
    }
    let mut consumer = broker.consume("dead-consumer", 4).await.unwrap();
    let (zero, one) = (take(&mut consumer).await, take(&mut consumer).await);
    broker.settle(one.tag, Settle::Ack);
    // The next one is here: one that is on its way just then may come back out of order.
    holds(broker, "dead-consumer", 1, 4).await;
    drop(consumer);
    holds(broker, "dead-consumer", 5, 0).await;
    let mut consumer = broker.consume("dead-consumer", 10).await.unwrap();
    // A tag of the dead channel must not settle the new delivery of its message, nor any other.
    broker.settle(zero.tag, Settle::Ack);
    broker.settle(zero.tag, Settle::Reject);
    let mut seen = Vec::new();
    for _ in 0..5 {
        let delivery = take(&mut consumer).await;
        seen.push((text(&delivery).to_owned(), delivery.delivery_count.min(1)));
    }
    // Whatever the channel held was delivered to it, looked at or not; the last one never was.
    let expected = [("0", 1), ("2", 1), ("3", 1), ("4", 1), ("5", 0)].map(|(t, n)| (t.to_owned(), n));
    assert_eq!(seen, expected);
    nothing(&mut consumer).await;
    holds(broker, "dead-consumer", 0, 5).await;
}

async fn delivery_limit(broker: &dyn Broker) {
    broker.declare_queue(&spec("limit.dead")).await.unwrap();
    let dead_letter = Some((String::new(), Some("limit.dead".to_owned())));
    let limited = QueueSpec { dead_letter, delivery_limit: Some(3), ..spec("limit") };
    broker.declare_queue(&limited).await.unwrap();
    put(broker, "limit", "poison").await;
    put(broker, "limit", "good").await;
    let mut consumer = broker.consume("limit", 1).await.unwrap();
    for count in 0..4 {
        let delivery = take(&mut consumer).await;
        assert_eq!((text(&delivery), delivery.delivery_count), ("poison", count));
        broker.settle(delivery.tag, Settle::Reject);
    }
    let good = take(&mut consumer).await;
    assert_eq!((text(&good), good.delivery_count), ("good", 0));
    let mut dead = broker.consume("limit.dead", 1).await.unwrap();
    let letter = take(&mut dead).await;
    assert_eq!((text(&letter), &*letter.message.routing_key), ("poison", "limit.dead"));
    assert_eq!(letter.message.properties.text("x-first-death-reason"), Some("delivery_limit"));
    assert_eq!(letter.message.properties.text("x-first-death-queue"), Some("limit"));
}

async fn queue_ttl(broker: &dyn Broker) {
    broker.declare_queue(&spec("ttl.dead")).await.unwrap();
    let dead_letter = Some((String::new(), Some("ttl.dead".to_owned())));
    let short = QueueSpec { message_ttl: Some(Duration::from_millis(200)), dead_letter, ..spec("ttl") };
    broker.declare_queue(&short).await.unwrap();
    let mut dead = broker.consume("ttl.dead", 10).await.unwrap();
    let start = Instant::now();
    put(broker, "ttl", "first").await;
    put(broker, "ttl", "second").await;
    let letter = take(&mut dead).await;
    assert_eq!(text(&letter), "first");
    assert_eq!(letter.message.properties.text("x-first-death-reason"), Some("expired"));
    assert_eq!(letter.message.properties.text("x-first-death-queue"), Some("ttl"));
    assert!(start.elapsed() >= Duration::from_millis(190), "{:?}", start.elapsed());
    assert_eq!(text(&take(&mut dead).await), "second");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    // What is delivered does not expire; what comes back late does.
    let mut consumer = broker.consume("ttl", 1).await.unwrap();
    put(broker, "ttl", "third").await;
    let held = take(&mut consumer).await;
    put(broker, "ttl", "fourth").await;
    assert_eq!(text(&take(&mut dead).await), "fourth");
    holds(broker, "ttl", 0, 1).await;
    broker.settle(held.tag, Settle::Reject);
    assert_eq!(text(&take(&mut dead).await), "third");
    nothing(&mut consumer).await;
}

async fn message_ttl(broker: &dyn Broker) {
    broker.declare_queue(&spec("expiration.dead")).await.unwrap();
    let dead_letter = Some((String::new(), Some("expiration.dead".to_owned())));
    broker.declare_queue(&QueueSpec { dead_letter, ..spec("expiration") }).await.unwrap();
    let put = |body: &'static str, ms: Option<u64>| {
        let mut message = message("", "expiration", body);
        message.properties.expiration = ms.map(Duration::from_millis);
        within(broker.publish(message, true))
    };
    let mut dead = broker.consume("expiration.dead", 10).await.unwrap();
    for (body, ms) in [("long", Some(600)), ("short", Some(50)), ("forever", None), ("behind", Some(50))] {
        put(body, ms).await.unwrap();
    }
    // Behind a longer-lived one it expires only when it comes to the head.
    nothing(&mut dead).await;
    assert_eq!(text(&take(&mut dead).await), "long");
    let letter = take(&mut dead).await;
    assert_eq!(text(&letter), "short");
    assert_eq!(letter.message.properties.expiration, None, "or it would expire again where it lies");
    nothing(&mut dead).await;
    let mut consumer = broker.consume("expiration", 10).await.unwrap();
    assert_eq!(text(&take(&mut consumer).await), "forever");
    assert_eq!(text(&take(&mut dead).await), "behind");
    nothing(&mut consumer).await;
}

/// Of the queue's and the message's time to live the shorter counts.
async fn both_ttls(broker: &dyn Broker) {
    broker.declare_queue(&spec("both.dead")).await.unwrap();
    let mut dead = broker.consume("both.dead", 10).await.unwrap();
    for (queue, queue_ms, message_ms) in [("both.queue", 100, 60_000), ("both.message", 60_000, 100)] {
        let dead_letter = Some((String::new(), Some("both.dead".to_owned())));
        let message_ttl = Some(Duration::from_millis(queue_ms));
        broker.declare_queue(&QueueSpec { message_ttl, dead_letter, ..spec(queue) }).await.unwrap();
        let mut message = message("", queue, queue);
        message.properties.expiration = Some(Duration::from_millis(message_ms));
        within(broker.publish(message, true)).await.unwrap();
        assert_eq!(text(&take(&mut dead).await), queue);
    }
}

/// As the host declares it: a failed job goes to a fanout exchange, waits in its queue, and comes
/// back to the queue of its own model.
async fn retry_tiers(broker: &dyn Broker) {
    broker.declare_exchange(&ExchangeSpec::new("tiers.jobs", ExchangeKind::Topic)).await.unwrap();
    for (name, delay) in [("tiers.retry.100", 100), ("tiers.retry.300", 300)] {
        broker.declare_exchange(&ExchangeSpec::new(name, ExchangeKind::Fanout)).await.unwrap();
        let message_ttl = Some(Duration::from_millis(delay));
        let dead_letter = Some(("tiers.jobs".to_owned(), None));
        broker.declare_queue(&QueueSpec { message_ttl, dead_letter, ..spec(name) }).await.unwrap();
        broker.bind(name, name, "").await.unwrap();
    }
    for model in ["a", "b"] {
        let queue = format!("tiers.jobs.{model}");
        broker.declare_queue(&spec(&queue)).await.unwrap();
        broker.bind(&queue, "tiers.jobs", model).await.unwrap();
    }
    let mut a = broker.consume("tiers.jobs.a", 10).await.unwrap();
    let mut b = broker.consume("tiers.jobs.b", 10).await.unwrap();
    within(broker.publish(message("tiers.jobs", "a", "job"), true)).await.unwrap();
    let start = Instant::now();
    for (attempt, tier) in [(1, "tiers.retry.100"), (2, "tiers.retry.300"), (3, "tiers.retry.100")] {
        let delivery = take(&mut a).await;
        assert_eq!((text(&delivery), delivery.delivery_count), ("job", 0));
        assert_eq!(delivery.message.properties.int("attempt").unwrap_or(0), attempt - 1);
        assert_eq!(delivery.message.routing_key, "a");
        let mut again = message(tier, "a", delivery.message.body.clone());
        again.properties.headers = delivery.message.properties.headers.clone();
        again.properties.set("attempt", HeaderValue::Int(attempt));
        assert_eq!(within(broker.publish(again, true)).await.unwrap(), Confirmation::Confirmed);
        broker.settle(delivery.tag, Settle::Ack);
    }
    let last = take(&mut a).await;
    assert_eq!(last.message.properties.int("attempt"), Some(3));
    assert!(start.elapsed() >= Duration::from_millis(490), "{:?}", start.elapsed());
    nothing(&mut b).await;
}

async fn max_length(broker: &dyn Broker) {
    broker.declare_queue(&QueueSpec { max_length: Some(5), ..spec("length") }).await.unwrap();
    let mut taken = 0;
    // RabbitMQ may overshoot its limit by one or two.
    for i in 0..10 {
        match put(broker, "length", i.to_string()).await {
            Confirmation::Confirmed => taken += 1,
            Confirmation::Nacked => break,
            Confirmation::Returned => panic!("there is a queue"),
        }
    }
    assert!((5..=7).contains(&taken), "{taken}");
    holds(broker, "length", taken, 0).await;
    let mut consumer = broker.consume("length", 10).await.unwrap();
    for i in 0..taken {
        let delivery = take(&mut consumer).await;
        assert_eq!(text(&delivery), i.to_string());
        broker.settle(delivery.tag, Settle::Ack);
    }
    holds(broker, "length", 0, 0).await;
    assert_eq!(put(broker, "length", "again").await, Confirmation::Confirmed);
}

async fn conflicts(broker: &dyn Broker) {
    let first = QueueSpec { message_ttl: Some(Duration::from_secs(60)), ..spec("conflict") };
    broker.declare_queue(&first).await.unwrap();
    broker.declare_queue(&first).await.unwrap();
    put(broker, "conflict", "kept").await;
    let dead_letter = Some(("somewhere".to_owned(), None));
    for other in [
        spec("conflict"),
        QueueSpec { message_ttl: Some(Duration::from_secs(61)), ..spec("conflict") },
        QueueSpec { max_length: Some(1), ..first.clone() },
        QueueSpec { delivery_limit: Some(1), ..first.clone() },
        QueueSpec { dead_letter, ..first.clone() },
    ] {
        let error = broker.declare_queue(&other).await.unwrap_err();
        let BrokerError::Conflict { what, name, found, wanted, .. } = error else { panic!("{error}") };
        assert_eq!((what, &*name), ("queue", "conflict"));
        assert_ne!(found, wanted);
    }
    holds(broker, "conflict", 1, 0).await;
    broker.declare_exchange(&ExchangeSpec::new("conflict", ExchangeKind::Topic)).await.unwrap();
    let error =
        broker.declare_exchange(&ExchangeSpec::new("conflict", ExchangeKind::Fanout)).await.unwrap_err();
    assert!(matches!(error, BrokerError::Conflict { what: "exchange", .. }), "{error}");
}

async fn deleted_queue(broker: &dyn Broker) {
    broker.declare_exchange(&ExchangeSpec::new("deleted", ExchangeKind::Direct)).await.unwrap();
    broker.declare_queue(&spec("deleted")).await.unwrap();
    broker.bind("deleted", "deleted", "key").await.unwrap();
    put(broker, "deleted", "one").await;
    put(broker, "deleted", "two").await;
    let mut consumer = broker.consume("deleted", 1).await.unwrap();
    let delivery = take(&mut consumer).await;
    broker.delete_queue("deleted").await.unwrap();
    assert!(within(consumer.deliveries.recv()).await.is_none(), "the subscription ends with its queue");
    broker.settle(delivery.tag, Settle::Reject);
    assert_eq!(
        within(broker.publish(message("deleted", "key", "x"), true)).await.unwrap(),
        Confirmation::Returned
    );
    broker.delete_queue("deleted").await.unwrap();
    broker.declare_queue(&QueueSpec { max_length: Some(9), ..spec("deleted") }).await.unwrap();
    holds(broker, "deleted", 0, 0).await;
    drop(consumer);
    assert_eq!(put(broker, "deleted", "new").await, Confirmation::Confirmed);
    let mut consumer = broker.consume("deleted", 1).await.unwrap();
    assert_eq!(text(&take(&mut consumer).await), "new");
}

async fn missing(broker: &dyn Broker) {
    let not_found = |error: BrokerError, wanted: &str| {
        let BrokerError::NotFound { what, name } = error else { panic!("{error}") };
        assert_eq!((what, &*name), (wanted, "missing"));
    };
    not_found(broker.consume("missing", 1).await.err().unwrap(), "queue");
    not_found(broker.depth("missing").await.unwrap_err(), "queue");
    broker.declare_exchange(&ExchangeSpec::new("present", ExchangeKind::Topic)).await.unwrap();
    not_found(broker.bind("missing", "present", "key").await.unwrap_err(), "queue");
    broker.declare_queue(&spec("present")).await.unwrap();
    not_found(broker.bind("present", "missing", "key").await.unwrap_err(), "exchange");
    not_found(within(broker.publish(message("missing", "key", "x"), false)).await.unwrap_err(), "exchange");
    // The connection is still good.
    assert_eq!(put(broker, "present", "x").await, Confirmation::Confirmed);
}
