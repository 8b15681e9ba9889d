//! Bodies into requests and responses: the envelope by serde, the tensors' data by [`data`].

use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::marker::PhantomData;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;

use super::error::{clip, shape_text};
use super::{
    BINARY_DATA_SIZE, DATAREF, Data, Datatype, DecodeError, InferRequest, InferResponse, MAX_NAME,
    MAX_TENSORS, Parameter, Parameters, RequestedOutput, Tensor, data, elements,
};

/// Indices of an element that an error names: a shape may claim any number of dimensions.
const MAX_INDICES: usize = 16;

/// Everything that a request or a response may hold. Keys that neither has are ignored.
#[derive(Deserialize)]
struct Envelope<'a> {
    model_name: Option<String>,
    model_version: Option<String>,
    id: Option<String>,
    parameters: Option<Parameters>,
    #[serde(borrow)]
    inputs: Option<Entries<'a>>,
    #[serde(borrow)]
    outputs: Option<Entries<'a>>,
}

/// A tensor, or the request for one.
#[derive(Deserialize)]
struct Entry<'a> {
    name: Option<String>,
    datatype: Option<Datatype>,
    shape: Option<Vec<u64>>,
    parameters: Option<Parameters>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// A list of at most [`MAX_TENSORS`] entries: each takes far more memory than its text.
struct Entries<'a>(Vec<Entry<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> de::Visitor<'de> for Visitor<'a> {
            type Value = Entries<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of tensors")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Entries<'a>, A::Error> {
                let mut entries = Vec::new();
                while let Some(Object(entry)) = list.next_element()? {
                    if entries.len() == MAX_TENSORS {
                        return Err(de::Error::custom(format_args!("more than {MAX_TENSORS} entries")));
                    }
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_seq(Visitor(PhantomData))
    }
}

/// A struct that must be a JSON object; derived code would also take an array of its fields.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Visitor(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Datatype {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Datatype;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a data type, one of ")?;
                for (i, datatype) in Datatype::ALL.iter().enumerate() {
                    write!(f, "{}{datatype}", if i == 0 { "" } else { ", " })?;
                }
                Ok(())
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Datatype, E> {
                Datatype::from_name(name)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(&clip(name, 40)), &self))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

impl InferRequest {
    /// Reads a body. `header_length` is the header `inference-header-content-length`: the length of
    /// the JSON part in front of binary tensors; without it the whole body is JSON. `content_type`
    /// only serves to explain a body that is not: clients' libraries set all kinds of defaults.
    ///
    /// # Errors
    /// [`DecodeError`], whose text names the place and is fit for the client.
    pub fn decode(
        body: &Bytes,
        content_type: Option<&str>,
        header_length: Option<u64>,
    ) -> Result<Self, DecodeError> {
        let (json, mut binary) = split(body, header_length)?;
        let envelope = parse(&json, content_type, header_length)?;
        let inputs = envelope.inputs.ok_or_else(|| missing("inputs"))?;
        let inputs = tensors(&json, "input", inputs, &mut binary)?;
        binary.finish()?;
        let mut outputs = Vec::new();
        for (index, entry) in envelope.outputs.map_or_else(Vec::new, |o| o.0).into_iter().enumerate() {
            let name = name(entry.name, "outputs", index)?;
            outputs.push(RequestedOutput { name, parameters: entry.parameters.unwrap_or_default() });
        }
        unique("outputs", outputs.iter().map(|o| o.name.as_str()))?;
        Ok(Self { id: envelope.id, parameters: envelope.parameters.unwrap_or_default(), inputs, outputs })
    }
}

impl InferResponse {
    /// Reads a body; arguments and errors as for [`InferRequest::decode`].
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(
        body: &Bytes,
        content_type: Option<&str>,
        header_length: Option<u64>,
    ) -> Result<Self, DecodeError> {
        let (json, mut binary) = split(body, header_length)?;
        let envelope = parse(&json, content_type, header_length)?;
        let model_name = envelope.model_name.ok_or_else(|| missing("model_name"))?;
        let outputs = envelope.outputs.ok_or_else(|| missing("outputs"))?;
        let outputs = tensors(&json, "output", outputs, &mut binary)?;
        binary.finish()?;
        Ok(Self {
            model_name,
            model_version: envelope.model_version,
            id: envelope.id,
            parameters: envelope.parameters.unwrap_or_default(),
            outputs,
        })
    }
}

