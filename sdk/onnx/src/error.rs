//! What can be wrong with a file, and with a run of it.

use warren_sdk::Failure;
use warren_sdk::tensor::{ErrorKind, TensorError};

/// Why a file was not loaded. Everything that can be known without inputs is found here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The bytes are not an ONNX model at all.
    #[error("not an ONNX file, or a truncated one: {0}")]
    Format(String),
    /// The model as a whole cannot be run here.
    #[error("the ONNX model cannot be used: {0}")]
    Model(String),
    /// A weight, input or output cannot be used.
    #[error("value {name:?} of the ONNX model: {problem}")]
    Value {
        /// The value's name in the file.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A node cannot be run here.
    #[error("node {node:?} (operator {operator}, opset {opset}): {problem}")]
    Node {
        /// The node's name, or `#index` in the file's order if it has none.
        node: String,
        /// Its operator, with the domain in front if it is not the default one.
        operator: String,
        /// The version of the default operator set that the model declares.
        opset: i64,
        /// What is wrong with it, and what is supported instead.
        problem: String,
    },
}

impl LoadError {
    /// The same in few words: names, operators and numbers are quoted from the file, whose writer
    /// may have made them as long as he liked, or of what a terminal obeys.
    pub(crate) fn shown(self) -> Self {
        match self {
            Self::Format(text) => Self::Format(clip(&text)),
            Self::Model(text) => Self::Model(clip(&text)),
            Self::Value { name, problem } => Self::Value { name: clip(&name), problem: clip(&problem) },
            Self::Node { node, operator, opset, problem } => {
                Self::Node { node: clip(&node), operator: clip(&operator), opset, problem: clip(&problem) }
            }
        }
    }
}

/// The begin of `text`, control characters escaped.
fn clip(text: &str) -> String {
    const LONGEST: usize = 300;
    let mut out = String::new();
    for c in text.chars() {
        if out.len() > LONGEST {
            out.push_str("...");
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Why a loaded model was not run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RunError {
    /// The caller's inputs or wanted outputs do not fit the model.
    #[error("{0}")]
    Request(String),
    /// A node refused.
    #[error("node {node:?} (operator {operator}): {problem}")]
    Node {
        /// The node's name, or `#index` in the file's order if it has none.
        node: String,
        /// Its operator.
        operator: String,
        /// What did not fit.
        problem: OpError,
        /// True when shapes that the caller was free to choose may be what did not fit.
        free_shapes: bool,
    },
    /// The computation as a whole failed on the device.
    #[error("{0}")]
    Tensor(#[from] TensorError),
    /// The stored model could not be read back.
    #[error("{0}")]
    Asset(String),
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let text = error.to_string();
        let kind = match &error {
            RunError::Request(_) => return Self::Invalid(text),
            RunError::Node { problem: OpError::Shape(_), free_shapes: true, .. } => {
                return Self::Invalid(text);
            }
            RunError::Node { problem: OpError::Tensor(e), free_shapes, .. } => {
                if *free_shapes && e.kind == ErrorKind::InvalidArgument {
                    return Self::Invalid(text);
                }
                Some(e.kind)
            }
            RunError::Tensor(e) => Some(e.kind),
            _ => None,
        };
        // A job that was cut off, or a device that failed, says nothing about the job itself.
        match kind {
            Some(ErrorKind::Cancelled | ErrorKind::Device) => Self::Retry(text),
            _ => Self::Failed(text),
        }
    }
}

/// Why one node could not be run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpError {
    /// Shapes or values do not fit the operator.
    #[error("{0}")]
    Shape(String),
    /// Valid ONNX that cannot be lowered onto the tensor interface.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The tensor interface refused.
    #[error("{0}")]
    Tensor(#[from] TensorError),
    /// While loading: the node cannot be folded to a constant, for it needs the device.
    #[error("needs the device")]
    NeedsDevice,
}

/// What running one node answers.
pub type OpResult<T> = Result<T, OpError>;

/// Shorthand for [`OpError::Shape`].
pub(crate) fn misfit<T>(text: impl Into<String>) -> OpResult<T> {
    Err(OpError::Shape(text.into()))
}
