//! Times the convolutions of the Basic Pitch model (one window of 2 s) on one and two threads.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use warren_tensor::*;

/// Name, how often in the model, input, filter, padding, strides.
type Case = (&'static str, u32, [u32; 4], [u32; 4], [u32; 4], [u32; 2]);

fn floats(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| (((i * 7919) % 1000) as f32 / 500.0 - 1.0).to_le_bytes()).collect()
}

fn size(shape: [u32; 4]) -> usize {
    shape.iter().map(|&d| d as usize).product()
}

fn main() {
    let batch: u32 = std::env::args().nth(1).map_or(1, |v| v.parse().unwrap());
    let mut cases: Vec<Case> = vec![
        ("8x8x3x39", 1, [batch, 8, 172, 264], [8, 8, 3, 39], [1, 1, 19, 19], [1, 1]),
        ("32x8x5x5 s3", 1, [batch, 8, 172, 264], [32, 8, 5, 5], [2, 2, 1, 1], [1, 3]),
        ("1x8x5x5", 1, [batch, 8, 172, 264], [1, 8, 5, 5], [2, 2, 2, 2], [1, 1]),
        ("32x1x7x7 s3", 1, [batch, 1, 172, 264], [32, 1, 7, 7], [3, 3, 2, 2], [1, 3]),
        ("1x32x7x3", 1, [batch, 32, 172, 88], [1, 32, 7, 3], [3, 3, 1, 1], [1, 1]),
        ("1x33x3x3", 1, [batch, 33, 172, 88], [1, 33, 3, 3], [1, 1, 1, 1], [1, 1]),
    ];
    let mut width = 44100;
    for step in [256, 128, 64, 32, 16, 8, 4, 2, 1] {
        cases.push(("cqt 36x256", 2, [batch, 1, 1, width], [36, 1, 1, 256], [0; 4], [1, step]));
        if step > 1 {
            let name = "halve 1x256 s2";
            cases.push((name, 1, [batch, 1, 1, width], [1, 1, 1, 256], [0; 4], [1, 2]));
            width = (width - 256) / 2 + 1 + 256;
        }
    }
    for threads in [1, 2] {
        let engine = Arc::new(
            Engine::new(EngineConfig { threads, poison: false, ..EngineConfig::default() }).unwrap(),
        );
        println!("{threads} thread(s), batch {batch}");
        let mut total = Duration::ZERO;
        let mut flops = 0.0;
        for &(name, times, input, filter, padding, strides) in &cases {
            let budget = Budget::new(1 << 32);
            let mut session = Session::new(Arc::clone(&engine), budget, Arc::default());
            let x = session.constant(DataType::Float32, &input, &floats(size(input))).unwrap();
            let w = session.constant(DataType::Float32, &filter, &floats(size(filter))).unwrap();
            let b = session.constant(DataType::Float32, &filter[..1], &floats(filter[0] as usize)).unwrap();
            let mut best = Duration::MAX;
            let mut work = 0.0;
            for _ in 0..if name == "8x8x3x39" { 15 } else { 30 } {
                let op = Op::Conv2d(Conv2d { padding, strides, ..Conv2d::default() });
                let y = session.record(op, &[x, w, b]).unwrap();
                let shape = session.descriptor(y).unwrap().1.to_vec();
                let outputs: f64 = shape.iter().map(|&d| f64::from(d)).product();
                work = outputs * f64::from(filter[1] * filter[2] * filter[3]) * 2.0;
                let start = Instant::now();
                session.dispatch(&[y]).unwrap();
                best = best.min(start.elapsed());
                session.release(y);
            }
            let rate = work / best.as_secs_f64() / 1e9;
            println!("  {name:16} {input:?} x{times}: {best:9.1?}  {rate:6.1} GFLOP/s");
            total += best * times;
            flops += work * f64::from(times);
        }
        let rate = flops / total.as_secs_f64() / 1e9;
        println!("  together {total:.2?}, {rate:.1} GFLOP/s ({:.0} MFLOP)", flops / 1e6);
    }
}
