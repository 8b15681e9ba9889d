//! The thread that owns a device: it uploads, records, submits and reads back for all jobs, and
//! never waits for one of them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::value::Value;
use crate::wgpu::command::dimensions;
use crate::wgpu::gpu::{Gpu, Pipeline};
use crate::wgpu::piece::{DevicePiece, Target};
use crate::wgpu::pool::DeviceBuffer;

/// Submissions that the device may have before it: one to work on and one to go on with.
const IN_FLIGHT: usize = 2;
/// How long the thread waits for the device before it looks for messages again.
const TURN: Duration = Duration::from_micros(300);
/// How often a waiting job looks at its cancel flag.
const LOOK: Duration = Duration::from_millis(3);
/// Bind groups kept for a command: as many jobs that run one plan at once find theirs.
const GROUPS: usize = 4;

/// What jobs ask of the thread.
pub(crate) enum Message {
    Run(Run),
    Read(Read),
    /// A plan is gone.
    Forget(u64),
}

/// A piece to run.
pub(crate) struct Run {
    pub piece: Arc<DevicePiece>,
    pub pipelines: Arc<Vec<Arc<Pipeline>>>,
    pub inputs: Vec<Arc<Value>>,
    /// Set when nobody waits for it any more.
    pub stop: Arc<AtomicBool>,
    /// Hears of the outputs as soon as all work is submitted.
    pub reply: Sender<Result<Vec<Arc<DeviceBuffer>>, Error>>,
}

/// A buffer to read back.
pub(crate) struct Read {
    pub buffer: Arc<DeviceBuffer>,
    pub bytes: usize,
    pub reply: Sender<Result<Mapped, Error>>,
}

/// Memory that a job may read; unmapped and pooled when it is dropped.
pub(crate) struct Mapped(pub DeviceBuffer);

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Some(buffer) = self.0.buffer() {
            buffer.unmap();
        }
    }
}

/// A device and the way to its thread.
pub(crate) struct Link {
    pub gpu: Arc<Gpu>,
    messages: mpsc::Sender<Message>,
}

impl Link {
    /// Starts the thread of a device.
    pub fn start(gpu: Arc<Gpu>) -> Result<Arc<Link>, Error> {
        let (messages, inbox) = channel();
        let theirs = Arc::clone(&gpu);
        std::thread::Builder::new()
            .name("warren-wgpu".into())
            .spawn(move || {
                let gpu = Arc::clone(&theirs);
                let work = move || Worker::new(gpu).work(&inbox);
                // Whatever goes wrong there, those who wait must hear of it.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                theirs.lose();
            })
            .map_err(|e| Error::device("engine", format!("cannot start the device's thread: {e}")))?;
        Ok(Arc::new(Link { gpu, messages }))
    }

    /// Says something; one that says it to a lost device hears of it when it waits.
    pub fn send(&self, message: Message) {
        let _ = self.messages.send(message);
    }

    /// Waits for an answer: until `cancel` is set, the device is lost, or it keeps silent past its
    /// deadline, which counts as lost too.
    pub fn wait<T>(&self, answer: &Receiver<Result<T, Error>>, cancel: &AtomicBool) -> Result<T, Error> {
        let mut silent_since = Instant::now();
        loop {
            match answer.recv_timeout(LOOK) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Gpu::lost_error());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if cancel.load(Ordering::Relaxed) {
                return Err(Error::cancelled("dispatch"));
            }
            if self.gpu.is_lost() {
                // The answer may have come at the same time.
                return answer.try_recv().unwrap_or_else(|_| Err(Gpu::lost_error()));
            }
            // The thread itself may be stuck in the driver: it shows when it is not.
            if self.gpu.take_sign_of_life() {
                silent_since = Instant::now();
            } else if silent_since.elapsed() > 2 * self.gpu.deadline {
                self.gpu.lose();
                return Err(Gpu::lost_error());
            }
        }
    }
}

