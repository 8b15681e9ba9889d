//! Fused element-wise programs: a short list of instructions over registers, each a block of
//! elements in the first-level cache, so that a chain of operations passes over memory once.

use crate::cpu::block::{FloatMap, IntMap};
use crate::op::{Binary, Compare, Logical, Op, Unary};
use crate::rules::Descriptor;
use crate::shape::{Dims, broadcast_strides};
use crate::types::DataType;

/// Elements of a register.
pub(crate) const BLOCK: usize = 1024;

/// How a register holds elements. float16 is computed as float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    F32,
    I32,
    U32,
    I64,
    U64,
    I8,
    U8,
}

impl Class {
    /// The class that computes a type.
    pub fn of(data_type: DataType) -> Class {
        match data_type {
            DataType::Float32 | DataType::Float16 => Class::F32,
            DataType::Int32 => Class::I32,
            DataType::Uint32 => Class::U32,
            DataType::Int64 => Class::I64,
            DataType::Uint64 => Class::U64,
            DataType::Int8 => Class::I8,
            DataType::Uint8 => Class::U8,
        }
    }

    /// Bytes of an element in a register.
    pub fn size(self) -> usize {
        match self {
            Class::F32 | Class::I32 | Class::U32 => 4,
            Class::I64 | Class::U64 => 8,
            Class::I8 | Class::U8 => 1,
        }
    }
}

/// Where an instruction reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spot {
    /// A register.
    Reg(u16),
    /// An input's memory, read as it lies.
    Input(u16),
    /// An output's memory.
    Output(u16),
}

/// What an instruction does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Code {
    /// Every element this number, converted to the class.
    Const(f64),
    /// Reads input `.0` by broadcast pattern `.1`.
    Gather(u16, u16),
    /// Copies, converting between memory and register form of `.0` if they differ.
    Copy,
    Binary(Binary),
    Compare(Compare),
    Logical(Logical),
    LogicalNot,
    IsNan,
    IsInfinite,
    Float(FloatMap),
    Int(IntMap),
    Select,
    /// To this class.
    Cast(Class),
}

/// One instruction.
#[derive(Debug, Clone)]
pub(crate) struct Instruction {
    pub code: Code,
    /// Class of the operands (for `Select`: of the values).
    pub class: Class,
    pub args: [Spot; 3],
    pub dst: Spot,
    /// Round the float32 result to float16.
    pub round: bool,
}

/// A memory operand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Input {
    pub data_type: DataType,
}

/// Collapsed dimensions of a broadcast read: (size, stride in elements), innermost last.
pub(crate) type Pattern = Vec<(usize, usize)>;

/// A fused chain.
#[derive(Debug, Clone, Default)]
pub(crate) struct Program {
    /// Run once for each chunk: constants and scalars.
    pub prologue: Vec<Instruction>,
    /// Run for each block.
    pub body: Vec<Instruction>,
    pub patterns: Vec<Pattern>,
    pub inputs: Vec<Input>,
    pub outputs: Vec<DataType>,
    /// Registers used.
    pub registers: usize,
    /// Elements of each output.
    pub total: usize,
}

/// An operand of the node being added.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Operand {
    /// The result of an earlier node of this program.
    Computed(usize),
    /// This number everywhere, as the bits of an f64 (so that 0 and -0 differ).
    Number(u64, DataType),
    /// Input `.0` of this program, of this type and shape.
    Memory(usize, Descriptor),
}

/// Builds a [`Program`]: values are numbered in the order they are added.
pub(crate) struct Builder {
    program: Program,
    /// For each computed node: the virtual register.
    nodes: Vec<Virtual>,
    virtuals: usize,
    /// Operands read so far, each as broadcast to this shape.
    loaded: Vec<(Operand, Dims, Virtual)>,
    pinned: Vec<usize>,
}

/// A value before registers are assigned: its spot (register numbers are virtual) and type.
#[derive(Debug, Clone, Copy)]
struct Virtual {
    spot: Spot,
    data_type: DataType,
}

impl Builder {
    /// A program over so many elements. Its operations may have different shapes of that many.
    pub fn new(total: usize) -> Builder {
        Builder {
            program: Program { total, ..Program::default() },
            nodes: Vec::new(),
            virtuals: 0,
            loaded: Vec::new(),
            pinned: Vec::new(),
        }
    }

    /// Declares a memory operand.
    pub fn input(&mut self, data_type: DataType) -> usize {
        self.program.inputs.push(Input { data_type });
        self.program.inputs.len() - 1
    }

