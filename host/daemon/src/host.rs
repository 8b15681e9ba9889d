//! The house put together: plugins loaded, queues declared and consumed, each delivery taken
//! through wire, intake, schedule, sandbox, relay and settle; and all of it drained at the end.

mod consume;
mod deploy;
mod sources;

pub use deploy::{DeployError, Deployer, Loaded};

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use deploy::Deploy;
use sources::Followed;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warren_tensor::{DeviceChoice, Engine as TensorEngine, EngineConfig};

use crate::artifacts::{Artifacts, StoreError};
use crate::broker::{Broker, BrokerError, Delivery, Loss, Settle};
use crate::cancel::{Cancels, InHand};
use crate::config::{Config, mib};
use crate::duplicates::Duplicates;
use crate::intake;
use crate::job::{Code, Envelope, Failure, Job, Outputs};
use crate::losses::{self, Losses};
use crate::oci::{OciError, Sources};
use crate::plugin::{LoadError, Plugin, Plugins, Share};
use crate::relay::{Relay, Relays};
use crate::sandbox::{CompilerConfig, Entry, Refusal, Sandbox, SandboxConfig, SandboxError, TICK};
use crate::schedule::{Pace, Schedule};
use crate::settle::{End, Settler};
use crate::topology;
use crate::wire::{self, Suspicion};

