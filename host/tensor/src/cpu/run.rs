//! Runs a plan: takes buffers when a step first writes them, gives them back after the last use.

use std::sync::Arc;

use crate::budget::Charge;
use crate::buffer::{Buffer, BufferPool, capacity_for, view, view_mut};
use crate::cpu::context::Context;
use crate::cpu::conv::{Conv, Operands};
use crate::cpu::interpret::{self, Memory};
use crate::cpu::matmul::broadcast_scaled;
use crate::cpu::packed::{self, Product, Right};
use crate::cpu::plan::{Kernel, Place, Plan, Step};
use crate::cpu::simd;
use crate::cpu::transposed::ConvTranspose;
use crate::error::Error;
use crate::value::{PackedForm, Value};

struct Run<'a> {
    leaves: &'a [Arc<Value>],
    buffers: Vec<Option<Buffer>>,
    pool: &'a Arc<BufferPool>,
    context: &'a Context<'a>,
}

/// The convolutions: both arrange their filter first, for all runs where it is given.
#[derive(Clone, Copy)]
enum Convolution<'a> {
    Plain(&'a Conv),
    Transposed(&'a ConvTranspose),
}

impl Convolution<'_> {
    fn packed(self) -> usize {
        match self {
            Convolution::Plain(c) => c.packed(),
            Convolution::Transposed(c) => c.packed(),
        }
    }

    fn packing(self) -> [usize; 4] {
        match self {
            Convolution::Plain(c) => c.packing(),
            Convolution::Transposed(c) => c.packing(),
        }
    }

    fn pack(self, filter: &[f32], packed: &mut [f32]) {
        match self {
            Convolution::Plain(c) => c.pack(filter, packed),
            Convolution::Transposed(c) => c.pack(filter, packed),
        }
    }

    fn run(self, context: &Context<'_>, operands: Operands<'_>) {
        match self {
            Convolution::Plain(c) => c.run(context, operands),
            Convolution::Transposed(c) => c.run(context, operands),
        }
    }
}

/// Computes the plan's results from `leaves`; `charge` covers the plan's peak.
pub(crate) fn run(
    plan: &Plan,
    context: &Context<'_>,
    leaves: &[Arc<Value>],
    mut charge: Charge,
    pool: &Arc<BufferPool>,
) -> Result<Vec<Arc<Value>>, Error> {
    let mut run = Run { leaves, buffers: Vec::new(), pool, context };
    run.buffers.resize_with(plan.slots.len(), || None);
    for step in &plan.steps {
        run.step(plan, step)?;
        // After the step: a cancelled kernel may have left elements unwritten.
        if context.cancelled() {
            return Err(Error::cancelled(step.name));
        }
    }
    let mut made: Vec<Option<Arc<Value>>> = vec![None; plan.slots.len()];
    let mut values = Vec::with_capacity(plan.results.len());
    for &(place, descriptor) in &plan.results {
        let value = match place {
            Place::Leaf(leaf) => Arc::new(run.leaf(leaf)?.with_descriptor(descriptor)),
            Place::Slot(slot) => match &made[slot as usize] {
                Some(first) if *first.descriptor() == descriptor => Arc::clone(first),
                Some(first) => Arc::new(first.with_descriptor(descriptor)),
                None => {
                    let buffer = run.buffers[slot as usize].take().ok_or_else(missing)?;
                    let own = charge.split(buffer.capacity() as u64);
                    let value = Arc::new(Value::new(descriptor, buffer, own));
                    made[slot as usize] = Some(Arc::clone(&value));
                    value
                }
            },
        };
        values.push(value);
    }
    Ok(values)
}

fn missing() -> Error {
    Error::device("dispatch", "a planned buffer is missing (a bug in Warren)")
}

