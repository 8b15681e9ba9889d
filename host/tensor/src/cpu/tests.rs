//! The same graphs on every instruction set that this processor has: each is code of its own.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::simd::Isa;
use super::{Cpu, CpuPlan, Shared, lower};
use crate::backend::Compiled;
use crate::budget::Budget;
use crate::buffer::{BufferPool, view, view_mut};
use crate::graph::{Graph, GraphNode, Source};
use crate::op::{Binary, Conv2d, Op, Reduction, Unary};
use crate::rules::{Descriptor, infer};
use crate::shape::Dims;
use crate::types::DataType;
use crate::value::Value;

pub(super) fn available() -> Vec<Isa> {
    let mut all = vec![Isa::Baseline];
    #[cfg(target_arch = "x86_64")]
    match Isa::detect() {
        Isa::Avx512 => all.extend([Isa::Avx2, Isa::Avx512]),
        Isa::Avx2 => all.push(Isa::Avx2),
        Isa::Baseline => {}
    }
    all
}

/// Runs one operation on operands of these shapes, filled with numbers from -2 to 2.
fn run(isa: Isa, op: Op, shapes: &[&[u32]]) -> Vec<f32> {
    let pool = BufferPool::new(1 << 20, true);
    let budget = Budget::new(1 << 30);
    let descriptors: Vec<Descriptor> = shapes
        .iter()
        .map(|s| Descriptor { data_type: DataType::Float32, shape: Dims::new(s).expect("short shapes") })
        .collect();
    let leaves: Vec<Arc<Value>> = descriptors
        .iter()
        .map(|d| {
            let mut buffer = pool.take("test", d.bytes()).expect("memory");
            for (i, v) in view_mut::<f32>(buffer.bytes_mut()).iter_mut().enumerate() {
                *v = ((i * 7919 + 13) % 1000) as f32 / 250.0 - 2.0;
            }
            let charge = budget.charge("test", 0).expect("an empty charge");
            Arc::new(Value::new(*d, buffer, charge))
        })
        .collect();
    let graph = Graph {
        nodes: vec![GraphNode {
            op,
            inputs: (0..shapes.len() as u32).map(Source::Leaf).collect(),
            descriptor: infer(&op, &descriptors).expect("fitting shapes"),
            output: true,
        }],
        leaves: descriptors,
    };
    let cpu = Cpu { shared: Arc::new(Shared { isa, threads: 1, workers: None, buffers: Arc::clone(&pool) }) };
    let plan = lower::lower(&graph, isa, 1).expect("a plan");
    let plan = CpuPlan { plan, shared: Arc::clone(&cpu.shared) };
    let charge = budget.charge("test", plan.peak_bytes()).expect("a large budget");
    let values = plan.run(&leaves, charge, &AtomicBool::new(false)).expect("a result");
    view::<f32>(values[0].bytes()).to_vec()
}

#[test]
fn every_instruction_set_computes_the_same() {
    let conv =
        |padding, strides, groups| Op::Conv2d(Conv2d { padding, strides, groups, ..Conv2d::default() });
    let sum = |kind, axis| Op::Reduce { kind, axes: Dims::new(&[axis]), keep_dimensions: false };
    let mut cases: Vec<(Op, Vec<&[u32]>)> = vec![
        // Direct convolution: tiles of 8, 4, 2 and 1 channels, every number of vectors.
        (conv([1, 1, 19, 19], [1, 1], 1), vec![&[1, 8, 6, 264], &[8, 8, 3, 39], &[8]]),
        (conv([2, 2, 1, 1], [1, 3], 1), vec![&[2, 8, 7, 264], &[15, 8, 5, 5], &[15]]),
        (conv([0; 4], [1, 2], 1), vec![&[1, 1, 1, 900], &[7, 1, 1, 256]]),
        (conv([0; 4], [2, 1], 3), vec![&[1, 6, 9, 61], &[12, 2, 3, 3], &[12]]),
        (sum(Reduction::Sum, 0), vec![&[50, 70]]),
        (sum(Reduction::LogSumExp, 1), vec![&[50, 70]]),
        (sum(Reduction::Max, 1), vec![&[5, 7000]]),
        (Op::Softmax { axis: 1 }, vec![&[20, 333]]),
        (Op::Softmax { axis: 0 }, vec![&[20, 333]]),
        (Op::Binary(Binary::Div), vec![&[33, 7], &[7]]),
        (Op::Binary(Binary::Max), vec![&[33, 7], &[33, 1]]),
    ];
    let widths: Vec<[u32; 4]> = (1..=8).map(|v| [1, 3, 4, 16 * v - 3 + 2]).collect();
    for width in &widths {
        for filter in [&[8u32, 3, 3, 3], &[4, 3, 3, 3], &[2, 3, 3, 3], &[1, 3, 3, 3]] {
            cases.push((conv([0; 4], [1, 1], 1), vec![width, filter]));
        }
    }
    for unary in [Unary::Exp, Unary::Tanh, Unary::Erf, Unary::Sigmoid, Unary::Gelu, Unary::Floor] {
        cases.push((Op::Unary(unary), vec![&[3, 401]]));
    }
    for (op, shapes) in &cases {
        let expected = run(Isa::Baseline, *op, shapes);
        assert!(expected.iter().all(|v| v.is_finite()), "{op:?} leaves elements unwritten");
        for isa in available() {
            for (i, (f, w)) in run(isa, *op, shapes).iter().zip(&expected).enumerate() {
                let near = (f - w).abs() <= 2e-5 * w.abs().max(10.0);
                assert!(near, "{isa:?} {op:?} {shapes:?}: element {i} is {f}, expected {w}");
            }
        }
    }
}
