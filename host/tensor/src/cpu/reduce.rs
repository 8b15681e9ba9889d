//! Reductions and softmax.
//!
//! float32 sums are taken over short runs in float32 lanes and then in f64, always split at the
//! same places, so that results are accurate and do not depend on the number of threads.

use crate::buffer::{view, view_mut};
use crate::cpu::block::{Integer, max_f32, min_f32};
use crate::cpu::context::{Context, Shared};
use crate::cpu::math;
use crate::cpu::program::Class;
use crate::cpu::simd::{Isa, fold, multiversion, total};
use crate::op::Reduction;

/// Elements reduced in float32 before going on in f64.
const RUN: usize = 1 << 12;
/// Elements of a long run that one task reduces.
const PIECE: usize = 1 << 16;
/// Columns reduced side by side.
const COLUMNS: usize = 512;
const LANES: usize = 32;

/// A reduction with its dimensions grouped.
#[derive(Debug, Clone)]
pub(crate) struct Reduce {
    pub kind: Reduction,
    pub class: Class,
    /// Kept dimensions (size, stride), without the innermost group.
    pub outer: Vec<(usize, usize)>,
    /// Reduced dimensions (size, stride), without the innermost group.
    pub reduced: Vec<(usize, usize)>,
    /// Length of the innermost group, of stride 1.
    pub inner: usize,
    /// Whether the innermost group is reduced.
    pub along: bool,
    /// Elements that make one result.
    pub count: usize,
    /// Results.
    pub results: usize,
}

impl Reduce {
    /// A plan to reduce the axes in `mask` of a dense tensor.
    pub fn new(kind: Reduction, class: Class, dims: &[u32], mask: u32) -> Reduce {
        // Groups of neighbouring dimensions of one kind: (size, reduced).
        let mut groups: Vec<(usize, bool)> = Vec::new();
        for (i, &d) in dims.iter().enumerate() {
            let reduced = mask & (1 << i) != 0;
            match groups.last_mut() {
                _ if d == 1 => {}
                Some((size, kind)) if *kind == reduced => *size *= d as usize,
                _ => groups.push((d as usize, reduced)),
            }
        }
        let (inner, along) = groups.pop().unwrap_or((1, false));
        let (mut outer, mut reduced) = (Vec::new(), Vec::new());
        let (mut step, mut count, mut results) = (inner, 1, 1);
        *if along { &mut count } else { &mut results } = inner;
        for &(size, is_reduced) in groups.iter().rev() {
            if is_reduced {
                reduced.insert(0, (size, step));
                count *= size;
            } else {
                outer.insert(0, (size, step));
                results *= size;
            }
            step *= size;
        }
        Reduce { kind, class, outer, reduced, inner, along, count, results }
    }

    /// Reduces `source` into `target`.
    pub fn run(&self, context: &Context<'_>, source: &[u8], target: &mut [u8]) {
        if self.results == 0 {
            return;
        }
        match self.class {
            Class::F32 => self.float(context, view(source), view_mut(target)),
            Class::I32 => self.integer::<i32>(context, view(source), view_mut(target)),
            Class::U32 => self.integer::<u32>(context, view(source), view_mut(target)),
            Class::I64 => self.integer::<i64>(context, view(source), view_mut(target)),
            Class::U64 => self.integer::<u64>(context, view(source), view_mut(target)),
            Class::I8 => self.integer::<i8>(context, view(source), view_mut(target)),
            Class::U8 => self.integer::<u8>(context, view(source), view_mut(target)),
        }
    }

    fn float(&self, context: &Context<'_>, source: &[f32], target: &mut [f32]) {
        if !self.along {
            return self.float_columns(context, source, target);
        }
        // A few results of very many elements: the elements of each are shared among tasks.
        if self.reduced.is_empty() && self.inner >= 2 * PIECE && self.kind != Reduction::LogSumExp {
            let pieces = self.inner.div_ceil(PIECE);
            let step = Step::of(self.kind);
            let mut partial = vec![0f64; self.results * pieces];
            let shared = Shared::new(&mut partial);
            context.for_each(self.results * pieces, |task| {
                let (result, piece) = (task / pieces, task % pieces);
                let base = offset(&self.outer, result);
                let (from, to) = (piece * PIECE, self.inner.min((piece + 1) * PIECE));
                // SAFETY: each task has its own element.
                #[allow(unsafe_code)]
                let slot = unsafe { shared.piece(task, 1) };
                slot[0] = reduce_run(context.isa, step, &source[base + from..base + to], 0.0);
            });
            for (t, partial) in target.iter_mut().zip(partial.chunks_exact(pieces)) {
                let total = partial.iter().fold(step.start(), |a, &b| step.combine(a, b));
                *t = self.finish(total);
            }
            return;
        }
        let per_task = (PIECE / self.count.max(1)).max(1);
        let shared = Shared::new(target);
        context.for_each(self.results.div_ceil(per_task), |task| {
            let first = task * per_task;
            let count = per_task.min(self.results - first);
            // SAFETY: each task has its own results.
            #[allow(unsafe_code)]
            let target = unsafe { shared.piece(first, count) };
            for (i, t) in target.iter_mut().enumerate() {
                *t = self.float_one(context.isa, source, offset(&self.outer, first + i));
            }
        });
    }

