//! Publishing with confirms. Messages are written in the order of the calls; each gets the fate of
//! its own, however many are on their way.
//!
//! A lane is a channel. Exchanges that this host declared, and the default exchange, share the
//! first. An exchange that only a client's reply address names may not exist, and RabbitMQ answers
//! that by closing the channel: such go to lanes of their own, chosen by name, so that one bad
//! address takes no other job's results with it, and one job's events still keep their order.

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use lapin::Channel;
use lapin::options::ConfirmSelectOptions;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::confirms::{Confirms, Ready, Sent};
use super::link::{Link, Live};
use crate::broker::{BrokerError, Confirmation};

/// Lanes for exchanges that are not this host's.
const FOREIGN: usize = 15;
/// How often deadlines are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How long is waited.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// For a channel to open.
    pub operation: Duration,
    /// For a confirm, while the broker takes messages.
    pub confirm: Duration,
    /// For a confirm in all, alarms included.
    pub blocked: Duration,
}

/// All lanes of a broker connection.
pub(super) struct Publisher {
    lanes: Vec<Lane>,
    /// Exchanges that this host declared.
    own: RwLock<HashSet<String>>,
    /// The longest body that the broker takes, once it has refused one.
    longest: AtomicU64,
    patience: Patience,
    handle: Handle,
    /// Whether the first lane is open.
    pub open: watch::Sender<bool>,
}

struct Lane {
    first: bool,
    state: Mutex<State>,
    epochs: AtomicU64,
}

enum State {
    /// No connection.
    Down,
    /// No channel yet.
    Idle(Arc<Live>),
    /// The channel is being opened; these wait for it.
    Opening(u64, Vec<Sent>),
    Open(u64, Box<Confirms>),
}

impl Publisher {
    pub fn new(patience: Patience, handle: Handle) -> Arc<Self> {
        let lane = |i| Lane { first: i == 0, state: Mutex::new(State::Down), epochs: AtomicU64::new(0) };
        Arc::new(Self {
            lanes: (0..=FOREIGN).map(lane).collect(),
            own: RwLock::new(HashSet::new()),
            longest: AtomicU64::new(u64::MAX),
            patience,
            handle,
            open: watch::Sender::new(false),
        })
    }

    /// Follows the connection until `stop`.
    pub async fn follow(self: Arc<Self>, link: Arc<Link>, stop: CancellationToken) {
        let mut watch = link.live.subscribe();
        loop {
            let live = watch.borrow_and_update().clone();
            for index in 0..self.lanes.len() {
                self.lanes[index].reset(live.clone());
            }
            if let Some(live) = live {
                self.begin(0, &mut self.lanes[0].lock(), &live, Vec::new());
            } else {
                self.open.send_replace(false);
            }
            tokio::select! {
                () = stop.cancelled() => break,
                changed = watch.changed() => if changed.is_err() { break },
            }
        }
        self.lanes.iter().for_each(|lane| lane.reset(None));
    }

    /// Counts an exchange among this host's.
    pub fn own(&self, exchange: &str) {
        self.own.write().unwrap_or_else(PoisonError::into_inner).insert(exchange.to_owned());
    }

    /// Publishes, or answers at once that there is no connection.
    pub fn publish(self: &Arc<Self>, sent: Sent) {
        let length = sent.message.body.len() as u64;
        let most = self.longest.load(Ordering::Relaxed);
        if length > most {
            let key = &sent.message.routing_key;
            tracing::warn!(length, most, key, "a message is longer than the broker takes");
            return sent.fail(BrokerError::TooLong { length, most });
        }
        let index = self.lane(&sent.message.exchange);
        let mut state = self.lanes[index].lock();
        match &mut *state {
            State::Down => sent.fail(BrokerError::ConnectionLost),
            State::Opening(_, waiting) => waiting.push(sent),
            State::Open(_, confirms) => confirms.send(sent),
            State::Idle(live) => {
                let live = Arc::clone(live);
                self.begin(index, &mut state, &live, vec![sent]);
            }
        }
    }

    fn lane(&self, exchange: &str) -> usize {
        if exchange.is_empty() || self.own.read().unwrap_or_else(PoisonError::into_inner).contains(exchange) {
            return 0;
        }
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(exchange);
        1 + (hash % FOREIGN as u64) as usize
    }

    /// Starts opening a lane's channel.
    fn begin(self: &Arc<Self>, index: usize, state: &mut State, live: &Arc<Live>, waiting: Vec<Sent>) {
        let epoch = self.lanes[index].epochs.fetch_add(1, Ordering::Relaxed) + 1;
        *state = State::Opening(epoch, waiting);
        let (this, live) = (Arc::clone(self), Arc::clone(live));
        self.handle.spawn(async move { this.run(index, epoch, live).await });
    }

