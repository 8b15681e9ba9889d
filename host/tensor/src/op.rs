//! The operations and their attributes, as plain data.

use crate::shape::Dims;
use crate::types::DataType;

/// Element-wise operations on two operands of one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Binary {
    /// Sum.
    Add,
    /// Difference.
    Sub,
    /// Product.
    Mul,
    /// Quotient; integer division truncates, and by zero gives 0.
    Div,
    /// The larger; NaN if either is.
    Max,
    /// The smaller; NaN if either is.
    Min,
    /// Power.
    Pow,
}

/// Element-wise comparisons; the answer is uint8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Compare {
    /// a == b.
    Equal,
    /// a != b.
    NotEqual,
    /// a > b.
    Greater,
    /// a >= b.
    GreaterOrEqual,
    /// a < b.
    Lesser,
    /// a <= b.
    LesserOrEqual,
}

/// Element-wise logic on uint8 operands; the answer is uint8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Logical {
    /// Both non-zero.
    And,
    /// Either non-zero.
    Or,
    /// Exactly one non-zero.
    Xor,
}

/// Element-wise operations on one operand, without attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Unary {
    /// 1 where 0 (uint8).
    LogicalNot,
    /// 1 where not a number (answers uint8).
    IsNan,
    /// 1 where infinite (answers uint8).
    IsInfinite,
    /// Absolute value.
    Abs,
    /// Smallest integer not below.
    Ceil,
    /// Cosine.
    Cos,
    /// Gauss error function.
    Erf,
    /// e to the power.
    Exp,
    /// Largest integer not above.
    Floor,
    /// The same values.
    Identity,
    /// Natural logarithm.
    Log,
    /// Negation.
    Neg,
    /// 1/x.
    Reciprocal,
    /// Nearest integer, ties to even.
    RoundEven,
    /// -1, 0 or 1.
    Sign,
    /// Sine.
    Sin,
    /// Square root.
    Sqrt,
    /// Tangent.
    Tan,
    /// max(0, x).
    Relu,
    /// 1/(1+exp(-x)).
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
    /// ln(1+exp(x)).
    Softplus,
    /// x/(1+|x|).
    Softsign,
    /// 0.5*x*(1+erf(x/sqrt(2))).
    Gelu,
    /// x*max(0,min(6,x+3))/6.
    HardSwish,
}

/// Reductions over axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reduction {
    /// Sum of absolute values.
    L1,
    /// Square root of the sum of squares.
    L2,
    /// ln of the sum.
    LogSum,
    /// ln of the sum of exp, without overflow.
    LogSumExp,
    /// Maximum.
    Max,
    /// Mean.
    Mean,
    /// Minimum.
    Min,
    /// Product.
    Product,
    /// Sum.
    Sum,
    /// Sum of squares.
    SumSquare,
}

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

/// Order of the dimensions of `conv2d`'s input and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum InputLayout {
    /// Batch, channels, height, width.
    Nchw,
    /// Batch, height, width, channels.
    Nhwc,
}

/// Order of the dimensions of `conv2d`'s filter (o: output channels, i: input channels of a group).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FilterLayout {
    /// o, i, height, width.
    Oihw,
    /// Height, width, i, o.
    Hwio,
    /// o, height, width, i.
    Ohwi,
    /// i, height, width, o.
    Ihwo,
}

/// Attributes of `conv2d`; a third operand is the bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2d {
    /// Rows before, rows after, columns before, columns after.
    pub padding: [u32; 4],
    /// Height, width.
    pub strides: [u32; 2],
    /// Height, width.
    pub dilations: [u32; 2],
    /// Groups of channels that do not mix.
    pub groups: u32,
    /// Layout of input and output.
    pub input_layout: InputLayout,
    /// Layout of the filter.
    pub filter_layout: FilterLayout,
}

impl Default for Conv2d {
    fn default() -> Self {
        Conv2d {
            padding: [0; 4],
            strides: [1; 2],
            dilations: [1; 2],
            groups: 1,
            input_layout: InputLayout::Nchw,
            filter_layout: FilterLayout::Oihw,
        }
    }
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
}

impl Op {
    /// The operation's name in `wit/tensors.wit`.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Fill { .. } => "fill",
            Op::Binary(Binary::Add) => "add",
            Op::Binary(Binary::Sub) => "sub",
            Op::Binary(Binary::Mul) => "mul",
            Op::Binary(Binary::Div) => "div",
            Op::Binary(Binary::Max) => "max",
            Op::Binary(Binary::Min) => "min",
            Op::Binary(Binary::Pow) => "pow",
            Op::Compare(Compare::Equal) => "equal",
            Op::Compare(Compare::NotEqual) => "not-equal",
            Op::Compare(Compare::Greater) => "greater",
            Op::Compare(Compare::GreaterOrEqual) => "greater-or-equal",
            Op::Compare(Compare::Lesser) => "lesser",
            Op::Compare(Compare::LesserOrEqual) => "lesser-or-equal",
            Op::Logical(Logical::And) => "logical-and",
            Op::Logical(Logical::Or) => "logical-or",
            Op::Logical(Logical::Xor) => "logical-xor",
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
            Op::Softmax { .. } => "softmax",
            Op::Reduce { kind, .. } => kind.name(),
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

impl Unary {
    /// The operation's name in `wit/tensors.wit`.
    pub fn name(self) -> &'static str {
        match self {
            Unary::LogicalNot => "logical-not",
            Unary::IsNan => "is-nan",
            Unary::IsInfinite => "is-infinite",
            Unary::Abs => "abs",
            Unary::Ceil => "ceil",
            Unary::Cos => "cos",
            Unary::Erf => "erf",
            Unary::Exp => "exp",
            Unary::Floor => "floor",
            Unary::Identity => "identity",
            Unary::Log => "log",
            Unary::Neg => "neg",
            Unary::Reciprocal => "reciprocal",
            Unary::RoundEven => "round-even",
            Unary::Sign => "sign",
            Unary::Sin => "sin",
            Unary::Sqrt => "sqrt",
            Unary::Tan => "tan",
            Unary::Relu => "relu",
            Unary::Sigmoid => "sigmoid",
            Unary::Tanh => "tanh",
            Unary::Softplus => "softplus",
            Unary::Softsign => "softsign",
            Unary::Gelu => "gelu",
            Unary::HardSwish => "hard-swish",
        }
    }
}

impl Reduction {
    /// The operation's name in `wit/tensors.wit`.
    pub fn name(self) -> &'static str {
        match self {
            Reduction::L1 => "reduce-l1",
            Reduction::L2 => "reduce-l2",
            Reduction::LogSum => "reduce-log-sum",
            Reduction::LogSumExp => "reduce-log-sum-exp",
            Reduction::Max => "reduce-max",
            Reduction::Mean => "reduce-mean",
            Reduction::Min => "reduce-min",
            Reduction::Product => "reduce-product",
            Reduction::Sum => "reduce-sum",
            Reduction::SumSquare => "reduce-sum-square",
        }
    }
}
