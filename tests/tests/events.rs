//! The events of a job as they are on the wire, held against the message contract.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::json;
use warren::broker::{Broker, ExchangeKind, ExchangeSpec, HeaderValue, Message};
use warren_client::JobRequest;
use warren_client::oip::{Data, InferResponse};
use warren_tests::inbox::{body, error, int, job, kind};
use warren_tests::{House, Inbox, guest, hostile};

fn reply_to(mut message: Message, address: &str) -> Message {
    message.properties.reply_to = Some(address.to_owned());
    message
}

fn misbehave(id: &str, mode: &str, number: i64) -> Message {
    job("hostile", id, body(json!({"mode": mode, "number": number})))
}

/// All messages of one job up to its final event, sent to a queue of its own.
async fn events(house: &House, message: Message) -> Vec<Message> {
    let queue = format!("replies.{}", message.properties.correlation_id.as_deref().expect("an id"));
    let mut inbox = Inbox::open(&house.broker, &queue).await;
    house.publish(reply_to(message, &queue)).await;
    let events = inbox.until_final().await;
    house.quiet().await;
    assert_eq!(inbox.arrived(), [], "nothing comes after the final event");
    events
}

fn json_of(message: &Message) -> serde_json::Value {
    serde_json::from_slice(&message.body).unwrap_or_else(|e| panic!("{e}: {message:?}"))
}

