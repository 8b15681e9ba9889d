//! Warren's tensor engine: operations with the names and semantics of the W3C Web Neural Network
//! API, recorded lazily, planned once per graph and shape, and run on the CPU or on a GPU.
//!
//! One [`Engine`] serves a process. A job opens a [`Session`] on it, with a [`Budget`] of bytes and
//! a flag that cancels it; it records [`Op`]s, which are checked and answered at once, and reads
//! [`Value`]s, which runs what they need. The engine knows nothing of guests or messages.
//!
//! The way of a graph: `session` records it by the `rules`, numbers it canonically and asks the
//! `engine`, which finds its plan in the `cache` or has the `backend` compile one, charges the
//! `budget` and runs it.

mod backend;
mod budget;
mod buffer;
mod cache;
mod compose;
mod cpu;
mod decompose;
mod engine;
mod error;
mod graph;
mod key;
mod op;
mod resident;
mod rules;
mod session;
mod shape;
mod types;
mod value;
mod wgpu;

pub use crate::wgpu::{DeviceChoice, DeviceInfo, UnknownDevice};
pub use budget::Budget;
pub use engine::{Engine, EngineConfig, Stats};
pub use error::{Error, ErrorKind};
pub use op::{
    Activation, Arg, Binary, Compare, Conv2d, ConvTranspose2d, Direction, FilterLayout, Gru, GruCell,
    GruCellOperands, GruLayout, GruOperands, InputLayout, Interpolation, Logical, Lstm, LstmCell,
    LstmCellOperands, LstmLayout, LstmOperands, Op, PaddingMode, Pool2d, Pooling, Reduction, Resample2d,
    Rounding, Splits, TransposeFilterLayout, Unary,
};
pub use resident::{Holding, Lease, Told};
pub use rules::{Descriptor, infer};
pub use session::{Session, TensorId};
pub use shape::{Dims, MAX_ELEMENTS, MAX_RANK};
pub use types::{DataType, UnknownDataType};
pub use value::Value;
