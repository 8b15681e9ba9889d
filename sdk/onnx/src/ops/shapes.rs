//! Operators that only change or tell a shape: Shape, Size, Reshape, Squeeze, Unsqueeze, Flatten.

use crate::error::{OpResult, misfit};
use crate::graph::{Args, Value, axes, axis};
use crate::host::{Data, Host, MAX_RANK, is_small};
use crate::types::{Type, elements};

pub fn shape<'a>(start: i64, end: Option<i64>, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let dims = args.value(0)?.dims();
    let rank = dims.len() as i64;
    let clamp = |at: i64| (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize;
    let (start, end) = (clamp(start), clamp(end.unwrap_or(rank)));
    Ok(Value::host(Host::shape_of(dims.get(start..end).unwrap_or(&[]))))
}

pub fn size<'a>(args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    match elements(args.value(0)?.dims()).and_then(|n| i64::try_from(n).ok()) {
        Some(n) => Ok(Value::host(Host::new(Type::Int64, Vec::new(), Data::Int(vec![n])))),
        None => misfit("the input's size does not fit 64 bits"),
    }
}

/// Input 0 under other dimensions.
pub fn with_dims<'a>(dims: Vec<u32>, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let value = args.value(0)?;
    if dims.len() > MAX_RANK {
        return misfit(format!("the result would have rank {}; at most {MAX_RANK} is supported", dims.len()));
    }
    if value.dims() == dims {
        return Ok(value.clone());
    }
    match args.host(0) {
        Some(known) if is_small(&dims) => Ok(Value::host(known.with_dims(dims))),
        _ => Ok(Value::device(args.tensor(0)?.reshape(&dims)?, value.ty())),
    }
}

pub fn reshape<'a>(allow_zero: bool, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let Some(target) = args.ints(1)? else { return misfit("the shape is missing") };
    let dims = args.value(0)?.dims();
    let target = reshape_target(dims, &target, allow_zero)?;
    with_dims(target, args)
}

fn reshape_target(dims: &[u32], target: &[i64], allow_zero: bool) -> OpResult<Vec<u32>> {
    let refuse = || misfit(format!("an input of shape {dims:?} does not fit shape {target:?}"));
    let mut out = Vec::with_capacity(target.len());
    let mut inferred = None;
    for (i, size) in target.iter().enumerate() {
        out.push(match size {
            -1 if inferred.is_none() => {
                inferred = Some(i);
                1
            }
            0 if !allow_zero => match dims.get(i) {
                Some(dim) => *dim,
                None => return refuse(),
            },
            size => match u32::try_from(*size) {
                Ok(size) => size,
                Err(_) => return refuse(),
            },
        });
    }
    let (Some(from), Some(to)) = (elements(dims), elements(&out)) else { return refuse() };
    if let Some(i) = inferred {
        match from.checked_div(to) {
            Some(rest) if rest * to == from && u32::try_from(rest).is_ok() => out[i] = rest as u32,
            _ => return refuse(),
        }
    } else if from != to {
        return refuse();
    }
    Ok(out)
}

pub fn squeeze<'a>(fixed: Option<&[i64]>, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let given = args.ints(1)?;
    let dims = args.value(0)?.dims();
    let kept = match fixed.or(given.as_deref()) {
        None => dims.iter().copied().filter(|d| *d != 1).collect(),
        Some(list) => {
            let gone = axes(list, dims.len())?;
            if let Some(axis) = gone.iter().find(|a| dims[**a] != 1) {
                return misfit(format!("axis {axis} of shape {dims:?} is not 1 and cannot be squeezed"));
            }
            dims.iter().enumerate().filter(|(i, _)| !gone.contains(i)).map(|(_, d)| *d).collect()
        }
    };
    with_dims(kept, args)
}

pub fn unsqueeze<'a>(fixed: Option<&[i64]>, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let given = args.ints(1)?;
    let Some(list) = fixed.or(given.as_deref()) else { return misfit("the axes are missing") };
    let dims = args.value(0)?.dims();
    let new = axes(list, dims.len() + list.len())?;
    let mut old = dims.iter();
    let out = (0..dims.len() + list.len())
        .map(|i| if new.contains(&i) { 1 } else { old.next().copied().unwrap_or(1) })
        .collect();
    with_dims(out, args)
}

pub fn flatten<'a>(at: i64, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let dims = args.value(0)?.dims();
    // The rank itself is a valid place to split at.
    let at = if at == dims.len() as i64 { dims.len() } else { axis(at, dims.len())? };
    with_dims(flat(dims, at)?.to_vec(), args)
}

/// The two sizes that a shape has before and from axis `at` on.
pub fn flat(dims: &[u32], at: usize) -> OpResult<[u32; 2]> {
    let size = |dims: &[u32]| elements(dims).and_then(|n| u32::try_from(n).ok());
    match (size(&dims[..at]), size(&dims[at..])) {
        (Some(outer), Some(inner)) => Ok([outer, inner]),
        _ => misfit(format!("shape {dims:?} is too large")),
    }
}
