//! The broker's side of the house: what a message is, and the few AMQP 0-9-1 operations that the
//! rest of the host is built on. RabbitMQ and the embedded broker answer to the same trait and the
//! same rules; nothing outside this module knows which of them it talks to.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub mod client;
#[cfg(test)]
mod contract;
pub mod embedded;
pub mod rabbitmq;

/// A boxed future, as the trait's waiting operations return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A header's value. The message contract uses the first three; the others are kept as they came, for
/// whoever gets the message next, and never relied on.
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderValue {
    /// `t`
    Bool(bool),
    /// Any integer type, widened.
    Int(i64),
    /// `S` or `s`; UTF-8.
    Text(String),
    /// `f`
    Float(f32),
    /// `d`
    Double(f64),
    /// `D`: scale and value.
    Decimal(u8, u32),
    /// `T`: seconds since 1970.
    Timestamp(u64),
    /// `x`, or a text that is not UTF-8.
    Bytes(Vec<u8>),
    /// `A`
    List(Vec<HeaderValue>),
    /// `F`
    Table(Vec<(String, HeaderValue)>),
    /// `V`
    Void,
    /// Nested deeper than anybody means it. Not kept.
    TooDeep,
}

/// AMQP basic properties and the headers. Those that the message contract does not name are kept for
/// whoever gets the message next.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Properties {
    /// Media type of the body.
    pub content_type: Option<String>,
    /// The job's id.
    pub correlation_id: Option<String>,
    /// Where events go: a queue, `exchange/routing-key`, or direct reply-to.
    pub reply_to: Option<String>,
    /// The message's own id.
    pub message_id: Option<String>,
    /// `type`: what an event is.
    pub kind: Option<String>,
    /// Time to live in the queue.
    pub expiration: Option<Duration>,
    /// Survives a restart of a broker that has a disk.
    pub persistent: bool,
    /// Encoding of the body; not read.
    pub content_encoding: Option<String>,
    /// Not read: quorum queues know none.
    pub priority: Option<u8>,
    /// Seconds since 1970; not read.
    pub timestamp: Option<u64>,
    /// Who sent it; not read.
    pub app_id: Option<String>,
    /// Custom headers, in order.
    pub headers: Vec<(String, HeaderValue)>,
}

impl HeaderValue {
    /// What its type is called.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Text(_) => "text",
            Self::Float(_) => "float",
            Self::Double(_) => "double",
            Self::Decimal(..) => "decimal",
            Self::Timestamp(_) => "timestamp",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "array",
            Self::Table(_) => "table",
            Self::Void => "void",
            Self::TooDeep => "table or array without end",
        }
    }
}

impl Properties {
    /// The value of header `name`.
    pub fn header(&self, name: &str) -> Option<&HeaderValue> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// The header `name` if it is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.header(name) {
            Some(HeaderValue::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The header `name` if it is an integer.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.header(name) {
            Some(HeaderValue::Int(value)) => Some(*value),
            _ => None,
        }
    }

    /// Sets a header, replacing one of the same name.
    pub fn set(&mut self, name: &str, value: HeaderValue) {
        match self.headers.iter_mut().find(|(n, _)| n == name) {
            Some(entry) => entry.1 = value,
            None => self.headers.push((name.to_owned(), value)),
        }
    }
}

/// A message to publish, or as it was delivered.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The exchange; empty for the default exchange, which routes to the queue named by the key.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// Properties and headers.
    pub properties: Properties,
    /// The body.
    pub body: Bytes,
}

/// What became of a published message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// Every queue that it was routed to has it.
    Confirmed,
    /// It was mandatory and no queue took it: it is gone.
    Returned,
    /// The broker refused it (a full queue, for instance).
    Nacked,
}

/// The promise of a [`Confirmation`]. The message is on its way whether this is awaited or not.
pub struct Confirm(oneshot::Receiver<Result<Confirmation, BrokerError>>);

impl Confirm {
    /// A promise, and the end that keeps it.
    pub fn pair() -> (oneshot::Sender<Result<Confirmation, BrokerError>>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(receiver))
    }
}

impl Future for Confirm {
    type Output = Result<Confirmation, BrokerError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // A sender that is gone without an answer is a connection that died: the fate is unknown.
        Pin::new(&mut self.0).poll(cx).map(|r| r.unwrap_or(Err(BrokerError::ConnectionLost)))
    }
}

/// Names one delivery: the channel's generation and the broker's tag on it. A tag of a dead channel
/// settles nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag {
    /// Which channel, counted over the life of the host.
    pub channel: u64,
    /// The delivery tag on that channel.
    pub number: u64,
}

