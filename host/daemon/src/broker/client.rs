//! A broker connection as the client library wants it: jobs out to `warren.jobs`, events in from a
//! reply queue of its own. Works on any broker behind the trait.

use std::sync::Arc;

use tokio::sync::mpsc;
use warren_client::transport::BoxFuture;
use warren_client::{EventMessage, Replies, RequestMessage, Transport, TransportError};

use super::{
    Broker, BrokerError, Confirmation, Consumer, HeaderValue, Message, Properties, QueueSpec, Settle,
};

/// Exchange that jobs are published to.
const JOBS: &str = "warren.jobs";

/// Exchange that cancellations are published to.
const CONTROL: &str = "warren.control";

/// Header with the length of the JSON part of a body with binary tensors.
const HEADER_LENGTH: &str = "inference-header-content-length";

/// Events taken from the broker ahead of the reader.
const PREFETCH: u16 = 256;

/// Submits jobs and receives events over one broker connection, which should be its own: the
/// exclusive reply queue lives as long as that connection, or until the client is dropped.
pub struct BrokerTransport {
    broker: Arc<dyn Broker>,
}

impl BrokerTransport {
    /// A transport over `broker`.
    pub fn new(broker: Arc<dyn Broker>) -> Self {
        Self { broker }
    }
}

impl Transport for BrokerTransport {
    fn replies(&self) -> BoxFuture<'_, Result<Replies, TransportError>> {
        Box::pin(async move {
            let address = format!("warren.replies.{}", uuid::Uuid::new_v4());
            let spec = QueueSpec { name: address.clone(), exclusive: true, ..QueueSpec::default() };
            self.broker.declare_queue(&spec).await.map_err(broken)?;
            let consumer = self.broker.consume(&address, PREFETCH).await.map_err(broken)?;
            let (sender, events) = mpsc::channel(usize::from(PREFETCH));
            tokio::spawn(receive(Arc::clone(&self.broker), consumer, sender, address.clone()));
            Ok(Replies { address, events })
        })
    }

    fn submit(&self, message: RequestMessage) -> BoxFuture<'_, Result<(), TransportError>> {
        Box::pin(async move {
            let (model, routing_key) = (message.model.clone(), message.routing_key());
            match self.broker.publish(request(message), true).await {
                Ok(Confirmation::Confirmed) => Ok(()),
                Ok(Confirmation::Returned) => Err(TransportError::NoRoute { model, routing_key }),
                Ok(Confirmation::Nacked) => Err(TransportError::Refused { model }),
                Err(error) => Err(broken(error)),
            }
        })
    }

    fn cancel<'a>(&'a self, job: &'a str) -> BoxFuture<'a, Result<(), TransportError>> {
        Box::pin(async move {
            let properties = Properties {
                kind: Some("cancel".to_owned()),
                correlation_id: Some(job.to_owned()),
                ..Properties::default()
            };
            let (exchange, routing_key) = (CONTROL.to_owned(), String::new());
            let message = Message { exchange, routing_key, properties, body: bytes::Bytes::new() };
            self.broker.publish(message, false).await.map_err(broken).map(|_| ())
        })
    }
}

fn broken(error: BrokerError) -> TransportError {
    match error {
        BrokerError::ConnectionLost => TransportError::Lost,
        other => TransportError::Other(other.to_string()),
    }
}

/// Hands events over until either side is gone.
async fn receive(
    broker: Arc<dyn Broker>,
    mut consumer: Consumer,
    sender: mpsc::Sender<EventMessage>,
    queue: String,
) {
    loop {
        let delivery = tokio::select! {
            delivery = consumer.deliveries.recv() => delivery,
            () = sender.closed() => None,
        };
        let Some(delivery) = delivery else { break };
        let tag = delivery.tag;
        let message_id = delivery.message.properties.message_id.clone();
        match event(delivery.message) {
            Some(event) => {
                if sender.send(event).await.is_err() {
                    break;
                }
            }
            None => tracing::warn!(
                queue,
                message_id,
                "ignored a message that is no event: it lacks its type, or header job, attempt or sequence"
            ),
        }
        broker.settle(tag, Settle::Ack);
    }
    drop(consumer);
    if let Err(error) = broker.delete_queue(&queue).await {
        tracing::debug!(queue, %error, "the reply queue was not deleted; it goes with its connection");
    }
}

