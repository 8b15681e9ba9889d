//! The jobs interface: what a guest sees of its jobs, and the progress it reports.

use std::sync::Arc;

use bytes::Bytes;
use warren_tensor::{DataType, TensorId};
use wasmtime::Result;
use wasmtime::component::Resource;

use super::bindings::warren::plugin::jobs::{Control, Host, HostJob, InputDescriptor, InputType};
use super::bindings::warren::plugin::tensors::ErrorKind;
use super::bindings::warren::plugin::types::{ByteStrings, Host as TypesHost, Parameter, Value};
use super::guest_log::clean;
use super::state::{RunningJob, State, Stop, value_bytes};
use super::tensors::{wit_data_type, work};
use super::{JobHandle, TensorHandle};
use crate::config::mib;
use crate::job::{self, Code, Data, Datatype, Failure, Named, Progress};

/// The longest stage and message of a status that are kept.
const MAX_STAGE: usize = 64;
const MAX_MESSAGE: usize = 1024;

/// Most dimensions of a value, as of a tensor.
const MAX_RANK: usize = 8;

/// The tensor type that holds a protocol type; none for BYTES.
pub fn tensor_type(datatype: Datatype) -> Option<DataType> {
    Some(match datatype {
        Datatype::Bool | Datatype::Uint8 => DataType::Uint8,
        Datatype::Uint32 => DataType::Uint32,
        Datatype::Uint64 => DataType::Uint64,
        Datatype::Int8 => DataType::Int8,
        Datatype::Int32 => DataType::Int32,
        Datatype::Int64 => DataType::Int64,
        Datatype::Fp16 => DataType::Float16,
        Datatype::Fp32 => DataType::Float32,
        Datatype::Bytes => return None,
    })
}

/// The protocol type of a tensor type.
pub fn protocol_type(data_type: DataType) -> Datatype {
    match data_type {
        DataType::Float32 => Datatype::Fp32,
        DataType::Float16 => Datatype::Fp16,
        DataType::Int32 => Datatype::Int32,
        DataType::Uint32 => Datatype::Uint32,
        DataType::Int64 => Datatype::Int64,
        DataType::Uint64 => Datatype::Uint64,
        DataType::Int8 => Datatype::Int8,
        DataType::Uint8 => Datatype::Uint8,
    }
}

fn trap(failure: Failure) -> wasmtime::Error {
    wasmtime::Error::new(Stop(failure))
}

impl State {
    fn running(&mut self, handle: &Resource<JobHandle>) -> Result<&mut RunningJob> {
        let index = handle.rep() as usize;
        self.jobs.get_mut(index).ok_or_else(|| wasmtime::Error::msg(format!("no job {index} in this batch")))
    }

    /// Counts an event of the job.
    fn event(&mut self, handle: &Resource<JobHandle>) -> Result<&mut RunningJob> {
        let (most, rate, now) = (self.limits.events, self.limits.events_per_second, self.watch.now_ms());
        let running = self.running(handle)?;
        running.events += 1;
        let over = if running.events > most {
            format!("more than {most} events reported: limits.events is {most}")
        } else if !running.rate.take(now, rate) {
            format!("more than {rate} events a second reported: limits.events_per_second is {rate}")
        } else {
            return Ok(running);
        };
        Err(trap(Failure::new(Code::EventLimit, over)))
    }

    fn control(&self) -> Control {
        if self.watch.winds_down() { Control::Cancel } else { Control::Continue }
    }

    /// Takes a value that the guest hands over, as named data for the outside.
    pub fn take_value(&mut self, name: &str, value: Value, content_type: Option<String>) -> Result<Named> {
        let bad = |text: String| trap(Failure::new(Code::BadResult, text));
        if name.is_empty() || name.len() > 255 {
            return Err(bad(format!("an output's name has {} bytes: use 1 to 255", name.len())));
        }
        if let Some(kind) = content_type.as_ref().filter(|k| k.len() > 255) {
            return Err(bad(format!(
                "output {name:?}: its media type has {} bytes: use at most 255",
                kind.len()
            )));
        }
        match value {
            Value::Bytes(ByteStrings { shape, elements }) => {
                if shape.len() > MAX_RANK {
                    let rank = shape.len();
                    return Err(bad(format!(
                        "output {name:?} has {rank} dimensions: use at most {MAX_RANK}"
                    )));
                }
                let count = shape.iter().try_fold(1u64, |n, d| n.checked_mul(u64::from(*d)));
                if count != Some(elements.len() as u64) {
                    return Err(bad(format!(
                        "output {name:?} has {} byte strings and shape {shape:?}",
                        elements.len()
                    )));
                }
                let data = Data::Strings(elements.into_iter().map(Bytes::from).collect());
                Ok(Named { name: name.to_owned(), datatype: Datatype::Bytes, shape, data, content_type })
            }
            Value::Tensor(handle) => {
                let id = TensorId::from_rep(handle.rep());
                let value = work(self, |session| session.value(id))?.map_err(|e| {
                    let (code, said) = match e.kind {
                        // It names the limit.
                        ErrorKind::OutOfMemory => (Code::DeviceMemory, self.device_denied.clone()),
                        ErrorKind::Device => (Code::HostError, None),
                        _ => (Code::BadResult, None),
                    };
                    let said = said.unwrap_or(e.message);
                    trap(Failure::new(code, format!("output {name:?}: {}: {said}", e.operation)))
                })?;
                self.session.release(id);
                Ok(Named {
                    name: name.to_owned(),
                    datatype: protocol_type(value.data_type()),
                    shape: value.shape().to_vec(),
                    data: Data::Raw(value_bytes(value)),
                    content_type,
                })
            }
        }
    }
}