/// Why a host does not start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The WebAssembly engine.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The tensor engine.
    #[error("the tensor engine cannot start: {0}")]
    Tensor(#[from] warren_tensor::Error),
    /// The device of the config.
    #[error("config: device: {0}")]
    Device(#[from] warren_tensor::UnknownDevice),
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
    /// Where plugins are pulled from.
    #[error(transparent)]
    Sources(#[from] OciError),
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
    /// Set when jobs that have not ended are to be dropped where they are.
    abandoned: CancellationToken,
    consumers: TaskTracker,
    cancels: Cancels,
    duplicates: Duplicates,
    losses: Losses,
    deploy: Deploy,
    oci: Sources,
    sources: Followed,
    /// Where everything between the broker and the guests runs.
    threads: Handle,
    /// What this host is called, and which of all runs of that name it is.
    name: String,
    run: String,
}

/// A running host. Dropping it without [`Host::shutdown`] abandons its jobs, as a crash does.
pub struct Host {
    inner: Arc<Inner>,
    guests: Option<Runtime>,
}

/// Threads beside the slots, so that intake, relay and settling go on while every slot computes.
const SPARE_THREADS: usize = 1;

/// How long jobs that are dropped at the host's end may take to go.
const LAST: Duration = Duration::from_secs(1);

/// The tensor engine that the config asks for.
///
/// # Errors
/// The device that it asks for is not there or computes wrongly: the text names what was found.
pub fn tensor_engine(config: &Config) -> Result<TensorEngine, HostError> {
    let device = config.device.parse::<DeviceChoice>()?;
    Ok(TensorEngine::new(EngineConfig {
        threads: config.tensor_threads,
        device,
        device_bytes: mib(config.device_memory_mib),
        device_pool_bytes: mib(config.device_memory_mib) / 4,
        spill: config.scratch.clone(),
        device_deadline: Duration::from_millis(config.device_silence_ms),
        ..EngineConfig::default()
    })?)
}

/// Tells the plugins how the config shares their jobs out.
fn share_out(plugins: &Plugins, config: &Config) {
    for (name, versions) in &config.versions {
        plugins.share(
            name,
            match &versions.pin {
                Some(version) => Share::Pinned(version.clone()),
                None if versions.weights.is_empty() => Share::Newest,
                None => Share::Weighted(versions.weights.clone()),
            },
        );
    }
}

impl Host {
    /// Builds the host: engines, stores, threads. Nothing is consumed yet.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn new(config: Config, broker: Arc<dyn Broker>) -> Result<Self, HostError> {
        let slots = config.slot_count();
        let tensors = Arc::new(tensor_engine(&config)?);
        if let Some(device) = tensors.devices().iter().find(|d| d.chosen) {
            tracing::info!(device = %device.name, driver = %device.driver, why = %device.why, "tensors");
        }
        let sandbox = Sandbox::new(
            &SandboxConfig {
                slots,
                memory_mib: config.limits.memory_mib,
                scratch: config.scratch.clone(),
                pagemap_scan: config.pagemap_scan,
                stack_kib: config.stack_kib,
                count_fuel: config.count_fuel,
                pooled: true,
            },
            Arc::clone(&tensors),
        )?;
        let sandbox = Arc::new(sandbox.compiling(CompilerConfig {
            program: config.compiler.clone(),
            memory_mib: config.compile_memory_mib,
            seconds: config.compile_seconds,
            cache: config.cache.clone().filter(|path| !path.as_os_str().is_empty()),
            cache_mib: config.cache_mib,
        }));
        let guests = Builder::new_multi_thread()
            .worker_threads(slots + SPARE_THREADS)
            .thread_name("warren-guest")
            .enable_all()
            .build()
            .map_err(HostError::Threads)?;
        let plugins = Arc::new(Plugins::default());
        share_out(&plugins, &config);
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
                abandoned: CancellationToken::new(),
                consumers: TaskTracker::new(),
                cancels: Cancels::default(),
                duplicates: Duplicates::new(Duration::from_millis(config.duplicate_window_ms)),
                losses: Losses::default(),
                deploy: Deploy::default(),
                oci: Sources::new(&config.registry)?,
                sources: Followed::default(),
                threads: guests.handle().clone(),
                name: config.host_name(),
                run: uuid::Uuid::new_v4().to_string(),
                broker,
                config,
            }),
            guests: Some(guests),
        })
    }

    /// Loads one plugin's folder, wherever it is; it serves at once.
    ///
    /// # Errors
    /// [`LoadError`]: nothing has changed then.
    pub async fn load(&self, folder: &Path) -> Result<Arc<Plugin>, LoadError> {
        self.inner.load_folder(folder).await
    }

    /// Loads every folder of the plugin directory that holds a manifest, and what the config names by
    /// digest as far as the store has it; the rest of that is being pulled when this returns. One that
    /// cannot be loaded is reported and left out.
    ///
    /// # Errors
    /// [`HostError::Plugins`] when the directory cannot be read.
    pub async fn load_all(&self) -> Result<Vec<Loaded>, HostError> {
        let fail = |source| HostError::Plugins { path: self.inner.config.plugins.clone(), source };
        let mut loaded = self.inner.scan(true).await.map_err(fail)?.0;
        loaded.extend(self.inner.follow_sources(&self.inner.config.plugins_from).await);
        Ok(loaded)
    }

    /// What changes while the host serves: for whoever operates it.
    pub fn deployer(&self) -> Deployer {
        Deployer::new(&self.inner)
    }

    /// Declares the topology and consumes the queues of every loaded model; of those loaded later, too.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn serve(&self) -> Result<(), BrokerError> {
        for source in consume::common(&self.inner).await? {
            let (inner, consumer) = (Arc::clone(&self.inner), source.open(&self.inner).await?);
            self.spawn(self.inner.consumers.track_future(consume::consume(inner, source, consumer)));
        }
        self.inner.consume_models().await?;
        self.spawn(consume::tell_losses(Arc::downgrade(&self.inner)));
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

    /// The plugins in service.
    pub fn plugins(&self) -> &Arc<Plugins> {
        &self.inner.plugins
    }

    /// The threads that run guests and everything between the broker and them.
    pub fn threads(&self) -> Option<&Handle> {
        self.guests.as_ref().map(Runtime::handle)
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
        self.inner.consumers.close();
        // Each consumer waits for what runs, after its own last delivery.
        let drained =
            tokio::time::timeout(self.inner.config.drain(), self.inner.consumers.wait()).await.is_ok();
        if !drained {
            // Guests go before their threads do: in one that waits for a file, the end of the runtime that
            // reads it would be a panic.
            self.inner.abandoned.cancel();
            drop(tokio::time::timeout(LAST, self.inner.consumers.wait()).await);
        }
        consume::tell(&self.inner, self.inner.losses.take_unsaid()).await;
        if let Some(runtime) = self.guests.take() {
            runtime.shutdown_background();
        }
        drained
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.inner.stopping.cancel();
        self.inner.abandoned.cancel();
        if let Some(runtime) = self.guests.take() {
            runtime.shutdown_background();
        }
    }
}

