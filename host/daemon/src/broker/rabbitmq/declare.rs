//! Declarations: what the contract's queues are in RabbitMQ's terms, and the channel that they are
//! asked for on. Every argument is one that RabbitMQ 3.10 to 4.x all take.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{Channel, ConnectionState, ErrorKind};
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::errors;
use super::link::Live;
use crate::broker::{BrokerError, ExchangeKind, ExchangeSpec, QueueSpec};

/// A name as AMQP carries it.
///
/// # Errors
/// [`BrokerError::Refused`] when it is too long.
pub(super) fn named(operation: &'static str, text: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(text)
        .map_err(|e| BrokerError::Refused { operation, reason: format!("{text:?}: {e}") })
}

/// An exchange's type and arguments.
pub(super) fn exchange(spec: &ExchangeSpec) -> (lapin::ExchangeKind, FieldTable) {
    let kind = match spec.kind {
        ExchangeKind::Topic => lapin::ExchangeKind::Topic,
        ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
        ExchangeKind::Direct => lapin::ExchangeKind::Direct,
    };
    (kind, table(&exchange_arguments(spec)))
}

/// A queue's or exchange's argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A name, or a word.
    Text(String),
    /// A number.
    Number(u64),
}

impl From<&Argument> for AMQPValue {
    fn from(argument: &Argument) -> Self {
        match argument {
            Argument::Text(text) => Self::LongString(LongString::from(text.as_bytes())),
            Argument::Number(n) => Self::LongLongInt(i64::try_from(*n).unwrap_or(i64::MAX)),
        }
    }
}

