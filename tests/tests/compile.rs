//! Components are compiled in a child process under limits, and their code is kept in a cache that
//! nobody else can slip something into. The tables that `--nocapture` prints show what it costs.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use warren::broker::embedded::Embedded;
use warren::config::Config;
use warren::host::Host;
use warren_tests::process::{binary, without_settings};
use warren_tests::wasm::{component, functions, leb, module, sized, type_at, types};
use warren_tests::{House, PATIENCE, guest, logs};

/// How a `warren` ended.
struct Ended {
    success: bool,
    out: String,
    err: String,
    pid: u32,
    took: Duration,
    /// The most memory that it had at a time, KiB. Its children's is not in it.
    peak_kib: u64,
}

/// Runs a `warren` in an empty directory with no settings but these.
fn warren(arguments: &[&str], settings: &[(&str, &str)]) -> Ended {
    let place = tempfile::tempdir().expect("directory");
    let mut command = Command::new(binary());
    without_settings(&mut command)
        .env_remove("WARREN_CACHE")
        .env("XDG_CACHE_HOME", place.path())
        .env("WARREN_DEVICE", "cpu")
        .env("NO_COLOR", "1")
        .envs(settings.iter().copied())
        .env_remove("CACHE_DIRECTORY")
        .current_dir(place.path())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().expect("it starts");
    let pid = child.id();
    let read = |mut pipe: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            pipe.read_to_end(&mut text).expect("it is read");
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = read(Box::new(child.stdout.take().expect("piped")));
    let err = read(Box::new(child.stderr.take().expect("piped")));
    let mut peak_kib = 0;
    let status = loop {
        if let Some(status) = child.try_wait().expect("it is waited for") {
            break status;
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
        peak_kib = peak_kib.max(peak.unwrap_or(0));
        assert!(start.elapsed() < PATIENCE, "warren {arguments:?} does not end");
        std::thread::sleep(Duration::from_millis(2));
    };
    let took = start.elapsed();
    let (out, err) = (out.join().expect("read"), err.join().expect("read"));
    Ended { success: status.success(), out, err, pid, took, peak_kib }
}

/// The files of a cache.
fn code(cache: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(cache).expect("the cache").flatten().map(|e| e.path()).collect();
    files.sort();
    files
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path that is text")
}

#[test]
fn a_command_compiles_in_a_child_and_keeps_the_code() {
    let (dir, echo) = (tempfile::tempdir().expect("directory"), guest("echo"));
    let cache = dir.path().join("a/b/cache");
    let settings = [("WARREN_CACHE", text(&cache))];
    let run = ["--log", "warren=debug", "run", text(&echo), "--input", "text=hello"];
    let cold = warren(&run, &settings);
    assert!(cold.success && cold.out.contains("hello"), "{}\n{}", cold.out, cold.err);
    let by = cold.err.split("by=\"process ").nth(1).and_then(|t| t.split('"').next());
    let by: u32 = by.and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("who compiled? {}", cold.err));
    assert_ne!(by, cold.pid, "in a process of its own");
    let mode = |path: &Path| fs::metadata(path).expect("there").mode() & 0o7777;
    let files = code(&cache);
    assert_eq!((files.len(), mode(&cache), mode(&files[0])), (1, 0o700, 0o600), "{files:?}");

    let warm = warren(&run, &settings);
    assert!(warm.success && warm.out.contains("hello"), "{}\n{}", warm.out, warm.err);
    assert!(warm.err.contains("taken from the cache") && !warm.err.contains("by=\"process"), "{}", warm.err);
    println!(
        "warren run: cold {} ms, warm {} ms; {} bytes of code for {} of component",
        cold.took.as_millis(),
        warm.took.as_millis(),
        fs::metadata(&files[0]).expect("there").len(),
        fs::metadata(echo.join("echo.wasm")).expect("there").len()
    );
    assert!(warm.took < Duration::from_secs(1), "a warm host serves its first job after {:?}", warm.took);

    // Where nothing is said it is the user's own place; where nothing is wanted, nothing is kept.
    let home = dir.path().join("home");
    fs::create_dir(&home).expect("a home");
    let by_default = warren(&run, &[("XDG_CACHE_HOME", text(&home))]);
    assert!(by_default.success && code(&home.join("warren")).len() == 1, "{}", by_default.err);
    let none = warren(&run, &[("WARREN_CACHE", ""), ("XDG_CACHE_HOME", text(dir.path()))]);
    assert!(none.success && none.err.contains("by=\"process"), "{}", none.err);
    assert!(!dir.path().join("warren").exists(), "nothing is kept");
}

