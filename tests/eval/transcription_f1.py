#!/usr/bin/env python3
"""Note F1 of the plugin `transcribe` against the reference Basic Pitch and against the truth.

    transcription_f1.py --warren target/release/warren --plugin FOLDER [--work FOLDER]

Every piece of `pieces.py` is rendered by fluidsynth at 44.1 kHz in stereo. Warren's plugin and the
reference (package basic-pitch 0.4.0 on onnxruntime, default settings) transcribe the same file.
Notes match when they have one pitch and onsets within 50 ms; offsets are ignored (mir_eval).

Then the raw outputs of the model are compared on identical windows: the piece rendered at
22,050 Hz in mono, which neither side resamples.

Exits with 1 when Warren's notes agree with the reference's by less than --least (default 0.98) in
any piece, or a raw output differs by more than --most (default 0.001).
"""

import argparse
import contextlib
import io
import json
import logging
import pathlib
import subprocess
import sys
import tempfile
import urllib.parse
import warnings

import numpy as np
import soundfile

# Basic Pitch logs every backend that is absent, and its resampler warns about setuptools.
logging.disable(logging.WARNING)
warnings.filterwarnings("ignore")

import librosa  # noqa: E402
import mir_eval  # noqa: E402
from basic_pitch import build_icassp_2022_model_path, FilenameSuffix  # noqa: E402
from basic_pitch import inference  # noqa: E402

from pieces import PIECES, midi  # noqa: E402

SOUNDFONTS = ["/usr/share/sounds/sf2/TimGM6mb.sf2"]
RAW = ("note", "onset", "contour")


