//! The host's log, kept in memory: for tests of what is logged, and to be shown when a test fails.

use std::io::Write;
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::EnvFilter;

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static INSTALLED: OnceLock<()> = OnceLock::new();

struct Sink;

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LINES.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Keeps the log of this process from now on.
pub fn keep() {
    INSTALLED.get_or_init(|| {
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new("warn,warren=info,guest=trace"))
            .with_ansi(false)
            .with_writer(|| Sink);
        // Another subscriber is as good for everything but the tests of the log itself.
        drop(subscriber.try_init());
    });
}

/// Every line that holds `text`.
pub fn lines(text: &str) -> Vec<String> {
    let bytes = LINES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let log = String::from_utf8_lossy(&bytes).into_owned();
    log.lines().filter(|l| l.contains(text)).map(str::to_owned).collect()
}

/// The last `count` lines.
pub fn tail(count: usize) -> String {
    let lines = lines("");
    lines[lines.len().saturating_sub(count)..].join("\n")
}
