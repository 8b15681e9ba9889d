//! Jobs at a steady pace, published and counted on the broker itself: what became of each, and how long
//! it took.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::time::{MissedTickBehavior, interval, timeout};
use warren::broker::embedded::Embedded;
use warren::broker::{Broker, Message, Properties, QueueSpec, Settle};

/// What became of some jobs.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Published.
    pub sent: usize,
    /// Ended in a result.
    pub done: usize,
    /// Ended in an error; the last one's text.
    pub failed: usize,
    pub error: String,
    /// Had no end.
    pub lost: usize,
    /// Ends beyond the first.
    pub duplicated: usize,
    /// From publishing to the result, ms.
    pub latencies: Vec<f64>,
    /// From the first to the last.
    pub took: Duration,
}

/// How long after the last job its end is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Publishes jobs for `model` at `rate` a second until `stop` says so.
pub async fn paced(
    broker: &Embedded,
    model: &str,
    body: &Bytes,
    rate: f64,
    stop: impl Fn(Duration) -> bool,
) -> Result<Outcome> {
    let replies = "bench.replies";
    broker.declare_queue(&QueueSpec { name: replies.into(), ..QueueSpec::default() }).await?;
    let mut consumer = broker.consume(replies, 10_000).await?;
    let start = Instant::now();
    let mut sent: Vec<Instant> = Vec::new();
    let mut ends: Vec<u8> = Vec::new();
    let (mut outcome, mut open, mut stopped) = (Outcome::default(), 0usize, false);
    let mut ticks = interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stopped || open > 0 {
        tokio::select! {
            _ = ticks.tick(), if !stopped => {
                stopped = stop(start.elapsed());
                let due = (start.elapsed().as_secs_f64() * rate) as usize;
                while sent.len() < due && !stopped {
                    let properties = Properties {
                        correlation_id: Some(sent.len().to_string()),
                        reply_to: Some(replies.into()),
                        persistent: true,
                        ..Properties::default()
                    };
                    let message = Message {
                        exchange: "warren.jobs".into(),
                        routing_key: model.into(),
                        properties,
                        body: body.clone(),
                    };
                    sent.push(Instant::now());
                    ends.push(0);
                    open += 1;
                    drop(broker.publish(message, false));
                }
            }
            delivery = timeout(PATIENCE, consumer.deliveries.recv()) => {
                // Silence: what has no end by now has none.
                let Ok(delivery) = delivery else { break };
                let delivery = delivery.context("the reply queue is gone")?;
                let properties = &delivery.message.properties;
                let kind = properties.kind.clone().unwrap_or_default();
                let id = properties.correlation_id.as_deref().and_then(|id| id.parse::<usize>().ok());
                broker.settle(delivery.tag, Settle::Ack);
                let Some(id) = id.filter(|id| *id < sent.len() && kind != "status") else { continue };
                ends[id] = ends[id].saturating_add(1);
                if ends[id] > 1 {
                    outcome.duplicated += 1;
                    continue;
                }
                open -= 1;
                if kind == "result" {
                    outcome.done += 1;
                    outcome.latencies.push(sent[id].elapsed().as_secs_f64() * 1e3);
                } else {
                    outcome.failed += 1;
                    outcome.error = String::from_utf8_lossy(&delivery.message.body).into_owned();
                }
            }
        }
    }
    outcome.sent = sent.len();
    outcome.lost = open;
    outcome.took = start.elapsed();
    Ok(outcome)
}

/// Jobs a second with as many under way as keep the host busy.
pub async fn flat_out(broker: &Embedded, model: &str, body: &Bytes, count: usize) -> Result<f64> {
    let replies = "bench.flat";
    broker.declare_queue(&QueueSpec { name: replies.into(), ..QueueSpec::default() }).await?;
    let mut consumer = broker.consume(replies, 10_000).await?;
    let (start, mut finished) = (Instant::now(), 0usize);
    for sent in 0..count {
        let properties = Properties {
            correlation_id: Some(format!("flat-{sent}")),
            reply_to: Some(replies.into()),
            persistent: true,
            ..Properties::default()
        };
        let message = Message {
            exchange: "warren.jobs".into(),
            routing_key: model.into(),
            properties,
            body: body.clone(),
        };
        drop(broker.publish(message, false));
        while sent + 1 - finished > 500 {
            let delivery = consumer.deliveries.recv().await.context("the reply queue is gone")?;
            broker.settle(delivery.tag, Settle::Ack);
            finished += 1;
        }
    }
    while finished < count {
        let delivery = consumer.deliveries.recv().await.context("the reply queue is gone")?;
        broker.settle(delivery.tag, Settle::Ack);
        finished += 1;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}
