//! Device buffers, pooled by size class. A run that takes buffers in the same order as the one
//! before gets the same ones, so that bind groups made for them fit again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::buffer::capacity_for;
use crate::error::Error;
use crate::resident::Residents;

/// A buffer on the device.
struct Raw {
    buffer: wgpu::Buffer,
    id: u64,
    capacity: u64,
}

/// A device buffer that returns to its pool when dropped.
pub(crate) struct DeviceBuffer {
    raw: Option<Raw>,
    pool: Arc<Pool>,
}

impl DeviceBuffer {
    /// The buffer; `None` never happens while it lives.
    pub fn buffer(&self) -> Option<&wgpu::Buffer> {
        self.raw.as_ref().map(|r| &r.buffer)
    }

    /// A number that no other buffer of the process has.
    pub fn id(&self) -> u64 {
        self.raw.as_ref().map_or(0, |r| r.id)
    }

    /// Bytes that it takes of the device's memory, and is charged as.
    pub fn capacity(&self) -> u64 {
        self.raw.as_ref().map_or(0, |r| r.capacity)
    }

    /// Which of the devices, counted from the first, it lies on.
    pub fn generation(&self) -> u64 {
        self.pool.generation
    }
}

impl std::fmt::Debug for DeviceBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceBuffer({} bytes)", self.capacity())
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if let Some(raw) = self.raw.take() {
            self.pool.put_back(raw);
        }
    }
}

/// Free buffers of one usage by size, up to a bound in bytes.
pub(crate) struct Pool {
    generation: u64,
    usage: wgpu::BufferUsages,
    /// The most bytes kept free.
    keep: u64,
    /// The most bytes in use and free.
    limit: u64,
    free: Mutex<Free>,
    live: AtomicU64,
    peak: AtomicU64,
    /// What is given up before the limit is exceeded.
    residents: Arc<Residents>,
    closed: AtomicBool,
}

#[derive(Default)]
struct Free {
    /// Newest last.
    classes: BTreeMap<u64, Vec<Raw>>,
    bytes: u64,
    /// Given up, but perhaps named by commands that are not submitted yet.
    given_up: Vec<Raw>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Pool {
    /// A pool of one device that keeps at most `keep` free bytes, and hands out at most `limit`.
    pub fn new(
        generation: u64,
        usage: wgpu::BufferUsages,
        keep: u64,
        limit: u64,
        residents: Arc<Residents>,
    ) -> Arc<Pool> {
        Arc::new(Pool {
            generation,
            usage,
            keep,
            limit,
            free: Mutex::default(),
            live: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            residents,
            closed: AtomicBool::new(false),
        })
    }

    /// A buffer for `bytes` bytes with unspecified content: whoever takes it writes every byte that
    /// is ever read. Refused beyond the pool's limit; errors of the device go to the caller's error
    /// scope.
    pub fn take(self: &Arc<Self>, device: &wgpu::Device, bytes: usize) -> Result<DeviceBuffer, Error> {
        let capacity = capacity_for(bytes) as u64;
        let fits = || self.live.load(Ordering::Relaxed) + capacity <= self.limit;
        // What is given up may be just what is needed.
        let raw = self
            .reuse(capacity)
            .or_else(|| (!fits() && self.residents.reclaim(fits)).then(|| self.reuse(capacity)).flatten());
        let raw = match raw {
            Some(raw) => raw,
            None => {
                let (live, free) = self.bytes();
                if !fits() {
                    return Err(Error::full(
                        "dispatch",
                        format!(
                            "needs {capacity} bytes on the device; {live} of the host's limit of {} \
                             (device_memory_mib) are in use by all jobs, and nothing that is idle is left to \
                             give up",
                            self.limit
                        ),
                    ));
                }
                if live + free + capacity > self.limit {
                    self.empty();
                }
                Raw {
                    buffer: device.create_buffer(&wgpu::BufferDescriptor {
                        label: None,
                        size: capacity,
                        usage: self.usage,
                        mapped_at_creation: false,
                    }),
                    id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
                    capacity,
                }
            }
        };
        let before = self.live.fetch_add(capacity, Ordering::Relaxed);
        self.peak.fetch_max(before + capacity, Ordering::Relaxed);
        Ok(DeviceBuffer { raw: Some(raw), pool: Arc::clone(self) })
    }

    /// Bytes of (buffers in use, free buffers kept).
    pub fn bytes(&self) -> (u64, u64) {
        let free = self.free().bytes;
        (self.live.load(Ordering::Relaxed), free)
    }

    /// The most bytes that were in use at once.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Gives up every free buffer.
    pub fn empty(&self) {
        let mut free = self.free();
        let classes = std::mem::take(&mut free.classes);
        free.given_up.extend(classes.into_values().flatten());
        free.bytes = 0;
    }

    /// Gives what was given up back to the device. To be called when nothing that was recorded is
    /// left unsubmitted: a cached bind group may hold a buffer, so that dropping it is not enough.
    pub fn sweep(&self) {
        let given_up = std::mem::take(&mut self.free().given_up);
        given_up.iter().for_each(|raw| raw.buffer.destroy());
    }

    /// Keeps nothing from now on: the device is gone.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.empty();
        self.sweep();
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reuse(&self, capacity: u64) -> Option<Raw> {
        let mut free = self.free();
        let raw = free.classes.get_mut(&capacity)?.pop()?;
        free.bytes -= capacity;
        Some(raw)
    }

    fn put_back(&self, raw: Raw) {
        self.live.fetch_sub(raw.capacity, Ordering::Relaxed);
        let mut free = self.free();
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        if free.bytes + raw.capacity > self.keep {
            free.given_up.push(raw);
            return;
        }
        free.bytes += raw.capacity;
        free.classes.entry(raw.capacity).or_default().push(raw);
    }
}
