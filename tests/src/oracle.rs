//! The oracle of the fault tests: it publishes jobs, reads what became of them, and says which
//! promise was broken. It talks to the broker by itself, over connections of its own that come back
//! when they are lost, and shares no code with the host or the client library. What it checks, and
//! how it drops duplicates, stands in [`verdict`].
//!
//! ```text
//! let oracle = Oracle::open(&address, "killed").await;     // answers arrive in queue oracle.killed
//! for run in 0..5 {
//!     oracle.publish((0..40).map(|_| Job::noop())).await;   // persistent; returns when confirmed
//!     …the fault…; oracle.fault();                          // from here recovery is timed
//!     oracle.ended(PATIENCE).await;                         // every job has an end
//! }
//! oracle.finish(&node, "killed", 5).await.all("RESULT");    // waits for empty queues, panics if wrong
//! ```

pub mod table;
pub mod verdict;

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_core::Stream;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::task::JoinHandle;
use warren::wire::{DEAD, JOBS};

use self::table::{Report, Row};
use self::verdict::{Event, Letter, Story, Verdict, judge};
use crate::PATIENCE;
use crate::rabbitmq::Node;

/// A job to publish.
#[derive(Debug, Clone)]
pub struct Job {
    /// Routing key: model, and class if any.
    pub key: String,
    /// Its body.
    pub body: Bytes,
    /// Another reply address than the oracle's queue.
    pub reply_to: Option<String>,
}

impl Job {
    /// For `model`, without inputs, with these parameters.
    pub fn new(model: &str, parameters: serde_json::Value) -> Self {
        Self { key: model.to_owned(), body: crate::body(parameters), reply_to: None }
    }

    /// A job of the guest `noop`.
    pub fn noop() -> Self {
        Self::new("noop", serde_json::json!({}))
    }

    /// A job of the guest `hostile`.
    pub fn hostile(mode: &str, number: i64) -> Self {
        Self::new("hostile", serde_json::json!({ "mode": mode, "number": number }))
    }
}

/// What is known so far.
#[derive(Default)]
struct Book {
    stories: HashMap<String, Story>,
    confirmed: HashMap<String, Instant>,
    /// Confirmed and without an end.
    open: usize,
    /// When the last job ended, or the first of all that are open was confirmed.
    since: Option<Instant>,
    fault: Option<Instant>,
    faults: usize,
    silence: Duration,
    recovery: Duration,
    slowest: Duration,
    strange: Vec<String>,
}

impl Book {
    /// A job has its end now.
    fn ended(&mut self, id: &str) {
        let now = Instant::now();
        if let Some(since) = self.since.replace(now) {
            self.silence = self.silence.max(now - since);
            // Not only the time to the next end: that one may have been on its way already.
            if let Some(fault) = self.fault {
                self.recovery = self.recovery.max(now.saturating_duration_since(since.max(fault)));
            }
        }
        if let Some(confirmed) = self.confirmed.get(id) {
            self.slowest = self.slowest.max(now.saturating_duration_since(*confirmed));
            self.open -= 1;
        }
        if self.open == 0 {
            (self.since, self.fault) = (None, None);
        }
    }

    fn confirmed(&mut self, id: &str) {
        let now = Instant::now();
        let Some(story) = self.stories.get_mut(id) else { return };
        story.confirmed = true;
        let ended = story.has_ended();
        self.confirmed.insert(id.to_owned(), now);
        // A fast host may have answered before the confirm was seen.
        if !ended {
            self.open += 1;
            self.since.get_or_insert(now);
        }
    }
}

/// A publisher and two readers, of the answers and of the dead letters.
pub struct Oracle {
    address: String,
    queue: String,
    book: Arc<Mutex<Book>>,
    readers: Vec<JoinHandle<()>>,
    publisher: tokio::sync::Mutex<Option<(Connection, Channel)>>,
    gaps_may_be: bool,
}

impl Drop for Oracle {
    fn drop(&mut self) {
        self.readers.iter().for_each(JoinHandle::abort);
    }
}

impl Oracle {
    /// On the vhost of this address, with queue `oracle.<name>` for the answers. It is there when
    /// this returns. `warren.dead` is read as soon as a host has declared it.
    pub async fn open(address: &str, name: &str) -> Self {
        let queue = format!("oracle.{name}");
        let start = Instant::now();
        while let Err(error) = declare(address, &queue).await {
            assert!(start.elapsed() < PATIENCE, "the oracle cannot declare {queue}: {error}");
            tokio::time::sleep(AGAIN).await;
        }
        let book = Arc::new(Mutex::new(Book::default()));
        let mut readers = Vec::new();
        for queue in [queue.clone(), DEAD.to_owned()] {
            let (address, book) = (address.to_owned(), Arc::clone(&book));
            readers.push(tokio::spawn(async move {
                loop {
                    // Whatever ended it (a cut, a queue that is not there yet): again.
                    let _ = read(&address, &queue, &book).await;
                    tokio::time::sleep(AGAIN).await;
                }
            }));
        }
        let publisher = tokio::sync::Mutex::default();
        Self { address: address.to_owned(), queue, book, readers, publisher, gaps_may_be: false }
    }