    fn float_one(&self, isa: Isa, source: &[f32], base: usize) -> f32 {
        let repeats = product(&self.reduced);
        let all = |step: Step, shift: f32| {
            let mut total = step.start();
            for r in 0..repeats {
                let at = base + offset(&self.reduced, r);
                let run = reduce_run(isa, step, &source[at..at + self.inner], shift);
                total = step.combine(total, run);
            }
            total
        };
        if self.kind == Reduction::LogSumExp {
            let most = all(Step::Max, 0.0) as f32;
            return log_sum_exp(most, || all(Step::SumExp, most));
        }
        self.finish(all(Step::of(self.kind), 0.0))
    }

    fn float_columns(&self, context: &Context<'_>, source: &[f32], target: &mut [f32]) {
        let repeats = product(&self.reduced);
        let strips = self.inner.div_ceil(COLUMNS);
        let rows = self.results / self.inner;
        let shared = Shared::new(target);
        context.for_each(rows * strips, |task| {
            let (row, strip) = (task / strips, task % strips);
            let left = strip * COLUMNS;
            let width = COLUMNS.min(self.inner - left);
            let base = offset(&self.outer, row) + left;
            // SAFETY: each task has its own strip of results.
            #[allow(unsafe_code)]
            let target = unsafe { shared.piece(row * self.inner + left, width) };
            let (mut totals, mut shifts) = ([0f64; COLUMNS], [0f32; COLUMNS]);
            let mut pass = |step: Step, shifts: &[f32]| {
                totals[..width].fill(step.start());
                for r in 0..repeats {
                    let at = base + offset(&self.reduced, r);
                    let x = &source[at..at + width];
                    add_columns(context.isa, step, x, shifts, &mut totals[..width]);
                }
                totals
            };
            if self.kind == Reduction::LogSumExp {
                let most = pass(Step::Max, &shifts[..width]);
                shifts.iter_mut().zip(&most).for_each(|(s, m)| *s = *m as f32);
                let sums = pass(Step::SumExp, &shifts[..width]);
                for ((t, s), sum) in target.iter_mut().zip(&shifts).zip(sums) {
                    *t = log_sum_exp(*s, || sum);
                }
            } else {
                let totals = pass(Step::of(self.kind), &shifts[..width]);
                target.iter_mut().zip(totals).for_each(|(t, v)| *t = self.finish(v));
            }
        });
    }

    fn finish(&self, total: f64) -> f32 {
        match self.kind {
            Reduction::L2 => total.sqrt() as f32,
            Reduction::LogSum => total.ln() as f32,
            Reduction::Mean => (total / self.count as f64) as f32,
            _ => total as f32,
        }
    }

    fn integer<T: Integer>(&self, context: &Context<'_>, source: &[T], target: &mut [T]) {
        let repeats = product(&self.reduced);
        let (start, step): (T, fn(T, T) -> T) = match self.kind {
            Reduction::Max => (T::LEAST, |a, x| a.max(x)),
            Reduction::Min => (T::GREATEST, |a, x| a.min(x)),
            Reduction::Product => (T::ONE, |a, x| a.mul(x)),
            Reduction::L1 => (T::ZERO, |a, x| a.add(x.abs())),
            Reduction::SumSquare => (T::ZERO, |a, x| a.add(x.mul(x))),
            _ => (T::ZERO, |a, x| a.add(x)),
        };
        let width = if self.along { 1 } else { self.inner };
        let rows = self.results / width.max(1);
        let per_task = (PIECE / (self.count * width).max(1)).max(1);
        let shared = Shared::new(target);
        context.for_each(rows.div_ceil(per_task), |task| {
            for row in task * per_task..rows.min((task + 1) * per_task) {
                // SAFETY: each row belongs to one task.
                #[allow(unsafe_code)]
                let target = unsafe { shared.piece(row * width, width) };
                target.fill(start);
                let base = offset(&self.outer, row);
                for r in 0..repeats {
                    let at = base + offset(&self.reduced, r);
                    let x = &source[at..at + self.inner];
                    if self.along {
                        target[0] = x.iter().fold(target[0], |a, &x| step(a, x));
                    } else {
                        target.iter_mut().zip(x).for_each(|(t, &x)| *t = step(*t, x));
                    }
                }
            }
        });
    }
}

