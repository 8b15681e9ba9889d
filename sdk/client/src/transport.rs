//! What a connection to a broker has to offer to the client: the message contract's properties as
//! plain data, without a broker's library.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::Class;

/// A boxed future, as the trait's operations return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A job on its way to exchange `warren.jobs`.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestMessage {
    /// The model asked for.
    pub model: String,
    /// The priority class.
    pub class: Class,
    /// Property `correlation_id`: the job's id.
    pub correlation_id: String,
    /// Property `message_id`: of this message alone. A transport that publishes it again, not sure
    /// that it arrived, leaves it as it is: hosts drop the second one.
    pub message_id: String,
    /// Property `reply_to`: [`Replies::address`].
    pub reply_to: String,
    /// Property `expiration`: how long the job may wait and run.
    pub expiration: Option<Duration>,
    /// Header `tenant`.
    pub tenant: Option<String>,
    /// Header `traceparent`, as W3C Trace Context writes it.
    pub traceparent: Option<String>,
    /// Header `events`: false asks for the final event alone (`final`).
    pub all_events: bool,
    /// Property `content_type` of the body.
    pub content_type: &'static str,
    /// Header `inference-header-content-length`: bytes of the JSON part of a body with binary tensors.
    pub header_length: Option<u64>,
    /// The Open Inference Protocol request.
    pub body: Bytes,
}

impl RequestMessage {
    /// The routing key: the model, and the class where it is not the normal one.
    pub fn routing_key(&self) -> String {
        match self.class {
            Class::Normal => self.model.clone(),
            Class::Urgent => format!("{}.urgent", self.model),
            Class::Bulk => format!("{}.bulk", self.model),
        }
    }
}

/// An event as it arrived.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EventMessage {
    /// Property `type`: `status`, `partial`, `result` or `error`.
    pub kind: String,
    /// Header `job`.
    pub job: String,
    /// Header `attempt`, from 1.
    pub attempt: u32,
    /// Header `sequence` within the attempt, from 0.
    pub sequence: u32,
    /// Header `final`.
    pub last: bool,
    /// Header `code` of an error.
    pub code: Option<String>,
    /// Header `model`.
    pub model: String,
    /// Header `plugin`: name@version; empty when none was chosen yet.
    pub plugin: String,
    /// Header `digest` of the plugin; empty likewise.
    pub digest: String,
    /// Property `content_type`.
    pub content_type: Option<String>,
    /// Header `inference-header-content-length`.
    pub header_length: Option<u64>,
    /// The body.
    pub body: Bytes,
}

/// Where events of this client's jobs go, and come from.
pub struct Replies {
    /// What to put into `reply_to`.
    pub address: String,
    /// Events of all jobs, in the order of arrival. It ends when the connection is gone for good.
    pub events: mpsc::Receiver<EventMessage>,
}

/// Why a transport failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No queue takes jobs for the model.
    #[error(
        "nobody serves model {model:?} (routing key {routing_key:?}): check the name, or load a plugin for it"
    )]
    NoRoute {
        /// The model.
        model: String,
        /// The routing key that led nowhere.
        routing_key: String,
    },
    /// The broker refused the job: the model's queue is full.
    #[error("the queue of model {model:?} is full: submit the job again later")]
    Refused {
        /// The model.
        model: String,
    },
    /// The connection went away; a job that was being submitted may or may not have been taken.
    #[error("the connection to the broker was lost: whether the job was taken is not known")]
    Lost,
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

/// A connection to a broker.
pub trait Transport: Send + Sync + 'static {
    /// Declares this client's reply queue and subscribes to it. Called once.
    fn replies(&self) -> BoxFuture<'_, Result<Replies, TransportError>>;

    /// Publishes a job; done when the broker has confirmed that a queue holds it.
    fn submit(&self, message: RequestMessage) -> BoxFuture<'_, Result<(), TransportError>>;

    /// Publishes that the job is no longer wanted (exchange `warren.control`).
    fn cancel<'a>(&'a self, job: &'a str) -> BoxFuture<'a, Result<(), TransportError>>;
}