    /// For tests that cut a host's publishing connection alone: the statuses on their way are lost
    /// with it, and nothing else may be.
    pub fn statuses_may_be_lost(mut self) -> Self {
        self.gaps_may_be = true;
        self
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes these jobs, each persistent and mandatory with an id of its own, and answers their
    /// ids when the broker has confirmed every one. One whose confirm is lost with the connection is
    /// published again under the same ids, as a client does it. Panics after twice [`PATIENCE`].
    pub async fn publish(&self, jobs: impl IntoIterator<Item = Job>) -> Vec<String> {
        let mut waiting: Vec<(String, Job)> = jobs.into_iter().map(|job| (new_id(), job)).collect();
        let ids = waiting.iter().map(|(id, _)| id.clone()).collect();
        {
            let mut book = self.book();
            for (id, _) in &waiting {
                book.stories.insert(id.clone(), Story::default());
            }
        }
        let start = Instant::now();
        let mut publisher = self.publisher.lock().await;
        loop {
            let attempt = self.publish_once(&mut publisher, &mut waiting);
            let left = (2 * PATIENCE).saturating_sub(start.elapsed());
            let result = tokio::time::timeout(left, attempt).await;
            if waiting.is_empty() {
                return ids;
            }
            assert!(start.elapsed() < 2 * PATIENCE, "{} jobs are not confirmed: {result:?}", waiting.len());
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// One pass over what is not confirmed; what is leaves `waiting`.
    async fn publish_once(
        &self,
        publisher: &mut Option<(Connection, Channel)>,
        waiting: &mut Vec<(String, Job)>,
    ) -> lapin::Result<()> {
        if publisher
            .as_ref()
            .is_none_or(|(c, channel)| !c.status().connected() || !channel.status().connected())
        {
            let connection = connect(&self.address, "oracle publishing").await?;
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            *publisher = Some((connection, channel));
        }
        let Some((_, channel)) = publisher else { return Ok(()) };
        // A confirm on a quorum queue waits for the disk: many are under way at a time.
        let mut place = 0;
        while place < waiting.len() {
            let end = (place + 100).min(waiting.len());
            let mut confirms = Vec::new();
            for (id, job) in &waiting[place..end] {
                if let Some(story) = self.book().stories.get_mut(id) {
                    story.published += 1;
                }
                let properties = BasicProperties::default()
                    .with_delivery_mode(2)
                    .with_content_type("application/json".into())
                    .with_correlation_id(id.as_str().into())
                    .with_message_id(id.as_str().into())
                    .with_reply_to(job.reply_to.as_deref().unwrap_or(&self.queue).into());
                let options = BasicPublishOptions { mandatory: true, immediate: false };
                let key = ShortString::from(job.key.as_str());
                confirms.push(channel.basic_publish(JOBS.into(), key, options, &job.body, properties).await?);
            }
            let mut answers = Vec::new();
            for confirm in confirms {
                answers.push(confirm.await.map(|c| (c.is_ack(), c.take_message().is_some())));
            }
            let mut refused = None;
            for answer in answers {
                match answer {
                    Ok((true, false)) => {
                        let (id, _) = waiting.remove(place);
                        self.book().confirmed(&id);
                    }
                    Ok((_, returned)) => {
                        place += 1;
                        let why = if returned { "no queue takes it" } else { "the broker refused it" };
                        refused = Some(why);
                    }
                    Err(error) => return Err(error),
                }
            }
            if let Some(why) = refused {
                println!("oracle: a job was not confirmed: {why}; trying again");
            }
        }
        Ok(())
    }

    /// The fault happens now: silence counts as recovery until no job is open.
    pub fn fault(&self) {
        let mut book = self.book();
        book.faults += 1;
        book.fault = Some(Instant::now());
    }

    /// Confirmed jobs without an end.
    pub fn open_jobs(&self) -> usize {
        self.book().open
    }

    /// Jobs that have an end.
    pub fn ended_jobs(&self) -> usize {
        let book = self.book();
        book.confirmed.len() - book.open
    }

    /// Everything heard of a job so far.
    pub fn story(&self, id: &str) -> Story {
        self.book().stories.get(id).cloned().unwrap_or_default()
    }

    /// Waits until `seen` is true of the job; false when it is not within `limit`.
    pub async fn until(&self, id: &str, limit: Duration, seen: impl Fn(&Story) -> bool) -> bool {
        let start = Instant::now();
        while !self.book().stories.get(id).is_some_and(&seen) {
            if start.elapsed() > limit {
                return false;
            }
            tokio::time::sleep(crate::GLANCE).await;
        }
        true
    }

    /// Waits until every confirmed job has an end; false when that takes longer than `limit`.
    pub async fn ended(&self, limit: Duration) -> bool {
        self.at_most_open(0, limit).await
    }

    /// Waits until at most `count` confirmed jobs have no end; false when that takes longer than
    /// `limit`.
    pub async fn at_most_open(&self, count: usize, limit: Duration) -> bool {
        let start = Instant::now();
        while self.open_jobs() > count {
            if start.elapsed() > limit {
                return false;
            }
            tokio::time::sleep(crate::GLANCE).await;
        }
        true
    }

    /// Waits (at most [`PATIENCE`]) until every job has its end and every queue of the vhost is empty,
    /// judges, and keeps the row in `target/faults`. Needs a runtime of several threads.
    pub async fn finish(self, node: &Node, fault: &str, runs: usize) -> Report {
        let left = async || {
            let mut left = depths(node, &self.address);
            left.retain(|(_, count)| *count > 0);
            left
        };
        self.ended(PATIENCE).await;
        let start = Instant::now();
        let mut full = left().await;
        while !full.is_empty() && start.elapsed() < PATIENCE {
            tokio::time::sleep(AGAIN).await;
            full = left().await;
        }
        let book = std::mem::take(&mut *self.book());
        let verdict = judge(&book.stories, self.gaps_may_be);
        let mut wrong = book.strange;
        wrong.extend(full.iter().map(|(name, count)| format!("queue {name} still holds {count}")));
        let Verdict { jobs, lost, duplicates_before, duplicates_after, gaps, highest_attempt, ends, .. } =
            verdict;
        wrong.extend(verdict.wrong);
        let recovery = if book.faults > 0 { book.recovery } else { book.silence };
        let row = Row {
            fault: fault.to_owned(),
            runs,
            jobs,
            lost,
            duplicates_before,
            duplicates_after,
            letters_after_result: verdict.letters_after_result,
            worst_recovery_s: recovery.as_secs_f64(),
            slowest_job_s: book.slowest.as_secs_f64(),
            retried: verdict.attempts_above_first,
            highest_attempt,
            gaps,
            ends,
            wrong: wrong.len(),
        };
        if let Err(error) = table::keep(&row) {
            wrong.push(format!("the row cannot be kept: {error:#}"));
        }
        Report { row, wrong }
    }
}

/// Between two tries of whatever failed.
const AGAIN: Duration = Duration::from_millis(200);

fn new_id() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}

/// Every queue of the address's vhost with what it holds, delivered or not.
pub fn depths(node: &Node, address: &str) -> Vec<(String, u64)> {
    let vhost = address.split('?').next().and_then(|a| a.rsplit_once('/')).map_or("", |(_, vhost)| vhost);
    let vhost = vhost.replace("%2f", "/").replace("%25", "%");
    let arguments = ["list_queues", "-p", &vhost, "--no-table-headers", "name", "messages"];
    let text = tokio::task::block_in_place(|| node.ctl(&arguments));
    text.lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, count)| (name.to_owned(), count.trim().parse().unwrap_or(u64::MAX)))
        .collect()
}

async fn connect(address: &str, name: &str) -> lapin::Result<Connection> {
    let properties = ConnectionProperties::default().with_connection_name(LongString::from(name));
    Connection::connect(address, properties).await
}

async fn declare_on(channel: &Channel, queue: &str) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, arguments).await.map(|_| ())
}

async fn declare(address: &str, queue: &str) -> lapin::Result<()> {
    let connection = connect(address, "oracle").await?;
    declare_on(&connection.create_channel().await?, queue).await?;
    connection.close(200, "OK".into()).await
}

/// Reads a queue until its connection, channel or consumer ends.
async fn read(address: &str, queue: &str, book: &Mutex<Book>) -> lapin::Result<()> {
    let connection = connect(address, "oracle reading").await?;
    let channel = connection.create_channel().await?;
    if queue != DEAD {
        declare_on(&channel, queue).await?;
    }
    channel.basic_qos(500, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
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
fn note(book: &mut Book, queue: &str, delivery: &Delivery) -> Result<(), String> {
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
    if own != format!("{id}:{attempt}:{sequence}") {
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
