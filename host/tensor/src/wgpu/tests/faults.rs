//! What happens when the device is lost, silent, full or wrong, or a job is cancelled.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::*;
use crate::budget::Budget;
use crate::engine::{Engine, EngineConfig};
use crate::error::ErrorKind;
use crate::op::Reduction;
use crate::session::{Session, TensorId};

fn session(engine: &Arc<Engine>, bytes: u64) -> Session {
    Session::new(Arc::clone(engine), Budget::new(bytes), Arc::default())
}

fn engine(config: GpuConfig) -> Option<(Arc<Engine>, Wgpu)> {
    let wgpu = open(config)?;
    Some((Engine::on(Box::new(wgpu.clone()), Arc::clone(&setup().buffers)), wgpu))
}

fn numbers(s: &mut Session, shape: &[u32], value: impl Fn(usize) -> f32) -> TensorId {
    let count: u32 = shape.iter().product();
    let bytes: Vec<u8> = (0..count as usize).flat_map(|i| value(i).to_le_bytes()).collect();
    s.constant(DataType::Float32, shape, &bytes).unwrap()
}

fn read(s: &mut Session, id: TensorId) -> Vec<f32> {
    crate::buffer::view::<f32>(s.value(id).unwrap().bytes()).to_vec()
}

fn add(s: &mut Session, a: TensorId, b: TensorId) -> TensorId {
    s.record(Op::Binary(Binary::Add), &[a, b]).unwrap()
}

/// A product that takes a while, and its first element.
fn long_product(s: &mut Session, n: u32) -> (TensorId, f32) {
    let a = numbers(s, &[n, n], |_| 1.0);
    let b = numbers(s, &[n, n], |_| 0.5);
    (s.record(Op::Matmul, &[a, b]).unwrap(), n as f32 * 0.5)
}

#[test]
fn wgpu_a_lost_device_is_made_anew_and_constants_are_uploaded_again() {
    let Some((engine, wgpu)) = engine(config()) else { return };
    let mut s = session(&engine, 1 << 20);
    let (a, b) = (numbers(&mut s, &[100], |i| i as f32), numbers(&mut s, &[100], |_| 1.0));
    let c = add(&mut s, a, b);
    assert_eq!(read(&mut s, c)[99], 100.0);
    let first = wgpu.shared.link().unwrap().gpu.generation;
    // A result that lies nowhere else is lost with the device...
    let d = add(&mut s, c, b);
    s.dispatch(&[d]).unwrap();
    wgpu.lose();
    let lost = s.value(d).unwrap_err();
    assert_eq!(lost.kind, ErrorKind::DeviceLost, "{lost}");
    // ... all else goes on: constants, and results that were read.
    let e = add(&mut s, c, a);
    assert_eq!(read(&mut s, e)[99], 199.0);
    assert!(wgpu.shared.link().unwrap().gpu.generation > first);
    let mut other = session(&engine, 1 << 20);
    let x = numbers(&mut other, &[7], |i| i as f32);
    let y = add(&mut other, x, x);
    assert_eq!(read(&mut other, y)[6], 12.0);
}

#[test]
fn wgpu_a_job_whose_device_is_lost_meanwhile_is_run_once_more() {
    let Some((engine, wgpu)) = engine(GpuConfig { slice: 1 << 23, ..config() }) else { return };
    let mut s = session(&engine, 64 << 20);
    let (c, wanted) = long_product(&mut s, 512);
    let destroyer = {
        let wgpu = wgpu.clone();
        std::thread::spawn(move || {
            // Once the work has begun.
            let link = wgpu.shared.link().unwrap();
            while link.gpu.data.bytes().0 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            let generation = link.gpu.generation;
            wgpu.lose();
            generation
        })
    };
    assert_eq!(read(&mut s, c)[0], wanted);
    let lost = destroyer.join().unwrap();
    assert!(wgpu.shared.link().unwrap().gpu.generation > lost, "the work was done on a device of its own");
}

#[test]
fn wgpu_a_silent_device_counts_as_lost() {
    // One submission that takes far longer than the deadline, twice: once more is all.
    let slow = GpuConfig { slice: u64::MAX / 2, deadline: Duration::from_millis(2), ..config() };
    let Some((engine, _)) = engine(slow) else { return };
    let mut s = session(&engine, 256 << 20);
    let (c, _) = long_product(&mut s, 1024);
    let lost = s.value(c).unwrap_err();
    assert_eq!(lost.kind, ErrorKind::DeviceLost, "{lost}");
}

