//! The client over a transport made of channels.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_core::Stream;
use tokio::sync::mpsc;
use warren_client::oip::{InferRequest, InferResponse, Tensor};
use warren_client::transport::BoxFuture;
use warren_client::{
    Class, Client, ClientError, Encoding, EventBody, EventMessage, JobRequest, Replies, RequestMessage,
    Transport, TransportError,
};

/// Keeps what is submitted; refuses models but `m`.
struct Fake {
    sent: Mutex<Vec<RequestMessage>>,
    events: Mutex<Option<mpsc::Receiver<EventMessage>>>,
}

impl Transport for Fake {
    fn replies(&self) -> BoxFuture<'_, Result<Replies, TransportError>> {
        let events = self.events.lock().unwrap().take().unwrap();
        Box::pin(async { Ok(Replies { address: "here".to_owned(), events }) })
    }

    fn submit(&self, message: RequestMessage) -> BoxFuture<'_, Result<(), TransportError>> {
        Box::pin(async move {
            if message.model != "m" {
                let (routing_key, model) = (message.routing_key(), message.model);
                return Err(TransportError::NoRoute { model, routing_key });
            }
            self.sent.lock().unwrap().push(message);
            Ok(())
        })
    }

    fn cancel<'a>(&'a self, _job: &'a str) -> BoxFuture<'a, Result<(), TransportError>> {
        Box::pin(async { Err(TransportError::Lost) })
    }
}

async fn client() -> (Arc<Fake>, mpsc::Sender<EventMessage>, Client) {
    let (sender, receiver) = mpsc::channel(16);
    let fake = Arc::new(Fake { sent: Mutex::default(), events: Mutex::new(Some(receiver)) });
    let transport: Arc<dyn Transport> = Arc::<Fake>::clone(&fake);
    let client = Client::connect(transport).await.unwrap();
    (fake, sender, client)
}

fn result(job: &str, attempt: u32, sequence: u32) -> EventMessage {
    let response = InferResponse { model_name: "m".to_owned(), ..InferResponse::default() };
    let (kind, job, body) = ("result".to_owned(), job.to_owned(), response.encode(false).unwrap().0);
    EventMessage { kind, job, attempt, sequence, last: true, body, ..EventMessage::default() }
}

fn status(job: &str, attempt: u32, sequence: u32) -> EventMessage {
    let (kind, body) = ("status".to_owned(), Bytes::from_static(br#"{"stage":"s"}"#));
    EventMessage { kind, last: false, body, ..result(job, attempt, sequence) }
}

#[tokio::test]
async fn a_request_becomes_a_message() {
    let (fake, _events, client) = client().await;
    let small = JobRequest::new("m").class(Class::Bulk).id("j").bytes("b", "x").final_only().output("y");
    let _job = client.submit(small).await.unwrap();
    let large = JobRequest::new("m").fp32("x", &[1000], &[0.5; 1000]);
    let _large = client.submit(large.clone()).await.unwrap();
    let _json = client.submit(large.encoding(Encoding::Json)).await.unwrap();
    let nan = JobRequest::new("m").fp32("x", &[1], &[f32::NAN]);
    let _nan = client.submit(nan.clone()).await.unwrap();
    assert!(matches!(client.submit(nan.encoding(Encoding::Json)).await, Err(ClientError::Encode(_))));

    let sent = fake.sent.lock().unwrap();
    assert_eq!(
        (&*sent[0].routing_key(), &*sent[0].correlation_id, &*sent[0].reply_to),
        ("m.bulk", "j", "here")
    );
    assert!(!sent[0].all_events && sent[1].all_events);
    assert_ne!(sent[1].correlation_id, sent[2].correlation_id);
    let kinds: Vec<_> = sent.iter().map(|m| (m.content_type, m.header_length.is_some())).collect();
    let (json, binary) = (("application/json", false), ("application/octet-stream", true));
    assert_eq!(kinds, [json, binary, json, binary]);
    let decoded = InferRequest::decode(&sent[0].body, Some(sent[0].content_type), None).unwrap();
    assert_eq!(decoded.inputs, [Tensor::bytes("b", "x")]);
    assert_eq!(decoded.outputs[0].name, "y");
}

#[tokio::test]
async fn a_handle_is_a_stream_of_its_own_events() {
    let (_fake, events, client) = client().await;
    let mut one = client.submit(JobRequest::new("m").id("one")).await.unwrap();
    let two = client.submit(JobRequest::new("m").id("two")).await.unwrap();
    for event in [
        status("two", 1, 0),
        status("one", 2, 3),
        status("stranger", 1, 0),
        result("one", 1, 4),
        result("two", 1, 1),
        result("one", 2, 4),
    ] {
        events.send(event).await.unwrap();
    }
    let mut seen = Vec::new();
    while let Some(event) = poll_fn(|cx| Pin::new(&mut one).poll_next(cx)).await {
        let event = event.unwrap();
        seen.push((event.attempt, event.sequence, event.missed, event.is_final()));
    }
    assert_eq!(seen, [(2, 3, 3, false), (2, 4, 0, true)]);
    assert_eq!(two.result().await.unwrap().model_name, "m");
}

#[tokio::test]
async fn a_refused_job_leaves_no_trace() {
    let (_fake, events, client) = client().await;
    let error = client.submit(JobRequest::new("n").id("j").class(Class::Urgent)).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        "nobody serves model \"n\" (routing key \"n.urgent\"): check the name, or load a plugin for it"
    );
    // The id is free, also after a handle was dropped.
    drop(client.submit(JobRequest::new("m").id("j")).await.unwrap());
    let mut job = client.submit(JobRequest::new("m").id("j")).await.unwrap();
    assert_eq!(job.cancel().await, Err(ClientError::Transport(TransportError::Lost)));
    events.send(status("j", 1, 0)).await.unwrap();
    let event = job.next().await.unwrap().unwrap();
    assert_eq!(event.body, EventBody::Status { stage: "s".to_owned(), progress: None, message: None });
    drop(events);
    assert_eq!(job.result().await.unwrap_err(), ClientError::Closed("j".to_owned()));
    assert!(matches!(
        client.submit(JobRequest::new("m")).await,
        Err(ClientError::Transport(TransportError::Lost))
    ));
}