/// How a delivery is to be treated, by the queue that it comes from.
#[derive(Debug, Clone)]
enum Kind {
    /// A job; with what those of its model take.
    Job(Arc<Pace>),
    /// A job that must run alone.
    Isolated(Arc<Pace>),
    /// A job that left its queue undone.
    Undone,
    /// A job without a queue.
    Unserved,
    /// What clients ask of every host, and hosts tell each other.
    Control,
}

/// A job under way.
struct Way<'a> {
    /// By what its losses are known.
    key: &'a str,
    /// It runs while nothing else does.
    alone: bool,
    pace: &'a Pace,
    /// It has had a slot.
    began: AtomicBool,
    /// As what its message is remembered, and which attempt at it.
    remembered: OnceLock<(String, u32)>,
    /// It has waited for a host that owns up to its loss.
    suspicion: Option<Suspicion>,
    /// It begins to: what is known of its losses is still needed.
    waits: AtomicBool,
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
        Settler { broker: self.broker.as_ref(), host: &self.name, delays: &self.delays, attempts }
    }

    async fn take(&self, kind: &Kind, delivery: Delivery) {
        match kind {
            Kind::Job(pace) => self.job(delivery, pace, false).await,
            Kind::Isolated(pace) => self.job(delivery, pace, true).await,
            Kind::Undone => self.undone(&delivery).await,
            Kind::Unserved => self.unserved(&delivery).await,
            Kind::Control => self.control(&delivery),
        }
    }

    /// Takes one job all the way, unless its channel dies: then the broker has it back, and what
    /// would still be done here is dropped, guest and unsent events with it.
    async fn job(&self, mut delivery: Delivery, pace: &Pace, alone: bool) {
        let lost = self.broker.lost(delivery.tag);
        let suspicion = wire::take_suspicion(&mut delivery);
        let key = losses::key(&delivery.queue, &wire::job_key(&delivery));
        let way = Way {
            key: &key,
            alone,
            pace,
            began: AtomicBool::new(false),
            remembered: OnceLock::new(),
            suspicion,
            waits: AtomicBool::new(false),
        };
        let loss = tokio::select! {
            biased;
            loss = lost.wait() => loss,
            () = self.abandoned.cancelled() => return,
            () = self.whole(&delivery, &way) => return,
        };
        let timed_out = loss == Loss::Timeout && way.began.load(Ordering::Relaxed);
        if let Some((message, attempt)) = way.remembered.get() {
            self.duplicates.forget(message, *attempt);
        }
        tracing::warn!(queue = %delivery.queue, ?loss, "the channel died: dropped a job that the broker has back");
        self.losses.lost(key, timed_out);
    }

    /// From a delivery to its settling.
    async fn whole(&self, delivery: &Delivery, way: &Way<'_>) {
        let how = match (&way.suspicion, delivery.delivery_count) {
            (Some(suspicion), _) => self.suspected(delivery, suspicion).await,
            (None, 0) => self.attempt(delivery, way).await,
            (None, _) => self.redelivered(delivery, way).await,
        };
        if how == Settle::Ack && way.waits.load(Ordering::Relaxed) {
            return self.broker.settle(delivery.tag, how);
        }
        self.settle(delivery, way.key, how);
    }

    /// Settles a job's delivery. One that goes back counts as lost, which was no death of this host.
    fn settle(&self, delivery: &Delivery, key: &str, how: Settle) {
        match how {
            Settle::Ack if delivery.delivery_count > 0 => self.losses.forget(key),
            Settle::Ack => {}
            Settle::Nack | Settle::Reject => self.losses.lost(key.to_owned(), false),
        }
        self.broker.settle(delivery.tag, how);
    }

    /// A job that was handed to a host before, which did not answer. If nobody says that he lost it
    /// and lives, it may have killed that host: then it runs alone, where the next death has no other
    /// cause; and after that not at all.
    async fn redelivered(&self, delivery: &Delivery, way: &Way<'_>) -> Settle {
        // It can have harmed nobody, and would not be the same after a move: some headers cannot be kept.
        let envelope = match wire::unread(delivery) {
            Ok(envelope) => envelope,
            Err(rejected) => return self.fail(delivery, rejected.envelope, rejected.failure).await,
        };
        let count = delivery.delivery_count;
        let known = self.losses.known(way.key);
        if known.timed_out {
            self.fail(delivery, envelope, timed_out()).await
        } else if known.times >= count && count < RENEWED {
            self.attempt(delivery, way).await
        } else if known.times >= count {
            self.settler(1).renew(delivery, way.alone).await
        } else if way.alone {
            tracing::warn!(queue = %delivery.queue, count, "the host that ran this job alone may have died of it: it waits for news of that host");
            way.waits.store(true, Ordering::Relaxed);
            self.settler(1).suspect(delivery, way.key, self.grace()).await
        } else {
            tracing::warn!(queue = %delivery.queue, count, "the host that had this job may have died of it: it will run alone");
            self.settler(1).isolate(delivery).await
        }
    }

    /// A job that was lost while it ran alone, and has waited since. If a host that lives has said that
    /// it lost it, it runs alone again; if not it has no more hosts to kill.
    async fn suspected(&self, delivery: &Delivery, suspicion: &Suspicion) -> Settle {
        let envelope = match wire::unread(delivery) {
            Ok(envelope) => envelope,
            Err(rejected) => return self.fail(delivery, rejected.envelope, rejected.failure).await,
        };
        // What is left of it where no tier waits as long.
        let left = self.grace().saturating_sub(suspicion.since.elapsed().unwrap_or_default());
        let known = self.losses.account(&suspicion.key, suspicion.times, left).await;
        let failure = if known.timed_out {
            timed_out()
        } else if known.times >= suspicion.times {
            return self.settler(1).renew(delivery, true).await;
        } else {
            Failure::new(Code::HostCrash, "its host died while it ran this job and nothing else")
        };
        self.losses.forget(&suspicion.key);
        self.fail(delivery, envelope, failure).await
    }

    fn grace(&self) -> Duration {
        Duration::from_millis(self.config.crash_grace_ms)
    }

    async fn attempt(&self, delivery: &Delivery, way: &Way<'_>) -> Settle {
        let job = match wire::decode(delivery, SystemTime::now()) {
            Ok(job) => job,
            Err(rejected) => return self.fail(delivery, rejected.envelope, rejected.failure).await,
        };
        if let Some(id) = &delivery.message.properties.message_id {
            let (message, attempt) = (wire::sender_key(delivery, id), job.envelope.attempt);
            if self.duplicates.is_duplicate(&message, attempt) {
                tracing::info!(job = %job.envelope.id, message = %id, "dropped a message that was published twice");
                return Settle::Ack;
            }
            way.remembered.get_or_init(|| (message, attempt));
        }
        let relay = self.relays.open(job.envelope.clone(), job.binary);
        let plugin = match self.schedule.choose(&job.envelope) {
            Ok(plugin) => plugin,
            Err(failure) => return self.fail(delivery, job.envelope, failure).await,
        };
        relay.identify(plugin.identity.clone());
        let settler = self.settler(plugin.manifest.retry.attempts);
        // Kept for settling: the job itself goes into the sandbox with its inputs.
        let shell = Job { inputs: Vec::new(), parameters: Vec::new(), ..job.clone() };
        let entered = self.cancels.enter(&shell.envelope.id);
        let end = match self.run(job, &plugin, &relay, &entered.job, way).await {
            Ok(outputs) => End::Done(outputs),
            Err(Unfinished::Refused(Refusal::Final(failure))) => End::Failed(failure),
            Err(Unfinished::Refused(Refusal::Retry(text))) => End::Retry(text),
            // Sequence numbers that were used must not be used again: then the attempt counts.
            Err(Unfinished::NotBegun) if relay.has_spoken() => return Settle::Reject,
            Err(Unfinished::NotBegun) => return Settle::Nack,
        };
        way.pace.body(delivery.message.body.len());
        self.judge(
            &plugin,
            match &end {
                End::Failed(failure) => Some(failure),
                End::Done(_) | End::Retry(_) => None,
            },
        );
        settler.end(delivery, &shell, &relay, end).await
    }

    async fn run(
        &self,
        job: Job,
        plugin: &Plugin,
        relay: &Arc<Relay>,
        in_hand: &InHand,
        way: &Way<'_>,
    ) -> Result<Outputs, Unfinished> {
        let (id, attempt) = (job.envelope.id.clone(), job.envelope.attempt);
        let requested = job.requested.clone();
        intake::check(&plugin.manifest, &job)?;
        intake::check_deadline(&job)?;
        let deadline = job.deadline;
        let job = if intake::is_whole(&job) {
            job
        } else {
            // A store may be slow: one that is not waited for any more goes on by itself.
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return Err(Unfinished::NotBegun),
                failure = in_hand.cancelled() => return Err(failure.into()),
                failure = intake::expires(deadline) => return Err(failure.into()),
                job = intake::resolve(job, &self.artifacts, relay) => job?,
            }
        };
        let mut outputs = {
            let _slot = tokio::select! {
                biased;
                () = self.stopping.cancelled() => return Err(Unfinished::NotBegun),
                failure = in_hand.cancelled() => return Err(failure.into()),
                failure = intake::expires(deadline) => return Err(failure.into()),
                slot = self.schedule.slot(way.alone) => slot?,
            };
            way.began.store(true, Ordering::Relaxed);
            intake::check_deadline(&job)?;
            let sink = Arc::clone(relay);
            let entry =
                Entry { job: Arc::new(job), progress: Arc::new(move |progress| sink.progress(progress)) };
            let began = Instant::now();
            let mut results = self.sandbox.run(&plugin.guest, vec![entry], |watch| in_hand.runs(watch)).await;
            way.pace.ran(began.elapsed());
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
    async fn fail(&self, delivery: &Delivery, envelope: Envelope, failure: Failure) -> Settle {
        let relay = self.relays.open(envelope.clone(), false);
        let job = Job {
            envelope,
            parameters: Vec::new(),
            inputs: Vec::new(),
            requested: Vec::new(),
            binary: false,
            deadline: None,
        };
        self.settler(1).end(delivery, &job, &relay, End::Failed(failure)).await
    }

    /// A cancellation, another host's news, or something of a later version.
    fn control(&self, delivery: &Delivery) {
        let properties = &delivery.message.properties;
        match (properties.kind.as_deref(), properties.correlation_id.as_deref()) {
            (Some("cancel"), Some(id)) => self.cancels.cancel(id),
            (Some("lost"), _) => match wire::losses(delivery, &self.run) {
                Ok(all) => self.losses.heard(&all),
                Err(error) => {
                    tracing::warn!(error, "ignored a message of lost deliveries that makes no sense")
                }
            },
            (kind, id) => tracing::warn!(
                ?kind,
                ?id,
                "ignored a control message: use type \"cancel\" and correlation_id"
            ),
        }
        self.broker.settle(delivery.tag, Settle::Ack);
    }

    /// Tells the client of a job that left its queue undone.
    async fn undone(&self, delivery: &Delivery) {
        let failure = wire::undone_failure(delivery);
        let how = match wire::undone(delivery, topology::DELIVERY_LIMIT) {
            Ok(envelope) => self.fail(delivery, envelope, failure).await,
            Err(rejected) => self.fail(delivery, rejected.envelope, rejected.failure).await,
        };
        self.broker.settle(delivery.tag, how);
    }

    /// Tells the client that nobody serves the model, unless this host does by now.
    async fn unserved(&self, delivery: &Delivery) {
        let how = match wire::decode(delivery, SystemTime::now()) {
            Err(rejected) => self.fail(delivery, rejected.envelope, rejected.failure).await,
            Ok(job) => match self.schedule.choose(&job.envelope) {
                Err(failure) => self.fail(delivery, job.envelope, failure).await,
                Ok(_) => {
                    // Its queue may just be coming: not round and round meanwhile.
                    tokio::time::sleep(PAUSE).await;
                    self.settler(1).again(delivery).await
                }
            },
        };
        self.broker.settle(delivery.tag, how);
    }
}

fn timed_out() -> Failure {
    Failure::new(
        Code::DeliveryTimeout,
        "the broker waited too long for this job to end and took it back: see its consumer_timeout",
    )
}

/// Deliveries after which a job is published again if no host has died of it: fewer than any limit that
/// an operator may set by policy, or connections that break would use it up.
const RENEWED: u32 = 3;

/// Before a job is sent to a queue that may just be coming.
const PAUSE: Duration = Duration::from_millis(250);
