//! Cuts a plan into pieces that run on the device and pieces that run on the CPU, and plans the
//! buffers of the former.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::Compiled;
use crate::buffer::capacity_for;
use crate::cpu::Cpu;
use crate::cpu::plan::{Place, Plan, Step};
use crate::error::Error;
use crate::graph::Graph;
use crate::rules::Descriptor;
use crate::shape::Dims;
use crate::types::DataType;
use crate::wgpu::command::{Command, Limits, Unhosted, What};
use crate::wgpu::gpu::{Gpu, Pipeline};
use crate::wgpu::lower;

/// Words between the parameters of two commands: no device asks for a larger alignment of
/// bindings than 256 bytes.
const PARAMS_ALIGN: usize = 64;

/// Part of a plan.
pub(crate) struct Piece {
    /// What it reads that it does not make.
    pub inputs: Vec<Place>,
    /// What it makes that others need.
    pub outputs: Vec<u32>,
    /// Slots that nobody needs after it.
    pub frees: Vec<u32>,
    pub work: Work,
}

/// Where a piece runs.
pub(crate) enum Work {
    Device(Arc<DevicePiece>),
    /// And why, step by step.
    Host(Arc<dyn Compiled>, Vec<(&'static str, Unhosted)>),
}

/// The pipelines of a piece, and the generation of the device that they are of.
type Ready = (u64, Arc<Vec<Arc<Pipeline>>>);

/// Commands for the device, their buffers planned.
pub(crate) struct DevicePiece {
    /// Known to the device's thread by.
    pub id: u64,
    /// Bytes of each buffer of the piece, scratch memory included.
    pub buffers: Vec<usize>,
    pub commands: Vec<Dispatch>,
    /// The parameters of all commands, one behind the other.
    pub params: Vec<u32>,
    /// For each output of the piece: its buffer.
    pub outputs: Vec<u32>,
    /// The most bytes that its buffers take at once.
    pub peak: u64,
    /// Pipelines of the commands, for one device.
    ready: Mutex<Option<Ready>>,
    kernels: Vec<crate::wgpu::kernel::Kernel>,
}

/// A buffer of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// The piece's input of this number.
    Input(u32),
    /// The piece's buffer of this number.
    Buffer(u32),
}

/// A command with its buffers named.
pub(crate) struct Dispatch {
    /// Number of the kernel among the piece's.
    pub kernel: usize,
    /// Bytes where its parameters begin, and how many they are.
    pub params: (u64, u64),
    pub groups: u32,
    /// Buffer, offset, size.
    pub binds: Vec<(Target, u64, u64)>,
    pub work: u64,
    /// Buffers first and last used here.
    pub takes: Vec<u32>,
    pub frees: Vec<u32>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl DevicePiece {
    /// The pipelines of all commands on this device.
    pub fn pipelines(&self, gpu: &Gpu) -> Result<Arc<Vec<Arc<Pipeline>>>, Error> {
        let kept = self.ready.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((generation, pipelines)) = kept
            && generation == gpu.generation
        {
            return Ok(pipelines);
        }
        let all: Result<Vec<_>, Error> = self.kernels.iter().map(|k| gpu.pipeline(k)).collect();
        let all = Arc::new(all?);
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        *ready = Some((gpu.generation, Arc::clone(&all)));
        Ok(all)
    }

    /// About how many bytes it takes.
    pub fn weight(&self) -> usize {
        let dispatches = self.commands.len() * (size_of::<Dispatch>() + 96);
        // Bind groups are kept with it.
        dispatches * 2 + self.params.len() * 8 + self.kernels.len() * 64
    }
}

/// A description of so many bytes, for a slot: kernels know their own shapes.
pub(crate) fn bytes_descriptor(bytes: usize) -> Descriptor {
    let (data_type, count) = match i32::try_from(bytes) {
        Ok(_) => (DataType::Uint8, bytes),
        Err(_) => (DataType::Uint64, bytes.div_ceil(8)),
    };
    Descriptor { data_type, shape: Dims::new(&[count as u32]).unwrap_or(Dims::SCALAR) }
}

/// A plan in pieces, and the most bytes that a run of it holds at once.
pub(crate) fn cut(plan: Plan, graph: &Graph, cpu: &Cpu, limits: &Limits) -> (Vec<Piece>, u64) {
    let Plan { slots, steps, results, parallel, .. } = plan;
    let bytes = |place: &Place| match place {
        Place::Leaf(leaf) => graph.leaves[*leaf as usize].bytes(),
        Place::Slot(slot) => slots[*slot as usize],
    };
    // Runs of steps for one side.
    let mut runs: Vec<(Vec<Step>, Run)> = Vec::new();
    for step in steps {
        let inputs: Vec<usize> = step.inputs.iter().map(bytes).collect();
        let outputs: Vec<usize> = step.outputs.iter().map(|&o| slots[o as usize]).collect();
        let planned = lower::commands(limits, &step, &inputs, &outputs);
        match (planned, runs.last_mut()) {
            (Ok(commands), Some((steps, Run::Device(list)))) => {
                list.push(commands);
                steps.push(step);
            }
            (Ok(commands), _) => runs.push((vec![step], Run::Device(vec![commands]))),
            (Err(why), Some((steps, Run::Host(reasons)))) => {
                reasons.push((step.name, why));
                steps.push(step);
            }
            (Err(why), _) => runs.push((vec![step.clone()], Run::Host(vec![(step.name, why)]))),
        }
    }
    let mut last_use: HashMap<u32, usize> = HashMap::new();
    for (at, (steps, _)) in runs.iter().enumerate() {
        for step in steps {
            step.outputs.iter().for_each(|&o| _ = last_use.insert(o, at));
            let slots = step.inputs.iter().filter_map(|p| match p {
                Place::Slot(s) => Some(*s),
                Place::Leaf(_) => None,
            });
            slots.for_each(|s| _ = last_use.insert(s, at));
        }
    }
    let is_result = |slot: u32| results.iter().any(|(p, _)| *p == Place::Slot(slot));
    let mut pieces = Vec::with_capacity(runs.len());
    let (mut live, mut peak) = (0u64, 0u64);
    for (at, (steps, run)) in runs.into_iter().enumerate() {
        let (inputs, made) = reads_and_writes(&steps);
        let mut outputs: Vec<u32> = made
            .iter()
            .copied()
            .filter(|s| is_result(*s) || last_use.get(s).is_some_and(|&last| last > at))
            .collect();
        // Results first: they are charged first.
        outputs.sort_by_key(|&s| !is_result(s));
        let (work, own) = match run {
            Run::Device(commands) => {
                let piece = device_piece(&steps, commands, &inputs, &outputs, &slots);
                let own = piece.peak;
                (Work::Device(Arc::new(piece)), own)
            }
            Run::Host(reasons) => {
                let plan = host_plan(steps, &inputs, &outputs, &slots, parallel);
                let compiled = cpu.finish(plan);
                let own = compiled.peak_bytes();
                (Work::Host(compiled, reasons), own)
            }
        };
        peak = peak.max(live + own);
        live += outputs.iter().map(|&s| capacity_for(slots[s as usize]) as u64).sum::<u64>();
        let mut frees: Vec<u32> = last_use
            .iter()
            .filter(|&(&slot, &last)| last == at && !is_result(slot))
            .map(|(&slot, _)| slot)
            .filter(|slot| !made.contains(slot) || outputs.contains(slot))
            .collect();
        frees.sort_unstable();
        live -= frees.iter().map(|&s| capacity_for(slots[s as usize]) as u64).sum::<u64>();
        pieces.push(Piece { inputs, outputs, frees, work });
    }
    (pieces, peak)
}

enum Run {
    Device(Vec<(Vec<Command>, Vec<usize>)>),
    Host(Vec<(&'static str, Unhosted)>),
}

/// What steps read that they do not make, and what they make.
fn reads_and_writes(steps: &[Step]) -> (Vec<Place>, Vec<u32>) {
    let mut made: Vec<u32> = Vec::new();
    let mut inputs: Vec<Place> = Vec::new();
    let mut known: std::collections::HashSet<(bool, u32)> = std::collections::HashSet::new();
    for step in steps {
        for &place in &step.inputs {
            let key = match place {
                Place::Leaf(l) => (true, l),
                Place::Slot(s) => (false, s),
            };
            if known.insert(key) {
                inputs.push(place);
            }
        }
        for &slot in &step.outputs {
            known.insert((false, slot));
            made.push(slot);
        }
    }
    (inputs, made)
}

fn device_piece(
    steps: &[Step],
    commands: Vec<(Vec<Command>, Vec<usize>)>,
    inputs: &[Place],
    outputs: &[u32],
    slots: &[usize],
) -> DevicePiece {
    let mut buffers: Vec<usize> = Vec::new();
    let mut of_slot: HashMap<u32, u32> = HashMap::new();
    let mut of_input: HashMap<(bool, u32), u32> = HashMap::new();
    let key = |place: &Place| match place {
        Place::Leaf(l) => (true, *l),
        Place::Slot(s) => (false, *s),
    };
    for (at, place) in inputs.iter().enumerate() {
        of_input.insert(key(place), at as u32);
    }
    let mut kernels = Vec::new();
    let mut by_text: HashMap<Arc<str>, usize> = HashMap::new();
    let mut params: Vec<u32> = Vec::new();
    let mut list: Vec<Dispatch> = Vec::new();
    for (step, (commands, scratch)) in steps.iter().zip(commands) {
        for &slot in &step.outputs {
            of_slot.insert(slot, buffers.len() as u32);
            buffers.push(slots[slot as usize]);
        }
        let first_scratch = buffers.len() as u32;
        buffers.extend(scratch);
        let target = |what: What| match what {
            What::Input(at) => {
                let place = &step.inputs[at];
                match (of_input.get(&key(place)), place) {
                    (Some(&input), _) => Target::Input(input),
                    (None, Place::Slot(slot)) => Target::Buffer(of_slot.get(slot).copied().unwrap_or(0)),
                    (None, Place::Leaf(leaf)) => Target::Input(*leaf),
                }
            }
            What::Output(at) => Target::Buffer(of_slot.get(&step.outputs[at]).copied().unwrap_or(0)),
            What::Scratch(at) => Target::Buffer(first_scratch + at as u32),
        };
        for command in commands {
            let kernel = *by_text.entry(Arc::clone(&command.kernel.text)).or_insert_with(|| {
                kernels.push(command.kernel.clone());
                kernels.len() - 1
            });
            let start = params.len() * 4;
            params.extend_from_slice(&command.params);
            params.resize(params.len().next_multiple_of(PARAMS_ALIGN), 0);
            list.push(Dispatch {
                kernel,
                params: (start as u64, (params.len() * 4 - start) as u64),
                groups: command.groups,
                binds: command.binds.iter().map(|b| (target(b.what), b.offset, b.size)).collect(),
                work: command.work,
                takes: Vec::new(),
                frees: Vec::new(),
            });
        }
    }
    let outputs: Vec<u32> = outputs.iter().map(|s| of_slot.get(s).copied().unwrap_or(0)).collect();
    let peak = lifetimes(&mut list, &buffers, &outputs);
    DevicePiece {
        id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        buffers,
        commands: list,
        params,
        outputs,
        peak,
        ready: Mutex::new(None),
        kernels,
    }
}

/// Says where each buffer is first and last used; answers the most bytes held at once. Outputs that
/// no command writes (of no elements) are taken at the end, by the run itself.
fn lifetimes(list: &mut [Dispatch], buffers: &[usize], outputs: &[u32]) -> u64 {
    let mut span: Vec<Option<(usize, usize)>> = vec![None; buffers.len()];
    for (at, dispatch) in list.iter().enumerate() {
        for (target, _, _) in &dispatch.binds {
            if let Target::Buffer(b) = target {
                let span = span[*b as usize].get_or_insert((at, at));
                span.1 = at;
            }
        }
    }
    for (buffer, span) in span.iter().enumerate() {
        if let Some((first, last)) = *span {
            list[first].takes.push(buffer as u32);
            if !outputs.contains(&(buffer as u32)) {
                list[last].frees.push(buffer as u32);
            }
        }
    }
    let bytes = |b: &u32| capacity_for(buffers[*b as usize]) as u64;
    let unwritten = |b: &&u32| span[**b as usize].is_none();
    let (mut live, mut peak) = (0u64, 0u64);
    for dispatch in list.iter() {
        live += dispatch.takes.iter().map(bytes).sum::<u64>();
        peak = peak.max(live);
        live -= dispatch.frees.iter().map(bytes).sum::<u64>();
    }
    live += outputs.iter().filter(unwritten).map(bytes).sum::<u64>();
    peak.max(live)
}

/// The steps as a plan of their own, its leaves the piece's inputs.
fn host_plan(
    mut steps: Vec<Step>,
    inputs: &[Place],
    outputs: &[u32],
    slots: &[usize],
    parallel: bool,
) -> Plan {
    let leaf_of: HashMap<(bool, u32), u32> = inputs
        .iter()
        .enumerate()
        .map(|(at, place)| match place {
            Place::Leaf(l) => ((true, *l), at as u32),
            Place::Slot(s) => ((false, *s), at as u32),
        })
        .collect();
    let mut slot_of: HashMap<u32, u32> = HashMap::new();
    let mut own = Vec::new();
    for step in &mut steps {
        for place in &mut step.inputs {
            let key = match place {
                Place::Leaf(l) => (true, *l),
                Place::Slot(s) => (false, *s),
            };
            *place = match leaf_of.get(&key) {
                Some(&leaf) => Place::Leaf(leaf),
                None => Place::Slot(slot_of.get(&key.1).copied().unwrap_or(0)),
            };
        }
        for slot in &mut step.outputs {
            let fresh = own.len() as u32;
            own.push(slots[*slot as usize]);
            slot_of.insert(*slot, fresh);
            *slot = fresh;
        }
    }
    let results = outputs
        .iter()
        .map(|s| (Place::Slot(slot_of.get(s).copied().unwrap_or(0)), bytes_descriptor(slots[*s as usize])))
        .collect();
    Plan { slots: own, steps, results, peak: 0, parallel }
}
