//! Guests: one engine and one linker for the host, a pre-instantiated component for each plugin, a
//! fresh store and instance for each batch, thrown away afterwards. The only module that names
//! wasmtime; it knows nothing of brokers or messages.

mod assets;
mod bindings;
mod compile;
mod files;
mod guest_log;
mod jobs;
mod outcome;
mod scratch;
mod state;
mod tensors;
mod wasi;
mod watch;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use warren_tensor::{Budget, Engine as TensorEngine, Session};
use wasmtime::component::{Component, HasSelf, Linker, Resource, ResourceTable};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store, UpdateDeadline, WasmFeatures,
};

pub use assets::Assets;
pub use compile::{CompilerConfig, Order, compile_component};
pub use outcome::Refusal;
pub use state::ProgressSink;
pub use watch::{TICK, Watch};

use crate::config::{Limits, mib};
use crate::folder::Folder;
use crate::job::{Code, Failure, Job, Named, Outputs, Parameter};
use assets::{AssetsDraft, Room};
use bindings::PluginPre;
use compile::Compiler;
use files::Place;
use guest_log::GuestLog;
use scratch::Base;
use state::{Limiter, Rate, RunningJob, State, Stop};
use watch::{Clocks, Guard, Ticker};

/// Stands for a tensor in the generated bindings; its handle's number is the engine's id.
pub struct TensorHandle;
/// Stands for a job in the generated bindings; its handle's number is the place in the batch.
pub struct JobHandle;

/// What the sandbox is built with.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// Guests that run at a time.
    pub slots: usize,
    /// The largest linear memory of any plugin, MiB.
    pub memory_mib: u64,
    /// Where scratch directories are made.
    pub scratch: Option<PathBuf>,
    /// Reset memory by scanning the page map.
    pub pagemap_scan: bool,
    /// How much stack a guest has, KiB.
    pub stack_kib: u64,
    /// Count instructions, for `limits.fuel`.
    pub count_fuel: bool,
    /// Take instances from a pool made at start. Without, each has memory of its own: slower, to compare.
    pub pooled: bool,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        let crate::config::Config { stack_kib, count_fuel, pagemap_scan, .. } =
            crate::config::Config::default();
        Self { slots: 1, memory_mib: 256, scratch: None, pagemap_scan, stack_kib, count_fuel, pooled: true }
    }
}

/// Why a component cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The engine cannot be made on this machine.
    #[error("the WebAssembly engine cannot start: {0}")]
    Engine(String),
    /// Not a component, or not one that this engine takes.
    #[error("{component}: not a WebAssembly component that this host runs: {reason}")]
    Compile {
        /// Which file.
        component: String,
        /// What the compiler says.
        reason: String,
    },
    /// Compiling took too long.
    #[error(
        "{component}: compiling takes longer than {seconds} s: compile_seconds allows no more; make the component \
         smaller, or raise it"
    )]
    CompileTime {
        /// Which file.
        component: String,
        /// The limit, s.
        seconds: u64,
    },
    /// Compiling took too much memory.
    #[error(
        "{component}: compiling needs more than {mib} MiB: compile_memory_mib allows no more; make the component \
         smaller, or raise it"
    )]
    CompileMemory {
        /// Which file.
        component: String,
        /// The limit, MiB.
        mib: u64,
    },
    /// Its code is too large.
    #[error("{component}: its compiled code has more than {mib} MiB: make the component smaller")]
    CodeSize {
        /// Which file.
        component: String,
        /// The limit, MiB.
        mib: u64,
    },
    /// Its code finds no place on disk.
    #[error(
        "{component}: its compiled code cannot be written: {reason}: make room in the temporary directory"
    )]
    CodeUnwritten {
        /// Which file.
        component: String,
        /// What the system says.
        reason: String,
    },
    /// The compiler's process did not do its work.
    #[error("{component}: the compiler failed on it: {reason}")]
    Compiler {
        /// Which file.
        component: String,
        /// How it ended and what it said.
        reason: String,
    },
    /// It imports what the world `plugin` does not offer, or lacks an export.
    #[error("{component}: not of the world warren:plugin/plugin@0.1.0: {reason}")]
    World {
        /// Which file.
        component: String,
        /// Names the import or export.
        reason: String,
    },
    /// It asks for a limit that nothing enforces here.
    #[error(
        "{plugin}: limits.fuel is {fuel}, and this host counts none: set count_fuel = true in its config"
    )]
    Fuel {
        /// Which plugin.
        plugin: String,
        /// The limit.
        fuel: u64,
    },
    /// `prepare` did not succeed.
    #[error("{plugin}: prepare: {failure}")]
    Prepare {
        /// Which plugin.
        plugin: String,
        /// How it ended.
        failure: Failure,
    },
}

