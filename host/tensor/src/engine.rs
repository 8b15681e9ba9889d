//! The engine: one a process, shared by all jobs. Holds the backend, the plan cache and the pool
//! of buffers.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::backend::{Backend, Compiled};
use crate::budget::Budget;
use crate::buffer::BufferPool;
use crate::cache::PlanCache;
use crate::cpu::Cpu;
use crate::error::Error;
use crate::graph::Graph;
use crate::rules::{Descriptor, checked_shape};
use crate::types::DataType;
use crate::value::Value;

/// How an engine is set up.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Threads that share one graph's work; 0 means as many as the machine has. 1 runs
    /// everything on the caller's thread.
    pub threads: usize,
    /// The most compiled plans kept.
    pub plan_cache_entries: usize,
    /// About the most bytes of compiled plans kept.
    pub plan_cache_bytes: usize,
    /// The most bytes of free buffers kept for reuse.
    pub pool_bytes: u64,
    /// The most operations that one session may have recorded and not yet computed.
    pub max_pending_nodes: usize,
    /// Fill each buffer with 0xFF before it is used, so that a kernel which leaves an element
    /// unwritten shows. For tests; on by default in debug builds.
    pub poison: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            threads: 0,
            plan_cache_entries: 256,
            plan_cache_bytes: 64 << 20,
            pool_bytes: 512 << 20,
            max_pending_nodes: 100_000,
            poison: cfg!(debug_assertions),
        }
    }
}

/// What an engine has done and holds; see [`Engine::stats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Dispatches whose plan was in the cache.
    pub plan_hits: u64,
    /// Dispatches that had to plan.
    pub plan_misses: u64,
    /// Plans in the cache.
    pub plans: usize,
    /// About how many bytes the cached plans take.
    pub plan_bytes: usize,
    /// Bytes of free buffers kept for reuse.
    pub pooled_bytes: u64,
    /// Bytes of buffers in use, by all jobs and assets.
    pub live_bytes: u64,
}

/// The engine; see the module. Cheap to share behind an `Arc`.
pub struct Engine {
    backend: Box<dyn Backend>,
    cache: PlanCache,
    pool: Arc<BufferPool>,
    max_pending_nodes: usize,
}

impl Engine {
    /// An engine on the CPU. Fails when the threads cannot be started.
    pub fn new(config: EngineConfig) -> Result<Engine, Error> {
        let pool = BufferPool::new(config.pool_bytes, config.poison);
        Ok(Engine {
            backend: Box::new(Cpu::new(config.threads, Arc::clone(&pool))?),
            cache: PlanCache::new(config.plan_cache_entries, config.plan_cache_bytes),
            pool,
            max_pending_nodes: config.max_pending_nodes,
        })
    }

    /// The name of the device that runs the graphs.
    pub fn backend(&self) -> &'static str {
        self.backend.name()
    }

    /// Counters since the start, and what is held now.
    pub fn stats(&self) -> Stats {
        let (plan_hits, plan_misses, plans, plan_bytes) = self.cache.stats();
        Stats {
            plan_hits,
            plan_misses,
            plans,
            plan_bytes,
            pooled_bytes: self.pool.pooled_bytes(),
            live_bytes: self.pool.live_bytes(),
        }
    }

    /// A value from row-major little-endian bytes, exactly product(shape) elements of them,
    /// charged to `budget`: a job's input, or an asset.
    pub fn value(
        &self,
        budget: &Arc<Budget>,
        data_type: DataType,
        shape: &[u32],
        data: &[u8],
    ) -> Result<Arc<Value>, Error> {
        const NAME: &str = "constant";
        let descriptor = Descriptor { data_type, shape: checked_shape(NAME, shape)? };
        let bytes = descriptor.bytes();
        if data.len() != bytes {
            return Err(Error::invalid(
                NAME,
                format!("{} bytes of data for {data_type} {shape:?}, which takes {bytes}", data.len()),
            ));
        }
        let charge = budget.charge(NAME, crate::buffer::capacity_for(bytes) as u64)?;
        let mut buffer = self.pool.take(NAME, bytes)?;
        buffer.bytes_mut().copy_from_slice(data);
        Ok(Arc::new(Value::new(descriptor, buffer, charge)))
    }

    pub(crate) fn max_pending_nodes(&self) -> usize {
        self.max_pending_nodes
    }

    /// Runs the graph that `key` encodes: by a cached plan, else by a new one of what `graph`
    /// answers.
    pub(crate) fn run(
        &self,
        key: &[u8],
        graph: impl FnOnce() -> Graph,
        leaves: &[Arc<Value>],
        budget: &Arc<Budget>,
        cancel: &AtomicBool,
    ) -> Result<Vec<Arc<Value>>, Error> {
        let plan: Arc<dyn Compiled> = match self.cache.get(key) {
            Some(plan) => plan,
            None => {
                let plan = self.backend.compile(&graph())?;
                self.cache.put(key, &plan);
                plan
            }
        };
        let charge = budget.charge("dispatch", plan.peak_bytes())?;
        plan.run(leaves, charge, cancel)
    }
}
