//! Write a Warren plugin in Rust.
//!
//! ```ignore
//! use warren_sdk::prelude::*;
//!
//! struct Double;
//!
//! impl Plugin for Double {
//!     fn infer(job: &Job) -> Result<Outputs, Failure> {
//!         let x = job.tensor("x")?;
//!         job.report("guessing", 0.5, "doubling");
//!         Ok(Outputs::new().tensor("y", (&x + &x)?))
//!     }
//! }
//!
//! warren_sdk::plugin!(Double);
//! ```
//!
//! Build it as a `cdylib` for `wasm32-wasip2`, put the `.wasm` beside a `plugin.toml`, done.
//!
//! Of the machine a plugin sees two directories and nothing else: `/plugin`, its own folder, read-only, and
//! `/scratch`, empty for every call and gone after it. Into that a job may write `limits.scratch_mib` (64,
//! unless the manifest or the operator says otherwise): by how much its files grow, and 4 KiB for each file,
//! directory and link. What is removed still counts. Beyond, writing fails, and so does a job that fails of
//! it: with `SCRATCH_LIMIT`. There is no environment, no argument, no standard input and no network;
//! standard output and error go to the operator's log.

pub mod assets;
pub mod bindings;
mod job;
pub mod log;
mod outputs;
pub mod tensor;

pub use job::{FromInput, FromParameter, Job};
pub use outputs::{Failure, Outputs};
pub use tensor::{DataType, Element, Tensor};

/// What nearly every plugin needs.
pub mod prelude {
    pub use crate::tensor::{DataType, Element, Tensor};
    pub use crate::{Failure, Job, Outputs, Plugin, assets, log};
}

/// What an author implements.
pub trait Plugin {
    /// Runs once when the plugin is loaded: read files under `/plugin`, make assets. Only here may
    /// assets be written. An error keeps the plugin from being served.
    fn prepare() -> Result<(), Failure> {
        Ok(())
    }

    /// Answers one job.
    fn infer(job: &Job) -> Result<Outputs, Failure>;

    /// Answers a batch, one entry a job and in order. Override it when the manifest allows batches
    /// and the model gains by them.
    fn infer_batch(jobs: &[Job]) -> Vec<Result<Outputs, Failure>> {
        jobs.iter().map(Self::infer).collect()
    }
}

/// Exports a type that implements [`Plugin`] as this component's plugin.
#[macro_export]
macro_rules! plugin {
    ($plugin:ident) => {
        const _: () = {
            struct WarrenGuest;

            impl $crate::bindings::Guest for WarrenGuest {
                fn prepare() -> Result<(), $crate::bindings::Failure> {
                    <$plugin as $crate::Plugin>::prepare().map_err(Into::into)
                }

                fn infer(
                    batch: Vec<$crate::bindings::Job>,
                ) -> Vec<Result<$crate::bindings::Outputs, $crate::bindings::Failure>> {
                    let jobs: Vec<$crate::Job> = batch.into_iter().map(Into::into).collect();
                    <$plugin as $crate::Plugin>::infer_batch(&jobs)
                        .into_iter()
                        .map(|r| r.map(Into::into).map_err(Into::into))
                        .collect()
                }
            }

    $crate::bindings::export_plugin!(WarrenGuest with_types_in $crate::bindings);
        };
    };
}
