//! An adapter proves itself: each kernel family computes odd sizes as the CPU backend does. Drivers
//! have computed wrong sums before.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::backend::{Backend, Compiled};
use crate::budget::Budget;
use crate::buffer::{BufferPool, view, view_mut};
use crate::cpu::Cpu;
use crate::error::Error;
use crate::graph::{Graph, GraphNode, Source};
use crate::op::{
    Arg, Binary, Compare, Conv2d, ConvTranspose2d, Interpolation, Op, PaddingMode, Pool2d, Pooling,
    Reduction, Resample2d, Unary,
};
use crate::rules::{Descriptor, infer};
use crate::shape::Dims;
use crate::types::DataType;
use crate::value::Value;
use half::f16;

/// A small graph: its leaves' types and shapes, and operations on leaves and earlier ones. The last
/// is the result.
pub(crate) struct Case {
    pub name: &'static str,
    pub leaves: Vec<(DataType, &'static [u32])>,
    pub nodes: Vec<(Op, Vec<Source>)>,
}

const F32: DataType = DataType::Float32;

fn one(name: &'static str, op: Op, leaves: &[(DataType, &'static [u32])]) -> Case {
    let inputs = (0..leaves.len() as u32).map(Source::Leaf).collect();
    Case { name, leaves: leaves.to_vec(), nodes: vec![(op, inputs)] }
}

fn dims(list: &[u32]) -> Dims {
    Dims::new(list).unwrap_or(Dims::SCALAR)
}

