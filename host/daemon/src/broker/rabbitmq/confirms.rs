//! What is on its way on one publishing channel: written in the order of the calls, each answered
//! when its fate is decided.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use lapin::Channel;
use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use tokio::sync::{Notify, oneshot};

use super::errors::{self, ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED};
use super::fates::Fates;
use super::properties::{outgoing, short};
use super::publish::{Patience, answer};
use crate::broker::{BrokerError, Confirmation, Message};

/// Starts every mark of our own.
const MARK: &str = "warren-";

/// A channel that refuses a message is replaced, but not more often than this. RabbitMQ 3.10 keeps, for
/// each channel, which node leads a queue: one that was first asked to publish while that node was dead
/// refuses every message for that queue for as long as it is, though another leads by then.
const RENEWAL: Duration = Duration::from_secs(1);
/// How long what is on its way may hold up a replacement, and with it what is to be sent.
const HELD_UP: Duration = Duration::from_secs(1);

/// How often deadlines are looked at.
const EXPIRE: Duration = Duration::from_millis(250);
/// How long the reason for a closed channel may take to come: a busy machine may be slow to hand it over.
const REASON: Duration = Duration::from_secs(2);

/// A message to be published, and who waits for its fate.
pub(super) struct Sent {
    pub message: Message,
    pub mandatory: bool,
    pub answer: Option<oneshot::Sender<Result<Confirmation, BrokerError>>>,
}

/// Which of a channel's publishes have something to tell.
#[derive(Default)]
pub(super) struct Ready {
    ids: Mutex<VecDeque<u64>>,
    notify: Notify,
}

impl Ready {
    /// Waits until there are some.
    pub async fn wait(&self) {
        self.notify.notified().await;
    }

    fn take(&self) -> VecDeque<u64> {
        std::mem::take(&mut *self.ids.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Wakes up one publish.
struct Bell {
    id: u64,
    /// Nobody waits for it: it is looked at when another rings, or after a while.
    silent: bool,
    rung: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.ready.ids.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.id);
            if !self.silent {
                self.ready.notify.notify_one();
            }
        }
    }
}

/// Ends with the confirm, or with what went wrong and whether the message was written by then.
type Publishing = Pin<Box<dyn Future<Output = Result<lapin::Confirmation, (bool, lapin::Error)>> + Send>>;

/// A publish on its way.
struct Slot {
    publishing: Publishing,
    bell: Arc<Bell>,
    answer: Option<oneshot::Sender<Result<Confirmation, BrokerError>>>,
    since: Instant,
    exchange: String,
    length: u64,
    /// There is nothing more to come of it.
    confirmed: bool,
}

/// All publishes on their way on one channel.
pub(super) struct Confirms {
    channel: Channel,
    ready: Arc<Ready>,
    slots: HashMap<u64, Slot>,
    /// When deadlines were looked at last.
    expired: Instant,
    next: u64,
    fates: Fates,
    /// The channel is closed, or refuses what is sent, and the reason has not come yet, since then.
    closed: Option<Instant>,
    /// Messages for the next channel: this one closed before they were sent, or is to be replaced.
    later: Vec<Sent>,
    opened: Instant,
    /// Another shall replace this one as soon as nothing is on its way here: then order holds. Since when.
    replaced: Option<Instant>,
}

impl Confirms {
    pub fn new(channel: Channel, ready: Arc<Ready>) -> Self {
        Self {
            channel,
            ready,
            slots: HashMap::new(),
            expired: Instant::now(),
            next: 0,
            fates: Fates::default(),
            closed: None,
            later: Vec::new(),
            opened: Instant::now(),
            replaced: None,
        }
    }

