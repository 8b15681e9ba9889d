//! `warren submit`, `follow`, `cancel` and `queue`.

use warren::broker::{HeaderValue, Properties, QueueSpec, Settle};
use warren_tests::{body, job};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_submitted_followed_and_cancelled() {
    let scene = Scene::set("jobs").await;
    scene.fails(&["submit", "echo", "--detach"], &["warren.jobs"]).await;
    let _host = scene.host(&[]).await;
    let events = lines(&scene.ok(&["submit", "echo", "-i", "text=hello", "--id", "one", "--json"]).await);
    let last = events.last().expect("an event");
    assert_eq!(
        (&last["job"], &last["type"], &last["final"]),
        (&"one".into(), &"result".into(), &true.into())
    );
    assert_eq!(last["body"]["outputs"][0]["data"][0], "hello", "{last}");
    scene.fails(&["submit", "hostile", "-p", "mode=invalid"], &["INVALID_INPUT", "nonsense"]).await;

    // Detached: the events wait for whoever follows, from the first one on, once.
    let id = scene.ok(&["submit", "hostile", "-p", "mode=partials", "-p", "number=3", "--detach"]).await;
    let id = id.trim();
    let queue = format!("warren.reply.{id}");
    let start = Instant::now();
    while scene.ready(&queue).await < 4 {
        assert!(start.elapsed() < PATIENCE, "{} events", scene.ready(&queue).await);
        tokio::time::sleep(GLANCE).await;
    }
    let events = lines(&scene.ok(&["follow", id, "--json"]).await);
    let partials = events.iter().filter(|e| e["type"] == "partial").count();
    assert_eq!((partials, &events.last().expect("events")["type"]), (3, &"result".into()), "{events:?}");
    for (place, event) in events.iter().enumerate() {
        assert_eq!((event["sequence"].as_u64(), event["attempt"].as_u64()), (Some(place as u64), Some(1)));
    }
    scene.fails(&["follow", id], &["no queue", "--queue"]).await;

    // Cancelled while it runs: following it was given up before, and begins anew.
    let id = scene.ok(&["submit", "patient", "-p", "mode=sleep", "--detach"]).await;
    let id = id.trim();
    scene.fails(&["follow", id, "--timeout", "1s"], &["in time"]).await;
    assert!(scene.ok(&["cancel", id]).await.contains(id));
    let ran = scene.run(&["follow", id]).await;
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    assert!(ran.err.contains("CANCELLED"), "{ran:?}");

    // Attached and interrupted: it is cancelled, for nobody would read its result.
    let mut command = scene.command(&["submit", "patient", "-p", "mode=sleep"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    tokio::time::sleep(Duration::from_millis(700)).await;
    signal(child.id(), "INT");
    let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await.expect("no panic");
    let ran = Ran::new(&["submit"], output.expect("ends"));
    assert!(ran.status.code() == Some(1) && ran.err.contains("CANCELLED"), "{ran:?}");
    scene.until_ready("warren.dead", 0).await;
}

/// The bodies of a queue's messages, in order, without taking them.
async fn peek(scene: &Scene, queue: &str, count: usize) -> Vec<Message> {
    let mut consumer = scene.broker.consume(queue, 1000).await.expect("consumes");
    let mut all = Vec::new();
    for _ in 0..count {
        let delivery = within("a message", consumer.deliveries.recv()).await.expect("the queue is there");
        all.push(delivery.message);
    }
    drop(consumer);
    scene.until_ready(queue, count as u64).await;
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn following_in_a_shared_queue_takes_nothing_from_anybody() {
    let scene = Scene::set("shared").await;
    let _host = scene.host(&[]).await;
    // A queue that keeps no order by itself: without a delivery limit, what is returned goes to its end.
    let spec = QueueSpec { name: "shared".to_owned(), ..QueueSpec::default() };
    scene.broker.declare_queue(&spec).await.expect("declared");
    for n in 0..20 {
        let mut message =
            job("hostile", &format!("j{n}"), body(serde_json::json!({ "mode": "partials", "number": 3 })));
        message.properties.reply_to = Some("shared".to_owned());
        scene.publish(message).await;
    }
    // 3 partials and the result of each, and statuses.
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = scene.ready("shared").await;
        if now >= 80 && now == count {
            break;
        }
        count = now;
    }
    let ids = |all: &[Message]| -> Vec<Option<String>> {
        all.iter().map(|m| m.properties.message_id.clone()).collect()
    };
    let before = ids(&peek(&scene, "shared", count as usize).await);

    let events = lines(&scene.ok(&["follow", "j11", "--queue", "shared", "--json"]).await);
    assert_eq!(events.iter().filter(|e| e["type"] == "partial").count(), 3, "{events:?}");
    assert!(events.iter().all(|e| e["job"] == "j11"), "{events:?}");
    assert_eq!(ids(&peek(&scene, "shared", count as usize).await), before, "order or content has changed");

    // More than may be held: said, and nothing is touched.
    scene.fails(&["follow", "j19", "--queue", "shared", "--hold", "5"], &["--hold"]).await;
    scene.fails(&["follow", "nobody", "--queue", "shared", "--timeout", "1s"], &["in time"]).await;
    assert_eq!(ids(&peek(&scene, "shared", count as usize).await), before);

    // Taken: this job's are gone, and nothing else is; the order is kept.
    scene.ok(&["follow", "j11", "--queue", "shared", "--take"]).await;
    let rest: Vec<_> = before.iter().flatten().filter(|id| !id.starts_with("j11:")).cloned().collect();
    scene.until_ready("shared", rest.len() as u64).await;
    let after: Vec<String> = ids(&peek(&scene, "shared", rest.len()).await).into_iter().flatten().collect();
    assert_eq!(after, rest);
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_shown_with_depth_change_and_consumers() {
    let scene = Scene::set("queues").await;
    let mut host = scene.host(&[]).await;
    let row = |all: &[Value], name: &str| -> Value {
        all.iter()
            .find(|row| row["queue"] == name)
            .unwrap_or_else(|| panic!("{name} is not in {all:?}"))
            .clone()
    };
    let all = scene.ok(&["queue", "--json", "--every", "0s"]).await;
    let all: Vec<Value> = serde_json::from_str(&all).expect("JSON");
    assert_eq!(row(&all, "warren.jobs.echo")["consumers"], 1);
    assert_eq!(row(&all, "warren.responses")["consumers"], 0);
    host.signal("TERM");
    assert_eq!(host.ended(PATIENCE).await.code(), Some(0), "{}", host.log());

    // Nobody takes them now.
    let mut command = scene.command(&["queue", "echo", "--watch", "--json", "--every", "500ms"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    tokio::time::sleep(Duration::from_millis(800)).await;
    for n in 0..30 {
        scene.publish(job("echo", &format!("q{n}"), body(serde_json::json!({})))).await;
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    signal(child.id(), "INT");
    assert!(child.wait().expect("ends").success());
    let mut out = String::new();
    std::io::Read::read_to_string(child.stdout.as_mut().expect("piped"), &mut out).expect("text");
    let looks: Vec<Value> =
        lines(&out).iter().map(|l| row(l.as_array().expect("rows"), "warren.jobs.echo")).collect();
    let last = looks.last().expect("looks");
    assert_eq!((&last["ready"], &last["consumers"]), (&30.into(), &0.into()), "{looks:?}");
    let rose = looks.iter().filter_map(|l| l["change_per_second"].as_f64()).fold(0.0, f64::max);
    assert!(rose > 5.0, "30 messages came and no rate says so: {looks:?}");

    let table = scene.ok(&["queue", "nobody"]).await;
    let missing = table.lines().find(|l| l.contains("warren.jobs.nobody.bulk")).expect("a row");
    assert!(missing.contains("not there"), "{table}");
    assert!(table.lines().any(|l| l.ends_with("warren.dead") && l.contains("+0.0")), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_nobody_harms_no_follower() {
    let scene = Scene::set("noise").await;
    let _host = scene.host(&[]).await;
    let spec = QueueSpec { name: "mixed".to_owned(), ..QueueSpec::default() };
    scene.broker.declare_queue(&spec).await.expect("declared");
    scene.fails(&["submit", "echo", "--detach", "--reply-to", "nowhere"], &["nowhere", "create"]).await;
    // No event, and one of another life of the job.
    let properties = Properties { persistent: true, ..Properties::default() };
    let mut message = Message {
        exchange: String::new(),
        routing_key: "mixed".to_owned(),
        properties,
        body: "noise".into(),
    };
    scene.publish(message.clone()).await;
    message.properties.kind = Some("status".to_owned());
    for (name, value) in [("job", "mine"), ("model", "echo")] {
        message.properties.set(name, HeaderValue::Text(value.to_owned()));
    }
    scene.publish(message).await;
    let arguments =
        ["submit", "echo", "-i", "text=hi", "--id", "mine", "--detach", "--reply-to", "mixed", "--json"];
    let said: Value = serde_json::from_str(&scene.ok(&arguments).await).expect("JSON");
    assert_eq!(said, serde_json::json!({ "job": "mine", "reply_to": "mixed" }));
    let shown = scene.ok(&["follow", "mine", "--queue", "mixed"]).await;
    assert!(shown.contains("hi"), "{shown}");
    let mut consumer = scene.broker.consume("mixed", 10).await.expect("consumes");
    let first = within("a message", consumer.deliveries.recv()).await.expect("it is there");
    assert_eq!(first.message.body, "noise");
    scene.broker.settle(first.tag, Settle::Ack);
}
