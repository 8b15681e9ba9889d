//! The calls that are neither tensors nor WASI: jobs, assets, log.

use warren_sdk::bindings::warren::plugin::jobs::{Control, Job};
use warren_sdk::bindings::warren::plugin::types::{ByteStrings, Value};
use warren_sdk::bindings::warren::plugin::{assets, log};

use crate::dice::Dice;
use crate::tally::Tally;
use crate::tensors::Tensors;

pub struct Around<'a> {
    job: Option<&'a Job>,
    pub cancelled: bool,
}

impl<'a> Around<'a> {
    pub fn new(job: Option<&'a Job>) -> Self {
        Self { job, cancelled: false }
    }

    pub fn step(&mut self, dice: &mut Dice, tensors: &mut Tensors, tally: &mut Tally) {
        match (self.job, dice.below(20)) {
            (_, 0) => {
                let value = tensors.any(dice, tally);
                let made = assets::put_tensor(&name(dice), tensors.at(value));
                tally.answer("assets.put-tensor", made);
            }
            (_, 1) => {
                let length = if dice.one_in(20) { 100_000 } else { dice.below(500) };
                let made = assets::put_bytes(&name(dice), &dice.bytes(length));
                tally.answer("assets.put-bytes", made);
            }
            (_, 2 | 3) => match assets::get_tensor(&name(dice)) {
                Some(tensor) => {
                    tally.done("assets.get-tensor");
                    tensors.keep(tensor);
                }
                None => tally.count("assets.get-tensor", "none".into()),
            },
            (_, 4 | 5) => {
                let found = assets::get_bytes(&name(dice));
                tally.count("assets.get-bytes", if found.is_some() { "ok" } else { "none" }.into());
            }
            (_, 6 | 7) | (None, _) => {
                use log::Level::{Critical, Debug, Error, Info, Trace, Warn};
                let level = dice.pick(&[Trace, Debug, Info, Warn, Error, Critical]);
                log::log(level, &dice.text(20), &dice.text(200));
                tally.done("log");
            }
            (Some(job), which) => self.of_job(job, which, dice, tensors, tally),
        }
    }

    fn of_job(&mut self, job: &Job, which: usize, dice: &mut Dice, tensors: &mut Tensors, tally: &mut Tally) {
        match which {
            8 => {
                job.id();
                tally.done("job.id");
            }
            9 => {
                job.model();
                tally.done("job.model");
            }
            10 => {
                job.attempt();
                tally.done("job.attempt");
            }
            11 => {
                job.parameters();
                tally.done("job.parameters");
            }
            12 => {
                job.inputs();
                tally.done("job.inputs");
            }
            13 | 14 => {
                let long = dice.text(300);
                match job.input(dice.pick(&["x", "b", "", "nothing", &long])) {
                    Some(Value::Tensor(tensor)) => {
                        tally.done("job.input");
                        tensors.keep(tensor);
                    }
                    Some(Value::Bytes(_)) => tally.done("job.input"),
                    None => tally.count("job.input", "none".into()),
                }
            }
            15 => {
                job.deadline_left();
                tally.done("job.deadline-left");
            }
            16 => {
                let value = tensors.any(dice, tally);
                // One that cannot be computed ends the job.
                if let Some(value) = tensors.computed(value, tally) {
                    self.heard(job.emit(&part(dice), Value::Tensor(value)));
                    tally.done("job.emit");
                }
            }
            17 => {
                let elements: Vec<Vec<u8>> = (0..dice.below(5)).map(|n| dice.bytes(n * 9)).collect();
                let mut shape = vec![1; dice.below(8)];
                shape.push(elements.len() as u32);
                self.heard(job.emit(&part(dice), Value::Bytes(ByteStrings { shape, elements })));
                tally.done("job.emit");
            }
            _ => {
                let progress = dice.optional(|d| d.number() as f32);
                let message = dice.optional(|d| d.text(100));
                self.heard(job.report(&dice.text(40), progress, message.as_deref()));
                tally.done("job.report");
            }
        }
    }

    fn heard(&mut self, control: Control) {
        self.cancelled |= control == Control::Cancel;
    }
}

/// An asset's name.
fn name(dice: &mut Dice) -> String {
    match dice.below(12) {
        0 => String::new(),
        1 => "n".repeat(256),
        2 => dice.text(30),
        n => format!("asset-{}", n % 6),
    }
}

/// A partial's name.
fn part(dice: &mut Dice) -> String {
    match dice.below(8) {
        0 => "p".repeat(255),
        1 => "\u{1b}[31m".into(),
        n => format!("part-{n}"),
    }
}
