//! A broker inside this process, with RabbitMQ's rules as far as the host relies on them. It keeps
//! everything in memory: nothing survives the process, whatever a message or queue says of
//! durability. For one machine, for tests and for trying things out.
//!
//! What RabbitMQ does and this does: topic, fanout, direct, default and alternate exchanges, mandatory
//! returns, prefetch, round-robin among consumers, redelivery at the original place with a count,
//! delivery limits, time to live of queues and messages (at the head, as quorum queues do),
//! dead-lettering, length limits, exclusive queues. What it leaves out: direct reply-to
//! (`amq.rabbitmq.reply-to`), priorities, transactions, the full `x-death` header, persistence.
//!
//! One lock guards everything, so no order of locks can be wrong; it is never held across an await.
//! A publish routes, stores, delivers and confirms in the caller's thread: no task per message.

mod routing;
mod state;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use self::state::State;
use super::{
    self as broker, BoxFuture, Broker, BrokerError, Confirm, Consumer, ExchangeSpec, Message, QueueDepth,
    QueueSpec, Settle, Tag,
};

/// A connection to an in-memory broker. Dropping it cancels its consumers and deletes its exclusive
/// queues; the broker itself lives as long as any connection or consumer.
pub struct Embedded {
    shared: Arc<Shared>,
    /// Which connection this is: the owner of its exclusive queues.
    connection: u64,
}

struct Shared {
    state: Mutex<State>,
    connections: AtomicU64,
    wake: Arc<Notify>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held would be a bug; the other queues are still good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

impl Embedded {
    /// Starts an empty broker and connects to it. Must be called within a tokio runtime: a task on
    /// it wakes up when messages expire.
    pub fn new() -> Self {
        let wake = Arc::new(Notify::new());
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(Arc::clone(&wake))),
            connections: AtomicU64::new(0),
            wake: Arc::clone(&wake),
        });
        tokio::spawn(expire(Arc::downgrade(&shared), wake));
        tracing::info!("embedded broker: queues are in memory, nothing in them survives this process");
        Self { shared, connection: 0 }
    }

    /// Another connection to the same broker.
    pub fn connect(&self) -> Self {
        let connection = self.shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
        Self { shared: Arc::clone(&self.shared), connection }
    }
}

impl Default for Embedded {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.shared.lock().disconnect(self.connection);
    }
}

/// Buries messages whose time is up, for as long as the broker lives.
async fn expire(shared: Weak<Shared>, wake: Arc<Notify>) {
    loop {
        let next = match shared.upgrade() {
            Some(shared) => shared.lock().expire(Instant::now()),
            None => return,
        };
        match next {
            Some(at) => tokio::select! {
                () = tokio::time::sleep_until(at) => {}
                () = wake.notified() => {}
            },
            None => wake.notified().await,
        }
    }
}

/// Cancels a subscription when dropped.
struct Subscription {
    shared: Arc<Shared>,
    channel: u64,
}

impl broker::Subscription for Subscription {
    fn set_prefetch(&self, prefetch: u16) {
        self.shared.lock().set_prefetch(self.channel, usize::from(prefetch.max(1)));
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.lock().close_channel(self.channel);
    }
}

impl Broker for Embedded {
    fn declare_exchange<'a>(&'a self, spec: &'a ExchangeSpec) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move { self.shared.lock().declare_exchange(spec) })
    }

    fn declare_queue<'a>(&'a self, spec: &'a QueueSpec) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move { self.shared.lock().declare_queue(spec, self.connection) })
    }

    fn delete_queue<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move { self.shared.lock().delete_queue(name, self.connection) })
    }

    fn bind<'a>(
        &'a self,
        queue: &'a str,
        exchange: &'a str,
        routing_key: &'a str,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move { self.shared.lock().bind(queue, exchange, routing_key, self.connection) })
    }

    fn consume<'a>(&'a self, queue: &'a str, prefetch: u16) -> BoxFuture<'a, Result<Consumer, BrokerError>> {
        Box::pin(async move {
            let prefetch = usize::from(prefetch.max(1));
            // No prefetch exceeds this, so sending into it never finds it full. Its blocks are
            // allocated as they are needed.
            let (sender, deliveries) = mpsc::channel(usize::from(u16::MAX));
            let channel = self.shared.lock().consume(queue, prefetch, sender, self.connection)?;
            let subscription = Subscription { shared: Arc::clone(&self.shared), channel };
            // A channel dies with its consumer alone.
            let (_, deaths) = watch::channel(0);
            Ok(Consumer { deliveries, deaths, subscription: Box::new(subscription) })
        })
    }

    fn publish(&self, message: Message, mandatory: bool) -> Confirm {
        let (sender, confirm) = Confirm::pair();
        let confirmation = self.shared.lock().publish(message, mandatory);
        // A publisher that does not wait for its confirm has dropped the other end.
        let _ = sender.send(confirmation);
        confirm
    }

    fn settle(&self, tag: Tag, how: Settle) {
        self.shared.lock().settle(tag, how);
    }

    fn depth<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<QueueDepth, BrokerError>> {
        Box::pin(async move { self.shared.lock().depth(queue) })
    }
}

#[cfg(test)]
mod tests;
