//! The message contract: broker messages to jobs, and events to broker messages. Bodies are Open
//! Inference Protocol v2. The only module that knows JSON.

mod letters;

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use warren_client::oip;

use crate::broker::{Delivery, HeaderValue, Message, Properties, Tag};
use crate::job::{
    Class, Code, Data, Datatype, Envelope, EventsMode, Failure, Identity, Job, Named, Outputs, Parameter,
    Progress, Reference,
};

pub use letters::{
    Suspicion, again, dead_letter, forgiven, had_its_second, isolate, losses, lost, renew, retry, suspect,
    take_suspicion, undelivered, undone, undone_failure, unread,
};

/// Exchange that jobs are published to.
pub const JOBS: &str = "warren.jobs";
/// Exchange and queue of jobs that nobody could finish.
pub const DEAD: &str = "warren.dead";
/// Exchange of jobs that must run alone, and prefix of their queues.
pub const ISOLATED: &str = "warren.isolated";
/// Prefix of the retry tiers' exchanges and queues.
pub const RETRY: &str = "warren.retry";
/// Direct reply-to's pseudo-queue.
pub const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// Exchanges and queues of the host's own, with all that begin so: events there would be taken for jobs
/// or for another host's word.
const OWN: [&str; 8] =
    [JOBS, ISOLATED, DEAD, RETRY, "warren.control", "warren.undone", "warren.unserved", "warren.rewards"];

/// The longest id that is taken: AMQP's short string.
const MAX_ID: usize = 255;
/// Attempts above this are forged: no retry budget comes near.
const MAX_ATTEMPT: i64 = 1_000_000;

/// The queue of a model and class.
pub fn job_queue(model: &str, class: Class) -> String {
    format!("{JOBS}.{model}{}", class.suffix())
}

/// The queue of a model's jobs that must run alone.
pub fn isolated_queue(model: &str) -> String {
    format!("{ISOLATED}.{model}")
}

/// The exchange and queue of a retry tier.
pub fn retry_tier(delay: Duration) -> String {
    format!("{RETRY}.{}", delay.as_millis())
}

/// A message that is no job: whom to tell, and why.
#[derive(Debug, Clone)]
pub struct Rejected {
    /// As much as could be read.
    pub envelope: Envelope,
    /// Why.
    pub failure: Failure,
}

/// The id, clipped to what AMQP can carry: the rest of a longer one cannot have come over AMQP.
fn id_of(properties: &Properties) -> Option<String> {
    properties.correlation_id.as_ref().filter(|id| !id.is_empty() && id.len() <= MAX_ID).cloned()
}

/// A message's id together with whose it is: clients number their messages as they like, so that two
/// of them may well use the same id.
pub fn sender_key(delivery: &Delivery, message_id: &str) -> String {
    let Message { routing_key, properties, .. } = &delivery.message;
    let reply_to = properties.reply_to.as_deref().unwrap_or_default();
    let job = properties.correlation_id.as_deref().unwrap_or_default();
    format!("{reply_to}\n{routing_key}\n{job}\n{message_id}")
}

/// What a delivered job is known by before its body is read: the ids of its message, or else its body;
/// and how often it was published before, for its deliveries are counted anew each time.
pub fn job_key(delivery: &Delivery) -> String {
    let Message { properties, body, .. } = &delivery.message;
    let before = properties.int("attempt").unwrap_or(0);
    let ids = [properties.correlation_id.as_ref(), properties.message_id.as_ref()];
    match ids.into_iter().flatten().find(|id| !id.is_empty()) {
        Some(id) => format!("{before} {id}"),
        None => format!("{before} {:016x}", BuildHasherDefault::<DefaultHasher>::default().hash_one(body)),
    }
}

