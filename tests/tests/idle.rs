//! Plugins whose assets do not all fit on the device: idle ones give theirs up, those used least
//! recently first, and get them back for their next job, bit by bit the same. On the CPU, where host
//! memory is the device's, and on a GPU where there is one, else on llvmpipe.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use warren::config::Config;
use warren::host::tensor_engine;
use warren_client::JobRequest;
use warren_client::oip::Data;
use warren_tests::house::follow;
use warren_tests::{GLANCE, House, PATIENCE, Seen, logs, variant};

/// What a plugin keeps: two layers of 1 MiB, and a little more.
const SHAPE: &str = "2 512";
/// Room for three of them, and what a job needs beside.
const ROOM_MIB: u64 = 8;

/// The devices to test on: the CPU and, if there is one, another.
fn devices() -> Vec<String> {
    let mut all = vec!["cpu".to_owned()];
    let other = ["wgpu", "wgpu:llvmpipe"].into_iter().map(str::to_owned).find(|name| {
        let config = Config { device: name.clone(), tensor_threads: 1, ..Config::default() };
        tensor_engine(&config).map_err(|e| eprintln!("not on {name}: {e}")).is_ok()
    });
    if other.is_none() {
        eprintln!("SKIPPED on a device of its own memory: there is none (mesa-vulkan-drivers has llvmpipe)");
    }
    all.extend(other);
    all
}

/// Plugins `a`, `b` … with weights of their own.
fn plugins(dir: &Path, count: usize, shape: &str) -> Vec<PathBuf> {
    (0..count)
        .map(|n| {
            let folder = variant(dir, "weights", &name(n), &[]);
            std::fs::write(folder.join("shape"), format!("{} {shape}", n + 1)).expect("write");
            folder
        })
        .collect()
}

fn name(number: usize) -> String {
    char::from(b'a' + u8::try_from(number).expect("few")).to_string()
}

async fn house(device: &str, folders: &[PathBuf], room_mib: u64) -> House {
    House::with(folders, |config| {
        config.device = device.to_owned();
        config.device_memory_mib = room_mib;
        config.status_interval_ms = 0;
        config.rollback.jobs = 0;
    })
    .await
}

/// Every output of a job, byte by byte.
fn outputs(seen: &Seen) -> Vec<(String, Data)> {
    let response = seen.end().unwrap_or_else(|e| panic!("{e:?}\n{}", logs::tail(20)));
    assert!(response.outputs.len() >= 3, "{response:?}");
    response.outputs.iter().map(|o| (o.name.clone(), o.data.clone())).collect()
}

/// Which plugins have nothing on the device that was there before.
fn given_up(house: &House) -> Vec<String> {
    let list = house.host().plugins().list();
    let gone = list.iter().filter(|l| l.plugin.guest.assets().resident().1 > 0);
    gone.map(|l| l.plugin.manifest.name.clone()).collect()
}

