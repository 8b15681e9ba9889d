//! Kernels that read or write at places given by indices. They know elements by their size alone.
//!
//! Indices come from guests: a negative one counts from the end of its axis, and one beyond the
//! ends is limited to them, so that no index reaches outside the tensor. The rules refuse to
//! index an axis without elements.

use crate::buffer::{Element, view, view_mut};
use crate::cpu::context::{Context, Shared};
use crate::types::DataType;

/// Elements that one task moves, about.
const GRAIN: usize = 1 << 14;

/// Indices as they lie in memory.
#[derive(Clone, Copy)]
enum Indices<'a> {
    I32(&'a [i32]),
    U32(&'a [u32]),
    I64(&'a [i64]),
}

impl<'a> Indices<'a> {
    fn of(data_type: DataType, bytes: &'a [u8]) -> Indices<'a> {
        match data_type {
            DataType::Int32 => Indices::I32(view(bytes)),
            DataType::Uint32 => Indices::U32(view(bytes)),
            _ => Indices::I64(view(bytes)),
        }
    }

    /// The place that index `at` names on an axis of `size` (at least 1) elements.
    #[inline]
    fn place(&self, at: usize, size: usize) -> usize {
        let index = match self {
            Indices::I32(i) => i64::from(i[at]),
            Indices::U32(i) => i64::from(i[at]),
            Indices::I64(i) => i[at],
        };
        let size = size as i64; // at most MAX_ELEMENTS
        let index = if index < 0 { index.saturating_add(size) } else { index };
        index.clamp(0, size - 1) as usize
    }
}

/// `gather`: whole runs of `inner` elements, or single ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gather {
    /// Product of the input's dimensions before the axis.
    pub outer: usize,
    /// The indexed dimension.
    pub axis: usize,
    /// Product of the input's dimensions after the axis.
    pub inner: usize,
    /// Indices.
    pub count: usize,
    /// Type of the indices.
    pub indices: DataType,
}

impl Gather {
    /// Gathers elements of `size` bytes.
    pub fn run(&self, context: &Context<'_>, size: usize, input: &[u8], indices: &[u8], target: &mut [u8]) {
        let indices = Indices::of(self.indices, indices);
        let run = self.inner * size;
        if run == 0 {
            return;
        }
        let rows = self.outer * self.count;
        let per_task = (GRAIN / self.inner).max(1);
        let shared = Shared::new(target);
        context.for_each(rows.div_ceil(per_task), |task| {
            let first = task * per_task;
            let count = per_task.min(rows - first);
            // SAFETY: each task has its own rows.
            #[allow(unsafe_code)]
            let target = unsafe { shared.piece(first * run, count * run) };
            for (row, target) in target.chunks_exact_mut(run).enumerate() {
                let (outer, index) = ((first + row) / self.count, (first + row) % self.count);
                let from = (outer * self.axis + indices.place(index, self.axis)) * run;
                target.copy_from_slice(&input[from..from + run]);
            }
        });
    }
}

/// `gather-elements` and `scatter-elements`: indices shaped like the input but for the axis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Along {
    /// Product of the dimensions before the axis.
    pub outer: usize,
    /// The input's dimension.
    pub axis: usize,
    /// Product of the dimensions after the axis.
    pub inner: usize,
    /// The indices' dimension.
    pub count: usize,
    /// Type of the indices.
    pub indices: DataType,
}

impl Along {
    /// Gathers elements of `size` bytes.
    pub fn gather(
        &self,
        context: &Context<'_>,
        size: usize,
        input: &[u8],
        indices: &[u8],
        target: &mut [u8],
    ) {
        let indices = Indices::of(self.indices, indices);
        match size {
            1 => self.gather_typed::<u8>(context, view(input), indices, view_mut(target)),
            2 => self.gather_typed::<u16>(context, view(input), indices, view_mut(target)),
            4 => self.gather_typed::<u32>(context, view(input), indices, view_mut(target)),
            _ => self.gather_typed::<u64>(context, view(input), indices, view_mut(target)),
        }
    }

    fn gather_typed<T: Element>(
        &self,
        context: &Context<'_>,
        input: &[T],
        indices: Indices<'_>,
        target: &mut [T],
    ) {
        let total = self.outer * self.count * self.inner;
        let shared = Shared::new(target);
        context.for_each(total.div_ceil(GRAIN), |task| {
            let first = task * GRAIN;
            // SAFETY: each task has its own elements.
            #[allow(unsafe_code)]
            let target = unsafe { shared.piece(first, GRAIN.min(total - first)) };
            for (i, t) in target.iter_mut().enumerate() {
                *t = input[self.element(first + i, indices)];
            }
        });
    }

    /// The input element that belongs to place `at` of the indices.
    #[inline]
    fn element(&self, at: usize, indices: Indices<'_>) -> usize {
        let outer = at / (self.count * self.inner);
        (outer * self.axis + indices.place(at, self.axis)) * self.inner + at % self.inner
    }

    /// Copies the input and replaces elements of `size` bytes, in the order of the indices.
    pub fn scatter(&self, context: &Context<'_>, size: usize, operands: [&[u8]; 3], target: &mut [u8]) {
        let [input, indices, updates] = operands;
        let indices = Indices::of(self.indices, indices);
        target.copy_from_slice(&input[..target.len()]);
        match size {
            1 => self.scatter_typed::<u8>(context, indices, view(updates), view_mut(target)),
            2 => self.scatter_typed::<u16>(context, indices, view(updates), view_mut(target)),
            4 => self.scatter_typed::<u32>(context, indices, view(updates), view_mut(target)),
            _ => self.scatter_typed::<u64>(context, indices, view(updates), view_mut(target)),
        }
    }

    fn scatter_typed<T: Element>(
        &self,
        context: &Context<'_>,
        indices: Indices<'_>,
        updates: &[T],
        target: &mut [T],
    ) {
        // One after the other: of two updates for one place the later must win.
        for (part, updates) in updates.chunks(GRAIN).enumerate() {
            if context.cancelled() {
                return;
            }
            for (i, &u) in updates.iter().enumerate() {
                target[self.element(part * GRAIN + i, indices)] = u;
            }
        }
    }
}

/// `gather-nd` and `scatter-nd`: coordinates that name slices.
#[derive(Debug, Clone)]
pub(crate) struct Slices {
    /// The indexed dimensions of the input, as many as there are coordinates.
    pub dims: Vec<usize>,
    /// Elements of a slice.
    pub inner: usize,
    /// Slices.
    pub count: usize,
    /// Type of the indices.
    pub indices: DataType,
}

impl Slices {
    fn slice(&self, at: usize, indices: Indices<'_>) -> usize {
        let width = self.dims.len();
        let places = self.dims.iter().enumerate();
        places.fold(0, |offset, (i, &size)| offset * size + indices.place(at * width + i, size))
    }

    /// Gathers slices of elements of `size` bytes.
    pub fn gather(
        &self,
        context: &Context<'_>,
        size: usize,
        input: &[u8],
        indices: &[u8],
        target: &mut [u8],
    ) {
        let indices = Indices::of(self.indices, indices);
        let run = self.inner * size;
        if run == 0 {
            return;
        }
        let per_task = (GRAIN / self.inner).max(1);
        let shared = Shared::new(target);
        context.for_each(self.count.div_ceil(per_task), |task| {
            let first = task * per_task;
            let count = per_task.min(self.count - first);
            // SAFETY: each task has its own slices.
            #[allow(unsafe_code)]
            let target = unsafe { shared.piece(first * run, count * run) };
            for (i, target) in target.chunks_exact_mut(run).enumerate() {
                let from = self.slice(first + i, indices) * run;
                target.copy_from_slice(&input[from..from + run]);
            }
        });
    }

    /// Copies the input and replaces slices of elements of `size` bytes, in the order of the
    /// indices.
    pub fn scatter(&self, context: &Context<'_>, size: usize, operands: [&[u8]; 3], target: &mut [u8]) {
        let [input, indices, updates] = operands;
        let indices = Indices::of(self.indices, indices);
        target.copy_from_slice(&input[..target.len()]);
        let run = self.inner * size;
        if run == 0 {
            return;
        }
        for (i, update) in updates.chunks_exact(run).take(self.count).enumerate() {
            if i % GRAIN == 0 && context.cancelled() {
                return;
            }
            let to = self.slice(i, indices) * run;
            target[to..to + run].copy_from_slice(update);
        }
    }
}
