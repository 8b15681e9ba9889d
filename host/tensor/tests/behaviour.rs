//! What sessions and engines promise beside right numbers: lazy recording, shared plans, budgets,
//! cancellation, no leaks, no panics whatever is sent.
#![allow(clippy::unwrap_used, clippy::panic, clippy::type_complexity, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use warren_tensor::*;

const F32: DataType = DataType::Float32;

fn engine(threads: usize) -> Arc<Engine> {
    Arc::new(Engine::new(EngineConfig { threads, poison: true, ..EngineConfig::default() }).unwrap())
}

fn session(engine: &Arc<Engine>) -> Session {
    Session::new(Arc::clone(engine), Budget::new(1 << 30), Arc::default())
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    value.bytes().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn add(s: &mut Session, a: TensorId, b: TensorId) -> TensorId {
    s.record(Op::Binary(Binary::Add), &[a, b]).unwrap()
}

#[test]
fn equal_graphs_share_a_plan_whatever_their_data() {
    let engine = engine(1);
    for round in 0..5 {
        let mut s = session(&engine);
        let a = s.constant(F32, &[3], &bytes(&[1.0, 2.0, round as f32])).unwrap();
        let b = s.constant(F32, &[3], &bytes(&[10.0, 20.0, 30.0])).unwrap();
        let sum = add(&mut s, a, b);
        assert_eq!(floats(&s.value(sum).unwrap()), [11.0, 22.0, 30.0 + round as f32]);
    }
    assert_eq!((engine.stats().plan_hits, engine.stats().plan_misses), (4, 1));
}

#[test]
fn graphs_that_differ_in_any_way_have_plans_of_their_own() {
    let engine = engine(1);
    let mut s = session(&engine);
    let a = s.constant(F32, &[2], &bytes(&[1.0, 2.0])).unwrap();
    let b = s.constant(F32, &[2], &bytes(&[1.0, 2.0])).unwrap();
    let c = s.constant(F32, &[1, 2], &bytes(&[1.0, 2.0])).unwrap();
    let graphs: [(Op, Vec<TensorId>); 7] = [
        (Op::Binary(Binary::Add), vec![a, b]),
        (Op::Binary(Binary::Add), vec![a, a]),
        (Op::Binary(Binary::Add), vec![a, c]),
        (Op::Binary(Binary::Sub), vec![a, b]),
        (Op::Linear { alpha: 2.0, beta: 0.0 }, vec![a]),
        (Op::Linear { alpha: 2.0, beta: 1.0 }, vec![a]),
        (Op::Linear { alpha: 2.0, beta: -0.0 }, vec![a]),
    ];
    for (done, (op, inputs)) in graphs.into_iter().enumerate() {
        let id = s.record(op, &inputs).unwrap();
        s.value(id).unwrap();
        s.release(id);
        assert_eq!(engine.stats().plan_misses, done as u64 + 1, "{op:?}");
    }
    assert_eq!(engine.stats().plan_hits, 0);
}

#[test]
fn the_plan_cache_keeps_its_bound_and_forgets_the_oldest() {
    let config = EngineConfig { threads: 1, plan_cache_entries: 4, ..EngineConfig::default() };
    let engine = Arc::new(Engine::new(config).unwrap());
    let run = |n: u32| {
        let mut s = session(&engine);
        let a = s.constant(F32, &[n], &bytes(&vec![1.0; n as usize])).unwrap();
        let y = s.record(Op::Unary(Unary::Neg), &[a]).unwrap();
        s.value(y).unwrap();
    };
    (1..=10).for_each(run);
    assert_eq!(engine.stats().plans, 4);
    run(10);
    assert_eq!(engine.stats().plan_hits, 1);
    run(1);
    assert_eq!(engine.stats().plan_misses, 11);
}

#[test]
fn a_job_over_its_budget_is_refused_before_anything_is_allocated() {
    let engine = engine(1);
    let (small, large) = (Budget::new(100_000), Budget::new(1 << 30));
    let mut poor = Session::new(Arc::clone(&engine), Arc::clone(&small), Arc::default());
    let mut neighbour = Session::new(Arc::clone(&engine), Arc::clone(&large), Arc::default());
    let kept = neighbour.constant(F32, &[4], &bytes(&[1.0, 2.0, 3.0, 4.0])).unwrap();
    let x = poor.constant(F32, &[1], &bytes(&[3.0])).unwrap();
    let big = poor.record(Op::Expand { shape: Dims::new(&[1000, 1000]).unwrap() }, &[x]).unwrap();
    let before = engine.stats();
    let used = small.used();
    let error = poor.value(big).unwrap_err();
    assert_eq!(error.kind, ErrorKind::OutOfMemory);
    let pieces = [small.used().to_string(), small.limit().to_string()];
    assert!(pieces.iter().all(|p| error.message.contains(p)), "{error}");
    assert_eq!((small.used(), engine.stats().live_bytes), (used, before.live_bytes));
    // The session goes on, and so does its neighbour.
    let y = poor.record(Op::Unary(Unary::Neg), &[x]).unwrap();
    assert_eq!(floats(&poor.value(y).unwrap()), [-3.0]);
    let z = add(&mut neighbour, kept, kept);
    assert_eq!(floats(&neighbour.value(z).unwrap()), [2.0, 4.0, 6.0, 8.0]);
    let error = poor.constant(F32, &[50_000], &vec![0; 200_000]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::OutOfMemory);
    assert!(small.peak() <= small.limit());
}

#[test]
fn the_budget_is_free_again_when_session_and_values_are_gone() {
    let engine = engine(1);
    let budget = Budget::new(1 << 30);
    let mut s = Session::new(Arc::clone(&engine), Arc::clone(&budget), Arc::default());
    let a = s.constant(F32, &[1000], &bytes(&noise(1000, 1))).unwrap();
    let mut x = a;
    for _ in 0..10 {
        let y = s.record(Op::Softmax { axis: 0 }, &[x]).unwrap();
        if x != a {
            s.release(x);
        }
        x = y;
    }
    let value = s.value(x).unwrap();
    assert!(budget.peak() > budget.used(), "intermediates were charged and given back");
    let flat = s.record(Op::Reshape { shape: Dims::new(&[10, 100]).unwrap() }, &[x]).unwrap();
    let reshaped = s.value(flat).unwrap();
    drop(s);
    assert!(budget.used() >= 4000, "values outlive their session, charged");
    drop(value);
    assert!(budget.used() >= 4000, "a reshape shares its memory");
    assert_eq!(reshaped.shape(), [10, 100]);
    drop(reshaped);
    assert_eq!((budget.used(), engine.stats().live_bytes), (0, 0));
}

#[test]
fn a_cancelled_job_stops_soon_even_within_one_operation() {
    for threads in [1, 2] {
        let engine = engine(threads);
        let cancel = Arc::new(AtomicBool::new(false));
        let mut s = Session::new(Arc::clone(&engine), Budget::new(1 << 32), Arc::clone(&cancel));
        let one = s.constant(F32, &[1, 1], &bytes(&[1.0])).unwrap();
        let square = Op::Expand { shape: Dims::new(&[6000, 6000]).unwrap() };
        let a = s.record(square, &[one]).unwrap();
        let mut x = a;
        for _ in 0..5 {
            x = s.record(Op::Matmul, &[x, a]).unwrap(); // 432 GFLOP each
        }
        let flag = Arc::clone(&cancel);
        let canceller = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            flag.store(true, Ordering::Relaxed);
            Instant::now()
        });
        let error = s.dispatch(&[x]).unwrap_err();
        let late = canceller.join().unwrap().elapsed();
        assert_eq!(error.kind, ErrorKind::Cancelled);
        assert!(late < Duration::from_millis(1500), "went on for {late:?} after the cancel");
    }
}

