//! RabbitMQ, through lapin, which is named here and nowhere else.
//!
//! Two connections: one consumes and acknowledges, the other publishes, for the broker blocks those
//! that publish when it is short of memory or disk, and acknowledgements must go on. A host of hundreds
//! of models has more that consume, for a connection has too few channels (`lanes`). All live on a
//! runtime of their own, are supervised here and connect again for ever, with pauses that double up
//! to five seconds and vary at random. lapin's own recovery stays off: it would carry over what must
//! not be carried over.
//!
//! What a caller sees when a connection is lost:
//! - every [`Confirm`] under way answers [`BrokerError::ConnectionLost`], and so does every publish
//!   until the connection is back. Nothing is sent twice by itself.
//! - deliveries of the old channel are void: settling them does nothing, and
//!   [`Broker::lost`] tells of it. The broker has the messages back and counts them as failed.
//! - subscriptions go on by themselves, on a new channel with a new [`Tag::channel`]. Exclusive queues
//!   are declared and bound anew before that; what they held is gone.
//! - while nothing can be published no delivery is handed over: it could only fail.
//! - declarations wait for the connection, as long as any operation is waited for.

mod compare;
mod confirms;
mod consume;
mod declare;
mod errors;
mod fates;
mod filter;
mod lanes;
mod link;
mod properties;
mod publish;
mod stream;
#[cfg(test)]
mod tests;
mod tls;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::uri::AMQPUri;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::confirms::Sent;
use self::consume::{Feed, Handle, Ledgers, Subscription};
pub use self::declare::{Argument, exchange_arguments, queue_arguments};
use self::declare::{Exclusive, Idle, named};
use self::lanes::{Lane, Lanes};
use self::link::{Failure, Link, Target, jitter, supervise};
#[doc(hidden)]
pub use self::properties::arrived;
use self::publish::{Patience, Publisher};
use super::{
    BoxFuture, Broker, BrokerError, Confirm, Consumer, Difference, ExchangeSpec, Lost, Message, QueueDepth,
    QueueSpec, Settle, Tag,
};

/// How to reach a broker, and how long to wait for it.
#[derive(Debug, Clone)]
pub struct Options {
    /// `amqp://` or `amqps://` addresses with user, password and vhost, tried in this order at every
    /// connect.
    pub addresses: Vec<String>,
    /// What the broker's operators see as the name of the connections.
    pub name: String,
    /// Silence after which a connection is given up; the broker may want less. Whole seconds.
    pub heartbeat: Duration,
    /// For one address to connect.
    pub connect_timeout: Duration,
    /// For the first connection, over all attempts.
    pub startup_timeout: Duration,
    /// For a declaration or a subscription.
    pub operation_timeout: Duration,
    /// For a confirm, while the broker takes messages.
    pub confirm_timeout: Duration,
    /// For a confirm in all, while an alarm of the broker holds it up.
    pub blocked_timeout: Duration,
    /// Certificates in PEM that the server's is checked against, beside the system's.
    pub ca: Option<String>,
    /// Certificate chain and key, in PEM, that this host shows the server.
    pub identity: Option<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            addresses: vec!["amqp://guest:guest@127.0.0.1:5672/%2f".to_owned()],
            name: "warren".to_owned(),
            heartbeat: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(5),
            startup_timeout: Duration::from_secs(30),
            operation_timeout: Duration::from_secs(10),
            confirm_timeout: Duration::from_secs(30),
            blocked_timeout: Duration::from_secs(600),
            ca: None,
            identity: None,
        }
    }
}

/// Why a broker cannot be connected to at start.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not an address.
    #[error(
        "{address:?} is no broker address: {reason}. Write amqp://user:password@host:5672/vhost, or amqps://"
    )]
    Address {
        /// As given, without its password.
        address: String,
        /// Why.
        reason: String,
    },
    /// The broker answered and said no.
    #[error(
        "the broker refuses: {0}. Check user, password and vhost of the address, and the user's permissions"
    )]
    Refused(String),
    /// Nobody answered.
    #[error("no broker answers: {0}. Check that it runs, and the address")]
    Unreachable(String),
    /// A certificate or key that is none.
    #[error("the TLS {what} cannot be used: {reason}. It must be PEM")]
    Certificates {
        /// Which.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// Threads.
    #[error("cannot start the broker's threads: {0}")]
    Threads(std::io::Error),
}

