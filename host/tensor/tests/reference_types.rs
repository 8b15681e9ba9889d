//! Every data type: integer arithmetic, conversions, quantization; and the special values of
//! floats (NaN, infinities, zeros of both signs, denormals) through every operation on them.
#![allow(clippy::type_complexity, clippy::unwrap_used, clippy::panic, missing_docs)]

mod plain;

use plain::*;
use proptest::prelude::*;
use warren_tensor::*;

/// The least and the greatest number of an integer type.
fn limits(t: DataType) -> (i128, i128) {
    match t {
        DataType::Int32 => (i32::MIN.into(), i32::MAX.into()),
        DataType::Uint32 => (0, u32::MAX.into()),
        DataType::Int64 => (i64::MIN.into(), i64::MAX.into()),
        DataType::Uint64 => (0, u64::MAX.into()),
        DataType::Int8 => (i8::MIN.into(), i8::MAX.into()),
        _ => (0, u8::MAX.into()),
    }
}

const INTEGERS: [DataType; 6] =
    [DataType::Int32, DataType::Uint32, DataType::Int64, DataType::Uint64, DataType::Int8, DataType::Uint8];

/// Numbers of a type, its limits among them, as little-endian bytes.
fn integers(t: DataType, count: usize, seed: u64) -> Vec<i128> {
    let (low, high) = limits(t);
    let mut state = seed | 1;
    (0..count)
        .map(|i| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let wide = i128::from(state >> 8);
            match (i as u64 ^ seed) % 7 {
                0 => low,
                1 => high,
                2 => 0,
                3 | 4 => (wide % 7).max(low),
                _ => low + wide % (high - low + 1),
            }
        })
        .collect()
}

fn wrap(t: DataType, v: i128) -> i128 {
    let (low, high) = limits(t);
    (v - low).rem_euclid(high - low + 1) + low
}

fn bytes(t: DataType, values: &[i128]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()[..t.size()].to_vec()).collect()
}

fn read(t: DataType, bytes: &[u8]) -> Vec<i128> {
    let signed = limits(t).0 < 0;
    let one = |b: &[u8]| {
        let fill = if signed && b[b.len() - 1] & 0x80 != 0 { 0xFF } else { 0 };
        let mut wide = [fill; 16];
        wide[..b.len()].copy_from_slice(b);
        i128::from_le_bytes(wide)
    };
    bytes.chunks_exact(t.size()).map(one).collect()
}

