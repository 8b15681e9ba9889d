//! The one place that knows which types and shapes an operation takes and what it answers.
//! Every function is total: whatever a guest sends, the answer is a descriptor or an error.

mod linear;
mod movement;

use crate::error::Error;
use crate::op::{Op, Reduction, Unary};
use crate::shape::{Dims, MAX_ELEMENTS, MAX_RANK, broadcast, broadcasts_to};
use crate::types::DataType;

pub(crate) use linear::{ConvSizes, conv_sizes};

/// Type and shape of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Element type.
    pub data_type: DataType,
    /// Dimensions, outermost first.
    pub shape: Dims,
}

impl Descriptor {
    /// Bytes of the row-major elements.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.shape.count() * self.data_type.size()
    }
}

/// Checks a shape that a guest sent: rank and number of elements.
pub fn checked_shape(operation: &'static str, dims: &[u32]) -> Result<Dims, Error> {
    let shape = Dims::new(dims).ok_or_else(|| {
        Error::invalid(
            operation,
            format!("shape of rank {}: at most {MAX_RANK} dimensions are allowed", dims.len()),
        )
    })?;
    limited(operation, shape)
}

fn limited(operation: &'static str, shape: Dims) -> Result<Dims, Error> {
    match shape.elements() {
        Some(_) => Ok(shape),
        None => Err(Error::invalid(
            operation,
            format!("shape {shape:?} is too large: at most {MAX_ELEMENTS} elements are allowed"),
        )),
    }
}

/// Type and shape of `op`'s result on these operands.
pub fn infer(op: &Op, inputs: &[Descriptor]) -> Result<Descriptor, Error> {
    let name = op.name();
    check_arity(op, inputs.len())?;
    let first = inputs.first().copied();
    let Some(input) = first else {
        // Only `fill` takes no operand.
        return match op {
            Op::Fill { data_type, shape, .. } => {
                Ok(Descriptor { data_type: *data_type, shape: limited(name, *shape)? })
            }
            _ => Err(Error::invalid(name, "needs an operand")),
        };
    };
    let same = |data_type| Ok(Descriptor { data_type, shape: input.shape });
    match op {
        Op::Fill { .. } => Err(Error::invalid(name, "takes no operand")),
        Op::Binary(_) => Ok(Descriptor { data_type: input.data_type, shape: pair(name, inputs)? }),
        Op::Compare(_) => Ok(Descriptor { data_type: DataType::Uint8, shape: pair(name, inputs)? }),
        Op::Logical(_) => {
            let shape = pair(name, inputs)?;
            require(name, "a", input.data_type, input.data_type == DataType::Uint8, "uint8")?;
            Ok(Descriptor { data_type: DataType::Uint8, shape })
        }
        Op::Unary(u) => unary(*u, input),
        Op::Clamp { min, max } => {
            if let (Some(lo), Some(hi)) = (min, max)
                && lo > hi
            {
                return Err(Error::invalid(name, format!("min-value {lo} exceeds max-value {hi}")));
            }
            same(input.data_type)
        }
        Op::Elu { .. } | Op::LeakyRelu { .. } | Op::HardSigmoid { .. } | Op::Linear { .. } => {
            float(name, "input", input.data_type)?;
            same(input.data_type)
        }
        Op::Cast { to } => same(*to),
        Op::Where => where_rule(name, inputs),
        Op::Reshape { shape } => {
            limited(name, *shape)?;
            if shape.elements() != input.shape.elements() {
                return Err(Error::invalid(
                    name,
                    format!(
                        "input {:?} has {} elements, new shape {shape:?} has {}",
                        input.shape,
                        input.shape.count(),
                        shape.count()
                    ),
                ));
            }
            Ok(Descriptor { data_type: input.data_type, shape: *shape })
        }
        Op::Transpose { permutation } => movement::transpose(name, input, permutation.as_ref()),
        Op::Expand { shape } => {
            limited(name, *shape)?;
            if !broadcasts_to(&input.shape, shape) {
                return Err(Error::invalid(
                    name,
                    format!("input {:?} does not broadcast to {shape:?}", input.shape),
                ));
            }
            Ok(Descriptor { data_type: input.data_type, shape: *shape })
        }
        Op::Slice { starts, sizes, strides } => movement::slice(name, input, starts, sizes, strides.as_ref()),
        Op::Concat { axis } => movement::concat(name, inputs, *axis),
        Op::Pad { beginning, ending, mode } => movement::pad(name, input, beginning, ending, *mode),
        Op::Matmul => linear::matmul(name, inputs),
        Op::Gemm { a_transpose, b_transpose, .. } => linear::gemm(name, inputs, *a_transpose, *b_transpose),
        Op::Conv2d(c) => linear::conv2d(name, inputs, c),
        Op::Softmax { axis } => {
            float(name, "input", input.data_type)?;
            axis_below(name, *axis, input.shape.rank())?;
            same(input.data_type)
        }
        Op::Reduce { kind, axes, keep_dimensions } => reduce(*kind, input, axes.as_ref(), *keep_dimensions),
    }
}

