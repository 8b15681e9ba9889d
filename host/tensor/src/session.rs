//! One job's recording scope: handles, lazily recorded operations, and their evaluation.
//!
//! Nodes live in an arena and name each other by index, so nothing here recurses however long a
//! chain a guest builds, and dropping a session is flat.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::budget::Budget;
use crate::engine::Engine;
use crate::error::Error;
use crate::graph::{Graph, GraphNode, Source};
use crate::op::Op;
use crate::rules::{self, Descriptor};
use crate::types::DataType;
use crate::value::Value;

/// Bits of an id that are the node's place in the arena; the rest tell apart the nodes that had
/// the place one after another.
const INDEX_BITS: u32 = 22;
const MAX_NODES: usize = 1 << INDEX_BITS;

/// A guest's handle to a tensor of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorId(u32);

impl TensorId {
    /// The handle that [`rep`](Self::rep) was taken of. Any number is safe: one that names no
    /// tensor is refused where it is used.
    pub fn from_rep(rep: u32) -> TensorId {
        TensorId(rep)
    }

    /// The handle as a plain number.
    pub fn rep(self) -> u32 {
        self.0
    }

    fn index(self) -> usize {
        self.0 as usize & (MAX_NODES - 1)
    }
}

enum State {
    Free,
    Pending { op: Op, inputs: Inputs },
    Ready(Arc<Value>),
}

/// Operands by arena index; only `concat` takes more than three.
enum Inputs {
    Few([u32; 3], u8),
    Many(Vec<u32>),
}

impl Inputs {
    fn as_slice(&self) -> &[u32] {
        match self {
            Inputs::Few(ids, n) => &ids[..*n as usize],
            Inputs::Many(ids) => ids,
        }
    }
}

struct Node {
    state: State,
    descriptor: Descriptor,
    /// Whether the guest still holds the handle.
    held: bool,
    /// Operand places of pending nodes that name this node.
    consumers: u32,
    /// How often the place was reused.
    generation: u32,
    /// The dispatch that last saw the node, its number there, and the consumers seen there.
    mark: u32,
    local: u32,
    seen: u32,
}

/// Buffers of `dispatch`, kept so that the next one allocates nothing.
#[derive(Default)]
struct Scratch {
    stack: Vec<(u32, u32)>,
    order: Vec<u32>,
    leaves: Vec<u32>,
    key: Vec<u8>,
}

/// One job's recording scope. Operations are checked and recorded at once, and run when a value
/// is asked for.
pub struct Session {
    engine: Arc<Engine>,
    budget: Arc<Budget>,
    cancel: Arc<AtomicBool>,
    nodes: Vec<Node>,
    free: Vec<u32>,
    pending: usize,
    epoch: u32,
    scratch: Scratch,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.engine.sessions().fetch_sub(1, Ordering::Relaxed);
    }
}

impl Session {
    /// A scope that charges `budget` and stops computing once `cancel` is set.
    pub fn new(engine: Arc<Engine>, budget: Arc<Budget>, cancel: Arc<AtomicBool>) -> Session {
        engine.sessions().fetch_add(1, Ordering::Relaxed);
        Session {
            engine,
            budget,
            cancel,
            nodes: Vec::new(),
            free: Vec::new(),
            pending: 0,
            epoch: 0,
            scratch: Scratch::default(),
        }
    }

    /// A tensor from row-major little-endian bytes, exactly product(shape) elements of them.
    pub fn constant(&mut self, data_type: DataType, shape: &[u32], data: &[u8]) -> Result<TensorId, Error> {
        let value = self.engine.value(&self.budget, data_type, shape, data)?;
        let descriptor = *value.descriptor();
        self.insert("constant", State::Ready(value), descriptor)
    }

    /// A handle to an asset or an input of the job. Charged to nobody here: the value keeps the
    /// charge it has.
    pub fn import(&mut self, value: &Arc<Value>) -> Result<TensorId, Error> {
        self.insert("import", State::Ready(Arc::clone(value)), *value.descriptor())
    }