    /// Adds an element-wise operation; `output` also stores its result in a new output.
    pub fn add(&mut self, op: &Op, operands: &[Operand], result: Descriptor, output: bool) {
        let shape = result.shape;
        let result = result.data_type;
        let args: Vec<Virtual> = operands.iter().map(|&o| self.load(o, &shape)).collect();
        let first = args.first().copied();
        let operand_type = match op {
            Op::Where => args.get(1).map_or(result, |a| a.data_type),
            _ => first.map_or(result, |a| a.data_type),
        };
        let value = match code_of(op, operand_type, result) {
            Some(code) => {
                let mut spots = [Spot::Reg(0); 3];
                args.iter().zip(&mut spots).for_each(|(a, s)| *s = a.spot);
                self.emit(code, operand_type, spots, result, output)
            }
            // `expand` and `fill` are their operand, read as this program's shape.
            None => {
                let source = match (op, first) {
                    (Op::Fill { value, data_type, .. }, _) => {
                        self.load(Operand::Number(value.to_bits(), *data_type), &shape)
                    }
                    (_, Some(first)) => first,
                    _ => self.load(Operand::Number(0, result), &shape),
                };
                if output { self.emit(Code::Copy, result, [source.spot; 3], result, true) } else { source }
            }
        };
        self.nodes.push(value);
    }

    fn emit(
        &mut self,
        code: Code,
        operand_type: DataType,
        args: [Spot; 3],
        result: DataType,
        output: bool,
    ) -> Virtual {
        let half = result == DataType::Float16;
        let spot = if output && !half {
            self.program.outputs.push(result);
            Spot::Output(self.program.outputs.len() as u16 - 1)
        } else {
            self.new_register()
        };
        let exact = matches!(code, Code::Copy | Code::Select);
        self.program.body.push(Instruction {
            code,
            class: Class::of(operand_type),
            args,
            dst: spot,
            round: half && !exact,
        });
        if output && half {
            self.program.outputs.push(result);
            let dst = Spot::Output(self.program.outputs.len() as u16 - 1);
            let class = Class::F32;
            self.program.body.push(Instruction {
                code: Code::Copy,
                class,
                args: [spot; 3],
                dst,
                round: false,
            });
        }
        Virtual { spot, data_type: result }
    }

    fn new_register(&mut self) -> Spot {
        self.virtuals += 1;
        Spot::Reg(self.virtuals as u16 - 1)
    }

    fn load(&mut self, operand: Operand, shape: &Dims) -> Virtual {
        if let Operand::Computed(node) = operand {
            return self.nodes[node];
        }
        let known = self.loaded.iter().find(|(o, s, _)| *o == operand && s == shape);
        if let Some((_, _, value)) = known {
            return *value;
        }
        let value = match operand {
            Operand::Number(number, data_type) => {
                let dst = self.new_register();
                self.pin(dst);
                self.program.prologue.push(Instruction {
                    code: Code::Const(f64::from_bits(number)),
                    class: Class::of(data_type),
                    args: [dst; 3],
                    dst,
                    round: data_type == DataType::Float16,
                });
                Virtual { spot: dst, data_type }
            }
            Operand::Memory(input, d) => self.load_memory(input as u16, d, shape),
            Operand::Computed(node) => self.nodes[node],
        };
        self.loaded.push((operand, *shape, value));
        value
    }

    fn load_memory(&mut self, input: u16, d: Descriptor, shape: &Dims) -> Virtual {
        let pattern = collapse(&d.shape, shape);
        let data_type = d.data_type;
        let whole = d.shape.count() == self.program.total;
        let half = data_type == DataType::Float16;
        if whole && !half {
            return Virtual { spot: Spot::Input(input), data_type };
        }
        let dst = self.new_register();
        let class = Class::of(data_type);
        let scalar = !whole && d.shape.count() == 1;
        let code = if whole {
            Code::Copy
        } else {
            self.program.patterns.push(if scalar { vec![(self.program.total, 0)] } else { pattern });
            Code::Gather(input, self.program.patterns.len() as u16 - 1)
        };
        let spot = Spot::Input(input);
        let load = Instruction { code, class, args: [spot; 3], dst, round: false };
        if scalar {
            self.pin(dst);
            self.program.prologue.push(load);
        } else {
            self.program.body.push(load);
        }
        Virtual { spot: dst, data_type }
    }

    fn pin(&mut self, spot: Spot) {
        if let Spot::Reg(r) = spot {
            self.pinned.push(r as usize);
        }
    }

    /// The program, its registers assigned so that few are needed.
    pub fn finish(self) -> Program {
        let mut program = self.program;
        let mut last_use = vec![0usize; self.virtuals];
        for (at, i) in program.body.iter().enumerate() {
            for spot in i.args.iter().take(arity(i.code)).chain([&i.dst]) {
                if let Spot::Reg(r) = spot {
                    last_use[*r as usize] = at;
                }
            }
        }
        let mut place = vec![u16::MAX; self.virtuals];
        let mut used = 0u16;
        for &r in &self.pinned {
            place[r] = used;
            last_use[r] = usize::MAX;
            used += 1;
        }
        let mut free: Vec<u16> = Vec::new();
        for (at, i) in program.body.iter_mut().enumerate() {
            let count = arity(i.code);
            let mut dying: Vec<u16> = Vec::new();
            for spot in i.args.iter_mut().take(count) {
                if let Spot::Reg(r) = spot {
                    let physical = place[*r as usize];
                    if last_use[*r as usize] == at && !dying.contains(&physical) {
                        dying.push(physical);
                    }
                    *r = physical;
                }
            }
            // The target is chosen before the operands are given up: it never is one of them.
            if let Spot::Reg(r) = &mut i.dst {
                let physical = free.pop().unwrap_or_else(|| {
                    used += 1;
                    used - 1
                });
                place[*r as usize] = physical;
                if last_use[*r as usize] == at {
                    dying.push(physical);
                }
                *r = physical;
            }
            free.append(&mut dying);
        }
        for i in &mut program.prologue {
            if let Spot::Reg(r) = &mut i.dst {
                *r = place[*r as usize];
            }
        }
        program.registers = used as usize;
        program
    }
}

