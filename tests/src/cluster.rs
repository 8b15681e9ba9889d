//! Three RabbitMQ nodes that make one cluster: any of them can be killed, frozen, or cut off from the
//! other two. A node that is cut off pauses (`pause_minority`), as docs/operating.md advises.
//!
//! Nodes are cut off without a firewall, which only root could set up: each side is given another
//! cookie for the other, and their connection is closed. From then on each refuses the other's
//! handshake, and all that nodes say to each other goes through that connection; clients reach all of
//! them as before.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::PATIENCE;
use crate::rabbitmq::{Node, free_port};

/// Nodes.
pub const NODES: usize = 3;
/// Seconds after which a node that says nothing is taken for dead, a quarter more or less.
const SILENCE: u32 = 5;
/// What all nodes share.
const COOKIE: &str = "warren";
/// Between two looks at something that takes a process of its own.
const LOOK: Duration = Duration::from_millis(200);

/// The nodes, by number.
pub struct Cluster {
    nodes: Vec<Node>,
}

/// The cluster that all tests of a binary share, started at first use.
pub fn shared() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start)
}

impl Cluster {
    /// Starts the nodes, and waits until they are one.
    pub fn start() -> Self {
        let mapper = free_port();
        let arguments = format!("-kernel net_ticktime {SILENCE}");
        let mut nodes: Vec<Node> = (0..NODES).map(|_| Node::prepare(mapper, &arguments)).collect();
        let mut config = "cluster_partition_handling = pause_minority\n\
             cluster_formation.peer_discovery_backend = classic_config\n"
            .to_owned();
        for (number, node) in nodes.iter().enumerate() {
            config += &format!("cluster_formation.classic_config.nodes.{} = {}\n", number + 1, node.name);
        }
        for node in &nodes {
            node.configure(&config);
            let cookie = node.home.join(".erlang.cookie");
            let mut file =
                std::fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(cookie).unwrap();
            file.write_all(COOKIE.as_bytes()).unwrap();
        }
        nodes[0].start_mapper();
        let cluster = Self { nodes };
        cluster.start_all();
        cluster
    }

    /// A node.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number % NODES]
    }

    /// The addresses of a vhost at every node, `first` before the others. Heartbeats let either side
    /// notice a silent peer within seconds.
    pub fn addresses(&self, vhost: &str, first: usize) -> String {
        let address = |n| self.node(first + n).address(vhost) + "?heartbeat=2";
        (0..NODES).map(address).collect::<Vec<_>>().join(",")
    }

    /// The node that leads a queue, as node `asked` sees it. Waits until there is one that `fits`.
    pub fn leader(&self, vhost: &str, queue: &str, asked: usize, fits: impl Fn(usize) -> bool) -> usize {
        let arguments = ["list_queues", "-p", vhost, "--no-table-headers", "name", "leader"];
        let start = Instant::now();
        loop {
            let seen = self.node(asked).try_ctl(&arguments);
            let line = seen.iter().flat_map(|text| text.lines()).find_map(|line| {
                line.split_once('\t')
                    .filter(|(name, _)| *name == queue)
                    .map(|(_, node)| node.trim().to_owned())
            });
            let leader = self.nodes.iter().position(|node| Some(&node.name) == line.as_ref());
            if let Some(leader) = leader.filter(|leader| fits(*leader)) {
                return leader;
            }
            assert!(start.elapsed() < PATIENCE, "no such leader of {queue}: {seen:?}");
            std::thread::sleep(LOOK);
        }
    }

    /// The nodes that a vhost's clients are connected to whose names begin with `client`.
    pub fn places(&self, asked: usize, vhost: &str, client: &str) -> Vec<usize> {
        let columns = ["list_connections", "--no-table-headers", "vhost", "port", "client_properties"];
        let text = self.node(asked).ctl(&columns);
        let mut places = Vec::new();
        for line in text.lines() {
            if let [of, port, properties] = line.splitn(3, '\t').collect::<Vec<_>>()[..]
                && of == vhost
                && properties.contains(&format!("\"{client}"))
            {
                places.extend(self.nodes.iter().position(|node| node.port().to_string() == port));
            }
        }
        places
    }

    /// Cuts a node off from the others, both ways.
    pub fn cut_off(&self, number: usize) {
        let others = (1..NODES).map(|n| &self.node(number + n).name);
        let code = |other: &String| {
            format!("erlang:set_cookie('{other}', cut_off), erlang:disconnect_node('{other}')")
        };
        let code: Vec<String> = others.map(code).collect();
        self.node(number).eval(&(code.join(", ") + "."));
    }

    /// Lets it see the others again.
    pub fn rejoin(&self, number: usize) {
        let others = (1..NODES).map(|n| &self.node(number + n).name);
        let code: Vec<String> =
            others.map(|other| format!("erlang:set_cookie('{other}', {COOKIE})")).collect();
        self.node(number).eval(&(code.join(", ") + "."));
    }

    /// Whether clients can connect to it.
    pub fn listens(&self, number: usize) -> bool {
        TcpStream::connect(("127.0.0.1", self.node(number).port())).is_ok()
    }

    /// Freezes it (SIGSTOP): it says nothing, and keeps its connections.
    pub fn freeze(&self, number: usize) {
        self.signal(number, "-STOP");
    }

    /// Thaws it.
    pub fn thaw(&self, number: usize) {
        self.signal(number, "-CONT");
    }

    fn signal(&self, number: usize, signal: &str) {
        let server = self.node(number).server();
        let Some(server) = server.as_ref() else { panic!("node {number} does not run") };
        let group = format!("-{}", server.id());
        assert!(Command::new("kill").args([signal, "--", &group]).status().unwrap().success());
    }

    /// Makes it whole again, whatever a test that failed has left behind.
    pub fn restore(&self) {
        for (number, node) in self.nodes.iter().enumerate() {
            if node.server().is_some() {
                self.thaw(number);
                self.rejoin(number);
            }
        }
        if self.nodes.iter().all(|node| node.server().is_some()) && self.is_whole().is_ok() {
            return;
        }
        self.nodes.iter().for_each(Node::kill);
        self.start_all();
    }

    /// Starts all nodes, at the same time: one alone would wait for the others.
    fn start_all(&self) {
        std::thread::scope(|scope| self.nodes.iter().for_each(|node| drop(scope.spawn(|| node.restart()))));
        self.whole();
    }

    /// Waits until every node runs, accepts clients, and sees all the others.
    pub fn whole(&self) {
        let start = Instant::now();
        while let Err(seen) = self.is_whole() {
            assert!(start.elapsed() < PATIENCE, "the cluster is not whole: {seen}");
            std::thread::sleep(LOOK);
        }
    }

    /// What is wrong with it, as its nodes see it.
    fn is_whole(&self) -> Result<(), String> {
        let names: Vec<String> = self.nodes.iter().map(|node| format!("'{}'", node.name)).collect();
        // What a node that is apart answers is no list of nodes, and fails.
        let code = format!(
            "[{{length(rpc:call(N, rabbit_nodes, all_running, [])), rpc:call(N, rabbit_node_monitor, partitions, [])}} || N <- [{}]].",
            names.join(", ")
        );
        let seen = self.node(0).try_ctl(&["eval", &code])?;
        let whole = format!("[{}]", [format!("{{{NODES},[]}}").as_str(); NODES].join(","));
        if seen.trim() != whole {
            return Err(seen);
        }
        match (0..NODES).find(|number| !self.listens(*number)) {
            Some(number) => Err(format!("node {number} takes no clients")),
            None => Ok(()),
        }
    }
}
