//! Writes a fused element-wise program as one kernel. Its text says what is computed; numbers and
//! sizes come as parameters, so that they make no new pipeline.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::cpu::block::{FloatMap, IntMap};
use crate::cpu::program::{Class, Code, Instruction, Pattern, Program, Spot};
use crate::op::{Binary, Compare, Logical, Unary};
use crate::types::DataType;
use crate::wgpu::command::{Bind, Commands, Unhosted, What, bound};
use crate::wgpu::kernel::{Header, Kernel, files};

const WIDE: &str = "64-bit integers are computed on the CPU";

/// Where parameters of a program begin in `P`: before them are the workgroups, the number of
/// elements and the first of them.
const FIRST_PARAM: usize = 4;

/// Plans a program.
pub(crate) fn elements(commands: &mut Commands<'_>, program: &Program) -> Result<(), Unhosted> {
    let mut writer = Writer::default();
    let kernel = writer.kernel(program)?;
    let size = |t: DataType| t.size() as u64;
    let whole = |at: usize| program.reads_in_order(at);
    // As many elements at once as bindings have room for.
    let widest = program.outputs.iter().map(|&t| size(t));
    let widest = widest.chain(program.inputs.iter().map(|i| size(i.data_type))).max().unwrap_or(4);
    let room = (commands.limits.binding / widest).saturating_sub(16) / 1024 * 1024;
    let room = usize::try_from(room).unwrap_or(usize::MAX).max(1024);
    let work = program.body.len().max(1);
    let mut first = 0;
    while first < program.total {
        let count = room.min(program.total - first);
        let one = count == program.total;
        let range = |what: What, size: u64| Bind {
            what,
            offset: first as u64 * size,
            size: bound(count * size as usize),
        };
        let mut binds = Vec::with_capacity(program.inputs.len() + program.outputs.len());
        for (at, input) in program.inputs.iter().enumerate() {
            if one || !whole(at) {
                if !one && writer.direct.contains(&at) {
                    return Err("an operand is larger than a binding and read in two ways");
                }
                binds.push(commands.input(at));
            } else {
                binds.push(range(What::Input(at), size(input.data_type)));
            }
        }
        binds.extend(program.outputs.iter().enumerate().map(|(o, &t)| range(What::Output(o), size(t))));
        let mut tail = vec![count as u32, first as u32];
        tail.extend_from_slice(&writer.params);
        let threads = count.div_ceil(writer.each);
        commands.push(kernel.clone(), threads.div_ceil(256), &tail, binds, count.saturating_mul(work))?;
        first += count;
    }
    Ok(())
}

/// The function `activate` for a kernel that applies a map to its results; its numbers are added
/// to `params`, the first of which is `P[first]`.
pub(crate) fn activation(map: Option<FloatMap>, params: &mut Vec<u32>, first: usize) -> String {
    let expression = match map {
        None => "x".to_owned(),
        Some(map) => float_map(map, "x", &mut |value| {
            params.push(value.to_bits());
            format!("bitcast<f32>(P[{}])", first + params.len() - 1)
        }),
    };
    format!("fn activate(x: f32) -> f32 {{ return {expression}; }}\n")
}

#[derive(Default)]
struct Writer {
    /// `P` from `FIRST_PARAM` on.
    params: Vec<u32>,
    /// Where each pattern's dimensions begin in `P`.
    patterns: Vec<usize>,
    body: String,
    /// What each spot holds: a name.
    values: HashMap<(u8, u16), String>,
    names: usize,
    /// Inputs read as they lie.
    direct: Vec<usize>,
    /// Elements of a thread.
    each: usize,
}

fn key(spot: Spot) -> (u8, u16) {
    match spot {
        Spot::Reg(r) => (0, r),
        Spot::Input(i) => (1, i),
        Spot::Output(o) => (2, o),
    }
}

fn type_of(class: Class) -> Result<&'static str, Unhosted> {
    match class {
        Class::F32 => Ok("f32"),
        Class::I32 | Class::I8 => Ok("i32"),
        Class::U32 | Class::U8 => Ok("u32"),
        Class::I64 | Class::U64 => Err(WIDE),
    }
}

/// A number converted to a class, as the bits that a parameter holds.
fn bits(class: Class, number: f64) -> u32 {
    match class {
        Class::F32 => (number as f32).to_bits(),
        Class::I32 | Class::I64 => number as i32 as u32,
        Class::U32 | Class::U64 => number as u32,
        Class::I8 => i32::from(number as i8) as u32,
        Class::U8 => u32::from(number as u8),
    }
}

