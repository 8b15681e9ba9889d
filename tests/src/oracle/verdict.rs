//! What a job's messages say about it: which events count, and which rules were broken. Pure: the
//! same messages always get the same verdict.
//!
//! What counts is what the message contract promises to clients. Of a job's events those of an
//! attempt lower than one already seen are dropped, and those whose sequence number within the
//! attempt was reached already; the first final event ends the job, and all after it is dropped.
//!
//! A job has ended when it has an accepted final event, or a dead letter and no final event (its
//! reply address took none). A letter beside an accepted *error* is the same end, told twice: to the
//! operator and to the client. A letter beside an accepted *result* is a second end, unless it is of a
//! later attempt: then the job had ended when its broker had it done again, and the letter is a
//! duplicate like the error that came with it.

use std::collections::{BTreeMap, HashMap};

use warren::job::Code;

/// One event as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Property `type`.
    pub kind: String,
    /// Header `attempt`.
    pub attempt: u32,
    /// Header `sequence`.
    pub sequence: u32,
    /// Header `final`.
    pub last: bool,
    /// Header `code` of an error.
    pub code: Option<String>,
    /// A digest of the body: the same event twice, or another of the same number?
    pub body: u64,
}

/// One dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Header `code`.
    pub code: Option<String>,
    /// Header `attempt`.
    pub attempt: Option<u32>,
    /// Header `reason`, or the broker's own.
    pub reason: Option<String>,
}

/// All that is known of one job.
#[derive(Debug, Clone, Default)]
pub struct Story {
    /// Times that it was published: more than one when a confirm was lost with its connection.
    pub published: u32,
    /// The broker has promised to keep it.
    pub confirmed: bool,
    /// Every event, in the order of arrival.
    pub events: Vec<Event>,
    /// Its dead letters.
    pub letters: Vec<Letter>,
    taken: Taken,
}

/// The dropping rule's memory.
#[derive(Debug, Clone, Default)]
struct Taken {
    attempt: u32,
    next: u32,
    done: bool,
    events: Vec<Event>,
}

impl Story {
    /// Takes an event down; true when it is the one that ends the job.
    pub fn hear(&mut self, event: Event) -> bool {
        self.events.push(event.clone());
        let taken = &mut self.taken;
        let expected = if event.attempt > taken.attempt { 0 } else { taken.next };
        if taken.done || event.attempt < taken.attempt || event.sequence < expected {
            return false;
        }
        taken.attempt = event.attempt;
        taken.next = event.sequence + 1;
        taken.done = event.last;
        let last = event.last;
        taken.events.push(event);
        last
    }

    /// Whether the job has ended.
    pub fn has_ended(&self) -> bool {
        self.taken.done || !self.letters.is_empty()
    }

    /// The final event that a client takes.
    fn end(&self) -> Option<&Event> {
        self.taken.events.last().filter(|event| event.last)
    }

    fn final_events(&self) -> usize {
        self.events.iter().filter(|event| event.last).count()
    }

    /// Adds what is wrong with this job to `wrong`.
    fn check(&self, id: &str, gaps_may_be: bool, verdict: &mut Verdict) {
        let mut wrong = |text: String| verdict.wrong.push(format!("job {id}: {text}; it has {self:?}"));
        // What is accepted, looked at once more, without the state that accepted it.
        let mut before: Option<&Event> = None;
        for event in &self.taken.events {
            let due = match before {
                Some(b) if b.attempt > event.attempt => {
                    wrong(format!("attempt {} accepted after {}", event.attempt, b.attempt));
                    0
                }
                Some(b) if b.attempt == event.attempt => b.sequence + 1,
                _ => 0,
            };
            if event.sequence != due {
                verdict.gaps += 1;
                if !gaps_may_be || event.sequence < due || event.kind == "partial" {
                    wrong(format!(
                        "event {} of attempt {} where {due} is due",
                        event.sequence, event.attempt
                    ));
                }
            }
            if event.last != matches!(event.kind.as_str(), "result" | "error") {
                wrong(format!("a {} with final = {}", event.kind, event.last));
            }
            before = Some(event);
        }
        // Two hosts that worked under one attempt's number: nobody could tell their events apart.
        let mut numbers = HashMap::new();
        for event in &self.events {
            let first = *numbers.entry((event.attempt, event.sequence)).or_insert(event.body);
            if first != event.body && self.published < 2 {
                wrong(format!("two different events {} of attempt {}", event.sequence, event.attempt));
            }
        }
        for letter in &self.letters {
            if letter.reason.as_deref().unwrap_or_default().is_empty() {
                wrong("a dead letter without a reason".to_owned());
            }
        }
        if let Some(code) = self.end().and_then(|e| e.code.as_deref()) {
            let known = Code::ALL.iter().find(|c| c.info().name == code);
            match known.map(|c| c.info().disposition) {
                None => wrong(format!("no such code: {code}")),
                Some(d)
                    if d.leaves_letter() && !self.letters.iter().any(|l| l.code.as_deref() == Some(code)) =>
                {
                    wrong(format!("{code} without its dead letter"));
                }
                Some(_) => {}
            }
        }
    }
}

