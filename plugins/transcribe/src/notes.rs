//! From the model's activations to notes, by Basic Pitch's published method: every onset peak,
//! latest first, is followed along its pitch until the energy stays low; what energy is left then
//! gives further notes, strongest first (the "melodia trick"); pitch bends follow the contour.

use crate::settings::Settings;
use crate::windows::{CONTOURS, PITCHES, frame_seconds};

/// MIDI number of the lowest pitch.
const LOWEST: u8 = 21;
/// A note ends when its energy stays below the threshold for this many frames.
const PATIENCE: usize = 11;
/// How far around a note's pitch a bend is looked for, in thirds of a semitone.
const BEND_REACH: usize = 25;
/// Standard deviation of the weight that keeps bends near the note's pitch, in the same unit.
const BEND_SPREAD: f64 = 5.0;

/// What the model says about a piece; rows are frames, and all three have the same number of them.
#[derive(Debug, Clone, Copy)]
pub struct Activations<'a> {
    /// How likely each of the 88 pitches sounds.
    pub note: &'a [f32],
    /// How likely each of the 88 pitches begins.
    pub onset: &'a [f32],
    /// How likely each third of a semitone sounds.
    pub contour: &'a [f32],
}

/// A note that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// First frame.
    pub first: usize,
    /// The frame after the last.
    pub last: usize,
    /// When it begins, in seconds.
    pub start: f64,
    /// When it ends, in seconds.
    pub end: f64,
    /// MIDI number: 69 is A4, 440 Hz.
    pub pitch: u8,
    /// Mean activation, 0 to 1.
    pub amplitude: f32,
    /// One bend a frame, in thirds of a semitone.
    pub bends: Vec<i32>,
}

impl Note {
    /// The MIDI velocity, 1 to 127: a velocity of 0 would be a note's end.
    pub fn velocity(&self) -> u8 {
        (127.0 * self.amplitude).round_ties_even().clamp(1.0, 127.0) as u8
    }

    /// Name and octave, middle C (60) being C4.
    pub fn name(&self) -> String {
        const NAMES: [&str; 12] = ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"];
        format!("{}{}", NAMES[usize::from(self.pitch) % 12], i32::from(self.pitch) / 12 - 1)
    }
}

/// The notes in `activations`, ordered by start, end and pitch.
pub fn find(activations: &Activations<'_>, settings: &Settings) -> Vec<Note> {
    let (mut note, mut onset) = (activations.note.to_vec(), activations.onset.to_vec());
    let kept = kept_pitches(settings);
    for row in note.chunks_exact_mut(PITCHES).chain(onset.chunks_exact_mut(PITCHES)) {
        row[..kept.start].fill(0.0);
        row[kept.end..].fill(0.0);
    }
    let mut search = Search {
        frames: note.len() / PITCHES,
        energy: note.clone(),
        note,
        contour: activations.contour,
        threshold: settings.frame_threshold,
        minimum: settings.minimum_note_frames as isize,
        found: Vec::new(),
    };
    for (frame, pitch) in onset_peaks(&onset, &search.note, settings.onset_threshold).into_iter().rev() {
        search.follow_onset(frame, pitch);
    }
    if settings.melodia_trick {
        search.follow_energy();
    }
    search.found.sort_by_key(|note| (note.first, note.last, note.pitch));
    search.found
}

/// The pitches, as indices, that the frequency limits leave.
fn kept_pitches(settings: &Settings) -> std::ops::Range<usize> {
    let index = |hertz: f64| {
        let midi = 12.0 * (hertz.log2() - 440f64.log2()) + 69.0;
        (midi - f64::from(LOWEST)).round_ties_even().clamp(0.0, PITCHES as f64) as usize
    };
    let end = settings.maximum_frequency.map_or(PITCHES, index);
    settings.minimum_frequency.map_or(0, index).min(end)..end
}

/// Where onsets peak over time at or above `threshold`, in order. An onset is what the model calls
/// one, or a rise of the note's energy over two frames, scaled to the same maximum.
fn onset_peaks(onset: &[f32], note: &[f32], threshold: f64) -> Vec<(usize, usize)> {
    let frames = note.len() / PITCHES;
    let rise = |frame: usize, pitch: usize| {
        if frame < 2 {
            return 0.0;
        }
        let at = |frame: usize| f64::from(note[frame * PITCHES + pitch]);
        let now = at(frame);
        (now - at(frame - 1)).min(now - at(frame - 2)).max(0.0)
    };
    let mut steepest = 0f64;
    for frame in 2..frames {
        for pitch in 0..PITCHES {
            steepest = steepest.max(rise(frame, pitch));
        }
    }
    if steepest == 0.0 {
        // Nothing ever rises, so there is no scale. The reference finds no onset then either.
        return Vec::new();
    }
    let loudest = onset.iter().fold(f64::MIN, |loudest, &v| loudest.max(f64::from(v)));
    let strength = |frame: usize, pitch: usize| {
        f64::from(onset[frame * PITCHES + pitch]).max(loudest * rise(frame, pitch) / steepest)
    };
    let mut peaks = Vec::new();
    for frame in 1..frames.saturating_sub(1) {
        for pitch in 0..PITCHES {
            let here = strength(frame, pitch);
            if here >= threshold && here > strength(frame - 1, pitch) && here > strength(frame + 1, pitch) {
                peaks.push((frame, pitch));
            }
        }
    }
    peaks
}

