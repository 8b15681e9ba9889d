//! Several clients on one broker.

use std::sync::Arc;

use warren::broker::client::BrokerTransport;
use warren_client::{Client, EventBody, JobRequest};
use warren_tests::house::follow;
use warren_tests::{House, Inbox, body, guest, hostile, job};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_on_one_broker_get_their_own_events_only() {
    let house = House::open(&[guest("echo"), guest("hostile")]).await;
    let transport = BrokerTransport::new(Arc::new(house.broker.connect()));
    let other = Client::connect(Arc::new(transport)).await.expect("connects");
    // The same ids on both sides: what tells the jobs apart is whose reply queue they name.
    let one = async {
        for n in 0..20 {
            let request = JobRequest::new("echo").id(format!("job-{n}")).bytes("text", format!("one {n}"));
            let seen = house.run(request).await;
            assert_eq!(seen.text("text"), format!("one {n}"), "{seen:?}");
        }
    };
    let two = async {
        for n in 0..20 {
            let seen = follow(&other, hostile("partials", n % 3).id(format!("job-{n}"))).await;
            assert_eq!(seen.text("mode"), "partials", "{seen:?}");
            let partials = seen.events.iter().filter(|e| matches!(e.body, EventBody::Partial(_))).count();
            assert_eq!(partials as i64, n % 3, "{seen:?}");
            assert!(seen.events.iter().all(|e| e.plugin == "hostile@0.1.0" && e.missed == 0), "{seen:?}");
        }
    };
    tokio::join!(one, two);
    house.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_may_be_used_again_when_its_job_has_ended() {
    let house = House::open(&[guest("echo")]).await;
    for n in 0..5 {
        let seen =
            house.run(JobRequest::new("echo").id("always the same").bytes("text", n.to_string())).await;
        assert_eq!(seen.text("text"), n.to_string(), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_that_number_their_messages_alike_are_both_answered() {
    let house = House::open(&[guest("echo")]).await;
    let mut answers = Vec::new();
    for queue in ["left", "right"] {
        let mut inbox = Inbox::open(&house.broker, queue).await;
        let mut message = job("echo", "job-1", body(serde_json::json!({})));
        message.properties.message_id = Some("1".into());
        message.properties.reply_to = Some(queue.into());
        house.publish(message).await;
        answers.push(inbox.until_final().await);
    }
    assert!(answers.iter().all(|events| events.len() == 1), "{answers:?}");
}