#[test]
fn a_million_chained_operations_neither_overflow_nor_recurse() {
    let config = EngineConfig { threads: 1, max_pending_nodes: 2_000_000, ..EngineConfig::default() };
    let engine = Arc::new(Engine::new(config).unwrap());
    let mut s = session(&engine);
    let one = s.constant(F32, &[1], &bytes(&[1.0])).unwrap();
    let chain = |s: &mut Session| {
        let mut x = one;
        for _ in 0..1_000_000 {
            let y = add(s, x, one);
            if x != one {
                s.release(x);
            }
            x = y;
        }
        x
    };
    let x = chain(&mut s);
    assert_eq!(s.pending(), 1_000_000);
    assert_eq!(floats(&s.value(x).unwrap()), [1_000_001.0]);
    assert_eq!(s.pending(), 0);
    // Released uncomputed, and dropped uncomputed.
    let x = chain(&mut s);
    s.release(x);
    assert_eq!(s.pending(), 0);
    chain(&mut s);
}

#[test]
fn pending_operations_are_bounded() {
    let engine = engine(1);
    let mut s = session(&engine);
    let mut x = s.constant(F32, &[1], &bytes(&[1.0])).unwrap();
    for _ in 0..100_000 {
        x = s.record(Op::Unary(Unary::Neg), &[x]).unwrap();
    }
    let error = s.record(Op::Unary(Unary::Neg), &[x]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::OutOfMemory);
    s.dispatch(&[x]).unwrap();
    s.record(Op::Unary(Unary::Neg), &[x]).unwrap();
}