#[test]
fn wgpu_a_cancelled_job_stops_and_others_go_on() {
    let Some((engine, _)) = engine(GpuConfig { slice: 1 << 22, ..config() }) else { return };
    let cancel = Arc::new(AtomicBool::new(false));
    let mut s = Session::new(Arc::clone(&engine), Budget::new(256 << 20), Arc::clone(&cancel));
    let (mut c, _) = long_product(&mut s, 1024);
    for _ in 0..20 {
        c = s.record(Op::Matmul, &[c, c]).unwrap(); // minutes of work on a CPU adapter
    }
    let (started, ended) = std::thread::scope(|scope| {
        let long = scope.spawn(|| (s.value(c).unwrap_err(), Instant::now()));
        std::thread::sleep(Duration::from_millis(300));
        // A small job is served in the midst of the large one.
        let mut small = session(&engine, 1 << 20);
        let x = numbers(&mut small, &[100], |i| i as f32);
        let y = add(&mut small, x, x);
        assert_eq!(read(&mut small, y)[99], 198.0);
        assert!(!long.is_finished());
        cancel.store(true, Ordering::Relaxed);
        let started = Instant::now();
        let (error, ended) = long.join().unwrap();
        assert_eq!(error.kind, ErrorKind::Cancelled, "{error}");
        (started, ended)
    });
    assert!(ended - started < Duration::from_secs(2));
    // What it held is free again, once the device's thread has seen it.
    drop(s);
    let patience = Instant::now();
    while engine.stats().device_live_bytes > 0 {
        assert!(patience.elapsed() < Duration::from_secs(20), "{:?}", engine.stats());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn wgpu_budgets_and_the_hosts_limit_hold_before_anything_is_allocated() {
    let Some((engine, wgpu)) = engine(GpuConfig { limit: 8 << 20, ..config() }) else { return };
    // 1 MiB of input, seven intermediates of 1 MiB that share buffers, and the result.
    let chain = |s: &mut Session| {
        let mut x = numbers(s, &[512, 512], |i| i as f32);
        for _ in 0..4 {
            let turned = s.record(Op::Transpose { permutation: None }, &[x]).unwrap();
            s.release(x);
            x = add(s, turned, turned);
            s.release(turned);
        }
        x
    };
    let before = wgpu.shared.link().unwrap().gpu.data.bytes();
    let mut poor = session(&engine, 2 << 20);
    let x = chain(&mut poor);
    let refused = poor.value(x).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::OutOfMemory, "{refused}");
    assert_eq!(wgpu.shared.link().unwrap().gpu.data.bytes(), before);
    // Three at once is what the chain needs at its worst: the input, and a step's operand and result.
    let mut fair = session(&engine, 4 << 20);
    let x = chain(&mut fair);
    assert_eq!(read(&mut fair, x)[1], 16.0);
    assert!(fair.budget().peak() == 3 << 20, "{}", fair.budget().peak());
    let (live, _) = wgpu.shared.link().unwrap().gpu.data.bytes();
    // The input's handle is gone.
    assert_eq!(live, 1 << 20, "the result");
    drop(fair);
    assert_eq!(engine.stats().device_live_bytes, 0);
    // Within its budget, beyond what all jobs together may hold.
    let mut rich = session(&engine, 1 << 30);
    let x = numbers(&mut rich, &[1024, 1024], |_| 1.0);
    let y = add(&mut rich, x, x);
    let z = rich.record(Op::Transpose { permutation: None }, &[y]).unwrap();
    let refused = rich.value(z).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::OutOfMemory, "{refused}");
    assert!(refused.message.contains("all jobs"), "{refused}");
    drop(rich);
    let mut next = session(&engine, 1 << 20);
    let x = numbers(&mut next, &[10], |i| i as f32);
    let y = add(&mut next, x, x);
    assert_eq!(read(&mut next, y)[9], 18.0);
}

