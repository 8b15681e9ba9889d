//! The command as a stranger uses it: scaffold a plugin, build it, look at it, run it, serve it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn warren(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_warren"))
        .current_dir(folder)
        .env("WARREN_CACHE", target().join("warren-cache"))
        .args(arguments)
        .output()
        .expect("the command starts")
}

fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

fn succeeds(folder: &Path, arguments: &[&str]) -> String {
    let output = warren(folder, arguments);
    let (out, err) = text(&output);
    assert!(output.status.success(), "warren {arguments:?}: {}\n{out}\n{err}", output.status);
    out
}

fn fails(folder: &Path, arguments: &[&str], says: &[&str]) {
    let output = warren(folder, arguments);
    let (out, err) = text(&output);
    assert!(!output.status.success(), "warren {arguments:?} succeeded\n{out}\n{err}");
    for word in says {
        assert!(err.contains(word), "warren {arguments:?}: {word:?} is not in:\n{err}");
    }
}

/// The target directory that this test was built into.
fn target() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_warren")).ancestors().nth(2).unwrap().to_owned()
}

#[test]
fn a_stranger_scaffolds_builds_inspects_runs_and_serves_a_plugin() {
    let dir = tempfile::tempdir().unwrap();
    let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk/rust");
    let said = succeeds(dir.path(), &["new", "add-one", "--sdk", sdk.to_str().unwrap()]);
    assert!(said.contains("cargo build"), "{said}");
    fails(dir.path(), &["new", "add-one"], &["exists already"]);
    fails(dir.path(), &["new", "Add_One"], &["lower-case"]);

    let folder = dir.path().join("add-one");
    let mut cargo = Command::new(env!("CARGO"));
    for (name, _) in std::env::vars() {
        if name.starts_with("CARGO_") && name != "CARGO_HOME" {
            cargo.env_remove(name);
        }
    }
    let built = cargo
        .current_dir(&folder)
        .args(["build", "--release", "--target", "wasm32-wasip2", "--target-dir"])
        .arg(target().join("scaffold"))
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", text(&built).1);
    // The scaffold's manifest names cargo's default target directory.
    let wasm = folder.join("target/wasm32-wasip2/release");
    std::fs::create_dir_all(&wasm).unwrap();
    std::fs::copy(target().join("scaffold/wasm32-wasip2/release/add_one.wasm"), wasm.join("add_one.wasm"))
        .unwrap();

    let shown = succeeds(&folder, &["plugin", "inspect", ".", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["manifest"]["name"], "add-one");
    let imports = shown["imports"].to_string();
    assert!(imports.contains("warren:plugin/tensors@0.1.0"), "{imports}");
    assert!(shown["exports"].to_string().contains("infer"), "{shown}");
    let said = succeeds(&folder, &["plugin", "validate", "."]);
    assert!(said.contains("add-one@0.1.0 would be served"), "{said}");

    let events = succeeds(&folder, &["run", ".", "--request", "request.json", "--json"]);
    let events: Vec<serde_json::Value> = events.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let last = events.last().unwrap();
    assert_eq!((last["type"].as_str(), last["final"].as_bool()), (Some("result"), Some(true)), "{last}");
    assert_eq!(last["body"]["outputs"][0]["data"], serde_json::json!([2.0, 3.0, 4.0]), "{last}");
    assert_eq!(events[0]["type"], "status", "{events:?}");
    for (place, event) in events.iter().enumerate() {
        assert_eq!(event["sequence"], place, "{events:?}");
    }
    let said = succeeds(&folder, &["run", ".", "--request", "request.json"]);
    assert!(said.contains("[2.0, 3.0, 4.0]"), "{said}");

    // Bad input ends with the code, and a failing exit status.
    fails(&folder, &["run", ".", "--input", "x=hello"], &["INVALID_INPUT", "FP32"]);
    fails(&folder, &["run", ".", "--input", "y=hello"], &["INVALID_INPUT", "missing"]);
    fails(&folder, &["run", ".", "--input", "x=@nowhere"], &["nowhere"]);

    // As a server: requests as lines, events as lines; a bad line harms no other.
    let mut server = Command::new(env!("CARGO_BIN_EXE_warren"))
        .current_dir(dir.path())
        .env("WARREN_CACHE", target().join("warren-cache"))
        .args(["serve", "."])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = server.stdin.take().unwrap();
    for n in 0..20 {
        writeln!(
            input,
            r#"{{"model": "add-one", "id": "job-{n}", "inputs": [{{"name": "x", "datatype": "FP32", "shape": [1], "data": [{n}]}}]}}"#
        )
        .unwrap();
        if n == 10 {
            writeln!(input, "not json").unwrap();
            writeln!(input, r#"{{"model": "nobody", "inputs": []}}"#).unwrap();
        }
    }
    drop(input);
    let output = server.wait_with_output().unwrap();
    let (out, err) = text(&output);
    assert!(output.status.success(), "{out}\n{err}");
    let mut results: Vec<(String, f64)> = out
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap())
        .filter(|e| e["type"] == "result")
        .map(|e| {
            (e["job"].as_str().unwrap().to_owned(), e["body"]["outputs"][0]["data"][0].as_f64().unwrap())
        })
        .collect();
    results.sort_by(|a, b| a.1.total_cmp(&b.1));
    let expected: Vec<(String, f64)> = (0..20).map(|n| (format!("job-{n}"), f64::from(n) + 1.0)).collect();
    assert_eq!(results, expected, "{err}");
    assert!(err.contains("not a request"), "{err}");
    assert!(out.lines().any(|l| l.contains("NO_MODEL") && l.contains("nobody")), "{out}");
}

#[test]
fn settings_are_checked_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("bad.toml"), "slotz = 3\n").unwrap();
    fails(dir.path(), &["serve", "--config", "bad.toml"], &["slotz"]);
    fails(dir.path(), &["serve", "--config", "missing.toml"], &["missing.toml", "not found"]);
    fails(dir.path(), &["serve", "nowhere"], &["nowhere", "plugin directory"]);
    fails(dir.path(), &["serve", "--slots", "many"], &["many"]);
    fails(dir.path(), &["plugin", "inspect", "nowhere"], &["nowhere", "plugin.toml"]);
}

#[test]
fn codes_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let all = succeeds(dir.path(), &["explain"]);
    for code in warren::job::Code::ALL {
        assert!(all.contains(code.info().name), "{code}");
    }
    assert!(succeeds(dir.path(), &["explain", "memory_limit"]).contains("memory_mib"));
    fails(dir.path(), &["explain", "NOPE"], &["NOPE"]);
}
