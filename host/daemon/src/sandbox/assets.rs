//! What `prepare` makes once and every later job reads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Mutex, Notify};
use warren_tensor::{Budget, Engine, ErrorKind, Holding, Lease, TensorId, Value};
use wasmtime::Result;
use wasmtime::component::Resource;

use super::TensorHandle;
use super::bindings::warren::plugin::assets::{Error, Host};
use super::state::State;
use super::tensors::work;

/// A plugin version's assets. Read-only: `prepare` is over.
///
/// Tensors are given up when the device is full and no job of the plugin runs, and come back for the
/// next one.
#[derive(Default)]
pub struct Assets {
    /// Each tensor's place in the holding.
    tensors: HashMap<String, usize>,
    holding: Option<Arc<Holding>>,
    bytes: HashMap<String, Bytes>,
}

impl Assets {
    /// Bytes held, tensors and byte strings together, wherever they are now.
    pub fn size(&self) -> u64 {
        let tensors = self.holding.as_ref().map_or(0, |h| h.bytes());
        tensors + self.bytes.values().map(|b| b.len() as u64).sum::<u64>()
    }

    /// Bytes of tensors on the device now, and those that were given up and will come back.
    pub fn resident(&self) -> (u64, u64) {
        self.holding.as_ref().map_or((0, 0), |h| h.resident())
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

/// Who waits for device memory that other plugins' jobs use: first come first served.
#[derive(Default)]
pub struct Room {
    turn: Mutex<()>,
    /// Some assets are in use no longer.
    freed: Arc<Notify>,
}

/// Assets in use by a batch: they stay where they are.
pub struct InUse {
    lease: Option<Lease>,
    freed: Arc<Notify>,
}

impl Drop for InUse {
    fn drop(&mut self) {
        if self.lease.take().is_some() {
            self.freed.notify_waiters();
        }
    }
}

impl Room {
    /// Brings a plugin's assets to where its jobs read them, and keeps them there. Where the assets that
    /// other plugins use leave no room it waits for them, and whoever comes later waits behind it: so
    /// plugins that do not fit together take turns, and none of them waits for ever.
    ///
    /// # Errors
    /// There is no room though nobody else uses any assets.
    pub async fn enter(
        &self,
        name: &str,
        assets: &Assets,
    ) -> std::result::Result<Option<InUse>, warren_tensor::Error> {
        let Some(holding) = &assets.holding else { return Ok(None) };
        let _turn = self.turn.lock().await;
        let start = Instant::now();
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if holding.fits() || holding.is_alone() {
                break;
            }
            freed.await;
        }
        let waited = start.elapsed();
        let mut lease = holding.lease();
        // What jobs hold beside assets, and results on their way out, take room too: for a while.
        while let Err(error) = &lease
            && error.kind == ErrorKind::OutOfMemory
            && holding.can_fit()
            && start.elapsed() < waited + MAKE_ROOM
        {
            tokio::time::sleep(LOOK).await;
            lease = holding.lease();
        }
        let lease = lease?;
        if lease.brought_back() > 0 {
            let (bytes, ms, waited_ms) =
                (lease.brought_back(), start.elapsed().as_millis(), waited.as_millis());
            tracing::info!(plugin = name, bytes, ms, waited_ms, "assets are back");
        }
        Ok(Some(InUse { lease: Some(lease), freed: Arc::clone(&self.freed) }))
    }
}

/// Assets in the making.
pub struct AssetsDraft {
    tensors: HashMap<String, Arc<Value>>,
    byte_strings: HashMap<String, Bytes>,
    /// What tensors are charged to; byte strings are held to the same limit.
    pub budget: Arc<Budget>,
    bytes: u64,
}

/// How long assets may wait for memory that is not assets, and how often they look.
const MAKE_ROOM: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(10);

/// Most assets of one plugin.
const MAX_ASSETS: usize = 100_000;

impl AssetsDraft {
    /// Nothing yet, at most `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self { tensors: HashMap::new(), byte_strings: HashMap::new(), budget: Budget::new(limit), bytes: 0 }
    }

    /// What there is is all there will be.
    pub fn finish(self, name: &Arc<str>, engine: &Arc<Engine>) -> Assets {
        let (mut tensors, mut values) = (HashMap::new(), Vec::new());
        for (at, (key, value)) in self.tensors.into_iter().enumerate() {
            tensors.insert(key, at);
            values.push(value);
        }
        let name = Arc::clone(name);
        let told = move |given_up: std::io::Result<u64>| match given_up {
            Ok(bytes) => tracing::info!(plugin = %name, bytes, "device memory is full: idle assets given up"),
            Err(error) => {
                tracing::warn!(plugin = %name, %error, "device memory is full, and idle assets cannot be given up");
            }
        };
        let holding = (!values.is_empty()).then(|| engine.hold(values, Box::new(told)));
        Assets { tensors, holding, bytes: self.byte_strings }
    }

    fn check(&self, name: &str, taken: bool) -> Result<(), Error> {
        if name.is_empty() || name.len() > 255 {
            return Err(Error::InvalidName(format!("a name of {} bytes: use 1 to 255", name.len())));
        }
        if taken {
            return Err(Error::InvalidName(format!("{name:?} is taken")));
        }
        if self.tensors.len() + self.byte_strings.len() >= MAX_ASSETS {
            return Err(Error::Limit(format!("{MAX_ASSETS} assets are the most")));
        }
        Ok(())
    }
}

impl Host for State {
    fn put_tensor(&mut self, name: String, value: Resource<TensorHandle>) -> Result<Result<(), Error>> {
        let id = TensorId::from_rep(value.rep());
        let Some(draft) = &self.draft else { return Ok(Err(Error::ReadOnly)) };
        if let Err(error) = draft.check(&name, draft.tensors.contains_key(&name)) {
            return Ok(Err(error));
        }
        match work(self, |session| session.value(id))? {
            Ok(value) => {
                if let Some(draft) = &mut self.draft {
                    draft.tensors.insert(name, value);
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
            Some(draft) => draft.tensors.get(&name),
            None => {
                let lease = self.in_use.as_ref().and_then(|u| u.lease.as_ref());
                self.assets.tensors.get(&name).zip(lease).and_then(|(&at, lease)| lease.value(at))
            }
        };
        let Some(value) = found.cloned() else { return Ok(None) };
        let id = self.session.import(&value).map_err(|e| wasmtime::Error::msg(e.to_string()))?;
        Ok(Some(Resource::new_own(id.rep())))
    }

    fn put_bytes(&mut self, name: String, value: Vec<u8>) -> Result<Result<(), Error>> {
        self.pass(value.len())?;
        let Some(draft) = &mut self.draft else { return Ok(Err(Error::ReadOnly)) };
        if let Err(error) = draft.check(&name, draft.byte_strings.contains_key(&name)) {
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
        draft.byte_strings.insert(name, value.into());
        Ok(Ok(()))
    }

    fn get_bytes(&mut self, name: String) -> Result<Option<Vec<u8>>> {
        self.watch.active();
        let found = match &self.draft {
            Some(draft) => draft.byte_strings.get(&name),
            None => self.assets.bytes.get(&name),
        };
        let Some(bytes) = found.cloned() else { return Ok(None) };
        self.pass(bytes.len())?;
        Ok(Some(bytes.to_vec()))
    }
}
