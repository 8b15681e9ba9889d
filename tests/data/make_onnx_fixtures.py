"""Writes onnx/ops.json: small ONNX models with inputs and onnxruntime's outputs, and models that
must be refused with what the refusal has to say.

    pip install onnx onnxruntime numpy
    python tests/data/make_onnx_fixtures.py

Every byte string is base64. Tensors carry the data types of the Open Inference Protocol v2; a bool
is UINT8, for the tensor interface has no other form of it. The versions used are in the file.
"""

import base64
import json
import pathlib

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto as T
from onnx import helper, numpy_helper

OUT = pathlib.Path(__file__).parent / "onnx" / "ops.json"
rng = np.random.default_rng(7)
NAMES = {"float32": "FP32", "float16": "FP16", "int32": "INT32", "uint32": "UINT32", "int64": "INT64",
         "uint64": "UINT64", "int8": "INT8", "uint8": "UINT8", "bool": "UINT8"}
cases, invalid = [], []


def f(*shape, low=-2.0, high=2.0):
    return rng.uniform(low, high, shape).astype(np.float32)


def ints(*shape, low=-9, high=9, dtype=np.int64):
    return rng.integers(low, high, shape).astype(dtype)


def flags(*shape):
    return rng.integers(0, 2, shape).astype(bool)


class C:
    """An input that is an initializer."""

    def __init__(self, value, dtype=None):
        self.value = np.asarray(value, dtype)


def i64(*values):
    return C(np.array(values, np.int64))


def b64(data):
    return base64.b64encode(data).decode()


def tensor(name, array):
    return {"name": name, "datatype": NAMES[array.dtype.name], "shape": list(array.shape), "data": b64(array.tobytes(order="C"))}


def model_of(nodes, inputs, outputs, initializers, opset):
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=min(10, 3 + opset))


def info(name, array):
    # Symbolic dimensions, so that shapes are only known at the run.
    dims = [f"{name}{i}" for i in range(array.ndim)]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), dims)


def add(name, model, feeds):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results = session.run(None, feeds)
    assert not any(c["name"] == name for c in cases), name
    for output, result in zip(model.graph.output, results):
        output.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(result.dtype)
    cases.append({
        "name": name,
        "model": b64(model.SerializeToString()),
        "inputs": [tensor(n, a) for n, a in feeds.items()],
        "outputs": [tensor(o.name, r) for o, r in zip(model.graph.output, results)],
    })


def op(operator, *args, opset=17, tag="", out=T.FLOAT, outputs=1, **attributes):
    """One node. `args` are arrays (inputs), C (initializers) or None (absent)."""
    names, infos, constants, feeds = [], [], [], {}
    for i, arg in enumerate(args):
        name = "" if arg is None else f"x{i}"
        names.append(name)
        if isinstance(arg, C):
            constants.append(numpy_helper.from_array(arg.value, name))
        elif arg is not None:
            infos.append(info(name, arg))
            feeds[name] = arg
    ys = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(operator, names, ys, name=f"the_{operator}", **attributes)
    outs = [helper.make_tensor_value_info(y, out if i == 0 else T.BOOL, None) for i, y in enumerate(ys)]
    add(f"{operator}{'_' + tag if tag else ''}_opset{opset}", model_of([node], infos, outs, constants, opset), feeds)


# Element-wise functions of one tensor.
for name in "Abs Ceil Cos Erf Exp Floor Neg Relu Round Sigmoid Sign Sin Softplus Softsign Tan Tanh Identity".split():
    op(name, f(2, 5), opset=13)
