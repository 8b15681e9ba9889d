//! Pooling and resampling of images.

use crate::buffer::{Element, view, view_mut};
use crate::cpu::block::{Integer, max_f32};
use crate::cpu::context::{Context, Shared};
use crate::cpu::program::Class;
use crate::op::{InputLayout, Interpolation, Pool2d, Pooling};
use crate::rules::PoolSizes;

/// Elements that one task reads, about.
const GRAIN: usize = 1 << 15;

/// A planned pooling operation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pool {
    pub kind: Pooling,
    pub class: Class,
    pub sizes: PoolSizes,
    pub strides: [usize; 2],
    pub dilations: [usize; 2],
    /// Channels last.
    pub nhwc: bool,
}

impl Pool {
    /// Plans from the operation's attributes.
    pub fn new(kind: Pooling, class: Class, sizes: PoolSizes, options: &Pool2d) -> Pool {
        let wide = |pair: [u32; 2]| pair.map(|v| v as usize);
        Pool {
            kind,
            class,
            sizes,
            strides: wide(options.strides),
            dilations: wide(options.dilations),
            nhwc: options.layout == InputLayout::Nhwc,
        }
    }

    /// Elements in a window.
    pub fn taps(&self) -> usize {
        self.sizes.kh.min(self.sizes.ih) * self.sizes.kw.min(self.sizes.iw)
    }

    /// Pools.
    pub fn run(&self, context: &Context<'_>, source: &[u8], target: &mut [u8]) {
        match self.class {
            Class::F32 => self.float(context, view(source), view_mut(target)),
            Class::I32 => self.most::<i32>(context, source, target),
            Class::U32 => self.most::<u32>(context, source, target),
            Class::I64 => self.most::<i64>(context, source, target),
            Class::U64 => self.most::<u64>(context, source, target),
            Class::I8 => self.most::<i8>(context, source, target),
            Class::U8 => self.most::<u8>(context, source, target),
        }
    }

    fn most<T: Integer>(&self, context: &Context<'_>, source: &[u8], target: &mut [u8]) {
        let source: &[T] = view(source);
        self.rows(context, view_mut(target), |base, rows, columns, inner| {
            let mut most = T::LEAST;
            self.window(base, rows, columns, inner, |at| most = most.max(source[at]));
            most
        });
    }

    fn float(&self, context: &Context<'_>, source: &[f32], target: &mut [f32]) {
        self.rows(context, target, |base, rows, columns, inner| {
            let (mut sum, mut most, mut count) = (0f64, f32::NEG_INFINITY, 0usize);
            match self.kind {
                Pooling::Max => {
                    self.window(base, rows, columns, inner, |at| most = max_f32(most, source[at]))
                }
                Pooling::L2 => self.window(base, rows, columns, inner, |at| {
                    let wide = f64::from(source[at]);
                    sum += wide * wide;
                }),
                Pooling::Average => self.window(base, rows, columns, inner, |at| {
                    sum += f64::from(source[at]);
                    count += 1;
                }),
            }
            match self.kind {
                Pooling::Max => most,
                Pooling::L2 => sum.sqrt() as f32,
                Pooling::Average => (sum / count.max(1) as f64) as f32,
            }
        });
    }

    /// Input rows (or columns) of one window, in steps of the dilation: start, end.
    fn span(&self, axis: usize, out: usize) -> (usize, usize) {
        let s = &self.sizes;
        let (before, window, size) = if axis == 0 { (s.top, s.kh, s.ih) } else { (s.left, s.kw, s.iw) };
        let (start, dilation) = (out * self.strides[axis], self.dilations[axis]);
        // Taps that lie in the padding before the input are skipped.
        let skipped = before.saturating_sub(start).div_ceil(dilation).min(window);
        let first = start + skipped * dilation;
        let end = start + window.saturating_sub(1) * dilation + 1;
        let first = first.max(before) - before; // never below `before` unless all are skipped
        let end = end.saturating_sub(before).min(size);
        if skipped == window { (0, 0) } else { (first, end) }
    }

