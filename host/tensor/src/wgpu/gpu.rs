//! One device, from its making to its loss: its limits, buffers and pipelines.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::resident::Residents;
use crate::wgpu::command::Limits;
use crate::wgpu::kernel::Kernel;
use crate::wgpu::pool::Pool;

/// The most pipelines kept. A guest can make no more kinds of kernel than this wait for it.
const PIPELINES: usize = 1024;

/// How long to wait for what a driver does at once: finding adapters, opening one.
const OPENING: Duration = Duration::from_secs(30);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future of wgpu; natively these are ready at once. `None` past the time.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> Option<T> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    let end = Instant::now() + OPENING;
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(value);
        }
        let left = end.checked_duration_since(Instant::now())?;
        std::thread::park_timeout(left);
    }
}

/// How a device is set up.
#[derive(Debug, Clone)]
pub(crate) struct GpuConfig {
    /// The most bytes of free buffers kept.
    pub keep: u64,
    /// The most bytes of buffers in use by all jobs.
    pub limit: u64,
    /// What is given up before that.
    pub residents: Arc<Residents>,
    /// How long a piece of work may take before the device counts as lost.
    pub deadline: Duration,
    /// Work of one submission; 0 is chosen by the adapter's kind.
    pub slice: u64,
    /// Caps the bytes of a binding, so that tests meet the limit.
    pub binding: u64,
}

/// One device.
pub(crate) struct Gpu {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    /// Which of the process's devices this is, counted from 1.
    pub generation: u64,
    pub limits: Limits,
    /// Tensors.
    pub data: Arc<Pool>,
    /// What tensors are read back through.
    pub staging: Arc<Pool>,
    pub deadline: Duration,
    lost: Arc<AtomicBool>,
    /// Set by the device's thread whenever it looks for messages.
    alive: AtomicBool,
    layouts: Mutex<HashMap<(u32, u32), Layouts>>,
    pipelines: Mutex<Pipelines>,
    built: AtomicU64,
}

#[derive(Clone)]
struct Layouts {
    group: wgpu::BindGroupLayout,
    pipeline: wgpu::PipelineLayout,
}

/// A kernel made ready for a device.
pub(crate) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub group: wgpu::BindGroupLayout,
}

#[derive(Default)]
struct Pipelines {
    /// By text, with the time of the last use.
    entries: HashMap<Arc<str>, (u64, Arc<Pipeline>)>,
    clock: u64,
}

static GENERATIONS: AtomicU64 = AtomicU64::new(1);

/// Finds adapters. Drivers that a process cannot use are left out.
pub(crate) fn adapters() -> Vec<wgpu::Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    wait(instance.enumerate_adapters(wgpu::Backends::VULKAN)).unwrap_or_default()
}

/// Whether an adapter computes on the processor.
pub(crate) fn is_processor(info: &wgpu::AdapterInfo) -> bool {
    info.device_type == wgpu::DeviceType::Cpu
}

