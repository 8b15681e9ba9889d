//! Any sample rate to the model's, by the FFT resampler of `rubato`: its filter passes what the
//! model hears and removes what would alias, and its delay is taken out, so that onsets stay.

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler, WindowFunction};

use crate::wav::{Wav, WavError};
use crate::windows::RATE;

/// Length of the anti-aliasing filter, in samples of the lower rate. At 2,048 the pass band ends
/// within 1 % of the Nyquist frequency.
const FILTER: u32 = 2048;

/// Why audio could not be brought to the model's rate.
#[derive(Debug, thiserror::Error)]
pub enum ResampleError {
    /// The file is at fault.
    #[error(transparent)]
    Wav(#[from] WavError),
    /// The resampler refused; no file should bring that about.
    #[error("resampling from {from} Hz failed: {text}")]
    Resampler {
        /// The file's rate.
        from: u32,
        /// What the resampler said.
        text: String,
    },
}

/// How many samples at [`RATE`] stand for `frames` samples at `rate`: rounded up.
pub fn output_length(frames: usize, rate: u32) -> usize {
    let samples = (frames as u64 * u64::from(RATE)).div_ceil(u64::from(rate));
    // At most MAX_SECONDS of audio, which fits any address space.
    samples as usize
}

/// The whole file in mono at [`RATE`], [`output_length`] samples.
pub fn mono(wav: Wav<'_>) -> Result<Vec<f32>, ResampleError> {
    let (rate, length) = (wav.rate(), output_length(wav.frames(), wav.rate()));
    let mut out = Vec::with_capacity(length);
    if rate == RATE {
        wav.for_each_block(4096, |block| out.extend_from_slice(block))?;
        return Ok(out);
    }
    let failed = |text: String| ResampleError::Resampler { from: rate, text };
    let mut stream = Stream::new(rate, length).map_err(failed)?;
    let mut trouble = None;
    wav.for_each_block(stream.block_in, |block| {
        if trouble.is_none() {
            trouble = stream.push(block, &mut out).err();
        }
    })?;
    // What is still inside the filter comes out behind silence.
    while trouble.is_none() && out.len() < length {
        trouble = stream.push(&[], &mut out).err();
    }
    trouble.map_or(Ok(out), |text| Err(failed(text)))
}

/// A resampler that is fed block by block.
struct Stream {
    resampler: Fft<f32>,
    block_in: usize,
    input: Vec<f32>,
    output: Vec<f32>,
    /// Samples of the filter's delay that are still to be dropped.
    skip: usize,
    /// Samples wanted in all.
    length: usize,
}

impl Stream {
    fn new(rate: u32, length: usize) -> Result<Self, String> {
        let gcd = gcd(rate, RATE);
        let smallest = (rate / gcd).min(RATE / gcd);
        // An even number of the smallest blocks puts the filter's centre on a whole sample.
        let blocks = FILTER.div_ceil(smallest).next_multiple_of(2);
        let block_in = (blocks * (rate / gcd)) as usize;
        let resampler = Fft::new_custom(
            rate as usize,
            RATE as usize,
            block_in,
            1,
            1,
            WindowFunction::BlackmanHarris2,
            FixedSync::Both,
        )
        .map_err(|e| e.to_string())?;
        Ok(Self {
            block_in,
            input: vec![0.0; block_in],
            output: vec![0.0; resampler.output_frames_max()],
            skip: resampler.output_delay(),
            resampler,
            length,
        })
    }

    /// Resamples one block, padded with zeros to its full length, and appends what is wanted of it.
    fn push(&mut self, block: &[f32], out: &mut Vec<f32>) -> Result<(), String> {
        self.input[..block.len()].copy_from_slice(block);
        self.input[block.len()..].fill(0.0);
        let input = InterleavedSlice::new(&self.input, 1, self.block_in).map_err(|e| e.to_string())?;
        let room = self.output.len();
        let mut output = InterleavedSlice::new_mut(&mut self.output, 1, room).map_err(|e| e.to_string())?;
        let (_, made) =
            self.resampler.process_into_buffer(&input, &mut output, None).map_err(|e| e.to_string())?;
        let from = self.skip.min(made);
        self.skip -= from;
        let wanted = (made - from).min(self.length - out.len());
        out.extend_from_slice(&self.output[from..from + wanted]);
        Ok(())
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
