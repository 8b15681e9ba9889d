//! Direct convolution for nchw inputs: each step keeps a tile of output channels x output columns
//! in registers, and multiplies a vector of input columns by one broadcast weight a channel.
//!
//! The input is first laid out padded, and with a horizontal stride split into its phases
//! (columns 0, s, 2s ... then 1, s+1 ...), so that every tap reads consecutive memory whatever
//! the stride, and no tap looks at the borders.
// Vector instructions, and their unaligned loads and stores.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::cpu::block;
use crate::cpu::context::{Context, Shared};
use crate::cpu::conv::{Conv, Operands, tile_of, unfold_row};
use crate::cpu::simd::Isa;
use crate::op::{Conv2d, InputLayout};
use crate::rules::ConvSizes;

/// Output channels of a full tile.
pub(crate) const OC_TILE: usize = 8;
/// The most columns of a tile: 8 vectors of 16.
const MAX_COLUMNS: usize = 128;
/// Multiplications of one task, about.
const GRAIN: usize = 1 << 17;

/// A plan of the direct method.
#[derive(Debug, Clone)]
pub(crate) struct Direct {
    /// Floats of a vector.
    lanes: usize,
    /// Horizontal phases that some tap reads, in the order in which they are laid out.
    phases: Vec<usize>,
    /// Elements of one phase of one row.
    row: usize,
    /// Rows of the padded input that some tap may read.
    rows: usize,
    /// Offset of each tap from its output column's place in the layout.
    taps: Vec<u32>,
    /// Elements of one item laid out: the input channels of a group of one image.
    item: usize,
    /// Items worked on side by side; 1 means that threads share one item.
    side_by_side: usize,
    /// Output columns of one task, a whole number of full tiles or all.
    strip: usize,
    /// Whether the input is read as it lies.
    plain: bool,
    /// Rows and columns of the output, taken as one row where the input is read as it lies.
    oh: usize,
    ow: usize,
}

