//! Run an ONNX model inside a Warren plugin.
//!
//! ```ignore
//! fn prepare() -> Result<(), Failure> {
//!     let file = std::fs::read("/plugin/model.onnx").map_err(Failure::failed)?;
//!     Model::parse(file).map_err(Failure::failed)?.store("model")
//! }
//!
//! fn infer(job: &Job) -> Result<Outputs, Failure> {
//!     let model = Model::restore("model")?;
//!     let outputs = model.run(&[("x", &job.tensor("x")?)], &["y"])?;
//!     …
//! }
//! ```
//!
//! The file is checked once, when it is parsed: an operator, attribute or type that is not
//! supported is an error there that names it. At a run every value whose elements decide shapes is
//! computed in the guest, and everything else is recorded on the host's tensor interface and
//! computed in one dispatch.

mod error;
mod graph;
mod host;
mod load;
mod model;
mod ops;
mod proto;
mod run;
mod types;
mod weights;

pub use error::{LoadError, OpError, RunError};
pub use graph::{Dim, ValueInfo};
pub use load::OPSETS;
pub use model::Model;
pub use types::Type;

#[cfg(test)]
mod tests;
