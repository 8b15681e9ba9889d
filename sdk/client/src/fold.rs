//! Which events of a job count. A broker delivers at least once, and a host that was cut off may
//! publish late; per job, attempts are strictly increasing, and sequence numbers within an attempt.
//! So what is not above everything seen before is a repetition, or of an attempt that was overtaken.

/// The state of one job's stream of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fold {
    /// Highest attempt seen; 0 before the first event.
    attempt: u32,
    /// The next sequence number of that attempt. 64 bits, so that the last number has a successor.
    next: u64,
    done: bool,
}

/// What to do with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It counts. `missed` events of its attempt did not arrive before it: statuses, which are
    /// transient and may be lost when a connection is.
    Take {
        /// How many.
        missed: u32,
    },
    /// It has been seen, or a later one of its attempt has.
    Repeated,
    /// A later attempt has been seen.
    Overtaken,
    /// The final event has been seen.
    AfterFinal,
}

impl Fold {
    /// Decides about the event `sequence` of `attempt`; `last` says that it is final.
    pub fn accept(&mut self, attempt: u32, sequence: u32, last: bool) -> Verdict {
        if self.done {
            return Verdict::AfterFinal;
        }
        if attempt < self.attempt {
            return Verdict::Overtaken;
        }
        let expected = if attempt > self.attempt { 0 } else { self.next };
        let Some(missed) = u64::from(sequence).checked_sub(expected) else {
            return Verdict::Repeated;
        };
        self.attempt = attempt;
        self.next = u64::from(sequence) + 1;
        self.done = last;
        // At most the sequence number itself, so it fits.
        Verdict::Take { missed: missed as u32 }
    }

    /// Whether the final event was accepted.
    pub fn is_done(&self) -> bool {
        self.done
    }
}