fn run(s: &mut Session, op: Op, ids: &[TensorId]) -> (DataType, Vec<u8>) {
    let id = s.record(op, ids).unwrap();
    let value = s.value(id).unwrap();
    (value.data_type(), value.bytes().to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn integer_arithmetic(t in 0..6usize, count in 1..3000usize, op in 0..7usize, seed in any::<u64>(), w in 0..2usize) {
        let t = INTEGERS[t];
        let (a, mut b) = (integers(t, count, seed), integers(t, count, seed ^ 77));
        if op == 6 {
            b.iter_mut().for_each(|v| *v %= 5); // powers
        }
        let mut s = session(w);
        let shape = [count as u32];
        let ids = [s.constant(t, &shape, &bytes(t, &a)).unwrap(), s.constant(t, &shape, &bytes(t, &b)).unwrap()];
        let kind = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Max, Binary::Min, Binary::Pow][op];
        let (found_type, found) = run(&mut s, Op::Binary(kind), &ids);
        prop_assert_eq!(found_type, t);
        for ((f, &a), &b) in read(t, &found).into_iter().zip(&a).zip(&b) {
            let want = match kind {
                Binary::Add => a + b,
                Binary::Sub => a - b,
                Binary::Mul => a.wrapping_mul(b),
                Binary::Div => if b == 0 { 0 } else { a / b },
                Binary::Max => a.max(b),
                Binary::Min => a.min(b),
                Binary::Pow if b < 0 => match a { 1 => 1, -1 => if b % 2 == 0 { 1 } else { -1 }, _ => 0 },
                Binary::Pow => (0..b).fold(1, |p: i128, _| wrap(t, p.wrapping_mul(a))),
            };
            prop_assert_eq!(f, wrap(t, want), "{} {:?} {}", a, kind, b);
        }
        for (kind, holds) in [
            (Compare::Equal, (|a, b| a == b) as fn(i128, i128) -> bool), (Compare::NotEqual, |a, b| a != b), (Compare::Greater, |a, b| a > b),
            (Compare::GreaterOrEqual, |a, b| a >= b), (Compare::Lesser, |a, b| a < b), (Compare::LesserOrEqual, |a, b| a <= b),
        ] {
            let (_, found) = run(&mut s, Op::Compare(kind), &ids);
            let want: Vec<u8> = a.iter().zip(&b).map(|(&a, &b)| u8::from(holds(a, b))).collect();
            prop_assert_eq!(found, want);
        }
    }

    #[test]
    fn integer_maps_and_reductions(t in 0..6usize, rows in 1..40usize, columns in 1..40usize, across in any::<bool>(), op in 0..12usize, seed in any::<u64>(), w in 0..2usize) {
        let t = INTEGERS[t];
        let (low, _) = limits(t);
        let a = integers(t, rows * columns, seed);
        let mut s = session(w);
        let id = s.constant(t, &[rows as u32, columns as u32], &bytes(t, &a)).unwrap();
        let unary = [Unary::Abs, Unary::Neg, Unary::Sign, Unary::Relu];
        let kinds = [Reduction::Max, Reduction::Min, Reduction::Sum, Reduction::Product, Reduction::L1, Reduction::SumSquare];
        let signed = low < 0;
        if op < 4 {
            prop_assume!(signed);
            let (_, found) = run(&mut s, Op::Unary(unary[op]), &[id]);
            let map = |v: i128| [v.abs(), -v, v.signum(), v.max(0)][op];
            let want: Vec<i128> = a.iter().map(|&v| wrap(t, map(v))).collect();
            prop_assert_eq!(read(t, &found), want);
        } else if op < 6 {
            // Bounds are rounded inwards.
            let (min, max) = (Some(-3.5), (op == 4).then_some(4.5));
            let (_, found) = run(&mut s, Op::Clamp { min, max }, &[id]);
            let want: Vec<i128> = a.iter().map(|&v| v.max(-3).min(if op == 4 { 4 } else { i128::MAX })).collect();
            prop_assert_eq!(read(t, &found), want);
        } else {
            let kind = kinds[op - 6];
            prop_assume!(t.size() > 1 || matches!(kind, Reduction::Max | Reduction::Min));
            let axis = if across { 0 } else { 1 };
            let op = Op::Reduce { kind, axes: Dims::new(&[axis]), keep_dimensions: false };
            let (_, found) = run(&mut s, op, &[id]);
            let lines = if across { columns } else { rows };
            let line = |i: usize| -> Vec<i128> {
                if across { (0..rows).map(|r| a[r * columns + i]).collect() } else { a[i * columns..][..columns].to_vec() }
            };
            let want: Vec<i128> = (0..lines).map(|i| {
                let v = line(i).into_iter();
                match kind {
                    Reduction::Max => v.max().unwrap(),
                    Reduction::Min => v.min().unwrap(),
                    Reduction::Product => v.fold(1, |p: i128, x| wrap(t, p.wrapping_mul(x))),
                    Reduction::L1 => v.fold(0, |p, x| wrap(t, p + x.abs())),
                    Reduction::SumSquare => v.fold(0, |p, x| wrap(t, p + wrap(t, x.wrapping_mul(x)))),
                    _ => v.fold(0, |p, x| wrap(t, p + x)),
                }
            }).collect();
            prop_assert_eq!(read(t, &found), want);
        }
    }

    #[test]
    fn conversions(from in 0..8usize, to in 0..8usize, count in 1..2000usize, seed in any::<u64>(), w in 0..2usize) {
        let (from, to) = (DataType::ALL[from], DataType::ALL[to]);
        let mut s = session(w);
        let shape = [count as u32];
        let (source, values): (Vec<u8>, Vec<f64>) = if from.is_float() {
            let noise = Dense::noise(&[count], seed);
            let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 3e9, -3e9, 255.5, 1e30];
            let values: Vec<f64> = noise.data.iter().enumerate().map(|(i, v)| special.get((i * 5) % 40).copied().unwrap_or(v * 100.0)).collect();
            let d = Dense { shape: vec![count], data: values };
            let id = put_as(&mut s, from, &d);
            let value = s.value(id).unwrap();
            (value.bytes().to_vec(), numbers(&value).data)
        } else {
            let values = integers(from, count, seed);
            (bytes(from, &values), values.iter().map(|&v| v as f64).collect())
        };
        let id = s.constant(from, &shape, &source).unwrap();
        let (found_type, found) = run(&mut s, Op::Cast { to }, &[id]);
        prop_assert_eq!(found_type, to);
        if to.is_float() {
            let id = s.constant(to, &shape, &found).unwrap();
            let found = numbers(&s.value(id).unwrap());
            let exact: Vec<i128> = if from.is_float() { Vec::new() } else { read(from, &source) };
            for (i, (f, v)) in found.data.iter().zip(&values).enumerate() {
                // Integers are rounded once, from their exact value.
                let single = if from.is_float() { *v as f32 } else { exact[i] as f32 };
                let want = if to == DataType::Float16 { half::f16::from_f32(single).to_f64() } else { f64::from(single) };
                prop_assert!(*f == want || f.is_nan() && want.is_nan(), "{} became {}, not {}", v, f, want);
            }
        } else {
            let found = read(to, &found);
            let (low, high) = limits(to);
            let want: Vec<i128> = if from.is_float() {
                values.iter().map(|v| if v.is_nan() { 0 } else { (*v as i128).clamp(low, high) }).collect()
            } else {
                read(from, &source).into_iter().map(|v| wrap(to, v)).collect()
            };
            prop_assert_eq!(found, want);
        }
    }

    #[test]
    fn quantization(to in shape(1..=4, 4), blocks in prop::collection::vec((1..4usize, 0..3usize), 4), t in 0..4usize, half in any::<bool>(), seed in any::<u64>(), w in 0..2usize) {
        let t = [DataType::Uint8, DataType::Int8, DataType::Uint32, DataType::Int32][t];
        let f = if half { DataType::Float16 } else { DataType::Float32 };
        // Each dimension is 1, whole, or in blocks.
        let small = to.clone();
        let big: Vec<usize> = to.iter().zip(&blocks).map(|(d, b)| if b.1 == 0 { *d } else { d * b.0 }).collect();
        let small: Vec<usize> = small.iter().zip(&blocks).map(|(d, b)| if b.1 == 2 { 1 } else { *d }).collect();
        let (low, high) = limits(t);
        let (low, high) = (low.max(-1000) as i64, high.min(1000) as i64);
        let x = whole(&big, seed, low, high);
        let zero = whole(&small, seed ^ 1, low, high);
        let mut scale = whole(&small, seed ^ 2, 1, 8);
        scale.data.iter_mut().for_each(|v| *v /= 4.0);
        let at = |d: &Dense, o: &[usize]| {
            let index: Vec<usize> = o.iter().enumerate().map(|(a, v)| v / (big[a] / small[a])).collect();
            d.at(&index)
        };
        let want = Dense::from_fn(&big, |o| (x.at(o) - at(&zero, o)) * at(&scale, o));
        let (found_type, found) = compute(w, Op::DequantizeLinear, &[(t, &x), (f, &scale), (t, &zero)])?;
        prop_assert_eq!(found_type, f);
        close(&found, &want, if half { 1e-3 } else { 1e-6 })?;
        let y = Dense { shape: big.clone(), data: Dense::noise(&big, seed ^ 3).data.iter().map(|v| (v * 64.0).round() * 4.0).collect() };
        let (low, high) = limits(t);
        let want = Dense::from_fn(&big, |o| {
            let sum = (y.at(o) / at(&scale, o)).round_ties_even() + at(&zero, o);
            sum.clamp(low as f64, high as f64)
        });
        // Quotients that are no multiple of a half round the same in float32 and f64.
        let (found_type, found) = compute(w, Op::QuantizeLinear, &[(f, &y), (f, &scale), (t, &zero)])?;
        prop_assert_eq!(found_type, t);
        close(&found, &want, 0.0)?;
    }

    #[test]
    fn prelu(to in shape(0..=4, 6), ma in any::<u32>(), mb in any::<u32>(), t in 0..5usize, seed in any::<u64>(), w in 0..2usize) {
        let t = [DataType::Float32, DataType::Float16, DataType::Int32, DataType::Int64, DataType::Int8][t];
        let (x, slope) = (whole(&shrink(&to, ma & !mb, 0), seed, -10, 10), whole(&shrink(&to, mb, 0), seed ^ 1, -10, 10));
        let want = Dense::from_fn(&to, |o| x.at(o).max(0.0) + slope.at(o) * x.at(o).min(0.0));
        let (found_type, found) = compute(w, Op::Prelu, &[(t, &x), (t, &slope)])?;
        prop_assert_eq!(found_type, t);
        close(&found, &want, 0.0)?;
    }
}

