//! WebNN conformance cases, data of the W3C web-platform-tests' form: read, run, compared, counted.
#![allow(dead_code)]

mod call;
mod compare;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use serde_json::Value as Json;
use warren_tensor::*;

use call::Call;
use compare::{Tolerance, compare};

/// Outcomes: how many cases of each operation passed, failed, and were not supported.
#[derive(Default)]
pub struct Table {
    /// By operation: passed, failed, unsupported.
    pub counts: BTreeMap<String, [usize; 3]>,
    /// "case: why".
    pub failures: Vec<String>,
    /// Why cases were not supported, and how many for each reason.
    pub unsupported: BTreeMap<String, usize>,
}

impl Table {
    pub fn total(&self) -> [usize; 3] {
        self.counts.values().fold([0; 3], |sum, c| [sum[0] + c[0], sum[1] + c[1], sum[2] + c[2]])
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (operation, [passed, failed, unsupported]) in &self.counts {
            writeln!(f, "{operation:24} passed {passed:3}  failed {failed:3}  unsupported {unsupported:3}")?;
        }
        let [passed, failed, unsupported] = self.total();
        write!(f, "total: passed {passed}, failed {failed}, unsupported {unsupported}")?;
        self.unsupported.iter().try_for_each(|(why, n)| write!(f, "\nunsupported {n:3}: {why}"))
    }
}

/// Where the cases are: in `shared` beside the checkout, or where the environment says.
pub fn directory() -> Option<PathBuf> {
    let path = match std::env::var_os("WARREN_WEBNN_CONFORMANCE") {
        Some(path) => PathBuf::from(path),
        None => {
            // Of the real path: the crate may be built through a link.
            let manifest = std::fs::canonicalize(env!("CARGO_MANIFEST_DIR")).ok()?;
            let beside = |folder: &Path| folder.join("shared/webnn-conformance");
            manifest.ancestors().map(beside).find(|path| path.is_dir())?
        }
    };
    path.is_dir().then_some(path)
}

/// The engine that the cases run on.
pub fn engine(device: DeviceChoice) -> Result<Engine, Error> {
    Engine::new(EngineConfig { threads: 2, poison: true, device, ..EngineConfig::default() })
}

/// A GPU if there is one, else llvmpipe; none, and a line that says so, where neither is.
pub fn wgpu() -> Option<DeviceChoice> {
    let llvmpipe = DeviceChoice::Adapter("llvmpipe".into());
    if engine(DeviceChoice::Wgpu).is_ok() {
        return Some(DeviceChoice::Wgpu);
    }
    let Err(e) = engine(llvmpipe.clone()) else { return Some(llvmpipe) };
    // An adapter that is there and wrong is no reason to skip.
    assert!(!e.to_string().contains("wrongly"), "{e}");
    eprintln!("SKIPPED: {e} (mesa-vulkan-drivers has llvmpipe)");
    None
}

/// A tensor outside of any engine.
pub struct Tensor {
    pub name: String,
    pub data_type: DataType,
    pub shape: Vec<u32>,
    /// Row-major, little-endian.
    pub bytes: Vec<u8>,
}

/// One case.
pub struct Case {
    pub name: String,
    pub inputs: Vec<Tensor>,
    /// The inputs that are constants of the graph.
    pub constants: Vec<String>,
    /// The calls as the suite writes them, but for numbers that JSON cannot write: those are strings.
    pub operators: Vec<Json>,
    /// What is to come out.
    pub outputs: Vec<Tensor>,
}

