//! The operations and their attributes, as plain data.

mod kinds;
mod recurrent;
mod spatial;

pub use kinds::{Arg, Binary, Compare, Logical, Reduction, Unary};
pub use recurrent::{
    Activation, Direction, Gru, GruCell, GruCellOperands, GruLayout, GruOperands, Lstm, LstmCell,
    LstmCellOperands, LstmLayout, LstmOperands,
};
pub use spatial::{
    Conv2d, ConvTranspose2d, FilterLayout, InputLayout, Interpolation, Pool2d, Pooling, Resample2d, Rounding,
    TransposeFilterLayout,
};

use crate::shape::Dims;
use crate::types::DataType;

/// How `pad` makes the new elements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PaddingMode {
    /// This value, converted as by `cast`.
    Constant(f64),
    /// The nearest edge element.
    Edge,
    /// Mirrored without repeating the edge.
    Reflection,
}

/// How `split` cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Splits<'a> {
    /// Into so many equal parts.
    Count(u32),
    /// Into parts of these sizes.
    Sizes(&'a [u32]),
}

/// An operation with its attributes. The operands are given to `Session::record` beside it, in
/// the order of WebNN's arguments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Op {
    /// A tensor of `shape` with every element `value`. No operand.
    Fill {
        /// Type of the result.
        data_type: DataType,
        /// Shape of the result.
        shape: Dims,
        /// Converted as by `cast`.
        value: f64,
    },
    /// Operands a, b.
    Binary(Binary),
    /// Operands a, b.
    Compare(Compare),
    /// Operands a, b.
    Logical(Logical),
    /// Operand input.
    Unary(Unary),
    /// Limits to [min, max]; a side without a bound is open.
    Clamp {
        /// Lower bound.
        min: Option<f64>,
        /// Upper bound.
        max: Option<f64>,
    },
    /// x where x >= 0, else alpha*(exp(x)-1).
    Elu {
        /// Scale of the negative side.
        alpha: f64,
    },
    /// x where x >= 0, else alpha*x.
    LeakyRelu {
        /// Slope of the negative side.
        alpha: f64,
    },
    /// max(0, min(1, alpha*x + beta)).
    HardSigmoid {
        /// Slope.
        alpha: f64,
        /// Offset.
        beta: f64,
    },
    /// alpha*x + beta.
    Linear {
        /// Slope.
        alpha: f64,
        /// Offset.
        beta: f64,
    },
    /// Converts; float to integer truncates and saturates, NaN becomes 0.
    Cast {
        /// Type of the result.
        to: DataType,
    },
    /// Operands condition (uint8), true value, false value.
    Where,
    /// The same elements under another shape.
    Reshape {
        /// Shape of the result.
        shape: Dims,
    },
    /// Dimension i of the result is dimension `permutation[i]` of the input; none reverses them.
    Transpose {
        /// As long as the rank.
        permutation: Option<Dims>,
    },
    /// Broadcasts to `shape`.
    Expand {
        /// Shape of the result.
        shape: Dims,
    },
    /// Every stride-th element of [starts, starts+sizes) on every axis.
    Slice {
        /// First index on each axis.
        starts: Dims,
        /// Length of the window on each axis.
        sizes: Dims,
        /// None means 1 on each axis.
        strides: Option<Dims>,
    },
    /// Joins any number of operands along `axis`.
    Concat {
        /// The axis.
        axis: u32,
    },
    /// Adds elements before and after on every axis.
    Pad {
        /// How many before.
        beginning: Dims,
        /// How many after.
        ending: Dims,
        /// What they are.
        mode: PaddingMode,
    },
    /// Operands a, b: matrix product of the last two dimensions.
    Matmul,
    /// Operands a, b and optionally c: alpha*A*B + beta*C.
    Gemm {
        /// Scale of the product.
        alpha: f64,
        /// Scale of c.
        beta: f64,
        /// a is (K, M).
        a_transpose: bool,
        /// b is (N, K).
        b_transpose: bool,
    },
    /// Operands input, filter and optionally bias.
    Conv2d(Conv2d),
    /// Operands input, filter and optionally bias.
    ConvTranspose2d(ConvTranspose2d),
    /// Operand input of rank 4: one number for each window.
    Pool2d(Pooling, Pool2d),
    /// Operand input of rank 4: reads at other places than its elements' (pixel centres at 0.5).
    Resample2d(Resample2d),
    /// exp(x) over its sum along `axis`.
    Softmax {
        /// The axis.
        axis: u32,
    },
    /// Reduces over `axes`; none is all of them.
    Reduce {
        /// Which reduction.
        kind: Reduction,
        /// Distinct axes in any order.
        axes: Option<Dims>,
        /// Keep reduced dimensions as 1.
        keep_dimensions: bool,
    },
    /// The place along `axis` of the first smallest or largest element; of the first NaN if there
    /// is one.
    ArgMinMax {
        /// Which.
        kind: Arg,
        /// The axis.
        axis: u32,
        /// Keep the reduced dimension as 1.
        keep_dimensions: bool,
        /// Type of the result: int32 or int64.
        output_data_type: DataType,
    },
    /// Sums of the elements up to each along `axis`.
    CumulativeSum {
        /// The axis.
        axis: u32,
        /// Without the element itself.
        exclusive: bool,
        /// From the last to the first.
        reversed: bool,
    },
    /// Operands input, mean, variance, then scale and bias where said to be given, each of shape
    /// [size of `axis`]: scale * (input - mean) / sqrt(variance + epsilon) + bias.
    BatchNormalization {
        /// The axis of features.
        axis: u32,
        /// Converted to the input's type.
        epsilon: f64,
        /// Whether an operand is the scale.
        scale: bool,
        /// Whether the last operand is the bias.
        bias: bool,
    },
    /// Operands input of rank 4, then scale and bias where said to be given, of shape [channels]:
    /// normalizes every channel of every image by its own mean and variance.
    InstanceNormalization {
        /// Layout of input and output.
        layout: InputLayout,
        /// Converted to the input's type.
        epsilon: f64,
        /// Whether an operand is the scale.
        scale: bool,
        /// Whether the last operand is the bias.
        bias: bool,
    },
    /// Operands input, then scale and bias where said to be given, their dimensions those of
    /// `axes` in that order: normalizes by mean and variance over `axes`.
    LayerNormalization {
        /// Distinct axes in any order; none is all but the first.
        axes: Option<Dims>,
        /// Converted to the input's type.
        epsilon: f64,
        /// Whether an operand is the scale.
        scale: bool,
        /// Whether the last operand is the bias.
        bias: bool,
    },
    /// Operands input, slope: max(0, x) + slope * min(0, x).
    Prelu,
    /// Operands input (an integer type), scale, zero point: (input - zero point) * scale, the
    /// latter two repeated in blocks to the input's shape.
    DequantizeLinear,
    /// Operands input, scale, zero point (an integer type): round(input / scale) + zero point,
    /// rounded ties to even and limited to the zero point's type.
    QuantizeLinear,
    /// Operands input, indices: replaces `axis` by the shape of the indices. In this and the next
    /// operations a negative index counts from the end, and one beyond the ends is limited to
    /// them.
    Gather {
        /// The axis.
        axis: u32,
    },
    /// Operands input, indices (of the input's shape but for `axis`): the element whose index on
    /// `axis` is given for each place.
    GatherElements {
        /// The axis.
        axis: u32,
    },
    /// Operands input, indices whose last dimension holds coordinates: the slices there.
    GatherNd,
    /// Operands input, indices, updates (both of the input's shape but for `axis`): a copy of the
    /// input with the elements whose index on `axis` is given replaced. Of several for one place
    /// any may win (on the CPU the last).
    ScatterElements {
        /// The axis.
        axis: u32,
    },
    /// Operands input, indices whose last dimension holds coordinates, updates: a copy of the
    /// input with the slices there replaced.
    ScatterNd,
    /// Turns the order of elements around on `axes`; none is all of them.
    Reverse {
        /// Distinct axes in any order.
        axes: Option<Dims>,
    },
    /// Repeats the whole along each dimension.
    Tile {
        /// How often, at least once, for each dimension.
        repetitions: Dims,
    },
    /// The upper (column - row >= diagonal) or lower (column - row <= diagonal) part of the
    /// matrices in the last two dimensions, 0 elsewhere.
    Triangular {
        /// Which part.
        upper: bool,
        /// The last diagonal kept, counted upwards from the main one.
        diagonal: i32,
    },
}