/// One case for every kernel file and variant.
pub(crate) fn cases() -> Vec<Case> {
    let reduce = |kind, axes: &[u32]| Op::Reduce { kind, axes: Some(dims(axes)), keep_dimensions: false };
    let conv = |groups, padding| Op::Conv2d(Conv2d { groups, padding, strides: [2, 1], ..Conv2d::default() });
    let pad = |mode| Op::Pad { beginning: dims(&[1, 2]), ending: dims(&[2, 1]), mode };
    let resample = |mode| Op::Resample2d(Resample2d { mode, sizes: Some([5, 9]), ..Resample2d::default() });
    let (i8, u8, f16, i64, i32) =
        (DataType::Int8, DataType::Uint8, DataType::Float16, DataType::Int64, DataType::Int32);
    let chain = Case {
        name: "element-wise chain",
        leaves: vec![(F32, &[7, 33]), (F32, &[33]), (F32, &[7, 1])],
        nodes: vec![
            (Op::Binary(Binary::Add), vec![Source::Leaf(0), Source::Leaf(1)]),
            (Op::Unary(Unary::Gelu), vec![Source::Node(0)]),
            (Op::Binary(Binary::Mul), vec![Source::Node(1), Source::Leaf(2)]),
            (Op::Unary(Unary::Tanh), vec![Source::Node(2)]),
            (Op::Unary(Unary::Exp), vec![Source::Node(3)]),
            (Op::Clamp { min: Some(0.4), max: Some(2.5) }, vec![Source::Node(4)]),
        ],
    };
    let narrow = Case {
        name: "element-wise chain of narrow types",
        leaves: vec![(f16, &[3, 37]), (i8, &[37])],
        nodes: vec![
            (Op::Cast { to: f16 }, vec![Source::Leaf(1)]),
            (Op::Binary(Binary::Max), vec![Source::Leaf(0), Source::Node(0)]),
            (Op::Unary(Unary::Sigmoid), vec![Source::Node(1)]),
            (Op::Compare(Compare::Greater), vec![Source::Node(2), Source::Leaf(0)]),
        ],
    };
    let whole = Case {
        name: "element-wise chain of integers",
        leaves: vec![(i8, &[3, 37]), (i8, &[37]), (i32, &[3, 37])],
        nodes: vec![
            (Op::Binary(Binary::Div), vec![Source::Leaf(0), Source::Leaf(1)]),
            (Op::Cast { to: i32 }, vec![Source::Node(0)]),
            (Op::Binary(Binary::Pow), vec![Source::Leaf(2), Source::Node(1)]),
        ],
    };
    let matmul = |name, a, b| one(name, Op::Matmul, &[(F32, a), (F32, b)]);
    vec![
        chain,
        narrow,
        whole,
        one("transpose of 1 byte", Op::Transpose { permutation: None }, &[(u8, &[5, 3, 7])]),
        one("transpose of 2 bytes", Op::Transpose { permutation: None }, &[(f16, &[5, 3, 7])]),
        one("transpose of 4 bytes", Op::Transpose { permutation: None }, &[(F32, &[5, 3, 7])]),
        one("transpose of 8 bytes", Op::Transpose { permutation: None }, &[(i64, &[5, 3, 7])]),
        one("reverse", Op::Reverse { axes: None }, &[(F32, &[5, 7])]),
        one("pad", pad(PaddingMode::Constant(1.5)), &[(F32, &[5, 7])]),
        one("pad by edges", pad(PaddingMode::Edge), &[(u8, &[5, 7])]),
        one("pad by reflection", pad(PaddingMode::Reflection), &[(f16, &[5, 7])]),
        one("concat", Op::Concat { axis: 1 }, &[(F32, &[5, 3]), (F32, &[5, 4])]),
        one("concat of bytes", Op::Concat { axis: 1 }, &[(u8, &[5, 3]), (u8, &[5, 4]), (u8, &[5, 1])]),
        one("gather", Op::Gather { axis: 1 }, &[(F32, &[3, 5, 7]), (i32, &[11])]),
        one("gather by int64", Op::Gather { axis: 0 }, &[(u8, &[5, 7]), (i64, &[9])]),
        one("gather-elements", Op::GatherElements { axis: 1 }, &[(F32, &[3, 5]), (i32, &[3, 9])]),
        one("gather-nd", Op::GatherNd, &[(F32, &[5, 6, 7]), (i32, &[9, 2])]),
        one(
            "scatter-elements",
            Op::ScatterElements { axis: 0 },
            &[(F32, &[5, 3]), (i32, &[7, 3]), (F32, &[7, 3])],
        ),
        one("scatter-nd", Op::ScatterNd, &[(u8, &[5, 3]), (i64, &[4, 1]), (u8, &[4, 3])]),
        one("triangular", Op::Triangular { upper: false, diagonal: 1 }, &[(F32, &[5, 7])]),
        one("resample nearest", resample(Interpolation::NearestNeighbor), &[(F32, &[1, 2, 3, 7])]),
        one("resample linear", resample(Interpolation::Linear), &[(F32, &[1, 2, 3, 7])]),
        one("sum of a few", reduce(Reduction::Sum, &[1]), &[(F32, &[7, 33])]),
        one("sum along the first", reduce(Reduction::Mean, &[0, 2]), &[(F32, &[9, 5, 31])]),
        one("sum of a row", reduce(Reduction::L2, &[1]), &[(F32, &[5, 701])]),
        one("sum of very many", reduce(Reduction::Sum, &[0]), &[(F32, &[40_003])]),
        one("largest", reduce(Reduction::Max, &[1]), &[(F32, &[5, 701])]),
        one("product of integers", reduce(Reduction::Product, &[0]), &[(i32, &[5, 7])]),
        one("smallest of bytes", reduce(Reduction::Min, &[0]), &[(i8, &[5, 7])]),
        one("log of a sum of exp", reduce(Reduction::LogSumExp, &[1]), &[(F32, &[5, 301])]),
        one("softmax of rows", Op::Softmax { axis: 1 }, &[(F32, &[5, 333])]),
        one("softmax of columns", Op::Softmax { axis: 0 }, &[(F32, &[33, 7])]),
        one("softmax of float16", Op::Softmax { axis: 1 }, &[(f16, &[5, 33])]),
        one(
            "layer normalization",
            Op::LayerNormalization { axes: None, epsilon: 1e-5, scale: true, bias: true },
            &[(F32, &[5, 301]), (F32, &[301]), (F32, &[301])],
        ),
        one("average pool", Op::Pool2d(Pooling::Average, pooling()), &[(F32, &[1, 3, 9, 11])]),
        one("max pool", Op::Pool2d(Pooling::Max, pooling()), &[(u8, &[1, 3, 9, 11])]),
        one(
            "arg max",
            Op::ArgMinMax { kind: Arg::Max, axis: 1, keep_dimensions: false, output_data_type: i64 },
            &[(F32, &[3, 17, 5])],
        ),
        one(
            "running sum",
            Op::CumulativeSum { axis: 1, exclusive: true, reversed: true },
            &[(F32, &[3, 17, 5])],
        ),
        matmul("product by elements", &[1, 33], &[33, 65]),
        matmul("product of few rows", &[3, 7, 129], &[3, 129, 77]),
        matmul("product by pieces", &[67, 35], &[35, 71]),
        matmul("product by large pieces", &[17, 259, 19], &[19, 131]),
        one(
            "gemm",
            Op::Gemm { alpha: 0.5, beta: 2.0, a_transpose: true, b_transpose: true },
            &[(F32, &[35, 67]), (F32, &[71, 35]), (F32, &[71])],
        ),
        one(
            "convolution",
            conv(1, [1, 1, 2, 0]),
            &[(F32, &[2, 5, 9, 11]), (F32, &[17, 5, 3, 3]), (F32, &[17])],
        ),
        one("depthwise convolution", conv(6, [1, 1, 1, 1]), &[(F32, &[1, 6, 9, 11]), (F32, &[6, 1, 3, 3])]),
        one(
            "transposed convolution",
            Op::ConvTranspose2d(ConvTranspose2d {
                strides: [2, 3],
                padding: [1, 0, 0, 1],
                ..Default::default()
            }),
            &[(F32, &[1, 5, 4, 6]), (F32, &[5, 9, 3, 3]), (F32, &[9])],
        ),
    ]
}

