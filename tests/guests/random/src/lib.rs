//! Makes `calls` calls of the host, chosen by `seed`: every tensor operation, jobs, assets, log, and
//! WASI, with arguments that mostly make sense. Errors are counted, and it goes on.
//!
//! What would trap by the rules (a forged handle, an empty poll list, a write that was not allowed) is
//! left out: the guest `hostile` does that. So whatever traps here is a finding.
//!
//! With a parameter `tour` it goes through all that a job may be stopped in instead, see [`tour`].

mod dice;
mod house;
mod tally;
mod tensors;
mod tour;
mod wasi;

use dice::Dice;
use house::Around;
use tally::Tally;
use tensors::Tensors;
use warren_sdk::bindings::warren::plugin::jobs::Job;
use warren_sdk::bindings::warren::plugin::types::{ByteStrings, Failure, Output, Outputs, Parameter, Value};
use wasi::Wasi;

struct Random;

/// Calls of `prepare`, which is the same every time.
const PREPARING: u64 = 2000;
/// After so many calls the counts are sent: of a job that a limit ends, they are what is left.
const SEND: u64 = 500;

/// Random calls. True when the host asked to stop.
fn play(seed: u64, calls: u64, keep: usize, job: Option<&Job>, tally: &mut Tally) -> bool {
    let mut dice = Dice::new(seed);
    let mut tensors = Tensors::new(keep);
    let mut wasi = Wasi::new(tally);
    let mut around = Around::new(job);
    let mut sent = 0;
    while tally.calls < calls {
        match dice.below(12) {
            0..=5 => tensors.step(&mut dice, tally),
            6..=9 => wasi.step(&mut dice, tally),
            _ => around.step(&mut dice, &mut tensors, tally),
        }
        if around.cancelled {
            return true;
        }
        if let Some(job) = job
            && tally.calls >= sent + SEND
        {
            sent = tally.calls;
            job.emit("tally", text(tally.take()));
        }
    }
    false
}

fn text(text: String) -> Value {
    Value::Bytes(ByteStrings { shape: vec![1], elements: vec![text.into_bytes()] })
}

fn number(parameters: &[(String, Parameter)], wanted: &str) -> u64 {
    let found = parameters.iter().find(|(name, _)| name == wanted);
    match found {
        Some((_, Parameter::Int64(value))) => *value as u64,
        _ => 0,
    }
}

fn word<'a>(parameters: &'a [(String, Parameter)], wanted: &str) -> Option<&'a str> {
    match parameters.iter().find(|(name, _)| name == wanted) {
        Some((_, Parameter::Text(text))) => Some(text),
        _ => None,
    }
}

impl warren_sdk::bindings::Guest for Random {
    fn prepare() -> Result<(), Failure> {
        play(1, PREPARING, 64, None, &mut Tally::default());
        Ok(())
    }

    fn infer(batch: Vec<Job>) -> Vec<Result<Outputs, Failure>> {
        let answer = |job: &Job| {
            let mut tally = Tally::default();
            let parameters = job.parameters();
            if let Some(which) = word(&parameters, "tour") {
                let outputs = tour::tour(job, which, number(&parameters, "pace")).map_err(Failure::Failed)?;
                return Ok(Outputs { outputs, parameters: Vec::new() });
            }
            let (seed, calls) = (number(&parameters, "seed"), number(&parameters, "calls"));
            play(seed, calls, number(&parameters, "keep") as usize, Some(job), &mut tally);
            let output = Output { name: "tally".into(), value: text(tally.take()), content_type: None };
            Ok(Outputs { outputs: vec![output], parameters: Vec::new() })
        };
        batch.iter().map(answer).collect()
    }
}

warren_sdk::bindings::export_plugin!(Random with_types_in warren_sdk::bindings);
