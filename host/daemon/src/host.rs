//! The house put together: plugins loaded, queues declared and consumed, each delivery taken
//! through wire, intake, schedule, sandbox, relay and settle; and all of it drained at the end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warren_tensor::{Engine as TensorEngine, EngineConfig};

use crate::artifacts::{Artifacts, StoreError};
use crate::broker::{Broker, BrokerError, Consumer, Delivery, Settle};
use crate::cancel::{Cancels, InHand};
use crate::config::Config;
use crate::duplicates::Duplicates;
use crate::intake;
use crate::job::{Code, Envelope, Failure, Job, Outputs};
use crate::plugin::{self, LoadError, Plugin, Plugins};
use crate::relay::{Relay, Relays};
use crate::sandbox::{Entry, Refusal, Sandbox, SandboxConfig, SandboxError, TICK};
use crate::schedule::Schedule;
use crate::settle::{End, Settler};
use crate::topology;
use crate::wire;

/// Why a host does not start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The WebAssembly engine.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The tensor engine.
    #[error("the tensor engine cannot start: {0}")]
    Tensor(#[from] warren_tensor::Error),
    /// A store of the config.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A plugin that was asked for by name.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The plugins' directory.
    #[error("cannot read the plugin directory {path}: {source}: create it or set `plugins`")]
    Plugins {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Threads.
    #[error("cannot start threads: {0}")]
    Threads(std::io::Error),
}

/// Counters of a running host.
#[derive(Debug, Default)]
pub struct Counters {
    /// Deliveries taken.
    pub taken: AtomicU64,
    /// Deliveries settled.
    pub settled: AtomicU64,
}

struct Inner {
    config: Config,
    delays: Vec<Duration>,
    broker: Arc<dyn Broker>,
    sandbox: Arc<Sandbox>,
    tensors: Arc<TensorEngine>,
    artifacts: Artifacts,
    plugins: Arc<Plugins>,
    schedule: Schedule,
    relays: Arc<Relays>,
    counters: Counters,
    stopping: CancellationToken,
    running: TaskTracker,
    consumers: TaskTracker,
    cancels: Cancels,
    duplicates: Duplicates,
}

/// A running host. Dropping it without [`Host::shutdown`] abandons its jobs, as a crash does.
pub struct Host {
    inner: Arc<Inner>,
    guests: Option<Runtime>,
}

/// Threads beside the slots, so that intake, relay and settling go on while every slot computes.
const SPARE_THREADS: usize = 2;

impl Host {
    /// Builds the host: engines, stores, threads. Nothing is consumed yet.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn new(config: Config, broker: Arc<dyn Broker>) -> Result<Self, HostError> {
        let slots = config.slot_count();
        let threads = match config.tensor_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let tensors = Arc::new(TensorEngine::new(EngineConfig { threads, ..EngineConfig::default() })?);
        let sandbox = Arc::new(Sandbox::new(
            &SandboxConfig {
                slots,
                memory_mib: config.limits.memory_mib,
                scratch: config.scratch.clone(),
                pagemap_scan: config.pagemap_scan,
            },
            Arc::clone(&tensors),
        )?);
        let guests = Builder::new_multi_thread()
            .worker_threads(slots + SPARE_THREADS)
            .thread_name("warren-guest")
            .enable_all()
            .build()
            .map_err(HostError::Threads)?;
        let plugins = Arc::new(Plugins::default());
        let interval = Duration::from_millis(config.status_interval_ms);
        Ok(Self {
            inner: Arc::new(Inner {
                delays: config.retry_delays_ms.iter().map(|ms| Duration::from_millis(*ms)).collect(),
                sandbox,
                tensors,
                artifacts: Artifacts::open(&config.artifacts)?,
                schedule: Schedule::new(slots, Arc::clone(&plugins)),
                plugins,
                relays: Relays::new(Arc::clone(&broker), config.responses_queue.clone(), interval),
                counters: Counters::default(),
                stopping: CancellationToken::new(),
                running: TaskTracker::new(),
                consumers: TaskTracker::new(),
                cancels: Cancels::default(),
                duplicates: Duplicates::new(Duration::from_millis(config.duplicate_window_ms)),
                broker,
                config,
            }),
            guests: Some(guests),
        })
    }

    /// Loads one plugin's folder; it serves from the next [`Host::serve`] on.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn load(&self, folder: &Path) -> Result<Arc<Plugin>, LoadError> {
        let plugin = plugin::load(folder, &self.inner.sandbox, &self.inner.config.limits).await?;
        let plugin = Arc::new(plugin);
        self.inner.plugins.add(Arc::clone(&plugin))?;
        tracing::info!(plugin = %plugin.identity.plugin, digest = %plugin.identity.digest,
            models = ?plugin.manifest.models, assets = plugin.guest.assets().len(), "plugin loaded");
        Ok(plugin)
    }

    /// Loads every folder of the plugin directory that holds a manifest. One that cannot be loaded
    /// is reported and left out.
    ///
    /// # Errors
    /// [`HostError::Plugins`] when the directory cannot be read.
    pub async fn load_all(&self) -> Result<Vec<(PathBuf, Result<Arc<Plugin>, LoadError>)>, HostError> {
        let path = &self.inner.config.plugins;
        let fail = |source| HostError::Plugins { path: path.clone(), source };
        let mut folders = Vec::new();
        for entry in std::fs::read_dir(path).map_err(fail)? {
            let folder = entry.map_err(fail)?.path();
            if folder.join(plugin::manifest::FILE_NAME).is_file() {
                folders.push(folder);
            }
        }
        folders.sort();
        let mut loaded = Vec::with_capacity(folders.len());
        for folder in folders {
            let result = self.load(&folder).await;
            if let Err(error) = &result {
                tracing::error!(folder = %folder.display(), %error, "plugin not loaded");
            }
            loaded.push((folder, result));
        }
        Ok(loaded)
    }

    /// Declares the topology and consumes the queues of every loaded model.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn serve(&self) -> Result<(), BrokerError> {
        let broker = self.inner.broker.as_ref();
        let prefetch = self.inner.config.prefetch_count();
        topology::declare(broker, &self.inner.config).await?;
        let undone = broker.consume(topology::UNDONE, prefetch).await?;
        self.spawn_consumer(undone, Kind::Undone);
        let control = topology::declare_control(broker).await?;
        self.spawn_consumer(broker.consume(&control, prefetch).await?, Kind::Control);
        for model in self.inner.plugins.models() {
            for queue in topology::declare_model(broker, &model).await? {
                let consumer = broker.consume(&queue, prefetch).await?;
                self.spawn_consumer(consumer, Kind::Jobs);
            }
        }
        let (relays, stopping) = (Arc::downgrade(&self.inner.relays), self.inner.stopping.clone());
        self.spawn(async move {
            let mut ticks = tokio::time::interval(TICK);
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = stopping.cancelled() => return,
                }
                let Some(relays) = relays.upgrade() else { return };
                relays.flush();
            }
        });
        Ok(())
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.guests {
            runtime.spawn(task);
        }
    }

    fn spawn_consumer(&self, consumer: Consumer, kind: Kind) {
        let inner = Arc::clone(&self.inner);
        self.spawn(self.inner.consumers.track_future(async move {
            // Taken apart in here: the closure must own the subscription, not only what it reads.
            let Consumer { mut deliveries, subscription } = consumer;
            loop {
                let delivery = tokio::select! {
                    biased;
                    () = inner.stopping.cancelled() => break,
                    delivery = deliveries.recv() => delivery,
                };
                let Some(delivery) = delivery else { break };
                inner.counters.taken.fetch_add(1, Ordering::Relaxed);
                let host = Arc::clone(&inner);
                inner.running.spawn(async move {
                    match kind {
                        Kind::Jobs => host.job(delivery).await,
                        Kind::Undone => host.undone(delivery).await,
                        Kind::Control => host.control(&delivery),
                    }
                    host.counters.settled.fetch_add(1, Ordering::Relaxed);
                });
            }
            // What was delivered and not begun goes back unprocessed. The subscription lives until
            // every job of it is settled: dropping it would count them as failed.
            deliveries.close();
            while let Some(delivery) = deliveries.recv().await {
                inner.broker.settle(delivery.tag, Settle::Nack);
            }
            inner.running.wait().await;
            drop(subscription);
        }));
    }

    /// The plugins in service.
    pub fn plugins(&self) -> &Plugins {
        &self.inner.plugins
    }

    /// The tensor engine.
    pub fn tensors(&self) -> &TensorEngine {
        &self.inner.tensors
    }

    /// The sandbox.
    pub fn sandbox(&self) -> &Arc<Sandbox> {
        &self.inner.sandbox
    }

    /// What has been taken and settled.
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Stops intake, gives back what has not begun, lets running jobs finish within the config's
    /// drain time, and ends the threads. True when every job had finished.
    pub async fn shutdown(mut self) -> bool {
        self.inner.stopping.cancel();
        self.inner.running.close();
        self.inner.consumers.close();
        // Each consumer waits for what runs, after its own last delivery.
        let drained =
            tokio::time::timeout(self.inner.config.drain(), self.inner.consumers.wait()).await.is_ok();
        if let Some(runtime) = self.guests.take() {
            runtime.shutdown_background();
        }
        drained
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.inner.stopping.cancel();
        if let Some(runtime) = self.guests.take() {
            runtime.shutdown_background();
        }
    }
}

