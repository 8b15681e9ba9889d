//! Host memory for tensors: 64-byte aligned buffers, pooled by size class because a fresh large
//! buffer costs several times the operation that fills it (page faults).
//!
//! A pooled buffer holds what the job before left in it. **Invariant: whoever takes a buffer
//! writes every byte that is ever read from it**; every kernel writes every element of its
//! output. With [`BufferPool::poison`] on (debug builds), a buffer is filled with 0xFF (NaN, -1)
//! when taken, so that a broken kernel shows in tests.
// Allocation and typed views of raw memory are what this module is for.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use half::f16;

use crate::error::Error;
use crate::resident::Residents;

/// Alignment of every buffer: a cache line, and an AVX-512 vector.
pub(crate) const ALIGNMENT: usize = 64;

/// Below this many bytes a buffer is as quickly allocated as pooled.
const POOLED_FROM: usize = 8192;

/// Bytes that a buffer for `bytes` really takes: a multiple of 64 when small, else one of four
/// sizes an octave, so at most a quarter more than asked for.
pub(crate) fn capacity_for(bytes: usize) -> usize {
    let bytes = bytes.max(1);
    if bytes <= POOLED_FROM {
        return bytes.next_multiple_of(ALIGNMENT);
    }
    let step = bytes.next_power_of_two() / 8;
    bytes.checked_next_multiple_of(step).unwrap_or(usize::MAX)
}

/// Rust types that tensor elements are made of: any bit pattern is a value, no padding.
///
/// # Safety
/// Every bit pattern of `size_of::<Self>()` bytes must be valid, and the alignment at most 64.
pub(crate) unsafe trait Element: Copy + Send + Sync + 'static {}
// SAFETY: plain numbers (and f16, a transparent u16): all bit patterns are valid.
unsafe impl Element for f32 {}
// SAFETY: as above.
unsafe impl Element for f16 {}
// SAFETY: as above.
unsafe impl Element for i8 {}
// SAFETY: as above.
unsafe impl Element for u8 {}
// SAFETY: as above.
unsafe impl Element for u16 {}
// SAFETY: as above.
unsafe impl Element for i32 {}
// SAFETY: as above.
unsafe impl Element for u32 {}
// SAFETY: as above.
unsafe impl Element for i64 {}
// SAFETY: as above.
unsafe impl Element for u64 {}

/// Bytes of a buffer seen as elements; a ragged end is cut off, a misaligned slice is empty.
pub(crate) fn view<T: Element>(bytes: &[u8]) -> &[T] {
    // SAFETY: `Element` types are valid for any bits.
    let (head, body, _) = unsafe { bytes.align_to::<T>() };
    debug_assert!(head.is_empty());
    body
}

/// As [`view`], to be written.
pub(crate) fn view_mut<T: Element>(bytes: &mut [u8]) -> &mut [T] {
    // SAFETY: `Element` types are valid for any bits, and so is every bit pattern for u8.
    let (head, body, _) = unsafe { bytes.align_to_mut::<T>() };
    debug_assert!(head.is_empty());
    body
}

/// An owned, aligned, always initialised piece of memory.
struct Raw {
    start: NonNull<u8>,
    capacity: usize,
}

// SAFETY: `Raw` owns its memory, like a Box<[u8]>.
unsafe impl Send for Raw {}
// SAFETY: shared access only reads.
unsafe impl Sync for Raw {}

impl Raw {
    fn allocate(capacity: usize) -> Option<Raw> {
        let layout = Layout::from_size_align(capacity, ALIGNMENT).ok()?;
        // SAFETY: `capacity_for` never answers 0. Zeroed, so that reading it is always defined;
        // for large blocks the system hands out zero pages anyway.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Raw { start, capacity })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Ok(layout) = Layout::from_size_align(self.capacity, ALIGNMENT) {
            // SAFETY: allocated in `allocate` with this very layout, and dropped once.
            unsafe { dealloc(self.start.as_ptr(), layout) }
        }
    }
}

/// A buffer that returns to its pool when dropped.
pub(crate) struct Buffer {
    raw: Option<Raw>,
    len: usize,
    pool: Arc<BufferPool>,
}

impl Buffer {
    /// The bytes asked for.
    pub fn bytes(&self) -> &[u8] {
        match &self.raw {
            // SAFETY: `len` is at most the capacity, all of it initialised; borrowed from self.
            Some(raw) => unsafe { std::slice::from_raw_parts(raw.start.as_ptr(), self.len) },
            None => &[],
        }
    }

    /// The bytes asked for, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.raw {
            // SAFETY: as in `bytes`, and borrowed mutably from self, the only owner.
            Some(raw) => unsafe { std::slice::from_raw_parts_mut(raw.start.as_ptr(), self.len) },
            None => &mut [],
        }
    }

    /// Bytes that it takes of memory, and is charged as.
    pub fn capacity(&self) -> usize {
        self.raw.as_ref().map_or(0, |r| r.capacity)
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(raw) = self.raw.take() {
            self.pool.put_back(raw);
        }
    }
}

