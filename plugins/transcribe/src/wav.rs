//! WAV files to mono samples. Everything that can be wrong with a file is an error that says what
//! was found and what to send instead.

use std::io::{Chain, Cursor, Read};

use hound::{SampleFormat, WavReader, WavSpec};

/// The longest audio that one job may bring, in seconds.
pub const MAX_SECONDS: f64 = 30.0 * 60.0;
/// The sample rates that are taken, in Hz.
pub const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;
/// What every refusal of a foreign file asks for.
const SEND: &str = "send a WAV file with 8, 16, 24 or 32-bit integer or 32-bit float samples";

/// Why a file cannot be read. The text is meant for the client who sent it.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum WavError {
    /// No bytes at all.
    #[error("the file is empty; {SEND}")]
    Empty,
    /// Another kind of file.
    #[error(
        "not a WAV file: it looks like {0}; convert it first (`ffmpeg -i INPUT output.wav`), then {SEND}"
    )]
    Foreign(&'static str),
    /// Nothing that is recognised.
    #[error("not a WAV file: it begins with the bytes {0}, where RIFF….WAVE belongs; {SEND}")]
    Unknown(String),
    /// The file ends inside its header, or a chunk is missing.
    #[error("the WAV file is damaged: {0}; export it again and {SEND}")]
    Damaged(String),
    /// The header promises more than there is.
    #[error(
        "the WAV file is cut short: its header promises {promised} bytes of samples ({promised_s:.2} s), \
         {found} are there ({found_s:.2} s); send the whole file"
    )]
    Truncated {
        /// Bytes of samples by the header.
        promised: usize,
        /// Seconds by the header.
        promised_s: f64,
        /// Bytes of samples in the file.
        found: usize,
        /// Seconds in the file.
        found_s: f64,
    },
    /// WAV, but with samples of a kind that is not read here.
    #[error("the WAV file holds {0}; {SEND}")]
    Encoding(String),
    /// A header without a single sample after it.
    #[error("the WAV file holds no samples (its data chunk is empty); {SEND}")]
    NoSamples,
    /// A sample rate outside [`RATES`].
    #[error(
        "the WAV file's header gives a sample rate of {0} Hz; rates from {min} to {max} Hz are taken",
        min = RATES.start(), max = RATES.end()
    )]
    Rate(u32),
    /// Longer than [`MAX_SECONDS`].
    #[error(
        "the audio lasts {:.0} min {:.0} s; at most {:.0} min are taken: cut it into parts",
        (.0 / 60.0).floor(), (.0 % 60.0).floor(), MAX_SECONDS / 60.0
    )]
    TooLong(f64),
    /// A float sample that is NaN or infinite.
    #[error(
        "sample {frame} (at {seconds:.3} s) of channel {channel} is {value}, not a finite number; export the file again"
    )]
    NotFinite {
        /// Index of the sample in its channel.
        frame: usize,
        /// The same in seconds.
        seconds: f64,
        /// The channel, from 1.
        channel: usize,
        /// `NaN`, `inf` or `-inf`.
        value: f32,
    },
}

/// A WAV file whose header has been read and found good.
pub struct Wav<'a> {
    reader: WavReader<Chain<Cursor<Vec<u8>>, &'a [u8]>>,
    spec: WavSpec,
    frames: usize,
}

impl<'a> Wav<'a> {
    /// Reads the header of `file` and checks it against the bytes that are there.
    pub fn open(file: &'a [u8]) -> Result<Self, WavError> {
        let (format, data) = find_chunks(file)?;
        let rate = u32_at(format, 4);
        if !RATES.contains(&rate) {
            return Err(WavError::Rate(rate));
        }
        let block = usize::from(u16_at(format, 12));
        if block == 0 {
            return Err(WavError::Damaged("its fmt chunk gives a sample a size of 0 bytes".into()));
        }
        let seconds = |bytes: usize| bytes as f64 / block as f64 / f64::from(rate);
        let samples = match data.promised {
            Some(promised) if promised > data.bytes.len() => {
                return Err(WavError::Truncated {
                    promised,
                    promised_s: seconds(promised),
                    found: data.bytes.len(),
                    found_s: seconds(data.bytes.len()),
                });
            }
            Some(promised) if promised % block != 0 => {
                return Err(WavError::Damaged(format!(
                    "its {promised} bytes of samples are no multiple of the {block} bytes of one"
                )));
            }
            Some(promised) => &data.bytes[..promised],
            // Written to a pipe: the header could not know the length. Whole samples count.
            None => &data.bytes[..data.bytes.len() / block * block],
        };
        if samples.is_empty() {
            return Err(WavError::NoSamples);
        }
        if seconds(samples.len()) > MAX_SECONDS {
            return Err(WavError::TooLong(seconds(samples.len())));
        }
        // hound stumbles over chunks of odd length, so it sees only the two that matter.
        let mut header = b"RIFF\0\0\0\0WAVEfmt ".to_vec();
        header.extend((format.len() as u32).to_le_bytes());
        header.extend(format);
        header.extend(b"data");
        header.extend((samples.len() as u32).to_le_bytes());
        let reader =
            WavReader::new(Cursor::new(header).chain(samples)).map_err(|e| bad_format(&e, format))?;
        let spec = reader.spec();
        let known = match spec.sample_format {
            SampleFormat::Int => matches!(spec.bits_per_sample, 8 | 16 | 24 | 32),
            SampleFormat::Float => spec.bits_per_sample == 32,
        };
        if !known {
            return Err(bad_format(&hound::Error::Unsupported, format));
        }
        Ok(Self { frames: reader.duration() as usize, reader, spec })
    }