/// What the thread keeps of a piece.
struct Loaded {
    params: wgpu::Buffer,
    /// For each command: bind groups by the buffers in them.
    groups: Vec<Vec<(Vec<u64>, wgpu::BindGroup)>>,
}

/// A run that has begun.
struct Active {
    run: Run,
    inputs: Vec<Arc<DeviceBuffer>>,
    buffers: Vec<Option<Arc<DeviceBuffer>>>,
    /// Commands recorded.
    done: usize,
}

struct Worker {
    gpu: Arc<Gpu>,
    loaded: HashMap<u64, Loaded>,
    waiting: VecDeque<Run>,
    active: VecDeque<Active>,
    in_flight: VecDeque<(wgpu::SubmissionIndex, Instant)>,
}

impl Worker {
    fn new(gpu: Arc<Gpu>) -> Worker {
        Worker {
            gpu,
            loaded: HashMap::new(),
            waiting: VecDeque::new(),
            active: VecDeque::new(),
            in_flight: VecDeque::new(),
        }
    }

    fn work(&mut self, inbox: &Receiver<Message>) {
        loop {
            let idle = self.waiting.is_empty() && self.active.is_empty() && self.in_flight.is_empty();
            if idle {
                match inbox.recv_timeout(Duration::from_millis(200)) {
                    Ok(message) => self.take(message),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            while let Ok(message) = inbox.try_recv() {
                self.take(message);
            }
            self.gpu.show_life();
            if self.gpu.is_lost() {
                return self.fail_all(inbox);
            }
            if self.in_flight.len() < IN_FLIGHT && self.step() {
                continue;
            }
            self.poll();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Run(run) => self.waiting.push_back(run),
            Message::Read(read) => self.read(read),
            Message::Forget(id) => _ = self.loaded.remove(&id),
        }
    }

    /// Begins or goes on with one run; false when there is none.
    fn step(&mut self) -> bool {
        if let Some(run) = self.waiting.pop_front()
            && !run.stop.load(Ordering::Relaxed)
        {
            match self.begin(&run) {
                Ok((inputs, buffers)) => self.active.push_back(Active { run, inputs, buffers, done: 0 }),
                Err(e) => _ = run.reply.send(Err(e)),
            }
        }
        // Each in turn, a slice at a time.
        let Some(mut active) = self.active.pop_front() else {
            return false;
        };
        if active.run.stop.load(Ordering::Relaxed) {
            return true;
        }
        match self.slice(&mut active) {
            Ok(false) => self.active.push_back(active),
            Ok(true) => {
                let answer = self.finish(&mut active);
                let _ = active.run.reply.send(answer);
            }
            Err(e) => _ = active.run.reply.send(Err(e)),
        }
        self.gpu.data.sweep();
        true
    }

    /// Brings the inputs to the device. Nothing recorded is unsubmitted here: uploads go before the
    /// next submission.
    #[allow(clippy::type_complexity)]
    fn begin(
        &mut self,
        run: &Run,
    ) -> Result<(Vec<Arc<DeviceBuffer>>, Vec<Option<Arc<DeviceBuffer>>>), Error> {
        let gpu = Arc::clone(&self.gpu);
        let piece = &run.piece;
        let mut inputs = Vec::with_capacity(run.inputs.len());
        for value in &run.inputs {
            inputs.push(match value.device() {
                Some(buffer) if buffer.generation() == gpu.generation => buffer,
                _ => {
                    let bytes = value.host().ok_or_else(Gpu::lost_error)?;
                    let buffer = gpu.scoped("constant", || {
                        let buffer = gpu.data.take(&gpu.device, bytes.len())?;
                        if let Some(target) = buffer.buffer() {
                            let (words, rest) = bytes.split_at(bytes.len() / 4 * 4);
                            if !words.is_empty() {
                                gpu.queue.write_buffer(target, 0, words);
                            }
                            if !rest.is_empty() {
                                let mut last = [0u8; 4];
                                last[..rest.len()].copy_from_slice(rest);
                                gpu.queue.write_buffer(target, words.len() as u64, &last);
                            }
                        }
                        Ok(Arc::new(buffer))
                    })??;
                    value.set_device(Arc::clone(&buffer));
                    buffer
                }
            });
        }
        if !self.loaded.contains_key(&piece.id) && !piece.commands.is_empty() {
            let params = gpu.scoped("dispatch", || {
                let words = piece.params.len().max(1);
                let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size: words as u64 * 4,
                    usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                });
                let bytes: Vec<u8> = piece.params.iter().flat_map(|w| w.to_le_bytes()).collect();
                gpu.queue.write_buffer(&buffer, 0, &bytes);
                buffer
            })?;
            let groups = piece.commands.iter().map(|_| Vec::new()).collect();
            self.loaded.insert(piece.id, Loaded { params, groups });
        }
        Ok((inputs, vec![None; piece.buffers.len()]))
    }

