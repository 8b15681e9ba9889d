"""onnxruntime, or numpy, beside the tensor engine: builds the model that a line on stdin names (`none`
where numpy has no single call for it), and answers each `run SECONDS` with the median and the best
time of one run in seconds. Arguments: threads, and which of the two.

The models are written as protocol buffers by hand, so that onnxruntime and numpy are all it takes.
"""

import math
import statistics
import struct
import sys
import time

import numpy as np
import onnxruntime as ort


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value


def attribute(name, value):
    if isinstance(value, float):
        return field(1, name) + varint(2 << 3 | 5) + struct.pack("<f", value) + field(20, 1)
    if isinstance(value, int):
        return field(1, name) + field(3, value) + field(20, 2)
    return field(1, name) + b"".join(field(8, v) for v in value) + field(20, 7)


def value_info(name, shape):
    dims = b"".join(field(1, field(1, d)) for d in shape)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))


class Model:
    def __init__(self):
        self.nodes, self.constants, self.inputs, self.count = [], [], {}, 0
        self.random = np.random.default_rng(1)

    def input(self, *shape):
        name = f"x{len(self.inputs)}"
        self.inputs[name] = (self.random.random(shape, dtype=np.float32) - 0.5).astype(np.float32)
        return name

    def constant(self, array):
        name = f"c{len(self.constants)}"
        kind = 7 if array.dtype == np.int64 else 1
        dims = b"".join(field(1, d) for d in array.shape)
        self.constants.append(dims + field(2, kind) + field(8, name) + field(9, array.tobytes()))
        return name

    def weight(self, *shape):
        return self.constant(((self.random.random(shape, dtype=np.float32) - 0.5) * 0.1).astype(np.float32))

    def op(self, kind, *inputs, **attributes):
        self.count += 1
        name = f"y{self.count}"
        node = b"".join(field(1, i) for i in inputs) + field(2, name) + field(4, kind)
        node += b"".join(field(5, attribute(k, v)) for k, v in attributes.items())
        self.nodes.append(node)
        return name

    def session(self, output, shape, threads):
        graph = b"".join(field(1, n) for n in self.nodes) + field(2, "g")
        graph += b"".join(field(5, c) for c in self.constants)
        graph += b"".join(field(11, value_info(n, a.shape)) for n, a in self.inputs.items())
        graph += field(12, value_info(output, shape))
        model = field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 20))
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        values = [(ort.OrtValue.ortvalue_from_numpy(array), array) for array in self.inputs.values()]
        for name, (value, _) in zip(self.inputs, values):
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output(output, ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32)))

        def renew():
            for value, array in values:
                value.update_inplace(array)

        return lambda: session.run_with_iobinding(binding), renew


def encoder(m, batch, seq):
    hidden, heads, layers = 384, 12, 6
    x = m.input(batch, seq, hidden)
    ones, zeros = m.constant(np.ones(hidden, np.float32)), m.constant(np.zeros(hidden, np.float32))
    split = m.constant(np.array([batch, seq, heads, hidden // heads], np.int64))
    join = m.constant(np.array([batch, seq, hidden], np.int64))
    scale = m.constant(np.array(1 / math.sqrt(hidden // heads), np.float32))

    def dense(x, n, k):
        return m.op("Add", m.op("MatMul", x, m.weight(n, k)), m.weight(k))

    for _ in range(layers):
        q, k, v = (m.op("Reshape", dense(x, hidden, hidden), split) for _ in range(3))
        q = m.op("Transpose", q, perm=[0, 2, 1, 3])
        k = m.op("Transpose", k, perm=[0, 2, 3, 1])
        v = m.op("Transpose", v, perm=[0, 2, 1, 3])
        a = m.op("Softmax", m.op("Mul", m.op("MatMul", q, k), scale), axis=3)
        a = m.op("Transpose", m.op("MatMul", a, v), perm=[0, 2, 1, 3])
        y = dense(m.op("Reshape", a, join), hidden, hidden)
        x = m.op("LayerNormalization", m.op("Add", x, y), ones, zeros, axis=-1 + (1 << 64), epsilon=1e-5)
        y = dense(m.op("Gelu", dense(x, hidden, 4 * hidden)), 4 * hidden, hidden)
        x = m.op("LayerNormalization", m.op("Add", x, y), ones, zeros, axis=-1 + (1 << 64), epsilon=1e-5)
    return x, (batch, seq, hidden)


def build(kind, sizes, threads):
    m = Model()
    if kind == "matmul":
        a, k, n = sizes
        return m.session(m.op("MatMul", m.input(a, k), m.input(k, n)), (a, n), threads)
    if kind == "dense":
        a, k, n = sizes
        return m.session(m.op("MatMul", m.input(a, k), m.weight(k, n)), (a, n), threads)
    if kind == "batched":
        b, a, k, n = sizes
        return m.session(m.op("MatMul", m.input(b, a, k), m.input(b, k, n)), (b, a, n), threads)
    if kind == "conv":
        c, h, w, o, size, groups = sizes
        y = m.op("Conv", m.input(1, c, h, w), m.weight(o, c // groups, size, size), group=groups, pads=[size // 2] * 4)
        return m.session(y, (1, o, h, w), threads)
    if kind == "softmax":
        return m.session(m.op("Softmax", m.input(*sizes), axis=1), sizes, threads)
    if kind == "layernorm":
        ones, zeros = m.constant(np.ones(sizes[1], np.float32)), m.constant(np.zeros(sizes[1], np.float32))
        y = m.op("LayerNormalization", m.input(*sizes), ones, zeros, axis=1, epsilon=1e-5)
        return m.session(y, sizes, threads)
    if kind == "gelu":
        return m.session(m.op("Gelu", m.input(*sizes)), sizes, threads)
    if kind == "add":
        return m.session(m.op("Add", m.input(*sizes), m.input(*sizes)), sizes, threads)
    if kind == "encoder":
        y, shape = encoder(m, *sizes)
        return m.session(y, shape, threads)
    raise ValueError(kind)


def build_numpy(kind, sizes):
    random = np.random.default_rng(1)
    array = lambda *shape: random.random(shape, dtype=np.float32)
    if kind in ("matmul", "dense"):
        m, k, n = sizes
        a, b, call = array(m, k), array(k, n), np.matmul
    elif kind == "batched":
        batch, m, k, n = sizes
        a, b, call = array(batch, m, k), array(batch, k, n), np.matmul
    elif kind == "add":
        a, b, call = array(*sizes), array(*sizes), np.add
    else:
        return None
    out = call(a, b)
    return lambda: call(a, b, out=out), lambda: None


def main():
    threads = int(sys.argv[1])
    name = sys.argv[2]
    run = renew = None
    for line in sys.stdin:
        words = line.split()
        if words[0] == "run":
            times, end = [], time.perf_counter() + float(words[1])
            while time.perf_counter() < end or len(times) < 3:
                # As a job's inputs do, they come from elsewhere each time; that is not part of the run.
                renew()
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
            print(statistics.median(times), min(times), flush=True)
        else:
            sizes = tuple(int(w) for w in words[1:])
            built = build(words[0], sizes, threads) if name == "onnxruntime" else build_numpy(words[0], sizes)
            if built is None:
                print("none", flush=True)
                continue
            run, renew = built
            run()
            print("ready", flush=True)


main()