    /// Opens a lane's channel, and attends to it until it closes.
    async fn run(self: Arc<Self>, index: usize, epoch: u64, live: Arc<Live>) {
        let lane = &self.lanes[index];
        let opening = timeout(self.patience.operation, open(&live));
        let channel = tokio::select! {
            () = live.lost.cancelled() => None,
            opened = opening => match opened {
                Ok(Ok(channel)) => Some(channel),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "cannot open a channel for publishing");
                    None
                }
                Err(_) => {
                    tracing::warn!("the broker did not open a channel for publishing in time");
                    None
                }
            },
        };
        let Some(channel) = channel else {
            lane.give_up(epoch, &live);
            if lane.first && !live.lost.is_cancelled() {
                // Without the first lane nothing can be published, and nothing would open it again.
                live.give_up();
            }
            return;
        };
        let ready = Arc::new(Ready::default());
        {
            let mut state = lane.lock();
            let State::Opening(current, waiting) = &mut *state else { return };
            if *current != epoch {
                return;
            }
            let waiting = std::mem::take(waiting);
            let mut confirms = Confirms::new(channel, Arc::clone(&ready));
            waiting.into_iter().for_each(|sent| confirms.send(sent));
            *state = State::Open(epoch, Box::new(confirms));
        }
        if lane.first {
            self.open.send_replace(true);
        }
        let mut unblocked = Instant::now();
        loop {
            let lost = tokio::select! {
                biased;
                () = live.lost.cancelled() => true,
                // The timeout is the regular look at deadlines.
                _ = timeout(LOOK, ready.wait()) => false,
            };
            let mut state = lane.lock();
            let State::Open(current, confirms) = &mut *state else { break };
            if *current != epoch {
                break;
            }
            let blocked = live.connection.status().blocked();
            if blocked {
                unblocked = Instant::now();
            }
            let dead = confirms.collect();
            if dead.is_none() && !lost {
                confirms.expire(self.patience, blocked, unblocked);
                continue;
            }
            let error = dead.flatten();
            self.learn(error.as_ref());
            confirms.fail(error.as_ref());
            let later = confirms.later();
            if lost {
                later.into_iter().for_each(|sent| sent.fail(BrokerError::ConnectionLost));
                *state = State::Down;
                break;
            }
            if lane.first {
                self.open.send_replace(false);
            }
            let old = confirms.channel().clone();
            if lane.first || !later.is_empty() {
                self.begin(index, &mut state, &live, later);
            } else {
                *state = State::Idle(Arc::clone(&live));
            }
            if old.status().connected() {
                tracing::info!("a channel on which messages were refused is replaced");
                let patience = self.patience.operation;
                // One that does not close goes with its connection.
                self.handle.spawn(async move { timeout(patience, old.close(200, "OK".into())).await });
            }
            break;
        }
    }

    /// Takes note of what closed a channel, so that it does not happen again.
    fn learn(&self, error: Option<&lapin::Error>) {
        let Some((_, text)) = error.and_then(super::errors::reply) else { return };
        if let Some((_, most)) = super::errors::too_large(text) {
            self.longest.store(most, Ordering::Relaxed);
        }
        if let Some(name) = super::errors::missing(text, "exchange").or(super::errors::refused_exchange(text))
        {
            self.own.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        }
    }
}

async fn open(live: &Live) -> lapin::Result<Channel> {
    let channel = live.channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the old connection and what was on its way there.
    fn reset(&self, live: Option<Arc<Live>>) {
        let mut state = self.lock();
        let next = live.map_or(State::Down, State::Idle);
        match std::mem::replace(&mut *state, next) {
            State::Down | State::Idle(_) => {}
            State::Opening(_, waiting) => {
                waiting.into_iter().for_each(|s| s.fail(BrokerError::ConnectionLost))
            }
            State::Open(_, mut confirms) => {
                // What is decided already keeps its fate.
                let error = confirms.collect().flatten();
                confirms.fail(error.as_ref());
                confirms.later().into_iter().for_each(|sent| sent.fail(BrokerError::ConnectionLost));
            }
        }
    }

    fn give_up(&self, epoch: u64, live: &Arc<Live>) {
        let mut state = self.lock();
        if let State::Opening(current, waiting) = &mut *state
            && *current == epoch
        {
            std::mem::take(waiting).into_iter().for_each(|s| s.fail(BrokerError::ConnectionLost));
            *state = if live.lost.is_cancelled() { State::Down } else { State::Idle(Arc::clone(live)) };
        }
    }
}

impl Sent {
    /// Answers with an error.
    pub fn fail(mut self, error: BrokerError) {
        answer(&mut self.answer, Err(error));
    }
}

/// Answers, once.
pub(super) fn answer(
    to: &mut Option<oneshot::Sender<Result<Confirmation, BrokerError>>>,
    what: Result<Confirmation, BrokerError>,
) {
    if let Some(to) = to.take() {
        // Whoever does not wait for the answer has dropped the other end.
        let _ = to.send(what);
    }
}