fn product(dims: &[(usize, usize)]) -> usize {
    dims.iter().map(|d| d.0).product()
}

/// Offset of the row-major `index` over strided dimensions.
fn offset(dims: &[(usize, usize)], mut index: usize) -> usize {
    let mut at = 0;
    for &(size, stride) in dims.iter().rev() {
        at += index % size * stride;
        index /= size;
    }
    at
}

fn log_sum_exp(most: f32, sum: impl FnOnce() -> f64) -> f32 {
    // An infinite maximum is the answer, and would make the shifted sum NaN.
    if most.is_infinite() || most.is_nan() { most } else { (f64::from(most) + sum().ln()) as f32 }
}

/// What is done with each element.
#[derive(Clone, Copy)]
enum Step {
    Sum,
    SumAbs,
    SumSquare,
    /// Of exp(x - shift).
    SumExp,
    Product,
    Max,
    Min,
}

impl Step {
    fn of(kind: Reduction) -> Step {
        match kind {
            Reduction::L1 => Step::SumAbs,
            Reduction::L2 | Reduction::SumSquare => Step::SumSquare,
            Reduction::Sum | Reduction::Mean | Reduction::LogSum => Step::Sum,
            Reduction::LogSumExp => Step::SumExp,
            Reduction::Product => Step::Product,
            Reduction::Max => Step::Max,
            Reduction::Min => Step::Min,
        }
    }

    #[inline(always)]
    fn start(self) -> f64 {
        match self {
            Step::Product => 1.0,
            Step::Max => f64::NEG_INFINITY,
            Step::Min => f64::INFINITY,
            _ => 0.0,
        }
    }

    #[inline(always)]
    fn combine(self, a: f64, b: f64) -> f64 {
        match self {
            Step::Product => a * b,
            Step::Max => {
                if a.is_nan() || b.is_nan() {
                    f64::NAN
                } else {
                    a.max(b)
                }
            }
            Step::Min => {
                if a.is_nan() || b.is_nan() {
                    f64::NAN
                } else {
                    a.min(b)
                }
            }
            _ => a + b,
        }
    }
}

/// Reduces a contiguous run.
fn reduce_run(isa: Isa, step: Step, x: &[f32], shift: f32) -> f64 {
    let mut total = step.start();
    for run in x.chunks(RUN) {
        let mut result = 0.0;
        short_run(isa, step, run, shift, &mut result);
        total = step.combine(total, result);
    }
    total
}

#[inline(always)]
fn lanes(x: &[f32], start: f32, f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut acc = [start; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for l in 0..LANES {
            acc[l] = f(acc[l], chunk[l]);
        }
    }
    for (a, &x) in acc.iter_mut().zip(rest) {
        *a = f(*a, x);
    }
    acc
}

multiversion! {
    fused fn short_run(step: Step, x: &[f32], shift: f32, result: &mut f64) {
        let acc = match step {
            Step::Sum => lanes(x, 0.0, |a, x| a + x),
            Step::SumAbs => lanes(x, 0.0, |a, x| a + x.abs()),
            Step::SumSquare => return *result = squares(x),
            Step::SumExp => lanes(x, 0.0, |a, x| a + math::exp_normal::<FMA>(x - shift)),
            Step::Product => return *result = x.iter().map(|&x| f64::from(x)).product(),
            Step::Max => lanes(x, f32::NEG_INFINITY, max_f32),
            Step::Min => lanes(x, f32::INFINITY, min_f32),
        };
        *result = match step {
            Step::Max => f64::from(fold(&acc, max_f32)),
            Step::Min => f64::from(fold(&acc, min_f32)),
            _ => total(&acc),
        };
    }
}

/// Sum of squares in f64: squares of float32 would overflow and underflow too early.
#[inline(always)]
fn squares(x: &[f32]) -> f64 {
    let mut acc = [0f64; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for l in 0..LANES {
            let wide = f64::from(chunk[l]);
            acc[l] += wide * wide;
        }
    }
    for (a, &x) in acc.iter_mut().zip(rest) {
        *a += f64::from(x) * f64::from(x);
    }
    acc.iter().sum()
}

#[inline(always)]
fn columns(x: &[f32], totals: &mut [f64], f: impl Fn(f64, f32) -> f64) {
    for (t, &x) in totals.iter_mut().zip(x) {
        *t = f(*t, x);
    }
}

