//! What is on its way on one publishing channel, and what becomes of it.
//!
//! lapin hands a returned message to whichever confirm completes next, which may be another's. So
//! returned messages are told apart by `message_id`, or, where that is absent or on its way twice,
//! by a mark of our own; and a confirm that came with another's return is decided only when it is
//! certain that no return of its own is still to come. Why that is enough: RabbitMQ sends a return
//! before the confirm of the same message, and lapin queues returns and takes one from the queue at
//! each confirm, while there is any. Say a message is *in doubt* if its confirm has come and its
//! return may still be queued, and *owed* if its return was seen and its confirm has not come. A
//! confirm that takes nothing found the queue empty: nothing is in doubt. One that takes another's
//! return can bring at most itself in doubt, and makes the other owed. So there are never more in
//! doubt than owed, and when none is owed, none is in doubt.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use lapin::Channel;
use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use tokio::sync::{Notify, oneshot};

use super::errors::{self, ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED};
use super::properties::{outgoing, short};
use super::publish::{Patience, answer};
use crate::broker::{BrokerError, Confirmation, Message};

/// Starts every mark of our own.
const MARK: &str = "warren-";

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
            self.ready.notify.notify_one();
        }
    }
}

type Publishing = Pin<Box<dyn Future<Output = lapin::Result<lapin::Confirmation>> + Send>>;

/// A publish on its way.
struct Slot {
    publishing: Publishing,
    bell: Arc<Bell>,
    answer: Option<oneshot::Sender<Result<Confirmation, BrokerError>>>,
    since: Instant,
    exchange: String,
    length: u64,
    /// What a return of it is known by.
    mark: Option<String>,
    returned: bool,
    /// The confirm has come: whether it was positive, and whether it took another's return.
    confirmed: Option<(bool, bool)>,
}

/// All publishes on their way on one channel.
pub(super) struct Confirms {
    channel: Channel,
    ready: Arc<Ready>,
    slots: HashMap<u64, Slot>,
    next: u64,
    /// Mandatory publishes by what their return would be known by.
    marks: HashMap<String, u64>,
    /// Returned, and the confirm has not come.
    owed: HashSet<u64>,
    /// Confirmed, and perhaps returned.
    doubt: Vec<u64>,
}

impl Confirms {
    pub fn new(channel: Channel, ready: Arc<Ready>) -> Self {
        Self {
            channel,
            ready,
            slots: HashMap::new(),
            next: 0,
            marks: HashMap::new(),
            owed: HashSet::new(),
            doubt: Vec::new(),
        }
    }

