//! The words of the house as data: a job, its inputs, how it can end, and the table of codes.
//! Knows no other module.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

/// A request- or response-level parameter of the Open Inference Protocol v2.
#[derive(Debug, Clone, PartialEq)]
pub enum Parameter {
    /// true or false
    Bool(bool),
    /// a whole number
    Int(i64),
    /// any other number
    Float(f64),
    /// a string
    Text(String),
}

/// The priority classes of a model's queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Before the others.
    Urgent,
    /// What a bare model key asks for.
    Normal,
    /// When nothing else waits.
    Bulk,
}

impl Class {
    /// All classes, most urgent first.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Normal, Self::Bulk];

    /// What follows the model in routing keys and queue names.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Urgent => ".urgent",
            Self::Normal => "",
            Self::Bulk => ".bulk",
        }
    }

    /// Splits a routing key into model and class.
    pub fn split(routing_key: &str) -> (&str, Self) {
        for class in [Self::Urgent, Self::Bulk] {
            if let Some(model) = routing_key.strip_suffix(class.suffix())
                && !model.is_empty()
            {
                return (model, class);
            }
        }
        (routing_key, Self::Normal)
    }
}

/// The Open Inference Protocol v2 data types that Warren moves. FP16 and the 64-bit types pass
/// through; BOOL becomes uint8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Datatype {
    Bool,
    Uint8,
    Uint32,
    Uint64,
    Int8,
    Int32,
    Int64,
    Fp16,
    Fp32,
    Bytes,
}

impl Datatype {
    /// Its name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
            Self::Bytes => "BYTES",
        }
    }
}

/// The data of a tensor on its way in or out.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// Row-major little-endian elements.
    Raw(Bytes),
    /// The elements of a BYTES tensor.
    Strings(Vec<Bytes>),
    /// Elsewhere, under a URL.
    Reference(Reference),
}

/// Where data that is not in the message lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// A URL that an operator-configured store allows.
    pub url: String,
    /// What the bytes must hash to (lower-case hex), if the sender said so.
    pub sha256: Option<String>,
    /// Media type, if known.
    pub content_type: Option<String>,
    /// Size in bytes, if known.
    pub size: Option<u64>,
}

/// A named input, output or partial.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions.
    pub shape: Vec<u32>,
    /// The elements.
    pub data: Data,
    /// Media type of BYTES that are a file.
    pub content_type: Option<String>,
}

/// Which events a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventsMode {
    /// Statuses, partials and the final event.
    All,
    /// The final event alone.
    Final,
}

/// Everything about a job that does not change from attempt to attempt, as its message says it.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// Job id.
    pub id: String,
    /// What the client asked for.
    pub model: String,
    /// Priority class.
    pub class: Class,
    /// Attempt, from 1.
    pub attempt: u32,
    /// Where events go; none: the shared response queue.
    pub reply_to: Option<String>,
    /// Which events are wanted.
    pub events: EventsMode,
    /// W3C trace context, carried through.
    pub traceparent: Option<String>,
    /// Whose job it is.
    pub tenant: Option<String>,
}

/// One attempt at one job, decoded.
#[derive(Debug, Clone)]
pub struct Job {
    /// Identity and addresses.
    pub envelope: Envelope,
    /// Request-level parameters.
    pub parameters: Vec<(String, Parameter)>,
    /// Inputs in the order of the request.
    pub inputs: Vec<Named>,
    /// The outputs asked for, in order; empty: all.
    pub requested: Vec<String>,
    /// Answer with the binary tensor extension.
    pub binary: bool,
    /// When it is worth nothing any more.
    pub deadline: Option<SystemTime>,
}

/// What a job that succeeded ends in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outputs {
    /// Outputs in the plugin's order.
    pub outputs: Vec<Named>,
    /// Response-level parameters.
    pub parameters: Vec<(String, Parameter)>,
}

/// What a client reads of a job before its end.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// What is being done and how far it is.
    Status {
        /// The stage, e.g. "downloading".
        stage: String,
        /// 0.0 to 1.0.
        progress: Option<f32>,
        /// A line for people.
        message: Option<String>,
    },
    /// A streamed piece of output.
    Partial(Named),
}

/// How a job did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// From the fixed list.
    pub code: Code,
    /// What was wrong, where, and what to do.
    pub text: String,
}