impl Case {
    /// A case of the suite.
    pub fn read(test: &Json) -> Result<Case, Failure> {
        let name = test["name"].as_str().unwrap().to_owned();
        let tensors = |key: &str| -> Result<Vec<Tensor>, Failure> {
            let named = test["graph"][key].as_object().unwrap().iter();
            named.map(|(name, tensor)| Tensor::read(name, tensor)).collect()
        };
        let constant = |(name, tensor): (&String, &Json)| (tensor["constant"] == true).then(|| name.clone());
        let mut operators = test["graph"]["operators"].as_array().unwrap().clone();
        // The data sets write null for what JSON has no number for; the case's name says which.
        let lost = if name.contains("NaN") { "NaN" } else { "-Infinity" };
        for operator in &mut operators {
            for argument in operator["arguments"].as_array_mut().unwrap() {
                for value in argument["options"].as_object_mut().into_iter().flat_map(|o| o.values_mut()) {
                    if value.is_null() {
                        *value = lost.into();
                    }
                }
            }
        }
        Ok(Case {
            inputs: tensors("inputs")?,
            constants: test["graph"]["inputs"].as_object().unwrap().iter().filter_map(constant).collect(),
            operators,
            outputs: tensors("expectedOutputs")?,
            name,
        })
    }
}

impl Tensor {
    fn read(name: &str, json: &Json) -> Result<Tensor, Failure> {
        let data_type = data_type(&json["descriptor"]["dataType"])?;
        let shape = shape(&json["descriptor"]["shape"]);
        let count = shape.iter().map(|&d| d as usize).product();
        let bytes = encode(data_type, &json["data"], count);
        Ok(Tensor { name: name.to_owned(), data_type, shape, bytes })
    }
}

/// Runs every case of every JSON file in a folder: `run` answers the tensors that it expects.
pub fn run_all(directory: &Path, mut run: impl FnMut(&Case) -> Result<Vec<Tensor>, Failure>) -> Table {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut table = Table::default();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "json")) {
        let suite: Json = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let operation = suite["operation"].as_str().map_or(name, str::to_owned);
        for test in suite["tests"].as_array().unwrap() {
            let count = table.counts.entry(operation.clone()).or_default();
            let outcome = Case::read(test).and_then(|case| check(&case, run(&case)?));
            match outcome {
                Ok(()) => count[0] += 1,
                Err(Failure::Unsupported(why)) => {
                    count[2] += 1;
                    *table.unsupported.entry(format!("{operation}: {why}")).or_default() += 1;
                }
                Err(Failure::Wrong(why)) => {
                    count[1] += 1;
                    table.failures.push(format!("{}: {why}", test["name"]));
                }
            }
        }
    }
    table
}

#[derive(Debug)]
pub enum Failure {
    Unsupported(String),
    Wrong(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.kind {
            ErrorKind::Unsupported => Failure::Unsupported(error.to_string()),
            _ => Failure::Wrong(error.to_string()),
        }
    }
}

pub fn number(json: &Json) -> f64 {
    match json {
        Json::Number(n) => n.as_f64().unwrap(),
        Json::String(text) => match text.trim_end_matches('n') {
            "Infinity" => f64::INFINITY,
            "-Infinity" => f64::NEG_INFINITY,
            text => text.parse().unwrap(),
        },
        // JSON has no infinities: the data sets write null. Where their inputs have it (those of
        // clamp), expectations hold for -Infinity.
        Json::Null => f64::NEG_INFINITY,
        _ => panic!("not a number: {json}"),
    }
}

pub fn integer(json: &Json) -> i128 {
    match json {
        Json::String(s) => s.trim_end_matches('n').parse().unwrap(),
        Json::Bool(b) => i128::from(*b),
        Json::Number(n) => n
            .as_i64()
            .map(i128::from)
            .or(n.as_u64().map(i128::from))
            .unwrap_or_else(|| n.as_f64().unwrap() as i128),
        _ => panic!("not an integer: {json}"),
    }
}

pub fn shape(json: &Json) -> Vec<u32> {
    json.as_array().map(|a| a.iter().map(|v| integer(v) as u32).collect()).unwrap_or_default()
}

pub fn data_type(json: &Json) -> Result<DataType, Failure> {
    let name = json.as_str().unwrap();
    name.parse().map_err(|_| Failure::Unsupported(format!("data type {name}")))
}

fn encode(data_type: DataType, data: &Json, count: usize) -> Vec<u8> {
    let single = [data.clone()];
    let values = data.as_array().map_or(&single[..], Vec::as_slice);
    let bytes: Vec<u8> = values.iter().flat_map(|value| element(data_type, value)).collect();
    // One value stands for all, of which some cases have millions.
    if values.len() == 1 { bytes.repeat(count) } else { bytes }
}

