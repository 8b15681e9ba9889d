//! The commands of each kernel that moves elements, and which steps have commands at all.

use crate::cpu::index::{Along, Gather, Slices};
use crate::cpu::movement::{Concat, Pad, StridedCopy};
use crate::cpu::plan::{Kernel as Step, Step as Planned};
use crate::cpu::pool::Resample;
use crate::cpu::scan::Triangular;
use crate::op::{Interpolation, PaddingMode};
use crate::types::DataType;
use crate::wgpu::command::{Command, Commands, Limits, Unhosted};
use crate::wgpu::elements::elements;
use crate::wgpu::kernel::{Header, Kernel, files};
use crate::wgpu::linear;
use crate::wgpu::numeric;

/// The commands of a step on a device with these limits, and the bytes of its scratch buffers;
/// else why the CPU must take it.
pub(crate) fn commands(
    limits: &Limits,
    step: &Planned,
    inputs: &[usize],
    outputs: &[usize],
) -> Result<(Vec<Command>, Vec<usize>), Unhosted> {
    if outputs.iter().all(|&bytes| bytes == 0) {
        return Ok((Vec::new(), Vec::new()));
    }
    let largest = inputs.iter().chain(outputs).copied().max().unwrap_or(0) as u64;
    if largest > limits.buffer || largest > u64::from(u32::MAX) {
        return Err("an operand is larger than a buffer of the device may be");
    }
    let mut c = Commands { limits, list: Vec::new(), scratch: Vec::new(), inputs, outputs };
    match &step.kernel {
        Step::Elements(program) => elements(&mut c, program)?,
        Step::Copy(size, copy) => strided_copy(&mut c, *size, copy)?,
        Step::Pad(size, pad) => padding(&mut c, *size, pad)?,
        Step::Concat(concat) => join(&mut c, concat)?,
        Step::Gather(size, gather) => gathered(&mut c, *size, gather)?,
        Step::GatherElements(size, along) => gather_elements(&mut c, *size, along)?,
        Step::GatherNd(size, slices) => gather_nd(&mut c, *size, slices)?,
        Step::ScatterElements(size, along) => scatter_elements(&mut c, *size, along)?,
        Step::ScatterNd(size, slices) => scatter_nd(&mut c, *size, slices)?,
        Step::Triangular(size, t) => triangular(&mut c, *size, t)?,
        Step::Resample(size, r) => resample(&mut c, *size, r)?,
        Step::Widen => half(&mut c, true)?,
        Step::Narrow => half(&mut c, false)?,
        Step::Reduce(reduce) => numeric::reduce(&mut c, reduce)?,
        Step::Softmax(softmax) => numeric::softmax(&mut c, softmax)?,
        Step::Normalize(normalize) => numeric::normalize(&mut c, normalize)?,
        Step::Pool(pool) => numeric::pool(&mut c, pool)?,
        Step::ArgMinMax(arg) => numeric::arg(&mut c, arg)?,
        Step::CumulativeSum(sum) => numeric::running_sum(&mut c, sum)?,
        Step::Matmul(matmul) => linear::matmul(&mut c, matmul)?,
        Step::Gemm(product, third) => linear::gemm(&mut c, product, third.as_ref())?,
        Step::Conv(conv) => linear::conv(&mut c, conv)?,
        Step::ConvTranspose(conv) => linear::conv_transpose(&mut c, conv)?,
    }
    Ok((c.list, c.scratch))
}

/// Workgroups of a kernel whose threads each write a word of elements of `size` bytes.
fn word_groups(total: usize, size: usize) -> usize {
    let per_word = if size < 4 { 4 / size } else { 1 };
    total.div_ceil(per_word).div_ceil(256)
}

/// A kernel on `move.wgsl`: `file` names sources, `tail` is `P` from 3 on.
fn moved(
    c: &mut Commands<'_>,
    name: &'static str,
    header: Header,
    size: usize,
    files: &[&str],
    tail: &[u32],
) -> Result<(), Unhosted> {
    let total = c.outputs[0] / size;
    let inputs = c.inputs.len();
    let mut parts = vec![files::MOVE];
    parts.extend_from_slice(files);
    let kernel = Kernel::new(name, &header.size(size), &parts, inputs as u32, 1);
    let mut binds: Vec<_> = (0..inputs).map(|i| c.input(i)).collect();
    binds.push(c.output());
    let mut params = vec![total as u32];
    params.extend_from_slice(tail);
    c.push(kernel, word_groups(total, size), &params, binds, total * 4)
}

