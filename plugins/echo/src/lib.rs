//! Every input comes back as an output of the same name. The smallest example of a plugin.

use warren_sdk::prelude::*;

struct Echo;

impl Plugin for Echo {
    fn infer(job: &Job) -> Result<Outputs, Failure> {
        let inputs = job.inputs();
        let mut outputs = Outputs::new();
        for (done, input) in inputs.iter().enumerate() {
            job.report("echoing", done as f32 / inputs.len() as f32, &input.name);
            outputs = outputs.value(&input.name, job.input(&input.name)?);
        }
        Ok(outputs)
    }
}

warren_sdk::plugin!(Echo);
