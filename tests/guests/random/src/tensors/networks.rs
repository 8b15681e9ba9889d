//! The operations of networks, whose operands must fit each other in many ways.

use super::{DataType, Tensor, Tensors, float, layout, t};
use crate::dice::Dice;
use crate::tally::Tally;

impl Tensors {
    pub(super) fn normalize(&mut self, dice: &mut Dice, tally: &mut Tally) {
        let (fits, data_type, epsilon) = (dice.flag(), float(dice), dice.number());
        let shape: Vec<u32> = (0..4).map(|_| dice.below(5) as u32).collect();
        let a = self.fitting(fits, data_type, &shape, dice, tally);
        let layout = layout(dice);
        let (which, axis) = (dice.below(3), if fits { dice.below(4) as u32 } else { dice.size() });
        let one = match which {
            0 => [shape.get(axis as usize).copied().unwrap_or(1)].to_vec(),
            1 => [shape[if layout == t::InputOperandLayout::Nchw { 1 } else { 3 }]].to_vec(),
            _ => shape[1..].to_vec(),
        };
        let made: Vec<usize> = (0..4).map(|_| self.fitting(fits, data_type, &one, dice, tally)).collect();
        let scale = dice.optional(|_| made[0]).map(|i| &self.known[i]);
        let bias = dice.optional(|_| made[1]).map(|i| &self.known[i]);
        let x = &self.known[a];
        let (name, made) = match which {
            0 => {
                let options = t::BatchNormalizationOptions { scale, bias, axis, epsilon };
                let (mean, variance) = (&self.known[made[2]], &self.known[made[3]]);
                ("batch-normalization", t::batch_normalization(x, mean, variance, &options))
            }
            1 => {
                let options = t::InstanceNormalizationOptions { scale, bias, epsilon, layout };
                ("instance-normalization", t::instance_normalization(x, &options))
            }
            _ => {
                let axes = if fits { None } else { dice.optional(|d| d.sizes(4)) };
                let options = t::LayerNormalizationOptions { scale, bias, axes, epsilon };
                ("layer-normalization", t::layer_normalization(x, &options))
            }
        };
        self.made(name, made, tally);
    }

    pub(super) fn convolve(&mut self, dice: &mut Dice, tally: &mut Tally) {
        let (fits, data_type) = (dice.below(4) > 0, float(dice));
        let (n, c, o) = (1 + dice.below(2) as u32, 1 + dice.below(4) as u32, 1 + dice.below(4) as u32);
        let (h, w) = (1 + dice.below(9) as u32, 1 + dice.below(9) as u32);
        let (kh, kw) = (1 + dice.below(3) as u32, 1 + dice.below(3) as u32);
        let x = self.fitting(fits, data_type, &[n, c, h, w], dice, tally);
        let transposed = dice.one_in(3);
        let kernel = if transposed { [c, o, kh, kw] } else { [o, c, kh, kw] };
        let filter = self.fitting(fits, data_type, &kernel, dice, tally);
        let bias = self.fitting(fits, data_type, &[o], dice, tally);
        let bias = dice.optional(|_| bias).map(|i| &self.known[i]);
        let small = |dice: &mut Dice, count: usize, least: u32| {
            let plain = !dice.one_in(4);
            let list = |d: &mut Dice| match plain {
                true => (0..count).map(|_| least + d.below(3) as u32).collect(),
                false => d.some_sizes(count),
            };
            dice.optional(list)
        };
        let (padding, strides, dilations) = (small(dice, 4, 0), small(dice, 2, 1), small(dice, 2, 1));
        let groups = if dice.one_in(6) { dice.size() } else { 1 };
        let plain = fits && !dice.one_in(4);
        let input_layout = if plain { t::InputOperandLayout::Nchw } else { layout(dice) };
        let (x, filter) = (&self.known[x], &self.known[filter]);
        let (name, made) = if transposed {
            use t::ConvTranspose2dFilterOperandLayout::{Hwoi, Iohw, Ohwi};
            let filter_layout = if plain { Iohw } else { dice.pick(&[Iohw, Hwoi, Ohwi]) };
            let (output_padding, sizes) = (dice.one_in(5), dice.one_in(6));
            let options = t::ConvTranspose2dOptions {
                bias,
                padding,
                strides,
                dilations,
                output_padding: if output_padding { Some(dice.some_sizes(2)) } else { None },
                output_sizes: if sizes { Some(dice.some_sizes(2)) } else { None },
                groups,
                input_layout,
                filter_layout,
            };
            ("conv-transpose2d", t::conv_transpose2d(x, filter, &options))
        } else {
            use t::Conv2dFilterOperandLayout::{Hwio, Ihwo, Ohwi, Oihw};
            let filter_layout = if plain { Oihw } else { dice.pick(&[Oihw, Hwio, Ohwi, Ihwo]) };
            let options =
                t::Conv2dOptions { bias, padding, strides, dilations, groups, input_layout, filter_layout };
            ("conv2d", t::conv2d(x, filter, &options))
        };
        self.made(name, made, tally);
    }

