//! Why a body could not be read or written, in words for whoever sent it.

use super::Datatype;

/// Why a body is no valid request or response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON at all.
    #[error("the body is not JSON: {detail}{hint}")]
    NotJson {
        /// What the parser found, and where.
        detail: String,
        /// What may be amiss with the content type; empty if nothing.
        hint: String,
    },
    /// JSON, but something in it has the wrong type or is missing.
    #[error("{path}: {detail}")]
    Structure {
        /// JSON path, e.g. `inputs[0].shape[1]`; `body` for the whole.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// The length of the JSON header does not fit the body.
    #[error(
        "header inference-header-content-length is {header}, and the body has {body} bytes: it must be the length of the JSON part, 1 to {body}"
    )]
    HeaderLength {
        /// The header's value.
        header: u64,
        /// Bytes of the body.
        body: usize,
    },
    /// The binary part is shorter or longer than its tensors.
    #[error("the binary part has {got} bytes, and the tensors' binary_data_size add up to {expected}")]
    BinaryLength {
        /// Sum over the tensors, as far as it was added up.
        expected: u64,
        /// Bytes after the JSON header.
        got: usize,
    },
    /// One tensor is wrong.
    #[error("{kind} {name:?} at {path}: {detail}")]
    Tensor {
        /// "input" or "output".
        kind: &'static str,
        /// The tensor's name.
        name: String,
        /// JSON path of what is wrong.
        path: String,
        /// What was expected and what was found.
        detail: String,
    },
}

/// Why a request or response cannot be written.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// The value has no JSON form.
    #[error("tensor {name:?}: {what} has no JSON form: encode it with binary tensor data")]
    NeedsBinary {
        /// The tensor.
        name: String,
        /// The value or type.
        what: String,
    },
    /// A parameter has no JSON form.
    #[error("parameter {name:?}: {value} has no JSON form: send a finite number, or a text")]
    Parameter {
        /// The parameter.
        name: String,
        /// Its value.
        value: f64,
    },
    /// The data does not fill the shape, or the shape's size does not fit in memory.
    #[error("tensor {name:?}: {datatype} of shape {shape:?} takes {expected}, and its data has {got}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its type.
        datatype: Datatype,
        /// Its shape.
        shape: Vec<u64>,
        /// What the shape asks for.
        expected: String,
        /// What there is.
        got: String,
    },
}

/// `text` in at most about `limit` bytes and without control characters, so that what is said about a
/// body is neither as long as the body nor obeyed by a terminal.
pub(crate) fn clip(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit + 16));
    for c in text.chars() {
        if out.len() + c.len_utf8() > limit {
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

/// A shape for a message, however many dimensions were claimed.
pub(super) fn shape_text(shape: &[u64]) -> String {
    clip(&format!("{:?}", &shape[..shape.len().min(32)]), 200)
}
