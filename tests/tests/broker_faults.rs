//! What happens to jobs when the broker fails, refuses or is told nonsense: its connections close, it
//! dies, it raises alarms, its queues and permissions go, clients send what they like. The hosts are
//! processes of their own, on a real RabbitMQ, and the oracle has the last word on each.
//!
//! Faults of a whole node have a node of their own; the others share one, each in its own vhost.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, sleep};
use warren_tests::oracle::{Job, depths};
use warren_tests::process::Process;
use warren_tests::rabbitmq::Node;
use warren_tests::scene::{Scene, calm, mixed};
use warren_tests::{GLANCE, PATIENCE};

#[path = "broker_faults/hostile.rs"]
mod hostile;
#[path = "broker_faults/queues.rs"]
mod queues;
#[path = "broker_faults/raw.rs"]
mod raw;
#[path = "broker_faults/replies.rs"]
mod replies;

/// The longest message that [`strict`] takes.
const LONGEST: i64 = 1_000_000;

/// A node that takes no long messages and waits for no acknowledgement longer than four seconds.
fn strict() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    let config = format!("consumer_timeout = 4000\nmax_message_size = {LONGEST}");
    NODE.get_or_init(|| Node::start(&config))
}

/// Jobs of a few milliseconds: every third without a status.
fn load(count: usize) -> impl Iterator<Item = Job> {
    (0..count).map(|n| match n % 3 {
        0 => Job::hostile("busy", 5),
        _ => Job::hostile("announced-busy", 10),
    })
}

/// Keeps jobs in the queues, and in the host, until `done`.
async fn under_load(scene: &Scene, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        match scene.oracle.open_jobs() {
            0..60 => drop(scene.oracle.publish(load(40)).await),
            _ => sleep(GLANCE).await,
        }
    }
}

