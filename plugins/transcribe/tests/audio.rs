//! WAV files of every kind, good and bad, through decoder and resampler. The files are made here.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Cursor;

use hound::{SampleFormat, WavSpec, WavWriter};
use transcribe::resample::{ResampleError, mono, output_length};
use transcribe::wav::{Wav, WavError};

const TAU: f64 = std::f64::consts::TAU;

fn spec(channels: u16, rate: u32, bits: u16, format: SampleFormat) -> WavSpec {
    WavSpec { channels, sample_rate: rate, bits_per_sample: bits, sample_format: format }
}

/// A file of `frames` samples; `value(frame, channel)` is in ±1.
fn wav(spec: WavSpec, frames: usize, value: impl Fn(usize, u16) -> f64) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    let mut writer = WavWriter::new(&mut file, spec).unwrap();
    for frame in 0..frames {
        for channel in 0..spec.channels {
            let value = value(frame, channel);
            match spec.sample_format {
                SampleFormat::Float => writer.write_sample(value as f32).unwrap(),
                SampleFormat::Int => {
                    let full = 2f64.powi(i32::from(spec.bits_per_sample) - 1);
                    writer.write_sample((value * full).round().clamp(-full, full - 1.0) as i32).unwrap();
                }
            }
        }
    }
    writer.finalize().unwrap();
    file.into_inner()
}

fn decode(file: &[u8]) -> Result<Vec<f32>, WavError> {
    let mut all = Vec::new();
    Wav::open(file)?.for_each_block(100, |block| all.extend_from_slice(block))?;
    Ok(all)
}

/// A plain PCM file with these samples, 16-bit mono at 22,050 Hz.
fn plain(samples: usize) -> Vec<u8> {
    wav(spec(1, 22_050, 16, SampleFormat::Int), samples, |i, _| (i as f64 / 50.0).sin() * 0.5)
}

fn refusal(file: &[u8]) -> String {
    match Wav::open(file) {
        Err(error) => error.to_string(),
        Ok(wav) => match mono(wav) {
            Err(ResampleError::Wav(error)) => error.to_string(),
            other => panic!("accepted, {:?} samples", other.map(|audio| audio.len())),
        },
    }
}

#[test]
fn every_kind_of_sample_is_read() {
    let signal = |frame: usize, channel: u16| (frame as f64 / 40.0 + f64::from(channel)).sin() * 0.7;
    for (bits, format, tolerance) in [
        (8, SampleFormat::Int, 1.0 / 128.0),
        (16, SampleFormat::Int, 1.0 / 32_768.0),
        (24, SampleFormat::Int, 1e-6),
        (32, SampleFormat::Int, 1e-6),
        (32, SampleFormat::Float, 1e-6),
    ] {
        for channels in [1, 2, 6] {
            for rate in [8_000, 22_050, 96_000] {
                let file = wav(spec(channels, rate, bits, format), 777, signal);
                let audio = decode(&file).unwrap();
                assert_eq!(audio.len(), 777);
                for (frame, &value) in audio.iter().enumerate() {
                    let sum: f64 = (0..channels).map(|channel| signal(frame, channel)).sum();
                    let mean = sum / f64::from(channels);
                    assert!(
                        (f64::from(value) - mean).abs() <= tolerance,
                        "{bits}-bit {format:?}, {channels} channels, frame {frame}: {value}, not {mean}"
                    );
                }
            }
        }
    }
}

#[test]
fn chunks_between_header_and_samples_are_skipped() {
    let file = plain(100);
    let data = file.windows(4).position(|w| w == b"data").unwrap();
    // A chunk of odd length brings a byte of padding, which is not part of its length.
    let list = b"LIST\x05\0\0\0INFOx\0";
    let with_list = [&file[..data], list, &file[data..], b"id3 \x02\0\0\0zz"].concat();
    assert_eq!(decode(&with_list), decode(&file));
}

#[test]
fn a_file_from_a_pipe_has_no_length_and_is_read_to_its_end() {
    let mut file = plain(100);
    let data = file.windows(4).position(|w| w == b"data").unwrap();
    let expected = decode(&file).unwrap();
    file[data + 4..data + 8].fill(0xFF);
    file.push(7);
    assert_eq!(decode(&file).unwrap(), expected);
}

