//! What `prepare` makes once and every later job reads.

use crate::bindings::warren::plugin::assets as wit;
use crate::{Failure, Tensor};

fn failure(name: &str, error: wit::Error) -> Failure {
    Failure::Failed(match error {
        wit::Error::ReadOnly => format!("asset {name:?}: only `prepare` may write assets"),
        wit::Error::InvalidName(why) | wit::Error::Limit(why) | wit::Error::Tensor(why) => {
            format!("asset {name:?}: {why}")
        }
    })
}

/// Computes `value` and keeps it as `name`; only in `prepare`.
pub fn put_tensor(name: &str, value: &Tensor) -> Result<(), Failure> {
    wit::put_tensor(name, &value.0).map_err(|e| failure(name, e))
}

/// The tensor that `prepare` kept as `name`.
pub fn tensor(name: &str) -> Result<Tensor, Failure> {
    wit::get_tensor(name)
        .map(Tensor)
        .ok_or_else(|| Failure::Failed(format!("no tensor asset {name:?}: `prepare` did not put it")))
}

/// Keeps `value` as `name`; only in `prepare`.
pub fn put_bytes(name: &str, value: &[u8]) -> Result<(), Failure> {
    wit::put_bytes(name, value).map_err(|e| failure(name, e))
}

/// A copy of the bytes that `prepare` kept as `name`.
pub fn bytes(name: &str) -> Result<Vec<u8>, Failure> {
    wit::get_bytes(name)
        .ok_or_else(|| Failure::Failed(format!("no bytes asset {name:?}: `prepare` did not put it")))
}
