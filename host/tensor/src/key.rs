//! How an operation is written into the plan cache's key.

use crate::op::{Op, PaddingMode};
use crate::shape::Dims;

impl Op {
    /// Appends an unambiguous encoding of the operation and its attributes: the plan cache's key.
    pub(crate) fn encode(&self, key: &mut Vec<u8>) {
        let mut dims = |tag: u8, d: &Dims| {
            key.push(tag);
            key.push(d.rank() as u8);
            d.as_slice().iter().for_each(|v| key.extend_from_slice(&v.to_le_bytes()));
        };
        match self {
            Op::Fill { data_type, shape, value } => {
                dims(0, shape);
                key.push(*data_type as u8);
                key.extend_from_slice(&value.to_bits().to_le_bytes());
            }
            Op::Binary(b) => key.extend_from_slice(&[1, *b as u8]),
            Op::Compare(c) => key.extend_from_slice(&[2, *c as u8]),
            Op::Logical(l) => key.extend_from_slice(&[3, *l as u8]),
            Op::Unary(u) => key.extend_from_slice(&[4, *u as u8]),
            Op::Clamp { min, max } => {
                key.push(5);
                for bound in [min, max] {
                    key.push(u8::from(bound.is_some()));
                    key.extend_from_slice(&bound.unwrap_or(0.0).to_bits().to_le_bytes());
                }
            }
            Op::Elu { alpha } => floats(key, 6, &[*alpha]),
            Op::LeakyRelu { alpha } => floats(key, 7, &[*alpha]),
            Op::HardSigmoid { alpha, beta } => floats(key, 8, &[*alpha, *beta]),
            Op::Linear { alpha, beta } => floats(key, 9, &[*alpha, *beta]),
            Op::Cast { to } => key.extend_from_slice(&[10, *to as u8]),
            Op::Where => key.push(11),
            Op::Reshape { shape } => dims(12, shape),
            Op::Transpose { permutation: None } => key.push(13),
            Op::Transpose { permutation: Some(p) } => dims(14, p),
            Op::Expand { shape } => dims(15, shape),
            Op::Slice { starts, sizes, strides } => {
                dims(16, starts);
                dims(16, sizes);
                match strides {
                    Some(s) => dims(17, s),
                    None => key.push(18),
                }
            }
            Op::Concat { axis } => {
                key.push(19);
                key.extend_from_slice(&axis.to_le_bytes());
            }
            Op::Pad { beginning, ending, mode } => {
                dims(20, beginning);
                dims(20, ending);
                match mode {
                    PaddingMode::Constant(v) => floats(key, 0, &[*v]),
                    PaddingMode::Edge => key.push(1),
                    PaddingMode::Reflection => key.push(2),
                }
            }
            Op::Matmul => key.push(21),
            Op::Gemm { alpha, beta, a_transpose, b_transpose } => {
                floats(key, 22, &[*alpha, *beta]);
                key.extend_from_slice(&[u8::from(*a_transpose), u8::from(*b_transpose)]);
            }
            Op::Conv2d(c) => {
                key.push(23);
                let numbers = c.padding.iter().chain(&c.strides).chain(&c.dilations);
                for v in numbers.chain([&c.groups]) {
                    key.extend_from_slice(&v.to_le_bytes());
                }
                key.extend_from_slice(&[c.input_layout as u8, c.filter_layout as u8]);
            }
            Op::Softmax { axis } => {
                key.push(24);
                key.extend_from_slice(&axis.to_le_bytes());
            }
            Op::Reduce { kind, axes, keep_dimensions } => {
                match axes {
                    Some(a) => dims(25, a),
                    None => key.push(26),
                }
                key.extend_from_slice(&[*kind as u8, u8::from(*keep_dimensions)]);
            }
            Op::ConvTranspose2d(c) => {
                key.push(27);
                let sizes = c.output_sizes.unwrap_or([0; 2]);
                numbers(key, &[&c.padding, &c.strides, &c.dilations, &c.output_padding, &sizes, &[c.groups]]);
                let sized = u8::from(c.output_sizes.is_some());
                key.extend_from_slice(&[sized, c.input_layout as u8, c.filter_layout as u8]);
            }
            Op::Pool2d(kind, p) => {
                key.extend_from_slice(&[28, *kind as u8]);
                let (window, sizes) = (p.window.unwrap_or([0; 2]), p.output_sizes.unwrap_or([0; 2]));
                numbers(key, &[&window, &p.padding, &p.strides, &p.dilations, &sizes]);
                let given = [p.window.is_some(), p.output_sizes.is_some()].map(u8::from);
                key.extend_from_slice(&[given[0], given[1], p.layout as u8, p.rounding as u8]);
            }
            Op::Resample2d(r) => {
                key.extend_from_slice(&[29, r.mode as u8, u8::from(r.sizes.is_some())]);
                numbers(key, &[&r.scales.map(f32::to_bits), &r.sizes.unwrap_or([0; 2]), &r.axes]);
            }
            Op::ArgMinMax { kind, axis, keep_dimensions, output_data_type } => {
                let output = *output_data_type as u8;
                key.extend_from_slice(&[30, *kind as u8, u8::from(*keep_dimensions), output]);
                numbers(key, &[&[*axis]]);
            }
            Op::CumulativeSum { axis, exclusive, reversed } => {
                key.extend_from_slice(&[31, u8::from(*exclusive), u8::from(*reversed)]);
                numbers(key, &[&[*axis]]);
            }
            Op::BatchNormalization { axis, epsilon, scale, bias } => {
                floats(key, 32, &[*epsilon]);
                key.extend_from_slice(&[u8::from(*scale), u8::from(*bias)]);
                numbers(key, &[&[*axis]]);
            }
            Op::InstanceNormalization { layout, epsilon, scale, bias } => {
                floats(key, 33, &[*epsilon]);
                key.extend_from_slice(&[*layout as u8, u8::from(*scale), u8::from(*bias)]);
            }
            Op::LayerNormalization { axes, epsilon, scale, bias } => {
                match axes {
                    Some(a) => dims(34, a),
                    None => key.push(35),
                }
                floats(key, 0, &[*epsilon]);
                key.extend_from_slice(&[u8::from(*scale), u8::from(*bias)]);
            }
            Op::Prelu => key.push(36),
            Op::DequantizeLinear => key.push(37),
            Op::QuantizeLinear => key.push(38),
            Op::Gather { axis } => tagged(key, 39, *axis),
            Op::GatherElements { axis } => tagged(key, 40, *axis),
            Op::GatherNd => key.push(41),
            Op::ScatterElements { axis } => tagged(key, 42, *axis),
            Op::ScatterNd => key.push(43),
            Op::Reverse { axes: Some(axes) } => dims(44, axes),
            Op::Reverse { axes: None } => key.push(45),
            Op::Tile { repetitions } => dims(46, repetitions),
            Op::Triangular { upper, diagonal } => {
                key.extend_from_slice(&[47, u8::from(*upper)]);
                key.extend_from_slice(&diagonal.to_le_bytes());
            }
        }
    }
}

fn floats(key: &mut Vec<u8>, tag: u8, values: &[f64]) {
    key.push(tag);
    values.iter().for_each(|v| key.extend_from_slice(&v.to_bits().to_le_bytes()));
}

fn numbers(key: &mut Vec<u8>, lists: &[&[u32]]) {
    lists.iter().flat_map(|l| l.iter()).for_each(|v| key.extend_from_slice(&v.to_le_bytes()));
}

fn tagged(key: &mut Vec<u8>, tag: u8, axis: u32) {
    key.push(tag);
    key.extend_from_slice(&axis.to_le_bytes());
}
