//! What is done with one input of a fuzz target: the bytes go through a decoder, and what comes out
//! must hold its promises. A broken promise is a panic. The fuzz targets call these functions, and so
//! does the test that replays their corpora.

mod event;
mod manifest;
mod memory;
mod message;
mod oip;
mod onnx;
mod properties;
mod take;
mod tensor;
mod wav;

pub use event::event;
pub use manifest::manifest;
pub use message::message;
pub use oip::oip;
pub use onnx::{onnx, onnx_nodes};
pub use properties::properties;
pub use tensor::tensor;
pub use wav::wav;

/// What a target does with an input.
pub type Body = fn(&[u8]);

/// Every target by its name, which is also that of its corpus.
pub const TARGETS: [(&str, Body); 9] = [
    ("event", event),
    ("manifest", manifest),
    ("message", message),
    ("oip", oip),
    ("onnx", onnx),
    ("onnx_nodes", onnx_nodes),
    ("properties", properties),
    ("tensor", tensor),
    ("wav", wav),
];

/// The longest that is said about an input, in bytes: it travels in headers, logs and terminals.
const LONGEST: usize = 4096;

/// Checks what is said about bad bytes: something, not without end, and nothing that a terminal obeys.
fn check_text(text: &str) {
    assert!(!text.is_empty(), "an error that says nothing");
    assert!(text.len() <= LONGEST, "an error of {} bytes: {:.200}", text.len(), text);
    assert!(!text.chars().any(char::is_control), "control characters in {text:?}");
}
