//! The fuzz targets without a fuzzer: every input of their corpora, among them each that once broke
//! a promise, and thousands made of those at random but always the same.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use warren_fuzz_bodies::TARGETS;

/// How many inputs are made for each target.
const MADE: usize = 12_000;
/// No input is worth longer than this, on a machine that does other things too.
const LONGEST: Duration = Duration::from_secs(20);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The corpus of a target, in the order of the names.
fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = folder().join("corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| {
            let path = entry.expect("entry").path();
            let name = path.file_name().expect("named").to_string_lossy().into_owned();
            (name, std::fs::read(&path).expect("input"))
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

/// A few changes: bytes set, put in, cut out, repeated, or taken from another input.
fn mutated(rng: &mut fastrand::Rng, all: &[(String, Vec<u8>)]) -> (String, Vec<u8>) {
    const EDGES: [&[u8]; 9] =
        [b"\0", b"\xff", b"\x7f", b"\xff\xff\xff\xff", b"\0\0\0\x80", b"[", b"\"", b"-1", b"1e99"];
    let (name, bytes) = rng.choice(all).expect("inputs");
    let mut bytes = bytes.clone();
    for _ in 0..rng.usize(1..6) {
        let at = rng.usize(0..=bytes.len());
        let end = (at + rng.usize(0..16)).min(bytes.len());
        match rng.u8(0..7) {
            0 if at < bytes.len() => bytes[at] = rng.u8(..),
            1 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(0..8),
            2 => drop(bytes.splice(at..at, EDGES[rng.usize(0..EDGES.len())].iter().copied())),
            3 => drop(bytes.splice(at..end, EDGES[rng.usize(0..EDGES.len())].iter().copied())),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let piece = bytes[at..end].repeat(rng.usize(1..40));
                drop(bytes.splice(at..at, piece));
            }
            _ => {
                let (_, other) = rng.choice(all).expect("inputs");
                let from = rng.usize(0..=other.len());
                let to = (from + rng.usize(0..64)).min(other.len());
                drop(bytes.splice(at..end, other[from..to].iter().copied()));
            }
        }
    }
    (format!("made of {name}"), bytes)
}

fn check(target: fn(&[u8]), name: &str, bytes: &[u8]) {
    let start = Instant::now();
    let text = || bytes.escape_ascii();
    assert!(
        catch_unwind(AssertUnwindSafe(|| target(bytes))).is_ok(),
        "an input ({name}) broke a promise; put it into the corpus: {}",
        text()
    );
    let took = start.elapsed();
    assert!(took < LONGEST, "an input ({name}) took {took:?}: {}", text());
}

fn replay(name: &str) {
    let (_, target) = TARGETS.iter().find(|(n, _)| *n == name).expect("target");
    let all = corpus(name);
    for (file, bytes) in &all {
        check(*target, file, bytes);
    }
    let mut rng = fastrand::Rng::with_seed(8);
    for _ in 0..MADE {
        let (from, bytes) = mutated(&mut rng, &all);
        check(*target, &from, &bytes);
    }
    check(*target, "nothing", &[]);
}

#[test]
fn every_target_has_a_corpus_and_a_fuzzer() {
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(self::folder().join(folder)).expect(folder);
        let name = |e: std::fs::DirEntry| e.path().file_stem().expect("named").to_string_lossy().into_owned();
        entries.map(|e| name(e.expect("entry"))).collect()
    };
    let expected: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("corpus"), expected);
    assert_eq!(names("fuzz_targets"), expected);
}

#[test]
fn events() {
    replay("event");
}

#[test]
fn manifests() {
    replay("manifest");
}

#[test]
fn messages() {
    replay("message");
}

#[test]
fn oip_bodies() {
    replay("oip");
}

#[test]
fn onnx_files() {
    replay("onnx");
}

#[test]
fn onnx_nodes() {
    replay("onnx_nodes");
}

#[test]
fn amqp_properties() {
    replay("properties");
}

#[test]
fn tensor_calls() {
    replay("tensor");
}

#[test]
fn wav_files() {
    replay("wav");
}
