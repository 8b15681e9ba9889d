//! What became of each publish, from confirms that may come with another's returned message.
//!
//! lapin hands a returned message to whichever confirm completes next. So returned messages are told
//! apart by a mark (`message_id`, or one of our own), and a confirm that came with another's return
//! is decided only when it is certain that no return of its own is still to come. Why that is
//! enough: RabbitMQ sends a return before the confirm of the same message, and lapin queues returns
//! and takes one from the queue at each confirm, while there is any. Say a message is *in doubt* if
//! its confirm has come and its return may still be queued, and *owed* if its return was seen and
//! its confirm has not come. A confirm that takes nothing found the queue empty: nothing is in
//! doubt. One that takes another's return can bring at most itself in doubt, and makes the other
//! owed. So there are never more in doubt than owed, and when none is owed, none is in doubt.

use std::collections::{HashMap, HashSet};

use crate::broker::Confirmation;

/// The publishes of a channel whose fate is open, by number.
#[derive(Default)]
pub(super) struct Fates {
    open: HashMap<u64, Open>,
    /// Mandatory ones by what their return would be known by.
    marks: HashMap<String, u64>,
    /// Returned, and the confirm has not come.
    owed: HashSet<u64>,
    /// The confirm has come; to be decided.
    undecided: Vec<u64>,
}

struct Open {
    mark: Option<String>,
    returned: bool,
    confirmed: Option<Confirmed>,
}

#[derive(Clone, Copy)]
struct Confirmed {
    positive: bool,
    /// It came with another's return.
    another: bool,
}

impl Fates {
    /// Whether a publish on its way is known by that mark.
    pub fn has(&self, mark: &str) -> bool {
        self.marks.contains_key(mark)
    }

    /// A publish is on its way; a mandatory one has a mark that no other has.
    pub fn sent(&mut self, id: u64, mark: Option<String>) {
        if let Some(mark) = &mark {
            self.marks.insert(mark.clone(), id);
        }
        self.open.insert(id, Open { mark, returned: false, confirmed: None });
    }

    /// A confirm has come, and with it the return of the message that has the mark `returned`.
    pub fn confirmed(&mut self, id: u64, positive: bool, returned: Option<&str>) {
        self.owed.remove(&id);
        self.undecided.push(id);
        let whose = returned.and_then(|mark| self.marks.get(mark).copied());
        let another = returned.is_some() && whose != Some(id);
        if let Some(open) = self.open.get_mut(&id) {
            open.confirmed = Some(Confirmed { positive, another });
        }
        if let Some(whose) = whose
            && let Some(open) = self.open.get_mut(&whose)
        {
            open.returned = true;
            if open.confirmed.is_none() {
                self.owed.insert(whose);
            }
        }
    }

    /// Takes out what is decided. To be called when all confirms that have come are noted.
    pub fn decide(&mut self) -> Vec<(u64, Confirmation)> {
        let mut decided = Vec::with_capacity(self.undecided.len());
        let Self { open, marks, owed, undecided } = self;
        undecided.retain(|id| {
            let Some(found) = open.get(id) else { return false };
            let Some(confirmed) = found.confirmed else { return false };
            if found.mark.is_some() && !found.returned && confirmed.another && !owed.is_empty() {
                return true;
            }
            decided.push((
                *id,
                match (confirmed.positive, found.returned) {
                    (false, _) => Confirmation::Nacked,
                    (true, true) => Confirmation::Returned,
                    (true, false) => Confirmation::Confirmed,
                },
            ));
            if let Some(mark) = open.remove(id).and_then(|o| o.mark) {
                marks.remove(&mark);
            }
            false
        });
        decided
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::VecDeque;

    use super::*;

    /// Numbers that look random, the same for the same seed.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, n: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % n
        }
    }

    /// A broker that returns and confirms, and lapin's queue, in every order that they allow.
    #[test]
    fn each_gets_its_own_in_every_order() {
        let mut doubts = 0;
        for seed in 0..20_000 {
            let mut dice = Dice(seed);
            let count = 2 + dice.below(12) as u64;
            let mut fates = Fates::default();
            let mut truth = HashMap::new();
            for id in 0..count {
                let (mandatory, routable) = (dice.below(3) > 0, dice.below(2) == 0);
                fates.sent(id, mandatory.then(|| id.to_string()));
                truth.insert(
                    id,
                    if mandatory && !routable { Confirmation::Returned } else { Confirmation::Confirmed },
                );
            }
            let mut returns: VecDeque<u64> =
                (0..count).filter(|id| truth[id] == Confirmation::Returned).collect();
            let mut confirms: Vec<u64> = (0..count).collect();
            let mut queue = VecDeque::new();
            let mut come: Vec<(u64, Option<u64>)> = Vec::new();
            while !confirms.is_empty() {
                // The broker returns some, in order, then confirms one whose return is out.
                for _ in 0..dice.below(3) {
                    queue.extend(returns.pop_front());
                }
                let at = dice.below(confirms.len());
                if !returns.contains(&confirms[at]) {
                    come.push((confirms.swap_remove(at), queue.pop_front()));
                }
                // What has come is noted in some order, then decided.
                if dice.below(3) == 0 || confirms.is_empty() {
                    while !come.is_empty() {
                        let (id, returned) = come.swap_remove(dice.below(come.len()));
                        fates.confirmed(id, true, returned.map(|r: u64| r.to_string()).as_deref());
                    }
                    for (id, fate) in fates.decide() {
                        assert_eq!(truth.remove(&id), Some(fate), "{id} with seed {seed}");
                    }
                    doubts += fates.undecided.len();
                }
            }
            assert!(truth.is_empty() && fates.open.is_empty() && fates.marks.is_empty(), "seed {seed}");
        }
        assert!(doubts > 1000, "{doubts}");
    }
}
