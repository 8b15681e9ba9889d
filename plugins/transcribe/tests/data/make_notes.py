#!/usr/bin/env python3
"""Makes the fixtures of `tests/notes.rs` with the reference implementation (basic-pitch 0.4.0).

    python make_notes.py [FOLDER] [--wav FILE]

Writes FOLDER/<name>.bin (uint8 activations, value / 255: the rows of note, onset and contour one
after the other, frame by frame) and FOLDER/notes.json (settings and the notes that the reference
finds). With --wav, the activations are the model's answer to that file instead of synthetic ones.
Needs the packages of tests/eval/requirements.txt.
"""

import argparse
import json
import pathlib

import numpy as np
from basic_pitch import note_creation

PITCHES, CONTOURS = 88, 264
DEFAULTS = dict(onset_threshold=0.5, frame_threshold=0.3, minimum_note_length=127.70,
                minimum_frequency=None, maximum_frequency=None, melodia_trick=True)
CASES = [
    {},
    dict(melodia_trick=False),
    dict(onset_threshold=0.9, frame_threshold=0.15, minimum_note_length=30.0),
    dict(minimum_frequency=110.0, maximum_frequency=1000.0),
    dict(onset_threshold=0.2, frame_threshold=0.6, minimum_note_length=0.0),
]


def synthetic(rng, frames, notes):
    """Activations with decaying notes, wobbling contours, onsets for most of them, and noise."""
    note = rng.random((frames, PITCHES)) * 0.2
    onset = rng.random((frames, PITCHES)) * 0.2
    contour = rng.random((frames, CONTOURS)) * 0.2
    edges = [(0, 0, 40), (0, 87, 30), (frames - 30, 0, 40), (frames - 25, 87, 40), (1, 40, 25)]
    spots = [(int(rng.integers(0, frames)), int(rng.integers(0, PITCHES)), int(rng.integers(4, 60)))
             for _ in range(notes)]
    for start, pitch, length in edges + spots:
        end = min(start + length, frames)
        level = rng.uniform(0.35, 1.0)
        decay = level * np.exp(-np.arange(end - start) / rng.uniform(20, 200))
        for spread, factor in ((0, 1.0), (-1, 0.5), (1, 0.4)):
            if 0 <= pitch + spread < PITCHES:
                note[start:end, pitch + spread] = np.maximum(note[start:end, pitch + spread], decay * factor)
        if rng.random() < 0.7:
            onset[start, pitch] = rng.uniform(0.3, 1.0)
        sway = np.round(3 * pitch + rng.uniform(0, 8) * np.sin(np.arange(end - start) / 5)).astype(int)
        for frame, bin_ in zip(range(start, end), np.clip(sway, 0, CONTOURS - 1)):
            contour[frame, bin_] = rng.uniform(0.5, 1.0)
    return note, onset, contour


def events(case, matrices):
    """The reference's notes, and times, for activations and settings."""
    s = {**DEFAULTS, **case}
    _, found = note_creation.model_output_to_notes(
        {name: m.copy() for name, m in zip(("note", "onset", "contour"), matrices)},
        onset_thresh=s["onset_threshold"], frame_thresh=s["frame_threshold"],
        min_note_len=int(np.round(s["minimum_note_length"] / 1000 * (22050 / 256))),
        min_freq=s["minimum_frequency"], max_freq=s["maximum_frequency"], melodia_trick=s["melodia_trick"])
    found = [dict(start=float(a), end=float(b), pitch=int(p), amplitude=float(v),
                  bends=[int(x) for x in bends]) for a, b, p, v, bends in found]
    return sorted(found, key=lambda n: (n["start"], n["end"], n["pitch"]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    parser.add_argument("--wav")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(20260101)
    if args.wav:
        from basic_pitch import inference, ICASSP_2022_MODEL_PATH
        answer = inference.run_inference(args.wav, ICASSP_2022_MODEL_PATH)
        pieces = {"wav": [answer[k] for k in ("note", "onset", "contour")]}
    else:
        pieces = {"long": synthetic(rng, 260, 60), "short": synthetic(rng, 60, 12),
                  "still": [np.full((20, n), 0.8) for n in (PITCHES, PITCHES, CONTOURS)]}
    cases = []
    for name, matrices in pieces.items():
        quantised = [np.clip(np.round(np.asarray(m) * 255), 0, 255).astype(np.uint8) for m in matrices]
        (args.folder / f"{name}.bin").write_bytes(np.concatenate(quantised, axis=1).tobytes())
        values = [q.astype(np.float32) / np.float32(255) for q in quantised]
        cases += [{"activations": name, "settings": {**DEFAULTS, **c}, "notes": events(c, values)} for c in CASES]
    with open(args.folder / "notes.json", "w") as out:
        out.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
    print({c["activations"] + str(i % len(CASES)): len(c["notes"]) for i, c in enumerate(cases)})


main()
