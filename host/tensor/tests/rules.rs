//! The rules answer whatever a guest may send: overflowing, zero and huge shapes, ranks 0 to 8,
//! wrong types, any attribute. What they accept the engine computes to the shape they said; what
//! they refuse names the operation and the shapes. Nothing panics, hangs, or takes memory that
//! the budget does not have.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod plain;

use std::time::{Duration, Instant};

use plain::*;
use proptest::prelude::*;
use warren_tensor::*;

const KINDS: usize = 45;

/// Attributes to make operations of.
#[derive(Debug, Clone)]
struct Attributes {
    kind: usize,
    lists: Vec<Vec<u32>>,
    number: f64,
    axis: u32,
    data_type: usize,
    flags: [bool; 3],
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let entry = prop_oneof![8 => 0..6u32, 1 => Just(u32::MAX), 1 => Just(1 << 16), 1 => Just(1 << 31)];
    (
        0..KINDS,
        prop::collection::vec(prop::collection::vec(entry, 0..=8), 4),
        prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(-1.0), Just(3.0), Just(0.0), Just(1e300)],
        prop_oneof![6 => 0..5u32, 1 => Just(u32::MAX)],
        0..8usize,
        any::<[bool; 3]>(),
    )
        .prop_map(|(kind, lists, number, axis, data_type, flags)| Attributes {
            kind,
            lists,
            number,
            axis,
            data_type,
            flags,
        })
}

fn operation(a: &Attributes) -> Op {
    let list = |i: usize| Dims::new(&a.lists[i]).unwrap();
    let some = |i: usize, flag: bool| flag.then(|| list(i));
    let pair = |i: usize| std::array::from_fn(|at| a.lists[i].get(at).copied().unwrap_or(1));
    let quad = |i: usize| std::array::from_fn(|at| a.lists[i].get(at).copied().unwrap_or(0));
    let [first, second, third] = a.flags;
    let data_type = DataType::ALL[a.data_type];
    let layout = if first { InputLayout::Nchw } else { InputLayout::Nhwc };
    let (axis, number) = (a.axis, a.number);
    let reductions =
        [Reduction::Max, Reduction::LogSumExp, Reduction::Product, Reduction::Mean, Reduction::L1];
    let poolings = [Pooling::Average, Pooling::L2, Pooling::Max];
    match a.kind {
        0 => Op::Binary([Binary::Pow, Binary::Div, Binary::Max][a.data_type % 3]),
        1 => Op::Compare(Compare::Equal),
        2 => Op::Logical(Logical::Xor),
        3 => Op::Unary([Unary::Erf, Unary::Abs, Unary::IsNan, Unary::Identity][a.data_type % 4]),
        4 => Op::Clamp { min: Some(number), max: first.then_some(1.0) },
        5 => Op::Cast { to: data_type },
        6 => Op::Where,
        7 => Op::Reshape { shape: list(0) },
        8 => Op::Transpose { permutation: some(0, first) },
        9 => Op::Expand { shape: list(0) },
        10 => Op::Slice { starts: list(0), sizes: list(1), strides: some(2, first) },
        11 => Op::Concat { axis },
        12 => Op::Pad { beginning: list(0), ending: list(1), mode: PaddingMode::Reflection },
        13 => Op::Matmul,
        14 => Op::Gemm { alpha: number, beta: 1.0, a_transpose: first, b_transpose: second },
        15 => Op::Conv2d(Conv2d {
            padding: quad(0),
            strides: pair(1),
            dilations: pair(2),
            groups: axis,
            input_layout: layout,
            filter_layout: if second { FilterLayout::Oihw } else { FilterLayout::Hwio },
        }),
        16 => Op::Softmax { axis },
        17 => Op::Reduce { kind: reductions[a.data_type % 5], axes: some(0, first), keep_dimensions: second },
        18 => Op::Pad { beginning: list(0), ending: list(1), mode: PaddingMode::Edge },
        19 => Op::Pad { beginning: list(0), ending: list(1), mode: PaddingMode::Constant(number) },
        20 => Op::Fill { data_type, shape: list(0), value: number },
        21 => Op::ConvTranspose2d(ConvTranspose2d {
            padding: quad(0),
            strides: pair(1),
            dilations: pair(2),
            output_padding: if second { pair(3) } else { [0; 2] },
            output_sizes: third.then(|| pair(3)),
            groups: axis,
            input_layout: layout,
            filter_layout: if second { TransposeFilterLayout::Iohw } else { TransposeFilterLayout::Ohwi },
        }),
        22 | 23 => Op::Pool2d(
            poolings[a.data_type % 3],
            Pool2d {
                window: second.then(|| pair(3)),
                padding: quad(0),
                strides: pair(1),
                dilations: pair(2),
                layout,
                rounding: if third { Rounding::Floor } else { Rounding::Ceil },
                output_sizes: (a.data_type > 6).then(|| pair(3)),
            },
        ),
        24 | 25 => Op::Resample2d(Resample2d {
            mode: if first { Interpolation::Linear } else { Interpolation::NearestNeighbor },
            scales: [number as f32, 1.5],
            sizes: second.then(|| pair(0)),
            axes: pair(1),
        }),
        26 => Op::ArgMinMax { kind: Arg::Max, axis, keep_dimensions: first, output_data_type: data_type },
        27 => Op::CumulativeSum { axis, exclusive: first, reversed: second },
        28 => Op::BatchNormalization { axis, epsilon: number, scale: first, bias: second },
        29 => Op::InstanceNormalization { layout, epsilon: number, scale: second, bias: third },
        30 => Op::LayerNormalization { axes: some(0, first), epsilon: number, scale: second, bias: third },
        31 => Op::Prelu,
        32 => Op::DequantizeLinear,
        33 => Op::QuantizeLinear,
        34 => Op::Gather { axis },
        35 => Op::GatherElements { axis },
        36 => Op::GatherNd,
        37 => Op::ScatterElements { axis },
        38 => Op::ScatterNd,
        39 => Op::Reverse { axes: some(0, first) },
        40 => Op::Tile { repetitions: list(0) },
        41 => Op::Triangular { upper: first, diagonal: axis as i32 },
        42 => Op::Elu { alpha: number },
        43 => Op::HardSigmoid { alpha: number, beta: number },
        _ => Op::LeakyRelu { alpha: number },
    }
}