/// Whether a reply address is one of the host's own.
fn is_own(address: &str) -> bool {
    let (exchange, queue) = self::address(Some(address), "");
    let name = if exchange.is_empty() { queue } else { exchange };
    OWN.iter().any(|own| name.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

/// No longer than a line.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A header's value in a text for its sender: quoted, and no longer than a line.
fn shown(value: &HeaderValue) -> String {
    match value {
        HeaderValue::Text(text) => format!("{:?}", short(text)),
        other => other.to_string(),
    }
}

/// A header that is a whole number where it is there.
fn whole(properties: &Properties, name: &str) -> Result<Option<i64>, String> {
    match properties.header(name) {
        None => Ok(None),
        Some(HeaderValue::Int(value)) => Ok(Some(*value)),
        Some(other) => Err(format!("header {name} is {}: use a whole number", shown(other))),
    }
}

/// Reads the properties and, if need be, the body's id.
fn envelope(delivery: &Delivery) -> Result<Envelope, Box<Rejected>> {
    let message = &delivery.message;
    let properties = &message.properties;
    let (model, class) = Class::split(&message.routing_key);
    let base = whole(properties, "attempt");
    let attempts = base.as_ref().map_or(0, |n| n.unwrap_or(0).clamp(0, MAX_ATTEMPT));
    let mut reply_to = properties.reply_to.clone().filter(|r| !r.is_empty());
    let forbidden = reply_to.take_if(|address| is_own(address)).map(|address| {
        format!("reply_to {:?} is one of the host's own queues or exchanges", short(&address))
    });
    let default = match &reply_to {
        Some(address) if address.starts_with(DIRECT_REPLY_TO) => EventsMode::Final,
        _ => EventsMode::All,
    };
    let mut envelope = Envelope {
        id: id_of(properties).unwrap_or_default(),
        model: model.to_owned(),
        class,
        attempt: u32::try_from(attempts)
            .unwrap_or(0)
            .saturating_add(delivery.delivery_count)
            .saturating_add(1),
        reply_to,
        events: default,
        traceparent: properties.text("traceparent").filter(|t| t.len() <= MAX_ID).map(str::to_owned),
        tenant: properties.text("tenant").filter(|t| t.len() <= MAX_ID).map(str::to_owned),
    };
    let problem = match properties.header("events") {
        None => None,
        Some(HeaderValue::Text(mode)) if mode == "all" => {
            envelope.events = EventsMode::All;
            None
        }
        Some(HeaderValue::Text(mode)) if mode == "final" => {
            envelope.events = EventsMode::Final;
            None
        }
        Some(other) => Some(format!("header events is {}: use \"all\" or \"final\"", shown(other))),
    };
    let problem = problem.or(forbidden).or_else(|| match base {
        Ok(Some(base)) if !(0..=MAX_ATTEMPT).contains(&base) => {
            Some(format!("header attempt is {base}: use 0 to {MAX_ATTEMPT}"))
        }
        Ok(_) => whole(properties, "deadline").err().or_else(|| header_length(properties).err()),
        Err(text) => Some(text),
    });
    match problem {
        None => Ok(envelope),
        Some(text) => {
            if envelope.id.is_empty() {
                envelope.id = uuid::Uuid::new_v4().to_string();
            }
            Err(Box::new(Rejected { envelope, failure: Failure::new(Code::BadRequest, text) }))
        }
    }
}

/// A request in JSON as a job that nobody sent: a plugin's own test.
///
/// # Errors
/// As [`decode`].
pub fn of_request(model: &str, body: Bytes) -> Result<Job, Box<Rejected>> {
    let properties = Properties {
        content_type: Some(oip::JSON.to_owned()),
        correlation_id: Some("selftest".to_owned()),
        ..Properties::default()
    };
    let message = Message { exchange: String::new(), routing_key: model.to_owned(), properties, body };
    let tag = Tag { channel: 0, number: 0 };
    let delivery = Delivery { message, queue: JOBS.into(), tag, delivery_count: 0 };
    decode(&delivery, SystemTime::now())
}

/// A delivery as a job. `received` is when it arrived, for its time to live.
///
/// # Errors
/// [`Rejected`] with code `BAD_REQUEST` and where to send it.
pub fn decode(delivery: &Delivery, received: SystemTime) -> Result<Job, Box<Rejected>> {
    let properties = &delivery.message.properties;
    let mut envelope = envelope(delivery)?;
    let decoded = header_length(properties).and_then(|length| {
        oip::InferRequest::decode(&delivery.message.body, properties.content_type.as_deref(), length)
            .map_err(|error| error.to_string())
    });
    let request = match decoded {
        Ok(request) => request,
        Err(text) => {
            if envelope.id.is_empty() {
                envelope.id = uuid::Uuid::new_v4().to_string();
            }
            return Err(Box::new(Rejected { envelope, failure: Failure::new(Code::BadRequest, text) }));
        }
    };
    if envelope.id.is_empty() {
        envelope.id = request
            .id
            .clone()
            .filter(|id| !id.is_empty() && id.len() <= MAX_ID)
            .unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    }
    let binary = request.parameters.bool("binary_data_output").unwrap_or(false)
        || request.outputs.iter().any(|o| o.parameters.bool("binary_data").unwrap_or(false));
    let mut inputs = Vec::with_capacity(request.inputs.len());
    for tensor in request.inputs {
        match input(tensor) {
            Ok(named) => inputs.push(named),
            Err(text) => {
                return Err(Box::new(Rejected { envelope, failure: Failure::new(Code::InvalidInput, text) }));
            }
        }
    }
    let deadline = match properties.int("deadline").and_then(|ms| u64::try_from(ms).ok()) {
        Some(ms) => SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms)),
        None => properties.expiration.and_then(|ttl| received.checked_add(ttl)),
    };
    let parameters = request
        .parameters
        .iter()
        .filter(|(name, _)| name != "binary_data_output")
        .map(|(name, p)| (name.clone(), parameter(p)))
        .collect();
    Ok(Job {
        envelope,
        parameters,
        inputs,
        requested: request.outputs.into_iter().map(|o| o.name).collect(),
        binary,
        deadline,
    })
}