    /// Checks and records one operation. Nothing runs.
    pub fn record(&mut self, op: Op, inputs: &[TensorId]) -> Result<TensorId, Error> {
        let name = op.name();
        let (descriptor, ids) = match *inputs {
            [] => (rules::infer(&op, &[])?, Inputs::Few([0; 3], 0)),
            [a] => {
                let d = [self.node(name, a)?.descriptor];
                (rules::infer(&op, &d)?, Inputs::Few([a.index() as u32, 0, 0], 1))
            }
            [a, b] => {
                let d = [self.node(name, a)?.descriptor, self.node(name, b)?.descriptor];
                let ids = [a.index() as u32, b.index() as u32, 0];
                (rules::infer(&op, &d)?, Inputs::Few(ids, 2))
            }
            [a, b, c] => {
                let d = [
                    self.node(name, a)?.descriptor,
                    self.node(name, b)?.descriptor,
                    self.node(name, c)?.descriptor,
                ];
                let ids = [a.index() as u32, b.index() as u32, c.index() as u32];
                (rules::infer(&op, &d)?, Inputs::Few(ids, 3))
            }
            _ => {
                let d: Result<Vec<Descriptor>, Error> =
                    inputs.iter().map(|&i| Ok(self.node(name, i)?.descriptor)).collect();
                let ids = inputs.iter().map(|i| i.index() as u32).collect();
                (rules::infer(&op, &d?)?, Inputs::Many(ids))
            }
        };
        let limit = self.engine.max_pending_nodes();
        if self.pending >= limit {
            return Err(Error::out_of_memory(
                name,
                format!("{limit} operations are recorded and not yet computed: dispatch first"),
            ));
        }
        let id = self.insert(name, State::Pending { op, inputs: ids }, descriptor)?;
        for input in inputs {
            self.nodes[input.index()].consumers += 1;
        }
        self.pending += 1;
        Ok(id)
    }

    /// Type and shape of a tensor.
    pub fn descriptor(&self, id: TensorId) -> Result<(DataType, &[u32]), Error> {
        let node = self.node("tensor", id)?;
        Ok((node.descriptor.data_type, node.descriptor.shape.as_slice()))
    }

    /// Computes several tensors in one graph. Whatever they are made of is kept too where the
    /// guest still holds a handle to it or something not computed here needs it, so that no work
    /// is done twice. After an error nothing has changed, and it may be tried again.
    pub fn dispatch(&mut self, outputs: &[TensorId]) -> Result<(), Error> {
        self.dispatch_reading(outputs, None)
    }

