//! The table of operators: since which opset, how many inputs, and how its attributes are read.
//!
//! Opsets and attributes are those of <https://onnx.ai/onnx/operators/>, versions 7 to 21.

use super::elementwise::{Activation, Binary, Compare, Logic, Unary};
use super::linear::{Conv, ConvPads};
use super::movement::PadMode;
use super::reduce::Kind;
use super::slices::Bounds;
use super::{Op, Reader};
use crate::host::{Data, Host};
use crate::load::arity;
use crate::types::Type;
use crate::weights::decode_tensor;

/// How an operator is checked.
pub struct Entry {
    /// ONNX's name for it.
    pub name: &'static str,
    /// The opset that introduced it; 7 also for what is older.
    pub since: i64,
    /// The fewest inputs in any opset.
    pub least: usize,
    /// The most inputs in any opset.
    pub most: usize,
    /// Reads the attributes.
    pub load: fn(&mut Reader<'_>) -> Result<Op, String>,
}

const MANY: usize = usize::MAX;

const fn entry(
    name: &'static str,
    since: i64,
    least: usize,
    most: usize,
    load: fn(&mut Reader<'_>) -> Result<Op, String>,
) -> Entry {
    Entry { name, since, least, most, load }
}

/// The operator called `name` in the default domain. `Constant` is not here: it is no operation.
pub fn find(name: &str) -> Option<&'static Entry> {
    TABLE.iter().find(|e| e.name == name)
}

/// The names of all operators, `Constant` too.
#[cfg(test)]
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|e| e.name).chain(["Constant"])
}

