//! The plan cache: compiled graphs by content. A key is the whole encoding of a graph (operations,
//! attributes, types, shapes, wiring, outputs) and is compared in full, so no job can make another
//! run a plan that is not its own graph's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::Compiled;

/// Least recently used plans beyond either bound are dropped.
pub(crate) struct PlanCache {
    entries: usize,
    bytes: usize,
    inner: Mutex<Inner>,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Default)]
struct Inner {
    plans: HashMap<Box<[u8]>, Entry>,
    bytes: usize,
    clock: u64,
}

struct Entry {
    plan: Arc<dyn Compiled>,
    bytes: usize,
    used: u64,
}

impl PlanCache {
    /// A cache of at most `entries` plans and about `bytes` bytes.
    pub fn new(entries: usize, bytes: usize) -> PlanCache {
        PlanCache {
            entries,
            bytes,
            inner: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// The plan of an equal graph, if there is one.
    pub fn get(&self, key: &[u8]) -> Option<Arc<dyn Compiled>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clock += 1;
        let clock = inner.clock;
        let found = inner.plans.get_mut(key).map(|entry| {
            entry.used = clock;
            Arc::clone(&entry.plan)
        });
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Keeps a plan. One that alone would fill a quarter of the cache is not kept: it would
    /// drive out everyone else's.
    pub fn put(&self, key: &[u8], plan: &Arc<dyn Compiled>) {
        let bytes = key.len() + plan.weight();
        if bytes > self.bytes / 4 || self.entries == 0 {
            return;
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clock += 1;
        let entry = Entry { plan: Arc::clone(plan), bytes, used: inner.clock };
        if let Some(old) = inner.plans.insert(key.into(), entry) {
            inner.bytes -= old.bytes;
        }
        inner.bytes += bytes;
        while inner.plans.len() > self.entries || inner.bytes > self.bytes {
            // A few hundred entries at most: searching costs less than keeping a list in order.
            let oldest = inner.plans.iter().min_by_key(|(_, e)| e.used).map(|(k, _)| k.clone());
            let Some(gone) = oldest.and_then(|key| inner.plans.remove(&key)) else {
                break;
            };
            inner.bytes -= gone.bytes;
        }
    }

    /// (hits, misses, plans held, bytes held).
    pub fn stats(&self) -> (u64, u64, usize, usize) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (plans, bytes) = (inner.plans.len(), inner.bytes);
        drop(inner);
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed), plans, bytes)
    }
}
