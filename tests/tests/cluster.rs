//! What happens to jobs when a node of a three-node cluster is killed, cut off or frozen: always the
//! one that leads the queue of jobs, under load, and the host is connected to it or to another one.
//! All queues are quorum queues with a replica on each node; nodes that are cut off pause.
//!
//! The tests hurt the one cluster that they share, one after the other.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use warren_tests::cluster::{Cluster, NODES, shared};
use warren_tests::oracle::table::Report;
use warren_tests::oracle::{Job, Oracle};
use warren_tests::process::{Process, plugins};
use warren_tests::scene::calm;
use warren_tests::{GLANCE, PATIENCE};

/// Published at once under load, and how often.
const BATCH: usize = 10;
const BEAT: Duration = Duration::from_millis(100);
/// No more are published while so many have no end.
const MOST: usize = 300;
/// Published right before a fault, so that it finds work to interrupt.
const BURST: usize = 200;
/// Ends that show that work goes on: more than may have been on their way when something happened.
const GOES_ON: usize = 50;
/// The queue that matters.
const QUEUE: &str = "warren.jobs.hostile";

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// A vhost of the cluster, plugins to serve there, and the oracle.
struct Scene {
    name: &'static str,
    since: Instant,
    plugins: TempDir,
    oracle: Oracle,
    cluster: &'static Cluster,
    _alone: MutexGuard<'static, ()>,
}

/// Does something slow with the cluster, beside everything else.
async fn with<T: Send + 'static>(act: impl FnOnce(&'static Cluster) -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(|| act(shared())).await.expect("it works")
}

impl Scene {
    /// Everything is declared, and no host serves.
    async fn set(name: &'static str) -> Self {
        let alone = ONE_AT_A_TIME.lock().await;
        with(Cluster::restore).await;
        let since = Instant::now();
        with(move |cluster| cluster.node(0).vhost(name)).await;
        let oracle = Oracle::open(&shared().addresses(name, 0), name).await;
        let plugins = plugins(&["hostile"]);
        let scene = Self { name, since, plugins, oracle, cluster: shared(), _alone: alone };
        scene.end(scene.host(0).await).await;
        scene
    }

    /// For faults that take the host's connections with them: what it had published and had no confirm of,
    /// or what is refused until there is a leader, is lost. Only final events are waited for.
    fn statuses_may_be_lost(mut self) -> Self {
        self.oracle = self.oracle.statuses_may_be_lost();
        self
    }

    /// A host that tries node `first` before the others.
    async fn host(&self, first: usize) -> Process {
        let addresses = self.cluster.addresses(self.name, first);
        Process::serving(&addresses, self.plugins.path(), &[]).await
    }

    /// The host drains, and ends as it should.
    async fn end(&self, mut host: Process) {
        host.signal("TERM");
        let status = host.ended(PATIENCE).await;
        assert!(status.success(), "{status:?}\n{}", host.log());
    }

    /// The node that leads the queue of jobs, once one does that is not `before`.
    async fn leader(&self, before: Option<usize>) -> usize {
        let name = self.name;
        let asked = before.map_or(0, |node| node + 1);
        with(move |cluster| cluster.leader(name, QUEUE, asked, |node| Some(node) != before)).await
    }

    /// The node that leads, a host connected to the one `steps` further, and what that host holds open.
    async fn begin(&self, steps: usize) -> (usize, Process, usize) {
        let leader = self.leader(None).await;
        let host = self.host(leader + steps).await;
        self.is_at(leader + steps).await;
        let descriptors = host.descriptors();
        (leader, host, descriptors)
    }

    /// Asserts that the host's connections are to this node, as an operator sees them.
    async fn is_at(&self, node: usize) {
        let name = self.name;
        let places = with(move |cluster| cluster.places(node, name, "warren ")).await;
        assert_eq!(places, [node % NODES; 2], "the host is connected elsewhere");
    }

    /// Runs `story` while jobs are published all the time.
    async fn under_load(&self, story: impl Future<Output = ()>) {
        let going = Cell::new(true);
        let load = async {
            while going.get() {
                if self.oracle.open_jobs() < MOST {
                    self.oracle.publish((0..BATCH).map(job)).await;
                }
                tokio::time::sleep(BEAT).await;
            }
        };
        let story = async {
            story.await;
            going.set(false);
        };
        tokio::join!(load, story);
    }

    /// The fault comes next, and finds the host at work.
    async fn strike(&self) {
        self.oracle.publish((0..BURST).map(job)).await;
        self.oracle.fault();
    }