/// How a delivery ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    /// Done: the queue forgets it.
    Ack,
    /// Returned unprocessed (drain): back to the queue, not counted as a failed attempt where the
    /// broker can tell the difference.
    Nack,
    /// A failed attempt: back to the queue and counted.
    Reject,
}

/// Why a delivery became void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Its connection or channel died.
    Connection,
    /// The broker waited too long for this one to be settled, and closed its channel.
    Timeout,
}

/// Tells when deliveries of one channel become void, and why one of them did.
#[derive(Debug, Clone, Default)]
pub struct Lost {
    token: CancellationToken,
    /// The delivery that the broker waited for.
    culprit: Arc<OnceLock<u64>>,
    number: u64,
}

impl Lost {
    /// Of the delivery with this number on the channel.
    pub fn of(&self, number: u64) -> Self {
        Self { number, ..self.clone() }
    }

    /// Waits for it; at once if it is so already.
    pub async fn wait(&self) -> Loss {
        self.token.cancelled().await;
        if self.culprit.get() == Some(&self.number) { Loss::Timeout } else { Loss::Connection }
    }

    /// Tells everyone who waits; the culprit is the delivery that the broker had waited for too long.
    pub fn tell(&self, culprit: Option<u64>) {
        if let Some(number) = culprit {
            self.culprit.get_or_init(|| number);
        }
        self.token.cancel();
    }
}

/// A message taken from a queue and not settled yet.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// The queue it was taken from.
    pub queue: Arc<str>,
    /// What to settle it by.
    pub tag: Tag,
    /// Earlier deliveries that were not acknowledged (`x-delivery-count`).
    pub delivery_count: u32,
}

/// A subscription to one queue. Dropping it cancels the subscription and returns what it still
/// holds unsettled to the queue, as a died channel does.
pub struct Consumer {
    /// Cancels the subscription when dropped. The first field, and so dropped first: a subscription
    /// whose deliveries nobody takes any more gives each of them back by itself, and a queue without
    /// a delivery limit puts what is given back behind the rest.
    pub subscription: Box<dyn Subscription>,
    /// Deliveries, at most `prefetch` of them unsettled at a time.
    pub deliveries: mpsc::Receiver<Delivery>,
    /// How many of its channels have died under it. It changes before anything of the next channel is
    /// delivered. What the broker had sent and the channel had not delivered died with it unseen.
    pub deaths: watch::Receiver<u64>,
}

/// The handle of a subscription; dropping it ends it.
pub trait Subscription: Send + Sync {
    /// Allows this many unsettled deliveries (1 or more) from now on. What is delivered already stays
    /// so; while it is more than that, nothing is delivered. During the change there may be up to as
    /// many again.
    fn set_prefetch(&self, prefetch: u16);
}

/// Kinds of exchange in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeKind {
    /// Routes by key with `*` (one word) and `#` (any number of words).
    Topic,
    /// Routes to every bound queue.
    Fanout,
    /// Routes by equal key.
    Direct,
}

/// What an exchange is declared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeSpec {
    /// Its name.
    pub name: String,
    /// How it routes.
    pub kind: ExchangeKind,
    /// The exchange that takes what this one routes to no queue. A mandatory message that it takes
    /// is not returned.
    pub alternate: Option<String>,
}

impl ExchangeSpec {
    /// An exchange without an alternate.
    pub fn new(name: &str, kind: ExchangeKind) -> Self {
        Self { name: name.to_owned(), kind, alternate: None }
    }
}

/// What a queue is declared with.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct QueueSpec {
    /// Its name.
    pub name: String,
    /// Lives only as long as the connection that declared it (reply queues); else durable.
    pub exclusive: bool,
    /// Messages older than this are expired.
    pub message_ttl: Option<Duration>,
    /// Deleted when nobody has used it for this long. The embedded broker keeps it to the end.
    pub expires: Option<Duration>,
    /// Where expired and rejected-too-often messages go: exchange, and a key other than their own.
    pub dead_letter: Option<(String, Option<String>)>,
    /// Returns of one message after which it is dead-lettered.
    pub delivery_limit: Option<u32>,
    /// Most messages held; further publishes are nacked.
    pub max_length: Option<u64>,
}

/// What a queue holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueDepth {
    /// Waiting to be delivered.
    pub ready: u64,
    /// Delivered and not settled.
    pub unacked: u64,
}

/// One way in which something on the broker is not what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The argument or property.
    pub argument: String,
    /// The value there.
    pub found: String,
    /// The value wanted.
    pub wanted: String,
}