/// Free buffers by size, up to a bound in bytes; shared by all jobs of an engine.
pub(crate) struct BufferPool {
    free: Mutex<Free>,
    limit: u64,
    poison: bool,
    live: AtomicU64,
    peak: AtomicU64,
    /// The most bytes in use, and in use and free together.
    most: AtomicU64,
    /// What is given up before that.
    residents: Arc<Residents>,
}

#[derive(Default)]
struct Free {
    /// (capacity, buffers of it, newest last), few enough to search in order.
    classes: Vec<(usize, Vec<Raw>)>,
    bytes: u64,
}

impl BufferPool {
    /// A pool that keeps at most `limit` free bytes; `poison` fills each buffer taken with 0xFF.
    #[cfg(test)]
    pub fn new(limit: u64, poison: bool) -> Arc<BufferPool> {
        BufferPool::bounded(limit, poison, u64::MAX, Arc::default())
    }

    /// A pool that keeps at most `limit` free bytes, with at most `most` bytes in use; before that is
    /// exceeded, residents are given up. `poison` fills each buffer taken with 0xFF.
    pub fn bounded(limit: u64, poison: bool, most: u64, residents: Arc<Residents>) -> Arc<BufferPool> {
        Arc::new(BufferPool {
            free: Mutex::default(),
            limit,
            poison,
            live: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            most: AtomicU64::new(most),
            residents,
        })
    }

    /// A buffer of `bytes` bytes with unspecified content (see the module's invariant).
    pub fn take(self: &Arc<Self>, operation: &'static str, bytes: usize) -> Result<Buffer, Error> {
        let capacity = capacity_for(bytes);
        self.reserve(operation, capacity as u64)?;
        let raw = self.reuse(capacity).or_else(|| {
            self.shrink();
            Raw::allocate(capacity)
        });
        let Some(raw) = raw else {
            self.live.fetch_sub(capacity as u64, Ordering::Relaxed);
            let text = format!("the host has no {capacity} bytes left for a tensor");
            return Err(Error::out_of_memory(operation, text));
        };
        let mut buffer = Buffer { raw: Some(raw), len: bytes, pool: Arc::clone(self) };
        if self.poison {
            buffer.bytes_mut().fill(0xFF);
        }
        Ok(buffer)
    }

    /// Bytes of free buffers kept.
    pub fn pooled_bytes(&self) -> u64 {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }

    /// Bytes of buffers in use.
    pub fn live_bytes(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// The most bytes that were in use at once.
    pub fn peak_bytes(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Lifts the bound: another device has memory of its own, and that is bounded there.
    pub fn unbound(&self) {
        self.most.store(u64::MAX, Ordering::Relaxed);
    }

    /// Counts bytes as in use, if there is room for them.
    fn reserve(&self, operation: &'static str, bytes: u64) -> Result<(), Error> {
        loop {
            let most = self.most.load(Ordering::Relaxed);
            let room = |live: u64| live.checked_add(bytes).filter(|&total| total <= most);
            match self.live.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room) {
                Ok(before) => {
                    self.peak.fetch_max(before + bytes, Ordering::Relaxed);
                    return Ok(());
                }
                // Somebody else may take it first: then again.
                Err(_) if self.residents.reclaim(|| room(self.live_bytes()).is_some()) => {}
                Err(live) => {
                    return Err(Error::full(
                        operation,
                        format!(
                            "needs {bytes} bytes; {live} of the host's limit of {most} (device_memory_mib) \
                             are in use by all jobs, and nothing that is idle is left to give up"
                        ),
                    ));
                }
            }
        }
    }

    /// Keeps no more free than there is room for beside what is in use.
    fn shrink(&self) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if self.live_bytes().saturating_add(free.bytes) > self.most.load(Ordering::Relaxed) {
            free.bytes = 0;
            let classes = std::mem::take(&mut free.classes);
            drop(free); // unmapping takes long: not under the lock
            drop(classes);
        }
    }

    fn reuse(&self, capacity: usize) -> Option<Raw> {
        if capacity <= POOLED_FROM {
            return None;
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let at = free.classes.binary_search_by_key(&capacity, |c| c.0).ok()?;
        let raw = free.classes[at].1.pop()?;
        free.bytes -= capacity as u64;
        Some(raw)
    }

    fn put_back(&self, raw: Raw) {
        let capacity = raw.capacity;
        self.live.fetch_sub(capacity as u64, Ordering::Relaxed);
        if capacity <= POOLED_FROM {
            return;
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.bytes + capacity as u64 > self.limit {
            drop(free); // unmapping takes long: not under the lock
            return;
        }
        free.bytes += capacity as u64;
        match free.classes.binary_search_by_key(&capacity, |c| c.0) {
            Ok(at) => free.classes[at].1.push(raw),
            Err(at) => free.classes.insert(at, (capacity, vec![raw])),
        }
    }
}