op("Round", np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32), tag="ties")
op("Log", f(2, 5, low=0.1), opset=13)
op("Sqrt", f(2, 5, low=0.1), opset=13)
op("Reciprocal", f(2, 5, low=0.5), opset=13)
op("Abs", ints(6, dtype=np.int32), out=T.INT32, tag="int32")
op("Abs", ints(6, low=0, dtype=np.uint8), out=T.UINT8, tag="uint8")
op("Neg", ints(6), out=T.INT64, tag="int64")
op("Sign", ints(6, dtype=np.int32), out=T.INT32, tag="int32")
op("Relu", ints(6, dtype=np.int32), out=T.INT32, tag="int32", opset=14)
op("Sigmoid", f(2, 5).astype(np.float16), out=T.FLOAT16, tag="float16")
op("Elu", f(2, 5), alpha=0.7)
op("Elu", f(2, 5), tag="default", opset=7)
op("LeakyRelu", f(2, 5), alpha=0.3)
op("LeakyRelu", f(2, 5), tag="default", opset=7)
op("HardSigmoid", f(2, 5) * 3, alpha=0.25, beta=0.4)
op("HardSigmoid", f(2, 5) * 3, tag="default")
op("HardSwish", f(2, 9) * 3)
op("Gelu", f(2, 9), opset=20)
op("Gelu", f(2, 9), opset=20, tag="tanh", approximate="tanh")
op("Clip", f(2, 5), opset=7, min=-0.5, max=0.5)
op("Clip", f(2, 5), opset=7, tag="min", min=0.1)
op("Clip", f(2, 5), C(-0.5, np.float32), C(0.5, np.float32))
op("Clip", f(2, 5), None, C(0.5, np.float32), tag="max")
op("Clip", f(2, 5), C(0.5, np.float32), tag="min")
op("Clip", f(2, 5), np.array(-0.3, np.float32), np.array(0.3, np.float32), tag="inputs")
op("Clip", ints(9, dtype=np.int32), C(-2, np.int32), C(3, np.int32), out=T.INT32, tag="int32")
op("Clip", np.array([np.inf, -np.inf, 1], np.float32), tag="open")
special = np.array([1, np.nan, np.inf, -np.inf, 0], np.float32)
op("IsNaN", special, out=T.BOOL)
op("IsInf", special, out=T.BOOL)
op("IsInf", special, out=T.BOOL, tag="negative", detect_positive=0)
op("IsInf", special, out=T.BOOL, tag="positive", detect_negative=0)
op("IsInf", special, out=T.BOOL, tag="neither", detect_negative=0, detect_positive=0)
op("Not", flags(2, 5), out=T.BOOL)
op("Dropout", f(2, 5), opset=7, ratio=0.3)
op("Dropout", f(2, 5), outputs=2, opset=12, tag="mask")
op("Dropout", f(2, 5), C(0.3, np.float32), C(False), outputs=2, opset=13)

# Two tensors and more, broadcasting.
for name in "Add Sub Mul Div".split():
    op(name, f(2, 3, 4), f(2, 3, 4, low=0.5), opset=14)
    op(name, f(3, 1), f(2, 1, 4, low=0.5), tag="broadcast", opset=7)
    op(name, ints(6, dtype=np.int32), ints(6, low=1, dtype=np.int32), out=T.INT32, tag="int32")
    op(name, ints(2, 3), i64(3), out=T.INT64, tag="int64_scalar")
op("Pow", f(2, 3, low=0.1), f(3))
op("Pow", f(2, 3), C(2.0, np.float32), tag="square")
op("Pow", f(2, 3, low=0.1), C(0.5, np.float32), tag="root")
op("Pow", f(2, 3), C([3], np.int64), tag="int_exponent")
op("Pow", ints(6, low=0, high=5, dtype=np.int32), ints(6, low=0, high=4, dtype=np.int32), out=T.INT32, tag="int32")
op("Pow", ints(6, low=0, high=5, dtype=np.int32), C(2.0, np.float32), out=T.INT32, tag="int32_square")
for name in "Min Max Sum Mean".split():
    op(name, f(2, 3), opset=13, tag="one")
    op(name, f(2, 3), f(3), opset=13, tag="two")
    op(name, f(2, 3), f(2, 1), f(3), f(1), opset=8, tag="four")
op("Max", np.array([1, np.nan], np.float32), np.array([np.nan, 2], np.float32), tag="nan")
op("Min", ints(4), ints(4), out=T.INT64, tag="int64")
for name in "Equal Less Greater".split():
    op(name, ints(3, 4, low=0, high=3), ints(4, low=0, high=3), opset=13, out=T.BOOL)
    op(name, f(3, 1).round(), f(1, 4).round(), opset=13, out=T.BOOL, tag="float32")
for name in "LessOrEqual GreaterOrEqual".split():
    op(name, f(3, 1).round(), f(1, 4).round(), opset=16, out=T.BOOL)
op("Equal", flags(6), flags(6), out=T.BOOL, tag="bool")
for name in "And Or Xor".split():
    op(name, flags(2, 4), flags(4), out=T.BOOL, opset=7)
