//! What the oracle reads: connections of its own, and messages taken down under their jobs.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_core::Stream;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::time::timeout;
use warren::wire::DEAD;

use super::Book;
use super::verdict::{Event, Letter};

/// For one address to connect.
const CONNECT: Duration = Duration::from_secs(5);

/// Connects to the first of these addresses, separated by commas, that answers.
pub(super) async fn connect(addresses: &str, name: &str) -> lapin::Result<Connection> {
    let mut last = lapin::Error::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    for address in addresses.split(',') {
        let properties = ConnectionProperties::default().with_connection_name(LongString::from(name));
        match timeout(CONNECT, Connection::connect(address, properties)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => last = error,
            // A node that is frozen.
            Err(_) => {}
        }
    }
    Err(last)
}

async fn declare_on(channel: &Channel, queue: &str) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    // A reader that comes back before the broker knows that it was gone would get what is new first, and
    // after that what had been on its way: clients to whom order matters ask for this.
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, arguments).await.map(|_| ())
}

pub(super) async fn declare(address: &str, queue: &str) -> lapin::Result<()> {
    let connection = connect(address, "oracle").await?;
    // lapin never answers what is asked of a connection that is gone.
    let declared = timeout(CONNECT, async { declare_on(&connection.create_channel().await?, queue).await });
    declared.await.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))?;
    // It is there: how the connection ends does not matter.
    let _ = timeout(CONNECT, connection.close(200, "OK".into())).await;
    Ok(())
}

/// Reads a queue until its connection, channel or consumer ends. `own`: it is the oracle's own, and made
/// where it is gone.
pub(super) async fn read(address: &str, queue: &str, own: bool, book: &Mutex<Book>) -> lapin::Result<()> {
    let connection = connect(address, "oracle reading").await?;
    let begun = timeout(CONNECT, async {
        let channel = connection.create_channel().await?;
        if own {
            declare_on(&channel, queue).await?;
        }
        channel.basic_qos(500, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
        Ok::<_, lapin::Error>((channel, consumer))
    });
    let (channel, mut consumer) =
        begun.await.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))?;
    while let Some(next) = std::future::poll_fn(|cx| Pin::new(&mut consumer).poll_next(cx)).await {
        let delivery = next?;
        let tag = delivery.delivery_tag;
        {
            let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(text) = note(&mut book, queue, &delivery) {
                book.strange.push(text);
            }
        }
        channel.basic_ack(tag, BasicAckOptions::default()).await?;
    }
    Ok(())
}

fn text(headers: Option<&FieldTable>, name: &str) -> Option<String> {
    match headers?.inner().get(name)? {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

fn number(headers: Option<&FieldTable>, name: &str) -> Option<u32> {
    match headers?.inner().get(name)? {
        AMQPValue::LongLongInt(n) => u32::try_from(*n).ok(),
        AMQPValue::LongInt(n) => u32::try_from(*n).ok(),
        AMQPValue::LongUInt(n) => Some(*n),
        _ => None,
    }
}

/// Takes a message down under its job.
pub(super) fn note(book: &mut Book, queue: &str, delivery: &Delivery) -> Result<(), String> {
    let properties = &delivery.properties;
    let headers = properties.headers().as_ref();
    let shown = || format!("{queue}: {properties:?}: {}", String::from_utf8_lossy(&delivery.data));
    let id = properties.correlation_id().as_ref().map(|id| id.as_str().to_owned());
    let Some(id) = id.filter(|id| book.stories.contains_key(id)) else {
        return Err(format!("a message of no job of ours in {}", shown()));
    };
    let Some(story) = book.stories.get_mut(&id) else { return Ok(()) };
    if queue == DEAD {
        let reason = text(headers, "reason").or_else(|| text(headers, "x-first-death-reason"));
        let letter = Letter { code: text(headers, "code"), attempt: number(headers, "attempt"), reason };
        // What this reader had taken and could not acknowledge comes again.
        if delivery.redelivered && story.letters.contains(&letter) {
            return Ok(());
        }
        let before = story.has_ended();
        story.letters.push(letter);
        if !before {
            book.ended(&id);
        }
        return Ok(());
    }
    let mut hasher = DefaultHasher::new();
    delivery.data.hash(&mut hasher);
    let kind = properties.kind().as_ref().map_or("", |kind| kind.as_str());
    let last = matches!(headers.and_then(|h| h.inner().get("final")), Some(AMQPValue::Boolean(true)));
    let numbers = number(headers, "attempt").zip(number(headers, "sequence"));
    let Some((attempt, sequence)) = numbers else {
        return Err(format!("an event without attempt and sequence in {}", shown()));
    };
    let own = properties.message_id().as_ref().map_or("", |own| own.as_str());
    let due = format!("{id}:{attempt}:{sequence}");
    // What AMQP cannot carry is left out: the headers say the same.
    if own != due && !(own.is_empty() && due.len() > 255) {
        return Err(format!("an event whose message_id is not job:attempt:sequence in {}", shown()));
    }
    let code = text(headers, "code");
    let event = Event { kind: kind.to_owned(), attempt, sequence, last, code, body: hasher.finish() };
    if delivery.redelivered && story.events.contains(&event) {
        return Ok(());
    }
    let before = story.has_ended();
    if story.hear(event) && !before {
        book.ended(&id);
    }
    Ok(())
}
