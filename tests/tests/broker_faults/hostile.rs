//! Clients that send what they like: forged headers, types that no one expects, bodies that are cut
//! short, too deep or too long. Each message ends in a clear code, and none harms a neighbour.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, DecimalValue, FieldArray, ShortString};
use serde_json::{Value, json};
use warren::wire::JOBS;
use warren_tests::oracle::Job;
use warren_tests::oracle::verdict::Story;
use warren_tests::process::Process;
use warren_tests::scene::{Scene, calm};
use warren_tests::{PATIENCE, body};

use super::raw::{Raw, properties, table, text};

const ORACLE: &str = "oracle.hostile";

/// A message, and the codes that it may end with.
struct Case {
    name: String,
    /// What the job is known by.
    id: String,
    key: String,
    properties: BasicProperties,
    body: Vec<u8>,
    ends: &'static [&'static str],
}

#[derive(Default)]
struct Cases(Vec<Case>);

const RESULT: &[&str] = &["RESULT"];
const BAD: &[&str] = &["BAD_REQUEST"];

impl Cases {
    /// A job for `noop` that is in order.
    fn add(&mut self, name: impl Into<String>, ends: &'static [&'static str]) -> &mut Case {
        let id = format!("hostile {}", self.0.len());
        self.0.push(Case {
            name: name.into(),
            key: "noop".to_owned(),
            properties: properties(&id, ORACLE),
            body: body(json!({})).to_vec(),
            id,
            ends,
        });
        self.0.last_mut().expect("it was just put there")
    }
}

impl Case {
    fn properties(&mut self, change: impl FnOnce(BasicProperties) -> BasicProperties) -> &mut Self {
        self.properties = change(std::mem::take(&mut self.properties));
        self
    }

    fn header(&mut self, name: &str, value: AMQPValue) -> &mut Self {
        self.properties(|p| {
            let mut headers = p.headers().clone().unwrap_or_default();
            headers.insert(name.into(), value);
            p.with_headers(headers)
        })
    }

    fn key(&mut self, key: &str) -> &mut Self {
        key.clone_into(&mut self.key);
        self
    }

    fn body(&mut self, body: impl Into<Vec<u8>>) -> &mut Self {
        self.body = body.into();
        self
    }

    /// A job for `hostile`.
    fn mode(&mut self, mode: &str, number: i64) -> &mut Self {
        self.key("hostile").body(body(json!({ "mode": mode, "number": number })))
    }

    /// It is known by another id.
    fn known_as(&mut self, id: &str) -> &mut Self {
        id.clone_into(&mut self.id);
        self.properties(|p| {
            p.with_correlation_id(ShortString::from(id)).with_message_id(ShortString::from(id))
        })
    }
}

/// A table in a table in a table.
fn deep(levels: usize) -> AMQPValue {
    (0..levels).fold(AMQPValue::Void, |inner, _| AMQPValue::FieldTable(table([("k", inner)])))
}

/// Values of every type but text and whole numbers.
fn of_other_types() -> Vec<AMQPValue> {
    vec![
        AMQPValue::Void,
        AMQPValue::Boolean(true),
        AMQPValue::Float(1.0),
        AMQPValue::Double(1e300),
        AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 100 }),
        AMQPValue::Timestamp(1),
        AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::LongInt(1)])),
        AMQPValue::ByteArray(vec![1].into()),
        text([0xff, 0xfe]),
        deep(100),
    ]
}

