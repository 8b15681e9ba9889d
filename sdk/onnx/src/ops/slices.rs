//! Slice and Gather. The tensor interface slices forwards with positive strides; what runs
//! backwards, and gathers, are put together from single slices where there are few.

use serde::{Deserialize, Serialize};
use warren_sdk::Tensor;

use crate::error::{OpError, OpResult, misfit};
use crate::graph::{Args, Value, axis};
use crate::host::{self, Host, MAX_RANK};

/// The most single slices that one node is put together from.
const MAX_PIECES: usize = 64;

/// Slice's attributes of opsets before 10.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Bounds {
    pub starts: Vec<i64>,
    pub ends: Vec<i64>,
    pub axes: Option<Vec<i64>>,
}

/// What is taken of one axis: `count` elements from `start` on, `step` apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: i64,
    step: i64,
    count: u32,
}

/// As in NumPy: bounds count from the end if negative, and are then cut to the axis.
fn range(dim: u32, start: i64, end: i64, step: i64) -> OpResult<Range> {
    let n = i64::from(dim);
    let clamp =
        |at: i64, low: i64, high: i64| (if at < 0 { at.saturating_add(n) } else { at }).clamp(low, high);
    if step == 0 {
        return misfit("a step is 0");
    }
    // Bounds lie in [-1, n], so nothing here overflows but a step near the ends of its type.
    let (start, distance) = if step > 0 {
        let start = clamp(start, 0, n);
        (start, clamp(end, 0, n) - start)
    } else {
        let start = clamp(start, -1, n - 1);
        (start, start - clamp(end, -1, n - 1))
    };
    let count = distance.max(0).unsigned_abs().div_ceil(step.unsigned_abs());
    // Not more than the dimension.
    Ok(Range { start: if count == 0 { 0 } else { start }, step, count: count as u32 })
}

pub fn slice<'a>(fixed: Option<&Bounds>, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let dims = args.value(0)?.dims();
    let given;
    let (bounds, steps) = match fixed {
        Some(bounds) => (bounds, None),
        None => {
            let (Some(starts), Some(ends)) = (args.ints(1)?, args.ints(2)?) else {
                return misfit("starts or ends are missing");
            };
            given = Bounds { starts, ends, axes: args.ints(3)? };
            (&given, args.ints(4)?)
        }
    };
    let n = bounds.starts.len();
    let lists = [Some(bounds.ends.len()), bounds.axes.as_ref().map(Vec::len), steps.as_ref().map(Vec::len)];
    if lists.iter().flatten().any(|len| *len != n) || (bounds.axes.is_none() && n > dims.len()) {
        return misfit(format!("starts, ends, axes and steps do not fit each other and shape {dims:?}"));
    }
    let mut ranges: Vec<Range> = dims.iter().map(|d| Range { start: 0, step: 1, count: *d }).collect();
    for i in 0..n {
        let at = axis(bounds.axes.as_ref().map_or(i as i64, |a| a[i]), dims.len())?;
        let step = steps.as_ref().map_or(1, |s| s[i]);
        ranges[at] = range(dims[at], bounds.starts[i], bounds.ends[i], step)?;
    }
    take(&ranges, args)
}

fn take<'a>(ranges: &[Range], args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let value = args.value(0)?;
    let dims = value.dims();
    if ranges.iter().zip(dims).all(|(r, d)| r.start == 0 && r.step == 1 && r.count == *d) {
        return Ok(value.clone());
    }
    if let Some(known) = args.host(0) {
        let lists: Vec<Vec<usize>> = ranges
            .iter()
            .map(|r| (0..i64::from(r.count)).map(|i| (r.start + i * r.step) as usize).collect())
            .collect();
        return Ok(Value::host(take_host(known, &lists)));
    }
    let x = args.tensor(0)?;
    // One slice for all axes that run forwards; `sizes` ends right after the last element taken.
    let forward = |r: &Range, d: u32| if r.step > 0 { *r } else { Range { start: 0, step: 1, count: d } };
    let straight: Vec<Range> = ranges.iter().zip(dims).map(|(r, d)| forward(r, *d)).collect();
    let starts: Vec<u32> = straight.iter().map(|r| r.start as u32).collect();
    let strides: Vec<u32> =
        straight.iter().zip(dims).map(|(r, d)| r.step.min(i64::from((*d).max(1))) as u32).collect();
    let sizes: Vec<u32> = straight
        .iter()
        .zip(&strides)
        .map(|(r, stride)| r.count.saturating_sub(1) * stride + u32::from(r.count > 0))
        .collect();
    let mut out = x.slice(&starts, &sizes, Some(&strides))?;
    for (at, r) in ranges.iter().enumerate().filter(|(_, r)| r.step < 0) {
        let indices: Vec<u32> = (0..i64::from(r.count)).map(|i| (r.start + i * r.step) as u32).collect();
        let dims = out.shape();
        out = pick(&out, &dims, at, &indices)?;
    }
    Ok(Value::device(out, value.ty()))
}

