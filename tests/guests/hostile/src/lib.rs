//! Misbehaves as parameter `mode` says. The host must answer each with its code and go on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use warren_sdk::bindings::warren::plugin::types::{ByteStrings, Parameter, Value};
use warren_sdk::prelude::*;

struct Hostile;

fn spin() -> ! {
    let mut n = 0u64;
    loop {
        n = std::hint::black_box(n.wrapping_add(1));
    }
}

fn recurse(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    if depth == u64::MAX { 0 } else { recurse(depth + 1) + frame[(depth % 64) as usize] }
}

/// Recursion that leaves nothing in linear memory: only wasm's own stack grows.
#[allow(unconditional_recursion)] // that is its purpose
fn dive(depth: u64) -> u64 {
    static ONE: AtomicU64 = AtomicU64::new(1);
    dive(depth + ONE.load(Ordering::Relaxed)).wrapping_mul(3) ^ depth
}

impl Plugin for Hostile {
    /// As the file `prepare` in the plugin's folder says; without one, quietly.
    fn prepare() -> Result<(), Failure> {
        let mode = std::fs::read_to_string("/plugin/prepare").unwrap_or_default();
        match mode.as_str() {
            "trap" => panic!("prepare panics"),
            "loop" => spin(),
            "invalid" => Err(Failure::invalid("prepare says invalid")),
            "failed" => Err(Failure::failed("the weights are missing")),
            "retry" => Err(Failure::retry("prepare says retry")),
            "allocate" => loop {
                std::hint::black_box(vec![1u8; 1 << 20].leak());
            },
            "assets" => {
                let mut n = 0;
                loop {
                    assets::put_bytes(&n.to_string(), &[0; 1 << 20]).map_err(Failure::failed)?;
                    n += 1;
                }
            }
            _ => Ok(()),
        }
    }

