//! Jobs as bare messages, and queues read as bare messages.

use std::collections::HashMap;

use bytes::Bytes;
use warren::broker::{Broker, Consumer, HeaderValue, Message, Properties, QueueSpec, Settle};

use crate::within;

/// A job's message for `model`, without reply address. Properties are the caller's to add.
pub fn job(model: &str, id: &str, body: impl Into<Bytes>) -> Message {
    let properties = Properties {
        content_type: Some("application/json".into()),
        correlation_id: Some(id.to_owned()),
        persistent: true,
        ..Properties::default()
    };
    Message { exchange: "warren.jobs".into(), routing_key: model.to_owned(), properties, body: body.into() }
}

/// A body without inputs and with these parameters.
pub fn body(parameters: serde_json::Value) -> Bytes {
    serde_json::json!({ "inputs": [], "parameters": parameters }).to_string().into()
}

/// A queue that the test reads. What it takes is acknowledged.
pub struct Inbox<'a> {
    broker: &'a dyn Broker,
    /// Its name.
    pub queue: String,
    consumer: Consumer,
}

impl<'a> Inbox<'a> {
    /// A queue of this name, declared unless it is there.
    pub async fn open(broker: &'a dyn Broker, queue: &str) -> Self {
        if broker.depth(queue).await.is_err() {
            let spec = QueueSpec { name: queue.to_owned(), ..QueueSpec::default() };
            broker.declare_queue(&spec).await.expect("declares");
        }
        let consumer = broker.consume(queue, 1000).await.expect("consumes");
        Self { broker, queue: queue.to_owned(), consumer }
    }

    /// The next message.
    pub async fn next(&mut self) -> Message {
        let what = format!("a message in {}", self.queue);
        let delivery = within(&what, self.consumer.deliveries.recv()).await.expect("the queue is there");
        self.broker.settle(delivery.tag, Settle::Ack);
        delivery.message
    }

    /// What has arrived so far and was not read.
    pub fn arrived(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Ok(delivery) = self.consumer.deliveries.try_recv() {
            self.broker.settle(delivery.tag, Settle::Ack);
            messages.push(delivery.message);
        }
        messages
    }

    /// Messages up to the first that is a final event.
    pub async fn until_final(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            let message = self.next().await;
            let last = message.properties.header("final") == Some(&HeaderValue::Bool(true));
            messages.push(message);
            if last {
                return messages;
            }
        }
    }
}

/// Header `code` and the text of an error event; what is there instead otherwise.
pub fn error(message: &Message) -> (String, String) {
    let code = message.properties.text("code").unwrap_or("no code").to_owned();
    let text = serde_json::from_slice::<HashMap<String, String>>(&message.body)
        .ok()
        .and_then(|mut body| body.remove("error"))
        .unwrap_or_else(|| format!("not an error's body: {}", String::from_utf8_lossy(&message.body)));
    (code, text)
}

/// Property `type`.
pub fn kind(message: &Message) -> &str {
    message.properties.kind.as_deref().unwrap_or("no type")
}

/// An integer header; -1 if it is not there.
pub fn int(message: &Message, name: &str) -> i64 {
    message.properties.int(name).unwrap_or(-1)
}
