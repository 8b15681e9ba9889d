//! What a service manager and a terminal have to say to a running host, and what it tells them:
//! signals, readiness and the watchdog.

use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use warren::health::Health;
use warren::host::Deployer;

use super::Settings;

/// SIGTERM and Ctrl-C.
pub struct Stops {
    terminate: Signal,
    interrupt: Signal,
}

impl Stops {
    /// From now on these signals end nothing by themselves.
    pub fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Takes the config anew at each SIGHUP, as far as a running host can.
pub async fn reload(settings: Settings, deployer: Deployer) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else {
        tracing::warn!("cannot listen for SIGHUP: the config is read at the start only");
        return;
    };
    while hangups.recv().await.is_some() {
        let done = match settings.load() {
            Ok(config) => Ok(deployer.reload(&config).await),
            Err(error) => Err(error),
        };
        match done {
            Ok(Ok(())) => {
                tracing::info!(
                    "SIGHUP: `versions` and `plugins_from` of the config are in force; the rest needs a restart"
                );
            }
            Ok(Err(error)) => tracing::warn!(%error, "SIGHUP"),
            Err(error) => tracing::error!(%error, "SIGHUP: the config is wrong and was not taken over"),
        }
    }
}

/// Tells the service manager, if there is one (`NOTIFY_SOCKET`).
pub fn notify(states: &[NotifyState<'_>]) {
    if std::env::var_os("NOTIFY_SOCKET").is_none_or(|address| address.is_empty()) {
        return;
    }
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager (NOTIFY_SOCKET)");
    }
}

/// The host stops, and may take this long.
pub fn stopping(within: Duration) {
    let us = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("draining: running jobs may finish"),
        NotifyState::ExtendTimeoutUsec(us),
    ]);
}

/// Feeds the service manager's watchdog, if it has one (`WATCHDOG_USEC`), twice in its interval, for
/// as long as the host's threads take tasks.
pub async fn watchdog(health: Health) {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(interval / 2);
    loop {
        ticks.tick().await;
        match health.not_alive().await {
            None => notify(&[NotifyState::Watchdog]),
            Some(reason) => tracing::error!(reason, "not alive: the watchdog is not fed"),
        }
    }
}
