//! The engine's CPU backend beside onnxruntime: one case after the other, rounds of the two in
//! turn, medians. The peer runs in the Python that WARREN_BENCH_PYTHON names (with onnxruntime and
//! numpy); without one only the engine's own times are shown.
//!
//! Arguments: a part of the names of the cases to run. `THREADS` in the environment: 2 if not set.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use warren_tensor::*;

const ROUNDS: usize = 7;
const SLICE: Duration = Duration::from_millis(150);

/// Kind, sizes, floating-point operations or bytes of one run.
struct Case {
    kind: &'static str,
    sizes: Vec<u32>,
}

fn cases() -> Vec<Case> {
    let case = |kind, sizes: &[u32]| Case { kind, sizes: sizes.to_vec() };
    vec![
        case("matmul", &[512, 512, 512]),
        case("matmul", &[1024, 1024, 1024]),
        case("matmul", &[2048, 2048, 2048]),
        case("dense", &[128, 768, 3072]),
        case("dense", &[1, 768, 3072]),
        case("dense", &[8, 768, 3072]),
        case("dense", &[1, 384, 384]),
        case("dense", &[16, 384, 1536]),
        case("dense", &[128, 384, 384]),
        case("dense", &[512, 512, 512]),
        case("batched", &[12, 128, 64, 128]),
        case("batched", &[64, 64, 64, 64]),
        case("conv", &[64, 224, 224, 64, 3, 1]),
        case("conv", &[64, 112, 112, 64, 1, 1]),
        case("conv", &[64, 112, 112, 64, 3, 64]),
        case("softmax", &[1024, 1024]),
        case("layernorm", &[1024, 768]),
        case("gelu", &[1 << 20]),
        case("gelu", &[16 << 20]),
        case("add", &[16 << 20]),
        case("encoder", &[1, 16]),
        case("encoder", &[1, 128]),
        case("encoder", &[8, 128]),
    ]
}

/// A job's state between runs: constants are kept, inputs and graph are made anew.
struct Ours {
    engine: Arc<Engine>,
    budget: Arc<Budget>,
    weights: Vec<Arc<Value>>,
    /// Elements and shapes of the inputs: every run has values of its own, as jobs have.
    data: Vec<(Vec<u32>, Vec<u8>)>,
    inputs: Vec<Arc<Value>>,
    used: (usize, usize),
}

fn noise(count: usize, seed: usize, scale: f32) -> Vec<u8> {
    let mut state = (seed as u32).wrapping_mul(2_654_435_761).wrapping_add(1);
    let values = (0..count).flat_map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (((state >> 8) as f32 / (1 << 24) as f32 - 0.5) * scale).to_le_bytes()
    });
    values.collect()
}

impl Ours {
    fn make(&self, shape: &[u32], seed: usize, scale: f32) -> Arc<Value> {
        let count = shape.iter().map(|&d| d as usize).product();
        self.engine.value(&self.budget, DataType::Float32, shape, &noise(count, seed, scale)).unwrap()
    }

    fn weight(&mut self, s: &mut Session, shape: &[u32]) -> TensorId {
        self.used.0 += 1;
        if self.weights.len() < self.used.0 {
            self.weights.push(self.make(shape, self.used.0, 0.1));
        }
        s.import(&self.weights[self.used.0 - 1]).unwrap()
    }

    fn input(&mut self, s: &mut Session, shape: &[u32]) -> TensorId {
        self.used.1 += 1;
        if self.data.len() < self.used.1 {
            let count = shape.iter().map(|&d| d as usize).product();
            self.data.push((shape.to_vec(), noise(count, 100 + self.used.1, 1.0)));
            self.inputs.push(self.make(shape, 100 + self.used.1, 1.0));
        }
        s.import(&self.inputs[self.used.1 - 1]).unwrap()
    }

    /// New values for the next run.
    fn renew(&mut self) {
        self.inputs.clear();
        let make = |(shape, bytes): &(Vec<u32>, Vec<u8>)| {
            self.engine.value(&self.budget, DataType::Float32, shape, bytes).unwrap()
        };
        self.inputs = self.data.iter().map(make).collect();
    }