fn pooling() -> Pool2d {
    Pool2d { window: Some([3, 2]), padding: [1, 1, 0, 1], strides: [2, 1], ..Pool2d::default() }
}

/// Numbers from -2 to 2, or small integers, negative ones too: indices count from the end.
fn fill(data_type: DataType, bytes: &mut [u8]) {
    let number = |i: usize| (i * 7919 + 13) % 1000;
    let float = |i: usize| number(i) as f32 / 250.0 - 2.0;
    let small = |i: usize| number(i) as i64 % 7 - 3;
    match data_type {
        DataType::Float32 => view_mut::<f32>(bytes).iter_mut().enumerate().for_each(|(i, v)| *v = float(i)),
        DataType::Float16 => {
            view_mut::<f16>(bytes).iter_mut().enumerate().for_each(|(i, v)| *v = f16::from_f32(float(i)));
        }
        DataType::Int32 | DataType::Uint32 => {
            view_mut::<i32>(bytes).iter_mut().enumerate().for_each(|(i, v)| *v = small(i) as i32);
        }
        DataType::Int64 | DataType::Uint64 => {
            view_mut::<i64>(bytes).iter_mut().enumerate().for_each(|(i, v)| *v = small(i));
        }
        DataType::Int8 => bytes.iter_mut().enumerate().for_each(|(i, v)| *v = small(i) as u8),
        DataType::Uint8 => bytes.iter_mut().enumerate().for_each(|(i, v)| *v = number(i) as u8),
    }
}

