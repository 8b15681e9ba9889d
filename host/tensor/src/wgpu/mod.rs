//! The wgpu backend: graphs on a GPU over Vulkan, or on a CPU adapter that is asked for by name.
//!
//! **Planning is shared with the CPU.** A graph is lowered to the kernels of `cpu::lower` (views,
//! fused element-wise programs, grouped reductions, batched products), and each of them becomes
//! commands here: `elements` writes a fused program as one WGSL kernel, the others are the files in
//! `kernels/`, with structure in constants of their text and sizes in a buffer of parameters, so
//! that new shapes need no new pipeline. A step that has none here runs as it is on the CPU backend
//! between two pieces of the plan, so nothing is refused that the CPU computes.
//!
//! | steps | on the device | on the CPU |
//! |---|---|---|
//! | element-wise chains, casts | float32, float16, 32- and 8-bit integers | chains with 64-bit integers |
//! | transpose, slice, reverse, tile, expand, concat, pad, triangular, nearest resample | every type | |
//! | gather and scatter, all of them | every type; indices int32, uint32, int64 | |
//! | matmul, gemm, convolutions, softmax, normalization | float32, float16 | |
//! | reductions, pooling, argMin/argMax | float32, float16, 32- and 8-bit integers | 64-bit integers |
//! | cumulativeSum | float32, float16, 32-bit integers | 64-bit integers |
//! | linear resample | float32, float16 | int8, uint8 |
//! | anything | operands within a binding of the device (element-wise: within a buffer) | larger ones; more operands than a kernel may bind |
//!
//! How kernels are chosen: products by `linear::variant` (128 x 128 pieces where enough of them
//! fill a device, else 64 x 64; 4 rows at a time for few rows; a thread an element for very few
//! terms, as in depthwise convolution); reductions by `numeric` (a workgroup a result from 128
//! elements on, two passes where few results have many, else a thread a result); softmax by rows or
//! by columns.
//!
//! **One thread owns the device** (`worker`). Jobs send it runs and reads and wait for the answers,
//! each on a channel of its own, looking at their cancel flag meanwhile; no job's wait holds up
//! another's. A run is recorded in one encoder and submitted at once; one with more work than a
//! slice is cut, and slices of several jobs take turns, so that a cancelled job stops soon and a
//! small one does not wait for a large one. Buffers go back to the pool when they are recorded:
//! the queue runs in order. Kernels are compiled on the thread of the job that first needs them.
//!
//! **Memory.** Device buffers have the size classes of host buffers and are charged the same; a
//! tensor that lies in both places is charged once. Intermediates share buffers by their lifetimes,
//! planned beforehand. All jobs together stay below the engine's limit.
//!
//! **Data types.** Buffers hold what host memory holds. 8-bit types and float16 are packed in words
//! and computed as 32-bit ones (float16 rounded after each operation, in integer arithmetic, as on
//! the CPU). Sums are float32 with the rounding errors carried along where the CPU uses float64.
//!
//! **A lost device** (destroyed, reset, or silent past the deadline) fails all that waits on it with
//! `DeviceLost`. The next use makes a new one, a new *generation*; buffers of the old are known by
//! it. What lies in host memory (constants, assets) is uploaded again when it is next used, and a
//! graph that needs nothing else is run again at once (`Engine::run`).
//!
//! **Trust.** At start each kernel family is checked against the CPU backend on odd sizes
//! (`proof`); an adapter that computes wrongly is named and not used.

mod choice;
mod command;
mod elements;
mod gpu;
mod kernel;
mod linear;
mod lower;
mod numeric;
mod piece;
mod pool;
mod proof;
#[cfg(test)]
mod tests;
mod worker;

pub use choice::{DeviceChoice, DeviceInfo, UnknownDevice};
pub(crate) use gpu::GpuConfig;
pub(crate) use pool::DeviceBuffer;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::{Backend, Compiled};
use crate::budget::Charge;
use crate::buffer::BufferPool;
use crate::cpu::Cpu;
use crate::cpu::plan::Place;
use crate::error::Error;
use crate::graph::Graph;
use crate::rules::Descriptor;
use crate::value::Value;

use gpu::Gpu;
use piece::{Piece, Work, bytes_descriptor};
use worker::{Link, Mapped, Message, Read, Run};

/// Graphs on an adapter, and on the CPU what the adapter cannot do.
#[derive(Clone)]
pub(crate) struct Wgpu {
    shared: Arc<Shared>,
}

struct Shared {
    /// Name, vendor and device of the adapter, to find it again.
    adapter: (String, u32, u32),
    config: GpuConfig,
    link: Mutex<Option<Arc<Link>>>,
    cpu: Arc<Cpu>,
    buffers: Arc<BufferPool>,
}

