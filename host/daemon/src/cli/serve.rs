//! `warren serve`: the plugins of a directory, until SIGTERM or Ctrl-C. With the embedded broker
//! jobs come as JSON lines on standard input, and events leave as JSON lines on standard output.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::TaskTracker;
use warren::broker::client::BrokerTransport;
use warren::broker::embedded::Embedded;
use warren::host::Host;
use warren_client::oip::InferRequest;
use warren_client::{Client, ClientError, JobRequest};

use super::Settings;
use super::render::Render;

#[derive(clap::Args)]
pub struct Args {
    /// The directory whose sub-folders are plugins.
    plugins: Option<PathBuf>,
    /// Where outputs that leave by reference are written.
    #[arg(long)]
    output_dir: Option<PathBuf>,
    /// A directory from which `file://` references may be read; may be repeated.
    #[arg(long = "input-dir")]
    input_dirs: Vec<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// The part of a line that is not the request itself.
#[derive(Deserialize)]
struct Line {
    model: String,
}

/// Serves until told to stop; true when every running job could finish.
pub async fn serve(args: Args) -> anyhow::Result<bool> {
    let mut config = args.settings.load()?;
    if let Some(plugins) = args.plugins {
        config.plugins = plugins;
    }
    if let Some(dir) = args.output_dir {
        config.artifacts.write = Some(dir);
    }
    config.artifacts.read.extend(args.input_dirs);
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let broker = Embedded::new();
    let slots = config.slot_count();
    let host = Host::new(config, Arc::new(broker.connect()))?;
    for (folder, loaded) in host.load_all().await? {
        match loaded {
            Ok(plugin) => eprintln!("serving {} for {:?}", plugin.identity.plugin, plugin.manifest.models),
            Err(error) => eprintln!("not serving {}: {error}", folder.display()),
        }
    }
    host.serve().await?;
    eprintln!(
        "embedded broker: in memory, jobs are lost with the process. {slots} slots. One request a line on standard \
         input: {{\"model\": \"…\", \"inputs\": […]}}; events leave on standard output. Ctrl-C ends."
    );
    let client = Client::connect(Arc::new(BrokerTransport::new(Arc::new(broker.connect())))).await?;
    let jobs = TaskTracker::new();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            line = lines.next_line() => match line.context("cannot read standard input")? {
                Some(line) if line.trim().is_empty() => {}
                Some(line) => submit(&client, &jobs, line).await,
                // The input has ended: what was asked for is done, then so are we.
                None => {
                    jobs.close();
                    tokio::select! {
                        () = jobs.wait() => break,
                        _ = terminate.recv() => break,
                        _ = tokio::signal::ctrl_c() => break,
                    }
                }
            },
            _ = terminate.recv() => break,
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    eprintln!("stopping");
    Ok(host.shutdown().await)
}

/// Submits one line and follows its job. A line that is no request is answered on standard error;
/// it harms no other.
async fn submit(client: &Client, jobs: &TaskTracker, line: String) {
    let job = match parse(line) {
        Ok(job) => job,
        Err(error) => return eprintln!("not a request: {error:#}"),
    };
    match client.submit(job).await {
        Ok(mut handle) => {
            jobs.spawn(async move {
                let mut render = Render::new(true);
                while let Some(event) = handle.next().await {
                    let shown: Result<(), ClientError> = match event {
                        Ok(event) => {
                            if let Err(error) = render.show(handle.id(), &event) {
                                eprintln!("cannot write standard output: {error}");
                            }
                            Ok(())
                        }
                        Err(error) => Err(error),
                    };
                    if let Err(error) = shown {
                        eprintln!("job {}: {error}", handle.id());
                    }
                }
            });
        }
        Err(error) => eprintln!("not submitted: {error}"),
    }
}

fn parse(line: String) -> anyhow::Result<JobRequest> {
    let model = serde_json::from_str::<Line>(&line)?.model;
    let request = InferRequest::decode(&Bytes::from(line), None, None)?;
    let mut job = JobRequest::new(model);
    if let Some(id) = request.id {
        job = job.id(id);
    }
    for tensor in request.inputs {
        job = job.input(tensor);
    }
    for (name, value) in request.parameters.iter() {
        job = job.parameter(name.clone(), value.clone());
    }
    for output in request.outputs {
        job = job.output(output.name);
    }
    Ok(job)
}
