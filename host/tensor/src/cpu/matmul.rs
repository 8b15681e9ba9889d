//! Matrix products, by the `gemm` crate.
// The crate takes pointers and strides; the wrapper below checks that they stay in bounds.
#![allow(unsafe_code)]

use crate::cpu::context::{Context, Shared};
use crate::cpu::packed::{Right, Tiled};
use crate::cpu::program::{BLOCK, Pattern};

/// Elements of a right side that is read as it lies: they stay in the second-level cache.
const SMALL: usize = 1 << 16;

/// Multiplications that one thread has done before another would have begun.
pub(crate) const ALONE: usize = 1 << 17;

/// Multiplications between two looks at the cancel flag: some tens of milliseconds.
const BAND: usize = 1 << 31;

/// A matrix in memory: element (i, j) at i * row + j * column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strides {
    /// Elements between rows.
    pub row: usize,
    /// Elements between columns.
    pub column: usize,
}

impl Strides {
    /// Elements from the first to behind the last of an m x n matrix.
    fn extent(self, m: usize, n: usize) -> usize {
        if m == 0 || n == 0 { 0 } else { (m - 1) * self.row + (n - 1) * self.column + 1 }
    }
}

/// target = keep * target + scale * a * b, with a m x k, b k x n; `keep` 0 never reads the target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Strides,
    pub b: Strides,
    pub target: Strides,
    pub keep: bool,
    pub scale: f32,
}

impl Product {
    /// Multiplies; `parallelism` says whether gemm may share the work.
    ///
    /// # Safety
    /// The elements of the target matrix must lie in memory that is valid for writes (and reads
    /// with `keep`) and that nobody else touches meanwhile.
    pub unsafe fn run_raw(&self, parallelism: gemm::Parallelism, a: &[f32], b: &[f32], target: *mut f32) {
        assert!(a.len() >= self.a.extent(self.m, self.k), "matrix a is too small");
        assert!(b.len() >= self.b.extent(self.k, self.n), "matrix b is too small");
        if self.m == 0 || self.n == 0 {
            return;
        }
        // SAFETY: operands checked above; the target is the caller's promise. gemm reads the
        // target only with `keep`.
        unsafe {
            gemm::gemm(
                self.m,
                self.n,
                self.k,
                target,
                self.target.column as isize,
                self.target.row as isize,
                self.keep,
                a.as_ptr(),
                self.a.column as isize,
                self.a.row as isize,
                b.as_ptr(),
                self.b.column as isize,
                self.b.row as isize,
                1.0,
                self.scale,
                false,
                false,
                false,
                parallelism,
            );
        }
    }

    /// The product by tiles, where the operands lie as that method wants them.
    pub fn tiled(&self) -> Option<Tiled> {
        let fits = self.a.column == 1 && self.target.column == 1 && self.target.row == self.n;
        let Product { m, n, k, keep, scale, .. } = *self;
        fits.then_some(Tiled { m, n, k, a_row: self.a.row, keep, scale })
    }

    /// Multiplies into a slice, in bands of rows between which a cancelled job stops.
    pub fn run(&self, context: &Context<'_>, a: &[f32], b: &[f32], target: &mut [f32]) {
        assert!(target.len() >= self.target.extent(self.m, self.n), "the target is too small");
        if self.k == 0 {
            // An empty sum; the target is dense in this case.
            if !self.keep {
                target.fill(0.0);
            }
            return;
        }
        let small = self.k * self.n <= SMALL && self.n.is_multiple_of(16) && self.b.column == 1;
        if let (true, Some(tiled)) = (small, self.tiled()) {
            return tiled.run(context, a, Right::Rows(b, self.b.row), target);
        }
        let band = (BAND / (self.n * self.k).max(1)).clamp(64, 1 << 20).min(self.m.max(1));
        let parallel = context.threads > 1 && self.m * self.n * self.k > 1 << 16;
        let parallelism = if parallel { context.parallelism() } else { gemm::Parallelism::None };
        for first in (0..self.m).step_by(band) {
            if context.cancelled() {
                return;
            }
            let part = Product { m: band.min(self.m - first), ..*self };
            let a = &a[(first * self.a.row).min(a.len())..];
            let target = &mut target[first * self.target.row..];
            // SAFETY: in bounds as checked on entry, and borrowed mutably.
            unsafe { part.run_raw(parallelism, a, b, target.as_mut_ptr()) }
        }
    }
}

/// `matmul`: one product for each of the broadcast leading dimensions.
#[derive(Debug, Clone)]
pub(crate) struct Matmul {
    pub product: Product,
    /// Element offsets of a and b for each product; the target is dense.
    pub batches: Vec<(usize, usize)>,
}

impl Matmul {
    /// All products.
    pub fn run(&self, context: &Context<'_>, a: &[f32], b: &[f32], target: &mut [f32]) {
        let p = &self.product;
        let size = p.m * p.n;
        if size == 0 {
            return;
        }
        // Small products are done several to a task: sharing them costs microseconds.
        let per_task = (ALONE / (size * p.k).max(1)).max(1);
        let tasks = self.batches.len().div_ceil(per_task);
        let alone = context.alone();
        if tasks < context.threads || tasks == 1 {
            let context = if tasks == 1 && per_task > 1 { &alone } else { context };
            for (&(from_a, from_b), target) in self.batches.iter().zip(target.chunks_exact_mut(size)) {
                p.run(context, &a[from_a..], &b[from_b..], target);
            }
            return;
        }
        let shared = Shared::new(target);
        context.for_each(tasks, |task| {
            let first = task * per_task;
            for (i, &(from_a, from_b)) in self.batches.iter().enumerate().skip(first).take(per_task) {
                // SAFETY: each product has its own piece.
                let target = unsafe { shared.piece(i * size, size) };
                p.run(&alone, &a[from_a..], &b[from_b..], target);
            }
        });
    }
}

/// target = scale * source, read by a broadcast pattern: the start value of `gemm`.
pub(crate) fn broadcast_scaled(pattern: &Pattern, scale: f32, source: &[f32], target: &mut [f32]) {
    let Some((&(width, step), outer)) = pattern.split_last() else {
        return;
    };
    for (row, target) in target.chunks_mut(width.max(1)).enumerate() {
        let mut rest = row;
        let mut at = 0;
        for &(size, stride) in outer.iter().rev() {
            at += rest % size * stride;
            rest /= size;
        }
        for (block, target) in target.chunks_mut(BLOCK).enumerate() {
            for (i, t) in target.iter_mut().enumerate() {
                *t = scale * source[at + (block * BLOCK + i) * step];
            }
        }
    }
}
