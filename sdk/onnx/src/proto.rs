//! The part of ONNX's file format that inference needs, as Protocol Buffers messages.
//!
//! Field numbers are those of `onnx/onnx.proto` (<https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>);
//! what is not declared here is skipped by the decoder. Subgraphs are left undecoded: no operator
//! that has one is supported, and so a file cannot nest deeply.

use prost::bytes::Bytes;

/// The file's outermost message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Model {
    /// Version of the file format itself.
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    /// Which operator sets the graph was written against.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetId>,
    /// The computation.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<Graph>,
}

/// One operator set.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OperatorSetId {
    /// Empty (or `ai.onnx`) is the default domain.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// The set's version.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// Nodes, weights, inputs and outputs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Graph {
    /// The operations, topologically sorted if the writer kept to the rules.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<Node>,
    /// Constants by name.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<Tensor>,
    /// Sparse constants, undecoded: they are refused.
    #[prost(bytes = "bytes", repeated, tag = "15")]
    pub sparse_initializer: Vec<Bytes>,
    /// What the caller gives. May repeat the names of initializers.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfo>,
    /// What the caller gets.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfo>,
}

/// One operation.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Node {
    /// Names of the values it reads; empty for an optional input that is absent.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// Names of the values it makes; empty for an output that is not wanted.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// For people; may be empty.
    #[prost(string, tag = "3")]
    pub name: String,
    /// The operator.
    #[prost(string, tag = "4")]
    pub op_type: String,
    /// The operator's domain; empty is the default one.
    #[prost(string, tag = "7")]
    pub domain: String,
    /// Constant arguments by name.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<Attribute>,
}

/// A constant argument of a node. `kind` says which field holds the value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Attribute {
    /// The argument's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Set only inside function bodies.
    #[prost(string, tag = "21")]
    pub ref_attr_name: String,
    /// `AttributeProto.AttributeType`.
    #[prost(int32, tag = "20")]
    pub kind: i32,
    /// Kind 1.
    #[prost(float, tag = "2")]
    pub f: f32,
    /// Kind 2.
    #[prost(int64, tag = "3")]
    pub i: i64,
    /// Kind 3.
    #[prost(bytes = "bytes", tag = "4")]
    pub s: Bytes,
    /// Kind 4.
    #[prost(message, optional, tag = "5")]
    pub t: Option<Tensor>,
    /// Kind 6.
    #[prost(float, repeated, tag = "7")]
    pub floats: Vec<f32>,
    /// Kind 7.
    #[prost(int64, repeated, tag = "8")]
    pub ints: Vec<i64>,
}

/// A constant tensor. The elements are in `raw_data` or in the one typed field of its type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Tensor {
    /// Dimensions, outermost first.
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    /// `TensorProto.DataType`.
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    /// float32.
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    /// int32, and one element each of the narrower types, bool and the bits of float16.
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    /// int64.
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    /// The value's name.
    #[prost(string, tag = "8")]
    pub name: String,
    /// Any numeric type: little-endian, row-major.
    #[prost(bytes = "bytes", tag = "9")]
    pub raw_data: Bytes,
    /// Where the elements are when `data_location` is 1: key and value pairs, undecoded.
    #[prost(bytes = "bytes", repeated, tag = "13")]
    pub external_data: Vec<Bytes>,
    /// 0: in this message; 1: in another file.
    #[prost(int32, tag = "14")]
    pub data_location: i32,
    /// uint32 and uint64.
    #[prost(uint64, repeated, tag = "11")]
    pub uint64_data: Vec<u64>,
}

/// Name, type and shape of an input or output.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValueInfo {
    /// The value's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Absent when unknown.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<Type>,
}

/// A value's type: a tensor here, or something unsupported (sequence, map, optional, sparse).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Type {
    /// Set for a dense tensor.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorType>,
}

/// Element type and shape of a dense tensor.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorType {
    /// `TensorProto.DataType`.
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    /// Absent when not even the rank is known.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
}

/// Dimensions of a dense tensor.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Shape {
    /// Outermost first.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<Dimension>,
}

/// One dimension: fixed, named or unknown.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Dimension {
    /// A fixed size.
    #[prost(int64, optional, tag = "1")]
    pub dim_value: Option<i64>,
    /// A name for a size that varies.
    #[prost(string, optional, tag = "2")]
    pub dim_param: Option<String>,
}
