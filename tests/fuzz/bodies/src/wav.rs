//! Audio files, as the plugin `transcribe` reads them.

use transcribe::wav::{MAX_SECONDS, RATES, Wav};

use crate::{check_text, memory};

/// A WAV file.
pub fn wav(bytes: &[u8]) {
    memory::within((64 << 10) + 8 * bytes.len(), || match Wav::open(bytes) {
        Err(error) => check_text(&error.to_string()),
        Ok(wav) => {
            let frames = wav.frames();
            assert!(RATES.contains(&wav.rate()));
            assert!(frames >= 1 && frames <= bytes.len());
            assert!(wav.seconds() > 0.0 && wav.seconds() <= MAX_SECONDS);
            check_text(&wav.description());
            let mut found = 0;
            let end = wav.for_each_block(100, |block| {
                assert!((1..=100).contains(&block.len()));
                assert!(block.iter().all(|s| s.is_finite()));
                found += block.len();
            });
            match end {
                Ok(()) => assert_eq!(found, frames),
                Err(error) => {
                    assert!(found < frames);
                    check_text(&error.to_string());
                }
            }
        }
    });
}
