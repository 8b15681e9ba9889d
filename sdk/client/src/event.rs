//! Events as a program reads them, and their way out of messages.

use serde::Deserialize;

use crate::oip::{self, InferResponse, Tensor};
use crate::transport::EventMessage;

/// One event of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The attempt it belongs to, from 1. When it rises, partial outputs of earlier attempts are void.
    pub attempt: u32,
    /// Its number within the attempt, from 0.
    pub sequence: u32,
    /// Events of this attempt that were lost before this one; only statuses can be.
    pub missed: u32,
    /// The plugin that works on the job, name@version; empty when none was chosen.
    pub plugin: String,
    /// The plugin's digest; empty likewise.
    pub digest: String,
    /// What happened.
    pub body: EventBody,
}

impl Event {
    /// Whether it is the job's last.
    pub fn is_final(&self) -> bool {
        matches!(self.body, EventBody::Result(_) | EventBody::Error(_))
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum EventBody {
    /// Progress.
    Status {
        /// What is being done.
        stage: String,
        /// How much of it is done, 0 to 1.
        progress: Option<f32>,
        /// A line for people.
        message: Option<String>,
    },
    /// A piece of output.
    Partial(Tensor),
    /// The job is done.
    Result(InferResponse),
    /// The job has failed for good.
    Error(JobError),
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {text}")]
pub struct JobError {
    /// One of the message contract's fixed list.
    pub code: String,
    /// In words.
    pub text: String,
}

#[derive(Deserialize)]
struct StatusBody {
    stage: String,
    progress: Option<f32>,
    message: Option<String>,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: String,
}

/// Reads an event's body. None for a kind that this version does not know and that is not final:
/// later hosts may send more.
pub(crate) fn read(message: &EventMessage) -> Result<Option<EventBody>, String> {
    let body = match (message.kind.as_str(), message.last) {
        ("status", false) => {
            let status: StatusBody = serde_json::from_slice(&message.body).map_err(wrong)?;
            EventBody::Status { stage: status.stage, progress: status.progress, message: status.message }
        }
        ("partial", false) => {
            let mut outputs = response(message)?.outputs;
            match (outputs.pop(), outputs.is_empty()) {
                (Some(tensor), true) => EventBody::Partial(tensor),
                _ => return Err("a partial has exactly one output".to_owned()),
            }
        }
        ("result", true) => EventBody::Result(response(message)?),
        ("error", true) => {
            let error: ErrorBody = serde_json::from_slice(&message.body).map_err(wrong)?;
            let code = message.code.clone().unwrap_or_default();
            EventBody::Error(JobError { code, text: error.error })
        }
        ("status" | "partial", true) => return Err("it is marked as final".to_owned()),
        ("result" | "error", false) => return Err("it is not marked as final".to_owned()),
        (_, true) => return Err("a final event is a result or an error".to_owned()),
        (_, false) => return Ok(None),
    };
    Ok(Some(body))
}

/// What the parser says, which may quote all of the body.
fn wrong(error: serde_json::Error) -> String {
    oip::clip(&error.to_string(), 300)
}

fn response(message: &EventMessage) -> Result<InferResponse, String> {
    InferResponse::decode(&message.body, message.content_type.as_deref(), message.header_length)
        .map_err(|e| e.to_string())
}