    /// As `dispatch`, and brings one of the tensors to host memory.
    fn dispatch_reading(&mut self, outputs: &[TensorId], read: Option<TensorId>) -> Result<(), Error> {
        for &id in outputs {
            self.node("dispatch", id)?;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let result = self.dispatch_with(outputs, read, &mut scratch);
        // Not kept when one huge graph made them huge.
        if scratch.key.capacity() < 1 << 20 {
            self.scratch = scratch;
        }
        result
    }

    /// The computed tensor; dispatches it if need be.
    pub fn value(&mut self, id: TensorId) -> Result<Arc<Value>, Error> {
        if !matches!(self.node("read", id)?.state, State::Ready(_)) {
            self.dispatch_reading(&[id], Some(id))?;
        }
        match &self.nodes[id.index()].state {
            State::Ready(value) => {
                self.engine.fetch(value, &self.cancel)?;
                Ok(Arc::clone(value))
            }
            _ => Err(Error::device("read", "the tensor was dispatched and has no value")),
        }
    }

    /// The guest dropped a handle. The tensor lives on while a recorded operation needs it. An
    /// unknown handle is ignored.
    pub fn release(&mut self, id: TensorId) {
        if self.node("tensor", id).is_ok() {
            let index = id.index() as u32;
            self.nodes[index as usize].held = false;
            self.free_unused(index);
        }
    }

    /// Operations recorded and not yet computed.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// The engine that runs this session's graphs.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The budget that this session charges.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Type and shape of an operand of `operation`.
    pub(crate) fn describe(&self, operation: &'static str, id: TensorId) -> Result<Descriptor, Error> {
        Ok(self.node(operation, id)?.descriptor)
    }

    #[inline]
    fn node(&self, operation: &'static str, id: TensorId) -> Result<&Node, Error> {
        match self.nodes.get(id.index()) {
            Some(n) if n.held && n.generation == id.0 >> INDEX_BITS => Ok(n),
            _ => Err(Error::invalid(operation, format!("handle {} names no tensor of this job", id.0))),
        }
    }

    fn insert(
        &mut self,
        operation: &'static str,
        state: State,
        descriptor: Descriptor,
    ) -> Result<TensorId, Error> {
        if let Some(index) = self.free.pop() {
            let node = &mut self.nodes[index as usize];
            node.state = state;
            node.descriptor = descriptor;
            node.held = true;
            return Ok(TensorId(index | node.generation << INDEX_BITS));
        }
        let index = self.nodes.len();
        if index >= MAX_NODES {
            return Err(Error::out_of_memory(
                operation,
                format!("the job holds {MAX_NODES} tensors: release some first"),
            ));
        }
        self.nodes.push(Node {
            state,
            descriptor,
            held: true,
            consumers: 0,
            generation: 0,
            mark: 0,
            local: 0,
            seen: 0,
        });
        Ok(TensorId(index as u32))
    }

    /// Frees a node that nobody needs, and then whatever only it needed.
    fn free_unused(&mut self, first: u32) {
        let mut next = Some(first);
        let mut more = Vec::new();
        while let Some(index) = next {
            let node = &mut self.nodes[index as usize];
            if !node.held && node.consumers == 0 && !matches!(node.state, State::Free) {
                node.generation = (node.generation + 1) & (u32::MAX >> INDEX_BITS);
                let state = std::mem::replace(&mut node.state, State::Free);
                self.free.push(index);
                if let State::Pending { inputs, .. } = state {
                    self.pending -= 1;
                    for &input in inputs.as_slice() {
                        self.nodes[input as usize].consumers -= 1;
                        more.push(input);
                    }
                }
            }
            next = more.pop();
        }
    }

    fn dispatch_with(
        &mut self,
        outputs: &[TensorId],
        read: Option<TensorId>,
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        self.collect(outputs, scratch);
        if scratch.order.is_empty() {
            return Ok(());
        }
        self.encode(outputs, scratch);
        let leaves: Vec<Arc<Value>> = scratch
            .leaves
            .iter()
            .filter_map(|&i| match &self.nodes[i as usize].state {
                State::Ready(value) => Some(Arc::clone(value)),
                _ => None,
            })
            .collect();
        let wanted: Vec<u32> =
            scratch.order.iter().copied().filter(|&i| self.nodes[i as usize].seen == u32::MAX).collect();
        let read = read.and_then(|id| wanted.iter().position(|&i| i as usize == id.index()));
        let run = || {
            let graph = || self.graph(scratch);
            self.engine.run(&scratch.key, graph, &leaves, &self.budget, read, &self.cancel)
        };
        // A kernel's bug must not take the host down with the guest that found it.
        let values = catch_unwind(AssertUnwindSafe(run))
            .unwrap_or_else(|_| Err(Error::device("dispatch", "a kernel panicked (a bug in Warren)")))?;
        if wanted.len() != values.len() {
            return Err(Error::device("dispatch", "the device answered too few tensors"));
        }
        for (&index, value) in wanted.iter().zip(values) {
            let state = State::Ready(value);
            let old = std::mem::replace(&mut self.nodes[index as usize].state, state);
            if let State::Pending { inputs, .. } = old {
                self.pending -= 1;
                for &input in inputs.as_slice() {
                    self.nodes[input as usize].consumers -= 1;
                    self.free_unused(input);
                }
            }
        }
        Ok(())
    }

    /// Finds what must be computed, operands first, and numbers it in that order.
    fn collect(&mut self, outputs: &[TensorId], scratch: &mut Scratch) {
        let Scratch { stack, order, leaves, .. } = scratch;
        stack.clear();
        order.clear();
        leaves.clear();
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.nodes.iter_mut().for_each(|n| n.mark = 0);
            self.epoch = 1;
        }
        let epoch = self.epoch;
        for output in outputs {
            let root = output.index() as u32;
            let node = &mut self.nodes[root as usize];
            if node.mark == epoch || !matches!(node.state, State::Pending { .. }) {
                continue;
            }
            node.mark = epoch;
            node.seen = 0;
            stack.push((root, 0));
            while let Some((index, place)) = stack.last_mut() {
                let State::Pending { inputs, .. } = &self.nodes[*index as usize].state else {
                    stack.pop();
                    continue;
                };
                let Some(&input) = inputs.as_slice().get(*place as usize) else {
                    self.nodes[*index as usize].local = order.len() as u32;
                    order.push(*index);
                    stack.pop();
                    continue;
                };
                *place += 1;
                let node = &mut self.nodes[input as usize];
                if node.mark == epoch {
                    node.seen += 1;
                    continue;
                }
                node.mark = epoch;
                node.seen = 1;
                if matches!(node.state, State::Pending { .. }) {
                    stack.push((input, 0));
                } else {
                    node.local = leaves.len() as u32;
                    leaves.push(input);
                }
            }
        }
    }