    /// Records and submits a slice; true when it was the last.
    fn slice(&mut self, active: &mut Active) -> Result<bool, Error> {
        let gpu = Arc::clone(&self.gpu);
        let piece = Arc::clone(&active.run.piece);
        if active.done == piece.commands.len() {
            return Ok(true);
        }
        let Some(loaded) = self.loaded.get_mut(&piece.id) else {
            return Err(Error::device("dispatch", "a plan is unknown to the device (a bug in Warren)"));
        };
        let index = gpu.scoped("dispatch", || {
            let mut encoder =
                gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
            {
                let mut pass = encoder
                    .begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes: None });
                let mut work = 0u64;
                let mut kernel = usize::MAX;
                while active.done < piece.commands.len() && work < gpu.limits.slice {
                    let dispatch = &piece.commands[active.done];
                    for &b in &dispatch.takes {
                        let bytes = piece.buffers[b as usize];
                        active.buffers[b as usize] = Some(Arc::new(gpu.data.take(&gpu.device, bytes)?));
                    }
                    let pipeline = &active.run.pipelines[dispatch.kernel];
                    if kernel != dispatch.kernel {
                        pass.set_pipeline(&pipeline.pipeline);
                        kernel = dispatch.kernel;
                    }
                    let group = bind_group(&gpu, loaded, active, pipeline)?;
                    pass.set_bind_group(0, group, &[]);
                    let (x, y) = dimensions(dispatch.groups, gpu.limits.groups);
                    pass.dispatch_workgroups(x, y, 1);
                    for &b in &dispatch.frees {
                        active.buffers[b as usize] = None;
                    }
                    work += dispatch.work;
                    active.done += 1;
                }
            }
            Ok(gpu.queue.submit([encoder.finish()]))
        })??;
        self.in_flight.push_back((index, Instant::now()));
        Ok(active.done == piece.commands.len())
    }

    /// The outputs of a run whose work is submitted.
    fn finish(&mut self, active: &mut Active) -> Result<Vec<Arc<DeviceBuffer>>, Error> {
        let piece = Arc::clone(&active.run.piece);
        let mut outputs = Vec::with_capacity(piece.outputs.len());
        for &b in &piece.outputs {
            let buffer = match active.buffers[b as usize].take() {
                Some(buffer) => buffer,
                // Of no elements: no command wrote it.
                None => Arc::new(self.gpu.data.take(&self.gpu.device, piece.buffers[b as usize])?),
            };
            outputs.push(buffer);
        }
        Ok(outputs)
    }

    fn read(&mut self, read: Read) {
        let Read { buffer, bytes, reply } = read;
        let gpu = Arc::clone(&self.gpu);
        let size = (bytes.max(1) as u64).next_multiple_of(4);
        let answer = reply.clone();
        let submitted = gpu.scoped("read", || {
            let staging = gpu.staging.take(&gpu.device, size as usize)?;
            let (Some(from), Some(to)) = (buffer.buffer(), staging.buffer()) else {
                return Err(Error::device("read", "a buffer is missing (a bug in Warren)"));
            };
            let mut encoder =
                gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
            encoder.copy_buffer_to_buffer(from, 0, to, 0, size);
            let index = gpu.queue.submit([encoder.finish()]);
            let target = to.clone();
            target.map_async(wgpu::MapMode::Read, 0..size, move |mapped| {
                let _ = answer.send(match mapped {
                    Ok(()) => Ok(Mapped(staging)),
                    Err(_) => Err(Gpu::lost_error()),
                });
            });
            Ok(index)
        });
        match submitted.and_then(|inner| inner) {
            Ok(index) => self.in_flight.push_back((index, Instant::now())),
            Err(e) => _ = reply.send(Err(e)),
        }
        gpu.staging.sweep();
    }

    /// Waits a little for the oldest submission.
    fn poll(&mut self) {
        let Some((index, since)) = self.in_flight.front() else {
            return;
        };
        let wait = wgpu::PollType::Wait { submission_index: Some(index.clone()), timeout: Some(TURN) };
        match self.gpu.device.poll(wait) {
            Ok(_) => _ = self.in_flight.pop_front(),
            Err(wgpu::PollError::Timeout) => {
                if since.elapsed() > self.gpu.deadline {
                    self.gpu.lose();
                }
            }
            Err(_) => self.gpu.lose(),
        }
    }

    /// Tells everyone who waits that the device is gone.
    fn fail_all(&mut self, inbox: &Receiver<Message>) {
        self.gpu.lose();
        let lost = || Err(Gpu::lost_error());
        self.active.drain(..).for_each(|a| _ = a.run.reply.send(lost()));
        self.waiting.drain(..).for_each(|r| _ = r.reply.send(lost()));
        while let Ok(message) = inbox.try_recv() {
            match message {
                Message::Run(run) => _ = run.reply.send(lost()),
                Message::Read(read) => _ = read.reply.send(Err(Gpu::lost_error())),
                Message::Forget(_) => {}
            }
        }
    }
}

