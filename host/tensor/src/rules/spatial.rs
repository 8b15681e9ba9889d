//! Rules of transposed convolution, pooling and resampling.

use super::linear::float_pair;
use super::{Descriptor, checked_shape, float};
use crate::error::Error;
use crate::op::{ConvTranspose2d, InputLayout, Pool2d, Pooling, Resample2d, Rounding, TransposeFilterLayout};
use crate::shape::{Dims, MAX_ELEMENTS};
use crate::types::DataType;

/// Sizes of a transposed convolution, read from shapes in any layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConvTransposeSizes {
    /// Batch.
    pub n: usize,
    /// Input channels, all groups.
    pub ic: usize,
    /// Input height and width.
    pub ih: usize,
    pub iw: usize,
    /// Output channels, all groups.
    pub oc: usize,
    /// Filter height and width.
    pub kh: usize,
    pub kw: usize,
    /// Output height and width.
    pub oh: usize,
    pub ow: usize,
}

/// Reads the sizes of a transposed convolution; the error names what does not fit.
pub(crate) fn conv_transpose_sizes(
    input: &Dims,
    filter: &Dims,
    c: &ConvTranspose2d,
) -> Result<ConvTransposeSizes, String> {
    let (n, ic, ih, iw) = image(input, c.input_layout)?;
    let &[f0, f1, f2, f3] = filter.as_slice() else {
        return Err(format!("filter {filter:?} must be of rank 4"));
    };
    let (fi, fo, kh, kw) = match c.filter_layout {
        TransposeFilterLayout::Iohw => (f0, f1, f2, f3),
        TransposeFilterLayout::Hwoi => (f3, f2, f0, f1),
        TransposeFilterLayout::Ohwi => (f3, f0, f1, f2),
    };
    if c.groups == 0 || !ic.is_multiple_of(c.groups) {
        return Err(format!("groups {} must divide {ic} input channels", c.groups));
    }
    if ic != fi {
        return Err(format!("input {input:?} has {ic} channels, filter {filter:?} takes {fi}"));
    }
    let oc = u64::from(fo) * u64::from(c.groups);
    if oc > MAX_ELEMENTS {
        return Err(format!("{fo} output channels a group in {} groups are too many", c.groups));
    }
    positive("strides", &c.strides)?;
    positive("dilations", &c.dilations)?;
    if kh == 0 || kw == 0 || ih == 0 || iw == 0 {
        return Err(format!("input {input:?} and filter {filter:?} need a height and a width"));
    }
    let [top, bottom, left, right] = c.padding;
    let out = |at: usize, size: u32, k: u32, before: u32, after: u32| {
        let stride = i128::from(c.strides[at]);
        let reach = i128::from(k - 1) * i128::from(c.dilations[at]) + 1;
        let least = i128::from(size - 1) * stride + reach - i128::from(before) - i128::from(after);
        let wanted = match c.output_sizes {
            Some(sizes) => i128::from(sizes[at]),
            None => least + i128::from(c.output_padding[at]),
        };
        // The stride bounds what may be added, given either way.
        if wanted < least || wanted - least >= stride {
            return Err(format!(
                "output size {wanted} is not {least} to {} (output sizes {:?}, output padding {:?}, strides {:?})",
                least + stride - 1,
                c.output_sizes,
                c.output_padding,
                c.strides
            ));
        }
        if !(1..=i128::from(MAX_ELEMENTS)).contains(&wanted) {
            return Err(format!("the output would be {wanted} long"));
        }
        Ok(wanted as usize)
    };
    let oh = out(0, ih, kh, top, bottom)?;
    let ow = out(1, iw, kw, left, right)?;
    let [n, ic, ih, iw, kh, kw] = [n, ic, ih, iw, kh, kw].map(|v| v as usize);
    Ok(ConvTransposeSizes { n, ic, ih, iw, oc: oc as usize, kh, kw, oh, ow })
}

pub(super) fn conv_transpose2d(
    name: &'static str,
    inputs: &[Descriptor],
    c: &ConvTranspose2d,
) -> Result<Descriptor, Error> {
    let (input, filter) = float_pair(name, inputs)?;
    let s = conv_transpose_sizes(&input.shape, &filter.shape, c).map_err(|m| Error::invalid(name, m))?;
    if let Some(bias) = inputs.get(2)
        && (bias.data_type != input.data_type || bias.shape.as_slice() != [s.oc as u32])
    {
        return Err(Error::invalid(
            name,
            format!("bias is {} {:?}, must be {} [{}]", bias.data_type, bias.shape, input.data_type, s.oc),
        ));
    }
    let shape = arrange(name, c.input_layout, [s.n, s.oc, s.oh, s.ow])?;
    Ok(Descriptor { data_type: input.data_type, shape })
}

/// Sizes of a pooling operation, read from shapes in any layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PoolSizes {
    /// Batch and channels.
    pub n: usize,
    pub c: usize,
    /// Input height and width.
    pub ih: usize,
    pub iw: usize,
    /// Window height and width.
    pub kh: usize,
    pub kw: usize,
    /// Output height and width.
    pub oh: usize,
    pub ow: usize,
    /// Rows before the first, columns before the first.
    pub top: usize,
    pub left: usize,
}

