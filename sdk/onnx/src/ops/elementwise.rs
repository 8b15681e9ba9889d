//! Element-wise operators: arithmetic, comparison, logic, activations, Where, Cast and Clip.

use serde::{Deserialize, Serialize};
use warren_sdk::Tensor;

use crate::error::{OpResult, misfit};
use crate::graph::{Args, Value};
use crate::host::{self, Data, Host};
use crate::types::Type;

/// Functions of one tensor that keep its type and take no argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Unary {
    Abs,
    Ceil,
    Cos,
    Erf,
    Exp,
    Floor,
    Log,
    Neg,
    Reciprocal,
    Relu,
    Round,
    Sigmoid,
    Sign,
    Sin,
    Softplus,
    Softsign,
    Sqrt,
    Tan,
    Tanh,
}

/// Functions of one float tensor with constant arguments, or made of several steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Activation {
    Elu { alpha: f32 },
    Gelu { tanh: bool },
    HardSigmoid { alpha: f32, beta: f32 },
    HardSwish,
    LeakyRelu { alpha: f32 },
}

/// Arithmetic on two tensors of one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
}

/// Comparisons of two tensors of one type; the answer is bool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Compare {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Logic on two bool tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Logic {
    And,
    Or,
    Xor,
}

pub fn unary<'a>(op: Unary, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let value = args.value(0)?;
    if let Some(known) = args.host(0)
        && let Some(result) = unary_host(op, known)
    {
        return Ok(Value::host(result));
    }
    let unsigned = matches!(value.ty(), Type::Uint8 | Type::Uint32 | Type::Uint64);
    if unsigned && op == Unary::Abs {
        return Ok(value.clone());
    }
    let x = args.tensor(0)?;
    let y = match op {
        Unary::Abs => x.abs(),
        Unary::Ceil => x.ceil(),
        Unary::Cos => x.cos(),
        Unary::Erf => x.erf(),
        Unary::Exp => x.exp(),
        Unary::Floor => x.floor(),
        Unary::Log => x.log(),
        Unary::Neg => x.neg(),
        Unary::Reciprocal => x.reciprocal(),
        Unary::Relu => x.relu(),
        Unary::Round => x.round_even(),
        Unary::Sigmoid => x.sigmoid(),
        Unary::Sign => x.sign(),
        Unary::Sin => x.sin(),
        Unary::Softplus => x.softplus(),
        Unary::Softsign => x.softsign(),
        Unary::Sqrt => x.sqrt(),
        Unary::Tan => x.tan(),
        Unary::Tanh => x.tanh(),
    }?;
    Ok(Value::device(y, value.ty()))
}

/// Only what shape arithmetic uses, and what rounds the same everywhere.
fn unary_host(op: Unary, x: &Host) -> Option<Host> {
    let data = match &x.data {
        Data::Int(v) => {
            let f: fn(i64) -> i64 = match op {
                Unary::Abs => i64::wrapping_abs,
                Unary::Neg => i64::wrapping_neg,
                Unary::Sign => i64::signum,
                Unary::Relu => |v| v.max(0),
                _ => return None,
            };
            Data::Int(v.iter().map(|v| host::wrap(x.ty, f(*v))).collect())
        }
        Data::Float(v) => {
            let f: fn(f64) -> f64 = match op {
                Unary::Abs => f64::abs,
                Unary::Neg => |v| -v,
                Unary::Ceil => f64::ceil,
                Unary::Floor => f64::floor,
                Unary::Round => f64::round_ties_even,
                Unary::Sqrt => f64::sqrt,
                Unary::Reciprocal => f64::recip,
                _ => return None,
            };
            Data::Float(v.iter().map(|v| host::round(x.ty, f(*v))).collect())
        }
    };
    Some(Host::new(x.ty, x.dims.clone(), data))
}

pub fn activation<'a>(op: &Activation, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let ty = args.value(0)?.ty();
    let x = args.tensor(0)?;
    let y = match *op {
        Activation::Elu { alpha } => x.elu(f64::from(alpha)),
        Activation::Gelu { tanh: false } => x.gelu(),
        Activation::Gelu { tanh: true } => {
            // 0.5 * x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x^3)))
            let cubic = (&x.mul(x)?.linear(0.044715, 1.0)? * x)?;
            let half = cubic.linear((2.0 / std::f64::consts::PI).sqrt(), 0.0)?.tanh()?.linear(0.5, 0.5)?;
            &half * x
        }
        Activation::HardSigmoid { alpha, beta } => x.hard_sigmoid(f64::from(alpha), f64::from(beta)),
        Activation::HardSwish => x.hard_swish(),
        Activation::LeakyRelu { alpha } => x.leaky_relu(f64::from(alpha)),
    }?;
    Ok(Value::device(y, ty))
}

