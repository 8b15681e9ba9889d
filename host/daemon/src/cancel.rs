//! Jobs that clients no longer want: finds the one in hand and stops it, and remembers those that
//! have not been delivered yet.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::job::{Code, Failure};
use crate::sandbox::Watch;

/// Cancelled jobs that are remembered until they are delivered. A client that cancels more jobs
/// than this before any host sees one gets results for the oldest.
const REMEMBERED: usize = 100_000;

/// One job in hand.
#[derive(Debug, Default)]
pub struct InHand {
    token: CancellationToken,
    watch: Mutex<Option<Arc<Watch>>>,
}

impl InHand {
    /// Waits until the job is cancelled.
    pub async fn cancelled(&self) -> Failure {
        self.token.cancelled().await;
        failure()
    }

    /// The job runs now, under this watch.
    pub fn runs(&self, watch: &Arc<Watch>) {
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(watch));
        if self.token.is_cancelled() {
            watch.cancel(failure());
        }
    }

    fn cancel(&self) {
        self.token.cancel();
        if let Some(watch) = &*self.watch.lock().unwrap_or_else(PoisonError::into_inner) {
            watch.cancel(failure());
        }
    }
}

fn failure() -> Failure {
    Failure::new(Code::Cancelled, "cancelled by the client")
}

#[derive(Debug, Default)]
struct Inner {
    in_hand: HashMap<String, Vec<Arc<InHand>>>,
    remembered: HashSet<String>,
    order: VecDeque<String>,
}

/// The jobs in hand and the cancellations that came before their jobs.
#[derive(Debug, Default, Clone)]
pub struct Cancels(Arc<Mutex<Inner>>);

/// Takes the job out of hand when dropped.
#[derive(Debug)]
pub struct Entered {
    /// The job.
    pub job: Arc<InHand>,
    id: String,
    cancels: Cancels,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut inner = self.cancels.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(jobs) = inner.in_hand.get_mut(&self.id) {
            jobs.retain(|j| !Arc::ptr_eq(j, &self.job));
            if jobs.is_empty() {
                inner.in_hand.remove(&self.id);
            }
        }
    }
}

impl Cancels {
    /// A job comes into hand; cancelled already if that is remembered.
    pub fn enter(&self, id: &str) -> Entered {
        let job = Arc::new(InHand::default());
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.remembered.contains(id) {
            job.token.cancel();
        }
        inner.in_hand.entry(id.to_owned()).or_default().push(Arc::clone(&job));
        Entered { job, id: id.to_owned(), cancels: self.clone() }
    }

    /// Cancels a job: stops it if it is in hand, and remembers it, since it may be delivered here
    /// later, or again.
    pub fn cancel(&self, id: &str) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for job in inner.in_hand.get(id).into_iter().flatten() {
            job.cancel();
        }
        if inner.remembered.insert(id.to_owned()) {
            inner.order.push_back(id.to_owned());
            if inner.order.len() > REMEMBERED
                && let Some(oldest) = inner.order.pop_front()
            {
                inner.remembered.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_hands_are_emptied() {
        let cancels = Cancels::default();
        for n in 0..REMEMBERED + 10 {
            cancels.cancel(&n.to_string());
        }
        let early = cancels.enter("3");
        let late = cancels.enter("100009");
        assert!(!early.job.token.is_cancelled() && late.job.token.is_cancelled());
        drop((early, late));
        let inner = cancels.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(
            (inner.in_hand.len(), inner.remembered.len(), inner.order.len()),
            (0, REMEMBERED, REMEMBERED)
        );
    }
}
