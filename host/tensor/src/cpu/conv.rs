//! Convolutions: which method suits the sizes, how filters are arranged, and the methods that go
//! by matrix products. `direct` holds the method for few channels.

use crate::buffer::capacity_for;
use crate::cpu::block::{self, FloatMap};
use crate::cpu::context::{Context, Shared};
use crate::cpu::direct::{Direct, OC_TILE};
use crate::cpu::packed::{Product, Right, Strides};
use crate::cpu::simd::Isa;
use crate::op::{Conv2d, FilterLayout, InputLayout};
use crate::rules::ConvSizes;

/// Bytes of unfolded input that one product takes: half of a usual second-level cache.
const BAND_BYTES: usize = 512 << 10;

/// How a convolution is computed.
#[derive(Debug, Clone)]
pub(crate) enum Method {
    /// By registers over the output's width.
    Direct(Direct),
    /// By unfolding bands of the input into a matrix.
    Unfold(Unfold),
}

/// A planned convolution.
#[derive(Debug, Clone)]
pub(crate) struct Conv {
    pub sizes: ConvSizes,
    pub options: Conv2d,
    pub method: Method,
    /// Instructions to use.
    pub isa: Isa,
    /// Applied to each output element.
    pub activation: Option<FloatMap>,
}

/// Convolution as matrix products over bands of output pixels.
#[derive(Debug, Clone)]
pub(crate) struct Unfold {
    /// Output pixels of one product.
    band: usize,
    /// Tasks that run side by side, each with a band of its own.
    lanes: usize,
    /// Whether the input already is the matrix (1 x 1, no stride, no padding).
    plain: bool,
}

/// Output elements, filters and scratch that a convolution works on.
pub(crate) struct Operands<'a> {
    pub input: &'a [f32],
    /// Arranged by [`Conv::pack`].
    pub filter: &'a [f32],
    pub bias: Option<&'a [f32]>,
    pub output: &'a mut [f32],
    /// At least [`Conv::workspace`] elements.
    pub scratch: &'a mut [f32],
}

impl Conv {
    /// Plans a convolution for so many threads.
    pub fn new(
        sizes: ConvSizes,
        options: Conv2d,
        activation: Option<FloatMap>,
        isa: Isa,
        threads: usize,
    ) -> Conv {
        let method = match Direct::plan(&sizes, &options, isa, threads) {
            Some(direct) => Method::Direct(direct),
            None => {
                let k = sizes.ic / options.groups as usize * sizes.kh * sizes.kw;
                let pixels = (sizes.oh * sizes.ow).max(1);
                let band = (BAND_BYTES / 4 / k.max(1)).clamp(32, 4096).min(pixels);
                let plain =
                    sizes.kh * sizes.kw == 1 && options.strides == [1, 1] && options.padding == [0; 4];
                // Evenly, in whole vectors, and enough for every thread.
                let most = pixels.div_ceil(band).next_multiple_of(threads);
                let band = pixels.div_ceil(most).next_multiple_of(16).min(pixels);
                let bands = sizes.n * options.groups as usize * pixels.div_ceil(band);
                Method::Unfold(Unfold { band, lanes: threads.min(bands).max(1), plain })
            }
        };
        Conv { sizes, options, method, isa, activation }
    }

    fn groups(&self) -> usize {
        self.options.groups as usize
    }

    /// Input channels of a group.
    fn group_inputs(&self) -> usize {
        self.sizes.ic / self.groups()
    }

    /// Products that make one output element.
    pub fn taps(&self) -> usize {
        self.group_inputs() * self.sizes.kh * self.sizes.kw
    }

    /// Elements of the arranged filter.
    pub fn packed(&self) -> usize {
        self.sizes.oc * self.taps()
    }

    /// Elements of scratch memory.
    pub fn workspace(&self) -> usize {
        match &self.method {
            Method::Direct(d) => d.workspace(),
            Method::Unfold(u) if u.plain => 0,
            Method::Unfold(u) => u.lanes * self.lane(u),
        }
    }

    /// Elements of one lane's band, rounded up to whole cache lines.
    fn lane(&self, u: &Unfold) -> usize {
        capacity_for(u.band * self.taps() * 4) / 4
    }

    /// Says how filters are arranged; equal parameters mean equal arrangements.
    pub fn packing(&self) -> [usize; 4] {
        let method = match self.method {
            Method::Direct(_) => 1,
            Method::Unfold(_) if self.nhwc() => 2,
            Method::Unfold(_) => 3,
        };
        [method, self.groups(), self.options.filter_layout as usize, 0]
    }

    fn nhwc(&self) -> bool {
        self.options.input_layout == InputLayout::Nhwc
    }

