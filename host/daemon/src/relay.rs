//! The one writer of a job's events: numbers them, coalesces floods of statuses, publishes the
//! final event last and waits for its confirm. Nothing else publishes to a reply address.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::broker::{Broker, BrokerError, Confirmation};
use crate::job::{Code, Envelope, EventsMode, Failure, Identity, Outputs, Progress};
use crate::wire::{self, EventBody};

/// What all of a host's relays share.
pub struct Relays {
    broker: Arc<dyn Broker>,
    responses: String,
    interval: Duration,
    waiting: Mutex<Vec<Weak<Relay>>>,
}

/// One attempt's events.
pub struct Relay {
    shared: Arc<Relays>,
    envelope: Envelope,
    binary: bool,
    inner: Mutex<Inner>,
}

struct Inner {
    identity: Option<Identity>,
    sequence: u32,
    last_status: Option<Instant>,
    held: Option<Progress>,
    /// It is on the list of those with a held status: once, however often one is held.
    listed: bool,
    stage: String,
    stages: u32,
    finished: bool,
}

/// Why the final event did not reach its address.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The reply address leads to no queue, or its queue refuses messages.
    #[error(
        "the reply address {address:?} takes no messages: its queue, exchange or client is gone, or it is full"
    )]
    Unroutable {
        /// The address.
        address: String,
        /// The event, to be kept elsewhere.
        event: Box<crate::broker::Message>,
    },
    /// The outputs cannot be written as the protocol wants them, or as the broker takes them.
    #[error("{0}")]
    Encode(Failure),
    /// The broker is gone: what it got is not known.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// The final event.
pub enum Final<'a> {
    /// The job is done.
    Result(&'a Outputs),
    /// The job failed for good.
    Error(&'a Failure),
}

/// Stages whose first status goes out at once; further ones are coalesced like any status.
const MAX_STAGES: u32 = 64;
/// How often a final event that was returned is published, and the first and longest pause.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long one that was refused is published again. The queue may be full; or be without a leader,
/// which takes a cluster a second or two to replace.
const REFUSING: Duration = Duration::from_secs(4);

impl Relays {
    /// Relays that publish on `broker`; jobs without a reply address answer to queue `responses`; a
    /// job's statuses are at least `interval` apart.
    pub fn new(broker: Arc<dyn Broker>, responses: String, interval: Duration) -> Arc<Self> {
        Arc::new(Self { broker, responses, interval, waiting: Mutex::new(Vec::new()) })
    }

    /// The relay of one attempt.
    pub fn open(self: &Arc<Self>, envelope: Envelope, binary: bool) -> Arc<Relay> {
        Arc::new(Relay {
            shared: Arc::clone(self),
            envelope,
            binary,
            inner: Mutex::new(Inner {
                identity: None,
                sequence: 0,
                last_status: None,
                held: None,
                listed: false,
                stage: String::new(),
                stages: 0,
                finished: false,
            }),
        })
    }

    /// Publishes held statuses whose time has come. Called every few milliseconds.
    pub fn flush(&self) {
        let due: Vec<Arc<Relay>> = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let due = waiting.iter().filter_map(Weak::upgrade).collect();
            waiting.clear();
            due
        };
        for relay in due {
            if !relay.flush_due() {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.push(Arc::downgrade(&relay));
            }
        }
    }
}

