//! Subscriptions: one channel each, rebuilt when it dies.
//!
//! A subscription outlives its channel. When the channel or the connection dies, the deliveries of
//! that generation are void: their tags settle nothing, whoever asks [`Ledger::lost`] is told, and
//! the broker has the messages back. The subscription then consumes on a new channel, under a new
//! generation, into the same stream; what was handed over and not taken yet stays in the stream and
//! is void too. It ends when its queue is gone, or when it is dropped.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use lapin::Channel;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    BasicRejectOptions,
};
use lapin::types::FieldTable;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::errors;
use super::lanes::Place;
use super::link::{Live, jitter};
use super::properties::{delivery_count, incoming, short};
use crate::broker::{self, BrokerError, Delivery, Loss, Lost, Message, Settle, Tag};

/// Shortest pause after a channel died.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause before a subscription is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a channel is given to close.
const CLOSING: Duration = Duration::from_secs(2);
/// Deliveries taken between two looks at everything else.
const AT_ONCE: usize = 64;
/// How often a retiring channel is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long a channel on which everything is settled stays open after its last acknowledgements.
/// RabbitMQ's channel hands them to a quorum queue bit by bit, and forgets what it has not handed over
/// when it is closed: the messages would come again.
const LINGER: Duration = Duration::from_millis(500);
/// The same for a channel that another has taken over from, where nobody waits for it: a queue that
/// elects its leader takes acknowledgements only after that.
const LINGER_BEHIND: Duration = Duration::from_secs(5);

/// A consumer is starved before it is cancelled: nothing is acknowledged, until it has got all that it
/// may hold or nothing has come for so long, but no longer than this in all. RabbitMQ's channel returns
/// what comes from a quorum queue after the cancellation, and counts it as failed, though no host ever
/// saw it.
const QUIET: Duration = Duration::from_millis(40);
const STARVED: Duration = Duration::from_millis(400);

/// All channels that deliver, by generation.
#[derive(Default)]
pub(super) struct Ledgers {
    map: RwLock<HashMap<u64, Arc<Ledger>>>,
    last: AtomicU64,
}

/// What one channel has delivered and what is settled of it.
pub(super) struct Ledger {
    generation: u64,
    queue: Arc<str>,
    state: Mutex<Book>,
    wake: Notify,
    lost: Lost,
}

#[derive(Default)]
struct Book {
    /// Delivered and not settled.
    open: BTreeSet<u64>,
    /// Settled and not told to the broker.
    settled: VecDeque<(u64, Settle)>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the broker takes for not acknowledged.
    fn unacknowledged(&self) -> usize {
        let book = self.lock();
        book.open.len() + book.settled.len()
    }
}

impl Ledgers {
    fn open(&self, queue: &Arc<str>) -> Arc<Ledger> {
        let generation = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let ledger = Arc::new(Ledger {
            generation,
            queue: Arc::clone(queue),
            state: Mutex::default(),
            wake: Notify::new(),
            lost: Lost::default(),
        });
        self.map.write().unwrap_or_else(PoisonError::into_inner).insert(generation, Arc::clone(&ledger));
        ledger
    }

    /// Makes a generation void. A broker that has waited too long has waited for the oldest delivery.
    fn close(&self, ledger: &Ledger, loss: Loss) {
        self.map.write().unwrap_or_else(PoisonError::into_inner).remove(&ledger.generation);
        let oldest = std::mem::take(&mut *ledger.lock()).open.first().copied();
        ledger.lost.tell(oldest.filter(|_| loss == Loss::Timeout));
    }

    /// Settles a delivery; ignores what is void or settled already.
    pub fn settle(&self, tag: Tag, how: Settle) {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let Some(ledger) = map.get(&tag.channel) else { return };
        let mut book = ledger.lock();
        if book.open.remove(&tag.number) {
            book.settled.push_back((tag.number, how));
            drop(book);
            ledger.wake.notify_one();
        }
    }

    /// Tells when the delivery is void; at once if it is already.
    pub fn lost(&self, tag: Tag) -> Lost {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        map.get(&tag.channel).map_or_else(
            || {
                let over = Lost::default();
                over.tell(None);
                over
            },
            |ledger| ledger.lost.of(tag.number),
        )
    }

    /// Deliveries from `queue` to this host that are not settled.
    pub fn unacked(&self, queue: &str) -> u64 {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        map.values().filter(|l| &*l.queue == queue).map(|l| l.lock().open.len() as u64).sum()
    }
}

/// A subscription's handle.
pub(super) struct Handle {
    pub dropped: CancellationToken,
    pub prefetch: watch::Sender<u16>,
}