fn element(data_type: DataType, v: &Json) -> Vec<u8> {
    match data_type {
        DataType::Float32 => (number(v) as f32).to_le_bytes().into(),
        DataType::Float16 => half::f16::from_f64(number(v)).to_le_bytes().into(),
        DataType::Int32 => (integer(v) as i32).to_le_bytes().into(),
        DataType::Uint32 => (integer(v) as u32).to_le_bytes().into(),
        DataType::Int64 => (integer(v) as i64).to_le_bytes().into(),
        DataType::Uint64 => (integer(v) as u64).to_le_bytes().into(),
        DataType::Int8 => (integer(v) as i8).to_le_bytes().into(),
        DataType::Uint8 => (integer(v) as u8).to_le_bytes().into(),
    }
}

/// Records the calls of a case in a session, which runs nothing yet; answers all tensors by name
/// and how far the outputs may be from the expected ones.
pub fn record(session: &mut Session, case: &Case) -> Result<(HashMap<String, TensorId>, Tolerance), Failure> {
    let mut tensors: HashMap<String, TensorId> = HashMap::new();
    for input in &case.inputs {
        let id = session.constant(input.data_type, &input.shape, &input.bytes)?;
        tensors.insert(input.name.clone(), id);
    }
    let half = case.outputs.iter().any(|o| o.data_type == DataType::Float16);
    let mut tolerance = Tolerance::Ulp(0);
    for operator in &case.operators {
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
        let call = Call { case: &case.name, name, arguments: &arguments, tensors: &tensors };
        tolerance = tolerance.and(call.tolerance(session, half));
        let made = call.record(session)?;
        let names: Vec<&str> = match &operator["outputs"] {
            Json::Array(names) => names.iter().map(|n| n.as_str().unwrap()).collect(),
            name => vec![name.as_str().unwrap()],
        };
        if names.len() > made.len() {
            return Err(Failure::Wrong(format!("{} tensors, expected {}", made.len(), names.len())));
        }
        tensors.extend(names.iter().map(|&n| n.to_owned()).zip(made));
    }
    Ok((tensors, tolerance))
}

/// Runs a case in a session of its own.
pub fn run(engine: &Arc<Engine>, case: &Case) -> Result<Vec<Tensor>, Failure> {
    let mut session = Session::new(Arc::clone(engine), Budget::new(1 << 30), Arc::default());
    let (tensors, _) = record(&mut session, case)?;
    let read = |output: &Tensor| {
        let value = session.value(tensors[&output.name])?;
        Ok(Tensor {
            name: output.name.clone(),
            data_type: value.data_type(),
            shape: value.shape().to_vec(),
            bytes: value.bytes().to_vec(),
        })
    };
    case.outputs.iter().map(read).collect()
}

/// Whether these are the outputs that a case expects.
fn check(case: &Case, found: Vec<Tensor>) -> Result<(), Failure> {
    // Tolerances go by the shapes of what the calls are given.
    static SHAPES: LazyLock<Arc<Engine>> =
        LazyLock::new(|| Engine::new(EngineConfig { threads: 1, ..EngineConfig::default() }).unwrap().into());
    let mut session = Session::new(Arc::clone(&SHAPES), Budget::new(1 << 30), Arc::default());
    let (_, tolerance) = record(&mut session, case)?;
    for want in &case.outputs {
        let Some(found) = found.iter().find(|f| f.name == want.name) else {
            return Err(Failure::Wrong(format!("no output {:?}", want.name)));
        };
        if found.data_type != want.data_type || found.shape != want.shape {
            let (found_type, found) = (found.data_type, &found.shape);
            let (data_type, shape) = (want.data_type, &want.shape);
            return Err(Failure::Wrong(format!("{found_type} {found:?}, expected {data_type} {shape:?}")));
        }
        compare(want.data_type, &found.bytes, &want.bytes, tolerance)?;
    }
    Ok(())
}
