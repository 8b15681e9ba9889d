//! Queues that go while hosts and clients use them, permissions that are taken away, and a broker that
//! waits for no job longer than seconds.

use std::time::Duration;

use lapin::options::QueueDeleteOptions;
use serde_json::json;
use tokio::time::sleep;
use warren_tests::oracle::Job;
use warren_tests::scene::{Scene, calm, mixed};
use warren_tests::{PATIENCE, patient, within};

use super::raw::Raw;
use super::{load, until_there};

/// A queue goes as an operator takes it away, with all that is in it.
async fn delete(raw: &Raw, queue: &str) {
    let deleted = raw.channel.queue_delete(queue.into(), QueueDeleteOptions::default());
    within("the deletion", deleted).await.expect("deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_deleted_under_the_host() {
    let scene = Scene::set("deleted").await;
    let mut host = scene.host(&scene.address).await;
    let before = host.descriptors();
    let raw = Raw::open(&scene.address).await;
    let queues = [
        "warren.jobs.noop",
        "warren.jobs.hostile",
        "warren.jobs.hostile.urgent",
        "warren.isolated.hostile",
        "warren.undone",
        "warren.unserved",
    ];
    for queue in queues {
        scene.oracle.fault();
        delete(&raw, queue).await;
        // At once: before the host has noticed, while it declares the queue anew, and after.
        for _ in 0..10 {
            scene.oracle.publish(mixed(4)).await;
            sleep(Duration::from_millis(100)).await;
        }
        scene.all_end(&format!("after {queue} was deleted"), &host).await;
        until_there(&scene, queue, &host).await;
    }
    calm(&mut host, before).await;
    scene.finish("broker: queues deleted under the host", queues.len()).await.all("RESULT");
}

/// What was in the queue, or in the host, went with it. Its clients wait in vain and publish it again.
#[tokio::test(flavor = "multi_thread")]
async fn the_job_queue_is_deleted_with_jobs_in_it() {
    const RUNS: usize = 3;
    let scene = Scene::set("emptied").await;
    let mut host = scene.host(&scene.address).await;
    let before = host.descriptors();
    let raw = Raw::open(&scene.address).await;
    for run in 0..RUNS {
        scene.oracle.publish(load(60)).await;
        assert!(scene.oracle.at_most_open(50, PATIENCE).await, "the host does nothing\n{}", host.log());
        delete(&raw, "warren.jobs.hostile").await;
        scene.oracle.fault();
        until_there(&scene, "warren.jobs.hostile", &host).await;
        // What was on its way to its end when the queue went may still come.
        sleep(Duration::from_millis(500)).await;
        let again = scene.oracle.again().await;
        assert!(again > 0, "run {run}: all was done before the queue was deleted");
        scene.all_end("after it was published again", &host).await;
    }
    calm(&mut host, before).await;
    let report = scene.finish("broker: job queue deleted with jobs in it, published again", RUNS).await;
    report.all("RESULT");
}

/// What `worker` may configure, write and read; none: it may not enter the vhost. In Erlang, since
/// `rabbitmqctl` takes its time with each command.
fn allow(vhost: &str, what: Option<[&str; 3]>) -> String {
    let internal = "rabbit_auth_backend_internal";
    match what {
        None => format!("{internal}:clear_permissions(<<\"worker\">>, <<\"{vhost}\">>, <<\"test\">>)"),
        Some([configure, write, read]) => format!(
            "{internal}:set_permissions(<<\"worker\">>, <<\"{vhost}\">>, <<\"{configure}\">>, <<\"{write}\">>, <<\"{read}\">>, <<\"test\">>)"
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_are_revoked_and_given_back() {
    let mut scene = Scene::set("permissions").await;
    // The broker closes the channel of a publish that it refuses, with the statuses that are on it.
    scene.oracle = scene.oracle.statuses_may_be_lost();
    let grant = allow(scene.name, Some([".*", ".*", ".*"]));
    let user = "rabbit_auth_backend_internal:add_user(<<\"worker\">>, <<\"secret\">>, <<\"test\">>)";
    scene.ctl(&["eval", &format!("{user}, {grant}.")]).await;
    let mut host = scene.host(&scene.address.replace("guest:guest", "worker:secret")).await;
    let before = host.descriptors();
    // Out of the vhost; no results; no jobs; no declarations.
    let revocations = [None, Some([".*", "", ".*"]), Some([".*", ".*", ""]), Some(["", ".*", ".*"])];
    for revocation in revocations {
        scene.oracle.publish(load(40)).await;
        assert!(scene.oracle.at_most_open(38, PATIENCE).await, "the host does nothing\n{}", host.log());
        // What a channel was allowed before is remembered there: they must be new.
        let revoke = allow(scene.name, revocation);
        let close = format!(
            "rabbit_connection_tracking_handler:close_connections(rabbit_connection_tracking:list(<<\"{}\">>), \"permissions have changed\", 0)",
            scene.name
        );
        scene.ctl(&["eval", &format!("{revoke}, {close}.")]).await;
        scene.oracle.publish(load(20)).await;
        scene.oracle.fault();
        sleep(Duration::from_secs(2)).await;
        assert!(host.is_alive(), "{revocation:?}: the host has ended:\n{}", host.log());
        assert!(scene.oracle.open_jobs() > 0, "{revocation:?} has no effect:\n{}", host.log());
        scene.ctl(&["eval", &format!("{grant}.")]).await;
        scene.all_end(&format!("after {revocation:?}"), &host).await;
    }
    calm(&mut host, before).await;
    scene.finish("broker: permissions revoked", revocations.len()).await.all("RESULT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_longer_than_the_broker_waits() {
    const RUNS: usize = 2;
    let scene = Scene::on(tokio::task::block_in_place(super::strict), "timeout").await;
    patient(scene.plugins.path());
    let mut host = scene.host(&scene.address).await;
    let before = host.descriptors();
    let job = |mode: &str, ms: u64| Job::new("patient", json!({ "mode": mode, "number": ms }));
    for run in 0..RUNS {
        scene.oracle.fault();
        let long = scene.oracle.publish([job("announced-busy", 30_000)]).await;
        // Neighbours all the time: of the same queue, whose channel goes, and of others.
        while !scene.oracle.story(&long[0]).has_ended() {
            let neighbours = (0..20).map(|_| job("announced-busy", 20)).chain(mixed(4));
            scene.oracle.publish(neighbours).await;
            let ended = scene.oracle.at_most_open(5, PATIENCE).await;
            assert!(ended, "run {run}: neighbours wait for a job that is too long\n{}", host.log());
        }
        scene.all_end("after the consumer timeout", &host).await;
    }
    calm(&mut host, before).await;
    let report = scene.finish("broker: consumer timeout", RUNS).await;
    report.right();
    let ends = &report.row.ends;
    let due = [("DELIVERY_TIMEOUT".to_owned(), RUNS), ("RESULT".to_owned(), report.row.jobs - RUNS)];
    assert_eq!(*ends, due.into_iter().collect(), "neighbours came to harm");
}
