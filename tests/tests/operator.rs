//! The operator's commands as they are typed, on a real RabbitMQ: the very binary, its exit codes,
//! and what it leaves on the broker.
//!
//! One node for the binary, started at first use; each test has a vhost of its own.

use std::path::Path;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use warren::broker::rabbitmq::{Options, RabbitMq};
use warren::broker::{Broker, Confirmation, Message};
use warren_tests::process::{Process, binary, plugins, signal, without_settings};
use warren_tests::rabbitmq::shared;
use warren_tests::{GLANCE, PATIENCE, patient, within};

#[path = "operator/dead.rs"]
mod dead;
#[path = "operator/jobs.rs"]
mod jobs;
#[path = "operator/life.rs"]
mod life;
#[path = "operator/topology.rs"]
mod topology;

/// A vhost, a connection to it, and plugins: `echo`, `hostile`, and `patient`, which is `hostile` with
/// clocks that are never reached.
struct Scene {
    address: String,
    broker: Arc<RabbitMq>,
    plugins: TempDir,
}

async fn connect(address: &str) -> Arc<RabbitMq> {
    let options =
        Options { addresses: vec![address.to_owned()], startup_timeout: PATIENCE, ..Options::default() };
    Arc::new(RabbitMq::connect(options).await.expect("connects"))
}

impl Scene {
    async fn set(name: &'static str) -> Self {
        Self::at(tokio::task::block_in_place(|| shared().vhost(name))).await
    }

    async fn at(address: String) -> Self {
        let plugins = plugins(&["echo", "hostile"]);
        patient(plugins.path());
        Self { broker: connect(&address).await, address, plugins }
    }

    async fn host(&self, settings: &[(&str, &str)]) -> Process {
        Process::serving(&self.address, self.plugins.path(), settings).await
    }

    /// A command, for a test that does more with it than to wait for its end.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        self.dress(&mut command, arguments);
        command
    }

    fn dress(&self, command: &mut Command, arguments: &[&str]) {
        without_settings(command)
            .args(arguments)
            .env("WARREN_BROKER", &self.address)
            .env("WARREN_PLUGINS", self.plugins.path())
            .stdin(Stdio::null());
    }

    /// Runs a command to its end.
    async fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", &PATIENCE.as_secs().to_string()]).arg(binary());
        self.dress(&mut command, arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        Ran::new(arguments, output.expect("the command starts"))
    }

    /// Runs a command that must succeed; answers its standard output.
    async fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments).await;
        assert!(ran.status.success(), "{ran:?}");
        ran.out
    }

    /// Runs a command that must fail and say these words on standard error.
    async fn fails(&self, arguments: &[&str], words: &[&str]) {
        let ran = self.run(arguments).await;
        assert_eq!(ran.status.code(), Some(1), "{ran:?}");
        for word in words {
            assert!(ran.err.contains(word), "{word:?} is not said: {ran:?}");
        }
    }

    async fn ready(&self, queue: &str) -> u64 {
        self.broker.depth(queue).await.unwrap_or_else(|e| panic!("{queue}: {e}")).ready
    }

    /// Waits until a queue holds this many messages that nobody has.
    async fn until_ready(&self, queue: &str, count: u64) {
        let start = Instant::now();
        loop {
            let ready = self.ready(queue).await;
            if ready == count {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{ready} messages in {queue}, {count} expected");
            tokio::time::sleep(GLANCE).await;
        }
    }

    async fn publish(&self, message: Message) {
        let confirmed = within("a confirm", self.broker.publish(message, true)).await;
        assert_eq!(confirmed, Ok(Confirmation::Confirmed));
    }
}

/// What a command did.
#[derive(Debug)]
struct Ran {
    #[allow(dead_code, reason = "shown when a test fails")]
    arguments: Vec<String>,
    status: ExitStatus,
    out: String,
    err: String,
}

impl Ran {
    fn new(arguments: &[&str], output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
        Self { arguments, status: output.status, out: text(&output.stdout), err: text(&output.stderr) }
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// Looks until something is there.
async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(GLANCE).await;
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// What is fast without a reason to wait.
const PROMPT: Duration = Duration::from_secs(15);
