//! A checked graph, and the values that flow through it.
//!
//! Every value has a slot, an index; names are only kept for inputs, outputs and error messages.

use std::cell::OnceCell;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use warren_sdk::Tensor;

use crate::error::{OpError, OpResult, misfit};
use crate::host::{self, Host};
use crate::ops::Op;
use crate::types::Type;

/// A dimension of an input or output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dim {
    /// Always this size.
    Fixed(u32),
    /// The caller's choice; the name is the file's.
    Symbol(String),
    /// The caller's choice.
    Unknown,
}

impl std::fmt::Display for Dim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(size) => size.fmt(f),
            Self::Symbol(name) => f.write_str(name),
            Self::Unknown => f.write_str("?"),
        }
    }
}

/// Name, type and shape of an input or output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueInfo {
    /// The name in the file.
    pub name: String,
    /// Element type; a bool is a uint8 tensor (0 or 1) outside the model.
    pub ty: Type,
    /// Dimensions, outermost first; none when not even the rank is known.
    pub dims: Option<Vec<Dim>>,
    /// Where the value is during a run.
    pub(crate) slot: u32,
}

/// One operation: reads `count` slots from `Graph::edges[first..]`, writes one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Node {
    pub op: Op,
    pub first: u32,
    pub count: u32,
    pub output: u32,
}

/// A constant that is too large to be known in the guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WeightInfo {
    pub slot: u32,
    pub ty: Type,
    pub dims: Vec<u32>,
}

/// A whole model but for its weights' elements.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Graph {
    pub slots: u32,
    pub inputs: Vec<ValueInfo>,
    pub outputs: Vec<ValueInfo>,
    pub constants: Vec<(u32, Rc<Host>)>,
    pub weights: Vec<WeightInfo>,
    pub nodes: Vec<Node>,
    pub edges: Vec<u32>,
}

/// The edge of an optional input that is absent.
pub(crate) const ABSENT: u32 = u32::MAX;

impl Graph {
    /// The slots that a node reads; [`ABSENT`] where an optional input is not given.
    pub fn edges_of(&self, node: &Node) -> &[u32] {
        let first = node.first as usize;
        self.edges.get(first..first.saturating_add(node.count as usize)).unwrap_or(&[])
    }
}

/// A tensor on the device: made here, or lent by the caller or the model.
#[derive(Debug)]
pub(crate) enum Handle<'a> {
    Owned(Tensor),
    Lent(&'a Tensor),
}

/// A value on the device.
#[derive(Debug)]
pub(crate) struct Device<'a> {
    pub handle: Handle<'a>,
    pub ty: Type,
    dims: OnceCell<Vec<u32>>,
}

/// A value during a run. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) enum Value<'a> {
    Host(Rc<Host>),
    Device(Rc<Device<'a>>),
}

impl<'a> Value<'a> {
    /// A recorded result.
    pub fn device(tensor: Tensor, ty: Type) -> Self {
        Self::Device(Rc::new(Device { handle: Handle::Owned(tensor), ty, dims: OnceCell::new() }))
    }

    /// A tensor that someone else keeps.
    pub fn lent(tensor: &'a Tensor, ty: Type) -> Self {
        Self::Device(Rc::new(Device { handle: Handle::Lent(tensor), ty, dims: OnceCell::new() }))
    }

    pub fn host(host: Host) -> Self {
        Self::Host(Rc::new(host))
    }

    pub fn ty(&self) -> Type {
        match self {
            Self::Host(host) => host.ty,
            Self::Device(device) => device.ty,
        }
    }

    /// Dimensions, outermost first; asked from the host at most once.
    pub fn dims(&self) -> &[u32] {
        match self {
            Self::Host(host) => &host.dims,
            Self::Device(device) => device.dims.get_or_init(|| match &device.handle {
                Handle::Owned(tensor) => tensor.shape(),
                Handle::Lent(tensor) => tensor.shape(),
            }),
        }
    }