    /// Arranges a filter: for the direct method [group][tile of output channels][tap][channel of
    /// the tile], else [output channel][tap]; taps in the order in which input is unfolded.
    pub fn pack(&self, filter: &[f32], packed: &mut [f32]) {
        let ConvSizes { oc, kh, kw, .. } = self.sizes;
        let ic = self.group_inputs();
        let taps = self.taps();
        let [so, si, sh, sw] = match self.options.filter_layout {
            FilterLayout::Oihw => [ic * kh * kw, kh * kw, kw, 1],
            FilterLayout::Hwio => [1, oc, kw * ic * oc, ic * oc],
            FilterLayout::Ohwi => [kh * kw * ic, 1, kw * ic, ic],
            FilterLayout::Ihwo => [1, kh * kw * oc, kw * oc, oc],
        };
        let direct = matches!(self.method, Method::Direct(_));
        let channels_last = !direct && self.nhwc();
        let group_outputs = oc / self.groups();
        for o in 0..oc {
            let (group, within) = (o / group_outputs, o % group_outputs);
            // Tiles are OC_TILE wide, but for what is left of a group: that goes by powers of two.
            let (tile_start, tile) = tile_of(within, group_outputs);
            for i in 0..ic {
                for y in 0..kh {
                    for x in 0..kw {
                        let tap = if channels_last { (y * kw + x) * ic + i } else { (i * kh + y) * kw + x };
                        let at = if direct {
                            (group * group_outputs + tile_start) * taps + tap * tile + (within - tile_start)
                        } else {
                            o * taps + tap
                        };
                        packed[at] = filter[o * so + i * si + y * sh + x * sw];
                    }
                }
            }
        }
    }

    /// Computes the output.
    pub fn run(&self, context: &Context<'_>, operands: Operands<'_>) {
        if operands.output.is_empty() {
            return;
        }
        match &self.method {
            Method::Direct(d) => d.run(self, context, operands),
            Method::Unfold(u) => self.unfold(u, context, operands),
        }
    }

    fn unfold(&self, u: &Unfold, context: &Context<'_>, operands: Operands<'_>) {
        let ConvSizes { n, oc, oh, ow, .. } = self.sizes;
        let Operands { input, filter, bias, output, scratch } = operands;
        let (groups, taps) = (self.groups(), self.taps());
        let pixels = oh * ow;
        let bands = pixels.div_ceil(u.band);
        let items = n * groups * bands;
        let lane_size = if u.plain { 0 } else { self.lane(u) };
        let lanes = u.lanes.min(items);
        let outputs = Shared::new(output);
        let scratches = Shared::new(scratch);
        context.for_each(lanes, |lane| {
            // SAFETY: each lane has its own scratch.
            #[allow(unsafe_code)]
            let scratch = unsafe { scratches.piece(lane * lane_size, lane_size) };
            for item in (lane..items).step_by(lanes) {
                if context.cancelled() {
                    return;
                }
                let (image, group, band) = (item / groups / bands, item / bands % groups, item % bands);
                let first = band * u.band;
                let count = u.band.min(pixels - first);
                let (matrix, strides) = if u.plain {
                    self.plain_input(image, group, first)
                } else {
                    self.unfold_band(input, image, group, first, count, scratch);
                    (0, if self.nhwc() { (taps, 1) } else { (1, count) })
                };
                let matrix = if u.plain { &input[matrix..] } else { &scratch[..] };
                let group_outputs = oc / groups;
                let weights = &filter[group * group_outputs * taps..];
                self.multiply(
                    context,
                    (image, group, first, count),
                    (matrix, strides),
                    weights,
                    bias,
                    &outputs,
                );
            }
        });
    }

    /// Where the input itself is the matrix of pixels x taps: offset and strides.
    fn plain_input(&self, image: usize, group: usize, first: usize) -> (usize, (usize, usize)) {
        let ConvSizes { ic, ih, iw, .. } = self.sizes;
        let inputs = self.group_inputs();
        if self.nhwc() {
            ((image * ih * iw + first) * ic + group * inputs, (ic, 1))
        } else {
            ((image * ic + group * inputs) * ih * iw + first, (1, ih * iw))
        }
    }

    /// One product, then bias and activation while the result is in the cache.
    fn multiply(
        &self,
        context: &Context<'_>,
        (image, group, first, count): (usize, usize, usize, usize),
        (matrix, (pixel, tap)): (&[f32], (usize, usize)),
        weights: &[f32],
        bias: Option<&[f32]>,
        outputs: &Shared<f32>,
    ) {
        let ConvSizes { oc, oh, ow, .. } = self.sizes;
        let group_outputs = oc / self.groups();
        let taps = self.taps();
        let channel = group * group_outputs;

        let pixels = Strides { row: pixel, column: tap };
        let (start, target_row, rows, run) = if self.nhwc() {
            let start = (image * oh * ow + first) * oc + channel;
            (start, oc, count, group_outputs)
        } else {
            let start = (image * oc + channel) * oh * ow + first;
            (start, oh * ow, group_outputs, count)
        };
        let filter = Strides { row: taps, column: 1 };
        let turned = |s: Strides| Strides { row: s.column, column: s.row };
        let product = if self.nhwc() {
            Product {
                m: count,
                n: group_outputs,
                k: taps,
                a: pixels,
                b: turned(filter),
                target_row,
                keep: false,
                scale: 1.0,
            }
        } else {
            Product {
                m: group_outputs,
                n: count,
                k: taps,
                a: filter,
                b: turned(pixels),
                target_row,
                keep: false,
                scale: 1.0,
            }
        };
        let (a, b) = if self.nhwc() { (matrix, weights) } else { (weights, matrix) };
        // SAFETY: bands, groups and images name disjoint elements, though interleaved ones.
        #[allow(unsafe_code)]
        unsafe {
            product.run_at(&context.alone(), a, Right::Matrix(b), outputs, start);
        }
        for row in 0..rows {
            // SAFETY: a row of this band, disjoint from all others.
            #[allow(unsafe_code)]
            let values = unsafe { outputs.piece(start + row * target_row, run) };
            match bias {
                Some(bias) if self.nhwc() => {
                    values.iter_mut().zip(&bias[channel..]).for_each(|(v, b)| *v += b);
                }
                Some(bias) => values.iter_mut().for_each(|v| *v += bias[channel + row]),
                None => {}
            }
            if let Some(map) = self.activation {
                activate(self.isa, map, values);
            }
        }
    }