impl Failure {
    /// A failure with this code and text.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.text)
    }
}

/// Who serves a job: a plugin version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `name@version`.
    pub plugin: Arc<str>,
    /// `sha256:…` of the component.
    pub digest: Arc<str>,
}

/// Whose doing a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request's.
    Client,
    /// The plugin's.
    Plugin,
    /// The operator's configuration.
    Operator,
    /// The host's or its surroundings'.
    Host,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Plugin => "plugin",
            Self::Operator => "operator",
            Self::Host => "host",
        })
    }
}

/// What the host does with a job that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// An error event, nothing more.
    Final,
    /// Tried again while the retry budget lasts, then as `RETRIES_EXHAUSTED` to the dead-letter queue.
    Retry,
    /// Tried once more, at whatever attempt that is; then as `DeadLetter`.
    RetryOnce,
    /// An error event, and a dead letter for the operator to look at.
    DeadLetter,
}

impl Disposition {
    /// Whether an error event with such a code goes with a dead letter.
    pub fn leaves_letter(self) -> bool {
        matches!(self, Self::RetryOnce | Self::DeadLetter)
    }
}

/// One row of the table of codes.
#[derive(Debug, Clone, Copy)]
pub struct CodeInfo {
    /// The code as it appears in header `code`. Stable.
    pub name: &'static str,
    /// Whose doing it is.
    pub fault: Fault,
    /// What the host does.
    pub disposition: Disposition,
    /// What it means.
    pub meaning: &'static str,
    /// What to do about it.
    pub advice: &'static str,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident $name:literal $fault:ident $disposition:ident $meaning:literal $advice:literal;)*) => {
        /// Why a job did not succeed: the fixed list that header `code` draws from.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum Code { $($variant),* }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The code's row in the table.
            pub const fn info(self) -> CodeInfo {
                match self {
                    $(Self::$variant => CodeInfo {
                        name: $name, fault: Fault::$fault, disposition: Disposition::$disposition,
                        meaning: $meaning, advice: $advice,
                    }),*
                }
            }
        }
    };
}

