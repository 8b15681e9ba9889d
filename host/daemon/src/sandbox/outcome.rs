//! How a call ended: what unwound the guest, as one of the codes.

use wasmtime::Trap;

use super::bindings::Failure as GuestFailure;
use super::guest_log::clean;
use super::state::{State, Stop};
use crate::job::{Code, Failure};

/// The longest text of a guest's failure that is kept.
const MAX_TEXT: usize = 4096;

/// A plugin's own word on a failed job. `retry` is told apart by the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Final, with this code.
    Final(Failure),
    /// To be tried again.
    Retry(String),
}

/// The disposition that the guest chose, unless it only reports a limit that it ran into.
pub fn refusal(state: &State, failure: GuestFailure) -> Refusal {
    let limit = limit_hit(state);
    match (failure, limit) {
        (GuestFailure::Invalid(text), _) => {
            Refusal::Final(Failure::new(Code::InvalidInput, clean(&text, MAX_TEXT)))
        }
        (GuestFailure::Retry(text) | GuestFailure::Failed(text), Some((code, denied))) => Refusal::Final(
            Failure::new(code, format!("{denied}; the plugin says: {}", clean(&text, MAX_TEXT))),
        ),
        (GuestFailure::Retry(text), None) => Refusal::Retry(clean(&text, MAX_TEXT)),
        (GuestFailure::Failed(text), None) => {
            Refusal::Final(Failure::new(Code::PluginFailed, clean(&text, MAX_TEXT)))
        }
    }
}

fn limit_hit(state: &State) -> Option<(Code, String)> {
    let device = state.device_denied.clone().map(|d| (Code::DeviceMemory, d));
    state.limiter.denied.clone().map(|d| (Code::MemoryLimit, d)).or(device)
}

/// The failure behind an error that unwound a guest.
pub fn unwound(state: &State, error: &wasmtime::Error) -> Failure {
    // A stop may have surfaced as some other error on its way out (an interrupted epoch, a
    // cancelled tensor): the reason on record is the truth.
    if let Some(failure) = state.watch.reason() {
        return failure;
    }
    if let Some(Stop(failure)) = error.downcast_ref::<Stop>() {
        return failure.clone();
    }
    if let Some((code, denied)) = limit_hit(state) {
        return Failure::new(code, denied);
    }
    // The cause first: with a backtrace around it, it comes last.
    let text = clean(&format!("{}\n{error:?}", error.root_cause()), MAX_TEXT);
    if error.downcast_ref::<Trap>().is_some() {
        return Failure::new(Code::PluginTrapped, text);
    }
    if error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>().is_some() {
        return Failure::new(Code::HostError, text);
    }
    let chain = format!("{error:#}");
    if chain.contains("fuel allocated for hostcalls") || chain.contains("store handle limit exceeded") {
        return Failure::new(Code::HostcallLimit, text);
    }
    // What is left is the guest breaking the component model's rules (a bad pointer, an unknown
    // handle, invalid UTF-8), `exit`, or WASI misuse.
    Failure::new(Code::PluginTrapped, text)
}
