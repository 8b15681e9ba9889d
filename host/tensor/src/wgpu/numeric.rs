//! The commands of reductions, normalization, pooling and the kernels along one axis.

use crate::cpu::normalize::Normalize;
use crate::cpu::pool::Pool;
use crate::cpu::program::Class;
use crate::cpu::reduce::{Reduce, Softmax};
use crate::cpu::scan::{ArgMinMax, CumulativeSum};
use crate::op::{Arg, Pooling, Reduction};
use crate::types::DataType;
use crate::wgpu::command::{Bind, Commands, Unhosted};
use crate::wgpu::kernel::{Header, Kernel, files};

const WIDE: &str = "64-bit integers are computed on the CPU";

/// Elements from which a workgroup reduces a result together.
const TOGETHER: usize = 128;
/// Elements of a result that one workgroup reduces where results alone are too few to fill a
/// device.
const PIECE: usize = 1 << 14;
/// Results that fill a device.
const MANY: usize = 512;

/// Numbers of `fold_float.wgsl`: how elements come in, are joined, and the total goes out.
#[derive(Clone, Copy)]
struct Fold {
    map: u32,
    fold: u32,
    finish: u32,
}

const SUM: u32 = 0;
const MAX: u32 = 2;

fn fold_of(kind: Reduction) -> Fold {
    let (map, fold, finish) = match kind {
        Reduction::L1 => (1, SUM, 0),
        Reduction::L2 => (2, SUM, 1),
        Reduction::LogSum => (0, SUM, 2),
        Reduction::LogSumExp => (3, SUM, 4),
        Reduction::Max => (0, MAX, 0),
        Reduction::Mean => (0, SUM, 3),
        Reduction::Min => (0, 3, 0),
        Reduction::Product => (0, 1, 0),
        Reduction::Sum => (0, SUM, 0),
        Reduction::SumSquare => (2, SUM, 0),
    };
    Fold { map, fold, finish }
}

/// A header with a type and a fold, and the files that need them.
fn fold_parts(class: Class, fold: Fold) -> Result<(Header, Vec<&'static str>), Unhosted> {
    let header = Header::default()
        .constant("MAP", fold.map)
        .constant("FOLD", fold.fold)
        .constant("FINISH", fold.finish)
        .class(class)
        .ok_or(WIDE)?;
    let parts = match class {
        Class::F32 => vec![files::TYPED, files::MATH, files::FOLD_FLOAT],
        _ => vec![files::TYPED, files::FOLD_INTEGER],
    };
    Ok((header, parts))
}

/// Elements to reduce, as dimensions (size, stride) that are kept and that are reduced.
struct Extent {
    results: usize,
    count: usize,
    kept: Vec<(usize, usize)>,
    reduced: Vec<(usize, usize)>,
}

/// Plans a reduction: one pass, or two where few results have many elements each, and one more
/// beforehand for the largest exponent of `reduceLogSumExp`.
pub(crate) fn reduce(c: &mut Commands<'_>, r: &Reduce) -> Result<(), Unhosted> {
    let (mut kept, mut reduced) = (r.outer.clone(), r.reduced.clone());
    if r.along { &mut reduced } else { &mut kept }.push((r.inner, 1));
    let extent = Extent { results: r.results, count: r.count, kept, reduced };
    if extent.results == 0 {
        return Ok(());
    }
    let fold = fold_of(r.kind);
    let (source, target) = (c.input(0), c.output());
    let shift = match r.kind {
        Reduction::LogSumExp => {
            let largest = c.scratch(extent.results * 4);
            passes(c, r.class, fold_of(Reduction::Max), &extent, source, None, largest)?;
            Some(largest)
        }
        _ => None,
    };
    passes(c, r.class, fold, &extent, source, shift, target)
}

fn passes(
    c: &mut Commands<'_>,
    class: Class,
    fold: Fold,
    extent: &Extent,
    source: Bind,
    shift: Option<Bind>,
    target: Bind,
) -> Result<(), Unhosted> {
    let pieces = match extent.results < MANY && extent.count >= 2 * PIECE {
        true => extent.count.div_ceil(PIECE),
        false => 1,
    };
    let small = matches!(class, Class::I8 | Class::U8);
    if pieces == 1 || small {
        return pass(c, class, fold, extent, (source, shift, target), 1, extent.count);
    }
    // The first pass maps, the second finishes.
    let partial = c.scratch(extent.results * pieces * 4);
    let first = Fold { finish: 0, ..fold };
    pass(c, class, first, extent, (source, shift, partial), pieces, extent.count)?;
    let second = Fold { map: 0, ..fold };
    let rest = Extent {
        results: extent.results,
        count: pieces,
        kept: vec![(extent.results, pieces)],
        reduced: vec![(pieces, 1)],
    };
    pass(c, class, second, &rest, (partial, shift, target), 1, extent.count)
}