impl Gpu {
    /// Opens a device of an adapter, with the adapter's limits where kernels need them.
    pub fn open(adapter: &wgpu::Adapter, config: &GpuConfig) -> Result<Arc<Gpu>, Error> {
        let failed = |why: String| Error::device("engine", format!("cannot open the device: {why}"));
        let limits = wgpu::Limits {
            max_storage_buffers_per_shader_stage: adapter
                .limits()
                .max_storage_buffers_per_shader_stage
                .min(32),
            max_immediate_size: 0,
            ..adapter.limits()
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("warren"),
            required_features: wgpu::Features::empty(),
            required_limits: limits.clone(),
            ..wgpu::DeviceDescriptor::default()
        };
        let opened = wait(adapter.request_device(&descriptor));
        let (device, queue) = opened
            .ok_or_else(|| failed("the driver does not answer".into()))?
            .map_err(|e| failed(e.to_string()))?;
        let lost = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&lost);
        device.set_device_lost_callback(move |_, _| flag.store(true, Ordering::Release));
        // Errors are caught by scopes where they may happen; one that is not means that the device
        // can no longer be relied on.
        let flag = Arc::clone(&lost);
        device.on_uncaptured_error(Arc::new(move |_| flag.store(true, Ordering::Release)));
        let slice = match (config.slice, is_processor(&adapter.get_info())) {
            (0, true) => 1 << 27,
            (0, false) => 1 << 35,
            (given, _) => given,
        };
        let generation = GENERATIONS.fetch_add(1, Ordering::Relaxed);
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let reading = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        Ok(Arc::new(Gpu {
            generation,
            limits: Limits {
                binding: limits.max_storage_buffer_binding_size.min(config.binding),
                buffer: limits.max_buffer_size,
                buffers: limits.max_storage_buffers_per_shader_stage,
                groups: limits.max_compute_workgroups_per_dimension,
                slice,
            },
            data: Pool::new(generation, usage, config.keep, config.limit, Arc::clone(&config.residents)),
            staging: Pool::new(generation, reading, config.keep / 4, u64::MAX / 2, Arc::default()),
            deadline: config.deadline,
            lost,
            alive: AtomicBool::new(true),
            layouts: Mutex::default(),
            pipelines: Mutex::default(),
            built: AtomicU64::new(0),
            device,
            queue,
        }))
    }

    /// Whether the device is gone, or cannot be relied on.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Gives the device up: whoever waits for it hears of it.
    pub fn lose(&self) {
        self.lost.store(true, Ordering::Release);
        self.data.close();
        self.staging.close();
    }

    /// Says that the device's thread is not stuck.
    pub fn show_life(&self) {
        self.alive.store(true, Ordering::Relaxed);
    }

    /// Whether it said so since this was asked last.
    pub fn take_sign_of_life(&self) -> bool {
        self.alive.swap(false, Ordering::Relaxed)
    }

    /// The error for work that the lost device held.
    pub fn lost_error() -> Error {
        Error::device_lost("dispatch", "the device was lost while it held this work: run it again")
    }

    /// Pipelines built since the device was opened.
    #[cfg(test)]
    pub fn built(&self) -> u64 {
        self.built.load(Ordering::Relaxed)
    }

    /// Does what may fail on the device, and answers its errors as ours.
    pub fn scoped<T>(&self, operation: &'static str, work: impl FnOnce() -> T) -> Result<T, Error> {
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let value = work();
        let memory = wait(memory.pop()).flatten();
        let other = wait(internal.pop()).flatten();
        let other = wait(validation.pop()).flatten().or(other);
        if self.is_lost() {
            return Err(Gpu::lost_error());
        }
        match (memory, other) {
            (None, None) => Ok(value),
            (Some(_), _) => {
                self.data.empty();
                Err(Error::out_of_memory(operation, "the device has no memory left for this work"))
            }
            (_, Some(e)) => Err(Error::device(operation, format!("the device refused: {e}"))),
        }
    }

    /// The kernel made ready; a first use compiles it on the caller's thread, so that nobody else
    /// waits for that.
    pub fn pipeline(&self, kernel: &Kernel) -> Result<Arc<Pipeline>, Error> {
        {
            let mut pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
            pipelines.clock += 1;
            let now = pipelines.clock;
            if let Some((used, pipeline)) = pipelines.entries.get_mut(&kernel.text) {
                *used = now;
                return Ok(Arc::clone(pipeline));
            }
        }
        let layouts = self.layouts(kernel)?;
        let pipeline = self.scoped(kernel.name, || {
            let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(kernel.name),
                source: wgpu::ShaderSource::Wgsl(kernel.text.as_ref().into()),
            });
            self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(kernel.name),
                layout: Some(&layouts.pipeline),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: None,
            })
        })?;
        self.built.fetch_add(1, Ordering::Relaxed);
        let pipeline = Arc::new(Pipeline { pipeline, group: layouts.group });
        let mut pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        if pipelines.entries.len() >= PIPELINES {
            let mut ages: Vec<u64> = pipelines.entries.values().map(|e| e.0).collect();
            let (_, &mut middle, _) = ages.select_nth_unstable(PIPELINES / 4);
            pipelines.entries.retain(|_, e| e.0 > middle);
        }
        let now = pipelines.clock;
        pipelines.entries.insert(Arc::clone(&kernel.text), (now, Arc::clone(&pipeline)));
        Ok(pipeline)
    }

    fn layouts(&self, kernel: &Kernel) -> Result<Layouts, Error> {
        let counts = (kernel.inputs, kernel.outputs);
        let mut known = self.layouts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layouts) = known.get(&counts) {
            return Ok(layouts.clone());
        }
        let entry = |binding: u32| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                // The sizes and the inputs are read only.
                ty: wgpu::BufferBindingType::Storage { read_only: binding <= counts.0 },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        let entries: Vec<_> = (0..=counts.0 + counts.1).map(entry).collect();
        let layouts = self.scoped(kernel.name, || {
            let group = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: None,
                entries: &entries,
            });
            let pipeline = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&group)],
                immediate_size: 0,
            });
            Layouts { group, pipeline }
        })?;
        known.insert(counts, layouts.clone());
        Ok(layouts)
    }
}
