//! Kernels that only move elements: strided copies (transpose, slice), pad, concat. They know
//! elements by their size alone.

use crate::buffer::{Element, view, view_mut};
use crate::cpu::context::{Context, Shared};
use crate::op::PaddingMode;

/// Elements that one task moves, about.
const GRAIN: usize = 1 << 15;
/// Edge of the square tiles in which a transposition goes through the cache.
const TILE: usize = 32;

/// A dense result read from a strided source: for every result element in row-major order, the
/// source element at offset + sum(index * stride). Strides may be negative (`reverse`) or 0
/// (`tile`). Dimensions are collapsed where possible.
#[derive(Debug, Clone)]
pub(crate) struct StridedCopy {
    /// (size, source stride in elements), innermost last; never empty.
    pub dims: Vec<(usize, isize)>,
    /// Of the first element.
    pub offset: usize,
}

impl StridedCopy {
    /// A copy over these dimensions, collapsed.
    pub fn new(dims: impl Iterator<Item = (usize, isize)>, offset: usize) -> StridedCopy {
        let mut out: Vec<(usize, isize)> = Vec::new();
        for (size, stride) in dims {
            match out.last_mut() {
                _ if size == 1 => {}
                Some((outer, step)) if *step == stride * size as isize => {
                    *outer *= size;
                    *step = stride;
                }
                _ => out.push((size, stride)),
            }
        }
        if out.is_empty() {
            out.push((1, 1));
        }
        StridedCopy { dims: out, offset }
    }

    /// Whether the result is one contiguous piece of the source.
    pub fn is_contiguous(&self) -> bool {
        matches!(self.dims[..], [(_, 1)])
    }

    /// Copies elements of `size` bytes.
    pub fn run(&self, context: &Context<'_>, size: usize, source: &[u8], target: &mut [u8]) {
        match size {
            1 => self.typed::<u8>(context, view(source), view_mut(target)),
            2 => self.typed::<u16>(context, view(source), view_mut(target)),
            4 => self.typed::<u32>(context, view(source), view_mut(target)),
            _ => self.typed::<u64>(context, view(source), view_mut(target)),
        }
    }

    fn typed<T: Element>(&self, context: &Context<'_>, source: &[T], target: &mut [T]) {
        let total: usize = self.dims.iter().map(|d| d.0).product();
        if total == 0 {
            return;
        }
        let last = self.dims.len() - 1;
        let (n, step) = self.dims[last];
        let across = self.dims[..last].iter().position(|&(_, s)| s == 1).filter(|_| step != 1);
        match across {
            Some(axis) => self.transposed(context, axis, source, target),
            None => {
                let rows = total / n;
                let per_task = (GRAIN / n).max(1);
                let shared = Shared::new(target);
                context.for_each(rows.div_ceil(per_task), |task| {
                    let first = task * per_task;
                    let count = per_task.min(rows - first);
                    // SAFETY: every task has rows of its own.
                    #[allow(unsafe_code)]
                    let target = unsafe { shared.piece(first * n, count * n) };
                    for (row, target) in target.chunks_exact_mut(n).enumerate() {
                        let from = self.row_offset(first + row, last);
                        copy_row(source, from, step, target);
                    }
                });
            }
        }
    }

    /// Source offset of the row-major `index` over the dimensions before `axes`.
    fn row_offset(&self, mut index: usize, axes: usize) -> usize {
        let mut offset = self.offset as isize;
        for &(size, stride) in self.dims[..axes].iter().rev() {
            offset += (index % size) as isize * stride;
            index /= size;
        }
        offset as usize // an element of the source
    }

    /// Source rows run along `axis`, target rows along the last: goes by tiles of the two.
    fn transposed<T: Element>(&self, context: &Context<'_>, axis: usize, source: &[T], target: &mut [T]) {
        let last = self.dims.len() - 1;
        let (n, step) = self.dims[last];
        let height = self.dims[axis].0;
        // Target rows between two neighbours along `axis`.
        let between: usize = self.dims[axis + 1..last].iter().map(|d| d.0).product();
        let rows: usize = self.dims[..last].iter().map(|d| d.0).product();
        let others = rows / height;
        let tiles = height.div_ceil(TILE);
        let shared = Shared::new(target);
        context.for_each(others * tiles, |task| {
            let (other, tile) = (task / tiles, task % tiles);
            let first = (other / between) * height * between + other % between;
            let (top, bottom) = (tile * TILE, height.min(tile * TILE + TILE));
            let from = self.row_offset(first, last);
            for left in (0..n).step_by(TILE) {
                let width = TILE.min(n - left);
                for row in top..bottom {
                    let at = (first + row * between) * n + left;
                    // SAFETY: each target row belongs to one task.
                    #[allow(unsafe_code)]
                    let target = unsafe { shared.piece(at, width) };
                    let from = (from + row) as isize + left as isize * step;
                    copy_row(source, from as usize, step, target);
                }
            }
        });
    }
}

/// target[i] = source[from + i * step].
#[inline]
fn copy_row<T: Element>(source: &[T], from: usize, step: isize, target: &mut [T]) {
    let last = target.len().saturating_sub(1) as isize;
    match step {
        1 => target.copy_from_slice(&source[from..from + target.len()]),
        0 => target.fill(source[from]),
        _ if step > 0 => {
            let source = source[from..].iter().step_by(step as usize);
            target.iter_mut().zip(source).for_each(|(t, s)| *t = *s);
        }
        _ => {
            // Backwards: read the same elements from the lowest on.
            let low = (from as isize + last * step) as usize;
            let source = source[low..].iter().step_by(step.unsigned_abs());
            target.iter_mut().rev().zip(source).for_each(|(t, s)| *t = *s);
        }
    }
}

