//! Small tensors whose elements the guest knows: shape arithmetic, axes, scalars. Computing with
//! them here means that by the time anything is recorded, every shape is a plain number.

use std::cell::OnceCell;

use serde::{Deserialize, Serialize};
use warren_sdk::Tensor;

use crate::error::{OpResult, misfit};
use crate::types::Type;

/// Results with more elements than this are computed on the device.
pub const LIMIT: u64 = 1024;

/// The highest rank of the tensor interface.
pub const MAX_RANK: usize = 8;

/// A tensor with known elements.
#[derive(Debug, Serialize, Deserialize)]
pub struct Host {
    /// Element type; decides which variant `data` is, and elements are always in its range.
    pub ty: Type,
    /// Dimensions, outermost first.
    pub dims: Vec<u32>,
    /// The elements, row-major; exactly product(dims) of them.
    pub data: Data,
    /// The same tensor on the device, once something there needed it.
    #[serde(skip)]
    uploaded: OnceCell<Tensor>,
}

/// Elements wide enough for every type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Data {
    /// Integer types and bool (0 or 1). uint64 only up to `i64::MAX`.
    Int(Vec<i64>),
    /// Float types.
    Float(Vec<f64>),
}

impl PartialEq for Host {
    fn eq(&self, other: &Self) -> bool {
        self.ty == other.ty && self.dims == other.dims && self.data == other.data
    }
}

impl Clone for Host {
    fn clone(&self) -> Self {
        Self::new(self.ty, self.dims.clone(), self.data.clone())
    }
}

impl Host {
    pub fn new(ty: Type, dims: Vec<u32>, data: Data) -> Self {
        Self { ty, dims, data, uploaded: OnceCell::new() }
    }

    /// A 1-D int64 tensor, as shapes are.
    pub fn shape_of(dims: &[u32]) -> Self {
        let data = dims.iter().map(|d| i64::from(*d)).collect::<Vec<_>>();
        Self::new(Type::Int64, vec![dims.len() as u32], Data::Int(data))
    }

    /// From row-major little-endian bytes, exactly product(dims) elements of them; none for a
    /// uint64 that [`Data`] cannot hold.
    pub fn from_bytes(ty: Type, dims: Vec<u32>, bytes: &[u8]) -> Option<Self> {
        fn each<const N: usize, T>(bytes: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
            bytes.as_chunks::<N>().0.iter().map(|c| f(*c)).collect()
        }
        let data = match ty {
            Type::Float32 => Data::Float(each(bytes, |b| f64::from(f32::from_le_bytes(b)))),
            Type::Float16 => Data::Float(each(bytes, |b| half::f16::from_le_bytes(b).to_f64())),
            Type::Int32 => Data::Int(each(bytes, |b| i64::from(i32::from_le_bytes(b)))),
            Type::Uint32 => Data::Int(each(bytes, |b| i64::from(u32::from_le_bytes(b)))),
            Type::Int64 => Data::Int(each(bytes, i64::from_le_bytes)),
            Type::Uint64 => {
                let wide = each(bytes, u64::from_le_bytes);
                Data::Int(wide.into_iter().map(|v| i64::try_from(v).ok()).collect::<Option<_>>()?)
            }
            Type::Int8 => Data::Int(each(bytes, |b| i64::from(i8::from_le_bytes(b)))),
            Type::Uint8 => Data::Int(each(bytes, |[b]| i64::from(b))),
            Type::Bool => Data::Int(each(bytes, |[b]| i64::from(b != 0))),
        };
        Some(Self::new(ty, dims, data))
    }