op("Where", flags(2, 3), f(2, 3), f(2, 3))
op("Where", flags(3, 1), f(4), C(0.0, np.float32), tag="broadcast")
op("Where", flags(4), ints(4), ints(4), out=T.INT64, tag="int64")
for source, target in [("float32", "int32"), ("float32", "bool"), ("bool", "float32"), ("int64", "float32"),
                       ("int32", "int64"), ("float32", "float16"), ("float16", "float32"), ("int64", "bool"),
                       ("uint8", "int32"), ("float32", "uint8"), ("float32", "float32"), ("bool", "int64"),
                       ("int8", "int64"), ("int64", "uint32"), ("int64", "int8"), ("float32", "uint64")]:
    x = (f(2, 4) * 2).round(1)
    x = abs(x) if target.startswith("uint") else x
    x = ints(2, 4, low=0).astype(source) if "int" in source else x.astype(source)
    to = helper.np_dtype_to_tensor_dtype(np.dtype(target))
    op("Cast", x, to=to, out=to, tag=f"{source}_{target}")
op("Cast", f(3), to=T.INT64, out=T.INT64, opset=21, tag="saturate", saturate=1)

# Shapes and movement.
op("Shape", f(2, 3, 4), out=T.INT64, opset=13)
op("Shape", f(2, 3, 4), out=T.INT64, tag="range", start=-2, end=3)
op("Size", f(2, 3, 4), out=T.INT64)
op("Reshape", f(2, 3, 4), i64(0, -1))
op("Reshape", f(2, 3, 4), i64(4, 1, 6), tag="plain", opset=7)
op("Reshape", f(2, 3), np.array([3, -1], np.int64), tag="input")
op("Reshape", f(1, 1), C(np.zeros(0, np.int64)), tag="scalar")
op("Reshape", f(2, 3), i64(3, 2), tag="allowzero", allowzero=1)
op("Squeeze", f(1, 3, 1), opset=7)
op("Squeeze", f(1, 3, 1), opset=11, tag="axes", axes=[-1])
op("Squeeze", f(1, 3, 1), i64(0), opset=13)
op("Unsqueeze", f(2, 3), opset=11, axes=[0, -1])
op("Unsqueeze", f(2, 3), i64(3, 0), opset=13)
op("Flatten", f(2, 3, 4))
op("Flatten", f(2, 3, 4), tag="axis0", axis=0, opset=9)
op("Flatten", f(2, 3, 4), tag="negative", axis=-1)
op("Flatten", f(2, 3), tag="rank", axis=2)
op("Transpose", f(2, 3, 4))
op("Transpose", f(2, 3, 4), tag="perm", perm=[1, 0, 2])
op("Transpose", ints(2, 3, dtype=np.uint8, low=0), tag="uint8", out=T.UINT8)
op("Concat", f(2, 3), f(1, 3), axis=0)
op("Concat", f(2, 3), f(2, 1), f(2, 2), axis=-1, tag="negative")
op("Concat", f(2, 3), axis=1, tag="one")
op("Concat", ints(2), i64(7), ints(1), axis=0, tag="int64", out=T.INT64)
op("Slice", f(5, 6), opset=9, starts=[1, -4], ends=[4, 2147483647], axes=[0, 1])
op("Slice", f(5, 6), opset=9, starts=[1], ends=[-1], tag="noaxes")
op("Slice", f(5, 6), i64(1, 0), i64(9, 6), i64(1, 0), i64(2, 3), tag="steps")
op("Slice", f(5, 6), i64(-1), i64(-9223372036854775807), i64(0), i64(-1), tag="reversed")
op("Slice", f(5, 6), i64(4, 5), i64(0, 1), i64(0, 1), i64(-2, -3), tag="backwards")
op("Slice", f(5, 6), i64(1), i64(3), tag="noaxes")
op("Slice", f(5), np.array([1], np.int64), np.array([4], np.int64), tag="inputs")
op("Slice", ints(7), C([2], np.int32), C([100], np.int32), tag="int32", out=T.INT64)
op("Gather", f(4, 3), C(1, np.int64), axis=0, tag="scalar")
op("Gather", f(4, 3), C([[2, -1], [0, 0]], np.int64), axis=1, tag="matrix")
op("Gather", f(4, 3), C([3, 1], np.int32), tag="int32", opset=7)
op("Gather", ints(5), np.array([4, 0], np.int64), tag="input", out=T.INT64)
op("Expand", f(3, 1), i64(2, 1, 4), opset=8)
op("Expand", f(2, 3), i64(1, 1), tag="both")
op("Pad", f(2, 3), opset=7, pads=[0, 1, 2, 0], value=1.5)
op("Pad", f(2, 3), i64(0, 1, 2, 0))
op("Pad", f(2, 3), i64(0, 1, 2, 0), C(-0.5, np.float32), tag="value")
op("Pad", f(3, 4), i64(1, 2, 2, 3), mode="reflect", tag="reflect")
op("Pad", f(3, 4), i64(1, 2, 2, 3), mode="edge", tag="edge")
op("Pad", f(3, 5), i64(-1, 2, 0, -2), tag="negative")
op("Pad", f(3, 5), i64(-1, 0, 0, -2), tag="crop")
op("Pad", f(2, 3, 4), i64(1, 2), None, i64(-1), opset=18, tag="axes")
op("Pad", ints(2, 3, dtype=np.int32), i64(1, 1, 1, 1), C(7, np.int32), tag="int32", out=T.INT32)
op("ConstantOfShape", np.array([2, 3], np.int64))
op("ConstantOfShape", i64(2), value=numpy_helper.from_array(np.array([5], np.int64)), tag="int64", out=T.INT64)
op("ConstantOfShape", i64(40, 50), value=numpy_helper.from_array(np.array([0.5], np.float32)), tag="large")
for tag, attributes, out in [("tensor", {"value": numpy_helper.from_array(f(2, 2))}, T.FLOAT),
                             ("int", {"value_int": 3}, T.INT64), ("ints", {"value_ints": [3, -4]}, T.INT64),
                             ("float", {"value_float": 0.5}, T.FLOAT), ("floats", {"value_floats": [0.5, 1.5]}, T.FLOAT),
                             ("bool", {"value": numpy_helper.from_array(np.array([True, False]))}, T.BOOL)]:
    op("Constant", opset=13, tag=tag, out=out, **attributes)

