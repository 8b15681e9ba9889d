//! Every operator of `warren-onnx`, inside the sandbox, against values made by onnxruntime; and
//! every model that must be refused, with the words that the refusal must contain.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Deserialize;
use warren::config::Config;
use warren::job::{Class, Code, Data, Datatype, Envelope, EventsMode, Job, Named, Outputs};
use warren::sandbox::{Compiled, Entry, Guest, Refusal, Sandbox, SandboxConfig};
use warren_tensor::{Engine, EngineConfig};

#[derive(Deserialize)]
struct Fixtures {
    cases: Vec<Case>,
    invalid: Vec<Invalid>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    model: String,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

#[derive(Deserialize)]
struct Invalid {
    name: String,
    model: String,
    says: Vec<String>,
}

#[derive(Deserialize)]
struct Tensor {
    name: String,
    datatype: String,
    shape: Vec<u32>,
    data: String,
}

fn fixtures() -> Fixtures {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/onnx/ops.json");
    serde_json::from_slice(&std::fs::read(path).expect("fixtures")).expect("fixtures parse")
}

fn decode(text: &str) -> Bytes {
    BASE64.decode(text).expect("base64").into()
}

fn datatype(name: &str) -> Datatype {
    [
        Datatype::Bool,
        Datatype::Uint8,
        Datatype::Uint32,
        Datatype::Uint64,
        Datatype::Int8,
        Datatype::Int32,
        Datatype::Int64,
        Datatype::Fp16,
        Datatype::Fp32,
    ]
    .into_iter()
    .find(|t| t.name() == name)
    .unwrap_or_else(|| panic!("data type {name}"))
}

fn named(tensor: &Tensor) -> Named {
    Named {
        name: tensor.name.clone(),
        datatype: datatype(&tensor.datatype),
        shape: tensor.shape.clone(),
        data: Data::Raw(decode(&tensor.data)),
        content_type: None,
    }
}

struct Rig {
    sandbox: Sandbox,
    compiled: Compiled,
    folder: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let engine = Engine::new(EngineConfig { threads: 2, ..EngineConfig::default() }).expect("engine");
        let config = SandboxConfig { slots: 2, memory_mib: 1024, ..SandboxConfig::default() };
        let sandbox = Sandbox::new(&config, Arc::new(engine)).expect("sandbox");
        let component = PathBuf::from(env!("WARREN_GUESTS")).join("onnx/onnx.wasm");
        let compiled = sandbox.compile("onnx", &std::fs::read(component).expect("guest")).expect("compiles");
        Self { sandbox, compiled, folder: tempfile::tempdir().expect("folder") }
    }

    /// The guest with this model beside it, or with none.
    async fn guest(&self, model: Option<&Bytes>) -> Result<Guest, String> {
        let path = self.folder.path().join("model.onnx");
        match model {
            Some(model) => std::fs::write(&path, model).expect("write"),
            None => drop(std::fs::remove_file(&path)),
        }
        let limits = Config::default().limits;
        let folder = Arc::new(warren::folder::Folder::open(self.folder.path()).expect("folder"));
        self.sandbox
            .prepare("onnx@0".into(), self.compiled.clone(), limits, folder)
            .await
            .map_err(|e| e.to_string())
    }

    async fn run(&self, guest: &Guest, inputs: Vec<Named>) -> Result<Outputs, Refusal> {
        let job = Job {
            envelope: Envelope {
                id: "case".into(),
                model: "onnx".into(),
                class: Class::Normal,
                attempt: 1,
                reply_to: None,
                events: EventsMode::Final,
                traceparent: None,
                tenant: None,
            },
            parameters: Vec::new(),
            inputs,
            requested: Vec::new(),
            binary: true,
            deadline: None,
        };
        let entry = Entry { job: Arc::new(job), progress: Arc::new(|_| {}) };
        let mut results = self.sandbox.run(guest, vec![entry], |_| {}).await;
        results.pop().expect("one answer")
    }
}

fn model_input(model: &Bytes) -> Named {
    Named {
        name: "model".into(),
        datatype: Datatype::Bytes,
        shape: vec![1],
        data: Data::Strings(vec![model.clone()]),
        content_type: None,
    }
}

