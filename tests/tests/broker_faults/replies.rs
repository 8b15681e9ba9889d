//! Where results go: every form of a reply address, and addresses that take nothing.

use std::collections::HashSet;
use std::pin::Pin;
use std::time::Instant;

use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, ExchangeDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Consumer, ExchangeKind};
use serde_json::json;
use tokio::time::sleep;
use warren::wire::{DIRECT_REPLY_TO, JOBS};
use warren_tests::oracle::Job;
use warren_tests::process::Process;
use warren_tests::scene::{Scene, calm};
use warren_tests::{GLANCE, PATIENCE, body, patient, within};

use super::raw::{Raw, header, properties, table, text};

fn to(reply_to: &str, job: Job) -> Job {
    Job { reply_to: Some(reply_to.to_owned()), ..job }
}

/// Asserts that these letters keep the results of these jobs, and say where they should have gone.
fn keep_results(letters: &[Delivery], address: impl Fn(&str) -> bool, ids: &HashSet<String>) {
    for letter in letters {
        let shown = || format!("{:?}: {}", letter.properties, String::from_utf8_lossy(&letter.data));
        let id = letter.properties.correlation_id().as_ref().map(|id| id.as_str()).unwrap_or_default();
        assert!(ids.contains(id), "a letter of another job: {}", shown());
        assert_eq!(header(letter, "code").as_deref(), Some("REPLY_UNROUTABLE"), "{}", shown());
        assert!(header(letter, "reply-to").is_some_and(|to| address(&to)), "{}", shown());
        assert_eq!(letter.properties.kind().as_ref().map(|k| k.as_str()), Some("result"), "{}", shown());
        let result: serde_json::Value = serde_json::from_slice(&letter.data).expect("an infer response");
        assert_eq!(result["id"], id, "{}", shown());
        assert!(result["outputs"].is_array(), "{}", shown());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reply_address_leads_nowhere_from_the_start() {
    const EACH: usize = 10;
    let scene = Scene::set("nowhere").await;
    let mut host = scene.host(&scene.address).await;
    let before = host.descriptors();
    let raw = Raw::open(&scene.address).await;
    let tap = raw.tap().await;
    let long = "n".repeat(255);
    let addresses = ["no.such.queue", "no.such.exchange/key", "amq.topic/nobody.bound.this", "/", &long];
    scene.oracle.fault();
    let mut ids = HashSet::new();
    for address in addresses {
        for job in [Job::noop(), Job::hostile("announced-busy", 5)] {
            let jobs = (0..EACH / 2).map(|_| to(address, job.clone()));
            ids.extend(scene.oracle.publish(jobs).await);
            // Neighbours, whose results share channels with those that are refused.
            scene.oracle.publish((0..EACH / 2).map(|_| Job::noop())).await;
        }
    }
    scene.all_end("though some addresses lead nowhere", &host).await;
    let letters = raw.take(tap, ids.len()).await;
    // The default exchange is written as the empty name.
    keep_results(&letters, |to| addresses.contains(&to) || to.is_empty(), &ids);
    calm(&mut host, before).await;
    let report = scene.finish("reply address: nowhere", addresses.len()).await;
    report.right();
    let each = EACH * addresses.len();
    let due = [("REPLY_UNROUTABLE".to_owned(), each), ("RESULT".to_owned(), each)];
    assert_eq!(report.row.ends, due.into_iter().collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reply_queue_is_full_and_then_drained() {
    const FULL: &str = "a full queue";
    const LENGTH: u32 = 5;
    let mut scene = Scene::set("full").await;
    let mut host = scene.host(&scene.address).await;
    let before = host.descriptors();
    let raw = Raw::open(&scene.address).await;
    let tap = raw.tap().await;
    raw.declare(
        FULL,
        table([
            ("x-queue-type", text("quorum")),
            ("x-max-length", AMQPValue::LongInt(LENGTH as i32)),
            ("x-overflow", text("reject-publish")),
        ]),
    )
    .await;
    // Without statuses: the queue refuses those as well.
    let jobs = |count| (0..count).map(|_| to(FULL, Job::hostile("busy", 5)));
    scene.oracle.fault();
    // Nobody reads: some results fit in, the others become dead letters.
    let mut ids: HashSet<String> = scene.oracle.publish(jobs(30)).await.into_iter().collect();
    let start = Instant::now();
    let mut kept = Vec::new();
    while kept.len() + raw.count(FULL).await < ids.len() {
        kept.extend(raw.get(tap).await);
        assert!(start.elapsed() < PATIENCE, "{} of 30 results are kept\n{}", kept.len(), host.log());
        sleep(GLANCE).await;
    }
    assert!(kept.len() >= 20, "the queue was not full: {} letters", kept.len());
    // It is drained while the host tries again: some results arrive and some do not, none does both.
    ids.extend(scene.oracle.publish(jobs(40)).await);
    let start = Instant::now();
    while kept.len() < 32 {
        match raw.get(tap).await {
            Some(letter) => kept.push(letter),
            None => sleep(GLANCE).await,
        }
        assert!(start.elapsed() < PATIENCE, "{} results are kept\n{}", kept.len(), host.log());
    }
    scene.oracle.listen(FULL);
    scene.all_end("after the queue was drained", &host).await;
    // Now that it is read everything arrives.
    scene.oracle.publish(jobs(3)).await;
    scene.all_end("once the queue is read", &host).await;
    // Every letter has left its mark in the oracle's book, and a copy here.
    while let Some(letter) = raw.get(tap).await {
        kept.push(letter);
    }
    keep_results(&kept, |to| to == FULL, &ids);
    calm(&mut host, before).await;
    let report = scene.finish("reply queue: full, then drained", 2).await;
    report.right();
    let ends = &report.row.ends;
    assert_eq!(ends.get("REPLY_UNROUTABLE"), Some(&kept.len()), "{ends:?}");
    assert_eq!(ends.values().sum::<usize>(), ends["RESULT"] + ends["REPLY_UNROUTABLE"], "{ends:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reply_queue_is_deleted_in_mid_job() {
    const RUNS: usize = 3;
    let scene = Scene::set("gone").await;
    patient(scene.plugins.path());
    let mut host = scene.host(&scene.address).await;
    let before = host.descriptors();
    let raw = Raw::open(&scene.address).await;
    let tap = raw.tap().await;
    let queue = |run: usize| format!("gone.{run}");
    let mut ids = HashSet::new();
    for run in 0..RUNS {
        let queue = queue(run);
        raw.declare(&queue, table([("x-queue-type", text("quorum"))])).await;
        let long = Job::new("patient", json!({ "mode": "announced-busy", "number": 700 }));
        let id = scene.oracle.publish([to(&queue, long)]).await.remove(0);
        scene.oracle.publish((0..5).map(|_| Job::noop())).await;
        let status = raw.take(&queue, 1).await.remove(0);
        scene.oracle.heard(&queue, &status);
        let deleted = raw.channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
        within("the deletion", deleted).await.expect("deleted");
        scene.oracle.fault();
        assert!(!scene.oracle.story(&id).has_ended(), "run {run}: it was done before the queue was gone");
        scene.all_end("though the queue for its result was deleted", &host).await;
        ids.insert(id);
    }
    let letters = raw.take(tap, RUNS).await;
    keep_results(&letters, |to| to.starts_with("gone."), &ids);
    calm(&mut host, before).await;
    let report = scene.finish("reply queue: deleted in mid-job", RUNS).await;
    report.right();
    let due = [("REPLY_UNROUTABLE".to_owned(), RUNS), ("RESULT".to_owned(), 5 * RUNS)];
    assert_eq!(report.row.ends, due.into_iter().collect());
}

/// Consumes on a direct reply-to of this connection.
async fn direct(raw: &Raw) -> Consumer {
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let consumer =
        raw.channel.basic_consume(DIRECT_REPLY_TO.into(), "".into(), options, FieldTable::default());
    within("a subscription", consumer).await.expect("consumes")
}

async fn next(consumer: &mut Consumer) -> Delivery {
    let next = std::future::poll_fn(|cx| futures_core::Stream::poll_next(Pin::new(&mut *consumer), cx));
    within("a reply", next).await.expect("the consumer lives").expect("a reply")
}

fn is_final(delivery: &Delivery) -> bool {
    let headers = delivery.properties.headers().as_ref();
    matches!(headers.and_then(|h| h.inner().get("final")), Some(AMQPValue::Boolean(true)))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_a_reply_address_is_answered() {
    const EACH: usize = 10;
    let mut scene = Scene::set("forms").await;
    let mut host = scene.host(&scene.address).await;
    let before = host.descriptors();
    let raw = Raw::open(&scene.address).await;
    let own = "oracle.forms";
    let exchange = raw.channel.exchange_declare(
        "answers".into(),
        ExchangeKind::Topic,
        ExchangeDeclareOptions::default(),
        FieldTable::default(),
    );
    within("an exchange", exchange).await.expect("declared");
    raw.bind(own, "answers", "to.#").await;
    raw.bind(own, "amq.topic", "to.#").await;
    scene.oracle.listen("warren.responses");
    let chatty = || Job::hostile("announced-busy", 5);
    // A queue; an exchange and a key, with further slashes; the default exchange and a key.
    for address in [own, "answers/to.me", "amq.topic/to.a/b", &format!("/{own}")] {
        scene.oracle.publish((0..EACH).map(|_| to(address, chatty()))).await;
    }
    let mut ids = 0..;
    let mut name = || format!("form {}", ids.next().unwrap_or_default());
    let parameters = body(json!({ "mode": "announced-busy", "number": 5 }));
    // None: the shared queue.
    for _ in 0..EACH {
        let id = name();
        scene.oracle.expect(&id);
        let without = properties(&id, "");
        raw.publish(JOBS, "hostile", without, &parameters).await.expect("taken");
        scene.oracle.kept(&id);
    }
    // The client's own connection; statuses only on request.
    let mut replies = direct(&raw).await;
    for all in [false, true] {
        for _ in 0..EACH {
            let id = name();
            scene.oracle.expect(&id);
            let mut asked = properties(&id, DIRECT_REPLY_TO);
            if all {
                asked = asked.with_headers(table([("events", text("all"))]));
            }
            raw.publish(JOBS, "hostile", asked, &parameters).await.expect("taken");
            scene.oracle.kept(&id);
            let mut heard = Vec::new();
            loop {
                let reply = next(&mut replies).await;
                scene.oracle.heard("direct reply-to", &reply);
                heard.push(reply.properties.kind().as_ref().map_or("", |k| k.as_str()).to_owned());
                if is_final(&reply) {
                    break;
                }
            }
            let due: &[&str] = if all { &["status", "result"] } else { &["result"] };
            assert_eq!(heard, due, "{id}");
        }
    }
    scene.all_end("whatever the form of its address", &host).await;
    let _ = raw.channel.basic_cancel(replies.tag(), BasicCancelOptions::default()).await;
    calm(&mut host, before).await;
    let report = scene.finish("reply address: all forms", 7).await;
    report.all("RESULT");
    assert_eq!((report.row.jobs, report.row.duplicates_before), (7 * EACH, 0));
}

/// Nobody can be told: the result is kept as for any other address that takes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_direct_reply_to_goes_before_its_job_ends() {
    const RUNS: usize = 3;
    let scene = Scene::set("direct").await;
    patient(scene.plugins.path());
    let mut host: Process = scene.host(&scene.address).await;
    let before = host.descriptors();
    let raw = Raw::open(&scene.address).await;
    let tap = raw.tap().await;
    let mut ids = HashSet::new();
    for run in 0..RUNS {
        let client = Raw::open(&scene.address).await;
        let mut replies = direct(&client).await;
        let id = format!("direct {run}");
        scene.oracle.expect(&id);
        let asked = properties(&id, DIRECT_REPLY_TO).with_headers(table([("events", text("all"))]));
        let long = body(json!({ "mode": "announced-busy", "number": 500 }));
        client.publish(JOBS, "patient", asked, &long).await.expect("taken");
        scene.oracle.kept(&id);
        let status = next(&mut replies).await;
        scene.oracle.heard("direct reply-to", &status);
        assert!(!is_final(&status));
        within("the end", client.connection.close(200, "gone".into())).await.expect("closed");
        scene.oracle.fault();
        scene.oracle.publish((0..5).map(|_| Job::noop())).await;
        scene.all_end("though its client is gone", &host).await;
        ids.insert(id);
    }
    let letters = raw.take(tap, RUNS).await;
    keep_results(&letters, |to| to.starts_with(DIRECT_REPLY_TO), &ids);
    calm(&mut host, before).await;
    let report = scene.finish("reply address: direct, and its client is gone", RUNS).await;
    report.right();
    let due = [("REPLY_UNROUTABLE".to_owned(), RUNS), ("RESULT".to_owned(), 5 * RUNS)];
    assert_eq!(report.row.ends, due.into_iter().collect());
}