impl Direct {
    /// A plan, where the method suits the sizes.
    pub fn plan(s: &ConvSizes, c: &Conv2d, isa: Isa, threads: usize) -> Option<Direct> {
        let groups = c.groups as usize;
        let (inputs, outputs) = (s.ic / groups, s.oc / groups);
        if inputs * outputs == 0 {
            return None; // a filter without elements may be of any width, and what is planned by it too
        }
        // Input that already lies as wanted: an image is then one long row.
        let pixels = s.oh * s.ow;
        let plain =
            s.kh * s.kw == 1 && c.strides == [1, 1] && c.padding == [0; 4] && pixels.is_multiple_of(16);
        let (oh, ow) = if plain { (1, pixels) } else { (s.oh, s.ow) };
        let lanes = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => 16,
            _ => 8,
        };
        let columns = ow.next_multiple_of(lanes);
        if c.input_layout != InputLayout::Nchw || ow * 3 < columns * 2 {
            return None; // too much of each vector would be wasted
        }
        let [sh, sw] = c.strides.map(|v| v as usize);
        let [dh, dw] = c.dilations.map(|v| v as usize);
        let mut phases: Vec<usize> = (0..s.kw).map(|x| x * dw % sw).collect();
        phases.sort_unstable();
        phases.dedup();
        // Whole vectors: the first tap of each row is then read without crossing cache lines.
        let row = (columns + (s.kw - 1) * dw / sw).next_multiple_of(16);
        let rows = (oh.max(1) - 1) * sh + (s.kh - 1) * dh + 1;
        let item = inputs.checked_mul(rows)?.checked_mul(phases.len())?.checked_mul(row)?;
        // What the taps of one tile read must stay in the second-level cache.
        let footprint = inputs * s.kh * phases.len() * (48 + row - columns) * 4
            + OC_TILE.min(outputs) * inputs * s.kh * s.kw * 4;
        let many_channels = inputs * outputs >= 64 * 64;
        if item > u32::MAX as usize || footprint > 256 << 10 || many_channels && outputs > 64 {
            return None;
        }
        let mut taps = Vec::with_capacity(inputs * s.kh * s.kw);
        for i in 0..inputs {
            for y in 0..s.kh {
                for x in 0..s.kw {
                    let phase = phases.binary_search(&(x * dw % sw)).ok()?;
                    let line = (i * rows + y * dh) * phases.len() + phase;
                    taps.push((line * row + x * dw / sw) as u32);
                }
            }
        }
        let side_by_side = if s.n * groups >= threads && item * 4 <= 4 << 20 { threads } else { 1 };
        let strip = if oh >= 2 * threads || side_by_side > 1 || threads == 1 {
            columns.max(1)
        } else {
            columns.div_ceil(4 * threads).next_multiple_of(48)
        };
        let item = item.next_multiple_of(16);
        Some(Direct { lanes, phases, row, rows, taps, item, side_by_side, strip, plain, oh, ow })
    }

    /// Elements of scratch memory.
    pub fn workspace(&self) -> usize {
        if self.plain { 0 } else { self.side_by_side * self.item }
    }

    /// Computes the output.
    pub fn run(&self, conv: &Conv, context: &Context<'_>, operands: Operands<'_>) {
        let Operands { input, filter, bias, output, scratch } = operands;
        let s = &conv.sizes;
        let groups = conv.options.groups as usize;
        let (inputs, items) = (s.ic / groups, s.n * groups);
        let outputs = Shared::new(output);
        let work = Work { direct: self, conv, filter, bias, outputs: &outputs };
        let scratches = Shared::new(scratch);
        let lanes = if context.workers.is_some() { self.side_by_side } else { 1 };
        let alone = context.alone();
        let inside = if lanes > 1 { &alone } else { context };
        let next = AtomicUsize::new(0);
        context.for_each(lanes, |lane| {
            let own = if self.plain { 0 } else { self.item };
            // SAFETY: each lane has its own scratch.
            let laid = unsafe { scratches.piece(lane * own, own) };
            loop {
                let item = next.fetch_add(1, Ordering::Relaxed);
                if item >= items || context.cancelled() {
                    return;
                }
                let size = inputs * s.ih * s.iw;
                let input = &input[item * size..][..size];
                if self.plain {
                    work.item(inside, input, item / groups, item % groups);
                } else {
                    work.lay_out(inside, input, laid);
                    work.item(inside, laid, item / groups, item % groups);
                }
            }
        });
    }
}

/// A plan with its constant operands.
struct Work<'a> {
    direct: &'a Direct,
    conv: &'a Conv,
    filter: &'a [f32],
    bias: Option<&'a [f32]>,
    outputs: &'a Shared<f32>,
}