fn table(arguments: &[(&'static str, Argument)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert((*name).into(), value.into());
    }
    table
}

/// The arguments of an exchange.
pub fn exchange_arguments(spec: &ExchangeSpec) -> Vec<(&'static str, Argument)> {
    spec.alternate.iter().map(|name| ("alternate-exchange", Argument::Text(name.clone()))).collect()
}

/// The arguments of a queue. Durable ones are quorum queues, exclusive ones classic. What leaves a
/// durable queue for its dead-letter exchange is handed over at least once, which RabbitMQ does only
/// where a full queue refuses new messages and never drops old ones.
///
/// Without a delivery limit none is asked for: RabbitMQ 3.x then knows none, 4.x has 20.
pub fn queue_arguments(spec: &QueueSpec) -> Vec<(&'static str, Argument)> {
    let mut arguments = Vec::new();
    let mut set = |name, value| arguments.push((name, value));
    let text = |text: &str| Argument::Text(text.to_owned());
    let ms = |time: Duration| Argument::Number(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    if !spec.exclusive {
        set("x-queue-type", text("quorum"));
        if let Some(limit) = spec.delivery_limit {
            set("x-delivery-limit", Argument::Number(u64::from(limit)));
        }
    }
    if let Some(ttl) = spec.message_ttl {
        set("x-message-ttl", ms(ttl));
    }
    if let Some(expires) = spec.expires {
        set("x-expires", ms(expires));
    }
    if let Some(length) = spec.max_length {
        set("x-max-length", Argument::Number(length));
    }
    if let Some((exchange, key)) = &spec.dead_letter {
        set("x-dead-letter-exchange", text(exchange));
        if let Some(key) = key {
            set("x-dead-letter-routing-key", text(key));
        }
        if !spec.exclusive {
            set("x-dead-letter-strategy", text("at-least-once"));
        }
    }
    if spec.max_length.is_some() || (spec.dead_letter.is_some() && !spec.exclusive) {
        set("x-overflow", text("reject-publish"));
    }
    arguments
}

/// Options and arguments of a queue.
pub(super) fn queue(spec: &QueueSpec) -> (QueueDeclareOptions, FieldTable) {
    let options = QueueDeclareOptions {
        durable: !spec.exclusive,
        exclusive: spec.exclusive,
        ..QueueDeclareOptions::default()
    };
    (options, table(&queue_arguments(spec)))
}

/// The exclusive queues that this host has, with their bindings: they go with the connection, and
/// are made anew on the next.
#[derive(Default)]
pub(super) struct Exclusive(Mutex<HashMap<String, Restore>>);

/// How to make one again.
#[derive(Clone)]
pub(super) struct Restore {
    spec: QueueSpec,
    /// Exchange and routing key.
    bindings: Vec<(String, String)>,
}

impl Exclusive {
    fn with<T>(&self, f: impl FnOnce(&mut HashMap<String, Restore>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn declared(&self, spec: &QueueSpec) {
        let restore = Restore { spec: spec.clone(), bindings: Vec::new() };
        self.with(|map| {
            map.entry(spec.name.clone()).or_insert(restore);
        });
    }

    pub fn deleted(&self, queue: &str) {
        self.with(|map| map.remove(queue));
    }

    pub fn bound(&self, queue: &str, exchange: &str, key: &str) {
        let binding = (exchange.to_owned(), key.to_owned());
        self.with(|map| {
            if let Some(restore) = map.get_mut(queue)
                && !restore.bindings.contains(&binding)
            {
                restore.bindings.push(binding);
            }
        });
    }

    pub fn get(&self, queue: &str) -> Option<Restore> {
        self.with(|map| map.get(queue).cloned())
    }
}

impl Restore {
    /// Declares it and its bindings.
    pub async fn run(self, channel: &Channel) -> lapin::Result<()> {
        let short = |text: &str| ShortString::try_new(text).unwrap_or_default();
        let (options, arguments) = queue(&self.spec);
        channel.queue_declare(short(&self.spec.name), options, arguments).await?;
        for (exchange, key) in &self.bindings {
            let (queue, options) = (short(&self.spec.name), QueueBindOptions::default());
            channel.queue_bind(queue, short(exchange), short(key), options, FieldTable::default()).await?;
        }
        Ok(())
    }
}

/// The channel for declarations, between two of them.
pub(super) type Idle = Mutex<Option<(Arc<Live>, Channel)>>;

impl Shared {
    /// Runs a declaration on a channel that serves nothing else, so that what the broker refuses
    /// closes only that. A connection that is lost meanwhile is waited for, for declarations may be
    /// repeated, until the deadline.
    pub async fn ask<T, F>(
        &self,
        operation: &'static str,
        what: &'static str,
        name: &str,
        run: impl Fn(Channel) -> F,
    ) -> Result<T, BrokerError>
    where
        F: Future<Output = lapin::Result<T>>,
    {
        let after = self.patience.operation;
        let deadline = Instant::now() + after;
        loop {
            let Some(live) = self.consuming.up(deadline).await else {
                return Err(BrokerError::ConnectionLost);
            };
            let outcome = timeout_at(deadline, async {
                let channel = match self.idle(&live) {
                    Some(channel) => channel,
                    None => live.channel().await?,
                };
                let value = run(channel.clone()).await?;
                Ok::<_, lapin::Error>((value, channel))
            });
            let outcome = tokio::select! {
                biased;
                outcome = outcome => outcome,
                // lapin never answers what is asked of a connection that is gone.
                () = live.lost.cancelled() => Ok(Err(ErrorKind::InvalidConnectionState(ConnectionState::Error).into())),
            };
            let error = match outcome {
                Ok(Ok((value, channel))) => {
                    let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                    *idle = Some((live, channel));
                    return Ok(value);
                }
                Ok(Err(error)) => errors::of(operation, what, name, &error),
                Err(_) => return Err(BrokerError::Timeout { operation, after }),
            };
            if error != BrokerError::ConnectionLost || !self.again(deadline).await {
                return Err(error);
            }
        }
    }

    fn idle(&self, live: &Arc<Live>) -> Option<Channel> {
        let (of, channel) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        (Arc::ptr_eq(&of, live) && channel.status().connected()).then_some(channel)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn queues_in_rabbitmqs_terms() {
        let names = |spec: &QueueSpec| {
            let (options, arguments) = queue(spec);
            let names: Vec<String> = arguments.inner().keys().map(|k| k.as_str().to_owned()).collect();
            (options.durable, options.exclusive, names)
        };
        let all = QueueSpec {
            name: "q".to_owned(),
            message_ttl: Some(Duration::from_secs(1)),
            dead_letter: Some(("x".to_owned(), Some("k".to_owned()))),
            delivery_limit: Some(20),
            max_length: Some(1),
            ..QueueSpec::default()
        };
        let (durable, exclusive, arguments) = names(&all);
        assert!(durable && !exclusive);
        assert_eq!(
            arguments,
            [
                "x-dead-letter-exchange",
                "x-dead-letter-routing-key",
                "x-dead-letter-strategy",
                "x-delivery-limit",
                "x-max-length",
                "x-message-ttl",
                "x-overflow",
                "x-queue-type"
            ]
        );
        let (durable, exclusive, arguments) = names(&QueueSpec { exclusive: true, ..all });
        assert!(!durable && exclusive);
        assert!(
            !arguments
                .iter()
                .any(|a| a == "x-queue-type" || a == "x-delivery-limit" || a == "x-dead-letter-strategy")
        );
    }
}
