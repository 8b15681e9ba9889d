//! Any calls of the host in any order: the guest `random` makes them by a seed, on each backend, several
//! jobs at a time. Nothing panics, nothing hangs, nothing is left behind. Alone in its binary, since it
//! counts what the process holds.
//!
//! A seed that fails is named; `SEED=` begins with it. `CALLS=` is how many are made in all, for a long
//! run:
//!
//!     CALLS=1000000 cargo test --release --locked --workspace --test random_calls -- --nocapture
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use warren_client::oip::Data;
use warren_client::{EventBody, JobRequest};
use warren_tensor::{Engine, EngineConfig, Stats};
use warren_tests::house::follow;
use warren_tests::{GLANCE, House, PATIENCE, Seen, guest, logs};

/// In `make test`, on each backend.
const CALLS: u64 = 100_000;
/// Of one job: what it holds, and what limits it meets, begins anew with each.
const CALLS_OF_JOB: u64 = 4_000;
/// Jobs at a time: more than there are slots.
const AT_ONCE: u64 = 4;

/// Panics of any thread, whoever catches them.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn count_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.lock().unwrap().push(panic.to_string());
        before(panic);
    }));
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is no number")))
}

/// Open files of this process, each with what it is.
fn files() -> Vec<String> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = entries.filter_map(|e| std::fs::read_link(e.path()).ok());
    let mut files: Vec<String> = targets.map(|t| t.to_string_lossy().into_owned()).collect();
    files.sort_unstable();
    files
}

/// Resident memory of this process, MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Names and contents of a folder's files.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let name = |e: &std::fs::DirEntry| e.file_name().to_string_lossy().into_owned();
    let mut files: Vec<_> = entries.map(|e| (name(&e), std::fs::read(e.path()).unwrap())).collect();
    files.sort_unstable();
    files
}

/// Calls by name and how they ended, and jobs by how they ended.
#[derive(Default)]
struct Counts {
    calls: BTreeMap<String, BTreeMap<String, u64>>,
    jobs: BTreeMap<String, u64>,
}

impl Counts {
    fn add(&mut self, tally: &str) {
        for line in tally.lines() {
            let mut words = line.split(' ');
            let (Some(call), Some(ended), Some(count)) = (words.next(), words.next(), words.next()) else {
                panic!("no line of a tally: {line:?}")
            };
            let ends = self.calls.entry(call.to_owned()).or_default();
            *ends.entry(ended.to_owned()).or_default() += count.parse::<u64>().unwrap();
        }
    }

    fn total(&self) -> u64 {
        self.calls.values().flat_map(BTreeMap::values).sum()
    }

    /// Ends by how often they were met, calls by kind.
    fn print(&self) {
        let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
        for (call, of_call) in &self.calls {
            let text: Vec<String> = of_call.iter().map(|(end, n)| format!("{end} {n}")).collect();
            println!("  {call}: {}", text.join(", "));
            for (end, count) in of_call {
                *ends.entry(end).or_default() += count;
            }
        }
        println!("  all: {ends:?}");
        println!("  jobs: {:?}", self.jobs);
    }
}

fn tally_of(body: &EventBody) -> Option<String> {
    let tensor = match body {
        EventBody::Partial(tensor) if tensor.name == "tally" => tensor,
        EventBody::Result(response) => response.output("tally")?,
        _ => return None,
    };
    match &tensor.data {
        Data::Strings(strings) => Some(String::from_utf8_lossy(strings.first()?).into_owned()),
        _ => None,
    }
}

fn request(seed: u64) -> JobRequest {
    // Some hold more handles than they may.
    let keep: i64 = match seed % 8 {
        0 => 20_000,
        1 => 300,
        n => 16 * n as i64,
    };
    JobRequest::new("random")
        .parameter("seed", seed as i64)
        .parameter("calls", CALLS_OF_JOB as i64)
        .parameter("keep", keep)
        .bytes("b", "some bytes")
        .fp32("x", &[2, 3], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0])
}

fn judge(device: &str, seed: u64, seen: &Seen, counts: &Mutex<Counts>) {
    let mut counts = counts.lock().unwrap();
    for event in &seen.events {
        if let Some(tally) = tally_of(&event.body) {
            counts.add(&tally);
        }
    }
    let again = format!("on {device}, SEED={seed} repeats it");
    // Limits that end a job at once; every other refusal is an answer, and the job goes on.
    let ends = ["RESULT", "HANDLE_LIMIT", "DEVICE_MEMORY"];
    let code = seen.code();
    assert!(ends.contains(&code), "{again}: {:?}\n{}", seen.events.last(), logs::tail(20));
    *counts.jobs.entry(code.to_owned()).or_default() += 1;
    let panics = PANICS.lock().unwrap();
    assert!(panics.is_empty(), "{again}: {panics:?}");
    for (call, ends) in &counts.calls {
        for end in ends.keys() {
            assert!(!end.starts_with("device") && end != "wrong", "{again}: {call} ended as {end}");
        }
    }
}

