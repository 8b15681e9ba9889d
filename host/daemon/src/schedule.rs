//! Which plugin serves a job, and when it runs: a version of the model's plugin as its operator shares
//! jobs out (the newest if nothing is said), in the order of arrival, as soon as a slot is free.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::job::{Code, Envelope, Failure};
use crate::plugin::{Plugin, Plugins};

/// The slots and the plugins that may take them.
pub struct Schedule {
    slots: Arc<Semaphore>,
    count: u32,
    plugins: Arc<Plugins>,
}

/// How much work is held ready behind what runs: enough to cover the time of a confirm many times.
const AHEAD: f64 = 0.1;
/// The most that the bodies of a queue's unsettled deliveries may add up to, bytes.
const BODIES: f64 = (64 << 20) as f64;
/// Weight of the newest job in the averages.
const NEWEST: f64 = 0.05;

/// What a model's jobs take, as moving averages.
#[derive(Debug)]
pub struct Pace {
    /// Seconds in a slot, and bytes of a body; negative before the first job.
    seconds: AtomicU64,
    bytes: AtomicU64,
}

impl Default for Pace {
    fn default() -> Self {
        let none = || AtomicU64::new((-1.0f64).to_bits());
        Self { seconds: none(), bytes: none() }
    }
}

impl Pace {
    /// A job held its slot for so long.
    pub fn ran(&self, time: Duration) {
        average(&self.seconds, time.as_secs_f64());
    }

    /// A job's body had so many bytes.
    pub fn body(&self, bytes: usize) {
        average(&self.bytes, bytes as f64);
    }

    /// Unsettled deliveries that keep `slots` busy: what runs, and a tenth of a second's work behind
    /// it. Never many more than that: if the host dies, all of them count as failed.
    pub fn prefetch(&self, slots: usize) -> u16 {
        let least = slots.saturating_add(1);
        let most = slots.saturating_mul(128).clamp(256, 2048).max(least);
        let seconds = f64::from_bits(self.seconds.load(Ordering::Relaxed));
        let wanted = if seconds < 0.0 {
            // Not known yet: a few, so that many of long jobs are not held here.
            slots.saturating_mul(4)
        } else {
            let by_time = slots as f64 * (1.0 + AHEAD / seconds.max(1e-6));
            let by_memory = BODIES / f64::from_bits(self.bytes.load(Ordering::Relaxed)).max(1.0);
            by_time.min(by_memory) as usize
        };
        u16::try_from(wanted.clamp(least, most)).unwrap_or(u16::MAX)
    }
}

/// Takes a value into an average. Jobs that end at the same time may overwrite each other's share.
fn average(cell: &AtomicU64, value: f64) {
    let old = f64::from_bits(cell.load(Ordering::Relaxed));
    let new = if old < 0.0 { value } else { old + NEWEST * (value - old) };
    cell.store(new.to_bits(), Ordering::Relaxed);
}

/// Models named to whoever asks for one that is not served.
const SHOWN: usize = 20;

/// The right to run one guest; given back when dropped.
pub struct Slot(#[allow(dead_code)] OwnedSemaphorePermit);

impl Schedule {
    /// `slots` guests at a time.
    pub fn new(slots: usize, plugins: Arc<Plugins>) -> Self {
        let count = u32::try_from(slots).unwrap_or(u32::MAX);
        Self { slots: Arc::new(Semaphore::new(slots)), count, plugins }
    }

    /// The plugin for a job.
    ///
    /// # Errors
    /// `NO_MODEL` when none serves it.
    pub fn choose(&self, envelope: &Envelope) -> Result<Arc<Plugin>, Failure> {
        let model = &envelope.model;
        self.plugins.choose(model, fastrand::f64).ok_or_else(|| {
            let mut served = self.plugins.models();
            let more = served.len().saturating_sub(SHOWN);
            served.truncate(SHOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            Failure::new(Code::NoModel, format!("no plugin serves model {model:?}; served: {served:?}{more}"))
        })
    }

    /// Waits for a slot, first come first served; for all of them when the job must run alone.
    ///
    /// # Errors
    /// `HOST_ERROR` when the host is shutting down.
    pub async fn slot(&self, alone: bool) -> Result<Slot, Failure> {
        let wanted = if alone { self.count } else { 1 };
        match Arc::clone(&self.slots).acquire_many_owned(wanted).await {
            Ok(permit) => Ok(Slot(permit)),
            Err(_) => Err(Failure::new(Code::HostError, "the host is shutting down")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefetch_follows_the_work() {
        let after = |time: Duration, bytes: usize| {
            let pace = Pace::default();
            for _ in 0..200 {
                pace.ran(time);
                pace.body(bytes);
            }
            pace.prefetch(2)
        };
        assert_eq!(Pace::default().prefetch(2), 8);
        assert_eq!(after(Duration::from_micros(20), 100), 256);
        assert_eq!(after(Duration::from_millis(10), 100), 22);
        assert_eq!(after(Duration::from_secs(5), 100), 3);
        assert_eq!(after(Duration::from_micros(20), 8 << 20), 8);
        assert_eq!(after(Duration::ZERO, 0), 256);
        // From short jobs to long ones within some dozens of them.
        let pace = Pace::default();
        pace.ran(Duration::from_micros(20));
        (0..40).for_each(|_| pace.ran(Duration::from_secs(1)));
        assert_eq!(pace.prefetch(2), 3);
    }
}