    fn window(
        &self,
        base: usize,
        (top, bottom): (usize, usize),
        (left, right): (usize, usize),
        inner: usize,
        mut visit: impl FnMut(usize),
    ) {
        for y in (top..bottom).step_by(self.dilations[0]) {
            for x in (left..right).step_by(self.dilations[1]) {
                visit(base + (y * self.sizes.iw + x) * inner);
            }
        }
    }

    /// Calls `one` for every output element: offset of its image and channel, rows and columns of
    /// its window, elements between two columns.
    fn rows<T: Element>(
        &self,
        context: &Context<'_>,
        target: &mut [T],
        one: impl Fn(usize, (usize, usize), (usize, usize), usize) -> T + Sync + Send,
    ) {
        let PoolSizes { n, c, ih, iw, oh, ow, .. } = self.sizes;
        if n * c == 0 {
            return;
        }
        // nchw: an item is a row of one channel's image. nhwc: of all channels.
        let (images, inner) = if self.nhwc { (n, c) } else { (n * c, 1) };
        let row = ow * inner;
        let per_task = (GRAIN / (row * self.taps()).max(1)).max(1);
        let rows = images * oh;
        let shared = Shared::new(target);
        context.for_each(rows.div_ceil(per_task), |task| {
            for item in task * per_task..rows.min((task + 1) * per_task) {
                if context.cancelled() {
                    return;
                }
                // SAFETY: each row belongs to one task.
                #[allow(unsafe_code)]
                let target = unsafe { shared.piece(item * row, row) };
                let (image, y) = (item / oh, item % oh);
                let base = image * ih * iw * inner;
                let tall = self.span(0, y);
                for (x, pixel) in target.chunks_exact_mut(inner).enumerate() {
                    let wide = self.span(1, x);
                    for (channel, t) in pixel.iter_mut().enumerate() {
                        *t = one(base + channel, tall, wide, inner);
                    }
                }
            }
        });
    }
}

/// `resample2d` along two axes; the dimensions between and around them are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resample {
    pub mode: Interpolation,
    pub class: Class,
    /// Product of the dimensions before, between and after the two axes.
    pub around: [usize; 3],
    /// Input sizes of the two axes, in memory order.
    pub from: [usize; 2],
    /// Output sizes of the two axes.
    pub to: [usize; 2],
}

/// Columns whose places are worked out at a time: what is kept of them is charged to no budget, and is
/// many times what a column of bytes takes.
const COLUMNS: usize = 1 << 12;

/// Where an output coordinate reads: the element before, the one after, the share of the latter.
pub(crate) type Tap = (usize, usize, f64);

impl Resample {
    /// The element nearest to an output coordinate.
    pub fn nearest(&self, axis: usize, out: usize) -> usize {
        // ceil((out + 0.5) * from / to - 1) in whole numbers, so that halfway is exact.
        let (from, to) = (self.from[axis] as i128, self.to[axis] as i128);
        let place = ((2 * out as i128 + 1) * from - 1).div_euclid(2 * to);
        place.clamp(0, from - 1) as usize
    }

    /// Where an output coordinate reads by linear interpolation.
    pub fn tap(&self, axis: usize, out: usize) -> Tap {
        let (from, to) = (self.from[axis] as f64, self.to[axis] as f64);
        let at = ((out as f64 + 0.5) * from / to - 0.5).clamp(0.0, from - 1.0);
        let low = at.floor();
        (low as usize, at.ceil() as usize, at - low)
    }

