//! A guest's log lines, stdout and stderr: bounded, stripped of control characters, and sent to
//! the host's log with plugin and job.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::bindings::warren::plugin::log::{Host, Level};
use super::state::State;

/// The longest line kept; the rest of it is cut.
const MAX_LINE: usize = 4096;

#[derive(Debug)]
struct Inner {
    plugin: Arc<str>,
    jobs: String,
    left: u64,
    dropped: u64,
    partial: Vec<u8>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.partial.is_empty() {
            let rest = std::mem::take(&mut self.partial);
            self.line(tracing::Level::INFO, "stdio", &String::from_utf8_lossy(&rest));
        }
        if self.dropped > 0 {
            tracing::warn!(target: "guest", plugin = %self.plugin, job = %self.jobs, bytes = self.dropped,
                "log limit reached: the rest was dropped");
        }
    }
}

impl Inner {
    fn line(&mut self, level: tracing::Level, context: &str, message: &str) {
        let Some(left) = self.left.checked_sub((message.len() + context.len() + 1) as u64) else {
            self.dropped += message.len() as u64;
            return;
        };
        self.left = left;
        let (context, message) = (clean(context, 64).replace('\n', " "), clean(message, MAX_LINE));
        // Line by line: a guest must not write lines that look like someone else's.
        for message in message.lines() {
            self.emit(level, &context, message);
        }
    }

    fn emit(&self, level: tracing::Level, context: &str, message: &str) {
        let (plugin, job) = (&self.plugin, &self.jobs);
        match level {
            tracing::Level::ERROR => tracing::error!(target: "guest", %plugin, %job, %context, "{message}"),
            tracing::Level::WARN => tracing::warn!(target: "guest", %plugin, %job, %context, "{message}"),
            tracing::Level::INFO => tracing::info!(target: "guest", %plugin, %job, %context, "{message}"),
            _ => tracing::debug!(target: "guest", %plugin, %job, %context, "{message}"),
        }
    }
}

/// The first `most` bytes of a guest's text, with control characters (terminal escapes among
/// them) made visible.
pub fn clean(text: &str, most: usize) -> String {
    let mut out = String::with_capacity(text.len().min(most));
    for c in text.chars() {
        if out.len() + c.len_utf8() > most {
            break;
        }
        out.push(if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c });
    }
    out
}

/// The log of one store. Clones write to the same.
#[derive(Debug, Clone)]
pub struct GuestLog(Arc<Mutex<Inner>>);

impl GuestLog {
    /// At most `limit` bytes, marked with plugin and jobs.
    pub fn new(plugin: Arc<str>, jobs: String, limit: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner { plugin, jobs, left: limit, dropped: 0, partial: Vec::new() })))
    }

    fn line(&self, level: tracing::Level, context: &str, message: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).line(level, context, message);
    }

    fn write_bytes(&self, bytes: &[u8]) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            if inner.partial.len() < MAX_LINE {
                inner.partial.extend_from_slice(piece.strip_suffix(b"\n").unwrap_or(piece));
            }
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut inner.partial);
                inner.line(tracing::Level::INFO, "stdio", &String::from_utf8_lossy(&line));
            }
        }
    }
}

impl Host for State {
    fn log(&mut self, level: Level, context: String, message: String) -> wasmtime::Result<()> {
        let level = match level {
            Level::Trace => tracing::Level::TRACE,
            Level::Debug => tracing::Level::DEBUG,
            Level::Info => tracing::Level::INFO,
            Level::Warn => tracing::Level::WARN,
            Level::Error | Level::Critical => tracing::Level::ERROR,
        };
        self.log.line(level, &context, &message);
        Ok(())
    }
}

impl IsTerminal for GuestLog {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestLog {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl tokio::io::AsyncWrite for GuestLog {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        self.write_bytes(bytes);
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for GuestLog {
    async fn ready(&mut self) {}
}

impl OutputStream for GuestLog {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.write_bytes(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 * 1024)
    }
}
