//! Running a model: checks what the caller gave, then walks the nodes once, recording tensor
//! operations and letting go of every value after its last reader.

use std::rc::Rc;

use warren_sdk::{Tensor, tensor};

use crate::error::{OpError, RunError};
use crate::graph::{ABSENT, Args, Dim, Handle, Value, ValueInfo};
use crate::model::Model;
use crate::ops;
use crate::types::Type;

fn shape_text(dims: Option<&[Dim]>) -> String {
    match dims {
        None => "of any shape".into(),
        Some(dims) => format!("[{}]", dims.iter().map(Dim::to_string).collect::<Vec<_>>().join(", ")),
    }
}

fn names(list: &[ValueInfo]) -> String {
    list.iter().map(|v| format!("{:?}", v.name)).collect::<Vec<_>>().join(", ")
}

/// Checks one input against what the model says of it.
fn check<'a>(info: &ValueInfo, given: &'a Tensor) -> Result<Value<'a>, RunError> {
    let (data_type, shape) = (given.data_type(), given.shape());
    let fits = match &info.dims {
        None => true,
        Some(dims) => {
            dims.len() == shape.len()
                && dims.iter().zip(&shape).all(|(dim, size)| match dim {
                    Dim::Fixed(fixed) => fixed == size,
                    Dim::Symbol(_) | Dim::Unknown => true,
                })
        }
    };
    if data_type != info.ty.device() || !fits {
        let note = if info.ty == Type::Bool { " (bool, as uint8 0 or 1)" } else { "" };
        return Err(RunError::Request(format!(
            "input {:?}: the model needs {}{note} {}, got {data_type} {shape:?}",
            info.name,
            info.ty.device(),
            shape_text(info.dims.as_deref()),
        )));
    }
    if info.ty == Type::Bool {
        return ops::bool_input(given).map_err(|problem| match problem {
            OpError::Tensor(error) => error.into(),
            other => RunError::Request(format!("input {:?}: {other}", info.name)),
        });
    }
    Ok(Value::lent(given, info.ty))
}

/// Runs the model; see [`Model::run`].
pub fn run(model: &Model, inputs: &[(&str, &Tensor)], wanted: &[&str]) -> Result<Vec<Tensor>, RunError> {
    let graph = &model.graph;
    let mut slots: Vec<Option<Value<'_>>> = vec![None; graph.slots as usize];

    if let Some((i, (name, _))) = inputs.iter().enumerate().find(|(i, (name, _))| {
        inputs[..*i].iter().any(|(n, _)| n == name) || graph.inputs.iter().all(|info| info.name != *name)
    }) {
        let twice = inputs[..i].iter().any(|(n, _)| n == name);
        return Err(RunError::Request(if twice {
            format!("input {name:?} is given twice")
        } else {
            format!("the model has no input {name:?}; it has {}", names(&graph.inputs))
        }));
    }
    for info in &graph.inputs {
        let Some((_, given)) = inputs.iter().find(|(name, _)| *name == info.name) else {
            return Err(RunError::Request(format!(
                "input {:?} ({} {}) is missing",
                info.name,
                info.ty,
                shape_text(info.dims.as_deref())
            )));
        };
        slots[info.slot as usize] = Some(check(info, given)?);
    }
    let mut outputs = Vec::with_capacity(wanted.len());
    for name in wanted {
        match graph.outputs.iter().find(|info| info.name == *name) {
            Some(info) => outputs.push(info.slot as usize),
            None => {
                let have = names(&graph.outputs);
                return Err(RunError::Request(format!("the model has no output {name:?}; it has {have}")));
            }
        }
    }

    // How many readers each value has among the nodes that the wanted outputs need.
    let mut uses = vec![0u32; graph.slots as usize];
    outputs.iter().for_each(|slot| uses[*slot] += 1);
    for node in graph.nodes.iter().rev() {
        if uses[node.output as usize] > 0 {
            graph
                .edges_of(node)
                .iter()
                .filter(|slot| **slot != ABSENT)
                .for_each(|slot| uses[*slot as usize] += 1);
        }
    }
    for (slot, host) in &graph.constants {
        slots[*slot as usize] = Some(Value::Host(Rc::clone(host)));
    }
    for (info, weight) in graph.weights.iter().zip(&model.weights) {
        if uses[info.slot as usize] > 0 {
            slots[info.slot as usize] = Some(Value::lent(weight.tensor(info)?, info.ty));
        }
    }

    for (index, node) in graph.nodes.iter().enumerate() {
        if uses[node.output as usize] == 0 {
            continue;
        }
        let edges = graph.edges_of(node);
        let result = ops::run(&node.op, &Args { slots: &slots, edges, device: true });
        slots[node.output as usize] = Some(result.map_err(|problem| model.node_error(index, problem))?);
        for slot in edges.iter().filter(|slot| **slot != ABSENT).map(|slot| *slot as usize) {
            uses[slot] -= 1;
            if uses[slot] == 0 {
                slots[slot] = None;
            }
        }
    }

    let mut results: Vec<Tensor> = Vec::with_capacity(outputs.len());
    for (i, slot) in outputs.iter().enumerate() {
        let last = !outputs[i + 1..].contains(slot);
        let value = if last { slots[*slot].take() } else { slots[*slot].clone() };
        results.push(match value {
            Some(value) => owned(value)?,
            None => return Err(RunError::Request(format!("output {:?} was not computed", wanted[i]))),
        });
    }
    // Whatever still has a handle is kept by the device, so let go first.
    drop(slots);
    tensor::dispatch(&results.iter().collect::<Vec<_>>())?;
    Ok(results)
}

/// A handle of the caller's own on a value.
fn owned(value: Value<'_>) -> Result<Tensor, RunError> {
    match value {
        Value::Host(host) => Ok(Tensor::from_bytes(host.ty.device(), &host.dims, &host.bytes())?),
        Value::Device(device) => match Rc::try_unwrap(device) {
            Ok(device) => match device.handle {
                Handle::Owned(tensor) => Ok(tensor),
                Handle::Lent(tensor) => Ok(tensor.identity()?),
            },
            Err(shared) => match &shared.handle {
                Handle::Owned(tensor) => Ok(tensor.identity()?),
                Handle::Lent(tensor) => Ok(tensor.identity()?),
            },
        },
    }
}
