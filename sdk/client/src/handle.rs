//! One submitted job: the stream of its events.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tokio::sync::mpsc;

use crate::client::{ClientError, Shared};
use crate::event::{Event, EventBody};
use crate::follow::Follower;
use crate::oip::InferResponse;
use crate::transport::EventMessage;

/// A submitted job. As a stream it yields the job's events in order, each once, and ends after the
/// final one. Dropping it stops following; it does not cancel the job.
pub struct JobHandle {
    shared: Arc<Shared>,
    events: mpsc::UnboundedReceiver<EventMessage>,
    follower: Follower,
    /// The stream has ended, with or without a final event.
    ended: bool,
}

impl JobHandle {
    pub(crate) fn new(
        id: String,
        shared: Arc<Shared>,
        events: mpsc::UnboundedReceiver<EventMessage>,
    ) -> Self {
        Self { shared, events, follower: Follower::new(id), ended: false }
    }

    /// The job's id.
    pub fn id(&self) -> &str {
        self.follower.job()
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
        Err(ClientError::Closed(self.id().to_owned()))
    }

    /// Tells the hosts that the result is no longer wanted. A final event still comes: an error
    /// that says so, or the result if it was faster.
    ///
    /// # Errors
    /// [`ClientError::Transport`].
    pub async fn cancel(&self) -> Result<(), ClientError> {
        Ok(self.shared.transport.cancel(self.id()).await?)
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, ClientError>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            let Some(message) = ready!(self.events.poll_recv(cx)) else {
                self.ended = true;
                return Poll::Ready(Some(Err(ClientError::Closed(self.id().to_owned()))));
            };
            let event = self.follower.take(message);
            if self.follower.is_done() {
                self.ended = true;
                self.shared.routes.remove(self.follower.job());
            }
            if event.is_some() {
                return Poll::Ready(event);
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
        if !self.follower.is_done() {
            self.shared.routes.remove(self.follower.job());
        }
    }
}