/// A component that was compiled and checked against the world.
#[derive(Clone)]
pub struct Compiled {
    pre: Arc<PluginPre<State>>,
}

/// A plugin that is ready to run.
pub struct Guest {
    /// `name@version`, for logs.
    pub name: Arc<str>,
    compiled: Compiled,
    assets: Arc<Assets>,
    limits: Arc<Limits>,
    folder: Arc<Folder>,
    plugin_dir: wasmtime_wasi::filesystem::Dir,
}

impl Guest {
    /// Where the plugin's folder was when it was loaded.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder itself.
    pub fn files(&self) -> &Folder {
        &self.folder
    }

    /// Its assets.
    pub fn assets(&self) -> &Assets {
        &self.assets
    }
}

/// One job of a batch and where its progress goes.
pub struct Entry {
    /// The job, its inputs resolved.
    pub job: Arc<Job>,
    /// Called on the guest's thread; must not block.
    pub progress: ProgressSink,
}

/// The engine, the linker and the ticker.
pub struct Sandbox {
    engine: Engine,
    linker: Linker<State>,
    compiler: Compiler,
    ticker: Ticker,
    tensors: Arc<TensorEngine>,
    room: Room,
    /// Components in use, by digest.
    known: Mutex<HashMap<String, Weak<PluginPre<State>>>>,
    scratch: Arc<Base>,
    stack_kib: u64,
    count_fuel: bool,
}

/// Instances alive at a time beyond the slots: plugins being prepared.
const SPARE_INSTANCES: u32 = 8;
/// What a fiber's stack takes beyond what wasm may use of it: the host's calls run there, too.
const HOST_STACK: usize = 1 << 20;
/// What a guest may pass in one call beyond the size of its memory: a guest that passes more than it
/// can hold passes the same bytes many times.
const HOSTCALL_SPARE: u64 = 1 << 20;
/// The most outputs and parameters of one job: what readers of the protocol take.
const MAX_OUTPUTS: usize = 1024;
const MAX_PARAMETERS: usize = 256;

/// What a guest may pass in one call.
fn hostcall_bytes(limits: &Limits) -> u64 {
    mib(limits.hostcall_mib).min(mib(limits.memory_mib).saturating_add(HOSTCALL_SPARE))
}

/// What code depends on: the same where it is compiled and where it runs. What no guest needs is off by
/// name, whatever the next version turns on by itself.
fn wasm(count_fuel: bool) -> Config {
    let mut wasm = Config::new();
    // This build has no collector: with `GC` on, code that needs one is compiled and then aborts the
    // host (RUSTSEC-2026-0570).
    let off = WasmFeatures::THREADS
        | WasmFeatures::SHARED_EVERYTHING_THREADS
        | WasmFeatures::TAIL_CALL
        | WasmFeatures::MEMORY64
        | WasmFeatures::CUSTOM_PAGE_SIZES
        | WasmFeatures::GC
        | WasmFeatures::GC_TYPES
        | WasmFeatures::FUNCTION_REFERENCES
        | WasmFeatures::EXCEPTIONS
        | WasmFeatures::LEGACY_EXCEPTIONS
        | WasmFeatures::STACK_SWITCHING
        | WasmFeatures::WIDE_ARITHMETIC
        | WasmFeatures::CM_ASYNC
        | WasmFeatures::CM_ASYNC_STACKFUL
        | WasmFeatures::CM_MORE_ASYNC_BUILTINS
        | WasmFeatures::CM_THREADING
        | WasmFeatures::CM_ERROR_CONTEXT
        | WasmFeatures::CM_GC
        | WasmFeatures::CM_MAP
        | WasmFeatures::CM64
        | WasmFeatures::CM_FIXED_LENGTH_LISTS
        | WasmFeatures::CM_IMPLEMENTS;
    wasm.wasm_component_model(true)
        .wasm_features(off, false)
        // wasmtime itself joins components in modules that import both of their memories, and panics where
        // it may not. That a module has two of its own, the pool refuses.
        .wasm_multi_memory(true)
        .wasm_relaxed_simd(true)
        .relaxed_simd_deterministic(true)
        .epoch_interruption(true)
        .concurrency_support(false)
        .consume_fuel(count_fuel)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(32));
    wasm
}

