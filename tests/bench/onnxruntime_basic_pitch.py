"""The peer: Basic Pitch's windows of a WAV file through onnxruntime, one run a line on stdin.

usage: onnxruntime_basic_pitch.py MODEL WAV THREADS
Prints "ready", then for each line read the seconds that all windows took.
"""

import sys
import time
import wave

import numpy as np
import onnxruntime as ort

WINDOW = 43844
OVERLAP = 30 * 256
HOP = WINDOW - OVERLAP


def main() -> None:
    model, path, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    with wave.open(path) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 32768
    samples = np.concatenate([np.zeros(OVERLAP // 2, np.float32), samples])
    windows = []
    for start in range(0, len(samples), HOP):
        window = samples[start : start + WINDOW]
        windows.append(np.pad(window, (0, WINDOW - len(window))).reshape(1, WINDOW, 1))
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for window in windows:
            session.run(None, {"serving_default_input_2:0": window})
        print(time.perf_counter() - start, flush=True)


main()
