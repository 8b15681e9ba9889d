//! Does nothing: what remains is the cost of the way itself.

use warren_sdk::prelude::*;

struct Noop;

impl Plugin for Noop {
    fn infer(_job: &Job) -> Result<Outputs, Failure> {
        Ok(Outputs::new())
    }
}

warren_sdk::plugin!(Noop);
