//! Misbehaves as parameter `mode` says. The host must answer each with its code and go on.

use std::time::{Duration, Instant};

use warren_sdk::bindings::warren::plugin::types::{ByteStrings, Value};
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

impl Plugin for Hostile {
    fn infer(job: &Job) -> Result<Outputs, Failure> {
        let mode: String = job.parameter("mode")?.unwrap_or_default();
        let number: i64 = job.parameter("number")?.unwrap_or(0);
        let done = Outputs::new().text("mode", mode.clone());
        match mode.as_str() {
            "trap" => panic!("the plugin panics"),
            "loop" => spin(),
            "recurse" => Ok(Outputs::new().text("depth", recurse(0).to_string())),
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
            "output-bomb" => Ok(Outputs::new().bytes("bomb", vec![0; number as usize], "application/octet-stream")),
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
            "invalid" => Err(Failure::invalid("the client sent nonsense")),
            "failed" => Err(Failure::failed("nobody can do this")),
            "retry" => Err(Failure::retry("the moon is in the way")),
            // Fails until the attempt given.
            "flaky" if i64::from(job.attempt()) < number => Err(Failure::retry("not yet")),
            "flaky" => Ok(Outputs::new().text("attempt", job.attempt().to_string())),
            "busy" => {
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
            // What a guest must not see: the listing of what it does.
            "look" => {
                let mut seen = Vec::new();
                for path in ["/", "/etc/passwd", "/plugin/../..", "/scratch/../plugin", "/proc/self/environ", "."] {
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
