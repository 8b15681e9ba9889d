//! A job stopped wherever it may be waiting: by its client, by its deadline, by the host's end. It ends
//! in one final event with the right code, its delivery is settled, nothing is left of it, and the next
//! job in the same place is right. The guest `random` tours the calls that a job may be in.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use warren::broker::client::BrokerTransport;
use warren::broker::embedded::Embedded;
use warren::broker::{Broker, HeaderValue, Message, QueueDepth};
use warren::config::Config;
use warren_client::Transport;
use warren_tensor::{Engine, EngineConfig};
use warren_tests::inbox::{body, error, job, kind};
use warren_tests::watched::is_final;
use warren_tests::{Fate, GLANCE, House, Inbox, PATIENCE, Watched, guest, hostile, logs, within};

/// Panics of any thread, whoever catches them.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn count_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // A test that fails is no finding by itself.
            if !panic.location().is_some_and(|l| l.file().starts_with("tests")) {
                PANICS.lock().unwrap().push(panic.to_string());
            }
            before(panic);
        }));
    });
}

fn no_panic(after: &str) {
    let panics = PANICS.lock().unwrap();
    assert!(panics.is_empty(), "after {after}: {panics:?}");
}

/// What a job may be in when it is stopped, as the guest announces it.
const STAGES: [&str; 12] = [
    "sleep", "poll", "compute", "open", "write", "stream", "splice", "list", "dispatch", "read", "emit",
    "outputs",
];

/// What a cancelled guest gets to return by itself, the ticks that notice, and a machine that is busy.
const SOON: Duration = Duration::from_secs(2);

const REPLIES: &str = "replies";

fn tour(id: &str, which: &str, pace: u64) -> Message {
    let mut message = job("random", id, body(json!({"tour": which, "pace": pace})));
    message.properties.reply_to = Some(REPLIES.into());
    message
}

struct Scene {
    house: House,
    live: (u64, u64),
}

impl Scene {
    async fn open(device: &str, change: impl FnOnce(&mut Config)) -> Self {
        count_panics();
        Self::of(House::with(&plugins(), |config| settings(config, device, change)).await).await
    }

    async fn of(house: House) -> Self {
        house.answers("the start").await;
        house.quiet().await;
        // What is held of `random`'s assets once they are in use.
        let mut replies = Inbox::open(&house.broker, "warm").await;
        let mut message = tour("warm", "all", 1);
        message.properties.reply_to = Some("warm".into());
        house.publish(message).await;
        assert_eq!(code(&replies.until_final().await), "RESULT");
        house.quiet().await;
        let mut scene = Self { house, live: (0, 0) };
        tokio::time::sleep(Duration::from_millis(200)).await;
        scene.live = scene.live();
        scene
    }

    fn live(&self) -> (u64, u64) {
        let stats = self.house.host().tensors().stats();
        (stats.live_bytes, stats.device_live_bytes)
    }

    async fn cancel(&self, id: &str) {
        let transport = BrokerTransport::new(std::sync::Arc::new(self.house.broker.connect()));
        transport.cancel(id).await.expect("published");
    }

    /// All deliveries are settled, and nothing is left of them.
    async fn is_clean(&self, after: &str) {
        self.house.quiet().await;
        let start = Instant::now();
        loop {
            let left: Vec<PathBuf> =
                std::fs::read_dir(self.house.scratch()).unwrap().flatten().map(|e| e.path()).collect();
            let live = self.live();
            if left.is_empty() && live == self.live {
                break;
            }
            let wanted = self.live;
            assert!(
                start.elapsed() < PATIENCE,
                "after {after}: scratch {left:?}, live {live:?} of {wanted:?}"
            );
            tokio::time::sleep(GLANCE).await;
        }
        no_panic(after);
    }

    /// Every slot is free, and what runs there is right: as many jobs as there are slots, at once.
    async fn slots_are_free(&self, after: &str) {
        let mut jobs = Vec::new();
        let slots = self.house.config.slots;
        for n in 0..slots {
            let which = if n % 2 == 0 { "all" } else { "write" };
            let request = warren_client::JobRequest::new("random").parameter("tour", which);
            let mut job = self.house.client.submit(request.parameter("pace", 4)).await.expect("taken");
            // It runs.
            within("its first status", job.next()).await.expect("an event").expect("readable");
            jobs.push(job);
        }
        for job in jobs {
            let result = within("its result", job.result()).await;
            let response = result.unwrap_or_else(|e| panic!("after {after}: {e}\n{}", logs::tail(20)));
            let Some(ones) = response.output("ones") else { panic!("after {after}: {response:?}") };
            let right = match &ones.data {
                warren_client::oip::Data::Raw(bytes) => {
                    bytes.chunks_exact(4).all(|e| f32::from_le_bytes(e.try_into().unwrap()) == 1.0)
                }
                other => panic!("after {after}: {other:?}"),
            };
            assert!(right, "after {after}: a wrong product");
        }
    }
}