/// Reads the sizes of a pooling operation; the error names what does not fit.
pub(crate) fn pool_sizes(input: &Dims, p: &Pool2d) -> Result<PoolSizes, String> {
    let (n, c, ih, iw) = image(input, p.layout)?;
    let [kh, kw] = p.window.unwrap_or([ih, iw]);
    positive("strides", &p.strides)?;
    positive("dilations", &p.dilations)?;
    if kh == 0 || kw == 0 {
        return Err(format!("window dimensions {kh} and {kw} must be 1 or more"));
    }
    let padding = if p.output_sizes.is_some() { [0; 4] } else { p.padding };
    let [top, bottom, left, right] = padding;
    // Output sizes rounded down and up.
    let out = |at: usize, size: u32, before: u32, after: u32, k: u32| {
        let reach = i128::from(k - 1) * i128::from(p.dilations[at]) + 1;
        let room = i128::from(size) + i128::from(before) + i128::from(after) - reach;
        let stride = i128::from(p.strides[at]);
        let down = room.div_euclid(stride);
        (down + 1, down + 1 + i128::from(room.rem_euclid(stride) != 0))
    };
    let heights = out(0, ih, top, bottom, kh);
    let widths = out(1, iw, left, right, kw);
    let (down, up) = ((heights.0, widths.0), (heights.1, widths.1));
    let (oh, ow) = match (p.output_sizes, p.rounding) {
        (Some([h, w]), _) => {
            let wanted = (i128::from(h), i128::from(w));
            if wanted != down && wanted != up {
                return Err(format!("output sizes {h} and {w} must be {down:?} or {up:?}"));
            }
            wanted
        }
        (None, Rounding::Floor) => down,
        (None, Rounding::Ceil) => up,
    };
    let valid = 1..=i128::from(MAX_ELEMENTS);
    if !valid.contains(&oh) || !valid.contains(&ow) {
        return Err(format!(
            "window {kh} x {kw} with dilations {:?} on input {input:?} padded by {padding:?} makes an output of \
             {oh} x {ow}",
            p.dilations
        ));
    }
    let [n, c, ih, iw, kh, kw, top, left] = [n, c, ih, iw, kh, kw, top, left].map(|v| v as usize);
    Ok(PoolSizes { n, c, ih, iw, kh, kw, oh: oh as usize, ow: ow as usize, top, left })
}

pub(super) fn pool2d(kind: Pooling, input: Descriptor, p: &Pool2d) -> Result<Descriptor, Error> {
    let name = kind.name();
    if kind != Pooling::Max {
        float(name, "input", input.data_type)?;
    }
    let s = pool_sizes(&input.shape, p).map_err(|m| Error::invalid(name, m))?;
    let shape = arrange(name, p.layout, [s.n, s.c, s.oh, s.ow])?;
    Ok(Descriptor { data_type: input.data_type, shape })
}

pub(super) fn resample2d(name: &'static str, input: Descriptor, r: &Resample2d) -> Result<Descriptor, Error> {
    let t = input.data_type;
    let fits = t.is_float() || matches!(t, DataType::Uint8 | DataType::Int8);
    super::require(name, "input", t, fits, "float32, float16, uint8 or int8")?;
    let dims = input.shape.as_slice();
    if dims.len() != 4 {
        return Err(Error::invalid(name, format!("input {:?} must be of rank 4", input.shape)));
    }
    if r.axes[0] == r.axes[1] || r.axes.iter().any(|&a| a > 3) {
        return Err(Error::invalid(name, format!("axes {:?} must be two of 0 to 3", r.axes)));
    }
    if r.scales.iter().any(|s| s.is_nan() || *s <= 0.0) {
        return Err(Error::invalid(name, format!("scales {:?} must be above 0", r.scales)));
    }
    let mut shape = input.shape;
    for (at, &axis) in r.axes.iter().enumerate() {
        let from = dims[axis as usize];
        let size = match r.sizes {
            Some(sizes) => f64::from(sizes[at]),
            None => (f64::from(from) * f64::from(r.scales[at])).floor(),
        };
        if !(1.0..=MAX_ELEMENTS as f64).contains(&size) || from == 0 {
            return Err(Error::invalid(
                name,
                format!("axis {axis} of {:?} cannot be resampled to size {size}", input.shape),
            ));
        }
        shape.as_mut_slice()[axis as usize] = size as u32;
    }
    Ok(Descriptor { data_type: t, shape: super::limited(name, shape)? })
}

/// Batch, channels, height, width.
fn image(input: &Dims, layout: InputLayout) -> Result<(u32, u32, u32, u32), String> {
    let &[i0, i1, i2, i3] = input.as_slice() else {
        return Err(format!("input {input:?} must be of rank 4"));
    };
    Ok(match layout {
        InputLayout::Nchw => (i0, i1, i2, i3),
        InputLayout::Nhwc => (i0, i3, i1, i2),
    })
}

fn arrange(name: &'static str, layout: InputLayout, [n, c, h, w]: [usize; 4]) -> Result<Dims, Error> {
    let dims = match layout {
        InputLayout::Nchw => [n, c, h, w],
        InputLayout::Nhwc => [n, h, w, c],
    };
    checked_shape(name, &dims.map(|d| d as u32))
}

fn positive(what: &str, values: &[u32; 2]) -> Result<(), String> {
    if values.contains(&0) {
        return Err(format!("{what} {values:?} must be 1 or more"));
    }
    Ok(())
}
