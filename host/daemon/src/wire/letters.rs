//! Jobs on their way without a result: back for another attempt, taken from their queue undone, or
//! to the dead-letter queue.

use std::time::{Duration, SystemTime};

use super::{DEAD, RETRY, Rejected, envelope, retry_tier};
use crate::broker::{Delivery, HeaderValue, Message};
use crate::job::{Code, Envelope, Failure, Identity, Job};

/// The delivery's message again, for the retry tier of `delay`: same key and body, the attempts so
/// far in header `attempt`. The time to live becomes an absolute deadline: a broker counts
/// `expiration` anew in each queue, and forgets it when it dead-letters.
pub fn retry(delivery: &Delivery, job: &Job, delay: Duration) -> Message {
    let mut message = delivery.message.clone();
    message.exchange = retry_tier(delay);
    message.properties.persistent = true;
    message.properties.expiration = None;
    if let Some(deadline) = job.deadline {
        let ms = deadline.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        message.properties.set("deadline", HeaderValue::Int(i64::try_from(ms).unwrap_or(i64::MAX)));
    }
    message.properties.set("attempt", HeaderValue::Int(i64::from(job.envelope.attempt)));
    // A job that came without an id must keep the one that its events have by now.
    message.properties.correlation_id = Some(job.envelope.id.clone());
    message
}

/// A final event that its address would not take, for the dead-letter queue: the event itself, its
/// address in headers.
pub fn undelivered(mut event: Message, failure: &Failure) -> Message {
    let address = if event.exchange.is_empty() {
        event.routing_key.clone()
    } else {
        format!("{}/{}", event.exchange, event.routing_key)
    };
    event.properties.set("reply-to", HeaderValue::Text(address));
    event.properties.set("code", HeaderValue::Text(failure.code.info().name.to_owned()));
    event.properties.set("reason", HeaderValue::Text(failure.text.clone()));
    event.exchange = DEAD.to_owned();
    event
}

/// The envelope of a job that its broker took from the queue undone. It does not say how often it
/// was delivered before, at most `limit` + 1 times: the attempt is above all of those, or the
/// client would drop the final event as that of an attempt that was overtaken.
pub fn undone(delivery: &Delivery, limit: u32) -> Result<Envelope, Box<Rejected>> {
    let mut envelope = envelope(delivery)?;
    envelope.attempt = envelope.attempt.saturating_add(limit).saturating_add(1);
    if envelope.id.is_empty() {
        envelope.id = uuid::Uuid::new_v4().to_string();
    }
    Ok(envelope)
}

/// The failure of a job that its broker took from the queue undone.
pub fn undone_failure(delivery: &Delivery) -> Failure {
    let properties = &delivery.message.properties;
    // Brokers keep the first death of all. When that was in a retry tier, the job had no time to
    // live any more, so what took it now was the delivery limit.
    let retried = properties.text("x-first-death-queue").is_some_and(|queue| queue.starts_with(RETRY));
    match properties.text("x-first-death-reason") {
        Some(reason) if retried || reason == "delivery_limit" => {
            Failure::new(Code::DeliveryLimit, "delivered to host after host, and none of them could answer")
        }
        _ => Failure::new(Code::Expired, "the job's time to live ran out in the queue"),
    }
}

/// The delivery's message again, for the dead-letter queue: unchanged, and why in headers.
pub fn dead_letter(
    delivery: &Delivery,
    envelope: &Envelope,
    identity: Option<&Identity>,
    failure: &Failure,
) -> Message {
    let mut message = delivery.message.clone();
    message.exchange = DEAD.to_owned();
    message.properties.persistent = true;
    message.properties.expiration = None;
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    message.properties.set("job", HeaderValue::Text(envelope.id.clone()));
    message.properties.set("attempt", HeaderValue::Int(i64::from(envelope.attempt)));
    message.properties.set("code", HeaderValue::Text(failure.code.info().name.to_owned()));
    message.properties.set("reason", HeaderValue::Text(failure.text.clone()));
    message.properties.set("died-at", HeaderValue::Int(i64::try_from(seconds).unwrap_or(i64::MAX)));
    message.properties.set("died-from", HeaderValue::Text(delivery.queue.to_string()));
    if let Some(identity) = identity {
        message.properties.set("plugin", HeaderValue::Text(identity.plugin.to_string()));
        message.properties.set("digest", HeaderValue::Text(identity.digest.to_string()));
    }
    message
}
