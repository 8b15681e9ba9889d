//! One submitted job: the stream of its events.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tokio::sync::mpsc;

use crate::client::{ClientError, Shared};
use crate::event::{self, Event, EventBody};
use crate::fold::{Fold, Verdict};
use crate::oip::InferResponse;
use crate::transport::EventMessage;

/// A submitted job. As a stream it yields the job's events in order, each once, and ends after the
/// final one. Dropping it stops following; it does not cancel the job.
pub struct JobHandle {
    id: String,
    shared: Arc<Shared>,
    events: mpsc::UnboundedReceiver<EventMessage>,
    fold: Fold,
    /// The stream has ended, with or without a final event.
    ended: bool,
}

impl JobHandle {
    pub(crate) fn new(
        id: String,
        shared: Arc<Shared>,
        events: mpsc::UnboundedReceiver<EventMessage>,
    ) -> Self {
        Self { id, shared, events, fold: Fold::default(), ended: false }
    }

    /// The job's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The next event; none after the final one.
    ///
    /// # Errors
    /// [`ClientError::BadEvent`] for an event that cannot be read (the stream goes on unless it was
    /// final), [`ClientError::Closed`] when the connection is gone.
    pub async fn next(&mut self) -> Option<Result<Event, ClientError>> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// Follows the job to its end.
    ///
    /// # Errors
    /// [`ClientError::Job`] if it failed, and those of [`Self::next`].
    pub async fn result(mut self) -> Result<InferResponse, ClientError> {
        while let Some(event) = self.next().await {
            match event?.body {
                EventBody::Result(response) => return Ok(response),
                EventBody::Error(error) => return Err(error.into()),
                EventBody::Status { .. } | EventBody::Partial(_) => {}
            }
        }
        Err(ClientError::Closed(self.id.clone()))
    }

    /// Tells the hosts that the result is no longer wanted. A final event still comes: an error
    /// that says so, or the result if it was faster.
    ///
    /// # Errors
    /// [`ClientError::Transport`].
    pub async fn cancel(&self) -> Result<(), ClientError> {
        Ok(self.shared.transport.cancel(&self.id).await?)
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, ClientError>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            let Some(message) = ready!(self.events.poll_recv(cx)) else {
                self.ended = true;
                return Poll::Ready(Some(Err(ClientError::Closed(self.id.clone()))));
            };
            let (attempt, sequence) = (message.attempt, message.sequence);
            let missed = match self.fold.accept(attempt, sequence, message.last) {
                Verdict::Take { missed } => missed,
                why => {
                    tracing::debug!(job = self.id, attempt, sequence, ?why, "dropped an event");
                    continue;
                }
            };
            if self.fold.is_done() {
                self.ended = true;
                self.shared.routes.remove(&self.id);
            }
            match event::read(&message) {
                Ok(Some(body)) => {
                    let EventMessage { plugin, digest, .. } = message;
                    return Poll::Ready(Some(Ok(Event { attempt, sequence, missed, plugin, digest, body })));
                }
                Ok(None) => {}
                Err(detail) => {
                    let (job, kind) = (self.id.clone(), message.kind);
                    return Poll::Ready(Some(Err(ClientError::BadEvent {
                        job,
                        kind,
                        attempt,
                        sequence,
                        detail,
                    })));
                }
            }
        }
    }
}

impl Stream for JobHandle {
    type Item = Result<Event, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_event(cx)
    }
}

impl Drop for JobHandle {
    fn drop(&mut self) {
        // After the final event the route is gone, and the id may be in use again.
        if !self.fold.is_done() {
            self.shared.routes.remove(&self.id);
        }
    }
}
