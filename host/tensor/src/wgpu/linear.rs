//! The commands of products and convolutions: which variant of the product suits the sizes.

use crate::cpu::conv::Conv;
use crate::cpu::matmul::Matmul;
use crate::cpu::packed::Product;
use crate::cpu::program::Pattern;
use crate::cpu::transposed::ConvTranspose;
use crate::op::{FilterLayout, InputLayout, TransposeFilterLayout};
use crate::wgpu::command::{Bind, Commands, Unhosted};
use crate::wgpu::elements::activation;
use crate::wgpu::kernel::{Header, Kernel, files};
use crate::wgpu::numeric::countable;

/// Workgroups that fill a device: below, smaller pieces are better.
const MANY: usize = 64;

/// Sizes of `batch` products.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
    /// Whether neighbours along k lie closer in memory than neighbours along the other dimension.
    a_along_k: bool,
    b_along_k: bool,
}

/// A variant of the product: its file, and the workgroups it takes.
fn variant(s: &Sizes) -> (&'static str, &'static str, usize) {
    let tiles = |rows: usize, columns: usize| s.batch * s.m.div_ceil(rows) * s.n.div_ceil(columns);
    if s.m == 1 && s.k < 64 || s.n < 4 || s.k < 4 {
        ("gemm each", files::GEMM_EACH, s.batch * (s.m * s.n).div_ceil(256))
    } else if s.m <= 8 {
        ("gemm thin", files::GEMM_THIN, tiles(4, 64))
    } else if s.m >= 128 && s.n >= 128 && tiles(128, 128) >= MANY {
        ("gemm wide", files::GEMM_WIDE, tiles(128, 128))
    } else {
        ("gemm tile", files::GEMM_TILE, tiles(64, 64))
    }
}

fn product(
    c: &mut Commands<'_>,
    header: Header,
    io: &'static str,
    sizes: Sizes,
    tail: &[u32],
    binds: Vec<Bind>,
) -> Result<(), Unhosted> {
    if sizes.batch * sizes.m * sizes.n == 0 {
        return Ok(());
    }
    let (name, file, groups) = variant(&sizes);
    let header = header
        .constant("A_ALONG_K", u32::from(sizes.a_along_k))
        .constant("B_ALONG_K", u32::from(sizes.b_along_k));
    let kernel = Kernel::new(name, &header, &[io, files::GEMM_LOAD, file], binds.len() as u32 - 1, 1);
    let mut params = [sizes.m, sizes.n, sizes.k].map(|v| v as u32).to_vec();
    params.extend_from_slice(tail);
    let work = sizes.batch.saturating_mul(sizes.m).saturating_mul(sizes.n).saturating_mul(sizes.k.max(1));
    c.push(kernel, groups, &params, binds, work)
}

/// Plans batched products.
pub(crate) fn matmul(c: &mut Commands<'_>, m: &Matmul) -> Result<(), Unhosted> {
    let binds = vec![c.input(0), c.input(1), c.output()];
    dense(c, &m.product, &m.batches, None, binds)
}

/// Plans one product, plus a scaled third operand.
pub(crate) fn gemm(
    c: &mut Commands<'_>,
    p: &Product,
    third: Option<&(Pattern, f32)>,
) -> Result<(), Unhosted> {
    let mut binds = vec![c.input(0), c.input(1)];
    if third.is_some() {
        binds.push(c.input(2));
    }
    binds.push(c.output());
    dense(c, p, &[(0, 0)], third, binds)
}