    /// Records and computes one run.
    fn run(&mut self, case: &Case) {
        self.used = (0, 0);
        let mut s = Session::new(Arc::clone(&self.engine), Arc::clone(&self.budget), Arc::default());
        let n = &case.sizes;
        let y = match case.kind {
            "matmul" => {
                let x = [self.input(&mut s, &n[..2]), self.input(&mut s, &n[1..])];
                s.record(Op::Matmul, &x).unwrap()
            }
            "dense" => {
                let x = [self.input(&mut s, &n[..2]), self.weight(&mut s, &n[1..])];
                s.record(Op::Matmul, &x).unwrap()
            }
            "batched" => {
                let x = [self.input(&mut s, &n[..3]), self.input(&mut s, &[n[0], n[2], n[3]])];
                s.record(Op::Matmul, &x).unwrap()
            }
            "conv" => {
                let &[c, h, w, o, size, groups] = &n[..] else { panic!("sizes") };
                let x =
                    [self.input(&mut s, &[1, c, h, w]), self.weight(&mut s, &[o, c / groups, size, size])];
                let op = Op::Conv2d(Conv2d { padding: [size / 2; 4], groups, ..Conv2d::default() });
                s.record(op, &x).unwrap()
            }
            "softmax" => {
                let x = self.input(&mut s, n);
                s.record(Op::Softmax { axis: 1 }, &[x]).unwrap()
            }
            "layernorm" => {
                let x = [self.input(&mut s, n), self.weight(&mut s, &n[1..]), self.weight(&mut s, &n[1..])];
                s.record(normalization(1), &x).unwrap()
            }
            "gelu" => {
                let x = self.input(&mut s, n);
                s.record(Op::Unary(Unary::Gelu), &[x]).unwrap()
            }
            "add" => {
                let x = [self.input(&mut s, n), self.input(&mut s, n)];
                s.record(Op::Binary(Binary::Add), &x).unwrap()
            }
            _ => self.encoder(&mut s, n[0], n[1]),
        };
        // As a guest does: what is no longer needed is dropped before the result is asked for.
        let value = s.value(y).unwrap();
        std::hint::black_box(value.bytes());
    }

    fn encoder(&mut self, s: &mut Session, batch: u32, seq: u32) -> TensorId {
        let (hidden, heads, layers) = (384, 12, 6);
        let mut x = self.input(s, &[batch, seq, hidden]);
        let [ones, zeros] = [self.weight(s, &[hidden]), self.weight(s, &[hidden])];
        let dims = |d: &[u32]| Dims::new(d).unwrap();
        let scale = Op::Linear { alpha: 1.0 / f64::from(hidden / heads).sqrt(), beta: 0.0 };
        let mut made = Vec::new();
        for _ in 0..layers {
            let mut op = |s: &mut Session, op: Op, inputs: &[TensorId]| {
                let id = s.record(op, inputs).unwrap();
                made.push(id);
                id
            };
            let mut part = |s: &mut Session, permutation: [u32; 4]| {
                let y = self.dense(s, x, hidden, hidden);
                let shape = dims(&[batch, seq, heads, hidden / heads]);
                let y = op(s, Op::Reshape { shape }, &[y]);
                op(s, Op::Transpose { permutation: Some(dims(&permutation)) }, &[y])
            };
            let q = part(s, [0, 2, 1, 3]);
            let k = part(s, [0, 2, 3, 1]);
            let v = part(s, [0, 2, 1, 3]);
            let a = op(s, Op::Matmul, &[q, k]);
            let a = op(s, scale, &[a]);
            let a = op(s, Op::Softmax { axis: 3 }, &[a]);
            let a = op(s, Op::Matmul, &[a, v]);
            let a = op(s, Op::Transpose { permutation: Some(dims(&[0, 2, 1, 3])) }, &[a]);
            let a = op(s, Op::Reshape { shape: dims(&[batch, seq, hidden]) }, &[a]);
            let y = self.dense(s, a, hidden, hidden);
            let y = op(s, Op::Binary(Binary::Add), &[x, y]);
            x = op(s, normalization(2), &[y, ones, zeros]);
            let y = self.dense(s, x, hidden, 4 * hidden);
            let y = op(s, Op::Unary(Unary::Gelu), &[y]);
            let y = self.dense(s, y, 4 * hidden, hidden);
            let y = op(s, Op::Binary(Binary::Add), &[x, y]);
            x = op(s, normalization(2), &[y, ones, zeros]);
        }
        made.iter().filter(|&&id| id != x).for_each(|&id| s.release(id));
        x
    }