/// Checks that two inputs have one type.
fn same_type(args: &Args<'_, '_>, a: usize, b: usize) -> OpResult<Type> {
    let (left, right) = (args.value(a)?.ty(), args.value(b)?.ty());
    if left == right { Ok(left) } else { misfit(format!("inputs {a} and {b} are {left} and {right}")) }
}

/// Both inputs when they are known and what they broadcast to is small.
fn both_known<'r>(args: &Args<'r, '_>) -> OpResult<Option<(&'r Host, &'r Host, Vec<u32>)>> {
    let (Some(a), Some(b)) = (args.host(0), args.host(1)) else { return Ok(None) };
    let dims = host::broadcast(&a.dims, &b.dims)?;
    Ok(host::is_small(&dims).then_some((a, b, dims)))
}

fn zip<T: Copy, U>(a: &[T], b: &[T], dims: [&[u32]; 3], f: impl Fn(T, T) -> U) -> Vec<U> {
    let left = host::broadcast_indices(dims[0], dims[2]);
    let right = host::broadcast_indices(dims[1], dims[2]);
    left.into_iter().zip(right).map(|(i, j)| f(a[i], b[j])).collect()
}

pub fn binary<'a>(op: Binary, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let ty = same_type(args, 0, 1)?;
    if let Some((a, b, dims)) = both_known(args)?
        && let Some(host) = binary_host(op, a, b, dims)
    {
        return Ok(Value::host(host));
    }
    Ok(Value::device(binary_device(op, args.tensor(0)?, args.tensor(1)?)?, ty))
}

fn binary_host(op: Binary, a: &Host, b: &Host, dims: Vec<u32>) -> Option<Host> {
    let shapes = [a.dims.as_slice(), b.dims.as_slice(), dims.as_slice()];
    let ty = a.ty;
    let data = match (&a.data, &b.data) {
        // Not in the range of the elements kept here: the device's arithmetic is right for it.
        _ if ty == Type::Uint64 => return None,
        (Data::Int(x), Data::Int(y)) => Data::Int(zip(x, y, shapes, |x, y| {
            host::wrap(
                ty,
                match op {
                    Binary::Add => x.wrapping_add(y),
                    Binary::Sub => x.wrapping_sub(y),
                    Binary::Mul => x.wrapping_mul(y),
                    Binary::Div => {
                        if y == 0 {
                            0
                        } else {
                            x.wrapping_div(y)
                        }
                    }
                    Binary::Min => x.min(y),
                    Binary::Max => x.max(y),
                },
            )
        })),
        (Data::Float(x), Data::Float(y)) => Data::Float(zip(x, y, shapes, |x, y| {
            host::round(
                ty,
                match op {
                    Binary::Add => x + y,
                    Binary::Sub => x - y,
                    Binary::Mul => x * y,
                    Binary::Div => x / y,
                    Binary::Min | Binary::Max if x.is_nan() || y.is_nan() => f64::NAN,
                    Binary::Min => x.min(y),
                    Binary::Max => x.max(y),
                },
            )
        })),
        _ => return None,
    };
    Some(Host::new(ty, dims, data))
}

fn binary_device(op: Binary, a: &Tensor, b: &Tensor) -> OpResult<Tensor> {
    Ok(match op {
        Binary::Add => a.add(b),
        Binary::Sub => a.sub(b),
        Binary::Mul => a.mul(b),
        Binary::Div => a.div(b),
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
    }?)
}

pub fn compare<'a>(op: Compare, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    same_type(args, 0, 1)?;
    if let Some((a, b, dims)) = both_known(args)? {
        let shapes = [a.dims.as_slice(), b.dims.as_slice(), dims.as_slice()];
        fn test<T: PartialOrd>(op: Compare, x: T, y: T) -> i64 {
            i64::from(match op {
                Compare::Equal => x == y,
                Compare::Less => x < y,
                Compare::LessOrEqual => x <= y,
                Compare::Greater => x > y,
                Compare::GreaterOrEqual => x >= y,
            })
        }
        let data = match (&a.data, &b.data) {
            (Data::Int(x), Data::Int(y)) => zip(x, y, shapes, |x, y| test(op, x, y)),
            (Data::Float(x), Data::Float(y)) => zip(x, y, shapes, |x, y| test(op, x, y)),
            _ => return misfit("an integer and a float type cannot be compared"),
        };
        return Ok(Value::host(Host::new(Type::Bool, dims, Data::Int(data))));
    }
    let (a, b) = (args.tensor(0)?, args.tensor(1)?);
    let y = match op {
        Compare::Equal => a.equal(b),
        Compare::Less => a.lesser(b),
        Compare::LessOrEqual => a.lesser_or_equal(b),
        Compare::Greater => a.greater(b),
        Compare::GreaterOrEqual => a.greater_or_equal(b),
    }?;
    Ok(Value::device(y, Type::Bool))
}

