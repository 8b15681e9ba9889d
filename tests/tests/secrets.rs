//! What one job leaves behind, the next one cannot find: not in memory, tables and globals, not in scratch
//! and the log, not in tensors; whatever plugin it is of, and however the job before it ended.

use std::time::Instant;

use tempfile::TempDir;
use warren::config::Config;
use warren::host::tensor_engine;
use warren_client::JobRequest;
use warren_tests::abuse::{Core, infer, plugin};
use warren_tests::{GLANCE, House, PATIENCE, Seen, guest, logs, variant, within};

/// How a job that leaves the secret ends, and the code of that.
const ENDINGS: [(&str, &str); 6] = [
    ("result", "RESULT"),
    ("trap", "PLUGIN_TRAPPED"),
    ("loop", "STALLED"),
    ("sleep", "STALLED"),
    ("fail", "PLUGIN_FAILED"),
    ("cancel", "CANCELLED"),
];

/// A job of one of the plugins that a [`house`] serves.
fn ask(model: &str, mode: &str, mib: i64) -> JobRequest {
    JobRequest::new(model).parameter("mode", mode).parameter("number", mib)
}

/// One slot, so that jobs share whatever can be shared; two plugins, with memories of different size.
async fn house(dir: &TempDir, device: &str) -> House {
    let stall = ("stall_ms = 10000", "stall_ms = 1500");
    let one = variant(dir.path(), "escape", "one", &[stall]);
    let two = variant(dir.path(), "escape", "two", &[stall, ("memory_mib = 64", "memory_mib = 24")]);
    House::with(&[one, two, guest("echo")], |config| {
        config.slots = 1;
        config.device = device.to_owned();
    })
    .await
}

/// A job that leaves the secret everywhere and ends so.
async fn leave(house: &House, model: &str, ending: &str, mib: i64) -> Seen {
    let how = if ending == "cancel" { "sleep" } else { ending };
    let request = ask(model, "leave", mib).parameter("ending", how);
    let mut job = within("the submit", house.client.submit(request)).await.expect("taken");
    let mut events = Vec::new();
    while let Some(event) = within("an event", job.next()).await {
        events.push(event.expect("readable"));
        // Its first word is that all is left.
        if events.len() == 1 && ending == "cancel" {
            job.cancel().await.expect("published");
        }
    }
    Seen { events }
}

