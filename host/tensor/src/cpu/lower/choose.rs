//! Which kernel computes each operation that is not element-wise, and its sizes.

use super::Lowering;
use crate::buffer::capacity_for;
use crate::cpu::conv::Conv;
use crate::cpu::index::{Along, Gather, Slices};
use crate::cpu::matmul::Matmul;
use crate::cpu::movement::{Concat, Pad, StridedCopy};
use crate::cpu::normalize::Normalize;
use crate::cpu::packed::{Product, Strides};
use crate::cpu::plan::{Kernel, Place};
use crate::cpu::pool::{Pool, Resample};
use crate::cpu::program::{Class, collapse};
use crate::cpu::reduce::{Reduce, Softmax};
use crate::cpu::scan::{ArgMinMax, CumulativeSum, Triangular};
use crate::cpu::transposed::ConvTranspose;
use crate::error::Error;
use crate::op::{Op, PaddingMode};
use crate::rules;
use crate::shape::{Dims, broadcast_strides, strides};
use crate::types::DataType;

impl Lowering<'_> {
    /// Plans one operation that is not element-wise; float16 operands come as float32.
    pub(super) fn kernel(&mut self, index: usize, inputs: Vec<Place>) -> Result<u32, Error> {
        let graph = self.graph;
        let node = &graph.nodes[index];
        let name = node.op.name();
        let d = node.descriptor;
        let input = graph.descriptor(node.inputs[0]);
        let dims = input.shape.as_slice();
        let count = d.shape.count();
        let size = d.data_type.size();
        let wide = count * size.max(if d.data_type.is_float() { 4 } else { size });
        self.work = self.work.saturating_add(count.max(input.shape.count()));
        Ok(match &node.op {
            Op::Transpose { permutation } => {
                let copy = transpose_copy(&input.shape, permutation.as_ref());
                self.step(Kernel::Copy(size, copy), name, inputs, count * size)
            }
            Op::Slice { starts, strides: steps, .. } => {
                let own = strides(dims);
                let axes = 0..dims.len();
                let step = |i: usize| steps.map_or(1, |s| s.as_slice()[i] as usize);
                let offset = axes.clone().map(|i| starts.as_slice()[i] as usize * own[i]).sum();
                let sizes = axes.map(|i| (d.shape.as_slice()[i] as usize, (own[i] * step(i)) as isize));
                let copy = StridedCopy::new(sizes, offset);
                self.step(Kernel::Copy(size, copy), name, inputs, count * size)
            }
            Op::Concat { axis } => {
                let after = |shape: &Dims| -> usize {
                    shape.as_slice()[*axis as usize..].iter().map(|&d| d as usize).product()
                };
                let outer = product(&dims[..*axis as usize]);
                let pieces = node.inputs.iter().map(|s| after(&graph.descriptor(*s).shape) * size);
                let concat = Concat { outer, pieces: pieces.collect() };
                self.step(Kernel::Concat(concat), name, inputs, count * size)
            }
            Op::Pad { beginning, ending, mode } => {
                let bits = match mode {
                    PaddingMode::Constant(value) => element_bits(d.data_type, *value),
                    _ => 0,
                };
                let pad = Pad::new(dims, beginning.as_slice(), ending.as_slice(), *mode, bits);
                self.step(Kernel::Pad(size, pad), name, inputs, count * size)
            }
            Op::Reduce { kind, axes, .. } => {
                let mask = rules::axes_mask(name, axes.as_ref(), dims.len())?;
                let reduce = Reduce::new(*kind, Class::of(d.data_type), dims, mask);
                self.step(Kernel::Reduce(reduce), name, inputs, wide)
            }
            Op::Softmax { axis } => {
                let (outer, axis, inner) = around(dims, *axis);
                let softmax = Softmax { outer, axis, inner };
                self.step(Kernel::Softmax(softmax), name, inputs, wide)
            }
            Op::Matmul => {
                let matmul = matmul(&input.shape, &graph.descriptor(node.inputs[1]).shape, &d.shape);
                self.work = self.work.saturating_add(count.saturating_mul(matmul.product.k));
                self.step(Kernel::Matmul(matmul), name, inputs, wide)
            }
            Op::Gemm { alpha, beta, a_transpose, b_transpose } => {
                let b = graph.descriptor(node.inputs[1]);
                let product = gemm(&input.shape, &b.shape, *a_transpose, *b_transpose, *alpha as f32);
                let (product, start) = match node.inputs.get(2) {
                    Some(&c) => {
                        let pattern = collapse(&graph.descriptor(c).shape, &d.shape);
                        (Product { keep: true, ..product }, Some((pattern, *beta as f32)))
                    }
                    None => (product, None),
                };
                self.work = self.work.saturating_add(count.saturating_mul(product.k));
                self.step(Kernel::Gemm(product, start), name, inputs, wide)
            }
            Op::Conv2d(options) => {
                let filter = graph.descriptor(node.inputs[1]).shape;
                let sizes =
                    rules::conv_sizes(&input.shape, &filter, options).map_err(|m| Error::invalid(name, m))?;
                let activation = self.fusion.activation(index);
                let conv = Conv::new(sizes, *options, activation, self.isa, self.threads);
                self.work = self.work.saturating_add(count.saturating_mul(conv.taps()));
                let workspace = capacity_for(conv.packed() * 4) + conv.workspace() * 4;
                let slot = self.slot(wide);
                self.push(Kernel::Conv(Box::new(conv)), name, inputs, vec![slot], workspace);
                slot
            }
            Op::ConvTranspose2d(options) => {
                let filter = graph.descriptor(node.inputs[1]).shape;
                let sizes = rules::conv_transpose_sizes(&input.shape, &filter, options)
                    .map_err(|m| Error::invalid(name, m))?;
                let conv = ConvTranspose::new(sizes, *options, self.threads);
                self.work = self.work.saturating_add(input.shape.count().saturating_mul(conv.packed()));
                let workspace = capacity_for(conv.packed() * 4) + conv.workspace() * 4;
                let slot = self.slot(wide);
                self.push(Kernel::ConvTranspose(Box::new(conv)), name, inputs, vec![slot], workspace);
                slot
            }
            Op::Pool2d(kind, options) => {
                let sizes = rules::pool_sizes(&input.shape, options).map_err(|m| Error::invalid(name, m))?;
                let pool = Pool::new(*kind, Class::of(d.data_type), sizes, options);
                self.work = self.work.saturating_add(count.saturating_mul(pool.taps()));
                self.step(Kernel::Pool(pool), name, inputs, wide)
            }
            Op::Resample2d(r) => {
                let (first, second) = (r.axes[0].min(r.axes[1]) as usize, r.axes[0].max(r.axes[1]) as usize);
                let size = |d: &Dims, axis: usize| d.as_slice()[axis] as usize;
                let resample = Resample {
                    mode: r.mode,
                    class: Class::of(d.data_type),
                    around: [
                        product(&dims[..first]),
                        product(&dims[first + 1..second]),
                        product(&dims[second + 1..]),
                    ],
                    from: [size(&input.shape, first), size(&input.shape, second)],
                    to: [size(&d.shape, first), size(&d.shape, second)],
                };
                let bytes = if super::moves(&node.op) { count * d.data_type.size() } else { wide };
                self.step(Kernel::Resample(d.data_type.size(), resample), name, inputs, bytes)
            }
            Op::ArgMinMax { kind, axis, output_data_type, .. } => {
                let (outer, axis, inner) = around(dims, *axis);
                let class = Class::of(input.data_type);
                let arg = ArgMinMax { kind: *kind, class, outer, axis, inner, output: *output_data_type };
                self.step(Kernel::ArgMinMax(arg), name, inputs, count * size)
            }
            Op::CumulativeSum { axis, exclusive, reversed } => {
                let (outer, axis, inner) = around(dims, *axis);
                let class = Class::of(input.data_type);
                let (exclusive, reversed) = (*exclusive, *reversed);
                let sum = CumulativeSum { class, outer, axis, inner, exclusive, reversed };
                self.step(Kernel::CumulativeSum(sum), name, inputs, wide)
            }
            Op::LayerNormalization { axes, epsilon, scale, bias } => {
                // What is left of these has the last axes, in order.
                let reduced = rules::layer_axes(axes.as_ref(), dims.len()).rank();
                let (rows, n) = dims.split_at(dims.len() - reduced);
                let normalize = Normalize {
                    rows: product(rows),
                    n: product(n),
                    epsilon: cast_to_float(d.data_type, *epsilon),
                    scale: *scale,
                    bias: *bias,
                    channels: 0,
                };
                self.work = self.work.saturating_add(count.saturating_mul(4));
                self.step(Kernel::Normalize(normalize), name, inputs, wide)
            }
            Op::InstanceNormalization { epsilon, scale, bias, .. } => {
                // What is left of these is nchw.
                let normalize = Normalize {
                    rows: product(&dims[..2]),
                    n: product(&dims[2..]),
                    epsilon: cast_to_float(d.data_type, *epsilon),
                    scale: *scale,
                    bias: *bias,
                    channels: dims[1] as usize,
                };
                self.work = self.work.saturating_add(count.saturating_mul(4));
                self.step(Kernel::Normalize(normalize), name, inputs, wide)
            }
            Op::Gather { axis } => {
                let (outer, axis, inner) = around(dims, *axis);
                let indices = graph.descriptor(node.inputs[1]);
                let (of, indices) = (indices.shape.count(), indices.data_type);
                let gather = Gather { outer, axis, inner, count: of, indices };
                self.step(Kernel::Gather(size, gather), name, inputs, count * size)
            }
            Op::GatherElements { axis } | Op::ScatterElements { axis } => {
                let (outer, size_of_axis, inner) = around(dims, *axis);
                let indices = graph.descriptor(node.inputs[1]);
                let along = Along {
                    outer,
                    axis: size_of_axis,
                    inner,
                    count: indices.shape.as_slice()[*axis as usize] as usize,
                    indices: indices.data_type,
                };
                let kernel = match node.op {
                    Op::GatherElements { .. } => Kernel::GatherElements(size, along),
                    _ => Kernel::ScatterElements(size, along),
                };
                self.step(kernel, name, inputs, count * size)
            }
            Op::GatherNd | Op::ScatterNd => {
                let indices = graph.descriptor(node.inputs[1]);
                let (outer, width) = indices.shape.as_slice().split_at(indices.shape.rank() - 1);
                let (named, inner) = dims.split_at(width[0] as usize);
                let slices = Slices {
                    dims: named.iter().map(|&d| d as usize).collect(),
                    inner: product(inner),
                    count: product(outer),
                    indices: indices.data_type,
                };
                let kernel = match node.op {
                    Op::GatherNd => Kernel::GatherNd(size, slices),
                    _ => Kernel::ScatterNd(size, slices),
                };
                self.step(kernel, name, inputs, count * size)
            }
            Op::Reverse { axes } => {
                let copy = reverse_copy(&input.shape, axes.as_ref());
                self.step(Kernel::Copy(size, copy), name, inputs, count * size)
            }
            Op::Tile { repetitions } => {
                let own = strides(dims);
                let axes = repetitions.as_slice().iter().zip(dims).zip(own);
                let pairs = axes.flat_map(|((&r, &d), own)| [(r as usize, 0), (d as usize, own as isize)]);
                let copy = StridedCopy::new(pairs, 0);
                self.step(Kernel::Copy(size, copy), name, inputs, count * size)
            }
            Op::Triangular { upper, diagonal } => {
                let matrix = &dims[dims.len() - 2..];
                let triangular = Triangular {
                    rows: matrix[0] as usize,
                    columns: matrix[1] as usize,
                    upper: *upper,
                    diagonal: *diagonal,
                };
                self.step(Kernel::Triangular(size, triangular), name, inputs, count * size)
            }
            _ => return Err(Error::device(name, "has no kernel (a bug in Warren)")),
        })
    }
}

