//! One attempt at one job, with typed access to its inputs and parameters.

use crate::Failure;
use crate::bindings::warren::plugin::jobs::{self as wit, Control};
pub use crate::bindings::warren::plugin::types::Parameter;
use crate::bindings::warren::plugin::types::{ByteStrings, Value};
use crate::tensor::{DataType, Element, Tensor};

/// One attempt at one job.
pub struct Job(wit::Job);

impl From<wit::Job> for Job {
    fn from(job: wit::Job) -> Self {
        Self(job)
    }
}

/// What an input can be read as. Errors are [`Failure::Invalid`]: they name what the client sent.
pub trait FromInput: Sized {
    /// Converts the data of an input.
    fn from_input(value: Value) -> Result<Self, String>;
}

impl FromInput for Value {
    fn from_input(value: Value) -> Result<Self, String> {
        Ok(value)
    }
}

impl FromInput for Tensor {
    fn from_input(value: Value) -> Result<Self, String> {
        match value {
            Value::Tensor(t) => Ok(Tensor(t)),
            Value::Bytes(_) => Err("expected a numeric tensor, found BYTES".into()),
        }
    }
}

impl FromInput for ByteStrings {
    fn from_input(value: Value) -> Result<Self, String> {
        match value {
            Value::Bytes(b) => Ok(b),
            Value::Tensor(t) => Err(format!("expected BYTES, found {}", Tensor(t).data_type())),
        }
    }
}

/// Bytes: a `BYTES` input of exactly one element, or a uint8 tensor.
impl FromInput for Vec<u8> {
    fn from_input(value: Value) -> Result<Self, String> {
        match value {
            Value::Bytes(mut b) if b.elements.len() == 1 => Ok(b.elements.remove(0)),
            Value::Bytes(b) => {
                Err(format!("expected one byte string, found {} (shape {:?})", b.elements.len(), b.shape))
            }
            Value::Tensor(t) => {
                let tensor = Tensor(t);
                match tensor.data_type() {
                    DataType::Uint8 => tensor.bytes().map_err(|e| e.to_string()),
                    other => Err(format!("expected BYTES or uint8, found {other}")),
                }
            }
        }
    }
}

impl FromInput for String {
    fn from_input(value: Value) -> Result<Self, String> {
        String::from_utf8(Vec::from_input(value)?)
            .map_err(|e| format!("expected UTF-8 text: byte {} is not", e.utf8_error().valid_up_to()))
    }
}

/// What a parameter can be read as.
pub trait FromParameter: Sized {
    /// Converts a parameter, or says what was expected.
    fn from_parameter(parameter: Parameter) -> Result<Self, String>;
}

fn kind(parameter: &Parameter) -> &'static str {
    match parameter {
        Parameter::Boolean(_) => "a boolean",
        Parameter::Int64(_) => "an integer",
        Parameter::Float64(_) => "a number",
        Parameter::Text(_) => "a string",
    }
}

impl FromParameter for bool {
    fn from_parameter(parameter: Parameter) -> Result<Self, String> {
        match parameter {
            Parameter::Boolean(v) => Ok(v),
            other => Err(format!("expected a boolean, found {}", kind(&other))),
        }
    }
}

impl FromParameter for i64 {
    fn from_parameter(parameter: Parameter) -> Result<Self, String> {
        match parameter {
            Parameter::Int64(v) => Ok(v),
            other => Err(format!("expected an integer, found {}", kind(&other))),
        }
    }
}

impl FromParameter for f64 {
    fn from_parameter(parameter: Parameter) -> Result<Self, String> {
        match parameter {
            Parameter::Float64(v) => Ok(v),
            Parameter::Int64(v) => Ok(v as f64),
            other => Err(format!("expected a number, found {}", kind(&other))),
        }
    }
}

impl FromParameter for String {
    fn from_parameter(parameter: Parameter) -> Result<Self, String> {
        match parameter {
            Parameter::Text(v) => Ok(v),
            other => Err(format!("expected a string, found {}", kind(&other))),
        }
    }
}

impl Job {
    /// The job's id; the same on every attempt.
    pub fn id(&self) -> String {
        self.0.id()
    }

    /// The model that the client asked for.
    pub fn model(&self) -> String {
        self.0.model()
    }

    /// 1, 2, 3 …: strictly increasing per job.
    pub fn attempt(&self) -> u32 {
        self.0.attempt()
    }

    /// Name, type and shape of every input.
    pub fn inputs(&self) -> Vec<wit::InputDescriptor> {
        self.0.inputs()
    }

    /// The input `name` as a `T`; a missing or unfitting one is the client's fault.
    pub fn input<T: FromInput>(&self, name: &str) -> Result<T, Failure> {
        self.optional_input(name)?.ok_or_else(|| {
            let have: Vec<String> = self.inputs().into_iter().map(|i| i.name).collect();
            Failure::Invalid(format!("input {name:?} is missing (the request has {have:?})"))
        })
    }

    /// The input `name` as a `T` if the request has it.
    pub fn optional_input<T: FromInput>(&self, name: &str) -> Result<Option<T>, Failure> {
        self.0
            .input(name)
            .map(|value| T::from_input(value).map_err(|e| Failure::Invalid(format!("input {name:?}: {e}"))))
            .transpose()
    }

    /// The input `name` as a tensor.
    pub fn tensor(&self, name: &str) -> Result<Tensor, Failure> {
        self.input(name)
    }

    /// The elements of the input `name`, whose type must be `T`'s.
    pub fn elements<T: Element>(&self, name: &str) -> Result<Vec<T>, Failure> {
        self.tensor(name)?.to_vec().map_err(|e| Failure::Invalid(format!("input {name:?}: {e}")))
    }

    /// Every request-level parameter.
    pub fn parameters(&self) -> Vec<(String, Parameter)> {
        self.0.parameters()
    }

    /// The parameter `name` if the request has it.
    pub fn parameter<T: FromParameter>(&self, name: &str) -> Result<Option<T>, Failure> {
        self.parameters()
            .into_iter()
            .find(|(n, _)| n == name)
            .map(|(_, p)| {
                T::from_parameter(p).map_err(|e| Failure::Invalid(format!("parameter {name:?}: {e}")))
            })
            .transpose()
    }

    /// Milliseconds until the deadline; none without one.
    pub fn deadline_left(&self) -> Option<u64> {
        self.0.deadline_left()
    }

    /// Publishes a status: the stage, how much of it is done (0 to 1; NaN: unknown), and a line for
    /// people (empty: none). True while anyone still wants the result.
    pub fn report(&self, stage: &str, progress: f32, message: &str) -> bool {
        let progress = (!progress.is_nan()).then_some(progress);
        let message = (!message.is_empty()).then_some(message);
        self.0.report(stage, progress, message) == Control::Continue
    }

    /// Streams a piece of output as bytes. True while anyone still wants the result.
    pub fn emit_bytes(&self, name: &str, bytes: impl Into<Vec<u8>>) -> bool {
        let value = Value::Bytes(ByteStrings { shape: vec![1], elements: vec![bytes.into()] });
        self.0.emit(name, value) == Control::Continue
    }

    /// Streams a piece of output as a tensor. True while anyone still wants the result.
    pub fn emit_tensor(&self, name: &str, tensor: Tensor) -> bool {
        self.0.emit(name, Value::Tensor(tensor.0)) == Control::Continue
    }
}