fn engine(config: &SandboxConfig) -> wasmtime::Result<Engine> {
    let mut wasm = wasm(config.count_fuel);
    let stack = usize::try_from(config.stack_kib.saturating_mul(1024)).unwrap_or(usize::MAX);
    wasm.max_wasm_stack(stack).async_stack_size(stack.saturating_add(HOST_STACK));
    let instances = u32::try_from(config.slots).unwrap_or(u32::MAX).saturating_add(SPARE_INSTANCES);
    let mut pool = PoolingAllocationConfig::default();
    // Every instance may take all that a component may have: none takes it from its neighbours.
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(state::CORE_INSTANCES))
        .max_core_instances_per_component(state::CORE_INSTANCES)
        .total_memories(instances.saturating_mul(state::MEMORIES))
        .max_memories_per_component(state::MEMORIES)
        .total_tables(instances.saturating_mul(state::TABLES))
        .max_tables_per_component(state::TABLES)
        .total_stacks(instances)
        .table_elements(usize::try_from(crate::config::TABLE_ELEMENTS).unwrap_or(usize::MAX))
        .max_memory_size(usize::try_from(mib(config.memory_mib)).unwrap_or(usize::MAX))
        // Short jobs touch a little memory: keeping it resident and clearing it costs less than
        // giving it back and faulting it in again.
        .linear_memory_keep_resident(2 << 20)
        .table_keep_resident(64 << 10)
        .async_stack_keep_resident(64 << 10)
        .max_unused_warm_slots(instances);
    if config.pagemap_scan && no_swap() {
        pool.pagemap_scan(wasmtime::Enabled::Auto);
    }
    wasm.allocation_strategy(match config.pooled {
        true => InstanceAllocationStrategy::Pooling(pool),
        false => InstanceAllocationStrategy::OnDemand,
    });
    Engine::new(&wasm)
}

/// Whether the machine has no swap. With swap the page-map scan may miss pages that were swapped
/// out dirty, and one tenant's bytes would reach the next.
fn no_swap() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() <= 1)
}

