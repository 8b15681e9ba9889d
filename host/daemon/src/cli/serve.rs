//! `warren serve`: the plugins of a directory, until SIGTERM or Ctrl-C, on RabbitMQ or on the
//! embedded broker. With the latter jobs come as JSON lines on standard input, and events leave as
//! JSON lines on standard output.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use sd_notify::NotifyState;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use warren::broker::Broker;
use warren::broker::client::BrokerTransport;
use warren::config::Config;
use warren::connect::Brokers;
use warren::health::{self, Health, Parts, Phase};
use warren::host::Host;
use warren_client::oip::InferRequest;
use warren_client::{Client, ClientError, JobRequest};

use super::render::Render;
use super::service::{self, Stops};
use super::{Settings, admin};

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
    /// Answer probes (`/livez`, `/readyz`) over HTTP on this address, e.g. 0.0.0.0:8080.
    #[arg(long, value_name = "ADDRESS:PORT")]
    health: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

/// The part of a line that is not the request itself.
#[derive(Deserialize)]
struct Line {
    model: String,
}

/// How long what was settled may take to reach the broker at the end.
const FLUSH: Duration = Duration::from_secs(5);

/// Serves until told to stop. True when it ended as it should: what was running has finished, and
/// the broker has the rest back. False when a second signal cut it short, or when jobs are lost.
pub async fn serve(args: Args) -> anyhow::Result<bool> {
    let mut config = args.settings.load()?;
    if let Some(plugins) = args.plugins {
        config.plugins = plugins;
    }
    if let Some(dir) = args.output_dir {
        config.artifacts.write = Some(dir);
    }
    if args.health.is_some() {
        config.health.listen = args.health;
    }
    config.artifacts.read.extend(args.input_dirs);
    let mut stops = Stops::listen()?;
    let health = Health::default();
    if let Some(address) = &config.health.listen {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address} for probes: choose another --health"))?;
        eprintln!("probes: http://{}/livez and /readyz", listener.local_addr()?);
        tokio::spawn(health::serve(listener, health.clone()));
    }
    let brokers = Brokers::new(&config)?;
    let admin_socket = config.admin.clone().or_else(admin::default_path);
    let (slots, embedded, drain) = (config.slot_count(), config.is_embedded(), config.drain());
    let (host, broker) = tokio::select! {
        started = start(config, &brokers, &health) => started?,
        () = stops.next() => {
            eprintln!("stopped before the start was done: no job was taken");
            return Ok(true);
        }
    };
    tokio::spawn(service::watchdog(health.clone()));
    tokio::spawn(service::reload(args.settings, host.deployer()));
    if let Some(path) = admin_socket {
        match admin::listen(&path).await {
            Ok(listener) => drop(tokio::spawn(admin::serve(listener, host.deployer()))),
            // A second host of the same user serves all the same.
            Err(error) => eprintln!("no admin socket: {error:#}"),
        }
    }
    service::notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
    if embedded {
        eprintln!(
            "embedded broker: in memory, jobs are lost with the process. {slots} slots. One request a line on standard \
             input: {{\"model\": \"…\", \"inputs\": […]}}; events leave on standard output. Ctrl-C ends."
        );
        lines(&brokers, &mut stops).await?;
    } else {
        eprintln!("serving from RabbitMQ. {slots} slots. SIGTERM or Ctrl-C drains and ends.");
        stops.next().await;
    }
    health.enter(Phase::Draining);
    service::stopping(drain + FLUSH);
    eprintln!("stopping: running jobs have {drain:?} to finish, a second signal ends at once");
    let drained = tokio::select! {
        drained = host.shutdown() => Some(drained),
        () = stops.next() => None,
    };
    // The host is gone with its subscriptions; their last acknowledgements are on their way.
    let told = broker.finished(FLUSH).await;
    if !told {
        eprintln!("the broker was not told of every job that is done: it will deliver some again");
    }
    match drained {
        Some(true) => eprintln!("stopped: every job that ran has finished"),
        Some(false) if embedded => eprintln!("stopped: jobs that were still running are lost"),
        Some(false) => eprintln!("stopped: jobs that were still running are back in their queues"),
        None => eprintln!("stopped at once: jobs that were running are back in their queues"),
    }
    Ok(told && drained.is_some_and(|drained| drained || !embedded))
}

/// Connects, loads the plugins and consumes.
async fn start(
    config: Config,
    brokers: &Brokers,
    health: &Health,
) -> anyhow::Result<(Host, Arc<dyn Broker>)> {
    service::notify(&[NotifyState::Status("connecting to the broker")]);
    let broker = brokers.connect().await?;
    let mut awaited = config.plugins_from.clone();
    let host = Host::new(config, Arc::clone(&broker))?;
    if let Some(threads) = host.threads().cloned() {
        health.watch(Parts { threads, broker: Arc::clone(&broker), plugins: Arc::clone(host.plugins()) });
    }
    service::notify(&[NotifyState::Status("loading plugins")]);
    for (folder, loaded) in host.load_all().await? {
        awaited.retain(|source| folder.as_os_str() != source.as_str());
        match loaded {
            Ok(plugin) => eprintln!("serving {} for {:?}", plugin.identity.plugin, plugin.manifest.models),
            Err(error) => eprintln!("not serving {}: {error}", folder.display()),
        }
    }
    for source in awaited {
        eprintln!("pulling {source}: it serves once it is here");
    }
    host.serve().await?;
    host.deployer().watch_directory()?;
    health.enter(Phase::Serving);
    Ok((host, broker))
}

/// Takes requests from standard input until it ends, or a signal comes.
async fn lines(brokers: &Brokers, stops: &mut Stops) -> anyhow::Result<()> {
    let client = Client::connect(Arc::new(BrokerTransport::new(brokers.connect().await?))).await?;
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
                        () = jobs.wait() => return Ok(()),
                        () = stops.next() => return Ok(()),
                    }
                }
            },
            () = stops.next() => return Ok(()),
        }
    }
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
