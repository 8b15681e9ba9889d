//! Operators that move or make elements: Transpose, Concat, Pad, Expand, ConstantOfShape.

use serde::{Deserialize, Serialize};
use warren_sdk::Tensor;
use warren_sdk::tensor::PaddingMode;

use crate::error::{OpError, OpResult, misfit};
use crate::graph::{Args, Value, axes, axis};
use crate::host::{self, Data, Host, MAX_RANK};
use crate::types::Type;

pub fn transpose<'a>(permutation: Option<&[i64]>, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let value = args.value(0)?;
    let dims = value.dims();
    let order: Vec<u32> = match permutation {
        None => (0..dims.len() as u32).rev().collect(),
        Some(list) => {
            if list.len() != dims.len() {
                return misfit(format!("perm {list:?} does not fit an input of shape {dims:?}"));
            }
            axes(list, dims.len())?;
            list.iter().map(|a| axis(*a, dims.len()).map(|a| a as u32)).collect::<OpResult<_>>()?
        }
    };
    if order.iter().enumerate().all(|(i, a)| i == *a as usize) {
        return Ok(value.clone());
    }
    if let Some(known) = args.host(0) {
        let strides = host::strides(dims);
        let out: Vec<u32> = order.iter().map(|a| dims[*a as usize]).collect();
        let moved: Vec<usize> = order.iter().map(|a| strides[*a as usize]).collect();
        let from = host::strided(&out, &moved, 0);
        return Ok(Value::host(known.pick(out, &from)));
    }
    Ok(Value::device(args.tensor(0)?.transpose(Some(&order))?, value.ty()))
}

pub fn concat<'a>(at: i64, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let first = args.value(0)?;
    if args.len() == 1 {
        return Ok(first.clone());
    }
    let values = (0..args.len()).map(|i| args.value(i)).collect::<OpResult<Vec<_>>>()?;
    let ty = first.ty();
    if let Some(i) = values.iter().position(|v| v.ty() != ty) {
        return misfit(format!("inputs 0 and {i} are {ty} and {}", values[i].ty()));
    }
    let at = axis(at, first.dims().len())?;
    let known: Option<Vec<&Host>> = (0..args.len()).map(|i| args.host(i)).collect();
    if let Some(known) = known
        && let Some(joined) = concat_host(&known, at)?
    {
        return Ok(Value::host(joined));
    }
    args.need_device()?;
    let tensors = values.iter().map(|v| v.tensor()).collect::<OpResult<Vec<_>>>()?;
    Ok(Value::device(Tensor::concat(&tensors, at as u32)?, ty))
}

fn concat_host(parts: &[&Host], at: usize) -> OpResult<Option<Host>> {
    let mut dims = parts[0].dims.clone();
    let mut total = 0u32;
    for part in parts {
        let fits = part.dims.len() == dims.len()
            && part.dims.iter().zip(&dims).enumerate().all(|(i, (a, b))| i == at || a == b);
        if !fits {
            return misfit(format!(
                "shapes {:?} and {:?} do not join along axis {at}",
                parts[0].dims, part.dims
            ));
        }
        match total.checked_add(part.dims[at]) {
            Some(sum) => total = sum,
            None => return Ok(None),
        }
    }
    dims[at] = total;
    if !host::is_small(&dims) {
        return Ok(None);
    }
    let outer: usize = dims[..at].iter().map(|d| *d as usize).product();
    let inner: usize = dims[at + 1..].iter().map(|d| *d as usize).product();
    fn join<T: Copy>(parts: &[(&[T], usize)], outer: usize) -> Vec<T> {
        (0..outer)
            .flat_map(|o| parts.iter().flat_map(move |(v, n)| &v[o * n..(o + 1) * n]).copied())
            .collect()
    }
    let chunk = |h: &Host| h.dims[at] as usize * inner;
    let ints: Option<Vec<_>> = parts.iter().map(|h| h.ints().ok().map(|v| (v, chunk(h)))).collect();
    let data = match ints {
        Some(ints) => Data::Int(join(&ints, outer)),
        None => {
            let numbers: Vec<Vec<f64>> = parts.iter().map(|h| h.numbers()).collect();
            let floats: Vec<_> = numbers.iter().zip(parts).map(|(v, h)| (v.as_slice(), chunk(h))).collect();
            Data::Float(join(&floats, outer))
        }
    };
    Ok(Some(Host::new(parts[0].ty, dims, data)))
}

/// Pad's modes that can be lowered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum PadMode {
    Constant,
    Edge,
    Reflect,
}

