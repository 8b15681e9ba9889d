//! Runs WebNN conformance cases, data of the W3C web-platform-tests' form, on an engine.
#![allow(dead_code)]

mod call;
mod compare;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

/// Where the cases are.
pub fn directory() -> Option<PathBuf> {
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

/// Runs every case of every JSON file in a folder.
pub fn run_all(engine: &Arc<Engine>, directory: &Path) -> Table {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut table = Table::default();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "json")) {
        let suite: Json = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let operation = suite["operation"].as_str().map_or(name, str::to_owned);
        for test in suite["tests"].as_array().unwrap() {
            let count = table.counts.entry(operation.clone()).or_default();
            match run(engine, test["name"].as_str().unwrap(), &test["graph"]) {
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
        // JSON has no infinities: the data sets write null. The cases that have it (of clamp) hold
        // for -Infinity.
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
    let values: Vec<&Json> =
        if values.len() == 1 && count > 1 { vec![&values[0]; count] } else { values.iter().collect() };
    let mut out = Vec::new();
    for v in values {
        match data_type {
            DataType::Float32 => out.extend((number(v) as f32).to_le_bytes()),
            DataType::Float16 => out.extend(half::f16::from_f64(number(v)).to_le_bytes()),
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

fn run(engine: &Arc<Engine>, case: &str, graph: &Json) -> Result<(), Failure> {
    let mut session = Session::new(Arc::clone(engine), Budget::new(1 << 30), Arc::default());
    let mut tensors: HashMap<String, TensorId> = HashMap::new();
    for (name, input) in graph["inputs"].as_object().unwrap() {
        let data_type = data_type(&input["descriptor"]["dataType"])?;
        let dims = shape(&input["descriptor"]["shape"]);
        let count = dims.iter().map(|&d| d as usize).product();
        let bytes = encode(data_type, &input["data"], count);
        tensors.insert(name.clone(), session.constant(data_type, &dims, &bytes)?);
    }
    let outputs = graph["expectedOutputs"].as_object().unwrap();
    let half = outputs.values().any(|o| o["descriptor"]["dataType"] == "float16");
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
        tolerance = tolerance.and(call.tolerance(&session, half));
        let made = call.record(&mut session)?;
        let names: Vec<&str> = match &operator["outputs"] {
            Json::Array(names) => names.iter().map(|n| n.as_str().unwrap()).collect(),
            name => vec![name.as_str().unwrap()],
        };
        if names.len() > made.len() {
            return Err(Failure::Wrong(format!("{} tensors, expected {}", made.len(), names.len())));
        }
        tensors.extend(names.iter().map(|&n| n.to_owned()).zip(made));
    }
    for (name, expected) in outputs {
        let data_type = data_type(&expected["descriptor"]["dataType"])?;
        let dims = shape(&expected["descriptor"]["shape"]);
        let value = session.value(tensors[name])?;
        if value.data_type() != data_type || value.shape() != dims {
            let (found_type, found) = (value.data_type(), value.shape());
            return Err(Failure::Wrong(format!("{found_type} {found:?}, expected {data_type} {dims:?}")));
        }
        let count = dims.iter().map(|&d| d as usize).product();
        let want = encode(data_type, &expected["data"], count);
        compare(data_type, value.bytes(), &want, tolerance)?;
    }
    Ok(())
}