/// Checks that input `index` is bool.
fn need_bool(args: &Args<'_, '_>, index: usize) -> OpResult<()> {
    match args.value(index)?.ty() {
        Type::Bool => Ok(()),
        other => misfit(format!("input {index} must be bool, but is {other}")),
    }
}

pub fn logic<'a>(op: Logic, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    need_bool(args, 0)?;
    need_bool(args, 1)?;
    if let Some((a, b, dims)) = both_known(args)? {
        let shapes = [a.dims.as_slice(), b.dims.as_slice(), dims.as_slice()];
        let data = zip(a.ints()?, b.ints()?, shapes, |x, y| match op {
            Logic::And => x & y,
            Logic::Or => x | y,
            Logic::Xor => x ^ y,
        });
        return Ok(Value::host(Host::new(Type::Bool, dims, Data::Int(data))));
    }
    let (a, b) = (args.tensor(0)?, args.tensor(1)?);
    let y = match op {
        Logic::And => a.logical_and(b),
        Logic::Or => a.logical_or(b),
        Logic::Xor => a.logical_xor(b),
    }?;
    Ok(Value::device(y, Type::Bool))
}

pub fn not<'a>(args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    need_bool(args, 0)?;
    if let Some(known) = args.host(0) {
        let data = known.ints()?.iter().map(|v| 1 - v).collect();
        return Ok(Value::host(Host::new(Type::Bool, known.dims.clone(), Data::Int(data))));
    }
    Ok(Value::device(args.tensor(0)?.logical_not()?, Type::Bool))
}

pub fn is_nan<'a>(args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    Ok(Value::device(args.tensor(0)?.is_nan()?, Type::Bool))
}

pub fn is_inf<'a>(negative: bool, positive: bool, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let x = args.tensor(0)?;
    let any = x.is_infinite()?;
    let y = if negative && positive {
        any
    } else {
        let zero = Tensor::fill(args.value(0)?.ty().device(), &[], 0.0)?;
        match (negative, positive) {
            (true, _) => any.logical_and(&x.lesser(&zero)?)?,
            (_, true) => any.logical_and(&x.greater(&zero)?)?,
            _ => any.logical_and(&any.logical_not()?)?,
        }
    };
    Ok(Value::device(y, Type::Bool))
}

pub fn variadic<'a>(op: Binary, mean: bool, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let first = args.value(0)?;
    for i in 1..args.len() {
        same_type(args, 0, i)?;
    }
    if args.len() == 1 {
        return Ok(first.clone());
    }
    if args.len() == 2 && !mean {
        return binary(op, args);
    }
    let mut sum = binary_device(op, args.tensor(0)?, args.tensor(1)?)?;
    for i in 2..args.len() {
        sum = binary_device(op, &sum, args.tensor(i)?)?;
    }
    if mean {
        sum = sum.div(&Tensor::fill(first.ty().device(), &[], args.len() as f64)?)?;
    }
    Ok(Value::device(sum, first.ty()))
}

pub fn pow<'a>(args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let (base, exponent) = (args.value(0)?, args.value(1)?);
    let ty = base.ty();
    let x = args.tensor(0)?;
    // Squares and roots are the usual ones, and a power function is slow and less exact.
    if let Some(known) = args.host(1)
        && known.dims.len() <= base.dims().len()
        && let Some(exponent) = known.scalar()
    {
        if exponent == 1.0 {
            return Ok(base.clone());
        }
        if exponent == 2.0 {
            return Ok(Value::device(x.mul(x)?, ty));
        }
        if exponent == 0.5 && ty.is_float() {
            return Ok(Value::device(x.sqrt()?, ty));
        }
    }
    // The result has the base's type, whatever the exponent's is.
    let y = if exponent.ty() == ty {
        x.pow(args.tensor(1)?)?
    } else if ty.is_float() {
        x.pow(&args.tensor(1)?.cast(ty.device())?)?
    } else {
        let wide = warren_sdk::DataType::Float32;
        x.cast(wide)?.pow(&args.tensor(1)?.cast(wide)?)?.cast(ty.device())?
    };
    Ok(Value::device(y, ty))
}

