//! `warren topology`: what hosts need on their broker, as a file for it (`export`), and what is there
//! against it (`check`).

use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Value, json};
use warren::broker::rabbitmq::{self, Argument, exchange_arguments, queue_arguments};
use warren::broker::{BrokerError, Difference, ExchangeKind};
use warren::config::Config;
use warren::topology::{self, DELIVERY_LIMIT, KEPT_LIMIT, Topology};

use super::remote::{Target, models};

/// RabbitMQ waits this long for an acknowledgement unless it is told otherwise, ms.
const CONSUMER_TIMEOUT: u64 = 1_800_000;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Write a RabbitMQ definitions file, for `rabbitmqctl import_definitions`.
    Export {
        /// The broker's version.
        #[arg(long, value_enum)]
        rabbitmq: Version,
        /// The vhost; that of the broker's address without it.
        #[arg(long)]
        vhost: Option<String>,
        /// Write it here, not to standard output.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Models that will be served; those of the plugin directory without.
        models: Vec<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Compare what hosts need with what is on a running broker. Changes nothing there.
    Check {
        /// Models that are to be served; those of the plugin directory without.
        models: Vec<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        target: Target,
    },
}

/// Versions of RabbitMQ that want different definitions.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Version {
    /// 3.10 to 3.13.
    #[value(name = "3.10")]
    Three,
    /// 4.0 and later.
    #[value(name = "4")]
    Four,
}

/// Everything that hosts with these plugins need.
fn wanted(config: &Config, models: &[String]) -> Topology {
    let mut all = topology::common(config);
    for model in models {
        let Topology { exchanges, queues, bindings } = topology::of_model(model);
        all.exchanges.extend(exchanges);
        all.queues.extend(queues);
        all.bindings.extend(bindings);
    }
    all
}

/// Runs the command.
pub async fn topology(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Export { rabbitmq, vhost, output, models: named, target } => {
            let config = target.load()?;
            let models = models(&config, &named)?;
            let vhost = match vhost {
                Some(vhost) => vhost,
                None => config.addresses().first().and_then(|a| rabbitmq::vhost(a)).unwrap_or("/".to_owned()),
            };
            let definitions = definitions(&config, &wanted(&config, &models), &vhost, rabbitmq);
            match output {
                Some(path) => std::fs::write(&path, format!("{definitions:#}\n"))
                    .with_context(|| format!("cannot write {}", path.display()))?,
                None => println!("{definitions:#}"),
            }
            eprintln!("for vhost {vhost:?} and models {models:?}: rabbitmqctl import_definitions FILE");
            Ok(true)
        }
        Command::Check { models: named, json, target } => check(&named, json, &target).await,
    }
}

fn arguments(all: &[(&str, Argument)]) -> Value {
    let value = |argument: &Argument| match argument {
        Argument::Text(text) => json!(text),
        Argument::Number(n) => json!(n),
    };
    Value::Object(all.iter().map(|(name, argument)| ((*name).to_owned(), value(argument))).collect())
}

fn definitions(config: &Config, topology: &Topology, vhost: &str, version: Version) -> Value {
    let exchanges: Value = topology
        .exchanges
        .iter()
        .map(|exchange| {
            let kind = match exchange.kind {
                ExchangeKind::Topic => "topic",
                ExchangeKind::Fanout => "fanout",
                ExchangeKind::Direct => "direct",
            };
            json!({ "vhost": vhost, "name": exchange.name, "type": kind, "durable": true, "auto_delete": false,
                "internal": false, "arguments": arguments(&exchange_arguments(exchange)) })
        })
        .collect();
    let queues: Value = topology
        .queues
        .iter()
        .map(|queue| {
            json!({ "vhost": vhost, "name": queue.name, "durable": true, "auto_delete": false,
                "arguments": arguments(&queue_arguments(queue)) })
        })
        .collect();
    let bindings: Value = topology
        .bindings
        .iter()
        .map(|binding| {
            json!({ "vhost": vhost, "source": binding.exchange, "destination": binding.queue,
                "destination_type": "queue", "routing_key": binding.key, "arguments": {} })
        })
        .collect();
    json!({
        "vhosts": [{ "name": vhost }], "policies": policies(config, vhost, version), "exchanges": exchanges,
        "queues": queues, "bindings": bindings,
    })
}

/// What arguments do not say, or what an operator may want to change while queues exist. Where a
/// queue's argument and a policy both set a limit, RabbitMQ takes the smaller.
fn policies(config: &Config, vhost: &str, version: Version) -> Value {
    let apply_to = match version {
        Version::Three => "queues",
        Version::Four => "quorum_queues",
    };
    let policy = |name: &str, pattern: &str, mut definition: Value| {
        // Else every queue is led by the node on which it was declared.
        definition["queue-leader-locator"] = json!("balanced");
        json!({ "vhost": vhost, "name": name, "pattern": pattern, "apply-to": apply_to, "priority": 0,
            "definition": definition })
    };
    // At least once needs both.
    let safe = json!({ "dead-letter-strategy": "at-least-once", "overflow": "reject-publish" });
    let mut work = safe.clone();
    work["delivery-limit"] = json!(DELIVERY_LIMIT);
    // A job waits for a slot and then runs: as long again as the longest. 3.10 takes it for a whole
    // node only (`consumer_timeout` in rabbitmq.conf).
    let timeout = config.limits.wall_ms.saturating_mul(2);
    if version == Version::Four && timeout > CONSUMER_TIMEOUT {
        work["consumer-timeout"] = json!(timeout);
    }
    let responses = escaped(&config.responses_queue);
    json!([
        policy("warren-work", r"^warren\.(jobs|isolated)\.", work),
        policy("warren-wait", r"^warren\.(retry\..*|unserved)$", safe),
        // 4.x drops a message of a queue without a limit after 20 looks at it, for each is a delivery.
        policy(
            "warren-keep",
            &format!(r"^(warren\.dead|warren\.undone|{responses})$"),
            json!({ "delivery-limit": KEPT_LIMIT })
        ),
    ])
}

