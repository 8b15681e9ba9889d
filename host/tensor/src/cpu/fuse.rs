//! Which nodes of a graph need no kernel of their own: views, activations behind a convolution,
//! and element-wise operations that run in one pass with their only users.

use std::collections::HashMap;

use crate::cpu::block::FloatMap;
use crate::cpu::lower::is_view;
use crate::cpu::program::float_map;
use crate::graph::{Graph, Source};
use crate::op::Op;
use crate::types::DataType;

/// The most operations fused into one pass: more would want more registers than the first-level
/// cache holds.
const MAX_GROUP: usize = 48;

/// Who uses a node, as far as fusing it is concerned.
#[derive(Clone, Copy, PartialEq)]
enum Users {
    None,
    /// Only members of the group with this root.
    Group(u32),
    Mixed,
}

/// The answer for every node.
pub(crate) struct Fusion {
    /// Where the elements of a node really come from; itself for one that is computed.
    roots: Vec<Source>,
    outputs: Vec<bool>,
    activations: HashMap<usize, FloatMap>,
    /// Members of each group, ascending, by the group's last node.
    groups: HashMap<usize, Vec<usize>>,
}

impl Fusion {
    /// Looks at a graph.
    pub fn of(graph: &Graph) -> Fusion {
        let mut fusion = Fusion {
            roots: Vec::with_capacity(graph.nodes.len()),
            outputs: vec![false; graph.nodes.len()],
            activations: HashMap::new(),
            groups: HashMap::new(),
        };
        for (index, node) in graph.nodes.iter().enumerate() {
            let root = match is_view(graph, node) {
                true => fusion.root(node.inputs[0]),
                false => Source::Node(index as u32),
            };
            fusion.roots.push(root);
            fusion.mark_output(index, node.output);
        }
        fusion.absorb_activations(graph);
        fusion.group(graph);
        fusion
    }

    /// Where the elements of an operand come from.
    pub fn root(&self, source: Source) -> Source {
        match source {
            Source::Leaf(_) => source,
            Source::Node(node) => self.roots[node as usize],
        }
    }

    /// Whether a computed node, or a view of it, is wanted outside.
    pub fn is_output(&self, node: usize) -> bool {
        self.outputs[node]
    }

    /// What to apply to a convolution's result.
    pub fn activation(&self, node: usize) -> Option<FloatMap> {
        self.activations.get(&node).copied()
    }

    /// Whether a pass ends with this node.
    pub fn is_group_root(&self, node: usize) -> bool {
        self.groups.contains_key(&node)
    }

    /// The nodes of a pass, ascending.
    pub fn take_members(&mut self, root: usize) -> Vec<usize> {
        let mut members = self.groups.remove(&root).unwrap_or_default();
        members.reverse();
        members
    }

    fn mark_output(&mut self, index: usize, output: bool) {
        if let (true, Source::Node(root)) = (output, self.roots[index]) {
            self.outputs[root as usize] = true;
        }
    }

    /// An activation that alone uses a convolution becomes part of it.
    fn absorb_activations(&mut self, graph: &Graph) {
        let mut uses: Vec<(u32, usize)> = vec![(0, 0); graph.nodes.len()];
        for (index, node) in graph.nodes.iter().enumerate() {
            if self.roots[index] != Source::Node(index as u32) {
                continue;
            }
            for &input in &node.inputs {
                if let Source::Node(p) = self.root(input) {
                    uses[p as usize].0 += 1;
                    uses[p as usize].1 = index;
                }
            }
        }
        let mut absorbed = HashMap::new();
        for (index, node) in graph.nodes.iter().enumerate() {
            let (count, user) = uses[index];
            let float32 = node.descriptor.data_type == DataType::Float32;
            if !matches!(node.op, Op::Conv2d(_)) || !float32 || count != 1 || self.outputs[index] {
                continue;
            }
            if let Some(map) = float_map(&graph.nodes[user].op) {
                self.activations.insert(index, map);
                absorbed.insert(user as u32, index as u32);
            }
        }
        if absorbed.is_empty() {
            return;
        }
        for index in 0..self.roots.len() {
            if let Source::Node(old) = self.roots[index]
                && let Some(&conv) = absorbed.get(&old)
            {
                self.roots[index] = Source::Node(conv);
                self.mark_output(index, graph.nodes[index].output);
            }
        }
    }

    /// Goes from the last node to the first: a node joins the pass of its users if they all are
    /// in one pass and it has as many elements. So nothing outside can lie between them.
    fn group(&mut self, graph: &Graph) {
        let mut users = vec![Users::None; graph.nodes.len()];
        for index in (0..graph.nodes.len()).rev() {
            let node = &graph.nodes[index];
            if self.roots[index] != Source::Node(index as u32) {
                continue;
            }
            let used_by = match node.op {
                // A constant is written into each pass; stored only where someone else reads it.
                Op::Fill { .. } => {
                    if self.outputs[index] || users[index] == Users::Mixed {
                        self.groups.insert(index, vec![index]);
                    }
                    continue;
                }
                _ if !node.op.is_element_wise() => Users::Mixed,
                _ => {
                    let count = node.descriptor.shape.count();
                    let joined = match users[index] {
                        Users::Group(g) => self.groups.get_mut(&(g as usize)).filter(|members| {
                            members.len() < MAX_GROUP
                                && graph.nodes[g as usize].descriptor.shape.count() == count
                        }),
                        _ => None,
                    };
                    match (joined, users[index]) {
                        (Some(members), group) => {
                            members.push(index);
                            group
                        }
                        (None, _) => {
                            self.groups.insert(index, vec![index]);
                            Users::Group(index as u32)
                        }
                    }
                }
            };
            for &input in &node.inputs {
                if let Source::Node(p) = self.root(input) {
                    let p = p as usize;
                    let fill = matches!(graph.nodes[p].op, Op::Fill { .. });
                    users[p] = match users[p] {
                        // Passes do not share constants, so only a kernel's use counts.
                        old if fill && used_by != Users::Mixed => old,
                        Users::None => used_by,
                        old if old == used_by => old,
                        _ => Users::Mixed,
                    };
                }
            }
        }
    }
}
