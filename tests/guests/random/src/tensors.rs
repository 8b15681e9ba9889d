//! Every operation of the tensor interface, half of the time on operands that were made to fit.

use warren_sdk::bindings::warren::plugin::tensors as t;
use warren_sdk::bindings::warren::plugin::tensors::{DataType, Error, Tensor};

use crate::dice::Dice;
use crate::tally::Tally;

type Made = Result<Tensor, Error>;

pub struct Tensors {
    known: Vec<Tensor>,
    most: usize,
}

const TYPES: [DataType; 8] = [
    DataType::Float32,
    DataType::Float16,
    DataType::Int32,
    DataType::Uint32,
    DataType::Int64,
    DataType::Uint64,
    DataType::Int8,
    DataType::Uint8,
];

const UNARY: [(&str, fn(&Tensor) -> Made); 25] = [
    ("abs", t::abs),
    ("ceil", t::ceil),
    ("cos", t::cos),
    ("erf", t::erf),
    ("exp", t::exp),
    ("floor", t::floor),
    ("identity", t::identity),
    ("log", t::log),
    ("neg", t::neg),
    ("reciprocal", t::reciprocal),
    ("round-even", t::round_even),
    ("sign", t::sign),
    ("sin", t::sin),
    ("sqrt", t::sqrt),
    ("tan", t::tan),
    ("relu", t::relu),
    ("sigmoid", t::sigmoid),
    ("tanh", t::tanh),
    ("softplus", t::softplus),
    ("softsign", t::softsign),
    ("gelu", t::gelu),
    ("hard-swish", t::hard_swish),
    ("logical-not", t::logical_not),
    ("is-nan", t::is_nan),
    ("is-infinite", t::is_infinite),
];

const BINARY: [(&str, fn(&Tensor, &Tensor) -> Made); 18] = [
    ("add", t::add),
    ("sub", t::sub),
    ("mul", t::mul),
    ("div", t::div),
    ("max", t::max),
    ("min", t::min),
    ("pow", t::pow),
    ("equal", t::equal),
    ("not-equal", t::not_equal),
    ("greater", t::greater),
    ("greater-or-equal", t::greater_or_equal),
    ("lesser", t::lesser),
    ("lesser-or-equal", t::lesser_or_equal),
    ("logical-and", t::logical_and),
    ("logical-or", t::logical_or),
    ("logical-xor", t::logical_xor),
    ("matmul", t::matmul),
    ("prelu", t::prelu),
];

type Reduction = fn(&Tensor, Option<&[u32]>, bool) -> Made;

const REDUCTIONS: [(&str, Reduction); 10] = [
    ("reduce-l1", t::reduce_l1),
    ("reduce-l2", t::reduce_l2),
    ("reduce-log-sum", t::reduce_log_sum),
    ("reduce-log-sum-exp", t::reduce_log_sum_exp),
    ("reduce-max", t::reduce_max),
    ("reduce-mean", t::reduce_mean),
    ("reduce-min", t::reduce_min),
    ("reduce-product", t::reduce_product),
    ("reduce-sum", t::reduce_sum),
    ("reduce-sum-square", t::reduce_sum_square),
];

fn element_size(data_type: DataType) -> u64 {
    match data_type {
        DataType::Int8 | DataType::Uint8 => 1,
        DataType::Float16 => 2,
        DataType::Float32 | DataType::Int32 | DataType::Uint32 => 4,
        DataType::Int64 | DataType::Uint64 => 8,
    }
}

fn layout(dice: &mut Dice) -> t::InputOperandLayout {
    dice.pick(&[t::InputOperandLayout::Nchw, t::InputOperandLayout::Nhwc])
}

fn float(dice: &mut Dice) -> DataType {
    dice.pick(&[DataType::Float32, DataType::Float32, DataType::Float16])
}

impl Tensors {
    pub fn new(most: usize) -> Self {
        Self { known: Vec::new(), most: most.max(4) }
    }

