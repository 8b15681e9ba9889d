//! Deliveries: to jobs, and from there to retries, letters and events, which must read as what they
//! were made of.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use warren::broker::{Delivery, Message, Properties, Tag, client};
use warren::job::{Code, Data, Envelope, Failure, Job, Named, Outputs};
use warren::wire::{self, EventBody, Suspicion};
use warren_client::{Follower, oip};

use crate::check_text;
use crate::take::Take;

const HEADERS: [&str; 16] = [
    "attempt",
    "deadline",
    "events",
    "inference-header-content-length",
    "tenant",
    "traceparent",
    "history",
    "requeued",
    "device-lost",
    "suspected",
    "suspected-losses",
    "suspected-since",
    "host",
    "x-first-death-queue",
    "x-first-death-reason",
    "other",
];
const KEYS: [&str; 6] = ["m", "m.urgent", "m.bulk", ".urgent", "", "a.b.c"];
const ADDRESSES: [&str; 7] = [
    "answers",
    "exchange/key",
    "warren.jobs/m",
    "warren.jobs.m",
    "/warren.dead",
    "amq.rabbitmq.reply-to.g1",
    "warren.jobsite",
];
/// Attempts up to this are taken.
const MAX_ATTEMPT: u32 = 1_000_000;
/// The longest history: 32 lines of at most 1200 bytes each, but for the last.
const HISTORY: usize = 32 * 1300;

/// When every delivery of a fuzzer arrives.
fn received() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

/// Properties, headers, and the rest is the body.
fn delivery(take: &mut Take<'_>) -> Delivery {
    let routing_key = match take.below(8) {
        at @ 0..6 => KEYS[at].to_owned(),
        _ => take.text(),
    };
    let delivery_count = if take.flag() { take.size() } else { 0 };
    let mut properties = Properties {
        content_type: take.optional(Take::text),
        correlation_id: take.optional(Take::text),
        message_id: take.optional(Take::text),
        ..Properties::default()
    };
    properties.reply_to = match take.below(10) {
        at @ 0..7 => Some(ADDRESSES[at].to_owned()),
        7 => Some(take.text()),
        _ => None,
    };
    properties.expiration = take.optional(|t| Duration::from_millis(t.whole().unsigned_abs()));
    for _ in 0..take.below(12) {
        let name = take.pick(&HEADERS);
        let value = take.header(0);
        properties.set(name, value);
    }
    let exchange = "warren.jobs".to_owned();
    let message = Message { exchange, routing_key, properties, body: Bytes::new() };
    let tag = Tag { channel: 1, number: 1 };
    Delivery { message, queue: "warren.jobs.m".into(), tag, delivery_count }
}

fn delivered(message: Message) -> Delivery {
    let tag = Tag { channel: 1, number: 2 };
    Delivery { message, queue: "warren.jobs.m".into(), tag, delivery_count: 0 }
}

/// A message as it is delivered.
pub fn message(bytes: &[u8]) {
    let mut take = Take::new(bytes);
    let mut delivery = delivery(&mut take);
    delivery.message.body = Bytes::copy_from_slice(take.rest());

    wire::job_key(&delivery);
    wire::sender_key(&delivery, "id");
    wire::undone_failure(&delivery);
    match wire::unread(&delivery) {
        Ok(envelope) => {
            check_envelope(&envelope);
            let undone = wire::undone(&delivery, 20).expect("it can be read");
            assert!(undone.attempt > envelope.attempt || envelope.attempt == u32::MAX);
            assert!(wire::forgiven(&delivery, envelope.attempt) < envelope.attempt);
            wire::had_its_second(&delivery, envelope.attempt);
        }
        Err(rejected) => check_text(&rejected.failure.text),
    }
    match wire::decode(&delivery, received()) {
        Ok(job) => accepted(&delivery, &job),
        Err(rejected) => {
            check_envelope(&rejected.envelope);
            assert!(matches!(rejected.failure.code, Code::BadRequest | Code::InvalidInput));
            check_text(&rejected.failure.text);
            buried(&delivery, &rejected.envelope, &rejected.failure);
        }
    }
    losses(&delivery);
}

fn check_envelope(envelope: &Envelope) {
    assert!((1..=255).contains(&envelope.id.len()), "an id of {} bytes", envelope.id.len());
    assert!(envelope.attempt >= 1);
    assert!(envelope.traceparent.iter().chain(&envelope.tenant).all(|t| t.len() <= 255));
    if let Some(address) = &envelope.reply_to {
        let name = address.strip_prefix('/').unwrap_or(address);
        let own = ["warren.jobs", "warren.dead"];
        assert!(!own.iter().any(|o| name == *o || name.starts_with(&format!("{o}."))), "{address:?} is ours");
    }
}

