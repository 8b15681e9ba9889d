//! The engine's CPU backend beside its peers: one case after the other, rounds of all in turn,
//! medians. onnxruntime and numpy run in the Python that WARREN_BENCH_PYTHON names, the crates gemm
//! and candle in the program that WARREN_BENCH_PEERS names (`benches/peers`); those that are not
//! there are left out.
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
            _ => self.encoder(&mut s, n[0], n[1], 384),
        };
        // As a guest does: what is no longer needed is dropped before the result is asked for.
        let value = s.value(y).unwrap();
        std::hint::black_box(value.bytes());
    }

    fn encoder(&mut self, s: &mut Session, batch: u32, seq: u32, hidden: u32) -> TensorId {
        let (heads, layers) = (12, 6);
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

    /// Median time of a run, in seconds.
    fn time(&mut self, case: &Case) -> f64 {
        let (mut times, end) = (Vec::new(), Instant::now() + SLICE);
        while Instant::now() < end || times.len() < 3 {
            self.renew();
            let start = Instant::now();
            self.run(case);
            times.push(start.elapsed().as_secs_f64());
        }
        median(&mut times)
    }
}

fn normalization(axis: u32) -> Op {
    Op::LayerNormalization { axes: Dims::new(&[axis]), epsilon: 1e-5, scale: true, bias: true }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// A process that answers lines with lines.
struct Peer {
    name: &'static str,
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Peer {
    fn start(name: &'static str, mut command: Command, threads: usize) -> Peer {
        let threads = threads.to_string();
        command.env("OPENBLAS_NUM_THREADS", &threads).env("RAYON_NUM_THREADS", &threads);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Peer { name, child, answers }
    }

    /// Those that can be had.
    fn all(threads: usize) -> Vec<Peer> {
        let mut peers = Vec::new();
        if let Some(python) = std::env::var_os("WARREN_BENCH_PYTHON") {
            for name in ["onnxruntime", "numpy"] {
                let mut command = Command::new(&python);
                command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peer.py"));
                command.arg(threads.to_string()).arg(name);
                peers.push(Peer::start(name, command, threads));
            }
        }
        if let Some(program) = std::env::var_os("WARREN_BENCH_PEERS") {
            for name in ["gemm", "candle"] {
                let mut command = Command::new(&program);
                command.arg(name);
                peers.push(Peer::start(name, command, threads));
            }
        }
        peers
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer
    }

    /// Median time of runs, in microseconds.
    fn time(&mut self) -> f64 {
        let answer = self.ask(&format!("run {}", SLICE.as_secs_f64()));
        answer.split_whitespace().next().unwrap().parse::<f64>().unwrap() * 1e6
    }
}

impl Ours {
    fn new(engine: &Arc<Engine>) -> Ours {
        Ours {
            engine: Arc::clone(engine),
            budget: Budget::new(8 << 30),
            weights: Vec::new(),
            data: Vec::new(),
            inputs: Vec::new(),
            used: (0, 0),
        }
    }
}

/// What a graph costs beside its kernels: the encoder recorded, and run where there is next to
/// nothing to compute.
fn overhead(engine: &Arc<Engine>) {
    let mut ours = Ours::new(engine);
    let (mut record, mut all) = (Vec::new(), Vec::new());
    for _ in 0..2000 {
        ours.used = (0, 0);
        let start = Instant::now();
        let mut s = Session::new(Arc::clone(engine), Arc::clone(&ours.budget), Arc::default());
        let y = ours.encoder(&mut s, 1, 1, 12);
        record.push(start.elapsed().as_secs_f64() * 1e6);
        std::hint::black_box(s.value(y).unwrap().bytes());
        all.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let stats = engine.stats();
    println!(
        "encoder of 6 layers, 1 x 1, hidden 12: record {:.1} us; record, hit and run {:.1} us; plan cache: {} hits, {} misses",
        median(&mut record),
        median(&mut all),
        stats.plan_hits,
        stats.plan_misses
    );
}

/// Multiply-adds of independent vectors in registers: what no kernel exceeds, in GFLOP/s.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
fn peak_of_one() -> f64 {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_set1_ps};
    const TURNS: usize = 10_000_000;
    let (x, y) = (_mm512_set1_ps(std::hint::black_box(1.0)), _mm512_set1_ps(std::hint::black_box(1e-9)));
    let mut sums = [_mm512_set1_ps(0.0); 24];
    let start = Instant::now();
    for _ in 0..TURNS {
        sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(x, y, *sum));
    }
    let time = start.elapsed().as_secs_f64();
    std::hint::black_box(sums);
    (TURNS * 24 * 16 * 2) as f64 / time / 1e9
}

/// The same on so many threads at once; none where the instructions are missing.
fn peak(threads: usize) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        let rounds = (0..7).map(|_| {
            let all: Vec<_> = (0..threads)
                .map(|_| {
                    // SAFETY: the processor has the instructions.
                    #[allow(unsafe_code)]
                    std::thread::spawn(|| unsafe { peak_of_one() })
                })
                .collect();
            all.into_iter().map(|t| t.join().unwrap()).sum()
        });
        // A peak: whatever is below it was disturbed.
        return Some(rounds.fold(0.0, f64::max));
    }
    let _ = threads;
    None
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let threads = std::env::var("THREADS").map_or(2, |v| v.parse().unwrap());
    let engine =
        Arc::new(Engine::new(EngineConfig { threads, poison: false, ..EngineConfig::default() }).unwrap());
    // Before anybody else is there.
    let peak = peak(threads);
    let mut peers = Peer::all(threads);
    println!(
        "tensor engine on the CPU, {threads} threads: medians of {ROUNDS} rounds in us; how many times as long the peers take"
    );
    if let Some(peak) = peak {
        println!("multiply-adds in registers, measured: {peak:.0} GFLOP/s");
    }
    print!("{:28} {:>10} {:>8}", "case", "Warren", "of peak");
    peers.iter().for_each(|peer| print!(" {:>18}", peer.name));
    println!();
    for case in cases() {
        let sizes: Vec<String> = case.sizes.iter().map(u32::to_string).collect();
        let name = format!("{} {}", case.kind, sizes.join(" "));
        if !wanted.is_empty() && !wanted.iter().any(|w| name.contains(w.as_str())) {
            continue;
        }
        let mut ours = Ours::new(&engine);
        let able: Vec<bool> = peers.iter_mut().map(|peer| peer.ask(&name).trim() == "ready").collect();
        (0..3).for_each(|_| ours.run(&case));
        let mut own = Vec::new();
        let mut others = vec![Vec::new(); peers.len()];
        for _ in 0..ROUNDS {
            own.push(ours.time(&case) * 1e6);
            for (at, peer) in peers.iter_mut().enumerate().filter(|(at, _)| able[*at]) {
                others[at].push(peer.time());
            }
        }
        let own = median(&mut own);
        let n = case.sizes.iter().map(|&n| f64::from(n)).collect::<Vec<f64>>();
        let flops = match case.kind {
            "matmul" | "dense" | "batched" => Some(2.0 * n.iter().product::<f64>()),
            "conv" => Some(2.0 * n[0] * n[1] * n[2] * n[3] * n[4] * n[4] / n[5]),
            _ => None,
        };
        let share = flops.zip(peak).map_or(String::new(), |(f, peak)| format!("{:.2}", f / own / 1e3 / peak));
        print!("{name:28} {own:10.1} {share:>8}");
        for times in &mut others {
            if times.is_empty() {
                print!(" {:>18}", "-");
            } else {
                let time = median(times);
                print!(" {time:11.1} {:6.2}", time / own);
            }
        }
        println!();
    }
    if wanted.is_empty() {
        overhead(&engine);
    }
}
