//! Matrix products, convolution, and what is made of them or ends in them: batch normalisation,
//! global pooling, softmax.

use serde::{Deserialize, Serialize};
use warren_sdk::Tensor;
use warren_sdk::tensor::{Conv2d, Gemm};

use super::shapes::flat;
use crate::error::{OpError, OpResult, misfit};
use crate::graph::{Args, Value, axis};

pub fn matmul<'a>(args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let (left, right) = (args.value(0)?, args.value(1)?);
    let (a, b) = (args.tensor(0)?, args.tensor(1)?);
    let (a_dims, b_dims) = (left.dims(), right.dims());
    if a_dims.is_empty() || b_dims.is_empty() {
        return misfit(format!("shapes {a_dims:?} and {b_dims:?}: a scalar has no matrix product"));
    }
    // A vector is a row on the left and a column on the right; that axis then goes away again.
    let row = (a_dims.len() == 1).then(|| a.reshape(&[1, a_dims[0]])).transpose()?;
    let column = (b_dims.len() == 1).then(|| b.reshape(&[b_dims[0], 1])).transpose()?;
    let mut y = row.as_ref().unwrap_or(a).matmul(column.as_ref().unwrap_or(b))?;
    if row.is_some() || column.is_some() {
        let mut dims = y.shape();
        if column.is_some() {
            dims.pop();
        }
        if row.is_some() {
            let at = dims.len() - usize::from(column.is_none()) - 1;
            dims.remove(at);
        }
        y = y.reshape(&dims)?;
    }
    Ok(Value::device(y, left.ty()))
}

pub fn gemm<'a>(alpha: f32, beta: f32, a: bool, b: bool, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let c = args.get(2).map(|_| args.tensor(2)).transpose()?;
    let options = Gemm { c, alpha: alpha.into(), beta: beta.into(), a_transpose: a, b_transpose: b };
    Ok(Value::device(args.tensor(0)?.gemm(args.tensor(1)?, &options)?, args.value(0)?.ty()))
}

/// Where a convolution's padding comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConvPads {
    /// All beginnings, then all ends.
    Explicit(Option<Vec<u32>>),
    /// None.
    Valid,
    /// So that the output is ceil(input / stride); what is odd goes to the end, else the beginning.
    Same {
        /// `SAME_UPPER`.
        upper: bool,
    },
}

/// Conv's attributes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Conv {
    pub pads: ConvPads,
    pub strides: Option<Vec<u32>>,
    pub dilations: Option<Vec<u32>>,
    pub kernel: Option<Vec<u32>>,
    pub groups: u32,
}

/// Two values for two axes; for one axis, `unit` first.
fn pair(list: Option<&Vec<u32>>, spatial: usize, unit: u32, what: &str) -> OpResult<[u32; 2]> {
    match list.map(Vec::as_slice) {
        None => Ok([unit; 2]),
        Some([w]) if spatial == 1 => Ok([unit, *w]),
        Some([h, w]) if spatial == 2 => Ok([*h, *w]),
        Some(other) => misfit(format!("{what} {other:?} does not fit {spatial} spatial dimensions")),
    }
}