#[test]
fn stale_and_foreign_handles_are_errors() {
    let engine = engine(1);
    let mut s = session(&engine);
    let a = s.constant(F32, &[1], &bytes(&[1.0])).unwrap();
    s.release(a);
    let b = s.constant(F32, &[1], &bytes(&[2.0])).unwrap();
    assert_ne!(a, b, "a reused place has another handle");
    for wrong in [a, TensorId::from_rep(77), TensorId::from_rep(u32::MAX)] {
        assert_eq!(s.descriptor(wrong).unwrap_err().kind, ErrorKind::InvalidArgument);
        assert_eq!(s.value(wrong).unwrap_err().kind, ErrorKind::InvalidArgument);
        assert_eq!(s.dispatch(&[b, wrong]).unwrap_err().kind, ErrorKind::InvalidArgument);
        let op = Op::Binary(Binary::Add);
        assert_eq!(s.record(op, &[b, wrong]).unwrap_err().kind, ErrorKind::InvalidArgument);
        s.release(wrong);
    }
    assert_eq!(floats(&s.value(b).unwrap()), [2.0]);
}

#[test]
fn held_intermediates_are_computed_once_and_dropped_ones_not_kept() {
    let engine = engine(1);
    let mut s = session(&engine);
    let a = s.constant(F32, &[4], &bytes(&[1.0, 2.0, 3.0, 4.0])).unwrap();
    let held = s.record(Op::Unary(Unary::Exp), &[a]).unwrap();
    let dropped = s.record(Op::Unary(Unary::Neg), &[held]).unwrap();
    let other = s.record(Op::Unary(Unary::Sqrt), &[dropped]).unwrap(); // not dispatched below
    let end = s.record(Op::Unary(Unary::Abs), &[dropped]).unwrap();
    s.release(dropped);
    s.dispatch(&[end]).unwrap();
    let misses = engine.stats().plan_misses;
    s.value(held).unwrap();
    assert_eq!(engine.stats().plan_misses, misses, "the held one was kept");
    assert_eq!(s.pending(), 1, "what `other` needs was kept, `other` was not computed");
    assert!(floats(&s.value(other).unwrap()).iter().all(|v| v.is_nan()));
}