impl broker::Subscription for Handle {
    fn set_prefetch(&self, prefetch: u16) {
        self.prefetch.send_if_modified(|now| std::mem::replace(now, prefetch) != prefetch);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.dropped.cancel();
    }
}

/// A subscription.
pub(super) struct Subscription {
    pub shared: Arc<Shared>,
    pub queue: Arc<str>,
    pub prefetch: watch::Receiver<u16>,
    pub died: watch::Sender<u64>,
    pub sender: mpsc::Sender<Delivery>,
    pub dropped: CancellationToken,
}

/// A channel with a consumer on it.
pub(super) struct Feed {
    live: Arc<Live>,
    channel: Channel,
    consumer: lapin::Consumer,
    prefetch: u16,
    place: Option<Place>,
}

/// A consumer that is being starved.
struct Starving {
    since: Instant,
    /// When the last delivery came; none when no other can come.
    last: Option<Instant>,
}

impl Starving {
    fn new() -> Self {
        let now = Instant::now();
        Self { since: now, last: Some(now) }
    }

    /// Waits until its consumer may be cancelled.
    async fn over(&self) {
        if let Some(last) = self.last {
            sleep_until((last + QUIET).min(self.since + STARVED)).await;
        }
    }
}

impl Feed {
    /// Subscribes on a channel of its own.
    pub async fn open(live: Arc<Live>, queue: &str, prefetch: u16) -> lapin::Result<Self> {
        let channel = live.channel().await?;
        channel.basic_qos(prefetch.max(1), BasicQosOptions::default()).await?;
        // A longer name was refused before.
        let name = short(queue).unwrap_or_default();
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(name, "".into(), options, FieldTable::default()).await?;
        Ok(Self { live, channel, consumer, prefetch: prefetch.max(1), place: None })
    }

    /// The same, in its place among its connection's channels.
    pub fn at(self, place: Place) -> Self {
        Self { place: Some(place), ..self }
    }

    /// Closes the channel before the consumer is dropped: dropping cancels it on a channel that may be
    /// gone, and lapin takes the failure of that for one of the whole connection.
    async fn close(self, queue: &str) {
        let closed = timeout(CLOSING, self.channel.close(200, "OK".into())).await;
        if closed.is_err() && !self.live.lost.is_cancelled() {
            tracing::warn!(queue, "a channel did not close in time: the connection is given up");
            self.live.give_up();
        }
    }
}

/// Waits until everything that a channel has delivered is settled, then closes it.
async fn retire(shared: Arc<Shared>, dropped: CancellationToken, feed: Feed, ledger: Arc<Ledger>) {
    let mut loss = Loss::Connection;
    loop {
        let settled = flush(&feed.channel, &ledger);
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            () = feed.live.lost.cancelled() => break,
            () = dropped.cancelled(), if !settled => break,
            () = sleep(LINGER_BEHIND), if settled => break,
            () = async { dropped.cancelled().await; sleep(LINGER).await }, if settled => break,
            () = ledger.wake.notified(), if !settled => {}
            () = closed(&feed.channel), if !settled => {
                // Its consumer, which would be told why, has ended. While the connection lives only what
                // it still holds is a reason to close it.
                if feed.live.connection.status().connected() {
                    loss = Loss::Timeout;
                }
                break;
            }
        }
    }
    shared.ledgers.close(&ledger, loss);
    feed.close(&ledger.queue).await;
}

/// Waits until a channel is closed, which lapin tells nobody who has no operation under way.
async fn closed(channel: &Channel) {
    while channel.status().connected() {
        sleep(LINGER).await;
    }
}

/// How a channel's time ended.
enum End {
    /// It died; another may follow.
    Dead(Loss),
    /// Another with a new prefetch takes over; what this one has delivered is settled in time.
    Retired,
    /// Nobody listens any more, or the queue is gone: no other follows.
    Over,
}

