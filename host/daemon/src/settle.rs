//! The end of a delivery: the one total mapping from how a job ended to what is published and how
//! the delivery is settled. An acknowledgement follows only what the broker has confirmed.

use std::time::{Duration, SystemTime};

use crate::broker::{Broker, BrokerError, Confirmation, Delivery, Message, Settle};
use crate::job::{Code, Disposition, Failure, Job, Outputs};
use crate::relay::{Final, Relay, RelayError};
use crate::wire;

/// How a job ended.
#[derive(Debug)]
pub enum End {
    /// With outputs.
    Done(Outputs),
    /// Without; what happens next is the code's disposition.
    Failed(Failure),
    /// The plugin asks for another attempt.
    Retry(String),
}

/// Between an end that could not be published and the delivery's return: what refused it would
/// refuse it again at once.
const PAUSE: Duration = Duration::from_millis(250);

/// What settling needs to know of the host.
pub struct Settler<'a> {
    /// The broker.
    pub broker: &'a dyn Broker,
    /// What this host is called.
    pub host: &'a str,
    /// Delays of the retry tiers, shortest first.
    pub delays: &'a [Duration],
    /// Attempts that the plugin's manifest allows.
    pub attempts: u32,
}

impl Settler<'_> {
    /// Ends a job: events, retry or dead letter. Answers how the delivery is to be settled: where a
    /// broker refuses those it is rejected, to be delivered again.
    pub async fn end(&self, delivery: &Delivery, job: &Job, relay: &Relay, end: End) -> Settle {
        let published = self.publish(delivery, job, relay, end).await;
        settled(delivery, Some(&job.envelope.id), published).await
    }

    /// Publishes a job that must run alone to where such jobs wait.
    pub async fn isolate(&self, delivery: &Delivery) -> Settle {
        self.moved(delivery, wire::isolate(delivery, SystemTime::now(), self.host)).await
    }

    /// Publishes a job again to the queue that it came from, for its deliveries to be counted anew.
    pub async fn renew(&self, delivery: &Delivery, alone: bool) -> Settle {
        self.moved(delivery, wire::renew(delivery, alone, SystemTime::now(), self.host)).await
    }

    /// Publishes a job to where it waits out `grace`, the time that hosts which lost it have to say so.
    pub async fn suspect(&self, delivery: &Delivery, key: &str, grace: Duration) -> Settle {
        let long = self.delays.iter().find(|delay| **delay >= grace).or(self.delays.last());
        let delay = long.copied().unwrap_or(Duration::from_secs(1));
        self.moved(delivery, wire::suspect(delivery, delay, key, SystemTime::now(), self.host)).await
    }

    /// Publishes a job again that had no queue, now that its model has one.
    pub async fn again(&self, delivery: &Delivery) -> Settle {
        self.moved(delivery, wire::again(delivery)).await
    }

    /// Publishes a job to where it goes on.
    async fn moved(&self, delivery: &Delivery, message: Message) -> Settle {
        settled(delivery, None, self.confirmed(message).await).await
    }

    async fn publish(
        &self,
        delivery: &Delivery,
        job: &Job,
        relay: &Relay,
        end: End,
    ) -> Result<(), BrokerError> {
        let failure = match end {
            End::Done(outputs) => match relay.finish(Final::Result(&outputs)).await {
                Ok(()) => return Ok(()),
                Err(RelayError::Encode(failure)) => failure,
                Err(RelayError::Broker(error)) => return Err(error),
                Err(error @ RelayError::Unroutable { .. }) => return self.undelivered(error).await,
            },
            End::Failed(failure) => match self.another(delivery, job, failure).await? {
                Some(failure) => failure,
                None => return Ok(()),
            },
            End::Retry(text) => match self.retry(delivery, job, &text).await? {
                Some(failure) => failure,
                None => return Ok(()),
            },
        };
        if failure.code.info().disposition.leaves_letter() {
            let identity = relay.identity();
            self.confirmed(wire::dead_letter(
                delivery,
                &job.envelope,
                identity.as_ref(),
                self.host,
                &failure,
            ))
            .await?;
        }
        match relay.finish(Final::Error(&failure)).await {
            Ok(()) => Ok(()),
            Err(RelayError::Broker(error)) => Err(error),
            Err(RelayError::Encode(failure)) => {
                tracing::error!(job = %job.envelope.id, %failure, "an error event cannot be written");
                Ok(())
            }
            Err(error @ RelayError::Unroutable { .. }) => self.undelivered(error).await,
        }
    }

    /// Publishes the job for another attempt where its failure's code asks for one; answers the final
    /// failure where it does not, or when there is none left.
    async fn another(
        &self,
        delivery: &Delivery,
        job: &Job,
        failure: Failure,
    ) -> Result<Option<Failure>, BrokerError> {
        match failure.code.info().disposition {
            Disposition::Final | Disposition::DeadLetter => Ok(Some(failure)),
            Disposition::Retry => self.retry(delivery, job, &failure.text).await,
            Disposition::RetryOnce if wire::had_its_second(delivery, job.envelope.attempt) => {
                Ok(Some(failure))
            }
            Disposition::RetryOnce => {
                let delay = self.delays.first().copied().unwrap_or(Duration::from_secs(1));
                self.attempt(delivery, job, delay, Some(failure.code), &failure.text).await
            }
        }
    }

    /// Publishes the job for another attempt; answers the final failure when there is none left.
    async fn retry(
        &self,
        delivery: &Delivery,
        job: &Job,
        text: &str,
    ) -> Result<Option<Failure>, BrokerError> {
        let attempt = job.envelope.attempt;
        let tried = attempt.saturating_sub(wire::forgiven(delivery, attempt));
        if tried >= self.attempts {
            return Ok(Some(Failure::new(
                Code::RetriesExhausted,
                format!("attempt {tried} of {}: {text}", self.attempts),
            )));
        }
        let tier = usize::try_from(tried.saturating_sub(1))
            .unwrap_or(usize::MAX)
            .min(self.delays.len().saturating_sub(1));
        let delay = self.delays.get(tier).copied().unwrap_or(Duration::from_secs(1));
        self.attempt(delivery, job, delay, None, text).await
    }

    /// Publishes the job for another attempt after `delay`, unless it expires before.
    async fn attempt(
        &self,
        delivery: &Delivery,
        job: &Job,
        delay: Duration,
        cause: Option<Code>,
        text: &str,
    ) -> Result<Option<Failure>, BrokerError> {
        let attempt = job.envelope.attempt;
        if job.deadline.is_some_and(|d| SystemTime::now() + delay >= d) {
            return Ok(Some(Failure::new(
                Code::Expired,
                format!("attempt {attempt} failed ({text}) and the job expires before the next"),
            )));
        }
        tracing::info!(job = %job.envelope.id, attempt, delay_ms = delay.as_millis(), reason = text, "retrying");
        self.confirmed(wire::retry(delivery, job, delay, self.host, cause, text)).await?;
        Ok(None)
    }

    async fn undelivered(&self, error: RelayError) -> Result<(), BrokerError> {
        let text = error.to_string();
        if let RelayError::Unroutable { event, .. } = error {
            let failure = Failure::new(Code::ReplyUnroutable, text);
            self.confirmed(wire::undelivered(*event, &failure)).await?;
        }
        Ok(())
    }

    async fn confirmed(&self, message: Message) -> Result<(), BrokerError> {
        let exchange = message.exchange.clone();
        match self.broker.publish(message, true).await? {
            Confirmation::Confirmed => Ok(()),
            Confirmation::Returned | Confirmation::Nacked => {
                Err(BrokerError::NotFound { what: "queue of exchange", name: exchange })
            }
        }
    }
}

/// How a delivery is settled, by whether what follows from it was published.
async fn settled(delivery: &Delivery, job: Option<&str>, published: Result<(), BrokerError>) -> Settle {
    match published {
        Ok(()) => Settle::Ack,
        Err(error) => {
            tracing::warn!(queue = %delivery.queue, job, %error, "what follows from a job could not be published: it will be delivered again");
            tokio::time::sleep(PAUSE).await;
            Settle::Reject
        }
    }
}