fn check_arity(op: &Op, given: usize) -> Result<(), Error> {
    let (least, most) = match op {
        Op::Fill { .. } => (0, 0),
        Op::Binary(_) | Op::Compare(_) | Op::Logical(_) | Op::Matmul => (2, 2),
        Op::Where => (3, 3),
        Op::Gemm { .. } | Op::Conv2d(_) => (2, 3),
        Op::Concat { .. } => (1, usize::MAX),
        _ => (1, 1),
    };
    if (least..=most).contains(&given) {
        return Ok(());
    }
    Err(Error::invalid(op.name(), format!("{given} operands given, takes at least {least}")))
}

fn require(
    name: &'static str,
    operand: &str,
    found: DataType,
    fits: bool,
    wanted: &str,
) -> Result<(), Error> {
    if fits {
        return Ok(());
    }
    Err(Error::invalid(name, format!("{operand} is {found}, must be {wanted}")))
}

fn float(name: &'static str, operand: &str, found: DataType) -> Result<(), Error> {
    require(name, operand, found, found.is_float(), "float32 or float16")
}

fn axis_below(name: &'static str, axis: u32, rank: usize) -> Result<(), Error> {
    if (axis as usize) < rank {
        return Ok(());
    }
    Err(Error::invalid(name, format!("axis {axis} of a tensor of rank {rank}")))
}

fn same_length(name: &'static str, what: &str, list: &Dims, rank: usize) -> Result<(), Error> {
    if list.rank() == rank {
        return Ok(());
    }
    Err(Error::invalid(name, format!("{what} has {} entries, the input's rank is {rank}", list.rank())))
}

fn pair(name: &'static str, inputs: &[Descriptor]) -> Result<Dims, Error> {
    let [a, b] = inputs else {
        return Err(Error::invalid(name, "takes two operands"));
    };
    if a.data_type != b.data_type {
        return Err(Error::invalid(
            name,
            format!("a is {} and b is {}, both must be of one type", a.data_type, b.data_type),
        ));
    }
    let Some(shape) = broadcast(&a.shape, &b.shape) else {
        return Err(Error::invalid(name, format!("shapes {:?} and {:?} do not broadcast", a.shape, b.shape)));
    };
    limited(name, shape)
}

fn unary(op: Unary, input: Descriptor) -> Result<Descriptor, Error> {
    use DataType::{Int8, Int32, Int64, Uint8};
    let name = op.name();
    let t = input.data_type;
    match op {
        Unary::Identity => {}
        Unary::LogicalNot => require(name, "a", t, t == Uint8, "uint8")?,
        Unary::Abs | Unary::Neg | Unary::Sign | Unary::Relu => require(
            name,
            "input",
            t,
            t.is_float() || matches!(t, Int32 | Int64 | Int8),
            "float32, float16, int32, int64 or int8",
        )?,
        _ => float(name, "input", t)?,
    }
    let data_type = match op {
        Unary::IsNan | Unary::IsInfinite => Uint8,
        _ => t,
    };
    Ok(Descriptor { data_type, shape: input.shape })
}

fn where_rule(name: &'static str, inputs: &[Descriptor]) -> Result<Descriptor, Error> {
    let [condition, yes, no] = inputs else {
        return Err(Error::invalid(name, "takes three operands"));
    };
    let t = condition.data_type;
    require(name, "condition", t, t == DataType::Uint8, "uint8")?;
    if yes.data_type != no.data_type {
        return Err(Error::invalid(
            name,
            format!("true-value is {} and false-value is {}", yes.data_type, no.data_type),
        ));
    }
    let shape = broadcast(&yes.shape, &no.shape).and_then(|s| broadcast(&s, &condition.shape));
    let Some(shape) = shape else {
        return Err(Error::invalid(
            name,
            format!(
                "condition {:?}, true-value {:?} and false-value {:?} do not broadcast",
                condition.shape, yes.shape, no.shape
            ),
        ));
    };
    Ok(Descriptor { data_type: yes.data_type, shape: limited(name, shape)? })
}

/// The axes of a reduction as a bit mask.
pub(crate) fn axes_mask(name: &'static str, axes: Option<&Dims>, rank: usize) -> Result<u32, Error> {
    let Some(axes) = axes else {
        return Ok((1 << rank) - 1);
    };
    let mut mask = 0u32;
    for &axis in axes.as_slice() {
        axis_below(name, axis, rank)?;
        if mask & (1 << axis) != 0 {
            return Err(Error::invalid(name, format!("axes {axes:?} name axis {axis} twice")));
        }
        mask |= 1 << axis;
    }
    Ok(mask)
}

fn reduce(kind: Reduction, input: Descriptor, axes: Option<&Dims>, keep: bool) -> Result<Descriptor, Error> {
    let name = kind.name();
    let t = input.data_type;
    match kind {
        Reduction::Max | Reduction::Min => {}
        Reduction::L2 | Reduction::LogSum | Reduction::LogSumExp | Reduction::Mean => {
            float(name, "input", t)?;
        }
        _ => require(
            name,
            "input",
            t,
            !matches!(t, DataType::Int8 | DataType::Uint8),
            "float32, float16, int32, uint32, int64 or uint64",
        )?,
    }
    let mask = axes_mask(name, axes, input.shape.rank())?;
    let mut shape = Dims::SCALAR;
    for (i, &d) in input.shape.as_slice().iter().enumerate() {
        let reduced = mask & (1 << i) != 0;
        if !reduced || keep {
            // Never more than the input's rank.
            let _ = shape.push(if reduced { 1 } else { d });
        }
    }
    Ok(Descriptor { data_type: t, shape: limited(name, shape)? })
}