fn strided_copy(c: &mut Commands<'_>, size: usize, copy: &StridedCopy) -> Result<(), Unhosted> {
    let mut tail = vec![0, 0, copy.offset as u32, copy.dims.len() as u32, 0];
    // Strides may be negative: sums wrap.
    tail.extend(copy.dims.iter().flat_map(|&(n, stride)| [n as u32, stride as i32 as u32]));
    moved(c, "copy", Header::default(), size, &[files::COPY], &tail)
}

fn padding(c: &mut Commands<'_>, size: usize, pad: &Pad) -> Result<(), Unhosted> {
    let mode = match pad.mode {
        PaddingMode::Constant(_) => 0,
        PaddingMode::Edge => 1,
        PaddingMode::Reflection => 2,
    };
    let (low, high) = (pad.constant as u32, (pad.constant >> 32) as u32);
    let mut tail = vec![low, high, pad.axes.len() as u32, pad.inner as u32, 0];
    for &(n, before, after) in &pad.axes {
        tail.extend([n as u32, before as u32, (n + before + after) as u32]);
    }
    moved(c, "pad", Header::default().constant("MODE", mode), size, &[files::PAD], &tail)
}

fn join(c: &mut Commands<'_>, concat: &Concat) -> Result<(), Unhosted> {
    let row: usize = concat.pieces.iter().sum();
    let words = concat.pieces.iter().all(|p| p % 4 == 0);
    let unit = if words { 4 } else { 1 };
    if !words {
        fill(c, 0)?;
    }
    let (name, file) = if words { ("concat", files::JOIN) } else { ("concat bytes", files::JOIN_BYTES) };
    let mut before = 0;
    for (at, &piece) in concat.pieces.iter().enumerate() {
        let total = concat.outer * piece / unit;
        let tail = [total, piece / unit, before / unit, row / unit].map(|v| v as u32);
        let kernel = Kernel::new(name, &Header::default(), &[file], 1, 1);
        let binds = vec![c.input(at), c.output()];
        c.push(kernel, total.div_ceil(256), &tail, binds, total * 2)?;
        before += piece;
    }
    Ok(())
}

/// Fills the result with a word.
fn fill(c: &mut Commands<'_>, word: u32) -> Result<(), Unhosted> {
    let (bytes, bind) = (c.outputs[0], c.output());
    fill_bind(c, bind, bytes, word)
}

fn fill_bind(
    c: &mut Commands<'_>,
    bind: crate::wgpu::command::Bind,
    bytes: usize,
    word: u32,
) -> Result<(), Unhosted> {
    let words = bytes.div_ceil(4);
    let kernel = Kernel::new("fill", &Header::default(), &[files::FILL], 0, 1);
    c.push(kernel, words.div_ceil(256), &[words as u32, word], vec![bind], words)
}

fn index_type(header: Header, data_type: DataType) -> Header {
    let index = match data_type {
        DataType::Int32 => 0,
        DataType::Uint32 => 1,
        _ => 2,
    };
    header.constant("INDEX", index)
}

fn gathered(c: &mut Commands<'_>, size: usize, g: &Gather) -> Result<(), Unhosted> {
    let header = index_type(Header::default().constant("KIND", 0), g.indices);
    let tail = [0, 0, g.axis as u32, g.inner as u32, g.count as u32];
    moved(c, "gather", header, size, &[files::INDEX, files::GATHER], &tail)
}

fn gather_elements(c: &mut Commands<'_>, size: usize, a: &Along) -> Result<(), Unhosted> {
    let header = index_type(Header::default().constant("KIND", 1), a.indices);
    let tail = [0, 0, a.axis as u32, a.inner as u32, a.count as u32];
    moved(c, "gather-elements", header, size, &[files::INDEX, files::GATHER], &tail)
}

fn gather_nd(c: &mut Commands<'_>, size: usize, s: &Slices) -> Result<(), Unhosted> {
    let header = index_type(Header::default().constant("KIND", 2), s.indices);
    let mut tail = vec![0, 0, 0, s.inner as u32, s.dims.len() as u32];
    tail.extend(s.dims.iter().map(|&d| d as u32));
    moved(c, "gather-nd", header, size, &[files::INDEX, files::GATHER], &tail)
}

