//! The W3C web-platform-tests' WebNN cases, run through the engine. The cases are found by
//! WARREN_WEBNN_CONFORMANCE or beside the checkout; tolerances are those of the suite's
//! `webnn/resources/utils.js`.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value as Json;
use warren_tensor::*;

/// How far a result may be from the expected one.
#[derive(Clone, Copy, Debug)]
enum Tolerance {
    /// Units in the last place.
    Ulp(u64),
    /// Absolute.
    Absolute(f64),
}

fn directory() -> Option<PathBuf> {
    let path = match std::env::var_os("WARREN_WEBNN_CONFORMANCE") {
        Some(path) => PathBuf::from(path),
        None => {
            // Of the real path: the crate may be built through a link.
            let manifest = std::fs::canonicalize(env!("CARGO_MANIFEST_DIR")).ok()?;
            manifest.join("../../../shared/webnn-conformance")
        }
    };
    path.is_dir().then_some(path)
}

#[test]
fn webnn_conformance() {
    let Some(directory) = directory() else {
        eprintln!("SKIPPED: no WebNN conformance cases (set WARREN_WEBNN_CONFORMANCE to their folder)");
        return;
    };
    let engine =
        Arc::new(Engine::new(EngineConfig { threads: 2, poison: true, ..EngineConfig::default() }).unwrap());
    // Operation -> (passed, failed, unsupported).
    let mut counts: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    let mut failures = Vec::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "json")) {
        let suite: Json = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let operation = suite["operation"].as_str().unwrap().to_owned();
        for test in suite["tests"].as_array().unwrap() {
            let count = counts.entry(operation.clone()).or_default();
            match run(&engine, test["name"].as_str().unwrap(), &test["graph"]) {
                Ok(()) => count[0] += 1,
                Err(Failure::Unsupported) => count[2] += 1,
                Err(Failure::Wrong(why)) => {
                    count[1] += 1;
                    failures.push(format!("{}: {why}", test["name"]));
                }
            }
        }
    }
    let mut total = [0; 3];
    for (operation, count) in &counts {
        println!("{operation:24} passed {:3}  failed {:3}  unsupported {:3}", count[0], count[1], count[2]);
        (0..3).for_each(|i| total[i] += count[i]);
    }
    println!("total: passed {}, failed {}, unsupported {}", total[0], total[1], total[2]);
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(total[0] > 500, "only {} cases were found in {}", total[0], directory.display());
}

enum Failure {
    Unsupported,
    Wrong(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.kind {
            ErrorKind::Unsupported => Failure::Unsupported,
            _ => Failure::Wrong(error.to_string()),
        }
    }
}

fn number(json: &Json) -> f64 {
    match json {
        Json::Number(n) => n.as_f64().unwrap(),
        // JSON has no infinities: the data sets write null. The cases that have it (of clamp) hold
        // for -Infinity.
        Json::Null => f64::NEG_INFINITY,
        _ => panic!("not a number: {json}"),
    }
}

fn integer(json: &Json) -> i128 {
    match json {
        Json::String(s) => s.trim_end_matches('n').parse().unwrap(),
        Json::Number(n) => n
            .as_i64()
            .map(i128::from)
            .or(n.as_u64().map(i128::from))
            .unwrap_or_else(|| n.as_f64().unwrap() as i128),
        _ => panic!("not an integer: {json}"),
    }
}

/// Nearest float16: through float32 first, as JavaScript's typed arrays hold it.
fn half(value: f64) -> half::f16 {
    half::f16::from_f64(value)
}

fn shape(json: &Json) -> Vec<u32> {
    json.as_array().map(|a| a.iter().map(|v| integer(v) as u32).collect()).unwrap_or_default()
}

fn encode(data_type: DataType, values: &[Json], count: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let values: Vec<&Json> =
        if values.len() == 1 && count > 1 { vec![&values[0]; count] } else { values.iter().collect() };
    for v in values {
        match data_type {
            DataType::Float32 => out.extend((number(v) as f32).to_le_bytes()),
            DataType::Float16 => out.extend(half(number(v)).to_le_bytes()),
            DataType::Int32 => out.extend((integer(v) as i32).to_le_bytes()),
            DataType::Uint32 => out.extend((integer(v) as u32).to_le_bytes()),
            DataType::Int64 => out.extend((integer(v) as i64).to_le_bytes()),
            DataType::Uint64 => out.extend((integer(v) as u64).to_le_bytes()),
            DataType::Int8 => out.extend((integer(v) as i8).to_le_bytes()),
            DataType::Uint8 => out.extend((integer(v) as u8).to_le_bytes()),
        }
    }
    out
}

