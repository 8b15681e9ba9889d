//! What many models cost on RabbitMQ: each has four quorum queues, and the host a subscription to each.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use warren::broker::client::BrokerTransport;
use warren::broker::rabbitmq::{Options, RabbitMq};
use warren::host::Host;
use warren_client::{Client, JobRequest};
use warren_tests::rabbitmq::Node;

use super::{Held, config, guests, median, ms, quantile, row};

/// More than one connection has channels for.
const MODELS: usize = 600;
/// Models of a plugin: only their queues matter here.
const OF_ONE: usize = 50;

fn folder(plugins: &Path, number: usize, models: &[String]) -> Result<()> {
    let folder = plugins.join(format!("p{number}"));
    std::fs::create_dir(&folder)?;
    let manifest = std::fs::read_to_string(guests().join("noop/plugin.toml"))?;
    let manifest = manifest.replace("name = \"noop\"", &format!("name = \"p{number}\""));
    std::fs::write(folder.join("plugin.toml"), manifest.replace("[\"noop\"]", &format!("{models:?}")))?;
    std::fs::copy(guests().join("noop/noop.wasm"), folder.join("noop.wasm"))?;
    Ok(())
}

/// Connections and channels that the broker has.
fn counts(node: &Node) -> Result<(usize, usize)> {
    let lines = |text: String| text.lines().filter(|l| l.contains("running") || l.contains("CH")).count();
    let connections = lines(node.ctl(&["list_connections", "state", "--no-table-headers"]));
    let channels = node.ctl(&["list_channels", "pid", "--no-table-headers"]).lines().count();
    Ok((connections, channels))
}

pub async fn models() -> Result<()> {
    if !Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server").is_file() {
        println!("many models on RabbitMQ: left out, there is none (Debian: apt install rabbitmq-server)");
        return Ok(());
    }
    let node = Node::start("");
    let vhost = node.vhost("bench");
    let dir = tempfile::tempdir()?;
    let plugins = dir.path().join("plugins");
    std::fs::create_dir(&plugins)?;
    for number in 0..MODELS / OF_ONE {
        let models: Vec<String> = (0..OF_ONE).map(|m| format!("m{}", number * OF_ONE + m)).collect();
        folder(&plugins, number, &models)?;
    }
    let connect = async || {
        let options = Options { addresses: vec![vhost.clone()], ..Options::default() };
        RabbitMq::connect(options).await.context("no connection")
    };
    // The first host declares all queues, the second finds them there.
    for times in ["first", "next"] {
        let broker = Arc::new(connect().await?);
        let before = Held::now()?;
        let host = Host::new(config(&plugins, Some(dir.path().join("cache"))), broker.clone())?;
        host.load_all().await?;
        ensure!(host.plugins().models().len() == MODELS, "{:?}", host.plugins().refused());
        let start = Instant::now();
        host.serve().await?;
        let serving = start.elapsed();
        let after = Held::now()?;
        let (connections, channels) = counts(&node)?;
        let client = Client::connect(Arc::new(BrokerTransport::new(Arc::new(connect().await?)))).await?;
        let mut times_of_one = Vec::new();
        for number in 0..60 {
            let start = Instant::now();
            let request = JobRequest::new(format!("m{}", number * 7 % MODELS));
            client.submit(request).await?.result().await?;
            times_of_one.push(ms(start.elapsed()));
        }
        ensure!(broker.connects() == 2, "a connection was lost: {} were made", broker.connects());
        row(
            &format!("{MODELS} models on RabbitMQ, the {times} host: until all are consumed"),
            format!("{:.1} s", serving.as_secs_f64()),
            "",
        );
        row("  connections / channels, as the broker counts", format!("{connections} / {channels}"), "");
        row(
            "  the host's memory for a model",
            format!("{:.1} KiB", (after.resident_kib as f64 - before.resident_kib as f64) / MODELS as f64),
            "",
        );
        row(
            "  a job of one of them, alone: p50 / p99",
            format!("{:.1} / {:.1} ms", median(&times_of_one), quantile(&times_of_one, 0.99)),
            "",
        );
        host.shutdown().await;
        broker.finished(std::time::Duration::from_secs(60)).await;
    }
    Ok(())
}
