//! What is tried again, what is not, and when a delivery is settled.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use warren::broker::embedded::Embedded;
use warren::broker::{Broker, Consumer, Settle};
use warren_client::EventBody;
use warren_tests::inbox::{body, error, int, job, kind};
use warren_tests::watched::is_final;
use warren_tests::{
    Fate, GLANCE, Happening, House, Inbox, PATIENCE, Watched, guest, hostile, logs, patient, within,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_succeeds_on_its_third_attempt_ends_in_one_result() {
    let house = House::open(&[guest("hostile")]).await;
    let mut inbox = Inbox::open(&house.broker, "replies").await;
    let mut message = job("hostile", "flaky", body(json!({"mode": "flaky", "number": 3})));
    message.properties.reply_to = Some("replies".into());
    let start = Instant::now();
    house.publish(message).await;
    let events = inbox.until_final().await;
    let delays: u64 = house.config.retry_delays_ms.iter().sum();
    assert!(start.elapsed() >= Duration::from_millis(delays), "it waited for both retry tiers");
    let attempts: Vec<i64> = events.iter().map(|m| int(m, "attempt")).collect();
    assert!(attempts.is_sorted(), "attempts never fall: {attempts:?}");
    let last = events.last().expect("one");
    assert_eq!((kind(last), int(last, "attempt"), int(last, "sequence")), ("result", 3, 0), "{events:?}");
    assert_eq!(last.properties.correlation_id.as_deref(), Some("flaky"));
    house.quiet().await;
    assert_eq!(inbox.arrived(), [], "one final event");
    assert_eq!(house.dead_letters().await, [], "no dead letter");
    let seen = house.run(hostile("flaky", 2)).await;
    assert_eq!((seen.text("attempt"), seen.events.last().map(|e| e.attempt)), ("2".into(), Some(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_without_an_id_keeps_the_one_it_was_given_through_its_attempts() {
    let house = House::open(&[guest("hostile")]).await;
    let mut inbox = Inbox::open(&house.broker, "replies").await;
    let mut message = job("hostile", "", body(json!({"mode": "chatty-flaky", "number": 3})));
    message.properties.correlation_id = None;
    message.properties.reply_to = Some("replies".into());
    house.publish(message).await;
    let events = inbox.until_final().await;
    let ids: Vec<_> = events.iter().map(|m| m.properties.text("job").expect("an id")).collect();
    let attempts: Vec<_> = events.iter().map(|m| int(m, "attempt")).collect();
    assert_eq!(attempts, [1, 2, 3, 3], "a status each, then the result: {events:?}");
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "one job, one id: {ids:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_never_succeeds_becomes_a_dead_letter_that_can_be_sent_again() {
    let house = House::open(&[guest("hostile")]).await;
    let mut inbox = Inbox::open(&house.broker, "replies").await;
    for (mode, code, attempts, reason) in [
        ("retry", "RETRIES_EXHAUSTED", 3, "attempt 3 of 3: the moon is in the way"),
        ("failed", "PLUGIN_FAILED", 1, "nobody can do this"),
    ] {
        let mut message = job("hostile", mode, body(json!({"mode": mode})));
        message.properties.reply_to = Some("replies".into());
        message.properties.set("tenant", warren::broker::HeaderValue::Text("acme".into()));
        house.publish(message.clone()).await;
        let events = inbox.until_final().await;
        let [last] = events.as_slice() else { panic!("one event, the final one: {events:?}") };
        assert_eq!(error(last), (code.to_owned(), reason.to_owned()));
        assert_eq!(int(last, "attempt"), attempts);
        house.quiet().await;
        let letters = house.dead_letters().await;
        let [letter] = letters.as_slice() else { panic!("{letters:?}") };
        let header = |name| letter.properties.text(name).unwrap_or("none");
        assert_eq!(letter.body, message.body, "the job as it was sent");
        assert_eq!((letter.exchange.as_str(), letter.routing_key.as_str()), ("warren.dead", "hostile"));
        assert_eq!((header("code"), header("reason"), header("job")), (code, reason, mode), "{letter:?}");
        assert_eq!((header("plugin"), header("tenant")), ("hostile@0.1.0", "acme"), "{letter:?}");
        assert_eq!(header("died-from"), "warren.jobs.hostile", "{letter:?}");
        assert!(int(letter, "died-at") > 1_600_000_000 && int(letter, "attempt") == attempts, "{letter:?}");
        assert_eq!(letter.properties.reply_to.as_deref(), Some("replies"));
        assert!(letter.properties.persistent && letter.properties.expiration.is_none(), "{letter:?}");
    }
    let seen = house.run(hostile("invalid", 0)).await;
    assert_eq!(seen.code(), "INVALID_INPUT");
    house.quiet().await;
    assert_eq!(house.dead_letters().await, [], "what is the client's fault is nothing to look at");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_had_not_begun_at_shutdown_is_served_by_the_next_host_as_the_same_attempt() {
    let dir = tempfile::tempdir().expect("directory");
    let patient = patient(dir.path());
    let mut first = House::with(std::slice::from_ref(&patient), |config| {
        (config.slots, config.prefetch) = (1, 64);
    })
    .await;
    let broker = first.broker.connect();
    let mut inbox = Inbox::open(&broker, "replies").await;
    let count = 10;
    let publish = async |n: u64, mode: &str, number: i64| {
        let mut message = job("patient", &format!("job-{n}"), body(json!({"mode": mode, "number": number})));
        message.properties.reply_to = Some("replies".into());
        first.publish(message).await;
    };
    publish(0, "announced-busy", 2000).await;
    assert_eq!(kind(&inbox.next().await), "status", "it has the one slot");
    for n in 1..count {
        publish(n, "busy", 1).await;
    }
    // All of them are delivered, while the first still runs.
    let start = Instant::now();
    while broker.depth("warren.jobs.patient").await.expect("queue").unacked < count {
        assert!(start.elapsed() < PATIENCE, "not delivered\n{}", logs::tail(20));
        tokio::time::sleep(GLANCE).await;
    }
    assert!(first.shutdown().await, "what ran has finished");
    let depth = broker.depth("warren.jobs.patient").await.expect("queue");
    let done = inbox.arrived();
    assert_eq!(depth.unacked, 0, "nothing is left unsettled: {depth:?}");
    assert_eq!(depth.ready + done.len() as u64, count, "each is answered or still in its queue: {depth:?}");
    assert!(depth.ready >= count / 2, "what waits for a slot is not run at shutdown: {depth:?}, {done:?}");
    let connection: Arc<dyn Broker> = Arc::new(broker.connect());
    let second = House::on(broker.connect(), connection, &[patient], |_| {}).await;
    let mut answers = done;
    while answers.len() < count as usize {
        answers.push(inbox.next().await);
    }
    let mut ids: Vec<_> = answers.iter().map(|m| m.properties.text("job").expect("an id")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count as usize, "each job once: {ids:?}");
    for answer in &answers {
        assert_eq!((kind(answer), int(answer, "attempt")), ("result", 1), "{answer:?}");
    }
    second.quiet().await;
}

/// The position of the first happening that fits.
fn place(happenings: &[Happening], fits: impl Fn(&Happening) -> bool) -> Option<usize> {
    happenings.iter().position(fits)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_is_acknowledged_only_after_its_final_event_was_confirmed() {
    let broker = Embedded::new();
    let watched = Watched::new(&broker, |m| if is_final(m) { Fate::Hold } else { Fate::Pass });
    let connection: Arc<dyn Broker> = watched.clone();
    let house = House::on(broker, connection, &[guest("hostile")], |_| {}).await;
    for (mode, final_id) in
        [("partials", "partials:1:2"), ("failed", "failed:1:0"), ("invalid", "invalid:1:0")]
    {
        let before = watched.happenings().len();
        let mut message = job("hostile", mode, body(json!({"mode": mode, "number": 1})));
        message.properties.reply_to = Some("replies".into());
        let mut inbox = Inbox::open(&house.broker, "replies").await;
        house.publish(message).await;
        // The queue has the final event; the host has not heard that it does.
        inbox.until_final().await;
        drop(inbox);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let depth = house.broker.depth("warren.jobs.hostile").await.expect("queue");
        let so_far = watched.happenings().split_off(before);
        assert_eq!(depth.unacked, 1, "{mode}: settled before the confirm: {so_far:?}");
        assert_eq!(place(&so_far, |h| matches!(h, Happening::Settled(_))), None, "{mode}: {so_far:?}");
        watched.release();
        house.quiet().await;
        let all = watched.happenings().split_off(before);
        let published = place(&all, |h| matches!(h, Happening::Published { id, .. } if id == final_id));
        let confirmed = place(&all, |h| matches!(h, Happening::Confirmed { id } if id == final_id));
        let acked = place(&all, |h| *h == Happening::Settled(Settle::Ack));
        assert!(published.is_some() && published < confirmed && confirmed < acked, "{mode}: {all:?}");
        if mode == "failed" {
            let dead = place(
                &all,
                |h| matches!(h, Happening::Published { exchange, .. } if exchange == "warren.dead"),
            );
            assert!(
                dead.is_some() && dead < published,
                "the dead letter is safe before the client hears: {all:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_final_event_that_is_refused_is_published_again() {
    let broker = Embedded::new();
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    let watched = Watched::new(&broker, move |m| {
        let refuse = is_final(m) && count.fetch_add(1, Ordering::Relaxed) < 2;
        if refuse { Fate::Nack } else { Fate::Pass }
    });
    let connection: Arc<dyn Broker> = watched.clone();
    let house = House::on(broker, connection, &[guest("hostile")], |_| {}).await;
    let seen = house.run(hostile("partials", 1)).await;
    assert_eq!((seen.code(), seen.events.last().map(|e| e.attempt)), ("RESULT", Some(1)), "{seen:?}");
    house.quiet().await;
    assert_eq!(refused.load(Ordering::Relaxed), 3, "refused twice, then taken");
    let settled: Vec<_> =
        watched.happenings().into_iter().filter(|h| matches!(h, Happening::Settled(_))).collect();
    assert_eq!(settled, [Happening::Settled(Settle::Ack)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_could_not_be_published_brings_the_job_back_as_a_later_attempt() {
    // The connection dies under the result, under the dead letter, under the message for the retry.
    for (mode, number, exchange, code) in [
        ("partials", 2, "", "RESULT"),
        ("failed", 0, "warren.dead", "PLUGIN_FAILED"),
        ("flaky", 2, "warren.retry.20", "RESULT"),
    ] {
        for fate in [Fate::Lose, Fate::Nack] {
            // A refused result is published again by the relay: another test's subject.
            if exchange.is_empty() && fate == Fate::Nack {
                continue;
            }
            let broker = Embedded::new();
            let lost = AtomicUsize::new(0);
            let watched = Watched::new(&broker, move |m| {
                let target = m.exchange == exchange && (!exchange.is_empty() || is_final(m));
                if target && lost.fetch_add(1, Ordering::Relaxed) == 0 { fate } else { Fate::Pass }
            });
            let connection: Arc<dyn Broker> = watched.clone();
            let house = House::on(broker, connection, &[guest("hostile")], |_| {}).await;
            let seen = house.run(hostile(mode, number)).await;
            assert_eq!(seen.code(), code, "{mode} {fate:?}: {seen:?}");
            let attempts: Vec<u32> = seen.events.iter().map(|e| e.attempt).collect();
            assert!(attempts.is_sorted() && attempts.last() == Some(&2), "{mode} {fate:?}: {attempts:?}");
            house.quiet().await;
            let settled: Vec<_> = watched
                .happenings()
                .into_iter()
                .filter_map(|h| match h {
                    Happening::Settled(how) => Some(how),
                    _ => None,
                })
                .collect();
            // The job's, and perhaps that of the host's own news that it lost the job.
            let [Settle::Reject, Settle::Ack, rest @ ..] = settled.as_slice() else {
                panic!("{mode} {fate:?}: {settled:?}")
            };
            assert!(rest.iter().all(|how| *how == Settle::Ack), "{mode} {fate:?}: {settled:?}");
            let letters = house.dead_letters().await;
            assert_eq!(letters.len(), usize::from(code == "PLUGIN_FAILED"), "{mode} {fate:?}: {letters:?}");
            let partials = seen.events.iter().filter(|e| matches!(e.body, EventBody::Partial(_)));
            assert!(partials.count() >= number as usize * usize::from(mode == "partials"), "{seen:?}");
        }
    }
}

/// Takes a delivery and fails it, as a host does that dies, until the queue gives it up.
async fn fail_until_gone(consumer: &mut Consumer, broker: &Embedded) -> u32 {
    let start = Instant::now();
    let mut count = 0;
    while broker.depth(warren::topology::UNDONE).await.expect("queue").ready == 0 {
        assert!(start.elapsed() < PATIENCE, "still in its queue after {count} deliveries");
        let Ok(next) = tokio::time::timeout(GLANCE, consumer.deliveries.recv()).await else { continue };
        let delivery = next.expect("the queue is there");
        assert_eq!(delivery.delivery_count, count, "each return is counted");
        broker.settle(delivery.tag, Settle::Reject);
        count += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_kills_its_hosts_ends_as_delivery_limit_above_all_attempts() {
    let mut house = House::open(&[guest("hostile")]).await;
    let broker = house.broker.connect();
    assert!(within("shutdown", house.shutdown()).await);
    for (id, retried) in [("fresh", false), ("retried", true)] {
        let mut inbox = Inbox::open(&broker, "replies").await;
        let mut consumer = broker.consume("warren.jobs.hostile", 1).await.expect("consumes");
        let mut message = job("hostile", id, body(json!({"mode": "invalid"})));
        message.properties.reply_to = Some("replies".into());
        if retried {
            // As a host publishes it after a failed attempt.
            message.exchange = "warren.retry.20".into();
            message.properties.set("attempt", warren::broker::HeaderValue::Int(1));
        }
        broker.publish(message, true).await.expect("published");
        let deliveries = fail_until_gone(&mut consumer, &broker).await;
        assert_eq!(deliveries, warren::topology::DELIVERY_LIMIT + 1, "{id}");
        drop(consumer);
        let connection: Arc<dyn Broker> = Arc::new(broker.connect());
        let next = House::on(broker.connect(), connection, &[guest("hostile")], |_| {}).await;
        let last = inbox.until_final().await.pop().expect("one");
        assert_eq!(error(&last).0, "DELIVERY_LIMIT", "{last:?}");
        // The last of the hosts that died may have published as this attempt.
        let highest = i64::from(deliveries) + i64::from(retried);
        assert!(int(&last, "attempt") > highest, "attempt {} after {highest}", int(&last, "attempt"));
        next.quiet().await;
        let letters = next.dead_letters().await;
        assert_eq!(letters.len(), 1, "{letters:?}");
        assert_eq!(letters[0].properties.text("code"), Some("DELIVERY_LIMIT"), "{letters:?}");
    }
}
