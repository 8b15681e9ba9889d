//! Normalization of rows by their own mean and variance, with scale and bias: one pass over
//! memory, as a row stays in the cache for the three looks at it.

use crate::cpu::context::{Context, Shared};
use crate::cpu::simd::{multiversion, total};

/// Elements that one task handles, about.
const GRAIN: usize = 1 << 14;
/// Elements summed in float32 before going on in f64.
const RUN: usize = 1 << 11;
const LANES: usize = 32;

/// `layer-normalization` over the last dimensions, or `instance-normalization` of nchw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Normalize {
    pub rows: usize,
    /// Elements of a row.
    pub n: usize,
    pub epsilon: f32,
    /// Whether operand 1 is the scale.
    pub scale: bool,
    /// Whether the operand after it is the bias.
    pub bias: bool,
    /// 0: scale and bias have an element for each column. Else they have so many, and row r takes
    /// number r modulo that.
    pub channels: usize,
}

impl Normalize {
    /// Normalizes; `parameters` are scale and bias where there are.
    pub fn run(&self, context: &Context<'_>, source: &[f32], parameters: [&[f32]; 2], target: &mut [f32]) {
        let n = self.n;
        if n == 0 {
            return;
        }
        let per_task = (GRAIN / n).max(1);
        let shared = Shared::new(target);
        context.for_each(self.rows.div_ceil(per_task), |task| {
            for row in task * per_task..self.rows.min((task + 1) * per_task) {
                // SAFETY: each row belongs to one task.
                #[allow(unsafe_code)]
                let target = unsafe { shared.piece(row * n, n) };
                let source = &source[row * n..(row + 1) * n];
                let mut moments = Moments::default();
                fast_moments(context.isa, source, &mut moments);
                // Squares in float32 have lost too much, or all.
                let fast = moments.variance > 1e-25 && moments.variance < 1e30;
                if !fast {
                    moments = exact_moments(source);
                }
                let inverse = 1.0 / (moments.variance + f64::from(self.epsilon)).sqrt();
                if fast {
                    let shift = (-moments.rest * inverse) as f32;
                    let (mean, inverse) = (moments.mean as f32, inverse as f32);
                    if self.scale && self.bias && self.channels == 0 {
                        let [scale, bias] = parameters;
                        apply_all(context.isa, source, mean, inverse, shift, scale, bias, target);
                        continue;
                    }
                    apply(context.isa, source, mean, inverse, shift, target);
                } else {
                    for (t, &x) in target.iter_mut().zip(source) {
                        *t = ((f64::from(x) - moments.mean) * inverse) as f32;
                    }
                }
                self.affine(context, row, parameters, target);
            }
        });
    }

    fn affine(&self, context: &Context<'_>, row: usize, [scale, bias]: [&[f32]; 2], target: &mut [f32]) {
        if self.channels > 0 {
            let at = row % self.channels;
            let scale = if self.scale { scale[at] } else { 1.0 };
            let bias = if self.bias { bias[at] } else { 0.0 };
            if self.scale || self.bias {
                target.iter_mut().for_each(|t| *t = *t * scale + bias);
            }
            return;
        }
        match (self.scale, self.bias) {
            (true, true) => scale_and_shift(context.isa, scale, bias, target),
            (true, false) => target.iter_mut().zip(scale).for_each(|(t, s)| *t *= s),
            (false, true) => target.iter_mut().zip(bias).for_each(|(t, b)| *t += b),
            (false, false) => {}
        }
    }
}

/// Mean and variance of a row.
#[derive(Clone, Copy, Default)]
struct Moments {
    /// A float32 number near the mean, or the mean in f64.
    mean: f64,
    /// The mean less that number.
    rest: f64,
    variance: f64,
}

fn exact_moments(x: &[f32]) -> Moments {
    let n = x.len() as f64;
    let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let variance = x.iter().map(|&v| (f64::from(v) - mean) * (f64::from(v) - mean)).sum::<f64>() / n;
    Moments { mean, rest: 0.0, variance }
}

/// Sums of x - pivot, and of its squares.
#[inline(always)]
fn sums(x: &[f32], pivot: f32) -> (f64, f64) {
    let (mut sum, mut squares) = (0f64, 0f64);
    for run in x.chunks(RUN) {
        let (mut a, mut b) = ([0f32; LANES], [0f32; LANES]);
        let chunks = run.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for l in 0..LANES {
                let d = chunk[l] - pivot;
                a[l] += d;
                b[l] += d * d;
            }
        }
        for ((a, b), &x) in a.iter_mut().zip(&mut b).zip(rest) {
            let d = x - pivot;
            *a += d;
            *b += d * d;
        }
        sum += total(&a);
        squares += total(&b);
    }
    (sum, squares)
}

multiversion! {
    /// Sums around the first element, so that equal ones have variance 0 exactly; then around the
    /// mean, so that nothing cancels.
    fn fast_moments(x: &[f32], moments: &mut Moments) {
        let n = x.len() as f64;
        let first = x[0];
        let mean = (f64::from(first) + sums(x, first).0 / n) as f32;
        let (sum, squares) = sums(x, mean);
        let rest = sum / n;
        *moments = Moments { mean: f64::from(mean), rest, variance: squares / n - rest * rest };
    }
}

multiversion! {
    fn apply(source: &[f32], mean: f32, inverse: f32, shift: f32, target: &mut [f32]) {
        for (t, &x) in target.iter_mut().zip(source) {
            *t = (x - mean) * inverse + shift;
        }
    }
}

multiversion! {
    /// `apply`, with a scale and a bias for each column.
    fn apply_all(source: &[f32], mean: f32, inverse: f32, shift: f32, scale: &[f32], bias: &[f32], target: &mut [f32]) {
        let n = target.len();
        let (source, scale, bias) = (&source[..n], &scale[..n], &bias[..n]);
        for i in 0..n {
            target[i] = ((source[i] - mean) * inverse + shift) * scale[i] + bias[i];
        }
    }
}

multiversion! {
    fn scale_and_shift(scale: &[f32], bias: &[f32], target: &mut [f32]) {
        for ((t, &s), &b) in target.iter_mut().zip(scale).zip(bias) {
            *t = *t * s + b;
        }
    }
}