impl Program {
    /// Rewrites the program for an input that lies in the same memory as an output: it is copied
    /// to a register before anything is written.
    pub fn read_first(&mut self, input: usize) {
        let spot = Spot::Input(input as u16);
        let fresh = Spot::Reg(self.registers as u16);
        let mut read = false;
        for i in &mut self.body {
            let count = arity(i.code);
            for arg in i.args.iter_mut().take(count).filter(|a| **a == spot) {
                *arg = fresh;
                read = true;
            }
        }
        if read {
            self.registers += 1;
            let class = Class::of(self.inputs[input].data_type);
            let load = Instruction { code: Code::Copy, class, args: [spot; 3], dst: fresh, round: false };
            self.body.insert(0, load);
        }
    }

    /// Whether an input is read element by element as it lies, never broadcast.
    pub fn reads_in_order(&self, input: usize) -> bool {
        self.body
            .iter()
            .chain(&self.prologue)
            .all(|i| !matches!(i.code, Code::Gather(n, _) if n as usize == input))
    }
}

/// How many of an instruction's `args` it reads.
pub(crate) fn arity(code: Code) -> usize {
    match code {
        Code::Const(_) | Code::Gather(..) => 0,
        Code::Binary(_) | Code::Compare(_) | Code::Logical(_) => 2,
        Code::Select => 3,
        _ => 1,
    }
}

/// The read of `from` broadcast to `to`, in as few dimensions as possible.
pub(crate) fn collapse(from: &Dims, to: &Dims) -> Pattern {
    let strides = broadcast_strides(from, to);
    let mut out: Pattern = Vec::new();
    for (&size, &stride) in to.as_slice().iter().zip(&strides) {
        let size = size as usize;
        match out.last_mut() {
            _ if size == 1 => {}
            Some((outer, step)) if *step == stride * size => {
                *outer *= size;
                *step = stride;
            }
            _ => out.push((size, stride)),
        }
    }
    if out.is_empty() {
        out.push((1, 0));
    }
    out
}

/// The instruction for an operation; `None` where the result is the operand itself.
fn code_of(op: &Op, operand: DataType, result: DataType) -> Option<Code> {
    let float = operand.is_float();
    Some(match *op {
        Op::Binary(b) => Code::Binary(b),
        Op::Compare(c) => Code::Compare(c),
        Op::Logical(l) => Code::Logical(l),
        Op::Where => Code::Select,
        Op::Cast { .. } if operand == result => Code::Copy,
        Op::Cast { .. } if float && result.is_float() => Code::Float(FloatMap::Unary(Unary::Identity)),
        Op::Cast { .. } => Code::Cast(Class::of(result)),
        Op::Unary(Unary::LogicalNot) => Code::LogicalNot,
        Op::Unary(Unary::IsNan) => Code::IsNan,
        Op::Unary(Unary::IsInfinite) => Code::IsInfinite,
        Op::Unary(Unary::Identity) => return None,
        Op::Unary(u) if float => Code::Float(FloatMap::Unary(u)),
        Op::Unary(Unary::Abs) => Code::Int(IntMap::Abs),
        Op::Unary(Unary::Neg) => Code::Int(IntMap::Neg),
        Op::Unary(Unary::Sign) => Code::Int(IntMap::Sign),
        Op::Unary(Unary::Relu) => Code::Int(IntMap::Relu),
        Op::Unary(_) => Code::Int(IntMap::Same),
        Op::Clamp { min, max } => {
            // A bound that is NaN is none, as in WebNN.
            let lo = min.filter(|v| !v.is_nan()).unwrap_or(f64::NEG_INFINITY);
            let hi = max.filter(|v| !v.is_nan()).unwrap_or(f64::INFINITY);
            if float {
                Code::Float(FloatMap::Clamp(lo as f32, hi as f32))
            } else {
                Code::Int(IntMap::Clamp(lo, hi))
            }
        }
        Op::Elu { alpha } => Code::Float(FloatMap::Elu(alpha as f32)),
        Op::LeakyRelu { alpha } => Code::Float(FloatMap::LeakyRelu(alpha as f32)),
        Op::HardSigmoid { alpha, beta } => Code::Float(FloatMap::HardSigmoid(alpha as f32, beta as f32)),
        Op::Linear { alpha, beta } => Code::Float(FloatMap::Linear(alpha as f32, beta as f32)),
        _ => return None,
    })
}

/// A float32 map for an operation that is one, to be fused behind another kernel.
pub(crate) fn float_map(op: &Op) -> Option<FloatMap> {
    match code_of(op, DataType::Float32, DataType::Float32)? {
        Code::Float(map) if !matches!(op, Op::Cast { .. }) => Some(map),
        _ => None,
    }
}