    /// The channel.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Puts a message on the wire, behind those of earlier calls. Never waits.
    pub fn send(&mut self, sent: Sent) {
        if !self.channel.status().connected() || self.replaced.is_some() {
            self.later.push(sent);
            self.ready.notify.notify_one();
            return;
        }
        let Sent { message, mandatory, answer: mut to } = sent;
        let (Some(exchange), Some(key)) = (short(&message.exchange), short(&message.routing_key)) else {
            // No queue and no binding can have a name that AMQP cannot carry.
            let nobody = if mandatory { Confirmation::Returned } else { Confirmation::Confirmed };
            return answer(&mut to, Ok(nobody));
        };
        self.next += 1;
        let id = self.next;
        let mut token = None;
        let mark = mandatory.then(|| {
            let own = message.properties.message_id.as_ref();
            match own.filter(|m| short(m).is_some() && !m.starts_with(MARK) && !self.fates.has(m)) {
                Some(own) => own.clone(),
                None => token.insert(format!("{MARK}{id}")).clone(),
            }
        });
        let properties = outgoing(&message.properties, token.as_deref());
        let (channel, body) = (self.channel.clone(), message.body.clone());
        let mut publishing: Publishing = Box::pin(async move {
            let options = BasicPublishOptions { mandatory, immediate: false };
            let written = channel.basic_publish(exchange, key, options, &body, properties).await;
            written.map_err(|error| (false, error))?.await.map_err(|error| (true, error))
        });
        let silent = to.is_none();
        let bell =
            Arc::new(Bell { id, silent, rung: AtomicBool::new(false), ready: Arc::clone(&self.ready) });
        // The first poll queues the frames: from here on the order is fixed.
        let polled = publishing.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(&bell))));
        let come = match polled {
            Poll::Pending => None,
            // So fast when this thread was not running for a while.
            Poll::Ready(Ok(confirmation)) => Some(confirmation),
            // The channel has closed since it was looked at.
            Poll::Ready(Err((false, _))) => {
                self.later.push(Sent { message, mandatory, answer: to });
                return self.ready.notify.notify_one();
            }
            Poll::Ready(Err((true, error))) => {
                let fate = fate(errors::reply(&error), &message.exchange, message.body.len() as u64);
                return answer(&mut to, fate);
            }
        };
        self.fates.sent(id, mark);
        let slot = Slot {
            publishing,
            bell,
            answer: to,
            since: Instant::now(),
            length: message.body.len() as u64,
            exchange: message.exchange,
            confirmed: come.is_some(),
        };
        self.slots.insert(id, slot);
        if let Some(confirmation) = come {
            self.note(id, confirmation);
            self.ready.notify.notify_one();
        }
    }

    /// Takes note of a confirm. It is decided when all that have come are noted.
    fn note(&mut self, id: u64, confirmation: lapin::Confirmation) {
        let positive = confirmation.is_ack();
        let returned = confirmation.take_message();
        if !positive && self.opened.elapsed() > RENEWAL {
            self.replaced.get_or_insert_with(Instant::now);
        }
        self.fates.confirmed(id, positive, returned.as_ref().map(mark));
    }

    /// Looks at what has something to tell, and answers what is decided. `Some` when the channel is
    /// closed, with the broker's reason if it gave one; or when another shall replace it.
    pub fn collect(&mut self) -> Option<Option<lapin::Error>> {
        let mut dead = None;
        // All that rang is looked at before anything is decided: a confirm may have come with the
        // return of one that rang earlier.
        loop {
            let rung = self.ready.take();
            if rung.is_empty() {
                break;
            }
            for id in rung {
                let Some(slot) = self.slots.get_mut(&id).filter(|s| !s.confirmed) else { continue };
                slot.bell.rung.store(false, Ordering::Release);
                let waker = Waker::from(Arc::clone(&slot.bell));
                match slot.publishing.as_mut().poll(&mut Context::from_waker(&waker)) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(confirmation)) => {
                        slot.confirmed = true;
                        self.note(id, confirmation);
                    }
                    Poll::Ready(Err((_, error))) => {
                        // One that was not written when the channel closed may not know the reason,
                        // and be told before those that do.
                        slot.confirmed = true;
                        self.closed.get_or_insert_with(Instant::now);
                        if errors::reply(&error).is_some() {
                            dead.get_or_insert(Some(error));
                        }
                    }
                }
            }
        }
        for (id, fate) in self.fates.decide() {
            if let Some(mut slot) = self.slots.remove(&id) {
                answer(&mut slot.answer, Ok(fate));
            }
        }
        if let Some(since) = self.replaced
            && self.closed.is_none()
            && self.channel.status().connected()
        {
            if self.slots.is_empty() {
                return Some(None);
            }
            if since.elapsed() > HELD_UP {
                // Not now.
                (self.replaced, self.opened) = (None, Instant::now());
                self.later().into_iter().for_each(|sent| self.send(sent));
            }
        }
        if dead.is_none() && (self.closed.is_some() || !self.channel.status().connected()) {
            // lapin closes the channel first and fails its publishes next: the reason comes with them.
            let since = *self.closed.get_or_insert_with(Instant::now);
            if self.slots.values().all(|slot| slot.confirmed) || since.elapsed() > REASON {
                dead = Some(None);
            }
        }
        dead
    }

    /// Stops waiting for what has been on its way too long. It may still arrive.
    pub fn expire(&mut self, patience: Patience, blocked: bool, unblocked: Instant) {
        let now = Instant::now();
        if now.saturating_duration_since(self.expired) < EXPIRE {
            return;
        }
        self.expired = now;
        for slot in self.slots.values_mut().filter(|s| s.answer.is_some()) {
            let (since, limit) = if blocked {
                (slot.since, patience.blocked)
            } else {
                (slot.since.max(unblocked), patience.confirm)
            };
            let after = now.saturating_duration_since(since);
            if after >= limit {
                answer(&mut slot.answer, Err(BrokerError::Timeout { operation: "a publish", after }));
            }
        }
    }

    /// What is to be sent on the next channel.
    pub fn later(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.later)
    }

    /// Answers everything that was sent, for the channel is closed. What closed it has a fate of its own; that of
    /// the rest is unknown.
    pub fn fail(&mut self, error: Option<&lapin::Error>) {
        let reply = error.and_then(errors::reply);
        for (_, mut slot) in self.slots.drain() {
            let fate = fate(reply, &slot.exchange, slot.length);
            answer(&mut slot.answer, fate);
        }
        self.fates = Fates::default();
    }
}