static TABLE: &[Entry] = &[
    entry("Abs", 7, 1, 1, |_| Ok(Op::Unary(Unary::Abs))),
    entry("Add", 7, 2, 2, |_| Ok(Op::Binary(Binary::Add))),
    entry("And", 7, 2, 2, |_| Ok(Op::Logic(Logic::And))),
    entry("BatchNormalization", 7, 5, 5, batch_normalization),
    entry("Cast", 7, 1, 1, cast),
    entry("Ceil", 7, 1, 1, |_| Ok(Op::Unary(Unary::Ceil))),
    entry("Clip", 7, 1, 3, clip),
    entry("Concat", 7, 1, MANY, |r| Ok(Op::Concat { axis: required(r.int("axis")?, "axis")? })),
    entry("ConstantOfShape", 9, 1, 1, constant_of_shape),
    entry("Conv", 7, 2, 3, conv),
    entry("Cos", 7, 1, 1, |_| Ok(Op::Unary(Unary::Cos))),
    entry("Div", 7, 2, 2, |_| Ok(Op::Binary(Binary::Div))),
    entry("Dropout", 7, 1, 3, dropout),
    entry("Elu", 7, 1, 1, |r| {
        Ok(Op::Activation(Activation::Elu { alpha: r.float("alpha")?.unwrap_or(1.0) }))
    }),
    entry("Equal", 7, 2, 2, |_| Ok(Op::Compare(Compare::Equal))),
    entry("Erf", 9, 1, 1, |_| Ok(Op::Unary(Unary::Erf))),
    entry("Exp", 7, 1, 1, |_| Ok(Op::Unary(Unary::Exp))),
    entry("Expand", 8, 2, 2, |_| Ok(Op::Expand)),
    entry("Flatten", 7, 1, 1, flatten),
    entry("Floor", 7, 1, 1, |_| Ok(Op::Unary(Unary::Floor))),
    entry("Gather", 7, 2, 2, |r| Ok(Op::Gather { axis: r.int("axis")?.unwrap_or(0) })),
    entry("Gelu", 20, 1, 1, gelu),
    entry("Gemm", 7, 2, 3, gemm),
    entry("GlobalAveragePool", 7, 1, 1, |_| Ok(Op::GlobalPool { max: false })),
    entry("GlobalMaxPool", 7, 1, 1, |_| Ok(Op::GlobalPool { max: true })),
    entry("Greater", 7, 2, 2, |_| Ok(Op::Compare(Compare::Greater))),
    entry("GreaterOrEqual", 12, 2, 2, |_| Ok(Op::Compare(Compare::GreaterOrEqual))),
    entry("HardSigmoid", 7, 1, 1, |r| {
        let (alpha, beta) = (r.float("alpha")?.unwrap_or(0.2), r.float("beta")?.unwrap_or(0.5));
        Ok(Op::Activation(Activation::HardSigmoid { alpha, beta }))
    }),
    entry("HardSwish", 14, 1, 1, |_| Ok(Op::Activation(Activation::HardSwish))),
    entry("Identity", 7, 1, 1, |_| Ok(Op::Identity)),
    entry("IsInf", 10, 1, 1, |r| {
        let (negative, positive) = (r.flag("detect_negative", true)?, r.flag("detect_positive", true)?);
        Ok(Op::IsInf { negative, positive })
    }),
    entry("IsNaN", 9, 1, 1, |_| Ok(Op::IsNan)),
    entry("LeakyRelu", 7, 1, 1, |r| {
        Ok(Op::Activation(Activation::LeakyRelu { alpha: r.float("alpha")?.unwrap_or(0.01) }))
    }),
    entry("Less", 7, 2, 2, |_| Ok(Op::Compare(Compare::Less))),
    entry("LessOrEqual", 12, 2, 2, |_| Ok(Op::Compare(Compare::LessOrEqual))),
    entry("Log", 7, 1, 1, |_| Ok(Op::Unary(Unary::Log))),
    entry("MatMul", 7, 2, 2, |_| Ok(Op::MatMul)),
    entry("Max", 7, 1, MANY, |_| Ok(Op::Variadic { op: Binary::Max, mean: false })),
    entry("Mean", 7, 1, MANY, |_| Ok(Op::Variadic { op: Binary::Add, mean: true })),
    entry("Min", 7, 1, MANY, |_| Ok(Op::Variadic { op: Binary::Min, mean: false })),
    entry("Mul", 7, 2, 2, |_| Ok(Op::Binary(Binary::Mul))),
    entry("Neg", 7, 1, 1, |_| Ok(Op::Unary(Unary::Neg))),
    entry("Not", 7, 1, 1, |_| Ok(Op::Not)),
    entry("Or", 7, 2, 2, |_| Ok(Op::Logic(Logic::Or))),
    entry("Pad", 7, 1, 4, pad),
    entry("Pow", 7, 2, 2, |_| Ok(Op::Pow)),
    entry("Reciprocal", 7, 1, 1, |_| Ok(Op::Unary(Unary::Reciprocal))),
    entry("ReduceL1", 7, 1, 2, |r| reduce(r, Kind::L1, 18)),
    entry("ReduceL2", 7, 1, 2, |r| reduce(r, Kind::L2, 18)),
    entry("ReduceLogSum", 7, 1, 2, |r| reduce(r, Kind::LogSum, 18)),
    entry("ReduceLogSumExp", 7, 1, 2, |r| reduce(r, Kind::LogSumExp, 18)),
    entry("ReduceMax", 7, 1, 2, |r| reduce(r, Kind::Max, 18)),
    entry("ReduceMean", 7, 1, 2, |r| reduce(r, Kind::Mean, 18)),
    entry("ReduceMin", 7, 1, 2, |r| reduce(r, Kind::Min, 18)),
    entry("ReduceProd", 7, 1, 2, |r| reduce(r, Kind::Prod, 18)),
    entry("ReduceSum", 7, 1, 2, |r| reduce(r, Kind::Sum, 13)),
    entry("ReduceSumSquare", 7, 1, 2, |r| reduce(r, Kind::SumSquare, 18)),
    entry("Relu", 7, 1, 1, |_| Ok(Op::Unary(Unary::Relu))),
    entry("Reshape", 7, 2, 2, |r| {
        let allow_zero = if r.opset >= 14 { r.flag("allowzero", false)? } else { false };
        Ok(Op::Reshape { allow_zero })
    }),
    entry("Round", 11, 1, 1, |_| Ok(Op::Unary(Unary::Round))),
    entry("Shape", 7, 1, 1, |r| {
        let (start, end) = if r.opset >= 15 { (r.int("start")?, r.int("end")?) } else { (None, None) };
        Ok(Op::Shape { start: start.unwrap_or(0), end })
    }),
    entry("Sigmoid", 7, 1, 1, |_| Ok(Op::Unary(Unary::Sigmoid))),
    entry("Sign", 9, 1, 1, |_| Ok(Op::Unary(Unary::Sign))),
    entry("Sin", 7, 1, 1, |_| Ok(Op::Unary(Unary::Sin))),
    entry("Size", 7, 1, 1, |_| Ok(Op::Size)),
    entry("Slice", 7, 1, 5, slice),
    entry("Softmax", 7, 1, 1, |r| {
        let flat = r.opset < 13;
        Ok(Op::Softmax { axis: r.int("axis")?.unwrap_or(if flat { 1 } else { -1 }), flat })
    }),
    entry("Softplus", 7, 1, 1, |_| Ok(Op::Unary(Unary::Softplus))),
    entry("Softsign", 7, 1, 1, |_| Ok(Op::Unary(Unary::Softsign))),
    entry("Sqrt", 7, 1, 1, |_| Ok(Op::Unary(Unary::Sqrt))),
    entry("Squeeze", 7, 1, 2, |r| Ok(Op::Squeeze { axes: axes(r, false)? })),
    entry("Sub", 7, 2, 2, |_| Ok(Op::Binary(Binary::Sub))),
    entry("Sum", 7, 1, MANY, |_| Ok(Op::Variadic { op: Binary::Add, mean: false })),
    entry("Tan", 7, 1, 1, |_| Ok(Op::Unary(Unary::Tan))),
    entry("Tanh", 7, 1, 1, |_| Ok(Op::Unary(Unary::Tanh))),
    entry("Transpose", 7, 1, 1, |r| Ok(Op::Transpose { permutation: r.ints("perm")? })),
    entry("Unsqueeze", 7, 1, 2, |r| Ok(Op::Unsqueeze { axes: axes(r, true)? })),
    entry("Where", 9, 3, 3, |_| Ok(Op::Where)),
    entry("Xor", 7, 2, 2, |_| Ok(Op::Logic(Logic::Xor))),
];

