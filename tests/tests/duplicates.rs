//! A client that is not sure whether its publish arrived publishes again: one answer.

use warren::broker::Broker;
use warren_tests::{House, Inbox, body, guest, inbox, job};

#[tokio::test(flavor = "multi_thread")]
async fn the_same_message_twice_is_answered_once() {
    let house = House::open(&[guest("hostile"), guest("echo")]).await;
    let queue = warren::broker::QueueSpec { name: "answers".into(), ..Default::default() };
    house.broker.declare_queue(&queue).await.expect("declared");
    let mut answers = Inbox::open(&house.broker, "answers").await;
    // Still running when its twin arrives; then another message, which is nobody's twin.
    for (id, message_id) in [("one", "m-1"), ("one", "m-1"), ("two", "m-2")] {
        let mut message = job("hostile", id, body(serde_json::json!({ "mode": "busy", "number": 100 })));
        message.properties.message_id = Some(message_id.into());
        message.properties.reply_to = Some("answers".into());
        house.publish(message).await;
    }
    house.quiet().await;
    let mut finals: Vec<String> = answers
        .arrived()
        .iter()
        .filter(|m| inbox::kind(m) == "result")
        .map(|m| m.properties.correlation_id.clone().expect("an id"))
        .collect();
    finals.sort();
    assert_eq!(finals, ["one", "two"]);

    // A retry of the same message is not dropped as its own twin.
    let mut message = job("hostile", "three", body(serde_json::json!({ "mode": "flaky", "number": 3 })));
    message.properties.message_id = Some("m-3".into());
    message.properties.reply_to = Some("answers".into());
    house.publish(message).await;
    let events = answers.until_final().await;
    let last = events.last().expect("a final event");
    assert_eq!((inbox::kind(last), inbox::int(last, "attempt")), ("result", 3), "{events:?}");
}
