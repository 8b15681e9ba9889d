//! Plugins that come, change and go while a host serves: in its directory, and by what an operator
//! asks for. What a client sees is a result, whatever happens meanwhile.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use warren::host::DeployError;
use warren::plugin::{Package, Share, Standing, signature};
use warren_client::JobRequest;
use warren_tests::house::follow;
use warren_tests::{GLANCE, House, PATIENCE, guest, hostile, logs, variant, within};

/// A house that serves an empty directory, and the directory.
async fn empty() -> (House, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("directory");
    let house = House::with(&[], |config| {
        config.plugins = dir.path().to_owned();
        config.rescan_ms = 200;
        config.rollback.jobs = 6;
    })
    .await;
    house.host().deployer().watch_directory().expect("it runs");
    (house, dir)
}

/// A version of `original`, complete, beside the directory: to be renamed into it.
fn version(staging: &Path, original: &str, number: &str) -> PathBuf {
    let edit = ("version = \"0.1.0\"".to_owned(), format!("version = \"{number}\""));
    let dir = staging.join(format!("{original}-{number}"));
    std::fs::create_dir_all(&dir).expect("folder");
    variant(&dir, original, original, &[(&edit.0, &edit.1)])
}

/// Puts a folder into the directory in one step, in the place of the one that is there.
fn drop_in(from: &Path, directory: &Path, name: &str) {
    let place = directory.join(name);
    if place.exists() {
        let aside = tempfile::tempdir().expect("directory").keep();
        std::fs::rename(&place, aside.join("old")).expect("the old one goes");
    }
    std::fs::rename(from, place).expect("the new one comes");
}

/// Waits until the list of versions is this: name and standing.
async fn until(house: &House, wanted: &[(&str, Standing)]) {
    let start = Instant::now();
    loop {
        let list = house.host().plugins().list();
        let seen: Vec<(&str, Standing)> =
            list.iter().map(|l| (&*l.plugin.identity.plugin, l.standing)).collect();
        if seen == wanted {
            return;
        }
        let refused = house.host().plugins().refused();
        assert!(
            start.elapsed() < PATIENCE,
            "{seen:?}, not {wanted:?}; refused {refused:?}\n{}",
            logs::tail(20)
        );
        drop(list);
        tokio::time::sleep(GLANCE).await;
    }
}

fn echo(text: &str) -> JobRequest {
    JobRequest::new("echo").bytes("text", text.to_owned())
}

