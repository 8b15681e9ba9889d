//! The one place that knows which types and shapes an operation takes and what it answers.
//! Every function is total: whatever a guest sends, the answer is a descriptor or an error.

mod index;
mod linear;
mod movement;
mod normalize;
pub(crate) mod recurrent;
mod spatial;

use std::fmt::Write;

use crate::error::Error;
use crate::op::{Op, Reduction, Unary};
use crate::shape::{Dims, MAX_ELEMENTS, MAX_RANK, broadcast, broadcasts_to};
use crate::types::DataType;

pub(crate) use linear::{ConvSizes, conv_sizes};
pub(crate) use movement::split;
pub(crate) use normalize::layer_axes;
pub(crate) use spatial::{ConvTransposeSizes, PoolSizes, conv_transpose_sizes, pool_sizes};

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

/// Type and shape of `op`'s result on these operands. An error names the operation, what does not
/// fit, and the operands.
pub fn infer(op: &Op, inputs: &[Descriptor]) -> Result<Descriptor, Error> {
    rule(op, inputs).map_err(|error| with_operands(error, inputs))
}

#[cold]
fn with_operands(mut error: Error, inputs: &[Descriptor]) -> Error {
    const SHOWN: usize = 8;
    for (i, d) in inputs.iter().take(SHOWN).enumerate() {
        let lead = if i == 0 { "; operands:" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(error.message, "{lead} {} {:?}", d.data_type, d.shape);
    }
    if inputs.len() > SHOWN {
        let _ = write!(error.message, " and {} more", inputs.len() - SHOWN);
    }
    error
}

fn rule(op: &Op, inputs: &[Descriptor]) -> Result<Descriptor, Error> {
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
        Op::ConvTranspose2d(c) => spatial::conv_transpose2d(name, inputs, c),
        Op::Pool2d(kind, p) => spatial::pool2d(*kind, input, p),
        Op::Resample2d(r) => spatial::resample2d(name, input, r),
        Op::ArgMinMax { kind, axis, keep_dimensions, output_data_type } => {
            index::arg_min_max(*kind, input, *axis, *keep_dimensions, *output_data_type)
        }
        Op::CumulativeSum { axis, .. } => {
            accumulable(name, input.data_type)?;
            axis_below(name, *axis, input.shape.rank())?;
            same(input.data_type)
        }
        Op::BatchNormalization { axis, scale, .. } => normalize::batch(name, inputs, *axis, *scale),
        Op::InstanceNormalization { layout, scale, .. } => normalize::instance(name, inputs, *layout, *scale),
        Op::LayerNormalization { axes, scale, .. } => normalize::layer(name, inputs, axes.as_ref(), *scale),
        Op::Prelu => {
            signed(name, input.data_type)?;
            Ok(Descriptor { data_type: input.data_type, shape: pair(name, inputs)? })
        }
        Op::DequantizeLinear => normalize::linear(name, inputs, false),
        Op::QuantizeLinear => normalize::linear(name, inputs, true),
        Op::Gather { axis } => index::gather(name, inputs, *axis),
        Op::GatherElements { axis } => index::gather_elements(name, inputs, *axis),
        Op::GatherNd => index::gather_nd(name, inputs),
        Op::ScatterElements { axis } => index::scatter_elements(name, inputs, *axis),
        Op::ScatterNd => index::scatter_nd(name, inputs),
        Op::Reverse { axes } => {
            axes_mask(name, axes.as_ref(), input.shape.rank())?;
            same(input.data_type)
        }
        Op::Tile { repetitions } => movement::tile(name, input, repetitions),
        Op::Triangular { .. } => movement::triangular(name, input),
    }
}

fn check_arity(op: &Op, given: usize) -> Result<(), Error> {
    let (least, most) = match op {
        Op::Fill { .. } => (0, 0),
        Op::Binary(_) | Op::Compare(_) | Op::Logical(_) | Op::Matmul | Op::Prelu => (2, 2),
        Op::Gather { .. } | Op::GatherElements { .. } | Op::GatherNd => (2, 2),
        Op::Where | Op::DequantizeLinear | Op::QuantizeLinear => (3, 3),
        Op::ScatterElements { .. } | Op::ScatterNd => (3, 3),
        Op::Gemm { .. } | Op::Conv2d(_) | Op::ConvTranspose2d(_) => (2, 3),
        Op::BatchNormalization { scale, bias, .. } => exactly(3, *scale, *bias),
        Op::InstanceNormalization { scale, bias, .. } | Op::LayerNormalization { scale, bias, .. } => {
            exactly(1, *scale, *bias)
        }
        Op::Concat { .. } => (1, usize::MAX),
        _ => (1, 1),
    };
    if (least..=most).contains(&given) {
        return Ok(());
    }
    let takes = if least == most { format!("takes {least}") } else { format!("takes at least {least}") };
    Err(Error::invalid(op.name(), format!("{given} operands given, {takes}")))
}

fn exactly(least: usize, scale: bool, bias: bool) -> (usize, usize) {
    let count = least + usize::from(scale) + usize::from(bias);
    (count, count)
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

fn signed(name: &'static str, found: DataType) -> Result<(), Error> {
    let fits = found.is_float() || matches!(found, DataType::Int32 | DataType::Int64 | DataType::Int8);
    require(name, "input", found, fits, "float32, float16, int32, int64 or int8")
}

fn accumulable(name: &'static str, found: DataType) -> Result<(), Error> {
    let fits = !matches!(found, DataType::Int8 | DataType::Uint8);
    require(name, "input", found, fits, "float32, float16, int32, uint32, int64 or uint64")
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
    let name = op.name();
    let t = input.data_type;
    match op {
        Unary::Identity => {}
        Unary::LogicalNot => require(name, "a", t, t == DataType::Uint8, "uint8")?,
        Unary::Abs | Unary::Neg | Unary::Sign | Unary::Relu => signed(name, t)?,
        _ => float(name, "input", t)?,
    }
    let data_type = match op {
        Unary::IsNan | Unary::IsInfinite => DataType::Uint8,
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
        _ => accumulable(name, t)?,
    }
    let mask = axes_mask(name, axes, input.shape.rank())?;
    let shape = reduced_shape(&input.shape, mask, keep);
    Ok(Descriptor { data_type: t, shape: limited(name, shape)? })
}

fn reduced_shape(input: &Dims, mask: u32, keep: bool) -> Dims {
    let mut shape = Dims::SCALAR;
    for (i, &d) in input.as_slice().iter().enumerate() {
        let reduced = mask & (1 << i) != 0;
        if !reduced || keep {
            // Never more than the input's rank.
            let _ = shape.push(if reduced { 1 } else { d });
        }
    }
    shape
}
