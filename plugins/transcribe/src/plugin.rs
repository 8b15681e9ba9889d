//! The plugin's face: one job in, its stages reported, notes out.

use serde::Serialize;
use warren_onnx::Model;
use warren_sdk::bindings::warren::plugin::types::Parameter;
use warren_sdk::prelude::*;
use warren_sdk::tensor;

use crate::midi;
use crate::notes::{self, Activations, Note};
use crate::resample::{self, ResampleError};
use crate::settings::Settings;
use crate::wav::Wav;
use crate::windows::{self, CONTOURS, PITCHES, Unwrapped, WINDOW, WINDOW_FRAMES};

/// Where the host puts the model; `fetch-model.sh` brings it there.
const MODEL: &str = "/plugin/nmp.onnx";
/// The name under which `prepare` keeps it.
const ASSET: &str = "basic-pitch";
/// The model's names for its input, and for its outputs `note`, `onset` and `contour`.
const INPUT: &str = "serving_default_input_2:0";
const OUTPUTS: [&str; 3] =
    ["StatefulPartitionedCall:1", "StatefulPartitionedCall:2", "StatefulPartitionedCall:0"];
/// Windows a dispatch: enough to keep a few cores busy, few enough for progress to move.
const BATCH: usize = 4;

/// The plugin.
pub struct Transcribe;

impl Plugin for Transcribe {
    fn prepare() -> Result<(), Failure> {
        let bytes = std::fs::read(MODEL).map_err(|e| {
            Failure::failed(format!(
                "cannot read {MODEL}: {e}; run `fetch-model.sh` in the plugin's folder, or put nmp.onnx there by hand"
            ))
        })?;
        let model = Model::parse(bytes).map_err(|e| Failure::failed(format!("{MODEL}: {e}")))?;
        model.store(ASSET)
    }

    fn infer(job: &Job) -> Result<Outputs, Failure> {
        let settings = Settings::from_parameters(job.parameters())?;
        let (audio, seconds) = read_audio(job)?;
        let answer = guess(job, &audio)?;
        report(job, "creating", f32::NAN, "notes and MIDI file")?;
        let notes = notes::find(&answer.activations(), &settings);
        let midi = midi::file(&notes, settings.midi_tempo)
            .map_err(|e| Failure::failed(format!("the MIDI file could not be written: {e}")))?;
        let list: Vec<Listed> = notes.iter().map(Listed::from).collect();
        let list = serde_json::to_vec(&list)
            .map_err(|e| Failure::failed(format!("the list of notes could not be written: {e}")))?;
        let mut outputs = Outputs::new()
            .bytes("midi", midi, "audio/midi")
            .bytes("notes", list, "application/json")
            .parameter("notes", Parameter::Int64(notes.len() as i64))
            .parameter("seconds", Parameter::Float64(seconds));
        if settings.raw {
            let frames = answer.note.frames() as u32;
            for (name, values, bins) in [
                ("note", &answer.note.values, PITCHES),
                ("onset", &answer.onset.values, PITCHES),
                ("contour", &answer.contour.values, CONTOURS),
            ] {
                outputs = outputs.tensor(name, Tensor::new(&[frames, bins as u32], values)?);
            }
        }
        Ok(outputs)
    }
}

/// One entry of the output `notes`; times are in seconds.
#[derive(Serialize)]
struct Listed {
    start: f64,
    end: f64,
    pitch: u8,
    name: String,
    amplitude: f32,
    velocity: u8,
}

impl From<&Note> for Listed {
    fn from(note: &Note) -> Self {
        Self {
            start: note.start,
            end: note.end,
            pitch: note.pitch,
            name: note.name(),
            amplitude: note.amplitude,
            velocity: note.velocity(),
        }
    }
}

/// Reports, and gives up where nobody wants the result any more.
fn report(job: &Job, stage: &str, progress: f32, message: &str) -> Result<(), Failure> {
    if job.report(stage, progress, message) {
        return Ok(());
    }
    Err(Failure::retry("cancelled: nobody waits for this job any more"))
}