    /// Writes the graph's key, and marks the nodes to keep by `seen == u32::MAX`.
    fn encode(&mut self, outputs: &[TensorId], scratch: &mut Scratch) {
        for output in outputs {
            self.nodes[output.index()].seen = u32::MAX;
        }
        let Scratch { order, leaves, key, .. } = scratch;
        key.clear();
        key.extend_from_slice(&(leaves.len() as u32).to_le_bytes());
        for &leaf in leaves.iter() {
            let d = &self.nodes[leaf as usize].descriptor;
            key.extend_from_slice(&[d.data_type as u8, d.shape.rank() as u8]);
            d.shape.as_slice().iter().for_each(|v| key.extend_from_slice(&v.to_le_bytes()));
        }
        for &index in order.iter() {
            let node = &mut self.nodes[index as usize];
            if node.held || node.consumers > node.seen {
                node.seen = u32::MAX;
            }
            let node = &self.nodes[index as usize];
            let State::Pending { op, inputs } = &node.state else {
                continue;
            };
            op.encode(key);
            key.push(u8::from(node.seen == u32::MAX));
            key.extend_from_slice(&(inputs.as_slice().len() as u32).to_le_bytes());
            for &input in inputs.as_slice() {
                let n = &self.nodes[input as usize];
                let leaf = u32::from(matches!(n.state, State::Ready(_))) << 31;
                key.extend_from_slice(&(n.local | leaf).to_le_bytes());
            }
        }
    }

    fn graph(&self, scratch: &Scratch) -> Graph {
        let node = |&index: &u32| &self.nodes[index as usize];
        let source = |&index: &u32| {
            let n = &self.nodes[index as usize];
            match n.state {
                State::Ready(_) => Source::Leaf(n.local),
                _ => Source::Node(n.local),
            }
        };
        let nodes = scratch.order.iter().map(node).filter_map(|n| match &n.state {
            State::Pending { op, inputs } => Some(GraphNode {
                op: *op,
                inputs: inputs.as_slice().iter().map(source).collect(),
                descriptor: n.descriptor,
                output: n.seen == u32::MAX,
            }),
            _ => None,
        });
        Graph {
            leaves: scratch.leaves.iter().map(node).map(|n| n.descriptor).collect(),
            nodes: nodes.collect(),
        }
    }
}
