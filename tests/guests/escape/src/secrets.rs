//! A secret in every place that a job can write to, and a search of every place that it can read.

#[cfg(target_arch = "wasm32")]
use core::arch::wasm32::{memory_grow, memory_size};
use std::hint::black_box;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use warren_sdk::prelude::*;
use warren_sdk::tensor::{PaddingMode, dispatch};

// The workspace is compiled for the host, too, where there is no such memory.
#[cfg(not(target_arch = "wasm32"))]
fn memory_size<const MEMORY: u32>() -> usize {
    0
}
#[cfg(not(target_arch = "wasm32"))]
fn memory_grow<const MEMORY: u32>(_pages: usize) -> usize {
    usize::MAX
}

/// A number that is nowhere in here as it stands: only a job that leaves it computes it.
fn secret() -> u64 {
    black_box(0x5ec2_e700_0000_0000_u64).rotate_left(black_box(17)) ^ black_box(0x0123_4567_89ab_cdef)
}

/// Whether a word is the secret, without the secret.
fn is_secret(word: u64) -> bool {
    (word ^ black_box(0x0123_4567_89ab_cdef)).rotate_right(black_box(17)) == black_box(0x5ec2_e700_0000_0000)
}

/// The secret of a tensor: an exact float32, float16 and int32.
const VALUE: f64 = 1864.0;
/// Shapes that are left and looked for, so that the same pieces of memory are used again.
const SIZES: [u32; 6] = [1, 3, 65, 1021, 16_384, 300_007];

static WORDS: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

/// Leaves the secret in statics, on the stack, in `mib` MiB of heap, in scratch, in the log's buffer and in
/// tensors that were computed, that were only recorded, and that are still held.
pub fn leave(mib: usize) -> Result<(), Failure> {
    for word in &WORDS {
        word.store(secret(), Ordering::Relaxed);
    }
    fn stack(depth: u32) -> u64 {
        let frame = black_box([secret(); 128]);
        if depth == 0 { 0 } else { stack(depth - 1) ^ frame[depth as usize % 128] }
    }
    black_box(stack(200));
    for _ in 0..mib {
        black_box(vec![secret(); (1 << 20) / 8].leak());
    }
    std::fs::create_dir_all("/scratch/deep/deeper").map_err(Failure::failed)?;
    for path in ["/scratch/secret", "/scratch/deep/deeper/secret"] {
        let mut file = std::fs::File::create(path).map_err(Failure::failed)?;
        file.write_all(&secret().to_le_bytes().repeat(10_000)).map_err(Failure::failed)?;
        // Still open at the end.
        std::mem::forget(file);
    }
    // No end of line: it waits for one.
    print!("the-secret-of-a-job");
    log::info("the-secret-of-a-job");
    for data_type in [DataType::Float32, DataType::Float16, DataType::Int32] {
        for size in SIZES {
            let x = Tensor::fill(data_type, &[size], VALUE)?;
            let zero = Tensor::fill(data_type, &[size], 0.0)?;
            let computed = (&x + &zero)?;
            dispatch(&[&computed])?;
            black_box(computed.bytes()?);
            let recorded = (&computed + &zero)?;
            for tensor in [x, zero, computed, recorded] {
                std::mem::forget(tensor);
            }
        }
    }
    Ok(())
}

fn check(found: &mut Vec<String>, what: &str, values: Vec<f32>, due: impl Fn(usize) -> f32) {
    if let Some(at) = values.iter().enumerate().position(|(n, v)| v.to_bits() != due(n).to_bits()) {
        let (value, due) = (values[at], due(at));
        found.push(format!("{what}: {value} at {at} of {} where {due} is due", values.len()));
    }
}