/// The input in mono at the model's rate, and how long it lasts.
fn read_audio(job: &Job) -> Result<(Vec<f32>, f64), Failure> {
    let invalid = |e: &dyn std::fmt::Display| Failure::invalid(format!("input \"audio\": {e}"));
    report(job, "creating", 0.0, "reading the WAV file")?;
    let file: Vec<u8> = job.input("audio")?;
    let wav = Wav::open(&file).map_err(|e| invalid(&e))?;
    let seconds = wav.seconds();
    report(job, "creating", 0.1, &format!("{}; to {} Hz mono", wav.description(), windows::RATE))?;
    let audio = resample::mono(wav).map_err(|e| match e {
        ResampleError::Wav(e) => invalid(&e),
        ResampleError::Resampler { .. } => Failure::failed(e),
    })?;
    report(job, "creating", 1.0, &format!("{} windows of audio", windows::count(audio.len())))?;
    Ok((audio, seconds))
}

/// What the model says about the whole piece.
struct Answer {
    note: Unwrapped,
    onset: Unwrapped,
    contour: Unwrapped,
}

impl Answer {
    fn activations(&self) -> Activations<'_> {
        Activations { note: &self.note.values, onset: &self.onset.values, contour: &self.contour.values }
    }
}

/// Runs the model over all windows of `audio`.
fn guess(job: &Job, audio: &[f32]) -> Result<Answer, Failure> {
    let model = Model::restore(ASSET)?;
    let count = windows::count(audio.len());
    let mut answer = Answer {
        note: Unwrapped::new(audio.len(), PITCHES),
        onset: Unwrapped::new(audio.len(), PITCHES),
        contour: Unwrapped::new(audio.len(), CONTOURS),
    };
    let mut input = Vec::with_capacity(BATCH.min(count) * WINDOW);
    report(job, "guessing", 0.0, &format!("window 0 of {count}"))?;
    for first in (0..count).step_by(BATCH) {
        let end = (first + BATCH).min(count);
        input.clear();
        (first..end).for_each(|index| windows::append(audio, index, &mut input));
        let tensor = Tensor::new(&[(end - first) as u32, WINDOW as u32, 1], &input)?;
        let outputs = model.run(&[(INPUT, &tensor)], &OUTPUTS).map_err(|e| match e.into() {
            // The shapes are ours: whatever does not fit is no client's fault.
            Failure::Invalid(text) => Failure::Failed(text),
            other => other,
        })?;
        let parts = [&mut answer.note, &mut answer.onset, &mut answer.contour];
        for ((part, bins), output) in parts.into_iter().zip([PITCHES, PITCHES, CONTOURS]).zip(&outputs) {
            let values = output.to_vec::<f32>().map_err(failed)?;
            if values.len() != (end - first) * WINDOW_FRAMES * bins {
                let shape = output.shape();
                return Err(Failure::failed(format!(
                    "{MODEL} answered {shape:?} for {} windows: not the model of this plugin; fetch it again",
                    end - first
                )));
            }
            if let Some(value) = values.iter().find(|v| !v.is_finite()) {
                return Err(not_finite(*value, &input));
            }
            part.push(&values);
        }
        report(job, "guessing", end as f32 / count as f32, &format!("window {end} of {count}"))?;
    }
    Ok(answer)
}

/// A dispatch that was cut short is not the plugin's failure.
fn failed(error: tensor::TensorError) -> Failure {
    match error.kind {
        tensor::ErrorKind::Cancelled | tensor::ErrorKind::Device => Failure::retry(error),
        _ => Failure::failed(error),
    }
}

/// Samples far beyond full scale overflow inside the model; else the device is at fault.
fn not_finite(value: f32, input: &[f32]) -> Failure {
    let peak = input.iter().fold(0f32, |peak, v| peak.max(v.abs()));
    if peak > 1e6 {
        return Failure::invalid(format!(
            "input \"audio\": float samples reach {peak:e}, where full scale is 1; normalise the file"
        ));
    }
    Failure::retry(format!("the model answered {value} for sound input (peak {peak})"))
}