fn response(message: &Message) -> InferResponse {
    let length = message.properties.int("inference-header-content-length").map(|n| n as u64);
    InferResponse::decode(&message.body, message.properties.content_type.as_deref(), length)
        .unwrap_or_else(|e| panic!("{e}: {message:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_carries_the_headers_of_the_contract_and_no_others() {
    let house = House::open(&[guest("hostile")]).await;
    let digest = house.host().plugins().newest("hostile").expect("served").identity.digest.to_string();
    let mut seen: Vec<&str> = Vec::new();
    for (id, mode) in [("some-result", "partials"), ("some-error", "failed")] {
        let events = events(&house, misbehave(id, mode, 3)).await;
        let count = events.len();
        for (place, event) in events.iter().enumerate() {
            let last = place + 1 == count;
            let text = |value: &str| HeaderValue::Text(value.to_owned());
            let mut expected = BTreeMap::from([
                ("job", text(id)),
                ("attempt", HeaderValue::Int(1)),
                ("sequence", HeaderValue::Int(place as i64)),
                ("final", HeaderValue::Bool(last)),
                ("model", text("hostile")),
                ("plugin", text("hostile@0.1.0")),
                ("digest", text(&digest)),
            ]);
            if kind(event) == "error" {
                expected.insert("code", text("PLUGIN_FAILED"));
            }
            let properties = &event.properties;
            let found: BTreeMap<&str, HeaderValue> =
                properties.headers.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
            assert_eq!(found, expected, "{event:?}");
            assert_eq!(found.len(), properties.headers.len(), "each once: {event:?}");
            assert_eq!(properties.correlation_id.as_deref(), Some(id), "{event:?}");
            assert_eq!(
                properties.message_id.as_deref(),
                Some(format!("{id}:1:{place}").as_str()),
                "{event:?}"
            );
            assert_eq!(properties.content_type.as_deref(), Some("application/json"), "{event:?}");
            assert_eq!((properties.expiration, &properties.reply_to), (None, &None), "{event:?}");
            assert_eq!(properties.persistent, kind(event) != "status", "{event:?}");
            assert_eq!(last, ["result", "error"].contains(&kind(event)), "{event:?}");
        }
        seen.extend(events.iter().map(kind).collect::<Vec<_>>().iter().map(|k| match *k {
            "status" => "status",
            "partial" => "partial",
            "result" => "result",
            "error" => "error",
            other => panic!("type {other:?}"),
        }));
    }
    for kind in ["status", "partial", "result", "error"] {
        assert!(seen.contains(&kind), "no {kind} among {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_a_status_an_infer_response_and_an_error() {
    let house = House::open(&[guest("hostile")]).await;
    let results = events(&house, misbehave("bodies", "partials", 1)).await;
    let [partial, status, result] = results.as_slice() else { panic!("{results:?}") };
    let piece = response(partial);
    assert_eq!((piece.model_name.as_str(), piece.outputs.len()), ("hostile", 1), "{piece:?}");
    assert_eq!(piece.outputs[0].data, Data::Strings(vec![Bytes::from_static(b"0")]), "{piece:?}");
    assert_eq!(json_of(status), json!({"stage": "emitting", "progress": 0.0}));
    let result = response(result);
    assert_eq!(
        (result.model_name.as_str(), result.model_version.as_deref(), result.id.as_deref()),
        ("hostile", Some("0.1.0"), Some("bodies"))
    );
    let failed = events(&house, misbehave("failed", "failed", 0)).await;
    assert_eq!(json_of(&failed[0]), json!({"error": "nobody can do this"}));
    // What a guest says is cut to size, and escapes in it are made visible.
    let long = events(&house, misbehave("long", "status-text", 0)).await;
    let said = json_of(&long[0]);
    let (stage, message) = (said["stage"].as_str().expect("text"), said["message"].as_str().expect("text"));
    assert!(stage.starts_with("\u{fffd}[2Jsss") && stage.len() <= 64, "{stage:?}");
    assert_eq!((message.len(), &said["progress"]), (1024, &json!(1.0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partials_and_statuses_come_in_the_order_in_which_they_were_said() {
    let house = House::open(&[guest("hostile")]).await;
    let count = 300;
    let events = events(&house, misbehave("order", "partials", count)).await;
    let sequences: Vec<i64> = events.iter().map(|m| int(m, "sequence")).collect();
    assert_eq!(sequences, (0..events.len() as i64).collect::<Vec<_>>(), "from 0 and without a gap");
    let (mut pieces, mut statuses) = (0, 0);
    for event in &events {
        match kind(event) {
            "partial" => {
                let Data::Strings(text) = &response(event).outputs[0].data else { panic!("{event:?}") };
                assert_eq!(text[0], pieces.to_string(), "piece {pieces} is next");
                pieces += 1;
            }
            "status" => {
                // Said after piece n, so it comes after that and before the next.
                let progress = json_of(event)["progress"].as_f64().expect("a number");
                let after = (progress * count as f64).round() as i64;
                statuses += 1;
                assert_eq!(after, pieces - 1, "the status of piece {after} after {pieces} pieces");
            }
            "result" => {}
            other => panic!("a {other}: {event:?}"),
        }
    }
    assert_eq!(pieces, count, "no piece is dropped");
    assert_eq!(statuses, count, "what was said between two pieces comes between them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_for_the_final_event_gets_it_alone_and_as_number_0() {
    let house = House::open(&[guest("hostile")]).await;
    for (id, mode) in [("quiet-result", "partials"), ("quiet-error", "failed")] {
        let mut message = misbehave(id, mode, 5);
        message.properties.set("events", HeaderValue::Text("final".into()));
        let events = events(&house, message).await;
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(int(&events[0], "sequence"), 0, "{events:?}");
    }
    let seen = house.run(hostile("partials", 5).final_only()).await;
    assert_eq!(seen.events.len(), 1, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_go_to_a_queue_or_to_an_exchange_with_a_key_or_to_the_shared_queue() {
    let house = House::with(&[guest("hostile")], |c| c.responses_queue = "warren.responses".into()).await;
    let mut plain = Inbox::open(&house.broker, "plain").await;
    let mut keyed = Inbox::open(&house.broker, "keyed").await;
    let mut shared = Inbox::open(&house.broker, "warren.responses").await;
    house
        .broker
        .declare_exchange(&ExchangeSpec::new("answers", ExchangeKind::Direct))
        .await
        .expect("declares");
    house.broker.bind("keyed", "answers", "to/me").await.expect("binds");
    house.publish(reply_to(misbehave("to-plain", "partials", 1), "plain")).await;
    // As Spring reads it: the exchange ends at the first slash.
    house.publish(reply_to(misbehave("to-keyed", "partials", 1), "answers/to/me")).await;
    house.publish(misbehave("to-shared", "partials", 1)).await;
    for (inbox, id) in [(&mut plain, "to-plain"), (&mut keyed, "to-keyed"), (&mut shared, "to-shared")] {
        let events = inbox.until_final().await;
        let kinds: Vec<&str> = events.iter().map(kind).collect();
        assert_eq!(kinds, ["partial", "status", "result"], "{events:?}");
        assert!(events.iter().all(|m| m.properties.text("job") == Some(id)), "{events:?}");
    }
    house.quiet().await;
    for inbox in [&mut plain, &mut keyed, &mut shared] {
        assert_eq!(inbox.arrived(), [], "in {}", inbox.queue);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_job_is_named_by_correlation_id_or_body_id_or_a_fresh_one() {
    let house = House::open(&[guest("echo")]).await;
    let mut inbox = Inbox::open(&house.broker, "names").await;
    let message = |correlation_id: Option<&str>, body: &'static str| {
        let mut message = reply_to(job("echo", "", body), "names");
        message.properties.correlation_id = correlation_id.map(str::to_owned);
        message
    };
    let mut fresh = Vec::new();
    for (message, name) in [
        (message(Some("outer"), r#"{"id": "inner", "inputs": []}"#), Some("outer")),
        (message(None, r#"{"id": "inner", "inputs": []}"#), Some("inner")),
        (message(Some(""), r#"{"id": "inner", "inputs": []}"#), Some("inner")),
        (message(None, r#"{"inputs": []}"#), None),
        (message(None, r#"{"inputs": []}"#), None),
        (message(None, "no JSON"), None),
    ] {
        house.publish(message).await;
        let last = inbox.until_final().await.pop().expect("one");
        let found = last.properties.text("job").expect("a job id").to_owned();
        assert_eq!(last.properties.correlation_id.as_deref(), Some(found.as_str()));
        match name {
            Some(name) => assert_eq!(found, name),
            None => fresh.push(found),
        }
    }
    fresh.sort_unstable();
    fresh.dedup();
    assert!(fresh.len() == 3 && fresh.iter().all(|id| id.len() >= 32), "three ids of their own: {fresh:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_is_binary_when_asked_for_and_when_json_has_no_form_for_it() {
    let house = House::open(&[guest("hostile"), guest("echo")]).await;
    let tensor = json!({"name": "x", "datatype": "FP32", "shape": [2], "data": [0.5, 1.5]});
    let asked = json!({"inputs": [tensor], "parameters": {"binary_data_output": true}});
    let one = json!({"inputs": [tensor], "outputs": [{"name": "x", "parameters": {"binary_data": true}}]});
    for (id, body, binary) in
        [("plain", json!({"inputs": [tensor]}), false), ("asked", asked, true), ("asked-for-one", one, true)]
    {
        let last = events(&house, job("echo", id, body.to_string())).await.pop().expect("one");
        let length = last.properties.int("inference-header-content-length");
        let content_type = last.properties.content_type.as_deref();
        assert_eq!(length.is_some(), binary, "{last:?}");
        assert_eq!(content_type, Some(if binary { "application/octet-stream" } else { "application/json" }));
        assert_eq!(response(&last).output("x").and_then(|t| t.to_fp32()), Some(vec![0.5, 1.5]), "{last:?}");
    }
    let last = events(&house, misbehave("nan", "nan", 0)).await.pop().expect("one");
    assert!(last.properties.int("inference-header-content-length").is_some(), "{last:?}");
    let values = response(&last).output("nan").and_then(|t| t.to_fp32()).expect("a tensor");
    assert!(values[0].is_nan() && values[1] == 1.0, "{values:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_outputs_that_were_asked_for_are_returned() {
    let house = House::open(&[guest("echo")]).await;
    let request = || JobRequest::new("echo").bytes("a", "1").bytes("b", "2").bytes("c", "3");
    let names = |seen: &warren_tests::Seen| -> Vec<String> {
        let response = seen.end().unwrap_or_else(|e| panic!("{e}"));
        response.outputs.iter().map(|o| o.name.clone()).collect()
    };
    assert_eq!(names(&house.run(request()).await), ["a", "b", "c"]);
    assert_eq!(names(&house.run(request().output("c").output("a")).await), ["a", "c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_nobody_takes_is_kept_as_a_dead_letter() {
    let house = House::open(&[guest("echo")]).await;
    let answers = ExchangeSpec::new("answers", ExchangeKind::Direct);
    house.broker.declare_exchange(&answers).await.expect("declares");
    let body = r#"{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["precious"]}]}"#;
    for (id, address) in [("no-queue", "gone"), ("no-exchange", "gone/key"), ("no-binding", "answers/gone")] {
        house.publish(reply_to(job("echo", id, body), address)).await;
        house.quiet().await;
        let letters = house.dead_letters().await;
        let [letter] = letters.as_slice() else { panic!("{address}: {letters:?}") };
        let header = |name| letter.properties.text(name).unwrap_or("none").to_owned();
        assert_eq!(header("code"), "REPLY_UNROUTABLE", "{letter:?}");
        assert_eq!((header("reply-to"), header("job")), (address.to_owned(), id.to_owned()), "{letter:?}");
        assert!(header("reason").contains(address), "{letter:?}");
        let kept = response(letter);
        let text = Data::Strings(vec![Bytes::from_static(b"precious")]);
        assert_eq!(kept.output("text").map(|t| &t.data), Some(&text), "{letter:?}");
        // One delivery was enough: the attempt that succeeded is the first.
        assert_eq!(int(letter, "attempt"), 1, "{letter:?}");
        house.answers(address).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_context_is_handed_on_with_every_event() {
    let house = House::open(&[guest("hostile")]).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut message = misbehave("traced", "partials", 2);
    message.properties.set("traceparent", HeaderValue::Text(trace.into()));
    for event in events(&house, message).await {
        assert_eq!(event.properties.text("traceparent"), Some(trace), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_event_names_code_and_text_and_no_header_starts_with_x() {
    let house = House::open(&[guest("hostile")]).await;
    // Through a retry tier, where the broker adds headers of its own.
    let all = events(&house, misbehave("tried", "retry", 0)).await;
    let last = all.last().expect("one");
    assert_eq!(error(last).0, "RETRIES_EXHAUSTED");
    for event in &all {
        assert!(event.properties.headers.iter().all(|(name, _)| !name.starts_with("x-")), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hosts_own_queues_and_exchanges_are_no_reply_addresses() {
    let house = House::with(&[guest("echo")], |c| c.responses_queue = "warren.responses".into()).await;
    let mut shared = Inbox::open(&house.broker, "warren.responses").await;
    let body = r#"{"inputs": []}"#;
    for address in
        ["warren.jobs/echo", "warren.jobs.echo", "warren.control/", "warren.dead", "warren.retry.20/"]
    {
        house.publish(reply_to(job("echo", address, body), address)).await;
        let events = shared.until_final().await;
        let [refused] = events.as_slice() else { panic!("{address}: {events:?}") };
        assert_eq!(refused.properties.text("code"), Some("BAD_REQUEST"), "{refused:?}");
        let text = String::from_utf8_lossy(&refused.body);
        assert!(text.contains("reply_to") && text.contains(address), "{text}");
        assert_eq!(refused.properties.text("job"), Some(address), "{refused:?}");
    }
    house.quiet().await;
    assert_eq!(house.dead_letters().await, []);
}
