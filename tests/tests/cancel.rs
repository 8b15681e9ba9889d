//! A client that no longer wants its job is told so soon, wherever the job is.

use std::time::{Duration, Instant};

use warren_client::{EventBody, JobRequest};
use warren_tests::{House, Seen, guest, hostile, within};

/// What a cancelled guest gets to return by itself, the two ticks that notice, and a machine that is
/// busy with other tests. Well below the plugin's wall time of 1.5 s.
const SOON: Duration = Duration::from_millis(700);

async fn rest(job: &mut warren_client::JobHandle) -> Seen {
    let mut events = Vec::new();
    while let Some(event) = within("an event", job.next()).await {
        events.push(event.expect("a readable event"));
    }
    Seen { events }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_is_stopped_whether_it_loops_sleeps_or_reports() {
    let house = House::open(&[guest("hostile"), guest("echo")]).await;
    for mode in ["loop", "sleep", "flood"] {
        let mut job = house.client.submit(hostile(mode, 1_900_000)).await.expect("taken");
        // It runs: its plugin has a scratch of time already, and nobody waits for a slot.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let asked = Instant::now();
        job.cancel().await.expect("published");
        let seen = rest(&mut job).await;
        let took = asked.elapsed();
        println!("{mode}: cancelled after {} ms", took.as_millis());
        assert_eq!(seen.code(), "CANCELLED", "{mode}: {:?}", seen.events.last());
        assert!(took < SOON, "{mode}: {took:?}");
        house.answers(mode).await;
    }
    house.quiet().await;
    assert!(house.dead_letters().await.is_empty(), "a cancelled job is no dead letter");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_for_a_slot_or_is_not_there_yet_never_runs() {
    let house = House::open(&[guest("hostile"), guest("echo")]).await;
    let mut busy = Vec::new();
    for _ in 0..2 {
        busy.push(house.client.submit(hostile("loop", 0)).await.expect("taken"));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut waiting = house.client.submit(JobRequest::new("echo").bytes("x", "y")).await.expect("taken");
    let asked = Instant::now();
    waiting.cancel().await.expect("published");
    let seen = rest(&mut waiting).await;
    assert_eq!(seen.code(), "CANCELLED");
    assert!(asked.elapsed() < SOON, "it waited for a slot: {:?}", asked.elapsed());
    for mut job in busy {
        assert_eq!(rest(&mut job).await.code(), "STALLED", "a neighbour was not cancelled");
    }

    // The cancellation overtakes its job. How far ahead it must be is the host's affair: give it more
    // and more until it has arrived first.
    let transport = warren::broker::client::BrokerTransport::new(std::sync::Arc::new(house.broker.connect()));
    for ahead in 1..=10u64 {
        let id = format!("early-{ahead}");
        warren_client::Transport::cancel(&transport, &id).await.expect("published");
        tokio::time::sleep(Duration::from_millis(ahead * ahead * 10)).await;
        let seen = house.run(JobRequest::new("echo").id(id).bytes("x", "y")).await;
        let ran = seen.events.iter().any(|e| matches!(e.body, EventBody::Status { .. }));
        match seen.code() {
            "CANCELLED" if !ran => return,
            code => println!("{ahead}: the job was faster: {code}"),
        }
    }
    panic!("no cancellation arrived before its job");
}
