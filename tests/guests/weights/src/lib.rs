//! Keeps weights as assets, as many as the file `shape` in its folder says (seed, layers, size), and
//! multiplies with them: a model whose only purpose is the memory that it takes.

use std::time::{Duration, Instant};

use warren_sdk::prelude::*;

struct Weights;

/// Numbers that look like weights, the same for the same seed.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    std::iter::repeat_with(next).take(count).collect()
}

impl Plugin for Weights {
    fn prepare() -> Result<(), Failure> {
        let text = std::fs::read_to_string("/plugin/shape").map_err(Failure::failed)?;
        let given: Vec<u32> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let &[seed, layers, size] = given.as_slice() else {
            return Err(Failure::failed(format!("shape is {text:?}: use seed, layers and size")));
        };
        for layer in 0..layers {
            let elements = numbers(u64::from(seed) * 1000 + u64::from(layer), (size * size) as usize);
            let weights = Tensor::new(&[size, size], &elements)?;
            // Half of them are computed: those are on the device from the beginning.
            let weights = if layer % 2 == 0 { weights } else { (&weights + &weights)? };
            assets::put_tensor(&format!("w{layer}"), &weights)?;
            if layer == 0 {
                // The same memory under another shape, and another name.
                assets::put_tensor("flat", &weights.reshape(&[size * size])?)?;
            }
        }
        // No whole number of words.
        let odd: Vec<u8> = (0..=size).map(|n| (n.wrapping_mul(seed + 7) >> 3) as u8).collect();
        assets::put_tensor("odd", &Tensor::new(&[size + 1], &odd)?)?;
        assets::put_bytes("layers", format!("{layers} {size}").as_bytes())?;
        Ok(())
    }

    fn infer(job: &Job) -> Result<Outputs, Failure> {
        let text = String::from_utf8(assets::bytes("layers")?).map_err(Failure::failed)?;
        let given: Vec<u32> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let &[layers, size] = given.as_slice() else { return Err(Failure::failed("no layers")) };
        let mut x = Tensor::new(&[1, size], &numbers(42, size as usize))?;
        for layer in 0..layers {
            x = x.matmul(&assets::tensor(&format!("w{layer}"))?)?.tanh()?;
        }
        let flat = assets::tensor("flat")?;
        let extremes = (&flat.reduce_max(None, false)? + &flat.reduce_min(None, false)?)?;
        let mut outputs = Outputs::new().tensor("odd", assets::tensor("odd")?).tensor("extremes", extremes);
        // So many MiB beside the weights.
        if let Some(extra) = job.parameter::<i64>("extra_mib")? {
            let much =
                Tensor::fill(DataType::Float32, &[u32::try_from(extra << 18).unwrap_or(u32::MAX)], 1.0)?;
            let more = (&much + &much)?;
            warren_sdk::tensor::dispatch(&[&more])?;
            outputs = outputs.tensor("extra", more.reduce_sum(None, false)?);
        }
        warren_sdk::tensor::dispatch(&[&x])?;
        // Holds on to them for so long.
        let hold = Duration::from_millis(job.parameter::<i64>("hold_ms")?.unwrap_or(0).unsigned_abs());
        let start = Instant::now();
        if !hold.is_zero() {
            job.report("holding", f32::NAN, "");
        }
        while start.elapsed() < hold {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(outputs.tensor("y", x))
    }
}

warren_sdk::plugin!(Weights);
