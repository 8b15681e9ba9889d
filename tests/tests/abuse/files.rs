//! Folders and files that are not what a plugin's are: links, pipes, holes, and files that change while
//! they are read.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use warren::digest::sha256_hex;
use warren_client::JobRequest;
use warren_tests::PATIENCE;
use warren_tests::abuse::{Bed, MARGIN, SLACK, infer, plugin, resident_mib};

/// Loads a folder whose component is what `make` puts there; prints and checks a row as [`Bed::all`] does.
async fn strange(bed: &Bed, name: &str, says: &str, make: impl FnOnce(&Path)) {
    let folder = plugin(bed.dir.path(), "strange", &[], "");
    let file = folder.join("c.wasm");
    fs::remove_file(&file).expect("removed");
    make(&file);
    let (before, start) = (resident_mib(), Instant::now());
    let error = bed.house.host().deployer().load(&folder).await.err().expect(name).to_string();
    let (took, after) = (start.elapsed(), resident_mib());
    println!("{name} | refused: {error} | {} ms | {before} -> {after} MiB", took.as_millis());
    assert!(error.contains("c.wasm") && error.contains(says), "{name}: {error}");
    assert!(took < SLACK, "{name}: {took:?}");
    assert!(after <= before + MARGIN, "{name}: {} MiB more", after - before);
    bed.house.answers(name).await;
    fs::remove_dir_all(&folder).expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_file_of_a_plugin_is_not_read() {
    let bed = Bed::open(|_| {}).await;
    let link = |to: &'static str| move |file: &Path| std::os::unix::fs::symlink(to, file).expect("linked");
    let sparse =
        |size: u64| move |file: &Path| fs::File::create(file).and_then(|f| f.set_len(size)).expect("a file");
    strange(&bed, "a module of 1 GiB", "536870912", sparse(1 << 30)).await;
    strange(&bed, "a module of 1 TiB", "536870912", sparse(1 << 40)).await;
    strange(&bed, "a link to /dev/zero", "", link("/dev/zero")).await;
    strange(&bed, "a link to /proc/self/mem", "", link("/proc/self/mem")).await;
    strange(&bed, "a link to another plugin's component", "", link("../patient/hostile.wasm")).await;
    strange(&bed, "a link to itself", "", link("c.wasm")).await;
    strange(&bed, "a directory", "", |file| fs::create_dir(file).expect("made")).await;
    strange(&bed, "nothing", "", |_| ()).await;
    strange(&bed, "a pipe that nobody writes to", "", |file| {
        let made = std::process::Command::new("mkfifo").arg(file).status();
        assert!(made.is_ok_and(|status| status.success()), "mkfifo");
    })
    .await;
    strange(&bed, "a socket", "", |file| drop(std::os::unix::net::UnixListener::bind(file).expect("bound")))
        .await;
}

/// Says that it is over when it is dropped, also by a panic: a scope waits for its threads.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A component that fails with this text, as long as others of its kind.
fn says(word: &str) -> Vec<u8> {
    infer(format!(
        "(i32.store (i32.const 256) (i32.const 1)) (i32.store (i32.const 260) (i32.const 0))
         (i32.store (i32.const 264) (i32.const 1024)) (i32.store (i32.const 268) (i32.const {})) (call $ok)",
        word.len()
    ))
    .main(format!("(data (i32.const 1024) \"{word}\")"))
    .bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_swapped_while_it_is_loaded_is_never_other_code_than_was_hashed() {
    let bed = Bed::open(|_| {}).await;
    let (good, evil) = (says("good"), says("evil"));
    assert_eq!(good.len(), evil.len(), "of one size: only the bytes tell them apart");
    let (digest_good, digest_evil) = (sha256_hex(&good), sha256_hex(&evil));
    let folder = plugin(bed.dir.path(), "swapped", &good, "");
    let plain = fs::read_to_string(folder.join("plugin.toml")).expect("manifest");
    let deployer = bed.house.host().deployer();

    // A file that is not what the manifest says.
    let pinned = format!("sha256 = \"{digest_good}\"\n{plain}");
    fs::write(folder.join("plugin.toml"), &pinned).expect("manifest");
    fs::write(folder.join("c.wasm"), &evil).expect("component");
    let error = deployer.load(&folder).await.err().expect("a tampered file").to_string();
    println!("a tampered file | refused: {error}");
    assert!(
        error.contains("c.wasm") && error.contains(&digest_evil) && error.contains(&digest_good),
        "{error}"
    );

    for (how, pinned) in [
        ("renamed over it", false),
        ("written into it", false),
        ("renamed over it", true),
        ("written into it", true),
    ] {
        let manifest = if pinned { format!("sha256 = \"{digest_good}\"\n{plain}") } else { plain.clone() };
        fs::write(folder.join("plugin.toml"), manifest).expect("manifest");
        let (over, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
        let (before, start) = (resident_mib(), Instant::now());
        let (mut served, mut refused) = ([0, 0], 0);
        let mut wrong = Vec::new();
        let swap = || {
            let draft = folder.join(".draft");
            while !over.load(Ordering::Relaxed) {
                for bytes in [&evil, &good] {
                    if how == "renamed over it" {
                        fs::write(&draft, bytes)
                            .and_then(|()| fs::rename(&draft, folder.join("c.wasm")))
                            .expect("swapped");
                    } else {
                        fs::write(folder.join("c.wasm"), bytes).expect("swapped");
                    }
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let load = async {
            while served[0] + served[1] + refused < 20 || swaps.load(Ordering::Relaxed) < 200 {
                assert!(start.elapsed() < PATIENCE, "{how}: {swaps:?} swaps");
                let plugin = match deployer.load(&folder).await {
                    Ok(plugin) => plugin,
                    Err(_) => {
                        refused += 1;
                        continue;
                    }
                };
                let digest = plugin.identity.digest.to_string();
                drop(plugin);
                let seen = bed.house.run(JobRequest::new("swapped")).await;
                let said = seen.end().expect_err("it fails").text.clone();
                let which = usize::from(digest != format!("sha256:{digest_good}"));
                served[which] += 1;
                let due = [&digest_good, &digest_evil][which];
                if digest != format!("sha256:{due}")
                    || said != ["good", "evil"][which]
                    || (pinned && which == 1)
                {
                    wrong.push(format!("{digest} says {said}"));
                }
                deployer.unload("swapped").await.expect("it is there");
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(swap);
            let _over = Over(&over);
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(load));
        });
        let said = if pinned { "with" } else { "without" };
        println!(
            "another file {how} while it is loaded, {said} a digest in the manifest | {} served as the one, {} as the other, {refused} refused; {} swaps | {} ms | {before} -> {} MiB",
            served[0],
            served[1],
            swaps.load(Ordering::Relaxed),
            start.elapsed().as_millis(),
            resident_mib()
        );
        assert!(wrong.is_empty(), "{how}: {wrong:?}");
        bed.house.answers(how).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_bad_folders_serves_the_good_one() {
    let dir = tempfile::tempdir().expect("directory");
    let bed = Bed::open(|config| config.plugins = dir.path().to_owned()).await;
    let manifest = |folder: &Path| folder.join("plugin.toml");
    let make = |name: &str, change: &dyn Fn(&Path)| change(&plugin(dir.path(), name, &says("good"), ""));
    make("good", &|_| ());
    make("dangling-component", &|folder| {
        fs::remove_file(folder.join("c.wasm")).expect("removed");
        std::os::unix::fs::symlink("nowhere", folder.join("c.wasm")).expect("linked");
    });
    make("large-manifest", &|folder| {
        let file = fs::File::options().write(true).open(manifest(folder)).expect("opened");
        file.set_len(1 << 30).expect("a hole");
    });
    make("binary-manifest", &|folder| fs::write(manifest(folder), [0xff; 1000]).expect("written"));
    make("deep-manifest", &|folder| {
        fs::write(manifest(folder), "a = ".to_owned() + &"[".repeat(100_000)).expect("written")
    });
    make("linked-manifest", &|folder| {
        fs::remove_file(manifest(folder)).expect("removed");
        std::os::unix::fs::symlink("/proc/self/status", manifest(folder)).expect("linked");
    });
    make("many-files", &|folder| {
        for n in 0..2000 {
            fs::write(folder.join(n.to_string()), "").expect("written");
        }
        fs::write(folder.join("c.wasm"), "").expect("written");
    });
    // Beside a component that is good: it must not hide the folder.
    make("dangling-beside", &|folder| {
        std::os::unix::fs::symlink("nowhere", folder.join("beside")).expect("linked")
    });
    make("loop-beside", &|folder| {
        std::os::unix::fs::symlink("beside", folder.join("beside")).expect("linked")
    });
    std::os::unix::fs::symlink(".", dir.path().join("itself")).expect("linked");
    let (before, start) = (resident_mib(), Instant::now());
    let loaded = bed.house.host().load_all().await.expect("the directory is read");
    let (took, after) = (start.elapsed(), resident_mib());
    let mut refused = Vec::new();
    for (folder, result) in &loaded {
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        match result {
            Ok(plugin) => println!("folder {name} | serves {}", plugin.identity.plugin),
            Err(error) => {
                let shown: String = error.to_string().chars().take(200).collect();
                println!("folder {name} | refused: {shown}");
                assert!(
                    error.to_string().len() < 2000 && error.to_string().contains(&name),
                    "{name}: {error}"
                );
                refused.push(name);
            }
        }
    }
    println!("all of them | {} ms | {before} -> {after} MiB", took.as_millis());
    refused.sort();
    assert_eq!(
        refused,
        [
            "binary-manifest",
            "dangling-component",
            "deep-manifest",
            "large-manifest",
            "linked-manifest",
            "many-files"
        ]
    );
    assert_eq!(
        loaded.len(),
        9,
        "every folder is looked at: {:?}",
        loaded.iter().map(|(f, _)| f).collect::<Vec<_>>()
    );
    assert!(took < SLACK && after <= before + MARGIN, "{took:?}, {before} -> {after} MiB");
    let seen = bed.house.run(JobRequest::new("good")).await;
    assert_eq!(seen.end().expect_err("it says so").text, "good");
}
