//! Tries every way out of its file system that a [`script`] names, and looks for what the jobs before it
//! have left.

mod script;
mod secrets;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use warren_sdk::prelude::*;

struct Escape;

/// Reads the same file again and again for so many ms: what was in it at any time.
fn watch(milliseconds: u128, new: impl Fn()) -> Result<String, Failure> {
    let start = Instant::now();
    let mut seen = BTreeSet::new();
    loop {
        if seen.insert(std::fs::read_to_string("/plugin/model").map_err(Failure::failed)?) {
            new();
        }
        if start.elapsed().as_millis() >= milliseconds {
            return Ok(seen.into_iter().collect::<Vec<_>>().join(" "));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Plugin for Escape {
    /// Where the file `slow` lies in the plugin's folder, it watches a file for so many ms.
    fn prepare() -> Result<(), Failure> {
        let Ok(slow) = std::fs::read_to_string("/plugin/slow") else { return Ok(()) };
        log::info("preparing slowly");
        let seen = watch(slow.parse().map_err(Failure::failed)?, || ())?;
        assets::put_bytes("seen", seen.as_bytes()).map_err(Failure::failed)
    }

    fn infer(job: &Job) -> Result<Outputs, Failure> {
        let mode: String = job.parameter("mode")?.unwrap_or_default();
        let number: i64 = job.parameter("number")?.unwrap_or(0);
        match mode.as_str() {
            "script" => {
                let calls: String = job.parameter("script")?.unwrap_or_default();
                Ok(Outputs::new().text("answers", script::run(&calls)))
            }
            // What std makes of a full disk is what plugins see.
            "overflow" => match std::fs::write("/scratch/large", vec![1; number as usize]) {
                Ok(()) => Ok(Outputs::new().text("wrote", number.to_string())),
                Err(error) => Err(Failure::failed(error)),
            },
            "watch" => {
                let told = || {
                    job.report("reading", f32::NAN, "");
                };
                Ok(Outputs::new().text("seen", watch(number as u128, told)?))
            }
            "prepared" => {
                let seen = assets::bytes("seen")?;
                Ok(Outputs::new().text("seen", String::from_utf8_lossy(&seen)))
            }
            "leave" => {
                let ending: String = job.parameter("ending")?.unwrap_or_default();
                secrets::leave(number as usize)?;
                job.report("left", f32::NAN, "");
                match ending.as_str() {
                    "trap" => panic!("it ends badly"),
                    "loop" => loop {
                        std::hint::black_box(0);
                    },
                    "sleep" => {
                        std::thread::sleep(Duration::from_secs(3600));
                        Ok(Outputs::new())
                    }
                    "fail" => Err(Failure::failed("it gives up")),
                    _ => Ok(Outputs::new()),
                }
            }
            "search" => Ok(Outputs::new().text("found", secrets::search(number as usize)?.join("\n"))),
            other => Err(Failure::invalid(format!("no mode {other:?}"))),
        }
    }
}

warren_sdk::plugin!(Escape);