/// What a queue holds.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Jobs,
    Undone,
    Control,
}

/// Why an attempt has no outputs.
enum Unfinished {
    /// It failed, or was refused.
    Refused(Refusal),
    /// The host is shutting down, and the attempt had no slot yet.
    NotBegun,
}

impl From<Failure> for Unfinished {
    fn from(failure: Failure) -> Self {
        Self::Refused(Refusal::Final(failure))
    }
}

impl From<Refusal> for Unfinished {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Inner {
    fn settler(&self, attempts: u32) -> Settler<'_> {
        Settler { broker: self.broker.as_ref(), delays: &self.delays, attempts }
    }

    /// Takes one delivery all the way, unless its channel dies: then the broker has the job back,
    /// and what would still be done here is dropped, guest and unsent events with it.
    async fn job(&self, delivery: Delivery) {
        let lost = self.broker.lost(delivery.tag);
        let queue = Arc::clone(&delivery.queue);
        tokio::select! {
            biased;
            () = lost.cancelled() => tracing::warn!(%queue, "the channel died: dropped a job that the broker has back"),
            () = self.attempt(delivery) => {}
        }
    }

    async fn attempt(&self, delivery: Delivery) {
        let job = match wire::decode(&delivery, SystemTime::now()) {
            Ok(job) => job,
            Err(rejected) => return self.fail(&delivery, rejected.envelope, rejected.failure).await,
        };
        if let Some(id) = &delivery.message.properties.message_id
            && self.duplicates.is_duplicate(&wire::sender_key(&delivery, id), job.envelope.attempt)
        {
            tracing::info!(job = %job.envelope.id, message = %id, "dropped a message that was published twice");
            return self.broker.settle(delivery.tag, Settle::Ack);
        }
        let relay = self.relays.open(job.envelope.clone(), job.binary);
        let plugin = match self.schedule.choose(&job) {
            Ok(plugin) => plugin,
            Err(failure) => return self.fail(&delivery, job.envelope, failure).await,
        };
        relay.identify(plugin.identity.clone());
        let settler = self.settler(plugin.manifest.retry.attempts);
        // Kept for settling: the job itself goes into the sandbox with its inputs.
        let shell = Job { inputs: Vec::new(), parameters: Vec::new(), ..job.clone() };
        let entered = self.cancels.enter(&shell.envelope.id);
        let end = match self.run(job, &plugin, &relay, &entered.job).await {
            Ok(outputs) => End::Done(outputs),
            Err(Unfinished::Refused(Refusal::Final(failure))) => End::Failed(failure),
            Err(Unfinished::Refused(Refusal::Retry(text))) => End::Retry(text),
            Err(Unfinished::NotBegun) => return settler.give_back(&delivery, &relay),
        };
        settler.end(&delivery, &shell, &relay, end).await;
    }