async fn nothing_is_found_after_any_ending(device: &str) {
    let dir = tempfile::tempdir().expect("directory");
    let house = house(&dir, device).await;
    let start = Instant::now();
    let mut searched = 0;
    for (ending, code) in ENDINGS {
        for (from, mib) in [("one", 40), ("two", 8)] {
            let left = leave(&house, from, ending, mib).await;
            assert_eq!(left.code(), code, "{from}, {ending}: {:?}", left.events.last());
            for (to, mib) in [("one", 48), ("two", 16)] {
                let seen = house.run(ask(to, "search", mib)).await;
                assert_eq!(seen.text("found"), "", "{to} after {from}, {ending}");
                searched += 1;
            }
        }
    }
    println!("{device}: {searched} searches in {:?}", start.elapsed());
    house.answers("secrets").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_job_is_left_for_the_next_on_the_cpu() {
    nothing_is_found_after_any_ending("cpu").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_job_is_left_for_the_next_on_a_gpu() {
    let device = ["wgpu", "wgpu:llvmpipe"].into_iter().find(|name| {
        let config = Config { device: (*name).to_owned(), tensor_threads: 1, ..Config::default() };
        tensor_engine(&config).map_err(|e| eprintln!("not on {name}: {e}")).is_ok()
    });
    match device {
        Some(device) => nothing_is_found_after_any_ending(device).await,
        None => eprintln!("SKIPPED: no device (mesa-vulkan-drivers has llvmpipe)"),
    }
}

/// A line that a job has not ended is its own, not the beginning of another job's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_line_of_the_log_is_not_given_to_the_next_job() {
    let dir = tempfile::tempdir().expect("directory");
    let house = house(&dir, "cpu").await;
    for n in 0..5 {
        let (left, next) = (format!("half-line-{n}"), format!("next-line-{n}"));
        house.run(ask("one", "leave", 1).id(&left)).await;
        house.run(ask("one", "search", 1).id(&next)).await;
        let start = Instant::now();
        let wanted = [(&left, "the-secret-of-a-job"), (&next, "a line of the next job")];
        while !wanted
            .iter()
            .all(|(id, text)| logs::lines(&format!("job={id}")).iter().any(|line| line.contains(text)))
        {
            assert!(start.elapsed() < PATIENCE, "not in the log:\n{}", logs::tail(20));
            tokio::time::sleep(GLANCE).await;
        }
        let next = logs::lines(&format!("job={next}"));
        assert!(!next.iter().any(|line| line.contains("secret")), "{next:?}");
    }
}

/// Traps unless memory, table and globals are as they were made; then writes into all of them.
fn marks(pages: u32, grown: u32, elements: u32, ending: &str) -> Core {
    let words = (pages + grown) * 8192;
    let start = 8192;
    let first = pages * 8192;
    infer(format!(
        "(if (i64.ne (global.get $long) (i64.const 7)) (then unreachable))
         (if (f64.ne (global.get $real) (f64.const 1.5)) (then unreachable))
         (if (i32.ne (table.grow $t (ref.null func) (i32.const {elements})) (i32.const {elements})) (then unreachable))
         (local.set $n (i32.const 0))
         (loop $each
           (if (i32.eqz (ref.is_null (table.get $t (local.get $n)))) (then unreachable))
           (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $each (i32.lt_u (local.get $n) (i32.const {}))))
         (if (i32.eq (memory.grow (i32.const {grown})) (i32.const -1)) (then unreachable))
         ;; what realloc has given lies low; the upper part of the first pages and all that is new is zero
         (local.set $n (i32.const {}))
         (loop $word
           (if (i64.ne (i64.load (i32.mul (local.get $n) (i32.const 8))) (i64.const 0)) (then unreachable))
           (i64.store (i32.mul (local.get $n) (i32.const 8)) (i64.const 0x5ec2e75ec2e75ec2))
           (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $word (i32.lt_u (local.get $n) (i32.const {words}))))
         (global.set $long (i64.const 99)) (global.set $real (f64.const 99))
         (table.fill $t (i32.const 0) (ref.func $marker) (i32.const {}))
         {ending}",
        2 * elements,
        first - start / 2,
        2 * elements,
    ))
    .main(format!(
        "(global $long (mut i64) (i64.const 7)) (global $real (mut f64) (f64.const 1.5))
         (global $none (mut i32) (i32.const 0))
         (table $t {elements} {} funcref)
         (func $marker) (elem declare func $marker)",
        2 * elements
    ))
}

/// Plugins of every size in the places of one slot, in an order in which each follows each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memories_tables_and_globals_of_every_size_are_as_made() {
    let dir = tempfile::tempdir().expect("directory");
    let kinds = [
        ("small", marks(4, 1, 10, "(call $ok)")),
        ("large", marks(4, 600, 4000, "(call $ok)")),
        // What is kept resident in a pool ends in the middle of these.
        ("middle", marks(40, 24, 5000, "(call $ok)")),
        ("traps", marks(8, 300, 2000, "(i32.div_u (i32.const 1) (global.get $none))")),
        ("loops", marks(33, 100, 3000, "(loop $ever (br $ever)) (call $ok)")),
    ];
    let folders: Vec<_> = kinds
        .iter()
        .map(|(name, core)| {
            let mut core = core.clone();
            let pages = if *name == "middle" {
                40
            } else if *name == "traps" {
                8
            } else if *name == "loops" {
                33
            } else {
                4
            };
            core.memory = pages.to_string();
            // A busy machine is no case of its own.
            let clocks = if *name == "loops" { "" } else { "wall_ms = 60000\nstall_ms = 60000" };
            plugin(dir.path(), name, &core.bytes(), clocks)
        })
        .collect();
    let house = House::with(&folders, |config| config.slots = 1).await;
    let mut jobs = 0;
    let mut random = fastrand::Rng::with_seed(8);
    for round in 0..60 {
        for (before, _) in &kinds {
            let after = kinds[random.usize(..kinds.len())].0;
            for name in [*before, after] {
                if name == "loops" && round >= 2 {
                    continue;
                }
                let seen = house.run(JobRequest::new(name)).await;
                let due = match name {
                    "traps" => "PLUGIN_TRAPPED",
                    "loops" => "STALLED",
                    _ => "RESULT",
                };
                assert_eq!(seen.code(), due, "{name}, job {jobs}, after {before}: {:?}", seen.events.last());
                // It came to its end; a mark that was found is another trap.
                if let Err(error) = seen.end() {
                    assert!(name != "traps" || error.text.contains("divide by zero"), "job {jobs}: {error}");
                }
                jobs += 1;
            }
        }
    }
    println!("{jobs} jobs found memories, tables and globals as they were made");
}