pub fn pad<'a>(mode: PadMode, fixed: Option<&(Vec<i64>, f32)>, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let value = args.value(0)?;
    let dims = value.dims();
    let given;
    let (pads, fill) = match fixed {
        Some((pads, fill)) => (pads, f64::from(*fill)),
        None => {
            let Some(pads) = args.ints(1)? else { return misfit("the pads are missing") };
            given = pads;
            let fill = match args.known(2)? {
                None => 0.0,
                Some(value) => match value.scalar() {
                    Some(value) => value,
                    None => {
                        return misfit(format!(
                            "constant_value must be one element, but has shape {:?}",
                            value.dims
                        ));
                    }
                },
            };
            (&given, fill)
        }
    };
    let padded = match args.ints(3)? {
        Some(list) => {
            axes(&list, dims.len())?;
            list.iter().map(|a| axis(*a, dims.len())).collect::<OpResult<Vec<_>>>()?
        }
        None => (0..dims.len()).collect(),
    };
    if pads.len() != 2 * padded.len() {
        return misfit(format!("{} pads for {} axes: two an axis are needed", pads.len(), padded.len()));
    }
    let rank = dims.len();
    let (mut before, mut after) = (vec![0u32; rank], vec![0u32; rank]);
    let (mut starts, mut sizes) = (vec![0u32; rank], dims.to_vec());
    for (i, at) in padded.iter().enumerate() {
        let (begin, end) = (pads[i], pads[padded.len() + i]);
        let refuse = || misfit(format!("pads {pads:?} do not fit shape {dims:?}"));
        let (Ok(grow_begin), Ok(grow_end)) = (u32::try_from(begin.max(0)), u32::try_from(end.max(0))) else {
            return refuse();
        };
        // Negative pads cut.
        let (cut_begin, cut_end) = (begin.min(0).unsigned_abs(), end.min(0).unsigned_abs());
        let left = cut_begin.checked_add(cut_end).and_then(|cut| u64::from(dims[*at]).checked_sub(cut));
        let Some(left) = left else { return refuse() };
        (before[*at], after[*at]) = (grow_begin, grow_end);
        // Both fit: they are at most the dimension.
        (starts[*at], sizes[*at]) = (cut_begin as u32, left as u32);
    }
    let mut tensor = None;
    let x = args.tensor(0)?;
    if sizes != dims {
        tensor = Some(x.slice(&starts, &sizes, None)?);
    }
    if before.iter().chain(&after).any(|n| *n > 0) {
        let mode = match mode {
            PadMode::Constant => PaddingMode::Constant,
            PadMode::Edge => PaddingMode::Edge,
            PadMode::Reflect => PaddingMode::Reflection,
        };
        tensor = Some(tensor.as_ref().unwrap_or(x).pad(&before, &after, mode, fill)?);
    }
    Ok(match tensor {
        Some(tensor) => Value::device(tensor, value.ty()),
        None => value.clone(),
    })
}

/// A shape that came as integers.
fn dims_from(list: &[i64]) -> OpResult<Vec<u32>> {
    if list.len() > MAX_RANK {
        return misfit(format!("rank {} is above {MAX_RANK}", list.len()));
    }
    list.iter()
        .map(|d| {
            u32::try_from(*d)
                .map_err(|_| OpError::Shape(format!("{list:?} is no shape: {d} is out of range")))
        })
        .collect()
}

pub fn expand<'a>(args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let value = args.value(0)?;
    let Some(shape) = args.ints(1)? else { return misfit("the shape is missing") };
    let dims = host::broadcast(value.dims(), &dims_from(&shape)?)?;
    if value.dims() == dims {
        return Ok(value.clone());
    }
    if let Some(known) = args.host(0)
        && host::is_small(&dims)
    {
        let from = host::broadcast_indices(&known.dims, &dims);
        return Ok(Value::host(known.pick(dims, &from)));
    }
    Ok(Value::device(args.tensor(0)?.expand(&dims)?, value.ty()))
}

pub fn constant_of_shape<'a>(value: &Host, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let Some(shape) = args.ints(0)? else { return misfit("the shape is missing") };
    let dims = dims_from(&shape)?;
    if host::is_small(&dims) {
        let n = dims.iter().map(|d| *d as usize).product();
        return Ok(Value::host(value.pick(dims, &vec![0; n])));
    }
    args.need_device()?;
    Ok(Value::device(value.tensor()?.reshape(&[])?.expand(&dims)?, value.ty))
}

pub fn mask<'a>(args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let dims = args.value(0)?.dims();
    args.need_device()?;
    Ok(Value::device(Tensor::fill(Type::Bool.device(), dims, 1.0)?, Type::Bool))
}
