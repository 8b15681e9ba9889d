//! The same job published twice: a client that was not sure that its first publish arrived. Within
//! a window the second is dropped; the first one's events answer both.
//!
//! A delivery that the broker repeats is no duplicate: its attempt is higher.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Messages remembered at most; beyond it the oldest are forgotten early.
const REMEMBERED: usize = 200_000;

type Key = (String, u32);

#[derive(Debug, Default)]
struct Seen {
    keys: HashSet<Key>,
    order: VecDeque<(Instant, Key)>,
}

/// The messages seen by this host within the window.
#[derive(Debug)]
pub struct Duplicates {
    window: Duration,
    seen: Mutex<Seen>,
}

impl Duplicates {
    /// Remembers for `window`; zero remembers nothing.
    pub fn new(window: Duration) -> Self {
        Self { window, seen: Mutex::default() }
    }

    /// Whether this attempt at the message was seen before; it is remembered now. The key tells
    /// messages of different senders apart.
    pub fn is_duplicate(&self, key: &str, attempt: u32) -> bool {
        if self.window.is_zero() {
            return false;
        }
        let now = Instant::now();
        let key = (key.to_owned(), attempt);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        while seen.order.len() >= REMEMBERED
            || seen.order.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > self.window)
        {
            match seen.order.pop_front() {
                Some((_, old)) => seen.keys.remove(&old),
                None => break,
            };
        }
        if !seen.keys.insert(key.clone()) {
            return true;
        }
        seen.order.push_back((now, key));
        false
    }

    /// This attempt was lost before its end. Its broker delivers it again as a later one, unless it went
    /// with its queue: then its client may publish it again, and has to be answered.
    pub fn forget(&self, key: &str, attempt: u32) {
        let key = (key.to_owned(), attempt);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // What is lost is mostly young.
        if seen.keys.remove(&key)
            && let Some(place) = seen.order.iter().rposition(|(_, old)| *old == key)
        {
            seen.order.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_is_seen_until_the_window_is_over() {
        let duplicates = Duplicates::new(Duration::from_millis(50));
        assert!(!duplicates.is_duplicate("a", 1));
        assert!(duplicates.is_duplicate("a", 1));
        assert!(!duplicates.is_duplicate("a", 2), "a redelivery is no duplicate");
        assert!(!duplicates.is_duplicate("b", 1));
        std::thread::sleep(Duration::from_millis(80));
        assert!(!duplicates.is_duplicate("a", 1));
        duplicates.forget("a", 1);
        assert!(!duplicates.is_duplicate("a", 1), "it was forgotten");
        assert!(duplicates.is_duplicate("a", 1));
        assert!(!Duplicates::new(Duration::ZERO).is_duplicate("a", 1));
        let bounded = Duplicates::new(Duration::from_secs(3600));
        for n in 0..REMEMBERED + 5 {
            bounded.is_duplicate(&n.to_string(), 1);
        }
        assert_eq!(bounded.seen.lock().unwrap_or_else(PoisonError::into_inner).keys.len(), REMEMBERED);
    }
}