# Reductions.
for name in "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare".split():
    x = f(2, 3, 4, low=0.1 if name == "ReduceLogSum" else -2)
    op(name, x, opset=11, axes=[-1, 0], keepdims=0, tag="attribute")
    op(name, x, opset=11, tag="all")
    op(name, x, i64(1), opset=18)
    op(name, x, i64(2, -3), opset=18, keepdims=0, tag="keepdims0")
op("ReduceSum", f(2, 3), opset=13, noop_with_empty_axes=1, tag="noop")
op("ReduceSum", f(2, 3), C(np.zeros(0, np.int64)), opset=13, tag="empty")
op("ReduceSum", ints(2, 3), i64(0), opset=13, out=T.INT64, tag="int64")
op("ReduceMax", ints(2, 3, dtype=np.int32), opset=13, axes=[1], out=T.INT32, tag="int32")
op("ReduceProd", ints(4, low=1, high=5), opset=13, out=T.INT64, tag="int64")

# Matrices, convolution, normalisation.
op("MatMul", f(2, 3), f(3, 4))
op("MatMul", f(2, 1, 3, 4), f(5, 4, 2), tag="batched")
op("MatMul", f(3), f(3, 4), tag="row")
op("MatMul", f(5, 2, 3), f(3), tag="column")
op("MatMul", f(3), f(3), tag="dot")
op("MatMul", f(3), f(2, 3, 4), tag="row_batched")
op("Gemm", f(2, 3), f(3, 4), f(4), opset=7)
op("Gemm", f(3, 2), f(4, 3), f(2, 1), transA=1, transB=1, alpha=0.5, beta=2.0, tag="all")
op("Gemm", f(2, 3), f(3, 4), tag="noc")
op("Gemm", f(2, 3), f(3, 4), C(0.5, np.float32), tag="scalar")
op("Conv", f(1, 2, 6, 7), f(3, 2, 3, 3), f(3), pads=[1, 0, 2, 1])
op("Conv", f(2, 2, 6, 7), f(3, 2, 3, 2), strides=[2, 3], dilations=[2, 1], tag="strides")
op("Conv", f(1, 4, 5, 5), f(4, 2, 3, 3), group=2, kernel_shape=[3, 3], tag="group")
op("Conv", f(1, 3, 5, 5), f(3, 1, 3, 3), C(f(3)), group=3, tag="depthwise")
op("Conv", f(1, 3, 5, 5), f(4, 3, 1, 1), tag="pointwise")
for mode in ["SAME_UPPER", "SAME_LOWER", "VALID"]:
    # onnxruntime's SAME_* ignores dilation in some versions, so none here.
    op("Conv", f(1, 2, 6, 7), f(3, 2, 4, 2), auto_pad=mode, strides=[2, 2], tag=mode.lower())
