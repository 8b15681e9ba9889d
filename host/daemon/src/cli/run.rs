//! `warren run`: one job on the embedded broker, through the whole host.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use warren::artifacts::file_url;
use warren::broker::client::BrokerTransport;
use warren::broker::embedded::Embedded;
use warren::host::Host;
use warren_client::oip::{InferRequest, Parameter, Tensor};
use warren_client::{Client, EventBody, JobRequest};

use super::Settings;
use super::render::Render;

#[derive(clap::Args)]
pub struct Args {
    /// The plugin's folder.
    folder: PathBuf,
    /// An input: NAME=@FILE sends the file's bytes, NAME=ref:FILE names the file for the host to
    /// fetch, NAME=TEXT sends the text.
    #[arg(long = "input", short, value_name = "NAME=VALUE")]
    inputs: Vec<String>,
    /// A request-level parameter; numbers and true/false are recognised.
    #[arg(long = "parameter", short, value_name = "NAME=VALUE")]
    parameters: Vec<String>,
    /// A whole Open Inference Protocol v2 request as JSON, instead of --input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["inputs", "parameters"])]
    request: Option<PathBuf>,
    /// The model to ask for; the plugin's first without it.
    #[arg(long)]
    model: Option<String>,
    /// Time to live, ms.
    #[arg(long)]
    deadline_ms: Option<u64>,
    /// Where outputs that leave by reference are written.
    #[arg(long, default_value = "warren-out")]
    output_dir: PathBuf,
    /// Print events as JSON lines.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

fn pair(text: &str) -> anyhow::Result<(&str, &str)> {
    text.split_once('=').with_context(|| format!("{text:?}: use NAME=VALUE"))
}

fn parameter(text: &str) -> Parameter {
    match text {
        "true" => Parameter::Bool(true),
        "false" => Parameter::Bool(false),
        _ => match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(n), _) => Parameter::Int(n),
            (_, Ok(n)) if n.is_finite() => Parameter::Float(n),
            _ => Parameter::Text(text.to_owned()),
        },
    }
}

/// The job that the arguments describe, and the directories that its references need.
fn request(args: &Args, model: &str) -> anyhow::Result<(JobRequest, Vec<PathBuf>)> {
    let mut job = JobRequest::new(args.model.as_deref().unwrap_or(model));
    let mut roots = Vec::new();
    if let Some(ms) = args.deadline_ms {
        job = job.deadline(Duration::from_millis(ms));
    }
    if let Some(path) = &args.request {
        let body = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let request = InferRequest::decode(&body.into(), None, None)
            .with_context(|| format!("{}: not an Open Inference Protocol v2 request", path.display()))?;
        for tensor in request.inputs {
            job = job.input(tensor);
        }
        for (name, value) in request.parameters.iter() {
            job = job.parameter(name.clone(), value.clone());
        }
        for output in request.outputs {
            job = job.output(output.name);
        }
        return Ok((job, roots));
    }
    for input in &args.inputs {
        let (name, value) = pair(input)?;
        job = if let Some(file) = value.strip_prefix('@') {
            job.bytes(name, std::fs::read(file).with_context(|| format!("input {name}: cannot read {file}"))?)
        } else if let Some(file) = value.strip_prefix("ref:") {
            let path =
                Path::new(file).canonicalize().with_context(|| format!("input {name}: no file {file}"))?;
            ensure!(path.is_file(), "input {name}: {file} is not a file");
            roots.extend(path.parent().map(Path::to_owned));
            job.input(Tensor::reference(name, file_url(&path), None))
        } else {
            job.bytes(name, value.to_owned())
        };
    }
    for entry in &args.parameters {
        let (name, value) = pair(entry)?;
        job = job.parameter(name, parameter(value));
    }
    Ok((job, roots))
}

/// Runs the job; true when it ended in a result.
pub async fn run(args: Args) -> anyhow::Result<bool> {
    let mut config = args.settings.load()?;
    let manifest = warren::plugin::manifest::Manifest::read(&args.folder)?;
    let Some(model) = manifest.models.first() else { bail!("the plugin serves no model") };
    let (job, roots) = request(&args, model)?;
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
