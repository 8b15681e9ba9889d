//! What `prepare` makes once and every later job reads.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use warren_tensor::{Budget, TensorId, Value};
use wasmtime::Result;
use wasmtime::component::Resource;

use super::TensorHandle;
use super::bindings::warren::plugin::assets::{Error, Host};
use super::state::State;
use super::tensors::work;

/// A plugin version's assets. Read-only: `prepare` is over.
#[derive(Default)]
pub struct Assets {
    tensors: HashMap<String, Arc<Value>>,
    bytes: HashMap<String, Bytes>,
}

impl Assets {
    /// Bytes held, tensors and byte strings together.
    pub fn size(&self) -> u64 {
        let tensors = self.tensors.values().map(|v| v.bytes().len() as u64).sum::<u64>();
        tensors + self.bytes.values().map(|b| b.len() as u64).sum::<u64>()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.tensors.len() + self.bytes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Assets in the making.
pub struct AssetsDraft {
    /// What is there so far.
    pub assets: Assets,
    /// What tensors are charged to; byte strings are held to the same limit.
    pub budget: Arc<Budget>,
    bytes: u64,
}

/// Most assets of one plugin.
const MAX_ASSETS: usize = 100_000;

impl AssetsDraft {
    /// Nothing yet, at most `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self { assets: Assets::default(), budget: Budget::new(limit), bytes: 0 }
    }

    fn check(&self, name: &str, taken: bool) -> Result<(), Error> {
        if name.is_empty() || name.len() > 255 {
            return Err(Error::InvalidName(format!("a name of {} bytes: use 1 to 255", name.len())));
        }
        if taken {
            return Err(Error::InvalidName(format!("{name:?} is taken")));
        }
        if self.assets.len() >= MAX_ASSETS {
            return Err(Error::Limit(format!("{MAX_ASSETS} assets are the most")));
        }
        Ok(())
    }
}

impl Host for State {
    fn put_tensor(&mut self, name: String, value: Resource<TensorHandle>) -> Result<Result<(), Error>> {
        let id = TensorId::from_rep(value.rep());
        let Some(draft) = &self.draft else { return Ok(Err(Error::ReadOnly)) };
        if let Err(error) = draft.check(&name, draft.assets.tensors.contains_key(&name)) {
            return Ok(Err(error));
        }
        match work(self, |session| session.value(id))? {
            Ok(value) => {
                if let Some(draft) = &mut self.draft {
                    draft.assets.tensors.insert(name, value);
                }
                Ok(Ok(()))
            }
            Err(error) if error.kind == super::bindings::warren::plugin::tensors::ErrorKind::OutOfMemory => {
                Ok(Err(Error::Limit(error.message)))
            }
            Err(error) => Ok(Err(Error::Tensor(error.message))),
        }
    }

    fn get_tensor(&mut self, name: String) -> Result<Option<Resource<TensorHandle>>> {
        self.watch.active();
        let found = match &self.draft {
            Some(draft) => draft.assets.tensors.get(&name),
            None => self.assets.tensors.get(&name),
        };
        let Some(value) = found.cloned() else { return Ok(None) };
        let id = self.session.import(&value).map_err(|e| wasmtime::Error::msg(e.to_string()))?;
        Ok(Some(Resource::new_own(id.rep())))
    }

    fn put_bytes(&mut self, name: String, value: Vec<u8>) -> Result<Result<(), Error>> {
        let Some(draft) = &mut self.draft else { return Ok(Err(Error::ReadOnly)) };
        if let Err(error) = draft.check(&name, draft.assets.bytes.contains_key(&name)) {
            return Ok(Err(error));
        }
        let held = draft.bytes.saturating_add(value.len() as u64);
        if held.saturating_add(draft.budget.used()) > draft.budget.limit() {
            return Ok(Err(Error::Limit(format!(
                "{} bytes asked for: limits.assets_mib is {}, of which {} bytes are used",
                value.len(),
                draft.budget.limit() >> 20,
                draft.bytes + draft.budget.used()
            ))));
        }
        draft.bytes = held;
        draft.assets.bytes.insert(name, value.into());
        Ok(Ok(()))
    }

    fn get_bytes(&mut self, name: String) -> Result<Option<Vec<u8>>> {
        self.watch.active();
        let found = match &self.draft {
            Some(draft) => draft.assets.bytes.get(&name),
            None => self.assets.bytes.get(&name),
        };
        Ok(found.map(|b| b.to_vec()))
    }
}