impl Work<'_> {
    /// Writes one item as [channel][padded row][phase][column].
    fn lay_out(&self, context: &Context<'_>, input: &[f32], laid: &mut [f32]) {
        let (d, s) = (self.direct, &self.conv.sizes);
        let [top, _, left, _] = self.conv.options.padding.map(|p| p as usize);
        let step = self.conv.options.strides[1] as usize;
        let line = d.phases.len() * d.row;
        let lines = input.len() / (s.ih * s.iw).max(1) * d.rows;
        let per_task = (1 << 14) / line.max(1) + 1;
        let shared = Shared::new(laid);
        context.for_each(lines.div_ceil(per_task), |task| {
            for index in task * per_task..lines.min((task + 1) * per_task) {
                // SAFETY: each line belongs to one task.
                let target = unsafe { shared.piece(index * line, line) };
                let (channel, y) = (index / d.rows, (index % d.rows).wrapping_sub(top));
                if y >= s.ih {
                    target.fill(0.0);
                    continue;
                }
                let row = &input[(channel * s.ih + y) * s.iw..][..s.iw];
                for (target, &phase) in target.chunks_exact_mut(d.row).zip(&d.phases) {
                    unfold_row(row, phase, step, left, target);
                }
            }
        });
    }

    /// Computes the output channels of one group of one image.
    fn item(&self, context: &Context<'_>, laid: &[f32], image: usize, group: usize) {
        let (d, s) = (self.direct, &self.conv.sizes);
        let strips = d.ow.div_ceil(d.strip);
        // Several rows to a task where they are short: a task costs a fraction of a microsecond.
        let channels = s.oc / self.conv.options.groups as usize;
        let rows = (GRAIN / (channels * d.taps.len() * d.strip.min(d.ow)).max(1)).clamp(1, d.oh.max(1));
        context.for_each(d.oh.div_ceil(rows) * strips, |task| {
            let (block, left) = (task / strips, task % strips * d.strip);
            let mut sums = [0f32; OC_TILE * MAX_COLUMNS];
            for y in block * rows..d.oh.min((block + 1) * rows) {
                let columns = left..d.ow.min(left + d.strip);
                self.strip(context.isa, laid, (image, group), y, columns, &mut sums);
            }
        });
    }

    /// Computes some output columns of row `y`, all channels of a group.
    fn strip(
        &self,
        isa: Isa,
        laid: &[f32],
        (image, group): (usize, usize),
        y: usize,
        columns: Range<usize>,
        sums: &mut [f32; OC_TILE * MAX_COLUMNS],
    ) {
        let (d, s) = (self.direct, &self.conv.sizes);
        let channels = s.oc / self.conv.options.groups as usize;
        let taps = d.taps.len();
        let base = y * self.conv.options.strides[0] as usize * d.phases.len() * d.row;
        // The first tile is the widest.
        let most = most_vectors(isa, tile_of(0, channels).1);
        let mut x = columns.start;
        // Columns outside, channels inside: what the taps read stays in the first-level cache.
        while x < columns.end {
            let vectors = (columns.end - x).div_ceil(d.lanes).min(most);
            let width = vectors * d.lanes;
            let count = width.min(columns.end - x);
            let source = &laid[base + x..];
            if let Some(last) = d.taps.last() {
                // Taps ascend but for phases; the layout has room for the farthest.
                debug_assert!(*last as usize + width <= source.len());
            }
            let mut tile = 0;
            while tile < channels {
                let (_, tall) = tile_of(tile, channels);
                let first = group * channels + tile;
                let weights = &self.filter[first * taps..][..tall * taps];
                let Some(kernel) = kernel(isa, tall, vectors) else {
                    return;
                };
                // SAFETY: the layout holds every tap of every column up to the next whole
                // vector (`plan`), and `kernel` answers only what this processor can run.
                unsafe { kernel(source, &d.taps, weights, sums) };
                for (o, sums) in sums.chunks_exact_mut(width).take(tall).enumerate() {
                    let channel = first + o;
                    let at = ((image * s.oc + channel) * d.oh + y) * d.ow + x;
                    // SAFETY: each output row piece belongs to one task.
                    let target = unsafe { self.outputs.piece(at, count) };
                    let sums = &mut sums[..count];
                    if let Some(bias) = self.bias {
                        let b = bias[channel];
                        sums.iter_mut().for_each(|v| *v += b);
                    }
                    match self.conv.activation {
                        Some(map) => block::map_f32(isa, map, sums, target),
                        None => target.copy_from_slice(sums),
                    }
                }
                tile += tall;
            }
            x += width;
        }
    }
}

/// Sums over taps for one tile: (laid out input from the tile's first column, tap offsets,
/// weights [tap][channel], result [channel][column]).
type Kernel = unsafe fn(&[f32], &[u32], &[f32], &mut [f32; OC_TILE * MAX_COLUMNS]);

/// The widest tile, in vectors, that leaves the accumulators in registers.
fn most_vectors(isa: Isa, channels: usize) -> usize {
    match (isa, channels) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, 8) => 3,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, 4) => 6,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, _) => 8,
        (_, 8) => 1,
        (_, 4) => 2,
        (_, 2) => 4,
        _ => 8,
    }
}

macro_rules! choose {
    ($function:ident, $channels:expr, $vectors:expr, $(($c:literal $($v:literal)*))*) => {
        match ($channels, $vectors) {
            $($(($c, $v) => Some($function::<$c, $v> as Kernel),)*)*
            _ => None,
        }
    };
}

