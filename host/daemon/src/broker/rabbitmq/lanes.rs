//! The connections that consume. One is enough for most hosts; one with hundreds of models has more
//! subscriptions, each on a channel of its own, than RabbitMQ allows channels on a connection (2,047 if
//! nobody says otherwise). Then there are more connections, made when they are needed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::link::{Failure, Link, Live, Target, supervise};

/// Subscriptions on one connection. While a prefetch changes a subscription has two channels.
const SUBSCRIPTIONS: usize = 1000;

/// A connection and how many subscriptions it has.
pub(super) struct Lane {
    pub link: Arc<Link>,
    used: AtomicUsize,
}

impl Lane {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { link: Link::new(), used: AtomicUsize::new(0) })
    }

    /// A place, if there is one left of so many.
    fn enter(self: &Arc<Self>, most: usize) -> Option<Place> {
        let room = |used: usize| (used < most).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        Some(Place(Arc::clone(self)))
    }

    /// A place, whether there is one left or not: for queues that belong to a connection.
    pub fn squeeze_in(self: &Arc<Self>) -> Place {
        self.used.fetch_add(1, Ordering::Relaxed);
        Place(Arc::clone(self))
    }
}

/// What the broker allows, and some channels for declarations.
fn most(live: &Live) -> usize {
    let channels = usize::from(live.connection.configuration().channel_max());
    (channels / 2).saturating_sub(8).clamp(1, SUBSCRIPTIONS)
}

/// The right to have a channel on a lane's connection; given back when dropped.
pub(super) struct Place(Arc<Lane>);

impl Place {
    pub fn link(&self) -> &Link {
        &self.0.link
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All connections that consume but the first.
pub(super) struct Lanes {
    more: Mutex<Vec<Arc<Lane>>>,
    /// Places on a connection, by what the broker allowed when there was one.
    most: AtomicUsize,
    target: Arc<Target>,
    stop: CancellationToken,
}

impl Lanes {
    pub fn new(target: Arc<Target>, stop: CancellationToken) -> Self {
        Self { more: Mutex::default(), most: AtomicUsize::new(SUBSCRIPTIONS), target, stop }
    }

    /// A place on the first connection that has one; on a new one if none has.
    pub fn place(&self, first: &Arc<Lane>) -> Place {
        if let Some(live) = first.link.live.borrow().as_deref() {
            self.most.store(most(live), Ordering::Relaxed);
        }
        let most = self.most.load(Ordering::Relaxed);
        if let Some(place) = first.enter(most) {
            return place;
        }
        let mut more = self.more.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = more.iter().find_map(|lane| lane.enter(most)) {
            return place;
        }
        let lane = Lane::new();
        more.push(Arc::clone(&lane));
        tracing::info!(connections = more.len() + 1, "another connection to consume queues on");
        // Its failures are no reason to refuse to start.
        let failures = watch::Sender::new(None::<Arc<Failure>>);
        let (target, stop) = (Arc::clone(&self.target), self.stop.clone());
        self.target.handle.spawn(supervise(Arc::clone(&lane.link), target, stop, failures));
        lane.squeeze_in()
    }

    /// Ends them.
    pub fn give_up(&self) {
        for lane in self.more.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if let Some(live) = lane.link.live.send_replace(None) {
                live.give_up();
            }
        }
    }
}
