//! Turns a graph into a plan: free views, fused element-wise chains, kernels, memory lifetimes.

mod choose;

use crate::cpu::fuse::Fusion;
use crate::cpu::memory::assign_memory;
use crate::cpu::plan::{Kernel, Place, Plan, Step};
use crate::cpu::program::{Builder, Operand};
use crate::cpu::simd::Isa;
use crate::decompose::decompose;
use crate::error::Error;
use crate::graph::{Graph, GraphNode, Source};
use crate::op::{Interpolation, Op};
use crate::types::DataType;

use choose::{reverse_copy, transpose_copy};

/// Below this many multiplications or elements a graph runs on the caller's thread: waking others
/// costs some microseconds.
const PARALLEL_WORK: usize = 1 << 16;

/// Compiles a graph for so many threads.
pub(crate) fn lower(graph: &Graph, isa: Isa, threads: usize) -> Result<Plan, Error> {
    let mut plan = kernels(graph, isa, threads)?;
    plan.peak = assign_memory(&plan.slots, &mut plan.steps, &plan.results);
    Ok(plan)
}

/// Chooses kernels and fuses chains, and leaves the lifetimes of slots open (`frees`, `in_place`,
/// `peak`): what other backends start from too.
pub(crate) fn kernels(graph: &Graph, isa: Isa, threads: usize) -> Result<Plan, Error> {
    let simpler = decompose(graph)?;
    let graph = simpler.as_ref().unwrap_or(graph);
    let fusion = Fusion::of(graph);
    let mut lowering = Lowering {
        graph,
        isa,
        threads,
        places: vec![None; graph.nodes.len()],
        slots: Vec::new(),
        steps: Vec::new(),
        work: 0,
        fusion,
    };
    for index in 0..graph.nodes.len() {
        lowering.node(index)?;
    }
    let mut results = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate().filter(|(_, n)| n.output) {
        results.push((lowering.place(Source::Node(index as u32))?, node.descriptor));
    }
    let Lowering { slots, steps, work, .. } = lowering;
    Ok(Plan { slots, steps, results, peak: 0, parallel: threads > 1 && work >= PARALLEL_WORK })
}

struct Lowering<'a> {
    graph: &'a Graph,
    isa: Isa,
    threads: usize,
    fusion: Fusion,
    places: Vec<Option<Place>>,
    slots: Vec<usize>,
    steps: Vec<Step>,
    work: usize,
}