    async fn run(
        &self,
        job: Job,
        plugin: &Plugin,
        relay: &Arc<Relay>,
        in_hand: &InHand,
    ) -> Result<Outputs, Unfinished> {
        let (id, attempt) = (job.envelope.id.clone(), job.envelope.attempt);
        let requested = job.requested.clone();
        intake::check(&plugin.manifest, &job)?;
        intake::check_deadline(&job)?;
        let job = intake::resolve(job, &self.artifacts, relay).await?;
        let mut outputs = {
            let _slot = tokio::select! {
                biased;
                () = self.stopping.cancelled() => return Err(Unfinished::NotBegun),
                failure = in_hand.cancelled() => return Err(failure.into()),
                slot = self.schedule.slot() => slot?,
            };
            intake::check_deadline(&job)?;
            let sink = Arc::clone(relay);
            let entry =
                Entry { job: Arc::new(job), progress: Arc::new(move |progress| sink.progress(progress)) };
            let mut results = self.sandbox.run(&plugin.guest, vec![entry], |watch| in_hand.runs(watch)).await;
            results.pop().unwrap_or_else(|| {
                Err(Refusal::Final(Failure::new(Code::HostError, "the sandbox answered nothing")))
            })?
        };
        intake::select(&plugin.manifest, &requested, &mut outputs)?;
        if self.artifacts.stores(&plugin.manifest, &outputs) {
            let (artifacts, manifest) = (self.artifacts.clone(), plugin.manifest.clone());
            let stored = tokio::task::spawn_blocking(move || {
                artifacts.store(&manifest, &id, attempt, &mut outputs).map(|()| outputs)
            });
            outputs = stored
                .await
                .map_err(|error| Failure::new(Code::HostError, format!("storing artifacts: {error}")))??;
        }
        Ok(outputs)
    }