impl Writer {
    fn kernel(&mut self, program: &Program) -> Result<Kernel, Unhosted> {
        let narrow = program.outputs.iter().map(|t| t.size()).min().unwrap_or(4);
        self.each = (4 / narrow.min(4)).max(1);
        for pattern in &program.patterns {
            self.pattern(pattern);
        }
        for instruction in &program.prologue {
            self.instruction(program, instruction)?;
        }
        let prologue = std::mem::take(&mut self.body);
        for instruction in &program.body {
            self.instruction(program, instruction)?;
        }
        let mut text = String::new();
        let mut declare = |at: usize, name: &str, access: &str| {
            let _ =
                writeln!(text, "@group(0) @binding({}) var<storage, {access}> {name}: array<u32>;", at + 1);
        };
        let inputs = program.inputs.len();
        (0..inputs).for_each(|i| declare(i, &format!("I{i}"), "read"));
        (0..program.outputs.len()).for_each(|o| declare(inputs + o, &format!("O{o}"), "read_write"));
        let each = self.each;
        text.push_str(
            "@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group_index(group, groups);
",
        );
        let _ = writeln!(text, "    let first = (index * 256u + lane) * {each}u;");
        text.push_str("    if index >= P[1] || first >= P[2] { return; }\n");
        text.push_str(&prologue);
        for (o, t) in program.outputs.iter().enumerate().filter(|(_, t)| t.size() < 4) {
            let _ = writeln!(text, "    var w{o} = 0u; // {t}");
        }
        let _ = writeln!(text, "    for (var k = 0u; k < {each}u; k++) {{");
        text.push_str("    let i = first + k;\n    let g = i + P[3];\n");
        text.push_str(&self.body);
        text.push_str("    }\n}\n");
        let mut parts = Vec::new();
        let holds = |names: &[&str]| names.iter().any(|n| text.contains(n));
        if holds(&["half"]) {
            parts.push(files::HALF);
        }
        if holds(&["_float("]) {
            parts.push(files::MATH);
        }
        if holds(&["divide_", "power_", "float_to_signed", "float_to_unsigned"]) {
            parts.push(files::INTEGER);
        }
        parts.push(&text);
        let outputs = program.outputs.len() as u32;
        Ok(Kernel::new("elements", &Header::default(), &parts, inputs as u32, outputs))
    }

    fn pattern(&mut self, pattern: &Pattern) {
        self.patterns.push(FIRST_PARAM + self.params.len());
        self.params.extend(pattern.iter().flat_map(|&(size, stride)| [size as u32, stride as u32]));
    }

    fn param(&mut self, bits: u32) -> String {
        self.params.push(bits);
        format!("P[{}]", FIRST_PARAM + self.params.len() - 1)
    }

    fn name(&mut self, expression: &str) -> String {
        self.names += 1;
        let name = format!("v{}", self.names);
        let _ = writeln!(self.body, "    let {name} = {expression};");
        name
    }

    /// The value at a spot; an input is read once.
    fn value(&mut self, program: &Program, spot: Spot) -> Result<String, Unhosted> {
        if let Some(name) = self.values.get(&key(spot)) {
            return Ok(name.clone());
        }
        let Spot::Input(input) = spot else {
            return Err("a register is read before it is written (a bug in Warren)");
        };
        self.direct.push(input as usize);
        let read = load(program.inputs[input as usize].data_type, input, "i")?;
        let name = self.name(&read);
        self.values.insert(key(spot), name.clone());
        Ok(name)
    }