fn dense(
    c: &mut Commands<'_>,
    p: &Product,
    batches: &[(usize, usize)],
    third: Option<&(Pattern, f32)>,
    binds: Vec<Bind>,
) -> Result<(), Unhosted> {
    let header = match third {
        Some(_) => Header::default().text(
            "@group(0) @binding(3) var<storage, read> C: array<f32>;
             @group(0) @binding(4) var<storage, read_write> D: array<f32>;
             fn started(v: f32, at: u32) -> f32 {
                 return v + bitcast<f32>(P[10]) * C[strided(12u, P[11], at)];
             }",
        ),
        None => Header::default().text(
            "@group(0) @binding(3) var<storage, read_write> D: array<f32>;
             fn started(v: f32, at: u32) -> f32 { return v; }",
        ),
    };
    let mut tail = [p.a.row, p.a.column, p.b.row, p.b.column].map(|v| v as u32).to_vec();
    let (pattern, beta): (&[(usize, usize)], f32) =
        third.map_or((&[], 0.0), |(pattern, beta)| (pattern, *beta));
    if pattern.len() > 2 {
        return Err("its third operand is read in too many dimensions (a bug in Warren)");
    }
    tail.extend([p.scale.to_bits(), beta.to_bits(), pattern.len() as u32]);
    let mut dims = [0; 4];
    for (to, &(size, stride)) in dims.chunks_exact_mut(2).zip(pattern) {
        to.copy_from_slice(&[size as u32, stride as u32]);
    }
    tail.extend(dims);
    tail.extend(batches.iter().flat_map(|&(a, b)| [a as u32, b as u32]));
    let sizes = Sizes {
        batch: batches.len(),
        m: p.m,
        n: p.n,
        k: p.k,
        a_along_k: p.a.column <= p.a.row,
        b_along_k: p.b.row < p.b.column,
    };
    product(c, header, files::MATMUL_IO, sizes, &tail, binds)
}

/// What `conv_io.wgsl` reads behind the sizes of the products.
struct Geometry {
    inputs: usize,
    kw: usize,
    ow: usize,
    ih: usize,
    iw: usize,
    padding: [u32; 4],
    strides: [u32; 2],
    dilations: [u32; 2],
    groups: usize,
    /// Image, channel, row, column.
    input: [usize; 4],
    /// Image, channel, pixel.
    output: [usize; 3],
    /// Output channel, input channel, row, column, group.
    filter: [usize; 5],
}

impl Geometry {
    fn params(&self) -> Vec<u32> {
        let mut out =
            vec![self.inputs as u32, self.kw as u32, self.ow as u32, self.ih as u32, self.iw as u32];
        out.extend([self.padding[0], self.padding[2]]);
        out.extend(self.strides);
        out.extend(self.dilations);
        out.push(self.groups as u32);
        let strides = self.input.iter().chain(&self.output).chain(&self.filter);
        out.extend(strides.map(|&v| v as u32));
        out
    }
}

/// Strides of an image tensor: image, channel, row, column.
fn image_strides(layout: InputLayout, c: usize, h: usize, w: usize) -> [usize; 4] {
    match layout {
        InputLayout::Nchw => [c * h * w, h * w, w, 1],
        InputLayout::Nhwc => [h * w * c, 1, w * c, c],
    }
}

fn conv_header(transposed: bool, bias: bool, activate: &str) -> Header {
    let (bias_text, result) = if bias {
        (
            "@group(0) @binding(3) var<storage, read> BIAS: array<f32>;
             fn biased(v: f32, channel: u32) -> f32 { return v + BIAS[channel]; }",
            4,
        )
    } else {
        ("fn biased(v: f32, channel: u32) -> f32 { return v; }", 3)
    };
    Header::default()
        .constant("TRANSPOSED", u32::from(transposed))
        .text(&format!("@group(0) @binding({result}) var<storage, read_write> D: array<f32>;"))
        .text(bias_text)
        .text(activate)
}

fn conv_binds(c: &Commands<'_>) -> Vec<Bind> {
    let mut binds: Vec<Bind> = (0..c.inputs.len()).map(|i| c.input(i)).collect();
    binds.push(c.output());
    binds
}