impl Relay {
    /// Whether an event of this attempt has been published.
    pub fn has_spoken(&self) -> bool {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).sequence > 0
    }

    /// Names the plugin that works on the job, from now on.
    pub fn identify(&self, identity: Identity) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).identity = Some(identity);
    }

    /// Who works on the job.
    pub fn identity(&self) -> Option<Identity> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).identity.clone()
    }

    /// Publishes a status or a partial. Statuses of one stage that follow each other too fast are
    /// held: the newest replaces the one held. Never blocks.
    pub fn progress(self: &Arc<Self>, progress: Progress) {
        if self.envelope.events == EventsMode::Final {
            return;
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.finished {
            return;
        }
        match progress {
            Progress::Partial(_) => {
                // What was said before the partial goes out before it.
                if let Some(held) = inner.held.take() {
                    self.publish(&mut inner, &held);
                }
                self.publish(&mut inner, &progress);
            }
            Progress::Status { ref stage, .. } => {
                let soon = inner.last_status.is_some_and(|t| t.elapsed() < self.shared.interval);
                let entered = *stage != inner.stage && inner.stages < MAX_STAGES;
                if entered {
                    inner.stage.clone_from(stage);
                    inner.stages += 1;
                }
                if soon && !entered {
                    inner.held = Some(progress);
                    if !std::mem::replace(&mut inner.listed, true) {
                        drop(inner);
                        let mut waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                        waiting.push(Arc::downgrade(self));
                    }
                } else {
                    // A stage's last status tells how far it came; within a stage the newest is enough.
                    match inner.held.take() {
                        Some(held) if entered => self.publish(&mut inner, &held),
                        _ => {}
                    }
                    inner.last_status = Some(Instant::now());
                    self.publish(&mut inner, &progress);
                }
            }
        }
    }

    /// Publishes the held status if it is time. True when none is held any more: then this relay is
    /// off the list.
    fn flush_due(&self) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let soon = inner.last_status.is_some_and(|t| t.elapsed() < self.shared.interval);
        if soon && inner.held.is_some() && !inner.finished {
            return false;
        }
        inner.listed = false;
        self.publish_held(&mut inner);
        true
    }

    fn publish_held(&self, inner: &mut Inner) {
        if let Some(held) = inner.held.take()
            && !inner.finished
        {
            inner.last_status = Some(Instant::now());
            self.publish(inner, &held);
        }
    }

    /// Publishes under the lock, so that sequence numbers and wire order agree. Progress is not
    /// waited for: it is worth nothing by the time a confirm could tell that it was lost.
    fn publish(&self, inner: &mut Inner, progress: &Progress) {
        let body = EventBody::Progress(progress);
        let made = wire::event(
            &self.envelope,
            inner.identity.as_ref(),
            inner.sequence,
            &body,
            self.binary,
            &self.shared.responses,
        );
        match made {
            Ok(message) => {
                inner.sequence += 1;
                self.shared.broker.tell(message);
            }
            Err(failure) => {
                tracing::warn!(job = %self.envelope.id, %failure, "a progress event cannot be written");
            }
        }
    }

    /// Publishes the final event, and is done when the broker has confirmed that a queue holds it.
    /// A returned or refused one is tried again a few times.
    ///
    /// # Errors
    /// [`RelayError`]; after it nothing final has been accepted, and another final event may be sent.
    pub async fn finish(&self, last: Final<'_>) -> Result<(), RelayError> {
        let body = match &last {
            Final::Result(outputs) => EventBody::Result(outputs),
            Final::Error(failure) => EventBody::Error(failure),
        };
        let message = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            self.publish_held(&mut inner);
            inner.finished = true;
            wire::event(
                &self.envelope,
                inner.identity.as_ref(),
                inner.sequence,
                &body,
                self.binary,
                &self.shared.responses,
            )
            .map_err(RelayError::Encode)?
        };
        let address = self.envelope.reply_to.clone().unwrap_or_else(|| self.shared.responses.clone());
        // Direct reply-to reports a mandatory message as returned although it was delivered. Whether the
        // client lives has to be asked instead.
        let direct = address.starts_with(wire::DIRECT_REPLY_TO);
        if direct && matches!(self.shared.broker.depth(&address).await, Err(BrokerError::NotFound { .. })) {
            return Err(RelayError::Unroutable { address, event: Box::new(message) });
        }
        let mandatory = !direct;
        let (since, mut pause, mut tried) = (Instant::now(), PAUSE, 0);
        loop {
            tried += 1;
            let again = match self.shared.broker.publish(message.clone(), mandatory).await {
                Ok(Confirmation::Confirmed) => return Ok(()),
                Ok(Confirmation::Returned) => tried < ATTEMPTS,
                Ok(Confirmation::Nacked) => since.elapsed() < REFUSING,
                // The client named an exchange that there is not.
                Err(BrokerError::NotFound { .. }) => false,
                Err(error @ BrokerError::TooLong { .. }) => {
                    return Err(RelayError::Encode(Failure::new(Code::OutputLimit, error.to_string())));
                }
                Err(error) => return Err(error.into()),
            };
            if !again {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 4).min(LONGEST_PAUSE);
        }
        Err(RelayError::Unroutable { address, event: Box::new(message) })
    }
}