#[test]
fn results_do_not_depend_on_threads() {
    let results: Vec<Vec<f32>> = [1, 2, 2, 3]
        .map(|threads| {
            let engine = engine(threads);
            let mut s = session(&engine);
            let x = s.constant(F32, &[2, 16, 96, 200], &bytes(&noise(2 * 16 * 96 * 200, 5))).unwrap();
            let w = s.constant(F32, &[12, 16, 3, 5], &bytes(&noise(12 * 16 * 15, 6))).unwrap();
            let conv = Op::Conv2d(Conv2d { padding: [1, 1, 2, 2], ..Conv2d::default() });
            let y = s.record(conv, &[x, w]).unwrap();
            let shape = Dims::new(&[2, 12, 96, 200]).unwrap();
            assert_eq!(s.descriptor(y).unwrap().1, shape.as_slice());
            let t = s.record(Op::Transpose { permutation: Dims::new(&[0, 1, 3, 2]) }, &[y]).unwrap();
            let m = s.record(Op::Matmul, &[y, t]).unwrap();
            let r = Op::Reduce { kind: Reduction::Sum, axes: Dims::new(&[2]), keep_dimensions: true };
            let r = s.record(r, &[m]).unwrap();
            let z = s.record(Op::Binary(Binary::Sub), &[m, r]).unwrap();
            let z = s.record(Op::Softmax { axis: 3 }, &[z]).unwrap();
            let all = Op::Reduce { kind: Reduction::L2, axes: None, keep_dimensions: false };
            let total = s.record(all, &[y]).unwrap();
            s.dispatch(&[z, total]).unwrap();
            let mut out = floats(&s.value(z).unwrap());
            out.extend(floats(&s.value(total).unwrap()));
            out
        })
        .into();
    assert!(results[0].iter().all(|v| v.is_finite()));
    assert!(results.iter().all(|r| r == &results[0]));
}

#[test]
fn an_asset_is_shared_between_sessions_and_jobs_on_many_threads() {
    let engine = engine(2);
    let assets = Budget::new(1 << 20);
    let filter = engine.value(&assets, F32, &[8, 4, 3, 3], &bytes(&noise(288, 1))).unwrap();
    let expected: Vec<Vec<f32>> = std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut last = Vec::new();
                    for _ in 0..20 {
                        let mut s = session(&engine);
                        let x = s.constant(F32, &[1, 4, 40, 64], &bytes(&noise(4 * 40 * 64, 2))).unwrap();
                        let w = s.import(&filter).unwrap();
                        let y = s.record(Op::Conv2d(Conv2d::default()), &[x, w]).unwrap();
                        let y = s.record(Op::Unary(Unary::Relu), &[y]).unwrap();
                        last = floats(&s.value(y).unwrap());
                    }
                    last
                })
            })
            .collect();
        jobs.into_iter().map(|j| j.join().unwrap()).collect()
    });
    assert!(expected.iter().all(|e| e == &expected[0]));
    assert!(assets.used() > 288 * 4, "the arranged filter is charged to the asset's budget");
    drop(filter);
    assert_eq!(assets.used(), 0);
}