    fn instruction(&mut self, program: &Program, i: &Instruction) -> Result<(), Unhosted> {
        let class = i.class;
        type_of(class)?;
        let mut args: [String; 3] = Default::default();
        for (arg, &spot) in args.iter_mut().zip(&i.args).take(crate::cpu::program::arity(i.code)) {
            *arg = self.value(program, spot)?;
        }
        let [a, b, c] = &args;
        let flag = |condition: String| format!("select(0u, 1u, {condition})");
        let expression = match i.code {
            Code::Const(number) => {
                let number = self.param(bits(class, number));
                match type_of(class)? {
                    "u32" => number,
                    other => format!("bitcast<{other}>({number})"),
                }
            }
            Code::Gather(input, pattern) => {
                let (first, rank) =
                    (self.patterns[pattern as usize], program.patterns[pattern as usize].len());
                // What is read before the loop is the same everywhere.
                let scalar = program.patterns[pattern as usize].iter().all(|&(_, stride)| stride == 0);
                let at = if scalar {
                    "0u".to_owned()
                } else {
                    self.name(&format!("strided({first}u, {rank}u, g)"))
                };
                load(program.inputs[input as usize].data_type, input, &at)?
            }
            Code::Copy => a.clone(),
            Code::Binary(op) => binary(class, op, a, b),
            Code::Compare(op) => {
                let op = match op {
                    Compare::Equal => "==",
                    Compare::NotEqual => "!=",
                    Compare::Greater => ">",
                    Compare::GreaterOrEqual => ">=",
                    Compare::Lesser => "<",
                    Compare::LesserOrEqual => "<=",
                };
                flag(format!("{a} {op} {b}"))
            }
            Code::Logical(Logical::And) => flag(format!("{a} != 0u && {b} != 0u")),
            Code::Logical(Logical::Or) => flag(format!("({a} | {b}) != 0u")),
            Code::Logical(Logical::Xor) => flag(format!("({a} != 0u) != ({b} != 0u)")),
            Code::LogicalNot => flag(format!("{a} == 0u")),
            Code::IsNan => flag(format!("is_nan({a})")),
            Code::IsInfinite => flag(format!("is_infinite({a})")),
            Code::Float(map) => {
                let mut numbers = Vec::new();
                let first = FIRST_PARAM + self.params.len();
                let text = float_map(map, a, &mut |v: f32| {
                    numbers.push(v.to_bits());
                    format!("bitcast<f32>(P[{}])", first + numbers.len() - 1)
                });
                self.params.extend(numbers);
                text
            }
            Code::Int(map) => self.int_map(class, map, a)?,
            Code::Select => format!("select({c}, {b}, {a} != 0u)"),
            Code::Cast(to) => cast(class, to, a)?,
        };
        let expression = if i.round { format!("round_to_half({expression})") } else { expression };
        let name = self.name(&expression);
        if let Spot::Output(output) = i.dst {
            self.store(program.outputs[output as usize], output, &name)?;
        }
        self.values.insert(key(i.dst), name);
        Ok(())
    }

    fn int_map(&mut self, class: Class, map: IntMap, a: &str) -> Result<String, Unhosted> {
        let t = type_of(class)?;
        let signed = t == "i32";
        let zero = if signed { "0" } else { "0u" };
        Ok(match map {
            IntMap::Abs if signed => wrapped(class, format!("abs({a})")),
            IntMap::Abs | IntMap::Same => a.to_owned(),
            IntMap::Neg => wrapped(class, format!("({zero} - {a})")),
            IntMap::Sign if signed => format!("sign({a})"),
            IntMap::Sign => format!("min({a}, 1u)"),
            IntMap::Relu => format!("max({a}, {zero})"),
            IntMap::Clamp(low, high) => {
                let low = self.param(bits(class, low.ceil()));
                let high = self.param(bits(class, high.floor()));
                format!("min(max({a}, bitcast<{t}>({low})), bitcast<{t}>({high}))")
            }
        })
    }

    fn store(&mut self, data_type: DataType, output: u16, value: &str) -> Result<(), Unhosted> {
        let bits = match data_type {
            DataType::Float32 | DataType::Int32 => format!("bitcast<u32>({value})"),
            DataType::Uint32 => value.to_owned(),
            DataType::Float16 => format!("float_to_half({value})"),
            DataType::Int8 => format!("(bitcast<u32>({value}) & 0xffu)"),
            DataType::Uint8 => format!("({value} & 0xffu)"),
            DataType::Int64 | DataType::Uint64 => return Err(WIDE),
        };
        let size = data_type.size();
        let o = output;
        let _ = if size == 4 {
            writeln!(self.body, "    if i < P[2] {{ O{o}[i] = {bits}; }}")
        } else {
            // Elements share words: the thread has all of a word's.
            let per = 4 / size;
            let (last, width) = (per - 1, 8 * size);
            writeln!(
                self.body,
                "    w{o} |= {bits} << ((k & {last}u) * {width}u);
    if (k & {last}u) == {last}u && i - {last}u < P[2] {{ O{o}[i / {per}u] = w{o}; }}
    if (k & {last}u) == {last}u {{ w{o} = 0u; }}"
            )
        };
        Ok(())
    }
}

/// The element of input `input` at the index `at`.
fn load(data_type: DataType, input: u16, at: &str) -> Result<String, Unhosted> {
    let byte = format!("(I{input}[{at} >> 2u] >> (({at} & 3u) * 8u))");
    Ok(match data_type {
        DataType::Float32 => format!("bitcast<f32>(I{input}[{at}])"),
        DataType::Int32 => format!("bitcast<i32>(I{input}[{at}])"),
        DataType::Uint32 => format!("I{input}[{at}]"),
        DataType::Float16 => {
            format!("half_to_float((I{input}[{at} >> 1u] >> (({at} & 1u) * 16u)) & 0xffffu)")
        }
        DataType::Int8 => format!("(bitcast<i32>({byte} << 24u) >> 24u)"),
        DataType::Uint8 => format!("({byte} & 0xffu)"),
        DataType::Int64 | DataType::Uint64 => return Err(WIDE),
    })
}

