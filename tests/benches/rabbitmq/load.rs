//! The other side of a worker: publishes jobs, takes the events of all workers alike, and says when
//! which job was done.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_core::Stream;
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::sync::mpsc;

/// Where all workers answer to.
pub const REPLIES: &str = "bench.replies";

/// Longest wait for the next event.
const PATIENCE: Duration = Duration::from_secs(60);

/// A publish that was written and is not confirmed yet.
pub type Sent = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>;

/// Publishes behind the earlier calls, without waiting: the first poll queues the frames.
pub fn publish(
    channel: &Channel,
    exchange: &str,
    key: &ShortString,
    mandatory: bool,
    body: Vec<u8>,
    properties: BasicProperties,
) -> Sent {
    let (channel, exchange, key) = (channel.clone(), ShortString::from(exchange), key.clone());
    let mut sent: Sent = Box::pin(async move {
        let options = BasicPublishOptions { mandatory, immediate: false };
        channel.basic_publish(exchange, key, options, &body, properties).await?.await
    });
    match sent.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Pending => sent,
        Poll::Ready(confirmation) => Box::pin(std::future::ready(confirmation)),
    }
}

/// What a job asks for and how it is written.
#[derive(Clone, Copy)]
pub struct Work {
    /// The exchange.
    pub exchange: &'static str,
    /// The routing key.
    pub key: &'static str,
    /// The queue that it arrives in.
    pub queue: &'static str,
    /// The body.
    pub body: &'static str,
    /// Statuses that each job is to report.
    pub statuses: u32,
    /// Written as Celery wants it.
    pub celery: bool,
}

/// What an event is.
enum Kind {
    Status,
    Result,
}

/// Publishes jobs and takes events.
pub struct Load {
    _connection: Connection,
    jobs: Channel,
    queues: Channel,
    results: mpsc::UnboundedReceiver<Result<(String, Instant)>>,
    statuses: Arc<Mutex<u64>>,
}

