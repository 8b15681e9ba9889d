//! From a file's messages to a checked [`Graph`]: everything that can be wrong without inputs is
//! found here, and what depends on no input is computed here if it is small.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::rc::Rc;

use prost::Message;
use prost::bytes::Bytes;

use crate::error::{LoadError, OpError};
use crate::graph::{ABSENT, Args, Dim, Graph, Node, Value, ValueInfo, WeightInfo};
use crate::host::{self, Data, Host, MAX_RANK};
use crate::ops::{self, Op, Reader};
use crate::proto;
use crate::types::{Type, elements};
use crate::weights::{checked_dims, decode_tensor};

/// The versions of the default operator set that can be loaded.
pub const OPSETS: std::ops::RangeInclusive<i64> = 7..=21;

/// A checked model.
pub struct Loaded {
    pub graph: Graph,
    /// The elements of `graph.weights`, in their order.
    pub weights: Vec<Bytes>,
    /// Name and operator of `graph.nodes`, in their order.
    pub names: Vec<(String, String)>,
}

fn value_error(name: &str, problem: impl Into<String>) -> LoadError {
    LoadError::Value { name: name.to_owned(), problem: problem.into() }
}

/// What a name stands for while loading.
#[derive(Default)]
struct Slots<'a> {
    by_name: HashMap<&'a str, u32>,
    /// Constants by slot.
    constants: Vec<Option<Constant>>,
}

enum Constant {
    Known(Rc<Host>),
    Weight(Type, Vec<u32>, Bytes),
}

impl<'a> Slots<'a> {
    fn add(&mut self, name: &'a str) -> Result<u32, LoadError> {
        let slot = self.constants.len() as u32;
        if name.is_empty() {
            return Err(LoadError::Model("a value has no name".into()));
        }
        if self.by_name.insert(name, slot).is_some() {
            return Err(value_error(name, "it is defined twice"));
        }
        self.constants.push(None);
        Ok(slot)
    }
}

/// Loads a file. Never panics, whatever the bytes are.
pub fn load(bytes: Bytes) -> Result<Loaded, LoadError> {
    checked(bytes).map_err(LoadError::shown)
}

fn checked(bytes: Bytes) -> Result<Loaded, LoadError> {
    let model = proto::Model::decode(bytes).map_err(|e| LoadError::Format(e.to_string()))?;
    let Some(file) = &model.graph else {
        return Err(LoadError::Format("it holds no graph".into()));
    };
    let opset = opset(&model)?;
    if !file.sparse_initializer.is_empty() {
        return Err(LoadError::Model("it has sparse initializers; convert them to dense ones".into()));
    }
    // Slots are 32 bits, and one of them says "absent".
    if file.node.len() + file.initializer.len() + file.input.len() > 1 << 24 {
        return Err(LoadError::Model("it has more than 16 million nodes and weights".into()));
    }

    let mut slots = Slots::default();
    for tensor in &file.initializer {
        let slot = slots.add(&tensor.name)?;
        let (ty, dims, data) = decode_tensor(tensor).map_err(|e| value_error(&tensor.name, e))?;
        slots.constants[slot as usize] = Some(constant(ty, dims, data));
    }
    let mut inputs = Vec::new();
    for info in &file.input {
        // Files of before IR version 4 list every initializer among the inputs.
        if !slots.by_name.contains_key(info.name.as_str()) {
            let slot = slots.add(&info.name)?;
            inputs.push(value_info(info, slot)?);
        }
    }
    for node in &file.node {
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            slots.add(name)?;
        }
    }

    let mut builder = Builder { opset, slots, nodes: Vec::new(), edges: Vec::new() };
    for index in sorted(file, &builder.slots, opset)? {
        let node = &file.node[index];
        builder.node(node, index).map_err(|problem| node_error(node, index, opset, problem))?;
    }
    let Builder { slots, nodes, edges, .. } = builder;

    if file.output.is_empty() {
        return Err(LoadError::Model("its graph has no outputs".into()));
    }
    let mut outputs: Vec<ValueInfo> = Vec::new();
    for info in &file.output {
        let Some(slot) = slots.by_name.get(info.name.as_str()) else {
            return Err(value_error(&info.name, "it is an output of the graph, but nothing makes it"));
        };
        if outputs.iter().any(|o| o.name == info.name) {
            return Err(value_error(&info.name, "it is listed twice among the outputs"));
        }
        outputs.push(value_info(info, *slot)?);
    }
    Ok(compact(slots, inputs, outputs, nodes, edges))
}

