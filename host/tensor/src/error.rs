//! The one error of this crate: which operation refused, why, and what would fit.

/// What kind of refusal an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Types, shapes, options or handles do not fit the operation (WebNN: TypeError).
    InvalidArgument,
    /// Valid in WebNN, but not to be had in this version.
    Unsupported,
    /// The job's budget, or a limit of the session, would be exceeded. Nothing was allocated.
    OutOfMemory,
    /// The device is full of what others hold: there may be room in a moment. Becomes `OutOfMemory`
    /// where that was waited for.
    DeviceFull,
    /// The job was cancelled while its graph ran.
    Cancelled,
    /// The device failed.
    Device,
    /// The device was lost while it held what the job had computed. The next use makes a new one,
    /// so the job may be run again from its start; constants and assets are uploaded again.
    DeviceLost,
}

/// An operation's refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {message}")]
pub struct Error {
    /// What kind of refusal.
    pub kind: ErrorKind,
    /// The operation by its WIT name, e.g. `conv2d`.
    pub operation: &'static str,
    /// What did not fit, with the types and shapes involved.
    pub message: String,
}

impl Error {
    /// An [`ErrorKind::InvalidArgument`].
    #[cold]
    pub fn invalid(operation: &'static str, message: impl Into<String>) -> Error {
        Error { kind: ErrorKind::InvalidArgument, operation, message: message.into() }
    }

    /// An [`ErrorKind::DeviceFull`].
    #[cold]
    pub(crate) fn full(operation: &'static str, message: impl Into<String>) -> Error {
        Error { kind: ErrorKind::DeviceFull, operation, message: message.into() }
    }

    /// The same where nobody waits for room any more.
    pub(crate) fn settled(self) -> Error {
        match self.kind {
            ErrorKind::DeviceFull => Error { kind: ErrorKind::OutOfMemory, ..self },
            _ => self,
        }
    }

    /// An [`ErrorKind::OutOfMemory`].
    #[cold]
    pub fn out_of_memory(operation: &'static str, message: impl Into<String>) -> Error {
        Error { kind: ErrorKind::OutOfMemory, operation, message: message.into() }
    }

    /// An [`ErrorKind::Cancelled`].
    #[cold]
    pub fn cancelled(operation: &'static str) -> Error {
        Error {
            kind: ErrorKind::Cancelled,
            operation,
            message: "the job was cancelled while its graph ran".into(),
        }
    }

    /// An [`ErrorKind::Device`].
    #[cold]
    pub fn device(operation: &'static str, message: impl Into<String>) -> Error {
        Error { kind: ErrorKind::Device, operation, message: message.into() }
    }

    /// An [`ErrorKind::DeviceLost`].
    #[cold]
    pub fn device_lost(operation: &'static str, message: impl Into<String>) -> Error {
        Error { kind: ErrorKind::DeviceLost, operation, message: message.into() }
    }
}