    pub fn at(&self, index: usize) -> &Tensor {
        &self.known[index]
    }

    pub fn keep(&mut self, tensor: Tensor) -> usize {
        self.known.push(tensor);
        self.known.len() - 1
    }

    /// One of those there are, the latest the likeliest.
    pub fn any(&mut self, dice: &mut Dice, tally: &mut Tally) -> usize {
        if self.known.is_empty() {
            return self.constant(DataType::Float32, &[2, 3], dice, tally);
        }
        let count = self.known.len();
        let back = if dice.flag() { dice.below(count.min(8)) } else { dice.below(count) };
        count - 1 - back
    }

    /// A small one, which always can be had, or in its stead whatever there is.
    fn constant(&mut self, data_type: DataType, shape: &[u32], dice: &mut Dice, tally: &mut Tally) -> usize {
        let count = shape.iter().try_fold(1u64, |n, d| n.checked_mul(u64::from(*d)));
        let bytes = count.and_then(|n| n.checked_mul(element_size(data_type))).filter(|n| *n < 1 << 18);
        // Small whole numbers and sensible floats, or anything.
        let data = match (bytes, dice.below(4)) {
            (None, _) => dice.bytes(64),
            (Some(length), 0) => dice.bytes(length as usize),
            (Some(length), _) => {
                let pattern: &[u8] = match data_type {
                    DataType::Float32 => &[0, 0, 128, 63, 0, 0, 0, 191, 0, 0, 64, 64],
                    DataType::Float16 => &[0, 60, 0, 184, 0, 66],
                    DataType::Int32 | DataType::Uint32 => &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0],
                    DataType::Int64 | DataType::Uint64 => &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                    DataType::Int8 | DataType::Uint8 => &[1, 0, 2],
                };
                pattern.iter().copied().cycle().take(length as usize).collect()
            }
        };
        match tally.answer("constant", t::constant(data_type, shape, &data)) {
            Some(made) => self.keep(made),
            // There is no memory left, or too large a shape was asked for.
            None if self.known.is_empty() => {
                let made = t::fill(DataType::Float32, &[0], 0.0);
                self.keep(tally.answer("fill", made).expect("it takes no memory"))
            }
            None => dice.below(self.known.len()),
        }
    }

    fn shape_of(&self, index: usize, tally: &mut Tally) -> Vec<u32> {
        tally.done("tensor.shape");
        self.known[index].shape()
    }

    fn type_of(&self, index: usize, tally: &mut Tally) -> DataType {
        tally.done("tensor.data-type");
        self.known[index].data_type()
    }

    /// Of the same type and shape.
    fn like(&mut self, index: usize, dice: &mut Dice, tally: &mut Tally) -> usize {
        let (shape, data_type) = (self.shape_of(index, tally), self.type_of(index, tally));
        self.constant(data_type, &shape, dice, tally)
    }

    fn fresh(&mut self, data_type: DataType, dice: &mut Dice, tally: &mut Tally) -> usize {
        let shape = dice.shape();
        self.constant(data_type, &shape, dice, tally)
    }

    /// Of this type and shape, or whatever there is.
    fn fitting(
        &mut self,
        fits: bool,
        data_type: DataType,
        shape: &[u32],
        dice: &mut Dice,
        tally: &mut Tally,
    ) -> usize {
        if fits { self.constant(data_type, shape, dice, tally) } else { self.any(dice, tally) }
    }

    fn made(&mut self, call: &'static str, made: Made, tally: &mut Tally) {
        if let Some(tensor) = tally.answer(call, made) {
            self.keep(tensor);
        }
    }

    fn several(&mut self, call: &'static str, made: Result<Vec<Tensor>, Error>, tally: &mut Tally) {
        self.known.extend(tally.answer(call, made).unwrap_or_default());
    }

    /// Takes one out that has been computed.
    pub fn computed(&mut self, index: usize, tally: &mut Tally) -> Option<Tensor> {
        let made = t::dispatch(&[&self.known[index]]);
        tally.answer("dispatch", made)?;
        Some(self.known.swap_remove(index))
    }

    fn drop_some(&mut self, dice: &mut Dice, tally: &mut Tally) {
        let left = if dice.one_in(30) { 0 } else { self.most / 2 };
        while self.known.len() > left {
            let index = dice.below(self.known.len());
            drop(self.known.swap_remove(index));
            tally.done("tensor.drop");
        }
    }

    /// One operation, and the calls that make operands for it.
    pub fn step(&mut self, dice: &mut Dice, tally: &mut Tally) {
        if self.known.len() > self.most {
            self.drop_some(dice, tally);
        }
        match dice.below(72) {
            0..=4 => {
                let data_type = if dice.flag() { DataType::Float32 } else { dice.pick(&TYPES) };
                let shape = if dice.one_in(8) { dice.sizes(8) } else { dice.shape() };
                self.constant(data_type, &shape, dice, tally);
            }
            5 => {
                // Large ones among them, of which a few are all that a job may hold.
                let shape = match dice.below(4) {
                    0 => vec![256, dice.pick(&[64, 256, 1024, 4096])],
                    1 => dice.sizes(8),
                    _ => dice.shape(),
                };
                let made = t::fill(dice.pick(&TYPES), &shape, dice.number());
                self.made("fill", made, tally);
            }
            6 => {
                let outputs: Vec<usize> = (0..dice.below(6)).map(|_| self.any(dice, tally)).collect();
                let outputs: Vec<&Tensor> = outputs.iter().map(|i| &self.known[*i]).collect();
                tally.answer("dispatch", t::dispatch(&outputs));
            }
            7 | 8 => {
                let index = self.any(dice, tally);
                tally.answer("tensor.read", self.known[index].read());
            }
            9 => {
                let index = self.any(dice, tally);
                drop(self.known.swap_remove(index));
                tally.done("tensor.drop");
            }
            10 => {
                let index = self.any(dice, tally);
                self.shape_of(index, tally);
                self.type_of(index, tally);
            }
            11..=16 => {
                let (name, operation) = dice.pick(&UNARY);
                let a = match name {
                    "logical-not" => self.fresh(DataType::Uint8, dice, tally),
                    _ if dice.flag() => self.fresh(float(dice), dice, tally),
                    _ => self.any(dice, tally),
                };
                let made = operation(&self.known[a]);
                self.made(name, made, tally);
            }
            17..=23 => {
                let (name, operation) = dice.pick(&BINARY);
                let a = match name {
                    "logical-and" | "logical-or" | "logical-xor" => self.fresh(DataType::Uint8, dice, tally),
                    "matmul" if dice.flag() => self.fitting(true, DataType::Float32, &[2, 3, 3], dice, tally),
                    _ => self.any(dice, tally),
                };
                let b = if dice.below(4) > 0 { self.like(a, dice, tally) } else { self.any(dice, tally) };
                let made = operation(&self.known[a], &self.known[b]);
                self.made(name, made, tally);
            }
            24..=28 => self.attributes(dice, tally),
            29..=35 => self.movement(dice, tally),
            36..=41 => self.places(dice, tally),
            42..=44 => {
                let (name, operation) = dice.pick(&REDUCTIONS);
                let a =
                    if dice.flag() { self.fresh(float(dice), dice, tally) } else { self.any(dice, tally) };
                let axes = dice.optional(|d| d.sizes(3));
                let made = operation(&self.known[a], axes.as_deref(), dice.flag());
                self.made(name, made, tally);
            }
            45..=47 => self.along(dice, tally),
            48..=50 => self.normalize(dice, tally),
            51..=54 => self.convolve(dice, tally),
            55..=57 => self.pool(dice, tally),
            58 | 59 => self.gemm(dice, tally),
            60 => self.quantize(dice, tally),
            61..=63 => self.recurrent(dice, tally),
            _ => {
                let index = self.any(dice, tally);
                tally.answer("tensor.read", self.known[index].read());
            }
        }
    }

    fn attributes(&mut self, dice: &mut Dice, tally: &mut Tally) {
        let a = if dice.flag() { self.fresh(float(dice), dice, tally) } else { self.any(dice, tally) };
        let (name, made) = match dice.below(7) {
            0 => {
                let (low, high) = (dice.optional(Dice::number), dice.optional(Dice::number));
                ("clamp", t::clamp(&self.known[a], low, high))
            }
            1 => ("elu", t::elu(&self.known[a], dice.number())),
            2 => ("leaky-relu", t::leaky_relu(&self.known[a], dice.number())),
            3 => ("hard-sigmoid", t::hard_sigmoid(&self.known[a], dice.number(), dice.number())),
            4 => ("linear", t::linear(&self.known[a], dice.number(), dice.number())),
            5 => ("cast", t::cast(&self.known[a], dice.pick(&TYPES))),
            _ => {
                let shape = self.shape_of(a, tally);
                let fits = dice.below(4) > 0;
                let condition = self.fitting(fits, DataType::Uint8, &shape, dice, tally);
                let b = self.like(a, dice, tally);
                ("where", t::where_(&self.known[condition], &self.known[a], &self.known[b]))
            }
        };
        self.made(name, made, tally);
    }

    fn movement(&mut self, dice: &mut Dice, tally: &mut Tally) {
        let a = self.any(dice, tally);
        let shape = self.shape_of(a, tally);
        let rank = shape.len();
        let fits = dice.flag();
        let (name, made) = match dice.below(10) {
            0 => {
                let new = match fits {
                    true => vec![shape.iter().fold(1u32, |n, d| n.wrapping_mul(*d))],
                    false => dice.sizes(8),
                };
                ("reshape", t::reshape(&self.known[a], &new))
            }
            1 => {
                let permutation: Vec<u32> = match fits {
                    true => (0..rank as u32).rev().collect(),
                    false => dice.some_sizes(rank),
                };
                let permutation = dice.optional(|_| permutation);
                ("transpose", t::transpose(&self.known[a], permutation.as_deref()))
            }
            2 => {
                let mut new = shape.clone();
                new.insert(0, dice.size());
                ("expand", t::expand(&self.known[a], if fits { &new } else { &shape[rank / 2..] }))
            }
            3 => {
                let (starts, sizes, strides) = match fits {
                    true => (
                        vec![0; rank],
                        shape.clone(),
                        dice.optional(|d| (0..rank).map(|_| 1 + d.below(4) as u32).collect()),
                    ),
                    false => {
                        (dice.some_sizes(rank), dice.some_sizes(rank), dice.optional(|d| d.some_sizes(rank)))
                    }
                };
                ("slice", t::slice(&self.known[a], &starts, &sizes, strides.as_deref()))
            }
            4 => {
                let mut inputs = vec![a];
                for _ in 0..dice.below(5) {
                    inputs.push(if fits { self.like(a, dice, tally) } else { self.any(dice, tally) });
                }
                if dice.one_in(20) {
                    inputs.clear();
                }
                let inputs: Vec<&Tensor> = inputs.iter().map(|i| &self.known[*i]).collect();
                ("concat", t::concat(&inputs, dice.size()))
            }
            5 => {
                let modes = [t::PaddingMode::Constant, t::PaddingMode::Edge, t::PaddingMode::Reflection];
                let (begin, end) = (dice.some_sizes(rank), dice.some_sizes(rank));
                ("pad", t::pad(&self.known[a], &begin, &end, dice.pick(&modes), dice.number()))
            }
            6 => {
                let axis = dice.below(rank + 1);
                let along = shape.get(axis).copied().unwrap_or(1);
                let parts = match (fits, dice.flag()) {
                    (true, true) => t::SplitParts::Count(along.clamp(1, 64)),
                    (true, false) => t::SplitParts::Sizes(vec![along / 2, along - along / 2]),
                    (false, true) => t::SplitParts::Count(dice.size()),
                    (false, false) => t::SplitParts::Sizes(dice.sizes(8)),
                };
                let made = t::split(&self.known[a], &parts, axis as u32);
                return self.several("split", made, tally);
            }
            7 => {
                let axes = dice.optional(|d| d.sizes(3));
                ("reverse", t::reverse(&self.known[a], axes.as_deref()))
            }
            8 => ("tile", t::tile(&self.known[a], &dice.some_sizes(rank))),
            _ => {
                let diagonal = if fits { dice.below(7) as i32 - 3 } else { dice.u64() as i32 };
                ("triangular", t::triangular(&self.known[a], dice.flag(), diagonal))
            }
        };
        self.made(name, made, tally);
    }

    fn places(&mut self, dice: &mut Dice, tally: &mut Tally) {
        let a = self.any(dice, tally);
        let shape = self.shape_of(a, tally);
        let data_type = self.type_of(a, tally);
        let whole = dice.pick(&[DataType::Int32, DataType::Uint32, DataType::Int64]);
        let (fits, axis) = (dice.flag(), dice.below(shape.len() + 1) as u32);
        let (name, made) = match dice.below(5) {
            0 => {
                let places = dice.shape();
                let indices = self.fitting(fits, whole, &places[..places.len().min(2)], dice, tally);
                ("gather", t::gather(&self.known[a], &self.known[indices], axis))
            }
            1 => {
                let indices = self.fitting(fits, whole, &shape, dice, tally);
                ("gather-elements", t::gather_elements(&self.known[a], &self.known[indices], axis))
            }
            2 => {
                let deep = dice.below(shape.len() + 2) as u32;
                let indices = self.fitting(fits, whole, &[3, deep], dice, tally);
                ("gather-nd", t::gather_nd(&self.known[a], &self.known[indices]))
            }
            3 => {
                let indices = self.fitting(fits, whole, &shape, dice, tally);
                let updates = self.fitting(fits, data_type, &shape, dice, tally);
                let made =
                    t::scatter_elements(&self.known[a], &self.known[indices], &self.known[updates], axis);
                ("scatter-elements", made)
            }
            _ => {
                let deep = dice.below(shape.len() + 1);
                let indices = self.fitting(fits, whole, &[2, deep as u32], dice, tally);
                let left = [&[2], &shape[deep..]].concat();
                let updates = self.fitting(fits, data_type, &left, dice, tally);
                ("scatter-nd", t::scatter_nd(&self.known[a], &self.known[indices], &self.known[updates]))
            }
        };
        self.made(name, made, tally);
    }

    fn along(&mut self, dice: &mut Dice, tally: &mut Tally) {
        let a = if dice.flag() { self.fresh(float(dice), dice, tally) } else { self.any(dice, tally) };
        let (axis, keep) = (dice.size(), dice.flag());
        let output = if dice.below(4) > 0 { DataType::Int32 } else { dice.pick(&TYPES) };
        let a = &self.known[a];
        let (name, made) = match dice.below(4) {
            0 => ("arg-min", t::arg_min(a, axis, keep, output)),
            1 => ("arg-max", t::arg_max(a, axis, keep, output)),
            2 => ("softmax", t::softmax(a, axis)),
            _ => ("cumulative-sum", t::cumulative_sum(a, axis, keep, dice.flag())),
        };
        self.made(name, made, tally);
    }

    fn normalize(&mut self, dice: &mut Dice, tally: &mut Tally) {
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

    fn convolve(&mut self, dice: &mut Dice, tally: &mut Tally) {
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

    fn pool(&mut self, dice: &mut Dice, tally: &mut Tally) {
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

    fn gemm(&mut self, dice: &mut Dice, tally: &mut Tally) {
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

    fn quantize(&mut self, dice: &mut Dice, tally: &mut Tally) {
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

    fn recurrent(&mut self, dice: &mut Dice, tally: &mut Tally) {
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