/// Values as f64; half precision by its bits.
fn values(datatype: Datatype, raw: &[u8]) -> Vec<f64> {
    fn each<const N: usize>(raw: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        raw.as_chunks::<N>().0.iter().map(|b| read(*b)).collect()
    }
    match datatype {
        Datatype::Fp32 => each(raw, |b| f64::from(f32::from_le_bytes(b))),
        Datatype::Fp16 => each(raw, |b| half::f16::from_le_bytes(b).to_f64()),
        Datatype::Int32 => each(raw, |b| f64::from(i32::from_le_bytes(b))),
        Datatype::Uint32 => each(raw, |b| f64::from(u32::from_le_bytes(b))),
        Datatype::Int64 => each(raw, |b| i64::from_le_bytes(b) as f64),
        Datatype::Uint64 => each(raw, |b| u64::from_le_bytes(b) as f64),
        Datatype::Int8 => raw.iter().map(|b| f64::from(b.cast_signed())).collect(),
        Datatype::Uint8 | Datatype::Bool | Datatype::Bytes => raw.iter().map(|b| f64::from(*b)).collect(),
    }
}

/// The largest relative difference, or what does not agree at all.
fn compare(case: &Case, found: &Outputs) -> Result<f64, String> {
    let mut worst = 0.0f64;
    for expected in &case.outputs {
        let output = found
            .outputs
            .iter()
            .find(|o| o.name == expected.name)
            .ok_or_else(|| format!("no output {:?}", expected.name))?;
        // A tensor of BOOL is uint8 on the device.
        let wanted = match datatype(&expected.datatype) {
            Datatype::Bool => Datatype::Uint8,
            other => other,
        };
        if output.datatype != wanted || output.shape != expected.shape {
            return Err(format!(
                "{:?} is {} {:?}, expected {} {:?}",
                output.name,
                output.datatype.name(),
                output.shape,
                expected.datatype,
                expected.shape
            ));
        }
        let Data::Raw(raw) = &output.data else { return Err("no numbers".into()) };
        let (found, expected) = (values(wanted, raw), values(wanted, &decode(&expected.data)));
        for (place, (f, e)) in found.iter().zip(&expected).enumerate() {
            let same = f == e || (f.is_nan() && e.is_nan());
            let difference = if same { 0.0 } else { (f - e).abs() / e.abs().max(1.0) };
            let tolerance = match wanted {
                Datatype::Fp32 => 3e-6,
                Datatype::Fp16 => 2e-3,
                _ => 0.0,
            };
            if difference.is_nan() || difference > tolerance {
                return Err(format!("{:?}[{place}] is {f}, expected {e}", output.name));
            }
            worst = worst.max(difference);
        }
    }
    Ok(worst)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operator_agrees_with_onnxruntime() {
    let rig = Rig::new();
    let empty = rig.guest(None).await.expect("prepares without a model");
    let (mut failed, mut worst, mut cases) = (Vec::new(), 0.0f64, 0usize);
    for case in &fixtures().cases {
        let model = decode(&case.model);
        let inputs = || case.inputs.iter().map(named).collect::<Vec<_>>();
        // Parsed by the job itself, and by way of prepare and the assets.
        let stored = rig.guest(Some(&model)).await.unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let brought = std::iter::once(model_input(&model)).chain(inputs()).collect();
        for (how, result) in
            [("job", rig.run(&empty, brought).await), ("assets", rig.run(&stored, inputs()).await)]
        {
            cases += 1;
            match result.map_err(|e| format!("{e:?}")).and_then(|outputs| compare(case, &outputs)) {
                Ok(difference) => worst = worst.max(difference),
                Err(why) => failed.push(format!("{} ({how}): {why}", case.name)),
            }
        }
    }
    println!("{cases} runs, {} failed, largest relative difference {worst:.2e}", failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(cases > 500, "only {cases} runs: are the fixtures whole?");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_run_is_refused_with_the_reason() {
    let rig = Rig::new();
    let empty = rig.guest(None).await.expect("prepares without a model");
    for case in &fixtures().invalid {
        let model = decode(&case.model);
        let Err(load) = rig.guest(Some(&model)).await else { panic!("{}: was loaded", case.name) };
        let job = match rig.run(&empty, vec![model_input(&model)]).await {
            Err(Refusal::Final(failure)) if failure.code == Code::InvalidInput => failure.text,
            other => panic!("{}: {other:?}", case.name),
        };
        for word in &case.says {
            assert!(load.contains(word) && job.contains(word), "{}: {word:?} is not in {load:?}", case.name);
        }
    }
}
