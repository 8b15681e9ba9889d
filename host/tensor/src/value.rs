//! Evaluated tensors: immutable, shareable between jobs, charged to a budget until dropped.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crate::budget::{Budget, Charge};
use crate::buffer::{Buffer, BufferPool, capacity_for};
use crate::rules::Descriptor;
use crate::types::DataType;
use crate::wgpu::DeviceBuffer;

/// An evaluated, immutable tensor. Its bytes stay charged to the budget of the job that made it
/// until the last value on the same memory is dropped.
#[derive(Debug)]
pub struct Value {
    descriptor: Descriptor,
    storage: Arc<Storage>,
}

/// Memory that one or several values (reshapes of each other) read.
///
/// It lies in host memory, on a device, or in both places with the same elements: it is charged
/// once, so a budget bounds what a job holds in each of the two.
#[derive(Debug)]
pub(crate) struct Storage {
    host: OnceLock<Buffer>,
    /// A [`DeviceBuffer`], without its type: else everybody who holds a value would have to prove to
    /// the compiler, down to the device library's own types, that it may move between threads.
    device: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
    charge: Charge,
    prepacked: OnceLock<Prepacked>,
    multiplied: AtomicBool,
}

/// Another arrangement of a constant's elements, made by the first kernel that wants it.
#[derive(Debug)]
pub(crate) struct Prepacked {
    /// Which arrangement: the kernel's own words.
    pub form: PackedForm,
    /// The rearranged elements.
    pub data: Buffer,
    /// Charged to the budget of the value itself.
    pub _charge: Charge,
}

/// Names an arrangement of a filter or of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackedForm {
    /// Of what shape it was read.
    pub descriptor: Descriptor,
    /// Parameters of the arrangement.
    pub parameters: [usize; 4],
}

impl Value {
    pub(crate) fn new(descriptor: Descriptor, buffer: Buffer, charge: Charge) -> Value {
        Value::stored(descriptor, OnceLock::from(buffer), None, charge)
    }

    /// A value that lies on a device only, as yet.
    pub(crate) fn on_device(descriptor: Descriptor, buffer: Arc<DeviceBuffer>, charge: Charge) -> Value {
        Value::stored(descriptor, OnceLock::new(), Some(buffer), charge)
    }

    fn stored(
        descriptor: Descriptor,
        host: OnceLock<Buffer>,
        device: Option<Arc<DeviceBuffer>>,
        charge: Charge,
    ) -> Value {
        let (prepacked, multiplied) = (OnceLock::new(), AtomicBool::new(false));
        let device = device.map(|buffer| buffer as Arc<dyn Any + Send + Sync>);
        let storage = Storage { host, device: Mutex::new(device), charge, prepacked, multiplied };
        Value { descriptor, storage: Arc::new(storage) }
    }

    /// The elements where they lie in host memory.
    pub(crate) fn host(&self) -> Option<&[u8]> {
        self.storage.host.get().map(Buffer::bytes)
    }

    /// Keeps a copy in host memory; one that is there already stays.
    pub(crate) fn set_host(&self, buffer: Buffer) {
        let _ = self.storage.host.set(buffer);
    }

    /// The copy on a device, of whatever generation that is.
    pub(crate) fn device(&self) -> Option<Arc<DeviceBuffer>> {
        let kept = self.storage.device.lock().unwrap_or_else(PoisonError::into_inner).clone();
        kept.and_then(|buffer| buffer.downcast().ok())
    }

    /// Keeps a copy on a device.
    pub(crate) fn set_device(&self, buffer: Arc<DeviceBuffer>) {
        *self.storage.device.lock().unwrap_or_else(PoisonError::into_inner) = Some(buffer);
    }

    /// Gives up the copy on a device, where host memory has the elements too. Answers the bytes.
    pub(crate) fn give_up_device(&self) -> u64 {
        if self.storage.host.get().is_none() {
            return 0;
        }
        let kept = self.storage.device.lock().unwrap_or_else(PoisonError::into_inner).take();
        kept.and_then(|buffer| buffer.downcast::<DeviceBuffer>().ok()).map_or(0, |buffer| buffer.capacity())
    }

    /// A number that no other memory has while this lives.
    pub(crate) fn memory_id(&self) -> usize {
        Arc::as_ptr(&self.storage).addr()
    }

    /// Bytes of the memory, all of it: another value may read it under another shape.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.descriptor.bytes()
    }

    /// The memory, without keeping it; and how many values read it.
    pub(crate) fn memory(&self) -> (Weak<Storage>, usize) {
        (Arc::downgrade(&self.storage), Arc::strong_count(&self.storage))
    }

    /// A value on memory that somebody else still keeps.
    pub(crate) fn on_memory(descriptor: Descriptor, memory: &Weak<Storage>) -> Option<Value> {
        memory.upgrade().map(|storage| Value { descriptor, storage })
    }

    /// What the memory is charged to.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        self.storage.charge.budget()
    }

    /// The same memory under another shape (of the same number of elements).
    pub(crate) fn with_descriptor(&self, descriptor: Descriptor) -> Value {
        debug_assert!(descriptor.bytes() == self.descriptor.bytes());
        Value { descriptor, storage: Arc::clone(&self.storage) }
    }

    /// Element type.
    pub fn data_type(&self) -> DataType {
        self.descriptor.data_type
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[u32] {
        self.descriptor.shape.as_slice()
    }

    /// Type and shape.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The elements: row-major, little-endian, aligned to 64 bytes. Every value that the engine or
    /// a session hands out lies in host memory.
    pub fn bytes(&self) -> &[u8] {
        self.host().unwrap_or_default()
    }

    /// Whether a product has had it as its right side before: a value used again is likely a
    /// weight, and worth rearranging.
    pub(crate) fn multiplied_before(&self) -> bool {
        self.storage.multiplied.swap(true, Ordering::Relaxed)
    }

    /// The rearrangement `form`, made by `fill` if no run has made it before. `None` where another
    /// one is kept, or the value's budget has no room: the caller then makes one for itself.
    pub(crate) fn prepacked(
        &self,
        form: PackedForm,
        bytes: usize,
        pool: &Arc<BufferPool>,
        fill: impl FnOnce(&mut [u8]),
    ) -> Option<&[u8]> {
        let kept = &self.storage.prepacked;
        if kept.get().is_none() {
            let capacity = capacity_for(bytes) as u64;
            let charge = self.storage.charge.budget().charge("prepack", capacity).ok()?;
            let mut data = pool.take("prepack", bytes).ok()?;
            fill(data.bytes_mut());
            // Two runs may get here at once; the second's work is dropped.
            let _ = kept.set(Prepacked { form, data, _charge: charge });
        }
        kept.get().filter(|p| p.form == form).map(|p| p.data.bytes())
    }
}
