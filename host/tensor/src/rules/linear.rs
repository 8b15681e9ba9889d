//! Rules of matrix products and convolution.

use super::{Descriptor, checked_shape, float, limited};
use crate::error::Error;
use crate::op::{Conv2d, FilterLayout, InputLayout};
use crate::shape::{Dims, MAX_ELEMENTS, broadcast, broadcasts_to};

pub(super) fn float_pair<'a>(
    name: &'static str,
    inputs: &'a [Descriptor],
) -> Result<(&'a Descriptor, &'a Descriptor), Error> {
    let [a, b, ..] = inputs else {
        return Err(Error::invalid(name, "takes two operands"));
    };
    float(name, "a", a.data_type)?;
    if a.data_type != b.data_type {
        return Err(Error::invalid(
            name,
            format!("operands are {} and {}, must be of one type", a.data_type, b.data_type),
        ));
    }
    Ok((a, b))
}

pub(super) fn matmul(name: &'static str, inputs: &[Descriptor]) -> Result<Descriptor, Error> {
    let (a, b) = float_pair(name, inputs)?;
    let mismatch = || Error::invalid(name, format!("shapes {:?} and {:?} do not multiply", a.shape, b.shape));
    let (ra, rb) = (a.shape.rank(), b.shape.rank());
    if ra < 2 || rb < 2 {
        return Err(Error::invalid(
            name,
            format!("shapes {:?} and {:?}: both need rank 2 or more", a.shape, b.shape),
        ));
    }
    let (da, db) = (a.shape.as_slice(), b.shape.as_slice());
    if da[ra - 1] != db[rb - 2] {
        return Err(mismatch());
    }
    let lead_a = Dims::new(&da[..ra - 2]).ok_or_else(mismatch)?;
    let lead_b = Dims::new(&db[..rb - 2]).ok_or_else(mismatch)?;
    let mut shape = broadcast(&lead_a, &lead_b).ok_or_else(mismatch)?;
    shape.push(da[ra - 2]).ok_or_else(mismatch)?;
    shape.push(db[rb - 1]).ok_or_else(mismatch)?;
    Ok(Descriptor { data_type: a.data_type, shape: limited(name, shape)? })
}

pub(super) fn gemm(
    name: &'static str,
    inputs: &[Descriptor],
    a_transpose: bool,
    b_transpose: bool,
) -> Result<Descriptor, Error> {
    let (a, b) = float_pair(name, inputs)?;
    let (&[a0, a1], &[b0, b1]) = (a.shape.as_slice(), b.shape.as_slice()) else {
        return Err(Error::invalid(
            name,
            format!("shapes {:?} and {:?}: both must be of rank 2", a.shape, b.shape),
        ));
    };
    let (m, ka) = if a_transpose { (a1, a0) } else { (a0, a1) };
    let (kb, n) = if b_transpose { (b1, b0) } else { (b0, b1) };
    if ka != kb {
        return Err(Error::invalid(
            name,
            format!(
                "inner dimensions {ka} of a {:?} and {kb} of b {:?} differ (after transposition)",
                a.shape, b.shape
            ),
        ));
    }
    let mut shape = Dims::splat(m, 2);
    shape.as_mut_slice()[1] = n;
    if let Some(c) = inputs.get(2)
        && (c.data_type != a.data_type || !broadcasts_to(&c.shape, &shape))
    {
        return Err(Error::invalid(
            name,
            format!("c is {} {:?}, must be {} and broadcast to {shape:?}", c.data_type, c.shape, a.data_type),
        ));
    }
    Ok(Descriptor { data_type: a.data_type, shape: limited(name, shape)? })
}

/// Sizes of a convolution, read from shapes in any layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConvSizes {
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

