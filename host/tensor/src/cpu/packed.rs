//! Matrix products by tiles of registers. The right side is read in panels of 64 columns: a weight
//! is arranged in panels once for all runs; of other matrices a panel is copied for each block of
//! rows, or read as it lies where that is no slower.
// Vector instructions, and pieces of the target that tasks write side by side.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ops::Range;

use crate::cpu::context::{Context, Shared};
use crate::cpu::simd::Isa;

/// Columns of a panel: four vectors of 16.
const PANEL: usize = 64;
/// Columns are padded to whole vectors of this many.
const LANES: usize = 16;
/// Rows of a tile: with four vectors each, 24 accumulators of 32 registers.
const ROWS: usize = 6;
/// Rows of the right side that one pass takes: a panel of them stays in the first-level cache.
const DEPTH: usize = 128;
/// Rows of the left side that a task takes: they stay in the second-level cache.
const BLOCK: usize = 86 * ROWS;
/// Panels from which on it pays to copy a block of rows first: rows that lie a power of two apart
/// drive each other out of the caches.
const MANY_PANELS: usize = 4;
/// Multiplications that one thread has done before another would have begun.
pub(crate) const ALONE: usize = 1 << 17;
/// Elements of a right side that is not copied: they stay in the second-level cache.
const SMALL: usize = 1 << 16;

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

/// The right side of a product: k x n.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Right<'a> {
    /// As [`pack`] arranges it.
    Panels(&'a [f32]),
    /// As it lies.
    Matrix(&'a [f32]),
}

/// target = keep * target + scale * a * b, with a m x k, b k x n; the target is not read without
/// `keep`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Strides,
    pub b: Strides,
    /// Elements between rows of the target; its columns lie side by side.
    pub target_row: usize,
    pub keep: bool,
    pub scale: f32,
}

/// Elements of the panels of a k x n matrix.
pub(crate) fn packed_len(k: usize, n: usize) -> usize {
    n.next_multiple_of(LANES) * k
}

/// Arranges a k x n matrix as [panel][row][column of the panel], the last panel as wide as its
/// columns need; columns beyond n are 0.
pub(crate) fn pack(b: &[f32], strides: Strides, k: usize, n: usize, packed: &mut [f32]) {
    let mut rest = packed;
    for left in (0..n).step_by(PANEL) {
        let columns = PANEL.min(n - left);
        let width = columns.next_multiple_of(LANES);
        let (panel, after) = std::mem::take(&mut rest).split_at_mut(width * k);
        rest = after;
        pack_panel(b, strides, 0..k, left..left + columns, panel);
    }
}

/// Arranges some rows of one panel.
fn pack_panel(b: &[f32], strides: Strides, rows: Range<usize>, columns: Range<usize>, panel: &mut [f32]) {
    let count = columns.len();
    let width = count.next_multiple_of(LANES);
    if strides.column == 1 {
        for (row, target) in rows.zip(panel.chunks_exact_mut(width)) {
            target[..count].copy_from_slice(&b[row * strides.row + columns.start..][..count]);
            target[count..].fill(0.0);
        }
        return;
    }
    // By squares, so that the lines read and the lines written stay in the cache.
    for (top, square) in rows.clone().step_by(LANES).zip(panel.chunks_mut(width * LANES)) {
        let tall = LANES.min(rows.end - top);
        for column in 0..width {
            let from = top * strides.row + (columns.start + column) * strides.column;
            for i in 0..tall {
                square[i * width + column] = if column < count { b[from + i * strides.row] } else { 0.0 };
            }
        }
    }
}

/// One tile: rows, vectors of columns.
struct Tile {
    k: usize,
    a: *const f32,
    a_row: usize,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
    /// Whether the target is added to, and the factor of the product.
    keep: bool,
    scale: f32,
}

/// What a panel is multiplied by: rows of the left side for a depth, and where the results go.
struct Side<'a> {
    a: &'a [f32],
    a_row: usize,
    rows: Range<usize>,
    target: &'a Shared<f32>,
    /// The target's first element.
    at: usize,
    keep: bool,
}