#[test]
fn tensors_without_elements_go_through_every_kind_of_operation() {
    let engine = engine(2);
    let mut s = session(&engine);
    let dims = |d: &[u32]| Dims::new(d).unwrap();
    let e = s.constant(F32, &[0, 3], &[]).unwrap();
    let x = s.constant(F32, &[2, 3], &bytes(&noise(6, 1))).unwrap();
    let sum = |axes| Op::Reduce { kind: Reduction::Sum, axes, keep_dimensions: false };
    // Images without channels: what is left of a convolution is its bias.
    let [nchw, nhwc] = [[1, 0, 3, 3], [1, 3, 3, 0]].map(|shape| s.constant(F32, &shape, &[]).unwrap());
    let filter = s.constant(F32, &[2, 0, 2, 2], &[]).unwrap();
    let bias = s.constant(F32, &[2], &bytes(&[5.0, 5.0])).unwrap();
    let conv = |input_layout| Op::Conv2d(Conv2d { input_layout, ..Conv2d::default() });
    let cases: Vec<(Op, Vec<TensorId>, Vec<u32>, Option<f32>)> = vec![
        (Op::Unary(Unary::Exp), vec![e], vec![0, 3], None),
        (Op::Binary(Binary::Add), vec![e, e], vec![0, 3], None),
        (Op::Transpose { permutation: None }, vec![e], vec![3, 0], None),
        (Op::Reshape { shape: dims(&[3, 0, 5]) }, vec![e], vec![3, 0, 5], None),
        (Op::Concat { axis: 0 }, vec![e, x], vec![2, 3], None),
        (Op::Softmax { axis: 1 }, vec![e], vec![0, 3], None),
        (Op::Softmax { axis: 0 }, vec![e], vec![0, 3], None),
        (sum(Some(dims(&[0]))), vec![e], vec![3], Some(0.0)),
        (sum(Some(dims(&[1]))), vec![e], vec![0], None),
        (sum(None), vec![e], vec![], Some(0.0)),
        (Op::Matmul, vec![e, x], vec![], None),
        (Op::Slice { starts: dims(&[1, 1]), sizes: dims(&[0, 2]), strides: None }, vec![x], vec![0, 2], None),
        (
            Op::Pad { beginning: dims(&[1, 0]), ending: dims(&[1, 0]), mode: PaddingMode::Constant(7.0) },
            vec![e],
            vec![2, 3],
            Some(7.0),
        ),
        (
            Op::Gemm { alpha: 1.0, beta: 1.0, a_transpose: true, b_transpose: false },
            vec![e, e],
            vec![3, 3],
            Some(0.0),
        ),
        (conv(InputLayout::Nchw), vec![nchw, filter], vec![1, 2, 2, 2], Some(0.0)),
        (conv(InputLayout::Nchw), vec![nchw, filter, bias], vec![1, 2, 2, 2], Some(5.0)),
        (conv(InputLayout::Nhwc), vec![nhwc, filter], vec![1, 2, 2, 2], Some(0.0)),
        (conv(InputLayout::Nhwc), vec![nhwc, filter, bias], vec![1, 2, 2, 2], Some(5.0)),
    ];
    for (op, inputs, shape, fill) in cases {
        let Ok(id) = s.record(op, &inputs) else {
            assert_eq!(op, Op::Matmul, "only (0, 3) x (2, 3) does not multiply");
            continue;
        };
        let value = s.value(id).unwrap();
        assert_eq!(value.shape(), shape, "{op:?}");
        if let Some(fill) = fill {
            assert!(floats(&value).iter().all(|v| *v == fill), "{op:?}: {:?}", floats(&value));
        }
    }
}

#[test]
fn rows_of_any_width_are_resampled() {
    const WIDTH: u32 = 10_000;
    let engine = engine(2);
    for mode in [Interpolation::NearestNeighbor, Interpolation::Linear] {
        let mut s = session(&engine);
        let x = s.constant(F32, &[1, 1, 2, 2], &bytes(&[0.0, 1.0, 0.0, 1.0])).unwrap();
        let resample = Resample2d { mode, sizes: Some([3, WIDTH]), ..Resample2d::default() };
        let id = s.record(Op::Resample2d(resample), &[x]).unwrap();
        let values = floats(&s.value(id).unwrap());
        for (at, value) in values.iter().enumerate() {
            let place = (at % WIDTH as usize) as f32 + 0.5;
            let want = match mode {
                Interpolation::Linear => (place * 2.0 / WIDTH as f32 - 0.5).clamp(0.0, 1.0),
                Interpolation::NearestNeighbor => f32::from(place > WIDTH as f32 / 2.0),
            };
            assert!((value - want).abs() < 1e-5, "{mode:?} at {at}: {value}, not {want}");
        }
        assert_eq!(values.len(), 3 * WIDTH as usize);
    }
}