impl Load {
    /// Connects, and takes from the reply queue from now on.
    pub async fn connect(address: &str) -> Result<Self> {
        let connection = Connection::connect(address, ConnectionProperties::default()).await?;
        let jobs = connection.create_channel().await?;
        jobs.confirm_select(ConfirmSelectOptions::default()).await?;
        let queues = connection.create_channel().await?;
        quorum(&queues, REPLIES).await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let channel = connection.create_channel().await?;
        let mut events =
            channel.basic_consume(REPLIES.into(), "".into(), options, FieldTable::default()).await?;
        let (sender, results) = mpsc::unbounded_channel();
        let statuses = Arc::new(Mutex::new(0));
        let count = Arc::clone(&statuses);
        tokio::spawn(async move {
            // Lives as long as it is consumed from.
            let _channel = channel;
            while let Some(event) = std::future::poll_fn(|cx| Pin::new(&mut events).poll_next(cx)).await {
                let event = match event.map_err(anyhow::Error::from).and_then(|e| kind(&e).map(|k| (k, e))) {
                    Ok((Kind::Status, _)) => {
                        *count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                        continue;
                    }
                    Ok((Kind::Result, event)) => Ok((job(&event), Instant::now())),
                    Err(error) => Err(error),
                };
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Ok(Self { _connection: connection, jobs, queues, results, statuses })
    }

    /// Declares a queue as the workers that bring none want it.
    pub async fn declare(&self, queue: &str) -> Result<()> {
        quorum(&self.queues, queue).await
    }

    /// Forgets what an earlier round left.
    pub async fn purge(&mut self, queue: &str) -> Result<()> {
        for queue in [queue, REPLIES] {
            self.queues.queue_purge(queue.into(), QueuePurgeOptions::default()).await?;
        }
        while self.results.try_recv().is_ok() {}
        *self.statuses.lock().unwrap_or_else(PoisonError::into_inner) = 0;
        Ok(())
    }

    /// Publishes one job.
    pub fn send(&self, work: &Work, job: &str) -> Sent {
        send(&self.jobs, work, job)
    }

    /// Fills the queue, and returns when the broker holds it all.
    pub async fn fill(&self, work: &Work, count: usize) -> Result<()> {
        let mut sent = std::collections::VecDeque::new();
        for number in 0..count {
            sent.push_back(self.send(work, &format!("job-{number}")));
            if sent.len() > 2000
                && let Some(confirm) = sent.pop_front()
            {
                confirmed(confirm).await?;
            }
        }
        for confirm in sent {
            confirmed(confirm).await?;
        }
        Ok(())
    }

    /// The next result: which job, and when it came.
    pub async fn result(&mut self) -> Result<(String, Instant)> {
        let result = tokio::time::timeout(PATIENCE, self.results.recv()).await;
        result
            .with_context(|| format!("no result within {PATIENCE:?}"))?
            .context("the reply queue is gone")?
    }

    /// Statuses since the last purge.
    pub fn statuses(&self) -> u64 {
        *self.statuses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes at moments that do not depend on the answers, `rate` a second on average, and
    /// answers how long each job took from the moment it was due.
    pub async fn open_loop(
        &mut self,
        work: &Work,
        rate: f64,
        time: Duration,
        seed: u64,
    ) -> Result<Vec<Duration>> {
        let mut dice = fastrand::Rng::with_seed(seed);
        let (start, mut at) = (Instant::now() + Duration::from_millis(10), Duration::ZERO);
        let mut due = HashMap::new();
        let mut moments = Vec::new();
        while at < time {
            at += Duration::from_secs_f64(-(1.0 - dice.f64()).ln() / rate);
            due.insert(format!("job-{}", moments.len()), start + at);
            moments.push(start + at);
        }
        let mut taken = Vec::with_capacity(moments.len());
        // A thread of its own: a timer of the runtime is no finer than a millisecond.
        let (channel, work) = (self.jobs.clone(), *work);
        let count = moments.len();
        let publishing = std::thread::spawn(move || {
            let mut sent = Vec::with_capacity(moments.len());
            for (number, moment) in moments.into_iter().enumerate() {
                std::thread::sleep(moment.saturating_duration_since(Instant::now()));
                sent.push(send(&channel, &work, &format!("job-{number}")));
            }
            sent
        });
        for _ in 0..count {
            let (job, came) = self.result().await?;
            let due = due.remove(&job).with_context(|| format!("{job}: answered twice"))?;
            taken.push(came.saturating_duration_since(due));
        }
        let Ok(sent) = publishing.join() else { bail!("the publishing thread panicked") };
        for confirm in sent {
            confirmed(confirm).await?;
        }
        Ok(taken)
    }
}

fn send(channel: &Channel, work: &Work, job: &str) -> Sent {
    let mut headers = FieldTable::default();
    if work.celery {
        for (name, value) in [("lang", "py"), ("task", work.key), ("id", job), ("root_id", job)] {
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        }
    } else {
        headers.insert("events".into(), AMQPValue::LongString("all".into()));
    }
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_delivery_mode(2)
        .with_correlation_id(job.into())
        .with_message_id(format!("m-{job}").into())
        .with_reply_to(REPLIES.into())
        .with_headers(headers);
    let key = if work.celery { work.queue } else { work.key };
    publish(channel, work.exchange, &key.into(), true, work.body.as_bytes().to_vec(), properties)
}

async fn quorum(channel: &Channel, queue: &str) -> Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments).await?;
    Ok(())
}

/// Waits until the broker has it in a queue.
pub async fn confirmed(sent: Sent) -> Result<()> {
    let confirmation = sent.await?;
    ensure!(confirmation.is_ack() && confirmation.take_message().is_none(), "a job was not taken");
    Ok(())
}

fn job(event: &Delivery) -> String {
    event.properties.correlation_id().as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default()
}

/// By the property `type`, or as Celery writes it in the body.
fn kind(event: &Delivery) -> Result<Kind> {
    match event.properties.kind().as_ref().map(ShortString::as_str) {
        Some("status") => return Ok(Kind::Status),
        Some("result") => return Ok(Kind::Result),
        Some(other) => bail!("an event of type {other}: {}", String::from_utf8_lossy(&event.data)),
        None => {}
    }
    let body: serde_json::Value = serde_json::from_slice(&event.data)?;
    match body["status"].as_str() {
        Some("PROGRESS") => Ok(Kind::Status),
        Some("SUCCESS") => Ok(Kind::Result),
        _ => bail!("an event that is neither progress nor success: {body}"),
    }
}
