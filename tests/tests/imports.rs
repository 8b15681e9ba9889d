//! Which way the house points, read from its sources: who may name whom, and which libraries are
//! named in one place only. The tables below are the design; a change here is a change of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What each top-level module of the daemon may name besides itself. Every module is listed; the
/// order is one in which they could be written without looking ahead.
const MODULES: [(&str, &[&str]); 24] = [
    ("job", &[]),
    ("config", &[]),
    ("digest", &[]),
    ("folder", &["digest"]),
    ("duplicates", &[]),
    ("losses", &[]),
    ("broker", &[]),
    ("sandbox", &["config", "digest", "folder", "job"]),
    ("cancel", &["job", "sandbox"]),
    ("plugin", &["config", "digest", "folder", "job", "sandbox"]),
    ("wire", &["broker", "job", "losses"]),
    ("oci", &["config", "digest", "folder", "plugin"]),
    ("topology", &["broker", "config", "job", "wire"]),
    ("connect", &["broker", "config"]),
    ("artifacts", &["config", "digest", "job", "plugin"]),
    ("schedule", &["job", "plugin"]),
    ("relay", &["broker", "job", "wire"]),
    ("intake", &["artifacts", "job", "plugin", "relay"]),
    ("settle", &["broker", "job", "relay", "wire"]),
    (
        "host",
        &[
            "artifacts",
            "broker",
            "cancel",
            "config",
            "duplicates",
            "intake",
            "job",
            "losses",
            "oci",
            "plugin",
            "relay",
            "sandbox",
            "schedule",
            "settle",
            "topology",
            "wire",
        ],
    ),
    ("health", &["broker", "metrics", "plugin"]),
    ("metrics", &["plugin"]),
    // The command: a crate of its own on top of the library.
    ("cli", &[]),
    ("main", &["cli"]),
];

/// A name, where in the workspace it must not stand, and where it may after all.
const NAMES: [(&str, &[&str], &[&str]); 12] = [
    ("lapin", &["host", "sdk"], &["host/daemon/src/broker/"]),
    ("wasmtime", &["host", "sdk"], &["host/daemon/src/sandbox/"]),
    ("wasmtime_wasi", &["host", "sdk"], &["host/daemon/src/sandbox/"]),
    (
        "serde_json",
        &["host"],
        &["host/daemon/src/wire.rs", "host/daemon/src/wire/", "host/daemon/src/oci/", "host/daemon/src/cli/"],
    ),
    ("hyper", &["host", "sdk"], &["host/daemon/src/oci/"]),
    ("wgpu", &["host", "sdk"], &["host/tensor/src/wgpu/"]),
    ("broker", &["host/daemon/src/sandbox", "host/tensor"], &[]),
    ("wire", &["host/daemon/src/sandbox"], &[]),
    ("relay", &["host/daemon/src/sandbox"], &[]),
    ("warren", &["host/tensor", "sdk"], &["sdk/rust/src/"]),
    ("warren_client", &["host/daemon/src/sandbox", "host/tensor"], &[]),
    ("warren_tensor", &["sdk"], &[]),
];

/// The folders whose sources are read.
const SOURCES: [&str; 5] =
    ["host/daemon/src", "host/tensor/src", "sdk/client/src", "sdk/onnx/src", "sdk/rust/src"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every source by its path in the workspace.
fn sources() -> BTreeMap<String, String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    SOURCES.iter().for_each(|folder| walk(&root().join(folder), &mut found));
    found
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("source");
            let name = path.strip_prefix(root()).expect("inside").to_string_lossy().into_owned();
            (name, text)
        })
        .collect()
}

/// Identifiers and single punctuation characters; `::` is one token. Comments, texts and characters
/// are left out.
fn tokens(source: &str) -> Vec<String> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && chars[i] != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            loop {
                match (at(i), at(i + 1)) {
                    ('/', '*') => (depth, i) = (depth + 1, i + 2),
                    ('*', '/') => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
                if depth == 0 || i >= chars.len() {
                    break;
                }
            }
        } else if c == '"' {
            i += 1;
            while i < chars.len() && chars[i] != '"' {
                i += if chars[i] == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if c == '\'' {
            // A character, or a lifetime.
            if at(i + 1) == '\\' {
                i += 3;
                while i < chars.len() && chars[i] != '\'' {
                    i += 1;
                }
                i += 1;
            } else if at(i + 2) == '\'' {
                i += 3;
            } else {
                i += 1;
            }
        } else if word(c) {
            let start = i;
            while word(at(i)) {
                i += 1;
            }
            let name: String = chars[start..i].iter().collect();
            let raw = ["r", "br", "cr"].contains(&name.as_str());
            let hashes = (0..).take_while(|n| at(i + n) == '#').count();
            if raw && at(i + hashes) == '"' {
                let close: String = format!("\"{}", "#".repeat(hashes));
                let rest: String = chars[i + hashes + 1..].iter().collect();
                let length = rest.find(&close).map_or(rest.len(), |n| n + close.len());
                i += hashes + 1 + rest[..length].chars().count();
            } else {
                out.push(name);
            }
        } else if c == ':' && at(i + 1) == ':' {
            out.push("::".to_owned());
            i += 2;
        } else {
            if !c.is_whitespace() {
                out.push(c.to_string());
            }
            i += 1;
        }
    }
    out
}