fn required<T>(value: Option<T>, name: &str) -> Result<T, String> {
    value.ok_or_else(|| format!("attribute {name:?} is missing"))
}

/// Inputs that only exist in some opsets.
fn inputs(r: &Reader<'_>, least: usize, most: usize) -> Result<(), String> {
    let given = r.inputs.len();
    if given > most || (0..least).any(|i| !r.has(i)) {
        return Err(format!("it has {given} inputs; at this opset it takes {}", arity(least, most)));
    }
    Ok(())
}

/// Axes of Squeeze and Unsqueeze: an attribute before opset 13, then an input.
fn axes(r: &mut Reader<'_>, need: bool) -> Result<Option<Vec<i64>>, String> {
    if r.opset >= 13 {
        inputs(r, if need { 2 } else { 1 }, 2)?;
        return Ok(None);
    }
    inputs(r, 1, 1)?;
    let axes = r.ints("axes")?;
    if need { required(axes, "axes").map(Some) } else { Ok(axes) }
}

fn reduce(r: &mut Reader<'_>, kind: Kind, axes_are_input_since: i64) -> Result<Op, String> {
    let keep = r.flag("keepdims", true)?;
    if r.opset >= axes_are_input_since {
        let noop = r.flag("noop_with_empty_axes", false)?;
        return Ok(Op::Reduce { kind, axes: None, keep, noop });
    }
    inputs(r, 1, 1)?;
    Ok(Op::Reduce { kind, axes: r.ints("axes")?, keep, noop: false })
}

fn cast(r: &mut Reader<'_>) -> Result<Op, String> {
    if r.opset >= 19 {
        // Only says something about float8, which is refused.
        r.flag("saturate", true)?;
    }
    Ok(Op::Cast(required(r.element_type("to")?, "to")?))
}

fn clip(r: &mut Reader<'_>) -> Result<Op, String> {
    if r.opset >= 11 {
        return Ok(Op::Clip { min: None, max: None });
    }
    inputs(r, 1, 1)?;
    let (min, max) = (r.float("min")?.unwrap_or(f32::MIN), r.float("max")?.unwrap_or(f32::MAX));
    if min.is_nan() || max.is_nan() {
        return Err("attribute \"min\" or \"max\" is not a number".into());
    }
    Ok(Op::Clip { min: Some(min), max: Some(max) })
}

fn flatten(r: &mut Reader<'_>) -> Result<Op, String> {
    let axis = r.int("axis")?.unwrap_or(1);
    if r.opset < 11 && axis < 0 {
        return Err(format!("attribute \"axis\" is {axis}; negative axes exist from opset 11 on"));
    }
    Ok(Op::Flatten { axis })
}

fn gelu(r: &mut Reader<'_>) -> Result<Op, String> {
    match r.string("approximate")?.as_deref() {
        None | Some("none") => Ok(Op::Activation(Activation::Gelu { tanh: false })),
        Some("tanh") => Ok(Op::Activation(Activation::Gelu { tanh: true })),
        Some(other) => {
            Err(format!("attribute \"approximate\" is {other:?}; it must be \"none\" or \"tanh\""))
        }
    }
}

fn gemm(r: &mut Reader<'_>) -> Result<Op, String> {
    if r.opset < 11 {
        inputs(r, 3, 3)?;
    }
    Ok(Op::Gemm {
        alpha: r.float("alpha")?.unwrap_or(1.0),
        beta: r.float("beta")?.unwrap_or(1.0),
        a: r.flag("transA", false)?,
        b: r.flag("transB", false)?,
    })
}

