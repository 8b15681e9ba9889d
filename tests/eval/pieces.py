"""The music of the evaluation: plain arrangements, made for it, of works in the public domain.

A voice is a string of `PITCH/BEATS` tokens (`R` rests, `+` joins the pitches of a chord); a piece
is voices with their General MIDI programs, and a tempo.
"""

from dataclasses import dataclass

import pretty_midi


@dataclass
class Voice:
    """One instrument's line; `program` counts from 0, `velocity` is MIDI's."""
    program: int
    velocity: int
    line: str
    first_beat: float = 0.0


@dataclass
class Piece:
    """Music with a name, a tempo in beats a minute, and voices."""
    name: str
    tempo: float
    voices: list[Voice]


MINUET_RIGHT = """
D5/1 G4/.5 A4/.5 B4/.5 C5/.5 D5/1 G4/1 G4/1 E5/1 C5/.5 D5/.5 E5/.5 F#5/.5 G5/1 G4/1 G4/1
C5/1 D5/.5 C5/.5 B4/.5 A4/.5 B4/1 C5/.5 B4/.5 A4/.5 G4/.5 F#4/1 G4/.5 A4/.5 B4/.5 G4/.5 A4/3
D5/1 G4/.5 A4/.5 B4/.5 C5/.5 D5/1 G4/1 G4/1 E5/1 C5/.5 D5/.5 E5/.5 F#5/.5 G5/1 G4/1 G4/1
C5/1 D5/.5 C5/.5 B4/.5 A4/.5 B4/1 C5/.5 B4/.5 A4/.5 G4/.5 A4/1 B4/.5 A4/.5 G4/.5 F#4/.5 G4/3
"""
MINUET_LEFT = """
G3+B3+D4/2 A3/1 B3/3 C4/3 B3/3 A3/3 G3/3 D4/1 B3/1 G3/1 D4/1 D3/.5 C4/.5 B3/.5 A3/.5
B3/2 A3/1 G3/1 B3/1 G3/1 C4/3 B3/1 C4/.5 B3/.5 A3/.5 G3/.5 A3/2 F#3/1 G3/2 B3/1 C4/1 D4/1 D3/1 G3/3
"""
GREENSLEEVES = """
A4/1 C5/2 D5/1 E5/1.5 F#5/.5 E5/1 D5/2 B4/1 G4/1.5 A4/.5 B4/1 C5/2 A4/1 A4/1.5 G#4/.5 A4/1 B4/2 G#4/1 E4/2
A4/1 C5/2 D5/1 E5/1.5 F#5/.5 E5/1 D5/2 B4/1 G4/1.5 A4/.5 B4/1 C5/1.5 B4/.5 A4/1 G#4/1.5 F#4/.5 G#4/1 A4/3
"""
GREENSLEEVES_BASS = " ".join(f"{a}/1 {b}/1 {c}/1" for a, b, c in [
    ("A2", "E3", "A3"), ("A2", "E3", "C4"), ("G2", "D3", "G3"), ("G2", "D3", "B3"),
    ("A2", "E3", "A3"), ("A2", "E3", "C4"), ("E2", "B2", "E3"), ("E2", "B2", "G#3"),
    ("A2", "E3", "A3"), ("A2", "E3", "C4"), ("G2", "D3", "G3"), ("G2", "D3", "B3"),
    ("A2", "E3", "C4"), ("E2", "B2", "G#3"), ("A2", "E3", "A3")])
