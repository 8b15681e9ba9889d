//! Open Inference Protocol v2 bodies: the infer request and response as KServe's REST specification
//! defines them, as JSON or as a JSON header followed by binary tensors (the "binary tensor data
//! extension"). Decoding copies no tensor data that it can slice out of the body, and allocates
//! only in proportion to bytes it has seen, never to a shape that a message claims.
//!
//! Sources: <https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol>,
//! <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md>.

mod data;
mod decode;
mod encode;
mod error;
mod parameters;

use std::fmt;

use bytes::Bytes;

pub(crate) use error::clip;
pub use error::{DecodeError, EncodeError};
pub use parameters::{Parameter, Parameters};

/// Longest name of a tensor, a parameter or a requested output, in bytes.
pub const MAX_NAME: usize = 255;

/// Most inputs or outputs of one message.
pub const MAX_TENSORS: usize = 1024;

/// Media type of a body that is JSON throughout.
pub const JSON: &str = "application/json";

/// Media type of a body with binary tensors after its JSON header.
pub const BINARY: &str = "application/octet-stream";

/// Request or output parameter of the binary extension: bytes of this tensor's data after the header.
const BINARY_DATA_SIZE: &str = "binary_data_size";

/// Input or output parameter that names where the data lies when it is not in the message.
pub const DATAREF: &str = "dataref";

/// Element types, by their protocol names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Datatype {
    /// `BOOL`: one byte, 0 or 1.
    Bool,
    /// `UINT8`
    Uint8,
    /// `UINT16`
    Uint16,
    /// `UINT32`
    Uint32,
    /// `UINT64`
    Uint64,
    /// `INT8`
    Int8,
    /// `INT16`
    Int16,
    /// `INT32`
    Int32,
    /// `INT64`
    Int64,
    /// `FP16`: IEEE half precision; binary form only.
    Fp16,
    /// `FP32`
    Fp32,
    /// `FP64`
    Fp64,
    /// `BF16`: the upper half of an FP32; binary form only.
    Bf16,
    /// `BYTES`: byte strings of any length; UTF-8 text in JSON form.
    Bytes,
}

impl Datatype {
    /// Every type.
    pub const ALL: [Self; 14] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Fp32,
        Self::Fp64,
        Self::Bf16,
        Self::Bytes,
    ];

    /// The protocol's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bf16 => "BF16",
            Self::Bytes => "BYTES",
        }
    }

    /// The type with that protocol name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Bytes of one element; none for [`Datatype::Bytes`].
    pub const fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }

    /// Whether JSON has a form for it.
    const fn has_json(self) -> bool {
        !matches!(self, Self::Fp16 | Self::Bf16)
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A tensor's elements.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// Numbers: little-endian, row-major, without gaps; `BOOL` is one byte, 0 or 1.
    Raw(Bytes),
    /// The elements of a `BYTES` tensor, row-major.
    Strings(Vec<Bytes>),
    /// Not in the message: by reference (parameter [`DATAREF`]).
    None,
}

impl Data {
    /// Bytes of the elements themselves; 0 for a reference.
    pub fn size(&self) -> usize {
        match self {
            Self::Raw(raw) => raw.len(),
            Self::Strings(elements) => elements.iter().map(Bytes::len).sum(),
            Self::None => 0,
        }
    }
}

/// One input or output.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Its name, 1 to [`MAX_NAME`] bytes.
    pub name: String,
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions, outermost first; empty for a scalar. Their product is the number of elements.
    pub shape: Vec<u64>,
    /// Parameters of this tensor, without the binary extension's own `binary_data_size`.
    pub parameters: Parameters,
    /// Its elements.
    pub data: Data,
}

impl Tensor {
    /// A numeric tensor of little-endian, row-major bytes.
    pub fn raw(name: impl Into<String>, datatype: Datatype, shape: &[u64], raw: impl Into<Bytes>) -> Self {
        let (name, shape, data) = (name.into(), shape.to_vec(), Data::Raw(raw.into()));
        Self { name, datatype, shape, parameters: Parameters::default(), data }
    }

    /// A single-precision tensor.
    pub fn fp32(name: impl Into<String>, shape: &[u64], values: &[f32]) -> Self {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::raw(name, Datatype::Fp32, shape, raw)
    }

    /// One byte string: a `BYTES` tensor of shape `[1]`.
    pub fn bytes(name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self::strings(name, &[1], vec![value.into()])
    }

    /// A `BYTES` tensor.
    pub fn strings(name: impl Into<String>, shape: &[u64], elements: Vec<Bytes>) -> Self {
        let (name, shape, data) = (name.into(), shape.to_vec(), Data::Strings(elements));
        Self { name, datatype: Datatype::Bytes, shape, parameters: Parameters::default(), data }
    }

    /// One byte string that lies at `url`, whose content has this SHA-256 (lower-case hexadecimal).
    pub fn reference(name: impl Into<String>, url: impl Into<String>, sha256: Option<&str>) -> Self {
        let mut parameters = Parameters::default();
        parameters.set(DATAREF, Parameter::Text(url.into()));
        if let Some(sha256) = sha256 {
            parameters.set("sha256", Parameter::Text(sha256.to_owned()));
        }
        Self { name: name.into(), datatype: Datatype::Bytes, shape: vec![1], parameters, data: Data::None }
    }

    /// Number of elements, product(shape); none when it does not fit in 64 bits.
    pub fn elements(&self) -> Option<u64> {
        elements(&self.shape)
    }

    /// The values of an `FP32` tensor, row-major; none for other types and references.
    pub fn to_fp32(&self) -> Option<Vec<f32>> {
        match (self.datatype, &self.data) {
            (Datatype::Fp32, Data::Raw(raw)) => {
                Some(raw.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
            }
            _ => None,
        }
    }
}

/// product(shape); none when it does not fit. A zero anywhere makes it zero.
fn elements(shape: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d))
}

/// An output that the client asks for by name; a request without any asks for all.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RequestedOutput {
    /// The output's name.
    pub name: String,
    /// Parameters, e.g. `binary_data`.
    pub parameters: Parameters,
}

/// An infer request.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InferRequest {
    /// The client's name for the request.
    pub id: Option<String>,
    /// Request-level parameters.
    pub parameters: Parameters,
    /// Inputs, in order; names are unique.
    pub inputs: Vec<Tensor>,
    /// Outputs asked for; empty for all.
    pub outputs: Vec<RequestedOutput>,
}

/// An infer response.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InferResponse {
    /// The model that answered.
    pub model_name: String,
    /// Its version.
    pub model_version: Option<String>,
    /// The request's id.
    pub id: Option<String>,
    /// Response-level parameters.
    pub parameters: Parameters,
    /// Outputs, in order; names are unique.
    pub outputs: Vec<Tensor>,
}

impl InferResponse {
    /// The output called `name`.
    pub fn output(&self, name: &str) -> Option<&Tensor> {
        self.outputs.iter().find(|t| t.name == name)
    }
}

impl InferRequest {
    /// The input called `name`.
    pub fn input(&self, name: &str) -> Option<&Tensor> {
        self.inputs.iter().find(|t| t.name == name)
    }
}
