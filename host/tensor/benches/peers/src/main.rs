//! The Rust crates `gemm` and `candle` beside the tensor engine: builds the case that a line on
//! standard input names and answers `ready`, or `none` for one that the peer has no single call for;
//! answers `run SECONDS` with the median and the best time of a run in seconds. The peer's name is
//! the argument; threads are RAYON_NUM_THREADS.

use std::error::Error;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use candle_core::{Device, Module, Tensor};

type Run = Box<dyn FnMut() -> Result<(), Box<dyn Error>>>;

fn noise(count: usize, scale: f32) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 24) as f32 - 0.5) * scale
    };
    (0..count).map(|_| next()).collect()
}

/// Row-major m x k times k x n, `batch` times.
fn with_gemm(batch: usize, m: usize, k: usize, n: usize) -> Run {
    let (a, b) = (noise(batch * m * k, 1.0), noise(batch * k * n, 1.0));
    let mut c = vec![0f32; batch * m * n];
    let threads = rayon_threads();
    Box::new(move || {
        for i in 0..batch {
            let parallelism =
                if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
            // SAFETY: the three slices have the sizes that are given with them.
            unsafe {
                gemm::gemm(
                    m,
                    n,
                    k,
                    c[i * m * n..].as_mut_ptr(),
                    1,
                    n as isize,
                    false,
                    a[i * m * k..].as_ptr(),
                    1,
                    k as isize,
                    b[i * k * n..].as_ptr(),
                    1,
                    n as isize,
                    0.0,
                    1.0,
                    false,
                    false,
                    false,
                    parallelism,
                );
            }
        }
        std::hint::black_box(&c);
        Ok(())
    })
}

fn rayon_threads() -> usize {
    std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

fn tensor(shape: &[usize], scale: f32) -> Result<Tensor, Box<dyn Error>> {
    Ok(Tensor::from_vec(noise(shape.iter().product(), scale), shape, &Device::Cpu)?)
}

fn with_candle(kind: &str, n: &[usize]) -> Result<Option<Run>, Box<dyn Error>> {
    Ok(Some(match (kind, n) {
        ("matmul" | "dense", &[m, k, n]) => {
            let (a, b) = (tensor(&[m, k], 1.0)?, tensor(&[k, n], 0.1)?);
            Box::new(move || Ok(drop(a.matmul(&b)?)))
        }
        ("batched", &[batch, m, k, n]) => {
            let (a, b) = (tensor(&[batch, m, k], 1.0)?, tensor(&[batch, k, n], 1.0)?);
            Box::new(move || Ok(drop(a.matmul(&b)?)))
        }
        ("conv", &[c, h, w, o, size, groups]) => {
            let (x, filter) = (tensor(&[1, c, h, w], 1.0)?, tensor(&[o, c / groups, size, size], 0.1)?);
            Box::new(move || Ok(drop(x.conv2d(&filter, size / 2, 1, 1, groups)?)))
        }
        ("softmax", shape) => {
            let x = tensor(shape, 1.0)?;
            Box::new(move || Ok(drop(candle_nn::ops::softmax_last_dim(&x)?)))
        }
        ("layernorm", shape @ &[_, width]) => {
            let (x, one, zero) = (tensor(shape, 1.0)?, tensor(&[width], 1.0)?, tensor(&[width], 1.0)?);
            let layer = candle_nn::LayerNorm::new(one, zero, 1e-5);
            Box::new(move || Ok(drop(layer.forward(&x)?)))
        }
        ("gelu", shape) => {
            let x = tensor(shape, 1.0)?;
            Box::new(move || Ok(drop(x.gelu_erf()?)))
        }
        ("add", shape) => {
            let (a, b) = (tensor(shape, 1.0)?, tensor(shape, 1.0)?);
            Box::new(move || Ok(drop((&a + &b)?)))
        }
        _ => return Ok(None),
    }))
}

fn build(peer: &str, kind: &str, sizes: &[usize]) -> Result<Option<Run>, Box<dyn Error>> {
    match (peer, kind, sizes) {
        ("gemm", "matmul" | "dense", &[m, k, n]) => Ok(Some(with_gemm(1, m, k, n))),
        ("gemm", "batched", &[batch, m, k, n]) => Ok(Some(with_gemm(batch, m, k, n))),
        ("gemm", ..) => Ok(None),
        ("candle", ..) => with_candle(kind, sizes),
        _ => Err(format!("unknown peer {peer}: gemm or candle").into()),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let peer = std::env::args().nth(1).ok_or("which peer: gemm or candle")?;
    let mut run: Option<Run> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split_whitespace();
        let answer = match (words.next(), &mut run) {
            (Some("run"), Some(run)) => {
                let time = Duration::from_secs_f64(words.next().ok_or("how long")?.parse()?);
                let (mut times, end) = (Vec::new(), Instant::now() + time);
                while Instant::now() < end || times.len() < 3 {
                    let start = Instant::now();
                    run()?;
                    times.push(start.elapsed().as_secs_f64());
                }
                times.sort_by(f64::total_cmp);
                format!("{} {}", times[times.len() / 2], times[0])
            }
            (Some(kind), slot) => {
                let sizes: Vec<usize> = words.map(str::parse).collect::<Result<_, _>>()?;
                *slot = build(&peer, kind, &sizes)?;
                match slot {
                    Some(run) => {
                        run()?;
                        "ready".to_owned()
                    }
                    None => "none".to_owned(),
                }
            }
            (None, _) => continue,
        };
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}