fn shapes() -> impl Strategy<Value = Vec<Vec<u32>>> {
    let size = prop_oneof![12 => 0..5u32, 1 => Just(u32::MAX), 1 => Just(1 << 16)];
    // Often several of one shape, so that operations with rules about that are reached.
    let one = prop_oneof![prop::collection::vec(size.clone(), 4), prop::collection::vec(size, 0..=8)];
    (prop::collection::vec(one, 0..5), any::<bool>()).prop_map(|(mut shapes, same)| {
        if same && let Some(first) = shapes.first().cloned() {
            shapes.iter_mut().for_each(|s| s.clone_from(&first));
        }
        shapes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rules_are_total(shapes in shapes(), types in prop::collection::vec(0..8usize, 5), one_type in any::<bool>(), attributes in attributes()) {
        let op = operation(&attributes);
        let type_of = |i: usize| DataType::ALL[if one_type { types[0] } else { types[i] }];
        let descriptors: Vec<Descriptor> = shapes.iter().enumerate()
            .map(|(i, s)| Descriptor { data_type: type_of(i), shape: Dims::new(s).unwrap() }).collect();
        let small = |d: &Descriptor| d.shape.elements().is_some_and(|n| n < 100_000);
        match infer(&op, &descriptors) {
            Err(error) => {
                prop_assert_eq!(error.operation, op.name());
                prop_assert_eq!(error.kind, ErrorKind::InvalidArgument);
                if let Some(first) = shapes.first() {
                    prop_assert!(error.message.contains(&format!("{first:?}")), "{} does not name {:?}", error, first);
                }
            }
            Ok(result) if small(&result) && descriptors.iter().all(small) => {
                let mut s = session(0);
                let start = Instant::now();
                let ids: Vec<TensorId> = descriptors.iter().map(|d| s.constant(d.data_type, d.shape.as_slice(), &vec![1; d.bytes()]).unwrap()).collect();
                let id = s.record(op, &ids).unwrap();
                match s.value(id) {
                    Ok(value) => {
                        prop_assert_eq!(value.descriptor(), &result);
                        prop_assert_eq!(value.bytes().len(), result.bytes());
                    }
                    // What is laid out on the way may be far larger than operands and result.
                    Err(error) => prop_assert_eq!(error.kind, ErrorKind::OutOfMemory, "{}", error),
                }
                prop_assert!(start.elapsed() < Duration::from_secs(5), "{:?} took {:?}", op, start.elapsed());
            }
            Ok(_) => {}
        }
    }

    #[test]
    fn rules_of_networks_are_total(shapes in prop::collection::vec(prop::collection::vec(prop_oneof![6 => 0..5u32, 1 => Just(u32::MAX)], 0..=4), 8), h in prop_oneof![5 => 0..4u32, 1 => Just(u32::MAX)], steps in prop_oneof![5 => 0..4u32, 1 => Just(u32::MAX)], fit in any::<bool>(), direction in 0..3usize, given in any::<[bool; 5]>(), t in 0..8usize) {
        let mut s = session(0);
        let direction = [Direction::Forward, Direction::Backward, Direction::Both][direction];
        let mut put = |shape: &[u32], fitting: &[u32]| {
            let shape = if fit && fitting.iter().all(|&d| d < 100) { fitting } else { shape };
            let shape: Vec<u32> = shape.iter().map(|&d| d.min(50)).collect();
            let count: u32 = shape.iter().product();
            let t = if fit { DataType::ALL[t % 2] } else { DataType::ALL[t] };
            s.constant(t, &shape, &vec![0; count as usize * t.size()]).unwrap()
        };
        let (d, rows) = (direction.count(), h.saturating_mul(4));
        let operands = LstmOperands {
            input: put(&shapes[0], &[steps, 2, 3]),
            weight: put(&shapes[1], &[d, rows, 3]),
            recurrent_weight: put(&shapes[2], &[d, rows, h]),
            bias: given[0].then(|| put(&shapes[3], &[d, rows])),
            recurrent_bias: given[1].then(|| put(&shapes[4], &[d, rows])),
            peephole_weight: given[2].then(|| put(&shapes[5], &[d, h.saturating_mul(3)])),
            initial_hidden_state: given[3].then(|| put(&shapes[6], &[d, 2, h])),
            initial_cell_state: given[4].then(|| put(&shapes[7], &[d, 2, h])),
        };
        let lstm = Lstm { return_sequence: true, direction, ..Lstm::new(steps, h) };
        match s.lstm(&operands, &lstm) {
            Ok(made) => {
                let sequence = s.value(made[2]).map_err(|e| TestCaseError::fail(e.to_string()))?;
                prop_assert_eq!(sequence.shape(), &[steps, d, 2, h][..]);
            }
            Err(error) => prop_assert_eq!((error.kind, error.operation), (ErrorKind::InvalidArgument, "lstm")),
        }
    }
}