    fn infer(job: &Job) -> Result<Outputs, Failure> {
        let mode: String = job.parameter("mode")?.unwrap_or_default();
        let number: i64 = job.parameter("number")?.unwrap_or(0);
        let done = Outputs::new().text("mode", mode.clone());
        match mode.as_str() {
            "trap" => panic!("the plugin panics"),
            "loop" => spin(),
            "recurse" => Ok(Outputs::new().text("depth", recurse(0).to_string())),
            "dive" => Ok(Outputs::new().text("depth", dive(0).to_string())),
            "allocate" => {
                let mut hoard: Vec<Vec<u8>> = Vec::new();
                loop {
                    hoard.push(vec![1; 1 << 20]);
                    std::hint::black_box(&hoard);
                }
            }
            "sleep" => {
                std::thread::sleep(Duration::from_secs(3600));
                Ok(done)
            }
            "flood" => {
                for n in 0..number {
                    job.report("flooding", n as f32 / number as f32, &n.to_string());
                }
                Ok(done)
            }
            "partials" => {
                for n in 0..number {
                    job.emit_bytes("piece", n.to_string());
                    job.report("emitting", n as f32 / number as f32, "");
                }
                Ok(done)
            }
            // Pieces of 1 MiB.
            "partial-bomb" => {
                for _ in 0..number {
                    job.emit_bytes("piece", vec![0; 1 << 20]);
                }
                Ok(done)
            }
            "output-bomb" => {
                Ok(Outputs::new().bytes("bomb", vec![0; number as usize], "application/octet-stream"))
            }
            "lying-shape" => {
                let value = Value::Bytes(ByteStrings { shape: vec![7], elements: vec![vec![1]] });
                Ok(Outputs::new().value("lie", value))
            }
            "same-name" => Ok(Outputs::new().text("twice", "a").text("twice", "b")),
            "no-name" => Ok(Outputs::new().text("", "a")),
            "device-bomb" => {
                let x = Tensor::fill(DataType::Float32, &[1 << 14, 1 << 14], 1.0)?;
                let y = (&x + &x)?;
                Ok(Outputs::new().tensor("y", y))
            }
            "bad-shapes" => {
                let a = Tensor::fill(DataType::Float32, &[2, 3], 1.0)?;
                let b = Tensor::fill(DataType::Float32, &[4, 5], 1.0)?;
                Ok(Outputs::new().tensor("y", a.matmul(&b)?))
            }
            "handles" => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(Tensor::fill(DataType::Float32, &[1], 1.0)?);
                }
            }
            // So many steps, each computed on the device and left there.
            "device-steps" => {
                let mut x = Tensor::fill(DataType::Float32, &[64], 0.0)?;
                let one = Tensor::fill(DataType::Float32, &[1], 1.0)?;
                for step in 0..number {
                    x = (&x + &one)?;
                    warren_sdk::tensor::dispatch(&[&x])?;
                    job.report("stepping", f32::NAN, &step.to_string());
                }
                Ok(Outputs::new().tensor("x", x))
            }
            "invalid" => Err(Failure::invalid("the client sent nonsense")),
            "failed" => Err(Failure::failed("nobody can do this")),
            "retry" => Err(Failure::retry("the moon is in the way")),
            // Fails until the attempt given.
            "flaky" if i64::from(job.attempt()) < number => Err(Failure::retry("not yet")),
            "chatty-flaky" => {
                job.report("trying", f32::NAN, "");
                if i64::from(job.attempt()) < number { Err(Failure::retry("not yet")) } else { Ok(done) }
            }
            "flaky" => Ok(Outputs::new().text("attempt", job.attempt().to_string())),
            "busy" | "announced-busy" => {
                if mode == "announced-busy" {
                    job.report("busy", f32::NAN, "");
                }
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(number as u64) {
                    std::hint::black_box(0);
                }
                Ok(done)
            }
            "log" => {
                for n in 0..number {
                    log::info(&format!("\u{1b}[2Jline {n}"));
                    println!("stdout {n}");
                }
                Ok(done)
            }
            "log-forge" => {
                log::info("innocent\nERROR warren: the house is on fire");
                Ok(done)
            }
            // What a guest must not see: the listing of what it does.
            "look" => {
                let mut seen = Vec::new();
                for path in
                    ["/", "/etc/passwd", "/plugin/../..", "/scratch/../plugin", "/proc/self/environ", "."]
                {
                    if let Ok(entries) = std::fs::read_dir(path) {
                        let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
                        seen.push(format!("{path}: {}", names.collect::<Vec<_>>().join(" ")));
                    } else if std::fs::read(path).is_ok() {
                        seen.push(format!("{path}: read"));
                    }
                }
                let environment: Vec<String> = std::env::vars().map(|(k, _)| k).collect();
                Ok(Outputs::new()
                    .text("seen", seen.join("\n"))
                    .text("environment", environment.join(" "))
                    .text("arguments", std::env::args().collect::<Vec<_>>().join(" "))
                    .text("connect", format!("{:?}", std::net::TcpStream::connect("127.0.0.1:1").map(|_| ())))
                    .text("plugin", std::fs::read_to_string("/plugin/plugin.toml").is_ok().to_string())
                    .text("write-plugin", std::fs::write("/plugin/x", "x").is_ok().to_string()))
            }
            // Leaves a mark in memory and scratch, and says whether one was there.
            "mark" => {
                static MARK: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
                let memory = MARK.swap(1, std::sync::atomic::Ordering::Relaxed) != 0;
                let scratch = std::fs::read("/scratch/mark").is_ok();
                std::fs::write("/scratch/mark", "secret").map_err(Failure::failed)?;
                Ok(Outputs::new().text("found", format!("memory {memory} scratch {scratch}")))
            }
            "assets" => {
                let refused = assets::put_bytes("late", b"x").is_err();
                Ok(Outputs::new().text("refused", refused.to_string()))
            }
            "nan" => Ok(Outputs::new().tensor("nan", Tensor::new(&[2], &[f32::NAN, 1.0])?)),
            "deadline" => {
                let left = job.deadline_left().map_or("none".to_owned(), |ms| (ms > 0).to_string());
                Ok(Outputs::new().text("left", left))
            }
            // Records `number` operations and reads the last: the cost of one recorded operation.
            "record" => {
                let one = Tensor::fill(DataType::Float32, &[16], 1.0)?;
                let start = Instant::now();
                let mut x = one.abs()?;
                for _ in 0..number {
                    x = (&x + &one)?;
                }
                let nanoseconds = start.elapsed().as_nanos();
                let sum: Vec<f32> = x.to_vec()?;
                Ok(Outputs::new()
                    .text("nanoseconds", nanoseconds.to_string())
                    .text("value", sum.first().copied().unwrap_or_default().to_string()))
            }
            "exit" => std::process::exit(0),
            // Data that breaks the rules by which it is read out of the guest's memory.
            "bad-text" => {
                // SAFETY: none; that is the point. The name is never looked at in here.
                let name = unsafe { String::from_utf8_unchecked(vec![0xff, 0xfe]) };
                Ok(Outputs::new().text(&name, "x"))
            }
            "wild-pointer" => {
                // SAFETY: none; the list is never looked at in here, and never freed.
                let bytes = unsafe {
                    Vec::from_raw_parts(std::ptr::without_provenance_mut(1 << 30), 1 << 20, 1 << 20)
                };
                Ok(Outputs::new().bytes("wild", bytes, "application/octet-stream"))
            }
            // The same bytes over and over: little in here, much out there.
            "amplify" => {
                let mut outputs = Outputs::new();
                let mut piece = vec![7u8; 16 << 20];
                for n in 0..64 {
                    // SAFETY: the pieces share their bytes, and the guest is thrown away before any is freed.
                    let alias = unsafe { Vec::from_raw_parts(piece.as_mut_ptr(), piece.len(), piece.len()) };
                    outputs = outputs.bytes(&n.to_string(), alias, "application/octet-stream");
                }
                std::mem::forget(piece);
                Ok(outputs)
            }
            "many-outputs" => {
                Ok((0..number).fold(Outputs::new(), |outputs, n| outputs.text(&n.to_string(), "")))
            }
            "many-parameters" => Ok((0..number).fold(Outputs::new(), |outputs, n| {
                outputs.parameter(&n.to_string(), Parameter::Boolean(true))
            })),
            "twin-parameters" => Ok(Outputs::new()
                .parameter("twin", Parameter::Boolean(true))
                .parameter("twin", Parameter::Boolean(false))),
            "nan-parameter" => Ok(Outputs::new().parameter("nan", Parameter::Float64(f64::NAN))),
            "long-name" => Ok(Outputs::new().text(&"n".repeat(300), "x")),
            "long-parameter" => Ok(Outputs::new().parameter(&"n".repeat(300), Parameter::Boolean(true))),
            "large-parameter" => {
                Ok(Outputs::new().parameter("text", Parameter::Text("t".repeat(number as usize))))
            }
            "long-content-type" => Ok(Outputs::new().bytes("x", "y", &"t".repeat(number as usize))),
            "deep-shape" => {
                let value =
                    Value::Bytes(ByteStrings { shape: vec![1; number as usize], elements: vec![vec![1]] });
                Ok(Outputs::new().value("deep", value))
            }
            // Runs out of device memory, and says that someone else is at fault.
            "device-excuse" => match Tensor::fill(DataType::Float32, &[1 << 14, 1 << 14], 1.0)?.bytes() {
                Ok(_) => Ok(done),
                Err(error) => Err(Failure::retry(error)),
            },
            // Goes on for ever, and says so.
            "chatter" => loop {
                job.report("chattering", f32::NAN, "");
                std::thread::sleep(Duration::from_millis(20));
            },
            "thread" => {
                std::thread::spawn(|| ());
                Ok(done)
            }
            "long-failure" => Err(Failure::failed(format!("\u{1b}[31m{}", "f".repeat(number as usize)))),
            "status-text" => {
                job.report(&format!("\u{1b}[2J{}", "s".repeat(1000)), 7.0, &"m".repeat(100_000));
                Ok(done)
            }
            other => Err(Failure::invalid(format!("no mode {other:?}"))),
        }
    }

    fn infer_batch(jobs: &[Job]) -> Vec<Result<Outputs, Failure>> {
        match jobs.first().map(|j| j.parameter::<String>("mode")) {
            Some(Ok(Some(mode))) if mode == "too-few" => Vec::new(),
            Some(Ok(Some(mode))) if mode == "too-many" => (0..3).map(|_| Ok(Outputs::new())).collect(),
            _ => jobs.iter().map(Self::infer).collect(),
        }
    }
}

warren_sdk::plugin!(Hostile);