#[test]
fn wgpu_new_shapes_and_numbers_need_no_new_pipeline() {
    let Some((engine, wgpu)) = engine(config()) else { return };
    let run = |n: u32, low: f64| {
        let mut s = session(&engine, 1 << 24);
        let x = numbers(&mut s, &[n, 2 * n], |i| i as f32);
        let y = s.record(Op::Clamp { min: Some(low), max: None }, &[x]).unwrap();
        let y = s.record(Op::Matmul, &[y, y]);
        assert!(y.is_err(), "the shapes do not fit");
        let y = s.record(Op::Clamp { min: Some(low), max: None }, &[x]).unwrap();
        let t = s.record(Op::Transpose { permutation: None }, &[y]).unwrap();
        let z = s.record(Op::Matmul, &[y, t]).unwrap();
        read(&mut s, z)[0]
    };
    run(20, 0.0);
    let built = wgpu.shared.link().unwrap().gpu.built();
    run(31, 0.5);
    run(47, 1.5);
    assert_eq!(wgpu.shared.link().unwrap().gpu.built(), built);
}

#[test]
fn wgpu_jobs_side_by_side_get_their_own_results() {
    let Some((engine, _)) = engine(GpuConfig { slice: 1 << 16, ..config() }) else { return };
    std::thread::scope(|scope| {
        for job in 0..6 {
            let engine = &engine;
            scope.spawn(move || {
                for round in 0..10 {
                    let mut s = session(engine, 16 << 20);
                    let n = 64;
                    let a = numbers(&mut s, &[n, n], |_| job as f32);
                    let b = numbers(&mut s, &[n, n], |_| round as f32);
                    let c = s.record(Op::Matmul, &[a, b]).unwrap();
                    let c = add(&mut s, c, a);
                    let wanted = (n as i32 * job * round + job) as f32;
                    assert!(read(&mut s, c).iter().all(|&v| v == wanted), "job {job}, round {round}");
                }
            });
        }
    });
}

/// A backend that takes the mean where a sum is asked for.
struct Wrong(Arc<Cpu>);

impl Backend for Wrong {
    fn name(&self) -> &'static str {
        "wrong"
    }

    fn compile(&self, graph: &Graph) -> Result<Arc<dyn Compiled>, Error> {
        let mut graph = graph.clone();
        for node in &mut graph.nodes {
            if let Op::Reduce { kind: kind @ Reduction::Sum, .. } = &mut node.op {
                *kind = Reduction::Mean;
            }
        }
        self.0.compile(&graph)
    }

    fn fetch(&self, value: &Value, cancel: &AtomicBool) -> Result<(), Error> {
        self.0.fetch(value, cancel)
    }

    fn lose(&self) {
        self.0.lose();
    }

    fn memory(&self) -> (u64, u64) {
        (0, 0)
    }
}

#[test]
fn wgpu_a_device_that_computes_wrongly_is_found_out() {
    let Setup { cpu, buffers } = setup();
    proof::prove(cpu, cpu, buffers).unwrap();
    let error = proof::prove(&Wrong(Arc::clone(cpu)), cpu, buffers).unwrap_err();
    assert!(error.to_string().contains("computes `sum of a few` wrongly"), "{error}");
}

#[test]
fn wgpu_devices_are_chosen_as_asked() {
    let with = |device: &str| {
        let device = device.parse().unwrap();
        Engine::new(EngineConfig { threads: 1, device, ..EngineConfig::default() })
    };
    let cpu = with("cpu").unwrap();
    assert_eq!((cpu.backend(), cpu.devices().len()), ("cpu", 1));
    let auto = with("auto").unwrap();
    let chosen: Vec<_> = auto.devices().iter().filter(|d| d.chosen).collect();
    assert_eq!(chosen.len(), 1, "{:?}", auto.devices());
    // A CPU adapter is never taken unasked.
    assert!(chosen[0].name == "cpu" || chosen[0].kind != "CPU", "{chosen:?}");
    let error = with("wgpu:no such adapter").map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("no such adapter"), "{error}");
    for adapter in auto.devices().iter().filter(|d| d.name != "cpu") {
        assert!(error.to_string().contains(&adapter.name), "{error} does not name {}", adapter.name);
        let named = with(&format!("wgpu:{}", adapter.name)).unwrap();
        assert_eq!(named.backend(), "wgpu");
        assert!(named.devices().iter().any(|d| d.chosen && d.name == adapter.name));
    }
}
