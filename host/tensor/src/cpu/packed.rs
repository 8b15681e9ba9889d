//! Matrix products by tiles of registers whose right side lies in panels of 64 columns: a weight
//! is arranged once and then streamed, whatever the number of rows; small matrices whose rows
//! are whole vectors are read as they lie.
// Vector instructions, and pieces of the target that tasks write side by side.
#![allow(unsafe_code)]

use crate::cpu::context::{Context, Shared};
use crate::cpu::matmul::{ALONE, Strides};
use crate::cpu::simd::Isa;

/// Columns of a panel: four vectors of 16.
const PANEL: usize = 64;
/// Columns are padded to whole vectors of this many.
const LANES: usize = 16;
/// Rows of a tile: with four vectors each, 24 accumulators of 32 registers.
const ROWS: usize = 6;
/// Rows of the right side that one pass takes: a panel of them stays in the second-level cache.
const DEPTH: usize = 256;
/// Rows of the left side that a task takes: they stay in the second-level cache beside the panel.
const BLOCK: usize = 16 * ROWS;

/// The right side of a product: k x n.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Right<'a> {
    /// As [`pack`] arranges it.
    Panels(&'a [f32]),
    /// Row-major with so many elements between rows; n must be a multiple of 16.
    Rows(&'a [f32], usize),
}

/// target = keep * target + scale * a * b, rows of a and of the dense target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tiled {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Elements between rows of the left side; its columns lie side by side.
    pub a_row: usize,
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
        for (row, target) in panel.chunks_exact_mut(width).enumerate() {
            let from = row * strides.row + left * strides.column;
            if strides.column == 1 {
                target[..columns].copy_from_slice(&b[from..from + columns]);
            } else {
                let source = b[from..].iter().step_by(strides.column);
                target[..columns].iter_mut().zip(source).for_each(|(t, s)| *t = *s);
            }
            target[columns..].fill(0.0);
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

impl Tiled {
    /// Multiplies; the work is shared where there is enough.
    pub fn run(&self, context: &Context<'_>, a: &[f32], b: Right<'_>, target: &mut [f32]) {
        let Tiled { m, n, k, a_row, .. } = *self;
        if m == 0 || n == 0 {
            return;
        }
        assert!(target.len() >= m * n, "the target is too small");
        assert!(a.len() >= (m - 1) * a_row + k, "matrix a is too small");
        match b {
            Right::Panels(b) => assert!(b.len() >= packed_len(k, n), "the panels are too few"),
            Right::Rows(b, row) => assert!(
                n.is_multiple_of(LANES) && (k == 0 || b.len() >= (k - 1) * row + n),
                "matrix b is too small"
            ),
        }
        let panels = n.div_ceil(PANEL);
        let blocks = m.div_ceil(BLOCK);
        // Few rows: tasks of some panels each. Many: also of blocks of rows.
        let group =
            if blocks >= 4 * context.threads { panels } else { (panels / (4 * context.threads)).max(1) };
        let groups = panels.div_ceil(group);
        let shared = Shared::new(target);
        let work = |task: usize| {
            let (block, first) = (task / groups, task % groups * group);
            let rows = block * BLOCK..m.min((block + 1) * BLOCK);
            self.task(context, a, b, &shared, rows, first..panels.min(first + group));
        };
        if m * n * k < ALONE {
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
        target: &Shared<f32>,
        rows: std::ops::Range<usize>,
        panels: std::ops::Range<usize>,
    ) {
        let Tiled { n, k, a_row, .. } = *self;
        // Without depth the target is still to be written.
        for from in (0..k.max(1)).step_by(DEPTH) {
            let depth = DEPTH.min(k - from);
            for panel in panels.clone() {
                if context.cancelled() {
                    return;
                }
                let left = panel * PANEL;
                let columns = PANEL.min(n - left);
                let width = columns.next_multiple_of(LANES);
                let (b, b_row) = match b {
                    Right::Panels(b) => (&b[left * k + from * width..], width),
                    Right::Rows(b, row) => (&b[(from * row + left).min(b.len())..], row),
                };
                for top in rows.clone().step_by(ROWS) {
                    let count = ROWS.min(rows.end - top);
                    let length = (count - 1) * n + columns;
                    let mut tile = Tile {
                        k: depth,
                        a: a[top * a_row + from..].as_ptr(),
                        a_row,
                        b: b.as_ptr(),
                        b_row,
                        c: target.pointer(top * n + left, length),
                        c_row: n,
                        keep: self.keep || from > 0,
                        scale: self.scale,
                    };
                    if columns == width {
                        // SAFETY: operands checked in `run`; tiles of tasks are disjoint.
                        unsafe { run_tile(context.isa, count, width / LANES, &tile) };
                    } else {
                        edge_tile(context.isa, count, columns, &mut tile);
                    }
                }
            }
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
    for _ in 0..t.k {
        // SAFETY: in bounds by the caller's promise.
        unsafe {
            let right: [__m512; V] = std::array::from_fn(|v| _mm512_loadu_ps(b.add(LANES * v)));
            for (i, sums) in sums.iter_mut().enumerate() {
                let left = _mm512_set1_ps(*a.add(i * t.a_row));
                for (sum, &right) in sums.iter_mut().zip(&right) {
                    *sum = _mm512_fmadd_ps(left, right, *sum);
                }
            }
            a = a.add(1);
            b = b.wrapping_add(t.b_row);
        }
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
            let context = Context { isa, threads: 1, cancel: &cancel };
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
                    let tiled = Tiled { m, n, k, a_row: k, keep, scale };
                    let mut found = vec![start.clone()];
                    tiled.run(&context, &a, Right::Panels(&panels), &mut found[0]);
                    if n.is_multiple_of(LANES) && !turned {
                        found.push(start.clone());
                        tiled.run(&context, &a, Right::Rows(&b, n), &mut found[1]);
                    }
                    for found in &found {
                        for i in 0..m {
                            for j in 0..n {
                                let sum: f64 = (0..k)
                                    .map(|p| {
                                        f64::from(a[i * k + p])
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