/// The state of the search: what is found, and the energy that no note has claimed yet.
struct Search<'a> {
    frames: usize,
    note: Vec<f32>,
    energy: Vec<f32>,
    contour: &'a [f32],
    threshold: f64,
    minimum: isize,
    found: Vec<Note>,
}

impl Search<'_> {
    fn is_low(&self, frame: usize, pitch: usize) -> bool {
        f64::from(self.energy[frame * PITCHES + pitch]) < self.threshold
    }

    /// Takes the energy of a frame at `pitch` and its two neighbours.
    fn claim(&mut self, frame: usize, pitch: usize) {
        let row = &mut self.energy[frame * PITCHES..(frame + 1) * PITCHES];
        row[pitch.saturating_sub(1)..(pitch + 2).min(PITCHES)].fill(0.0);
    }

    fn add(&mut self, first: usize, last: usize, pitch: usize) {
        let sum: f64 = (first..last).map(|frame| f64::from(self.note[frame * PITCHES + pitch])).sum();
        self.found.push(Note {
            first,
            last,
            start: frame_seconds(first),
            end: frame_seconds(last),
            pitch: LOWEST + pitch as u8,
            amplitude: (sum / (last - first) as f64) as f32,
            bends: bends(self.contour, first..last, pitch),
        });
    }

    /// Follows a note from its onset until the energy stays low.
    fn follow_onset(&mut self, start: usize, pitch: usize) {
        let (mut frame, mut low) = (start + 1, 0);
        while frame + 1 < self.frames && low < PATIENCE {
            low = if self.is_low(frame, pitch) { low + 1 } else { 0 };
            frame += 1;
        }
        let end = frame - low;
        if end as isize - start as isize <= self.minimum {
            return;
        }
        (start..end).for_each(|frame| self.claim(frame, pitch));
        self.add(start, end, pitch);
    }

    /// Makes notes of the energy that is left, strongest frame first. Energy is only ever taken
    /// away, so one sorted list of the strong frames serves in place of a search for each maximum.
    fn follow_energy(&mut self) {
        let mut strong: Vec<(f32, u32)> = Vec::new();
        for (index, &energy) in self.energy.iter().enumerate() {
            if f64::from(energy) > self.threshold {
                strong.push((energy, index as u32));
            }
        }
        strong.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (_, index) in strong {
            if self.energy[index as usize] != 0.0 {
                self.follow_middle(index as usize / PITCHES, index as usize % PITCHES);
            }
        }
    }

    /// Follows a note from its strongest frame in both directions.
    fn follow_middle(&mut self, middle: usize, pitch: usize) {
        self.energy[middle * PITCHES + pitch] = 0.0;
        let (mut frame, mut low) = (middle + 1, 0);
        while frame + 1 < self.frames && low < PATIENCE {
            low = if self.is_low(frame, pitch) { low + 1 } else { 0 };
            self.claim(frame, pitch);
            frame += 1;
        }
        let end = frame as isize - 1 - low as isize;

        // Frame 0 is never followed into: so does the reference.
        let (mut frame, mut low) = (middle as isize - 1, 0);
        while frame > 0 && low < PATIENCE {
            low = if self.is_low(frame as usize, pitch) { low + 1 } else { 0 };
            self.claim(frame as usize, pitch);
            frame -= 1;
        }
        let start = frame + 1 + low as isize;

        if end - start > self.minimum {
            self.add(start as usize, end as usize, pitch);
        }
    }
}

/// How far the contour's strongest bin lies from the note's pitch in every frame, in thirds of a
/// semitone; bins near the pitch count more.
fn bends(contour: &[f32], frames: std::ops::Range<usize>, pitch: usize) -> Vec<i32> {
    let centre = 3 * pitch;
    let bins = centre.saturating_sub(BEND_REACH)..(centre + BEND_REACH + 1).min(CONTOURS);
    let weights: Vec<f64> = bins
        .clone()
        .map(|bin| {
            let distance = bin as f64 - centre as f64;
            (-distance * distance / (2.0 * BEND_SPREAD * BEND_SPREAD)).exp()
        })
        .collect();
    frames
        .map(|frame| {
            let row = &contour[frame * CONTOURS + bins.start..frame * CONTOURS + bins.end];
            let mut best = (0, f64::NEG_INFINITY);
            for (index, (&value, weight)) in row.iter().zip(&weights).enumerate() {
                let salience = f64::from(value) * weight;
                if salience > best.1 {
                    best = (index, salience);
                }
            }
            (bins.start + best.0) as i32 - centre as i32
        })
        .collect()
}
