//! The operator's terminal: `warren plugin list`, `load`, `unload`, `pin` and `rollback` against a
//! running `warren serve`, and a config taken anew at SIGHUP. Prints the transcript.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use serde_json::Value;
use warren_tests::process::{binary, signal, without_settings};
use warren_tests::{GLANCE, PATIENCE, variant};

/// A host on the embedded broker with an admin socket; ends with the test.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn warren(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    let output = without_settings(&mut command)
        .current_dir(dir)
        .env("WARREN_ADMIN", dir.join("admin.sock"))
        .args(arguments)
        .output()
        .expect("it starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("$ warren {}\n{out}{err}", arguments.join(" "));
    output
}

fn says(dir: &Path, arguments: &[&str]) -> String {
    let output = warren(dir, arguments);
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "warren {arguments:?}: {err}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refuses(dir: &Path, arguments: &[&str], word: &str) {
    let output = warren(dir, arguments);
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && err.contains(word), "warren {arguments:?}: {err}");
}

/// Versions by name and state, as the list has them once `until` holds.
fn list(dir: &Path, until: impl Fn(&[(String, String)]) -> bool) -> Vec<(String, String)> {
    let start = Instant::now();
    loop {
        let mut command = Command::new(binary());
        let asked = without_settings(&mut command)
            .args(["plugin", "list", "--json", "--admin"])
            .arg(dir.join("admin.sock"))
            .output()
            .expect("it starts");
        let list: Value = serde_json::from_slice(&asked.stdout).unwrap_or_default();
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let rows = list["versions"].as_array().cloned().unwrap_or_default();
        let seen: Vec<_> = rows.iter().map(|row| (text(&row["plugin"]), text(&row["state"]))).collect();
        if asked.status.success() && until(&seen) {
            return seen;
        }
        let err = String::from_utf8_lossy(&asked.stderr).into_owned();
        assert!(start.elapsed() < PATIENCE, "{list:#}\n{err}");
        std::thread::sleep(GLANCE);
    }
}

#[test]
fn an_operator_changes_what_is_served_without_a_restart() {
    let home = tempfile::tempdir().expect("directory");
    let (dir, plugins, elsewhere) = (home.path(), home.path().join("plugins"), home.path().join("elsewhere"));
    let at = |place: &Path, folder: &str, number: &str| {
        let edit = format!("version = \"{number}\"");
        let made = variant(&place.join("staging"), "echo", "echo", &[("version = \"0.1.0\"", edit.as_str())]);
        std::fs::rename(made, place.join(folder)).expect("rename");
        std::fs::remove_dir_all(place.join("staging")).expect("empty");
    };
    std::fs::create_dir_all(&plugins).expect("folder");
    at(&plugins, "echo", "1.0.0");
    std::fs::write(dir.join("warren.toml"), "plugins = \"plugins\"\nrescan_ms = 200\n").expect("config");
    let mut command = Command::new(binary());
    let child = without_settings(&mut command)
        .current_dir(dir)
        .env("WARREN_ADMIN", dir.join("admin.sock"))
        .args(["--log", "warren=info", "serve", "--config", "warren.toml"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let host = Serving(child);
    let is = |wanted: &[(&str, &str)]| {
        let wanted: Vec<(String, String)> =
            wanted.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect();
        move |seen: &[(String, String)]| seen == wanted
    };
    list(dir, is(&[("echo@1.0.0", "serving")]));
    let mode = std::fs::metadata(dir.join("admin.sock")).expect("socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "nobody else may use it");
    // Another version beside it, from anywhere.
    at(&elsewhere, "echo-next", "1.1.0");
    assert!(says(dir, &["plugin", "load", "elsewhere/echo-next"]).contains("echo@1.1.0"));
    list(dir, is(&[("echo@1.0.0", "standby"), ("echo@1.1.0", "serving")]));
    says(dir, &["plugin", "pin", "echo", "1.0.0"]);
    list(dir, is(&[("echo@1.0.0", "serving"), ("echo@1.1.0", "standby")]));
    says(dir, &["plugin", "pin", "echo", "1.0.0=9", "1.1.0=1"]);
    list(dir, is(&[("echo@1.0.0", "serving"), ("echo@1.1.0", "serving")]));
    assert!(says(dir, &["plugin", "list"]).contains("90 %"));
    refuses(dir, &["plugin", "pin", "echo", "3.0.0"], "echo@3.0.0: not in service");
    says(dir, &["plugin", "rollback", "echo"]);
    list(dir, is(&[("echo@1.0.0", "serving")]));
    refuses(dir, &["plugin", "rollback", "echo"], "no earlier version");
    // A bad one is refused, with the reason; so is one that is not there.
    at(&plugins, "bad", "2.0.0");
    std::fs::write(plugins.join("bad/plugin.toml"), "name = \"bad\"\n").expect("write");
    let start = Instant::now();
    while !says(dir, &["plugin", "list"]).contains("bad") {
        assert!(start.elapsed() < PATIENCE, "the bad folder is not listed");
        std::thread::sleep(10 * GLANCE);
    }
    assert!(says(dir, &["plugin", "list"]).contains("missing field"));
    refuses(dir, &["plugin", "load", "nowhere"], "nowhere");
    // The config says otherwise now.
    at(&plugins, "echo-next", "1.2.0");
    list(dir, is(&[("echo@1.0.0", "standby"), ("echo@1.2.0", "serving")]));
    let pinned = "plugins = \"plugins\"\n[versions.echo]\npin = \"1.0.0\"\n";
    std::fs::write(dir.join("warren.toml"), pinned).expect("config");
    signal(host.0.id(), "HUP");
    list(dir, is(&[("echo@1.0.0", "serving"), ("echo@1.2.0", "standby")]));
    says(dir, &["plugin", "unload", "echo"]);
    list(dir, is(&[]));
    refuses(dir, &["plugin", "unload", "echo"], "not in service");
    drop(host);
    refuses(dir, &["plugin", "list"], "no host answers");
}
