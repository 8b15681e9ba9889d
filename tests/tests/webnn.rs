//! WebNN inside the sandbox: the W3C web-platform-tests' cases and every operation of the
//! interface, called by a guest through WIT and the SDK; what such a guest answers to nonsense; and
//! what becomes of one that asks for more device memory than it may have. The cases are found as by
//! the engine's own conformance test.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "../../host/tensor/tests/webnn/mod.rs"]
mod webnn;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use warren::config::{Config, Limits};
use warren::job::{Class, Code, Data, Datatype, Envelope, EventsMode, Job, Named, Outputs, Progress};
use warren::sandbox::{Compiled, Entry, Guest, Refusal, Sandbox, SandboxConfig};
use warren_tensor::{Budget, DataType, DeviceChoice, Engine, Session};
use webnn::{Case, Failure, Tensor};

struct Rig {
    engine: Arc<Engine>,
    sandbox: Sandbox,
    compiled: Compiled,
    folder: tempfile::TempDir,
}

fn datatype(data_type: DataType) -> Datatype {
    match data_type {
        DataType::Float32 => Datatype::Fp32,
        DataType::Float16 => Datatype::Fp16,
        DataType::Int32 => Datatype::Int32,
        DataType::Uint32 => Datatype::Uint32,
        DataType::Int64 => Datatype::Int64,
        DataType::Uint64 => Datatype::Uint64,
        DataType::Int8 => Datatype::Int8,
        DataType::Uint8 => Datatype::Uint8,
    }
}

fn tensor(output: Named) -> Tensor {
    let all = [
        DataType::Float32,
        DataType::Float16,
        DataType::Int32,
        DataType::Uint32,
        DataType::Int64,
        DataType::Uint64,
        DataType::Int8,
        DataType::Uint8,
    ];
    let Named { name, datatype: found, shape, data: Data::Raw(bytes), .. } = output else {
        panic!("{:?} is no tensor", output.name)
    };
    let data_type = all.into_iter().find(|t| datatype(*t) == found).unwrap();
    Tensor { name, data_type, shape, bytes: bytes.to_vec() }
}

/// What the guest is asked: a case's tensors, and its calls.
fn inputs(case: &Case) -> Vec<Named> {
    let outputs: Vec<&str> = case.outputs.iter().map(|o| o.name.as_str()).collect();
    let graph = json!({"operators": case.operators, "outputs": outputs, "constants": case.constants});
    let tensors = case.inputs.iter().map(|input| Named {
        name: input.name.clone(),
        datatype: datatype(input.data_type),
        shape: input.shape.clone(),
        data: Data::Raw(input.bytes.clone().into()),
        content_type: None,
    });
    tensors.chain([graph_input(graph.to_string())]).collect()
}

fn graph_input(text: String) -> Named {
    Named {
        name: "graph".into(),
        datatype: Datatype::Bytes,
        shape: vec![1],
        data: Data::Strings(vec![text.into()]),
        content_type: None,
    }
}

impl Rig {
    fn new(device: DeviceChoice) -> Rig {
        let engine = Arc::new(webnn::engine(device).unwrap());
        let config = SandboxConfig { slots: 2, memory_mib: 1024, ..SandboxConfig::default() };
        let sandbox = Sandbox::new(&config, Arc::clone(&engine)).unwrap();
        let component = Path::new(env!("WARREN_GUESTS")).join("conformance/conformance.wasm");
        let compiled = sandbox.compile("conformance", &std::fs::read(component).unwrap()).unwrap();
        Rig { engine, sandbox, compiled, folder: tempfile::tempdir().unwrap() }
    }

    async fn guest(&self, limits: Limits) -> Guest {
        let folder = Arc::new(warren::folder::Folder::open(self.folder.path()).unwrap());
        self.sandbox.prepare("conformance@0".into(), self.compiled.clone(), limits, folder).await.unwrap()
    }

