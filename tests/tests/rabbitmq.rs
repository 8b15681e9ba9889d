//! The whole host on a real RabbitMQ: what holds on the embedded broker holds here, and what was
//! confirmed survives a broker that is killed.
//!
//! One node for the binary; each test has a vhost of its own, and the one that kills has its own node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use warren::broker::client::BrokerTransport;
use warren::broker::rabbitmq::{Options, RabbitMq};
use warren::broker::{Broker, Confirmation, Message, Properties, QueueSpec, Settle};
use warren::config::Config;
use warren::host::Host;
use warren::wire::DEAD;
use warren_client::{Client, JobRequest};
use warren_tests::house::follow;
use warren_tests::rabbitmq::{Node, shared};
use warren_tests::{Inbox, PATIENCE, body, guest, hostile, inbox, job, within};

async fn connect(address: &str) -> Arc<RabbitMq> {
    let options = Options {
        addresses: vec![address.to_owned()],
        operation_timeout: Duration::from_secs(30),
        startup_timeout: PATIENCE,
        ..Options::default()
    };
    Arc::new(RabbitMq::connect(options).await.expect("connects"))
}

async fn host(address: &str) -> Host {
    let config = Config { slots: 2, tensor_threads: 2, retry_delays_ms: vec![50, 100], ..Config::default() };
    let host = Host::new(config, connect(address).await).expect("the host starts");
    for name in ["echo", "hostile"] {
        host.load(&guest(name)).await.expect("loads");
    }
    host.serve().await.expect("serves");
    host
}

