//! Everything that the embedded broker holds, and every operation on it. All of it runs under the
//! one lock; nothing here waits.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::routing::Exchange;
use crate::broker::{
    BrokerError, Confirmation, Delivery, ExchangeSpec, HeaderValue, Message, QueueDepth, QueueSpec, Settle,
    Tag,
};

pub(super) struct State {
    exchanges: HashMap<String, Exchange>,
    queues: HashMap<Arc<str>, Queue>,
    channels: HashMap<u64, Channel>,
    last_channel: u64,
    /// When to look at a queue's head again, soonest first.
    timers: BinaryHeap<Reverse<(Instant, Arc<str>)>>,
    /// Tells the expiring task that its next time has come nearer.
    wake: Arc<Notify>,
}

struct Queue {
    name: Arc<str>,
    spec: QueueSpec,
    /// The connection that declared it, if it is exclusive.
    owner: Option<u64>,
    /// Waiting messages by rising position.
    ready: VecDeque<Stored>,
    next_position: u64,
    unacked: usize,
    /// Channels that consume it, the next to be served first.
    consumers: VecDeque<u64>,
    /// The earliest of this queue's entries in the timers.
    armed: Option<Instant>,
}

/// A message in a queue, waiting or delivered.
struct Stored {
    /// Its place among the queue's messages, which a return restores.
    position: u64,
    message: Arc<Message>,
    delivery_count: u32,
    expires: Option<Instant>,
    /// Queues in which it has expired since it was published or last returned by a consumer. As in
    /// RabbitMQ, a message that would come back to one of them by expiry alone is dropped.
    expired_in: Vec<Arc<str>>,
}

/// One consumer.
struct Channel {
    connection: u64,
    queue: Arc<str>,
    prefetch: usize,
    sender: mpsc::Sender<Delivery>,
    last_number: u64,
    unacked: HashMap<u64, Stored>,
}

/// A message that leaves its queue for the dead-letter exchange.
struct Dead {
    stored: Stored,
    queue: Arc<str>,
    reason: &'static str,
    exchange: String,
    routing_key: Option<String>,
}

impl Queue {
    /// Adds a message at the end.
    fn push(&mut self, message: Arc<Message>, expired_in: Vec<Arc<str>>, now: Instant) {
        let ttl = match (self.spec.message_ttl, message.properties.expiration) {
            (Some(queue), Some(message)) => Some(queue.min(message)),
            (queue, message) => queue.or(message),
        };
        // A time to live beyond what the clock can say is none.
        let expires = ttl.and_then(|ttl| now.checked_add(ttl));
        let position = self.next_position;
        self.next_position += 1;
        self.ready.push_back(Stored { position, message, delivery_count: 0, expires, expired_in });
    }

    /// Returns a message to its place.
    fn put_back(&mut self, stored: Stored) {
        let at = self.ready.partition_point(|s| s.position < stored.position);
        self.ready.insert(at, stored);
    }

    /// Returns a message after a failed attempt, or gives it up.
    fn fail(&mut self, mut stored: Stored, dead: &mut VecDeque<Dead>) {
        stored.delivery_count = stored.delivery_count.saturating_add(1);
        stored.expired_in.clear();
        match self.spec.delivery_limit {
            Some(limit) if stored.delivery_count > limit => self.bury(stored, "delivery_limit", dead),
            _ => self.put_back(stored),
        }
    }

    fn bury(&self, mut stored: Stored, reason: &'static str, dead: &mut VecDeque<Dead>) {
        let Some((exchange, routing_key)) = self.spec.dead_letter.clone() else {
            tracing::debug!(
                queue = &*self.name,
                reason,
                "dropped a message: its queue has no dead-letter exchange"
            );
            return;
        };
        if reason == "expired" {
            stored.expired_in.push(Arc::clone(&self.name));
        }
        dead.push_back(Dead { stored, queue: Arc::clone(&self.name), reason, exchange, routing_key });
    }

    /// Buries what is over at the head.
    fn expire_head(&mut self, is_over: impl Fn(Instant) -> bool, dead: &mut VecDeque<Dead>) {
        while self.ready.front().and_then(|s| s.expires).is_some_and(&is_over) {
            if let Some(stored) = self.ready.pop_front() {
                self.bury(stored, "expired", dead);
            }
        }
    }

    /// The next consumer in turn that may take a message.
    fn next_consumer(&mut self, channels: &HashMap<u64, Channel>) -> Option<u64> {
        for _ in 0..self.consumers.len() {
            let id = *self.consumers.front()?;
            self.consumers.rotate_left(1);
            if channels.get(&id).is_some_and(|c| c.unacked.len() < c.prefetch) {
                return Some(id);
            }
        }
        None
    }

