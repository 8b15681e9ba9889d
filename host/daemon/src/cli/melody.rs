//! The demo's own music: the opening of the "Ode to Joy" with chords under its second half, made
//! of decaying harmonics, so that what was played is known and can be put beside what is found.

use std::fmt::Write;

/// Samples per second of the WAV file.
const RATE: u32 = 44_100;
/// Seconds a beat.
const BEAT: f64 = 0.5;
/// Silence before the first note and after the last, in seconds.
const REST: f64 = 0.25;
/// Two notes are the same if they have one pitch and begin within this many seconds.
const TOLERANCE: f64 = 0.05;

/// The upper voice: MIDI pitch and beats.
const TUNE: [(u8, f64); 15] = [
    (64, 1.0),
    (64, 1.0),
    (65, 1.0),
    (67, 1.0),
    (67, 1.0),
    (65, 1.0),
    (64, 1.0),
    (62, 1.0),
    (60, 1.0),
    (60, 1.0),
    (62, 1.0),
    (64, 1.0),
    (64, 1.5),
    (62, 0.5),
    (62, 2.0),
];
/// What sounds below it: first beat, beats, MIDI pitches.
const CHORDS: [(f64, f64, &[u8]); 6] = [
    (8.0, 1.0, &[52, 55]),
    (9.0, 1.0, &[52, 55]),
    (10.0, 1.0, &[53, 57]),
    (11.0, 1.0, &[55, 60]),
    (12.0, 1.5, &[55, 60]),
    (14.0, 2.0, &[55, 59]),
];

/// One note, played or found.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// When it begins, in seconds.
    pub start: f64,
    /// When it ends, in seconds.
    pub end: f64,
    /// MIDI number: 60 is middle C.
    pub pitch: u8,
}

/// The melody as a WAV file (44.1 kHz, 16-bit, mono, 8.5 s), and the notes in it, in order.
pub fn synthesize() -> (Vec<u8>, Vec<Note>) {
    let notes = score();
    let end = notes.iter().fold(0.0, |end: f64, note| end.max(note.end));
    let mut audio = vec![0f32; ((end + REST) * f64::from(RATE)) as usize];
    for note in &notes {
        play(note, &mut audio);
    }
    let peak = audio.iter().fold(f32::MIN_POSITIVE, |peak, v| peak.max(v.abs()));
    let mut wav = header(audio.len());
    for sample in &audio {
        let sample = (sample / peak * 0.8 * f32::from(i16::MAX)) as i16;
        wav.extend(sample.to_le_bytes());
    }
    (wav, notes)
}

fn score() -> Vec<Note> {
    let note = |beat: f64, beats: f64, pitch: u8| {
        let start = REST + beat * BEAT;
        // A little gap, so that a repeated pitch is two notes.
        Note { start, end: start + beats * BEAT - 0.04, pitch }
    };
    let mut notes = Vec::new();
    let mut beat = 0.0;
    for (pitch, beats) in TUNE {
        notes.push(note(beat, beats, pitch));
        beat += beats;
    }
    for (beat, beats, pitches) in CHORDS {
        notes.extend(pitches.iter().map(|&pitch| note(beat, beats, pitch)));
    }
    sort(&mut notes);
    notes
}

/// Adds a note like a struck string's: harmonics that fade, the higher the faster.
fn play(note: &Note, audio: &mut [f32]) {
    let rate = f64::from(RATE);
    let frequency = 440.0 * 2f64.powf((f64::from(note.pitch) - 69.0) / 12.0);
    let first = (note.start * rate) as usize;
    let length = ((note.end - note.start) * rate) as usize;
    for (i, sample) in audio.iter_mut().skip(first).take(length).enumerate() {
        let time = i as f64 / rate;
        let attack = (time / 0.005).min(1.0);
        let release = ((length - i) as f64 / rate / 0.03).min(1.0);
        let mut value = 0.0;
        for harmonic in 1..=8 {
            let n = f64::from(harmonic);
            if n * frequency < rate / 2.0 {
                let fade = (-time * (0.8 + 0.5 * n)).exp();
                value += fade / n.powf(1.5) * (std::f64::consts::TAU * n * frequency * time).sin();
            }
        }
        *sample += (value * attack * release * 0.2) as f32;
    }
}

/// The 44 bytes before 16-bit mono samples.
fn header(samples: usize) -> Vec<u8> {
    let bytes = samples as u32 * 2;
    let mut header = b"RIFF".to_vec();
    header.extend((36 + bytes).to_le_bytes());
    header.extend(b"WAVEfmt ");
    header.extend(16u32.to_le_bytes());
    header.extend(1u16.to_le_bytes());
    header.extend(1u16.to_le_bytes());
    header.extend(RATE.to_le_bytes());
    header.extend((RATE * 2).to_le_bytes());
    header.extend(2u16.to_le_bytes());
    header.extend(16u16.to_le_bytes());
    header.extend(b"data");
    header.extend(bytes.to_le_bytes());
    header
}

/// A table of the notes found beside the notes played, and how many of them are the same: one
/// pitch, onsets within 50 ms, each note counted once.
pub fn compare(found: &[Note], played: &[Note]) -> String {
    let (mut found, mut played) = (found.to_vec(), played.to_vec());
    sort(&mut found);
    sort(&mut played);
    let pairs = pair(&found, &played);
    let matched = pairs.iter().flatten().count();

    let mut rows: Vec<(f64, String)> = Vec::new();
    for (note, partner) in played.iter().zip(&pairs) {
        let (right, mark) = match partner {
            Some(index) => (line(&found[*index]), ""),
            None => (String::new(), "missed"),
        };
        rows.push((note.start, format!("  {:<26}{right:<26}{mark}", line(note))));
    }
    for (index, note) in found.iter().enumerate() {
        if !pairs.contains(&Some(index)) {
            rows.push((note.start, format!("  {:<26}{:<26}not played", "", line(note))));
        }
    }
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));

    let mut table = format!("  {:<26}{}\n", "played", "found");
    for (_, row) in rows {
        let _ = writeln!(table, "{}", row.trim_end());
    }
    let _ = write!(
        table,
        "{matched} of {} notes played were found (same pitch, onset within {:.0} ms); {} found were not played.",
        played.len(),
        TOLERANCE * 1000.0,
        found.len() - matched
    );
    table
}

/// For every note played, the note found that it is: the nearest in time that is still free.
fn pair(found: &[Note], played: &[Note]) -> Vec<Option<usize>> {
    let mut candidates = Vec::new();
    for (p, a) in played.iter().enumerate() {
        for (f, b) in found.iter().enumerate() {
            let distance = (a.start - b.start).abs();
            if a.pitch == b.pitch && distance <= TOLERANCE {
                candidates.push((distance, p, f));
            }
        }
    }
    candidates.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut pairs = vec![None; played.len()];
    for (_, p, f) in candidates {
        if pairs[p].is_none() && !pairs.contains(&Some(f)) {
            pairs[p] = Some(f);
        }
    }
    pairs
}

fn sort(notes: &mut [Note]) {
    notes.sort_by(|a, b| a.start.total_cmp(&b.start).then(a.pitch.cmp(&b.pitch)));
}

fn line(note: &Note) -> String {
    const NAMES: [&str; 12] = ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"];
    let name = format!("{}{}", NAMES[usize::from(note.pitch) % 12], i32::from(note.pitch) / 12 - 1);
    format!("{name:<4} {:6.2} s to {:6.2} s", note.start, note.end)
}
