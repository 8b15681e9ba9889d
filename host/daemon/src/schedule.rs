//! Which plugin serves a job, and when it runs: the newest plugin of the model, in the order of
//! arrival, as soon as a slot is free.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::job::{Code, Failure, Job};
use crate::plugin::{Plugin, Plugins};

/// The slots and the plugins that may take them.
pub struct Schedule {
    slots: Arc<Semaphore>,
    plugins: Arc<Plugins>,
}

/// The right to run one guest; given back when dropped.
pub struct Slot(#[allow(dead_code)] OwnedSemaphorePermit);

impl Schedule {
    /// `slots` guests at a time.
    pub fn new(slots: usize, plugins: Arc<Plugins>) -> Self {
        Self { slots: Arc::new(Semaphore::new(slots)), plugins }
    }

    /// The plugin for a job.
    ///
    /// # Errors
    /// `NO_MODEL` when none serves it.
    pub fn choose(&self, job: &Job) -> Result<Arc<Plugin>, Failure> {
        let model = &job.envelope.model;
        self.plugins.newest(model).ok_or_else(|| {
            Failure::new(
                Code::NoModel,
                format!("no plugin serves model {model:?}; served: {:?}", self.plugins.models()),
            )
        })
    }

    /// Waits for a slot, first come first served.
    ///
    /// # Errors
    /// `HOST_ERROR` when the host is shutting down.
    pub async fn slot(&self) -> Result<Slot, Failure> {
        match Arc::clone(&self.slots).acquire_owned().await {
            Ok(permit) => Ok(Slot(permit)),
            Err(_) => Err(Failure::new(Code::HostError, "the host is shutting down")),
        }
    }
}