    /// Ends a job that never reached a plugin.
    async fn fail(&self, delivery: &Delivery, envelope: Envelope, failure: Failure) {
        let relay = self.relays.open(envelope.clone(), false);
        let job = Job {
            envelope,
            parameters: Vec::new(),
            inputs: Vec::new(),
            requested: Vec::new(),
            binary: false,
            deadline: None,
        };
        self.settler(1).end(delivery, &job, &relay, End::Failed(failure)).await;
    }

    /// A cancellation, or something of a later version.
    fn control(&self, delivery: &Delivery) {
        let properties = &delivery.message.properties;
        match (properties.kind.as_deref(), properties.correlation_id.as_deref()) {
            (Some("cancel"), Some(id)) => self.cancels.cancel(id),
            (kind, id) => tracing::warn!(
                ?kind,
                ?id,
                "ignored a control message: use type \"cancel\" and correlation_id"
            ),
        }
        self.broker.settle(delivery.tag, Settle::Ack);
    }

    /// Tells the client of a job that left its queue undone.
    async fn undone(&self, delivery: Delivery) {
        let failure = wire::undone_failure(&delivery);
        match wire::undone(&delivery, topology::DELIVERY_LIMIT) {
            Ok(envelope) => self.fail(&delivery, envelope, failure).await,
            Err(rejected) => self.fail(&delivery, rejected.envelope, rejected.failure).await,
        }
    }
}