impl Product {
    /// Multiplies; the work is shared where there is enough.
    pub fn run(&self, context: &Context<'_>, a: &[f32], b: Right<'_>, target: &mut [f32]) {
        // SAFETY: the target is borrowed mutably.
        unsafe { self.run_at(context, a, b, &Shared::new(target), 0) }
    }

    /// Multiplies into the matrix that begins at element `at` of the target.
    ///
    /// # Safety
    /// Nobody else may use the matrix's elements meanwhile.
    pub unsafe fn run_at(
        &self,
        context: &Context<'_>,
        a: &[f32],
        b: Right<'_>,
        target: &Shared<f32>,
        at: usize,
    ) {
        let Product { m, n, k, .. } = *self;
        if m == 0 || n == 0 {
            return;
        }
        assert!(a.len() >= self.a.extent(m, k), "matrix a is too small");
        match b {
            Right::Panels(b) => assert!(b.len() >= packed_len(k, n), "the panels are too few"),
            Right::Matrix(b) => assert!(b.len() >= self.b.extent(k, n), "matrix b is too small"),
        }
        target.pointer(at, (m - 1) * self.target_row + n);
        let panels = n.div_ceil(PANEL);
        let tasks = if m * n * k < ALONE { 1 } else { 4 * context.threads() };
        // Blocks of rows as even as can be, and no more of them than needed: a block copies its panels.
        let blocks = match m.div_ceil(BLOCK) {
            1 => 1,
            several => several.next_multiple_of(context.threads()),
        };
        let blocks = blocks.max(tasks.div_ceil(panels).min(m.div_ceil(4 * ROWS)));
        let block = m.div_ceil(blocks).next_multiple_of(ROWS);
        let blocks = m.div_ceil(block);
        let groups = tasks.div_ceil(blocks).min(panels);
        let work = |task: usize| {
            let (block_at, group) = (task / groups, task % groups);
            let rows = block_at * block..m.min((block_at + 1) * block);
            let some = group * panels / groups..(group + 1) * panels / groups;
            self.task(context, a, b, (target, at), rows, some);
        };
        if tasks == 1 {
            (0..blocks * groups).for_each(work);
        } else {
            context.for_each(blocks * groups, work);
        }
    }

    fn task(
        &self,
        context: &Context<'_>,
        a: &[f32],
        b: Right<'_>,
        (target, at): (&Shared<f32>, usize),
        rows: Range<usize>,
        panels: Range<usize>,
    ) {
        let apart = self.a.row >= 2 * DEPTH && panels.len() >= MANY_PANELS && rows.len() > 4 * ROWS;
        if apart || self.a.column != 1 {
            LEFT.with_borrow_mut(|copy| self.depths(context, a, b, (target, at), rows, panels, Some(copy)));
        } else {
            self.depths(context, a, b, (target, at), rows, panels, None);
        }
    }

    /// Multiplies one depth after the other, with the left side copied if there is room for it.
    #[allow(clippy::too_many_arguments)] // a task's, and the copy
    fn depths(
        &self,
        context: &Context<'_>,
        a: &[f32],
        b: Right<'_>,
        (target, at): (&Shared<f32>, usize),
        rows: Range<usize>,
        panels: Range<usize>,
        mut copy: Option<&mut Vec<f32>>,
    ) {
        let Product { m, n, k, .. } = *self;
        // Without depth the target is still to be written.
        for from in (0..k.max(1)).step_by(DEPTH) {
            let depth = from..k.min(from + DEPTH);
            let (a, a_row) = match copy.as_deref_mut() {
                Some(copy) => {
                    copy.resize(BLOCK * DEPTH, 0.0);
                    copy_block(a, self.a, rows.clone(), depth.clone(), copy);
                    (&copy[..], DEPTH)
                }
                None => (&a[(rows.start * self.a.row + from).min(a.len())..], self.a.row),
            };
            let keep = self.keep || from > 0;
            let side = Side { a, a_row, rows: rows.clone(), target, at, keep };
            for panel in panels.clone() {
                if context.cancelled() {
                    return;
                }
                let columns = panel * PANEL..n.min((panel + 1) * PANEL);
                let width = columns.len().next_multiple_of(LANES);
                match b {
                    Right::Panels(b) => {
                        let b = &b[columns.start * k + from * width..];
                        self.panel(context.isa, &side, depth.clone(), columns, b, width);
                    }
                    Right::Matrix(b) => {
                        let first = (from * self.b.row + columns.start).min(b.len());
                        let reach = depth.end.saturating_sub(1) * self.b.row + columns.start + width;
                        let direct = self.b.column == 1
                            && (m <= 4 * ROWS || k * n <= SMALL)
                            && (depth.is_empty() || reach <= b.len());
                        if direct {
                            self.panel(context.isa, &side, depth.clone(), columns, &b[first..], self.b.row);
                        } else {
                            self.copied_panel(context.isa, &side, depth.clone(), columns, b);
                        }
                    }
                }
            }
        }
    }