fn list(json: &Json) -> Vec<Json> {
    match json {
        Json::Array(a) => a.clone(),
        other => vec![other.clone()],
    }
}

fn run(engine: &Arc<Engine>, case: &str, graph: &Json) -> Result<(), Failure> {
    let mut session = Session::new(Arc::clone(engine), Budget::new(1 << 30), Arc::default());
    let mut tensors: HashMap<String, TensorId> = HashMap::new();
    for (name, input) in graph["inputs"].as_object().unwrap() {
        let data_type: DataType = input["descriptor"]["dataType"].as_str().unwrap().parse().unwrap();
        let dims = shape(&input["descriptor"]["shape"]);
        let count = dims.iter().map(|&d| d as usize).product();
        let bytes = encode(data_type, &list(&input["data"]), count);
        tensors.insert(name.clone(), session.constant(data_type, &dims, &bytes)?);
    }
    let mut tolerance = Tolerance::Ulp(0);
    for operator in graph["operators"].as_array().unwrap() {
        let mut arguments: HashMap<&str, &Json> = HashMap::new();
        for argument in operator["arguments"].as_array().unwrap() {
            for (key, value) in argument.as_object().unwrap() {
                match (key.as_str(), value) {
                    ("options", Json::Object(options)) => {
                        arguments.extend(options.iter().map(|(k, v)| (k.as_str(), v)))
                    }
                    (key, value) => drop(arguments.insert(key, value)),
                }
            }
        }
        let name = operator["name"].as_str().unwrap();
        let call = Call { case, name, arguments: &arguments, tensors: &tensors };
        let (op, inputs) = call.op()?;
        let half = graph["expectedOutputs"].as_object().unwrap().values().next().unwrap()["descriptor"]["dataType"]
            == "float16";
        match (call.tolerance(&session, &inputs, half), &mut tolerance) {
            (Tolerance::Ulp(more), Tolerance::Ulp(sum)) => *sum += more,
            (other, t) => *t = other,
        }
        let id = session.record(op, &inputs)?;
        tensors.insert(operator["outputs"].as_str().unwrap().to_owned(), id);
    }
    for (name, expected) in graph["expectedOutputs"].as_object().unwrap() {
        let data_type: DataType = expected["descriptor"]["dataType"].as_str().unwrap().parse().unwrap();
        let dims = shape(&expected["descriptor"]["shape"]);
        let value = session.value(tensors[name])?;
        if value.data_type() != data_type || value.shape() != dims {
            return Err(Failure::Wrong(format!(
                "{} {:?}, expected {data_type} {dims:?}",
                value.data_type(),
                value.shape()
            )));
        }
        let count = dims.iter().map(|&d| d as usize).product();
        let want = encode(data_type, &list(&expected["data"]), count);
        compare(data_type, value.bytes(), &want, tolerance)?;
    }
    Ok(())
}

struct Call<'a> {
    case: &'a str,
    name: &'a str,
    arguments: &'a HashMap<&'a str, &'a Json>,
    tensors: &'a HashMap<String, TensorId>,
}

