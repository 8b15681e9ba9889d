//! WASI for guests: clocks, random, stdio into the log, and their [file system](super::files). No
//! network, no environment, no arguments.

use wasmtime::component::{HasSelf, Linker};
use wasmtime_wasi::p2::bindings::filesystem::{preopens, types};
use wasmtime_wasi::p2::bindings::random::{insecure, random};
use wasmtime_wasi::random::WasiRandomView;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::files::{self, HasFiles};
use super::state::{State, Stop};
use crate::job::{Code, Failure};

/// The most random bytes one call may ask for: it does not look at the clocks.
const MAX_RANDOM: u64 = 1 << 20;

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let log = &self.log;
        let ctx = self.wasi.get_or_insert_with(|| {
            let mut builder = WasiCtx::builder();
            builder.stdout(log.clone()).stderr(log.clone()).max_random_size(MAX_RANDOM);
            builder.allow_ip_name_lookup(false).allow_tcp(false).allow_udp(false);
            builder.build()
        });
        WasiCtxView { ctx, table: &mut self.table }
    }
}

impl State {
    fn random_bytes(&mut self, length: u64) -> wasmtime::Result<()> {
        if length > MAX_RANDOM {
            let text =
                format!("{length} random bytes asked for in one call: at most {MAX_RANDOM} are allowed");
            return Err(wasmtime::Error::new(Stop(Failure::new(Code::HostcallLimit, text))));
        }
        self.pass(usize::try_from(length).unwrap_or(usize::MAX))
    }
}

impl random::Host for State {
    fn get_random_bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        self.random_bytes(length)?;
        random::Host::get_random_bytes(self.random(), length)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        random::Host::get_random_u64(self.random())
    }
}

impl insecure::Host for State {
    fn get_insecure_random_bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        self.random_bytes(length)?;
        insecure::Host::get_insecure_random_bytes(self.random(), length)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        insecure::Host::get_insecure_random_u64(self.random())
    }
}

/// Gives the linker WASI 0.2, with limits where it has none.
pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    linker.allow_shadowing(true);
    types::add_to_linker::<State, HasFiles>(linker, files::of)?;
    preopens::add_to_linker::<State, HasFiles>(linker, files::of)?;
    random::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    insecure::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    linker.allow_shadowing(false);
    Ok(())
}