    /// Multiplies by a panel that is copied first.
    #[inline(never)] // its copy takes 32 KiB of stack
    fn copied_panel(&self, isa: Isa, side: &Side<'_>, depth: Range<usize>, columns: Range<usize>, b: &[f32]) {
        let mut copy = [0f32; PANEL * DEPTH];
        pack_panel(b, self.b, depth.clone(), columns.clone(), &mut copy);
        let width = columns.len().next_multiple_of(LANES);
        self.panel(isa, side, depth, columns, &copy, width);
    }

    /// Multiplies by a panel: `b` begins at its first row, and has so many elements between rows.
    fn panel(
        &self,
        isa: Isa,
        side: &Side<'_>,
        depth: Range<usize>,
        columns: Range<usize>,
        b: &[f32],
        b_row: usize,
    ) {
        let width = columns.len().next_multiple_of(LANES);
        for (i, top) in side.rows.clone().step_by(ROWS).enumerate() {
            let count = ROWS.min(side.rows.end - top);
            let length = (count - 1) * self.target_row + columns.len();
            let mut tile = Tile {
                k: depth.len(),
                a: side.a[(i * ROWS * side.a_row).min(side.a.len())..].as_ptr(),
                a_row: side.a_row,
                b: b.as_ptr(),
                b_row,
                c: side.target.pointer(side.at + top * self.target_row + columns.start, length),
                c_row: self.target_row,
                keep: side.keep,
                scale: self.scale,
            };
            if columns.len() == width {
                // SAFETY: operands checked in `run_at` and `task`; tiles of tasks are disjoint.
                unsafe { run_tile(isa, count, width / LANES, &tile) };
            } else {
                edge_tile(isa, count, columns.len(), &mut tile);
            }
        }
    }
}

thread_local! {
    /// A block of the left side, for as long as the thread lives: made anew it would have to be
    /// mapped anew.
    static LEFT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Copies rows of a matrix for a depth, [row][DEPTH].
fn copy_block(a: &[f32], strides: Strides, rows: Range<usize>, depth: Range<usize>, copy: &mut [f32]) {
    if strides.column == 1 {
        for (row, target) in rows.zip(copy.chunks_exact_mut(DEPTH)) {
            let from = row * strides.row + depth.start;
            target[..depth.len()].copy_from_slice(&a[from..from + depth.len()]);
        }
        return;
    }
    for left in depth.clone().step_by(LANES) {
        let wide = LANES.min(depth.end - left);
        for (i, row) in rows.clone().enumerate() {
            let target = &mut copy[i * DEPTH + left - depth.start..][..wide];
            let from = row * strides.row + left * strides.column;
            target.iter_mut().enumerate().for_each(|(j, t)| *t = a[from + j * strides.column]);
        }
    }
}

/// A tile whose last vector reaches beyond the matrix: by way of a whole one.
fn edge_tile(isa: Isa, count: usize, columns: usize, tile: &mut Tile) {
    let mut whole = [0f32; ROWS * PANEL];
    let (real, real_row) = (tile.c, tile.c_row);
    // SAFETY: `count` rows of `columns` elements of the target belong to this tile.
    let row = |i: usize| unsafe { std::slice::from_raw_parts_mut(real.add(i * real_row), columns) };
    if tile.keep {
        for i in 0..count {
            whole[i * PANEL..][..columns].copy_from_slice(row(i));
        }
    }
    tile.c = whole.as_mut_ptr();
    tile.c_row = PANEL;
    // SAFETY: as in `task`, with a target of its own.
    unsafe { run_tile(isa, count, columns.div_ceil(LANES), tile) };
    for i in 0..count {
        row(i).copy_from_slice(&whole[i * PANEL..][..columns]);
    }
}

macro_rules! choose {
    ($function:ident, $rows:expr, $vectors:expr, $tile:expr, $(($r:literal $($v:literal)*))*) => {
        match ($rows, $vectors) {
            $($(($r, $v) => $function::<$r, $v>($tile),)*)*
            (rows, vectors) => debug_assert!(rows == 0 || vectors == 0, "a tile of {rows} x {vectors}"),
        }
    };
}

/// # Safety
/// The tile's pointers must be valid for its rows and vectors, `isa` one this processor has.
unsafe fn run_tile(isa: Isa, rows: usize, vectors: usize, tile: &Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => choose!(avx512, rows, vectors, tile,
                (1 1 2 3 4) (2 1 2 3 4) (3 1 2 3 4) (4 1 2 3 4) (5 1 2 3 4) (6 1 2 3 4)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => choose!(avx2, rows, vectors, tile,
                (1 1 2 3 4) (2 1 2 3 4) (3 1 2 3 4) (4 1 2 3 4) (5 1 2 3 4) (6 1 2 3 4)),
            Isa::Baseline => choose!(plain, rows, vectors, tile,
                (1 1 2 3 4) (2 1 2 3 4) (3 1 2 3 4) (4 1 2 3 4) (5 1 2 3 4) (6 1 2 3 4)),
        }
    }
}

