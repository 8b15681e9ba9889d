//! Device buffers, pooled by size class. A run that takes buffers in the same order as the one
//! before gets the same ones, so that bind groups made for them fit again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::buffer::capacity_for;

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
    limit: u64,
    free: Mutex<Free>,
    live: AtomicU64,
    closed: AtomicBool,
}

#[derive(Default)]
struct Free {
    /// Newest last.
    classes: BTreeMap<u64, Vec<Raw>>,
    bytes: u64,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Pool {
    /// A pool of one device that keeps at most `limit` free bytes.
    pub fn new(generation: u64, usage: wgpu::BufferUsages, limit: u64) -> Arc<Pool> {
        Arc::new(Pool {
            generation,
            usage,
            limit,
            free: Mutex::default(),
            live: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        })
    }

    /// A buffer for `bytes` bytes with unspecified content: whoever takes it writes every byte that
    /// is ever read. Errors of the device go to the caller's error scope.
    pub fn take(self: &Arc<Self>, device: &wgpu::Device, bytes: usize) -> DeviceBuffer {
        let capacity = capacity_for(bytes) as u64;
        let raw = self.reuse(capacity).unwrap_or_else(|| Raw {
            buffer: device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: capacity,
                usage: self.usage,
                mapped_at_creation: false,
            }),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            capacity,
        });
        self.live.fetch_add(capacity, Ordering::Relaxed);
        DeviceBuffer { raw: Some(raw), pool: Arc::clone(self) }
    }

    /// Bytes of (buffers in use, free buffers kept).
    pub fn bytes(&self) -> (u64, u64) {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).bytes;
        (self.live.load(Ordering::Relaxed), free)
    }

    /// Gives every free buffer back to the device.
    pub fn empty(&self) {
        let free = std::mem::take(&mut *self.free.lock().unwrap_or_else(PoisonError::into_inner));
        free.classes.into_values().flatten().for_each(|raw| raw.buffer.destroy());
    }

    /// Keeps nothing from now on: the device is gone.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.empty();
    }

    fn reuse(&self, capacity: u64) -> Option<Raw> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let raw = free.classes.get_mut(&capacity)?.pop()?;
        free.bytes -= capacity;
        Some(raw)
    }

    fn put_back(&self, raw: Raw) {
        self.live.fetch_sub(raw.capacity, Ordering::Relaxed);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::Relaxed) || free.bytes + raw.capacity > self.limit {
            drop(free);
            // Bind groups may name it still: the memory goes back all the same, once the queue is
            // done with it.
            raw.buffer.destroy();
            return;
        }
        free.bytes += raw.capacity;
        free.classes.entry(raw.capacity).or_default().push(raw);
    }
}