/// The AMQP message of a job.
fn request(message: RequestMessage) -> Message {
    let routing_key = message.routing_key();
    let mut headers = Vec::new();
    let events = if message.all_events { "all" } else { "final" };
    headers.push(("events".to_owned(), HeaderValue::Text(events.to_owned())));
    for (name, value) in [("tenant", message.tenant), ("traceparent", message.traceparent)] {
        if let Some(value) = value {
            headers.push((name.to_owned(), HeaderValue::Text(value)));
        }
    }
    if let Some(length) = message.header_length.and_then(|n| i64::try_from(n).ok()) {
        headers.push((HEADER_LENGTH.to_owned(), HeaderValue::Int(length)));
    }
    let properties = Properties {
        content_type: Some(message.content_type.to_owned()),
        correlation_id: Some(message.correlation_id),
        reply_to: Some(message.reply_to),
        message_id: Some(message.message_id),
        expiration: message.expiration,
        persistent: true,
        headers,
        ..Properties::default()
    };
    Message { exchange: JOBS.to_owned(), routing_key, properties, body: message.body }
}

/// The event in a message; none if it is not one.
pub fn event(message: Message) -> Option<EventMessage> {
    let Properties { content_type, kind, headers, .. } = message.properties;
    let mut event = EventMessage { content_type, body: message.body, ..EventMessage::default() };
    let (mut attempt, mut sequence) = (None, None);
    for (name, value) in headers {
        match (&*name, value) {
            ("job", HeaderValue::Text(text)) => event.job = text,
            ("attempt", HeaderValue::Int(value)) => attempt = u32::try_from(value).ok(),
            ("sequence", HeaderValue::Int(value)) => sequence = u32::try_from(value).ok(),
            ("final", HeaderValue::Bool(value)) => event.last = value,
            ("code", HeaderValue::Text(text)) => event.code = Some(text),
            ("model", HeaderValue::Text(text)) => event.model = text,
            ("plugin", HeaderValue::Text(text)) => event.plugin = text,
            ("digest", HeaderValue::Text(text)) => event.digest = text,
            (HEADER_LENGTH, HeaderValue::Int(value)) => event.header_length = u64::try_from(value).ok(),
            _ => {}
        }
    }
    match (kind, attempt, sequence) {
        (Some(kind), Some(attempt), Some(sequence)) if !event.job.is_empty() => {
            (event.kind, event.attempt, event.sequence) = (kind, attempt, sequence);
            Some(event)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use std::time::Duration;

    use bytes::Bytes;
    use warren_client::oip::{InferRequest, InferResponse, Tensor};
    use warren_client::{Class, Client, ClientError, EventBody, JobRequest};

    use super::*;
    use crate::broker::embedded::Embedded;
    use crate::broker::{Delivery, ExchangeKind, ExchangeSpec};

    /// A broker with the queue of model `echo`, and a client of it.
    async fn house() -> (Embedded, Client) {
        let broker = Embedded::new();
        broker.declare_exchange(&ExchangeSpec::new(JOBS, ExchangeKind::Topic)).await.unwrap();
        broker.declare_exchange(&ExchangeSpec::new(CONTROL, ExchangeKind::Fanout)).await.unwrap();
        let spec = QueueSpec { name: "warren.jobs.echo".to_owned(), ..QueueSpec::default() };
        broker.declare_queue(&spec).await.unwrap();
        broker.bind("warren.jobs.echo", JOBS, "echo").await.unwrap();
        broker.bind("warren.jobs.echo", JOBS, "echo.urgent").await.unwrap();
        let client =
            Client::connect(Arc::new(BrokerTransport::new(Arc::new(broker.connect())))).await.unwrap();
        (broker, client)
    }

    /// One event of the job in `delivery`, as a host publishes it.
    fn publish(broker: &Embedded, job: &Delivery, number: (i64, i64), kind: &str, last: bool, body: Bytes) {
        let properties = &job.message.properties;
        let mut event = Properties { kind: Some(kind.to_owned()), ..Properties::default() };
        event.set("job", HeaderValue::Text(properties.correlation_id.clone().unwrap()));
        event.set("attempt", HeaderValue::Int(number.0));
        event.set("sequence", HeaderValue::Int(number.1));
        event.set("final", HeaderValue::Bool(last));
        event.set("plugin", HeaderValue::Text("echo@1.0.0".to_owned()));
        event.set("code", HeaderValue::Text("invalid-input".to_owned()));
        let routing_key = properties.reply_to.clone().unwrap();
        drop(broker.publish(Message { exchange: String::new(), routing_key, properties: event, body }, true));
    }

    fn response(text: &str) -> Bytes {
        let outputs = vec![Tensor::bytes("text", text.to_owned())];
        let response = InferResponse { model_name: "echo".to_owned(), outputs, ..InferResponse::default() };
        response.encode(false).unwrap().0
    }

    #[tokio::test]
    async fn a_job_and_its_events_make_the_round() {
        let (broker, client) = house().await;
        let mut consumer = broker.consume("warren.jobs.echo", 10).await.unwrap();
        let request = JobRequest::new("echo")
            .class(Class::Urgent)
            .bytes("text", "hi")
            .fp32("x", &[2], &[0.5, 1.0])
            .parameter("loud", true)
            .tenant("acme")
            .deadline(Duration::from_secs(60));
        let mut job = client.submit(request).await.unwrap();
        let delivery = consumer.deliveries.recv().await.unwrap();
        let properties = &delivery.message.properties;
        assert_eq!(delivery.message.routing_key, "echo.urgent");
        assert_eq!(properties.correlation_id.as_deref(), Some(job.id()));
        assert_eq!(properties.expiration, Some(Duration::from_secs(60)));
        assert_eq!((properties.text("events"), properties.text("tenant")), (Some("all"), Some("acme")));
        assert!(properties.persistent);
        let decoded = InferRequest::decode(&delivery.message.body, None, None).unwrap();
        assert_eq!(decoded.id.as_deref(), Some(job.id()));
        assert_eq!(decoded.inputs[1].to_fp32().unwrap(), [0.5, 1.0]);

        let status =
            |stage: &str| Bytes::from(format!(r#"{{"stage":"{stage}","progress":0.5,"message":null}}"#));
        publish(&broker, &delivery, (1, 0), "status", false, status("a"));
        publish(&broker, &delivery, (1, 0), "status", false, status("a"));
        publish(&broker, &delivery, (2, 1), "partial", false, response("h"));
        publish(&broker, &delivery, (1, 1), "result", true, response("late"));
        publish(&broker, &delivery, (2, 2), "someday", false, Bytes::new());
        publish(&broker, &delivery, (2, 3), "result", true, response("hi"));
        publish(&broker, &delivery, (2, 3), "result", true, response("hi"));

        let event = job.next().await.unwrap().unwrap();
        assert_eq!((event.attempt, event.sequence, event.missed, &*event.plugin), (1, 0, 0, "echo@1.0.0"));
        let stage = "a".to_owned();
        assert_eq!(event.body, EventBody::Status { stage, progress: Some(0.5), message: None });
        let event = job.next().await.unwrap().unwrap();
        assert_eq!((event.attempt, event.sequence, event.missed), (2, 1, 1));
        assert_eq!(event.body, EventBody::Partial(Tensor::bytes("text", "h")));
        let event = job.next().await.unwrap().unwrap();
        assert!(event.is_final());
        let EventBody::Result(result) = event.body else { panic!("{:?}", event.body) };
        assert_eq!(result.output("text"), Some(&Tensor::bytes("text", "hi")));
        assert!(job.next().await.is_none());
    }

    #[tokio::test]
    async fn many_jobs_share_the_reply_queue() {
        let (broker, client) = house().await;
        let mut consumer = broker.consume("warren.jobs.echo", 100).await.unwrap();
        let mut jobs = Vec::new();
        for _ in 0..50 {
            jobs.push(client.submit(JobRequest::new("echo")).await.unwrap());
        }
        for _ in 0..50 {
            let delivery = consumer.deliveries.recv().await.unwrap();
            let id = delivery.message.properties.correlation_id.clone().unwrap();
            publish(&broker, &delivery, (1, 0), "result", true, response(&id));
        }
        for job in jobs {
            let id = job.id().to_owned();
            assert_eq!(job.result().await.unwrap().output("text"), Some(&Tensor::bytes("text", id)));
        }
    }

    #[tokio::test]
    async fn failures_come_as_errors() {
        let (broker, client) = house().await;
        let error = client.submit(JobRequest::new("ehco")).await.err().unwrap();
        let expected = TransportError::NoRoute { model: "ehco".to_owned(), routing_key: "ehco".to_owned() };
        assert_eq!(error, ClientError::Transport(expected));

        let mut consumer = broker.consume("warren.jobs.echo", 10).await.unwrap();
        let job = client.submit(JobRequest::new("echo").id("one")).await.unwrap();
        let error = client.submit(JobRequest::new("echo").id("one")).await.err().unwrap();
        assert_eq!(error, ClientError::Duplicate("one".to_owned()));
        let delivery = consumer.deliveries.recv().await.unwrap();
        publish(&broker, &delivery, (1, 0), "error", true, Bytes::from_static(br#"{"error":"too loud"}"#));
        let error = job.result().await.unwrap_err();
        assert_eq!(error.to_string(), "invalid-input: too loud");

        // The id is free again.
        let mut job = client.submit(JobRequest::new("echo").id("one")).await.unwrap();
        let delivery = consumer.deliveries.recv().await.unwrap();
        publish(&broker, &delivery, (1, 0), "partial", false, Bytes::from_static(b"{}"));
        publish(&broker, &delivery, (1, 1), "result", true, Bytes::from_static(b"{}"));
        for _ in 0..2 {
            assert!(matches!(job.next().await, Some(Err(ClientError::BadEvent { .. }))));
        }
        assert!(job.next().await.is_none());
    }

    #[tokio::test]
    async fn a_lost_reply_queue_ends_every_job() {
        let (broker, client) = house().await;
        let mut consumer = broker.consume("warren.jobs.echo", 10).await.unwrap();
        let job = client.submit(JobRequest::new("echo")).await.unwrap();
        let id = job.id().to_owned();
        let queue = consumer.deliveries.recv().await.unwrap().message.properties.reply_to.unwrap();
        broker.shut(&queue);
        assert_eq!(job.result().await.unwrap_err(), ClientError::Closed(id));
        let error = client.submit(JobRequest::new("echo")).await.err().unwrap();
        assert_eq!(error, ClientError::Transport(TransportError::Lost));
    }

    #[tokio::test]
    async fn a_cancellation_is_broadcast_and_a_dropped_client_leaves_nothing() {
        let (broker, client) = house().await;
        broker
            .declare_queue(&QueueSpec { name: "control".to_owned(), ..QueueSpec::default() })
            .await
            .unwrap();
        broker.bind("control", CONTROL, "").await.unwrap();
        let mut control = broker.consume("control", 1).await.unwrap();
        let mut jobs = broker.consume("warren.jobs.echo", 1).await.unwrap();
        let job = client.submit(JobRequest::new("echo")).await.unwrap();
        job.cancel().await.unwrap();
        let properties = control.deliveries.recv().await.unwrap().message.properties;
        assert_eq!(properties.kind.as_deref(), Some("cancel"));
        assert_eq!(properties.correlation_id.as_deref(), Some(job.id()));

        let queue = jobs.deliveries.recv().await.unwrap().message.properties.reply_to.unwrap();
        assert!(broker.depth(&queue).await.is_ok());
        drop((client, job));
        for _ in 0..200 {
            if broker.depth(&queue).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the reply queue is still there");
    }
}