/// The binary part, from which tensors are cut off in order.
struct Binary {
    rest: Bytes,
    size: usize,
    /// Sum of the sizes asked for.
    taken: u64,
}

impl Binary {
    fn take(&mut self, size: u64) -> Result<Bytes, DecodeError> {
        self.taken = self.taken.saturating_add(size);
        match usize::try_from(size) {
            Ok(size) if size <= self.rest.len() => Ok(self.rest.split_to(size)),
            _ => Err(DecodeError::BinaryLength { expected: self.taken, got: self.size }),
        }
    }

    fn finish(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(DecodeError::BinaryLength { expected: self.taken, got: self.size })
    }
}

fn split(body: &Bytes, header_length: Option<u64>) -> Result<(Bytes, Binary), DecodeError> {
    let length = match header_length {
        None => body.len(),
        Some(header) => match usize::try_from(header) {
            Ok(length) if (1..=body.len()).contains(&length) => length,
            _ => return Err(DecodeError::HeaderLength { header, body: body.len() }),
        },
    };
    let rest = body.slice(length..);
    Ok((body.slice(..length), Binary { size: rest.len(), rest, taken: 0 }))
}

fn parse<'a>(
    json: &'a [u8],
    content_type: Option<&str>,
    header_length: Option<u64>,
) -> Result<Envelope<'a>, DecodeError> {
    let text = std::str::from_utf8(json).map_err(|e| DecodeError::NotJson {
        detail: format!("byte {} is not UTF-8", e.valid_up_to()),
        hint: hint(content_type, header_length),
    })?;
    serde_json::from_str(text)
        .map(|Object(envelope)| envelope)
        .map_err(|error| explain(text, &error, content_type, header_length))
}

/// Says where parsing failed. It costs a second parse, which only a bad body pays.
fn explain(
    text: &str,
    error: &serde_json::Error,
    content_type: Option<&str>,
    header_length: Option<u64>,
) -> DecodeError {
    if !error.is_data() {
        return DecodeError::NotJson {
            detail: clip(&error.to_string(), 300),
            hint: hint(content_type, header_length),
        };
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let path = match serde_path_to_error::deserialize::<_, Object<Envelope<'_>>>(&mut deserializer) {
        Err(error) => error.path().to_string(),
        Ok(_) => String::new(),
    };
    let path = if path.is_empty() || path == "." { "body".to_owned() } else { clip(&path, 300) };
    DecodeError::Structure { path, detail: clip(&error.to_string(), 300) }
}

fn hint(content_type: Option<&str>, header_length: Option<u64>) -> String {
    match (content_type, header_length) {
        (_, Some(length)) => {
            format!("; header inference-header-content-length says that the first {length} bytes are JSON")
        }
        (Some(kind), None) if kind.starts_with("application/json") => String::new(),
        (Some(kind), None) => format!(
            "; its content type is {:?}: send an Open Inference Protocol request as application/json, or with binary tensors and header inference-header-content-length",
            clip(kind, 60)
        ),
        (None, None) => String::new(),
    }
}

fn missing(key: &str) -> DecodeError {
    DecodeError::Structure { path: "body".to_owned(), detail: format!("{key:?} is missing") }
}

fn name(name: Option<String>, list: &str, index: usize) -> Result<String, DecodeError> {
    let wrong = |detail: String| DecodeError::Structure { path: format!("{list}[{index}].name"), detail };
    let name = name.ok_or_else(|| wrong("is missing".to_owned()))?;
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(wrong(format!("has {} bytes, and 1 to {MAX_NAME} are allowed", name.len())));
    }
    Ok(name)
}

