//! A thousand swaps of a plugin under load: each a new version in the place of the one before, by a
//! rename, of one of two components in turn.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use warren::broker::embedded::Embedded;
use warren::host::Host;
use warren::plugin::Standing;

use super::load::{Outcome, paced};
use super::{Held, config, guests, median, ms, quantile, row};

const SWAPS: usize = 1000;
/// Jobs a second.
const RATE: f64 = 1000.0;
/// Before, and after.
const QUIET: Duration = Duration::from_secs(15);

/// The component with a section of no meaning at its end: other bytes, another digest.
fn twin(component: &[u8]) -> Vec<u8> {
    let mut twin = component.to_vec();
    // Custom section, of 6 bytes: a name of 4, and one byte.
    twin.extend_from_slice(b"\x00\x06\x04twin\x01");
    twin
}

/// A folder with this version.
fn version(staging: &Path, components: &[PathBuf; 2], number: usize) -> Result<PathBuf> {
    let folder = staging.join(number.to_string());
    std::fs::create_dir(&folder)?;
    let manifest = std::fs::read_to_string(guests().join("echo/plugin.toml"))?;
    let manifest = manifest.replacen("version = \"0.1.0\"", &format!("version = \"1.0.{number}\""), 1);
    ensure!(manifest.contains("1.0."), "the manifest of echo has another version");
    std::fs::write(folder.join("plugin.toml"), manifest)?;
    std::fs::hard_link(&components[number % 2], folder.join("echo.wasm"))?;
    Ok(folder)
}

fn quantiles(outcome: &Outcome) -> (f64, f64) {
    (quantile(&outcome.latencies, 0.5), quantile(&outcome.latencies, 0.99))
}

/// The swaps; answers how long each took until it served.
async fn swap(host: &Host, plugins: &Path, staging: &Path, components: &[PathBuf; 2]) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(SWAPS);
    let (place, aside) = (plugins.join("echo"), staging.join("old"));
    for number in 1..=SWAPS {
        let next = version(staging, components, number)?;
        let start = Instant::now();
        std::fs::rename(&place, &aside)?;
        std::fs::rename(&next, &place)?;
        let wanted = format!("1.0.{number}");
        while host.plugins().newest("echo").is_none_or(|p| p.manifest.version != wanted) {
            if let Some(refused) = host.plugins().refused().first() {
                bail!("refused: {}", refused.reason);
            }
            ensure!(start.elapsed() < Duration::from_secs(60), "{wanted} does not serve");
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        times.push(ms(start.elapsed()));
        std::fs::remove_dir_all(&aside)?;
    }
    Ok(times)
}

pub async fn swaps() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (plugins, staging) = (dir.path().join("plugins"), dir.path().join("staging"));
    std::fs::create_dir(&plugins)?;
    std::fs::create_dir(&staging)?;
    let components = [staging.join("a.wasm"), staging.join("b.wasm")];
    let bytes = std::fs::read(guests().join("echo/echo.wasm"))?;
    std::fs::write(&components[0], &bytes)?;
    std::fs::write(&components[1], twin(&bytes))?;
    std::fs::rename(version(&staging, &components, 0)?, plugins.join("echo"))?;
    let broker = Embedded::new();
    let host = Host::new(config(&plugins, Some(dir.path().join("cache"))), Arc::new(broker.connect()))?;
    host.load_all().await?;
    host.serve().await?;
    host.deployer().watch_directory()?;
    let body = Bytes::from_static(
        b"{\"inputs\":[{\"name\":\"text\",\"shape\":[1],\"datatype\":\"BYTES\",\"data\":[\"hello\"]}]}",
    );
    let quiet = |time: Duration| time >= QUIET;
    paced(&broker, "echo", &body, RATE, |time| time >= Duration::from_secs(3)).await?;
    let before = paced(&broker, "echo", &body, RATE, quiet).await?;
    let held = Held::now()?;
    let finished = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let during = {
        let finished = Arc::clone(&finished);
        let (broker, body) = (broker.connect(), body.clone());
        tokio::spawn(async move {
            paced(&broker, "echo", &body, RATE, |_| finished.load(Ordering::Relaxed)).await
        })
    };
    let times = swap(&host, &plugins, &staging, &components).await;
    finished.store(true, Ordering::Relaxed);
    let (times, took, during) = (times?, start.elapsed(), during.await.context("the load")??);
    let after = paced(&broker, "echo", &body, RATE, quiet).await?;
    while host.plugins().list().iter().any(|l| l.standing == Standing::Draining) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let left = Held::now()?;
    row(
        &format!("{SWAPS} swaps under {RATE} jobs/s: all of them"),
        format!("{:.1} s", took.as_secs_f64()),
        "",
    );
    row(
        "  one swap, rename to in service: p50 / p99",
        format!("{:.0} / {:.0} ms", median(&times), quantile(&times, 0.99)),
        "",
    );
    row("  jobs done", during.done, "");
    row("  jobs failed", format!("{} {}", during.failed, during.error), "0");
    row("  jobs lost", during.lost, "0");
    row("  jobs answered twice", during.duplicated, "");
    for (name, outcome) in [("before", &before), ("during", &during), ("after", &after)] {
        let (p50, p99) = quantiles(outcome);
        row(&format!("  latency {name} the swaps: p50 / p99"), format!("{p50:.2} / {p99:.2} ms"), "");
    }
    let ratio = |part: f64| {
        let still = [&before, &after].map(|o| quantile(&o.latencies, part));
        quantile(&during.latencies, part) / (still[0] + still[1]) * 2.0
    };
    row(
        "  during against before and after: p50 / p99",
        format!("{:.2} / {:.2}", ratio(0.5), ratio(0.99)),
        "",
    );
    let resident = |held: Held| held.resident_kib as f64 / 1024.0;
    row("  resident before / after", format!("{:.1} / {:.1} MiB", resident(held), resident(left)), "");
    row("  mappings before / after", format!("{} / {}", held.mappings, left.mappings), "");
    row("  threads before / after", format!("{} / {}", held.threads, left.threads), "");
    row("  descriptors before / after", format!("{} / {}", held.descriptors, left.descriptors), "");
    ensure!(during.failed == 0 && during.lost == 0, "jobs failed or were lost: {}", during.error);
    host.shutdown().await;
    Ok(())
}