fn forged_attempts(cases: &mut Cases) {
    let max = i64::from(u32::MAX);
    for value in [
        AMQPValue::ShortShortInt(-1),
        AMQPValue::LongLongInt(i64::MIN),
        AMQPValue::LongLongInt(i64::MAX),
        AMQPValue::LongLongInt(max),
        AMQPValue::LongLongInt(max + 1),
        AMQPValue::LongUInt(u32::MAX),
        AMQPValue::LongLongInt(1_000_001),
        text("nine"),
        text("1"),
        text(""),
    ]
    .into_iter()
    .chain(of_other_types())
    {
        cases.add(format!("attempt = {value:?}"), BAD).header("attempt", value);
    }
    // These cannot be told from the truth, and harm nobody but their sender.
    for value in [AMQPValue::ShortShortUInt(3), AMQPValue::ShortInt(0), AMQPValue::LongInt(1_000_000)] {
        cases.add(format!("attempt = {value:?}"), RESULT).header("attempt", value);
    }
    let exhausted = &["RETRIES_EXHAUSTED"];
    cases.add("attempts used up", exhausted).mode("retry", 0).header("attempt", AMQPValue::LongInt(999));
    for requeued in [i64::MIN, -1, 0, 2, i64::MAX] {
        let case = cases.add(format!("attempt 2, requeued = {requeued}"), exhausted).mode("retry", 0);
        case.header("attempt", AMQPValue::LongInt(2)).header("requeued", AMQPValue::LongLongInt(requeued));
    }
    for value in [AMQPValue::LongLongInt(1000), AMQPValue::LongInt(-1), text("20"), deep(3)] {
        let case = cases.add(format!("x-delivery-count = {value:?}"), RESULT);
        case.header("x-delivery-count", value.clone());
        // Through a retry tier, which reads and writes such headers.
        let case = cases.add(format!("retried, x-death = {value:?}"), RESULT).mode("flaky", 2);
        case.header("x-death", value.clone()).header("x-delivery-count", value);
    }
    let death = table([
        ("count", AMQPValue::LongLongInt(i64::MAX)),
        ("queue", text("warren.jobs.noop")),
        ("reason", text("delivery_limit")),
        ("exchange", text("warren.jobs")),
    ]);
    let deaths = AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::FieldTable(death)]));
    let case = cases.add("retried, a forged death", RESULT).mode("flaky", 2);
    case.header("x-death", deaths).header("x-first-death-reason", text("delivery_limit"));
}

fn wrong_types(cases: &mut Cases) {
    for value in of_other_types() {
        for name in ["events", "deadline", "inference-header-content-length"] {
            cases.add(format!("{name} = {value:?}"), BAD).header(name, value.clone());
        }
    }
    for value in [text("soon"), text("99999999999999999999")] {
        cases.add(format!("deadline = {value:?}"), BAD).header("deadline", value);
    }
    for value in [AMQPValue::LongInt(1), text("everything"), text("")] {
        cases.add(format!("events = {value:?}"), BAD).header("events", value);
    }
    for value in [i64::MIN, -1, 1_000_000, i64::MAX] {
        let case = cases.add(format!("inference-header-content-length = {value}"), BAD);
        case.header("inference-header-content-length", AMQPValue::LongLongInt(value));
    }
    cases.add("a deadline that is over", &["EXPIRED"]).header("deadline", AMQPValue::LongInt(1));
    cases.add("a deadline at the end of time", RESULT).header("deadline", AMQPValue::LongLongInt(i64::MAX));
    // What hosts write and read elsewhere, in a job that is answered and in one that becomes a letter.
    let written = [
        "traceparent",
        "tenant",
        "requeued",
        "history",
        "job",
        "code",
        "reason",
        "final",
        "sequence",
        "model",
        "plugin",
        "digest",
        "host",
        "died-at",
        "died-from",
        "reply-to",
        "event-code",
    ];
    let values = [AMQPValue::LongLongInt(i64::MAX), text("x".repeat(50_000)), text("\n\0\u{1b}[31m")];
    for name in written {
        for value in values.iter().cloned().chain([AMQPValue::Void, AMQPValue::Boolean(false), deep(50)]) {
            let shown: String = format!("{name} = {value:?}").chars().take(80).collect();
            cases.add(&shown, RESULT).header(name, value.clone());
            cases.add(shown + ", failing", &["PLUGIN_FAILED"]).mode("failed", 0).header(name, value);
        }
    }
    let case = cases.add("2,000 headers", &["PLUGIN_FAILED"]).mode("failed", 0);
    for n in 0..2000 {
        case.header(&format!("header {n}"), AMQPValue::LongInt(n));
    }
}

