//! Turns a graph into a plan: free views, fused element-wise chains, kernels, memory lifetimes.

use crate::buffer::capacity_for;
use crate::cpu::conv::Conv;
use crate::cpu::fuse::Fusion;
use crate::cpu::matmul::{Matmul, Product, Strides};
use crate::cpu::memory::assign_memory;
use crate::cpu::movement::{Concat, Pad, StridedCopy};
use crate::cpu::plan::{Kernel, Place, Plan, Step};
use crate::cpu::program::{Builder, Class, Operand, collapse};
use crate::cpu::reduce::{Reduce, Softmax};
use crate::cpu::simd::Isa;
use crate::error::Error;
use crate::graph::{Graph, GraphNode, Source};
use crate::op::{Op, PaddingMode};
use crate::rules;
use crate::shape::{Dims, broadcast_strides, strides};
use crate::types::DataType;

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
        let half = node.descriptor.data_type == DataType::Float16;
        let moves =
            matches!(node.op, Op::Transpose { .. } | Op::Slice { .. } | Op::Concat { .. } | Op::Pad { .. });
        let slot = if half && !moves {
            // float16 is computed in float32, and rounded once at the end.
            for (place, source) in inputs.iter_mut().zip(&node.inputs) {
                let count = graph.descriptor(*source).shape.count();
                *place = Place::Slot(self.step(Kernel::Widen, node.op.name(), vec![*place], count * 4));
            }
            let wide = self.kernel(index, inputs)?;
            let count = node.descriptor.shape.count();
            self.step(Kernel::Narrow, node.op.name(), vec![Place::Slot(wide)], count * 2)
        } else {
            self.kernel(index, inputs)?
        };
        self.places[index] = Some(Place::Slot(slot));
        Ok(())
    }

    /// Plans one operation that is not element-wise; float16 operands come as float32.
    fn kernel(&mut self, index: usize, inputs: Vec<Place>) -> Result<u32, Error> {
        let graph = self.graph;
        let node = &graph.nodes[index];
        let name = node.op.name();
        let d = node.descriptor;
        let input = graph.descriptor(node.inputs[0]);
        let dims = input.shape.as_slice();
        let count = d.shape.count();
        let size = d.data_type.size();
        let wide = count * size.max(if d.data_type.is_float() { 4 } else { size });
        self.work = self.work.saturating_add(count.max(input.shape.count()));
        Ok(match &node.op {
            Op::Transpose { permutation } => {
                let copy = transpose_copy(&input.shape, permutation.as_ref());
                self.step(Kernel::Copy(size, copy), name, inputs, count * size)
            }
            Op::Slice { starts, strides: steps, .. } => {
                let own = strides(dims);
                let axes = 0..dims.len();
                let step = |i: usize| steps.map_or(1, |s| s.as_slice()[i] as usize);
                let offset = axes.clone().map(|i| starts.as_slice()[i] as usize * own[i]).sum();
                let sizes = axes.map(|i| (d.shape.as_slice()[i] as usize, own[i] * step(i)));
                let copy = StridedCopy::new(sizes, offset);
                self.step(Kernel::Copy(size, copy), name, inputs, count * size)
            }
            Op::Concat { axis } => {
                let after = |shape: &Dims| -> usize {
                    shape.as_slice()[*axis as usize..].iter().map(|&d| d as usize).product()
                };
                let outer = dims[..*axis as usize].iter().map(|&d| d as usize).product();
                let pieces = node.inputs.iter().map(|s| after(&graph.descriptor(*s).shape) * size);
                let concat = Concat { outer, pieces: pieces.collect() };
                self.step(Kernel::Concat(concat), name, inputs, count * size)
            }
            Op::Pad { beginning, ending, mode } => {
                let bits = match mode {
                    PaddingMode::Constant(value) => element_bits(d.data_type, *value),
                    _ => 0,
                };
                let pad = Pad::new(dims, beginning.as_slice(), ending.as_slice(), *mode, bits);
                self.step(Kernel::Pad(size, pad), name, inputs, count * size)
            }
            Op::Reduce { kind, axes, .. } => {
                let mask = rules::axes_mask(name, axes.as_ref(), dims.len())?;
                let reduce = Reduce::new(*kind, Class::of(d.data_type), dims, mask);
                self.step(Kernel::Reduce(reduce), name, inputs, wide)
            }
            Op::Softmax { axis } => {
                let product = |dims: &[u32]| dims.iter().map(|&d| d as usize).product();
                let softmax = Softmax {
                    outer: product(&dims[..*axis as usize]),
                    axis: dims[*axis as usize] as usize,
                    inner: product(&dims[*axis as usize + 1..]),
                };
                self.step(Kernel::Softmax(softmax), name, inputs, wide)
            }
            Op::Matmul => {
                let matmul = matmul(&input.shape, &graph.descriptor(node.inputs[1]).shape, &d.shape);
                self.work = self.work.saturating_add(count.saturating_mul(matmul.product.k));
                self.step(Kernel::Matmul(matmul), name, inputs, wide)
            }
            Op::Gemm { alpha, beta, a_transpose, b_transpose } => {
                let b = graph.descriptor(node.inputs[1]);
                let product = gemm(&input.shape, &b.shape, *a_transpose, *b_transpose, *alpha as f32);
                let (product, start) = match node.inputs.get(2) {
                    Some(&c) => {
                        let pattern = collapse(&graph.descriptor(c).shape, &d.shape);
                        (Product { keep: true, ..product }, Some((pattern, *beta as f32)))
                    }
                    None => (product, None),
                };
                self.work = self.work.saturating_add(count.saturating_mul(product.k));
                self.step(Kernel::Gemm(product, start), name, inputs, wide)
            }
            Op::Conv2d(options) => {
                let filter = graph.descriptor(node.inputs[1]).shape;
                let sizes =
                    rules::conv_sizes(&input.shape, &filter, options).map_err(|m| Error::invalid(name, m))?;
                let activation = self.fusion.activation(index);
                let conv = Conv::new(sizes, *options, activation, self.isa, self.threads);
                self.work = self.work.saturating_add(count.saturating_mul(conv.taps()));
                let workspace = capacity_for(conv.packed() * 4) + conv.workspace() * 4;
                let slot = self.slot(wide);
                self.push(Kernel::Conv(Box::new(conv)), name, inputs, vec![slot], workspace);
                slot
            }
            _ => return Err(Error::device(name, "has no kernel (a bug in Warren)")),
        })
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

fn transpose_copy(input: &Dims, permutation: Option<&Dims>) -> StridedCopy {
    let own = strides(input.as_slice());
    let rank = input.rank();
    let axis = |i: usize| permutation.map_or(rank - 1 - i, |p| p.as_slice()[i] as usize);
    let dims = (0..rank).map(|i| (input.as_slice()[axis(i)] as usize, own[axis(i)]));
    StridedCopy::new(dims, 0)
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
        Op::Slice { .. } | Op::Pad { .. } => input.shape == node.descriptor.shape,
        Op::Transpose { permutation } => {
            same_size && transpose_copy(&input.shape, permutation.as_ref()).is_contiguous()
        }
        _ => false,
    }
}