impl Wgpu {
    /// Finds the adapter for a choice. Answers it, if one fits and proves itself, and all that were
    /// found, each with what became of it.
    pub fn choose(
        choice: &DeviceChoice,
        config: GpuConfig,
        cpu: &Arc<Cpu>,
        buffers: &Arc<BufferPool>,
    ) -> (Option<Wgpu>, Vec<DeviceInfo>) {
        if *choice == DeviceChoice::Cpu {
            return (None, Vec::new());
        }
        let mut found = gpu::adapters();
        found.sort_by_key(|a| choice::rank(choice, &a.get_info()).unwrap_or(u8::MAX));
        let mut chosen = None;
        let mut infos = Vec::with_capacity(found.len());
        for adapter in &found {
            let info = adapter.get_info();
            let fits = choice::rank(choice, &info).is_some();
            let mut entry = choice::describe(adapter, String::new());
            entry.why = if !fits && gpu::is_processor(&info) {
                "computes on the processor, slower than the CPU backend: only used if asked for by name"
                    .into()
            } else if !fits {
                format!("not what `{choice}` asks for")
            } else if chosen.is_some() {
                "another adapter was chosen".into()
            } else {
                match Wgpu::open(adapter, config.clone(), cpu, buffers)
                    .and_then(|w| proof::prove(&w, cpu, buffers).map(|()| w))
                {
                    Ok(wgpu) => {
                        chosen = Some(wgpu);
                        entry.chosen = true;
                        format!("the best that fits `{choice}`, and every kernel family proved right on it")
                    }
                    Err(e) => format!("not used: {e}"),
                }
            };
            infos.push(entry);
        }
        (chosen, infos)
    }

    fn open(
        adapter: &wgpu::Adapter,
        config: GpuConfig,
        cpu: &Arc<Cpu>,
        buffers: &Arc<BufferPool>,
    ) -> Result<Wgpu, Error> {
        let info = adapter.get_info();
        let link = Link::start(Gpu::open(adapter, &config)?)?;
        let shared = Shared {
            adapter: (info.name, info.vendor, info.device),
            config,
            link: Mutex::new(Some(link)),
            cpu: Arc::clone(cpu),
            buffers: Arc::clone(buffers),
        };
        Ok(Wgpu { shared: Arc::new(shared) })
    }
}

impl Shared {
    /// The device; a new one if the last was lost.
    fn link(&self) -> Result<Arc<Link>, Error> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = link.as_ref()
            && !link.gpu.is_lost()
        {
            return Ok(Arc::clone(link));
        }
        *link = None;
        let found = gpu::adapters().into_iter().find(|a| {
            let info = a.get_info();
            (&info.name, info.vendor, info.device) == (&self.adapter.0, self.adapter.1, self.adapter.2)
        });
        let adapter = found.ok_or_else(|| {
            Error::device_lost("dispatch", format!("{} was lost and is gone", self.adapter.0))
        })?;
        let fresh = Link::start(Gpu::open(&adapter, &self.config)?)?;
        *link = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    /// Brings a value to host memory, unless it lies there.
    fn read(&self, link: &Link, value: &Value, cancel: &AtomicBool) -> Result<(), Error> {
        if value.host().is_some() {
            return Ok(());
        }
        let buffer = value.device().filter(|b| b.generation() == link.gpu.generation);
        let buffer = buffer.ok_or_else(Gpu::lost_error)?;
        let bytes = value.descriptor().bytes();
        let (reply, answer) = channel();
        link.send(Message::Read(Read { buffer, bytes, reply }));
        let mapped: Mapped = link.wait(&answer, cancel)?;
        let mut copy = self.buffers.take("read", bytes)?;
        let size = (bytes.max(1) as u64).next_multiple_of(4);
        let view = mapped.0.buffer().map(|b| b.slice(0..size).get_mapped_range());
        match view {
            Some(Ok(view)) => copy.bytes_mut().copy_from_slice(&view[..bytes]),
            _ => return Err(Gpu::lost_error()),
        }
        drop(mapped);
        value.set_host(copy);
        Ok(())
    }
}

impl Backend for Wgpu {
    fn name(&self) -> &'static str {
        "wgpu"
    }

    fn compile(&self, graph: &Graph) -> Result<Arc<dyn Compiled>, Error> {
        let link = self.shared.link()?;
        let plan = self.shared.cpu.kernels(graph)?;
        let results = plan.results.clone();
        let slots = plan.slots.clone();
        let (pieces, peak) = piece::cut(plan, graph, &self.shared.cpu, &link.gpu.limits);
        for piece in &pieces {
            if let Work::Device(device) = &piece.work {
                device.pipelines(&link.gpu)?;
            }
        }
        Ok(Arc::new(WgpuPlan { shared: Arc::clone(&self.shared), pieces, slots, results, peak }))
    }

    fn fetch(&self, value: &Value, cancel: &AtomicBool) -> Result<(), Error> {
        if value.host().is_some() {
            return Ok(());
        }
        self.shared.read(&*self.shared.link()?, value, cancel)
    }

    fn lose(&self) {
        let link = self.shared.link.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = link.as_ref() {
            link.gpu.device.destroy();
            link.gpu.lose();
        }
    }

    fn memory(&self) -> (u64, u64) {
        let link = self.shared.link.lock().unwrap_or_else(PoisonError::into_inner);
        link.as_ref().map_or((0, 0), |l| l.gpu.data.bytes())
    }

    fn peak(&self) -> u64 {
        let link = self.shared.link.lock().unwrap_or_else(PoisonError::into_inner);
        link.as_ref().map_or(0, |l| l.gpu.data.peak())
    }
}