    /// Resamples elements of `size` bytes (as many as the class has, but for moved float16).
    pub fn run(&self, context: &Context<'_>, size: usize, source: &[u8], target: &mut [u8]) {
        if target.is_empty() {
            return; // however long its rows would be
        }
        if self.mode == Interpolation::NearestNeighbor {
            return match size {
                1 => self.moved::<u8>(context, view(source), view_mut(target)),
                2 => self.moved::<u16>(context, view(source), view_mut(target)),
                _ => self.moved::<u32>(context, view(source), view_mut(target)),
            };
        }
        match self.class {
            Class::I8 => self.linear::<i8>(context, view(source), view_mut(target), f64::from, |v| {
                v.round_ties_even() as i8
            }),
            Class::U8 => self.linear::<u8>(context, view(source), view_mut(target), f64::from, |v| {
                v.round_ties_even() as u8
            }),
            _ => self.linear::<f32>(context, view(source), view_mut(target), f64::from, |v| v as f32),
        }
    }

    fn moved<T: Element>(&self, context: &Context<'_>, source: &[T], target: &mut [T]) {
        let after = self.around[2];
        for first in (0..self.to[1]).step_by(COLUMNS) {
            let last = self.to[1].min(first + COLUMNS);
            let columns: Vec<usize> = (first..last).map(|x| self.nearest(1, x)).collect();
            self.rows(context, target, |base, y, between, target| {
                let row = &source[base + self.row(self.nearest(0, y), between)..];
                let target = &mut target[first * after..];
                for (&x, target) in columns.iter().zip(target.chunks_exact_mut(after)) {
                    target.copy_from_slice(&row[x * after..(x + 1) * after]);
                }
            });
        }
    }

    fn linear<T: Element>(
        &self,
        context: &Context<'_>,
        source: &[T],
        target: &mut [T],
        widen: impl Fn(T) -> f64 + Sync + Send,
        narrow: impl Fn(f64) -> T + Sync + Send,
    ) {
        let after = self.around[2];
        for first in (0..self.to[1]).step_by(COLUMNS) {
            let last = self.to[1].min(first + COLUMNS);
            let columns: Vec<Tap> = (first..last).map(|x| self.tap(1, x)).collect();
            self.rows(context, target, |base, y, between, target| {
                let (y0, y1, ty) = self.tap(0, y);
                let row = |y| &source[base + self.row(y, between)..][..self.from[1] * after];
                let (top, bottom) = (row(y0), row(y1));
                let target = &mut target[first * after..];
                for (&(x0, x1, tx), target) in columns.iter().zip(target.chunks_exact_mut(after)) {
                    for (i, t) in target.iter_mut().enumerate() {
                        let mix = |row: &[T]| {
                            widen(row[x0 * after + i]) * (1.0 - tx) + widen(row[x1 * after + i]) * tx
                        };
                        *t = narrow(mix(top) * (1.0 - ty) + mix(bottom) * ty);
                    }
                }
            });
        }
    }

    /// Offset of an input row within one index of the dimensions before the axes.
    fn row(&self, y: usize, between: usize) -> usize {
        (y * self.around[1] + between) * self.from[1] * self.around[2]
    }

    /// Calls `one` for every output row: offset of its input, coordinate on the first axis, index
    /// between the axes, and the row.
    fn rows<T: Element>(
        &self,
        context: &Context<'_>,
        target: &mut [T],
        one: impl Fn(usize, usize, usize, &mut [T]) + Sync + Send,
    ) {
        let [before, between, after] = self.around;
        let row = self.to[1] * after;
        if before * between * row == 0 {
            return;
        }
        let rows = before * self.to[0] * between;
        let per_task = (GRAIN / row).max(1);
        let image = self.from[0] * between * self.from[1] * after;
        let shared = Shared::new(target);
        context.for_each(rows.div_ceil(per_task), |task| {
            for item in task * per_task..rows.min((task + 1) * per_task) {
                // SAFETY: each row belongs to one task.
                #[allow(unsafe_code)]
                let target = unsafe { shared.piece(item * row, row) };
                let (outer, y) = (item / (self.to[0] * between), item / between % self.to[0]);
                one(outer * image, y, item % between, target);
            }
        });
    }
}