fn settings(config: &mut Config, device: &str, change: impl FnOnce(&mut Config)) {
    config.device = device.into();
    // Compiled once for all of these tests.
    let cache = std::env::current_exe().unwrap().with_file_name("cancel-everywhere-cache");
    config.cache = Some(cache);
    config.status_interval_ms = 0;
    change(config);
}

fn plugins() -> [PathBuf; 3] {
    [guest("random"), guest("echo"), guest("hostile")]
}

/// How the final of these events says that the job ended. There is one, and it is the last.
fn code(events: &[Message]) -> String {
    let finals = events.iter().filter(|m| m.properties.header("final") == Some(&HeaderValue::Bool(true)));
    assert_eq!(finals.count(), 1, "{events:?}");
    let last = events.last().expect("a final event");
    if kind(last) == "result" { "RESULT".into() } else { error(last).0 }
}

/// Events up to a status of this stage; true when it came before the end.
async fn until_stage(inbox: &mut Inbox<'_>, stage: &str) -> Vec<Message> {
    let mut events = Vec::new();
    loop {
        let message = inbox.next().await;
        let text = String::from_utf8_lossy(&message.body).into_owned();
        let there = kind(&message) == "status" && text.contains(&format!("\"{stage}\""));
        assert!(!is_final(&message), "the job ended before {stage}: {text}\n{}", logs::tail(20));
        events.push(message);
        if there {
            return events;
        }
    }
}