    pub(super) fn pool(&mut self, dice: &mut Dice, tally: &mut Tally) {
        let (fits, data_type) = (dice.below(4) > 0, float(dice));
        let shape: Vec<u32> = (0..4).map(|_| 1 + dice.below(8) as u32).collect();
        let a = self.fitting(fits, data_type, &shape, dice, tally);
        let x = &self.known[a];
        if dice.one_in(3) {
            let modes = [t::InterpolationMode::NearestNeighbor, t::InterpolationMode::Linear];
            let options = t::Resample2dOptions {
                mode: dice.pick(&modes),
                scales: dice.optional(|d| {
                    let plain = d.flag();
                    (0..2).map(|_| if plain { 0.5 + d.below(4) as f32 } else { d.number() as f32 }).collect()
                }),
                sizes: dice.optional(|d| d.some_sizes(2)),
                axes: if dice.one_in(3) { Some(dice.some_sizes(2)) } else { None },
            };
            let made = t::resample2d(x, &options);
            return self.made("resample2d", made, tally);
        }
        let plain = !dice.one_in(4);
        let few = |dice: &mut Dice, count: usize, least: u32| {
            dice.optional(|d| match plain {
                true => (0..count).map(|_| least + d.below(2) as u32).collect(),
                false => d.some_sizes(count),
            })
        };
        let options = t::Pool2dOptions {
            window_dimensions: few(dice, 2, 1),
            padding: few(dice, 4, 0),
            strides: few(dice, 2, 1),
            dilations: few(dice, 2, 1),
            layout: layout(dice),
            output_shape_rounding: dice.pick(&[t::RoundingType::Floor, t::RoundingType::Ceil]),
            output_sizes: if dice.one_in(6) { Some(dice.some_sizes(2)) } else { None },
        };
        let (name, made) = match dice.below(3) {
            0 => ("average-pool2d", t::average_pool2d(x, &options)),
            1 => ("l2-pool2d", t::l2_pool2d(x, &options)),
            _ => ("max-pool2d", t::max_pool2d(x, &options)),
        };
        self.made(name, made, tally);
    }

    pub(super) fn gemm(&mut self, dice: &mut Dice, tally: &mut Tally) {
        let (fits, data_type) = (dice.below(4) > 0, float(dice));
        let (m, k, n) = (dice.below(9) as u32, dice.below(9) as u32, dice.below(9) as u32);
        let (a_transpose, b_transpose) = (dice.flag(), dice.flag());
        let a = self.fitting(fits, data_type, &if a_transpose { [k, m] } else { [m, k] }, dice, tally);
        let b = self.fitting(fits, data_type, &if b_transpose { [n, k] } else { [k, n] }, dice, tally);
        let c = self.fitting(fits, data_type, &[n], dice, tally);
        let options = t::GemmOptions {
            c: dice.optional(|_| c).map(|i| &self.known[i]),
            alpha: dice.number(),
            beta: dice.number(),
            a_transpose,
            b_transpose,
        };
        let made = t::gemm(&self.known[a], &self.known[b], &options);
        self.made("gemm", made, tally);
    }

    pub(super) fn quantize(&mut self, dice: &mut Dice, tally: &mut Tally) {
        let (fits, data_type) = (dice.below(4) > 0, float(dice));
        let small = dice.pick(&[DataType::Int8, DataType::Uint8, DataType::Int32, DataType::Uint32]);
        let shape: Vec<u32> = (0..3).map(|_| 2 * dice.below(4) as u32).collect();
        let blocks: Vec<u32> = shape.iter().map(|d| if dice.flag() { *d } else { 1 }).collect();
        let scale = self.fitting(fits, data_type, &blocks, dice, tally);
        let zero = self.fitting(fits, small, &blocks, dice, tally);
        let forward = dice.flag();
        let x = self.fitting(fits, if forward { data_type } else { small }, &shape, dice, tally);
        let (x, scale, zero) = (&self.known[x], &self.known[scale], &self.known[zero]);
        let (name, made) = match forward {
            true => ("quantize-linear", t::quantize_linear(x, scale, zero)),
            false => ("dequantize-linear", t::dequantize_linear(x, scale, zero)),
        };
        self.made(name, made, tally);
    }

