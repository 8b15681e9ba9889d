//! The CPU backend.

pub(crate) mod block;
mod context;
pub(crate) mod conv;
mod direct;
mod fuse;
pub(crate) mod index;
mod interpret;
pub(crate) mod lower;
mod math;
pub(crate) mod matmul;
pub(crate) mod memory;
pub(crate) mod movement;
pub(crate) mod normalize;
pub(crate) mod packed;
pub(crate) mod plan;
pub(crate) mod pool;
pub(crate) mod program;
pub(crate) mod reduce;
pub(crate) mod run;
pub(crate) mod scan;
pub(crate) mod simd;
mod threads;
pub(crate) mod transposed;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::backend::{Backend, Compiled};
use crate::budget::Charge;
use crate::buffer::BufferPool;
use crate::error::Error;
use crate::graph::Graph;
use crate::value::Value;

use plan::Plan;
use simd::Isa;
use threads::Threads;

/// Kernels on the processor's vector instructions, shared among threads of its own.
pub(crate) struct Cpu {
    shared: Arc<Shared>,
}

/// What plans need of the backend.
struct Shared {
    isa: Isa,
    threads: usize,
    workers: Option<Threads>,
    buffers: Arc<BufferPool>,
}

struct CpuPlan {
    plan: Plan,
    shared: Arc<Shared>,
}

impl Cpu {
    /// A backend with so many threads; 0 means as many as the machine has, 1 means the caller's.
    pub fn new(threads: usize, buffers: Arc<BufferPool>) -> Result<Cpu, Error> {
        let available = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if threads == 0 { available() } else { threads };
        let workers = if threads > 1 {
            // The thread that runs a graph is one of them.
            Some(
                Threads::start(threads - 1)
                    .map_err(|e| Error::device("engine", format!("cannot start {threads} threads: {e}")))?,
            )
        } else {
            None
        };
        Ok(Cpu { shared: Arc::new(Shared { isa: Isa::detect(), threads, workers, buffers }) })
    }
}

impl Cpu {
    /// The kernels of a graph, without the lifetimes of what they compute.
    pub(crate) fn kernels(&self, graph: &Graph) -> Result<Plan, Error> {
        lower::kernels(graph, self.shared.isa, self.shared.threads)
    }

    /// The vector instructions in use, for people.
    pub(crate) fn instructions(&self) -> &'static str {
        self.shared.isa.name()
    }

    /// Plans the lifetimes, and makes the plan one to run.
    pub(crate) fn finish(&self, mut plan: Plan) -> Arc<dyn Compiled> {
        plan.peak = memory::assign_memory(&plan.slots, &mut plan.steps, &plan.results);
        Arc::new(CpuPlan { plan, shared: Arc::clone(&self.shared) })
    }
}

impl Backend for Arc<Cpu> {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn compile(&self, graph: &Graph) -> Result<Arc<dyn Compiled>, Error> {
        let plan = lower::lower(graph, self.shared.isa, self.shared.threads)?;
        Ok(Arc::new(CpuPlan { plan, shared: Arc::clone(&self.shared) }))
    }

    fn fetch(&self, _: &Value, _: &AtomicBool) -> Result<(), Error> {
        Ok(())
    }

    fn lose(&self) {}

    fn memory(&self) -> (u64, u64) {
        (0, 0)
    }
}

impl Compiled for CpuPlan {
    fn peak_bytes(&self) -> u64 {
        self.plan.peak
    }

    fn weight(&self) -> usize {
        self.plan.weight()
    }

    fn run(
        &self,
        leaves: &[Arc<Value>],
        charge: Charge,
        cancel: &AtomicBool,
    ) -> Result<Vec<Arc<Value>>, Error> {
        let s = &self.shared;
        let workers = s.workers.as_ref().filter(|_| self.plan.parallel);
        let context = context::Context { isa: s.isa, workers, cancel };
        run::run(&self.plan, &context, leaves, charge, &s.buffers)
    }
}
