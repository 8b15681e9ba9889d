//! From a component's bytes to code that this engine runs: compiled here, or in a child process
//! under limits, and kept in a cache. What compiles untrusted bytes may take all memory, all time or
//! crash: in a child it takes nobody along.

mod cache;
mod child;

use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use wasmtime::Engine;
use wasmtime::component::Component;

pub use child::{Order, compile_component};

use super::SandboxError;
use super::guest_log::clean;
use crate::digest::sha256_hex;
use cache::{Cache, Key};

/// How components are compiled, and where their code is kept.
#[derive(Debug, Clone)]
pub struct CompilerConfig {
    /// A `warren` program, run as `warren compile-component …`; none: this process compiles, under no
    /// limit.
    pub program: Option<PathBuf>,
    /// Memory that the child may take, MiB.
    pub memory_mib: u64,
    /// How long the child may take, s.
    pub seconds: u64,
    /// A directory of this user's own for compiled code; none: nothing is kept.
    pub cache: Option<PathBuf>,
    /// The most that is kept there, MiB. What was not used for longest goes first.
    pub cache_mib: u64,
}

/// The largest code of one component, MiB.
const CODE_MIB: u64 = 512;
/// The most threads of one child: each takes memory of its own.
const MOST_THREADS: usize = 8;
/// What is read of the child's error text, bytes.
const MOST_TEXT: u64 = 4 << 10;
/// What is shown of it, bytes.
const MOST_REASON: usize = 2 << 10;
/// What the runtime says when memory ends, before it aborts; and what threads that cannot start say.
const OUT_OF_MEMORY: [&str; 3] =
    ["memory allocation of", "Cannot allocate memory", "Resource temporarily unavailable"];

/// What makes components of bytes.
pub(super) struct Compiler {
    config: CompilerConfig,
    /// Names whatever code depends on: machine, compiler, its version and settings.
    engine: String,
    cache: Option<Cache>,
    /// Whether code counts instructions, as the engine has it.
    count_fuel: bool,
    /// Children run one at a time, so that the memory limit is one of the host.
    turn: Mutex<()>,
}

impl Compiler {
    /// A compiler for this engine. A cache directory that cannot be trusted is told in the log and
    /// left alone.
    pub fn new(engine: &Engine, config: CompilerConfig, count_fuel: bool) -> Self {
        let cache = config.cache.as_ref().and_then(|path| {
            Cache::open(path, config.cache_mib)
                .inspect_err(|reason| {
                    tracing::warn!(cache = %path.display(), %reason, "compiled code is not kept");
                })
                .ok()
        });
        Self { engine: engine_key(engine), config, cache, count_fuel, turn: Mutex::new(()) }
    }

    /// Compiles in this process and keeps nothing.
    pub fn here(engine: &Engine, count_fuel: bool) -> Self {
        let config = CompilerConfig { program: None, memory_mib: 0, seconds: 0, cache: None, cache_mib: 0 };
        Self::new(engine, config, count_fuel)
    }

