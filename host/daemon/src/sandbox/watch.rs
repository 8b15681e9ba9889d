//! The three clocks of a running batch: CPU (epochs, which let the guest be interrupted at all),
//! wall time, and silence. One ticker thread serves all batches of the host.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

use crate::job::{Code, Failure};

/// How often epochs advance and the clocks are read.
pub const TICK: Duration = Duration::from_millis(10);

/// What a batch may take.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    /// Wall time of the call.
    pub wall: Duration,
    /// Longest time without a status or tensor work.
    pub stall: Duration,
    /// When the jobs are worth nothing any more.
    pub deadline: Option<SystemTime>,
}

/// One running batch, as the ticker sees it.
#[derive(Debug)]
pub struct Watch {
    started: Instant,
    clocks: Clocks,
    stop: Mutex<Option<Failure>>,
    /// Set as soon as the batch must stop; the tensor engine looks at it between steps.
    pub cancel: Arc<AtomicBool>,
    wake: Notify,
    now: Arc<AtomicU64>,
    active: AtomicU64,
    busy: AtomicU32,
    /// Cancelled by the client; the guest is told, and has [`GRACE`] to return.
    cancelled: Mutex<Option<(Failure, Instant)>>,
    wind_down: AtomicBool,
}

/// How long a cancelled guest may take to return by itself.
const GRACE: Duration = Duration::from_millis(50);

impl Watch {
    /// The client no longer wants the jobs: the guest is told at its next call, and stopped when it
    /// has not returned soon after.
    pub fn cancel(&self, failure: Failure) {
        let mut cancelled = self.cancelled.lock().unwrap_or_else(PoisonError::into_inner);
        cancelled.get_or_insert((failure, Instant::now()));
        self.wind_down.store(true, Ordering::Release);
    }

    /// Whether the guest shall return soon.
    pub fn winds_down(&self) -> bool {
        self.wind_down.load(Ordering::Acquire) || self.is_stopped()
    }

    /// The client's cancellation, if there was one.
    pub fn cancellation(&self) -> Option<Failure> {
        self.cancelled.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(f, _)| f.clone())
    }

    /// What the ticker's clock shows, ms.
    pub fn now_ms(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Notes that the guest did something that shows progress.
    pub fn active(&self) {
        self.active.store(self.now.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Tensor work begins: silence does not count while it runs.
    pub fn begin_work(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
    }

    /// Tensor work ends.
    pub fn end_work(&self) {
        self.busy.fetch_sub(1, Ordering::Relaxed);
        self.active();
    }

    /// Stops the batch; the first reason stays.
    pub fn stop(&self, failure: Failure) {
        let mut stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        if stop.is_none() {
            *stop = Some(failure);
            self.cancel.store(true, Ordering::Release);
            self.wake.notify_one();
        }
    }

    /// Whether the batch must stop.
    pub fn is_stopped(&self) -> bool {
        self.cancel.load(Ordering::Acquire)
    }

    /// Why the batch was stopped.
    pub fn reason(&self) -> Option<Failure> {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the batch is stopped.
    pub async fn stopped(&self) {
        while !self.is_stopped() {
            self.wake.notified().await;
        }
    }

    /// Milliseconds until the deadline of the jobs.
    pub fn deadline_left(&self) -> Option<u64> {
        self.clocks.deadline.map(|d| u64::try_from(crate::job::time_left(d).as_millis()).unwrap_or(u64::MAX))
    }

    fn tick(&self, now: Instant) {
        let ran = now.saturating_duration_since(self.started);
        let overdue = if self.wind_down.load(Ordering::Acquire) {
            let cancelled = self.cancelled.lock().unwrap_or_else(PoisonError::into_inner);
            cancelled
                .as_ref()
                .filter(|(_, at)| now.saturating_duration_since(*at) >= GRACE)
                .map(|(f, _)| f.clone())
        } else {
            None
        };
        if let Some(failure) = overdue {
            self.stop(failure);
        } else if ran >= self.clocks.wall {
            self.stop(Failure::new(
                Code::TimeLimit,
                format!(
                    "stopped after {} ms: limits.wall_ms is {}",
                    ran.as_millis(),
                    self.clocks.wall.as_millis()
                ),
            ));
        } else if self.clocks.deadline.is_some_and(|d| SystemTime::now() >= d) {
            self.stop(Failure::new(Code::Expired, "the job's deadline passed while it ran"));
        } else if self.busy.load(Ordering::Relaxed) == 0 {
            let now_ms = self.now.load(Ordering::Relaxed);
            let silent = Duration::from_millis(now_ms.saturating_sub(self.active.load(Ordering::Relaxed)));
            if silent >= self.clocks.stall {
                self.stop(Failure::new(
                    Code::Stalled,
                    format!(
                        "no status and no tensor work for {} ms: limits.stall_ms is {}",
                        silent.as_millis(),
                        self.clocks.stall.as_millis()
                    ),
                ));
            }
        }
    }
}

#[derive(Debug, Default)]
struct Running {
    next: u64,
    watches: HashMap<u64, Arc<Watch>>,
}

/// The ticker thread; it ends when this is dropped.
#[derive(Debug)]
pub struct Ticker {
    running: Arc<Mutex<Running>>,
    now: Arc<AtomicU64>,
}

/// Keeps a batch under watch until dropped.
#[derive(Debug)]
pub struct Guard {
    /// The batch.
    pub watch: Arc<Watch>,
    id: u64,
    running: Arc<Mutex<Running>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).watches.remove(&self.id);
    }
}

impl Ticker {
    /// Starts the thread; `every_tick` is called on it (it advances the engine's epoch).
    pub fn start(every_tick: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let running = Arc::new(Mutex::new(Running::default()));
        let now = Arc::new(AtomicU64::new(0));
        let (weak, clock): (Weak<Mutex<Running>>, _) = (Arc::downgrade(&running), Arc::clone(&now));
        std::thread::Builder::new().name("warren-ticker".into()).spawn(move || {
            let start = Instant::now();
            loop {
                std::thread::sleep(TICK);
                let Some(running) = weak.upgrade() else { return };
                let instant = Instant::now();
                let ms =
                    u64::try_from(instant.saturating_duration_since(start).as_millis()).unwrap_or(u64::MAX);
                clock.store(ms, Ordering::Relaxed);
                every_tick();
                for watch in running.lock().unwrap_or_else(PoisonError::into_inner).watches.values() {
                    watch.tick(instant);
                }
            }
        })?;
        Ok(Self { running, now })
    }

    /// Puts a batch under watch.
    pub fn watch(&self, clocks: Clocks) -> Guard {
        let watch = Arc::new(Watch {
            started: Instant::now(),
            clocks,
            stop: Mutex::new(None),
            cancel: Arc::new(AtomicBool::new(false)),
            wake: Notify::new(),
            active: AtomicU64::new(self.now.load(Ordering::Relaxed)),
            now: Arc::clone(&self.now),
            busy: AtomicU32::new(0),
            cancelled: Mutex::new(None),
            wind_down: AtomicBool::new(false),
        });
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let id = running.next;
        running.next += 1;
        running.watches.insert(id, Arc::clone(&watch));
        Guard { watch, id, running: Arc::clone(&self.running) }
    }
}