    /// Writes the taps of `count` output pixels: [tap][pixel] for nchw, [pixel][tap] for nhwc.
    fn unfold_band(
        &self,
        input: &[f32],
        image: usize,
        group: usize,
        first: usize,
        count: usize,
        matrix: &mut [f32],
    ) {
        let ConvSizes { ic, ih, iw, kh, kw, ow, .. } = self.sizes;
        let inputs = self.group_inputs();
        let [top, _, left, _] = self.options.padding.map(|p| p as usize);
        let [sh, sw] = self.options.strides.map(|s| s as usize);
        let [dh, dw] = self.options.dilations.map(|d| d as usize);
        if self.taps() == 0 {
            return; // no input channels, and so nothing to write
        }
        if self.nhwc() {
            let base = image * ih * iw * ic + group * inputs;
            for (pixel, row) in matrix.chunks_exact_mut(self.taps()).take(count).enumerate() {
                let (oy, ox) = ((first + pixel) / ow, (first + pixel) % ow);
                for (tap, target) in row.chunks_exact_mut(inputs).enumerate() {
                    let y = (oy * sh + tap / kw * dh).wrapping_sub(top);
                    let x = (ox * sw + tap % kw * dw).wrapping_sub(left);
                    if y < ih && x < iw {
                        target.copy_from_slice(&input[base + (y * iw + x) * ic..][..inputs]);
                    } else {
                        target.fill(0.0);
                    }
                }
            }
            return;
        }
        for (tap, row) in matrix.chunks_exact_mut(count).take(self.taps()).enumerate() {
            let (i, ky, kx) = (tap / (kh * kw), tap / kw % kh, tap % kw);
            let plane = &input[(image * ic + group * inputs + i) * ih * iw..][..ih * iw];
            let mut done = 0;
            while done < count {
                let (oy, ox) = ((first + done) / ow, (first + done) % ow);
                let run = (ow - ox).min(count - done);
                let target = &mut row[done..done + run];
                let y = (oy * sh + ky * dh).wrapping_sub(top);
                if y < ih {
                    unfold_row(&plane[y * iw..][..iw], ox * sw + kx * dw, sw, left, target);
                } else {
                    target.fill(0.0);
                }
                done += run;
            }
        }
    }
}

/// target[i] = row[start + i * step - left], 0 beyond the row.
pub(crate) fn unfold_row(row: &[f32], start: usize, step: usize, left: usize, target: &mut [f32]) {
    let before = left.saturating_sub(start).div_ceil(step).min(target.len());
    let from = start + before * step;
    let within = (row.len() + left).saturating_sub(from).div_ceil(step).min(target.len() - before);
    target[..before].fill(0.0);
    target[before + within..].fill(0.0);
    let target = &mut target[before..before + within];
    if target.is_empty() {
        return;
    }
    let source = &row[from - left..];
    if step == 1 {
        target.copy_from_slice(&source[..within]);
    } else {
        target.iter_mut().zip(source.iter().step_by(step)).for_each(|(t, s)| *t = *s);
    }
}

/// The tile of output channels that channel `within` of a group belongs to: (start, width).
pub(crate) fn tile_of(within: usize, group_outputs: usize) -> (usize, usize) {
    let whole = group_outputs / OC_TILE * OC_TILE;
    if within < whole {
        return (within / OC_TILE * OC_TILE, OC_TILE);
    }
    let mut start = whole;
    let mut width = OC_TILE / 2;
    loop {
        if group_outputs - start >= width {
            if within < start + width {
                return (start, width);
            }
            start += width;
        }
        width = (width / 2).max(1);
    }
}

/// Applies a map in place, through a short copy.
pub(crate) fn activate(isa: Isa, map: FloatMap, values: &mut [f32]) {
    let mut copy = [0f32; 512];
    for piece in values.chunks_mut(512) {
        let source = &mut copy[..piece.len()];
        source.copy_from_slice(piece);
        block::map_f32(isa, map, source, piece);
    }
}
