//! `warren compile-component`: what a host runs in a child process, and how the commands have
//! components compiled and their code kept.

use std::path::PathBuf;
use std::process::ExitCode;

use rustix::process::{Resource, getrlimit, setrlimit};
use warren::config::Config;
use warren::sandbox::{Order, compile_component};

/// Compiles when the command line is a host's order to do so. It is no command for people, and not
/// among those that `--help` lists.
pub fn asked_to() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args_os().skip(1).map_while(|a| a.into_string().ok()).collect();
    Order::parse(&arguments).map(|order| ExitCode::from(compile_component(&order)))
}

/// Has hosts of this program compile in children, which are the same program, and keep the code.
pub fn configure(config: &mut Config) {
    more_files();
    // By this name it is the same even when another was put in its place meanwhile.
    let own = PathBuf::from("/proc/self/exe");
    config.compiler = if own.exists() { Some(own) } else { std::env::current_exe().ok() };
    if config.compiler.is_none() {
        tracing::warn!("this program cannot find itself: components are compiled under no limit");
    }
    if config.cache.is_none() {
        config.cache = default_cache();
        if config.cache.is_none() {
            tracing::warn!(
                "neither CACHE_DIRECTORY, XDG_CACHE_HOME nor HOME is set: compiled code is not kept"
            );
        }
    }
}

/// Code that is mapped keeps its file open, one for each plugin: more than the 1,024 that are usual.
fn more_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "no more files can be had than the limit says (ulimit -n)");
    }
}

fn default_cache() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // Of several the first. For a dynamic user it is a link, so a folder in it.
    let systemd = set("CACHE_DIRECTORY").and_then(|paths| std::env::split_paths(&paths).next());
    systemd
        .map(|path| path.join("components"))
        // Relative ones are void, says the XDG specification.
        .or_else(|| set("XDG_CACHE_HOME").filter(|path| path.is_absolute()).map(|path| path.join("warren")))
        .or_else(|| {
            std::env::home_dir().filter(|path| path.is_absolute()).map(|path| path.join(".cache/warren"))
        })
}
