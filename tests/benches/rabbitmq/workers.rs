//! The workers that are compared, each a process of its own that consumes one queue.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use warren_tests::process::{resident_kib, without_settings};

/// A program that takes jobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Worker {
    /// This program again, see [`super::bare`].
    Bare,
    /// `warren serve`.
    Warren,
    /// Celery as it comes: results transient and unconfirmed, jobs acknowledged before they run.
    Celery,
    /// Celery with the promise of the others.
    CeleryConfirmed,
    /// Python on pika.
    Pika,
    /// Node on amqplib.
    Amqplib,
}

/// Where everything is.
pub struct Places {
    /// The broker.
    pub address: String,
    /// The `warren` program.
    pub warren: PathBuf,
    /// Folders of the plugins that the host serves.
    pub plugins: PathBuf,
    /// Where workers write what they have to say.
    pub log: PathBuf,
    /// A Python with celery and pika, if there is one.
    pub python: Option<PathBuf>,
    /// A folder with amqplib in its `node_modules`, if there is one.
    pub node: Option<PathBuf>,
}

/// A running worker; killed when dropped.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Celery's processes are a group. One that has ended already is not there to be killed.
        let _ = Command::new("kill")
            .args(["-9", "--", &format!("-{}", self.child.id())])
            .stderr(Stdio::null())
            .status();
        let _ = self.child.wait();
    }
}

impl Running {
    /// User and system time so far, of all its threads and children.
    pub fn cpu(&self) -> Result<Duration> {
        tree(self.child.id())
    }

    /// Resident memory, KiB.
    pub fn resident(&self) -> Result<u64> {
        resident_kib(self.child.id())
    }

    /// How it is, for errors: whether it has ended, and what it said.
    pub fn state(&mut self) -> String {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        format!("{:?}, said: {said}", self.child.try_wait())
    }

    /// Fails when it has ended by itself.
    pub fn alive(&mut self) -> Result<()> {
        ensure!(self.child.try_wait()?.is_none(), "a worker ended by itself: {}", self.state());
        Ok(())
    }
}

fn tree(id: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    let mut sum = Duration::from_millis(ticks * 10);
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    for child in children.split_whitespace() {
        sum += tree(child.parse()?)?;
    }
    Ok(sum)
}

impl Worker {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare lapin",
            Self::Warren => "Warren",
            Self::Celery => "Celery, its defaults",
            Self::CeleryConfirmed => "Celery, persistent and confirmed",
            Self::Pika => "pika, confirms in flight",
            Self::Amqplib => "amqplib, confirms in flight",
        }
    }

    /// Starts it on `queue`.
    pub fn start(self, places: &Places, queue: &str, prefetch: u16, statuses: u32) -> Result<Running> {
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/peers");
        let arguments =
            [places.address.clone(), queue.to_owned(), prefetch.to_string(), statuses.to_string()];
        let mut command = match self {
            Self::Bare => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("bare").args(&arguments);
                command
            }
            Self::Warren => {
                let mut command = Command::new(&places.warren);
                command.arg("serve").arg(&places.plugins);
                without_settings(&mut command).args([
                    "--broker",
                    &places.address,
                    "--prefetch",
                    &prefetch.to_string(),
                ]);
                // The others send every status, so this one must not leave any out.
                command.env("WARREN_STATUS_INTERVAL_MS", "0");
                command
            }
            Self::Celery | Self::CeleryConfirmed => {
                let mut command = Command::new(places.python.as_ref().context("no Python with celery")?);
                command.args(["-m", "celery", "-A", "celery_worker", "worker", "--loglevel=error"]);
                command.args(["--without-gossip", "--without-mingle", "--queues", queue]);
                command.current_dir(&peers).env("BENCH_BROKER", &places.address);
                command.env("BENCH_QUEUE", queue).env("BENCH_PREFETCH", prefetch.to_string());
                command.env("BENCH_STATUSES", statuses.to_string());
                command.env("BENCH_CONFIRMED", if self == Self::CeleryConfirmed { "1" } else { "0" });
                command
            }
            Self::Pika => {
                let mut command = Command::new(places.python.as_ref().context("no Python with pika")?);
                command.arg(peers.join("pika_worker.py")).args(&arguments);
                command
            }
            Self::Amqplib => {
                let mut command = Command::new("node");
                let modules = places.node.as_ref().context("no amqplib")?.join("node_modules");
                command.arg(peers.join("amqplib_worker.js")).args(&arguments).env("NODE_PATH", modules);
                command
            }
        };
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&places.log)?);
        let child = command.spawn().with_context(|| format!("cannot start {}", self.name()))?;
        Ok(Running { child, log: places.log.clone() })
    }
}