    async fn job(
        &self,
        guest: &Guest,
        inputs: Vec<Named>,
        progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Outputs, Refusal> {
        let job = Job {
            envelope: Envelope {
                id: "case".into(),
                model: "conformance".into(),
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
        let entry = Entry { job: Arc::new(job), progress: Arc::new(progress) };
        self.sandbox.run(guest, vec![entry], |_| {}).await.pop().unwrap()
    }

    /// Runs a case in the guest.
    async fn run(&self, guest: &Guest, case: &Case) -> Result<Vec<Tensor>, Failure> {
        match self.job(guest, inputs(case), |_| {}).await {
            Ok(outputs) => Ok(outputs.outputs.into_iter().map(tensor).collect()),
            Err(Refusal::Final(failure)) if failure.code == Code::PluginFailed => {
                match failure.text.strip_prefix("unsupported: ") {
                    Some(why) => Err(Failure::Unsupported(why.to_owned())),
                    None => Err(Failure::Wrong(failure.to_string())),
                }
            }
            Err(refusal) => Err(Failure::Wrong(format!("{refusal:?}"))),
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn the_suite_passes_in_a_guest() {
    conformance(DeviceChoice::Cpu);
}

/// On a GPU if there is one, else on llvmpipe.
#[test]
fn the_suite_passes_in_a_guest_on_wgpu() {
    if let Some(device) = webnn::wgpu() {
        conformance(device);
    }
}

fn conformance(device: DeviceChoice) {
    let Some(directory) = webnn::directory() else {
        eprintln!("SKIPPED: no WebNN conformance cases (set WARREN_WEBNN_CONFORMANCE to their folder)");
        return;
    };
    let (runtime, rig) = (runtime(), Rig::new(device.clone()));
    let guest = runtime.block_on(rig.guest(Config::default().limits));
    let start = Instant::now();
    let table = webnn::run_all(&directory, |case| runtime.block_on(rig.run(&guest, case)));
    println!("device {device}, in a guest, {:?}:\n{table}", start.elapsed());
    assert!(table.failures.is_empty(), "{} failures:\n{}", table.failures.len(), table.failures.join("\n"));
    assert!(table.total()[0] > 0, "no case was found in {}", directory.display());
}

/// Elements of any type, others for each input: numbers from 0 to 2, which are indices that fit, and
/// for floats numbers from 0.1 to 0.9, where every operation is defined, times `scale` plus `offset`.
fn elements(data_type: DataType, count: usize, input: usize, scale: f32, offset: f32) -> Vec<u8> {
    let float = |i: usize| ((i * 7 + input * 3) % 17 + 2) as f32 / 20.0 * scale + offset;
    let element = |i: usize| match data_type {
        DataType::Float32 => float(i).to_le_bytes().to_vec(),
        DataType::Float16 => half::f16::from_f32(float(i)).to_le_bytes().to_vec(),
        integer => {
            let mut bytes = vec![0; integer.size()];
            bytes[0] = ((i + input) % 3) as u8;
            bytes
        }
    };
    (0..count).flat_map(element).collect()
}

/// The calls in the data file: operation, inputs by name (type, shape, and for floats scale and
/// offset), arguments, and how many tensors it makes if not one.
fn calls() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/webnn/calls.json");
    let calls: Vec<Json> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let case = |call: &Json| {
        let input = |(place, (name, kind)): (usize, (&String, &Json))| {
            let data_type: DataType = kind[0].as_str().unwrap().parse().unwrap();
            let shape = webnn::shape(&kind[1]);
            let count = shape.iter().product::<u32>() as usize;
            let (scale, offset) = (kind[2].as_f64().unwrap_or(1.0), kind[3].as_f64().unwrap_or(0.0));
            let bytes = elements(data_type, count, place, scale as f32, offset as f32);
            Tensor { name: name.clone(), data_type, shape, bytes }
        };
        let names: Vec<String> = (0..call["makes"].as_u64().unwrap_or(1)).map(|n| format!("y{n}")).collect();
        let arguments: Vec<Json> =
            call["arguments"].as_object().unwrap().iter().map(|(k, v)| json!({ k: v })).collect();
        let output = |name| Tensor { name, data_type: DataType::Uint8, shape: Vec::new(), bytes: Vec::new() };
        Case {
            name: format!("{} {}", call["name"], call["arguments"]),
            inputs: call["inputs"].as_object().unwrap().iter().enumerate().map(input).collect(),
            constants: Vec::new(),
            operators: vec![json!({"name": call["name"], "arguments": arguments, "outputs": names})],
            outputs: names.into_iter().map(output).collect(),
        }
    };
    calls.iter().map(case).collect()
}

/// Names as the interface and the suite write them, made alike.
fn plain(name: &str) -> String {
    name.replace('-', "").to_lowercase()
}

/// Whatever crosses WIT and the SDK arrives as it was meant: the guest and a session that is handed
/// the same calls directly answer the same bits.
#[test]
fn every_operation_of_the_interface_is_the_engines() {
    let (runtime, rig) = (runtime(), Rig::new(DeviceChoice::Cpu));
    let guest = runtime.block_on(rig.guest(Config::default().limits));
    let (mut called, mut failures) = (BTreeSet::new(), Vec::new());
    let calls = calls();
    for case in &calls {
        called.insert(plain(case.operators[0]["name"].as_str().unwrap()));
        let answers = (webnn::run(&rig.engine, case), runtime.block_on(rig.run(&guest, case)));
        let (want, found) = match answers {
            (Ok(want), Ok(found)) => (want, found),
            (want, found) => {
                failures.push(format!(
                    "{}: directly {:?}, in the guest {:?}",
                    case.name,
                    want.err(),
                    found.err()
                ));
                continue;
            }
        };
        let same = |(w, f): (&Tensor, &Tensor)| {
            (&w.name, w.data_type, &w.shape, &w.bytes) == (&f.name, f.data_type, &f.shape, &f.bytes)
        };
        if want.len() != found.len() || !want.iter().zip(&found).all(same) {
            failures.push(format!("{}: other values than directly", case.name));
        }
    }
    println!("{} calls of {} operations", calls.len(), called.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit/tensors.wit");
    let wit = std::fs::read_to_string(wit).unwrap();
    let functions = wit.lines().filter_map(|l| l.strip_prefix("  ")?.split_once(": func("));
    let offered: BTreeSet<String> = functions
        .map(|(name, _)| name)
        .filter(|name| !name.starts_with(' ') && !["constant", "fill", "dispatch"].contains(name))
        .map(plain)
        .collect();
    assert_eq!(called, offered, "called, and offered by wit/tensors.wit");
}

#[test]
fn nonsense_is_refused_with_the_reason() {
    let (runtime, rig) = (runtime(), Rig::new(DeviceChoice::Cpu));
    let guest = runtime.block_on(rig.guest(Config::default().limits));
    let graph = |operators: Json, constants: Json, outputs: Json| json!({"operators": operators, "constants": constants, "outputs": outputs});
    let call = |name: &str, arguments: Json| {
        graph(json!([{"name": name, "arguments": arguments, "outputs": "y"}]), json!([]), json!(["y"]))
    };
    let conv = |padding: Json| {
        call("conv2d", json!([{"input": "x"}, {"filter": "x"}, {"options": {"padding": padding}}]))
    };
    for (graph, says) in [
        (json!("a text"), "there is no \"constants\" in \"a text\""),
        (json!({"constants": []}), "there is no \"operators\""),
        (graph(json!(7), json!([]), json!([])), "\"operators\" is 7, expected a list"),
        (graph(json!([7]), json!([]), json!([])), "an operator's name is null"),
        (graph(json!([]), json!([]), json!([[]])), "an output is [], expected a name"),
        (graph(json!([]), json!([]), json!(["x", "x"])), "named twice"),
        (graph(json!([]), json!(["z"]), json!([])), "no input \"z\""),
        (call("fly", json!([{"input": "x"}])), "operation \"fly\" is not known"),
        (call("neg", json!(["x"])), "an argument is \"x\", expected an object"),
        (call("neg", json!([])), "neg has no \"a\""),
        (call("neg", json!([{"input": "z"}])), "\"input\" is \"z\", expected the name of"),
        (
            call("cast", json!([{"input": "x"}, {"type": "int4"}])),
            "\"type\" is \"int4\", expected a data type",
        ),
        (call("reshape", json!([{"input": "x"}, {"newShape": [-1]}])), "\"newShape\" is [-1]"),
        (call("reshape", json!([{"input": "x"}, {"newShape": [1e300]}])), "\"newShape\" is [1e+300]"),
        (conv(json!([1, 2])), "\"padding\" is [1,2], expected a list of 4"),
        (conv(json!("wide")), "\"padding\" is \"wide\", expected a list of 4"),
        // These the operation refuses, by name.
        (call("reshape", json!([{"input": "x"}, {"newShape": [5]}])), "reshape: "),
        (call("logicalNot", json!([{"a": "x"}])), "logical-not: "),
    ] {
        let x = Tensor { name: "x".into(), data_type: DataType::Float32, shape: vec![1], bytes: vec![0; 4] };
        let case = Case {
            name: String::new(),
            inputs: vec![x],
            constants: Vec::new(),
            operators: Vec::new(),
            outputs: Vec::new(),
        };
        let mut inputs = inputs(&case);
        inputs.pop();
        inputs.push(graph_input(graph.to_string()));
        match runtime.block_on(rig.job(&guest, inputs, |_| {})) {
            Err(Refusal::Final(f)) if f.code == Code::InvalidInput && f.text.contains(says) => {}
            other => panic!("{graph}: expected {says:?}, found {other:?}"),
        }
    }
    let refused = runtime.block_on(rig.job(&guest, vec![graph_input("{".into())], |_| {}));
    assert!(format!("{refused:?}").contains("not JSON"), "{refused:?}");
}

/// The matrix of `size` x `size` elements 1 / size, which is its own square, multiplied by itself
/// `times`; the answer is the sum of its elements, `size`.
fn powers(size: u32, times: usize) -> Case {
    let mut operators = vec![json!({
        "name": "expand", "arguments": [{"input": "x"}, {"newShape": [size, size]}], "outputs": "p0"
    })];
    for n in 1..=times {
        let (before, after) = (format!("p{}", n - 1), format!("p{n}"));
        operators
            .push(json!({"name": "matmul", "arguments": [{"a": before}, {"b": "p0"}], "outputs": after}));
    }
    let last = format!("p{times}");
    operators.push(json!({"name": "reduceSum", "arguments": [{"input": last}], "outputs": "sum"}));
    let scalar = |name: &str, value: f32| Tensor {
        name: name.into(),
        data_type: DataType::Float32,
        shape: Vec::new(),
        bytes: value.to_le_bytes().into(),
    };
    Case {
        name: format!("{size} x {size}"),
        inputs: vec![scalar("x", 1.0 / size as f32)],
        constants: Vec::new(),
        operators,
        outputs: vec![scalar("sum", size as f32)],
    }
}

/// What a case takes at its peak when nothing limits it.
fn peak(engine: &Arc<Engine>, case: &Case) -> u64 {
    let budget = Budget::new(1 << 30);
    let mut session = Session::new(Arc::clone(engine), Arc::clone(&budget), Arc::default());
    let Ok((tensors, _)) = webnn::record(&mut session, case) else { panic!("{} is not recorded", case.name) };
    session.dispatch(&[tensors["sum"]]).unwrap();
    budget.peak()
}

#[test]
fn a_job_over_its_device_memory_ends_alone() {
    budgets(DeviceChoice::Cpu);
}

/// On a GPU if there is one, else on llvmpipe.
#[test]
fn a_job_over_its_device_memory_ends_alone_on_wgpu() {
    if let Some(device) = webnn::wgpu() {
        budgets(device);
    }
}

fn budgets(device: DeviceChoice) {
    let runtime = runtime();
    let rig = Arc::new(Rig::new(device.clone()));
    let limits = Config::default().limits;
    let limit = 8u64 << 20;
    let poor = runtime.block_on(rig.guest(Limits { device_mib: limit >> 20, ..limits.clone() }));
    let neighbour = runtime.block_on(rig.guest(limits));
    // Every matrix of the second fits by itself; not the three that its second product needs.
    let (fits, exceeds) = (powers(512, 4), powers(1024, 2));
    let held = || (rig.engine.stats().live_bytes, rig.engine.stats().device_live_bytes);
    let before = held();
    let peaks = [peak(&rig.engine, &fits), peak(&rig.engine, &exceeds)];
    assert!(peaks[0] <= limit && limit < peaks[1], "peaks {peaks:?}, budget {limit}");

    // The neighbour works until the others are done.
    let (begun, mut computing) = tokio::sync::mpsc::unbounded_channel();
    let (done, mut ended) = tokio::sync::watch::channel(false);
    let theirs = runtime.spawn({
        let rig = Arc::clone(&rig);
        async move {
            let case = powers(512, 12);
            let mut ran = Vec::new();
            while !*ended.borrow_and_update() {
                let (begun, start) = (begun.clone(), Instant::now());
                let answer = rig.job(&neighbour, inputs(&case), move |_| _ = begun.send(())).await;
                let values: Vec<Tensor> = answer.unwrap().outputs.into_iter().map(tensor).collect();
                assert_eq!((values.len(), &values[0].bytes), (1, &case.outputs[0].bytes));
                ran.push((start, Instant::now()));
            }
            ran
        }
    });
    runtime.block_on(computing.recv()).unwrap();
    let mut ours = Vec::new();
    for round in 0..4 {
        let start = Instant::now();
        match runtime.block_on(rig.job(&poor, inputs(&exceeds), |_| {})) {
            Err(Refusal::Final(f)) if f.code == Code::DeviceMemory && f.text.contains(&limit.to_string()) => {
                if round == 0 {
                    println!(
                        "device {device}: budget {limit}: peak {} of {} fits; peak {} of {} does not: {f}",
                        peaks[0], fits.name, peaks[1], exceeds.name
                    );
                }
            }
            other => panic!("expected DEVICE_MEMORY, found {other:?}"),
        }
        ours.push((start, Instant::now()));
        let answer = runtime.block_on(rig.run(&poor, &fits));
        let Ok(values) = answer else { panic!("what fits was refused: {:?}", answer.err()) };
        assert_eq!(values[0].bytes, fits.outputs[0].bytes);
    }
    done.send(true).unwrap();
    let theirs = runtime.block_on(theirs).unwrap();
    let together = |o: &&(Instant, Instant)| theirs.iter().any(|t| t.0 < o.1 && o.0 < t.1);
    let overlapping = ours.iter().filter(together).count();
    println!("{overlapping} of {} refusals while a neighbour ran, of {} runs", ours.len(), theirs.len());
    assert!(overlapping > 0, "refused {ours:?}, the neighbour ran {theirs:?}");
    // A device gives memory back when its work is done.
    let start = Instant::now();
    while held() != before {
        assert!(start.elapsed() < Duration::from_secs(20), "held {:?}, before {before:?}", held());
        std::thread::sleep(Duration::from_millis(10));
    }
}
