//! Requests and responses into bodies.

use bytes::Bytes;
use serde::Serialize;

use super::error::EncodeError;
use super::{
    BINARY_DATA_SIZE, Data, Datatype, InferRequest, InferResponse, Parameter, Parameters, Tensor, elements,
};

/// The body, and in binary form the length of its JSON part (header
/// `inference-header-content-length`).
type Encoded = (Bytes, Option<usize>);

impl InferRequest {
    /// Writes the body: JSON throughout, or with all tensors' data in binary form after a JSON
    /// header, whose length is the second value.
    ///
    /// # Errors
    /// [`EncodeError`] if data does not fit its shape, or something has no JSON form.
    pub fn encode(&self, binary: bool) -> Result<Encoded, EncodeError> {
        let mut out = Writer::new(binary, &self.inputs);
        out.open(b'{');
        if let Some(id) = &self.id {
            out.field("id", id);
        }
        out.parameters(&self.parameters, None)?;
        out.tensors("inputs", &self.inputs)?;
        if !self.outputs.is_empty() {
            out.key("outputs");
            out.open(b'[');
            for output in &self.outputs {
                out.comma();
                out.open(b'{');
                out.field("name", &output.name);
                out.parameters(&output.parameters, None)?;
                out.close(b'}');
            }
            out.close(b']');
        }
        out.close(b'}');
        Ok(out.finish(&self.inputs))
    }

    /// Whether some input has no JSON form: half precision, a NaN or infinity, or a byte string that
    /// is not UTF-8.
    pub fn needs_binary(&self) -> bool {
        self.inputs.iter().any(needs_binary)
    }
}

impl InferResponse {
    /// Writes the body; as [`InferRequest::encode`].
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn encode(&self, binary: bool) -> Result<Encoded, EncodeError> {
        let mut out = Writer::new(binary, &self.outputs);
        out.open(b'{');
        out.field("model_name", &self.model_name);
        if let Some(version) = &self.model_version {
            out.field("model_version", version);
        }
        if let Some(id) = &self.id {
            out.field("id", id);
        }
        out.parameters(&self.parameters, None)?;
        out.tensors("outputs", &self.outputs)?;
        out.close(b'}');
        Ok(out.finish(&self.outputs))
    }

    /// Whether some output has no JSON form; as [`InferRequest::needs_binary`].
    pub fn needs_binary(&self) -> bool {
        self.outputs.iter().any(needs_binary)
    }
}

fn needs_binary(tensor: &Tensor) -> bool {
    match (&tensor.data, tensor.datatype) {
        (Data::None, _) => false,
        (Data::Strings(elements), _) => elements.iter().any(|e| std::str::from_utf8(e).is_err()),
        (Data::Raw(raw), Datatype::Fp32) => {
            raw.as_chunks::<4>().0.iter().any(|b| !f32::from_le_bytes(*b).is_finite())
        }
        (Data::Raw(raw), Datatype::Fp64) => {
            raw.as_chunks::<8>().0.iter().any(|b| !f64::from_le_bytes(*b).is_finite())
        }
        (Data::Raw(_), datatype) => !datatype.has_json(),
    }
}

/// JSON text under construction.
struct Writer {
    out: Vec<u8>,
    binary: bool,
}

impl Writer {
    fn new(binary: bool, tensors: &[Tensor]) -> Self {
        let data: usize = tensors.iter().map(|t| binary_size(&t.data)).sum();
        Self { out: Vec::with_capacity(256 + data), binary }
    }

    fn finish(mut self, tensors: &[Tensor]) -> Encoded {
        if !self.binary {
            return (Bytes::from(self.out), None);
        }
        let header = self.out.len();
        for tensor in tensors {
            match &tensor.data {
                Data::Raw(raw) => self.out.extend_from_slice(raw),
                Data::Strings(elements) => {
                    for element in elements {
                        // Lengths were checked with the shapes.
                        self.out.extend_from_slice(&(element.len() as u32).to_le_bytes());
                        self.out.extend_from_slice(element);
                    }
                }
                Data::None => {}
            }
        }
        (Bytes::from(self.out), Some(header))
    }

    fn open(&mut self, bracket: u8) {
        self.out.push(bracket);
    }

    fn close(&mut self, bracket: u8) {
        self.out.push(bracket);
    }

    /// A comma, unless this is the first thing in its brackets.
    fn comma(&mut self) {
        if !matches!(self.out.last(), Some(b'{' | b'[' | b':')) {
            self.out.push(b',');
        }
    }

    fn key(&mut self, key: &str) {
        self.comma();
        self.value(key);
        self.out.push(b':');
    }

    fn field(&mut self, key: &str, value: &str) {
        self.key(key);
        self.value(value);
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) {
        // Texts, finite numbers and booleans into a Vec: nothing that can fail.
        let _ = serde_json::to_writer(&mut self.out, value);
    }

    /// `binary_size` is added as the binary extension's parameter, and any of its name dropped.
    fn parameters(&mut self, parameters: &Parameters, binary_size: Option<usize>) -> Result<(), EncodeError> {
        if parameters.is_empty() && binary_size.is_none() {
            return Ok(());
        }
        self.key("parameters");
        self.open(b'{');
        for (name, value) in parameters {
            if name == BINARY_DATA_SIZE {
                continue;
            }
            self.key(name);
            match value {
                Parameter::Bool(value) => self.value(value),
                Parameter::Int(value) => self.value(value),
                Parameter::Float(value) if value.is_finite() => self.value(value),
                Parameter::Float(value) => {
                    return Err(EncodeError::Parameter { name: name.clone(), value: *value });
                }
                Parameter::Text(value) => self.value(value),
            }
        }
        if let Some(size) = binary_size {
            self.key(BINARY_DATA_SIZE);
            self.value(&size);
        }
        self.close(b'}');
        Ok(())
    }

