//! Byte budgets: what a job may hold on the device, charged before anything is allocated.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;

/// A limit on bytes, shared by everything that one job (or one plugin's assets) holds.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
    peak: AtomicU64,
}

impl Budget {
    /// A budget of `limit` bytes, none of them used.
    pub fn new(limit: u64) -> Arc<Budget> {
        Arc::new(Budget { limit, used: AtomicU64::new(0), peak: AtomicU64::new(0) })
    }

    /// Bytes charged now, buffers counted as large as they were allocated.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The most bytes that were charged at once.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Takes `bytes`, to be given back when the charge is dropped; refused as a whole when they
    /// would exceed the limit.
    pub(crate) fn charge(self: &Arc<Self>, operation: &'static str, bytes: u64) -> Result<Charge, Error> {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|&total| total <= self.limit)
        });
        match taken {
            Ok(before) => {
                self.peak.fetch_max(before + bytes, Ordering::Relaxed);
                Ok(Charge { budget: Arc::clone(self), bytes })
            }
            Err(used) => Err(Error::out_of_memory(
                operation,
                format!(
                    "needs {bytes} bytes of device memory; {used} of the job's limit of {} are in \
                     use: release tensors, use smaller ones, or raise the plugin's device memory \
                     limit",
                    self.limit
                ),
            )),
        }
    }
}

/// Bytes taken from a [`Budget`]; dropping gives them back.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Charge {
    /// Moves `bytes` of this charge (at most all of it) to a charge of its own.
    pub fn split(&mut self, bytes: u64) -> Charge {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Charge { budget: Arc::clone(&self.budget), bytes }
    }

    /// The budget that it is taken from.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
