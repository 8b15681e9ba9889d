//! The backend on whatever adapter there is: a CPU one (llvmpipe) will do.
#![allow(clippy::unwrap_used, clippy::panic)]

mod faults;
mod functions;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::proof::{cases, difference, run};
use super::*;
use crate::graph::Source;
use crate::op::{Binary, Op};
use crate::types::DataType;

fn config() -> GpuConfig {
    GpuConfig {
        keep: 256 << 20,
        limit: 2 << 30,
        residents: Arc::default(),
        deadline: Duration::from_secs(60),
        slice: 0,
        binding: u64::MAX,
    }
}

struct Setup {
    cpu: Arc<Cpu>,
    buffers: Arc<BufferPool>,
}

fn setup() -> &'static Setup {
    static SETUP: OnceLock<Setup> = OnceLock::new();
    SETUP.get_or_init(|| {
        let buffers = BufferPool::new(64 << 20, true);
        Setup { cpu: Arc::new(Cpu::new(1, Arc::clone(&buffers)).unwrap()), buffers }
    })
}

/// A backend on the first adapter, not yet proved; `None` where there is none.
fn open(config: GpuConfig) -> Option<Wgpu> {
    let Some(adapter) = gpu::adapters().into_iter().next() else {
        eprintln!("SKIPPED: no Vulkan adapter (install mesa-vulkan-drivers for llvmpipe)");
        return None;
    };
    Some(Wgpu::open(&adapter, config, &setup().cpu, &setup().buffers).unwrap())
}

#[test]
fn wgpu_every_kernel_family_computes_as_the_cpu() {
    let Some(wgpu) = open(config()) else { return };
    let mut wrong = Vec::new();
    for case in cases() {
        let wanted = run(&case, &setup().cpu, &setup().buffers).unwrap();
        match run(&case, &wgpu, &setup().buffers) {
            Ok(found) => {
                if let Some(d) = difference(&found, &wanted) {
                    wrong.push(format!("{}: {d:?}", case.name));
                }
            }
            Err(e) => wrong.push(format!("{}: {e}", case.name)),
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Limits as every Vulkan adapter has them.
fn limits() -> command::Limits {
    command::Limits { binding: 1 << 27, buffer: 1 << 28, buffers: 8, groups: 65_535, slice: 1 << 35 }
}

/// Needs no adapter: what drivers are given is valid WGSL, and every file is part of some kernel.
#[test]
fn wgpu_kernels_are_valid_wgsl() {
    let mut texts: std::collections::HashMap<Arc<str>, &'static str> = std::collections::HashMap::new();
    for case in cases() {
        let graph = proof::graph(&case).unwrap();
        let plan = setup().cpu.kernels(&graph).unwrap();
        let bytes = |place: &Place| match place {
            Place::Leaf(l) => graph.leaves[*l as usize].bytes(),
            Place::Slot(s) => plan.slots[*s as usize],
        };
        for step in &plan.steps {
            let inputs: Vec<usize> = step.inputs.iter().map(bytes).collect();
            let outputs: Vec<usize> = step.outputs.iter().map(|&o| plan.slots[o as usize]).collect();
            let (commands, _) = lower::commands(&limits(), step, &inputs, &outputs)
                .unwrap_or_else(|why| panic!("{} is left to the CPU: {why}", case.name));
            texts.extend(commands.into_iter().map(|c| (c.kernel.text, c.kernel.name)));
        }
    }
    for (text, name) in &texts {
        let module = naga::front::wgsl::parse_str(text)
            .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(text)));
        // No capability beyond what WebGPU guarantees.
        let mut validator = naga::valid::Validator::new(
            naga::valid::ValidationFlags::all(),
            naga::valid::Capabilities::empty(),
        );
        let info = validator.validate(&module).map_err(|e| e.emit_to_string(text));
        info.unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let files = concat!(env!("CARGO_MANIFEST_DIR"), "/src/wgpu/kernels");
    for entry in std::fs::read_dir(files).unwrap() {
        let file = entry.unwrap().path();
        let content = std::fs::read_to_string(&file).unwrap();
        assert!(texts.keys().any(|t| t.contains(&content)), "{} is part of no kernel", file.display());
    }
}

/// Deterministic data of the shapes of the case, and a case of one operation.
fn op(name: &'static str, op: Op, leaves: &[(DataType, &'static [u32])]) -> proof::Case {
    let inputs = (0..leaves.len() as u32).map(Source::Leaf).collect();
    proof::Case { name, leaves: leaves.to_vec(), nodes: vec![(op, inputs)] }
}

fn same(case: &proof::Case, wgpu: &Wgpu) {
    let wanted = run(case, &setup().cpu, &setup().buffers).unwrap();
    let found = run(case, wgpu, &setup().buffers).unwrap();
    if let Some(d) = difference(&found, &wanted) {
        panic!("{} {:?}: {d:?}", case.name, case.leaves);
    }
}

/// Kernels cut into many dispatches, and tensors into many bindings, compute the same.
#[test]
fn wgpu_small_limits_change_nothing() {
    let Some(wgpu) = open(GpuConfig { slice: 20_000, binding: 64 << 10, ..config() }) else { return };
    for case in cases() {
        same(&case, &wgpu);
    }
    let f32 = DataType::Float32;
    let long: &'static [u32] = &[70_001];
    let sum = proof::Case {
        name: "element-wise over several bindings",
        leaves: vec![(f32, long), (f32, &[1])],
        nodes: vec![
            (Op::Binary(Binary::Add), vec![Source::Leaf(0), Source::Leaf(1)]),
            (Op::Cast { to: DataType::Float16 }, vec![Source::Node(0)]),
        ],
    };
    same(&sum, &wgpu);
    same(&op("a product beyond a binding", Op::Matmul, &[(f32, &[200, 100]), (f32, &[100, 3])]), &wgpu);
}

/// What the device leaves to the CPU fits in between.
#[test]
fn wgpu_mixed_plans_run_on_both() {
    let Some(wgpu) = open(config()) else { return };
    let case = proof::Case {
        name: "int64 in between",
        leaves: vec![(DataType::Float32, &[5, 33]), (DataType::Float32, &[5, 33])],
        nodes: vec![
            (Op::Binary(Binary::Mul), vec![Source::Leaf(0), Source::Leaf(1)]),
            (Op::Cast { to: DataType::Int64 }, vec![Source::Node(0)]),
            (Op::Transpose { permutation: None }, vec![Source::Node(1)]),
            (Op::Binary(Binary::Mul), vec![Source::Node(2), Source::Node(2)]),
            (Op::Cast { to: DataType::Float32 }, vec![Source::Node(3)]),
            (Op::Softmax { axis: 1 }, vec![Source::Node(4)]),
        ],
    };
    same(&case, &wgpu);
    let plan = setup().cpu.kernels(&proof::graph(&case).unwrap()).unwrap();
    let (pieces, _) = piece::cut(plan, &proof::graph(&case).unwrap(), &setup().cpu, &limits());
    let host: Vec<_> = pieces
        .iter()
        .filter_map(|p| match &p.work {
            Work::Host(_, reasons) => Some(reasons.clone()),
            Work::Device(_) => None,
        })
        .collect();
    assert_eq!((pieces.len(), host.len()), (4, 2), "{host:?}");
    assert!(host.iter().flatten().all(|(_, why)| why.contains("64-bit")), "{host:?}");
}