fn batch_normalization(r: &mut Reader<'_>) -> Result<Op, String> {
    if r.opset < 9 && !r.flag("spatial", true)? {
        return Err("attribute \"spatial\" is 0; only normalisation per channel is supported".into());
    }
    if r.opset >= 14 && r.flag("training_mode", false)? {
        return Err("attribute \"training_mode\" is 1; only inference is supported".into());
    }
    // Only training uses it.
    r.float("momentum")?;
    Ok(Op::BatchNormalization { epsilon: r.float("epsilon")?.unwrap_or(1e-5) })
}

fn dropout(r: &mut Reader<'_>) -> Result<Op, String> {
    if r.opset < 12 {
        inputs(r, 1, 1)?;
        r.float("ratio")?;
        return Ok(Op::Identity);
    }
    r.int("seed")?;
    let off = || r.known.get(2)?.as_ref()?.scalar().map(|mode| mode == 0.0);
    if r.has(2) && off() != Some(true) {
        return Err("its input training_mode is not a constant false; only inference is supported".into());
    }
    Ok(Op::Identity)
}

fn constant_of_shape(r: &mut Reader<'_>) -> Result<Op, String> {
    let value = match r.tensor("value")? {
        None => Host::new(Type::Float32, vec![1], Data::Float(vec![0.0])),
        Some(tensor) => {
            let (ty, dims, bytes) = decode_tensor(tensor).map_err(|e| format!("attribute \"value\": {e}"))?;
            match Host::from_bytes(ty, dims, &bytes) {
                Some(host) if host.len() == 1 => host,
                _ => return Err("attribute \"value\" must hold one element of at most 2^63".into()),
            }
        }
    };
    Ok(Op::ConstantOfShape { value })
}

fn slice(r: &mut Reader<'_>) -> Result<Op, String> {
    if r.opset >= 10 {
        inputs(r, 3, 5)?;
        return Ok(Op::Slice { fixed: None });
    }
    inputs(r, 1, 1)?;
    let bounds = Bounds {
        starts: required(r.ints("starts")?, "starts")?,
        ends: required(r.ints("ends")?, "ends")?,
        axes: r.ints("axes")?,
    };
    Ok(Op::Slice { fixed: Some(bounds) })
}

fn pad(r: &mut Reader<'_>) -> Result<Op, String> {
    let mode = match r.string("mode")?.as_deref() {
        None | Some("constant") => PadMode::Constant,
        Some("edge") => PadMode::Edge,
        Some("reflect") => PadMode::Reflect,
        Some(other) => {
            return Err(format!(
                "attribute \"mode\" is {other:?}; supported are \"constant\", \"edge\" and \"reflect\""
            ));
        }
    };
    if r.opset >= 11 {
        inputs(r, 2, if r.opset >= 18 { 4 } else { 3 })?;
        return Ok(Op::Pad { mode, fixed: None });
    }
    inputs(r, 1, 1)?;
    let fixed = (required(r.ints("pads")?, "pads")?, r.float("value")?.unwrap_or(0.0));
    Ok(Op::Pad { mode, fixed: Some(fixed) })
}

fn conv(r: &mut Reader<'_>) -> Result<Op, String> {
    let explicit = r
        .ints("pads")?
        .map(|list| {
            list.iter().map(|p| u32::try_from(*p)).collect::<Result<Vec<_>, _>>().map_err(|_| {
                format!("attribute \"pads\" is {list:?}; negative padding of a convolution is not supported")
            })
        })
        .transpose()?;
    let padded = explicit.as_ref().is_some_and(|p| p.iter().any(|p| *p != 0));
    let pads = match r.string("auto_pad")?.as_deref() {
        None | Some("NOTSET" | "") => ConvPads::Explicit(explicit),
        Some(other) if padded => {
            return Err(format!("attributes \"pads\" and \"auto_pad\" ({other:?}) exclude each other"));
        }
        Some("VALID") => ConvPads::Valid,
        Some("SAME_UPPER") => ConvPads::Same { upper: true },
        Some("SAME_LOWER") => ConvPads::Same { upper: false },
        Some(other) => {
            return Err(format!("attribute \"auto_pad\" is {other:?}, which is not one of ONNX's"));
        }
    };
    let groups = r.int("group")?.unwrap_or(1);
    let Some(groups) = u32::try_from(groups).ok().filter(|g| *g > 0) else {
        return Err(format!("attribute \"group\" is {groups}; it must be positive"));
    };
    if let Some(Some(rank)) = r.ranks.get(1)
        && !(3..=4).contains(rank)
    {
        return Err(format!(
            "its weights have rank {rank}; 1-D and 2-D convolution (ranks 3 and 4) are supported"
        ));
    }
    Ok(Op::Conv(Conv {
        pads,
        strides: r.positive("strides")?,
        dilations: r.positive("dilations")?,
        kernel: r.positive("kernel_shape")?,
        groups,
    }))
}
