//! Tries every way out of its file system that a [`script`] names, and looks for what the jobs before it
//! have left.

mod script;
mod secrets;

use warren_sdk::prelude::*;

struct Escape;

impl Plugin for Escape {
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
            // Reads the same file again and again for so many ms, and says what was in it at any time.
            "watch" => {
                let start = std::time::Instant::now();
                let mut seen = std::collections::BTreeSet::new();
                loop {
                    let text = std::fs::read_to_string("/plugin/model").map_err(Failure::failed)?;
                    if seen.insert(text) {
                        job.report("reading", f32::NAN, "");
                    }
                    if start.elapsed().as_millis() >= number as u128 {
                        break;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                Ok(Outputs::new().text("seen", seen.into_iter().collect::<Vec<_>>().join(" ")))
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
                        std::thread::sleep(std::time::Duration::from_secs(3600));
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