impl Subscription {
    /// Delivers until the end, on one channel after the other.
    pub async fn run(mut self, first: Feed) {
        let mut feed = Some(first);
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(feed) = feed.take() {
                let since = Instant::now();
                let ledger = self.shared.ledgers.open(&self.queue);
                match self.serve(feed, &ledger).await {
                    End::Over => return self.shared.ledgers.close(&ledger, Loss::Connection),
                    End::Dead(loss) => {
                        self.died.send_modify(|n| *n += 1);
                        self.shared.ledgers.close(&ledger, loss);
                    }
                    End::Retired => {
                        self.fewer(&ledger).await;
                        pause = Duration::ZERO;
                    }
                }
                if since.elapsed() > LONGEST_PAUSE {
                    pause = FIRST_PAUSE;
                }
            }
            tokio::select! {
                () = self.dropped.cancelled() => return,
                () = self.shared.stop.cancelled() => return,
                () = sleep(jitter(pause)) => {}
            }
            pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            let prefetch = *self.prefetch.borrow_and_update();
            let again = tokio::select! {
                () = self.dropped.cancelled() => return,
                () = self.shared.stop.cancelled() => return,
                again = self.shared.feed(&self.queue, prefetch) => again,
            };
            match again {
                Ok(again) => feed = Some(again),
                Err(BrokerError::NotFound { .. }) => {
                    tracing::warn!(queue = &*self.queue, "the queue is gone: not consuming it any more");
                    return;
                }
                Err(error) => tracing::warn!(queue = &*self.queue, %error, "cannot consume; trying again"),
            }
        }
    }

    /// Waits until the channel that retires holds less than is allowed now.
    async fn fewer(&self, ledger: &Ledger) {
        while ledger.lock().open.len() >= usize::from(*self.prefetch.borrow())
            && !self.dropped.is_cancelled()
            && !self.shared.stop.is_cancelled()
        {
            sleep(LOOK).await;
        }
    }

    /// Delivers and settles on one channel.
    async fn serve(&mut self, feed: Feed, ledger: &Arc<Ledger>) -> End {
        let Feed { live, channel, mut consumer, prefetch, place } = feed;
        let mut held: Option<Delivery> = None;
        let mut publishing = self.shared.publisher.open.subscribe();
        let mut listening = true;
        let mut delivering = true;
        let mut retiring = false;
        let mut starving: Option<Starving> = None;
        // Asked for once: each costs a lock and a place in a list.
        let (stop, dropped, over) = (self.shared.stop.clone(), self.dropped.clone(), live.lost.clone());
        let mut stopped = std::pin::pin!(stop.cancelled());
        let mut lost = std::pin::pin!(over.cancelled());
        let mut given_up = std::pin::pin!(dropped.cancelled());
        let end = 'channel: loop {
            let can_publish = *publishing.borrow_and_update();
            tokio::select! {
                biased;
                () = &mut stopped => break End::Over,
                () = &mut lost => break End::Dead(Loss::Connection),
                () = &mut given_up, if starving.is_none() => {
                    if flush(&channel, ledger) {
                        stop_delivering(&channel, &consumer).await;
                        tokio::select! {
                            () = sleep(LINGER) => {}
                            () = live.lost.cancelled() => {}
                        }
                    }
                    break End::Over;
                }
                () = ledger.wake.notified() => {
                    if self.sender.is_closed() && listening {
                        listening = false;
                        starving.get_or_insert_with(Starving::new);
                    }
                    if starving.is_none() {
                        let _ = flush(&channel, ledger);
                    }
                }
                () = self.sender.closed(), if listening => {
                    // What is returned now must not come to this consumer again.
                    listening = false;
                    starving.get_or_insert_with(Starving::new);
                }
                Ok(()) = self.prefetch.changed(), if listening && delivering && !retiring => {
                    retiring = true;
                    starving = Some(Starving::new());
                }
                _ = publishing.changed(), if held.is_some() && !can_publish => {}
                permit = self.sender.reserve(), if held.is_some() && can_publish && listening => {
                    if let (Ok(permit), Some(delivery)) = (permit, held.take()) {
                        permit.send(delivery);
                    }
                }
                first = next(&mut consumer), if delivering && held.is_none() => {
                    let (mut item, mut count) = (first, 0);
                    loop {
                        match item {
                            Some(Ok(delivery)) => {
                                ledger.lock().open.insert(delivery.delivery_tag);
                                if let Some(starving) = &mut starving {
                                    starving.last = Some(Instant::now());
                                }
                                let delivery = self.delivery(delivery, ledger);
                                if !listening {
                                    self.shared.ledgers.settle(delivery.tag, Settle::Nack);
                                } else if !can_publish {
                                    // A job that cannot answer would only fail, and be counted as failed.
                                    held = Some(delivery);
                                } else if let Err(full) = self.sender.try_send(delivery) {
                                    held = Some(full.into_inner());
                                }
                            }
                            Some(Err(error)) => {
                                tracing::warn!(queue = &*self.queue, %error, "the channel of a subscription died");
                                break 'channel End::Dead(errors::loss(&error));
                            }
                            None if !channel.status().connected() => break 'channel End::Dead(Loss::Connection),
                            None if retiring && listening => break 'channel End::Retired,
                            None => {
                                // Cancelled by the broker, for the queue is gone, or by ourselves.
                                delivering = false;
                                if listening {
                                    tracing::warn!(queue = &*self.queue, "the broker ended a subscription: its queue was deleted");
                                    break 'channel End::Over;
                                }
                                break;
                            }
                        }
                        // What else is there already, but not so much that nothing else is looked at.
                        count += 1;
                        if held.is_some() || count == AT_ONCE {
                            break;
                        }
                        match at_once(&mut consumer).await {
                            Poll::Ready(next) => item = next,
                            Poll::Pending => break,
                        }
                    }
                }
                () = async { if let Some(starving) = &starving { starving.over().await } }, if starving.is_some() => {
                    starving = None;
                    stop_delivering(&channel, &consumer).await;
                    let _ = flush(&channel, ledger);
                }
            }
            if let Some(starving) = &mut starving {
                starving.last =
                    (ledger.unacknowledged() < usize::from(prefetch)).then_some(starving.last).flatten();
            }
            if !listening && let Some(delivery) = held.take() {
                self.shared.ledgers.settle(delivery.tag, Settle::Nack);
            }
        };
        let feed = Feed { live, channel, consumer, prefetch, place };
        if matches!(end, End::Retired) {
            let (shared, dropped) = (Arc::clone(&self.shared), self.dropped.clone());
            self.shared.subscriptions.spawn(retire(shared, dropped, feed, Arc::clone(ledger)));
        } else {
            feed.close(&self.queue).await;
        }
        end
    }

    fn delivery(&self, from: lapin::message::Delivery, ledger: &Ledger) -> Delivery {
        let properties = incoming(&from.properties);
        Delivery {
            delivery_count: delivery_count(&properties, from.redelivered),
            message: Message {
                exchange: from.exchange.into(),
                routing_key: from.routing_key.into(),
                properties,
                body: Bytes::from(from.data),
            },
            queue: Arc::clone(&self.queue),
            tag: Tag { channel: ledger.generation, number: from.delivery_tag },
        }
    }
}

