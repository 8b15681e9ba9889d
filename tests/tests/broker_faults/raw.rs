//! A client that follows no rules: a bare connection, any message, any queue.

use std::time::Instant;

use lapin::message::{BasicGetMessage, Delivery};
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::time::sleep;
use warren::wire::DEAD;
use warren_tests::{GLANCE, PATIENCE, within};

/// One connection with one channel.
pub struct Raw {
    pub connection: Connection,
    pub channel: Channel,
}

/// Properties of a job with this id whose events go to `reply_to`.
pub fn properties(id: &str, reply_to: &str) -> BasicProperties {
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_correlation_id(id.into())
        .with_message_id(id.into())
        .with_reply_to(reply_to.into())
}

/// A table of these.
pub fn table<'a>(entries: impl IntoIterator<Item = (&'a str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

/// A text as AMQP carries it in headers.
pub fn text(text: impl AsRef<[u8]>) -> AMQPValue {
    AMQPValue::LongString(text.as_ref().into())
}

/// A header that is a text.
pub fn header(delivery: &Delivery, name: &str) -> Option<String> {
    match delivery.properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        _ => None,
    }
}

impl Raw {
    pub async fn open(address: &str) -> Self {
        let name = ConnectionProperties::default().with_connection_name("a raw client".into());
        let connection = within("a connection", Connection::connect(address, name)).await.expect("connects");
        let channel = within("a channel", connection.create_channel()).await.expect("a channel");
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        within("confirms", confirms).await.expect("confirms");
        Self { connection, channel }
    }

    /// Declares a durable queue.
    pub async fn declare(&self, queue: &str, arguments: FieldTable) {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let declared = self.channel.queue_declare(queue.into(), options, arguments);
        within("a queue", declared).await.expect("declared");
    }

    pub async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        let options = QueueBindOptions::default();
        let bound = self.channel.queue_bind(
            queue.into(),
            exchange.into(),
            key.into(),
            options,
            FieldTable::default(),
        );
        within("a binding", bound).await.expect("bound");
    }

    /// Gets a copy of every dead letter from now on. The host has declared their exchange.
    pub async fn tap(&self) -> &'static str {
        const TAP: &str = "a tap of dead letters";
        self.declare(TAP, FieldTable::default()).await;
        self.bind(TAP, DEAD, "").await;
        TAP
    }

    /// Publishes, and waits until a queue has it; says why none has.
    pub async fn publish(
        &self,
        exchange: &str,
        key: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<(), String> {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let (exchange, key) = (ShortString::from(exchange), ShortString::from(key));
        let published =
            async { self.channel.basic_publish(exchange, key, options, body, properties).await?.await };
        let confirmation = within("a confirm", published).await.map_err(|error| error.to_string())?;
        if !confirmation.is_ack() {
            return Err("the broker refuses it".to_owned());
        }
        match confirmation.take_message() {
            Some(_) => Err("no queue takes it".to_owned()),
            None => Ok(()),
        }
    }

    /// Messages in a queue that nobody has taken.
    pub async fn count(&self, queue: &str) -> usize {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let look = self.channel.queue_declare(queue.into(), options, FieldTable::default());
        within("a look", look).await.expect("the queue is there").message_count() as usize
    }

    /// Takes one message, if there is one.
    pub async fn get(&self, queue: &str) -> Option<Delivery> {
        let get = self.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true });
        within("a message", get)
            .await
            .expect("the queue is there")
            .map(|BasicGetMessage { delivery, .. }| delivery)
    }

    /// Takes so many messages.
    pub async fn take(&self, queue: &str, count: usize) -> Vec<Delivery> {
        let (mut all, start) = (Vec::new(), Instant::now());
        while all.len() < count {
            match self.get(queue).await {
                Some(delivery) => all.push(delivery),
                None => sleep(GLANCE).await,
            }
            assert!(start.elapsed() < PATIENCE, "{queue} has {} messages, not {count}", all.len());
        }
        all
    }
}