fn kernel(isa: Isa, channels: usize, vectors: usize) -> Option<Kernel> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => choose!(avx512, channels, vectors,
            (8 1 2 3) (4 1 2 3 4 5 6) (2 1 2 3 4 5 6 7 8) (1 1 2 3 4 5 6 7 8)),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => choose!(avx2, channels, vectors,
            (8 1) (4 1 2) (2 1 2 3 4) (1 1 2 3 4 5 6 7 8)),
        Isa::Baseline => choose!(plain, channels, vectors,
            (8 1) (4 1 2) (2 1 2 3 4) (1 1 2 3 4 5 6 7 8)),
    }
}

/// # Safety
/// The processor must have AVX-512 F; `source` must hold V vectors at every tap.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const C: usize, const V: usize>(
    source: &[f32],
    taps: &[u32],
    weights: &[f32],
    sums: &mut [f32; OC_TILE * MAX_COLUMNS],
) {
    use std::arch::x86_64::*;
    let mut acc = [[_mm512_setzero_ps(); V]; C];
    let mut step = |tap: u32, weights: &[f32; C]| {
        // SAFETY: in bounds by the caller's promise.
        let x: [__m512; V] =
            std::array::from_fn(|v| unsafe { _mm512_loadu_ps(source.as_ptr().add(tap as usize + 16 * v)) });
        for (acc, &w) in acc.iter_mut().zip(weights) {
            let w = _mm512_set1_ps(w);
            for (acc, &x) in acc.iter_mut().zip(&x) {
                *acc = _mm512_fmadd_ps(w, x, *acc);
            }
        }
    };
    // Several taps a turn: counting would else take turns of the multipliers' ports.
    let (turns, rest) = taps.as_chunks::<4>();
    let weights = weights.as_chunks::<C>().0;
    let (weight_turns, weight_rest) = weights.as_chunks::<4>();
    for (taps, weights) in turns.iter().zip(weight_turns) {
        taps.iter().zip(weights).for_each(|(&tap, weights)| step(tap, weights));
    }
    rest.iter().zip(weight_rest).for_each(|(&tap, weights)| step(tap, weights));
    for (i, v) in acc.iter().flatten().enumerate() {
        // SAFETY: C * V vectors of 16 fit: 8 x 8 x 16 is the whole array.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr().add(16 * i), *v) };
    }
}

/// # Safety
/// The processor must have AVX2 and FMA; `source` must hold V vectors at every tap.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const C: usize, const V: usize>(
    source: &[f32],
    taps: &[u32],
    weights: &[f32],
    sums: &mut [f32; OC_TILE * MAX_COLUMNS],
) {
    use std::arch::x86_64::*;
    let mut acc = [[_mm256_setzero_ps(); V]; C];
    for (&tap, weights) in taps.iter().zip(weights.as_chunks::<C>().0) {
        // SAFETY: in bounds by the caller's promise.
        let x: [__m256; V] =
            std::array::from_fn(|v| unsafe { _mm256_loadu_ps(source.as_ptr().add(tap as usize + 8 * v)) });
        for (acc, &w) in acc.iter_mut().zip(weights) {
            let w = _mm256_set1_ps(w);
            for (acc, &x) in acc.iter_mut().zip(&x) {
                *acc = _mm256_fmadd_ps(w, x, *acc);
            }
        }
    }
    for (i, v) in acc.iter().flatten().enumerate() {
        // SAFETY: C * V vectors of 8 fit.
        unsafe { _mm256_storeu_ps(sums.as_mut_ptr().add(8 * i), *v) };
    }
}

/// # Safety
/// None needed: a type in common with the others.
unsafe fn plain<const C: usize, const V: usize>(
    source: &[f32],
    taps: &[u32],
    weights: &[f32],
    sums: &mut [f32; OC_TILE * MAX_COLUMNS],
) {
    let mut acc = [[[0f32; 8]; V]; C];
    for (&tap, weights) in taps.iter().zip(weights.as_chunks::<C>().0) {
        let (x, _) = source[tap as usize..].as_chunks::<8>();
        for (acc, &w) in acc.iter_mut().zip(weights) {
            for (acc, x) in acc.iter_mut().zip(&x[..V]) {
                for (a, &x) in acc.iter_mut().zip(x) {
                    *a += w * x;
                }
            }
        }
    }
    for (target, v) in sums.chunks_exact_mut(8).zip(acc.iter().flatten()) {
        target.copy_from_slice(v);
    }
}