/// The length of the JSON part of a body with binary tensors.
fn header_length(properties: &Properties) -> Result<Option<u64>, String> {
    const NAME: &str = "inference-header-content-length";
    let Some(value) = properties.header(NAME) else { return Ok(None) };
    let length = match value {
        HeaderValue::Int(n) => u64::try_from(*n).ok(),
        // Clients that copy HTTP headers send it as text.
        HeaderValue::Text(n) => n.parse().ok(),
        _ => None,
    };
    let wrong = || format!("header {NAME} is {}: use the length of the body's JSON part", shown(value));
    length.map(Some).ok_or_else(wrong)
}

fn parameter(parameter: &oip::Parameter) -> Parameter {
    match parameter {
        oip::Parameter::Bool(v) => Parameter::Bool(*v),
        oip::Parameter::Int(v) => Parameter::Int(*v),
        oip::Parameter::Float(v) => Parameter::Float(*v),
        oip::Parameter::Text(v) => Parameter::Text(v.clone()),
    }
}

fn oip_parameter(parameter: &Parameter) -> oip::Parameter {
    match parameter {
        Parameter::Bool(v) => oip::Parameter::Bool(*v),
        Parameter::Int(v) => oip::Parameter::Int(*v),
        Parameter::Float(v) => oip::Parameter::Float(*v),
        Parameter::Text(v) => oip::Parameter::Text(v.clone()),
    }
}

fn datatype(datatype: oip::Datatype) -> Option<Datatype> {
    Some(match datatype {
        oip::Datatype::Bool => Datatype::Bool,
        oip::Datatype::Uint8 => Datatype::Uint8,
        oip::Datatype::Uint32 => Datatype::Uint32,
        oip::Datatype::Uint64 => Datatype::Uint64,
        oip::Datatype::Int8 => Datatype::Int8,
        oip::Datatype::Int32 => Datatype::Int32,
        oip::Datatype::Int64 => Datatype::Int64,
        oip::Datatype::Fp16 => Datatype::Fp16,
        oip::Datatype::Fp32 => Datatype::Fp32,
        oip::Datatype::Bytes => Datatype::Bytes,
        oip::Datatype::Uint16 | oip::Datatype::Int16 | oip::Datatype::Fp64 | oip::Datatype::Bf16 => {
            return None;
        }
    })
}

fn oip_datatype(datatype: Datatype) -> oip::Datatype {
    match datatype {
        Datatype::Bool => oip::Datatype::Bool,
        Datatype::Uint8 => oip::Datatype::Uint8,
        Datatype::Uint32 => oip::Datatype::Uint32,
        Datatype::Uint64 => oip::Datatype::Uint64,
        Datatype::Int8 => oip::Datatype::Int8,
        Datatype::Int32 => oip::Datatype::Int32,
        Datatype::Int64 => oip::Datatype::Int64,
        Datatype::Fp16 => oip::Datatype::Fp16,
        Datatype::Fp32 => oip::Datatype::Fp32,
        Datatype::Bytes => oip::Datatype::Bytes,
    }
}