/// The bind group of the next command, a kept one where its buffers are the same.
fn bind_group<'a>(
    gpu: &Gpu,
    loaded: &'a mut Loaded,
    active: &Active,
    pipeline: &Pipeline,
) -> Result<&'a wgpu::BindGroup, Error> {
    let missing = || Error::device("dispatch", "a planned buffer is missing (a bug in Warren)");
    let dispatch = &active.run.piece.commands[active.done];
    let buffer = |target: &Target| match target {
        Target::Input(i) => active.inputs.get(*i as usize),
        Target::Buffer(b) => active.buffers[*b as usize].as_ref(),
    };
    let mut ids = Vec::with_capacity(dispatch.binds.len());
    for (target, _, _) in &dispatch.binds {
        ids.push(buffer(target).ok_or_else(missing)?.id());
    }
    let Loaded { params, groups } = loaded;
    let kept = &mut groups[active.done];
    if let Some(at) = kept.iter().position(|(known, _)| *known == ids) {
        return Ok(&kept[at].1);
    }
    let binding = |buffer, offset, size| {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer,
            offset,
            size: wgpu::BufferSize::new(size),
        })
    };
    let (offset, size) = dispatch.params;
    let mut entries = vec![wgpu::BindGroupEntry { binding: 0, resource: binding(&*params, offset, size) }];
    for (at, (target, offset, size)) in dispatch.binds.iter().enumerate() {
        let buffer = buffer(target).and_then(|b| b.buffer()).ok_or_else(missing)?;
        entries
            .push(wgpu::BindGroupEntry { binding: at as u32 + 1, resource: binding(buffer, *offset, *size) });
    }
    let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.group,
        entries: &entries,
    });
    if kept.len() >= GROUPS {
        kept.remove(0);
    }
    kept.push((ids, group));
    kept.last().map(|(_, group)| group).ok_or_else(missing)
}
