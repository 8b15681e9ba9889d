//! Submitting jobs over one transport: all of them share its reply queue, and one task routes
//! events to the handles by job id.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::event::JobError;
use crate::handle::JobHandle;
use crate::oip::EncodeError;
use crate::request::JobRequest;
use crate::transport::{EventMessage, Replies, Transport, TransportError};

/// Why a job was not submitted or has no result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ClientError {
    /// The broker or the way to it.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The request cannot be written.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A job of this id is being followed already.
    #[error("job {0:?} is being followed already: give the new job an id of its own")]
    Duplicate(String),
    /// An event does not follow the message contract.
    #[error(
        "job {job:?}: cannot read {kind:?} event {attempt}:{sequence}: {detail}; the host speaks another version"
    )]
    BadEvent {
        /// The job.
        job: String,
        /// Its property `type`.
        kind: String,
        /// Its attempt.
        attempt: u32,
        /// Its sequence number.
        sequence: u32,
        /// What is wrong.
        detail: String,
    },
    /// No more events will come: the connection was closed.
    #[error(
        "job {0:?}: the connection to the broker was closed before the final event; the job itself goes on"
    )]
    Closed(String),
    /// The job failed.
    #[error(transparent)]
    Job(#[from] JobError),
}

/// Submits jobs. Cheap to clone; the reply queue lives as long as a clone or a handle does.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

/// What a client, its clones and its handles share.
pub(crate) struct Shared {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) routes: Arc<Routes>,
    address: String,
    dispatcher: JoinHandle<()>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.dispatcher.abort();
    }
}

/// Where events of a job go. The queues are unbounded, since one slow reader must not hold up the
/// others; the host bounds what a job may publish.
#[derive(Default)]
pub(crate) struct Routes(Mutex<Table>);

#[derive(Default)]
struct Table {
    closed: bool,
    jobs: HashMap<String, mpsc::UnboundedSender<EventMessage>>,
}

impl Routes {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing that holds the lock leaves the table half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, job: &str) -> Result<mpsc::UnboundedReceiver<EventMessage>, ClientError> {
        let mut table = self.table();
        if table.closed {
            return Err(TransportError::Lost.into());
        }
        if table.jobs.contains_key(job) {
            return Err(ClientError::Duplicate(job.to_owned()));
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        table.jobs.insert(job.to_owned(), sender);
        Ok(receiver)
    }

    pub(crate) fn remove(&self, job: &str) {
        self.table().jobs.remove(job);
    }

    fn route(&self, message: EventMessage) {
        let table = self.table();
        let unread = match table.jobs.get(&message.job) {
            Some(handle) => handle.send(message).err().map(|e| e.0),
            None => Some(message),
        };
        if let Some(message) = unread {
            tracing::debug!(job = message.job, kind = message.kind, "an event of a job that nobody follows");
        }
    }

    /// Ends every handle's stream: no more events will come.
    fn close(&self) {
        let mut table = self.table();
        table.closed = true;
        table.jobs.clear();
    }
}

impl Client {
    /// Declares the reply queue on `transport` and starts to listen; needs a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::Transport`].
    pub async fn connect(transport: Arc<dyn Transport>) -> Result<Self, ClientError> {
        let Replies { address, mut events } = transport.replies().await?;
        let routes = Arc::new(Routes::default());
        let table = Arc::clone(&routes);
        let dispatcher = tokio::spawn(async move {
            while let Some(message) = events.recv().await {
                table.route(message);
            }
            table.close();
        });
        Ok(Self(Arc::new(Shared { transport, routes, address, dispatcher })))
    }

    /// Submits a job; done when the broker holds it.
    ///
    /// # Errors
    /// [`ClientError::Encode`], [`ClientError::Duplicate`], and [`ClientError::Transport`], with
    /// [`TransportError::NoRoute`] when nobody serves the model.
    pub async fn submit(&self, job: JobRequest) -> Result<JobHandle, ClientError> {
        let message = job.into_message(self.0.address.clone())?;
        let id = message.correlation_id.clone();
        // Before publishing: the first event may come before the confirm.
        let events = self.0.routes.add(&id)?;
        // Dropping the handle on an error, or with this future, takes the route away again.
        let handle = JobHandle::new(id, Arc::clone(&self.0), events);
        self.0.transport.submit(message).await?;
        Ok(handle)
    }
}
