//! How audio is cut for the model, and how its answers become one piece again: two-second windows
//! that overlap by 30 frames, of which 15 are dropped at either end.

/// The rate that the model was trained at, in Hz.
pub const RATE: u32 = 22_050;
/// Samples a window.
pub const WINDOW: usize = 43_844;
/// Samples between two frames of the model's answer.
pub const FRAME: usize = 256;
/// Frames that the model answers for a window.
pub const WINDOW_FRAMES: usize = 172;
/// Keys of a piano: the bins of the outputs `note` and `onset`.
pub const PITCHES: usize = 88;
/// Thirds of semitones: the bins of the output `contour`.
pub const CONTOURS: usize = 3 * PITCHES;

/// Frames that neighbouring windows share.
const OVERLAP: usize = 30;
/// Samples from one window's begin to the next.
const HOP: usize = WINDOW - OVERLAP * FRAME;
/// Zeros before the first sample, which make up for the frames dropped at the first window's begin.
const LEAD: usize = OVERLAP * FRAME / 2;
/// Frames a second as the model's authors count them: an integer. Only the total length uses it.
const FRAMES_PER_SECOND: u32 = RATE / FRAME as u32;

/// How many windows `samples` samples need.
pub fn count(samples: usize) -> usize {
    (LEAD + samples).div_ceil(HOP)
}

/// How many frames `samples` samples give in the end.
pub fn frames(samples: usize) -> usize {
    let frames = samples as f64 * (f64::from(FRAMES_PER_SECOND) / f64::from(RATE));
    (frames.floor() as usize).min(count(samples) * (WINDOW_FRAMES - OVERLAP))
}

/// Appends window `index` of `audio` to `out`: [`WINDOW`] samples, zeros where there is no audio.
pub fn append(audio: &[f32], index: usize, out: &mut Vec<f32>) {
    let zeros = LEAD.saturating_sub(index * HOP);
    let begin = (index * HOP).saturating_sub(LEAD).min(audio.len());
    let end = (begin + WINDOW - zeros).min(audio.len());
    out.resize(out.len() + zeros, 0.0);
    out.extend_from_slice(&audio[begin..end]);
    out.resize(out.len() + WINDOW - zeros - (end - begin), 0.0);
}

/// The model's answers for a whole piece, put together window by window. Rows are frames.
#[derive(Debug, Default)]
pub struct Unwrapped {
    /// `frames` rows of `bins` values, row-major.
    pub values: Vec<f32>,
    bins: usize,
    frames: usize,
}

impl Unwrapped {
    /// Room for the answer to `samples` samples, `bins` values a frame.
    pub fn new(samples: usize, bins: usize) -> Self {
        let frames = frames(samples);
        Self { values: Vec::with_capacity(frames * bins), bins, frames }
    }

    /// Adds the answers to the next windows: any number of [`WINDOW_FRAMES`] rows.
    pub fn push(&mut self, windows: &[f32]) {
        let wanted = self.frames * self.bins;
        for window in windows.chunks_exact(WINDOW_FRAMES * self.bins) {
            let kept = &window[OVERLAP / 2 * self.bins..(WINDOW_FRAMES - OVERLAP / 2) * self.bins];
            let room = wanted - self.values.len();
            self.values.extend_from_slice(&kept[..kept.len().min(room)]);
        }
    }

    /// Rows that a complete answer has.
    pub fn frames(&self) -> usize {
        self.frames
    }
}

/// When `frame` begins, in seconds. The model's frames drift against the audio by a little every
/// window; the constants are those of the reference implementation, which measured them.
pub fn frame_seconds(frame: usize) -> f64 {
    let (hop, rate) = (FRAME as f64, f64::from(RATE));
    let drift = (hop / rate) * (WINDOW_FRAMES as f64 - WINDOW as f64 / hop) + 0.0018;
    (frame * FRAME) as f64 / rate - drift * (frame / WINDOW_FRAMES) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_the_audio_with_zeros_around_it() {
        let audio: Vec<f32> = (1..=100_000).map(|i| i as f32).collect();
        assert_eq!(count(audio.len()), 3);
        let mut all = Vec::new();
        for index in 0..3 {
            append(&audio, index, &mut all);
            assert_eq!(all.len(), (index + 1) * WINDOW);
        }
        assert!(all[..3840].iter().all(|&v| v == 0.0));
        assert_eq!(all[3840], 1.0);
        assert_eq!(all[WINDOW], (36_164 - 3840 + 1) as f32);
        assert_eq!(all[2 * WINDOW], (2 * 36_164 - 3840 + 1) as f32);
        let last = 100_000 - (2 * 36_164 - 3840);
        assert_eq!(all[2 * WINDOW + last - 1], 100_000.0);
        assert!(all[2 * WINDOW + last..].iter().all(|&v| v == 0.0));
    }

    #[test]
    fn audio_shorter_than_anything_makes_one_window() {
        let mut window = Vec::new();
        append(&[0.5], 0, &mut window);
        assert_eq!((count(1), frames(1), window.len(), window[3840]), (1, 0, WINDOW, 0.5));
    }

    #[test]
    fn a_window_that_begins_after_the_audio_is_silent() {
        // 33,000 samples and the lead need two windows; the second begins past the last sample.
        let audio = vec![1.0; 33_000];
        let mut second = Vec::new();
        append(&audio, 1, &mut second);
        assert_eq!(second.len(), WINDOW);
        assert_eq!(second.iter().filter(|&&v| v != 0.0).count(), 33_000 - (36_164 - 3840));
    }

    #[test]
    fn unwrapping_drops_the_overlap_and_the_tail() {
        let samples = 100_000;
        let mut out = Unwrapped::new(samples, 2);
        let answer: Vec<f32> = (0..3 * WINDOW_FRAMES * 2).map(|i| (i / 2) as f32).collect();
        out.push(&answer[..WINDOW_FRAMES * 2]);
        out.push(&answer[WINDOW_FRAMES * 2..]);
        assert_eq!(out.frames(), 390);
        assert_eq!(out.values.len(), 390 * 2);
        assert_eq!(out.values[0], 15.0);
        assert_eq!(out.values[142 * 2], (172 + 15) as f32);
        assert_eq!(out.values[141 * 2 + 1], 156.0);
    }

    #[test]
    fn frame_times_are_those_of_the_reference() {
        // Printed by basic_pitch.note_creation.model_frames_to_time(400).
        for (frame, seconds) in [
            (0, 0.0),
            (1, 0.011609977324263039),
            (171, 1.9853061224489796),
            (172, 1.986590022675737),
            (399, 4.611728798185941),
        ] {
            assert!((frame_seconds(frame) - seconds).abs() < 1e-12, "{frame}: {}", frame_seconds(frame));
        }
    }
}