/// # Safety
/// As `run_tile`, with AVX-512 F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const R: usize, const V: usize>(t: &Tile) {
    use std::arch::x86_64::*;
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    let (mut a, mut b) = (t.a, t.b);
    if t.keep {
        for i in 0..R {
            for v in 0..V {
                _mm_prefetch::<_MM_HINT_T0>(t.c.wrapping_add(i * t.c_row + LANES * v).cast());
            }
        }
    }
    // Several terms a turn: what counts and points would else take turns of the multipliers' ports.
    const TURN: usize = 4;
    for _ in 0..t.k / TURN {
        for p in 0..TURN {
            // SAFETY: in bounds by the caller's promise.
            unsafe {
                let right: [__m512; V] = std::array::from_fn(|v| _mm512_loadu_ps(b.add(LANES * v)));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let left = _mm512_set1_ps(*a.add(i * t.a_row + p));
                    for (sum, &right) in sums.iter_mut().zip(&right) {
                        *sum = _mm512_fmadd_ps(left, right, *sum);
                    }
                }
            }
            b = b.wrapping_add(t.b_row);
        }
        a = a.wrapping_add(TURN);
    }
    for _ in 0..t.k % TURN {
        // SAFETY: as above.
        unsafe {
            let right: [__m512; V] = std::array::from_fn(|v| _mm512_loadu_ps(b.add(LANES * v)));
            for (i, sums) in sums.iter_mut().enumerate() {
                let left = _mm512_set1_ps(*a.add(i * t.a_row));
                for (sum, &right) in sums.iter_mut().zip(&right) {
                    *sum = _mm512_fmadd_ps(left, right, *sum);
                }
            }
        }
        a = a.wrapping_add(1);
        b = b.wrapping_add(t.b_row);
    }
    let scale = _mm512_set1_ps(t.scale);
    for (i, sums) in sums.iter().enumerate() {
        for (v, &sum) in sums.iter().enumerate() {
            // SAFETY: as above.
            unsafe {
                let c = t.c.add(i * t.c_row + LANES * v);
                let value = match t.keep {
                    true => _mm512_fmadd_ps(scale, sum, _mm512_loadu_ps(c)),
                    false => _mm512_mul_ps(scale, sum),
                };
                _mm512_storeu_ps(c, value);
            }
        }
    }
}