fn odd_properties(cases: &mut Cases) {
    let long = "i".repeat(255);
    for (name, id) in [
        ("255 bytes", &*long),
        ("controls", "a\0b\nc\u{1b}"),
        ("a path", "../../etc/passwd"),
        ("letters", "ä€😀"),
    ] {
        cases
            .add(format!("an id of {name}"), RESULT)
            .known_as(&format!("{id}1").chars().rev().take(255).collect::<String>());
        let failing = format!("{id}2").chars().rev().take(255).collect::<String>();
        cases
            .add(format!("an id of {name}, failing"), &["PLUGIN_FAILED"])
            .known_as(&failing)
            .mode("failed", 0);
    }
    let nobody = &["REPLY_UNROUTABLE"];
    let other: ShortString = long.as_str().into();
    cases.add("reply_to of 255 bytes", nobody).properties(|p| p.with_reply_to(other.clone()));
    cases
        .add("everything of 255 bytes", RESULT)
        .properties(|p| {
            p.with_message_id(other.clone())
                .with_type(other.clone())
                .with_app_id(other.clone())
                .with_cluster_id(other.clone())
                .with_content_encoding(other.clone())
        })
        .mode("flaky", 2);
    for garbage in ["amq.rabbitmq.reply-to.nobody", "amq.rabbitmq.reply-to.", "amq.rabbitmq.reply-to/x"] {
        cases.add(garbage, nobody).properties(|p| p.with_reply_to(garbage.into()));
    }
    for own in [
        "warren.jobs.noop",
        "warren.jobs/noop",
        "/warren.jobs.noop",
        "warren.dead",
        "warren.control/",
        "warren.retry.50/x",
    ] {
        // Its error goes to the shared queue.
        cases.add(format!("reply_to {own}"), BAD).properties(|p| p.with_reply_to(own.into()));
    }
    cases.add("expires at once", &["EXPIRED", "RESULT"]).properties(|p| p.with_expiration("0".into()));
    cases.add("expires never", RESULT).properties(|p| p.with_expiration("4294967295".into()));
    cases.add("priority 255", RESULT).properties(|p| p.with_priority(255).with_timestamp(u64::MAX));
    cases.add("transient", RESULT).properties(|p| p.with_delivery_mode(1));
    let missing = &["NO_MODEL"];
    let longest = "k".repeat(255);
    for key in
        ["nobody", "", ".", ".urgent", "noop.", "noop.bulk.urgent", "#", "*", "noop\0", "a\nb", &longest]
    {
        cases.add(format!("key {key:?}"), missing).key(key);
    }
    for key in ["noop.urgent", "noop.bulk"] {
        cases.add(format!("key {key}"), RESULT).key(key);
    }
}