async fn vhost(name: &'static str) -> String {
    tokio::task::spawn_blocking(move || shared().vhost(name)).await.expect("the node answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_the_whole_way_and_ends_as_on_the_embedded_broker() {
    let address = vhost("whole-way").await;
    let host = host(&address).await;
    let client =
        Client::connect(Arc::new(BrokerTransport::new(connect(&address).await))).await.expect("client");

    let seen = follow(&client, JobRequest::new("echo").bytes("text", "hello")).await;
    assert_eq!((seen.code(), seen.text("text").as_str()), ("RESULT", "hello"));
    for (place, event) in seen.events.iter().enumerate() {
        assert_eq!(
            (event.attempt, event.sequence as usize, event.missed),
            (1, place, 0),
            "{:?}",
            seen.events
        );
    }
    // Attempts rise through the retry tiers.
    let seen = follow(&client, hostile("flaky", 3)).await;
    assert_eq!((seen.code(), seen.text("attempt").as_str()), ("RESULT", "3"));
    // Dead letters, with their reasons.
    for (mode, code) in
        [("failed", "PLUGIN_FAILED"), ("retry", "RETRIES_EXHAUSTED"), ("trap", "PLUGIN_TRAPPED")]
    {
        assert_eq!(follow(&client, hostile(mode, 0)).await.code(), code);
    }
    assert_eq!(follow(&client, hostile("invalid", 0)).await.code(), "INVALID_INPUT");
    let broker = connect(&address).await;
    let mut letters = Inbox::open(&*broker, DEAD).await;
    let mut codes = Vec::new();
    for _ in 0..3 {
        let letter = letters.next().await;
        codes.push(letter.properties.text("code").unwrap_or_default().to_owned());
    }
    codes.sort();
    assert_eq!(codes, ["PLUGIN_FAILED", "PLUGIN_TRAPPED", "RETRIES_EXHAUSTED"]);
    // Time to live, cancellation, nobody there.
    let request = hostile("sleep", 0).deadline(Duration::from_millis(300));
    assert_eq!(follow(&client, request).await.code(), "EXPIRED");
    let mut job = client.submit(hostile("sleep", 0)).await.expect("taken");
    tokio::time::sleep(Duration::from_millis(100)).await;
    job.cancel().await.expect("published");
    let mut last = None;
    while let Some(event) = within("an event", job.next()).await {
        last = Some(event.expect("readable"));
    }
    assert!(format!("{last:?}").contains("CANCELLED"), "{last:?}");
    let seen = follow(&client, JobRequest::new("nobody")).await;
    assert_eq!(seen.code(), "NO_MODEL");
    assert!(within("the drain", host.shutdown()).await, "not drained");
}

/// Every job's final events after dropping lower attempts, as a client does it.
fn accepted(events: &[Message]) -> HashMap<String, usize> {
    let mut finals: HashMap<String, (i64, usize)> = HashMap::new();
    let mut seen = std::collections::HashSet::new();
    for event in events.iter().filter(|e| inbox::kind(e) == "result" || inbox::kind(e) == "error") {
        let id = event.properties.correlation_id.clone().expect("an id");
        let (attempt, sequence) = (inbox::int(event, "attempt"), inbox::int(event, "sequence"));
        if !seen.insert((id.clone(), attempt, sequence)) {
            continue;
        }
        let entry = finals.entry(id).or_insert((attempt, 0));
        // The first final event is the one that a client takes; later ones come after its end.
        if entry.1 == 0 {
            *entry = (attempt, 1);
        }
    }
    finals.into_iter().map(|(id, (_, count))| (id, count)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_confirmed_is_answered_though_the_broker_is_killed() {
    let node = tokio::task::spawn_blocking(|| Arc::new(Node::start(""))).await.expect("starts");
    let address = node.address("/");
    let host = host(&address).await;
    let broker = connect(&address).await;
    within("declaring", broker.declare_queue(&QueueSpec { name: "answers".into(), ..QueueSpec::default() }))
        .await
        .expect("declared");
    tokio::task::block_in_place(|| node.sync_queues());
    let message = |n: u32| {
        let parameters = serde_json::json!({ "mode": "busy", "number": 5 });
        let mut message = job("hostile", &format!("job-{n}"), body(parameters));
        message.properties.reply_to = Some("answers".into());
        message.properties.persistent = true;
        message
    };
    let mut promised = Vec::new();
    let confirms: Vec<_> = (0..200u32).map(|n| (n, broker.publish(message(n), true))).collect();
    for (n, confirm) in confirms {
        assert_eq!(within("a confirm", confirm).await, Ok(Confirmation::Confirmed));
        promised.push(format!("job-{n}"));
    }
    // In the middle of it: some are queued, some run, some wait for their confirm.
    let victim = Arc::clone(&node);
    tokio::task::spawn_blocking(move || {
        victim.kill();
        victim.restart();
    })
    .await
    .expect("killed and restarted");
    for n in 200..400u32 {
        let start = Instant::now();
        while broker.publish(message(n), true).await != Ok(Confirmation::Confirmed) {
            assert!(start.elapsed() < PATIENCE, "the broker is back and takes nothing");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        promised.push(format!("job-{n}"));
    }
    println!("{} of 400 jobs were confirmed", promised.len());
    assert!(!promised.is_empty());
    let mut consumer = within("consuming", broker.consume("answers", 500)).await.expect("consumes");
    let (mut events, start) = (Vec::new(), Instant::now());
    loop {
        let missing: Vec<&String> = {
            let accepted = accepted(&events);
            promised.iter().filter(|id| accepted.get(*id) != Some(&1)).collect()
        };
        if missing.is_empty() {
            break;
        }
        assert!(start.elapsed() < 2 * PATIENCE, "lost: {missing:?}");
        if let Ok(Some(delivery)) =
            tokio::time::timeout(Duration::from_millis(500), consumer.deliveries.recv()).await
        {
            broker.settle(delivery.tag, Settle::Ack);
            events.push(delivery.message);
        }
    }
    // Nothing is left behind, and the host goes on.
    let mut message = Message {
        exchange: "warren.jobs".into(),
        routing_key: "echo".into(),
        properties: Properties { correlation_id: Some("after".into()), ..Properties::default() },
        body: body(serde_json::json!({})),
    };
    message.properties.reply_to = Some("answers".into());
    assert_eq!(within("a confirm", broker.publish(message, true)).await, Ok(Confirmation::Confirmed));
    while !accepted(&events).contains_key("after") {
        let delivery = within("an answer", consumer.deliveries.recv()).await.expect("the queue is there");
        broker.settle(delivery.tag, Settle::Ack);
        events.push(delivery.message);
    }
    assert!(within("the drain", host.shutdown()).await, "not drained");
}
