//! `BENCH=hotload make bench`: what it takes until a plugin serves, what a thousand swaps under load and
//! a thousand idle plugins cost, and how long an instance and a cold host take. Each part runs in a
//! process of its own, so that none finds another's memory warm. Figures of one machine, never a test.
//!
//! Arguments choose parts; without any all are run. `models` needs RabbitMQ.

#[path = "hotload/arrival.rs"]
mod arrival;
#[path = "hotload/load.rs"]
mod load;
#[path = "hotload/models.rs"]
mod models;
#[path = "hotload/swaps.rs"]
mod swaps;
#[path = "hotload/thousand.rs"]
mod thousand;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use warren::config::Config;

/// The parts, in order.
const PARTS: [&str; 6] = ["arrival", "start", "instances", "swaps", "thousand", "models"];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [role, part] = arguments.as_slice()
        && role == "--part"
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        return runtime.block_on(async {
            match part.as_str() {
                "arrival" => arrival::arrival().await,
                "start" => arrival::start(),
                "instances" => arrival::instances().await,
                "swaps" => swaps::swaps().await,
                "thousand" => thousand::thousand().await,
                "models" => models::models().await,
                "one-plugin" => thousand::child(1).await,
                "thousand-plugins" => thousand::child(1000).await,
                _ => bail!("{part:?} is no part of this bench: {PARTS:?}"),
            }
        });
    }
    if let Some(unknown) = arguments.iter().find(|a| !PARTS.contains(&a.as_str())) {
        bail!("{unknown:?} is no part of this bench: {PARTS:?}");
    }
    println!("{:<74} {:>24}  aim", "what", "figure");
    for part in PARTS.iter().filter(|p| arguments.is_empty() || arguments.iter().any(|a| a == *p)) {
        let status = Command::new(std::env::current_exe()?).args(["--part", part]).status()?;
        ensure!(status.success(), "{part}: {status}");
    }
    Ok(())
}

/// One line of the table.
fn row(what: &str, figure: impl std::fmt::Display, against: &str) {
    println!("{what:<74} {figure:>24}  {against}");
}

/// The value below which `part` of all are.
fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Plugins and guests as the build script laid them out.
fn guests() -> PathBuf {
    PathBuf::from(env!("WARREN_GUESTS"))
}

/// A host's config for these measurements: as an operator's, but for where things are.
fn config(plugins: &Path, cache: Option<PathBuf>) -> Config {
    Config {
        plugins: plugins.to_owned(),
        slots: 2,
        device: "cpu".into(),
        cache,
        compiler: Some(warren_tests::process::binary()),
        ..Config::default()
    }
}

/// Copies a plugin's folder.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// What this process holds: resident KiB, mappings, threads, descriptors.
#[derive(Debug, Clone, Copy)]
struct Held {
    resident_kib: u64,
    mappings: usize,
    threads: u64,
    descriptors: usize,
}

impl Held {
    fn now() -> Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find(|l| l.starts_with(name)).context("no such line in status")?;
            Ok(line.split_whitespace().nth(1).context("no figure")?.parse()?)
        };
        Ok(Self {
            resident_kib: field("VmRSS:")?,
            mappings: std::fs::read_to_string("/proc/self/maps")?.lines().count(),
            threads: field("Threads:")?,
            descriptors: std::fs::read_dir("/proc/self/fd")?.count(),
        })
    }
}

/// User and system time of this process so far, all threads.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}
