//! A chain of 100 small operations on a device: in one graph with one submission, against a graph
//! and a wait for each. `wgpu_chain [wgpu:<adapter name>] [repetitions]`. The operations take turns
//! between element-wise ones and transpositions, so that they are not fused into one kernel.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;
use std::time::Instant;

use warren_tensor::{Binary, Budget, DataType, Engine, EngineConfig, Op, Session};

const CHAIN: usize = 100;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let device = arguments.next().unwrap_or_else(|| "wgpu:llvmpipe".into());
    let repetitions: usize = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(21);
    let config = EngineConfig { device: device.parse().unwrap(), poison: false, ..EngineConfig::default() };
    let engine = Arc::new(Engine::new(config).unwrap());
    let data: Vec<u8> = (0..32 * 32).flat_map(|i| (i as f32 / 1024.0).to_le_bytes()).collect();
    let run = |each: bool| {
        let mut s = Session::new(Arc::clone(&engine), Budget::new(1 << 30), Arc::default());
        let start = s.constant(DataType::Float32, &[32, 32], &data).unwrap();
        let one = s.constant(DataType::Float32, &[], &1f32.to_le_bytes()).unwrap();
        let begin = Instant::now();
        let mut x = start;
        for i in 0..CHAIN {
            let next = match i % 2 {
                0 => s.record(Op::Transpose { permutation: None }, &[x]).unwrap(),
                _ => s.record(Op::Binary(Binary::Add), &[x, one]).unwrap(),
            };
            s.release(x);
            x = next;
            if each {
                s.value(x).unwrap();
            }
        }
        let last = s.value(x).unwrap();
        let first = f32::from_le_bytes(last.bytes()[..4].try_into().unwrap());
        assert!((first - 50.0).abs() < 1e-3, "{first}");
        begin.elapsed().as_secs_f64() * 1e6
    };
    let median = |each: bool| {
        run(each);
        let mut times: Vec<f64> = (0..repetitions).map(|_| run(each)).collect();
        times.sort_by(f64::total_cmp);
        times[repetitions / 2]
    };
    let (whole, pieces) = (median(false), median(true));
    println!("{device}: {CHAIN} operations of 32 x 32, medians of {repetitions}");
    println!("one graph, one submission, one read: {whole:9.0} us ({:.2} us an operation)", whole / 100.0);
    println!(
        "a graph, a submission and a read each: {pieces:7.0} us ({:.2} us an operation)",
        pieces / 100.0
    );
    println!("ratio {:.1}", pieces / whole);
}