impl Call<'_> {
    fn tensor(&self, key: &str) -> TensorId {
        self.tensors[self.arguments[key].as_str().unwrap_or_else(|| panic!("no {key}"))]
    }
    fn number(&self, key: &str, default: f64) -> f64 {
        self.arguments.get(key).map_or(default, |v| number(v))
    }
    fn dims(&self, key: &str) -> Option<Dims> {
        self.arguments.get(key).map(|v| Dims::new(&shape(v)).unwrap())
    }
    fn quad<const N: usize>(&self, key: &str, default: u32) -> [u32; N] {
        self.arguments.get(key).map_or([default; N], |v| shape(v).try_into().unwrap())
    }

    fn op(&self) -> Result<(Op, Vec<TensorId>), Failure> {
        let one = |op| Ok((op, vec![self.tensor("input")]));
        let two = |op| Ok((op, vec![self.tensor("a"), self.tensor("b")]));
        let reduce = |kind| {
            let keep_dimensions = self.arguments.get("keepDimensions").is_some_and(|v| v.as_bool().unwrap());
            Ok((Op::Reduce { kind, axes: self.dims("axes"), keep_dimensions }, vec![self.tensor("input")]))
        };
        match self.name {
            "add" => two(Op::Binary(Binary::Add)),
            "sub" => two(Op::Binary(Binary::Sub)),
            "mul" => two(Op::Binary(Binary::Mul)),
            "div" => two(Op::Binary(Binary::Div)),
            "max" => two(Op::Binary(Binary::Max)),
            "min" => two(Op::Binary(Binary::Min)),
            "pow" => two(Op::Binary(Binary::Pow)),
            "equal" => two(Op::Compare(Compare::Equal)),
            "greater" => two(Op::Compare(Compare::Greater)),
            "greaterOrEqual" => two(Op::Compare(Compare::GreaterOrEqual)),
            "lesser" => two(Op::Compare(Compare::Lesser)),
            "lesserOrEqual" => two(Op::Compare(Compare::LesserOrEqual)),
            "logicalNot" => Ok((Op::Unary(Unary::LogicalNot), vec![self.tensor("a")])),
            "abs" => one(Op::Unary(Unary::Abs)),
            "ceil" => one(Op::Unary(Unary::Ceil)),
            "exp" => one(Op::Unary(Unary::Exp)),
            "floor" => one(Op::Unary(Unary::Floor)),
            "log" => one(Op::Unary(Unary::Log)),
            "neg" => one(Op::Unary(Unary::Neg)),
            "sqrt" => one(Op::Unary(Unary::Sqrt)),
            "relu" => one(Op::Unary(Unary::Relu)),
            "sigmoid" => one(Op::Unary(Unary::Sigmoid)),
            "tanh" => one(Op::Unary(Unary::Tanh)),
            "hardSwish" => one(Op::Unary(Unary::HardSwish)),
            "clamp" => {
                let nan = self.case.contains("NaN");
                let bound = |key| {
                    self.arguments.get(key).map(|v| if v.is_null() && nan { f64::NAN } else { number(v) })
                };
                one(Op::Clamp { min: bound("minValue"), max: bound("maxValue") })
            }
            "elu" => one(Op::Elu { alpha: self.number("alpha", 1.0) }),
            "leakyRelu" => one(Op::LeakyRelu { alpha: self.number("alpha", 0.01) }),
            "hardSigmoid" => {
                one(Op::HardSigmoid { alpha: self.number("alpha", 0.2), beta: self.number("beta", 0.5) })
            }
            "linear" => one(Op::Linear { alpha: self.number("alpha", 1.0), beta: self.number("beta", 0.0) }),
            "cast" => one(Op::Cast { to: self.arguments["type"].as_str().unwrap().parse().unwrap() }),
            "reshape" => one(Op::Reshape { shape: self.dims("newShape").unwrap() }),
            "expand" => one(Op::Expand { shape: self.dims("newShape").unwrap() }),
            "transpose" => one(Op::Transpose { permutation: self.dims("permutation") }),
            "slice" => one(Op::Slice {
                starts: self.dims("starts").unwrap(),
                sizes: self.dims("sizes").unwrap(),
                strides: self.dims("strides"),
            }),
            "concat" => {
                let inputs = self.arguments["inputs"].as_array().unwrap();
                let ids = inputs.iter().map(|v| self.tensors[v.as_str().unwrap()]).collect();
                Ok((Op::Concat { axis: self.number("axis", 0.0) as u32 }, ids))
            }
            "matmul" => two(Op::Matmul),
            "softmax" => one(Op::Softmax { axis: self.number("axis", 0.0) as u32 }),
            "conv2d" => {
                let text = |key: &str, default| {
                    self.arguments.get(key).map_or(default, |v| v.as_str().unwrap()).to_owned()
                };
                let options = Conv2d {
                    padding: self.quad("padding", 0),
                    strides: self.quad("strides", 1),
                    dilations: self.quad("dilations", 1),
                    groups: self.number("groups", 1.0) as u32,
                    input_layout: if text("inputLayout", "nchw") == "nchw" {
                        InputLayout::Nchw
                    } else {
                        InputLayout::Nhwc
                    },
                    filter_layout: match text("filterLayout", "oihw").as_str() {
                        "oihw" => FilterLayout::Oihw,
                        "hwio" => FilterLayout::Hwio,
                        "ohwi" => FilterLayout::Ohwi,
                        _ => FilterLayout::Ihwo,
                    },
                };
                let mut ids = vec![self.tensor("input"), self.tensor("filter")];
                if self.arguments.contains_key("bias") {
                    ids.push(self.tensor("bias"));
                }
                Ok((Op::Conv2d(options), ids))
            }
            "reduceL1" => reduce(Reduction::L1),
            "reduceL2" => reduce(Reduction::L2),
            "reduceLogSum" => reduce(Reduction::LogSum),
            "reduceLogSumExp" => reduce(Reduction::LogSumExp),
            "reduceMax" => reduce(Reduction::Max),
            "reduceMean" => reduce(Reduction::Mean),
            "reduceMin" => reduce(Reduction::Min),
            "reduceProduct" => reduce(Reduction::Product),
            "reduceSum" => reduce(Reduction::Sum),
            "reduceSumSquare" => reduce(Reduction::SumSquare),
            _ => Err(Failure::Unsupported),
        }
    }

    /// The suite's tolerance for one operation.
    fn tolerance(&self, session: &Session, inputs: &[TensorId], half: bool) -> Tolerance {
        let (_, dims) = session.descriptor(inputs[0]).unwrap();
        let reduced: u64 = match self.arguments.get("axes") {
            Some(axes) => shape(axes).iter().map(|&a| u64::from(dims[a as usize])).product(),
            None => dims.iter().map(|&d| u64::from(d)).product(),
        };
        Tolerance::Ulp(match self.name {
            "add" | "sub" | "mul" | "sqrt" | "leakyRelu" => 1,
            "div" | "hardSigmoid" | "linear" => 2,
            "pow" => {
                if half {
                    2
                } else {
                    32
                }
            }
            "exp" => {
                if half {
                    1
                } else {
                    32
                }
            }
            "sigmoid" => {
                if half {
                    3
                } else {
                    34
                }
            }
            "hardSwish" => 4,
            "elu" => 18,
            "log" => return Tolerance::Absolute(1.0 / 1024.0),
            "tanh" => return Tolerance::Absolute(if half { 1.0 / 512.0 } else { 1.0 / 1024.0 }),
            "softmax" => u64::from(dims[self.number("axis", 1.0) as usize]) * 3 + 3,
            "matmul" => u64::from(dims[dims.len() - 1]) * 2,
            "conv2d" => {
                let (_, filter) = session.descriptor(inputs[1]).unwrap();
                let taps: u64 = filter.iter().map(|&d| u64::from(d)).product();
                let (_, f) = session.descriptor(inputs[1]).unwrap();
                let layout = self.arguments.get("filterLayout").map_or("oihw", |v| v.as_str().unwrap());
                let outputs = f[layout.find('o').unwrap()];
                taps / u64::from(outputs) * 2
            }
            "reduceL1" | "reduceProduct" | "reduceSum" => reduced,
            "reduceL2" => reduced * 2 + 1,
            "reduceMean" => reduced + 2,
            "reduceLogSum" => reduced + 18,
            "reduceLogSumExp" => reduced * 2 + 18,
            "reduceSumSquare" => reduced * 2,
            _ => 0,
        })
    }
}