fn pass(
    c: &mut Commands<'_>,
    class: Class,
    fold: Fold,
    extent: &Extent,
    (source, shift, target): (Bind, Option<Bind>, Bind),
    pieces: usize,
    divisor: usize,
) -> Result<(), Unhosted> {
    let (header, mut parts) = fold_parts(class, fold)?;
    let header = match shift {
        None => header.text(
            "@group(0) @binding(2) var<storage, read_write> D: array<u32>;
             fn shift_of(result: u32) -> f32 { return 0.0; }",
        ),
        Some(_) => header.text(
            "@group(0) @binding(2) var<storage, read> M: array<f32>;
             @group(0) @binding(3) var<storage, read_write> D: array<u32>;
             fn shift_of(result: u32) -> f32 { return M[result]; }",
        ),
    };
    let small = matches!(class, Class::I8 | Class::U8);
    let together = !small && (pieces > 1 || extent.count >= TOGETHER);
    let piece = extent.count.div_ceil(pieces);
    let after_kept = 10 + 2 * extent.kept.len();
    let mut tail: Vec<u32> = [
        extent.results,
        extent.count,
        extent.kept.len(),
        extent.reduced.len(),
        pieces,
        piece,
        divisor,
        after_kept,
    ]
    .map(|v| v as u32)
    .into();
    let dims = extent.kept.iter().chain(&extent.reduced);
    tail.extend(dims.flat_map(|&(size, stride)| [size as u32, stride as u32]));
    let mut binds = vec![source];
    binds.extend(shift);
    binds.push(target);
    let inputs = binds.len() as u32 - 1;
    let work = extent.results.saturating_mul(extent.count).saturating_mul(4);
    if together {
        parts.push(files::REDUCE_GROUP);
        let kernel = Kernel::new("reduce group", &header, &parts, inputs, 1);
        c.push(kernel, extent.results * pieces, &tail, binds, work)
    } else {
        parts.push(files::REDUCE_EACH);
        let kernel = Kernel::new("reduce each", &header, &parts, inputs, 1);
        let threads = extent.results.div_ceil(if small { 4 } else { 1 });
        c.push(kernel, threads.div_ceil(256), &tail, binds, work)
    }
}

/// Plans a softmax: a workgroup for each contiguous row, else a thread for each line.
pub(crate) fn softmax(c: &mut Commands<'_>, s: &Softmax) -> Result<(), Unhosted> {
    let total = s.outer * s.axis * s.inner;
    if total == 0 {
        return Ok(());
    }
    let binds = vec![c.input(0), c.output()];
    let work = total.saturating_mul(32);
    let header = Header::default();
    if s.inner == 1 {
        let parts = [files::MATH, files::ROWS, files::SOFTMAX_ROWS];
        let kernel = Kernel::new("softmax rows", &header, &parts, 1, 1);
        return c.push(kernel, s.outer, &[s.axis as u32], binds, work);
    }
    let kernel = Kernel::new("softmax columns", &header, &[files::MATH, files::SOFTMAX_COLUMNS], 1, 1);
    let lines = s.outer * s.inner;
    c.push(kernel, lines.div_ceil(256), &[s.axis, s.inner, lines].map(|v| v as u32), binds, work)
}

/// Plans a normalization of rows, a workgroup each.
pub(crate) fn normalize(c: &mut Commands<'_>, n: &Normalize) -> Result<(), Unhosted> {
    if n.rows * n.n == 0 {
        return Ok(());
    }
    let mut header = String::new();
    let mut binding = 2;
    let mut declare = |name: &str, access: &str| {
        header
            .push_str(&format!("@group(0) @binding({binding}) var<storage, {access}> {name}: array<f32>;\n"));
        binding += 1;
    };
    if n.scale {
        declare("SCALE", "read");
    }
    if n.bias {
        declare("BIAS", "read");
    }
    declare("D", "read_write");
    let scaled = if n.scale { "value * SCALE[at]" } else { "value" };
    let biased = if n.bias { " + BIAS[at]" } else { "" };
    header.push_str(&format!("fn affine(value: f32, at: u32) -> f32 {{ return {scaled}{biased}; }}\n"));
    let header = Header::default().text(&header);
    let inputs = 1 + u32::from(n.scale) + u32::from(n.bias);
    let kernel = Kernel::new("normalize", &header, &[files::ROWS, files::NORMALIZE], inputs, 1);
    let mut binds: Vec<Bind> = (0..inputs as usize).map(|i| c.input(i)).collect();
    binds.push(c.output());
    let tail = [n.n as u32, n.epsilon.to_bits(), n.channels as u32];
    c.push(kernel, n.rows, &tail, binds, (n.rows * n.n).saturating_mul(12))
}

