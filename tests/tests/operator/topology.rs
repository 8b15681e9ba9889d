//! `warren topology export` into a real node, and `check` against it.

use std::collections::BTreeSet;

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties, ExchangeKind};

use super::*;

fn queues(vhost: &str) -> BTreeSet<String> {
    let listed = tokio::task::block_in_place(|| {
        shared().ctl(&["list_queues", "-p", vhost, "name", "--no-table-headers"])
    });
    listed.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_is_imported_and_is_what_hosts_want() {
    let scene = Scene::set("exported").await;
    // Nothing is there, and looking makes nothing.
    let ran = scene.run(&["topology", "check", "echo"]).await;
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    assert!(ran.out.contains("queue warren.jobs.echo: not there"), "{ran:?}");
    assert!(queues("exported").is_empty(), "{:?}", queues("exported"));

    let file = scene.plugins.path().join("definitions.json");
    scene.ok(&["topology", "export", "--rabbitmq", "3.10", "--output", path(&file)]).await;
    tokio::task::block_in_place(|| shared().ctl(&["import_definitions", path(&file)]));
    let made = queues("exported");
    for queue in ["warren.dead", "warren.responses", "warren.jobs.echo", "warren.jobs.patient.urgent"] {
        assert!(made.contains(queue), "{queue} is not among {made:?}");
    }
    let policies = tokio::task::block_in_place(|| {
        shared().ctl(&["list_queues", "-p", "exported", "name", "policy", "--no-table-headers"])
    });
    for line in policies.lines().filter(|line| !line.trim().is_empty()) {
        assert!(line.contains("\twarren-"), "no policy: {line:?}");
    }
    let said = scene.ok(&["topology", "check"]).await;
    assert!(said.contains("as hosts want them"), "{said}");
    let json: Value = serde_json::from_str(&scene.ok(&["topology", "check", "--json"]).await).expect("JSON");
    assert_eq!(json, serde_json::json!({ "ok": true, "differences": [] }));

    // A host finds no conflict, makes nothing but its own control queue, and serves.
    let _host = scene.host(&[]).await;
    let more: Vec<String> = queues("exported").difference(&made).cloned().collect();
    assert!(more.len() == 1 && more[0].starts_with("warren.control."), "{more:?}");
    assert!(scene.ok(&["submit", "echo", "-i", "text=hello"]).await.contains("hello"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_difference_is_named_with_both_values_and_nothing_is_changed() {
    let scene = Scene::set("different").await;
    let connection =
        Connection::connect(&scene.address, ConnectionProperties::default()).await.expect("connects");
    let channel = connection.create_channel().await.expect("a channel");
    let quorum = ("x-queue-type", AMQPValue::LongString("quorum".into()));
    let queue = async |name: &str, durable: bool, arguments: &[(&str, AMQPValue)]| {
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            table.insert((*name).into(), value.clone());
        }
        let options = QueueDeclareOptions { durable, ..QueueDeclareOptions::default() };
        channel.queue_declare(name.into(), options, table).await.expect("declared");
    };
    let text = |text: &str| AMQPValue::LongString(text.into());
    let number = |n: i64| AMQPValue::LongLongInt(n);
    queue("warren.dead", true, &[quorum.clone(), ("x-delivery-limit", number(5))]).await;
    queue("warren.responses", true, &[]).await;
    queue(
        "warren.jobs.echo",
        true,
        &[
            quorum.clone(),
            ("x-delivery-limit", number(20)),
            ("x-dead-letter-exchange", text("elsewhere")),
            ("x-dead-letter-strategy", text("at-least-once")),
            ("x-overflow", text("reject-publish")),
            ("x-max-length", number(10)),
        ],
    )
    .await;
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    for (name, kind) in [("warren.jobs", ExchangeKind::Direct), ("warren.control", ExchangeKind::Fanout)] {
        channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await.expect("declared");
    }
    let before = queues("different");

    let ran = scene.run(&["topology", "check", "echo"]).await;
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    for line in [
        "exchange warren.jobs: type is direct, wanted topic",
        "exchange warren.jobs: alternate-exchange is none, wanted warren.unserved",
        "queue warren.dead: x-delivery-limit is 5, wanted 1000000",
        "queue warren.responses: x-queue-type is none, wanted quorum",
        "queue warren.jobs.echo: x-dead-letter-exchange is elsewhere, wanted warren.undone",
        "queue warren.jobs.echo: x-max-length is 10, wanted none",
        "queue warren.jobs.echo.bulk: not there",
    ] {
        assert!(ran.out.lines().any(|l| l.starts_with(line)), "{line:?} is not in\n{}", ran.out);
    }
    // What is as wanted is not named.
    assert!(!ran.out.contains("warren.control"), "{}", ran.out);
    assert!(!ran.out.contains("queue warren.jobs.echo: x-delivery-limit"), "{}", ran.out);

    let json = scene.run(&["topology", "check", "echo", "--json"]).await;
    let json: Value = serde_json::from_str(&json.out).expect("JSON");
    let expected = serde_json::json!({ "what": "queue", "name": "warren.jobs.echo", "missing": false,
        "argument": "x-max-length", "found": "10", "wanted": "none" });
    let all = json["differences"].as_array().expect("a list");
    assert!(all.contains(&expected) && json["ok"] == false, "{json:#}");
    assert_eq!(all.len(), ran.out.lines().count() - 1, "{json:#}\n{}", ran.out);
    assert_eq!(queues("different"), before, "looking changed something");

    // A host says the same of the first that it meets, and does not start.
    for (name, argument, found, wanted) in
        [("warren.jobs", "type", "direct", "topic"), ("warren.dead", "x-delivery-limit", "5", "1000000")]
    {
        let mut host = Process::start(&scene.address, scene.plugins.path(), &[]);
        assert_eq!(host.ended(PATIENCE).await.code(), Some(1));
        let log = host.log();
        let said = format!("{name:?} exists with {argument} = {found}, and {wanted} is wanted");
        assert!(log.contains(&said), "{said:?} is not in\n{log}");
        let options = lapin::options::ExchangeDeleteOptions::default();
        channel.exchange_delete("warren.jobs".into(), options).await.expect("deleted");
    }
}