/// Looks everywhere; answers what was found. Takes `mib` MiB of memory that nobody has written to.
pub fn search(mib: usize) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    if WORDS.iter().any(|word| word.load(Ordering::Relaxed) != 0) {
        found.push("a static is not as it was made".to_owned());
    }
    // First what there is, then what comes fresh: that must be zero throughout.
    let page = 1 << 16;
    let before = memory_size::<0>() * page;
    let words = |from: usize, to: usize| {
        // SAFETY: all of it is linear memory, whatever is in it, and is only read, word by word.
        (from..to)
            .step_by(8)
            .map(|at| unsafe { std::ptr::with_exposed_provenance::<u64>(at).read_volatile() })
    };
    if let Some(at) = words(8, before).position(is_secret) {
        found.push(format!("the secret at word {at} of memory"));
    }
    let fresh = memory_grow::<0>(mib * 16);
    if fresh == usize::MAX {
        return Err(Failure::failed("no memory to look through"));
    }
    let after = memory_size::<0>() * page;
    if let Some(at) = words(fresh * page, after).position(|word| word != 0) {
        found.push(format!("word {at} of fresh memory is not zero"));
    }
    let left: Vec<String> = std::fs::read_dir("/scratch")
        .map_err(Failure::failed)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    if !left.is_empty() {
        found.push(format!("in scratch: {left:?}"));
    }
    // A file with a hole: what the disk had there before is nobody's.
    let hole = std::fs::File::create("/scratch/hole").and_then(|file| {
        file.set_len(1 << 20)?;
        std::fs::read("/scratch/hole")
    });
    if hole.map_err(Failure::failed)?.iter().any(|byte| *byte != 0) {
        found.push("a hole in a file is not zero".to_owned());
    }
    println!("a line of the next job");
    tensors(&mut found)?;
    Ok(found)
}

/// Operations whose results are known to the last element, in the shapes that were left: whatever a
/// kernel did not write would be what was there before.
fn tensors(found: &mut Vec<String>) -> Result<(), Failure> {
    for data_type in [DataType::Float32, DataType::Float16, DataType::Int32] {
        for size in SIZES {
            let name = |what: &str| format!("{what} of {size} {data_type:?}");
            let as_floats = |t: &Tensor| t.cast(DataType::Float32)?.to_vec::<f32>();
            let x = Tensor::fill(data_type, &[size], 2.0)?;
            check(found, &name("fill"), as_floats(&x)?, |_| 2.0);
            check(found, &name("add"), as_floats(&(&x + &x)?)?, |_| 4.0);
            let padded = x.pad(&[3], &[5], PaddingMode::Constant, 1.0)?;
            let edge = move |n: usize| if n < 3 || n >= 3 + size as usize { 1.0 } else { 2.0 };
            check(found, &name("pad"), as_floats(&padded)?, edge);
            let joined = Tensor::concat(&[&x, &padded, &x], 0)?;
            let total = joined.reduce_sum(None, false)?;
            if size < 1000 {
                check(found, &name("sum"), as_floats(&total)?, |_| 6.0 * size as f32 + 8.0);
            }
            let middle = joined.slice(&[size], &[size + 8], None)?;
            check(found, &name("slice"), as_floats(&middle)?, edge);
            let column = x.reshape(&[size, 1])?.expand(&[size, 3])?.transpose(None)?;
            check(found, &name("transpose"), as_floats(&column)?, |_| 2.0);
            let bytes = x.cast(DataType::Uint8)?.bytes()?;
            if bytes.len() != size as usize || bytes.iter().any(|byte| *byte != 2) {
                found.push(name("uint8"));
            }
        }
    }
    let (a, b) =
        (Tensor::fill(DataType::Float32, &[65, 33], 1.0)?, Tensor::fill(DataType::Float32, &[33, 17], 1.0)?);
    check(found, "matmul", a.matmul(&b)?.to_vec()?, |_| 33.0);
    let nothing: Vec<f32> = Tensor::fill(DataType::Float32, &[0, 4], 1.0)?.to_vec()?;
    check(found, "nothing", nothing, |_| 0.0);
    let no_sum = Tensor::fill(DataType::Float32, &[0], 1.0)?.reduce_sum(None, false)?;
    check(found, "sum of nothing", no_sum.to_vec()?, |_| 0.0);
    Ok(())
}