    pub(super) fn recurrent(&mut self, dice: &mut Dice, tally: &mut Tally) {
        use t::RecurrentNetworkActivation::{Relu, Sigmoid, Tanh};
        use t::RecurrentNetworkDirection::{Backward, Both, Forward};
        let (fits, data_type) = (dice.below(4) > 0, float(dice));
        let direction = dice.pick(&[Forward, Backward, Both]);
        let d = if direction == Both { 2 } else { 1 };
        let (steps, h) = match fits {
            true => (1 + dice.below(5) as u32, 1 + dice.below(5) as u32),
            false => (dice.size(), dice.size()),
        };
        let (kind, which) = (dice.below(4), dice.flag());
        let (network, gates) = (kind % 2 == 1, if kind < 2 { 3 } else { 4 });
        let lead = |rest: &[u32]| if network { [&[d], rest].concat() } else { rest.to_vec() };
        let g = h.min(64) * gates;
        let shapes = [
            if network { vec![steps, 2, 3] } else { vec![2, 3] },
            lead(&[g, 3]),
            lead(&[g, h]),
            lead(&[2, h]),
            lead(&[2, h]),
            lead(&[g]),
            lead(&[g]),
            lead(&[h.min(64) * 3]),
        ];
        let of: Vec<usize> =
            shapes.iter().map(|shape| self.fitting(fits, data_type, shape, dice, tally)).collect();
        let given: Vec<Option<&Tensor>> =
            of.iter().map(|i| dice.optional(|_| *i).map(|i| &self.known[i])).collect();
        let [x, weight, recurrent, hidden, cell] = [0, 1, 2, 3, 4].map(|n| &self.known[of[n]]);
        let activations = |dice: &mut Dice, count: usize| {
            let count = if dice.one_in(10) { dice.below(5) } else { count };
            dice.optional(|d| (0..count).map(|_| d.pick(&[Relu, Sigmoid, Tanh])).collect::<Vec<_>>())
        };
        let gru_layout = if which { t::GruWeightLayout::Zrn } else { t::GruWeightLayout::Rzn };
        let lstm_layout = if which { t::LstmWeightLayout::Iofg } else { t::LstmWeightLayout::Ifgo };
        match kind {
            0 => {
                let options = t::GruCellOptions {
                    bias: given[5],
                    recurrent_bias: given[6],
                    reset_after: dice.flag(),
                    layout: gru_layout,
                    activations: activations(dice, 2),
                };
                let made = t::gru_cell(x, weight, recurrent, hidden, h, &options);
                self.made("gru-cell", made, tally);
            }
            1 => {
                let options = t::GruOptions {
                    bias: given[5],
                    recurrent_bias: given[6],
                    initial_hidden_state: given[3],
                    reset_after: dice.flag(),
                    return_sequence: dice.flag(),
                    direction,
                    layout: gru_layout,
                    activations: activations(dice, 2),
                };
                let made = t::gru(x, weight, recurrent, steps, h, &options);
                self.several("gru", made, tally);
            }
            2 => {
                let options = t::LstmCellOptions {
                    bias: given[5],
                    recurrent_bias: given[6],
                    peephole_weight: given[7],
                    layout: lstm_layout,
                    activations: activations(dice, 3),
                };
                let made = t::lstm_cell(x, weight, recurrent, hidden, cell, h, &options);
                self.several("lstm-cell", made, tally);
            }
            _ => {
                let options = t::LstmOptions {
                    bias: given[5],
                    recurrent_bias: given[6],
                    peephole_weight: given[7],
                    initial_hidden_state: given[3],
                    initial_cell_state: given[4],
                    return_sequence: dice.flag(),
                    direction,
                    layout: lstm_layout,
                    activations: activations(dice, 3),
                };
                let made = t::lstm(x, weight, recurrent, steps, h, &options);
                self.several("lstm", made, tally);
            }
        }
    }
}
