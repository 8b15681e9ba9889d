//! What the commands against a running broker share: where it is, and which models are meant.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use warren::broker::{Broker, Consumer};
use warren::config::Config;
use warren::connect::Brokers;
use warren::plugin::manifest::{FILE_NAME, Manifest};

/// How long a broker that does not answer is tried: a person waits.
const STARTUP_MS: u64 = 10_000;

/// How long what is given back is looked for in its queue. Somebody else may have it.
const BACK: Duration = Duration::from_secs(2);

/// How long acknowledgements take to get from a channel into its queue, amply.
const SETTLING: Duration = Duration::from_millis(500);

/// How long what was settled may take to reach the broker.
const FLUSH: Duration = Duration::from_secs(10);

/// Which broker. A flag is stronger than the environment (`WARREN_BROKER`), that than the file.
#[derive(clap::Args, Serialize)]
pub struct Target {
    /// TOML config file.
    #[arg(long, env = "WARREN_CONFIG")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Addresses of a RabbitMQ: amqp://user:password@host:5672/vhost, separated by commas.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    broker: Option<String>,
    /// The plugin directory, for the models that it serves.
    #[arg(long, value_name = "FOLDER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    plugins: Option<PathBuf>,
}

impl Target {
    /// The config; the broker is not asked.
    pub fn load(&self) -> anyhow::Result<Config> {
        Ok(Config::load(self.config.as_deref(), self)?)
    }

    /// The config, and a connection to its broker.
    pub async fn connect(&self) -> anyhow::Result<(Config, Arc<dyn Broker>)> {
        let mut config = self.load()?;
        ensure!(
            !config.is_embedded(),
            "the embedded broker lives inside `warren serve` and `warren run`: name a RabbitMQ with --broker amqp://…"
        );
        config.amqp.startup_ms = config.amqp.startup_ms.min(STARTUP_MS);
        let broker = Brokers::new(&config)?.connect().await?;
        Ok((config, broker))
    }
}

/// Waits until the broker knows of all that was settled; the subscriptions must have been dropped.
pub async fn flush(broker: &Arc<dyn Broker>) -> anyhow::Result<()> {
    let told = broker.finished(FLUSH).await;
    ensure!(told, "the broker was not told of everything within {FLUSH:?}: look at the queue again");
    Ok(())
}

/// Ends subscriptions to a queue; each gives back that many messages. They go back in their order,
/// to the front, as long as everything that was given back before was taken, too: RabbitMQ puts what
/// is returned behind what was returned earlier.
pub async fn give_back(
    broker: &Arc<dyn Broker>,
    queue: &str,
    taken: Vec<(Consumer, usize)>,
    acknowledged: bool,
) -> anyhow::Result<()> {
    if acknowledged {
        // A channel that ends takes acknowledgements that are on their way with it.
        tokio::time::sleep(SETTLING).await;
    }
    let deadline = Instant::now() + BACK;
    for (consumer, count) in taken {
        let expected = broker.depth(queue).await?.ready + count as u64;
        drop(consumer);
        // The next ones behind these.
        while broker.depth(queue).await?.ready < expected && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    Ok(())
}

/// The models that were named, or else those of the plugin directory's manifests.
pub fn models(config: &Config, named: &[String]) -> anyhow::Result<Vec<String>> {
    if !named.is_empty() {
        return Ok(named.to_vec());
    }
    let folder = &config.plugins;
    let entries = std::fs::read_dir(folder).with_context(|| {
        format!(
            "cannot read the plugin directory {}: name models, or a directory with --plugins",
            folder.display()
        )
    })?;
    let mut models = Vec::new();
    for entry in entries {
        let plugin = entry?.path();
        if !plugin.join(FILE_NAME).is_file() {
            continue;
        }
        match Manifest::read(&plugin).map(|(manifest, _)| manifest) {
            Ok(manifest) => models.extend(manifest.models),
            Err(error) => eprintln!("left out {}: {error}", plugin.display()),
        }
    }
    models.sort_unstable();
    models.dedup();
    Ok(models)
}

/// A bar for work on that many messages; nothing is drawn where no terminal is.
pub fn progress(count: u64, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:32}] {pos}/{len}  {per_sec}  {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(count).with_style(style.progress_chars("=> ")).with_message(what)
}
