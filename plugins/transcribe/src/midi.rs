//! Notes to a standard MIDI file: one track for the tempo, one for the notes, as the reference
//! writes it (electric piano, 220 ticks a beat).

use midly::num::{u4, u7, u15, u24, u28};
use midly::{
    Format, Header, MetaMessage, MidiMessage, PitchBend, Smf, Timing, Track, TrackEvent, TrackEventKind,
};

use crate::notes::Note;

/// Ticks a beat.
pub const TICKS: u16 = 220;
/// General MIDI program "Electric Piano 1", counted from 0.
const PROGRAM: u8 = 4;
/// Bend units of a third of a semitone: the full range of 8,192 is two semitones.
const BEND_UNIT: f64 = 4096.0 / 3.0;

/// An event at a tick. At one tick notes end first, then bends are set, then notes begin.
struct Event {
    tick: u32,
    order: u8,
    message: MidiMessage,
}

/// Writes `notes` (in order of start) as a MIDI file of `tempo` beats a minute, 4 to 1000.
///
/// Bends go to the whole channel, so only notes that sound alone have theirs; where a note without
/// bends follows, the channel is set straight again.
pub fn file(notes: &[Note], tempo: f64) -> Result<Vec<u8>, std::io::Error> {
    let microseconds = (60e6 / tempo).round() as u32;
    // From the tempo as it is written, so that rounding it moves no note.
    let ticks_per_second = f64::from(TICKS) * 1e6 / f64::from(microseconds);
    let tick = |seconds: f64| (seconds * ticks_per_second).round_ties_even() as u32;

    let mut events = Vec::new();
    let mut bent = false;
    for (note, alone) in notes.iter().zip(alone(notes)) {
        let (start, key) = (tick(note.start), u7::new(note.pitch));
        let end = tick(note.end).max(start + 1);
        let bend = |at: f64, value: i32| Event {
            tick: tick(at),
            order: 1,
            message: MidiMessage::PitchBend { bend: PitchBend::from_int(value.clamp(-8192, 8191) as i16) },
        };
        if alone {
            let step = (note.end - note.start) / (note.bends.len().max(2) - 1) as f64;
            for (index, &third) in note.bends.iter().enumerate() {
                let value = (f64::from(third) * BEND_UNIT).round_ties_even() as i32;
                events.push(bend(note.start + step * index as f64, value));
            }
            bent = note.bends.last().is_some_and(|&third| third != 0);
        } else if bent {
            events.push(bend(note.start, 0));
            bent = false;
        }
        let vel = u7::new(note.velocity());
        events.push(Event { tick: start, order: 2, message: MidiMessage::NoteOn { key, vel } });
        events.push(Event { tick: end, order: 0, message: MidiMessage::NoteOff { key, vel: u7::new(0) } });
    }
    events.sort_by_key(|event| (event.tick, event.order));

    let meta = |message| TrackEvent { delta: u28::new(0), kind: TrackEventKind::Meta(message) };
    let midi = |delta, message| TrackEvent {
        delta: u28::new(delta),
        kind: TrackEventKind::Midi { channel: u4::new(0), message },
    };
    let timing = vec![
        meta(MetaMessage::Tempo(u24::new(microseconds))),
        meta(MetaMessage::TimeSignature(4, 2, 24, 8)),
        meta(MetaMessage::EndOfTrack),
    ];
    let mut track: Track<'_> = vec![midi(0, MidiMessage::ProgramChange { program: u7::new(PROGRAM) })];
    let mut now = 0;
    for event in &events {
        track.push(midi(event.tick - now, event.message));
        now = event.tick;
    }
    track.push(meta(MetaMessage::EndOfTrack));

    let mut bytes = Vec::new();
    let header = Header::new(Format::Parallel, Timing::Metrical(u15::new(TICKS)));
    Smf { header, tracks: vec![timing, track] }.write_std(&mut bytes)?;
    Ok(bytes)
}

