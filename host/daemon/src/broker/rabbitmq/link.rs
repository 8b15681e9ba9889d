//! One supervised connection: it connects, notices the end, and connects again, for ever. What was
//! built on a connection goes with it; nothing is carried over to the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_rs::Runtime;
use futures_core::Stream;
use lapin::types::LongString;
use lapin::uri::AMQPUri;
use lapin::{AsyncTcpStream, Channel, Connection, ConnectionProperties, ConnectionState, ErrorKind, Event};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

use super::stream::{Cord, Guarded, Kit};

/// First and longest pause between attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A connection that lasted this long was a good one: pauses start anew.
const SETTLED: Duration = Duration::from_secs(5);
/// Channels that may fail in a row with the errors of their predecessors.
const SPOILT: u32 = 64;
/// How often the state is looked at, beside being told.
const LOOK: Duration = Duration::from_millis(500);

/// What connecting needs.
pub(super) struct Target {
    /// In the order in which they are tried.
    pub addresses: Vec<AMQPUri>,
    /// As operators see it among the broker's connections.
    pub name: String,
    pub tls: Arc<ClientConfig>,
    /// For one address, handshake included.
    pub timeout: Duration,
    pub handle: Handle,
}

/// A connection.
pub(super) struct Live {
    pub connection: Connection,
    /// Cancelled when it is over.
    pub lost: CancellationToken,
    cord: Arc<Cord>,
}

impl Live {
    /// The server's version.
    pub fn version(&self) -> Option<&str> {
        self.cord.version()
    }

    /// A new channel.
    ///
    /// lapin 4.12 numbers channels in a circle and remembers the error of each that the broker
    /// closed: the next of that number fails with it. So another number is tried, and when many in a
    /// row are spoilt, or none is left, the connection is given up for a fresh one.
    pub async fn channel(&self) -> lapin::Result<Channel> {
        let mut tries = 0;
        loop {
            let error = match self.connection.create_channel().await {
                Ok(channel) => return Ok(channel),
                Err(error) => error,
            };
            let spent = matches!(error.kind(), ErrorKind::ChannelsLimitReached);
            tries += 1;
            if spent || tries == SPOILT {
                tracing::warn!(%error, "no channel can be opened: the connection is given up");
                self.give_up();
            }
            // The broker refuses no channel.open: a refusal is an old one.
            if spent || tries == SPOILT || !error.is_amqp_soft_error() {
                return Err(ErrorKind::InvalidConnectionState(ConnectionState::Error).into());
            }
        }
    }

    /// Ends it.
    pub fn give_up(&self) {
        self.lost.cancel();
        self.cord.cut();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// The current connection of one kind, if there is one.
pub(super) struct Link {
    pub live: watch::Sender<Option<Arc<Live>>>,
    /// Times that it was connected.
    pub connects: AtomicU64,
}

impl Link {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { live: watch::Sender::new(None), connects: AtomicU64::new(0) })
    }

    /// The connection, waiting for it until `deadline`.
    pub async fn up(&self, deadline: Instant) -> Option<Arc<Live>> {
        let mut watch = self.live.subscribe();
        let live = timeout_at(deadline, watch.wait_for(Option::is_some)).await.ok()?.ok()?;
        live.clone()
    }
}

