//! The parameters of a job: their names, ranges and defaults, which are those of the reference.

use warren_sdk::bindings::warren::plugin::types::Parameter;
use warren_sdk::{Failure, FromParameter};

use crate::windows::{FRAME, RATE};

/// The names that are known, for the error about one that is not.
const KNOWN: [&str; 8] = [
    "onset_threshold",
    "frame_threshold",
    "minimum_note_length",
    "minimum_frequency",
    "maximum_frequency",
    "melodia_trick",
    "midi_tempo",
    "raw",
];
/// A request-level parameter of the Open Inference Protocol's binary extension: the host's affair.
const HOST: &str = "binary_data_output";

/// What a job may set.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How sure the model must be of an onset, above 0 to 1.
    pub onset_threshold: f64,
    /// How strong a frame must be for its note to sound on, above 0 to 1.
    pub frame_threshold: f64,
    /// Notes of this many frames or fewer are dropped.
    pub minimum_note_frames: usize,
    /// Nothing below this is found, in Hz.
    pub minimum_frequency: Option<f64>,
    /// Nothing from about this on is found, in Hz.
    pub maximum_frequency: Option<f64>,
    /// Look for notes without onsets in the energy that is left.
    pub melodia_trick: bool,
    /// Beats a minute of the MIDI file; times stay the same.
    pub midi_tempo: f64,
    /// Return the model's own outputs as well.
    pub raw: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            onset_threshold: 0.5,
            frame_threshold: 0.3,
            minimum_note_frames: frames(127.70),
            minimum_frequency: None,
            maximum_frequency: None,
            melodia_trick: true,
            midi_tempo: 120.0,
            raw: false,
        }
    }
}

/// Milliseconds as the nearest number of frames.
fn frames(milliseconds: f64) -> usize {
    (milliseconds / 1000.0 * (f64::from(RATE) / FRAME as f64)).round_ties_even() as usize
}

impl Settings {
    /// Reads the parameters of a request. One that is unknown, of the wrong type or out of range
    /// is the client's fault.
    pub fn from_parameters(parameters: Vec<(String, Parameter)>) -> Result<Self, Failure> {
        let mut settings = Self::default();
        for (name, value) in parameters {
            let name = name.as_str();
            match name {
                "onset_threshold" => settings.onset_threshold = number(name, value, f64::MIN_POSITIVE, 1.0)?,
                "frame_threshold" => settings.frame_threshold = number(name, value, f64::MIN_POSITIVE, 1.0)?,
                "minimum_note_length" => {
                    settings.minimum_note_frames = frames(number(name, value, 0.0, 60_000.0)?);
                }
                "minimum_frequency" => settings.minimum_frequency = Some(number(name, value, 1.0, 20_000.0)?),
                "maximum_frequency" => settings.maximum_frequency = Some(number(name, value, 1.0, 20_000.0)?),
                "melodia_trick" => settings.melodia_trick = read(name, value)?,
                "midi_tempo" => settings.midi_tempo = number(name, value, 4.0, 1000.0)?,
                "raw" => settings.raw = read(name, value)?,
                HOST => {}
                other => {
                    return Err(Failure::invalid(format!(
                        "parameter {other:?} is unknown; known are {}",
                        KNOWN.join(", ")
                    )));
                }
            }
        }
        if let (Some(low), Some(high)) = (settings.minimum_frequency, settings.maximum_frequency)
            && low >= high
        {
            return Err(Failure::invalid(format!(
                "parameter \"minimum_frequency\" ({low} Hz) must be below \"maximum_frequency\" ({high} Hz)"
            )));
        }
        Ok(settings)
    }
}

fn read<T: FromParameter>(name: &str, value: Parameter) -> Result<T, Failure> {
    T::from_parameter(value).map_err(|e| Failure::invalid(format!("parameter {name:?}: {e}")))
}

fn number(name: &str, value: Parameter, low: f64, high: f64) -> Result<f64, Failure> {
    let number: f64 = read(name, value)?;
    if (low..=high).contains(&number) {
        return Ok(number);
    }
    // The smallest positive number is how an open range is written above.
    let low = if low == f64::MIN_POSITIVE { "above 0".to_owned() } else { format!("from {low}") };
    Err(Failure::invalid(format!("parameter {name:?} is {number}; it must be {low} to {high}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(parameters: &[(&str, Parameter)]) -> Result<Settings, String> {
        let parameters = parameters.iter().map(|(n, p)| ((*n).to_owned(), p.clone())).collect();
        Settings::from_parameters(parameters).map_err(|e| match e {
            Failure::Invalid(text) => text,
            other => panic!("not the client's fault: {other:?}"),
        })
    }

    #[test]
    fn defaults_are_the_references() {
        let settings = settings(&[("binary_data_output", Parameter::Boolean(true))]).unwrap();
        assert_eq!(settings, Settings::default());
        assert_eq!(settings.minimum_note_frames, 11);
    }

    #[test]
    fn all_can_be_set_and_integers_are_numbers() {
        let settings = settings(&[
            ("onset_threshold", Parameter::Float64(0.25)),
            ("frame_threshold", Parameter::Int64(1)),
            ("minimum_note_length", Parameter::Int64(50)),
            ("minimum_frequency", Parameter::Int64(100)),
            ("maximum_frequency", Parameter::Float64(2000.5)),
            ("melodia_trick", Parameter::Boolean(false)),
            ("midi_tempo", Parameter::Int64(90)),
            ("raw", Parameter::Boolean(true)),
        ]);
        let expected = Settings {
            onset_threshold: 0.25,
            frame_threshold: 1.0,
            minimum_note_frames: 4,
            minimum_frequency: Some(100.0),
            maximum_frequency: Some(2000.5),
            melodia_trick: false,
            midi_tempo: 90.0,
            raw: true,
        };
        assert_eq!(settings, Ok(expected));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (name, value, words) in [
            ("onset_treshold", Parameter::Float64(0.5), "known are onset_threshold, frame_threshold"),
            ("onset_threshold", Parameter::Float64(0.0), "must be above 0 to 1"),
            ("frame_threshold", Parameter::Float64(f64::NAN), "is NaN; it must be above 0 to 1"),
            ("midi_tempo", Parameter::Int64(0), "must be from 4 to 1000"),
            ("minimum_note_length", Parameter::Int64(-1), "must be from 0 to 60000"),
            ("melodia_trick", Parameter::Int64(1), "expected a boolean, found an integer"),
            ("raw", Parameter::Text("yes".into()), "expected a boolean, found a string"),
        ] {
            let error = settings(&[(name, value)]).unwrap_err();
            assert!(error.contains(name) && error.contains(words), "{error}");
        }
        let error = settings(&[
            ("minimum_frequency", Parameter::Int64(500)),
            ("maximum_frequency", Parameter::Int64(400)),
        ]);
        assert!(error.unwrap_err().contains("500 Hz"));
    }
}
