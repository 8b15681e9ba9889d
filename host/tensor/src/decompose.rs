//! Operations without a kernel of their own, rewritten as ones that have: before a graph is
//! planned, for every backend alike.
//!
//! float16 operands of arithmetic are widened first and the result is rounded once, so that a
//! rewritten operation is as accurate as a kernel of its own.

use crate::error::Error;
use crate::graph::{Graph, GraphNode, Source};
use crate::op::{Binary, Compare, InputLayout, Op, Unary};
use crate::rules::{Descriptor, infer, layer_axes};
use crate::shape::{Dims, MAX_RANK};
use crate::types::DataType;

/// The graph without such operations; `None` where it has none.
pub(crate) fn decompose(graph: &Graph) -> Result<Option<Graph>, Error> {
    if !graph.nodes.iter().any(|n| is_composite(graph, n)) {
        return Ok(None);
    }
    let nodes = Vec::with_capacity(graph.nodes.len() + 16);
    let mut rewrite = Rewrite { graph: Graph { leaves: graph.leaves.clone(), nodes } };
    let mut places: Vec<Source> = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let place = |s: &Source| match *s {
            Source::Leaf(_) => *s,
            Source::Node(n) => places[n as usize],
        };
        let inputs: Vec<Source> = node.inputs.iter().map(place).collect();
        let result = match (&node.op, is_composite(graph, node)) {
            (_, false) => rewrite.push(node.op, &inputs, node.descriptor),
            (Op::Prelu, _) => rewrite.prelu(&inputs)?,
            (Op::BatchNormalization { .. }, _) => rewrite.batch_normalization(&node.op, &inputs)?,
            (Op::DequantizeLinear, _) => rewrite.dequantize(&inputs)?,
            (Op::QuantizeLinear, _) => rewrite.quantize(&inputs, node.descriptor.data_type)?,
            _ => rewrite.turned(node, &inputs)?,
        };
        // Every rewriting ends with a node of its own.
        if let (true, Some(last)) = (node.output, rewrite.graph.nodes.last_mut()) {
            last.output = true;
        }
        places.push(result);
    }
    Ok(Some(rewrite.graph))
}

fn is_composite(graph: &Graph, node: &GraphNode) -> bool {
    match &node.op {
        Op::Prelu | Op::BatchNormalization { .. } | Op::DequantizeLinear | Op::QuantizeLinear => true,
        Op::LayerNormalization { axes, .. } => {
            let rank = node.inputs.first().map_or(0, |&s| graph.descriptor(s).shape.rank());
            let axes = layer_axes(axes.as_ref(), rank);
            let first = (rank - axes.rank()) as u32;
            axes.as_slice().iter().enumerate().any(|(i, &axis)| axis != first + i as u32)
        }
        Op::InstanceNormalization { layout, .. } => *layout == InputLayout::Nhwc,
        _ => false,
    }
}

struct Rewrite {
    graph: Graph,
}

impl Rewrite {
    fn push(&mut self, op: Op, inputs: &[Source], descriptor: Descriptor) -> Source {
        self.graph.nodes.push(GraphNode { op, inputs: inputs.to_vec(), descriptor, output: false });
        Source::Node(self.graph.nodes.len() as u32 - 1)
    }

    fn op(&mut self, op: Op, inputs: &[Source]) -> Result<Source, Error> {
        let descriptors: Vec<Descriptor> = inputs.iter().map(|&s| self.graph.descriptor(s)).collect();
        let descriptor = infer(&op, &descriptors)?;
        Ok(self.push(op, inputs, descriptor))
    }

    fn binary(&mut self, op: Binary, a: Source, b: Source) -> Result<Source, Error> {
        self.op(Op::Binary(op), &[a, b])
    }

    fn cast(&mut self, source: Source, to: DataType) -> Result<Source, Error> {
        if self.graph.descriptor(source).data_type == to {
            return Ok(source);
        }
        self.op(Op::Cast { to }, &[source])
    }

    /// max(0, x) + slope * min(0, x), which is x where it is not below 0.
    fn prelu(&mut self, inputs: &[Source]) -> Result<Source, Error> {
        let (x, slope) = (inputs[0], inputs[1]);
        let data_type = self.graph.descriptor(x).data_type;
        let zero = self.op(Op::Fill { data_type, shape: Dims::SCALAR, value: 0.0 }, &[])?;
        let negative = self.op(Op::Compare(Compare::Lesser), &[x, zero])?;
        let scaled = self.binary(Binary::Mul, x, slope)?;
        self.op(Op::Where, &[negative, scaled, x])
    }

    fn batch_normalization(&mut self, op: &Op, inputs: &[Source]) -> Result<Source, Error> {
        let &Op::BatchNormalization { axis, epsilon, scale, bias } = op else {
            return Err(Error::device(op.name(), "is no batch normalization (a bug in Warren)"));
        };
        let input = self.graph.descriptor(inputs[0]);
        let mut wide = Vec::with_capacity(inputs.len());
        for &source in inputs {
            wide.push(self.cast(source, DataType::Float32)?);
        }
        let epsilon = match input.data_type {
            DataType::Float16 => half::f16::from_f64(epsilon).to_f64(),
            _ => epsilon,
        };
        // One number for each feature, to be broadcast over the dimensions behind the axis.
        let mut shape = Dims::splat(1, input.shape.rank() - axis as usize);
        shape.as_mut_slice()[0] = input.shape.as_slice()[axis as usize];
        let spread = self.op(Op::Linear { alpha: 1.0, beta: epsilon }, &[wide[2]])?;
        let spread = self.op(Op::Unary(Unary::Sqrt), &[spread])?;
        let factor = match scale {
            true => self.binary(Binary::Div, wide[3], spread)?,
            false => self.op(Op::Unary(Unary::Reciprocal), &[spread])?,
        };
        let mean = self.op(Op::Reshape { shape }, &[wide[1]])?;
        let factor = self.op(Op::Reshape { shape }, &[factor])?;
        let centred = self.binary(Binary::Sub, wide[0], mean)?;
        let mut result = self.binary(Binary::Mul, centred, factor)?;
        if bias {
            let bias = self.op(Op::Reshape { shape }, &[wide[3 + usize::from(scale)]])?;
            result = self.binary(Binary::Add, result, bias)?;
        }
        self.cast(result, input.data_type)
    }

