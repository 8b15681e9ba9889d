//! How a call ended: what unwound the guest, as one of the codes.

use wasmtime::Trap;
use wasmtime::component::ResourceTableError;

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
    state.limiter.denied.clone().or(device).or_else(|| state.place.denied())
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
    // The cause first: with a backtrace around it, it comes last.
    let text = clean(&format!("{}\n{error:?}", error.root_cause()), MAX_TEXT);
    // What says itself which limit it was comes before limits that the guest was told of and lived with.
    if let Some((code, said)) = limit_of(state, error, &text) {
        return Failure::new(code, clean(&said, MAX_TEXT));
    }
    if let Some((code, denied)) = limit_hit(state) {
        return Failure::new(code, denied);
    }
    if error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>().is_some() {
        return Failure::new(Code::HostError, text);
    }
    // What is left is the guest breaking the component model's rules (a bad pointer, an unknown
    // handle, invalid UTF-8), `exit`, or WASI misuse.
    Failure::new(Code::PluginTrapped, text)
}

/// The limit that an error says was hit.
fn limit_of(state: &State, error: &wasmtime::Error, text: &str) -> Option<(Code, String)> {
    let limits = &state.limits;
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => {
            return Some((Code::StackLimit, format!("stack_kib is {}: {text}", state.stack_kib)));
        }
        Some(Trap::OutOfFuel) => {
            let said = format!("stopped after {} instructions: limits.fuel is {0}", limits.fuel);
            return Some((Code::FuelLimit, said));
        }
        Some(_) => return None,
        None => {}
    }
    let chain = format!("{error:#}");
    if chain.contains("fuel allocated for hostcalls") {
        let most = super::hostcall_bytes(limits);
        let said = format!(
            "more than {most} bytes passed in one call: limits.hostcall_mib is {}, limits.memory_mib is {}: {text}",
            limits.hostcall_mib, limits.memory_mib
        );
        return Some((Code::HostcallLimit, said));
    }
    let full = matches!(error.downcast_ref::<ResourceTableError>(), Some(ResourceTableError::Full));
    if full || chain.contains("store handle limit exceeded") {
        let most = limits.handles;
        return Some((
            Code::HandleLimit,
            format!("more than {most} handles held: limits.handles is {most}: {text}"),
        ));
    }
    None
}
