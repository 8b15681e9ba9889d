//! WASI for guests: clocks, random, stdio into the log, the plugin's folder read-only and a
//! scratch directory. No network, no environment, no arguments.

use wasmtime::component::Linker;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView, WasiView};

use super::state::State;

/// Where a guest finds its plugin's folder.
pub const PLUGIN_DIR: &str = "/plugin";
/// Where a guest finds an empty directory that lives as long as the batch.
pub const SCRATCH_DIR: &str = "/scratch";
/// The most random bytes one call may ask for.
const MAX_RANDOM: u64 = 1 << 20;

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        if self.wasi.is_none() {
            let (wasi, scratch) = build(self);
            self.scratch = scratch;
            self.wasi = Some(wasi);
        }
        let ctx = self.wasi.get_or_insert_with(|| WasiCtx::builder().build());
        WasiCtxView { ctx, table: &mut self.table }
    }
}

/// A directory that cannot be had is left out and said so in the host's log: the guest sees that
/// it is not there, and the host goes on.
fn build(state: &State) -> (WasiCtx, Option<tempfile::TempDir>) {
    let mut builder = WasiCtx::builder();
    builder.stdout(state.log.clone()).stderr(state.log.clone()).max_random_size(MAX_RANDOM);
    builder.allow_ip_name_lookup(false).allow_tcp(false).allow_udp(false);
    if let Err(error) = builder.preopened_dir(state.folder.as_path(), PLUGIN_DIR, FsPerms::ReadOnly) {
        tracing::error!(folder = %state.folder.display(), %error, "cannot open the plugin's folder for its guest");
    }
    let base = state.scratch_base.as_ref().map_or_else(std::env::temp_dir, |b| b.as_path().to_owned());
    let scratch = match tempfile::Builder::new().prefix("warren-scratch-").tempdir_in(&base) {
        Ok(dir) => match builder.preopened_dir(dir.path(), SCRATCH_DIR, FsPerms::ReadWrite) {
            Ok(_) => Some(dir),
            Err(error) => {
                tracing::error!(dir = %dir.path().display(), %error, "cannot open the scratch directory");
                None
            }
        },
        Err(error) => {
            tracing::error!(base = %base.display(), %error, "cannot make a scratch directory");
            None
        }
    };
    (builder.build(), scratch)
}

/// Gives the linker WASI 0.2.
pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)
}