fn bad_bodies(cases: &mut Cases) {
    let whole = json!({ "id": "x", "parameters": { "a": 1 }, "inputs": [{ "name": "x", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0] }] }).to_string();
    for cut in (0..whole.len()).step_by(9) {
        cases.add(format!("cut after {cut} bytes"), BAD).body(&whole.as_bytes()[..cut]);
    }
    let (open, close) = ("[".repeat(10_000), "]".repeat(10_000));
    let nested = "{\"a\":".repeat(10_000) + "1" + &"}".repeat(10_000);
    cases.add("10,000 deep", BAD).body(format!("{open}{close}"));
    cases.add("10,000 deep, never closed", BAD).body(open.clone());
    cases.add("objects 10,000 deep", BAD).body(nested.clone());
    cases.add("inputs 10,000 deep", BAD).body(format!("{{\"inputs\":{open}{close}}}"));
    cases
        .add("parameters 10,000 deep", BAD)
        .body(format!("{{\"inputs\":[],\"parameters\":{{\"x\":{nested}}}}}"));
    cases.add("data 10,000 deep", BAD).body(format!(
        "{{\"inputs\":[{{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[1],\"data\":{open}1{close}}}]}}"
    ));
    cases.add("10,000 deep where nobody reads", RESULT).body(format!("{{\"inputs\":[],\"x\":{nested}}}"));
    cases.add("not text", BAD).body([0xff, 0xfe, 0x00, 0x7b]);
    cases.add("zeros", BAD).body(vec![0; 4096]);
    let input = |input: Value| json!({ "inputs": [input] }).to_string();
    for (name, entry) in [
        (
            "a shape beyond all memory",
            json!({ "name": "x", "datatype": "FP32", "shape": [u64::MAX, u64::MAX], "data": [1] }),
        ),
        (
            "a product that wraps around",
            json!({ "name": "x", "datatype": "UINT8", "shape": [1u64 << 32, 1u64 << 32], "data": [] }),
        ),
        (
            "a name of 300 bytes",
            json!({ "name": "n".repeat(300), "datatype": "FP32", "shape": [1], "data": [1] }),
        ),
        ("no name", json!({ "datatype": "FP32", "shape": [1], "data": [1] })),
        ("a number as name", json!({ "name": 7, "datatype": "FP32", "shape": [1], "data": [1] })),
        (
            "a million data and a shape of one",
            json!({ "name": "x", "datatype": "UINT8", "shape": [1], "data": vec![0; 1_000_000] }),
        ),
        (
            "binary data that there is not",
            json!({ "name": "x", "datatype": "FP32", "shape": [1], "parameters": { "binary_data_size": 4 } }),
        ),
    ] {
        cases.add(name, BAD).body(input(entry));
    }
    let entry = |n: usize| format!("{{\"name\":\"{n}\",\"datatype\":\"UINT8\",\"shape\":[1],\"data\":[1]}}");
    let many = |count: usize| (0..count).map(entry).collect::<Vec<_>>().join(",");
    cases.add("5,000 inputs", BAD).body(format!("{{\"inputs\":[{}]}}", many(5000)));
    cases.add("1e999999", BAD).body(
        input(json!({ "name": "x", "datatype": "FP32", "shape": [1], "data": ["HUGE"] }))
            .replace("\"HUGE\"", "1e999999"),
    );
    cases.add("20 MiB of nothing", BAD).body(vec![b' '; 20 << 20]);
    cases.add("20 MiB that never end", BAD).body([&b"{\"id\":\""[..], &vec![b'x'; 20 << 20]].concat());
    cases.add("5,000,000 numbers", RESULT).body(format!(
        "{{\"inputs\":[{{\"name\":\"x\",\"datatype\":\"UINT8\",\"shape\":[5000000],\"data\":[{}1]}}]}}",
        "0,".repeat(4_999_999)
    ));
    let binary = |length: i64, size: u64, tail: usize| {
        let json = json!({ "inputs": [{ "name": "x", "datatype": "UINT8", "shape": [size], "parameters": { "binary_data_size": size } }] }).to_string();
        let length = if length < 0 { json.len() as i64 } else { length };
        ([json.as_bytes(), &vec![7; tail]].concat(), AMQPValue::LongLongInt(length))
    };
    for (name, ends, (body, length)) in [
        ("binary", RESULT, binary(-1, 16, 16)),
        ("binary, cut short", BAD, binary(-1, 16, 15)),
        ("binary, with a rest", BAD, binary(-1, 16, 17)),
        ("binary of a size that there is not", BAD, binary(-1, u64::MAX, 16)),
        ("binary, JSON cut in two", BAD, binary(20, 16, 16)),
        ("binary, 30 MiB", RESULT, binary(-1, 30 << 20, 30 << 20)),
    ] {
        let case = cases.add(name, ends).body(body).header("inference-header-content-length", length);
        case.properties(|p| p.with_content_type("application/octet-stream".into()));
    }
}