    /// Row-major little-endian bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len() * self.ty.size());
        match &self.data {
            Data::Int(v) => v.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()[..self.ty.size()])),
            Data::Float(v) if self.ty == Type::Float16 => {
                v.iter().for_each(|v| out.extend_from_slice(&half::f16::from_f64(*v).to_le_bytes()));
            }
            Data::Float(v) => v.iter().for_each(|v| out.extend_from_slice(&(*v as f32).to_le_bytes())),
        }
        out
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        match &self.data {
            Data::Int(v) => v.len(),
            Data::Float(v) => v.len(),
        }
    }

    /// This tensor on the device; uploaded at most once.
    pub fn tensor(&self) -> OpResult<&Tensor> {
        if let Some(tensor) = self.uploaded.get() {
            return Ok(tensor);
        }
        let tensor = Tensor::from_bytes(self.ty.device(), &self.dims, &self.bytes())?;
        Ok(self.uploaded.get_or_init(|| tensor))
    }

    /// The elements as integers.
    pub fn ints(&self) -> OpResult<&[i64]> {
        match &self.data {
            Data::Int(v) => Ok(v),
            Data::Float(_) => misfit(format!("integers are needed, found {}", self.ty)),
        }
    }

    /// The elements as numbers.
    pub fn numbers(&self) -> Vec<f64> {
        match &self.data {
            Data::Int(v) => v.iter().map(|v| *v as f64).collect(),
            Data::Float(v) => v.clone(),
        }
    }

    /// The only element as a number; none if there is not exactly one.
    pub fn scalar(&self) -> Option<f64> {
        match &self.data {
            Data::Int(v) if v.len() == 1 => Some(v[0] as f64),
            Data::Float(v) if v.len() == 1 => Some(v[0]),
            _ => None,
        }
    }

    /// The same elements under other dimensions of the same size.
    pub fn with_dims(&self, dims: Vec<u32>) -> Self {
        Self::new(self.ty, dims, self.data.clone())
    }

    /// A tensor of `dims` whose element i is this one's element `from[i]`.
    pub fn pick(&self, dims: Vec<u32>, from: &[usize]) -> Self {
        let data = match &self.data {
            Data::Int(v) => Data::Int(from.iter().map(|i| v[*i]).collect()),
            Data::Float(v) => Data::Float(from.iter().map(|i| v[*i]).collect()),
        };
        Self::new(self.ty, dims, data)
    }

    /// The elements converted to another type. Float to integer truncates and saturates, as the
    /// tensor interface's `cast` does; to bool is "not zero".
    pub fn cast(&self, ty: Type) -> Self {
        let data = match &self.data {
            Data::Int(v) if ty.is_float() => Data::Float(v.iter().map(|v| round(ty, *v as f64)).collect()),
            Data::Float(v) if ty.is_float() => Data::Float(v.iter().map(|v| round(ty, *v)).collect()),
            Data::Int(v) => Data::Int(v.iter().map(|v| wrap(ty, *v)).collect()),
            Data::Float(v) if ty == Type::Bool => Data::Int(v.iter().map(|v| i64::from(*v != 0.0)).collect()),
            Data::Float(v) => Data::Int(
                v.iter()
                    .map(|v| match ty {
                        Type::Int32 => i64::from(*v as i32),
                        Type::Uint32 => i64::from(*v as u32),
                        Type::Int8 => i64::from(*v as i8),
                        Type::Uint8 => i64::from(*v as u8),
                        Type::Uint64 => (*v as i64).max(0),
                        _ => *v as i64,
                    })
                    .collect(),
            ),
        };
        Self::new(ty, self.dims.clone(), data)
    }
}

/// Brings an integer into the range of `ty` as two's complement arithmetic does.
pub fn wrap(ty: Type, value: i64) -> i64 {
    match ty {
        Type::Int32 => i64::from(value as i32),
        Type::Uint32 => i64::from(value as u32),
        Type::Int8 => i64::from(value as i8),
        Type::Uint8 => i64::from(value as u8),
        Type::Bool => i64::from(value != 0),
        _ => value,
    }
}

/// Rounds to the precision of a float type. For + - * / and sqrt on elements of that type, rounding
/// the float64 result once more gives the very bits that the narrow operation gives.
pub fn round(ty: Type, value: f64) -> f64 {
    if ty == Type::Float16 { half::f16::from_f64(value).to_f64() } else { f64::from(value as f32) }
}

/// The shape that `a` and `b` broadcast to, as in NumPy.
pub fn broadcast(a: &[u32], b: &[u32]) -> OpResult<Vec<u32>> {
    let rank = a.len().max(b.len());
    let at = |dims: &[u32], i: usize| (i + dims.len()).checked_sub(rank).map_or(1, |i| dims[i]);
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => misfit(format!("shapes {a:?} and {b:?} do not broadcast")),
        })
        .collect()
}

/// For every element of a tensor of shape `to`, which element of one of shape `from` it is when
/// that is broadcast. `from` must broadcast to `to`.
pub fn broadcast_indices(from: &[u32], to: &[u32]) -> Vec<usize> {
    let lead = to.len() - from.len();
    let mut strides = vec![0usize; to.len()];
    let mut step = 1usize;
    for (i, d) in from.iter().enumerate().rev() {
        strides[lead + i] = if *d == 1 { 0 } else { step };
        step *= *d as usize;
    }
    strided(to, &strides, 0)
}

/// Offsets of the elements of a tensor of shape `dims` that lies at `offset` with `strides`, in
/// row-major order. The caller has checked that the product of `dims` is small.
pub fn strided(dims: &[u32], strides: &[usize], offset: usize) -> Vec<usize> {
    let mut out = vec![offset];
    for (d, s) in dims.iter().zip(strides) {
        out = out.iter().flat_map(|base| (0..*d as usize).map(move |i| base + i * s)).collect();
    }
    out
}

/// Row-major strides.
pub fn strides(dims: &[u32]) -> Vec<usize> {
    let mut out = vec![1usize; dims.len()];
    for i in (0..dims.len().saturating_sub(1)).rev() {
        out[i] = out[i + 1].saturating_mul(dims[i + 1] as usize);
    }
    out
}

/// True if a tensor of this shape may be computed here. A dimension of 0 counts as 1, so that no
/// loop over the other ones runs long.
pub fn is_small(dims: &[u32]) -> bool {
    dims.len() <= MAX_RANK
        && dims
            .iter()
            .try_fold(1u64, |n, d| n.checked_mul(u64::from((*d).max(1))))
            .is_some_and(|n| n <= LIMIT)
}