    /// Delivers what can be delivered.
    fn pump(&mut self, channels: &mut HashMap<u64, Channel>, dead: &mut VecDeque<Dead>, now: Instant) {
        while !self.ready.is_empty() {
            // Below and not at: a message without any time to live may go to a consumer that waits
            // at the very instant of its arrival.
            self.expire_head(|at| at < now, dead);
            let Some(id) = self.next_consumer(channels) else { return };
            let (Some(channel), Some(stored)) = (channels.get_mut(&id), self.ready.pop_front()) else {
                return;
            };
            let number = channel.last_number + 1;
            let delivery = Delivery {
                message: (*stored.message).clone(),
                queue: Arc::clone(&self.name),
                tag: Tag { channel: id, number },
                delivery_count: stored.delivery_count,
            };
            if channel.sender.try_send(delivery).is_ok() {
                channel.last_number = number;
                channel.unacked.insert(number, stored);
                self.unacked += 1;
            } else {
                // Nobody receives any more: no new deliveries, though old ones may still be settled.
                self.consumers.retain(|c| *c != id);
                self.ready.push_front(stored);
            }
        }
    }
}

impl State {
    pub fn new(wake: Arc<Notify>) -> Self {
        Self {
            exchanges: HashMap::new(),
            queues: HashMap::new(),
            channels: HashMap::new(),
            last_channel: 0,
            timers: BinaryHeap::new(),
            wake,
        }
    }

    pub fn declare_exchange(&mut self, spec: &ExchangeSpec) -> Result<(), BrokerError> {
        let ExchangeSpec { name, kind, alternate } = spec;
        if let Some(found) = self.exchanges.get(name) {
            same("exchange", name, "type", &Some(found.kind), &Some(*kind))?;
            return same("exchange", name, "alternate-exchange", &found.alternate, alternate);
        }
        self.exchanges.insert(name.clone(), Exchange::new(*kind, alternate.clone()));
        Ok(())
    }

    pub fn declare_queue(&mut self, spec: &QueueSpec, connection: u64) -> Result<(), BrokerError> {
        if let Some(queue) = self.queues.get(&*spec.name) {
            queue.check_owner(connection)?;
            let (name, found) = (&spec.name, &queue.spec);
            same("queue", name, "exclusive", &Some(found.exclusive), &Some(spec.exclusive))?;
            same("queue", name, "message_ttl", &found.message_ttl, &spec.message_ttl)?;
            same("queue", name, "dead_letter", &found.dead_letter, &spec.dead_letter)?;
            same("queue", name, "delivery_limit", &found.delivery_limit, &spec.delivery_limit)?;
            return same("queue", name, "max_length", &found.max_length, &spec.max_length);
        }
        let name: Arc<str> = Arc::from(&*spec.name);
        let queue = Queue {
            name: Arc::clone(&name),
            spec: spec.clone(),
            owner: spec.exclusive.then_some(connection),
            ready: VecDeque::new(),
            next_position: 0,
            unacked: 0,
            consumers: VecDeque::new(),
            armed: None,
        };
        self.queues.insert(name, queue);
        Ok(())
    }

    /// As in AMQP 0-9-1, deleting what is not there is no error.
    pub fn delete_queue(&mut self, name: &str, connection: u64) -> Result<(), BrokerError> {
        if let Some(queue) = self.queues.get(name) {
            queue.check_owner(connection)?;
            self.remove_queue(name);
        }
        Ok(())
    }

    pub fn remove_queue(&mut self, name: &str) {
        let Some(queue) = self.queues.remove(name) else { return };
        for exchange in self.exchanges.values_mut() {
            exchange.unbind_queue(name);
        }
        // Dropping the sender ends the consumer's stream. Channels that stopped receiving are not
        // among `consumers` any more, so all are searched.
        self.channels.retain(|_, channel| channel.queue != queue.name);
    }

    pub fn bind(
        &mut self,
        queue: &str,
        exchange: &str,
        key: &str,
        connection: u64,
    ) -> Result<(), BrokerError> {
        let queue = self.queues.get(queue).ok_or_else(|| not_found("queue", queue))?;
        queue.check_owner(connection)?;
        let exchange = self.exchanges.get_mut(exchange).ok_or_else(|| not_found("exchange", exchange))?;
        exchange.bind(key, &queue.name);
        Ok(())
    }

