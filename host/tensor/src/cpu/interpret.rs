//! Runs fused element-wise programs block by block.
// Registers and disjoint pieces of outputs are reached through pointers: the borrow checker
// cannot see that the builder never gives an instruction its own operand as target.
#![allow(unsafe_code)]

use crate::buffer::Element;
use crate::cpu::block::{self, CastFrom, Integer};
use crate::cpu::context::Context;
use crate::cpu::program::{BLOCK, Class, Code, Instruction, Pattern, Program, Spot};
use crate::cpu::simd::{self, Isa};
use crate::types::DataType;
use half::f16;

/// Elements that one task handles.
const CHUNK: usize = 32 * BLOCK;

/// Where the elements of a program's input lie.
pub(crate) enum Memory<'a> {
    /// In memory of their own.
    Bytes(&'a [u8]),
    /// Where this output will be written.
    InPlaceOf(usize),
}

#[derive(Clone, Copy)]
struct In {
    start: *const u8,
    bytes: usize,
    data_type: DataType,
}

#[derive(Clone, Copy)]
struct Out {
    start: *mut u8,
    data_type: DataType,
}

struct Operands {
    inputs: Vec<In>,
    outputs: Vec<Out>,
}
// SAFETY: tasks read inputs, and write disjoint element ranges of the outputs.
unsafe impl Sync for Operands {}

/// Runs `program`; each output holds `program.total` elements of its type.
pub(crate) fn run(
    program: &Program,
    context: &Context<'_>,
    inputs: &[Memory<'_>],
    outputs: &mut [&mut [u8]],
) {
    let total = program.total;
    let outs: Vec<Out> = outputs
        .iter_mut()
        .zip(&program.outputs)
        .map(|(bytes, &data_type)| {
            assert!(bytes.len() >= total * data_type.size(), "an output is too small");
            Out { start: bytes.as_mut_ptr(), data_type }
        })
        .collect();
    let ins = inputs.iter().zip(&program.inputs).map(|(memory, input)| {
        let data_type = input.data_type;
        match memory {
            Memory::Bytes(b) => In { start: b.as_ptr(), bytes: b.len(), data_type },
            Memory::InPlaceOf(o) => In { start: outs[*o].start, bytes: total * data_type.size(), data_type },
        }
    });
    let operands = Operands { inputs: ins.collect(), outputs: outs };
    assert!(operands.inputs.len() == program.inputs.len(), "an input is missing");
    assert!(operands.outputs.len() == program.outputs.len(), "an output is missing");
    context.for_each(total.div_ceil(CHUNK), |chunk| {
        let start = chunk * CHUNK;
        let end = total.min(start + CHUNK);
        run_chunk(program, context.isa, &operands, start, end);
    });
}

fn run_chunk(program: &Program, isa: Isa, operands: &Operands, start: usize, end: usize) {
    let block = BLOCK.min(end - start);
    let wide = |i: &Instruction| match i.code {
        Code::Cast(to) => to.size().max(i.class.size()),
        _ => i.class.size(),
    };
    let element = program.body.iter().chain(&program.prologue).map(wide).max().unwrap_or(4);
    let stride = (block * element).next_multiple_of(64);
    // One register more than the program's, for conversions.
    let mut memory = vec![0u64; (stride * (program.registers + 1)) / 8 + 8];
    let base: *mut u8 = memory.as_mut_ptr().cast();
    let base = base.wrapping_add(base.align_offset(64));
    let mut frame = Frame {
        isa,
        registers: base,
        stride,
        spare: program.registers,
        operands,
        patterns: &program.patterns,
        start,
        len: block,
    };
    for instruction in &program.prologue {
        frame.step(instruction);
    }
    while frame.start < end {
        frame.len = block.min(end - frame.start);
        for instruction in &program.body {
            frame.step(instruction);
        }
        frame.start += frame.len;
    }
}

struct Frame<'a> {
    isa: Isa,
    registers: *mut u8,
    stride: usize,
    spare: usize,
    operands: &'a Operands,
    patterns: &'a [Pattern],
    start: usize,
    len: usize,
}

