//! What happens to jobs when the host that has them is killed, frozen, cut off or told to stop. The
//! hosts are processes of their own, on a real RabbitMQ, and the oracle has the last word on each.
//!
//! Moments are chosen at random; the seed is printed, and `WARREN_SEED` sets it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use warren_tests::oracle::verdict::{Event, Story};
use warren_tests::oracle::{Job, depths};
use warren_tests::process::{Process, signal};
use warren_tests::proxy::{Act, Direction, Label, Moment};
use warren_tests::rabbitmq::shared;
use warren_tests::scene::{Scene, calm, mixed};
use warren_tests::{GLANCE, PATIENCE, within};

const RUNS: usize = 5;
const JOBS: usize = 40;
/// Heartbeat that lets either side notice a silent peer within seconds.
const HEARTBEAT: &str = "?heartbeat=2";

/// Where the host dies.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Point {
    /// Before the broker gets the result.
    Result,
    /// The broker has it; before the host gets the confirm.
    Confirm,
    /// The host has the confirm; before the broker gets the acknowledgement.
    Ack,
    /// The broker has been sent the acknowledgement.
    Acked,
}

/// What `moment` concerns, if it is one of this point's: results, or jobs.
fn concerned(point: Point, moment: &Moment) -> Vec<Label> {
    let of = |all: &[Label], kind: Option<&str>| {
        all.iter().filter(|label| label.kind.as_deref() == kind).cloned().collect()
    };
    match (point, moment) {
        (Point::Result, Moment::Published(label)) => of(std::slice::from_ref(label), Some("result")),
        (Point::Confirm, Moment::Confirmed(all)) => of(all, Some("result")),
        (Point::Ack | Point::Acked, Moment::Acked(all)) => of(all, None),
        _ => Vec::new(),
    }
}

/// Kills the host when the `nth` job comes to this point, and tells what was there.
fn kill_at(
    point: Point,
    nth: usize,
    pid: u32,
    tell: oneshot::Sender<Vec<Label>>,
) -> impl FnMut(&Moment) -> Act + Send {
    let mut tell = Some(tell);
    let mut count = 0;
    move |moment| {
        let here = concerned(point, moment);
        count += here.len();
        if count < nth || here.is_empty() {
            return Act::Pass;
        }
        let Some(tell) = tell.take() else { return Act::Pass };
        let kill = move || {
            signal(pid, "KILL");
            // Whoever waited has failed already.
            let _ = tell.send(here);
        };
        if point == Point::Acked {
            return Act::PassThen(Box::new(kill));
        }
        kill();
        Act::Cut
    }
}

/// Kills the host at `point`, starts another, and asserts that `due` comes true of what was there.
async fn killed_at(name: &'static str, fault: &str, point: Point, due: impl Fn(&Label, &Story) -> bool) {
    let mut scene = Scene::set(name).await;
    let proxy = scene.proxy().await;
    let address = proxy.address(&scene.address);
    let mut host = scene.host(&address).await;
    for run in 0..RUNS {
        let (tell, told) = oneshot::channel();
        let nth = scene.random.usize(1..=30);
        proxy.watch(kill_at(point, nth, host.pid(), tell));
        scene.oracle.publish(mixed(JOBS)).await;
        let victims = within("the moment of the kill", told).await.expect("it is told");
        scene.oracle.fault();
        host.kill();
        host = scene.host(&address).await;
        scene.all_end("after a kill", &host).await;
        for victim in victims {
            let id = victim.job.as_deref().expect("every job has an id");
            let came = scene.oracle.until(id, PATIENCE, |story| due(&victim, story)).await;
            assert!(came, "run {run}, {point:?} of job {nth}: {victim:?} has {:?}", scene.oracle.story(id));
        }
    }
    scene.finish(fault, RUNS).await.all("RESULT");
}

/// Final events that reached the queue.
fn ends(story: &Story) -> usize {
    story.events.iter().filter(|e| e.last).count()
}

