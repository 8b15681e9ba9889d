//! The child's side: it limits itself, reads a component from standard input, compiles it and writes
//! the code to standard output. It runs nothing of it.

use std::io::{self, Read, Write};

use rustix::process::{Resource, Rlimit, setrlimit};
use wasmtime::{Engine, OutOfMemory};

use super::engine_key;

/// What a child is told, on its command line.
#[derive(Debug, Clone)]
pub struct Order {
    /// The key of the parent's engine.
    pub engine: String,
    /// How large the component is, bytes.
    pub bytes: usize,
    /// Memory that it may take, MiB.
    pub memory_mib: u64,
    /// The most code that it may write, MiB.
    pub code_mib: u64,
    /// Processor time that it may take over all its threads, s.
    pub cpu_seconds: u64,
    /// Whether the code counts instructions.
    pub count_fuel: bool,
}

/// The command's name.
const COMMAND: &str = "compile-component";

impl Order {
    /// As the command line has it.
    pub fn arguments(&self) -> [String; 7] {
        [
            COMMAND.to_owned(),
            self.engine.clone(),
            self.bytes.to_string(),
            self.memory_mib.to_string(),
            self.code_mib.to_string(),
            self.cpu_seconds.to_string(),
            self.count_fuel.to_string(),
        ]
    }

    /// An order from such a command line, without the program's name.
    pub fn parse(arguments: &[String]) -> Option<Self> {
        let [command, engine, bytes, memory_mib, code_mib, cpu_seconds, count_fuel] = arguments else {
            return None;
        };
        if command != COMMAND {
            return None;
        }
        Some(Self {
            engine: engine.clone(),
            bytes: bytes.parse().ok()?,
            memory_mib: memory_mib.parse().ok()?,
            code_mib: code_mib.parse().ok()?,
            cpu_seconds: cpu_seconds.parse().ok()?,
            count_fuel: count_fuel.parse().ok()?,
        })
    }
}

/// Exit statuses. Others, and signals, are crashes.
pub const DONE: i32 = 0;
pub const REFUSED: i32 = 10;
pub const MEMORY: i32 = 11;
pub const UNWRITTEN: i32 = 12;
pub const BROKEN: i32 = 13;

/// How much less urgent compiling is than jobs.
const NICE: i32 = 5;
/// What standard streams and the runtime's looks at the machine need.
const FILES: u64 = 32;

/// Compiles a component from standard input to standard output, within limits that it sets itself
/// first. The answer is the process's exit status; what went wrong stands on standard error.
///
/// Call it before the process has started any thread: their stacks count as memory.
pub fn compile_component(order: &Order) -> u8 {
    let (status, text) = match compile(order) {
        Ok(()) => return 0,
        Err(ended) => ended,
    };
    // Nobody is left to tell when this fails.
    let _ = writeln!(io::stderr(), "{text}");
    u8::try_from(status).unwrap_or(u8::MAX)
}

fn compile(order: &Order) -> Result<(), (i32, String)> {
    limit(order).map_err(|e| (BROKEN, format!("cannot limit itself: {e}")))?;
    let engine =
        Engine::new(&super::super::wasm(order.count_fuel)).map_err(|e| (BROKEN, format!("{e:#}")))?;
    if engine_key(&engine) != order.engine {
        return Err((BROKEN, "it makes other code than the host runs: it is another version".to_owned()));
    }
    let mut component = Vec::new();
    component.try_reserve_exact(order.bytes.saturating_add(1)).map_err(|e| (MEMORY, e.to_string()))?;
    io::stdin()
        .lock()
        .take(order.bytes as u64)
        .read_to_end(&mut component)
        .map_err(|e| (BROKEN, format!("cannot read the component: {e}")))?;
    if component.len() != order.bytes {
        return Err((BROKEN, format!("{} of {} bytes arrived", component.len(), order.bytes)));
    }
    let code = engine.precompile_component(&component).map_err(|error| {
        let status = if error.is::<OutOfMemory>() { MEMORY } else { REFUSED };
        (status, format!("{error:#}"))
    })?;
    let mut output = io::stdout().lock();
    output.write_all(&code).and_then(|()| output.flush()).map_err(|e| (UNWRITTEN, e.to_string()))
}

/// From here on it cannot take more than it was granted, however it is led astray.
fn limit(order: &Order) -> io::Result<()> {
    let to = |resource, most| {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) }).map_err(io::Error::from)
    };
    to(Resource::Core, 0)?;
    // What it allocates; address space that is only reserved costs nothing.
    to(Resource::Data, crate::config::mib(order.memory_mib))?;
    to(Resource::Fsize, crate::config::mib(order.code_mib))?;
    // At the second of the two it is killed as by anybody; the first says what it was for.
    let seconds =
        Rlimit { current: Some(order.cpu_seconds), maximum: Some(order.cpu_seconds.saturating_add(1)) };
    setrlimit(Resource::Cpu, seconds)?;
    to(Resource::Nofile, FILES)?;
    // The rest makes it a better neighbour, and is not worth failing for.
    let _ = rustix::process::nice(NICE);
    #[cfg(target_os = "linux")]
    {
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    }
    Ok(())
}