    /// Waits until so many more jobs have their ends that some were done from beginning to end.
    async fn goes_on(&self, when: &str, host: &Process) {
        let (before, start) = (self.oracle.ended_jobs(), Instant::now());
        while self.oracle.ended_jobs() < before + GOES_ON {
            assert!(
                start.elapsed() < PATIENCE,
                "{}: {} jobs of {GOES_ON} have ended {when}; the host said\n{}",
                self.name,
                self.oracle.ended_jobs() - before,
                host.log()
            );
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Nothing is open, and the host is as it was before.
    async fn settles(&self, host: &mut Process, descriptors: usize) {
        let ended = self.oracle.ended(PATIENCE).await;
        assert!(ended, "{}: {} jobs have no end\n{}", self.name, self.oracle.open_jobs(), host.log());
        calm(host, descriptors).await;
    }

    /// The oracle's verdict. A host must still serve: what was delivered again has to be done.
    async fn finish(self, fault: &str) {
        let report: Report = self.oracle.finish(self.cluster.node(0), fault, 1).await;
        println!(
            "{}: {:.1} s, {} statuses lost",
            self.name,
            self.since.elapsed().as_secs_f64(),
            report.row.gaps
        );
        report.all("RESULT");
    }
}

/// Half of them silent, half with a status.
fn job(number: usize) -> Job {
    Job::hostile(if number.is_multiple_of(2) { "busy" } else { "announced-busy" }, 5)
}

/// Kills the leader of the queue under load, and starts it again; `steps` further is the node that the
/// host is connected to.
async fn leader_killed(name: &'static str, fault: &str, steps: usize) {
    let mut scene = Scene::set(name).await;
    if steps == 0 {
        scene = scene.statuses_may_be_lost();
    }
    let (leader, mut host, descriptors) = scene.begin(steps).await;
    scene
        .under_load(async {
            scene.goes_on("before the kill", &host).await;
            scene.strike().await;
            with(move |cluster| cluster.node(leader).kill()).await;
            scene.goes_on("after the leader was killed", &host).await;
            let next = scene.leader(Some(leader)).await;
            println!("node {leader} led and was killed, node {next} leads");
            with(move |cluster| {
                cluster.node(leader).restart();
                cluster.whole();
            })
            .await;
            scene.goes_on("after the killed node is back", &host).await;
        })
        .await;
    scene.settles(&mut host, descriptors).await;
    let moved = host.log().contains("lost the connection");
    assert_eq!(moved, steps == 0, "the host's connection went, or stayed\n{}", host.log());
    scene.finish(fault).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_killed_and_the_host_is_connected_to_another_node() {
    leader_killed("leader-elsewhere", "cluster: leader killed, host at another node", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_killed_and_the_host_is_connected_to_it() {
    leader_killed("leader-here", "cluster: leader killed, host connected to it", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_cut_off_with_the_host_on_its_side() {
    let scene = Scene::set("partition").await.statuses_may_be_lost();
    let (leader, mut host, descriptors) = scene.begin(0).await;
    scene
        .under_load(async {
            scene.goes_on("before the partition", &host).await;
            // `rabbitmqctl` takes a second to do it.
            scene.oracle.publish((0..4 * BURST).map(job)).await;
            with(move |cluster| cluster.cut_off(leader)).await;
            scene.oracle.fault();
            let next = scene.leader(Some(leader)).await;
            scene.goes_on("after the leader was cut off", &host).await;
            // It knows that it is alone, and sends its clients away.
            let start = Instant::now();
            while scene.cluster.listens(leader) {
                assert!(start.elapsed() < PATIENCE, "node {leader} does not pause");
                tokio::time::sleep(GLANCE).await;
            }
            println!("node {leader} led and was cut off, node {next} leads");
            with(move |cluster| {
                cluster.rejoin(leader);
                cluster.whole();
            })
            .await;
            scene.goes_on("after the partition", &host).await;
        })
        .await;
    scene.settles(&mut host, descriptors).await;
    scene.finish("cluster: leader cut off with the host on its side").await;
}

/// Longer than the others wait for a node that says nothing.
const FREEZE: Duration = Duration::from_secs(11);

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_frozen_with_the_host_connected_to_it() {
    let scene = Scene::set("frozen-node").await.statuses_may_be_lost();
    let (leader, mut host, descriptors) = scene.begin(0).await;
    scene
        .under_load(async {
            scene.goes_on("before the freeze", &host).await;
            scene.strike().await;
            let start = Instant::now();
            scene.cluster.freeze(leader);
            let next = scene.leader(Some(leader)).await;
            scene.goes_on("after the leader was frozen", &host).await;
            println!("node {leader} led and was frozen, node {next} leads");
            tokio::time::sleep(FREEZE.saturating_sub(start.elapsed())).await;
            scene.cluster.thaw(leader);
            scene.goes_on("after the thaw", &host).await;
            // It does not know that it was away, and stays apart until it is started again.
            with(move |cluster| {
                cluster.node(leader).kill();
                cluster.node(leader).restart();
                cluster.whole();
            })
            .await;
            scene.goes_on("after the restart", &host).await;
        })
        .await;
    scene.settles(&mut host, descriptors).await;
    scene.finish("cluster: leader frozen, host connected to it").await;
}