/// Bytes that named data holds.
pub fn size(named: &Named) -> u64 {
    match &named.data {
        Data::Raw(bytes) => bytes.len() as u64,
        Data::Strings(strings) => strings.iter().map(|s| s.len() as u64 + 4).sum(),
        Data::Reference(_) => 0,
    }
}

impl TypesHost for State {}

impl Host for State {}

impl HostJob for State {
    fn id(&mut self, this: Resource<JobHandle>) -> Result<String> {
        Ok(self.running(&this)?.job.envelope.id.clone())
    }

    fn model(&mut self, this: Resource<JobHandle>) -> Result<String> {
        Ok(self.running(&this)?.job.envelope.model.clone())
    }

    fn attempt(&mut self, this: Resource<JobHandle>) -> Result<u32> {
        Ok(self.running(&this)?.job.envelope.attempt)
    }

    fn parameters(&mut self, this: Resource<JobHandle>) -> Result<Vec<(String, Parameter)>> {
        let convert = |p: &job::Parameter| match p {
            job::Parameter::Bool(v) => Parameter::Boolean(*v),
            job::Parameter::Int(v) => Parameter::Int64(*v),
            job::Parameter::Float(v) => Parameter::Float64(*v),
            job::Parameter::Text(v) => Parameter::Text(v.clone()),
        };
        Ok(self.running(&this)?.job.parameters.iter().map(|(n, p)| (n.clone(), convert(p))).collect())
    }

    fn inputs(&mut self, this: Resource<JobHandle>) -> Result<Vec<InputDescriptor>> {
        let describe = |input: &Named| InputDescriptor {
            name: input.name.clone(),
            input_type: tensor_type(input.datatype)
                .map_or(InputType::Bytes, |t| InputType::Tensor(wit_data_type(t))),
            shape: input.shape.clone(),
        };
        Ok(self.running(&this)?.job.inputs.iter().map(describe).collect())
    }

    fn input(&mut self, this: Resource<JobHandle>, name: String) -> Result<Option<Value>> {
        self.watch.active();
        let running = self.running(&this)?;
        let job = Arc::clone(&running.job);
        let Some((index, input)) = job.inputs.iter().enumerate().find(|(_, i)| i.name == name) else {
            return Ok(None);
        };
        let made = running.values.get(index).cloned().flatten();
        match (&input.data, tensor_type(input.datatype)) {
            (Data::Strings(strings), None) => {
                self.pass(usize::try_from(size(input)).unwrap_or(usize::MAX))?;
                let elements = strings.iter().map(|s| s.to_vec()).collect();
                Ok(Some(Value::Bytes(ByteStrings { shape: input.shape.clone(), elements })))
            }
            (Data::Raw(bytes), Some(data_type)) => {
                let value = match made {
                    Some(value) => value,
                    None => {
                        let budget = Arc::clone(self.session.budget());
                        let engine = Arc::clone(self.session.engine());
                        // The shape was checked against the data when the message was decoded, so
                        // what can fail here is the budget.
                        let value = engine.value(&budget, data_type, &input.shape, bytes).map_err(|e| {
                            trap(Failure::new(Code::DeviceMemory, format!("input {name:?}: {}", e.message)))
                        })?;
                        if let Some(slot) = self.running(&this)?.values.get_mut(index) {
                            *slot = Some(Arc::clone(&value));
                        }
                        value
                    }
                };
                let id = self.session.import(&value).map_err(|e| wasmtime::Error::msg(e.to_string()))?;
                Ok(Some(Value::Tensor(Resource::<TensorHandle>::new_own(id.rep()))))
            }
            _ => Err(trap(Failure::new(
                Code::HostError,
                format!("input {name:?} reached the sandbox unresolved"),
            ))),
        }
    }

    fn deadline_left(&mut self, this: Resource<JobHandle>) -> Result<Option<u64>> {
        self.running(&this)?;
        Ok(self.watch.deadline_left())
    }

    fn report(
        &mut self,
        this: Resource<JobHandle>,
        stage: String,
        progress: Option<f32>,
        message: Option<String>,
    ) -> Result<Control> {
        self.watch.active();
        self.pass(stage.len() + message.as_ref().map_or(0, String::len))?;
        let running = self.event(&this)?;
        (running.sink)(Progress::Status {
            stage: clean(&stage, MAX_STAGE),
            progress: progress.filter(|p| !p.is_nan()).map(|p| p.clamp(0.0, 1.0)),
            message: message.map(|m| clean(&m, MAX_MESSAGE)),
        });
        Ok(self.control())
    }

    fn emit(&mut self, this: Resource<JobHandle>, name: String, value: Value) -> Result<Control> {
        self.watch.active();
        let named = self.take_value(&name, value, None)?;
        self.pass(usize::try_from(size(&named)).unwrap_or(usize::MAX))?;
        let most = self.limits.output_mib;
        let running = self.event(&this)?;
        running.emitted = running.emitted.saturating_add(size(&named));
        if running.emitted > mib(most) {
            let text = format!("{} bytes of partials: limits.output_mib is {most}", running.emitted);
            return Err(trap(Failure::new(Code::OutputLimit, text)));
        }
        (running.sink)(Progress::Partial(named));
        Ok(self.control())
    }

    fn drop(&mut self, _this: Resource<JobHandle>) -> Result<()> {
        Ok(())
    }
}