fn node_error(node: &proto::Node, index: usize, opset: i64, problem: String) -> LoadError {
    let operator = match node.domain.as_str() {
        "" | "ai.onnx" => node.op_type.clone(),
        domain => format!("{domain}::{}", node.op_type),
    };
    LoadError::Node { node: node_name(node, index), operator, opset, problem }
}

fn node_name(node: &proto::Node, index: usize) -> String {
    if node.name.is_empty() { format!("#{index}") } else { node.name.clone() }
}

/// The version of the default operator set. Other sets may be imported as long as no node uses them.
fn opset(model: &proto::Model) -> Result<i64, LoadError> {
    let default = model.opset_import.iter().filter(|set| matches!(set.domain.as_str(), "" | "ai.onnx"));
    let Some(version) = default.map(|set| set.version).max() else {
        return Err(LoadError::Format(
            "it does not say which version of the default operator set it uses".into(),
        ));
    };
    if !OPSETS.contains(&version) {
        return Err(LoadError::Model(format!(
            "it uses opset {version}; supported are {} to {} (onnx.version_converter converts)",
            OPSETS.start(),
            OPSETS.end()
        )));
    }
    Ok(version)
}

fn value_info(info: &proto::ValueInfo, slot: u32) -> Result<ValueInfo, LoadError> {
    let error = |problem: String| value_error(&info.name, problem);
    let Some(tensor) = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()) else {
        return Err(error(
            "it is no dense tensor (sequences, maps and optional values are not supported)".into(),
        ));
    };
    let ty = Type::from_onnx(tensor.elem_type).map_err(error)?;
    let dims = match &tensor.shape {
        None => None,
        Some(shape) => {
            let fixed: Vec<i64> = shape.dim.iter().filter_map(|d| d.dim_value).collect();
            if shape.dim.len() > MAX_RANK {
                return Err(error(format!(
                    "its rank is {}; at most {MAX_RANK} is supported",
                    shape.dim.len()
                )));
            }
            checked_dims(&fixed).map_err(error)?;
            let dim = |d: &proto::Dimension| match (d.dim_value, &d.dim_param) {
                // Checked just now.
                (Some(size), _) => Dim::Fixed(size as u32),
                (None, Some(name)) if !name.is_empty() => Dim::Symbol(name.clone()),
                _ => Dim::Unknown,
            };
            Some(shape.dim.iter().map(dim).collect())
        }
    };
    Ok(ValueInfo { name: info.name.clone(), ty, dims, slot })
}

/// Small integers and single numbers are kept where the guest can compute with them.
fn constant(ty: Type, dims: Vec<u32>, data: Bytes) -> Constant {
    let inline = host::is_small(&dims) && (!ty.is_float() || elements(&dims) == Some(1));
    match Host::from_bytes(ty, dims.clone(), if inline { &data } else { &[] }) {
        Some(host) if inline => Constant::Known(Rc::new(host)),
        _ => Constant::Weight(ty, dims, data),
    }
}

/// The order to run the nodes in: the file's if it is sorted as it must be, else a sorted one.
fn sorted(file: &proto::Graph, slots: &Slots<'_>, opset: i64) -> Result<Vec<usize>, LoadError> {
    let mut maker: HashMap<u32, usize> = HashMap::new();
    for (index, node) in file.node.iter().enumerate() {
        for slot in node.output.iter().filter_map(|name| slots.by_name.get(name.as_str())) {
            maker.insert(*slot, index);
        }
    }
    let mut waits = vec![0u32; file.node.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); file.node.len()];
    for (index, node) in file.node.iter().enumerate() {
        for name in node.input.iter().filter(|name| !name.is_empty()) {
            let Some(slot) = slots.by_name.get(name.as_str()) else {
                let problem = format!(
                    "its input {name:?} is neither an input of the graph, nor a weight, nor any node's output"
                );
                return Err(node_error(node, index, opset, problem));
            };
            if let Some(made_by) = maker.get(slot) {
                waits[index] += 1;
                readers[*made_by].push(index);
            }
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        waits.iter().enumerate().filter(|(_, n)| **n == 0).map(|(i, _)| Reverse(i)).collect();
    let mut order = Vec::with_capacity(file.node.len());
    while let Some(Reverse(index)) = ready.pop() {
        order.push(index);
        for reader in &readers[index] {
            waits[*reader] -= 1;
            if waits[*reader] == 0 {
                ready.push(Reverse(*reader));
            }
        }
    }
    if let Some(mut at) = waits.iter().position(|n| *n > 0) {
        // A node that waits may only hang off the cycle; whoever it waits for leads there.
        for _ in 0..file.node.len() {
            let made_by =
                file.node[at].input.iter().filter_map(|name| maker.get(slots.by_name.get(name.as_str())?));
            match made_by.copied().find(|i| waits[*i] > 0) {
                Some(next) => at = next,
                None => break,
            }
        }
        return Err(node_error(
            &file.node[at],
            at,
            opset,
            "it is part of a cycle: it needs its own output".into(),
        ));
    }
    Ok(order)
}

struct Builder<'a> {
    opset: i64,
    slots: Slots<'a>,
    nodes: Vec<(Node, (String, String))>,
    edges: Vec<u32>,
}

