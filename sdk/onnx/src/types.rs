//! Element types: ONNX's numbers for them, and what they are on the device.

use serde::{Deserialize, Serialize};
use warren_sdk::DataType;

/// An element type that can be computed with. `Bool` is uint8 (0 or 1) on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Type {
    Float32,
    Float16,
    Int32,
    Uint32,
    Int64,
    Uint64,
    Int8,
    Uint8,
    Bool,
}

impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool => f.write_str("bool"),
            other => other.device().fmt(f),
        }
    }
}

impl Type {
    /// From a `TensorProto.DataType`; an error names the type and what to do.
    pub fn from_onnx(number: i32) -> Result<Self, String> {
        let name = match number {
            1 => return Ok(Self::Float32),
            2 => return Ok(Self::Uint8),
            3 => return Ok(Self::Int8),
            6 => return Ok(Self::Int32),
            7 => return Ok(Self::Int64),
            9 => return Ok(Self::Bool),
            10 => return Ok(Self::Float16),
            12 => return Ok(Self::Uint32),
            13 => return Ok(Self::Uint64),
            0 => return Err("its element type is not given".into()),
            4 => "uint16",
            5 => "int16",
            8 => "string",
            11 => "float64 (no device computes with it: convert the model to float32)",
            14 => "complex64",
            15 => "complex128",
            16 => "bfloat16 (convert the model to float32 or float16)",
            17..=20 => "float8",
            21 => "uint4",
            22 => "int4",
            23 => "float4",
            _ => return Err(format!("element type number {number} is not one of ONNX's")),
        };
        Err(format!("element type {name} is not supported"))
    }

    /// The type of such a tensor on the device.
    pub fn device(self) -> DataType {
        match self {
            Self::Float32 => DataType::Float32,
            Self::Float16 => DataType::Float16,
            Self::Int32 => DataType::Int32,
            Self::Uint32 => DataType::Uint32,
            Self::Int64 => DataType::Int64,
            Self::Uint64 => DataType::Uint64,
            Self::Int8 => DataType::Int8,
            Self::Uint8 | Self::Bool => DataType::Uint8,
        }
    }

    /// Bytes an element.
    pub fn size(self) -> usize {
        match self {
            Self::Float32 | Self::Int32 | Self::Uint32 => 4,
            Self::Float16 => 2,
            Self::Int64 | Self::Uint64 => 8,
            Self::Int8 | Self::Uint8 | Self::Bool => 1,
        }
    }

    /// True for float32 and float16.
    pub fn is_float(self) -> bool {
        matches!(self, Self::Float32 | Self::Float16)
    }
}

/// The number of elements of a shape; none when it does not fit 64 bits.
pub fn elements(dims: &[u32]) -> Option<u64> {
    dims.iter().try_fold(1u64, |n, d| n.checked_mul(u64::from(*d)))
}