async fn next(consumer: &mut lapin::Consumer) -> Option<lapin::Result<lapin::message::Delivery>> {
    std::future::poll_fn(|cx| Pin::new(&mut *consumer).poll_next(cx)).await
}

/// What comes next, if it is there.
async fn at_once(consumer: &mut lapin::Consumer) -> Poll<Option<lapin::Result<lapin::message::Delivery>>> {
    std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *consumer).poll_next(cx))).await
}

async fn stop_delivering(channel: &Channel, consumer: &lapin::Consumer) {
    let cancelled =
        timeout(CLOSING, channel.basic_cancel(consumer.tag(), BasicCancelOptions::default())).await;
    if !matches!(cancelled, Ok(Ok(()))) {
        tracing::debug!("a consumer could not be cancelled: its channel is closing");
    }
}

/// Tells the broker what was settled, in order. The lowest tag that is still open bounds a prefix
/// which one acknowledgement covers. True when nothing is open: then all has been told.
fn flush(channel: &Channel, ledger: &Ledger) -> bool {
    let (settled, lowest) = {
        let mut book = ledger.lock();
        (std::mem::take(&mut book.settled), book.open.first().copied().unwrap_or(u64::MAX))
    };
    let mut prefix = (0, 0);
    for (tag, how) in &settled {
        match how {
            Settle::Ack if *tag < lowest => prefix = (prefix.0.max(*tag), prefix.1 + 1),
            Settle::Ack => {}
            Settle::Reject => start(channel.basic_reject(*tag, BasicRejectOptions { requeue: true })),
            Settle::Nack => {
                start(channel.basic_nack(*tag, BasicNackOptions { multiple: false, requeue: true }))
            }
        }
    }
    if prefix.1 > 0 {
        start(channel.basic_ack(prefix.0, BasicAckOptions { multiple: prefix.1 > 1 }));
    }
    for (tag, _) in settled.iter().filter(|(tag, how)| *how == Settle::Ack && *tag > lowest) {
        start(channel.basic_ack(*tag, BasicAckOptions::default()));
    }
    lowest == u64::MAX
}

/// Queues the frames of an operation that has no answer. Waiting for the socket would cost three
/// times the work, and says nothing of the broker.
fn start(operation: impl Future<Output = lapin::Result<()>>) {
    let _ = std::pin::pin!(operation).as_mut().poll(&mut Context::from_waker(Waker::noop()));
}

/// The broker's error for a subscription.
pub(super) fn error(queue: &str, error: &lapin::Error) -> BrokerError {
    errors::of("a subscription", "queue", queue, error)
}
