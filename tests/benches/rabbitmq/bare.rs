//! What a host is compared with: a consumer written on lapin alone that does what a no-op job asks
//! for. It publishes in the order of the jobs without waiting, keeps confirms in flight up to its
//! prefetch, and acknowledges a job when its result is confirmed. One process, as a host is.

use std::pin::Pin;
use std::task::{Context as TaskContext, Waker};

use anyhow::{Context, Result, ensure};
use futures_core::Stream;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::sync::mpsc;

use super::load::{Sent, publish};

/// A job whose events are on their way, the result last.
type Unconfirmed = (u64, Vec<Sent>);

/// Works on `queue` until killed.
pub async fn work(address: &str, queue: &str, prefetch: u16, statuses: u32) -> Result<()> {
    let connection = Connection::connect(address, ConnectionProperties::default()).await?;
    let jobs = connection.create_channel().await?;
    let events = connection.create_channel().await?;
    events.confirm_select(ConfirmSelectOptions::default()).await?;
    jobs.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let mut deliveries = jobs
        .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await?;
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        if let Err(error) = acknowledge(&jobs, receiver).await {
            eprintln!("bare: {error:#}");
            std::process::exit(1);
        }
    });
    while let Some(delivery) = std::future::poll_fn(|cx| Pin::new(&mut deliveries).poll_next(cx)).await {
        let delivery = delivery?;
        let job = delivery.properties.correlation_id().clone().context("a job without an id")?;
        let address = delivery.properties.reply_to().clone().context("a job without a reply address")?;
        let mut sent = Vec::with_capacity(statuses as usize + 1);
        for number in 0..statuses {
            let progress = f64::from(number) / f64::from(statuses);
            let body = format!("{{\"stage\":\"working\",\"progress\":{progress},\"message\":\"{number}\"}}");
            let properties = event(&job, number, "status").with_delivery_mode(1);
            sent.push(publish(&events, "", &address, false, body.into_bytes(), properties));
        }
        let body = format!("{{\"model_name\":\"noop\",\"id\":\"{job}\",\"outputs\":[]}}");
        let properties = event(&job, statuses, "result").with_delivery_mode(2);
        sent.push(publish(&events, "", &address, true, body.into_bytes(), properties));
        sender.send((delivery.delivery_tag, sent)).ok().context("nobody acknowledges any more")?;
    }
    Ok(())
}

/// The properties that let a client put a job's events in order and drop repeated ones.
fn event(job: &ShortString, sequence: u32, kind: &'static str) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert("job".into(), AMQPValue::LongString(job.as_str().into()));
    headers.insert("attempt".into(), AMQPValue::LongLongInt(1));
    headers.insert("sequence".into(), AMQPValue::LongLongInt(i64::from(sequence)));
    headers.insert("final".into(), AMQPValue::Boolean(kind == "result"));
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_correlation_id(job.clone())
        .with_message_id(format!("{job}:1:{sequence}").into())
        .with_type(kind.into())
        .with_headers(headers)
}

/// Acknowledges each job when its result is confirmed.
async fn acknowledge(jobs: &Channel, mut receiver: mpsc::UnboundedReceiver<Unconfirmed>) -> Result<()> {
    while let Some((tag, sent)) = receiver.recv().await {
        confirmed(sent).await?;
        let mut acked = Box::pin(jobs.basic_ack(tag, BasicAckOptions::default()));
        // Queues the frame; waiting for the socket would only cost.
        let _ = acked.as_mut().poll(&mut TaskContext::from_waker(Waker::noop()));
    }
    Ok(())
}

async fn confirmed(sent: Vec<Sent>) -> Result<()> {
    for confirm in sent {
        let confirmation = confirm.await?;
        ensure!(confirmation.is_ack(), "the broker refused an event");
        ensure!(confirmation.take_message().is_none(), "an event was returned");
    }
    Ok(())
}