/// The fate of a message whose channel was closed, with what the broker said.
fn fate(reply: Option<(u16, &str)>, exchange: &str, length: u64) -> Result<Confirmation, BrokerError> {
    match reply {
        Some((NOT_FOUND, text)) if errors::missing(text, "exchange") == Some(exchange) => {
            Err(BrokerError::NotFound { what: "exchange", name: exchange.to_owned() })
        }
        Some((ACCESS_REFUSED, text)) if refused(text, exchange) => {
            Err(BrokerError::Refused { operation: "a publish", reason: text.to_owned() })
        }
        Some((PRECONDITION_FAILED, text)) => match errors::too_large(text) {
            Some((refused, most)) if refused == length => Err(BrokerError::TooLong { length, most }),
            _ => Err(BrokerError::ConnectionLost),
        },
        _ => Err(BrokerError::ConnectionLost),
    }
}

/// What a returned message is known by.
fn mark(message: &BasicReturnMessage) -> &str {
    let properties = &message.delivery.properties;
    let own = properties.cluster_id().as_ref().filter(|own| own.as_str().starts_with(MARK));
    own.or(properties.message_id().as_ref()).map_or("", |mark| mark.as_str())
}

/// Whether a text about permissions speaks of that exchange. The default one has a name there.
fn refused(text: &str, exchange: &str) -> bool {
    errors::refused_exchange(text) == Some(if exchange.is_empty() { "amq.default" } else { exchange })
}
