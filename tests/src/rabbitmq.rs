//! A RabbitMQ node of one's own, started from Debian's `rabbitmq-server` package: private ports,
//! home and data, nothing shared with a broker that runs on the machine. A watcher process ends it
//! with whoever started it, however that ends.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Where the package keeps its programs. Not the wrappers in `/usr/sbin`: they switch users.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";
/// A node takes about 8 seconds to start on an idle machine of two cores.
const START: Duration = Duration::from_secs(120);

/// A node, running or stopped.
pub struct Node {
    pub(crate) home: PathBuf,
    pub(crate) name: String,
    port: u16,
    distribution: u16,
    mapper: u16,
    arguments: String,
    server: Mutex<Option<Child>>,
    /// Its own Erlang port mapper.
    daemon: Option<Child>,
    /// Its end of the pipe closes with this process, and the watcher cleans up.
    watcher: Child,
}

/// The node that all tests of a binary share, started at first use. Tests isolate themselves by
/// vhost.
pub fn shared() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| Node::start(""))
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Node {
    /// Starts a node with these lines added to its `rabbitmq.conf`, and waits until it accepts
    /// connections. Panics with its log when it does not.
    pub fn start(config: &str) -> Self {
        let mut node = Self::prepare(free_port(), "");
        node.configure(config);
        node.start_mapper();
        node.restart();
        node
    }

    /// A node with a home and ports, that does not run. `mapper` is the port of its Erlang port mapper,
    /// `arguments` are some more for its virtual machine.
    pub(crate) fn prepare(mapper: u16, arguments: &str) -> Self {
        let server = Path::new(PROGRAMS).join("rabbitmq-server");
        assert!(server.exists(), "{} is missing: apt-get install rabbitmq-server", server.display());
        let home = tempfile::Builder::new().prefix("warren-rabbitmq-").tempdir().unwrap().keep();
        for directory in ["log", "data", "schema", "generated", "plugins"] {
            std::fs::create_dir(home.join(directory)).unwrap();
        }
        let (port, distribution) = (free_port(), free_port());
        // Timers of seconds, so that tests see a consumer timeout or an alarm end within seconds.
        std::fs::write(home.join("advanced.config"), "[{rabbit, [{channel_tick_interval, 1000}]}].\n")
            .unwrap();
        std::fs::write(home.join("enabled_plugins"), "[].\n").unwrap();
        std::fs::write(home.join("groups"), "").unwrap();
        // Each line of `groups` is a process group of the node's. End of input: we are gone.
        let script = "cat >/dev/null; for g in $(cat \"$0/groups\"); do /bin/kill -9 -- -$g 2>/dev/null; done; rm -rf \"$0\"";
        let watcher = Command::new("sh")
            .args(["-c", script])
            .arg(&home)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        Self {
            name: format!("warren-{port}@localhost"),
            home,
            port,
            distribution,
            mapper,
            arguments: arguments.to_owned(),
            server: Mutex::new(None),
            daemon: None,
            watcher,
        }
    }

    /// Writes its `rabbitmq.conf`, with these lines added to what every node has.
    pub(crate) fn configure(&self, config: &str) {
        let base = "loopback_users = none\nlog.file.level = warning\n";
        std::fs::write(self.home.join("rabbitmq.conf"), format!("{base}{config}\n")).unwrap();
    }

    /// Starts its Erlang port mapper: the node would start one that outlives it.
    pub(crate) fn start_mapper(&mut self) {
        let mapper =
            self.command("epmd").args(["-port", &self.mapper.to_string()]).process_group(0).spawn().unwrap();
        self.note(&mapper);
        self.daemon = Some(mapper);
    }

    /// The address of a vhost; `/` is there from the start.
    pub fn address(&self, vhost: &str) -> String {
        let vhost = vhost.replace('%', "%25").replace('/', "%2f");
        format!("amqp://guest:guest@127.0.0.1:{}/{vhost}", self.port)
    }

    /// The port of its AMQP listener.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes a vhost that `guest` may use; answers its address.
    pub fn vhost(&self, name: &str) -> String {
        self.eval(&format!(
            "rabbit_vhost:add(<<\"{name}\">>, <<\"test\">>), rabbit_auth_backend_internal:set_permissions(<<\"guest\">>, <<\"{name}\">>, <<\".*\">>, <<\".*\">>, <<\".*\">>, <<\"test\">>)."
        ));
        self.address(name)
    }

    /// Runs `rabbitmqctl`; answers what it printed. Panics when it fails.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        self.try_ctl(arguments).unwrap_or_else(|text| panic!("rabbitmqctl {arguments:?}: {text}"))
    }

    /// The same, for a node that may not answer.
    ///
    /// # Errors
    /// What it printed when it failed.
    pub(crate) fn try_ctl(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self
            .command(&format!("{PROGRAMS}/rabbitmqctl"))
            .args(["-q", "-n", &self.name])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(text) } else { Err(text) }
    }

    /// Makes sure that the queues there are outlive a kill. RabbitMQ 3.10 writes the directory of its
    /// quorum queues seconds late: one declared just before a kill comes back empty, without a leader,
    /// and whatever is asked of it waits for ever.
    pub fn sync_queues(&self) {
        let synced = self.eval("dets:sync(ra_directory_reverse).");
        assert!(synced.contains("ok"), "{synced}");
    }

    /// Runs Erlang in the node.
    pub fn eval(&self, code: &str) -> String {
        self.ctl(&["eval", code])
    }

    /// Closes every client's connection, as an operator would.
    pub fn close_all_connections(&self) {
        self.ctl(&["close_all_connections", "test"]);
    }

    /// Kills it at once (SIGKILL).
    pub fn kill(&self) {
        self.end("-9");
    }

    /// Stops it in an orderly way (SIGTERM).
    pub fn stop(&self) {
        self.end("-15");
    }

    fn end(&self, signal: &str) {
        let Some(mut server) = self.server().take() else { return };
        let group = server.id();
        let target = match (signal, std::fs::read_to_string(self.home.join("pid"))) {
            ("-15", Ok(pid)) => pid.trim().to_owned(),
            _ => format!("-{group}"),
        };
        assert!(Command::new("kill").args([signal, "--", &target]).status().unwrap().success());
        server.wait().unwrap();
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
            assert!(start.elapsed() < START, "the node does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts it again after [`Node::kill`] or [`Node::stop`], with the data it had.
    pub fn restart(&self) {
        let mut running = self.server();
        assert!(running.is_none(), "the node runs already");
        let pid = self.home.join("pid");
        let _ = std::fs::remove_file(&pid);
        let output = std::fs::File::create(self.home.join("output")).unwrap();
        let mut server = self
            .command(&format!("{PROGRAMS}/rabbitmq-server"))
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .process_group(0)
            .spawn()
            .unwrap();
        self.note(&server);
        let start = Instant::now();
        while !pid.exists() || TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = server.try_wait().unwrap();
            if ended.is_some() || start.elapsed() > START {
                let _ = server.kill();
                let said = std::fs::read_to_string(self.home.join("output")).unwrap_or_default();
                panic!("rabbitmq-server did not start ({ended:?} after {:?}): {said}", start.elapsed());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        *running = Some(server);
    }

    /// A failed start has poisoned the lock, and the node still has to be ended.
    pub(crate) fn server(&self) -> MutexGuard<'_, Option<Child>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the watcher know of a process group.
    fn note(&self, child: &Child) {
        let mut groups = std::fs::OpenOptions::new().append(true).open(self.home.join("groups")).unwrap();
        writeln!(groups, "{}", child.id()).unwrap();
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let home = |name: &str| self.home.join(name);
        command
            .current_dir(&self.home)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8")
            .env("HOME", &self.home)
            .env("ERL_EPMD_PORT", self.mapper.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.distribution.to_string())
            .env("RABBITMQ_MNESIA_BASE", home("data"))
            .env("RABBITMQ_LOG_BASE", home("log"))
            .env("RABBITMQ_PID_FILE", home("pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", home("enabled_plugins"))
            .env("RABBITMQ_PLUGINS_EXPAND_DIR", home("plugins"))
            .env("RABBITMQ_CONFIG_FILE", home("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", home("advanced.config"))
            .env("RABBITMQ_SCHEMA_DIR", home("schema"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", home("generated"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            // Schedulers that spin while idle take the processor from the tests.
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                format!("+sbwt none +sbwtdcpu none +sbwtdio none {}", self.arguments),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        // Its input ends, and it cleans up the rest.
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
        if let Some(mapper) = &mut self.daemon {
            let _ = mapper.wait();
        }
    }
}