fn product(dims: &[u32]) -> usize {
    dims.iter().map(|&d| d as usize).product()
}

/// Product of the dimensions before the axis, the axis, product of those after it.
fn around(dims: &[u32], axis: u32) -> (usize, usize, usize) {
    let axis = axis as usize;
    (product(&dims[..axis]), dims[axis] as usize, product(&dims[axis + 1..]))
}

/// A number converted to a float type, as float32.
fn cast_to_float(data_type: DataType, value: f64) -> f32 {
    match data_type {
        DataType::Float16 => half::f16::from_f64(value).to_f32(),
        _ => value as f32,
    }
}

pub(super) fn transpose_copy(input: &Dims, permutation: Option<&Dims>) -> StridedCopy {
    let own = strides(input.as_slice());
    let rank = input.rank();
    let axis = |i: usize| permutation.map_or(rank - 1 - i, |p| p.as_slice()[i] as usize);
    let dims = (0..rank).map(|i| (input.as_slice()[axis(i)] as usize, own[axis(i)] as isize));
    StridedCopy::new(dims, 0)
}

pub(super) fn reverse_copy(input: &Dims, axes: Option<&Dims>) -> StridedCopy {
    let own = strides(input.as_slice());
    let turned = |i: usize| axes.is_none_or(|a| a.as_slice().contains(&(i as u32)));
    let mut offset = 0;
    let mut dims = Vec::with_capacity(input.rank());
    for (i, &d) in input.as_slice().iter().enumerate() {
        let (size, stride) = (d as usize, own[i]);
        if turned(i) && size > 1 {
            offset += (size - 1) * stride;
            dims.push((size, -(stride as isize)));
        } else {
            dims.push((size, stride as isize));
        }
    }
    StridedCopy::new(dims.into_iter(), offset)
}