/// # Safety
/// As `run_tile`, with AVX2 and FMA. Goes by one vector of 16 columns after the other: so the
/// accumulators stay in registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const R: usize, const V: usize>(t: &Tile) {
    use std::arch::x86_64::*;
    let scale = _mm256_set1_ps(t.scale);
    for column in (0..V * LANES).step_by(LANES) {
        let mut sums = [[_mm256_setzero_ps(); 2]; R];
        let (mut a, mut b) = (t.a, t.b.wrapping_add(column));
        for _ in 0..t.k {
            // SAFETY: in bounds by the caller's promise.
            unsafe {
                let right = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
                for (i, sums) in sums.iter_mut().enumerate() {
                    let left = _mm256_set1_ps(*a.add(i * t.a_row));
                    for (sum, &right) in sums.iter_mut().zip(&right) {
                        *sum = _mm256_fmadd_ps(left, right, *sum);
                    }
                }
                a = a.add(1);
                b = b.wrapping_add(t.b_row);
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                // SAFETY: as above.
                unsafe {
                    let c = t.c.add(i * t.c_row + column + 8 * v);
                    let value = match t.keep {
                        true => _mm256_fmadd_ps(scale, sum, _mm256_loadu_ps(c)),
                        false => _mm256_mul_ps(scale, sum),
                    };
                    _mm256_storeu_ps(c, value);
                }
            }
        }
    }
}

/// # Safety
/// As `run_tile`; for any processor.
unsafe fn plain<const R: usize, const V: usize>(t: &Tile) {
    for column in (0..V * LANES).step_by(LANES) {
        let mut sums = [[0f32; LANES]; R];
        for p in 0..t.k {
            // SAFETY: in bounds by the caller's promise.
            let right = unsafe { &*t.b.add(p * t.b_row + column).cast::<[f32; LANES]>() };
            for (i, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let left = unsafe { *t.a.add(i * t.a_row + p) };
                sums.iter_mut().zip(right).for_each(|(sum, &right)| *sum += left * right);
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            // SAFETY: as above.
            let target = unsafe { &mut *t.c.add(i * t.c_row + column).cast::<[f32; LANES]>() };
            for (c, &sum) in target.iter_mut().zip(sums) {
                *c = if t.keep { *c + t.scale * sum } else { t.scale * sum };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    fn noise(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    #[test]
    fn tiles_of_every_size_on_every_instruction_set() {
        let cancel = AtomicBool::new(false);
        for isa in crate::cpu::tests::available() {
            let context = Context { isa, workers: None, cancel: &cancel };
            for (m, n, k) in [
                (1, 1, 1),
                (1, 64, 300),
                (2, 33, 7),
                (3, 100, 0),
                (4, 130, 5),
                (5, 16, 600),
                (6, 48, 3),
                (100, 200, 257),
                (13, 63, 256),
            ] {
                let (a, b, start) = (noise(m * k, 1), noise(k * n, 2), noise(m * n, 3));
                for (keep, scale, turned) in [(false, 1.0, false), (true, -2.0, false), (false, 0.5, true)] {
                    let strides =
                        if turned { Strides { row: 1, column: k } } else { Strides { row: n, column: 1 } };
                    let mut panels = vec![f32::NAN; packed_len(k, n)];
                    pack(&b, strides, k, n, &mut panels);
                    let left =
                        if turned { Strides { row: 1, column: m } } else { Strides { row: k, column: 1 } };
                    let product = Product { m, n, k, a: left, b: strides, target_row: n, keep, scale };
                    let mut found = [start.clone(), start.clone()];
                    product.run(&context, &a, Right::Panels(&panels), &mut found[0]);
                    product.run(&context, &a, Right::Matrix(&b), &mut found[1]);
                    for found in &found {
                        for i in 0..m {
                            for j in 0..n {
                                let sum: f64 = (0..k)
                                    .map(|p| {
                                        f64::from(a[i * left.row + p * left.column])
                                            * f64::from(b[p * strides.row + j * strides.column])
                                    })
                                    .sum();
                                let kept = if keep { f64::from(start[i * n + j]) } else { 0.0 };
                                let (f, w) = (f64::from(found[i * n + j]), kept + f64::from(scale) * sum);
                                assert!(
                                    (f - w).abs() < 1e-4,
                                    "{isa:?} {m}x{n}x{k} keep {keep}: ({i}, {j}) is {f}, not {w}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}
