//! What a job ends in: outputs, or a failure that says what the host does next.

use crate::bindings as wit;
use crate::bindings::warren::plugin::types::{ByteStrings, Output, Parameter, Value};
use crate::tensor::{Tensor, TensorError};

/// The named outputs of one job.
#[derive(Default)]
pub struct Outputs {
    outputs: Vec<Output>,
    parameters: Vec<(String, Parameter)>,
}

impl Outputs {
    /// No outputs yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn push(mut self, name: &str, value: Value, content_type: Option<&str>) -> Self {
        self.outputs.push(Output {
            name: name.to_owned(),
            value,
            content_type: content_type.map(str::to_owned),
        });
        self
    }

    /// Adds a tensor. It need not be computed yet.
    pub fn tensor(self, name: &str, tensor: Tensor) -> Self {
        self.push(name, Value::Tensor(tensor.0), None)
    }

    /// Adds bytes of a media type: a file, an image, a document (`BYTES`, shape `[1]`).
    pub fn bytes(self, name: &str, bytes: impl Into<Vec<u8>>, content_type: &str) -> Self {
        let value = Value::Bytes(ByteStrings { shape: vec![1], elements: vec![bytes.into()] });
        self.push(name, value, Some(content_type))
    }

    /// Adds a text (`BYTES`, shape `[1]`).
    pub fn text(self, name: &str, text: impl Into<String>) -> Self {
        self.bytes(name, text.into().into_bytes(), "text/plain; charset=utf-8")
    }

    /// Adds a value as it came from an input.
    pub fn value(self, name: &str, value: Value) -> Self {
        self.push(name, value, None)
    }

    /// Adds a response-level parameter.
    pub fn parameter(mut self, name: &str, value: Parameter) -> Self {
        self.parameters.push((name.to_owned(), value));
        self
    }
}

impl From<Outputs> for wit::Outputs {
    fn from(outputs: Outputs) -> Self {
        Self { outputs: outputs.outputs, parameters: outputs.parameters }
    }
}

/// Why a job, or `prepare`, did not succeed, and what the host shall do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The client's fault: final, no retry.
    Invalid(String),
    /// Transient: the host retries with back-off.
    Retry(String),
    /// Final, dead-lettered.
    Failed(String),
}

impl Failure {
    /// The client's fault: final, no retry.
    pub fn invalid(text: impl std::fmt::Display) -> Self {
        Self::Invalid(text.to_string())
    }
    /// Transient: the host retries with back-off.
    pub fn retry(text: impl std::fmt::Display) -> Self {
        Self::Retry(text.to_string())
    }
    /// Final, dead-lettered.
    pub fn failed(text: impl std::fmt::Display) -> Self {
        Self::Failed(text.to_string())
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid(text) | Self::Retry(text) | Self::Failed(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for wit::Failure {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Invalid(text) => Self::Invalid(text),
            Failure::Retry(text) => Self::Retry(text),
            Failure::Failed(text) => Self::Failed(text),
        }
    }
}

impl From<TensorError> for Failure {
    /// A tensor operation that does not fit is the plugin's own doing unless it says otherwise.
    fn from(error: TensorError) -> Self {
        Self::Failed(format!("{}: {}", error.operation, error.message))
    }
}
