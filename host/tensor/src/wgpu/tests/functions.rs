//! Functions over their whole range against float64: the worst errors in ULP of float32.

use super::*;
use crate::budget::Budget;
use crate::engine::Engine;
use crate::op::Unary;
use crate::session::Session;

/// What the device makes of an operation on these operands.
fn map(engine: &Arc<Engine>, op: Op, operands: &[&[f32]]) -> Vec<f32> {
    let mut s = Session::new(Arc::clone(engine), Budget::new(1 << 26), Arc::default());
    let ids: Vec<_> = operands
        .iter()
        .map(|x| {
            let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
            s.constant(DataType::Float32, &[x.len() as u32], &bytes).unwrap()
        })
        .collect();
    let result = s.record(op, &ids).unwrap();
    crate::buffer::view::<f32>(s.value(result).unwrap().bytes()).to_vec()
}

fn ulps(found: f32, exact: f64) -> f64 {
    let near = exact as f32;
    if found == near || found.is_nan() && near.is_nan() {
        return 0.0;
    }
    // Results below the normal range may be flushed to zero.
    let size = near.abs().max(f32::MIN_POSITIVE);
    let ulp = f64::from(f32::from_bits(size.to_bits() + 1)) - f64::from(size);
    ((f64::from(found) - exact) / ulp).abs()
}

/// Numbers of all sizes up to `limit`, both signs.
fn numbers(limit: f32) -> Vec<f32> {
    let mut out = Vec::new();
    let mut x = 1e-6f32;
    while x < limit {
        out.extend([x, -x]);
        x *= 1.000_7;
    }
    out
}

/// An operation, operands for it, the truth, and how many ULP off it may be.
type Case<'a> = (Unary, &'a [f32], fn(f64) -> f64, f64);

#[test]
fn wgpu_functions_are_exact_over_their_whole_range() {
    let Some(wgpu) = open(config()) else { return };
    let engine = Engine::on(Box::new(wgpu), Arc::clone(&setup().buffers));
    let positive: Vec<f32> = numbers(1e37).into_iter().map(f32::abs).collect();
    let small = numbers(80.0);
    let unary: [Case<'_>; 7] = [
        (Unary::Exp, &small, f64::exp, 2.0),
        (Unary::Log, &positive, f64::ln, 3.0),
        (Unary::Tanh, &small, f64::tanh, 4.0),
        (Unary::Sigmoid, &small, |x| 1.0 / (1.0 + (-x).exp()), 5.0),
        (Unary::Softplus, &small, |x| if x > 30.0 { x } else { x.exp().ln_1p() }, 8.0),
        (Unary::Reciprocal, &positive, |x| 1.0 / x, 3.0),
        (Unary::Sqrt, &positive, f64::sqrt, 3.0),
    ];
    for (unary, x, exact, bound) in unary {
        let found = map(&engine, Op::Unary(unary), &[x]);
        let worst = found.iter().zip(x).map(|(&f, &x)| (ulps(f, exact(f64::from(x))), x));
        let worst = worst.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
        println!("{:10} {:6.2} ULP at {}", unary.name(), worst.0, worst.1);
        assert!(worst.0 <= bound, "{}: {worst:?}", unary.name());
    }
    // Whole turns are taken off without loss, however many they are.
    let turns = numbers(3e38);
    for (unary, exact) in [(Unary::Sin, f64::sin as fn(f64) -> f64), (Unary::Cos, f64::cos)] {
        let found = map(&engine, Op::Unary(unary), &[&turns]);
        for (&f, &x) in found.iter().zip(&turns) {
            let off = (f64::from(f) - exact(f64::from(x))).abs();
            assert!(off < 3e-7, "{} of {x}: {f}, off by {off}", unary.name());
        }
    }
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for (i, &base) in numbers(1e4).iter().enumerate() {
        x.push(base.abs());
        y.push((i % 41) as f32 * 0.375 - 7.5);
    }
    let found = map(&engine, Op::Binary(Binary::Pow), &[&x, &y]);
    for i in 0..x.len() {
        let exact = f64::from(x[i]).powf(f64::from(y[i]));
        assert!(ulps(found[i], exact) <= 6.0, "{}^{}: {}, not {exact}", x[i], y[i], found[i]);
    }
}

#[test]
fn wgpu_special_values_are_those_of_the_cpu() {
    let Some(wgpu) = open(config()) else { return };
    let device = Engine::on(Box::new(wgpu), Arc::clone(&setup().buffers));
    let cpu = Engine::on(Box::new(Arc::clone(&setup().cpu)), Arc::clone(&setup().buffers));
    let special =
        [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, 3.0, -3.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e30];
    let same = |a: f32, b: f32| a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-5 * b.abs() || a == b;
    use Unary::*;
    for unary in [
        Abs, Ceil, Cos, Erf, Exp, Floor, Log, Neg, Reciprocal, RoundEven, Sign, Sin, Sqrt, Relu, Sigmoid,
        Tanh, Softplus, Softsign, Gelu, HardSwish,
    ] {
        let found = map(&device, Op::Unary(unary), &[&special]);
        let wanted = map(&cpu, Op::Unary(unary), &[&special]);
        for ((f, w), x) in found.iter().zip(wanted).zip(special) {
            assert!(same(*f, w), "{} of {x}: {f}, not {w}", unary.name());
        }
    }
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for x in special {
        for y in special {
            a.push(x);
            b.push(y);
        }
    }
    for binary in [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Max, Binary::Min, Binary::Pow]
    {
        let found = map(&device, Op::Binary(binary), &[&a, &b]);
        let wanted = map(&cpu, Op::Binary(binary), &[&a, &b]);
        for i in 0..a.len() {
            assert!(
                same(found[i], wanted[i]),
                "{binary:?} of {}, {}: {}, not {}",
                a[i],
                b[i],
                found[i],
                wanted[i]
            );
        }
    }
}