fn input(tensor: oip::Tensor) -> Result<Named, String> {
    let name = tensor.name;
    let Some(datatype) = datatype(tensor.datatype) else {
        return Err(format!(
            "input {name:?}: data type {} is not supported: use FP32, FP16, INT8, INT32, INT64, UINT8, UINT32, UINT64, BOOL or BYTES",
            tensor.datatype
        ));
    };
    let shape: Option<Vec<u32>> = tensor.shape.iter().map(|d| u32::try_from(*d).ok()).collect();
    let Some(shape) = shape.filter(|s| s.len() <= 8) else {
        let (rank, first) = (tensor.shape.len(), &tensor.shape[..tensor.shape.len().min(8)]);
        return Err(format!(
            "input {name:?}: a shape of {rank} dimensions, beginning with {first:?}: at most 8 dimensions below 2^32"
        ));
    };
    let content_type = tensor.parameters.text("content_type").map(str::to_owned);
    let data = match tensor.data {
        oip::Data::Raw(bytes) => Data::Raw(bytes),
        oip::Data::Strings(strings) => Data::Strings(strings),
        oip::Data::None => match tensor.parameters.text(oip::DATAREF) {
            Some(url) => Data::Reference(Reference {
                url: url.to_owned(),
                sha256: tensor.parameters.text("sha256").map(str::to_owned),
                content_type: content_type.clone(),
                size: None,
            }),
            None => return Err(format!("input {name:?} has neither data nor a dataref")),
        },
    };
    Ok(Named { name, datatype, shape, data, content_type })
}

fn output(named: &Named) -> oip::Tensor {
    let mut parameters = oip::Parameters::default();
    if let Some(content_type) = &named.content_type {
        parameters.set("content_type", oip::Parameter::Text(content_type.clone()));
    }
    let data = match &named.data {
        Data::Raw(bytes) => oip::Data::Raw(bytes.clone()),
        Data::Strings(strings) => oip::Data::Strings(strings.clone()),
        Data::Reference(reference) => {
            parameters.set(oip::DATAREF, oip::Parameter::Text(reference.url.clone()));
            if let Some(sha256) = &reference.sha256 {
                parameters.set("sha256", oip::Parameter::Text(sha256.clone()));
            }
            if let Some(size) = reference.size.and_then(|s| i64::try_from(s).ok()) {
                parameters.set("size", oip::Parameter::Int(size));
            }
            oip::Data::None
        }
    };
    oip::Tensor {
        name: named.name.clone(),
        datatype: oip_datatype(named.datatype),
        shape: named.shape.iter().map(|d| u64::from(*d)).collect(),
        parameters,
        data,
    }
}

/// What an event says.
#[derive(Debug, Clone)]
pub enum EventBody<'a> {
    /// A status or a partial.
    Progress(&'a Progress),
    /// The job is done.
    Result(&'a Outputs),
    /// The job failed for good.
    Error(&'a Failure),
}

#[derive(Serialize)]
struct StatusBody<'a> {
    stage: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
}

struct Body {
    kind: &'static str,
    last: bool,
    bytes: Bytes,
    header_length: Option<usize>,
    code: Option<Code>,
}

fn json(value: &impl Serialize) -> Result<Bytes, Failure> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|e| Failure::new(Code::HostError, format!("an event cannot be written as JSON: {e}")))
}

fn response(
    envelope: &Envelope,
    identity: Option<&Identity>,
    outputs: Vec<oip::Tensor>,
    parameters: &[(String, Parameter)],
    binary: bool,
) -> Result<(Bytes, Option<usize>), Failure> {
    let mut response = oip::InferResponse {
        model_name: envelope.model.clone(),
        model_version: identity.and_then(|i| i.plugin.split_once('@')).map(|(_, v)| v.to_owned()),
        id: Some(envelope.id.clone()),
        parameters: oip::Parameters::default(),
        outputs,
    };
    for (name, value) in parameters {
        response.parameters.set(name.clone(), oip_parameter(value));
    }
    // What JSON cannot carry (NaN, half precision, bytes that are no text) goes in binary form.
    let binary = binary || response.needs_binary();
    response.encode(binary).map_err(|e| Failure::new(Code::BadResult, e.to_string()))
}

