//! Ways out of the file system, each tried as raw calls of WASI, and what a guest sees of the machine
//! otherwise. `--nocapture` prints the table: case, outcome, time to stop.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use warren_client::JobRequest;
use warren_tests::{GLANCE, House, PATIENCE, guest, logs, variant, within};

#[path = "escapes/table.rs"]
mod table;

/// In every file that no guest may read.
const CANARY: &str = "canary-of-the-host";

/// A host with a plugin between things that are not its own.
struct Scene {
    house: House,
    dir: TempDir,
}

impl Scene {
    async fn open() -> Self {
        Self::with("scratch_mib = 4").await
    }

    /// The same with other limits in the manifest.
    async fn with(limits: &str) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let at = |name: &str| dir.path().join(name);
        for folder in ["outside/dir", "scratch", "plugins/neighbour"] {
            std::fs::create_dir_all(at(folder)).expect("folder");
        }
        for file in
            ["outside/secret", "outside/dir/secret", "scratch/secret", "plugins/neighbour/secret", "secret"]
        {
            std::fs::write(at(file), CANARY).expect("write");
        }
        let plugins = at("plugins");
        let folder = variant(&plugins, "escape", "escaper", &[("scratch_mib = 4", limits)]);
        std::fs::create_dir_all(folder.join("sub")).expect("folder");
        std::fs::write(folder.join("sub/inside"), "inside").expect("write");
        std::fs::write(folder.join("model"), "old").expect("write");
        let outside = at("outside");
        for (link, to) in [
            ("up", PathBuf::from("../../outside/secret")),
            ("up-dir", "../../outside/dir".into()),
            ("neighbour", "../neighbour".into()),
            ("dots", "..".into()),
            ("far", outside.join("secret")),
            ("far-dir", outside.join("dir")),
            ("root", "/".into()),
            ("proc", "/proc/self/environ".into()),
            ("magic", "/proc/self/root".into()),
            ("fd", "/proc/self/fd".into()),
            ("loop", "loop".into()),
            ("chain", "chain-2".into()),
            ("chain-2", "sub/../chain-3".into()),
            ("chain-3", "up".into()),
            ("inner", "sub/inside".into()),
            ("around", "../escaper/sub/inside".into()),
        ] {
            symlink(to, folder.join(link)).expect("link");
        }
        let fifo = std::process::Command::new("mkfifo").arg(folder.join("fifo")).status();
        assert!(fifo.expect("mkfifo runs").success());
        let scratch = at("scratch");
        let house = House::with(&[folder, guest("echo")], |config| config.scratch = Some(scratch)).await;
        Self { house, dir }
    }

    fn plugin(&self) -> PathBuf {
        self.dir.path().join("plugins/escaper")
    }

    async fn answers(&self, script: &str) -> Result<String, String> {
        let request = JobRequest::new("escaper").parameter("mode", "script").parameter("script", script);
        let seen = self.house.run(request).await;
        match seen.end() {
            Ok(_) => Ok(seen.text("answers")),
            Err(error) => Err(format!("{}: {}", error.code, error.text)),
        }
    }

    /// Everything around the guest: kind, mode, links, size, times and content. Scratch directories of
    /// running jobs are left out.
    fn snapshot(&self) -> BTreeMap<PathBuf, String> {
        fn walk(folder: &Path, found: &mut BTreeMap<PathBuf, String>) {
            for entry in std::fs::read_dir(folder).expect("folder").flatten() {
                let path = entry.path();
                if entry.file_name().to_string_lossy().starts_with("warren-scratch-") {
                    continue;
                }
                let data = std::fs::symlink_metadata(&path).expect("metadata");
                let content = if data.is_symlink() {
                    format!("{:?}", std::fs::read_link(&path).expect("link"))
                } else if data.is_file() && data.len() < 1 << 16 {
                    std::fs::read_to_string(&path).expect("text")
                } else {
                    String::new()
                };
                // The time of a change of a directory that holds scratch directories is theirs.
                let time = if path.ends_with("scratch") { 0 } else { data.mtime_nsec() };
                let (mode, links) = (data.mode(), if data.is_dir() { 0 } else { data.nlink() });
                let size = if data.is_dir() { 0 } else { data.len() };
                found.insert(path.clone(), format!("{mode:o} {links} {size} {time} {content}"));
                if data.is_dir() {
                    walk(&path, found);
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(self.dir.path(), &mut found);
        found
    }

    /// Waits until no scratch directory is left.
    async fn clean(&self) {
        let start = Instant::now();
        loop {
            let left = self.house.scratches();
            if left.is_empty() {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "left: {left:?}");
            tokio::time::sleep(GLANCE).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_way_leads_out_of_the_file_system() {
    let scene = Scene::open().await;
    let before = scene.snapshot();
    let mut wrong = Vec::new();
    let cases = table::cases(scene.dir.path());
    assert!(cases.len() >= 60, "{} ways", cases.len());
    for case in &cases {
        let start = Instant::now();
        let outcome = scene.answers(&case.script).await;
        let took = start.elapsed();
        let (whole, last) = match &outcome {
            Ok(answers) => (answers.as_str(), answers.lines().last().unwrap_or_default()),
            Err(error) => (error.as_str(), error.lines().next().unwrap_or_default()),
        };
        let short: String = last.chars().take(60).collect();
        println!("{} | {short} | {} ms", case.name, took.as_millis());
        let good = match case.due {
            table::Due::Refused => outcome.is_ok() && !last.starts_with("ok"),
            table::Due::Traps => outcome.is_err() && last.starts_with("PLUGIN_TRAPPED"),
            table::Due::Inside(text) => outcome.is_ok() && last == format!("ok {text}"),
        };
        if !good {
            wrong.push(format!("{}: {whole}", case.name));
        }
        if whole.contains(CANARY) {
            wrong.push(format!("{}: it got out: {whole}", case.name));
        }
        if took > Duration::from_secs(10) {
            wrong.push(format!("{}: took {took:?}", case.name));
        }
        let after = scene.snapshot();
        if after != before {
            let changed: Vec<_> =
                after.iter().filter(|(path, state)| before.get(*path) != Some(state)).collect();
            let gone: Vec<_> = before.keys().filter(|path| !after.contains_key(*path)).collect();
            wrong.push(format!("{}: changed {changed:?}, gone {gone:?}", case.name));
        }
        scene.house.answers(&case.name).await;
    }
    scene.clean().await;
    println!("{} ways", cases.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_is_told_nothing_of_the_machine() {
    let scene = Scene::open().await;
    let calls = [
        ("preopens", "ok /plugin /scratch"),
        ("environment", "ok []"),
        ("arguments", "ok []"),
        ("initial-cwd", "ok None"),
        ("stdin", "closed"),
        ("tcp", "access-denied"),
        ("udp", "access-denied"),
        ("lookup\tlocalhost", "permanent-resolver-failure"),
        ("lookup\t127.0.0.1", "permanent-resolver-failure"),
        ("random\t1048576", "ok 1048576 bytes"),
        ("insecure\t1048576", "ok 1048576 bytes"),
    ];
    let mut wrong = Vec::new();
    for (call, due) in calls {
        let start = Instant::now();
        let answer = scene.answers(call).await.unwrap_or_else(|e| e);
        println!("{} | {answer} | {} ms", call.replace('\t', " "), start.elapsed().as_millis());
        if answer != due {
            wrong.push(format!("{call}: {answer} where {due} is due"));
        }
    }
    let clocks = scene.answers("clocks").await.expect("clocks");
    println!("clocks | {clocks}");
    assert!(clocks.starts_with("ok wall") && clocks.ends_with("true"), "{clocks}");
    for call in ["random\t1048577", "insecure\t1048577", "random\t18446744073709551615"] {
        let error = scene.answers(call).await.expect_err("too many");
        println!("{} | {}", call.replace('\t', " "), error.lines().next().unwrap_or_default());
        if !error.starts_with("HOSTCALL_LIMIT") || !error.contains("at most 1048576") {
            wrong.push(error);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_for_ever_end_with_a_clock() {
    let dir = tempfile::tempdir().expect("directory");
    let short = [("wall_ms = 20000", "wall_ms = 500"), ("stall_ms = 10000", "stall_ms = 300")];
    let house = House::open(&[variant(dir.path(), "escape", "escaper", &short), guest("echo")]).await;
    for size in ["1", "4096", "1048576"] {
        let script = format!("random-for-ever\t{size}");
        let start = Instant::now();
        let request = JobRequest::new("escaper").parameter("mode", "script").parameter("script", script);
        let seen = house.run(request).await;
        println!("random bytes, {size} at a time | {} | {} ms", seen.code(), start.elapsed().as_millis());
        assert!(["STALLED", "TIME_LIMIT", "HOSTCALL_LIMIT"].contains(&seen.code()), "{:?}", seen.events);
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        house.answers("random bytes").await;
    }
}

/// The bytes that a job has on disk while it runs are never more than the limit, whichever call writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scratch_is_limited_to_the_byte() {
    let scene = Scene::open().await;
    // 4 MiB: what a file counts besides its content leaves 4092 KiB.
    let all = 4 * 1024 - 4;
    let open = "open\ta\tscratch\tcrw\ta\n";
    let full = "insufficient-space";
    let cases: Vec<(&str, String, String)> = vec![
        ("set-size, all of it", format!("{open}size\ta\t{}", all << 10), "ok done".into()),
        ("set-size, one byte more", format!("{open}size\ta\t{}", (all << 10) + 1), full.into()),
        ("set-size, the most there is", format!("{open}size\ta\t{}", u64::MAX), full.into()),
        ("write far away", format!("{open}write\ta\t{}\tx", all << 10), full.into()),
        ("write at the last byte", format!("{open}write\ta\t{}\tx", (all << 10) - 1), "ok 1 bytes".into()),
        ("write at the end of all", format!("{open}write\ta\t{}\tx", u64::MAX), full.into()),
        ("stream far away", format!("{open}write-stream\ta\t{}\txy", (all << 10) - 1), full.into()),
        ("stream at the end of all", format!("{open}write-stream\ta\t{}\txy", u64::MAX - 1), full.into()),
        ("append all of it", format!("{open}fill\ta\t{all}"), "ok done".into()),
        ("append more", format!("{open}fill\ta\t{}", all + 4), format!("{full} after {all} KiB")),
        ("append zeroes", format!("{open}zero-fill\ta\t{}", all + 4), format!("{full} after {all} KiB")),
        (
            "append without waiting",
            format!("{open}unchecked-fill\ta\t{}", all + 4),
            format!("{full} after {all} KiB"),
        ),
        (
            "in place, again and again",
            format!(
                "{open}size\ta\t{}\nwrite\ta\t0\tx\nwrite-stream\ta\t100\txyz\nwrite\ta\t0\tx",
                all << 10
            ),
            "ok 1 bytes".into(),
        ),
        (
            "what is cut still counts",
            format!("{open}size\ta\t{}\nsize\ta\t0\nappend\ta\tx", all << 10),
            full.into(),
        ),
        (
            "what is cut on opening still counts",
            format!("{open}size\ta\t{}\nopen\tb\tscratch\ttrw\ta\nappend\tb\tx", all << 10),
            full.into(),
        ),
        (
            "what is removed still counts",
            format!("{open}size\ta\t{}\nunlink\tscratch\ta\nopen\tb\tscratch\tcrw\tb", all << 10),
            full.into(),
        ),
        (
            "out of one file into another",
            format!("{open}fill\ta\t3000\nopen\tb\tscratch\tcrw\tb\nsplice\ta\tb"),
            format!("{full} after"),
        ),
        (
            "the same file opened anew counts once",
            format!("{}{open}size\ta\t{}", open.repeat(5000), all << 10),
            "ok done".into(),
        ),
        ("files without end", "hoard\tfiles\t5000\tscratch\tf".into(), format!("{full} at 1024")),
        ("directories without end", "hoard\tdirectories\t5000\tscratch\td".into(), format!("{full} at 1024")),
        (
            "links without end",
            "open\ta\tscratch\tcrw\tfile\nhoard\tlinks\t5000\tscratch\tl".into(),
            format!("{full} at 1023"),
        ),
        ("symlinks without end", "hoard\tsymlinks\t5000\tscratch\ts".into(), format!("{full} at 1024")),
        ("directories ever deeper", "nest\tscratch\t5000\td".into(), format!("{full} at 1024")),
        (
            "directories ever deeper of long names",
            format!("nest\tscratch\t5000\t{}", "d".repeat(255)),
            format!("{full} at 1024"),
        ),
        (
            "descriptors without end",
            "hoard\tdescriptors\t5000\tplugin\tmodel".into(),
            "insufficient-memory at 128".into(),
        ),
        (
            "descriptors of directories without end",
            "hoard\tdescriptors\t5000\tplugin\tsub".into(),
            "insufficient-memory at 128".into(),
        ),
        (
            "readers without end",
            "open\ta\tplugin\tr\tmodel\nhoard\treaders\t5000\ta".into(),
            "insufficient-memory at 127".into(),
        ),
        (
            "writers without end",
            format!("{open}hoard\twriters\t5000\ta"),
            "insufficient-memory at 127".into(),
        ),
        ("listings without end", "hoard\tlistings\t5000\tplugin".into(), "insufficient-memory at 8".into()),
        ("listings one after another", "list\tscratch\n".repeat(100) + "list\tscratch", "ok ".into()),
        (
            "descriptors one after another",
            "open\ta\tplugin\tr\tmodel\nclose\ta\n".repeat(500) + "open\ta\tplugin\tr\tmodel",
            "ok opened".into(),
        ),
    ];
    let mut wrong = Vec::new();
    for (name, script, due) in cases {
        let start = Instant::now();
        let answers = scene.answers(&script).await.unwrap_or_else(|e| e);
        let last = answers.lines().last().unwrap_or_default();
        println!("{name} | {last} | {} ms", start.elapsed().as_millis());
        if !(last == due || due.ends_with("after") && last.starts_with(&due)) {
            wrong.push(format!("{name}: {last} where {due} is due"));
        }
        scene.house.answers(name).await;
    }
    scene.clean().await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breach_of_scratch_names_the_limit() {
    let scene = Scene::open().await;
    let write =
        |size: i64| JobRequest::new("escaper").parameter("mode", "overflow").parameter("number", size);
    let fits = scene.house.run(write(4_000_000)).await;
    assert_eq!(fits.text("wrote"), "4000000");
    let seen = scene.house.run(write(5_000_000)).await;
    let failure = seen.end().expect_err("more than there is");
    println!("scratch bomb | {} | {}", failure.code, failure.text);
    assert_eq!(failure.code, "SCRATCH_LIMIT");
    assert!(
        failure.text.contains("limits.scratch_mib is 4") && failure.text.contains("4198400 bytes"),
        "{failure}"
    );
    scene.clean().await;

    // The operator's word is the last, and without scratch there is no directory.
    let dir = tempfile::tempdir().expect("directory");
    let folder = variant(dir.path(), "escape", "escaper", &[]);
    let capped = House::with(&[folder], |config| config.limits.scratch_mib = 1).await;
    let seen = capped.run(write(2_000_000)).await;
    assert!(seen.end().expect_err("capped").text.contains("limits.scratch_mib is 1"), "{:?}", seen.events);
    let none = Scene::with("scratch_mib = 0").await;
    assert_eq!(none.answers("preopens").await.expect("it runs"), "ok /plugin");
    assert_eq!(none.answers("open\ta\tscratch\tcw\ta").await.expect("it runs"), "no descriptor \"scratch\"");
}

/// Jobs that are stopped in the middle of making entries leave none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scratch_goes_with_jobs_that_are_stopped_while_they_write() {
    let scene = Scene::with("scratch_mib = 64").await;
    for n in 0..40_u64 {
        let script = "hoard\tfiles\t100000\tscratch\tf";
        let request = JobRequest::new("escaper").parameter("mode", "script").parameter("script", script);
        let mut job = scene.house.client.submit(request).await.expect("taken");
        // Anywhere between its first entries and its last ones.
        tokio::time::sleep(Duration::from_millis(5 + 3 * n)).await;
        job.cancel().await.expect("published");
        while let Some(event) = within("an event", job.next()).await {
            event.expect("readable");
        }
    }
    scene.house.quiet().await;
    scene.clean().await;
}

/// A version sees the files that it was loaded with, whatever is put in their place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_keeps_its_files_when_its_folder_is_replaced() {
    let scene = Scene::open().await;
    let watch = JobRequest::new("escaper").parameter("mode", "watch").parameter("number", 1500_i64);
    let mut job = scene.house.client.submit(watch).await.expect("taken");
    // It has read the file once.
    let first = within("a status", job.next()).await.expect("one").expect("readable");
    println!("{first:?}");
    let (place, aside) = (scene.plugin(), scene.dir.path().join("aside"));
    let new = variant(&scene.dir.path().join("staging"), "escape", "escaper", &[("0.1.0", "0.2.0")]);
    std::fs::write(new.join("model"), "new").expect("write");
    std::fs::rename(&place, &aside).expect("rename");
    std::fs::rename(&new, &place).expect("rename");
    let mut last = None;
    while let Some(event) = within("an event", job.next()).await {
        last = Some(event.expect("readable"));
    }
    let running = warren_tests::Seen { events: vec![last.expect("final")] };
    assert_eq!(running.text("seen"), "old", "a job that ran meanwhile");
    let request = || JobRequest::new("escaper").parameter("mode", "watch").parameter("number", 0_i64);
    assert_eq!(scene.house.run(request()).await.text("seen"), "old", "a job that began afterwards");
    // Links in the old folder lead where they led.
    let around = scene.answers("open\ta\tplugin\tfr\tinner\nread\ta").await.expect("it runs");
    assert_eq!(around, "ok opened\nok inside");
    scene.house.host().load(&place).await.expect("loads");
    assert_eq!(scene.house.run(request()).await.text("seen"), "new", "the version that lies there now");
    // What it was loaded from is gone: it reads nothing else instead.
    std::fs::remove_dir_all(&place).expect("removed");
    let gone = scene.answers("open\ta\tplugin\tr\tmodel\nlist\tplugin").await.expect("it runs");
    assert_eq!(gone, "no-entry\nok ");
}

/// What was hashed is what `prepare` reads, though another folder takes its place in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_swapped_while_it_loads_is_not_read() {
    let dir = tempfile::tempdir().expect("directory");
    let made = |name: &str, model: &str, slow: &str| {
        let folder = variant(&dir.path().join(name), "escape", "escaper", &[]);
        std::fs::write(folder.join("model"), model).expect("write");
        std::fs::write(folder.join("slow"), slow).expect("write");
        let manifest = std::fs::read_to_string(folder.join("plugin.toml")).expect("manifest");
        let digest = warren::digest::sha256_hex(b"old");
        let files = format!("\n[[files]]\nname = \"model\"\nsha256 = \"{digest}\"\n");
        std::fs::write(folder.join("plugin.toml"), manifest + &files).expect("write");
        folder
    };
    let house = House::open(&[guest("echo")]).await;
    let (place, other) = (made("a", "old", "1500"), made("b", "new", "0"));
    // Refused as it stands: its file is not what its manifest says.
    assert!(house.host().load(&other).await.is_err());
    let told = logs::lines("preparing slowly").len();
    let swap = async {
        let start = Instant::now();
        while logs::lines("preparing slowly").len() == told {
            assert!(start.elapsed() < PATIENCE, "it never prepares:\n{}", logs::tail(20));
            tokio::time::sleep(GLANCE).await;
        }
        std::fs::rename(&place, dir.path().join("aside")).expect("rename");
        std::fs::rename(&other, &place).expect("rename");
        Instant::now()
    };
    let load = async { (house.host().load(&place).await.map(drop), Instant::now()) };
    let (swapped, (loaded, end)) = tokio::join!(swap, load);
    loaded.expect("what was hashed is what was read");
    assert!(swapped < end, "it was not swapped in time");
    let seen = house.run(JobRequest::new("escaper").parameter("mode", "prepared")).await;
    assert_eq!(seen.text("seen"), "old");
}
