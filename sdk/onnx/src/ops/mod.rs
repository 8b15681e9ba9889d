//! The operators: one table from ONNX names to how a node is checked at load, and what it then is.
//!
//! A checked node is an [`Op`], plain data that is stored with the graph. Running one gives one
//! value: known elements when its inputs are known and small ([`Value::Host`]), else recorded
//! tensor operations ([`Value::Device`]).

mod elementwise;
mod linear;
mod movement;
mod reader;
mod reduce;
mod shapes;
mod slices;
mod table;

use serde::{Deserialize, Serialize};

pub use elementwise::bool_input;
pub use reader::Reader;
pub use table::find;
#[cfg(test)]
pub use table::names;

use crate::error::OpResult;
use crate::graph::{Args, Value};
use crate::host::Host;
use crate::types::Type;

/// A checked operation with its attributes. Negative axes stay negative until a rank is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Op {
    Identity,
    /// Dropout's second output: all true, of the input's shape.
    Mask,
    Unary(elementwise::Unary),
    Activation(elementwise::Activation),
    Binary(elementwise::Binary),
    Compare(elementwise::Compare),
    Logic(elementwise::Logic),
    Not,
    IsNan,
    IsInf {
        negative: bool,
        positive: bool,
    },
    /// Folds `Binary` over all inputs; divides by their number if `mean`.
    Variadic {
        op: elementwise::Binary,
        mean: bool,
    },
    Pow,
    Where,
    Cast(Type),
    /// The bounds of opsets before 11; later ones are inputs 1 and 2.
    Clip {
        min: Option<f32>,
        max: Option<f32>,
    },
    Shape {
        start: i64,
        end: Option<i64>,
    },
    Size,
    Reshape {
        allow_zero: bool,
    },
    /// The axes of opsets before 13; later ones are input 1. The same for `Unsqueeze` and others.
    Squeeze {
        axes: Option<Vec<i64>>,
    },
    Unsqueeze {
        axes: Option<Vec<i64>>,
    },
    Flatten {
        axis: i64,
    },
    Transpose {
        permutation: Option<Vec<i64>>,
    },
    Concat {
        axis: i64,
    },
    Slice {
        fixed: Option<slices::Bounds>,
    },
    Gather {
        axis: i64,
    },
    Pad {
        mode: movement::PadMode,
        fixed: Option<(Vec<i64>, f32)>,
    },
    Expand,
    ConstantOfShape {
        value: Host,
    },
    Reduce {
        kind: reduce::Kind,
        axes: Option<Vec<i64>>,
        keep: bool,
        noop: bool,
    },
    MatMul,
    Gemm {
        alpha: f32,
        beta: f32,
        a: bool,
        b: bool,
    },
    Conv(linear::Conv),
    BatchNormalization {
        epsilon: f32,
    },
    GlobalPool {
        max: bool,
    },
    /// `flat`: the semantics of opsets before 13, over all axes from `axis` on.
    Softmax {
        axis: i64,
        flat: bool,
    },
}

/// Runs one operation.
pub fn run<'a>(op: &Op, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    match op {
        Op::Identity => Ok(args.value(0)?.clone()),
        Op::Mask => movement::mask(args),
        Op::Unary(unary) => elementwise::unary(*unary, args),
        Op::Activation(activation) => elementwise::activation(activation, args),
        Op::Binary(binary) => elementwise::binary(*binary, args),
        Op::Compare(compare) => elementwise::compare(*compare, args),
        Op::Logic(logic) => elementwise::logic(*logic, args),
        Op::Not => elementwise::not(args),
        Op::IsNan => elementwise::is_nan(args),
        Op::IsInf { negative, positive } => elementwise::is_inf(*negative, *positive, args),
        Op::Variadic { op, mean } => elementwise::variadic(*op, *mean, args),
        Op::Pow => elementwise::pow(args),
        Op::Where => elementwise::select(args),
        Op::Cast(ty) => elementwise::cast(*ty, args),
        Op::Clip { min, max } => elementwise::clip(*min, *max, args),
        Op::Shape { start, end } => shapes::shape(*start, *end, args),
        Op::Size => shapes::size(args),
        Op::Reshape { allow_zero } => shapes::reshape(*allow_zero, args),
        Op::Squeeze { axes } => shapes::squeeze(axes.as_deref(), args),
        Op::Unsqueeze { axes } => shapes::unsqueeze(axes.as_deref(), args),
        Op::Flatten { axis } => shapes::flatten(*axis, args),
        Op::Transpose { permutation } => movement::transpose(permutation.as_deref(), args),
        Op::Concat { axis } => movement::concat(*axis, args),
        Op::Slice { fixed } => slices::slice(fixed.as_ref(), args),
        Op::Gather { axis } => slices::gather(*axis, args),
        Op::Pad { mode, fixed } => movement::pad(*mode, fixed.as_ref(), args),
        Op::Expand => movement::expand(args),
        Op::ConstantOfShape { value } => movement::constant_of_shape(value, args),
        Op::Reduce { kind, axes, keep, noop } => reduce::reduce(*kind, axes.as_deref(), *keep, *noop, args),
        Op::MatMul => linear::matmul(args),
        Op::Gemm { alpha, beta, a, b } => linear::gemm(*alpha, *beta, *a, *b, args),
        Op::Conv(conv) => linear::conv(conv, args),
        Op::BatchNormalization { epsilon } => linear::batch_normalization(*epsilon, args),
        Op::GlobalPool { max } => linear::global_pool(*max, args),
        Op::Softmax { axis, flat } => linear::softmax(*axis, *flat, args),
    }
}
