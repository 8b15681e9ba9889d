//! The engine: one a process, shared by all jobs. Holds the backend, the plan cache and the pool
//! of buffers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::backend::{Backend, Compiled};
use crate::budget::Budget;
use crate::buffer::BufferPool;
use crate::cache::PlanCache;
use crate::cpu::Cpu;
use crate::error::{Error, ErrorKind};
use crate::graph::Graph;
use crate::resident::{Holding, Residents, Told};
use crate::rules::{Descriptor, checked_shape};
use crate::types::DataType;
use crate::value::Value;
use crate::wgpu::{DeviceChoice, DeviceInfo, GpuConfig, Wgpu};

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
    /// What runs the graphs.
    pub device: DeviceChoice,
    /// The most bytes that all jobs and assets together hold on the device; of the CPU: in host memory.
    pub device_bytes: u64,
    /// Where what is given up of host memory is kept; none: the system's temporary directory.
    pub spill: Option<PathBuf>,
    /// The most bytes of free buffers kept on such a device.
    pub device_pool_bytes: u64,
    /// How long such a device may be silent over a piece of work before it counts as lost.
    pub device_deadline: Duration,
    /// Multiplications or so after which another job's work may go on; 0 is chosen by the
    /// device's kind.
    pub device_slice: u64,
    /// Caps the bytes that a kernel of the device may bind of one tensor, below the device's own
    /// limit. For tests.
    pub device_binding_bytes: u64,
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
            device: DeviceChoice::Cpu,
            device_bytes: 4 << 30,
            spill: None,
            device_pool_bytes: 1 << 30,
            device_deadline: Duration::from_secs(20),
            device_slice: 0,
            device_binding_bytes: u64::MAX,
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
    /// Bytes in use on a device that is not the CPU.
    pub device_live_bytes: u64,
    /// Bytes of free buffers kept there.
    pub device_pooled_bytes: u64,
    /// The most bytes of buffers in use at once, and the same on such a device.
    pub peak_bytes: u64,
    /// Likewise.
    pub device_peak_bytes: u64,
    /// Times that a holding was given up for want of memory.
    pub evictions: u64,
    /// Times that one came back.
    pub returns: u64,
}

/// The engine; see the module. Cheap to share behind an `Arc`.
pub struct Engine {
    backend: Box<dyn Backend>,
    cache: PlanCache,
    pool: Arc<BufferPool>,
    max_pending_nodes: usize,
    devices: Vec<DeviceInfo>,
    residents: Arc<Residents>,
    /// The device has memory of its own.
    separate: bool,
    device_bytes: u64,
    spill: PathBuf,
    /// How many jobs may hold memory.
    sessions: AtomicUsize,
}

/// How long memory of the device is waited for while other jobs may give some back; where none does,
/// only what is on its way out can; and how often it is looked for.
const ROOM: Duration = Duration::from_secs(2);
const ROOM_ALONE: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(2);

impl Engine {
    /// An engine on the device that the configuration asks for. Fails when the threads cannot be
    /// started, or a device is asked for that is not there or computes wrongly: the error names
    /// what was found.
    pub fn new(config: EngineConfig) -> Result<Engine, Error> {
        let residents = Arc::<Residents>::default();
        let (keep, poison) = (config.pool_bytes, config.poison);
        // Bounded where host memory is the device's; which it is, only looking for a device tells.
        let pool = BufferPool::bounded(keep, poison, config.device_bytes, Arc::clone(&residents));
        let cpu = Arc::new(Cpu::new(config.threads, Arc::clone(&pool))?);
        let limits = GpuConfig {
            keep: config.device_pool_bytes,
            limit: config.device_bytes,
            residents: Arc::clone(&residents),
            deadline: config.device_deadline,
            slice: config.device_slice,
            binding: config.device_binding_bytes,
        };
        let (gpu, mut devices) = Wgpu::choose(&config.device, limits, &cpu, &pool);
        let strict = !matches!(config.device, DeviceChoice::Auto | DeviceChoice::Cpu);
        if strict && gpu.is_none() {
            let found: Vec<String> = devices.iter().map(|d| format!("{} ({})", d.name, d.why)).collect();
            let found = if found.is_empty() { "no adapter".into() } else { found.join("; ") };
            return Err(Error::device("engine", format!("no device for `{}`: found {found}", config.device)));
        }
        let why = match (&gpu, &config.device) {
            (Some(_), _) => "another device was chosen",
            (None, DeviceChoice::Cpu) => "asked for",
            (None, _) => "no GPU fits",
        };
        devices.push(DeviceInfo {
            name: "cpu".into(),
            kind: "CPU",
            driver: cpu.instructions().into(),
            max_binding_bytes: u64::MAX,
            max_buffer_bytes: u64::MAX,
            chosen: gpu.is_none(),
            why: why.into(),
        });
        let separate = gpu.is_some();
        if separate {
            pool.unbound();
        }
        let backend: Box<dyn Backend> = match gpu {
            Some(gpu) => Box::new(gpu),
            None => Box::new(cpu),
        };
        Ok(Engine {
            backend,
            devices,
            cache: PlanCache::new(config.plan_cache_entries, config.plan_cache_bytes),
            pool,
            max_pending_nodes: config.max_pending_nodes,
            residents,
            separate,
            device_bytes: config.device_bytes,
            spill: config.spill.unwrap_or_else(std::env::temp_dir),
            sessions: AtomicUsize::new(0),
        })
    }

    /// An engine on a backend, for tests that need to reach into it.
    #[cfg(test)]
    pub(crate) fn on(backend: Box<dyn Backend>, pool: Arc<BufferPool>) -> Arc<Engine> {
        Arc::new(Engine {
            backend,
            devices: Vec::new(),
            cache: PlanCache::new(64, 16 << 20),
            pool,
            max_pending_nodes: 100_000,
            residents: Arc::default(),
            separate: true,
            device_bytes: u64::MAX,
            spill: std::env::temp_dir(),
            sessions: AtomicUsize::new(0),
        })
    }