LONDONDERRY = """
B3/.5 C4/.5 D4/.5 E4/1.5 D4/.5 E4/.5 A4/.5 G4/.5 E4/.5 D4/.5 C4/.5 A3/1.5 R/.5
C4/.5 E4/.5 F4/.5 G4/1.5 A4/.5 G4/.5 E4/.5 C4/.5 E4/.5 D4/2.5 R/.5
B3/.5 C4/.5 D4/.5 E4/1.5 D4/.5 E4/.5 A4/.5 G4/.5 E4/.5 D4/.5 C4/.5 A3/1 R/.5
B3/.5 C4/.5 D4/.5 E4/1.5 F4/.5 E4/.5 D4/.5 C4/.5 D4/.5 C4/2.5
"""
HUNDREDTH = [
    "G4/2 G4/1 F#4/1 E4/1 D4/1 G4/1 A4/1 B4/2 B4/2 B4/1 B4/1 A4/1 G4/1 C5/1 B4/1 A4/2 "
    "G4/2 A4/1 B4/1 A4/1 G4/1 E4/1 F#4/1 G4/2 D5/2 B4/1 G4/1 A4/1 C5/1 B4/1 A4/1 G4/3",
    "D4/2 D4/1 D4/1 B3/1 B3/1 D4/1 F#4/1 G4/2 G4/2 G4/1 G4/1 F#4/1 E4/1 E4/1 G4/1 F#4/2 "
    "D4/2 F#4/1 G4/1 F#4/1 D4/1 C4/1 D4/1 D4/2 G4/2 G4/1 E4/1 F#4/1 G4/1 G4/1 F#4/1 D4/3",
    "B3/2 B3/1 A3/1 G3/1 F#3/1 B3/1 D4/1 D4/2 D4/2 D4/1 D4/1 D4/1 B3/1 A3/1 D4/1 D4/2 "
    "B3/2 D4/1 D4/1 D4/1 B3/1 G3/1 A3/1 B3/2 B3/2 D4/1 B3/1 D4/1 E4/1 D4/1 C4/1 B3/3",
    "G2/2 G2/1 D3/1 E3/1 B2/1 G2/1 D3/1 G2/2 G3/2 G3/1 G2/1 D3/1 E3/1 A2/1 G2/1 D3/2 "
    "G3/2 D3/1 G2/1 D3/1 G3/1 C3/1 D3/1 G2/2 G3/2 G2/1 E3/1 D3/1 C3/1 D3/1 D3/1 G2/3",
]
CANON_BASS = "D3/2 A2/2 B2/2 F#2/2 G2/2 D2/2 G2/2 A2/2 " * 2
CANON_HIGH = "F#5/2 E5/2 D5/2 C#5/2 B4/2 A4/2 B4/2 C#5/2 D5/2 C#5/2 B4/2 A4/2 G4/2 F#4/2 G4/2 E4/2"
CANON_LOW = "F#4/1 A4/1 G4/1 E4/1 D4/1 F#4/1 E4/1 C#4/1 B3/1 D4/1 F#4/1 A3/1 B3/1 G4/1 A4/1 E4/1 " \
            "F#4/1 D4/1 E4/1 A4/1 F#4/1 B4/1 A4/1 F#4/1 G4/1 B4/1 A4/1 D4/1 D4/1 B3/1 C#4/2"
JACQUES = "F4/1 G4/1 A4/1 F4/1 F4/1 G4/1 A4/1 F4/1 A4/1 A#4/1 C5/2 A4/1 A#4/1 C5/2 " \
          "C5/.5 D5/.5 C5/.5 A#4/.5 A4/1 F4/1 C5/.5 D5/.5 C5/.5 A#4/.5 A4/1 F4/1 " \
          "F4/1 C4/1 F4/2 F4/1 C4/1 F4/2"

PIECES = [
    Piece("minuet, piano", 132, [Voice(0, 92, MINUET_RIGHT), Voice(0, 74, MINUET_LEFT)]),
    Piece("greensleeves, guitar", 140, [Voice(24, 100, GREENSLEEVES), Voice(24, 78, GREENSLEEVES_BASS, 1.0)]),
    Piece("londonderry air, flute", 76, [Voice(73, 96, LONDONDERRY)]),
    Piece("old hundredth, reed organ", 112, [Voice(20, 88, line) for line in HUNDREDTH]),
    Piece("canon, violin, clarinet and cello", 88, [
        Voice(40, 90, CANON_HIGH), Voice(71, 80, CANON_LOW), Voice(42, 90, CANON_BASS)]),
    Piece("frere jacques, three electric pianos", 150, [
        Voice(4, 95, JACQUES), Voice(4, 85, JACQUES, 8.0), Voice(4, 75, JACQUES, 16.0)]),
]


def midi(piece: Piece) -> pretty_midi.PrettyMIDI:
    """The piece as MIDI. Half a second of silence comes first; notes end a little early."""
    beat = 60.0 / piece.tempo
    score = pretty_midi.PrettyMIDI(initial_tempo=piece.tempo)
    for voice in piece.voices:
        instrument = pretty_midi.Instrument(program=voice.program)
        at = voice.first_beat
        for token in voice.line.split():
            pitches, beats = token.split("/")
            for name in [] if pitches == "R" else pitches.split("+"):
                start = 0.5 + at * beat
                instrument.notes.append(pretty_midi.Note(
                    voice.velocity, pretty_midi.note_name_to_number(name),
                    start, start + float(beats) * beat * 0.94))
            at += float(beats)
        score.instruments.append(instrument)
    return score
