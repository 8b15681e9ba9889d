//! Whether the host is alive and whether it is ready, for those who ask: `/livez` and `/readyz` over
//! HTTP, and the service manager's watchdog. Beside them `/metrics`.
//!
//! Alive means that the threads that run guests, relay events and settle jobs still take tasks: a
//! host that is not is to be killed. It does not depend on the broker, for killing a host does not
//! bring that back. Ready means that jobs which arrive now are worked on.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::RawQuery;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use crate::broker::Broker;
use crate::metrics;
use crate::plugin::Plugins;

/// How long a task may take to run on the host's threads before they count as stuck.
pub const PULSE: Duration = Duration::from_secs(2);

/// How far the host is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Connecting, loading plugins.
    Starting,
    /// Consuming.
    Serving,
    /// Finishing what it has, taking nothing more.
    Draining,
}

/// What the probes look at.
pub struct Parts {
    /// Where the host's tasks run.
    pub threads: Handle,
    /// The host's connection.
    pub broker: Arc<dyn Broker>,
    /// The plugins in service.
    pub plugins: Arc<Plugins>,
}

#[derive(Default)]
struct State {
    phase: AtomicU8,
    parts: OnceLock<Parts>,
}

/// The health of one host. Clones are of the same one.
#[derive(Clone, Default)]
pub struct Health(Arc<State>);

impl Health {
    /// Lets the probes look at the host. Only the first call counts: a process has one host.
    pub fn watch(&self, parts: Parts) {
        self.0.parts.get_or_init(|| parts);
    }

    /// The host is this far.
    pub fn enter(&self, phase: Phase) {
        self.0.phase.store(phase as u8, Ordering::Release);
    }

    /// Why the host is not alive; nothing if it is. A host that is still starting is.
    pub async fn not_alive(&self) -> Option<String> {
        let parts = self.0.parts.get()?;
        let pulse = tokio::time::timeout(PULSE, parts.threads.spawn(async {})).await;
        // Threads that were ended on purpose cancel the task: that is the end of a drain.
        pulse.is_err().then(|| format!("the host's threads have run no task for {PULSE:?}"))
    }

    /// Why the host is not ready, every reason; none if it is.
    pub fn not_ready(&self) -> Vec<&'static str> {
        let mut reasons = Vec::new();
        let phase = self.0.phase.load(Ordering::Acquire);
        if phase == Phase::Starting as u8 {
            reasons.push("starting: nothing is consumed yet");
        }
        if phase == Phase::Draining as u8 {
            reasons.push("draining: no more jobs are taken");
        }
        match self.0.parts.get() {
            None => reasons.push("broker: not connected yet"),
            Some(parts) => {
                if !parts.broker.is_connected() {
                    reasons.push("broker: the connection is lost; connecting again");
                }
                if parts.plugins.is_empty() {
                    reasons.push("plugins: none is loaded");
                }
            }
        }
        reasons
    }

    /// The plugins, one a line: those in service with their digests, and the folders that are refused
    /// with the reason.
    fn plugins(&self) -> String {
        let Some(parts) = self.0.parts.get() else { return String::new() };
        let served = parts.plugins.list().into_iter().map(|listed| {
            let (identity, standing) = (&listed.plugin.identity, listed.standing.name());
            format!("plugin {}: {standing} {}\n", identity.plugin, identity.digest)
        });
        let refused = parts
            .plugins
            .refused()
            .into_iter()
            .map(|refused| format!("refused {}: {}\n", refused.folder.display(), refused.reason));
        served.chain(refused).collect()
    }
}

/// Answers probes for as long as it is polled: 200 and `ok`, or 503 and the reasons, one a line. With
/// `/readyz?verbose` the plugins follow. What is refused does not make the host unready: what served
/// before still does.
///
/// # Errors
/// Those of the listener.
pub async fn serve(listener: TcpListener, health: Health) -> std::io::Result<()> {
    let (alive, ready, counted) = (health.clone(), health.clone(), health);
    let router = Router::new()
        .route("/livez", get(async move || answer(alive.not_alive().await.as_slice())))
        .route(
            "/readyz",
            get(async move |RawQuery(query): RawQuery| {
                let (status, mut text) = answer(&ready.not_ready());
                if query.is_some_and(|q| q.split('&').any(|part| part == "verbose" || part == "verbose=true"))
                {
                    text.push_str(&ready.plugins());
                }
                (status, text)
            }),
        )
        .route("/metrics", get(async move || measured(&counted)));
    axum::serve(listener, router).await
}

fn measured(health: &Health) -> Response {
    let Some(parts) = health.0.parts.get() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting: nothing to measure yet\n").into_response();
    };
    match metrics::text(&parts.plugins) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn answer<T: AsRef<str>>(reasons: &[T]) -> (StatusCode, String) {
    if reasons.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let lines = reasons.iter().map(|reason| format!("{}\n", reason.as_ref())).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::broker::embedded::Embedded;

    async fn get(address: std::net::SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn probes_tell_the_phase_and_stuck_threads() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let health = Health::default();
        tokio::spawn(serve(listener, health.clone()));
        assert_eq!(get(address, "/livez").await, (200, "ok\n".to_owned()));
        let (code, body) = get(address, "/readyz").await;
        assert!(code == 503 && body.contains("starting") && body.contains("not connected"), "{code} {body}");
        assert_eq!(get(address, "/elsewhere").await.0, 404);

        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let broker = Arc::new(Embedded::new());
        let plugins = Arc::new(Plugins::default());
        plugins.refuse("p/bad".as_ref(), "p/bad/plugin.toml: no name".into());
        health.watch(Parts { threads: threads.handle().clone(), broker, plugins });
        health.enter(Phase::Serving);
        let expected = (503, "plugins: none is loaded\n".to_owned());
        assert_eq!(get(address, "/readyz").await, expected);
        let (code, body) = get(address, "/readyz?verbose").await;
        assert_eq!((code, &*body), (503, &*(expected.1 + "refused p/bad: p/bad/plugin.toml: no name\n")));
        let (code, body) = get(address, "/metrics").await;
        assert_eq!(code, 200, "{body}");
        for line in [
            "warren_plugin_loads_total{outcome=\"refused\"} 1",
            "warren_plugin_loads_total{outcome=\"loaded\"} 0",
            "warren_plugins{state=\"refused\"} 1",
        ] {
            assert!(body.lines().any(|l| l == line), "{line} in {body}");
        }
        assert!(body.ends_with("# EOF\n"), "{body}");
        assert_eq!(get(address, "/livez").await, (200, "ok\n".to_owned()));
        health.enter(Phase::Draining);
        assert!(get(address, "/readyz").await.1.contains("draining"));

        // Its only thread does something that never yields.
        let (release, held) = std::sync::mpsc::channel::<()>();
        threads.spawn(async move { held.recv() });
        let (code, body) = get(address, "/livez").await;
        assert!(code == 503 && body.contains("threads"), "{code} {body}");
        release.send(()).unwrap();
        threads.shutdown_background();
    }
}