const SPECIAL: [f64; 16] = [
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    0.0,
    -0.0,
    1e-40,
    -1e-40,
    1.2e-38,
    3e-5,
    -3e-5,
    1.0,
    -1.0,
    0.5,
    -2.5,
    60000.0,
    -60000.0,
];

/// Gauss error function by its series or continued fraction.
fn erf(x: f64) -> f64 {
    if x.is_nan() || x.is_infinite() {
        return if x.is_nan() { x } else { x.signum() };
    }
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let t = x.abs();
    let f = (1..200).rev().fold(t, |f, k| t + f64::from(k) / 2.0 / f);
    (1.0 - (-t * t).exp() / (f * std::f64::consts::PI.sqrt())).copysign(x)
}

#[test]
fn special_values_go_through_every_unary_operation() {
    let keep = |x: f64, f: f64| if x.is_nan() { x } else { f };
    let cases: Vec<(Op, fn(f64) -> f64)> = vec![
        (Op::Unary(Unary::Abs), f64::abs),
        (Op::Unary(Unary::Ceil), f64::ceil),
        (Op::Unary(Unary::Cos), f64::cos),
        (Op::Unary(Unary::Erf), erf),
        (Op::Unary(Unary::Exp), f64::exp),
        (Op::Unary(Unary::Floor), f64::floor),
        (Op::Unary(Unary::Identity), |x| x),
        (Op::Unary(Unary::Log), f64::ln),
        (Op::Unary(Unary::Neg), |x| -x),
        (Op::Unary(Unary::Reciprocal), |x| 1.0 / x),
        (Op::Unary(Unary::RoundEven), f64::round_ties_even),
        (Op::Unary(Unary::Sign), |x| if x == 0.0 || x.is_nan() { x } else { x.signum() }),
        (Op::Unary(Unary::Sin), f64::sin),
        (Op::Unary(Unary::Sqrt), f64::sqrt),
        (Op::Unary(Unary::Tan), f64::tan),
        (Op::Unary(Unary::Relu), |x| if x < 0.0 { 0.0 } else { x }),
        (Op::Unary(Unary::Sigmoid), |x| 1.0 / (1.0 + (-x).exp())),
        (Op::Unary(Unary::Tanh), f64::tanh),
        (Op::Unary(Unary::Softplus), |x| if x > 100.0 { x } else { x.exp().ln_1p() }),
        (Op::Unary(Unary::Softsign), |x| if x.is_infinite() { x.signum() } else { x / (1.0 + x.abs()) }),
        (Op::Unary(Unary::Gelu), |x| {
            if x == f64::NEG_INFINITY { f64::NAN } else { 0.5 * x * (1.0 + erf(x / 2f64.sqrt())) }
        }),
        (Op::Unary(Unary::HardSwish), |x| {
            if x == f64::NEG_INFINITY { f64::NAN } else { x * (x + 3.0).clamp(0.0, 6.0) / 6.0 }
        }),
        (Op::Elu { alpha: 0.5 }, |x| if x >= 0.0 { x } else { 0.5 * x.exp_m1() }),
        (Op::LeakyRelu { alpha: 0.25 }, |x| if x >= 0.0 { x } else { 0.25 * x }),
        (Op::HardSigmoid { alpha: 0.25, beta: 0.5 }, |x| (0.25 * x + 0.5).clamp(0.0, 1.0)),
        (Op::Linear { alpha: 2.0, beta: 1.0 }, |x| 2.0 * x + 1.0),
        (Op::Clamp { min: Some(-2.0), max: Some(1.5) }, |x| x.clamp(-2.0, 1.5)),
        (Op::Clamp { min: None, max: None }, |x| x),
    ];
    for t in [DataType::Float32, DataType::Float16] {
        let mut s = session(0);
        let x = put_as(&mut s, t, &Dense { shape: vec![16], data: SPECIAL.to_vec() });
        let given = numbers(&s.value(x).unwrap());
        for (op, f) in &cases {
            let id = s.record(*op, &[x]).unwrap();
            let found = numbers(&s.value(id).unwrap());
            for (&x, &y) in given.data.iter().zip(&found.data) {
                let exact = keep(x, f(x));
                let want = if t == DataType::Float16 {
                    half::f16::from_f64(exact).to_f64()
                } else {
                    f64::from(exact as f32)
                };
                let tolerance = if t == DataType::Float16 { 2e-3 } else { 4e-6 };
                // Denormal inputs and results are not flushed; near 0 the absolute error counts.
                let fits = y == want
                    || y.is_nan() && want.is_nan()
                    || (y - want).abs() <= tolerance * want.abs().max(1e-38);
                // Periodic functions of large arguments, and gelu far below 0, by absolute error.
                let loose = (y - want).abs() <= tolerance * want.abs().max(1.0)
                    && matches!(
                        op,
                        Op::Unary(Unary::Cos | Unary::Sin | Unary::Tan | Unary::Gelu | Unary::Erf)
                    );
                assert!(fits || loose, "{t} {}({x:e}) is {y:e}, expected {want:e}", op.name());
            }
        }
        for (unary, f) in
            [(Unary::IsNan, f64::is_nan as fn(f64) -> bool), (Unary::IsInfinite, f64::is_infinite)]
        {
            let id = s.record(Op::Unary(unary), &[x]).unwrap();
            let want: Vec<u8> = given.data.iter().map(|&v| u8::from(f(v))).collect();
            assert_eq!(s.value(id).unwrap().bytes(), want);
        }
    }
}

