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

mod reader;
pub mod table;
pub mod verdict;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lapin::message::Delivery;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Connection};
use tokio::task::JoinHandle;
use warren::wire::{DEAD, JOBS};

use self::reader::{connect, declare, note, read};
use self::table::{Report, Row};
use self::verdict::{Story, Verdict, judge};
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
    /// What the oracle published.
    jobs: HashMap<String, Job>,
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
        if std::mem::replace(&mut story.confirmed, true) {
            return;
        }
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
    /// On the vhost of this address, or of these, of one cluster and separated by commas; with queue
    /// `oracle.<name>` for the answers. It is there when this returns. `warren.dead` is read as soon as
    /// a host has declared it.
    pub async fn open(address: &str, name: &str) -> Self {
        let queue = format!("oracle.{name}");
        let start = Instant::now();
        while let Err(error) = declare(address, &queue).await {
            assert!(start.elapsed() < PATIENCE, "the oracle cannot declare {queue}: {error}");
            tokio::time::sleep(AGAIN).await;
        }
        let mut oracle = Self {
            address: address.to_owned(),
            queue: queue.clone(),
            book: Arc::default(),
            readers: Vec::new(),
            publisher: tokio::sync::Mutex::default(),
            gaps_may_be: false,
        };
        oracle.listen(&queue);
        oracle.listen(DEAD);
        oracle
    }

    /// Reads one more queue for answers, from now on or when it is there.
    pub fn listen(&mut self, queue: &str) {
        let own = queue == self.queue;
        let (address, queue, book) = (self.address.clone(), queue.to_owned(), Arc::clone(&self.book));
        self.readers.push(tokio::spawn(async move {
            loop {
                // Whatever ended it (a cut, a queue that is not there yet): again.
                let _ = read(&address, &queue, own, &book).await;
                tokio::time::sleep(AGAIN).await;
            }
        }));
    }

    /// A job that the test publishes by itself. Call [`Self::kept`] when the broker has confirmed it.
    pub fn expect(&self, id: &str) {
        self.book().stories.entry(id.to_owned()).or_default().published = 1;
    }

    /// The broker has confirmed a job that the test has published by itself.
    pub fn kept(&self, id: &str) {
        self.book().confirmed(id);
    }

    /// Takes a message down that the test has read by itself.
    pub fn heard(&self, queue: &str, delivery: &Delivery) {
        let mut book = self.book();
        if let Err(text) = note(&mut book, queue, delivery) {
            book.strange.push(text);
        }
    }

    /// Publishes every job again that has no end, under the same ids, as a client does that has waited
    /// in vain. Answers how many.
    pub async fn again(&self) -> usize {
        let jobs: Vec<(String, Job)> = {
            let book = self.book();
            let open = |id: &String| book.stories.get(id).is_some_and(|story| !story.has_ended());
            book.jobs.iter().filter(|(id, _)| open(id)).map(|(id, job)| (id.clone(), job.clone())).collect()
        };
        let count = jobs.len();
        self.send(jobs).await;
        count
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
        let jobs: Vec<(String, Job)> = jobs.into_iter().map(|job| (new_id(), job)).collect();
        let ids = jobs.iter().map(|(id, _)| id.clone()).collect();
        {
            let mut book = self.book();
            for (id, job) in &jobs {
                book.stories.insert(id.clone(), Story::default());
                book.jobs.insert(id.clone(), job.clone());
            }
        }
        self.send(jobs).await;
        ids
    }

    async fn send(&self, mut waiting: Vec<(String, Job)>) {
        let start = Instant::now();
        let mut publisher = self.publisher.lock().await;
        loop {
            let attempt = self.publish_once(&mut publisher, &mut waiting);
            let left = (2 * PATIENCE).saturating_sub(start.elapsed());
            let result = tokio::time::timeout(left, attempt).await;
            if waiting.is_empty() {
                return;
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
        let (mut place, mut stale) = (0, false);
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
                stale = true;
            }
        }
        if stale {
            // RabbitMQ 3.10 may refuse on a channel what it takes on the next.
            *publisher = None;
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