fn devices() -> Vec<&'static str> {
    let there = |device: &&str| match Engine::new(EngineConfig {
        device: device.parse().unwrap(),
        ..EngineConfig::default()
    }) {
        Ok(_) => true,
        Err(error) => {
            eprintln!("SKIPPED: {error} (mesa-vulkan-drivers has llvmpipe)");
            false
        }
    };
    ["cpu", "wgpu:llvmpipe"].into_iter().filter(there).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_cancelled_in_whatever_call_it_is() {
    for device in devices() {
        let scene = Scene::open(device, |_| {}).await;
        let mut replies = Inbox::open(&scene.house.broker, REPLIES).await;
        for stage in STAGES {
            let id = format!("cancelled-{stage}");
            scene.house.publish(tour(&id, stage, 20_000)).await;
            let mut events = until_stage(&mut replies, stage).await;
            tokio::time::sleep(Duration::from_millis(3)).await;
            let asked = Instant::now();
            scene.cancel(&id).await;
            events.extend(replies.until_final().await);
            let took = asked.elapsed();
            assert_eq!(code(&events), "CANCELLED", "{device} {stage}: {:?}", events.last());
            assert!(took < SOON, "{device} {stage}: {took:?}");
            scene.is_clean(stage).await;
        }
        scene.slots_are_free("cancellations").await;
        assert!(replies.arrived().is_empty(), "something came after a final event");
        assert!(scene.house.dead_letters().await.is_empty(), "a cancelled job is no dead letter");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_expires_in_whatever_call_it_is() {
    for device in devices() {
        let scene = Scene::open(device, |_| {}).await;
        let mut replies = Inbox::open(&scene.house.broker, REPLIES).await;
        for stage in STAGES {
            let mut message = tour(&format!("expired-{stage}"), stage, 20_000);
            let life = Duration::from_millis(100);
            message.properties.expiration = Some(life);
            let asked = Instant::now();
            scene.house.publish(message).await;
            let events = replies.until_final().await;
            let took = asked.elapsed();
            assert_eq!(code(&events), "EXPIRED", "{device} {stage}: {:?}", events.last());
            assert!(took < life + SOON, "{device} {stage}: {took:?}");
            scene.is_clean(stage).await;
        }
        scene.slots_are_free("deadlines").await;
        assert!(replies.arrived().is_empty(), "something came after a final event");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wherever_between_two_calls_a_job_is_stopped_it_ends_once() {
    for (device, steps) in devices().into_iter().zip([30u64, 8]) {
        let scene = Scene::open(device, |_| {}).await;
        let mut replies = Inbox::open(&scene.house.broker, REPLIES).await;
        let mut ends = std::collections::BTreeMap::<String, u32>::new();
        for step in 0..steps {
            // A tour of about a tenth of a second, of which the first is cancelled and the second expires
            // after ever longer times.
            let after = Duration::from_micros(step * 120_000 / steps);
            let id = format!("swept-{step}");
            scene.house.publish(tour(&id, "all", 8)).await;
            tokio::time::sleep(after).await;
            scene.cancel(&id).await;
            let cancelled = code(&replies.until_final().await);
            assert!(["CANCELLED", "RESULT"].contains(&cancelled.as_str()), "{device} {after:?}: {cancelled}");

            let mut message = tour(&format!("late-{step}"), "all", 8);
            message.properties.expiration = Some(after);
            scene.house.publish(message).await;
            let expired = code(&replies.until_final().await);
            assert!(["EXPIRED", "RESULT"].contains(&expired.as_str()), "{device} {after:?}: {expired}");
            for end in [cancelled, expired] {
                *ends.entry(end).or_default() += 1;
            }
            if step % 4 == 3 {
                scene.is_clean(&format!("{after:?}")).await;
                scene.slots_are_free(&format!("{after:?}")).await;
            }
        }
        println!("{device}: {ends:?}");
        assert!(ends.contains_key("CANCELLED") && ends.contains_key("EXPIRED"), "{device}: {ends:?}");
        assert!(replies.arrived().is_empty(), "something came after a final event");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_ends_drops_its_jobs_in_whatever_call_they_are() {
    count_panics();
    for device in devices() {
        let broker = Embedded::new();
        for stage in STAGES {
            let connection = std::sync::Arc::new(broker.connect());
            let drain = |config: &mut Config| settings(config, device, |config| config.drain_ms = 5);
            let mut house = House::on(broker.connect(), connection, &plugins(), drain).await;
            let mut replies = Inbox::open(&broker, REPLIES).await;
            for n in 0..2 {
                house.publish(tour(&format!("{stage}-{n}"), stage, 20_000)).await;
                until_stage(&mut replies, stage).await;
            }
            let start = Instant::now();
            assert!(!house.shutdown().await, "{device} {stage}: no job could have finished");
            assert!(start.elapsed() < SOON, "{device} {stage}: {:?}", start.elapsed());
            let start = Instant::now();
            let queue = warren::wire::job_queue("random", warren::job::Class::Normal);
            // Both are back, for whoever comes next.
            loop {
                let depth = broker.depth(&queue).await.expect("the queue is there");
                let left = std::fs::read_dir(house.scratch()).unwrap().count();
                if depth == (QueueDepth { ready: 2, ..QueueDepth::default() }) && left == 0 {
                    break;
                }
                assert!(
                    start.elapsed() < PATIENCE,
                    "{device} {stage}: {depth:?}, {left} scratch directories"
                );
                tokio::time::sleep(GLANCE).await;
            }
            no_panic(stage);
            assert!(!replies.arrived().iter().any(is_final), "{stage}: it ended");
            // Nobody wants them any more.
            let mut back = Inbox::open(&broker, &queue).await;
            back.next().await;
            back.next().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_stopped_before_it_has_a_slot() {
    let store = tempfile::tempdir().unwrap();
    let large = store.path().join("large");
    std::fs::File::create(&large).unwrap().set_len(200 << 20).unwrap();
    let read = vec![store.path().to_owned()];
    let scene = Scene::open("cpu", |config| config.artifacts.read = read).await;
    let mut replies = Inbox::open(&scene.house.broker, REPLIES).await;

    // While it waits for one.
    let mut blockers = Vec::new();
    for _ in 0..scene.house.config.slots {
        let request = warren_client::JobRequest::new("random").parameter("tour", "sleep");
        let mut blocker = scene.house.client.submit(request.parameter("pace", 20_000)).await.expect("taken");
        within("its status", blocker.next()).await.expect("an event").expect("readable");
        blockers.push(blocker);
    }
    scene.house.publish(tour("waits", "all", 1)).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    scene.cancel("waits").await;
    assert_eq!(code(&replies.until_final().await), "CANCELLED");
    let mut message = tour("expires", "all", 1);
    message.properties.expiration = Some(Duration::from_millis(60));
    scene.house.publish(message).await;
    assert_eq!(code(&replies.until_final().await), "EXPIRED", "though no slot is free");
    for blocker in &blockers {
        blocker.cancel().await.expect("published");
    }
    scene.is_clean("waiting for a slot").await;

    // While its input is fetched.
    let url = format!("file://{}", large.display());
    for step in 0..8u64 {
        let id = format!("fetches-{step}");
        let input =
            json!({"name": "x", "datatype": "UINT8", "shape": [200 << 20], "parameters": {"dataref": url}});
        let text = json!({"inputs": [input], "parameters": {"tour": "all", "pace": 1}}).to_string();
        let mut message = job("random", &id, Bytes::from(text));
        message.properties.reply_to = Some(REPLIES.into());
        let late = step % 2 == 1;
        if late {
            message.properties.expiration = Some(Duration::from_millis(5 + step * 3));
        }
        scene.house.publish(message).await;
        if !late {
            until_stage(&mut replies, "downloading").await;
            tokio::time::sleep(Duration::from_millis(step * 4)).await;
            scene.cancel(&id).await;
        }
        let ended = code(&replies.until_final().await);
        let wanted = if late { "EXPIRED" } else { "CANCELLED" };
        assert!([wanted, "RESULT"].contains(&ended.as_str()), "{id}: {ended}");
        println!("{id}: {ended}");
    }
    scene.is_clean("fetching").await;
    scene.slots_are_free("fetching").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_stopped_between_two_attempts() {
    let scene = Scene::open("cpu", |config| config.retry_delays_ms = vec![300]).await;
    let mut replies = Inbox::open(&scene.house.broker, REPLIES).await;
    let retry = |id: &str| {
        let mut message = job("hostile", id, body(json!({"mode": "chatty-flaky", "number": 2})));
        message.properties.reply_to = Some(REPLIES.into());
        message
    };
    scene.house.publish(retry("cancelled")).await;
    until_stage(&mut replies, "trying").await;
    scene.cancel("cancelled").await;
    assert_eq!(code(&replies.until_final().await), "CANCELLED");

    let mut message = retry("expires");
    message.properties.expiration = Some(Duration::from_millis(330));
    scene.house.publish(message).await;
    let ended = code(&replies.until_final().await);
    assert!(["EXPIRED", "RESULT"].contains(&ended.as_str()), "{ended}");
    scene.is_clean("retries").await;
    assert!(replies.arrived().is_empty(), "something came after a final event");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_result_waits_for_its_confirm_is_done() {
    count_panics();
    let broker = Embedded::new();
    let connection = Watched::new(&broker, |message| if is_final(message) { Fate::Hold } else { Fate::Pass });
    let change = |config: &mut Config| settings(config, "cpu", |_| {});
    let house = House::on(broker.connect(), connection.clone(), &plugins(), change).await;
    let mut replies = Inbox::open(&broker, REPLIES).await;
    let transport = BrokerTransport::new(std::sync::Arc::new(broker.connect()));
    for id in ["cancelled", "expired"] {
        let mut message = tour(id, "sleep", 1);
        if id == "expired" {
            message.properties.expiration = Some(Duration::from_millis(300));
        }
        house.publish(message).await;
        let events = replies.until_final().await;
        assert_eq!(code(&events), "RESULT", "{id}: {events:?}");
        if id == "cancelled" {
            transport.cancel(id).await.expect("published");
        }
        tokio::time::sleep(Duration::from_millis(350)).await;
        assert!(replies.arrived().is_empty(), "{id}: it ended twice");
        let queue = warren::wire::job_queue("random", warren::job::Class::Normal);
        let unsettled = broker.depth(&queue).await.expect("the queue is there");
        assert_ne!(unsettled, QueueDepth::default(), "{id}: settled before its confirm");
        connection.release();
        house.quiet().await;
        assert!(replies.arrived().is_empty(), "{id}: it ended twice");
    }
    no_panic("confirms");
    // The slot was free meanwhile.
    connection.release();
    house.answers("confirms").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loading_a_plugin_may_be_given_up_anywhere() {
    let scene = Scene::open("cpu", |_| {}).await;
    let folder = guest("random");
    let start = Instant::now();
    scene.house.host().load(&folder).await.expect("loads");
    let whole = start.elapsed();
    let mut given_up = 0;
    for step in 0..24u32 {
        let load = scene.house.host().load(&folder);
        given_up += u32::from(tokio::time::timeout(whole * step / 20, load).await.is_err());
    }
    println!("loading takes {whole:?}; {given_up} of 24 were given up");
    assert!(given_up > 0, "none was given up");
    scene.house.host().load(&folder).await.expect("loads");
    let start = Instant::now();
    while std::fs::read_dir(scene.house.scratch()).unwrap().count() > 0 {
        assert!(start.elapsed() < PATIENCE, "scratch directories are left");
        tokio::time::sleep(GLANCE).await;
    }
    no_panic("loading");
    scene.slots_are_free("loading").await;
    let request = hostile("mark", 0);
    assert_eq!(scene.house.run(request).await.text("found"), "memory false scratch false");
}
