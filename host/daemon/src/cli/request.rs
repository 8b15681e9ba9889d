//! A job as the command line describes it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use warren::artifacts::file_url;
use warren_client::JobRequest;
use warren_client::oip::{InferRequest, Parameter, Tensor};

/// What makes up a job.
#[derive(clap::Args)]
pub struct Request {
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
    /// Time to live, ms.
    #[arg(long)]
    deadline_ms: Option<u64>,
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
///
/// # Errors
/// Names the argument and what is wrong with it.
pub fn request(args: &Request, model: &str) -> anyhow::Result<(JobRequest, Vec<PathBuf>)> {
    let mut job = JobRequest::new(model);
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
