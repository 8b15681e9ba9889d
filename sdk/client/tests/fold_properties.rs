//! The promise to clients: whatever a broker repeats, and whenever an overtaken host still speaks,
//! a job's events come out in order, each once, and end with one final event.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use warren_client::fold::{Fold, Verdict};

type Sent = (u32, u32, bool);

/// Events of some attempts, of which the last ends with a final event and others may.
fn attempts() -> impl Strategy<Value = Vec<Vec<Sent>>> {
    prop::collection::vec((1usize..6, any::<bool>()), 1..5).prop_map(|lengths| {
        let count = lengths.len();
        let of = |(i, (length, ends)): (usize, (usize, bool))| {
            let ends = ends || i + 1 == count;
            (0..length).map(|s| (i as u32 + 1, s as u32, ends && s + 1 == length)).collect()
        };
        lengths.into_iter().enumerate().map(of).collect()
    })
}

/// What a fold lets through of these arrivals, with the count that it says is missing.
fn folded(arrivals: &[Sent]) -> Vec<(Sent, u32)> {
    let mut fold = Fold::default();
    let mut out = Vec::new();
    for event in arrivals {
        if let Verdict::Take { missed } = fold.accept(event.0, event.1, event.2) {
            out.push((*event, missed));
        }
    }
    assert_eq!(fold.is_done(), out.iter().any(|(e, _)| e.2));
    out
}

fn check(out: &[(Sent, u32)]) -> Result<(), TestCaseError> {
    for pair in out.windows(2) {
        let ((before, _), (after, _)) = (pair[0], pair[1]);
        prop_assert!((before.0, before.1) < (after.0, after.1), "{:?} before {:?}", before, after);
    }
    prop_assert_eq!(out.iter().filter(|(e, _)| e.2).count(), 1);
    prop_assert!(out.last().unwrap().0.2, "the final event is the last");
    for (i, (event, missed)) in out.iter().enumerate() {
        let expected = match i.checked_sub(1).map(|i| out[i].0) {
            Some(before) if before.0 == event.0 => event.1 - before.1 - 1,
            _ => event.1,
        };
        prop_assert_eq!(*missed, expected);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_order_with_repetitions(
        (all, extra) in attempts().prop_flat_map(|attempts| {
            let all = attempts.concat();
            (Just(all.clone()).prop_shuffle(), prop::collection::vec(prop::sample::select(all), 0..20))
        }),
        seed in any::<prop::sample::Index>(),
    ) {
        let mut arrivals = all;
        for event in extra {
            let at = seed.index(arrivals.len() + 1);
            arrivals.insert(at, event);
        }
        check(&folded(&arrivals))?;
    }

    #[test]
    fn redelivered_prefixes_and_overtaken_hosts_lose_nothing(
        attempts in attempts(),
        picks in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..60),
    ) {
        // Every attempt's events arrive in order; now and then a channel dies and a stretch of them
        // is delivered again. Attempts are interleaved in any way.
        let mut arrivals = Vec::new();
        let mut at = vec![0; attempts.len()];
        for (which, back) in picks {
            let which = which.index(attempts.len());
            if let Some(event) = attempts[which].get(at[which]) {
                arrivals.push(*event);
                at[which] += 1;
            } else {
                at[which] -= back.index(at[which] + 1).min(at[which]);
            }
        }
        for (events, at) in attempts.iter().zip(at) {
            arrivals.extend(&events[at..]);
        }
        let out = folded(&arrivals);
        check(&out)?;
        // Nothing of the attempt that ended the job was dropped: repetitions only go back, and what is
        // overtaken cannot end a job.
        let ended = out.last().unwrap().0.0;
        let own: Vec<_> = out.iter().filter(|(e, _)| e.0 == ended).collect();
        prop_assert!(own.iter().all(|(_, missed)| *missed == 0), "{:?}", own);
        prop_assert_eq!(own.len(), attempts[ended as usize - 1].len());
    }
}

#[test]
fn a_gap_is_reported_and_not_waited_for() {
    let out = folded(&[(1, 0, false), (1, 4, false), (1, 2, false), (1, 5, true), (2, 0, true)]);
    assert_eq!(out, [((1, 0, false), 0), ((1, 4, false), 3), ((1, 5, true), 0)]);
    assert_eq!(folded(&[(3, u32::MAX, true)]), [((3, u32::MAX, true), u32::MAX)]);
}
