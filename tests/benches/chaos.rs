//! `make chaos`: two hosts under steady load, of which one is killed (SIGKILL) about every 0.8 s and
//! started again, a thousand times. `JOBS`, `KILLS` and `SEED` set how many and which. The last lines
//! are the oracle's table; the exit code is 1 when it finds a broken promise. With the argument `table` it
//! prints the rows of all fault tests that were run, and kills nobody.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fastrand::Rng;
use warren_tests::oracle::table::{Report, collected, table};
use warren_tests::oracle::{Job, Oracle};
use warren_tests::process::{Process, plugins};
use warren_tests::rabbitmq::Node;

/// Between two kills, at least and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(1300));
/// Half of the jobs are published at most this long before a kill.
const BURST: Duration = Duration::from_millis(30);
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);
/// How long the last jobs may take.
const END: Duration = Duration::from_secs(300);

fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().with_context(|| format!("{name}={text}: use a number")),
        _ => Ok(default),
    }
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "table") {
        print!("{}", table(&collected()));
        return ExitCode::SUCCESS;
    }
    let report = number("JOBS", 50_000).and_then(|jobs| {
        let (kills, seed) = (number("KILLS", 1000)?, number("SEED", fastrand::u64(..))?);
        println!("chaos: JOBS={jobs} KILLS={kills} SEED={seed}");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(chaos(usize::try_from(jobs)?, usize::try_from(kills)?, Rng::with_seed(seed)))
    });
    match report {
        Ok(report) => {
            for wrong in report.wrong.iter().take(20) {
                println!("wrong: {wrong}");
            }
            println!("ends: {:?}", report.row.ends);
            println!(
                "highest attempt {}, {} jobs ended by a later attempt than the first, {} results whose repetition became a dead letter",
                report.row.highest_attempt, report.row.retried, report.row.letters_after_result
            );
            print!("{}", table(&[report.row]));
            if report.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// No-op jobs. Every fourth has an input by reference, so that it reports a status.
fn job(number: usize, input: &Path) -> Job {
    let mut job = Job::noop();
    if number.is_multiple_of(4) {
        let parameters = serde_json::json!({ "dataref": format!("file://{}", input.display()) });
        let tensor =
            serde_json::json!({ "name": "x", "datatype": "BYTES", "shape": [1], "parameters": parameters });
        job.body = serde_json::json!({ "inputs": [tensor] }).to_string().into();
    }
    job
}

async fn chaos(jobs: usize, kills: usize, mut random: Rng) -> Result<Report> {
    let node = tokio::task::spawn_blocking(|| Node::start("")).await?;
    let address = node.address("/");
    let plugins = plugins(&["noop"]);
    let inputs = tempfile::tempdir()?;
    let input = inputs.path().join("input");
    std::fs::write(&input, "input")?;
    let read = serde_json::to_string(&[inputs.path()])?;
    let settings = [("artifacts__read", read.as_str())];
    let start = || Process::start(&address, plugins.path(), &settings);

    let oracle = Oracle::open(&address, "chaos").await;
    let mut hosts = [start(), start()];
    let mut starts = Vec::new();
    for host in &mut hosts {
        starts.push(host.ready().await);
    }
    println!("hosts serve after {starts:.0?}");

    let (began, mut shown) = (Instant::now(), Instant::now());
    let (mut published, mut serving) = (0, 0);
    for kill in 1..=kills {
        let until = Instant::now() + PAUSE.0 + (PAUSE.1 - PAUSE.0).mul_f64(random.f64());
        // Half of this kill's share of the jobs is spread over the time before it; the rest comes so
        // late that the kill finds it half done.
        let due = jobs * kill / kills;
        let spread = published + (due - published) / 2;
        while published < spread {
            let left = (until - BURST).saturating_duration_since(Instant::now());
            let pieces = u32::try_from(left.as_millis() / 50)?.max(1);
            let next = published + (spread - published).div_ceil(pieces as usize);
            oracle.publish((published..next).map(|n| job(n, &input))).await;
            published = next;
            tokio::time::sleep(left / pieces).await;
        }
        tokio::time::sleep_until((until - BURST.mul_f64(random.f64())).into()).await;
        oracle.publish((published..due).map(|n| job(n, &input))).await;
        published = due;
        tokio::time::sleep_until(until.into()).await;
        let host = &mut hosts[random.usize(..2)];
        serving += usize::from(host.is_serving());
        host.kill();
        oracle.fault();
        *host = start();
        if shown.elapsed() > PROGRESS || kill == kills {
            shown = Instant::now();
            let (ended, open) = (oracle.ended_jobs(), oracle.open_jobs());
            println!(
                "{:>5.0} s: {kill} of {kills} kills, {serving} of a serving host; {published} of {jobs} jobs published, {ended} have ended, {open} are open",
                began.elapsed().as_secs_f64()
            );
            std::io::stdout().flush()?;
        }
    }
    println!("no more kills; waiting for the rest");
    for host in &mut hosts {
        host.ready().await;
    }
    oracle.ended(END).await;
    let report = oracle.finish(&node, "random kills of one of two hosts", kills).await;
    println!("took {:.0} s", began.elapsed().as_secs_f64());
    Ok(report)
}