/// Which version answered.
async fn served_by(house: &House, request: JobRequest) -> String {
    let seen = house.run(request).await;
    assert!(seen.end().is_ok(), "{:?}", seen.end());
    seen.events.last().map(|e| e.plugin.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_is_dropped_upgraded_refused_and_taken_away() {
    let (house, dir) = empty().await;
    let staging = tempfile::tempdir().expect("directory");
    // Who asks for what nobody serves is told so at once.
    assert_eq!(house.run(echo("early")).await.code(), "NO_MODEL");
    drop_in(&version(staging.path(), "echo", "1.0.0"), dir.path(), "echo");
    until(&house, &[("echo@1.0.0", Standing::Serving)]).await;
    assert_eq!(served_by(&house, echo("a")).await, "echo@1.0.0");
    // A newer one in its place: the old one stays ready until it has proved itself.
    drop_in(&version(staging.path(), "echo", "1.1.0"), dir.path(), "echo");
    until(&house, &[("echo@1.0.0", Standing::Standby), ("echo@1.1.0", Standing::Serving)]).await;
    for _ in 0..6 {
        assert_eq!(served_by(&house, echo("b")).await, "echo@1.1.0");
    }
    until(&house, &[("echo@1.1.0", Standing::Serving)]).await;
    // A bad one changes nothing but the list of what is refused.
    let bad = version(staging.path(), "echo", "1.2.0");
    std::fs::write(bad.join("echo.wasm"), "not a component").expect("write");
    drop_in(&bad, dir.path(), "echo");
    let start = Instant::now();
    while house.host().plugins().refused().is_empty() {
        assert!(start.elapsed() < PATIENCE, "not refused\n{}", logs::tail(20));
        tokio::time::sleep(GLANCE).await;
    }
    let refused = house.host().plugins().refused();
    assert!(refused[0].reason.contains("not a WebAssembly component"), "{refused:?}");
    assert_eq!(served_by(&house, echo("c")).await, "echo@1.1.0");
    // Mended, it serves, and nothing is refused any more.
    drop_in(&version(staging.path(), "echo", "1.3.0"), dir.path(), "echo");
    until(&house, &[("echo@1.1.0", Standing::Standby), ("echo@1.3.0", Standing::Serving)]).await;
    assert_eq!(house.host().plugins().refused().len(), 0);
    std::fs::rename(dir.path().join("echo"), staging.path().join("gone")).expect("taken away");
    until(&house, &[("echo@1.1.0", Standing::Serving)]).await;
    house.host().deployer().unload("echo").await.expect("it is there");
    until(&house, &[]).await;
    house.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_being_copied_waits_until_it_is_whole() {
    let (house, dir) = empty().await;
    let place = dir.path().join("echo");
    std::fs::create_dir(&place).expect("folder");
    let whole = guest("echo");
    std::fs::copy(whole.join("plugin.toml"), place.join("plugin.toml")).expect("copy");
    let component = std::fs::read(whole.join("echo.wasm")).expect("guest");
    // In pieces, slower than the directory is looked at.
    let mut file = std::fs::File::create(place.join("echo.wasm")).expect("file");
    for piece in component.chunks(component.len() / 4 + 1) {
        std::io::Write::write_all(&mut file, piece).expect("write");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(house.host().plugins().refused().len(), 0, "half of it was tried");
    }
    drop(file);
    until(&house, &[("echo@0.1.0", Standing::Serving)]).await;
    // What is hidden is not whole, whatever lies in it.
    std::fs::rename(&place, dir.path().join(".echo")).expect("rename");
    until(&house, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_version_that_fails_gives_way_to_the_one_before_it() {
    let (house, dir) = empty().await;
    let staging = tempfile::tempdir().expect("directory");
    drop_in(&version(staging.path(), "hostile", "1.0.0"), dir.path(), "hostile");
    until(&house, &[("hostile@1.0.0", Standing::Serving)]).await;
    // Failures of a version that is not on trial are its own affair.
    for _ in 0..8 {
        assert_eq!(house.run(hostile("failed", 0)).await.code(), "PLUGIN_FAILED");
    }
    drop_in(&version(staging.path(), "hostile", "1.1.0"), dir.path(), "hostile");
    until(&house, &[("hostile@1.0.0", Standing::Standby), ("hostile@1.1.0", Standing::Serving)]).await;
    // Two of six is not too often, nor are a client's mistakes a plugin's.
    for mode in ["failed", "invalid", "invalid", "trap"] {
        assert!(house.run(hostile(mode, 0)).await.end().is_err());
    }
    until(&house, &[("hostile@1.0.0", Standing::Standby), ("hostile@1.1.0", Standing::Serving)]).await;
    for _ in 0..2 {
        assert_eq!(house.run(hostile("trap", 0)).await.code(), "PLUGIN_TRAPPED");
    }
    until(&house, &[("hostile@1.0.0", Standing::Serving)]).await;
    let refused = house.host().plugins().refused();
    assert!(refused[0].reason.contains("4 of its first 6 jobs failed"), "{refused:?}");
    assert!(refused[0].reason.contains("rolled back to hostile@1.0.0"), "{refused:?}");
    // Its folder is as it was: it does not come back by itself.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(served_by(&house, hostile("busy", 0)).await, "hostile@1.0.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_version_in_a_folder_of_its_own_gives_way_too_unless_it_is_pinned() {
    let (house, dir) = empty().await;
    let staging = tempfile::tempdir().expect("directory");
    for (number, folder) in [("1.0.0", "old"), ("1.1.0", "new")] {
        drop_in(&version(staging.path(), "hostile", number), dir.path(), folder);
    }
    until(&house, &[("hostile@1.0.0", Standing::Standby), ("hostile@1.1.0", Standing::Serving)]).await;
    for _ in 0..4 {
        assert_eq!(house.run(hostile("trap", 0)).await.code(), "PLUGIN_TRAPPED");
    }
    until(&house, &[("hostile@1.0.0", Standing::Serving)]).await;
    let refused = house.host().plugins().refused();
    assert!(refused[0].reason.contains("rolled back to hostile@1.0.0"), "{refused:?}");
    assert_eq!(house.host().plugins().changes().rolled_back, 1);

    drop_in(&version(staging.path(), "hostile", "1.2.0"), dir.path(), "newer");
    until(&house, &[("hostile@1.0.0", Standing::Standby), ("hostile@1.2.0", Standing::Serving)]).await;
    house.host().deployer().share("hostile", Share::Pinned("1.2.0".into())).expect("it is loaded");
    for _ in 0..8 {
        assert_eq!(house.run(hostile("trap", 0)).await.code(), "PLUGIN_TRAPPED");
    }
    until(&house, &[("hostile@1.0.0", Standing::Standby), ("hostile@1.2.0", Standing::Serving)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_side_by_side_are_pinned_weighted_and_rolled_back() {
    let (house, dir) = empty().await;
    let staging = tempfile::tempdir().expect("directory");
    for number in ["1.0.0", "1.1.0", "1.10.0"] {
        drop_in(&version(staging.path(), "echo", number), dir.path(), &format!("echo-{number}"));
    }
    let standing = |serving: &str| {
        ["echo@1.0.0", "echo@1.1.0", "echo@1.10.0"]
            .map(|name| (name, if name == serving { Standing::Serving } else { Standing::Standby }))
    };
    until(&house, &standing("echo@1.10.0")).await;
    let deployer = house.host().deployer();
    deployer.share("echo", Share::Pinned("1.0.0".into())).expect("it is loaded");
    until(&house, &standing("echo@1.0.0")).await;
    assert_eq!(served_by(&house, echo("a")).await, "echo@1.0.0");
    let wrong = deployer.share("echo", Share::Pinned("9.9.9".into()));
    assert!(matches!(wrong, Err(DeployError::Unknown { .. })), "{wrong:?}");
    let weights = [("1.0.0".to_owned(), 1), ("1.1.0".to_owned(), 3)].into();
    deployer.share("echo", Share::Weighted(weights)).expect("they are loaded");
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..120 {
        *counts.entry(served_by(&house, echo("b")).await).or_insert(0) += 1;
    }
    // One in four: five standard deviations either way.
    let first = counts.get("echo@1.0.0").copied().unwrap_or(0);
    assert!((6..=54).contains(&first) && !counts.contains_key("echo@1.10.0"), "{counts:?}");
    deployer.share("echo", Share::Newest).expect("always");
    let (out, back) = deployer.roll_back("echo").await.expect("there are earlier ones");
    assert_eq!((&*out, &*back), ("echo@1.10.0", "echo@1.1.0"));
    assert_eq!(served_by(&house, echo("c")).await, "echo@1.1.0");
    deployer.unload("echo@1.0.0").await.expect("it is there");
    let last = deployer.roll_back("echo").await;
    assert!(matches!(last, Err(DeployError::NoEarlier { .. })), "{last:?}");
    let unknown = deployer.unload("echo@1.0.0").await;
    assert!(matches!(unknown, Err(DeployError::Unknown { .. })), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_under_load_lose_no_job_and_running_ones_finish_on_theirs() {
    const SWAPS: usize = 50;
    let (house, dir) = empty().await;
    let staging = tempfile::tempdir().expect("directory");
    drop_in(&version(staging.path(), "echo", "1.0.0"), dir.path(), "echo");
    until(&house, &[("echo@1.0.0", Standing::Serving)]).await;
    // A long job, begun on the first version.
    drop_in(&version(staging.path(), "hostile", "1.0.0"), dir.path(), "hostile");
    let start = Instant::now();
    while house.host().plugins().get("hostile@1.0.0").is_none() {
        assert!(start.elapsed() < PATIENCE, "{}", logs::tail(20));
        tokio::time::sleep(GLANCE).await;
    }
    let long = house.client.submit(hostile("announced-busy", 1200));
    let mut long = within("the submit's confirm", long).await.expect("the job is taken");
    // What comes from now on is not for it.
    within("its first status", long.next()).await.expect("it has begun").expect("a status");
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..4)
        .map(|worker| {
            let (client, stop, done) = (house.client.clone(), Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let number = done.fetch_add(1, Ordering::Relaxed);
                    let seen = follow(&client, echo(&format!("{worker} {number}"))).await;
                    assert!(seen.end().is_ok(), "job {number}: {:?}", seen.end());
                    assert_eq!(seen.text("text"), format!("{worker} {number}"));
                }
            })
        })
        .collect();
    drop_in(&version(staging.path(), "hostile", "1.1.0"), dir.path(), "hostile");
    for swap in 1..=SWAPS {
        let number = format!("1.0.{swap}");
        drop_in(&version(staging.path(), "echo", &number), dir.path(), "echo");
        let name = format!("echo@{number}");
        let start = Instant::now();
        while house.host().plugins().newest("echo").is_none_or(|p| *p.identity.plugin != *name) {
            assert!(start.elapsed() < PATIENCE, "{name} does not serve\n{}", logs::tail(20));
            tokio::time::sleep(GLANCE).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for worker in load {
        worker.await.expect("no job was lost or wrong");
    }
    println!("{} jobs over {SWAPS} swaps, none failed", done.load(Ordering::Relaxed));
    let mut last = None;
    while let Some(event) = within("an event", long.next()).await {
        last = Some(event.expect("it ends").plugin);
    }
    assert_eq!(last.as_deref(), Some("hostile@1.0.0"));
    house.quiet().await;
    // Whatever was swapped out is gone, but for what stands by.
    let start = Instant::now();
    while house.host().plugins().list().iter().any(|l| l.standing == Standing::Draining) {
        assert!(start.elapsed() < PATIENCE, "a version still drains");
        tokio::time::sleep(GLANCE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_keys_are_named_only_what_they_signed_is_served() {
    let dir = tempfile::tempdir().expect("directory");
    let (key, public) = signature::new_key().expect("a key");
    let file = dir.path().join("key");
    std::fs::write(&file, key).expect("write");
    let plugins = dir.path().join("plugins");
    std::fs::create_dir(&plugins).expect("folder");
    let house = House::with(&[], |config| {
        config.plugins = plugins.clone();
        config.rescan_ms = 200;
        config.signers = vec![public];
    })
    .await;
    house.host().deployer().watch_directory().expect("it runs");
    let refused = async |word: &str| {
        let start = Instant::now();
        while !house.host().plugins().refused().iter().any(|r| r.reason.contains(word)) {
            let seen = (house.host().plugins().refused(), house.host().plugins().models());
            assert!(start.elapsed() < PATIENCE, "not refused for {word:?}: {seen:?}");
            tokio::time::sleep(GLANCE).await;
        }
    };
    drop_in(&version(dir.path(), "echo", "1.0.0"), &plugins, "echo");
    refused("signed plugins only").await;
    // Signed where it lies, it is served without a further word.
    let place = plugins.join("echo");
    let package = Package::read(&place).expect("whole");
    let text = signature::sign(&package, &file).expect("signed");
    std::fs::write(place.join(signature::FILE_NAME), text).expect("write");
    until(&house, &[("echo@1.0.0", Standing::Serving)]).await;
    // More than its signer allowed: refused, and what was served is served on.
    let manifest = std::fs::read_to_string(place.join("plugin.toml")).expect("manifest");
    let changed = manifest.replace("1.0.0", "1.0.1") + "\n[limits]\nwall_ms = 3600000\n";
    std::fs::write(place.join("plugin.toml"), changed).expect("write");
    refused("changed after it was signed").await;
    assert_eq!(served_by(&house, echo("a")).await, "echo@1.0.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_fails_its_own_test_never_serves() {
    let (house, dir) = empty().await;
    let staging = tempfile::tempdir().expect("directory");
    let tested = |number: &str, mode: &str| {
        let folder = version(staging.path(), "hostile", number);
        let manifest = std::fs::read_to_string(folder.join("plugin.toml")).expect("manifest");
        std::fs::write(folder.join("plugin.toml"), manifest + "\n[[selftest]]\nrequest = \"test.json\"\n")
            .expect("write");
        let request = format!(r#"{{"parameters": {{"mode": "{mode}", "number": 1}}, "inputs": []}}"#);
        std::fs::write(folder.join("test.json"), request).expect("write");
        folder
    };
    drop_in(&tested("1.0.0", "busy"), dir.path(), "hostile");
    until(&house, &[("hostile@1.0.0", Standing::Serving)]).await;
    for (number, mode, word) in [
        ("1.1.0", "trap", "PLUGIN_TRAPPED"),
        ("1.2.0", "loop", "STALLED"),
        ("1.3.0", "invalid", "INVALID_INPUT"),
        ("1.4.0", "retry", "asks for a retry"),
    ] {
        drop_in(&tested(number, mode), dir.path(), "hostile");
        let start = Instant::now();
        loop {
            let refused = house.host().plugins().refused();
            if refused.iter().any(|r| r.reason.contains("self-test failed") && r.reason.contains(word)) {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{number} is not refused with {word}: {refused:?}");
            tokio::time::sleep(GLANCE).await;
        }
        until(&house, &[("hostile@1.0.0", Standing::Serving)]).await;
    }
}