def warren(binary, plugin, wav, folder, raw=False):
    """Runs one local job. Answers its notes as (start, end, pitch), and the raw outputs if asked."""
    command = [binary, "run", plugin, "--input", f"audio=ref:{wav}", "--output-dir", folder, "--json"]
    if raw:
        command += ["--parameter", "raw=true"]
    command = [str(c) for c in command]
    done = subprocess.run(command, capture_output=True, text=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    results = [event["body"] for event in events if event["type"] == "result"]
    if done.returncode != 0 or len(results) != 1:
        tail = done.stdout[-2000:] + done.stderr[-2000:]
        sys.exit(f"{' '.join(command)}\nended with {done.returncode} and {len(results)} results:\n{tail}")
    outputs = {output["name"]: output for output in results[0]["outputs"]}
    notes = [(n["start"], n["end"], n["pitch"]) for n in json.loads(text(outputs["notes"]))]
    return notes, {name: matrix(outputs[name]) for name in RAW} if raw else None


def stored(output):
    """The bytes of an output that left by reference; None when it is in the message."""
    url = output["parameters"].get("dataref")
    return url and pathlib.Path(urllib.parse.unquote(urllib.parse.urlparse(url).path)).read_bytes()


def text(output):
    """An output of one byte string."""
    return stored(output) or output["data"][0]


def matrix(output):
    """An output tensor of float32."""
    data = stored(output)
    values = np.asarray(output["data"], "f4") if data is None else np.frombuffer(data, "<f4")
    return values.reshape(output["shape"])


def reference(model, wav):
    """The reference's notes and raw outputs for the same file."""
    with contextlib.redirect_stdout(io.StringIO()):
        answer, _, events = inference.predict(wav, model)
    return [(start, end, pitch) for start, end, pitch, *_ in events], answer


def f1(found, truth):
    """mir_eval's note F-measure: same pitch, onset within 50 ms, offsets ignored."""
    def arrays(notes):
        intervals = np.array([[n[0], max(n[1], n[0] + 1e-3)] for n in notes]).reshape(-1, 2)
        return intervals, librosa.midi_to_hz(np.array([float(n[2]) for n in notes]))
    if not found or not truth:
        return float(not found and not truth)
    return mir_eval.transcription.precision_recall_f1_overlap(
        *arrays(truth), *arrays(found), onset_tolerance=0.05, offset_ratio=None)[2]


def render(piece, folder, soundfont):
    """Writes the piece as MIDI, and as WAV at 44.1 kHz (stereo) and 22,050 Hz (mono, float)."""
    score = midi(piece)
    paths = {kind: folder / f"{kind}" for kind in ("score.mid", "stereo.wav", "narrow.wav", "mono.wav")}
    score.write(str(paths["score.mid"]))
    for name, rate in (("stereo.wav", 44_100), ("narrow.wav", 22_050)):
        command = ["fluidsynth", "-ni", "-q", "-g", "0.6", "-r", str(rate), "-F", str(paths[name]),
                   "-T", "wav", str(soundfont), str(paths["score.mid"])]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    audio, rate = soundfile.read(paths["narrow.wav"], dtype="float32", always_2d=True)
    soundfile.write(paths["mono.wav"], audio.mean(axis=1), rate, subtype="FLOAT")
    truth = [(n.start, n.end, n.pitch) for i in score.instruments for n in i.notes]
    seconds = soundfile.info(paths["stereo.wav"]).duration
    return paths["stereo.wav"], paths["mono.wav"], truth, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warren", default="target/release/warren", help="the warren binary")
    parser.add_argument("--plugin", required=True, help="the plugin's folder (plugin.toml, transcribe.wasm, nmp.onnx)")
    parser.add_argument("--work", type=pathlib.Path, help="keep scores, audio and outputs in this folder")
    parser.add_argument("--soundfont", default=next((s for s in SOUNDFONTS if pathlib.Path(s).exists()), None))
    parser.add_argument("--least", type=float, default=0.98)
    parser.add_argument("--most", type=float, default=1e-3)
    args = parser.parse_args()
    if args.soundfont is None:
        sys.exit(f"no soundfont at {SOUNDFONTS[0]} (Debian: apt install timgm6mb-soundfont); or name one with --soundfont")
    with contextlib.ExitStack() as stack:
        work = args.work or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sys.exit(evaluate(args, work))


def evaluate(args, work):
    """Prints the table; answers the exit status."""
    model = inference.Model(build_icassp_2022_model_path(FilenameSuffix.onnx))
    print(f"{'piece':<38}{'sec':>5}{'notes':>7} | note F1: {'warren~ref':>10}{'warren~true':>12}{'ref~true':>10}"
          f" | largest raw difference: {'note':>9}{'onset':>9}{'contour':>9}")
    figures, widest = [], 0.0
    for number, piece in enumerate(PIECES, 1):
        folder = work / f"{number}"
        for name in ("", "warren", "raw"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        stereo, mono, truth, seconds = render(piece, folder, args.soundfont)
        ours, _ = warren(args.warren, args.plugin, stereo, folder / "warren")
        theirs, _ = reference(model, stereo)
        row = f1(ours, theirs), f1(ours, truth), f1(theirs, truth)
        _, raw = warren(args.warren, args.plugin, mono, folder / "raw", raw=True)
        _, expected = reference(model, mono)
        shapes = [(raw[n].shape, expected[n].shape) for n in RAW]
        if any(a != b for a, b in shapes):
            sys.exit(f"{piece.name}: raw outputs have other shapes than the reference's: {shapes}")
        worst = [float(np.abs(raw[n] - expected[n]).max()) for n in RAW]
        figures.append(row)
        widest = max(widest, *worst)
        print(f"{piece.name:<38}{seconds:5.1f}{len(truth):7d} |          {row[0]:>10.4f}{row[1]:>12.4f}{row[2]:>10.4f}"
              f" |                         {worst[0]:9.1e}{worst[1]:9.1e}{worst[2]:9.1e}")
    mean = np.mean(figures, axis=0)
    print(f"{'mean':<50} |          {mean[0]:>10.4f}{mean[1]:>12.4f}{mean[2]:>10.4f}")
    lowest = min(row[0] for row in figures)
    bad = [text for text, wrong in (
        (f"lowest agreement with the reference {lowest:.4f} is below {args.least}", lowest < args.least),
        (f"largest raw difference {widest:.2g} is above {args.most}", not widest <= args.most)) if wrong]
    for text in bad:
        print(f"FAILED: {text}")
    return 1 if bad else 0


if __name__ == "__main__":
    main()
