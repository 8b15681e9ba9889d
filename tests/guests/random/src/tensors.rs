//! Every operation of the tensor interface, half of the time on operands that were made to fit.

mod networks;

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

type OnOne = fn(&Tensor) -> Made;
type OnTwo = fn(&Tensor, &Tensor) -> Made;

const UNARY: [(&str, OnOne); 25] = [
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

const BINARY: [(&str, OnTwo); 18] = [
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
}