impl Lowering<'_> {
    fn place(&self, source: Source) -> Result<Place, Error> {
        match self.fusion.root(source) {
            Source::Leaf(leaf) => Ok(Place::Leaf(leaf)),
            Source::Node(node) => self.places[node as usize].ok_or_else(|| {
                Error::device("dispatch", "an operand was planned after its use (a bug in Warren)")
            }),
        }
    }

    fn slot(&mut self, bytes: usize) -> u32 {
        self.slots.push(bytes);
        self.slots.len() as u32 - 1
    }

    fn step(&mut self, kernel: Kernel, name: &'static str, inputs: Vec<Place>, bytes: usize) -> u32 {
        let slot = self.slot(bytes);
        self.push(kernel, name, inputs, vec![slot], 0);
        slot
    }

    fn push(
        &mut self,
        kernel: Kernel,
        name: &'static str,
        inputs: Vec<Place>,
        outputs: Vec<u32>,
        workspace: usize,
    ) {
        let frees = Vec::new();
        self.steps.push(Step { kernel, name, inputs, outputs, workspace, frees, in_place: None });
    }

    fn node(&mut self, index: usize) -> Result<(), Error> {
        let graph = self.graph;
        let node = &graph.nodes[index];
        if self.fusion.root(Source::Node(index as u32)) != Source::Node(index as u32) {
            return Ok(()); // a view of another
        }
        if node.op.is_element_wise() {
            if self.fusion.is_group_root(index) {
                self.group(index)?;
            }
            return Ok(());
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for &source in &node.inputs {
            inputs.push(self.place(source)?);
        }
        let half = |t: DataType| t == DataType::Float16;
        let slot = if moves(&node.op) {
            self.kernel(index, inputs)?
        } else {
            // float16 is computed in float32, and rounded once at the end.
            for (place, source) in inputs.iter_mut().zip(&node.inputs) {
                let d = graph.descriptor(*source);
                if half(d.data_type) {
                    let count = d.shape.count();
                    *place = Place::Slot(self.step(Kernel::Widen, node.op.name(), vec![*place], count * 4));
                }
            }
            let result = self.kernel(index, inputs)?;
            if half(node.descriptor.data_type) {
                let count = node.descriptor.shape.count();
                self.step(Kernel::Narrow, node.op.name(), vec![Place::Slot(result)], count * 2)
            } else {
                result
            }
        };
        self.places[index] = Some(Place::Slot(slot));
        Ok(())
    }

    /// Plans the fused group whose last node is `root`.
    fn group(&mut self, root: usize) -> Result<(), Error> {
        let graph = self.graph;
        let members = self.fusion.take_members(root);
        let total = graph.nodes[root].descriptor.shape.count();
        let mut builder = Builder::new(total);
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        let mut stored = Vec::new();
        for &member in &members {
            let node = &graph.nodes[member];
            let mut operands = Vec::with_capacity(node.inputs.len());
            for &source in &node.inputs {
                operands.push(self.operand(source, &members, &mut builder, &mut inputs)?);
            }
            let output = member == root || self.fusion.is_output(member);
            builder.add(&node.op, &operands, node.descriptor, output);
            if output {
                outputs.push(self.slot(node.descriptor.bytes()));
                stored.push(member);
            }
        }
        for (&member, &slot) in stored.iter().zip(&outputs) {
            self.places[member] = Some(Place::Slot(slot));
        }
        self.work = self.work.saturating_add(total.saturating_mul(members.len()));
        let name = graph.nodes[root].op.name();
        self.push(Kernel::Elements(builder.finish()), name, inputs, outputs, 0);
        Ok(())
    }

    fn operand(
        &self,
        source: Source,
        members: &[usize],
        builder: &mut Builder,
        inputs: &mut Vec<Place>,
    ) -> Result<Operand, Error> {
        let descriptor = self.graph.descriptor(source);
        if let Source::Node(node) = self.fusion.root(source) {
            if let Ok(at) = members.binary_search(&(node as usize)) {
                return Ok(Operand::Computed(at));
            }
            if let Op::Fill { value, data_type, .. } = self.graph.nodes[node as usize].op {
                return Ok(Operand::Number(value.to_bits(), data_type));
            }
        }
        let place = self.place(source)?;
        let at = match inputs.iter().position(|p| *p == place) {
            Some(at) => at,
            None => {
                inputs.push(place);
                builder.input(descriptor.data_type)
            }
        };
        Ok(Operand::Memory(at, descriptor))
    }
}

/// Whether an operation only moves elements: it then knows them by their size alone.
fn moves(op: &Op) -> bool {
    match op {
        Op::Resample2d(r) => r.mode == Interpolation::NearestNeighbor,
        _ => matches!(
            op,
            Op::Transpose { .. }
                | Op::Slice { .. }
                | Op::Concat { .. }
                | Op::Pad { .. }
                | Op::Gather { .. }
                | Op::GatherElements { .. }
                | Op::GatherNd
                | Op::ScatterElements { .. }
                | Op::ScatterNd
                | Op::Reverse { .. }
                | Op::Tile { .. }
                | Op::Triangular { .. }
        ),
    }
}

/// Whether an operation's result is its (first) operand under another shape.
pub(crate) fn is_view(graph: &Graph, node: &GraphNode) -> bool {
    let Some(&first) = node.inputs.first() else {
        return false;
    };
    let input = graph.descriptor(first);
    let same_size = input.shape.count() == node.descriptor.shape.count();
    match &node.op {
        Op::Reshape { .. } => true,
        Op::Unary(crate::op::Unary::Identity) => true,
        Op::Cast { to } => *to == input.data_type,
        Op::Expand { .. } => same_size,
        Op::Concat { .. } => node.inputs.len() == 1,
        // Without a size change nothing was cut; a stride that skips nothing is none.
        Op::Slice { .. } | Op::Pad { .. } | Op::Tile { .. } => input.shape == node.descriptor.shape,
        Op::Reverse { axes } => reverse_copy(&input.shape, axes.as_ref()).is_contiguous(),
        Op::Transpose { permutation } => {
            same_size && transpose_copy(&input.shape, permutation.as_ref()).is_contiguous()
        }
        _ => false,
    }
}