fn body(
    envelope: &Envelope,
    identity: Option<&Identity>,
    event: &EventBody<'_>,
    binary: bool,
) -> Result<Body, Failure> {
    Ok(match event {
        EventBody::Progress(Progress::Status { stage, progress, message }) => Body {
            kind: "status",
            last: false,
            bytes: json(&StatusBody { stage, progress: *progress, message: message.as_deref() })?,
            header_length: None,
            code: None,
        },
        EventBody::Progress(Progress::Partial(named)) => {
            let (bytes, header_length) = response(envelope, identity, vec![output(named)], &[], binary)?;
            Body { kind: "partial", last: false, bytes, header_length, code: None }
        }
        EventBody::Result(outputs) => {
            let tensors = outputs.outputs.iter().map(output).collect();
            let (bytes, header_length) = response(envelope, identity, tensors, &outputs.parameters, binary)?;
            Body { kind: "result", last: true, bytes, header_length, code: None }
        }
        EventBody::Error(failure) => Body {
            kind: "error",
            last: true,
            bytes: json(&ErrorBody { error: &failure.text })?,
            header_length: None,
            code: Some(failure.code),
        },
    })
}

/// Exchange and routing key of a reply address, as Spring reads it: `exchange/routing-key`, or a
/// queue's name.
fn address<'a>(reply_to: Option<&'a str>, responses: &'a str) -> (&'a str, &'a str) {
    match reply_to {
        None => ("", responses),
        Some(direct) if direct.starts_with(DIRECT_REPLY_TO) => ("", direct),
        Some(address) => address.split_once('/').unwrap_or(("", address)),
    }
}

/// An event as a message to the job's reply address.
///
/// # Errors
/// A [`Failure`] when the outputs cannot be written as the protocol wants them.
pub fn event(
    envelope: &Envelope,
    identity: Option<&Identity>,
    sequence: u32,
    event: &EventBody<'_>,
    binary: bool,
    responses: &str,
) -> Result<Message, Failure> {
    let body = body(envelope, identity, event, binary)?;
    let (exchange, routing_key) = address(envelope.reply_to.as_deref(), responses);
    let mut headers = Vec::with_capacity(10);
    let text = |value: &str| HeaderValue::Text(value.to_owned());
    headers.push(("job".to_owned(), text(&envelope.id)));
    headers.push(("attempt".to_owned(), HeaderValue::Int(i64::from(envelope.attempt))));
    headers.push(("sequence".to_owned(), HeaderValue::Int(i64::from(sequence))));
    headers.push(("final".to_owned(), HeaderValue::Bool(body.last)));
    headers.push(("model".to_owned(), text(&envelope.model)));
    if let Some(identity) = identity {
        headers.push(("plugin".to_owned(), text(&identity.plugin)));
        headers.push(("digest".to_owned(), text(&identity.digest)));
    }
    if let Some(code) = body.code {
        headers.push(("code".to_owned(), text(code.info().name)));
    }
    if let Some(traceparent) = &envelope.traceparent {
        headers.push(("traceparent".to_owned(), text(traceparent)));
    }
    if let Some(length) = body.header_length {
        let length = i64::try_from(length).unwrap_or(i64::MAX);
        headers.push(("inference-header-content-length".to_owned(), HeaderValue::Int(length)));
    }
    let content_type = if body.header_length.is_some() { oip::BINARY } else { oip::JSON };
    Ok(Message {
        exchange: exchange.to_owned(),
        routing_key: routing_key.to_owned(),
        properties: Properties {
            content_type: Some(content_type.to_owned()),
            correlation_id: Some(envelope.id.clone()),
            message_id: Some(format!("{}:{}:{sequence}", envelope.id, envelope.attempt)),
            kind: Some(body.kind.to_owned()),
            // A status is worth nothing after a restart; everything else must survive one.
            persistent: body.kind != "status",
            headers,
            ..Properties::default()
        },
        body: body.bytes,
    })
}