/// The most bytes that were in use on the device at once.
fn peak(house: &House, device: &str) -> u64 {
    let stats = house.host().tensors().stats();
    if device == "cpu" { stats.peak_bytes } else { stats.device_peak_bytes }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_back_is_the_same_and_the_limit_holds() {
    const COUNT: usize = 7;
    for device in devices() {
        let dir = tempfile::tempdir().expect("directory");
        let folders = plugins(dir.path(), COUNT, SHAPE);
        // All of them fit here: what every job must answer.
        let large = house(&device, &folders, 4096).await;
        let mut wanted = Vec::new();
        for n in 0..COUNT {
            wanted.push(outputs(&large.run(JobRequest::new(name(n))).await));
        }
        assert_ne!(wanted[0], wanted[1], "weights of their own");
        assert_eq!(large.host().tensors().stats().evictions, 0);
        drop(large);
        let small = house(&device, &folders, ROOM_MIB).await;
        // What was given up needs nothing of the plugin's folder to come back.
        for folder in &folders {
            std::fs::write(folder.join("shape"), "none").expect("write");
        }
        // Forwards, backwards, and some of them more often than others.
        let order = [0, 1, 2, 3, 4, 5, 6, 6, 5, 4, 3, 2, 1, 0, 0, 3, 0, 4, 0, 5, 0, 6, 0, 1, 2];
        for n in order {
            let seen = small.run(JobRequest::new(name(n))).await;
            assert_eq!(outputs(&seen), wanted[n], "{device}: plugin {n}");
        }
        let stats = small.host().tensors().stats();
        println!(
            "{device}: {} jobs, {} evictions, {} returns, most in use {} of {}",
            order.len(),
            stats.evictions,
            stats.returns,
            peak(&small, &device),
            ROOM_MIB << 20
        );
        assert!(stats.evictions >= 4 && stats.returns >= 4, "{device}: {stats:?}");
        // One that was used a moment ago stays: each job brings back one at most.
        assert!(stats.returns <= order.len() as u64, "{device}: {stats:?}");
        assert!(peak(&small, &device) <= ROOM_MIB << 20, "{device}: {stats:?}");
        for listed in small.host().plugins().list() {
            let assets = listed.plugin.guest.assets();
            let (here, gone) = assets.resident();
            assert!(here + gone <= assets.size() && assets.size() >= 2 << 20, "{here} + {gone}");
        }
        small.quiet().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_least_recently_used_goes_first() {
    for device in devices() {
        let dir = tempfile::tempdir().expect("directory");
        let folders = plugins(dir.path(), 5, SHAPE);
        let house = house(&device, &folders, 1024).await;
        drop(house);
        let house = self::house(&device, &folders, ROOM_MIB).await;
        let run = async |n: usize| {
            let seen = house.run(JobRequest::new(name(n))).await;
            assert!(seen.end().is_ok(), "{device}: {:?}\n{}", seen.end(), logs::tail(20));
        };
        // By when each was used last, oldest first.
        let mut ages: Vec<usize> = Vec::new();
        for n in [0, 1, 2, 3, 4, 0, 2, 0, 1, 3, 0, 4, 2, 2, 1, 0] {
            run(n).await;
            ages.retain(|&other| other != n);
            ages.push(n);
            if ages.len() < 5 {
                continue;
            }
            // Whoever was given up was used before everybody who is there.
            let gone = given_up(&house);
            let here: Vec<String> = ages.iter().map(|&n| name(n)).filter(|n| !gone.contains(n)).collect();
            let oldest: Vec<String> = ages.iter().map(|&n| name(n)).take(gone.len()).collect();
            assert!(
                !gone.is_empty() && gone.iter().all(|n| oldest.contains(n)),
                "{device}: by age {ages:?}, given up {gone:?}, there {here:?}\n{}",
                logs::tail(20)
            );
            assert!(!gone.contains(&name(n)), "{device}: {n} was used just now");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_runs_is_left_alone_and_others_take_turns() {
    for device in devices() {
        let dir = tempfile::tempdir().expect("directory");
        // 4 MiB each: one fits, two do not.
        let folders = plugins(dir.path(), 2, "4 512");
        let house = house(&device, &folders, 7).await;
        let mut wanted = Vec::new();
        for n in 0..2 {
            wanted.push(outputs(&house.run(JobRequest::new(name(n))).await));
        }
        // While one holds on to its weights the other waits for them.
        let client = house.client.clone();
        let request = JobRequest::new("a").parameter("hold_ms", 700i64);
        let mut holding = client.submit(request).await.expect("taken");
        let first = holding.next().await.expect("a status").expect("no error");
        assert!(!first.is_final(), "{first:?}");
        let start = Instant::now();
        assert_eq!(outputs(&house.run(JobRequest::new("b")).await), wanted[1], "{device}");
        let waited = start.elapsed();
        assert!(holding.next().await.expect("an end").expect("no error").is_final());
        assert!(waited >= Duration::from_millis(300), "{device}: it did not wait: {waited:?}");
        // Both at once, again and again: all of them are done, and right.
        let (before, done) = (house.host().tensors().stats(), Arc::new(AtomicU64::new(0)));
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let (client, done) = (house.client.clone(), Arc::clone(&done));
                let (model, wanted) = (name(worker % 2), wanted[worker % 2].clone());
                tokio::spawn(async move {
                    for _ in 0..15 {
                        let seen = follow(&client, JobRequest::new(model.clone())).await;
                        assert_eq!(outputs(&seen), wanted);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.await.expect("all of its jobs were done");
        }
        let stats = house.host().tensors().stats();
        let (done, evictions) = (done.load(Ordering::Relaxed), stats.evictions - before.evictions);
        println!("{device}: {done} jobs of two plugins that do not fit together, {evictions} evictions");
        assert!(evictions <= done, "{device}: more evictions than jobs: {stats:?}");
        assert!(peak(&house, &device) <= 7 << 20, "{device}: {stats:?}");
        house.quiet().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_too_large_for_the_device_ends_alone() {
    for device in devices() {
        let dir = tempfile::tempdir().expect("directory");
        let folders = plugins(dir.path(), 4, SHAPE);
        let house = house(&device, &folders, ROOM_MIB).await;
        let mut wanted = Vec::new();
        for n in 0..4 {
            wanted.push(outputs(&house.run(JobRequest::new(name(n))).await));
        }
        // Fits once the others have gone.
        let seen = house.run(JobRequest::new("a").parameter("extra_mib", 2i64)).await;
        assert!(seen.end().is_ok(), "{device}: {:?}", seen.end());
        // Does not fit beside its own weights.
        let seen = house.run(JobRequest::new("a").parameter("extra_mib", 7i64)).await;
        assert_eq!(seen.code(), "DEVICE_MEMORY", "{device}: {:?}", seen.end());
        let text = format!("{:?}", seen.end());
        assert!(
            text.contains(&format!("{}", ROOM_MIB << 20)) && text.contains("device_memory_mib"),
            "{text}"
        );
        for (n, wanted) in wanted.iter().enumerate() {
            let seen = house.run(JobRequest::new(name(n))).await;
            assert_eq!(outputs(&seen), *wanted, "{device}: plugin {n}");
        }
        // What jobs held is given back: only assets are left.
        let start = Instant::now();
        loop {
            let stats = house.host().tensors().stats();
            let live = if device == "cpu" { stats.live_bytes } else { stats.device_live_bytes };
            let list = house.host().plugins().list();
            let here: u64 = list.iter().map(|l| l.plugin.guest.assets().resident().0).sum();
            // Beside them: rearranged weights on the CPU, as large as they are at most.
            let most = if device == "cpu" { 2 * here } else { here };
            if live <= most {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{device}: {live} bytes in use, {here} of assets");
            tokio::time::sleep(GLANCE).await;
        }
        assert!(peak(&house, &device) <= ROOM_MIB << 20, "{device}");
    }
}
