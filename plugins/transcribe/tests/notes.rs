//! Notes against those of the reference implementation, on activations that `data/make_notes.py`
//! made. The variable `TRANSCRIBE_FIXTURES` names another folder of such fixtures.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;

use serde::Deserialize;
use transcribe::notes::{Activations, find};
use transcribe::settings::Settings;
use warren_sdk::bindings::warren::plugin::types::Parameter;

const PITCHES: usize = 88;
const CONTOURS: usize = 264;

#[derive(Deserialize)]
struct Case {
    activations: String,
    settings: serde_json::Map<String, serde_json::Value>,
    notes: Vec<Expected>,
}

#[derive(Deserialize)]
struct Expected {
    start: f64,
    end: f64,
    pitch: u8,
    amplitude: f32,
    bends: Vec<i32>,
}

fn folder() -> PathBuf {
    std::env::var_os("TRANSCRIBE_FIXTURES")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data"))
}

fn settings(values: &serde_json::Map<String, serde_json::Value>) -> Settings {
    let parameters = values.iter().filter(|(_, v)| !v.is_null()).map(|(name, value)| {
        let value = match value.as_bool() {
            Some(flag) => Parameter::Boolean(flag),
            None => Parameter::Float64(value.as_f64().unwrap()),
        };
        (name.clone(), value)
    });
    Settings::from_parameters(parameters.collect()).unwrap()
}

/// Note, onset and contour of a file of `data/make_notes.py`.
fn activations(name: &str) -> [Vec<f32>; 3] {
    let bytes = std::fs::read(folder().join(format!("{name}.bin"))).unwrap();
    let mut parts = [Vec::new(), Vec::new(), Vec::new()];
    for row in bytes.chunks_exact(2 * PITCHES + CONTOURS) {
        let (note, rest) = row.split_at(PITCHES);
        let (onset, contour) = rest.split_at(PITCHES);
        for (part, values) in parts.iter_mut().zip([note, onset, contour]) {
            part.extend(values.iter().map(|&v| f32::from(v) / 255.0));
        }
    }
    parts
}

#[test]
fn the_same_notes_as_the_reference() {
    let cases = std::fs::read(folder().join("notes.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&cases).unwrap();
    assert!(!cases.is_empty());
    let mut compared = 0;
    for (index, case) in cases.iter().enumerate() {
        let [note, onset, contour] = activations(&case.activations);
        let found =
            find(&Activations { note: &note, onset: &onset, contour: &contour }, &settings(&case.settings));
        let at = format!("case {index} ({})", case.activations);
        assert_eq!(found.len(), case.notes.len(), "{at}: number of notes");
        for (found, expected) in found.iter().zip(&case.notes) {
            let what = format!("{at}, the note of pitch {} at {}", expected.pitch, expected.start);
            assert_eq!(found.pitch, expected.pitch, "{what}");
            assert!((found.start - expected.start).abs() < 1e-9, "{what}: {}", found.start);
            assert!((found.end - expected.end).abs() < 1e-9, "{what}: {} {}", found.end, expected.end);
            assert!((found.amplitude - expected.amplitude).abs() < 1e-6, "{what}: {}", found.amplitude);
            assert_eq!(found.bends, expected.bends, "{what}");
            compared += 1;
        }
    }
    assert!(compared > 100, "only {compared} notes were compared");
}

#[test]
fn no_frames_no_notes() {
    let none = Activations { note: &[], onset: &[], contour: &[] };
    assert_eq!(find(&none, &Settings::default()), []);
    let one = Activations { note: &[0.9; PITCHES], onset: &[0.9; PITCHES], contour: &[0.9; CONTOURS] };
    assert_eq!(find(&one, &Settings::default()), []);
}

#[test]
fn names_and_velocities() {
    let note = |pitch, amplitude| transcribe::notes::Note {
        first: 0,
        last: 1,
        start: 0.0,
        end: 1.0,
        pitch,
        amplitude,
        bends: vec![],
    };
    assert_eq!(note(60, 0.5).name(), "C4");
    assert_eq!(note(21, 0.5).name(), "A0");
    assert_eq!(note(106, 0.5).name(), "A#7");
    assert_eq!([0.0, 0.5, 1.0].map(|a| note(60, a).velocity()), [1, 64, 127]);
}