    fn tensors(&mut self, key: &str, tensors: &[Tensor]) -> Result<(), EncodeError> {
        self.key(key);
        self.open(b'[');
        for tensor in tensors {
            check(tensor)?;
            self.comma();
            self.open(b'{');
            self.field("name", &tensor.name);
            self.key("shape");
            self.value(&tensor.shape);
            self.field("datatype", tensor.datatype.name());
            let present = tensor.data != Data::None;
            self.parameters(&tensor.parameters, (self.binary && present).then(|| binary_size(&tensor.data)))?;
            if present && !self.binary {
                self.key("data");
                self.open(b'[');
                self.data(tensor)?;
                self.close(b']');
            }
            self.close(b'}');
        }
        self.close(b']');
        Ok(())
    }

    /// The elements, flat, separated by commas.
    fn data(&mut self, tensor: &Tensor) -> Result<(), EncodeError> {
        let refuse = |what: String| EncodeError::NeedsBinary { name: tensor.name.clone(), what };
        let raw = match &tensor.data {
            Data::Raw(raw) => raw,
            Data::Strings(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    let text = std::str::from_utf8(element)
                        .map_err(|_| refuse(format!("element {index}, which is not UTF-8,")))?;
                    if index > 0 {
                        self.out.push(b',');
                    }
                    self.value(text);
                }
                return Ok(());
            }
            Data::None => return Ok(()),
        };
        macro_rules! numbers {
            ($type:ty) => {
                for (index, bytes) in raw.as_chunks::<{ size_of::<$type>() }>().0.iter().enumerate() {
                    if index > 0 {
                        self.out.push(b',');
                    }
                    self.value(&<$type>::from_le_bytes(*bytes));
                }
            };
        }
        macro_rules! floats {
            ($type:ty) => {
                for (index, bytes) in raw.as_chunks::<{ size_of::<$type>() }>().0.iter().enumerate() {
                    let value = <$type>::from_le_bytes(*bytes);
                    if !value.is_finite() {
                        return Err(refuse(format!("element {index}, {value},")));
                    }
                    if index > 0 {
                        self.out.push(b',');
                    }
                    self.value(&value);
                }
            };
        }
        match tensor.datatype {
            Datatype::Bool => {
                for (index, byte) in raw.iter().enumerate() {
                    if index > 0 {
                        self.out.push(b',');
                    }
                    self.value(&(*byte != 0));
                }
            }
            Datatype::Uint8 => numbers!(u8),
            Datatype::Uint16 => numbers!(u16),
            Datatype::Uint32 => numbers!(u32),
            Datatype::Uint64 => numbers!(u64),
            Datatype::Int8 => numbers!(i8),
            Datatype::Int16 => numbers!(i16),
            Datatype::Int32 => numbers!(i32),
            Datatype::Int64 => numbers!(i64),
            Datatype::Fp32 => floats!(f32),
            Datatype::Fp64 => floats!(f64),
            Datatype::Fp16 | Datatype::Bf16 | Datatype::Bytes => {
                return Err(refuse(tensor.datatype.name().to_owned()));
            }
        }
        Ok(())
    }
}

/// Bytes of the binary form.
fn binary_size(data: &Data) -> usize {
    match data {
        Data::Raw(raw) => raw.len(),
        Data::Strings(elements) => elements.iter().map(|e| 4 + e.len()).sum(),
        Data::None => 0,
    }
}

/// Whether the data fills the shape.
fn check(tensor: &Tensor) -> Result<(), EncodeError> {
    let count = elements(&tensor.shape);
    let shape = |expected: String, got: String| EncodeError::Shape {
        name: tensor.name.clone(),
        datatype: tensor.datatype,
        shape: tensor.shape.clone(),
        expected,
        got,
    };
    match (&tensor.data, tensor.datatype.size()) {
        (Data::None, _) => Ok(()),
        (Data::Raw(raw), Some(size)) => match count.and_then(|n| n.checked_mul(size as u64)) {
            Some(expected) if expected == raw.len() as u64 => Ok(()),
            Some(expected) => Err(shape(format!("{expected} bytes"), format!("{} bytes", raw.len()))),
            None => Err(shape("more than 2^64 bytes".to_owned(), format!("{} bytes", raw.len()))),
        },
        (Data::Strings(elements), None) => {
            if let Some(long) = elements.iter().find(|e| e.len() > u32::MAX as usize) {
                return Err(shape("elements below 4 GiB".to_owned(), format!("one of {} bytes", long.len())));
            }
            match count {
                Some(expected) if expected == elements.len() as u64 => Ok(()),
                Some(expected) => {
                    Err(shape(format!("{expected} elements"), format!("{} elements", elements.len())))
                }
                None => {
                    Err(shape("more than 2^64 elements".to_owned(), format!("{} elements", elements.len())))
                }
            }
        }
        (Data::Raw(_), None) => Err(shape("byte strings".to_owned(), "raw numbers".to_owned())),
        (Data::Strings(_), Some(_)) => Err(shape("numbers".to_owned(), "byte strings".to_owned())),
    }
}
