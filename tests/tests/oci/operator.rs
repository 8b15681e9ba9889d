//! The operator's terminal: `warren plugin pack`, `push`, `pull` and `load`, and a host whose config
//! names plugins by digest. Prints the transcript.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use warren_tests::process::{binary, signal, without_settings};
use warren_tests::registry::{LOGIN, Registry};
use warren_tests::{GLANCE, PATIENCE};

use super::version;

/// Ends with the test.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    without_settings(&mut command)
        .current_dir(dir)
        .env("WARREN_ADMIN", dir.join("admin.sock"))
        .env("WARREN_CONFIG", dir.join("warren.toml"))
        .env("STATE_DIRECTORY", dir.join("state"))
        .args(arguments);
    command
}

fn run(dir: &Path, arguments: &[&str]) -> Output {
    let output = command(dir, arguments).output().expect("it starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("$ warren {}\n{out}{err}", arguments.join(" "));
    assert!(!format!("{out}{err}").contains(LOGIN.1), "the password is shown");
    output
}

fn says(dir: &Path, arguments: &[&str]) -> String {
    let output = run(dir, arguments);
    assert!(output.status.success(), "warren {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn refuses(dir: &Path, arguments: &[&str], word: &str) {
    let output = run(dir, arguments);
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && err.contains(word), "warren {arguments:?}: {err}");
}

/// Waits until `warren plugin list` has all of these words; answers it.
fn list(dir: &Path, words: &[&str]) -> String {
    let start = Instant::now();
    loop {
        let output = command(dir, &["plugin", "list"]).output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if words.iter().all(|word| text.contains(word)) {
            println!("$ warren plugin list\n{text}");
            return text;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "not {words:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        std::thread::sleep(10 * GLANCE);
    }
}

#[test]
fn an_operator_publishes_and_serves_by_digest() {
    let home = tempfile::tempdir().expect("directory");
    let dir = home.path();
    let registry = Registry::start(true);
    let auth = registry.auth_file(LOGIN.1);
    std::fs::create_dir(dir.join("plugins")).expect("folder");
    let config = |from: &[&str]| {
        let text = format!(
            "plugins = \"plugins\"\nplugins_from = {from:?}\n[registry]\nauth_file = {:?}\n",
            auth.display().to_string()
        );
        std::fs::write(dir.join("warren.toml"), text).expect("config");
    };
    config(&[]);
    for number in ["1.0.0", "1.1.0", "1.2.0"] {
        version(dir, number);
    }
    let repository = format!("oci://{}/echo", registry.host());
    // Published, and pulled without a host.
    let one = says(dir, &["plugin", "push", "1.0.0/echo", &format!("{repository}:1.0")]);
    let two = says(dir, &["plugin", "push", "1.1.0/echo", &repository]);
    assert!(one.starts_with(&format!("{repository}@sha256:")), "{one}");
    assert_eq!(says(dir, &["plugin", "pull", &format!("{repository}:1.0"), "--to", "mine"]), one);
    assert!(dir.join("mine/plugin.toml").is_file());
    let three = says(dir, &["plugin", "pack", "1.2.0/echo", "layout", "--tag", "next"]);
    assert!(three.starts_with("oci-layout:/") && three.contains("@sha256:"), "{three}");
    assert_eq!(says(dir, &["plugin", "pull", "oci-layout:layout:next"]), three);
    // A host whose config names one that is there and one that is not.
    let missing = format!("{repository}@sha256:{}", "0".repeat(64));
    config(&[&one, &missing]);
    let child = command(dir, &["--log", "warren=info", "serve"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(dir.join("log")).expect("log"))
        .spawn()
        .expect("it starts");
    let host = Serving(child);
    list(dir, &["echo@1.0.0", "serving", &one, "refused", &missing, "MANIFEST_UNKNOWN"]);
    refuses(dir, &["plugin", "load", &format!("{repository}:1.0")], "by digest");
    assert!(says(dir, &["plugin", "load", &three]).contains("echo@1.2.0"));
    list(dir, &["echo@1.2.0", &three]);
    says(dir, &["plugin", "unload", "echo@1.2.0"]);
    // Another one by the config.
    config(&[&two]);
    signal(host.0.id(), "HUP");
    let text = list(dir, &["echo@1.1.0", &two]);
    assert!(!text.contains("refused") || !text.contains(&missing), "{text}");
    drop(host);
    let log = std::fs::read_to_string(dir.join("log")).expect("log");
    assert!(!log.contains(LOGIN.1) && log.contains("plugin not pulled"), "{log}");
    config(&["oci://somewhere/echo:latest"]);
    refuses(dir, &["plugin", "list"], "plugins_from");
}
