//! The example clients in Python, Java and Node, as programs, against a real RabbitMQ: with a real
//! host, and with a scripted one that repeats itself and is overtaken. What they print is asserted
//! to the letter, so that the three agree and the documentation can show it.

#[path = "other_clients/programs.rs"]
mod programs;

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_core::Stream;
use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use programs::{Ended, LANGUAGES, PATIENCE_WITH_CLIENTS, Running, all_print, printed, start};
use serde_json::{Value, json};
use warren::broker::rabbitmq::{Options, RabbitMq};
use warren::config::Config;
use warren::host::Host;
use warren::job::Code;
use warren_tests::rabbitmq::shared;
use warren_tests::{PATIENCE, guest, logs, patient, within};

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("ends")
}

async fn vhost(name: &'static str) -> String {
    blocking(move || shared().vhost(name)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_shows_ordered_progress_and_how_its_job_ended() {
    logs::keep();
    let address = vhost("hosted").await;
    let options = Options {
        addresses: vec![address.clone()],
        operation_timeout: Duration::from_secs(30),
        startup_timeout: PATIENCE,
        ..Options::default()
    };
    let broker = Arc::new(RabbitMq::connect(options).await.expect("connects"));
    let config = Config { slots: 2, tensor_threads: 2, retry_delays_ms: vec![50, 100], ..Config::default() };
    let host = Host::new(config, broker).expect("the host starts");
    let dir = tempfile::tempdir().expect("a directory");
    let broker_of_templates = address.clone();
    for folder in [guest("echo"), guest("hostile"), patient(dir.path())] {
        host.load(&folder).await.expect("loads");
    }
    host.serve().await.expect("serves");

    blocking(move || {
        let url = address.as_str();
        // Progress, then the result: the first two statuses are never merged.
        all_print(
            &[url, "echo", "text=größe ✓", "other=a=b"],
            0,
            &["0 status echoing 0% text", "1 status echoing 50% other", "2 result text=größe ✓ other=a=b"],
        );
        all_print(
            &[url, "hostile", "mode:=partials", "number:=3"],
            0,
            &[
                "0 partial piece=0",
                "1 status emitting 0%",
                "2 partial piece=1",
                "3 status emitting 33%",
                "4 partial piece=2",
                "5 status emitting 67%",
                "6 result mode=partials",
            ],
        );
        // Sequences begin anew with each attempt.
        all_print(
            &[url, "hostile", "mode:=chatty-flaky", "number:=3"],
            0,
            &[
                "0 status trying",
                "attempt 2",
                "0 status trying",
                "attempt 3",
                "0 status trying",
                "1 result mode=chatty-flaky",
            ],
        );
        // What JSON cannot carry.
        all_print(&[url, "hostile", "mode:=nan"], 0, &["0 result nan=FP32[2]:8"]);
        // Failures: the plugin's, the client's.
        all_print(&[url, "hostile", "mode:=failed"], 1, &["0 error PLUGIN_FAILED nobody can do this"]);
        all_print(&[url, "hostile", "mode:=invalid"], 1, &["0 error INVALID_INPUT the client sent nonsense"]);
        for client in start(&[url, "nobody", "text=hi"]) {
            let Ended { language, said, errors, status, .. } = client.end();
            assert_eq!((said.len(), status), (2, Some(1)), "{language:?}: {said:?} {errors}");
            assert!(said[1].starts_with("0 error NO_MODEL "), "{language:?}: {said:?}");
        }
        // Direct reply-to: the answer alone, also after a retry.
        all_print(&["--final", url, "echo", "text=hi", "other=there"], 0, &["0 result text=hi other=there"]);
        all_print(
            &["--final", url, "hostile", "mode:=flaky", "number:=2"],
            0,
            &["attempt 2", "0 result attempt=2"],
        );
        all_print(
            &["--final", url, "hostile", "mode:=failed"],
            1,
            &["0 error PLUGIN_FAILED nobody can do this"],
        );
        // A guest sleeps for an hour; each job is cancelled by a client in its own language.
        for mut client in start(&[url, "patient", "mode:=sleep"]) {
            let job = client.job();
            let cancel = Running::start(client.language, &["--cancel", url, &job]).end();
            let said = format!("asked every host to cancel {job}");
            assert_eq!((cancel.said, cancel.status), (vec![said], Some(0)), "{}", cancel.errors);
            printed(client.end(), 1, &["0 error CANCELLED cancelled by the client"]);
        }
    })
    .await;
    templates_are_answered(&broker_of_templates).await;
    assert!(within("the drain", host.shutdown()).await, "not drained");
}

/// Two instances of a service send what Spring's `convertSendAndReceive` does, the first message of
/// each with the same id. Each takes the first message that comes for the answer.
async fn templates_are_answered(address: &str) {
    let connection = Connection::connect(address, ConnectionProperties::default()).await.expect("connects");
    let mut instances = Vec::new();
    for text in ["of one", "of the other"] {
        let channel = connection.create_channel().await.expect("a channel");
        let direct = ShortString::from("amq.rabbitmq.reply-to");
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let replies = channel.basic_consume(direct.clone(), "".into(), options, FieldTable::default());
        let replies = replies.await.expect("consumes");
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_content_encoding("UTF-8".into())
            .with_delivery_mode(2)
            .with_priority(0)
            .with_correlation_id("1".into())
            .with_reply_to(direct);
        let input = json!({ "name": "text", "datatype": "BYTES", "shape": [1], "data": [text] });
        let body = json!({ "inputs": [input] }).to_string().into_bytes();
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let sent = channel.basic_publish("warren.jobs".into(), "echo".into(), options, &body, properties);
        sent.await.expect("goes out");
        instances.push((text, channel, replies));
    }
    for (text, _channel, mut replies) in instances {
        let next = std::future::poll_fn(|context| Pin::new(&mut replies).poll_next(context));
        let reply = within("the answer", next).await.expect("a reply").expect("readable");
        let kind = reply.properties.kind().as_ref().map(ShortString::as_str);
        let body: Value = serde_json::from_slice(&reply.data).expect("JSON");
        println!("the template's reply: {kind:?} {body}");
        assert_eq!((kind, &body["outputs"][0]["data"][0]), (Some("result"), &json!(text)));
    }
}

/// A host that takes the jobs of model `scripted` and says what it is told to.
struct Script {
    _connection: Connection,
    channel: Channel,
}

impl Script {
    async fn open(address: &str) -> Self {
        let connection =
            Connection::connect(address, ConnectionProperties::default()).await.expect("connects");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let none = FieldTable::default;
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel
            .exchange_declare("warren.jobs".into(), ExchangeKind::Topic, durable, none())
            .await
            .expect("declares");
        channel
            .queue_declare("scripted".into(), QueueDeclareOptions::default(), none())
            .await
            .expect("declares");
        channel
            .queue_bind(
                "scripted".into(),
                "warren.jobs".into(),
                "scripted".into(),
                QueueBindOptions::default(),
                none(),
            )
            .await
            .expect("binds");
        Self { _connection: connection, channel }
    }

    /// The next job.
    async fn take(&self) -> BasicGetMessage {
        let start = Instant::now();
        loop {
            let options = BasicGetOptions { no_ack: true };
            if let Some(job) = self.channel.basic_get("scripted".into(), options).await.expect("the queue") {
                return job;
            }
            assert!(start.elapsed() < PATIENCE_WITH_CLIENTS, "no client sends a job");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Publishes an event about `id` to the address of `job`.
    async fn say(&self, job: &BasicGetMessage, id: &str, event: &Event) {
        let (attempt, sequence, kind, body) = event;
        let mut headers = FieldTable::default();
        headers.insert("job".into(), AMQPValue::LongString(id.into()));
        headers.insert("attempt".into(), AMQPValue::LongLongInt(*attempt));
        headers.insert("sequence".into(), AMQPValue::LongLongInt(*sequence));
        headers.insert("final".into(), AMQPValue::Boolean(["result", "error"].contains(kind)));
        headers.insert("model".into(), AMQPValue::LongString("scripted".into()));
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_correlation_id(id.into())
            .with_message_id(format!("{id}:{attempt}:{sequence}").into())
            .with_type((*kind).into())
            .with_headers(headers);
        let body = body.to_string().into_bytes();
        let to = address(job);
        let options = BasicPublishOptions::default();
        let confirm =
            self.channel.basic_publish("".into(), to, options, &body, properties).await.expect("goes out");
        confirm.await.expect("a confirm");
    }
}

/// Attempt, sequence, type, body.
type Event = (i64, i64, &'static str, Value);

fn address(job: &BasicGetMessage) -> ShortString {
    job.delivery.properties.reply_to().clone().expect("an address")
}

fn status(stage: &str) -> Value {
    json!({ "stage": stage })
}

fn output(text: &str) -> Value {
    json!({
        "model_name": "scripted",
        "outputs": [{ "name": "out", "datatype": "BYTES", "shape": [1], "data": [text] }]
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_and_overtaken_events_are_dropped() {
    let url = vhost("scripted").await;
    let script = Script::open(&url).await;
    let events: [(bool, Event); 17] = [
        (true, (1, 0, "status", status("first"))),
        (true, (1, 1, "status", status("second"))),
        // The same again, and an older one again.
        (true, (1, 1, "status", status("repeated"))),
        (true, (1, 0, "status", status("repeated"))),
        // Another job's.
        (false, (9, 9, "result", output("of another job"))),
        // Of a later version of the contract.
        (true, (1, 2, "novelty", json!("what is this"))),
        (true, (2, 0, "partial", output("of the second attempt"))),
        // The first attempt goes on on a host that was cut off, and ends.
        (true, (1, 3, "status", status("overtaken"))),
        (true, (1, 4, "result", output("overtaken"))),
        (true, (2, 0, "partial", output("repeated"))),
        // A status was lost; it comes late.
        (true, (3, 1, "status", status("third"))),
        (true, (3, 0, "status", status("late"))),
        (true, (2, 1, "error", json!({ "error": "overtaken" }))),
        (true, (3, 2, "result", output("accepted"))),
        // After the end nothing counts.
        (true, (3, 2, "result", output("repeated"))),
        (true, (3, 3, "status", status("after the end"))),
        (true, (4, 0, "result", output("after the end"))),
    ];
    for language in LANGUAGES {
        let arguments = url.clone();
        let client = tokio::task::spawn_blocking(move || {
            let arguments =
                [&*arguments, "scripted", "text=hi", "flag:=true", "count:=-7", "ratio:=0.5", "word:=007"];
            Running::start(language, &arguments).end()
        });
        let job = script.take().await;
        let id = asked(&job);
        for (own, event) in &events {
            script.say(&job, if *own { &id } else { "another" }, event).await;
        }
        let ended = client.await.expect("ends");
        assert_eq!(ended.job, Some(id), "{language:?}");
        let lines = [
            "0 status first",
            "1 status second",
            "attempt 2",
            "0 partial out=of the second attempt",
            "attempt 3",
            "1 status third",
            "2 result out=accepted",
        ];
        printed(ended, 0, &lines);
    }
}

/// The message of a job must be as the documentation wants it; answers the job's id.
fn asked(job: &BasicGetMessage) -> String {
    let properties = &job.delivery.properties;
    let text = |value: &Option<ShortString>| value.as_ref().map(|v| v.as_str().to_owned());
    let id = text(properties.correlation_id()).expect("an id");
    assert_eq!(*properties.delivery_mode(), Some(2), "persistent");
    assert_eq!(text(properties.message_id()).as_ref(), Some(&id));
    assert_eq!(text(properties.content_type()).as_deref(), Some("application/json"));
    assert_eq!(text(properties.expiration()).as_deref(), Some("600000"));
    let body: Value = serde_json::from_slice(&job.delivery.data).expect("JSON");
    assert_eq!(
        body,
        json!({
            "id": id,
            "inputs": [{ "name": "text", "datatype": "BYTES", "shape": [1], "data": ["hi"] }],
            "parameters": { "flag": true, "count": -7, "ratio": 0.5, "word": "007" },
        })
    );
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_cannot_be_sent_or_followed_is_said_to_be_so() {
    let url = vhost("refused").await;
    let script = Script::open(&url).await;
    let fails = |arguments: &'static [&'static str], url: String, text: &'static str| {
        blocking(move || {
            let arguments: Vec<&str> =
                arguments.iter().map(|a| if *a == "URL" { &*url } else { a }).collect();
            for client in start(&arguments) {
                let Ended { language, said, errors, status, .. } = client.end();
                assert_eq!((said, status), (Vec::new(), Some(2)), "{language:?}: {errors}");
                assert!(errors.to_lowercase().contains(text), "{language:?} says {errors:?}, not {text:?}");
            }
        })
    };
    fails(&["URL", "nobody", "text=hi"], url.clone(), "no queue takes messages for 'nobody'").await;
    fails(&["URL", "echo", "text"], url.clone(), "usage: ").await;
    // Nobody listens there.
    fails(&["URL", "echo"], "amqp://guest:guest@127.0.0.1:1/%2f".to_owned(), "refused").await;

    // The connection breaks while the job runs: the client cannot know how it ends.
    let arguments = url.clone();
    let clients = blocking(move || {
        let mut clients = start(&[&arguments, "scripted"]);
        clients.iter_mut().for_each(|client| drop(client.job()));
        clients
    })
    .await;
    for _ in &clients {
        script.take().await;
    }
    drop(script);
    blocking(move || {
        shared().ctl(&["close_all_connections", "-p", "refused", "test"]);
        for client in clients {
            let Ended { language, said, errors, status, .. } = client.end();
            assert_eq!((said, status), (vec!["job ID".to_owned()], Some(2)), "{language:?}: {errors}");
            assert_ne!(errors, "", "{language:?} says nothing of it");
        }
    })
    .await;
}

/// A file of the repository.
fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_page_shows_what_there_is() {
    let page = text("docs/clients.md");
    for code in Code::ALL {
        let info = code.info();
        let row = format!("| `{}` | {} | {} |", info.name, info.fault, info.meaning);
        assert!(page.contains(&row), "docs/clients.md has no such row: {row}");
    }
    // The rule that it quotes is the one that the tests above run.
    let quoted =
        page.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a quotation");
    let program = text("examples/clients/python/submit.py");
    let mut lines = program.lines();
    for line in quoted.lines() {
        assert!(lines.any(|own| own == line), "submit.py lacks, or has elsewhere: {line:?}");
    }
}
