//! Counts calls by name and how they ended.

use std::collections::BTreeMap;
use std::fmt::Write;

use warren_sdk::bindings::warren::plugin::{assets, tensors};
use wasip2::filesystem::types::ErrorCode as FileError;
use wasip2::io::streams::StreamError;
use wasip2::sockets::network::ErrorCode as SocketError;

/// An error, by a name without its details.
pub trait Ended {
    fn ended(self) -> String;
}

impl Ended for tensors::Error {
    fn ended(self) -> String {
        match self.kind {
            tensors::ErrorKind::InvalidArgument => "invalid-argument",
            tensors::ErrorKind::Unsupported => "unsupported",
            tensors::ErrorKind::OutOfMemory => "out-of-memory",
            tensors::ErrorKind::Cancelled => "cancelled",
            // A finding: said with all that is known of it.
            tensors::ErrorKind::Device => {
                return format!("device:{}:{}", self.operation, self.message.replace(' ', "_"));
            }
        }
        .to_owned()
    }
}

impl Ended for assets::Error {
    fn ended(self) -> String {
        match self {
            assets::Error::ReadOnly => "read-only",
            assets::Error::InvalidName(_) => "invalid-name",
            assets::Error::Limit(_) => "limit",
            assets::Error::Tensor(_) => "tensor",
        }
        .to_owned()
    }
}

impl Ended for FileError {
    fn ended(self) -> String {
        self.name().to_owned()
    }
}

impl Ended for SocketError {
    fn ended(self) -> String {
        self.name().to_owned()
    }
}

impl Ended for StreamError {
    fn ended(self) -> String {
        match self {
            StreamError::Closed => "closed".to_owned(),
            StreamError::LastOperationFailed(error) => {
                error.to_debug_string();
                let code = wasip2::filesystem::types::filesystem_error_code(&error);
                code.map_or_else(|| "failed".to_owned(), |code| format!("failed:{}", code.name()))
            }
        }
    }
}

#[derive(Default)]
pub struct Tally {
    counts: BTreeMap<(&'static str, String), u64>,
    /// Calls so far.
    pub calls: u64,
}

impl Tally {
    /// A call that cannot fail.
    pub fn done(&mut self, call: &'static str) {
        self.count(call, "ok".to_owned());
    }

    /// The answer of a call, counted.
    pub fn answer<T, E: Ended>(&mut self, call: &'static str, answer: Result<T, E>) -> Option<T> {
        match answer {
            Ok(value) => {
                self.done(call);
                Some(value)
            }
            Err(error) => {
                self.count(call, error.ended());
                None
            }
        }
    }

    pub fn count(&mut self, call: &'static str, ended: String) {
        *self.counts.entry((call, ended)).or_default() += 1;
        self.calls += 1;
    }

    /// A line for each call and end, `call end count`, and begins anew.
    pub fn take(&mut self) -> String {
        let mut text = String::new();
        for ((call, ended), count) in std::mem::take(&mut self.counts) {
            let _ = writeln!(text, "{call} {ended} {count}");
        }
        text
    }
}
