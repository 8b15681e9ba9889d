//! Events for people (progress bars) and for programs (JSON lines).

use std::io::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use warren_client::oip::{Data, Datatype, Parameter, Parameters, Tensor};
use warren_client::{Event, EventBody};

/// The most elements of a tensor that are shown to people, and bytes of a text.
const SHOWN: usize = 8;
const SHOWN_TEXT: usize = 400;

/// Shows one job's events as they come.
pub struct Render {
    json: bool,
    bar: ProgressBar,
    stage: String,
}

fn parameters(parameters: &Parameters) -> Value {
    let value = |p: &Parameter| match p {
        Parameter::Bool(v) => json!(v),
        Parameter::Int(v) => json!(v),
        Parameter::Float(v) => json!(v),
        Parameter::Text(v) => json!(v),
    };
    Value::Object(parameters.iter().map(|(n, p)| (n.clone(), value(p))).collect())
}

/// The elements as JSON; what JSON cannot say becomes a string (`NaN`) or base16.
fn elements(tensor: &Tensor) -> Value {
    fn numbers<const N: usize>(raw: &[u8], read: impl Fn([u8; N]) -> Value) -> Value {
        Value::Array(raw.as_chunks::<N>().0.iter().map(|b| read(*b)).collect())
    }
    let float = |v: f64| serde_json::Number::from_f64(v).map_or_else(|| json!(v.to_string()), Value::Number);
    match (&tensor.data, tensor.datatype) {
        (Data::None, _) => Value::Null,
        (Data::Strings(strings), _) => strings
            .iter()
            .map(|s| match std::str::from_utf8(s) {
                Ok(text) => json!(text),
                Err(_) => json!({ "base16": hex(s) }),
            })
            .collect(),
        (Data::Raw(raw), Datatype::Fp32) => numbers(raw, |b| {
            // By way of the shortest decimal, so that 0.1 is shown as 0.1.
            let v = f32::from_le_bytes(b);
            v.to_string().parse::<f64>().map_or_else(|_| json!(v.to_string()), float)
        }),
        (Data::Raw(raw), Datatype::Fp64) => numbers(raw, |b| float(f64::from_le_bytes(b))),
        (Data::Raw(raw), Datatype::Bool) => raw.iter().map(|b| json!(*b != 0)).collect(),
        (Data::Raw(raw), Datatype::Uint8) => raw.iter().map(|b| json!(b)).collect(),
        (Data::Raw(raw), Datatype::Int8) => raw.iter().map(|b| json!(b.cast_signed())).collect(),
        (Data::Raw(raw), Datatype::Uint16) => numbers(raw, |b| json!(u16::from_le_bytes(b))),
        (Data::Raw(raw), Datatype::Int16) => numbers(raw, |b| json!(i16::from_le_bytes(b))),
        (Data::Raw(raw), Datatype::Uint32) => numbers(raw, |b| json!(u32::from_le_bytes(b))),
        (Data::Raw(raw), Datatype::Int32) => numbers(raw, |b| json!(i32::from_le_bytes(b))),
        (Data::Raw(raw), Datatype::Uint64) => numbers(raw, |b| json!(u64::from_le_bytes(b))),
        (Data::Raw(raw), Datatype::Int64) => numbers(raw, |b| json!(i64::from_le_bytes(b))),
        (Data::Raw(raw), Datatype::Fp16 | Datatype::Bf16 | Datatype::Bytes) => json!({ "base16": hex(raw) }),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn tensor(tensor: &Tensor) -> Value {
    json!({
        "name": tensor.name, "datatype": tensor.datatype.name(), "shape": tensor.shape,
        "parameters": parameters(&tensor.parameters), "data": elements(tensor),
    })
}

/// One event as a JSON object: its headers, and its body as JSON whatever its form was on the wire.
pub fn event_json(job: &str, event: &Event) -> Value {
    let (kind, body, code) = match &event.body {
        EventBody::Status { stage, progress, message } => {
            ("status", json!({ "stage": stage, "progress": progress, "message": message }), None)
        }
        EventBody::Partial(piece) => ("partial", tensor(piece), None),
        EventBody::Result(response) => (
            "result",
            json!({
                "model_name": response.model_name, "model_version": response.model_version, "id": response.id,
                "parameters": parameters(&response.parameters),
                "outputs": response.outputs.iter().map(tensor).collect::<Vec<_>>(),
            }),
            None,
        ),
        EventBody::Error(error) => ("error", json!({ "error": error.text }), Some(error.code.clone())),
    };
    json!({
        "type": kind, "job": job, "attempt": event.attempt, "sequence": event.sequence,
        "final": event.is_final(), "plugin": event.plugin, "digest": event.digest, "code": code, "body": body,
    })
}

/// One output for people: a line, or the text itself.
pub fn describe(tensor: &Tensor) -> String {
    let head = format!("{}  {} {:?}", tensor.name, tensor.datatype.name(), tensor.shape);
    if let Some(url) = tensor.parameters.text("dataref") {
        let size = tensor.parameters.int("size").map(|s| format!(", {s} bytes")).unwrap_or_default();
        return format!("{head}  {url}{size}");
    }
    match &tensor.data {
        Data::Strings(strings) => {
            let mut text = String::new();
            for string in strings.iter().take(SHOWN) {
                match std::str::from_utf8(string) {
                    Ok(shown) => {
                        let cut: String = shown.chars().take(SHOWN_TEXT).collect();
                        let more = if cut.len() < shown.len() { "…" } else { "" };
                        text.push_str(&format!("\n    {}{more}", cut.replace('\n', "\n    ")));
                    }
                    Err(_) => text.push_str(&format!("\n    <{} bytes>", string.len())),
                }
            }
            format!("{head}{text}")
        }
        Data::Raw(_) => match elements(tensor) {
            Value::Array(all) => {
                let shown: Vec<String> = all.iter().take(SHOWN).map(Value::to_string).collect();
                let more = if all.len() > SHOWN { ", …" } else { "" };
                format!("{head}  [{}{more}]", shown.join(", "))
            }
            other => format!("{head}  {other}"),
        },
        Data::None => head,
    }
}

impl Render {
    /// For programs, or for people.
    pub fn new(json: bool) -> Self {
        let bar = if json { ProgressBar::hidden() } else { ProgressBar::new(1000) };
        let style = ProgressStyle::with_template("{spinner} {prefix:12} [{bar:32}] {percent:>3}%  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { json, bar, stage: String::new() }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Shows an event.
    pub fn show(&mut self, job: &str, event: &Event) -> std::io::Result<()> {
        if self.json {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{}", event_json(job, event))?;
            return out.flush();
        }
        match &event.body {
            EventBody::Status { stage, progress, message } => {
                if *stage != self.stage {
                    self.stage.clone_from(stage);
                    self.bar.set_prefix(stage.clone());
                }
                if let Some(progress) = progress {
                    self.bar.set_position((f64::from(*progress) * 1000.0) as u64);
                }
                self.bar.set_message(message.clone().unwrap_or_default());
                // No terminal, no bar: a line each time instead.
                if self.bar.is_hidden() {
                    let percent = progress.map(|p| format!("{:3.0} %  ", p * 100.0)).unwrap_or_default();
                    eprintln!("{stage:12} {percent}{}", message.as_deref().unwrap_or_default());
                }
            }
            EventBody::Partial(piece) => self.bar.suspend(|| println!("partial  {}", describe(piece))),
            EventBody::Result(response) => {
                self.bar.finish_and_clear();
                println!("result of {} by {}", response.model_name, event.plugin);
                for (name, value) in response.parameters.iter() {
                    println!("  {name} = {}", parameter_text(value));
                }
                for output in &response.outputs {
                    println!("  {}", describe(output));
                }
            }
            EventBody::Error(error) => {
                self.bar.finish_and_clear();
                eprintln!("{}: {}", error.code, error.text);
            }
        }
        Ok(())
    }
}

fn parameter_text(parameter: &Parameter) -> String {
    match parameter {
        Parameter::Bool(v) => v.to_string(),
        Parameter::Int(v) => v.to_string(),
        Parameter::Float(v) => v.to_string(),
        Parameter::Text(v) => v.clone(),
    }
}
