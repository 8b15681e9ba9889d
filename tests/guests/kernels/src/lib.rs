//! What plugins compute by themselves: integers, floats, and code that branches and allocates. `prepare`
//! runs each and fails with the times, so that an engine with nothing but WASI can run it, too.

use std::hint::black_box;
use std::time::Instant;

use sha2::{Digest, Sha256};
use warren_sdk::prelude::*;

/// Work of a kind; answers a sum that depends on all of it.
type Kernel = fn() -> u64;

struct Kernels;

fn hash() -> u64 {
    let mut bytes = vec![7u8; 1 << 20];
    let mut last = 0;
    for round in 0..12u8 {
        bytes[0] = round;
        last = Sha256::digest(black_box(&bytes))[0];
    }
    u64::from(last)
}

fn matmul() -> u64 {
    const N: usize = 256;
    let a: Vec<f32> = (0..N * N).map(|n| (n % 7) as f32).collect();
    let b: Vec<f32> = (0..N * N).map(|n| (n % 5) as f32).collect();
    let mut c = vec![0f32; N * N];
    for _ in 0..8 {
        let (a, b) = (black_box(&a), black_box(&b));
        for (row, out) in a.chunks_exact(N).zip(c.chunks_exact_mut(N)) {
            for (x, line) in row.iter().zip(b.chunks_exact(N)) {
                for (out, y) in out.iter_mut().zip(line) {
                    *out += x * y;
                }
            }
        }
    }
    c.iter().map(|x| *x as u64).sum()
}

fn parse() -> u64 {
    let entry = |n: u64| serde_json::json!({"id": n, "name": format!("entry {}", n * 7919 % 1000), "values": [n, n * 2, 0.5], "good": n.is_multiple_of(3)});
    let text = serde_json::Value::Array((0..1500).map(entry).collect()).to_string();
    let mut sum = 0;
    for _ in 0..10 {
        let parsed: serde_json::Value = serde_json::from_str(black_box(&text)).unwrap_or_default();
        let mut names: Vec<String> = parsed
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|e| e.get("name").and_then(|n| n.as_str()).map(str::to_owned))
            .collect();
        names.sort_unstable();
        sum += names.iter().map(|n| n.len() as u64).sum::<u64>();
    }
    sum
}

impl Plugin for Kernels {
    fn prepare() -> Result<(), Failure> {
        let kernels: [(&str, Kernel); 3] = [("sha256", hash), ("matmul", matmul), ("json", parse)];
        let time = |(name, kernel): (&str, Kernel)| {
            let start = Instant::now();
            black_box(kernel());
            format!("{name} {}", start.elapsed().as_nanos())
        };
        Err(Failure::failed(kernels.map(time).join("\n")))
    }

    fn infer(_: &Job) -> Result<Outputs, Failure> {
        Err(Failure::failed("it only computes while it prepares"))
    }
}

warren_sdk::plugin!(Kernels);
