//! A compiled graph for the CPU: kernels in order, and the memory that each needs.

use crate::cpu::conv::Conv;
use crate::cpu::index::{Along, Gather, Slices};
use crate::cpu::matmul::Matmul;
use crate::cpu::movement::{Concat, Pad, StridedCopy};
use crate::cpu::normalize::Normalize;
use crate::cpu::packed::Product;
use crate::cpu::pool::{Pool, Resample};
use crate::cpu::program::{Pattern, Program};
use crate::cpu::reduce::{Reduce, Softmax};
use crate::cpu::scan::{ArgMinMax, CumulativeSum, Triangular};
use crate::cpu::transposed::ConvTranspose;
use crate::rules::Descriptor;

/// Where a tensor lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A value given to the run.
    Leaf(u32),
    /// A buffer of the run.
    Slot(u32),
}

/// What a step does. Operands and results are dense, row-major.
#[derive(Debug, Clone)]
pub(crate) enum Kernel {
    /// A fused element-wise chain.
    Elements(Program),
    /// Element size, copy.
    Copy(usize, StridedCopy),
    /// Element size, padding.
    Pad(usize, Pad),
    Concat(Concat),
    Reduce(Reduce),
    Softmax(Softmax),
    Matmul(Matmul),
    /// The product, and how a third operand is read and scaled beforehand.
    Gemm(Product, Option<(Pattern, f32)>),
    Conv(Box<Conv>),
    ConvTranspose(Box<ConvTranspose>),
    Pool(Pool),
    /// Element size, resampling.
    Resample(usize, Resample),
    ArgMinMax(ArgMinMax),
    CumulativeSum(CumulativeSum),
    /// Operands: the rows, then scale and bias where said to be given.
    Normalize(Normalize),
    /// Element size, sizes. Operands input, indices.
    Gather(usize, Gather),
    /// As above.
    GatherElements(usize, Along),
    /// As above.
    GatherNd(usize, Slices),
    /// Element size, sizes. Operands input, indices, updates.
    ScatterElements(usize, Along),
    /// As above.
    ScatterNd(usize, Slices),
    /// Element size, matrices.
    Triangular(usize, Triangular),
    /// float16 to float32.
    Widen,
    /// float32 to float16.
    Narrow,
}

/// One kernel and its operands.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub kernel: Kernel,
    /// The operation that it is for, to name in errors.
    pub name: &'static str,
    pub inputs: Vec<Place>,
    /// Slots written, all of their elements.
    pub outputs: Vec<u32>,
    /// Bytes of scratch.
    pub workspace: usize,
    /// Slots not needed after this step.
    pub frees: Vec<u32>,
    /// Input and output (by place in the lists) that share a buffer.
    pub in_place: Option<(usize, usize)>,
}

/// A compiled graph.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Bytes of each slot.
    pub slots: Vec<usize>,
    pub steps: Vec<Step>,
    /// The wanted tensors.
    pub results: Vec<(Place, Descriptor)>,
    /// The most bytes held at once.
    pub peak: u64,
    /// Whether there is work enough to share among threads.
    pub parallel: bool,
}

impl Plan {
    /// About how many bytes the plan takes.
    pub fn weight(&self) -> usize {
        let steps: usize = self.steps.iter().map(Step::weight).sum();
        size_of::<Plan>()
            + steps
            + self.slots.len() * size_of::<usize>()
            + self.results.len() * size_of::<(Place, Descriptor)>()
    }
}

impl Step {
    fn weight(&self) -> usize {
        let kernel = match &self.kernel {
            Kernel::Elements(p) => {
                (p.body.len() + p.prologue.len()) * size_of::<crate::cpu::program::Instruction>()
                    + p.patterns.len() * 64
            }
            Kernel::Matmul(m) => m.batches.len() * 16,
            Kernel::Conv(c) => size_of::<Conv>() + c.taps() * 4,
            Kernel::ConvTranspose(_) => size_of::<ConvTranspose>(),
            Kernel::Concat(c) => c.pieces.len() * 8,
            Kernel::GatherNd(_, s) | Kernel::ScatterNd(_, s) => s.dims.len() * 8,
            _ => 64,
        };
        size_of::<Step>() + kernel + (self.inputs.len() + self.outputs.len() + self.frees.len()) * 8
    }
}