    /// (input - zero point) * scale. 32-bit integers are subtracted exactly first.
    fn dequantize(&mut self, inputs: &[Source]) -> Result<Source, Error> {
        let input = self.graph.descriptor(inputs[0]);
        let result = self.graph.descriptor(inputs[1]).data_type;
        let scale = self.blocks(inputs[1], &input.shape)?;
        let scale = self.cast(scale, DataType::Float32)?;
        let zero = self.blocks(inputs[2], &input.shape)?;
        let exact = if input.data_type.size() == 1 { DataType::Float32 } else { DataType::Int64 };
        let (x, zero) = (self.cast(inputs[0], exact)?, self.cast(zero, exact)?);
        let difference = self.binary(Binary::Sub, x, zero)?;
        let difference = self.cast(difference, DataType::Float32)?;
        let product = self.binary(Binary::Mul, difference, scale)?;
        self.cast(product, result)
    }

    /// round(input / scale) + zero point, limited to the result's type.
    fn quantize(&mut self, inputs: &[Source], result: DataType) -> Result<Source, Error> {
        let shape = self.graph.descriptor(inputs[0]).shape;
        let x = self.cast(inputs[0], DataType::Float32)?;
        let scale = self.blocks(inputs[1], &shape)?;
        let scale = self.cast(scale, DataType::Float32)?;
        let zero = self.blocks(inputs[2], &shape)?;
        let quotient = self.binary(Binary::Div, x, scale)?;
        let rounded = self.op(Op::Unary(Unary::RoundEven), &[quotient])?;
        if result.size() == 1 {
            // Exact where the sum is within the type; beyond, the conversion limits it.
            let zero = self.cast(zero, DataType::Float32)?;
            let sum = self.binary(Binary::Add, rounded, zero)?;
            return self.cast(sum, result);
        }
        let far = (1u64 << 40) as f64; // beyond any 32-bit sum, and far from overflow in 64
        let rounded = self.op(Op::Clamp { min: Some(-far), max: Some(far) }, &[rounded])?;
        let rounded = self.cast(rounded, DataType::Int64)?;
        let zero = self.cast(zero, DataType::Int64)?;
        let sum = self.binary(Binary::Add, rounded, zero)?;
        let (least, most) = match result {
            DataType::Int32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
            _ => (0.0, f64::from(u32::MAX)),
        };
        let limited = self.op(Op::Clamp { min: Some(least), max: Some(most) }, &[sum])?;
        self.cast(limited, result)
    }

    /// Repeats elements in blocks until the shape broadcasts to `to`: dimensions of 1 may stay.
    fn blocks(&mut self, source: Source, to: &Dims) -> Result<Source, Error> {
        let mut shape = self.graph.descriptor(source).shape;
        let mut result = source;
        for (axis, &wanted) in to.as_slice().iter().enumerate() {
            let size = shape.as_slice()[axis];
            if size == wanted || size == 1 {
                continue;
            }
            let product = |dims: &[u32]| dims.iter().product::<u32>();
            let (before, after) =
                (product(&shape.as_slice()[..axis]), product(&shape.as_slice()[axis + 1..]));
            let split = |block: u32| Dims::new(&[before, size, block, after]).unwrap_or_default();
            let repeated = self.op(Op::Reshape { shape: split(1) }, &[result])?;
            let repeated = self.op(Op::Expand { shape: split(wanted / size) }, &[repeated])?;
            shape.as_mut_slice()[axis] = wanted;
            result = self.op(Op::Reshape { shape }, &[repeated])?;
        }
        Ok(result)
    }

    /// A normalization whose dimensions lie otherwise than the kernel wants them: turned there
    /// and back.
    fn turned(&mut self, node: &GraphNode, inputs: &[Source]) -> Result<Source, Error> {
        let rank = self.graph.descriptor(inputs[0]).shape.rank();
        let (permutation, op) = match node.op {
            Op::InstanceNormalization { epsilon, scale, bias, .. } => {
                let layout = InputLayout::Nchw;
                (vec![0, 3, 1, 2], Op::InstanceNormalization { layout, epsilon, scale, bias })
            }
            Op::LayerNormalization { axes, epsilon, scale, bias } => {
                let axes = layer_axes(axes.as_ref(), rank);
                let kept = (0..rank as u32).filter(|a| !axes.as_slice().contains(a));
                let permutation: Vec<u32> = kept.chain(axes.as_slice().iter().copied()).collect();
                let last: Vec<u32> = ((rank - axes.rank()) as u32..rank as u32).collect();
                (permutation, Op::LayerNormalization { axes: Dims::new(&last), epsilon, scale, bias })
            }
            _ => return Err(Error::device(node.op.name(), "cannot be rewritten (a bug in Warren)")),
        };
        let mut back = [0u32; MAX_RANK];
        permutation.iter().enumerate().for_each(|(to, &from)| back[from as usize] = to as u32);
        let mut operands = inputs.to_vec();
        operands[0] = self.op(Op::Transpose { permutation: Dims::new(&permutation) }, &inputs[..1])?;
        let normal = self.op(op, &operands)?;
        self.op(Op::Transpose { permutation: Dims::new(&back[..rank]) }, &[normal])
    }
}