op("Conv", f(2, 3, 10), f(4, 3, 3), f(4), pads=[2, 1], strides=[2], dilations=[2], tag="1d")
op("Conv", f(1, 4, 8), f(4, 1, 4), group=4, auto_pad="SAME_UPPER", tag="1d_same")
op("BatchNormalization", f(2, 3, 2, 2), C(f(3)), C(f(3)), C(f(3)), C(f(3, low=0.1)), opset=9, epsilon=1e-3)
op("BatchNormalization", f(2, 3), C(f(3)), C(f(3)), C(f(3)), C(f(3, low=0.1)), opset=15, momentum=0.8, tag="2d")
op("GlobalAveragePool", f(2, 3, 4, 5))
op("GlobalAveragePool", f(2, 3, 7), tag="1d")
op("GlobalMaxPool", f(2, 3, 4, 5))
op("Softmax", f(2, 3, 4), opset=13)
op("Softmax", f(2, 3, 4), opset=13, tag="axis", axis=1)
op("Softmax", f(2, 3, 4), opset=11)
op("Softmax", f(2, 3, 4), opset=11, tag="axis", axis=-1)
op("Softmax", f(2, 3, 4), opset=11, tag="axis0", axis=0)


# Several nodes: what must be computed before anything is recorded.
def graph(name, text, feeds, outputs, constants=None, opset=17):
    nodes = []
    for line in text:
        operator, inputs, output, attributes = (list(line) + [{}])[:4]
        nodes.append(helper.make_node(operator, inputs.split(), output.split(), **attributes))
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()]
    outs = [helper.make_tensor_value_info(n, t, None) for n, t in outputs.items()]
    add(name, model_of(nodes, [info(k, v) for k, v in feeds.items()], outs, initializers, opset), feeds)


c = np.int64
graph("shape_arithmetic", [
    ("Shape", "x", "s"), ("Gather", "s zero", "batch"), ("Gather", "s one", "width"), ("Mul", "width two", "double"),
    ("Cast", "double", "df", {"to": T.FLOAT}), ("Div", "df twof", "half"), ("Floor", "half", "hf"),
    ("Cast", "hf", "hi", {"to": T.INT64}), ("Unsqueeze", "batch axis", "b1"), ("Unsqueeze", "hi axis", "h1"),
    ("Concat", "b1 h1 minus", "target", {"axis": 0}), ("Reshape", "x target", "y"),
], {"x": f(2, 3, 4)}, {"y": T.FLOAT}, {"zero": c(0), "one": c(1), "two": c(2), "twof": np.float32(2),
                                       "axis": np.array([0], c), "minus": np.array([-1], c)})
graph("expand_by_where", [
    ("Shape", "x", "s"), ("ConstantOfShape", "rank", "ones", {"value": numpy_helper.from_array(np.array([1], c))}),
    ("Mul", "ones minus", "m"), ("Equal", "wish m", "inherit"), ("Where", "inherit ones wish", "shape"), ("Expand", "x shape", "y"),
    ("ReduceProd", "s", "n", {"keepdims": 0}),
], {"x": f(2, 1, 3)}, {"y": T.FLOAT, "n": T.INT64},
    {"rank": np.array([3], c), "minus": c(-1), "wish": np.array([-1, 4, -1], c)})
graph("shape_from_data", [
    ("ReduceMax", "n", "m", {"keepdims": 1}), ("Concat", "m minus", "t", {"axis": 0}), ("Reshape", "x t", "y"),
], {"x": f(2, 6), "n": np.array([1, 4, 2], c)}, {"y": T.FLOAT}, {"minus": np.array([-1], c)})
graph("output_is_input_and_weight", [("Identity", "x", "y"), ("Identity", "x", "z"), ("Identity", "w", "v"), ("Add", "x w", "a")],
      {"x": f(2, 3)}, {"y": T.FLOAT, "z": T.FLOAT, "v": T.FLOAT, "a": T.FLOAT}, {"w": f(2, 3)})