/// A RabbitMQ broker. Dropping it drops its connections, and all subscriptions with them.
pub struct RabbitMq {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

struct Shared {
    consuming: Arc<Link>,
    /// The same connection, as one of those that subscriptions are on.
    lane: Arc<Lane>,
    lanes: Lanes,
    publishing: Arc<Link>,
    publisher: Arc<Publisher>,
    ledgers: Ledgers,
    exclusive: Exclusive,
    idle: Idle,
    patience: Patience,
    stop: CancellationToken,
    subscriptions: TaskTracker,
}

/// Threads of the runtime, beside lapin's one a connection. Nothing on it computes, and one does not have to
/// wake another.
const THREADS: usize = 1;

impl RabbitMq {
    /// Connects, trying again until `options.startup_timeout` unless the broker itself refuses.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(options: Options) -> Result<Self, ConnectError> {
        let mut addresses = Vec::with_capacity(options.addresses.len());
        for address in &options.addresses {
            let mut uri: AMQPUri = address
                .parse()
                .map_err(|reason| ConnectError::Address { address: without_password(address), reason })?;
            let seconds = u16::try_from(options.heartbeat.as_secs().max(1)).unwrap_or(u16::MAX);
            uri.query.heartbeat.get_or_insert(seconds);
            addresses.push(uri);
        }
        if addresses.is_empty() {
            return Err(ConnectError::Unreachable("no address is given".to_owned()));
        }
        let tls = tls::config(options.ca.as_deref(), options.identity.as_ref())?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("warren-broker")
            .enable_all()
            .build()
            .map_err(ConnectError::Threads)?;
        let handle = runtime.handle().clone();
        let patience = Patience {
            operation: options.operation_timeout,
            confirm: options.confirm_timeout,
            blocked: options.blocked_timeout,
        };
        let target = |role: &str| {
            Arc::new(Target {
                addresses: addresses.clone(),
                name: format!("{} {role}", options.name),
                tls: Arc::clone(&tls),
                timeout: options.connect_timeout,
                handle: handle.clone(),
            })
        };
        let (consuming, publishing) = (target("consuming"), target("publishing"));
        let (lane, stop) = (Lane::new(), CancellationToken::new());
        let shared = Arc::new(Shared {
            consuming: Arc::clone(&lane.link),
            lane,
            lanes: Lanes::new(Arc::clone(&consuming), stop.clone()),
            publishing: Link::new(),
            publisher: Publisher::new(patience, handle.clone()),
            ledgers: Ledgers::default(),
            exclusive: Exclusive::default(),
            idle: Idle::default(),
            patience,
            stop,
            subscriptions: TaskTracker::new(),
        });
        let broker = Self { shared: Arc::clone(&shared), runtime: Some(runtime) };
        let failures = watch::Sender::new(None::<Arc<Failure>>);
        for (link, target) in [(&shared.consuming, consuming), (&shared.publishing, publishing)] {
            handle.spawn(supervise(Arc::clone(link), target, shared.stop.clone(), failures.clone()));
        }
        handle
            .spawn(Arc::clone(&shared.publisher).follow(Arc::clone(&shared.publishing), shared.stop.clone()));
        shared.started(options.startup_timeout, failures.subscribe()).await?;
        Ok(broker)
    }

    /// Waits until all subscriptions, which must have been dropped, have handed over their last
    /// acknowledgements: for the orderly end of a host, before this is dropped. False when that took
    /// longer than `within`.
    pub async fn finished(&self, within: Duration) -> bool {
        self.shared.subscriptions.close();
        timeout(within, self.shared.subscriptions.wait()).await.is_ok()
    }

    /// The broker's version, as it said when it was last connected to.
    pub fn version(&self) -> Option<String> {
        let live = self.shared.consuming.live.borrow().clone();
        live.and_then(|live| live.version().map(str::to_owned))
    }

    /// Whether both connections are there.
    pub fn is_connected(&self) -> bool {
        self.shared.consuming.live.borrow().is_some() && *self.shared.publisher.open.borrow()
    }

