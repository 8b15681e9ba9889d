//! What a store holds: everything that one batch may reach, and what it has used of it.

use std::sync::Arc;

use bytes::Bytes;
use warren_tensor::{Session, Value};
use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Result};
use wasmtime_wasi::WasiCtx;

use super::assets::{Assets, AssetsDraft, InUse};
use super::files::Place;
use super::guest_log::GuestLog;
use super::watch::{TICK, Watch};
use crate::config::{Limits, mib};
use crate::job::{Code, Failure, Job, Progress};

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
    /// Events of the last second, see [`Rate`].
    pub rate: Rate,
}

/// How many events a job may report at once: as many as a second's worth, filled up as time goes by.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rate {
    taken: u64,
    at_ms: u64,
}

impl Rate {
    /// Takes one event of `most` a second at `now_ms`; false when there is none left.
    pub fn take(&mut self, now_ms: u64, most: u64) -> bool {
        let back = now_ms.saturating_sub(self.at_ms).saturating_mul(most) / 1000;
        // A part of an event that came back is not forgotten: the clock stays where it is.
        if back > 0 || self.taken == 0 {
            self.taken = self.taken.saturating_sub(back);
            self.at_ms = now_ms;
        }
        if self.taken >= most {
            return false;
        }
        self.taken += 1;
        true
    }
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
    /// Bytes passed to and from the host so far.
    pub passed: u64,
    /// How much stack the guest has, KiB.
    pub stack_kib: u64,
    /// Ticks in which the guest's own code ran.
    pub ticks: u64,
    /// Set when a tensor operation was refused for want of budget: what it said.
    pub device_denied: Option<String>,
    /// Log lines, stdout and stderr.
    pub log: GuestLog,
    /// WASI's resources.
    pub table: ResourceTable,
    /// WASI, made at the first call: most short jobs never need it.
    pub wasi: Option<WasiCtx>,
    /// The file system.
    pub place: Place,
    /// Keeps the assets where they are. Last: what reads them must be gone before.
    pub in_use: Option<InUse>,
}

impl State {
    /// Counts bytes that the guest passes to the host or gets from it.
    pub fn pass(&mut self, bytes: usize) -> Result<()> {
        self.passed = self.passed.saturating_add(bytes as u64);
        let most = self.limits.hostcall_total_mib;
        if self.passed > mib(most) {
            return Err(wasmtime::Error::new(Stop(Failure::new(
                Code::HostcallLimit,
                format!(
                    "{} bytes passed to and from the host: limits.hostcall_total_mib is {most}",
                    self.passed
                ),
            ))));
        }
        Ok(())
    }

    /// Counts a tick in which the guest's own code ran.
    pub fn tick(&mut self) -> Result<()> {
        self.check_stopped()?;
        self.ticks += 1;
        let ran = self.ticks.saturating_mul(u64::try_from(TICK.as_millis()).unwrap_or(u64::MAX));
        let most = self.limits.cpu_ms;
        if ran > most {
            return Err(wasmtime::Error::new(Stop(Failure::new(
                Code::CpuLimit,
                format!("stopped after {ran} ms of processor time: limits.cpu_ms is {most}"),
            ))));
        }
        Ok(())
    }

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
    elements: usize,
    elements_used: usize,
    /// What was refused, in words, and its code.
    pub denied: Option<(Code, String)>,
}

/// Core instances, memories and tables of one component: what toolchains make, and some more.
pub const CORE_INSTANCES: u32 = 64;
/// Likewise.
pub const MEMORIES: u32 = 4;
/// Likewise.
pub const TABLES: u32 = 16;

impl Limiter {
    /// A limiter for these limits.
    pub fn new(limits: &Limits) -> Self {
        Self {
            memory: usize::try_from(mib(limits.memory_mib)).unwrap_or(usize::MAX),
            used: 0,
            elements: usize::try_from(limits.table_elements).unwrap_or(usize::MAX),
            elements_used: 0,
            denied: None,
        }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        // All memories of the instance together, so that several small ones do not make a large one.
        let grown = self.used.saturating_add(desired.saturating_sub(current));
        if grown > self.memory {
            let limit = self.memory >> 20;
            let text = format!("{desired} bytes of linear memory asked for: limits.memory_mib is {limit}");
            self.denied = Some((Code::MemoryLimit, text));
            return Ok(false);
        }
        self.used = grown;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        // All tables together, likewise.
        let grown = self.elements_used.saturating_add(desired.saturating_sub(current));
        if grown > self.elements {
            let limit = self.elements;
            let text = format!("{grown} table elements asked for: limits.table_elements is {limit}");
            self.denied = Some((Code::TableLimit, text));
            return Ok(false);
        }
        self.elements_used = grown;
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
