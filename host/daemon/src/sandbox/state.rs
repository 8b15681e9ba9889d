//! What a store holds: everything that one batch may reach, and what it has used of it.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use warren_tensor::{Session, Value};
use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Result};
use wasmtime_wasi::WasiCtx;

use super::assets::{Assets, AssetsDraft, InUse};
use super::guest_log::GuestLog;
use super::watch::Watch;
use crate::config::{Limits, mib};
use crate::job::{Failure, Job, Progress};

/// Where the progress of one job goes. Called on the guest's thread; must not block.
pub type ProgressSink = Arc<dyn Fn(Progress) + Send + Sync>;

/// One job of the batch.
pub struct RunningJob {
    /// The job.
    pub job: Arc<Job>,
    /// Where its progress goes.
    pub sink: ProgressSink,
    /// Its inputs as device values, made when first asked for.
    pub values: Vec<Option<Arc<Value>>>,
    /// Bytes of partials so far.
    pub emitted: u64,
    /// Events so far.
    pub events: u64,
}

/// The context of one store.
pub struct State {
    /// What linear memory and tables may grow to.
    pub limiter: Limiter,
    /// The clocks.
    pub watch: Arc<Watch>,
    /// The tensors.
    pub session: Session,
    /// The batch; empty in `prepare`.
    pub jobs: Vec<RunningJob>,
    /// What `prepare` has made.
    pub assets: Arc<Assets>,
    /// Where `prepare` makes it; none while jobs run.
    pub draft: Option<AssetsDraft>,
    /// The limits in force.
    pub limits: Arc<Limits>,
    /// Set when a tensor operation was refused for want of budget: what it said.
    pub device_denied: Option<String>,
    /// Log lines, stdout and stderr.
    pub log: GuestLog,
    /// WASI's resources.
    pub table: ResourceTable,
    /// WASI, made at the first call: most short jobs never need it.
    pub wasi: Option<WasiCtx>,
    /// The plugin's folder, read-only to the guest.
    pub folder: Arc<PathBuf>,
    /// Where scratch directories are made.
    pub scratch_base: Option<Arc<PathBuf>>,
    /// The batch's scratch directory, once made; removed with the store.
    pub scratch: Option<tempfile::TempDir>,
    /// Keeps the assets where they are. Last: what reads them must be gone before.
    pub in_use: Option<InUse>,
}

impl State {
    /// The failure to unwind the guest with, if the batch must stop.
    pub fn check_stopped(&self) -> Result<()> {
        if self.watch.is_stopped() { Err(stop_error(&self.watch)) } else { Ok(()) }
    }
}

/// The error that unwinds a guest whose batch was stopped.
pub fn stop_error(watch: &Watch) -> wasmtime::Error {
    let failure = watch
        .reason()
        .unwrap_or_else(|| Failure::new(crate::job::Code::HostError, "stopped without a reason"));
    wasmtime::Error::new(Stop(failure))
}

/// Unwinds a guest with the failure that its jobs end in.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Stop(pub Failure);

/// Limits of memories and tables, and whether one was hit.
pub struct Limiter {
    memory: usize,
    used: usize,
    /// What was refused, in words.
    pub denied: Option<String>,
}

/// Elements of all tables of an instance together; beyond what real guests use, below what hurts.
pub const TABLE_ELEMENTS: usize = 20_000;

/// Core instances, memories and tables of one component: what toolchains make, and some more.
pub const CORE_INSTANCES: u32 = 64;
/// Likewise.
pub const MEMORIES: u32 = 4;
/// Likewise.
pub const TABLES: u32 = 16;

impl Limiter {
    /// A limiter for these limits.
    pub fn new(limits: &Limits) -> Self {
        Self { memory: usize::try_from(mib(limits.memory_mib)).unwrap_or(usize::MAX), used: 0, denied: None }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        // All memories of the instance together, so that several small ones do not make a large one.
        let grown = self.used.saturating_add(desired.saturating_sub(current));
        if grown > self.memory {
            self.denied = Some(format!(
                "{desired} bytes of linear memory asked for: limits.memory_mib is {}",
                self.memory >> 20
            ));
            return Ok(false);
        }
        self.used = grown;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        if desired > TABLE_ELEMENTS {
            self.denied =
                Some(format!("{desired} table elements asked for: at most {TABLE_ELEMENTS} are allowed"));
            return Ok(false);
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        TABLES as usize
    }

    fn memories(&self) -> usize {
        MEMORIES as usize
    }
}

/// Keeps a device value alive while its bytes are on their way out: no copy is made.
pub fn value_bytes(value: Arc<Value>) -> Bytes {
    struct Owner(Arc<Value>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            self.0.bytes()
        }
    }
    Bytes::from_owner(Owner(value))
}