    /// Adds a consumer; answers with its channel.
    pub fn consume(
        &mut self,
        name: &str,
        prefetch: usize,
        sender: mpsc::Sender<Delivery>,
        connection: u64,
    ) -> Result<u64, BrokerError> {
        let queue = self.queues.get_mut(name).ok_or_else(|| not_found("queue", name))?;
        queue.check_owner(connection)?;
        self.last_channel += 1;
        let (id, queue_name) = (self.last_channel, Arc::clone(&queue.name));
        let (unacked, last_number) = (HashMap::new(), 0);
        let channel =
            Channel { connection, queue: Arc::clone(&queue_name), prefetch, sender, last_number, unacked };
        self.channels.insert(id, channel);
        // In front, so that a new consumer is served before one that is busy.
        queue.consumers.push_front(id);
        self.run(&queue_name, |_, _, _| {});
        Ok(id)
    }

    /// Changes how much a consumer may hold.
    pub fn set_prefetch(&mut self, id: u64, prefetch: usize) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.prefetch = prefetch;
        let queue = Arc::clone(&channel.queue);
        self.run(&queue, |_, _, _| {});
    }

    /// Ends a consumer. What it holds counts as failed.
    pub fn close_channel(&mut self, id: u64) {
        let Some(channel) = self.channels.remove(&id) else { return };
        let mut held: Vec<Stored> = channel.unacked.into_values().collect();
        held.sort_unstable_by_key(|s| s.position);
        self.run(&channel.queue, |queue, dead, _| {
            queue.consumers.retain(|c| *c != id);
            queue.unacked -= held.len();
            for stored in held {
                queue.fail(stored, dead);
            }
        });
    }

    /// Ends a connection: its consumers, then its exclusive queues.
    pub fn disconnect(&mut self, connection: u64) {
        let channels = self.channels.iter().filter(|(_, c)| c.connection == connection);
        let channels: Vec<u64> = channels.map(|(id, _)| *id).collect();
        let queues = self.queues.values().filter(|q| q.owner == Some(connection));
        let queues: Vec<Arc<str>> = queues.map(|q| Arc::clone(&q.name)).collect();
        for name in queues {
            self.remove_queue(&name);
        }
        for id in channels {
            self.close_channel(id);
        }
    }

    pub fn publish(&mut self, message: Message, mandatory: bool) -> Result<Confirmation, BrokerError> {
        let targets = self.route(&message.exchange, &message.routing_key)?;
        if targets.is_empty() {
            return Ok(if mandatory { Confirmation::Returned } else { Confirmation::Confirmed });
        }
        let message = Arc::new(message);
        let mut confirmation = Confirmation::Confirmed;
        for name in &targets {
            self.run(name, |queue, _, now| {
                if queue.spec.max_length.is_some_and(|limit| queue.ready.len() as u64 >= limit) {
                    confirmation = Confirmation::Nacked;
                } else {
                    queue.push(Arc::clone(&message), Vec::new(), now);
                }
            });
        }
        Ok(confirmation)
    }

    pub fn settle(&mut self, tag: Tag, how: Settle) {
        let Some(channel) = self.channels.get_mut(&tag.channel) else { return };
        let Some(mut stored) = channel.unacked.remove(&tag.number) else { return };
        let name = Arc::clone(&channel.queue);
        self.run(&name, |queue, dead, _| {
            queue.unacked -= 1;
            match how {
                Settle::Ack => {}
                Settle::Nack => {
                    stored.expired_in.clear();
                    queue.put_back(stored);
                }
                Settle::Reject => queue.fail(stored, dead),
            }
        });
    }

    pub fn depth(&self, name: &str) -> Result<QueueDepth, BrokerError> {
        let queue = self.queues.get(name).ok_or_else(|| not_found("queue", name))?;
        Ok(QueueDepth { ready: queue.ready.len() as u64, unacked: queue.unacked as u64 })
    }

    /// Buries what has expired by `now`; answers when to look again.
    pub fn expire(&mut self, now: Instant) -> Option<Instant> {
        while let Some(Reverse((at, _))) = self.timers.peek() {
            if *at > now {
                return Some(*at);
            }
            if let Some(Reverse((at, name))) = self.timers.pop() {
                self.run(&name, |queue, dead, _| {
                    if queue.armed == Some(at) {
                        queue.armed = None;
                    }
                    queue.expire_head(|expires| expires <= now, dead);
                });
            }
        }
        None
    }

    /// The queues that a message goes to.
    fn route(&self, exchange: &str, key: &str) -> Result<Vec<Arc<str>>, BrokerError> {
        if exchange.is_empty() {
            return Ok(self.queues.get(key).map(|q| Arc::clone(&q.name)).into_iter().collect());
        }
        let mut exchange = self.exchanges.get(exchange).ok_or_else(|| not_found("exchange", exchange))?;
        // Alternates may form a circle: no way through it is longer than there are exchanges.
        for _ in 0..self.exchanges.len() {
            let queues = exchange.route(key);
            if !queues.is_empty() {
                return Ok(queues);
            }
            let alternate = exchange.alternate.as_ref().and_then(|name| self.exchanges.get(name));
            let Some(next) = alternate else { break };
            exchange = next;
        }
        Ok(Vec::new())
    }

    /// Changes a queue, then delivers from it, and does the same with all queues that messages move
    /// to by dying. A loop and not a recursion: dead letters may travel far.
    fn run(&mut self, name: &Arc<str>, change: impl FnOnce(&mut Queue, &mut VecDeque<Dead>, Instant)) {
        let now = Instant::now();
        let mut dead = VecDeque::new();
        if let Some(queue) = self.queues.get_mut(name) {
            change(queue, &mut dead, now);
            queue.pump(&mut self.channels, &mut dead, now);
            arm(queue, &mut self.timers, &self.wake);
        }
        while let Some(letter) = dead.pop_front() {
            self.rebury(letter, &mut dead, now);
        }
    }

    /// Moves a dead letter to the queues that its exchange leads to. They take it even when they are
    /// full: refusing would lose it.
    fn rebury(&mut self, letter: Dead, dead: &mut VecDeque<Dead>, now: Instant) {
        let Dead { stored, queue: origin, reason, exchange, routing_key } = letter;
        let Stored { message, expired_in, .. } = stored;
        let mut message = Arc::unwrap_or_clone(message);
        let properties = &mut message.properties;
        // Without this it would expire again where it is parked.
        properties.expiration = None;
        if properties.header("x-first-death-reason").is_none() {
            properties.set("x-first-death-reason", HeaderValue::Text(reason.to_owned()));
            properties.set("x-first-death-queue", HeaderValue::Text(origin.to_string()));
            properties.set("x-first-death-exchange", HeaderValue::Text(message.exchange.clone()));
        }
        message.exchange = exchange;
        if let Some(key) = routing_key {
            message.routing_key = key;
        }
        let targets = self.route(&message.exchange, &message.routing_key).unwrap_or_default();
        if targets.is_empty() {
            let (exchange, key) = (message.exchange, message.routing_key);
            tracing::warn!(queue = &*origin, exchange, key, "lost a dead letter: no queue is bound for it");
            return;
        }
        let message = Arc::new(message);
        for name in &targets {
            let Some(queue) = self.queues.get_mut(name) else { continue };
            if expired_in.contains(name) {
                tracing::warn!(queue = &**name, "dropped a message: expiry alone moves it in a circle");
                continue;
            }
            queue.push(Arc::clone(&message), expired_in.clone(), now);
            queue.pump(&mut self.channels, dead, now);
            arm(queue, &mut self.timers, &self.wake);
        }
    }
}

