//! Deliveries that were lost by hosts that lived on: a connection that broke, a job that was given
//! back, a broker that waited too long. A broker counts all of these as it counts the death of a
//! host; what is remembered here is how many of a job's lost deliveries were no death.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Jobs remembered at most; beyond it the oldest are forgotten, and taken for suspects.
const REMEMBERED: usize = 100_000;

/// Queues whose lost channels are remembered, and how many of each.
const QUEUES: usize = 10_000;
const CHANNELS: usize = 64;
/// How long a lost channel may explain a lost delivery: longer than a broker may take to notice.
const LATELY: Duration = Duration::from_secs(60);

/// What is known of a job's lost deliveries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// How often it was lost by a host that lives.
    pub times: u32,
    /// It was running when its broker had waited too long for its acknowledgement.
    pub timed_out: bool,
}

/// One lost delivery, as hosts tell each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Queue and job.
    pub key: String,
    /// As in [`Known`].
    pub timed_out: bool,
}

#[derive(Debug, Default)]
struct Book {
    known: HashMap<String, Known>,
    order: VecDeque<String>,
    /// When channels were lost that consumed a queue.
    channels: HashMap<String, VecDeque<Instant>>,
    unsaid: Vec<Lost>,
}

/// The lost deliveries of this host, and those that other hosts told of.
#[derive(Debug, Default)]
pub struct Losses {
    book: Mutex<Book>,
    heard: Notify,
    unsaid: Notify,
}

/// Names a job in a queue: the broker counts deliveries anew in each.
pub fn key(queue: &str, id: &str) -> String {
    format!("{queue}\n{id}")
}

impl Losses {
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(book: &mut Book, lost: &Lost) {
        if let Some(queue) = lost.key.strip_suffix('\n') {
            if !book.channels.contains_key(queue) && book.channels.len() >= QUEUES {
                book.channels.clear();
            }
            let channels = book.channels.entry(queue.to_owned()).or_default();
            while channels.len() >= CHANNELS || channels.front().is_some_and(|at| at.elapsed() > LATELY) {
                channels.pop_front();
            }
            return channels.push_back(Instant::now());
        }
        if let Some(known) = book.known.get_mut(&lost.key) {
            known.times = known.times.saturating_add(1);
            known.timed_out |= lost.timed_out;
            return;
        }
        if book.order.len() >= REMEMBERED
            && let Some(oldest) = book.order.pop_front()
        {
            book.known.remove(&oldest);
        }
        book.order.push_back(lost.key.clone());
        book.known.insert(lost.key.clone(), Known { times: 1, timed_out: lost.timed_out });
    }

    /// This host has lost a delivery. It is remembered, and to be said to the others.
    pub fn lost(&self, key: String, timed_out: bool) {
        let lost = Lost { key, timed_out };
        let mut book = self.lock();
        Self::note(&mut book, &lost);
        book.unsaid.push(lost);
        drop(book);
        self.unsaid.notify_one();
        self.heard.notify_waiters();
    }

    /// This host has lost a channel on which a queue is consumed: deliveries that were on their way then
    /// were lost unseen.
    pub fn channel_lost(&self, queue: &str) {
        self.lost(key(queue, ""), false);
    }

    /// Another host has lost deliveries.
    pub fn heard(&self, all: &[Lost]) {
        let mut book = self.lock();
        all.iter().for_each(|lost| Self::note(&mut book, lost));
        drop(book);
        self.heard.notify_waiters();
    }

    /// What is known of a job. The channels of its queue that were lost lately count, too: it may have
    /// been on its way on any of them.
    pub fn known(&self, key: &str) -> Known {
        let book = self.lock();
        let mut known = book.known.get(key).copied().unwrap_or_default();
        if let Some((queue, _)) = key.split_once('\n')
            && let Some(channels) = book.channels.get(queue)
        {
            let lately = channels.iter().filter(|at| at.elapsed() < LATELY).count();
            known.times = known.times.saturating_add(u32::try_from(lately).unwrap_or(u32::MAX));
        }
        known
    }

    /// What is known of a job once `times` lost deliveries are accounted for, or `within` is over.
    pub async fn account(&self, key: &str, times: u32, within: Duration) -> Known {
        let deadline = Instant::now() + within;
        loop {
            let more = self.heard.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            let known = self.known(key);
            if known.times >= times || known.timed_out || timeout_at(deadline, more).await.is_err() {
                return known;
            }
        }
    }

    /// The job has ended.
    pub fn forget(&self, key: &str) {
        let mut book = self.lock();
        if book.known.remove(key).is_some() {
            book.order.retain(|k| k != key);
        }
    }

    /// Waits for losses that the other hosts have not been told of, and takes them.
    pub async fn unsaid(&self) -> Vec<Lost> {
        loop {
            let all = self.take_unsaid();
            if !all.is_empty() {
                return all;
            }
            self.unsaid.notified().await;
        }
    }

    /// Takes the losses that the other hosts have not been told of.
    pub fn take_unsaid(&self) -> Vec<Lost> {
        std::mem::take(&mut self.lock().unsaid)
    }

    /// Telling them failed.
    pub fn still_unsaid(&self, all: Vec<Lost>) {
        self.lock().unsaid.extend(all);
        self.unsaid.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(key: &str) -> Lost {
        Lost { key: key.to_owned(), timed_out: false }
    }

    #[tokio::test]
    async fn own_losses_are_said_once_and_those_of_others_are_not_repeated() {
        let losses = Losses::default();
        losses.lost("a".into(), true);
        losses.heard(&[lost("a"), lost("b")]);
        assert_eq!(losses.known("a"), Known { times: 2, timed_out: true });
        assert_eq!(losses.known("b"), Known { times: 1, timed_out: false });
        assert_eq!(losses.unsaid().await, [Lost { key: "a".into(), timed_out: true }]);
        assert!(losses.take_unsaid().is_empty());
        losses.forget("a");
        assert_eq!(losses.known("a"), Known::default());
    }

    #[tokio::test]
    async fn a_loss_that_is_told_in_time_counts() {
        let losses = std::sync::Arc::new(Losses::default());
        let waiting = {
            let losses = std::sync::Arc::clone(&losses);
            tokio::spawn(async move { losses.account("a", 2, Duration::from_secs(30)).await })
        };
        losses.heard(&[lost("a")]);
        tokio::time::sleep(Duration::from_millis(20)).await;
        losses.heard(&[lost("a")]);
        assert!(matches!(waiting.await, Ok(Known { times: 2, .. })));
        assert_eq!(losses.account("b", 1, Duration::from_millis(10)).await, Known::default());
    }

    #[test]
    fn a_lost_channel_explains_one_loss_of_any_job_of_its_queue() {
        let losses = Losses::default();
        losses.channel_lost("q");
        losses.heard(&[lost(&key("q", "")), lost(&key("q", "a"))]);
        assert_eq!(losses.known(&key("q", "a")).times, 3);
        assert_eq!(losses.known(&key("q", "b")).times, 2);
        assert_eq!(losses.known(&key("other", "b")).times, 0);
        (0..2 * CHANNELS).for_each(|_| losses.channel_lost("q"));
        assert_eq!(losses.known(&key("q", "b")).times as usize, CHANNELS);
    }

    #[test]
    fn memory_is_bounded() {
        let losses = Losses::default();
        for n in 0..REMEMBERED + 3 {
            losses.heard(&[lost(&n.to_string())]);
        }
        let book = losses.lock();
        assert_eq!((book.known.len(), book.order.len()), (REMEMBERED, REMEMBERED));
        assert!(!book.known.contains_key("2") && book.known.contains_key("3"));
    }
}
