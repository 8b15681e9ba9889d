//! A job as a program puts it together.

use std::time::Duration;

use bytes::Bytes;

use crate::oip::{self, EncodeError, InferRequest, Parameter, RequestedOutput, Tensor};
use crate::transport::RequestMessage;

/// Priority classes, each with a queue of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Class {
    /// Someone is waiting.
    Urgent,
    /// The rest.
    #[default]
    Normal,
    /// May wait for all others.
    Bulk,
}

/// How the body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// JSON if it has a form for everything and there is little data, else binary.
    #[default]
    Auto,
    /// JSON throughout.
    Json,
    /// Tensors in binary form after a JSON header.
    Binary,
}

/// Data of this many bytes or more is sent in binary form by [`Encoding::Auto`].
const BINARY_FROM: usize = 1024;

/// A job to submit.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JobRequest {
    model: String,
    class: Class,
    id: Option<String>,
    deadline: Option<Duration>,
    tenant: Option<String>,
    traceparent: Option<String>,
    final_only: bool,
    encoding: Encoding,
    body: InferRequest,
}

impl JobRequest {
    /// A job for `model`, without inputs.
    pub fn new(model: impl Into<String>) -> Self {
        Self { model: model.into(), ..Self::default() }
    }

    /// The priority class; normal without this.
    pub fn class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    /// The job's id; a fresh one without this.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// How long the job may wait and run; forever without this.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// On whose behalf, for fair scheduling.
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// The trace that this job is part of, as W3C Trace Context's header writes it.
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }

    /// Asks for the final event alone.
    pub fn final_only(mut self) -> Self {
        self.final_only = true;
        self
    }

    /// How the body is written.
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// Adds an input.
    pub fn input(mut self, tensor: Tensor) -> Self {
        self.body.inputs.push(tensor);
        self
    }

    /// Adds one byte string as an input of type `BYTES`, shape `[1]`.
    pub fn bytes(self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.input(Tensor::bytes(name, value))
    }

    /// Adds a single-precision input; `values` are row-major, product(shape) of them.
    pub fn fp32(self, name: impl Into<String>, shape: &[u64], values: &[f32]) -> Self {
        self.input(Tensor::fp32(name, shape, values))
    }

    /// Adds an input that the host fetches from `url`, a store that its operator allows, and
    /// optionally checks against a SHA-256 (lower-case hexadecimal).
    pub fn reference(self, name: impl Into<String>, url: impl Into<String>, sha256: Option<&str>) -> Self {
        self.input(Tensor::reference(name, url, sha256))
    }

    /// Sets a request-level parameter.
    pub fn parameter(mut self, name: impl Into<String>, value: impl Into<Parameter>) -> Self {
        self.body.parameters.set(name, value.into());
        self
    }

    /// Asks for the output called `name`; all outputs come without this.
    pub fn output(mut self, name: impl Into<String>) -> Self {
        self.body.outputs.push(RequestedOutput { name: name.into(), ..RequestedOutput::default() });
        self
    }

    /// The message, with a fresh job id where none was set.
    pub(crate) fn into_message(mut self, reply_to: String) -> Result<RequestMessage, EncodeError> {
        let id = self.id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        self.body.id = Some(id.clone());
        let binary = match self.encoding {
            Encoding::Json => false,
            Encoding::Binary => true,
            Encoding::Auto => {
                let size: usize = self.body.inputs.iter().map(|t| t.data.size()).sum();
                size >= BINARY_FROM || self.body.needs_binary()
            }
        };
        let (body, header_length) = self.body.encode(binary)?;
        Ok(RequestMessage {
            model: self.model,
            class: self.class,
            // Of the message, not of the job: the same id says that a message was sent twice.
            message_id: uuid::Uuid::now_v7().to_string(),
            correlation_id: id,
            reply_to,
            expiration: self.deadline,
            tenant: self.tenant,
            traceparent: self.traceparent,
            all_events: !self.final_only,
            content_type: if binary { oip::BINARY } else { oip::JSON },
            header_length: header_length.map(|n| n as u64),
            body,
        })
    }
}