impl Op {
    /// The operation's name in `wit/tensors.wit`.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Fill { .. } => "fill",
            Op::Binary(b) => b.name(),
            Op::Compare(c) => c.name(),
            Op::Logical(l) => l.name(),
            Op::Unary(u) => u.name(),
            Op::Clamp { .. } => "clamp",
            Op::Elu { .. } => "elu",
            Op::LeakyRelu { .. } => "leaky-relu",
            Op::HardSigmoid { .. } => "hard-sigmoid",
            Op::Linear { .. } => "linear",
            Op::Cast { .. } => "cast",
            Op::Where => "where",
            Op::Reshape { .. } => "reshape",
            Op::Transpose { .. } => "transpose",
            Op::Expand { .. } => "expand",
            Op::Slice { .. } => "slice",
            Op::Concat { .. } => "concat",
            Op::Pad { .. } => "pad",
            Op::Matmul => "matmul",
            Op::Gemm { .. } => "gemm",
            Op::Conv2d(_) => "conv2d",
            Op::ConvTranspose2d(_) => "conv-transpose2d",
            Op::Pool2d(kind, _) => kind.name(),
            Op::Resample2d(_) => "resample2d",
            Op::Softmax { .. } => "softmax",
            Op::Reduce { kind, .. } => kind.name(),
            Op::ArgMinMax { kind, .. } => kind.name(),
            Op::CumulativeSum { .. } => "cumulative-sum",
            Op::BatchNormalization { .. } => "batch-normalization",
            Op::InstanceNormalization { .. } => "instance-normalization",
            Op::LayerNormalization { .. } => "layer-normalization",
            Op::Prelu => "prelu",
            Op::DequantizeLinear => "dequantize-linear",
            Op::QuantizeLinear => "quantize-linear",
            Op::Gather { .. } => "gather",
            Op::GatherElements { .. } => "gather-elements",
            Op::GatherNd => "gather-nd",
            Op::ScatterElements { .. } => "scatter-elements",
            Op::ScatterNd => "scatter-nd",
            Op::Reverse { .. } => "reverse",
            Op::Tile { .. } => "tile",
            Op::Triangular { .. } => "triangular",
        }
    }

    /// Whether each element of the result depends on the operands' elements at the same
    /// (broadcast) place only, so that chains of such operations run in one pass over memory.
    pub fn is_element_wise(&self) -> bool {
        matches!(
            self,
            Op::Fill { .. }
                | Op::Binary(_)
                | Op::Compare(_)
                | Op::Logical(_)
                | Op::Unary(_)
                | Op::Clamp { .. }
                | Op::Elu { .. }
                | Op::LeakyRelu { .. }
                | Op::HardSigmoid { .. }
                | Op::Linear { .. }
                | Op::Cast { .. }
                | Op::Where
                | Op::Expand { .. }
        )
    }
}
