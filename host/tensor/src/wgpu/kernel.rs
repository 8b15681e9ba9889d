//! Kernels as text: a header of constants, shared functions, and a file each. A kernel's text is
//! its identity: the pipeline cache is keyed by it, so constants make variants.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::cpu::program::Class;

/// A compute shader, its entry point `main`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Kernel {
    /// What people may call it.
    pub name: &'static str,
    /// WGSL. Binding 0 holds the sizes, then come `inputs` read and `outputs` written buffers.
    pub text: Arc<str>,
    pub inputs: u32,
    pub outputs: u32,
}

/// The files that kernels are made of.
pub(crate) mod files {
    pub const BASE: &str = include_str!("kernels/base.wgsl");
    pub const HALF: &str = include_str!("kernels/half.wgsl");
    pub const MATH: &str = include_str!("kernels/math.wgsl");
    pub const INTEGER: &str = include_str!("kernels/integer.wgsl");
    pub const MOVE: &str = include_str!("kernels/move.wgsl");
    pub const COPY: &str = include_str!("kernels/copy.wgsl");
    pub const PAD: &str = include_str!("kernels/pad.wgsl");
    pub const JOIN: &str = include_str!("kernels/join.wgsl");
    pub const JOIN_BYTES: &str = include_str!("kernels/join_bytes.wgsl");
    pub const FILL: &str = include_str!("kernels/fill.wgsl");
    pub const INDEX: &str = include_str!("kernels/index.wgsl");
    pub const GATHER: &str = include_str!("kernels/gather.wgsl");
    pub const CLAIM: &str = include_str!("kernels/claim.wgsl");
    pub const SCATTER: &str = include_str!("kernels/scatter.wgsl");
    pub const TRIANGULAR: &str = include_str!("kernels/triangular.wgsl");
    pub const NEAREST: &str = include_str!("kernels/nearest.wgsl");
    pub const LINEAR: &str = include_str!("kernels/linear.wgsl");
    pub const HALF_CONVERT: &str = include_str!("kernels/half_convert.wgsl");
    pub const TYPED: &str = include_str!("kernels/typed.wgsl");
    pub const FOLD_FLOAT: &str = include_str!("kernels/fold_float.wgsl");
    pub const FOLD_INTEGER: &str = include_str!("kernels/fold_integer.wgsl");
    pub const REDUCE_EACH: &str = include_str!("kernels/reduce_each.wgsl");
    pub const REDUCE_GROUP: &str = include_str!("kernels/reduce_group.wgsl");
    pub const ROWS: &str = include_str!("kernels/rows.wgsl");
    pub const SOFTMAX_ROWS: &str = include_str!("kernels/softmax_rows.wgsl");
    pub const SOFTMAX_COLUMNS: &str = include_str!("kernels/softmax_columns.wgsl");
    pub const NORMALIZE: &str = include_str!("kernels/normalize.wgsl");
    pub const POOL: &str = include_str!("kernels/pool.wgsl");
    pub const ARG: &str = include_str!("kernels/arg.wgsl");
    pub const RUNNING_SUM: &str = include_str!("kernels/running_sum.wgsl");
    pub const MATMUL_IO: &str = include_str!("kernels/matmul_io.wgsl");
    pub const CONV_IO: &str = include_str!("kernels/conv_io.wgsl");
    pub const GEMM_LOAD: &str = include_str!("kernels/gemm_load.wgsl");
    pub const GEMM_TILE: &str = include_str!("kernels/gemm_tile.wgsl");
    pub const GEMM_WIDE: &str = include_str!("kernels/gemm_wide.wgsl");
    pub const GEMM_THIN: &str = include_str!("kernels/gemm_thin.wgsl");
    pub const GEMM_EACH: &str = include_str!("kernels/gemm_each.wgsl");
}

impl Kernel {
    /// A kernel of these files, behind the shared base.
    pub fn new(name: &'static str, header: &Header, parts: &[&str], inputs: u32, outputs: u32) -> Kernel {
        let mut text = String::with_capacity(header.0.len() + parts.iter().map(|p| p.len()).sum::<usize>());
        text.push_str(&header.0);
        text.push_str(files::BASE);
        parts.iter().for_each(|p| text.push_str(p));
        Kernel { name, text: text.into(), inputs, outputs }
    }
}

/// Constants and small functions that make a variant of a kernel.
#[derive(Debug, Default)]
pub(crate) struct Header(pub String);

impl Header {
    /// With one more constant.
    pub fn constant(mut self, name: &str, value: u32) -> Header {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "const {name} = {value}u;");
        self
    }

    /// With this text.
    pub fn text(mut self, text: &str) -> Header {
        self.0.push_str(text);
        self.0.push('\n');
        self
    }

    /// With the size of elements, as `move.wgsl` and `scatter.wgsl` want it.
    pub fn size(self, size: usize) -> Header {
        let mask = match size {
            1 => 0xff,
            2 => 0xffff,
            _ => u32::MAX,
        };
        let per_word = if size < 4 { 4 / size as u32 } else { 1 };
        self.constant("SIZE", size as u32).constant("PER_WORD", per_word).constant("MASK", mask)
    }

    /// With the type of elements, as `typed.wgsl` and what follows it want it. `None` for types
    /// that no device is trusted with.
    pub fn class(self, class: Class) -> Option<Header> {
        let header = |h: Header, size: u32, text: &str| {
            h.constant("SIZE", size).constant("PER_WORD", 4 / size).text(text)
        };
        Some(match class {
            Class::F32 => header(
                self,
                4,
                "alias T = f32;
                 fn unpack(bits: u32) -> f32 { return bitcast<f32>(bits); }
                 fn pack(v: f32) -> u32 { return bitcast<u32>(v); }
                 fn nan(v: f32) -> bool { return is_nan(v); }",
            ),
            Class::I32 => header(
                self,
                4,
                "alias T = i32;
                 const LEAST = -2147483647 - 1; const GREATEST = 2147483647;
                 fn unpack(bits: u32) -> i32 { return bitcast<i32>(bits); }
                 fn pack(v: i32) -> u32 { return bitcast<u32>(v); }
                 fn wrap(v: i32) -> i32 { return v; }
                 fn nan(v: i32) -> bool { return false; }",
            ),
            Class::U32 => header(
                self,
                4,
                "alias T = u32;
                 const LEAST = 0u; const GREATEST = 0xffffffffu;
                 fn unpack(bits: u32) -> u32 { return bits; }
                 fn pack(v: u32) -> u32 { return v; }
                 fn wrap(v: u32) -> u32 { return v; }
                 fn nan(v: u32) -> bool { return false; }",
            ),
            Class::I8 => header(
                self,
                1,
                "alias T = i32;
                 const LEAST = -128; const GREATEST = 127;
                 fn unpack(bits: u32) -> i32 { return bitcast<i32>(bits << 24u) >> 24u; }
                 fn pack(v: i32) -> u32 { return bitcast<u32>(v) & 0xffu; }
                 fn wrap(v: i32) -> i32 { return (v << 24u) >> 24u; }
                 fn nan(v: i32) -> bool { return false; }",
            ),
            Class::U8 => header(
                self,
                1,
                "alias T = u32;
                 const LEAST = 0u; const GREATEST = 255u;
                 fn unpack(bits: u32) -> u32 { return bits & 0xffu; }
                 fn pack(v: u32) -> u32 { return v & 0xffu; }
                 fn wrap(v: u32) -> u32 { return v & 0xffu; }
                 fn nan(v: u32) -> bool { return false; }",
            ),
            Class::I64 | Class::U64 => return None,
        })
    }
}