    /// Puts a message on the wire, behind those of earlier calls. Never waits.
    pub fn send(&mut self, sent: Sent) {
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
            match own.filter(|m| short(m).is_some() && !m.starts_with(MARK) && !self.marks.contains_key(*m)) {
                Some(own) => own.clone(),
                None => token.insert(format!("{MARK}{id}")).clone(),
            }
        });
        let properties = outgoing(&message.properties, token.as_deref());
        let (channel, length) = (self.channel.clone(), message.body.len() as u64);
        let (name, body) = (message.exchange, message.body);
        let mut publishing: Publishing = Box::pin(async move {
            let options = BasicPublishOptions { mandatory, immediate: false };
            channel.basic_publish(exchange, key, options, &body, properties).await?.await
        });
        let bell = Arc::new(Bell { id, rung: AtomicBool::new(false), ready: Arc::clone(&self.ready) });
        // The first poll queues the frames: from here on the order is fixed.
        let polled = publishing.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(&bell))));
        if polled.is_ready() {
            // Only a channel that is closed answers at once.
            return answer(&mut to, Err(BrokerError::ConnectionLost));
        }
        if let Some(mark) = &mark {
            self.marks.insert(mark.clone(), id);
        }
        let slot = Slot {
            publishing,
            bell,
            answer: to,
            since: Instant::now(),
            exchange: name,
            length,
            mark,
            returned: false,
            confirmed: None,
        };
        self.slots.insert(id, slot);
    }

    /// Looks at what has something to tell, and answers what is decided. `Some` when the channel is
    /// closed, with the broker's reason if it gave one.
    pub fn collect(&mut self) -> Option<Option<lapin::Error>> {
        let mut decided = std::mem::take(&mut self.doubt);
        let mut dead = None;
        // All that rang is looked at before anything is decided: see above.
        loop {
            let rung = self.ready.take();
            if rung.is_empty() {
                break;
            }
            for id in rung {
                let Some(slot) = self.slots.get_mut(&id).filter(|s| s.confirmed.is_none()) else { continue };
                slot.bell.rung.store(false, Ordering::Release);
                let waker = Waker::from(Arc::clone(&slot.bell));
                match slot.publishing.as_mut().poll(&mut Context::from_waker(&waker)) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(confirmation)) => {
                        let positive = confirmation.is_ack();
                        let returned = confirmation.take_message();
                        slot.confirmed = Some((positive, false));
                        self.owed.remove(&id);
                        decided.push(id);
                        if let Some(message) = returned {
                            self.note(id, &message);
                        }
                    }
                    Poll::Ready(Err(error)) => {
                        dead.get_or_insert(Some(error));
                    }
                }
            }
        }
        for id in decided {
            self.decide(id);
        }
        if dead.is_none() && !self.channel.status().connected() {
            dead = Some(None);
        }
        dead
    }

    /// Takes note of a return that came with the confirm of `by`.
    fn note(&mut self, by: u64, message: &BasicReturnMessage) {
        let properties = &message.delivery.properties;
        let token = properties.cluster_id().as_ref().filter(|token| token.as_str().starts_with(MARK));
        let mark = token.or(properties.message_id().as_ref()).map_or("", |mark| mark.as_str());
        let Some(id) = self.marks.get(mark).copied() else {
            tracing::warn!(mark, "the broker returned a message that was not published here");
            return;
        };
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.returned = true;
            if slot.confirmed.is_none() {
                self.owed.insert(id);
            }
        }
        if id != by
            && let Some(slot) = self.slots.get_mut(&by)
            && let Some((_, another)) = &mut slot.confirmed
        {
            *another = true;
        }
    }

    /// Answers a confirmed publish, if its fate is certain.
    fn decide(&mut self, id: u64) {
        let Some(slot) = self.slots.get(&id) else { return };
        let Some((positive, another)) = slot.confirmed else { return };
        if slot.mark.is_some() && !slot.returned && another && !self.owed.is_empty() {
            self.doubt.push(id);
            return;
        }
        let Some(mut slot) = self.slots.remove(&id) else { return };
        if let Some(mark) = &slot.mark {
            self.marks.remove(mark);
        }
        let fate = match (positive, slot.returned) {
            (false, _) => Confirmation::Nacked,
            (true, true) => Confirmation::Returned,
            (true, false) => Confirmation::Confirmed,
        };
        answer(&mut slot.answer, Ok(fate));
    }

    /// Stops waiting for what has been on its way too long. It may still arrive.
    pub fn expire(&mut self, patience: Patience, blocked: bool, unblocked: Instant) {
        let now = Instant::now();
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

    /// Answers everything, for the channel is closed. What closed it has a fate of its own; that of
    /// the rest is unknown.
    pub fn fail(&mut self, error: Option<&lapin::Error>) {
        let reply = error.and_then(errors::reply);
        for (_, mut slot) in self.slots.drain() {
            let fate = match reply {
                Some((NOT_FOUND, text)) if errors::missing(text, "exchange") == Some(&*slot.exchange) => {
                    Err(BrokerError::NotFound { what: "exchange", name: slot.exchange.clone() })
                }
                Some((ACCESS_REFUSED, text)) if refused(text, &slot.exchange) => {
                    Err(BrokerError::Refused { operation: "a publish", reason: text.to_owned() })
                }
                Some((PRECONDITION_FAILED, text))
                    if errors::too_large(text).is_some_and(|(length, _)| length == slot.length) =>
                {
                    Ok(Confirmation::Nacked)
                }
                _ => Err(BrokerError::ConnectionLost),
            };
            answer(&mut slot.answer, fate);
        }
        self.marks.clear();
        self.owed.clear();
        self.doubt.clear();
    }
}

/// Whether a text about permissions speaks of that exchange. The default one has a name there.
fn refused(text: &str, exchange: &str) -> bool {
    errors::refused_exchange(text) == Some(if exchange.is_empty() { "amq.default" } else { exchange })
}
