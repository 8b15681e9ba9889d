//! The worst error of each float32 operation on the CPU, in units of the last place of the exact
//! result computed in f64, over a million random operands.
#![allow(clippy::unwrap_used, clippy::type_complexity, missing_docs)]

use std::sync::Arc;

use warren_tensor::*;

const COUNT: usize = 1 << 20;

/// Random numbers of the range, half of them spread evenly over magnitudes.
fn sample(low: f64, high: f64, seed: u64) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..COUNT)
        .map(|i| {
            let (a, b) = (next(), next());
            let even = low + (high - low) * a;
            let by_size = (if b < 0.5 { low } else { high }) * 10f64.powf(-8.0 * a);
            (if i % 2 == 0 { even } else { by_size.clamp(low, high) }) as f32
        })
        .collect()
}

fn ulp(found: f32, exact: f64) -> f64 {
    let near = exact as f32;
    if near.is_infinite() || exact.is_nan() {
        return if found == near || found.is_nan() && exact.is_nan() { 0.0 } else { f64::INFINITY };
    }
    ((f64::from(found) - exact) / spacing(near)).abs()
}

fn spacing(near: f32) -> f64 {
    let near = near.abs().min(1e38);
    f64::from(f32::from_bits(near.to_bits() + 1)) - f64::from(near)
}

/// Gauss error function by its series or continued fraction.
fn erf(x: f64) -> f64 {
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..120 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let t = x.abs();
    let f = (1..120).rev().fold(t, |f, k| t + f64::from(k) / 2.0 / f);
    (1.0 - (-t * t).exp() / (f * std::f64::consts::PI.sqrt())).copysign(x)
}

fn main() {
    let engine = Arc::new(Engine::new(EngineConfig::default()).unwrap());
    let mut s = Session::new(engine, Budget::new(4 << 30), Arc::default());
    let put = |s: &mut Session, shape: &[u32], values: &[f32]| {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        s.constant(DataType::Float32, shape, &bytes).unwrap()
    };
    let floats = |s: &mut Session, id: TensorId| -> Vec<f32> {
        let value = s.value(id).unwrap();
        value.bytes().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let unary: [(Op, f64, f64, fn(f64) -> f64); 18] = [
        (Op::Unary(Unary::Exp), -87.0, 88.0, f64::exp),
        (Op::Unary(Unary::Log), 1e-30, 1e30, f64::ln),
        (Op::Unary(Unary::Sqrt), 0.0, 1e30, f64::sqrt),
        (Op::Unary(Unary::Reciprocal), -1e6, 1e6, |x| 1.0 / x),
        (Op::Unary(Unary::Sin), -100.0, 100.0, f64::sin),
        (Op::Unary(Unary::Cos), -100.0, 100.0, f64::cos),
        (Op::Unary(Unary::Tan), -100.0, 100.0, f64::tan),
        (Op::Unary(Unary::Erf), -5.0, 5.0, erf),
        (Op::Unary(Unary::Sigmoid), -80.0, 80.0, |x| 1.0 / (1.0 + (-x).exp())),
        (Op::Unary(Unary::Tanh), -20.0, 20.0, f64::tanh),
        (Op::Unary(Unary::Softplus), -80.0, 80.0, |x| if x > 40.0 { x } else { x.exp().ln_1p() }),
        (Op::Unary(Unary::Softsign), -1e4, 1e4, |x| x / (1.0 + x.abs())),
        (Op::Unary(Unary::Gelu), -3.0, 10.0, |x| 0.5 * x * (1.0 + erf(x / 2f64.sqrt()))),
        (Op::Unary(Unary::HardSwish), -10.0, 10.0, |x| x * (x + 3.0).clamp(0.0, 6.0) / 6.0),
        (Op::Elu { alpha: 1.0 }, -20.0, 10.0, |x| if x >= 0.0 { x } else { x.exp_m1() }),
        (Op::LeakyRelu { alpha: 0.01 }, -10.0, 10.0, |x| if x >= 0.0 { x } else { f64::from(0.01f32) * x }),
        (Op::Linear { alpha: 2.0, beta: 1.0 }, 0.0, 10.0, |x| 2.0 * x + 1.0),
        (Op::HardSigmoid { alpha: 0.25, beta: 0.5 }, -1.9, 10.0, |x| (0.25 * x + 0.5).clamp(0.0, 1.0)),
    ];
    for (op, low, high, exact) in unary {
        let x = sample(low, high, 7);
        let id = put(&mut s, &[COUNT as u32], &x);
        let y = s.record(op, &[id]).unwrap();
        let y = floats(&mut s, y);
        let mut worst = (0.0, 0.0);
        for (&x, &y) in x.iter().zip(&y) {
            let error = ulp(y, exact(f64::from(x)));
            if error > worst.0 {
                worst = (error, x);
            }
        }
        println!("{:16} {:9.2} ULP, at {:e}", op.name(), worst.0, worst.1);
    }
    let (a, b) = (sample(-10.0, 10.0, 3), sample(-10.0, 10.0, 5));
    let ids = [put(&mut s, &[COUNT as u32], &a), put(&mut s, &[COUNT as u32], &b)];
    let binary: [(Binary, fn(f64, f64) -> f64); 4] = [
        (Binary::Add, |a, b| a + b),
        (Binary::Mul, |a, b| a * b),
        (Binary::Div, |a, b| a / b),
        (Binary::Pow, f64::powf),
    ];
    for (kind, exact) in binary {
        let y = s.record(Op::Binary(kind), &ids).unwrap();
        let y = floats(&mut s, y);
        let errors = a.iter().zip(&b).zip(&y).map(|((&a, &b), &y)| ulp(y, exact(f64::from(a), f64::from(b))));
        println!("{:16} {:9.2} ULP", kind.name(), errors.fold(0.0, f64::max));
    }
    // Of 1024 elements each.
    let (rows, columns) = (COUNT / 1024, 1024);
    let x: Vec<f32> = sample(0.0, 4.0, 11);
    let id = put(&mut s, &[rows as u32, columns as u32], &x);
    let reduce: [(Reduction, fn(&mut dyn Iterator<Item = f64>) -> f64); 5] = [
        (Reduction::Sum, |v| v.sum()),
        (Reduction::Mean, |v| v.sum::<f64>() / 1024.0),
        (Reduction::L2, |v| v.map(|v| v * v).sum::<f64>().sqrt()),
        (Reduction::LogSumExp, |v| v.map(f64::exp).sum::<f64>().ln()),
        (Reduction::LogSum, |v| v.sum::<f64>().ln()),
    ];
    for (kind, exact) in reduce {
        let op = Op::Reduce { kind, axes: Dims::new(&[1]), keep_dimensions: false };
        let y = s.record(op, &[id]).unwrap();
        let y = floats(&mut s, y);
        let errors =
            x.chunks(columns).zip(&y).map(|(x, &y)| ulp(y, exact(&mut x.iter().map(|&v| f64::from(v)))));
        println!("{:16} {:9.2} ULP, 1024 elements", kind.name(), errors.fold(0.0, f64::max));
    }
    let y = s.record(Op::Softmax { axis: 1 }, &[id]).unwrap();
    let y = floats(&mut s, y);
    let mut worst = 0f64;
    for (x, y) in x.chunks(columns).zip(y.chunks(columns)) {
        let sum: f64 = x.iter().map(|&v| f64::from(v).exp()).sum();
        worst = x.iter().zip(y).fold(worst, |w, (&x, &y)| w.max(ulp(y, f64::from(x).exp() / sum)));
    }
    println!("{:16} {worst:9.2} ULP, 1024 elements", "softmax");
}
