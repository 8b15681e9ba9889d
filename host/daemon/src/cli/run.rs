//! `warren run`: one job on the embedded broker, through the whole host.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use warren::broker::client::BrokerTransport;
use warren::broker::embedded::Embedded;
use warren::host::Host;
use warren_client::{Client, EventBody};

use super::Settings;
use super::render::Render;
use super::request::{self, Request};

#[derive(clap::Args)]
pub struct Args {
    /// The plugin's folder.
    folder: PathBuf,
    /// The model to ask for; the plugin's first without it.
    #[arg(long)]
    model: Option<String>,
    #[command(flatten)]
    request: Request,
    /// Where outputs that leave by reference are written.
    #[arg(long, default_value = "warren-out")]
    output_dir: PathBuf,
    /// Print events as JSON lines.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Runs the job; true when it ended in a result.
pub async fn run(args: Args) -> anyhow::Result<bool> {
    let mut config = args.settings.load()?;
    let (manifest, _) = warren::plugin::manifest::Manifest::read(&args.folder)?;
    let Some(model) = manifest.models.first() else { bail!("the plugin serves no model") };
    let (job, roots) = request::request(&args.request, args.model.as_deref().unwrap_or(model))?;
    std::fs::create_dir_all(&args.output_dir)
        .with_context(|| format!("cannot create --output-dir {}", args.output_dir.display()))?;
    config.artifacts.write = Some(args.output_dir.clone());
    config.artifacts.read.extend(roots);
    // Nobody comes back to a one-shot host for a second attempt after a minute.
    config.retry_delays_ms = vec![100, 1_000];
    let broker = Embedded::new();
    let host = Host::new(config, Arc::new(broker.connect()))?;
    host.load(&args.folder).await?;
    host.serve().await?;
    let client = Client::connect(Arc::new(BrokerTransport::new(Arc::new(broker.connect())))).await?;
    let mut handle = client.submit(job).await?;
    let mut render = Render::new(args.json);
    let mut succeeded = false;
    while let Some(event) = handle.next().await {
        let event = event?;
        succeeded = matches!(event.body, EventBody::Result(_));
        render.show(handle.id(), &event)?;
    }
    host.shutdown().await;
    Ok(succeeded)
}
