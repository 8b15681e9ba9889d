//! One plugin alone, and the same with 999 others loaded beside it: two processes, measured in turn while
//! the other is stopped.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use warren::broker::embedded::Embedded;
use warren::host::Host;

use super::load::{flat_out, paced};
use super::{Held, config, cpu, guests, median, ms, quantile, row};

const ROUNDS: usize = 7;
/// Jobs of a round without a pause.
const JOBS: usize = 30_000;
/// Jobs a second of a round with pauses.
const RATE: f64 = 500.0;

/// A folder of the guest `noop` under another name; the component is the same file.
fn folder(plugins: &Path, name: &str) -> Result<()> {
    let folder = plugins.join(name);
    std::fs::create_dir(&folder)?;
    let manifest = std::fs::read_to_string(guests().join("noop/plugin.toml"))?;
    std::fs::write(folder.join("plugin.toml"), manifest.replace("\"noop\"", &format!("\"{name}\"")))?;
    std::fs::copy(guests().join("noop/noop.wasm"), folder.join("noop.wasm"))?;
    Ok(())
}

/// A host with so many plugins, which does rounds when it is told to and prints their figures.
pub async fn child(count: usize) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let plugins = dir.path().join("plugins");
    std::fs::create_dir(&plugins)?;
    folder(&plugins, "first")?;
    let broker = Embedded::new();
    let host = Host::new(config(&plugins, Some(dir.path().join("cache"))), Arc::new(broker.connect()))?;
    host.load_all().await?;
    host.serve().await?;
    host.deployer().watch_directory()?;
    let body = Bytes::from_static(b"{\"inputs\":[]}");
    flat_out(&broker, "first", &body, JOBS).await?;
    let before = Held::now()?;
    let start = Instant::now();
    for number in 1..count {
        folder(&plugins, &format!("p{number:04}"))?;
    }
    let written = start.elapsed();
    let start = Instant::now();
    host.load_all().await?;
    let loaded = start.elapsed();
    let served = host.plugins().models().len();
    ensure!(served == count, "{served} of {count} are loaded: {:?}", host.plugins().refused().first());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = Held::now()?;
    // Nobody asks for anything: what does it take all the same? Two rescans are in it.
    let (start, used) = (Instant::now(), cpu());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let idle = (cpu() - used).as_secs_f64() / start.elapsed().as_secs_f64() * 1e3;
    let start = Instant::now();
    let listed = host.plugins().list().len();
    let list = start.elapsed();
    ensure!(listed == count, "{listed} listed");
    // One more comes.
    folder(dir.path(), "late")?;
    let start = Instant::now();
    std::fs::rename(dir.path().join("late"), plugins.join("late"))?;
    while host.plugins().newest("late").is_none() {
        ensure!(start.elapsed() < Duration::from_secs(30), "late does not serve");
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    let late = start.elapsed();
    let others = count.saturating_sub(1).max(1) as f64;
    println!(
        "ready {} {} {} {} {} {idle} {} {}",
        ms(written),
        ms(loaded),
        (after.resident_kib as f64 - before.resident_kib as f64) / others,
        (after.mappings as f64 - before.mappings as f64) / others,
        (after.descriptors as f64 - before.descriptors as f64) / others,
        list.as_secs_f64() * 1e6,
        ms(late),
    );
    for line in std::io::stdin().lines() {
        ensure!(line? == "round", "no such order");
        let rate = flat_out(&broker, "first", &body, JOBS).await?;
        let calm = paced(&broker, "first", &body, RATE, |time| time >= Duration::from_secs(3)).await?;
        ensure!(calm.failed == 0 && calm.lost == 0, "jobs failed: {}", calm.error);
        let (p50, p99) = (quantile(&calm.latencies, 0.5), quantile(&calm.latencies, 0.99));
        println!("round {rate} {p50} {p99}");
    }
    host.shutdown().await;
    Ok(())
}

/// A child and what it says.
struct Running {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Running {
    fn start(part: &str) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--part", part])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().context("no input")?;
        let answers = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self { child, orders, answers })
    }

    fn answer(&mut self, word: &str) -> Result<Vec<f64>> {
        let mut line = String::new();
        ensure!(self.answers.read_line(&mut line)? > 0, "the host has ended");
        let rest = line.strip_prefix(word).with_context(|| format!("{line:?} is no {word}"))?;
        rest.split_whitespace().map(|figure| Ok(figure.parse::<f64>()?)).collect()
    }

    fn round(&mut self) -> Result<Vec<f64>> {
        warren_tests::process::signal(self.child.id(), "CONT");
        writeln!(self.orders, "round")?;
        let figures = self.answer("round")?;
        self.stop();
        Ok(figures)
    }

    fn stop(&self) {
        warren_tests::process::signal(self.child.id(), "STOP");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub async fn thousand() -> Result<()> {
    let mut alone = Running::start("one-plugin")?;
    let one = alone.answer("ready")?;
    alone.stop();
    let mut crowd = Running::start("thousand-plugins")?;
    let all = crowd.answer("ready")?;
    crowd.stop();
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        a.push(alone.round()?);
        b.push(crowd.round()?);
    }
    let [_, loaded, resident, mappings, descriptors, idle, list, late] = all.as_slice() else {
        anyhow::bail!("{all:?}");
    };
    row(
        "999 plugins beside the first: loading one (scan of the directory to in service)",
        format!("{:.2} ms", loaded / 999.0),
        "",
    );
    row("  resident memory of an idle plugin", format!("{resident:.1} KiB"), "");
    row("  mappings / descriptors of an idle plugin", format!("{mappings:.3} / {descriptors:.3}"), "");
    row("  processor of the idle host, 1 / 1,000 plugins", format!("{:.1} / {idle:.1} ms/s", one[5]), "");
    row("  the list of all versions", format!("{list:.0} us"), "");
    row("  one more, rename to in service, beside 1 / 1,000", format!("{:.1} / {late:.1} ms", one[7]), "");
    let column = |rounds: &[Vec<f64>], at: usize| rounds.iter().map(|r| r[at]).collect::<Vec<_>>();
    for (at, name, unit) in [
        (0, "jobs a second of the first", "/s"),
        (1, "its latency, p50", "ms"),
        (2, "its latency, p99", "ms"),
    ] {
        let (x, y) = (column(&a, at), column(&b, at));
        let ratios: Vec<f64> = x.iter().zip(&y).map(|(x, y)| y / x).collect();
        let digits = if at == 0 { 0 } else { 3 };
        row(
            &format!("  {name}: alone / with 999 others"),
            format!("{:.digits$} / {:.digits$} {unit}", median(&x), median(&y)),
            "",
        );
        row("    ratio, median of pairs", format!("{:.3}", median(&ratios)), "1");
    }
    Ok(())
}
