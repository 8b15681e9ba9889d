//! Lines for the host's log; job, attempt and plugin are added there.

pub use crate::bindings::warren::plugin::log::Level;

/// Logs one line; `context` groups lines, a module's name for instance.
pub fn log(level: Level, context: &str, message: &str) {
    crate::bindings::warren::plugin::log::log(level, context, message);
}

/// Logs at level info, without a context.
pub fn info(message: &str) {
    log(Level::Info, "", message);
}

/// Logs at level warn, without a context.
pub fn warn(message: &str) {
    log(Level::Warn, "", message);
}