    /// Times that both connections together were made: 2 when none was ever lost.
    pub fn connects(&self) -> u64 {
        let count = |link: &Link| link.connects.load(std::sync::atomic::Ordering::Relaxed);
        count(&self.shared.consuming) + count(&self.shared.publishing)
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        for link in [&self.shared.consuming, &self.shared.publishing] {
            if let Some(live) = link.live.send_replace(None) {
                live.give_up();
            }
        }
        self.shared.lanes.give_up();
        *self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The vhost of an address, if it is one.
pub fn vhost(address: &str) -> Option<String> {
    address.parse::<AMQPUri>().ok().map(|uri| uri.vhost)
}

/// An address fit to be shown.
fn without_password(address: &str) -> String {
    match (address.split_once("://"), address.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://…@{place}"),
        _ => address.to_owned(),
    }
}

impl Shared {
    /// Waits for both connections.
    async fn started(
        &self,
        within: Duration,
        mut failures: watch::Receiver<Option<Arc<Failure>>>,
    ) -> Result<(), ConnectError> {
        let deadline = Instant::now() + within;
        let mut open = self.publisher.open.subscribe();
        let up = async {
            self.consuming.up(deadline).await.is_some()
                && timeout_at(deadline, open.wait_for(|open| *open)).await.is_ok()
        };
        let refused = async {
            match failures.wait_for(|f| f.as_ref().is_some_and(|f| f.refused)).await {
                Ok(failure) => failure.clone(),
                Err(_) => std::future::pending().await,
            }
        };
        let last = tokio::select! {
            up = up => if up { return Ok(()) } else { None },
            refused = refused => refused,
        };
        match last.or_else(|| failures.borrow().clone()) {
            Some(failure) if failure.refused => Err(ConnectError::Refused(failure.to_string())),
            Some(failure) => Err(ConnectError::Unreachable(failure.to_string())),
            None => Err(ConnectError::Unreachable(format!("no answer within {within:?}"))),
        }
    }

    /// Looks at a queue.
    async fn look(&self, queue: &str) -> Result<lapin::Queue, BrokerError> {
        let operation = "a look at a queue";
        let name = named(operation, queue)?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let look = |channel: lapin::Channel| {
            let name = name.clone();
            async move { channel.queue_declare(name, passive, FieldTable::default()).await }
        };
        self.ask(operation, "queue", queue, look).await
    }

    /// Subscribes on a channel of its own, once.
    async fn feed(&self, queue: &str, prefetch: u16) -> Result<Feed, BrokerError> {
        let operation = "a subscription";
        let exclusive = self.exclusive.get(queue);
        // A queue of this host's own belongs to the connection that declares it.
        let place = if exclusive.is_some() { self.lane.squeeze_in() } else { self.lanes.place(&self.lane) };
        if let Some(restore) = exclusive {
            self.ask(operation, "queue", queue, |channel| {
                let restore = restore.clone();
                async move { restore.run(&channel).await }
            })
            .await?;
        }
        let after = self.patience.operation;
        let deadline = Instant::now() + after;
        loop {
            let Some(live) = place.link().up(deadline).await else {
                return Err(BrokerError::ConnectionLost);
            };
            let lost = live.lost.clone();
            let error = tokio::select! {
                biased;
                opened = timeout_at(deadline, Feed::open(live, queue, prefetch)) => match opened {
                    Ok(Ok(feed)) => return Ok(feed.at(place)),
                    Ok(Err(error)) => consume::error(queue, &error),
                    Err(_) => return Err(BrokerError::Timeout { operation, after }),
                },
                // lapin never answers what is asked of a connection that is gone.
                () = lost.cancelled() => BrokerError::ConnectionLost,
            };
            if error != BrokerError::ConnectionLost || !self.again(deadline).await {
                return Err(error);
            }
        }
    }

    /// A short pause, until the supervisor has noticed that a connection is lost or the next one is
    /// there. False when there is no time for it before the deadline.
    async fn again(&self, deadline: Instant) -> bool {
        let pause = jitter(Duration::from_millis(50));
        let time = Instant::now() + pause < deadline;
        if time {
            sleep(pause).await;
        }
        time
    }
}

impl Broker for RabbitMq {
    fn declare_exchange<'a>(&'a self, spec: &'a ExchangeSpec) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move {
            let operation = "the declaration of an exchange";
            let short = named(operation, &spec.name)?;
            let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            let declare = |channel: lapin::Channel| {
                let (short, (kind, arguments)) = (short.clone(), declare::exchange(spec));
                async move { channel.exchange_declare(short, kind, options, arguments).await }
            };
            self.shared.ask(operation, "exchange", &spec.name, declare).await?;
            self.shared.publisher.own(&spec.name);
            Ok(())
        })
    }

    fn declare_queue<'a>(&'a self, spec: &'a QueueSpec) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move {
            let operation = "the declaration of a queue";
            let name = named(operation, &spec.name)?;
            let declare = |channel: lapin::Channel| {
                let (name, (options, arguments)) = (name.clone(), declare::queue(spec));
                async move { channel.queue_declare(name, options, arguments).await.map(|_| ()) }
            };
            self.shared.ask(operation, "queue", &spec.name, declare).await?;
            if spec.exclusive {
                self.shared.exclusive.declared(spec);
            }
            Ok(())
        })
    }

    fn delete_queue<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move {
            let operation = "the deletion of a queue";
            let short = named(operation, name)?;
            self.shared.exclusive.deleted(name);
            let delete = |channel: lapin::Channel| {
                let short = short.clone();
                async move { channel.queue_delete(short, QueueDeleteOptions::default()).await.map(|_| ()) }
            };
            self.shared.ask(operation, "queue", name, delete).await
        })
    }

    fn bind<'a>(
        &'a self,
        queue: &'a str,
        exchange: &'a str,
        routing_key: &'a str,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move {
            let operation = "a binding";
            let names =
                [named(operation, queue)?, named(operation, exchange)?, named(operation, routing_key)?];
            let bind = |channel: lapin::Channel| {
                let [queue, exchange, key] = names.clone();
                async move {
                    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
                    channel.queue_bind(queue, exchange, key, options, none).await
                }
            };
            self.shared.ask(operation, "queue", queue, bind).await?;
            self.shared.exclusive.bound(queue, exchange, routing_key);
            Ok(())
        })
    }

    fn consume<'a>(&'a self, queue: &'a str, prefetch: u16) -> BoxFuture<'a, Result<Consumer, BrokerError>> {
        Box::pin(async move {
            named("a subscription", queue)?;
            let feed = self.shared.feed(queue, prefetch).await?;
            // No prefetch exceeds this. Its blocks are allocated as they are needed.
            let (sender, deliveries) = mpsc::channel(usize::from(u16::MAX));
            let dropped = CancellationToken::new();
            let (resize, prefetch) = watch::channel(prefetch);
            let (died, deaths) = watch::channel(0);
            let subscription = Subscription {
                shared: Arc::clone(&self.shared),
                queue: Arc::from(queue),
                prefetch,
                died,
                sender,
                dropped: dropped.clone(),
            };
            if let Some(runtime) = &self.runtime {
                self.shared.subscriptions.spawn_on(subscription.run(feed), runtime.handle());
            }
            let subscription = Box::new(Handle { dropped, prefetch: resize });
            Ok(Consumer { deliveries, deaths, subscription })
        })
    }

    fn publish(&self, message: Message, mandatory: bool) -> Confirm {
        let (answer, confirm) = Confirm::pair();
        self.shared.publisher.publish(Sent { message, mandatory, answer: Some(answer) });
        confirm
    }

    fn tell(&self, message: Message) {
        self.shared.publisher.publish(Sent { message, mandatory: false, answer: None });
    }

    fn settle(&self, tag: Tag, how: Settle) {
        self.shared.ledgers.settle(tag, how);
    }

    /// `unacked` counts what this host holds: the protocol does not tell of others.
    fn depth<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<QueueDepth, BrokerError>> {
        Box::pin(async move {
            let ready = u64::from(self.shared.look(queue).await?.message_count());
            Ok(QueueDepth { ready, unacked: self.shared.ledgers.unacked(queue) })
        })
    }

    fn consumers<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Option<u64>, BrokerError>> {
        Box::pin(async move { Ok(Some(u64::from(self.shared.look(queue).await?.consumer_count()))) })
    }

    fn compare_queue<'a>(
        &'a self,
        spec: &'a QueueSpec,
    ) -> BoxFuture<'a, Result<Vec<Difference>, BrokerError>> {
        Box::pin(compare::queue(&self.shared, spec))
    }

    fn compare_exchange<'a>(
        &'a self,
        spec: &'a ExchangeSpec,
    ) -> BoxFuture<'a, Result<Vec<Difference>, BrokerError>> {
        Box::pin(compare::exchange(&self.shared, spec))
    }

    fn is_connected(&self) -> bool {
        RabbitMq::is_connected(self)
    }

    fn finished(&self, within: Duration) -> BoxFuture<'_, bool> {
        Box::pin(RabbitMq::finished(self, within))
    }

    fn lost(&self, tag: Tag) -> Lost {
        self.shared.ledgers.lost(tag)
    }
}