multiversion! {
    fused fn add_columns(step: Step, x: &[f32], shifts: &[f32], totals: &mut [f64]) {
        match step {
            Step::Sum => columns(x, totals, |t, x| t + f64::from(x)),
            Step::SumAbs => columns(x, totals, |t, x| t + f64::from(x.abs())),
            Step::SumSquare => columns(x, totals, |t, x| t + f64::from(x) * f64::from(x)),
            Step::Product => columns(x, totals, |t, x| t * f64::from(x)),
            Step::Max => columns(x, totals, |t, x| step.combine(t, f64::from(x))),
            Step::Min => columns(x, totals, |t, x| step.combine(t, f64::from(x))),
            Step::SumExp => {
                for ((t, &x), &s) in totals.iter_mut().zip(x).zip(shifts) {
                    *t += f64::from(math::exp_normal::<FMA>(x - s));
                }
            }
        }
    }
}

/// Softmax over the middle of three dimensions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Softmax {
    pub outer: usize,
    pub axis: usize,
    pub inner: usize,
}

impl Softmax {
    /// exp(x) over its sum along the axis.
    pub fn run(&self, context: &Context<'_>, source: &[f32], target: &mut [f32]) {
        let (n, inner) = (self.axis, self.inner);
        if self.outer * n * inner == 0 {
            return;
        }
        let shared = Shared::new(target);
        if inner == 1 {
            let per_task = (PIECE / 2 / n).max(1);
            context.for_each(self.outer.div_ceil(per_task), |task| {
                let first = task * per_task;
                let rows = per_task.min(self.outer - first);
                // SAFETY: each task has its own rows.
                #[allow(unsafe_code)]
                let target = unsafe { shared.piece(first * n, rows * n) };
                softmax_rows(context.isa, n, &source[first * n..], target);
            });
            return;
        }
        // Strips of columns: a few rows of many columns are shared among tasks too.
        let strips = inner.div_ceil(COLUMNS);
        context.for_each(self.outer * strips, |task| {
            let (outer, left) = (task / strips, task % strips * COLUMNS);
            let first = outer * n * inner + left;
            softmax_columns(
                context.isa,
                inner,
                COLUMNS.min(inner - left),
                n,
                &source[first..],
                &shared,
                first,
            );
        });
    }
}

multiversion! {
    fused fn softmax_rows(n: usize, source: &[f32], target: &mut [f32]) {
        for (x, t) in source.chunks_exact(n).zip(target.chunks_exact_mut(n)) {
            // A NaN need not be looked for here: it makes the sum NaN.
            let most = lanes(x, f32::NEG_INFINITY, |a, x| if x > a { x } else { a });
            let most = fold(&most, |a, x| if x > a { x } else { a });
            let mut sums = [0f32; LANES];
            let (chunks, rest) = x.as_chunks::<LANES>();
            let (targets, target_rest) = t.as_chunks_mut::<LANES>();
            for (x, t) in chunks.iter().zip(targets) {
                for l in 0..LANES {
                    t[l] = math::exp_normal::<FMA>(x[l] - most);
                    sums[l] += t[l];
                }
            }
            for ((x, t), sum) in rest.iter().zip(target_rest).zip(&mut sums) {
                *t = math::exp_normal::<FMA>(x - most);
                *sum += *t;
            }
            let scale = (1.0 / total(&sums)) as f32;
            for t in t.iter_mut() {
                *t *= scale;
            }
        }
    }
}

multiversion! {
    /// A strip of `width` columns of a matrix of `n` rows, `inner` elements from row to row;
    /// `source` begins with the strip, which lies at `first` in the target.
    fused fn softmax_columns(inner: usize, width: usize, n: usize, source: &[f32], target: &Shared<f32>, first: usize) {
        let mut most = [f32::NEG_INFINITY; COLUMNS];
        let mut sums = [0f32; COLUMNS];
        for row in 0..n {
            for (m, &x) in most.iter_mut().zip(&source[row * inner..][..width]) {
                *m = max_f32(*m, x);
            }
        }
        for row in 0..n {
            // SAFETY: each strip belongs to one task.
            #[allow(unsafe_code)]
            let t = unsafe { target.piece(first + row * inner, width) };
            let x = &source[row * inner..][..width];
            for i in 0..width {
                t[i] = math::exp_normal::<FMA>(x[i] - most[i]);
                sums[i] += t[i];
            }
        }
        for row in 0..n {
            // SAFETY: as above.
            #[allow(unsafe_code)]
            let t = unsafe { target.piece(first + row * inner, width) };
            for (t, &s) in t.iter_mut().zip(&sums) {
                *t /= s;
            }
        }
    }
}