fn accepted(delivery: &Delivery, job: &Job) {
    check_envelope(&job.envelope);
    assert!(job.inputs.len() <= oip::MAX_TENSORS && job.requested.len() <= oip::MAX_TENSORS);
    for input in &job.inputs {
        assert!((1..=oip::MAX_NAME).contains(&input.name.len()) && input.shape.len() <= 8);
        let elements: Option<u64> = input.shape.iter().try_fold(1u64, |n, d| n.checked_mul(u64::from(*d)));
        match &input.data {
            // A shape without elements may multiply to anything on the way.
            Data::Strings(all) if elements.is_some() => assert_eq!(Some(all.len() as u64), elements),
            Data::Reference(reference) => assert!(reference.size.is_none()),
            _ => {}
        }
    }
    if job.envelope.attempt <= MAX_ATTEMPT {
        let delay = Duration::from_secs(10);
        let next = read(wire::retry(delivery, job, delay, "host", None, "again\nand again"));
        assert_eq!(next.envelope, Envelope { attempt: job.envelope.attempt + 1, ..job.envelope.clone() });
        same(job, &next);
        for message in [
            wire::isolate(delivery, received(), "host"),
            wire::renew(delivery, false, received(), "host"),
            suspected(delivery),
        ] {
            let next = read(message);
            assert_eq!(next.envelope.attempt, job.envelope.attempt);
            same(job, &next);
        }
    }
    buried(delivery, &job.envelope, &Failure::new(Code::InvalidInput, "no\u{1b}[2J\nreason"));
    answered(job);
}

/// A job that was published anew.
fn read(message: Message) -> Job {
    let history = message.properties.text("history").expect("every move leaves a line");
    assert!(
        history.len() <= HISTORY && history.lines().count() <= 32,
        "a history of {} bytes",
        history.len()
    );
    assert_eq!(message.properties.expiration, None);
    wire::decode(&delivered(message), received()).expect("what was a job is one again")
}

fn same(job: &Job, next: &Job) {
    assert_eq!(next.inputs, job.inputs);
    assert_eq!(next.requested, job.requested);
    assert_eq!((next.binary, next.deadline), (job.binary, job.deadline));
}

/// Goes to a retry tier under suspicion, and comes back without.
fn suspected(delivery: &Delivery) -> Message {
    let delay = Duration::from_secs(10);
    let mut back = delivered(wire::suspect(delivery, delay, "key", received(), "host"));
    let expected = Suspicion { key: "key".to_owned(), times: delivery.delivery_count, since: received() };
    assert_eq!(wire::take_suspicion(&mut back), Some(expected));
    assert_eq!(wire::take_suspicion(&mut back), None);
    back.message
}

fn buried(delivery: &Delivery, envelope: &Envelope, failure: &Failure) {
    let letter = wire::dead_letter(delivery, envelope, None, "host", failure);
    assert_eq!(letter.body, delivery.message.body);
    assert_eq!(letter.properties.text("code"), Some(failure.code.info().name));
    assert!(letter.properties.text("history").is_some_and(|h| h.len() <= HISTORY));
    assert!(letter.properties.header("suspected").is_none());
}

/// A result with the job's own inputs arrives at the client as it was sent.
fn answered(job: &Job) {
    let known = |named: &&Named| !matches!(named.data, Data::Reference(_));
    let outputs: Vec<Named> = job.inputs.iter().filter(known).cloned().collect();
    let outputs = Outputs { outputs, parameters: job.parameters.clone() };
    let body = EventBody::Result(&outputs);
    let message =
        wire::event(&job.envelope, None, 3, &body, job.binary, "warren.responses").expect("written");
    let message = client::event(message).expect("it is an event");
    let mut follower = Follower::new(job.envelope.id.clone());
    let event = follower.take(message).expect("it counts").expect("it can be read");
    let warren_client::EventBody::Result(response) = event.body else { panic!("not a result: {event:?}") };
    assert_eq!(response.outputs.len(), outputs.outputs.len());
    for (got, sent) in response.outputs.iter().zip(&outputs.outputs) {
        assert_eq!(got.name, sent.name);
        assert_eq!(got.datatype.name(), sent.datatype.name());
        match (&got.data, &sent.data) {
            (oip::Data::Raw(got), Data::Raw(sent)) => assert_eq!(got, sent),
            (oip::Data::Strings(got), Data::Strings(sent)) => assert_eq!(got, sent),
            other => panic!("{other:?}"),
        }
    }
}

/// The same bytes as another host's word of its losses.
fn losses(delivery: &Delivery) {
    match wire::losses(delivery, "host") {
        Ok(all) => {
            let again = delivered(wire::lost("warren.control", "another", &all));
            assert_eq!(wire::losses(&again, "host").expect("what was written can be read"), all);
        }
        Err(text) => check_text(&text),
    }
}