/// For every note whether no other sounds at the same time. The notes are in order of start.
fn alone(notes: &[Note]) -> Vec<bool> {
    let mut alone = vec![true; notes.len()];
    for (index, note) in notes.iter().enumerate() {
        for other in index + 1..notes.len() {
            if notes[other].start >= note.end {
                break;
            }
            alone[index] = false;
            alone[other] = false;
        }
    }
    alone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(start: f64, end: f64, pitch: u8, amplitude: f32, bends: &[i32]) -> Note {
        Note { first: 0, last: 0, start, end, pitch, amplitude, bends: bends.to_vec() }
    }

    /// (tick, message) of every event on the note track, after checking the tempo.
    fn read(bytes: &[u8], microseconds: u32) -> Vec<(u32, MidiMessage)> {
        let smf = Smf::parse(bytes).unwrap();
        assert_eq!(smf.header.timing, Timing::Metrical(u15::new(220)));
        assert_eq!(smf.tracks.len(), 2);
        let tempo = smf.tracks[0][0].kind;
        assert_eq!(tempo, TrackEventKind::Meta(MetaMessage::Tempo(u24::new(microseconds))));
        let mut now = 0;
        let mut events = Vec::new();
        for event in &smf.tracks[1] {
            now += event.delta.as_int();
            if let TrackEventKind::Midi { message, .. } = event.kind {
                events.push((now, message));
            }
        }
        assert_eq!(smf.tracks[1].last().unwrap().kind, TrackEventKind::Meta(MetaMessage::EndOfTrack));
        events
    }

    fn on(key: u8, vel: u8) -> MidiMessage {
        MidiMessage::NoteOn { key: u7::new(key), vel: u7::new(vel) }
    }
    fn off(key: u8) -> MidiMessage {
        MidiMessage::NoteOff { key: u7::new(key), vel: u7::new(0) }
    }
    fn bend(value: i16) -> MidiMessage {
        MidiMessage::PitchBend { bend: PitchBend::from_int(value) }
    }

    #[test]
    fn a_file_reads_back_to_the_tick() {
        let notes = [
            note(0.5, 1.0, 60, 0.5, &[0, 1, -2]),
            note(1.0, 2.0, 64, 1.0, &[7, 3]),
            note(1.5, 2.0, 67, 0.001, &[1]),
        ];
        let bytes = file(&notes, 120.0).unwrap();
        let program = MidiMessage::ProgramChange { program: u7::new(4) };
        assert_eq!(
            read(&bytes, 500_000),
            [
                (0, program),
                (220, bend(0)),
                (220, on(60, 64)),
                (330, bend(1365)),
                // The first note ends, bent; the second has its bends dropped, so it is set straight.
                (440, off(60)),
                (440, bend(-2731)),
                (440, bend(0)),
                (440, on(64, 127)),
                (660, on(67, 1)),
                (880, off(64)),
                (880, off(67)),
            ]
        );
    }

    #[test]
    fn another_tempo_keeps_the_times() {
        let bytes = file(&[note(1.0, 1.000001, 21, 0.3, &[])], 133.0).unwrap();
        let seconds_per_tick = 451_128.0 / 1e6 / 220.0;
        let events = read(&bytes, 451_128);
        assert_eq!(events.len(), 3);
        assert!((f64::from(events[1].0) * seconds_per_tick - 1.0).abs() <= seconds_per_tick / 2.0);
        assert_eq!(events[2], (events[1].0 + 1, off(21)), "no note is empty");
    }

    #[test]
    fn no_notes_still_make_a_file() {
        assert_eq!(read(&file(&[], 120.0).unwrap(), 500_000).len(), 1);
    }

    #[test]
    fn bends_beyond_two_semitones_are_held_there() {
        let bytes = file(&[note(0.0, 1.0, 60, 0.5, &[25, -25])], 120.0).unwrap();
        let events = read(&bytes, 500_000);
        assert_eq!((events[1].1, events[4].1), (bend(8191), bend(-8192)));
    }
}