/// Calls a generic method with the class's integer type, or does the float expression.
macro_rules! by_class {
    ($class:expr, $float:expr, $t:ident => $int:expr) => {
        match $class {
            Class::F32 => $float,
            Class::I32 => {
                type $t = i32;
                $int
            }
            Class::U32 => {
                type $t = u32;
                $int
            }
            Class::I64 => {
                type $t = i64;
                $int
            }
            Class::U64 => {
                type $t = u64;
                $int
            }
            Class::I8 => {
                type $t = i8;
                $int
            }
            Class::U8 => {
                type $t = u8;
                $int
            }
        }
    };
}

impl Frame<'_> {
    /// The elements at a spot. Inputs and outputs must have memory elements of type T.
    fn source<T: Element>(&self, spot: Spot) -> &[T] {
        let start: *const T = match spot {
            Spot::Reg(r) => self.registers.wrapping_add(r as usize * self.stride).cast_const().cast(),
            Spot::Input(i) => {
                let input = &self.operands.inputs[i as usize];
                assert!((self.start + self.len) * size_of::<T>() <= input.bytes, "input too small");
                input.start.cast::<T>().wrapping_add(self.start)
            }
            Spot::Output(o) => {
                let out = &self.operands.outputs[o as usize];
                out.start.cast_const().cast::<T>().wrapping_add(self.start)
            }
        };
        // SAFETY: registers hold BLOCK elements of the widest class; inputs were checked just
        // now; outputs when the run began. Nothing else writes there while it is borrowed: the
        // builder's targets are never operands, and tasks have disjoint ranges.
        unsafe { std::slice::from_raw_parts(start, self.len) }
    }

    /// The elements at a spot, to be written.
    // The slice lives in the frame's memory, not in the frame.
    #[allow(clippy::mut_from_ref)]
    fn target<T: Element>(&self, spot: Spot) -> &mut [T] {
        let start: *mut T = match spot {
            Spot::Reg(r) => self.registers.wrapping_add(r as usize * self.stride).cast(),
            Spot::Output(o) => self.operands.outputs[o as usize].start.cast::<T>().wrapping_add(self.start),
            Spot::Input(_) => return &mut [],
        };
        // SAFETY: as in `source`.
        unsafe { std::slice::from_raw_parts_mut(start, self.len) }
    }

    fn is_half(&self, spot: Spot) -> bool {
        let t = match spot {
            Spot::Reg(_) => return false,
            Spot::Input(i) => self.operands.inputs[i as usize].data_type,
            Spot::Output(o) => self.operands.outputs[o as usize].data_type,
        };
        t == DataType::Float16
    }

    fn step(&self, i: &Instruction) {
        let isa = self.isa;
        let [a, b, c] = i.args;
        match i.code {
            Code::Const(number) => by_class!(
                i.class,
                self.target::<f32>(i.dst).fill(number as f32),
                T => self.target::<T>(i.dst).fill(T::from_f64(number))
            ),
            Code::Gather(input, pattern) => {
                let pattern = &self.patterns[pattern as usize];
                if self.operands.inputs[input as usize].data_type == DataType::Float16 {
                    let spare = Spot::Reg(self.spare as u16);
                    self.gather(input, pattern, self.target::<f16>(spare));
                    simd::widen(isa, self.source(spare), self.target(i.dst));
                } else {
                    by_class!(
                        i.class,
                        self.gather(input, pattern, self.target::<f32>(i.dst)),
                        T => self.gather(input, pattern, self.target::<T>(i.dst))
                    );
                }
            }
            Code::Copy => match (self.is_half(a), self.is_half(i.dst)) {
                (true, false) => simd::widen(isa, self.source(a), self.target(i.dst)),
                (false, true) => simd::narrow(isa, self.source(a), self.target(i.dst)),
                _ => by_class!(
                    i.class,
                    self.target::<f32>(i.dst).copy_from_slice(self.source(a)),
                    T => self.target::<T>(i.dst).copy_from_slice(self.source(a))
                ),
            },
            Code::Binary(op) => by_class!(
                i.class,
                block::binary_f32(isa, op, self.source(a), self.source(b), self.target(i.dst)),
                T => block::binary_int::<T>(isa, op, self.source(a), self.source(b), self.target(i.dst))
            ),
            Code::Compare(op) => by_class!(
                i.class,
                block::compare::<f32>(isa, op, self.source(a), self.source(b), self.target(i.dst)),
                T => block::compare::<T>(isa, op, self.source(a), self.source(b), self.target(i.dst))
            ),
            Code::Logical(op) => {
                block::logical(isa, op, self.source(a), self.source(b), self.target(i.dst));
            }
            Code::LogicalNot => block::logical_not(isa, self.source(a), self.target(i.dst)),
            Code::IsNan => block::classify_f32(isa, true, self.source(a), self.target(i.dst)),
            Code::IsInfinite => block::classify_f32(isa, false, self.source(a), self.target(i.dst)),
            Code::Float(map) => block::map_f32(isa, map, self.source(a), self.target(i.dst)),
            Code::Int(map) => by_class!(
                i.class,
                (),
                T => block::map_int::<T>(isa, map, self.source(a), self.target(i.dst))
            ),
            Code::Select => by_class!(
                i.class,
                block::select::<f32>(isa, self.source(a), self.source(b), self.source(c), self.target(i.dst)),
                T => block::select::<T>(isa, self.source(a), self.source(b), self.source(c), self.target(i.dst))
            ),
            Code::Cast(to) => by_class!(
                i.class,
                self.cast_from::<f32>(to, a, i.dst),
                T => self.cast_from::<T>(to, a, i.dst)
            ),
        }
        if i.round {
            simd::round_to_half(isa, self.target(i.dst));
        }
    }

    fn cast_from<S: Element>(&self, to: Class, a: Spot, dst: Spot)
    where
        f32: CastFrom<S>,
        i8: CastFrom<S>,
        u8: CastFrom<S>,
        i32: CastFrom<S>,
        u32: CastFrom<S>,
        i64: CastFrom<S>,
        u64: CastFrom<S>,
    {
        by_class!(
            to,
            block::cast::<S, f32>(self.isa, self.source(a), self.target(dst)),
            T => block::cast::<S, T>(self.isa, self.source(a), self.target(dst))
        );
    }

    /// Fills `target` with the elements of a broadcast input that belong to this block.
    fn gather<T: Element>(&self, input: u16, pattern: &Pattern, target: &mut [T]) {
        let input = &self.operands.inputs[input as usize];
        let count = input.bytes / size_of::<T>();
        // SAFETY: `bytes` is the length of the slice that `start` was taken of.
        let source = unsafe { std::slice::from_raw_parts(input.start.cast::<T>(), count) };
        let mut index = [0usize; crate::shape::MAX_RANK];
        let mut rest = self.start;
        let mut offset = 0;
        for (i, &(size, stride)) in pattern.iter().enumerate().rev() {
            index[i] = rest % size;
            rest /= size;
            offset += index[i] * stride;
        }
        let last = pattern.len() - 1;
        let (size, stride) = pattern[last];
        let mut done = 0;
        while done < target.len() {
            let run = (size - index[last]).min(target.len() - done);
            let piece = &mut target[done..done + run];
            match stride {
                0 => piece.fill(source[offset]),
                1 => piece.copy_from_slice(&source[offset..offset + run]),
                _ => {
                    let from = source[offset..].iter().step_by(stride);
                    piece.iter_mut().zip(from).for_each(|(t, s)| *t = *s);
                }
            }
            done += run;
            offset += run * stride;
            index[last] += run;
            let mut axis = last;
            while index[axis] == pattern[axis].0 && axis > 0 {
                offset -= index[axis] * pattern[axis].1;
                index[axis] = 0;
                axis -= 1;
                index[axis] += 1;
                offset += pattern[axis].1;
            }
        }
    }
}
