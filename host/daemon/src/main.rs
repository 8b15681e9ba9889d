//! The `warren` command.

mod cli;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let set = |name| std::env::var_os(name).is_some();
    if !set("XDG_RUNTIME_DIR") && !set("NODEVICE_SELECT") {
        // Mesa's layer that sorts GPUs asks a display which one it likes, and complains on standard
        // error where there is none. It can be told by its variable only.
        // SAFETY: nothing else runs yet that could read the environment.
        #[allow(unsafe_code)]
        unsafe {
            std::env::set_var("NODEVICE_SELECT", "1");
        }
    }
    cli::main()
}
