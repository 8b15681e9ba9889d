//! `make bench`: what the host costs on RabbitMQ, beside a bare consumer and the workers that people
//! use today. A private node, quorum queues, a process for each worker; the same publisher and
//! reader for all. Ratios of one run on one machine, medians of interleaved rounds; never a test.
//!
//! Arguments choose parts (`jobs`, `latency`, `peers`, `memory`); without any all are run.

#[path = "rabbitmq/bare.rs"]
mod bare;
#[path = "rabbitmq/load.rs"]
mod load;
#[path = "rabbitmq/workers.rs"]
mod workers;

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use load::{Load, Work};
use warren_tests::rabbitmq::Node;
use workers::{Places, Running, Worker};

/// Unacknowledged jobs of every worker.
const PREFETCH: u16 = 200;
/// Longest wait for a queue to be empty after the last result.
const EMPTY: Duration = Duration::from_secs(20);

const NOOP: Work = Work {
    exchange: "warren.jobs",
    key: "noop",
    queue: "warren.jobs.noop",
    body: "{\"inputs\":[]}",
    statuses: 0,
    celery: false,
};
const REPORT: Work = Work {
    key: "report",
    queue: "warren.jobs.report",
    body: "{\"inputs\":[],\"parameters\":{\"mode\":\"flood\",\"number\":4}}",
    statuses: 4,
    ..NOOP
};
const CELERY: Work = Work {
    exchange: "",
    key: "noop",
    queue: "bench.celery",
    body: "[[], {}, {}]",
    statuses: 4,
    celery: true,
};
/// Occupies a slot for as long as the guest may run.
const SLEEP: Work = Work {
    key: "patient",
    queue: "warren.jobs.patient",
    body: "{\"inputs\":[],\"parameters\":{\"mode\":\"sleep\"}}",
    ..NOOP
};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let [role, address, queue, prefetch, statuses] = arguments.as_slice()
        && role == "bare"
    {
        return runtime.block_on(bare::work(address, queue, prefetch.parse()?, statuses.parse()?));
    }
    runtime.block_on(async {
        let mut bench = Bench::new().await?;
        println!("{:<58} {:>22}  aim", "what", format!("figure (median of {})", bench.rounds));
        let parts = ["jobs", "latency", "peers", "memory"];
        if let Some(unknown) = arguments.iter().find(|a| !parts.contains(&a.as_str())) {
            bail!("{unknown:?} is no part of this bench: {parts:?}");
        }
        for part in parts.iter().filter(|p| arguments.is_empty() || arguments.iter().any(|a| a == *p)) {
            match *part {
                "jobs" => bench.jobs().await?,
                "latency" => bench.latency().await?,
                "peers" => bench.peers().await?,
                _ => bench.memory().await?,
            }
        }
        Ok(())
    })
}