/// Keeps `link` connected until `stop`. `first` hears of every failure until the first success.
pub(super) async fn supervise(
    link: Arc<Link>,
    target: Arc<Target>,
    stop: CancellationToken,
    first: watch::Sender<Option<Arc<Failure>>>,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let attempt = tokio::select! {
            () = stop.cancelled() => return,
            attempt = connect(&target) => attempt,
        };
        match attempt {
            Ok(live) => {
                let (live, since) = (Arc::new(live), Instant::now());
                link.connects.fetch_add(1, Ordering::Relaxed);
                tracing::info!(connection = target.name, version = live.version(), "connected to the broker");
                link.live.send_replace(Some(Arc::clone(&live)));
                tokio::select! {
                    () = stop.cancelled() => {}
                    // Ended by ourselves is not lost.
                    reason = over(&live.connection) => if !stop.is_cancelled() {
                        tracing::warn!(connection = target.name, reason, "lost the connection to the broker");
                    }
                }
                link.live.send_replace(None);
                live.give_up();
                if stop.is_cancelled() {
                    return;
                }
                if since.elapsed() > SETTLED {
                    pause = FIRST_PAUSE;
                }
            }
            Err(failure) => {
                tracing::warn!(connection = target.name, %failure, "cannot connect to the broker; trying again");
                first.send_replace(Some(Arc::new(failure)));
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(jitter(pause)) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Half of the pause to all of it, so that hosts which lost the same broker do not return as one.
pub(super) fn jitter(pause: Duration) -> Duration {
    // A v4 uuid is the source of randomness at hand.
    let fraction = (uuid::Uuid::new_v4().as_u128() & 0xffff) as u32;
    pause / 2 + pause * fraction / (2 * 0xffff)
}

/// Waits until the connection is over; answers why.
async fn over(connection: &Connection) -> String {
    let mut events = std::pin::pin!(connection.events_listener());
    loop {
        let event = timeout(LOOK, std::future::poll_fn(|cx| Stream::poll_next(events.as_mut(), cx))).await;
        match event {
            Ok(Some(Event::ConnectionBlocked(reason))) => {
                tracing::warn!(
                    reason,
                    "the broker blocks publishing: an alarm; results wait until it is over"
                );
            }
            Ok(Some(Event::ConnectionUnblocked)) => tracing::info!("the broker takes messages again"),
            Ok(Some(Event::Error(error))) if !connection.status().connected() => return error.to_string(),
            // An error of one channel, told here as well.
            Ok(Some(_)) | Err(_) => {}
            Ok(None) => return "its events ended".to_owned(),
        }
        if !connection.status().connected() {
            return format!("its state is {:?}", connection.status());
        }
    }
}

/// Why no address could be connected to.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.reasons.join("; "))]
pub(super) struct Failure {
    /// One an address.
    pub reasons: Vec<String>,
    /// The broker answered and refused every time: waiting does not help.
    pub refused: bool,
}

/// Tries the addresses in order.
async fn connect(target: &Target) -> Result<Live, Failure> {
    let mut failure = Failure { reasons: Vec::new(), refused: true };
    for uri in &target.addresses {
        let place = format!("{}:{} vhost {:?}", uri.authority.host, uri.authority.port, uri.vhost);
        let cord = Arc::new(Cord::default());
        match timeout(target.timeout, open(target, uri.clone(), Arc::clone(&cord))).await {
            Ok(Ok(connection)) => return Ok(Live { connection, lost: CancellationToken::new(), cord }),
            Ok(Err(error)) => {
                failure.refused &= matches!(error.kind(), ErrorKind::ProtocolError(_));
                failure.reasons.push(format!("{place}: {error}"));
            }
            Err(_) => {
                failure.refused = false;
                failure.reasons.push(format!("{place}: no answer within {:?}", target.timeout));
            }
        }
        // Ends lapin's thread for this attempt, whatever it waits for.
        cord.cut();
    }
    Err(failure)
}

async fn open(target: &Target, uri: AMQPUri, cord: Arc<Cord>) -> lapin::Result<Connection> {
    let properties = ConnectionProperties::default()
        .with_connection_name(LongString::from(target.name.as_bytes()))
        .with_client_property("product".into(), LongString::from("warren"))
        .with_client_property("version".into(), LongString::from(env!("CARGO_PKG_VERSION")));
    let kit = Kit(async_rs::Tokio::default().with_handle(target.handle.clone()));
    let (tls, limit) = (Arc::clone(&target.tls), target.timeout);
    let connect = async move |uri: AMQPUri, _: Runtime<Kit>| {
        let socket = timeout(limit, super::tls::connect(&uri, &tls)).await;
        let socket = socket.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        Ok(AsyncTcpStream::Plain(Guarded::new(socket, Arc::clone(&cord))))
    };
    Connection::connector(uri, Runtime::new(kit), connect, properties).await
}
