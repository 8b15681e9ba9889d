//! Constants as files hold them: their shapes checked, their elements brought into one form.

use prost::bytes::Bytes;

use crate::host::MAX_RANK;
use crate::proto;
use crate::types::{Type, elements};

/// Checks a shape and returns it with its number of elements.
pub fn checked_dims(dims: &[i64]) -> Result<(Vec<u32>, u64), String> {
    if dims.len() > MAX_RANK {
        return Err(format!("its rank is {}; at most {MAX_RANK} is supported", dims.len()));
    }
    let out: Option<Vec<u32>> = dims.iter().map(|d| u32::try_from(*d).ok()).collect();
    let out =
        out.ok_or_else(|| format!("its shape {dims:?} has a dimension that is negative or above 2^32"))?;
    let n = elements(&out).ok_or_else(|| format!("its shape {dims:?} has more than 2^64 elements"))?;
    Ok((out, n))
}

/// Type, shape and row-major little-endian bytes of a constant.
pub fn decode_tensor(tensor: &proto::Tensor) -> Result<(Type, Vec<u32>, Bytes), String> {
    let ty = Type::from_onnx(tensor.data_type)?;
    if tensor.data_location != 0 || !tensor.external_data.is_empty() {
        return Err("its elements are in another file; save the model with its data inside (onnx.save without external data)".into());
    }
    let (dims, count) = checked_dims(&tensor.dims)?;
    let bytes = if !tensor.raw_data.is_empty() {
        let size = count.checked_mul(ty.size() as u64);
        if size != Some(tensor.raw_data.len() as u64) {
            return Err(format!(
                "its shape {dims:?} of {ty} does not fit its {} bytes",
                tensor.raw_data.len()
            ));
        }
        match ty {
            Type::Bool => tensor.raw_data.iter().map(|b| u8::from(*b != 0)).collect(),
            _ => tensor.raw_data.clone(),
        }
    } else {
        let (given, bytes) = typed_data(ty, tensor)?;
        if given as u64 != count {
            return Err(format!("its shape {dims:?} needs {count} elements, but it has {given}"));
        }
        Bytes::from(bytes)
    };
    Ok((ty, dims, bytes))
}

/// Number and bytes of the elements in the field that a type without raw data uses.
fn typed_data(ty: Type, tensor: &proto::Tensor) -> Result<(usize, Vec<u8>), String> {
    fn narrow<T: TryFrom<i32>, const N: usize>(
        list: &[i32],
        bytes: fn(T) -> [u8; N],
    ) -> Result<Vec<u8>, String> {
        let mut out = Vec::with_capacity(list.len() * N);
        for value in list {
            let value =
                T::try_from(*value).map_err(|_| format!("its element {value} is out of its type's range"))?;
            out.extend_from_slice(&bytes(value));
        }
        Ok(out)
    }
    let ints = &tensor.int32_data;
    let bytes = match ty {
        Type::Float32 => {
            return Ok((
                tensor.float_data.len(),
                tensor.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ));
        }
        Type::Int64 => {
            return Ok((
                tensor.int64_data.len(),
                tensor.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ));
        }
        Type::Uint64 => {
            return Ok((
                tensor.uint64_data.len(),
                tensor.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ));
        }
        Type::Uint32 => {
            let mut out = Vec::with_capacity(tensor.uint64_data.len() * 4);
            for value in &tensor.uint64_data {
                let value = u32::try_from(*value).map_err(|_| format!("its element {value} is no uint32"))?;
                out.extend_from_slice(&value.to_le_bytes());
            }
            return Ok((tensor.uint64_data.len(), out));
        }
        Type::Int32 => narrow(ints, i32::to_le_bytes)?,
        Type::Int8 => narrow(ints, i8::to_le_bytes)?,
        Type::Uint8 => narrow(ints, u8::to_le_bytes)?,
        // The bits of each.
        Type::Float16 => narrow(ints, u16::to_le_bytes)?,
        Type::Bool => ints.iter().map(|v| u8::from(*v != 0)).collect(),
    };
    Ok((ints.len(), bytes))
}