fn matmul(a: &Dims, b: &Dims, result: &Dims) -> Matmul {
    let (da, db, dr) = (a.as_slice(), b.as_slice(), result.as_slice());
    let (ra, rb, rr) = (da.len(), db.len(), dr.len());
    let (m, k, n) = (da[ra - 2] as usize, da[ra - 1] as usize, db[rb - 1] as usize);
    let dense = |columns: usize| Strides { row: columns, column: 1 };
    let mut product =
        Product { m, n, k, a: dense(k), b: dense(n), target: dense(n), keep: false, scale: 1.0 };
    let lead = |d: &[u32]| Dims::new(d).unwrap_or(Dims::SCALAR);
    let (la, lb, lr) = (lead(&da[..ra - 2]), lead(&db[..rb - 2]), lead(&dr[..rr - 2]));
    let batch = lr.count();
    if lb.count() == 1 && la.count() == batch {
        // One right side for all: the left ones make one tall matrix.
        product.m = m * batch;
        return Matmul { product, batches: vec![(0, 0)] };
    }
    let (sa, sb) = (broadcast_strides(&la, &lr), broadcast_strides(&lb, &lr));
    let batches = (0..batch).map(|index| {
        let (mut rest, mut at_a, mut at_b) = (index, 0, 0);
        for (axis, &d) in lr.as_slice().iter().enumerate().rev() {
            at_a += rest % d as usize * sa[axis];
            at_b += rest % d as usize * sb[axis];
            rest /= d as usize;
        }
        (at_a * m * k, at_b * k * n)
    });
    Matmul { product, batches: batches.collect() }
}

fn gemm(a: &Dims, b: &Dims, a_transpose: bool, b_transpose: bool, scale: f32) -> Product {
    let view = |d: &Dims, turned: bool| {
        let (rows, columns) = (d.as_slice()[0] as usize, d.as_slice()[1] as usize);
        if turned {
            (columns, rows, Strides { row: 1, column: columns })
        } else {
            (rows, columns, Strides { row: columns, column: 1 })
        }
    };
    let (m, k, a) = view(a, a_transpose);
    let (_, n, b) = view(b, b_transpose);
    Product { m, n, k, a, b, target: Strides { row: n, column: 1 }, keep: false, scale }
}

/// A number converted as by `cast`, as its bits in the low bytes.
fn element_bits(data_type: DataType, value: f64) -> u64 {
    match data_type {
        DataType::Float32 => u64::from((value as f32).to_bits()),
        DataType::Float16 => u64::from(half::f16::from_f64(value).to_bits()),
        DataType::Int32 => u64::from(value as i32 as u32),
        DataType::Uint32 => u64::from(value as u32),
        DataType::Int64 => value as i64 as u64,
        DataType::Uint64 => value as u64,
        DataType::Int8 => u64::from(value as i8 as u8),
        DataType::Uint8 => u64::from(value as u8),
    }
}