/// `concat` as copies of contiguous pieces.
#[derive(Debug, Clone)]
pub(crate) struct Concat {
    /// Product of the dimensions before the axis.
    pub outer: usize,
    /// Bytes that each input gives to one outer index.
    pub pieces: Vec<usize>,
}

impl Concat {
    /// Joins the inputs.
    pub fn run(&self, context: &Context<'_>, inputs: &[&[u8]], target: &mut [u8]) {
        let row: usize = self.pieces.iter().sum();
        if row == 0 {
            return;
        }
        let per_task = (4 * GRAIN / row).max(1);
        let shared = Shared::new(target);
        context.for_each(self.outer.div_ceil(per_task), |task| {
            let first = task * per_task;
            for index in first..self.outer.min(first + per_task) {
                // SAFETY: each outer index belongs to one task.
                #[allow(unsafe_code)]
                let mut rest = unsafe { shared.piece(index * row, row) };
                for (input, &piece) in inputs.iter().zip(&self.pieces) {
                    let (here, after) = rest.split_at_mut(piece);
                    here.copy_from_slice(&input[index * piece..][..piece]);
                    rest = after;
                }
            }
        });
    }
}

/// `pad` on every axis.
#[derive(Debug, Clone)]
pub(crate) struct Pad {
    /// For each axis: (input size, before, after). The last is the innermost padded one.
    pub axes: Vec<(usize, usize, usize)>,
    /// Elements after the last axis.
    pub inner: usize,
    /// What the new elements are.
    pub mode: PaddingMode,
    /// The constant's bits, in the low bytes.
    pub constant: u64,
}

impl Pad {
    /// A plan for these dimensions and paddings.
    pub fn new(dims: &[u32], before: &[u32], after: &[u32], mode: PaddingMode, bits: u64) -> Pad {
        let mut axes: Vec<(usize, usize, usize)> = dims
            .iter()
            .zip(before.iter().zip(after))
            .map(|(&d, (&b, &a))| (d as usize, b as usize, a as usize))
            .collect();
        let mut inner = 1;
        while let Some(&(size, 0, 0)) = axes.last() {
            inner *= size;
            axes.pop();
        }
        Pad { axes, inner, mode, constant: bits }
    }

    /// Pads elements of `size` bytes.
    pub fn run(&self, context: &Context<'_>, size: usize, source: &[u8], target: &mut [u8]) {
        let bits = self.constant;
        match size {
            1 => self.typed::<u8>(context, view(source), view_mut(target), bits as u8),
            2 => self.typed::<u16>(context, view(source), view_mut(target), bits as u16),
            4 => self.typed::<u32>(context, view(source), view_mut(target), bits as u32),
            _ => self.typed::<u64>(context, view(source), view_mut(target), bits),
        }
    }

    /// The source index on an axis for a target index, if there is one.
    fn source_index(&self, axis: usize, target: usize) -> Option<usize> {
        let (size, before, _) = self.axes[axis];
        if target >= before && target < before + size {
            return Some(target - before);
        }
        match self.mode {
            PaddingMode::Constant(_) => None,
            PaddingMode::Edge => Some(if target < before { 0 } else { size - 1 }),
            PaddingMode::Reflection => {
                Some(if target < before { before - target } else { 2 * (size - 1) - (target - before) })
            }
        }
    }

    fn typed<T: Element>(&self, context: &Context<'_>, source: &[T], target: &mut [T], constant: T) {
        let Some(last) = self.axes.len().checked_sub(1) else {
            target.copy_from_slice(&source[..target.len()]);
            return;
        };
        let (size, before, after) = self.axes[last];
        let width = (size + before + after) * self.inner;
        if width == 0 || target.is_empty() {
            return;
        }
        let rows = target.len() / width;
        let per_task = (GRAIN / width).max(1);
        let shared = Shared::new(target);
        context.for_each(rows.div_ceil(per_task), |task| {
            let first = task * per_task;
            for row in first..rows.min(first + per_task) {
                // SAFETY: each row belongs to one task.
                #[allow(unsafe_code)]
                let target = unsafe { shared.piece(row * width, width) };
                match self.source_row(row, last) {
                    None => target.fill(constant),
                    Some(index) => {
                        let from = &source[index * size * self.inner..][..size * self.inner];
                        self.pad_row(from, target, constant);
                    }
                }
            }
        });
    }

    /// The source row (over the axes before the last) for a target row.
    fn source_row(&self, mut row: usize, last: usize) -> Option<usize> {
        let (mut index, mut step) = (0, 1);
        for axis in (0..last).rev() {
            let (size, before, after) = self.axes[axis];
            let extent = size + before + after;
            index += self.source_index(axis, row % extent)? * step;
            row /= extent;
            step *= size;
        }
        Some(index)
    }

    fn pad_row<T: Element>(&self, source: &[T], target: &mut [T], constant: T) {
        let last = self.axes.len() - 1;
        let (size, before, after) = self.axes[last];
        let inner = self.inner;
        let (head, rest) = target.split_at_mut(before * inner);
        let (middle, tail) = rest.split_at_mut(size * inner);
        middle.copy_from_slice(source);
        if let PaddingMode::Constant(_) = self.mode {
            head.fill(constant);
            tail.fill(constant);
            return;
        }
        let indices = (0..before).chain(before + size..before + size + after);
        let blocks = head.chunks_exact_mut(inner.max(1)).chain(tail.chunks_exact_mut(inner.max(1)));
        for (block, index) in blocks.zip(indices) {
            if let Some(from) = self.source_index(last, index) {
                block.copy_from_slice(&source[from * inner..][..inner]);
            }
        }
    }
}