    fn dense(&mut self, s: &mut Session, x: TensorId, n: u32, k: u32) -> TensorId {
        let w = [self.weight(s, &[n, k]), self.weight(s, &[k])];
        let product = s.record(Op::Matmul, &[x, w[0]]).unwrap();
        let y = s.record(Op::Binary(Binary::Add), &[product, w[1]]).unwrap();
        s.release(product);
        y
    }

    /// Median and best time of a run.
    fn time(&mut self, case: &Case) -> [f64; 2] {
        let (mut times, end) = (Vec::new(), Instant::now() + SLICE);
        while Instant::now() < end || times.len() < 3 {
            self.renew();
            let start = Instant::now();
            self.run(case);
            times.push(start.elapsed().as_secs_f64());
        }
        let middle = median(&mut times);
        [middle, times[0]]
    }
}

fn normalization(axis: u32) -> Op {
    Op::LayerNormalization { axes: Dims::new(&[axis]), epsilon: 1e-5, scale: true, bias: true }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

struct Peer(Child, BufReader<std::process::ChildStdout>);

impl Peer {
    fn start(threads: usize) -> Option<Peer> {
        let python = std::env::var_os("WARREN_BENCH_PYTHON")?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/onnxruntime_peer.py");
        let mut command = Command::new(python);
        command.arg(script).arg(threads.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Some(Peer(child, lines))
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.0.stdin.as_mut().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        self.1.read_line(&mut answer).unwrap();
        answer
    }
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let threads = std::env::var("THREADS").map_or(2, |v| v.parse().unwrap());
    let engine =
        Arc::new(Engine::new(EngineConfig { threads, poison: false, ..EngineConfig::default() }).unwrap());
    let mut peer = Peer::start(threads);
    println!("{threads} threads, median of {ROUNDS} rounds' medians and the best of all runs, in us;");
    println!("ratios above 1: faster than onnxruntime. Where others use the machine only the best count.");
    let heads = ["case", "ours", "best", "onnxruntime", "best", "ratio", "of best"];
    println!(
        "{:32} {:>12} {:>12}{:>12} {:>12} {:>7} {:>7}",
        heads[0], heads[1], heads[2], heads[3], heads[4], heads[5], heads[6]
    );
    for case in cases() {
        let sizes: Vec<String> = case.sizes.iter().map(u32::to_string).collect();
        let name = format!("{} {}", case.kind, sizes.join(" "));
        if !wanted.is_empty() && !wanted.iter().any(|w| name.contains(w.as_str())) {
            continue;
        }
        let budget = Budget::new(8 << 30);
        let mut ours = Ours {
            engine: Arc::clone(&engine),
            budget,
            weights: Vec::new(),
            data: Vec::new(),
            inputs: Vec::new(),
            used: (0, 0),
        };
        if let Some(peer) = &mut peer {
            assert_eq!(peer.ask(&name).trim(), "ready");
        }
        (0..3).for_each(|_| ours.run(&case));
        let (mut own, mut other) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        let keep = |lists: &mut [Vec<f64>; 2], times: [f64; 2]| {
            lists.iter_mut().zip(times).for_each(|(list, time)| list.push(time));
        };
        for _ in 0..ROUNDS {
            keep(&mut own, ours.time(&case));
            if let Some(peer) = &mut peer {
                let answer = peer.ask(&format!("run {}", SLICE.as_secs_f64()));
                let times: Vec<f64> = answer.split_whitespace().map(|t| t.parse().unwrap()).collect();
                keep(&mut other, [times[0], times[1]]);
            }
        }
        let best = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
        let own = [median(&mut own[0]), best(&own[1])].map(|t| t * 1e6);
        print!("{name:32} {:12.1} {:12.1}", own[0], own[1]);
        if other[0].is_empty() {
            println!();
        } else {
            let other = [median(&mut other[0]), best(&other[1])].map(|t| t * 1e6);
            println!(
                "{:12.1} {:12.1} {:7.2} {:7.2}",
                other[0],
                other[1],
                other[0] / own[0],
                other[1] / own[1]
            );
        }
    }
}
