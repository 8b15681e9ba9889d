//! Many jobs at once, some of which end badly: neighbours are unharmed, and nothing is left behind.
//! Alone in its binary, since it counts what the process holds.

use std::time::Instant;

use warren_client::JobRequest;
use warren_tests::house::follow;
use warren_tests::{GLANCE, House, PATIENCE, guest, hostile};

const JOBS: usize = 200;

/// Open files of this process, each with what it is.
fn files() -> Vec<String> {
    let entries = std::fs::read_dir("/proc/self/fd").expect("proc").flatten();
    let mut files: Vec<String> = entries
        .filter_map(|e| std::fs::read_link(e.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect();
    files.sort_unstable();
    files
}

/// Resident memory of this process, MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

/// Submits all jobs at once and checks every answer.
async fn round(house: &House) {
    let mut jobs = tokio::task::JoinSet::new();
    for n in 0..JOBS {
        let client = house.client.clone();
        jobs.spawn(async move {
            let text = format!("job {n}");
            let (request, expected) = match n % 10 {
                0 => (hostile("trap", 0), Err("PLUGIN_TRAPPED")),
                1 => (hostile("dive", 0), Err("STACK_LIMIT")),
                2 => (hostile("allocate", 0), Err("MEMORY_LIMIT")),
                3 => (hostile("device-bomb", 0), Err("DEVICE_MEMORY")),
                4 => (hostile("exit", 0), Err("PLUGIN_TRAPPED")),
                5 => (hostile("mark", 0), Ok(("found", "memory false scratch false".to_owned()))),
                6 => (hostile("partials", 5), Ok(("mode", "partials".to_owned()))),
                7 => (hostile("record", 20), Ok(("value", "21".to_owned()))),
                _ => (JobRequest::new("echo").bytes("text", text.clone()), Ok(("text", text))),
            };
            let seen = follow(&client, request).await;
            match expected {
                Ok((output, text)) => assert_eq!(seen.text(output), text, "job {n}: {seen:?}"),
                Err(code) => assert_eq!(seen.code(), code, "job {n}: {seen:?}"),
            }
        });
    }
    while let Some(job) = jobs.join_next().await {
        job.expect("every answer is right");
    }
    house.quiet().await;
    house.dead_letters().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_jobs_with_traps_among_them_harm_no_neighbour_and_leave_nothing() {
    let house = House::open(&[guest("echo"), guest("hostile")]).await;
    // Threads, pools and caches reach their size.
    round(&house).await;
    let (files_before, memory_before) = (files(), resident());
    for _ in 0..3 {
        round(&house).await;
    }
    let start = Instant::now();
    while files() != files_before {
        assert!(start.elapsed() < PATIENCE, "open files before {files_before:#?}\nand after {:#?}", files());
        tokio::time::sleep(GLANCE).await;
    }
    let memory_after = resident();
    println!("{JOBS} jobs three times: resident {memory_before} MiB before, {memory_after} MiB after");
    assert!(
        memory_after < memory_before + 32,
        "resident {memory_before} MiB before, {memory_after} MiB after"
    );
    let left = house.scratches();
    assert!(left.is_empty(), "scratch directories are left: {left:?}");
    house.answers("600 jobs").await;
}
