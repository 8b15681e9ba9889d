//! ONNX files, as a guest loads them: parsing, checking, and folding of what needs no device.

use warren_onnx::Model;

use crate::take::Take;
use crate::{check_text, memory};

/// A file.
pub fn onnx(bytes: &[u8]) {
    // A message of two bytes becomes a node, and a node a folded constant of a thousand elements.
    let limit = (4 << 20) + 1024 * bytes.len();
    match memory::within(limit, || Model::parse(bytes)) {
        Err(error) => check_text(&error.to_string()),
        Ok(model) => {
            assert!(!model.outputs().is_empty());
            for value in model.inputs().iter().chain(model.outputs()) {
                assert!(!value.name.is_empty());
                assert!(value.dims.as_ref().is_none_or(|dims| dims.len() <= 8));
            }
        }
    }
}

/// Protocol Buffers under construction.
#[derive(Default)]
struct Proto(Vec<u8>);

impl Proto {
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn int(&mut self, field: u32, value: i64) -> &mut Self {
        self.varint(u64::from(field) << 3);
        self.varint(value as u64);
        self
    }

    fn float(&mut self, field: u32, value: f32) -> &mut Self {
        self.varint(u64::from(field) << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) -> &mut Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    fn message(&mut self, field: u32, message: &Proto) -> &mut Self {
        self.bytes(field, &message.0)
    }
}

const OPERATORS: [&str; 72] = [
    "Abs",
    "Add",
    "And",
    "BatchNormalization",
    "Cast",
    "Ceil",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "Cos",
    "Div",
    "Dropout",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "Greater",
    "GreaterOrEqual",
    "HardSigmoid",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Less",
    "Log",
    "MatMul",
    "Max",
    "Mean",
    "Min",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "Pad",
    "Pow",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceProd",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Round",
    "Shape",
    "Sigmoid",
    "Sign",
    "Size",
    "Slice",
    "Softmax",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Transpose",
    "Unsqueeze",
    "Where",
    "Xor",
    "Loop",
];

const ATTRIBUTES: [&str; 28] = [
    "axis",
    "axes",
    "keepdims",
    "noop_with_empty_axes",
    "perm",
    "to",
    "starts",
    "ends",
    "pads",
    "mode",
    "value",
    "value_int",
    "value_ints",
    "value_float",
    "start",
    "end",
    "allowzero",
    "alpha",
    "beta",
    "transA",
    "transB",
    "strides",
    "dilations",
    "kernel_shape",
    "group",
    "auto_pad",
    "min",
    "max",
];
const STRINGS: [&str; 6] = ["constant", "edge", "reflect", "SAME_UPPER", "VALID", "\u{1b}[31m"];
/// ONNX's numbers for the types that can be loaded, and two that cannot.
const TYPES: [i64; 11] = [1, 2, 3, 6, 7, 9, 10, 12, 13, 8, 11];

fn size_of(ty: i64) -> usize {
    match ty {
        2 | 3 | 9 => 1,
        10 => 2,
        7 | 13 | 11 => 8,
        _ => 4,
    }
}

/// A tensor of few elements, whose length now and then is a lie.
fn constant(take: &mut Take<'_>, name: &str) -> Proto {
    let mut out = Proto::default();
    // Mostly int64, of which shapes and axes are.
    let ty = if take.flag() { 7 } else { take.pick(&TYPES) };
    let mut count = 1usize;
    for _ in 0..take.below(4) {
        let dim = take.whole().max(-1);
        out.int(1, dim);
        count = count.saturating_mul(usize::try_from(dim).unwrap_or(0));
    }
    out.int(2, ty).bytes(8, name.as_bytes());
    let mut data = Vec::new();
    if count <= 600 {
        for _ in 0..count {
            let value = take.whole();
            match ty {
                1 => data.extend((value as f32).to_le_bytes()),
                _ => data.extend(&value.to_le_bytes()[..size_of(ty)]),
            }
        }
    }
    if take.u8() == 255 {
        data.pop();
    }
    out.bytes(9, &data);
    out
}

fn attribute(take: &mut Take<'_>) -> Proto {
    let name = take.pick(&ATTRIBUTES);
    let mut out = Proto::default();
    out.bytes(1, name.as_bytes());
    match name {
        "alpha" | "beta" | "value_float" | "min" | "max" => {
            out.int(20, 1).float(2, take.number() as f32);
        }
        "mode" | "auto_pad" => {
            out.int(20, 3).bytes(4, take.pick(&STRINGS).as_bytes());
        }
        "value" => {
            let tensor = constant(take, "");
            out.int(20, 4).message(5, &tensor);
        }
        "axes" | "perm" | "starts" | "ends" | "pads" | "strides" | "dilations" | "kernel_shape"
        | "value_ints" => {
            out.int(20, 7);
            for _ in 0..take.below(9) {
                out.int(8, take.whole());
            }
        }
        _ => {
            out.int(20, 2).int(3, take.whole());
        }
    }
    out
}

/// A model of constants and nodes on them, well-formed as a file, so that what is in it is looked at.
pub fn onnx_nodes(bytes: &[u8]) {
    let mut take = Take::new(bytes);
    let mut graph = Proto::default();
    let mut names = vec![String::new(), "x".to_owned()];
    let opset = 7 + take.below(15) as i64;
    for index in 0..1 + take.below(5) {
        let name = format!("c{index}");
        graph.message(5, &constant(&mut take, &name));
        names.push(name);
    }
    for index in 0..12 {
        if take.is_empty() {
            break;
        }
        let mut node = Proto::default();
        node.bytes(4, take.pick(&OPERATORS).as_bytes());
        for _ in 0..take.below(5) {
            let at = take.below(names.len());
            node.bytes(1, names[at].as_bytes());
        }
        for _ in 0..take.below(4) {
            node.message(5, &attribute(&mut take));
        }
        let name = format!("n{index}");
        node.bytes(2, name.as_bytes());
        graph.message(1, &node);
        names.push(name);
    }
    let info = |name: &str| {
        let (mut tensor, mut ty, mut info) = (Proto::default(), Proto::default(), Proto::default());
        tensor.int(1, 1);
        ty.message(1, &tensor);
        info.bytes(1, name.as_bytes()).message(2, &ty);
        info
    };
    graph.message(11, &info("x"));
    graph.message(12, &info(&names[names.len() - 1]));
    let (mut set, mut model) = (Proto::default(), Proto::default());
    set.int(2, opset);
    model.int(1, 8).message(8, &set).message(7, &graph);
    onnx(&model.0);
}
