//! A tour of the calls that the host may be in when a job is stopped: each for `pace` ms, announced by
//! a status, and checked, so that what an earlier job left behind would show.

use std::time::{Duration, Instant};

use warren_sdk::bindings::warren::plugin::jobs::Job;
use warren_sdk::bindings::warren::plugin::tensors as t;
use warren_sdk::bindings::warren::plugin::tensors::{DataType, Tensor};
use warren_sdk::bindings::warren::plugin::types::{ByteStrings, Output, Value};
use wasip2::clocks::monotonic_clock::{now, subscribe_duration};
use wasip2::filesystem::preopens;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};
use wasip2::io::poll;

type Step = fn(&Descriptor, &Job, Duration) -> Result<(), String>;

/// Every stage, as its status calls it.
const STAGES: [(&str, Step); 11] = [
    ("sleep", sleep),
    ("poll", polls),
    ("compute", compute),
    ("open", open),
    ("write", write),
    ("stream", stream),
    ("splice", splice),
    ("list", list),
    ("dispatch", dispatch),
    ("read", read),
    ("emit", emit),
];

/// All stages, or the one called `which`; the outputs are left to be computed by the host.
pub fn tour(job: &Job, which: &str, pace: u64) -> Result<Vec<Output>, String> {
    let directories = preopens::get_directories();
    let scratch = directories.iter().find(|(_, name)| name == "/scratch").ok_or("no scratch")?;
    for (name, step) in STAGES {
        if which == "all" || which == name {
            job.report(name, None, None);
            step(&scratch.0, job, Duration::from_millis(pace)).map_err(|error| format!("{name}: {error}"))?;
        }
    }
    job.report("outputs", None, None);
    let size = if which == "outputs" { 512 } else { 64 };
    let mut sum = ones(size)?;
    for _ in 0..if which == "outputs" { pace } else { 3 } {
        sum = t::matmul(&sum, &ones(size)?)
            .and_then(|x| t::linear(&x, 1.0 / f64::from(size), 0.0))
            .map_err(say)?;
    }
    Ok(vec![Output { name: "ones".into(), value: Value::Tensor(sum), content_type: None }])
}

fn say(error: t::Error) -> String {
    format!("{}: {}", error.operation, error.message)
}

fn ones(size: u32) -> Result<Tensor, String> {
    t::fill(DataType::Float32, &[size, size], 1.0).map_err(say)
}

fn files(error: wasip2::filesystem::types::ErrorCode) -> String {
    error.name().to_owned()
}

/// Again and again until the time is up.
fn during(pace: Duration, mut what: impl FnMut(u32) -> Result<(), String>) -> Result<(), String> {
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed() < pace {
        what(round)?;
        round += 1;
    }
    Ok(())
}

fn sleep(_: &Descriptor, _: &Job, pace: Duration) -> Result<(), String> {
    subscribe_duration(pace.as_nanos() as u64).block();
    Ok(())
}

fn polls(_: &Descriptor, _: &Job, pace: Duration) -> Result<(), String> {
    during(pace, |_| {
        let (soon, never) = (subscribe_duration(300_000), subscribe_duration(u64::MAX));
        let ready = poll::poll(&[&never, &soon]);
        if ready == [1] { Ok(()) } else { Err(format!("{ready:?} are ready")) }
    })
}

fn compute(_: &Descriptor, _: &Job, pace: Duration) -> Result<(), String> {
    let until = now() + pace.as_nanos() as u64;
    let mut n = 0u64;
    while now() < until {
        for _ in 0..100_000 {
            n = std::hint::black_box(n.wrapping_mul(31).wrapping_add(1));
        }
    }
    Ok(())
}

fn made(scratch: &Descriptor, name: &str) -> Result<Descriptor, String> {
    let flags = DescriptorFlags::READ | DescriptorFlags::WRITE;
    let how = OpenFlags::CREATE | OpenFlags::TRUNCATE;
    scratch.open_at(PathFlags::empty(), name, how, flags).map_err(files)
}

