//! `warren serve` as a child process: started, signalled, looked at, and ended with whoever started
//! it. Only a process can be killed or frozen as a machine does it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::{GLANCE, PATIENCE, variant};

/// What a host says on standard error when its queues are consumed.
const READY: &str = "serving from RabbitMQ";

/// The `warren` that was built beside this test or benchmark.
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("the path of this program");
    // target/<profile>/deps/<test>-<hash>
    let profile = own.parent().and_then(Path::parent).expect("a target directory");
    let warren = profile.join("warren");
    assert!(
        warren.is_file(),
        "{} is missing: `cargo test --workspace` (or `cargo build -p warren`, with --release for benchmarks) builds it",
        warren.display()
    );
    warren
}

/// Takes the settings of this process away from a command: those of tests are none of the host's.
/// Compiled code goes where what is built goes, not to the user's own.
pub fn without_settings(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WARREN_")) {
        command.env_remove(name);
    }
    command.env("WARREN_CACHE", binary().with_file_name("warren-cache"))
}

/// A directory for `--plugins` with these guests. The clocks of `hostile` are set so far that none of them
/// ends a job because the machine is busy.
pub fn plugins(guests: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for name in guests {
        let clocks = [("wall_ms = 1500", "wall_ms = 30000"), ("stall_ms = 700", "stall_ms = 30000")];
        let edits: &[_] = if *name == "hostile" { &clocks } else { &[] };
        variant(dir.path(), name, name, edits);
    }
    dir
}

/// Sends a signal (`KILL`, `STOP`, `CONT`, `TERM`) to a process that has not been waited for.
pub fn signal(pid: u32, signal: &str) {
    let sent = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
    assert!(sent.as_ref().is_ok_and(ExitStatus::success), "kill -{signal} {pid}: {sent:?}");
}

/// Resident memory of a process in KiB.
///
/// # Errors
/// There is no such process.
pub fn resident_kib(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().context("VmRSS is no number")
}

/// A running or ended host.
pub struct Process {
    child: Child,
    /// Kills the host when this process ends without doing so.
    watcher: Child,
    log: Arc<Mutex<String>>,
    started: Instant,
}

impl Process {
    /// Starts a host with two slots on the broker at `address`. Each of `settings` is a key of the
    /// config (`drain_ms`, `limits__wall_ms`) with its value.
    pub fn start(address: &str, plugins: &Path, settings: &[(&str, &str)]) -> Self {
        let started = Instant::now();
        let mut command = Command::new(binary());
        without_settings(&mut command)
            .args(["--log", "warn,warren=info", "serve", "--broker", address, "--slots", "2"])
            .args(["--tensor-threads", "1"])
            .arg(plugins)
            .envs(settings.iter().map(|(key, value)| (format!("WARREN_{}", key.to_uppercase()), value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("warren starts");
        let watcher = Command::new("sh")
            .args(["-c", "cat >/dev/null; kill -9 $0", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, sink) = (child.stderr.take().expect("piped"), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = sink.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { child, watcher, log, started }
    }

    /// The same, and waits until it serves.
    pub async fn serving(address: &str, plugins: &Path, settings: &[(&str, &str)]) -> Self {
        let mut process = Self::start(address, plugins, settings);
        process.ready().await;
        process
    }

    /// Waits until the host consumes its queues; answers how long that took from its start.
    pub async fn ready(&mut self) -> Duration {
        while !self.is_serving() {
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none(), "warren ended with {ended:?}:\n{}", self.log());
            assert!(self.started.elapsed() < PATIENCE, "warren does not serve:\n{}", self.log());
            tokio::time::sleep(GLANCE).await;
        }
        self.started.elapsed()
    }

    /// Whether it has said that it consumes its queues.
    pub fn is_serving(&self) -> bool {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).contains(READY)
    }

    /// Its process id, good for [`signal`] while this lives.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// SIGKILL, unless it has ended. Its log is kept in the directory `WARREN_FAULT_LOGS`, where that
    /// is set.
    pub fn kill(&mut self) {
        // The watcher first: after the wait the id may be another process's.
        for child in [&mut self.watcher, &mut self.child] {
            // Fails only for one that has ended.
            let _ = child.kill();
            child.wait().expect("a child of ours");
        }
        if let Ok(dir) = std::env::var("WARREN_FAULT_LOGS") {
            let path = Path::new(&dir).join(format!("{}.log", self.pid()));
            std::fs::write(&path, self.log()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }

    /// Waits until it ends by itself. Panics with its log when that takes longer than `limit`.
    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(start.elapsed() < limit, "warren did not end within {limit:?}:\n{}", self.log());
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Whether it runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Resident memory in KiB.
    pub fn memory_kib(&self) -> u64 {
        resident_kib(self.pid()).expect("a running host")
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("a running host").count()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = matches!(self.child.try_wait(), Ok(Some(_)));
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(25)..].join("\n");
            println!("host {} ({}) said:\n{tail}", self.pid(), if ended { "had ended" } else { "ran" });
        }
    }
}