impl Run<'_> {
    fn leaf(&self, leaf: u32) -> Result<&Arc<Value>, Error> {
        self.leaves.get(leaf as usize).ok_or_else(missing)
    }

    fn bytes(&self, place: Place) -> Result<&[u8], Error> {
        match place {
            Place::Leaf(leaf) => Ok(self.leaf(leaf)?.bytes()),
            Place::Slot(slot) => self.buffers[slot as usize].as_ref().map(Buffer::bytes).ok_or_else(missing),
        }
    }

    fn step(&mut self, plan: &Plan, step: &Step) -> Result<(), Error> {
        let mut outputs = Vec::with_capacity(step.outputs.len());
        for (at, &slot) in step.outputs.iter().enumerate() {
            outputs.push(match step.in_place {
                Some((input, output)) if output == at => match step.inputs[input] {
                    Place::Slot(from) => self.buffers[from as usize].take().ok_or_else(missing)?,
                    Place::Leaf(_) => return Err(missing()),
                },
                _ => self.pool.take(step.name, plan.slots[slot as usize])?,
            });
        }
        let mut scratch = match step.workspace {
            0 => None,
            bytes => Some(self.pool.take(step.name, bytes)?),
        };
        self.kernel(step, &mut outputs, scratch.as_mut())?;
        for (&slot, buffer) in step.outputs.iter().zip(outputs) {
            self.buffers[slot as usize] = Some(buffer);
        }
        for &slot in &step.frees {
            self.buffers[slot as usize] = None;
        }
        Ok(())
    }

    fn kernel(&self, step: &Step, outputs: &mut [Buffer], scratch: Option<&mut Buffer>) -> Result<(), Error> {
        let context = self.context;
        if let Kernel::Elements(program) = &step.kernel {
            let mut inputs = Vec::with_capacity(step.inputs.len());
            for (at, &place) in step.inputs.iter().enumerate() {
                inputs.push(match step.in_place {
                    Some((input, output)) if input == at => Memory::InPlaceOf(output),
                    _ => Memory::Bytes(self.bytes(place)?),
                });
            }
            let mut outputs: Vec<&mut [u8]> = outputs.iter_mut().map(Buffer::bytes_mut).collect();
            interpret::run(program, context, &inputs, &mut outputs);
            return Ok(());
        }
        let output = outputs.first_mut().map(Buffer::bytes_mut).ok_or_else(missing)?;
        let input = |at: usize| step.inputs.get(at).ok_or_else(missing).and_then(|&place| self.bytes(place));
        match &step.kernel {
            Kernel::Elements(_) => {}
            Kernel::Copy(size, copy) => copy.run(context, *size, input(0)?, output),
            Kernel::Pad(size, pad) => pad.run(context, *size, input(0)?, output),
            Kernel::Concat(concat) => {
                let inputs: Result<Vec<&[u8]>, Error> = step.inputs.iter().map(|&p| self.bytes(p)).collect();
                concat.run(context, &inputs?, output);
            }
            Kernel::Reduce(reduce) => reduce.run(context, input(0)?, output),
            Kernel::Softmax(softmax) => softmax.run(context, view(input(0)?), view_mut(output)),
            Kernel::Matmul(m) => {
                let panels = if m.batches.len() == 1 { self.panels(step, &m.product) } else { None };
                match panels {
                    Some(panels) => {
                        m.product.run(context, view(input(0)?), Right::Panels(panels), view_mut(output));
                    }
                    None => m.run(context, view(input(0)?), view(input(1)?), view_mut(output)),
                }
            }
            Kernel::Gemm(product, start) => {
                let target = view_mut(output);
                if let Some((pattern, scale)) = start {
                    broadcast_scaled(pattern, *scale, view(input(2)?), target);
                }
                let right = match self.panels(step, product) {
                    Some(panels) => Right::Panels(panels),
                    None => Right::Matrix(view(input(1)?)),
                };
                product.run(context, view(input(0)?), right, target);
            }
            Kernel::Conv(conv) => self.conv(Convolution::Plain(conv), step, output, scratch)?,
            Kernel::ConvTranspose(conv) => self.conv(Convolution::Transposed(conv), step, output, scratch)?,
            Kernel::Pool(pool) => pool.run(context, input(0)?, output),
            Kernel::Resample(size, resample) => resample.run(context, *size, input(0)?, output),
            Kernel::ArgMinMax(arg) => arg.run(context, input(0)?, output),
            Kernel::CumulativeSum(sum) => sum.run(context, input(0)?, output),
            Kernel::Normalize(normalize) => {
                let scale = if normalize.scale { view(input(1)?) } else { &[] };
                let bias = if normalize.bias { view(input(1 + usize::from(normalize.scale))?) } else { &[] };
                normalize.run(context, view(input(0)?), [scale, bias], view_mut(output));
            }
            Kernel::Gather(size, gather) => gather.run(context, *size, input(0)?, input(1)?, output),
            Kernel::GatherElements(size, along) => along.gather(context, *size, input(0)?, input(1)?, output),
            Kernel::GatherNd(size, slices) => slices.gather(context, *size, input(0)?, input(1)?, output),
            Kernel::ScatterElements(size, along) => {
                along.scatter(context, *size, [input(0)?, input(1)?, input(2)?], output);
            }
            Kernel::ScatterNd(size, slices) => {
                slices.scatter(context, *size, [input(0)?, input(1)?, input(2)?], output);
            }
            Kernel::Triangular(size, triangular) => triangular.run(context, *size, input(0)?, output),
            Kernel::Widen => {
                let (source, target) = (view(input(0)?), view_mut(output));
                simd::widen(context.isa, source, target);
            }
            Kernel::Narrow => {
                let (source, target) = (view(input(0)?), view_mut(output));
                simd::narrow(context.isa, source, target);
            }
        }
        Ok(())
    }

    /// The right side of a product in panels, where it is a value that was multiplied by before.
    fn panels(&self, step: &Step, product: &Product) -> Option<&[f32]> {
        let Some(Place::Leaf(leaf)) = step.inputs.get(1) else {
            return None;
        };
        let value = self.leaves.get(*leaf as usize)?;
        let Product { n, k, b, .. } = *product;
        // Narrower ones would be mostly padding.
        if n < 8 || k == 0 || !value.multiplied_before() {
            return None;
        }
        let form = PackedForm { descriptor: *value.descriptor(), parameters: [5, b.row, b.column, k] };
        let fill = |bytes: &mut [u8]| packed::pack(view(value.bytes()), b, k, n, view_mut(bytes));
        value.prepacked(form, packed::packed_len(k, n) * 4, self.pool, fill).map(view)
    }

    fn conv(
        &self,
        conv: Convolution<'_>,
        step: &Step,
        output: &mut [u8],
        scratch: Option<&mut Buffer>,
    ) -> Result<(), Error> {
        let (Some(&input), Some(&filter)) = (step.inputs.first(), step.inputs.get(1)) else {
            return Err(missing());
        };
        let bias = match step.inputs.get(2) {
            Some(&place) => Some(view(self.bytes(place)?)),
            None => None,
        };
        let packed_bytes = conv.packed() * 4;
        let scratch = scratch.map(Buffer::bytes_mut).unwrap_or_default();
        let (own, scratch) = scratch.split_at_mut(capacity_for(packed_bytes).min(scratch.len()));
        let raw = view(self.bytes(filter)?);
        // A filter that is given (not computed) is likely an asset: arranged once for all jobs.
        let kept = match filter {
            Place::Leaf(leaf) => {
                let value = self.leaf(leaf)?;
                let form = PackedForm { descriptor: *value.descriptor(), parameters: conv.packing() };
                let fill = |bytes: &mut [u8]| conv.pack(raw, view_mut(bytes));
                value.prepacked(form, packed_bytes, self.pool, fill)
            }
            Place::Slot(_) => None,
        };
        let packed: &[f32] = match kept {
            Some(bytes) => view(bytes),
            None => {
                let own = view_mut(own);
                conv.pack(raw, own);
                own
            }
        };
        let operands = Operands {
            input: view(self.bytes(input)?),
            filter: packed,
            bias,
            output: view_mut(output),
            scratch: view_mut(scratch),
        };
        conv.run(self.context, operands);
        Ok(())
    }
}