/// The module path of a file of the daemon.
fn module_path(file: &str) -> Vec<&str> {
    let inner = file.strip_prefix("host/daemon/src/").expect("a file of the daemon");
    let inner = inner.strip_suffix(".rs").expect("a source");
    let mut path: Vec<&str> = inner.split('/').collect();
    if path.last() == Some(&"mod") {
        path.pop();
    }
    path
}

/// Names at the crate's root that a file refers to, by `crate::`, or by as many `super::` as it takes.
fn root_names(file: &str, tokens: &[String]) -> BTreeSet<String> {
    let depth = module_path(file).len();
    let token = |i: usize| tokens.get(i).map_or("", String::as_str);
    let mut names = BTreeSet::new();
    // Depths of braces at which inline modules were opened.
    let (mut braces, mut inline) = (0usize, Vec::new());
    let mut i = 0;
    while i < tokens.len() {
        match token(i) {
            "{" => {
                if i >= 2 && token(i - 2) == "mod" {
                    inline.push(braces);
                }
                braces += 1;
            }
            "}" => {
                braces = braces.saturating_sub(1);
                if inline.last() == Some(&braces) {
                    inline.pop();
                }
            }
            _ => {}
        }
        let mut after = None;
        if token(i) == "crate" && token(i + 1) == "::" {
            after = Some(i + 2);
        } else if token(i) == "super" && token(i + 1) == "::" && (i == 0 || token(i - 1) != "::") {
            let supers =
                (0..).take_while(|n| token(i + 2 * n) == "super" && token(i + 2 * n + 1) == "::").count();
            if supers == depth + inline.len() {
                after = Some(i + 2 * supers);
            }
        }
        match after {
            Some(start) if token(start) == "{" => {
                // The first name of every entry of the group.
                let (mut level, mut first, mut j) = (1, true, start + 1);
                while level > 0 && j < tokens.len() {
                    match token(j) {
                        "{" => level += 1,
                        "}" => level -= 1,
                        "," if level == 1 => first = true,
                        name => {
                            if first && level == 1 {
                                names.insert(name.to_owned());
                            }
                            first = false;
                        }
                    }
                    j += 1;
                }
                i = j;
            }
            Some(start) => {
                names.insert(token(start).to_owned());
                i = start;
            }
            None => i += 1,
        }
    }
    names
}

/// Who names whom among the daemon's top-level modules.
fn graph(sources: &BTreeMap<String, String>) -> BTreeMap<String, BTreeSet<String>> {
    let daemon = sources.iter().filter(|(file, _)| file.starts_with("host/daemon/src/"));
    let daemon: Vec<_> = daemon.filter(|(file, _)| !file.ends_with("src/lib.rs")).collect();
    let modules: BTreeSet<&str> = daemon.iter().map(|(file, _)| module_path(file)[0]).collect();
    let mut graph = BTreeMap::new();
    for (file, text) in daemon {
        let from = module_path(file)[0];
        let mut names = root_names(file, &tokens(text));
        if file.ends_with("src/main.rs") {
            names.insert("cli".to_owned());
        }
        names.retain(|n| n != from && modules.contains(n.as_str()));
        graph.entry(from.to_owned()).or_insert_with(BTreeSet::new).extend(names);
    }
    graph
}

/// A cycle, if there is one: each names the next, the last the first.
fn cycle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit(
        at: &str,
        graph: &BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(start) = path.iter().position(|m| m == at) {
            return Some(path[start..].to_vec());
        }
        if done.contains(at) {
            return None;
        }
        path.push(at.to_owned());
        let found = graph.get(at).into_iter().flatten().find_map(|next| visit(next, graph, path, done));
        path.pop();
        done.insert(at.to_owned());
        found
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|start| visit(start, graph, &mut Vec::new(), &mut done))
}

/// Everything that is against the tables.
fn violations(sources: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Vec::new();
    let graph = graph(sources);
    for (from, names) in &graph {
        let Some((_, allowed)) = MODULES.iter().find(|(m, _)| m == from) else {
            found.push(format!("module {from} is not in the table: say there what it may name"));
            continue;
        };
        for to in names.iter().filter(|n| !allowed.contains(&n.as_str())) {
            found.push(format!("module {from} names {to}: it may name {allowed:?}"));
        }
    }
    if let Some(modules) = cycle(&graph) {
        found.push(format!("modules name each other in a circle: {}", modules.join(" -> ")));
    }
    for (file, text) in sources {
        let tokens = tokens(text);
        for (name, scopes, exceptions) in NAMES {
            let inside = scopes.iter().any(|s| file.starts_with(&format!("{s}/")));
            if !inside || exceptions.iter().any(|e| file.starts_with(e)) {
                continue;
            }
            let named = tokens.iter().enumerate().any(|(i, token)| {
                // A module of one's own may be called as a library is.
                let own = i >= 1 && tokens[i - 1] == "mod"
                    || i >= 2
                        && tokens[i - 1] == "::"
                        && ["crate", "self", "super"].contains(&tokens[i - 2].as_str());
                let own = own && ["wgpu"].contains(&name);
                token == name && !own
            });
            if named {
                found.push(format!("{file} names {name}: that is for {exceptions:?}"));
            }
        }
    }
    found
}

