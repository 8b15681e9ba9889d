//! From a folder's rename, or a process's start, to the first job served; and what an instance takes.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use warren::broker::client::BrokerTransport;
use warren::broker::embedded::Embedded;
use warren::config::Config;
use warren::host::Host;
use warren::job::{Class, Envelope, EventsMode, Job};
use warren::sandbox::{Entry, Sandbox, SandboxConfig};
use warren_client::{Client, JobRequest};
use warren_tensor::{Engine, EngineConfig};

use super::{config, copy, guests, median, ms, quantile, row};

const ROUNDS: usize = 7;
const PATIENCE: Duration = Duration::from_secs(120);

/// Two seconds of a tone, 22,050 Hz, 16 bit.
fn tone() -> Vec<u8> {
    let rate = 22_050u32;
    let wave = (0..rate * 2)
        .map(|n| ((f64::from(n) * 440.0 * std::f64::consts::TAU / f64::from(rate)).sin() * 9e3) as i16);
    let data: Vec<u8> = wave.flat_map(i16::to_le_bytes).collect();
    let mut wav = Vec::from(*b"RIFF");
    wav.extend_from_slice(&(data.len() as u32 + 36).to_le_bytes());
    wav.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend_from_slice(&rate.to_le_bytes());
    wav.extend_from_slice(&(rate * 2).to_le_bytes());
    wav.extend_from_slice(b"\x02\0\x10\0data");
    wav.extend_from_slice(&(data.len() as u32).to_le_bytes());
    wav.extend_from_slice(&data);
    wav
}

fn request(model: &str) -> JobRequest {
    match model {
        "transcribe" => JobRequest::new(model).bytes("audio", Bytes::from(tone())),
        _ => JobRequest::new(model).bytes("text", "hello"),
    }
}

/// The folders to try, with their models.
fn folders() -> Vec<(PathBuf, &'static str)> {
    let mut all = vec![(guests().join("echo"), "echo")];
    match std::env::var("WARREN_BENCH_TRANSCRIBE").map(PathBuf::from) {
        Ok(folder) if folder.join("nmp.onnx").is_file() => all.push((folder, "transcribe")),
        _ => println!("transcribe: left out, WARREN_BENCH_TRANSCRIBE names no folder with its model"),
    }
    all
}

