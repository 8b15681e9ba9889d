//! Transposed convolution: for each band of input pixels one product gives every pixel's share of
//! every output it touches; the shares are added up in place. A task has output channels of its
//! own, so that no two add to one element.

use crate::buffer::capacity_for;
use crate::cpu::context::{Context, Shared};
use crate::cpu::conv::Operands;
use crate::cpu::packed::{Product, Right, Strides};
use crate::op::{ConvTranspose2d, InputLayout, TransposeFilterLayout};
use crate::rules::ConvTransposeSizes;

/// Bytes of shares that one product makes: half of a usual second-level cache.
const BAND_BYTES: usize = 512 << 10;

/// A planned transposed convolution.
#[derive(Debug, Clone)]
pub(crate) struct ConvTranspose {
    pub sizes: ConvTransposeSizes,
    pub options: ConvTranspose2d,
    /// Input pixels of one product.
    band: usize,
    /// Output channels of one task.
    tile: usize,
    /// Tasks that run side by side, each with scratch of its own.
    lanes: usize,
}

impl ConvTranspose {
    /// Plans for so many threads.
    pub fn new(sizes: ConvTransposeSizes, options: ConvTranspose2d, threads: usize) -> ConvTranspose {
        let taps = (sizes.kh * sizes.kw).max(1);
        let outputs = (sizes.oc / options.groups as usize).max(1);
        let room = BAND_BYTES / 4;
        let band = (room / taps / 8).clamp(1, (sizes.ih * sizes.iw).max(1));
        let tile = (room / taps / band).clamp(1, outputs.div_ceil(threads.max(1)).max(1));
        let tasks = sizes.n * options.groups as usize * outputs.div_ceil(tile);
        ConvTranspose { sizes, options, band, tile, lanes: threads.min(tasks).max(1) }
    }

    fn groups(&self) -> usize {
        self.options.groups as usize
    }

    /// Products that make an input pixel's share of one output channel.
    pub fn taps(&self) -> usize {
        self.sizes.kh * self.sizes.kw * (self.sizes.ic / self.groups())
    }

    /// Elements of the arranged filter.
    pub fn packed(&self) -> usize {
        self.sizes.oc * self.taps()
    }

    /// Elements of scratch memory.
    pub fn workspace(&self) -> usize {
        self.lanes * self.lane()
    }

    fn lane(&self) -> usize {
        capacity_for(self.band * self.tile * self.sizes.kh * self.sizes.kw * 4) / 4
    }

    /// Says how filters are arranged; equal parameters mean equal arrangements.
    pub fn packing(&self) -> [usize; 4] {
        [4, self.groups(), self.options.filter_layout as usize, 0]
    }

    /// Arranges a filter: [output channel][row][column][input channel of the group].
    pub fn pack(&self, filter: &[f32], packed: &mut [f32]) {
        let ConvTransposeSizes { ic, oc, kh, kw, .. } = self.sizes;
        let (inputs, outputs) = (ic / self.groups(), oc / self.groups());
        let [si, so, sh, sw] = match self.options.filter_layout {
            TransposeFilterLayout::Iohw => [outputs * kh * kw, kh * kw, kw, 1],
            TransposeFilterLayout::Hwoi => [1, ic, kw * outputs * ic, outputs * ic],
            TransposeFilterLayout::Ohwi => [1, kh * kw * ic, kw * ic, ic],
        };
        let mut at = 0;
        for o in 0..oc {
            let (group, within) = (o / outputs, o % outputs);
            for y in 0..kh {
                for x in 0..kw {
                    for i in 0..inputs {
                        packed[at] = filter[(group * inputs + i) * si + within * so + y * sh + x * sw];
                        at += 1;
                    }
                }
            }
        }
    }

    /// Computes the output.
    pub fn run(&self, context: &Context<'_>, operands: Operands<'_>) {
        let Operands { input, filter, bias, output, scratch } = operands;
        if output.is_empty() {
            return;
        }
        let outputs = self.sizes.oc / self.groups();
        let tiles = outputs.div_ceil(self.tile);
        let items = self.sizes.n * self.groups() * tiles;
        let lane_size = self.lane();
        let lanes = self.lanes.min(items);
        let results = Shared::new(output);
        let scratches = Shared::new(scratch);
        context.for_each(lanes, |lane| {
            // SAFETY: each lane has its own scratch.
            #[allow(unsafe_code)]
            let scratch = unsafe { scratches.piece(lane * lane_size, lane_size) };
            for item in (lane..items).step_by(lanes) {
                let (image, group) = (item / tiles / self.groups(), item / tiles % self.groups());
                let first = item % tiles * self.tile;
                let channels = group * outputs + first..group * outputs + outputs.min(first + self.tile);
                self.start(image, channels.clone(), bias, &results);
                if self.taps() == 0 {
                    continue; // an empty sum
                }
                let pixels = self.sizes.ih * self.sizes.iw;
                for from in (0..pixels).step_by(self.band) {
                    if context.cancelled() {
                        return;
                    }
                    let to = pixels.min(from + self.band);
                    self.shares(context, input, filter, image, group, channels.clone(), from..to, scratch);
                    self.add(image, channels.clone(), from..to, scratch, &results);
                }
            }
        });
    }