impl<'a> Builder<'a> {
    fn node(&mut self, node: &'a proto::Node, index: usize) -> Result<(), String> {
        if !matches!(node.domain.as_str(), "" | "ai.onnx") {
            return Err("only operators of ONNX's default domain are supported".into());
        }
        let mut inputs: Vec<u32> = node
            .input
            .iter()
            .map(|name| self.slots.by_name.get(name.as_str()).copied().unwrap_or(ABSENT))
            .collect();
        let known = |slot: &u32| match self.slots.constants.get(*slot as usize) {
            Some(Some(Constant::Known(host))) => Some(host.clone()),
            _ => None,
        };
        let rank = |slot: &u32| match self.slots.constants.get(*slot as usize) {
            Some(Some(Constant::Known(host))) => Some(host.dims.len()),
            Some(Some(Constant::Weight(_, dims, _))) => Some(dims.len()),
            _ => None,
        };
        let mut reader = Reader::new(
            self.opset,
            node,
            inputs.iter().map(rank).collect(),
            inputs.iter().map(known).collect(),
        )?;
        if node.op_type == "Constant" {
            let value = constant_node(&mut reader)?;
            reader.finish()?;
            return match node.output.as_slice() {
                [name] if inputs.is_empty() => self.define(name, value),
                _ => Err("it must have no input and one output".into()),
            };
        }
        let Some(entry) = ops::find(&node.op_type) else {
            return Err("this operator is not supported".into());
        };
        if self.opset < entry.since {
            return Err(format!("this operator exists from opset {} on", entry.since));
        }
        let given = node.input.len();
        if given > entry.most || (0..entry.least).any(|i| !reader.has(i)) {
            return Err(format!("it has {given} inputs; it takes {}", arity(entry.least, entry.most)));
        }
        if entry.most == usize::MAX && (0..given).any(|i| !reader.has(i)) {
            return Err("one of its inputs has no name".into());
        }
        let op = (entry.load)(&mut reader)?;
        reader.finish()?;

        let name = (node_name(node, index), node.op_type.clone());
        let extra = node.output.iter().skip(1).position(|name| !name.is_empty()).map(|i| i + 1);
        let Some(first) = node.output.first() else { return Err("it has no output".into()) };
        if node.op_type == "Dropout" {
            inputs.truncate(1);
            if let Some(mask) = node.output.get(1).filter(|name| !name.is_empty()) {
                if self.opset < 12 {
                    return Err(
                        "its output mask only has a defined value in inference from opset 12 on".into()
                    );
                }
                self.push(Op::Mask, &inputs, mask, &name)?;
            }
            if node.output.len() > 2 {
                return Err("it has more than two outputs".into());
            }
        } else if let Some(extra) = extra {
            return Err(format!("its output {extra} ({:?}) is not supported", node.output[extra]));
        }
        if first.is_empty() { Ok(()) } else { self.push(op, &inputs, first, &name) }
    }

    fn define(&mut self, name: &str, value: Constant) -> Result<(), String> {
        // Every output got its slot before the first node was looked at.
        if let Some(slot) = self.slots.by_name.get(name) {
            self.slots.constants[*slot as usize] = Some(value);
        }
        Ok(())
    }

    /// Adds one operation, or its result if that is known already and small.
    fn push(&mut self, op: Op, inputs: &[u32], output: &str, name: &(String, String)) -> Result<(), String> {
        if let Some(result) = self.fold(&op, inputs)? {
            return self.define(output, Constant::Known(result));
        }
        let Some(slot) = self.slots.by_name.get(output) else { return Ok(()) };
        let node = Node { op, first: self.edges.len() as u32, count: inputs.len() as u32, output: *slot };
        self.edges.extend_from_slice(inputs);
        self.nodes.push((node, name.clone()));
        Ok(())
    }