/// A folder is renamed into the directory of a host that serves: until it is in service, and until the
/// first job is done.
async fn arrive(folder: &Path, model: &str, cache: &Path) -> Result<(Duration, Duration, Duration)> {
    let dir = tempfile::tempdir()?;
    let (plugins, staged) = (dir.path().join("plugins"), dir.path().join("staged"));
    std::fs::create_dir(&plugins)?;
    let broker = Embedded::new();
    let host = Host::new(config(&plugins, Some(cache.to_owned())), Arc::new(broker.connect()))?;
    host.load_all().await?;
    host.serve().await?;
    host.deployer().watch_directory()?;
    let client = Client::connect(Arc::new(BrokerTransport::new(Arc::new(broker.connect())))).await?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let start = Instant::now();
    copy(folder, &staged)?;
    let copied = start.elapsed();
    let start = Instant::now();
    std::fs::rename(&staged, plugins.join(model))?;
    while host.plugins().newest(model).is_none() {
        if let Some(refused) = host.plugins().refused().first() {
            bail!("refused: {}", refused.reason);
        }
        ensure!(start.elapsed() < PATIENCE, "{model} does not serve");
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    let serving = start.elapsed();
    client.submit(request(model)).await?.result().await?;
    let served = start.elapsed();
    host.shutdown().await;
    Ok((copied, serving, served))
}

/// From rename to the first served job, with an empty and a filled cache of compiled code.
pub async fn arrival() -> Result<()> {
    for (folder, model) in folders() {
        let (mut copies, mut cold, mut warm) =
            (Vec::new(), [Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for _ in 0..ROUNDS {
            let cache = tempfile::tempdir()?;
            for figures in [&mut cold, &mut warm] {
                let (copied, serving, served) = arrive(&folder, model, cache.path()).await?;
                copies.push(ms(copied));
                figures[0].push(ms(serving));
                figures[1].push(ms(served));
            }
        }
        row(&format!("{model}: copying the folder, alone"), format!("{:.1} ms", median(&copies)), "");
        for (name, figures) in [("cold", cold), ("warm", warm)] {
            let what = format!("{model}: rename to first served job, {name} cache (to in service)");
            row(&what, format!("{:.0} ms ({:.0})", median(&figures[1]), median(&figures[0])), "");
        }
    }
    Ok(())
}

/// A process that serves one job with a plugin and ends: its start to the result on its output.
fn process(folder: &Path, cache: &Path, input: &str) -> Result<Duration> {
    let out = tempfile::tempdir()?;
    let mut command = Command::new(warren_tests::process::binary());
    warren_tests::process::without_settings(&mut command);
    command.env("WARREN_CACHE", cache).env("XDG_CACHE_HOME", cache).arg("run").arg(folder);
    command.args(["--json", "--input", input, "--output-dir"]).arg(out.path());
    let start = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let found = loop {
        let Some(line) = lines.next() else { break None };
        if line?.contains("\"result\"") {
            break Some(start.elapsed());
        }
    };
    let status = child.wait()?;
    ensure!(status.success(), "warren run: {status}");
    found.context("no result")
}

/// A cold host with a warm cache, and with none.
pub fn start() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let audio = dir.path().join("tone.wav");
    std::fs::write(&audio, tone())?;
    for (folder, model) in folders() {
        let input = match model {
            "transcribe" => format!("audio=@{}", audio.display()),
            _ => "text=hello".to_owned(),
        };
        let (mut cold, mut warm) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let cache = tempfile::tempdir()?;
            cold.push(ms(process(&folder, cache.path(), &input)?));
            warm.push(ms(process(&folder, cache.path(), &input)?));
        }
        let what = format!("{model}: a process's start to its first served job, warm cache");
        row(&what, format!("{:.0} ms", median(&warm)), "within 1,000 ms");
        row("  the same, cold cache", format!("{:.0} ms", median(&cold)), "");
    }
    Ok(())
}

fn empty_job() -> Arc<Job> {
    Arc::new(Job {
        envelope: Envelope {
            id: "bench".into(),
            model: "noop".into(),
            class: Class::Normal,
            attempt: 1,
            reply_to: None,
            events: EventsMode::Final,
            traceparent: None,
            tenant: None,
        },
        parameters: Vec::new(),
        inputs: Vec::new(),
        requested: Vec::new(),
        binary: false,
        deadline: None,
    })
}

/// Store, instance, an empty call and the end of both: from the pool, and on demand.
pub async fn instances() -> Result<()> {
    let engine = Arc::new(Engine::new(EngineConfig { threads: 1, ..EngineConfig::default() })?);
    let mut sandboxes = Vec::new();
    for (name, pooled, scan) in [
        ("from the pool", true, true),
        ("from the pool, no page-map scan", true, false),
        ("on demand", false, false),
    ] {
        let config = SandboxConfig {
            slots: 2,
            memory_mib: 1024,
            pooled,
            pagemap_scan: scan,
            ..SandboxConfig::default()
        };
        let sandbox = Arc::new(Sandbox::new(&config, Arc::clone(&engine))?);
        let limits = Config::default().limits;
        let plugin = warren::plugin::load(&guests().join("noop"), &sandbox, &limits, &[]).await?;
        sandboxes.push((name, sandbox, plugin, Vec::new()));
    }
    let job = empty_job();
    for _ in 0..ROUNDS {
        for (_, sandbox, plugin, figures) in &mut sandboxes {
            for _ in 0..3000 {
                let entry = Entry { job: Arc::clone(&job), progress: Arc::new(|_| {}) };
                let start = Instant::now();
                let results = sandbox.run(&plugin.guest, vec![entry], |_| {}).await;
                figures.push(start.elapsed().as_secs_f64() * 1e6);
                ensure!(matches!(results.as_slice(), [Ok(_)]), "the no-op plugin failed: {results:?}");
            }
        }
    }
    for (name, _, _, figures) in &sandboxes {
        let figure = format!("{:.1} us / {:.1} us", median(figures), quantile(figures, 0.99));
        row(&format!("store, instance, empty call, drop, {name}: p50 / p99"), figure, "");
    }
    Ok(())
}
