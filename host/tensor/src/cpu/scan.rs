//! Kernels that go along one axis: places of extremes, running sums; and triangular matrices.

use crate::buffer::{Element, view, view_mut};
use crate::cpu::block::Integer;
use crate::cpu::context::{Context, Shared};
use crate::cpu::program::Class;
use crate::op::Arg;
use crate::types::DataType;

/// Elements that one task handles, about.
const GRAIN: usize = 1 << 15;

/// `arg-min` and `arg-max` over the middle of three dimensions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ArgMinMax {
    pub kind: Arg,
    /// Of the input.
    pub class: Class,
    pub outer: usize,
    pub axis: usize,
    pub inner: usize,
    /// int32 or int64.
    pub output: DataType,
}

/// Whether a value takes the place of the best one before it: only if it is strictly better, so
/// that the first of equals stays.
trait Better: Element {
    fn better(self, best: Self, kind: Arg) -> bool;
}

impl Better for f32 {
    #[inline(always)]
    fn better(self, best: f32, kind: Arg) -> bool {
        let beyond = match kind {
            Arg::Min => self < best,
            Arg::Max => self > best,
        };
        beyond || self.is_nan() && !best.is_nan()
    }
}

macro_rules! integers {
    ($($t:ty)*) => {$(
        impl Better for $t {
            #[inline(always)]
            fn better(self, best: $t, kind: Arg) -> bool {
                match kind {
                    Arg::Min => self < best,
                    Arg::Max => self > best,
                }
            }
        }
    )*};
}
integers!(i8 u8 i32 u32 i64 u64);

impl ArgMinMax {
    /// Writes places as int32 or int64.
    pub fn run(&self, context: &Context<'_>, source: &[u8], target: &mut [u8]) {
        match self.class {
            Class::F32 => self.typed::<f32>(context, view(source), target),
            Class::I32 => self.typed::<i32>(context, view(source), target),
            Class::U32 => self.typed::<u32>(context, view(source), target),
            Class::I64 => self.typed::<i64>(context, view(source), target),
            Class::U64 => self.typed::<u64>(context, view(source), target),
            Class::I8 => self.typed::<i8>(context, view(source), target),
            Class::U8 => self.typed::<u8>(context, view(source), target),
        }
    }

    fn typed<T: Better>(&self, context: &Context<'_>, source: &[T], target: &mut [u8]) {
        match self.output {
            DataType::Int64 => self.places(context, source, view_mut::<i64>(target), |p| p as i64),
            _ => self.places(context, source, view_mut::<i32>(target), |p| p as i32),
        }
    }

    fn places<T: Better, P: Element>(
        &self,
        context: &Context<'_>,
        source: &[T],
        target: &mut [P],
        place: impl Fn(usize) -> P + Sync + Send,
    ) {
        let results = self.outer * self.inner;
        let per_task = (GRAIN / self.axis.max(1)).max(1);
        let shared = Shared::new(target);
        context.for_each(results.div_ceil(per_task), |task| {
            let first = task * per_task;
            // SAFETY: each task has its own results.
            #[allow(unsafe_code)]
            let target = unsafe { shared.piece(first, per_task.min(results - first)) };
            for (i, t) in target.iter_mut().enumerate() {
                let (outer, inner) = ((first + i) / self.inner, (first + i) % self.inner);
                let base = outer * self.axis * self.inner + inner;
                let mut best = (0, source[base]);
                for at in 1..self.axis {
                    let value = source[base + at * self.inner];
                    if value.better(best.1, self.kind) {
                        best = (at, value);
                    }
                }
                *t = place(best.0);
            }
        });
    }
}

/// `cumulative-sum` over the middle of three dimensions. Floats are summed in f64.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CumulativeSum {
    pub class: Class,
    pub outer: usize,
    pub axis: usize,
    pub inner: usize,
    pub exclusive: bool,
    pub reversed: bool,
}

impl CumulativeSum {
    /// Writes running sums.
    pub fn run(&self, context: &Context<'_>, source: &[u8], target: &mut [u8]) {
        match self.class {
            Class::F32 => self.typed::<f32, f64>(
                context,
                view(source),
                view_mut(target),
                0.0,
                |sum, v| sum + f64::from(v),
                |sum| sum as f32,
            ),
            Class::I32 => self.integer::<i32>(context, source, target),
            Class::U32 => self.integer::<u32>(context, source, target),
            Class::I64 => self.integer::<i64>(context, source, target),
            Class::U64 => self.integer::<u64>(context, source, target),
            Class::I8 => self.integer::<i8>(context, source, target),
            Class::U8 => self.integer::<u8>(context, source, target),
        }
    }

    fn integer<T: Integer>(&self, context: &Context<'_>, source: &[u8], target: &mut [u8]) {
        self.typed::<T, T>(context, view(source), view_mut(target), T::ZERO, T::add, |sum| sum);
    }

    fn typed<T: Element, S: Copy + Sync + Send>(
        &self,
        context: &Context<'_>,
        source: &[T],
        target: &mut [T],
        zero: S,
        add: impl Fn(S, T) -> S + Sync + Send,
        finish: impl Fn(S) -> T + Sync + Send,
    ) {
        let lane = self.axis * self.inner;
        if self.outer * lane == 0 {
            return;
        }
        let per_task = (GRAIN / lane).max(1);
        let shared = Shared::new(target);
        context.for_each(self.outer.div_ceil(per_task), |task| {
            for outer in task * per_task..self.outer.min((task + 1) * per_task) {
                // SAFETY: each outer index belongs to one task.
                #[allow(unsafe_code)]
                let target = unsafe { shared.piece(outer * lane, lane) };
                let source = &source[outer * lane..(outer + 1) * lane];
                let mut sums = vec![zero; self.inner];
                for step in 0..self.axis {
                    let at = if self.reversed { self.axis - 1 - step } else { step } * self.inner;
                    let row = target[at..].iter_mut().zip(&source[at..]).zip(&mut sums);
                    for ((t, &v), sum) in row {
                        let with = add(*sum, v);
                        *t = finish(if self.exclusive { *sum } else { with });
                        *sum = with;
                    }
                }
            }
        });
    }
}

/// `triangular` on matrices of rows x columns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Triangular {
    pub rows: usize,
    pub columns: usize,
    pub upper: bool,
    pub diagonal: i32,
}

impl Triangular {
    /// The columns of a row that are kept.
    fn kept(&self, row: usize) -> std::ops::Range<usize> {
        // First column of the upper part; the lower one ends with the diagonal itself.
        let edge = row as i64 + i64::from(self.diagonal) + i64::from(!self.upper);
        let edge = edge.clamp(0, self.columns as i64) as usize;
        if self.upper { edge..self.columns } else { 0..edge }
    }

    /// Copies elements of `size` bytes, or writes zeros.
    pub fn run(&self, context: &Context<'_>, size: usize, source: &[u8], target: &mut [u8]) {
        let width = self.columns * size;
        if width == 0 {
            return;
        }
        let rows = target.len() / width;
        let per_task = (GRAIN / self.columns).max(1);
        let shared = Shared::new(target);
        context.for_each(rows.div_ceil(per_task), |task| {
            for row in task * per_task..rows.min((task + 1) * per_task) {
                // SAFETY: each row belongs to one task.
                #[allow(unsafe_code)]
                let target = unsafe { shared.piece(row * width, width) };
                let kept = self.kept(row % self.rows);
                let (from, to) = (kept.start * size, kept.end * size);
                target[..from].fill(0);
                target[from..to].copy_from_slice(&source[row * width + from..row * width + to]);
                target[to..].fill(0);
            }
        });
    }
}