    /// The value on the device.
    pub fn tensor(&self) -> OpResult<&Tensor> {
        match self {
            Self::Host(host) => host.tensor(),
            Self::Device(device) => Ok(match &device.handle {
                Handle::Owned(tensor) => tensor,
                Handle::Lent(tensor) => tensor,
            }),
        }
    }
}

/// The inputs of one node during a run.
pub(crate) struct Args<'r, 'a> {
    pub slots: &'r [Option<Value<'a>>],
    pub edges: &'r [u32],
    /// False while loading: only known elements may be computed with.
    pub device: bool,
}

impl<'r, 'a> Args<'r, 'a> {
    pub fn len(&self) -> usize {
        self.edges.len()
    }

    /// Input `index` if it is given.
    pub fn get(&self, index: usize) -> Option<&'r Value<'a>> {
        let slot = *self.edges.get(index)?;
        self.slots.get(slot as usize)?.as_ref()
    }

    /// Input `index`, which loading made sure of.
    pub fn value(&self, index: usize) -> OpResult<&'r Value<'a>> {
        match self.get(index) {
            Some(value) => Ok(value),
            None => misfit(format!("input {index} is missing")),
        }
    }

    /// Input `index` on the device.
    pub fn tensor(&self, index: usize) -> OpResult<&'r Tensor> {
        let value = self.value(index)?;
        self.need_device()?;
        value.tensor()
    }

    /// Input `index` if its elements are known.
    pub fn host(&self, index: usize) -> Option<&'r Host> {
        match self.get(index) {
            Some(Value::Host(host)) => Some(host),
            _ => None,
        }
    }

    /// Fails while loading.
    pub fn need_device(&self) -> OpResult<()> {
        if self.device { Ok(()) } else { Err(OpError::NeedsDevice) }
    }

    /// The elements of input `index`, computed and read back if they are not known: shapes may
    /// depend on data. None if the input is absent.
    pub fn known(&self, index: usize) -> OpResult<Option<Rc<Host>>> {
        match self.get(index) {
            None => Ok(None),
            Some(Value::Host(host)) => Ok(Some(host.clone())),
            Some(value @ Value::Device(_)) => {
                self.need_device()?;
                let dims = value.dims();
                if !host::is_small(dims) {
                    return misfit(format!(
                        "input {index} has shape {dims:?}: too large for shapes, axes or indices"
                    ));
                }
                let bytes = value.tensor()?.bytes()?;
                match Host::from_bytes(value.ty(), dims.to_vec(), &bytes) {
                    Some(host) => Ok(Some(Rc::new(host))),
                    None => misfit(format!("input {index} has elements above 2^63")),
                }
            }
        }
    }

    /// The elements of input `index` as integers, as [`Args::known`] finds them.
    pub fn ints(&self, index: usize) -> OpResult<Option<Vec<i64>>> {
        self.known(index)?.map(|host| host.ints().map(<[i64]>::to_vec)).transpose()
    }
}

/// The axis that `axis` means at this rank, negative ones counting from the end.
pub(crate) fn axis(axis: i64, rank: usize) -> OpResult<usize> {
    let signed = rank as i64;
    if axis < -signed || axis >= signed {
        return misfit(format!("axis {axis} is out of range for rank {rank}"));
    }
    Ok(if axis < 0 { (axis + signed) as usize } else { axis as usize })
}

/// Several axes, sorted; a repeated one is refused.
pub(crate) fn axes(list: &[i64], rank: usize) -> OpResult<Vec<usize>> {
    let mut out = list.iter().map(|a| axis(*a, rank)).collect::<OpResult<Vec<_>>>()?;
    out.sort_unstable();
    if out.windows(2).any(|w| w[0] == w[1]) {
        return misfit(format!("axes {list:?} repeat one at rank {rank}"));
    }
    Ok(out)
}