#[test]
fn special_values_go_through_every_binary_operation_and_reduction() {
    let pairs: Vec<(f64, f64)> = SPECIAL.iter().flat_map(|&a| SPECIAL.iter().map(move |&b| (a, b))).collect();
    let nan_or = |a: f64, b: f64, v: f64| if a.is_nan() || b.is_nan() { f64::NAN } else { v };
    for t in [DataType::Float32, DataType::Float16] {
        let mut s = session(0);
        let part =
            |f: fn(&(f64, f64)) -> f64| Dense { shape: vec![256], data: pairs.iter().map(f).collect() };
        let ids = [put_as(&mut s, t, &part(|p| p.0)), put_as(&mut s, t, &part(|p| p.1))];
        let given = ids.map(|id| numbers(&s.value(id).unwrap()));
        for kind in
            [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Max, Binary::Min, Binary::Pow]
        {
            let id = s.record(Op::Binary(kind), &ids).unwrap();
            let found = numbers(&s.value(id).unwrap());
            for ((&a, &b), &y) in given[0].data.iter().zip(&given[1].data).zip(&found.data) {
                let exact = match kind {
                    Binary::Add => a + b,
                    Binary::Sub => a - b,
                    Binary::Mul => a * b,
                    Binary::Div => a / b,
                    Binary::Max => nan_or(a, b, a.max(b)),
                    Binary::Min => nan_or(a, b, a.min(b)),
                    Binary::Pow => a.powf(b),
                };
                let want = if t == DataType::Float16 {
                    half::f16::from_f64(exact).to_f64()
                } else {
                    f64::from(exact as f32)
                };
                let tolerance = if t == DataType::Float16 { 1e-3 } else { 2e-6 };
                let fits =
                    y == want || y.is_nan() && want.is_nan() || (y - want).abs() <= tolerance * want.abs();
                assert!(fits, "{t} {kind:?}({a:e}, {b:e}) is {y:e}, expected {want:e}");
            }
        }
        let line = |values: &[f64]| Dense { shape: vec![1, values.len()], data: values.to_vec() };
        let cases: [(Reduction, &[f64], f64); 10] = [
            (Reduction::Max, &[1.0, f64::NAN, 3.0], f64::NAN),
            (Reduction::Min, &[f64::NAN, -1.0], f64::NAN),
            (Reduction::Max, &[f64::NEG_INFINITY, f64::NEG_INFINITY], f64::NEG_INFINITY),
            (Reduction::Sum, &[f64::INFINITY, f64::NEG_INFINITY], f64::NAN),
            (Reduction::Sum, &[f64::INFINITY, 1.0], f64::INFINITY),
            (Reduction::LogSumExp, &[60000.0, 60000.0], 60000.0 + 2f64.ln()),
            (Reduction::LogSumExp, &[f64::NEG_INFINITY, f64::NEG_INFINITY], f64::NEG_INFINITY),
            (Reduction::LogSumExp, &[f64::INFINITY, 0.0], f64::INFINITY),
            (Reduction::L2, &[60000.0, 0.0], 60000.0),
            (Reduction::Product, &[0.0, f64::INFINITY], f64::NAN),
        ];
        for (kind, values, want) in cases {
            for axis in [0u32, 1] {
                // Along the innermost axis, and across.
                let mut d = line(values);
                if axis == 0 {
                    d.shape.reverse();
                }
                let x = put_as(&mut s, t, &d);
                let id = s
                    .record(Op::Reduce { kind, axes: Dims::new(&[axis]), keep_dimensions: false }, &[x])
                    .unwrap();
                let y = numbers(&s.value(id).unwrap()).data[0];
                let fits = y == want || y.is_nan() && want.is_nan() || (y - want).abs() <= 1e-3 * want.abs();
                assert!(fits, "{t} {kind:?} of {values:?} over axis {axis} is {y}, expected {want}");
            }
        }
        // Softmax neither overflows nor loses a NaN.
        for (values, want) in [
            (vec![60000.0, 60000.0], 0.5),
            (vec![f64::NAN, 1.0], f64::NAN),
            (vec![f64::NEG_INFINITY, 1.0], 0.0),
        ] {
            for axis in [0u32, 1] {
                let mut d = line(&values);
                if axis == 0 {
                    d.shape.reverse();
                }
                let x = put_as(&mut s, t, &d);
                let id = s.record(Op::Softmax { axis }, &[x]).unwrap();
                let y = numbers(&s.value(id).unwrap()).data[0];
                assert!(
                    y == want || y.is_nan() && want.is_nan(),
                    "{t} softmax of {values:?}: {y}, expected {want}"
                );
            }
        }
    }
}