fn row(what: &str, figure: String, aim: &str) {
    println!("{what:<58} {figure:>22}  {aim}");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median of what each round's pair gives: its halves ran beside the same noise.
fn ratio(of: &[f64], to: &[f64]) -> String {
    format!("{:.2}", median(of.iter().zip(to).map(|(a, b)| a / b).collect()))
}

/// One drained queue.
struct Drained {
    rate: f64,
    /// Processor time of the worker for a job, microseconds.
    cpu: f64,
}

struct Bench {
    // Dropped first: the node goes last.
    load: Load,
    places: Places,
    rounds: usize,
    node: Node,
    _files: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Result<Self> {
        let rounds = match std::env::var("WARREN_BENCH_ROUNDS") {
            Ok(rounds) => rounds.parse().context("WARREN_BENCH_ROUNDS is no number")?,
            Err(_) => 5,
        };
        // Beside this program's folder unless told: both are built into one target directory.
        let built = std::env::current_exe()?.parent().and_then(|p| p.parent()).map(|p| p.join("warren"));
        let warren = match std::env::var_os("WARREN_BENCH_WARREN") {
            Some(path) => PathBuf::from(path),
            None => built.context("this program has no folder")?,
        };
        ensure!(
            warren.is_file(),
            "{} is missing: cargo build --release --locked -p warren",
            warren.display()
        );
        let files = tempfile::tempdir()?;
        let plugins = files.path().join("plugins");
        warren_tests::variant(&plugins, "noop", "noop", &[]);
        warren_tests::variant(&plugins, "hostile", "report", &[]);
        warren_tests::patient(&plugins);
        let node = tokio::task::spawn_blocking(|| Node::start("")).await?;
        let address = node.address("/");
        let load = Load::connect(&address).await?;
        let places = Places {
            address,
            warren,
            plugins,
            log: files.path().join("log"),
            python: std::env::var_os("WARREN_BENCH_PYTHON").map(PathBuf::from),
            node: std::env::var_os("WARREN_BENCH_NODE").map(PathBuf::from),
        };
        let bench = Self { load, places, rounds, node, _files: files };
        bench.load.declare(CELERY.queue).await?;
        // Declares its queues; the other workers consume the same.
        let mut host = Worker::Warren.start(&bench.places, NOOP.queue, PREFETCH, 0)?;
        let start = Instant::now();
        while !bench.exists(SLEEP.queue)? {
            host.alive()?;
            ensure!(start.elapsed() < EMPTY, "the host does not declare its queues");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(bench)
    }

    fn queues(&self) -> String {
        tokio::task::block_in_place(|| self.node.ctl(&["list_queues", "--silent", "name", "messages"]))
    }

    fn exists(&self, queue: &str) -> Result<bool> {
        Ok(self.queues().lines().any(|l| l.split('\t').next() == Some(queue)))
    }

    /// Waits until everything in `queue` is acknowledged.
    async fn emptied(&self, queue: &str) -> Result<()> {
        let start = Instant::now();
        loop {
            let queues = self.queues();
            if queues.lines().any(|l| l.split('\t').eq([queue, "0"])) {
                return Ok(());
            }
            ensure!(start.elapsed() < EMPTY, "jobs in {queue} are not acknowledged: {queues}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Fills the queue, starts the worker, and times it from the first tenth of the results on.
    async fn drain(&mut self, worker: Worker, work: &Work, count: usize) -> Result<Drained> {
        self.load.purge(work.queue).await?;
        self.load.fill(work, count).await?;
        let mut running = worker.start(&self.places, work.queue, PREFETCH, work.statuses)?;
        let (mut start, mut last) = (None, Instant::now());
        let mut done = HashSet::new();
        for number in 1..=count {
            let (job, came) = self.load.result().await.with_context(|| {
                format!("{} after {number} of {count} jobs: {}", worker.name(), running.state())
            })?;
            ensure!(done.insert(job.clone()), "{} answered {job} twice", worker.name());
            if number == count / 10 {
                start = Some((came, running.cpu()?));
            }
            last = came;
        }
        let cpu_after = running.cpu()?;
        let (start, cpu) = start.context("too few jobs to be timed")?;
        let timed = (count - count / 10) as f64;
        self.emptied(work.queue).await?;
        let (statuses, wanted) = (self.load.statuses(), count as u64 * u64::from(work.statuses));
        ensure!(statuses == wanted, "{}: {statuses} statuses instead of {wanted}", worker.name());
        Ok(Drained {
            rate: timed / last.saturating_duration_since(start).as_secs_f64(),
            cpu: (cpu_after - cpu).as_secs_f64() * 1e6 / timed,
        })
    }

    /// The host against the bare consumer, without statuses and with four.
    async fn jobs(&mut self) -> Result<()> {
        for (work, count, aim) in [(&NOOP, 30_000, "at least 0.9"), (&REPORT, 10_000, "at least 0.85")] {
            let (mut bare, mut warren) = (Vec::new(), Vec::new());
            for _ in 0..self.rounds {
                bare.push(self.drain(Worker::Bare, work, count).await?);
                warren.push(self.drain(Worker::Warren, work, count).await?);
            }
            let rates = |all: &[Drained]| all.iter().map(|d| d.rate).collect::<Vec<_>>();
            let cpu = |all: &[Drained]| median(all.iter().map(|d| d.cpu).collect());
            let what = if work.statuses == 0 { "no-op jobs" } else { "no-op jobs with four statuses" };
            row(&format!("{what}: bare lapin"), format!("{:.0} jobs/s", median(rates(&bare))), "");
            row("  Warren", format!("{:.0} jobs/s", median(rates(&warren))), "");
            row("  ratio", ratio(&rates(&warren), &rates(&bare)), aim);
            row("  processor time a job, bare lapin", format!("{:.1} us", cpu(&bare)), "");
            row("  processor time a job, Warren", format!("{:.1} us", cpu(&warren)), "");
        }
        Ok(())
    }

    /// A worker that has answered its first jobs.
    async fn warm(&mut self, worker: Worker, work: &Work) -> Result<Running> {
        self.load.purge(work.queue).await?;
        let mut running = worker.start(&self.places, work.queue, PREFETCH, work.statuses)?;
        for number in 0..50 {
            // An id of its own: the host answers a message that is published twice only once.
            let sent = self.load.send(work, &format!("warm-{number}"));
            self.load
                .result()
                .await
                .with_context(|| format!("{}, job {number}: {}", worker.name(), running.state()))?;
            load::confirmed(sent).await?;
        }
        Ok(running)
    }

    /// From publishing a job to having its result.
    async fn latency(&mut self) -> Result<()> {
        let (mut alone, mut half) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        let workers = [Worker::Bare, Worker::Warren];
        let mut rates = Vec::new();
        for _ in 0..self.rounds.min(3) {
            rates.push(self.drain(Worker::Bare, &NOOP, 20_000).await?.rate);
        }
        let rate = median(rates) / 2.0;
        for round in 0..self.rounds {
            for (place, worker) in workers.into_iter().enumerate() {
                let running = self.warm(worker, &NOOP).await?;
                let mut times = Vec::new();
                for number in 0..300 {
                    let start = Instant::now();
                    let sent = self.load.send(&NOOP, &format!("alone-{number}"));
                    let (_, came) = self.load.result().await?;
                    times.push(came.saturating_duration_since(start).as_secs_f64() * 1e3);
                    load::confirmed(sent).await?;
                }
                alone[place].push(median(times));
                let taken = self.load.open_loop(&NOOP, rate, Duration::from_secs(4), round as u64).await?;
                // The first second fills the pools on both sides.
                let mut taken: Vec<f64> =
                    taken.iter().skip(taken.len() / 4).map(|t| t.as_secs_f64() * 1e3).collect();
                taken.sort_by(f64::total_cmp);
                half[place].push(taken[taken.len() * 99 / 100]);
                drop(running);
            }
        }
        let ms = |values: &[f64]| format!("{:.2} ms", median(values.to_vec()));
        row("request to result, one job in flight, p50: bare lapin", ms(&alone[0]), "");
        row("  Warren", ms(&alone[1]), "");
        row("  ratio", ratio(&alone[1], &alone[0]), "at most 1.2");
        row(&format!("  at {rate:.0} jobs/s, half the bare rate, p99: bare lapin"), ms(&half[0]), "");
        row("  Warren", ms(&half[1]), "");
        row("  ratio", ratio(&half[1], &half[0]), "at most 1.3");
        Ok(())
    }

    /// The workers that people use today, with four progress messages a job.
    async fn peers(&mut self) -> Result<()> {
        if self.places.python.is_none() || self.places.node.is_none() {
            println!(
                "peers: left out, WARREN_BENCH_PYTHON and WARREN_BENCH_NODE do not name them (make bench brings them)"
            );
            return Ok(());
        }
        let workers = [
            (Worker::Warren, &REPORT, 6000),
            (Worker::Amqplib, &REPORT, 6000),
            (Worker::Pika, &REPORT, 3000),
            (Worker::Celery, &CELERY, 1500),
            (Worker::CeleryConfirmed, &CELERY, 300),
        ];
        let mut rates = vec![Vec::new(); workers.len()];
        for _ in 0..self.rounds {
            for (place, (worker, work, count)) in workers.iter().enumerate() {
                rates[place].push(self.drain(*worker, work, *count).await?.rate);
            }
        }
        for (place, (worker, _, _)) in workers.iter().enumerate() {
            let what = format!("jobs with four progress messages: {}", worker.name());
            row(&what, format!("{:.0} jobs/s", median(rates[place].clone())), "");
            let aim = match worker {
                Worker::Amqplib => "at least 1",
                Worker::Celery | Worker::CeleryConfirmed => "at least 4",
                _ => "",
            };
            if *worker != Worker::Warren {
                row("  Warren's is times that", ratio(&rates[0], &rates[place]), aim);
            }
        }
        Ok(())
    }

    /// Resident memory of a host that does nothing, and of one whose jobs wait.
    async fn memory(&mut self) -> Result<()> {
        const SETTLE: Duration = Duration::from_secs(2);
        let slots = std::thread::available_parallelism()?.get();
        let (mut idle, mut first, mut further) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let running = Worker::Warren.start(&self.places, NOOP.queue, PREFETCH, 0)?;
            self.load.purge(NOOP.queue).await?;
            self.load.fill(&NOOP, 1).await?;
            self.load.result().await?;
            tokio::time::sleep(SETTLE).await;
            idle.push(running.resident()? as f64 / 1024.0);
            // Every slot is taken, and what is published now waits.
            self.load.fill(&SLEEP, slots).await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let mut before = running.resident()? as f64;
            for (count, figures) in [(1000, &mut first), (20_000, &mut further)] {
                self.load.fill(&NOOP, count).await?;
                tokio::time::sleep(SETTLE).await;
                let now = running.resident()? as f64;
                figures.push((now - before) * 1000.0 / count as f64);
                before = now;
            }
            drop(running);
            self.load.purge(SLEEP.queue).await?;
            self.load.purge(NOOP.queue).await?;
        }
        row("resident memory of an idle host", format!("{:.0} MiB", median(idle)), "");
        row("  more with 1,000 jobs queued", format!("{:.0} KiB", median(first)), "");
        row("  for each further 1,000", format!("{:.0} KiB", median(further)), "");
        Ok(())
    }
}