    /// Samples per second of each channel.
    pub fn rate(&self) -> u32 {
        self.spec.sample_rate
    }

    /// Samples in each channel; at least 1.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// How long the audio lasts.
    pub fn seconds(&self) -> f64 {
        self.frames as f64 / f64::from(self.spec.sample_rate)
    }

    /// A line for people: rate, channels, kind of samples.
    pub fn description(&self) -> String {
        let kind = match self.spec.sample_format {
            SampleFormat::Int => "",
            SampleFormat::Float => " float",
        };
        format!(
            "{:.1} s at {} Hz, {}, {}-bit{kind}",
            self.seconds(),
            self.spec.sample_rate,
            match self.spec.channels {
                1 => "mono".to_owned(),
                2 => "stereo".to_owned(),
                n => format!("{n} channels"),
            },
            self.spec.bits_per_sample
        )
    }

    /// Hands the mean of all channels to `sink` in blocks of at most `block` samples, full scale
    /// being ±1.
    pub fn for_each_block(mut self, block: usize, mut sink: impl FnMut(&[f32])) -> Result<(), WavError> {
        let channels = usize::from(self.spec.channels);
        let rate = f64::from(self.spec.sample_rate);
        let mut mixer = Mixer { channels, block, sum: 0.0, channel: 0, mono: Vec::with_capacity(block) };
        match self.spec.sample_format {
            SampleFormat::Int => {
                let scale = 1.0 / 2f64.powi(i32::from(self.spec.bits_per_sample) - 1);
                for sample in self.reader.samples::<i32>() {
                    let sample = sample.map_err(|e| WavError::Damaged(e.to_string()))?;
                    mixer.push(f64::from(sample) * scale, &mut sink);
                }
            }
            SampleFormat::Float => {
                for (index, sample) in self.reader.samples::<f32>().enumerate() {
                    let sample = sample.map_err(|e| WavError::Damaged(e.to_string()))?;
                    if !sample.is_finite() {
                        let frame = index / channels;
                        return Err(WavError::NotFinite {
                            frame,
                            seconds: frame as f64 / rate,
                            channel: index % channels + 1,
                            value: sample,
                        });
                    }
                    mixer.push(f64::from(sample), &mut sink);
                }
            }
        }
        if !mixer.mono.is_empty() {
            sink(&mixer.mono);
        }
        Ok(())
    }
}

/// Averages channels and collects blocks.
struct Mixer {
    channels: usize,
    block: usize,
    sum: f64,
    channel: usize,
    mono: Vec<f32>,
}

impl Mixer {
    fn push(&mut self, sample: f64, sink: &mut impl FnMut(&[f32])) {
        self.sum += sample;
        self.channel += 1;
        if self.channel == self.channels {
            self.mono.push((self.sum / self.channels as f64) as f32);
            self.sum = 0.0;
            self.channel = 0;
            if self.mono.len() == self.block {
                sink(&self.mono);
                self.mono.clear();
            }
        }
    }
}