/// Whether positions of these parts on an axis stay below the range where a device's 32-bit
/// arithmetic wraps.
pub(crate) fn countable(parts: &[usize]) -> bool {
    parts.iter().try_fold(0usize, |sum, &p| sum.checked_add(p)).is_some_and(|sum| sum < 1 << 31)
}

/// Plans a pooling, a thread for each result.
pub(crate) fn pool(c: &mut Commands<'_>, p: &Pool) -> Result<(), Unhosted> {
    let s = &p.sizes;
    let reach = |out: usize, stride: usize, window: usize, dilation: usize, before: usize, size: usize| {
        countable(&[out.saturating_mul(stride), window.saturating_mul(dilation), before, size])
    };
    if !reach(s.oh, p.strides[0], s.kh, p.dilations[0], s.top, s.ih)
        || !reach(s.ow, p.strides[1], s.kw, p.dilations[1], s.left, s.iw)
    {
        return Err("its window reaches beyond what a device counts");
    }
    let fold = match p.kind {
        Pooling::Average => Fold { map: 0, fold: SUM, finish: 3 },
        Pooling::L2 => Fold { map: 2, fold: SUM, finish: 1 },
        Pooling::Max => Fold { map: 0, fold: MAX, finish: 0 },
    };
    let total = s.n * s.c * s.oh * s.ow;
    if total == 0 {
        return Ok(());
    }
    let (header, mut parts) = fold_parts(p.class, fold)?;
    parts.push(files::POOL);
    let kernel = Kernel::new("pool", &header, &parts, 1, 1);
    let inner = if p.nhwc { s.c } else { 1 };
    let sizes = [total, inner, s.oh, s.ow, s.ih, s.iw, s.kh, s.kw];
    let steps = [p.strides[0], p.strides[1], p.dilations[0], p.dilations[1], s.top, s.left];
    let tail: Vec<u32> = sizes.iter().chain(&steps).map(|&v| v as u32).collect();
    let small = matches!(p.class, Class::I8 | Class::U8);
    let threads = total.div_ceil(if small { 4 } else { 1 });
    let work = total.saturating_mul(p.taps()).saturating_mul(4);
    c.push(kernel, threads.div_ceil(256), &tail, vec![c.input(0), c.output()], work)
}

/// Plans `argMin` or `argMax`, a thread for each result.
pub(crate) fn arg(c: &mut Commands<'_>, a: &ArgMinMax) -> Result<(), Unhosted> {
    let results = a.outer * a.inner;
    let words = if a.output == DataType::Int64 { 2 } else { 1 };
    let header = Header::default()
        .constant("LARGEST", u32::from(a.kind == Arg::Max))
        .constant("WORDS", words)
        .class(a.class)
        .ok_or(WIDE)?;
    let kernel = Kernel::new("arg", &header, &[files::TYPED, files::ARG], 1, 1);
    let tail = [results, a.axis, a.inner].map(|v| v as u32);
    let work = results.saturating_mul(a.axis).saturating_mul(2);
    c.push(kernel, results.div_ceil(256), &tail, vec![c.input(0), c.output()], work)
}

/// Plans running sums, a thread for each line.
pub(crate) fn running_sum(c: &mut Commands<'_>, s: &CumulativeSum) -> Result<(), Unhosted> {
    if matches!(s.class, Class::I8 | Class::U8) {
        return Err("running sums of 8-bit integers are computed on the CPU");
    }
    let lines = s.outer * s.inner;
    if lines * s.axis == 0 {
        return Ok(());
    }
    let (header, mut parts) = fold_parts(s.class, Fold { map: 0, fold: SUM, finish: 0 })?;
    let header =
        header.constant("EXCLUSIVE", u32::from(s.exclusive)).constant("REVERSED", u32::from(s.reversed));
    parts.push(files::RUNNING_SUM);
    let kernel = Kernel::new("running sum", &header, &parts, 1, 1);
    let tail = [lines, s.axis, s.inner].map(|v| v as u32);
    let work = lines.saturating_mul(s.axis).saturating_mul(8);
    c.push(kernel, lines.div_ceil(256), &tail, vec![c.input(0), c.output()], work)
}
