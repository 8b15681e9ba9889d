//! `make bench`: what the host costs, and Basic Pitch beside onnxruntime. Ratios of one run on one
//! machine, medians of interleaved rounds; never a test.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use warren::broker::client::BrokerTransport;
use warren::broker::embedded::Embedded;
use warren::broker::{Broker, Message, Properties, QueueSpec, Settle};
use warren::config::Config;
use warren::host::Host;
use warren::job::{Class, Envelope, EventsMode, Job};
use warren::sandbox::{Entry, Sandbox, SandboxConfig};
use warren_client::oip::{Data, InferResponse, Parameter};
use warren_client::{Client, JobRequest};
use warren_tensor::{Engine, EngineConfig};

const ROUNDS: usize = 5;

fn guests() -> PathBuf {
    PathBuf::from(env!("WARREN_GUESTS"))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// User and system time of this process so far, all threads.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

fn row(what: &str, figure: String, against: &str) {
    println!("{what:<58} {figure:>22}  {against}");
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!("{:<58} {:>22}  aim", "what", "figure (median of 5)");
    runtime.block_on(async {
        sandbox_cycle().await?;
        recorded_op().await?;
        jobs().await?;
        basic_pitch().await
    })
}

fn sandbox() -> Result<Arc<Sandbox>> {
    let engine = Arc::new(Engine::new(EngineConfig { threads: 2, ..EngineConfig::default() })?);
    let config = SandboxConfig { slots: 2, memory_mib: 1024, ..SandboxConfig::default() };
    Ok(Arc::new(Sandbox::new(&config, engine)?))
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

/// Store, instantiate, call, drop, without broker and events.
async fn sandbox_cycle() -> Result<()> {
    let sandbox = sandbox()?;
    let plugin =
        warren::plugin::load(&guests().join("noop"), &sandbox, &Config::default().limits, &[]).await?;
    let job = empty_job();
    let mut figures = Vec::new();
    for _ in 0..ROUNDS {
        let count = 20_000u32;
        let start = Instant::now();
        for _ in 0..count {
            let entry = Entry { job: Arc::clone(&job), progress: Arc::new(|_| {}) };
            let results = sandbox.run(&plugin.guest, vec![entry], |_| {}).await;
            ensure!(matches!(results.as_slice(), [Ok(_)]), "the no-op plugin failed: {results:?}");
        }
        figures.push(start.elapsed().as_secs_f64() * 1e6 / f64::from(count));
    }
    row("sandbox cycle: store, instantiate, call, drop", format!("{:.1} us", median(figures)), "under 20 us");
    Ok(())
}

async fn client(config: Config, folders: &[PathBuf]) -> Result<(Host, Client, Embedded)> {
    let broker = Embedded::new();
    let host = Host::new(config, Arc::new(broker.connect()))?;
    for folder in folders {
        host.load(folder).await?;
    }
    host.serve().await?;
    let client = Client::connect(Arc::new(BrokerTransport::new(Arc::new(broker.connect())))).await?;
    Ok((host, client, broker))
}

fn text(response: &InferResponse, name: &str) -> Result<String> {
    match response.output(name).map(|t| &t.data) {
        Some(Data::Strings(strings)) => {
            Ok(String::from_utf8_lossy(strings.first().context("empty")?).into_owned())
        }
        other => bail!("no output {name}: {other:?}"),
    }
}

/// One `add` recorded from inside a guest.
async fn recorded_op() -> Result<()> {
    let (host, client, _broker) = client(Config::default(), &[guests().join("hostile")]).await?;
    let count = 50_000i64;
    let mut figures = Vec::new();
    for _ in 0..ROUNDS {
        let job = JobRequest::new("hostile").parameter("mode", Parameter::Text("record".into()));
        let response = client.submit(job.parameter("number", Parameter::Int(count))).await?.result().await?;
        ensure!(text(&response, "value")? == (count + 1).to_string(), "wrong sum");
        figures.push(text(&response, "nanoseconds")?.parse::<f64>()? / count as f64);
    }
    row("one recorded tensor operation, from a guest", format!("{:.0} ns", median(figures)), "under 500 ns");
    host.shutdown().await;
    Ok(())
}

/// No-op jobs through the whole host. The producer only publishes and the consumer only acks, both
/// on the broker itself, so that what is measured is the host; they share its two cores all the same.
async fn jobs() -> Result<()> {
    for statuses in [0, 4] {
        let (host, _client, broker) =
            client(Config::default(), &[guests().join("noop"), guests().join("hostile")]).await?;
        let replies = "bench.replies";
        broker.declare_queue(&QueueSpec { name: replies.into(), ..QueueSpec::default() }).await?;
        let mut consumer = broker.consume(replies, 1000).await?;
        let (mut rates, mut cpus, mut overheads) = (Vec::new(), Vec::new(), Vec::new());
        let count = 40_000usize;
        let (key, body) = if statuses == 0 {
            ("noop", Bytes::from_static(b"{\"inputs\":[]}"))
        } else {
            (
                "hostile",
                Bytes::from_static(b"{\"inputs\":[],\"parameters\":{\"mode\":\"flood\",\"number\":4}}"),
            )
        };
        for _ in 0..ROUNDS {
            overheads.push(broker_only(&broker, count, &body).await?);
            let (start, before) = (Instant::now(), cpu());
            let mut finished = 0usize;
            for sent in 0..count {
                let properties = Properties {
                    correlation_id: Some(format!("bench-{sent}")),
                    reply_to: Some(replies.into()),
                    persistent: true,
                    ..Properties::default()
                };
                let message = Message {
                    exchange: "warren.jobs".into(),
                    routing_key: key.into(),
                    properties,
                    body: body.clone(),
                };
                drop(broker.publish(message, false));
                while let Ok(delivery) = consumer.deliveries.try_recv() {
                    finished += usize::from(is_result(&delivery.message)?);
                    broker.settle(delivery.tag, Settle::Ack);
                }
                // At most a thousand ahead: a client that waits for answers.
                while sent + 1 - finished > 1000 {
                    let delivery = consumer.deliveries.recv().await.context("the reply queue is gone")?;
                    finished += usize::from(is_result(&delivery.message)?);
                    broker.settle(delivery.tag, Settle::Ack);
                }
            }
            while finished < count {
                let delivery = consumer.deliveries.recv().await.context("the reply queue is gone")?;
                finished += usize::from(is_result(&delivery.message)?);
                broker.settle(delivery.tag, Settle::Ack);
            }
            rates.push(count as f64 / start.elapsed().as_secs_f64());
            cpus.push((cpu() - before).as_secs_f64() * 1e6 / count as f64);
        }
        let (cpu, overhead) = (median(cpus), median(overheads));
        if statuses == 0 {
            row(
                "no-op jobs on the embedded broker",
                format!("{:.0} jobs/s", median(rates)),
                "at least 25,000",
            );
            row("  CPU a job, all of it", format!("{cpu:.1} us"), "");
            row("  of which the producer, the consumer and the broker", format!("{overhead:.1} us"), "");
            row("  so the host", format!("{:.1} us", cpu - overhead), "under 40 us");
        } else {
            row("  with four statuses reported", format!("{:.0} jobs/s", median(rates)), "");
        }
        host.shutdown().await;
    }
    Ok(())
}

fn is_result(message: &Message) -> Result<bool> {
    match message.properties.kind.as_deref() {
        Some("result") => Ok(true),
        Some("status") => Ok(false),
        other => bail!("unexpected event {other:?}: {:?}", message.body),
    }
}

/// CPU a message of the producer, the broker and a consumer that answers at once: what the job
/// figure would be with a host that costs nothing.
async fn broker_only(broker: &Embedded, count: usize, body: &Bytes) -> Result<f64> {
    for name in ["bench.in", "bench.out"] {
        broker.declare_queue(&QueueSpec { name: name.into(), ..QueueSpec::default() }).await?;
    }
    let (mut jobs, mut replies) =
        (broker.consume("bench.in", 1000).await?, broker.consume("bench.out", 1000).await?);
    let before = cpu();
    for sent in 0..count {
        let properties = Properties {
            correlation_id: Some(format!("bench-{sent}")),
            reply_to: Some("bench.out".into()),
            persistent: true,
            ..Properties::default()
        };
        let message = Message {
            exchange: String::new(),
            routing_key: "bench.in".into(),
            properties,
            body: body.clone(),
        };
        broker.publish(message, true).await?;
        let job = jobs.deliveries.recv().await.context("no job")?;
        let message = Message { routing_key: "bench.out".into(), ..job.message };
        broker.publish(message, true).await?;
        broker.settle(job.tag, Settle::Ack);
        let reply = replies.deliveries.recv().await.context("no reply")?;
        broker.settle(reply.tag, Settle::Ack);
    }
    Ok((cpu() - before).as_secs_f64() * 1e6 / count as f64)
}

/// onnxruntime in a child process that answers a line with the seconds of one run.
struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    fn start(python: &str, script: &Path, model: &Path, wav: &Path, threads: usize) -> Result<Self> {
        let mut child = Command::new(python)
            .arg(script)
            .args([model, wav])
            .arg(threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {python}"))?;
        let input = child.stdin.take().context("no stdin")?;
        let output = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut peer = Self { child, input, output };
        peer.line().context("onnxruntime did not start")?;
        Ok(peer)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "the peer has ended");
        Ok(line.trim().to_owned())
    }

    fn run(&mut self) -> Result<f64> {
        writeln!(self.input, "run")?;
        Ok(self.line()?.parse()?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A minute of decaying notes, 22,050 Hz, 16 bit: no resampling on either side.
fn minute(path: &Path) -> Result<()> {
    let (rate, seconds) = (22_050u32, 60u32);
    let samples = (0..rate * seconds).map(|n| {
        let t = f64::from(n) / f64::from(rate);
        let (beat, within) = ((t * 4.0) as u32, (t * 4.0).fract());
        let frequency = 220.0 * 2f64.powf(f64::from(beat * 7 % 24) / 12.0);
        let wave = (1..6)
            .map(|k| (std::f64::consts::TAU * frequency * f64::from(k) * t).sin() / f64::from(k))
            .sum::<f64>();
        (wave * (-3.0 * within).exp() * 9000.0) as i16
    });
    let data: Vec<u8> = samples.flat_map(i16::to_le_bytes).collect();
    let mut wav = Vec::with_capacity(data.len() + 44);
    wav.extend_from_slice(b"RIFF");
    wav.extend_from_slice(&(data.len() as u32 + 36).to_le_bytes());
    wav.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend_from_slice(&rate.to_le_bytes());
    wav.extend_from_slice(&(rate * 2).to_le_bytes());
    wav.extend_from_slice(b"\x02\0\x10\0data");
    wav.extend_from_slice(&(data.len() as u32).to_le_bytes());
    wav.extend_from_slice(&data);
    std::fs::write(path, wav)?;
    Ok(())
}

/// Seconds of audio a second, the whole job through the plugin against the bare model on
/// onnxruntime: same file, same threads.
async fn basic_pitch() -> Result<()> {
    let Ok(python) = std::env::var("WARREN_BENCH_PYTHON") else {
        println!(
            "Basic Pitch beside onnxruntime: left out, WARREN_BENCH_PYTHON names no Python with onnxruntime (make bench makes one)"
        );
        return Ok(());
    };
    let folder = PathBuf::from(
        std::env::var("WARREN_BENCH_TRANSCRIBE").context("WARREN_BENCH_TRANSCRIBE is not set")?,
    );
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/onnxruntime_basic_pitch.py");
    let dir = tempfile::tempdir()?;
    let wav = dir.path().join("minute.wav");
    minute(&wav)?;
    let audio = Bytes::from(std::fs::read(&wav)?);
    for threads in [1usize, 2] {
        let config = Config { tensor_threads: threads, slots: 1, ..Config::default() };
        let (host, client, _broker) = client(config, std::slice::from_ref(&folder)).await?;
        let mut peer = Peer::start(&python, &script, &folder.join("nmp.onnx"), &wav, threads)?;
        let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let peer_seconds = peer.run()?;
            let start = Instant::now();
            let job = JobRequest::new("transcribe").bytes("audio", audio.clone());
            let response = client.submit(job).await?.result().await?;
            let seconds = start.elapsed().as_secs_f64();
            ensure!(response.output("notes").is_some(), "no notes");
            if round > 0 {
                ours.push(60.0 / seconds);
                theirs.push(60.0 / peer_seconds);
                ratios.push(peer_seconds / seconds);
            }
        }
        row(
            &format!("Basic Pitch, whole job, {threads} thread(s): seconds of audio a second"),
            format!("{:.1}", median(ours)),
            "",
        );
        row("  the bare model on onnxruntime", format!("{:.1}", median(theirs)), "");
        row("  ratio", format!("{:.2}", median(ratios)), "at least 0.7");
        host.shutdown().await;
    }
    Ok(())
}