    fn fold(&self, op: &Op, inputs: &[u32]) -> Result<Option<Rc<Host>>, String> {
        let mut values: Vec<Option<Value<'static>>> = Vec::with_capacity(inputs.len());
        for slot in inputs {
            values.push(match (self.slots.constants.get(*slot as usize), *slot) {
                (_, ABSENT) => None,
                (Some(Some(Constant::Known(host))), _) => Some(Value::Host(host.clone())),
                _ => return Ok(None),
            });
        }
        let edges: Vec<u32> =
            values.iter().enumerate().map(|(i, v)| if v.is_some() { i as u32 } else { ABSENT }).collect();
        match ops::run(op, &Args { slots: &values, edges: &edges, device: false }) {
            Ok(Value::Host(host)) => Ok(Some(host)),
            Ok(Value::Device(_)) | Err(OpError::NeedsDevice) => Ok(None),
            Err(problem) => Err(problem.to_string()),
        }
    }
}

/// How many inputs an operator takes, in words.
pub fn arity(least: usize, most: usize) -> String {
    match most {
        usize::MAX => format!("{least} or more, all given"),
        _ if least == most => format!("{least}"),
        _ => format!("{least} to {most}, of which the first {least} must be given"),
    }
}

/// The value of a Constant node.
fn constant_node(reader: &mut Reader<'_>) -> Result<Constant, String> {
    let ints = |list: Vec<i64>, dims| Constant::Known(Rc::new(Host::new(Type::Int64, dims, Data::Int(list))));
    let length = |n: usize| {
        if n as u64 <= host::LIMIT { Ok(vec![n as u32]) } else { Err("its list is too long; use a tensor") }
    };
    if let Some(tensor) = reader.tensor("value")? {
        let (ty, dims, data) = decode_tensor(tensor)?;
        return Ok(constant(ty, dims, data));
    }
    if let Some(value) = reader.int("value_int")? {
        return Ok(ints(vec![value], Vec::new()));
    }
    if let Some(list) = reader.ints("value_ints")? {
        let dims = length(list.len())?;
        return Ok(ints(list, dims));
    }
    let bytes = |list: &[f32]| list.iter().flat_map(|v| v.to_le_bytes()).collect::<Bytes>();
    if let Some(value) = reader.float("value_float")? {
        return Ok(constant(Type::Float32, Vec::new(), bytes(&[value])));
    }
    if let Some(list) = reader.floats("value_floats")? {
        return Ok(constant(Type::Float32, length(list.len())?, bytes(&list)));
    }
    Err("it has none of the supported attributes value, value_int, value_ints, value_float, value_floats"
        .into())
}

/// Drops what no output needs, and lays the rest out for running.
fn compact(
    slots: Slots<'_>,
    inputs: Vec<ValueInfo>,
    outputs: Vec<ValueInfo>,
    nodes: Vec<(Node, (String, String))>,
    edges: Vec<u32>,
) -> Loaded {
    let mut needed = vec![false; slots.constants.len()];
    for output in &outputs {
        needed[output.slot as usize] = true;
    }
    let all = Graph { edges, ..Graph::default() };
    let mut kept = Vec::new();
    for (node, name) in nodes.into_iter().rev() {
        if needed[node.output as usize] {
            for slot in all.edges_of(&node).iter().filter(|slot| **slot != ABSENT) {
                needed[*slot as usize] = true;
            }
            kept.push((node, name));
        }
    }
    kept.reverse();

    let mut graph = Graph { slots: slots.constants.len() as u32, inputs, outputs, ..Graph::default() };
    let (mut weights, mut names) = (Vec::new(), Vec::new());
    for (mut node, name) in kept {
        let read = all.edges_of(&node);
        node.first = graph.edges.len() as u32;
        graph.edges.extend_from_slice(read);
        graph.nodes.push(node);
        names.push(name);
    }
    for (slot, constant) in slots.constants.into_iter().enumerate().filter(|(slot, _)| needed[*slot]) {
        let slot = slot as u32;
        match constant {
            Some(Constant::Known(host)) => graph.constants.push((slot, host)),
            Some(Constant::Weight(ty, dims, data)) => {
                graph.weights.push(WeightInfo { slot, ty, dims });
                weights.push(data);
            }
            None => {}
        }
    }
    Loaded { graph, weights, names }
}