/// Numbers of the ordered floats, so that neighbours differ by one.
fn ordered32(v: f32) -> i64 {
    let bits = i64::from(v.to_bits() & 0x7FFF_FFFF);
    if v.is_sign_negative() { -bits } else { bits }
}

fn ordered16(v: half::f16) -> i64 {
    let bits = i64::from(v.to_bits() & 0x7FFF);
    if v.is_sign_negative() { -bits } else { bits }
}

fn compare(data_type: DataType, found: &[u8], want: &[u8], tolerance: Tolerance) -> Result<(), Failure> {
    if found.len() != want.len() {
        return Err(Failure::Wrong(format!("{} bytes, expected {}", found.len(), want.len())));
    }
    let size = data_type.size();
    for (i, (f, w)) in found.chunks_exact(size).zip(want.chunks_exact(size)).enumerate() {
        let (distance, difference, shown): (u64, f64, Box<dyn Fn() -> String>) = match data_type {
            DataType::Float32 => {
                let (f, w) =
                    (f32::from_le_bytes(f.try_into().unwrap()), f32::from_le_bytes(w.try_into().unwrap()));
                let ulp = if f.is_nan() && w.is_nan() { 0 } else { ordered32(f).abs_diff(ordered32(w)) };
                (ulp, f64::from((f - w).abs()), Box::new(move || format!("{f} expected {w}")))
            }
            DataType::Float16 => {
                let (f, w) = (
                    half::f16::from_le_bytes(f.try_into().unwrap()),
                    half::f16::from_le_bytes(w.try_into().unwrap()),
                );
                let ulp = if f.is_nan() && w.is_nan() { 0 } else { ordered16(f).abs_diff(ordered16(w)) };
                (ulp, (f.to_f64() - w.to_f64()).abs(), Box::new(move || format!("{f} expected {w}")))
            }
            _ => (
                u64::from(f != w),
                if f == w { 0.0 } else { 1.0 },
                Box::new(move || format!("{f:?} expected {w:?}")),
            ),
        };
        let fits = match tolerance {
            Tolerance::Ulp(most) => distance <= most,
            Tolerance::Absolute(most) => distance == 0 || difference <= most,
        };
        if !fits {
            return Err(Failure::Wrong(format!(
                "element {i}: {}, {distance} ULP, allowed {tolerance:?}",
                shown()
            )));
        }
    }
    Ok(())
}