/// How a job ended.
fn end(story: &Story) -> String {
    let last = story.events.iter().find(|e| e.last);
    let code = |code: &Option<String>| code.clone().unwrap_or_else(|| "no code".to_owned());
    match (last, story.letters.first()) {
        (Some(event), _) if event.kind == "result" => "RESULT".to_owned(),
        (Some(event), _) => code(&event.code),
        (None, Some(letter)) => code(&letter.code),
        (None, None) => "nothing".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_send_nonsense() {
    let mut scene = Scene::set("hostile").await;
    let settings = [("retry_delays_ms", "[50,100]"), ("unserved_ms", "5000")];
    let mut host = Process::serving(&scene.address, scene.plugins.path(), &settings).await;
    let before = host.descriptors();
    // Errors of jobs that name a reply address of the host's own.
    scene.oracle.listen("warren.responses");
    let raw = Raw::open(&scene.address).await;
    let mut cases = Cases::default();
    for part in [forged_attempts, wrong_types, odd_properties, bad_bodies] {
        part(&mut cases);
    }
    let Cases(cases) = cases;
    for (n, case) in cases.iter().enumerate() {
        scene.oracle.expect(&case.id);
        let taken = raw.publish(JOBS, &case.key, case.properties.clone(), &case.body).await;
        taken.unwrap_or_else(|why| panic!("{}: {why}", case.name));
        scene.oracle.kept(&case.id);
        if n % 10 == 0 {
            scene.oracle.publish([Job::noop(), Job::hostile("announced-busy", 2)]).await;
        }
    }
    // Without any id the host gives one, and only the address tells whose the answer is.
    let loose = "loose ends";
    raw.declare(loose, table([])).await;
    let nameless = || BasicProperties::default().with_reply_to(loose.into());
    for body in [&b""[..], b"{\"inputs\":[]}", b"{\"id\":7,\"inputs\":[]}", b"[]"] {
        raw.publish(JOBS, "noop", nameless(), body).await.expect("taken");
    }
    raw.publish(JOBS, "noop", nameless(), b"{\"id\":\"from the body\",\"inputs\":[]}").await.expect("taken");
    let answers = raw.take(loose, 5).await;
    let mut kinds: Vec<&str> =
        answers.iter().map(|a| a.properties.kind().as_ref().map_or("", |k| k.as_str())).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["error", "error", "error", "result", "result"]);
    let ids: Vec<&str> =
        answers.iter().map(|a| a.properties.correlation_id().as_ref().map_or("", |k| k.as_str())).collect();
    assert!(ids.contains(&"from the body") && !ids.contains(&""), "{ids:?}");
    scene.all_end("among hostile messages", &host).await;
    let mut wrong = Vec::new();
    for case in &cases {
        let until = |story: &Story| case.ends.contains(&end(story).as_str());
        if !scene.oracle.until(&case.id, Duration::from_millis(1), until).await {
            wrong.push(format!(
                "{}: {} instead of {:?}",
                case.name,
                end(&scene.oracle.story(&case.id)),
                case.ends
            ));
        }
    }
    assert!(wrong.is_empty(), "of {} messages: {wrong:#?}", cases.len());
    // It is as good as new.
    scene.oracle.publish((0..20).map(|_| Job::noop())).await;
    assert!(scene.oracle.ended(PATIENCE).await);
    calm(&mut host, before).await;
    println!("{} hostile messages; the host has {} MiB", cases.len(), host.memory_kib() / 1024);
    scene.finish("hostile messages", 1).await.right();
}

/// A job that is too long its client cannot publish. Of a result that is too long neither the event nor a
/// letter that keeps it can be published, however often it is tried.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_longer_than_the_broker_takes() {
    const RUNS: usize = 3;
    let longest = usize::try_from(super::LONGEST).expect("a length");
    let mut scene = Scene::on(tokio::task::block_in_place(super::strict), "too-long").await;
    // The first costs the channel that it is published on.
    scene.oracle = scene.oracle.statuses_may_be_lost();
    let mut host = scene.host(&scene.address).await;
    let before = host.descriptors();
    let long = || Job::hostile("large-parameter", super::LONGEST + 1);
    for run in 0..RUNS {
        let raw = Raw::open(&scene.address).await;
        let id = format!("longest {run}");
        scene.oracle.expect(&id);
        let job = properties(&id, "oracle.too-long");
        raw.publish(JOBS, "noop", job.clone(), &vec![b'x'; longest]).await.expect("taken");
        scene.oracle.kept(&id);
        let refused = raw.publish(JOBS, "noop", job, &vec![b'x'; longest + 1]).await;
        assert!(refused.as_ref().is_err_and(|why| why.contains("larger")), "{refused:?}");
        scene.oracle.publish((0..5).map(|_| Job::hostile("announced-busy", 5))).await;
        scene.oracle.publish([long(), Job::noop(), long()]).await;
        scene.oracle.publish((0..5).map(|_| Job::hostile("announced-busy", 5))).await;
        scene.oracle.fault();
        scene.all_end("though results are too long", &host).await;
    }
    calm(&mut host, before).await;
    let report = scene.finish("messages longer than the broker takes", RUNS).await;
    report.right();
    let due = [("OUTPUT_LIMIT", 2 * RUNS), ("BAD_REQUEST", RUNS), ("RESULT", 11 * RUNS)];
    assert_eq!(report.row.ends, due.into_iter().map(|(code, count)| (code.to_owned(), count)).collect());
}