graph("two_outputs_share_work", [("Exp", "x", "e"), ("Neg", "e", "y"), ("Add", "e y", "z")],
      {"x": f(2, 3)}, {"e": T.FLOAT, "z": T.FLOAT})
graph("bool_input_reaches_a_cast", [("Cast", "m", "f", {"to": T.FLOAT}), ("Mul", "f x", "y")],
      {"m": flags(2, 3), "x": f(2, 3)}, {"y": T.FLOAT})


# Every way to write down a weight.
def packed(name, data_type, field, values, reference):
    weight = onnx.TensorProto(name="w", data_type=data_type, dims=[len(values)])
    getattr(weight, field).extend(values)
    node = helper.make_node("Identity", ["w"], ["y"])
    out = helper.make_tensor_value_info("y", data_type, [len(values)])
    add(f"weight_{name}", model_of([node], [], [out], [weight], 17), {})
    assert cases[-1]["outputs"][0]["data"] == b64(reference.tobytes()), name


packed("float_data", T.FLOAT, "float_data", [0.5, -1.5], np.array([0.5, -1.5], np.float32))
packed("int32_data", T.INT32, "int32_data", [5, -6], np.array([5, -6], np.int32))
packed("int8", T.INT8, "int32_data", [5, -6], np.array([5, -6], np.int8))
packed("uint8", T.UINT8, "int32_data", [5, 250], np.array([5, 250], np.uint8))
packed("bool", T.BOOL, "int32_data", [1, 0], np.array([True, False]))
half = np.array([0.5, -1.5, 65504], np.float16)
packed("float16", T.FLOAT16, "int32_data", half.view(np.uint16).tolist(), half)
packed("int64_data", T.INT64, "int64_data", [5, -(1 << 60)], np.array([5, -(1 << 60)], np.int64))
packed("uint64_data", T.UINT64, "uint64_data", [5, 1 << 63], np.array([5, 1 << 63], np.uint64))
packed("uint32", T.UINT32, "uint64_data", [5, 1 << 31], np.array([5, 1 << 31], np.uint32))


# What must be refused, and the words that the refusal has to contain.
def refuse(name, data, *words):
    invalid.append({"name": name, "model": b64(data if isinstance(data, bytes) else data.SerializeToString()), "says": list(words)})


def small(nodes, opset=17, inputs=None, outputs=None, initializers=(), domains=()):
    x = helper.make_tensor_value_info("x", T.FLOAT, ["n", 3])
    y = helper.make_tensor_value_info("y", T.FLOAT, None)
    model = model_of(nodes, [x] if inputs is None else inputs, [y] if outputs is None else outputs, list(initializers), opset)
    model.opset_import.extend(helper.make_opsetid(d, 1) for d in domains)
    return model


def n(operator, inputs, outputs="y", name="bad", **attributes):
    return helper.make_node(operator, inputs.split(), outputs.split(), name=name, **attributes)


refuse("empty", b"", "graph")
refuse("text", b"this is no model at all", "not an ONNX file")
refuse("truncated", small([n("Relu", "x")], initializers=[numpy_helper.from_array(f(9), "w")]).SerializeToString()[:-30], "truncated")
refuse("unknown_operator", small([n("Einsum", "x", equation="ij->ji")]), "bad", "Einsum", "17", "not supported")
refuse("other_domain", small([n("Gelu", "x", domain="com.microsoft")], domains=["com.microsoft"]), "com.microsoft::Gelu")
refuse("too_early", small([n("Gelu", "x")]), "Gelu", "opset 20")
refuse("unknown_attribute", small([n("Relu", "x", slope=0.5)]), "bad", "Relu", "slope")
refuse("attribute_of_later_opset", small([n("Reshape", "x s", allowzero=1)], opset=13,
                                         initializers=[numpy_helper.from_array(np.array([-1]), "s")]), "allowzero")
refuse("attribute_value", small([n("Pad", "x p", mode="wrap")], opset=19,
                                initializers=[numpy_helper.from_array(np.zeros(4, c), "p")]), "wrap")