/// An integer cut to its class.
fn wrapped(class: Class, expression: String) -> String {
    match class {
        Class::I8 => format!("(({expression} << 24u) >> 24u)"),
        Class::U8 => format!("({expression} & 0xffu)"),
        _ => expression,
    }
}

fn binary(class: Class, op: Binary, a: &str, b: &str) -> String {
    let float = class == Class::F32;
    let signed = matches!(class, Class::I32 | Class::I8);
    let call = |name: &str| format!("{name}({a}, {b})");
    let expression = match op {
        Binary::Add => format!("({a} + {b})"),
        Binary::Sub => format!("({a} - {b})"),
        Binary::Mul => format!("({a} * {b})"),
        Binary::Div if float => format!("({a} / {b})"),
        Binary::Div => call(if signed { "divide_signed" } else { "divide_unsigned" }),
        Binary::Max => call(if float { "max_float" } else { "max" }),
        Binary::Min => call(if float { "min_float" } else { "min" }),
        Binary::Pow if float => call("pow_float"),
        Binary::Pow => call(if signed { "power_signed" } else { "power_unsigned" }),
    };
    wrapped(class, expression)
}

fn cast(from: Class, to: Class, a: &str) -> Result<String, Unhosted> {
    type_of(to)?;
    let signed = matches!(from, Class::I32 | Class::I8);
    let word = |t: &str| if (t == "i32") == signed { a.to_owned() } else { format!("bitcast<{t}>({a})") };
    Ok(match (from, to) {
        (Class::F32, Class::F32) => a.to_owned(),
        (Class::F32, Class::I32) => format!("float_to_signed({a})"),
        (Class::F32, Class::I8) => format!("clamp(float_to_signed({a}), -128, 127)"),
        (Class::F32, Class::U32) => format!("float_to_unsigned({a})"),
        (Class::F32, _) => format!("min(float_to_unsigned({a}), 255u)"),
        (_, Class::F32) => format!("f32({a})"),
        (_, Class::I32 | Class::I8) => wrapped(to, word("i32")),
        _ => wrapped(to, word("u32")),
    })
}

fn float_map(map: FloatMap, a: &str, number: &mut dyn FnMut(f32) -> String) -> String {
    let call = |name: &str| format!("{name}({a})");
    match map {
        FloatMap::Unary(unary) => match unary {
            Unary::Abs => call("abs"),
            Unary::Ceil => call("ceil"),
            Unary::Cos => call("cos_float"),
            Unary::Erf => call("erf_float"),
            Unary::Exp => call("exp_float"),
            Unary::Floor => call("floor"),
            Unary::Log => call("ln_float"),
            Unary::Neg => format!("(-{a})"),
            Unary::Reciprocal => format!("(1.0 / {a})"),
            Unary::RoundEven => call("round"),
            Unary::Sign => call("sign_float"),
            Unary::Sin => call("sin_float"),
            Unary::Sqrt => call("sqrt"),
            Unary::Tan => call("tan_float"),
            Unary::Relu => format!("select({a}, 0.0, {a} < 0.0)"),
            Unary::Sigmoid => call("sigmoid_float"),
            Unary::Tanh => call("tanh_float"),
            Unary::Softplus => call("softplus_float"),
            Unary::Softsign => call("softsign_float"),
            Unary::Gelu => call("gelu_float"),
            Unary::HardSwish => format!("({a} * clamp_float({a} + 3.0, 0.0, 6.0) / 6.0)"),
            // The others answer uint8 or change nothing.
            Unary::Identity | Unary::LogicalNot | Unary::IsNan | Unary::IsInfinite => a.to_owned(),
        },
        FloatMap::Clamp(low, high) => {
            let (low, high) = (number(low), number(high));
            format!("clamp_float({a}, {low}, {high})")
        }
        FloatMap::Elu(alpha) => {
            let alpha = number(alpha);
            format!("select({alpha} * exp_m1_float({a}), {a}, {a} >= 0.0)")
        }
        FloatMap::LeakyRelu(alpha) => {
            let alpha = number(alpha);
            format!("select({alpha} * {a}, {a}, {a} >= 0.0)")
        }
        FloatMap::HardSigmoid(alpha, beta) => {
            let (alpha, beta) = (number(alpha), number(beta));
            format!("clamp_float({alpha} * {a} + {beta}, 0.0, 1.0)")
        }
        FloatMap::Linear(alpha, beta) => {
            let (alpha, beta) = (number(alpha), number(beta));
            format!("({alpha} * {a} + {beta})")
        }
    }
}