/// Waits until jobs are under way and some of them have ended since `before` had.
async fn at_work(scene: &Scene, host: &Process, before: usize) {
    let start = Instant::now();
    while scene.oracle.ended_jobs() < before + 20 || scene.oracle.open_jobs() == 0 {
        assert!(
            start.elapsed() < PATIENCE,
            "{} jobs are open, {} have ended, {before} before; the host said\n{}",
            scene.oracle.open_jobs(),
            scene.oracle.ended_jobs(),
            host.log()
        );
        sleep(GLANCE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_connection_is_closed_every_second() {
    const TIMES: usize = 6;
    let mut scene = Scene::set("closed").await;
    // They are closed one after the other: that which publishes may go alone.
    scene.oracle = scene.oracle.statuses_may_be_lost();
    let mut host = scene.host(&scene.address).await;
    let before = host.descriptors();
    let done = AtomicBool::new(false);
    let harm = async {
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        seconds.tick().await;
        for _ in 0..TIMES {
            seconds.tick().await;
            at_work(&scene, &host, 0).await;
            scene.oracle.fault();
            scene.ctl(&["close_all_connections", "-p", scene.name, "a fault"]).await;
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(under_load(&scene, &done), harm);
    scene.all_end("after their connections were closed", &host).await;
    let lost = host.log().matches("lost the connection to the broker").count();
    // Not all of them were there again each time: the pauses grow.
    assert!(lost > TIMES, "the host has lost {lost} connections:\n{}", host.log());
    calm(&mut host, before).await;
    scene.finish("broker: all connections closed every second", TIMES).await.all("RESULT");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_is_killed_and_restarted() {
    const RUNS: usize = 3;
    let mut scene = Scene::alone("killed", "").await;
    let moments: Vec<u64> = (0..RUNS).map(|_| scene.random.u64(0..1500)).collect();
    let mut host = scene.host(&scene.address).await;
    let before = host.descriptors();
    let done = AtomicBool::new(false);
    let harm = async {
        for moment in moments {
            at_work(&scene, &host, scene.oracle.ended_jobs()).await;
            sleep(Duration::from_millis(moment)).await;
            scene.oracle.fault();
            scene
                .with_node(|node| {
                    node.kill();
                    node.restart();
                })
                .await;
        }
        at_work(&scene, &host, scene.oracle.ended_jobs()).await;
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(under_load(&scene, &done), harm);
    scene.all_end("after the broker was killed", &host).await;
    calm(&mut host, before).await;
    let node = scene.node();
    scene.finish("broker: killed and restarted", RUNS).await.all("RESULT");
    node.kill();
}

/// lapin's own recovery gives up after sixteen attempts, others' after ten seconds.
#[tokio::test(flavor = "multi_thread")]
async fn the_broker_is_away_for_longer_than_a_client_library_tries() {
    const AWAY: Duration = Duration::from_secs(25);
    let scene = Scene::alone("away", "").await;
    let mut host = scene.host(&scene.address).await;
    let before = host.descriptors();
    scene.oracle.publish(load(40)).await;
    assert!(scene.oracle.at_most_open(35, PATIENCE).await, "the host does nothing\n{}", host.log());
    scene.oracle.fault();
    scene.with_node(|node| node.stop()).await;
    assert!(scene.oracle.open_jobs() > 0, "all was done before the broker stopped");
    let clients = async {
        // Clients that wait as long as it takes.
        scene.oracle.publish(mixed(40)).await;
    };
    let back = async {
        sleep(AWAY).await;
        scene.with_node(|node| node.restart()).await;
    };
    tokio::join!(clients, back);
    scene.all_end("after the broker was away", &host).await;
    calm(&mut host, before).await;
    let node = scene.node();
    scene.finish("broker: stopped for 25 s", 1).await.all("RESULT");
    node.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_of_memory_or_disk_is_raised_and_lifted() {
    /// Long enough for whatever waits without reason to give up.
    const ALARM: Duration = Duration::from_secs(3);
    let scene = Scene::alone("alarms", "").await;
    let mut host = scene.host(&scene.address).await;
    let before = host.descriptors();
    let memory = ["set_vm_memory_high_watermark", "absolute", "1"];
    let disk = ["set_disk_free_limit", "1000000000000000"];
    let alarms: [(&[&str], &[&str]); 2] =
        [(&memory, &["set_vm_memory_high_watermark", "0.8"]), (&disk, &["set_disk_free_limit", "50MB"])];
    for (raise, lift) in alarms {
        let done = AtomicBool::new(false);
        let harm = async {
            at_work(&scene, &host, scene.oracle.ended_jobs()).await;
            let blocked = || host.log().matches("the broker blocks publishing").count();
            let before = blocked();
            scene.oracle.fault();
            scene.ctl(raise).await;
            let start = Instant::now();
            while blocked() == before {
                assert!(start.elapsed() < PATIENCE, "{raise:?} raises no alarm:\n{}", host.log());
                sleep(GLANCE).await;
            }
            done.store(true, Ordering::Relaxed);
            // What the broker had taken by then may still come.
            let mut ended = scene.oracle.ended_jobs();
            let mut since = Instant::now();
            while since.elapsed() < ALARM {
                sleep(GLANCE).await;
                let now = scene.oracle.ended_jobs();
                if now != ended {
                    (ended, since) = (now, Instant::now());
                    assert!(start.elapsed() < PATIENCE, "jobs are answered during the alarm");
                }
            }
            assert!(scene.oracle.open_jobs() > 0, "nothing waits for the end of the alarm");
            scene.ctl(lift).await;
        };
        tokio::join!(under_load(&scene, &done), harm);
        scene.all_end("after an alarm", &host).await;
    }
    calm(&mut host, before).await;
    let lost = host.log().matches("lost the connection").count();
    assert_eq!(lost, 0, "connections were given up:\n{}", host.log());
    let node = scene.node();
    let report = scene.finish("broker: memory and disk alarms", alarms.len()).await;
    report.all("RESULT");
    // To be blocked is no fault: nothing is done twice.
    assert_eq!(report.row.duplicates_before, 0, "{:?}", report.row);
    node.kill();
}

/// Messages in a queue; none where there is no such queue.
fn depth(scene: &Scene, queue: &str) -> Option<u64> {
    let all = depths(scene.node(), &scene.address);
    all.into_iter().find(|(name, _)| name == queue).map(|(_, count)| count)
}

/// Waits until a queue is there (again).
async fn until_there(scene: &Scene, queue: &str, host: &Process) {
    let start = Instant::now();
    while depth(scene, queue).is_none() {
        assert!(start.elapsed() < PATIENCE, "{queue} is not there; the host said\n{}", host.log());
        sleep(GLANCE).await;
    }
}
