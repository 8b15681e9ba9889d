//! Arguments, logging and exit codes; each command has a module of its own.

mod admin;
mod compile;
mod dead;
mod demo;
mod device;
mod melody;
mod new;
mod plugin;
mod queue;
mod remote;
mod render;
mod request;
mod run;
mod serve;
mod service;
mod sources;
mod submit;
mod topology;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use warren::config::Config;

/// Runs untrusted inference code: jobs from a queue, WebAssembly plugins, tensors, ordered events.
#[derive(Parser)]
#[command(name = "warren", version, max_term_width = 100)]
struct Cli {
    /// Log filter, as `tracing` reads it (e.g. `info`, `warren=debug,guest=info`).
    #[arg(long, global = true, env = "WARREN_LOG", default_value = "warn")]
    log: String,
    /// Log as JSON lines.
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the plugins of a directory until told to stop.
    Serve(serve::Args),
    /// Run one job locally through the whole host, and print the events that it publishes.
    Run(run::Args),
    /// Transcribe a melody, or a WAV file, to notes: the whole way in one command.
    Demo(demo::Args),
    /// Submit a job to a broker's hosts, and follow it.
    Submit(submit::Submit),
    /// Follow a job that was submitted before.
    Follow(submit::Follow),
    /// Tell every host that jobs are no longer wanted.
    Cancel(submit::Cancel),
    /// How much is in a broker's queues, and how fast that changes.
    Queue(queue::Queue),
    /// The jobs that nobody could finish.
    Dead {
        #[command(subcommand)]
        command: dead::Command,
    },
    /// What the hosts need on their broker.
    Topology {
        #[command(subcommand)]
        command: topology::Command,
    },
    /// Look at plugins; change what a running host serves.
    Plugin {
        #[command(subcommand)]
        command: plugin::Command,
    },
    /// Which devices there are for tensors, which one a host would use, and why.
    Device(device::Args),
    /// Write the folder of a new plugin.
    New(new::Args),
    /// What an error code means and what to do.
    Explain {
        /// The code, e.g. MEMORY_LIMIT; all of them without one.
        code: Option<String>,
    },
}

/// Where settings come from. A flag is stronger than the environment, that than the file.
#[derive(Args, Serialize)]
struct Settings {
    /// TOML config file.
    #[arg(long, env = "WARREN_CONFIG")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// `embedded`, or addresses of a RabbitMQ: amqp://user:password@host:5672/vhost, separated by commas.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    broker: Option<String>,
    /// Guests that run at a time; 0: one a core.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    slots: Option<usize>,
    /// Threads of the tensor engine; 0: one a core.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    tensor_threads: Option<usize>,
    /// What runs tensor graphs: auto, cpu, wgpu, or wgpu:<part of an adapter's name>.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    /// Unsettled deliveries a queue; 0: sized from the slots.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    prefetch: Option<u16>,
}

impl Settings {
    fn load(&self) -> anyhow::Result<Config> {
        let mut config = Config::load(self.config.as_deref(), self)?;
        compile::configure(&mut config);
        sources::configure(&mut config);
        Ok(config)
    }
}

/// Exit codes: 0 done, 1 failed, 2 (by clap) wrong arguments.
pub fn main() -> ExitCode {
    // Before anything is started: to limit itself is the first that a compiler does.
    if let Some(ended) = compile::asked_to() {
        return ended;
    }
    let cli = Cli::parse();
    if let Err(error) = logging(&cli) {
        eprintln!("warren: --log {:?}: {error:#}", cli.log);
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("warren: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Serve(args) => serve::serve(args).await,
            Command::Run(args) => run::run(args).await,
            Command::Demo(args) => demo::demo(args).await,
            Command::Submit(args) => submit::submit(args).await,
            Command::Follow(args) => submit::follow(args).await,
            Command::Cancel(args) => submit::cancel(args).await,
            Command::Queue(args) => queue::queue(args).await,
            Command::Dead { command } => dead::dead(command).await,
            Command::Topology { command } => topology::topology(command).await,
            Command::Plugin { command } => plugin::plugin(command).await,
            Command::Device(args) => device::device(&args),
            Command::New(args) => new::new(&args).map(|()| true),
            Command::Explain { code } => explain(code.as_deref()).map(|()| true),
        }
    });
    runtime.shutdown_background();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Whoever read has enough, as with `| head`.
        Err(error)
            if error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("warren: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn logging(cli: &Cli) -> anyhow::Result<()> {
    let mut filter = tracing_subscriber::EnvFilter::try_new(&cli.log)?;
    if !cli.log.contains("lapin") {
        // It logs as an error what is an answer, and the rest is told by whoever called it.
        filter = filter.add_directive("lapin=off".parse()?);
    }
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if cli.log_json {
        builder.json().flatten_event(true).init();
    } else {
        builder.init();
    }
    Ok(())
}

fn explain(code: Option<&str>) -> anyhow::Result<()> {
    use warren::job::{Code, Disposition};
    let wanted: Vec<Code> = Code::ALL
        .iter()
        .copied()
        .filter(|c| code.is_none_or(|name| c.info().name.eq_ignore_ascii_case(name)))
        .collect();
    anyhow::ensure!(
        !wanted.is_empty(),
        "no code {:?}: `warren explain` lists them all",
        code.unwrap_or_default()
    );
    for code in wanted {
        let info = code.info();
        let then = match info.disposition {
            Disposition::Final => "an error event",
            Disposition::Retry => "tried again, then dead-lettered",
            Disposition::RetryOnce => "tried once more, then an error event and a dead letter",
            Disposition::DeadLetter => "an error event and a dead letter",
        };
        println!(
            "{}\n  {}\n  whose doing: {}; what happens: {then}\n  {}\n",
            info.name, info.meaning, info.fault, info.advice
        );
    }
    Ok(())
}