/// A name as a regular expression.
fn escaped(name: &str) -> String {
    let mut pattern = String::with_capacity(name.len());
    for c in name.chars() {
        if !c.is_alphanumeric() && c != '-' && c != '_' {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

/// One thing that is not as wanted.
struct Finding {
    what: &'static str,
    name: String,
    /// How it differs; nothing of what is not there.
    difference: Option<Difference>,
}

fn findings(
    what: &'static str,
    name: &str,
    compared: Result<Vec<Difference>, BrokerError>,
) -> Result<Vec<Finding>, BrokerError> {
    let finding = |difference| Finding { what, name: name.to_owned(), difference };
    match compared {
        Ok(differences) => Ok(differences.into_iter().map(|d| finding(Some(d))).collect()),
        Err(BrokerError::NotFound { .. }) => Ok(vec![finding(None)]),
        Err(error) => Err(error),
    }
}

async fn check(named: &[String], json: bool, target: &Target) -> anyhow::Result<bool> {
    let (config, broker) = target.connect().await?;
    let wanted = wanted(&config, &models(&config, named)?);
    let mut found = Vec::new();
    for exchange in &wanted.exchanges {
        let compared = broker.compare_exchange(exchange).await;
        found.extend(findings("exchange", &exchange.name, compared)?);
    }
    for queue in &wanted.queues {
        found.extend(findings("queue", &queue.name, broker.compare_queue(queue).await)?);
    }
    if json {
        let all: Vec<Value> = found
            .iter()
            .map(|Finding { what, name, difference }| match difference {
                None => json!({ "what": what, "name": name, "missing": true }),
                Some(Difference { argument, found, wanted }) => {
                    json!({ "what": what, "name": name, "missing": false, "argument": argument,
                        "found": found, "wanted": wanted })
                }
            })
            .collect();
        println!("{:#}", json!({ "ok": all.is_empty(), "differences": all }));
        return Ok(all.is_empty());
    }
    for Finding { what, name, difference } in &found {
        match difference {
            None => println!("{what} {name}: not there; hosts make it when they start"),
            Some(Difference { argument, found, wanted }) => {
                println!("{what} {name}: {argument} is {found}, wanted {wanted}");
            }
        }
    }
    let (exchanges, queues) = (wanted.exchanges.len(), wanted.queues.len());
    if found.is_empty() {
        println!("{exchanges} exchanges and {queues} queues are as hosts want them");
    } else {
        println!(
            "{} differences. An argument changes only with a new queue: drain it and delete it",
            found.len()
        );
    }
    eprintln!("Bindings and policies cannot be seen over AMQP; hosts make the bindings when they start.");
    Ok(found.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_binding_joins_what_is_defined_and_every_queue_has_one_policy() {
        let config = Config { responses_queue: "answers+1".to_owned(), ..Config::default() };
        for version in [Version::Three, Version::Four] {
            let all = definitions(&config, &wanted(&config, &["echo".to_owned()]), "v", version);
            let names = |key: &str| -> Vec<String> {
                let list = all[key].as_array().unwrap();
                list.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
            };
            let (exchanges, queues) = (names("exchanges"), names("queues"));
            assert!(queues.contains(&"warren.jobs.echo.urgent".to_owned()), "{queues:?}");
            for binding in all["bindings"].as_array().unwrap() {
                assert!(exchanges.contains(&binding["source"].as_str().unwrap().to_owned()), "{binding}");
                assert!(queues.contains(&binding["destination"].as_str().unwrap().to_owned()), "{binding}");
            }
            // A limit that drops nothing silently, on every queue.
            for queue in all["queues"].as_array().unwrap() {
                let arguments = &queue["arguments"];
                assert_eq!(arguments["x-queue-type"], "quorum", "{queue}");
                assert_ne!(arguments["x-delivery-limit"], -1, "{queue}");
                let strategy = arguments.get("x-dead-letter-strategy").is_some();
                assert_eq!(strategy, arguments.get("x-dead-letter-exchange").is_some(), "{queue}");
                assert!(!strategy || arguments["x-overflow"] == "reject-publish", "{queue}");
            }
            let policies = all["policies"].as_array().unwrap();
            let timeout = &policies[0]["definition"]["consumer-timeout"];
            assert_eq!(timeout.is_null(), version == Version::Three, "{timeout}");
            assert!(policies[2]["pattern"].as_str().unwrap().contains(r"answers\+1"), "{}", policies[2]);
        }
    }
}
