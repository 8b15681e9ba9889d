//! Rules of normalizations and of quantization.

use super::{Descriptor, axis_below, float, require};
use crate::error::Error;
use crate::op::InputLayout;
use crate::shape::Dims;
use crate::types::DataType;

/// Checks that every operand after the first is of the input's type and of this shape.
fn parameters(name: &'static str, inputs: &[Descriptor], names: &[&str], shape: &Dims) -> Result<(), Error> {
    let data_type = inputs[0].data_type;
    for (operand, what) in inputs[1..].iter().zip(names) {
        if operand.data_type != data_type || operand.shape != *shape {
            return Err(Error::invalid(
                name,
                format!("{what} is {} {:?}, must be {data_type} {shape:?}", operand.data_type, operand.shape),
            ));
        }
    }
    Ok(())
}

fn affine(scale: bool) -> [&'static str; 2] {
    if scale { ["scale", "bias"] } else { ["bias", ""] }
}

pub(super) fn batch(
    name: &'static str,
    inputs: &[Descriptor],
    axis: u32,
    scale: bool,
) -> Result<Descriptor, Error> {
    let input = inputs[0];
    float(name, "input", input.data_type)?;
    axis_below(name, axis, input.shape.rank())?;
    let shape = Dims::splat(input.shape.as_slice()[axis as usize], 1);
    let [first, second] = affine(scale);
    parameters(name, inputs, &["mean", "variance", first, second], &shape)?;
    Ok(input)
}

pub(super) fn instance(
    name: &'static str,
    inputs: &[Descriptor],
    layout: InputLayout,
    scale: bool,
) -> Result<Descriptor, Error> {
    let input = inputs[0];
    float(name, "input", input.data_type)?;
    let &[_, second, _, fourth] = input.shape.as_slice() else {
        return Err(Error::invalid(name, format!("input {:?} must be of rank 4", input.shape)));
    };
    let channels = if layout == InputLayout::Nchw { second } else { fourth };
    parameters(name, inputs, &affine(scale), &Dims::splat(channels, 1))?;
    Ok(input)
}

/// The axes of a layer normalization, in the order in which scale and bias have them.
pub(crate) fn layer_axes(axes: Option<&Dims>, rank: usize) -> Dims {
    match axes {
        Some(axes) => *axes,
        None => {
            let mut all = Dims::SCALAR;
            for axis in 1..rank {
                let _ = all.push(axis as u32); // at most the input's rank
            }
            all
        }
    }
}

pub(super) fn layer(
    name: &'static str,
    inputs: &[Descriptor],
    axes: Option<&Dims>,
    scale: bool,
) -> Result<Descriptor, Error> {
    let input = inputs[0];
    float(name, "input", input.data_type)?;
    let axes = layer_axes(axes, input.shape.rank());
    super::axes_mask(name, Some(&axes), input.shape.rank())?;
    let mut shape = axes;
    for size in shape.as_mut_slice() {
        *size = input.shape.as_slice()[*size as usize];
    }
    parameters(name, inputs, &affine(scale), &shape)?;
    Ok(input)
}

/// `dequantize-linear` and `quantize-linear`.
pub(super) fn linear(name: &'static str, inputs: &[Descriptor], quantize: bool) -> Result<Descriptor, Error> {
    let [input, scale, zero] = inputs else {
        return Err(Error::invalid(name, "takes input, scale and zero-point"));
    };
    let integer = |operand: &str, t: DataType| {
        let fits = matches!(t, DataType::Uint8 | DataType::Int8 | DataType::Uint32 | DataType::Int32);
        require(name, operand, t, fits, "uint8, int8, uint32 or int32")
    };
    float(name, "scale", scale.data_type)?;
    integer("zero-point", zero.data_type)?;
    let (same, result) = if quantize { (scale, zero) } else { (zero, scale) };
    if !quantize {
        integer("input", input.data_type)?;
    }
    if same.data_type != input.data_type {
        let operand = if quantize { "scale" } else { "zero-point" };
        return Err(Error::invalid(
            name,
            format!(
                "{operand} is {}, input is {}: they must be of one type",
                same.data_type, input.data_type
            ),
        ));
    }
    let blocks = input.shape.as_slice().iter().zip(scale.shape.as_slice());
    let fits = scale.shape == zero.shape
        && scale.shape.rank() == input.shape.rank()
        && blocks.clone().all(|(&i, &s)| i == s || s > 0 && i.is_multiple_of(s));
    if !fits {
        return Err(Error::invalid(
            name,
            format!(
                "scale {:?} and zero-point {:?} must be of one shape, whose dimensions divide the input's {:?}",
                scale.shape, zero.shape, input.shape
            ),
        ));
    }
    Ok(Descriptor { data_type: result.data_type, shape: input.shape })
}