    /// Offset of the first element of a channel's row, and elements between columns.
    fn row(&self, image: usize, channel: usize, y: usize) -> (usize, usize) {
        let ConvTransposeSizes { oc, oh, ow, .. } = self.sizes;
        match self.options.input_layout {
            InputLayout::Nchw => (((image * oc + channel) * oh + y) * ow, 1),
            InputLayout::Nhwc => ((image * oh + y) * ow * oc + channel, oc),
        }
    }

    fn start(
        &self,
        image: usize,
        channels: std::ops::Range<usize>,
        bias: Option<&[f32]>,
        results: &Shared<f32>,
    ) {
        for channel in channels {
            let value = bias.map_or(0.0, |b| b[channel]);
            for y in 0..self.sizes.oh {
                let (row, step) = self.row(image, channel, y);
                for x in 0..self.sizes.ow {
                    // SAFETY: an element of a channel that only this task writes.
                    #[allow(unsafe_code)]
                    unsafe {
                        results.piece(row + x * step, 1)[0] = value;
                    }
                }
            }
        }
    }

    /// shares[(channel, row, column)][pixel] of the pixels.
    #[allow(clippy::too_many_arguments)] // coordinates of one piece of work
    fn shares(
        &self,
        context: &Context<'_>,
        input: &[f32],
        filter: &[f32],
        image: usize,
        group: usize,
        channels: std::ops::Range<usize>,
        pixels: std::ops::Range<usize>,
        scratch: &mut [f32],
    ) {
        let ConvTransposeSizes { ic, ih, iw, kh, kw, .. } = self.sizes;
        let inputs = ic / self.groups();
        let (start, b) = match self.options.input_layout {
            InputLayout::Nchw => {
                ((image * ic + group * inputs) * ih * iw + pixels.start, Strides { row: ih * iw, column: 1 })
            }
            InputLayout::Nhwc => {
                ((image * ih * iw + pixels.start) * ic + group * inputs, Strides { row: 1, column: ic })
            }
        };
        let (m, n) = (channels.len() * kh * kw, pixels.len());
        let product = Product {
            m,
            n,
            k: inputs,
            a: Strides { row: inputs, column: 1 },
            b,
            target_row: n,
            keep: false,
            scale: 1.0,
        };
        let a = &filter[channels.start * self.taps()..];
        let target = &mut scratch[..m * n];
        product.run(context, a, Right::Matrix(&input[start..]), target);
    }

    fn add(
        &self,
        image: usize,
        channels: std::ops::Range<usize>,
        pixels: std::ops::Range<usize>,
        shares: &[f32],
        results: &Shared<f32>,
    ) {
        let ConvTransposeSizes { iw, kh, kw, oh, ow, .. } = self.sizes;
        let [top, _, left, _] = self.options.padding.map(|p| p as usize);
        let [sh, sw] = self.options.strides.map(|s| s as usize);
        let [dh, dw] = self.options.dilations.map(|d| d as usize);
        let n = pixels.len();
        for (at, channel) in channels.enumerate() {
            for tap in 0..kh * kw {
                let (ky, kx) = (tap / kw * dh, tap % kw * dw);
                let shares = &shares[(at * kh * kw + tap) * n..][..n];
                let mut pixel = pixels.start;
                while pixel < pixels.end {
                    let (iy, ix) = (pixel / iw, pixel % iw);
                    let run = (iw - ix).min(pixels.end - pixel);
                    let shares = &shares[pixel - pixels.start..][..run];
                    pixel += run;
                    let y = (iy * sh + ky).wrapping_sub(top);
                    if y >= oh {
                        continue;
                    }
                    let (row, step) = self.row(image, channel, y);
                    for (i, &share) in shares.iter().enumerate() {
                        let x = ((ix + i) * sw + kx).wrapping_sub(left);
                        if x < ow {
                            // SAFETY: an element of a channel that only this task writes.
                            #[allow(unsafe_code)]
                            unsafe {
                                results.piece(row + x * step, 1)[0] += share;
                            }
                        }
                    }
                }
            }
        }
    }
}