refuse("attribute_kind", small([n("LeakyRelu", "x", alpha="steep")]), "alpha", "float")
refuse("attribute_missing", small([n("Concat", "x x")]), "Concat", "axis")
refuse("cycle", small([n("Add", "x b", "a", name="first"), n("Neg", "a", "b", name="second"), n("Relu", "b")]), "cycle")
refuse("own_output", small([n("Add", "x y")]), "bad", "cycle")
refuse("missing_input", small([n("Add", "x nowhere")]), "bad", "nowhere")
refuse("missing_output", small([n("Relu", "x", "z")]), '"y"')
refuse("no_outputs", small([n("Relu", "x")], outputs=[]), "no outputs")
refuse("too_few_inputs", small([n("Add", "x")]), "Add", "1 inputs")
refuse("too_many_inputs", small([n("Relu", "x x")]), "Relu", "2 inputs")
refuse("defined_twice", small([n("Relu", "x"), n("Neg", "x")]), '"y"', "twice")
refuse("opset_too_new", small([n("Relu", "x")], opset=99), "opset 99", "7 to 21")
refuse("opset_too_old", small([n("Relu", "x")], opset=6), "opset 6")
no_opset = small([n("Relu", "x")])
del no_opset.opset_import[:]
refuse("no_opset", no_opset, "operator set")
for tag, dims, words in [("negative", [-1], ["negative"]), ("wrong", [4], ["bytes"]),
                         ("overflowing", [1 << 31] * 8, ["elements"]), ("deep", [1] * 9, ["rank"])]:
    weight = numpy_helper.from_array(f(3), "w")
    del weight.dims[:]
    weight.dims.extend(dims)
    refuse(f"weight_dims_{tag}", small([n("Add", "x w")], initializers=[weight]), '"w"', *words)
short = onnx.TensorProto(name="w", data_type=T.FLOAT, dims=[3], float_data=[1, 2])
refuse("weight_too_short", small([n("Add", "x w")], initializers=[short]), '"w"', "3 elements", "2")
wide = onnx.TensorProto(name="w", data_type=T.INT8, dims=[1], int32_data=[300])
refuse("weight_out_of_range", small([n("Add", "x w")], initializers=[wide]), '"w"', "300")
away = onnx.TensorProto(name="w", data_type=T.FLOAT, dims=[3], data_location=1)
away.external_data.add(key="location", value="../../etc/passwd")
refuse("weight_external", small([n("Add", "x w")], initializers=[away]), '"w"', "another file")
double = numpy_helper.from_array(np.zeros(3), "w")
refuse("weight_float64", small([n("Add", "x w")], initializers=[double]), '"w"', "float64", "float32")
refuse("cast_to_string", small([n("Cast", "x", to=T.STRING)]), "Cast", "string")
refuse("input_negative_dim", small([n("Relu", "x")], inputs=[helper.make_tensor_value_info("x", T.FLOAT, [-3])]), '"x"', "negative")
refuse("input_sequence", small([n("Relu", "x")], inputs=[helper.make_tensor_sequence_value_info("x", T.FLOAT, None)]), '"x"', "sequence")
refuse("constant_reshape", small([n("Reshape", "w s")], initializers=[numpy_helper.from_array(np.arange(3), "w"),
                                                                      numpy_helper.from_array(np.array([2, 2]), "s")]), "bad", "Reshape", "[2, 2]")
refuse("training_dropout", small([n("Dropout", "x r t")], initializers=[numpy_helper.from_array(np.float32(0.5), "r"),
                                                                        numpy_helper.from_array(np.array(True), "t")]), "training_mode")
refuse("dropout_mask_too_early", small([n("Dropout", "x", "y m"), n("Not", "m", "z", name="not")], opset=10), "mask", "opset 12")
refuse("conv_3d", small([n("Conv", "x w")], initializers=[numpy_helper.from_array(f(1, 1, 2, 2, 2), "w")]), "Conv", "1-D and 2-D")

text = json.dumps({"onnx": onnx.__version__, "onnxruntime": ort.__version__, "cases": cases, "invalid": invalid})
OUT.parent.mkdir(exist_ok=True)
OUT.write_text(text.replace('{"name"', '\n{"name"').replace(', \n', ',\n') + "\n")
print(f"{len(cases)} cases, {len(invalid)} refusals, {OUT.stat().st_size} bytes, onnxruntime {ort.__version__}")
