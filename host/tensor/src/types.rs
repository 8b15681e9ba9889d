//! The element types of tensors, and the plain Rust types that hold them.

use std::fmt;
use std::str::FromStr;

/// WebNN's `MLOperandDataType`, less the 4-bit types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DataType {
    /// IEEE 754 binary32.
    Float32,
    /// IEEE 754 binary16; computed through binary32 and rounded after every operation.
    Float16,
    /// 32-bit two's complement.
    Int32,
    /// 32-bit unsigned.
    Uint32,
    /// 64-bit two's complement.
    Int64,
    /// 64-bit unsigned.
    Uint64,
    /// 8-bit two's complement.
    Int8,
    /// 8-bit unsigned; also the type of truth values.
    Uint8,
}

impl DataType {
    /// Every type, in the order of the WIT enum.
    pub const ALL: [DataType; 8] = [
        DataType::Float32,
        DataType::Float16,
        DataType::Int32,
        DataType::Uint32,
        DataType::Int64,
        DataType::Uint64,
        DataType::Int8,
        DataType::Uint8,
    ];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DataType::Float32 | DataType::Int32 | DataType::Uint32 => 4,
            DataType::Float16 => 2,
            DataType::Int64 | DataType::Uint64 => 8,
            DataType::Int8 | DataType::Uint8 => 1,
        }
    }

    /// The name that WebNN gives the type.
    pub const fn name(self) -> &'static str {
        match self {
            DataType::Float32 => "float32",
            DataType::Float16 => "float16",
            DataType::Int32 => "int32",
            DataType::Uint32 => "uint32",
            DataType::Int64 => "int64",
            DataType::Uint64 => "uint64",
            DataType::Int8 => "int8",
            DataType::Uint8 => "uint8",
        }
    }

    /// Whether the type is a floating-point one.
    pub const fn is_float(self) -> bool {
        matches!(self, DataType::Float32 | DataType::Float16)
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is none of [`DataType::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown data type `{0}`: expected float32, float16, int32, uint32, int64, uint64, int8 or uint8")]
pub struct UnknownDataType(pub String);

impl FromStr for DataType {
    type Err = UnknownDataType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        DataType::ALL.into_iter().find(|t| t.name() == text).ok_or_else(|| UnknownDataType(text.to_owned()))
    }
}