#[test]
fn refusals_name_the_operation_and_the_shapes() {
    let engine = engine(1);
    let mut s = session(&engine);
    let a = s.constant(F32, &[2, 3], &bytes(&noise(6, 1))).unwrap();
    let b = s.constant(F32, &[4, 5], &bytes(&noise(20, 1))).unwrap();
    let error = s.record(Op::Matmul, &[a, b]).unwrap_err();
    assert_eq!((error.kind, error.operation), (ErrorKind::InvalidArgument, "matmul"));
    assert!(error.message.contains("[2, 3]") && error.message.contains("[4, 5]"), "{error}");
    let error = s.constant(F32, &[1; 9], &[]).unwrap_err();
    assert!(error.message.contains("rank 9"), "{error}");
    let error = s.constant(F32, &[65536, 65536, 65536], &[]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidArgument);
    // No element, but strides that would overflow.
    let error = s.constant(F32, &[u32::MAX, 2, u32::MAX, 0], &[]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidArgument);
    let error = s.constant(F32, &[3], &[0; 11]).unwrap_err();
    assert!(error.message.contains("11 bytes"), "{error}");
}

#[test]
fn one_jobs_data_never_reaches_another_through_the_pool() {
    // Not poisoned here: buffers come back with the secret in them.
    let engine =
        Arc::new(Engine::new(EngineConfig { threads: 1, poison: false, ..EngineConfig::default() }).unwrap());
    const SECRET: f32 = 1234.5;
    let count = 3 * 40 * 70;
    for _ in 0..3 {
        let mut s = session(&engine);
        let x = s.constant(F32, &[count], &bytes(&vec![SECRET; count as usize])).unwrap();
        let mut kept = Vec::new();
        for _ in 0..8 {
            let y = s.record(Op::Unary(Unary::Abs), &[x]).unwrap();
            kept.push(y);
        }
        s.dispatch(&kept).unwrap();
    }
    assert!(engine.stats().pooled_bytes > 8 * u64::from(count) * 4);
    let mut s = session(&engine);
    let x = s.constant(F32, &[1, 3, 40, 70], &bytes(&vec![0.5; count as usize])).unwrap();
    let w = s.constant(F32, &[3, 3, 3, 3], &bytes(&[0.25; 81])).unwrap();
    let dims = |d: &[u32]| Dims::new(d).unwrap();
    let mut outputs = Vec::new();
    for (op, inputs) in [
        (Op::Conv2d(Conv2d { padding: [1; 4], ..Conv2d::default() }), vec![x, w]),
        (Op::Conv2d(Conv2d { padding: [1; 4], strides: [2, 3], ..Conv2d::default() }), vec![x, w]),
        (Op::Transpose { permutation: None }, vec![x]),
        (
            Op::Pad { beginning: dims(&[0, 0, 1, 5]), ending: dims(&[0, 1, 0, 3]), mode: PaddingMode::Edge },
            vec![x],
        ),
        (
            Op::Slice {
                starts: dims(&[0, 0, 1, 1]),
                sizes: dims(&[1, 3, 39, 60]),
                strides: Some(dims(&[1, 1, 2, 3])),
            },
            vec![x],
        ),
        (Op::Concat { axis: 2 }, vec![x, x]),
        (Op::Softmax { axis: 1 }, vec![x]),
        (Op::Softmax { axis: 3 }, vec![x]),
        (Op::Binary(Binary::Pow), vec![x, x]),
        (Op::Matmul, vec![x, x]),
    ] {
        // (.., 40, 70) x (.., 40, 70) does not multiply: turned first.
        let inputs = if op == Op::Matmul {
            let t = s.record(Op::Transpose { permutation: Some(dims(&[0, 1, 3, 2])) }, &[x]).unwrap();
            vec![x, t]
        } else {
            inputs
        };
        outputs.push(s.record(op, &inputs).unwrap());
    }
    s.dispatch(&outputs).unwrap();
    for id in outputs {
        assert!(floats(&s.value(id).unwrap()).iter().all(|v| v.abs() < 100.0));
    }
}
