//! What the fault tests share: a vhost of a real RabbitMQ, plugins to serve there, and the oracle that
//! has the last word.

use std::time::Instant;

use fastrand::Rng;
use tempfile::TempDir;

use crate::oracle::table::Report;
use crate::oracle::{Job, Oracle, depths};
use crate::process::{Process, plugins};
use crate::proxy::Proxy;
use crate::rabbitmq::{Node, shared};
use crate::{GLANCE, PATIENCE};

/// A vhost, plugins to serve there, and the oracle.
pub struct Scene {
    /// The vhost.
    pub name: &'static str,
    /// Its address.
    pub address: String,
    /// The guests `noop` and `hostile`.
    pub plugins: TempDir,
    /// Publishes, and knows what became of it.
    pub oracle: Oracle,
    /// Chooses moments. Its seed is printed, and `WARREN_SEED` sets it.
    pub random: Rng,
    node: &'static Node,
    since: Instant,
}

impl Scene {
    /// On the node that the tests of a binary share.
    pub async fn set(name: &'static str) -> Self {
        Self::on(tokio::task::block_in_place(shared), name).await
    }

    /// On a node of the test's own, which is ended with the test's process.
    pub async fn alone(name: &'static str, config: &str) -> Self {
        let node = tokio::task::block_in_place(|| Box::leak(Box::new(Node::start(config))));
        Self::on(node, name).await
    }

    /// On this node.
    pub async fn on(node: &'static Node, name: &'static str) -> Self {
        let seed = std::env::var("WARREN_SEED").ok().and_then(|s| s.parse().ok());
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        println!("{name}: WARREN_SEED={seed}");
        let address = tokio::task::block_in_place(|| node.vhost(name));
        let oracle = Oracle::open(&address, name).await;
        let plugins = plugins(&["noop", "hostile"]);
        let (since, random) = (Instant::now(), Rng::with_seed(seed));
        Self { name, address, plugins, oracle, random, node, since }
    }

    /// The node.
    pub fn node(&self) -> &'static Node {
        self.node
    }

    /// Does something slow with the node, beside everything else.
    pub async fn with_node(&self, act: impl FnOnce(&'static Node) + Send + 'static) {
        let node = self.node;
        tokio::task::spawn_blocking(move || act(node)).await.expect("it works");
    }

    /// Runs `rabbitmqctl`, beside everything else.
    pub async fn ctl(&self, arguments: &[&str]) {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        self.with_node(move |node| {
            node.ctl(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        })
        .await;
    }

    /// A proxy in front of the node.
    pub async fn proxy(&self) -> Proxy {
        Proxy::start(self.node.port()).await
    }

    /// A host that reaches the vhost at this address.
    pub async fn host(&self, address: &str) -> Process {
        Process::serving(address, self.plugins.path(), &[]).await
    }

    /// The oracle's verdict. A host must still serve: what was delivered again has to be done.
    pub async fn finish(self, fault: &str, runs: usize) -> Report {
        let report = self.oracle.finish(self.node, fault, runs).await;
        println!("{}: {:.1} s", self.name, self.since.elapsed().as_secs_f64());
        report
    }

    /// Waits until nothing is left in any queue: copies of jobs that have ended may still be on their way,
    /// and the next fault would meet them.
    pub async fn emptied(&self) {
        let start = Instant::now();
        loop {
            let mut left = depths(self.node, &self.address);
            left.retain(|(_, count)| *count > 0);
            if left.is_empty() {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{}: still there: {left:?}", self.name);
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Asserts that every job ends.
    pub async fn all_end(&self, when: &str, host: &Process) {
        let ended = self.oracle.ended(PATIENCE).await;
        let open = self.oracle.open_jobs();
        assert!(ended, "{}: {open} jobs have no end {when}; the host said\n{}", self.name, host.log());
    }
}

/// Half of them silent, half with a status; each takes about a millisecond.
pub fn mixed(count: usize) -> impl Iterator<Item = Job> {
    (0..count).map(|n| if n % 2 == 0 { Job::noop() } else { Job::hostile("announced-busy", 1) })
}

/// The host lives and has not kept what its lost connections had.
pub async fn calm(host: &mut Process, before: usize) {
    assert!(host.is_alive(), "the host has ended:\n{}", host.log());
    let start = Instant::now();
    while host.descriptors() > before + 2 {
        let now = host.descriptors();
        assert!(
            start.elapsed() < PATIENCE,
            "{now} descriptors, {before} before; the host said\n{}",
            host.log()
        );
        tokio::time::sleep(GLANCE).await;
    }
    let memory = host.memory_kib();
    assert!(memory < 512 * 1024, "{memory} KiB are resident");
}
