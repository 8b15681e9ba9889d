//! Families of operations that differ only in what they compute.

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

/// Which element's place `arg-min` and `arg-max` answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Arg {
    /// The smallest.
    Min,
    /// The largest.
    Max,
}

impl Arg {
    /// The operation's name in `wit/tensors.wit`.
    pub fn name(self) -> &'static str {
        match self {
            Arg::Min => "arg-min",
            Arg::Max => "arg-max",
        }
    }
}

impl Binary {
    /// The operation's name in `wit/tensors.wit`.
    pub fn name(self) -> &'static str {
        match self {
            Binary::Add => "add",
            Binary::Sub => "sub",
            Binary::Mul => "mul",
            Binary::Div => "div",
            Binary::Max => "max",
            Binary::Min => "min",
            Binary::Pow => "pow",
        }
    }
}

impl Compare {
    /// The operation's name in `wit/tensors.wit`.
    pub fn name(self) -> &'static str {
        match self {
            Compare::Equal => "equal",
            Compare::NotEqual => "not-equal",
            Compare::Greater => "greater",
            Compare::GreaterOrEqual => "greater-or-equal",
            Compare::Lesser => "lesser",
            Compare::LesserOrEqual => "lesser-or-equal",
        }
    }
}

impl Logical {
    /// The operation's name in `wit/tensors.wit`.
    pub fn name(self) -> &'static str {
        match self {
            Logical::And => "logical-and",
            Logical::Or => "logical-or",
            Logical::Xor => "logical-xor",
        }
    }
}
