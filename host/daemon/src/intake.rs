//! From a decoded job to one that can run: inputs fit what the plugin's manifest says, references
//! are resolved, the deadline has not passed. It waits; it never sheds. And what comes out fits what
//! the request asked for.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::artifacts::Artifacts;
use crate::job::{self, Code, Data, Datatype, Failure, Job, Named, Outputs, Progress};
use crate::plugin::manifest::{Manifest, TensorMetadata};
use crate::relay::Relay;

/// Checks names, types and shapes against the manifest. A manifest that lists no inputs takes all.
///
/// # Errors
/// `INVALID_INPUT` naming the input, what was expected and what came.
pub fn check(manifest: &Manifest, job: &Job) -> Result<(), Failure> {
    let invalid = |text: String| Err(Failure::new(Code::InvalidInput, text));
    let names = |list: &[TensorMetadata]| list.iter().map(|t| t.name.clone()).collect::<Vec<_>>();
    if !manifest.inputs.is_empty() {
        for wanted in &manifest.inputs {
            match job.inputs.iter().find(|i| i.name == wanted.name) {
                Some(input) => fits(wanted, input)?,
                None if wanted.optional => {}
                None => {
                    let have: Vec<&str> = job.inputs.iter().map(|i| i.name.as_str()).collect();
                    return invalid(format!("input {:?} is missing (the request has {have:?})", wanted.name));
                }
            }
        }
        if let Some(input) = job.inputs.iter().find(|i| manifest.inputs.iter().all(|w| w.name != i.name)) {
            return invalid(format!(
                "input {:?} is not one of model {:?}: it takes {:?}",
                input.name,
                job.envelope.model,
                names(&manifest.inputs)
            ));
        }
    }
    if !manifest.outputs.is_empty()
        && let Some(name) = job.requested.iter().find(|r| manifest.outputs.iter().all(|o| o.name != **r))
    {
        return invalid(format!("output {name:?} is asked for: there are {:?}", names(&manifest.outputs)));
    }
    Ok(())
}

fn fits(wanted: &TensorMetadata, input: &Named) -> Result<(), Failure> {
    let invalid = |text: String| Err(Failure::new(Code::InvalidInput, text));
    let found = input.datatype.name();
    if found != wanted.datatype {
        return invalid(format!("input {:?} is {found}: {} is wanted", input.name, wanted.datatype));
    }
    let same = wanted.shape.len() == input.shape.len()
        && wanted.shape.iter().zip(&input.shape).all(|(w, f)| *w == -1 || *w == i64::from(*f));
    if !same {
        return invalid(format!(
            "input {:?} has shape {:?}: {:?} is wanted",
            input.name, input.shape, wanted.shape
        ));
    }
    Ok(())
}

/// Keeps the outputs that the request asks for; all of them when it names none.
///
/// # Errors
/// For one that the plugin did not return: `BAD_RESULT` when its manifest promises it, else
/// `INVALID_INPUT`, since only the request says that there is one.
pub fn select(manifest: &Manifest, requested: &[String], outputs: &mut Outputs) -> Result<(), Failure> {
    if requested.is_empty() {
        return Ok(());
    }
    if let Some(name) = requested.iter().find(|r| outputs.outputs.iter().all(|o| o.name != **r)) {
        let code = if manifest.outputs.is_empty() { Code::InvalidInput } else { Code::BadResult };
        let have: Vec<&str> = outputs.outputs.iter().map(|o| o.name.as_str()).collect();
        return Err(Failure::new(
            code,
            format!("output {name:?} is asked for: the plugin returned {have:?}"),
        ));
    }
    outputs.outputs.retain(|o| requested.contains(&o.name));
    Ok(())
}

/// The failure of a job whose time has run out.
///
/// # Errors
/// `EXPIRED`.
pub fn check_deadline(job: &Job) -> Result<(), Failure> {
    match job.deadline {
        Some(deadline) if job::time_left(deadline).is_zero() => Err(expired()),
        _ => Ok(()),
    }
}

/// Waits until the job's deadline has passed; for ever if it has none.
pub async fn expires(deadline: Option<SystemTime>) -> Failure {
    let Some(deadline) = deadline else { return std::future::pending().await };
    loop {
        let left = job::time_left(deadline);
        if left.is_zero() {
            return expired();
        }
        tokio::time::sleep(left).await;
    }
}

fn expired() -> Failure {
    Failure::new(Code::Expired, "the job's time to live ran out before it could run")
}

/// Whether all inputs came with the job.
pub fn is_whole(job: &Job) -> bool {
    job.inputs.iter().all(|input| !matches!(input.data, Data::Reference(_)))
}

/// Fetches referenced inputs, reporting stage "downloading".
///
/// # Errors
/// `INPUT_UNAVAILABLE` or `INVALID_INPUT` naming the input.
pub async fn resolve(mut job: Job, artifacts: &Artifacts, relay: &Arc<Relay>) -> Result<Job, Failure> {
    let count = job.inputs.iter().filter(|i| matches!(i.data, Data::Reference(_))).count();
    let mut done = 0usize;
    for input in &mut job.inputs {
        let Data::Reference(reference) = &input.data else { continue };
        relay.progress(Progress::Status {
            stage: "downloading".into(),
            progress: Some(done as f32 / count as f32),
            message: Some(input.name.clone()),
        });
        let (store, name, reference) = (artifacts.clone(), input.name.clone(), reference.clone());
        let read = tokio::task::spawn_blocking(move || store.read(&name, &reference)).await;
        let bytes =
            read.map_err(|e| Failure::new(Code::HostError, format!("reading a reference: {e}")))??;
        input.data = typed(input, bytes)?;
        done += 1;
    }
    Ok(job)
}

/// The bytes of a referenced input as the data its type and shape ask for.
fn typed(input: &Named, bytes: Bytes) -> Result<Data, Failure> {
    let invalid =
        |text: String| Err(Failure::new(Code::InvalidInput, format!("input {:?}: {text}", input.name)));
    let elements = input.shape.iter().try_fold(1u64, |n, d| n.checked_mul(u64::from(*d)));
    let size = match input.datatype {
        Datatype::Bytes if elements == Some(1) => return Ok(Data::Strings(vec![bytes])),
        Datatype::Bytes => {
            return invalid(format!("shape {:?}: a referenced BYTES input has one element", input.shape));
        }
        Datatype::Bool | Datatype::Uint8 | Datatype::Int8 => 1,
        Datatype::Fp16 => 2,
        Datatype::Uint32 | Datatype::Int32 | Datatype::Fp32 => 4,
        Datatype::Uint64 | Datatype::Int64 => 8,
    };
    if elements.and_then(|n| n.checked_mul(size)) != Some(bytes.len() as u64) {
        return invalid(format!(
            "{} bytes for {} of shape {:?}",
            bytes.len(),
            input.datatype.name(),
            input.shape
        ));
    }
    Ok(Data::Raw(bytes))
}