/// Whether this very event reached the queue.
fn arrived(event: &Label, story: &Story) -> bool {
    let id = event.job.as_deref().unwrap_or_default();
    let own = |e: &Event| format!("{id}:{}:{}", e.attempt, e.sequence);
    story.events.iter().any(|e| e.last && event.message.as_ref() == Some(&own(e)))
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_result_is_published() {
    let due = |result: &Label, story: &Story| ends(story) > 0 && !arrived(result, story);
    killed_at("before-result", "host killed before the result", Point::Result, due).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_result_and_confirm() {
    let due = |result: &Label, story: &Story| ends(story) > 1 && arrived(result, story);
    killed_at("before-confirm", "host killed before the confirm", Point::Confirm, due).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_confirm_and_acknowledgement() {
    let due = |_: &Label, story: &Story| ends(story) > 1;
    killed_at("before-ack", "host killed before the ack", Point::Ack, due).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_the_acknowledgement() {
    // The broker may or may not have read it: that is seen in the queues alone.
    let due = |_: &Label, story: &Story| ends(story) > 0;
    killed_at("after-ack", "host killed after the ack", Point::Acked, due).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_until_its_jobs_are_done_elsewhere_then_thawed() {
    const RUNS: usize = 3;
    let scene = Scene::set("frozen").await;
    let address = scene.address.clone() + HEARTBEAT;
    let mut frozen = scene.host(&address).await;
    for _ in 0..RUNS {
        let before = scene.oracle.ended_jobs();
        scene.oracle.publish((0..JOBS).map(|_| Job::hostile("announced-busy", 25))).await;
        let all = before + JOBS;
        assert!(
            scene.oracle.at_most_open(JOBS - 5, PATIENCE).await,
            "the host does nothing\n{}",
            frozen.log()
        );
        frozen.signal("STOP");
        scene.oracle.fault();
        assert!(scene.oracle.ended_jobs() < all, "it was done before it was frozen");
        let other = scene.host(&address).await;
        scene.all_end("while the host that had them is frozen", &other).await;
        // Only the thawed one is there for what comes next: it must have come back to its senses.
        drop(other);
        frozen.signal("CONT");
        scene.oracle.publish(mixed(10)).await;
        scene.all_end("after the thaw", &frozen).await;
    }
    assert!(frozen.is_alive());
    let report = scene.finish("host frozen until its jobs are redelivered, then thawed", RUNS).await;
    report.all("RESULT");
    assert!(report.row.retried > 0, "nothing was redelivered: {:?}", report.row);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_cuts_at_random_bytes() {
    let mut scene = Scene::set("cut").await;
    // A connection that publishes may go alone: then statuses on their way are lost.
    scene.oracle = scene.oracle.statuses_may_be_lost();
    let proxy = scene.proxy().await;
    let mut host = scene.host(&proxy.address(&scene.address)).await;
    let before = host.descriptors();
    for _ in 0..RUNS {
        for _ in 0..3 {
            let way = if scene.random.bool() { Direction::Up } else { Direction::Down };
            proxy.cut_at(way, scene.random.u64(1..8_000));
            let cuts = proxy.cuts();
            scene.oracle.publish(mixed(JOBS)).await;
            let start = Instant::now();
            while proxy.cuts() == cuts {
                assert!(start.elapsed() < PATIENCE, "the byte of the cut never came by");
                if scene.oracle.open_jobs() == 0 {
                    // Enough traffic for any byte.
                    scene.oracle.publish(mixed(10)).await;
                }
                tokio::time::sleep(GLANCE).await;
            }
            scene.oracle.fault();
        }
        scene.all_end("after cuts", &host).await;
    }
    calm(&mut host, before).await;
    scene.finish("network: cut at random bytes", RUNS * 3).await.all("RESULT");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_goes_half_open() {
    let mut scene = Scene::set("half-open").await;
    scene.oracle = scene.oracle.statuses_may_be_lost();
    let proxy = scene.proxy().await;
    let mut host = scene.host(&(proxy.address(&scene.address) + HEARTBEAT)).await;
    let before = host.descriptors();
    let ways: [&[Direction]; 3] = [&[Direction::Up], &[Direction::Down], &[Direction::Up, Direction::Down]];
    for ways in ways {
        scene.oracle.publish((0..JOBS).map(|_| Job::hostile("announced-busy", 10))).await;
        assert!(scene.oracle.at_most_open(JOBS - 5, PATIENCE).await, "the host does nothing\n{}", host.log());
        ways.iter().for_each(|way| proxy.mute(*way));
        scene.oracle.fault();
        scene.all_end("after the network went half-open", &host).await;
    }
    calm(&mut host, before).await;
    scene.finish("network: half-open", ways.len()).await.all("RESULT");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_is_slow() {
    let scene = Scene::set("slow").await;
    let proxy = scene.proxy().await;
    let mut host = scene.host(&proxy.address(&scene.address)).await;
    let before = host.descriptors();
    proxy.delay(Duration::from_millis(20));
    for _ in 0..RUNS {
        scene.oracle.publish(mixed(JOBS)).await;
        scene.all_end("over a slow network", &host).await;
    }
    assert_eq!(proxy.connections(), 2, "a connection was given up:\n{}", host.log());
    calm(&mut host, before).await;
    let report = scene.finish("network: slow", RUNS).await;
    report.all("RESULT");
    // Slow is no fault: nothing is done twice.
    assert_eq!(report.row.duplicates_before, 0, "{:?}", report.row);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_refuses_connections_for_a_while() {
    let scene = Scene::set("refused").await;
    let proxy = scene.proxy().await;
    let mut host = scene.host(&proxy.address(&scene.address)).await;
    let before = host.descriptors();
    proxy.refuse(true);
    proxy.cut();
    scene.oracle.publish(mixed(JOBS)).await;
    scene.oracle.fault();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.oracle.open_jobs(), JOBS, "jobs were done without a network");
    proxy.refuse(false);
    scene.all_end("after the broker refused connections", &host).await;
    calm(&mut host, before).await;
    let report = scene.finish("network: connections refused", 1).await;
    report.all("RESULT");
    assert_eq!(report.row.duplicates_before, 0, "{:?}", report.row);
}

#[tokio::test(flavor = "multi_thread")]
async fn flaps_during_a_long_job_do_not_use_up_its_deliveries() {
    let scene = Scene::set("flaps").await;
    // The limit is 20 by default. A policy's lower one counts, and shows the same within seconds.
    const LIMIT: u32 = 6;
    let policy = format!("{{\"delivery-limit\":{LIMIT}}}");
    let arguments =
        ["set_policy", "-p", scene.name, "--apply-to", "queues", "flaps", "^warren.jobs", &policy];
    tokio::task::block_in_place(|| shared().ctl(&arguments));
    // As `hostile`, with clocks that let it run.
    let dir = tempfile::tempdir().expect("a directory");
    warren_tests::patient(dir.path());
    let proxy = scene.proxy().await;
    let host = Process::serving(&proxy.address(&scene.address), dir.path(), &[]).await;
    let (sender, mut deliveries) = tokio::sync::mpsc::unbounded_channel();
    proxy.watch(move |moment| {
        if matches!(moment, Moment::Delivered(label) if label.kind.is_none()) {
            // The test may be over.
            let _ = sender.send(());
        }
        Act::Pass
    });
    let long = Job::new("patient", serde_json::json!({ "mode": "announced-busy", "number": 3000 }));
    let ids = scene.oracle.publish([long]).await;
    // Cut while it runs, more often than the limit allows.
    for flap in 0..LIMIT + 3 {
        let delivered = within(&format!("delivery {flap}"), deliveries.recv()).await;
        assert!(delivered.is_some());
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(scene.oracle.open_jobs(), 1, "flap {flap}: {:?}", scene.oracle.story(&ids[0]));
        while deliveries.try_recv().is_ok() {}
        proxy.cut();
        scene.oracle.fault();
    }
    scene.all_end("after the flaps", &host).await;
    let fault = format!("{} connection flaps during one long job", LIMIT + 3);
    scene.finish(&fault, 1).await.all("RESULT");
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_it_finishes_what_runs_and_gives_the_rest_back() {
    const RUNS: usize = 3;
    let scene = Scene::set("drain").await;
    let mut host = scene.host(&scene.address).await;
    for run in 0..RUNS {
        scene.oracle.publish((0..JOBS).map(|_| Job::hostile("announced-busy", 50))).await;
        assert!(scene.oracle.at_most_open(JOBS - 3, PATIENCE).await, "the host does nothing\n{}", host.log());
        host.signal("TERM");
        scene.oracle.fault();
        let status = host.ended(Duration::from_secs(10)).await;
        assert!(status.success(), "run {run}: {status:?}\n{}", host.log());
        let (open, queued) = (scene.oracle.open_jobs(), waiting(&scene));
        assert!(open > 0, "run {run}: all was done before it stopped");
        // Every job without an end is in a queue, and no other: what had begun was finished.
        let start = Instant::now();
        let mut now = (open, queued);
        while now.0 as u64 != now.1 {
            assert!(
                start.elapsed() < PATIENCE,
                "run {run}: {} jobs without an end, {} in queues",
                now.0,
                now.1
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
            now = (scene.oracle.open_jobs(), waiting(&scene));
        }
        host = scene.host(&scene.address).await;
        scene.all_end("after a drain", &host).await;
    }
    let report = scene.finish("SIGTERM under load", RUNS).await;
    report.all("RESULT");
    assert_eq!(report.row.duplicates_before, 0, "{:?}", report.row);
}

/// Jobs in the queues of models.
fn waiting(scene: &Scene) -> u64 {
    let all = depths(shared(), &scene.address);
    all.iter().filter(|(name, _)| name.starts_with("warren.jobs.")).map(|(_, count)| count).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn told_twice_it_gives_everything_back_at_once() {
    let scene = Scene::set("drain-at-once").await;
    let dir = tempfile::tempdir().expect("a directory");
    warren_tests::patient(dir.path());
    let long = || Job::new("patient", serde_json::json!({ "mode": "announced-busy", "number": 2000 }));
    let serving = async |dir: &Path| Process::serving(&scene.address, dir, &[("drain_ms", "60000")]).await;
    let mut host = serving(dir.path()).await;
    let ids = scene.oracle.publish((0..4).map(|_| long())).await;
    let start = Instant::now();
    while !ids.iter().any(|id| !scene.oracle.story(id).events.is_empty()) {
        assert!(start.elapsed() < PATIENCE, "nothing runs\n{}", host.log());
        tokio::time::sleep(GLANCE).await;
    }
    host.signal("TERM");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(host.is_alive(), "it did not wait for what runs\n{}", host.log());
    host.signal("TERM");
    scene.oracle.fault();
    let status = host.ended(Duration::from_secs(1)).await;
    assert!(status.code().is_some(), "it did not end by itself: {status:?}\n{}", host.log());
    assert_eq!(scene.oracle.ended_jobs(), 0, "something was finished");
    let other = serving(dir.path()).await;
    scene.all_end("after two signals", &other).await;
    scene.finish("second SIGTERM", 1).await.all("RESULT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kills_its_host_is_quarantined_within_two_deaths() {
    const RUNS: usize = 3;
    let scene = Scene::set("quarantine").await;
    let proxy = scene.proxy().await;
    let address = proxy.address(&scene.address);
    // A second of grace is enough for a host that lives to say so.
    let start = || Process::start(&address, scene.plugins.path(), &[("crash_grace_ms", "1000")]);
    // Of all jobs only the killer reports a status: its host dies as soon as it says that it runs, be it
    // before that host is known to serve.
    let victim = Arc::new(AtomicU32::new(0));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let next = Arc::clone(&victim);
    proxy.watch(move |moment| match moment {
        Moment::Published(label) if label.kind.as_deref() == Some("status") => {
            let (pid, tell) = (next.swap(0, Ordering::Relaxed), tell.clone());
            if pid == 0 {
                return Act::Pass;
            }
            Act::PassThen(Box::new(move || {
                signal(pid, "KILL");
                // The test may be over.
                let _ = tell.send(());
            }))
        }
        _ => Act::Pass,
    });
    let mut host = start();
    victim.store(host.pid(), Ordering::Relaxed);
    host.ready().await;
    for run in 0..RUNS {
        let mut jobs: Vec<Job> = (0..JOBS).map(|_| Job::hostile("busy", 10)).collect();
        jobs.insert(run * 12 + 3, Job::hostile("announced-busy", 1000));
        scene.oracle.publish(jobs).await;
        let (mut deaths, mut since) = (0, Instant::now());
        while scene.oracle.open_jobs() > 0 {
            if told.try_recv().is_ok() {
                scene.oracle.fault();
                deaths += 1;
                host.kill();
                host = start();
                victim.store(host.pid(), Ordering::Relaxed);
                since = Instant::now();
            }
            assert!(
                since.elapsed() < PATIENCE,
                "run {run}: {} jobs have no end, after {deaths} deaths; the host said\n{}",
                scene.oracle.open_jobs(),
                host.log()
            );
            tokio::time::sleep(GLANCE).await;
        }
        println!("run {run}: {deaths} deaths");
        scene.emptied().await;
        assert!((1..=2).contains(&deaths), "run {run}: the job has killed {deaths} hosts");
    }
    let report = scene.finish("a job that kills its host every time", RUNS).await;
    report.right();
    let due = [("HOST_CRASH".to_owned(), RUNS), ("RESULT".to_owned(), RUNS * JOBS)];
    assert_eq!(report.row.ends, due.into_iter().collect());
}
