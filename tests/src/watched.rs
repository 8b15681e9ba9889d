//! A broker connection that keeps a record of what the host does, and confirms as the test says.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use warren::broker::embedded::Embedded;
use warren::broker::{
    BoxFuture, Broker, BrokerError, Confirm, Confirmation, Consumer, ExchangeSpec, Message, QueueDepth,
    QueueSpec, Settle, Tag,
};

/// What becomes of a published message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Published and confirmed.
    Pass,
    /// Published; its confirm comes after [`Watched::release`].
    Hold,
    /// Not published; refused.
    Nack,
    /// Not published; the connection is said to be lost.
    Lose,
}

/// What the host did, and when it heard back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// It published: to which exchange, the message's id and type.
    Published {
        /// The exchange.
        exchange: String,
        /// Property `message_id`.
        id: String,
        /// Property `type`.
        kind: String,
    },
    /// It was told what became of the message with this id.
    Confirmed {
        /// Property `message_id`.
        id: String,
    },
    /// It settled a delivery.
    Settled(Settle),
}

type Judge = dyn Fn(&Message) -> Fate + Send + Sync;

/// The connection.
pub struct Watched {
    inner: Embedded,
    judge: Box<Judge>,
    record: Arc<Mutex<Vec<Happening>>>,
    gate: Arc<Semaphore>,
}

impl Watched {
    /// A connection of its own to the broker; `judge` decides over every message published on it.
    pub fn new(broker: &Embedded, judge: impl Fn(&Message) -> Fate + Send + Sync + 'static) -> Arc<Self> {
        let (record, gate) = (Arc::default(), Arc::new(Semaphore::new(0)));
        Arc::new(Self { inner: broker.connect(), judge: Box::new(judge), record, gate })
    }

    /// What has happened so far.
    pub fn happenings(&self) -> Vec<Happening> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets one confirm that was held go.
    pub fn release(&self) {
        self.gate.add_permits(1);
    }

    fn note(record: &Mutex<Vec<Happening>>, happening: Happening) {
        record.lock().unwrap_or_else(PoisonError::into_inner).push(happening);
    }
}

/// Whether a message is an event that ends its job.
pub fn is_final(message: &Message) -> bool {
    message.properties.header("final") == Some(&warren::broker::HeaderValue::Bool(true))
}

impl Broker for Watched {
    fn declare_exchange<'a>(&'a self, spec: &'a ExchangeSpec) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.inner.declare_exchange(spec)
    }

    fn declare_queue<'a>(&'a self, spec: &'a QueueSpec) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.inner.declare_queue(spec)
    }

    fn delete_queue<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.inner.delete_queue(name)
    }

    fn bind<'a>(
        &'a self,
        queue: &'a str,
        exchange: &'a str,
        routing_key: &'a str,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.inner.bind(queue, exchange, routing_key)
    }

    fn consume<'a>(&'a self, queue: &'a str, prefetch: u16) -> BoxFuture<'a, Result<Consumer, BrokerError>> {
        self.inner.consume(queue, prefetch)
    }

    fn publish(&self, message: Message, mandatory: bool) -> Confirm {
        let id = message.properties.message_id.clone().unwrap_or_default();
        let kind = message.properties.kind.clone().unwrap_or_default();
        let exchange = message.exchange.clone();
        Self::note(&self.record, Happening::Published { exchange, id: id.clone(), kind });
        let fate = (self.judge)(&message);
        let (sender, confirm) = Confirm::pair();
        let answer = match fate {
            Fate::Nack => Ok(Confirmation::Nacked),
            Fate::Lose => Err(BrokerError::ConnectionLost),
            Fate::Pass | Fate::Hold => {
                let inner = self.inner.publish(message, mandatory);
                let (record, gate) = (Arc::clone(&self.record), Arc::clone(&self.gate));
                tokio::spawn(async move {
                    let answer = inner.await;
                    if fate == Fate::Hold {
                        gate.acquire().await.expect("never closed").forget();
                    }
                    Self::note(&record, Happening::Confirmed { id });
                    drop(sender.send(answer));
                });
                return confirm;
            }
        };
        Self::note(&self.record, Happening::Confirmed { id });
        drop(sender.send(answer));
        confirm
    }

    fn settle(&self, tag: Tag, how: Settle) {
        Self::note(&self.record, Happening::Settled(how));
        self.inner.settle(tag, how);
    }

    fn depth<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<QueueDepth, BrokerError>> {
        self.inner.depth(queue)
    }
}
