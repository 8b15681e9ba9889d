//! A faulty network between a host and its broker: a TCP proxy that delays, drops, goes half-open,
//! cuts at a byte, cuts now or refuses. It reads AMQP 0-9-1 frames as they pass, so that a test can
//! act at the very moment at which a result, its confirm or an acknowledgement is on the wire.

mod frames;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use self::frames::{Reader, Traffic};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the host to the broker.
    Up,
    /// From the broker to the host.
    Down,
}

/// What a message is, by its properties.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Label {
    /// `type`: `status`, `result` …; a job has none.
    pub kind: Option<String>,
    /// `correlation_id`: the job.
    pub job: Option<String>,
    /// `message_id`.
    pub message: Option<String>,
}

/// What is about to be forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moment {
    /// The host publishes.
    Published(Label),
    /// The broker confirms publishes.
    Confirmed(Vec<Label>),
    /// The broker delivers.
    Delivered(Label),
    /// The host acknowledges deliveries.
    Acked(Vec<Label>),
}

/// What is to be done about it.
pub enum Act {
    /// Forward it.
    Pass,
    /// Withhold it, and cut the connection.
    Cut,
    /// Forward it, then do this.
    PassThen(Box<dyn FnOnce() + Send>),
}

type Watch = Box<dyn FnMut(&Moment) -> Act + Send>;

/// What holds for connections. Those that are older than one of the numbers are affected.
#[derive(Debug, Clone, Default)]
struct Rules {
    delay: Duration,
    refuse: bool,
    cut_before: u64,
    mute_up_before: u64,
    mute_down_before: u64,
}

struct Shared {
    broker: SocketAddr,
    rules: watch::Sender<Rules>,
    watch: Mutex<Option<Watch>>,
    /// Bytes until the cut, and which way they go.
    fuse: Mutex<Option<(Direction, u64)>>,
    connections: AtomicU64,
    cuts: AtomicU64,
}

/// A proxy in front of a broker's port. Dropping it cuts everything.
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    acceptor: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

impl Proxy {
    /// Listens on a port of its own.
    pub async fn start(broker_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            broker: SocketAddr::from(([127, 0, 0, 1], broker_port)),
            rules: watch::Sender::new(Rules::default()),
            watch: Mutex::default(),
            fuse: Mutex::default(),
            connections: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
        });
        let acceptor = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { shared, port, acceptor }
    }

    /// A broker's address as it is reached through this proxy.
    pub fn address(&self, direct: &str) -> String {
        let from = format!(":{}/", self.shared.broker.port());
        assert!(direct.contains(&from), "{direct} is not the address of this proxy's broker");
        direct.replace(&from, &format!(":{}/", self.port))
    }

    /// Every chunk of bytes is held this long, either way.
    pub fn delay(&self, delay: Duration) {
        self.shared.rules.send_modify(|rules| rules.delay = delay);
    }

    /// New connections are closed at once, until told otherwise.
    pub fn refuse(&self, refuse: bool) {
        self.shared.rules.send_modify(|rules| rules.refuse = refuse);
    }

    /// Cuts every connection that there is.
    pub fn cut(&self) {
        let next = self.connections();
        self.shared.rules.send_modify(|rules| rules.cut_before = next);
    }

    /// From now on what goes this way on the connections that there are vanishes. They stay open.
    pub fn mute(&self, direction: Direction) {
        let next = self.connections();
        self.shared.rules.send_modify(|rules| match direction {
            Direction::Up => rules.mute_up_before = next,
            Direction::Down => rules.mute_down_before = next,
        });
    }

    /// Cuts whichever connection carries the `bytes`-th byte from now that way, right after it.
    pub fn cut_at(&self, direction: Direction, bytes: u64) {
        *self.shared.fuse.lock().unwrap_or_else(PoisonError::into_inner) = Some((direction, bytes));
    }

    /// Calls `watch` before each moment is forwarded, from now on.
    pub fn watch(&self, watch: impl FnMut(&Moment) -> Act + Send + 'static) {
        *self.shared.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(watch));
    }

    /// Connections that were made so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Connections that this proxy has cut so far.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok((host, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        if shared.rules.borrow().refuse {
            continue;
        }
        let number = shared.connections.fetch_add(1, Ordering::Relaxed);
        connections.spawn(serve(host, number, Arc::clone(&shared)));
    }
}

/// One connection, until either side or a fault ends it.
async fn serve(host: TcpStream, number: u64, shared: Arc<Shared>) {
    let Ok(broker) = TcpStream::connect(shared.broker).await else { return };
    // Small frames must not wait for each other.
    let _ = (host.set_nodelay(true), broker.set_nodelay(true));
    let ((from_host, to_host), (from_broker, to_broker)) = (host.into_split(), broker.into_split());
    let traffic = Arc::new(Mutex::new(Traffic::default()));
    let pump =
        |direction| Pump { direction, number, shared: Arc::clone(&shared), traffic: Arc::clone(&traffic) };
    let mut rules = shared.rules.subscribe();
    let cut = tokio::select! {
        cut = pump(Direction::Up).run(from_host, to_broker) => cut,
        cut = pump(Direction::Down).run(from_broker, to_host) => cut,
        _ = rules.wait_for(|rules| number < rules.cut_before) => true,
    };
    shared.cuts.fetch_add(u64::from(cut), Ordering::Relaxed);
}

/// One way of one connection.
struct Pump {
    direction: Direction,
    number: u64,
    shared: Arc<Shared>,
    traffic: Arc<Mutex<Traffic>>,
}

impl Pump {
    /// Forwards; true when a fault of ours ends it.
    async fn run(self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> bool {
        let mut reader = Reader::new(self.direction);
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let length = match from.read(&mut chunk).await {
                Ok(0) | Err(_) => return false,
                Ok(length) => length,
            };
            let rules = self.shared.rules.borrow().clone();
            let muted_before = match self.direction {
                Direction::Up => rules.mute_up_before,
                Direction::Down => rules.mute_down_before,
            };
            if self.number < muted_before {
                continue;
            }
            if !rules.delay.is_zero() {
                tokio::time::sleep(rules.delay).await;
            }
            reader.push(&chunk[..length]);
            loop {
                let next = {
                    let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
                    reader.next(&mut traffic)
                };
                let Some((bytes, moment)) = next else { break };
                let act =
                    match (moment, &mut *self.shared.watch.lock().unwrap_or_else(PoisonError::into_inner)) {
                        (Some(moment), Some(watch)) => watch(&moment),
                        _ => Act::Pass,
                    };
                let (allowed, blown) = self.burn(bytes.len());
                if matches!(act, Act::Cut) || to.write_all(&bytes[..allowed]).await.is_err() || blown {
                    return true;
                }
                if let Act::PassThen(then) = act {
                    then();
                }
            }
        }
    }

    /// How many of `length` bytes may pass, and whether the connection is cut after them.
    fn burn(&self, length: usize) -> (usize, bool) {
        let mut fuse = self.shared.fuse.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *fuse {
            Some((direction, left)) if *direction == self.direction => {
                if let Some(rest) = left.checked_sub(length as u64) {
                    *left = rest;
                    return (length, false);
                }
                let allowed = usize::try_from(*left).unwrap_or(length);
                *fuse = None;
                (allowed, true)
            }
            _ => (length, false),
        }
    }
}