/// The elements at the given places of every axis.
fn take_host(known: &Host, lists: &[Vec<usize>]) -> Host {
    let strides = host::strides(&known.dims);
    let mut from = vec![0usize];
    for (list, stride) in lists.iter().zip(strides) {
        from = from.iter().flat_map(|base| list.iter().map(move |i| base + i * stride)).collect();
    }
    known.pick(lists.iter().map(|l| l.len() as u32).collect(), &from)
}

/// The given places of one axis, one slice each.
fn pick(x: &Tensor, dims: &[u32], at: usize, indices: &[u32]) -> OpResult<Tensor> {
    if indices.len() > MAX_PIECES {
        return Err(OpError::Unsupported(format!(
            "taking {} elements of an axis out of order (at most {MAX_PIECES}; the tensor interface has no gather)",
            indices.len()
        )));
    }
    let (mut starts, mut sizes) = (vec![0u32; dims.len()], dims.to_vec());
    if indices.is_empty() {
        sizes[at] = 0;
        return Ok(x.slice(&starts, &sizes, None)?);
    }
    sizes[at] = 1;
    let mut pieces = Vec::with_capacity(indices.len());
    for index in indices {
        starts[at] = *index;
        pieces.push(x.slice(&starts, &sizes, None)?);
    }
    match pieces.len() {
        1 => Ok(pieces.remove(0)),
        _ => Ok(Tensor::concat(&pieces.iter().collect::<Vec<_>>(), at as u32)?),
    }
}

pub fn gather<'a>(at: i64, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let value = args.value(0)?;
    let dims = value.dims();
    let at = axis(at, dims.len())?;
    let Some(indices) = args.known(1)? else { return misfit("the indices are missing") };
    let n = i64::from(dims[at]);
    let places = indices
        .ints()?
        .iter()
        .map(|i| match if *i < 0 { i + n } else { *i } {
            place if (0..n).contains(&place) => Ok(place as u32),
            _ => misfit(format!("index {i} is out of range for axis {at} of shape {dims:?}")),
        })
        .collect::<OpResult<Vec<u32>>>()?;
    let out: Vec<u32> = dims[..at].iter().chain(&indices.dims).chain(&dims[at + 1..]).copied().collect();
    if out.len() > MAX_RANK {
        return misfit(format!("the result would have rank {}; at most {MAX_RANK} is supported", out.len()));
    }
    if let Some(known) = args.host(0)
        && host::is_small(&out)
    {
        let lists: Vec<Vec<usize>> = dims
            .iter()
            .enumerate()
            .map(|(i, d)| {
                if i == at {
                    places.iter().map(|p| *p as usize).collect()
                } else {
                    (0..*d as usize).collect()
                }
            })
            .collect();
        return Ok(Value::host(take_host(known, &lists).with_dims(out)));
    }
    let picked = pick(args.tensor(0)?, dims, at, &places)?;
    Ok(Value::device(picked.reshape(&out)?, value.ty()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_numpys() {
        let r = |dim, start, end, step| {
            let r = range(dim, start, end, step).unwrap();
            (0..i64::from(r.count)).map(|i| r.start + i * r.step).collect::<Vec<_>>()
        };
        assert_eq!(r(5, 1, 4, 1), [1, 2, 3]);
        assert_eq!(r(5, -3, i64::MAX, 2), [2, 4]);
        assert_eq!(r(5, i64::MIN, -1, 1), [0, 1, 2, 3]);
        assert_eq!(r(5, i64::MAX, i64::MIN, -2), [4, 2, 0]);
        assert_eq!(r(5, 3, 0, -1), [3, 2, 1]);
        assert_eq!(r(5, 4, 2, 1), Vec::<i64>::new());
        assert_eq!(r(5, 0, 5, i64::MAX), [0]);
        assert_eq!(r(5, -1, -6, i64::MIN), [4]);
        assert_eq!(r(0, 0, 5, 1), Vec::<i64>::new());
        assert_eq!(r(0, -1, i64::MIN, -1), Vec::<i64>::new());
        assert!(range(5, 0, 5, 0).is_err());
    }
}