/// The data chunk: what the header says and what there is.
struct Data<'a> {
    /// None when the writer could not know.
    promised: Option<usize>,
    /// Everything from the chunk's begin to the end of the file.
    bytes: &'a [u8],
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Finds the fmt chunk (at least 16 bytes) and the data chunk.
fn find_chunks(file: &[u8]) -> Result<(&[u8], Data<'_>), WavError> {
    if file.is_empty() {
        return Err(WavError::Empty);
    }
    if file.len() < 12 || &file[..4] != b"RIFF" || &file[8..12] != b"WAVE" {
        return Err(foreign(file));
    }
    let mut format: Option<&[u8]> = None;
    let mut rest = &file[12..];
    while rest.len() >= 8 {
        let (name, length, body) = (&rest[..4], u32_at(rest, 4) as usize, &rest[8..]);
        if name == b"data" {
            let Some(format) = format else {
                return Err(WavError::Damaged("it has no fmt chunk before its samples".into()));
            };
            // ffmpeg and others write all ones when the output is a pipe.
            let promised = (length < 0xFFFF_FF00).then_some(length);
            return Ok((format, Data { promised, bytes: body }));
        }
        if length > body.len() {
            return Err(WavError::Damaged(format!(
                "it ends inside its {:?} chunk ({} of {length} bytes)",
                String::from_utf8_lossy(name),
                body.len()
            )));
        }
        if name == b"fmt " {
            if length < 16 {
                return Err(WavError::Damaged(format!("its fmt chunk has {length} bytes, not 16 or more")));
            }
            format = Some(&body[..length]);
        }
        // A chunk of odd length is followed by a byte of padding.
        rest = body.get(length + length % 2..).unwrap_or_default();
    }
    Err(WavError::Damaged("it ends before its samples begin (no data chunk)".into()))
}

/// What hound refused, in words: mostly an encoding that is known by its tag.
fn bad_format(error: &hound::Error, format: &[u8]) -> WavError {
    let mut tag = u16_at(format, 0);
    if tag == 0xFFFE && format.len() >= 26 {
        // In an extensible header the tag is the begin of the sub-format.
        tag = u16_at(format, 24);
    }
    let bits = u16_at(format, 14);
    match (error, tag) {
        (_, 1) if !matches!(bits, 8 | 16 | 24 | 32) => {
            WavError::Encoding(format!("{bits}-bit integer samples"))
        }
        (_, 3) if bits != 32 => WavError::Encoding(format!("{bits}-bit float samples")),
        (hound::Error::Unsupported, _) => WavError::Encoding(match tag {
            1 => format!("{bits}-bit integer samples with fewer valid bits"),
            2 | 0x11 => "ADPCM-compressed samples".into(),
            6 => "A-law samples".into(),
            7 => "mu-law samples".into(),
            0x50 | 0x55 => "MPEG audio in a WAV wrapper".into(),
            other => format!("samples with the unknown format tag 0x{other:04X}"),
        }),
        (other, _) => WavError::Damaged(other.to_string()),
    }
}

/// Names what a file is that is no WAV file.
fn foreign(file: &[u8]) -> WavError {
    let at = |offset: usize, magic: &[u8]| file.get(offset..).is_some_and(|f| f.starts_with(magic));
    let kind = if at(0, b"ID3") || (file[0] == 0xFF && file.get(1).is_some_and(|b| b & 0xE0 == 0xE0)) {
        "an MP3 (MPEG audio) file"
    } else if at(0, b"fLaC") {
        "a FLAC file"
    } else if at(0, b"OggS") {
        "an Ogg file (Vorbis or Opus)"
    } else if at(4, b"ftyp") {
        "an MP4 file (M4A, AAC)"
    } else if at(0, b"FORM") {
        "an AIFF file"
    } else if at(0, b"RF64") || at(0, b"BW64") {
        "an RF64 file (WAV for more than 4 GiB)"
    } else if at(0, b"RIFX") {
        "a RIFX file (big-endian WAV)"
    } else if at(0, b"riff") {
        "a Wave64 file"
    } else if at(0, b"RIFF") && file.len() < 12 {
        return WavError::Damaged(format!("it ends after {} bytes, inside its header", file.len()));
    } else if at(0, b"RIFF") {
        "a RIFF file that holds no WAVE (AVI, WebP, MIDI?)"
    } else if at(0, b"MThd") {
        "a MIDI file (notes already)"
    } else if at(0, b".snd") {
        "a Sun AU file"
    } else if at(0, b"caff") {
        "a Core Audio file"
    } else if at(0, &[0x1A, 0x45, 0xDF, 0xA3]) {
        "a Matroska or WebM file"
    } else if at(0, b"PK") || at(0, &[0x1F, 0x8B]) {
        "a ZIP or gzip archive"
    } else if at(0, b"<") || at(0, b"{") {
        "a text (HTML, XML or JSON), perhaps an error page in place of the download"
    } else {
        let begin: Vec<String> = file.iter().take(12).map(|b| format!("{b:02x}")).collect();
        return WavError::Unknown(begin.join(" "));
    };
    WavError::Foreign(kind)
}
