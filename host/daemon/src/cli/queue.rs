//! `warren queue`: how much is in the queues, and how fast that changes.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use warren::broker::{Broker, BrokerError};
use warren::topology;

use super::remote::{Target, models};

#[derive(clap::Args)]
pub struct Queue {
    /// Models whose queues to show, beside the hosts' own; those of the plugin directory without.
    models: Vec<String>,
    /// Show them again and again until Ctrl-C.
    #[arg(long)]
    watch: bool,
    /// Between two looks; 0s looks once and tells no rates.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    every: Duration,
    /// Print JSON, with --watch one line each time.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// One queue at one time; nothing of one that is not there.
struct Row {
    name: String,
    ready: Option<u64>,
    consumers: Option<u64>,
    /// Messages a second more, or less, since the look before.
    change: Option<f64>,
}

/// Shows the queues.
pub async fn queue(args: Queue) -> anyhow::Result<bool> {
    let (config, broker) = args.target.connect().await?;
    let models = match models(&config, &args.models) {
        Ok(models) => models,
        Err(error) => {
            tracing::info!("only the hosts' own queues: {error:#}");
            Vec::new()
        }
    };
    let mut queues = topology::common(&config).queues;
    for model in &models {
        queues.extend(topology::of_model(model).queues);
    }
    let names: Vec<String> = queues.into_iter().map(|queue| queue.name).collect();
    let mut before = look(&broker, &names, None).await?;
    if args.every.is_zero() && !args.watch {
        return print(&args, &before.1).map(|()| true);
    }
    loop {
        tokio::select! {
            () = tokio::time::sleep(args.every) => {}
            _ = tokio::signal::ctrl_c() => return Ok(true),
        }
        let now = look(&broker, &names, Some(&before)).await?;
        print(&args, &now.1)?;
        if !args.watch {
            return Ok(true);
        }
        before = now;
    }
}

type Look = (Instant, Vec<Row>);

async fn look(broker: &Arc<dyn Broker>, names: &[String], before: Option<&Look>) -> anyhow::Result<Look> {
    let now = Instant::now();
    let mut rows = Vec::with_capacity(names.len());
    for (place, name) in names.iter().enumerate() {
        let name = name.clone();
        let ready = match broker.depth(&name).await {
            Ok(depth) => Some(depth.ready),
            Err(BrokerError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let consumers = match broker.consumers(&name).await {
            Ok(consumers) => consumers,
            Err(BrokerError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let earlier = before.and_then(|(at, rows)| Some((now - *at, rows.get(place)?.ready?)));
        let change = match (ready, earlier) {
            (Some(ready), Some((time, earlier))) if !time.is_zero() => {
                Some((ready as f64 - earlier as f64) / time.as_secs_f64())
            }
            _ => None,
        };
        rows.push(Row { name, ready, consumers, change });
    }
    Ok((now, rows))
}

fn print(args: &Queue, rows: &[Row]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if args.json {
        let all: Value = rows
            .iter()
            .map(|row| {
                json!({ "queue": row.name, "exists": row.ready.is_some(), "ready": row.ready,
                    "consumers": row.consumers, "change_per_second": row.change })
            })
            .collect();
        if args.watch {
            writeln!(out, "{all}")?
        } else {
            writeln!(out, "{all:#}")?
        }
        return Ok(());
    }
    if args.watch && out.is_terminal() {
        // Clears the screen and goes to its top.
        write!(out, "\x1b[2J\x1b[H")?;
    }
    writeln!(out, "{:>9} {:>10} {:>9}  queue", "ready", "change/s", "consumers")?;
    let number = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    for row in rows {
        let change = row.change.map_or_else(|| "-".to_owned(), |change| format!("{change:+.1}"));
        let missing = if row.ready.is_none() { "  (not there)" } else { "" };
        let (ready, consumers) = (number(row.ready), number(row.consumers));
        writeln!(out, "{ready:>9} {change:>10} {consumers:>9}  {}{missing}", row.name)?;
    }
    out.flush()?;
    Ok(())
}
