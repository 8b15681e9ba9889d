//! A recorded graph as a backend compiles it: leaves, operations in topological order, outputs.

use crate::op::Op;
use crate::rules::Descriptor;

/// Where an operand comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A value given at run time, by its place among the leaves.
    Leaf(u32),
    /// The result of an earlier node.
    Node(u32),
}

/// One operation.
#[derive(Debug, Clone)]
pub(crate) struct GraphNode {
    /// What to compute.
    pub op: Op,
    /// Its operands, each an earlier node or a leaf.
    pub inputs: Vec<Source>,
    /// Type and shape of the result.
    pub descriptor: Descriptor,
    /// Whether the result is wanted outside.
    pub output: bool,
}

/// A graph in canonical numbering. It names no data: equal graphs on different tensors share one
/// compiled plan.
#[derive(Debug, Clone, Default)]
pub(crate) struct Graph {
    /// Types and shapes of the leaves.
    pub leaves: Vec<Descriptor>,
    /// Operations, operands before users.
    pub nodes: Vec<GraphNode>,
}

impl Graph {
    /// Type and shape of an operand.
    pub fn descriptor(&self, source: Source) -> Descriptor {
        match source {
            Source::Leaf(i) => self.leaves[i as usize],
            Source::Node(i) => self.nodes[i as usize].descriptor,
        }
    }
}
