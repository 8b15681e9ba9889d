//! Prints what recording an operation costs, and what a dispatch whose plan is cached costs.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;
use std::time::Instant;

use warren_tensor::*;

fn main() {
    let engine = Arc::new(Engine::new(EngineConfig::default()).unwrap());
    let budget = Budget::new(1 << 30);
    let data: Vec<u8> = vec![0; 4 * 64];
    const OPS: u32 = 50_000;
    for round in 0..3 {
        let mut session = Session::new(Arc::clone(&engine), Arc::clone(&budget), Arc::default());
        let b = session.constant(DataType::Float32, &[64], &data).unwrap();
        let mut x = b;
        let start = Instant::now();
        for _ in 0..OPS {
            let y = session.record(Op::Binary(Binary::Add), &[x, b]).unwrap();
            if x != b {
                session.release(x);
            }
            x = y;
        }
        let each = start.elapsed().as_nanos() / u128::from(OPS);
        println!("round {round}: record + release of an add: {each} ns");
    }
    for nodes in [1, 10, 100] {
        let mut session = Session::new(Arc::clone(&engine), Arc::clone(&budget), Arc::default());
        let b = session.constant(DataType::Float32, &[64], &data).unwrap();
        let w = session.constant(DataType::Float32, &[64, 64], &[0; 4 * 64 * 64]).unwrap();
        const RUNS: u32 = 2000;
        let mut nanos = 0;
        for _ in 0..RUNS {
            let mut x = session.record(Op::Reshape { shape: Dims::new(&[1, 64]).unwrap() }, &[b]).unwrap();
            for i in 0..nodes {
                let (op, other) = if i % 2 == 0 { (Op::Binary(Binary::Add), b) } else { (Op::Matmul, w) };
                let y = session.record(op, &[x, other]).unwrap();
                session.release(x);
                x = y;
            }
            let start = Instant::now();
            session.dispatch(&[x]).unwrap();
            nanos += start.elapsed().as_nanos();
            session.release(x);
        }
        println!("dispatch of {nodes} small operations, plan cached: {} ns", nanos / u128::from(RUNS));
    }
    println!("{:?}", engine.stats());
}