async fn round(house: &House, device: &'static str, seeds: std::ops::Range<u64>) -> Counts {
    let (next, counts) = (Arc::new(AtomicU64::new(seeds.start)), Arc::<Mutex<Counts>>::default());
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let (next, counts, client) = (Arc::clone(&next), Arc::clone(&counts), house.client.clone());
        workers.spawn(async move {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return;
                }
                let seen = follow(&client, request(seed)).await;
                judge(device, seed, &seen, &counts);
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.expect("every job ends as it should");
    }
    house.quiet().await;
    house.dead_letters().await;
    Arc::into_inner(counts).expect("the workers are gone").into_inner().unwrap()
}

/// Waits until `found` is what is wanted.
async fn settles<T: PartialEq + std::fmt::Debug>(what: &str, wanted: &T, found: impl Fn() -> T) {
    let start = Instant::now();
    loop {
        let found = found();
        if found == *wanted {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: {found:#?} instead of {wanted:#?}");
        tokio::time::sleep(GLANCE).await;
    }
}

fn there(device: &str) -> bool {
    let device = device.parse().unwrap();
    match Engine::new(EngineConfig { device, ..EngineConfig::default() }) {
        Ok(_) => true,
        Err(error) => {
            // An adapter that is there and wrong is no reason to skip.
            assert!(!error.to_string().contains("wrongly"), "{error}");
            eprintln!("SKIPPED: {error} (mesa-vulkan-drivers has llvmpipe)");
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_calls_never_panic_and_leave_nothing() {
    count_panics();
    let seed = from_environment("SEED").unwrap_or(1);
    let folder = contents(&guest("random"));
    let devices: Vec<&str> = ["cpu", "wgpu:llvmpipe"].into_iter().filter(|d| there(d)).collect();
    let calls = from_environment("CALLS").map_or(CALLS, |calls| calls.div_ceil(devices.len() as u64));
    let mut total = 0;
    for device in devices {
        let house =
            House::with(&[guest("random"), guest("echo")], |config| config.device = device.into()).await;
        house.answers("the start").await;
        // Threads and descriptors that are made once.
        round(&house, device, 0..AT_ONCE).await;
        let live = |stats: Stats| (stats.live_bytes, stats.device_live_bytes);
        let live = || live(house.host().tensors().stats());
        let (files_before, memory_before, start) = (files(), resident(), Instant::now());
        // A job that a limit ends makes fewer calls than it should.
        let mut counts = Counts::default();
        let mut next = seed;
        while counts.total() < calls {
            let jobs = (calls - counts.total()).div_ceil(CALLS_OF_JOB);
            let more = round(&house, device, next..next + jobs).await;
            next += jobs;
            for (call, ends) in more.calls {
                let of_call = counts.calls.entry(call).or_default();
                ends.into_iter().for_each(|(end, n)| *of_call.entry(end).or_default() += n);
            }
            more.jobs.into_iter().for_each(|(code, n)| *counts.jobs.entry(code).or_default() += n);
        }
        let took = start.elapsed();
        println!(
            "{device}: {} calls of {} kinds by seeds {seed}..{next} in {:.1} s, resident {memory_before} MiB before, {} MiB after",
            counts.total(),
            counts.calls.len(),
            took.as_secs_f64(),
            resident()
        );
        counts.print();
        total += counts.total();
        house.answers("random calls").await;
        settles("open files", &files_before, files).await;
        let scratch = || std::fs::read_dir(house.scratch()).unwrap().flatten().count();
        settles("scratch directories", &0, scratch).await;
        // The plugin's assets go with it; some were copied to the device, or rearranged for it, by jobs.
        house.host().deployer().unload("random").await.expect("it is there");
        settles("live bytes", &(0, 0), live).await;
        assert_eq!(PANICS.lock().unwrap().len(), 0, "no thread panicked");
        assert!(counts.jobs.get("RESULT") > Some(&0), "some come to their end");
        drop(house);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(contents(&guest("random")) == folder, "the plugin's folder is as it was");
    println!("{total} calls in all");
}
