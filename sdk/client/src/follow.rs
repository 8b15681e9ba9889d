//! One job's events, whatever way they come.

use crate::client::ClientError;
use crate::event::{self, Event};
use crate::fold::{Fold, Verdict};
use crate::transport::EventMessage;

/// Follows one job: takes its messages as they arrive and answers the events that count, each once
/// and in order. [`crate::JobHandle`] does it for a job of its own client; this is for whoever reads
/// a job's events from elsewhere.
#[derive(Debug)]
pub struct Follower {
    job: String,
    fold: Fold,
}

impl Follower {
    /// At the job's beginning.
    pub fn new(job: impl Into<String>) -> Self {
        Self { job: job.into(), fold: Fold::default() }
    }

    /// The event in this message; none if it does not count: it is of another job, repeated, of an
    /// attempt that was overtaken, or of a kind that this version does not know.
    ///
    /// # Errors
    /// [`ClientError::BadEvent`] for one that cannot be read; it counts.
    pub fn take(&mut self, message: EventMessage) -> Option<Result<Event, ClientError>> {
        if message.job != self.job {
            return None;
        }
        let (attempt, sequence) = (message.attempt, message.sequence);
        let missed = match self.fold.accept(attempt, sequence, message.last) {
            Verdict::Take { missed } => missed,
            why => {
                tracing::debug!(job = self.job, attempt, sequence, ?why, "dropped an event");
                return None;
            }
        };
        match event::read(&message) {
            Ok(Some(body)) => {
                let EventMessage { plugin, digest, .. } = message;
                Some(Ok(Event { attempt, sequence, missed, plugin, digest, body }))
            }
            Ok(None) => None,
            Err(detail) => {
                let (job, kind) = (self.job.clone(), message.kind);
                Some(Err(ClientError::BadEvent { job, kind, attempt, sequence, detail }))
            }
        }
    }

    /// The job's id.
    pub fn job(&self) -> &str {
        &self.job
    }

    /// Whether the final event has come.
    pub fn is_done(&self) -> bool {
        self.fold.is_done()
    }
}