fn unique<'a>(list: &str, names: impl Iterator<Item = &'a str> + Clone) -> Result<(), DecodeError> {
    if names.size_hint().1.is_some_and(|n| n < 2) {
        return Ok(());
    }
    let mut seen = HashSet::new();
    for (index, name) in names.enumerate() {
        if !seen.insert(name) {
            let path = format!("{list}[{index}].name");
            return Err(DecodeError::Structure { path, detail: format!("{name:?} is given twice") });
        }
    }
    Ok(())
}

/// Checks and completes the tensors of the list `<kind>s`.
fn tensors(
    json: &Bytes,
    kind: &'static str,
    Entries(entries): Entries<'_>,
    binary: &mut Binary,
) -> Result<Vec<Tensor>, DecodeError> {
    let list = if kind == "input" { "inputs" } else { "outputs" };
    let mut tensors = Vec::with_capacity(entries.len());
    for (index, entry) in entries.into_iter().enumerate() {
        tensors.push(tensor(json, kind, list, index, entry, binary)?);
    }
    unique(list, tensors.iter().map(|t: &Tensor| t.name.as_str()))?;
    Ok(tensors)
}

fn tensor(
    json: &Bytes,
    kind: &'static str,
    list: &str,
    index: usize,
    entry: Entry<'_>,
    binary: &mut Binary,
) -> Result<Tensor, DecodeError> {
    let name = name(entry.name, list, index)?;
    let wrong = |key: &str, indices: &[u64], detail: String| {
        let mut path = format!("{list}[{index}]");
        if !key.is_empty() {
            path.push('.');
            path.push_str(key);
        }
        for i in indices.iter().take(MAX_INDICES) {
            // Writing into a String does not fail.
            let _ = write!(path, "[{i}]");
        }
        if indices.len() > MAX_INDICES {
            path.push_str("...");
        }
        DecodeError::Tensor { kind, name: name.clone(), path, detail }
    };
    let datatype = entry.datatype.ok_or_else(|| wrong("datatype", &[], "is missing".to_owned()))?;
    let shape = entry.shape.ok_or_else(|| wrong("shape", &[], "is missing".to_owned()))?;
    let count = elements(&shape)
        .filter(|n| n.checked_mul(datatype.size().unwrap_or(1) as u64).is_some())
        .ok_or_else(|| {
            wrong(
                "shape",
                &[],
                format!("{datatype} of shape {} has more than 2^64 bytes", shape_text(&shape)),
            )
        })?;
    let mut parameters = entry.parameters.unwrap_or_default();
    let binary_size = match parameters.remove(BINARY_DATA_SIZE) {
        None => None,
        Some(Parameter::Int(size)) if size >= 0 => Some(size.unsigned_abs()),
        Some(_) => {
            let detail = "is not a number of bytes, 0 or more".to_owned();
            return Err(wrong("parameters.binary_data_size", &[], detail));
        }
    };
    let data = match (entry.data, binary_size, parameters.get(DATAREF)) {
        (Some(raw), None, None) => data::from_json(json, raw.get(), datatype, &shape, count)
            .map_err(|w| wrong("data", &w.indices, w.detail))?,
        (None, Some(size), None) => data::from_binary(binary.take(size)?, datatype, &shape, count)
            .map_err(|w| wrong("", &w.indices, w.detail))?,
        (None, None, Some(Parameter::Text(_))) => Data::None,
        (None, None, Some(_)) => return Err(wrong("parameters.dataref", &[], "is not a text".to_owned())),
        (None, None, None) => {
            let detail = "has no data: give \"data\", or parameter \"binary_data_size\" with binary data, or parameter \"dataref\"";
            return Err(wrong("", &[], detail.to_owned()));
        }
        _ => {
            let detail = "has data in more than one way: \"data\", parameters \"binary_data_size\" and \"dataref\" exclude each other";
            return Err(wrong("", &[], detail.to_owned()));
        }
    };
    Ok(Tensor { name, datatype, shape, parameters, data })
}
