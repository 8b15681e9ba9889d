//! What a device must offer to run recorded graphs.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::budget::Charge;
use crate::error::Error;
use crate::graph::Graph;
use crate::value::Value;

/// A device that compiles graphs. Knows nothing of sessions, handles or the cache.
pub(crate) trait Backend: Send + Sync {
    /// Its name for people, e.g. `cpu`.
    fn name(&self) -> &'static str;

    /// Plans a graph once; the result is shared by every job that records an equal graph, so it
    /// must hold nothing of any job.
    fn compile(&self, graph: &Graph) -> Result<Arc<dyn Compiled>, Error>;

    /// Brings a value's elements to host memory, where they are not there already: waits for the
    /// work that makes them, no longer than until `cancel` is set.
    fn fetch(&self, value: &Value, cancel: &AtomicBool) -> Result<(), Error>;

    /// Gives the device up, as a reset of it would. Nothing happens to one that cannot be lost.
    fn lose(&self);

    /// Bytes on the device: (in use, free and kept for reuse). Host memory is not counted.
    fn memory(&self) -> (u64, u64);

    /// The most bytes in use on the device at once.
    fn peak(&self) -> u64 {
        0
    }
}

/// A graph planned for a device.
pub(crate) trait Compiled: Send + Sync {
    /// The most bytes that a run holds at once, outputs and workspace included, leaves not.
    /// Charged to the job before `run` is called.
    fn peak_bytes(&self) -> u64;

    /// About how many bytes the plan itself takes in the cache.
    fn weight(&self) -> usize;

    /// Computes the outputs, in the order of the graph's nodes. `charge` covers `peak_bytes`;
    /// what the outputs need is split off it, the rest is given back when it is dropped.
    /// A device with buffers of its own may answer before the work is done, with values that
    /// wait when their bytes are asked for.
    fn run(
        &self,
        leaves: &[Arc<Value>],
        charge: Charge,
        cancel: &AtomicBool,
    ) -> Result<Vec<Arc<Value>>, Error>;
}
