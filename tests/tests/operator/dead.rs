//! `warren dead`: list, show, requeue, purge.

use std::collections::BTreeSet;

use warren::broker::{HeaderValue, QueueSpec};
use warren_tests::{Inbox, body, inbox, job};

use super::*;

/// A dead letter as hosts write it, of a model that nobody serves at the moment.
fn letter(model: &str, id: &str, code: &str) -> Message {
    let mut message = job(model, id, body(serde_json::json!({ "n": id })));
    message.exchange = "warren.dead".to_owned();
    for (name, value) in [("job", id), ("code", code), ("reason", "it broke\nbadly"), ("tenant", "acme")] {
        message.properties.set(name, HeaderValue::Text(value.to_owned()));
    }
    message.properties.set("attempt", HeaderValue::Int(7));
    message.properties.set("died-at", HeaderValue::Int(1_700_000_000));
    message.properties.set("deadline", HeaderValue::Int(1));
    message.properties.message_id = Some(format!("message-{id}"));
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_jobs_are_listed_shown_and_sent_back_with_all_their_retries() {
    let scene = Scene::set("dead").await;
    let _host = scene.host(&[("retry_delays_ms", "[50, 100]")]).await;
    let spec = QueueSpec { name: "mine".to_owned(), ..QueueSpec::default() };
    scene.broker.declare_queue(&spec).await.expect("declared");
    let mut events = Inbox::open(&*scene.broker, "mine").await;
    let mut message = job("hostile", "moon", body(serde_json::json!({ "mode": "retry" })));
    message.properties.reply_to = Some("mine".to_owned());
    message.properties.message_id = Some("the same".to_owned());
    scene.publish(message).await;
    let last = events.until_final().await.pop().expect("an event");
    assert_eq!((inbox::error(&last).0.as_str(), inbox::int(&last, "attempt")), ("RETRIES_EXHAUSTED", 3));

    let listed = scene.ok(&["dead", "list"]).await;
    assert!(listed.contains("moon") && listed.contains("RETRIES_EXHAUSTED"), "{listed}");
    assert!(listed.ends_with("1 dead letters\n"), "{listed}");
    let shown = scene.ok(&["dead", "show", "moon"]).await;
    for word in
        ["RETRIES_EXHAUSTED", "moon is in the way", "attempt 1,", "attempt 3,", "\"mode\": \"retry\"", "mine"]
    {
        assert!(shown.contains(word), "{word:?} is not in\n{shown}");
    }
    let raw = scene.ok(&["dead", "show", "moon", "--body"]).await;
    assert_eq!(raw.as_bytes(), body(serde_json::json!({ "mode": "retry" })));
    scene.fails(&["dead", "show", "sun"], &["sun"]).await;
    scene.fails(&["dead", "requeue", "sun"], &["sun"]).await;

    // Within the window in which the same message id is a duplicate: it is none.
    assert_eq!(scene.ok(&["dead", "requeue", "moon"]).await, "1 sent back\n");
    let last = events.until_final().await.pop().expect("an event");
    assert_eq!((inbox::error(&last).0.as_str(), inbox::int(&last, "attempt")), ("RETRIES_EXHAUSTED", 6));
    let letters = lines(&scene.ok(&["dead", "list", "--json"]).await);
    let history = letters[0]["history"].as_array().expect("lines");
    assert_eq!((letters.len(), history.len()), (1, 7), "{letters:?}");
    assert!(history[3].to_string().contains("requeued"), "{history:?}");

    // A result whose address is gone, sent to another.
    let mut message = job("echo", "lost", body(serde_json::json!({})));
    message.properties.reply_to = Some("gone".to_owned());
    scene.publish(message).await;
    scene.until_ready("warren.dead", 2).await;
    let letters = lines(&scene.ok(&["dead", "list", "--json", "--code", "reply_unroutable"]).await);
    assert_eq!(
        (letters.len(), &letters[0]["what"], &letters[0]["job"]),
        (1, &"result".into(), &"lost".into())
    );
    let ran = scene.run(&["dead", "requeue", "lost"]).await;
    assert!(ran.status.code() == Some(1) && ran.err.contains("no queue is behind queue gone"), "{ran:?}");
    scene.ok(&["dead", "requeue", "lost", "--reply-to", "mine"]).await;
    let event = events.next().await;
    assert_eq!((inbox::kind(&event), event.properties.text("job")), ("result", Some("lost")));
    assert_eq!(scene.ok(&["dead", "purge", "moon"]).await, "1 forgotten\n");
    scene.until_ready("warren.dead", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_letters_keep_their_order_and_only_those_meant_go() {
    let scene = Scene::set("many").await;
    let mut host = scene.host(&[]).await;
    host.signal("TERM");
    assert_eq!(host.ended(PATIENCE).await.code(), Some(0), "{}", host.log());
    for n in 0..1000 {
        let model = if n % 10 == 0 { "nobody" } else { "echo" };
        scene.publish(letter(model, &format!("{n:04}"), if n % 2 == 0 { "EVEN" } else { "ODD" })).await;
    }
    let listed = lines(&scene.ok(&["dead", "list", "--json"]).await);
    let ids: Vec<&str> = listed.iter().filter_map(|l| l["job"].as_str()).collect();
    let expected: Vec<String> = (0..1000).map(|n| format!("{n:04}")).collect();
    assert_eq!(ids, expected);
    scene.until_ready("warren.dead", 1000).await;
    assert_eq!(lines(&scene.ok(&["dead", "list", "--json", "--model", "nobody"]).await).len(), 100);

    // The odd ones have a queue, and so have most of the even ones.
    assert_eq!(scene.ok(&["dead", "requeue", "--code", "odd"]).await, "500 sent back\n");
    scene.until_ready("warren.jobs.echo", 500).await;
    let ran = scene.run(&["dead", "requeue", "--all"]).await;
    assert_eq!((ran.status.code(), ran.out.as_str()), (Some(1), "400 sent back\n"), "{ran:?}");
    assert!(ran.err.contains("100 stay dead letters: no queue takes jobs for nobody"), "{ran:?}");
    scene.until_ready("warren.jobs.echo", 900).await;
    scene.until_ready("warren.dead", 100).await;

    // Body and properties are what they were; what death added is gone.
    let mut jobs = Inbox::open(&*scene.broker, "warren.jobs.echo").await;
    let mut ids = BTreeSet::new();
    for _ in 0..900 {
        let message = jobs.next().await;
        let properties = &message.properties;
        let id = properties.correlation_id.clone().expect("an id");
        assert_eq!(message.body, body(serde_json::json!({ "n": id })));
        assert_eq!(properties.message_id, Some(format!("message-{id}")));
        assert_eq!((properties.int("attempt"), properties.text("tenant")), (Some(7), Some("acme")));
        for gone in ["code", "reason", "died-at", "deadline", "job"] {
            assert!(properties.header(gone).is_none(), "{gone} is in {properties:?}");
        }
        assert!(ids.insert(id), "sent back twice: {message:?}");
    }
    assert_eq!(scene.ok(&["dead", "purge", "--all"]).await, "100 forgotten\n");
    scene.until_ready("warren.dead", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requeue_that_is_killed_loses_nothing() {
    let scene = Scene::set("killed").await;
    let mut host = scene.host(&[]).await;
    host.signal("TERM");
    assert_eq!(host.ended(PATIENCE).await.code(), Some(0), "{}", host.log());
    let count = 2000;
    for n in 0..count {
        scene.publish(letter("echo", &format!("{n:04}"), "EVEN")).await;
    }
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut cut = 0;
    for _ in 0..6 {
        let mut child = scene.command(&["dead", "requeue", "--all"]).spawn().expect("starts");
        let before = scene.ready("warren.jobs.echo").await;
        // Once it has sent some.
        let start = Instant::now();
        while scene.ready("warren.jobs.echo").await == before && start.elapsed() < Duration::from_secs(2) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(random.u64(0..30))).await;
        let ended = child.try_wait().expect("a child").is_some();
        cut += usize::from(!ended);
        // Fails only for one that has ended.
        let _ = child.kill();
        child.wait().expect("ends");
    }
    assert!(cut > 0, "no run was cut off: seed {seed}");
    // What was in hand comes back.
    let start = Instant::now();
    loop {
        let (dead, jobs) = (scene.ready("warren.dead").await, scene.ready("warren.jobs.echo").await);
        if dead + jobs >= count {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{dead} dead letters and {jobs} jobs of {count}: seed {seed}");
        tokio::time::sleep(GLANCE).await;
    }
    scene.run(&["dead", "requeue", "--all"]).await;
    scene.until_ready("warren.dead", 0).await;
    let total = scene.ready("warren.jobs.echo").await;
    let mut jobs = Inbox::open(&*scene.broker, "warren.jobs.echo").await;
    let mut ids = BTreeSet::new();
    for _ in 0..total {
        ids.insert(jobs.next().await.properties.correlation_id.expect("an id"));
    }
    println!("{cut} of 6 runs cut off; {count} jobs, {total} sent back, {} lost", count - ids.len() as u64);
    assert_eq!(ids.len() as u64, count, "jobs are lost: seed {seed}");
}