#[test]
fn what_is_no_wav_file_is_named() {
    for (begin, words) in [
        (&b""[..], "the file is empty"),
        (b"ID3\x04\0\0\0\0\0\0\0\0\0\0", "looks like an MP3"),
        (b"\xFF\xFB\x90\x64\0\0\0\0\0\0\0\0\0\0", "looks like an MP3"),
        (b"fLaC\0\0\0\x22\0\0\0\0\0\0", "looks like a FLAC"),
        (b"OggS\0\x02\0\0\0\0\0\0\0\0", "looks like an Ogg"),
        (b"\0\0\0\x20ftypM4A \0\0\0\0", "looks like an MP4"),
        (b"FORM\0\0\0\0AIFFCOMM", "looks like an AIFF"),
        (b"RF64\xFF\xFF\xFF\xFFWAVEds64", "RF64"),
        (b"RIFF\x10\0\0\0AVI LIST", "holds no WAVE"),
        (b"<!DOCTYPE html><html>", "a text (HTML"),
        (b"\x01\x02\x03\x04\x05\x06\x07\x08", "begins with the bytes 01 02 03 04"),
        (b"R", "begins with the bytes 52"),
        (b"RIFF\x10", "ends after 5 bytes"),
        (b"RIFF\x04\0\0\0WAVE", "no data chunk"),
        (b"RIFF\x04\0\0\0WAVEdata\0\0\0\0", "no fmt chunk"),
        (b"RIFF\x04\0\0\0WAVEfmt \x08\0\0\0\x01\0\x01\0\x22\x56\0\0", "8 bytes, not 16"),
        (b"RIFF\x04\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0", "ends inside its \"fmt \" chunk (4 of 16"),
    ] {
        let text = refusal(begin);
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
}

#[test]
fn every_cut_of_a_file_is_refused_and_none_panics() {
    let file = plain(50);
    for length in 0..file.len() {
        let text = refusal(&file[..length]);
        assert!(text.contains("send"), "at {length}: {text}");
    }
    let text = refusal(&file[..file.len() - 40]);
    assert!(text.contains("promises 100 bytes of samples") && text.contains("60 are there"), "{text}");
}

#[test]
fn every_flipped_header_byte_is_read_or_refused_but_never_panics() {
    let file = wav(spec(2, 44_100, 24, SampleFormat::Int), 20, |i, _| i as f64 / 100.0);
    for at in 0..file.len().min(80) {
        for value in [0, 1, 3, 0x7F, 0x80, 0xFE, 0xFF] {
            let mut file = file.clone();
            file[at] = value;
            if let Ok(audio) = decode(&file) {
                assert!(!audio.is_empty() && audio.iter().all(|v| v.is_finite()));
            }
        }
    }
}

/// The same file with another number in its fmt chunk.
fn with_format(mut file: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    let format = file.windows(4).position(|w| w == b"fmt ").unwrap() + 8 + offset;
    file[format..format + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn headers_that_make_no_sense_are_refused() {
    for (file, words) in [
        (plain(0), "holds no samples"),
        (with_format(plain(10), 4, &0u32.to_le_bytes()), "sample rate of 0 Hz"),
        (with_format(plain(10), 4, &u32::MAX.to_le_bytes()), "from 1000 to 768000 Hz"),
        (with_format(plain(10), 2, &0u16.to_le_bytes()), "zero channels"),
        (with_format(plain(10), 12, &0u16.to_le_bytes()), "a size of 0 bytes"),
        (with_format(plain(10), 12, &16u16.to_le_bytes()), "no multiple of the 16 bytes"),
        (with_format(plain(10), 0, &6u16.to_le_bytes()), "holds A-law samples"),
        (with_format(plain(10), 0, &0x55u16.to_le_bytes()), "MPEG audio in a WAV"),
        (with_format(plain(10), 0, &3u16.to_le_bytes()), "holds 16-bit float samples"),
        (with_format(plain(10), 14, &12u16.to_le_bytes()), "12-bit integer"),
    ] {
        let text = refusal(&file);
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
}

#[test]
fn an_extensible_header_with_64_bit_floats_is_refused_by_name() {
    let file = wav(spec(3, 22_050, 24, SampleFormat::Int), 8, |_, _| 0.0);
    let float = with_format(file, 24, &3u16.to_le_bytes());
    let double = with_format(with_format(float, 14, &64u16.to_le_bytes()), 12, &24u16.to_le_bytes());
    let double = with_format(double, 8, &(24 * 22_050u32).to_le_bytes());
    let text = refusal(&double);
    assert!(text.contains("64-bit float samples"), "{text}");
}

#[test]
fn samples_that_are_no_numbers_are_refused_with_their_place() {
    for (value, name) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
        let file = wav(spec(2, 1000, 32, SampleFormat::Float), 2000, |frame, channel| {
            if (frame, channel) == (1500, 1) { value } else { 0.1 }
        });
        let text = refusal(&file);
        assert!(text.contains(&format!("sample 1500 (at 1.500 s) of channel 2 is {name}")), "{text}");
    }
}

#[test]
fn audio_longer_than_half_an_hour_is_refused_before_it_is_decoded() {
    let file = wav(spec(1, 1000, 8, SampleFormat::Int), 1_801_000, |_, _| 0.0);
    let text = refusal(&file);
    assert!(text.contains("lasts 30 min 1 s; at most 30 min"), "{text}");
}

#[test]
fn a_resampled_sine_stays_the_same_sine_at_the_same_time() {
    for rate in
        [8_000, 11_025, 16_000, 22_049, 22_051, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000, 44_099]
    {
        for frequency in [55.0, 440.0, 2_500.0] {
            let frames = rate as usize + 17;
            let file = wav(spec(1, rate, 32, SampleFormat::Float), frames, |i, _| {
                (TAU * frequency * i as f64 / f64::from(rate)).sin()
            });
            let audio = mono(Wav::open(&file).unwrap()).unwrap();
            assert_eq!(audio.len(), output_length(frames, rate));
            assert_eq!(audio.len(), (frames as f64 * 22_050.0 / f64::from(rate)).ceil() as usize);
            // Not at the ends, where the sine begins and stops abruptly.
            let worst = (4000..18_000)
                .map(|i| (f64::from(audio[i]) - (TAU * frequency * i as f64 / 22_050.0).sin()).abs())
                .fold(0.0, f64::max);
            assert!(worst < 2e-4, "{rate} Hz, sine of {frequency} Hz: off by {worst}");
        }
    }
}

#[test]
fn what_is_above_the_new_nyquist_frequency_is_removed() {
    let file = wav(spec(1, 44_100, 32, SampleFormat::Float), 44_100, |i, _| {
        (TAU * 15_000.0 * i as f64 / 44_100.0).sin()
    });
    let audio = mono(Wav::open(&file).unwrap()).unwrap();
    let loudest = audio[4000..18_000].iter().fold(0f32, |loudest, v| loudest.max(v.abs()));
    assert!(loudest < 1e-4, "{loudest}");
}

#[test]
fn onsets_do_not_move() {
    // A click at 0.25 s is the loudest sample there, at any rate.
    for rate in [16_000, 44_100, 48_000, 96_000] {
        let click = rate as usize / 4;
        let file =
            wav(
                spec(1, rate, 16, SampleFormat::Int),
                rate as usize,
                |i, _| {
                    if i == click { 0.9 } else { 0.0 }
                },
            );
        let audio = mono(Wav::open(&file).unwrap()).unwrap();
        let peak = (0..audio.len()).max_by(|&a, &b| audio[a].abs().total_cmp(&audio[b].abs())).unwrap();
        let expected = click as f64 * 22_050.0 / f64::from(rate);
        assert!((peak as f64 - expected).abs() <= 1.0, "{rate} Hz: {peak}, not {expected}");
    }
}

#[test]
fn a_single_sample_survives() {
    for rate in [1_000, 22_050, 44_100, 768_000] {
        let file = wav(spec(1, rate, 16, SampleFormat::Int), 1, |_, _| 0.5);
        let audio = mono(Wav::open(&file).unwrap()).unwrap();
        assert_eq!(audio.len(), output_length(1, rate));
    }
}

#[test]
fn a_description_says_what_the_file_is() {
    let file = wav(spec(2, 44_100, 24, SampleFormat::Int), 66_150, |_, _| 0.0);
    assert_eq!(Wav::open(&file).unwrap().description(), "1.5 s at 44100 Hz, stereo, 24-bit");
}