/// Why a broker operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// The connection is gone; what was in flight on it has an unknown fate.
    #[error("the connection to the broker was lost")]
    ConnectionLost,
    /// The name is taken by something declared with other arguments.
    #[error(
        "{what} {name:?} exists with {argument} = {found}, and {wanted} is wanted: delete it or change the config"
    )]
    Conflict {
        /// "queue" or "exchange".
        what: &'static str,
        /// Its name.
        name: String,
        /// The argument that differs.
        argument: &'static str,
        /// The value there.
        found: String,
        /// The value asked for.
        wanted: String,
    },
    /// No such queue or exchange.
    #[error("no {what} {name:?} on the broker: it was deleted, or never declared")]
    NotFound {
        /// "queue" or "exchange".
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The broker did not answer in time.
    #[error("the broker did not answer {operation} within {after:?}")]
    Timeout {
        /// What was asked.
        operation: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The broker will not do it: a permission, a limit, a node that is down.
    #[error("the broker refused {operation}: {reason}")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// What it said.
        reason: String,
    },
    /// A message that the broker does not take however often it is published.
    #[error(
        "a message of {length} bytes is longer than the broker takes ({most}): raise its max_message_size or send less"
    )]
    TooLong {
        /// The length of its body.
        length: u64,
        /// The longest that is taken.
        most: u64,
    },
}

/// The operations. Declaring is idempotent; a declaration that differs from what is there is
/// [`BrokerError::Conflict`].
pub trait Broker: Send + Sync + 'static {
    /// Declares a durable exchange.
    fn declare_exchange<'a>(&'a self, spec: &'a ExchangeSpec) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Declares a queue.
    fn declare_queue<'a>(&'a self, spec: &'a QueueSpec) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Deletes a queue and what it holds.
    fn delete_queue<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Lets `exchange` route messages of `routing_key` to `queue`.
    fn bind<'a>(
        &'a self,
        queue: &'a str,
        exchange: &'a str,
        routing_key: &'a str,
    ) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Subscribes to a queue on a channel of its own, with at most `prefetch` (1 or more) unsettled
    /// deliveries.
    fn consume<'a>(&'a self, queue: &'a str, prefetch: u16) -> BoxFuture<'a, Result<Consumer, BrokerError>>;

    /// Publishes. Messages published one after the other from one task reach a queue in that order.
    /// `mandatory` asks for [`Confirmation::Returned`] when no queue takes the message; without it
    /// such a message is confirmed and lost.
    fn publish(&self, message: Message, mandatory: bool) -> Confirm;

    /// Publishes, in order with [`Self::publish`], what nobody waits for.
    fn tell(&self, message: Message) {
        drop(self.publish(message, false));
    }

    /// Settles a delivery. A tag that is settled already or of a dead channel is ignored: its
    /// message is back in the queue. That the broker has acted on it is not known on return.
    fn settle(&self, tag: Tag, how: Settle);

    /// Tells when the delivery is void: its channel died, the broker has the message back, and
    /// whatever is done for it is done for nothing. The default never does: a channel of the embedded
    /// broker dies with its consumer alone.
    fn lost(&self, _tag: Tag) -> Lost {
        Lost::default()
    }

    /// How much a queue holds.
    fn depth<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<QueueDepth, BrokerError>>;

    /// How many consumers a queue has, where the broker tells.
    fn consumers<'a>(&'a self, _queue: &'a str) -> BoxFuture<'a, Result<Option<u64>, BrokerError>> {
        Box::pin(async { Ok(None) })
    }

    /// Every way in which the queue of that name differs from `spec`. Nothing is created: without such
    /// a queue this is [`BrokerError::NotFound`]. The embedded broker, which nobody else declares on,
    /// does not offer it.
    fn compare_queue<'a>(
        &'a self,
        _spec: &'a QueueSpec,
    ) -> BoxFuture<'a, Result<Vec<Difference>, BrokerError>> {
        Box::pin(async { Err(no_comparison()) })
    }

    /// The same for an exchange.
    fn compare_exchange<'a>(
        &'a self,
        _spec: &'a ExchangeSpec,
    ) -> BoxFuture<'a, Result<Vec<Difference>, BrokerError>> {
        Box::pin(async { Err(no_comparison()) })
    }

    /// Whether the broker can be reached at the moment.
    fn is_connected(&self) -> bool {
        true
    }

    /// Waits until all subscriptions, which must have been dropped, have told the broker of their
    /// last settlements. False when that took longer than `within`: what it does not know of comes
    /// again.
    fn finished(&self, _within: Duration) -> BoxFuture<'_, bool> {
        Box::pin(async { true })
    }
}

fn no_comparison() -> BrokerError {
    BrokerError::Refused { operation: "a comparison", reason: "this broker offers none".to_owned() }
}

impl fmt::Display for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(v) => v.fmt(f),
            Self::Int(v) => v.fmt(f),
            Self::Text(v) => v.fmt(f),
            other => write!(f, "<{}>", other.kind()),
        }
    }
}