/// The graph of a case.
pub(crate) fn graph(case: &Case) -> Result<Graph, Error> {
    let leaves: Vec<Descriptor> =
        case.leaves.iter().map(|&(data_type, shape)| Descriptor { data_type, shape: dims(shape) }).collect();
    let mut graph = Graph { leaves, nodes: Vec::new() };
    for (at, (op, inputs)) in case.nodes.iter().enumerate() {
        let of: Vec<Descriptor> = inputs.iter().map(|&s| graph.descriptor(s)).collect();
        graph.nodes.push(GraphNode {
            op: *op,
            inputs: inputs.clone(),
            descriptor: infer(op, &of)?,
            output: at + 1 == case.nodes.len(),
        });
    }
    Ok(graph)
}

/// What a backend makes of a case.
pub(crate) fn run(
    case: &Case,
    backend: &dyn Backend,
    buffers: &Arc<BufferPool>,
) -> Result<Arc<Value>, Error> {
    let budget = Budget::new(u64::MAX);
    let never = AtomicBool::new(false);
    let graph = graph(case)?;
    let mut leaves = Vec::with_capacity(graph.leaves.len());
    for d in &graph.leaves {
        let mut buffer = buffers.take("proof", d.bytes())?;
        fill(d.data_type, buffer.bytes_mut());
        leaves.push(Arc::new(Value::new(*d, buffer, budget.charge("proof", 0)?)));
    }
    let plan: Arc<dyn Compiled> = backend.compile(&graph)?;
    let charge = budget.charge("proof", plan.peak_bytes())?;
    let values = plan.run(&leaves, charge, &never)?;
    let value = values.into_iter().next();
    let value = value.ok_or_else(|| Error::device("proof", "no result (a bug in Warren)"))?;
    backend.fetch(&value, &never)?;
    Ok(value)
}

/// The first element where two values differ by more than the kernels' different order of summing
/// may make: index, found, wanted.
pub(crate) fn difference(found: &Value, wanted: &Value) -> Option<(usize, f64, f64)> {
    let floats = |v: &Value| -> Option<Vec<f32>> {
        match v.data_type() {
            DataType::Float32 => Some(view::<f32>(v.bytes()).to_vec()),
            DataType::Float16 => Some(view::<f16>(v.bytes()).iter().map(|h| h.to_f32()).collect()),
            _ => None,
        }
    };
    if found.descriptor() != wanted.descriptor() || found.bytes().len() != wanted.bytes().len() {
        return Some((usize::MAX, 0.0, 0.0));
    }
    match (floats(found), floats(wanted)) {
        (Some(found), Some(wanted)) => {
            let near = if matches!(wanted.len(), 0) { 0.0 } else { tolerance_of(&wanted) };
            found
                .iter()
                .zip(&wanted)
                .position(|(f, w)| {
                    let same = f == w || f.is_nan() && w.is_nan();
                    !(same || (f - w).abs() <= near.max(2e-5 * w.abs()))
                })
                .map(|at| (at, f64::from(found[at]), f64::from(wanted[at])))
        }
        _ => found
            .bytes()
            .iter()
            .zip(wanted.bytes())
            .position(|(f, w)| f != w)
            .map(|at| (at, f64::from(found.bytes()[at]), f64::from(wanted.bytes()[at]))),
    }
}

/// Sums lose digits in proportion to their terms, which are as large as the largest results.
fn tolerance_of(wanted: &[f32]) -> f32 {
    let largest = wanted.iter().filter(|v| v.is_finite()).fold(0f32, |m, v| m.max(v.abs()));
    3e-6 * largest.max(0.1)
}

/// Runs every case on both backends; the error names the first kernel family that is wrong.
pub(crate) fn prove(device: &dyn Backend, cpu: &Arc<Cpu>, buffers: &Arc<BufferPool>) -> Result<(), Error> {
    for case in cases() {
        let wanted = run(&case, cpu, buffers)?;
        let found = run(&case, device, buffers)?;
        if let Some((at, found, wanted)) = difference(&found, &wanted) {
            return Err(Error::device(
                "proof",
                format!("it computes `{}` wrongly: element {at} is {found}, not {wanted}", case.name),
            ));
        }
    }
    Ok(())
}
