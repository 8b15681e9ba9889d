//! Rules of the operations that read or write at computed places.

use super::{Descriptor, axis_below, limited, require};
use crate::error::Error;
use crate::op::Arg;
use crate::shape::{Dims, MAX_RANK};
use crate::types::DataType;

pub(super) fn arg_min_max(
    kind: Arg,
    input: Descriptor,
    axis: u32,
    keep: bool,
    output: DataType,
) -> Result<Descriptor, Error> {
    let name = kind.name();
    axis_below(name, axis, input.shape.rank())?;
    let fits = matches!(output, DataType::Int32 | DataType::Int64);
    require(name, "output-data-type", output, fits, "int32 or int64")?;
    let shape = super::reduced_shape(&input.shape, 1 << axis, keep);
    if input.shape.as_slice()[axis as usize] == 0 && shape.count() > 0 {
        return Err(Error::invalid(name, format!("axis {axis} has no element to name")));
    }
    Ok(Descriptor { data_type: output, shape: limited(name, shape)? })
}

fn indices_type(name: &'static str, indices: &Descriptor) -> Result<(), Error> {
    let t = indices.data_type;
    let fits = matches!(t, DataType::Int32 | DataType::Uint32 | DataType::Int64);
    require(name, "indices", t, fits, "int32, uint32 or int64")
}

/// Refuses to index a dimension without elements: no index can be limited to it.
fn indexable(
    name: &'static str,
    input: &Dims,
    axes: std::ops::Range<usize>,
    used: bool,
) -> Result<(), Error> {
    if used && input.as_slice()[axes].contains(&0) {
        return Err(Error::invalid(name, format!("input {input:?} has no element along an indexed axis")));
    }
    Ok(())
}

fn joined(name: &'static str, pieces: [&[u32]; 3]) -> Result<Dims, Error> {
    let mut shape = Dims::SCALAR;
    for &dim in pieces.into_iter().flatten() {
        shape.push(dim).ok_or_else(|| {
            Error::invalid(name, format!("the result would have more than {MAX_RANK} dimensions"))
        })?;
    }
    limited(name, shape)
}

pub(super) fn gather(name: &'static str, inputs: &[Descriptor], axis: u32) -> Result<Descriptor, Error> {
    let [input, indices] = inputs else {
        return Err(Error::invalid(name, "takes two operands"));
    };
    indices_type(name, indices)?;
    axis_below(name, axis, input.shape.rank())?;
    let (dims, axis) = (input.shape.as_slice(), axis as usize);
    let shape = joined(name, [&dims[..axis], indices.shape.as_slice(), &dims[axis + 1..]])?;
    indexable(name, &input.shape, axis..axis + 1, shape.count() > 0)?;
    Ok(Descriptor { data_type: input.data_type, shape })
}

/// Checks indices that are shaped like the input but for one axis.
fn element_indices(name: &'static str, inputs: &[Descriptor], axis: u32) -> Result<(), Error> {
    let [input, indices, ..] = inputs else {
        return Err(Error::invalid(name, "takes input and indices"));
    };
    indices_type(name, indices)?;
    axis_below(name, axis, input.shape.rank())?;
    let axis = axis as usize;
    let fits = indices.shape.rank() == input.shape.rank() && {
        let mut expected = input.shape;
        expected.as_mut_slice()[axis] = indices.shape.as_slice()[axis];
        indices.shape == expected
    };
    if !fits {
        return Err(Error::invalid(
            name,
            format!(
                "indices {:?} must be shaped like input {:?} but for axis {axis}",
                indices.shape, input.shape
            ),
        ));
    }
    indexable(name, &input.shape, axis..axis + 1, indices.shape.count() > 0)
}

pub(super) fn gather_elements(
    name: &'static str,
    inputs: &[Descriptor],
    axis: u32,
) -> Result<Descriptor, Error> {
    element_indices(name, inputs, axis)?;
    Ok(Descriptor { data_type: inputs[0].data_type, shape: inputs[1].shape })
}

pub(super) fn scatter_elements(
    name: &'static str,
    inputs: &[Descriptor],
    axis: u32,
) -> Result<Descriptor, Error> {
    element_indices(name, inputs, axis)?;
    updates(name, inputs, &inputs[1].shape)?;
    Ok(inputs[0])
}

fn updates(name: &'static str, inputs: &[Descriptor], expected: &Dims) -> Result<(), Error> {
    let [input, _, updates] = inputs else {
        return Err(Error::invalid(name, "takes input, indices and updates"));
    };
    if updates.data_type != input.data_type || updates.shape != *expected {
        return Err(Error::invalid(
            name,
            format!(
                "updates are {} {:?}, must be {} {expected:?}",
                updates.data_type, updates.shape, input.data_type
            ),
        ));
    }
    Ok(())
}

/// The shape of the slices that coordinates name.
fn nd_slices(name: &'static str, inputs: &[Descriptor]) -> Result<Dims, Error> {
    let [input, indices, ..] = inputs else {
        return Err(Error::invalid(name, "takes input and indices"));
    };
    indices_type(name, indices)?;
    let (dims, at) = (input.shape.as_slice(), indices.shape.as_slice());
    let (Some((&coordinates, outer)), false) = (at.split_last(), dims.is_empty()) else {
        return Err(Error::invalid(
            name,
            format!("input {:?} and indices {:?} both need rank 1 or more", input.shape, indices.shape),
        ));
    };
    let Some(inner) = dims.get(coordinates as usize..) else {
        return Err(Error::invalid(
            name,
            format!("indices {:?} hold {coordinates} coordinates for input {:?}", indices.shape, input.shape),
        ));
    };
    let shape = joined(name, [outer, inner, &[]])?;
    indexable(name, &input.shape, 0..coordinates as usize, shape.count() > 0)?;
    Ok(shape)
}

pub(super) fn gather_nd(name: &'static str, inputs: &[Descriptor]) -> Result<Descriptor, Error> {
    let shape = nd_slices(name, inputs)?;
    Ok(Descriptor { data_type: inputs[0].data_type, shape })
}

pub(super) fn scatter_nd(name: &'static str, inputs: &[Descriptor]) -> Result<Descriptor, Error> {
    let slices = nd_slices(name, inputs)?;
    updates(name, inputs, &slices)?;
    Ok(inputs[0])
}