fn scatter_elements(c: &mut Commands<'_>, size: usize, a: &Along) -> Result<(), Unhosted> {
    let updates = a.outer * a.count * a.inner;
    let tail = [0, 0, a.axis as u32, a.inner as u32, a.count as u32];
    scatter(c, size, index_type(Header::default().constant("KIND", 1), a.indices), updates, 1, &tail)
}

fn scatter_nd(c: &mut Commands<'_>, size: usize, s: &Slices) -> Result<(), Unhosted> {
    let mut tail = vec![0, 0, 0, s.inner as u32, s.dims.len() as u32];
    tail.extend(s.dims.iter().map(|&d| d as u32));
    let header = index_type(Header::default().constant("KIND", 2), s.indices);
    scatter(c, size, header, s.count, s.inner, &tail)
}

fn scatter(
    c: &mut Commands<'_>,
    size: usize,
    header: Header,
    updates: usize,
    inner: usize,
    tail: &[u32],
) -> Result<(), Unhosted> {
    let total = c.outputs[0] / size;
    if total == 0 {
        return Ok(());
    }
    let places = total / inner.max(1);
    let claims = c.scratch(places * 4);
    fill_bind(c, claims, places * 4, 0)?;
    let mut params = vec![updates as u32];
    params.extend_from_slice(tail);
    let claim = Kernel::new("scatter claim", &header, &[files::INDEX, files::CLAIM], 1, 1);
    c.push(claim, updates.div_ceil(256), &params, vec![c.input(1), claims], updates * 4)?;
    let kernel = Kernel::new("scatter", &Header::default().size(size), &[files::SCATTER], 3, 1);
    let binds = vec![c.input(0), c.input(2), claims, c.output()];
    c.push(kernel, word_groups(total, size), &[total as u32, inner as u32], binds, total * 4)
}

fn triangular(c: &mut Commands<'_>, size: usize, t: &Triangular) -> Result<(), Unhosted> {
    let (rows, columns) = (t.rows as i64, t.columns as i64);
    let diagonal = i64::from(t.diagonal).clamp(-rows - 1, columns + 1) as i32;
    let tail = [0, 0, t.rows as u32, t.columns as u32, u32::from(t.upper), diagonal as u32];
    moved(c, "triangular", Header::default(), size, &[files::TRIANGULAR], &tail)
}

fn resample(c: &mut Commands<'_>, size: usize, r: &Resample) -> Result<(), Unhosted> {
    let [_, between, after] = r.around;
    let sizes = [0, 0, between, after, r.to[0], r.to[1], r.from[0], r.from[1]];
    let mut tail: Vec<u32> = sizes.iter().map(|&v| v as u32).collect();
    if r.mode == Interpolation::NearestNeighbor {
        for axis in 0..2 {
            tail.extend((0..r.to[axis]).map(|out| r.nearest(axis, out) as u32));
        }
        return moved(c, "resample nearest", Header::default(), size, &[files::NEAREST], &tail);
    }
    if r.class != crate::cpu::program::Class::F32 {
        return Err("8-bit integers are interpolated on the CPU");
    }
    for axis in 0..2 {
        for out in 0..r.to[axis] {
            let (low, high, share) = r.tap(axis, out);
            tail.extend([low as u32, high as u32, (share as f32).to_bits()]);
        }
    }
    let total = c.outputs[0] / 4;
    let mut params = vec![total as u32];
    params.extend_from_slice(&tail);
    let kernel = Kernel::new("resample linear", &Header::default(), &[files::LINEAR], 1, 1);
    c.push(kernel, total.div_ceil(256), &params, vec![c.input(0), c.output()], total * 8)
}

fn half(c: &mut Commands<'_>, widen: bool) -> Result<(), Unhosted> {
    let total = c.outputs[0] / if widen { 4 } else { 2 };
    let header = Header::default().constant("WIDEN", u32::from(widen));
    let kernel = Kernel::new("half convert", &header, &[files::HALF, files::HALF_CONVERT], 1, 1);
    let binds = vec![c.input(0), c.output()];
    c.push(kernel, total.div_ceil(2).div_ceil(256), &[total as u32], binds, total)
}