/// Sees to it that the queue is looked at when its head expires.
fn arm(queue: &mut Queue, timers: &mut BinaryHeap<Reverse<(Instant, Arc<str>)>>, wake: &Notify) {
    let Some(at) = queue.ready.front().and_then(|s| s.expires) else { return };
    if queue.armed.is_some_and(|armed| armed <= at) {
        return;
    }
    queue.armed = Some(at);
    let soonest = timers.peek().is_none_or(|Reverse((first, _))| at < *first);
    timers.push(Reverse((at, Arc::clone(&queue.name))));
    if soonest {
        wake.notify_one();
    }
}

impl Queue {
    /// Only its own connection may use an exclusive queue, except for publishing to it.
    fn check_owner(&self, connection: u64) -> Result<(), BrokerError> {
        match self.owner {
            Some(owner) if owner != connection => Err(BrokerError::Conflict {
                what: "queue",
                name: self.name.to_string(),
                argument: "exclusive",
                found: "true, for another connection".to_owned(),
                wanted: "a queue of this connection".to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

fn not_found(what: &'static str, name: &str) -> BrokerError {
    BrokerError::NotFound { what, name: name.to_owned() }
}

/// Refuses a declaration that differs from what is there.
fn same<T: Debug + PartialEq>(
    what: &'static str,
    name: &str,
    argument: &'static str,
    found: &Option<T>,
    wanted: &Option<T>,
) -> Result<(), BrokerError> {
    if found == wanted {
        return Ok(());
    }
    let text = |value: &Option<T>| value.as_ref().map_or_else(|| "none".to_owned(), |v| format!("{v:?}"));
    let (found, wanted) = (text(found), text(wanted));
    Err(BrokerError::Conflict { what, name: name.to_owned(), argument, found, wanted })
}