codes! {
    BadRequest "BAD_REQUEST" Client Final
        "The message is not an Open Inference Protocol v2 request."
        "Correct what the text names: body, content type or properties.";
    InvalidInput "INVALID_INPUT" Client Final
        "Inputs or parameters do not fit what the plugin takes."
        "Correct the input that the text names.";
    NoModel "NO_MODEL" Client DeadLetter
        "No plugin serves the model."
        "Check the model's name, or load a plugin for it and requeue the dead letter.";
    InputUnavailable "INPUT_UNAVAILABLE" Client Final
        "A referenced input is not allowed, not there, too large, or not what its sha256 says."
        "Check the reference; the operator's config lists the stores that are allowed.";
    Expired "EXPIRED" Client Final
        "The job's time to live ran out before it was done."
        "Send it again with more time, or add capacity.";
    Cancelled "CANCELLED" Client Final
        "The client cancelled the job."
        "Nothing: it was asked for.";
    PluginFailed "PLUGIN_FAILED" Plugin DeadLetter
        "The plugin gave the job up."
        "Read the plugin's text; fix the plugin, then requeue the dead letter.";
    PluginTrapped "PLUGIN_TRAPPED" Plugin DeadLetter
        "The plugin crashed; the text ends with its backtrace."
        "Fix the plugin, then requeue the dead letter.";
    BadResult "BAD_RESULT" Plugin DeadLetter
        "What the plugin returned breaks the contract."
        "Fix the plugin: the text names what it returned.";
    MemoryLimit "MEMORY_LIMIT" Plugin DeadLetter
        "The plugin hit its limit of linear memory."
        "Raise limits.memory_mib in plugin.toml, or send less at once.";
    TableLimit "TABLE_LIMIT" Plugin DeadLetter
        "The plugin hit its limit of table elements."
        "Raise limits.table_elements in plugin.toml, or use fewer function pointers.";
    StackLimit "STACK_LIMIT" Plugin DeadLetter
        "The plugin's calls are nested too deeply for its stack; the text ends with its backtrace."
        "Look for a recursion without end; every plugin has the same stack.";
    DeviceMemory "DEVICE_MEMORY" Plugin DeadLetter
        "The job's tensors hit its device memory budget."
        "Raise limits.device_mib in plugin.toml, or send less at once.";
    ScratchLimit "SCRATCH_LIMIT" Plugin DeadLetter
        "The plugin wrote more into its scratch directory than allowed."
        "Raise limits.scratch_mib in plugin.toml, or write less: what is removed still counts.";
    TimeLimit "TIME_LIMIT" Plugin DeadLetter
        "The plugin ran longer than its wall time."
        "Raise limits.wall_ms in plugin.toml, or look for a loop.";
    CpuLimit "CPU_LIMIT" Plugin DeadLetter
        "The plugin took more processor time than allowed."
        "Raise limits.cpu_ms in plugin.toml, or look for a loop.";
    FuelLimit "FUEL_LIMIT" Plugin DeadLetter
        "The plugin ran more instructions than allowed."
        "Raise limits.fuel in plugin.toml, or look for a loop.";
    Stalled "STALLED" Plugin DeadLetter
        "The plugin neither reported nor did tensor work for its stall time."
        "Report progress, or raise limits.stall_ms in plugin.toml.";
    OutputLimit "OUTPUT_LIMIT" Plugin DeadLetter
        "Outputs or partials are larger than allowed."
        "Raise limits.output_mib in plugin.toml, or send less.";
    EventLimit "EVENT_LIMIT" Plugin DeadLetter
        "The plugin reported more events, or more in a second, than allowed."
        "Raise limits.events or limits.events_per_second in plugin.toml, or report less often.";
    HostcallLimit "HOSTCALL_LIMIT" Plugin DeadLetter
        "The plugin passed more data to or from the host than allowed."
        "Pass less, or raise limits.hostcall_mib or limits.hostcall_total_mib in plugin.toml.";
    HandleLimit "HANDLE_LIMIT" Plugin DeadLetter
        "The plugin held more handles than allowed."
        "Drop handles that are done, or raise limits.handles in plugin.toml.";
    DeliveryLimit "DELIVERY_LIMIT" Host DeadLetter
        "The job was handed to hosts that died, or lost their broker, too often."
        "Look at what the job does to its host before requeueing the dead letter.";
    DeliveryTimeout "DELIVERY_TIMEOUT" Operator DeadLetter
        "The job ran longer than its broker waits for an acknowledgement (RabbitMQ's consumer_timeout)."
        "Raise consumer_timeout on the broker above limits.wall_ms, or lower limits.wall_ms.";
    HostCrash "HOST_CRASH" Host DeadLetter
        "The host died while it ran the job, and died again while it ran nothing else."
        "Look at the host's log and at what the plugin asks of the host before requeueing the dead letter.";
    RetriesExhausted "RETRIES_EXHAUSTED" Plugin DeadLetter
        "Every attempt that the retry budget allows has failed; the text is the last one's."
        "Look at the last cause; requeue the dead letter once it is gone.";
    DeviceLost "DEVICE_LOST" Host RetryOnce
        "The GPU was lost while it held what the job had computed, and lost again at the next attempt."
        "Look at the GPU's driver (`dmesg`) and at `warren device`; set device = \"cpu\" until it is mended, then requeue the dead letter.";
    HostError "HOST_ERROR" Host Retry
        "The host itself failed."
        "Read the host's log at the time of the event.";
    ReplyUnroutable "REPLY_UNROUTABLE" Client DeadLetter
        "The result could not be delivered to the reply address."
        "The result is kept in the dead letter; declare the reply queue before submitting.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.info().name)
    }
}

/// What is left until `deadline`; zero when it has passed.
pub fn time_left(deadline: SystemTime) -> Duration {
    deadline.duration_since(SystemTime::now()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routing_keys_split_into_model_and_class() {
        assert_eq!(Class::split("a.b"), ("a.b", Class::Normal));
        assert_eq!(Class::split("a.urgent"), ("a", Class::Urgent));
        assert_eq!(Class::split("a.b.bulk"), ("a.b", Class::Bulk));
        assert_eq!(Class::split(".bulk"), (".bulk", Class::Normal));
    }

    #[test]
    fn codes_are_unique_and_screaming() {
        let mut names: Vec<&str> = Code::ALL.iter().map(|c| c.info().name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
        assert!(names.iter().all(|n| n.chars().all(|c| c.is_ascii_uppercase() || c == '_')));
    }
}