/// The verdict on all jobs.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Jobs that the broker confirmed.
    pub jobs: usize,
    /// Those without an end.
    pub lost: usize,
    /// Final events and letters beyond the first of each, as they came.
    pub duplicates_before: usize,
    /// Ends beyond the first, after dropping.
    pub duplicates_after: usize,
    /// Jobs with a result whose repetition failed, so that there is a dead letter of a later attempt.
    pub letters_after_result: usize,
    /// Numbers that are missing among accepted events.
    pub gaps: usize,
    /// Times that an attempt was begun again: accepted attempts above the first.
    pub attempts_above_first: usize,
    /// The highest attempt that anything was heard of.
    pub highest_attempt: u32,
    /// How many ended how: `RESULT`, or an error's code.
    pub ends: BTreeMap<String, usize>,
    /// Every broken rule.
    pub wrong: Vec<String>,
}

/// Judges every story. `gaps_may_be`: statuses (nothing else) may have been lost, for a host's
/// publishing connection was.
pub fn judge(stories: &HashMap<String, Story>, gaps_may_be: bool) -> Verdict {
    let mut verdict = Verdict::default();
    for (id, story) in stories {
        story.check(id, gaps_may_be, &mut verdict);
        verdict.highest_attempt =
            verdict.highest_attempt.max(story.events.iter().map(|e| e.attempt).max().unwrap_or(0));
        if !story.confirmed {
            continue;
        }
        verdict.jobs += 1;
        verdict.duplicates_before +=
            story.final_events().saturating_sub(1) + story.letters.len().saturating_sub(1);
        let end = story.end();
        verdict.attempts_above_first += usize::from(end.is_some_and(|e| e.attempt > 1));
        let letter = story.letters.first();
        let how = match (end, letter) {
            (None, None) => {
                verdict.lost += 1;
                verdict
                    .wrong
                    .push(format!("job {id} is lost: it was confirmed and has no end; it has {story:?}"));
                continue;
            }
            (Some(end), letter) => {
                let later = |l: &Letter| l.attempt.is_some_and(|attempt| attempt > end.attempt);
                let repeated = letter.is_some() && story.letters.iter().all(later);
                if end.kind == "result" && repeated {
                    verdict.letters_after_result += 1;
                } else if end.kind == "result" && letter.is_some() {
                    verdict.duplicates_after += 1;
                    verdict
                        .wrong
                        .push(format!("job {id} has two ends, a result and a letter; it has {story:?}"));
                }
                end.code.clone().unwrap_or_else(|| "RESULT".to_owned())
            }
            (None, Some(letter)) => letter.code.clone().unwrap_or_else(|| "a letter without code".to_owned()),
        };
        // The rule accepts one final event; a second would be its own failure.
        let accepted = story.taken.events.iter().filter(|e| e.last).count();
        verdict.duplicates_after += accepted.saturating_sub(1);
        *verdict.ends.entry(how).or_default() += 1;
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, attempt: u32, sequence: u32) -> Event {
        let last = kind != "status" && kind != "partial";
        let code = (kind == "error").then(|| "PLUGIN_FAILED".to_owned());
        Event { kind: kind.to_owned(), attempt, sequence, last, code, body: 0 }
    }

    fn letter(attempt: u32) -> Letter {
        Letter {
            code: Some("PLUGIN_FAILED".into()),
            attempt: Some(attempt),
            reason: Some("it failed".into()),
        }
    }

    fn story(events: &[(&str, u32, u32)], letters: &[Letter]) -> Story {
        let mut story =
            Story { published: 1, confirmed: true, letters: letters.to_vec(), ..Story::default() };
        for (kind, attempt, sequence) in events {
            story.hear(event(kind, *attempt, *sequence));
        }
        story
    }

    fn verdict(story: Story) -> Verdict {
        judge(&HashMap::from([("j".to_owned(), story)]), false)
    }

    #[test]
    fn one_end_is_right_however_it_came_about() {
        for (name, story, duplicates) in [
            ("a result", story(&[("status", 1, 0), ("result", 1, 1)], &[]), 0),
            ("an error and its letter", story(&[("error", 1, 0)], &[letter(1)]), 0),
            ("a letter alone", story(&[("status", 1, 0)], &[letter(1)]), 0),
            ("two letters", story(&[("error", 2, 0)], &[letter(1), letter(1)]), 1),
            (
                "overtaken",
                story(&[("status", 1, 0), ("status", 2, 0), ("result", 1, 1), ("result", 2, 1)], &[]),
                1,
            ),
            ("done again, in vain", story(&[("result", 1, 0), ("error", 2, 0)], &[letter(2)]), 1),
            ("again after its end", story(&[("result", 1, 0), ("status", 2, 0), ("result", 2, 1)], &[]), 1),
            ("the same event twice", story(&[("result", 1, 0), ("result", 1, 0)], &[]), 1),
        ] {
            let verdict = verdict(story);
            assert_eq!(verdict.wrong, Vec::<String>::new(), "{name}");
            assert_eq!((verdict.lost, verdict.duplicates_after, verdict.gaps), (0, 0, 0), "{name}");
            assert_eq!(verdict.duplicates_before, duplicates, "{name}");
        }
    }

    #[test]
    fn every_broken_rule_is_found() {
        let mut other = event("result", 1, 0);
        other.body = 1;
        let mut twice = story(&[("result", 1, 0)], &[]);
        twice.hear(other);
        let mut unmarked = event("result", 1, 0);
        unmarked.last = false;
        let mut odd = story(&[], &[letter(1)]);
        odd.hear(unmarked);
        for (name, story, says) in [
            ("nothing", story(&[], &[]), "is lost"),
            ("a status alone", story(&[("status", 1, 0)], &[]), "is lost"),
            ("an overtaken result", story(&[("status", 2, 0), ("result", 1, 0)], &[]), "is lost"),
            ("result and letter", story(&[("result", 1, 0)], &[letter(1)]), "two ends"),
            ("a gap", story(&[("status", 1, 0), ("result", 1, 2)], &[]), "1 is due"),
            ("no beginning", story(&[("result", 1, 1)], &[]), "0 is due"),
            ("no letter", story(&[("error", 1, 0)], &[]), "without its dead letter"),
            (
                "no reason",
                story(&[("error", 1, 0)], &[letter(1), Letter { code: None, attempt: None, reason: None }]),
                "without a reason",
            ),
            ("one number, two events", twice, "two different events"),
            ("a result that is not final", odd, "final = false"),
        ] {
            let verdict = verdict(story);
            assert!(verdict.wrong.iter().any(|w| w.contains(says)), "{name}: {:?}", verdict.wrong);
        }
    }

    #[test]
    fn statuses_alone_may_be_missing_and_only_if_that_was_said() {
        let lost_status = story(&[("status", 1, 0), ("result", 1, 2)], &[]);
        let verdict = judge(&HashMap::from([("j".to_owned(), lost_status)]), true);
        assert_eq!((verdict.wrong.len(), verdict.gaps), (0, 1));
    }
}