/// Reads the sizes of a convolution from its operands; the error names what does not fit.
pub(crate) fn conv_sizes(input: &Dims, filter: &Dims, c: &Conv2d) -> Result<ConvSizes, String> {
    let (&[i0, i1, i2, i3], &[f0, f1, f2, f3]) = (input.as_slice(), filter.as_slice()) else {
        return Err(format!("input {input:?} and filter {filter:?} must both be of rank 4"));
    };
    let (n, ic, ih, iw) = match c.input_layout {
        InputLayout::Nchw => (i0, i1, i2, i3),
        InputLayout::Nhwc => (i0, i3, i1, i2),
    };
    let (oc, fi, kh, kw) = match c.filter_layout {
        FilterLayout::Oihw => (f0, f1, f2, f3),
        FilterLayout::Hwio => (f3, f2, f0, f1),
        FilterLayout::Ohwi => (f0, f3, f1, f2),
        FilterLayout::Ihwo => (f3, f0, f1, f2),
    };
    if c.groups == 0 || !ic.is_multiple_of(c.groups) || !oc.is_multiple_of(c.groups) {
        return Err(format!("groups {} must divide {ic} input and {oc} output channels", c.groups));
    }
    if ic / c.groups != fi {
        return Err(format!(
            "input {input:?} has {ic} channels in {} groups, filter {filter:?} takes {fi} a group",
            c.groups
        ));
    }
    if c.strides.contains(&0) || c.dilations.contains(&0) {
        return Err(format!("strides {:?} and dilations {:?} must be 1 or more", c.strides, c.dilations));
    }
    if kh == 0 || kw == 0 {
        return Err(format!("filter {filter:?} has no element in height or width"));
    }
    let out = |size: u32, before: u32, after: u32, k: u32, dilation: u32, stride: u32| {
        let padded = u64::from(size) + u64::from(before) + u64::from(after);
        let reach = u64::from(k - 1) * u64::from(dilation) + 1;
        padded.checked_sub(reach).map(|room| room / u64::from(stride) + 1)
    };
    let [top, bottom, left, right] = c.padding;
    let oh = out(ih, top, bottom, kh, c.dilations[0], c.strides[0]);
    let ow = out(iw, left, right, kw, c.dilations[1], c.strides[1]);
    let (Some(oh), Some(ow)) = (oh, ow) else {
        return Err(format!(
            "filter {filter:?} with dilations {:?} reaches beyond the padded input {input:?}",
            c.dilations
        ));
    };
    if oh > MAX_ELEMENTS || ow > MAX_ELEMENTS {
        return Err(format!("padding {:?} makes too large an output", c.padding));
    }
    Ok(ConvSizes {
        n: n as usize,
        ic: ic as usize,
        ih: ih as usize,
        iw: iw as usize,
        oc: oc as usize,
        kh: kh as usize,
        kw: kw as usize,
        oh: oh as usize,
        ow: ow as usize,
    })
}

pub(super) fn conv2d(name: &'static str, inputs: &[Descriptor], c: &Conv2d) -> Result<Descriptor, Error> {
    let (input, filter) = float_pair(name, inputs)?;
    let s = conv_sizes(&input.shape, &filter.shape, c).map_err(|m| Error::invalid(name, m))?;
    if let Some(bias) = inputs.get(2)
        && (bias.data_type != input.data_type || bias.shape.as_slice() != [s.oc as u32])
    {
        return Err(Error::invalid(
            name,
            format!("bias is {} {:?}, must be {} [{}]", bias.data_type, bias.shape, input.data_type, s.oc),
        ));
    }
    let dims = match c.input_layout {
        InputLayout::Nchw => [s.n, s.oc, s.oh, s.ow],
        InputLayout::Nhwc => [s.n, s.oh, s.ow, s.oc],
    };
    let shape = checked_shape(name, &dims.map(|d| d as u32))?;
    // The padded input is bounded too: a backend lays it out in memory.
    let [top, bottom, left, right] = c.padding.map(u64::from);
    let padded = (s.ih as u64 + top + bottom)
        .checked_mul(s.iw as u64 + left + right)
        .and_then(|p| p.checked_mul(s.ic.max(1) as u64));
    if padded.is_none_or(|p| p > MAX_ELEMENTS) {
        return Err(Error::invalid(
            name,
            format!("padding {:?} of input {:?} is too large", c.padding, input.shape),
        ));
    }
    Ok(Descriptor { data_type: input.data_type, shape })
}