pub fn conv<'a>(conv: &Conv, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let (input, filter) = (args.value(0)?, args.value(1)?);
    let (x_dims, w_dims) = (input.dims(), filter.dims());
    if x_dims.len() != w_dims.len() || x_dims.len() < 3 {
        return misfit(format!(
            "input of shape {x_dims:?} and weights of shape {w_dims:?} do not fit each other"
        ));
    }
    let spatial = x_dims.len() - 2;
    if spatial > 2 {
        return Err(OpError::Unsupported(format!("{spatial}-D convolution (1-D and 2-D are)")));
    }
    let (x, w) = (args.tensor(0)?, args.tensor(1)?);
    // One spatial dimension is the width of two.
    let tall = |d: &[u32]| vec![d[0], d[1], 1, d[2]];
    let x2 = (spatial == 1).then(|| x.reshape(&tall(x_dims))).transpose()?;
    let w2 = (spatial == 1).then(|| w.reshape(&tall(w_dims))).transpose()?;

    if conv.kernel.as_ref().is_some_and(|k| k.as_slice() != &w_dims[2..]) {
        return misfit(format!("kernel_shape {:?} is not that of the weights, {w_dims:?}", conv.kernel));
    }
    let size = |d: &[u32]| if spatial == 1 { [1, d[2]] } else { [d[2], d[3]] };
    let (extent, kernel) = (size(x_dims), size(w_dims));
    let strides = pair(conv.strides.as_ref(), spatial, 1, "strides")?;
    let dilations = pair(conv.dilations.as_ref(), spatial, 1, "dilations")?;
    let padding = match &conv.pads {
        ConvPads::Explicit(None) | ConvPads::Valid => [0; 4],
        ConvPads::Explicit(Some(pads)) => match (pads.as_slice(), spatial) {
            ([begin, end], 1) => [0, 0, *begin, *end],
            ([top, left, bottom, right], 2) => [*top, *bottom, *left, *right],
            (other, _) => return misfit(format!("pads {other:?} do not fit {spatial} spatial dimensions")),
        },
        ConvPads::Same { upper } => {
            let mut out = [0; 4];
            for i in 0..2 {
                let (n, stride) = (u64::from(extent[i]), u64::from(strides[i]));
                let reach =
                    u64::from(kernel[i]).saturating_sub(1).saturating_mul(u64::from(dilations[i])) + 1;
                let total =
                    (n.div_ceil(stride).saturating_sub(1) * stride).saturating_add(reach).saturating_sub(n);
                let (less, more) = (total / 2, total - total / 2);
                let (begin, end) = if *upper { (less, more) } else { (more, less) };
                let fit =
                    |v: u64| u32::try_from(v).map_err(|_| OpError::Shape("the padding is too large".into()));
                (out[2 * i], out[2 * i + 1]) = (fit(begin)?, fit(end)?);
            }
            out
        }
    };
    let bias = args.get(2).map(|_| args.tensor(2)).transpose()?;
    let options = Conv2d { bias, padding, strides, dilations, groups: conv.groups, ..Conv2d::default() };
    let mut y = x2.as_ref().unwrap_or(x).conv2d(w2.as_ref().unwrap_or(w), &options)?;
    if spatial == 1 {
        let dims = y.shape();
        y = y.reshape(&[dims[0], dims[1], dims[3]])?;
    }
    Ok(Value::device(y, input.ty()))
}

pub fn batch_normalization<'a>(epsilon: f32, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let value = args.value(0)?;
    let dims = value.dims();
    let Some(channels) = dims.get(1) else {
        return misfit(format!("an input of shape {dims:?} has no channels"));
    };
    let mut shape = vec![1u32; dims.len()];
    shape[1] = *channels;
    let [scale, bias, mean, variance] = [args.tensor(1)?, args.tensor(2)?, args.tensor(3)?, args.tensor(4)?];
    // One multiplication and one addition an element; the rest is per channel.
    let factor = scale.div(&variance.linear(1.0, f64::from(epsilon))?.sqrt()?)?;
    let offset = bias.sub(&mean.mul(&factor)?)?.reshape(&shape)?;
    let y = args.tensor(0)?.mul(&factor.reshape(&shape)?)?.add(&offset)?;
    Ok(Value::device(y, value.ty()))
}

pub fn global_pool<'a>(max: bool, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let value = args.value(0)?;
    let rank = value.dims().len() as u32;
    if rank < 3 {
        return misfit(format!("an input of shape {:?} has nothing to pool", value.dims()));
    }
    let axes: Vec<u32> = (2..rank).collect();
    let x = args.tensor(0)?;
    let y: Tensor = if max { x.reduce_max(Some(&axes), true)? } else { x.reduce_mean(Some(&axes), true)? };
    Ok(Value::device(y, value.ty()))
}

pub fn softmax<'a>(at: i64, over_rest: bool, args: &Args<'_, 'a>) -> OpResult<Value<'a>> {
    let value = args.value(0)?;
    let dims = value.dims();
    let x = args.tensor(0)?;
    let at = axis(at, dims.len())?;
    let y = if over_rest && at + 1 != dims.len() {
        x.reshape(&flat(dims, at)?)?.softmax(1)?.reshape(dims)?
    } else {
        x.softmax(at as u32)?
    };
    Ok(Value::device(y, value.ty()))
}