    /// The name of the device that runs the graphs.
    pub fn backend(&self) -> &'static str {
        self.backend.name()
    }

    /// Every device that was found, what was chosen and why.
    pub fn devices(&self) -> &[DeviceInfo] {
        &self.devices
    }

    /// Gives a GPU up, as a reset of it would: for drills. Jobs that hold what they computed on it
    /// fail with [`ErrorKind::DeviceLost`]; the next use makes a new device.
    pub fn lose_device(&self) {
        self.backend.lose();
    }

    /// Counters since the start, and what is held now.
    pub fn stats(&self) -> Stats {
        let (plan_hits, plan_misses, plans, plan_bytes) = self.cache.stats();
        let (device_live_bytes, device_pooled_bytes) = self.backend.memory();
        let (evictions, returns) = self.residents.counts();
        Stats {
            plan_hits,
            plan_misses,
            plans,
            plan_bytes,
            pooled_bytes: self.pool.pooled_bytes(),
            live_bytes: self.pool.live_bytes(),
            device_live_bytes,
            device_pooled_bytes,
            peak_bytes: self.pool.peak_bytes(),
            device_peak_bytes: self.backend.peak(),
            evictions,
            returns,
        }
    }

    /// Tries again for a while where the device is full: jobs that end give their memory back, and so do
    /// results that are on their way out.
    fn with_room<T>(
        &self,
        cancel: Option<&AtomicBool>,
        mut attempt: impl FnMut() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let start = Instant::now();
        loop {
            match attempt() {
                Err(error) if error.kind == ErrorKind::DeviceFull => {
                    let cancelled = cancel.is_some_and(|cancel| cancel.load(Ordering::Acquire));
                    let alone = self.sessions.load(Ordering::Relaxed) <= 1;
                    let most = if alone { ROOM_ALONE } else { ROOM };
                    if cancelled || start.elapsed() >= most {
                        return Err(Error { kind: ErrorKind::OutOfMemory, ..error });
                    }
                    std::thread::sleep(LOOK);
                }
                answer => return answer,
            }
        }
    }

    /// Counts the sessions that are open.
    pub(crate) fn sessions(&self) -> &AtomicUsize {
        &self.sessions
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
        let fill = |target: &mut [u8]| {
            target.copy_from_slice(data);
            Ok(())
        };
        self.with_room(None, || self.filled(NAME, budget, descriptor, bytes, fill)).map(Arc::new)
    }

    /// A value of `bytes` bytes that `fill` writes.
    pub(crate) fn filled(
        &self,
        operation: &'static str,
        budget: &Arc<Budget>,
        descriptor: Descriptor,
        bytes: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), Error>,
    ) -> Result<Value, Error> {
        let charge = budget.charge(operation, crate::buffer::capacity_for(bytes) as u64)?;
        let mut buffer = self.pool.take(operation, bytes)?;
        fill(buffer.bytes_mut())?;
        Ok(Value::new(descriptor, buffer, charge))
    }

    /// Keeps values from job to job, which are given up together when memory is full and nobody uses
    /// them; `told` hears of it.
    pub fn hold(self: &Arc<Self>, values: Vec<Arc<Value>>, told: Told) -> Arc<Holding> {
        Holding::new(self, values, told)
    }

    pub(crate) fn residents(&self) -> &Residents {
        &self.residents
    }

    /// Whether the device has memory of its own.
    pub(crate) fn has_device_memory(&self) -> bool {
        self.separate
    }

    /// The most bytes that may be in use on the device, and how many are.
    pub(crate) fn device_use(&self) -> (u64, u64) {
        let live = if self.separate { self.backend.memory().0 } else { self.pool.live_bytes() };
        (self.device_bytes, live)
    }

    pub(crate) fn spill_directory(&self) -> &Path {
        &self.spill
    }

    pub(crate) fn max_pending_nodes(&self) -> usize {
        self.max_pending_nodes
    }

    /// Runs the graph that `key` encodes: by a cached plan, else by a new one of what `graph`
    /// answers. The result numbered `read` is brought to host memory too.
    ///
    /// Where the device is lost meanwhile, and all that the graph needs lies in host memory, it is
    /// run once more.
    pub(crate) fn run(
        &self,
        key: &[u8],
        graph: impl Fn() -> Graph,
        leaves: &[Arc<Value>],
        budget: &Arc<Budget>,
        read: Option<usize>,
        cancel: &AtomicBool,
    ) -> Result<Vec<Arc<Value>>, Error> {
        let run = || {
            let plan: Arc<dyn Compiled> = match self.cache.get(key) {
                Some(plan) => plan,
                None => {
                    let plan = self.backend.compile(&graph())?;
                    self.cache.put(key, &plan);
                    plan
                }
            };
            let charge = budget.charge("dispatch", plan.peak_bytes())?;
            let values = plan.run(leaves, charge, cancel)?;
            if let Some(value) = read.and_then(|at| values.get(at)) {
                self.fetch(value, cancel)?;
            }
            Ok(values)
        };
        let run = || self.with_room(Some(cancel), run);
        match run() {
            Err(Error { kind: ErrorKind::DeviceLost, .. }) if leaves.iter().all(|l| l.host().is_some()) => {
                run()
            }
            answer => answer,
        }
    }

    /// Brings a value to host memory, where it is not there.
    pub(crate) fn fetch(&self, value: &Value, cancel: &AtomicBool) -> Result<(), Error> {
        self.backend.fetch(value, cancel)
    }
}
