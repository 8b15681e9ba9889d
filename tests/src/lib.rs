//! What the end-to-end tests share: a whole house in one process (host, embedded broker, client),
//! ways to look into its queues, and a broker that misbehaves on request. Whatever waits has a
//! deadline and says what it waited for.

pub mod abuse;
pub mod cluster;
pub mod house;
pub mod inbox;
pub mod logs;
pub mod oracle;
pub mod plugins;
pub mod process;
pub mod proxy;
pub mod rabbitmq;
pub mod registry;
pub mod scene;
pub mod table;
pub mod wasm;
pub mod watched;

use std::time::Duration;

pub use house::{House, Seen};
pub use inbox::{Inbox, body, job};
pub use plugins::{guest, hostile, patient, variant};
pub use watched::{Fate, Happening, Watched};

/// Longer than anything takes that works; tests of things that must be fast measure them.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long is waited between two looks.
pub const GLANCE: Duration = Duration::from_millis(5);

/// The future's value. Panics after [`PATIENCE`], naming `what` was waited for and the host's last
/// log lines.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} for {what}; the log ends with:\n{}", logs::tail(30)),
    }
}