    /// The component of these bytes. With their digest the cache is asked first and filled.
    pub fn component(
        &self,
        engine: &Engine,
        name: &str,
        bytes: &[u8],
        sha256: Option<&str>,
    ) -> Result<Component, SandboxError> {
        let key = sha256.and_then(|sha256| Key::new(sha256, &self.engine));
        let kept = self.cache.as_ref().zip(key.as_ref());
        if kept.is_none() && self.config.program.is_none() {
            return Component::from_binary(engine, bytes).map_err(|e| refused(name, &format!("{e:#}")));
        }
        if let Some(component) = kept.and_then(|(cache, key)| cache.take(engine, key)) {
            return Ok(component);
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever had the turn before may have compiled the same.
        if let Some(component) = kept.and_then(|(cache, key)| cache.take(engine, key)) {
            return Ok(component);
        }
        let unwritten =
            |e: io::Error| SandboxError::CodeUnwritten { component: name.to_owned(), reason: e.to_string() };
        if let Some((cache, key)) = kept {
            match cache.draft() {
                Ok(draft) => match self.produce(engine, name, bytes, draft.file()) {
                    Ok(()) => {
                        let component =
                            load(engine, draft.file()).map_err(|e| refused(name, &format!("{e:#}")))?;
                        cache.keep(&draft, key);
                        return Ok(component);
                    }
                    Err(SandboxError::CodeUnwritten { reason, .. }) => {
                        tracing::warn!(component = name, %reason, "compiled code does not fit into the cache");
                    }
                    Err(other) => return Err(other),
                },
                Err(error) => tracing::warn!(component = name, %error, "the cache cannot be written"),
            }
        }
        let file = tempfile::tempfile().map_err(unwritten)?;
        self.produce(engine, name, bytes, &file)?;
        load(engine, &file).map_err(|e| refused(name, &format!("{e:#}")))
    }

    /// Writes the code to a file that is empty.
    fn produce(
        &self,
        engine: &Engine,
        name: &str,
        bytes: &[u8],
        mut file: &File,
    ) -> Result<(), SandboxError> {
        let started = Instant::now();
        let by = match &self.config.program {
            Some(program) => {
                let pid = self.in_child(program, name, bytes, file)?;
                format!("process {pid}")
            }
            None => {
                let code =
                    engine.precompile_component(bytes).map_err(|e| refused(name, &format!("{e:#}")))?;
                file.write_all(&code).map_err(|e| SandboxError::CodeUnwritten {
                    component: name.to_owned(),
                    reason: e.to_string(),
                })?;
                "this process".to_owned()
            }
        };
        let ms = started.elapsed().as_millis();
        tracing::debug!(component = name, by, ms, bytes = bytes.len(), "compiled");
        Ok(())
    }

    /// Has a child compile. It reads the bytes from its standard input and writes code to `file`,
    /// its standard output; whatever becomes of it, it has ended when this returns.
    fn in_child(&self, program: &Path, name: &str, bytes: &[u8], file: &File) -> Result<u32, SandboxError> {
        let broken =
            |reason: String| SandboxError::Compiler { component: name.to_owned(), reason: readable(&reason) };
        let cannot = |e: io::Error| broken(format!("cannot run {}: {e}", program.display()));
        let limit = Duration::from_secs(self.config.seconds);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        let order = Order {
            engine: self.engine.clone(),
            bytes: bytes.len(),
            memory_mib: self.config.memory_mib,
            code_mib: CODE_MIB,
            // Processor time, should nobody be left to look at the clock.
            cpu_seconds: self.config.seconds.saturating_mul(threads as u64).saturating_add(1),
            count_fuel: self.count_fuel,
        };
        let mut command = Command::new(program);
        command
            .args(order.arguments())
            .env_clear()
            .env("RAYON_NUM_THREADS", threads.to_string())
            .current_dir("/")
            // Ended as a group, so that nothing of it stays.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(file.try_clone().map_err(cannot)?)
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(cannot)?;
        let pid = child.id();
        let (status, text) = converse(&mut child, bytes, limit).map_err(cannot)?;
        let Some(status) = status else {
            return Err(SandboxError::CompileTime {
                component: name.to_owned(),
                seconds: self.config.seconds,
            });
        };
        self.judge(name, status, &text).map(|()| pid)
    }

    /// What the end of a child means.
    fn judge(&self, name: &str, status: ExitStatus, text: &str) -> Result<(), SandboxError> {
        let component = name.to_owned();
        let reason = readable(text);
        let mib = self.config.memory_mib;
        let signal = |signal: Signal| status.signal() == Some(signal.as_raw());
        Err(match status.code() {
            Some(child::DONE) => return Ok(()),
            Some(child::REFUSED) => SandboxError::Compile { component, reason },
            Some(child::MEMORY) => SandboxError::CompileMemory { component, mib },
            Some(child::UNWRITTEN) => SandboxError::CodeUnwritten { component, reason },
            _ if signal(Signal::XCPU) => {
                SandboxError::CompileTime { component, seconds: self.config.seconds }
            }
            _ if signal(Signal::XFSZ) => SandboxError::CodeSize { component, mib: CODE_MIB },
            _ if OUT_OF_MEMORY.iter().any(|said| text.contains(said)) => {
                SandboxError::CompileMemory { component, mib }
            }
            _ if reason.is_empty() => {
                SandboxError::Compiler { component, reason: format!("it ended with {status}") }
            }
            _ => SandboxError::Compiler { component, reason: format!("it ended with {status}: {reason}") },
        })
    }
}

/// Hands a child its input, and waits for its end and its error text. No status: it took longer than
/// `limit`. In every case it has been reaped, and its group is gone.
fn converse(child: &mut Child, bytes: &[u8], limit: Duration) -> io::Result<(Option<ExitStatus>, String)> {
    let deadline = Instant::now() + limit;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let (sender, receiver) = mpsc::channel();
    let (text, ended) = std::thread::scope(|scope| {
        let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let started = named("warren-compile-in")
            .spawn_scoped(scope, move || {
                // It may have given up before it read all; what it says then is what counts.
                let _ = stdin.map(|mut stdin| stdin.write_all(bytes));
            })
            .and_then(|_| {
                named("warren-compile-err").spawn(move || {
                    let mut text = Vec::new();
                    if let Some(mut stderr) = stderr {
                        let _ = stderr.by_ref().take(MOST_TEXT).read_to_end(&mut text);
                        let _ = io::copy(&mut stderr, &mut io::sink());
                    }
                    let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
                })
            });
        // Its error text ends when it does: nobody else has that pipe.
        let text = started.map(|_| receiver.recv_timeout(limit));
        let ended = text.is_ok() && has_ended(pid, deadline);
        // Before it is reaped, so that the number is still its own, and before its input's thread is
        // waited for, which waits for it.
        let _ = kill_process_group(pid, Signal::KILL);
        (text, ended)
    });
    let status = child.wait()?;
    Ok((ended.then_some(status), text?.unwrap_or_default()))
}

/// Whether a child has ended at the deadline. It is not reaped.
fn has_ended(pid: Pid, deadline: Instant) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    loop {
        match waitid(WaitId::Pid(pid), look) {
            Ok(Some(_)) => return true,
            Ok(None) | Err(_) if Instant::now() >= deadline => return false,
            Ok(None) | Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Maps code that [`Engine::precompile_component`] wrote: the file's pages are shared with every
/// process that maps it, and memory that runs short takes them back.
fn load(engine: &Engine, file: &File) -> wasmtime::Result<Component> {
    // The very file that is open, whatever its name stands for by now.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // SAFETY: the file holds what this host's compiler wrote, for an engine of the same key: either its
    // child has just written it, or it lay in the cache under a seal that names component and engine. Only
    // this user can have opened it for writing (mode 0600, one name, in a directory that nobody else
    // writes), and what is mapped neither host nor child writes to: a seal is put behind it, and files are
    // replaced, never changed.
    #[allow(unsafe_code)]
    let mapped = unsafe { Component::deserialize_file(engine, path) };
    mapped.or_else(|error| {
        // A file system mounted `noexec` maps no code. A copy in memory runs all the same.
        let bytes = copy(file).map_err(|_| error)?;
        // SAFETY: the same bytes.
        #[allow(unsafe_code)]
        unsafe {
            Component::deserialize(engine, bytes)
        }
    })
}

fn copy(mut file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn refused(name: &str, reason: &str) -> SandboxError {
    SandboxError::Compile { component: name.to_owned(), reason: readable(reason) }
}

/// A text in which names of a component's own may stand: short, on one line, and no terminal's escapes
/// in it.
fn readable(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    clean(&words.join(" "), MOST_REASON)
}

/// Names whatever compiled code depends on, in hexadecimal. Two engines of one name run each other's
/// code.
fn engine_key(engine: &Engine) -> String {
    struct Written(Vec<u8>);
    impl Hasher for Written {
        fn write(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut written = Written(Vec::new());
    engine.precompile_compatibility_hash().hash(&mut written);
    sha256_hex(&written.0)
}