impl Sandbox {
    /// The engine, with the pool's address space reserved, and its ticker running.
    pub fn new(config: &SandboxConfig, tensors: Arc<TensorEngine>) -> Result<Self, SandboxError> {
        let fail = |e: wasmtime::Error| SandboxError::Engine(format!("{e:#}"));
        let engine = engine(config).map_err(fail)?;
        files::make_room();
        let mut linker = Linker::new(&engine);
        wasi::add_to_linker(&mut linker).map_err(fail)?;
        bindings::Plugin::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state).map_err(fail)?;
        let epochs = engine.clone();
        let ticker = Ticker::start(move || epochs.increment_epoch())
            .map_err(|e| SandboxError::Engine(format!("cannot start the ticker thread: {e}")))?;
        let compiler = Compiler::here(&engine, config.count_fuel);
        let scratch = Arc::new(Base::new(config.scratch.clone()));
        let swept = Arc::clone(&scratch);
        std::thread::Builder::new()
            .name("warren-sweep".into())
            .spawn(move || swept.sweep())
            .map_err(|e| SandboxError::Engine(format!("cannot start a thread: {e}")))?;
        let (stack_kib, count_fuel) = (config.stack_kib, config.count_fuel);
        let room = Room::default();
        Ok(Self {
            engine,
            linker,
            compiler,
            ticker,
            tensors,
            room,
            known: Mutex::default(),
            scratch,
            stack_kib,
            count_fuel,
        })
    }

    /// The same, compiling as it is told instead of in this process.
    #[must_use]
    pub fn compiling(mut self, config: CompilerConfig) -> Self {
        self.compiler = Compiler::new(&self.engine, config, self.count_fuel);
        self
    }

    /// Compiles a component and checks it against the world. Takes as long as the component is
    /// large: call it where blocking is allowed. `name` is for errors.
    ///
    /// # Errors
    /// [`SandboxError`]: it does not compile within the limits, or is of another world.
    pub fn compile(&self, name: &str, bytes: &[u8]) -> Result<Compiled, SandboxError> {
        self.check(name, &self.compiler.component(&self.engine, name, bytes, None)?)
    }

    /// The same with the digest of the bytes, in lower-case hexadecimal: by it their code is kept, and
    /// found again.
    ///
    /// # Errors
    /// As [`Sandbox::compile`].
    pub fn compile_digest(&self, name: &str, bytes: &[u8], sha256: &str) -> Result<Compiled, SandboxError> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Plugins of the same bytes share their code.
        if let Some(pre) = known().get(sha256).and_then(Weak::upgrade) {
            return Ok(Compiled { pre });
        }
        let component = self.compiler.component(&self.engine, name, bytes, Some(sha256))?;
        let compiled = self.check(name, &component)?;
        let mut known = known();
        known.retain(|_, pre| pre.strong_count() > 0);
        known.insert(sha256.to_owned(), Arc::downgrade(&compiled.pre));
        Ok(compiled)
    }

    fn check(&self, name: &str, component: &Component) -> Result<Compiled, SandboxError> {
        let world =
            |e: wasmtime::Error| SandboxError::World { component: name.to_owned(), reason: format!("{e:#}") };
        let pre = self.linker.instantiate_pre(component).map_err(world)?;
        Ok(Compiled { pre: Arc::new(PluginPre::new(pre).map_err(world)?) })
    }

    /// The names that a component imports and exports. It is compiled, not run.
    ///
    /// # Errors
    /// It does not compile within the limits.
    pub fn interfaces(&self, name: &str, bytes: &[u8]) -> Result<(Vec<String>, Vec<String>), SandboxError> {
        let component = self.compiler.component(&self.engine, name, bytes, None)?;
        let kind = component.component_type();
        let imports = kind.imports(&self.engine).map(|(n, _)| n.to_owned()).collect();
        let exports = kind.exports(&self.engine).map(|(n, _)| n.to_owned()).collect();
        Ok((imports, exports))
    }

    /// Runs `prepare` in a sandbox of its own and keeps the assets it makes.
    pub async fn prepare(
        &self,
        name: Arc<str>,
        compiled: Compiled,
        limits: Limits,
        folder: Arc<Folder>,
    ) -> Result<Guest, SandboxError> {
        if limits.fuel > 0 && !self.count_fuel {
            return Err(SandboxError::Fuel { plugin: name.to_string(), fuel: limits.fuel });
        }
        let fail = |failure| SandboxError::Prepare { plugin: name.to_string(), failure };
        let plugin_dir = files::read_only(&folder).map_err(|error| {
            let shown = folder.path().display();
            fail(Failure::new(Code::HostError, format!("{shown}: cannot be given to a guest: {error}")))
        })?;
        let mut guest = Guest {
            name: Arc::clone(&name),
            compiled,
            assets: Arc::new(Assets::default()),
            limits: Arc::new(limits),
            plugin_dir,
            folder,
        };
        let draft = AssetsDraft::new(mib(guest.limits.assets_mib));
        let budget = Arc::clone(&draft.budget);
        let (mut store, guard) = self.store(&guest, Vec::new(), None, budget);
        store.data_mut().draft = Some(draft);
        let called = {
            let call = async {
                let plugin = guest.compiled.pre.instantiate_async(&mut store).await?;
                plugin.call_prepare(&mut store).await
            };
            tokio::select! {
                called = call => called,
                () = guard.watch.stopped() => Err(state::stop_error(&guard.watch)),
            }
        };
        match called {
            Ok(Ok(())) => {
                let draft = store.data_mut().draft.take();
                // What it computed with goes before: only its assets stay.
                drop(store);
                guest.assets = Arc::new(draft.map(|d| d.finish(&name, &self.tensors)).unwrap_or_default());
                Ok(guest)
            }
            Ok(Err(failure)) => Err(fail(match outcome::refusal(store.data(), failure) {
                Refusal::Final(failure) => failure,
                Refusal::Retry(text) => Failure::new(Code::PluginFailed, text),
            })),
            Err(error) => Err(fail(outcome::unwound(store.data(), &error))),
        }
    }

    fn store(
        &self,
        guest: &Guest,
        jobs: Vec<RunningJob>,
        deadline: Option<SystemTime>,
        budget: Arc<Budget>,
    ) -> (Store<State>, Guard) {
        let limits = &guest.limits;
        let guard = self.ticker.watch(Clocks { wall: limits.wall(), stall: limits.stall(), deadline });
        let ids = jobs.iter().map(|j| j.job.envelope.id.as_str()).collect::<Vec<_>>().join(",");
        let session = Session::new(Arc::clone(&self.tensors), budget, Arc::clone(&guard.watch.cancel));
        let place =
            Place::new(guest.plugin_dir.clone(), Arc::clone(&self.scratch), limits.scratch_mib, jobs.len());
        let mut table = ResourceTable::new();
        let handles = usize::try_from(limits.handles).unwrap_or(usize::MAX);
        table.set_max_capacity(handles);
        let state = State {
            limiter: Limiter::new(limits),
            watch: Arc::clone(&guard.watch),
            session,
            jobs,
            assets: Arc::clone(&guest.assets),
            draft: None,
            passed: 0,
            ticks: 0,
            stack_kib: self.stack_kib,
            limits: Arc::clone(limits),
            device_denied: None,
            log: GuestLog::new(Arc::clone(&guest.name), ids, limits.log_kib.saturating_mul(1024)),
            table,
            wasi: None,
            place,
            in_use: None,
        };
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(usize::try_from(hostcall_bytes(limits)).unwrap_or(usize::MAX));
        store.set_max_component_handles(handles);
        if self.count_fuel {
            let fuel = if limits.fuel == 0 { u64::MAX } else { limits.fuel };
            if let Err(error) = store.set_fuel(fuel) {
                guard.watch.stop(Failure::new(Code::HostError, format!("cannot count fuel: {error:#}")));
            }
        }
        store.set_epoch_deadline(1);
        // Every tick the guest looks whether it must stop, and lets others on this thread run.
        store.epoch_deadline_callback(|mut context| {
            context.data_mut().tick()?;
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
        (store, guard)
    }

    /// Sees to it that the assets are where the jobs read them. Waiting for that is no silence of theirs.
    async fn bring_assets(&self, guest: &Guest, state: &mut State) -> wasmtime::Result<()> {
        if guest.assets.is_empty() {
            return Ok(());
        }
        state.watch.begin_work();
        let entered = self.room.enter(&guest.name, &guest.assets).await;
        state.watch.end_work();
        state.in_use = entered.map_err(|error| {
            let code = match error.kind {
                warren_tensor::ErrorKind::OutOfMemory => Code::DeviceMemory,
                _ => Code::HostError,
            };
            wasmtime::Error::new(Stop(Failure::new(code, error.to_string())))
        })?;
        Ok(())
    }

    /// Runs a batch in a fresh store and instance. `started` is handed the batch's watch before the
    /// guest runs, so that the jobs can be cancelled. Answers one result a job, in order.
    pub async fn run(
        &self,
        guest: &Guest,
        batch: Vec<Entry>,
        started: impl FnOnce(&Arc<Watch>),
    ) -> Vec<Result<Outputs, Refusal>> {
        let count = batch.len();
        let all = |failure: Failure| vec![Err(Refusal::Final(failure)); count];
        let deadline = batch.iter().filter_map(|e| e.job.deadline).max();
        let deadline = if batch.iter().all(|e| e.job.deadline.is_some()) { deadline } else { None };
        let jobs = batch
            .into_iter()
            .map(|e| RunningJob {
                values: vec![None; e.job.inputs.len()],
                job: e.job,
                sink: e.progress,
                emitted: 0,
                events: 0,
                rate: Rate::default(),
            })
            .collect();
        let budget = Budget::new(mib(guest.limits.device_mib).saturating_mul(count as u64));
        let (mut store, guard) = self.store(guest, jobs, deadline, budget);
        started(&guard.watch);
        let handles =
            (0..count).map(|i| Resource::new_own(u32::try_from(i).unwrap_or(u32::MAX))).collect::<Vec<_>>();
        let called = {
            let call = async {
                self.bring_assets(guest, store.data_mut()).await?;
                let plugin = guest.compiled.pre.instantiate_async(&mut store).await?;
                plugin.call_infer(&mut store, &handles).await
            };
            tokio::select! {
                called = call => called,
                () = guard.watch.stopped() => Err(state::stop_error(&guard.watch)),
            }
        };
        // What a cancelled batch returned, the client does not want.
        if let Some(failure) = guard.watch.cancellation() {
            return all(failure);
        }
        match called {
            Ok(entries) if entries.len() == count => entries
                .into_iter()
                .enumerate()
                .map(|(place, entry)| match entry {
                    Ok(outputs) => take_outputs(store.data_mut(), place, outputs).map_err(|error| {
                        Refusal::Final(match error.downcast_ref::<Stop>() {
                            Some(Stop(failure)) => failure.clone(),
                            None => outcome::unwound(store.data(), &error),
                        })
                    }),
                    Err(failure) => Err(outcome::refusal(store.data(), failure)),
                })
                .collect(),
            Ok(entries) => all(Failure::new(
                Code::BadResult,
                format!("infer answered {} entries for a batch of {count}", entries.len()),
            )),
            Err(error) => all(outcome::unwound(store.data(), &error)),
        }
    }
}

/// Takes what the guest returned for the job at `place`, computing tensors that it left recorded.
fn take_outputs(state: &mut State, place: usize, outputs: bindings::Outputs) -> wasmtime::Result<Outputs> {
    let limit = mib(state.limits.output_mib);
    let stop = |code, text: String| wasmtime::Error::new(Stop(Failure::new(code, text)));
    for (what, count, most) in [
        ("outputs", outputs.outputs.len(), MAX_OUTPUTS),
        ("parameters", outputs.parameters.len(), MAX_PARAMETERS),
    ] {
        if count > most {
            return Err(stop(Code::OutputLimit, format!("{count} {what}: at most {most} are allowed")));
        }
    }
    let over = |total| {
        let text = format!("outputs and partials of {total} bytes: limits.output_mib is {}", limit >> 20);
        stop(Code::OutputLimit, text)
    };
    let mut total = state.jobs.get(place).map_or(0, |j| j.emitted);
    let mut taken: Vec<Named> = Vec::with_capacity(outputs.outputs.len());
    for output in outputs.outputs {
        let named = state.take_value(&output.name, output.value, output.content_type)?;
        total = total.saturating_add(jobs::size(&named)).saturating_add(named.name.len() as u64);
        if total > limit {
            return Err(over(total));
        }
        if taken.iter().any(|t| t.name == named.name) {
            return Err(stop(Code::BadResult, format!("two outputs are called {:?}", named.name)));
        }
        taken.push(named);
    }
    let mut parameters: Vec<(String, Parameter)> = Vec::with_capacity(outputs.parameters.len());
    for (name, value) in outputs.parameters {
        if name.is_empty() || name.len() > 255 {
            let text = format!("a parameter's name has {} bytes: use 1 to 255", name.len());
            return Err(stop(Code::BadResult, text));
        }
        total = total.saturating_add(name.len() as u64);
        if let bindings::warren::plugin::types::Parameter::Text(text) = &value {
            total = total.saturating_add(text.len() as u64);
        }
        if total > limit {
            return Err(over(total));
        }
        if parameters.iter().any(|(n, _)| *n == name) {
            return Err(stop(Code::BadResult, format!("two parameters are called {name:?}")));
        }
        parameters.push((
            name,
            match value {
                bindings::warren::plugin::types::Parameter::Boolean(v) => Parameter::Bool(v),
                bindings::warren::plugin::types::Parameter::Int64(v) => Parameter::Int(v),
                bindings::warren::plugin::types::Parameter::Float64(v) => Parameter::Float(v),
                bindings::warren::plugin::types::Parameter::Text(v) => Parameter::Text(v),
            },
        ));
    }
    Ok(Outputs { outputs: taken, parameters })
}