#[test]
fn the_house_points_one_way() {
    let sources = sources();
    let graph = graph(&sources);
    for (module, names) in &graph {
        println!("{module:>10} -> {}", names.iter().cloned().collect::<Vec<_>>().join(" "));
    }
    for (module, _) in MODULES {
        assert!(graph.contains_key(module), "module {module} of the table is gone: take it out");
    }
    let found = violations(&sources);
    assert!(found.is_empty(), "{}\nwho names whom: {graph:#?}", found.join("\n"));
}

#[test]
fn manifests_do_not_depend_against_the_direction() {
    for (manifest, never) in [
        (
            "host/tensor/Cargo.toml",
            &["warren", "warren-client", "wasmtime", "wasmtime-wasi", "lapin", "tokio"][..],
        ),
        ("sdk/client/Cargo.toml", &["warren", "warren-tensor", "wasmtime", "lapin"]),
        ("sdk/rust/Cargo.toml", &["warren", "warren-client", "warren-tensor", "tokio"]),
        ("sdk/onnx/Cargo.toml", &["warren", "warren-client", "warren-tensor", "tokio"]),
    ] {
        let text = std::fs::read_to_string(root().join(manifest)).expect("manifest");
        let dependencies = text.split_once("[dependencies]").expect("has dependencies").1;
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        let keys: Vec<&str> = dependencies
            .lines()
            .filter_map(|l| l.split(['.', ' ', '=']).next())
            .filter(|k| !k.is_empty())
            .collect();
        for name in never {
            assert!(!keys.contains(name), "{manifest} depends on {name}: {keys:?}");
        }
    }
}

#[test]
fn a_planted_violation_is_found() {
    for (file, planted, expected) in [
        ("host/daemon/src/job.rs", "use crate::wire;", "module job names wire"),
        ("host/daemon/src/config.rs", "use super::job::Code;", "module config names job"),
        (
            "host/daemon/src/config.rs",
            "mod inner { use super::super::plugin::Plugins; }",
            "module config names plugin",
        ),
        ("host/daemon/src/sandbox/jobs.rs", "fn f() { crate::relay::g(); }", "module sandbox names relay"),
        ("host/daemon/src/sandbox/mod.rs", "use crate::{job, broker::{Tag}};", "module sandbox names broker"),
        ("host/daemon/src/sandbox/state.rs", "use super::super::wire as w;", "module sandbox names wire"),
        ("host/daemon/src/relay.rs", "use crate::settle::Settler;", "relay -> settle"),
        ("host/daemon/src/settle.rs", "use lapin::Channel;", "settle.rs names lapin"),
        ("host/daemon/src/intake.rs", "fn f(_: wasmtime::Engine) {}", "intake.rs names wasmtime"),
        ("host/daemon/src/settle.rs", "use serde_json as j;", "settle.rs names serde_json"),
        ("host/tensor/src/engine.rs", "use wgpu::Device;", "engine.rs names wgpu"),
        ("host/tensor/src/engine.rs", "use wasmtime::Engine;", "engine.rs names wasmtime"),
        ("host/tensor/src/session.rs", "use warren::broker;", "session.rs names warren"),
        ("sdk/client/src/fold.rs", "use warren::job::Code;", "fold.rs names warren"),
        ("host/daemon/src/surprise.rs", "use crate::job::Code;", "module surprise is not in the table"),
    ] {
        let mut sources = sources();
        let text = sources.entry(file.to_owned()).or_default();
        text.push_str(&format!("\n{planted}\n"));
        let found = violations(&sources);
        assert!(found.iter().any(|v| v.contains(expected)), "{planted:?} in {file}: {found:?}");
    }
    // In comments and texts anything may be said, and a module may be called as a library is.
    let mut sources = sources();
    for text in sources.values_mut() {
        text.push_str(
            "\n// use crate::host; wgpu lapin\n/* wasmtime /* serde_json */ crate::host */\nconst A: &str = \"crate::host lapin\";\nconst B: &str = r#\"wasmtime \" lapin\"#;\nconst C: char = '\"';\n",
        );
    }
    sources.entry("host/tensor/src/lib.rs".to_owned()).or_default().push_str("mod wgpu; use crate::wgpu::X;");
    assert_eq!(violations(&sources), [] as [String; 0]);
}