fn matmul(a: &Dims, b: &Dims, result: &Dims) -> Matmul {
    let (da, db, dr) = (a.as_slice(), b.as_slice(), result.as_slice());
    let (ra, rb, rr) = (da.len(), db.len(), dr.len());
    let (m, k, n) = (da[ra - 2] as usize, da[ra - 1] as usize, db[rb - 1] as usize);
    let dense = |columns: usize| Strides { row: columns, column: 1 };
    let mut product = Product { m, n, k, a: dense(k), b: dense(n), target_row: n, keep: false, scale: 1.0 };
    let lead = |d: &[u32]| Dims::new(d).unwrap_or(Dims::SCALAR);
    let (la, lb, lr) = (lead(&da[..ra - 2]), lead(&db[..rb - 2]), lead(&dr[..rr - 2]));
    let batch = lr.count();
    if lb.count() == 1 && la.count() == batch {
        // One right side for all: the left ones make one tall matrix.
        product.m = m * batch;
        return Matmul { product, batches: vec![(0, 0)] };
    }
    let (sa, sb) = (broadcast_strides(&la, &lr), broadcast_strides(&lb, &lr));
    let batches = (0..batch).map(|index| {
        let (mut rest, mut at_a, mut at_b) = (index, 0, 0);
        for (axis, &d) in lr.as_slice().iter().enumerate().rev() {
            at_a += rest % d as usize * sa[axis];
            at_b += rest % d as usize * sb[axis];
            rest /= d as usize;
        }
        (at_a * m * k, at_b * k * n)
    });
    Matmul { product, batches: batches.collect() }
}

fn gemm(a: &Dims, b: &Dims, a_transpose: bool, b_transpose: bool, scale: f32) -> Product {
    let view = |d: &Dims, turned: bool| {
        let (rows, columns) = (d.as_slice()[0] as usize, d.as_slice()[1] as usize);
        if turned {
            (columns, rows, Strides { row: 1, column: columns })
        } else {
            (rows, columns, Strides { row: columns, column: 1 })
        }
    };
    let (m, k, a) = view(a, a_transpose);
    let (_, n, b) = view(b, b_transpose);
    Product { m, n, k, a, b, target_row: n, keep: false, scale }
}

/// A number converted as by `cast`, as its bits in the low bytes.
fn element_bits(data_type: DataType, value: f64) -> u64 {
    match data_type {
        DataType::Float32 => u64::from((value as f32).to_bits()),
        DataType::Float16 => u64::from(half::f16::from_f64(value).to_bits()),
        DataType::Int32 => u64::from(value as i32 as u32),
        DataType::Uint32 => u64::from(value as u32),
        DataType::Int64 => value as i64 as u64,
        DataType::Uint64 => value as u64,
        DataType::Int8 => u64::from(value as i8 as u8),
        DataType::Uint8 => u64::from(value as u8),
    }
}
