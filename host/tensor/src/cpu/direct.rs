//! Direct convolution for nchw inputs: each step keeps a tile of output channels x output columns
//! in registers, and multiplies a vector of input columns by one broadcast weight a channel.
//!
//! The input is first laid out padded, and with a horizontal stride split into its phases
//! (columns 0, s, 2s ... then 1, s+1 ...), so that every tap reads consecutive memory whatever
//! the stride, and no tap looks at the borders.
// Vector instructions, and their unaligned loads and stores.
#![allow(unsafe_code)]

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
    /// Elements of one image laid out.
    image: usize,
    /// Images worked on side by side; 1 means that threads share one image.
    images: usize,
    /// Output columns of one task, a whole number of full tiles or all.
    strip: usize,
}

impl Direct {
    /// A plan, where the method suits the sizes.
    pub fn plan(s: &ConvSizes, c: &Conv2d, isa: Isa, threads: usize) -> Option<Direct> {
        let groups = c.groups as usize;
        let (inputs, outputs) = (s.ic / groups, s.oc / groups);
        let lanes = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => 16,
            _ => 8,
        };
        let columns = s.ow.next_multiple_of(lanes);
        if c.input_layout != InputLayout::Nchw || s.ow * 3 < columns * 2 {
            return None; // too much of each vector would be wasted
        }
        let [sh, sw] = c.strides.map(|v| v as usize);
        let [dh, dw] = c.dilations.map(|v| v as usize);
        let mut phases: Vec<usize> = (0..s.kw).map(|x| x * dw % sw).collect();
        phases.sort_unstable();
        phases.dedup();
        let row = columns + (s.kw - 1) * dw / sw;
        let rows = (s.oh.max(1) - 1) * sh + (s.kh - 1) * dh + 1;
        let image = s.ic.checked_mul(rows)?.checked_mul(phases.len())?.checked_mul(row)?;
        // What the taps of one tile read must stay in the second-level cache.
        let footprint = inputs * s.kh * phases.len() * (48 + row - columns) * 4
            + OC_TILE.min(outputs) * inputs * s.kh * s.kw * 4;
        let many_channels = inputs * outputs >= 64 * 64;
        if image > u32::MAX as usize || footprint > 256 << 10 || many_channels && outputs > 64 {
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
        let images = if s.n >= threads && image * 4 <= 4 << 20 { threads } else { 1 };
        let strip = if s.oh >= 2 * threads || images > 1 || threads == 1 {
            columns.max(1)
        } else {
            columns.div_ceil(4 * threads).next_multiple_of(48)
        };
        let image = image.next_multiple_of(16);
        Some(Direct { lanes, phases, row, rows, taps, image, images, strip })
    }

    /// Elements of scratch memory.
    pub fn workspace(&self) -> usize {
        self.images * self.image
    }

    /// Computes the output.
    pub fn run(&self, conv: &Conv, context: &Context<'_>, operands: Operands<'_>) {
        let Operands { input, filter, bias, output, scratch } = operands;
        let s = &conv.sizes;
        let out_image = s.oc * s.oh * s.ow;
        let work = Work { direct: self, conv, filter, bias };
        let outputs = Shared::new(output);
        let scratches = Shared::new(scratch);
        let lanes = if context.workers.is_some() { self.images } else { 1 };
        let alone = context.alone();
        let inside = if lanes > 1 { &alone } else { context };
        context.for_each(lanes, |lane| {
            // SAFETY: each lane has its own scratch.
            let laid = unsafe { scratches.piece(lane * self.image, self.image) };
            for image in (lane..s.n).step_by(lanes) {
                if context.cancelled() {
                    return;
                }
                let plane = s.ih * s.iw;
                work.lay_out(inside, &input[image * s.ic * plane..][..s.ic * plane], laid);
                // SAFETY: each image belongs to one lane.
                let output = unsafe { outputs.piece(image * out_image, out_image) };
                work.image(inside, laid, output);
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
}

impl Work<'_> {
    /// Writes one image as [channel][padded row][phase][column].
    fn lay_out(&self, context: &Context<'_>, input: &[f32], laid: &mut [f32]) {
        let (d, s) = (self.direct, &self.conv.sizes);
        let [top, _, left, _] = self.conv.options.padding.map(|p| p as usize);
        let step = self.conv.options.strides[1] as usize;
        let line = d.phases.len() * d.row;
        let lines = s.ic * d.rows;
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

    /// Computes one image.
    fn image(&self, context: &Context<'_>, laid: &[f32], output: &mut [f32]) {
        let (d, s) = (self.direct, &self.conv.sizes);
        let strips = s.ow.div_ceil(d.strip);
        let outputs = Shared::new(output);
        context.for_each(s.oh * strips, |task| {
            let (y, left) = (task / strips, task % strips * d.strip);
            self.strip(context.isa, laid, &outputs, y, left, s.ow.min(left + d.strip));
        });
    }

    /// Computes output columns left..right of row `y`, all channels.
    fn strip(&self, isa: Isa, laid: &[f32], outputs: &Shared<f32>, y: usize, left: usize, right: usize) {
        let (d, s) = (self.direct, &self.conv.sizes);
        let groups = self.conv.options.groups as usize;
        let (inputs, channels) = (s.ic / groups, s.oc / groups);
        let taps = d.taps.len();
        let down = y * self.conv.options.strides[0] as usize;
        let mut sums = [0f32; OC_TILE * MAX_COLUMNS];
        for group in 0..groups {
            let base = ((group * inputs * d.rows) + down) * d.phases.len() * d.row;
            let mut tile = 0;
            while tile < channels {
                let (_, width) = tile_of(tile, channels);
                let first = group * channels + tile;
                let weights = &self.filter[first * taps..][..width * taps];
                let most = most_vectors(isa, width);
                let mut x = left;
                while x < right {
                    let vectors = (right - x).div_ceil(d.lanes).min(most);
                    let columns = vectors * d.lanes;
                    let Some(kernel) = kernel(isa, width, vectors) else {
                        return;
                    };
                    let source = &laid[base + x..];
                    if let Some(last) = d.taps.last() {
                        // Taps ascend but for phases; the layout has room for the farthest.
                        debug_assert!(*last as usize + columns <= source.len());
                    }
                    // SAFETY: the layout holds every tap of every column up to the next whole
                    // vector (`plan`), and `kernel` answers only what this processor can run.
                    unsafe { kernel(source, &d.taps, weights, &mut sums) };
                    let count = columns.min(right - x);
                    for (o, sums) in sums.chunks_exact_mut(columns).take(width).enumerate() {
                        let channel = first + o;
                        let at = (channel * s.oh + y) * s.ow + x;
                        // SAFETY: each output row piece belongs to one task.
                        let target = unsafe { outputs.piece(at, count) };
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
                    x += columns;
                }
                tile += width;
            }
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
    for (&tap, weights) in taps.iter().zip(weights.as_chunks::<C>().0) {
        // SAFETY: in bounds by the caller's promise.
        let x: [__m512; V] =
            std::array::from_fn(|v| unsafe { _mm512_loadu_ps(source.as_ptr().add(tap as usize + 16 * v)) });
        for (acc, &w) in acc.iter_mut().zip(weights) {
            let w = _mm512_set1_ps(w);
            for (acc, &x) in acc.iter_mut().zip(&x) {
                *acc = _mm512_fmadd_ps(w, x, *acc);
            }
        }
    }
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
