//! Makes the WebNN calls that a job describes, through the SDK's methods. The BYTES input `graph`
//! is JSON: `operators` as the W3C web-platform-tests write them, `outputs` (the names of the
//! tensors to return), and `constants` (inputs to be made anew as constants). The other inputs are
//! the tensors that the calls name.
//!
//! What does not fit, in the JSON or by an operation's rules, is `invalid`; what WebNN allows and
//! the host has not is `failed` with a text that begins with "unsupported: ".

mod call;
mod operations;

use std::collections::HashMap;

use serde_json::Value as Json;
use warren_sdk::bindings::warren::plugin::jobs::InputType;
use warren_sdk::prelude::*;
use warren_sdk::tensor::{ErrorKind, TensorError, dispatch};

use call::Call;

struct Conformance;

/// Why a graph cannot be had.
pub enum Refusal {
    /// The JSON does not say it.
    Json(String),
    /// An operation refuses it.
    Operation(TensorError),
}

impl From<TensorError> for Refusal {
    fn from(error: TensorError) -> Self {
        Self::Operation(error)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Json(text) => Failure::Invalid(format!("input \"graph\": {text}")),
            Refusal::Operation(TensorError { kind, operation, message }) => match kind {
                ErrorKind::InvalidArgument => Failure::Invalid(format!("{operation}: {message}")),
                ErrorKind::Unsupported => Failure::Failed(format!("unsupported: {operation}: {message}")),
                _ => Failure::Failed(format!("{operation}: {message}")),
            },
        }
    }
}

/// The list under a key.
fn list<'a>(json: &'a Json, key: &str) -> Result<&'a [Json], Refusal> {
    match json.get(key) {
        Some(Json::Array(list)) => Ok(list),
        Some(other) => Err(Refusal::Json(format!("{key:?} is {other}, expected a list"))),
        None => Err(Refusal::Json(format!("there is no {key:?} in {json}"))),
    }
}

fn name<'a>(json: &'a Json, what: &str) -> Result<&'a str, Refusal> {
    json.as_str().ok_or_else(|| Refusal::Json(format!("{what} is {json}, expected a name")))
}

/// Makes the calls in order; their results join the tensors.
fn record(graph: &Json, tensors: &mut HashMap<String, Tensor>) -> Result<(), Refusal> {
    for constant in list(graph, "constants")? {
        let constant = name(constant, "a constant")?;
        let Some(tensor) = tensors.get_mut(constant) else {
            return Err(Refusal::Json(format!("there is no input {constant:?} to make constant")));
        };
        *tensor = Tensor::from_bytes(tensor.data_type(), &tensor.shape(), &tensor.bytes()?)?;
    }
    for operator in list(graph, "operators")? {
        let operation = name(&operator["name"], "an operator's name")?;
        let made = Call::new(operation, list(operator, "arguments")?, tensors)?.record()?;
        let names: Vec<&str> = match &operator["outputs"] {
            Json::Array(names) => names.iter().map(|n| name(n, "an output")).collect::<Result<_, _>>()?,
            one => vec![name(one, "an output")?],
        };
        if names.len() != made.len() {
            let (made, names) = (made.len(), names.len());
            return Err(Refusal::Json(format!("{operation} makes {made} tensors, {names} are named")));
        }
        tensors.extend(names.into_iter().map(str::to_owned).zip(made));
    }
    Ok(())
}

impl Plugin for Conformance {
    fn infer(job: &Job) -> Result<Outputs, Failure> {
        let text: Vec<u8> = job.input("graph")?;
        let graph: Json = serde_json::from_slice(&text)
            .map_err(|e| Failure::Invalid(format!("input \"graph\": not JSON: {e}")))?;
        let mut tensors = HashMap::new();
        for input in job.inputs().iter().filter(|i| matches!(i.input_type, InputType::Tensor(_))) {
            tensors.insert(input.name.clone(), job.tensor(&input.name)?);
        }
        record(&graph, &mut tensors)?;
        let mut outputs = Vec::new();
        for output in list(&graph, "outputs")? {
            let output = name(output, "an output")?;
            let missing =
                || Refusal::Json(format!("no call makes the output {output:?}, or it is named twice"));
            outputs.push((output, tensors.remove(output).ok_or_else(missing)?));
        }
        job.report("computing", f32::NAN, "");
        let wanted: Vec<&Tensor> = outputs.iter().map(|(_, tensor)| tensor).collect();
        dispatch(&wanted).map_err(Refusal::from)?;
        Ok(outputs.into_iter().fold(Outputs::new(), |all, (name, tensor)| all.tensor(name, tensor)))
    }
}

warren_sdk::plugin!(Conformance);
