//! Audio to notes. A WAV file goes in; a MIDI file and a list of notes come out.
//!
//! The model is Basic Pitch (Bittner et al., "A Lightweight Instrument-Agnostic Model for
//! Polyphonic Note Transcription and Multipitch Estimation", ICASSP 2022; Spotify, Apache-2.0).
//! What surrounds the network, windows, note creation and pitch bends, follows the method of the
//! package `basic-pitch` 0.4.0 with its defaults, so that both find the same notes.
//!
//! One module a step: [`wav`] -> [`resample`] -> [`windows`] -> the model -> [`notes`] -> [`midi`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod midi;
pub mod notes;
pub mod plugin;
pub mod resample;
pub mod settings;
pub mod wav;
pub mod windows;

// The exports name symbols that only a component has; natively this crate is a plain library.
#[cfg(target_family = "wasm")]
mod component {
    use crate::plugin::Transcribe;
    warren_sdk::plugin!(Transcribe);
}