/// A graph in pieces.
struct WgpuPlan {
    shared: Arc<Shared>,
    pieces: Vec<Piece>,
    /// Bytes of each slot.
    slots: Vec<usize>,
    results: Vec<(Place, Descriptor)>,
    peak: u64,
}

impl Drop for WgpuPlan {
    fn drop(&mut self) {
        let link = self.shared.link.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = link.as_ref() {
            for piece in &self.pieces {
                if let Work::Device(device) = &piece.work {
                    link.send(Message::Forget(device.id));
                }
            }
        }
    }
}

impl Compiled for WgpuPlan {
    fn peak_bytes(&self) -> u64 {
        self.peak
    }

    fn weight(&self) -> usize {
        let pieces = self.pieces.iter().map(|p| match &p.work {
            Work::Device(device) => device.weight(),
            Work::Host(plan, reasons) => plan.weight() + reasons.len() * 32,
        });
        size_of::<WgpuPlan>()
            + pieces.sum::<usize>()
            + self.slots.len() * 8
            + self.results.len() * size_of::<(Place, Descriptor)>()
    }

    fn run(
        &self,
        leaves: &[Arc<Value>],
        mut charge: Charge,
        cancel: &AtomicBool,
    ) -> Result<Vec<Arc<Value>>, Error> {
        let missing = || Error::device("dispatch", "a planned tensor is missing (a bug in Warren)");
        let link = self.shared.link()?;
        let mut made: Vec<Option<Arc<Value>>> = vec![None; self.slots.len()];
        let is_result = |slot: u32| self.results.iter().any(|(p, _)| *p == Place::Slot(slot));
        for piece in &self.pieces {
            let mut inputs = Vec::with_capacity(piece.inputs.len());
            for place in &piece.inputs {
                inputs.push(match *place {
                    Place::Leaf(leaf) => leaves.get(leaf as usize).cloned(),
                    Place::Slot(slot) => made[slot as usize].clone(),
                });
            }
            let inputs: Option<Vec<Arc<Value>>> = inputs.into_iter().collect();
            let inputs = inputs.ok_or_else(missing)?;
            match &piece.work {
                Work::Device(device) => {
                    let pipelines = device.pipelines(&link.gpu)?;
                    let (reply, answer) = channel();
                    let stop = Arc::new(AtomicBool::new(false));
                    let (piece_, stop_) = (Arc::clone(device), Arc::clone(&stop));
                    link.send(Message::Run(Run { piece: piece_, pipelines, inputs, stop: stop_, reply }));
                    let buffers = link.wait(&answer, cancel).inspect_err(|_| {
                        stop.store(true, Ordering::Relaxed);
                    })?;
                    for (&slot, buffer) in piece.outputs.iter().zip(buffers) {
                        // What is not a result stays within this run's charge.
                        let own = charge.split(if is_result(slot) { buffer.capacity() } else { 0 });
                        let d = bytes_descriptor(self.slots[slot as usize]);
                        made[slot as usize] = Some(Arc::new(Value::on_device(d, buffer, own)));
                    }
                }
                Work::Host(plan, _) => {
                    for input in &inputs {
                        self.shared.read(&link, input, cancel)?;
                    }
                    let results = piece.outputs.iter().filter(|&&s| is_result(s));
                    let bytes = |&s: &u32| crate::buffer::capacity_for(self.slots[s as usize]) as u64;
                    let own = charge.split(results.map(bytes).sum());
                    let values = plan.run(&inputs, own, cancel)?;
                    for (&slot, value) in piece.outputs.iter().zip(values) {
                        made[slot as usize] = Some(value);
                    }
                }
            }
            for &slot in &piece.frees {
                made[slot as usize] = None;
            }
        }
        let mut values: Vec<Arc<Value>> = Vec::with_capacity(self.results.len());
        for (at, (place, descriptor)) in self.results.iter().enumerate() {
            let first = self.results[..at].iter().position(|r| r == &(*place, *descriptor));
            let value = match (first, place) {
                (Some(first), _) => Arc::clone(&values[first]),
                (None, Place::Leaf(leaf)) => {
                    Arc::new(leaves.get(*leaf as usize).ok_or_else(missing)?.with_descriptor(*descriptor))
                }
                (None, Place::Slot(slot)) => {
                    let whole = made[*slot as usize].as_ref().ok_or_else(missing)?;
                    Arc::new(whole.with_descriptor(*descriptor))
                }
            };
            values.push(value);
        }
        Ok(values)
    }
}