fn open(scratch: &Descriptor, _: &Job, pace: Duration) -> Result<(), String> {
    during(pace, |_| {
        // Of the same entries over and over: they count once.
        let file = made(scratch, "opened")?;
        file.stat().map_err(files)?;
        scratch.stat_at(PathFlags::empty(), "opened").map_err(files)?;
        file.metadata_hash().map_err(files)?;
        Ok(())
    })
}

fn write(scratch: &Descriptor, _: &Job, pace: Duration) -> Result<(), String> {
    let file = made(scratch, "written")?;
    during(pace, |round| {
        let bytes = [round as u8; 4096];
        file.write(&bytes, 0).map_err(files)?;
        let (back, _) = file.read(4096, 0).map_err(files)?;
        if back == bytes { Ok(()) } else { Err(format!("read {:?} in round {round}", back.first())) }
    })
}

fn stream(scratch: &Descriptor, _: &Job, pace: Duration) -> Result<(), String> {
    let file = made(scratch, "streamed")?;
    during(pace, |round| {
        let (input, output) = (file.read_via_stream(0), file.write_via_stream(0));
        let (input, output) = (input.map_err(files)?, output.map_err(files)?);
        let bytes = [round as u8; 2048];
        output.blocking_write_and_flush(&bytes).map_err(|e| e.to_string())?;
        if output.check_write().map_err(|e| e.to_string())? > 0 {
            output.write(&bytes).map_err(|e| e.to_string())?;
        }
        output.blocking_flush().map_err(|e| e.to_string())?;
        let back = input.blocking_read(2048).map_err(|e| e.to_string())?;
        if back == bytes { Ok(()) } else { Err(format!("read {:?} in round {round}", back.first())) }
    })
}

fn splice(scratch: &Descriptor, _: &Job, pace: Duration) -> Result<(), String> {
    let (from, to) = (made(scratch, "from")?, made(scratch, "to")?);
    from.write(&[7; 4096], 0).map_err(files)?;
    during(pace, |_| {
        let input = from.read_via_stream(0).map_err(files)?;
        let output = to.write_via_stream(0).map_err(files)?;
        let moved = output.blocking_splice(&input, 4096).map_err(|e| e.to_string())?;
        if moved > 0 { Ok(()) } else { Err("nothing was moved".into()) }
    })
}

fn list(scratch: &Descriptor, _: &Job, pace: Duration) -> Result<(), String> {
    during(pace, |_| {
        let listing = scratch.read_directory().map_err(files)?;
        while listing.read_directory_entry().map_err(files)?.is_some() {}
        Ok(())
    })
}

/// Long enough that a kernel is at work most of the time.
const SIZE: u32 = 256;

fn dispatch(_: &Descriptor, _: &Job, pace: Duration) -> Result<(), String> {
    during(pace, |_| {
        let (a, b) = (ones(SIZE)?, ones(SIZE)?);
        let made = t::matmul(&a, &b).map_err(say)?;
        t::dispatch(&[&made]).map_err(say)
    })
}

fn read(_: &Descriptor, _: &Job, pace: Duration) -> Result<(), String> {
    during(pace, |_| {
        let (a, b) = (ones(SIZE)?, ones(SIZE)?);
        let bytes = t::matmul(&a, &b).map_err(say)?.read().map_err(say)?;
        let wanted = (SIZE as f32).to_le_bytes();
        if bytes.chunks_exact(4).all(|e| e == wanted) { Ok(()) } else { Err("a wrong product".into()) }
    })
}

fn emit(_: &Descriptor, job: &Job, pace: Duration) -> Result<(), String> {
    during(pace, |round| {
        let elements = vec![round.to_le_bytes().to_vec()];
        job.emit("round", Value::Bytes(ByteStrings { shape: vec![1], elements }));
        subscribe_duration(500_000).block();
        Ok(())
    })
}
