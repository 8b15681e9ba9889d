//! Rules of the operations that move elements.

use super::{Descriptor, axis_below, limited, same_length};
use crate::error::Error;
use crate::op::{PaddingMode, Splits};
use crate::shape::Dims;

/// The most tensors that one `split` answers.
pub(crate) const MAX_SPLITS: u32 = 1 << 16;

pub(super) fn transpose(
    name: &'static str,
    input: Descriptor,
    permutation: Option<&Dims>,
) -> Result<Descriptor, Error> {
    let dims = input.shape.as_slice();
    let mut shape = input.shape;
    let Some(permutation) = permutation else {
        shape.as_mut_slice().reverse();
        return Ok(Descriptor { data_type: input.data_type, shape });
    };
    same_length(name, "permutation", permutation, dims.len())?;
    let mut seen = 0u32;
    for (to, &from) in shape.as_mut_slice().iter_mut().zip(permutation.as_slice()) {
        match dims.get(from as usize) {
            Some(&d) if seen & (1 << from) == 0 => {
                seen |= 1 << from;
                *to = d;
            }
            _ => {
                return Err(Error::invalid(
                    name,
                    format!("{permutation:?} is no permutation of the axes of rank {}", dims.len()),
                ));
            }
        }
    }
    Ok(Descriptor { data_type: input.data_type, shape })
}

pub(super) fn slice(
    name: &'static str,
    input: Descriptor,
    starts: &Dims,
    sizes: &Dims,
    strides: Option<&Dims>,
) -> Result<Descriptor, Error> {
    let rank = input.shape.rank();
    same_length(name, "starts", starts, rank)?;
    same_length(name, "sizes", sizes, rank)?;
    let ones = Dims::splat(1, rank);
    let strides = strides.unwrap_or(&ones);
    same_length(name, "strides", strides, rank)?;
    let mut shape = input.shape;
    for (i, out) in shape.as_mut_slice().iter_mut().enumerate() {
        let (start, size, stride) = (starts.as_slice()[i], sizes.as_slice()[i], strides.as_slice()[i]);
        if stride == 0 {
            return Err(Error::invalid(name, format!("stride 0 on axis {i}")));
        }
        if u64::from(start) + u64::from(size) > u64::from(*out) {
            return Err(Error::invalid(
                name,
                format!("window {start}+{size} on axis {i} exceeds the input's {:?}", input.shape),
            ));
        }
        *out = size.div_ceil(stride);
    }
    Ok(Descriptor { data_type: input.data_type, shape })
}

pub(super) fn concat(name: &'static str, inputs: &[Descriptor], axis: u32) -> Result<Descriptor, Error> {
    let [first, rest @ ..] = inputs else {
        return Err(Error::invalid(name, "needs at least one input"));
    };
    axis_below(name, axis, first.shape.rank())?;
    let mut shape = first.shape;
    for (i, other) in rest.iter().enumerate() {
        let fits = other.data_type == first.data_type
            && other.shape.rank() == first.shape.rank()
            && (0..shape.rank())
                .all(|d| d == axis as usize || other.shape.as_slice()[d] == first.shape.as_slice()[d]);
        if !fits {
            return Err(Error::invalid(
                name,
                format!(
                    "input {} is {} {:?}, input 0 is {} {:?}: they must agree but for axis {axis}",
                    i + 1,
                    other.data_type,
                    other.shape,
                    first.data_type,
                    first.shape
                ),
            ));
        }
        let sum = shape.as_slice()[axis as usize].checked_add(other.shape.as_slice()[axis as usize]);
        shape.as_mut_slice()[axis as usize] =
            sum.ok_or_else(|| Error::invalid(name, format!("the joined axis {axis} exceeds 32 bits")))?;
    }
    Ok(Descriptor { data_type: first.data_type, shape: limited(name, shape)? })
}

pub(super) fn pad(
    name: &'static str,
    input: Descriptor,
    beginning: &Dims,
    ending: &Dims,
    mode: PaddingMode,
) -> Result<Descriptor, Error> {
    let rank = input.shape.rank();
    same_length(name, "beginning-padding", beginning, rank)?;
    same_length(name, "ending-padding", ending, rank)?;
    let mut shape = input.shape;
    for (i, out) in shape.as_mut_slice().iter_mut().enumerate() {
        let (before, after) = (beginning.as_slice()[i], ending.as_slice()[i]);
        let fits = match mode {
            PaddingMode::Constant(_) => true,
            PaddingMode::Edge => *out > 0 || before == 0 && after == 0,
            PaddingMode::Reflection => before.max(after) < (*out).max(1),
        };
        if !fits {
            return Err(Error::invalid(
                name,
                format!(
                    "padding {before} and {after} on axis {i} of {:?}: {} needs a larger dimension",
                    input.shape,
                    if mode == PaddingMode::Edge { "edge" } else { "reflection" }
                ),
            ));
        }
        let sum = out.checked_add(before).and_then(|s| s.checked_add(after));
        *out = sum.ok_or_else(|| Error::invalid(name, format!("the padded axis {i} exceeds 32 bits")))?;
    }
    Ok(Descriptor { data_type: input.data_type, shape: limited(name, shape)? })
}

pub(super) fn tile(name: &'static str, input: Descriptor, repetitions: &Dims) -> Result<Descriptor, Error> {
    same_length(name, "repetitions", repetitions, input.shape.rank())?;
    let mut shape = input.shape;
    for (i, (out, &times)) in shape.as_mut_slice().iter_mut().zip(repetitions.as_slice()).enumerate() {
        if times == 0 {
            return Err(Error::invalid(name, format!("repetitions {repetitions:?} hold a 0")));
        }
        let product = out.checked_mul(times);
        *out = product.ok_or_else(|| Error::invalid(name, format!("the tiled axis {i} exceeds 32 bits")))?;
    }
    Ok(Descriptor { data_type: input.data_type, shape: limited(name, shape)? })
}

pub(super) fn triangular(name: &'static str, input: Descriptor) -> Result<Descriptor, Error> {
    if input.shape.rank() < 2 {
        return Err(Error::invalid(name, format!("input {:?} needs rank 2 or more", input.shape)));
    }
    Ok(input)
}

/// Sizes along `axis` of what `split` answers: equal parts, or the given ones. Sizes of 0 are
/// refused unless the axis itself is 0 long.
pub(crate) fn split(input: Descriptor, splits: &Splits<'_>, axis: u32) -> Result<Vec<u32>, Error> {
    const NAME: &str = "split";
    axis_below(NAME, axis, input.shape.rank())?;
    let size = input.shape.as_slice()[axis as usize];
    let mismatch = |what: String| {
        Err(Error::invalid(NAME, format!("{what} for axis {axis} of input {:?}", input.shape)))
    };
    match *splits {
        Splits::Count(count) => {
            if count == 0 || count > MAX_SPLITS || !size.is_multiple_of(count) {
                return mismatch(format!("{count} equal parts cannot be had"));
            }
            Ok(vec![size / count; count as usize])
        }
        Splits::Sizes(sizes) => {
            let sum: u64 = sizes.iter().map(|&s| u64::from(s)).sum();
            let empty = size > 0 && sizes.contains(&0);
            if sizes.is_empty() || sizes.len() > MAX_SPLITS as usize || empty || sum != u64::from(size) {
                return mismatch(format!("{} sizes that sum to {sum} do not fit", sizes.len()));
            }
            Ok(sizes.to_vec())
        }
    }
}