/// Plans a convolution as products that unfold the input while they read it.
pub(crate) fn conv(c: &mut Commands<'_>, conv: &Conv) -> Result<(), Unhosted> {
    let (s, o) = (&conv.sizes, &conv.options);
    let groups = o.groups as usize;
    let (inputs, outputs) = (s.ic / groups, s.oc / groups);
    let wide = |v: u32| v as usize;
    let reach = |axis: usize, out: usize, window: usize, size: usize| {
        let (stride, dilation) = (wide(o.strides[axis]), wide(o.dilations[axis]));
        let padding = wide(o.padding[2 * axis]);
        countable(&[out.saturating_mul(stride), window.saturating_mul(dilation), padding, size])
    };
    if !reach(0, s.oh, s.kh, s.ih) || !reach(1, s.ow, s.kw, s.iw) {
        return Err("its window reaches beyond what a device counts");
    }
    let [so, si, sh, sw] = match o.filter_layout {
        FilterLayout::Oihw => [inputs * s.kh * s.kw, s.kh * s.kw, s.kw, 1],
        FilterLayout::Hwio => [1, s.oc, s.kw * inputs * s.oc, inputs * s.oc],
        FilterLayout::Ohwi => [s.kh * s.kw * inputs, 1, s.kw * inputs, inputs],
        FilterLayout::Ihwo => [1, s.kh * s.kw * s.oc, s.kw * s.oc, s.oc],
    };
    let out = image_strides(o.input_layout, s.oc, s.oh, s.ow);
    let geometry = Geometry {
        inputs,
        kw: s.kw,
        ow: s.ow,
        ih: s.ih,
        iw: s.iw,
        padding: o.padding,
        strides: o.strides,
        dilations: o.dilations,
        groups,
        input: image_strides(o.input_layout, s.ic, s.ih, s.iw),
        output: [out[0], out[1], out[3]],
        filter: [so, si, sh, sw, outputs * so],
    };
    let sizes = Sizes {
        batch: s.n * groups,
        m: outputs,
        n: s.oh * s.ow,
        k: inputs * s.kh * s.kw,
        a_along_k: so != 1,
        b_along_k: o.input_layout == InputLayout::Nhwc,
    };
    let mut tail = geometry.params();
    // Behind the two first of `P` and the sizes of the product.
    let first = 5 + tail.len();
    let mut numbers = Vec::new();
    let activate = activation(conv.activation, &mut numbers, first);
    tail.extend(numbers);
    let mut header = conv_header(false, c.inputs.len() > 2, &activate);
    if conv.activation.is_some() {
        header = header.text(files::MATH);
    }
    let binds = conv_binds(c);
    product(c, header, files::CONV_IO, sizes, &tail, binds)
}

/// Plans a transposed convolution: each output pixel gathers what reaches it.
pub(crate) fn conv_transpose(c: &mut Commands<'_>, conv: &ConvTranspose) -> Result<(), Unhosted> {
    let (s, o) = (&conv.sizes, &conv.options);
    let groups = o.groups as usize;
    let (inputs, outputs) = (s.ic / groups, s.oc / groups);
    let wide = |v: u32| v as usize;
    let reach = |axis: usize, out: usize, window: usize, size: usize| {
        let (stride, dilation) = (wide(o.strides[axis]), wide(o.dilations[axis]));
        let padding = wide(o.padding[2 * axis]);
        countable(&[size.saturating_mul(stride), window.saturating_mul(dilation), padding, out])
    };
    if !reach(0, s.oh, s.kh, s.ih) || !reach(1, s.ow, s.kw, s.iw) {
        return Err("its window reaches beyond what a device counts");
    }
    let [si, so, sh, sw] = match o.filter_layout {
        TransposeFilterLayout::Iohw => [outputs * s.kh * s.kw, s.kh * s.kw, s.kw, 1],
        TransposeFilterLayout::Hwoi => [1, s.ic, s.kw * outputs * s.ic, outputs * s.ic],
        TransposeFilterLayout::Ohwi => [1, s.kh * s.kw * s.ic, s.kw * s.ic, s.ic],
    };
    let out = image_strides(o.input_layout, s.oc, s.oh, s.ow);
    let geometry = Geometry {
        inputs,
        kw: s.kw,
        ow: s.ow,
        ih: s.ih,
        iw: s.iw,
        padding: o.padding,
        strides: o.strides,
        dilations: o.dilations,
        groups,
        input: image_strides(o.input_layout, s.ic, s.ih, s.iw),
        output: [out[0], out[1], out[3]],
        filter: [so, si, sh, sw, inputs * si],
    };
    let sizes = Sizes {
        batch: s.n * groups,
        m: outputs,
        n: s.oh * s.ow,
        k: inputs * s.kh * s.kw,
        a_along_k: si == 1,
        b_along_k: o.input_layout == InputLayout::Nhwc,
    };
    let tail = geometry.params();
    let activate = activation(None, &mut Vec::new(), 0);
    let header = conv_header(true, c.inputs.len() > 2, &activate);
    let binds = conv_binds(c);
    product(c, header, files::CONV_IO, sizes, &tail, binds)
}
