//! Runs an ONNX model on a job's inputs: the one in the job's BYTES input `model`, else the
//! plugin's own `model.onnx`. Every output of the graph is an output of the job.

use warren_onnx::Model;
use warren_sdk::bindings::warren::plugin::jobs::InputType;
use warren_sdk::prelude::*;

struct Onnx;

impl Plugin for Onnx {
    fn prepare() -> Result<(), Failure> {
        match std::fs::read("/plugin/model.onnx") {
            Ok(file) => {
                Model::parse(file).map_err(|e| Failure::Failed(format!("model.onnx: {e}")))?.store("model")
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Failure::Failed(format!("model.onnx cannot be read: {e}"))),
        }
    }

    fn infer(job: &Job) -> Result<Outputs, Failure> {
        let mut inputs = job.inputs();
        let brought =
            inputs.iter().position(|i| i.name == "model" && matches!(i.input_type, InputType::Bytes));
        let model = match brought {
            Some(index) => {
                inputs.remove(index);
                let file: Vec<u8> = job.input("model")?;
                Model::parse(file).map_err(|e| Failure::Invalid(format!("input \"model\": {e}")))?
            }
            None => Model::restore("model")?,
        };
        let tensors = inputs.iter().map(|i| job.tensor(&i.name)).collect::<Result<Vec<_>, _>>()?;
        let given: Vec<(&str, &Tensor)> = inputs.iter().map(|i| i.name.as_str()).zip(&tensors).collect();
        let wanted: Vec<&str> = model.outputs().iter().map(|o| o.name.as_str()).collect();
        let results = model.run(&given, &wanted)?;
        Ok(wanted.iter().zip(results).fold(Outputs::new(), |out, (name, tensor)| out.tensor(name, tensor)))
    }
}

warren_sdk::plugin!(Onnx);