/// A host in this process that compiles by `program` and keeps code in `cache`.
fn host(program: &Path, cache: Option<&Path>, change: impl FnOnce(&mut Config)) -> Host {
    logs::keep();
    let mut config = Config {
        compiler: Some(program.to_owned()),
        cache: cache.map(Path::to_owned),
        slots: 1,
        tensor_threads: 1,
        device: "cpu".into(),
        ..Config::default()
    };
    change(&mut config);
    Host::new(config, std::sync::Arc::new(Embedded::new())).expect("the host starts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_in_the_cache_is_used_only_if_it_can_be_trusted() {
    let dir = tempfile::tempdir().expect("directory");
    let cache = dir.path().join("cache");
    let (elsewhere, twin) = (dir.path().join("elsewhere"), dir.path().join("twin"));
    // The code of another plugin, to be put in this one's place.
    host(&binary(), Some(&cache), |_| {}).load(&guest("noop")).await.expect("loads");
    let others = code(&cache).pop().expect("code");
    let other = fs::read(&others).expect("code");
    fs::remove_file(others).expect("removed");
    let served = [guest("echo")];
    let open = || {
        House::with(&served, |config| {
            config.compiler = Some(binary());
            config.cache = Some(cache.clone());
        })
    };
    drop(open().await);
    let file = code(&cache).pop().expect("code");
    let good = fs::read(&file).expect("code");
    let size = good.len();
    let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("mode");
    // Hosts that were dropped may still map the file: another is put in its place.
    let with = |bytes: &[u8]| {
        fs::remove_file(&file).expect("removed");
        fs::write(&file, bytes).expect("written");
        mode(0o600);
    };
    let flipped = |place: usize| {
        let mut bytes = good.clone();
        bytes[place] ^= 1;
        with(&bytes);
    };
    let away = || fs::rename(&file, &elsewhere).expect("moved");
    type Tamper<'a> = Box<dyn Fn() + 'a>;
    let mut cases: Vec<(&str, &str, Tamper<'_>)> = vec![
        ("a bit of its head is flipped", "bytes were changed", Box::new(|| flipped(9))),
        ("a bit of its code is flipped", "bytes were changed", Box::new(|| flipped(size / 2))),
        ("the last bit of its code is flipped", "bytes were changed", Box::new(|| flipped(size - 61))),
        ("a bit of its seal is flipped", "bytes were changed", Box::new(|| flipped(size - 1))),
        ("it is empty", "cut short", Box::new(|| with(&[]))),
        ("half of it is missing", "bytes were changed", Box::new(|| with(&good[..size / 2]))),
        ("its last byte is missing", "bytes were changed", Box::new(|| with(&good[..size - 1]))),
        ("it has a byte more", "bytes were changed", Box::new(|| with(&[&good[..], b"x"].concat()))),
        ("it is another plugin's", "of another component", Box::new(|| with(&other))),
        ("others may read it", "mode is 644", Box::new(|| mode(0o644))),
        ("others may write to it", "mode is 622", Box::new(|| mode(0o622))),
        (
            "it is a symbolic link",
            "symbolic link",
            Box::new(|| {
                away();
                symlink(&elsewhere, &file).expect("linked");
            }),
        ),
        ("it has a second name", "2 names", Box::new(|| fs::hard_link(&file, &twin).expect("linked"))),
        (
            "it is a directory",
            "no regular file",
            Box::new(|| {
                fs::remove_file(&file).expect("removed");
                fs::create_dir(&file).expect("directory");
                mode(0o600);
            }),
        ),
        (
            "it is a pipe that nobody writes to",
            "no regular file",
            Box::new(|| {
                fs::remove_file(&file).expect("removed");
                let made = Command::new("mkfifo").arg("-m600").arg(&file).status();
                assert!(made.is_ok_and(|status| status.success()), "mkfifo");
            }),
        ),
    ];
    if fs::metadata(&file).expect("there").uid() == 0 {
        let give = || std::os::unix::fs::chown(&file, Some(65534), None).expect("given away");
        cases.push(("it belongs to somebody else", "belongs to user 65534", Box::new(give)));
    } else {
        println!("compiled code that belongs to somebody else: only root can make such a file");
    }
    for (what, says, tamper) in &cases {
        tamper();
        let start = Instant::now();
        let house = open().await;
        let took = start.elapsed();
        house.answers(what).await;
        drop(house);
        let told = logs::lines(text(&file)).pop().unwrap_or_default();
        assert!(told.contains("not to be trusted") && told.contains(says), "{what}: {told}");
        println!("compiled code: {what} | {says} | served after {} ms", took.as_millis());
        // Made anew, and used by the next.
        let meta = fs::symlink_metadata(&file).expect("there again");
        assert!(meta.is_file() && meta.mode() & 0o7777 == 0o600 && meta.nlink() == 1, "{what}: {meta:?}");
        assert_eq!(fs::read(&file).expect("code").len(), size, "{what}");
        let before = logs::lines(text(&file)).len();
        drop(open().await);
        assert_eq!(logs::lines(text(&file)).len(), before, "{what}: no complaint any more");
    }
    assert_eq!(fs::read(&elsewhere).expect("where the link led"), good, "what a link leads to is let be");
    assert_eq!(fs::read(&twin).expect("the other name"), good);
    assert_eq!(code(&cache), std::slice::from_ref(&file), "nothing is left over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_others_can_write_to_is_no_cache() {
    let dir = tempfile::tempdir().expect("directory");
    let real = dir.path().join("real");
    let make = |name: &str, mode| {
        let path = dir.path().join(name);
        fs::create_dir_all(&path).expect("directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
        path
    };
    make("real", 0o700);
    let link = dir.path().join("link");
    symlink(&real, &link).expect("linked");
    let file = dir.path().join("file");
    fs::write(&file, "x").expect("written");
    let mut cases = vec![
        (make("group", 0o770), "others may write to it (mode 770)"),
        (make("all", 0o1777), "others may write to it (mode 1777)"),
        (link.clone(), "symbolic link"),
        (dir.path().join("link/"), "symbolic link"),
        (file, "cannot be created"),
        (PathBuf::from("/proc/self/warren"), "cannot be created"),
    ];
    let given = make("given", 0o700);
    if fs::metadata(&given).expect("there").uid() == 0 {
        std::os::unix::fs::chown(&given, Some(65534), None).expect("given away");
        cases.push((given, "belongs to user 65534"));
    }
    for (path, says) in cases {
        let host = host(&binary(), Some(&path), |_| {});
        host.load(&guest("echo")).await.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let told = logs::lines(text(&path)).pop().unwrap_or_default();
        assert!(
            told.contains("compiled code is not kept") && told.contains(says),
            "{}: {told}",
            path.display()
        );
        if path.is_dir() {
            assert_eq!(code(&path), [] as [PathBuf; 0], "{}", path.display());
        }
    }
}

#[test]
fn two_hosts_may_fill_one_cache_at_the_same_time() {
    let dir = tempfile::tempdir().expect("directory");
    let cache = dir.path().join("cache");
    let folders = [guest("echo"), guest("noop")];
    let validate = |folder: &Path| {
        let settings = [("WARREN_CACHE", text(&cache))];
        let ended = warren(&["--log", "warren=debug", "plugin", "validate", text(folder)], &settings);
        assert!(ended.success, "{}", ended.err);
        assert!(!ended.err.contains("WARN"), "{}", ended.err);
        ended.err.contains("by=\"process")
    };
    let compiled: usize = std::thread::scope(|scope| {
        let hosts: Vec<_> =
            folders.iter().cycle().take(6).map(|folder| scope.spawn(|| validate(folder))).collect();
        hosts.into_iter().map(|host| usize::from(host.join().expect("ends"))).sum()
    });
    println!("two components in six hosts that started together: compiled {compiled} times");
    assert!((2..=6).contains(&compiled));
    assert_eq!(code(&cache).len(), 2, "one file each and no drafts: {:?}", code(&cache));
    assert!(folders.iter().all(|folder| !validate(folder)), "what they left is sound");
}

/// A program that says it is a `warren`.
fn program(dir: &Path, name: &str, script: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compiler_that_fails_is_named_and_costs_one_plugin() {
    let dir = tempfile::tempdir().expect("directory");
    let cache = dir.path().join("cache");
    for (name, script, says) in [
        ("killed", "kill -9 $$", &["signal: 9 (SIGKILL)"][..]),
        ("crashed", "echo oh no >&2; kill -11 $$", &["signal: 11", "oh no"]),
        ("stuck", "exec sleep 100", &["longer than 2 s", "compile_seconds"]),
        ("endless", "exec yes >&2", &["longer than 2 s"]),
        ("silent", "exit 0", &["not a WebAssembly component"]),
        ("garbage", "head -c 100000 /dev/urandom", &["not a WebAssembly component"]),
        ("older", "echo 'error: unrecognized subcommand' >&2; exit 2", &["exit status: 2", "unrecognized"]),
        ("escapes", "printf '\\033[31mred' >&2; exit 10", &["\u{fffd}[31mred"]),
        ("hungry", "echo memory allocation of 9 bytes failed >&2; kill -6 $$", &["more than 2048 MiB"]),
        // Of this process's environment it is handed nothing.
        ("nosy", "env >&2; exit 10", &["RAYON_NUM_THREADS="]),
        // What it leaves behind ends with it.
        ("forking", "sleep 100 >/dev/null 2>&1 & echo gone >&2; exit 3", &["exit status: 3", "gone"]),
    ] {
        let host =
            host(&program(dir.path(), name, script), Some(&cache), |config| config.compile_seconds = 2);
        let start = Instant::now();
        let error = host.load(&guest("echo")).await.err().unwrap_or_else(|| panic!("{name} loads"));
        let (took, error) = (start.elapsed(), error.to_string());
        println!("compiler {name} | {} | {} ms", error.lines().next().unwrap_or_default(), took.as_millis());
        for word in says.iter().chain(&["echo/echo.wasm"]) {
            assert!(error.contains(word), "{name}: {word:?} is not in {error}");
        }
        assert!(!error.contains("CARGO") && !error.contains("HOME="), "{name}: {error}");
        assert!(error.len() < 4096, "{name}: {} bytes", error.len());
        assert!(took < Duration::from_secs(10), "{name} took {took:?}");
        assert_eq!(code(&cache), [] as [PathBuf; 0], "{name}: nothing is kept of it");
    }
    let missing = host(&dir.path().join("missing"), None, |_| {});
    let error = missing.load(&guest("echo")).await.err().expect("no compiler").to_string();
    assert!(error.contains("missing") && error.contains("No such file"), "{error}");
}

#[test]
fn a_child_of_another_version_compiles_nothing() {
    let order = ["compile-component", &"0".repeat(64), "0", "512", "64", "10", "false"];
    let output = Command::new(binary()).args(order).stdin(Stdio::null()).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(13), 0), "{said}");
    assert!(said.contains("another version"), "{said}");
}

/// A plugin's folder whose component is `bytes`, or a file of zeros of that size.
fn plugin(dir: &TempDir, name: &str, bytes: &[u8], zeros: u64) -> PathBuf {
    let folder = dir.path().join(name);
    fs::create_dir_all(&folder).expect("folder");
    let manifest =
        format!("name = \"{name}\"\nversion = \"0.1.0\"\nmodels = [\"m\"]\ncomponent = \"c.wasm\"\n");
    fs::write(folder.join("plugin.toml"), manifest).expect("manifest");
    fs::write(folder.join("c.wasm"), bytes).expect("component");
    if zeros > 0 {
        let file = fs::File::options().write(true).open(folder.join("c.wasm")).expect("component");
        file.set_len(zeros).expect("size");
    }
    folder
}

/// A function's body that takes long: a branch out of each of so many blocks.
fn branches(blocks: usize) -> Vec<u8> {
    let targets: Vec<u8> = (0..=blocks).flat_map(leb).collect();
    let jump = [&b"\x41\0\x0e"[..], &leb(blocks), &targets].concat();
    [&b"\0"[..], &b"\x02\x40".repeat(blocks), &jump, &b"\x0b".repeat(blocks + 1)].concat()
}

/// A module with so many bytes of data, as a section of a component.
fn data(bytes: usize) -> Vec<u8> {
    let memory = sized(&[5], b"\x01\x01\x80\x10\x80\x20");
    let segment = [&b"\x01\0\x41\0\x0b"[..], &sized(&[], &vec![7; bytes])].concat();
    sized(&[1], &module(&[memory, sized(&[11], &segment)]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_keeps_its_limits_when_nobody_looks_after_it() {
    use std::os::unix::process::ExitStatusExt;
    let dir = tempfile::tempdir().expect("directory");
    // The order that a host gives names its engine.
    let listener = host(&program(dir.path(), "listener", "echo \"order: $*\" >&2; exit 10"), None, |_| {});
    let error = listener.load(&guest("echo")).await.err().expect("nothing is compiled").to_string();
    let order: Vec<&str> = error.split("order: ").nth(1).expect("an order").split_whitespace().collect();
    let [command, engine, ..] = order[..] else { panic!("{order:?}") };
    let size = fs::metadata(guest("echo").join("echo.wasm")).expect("echo").len().to_string();
    assert_eq!(order[2..], [&size, "2048", "512", order[5], "false"], "the config's limits");

    let long = component(&[functions(100, &branches(50_000))]);
    let large = component(&[data(4 << 20)]);
    let empty = component(&[]);
    let short = (empty.len() + 1).to_string();
    // Size as told, MiB of memory, MiB of code, seconds; by what it ends.
    for (what, bytes, told, limits, status, signal) in [
        ("an empty component", &empty, None, ["64", "1", "10"], Some(0), None),
        ("processor time", &long, None, ["4096", "512", "1"], None, Some(24)),
        ("code", &large, None, ["512", "1", "10"], None, Some(25)),
        ("memory", &large, None, ["8", "64", "10"], Some(11), None),
        ("input that breaks off", &empty, Some(&short), ["64", "1", "10"], Some(13), None),
    ] {
        let (input, output) = (dir.path().join("input"), dir.path().join("output"));
        fs::write(&input, bytes).expect("written");
        let length = bytes.len().to_string();
        let told = told.unwrap_or(&length);
        let start = Instant::now();
        let ended = Command::new(binary())
            .args([command, engine, told, limits[0], limits[1], limits[2], "false"])
            .stdin(fs::File::open(&input).expect("there"))
            .stdout(fs::File::create(&output).expect("there"))
            .stderr(Stdio::null())
            .status()
            .expect("it runs");
        println!("a child alone: {what} | {ended} | {} ms", start.elapsed().as_millis());
        // Memory ends where it ends: some of those places can only abort.
        let memory = what == "memory" && ended.signal() == Some(6);
        assert!(memory || (ended.code(), ended.signal()) == (status, signal), "{what}: {ended}");
        assert!(fs::metadata(&output).expect("there").len() <= 1 << 20, "{what}: it wrote more than it may");
    }

    // One whose host dies goes with it.
    let folder = plugin(&dir, "long", &long, 0);
    let mut host = without_settings(&mut Command::new(binary()))
        .args(["plugin", "validate", text(&folder)])
        .env("WARREN_DEVICE", "cpu")
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let start = Instant::now();
    let children = |pid: u32| {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        lists
            .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    let compiles = |pid: &String| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.windows(7).any(|part| part == b"compile"))
    };
    let child = loop {
        if let Some(child) = children(host.id()).into_iter().find(compiles) {
            break child;
        }
        assert!(start.elapsed() < PATIENCE, "no child");
        std::thread::sleep(Duration::from_millis(2));
    };
    // It has read its input, and has limited itself by then.
    std::thread::sleep(Duration::from_millis(300));
    assert!(compiles(&child), "it still compiles");
    host.kill().expect("killed");
    host.wait().expect("reaped");
    let start = Instant::now();
    while compiles(&child) {
        assert!(start.elapsed() < Duration::from_secs(2), "it outlives its host");
        std::thread::sleep(Duration::from_millis(2));
    }
    println!("a child whose host is killed is gone after {} ms", start.elapsed().as_millis());
}

#[test]
fn what_is_made_to_hurt_the_compiler_hurts_only_a_child() {
    const MEMORY: u64 = 400;
    const SECONDS: u64 = 4;
    const NOT: &str = "not a WebAssembly component";
    const TIME: &str = "takes longer than 4 s";
    const SPACE: &str = "needs more than 400 MiB";
    let dir = tempfile::tempdir().expect("directory");
    let (memory, seconds) = (MEMORY.to_string(), SECONDS.to_string());
    let settings = [
        ("WARREN_CACHE", ""),
        ("WARREN_COMPILE_MEMORY_MIB", &memory[..]),
        ("WARREN_COMPILE_SECONDS", &seconds),
    ];
    let validate = |folder: &Path| warren(&["plugin", "validate", text(folder)], &settings);
    let usual = validate(&guest("echo"));
    assert!(usual.success, "the limits suffice for what is usual: {}", usual.err);
    println!("a usual plugin | loads | {} ms | peak {} KiB", usual.took.as_millis(), usual.peak_kib);

    let byte_list = b"\x70\x7d".to_vec();
    let of = |constructor: &[u8], n: usize, times: usize| {
        [constructor, &type_at(n.saturating_sub(1)).repeat(times)].concat()
    };
    let deep =
        |blocks: usize| [&b"\0"[..], &b"\x02\x40".repeat(blocks), &b"\x0b".repeat(blocks + 1)].concat();
    // Name, component, zeros instead, which of these ends it may have.
    let cases: Vec<(&str, Vec<u8>, u64, &[&str])> = vec![
        ("a module of 1 GiB", vec![], 1 << 30, &["a component may have"]),
        ("500 MiB of zeros", vec![], 500 << 20, &[NOT, SPACE]),
        ("an empty file", vec![], 0, &[NOT]),
        ("a text", b"#!/bin/sh\nexit 0\n".to_vec(), 0, &[NOT]),
        ("a core module", module(&[]), 0, &[NOT]),
        (
            "half a component",
            fs::read(guest("echo").join("echo.wasm")).expect("echo")[..10_000].to_vec(),
            0,
            &[NOT],
        ),
        ("120 MiB of data", component(&[data(120 << 20)]), 0, &[SPACE]),
        ("1,000,001 functions", component(&[functions(1_000_001, b"\0\x0b")]), 0, &["functions count"]),
        (
            "3 modules of 1,000,000 functions",
            component(&vec![functions(1_000_000, b"\0\x0b"); 3]),
            0,
            &[TIME, SPACE],
        ),
        (
            "a function of 1,000,000 blocks",
            component(&[functions(1, &deep(1_000_000))]),
            0,
            &[TIME, SPACE, NOT],
        ),
        (
            "100 functions of 50,000 branches",
            component(&[functions(100, &branches(50_000))]),
            0,
            &[TIME, SPACE],
        ),
        (
            "lists 90,000 deep",
            component(&[types(90_000, |n| if n == 0 { byte_list.clone() } else { of(b"\x70", n, 1) })]),
            0,
            &[NOT, SPACE, "compiler failed"],
        ),
        (
            "tuples that double 60 times",
            component(&[types(60, |n| if n == 0 { byte_list.clone() } else { of(b"\x6f\x02", n, 2) })]),
            0,
            &[NOT, SPACE, TIME],
        ),
        (
            "components 10,000 deep",
            (0..10_000).fold(component(&[]), |inner, _| component(&[sized(&[4], &inner)])),
            0,
            &[NOT, SPACE],
        ),
    ];
    for (place, (what, bytes, zeros, says)) in cases.iter().enumerate() {
        let name = format!("case-{place}");
        let folder = plugin(&dir, &name, bytes, *zeros);
        let ended = validate(&folder);
        let error = ended.err.lines().rfind(|line| line.starts_with("warren: ")).unwrap_or(&ended.err);
        let shown: String = error.chars().take(240).collect();
        println!("{what} | {shown} | {} ms | peak {} KiB", ended.took.as_millis(), ended.peak_kib);
        assert!(!ended.success, "{what} loads");
        assert!(says.iter().any(|word| error.contains(word)), "{what}: none of {says:?} is in {error}");
        assert!(error.contains(&name), "{what}: {error}");
        assert!(ended.took < Duration::from_secs(SECONDS + 6), "{what}: {:?}", ended.took);
        // What it reads it holds, and no more than a little beside: a gigabyte it does not even read.
        let held = if *zeros > 512 << 20 { 0 } else { (bytes.len() as u64).max(*zeros) >> 10 };
        let most = usual.peak_kib + held + (24 << 10);
        assert!(ended.peak_kib < most, "{what}: the host's peak is {} KiB, above {most}", ended.peak_kib);
        fs::remove_dir_all(&folder).expect("removed");
    }
}