pub fn select<'a>(args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    need_bool(args, 0)?;
    let ty = same_type(args, 1, 2)?;
    if let (Some(c), Some(a), Some(b)) = (args.host(0), args.host(1), args.host(2)) {
        let dims = host::broadcast(&c.dims, &host::broadcast(&a.dims, &b.dims)?)?;
        if host::is_small(&dims) {
            let pick = |h: &Host| h.pick(dims.clone(), &host::broadcast_indices(&h.dims, &dims));
            let (c, a, b) = (pick(c), pick(a), pick(b));
            let take = c.ints()?;
            let data = match (a.data, b.data) {
                (Data::Int(a), Data::Int(b)) => Data::Int(mix(take, &a, &b)),
                (Data::Float(a), Data::Float(b)) => Data::Float(mix(take, &a, &b)),
                _ => return misfit("an integer and a float type cannot be mixed"),
            };
            return Ok(Value::host(Host::new(ty, dims, data)));
        }
    }
    Ok(Value::device(args.tensor(0)?.select(args.tensor(1)?, args.tensor(2)?)?, ty))
}

fn mix<T: Copy>(take: &[i64], a: &[T], b: &[T]) -> Vec<T> {
    take.iter().zip(a.iter().zip(b)).map(|(c, (a, b))| if *c != 0 { *a } else { *b }).collect()
}

pub fn cast<'a>(to: Type, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let value = args.value(0)?;
    if value.ty() == to {
        return Ok(value.clone());
    }
    if let Some(known) = args.host(0) {
        // What becomes a uint64 of 2^63 or more is beyond the elements kept here.
        let beyond = match &known.data {
            Data::Int(v) => v.iter().any(|v| *v < 0),
            Data::Float(v) => v.iter().any(|v| *v >= 9.2e18),
        };
        if !(to == Type::Uint64 && beyond) {
            return Ok(Value::host(known.cast(to)));
        }
    }
    Ok(Value::device(cast_device(args.tensor(0)?, value.ty(), to)?, to))
}

fn cast_device(x: &Tensor, from: Type, to: Type) -> OpResult<Tensor> {
    if to != Type::Bool {
        return Ok(x.cast(to.device())?);
    }
    Ok(x.not_equal(&Tensor::fill(from.device(), &[], 0.0)?)?)
}

/// A bool as callers hand it in: a uint8 tensor, made 0 or 1.
pub fn bool_input(x: &Tensor) -> OpResult<Value<'static>> {
    Ok(Value::device(cast_device(x, Type::Uint8, Type::Bool)?, Type::Bool))
}

pub fn clip<'a>(min: Option<f32>, max: Option<f32>, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let value = args.value(0)?;
    let ty = value.ty();
    // Both bounds default to the largest finite numbers, so that infinities are clipped.
    let limit = match ty {
        Type::Float32 => Some(f64::from(f32::MAX)),
        Type::Float16 => Some(half::f16::MAX.to_f64()),
        _ => None,
    };
    let bound = |attribute: Option<f32>, index: usize, default: Option<f64>| match args.get(index) {
        None => Some(attribute.map(f64::from).or(default)),
        // Not exact as float64 and so not to be clamped by: the tensor itself is.
        Some(Value::Host(host))
            if host.ints().is_ok_and(|v| v.iter().any(|v| v.unsigned_abs() > 1 << 53)) =>
        {
            None
        }
        Some(Value::Host(host)) => host.scalar().map(Some),
        Some(Value::Device(_)) => None,
    };
    if let (Some(low), Some(high)) = (bound(min, 1, limit.map(|v| -v)), bound(max, 2, limit))
        && !matches!((low, high), (Some(l), Some(h)) if l > h)
    {
        return Ok(Value::device(args.tensor(0)?.clamp(low, high)?, ty));
    }
    // Bounds that are computed, or crossed: then the upper one wins.
    args.need_device()?;
    let mut clipped = value.clone();
    if args.get(1).is_some() {
        same_type(args, 0, 1)?;
        clipped = Value::device(clipped.tensor()?.max(args.tensor(1)?)?, ty);
    }
    if args.get(2).is_some() {
        same_type(args, 0, 2)?;
        clipped = Value::device(clipped.tensor()?.min(args.tensor(2)?)?, ty);
    }
    match (min, max) {
        (Some(min), Some(max)) => {
            let fill = |v: f32| Tensor::fill(ty.device(), &[], f64::from(v));
            Ok(Value::device(clipped.tensor()?.max(&fill(min)?)?.min(&fill(max)?)?, ty))
        }
        _ => Ok(clipped),
    }
}
