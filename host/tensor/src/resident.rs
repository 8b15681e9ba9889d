//! What is given up when memory is full: values that one owner keeps from job to job, such as the
//! assets of a plugin. Those that nobody uses go first that were used least recently, whole owners at
//! a time, and come back, bit by bit the same, when they are used again.
//!
//! On a device of its own memory the copies there are given up; host memory has them too. On the CPU,
//! where host memory is the device's, the elements go to a file without a name in the spill directory,
//! written once: making them anew would need the owner's own files as they were.
//!
//! Whoever uses a [`Holding`] has a [`Lease`] on it, and what is leased is never given up. One lock a
//! holding orders the two, so that nobody sees half of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};

use crate::budget::Budget;
use crate::buffer::capacity_for;
use crate::engine::Engine;
use crate::error::Error;
use crate::rules::Descriptor;
use crate::value::{Storage, Value};

/// Everything of an engine that may be given up.
#[derive(Debug, Default)]
pub(crate) struct Residents {
    holdings: Mutex<Vec<Weak<Holding>>>,
    /// One at a time looks for memory, so that two do not give up twice as much as they need.
    turn: Mutex<()>,
    /// Counts uses: the time of the last one.
    clock: AtomicU64,
    leased: AtomicUsize,
    evictions: AtomicU64,
    returns: AtomicU64,
}

impl Residents {
    /// Gives up what nobody uses, least recently used first, until there is `enough`. False: there is
    /// no more to give up.
    pub fn reclaim(&self, enough: impl Fn() -> bool) -> bool {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if enough() {
            return true;
        }
        let mut idle = self.alive();
        idle.sort_by_key(|h| h.used.load(Ordering::Relaxed));
        for holding in idle {
            // One whose lock is taken is being used, perhaps by the caller.
            let mut state = match holding.state.try_lock() {
                Ok(state) => state,
                Err(TryLockError::Poisoned(state)) => state.into_inner(),
                Err(TryLockError::WouldBlock) => continue,
            };
            match holding.give_up(&mut state) {
                Ok(0) => continue,
                Ok(bytes) => {
                    self.evictions.fetch_add(1, Ordering::Relaxed);
                    drop(state);
                    (holding.told)(Ok(bytes));
                }
                Err(error) => {
                    drop(state);
                    (holding.told)(Err(error));
                }
            }
            if enough() {
                return true;
            }
        }
        false
    }

    /// Times that something was given up, and came back.
    pub fn counts(&self) -> (u64, u64) {
        (self.evictions.load(Ordering::Relaxed), self.returns.load(Ordering::Relaxed))
    }

    fn alive(&self) -> Vec<Arc<Holding>> {
        let mut holdings = self.holdings.lock().unwrap_or_else(PoisonError::into_inner);
        holdings.retain(|h| h.strong_count() > 0);
        holdings.iter().filter_map(Weak::upgrade).collect()
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }
}

/// Hears that so many bytes were given up, or why they could not be.
pub type Told = Box<dyn Fn(io::Result<u64>) + Send + Sync>;

/// Values that are given up and come back together. Made by [`Engine::hold`].
pub struct Holding {
    engine: Arc<Engine>,
    /// What each value is: its type and shape, and in which piece of memory it lies.
    slots: Vec<(Descriptor, usize)>,
    pieces: Vec<Piece>,
    /// Bytes that they take of the device's memory.
    bytes: u64,
    used: AtomicU64,
    state: Mutex<State>,
    told: Told,
}

/// Memory that one or several of the values read.
struct Piece {
    bytes: usize,
    budget: Arc<Budget>,
    /// How many of the values.
    shared: usize,
    /// Where it lies in the file.
    offset: u64,
}

struct State {
    /// None: they are in the file only.
    values: Option<Arc<[Arc<Value>]>>,
    file: Option<File>,
    /// Where the pieces were, if somebody else keeps them still.
    memory: Vec<Weak<Storage>>,
    leases: usize,
    /// Bytes that were given up and have not come back.
    gone: u64,
    /// Bytes on the device after its last use; none before the first.
    footprint: Option<u64>,
}

impl std::fmt::Debug for Holding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Holding({} values, {} bytes)", self.slots.len(), self.bytes)
    }
}

impl Holding {
    pub(crate) fn new(engine: &Arc<Engine>, values: Vec<Arc<Value>>, told: Told) -> Arc<Holding> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut known: std::collections::HashMap<usize, usize> = std::collections::HashMap::new();
        let mut slots = Vec::with_capacity(values.len());
        let mut own: Vec<Arc<Value>> = Vec::with_capacity(values.len());
        let mut offset = 0;
        for value in &values {
            let at = *known.entry(value.memory_id()).or_insert_with(|| {
                let bytes = value.memory_bytes();
                pieces.push(Piece { bytes, budget: Arc::clone(value.budget()), shared: 0, offset });
                offset += bytes as u64;
                pieces.len() - 1
            });
            pieces[at].shared += 1;
            slots.push((*value.descriptor(), at));
            // Of its own, so that counting references tells whether anybody else reads it.
            own.push(Arc::new(value.with_descriptor(*value.descriptor())));
        }
        let bytes = pieces.iter().map(|p| capacity_for(p.bytes) as u64).sum();
        let residents = engine.residents();
        let holding = Arc::new(Holding {
            engine: Arc::clone(engine),
            slots,
            pieces,
            bytes,
            used: AtomicU64::new(residents.tick()),
            state: Mutex::new(State {
                values: Some(own.into()),
                file: None,
                memory: Vec::new(),
                leases: 0,
                gone: 0,
                footprint: None,
            }),
            told,
        });
        let mut all = residents.holdings.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|h| h.strong_count() > 0);
        all.push(Arc::downgrade(&holding));
        drop(all);
        holding
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that the values take of the device's memory when all of them are there.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of them that are there now, and bytes that were given up and have not come back.
    pub fn resident(&self) -> (u64, u64) {
        let state = self.lock();
        let here = self.here(&state);
        (here, state.gone.min(self.bytes.saturating_sub(here)))
    }

    fn here(&self, state: &State) -> u64 {
        let Some(values) = &state.values else { return 0 };
        if !self.engine.has_device_memory() {
            return self.bytes;
        }
        let mut seen = vec![false; self.pieces.len()];
        let mut here = 0;
        for (value, &(_, at)) in values.iter().zip(&self.slots) {
            if !std::mem::replace(&mut seen[at], true) {
                here += value.device().map_or(0, |buffer| buffer.capacity());
            }
        }
        here
    }

    /// Whether there is room for it beside what others use now: then a lease brings it back without
    /// taking what is in use, as far as can be foreseen.
    pub fn fits(&self) -> bool {
        let (limit, live) = self.engine.device_use();
        // Most of the time there is.
        if live.saturating_add(self.bytes) <= limit {
            return true;
        }
        let missing = {
            let state = self.lock();
            let here = self.here(&state);
            state.footprint.unwrap_or(self.bytes).saturating_sub(here)
        };
        if missing == 0 {
            return true;
        }
        let others = self.engine.residents().alive();
        let idle = |h: &Arc<Holding>| {
            if std::ptr::eq(&**h, self) {
                return 0;
            }
            // Not waited for: it may be coming back, and that takes a while.
            h.state.try_lock().map_or(0, |state| if state.leases == 0 { h.here(&state) } else { 0 })
        };
        let idle: u64 = others.iter().map(idle).sum();
        live.saturating_sub(idle).saturating_add(missing) <= limit
    }

    /// Whether they would fit on the device if nothing else were there.
    pub fn can_fit(&self) -> bool {
        self.bytes <= self.engine.device_use().0
    }

    /// Whether nobody uses any other holding of the engine.
    pub fn is_alone(&self) -> bool {
        let own = usize::from(self.lock().leases > 0);
        self.engine.residents().leased.load(Ordering::Relaxed) <= own
    }

    /// Keeps the values where they are for as long as the lease lives, and brings them back to host
    /// memory if they are only in the file. May take as long as reading them does.
    ///
    /// # Errors
    /// [`crate::ErrorKind::OutOfMemory`] where there is no room for them and nothing to give up.
    pub fn lease(self: &Arc<Self>) -> Result<Lease, Error> {
        let residents = self.engine.residents();
        let mut state = self.lock();
        let values = match &state.values {
            Some(values) => Arc::clone(values),
            None => {
                let values = self.bring_back(&state)?;
                state.values = Some(Arc::clone(&values));
                values
            }
        };
        let back = std::mem::take(&mut state.gone);
        if back > 0 {
            residents.returns.fetch_add(1, Ordering::Relaxed);
        }
        if state.leases == 0 {
            residents.leased.fetch_add(1, Ordering::Relaxed);
        }
        state.leases += 1;
        self.used.store(residents.tick(), Ordering::Relaxed);
        Ok(Lease { holding: Arc::clone(self), values: Some(values), back })
    }

    /// Gives the values up, if nobody uses them. Answers the bytes.
    fn give_up(&self, state: &mut State) -> io::Result<u64> {
        let bytes = match &state.values {
            Some(values) if state.leases == 0 && Arc::strong_count(values) == 1 => {
                if self.engine.has_device_memory() { self.here_given_up(values) } else { self.spill(state)? }
            }
            _ => 0,
        };
        if bytes > 0 {
            state.gone = if state.values.is_none() { self.bytes } else { state.gone + bytes };
        }
        Ok(bytes)
    }

    fn here_given_up(&self, values: &[Arc<Value>]) -> u64 {
        values.iter().map(|value| value.give_up_device()).sum()
    }

    /// Frees the host memory; the file has the elements then.
    fn spill(&self, state: &mut State) -> io::Result<u64> {
        let Some(values) = &state.values else { return Ok(0) };
        // A result may be on its way out that is one of them: its memory is not free yet, and is found
        // again if it is still there when the rest comes back.
        let mut freed: Vec<u64> = self.pieces.iter().map(|p| capacity_for(p.bytes) as u64).collect();
        let mut memory = std::iter::repeat_with(Weak::new).take(self.pieces.len()).collect::<Vec<_>>();
        for (value, &(_, at)) in values.iter().zip(&self.slots) {
            let (kept, references) = value.memory();
            if Arc::strong_count(value) > 1 || references > self.pieces[at].shared {
                freed[at] = 0;
            }
            memory[at] = kept;
        }
        let freed: u64 = freed.iter().sum();
        if freed == 0 {
            return Ok(0);
        }
        if state.file.is_none() {
            let directory = self.engine.spill_directory();
            let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", directory.display()));
            state.file = Some(self.write(values, directory).map_err(named)?);
        }
        state.values = None;
        state.memory = memory;
        Ok(freed)
    }

    fn write(&self, values: &[Arc<Value>], directory: &Path) -> io::Result<File> {
        let file = tempfile::tempfile_in(directory)?;
        let mut written = vec![false; self.pieces.len()];
        for (value, &(_, at)) in values.iter().zip(&self.slots) {
            if !std::mem::replace(&mut written[at], true) {
                file.write_all_at(value.bytes(), self.pieces[at].offset)?;
            }
        }
        Ok(file)
    }

    fn bring_back(&self, state: &State) -> Result<Arc<[Arc<Value>]>, Error> {
        const NAME: &str = "assets";
        let broken = |e: io::Error| Error::device(NAME, format!("cannot read what was given up: {e}"));
        let file = state.file.as_ref().ok_or_else(|| broken(io::ErrorKind::NotFound.into()))?;
        let mut made: Vec<Option<Arc<Value>>> = vec![None; self.pieces.len()];
        let mut values = Vec::with_capacity(self.slots.len());
        for &(descriptor, at) in &self.slots {
            let piece = &self.pieces[at];
            let value = match &made[at] {
                Some(first) => Arc::new(first.with_descriptor(descriptor)),
                None => {
                    let kept = state.memory.get(at).and_then(|memory| Value::on_memory(descriptor, memory));
                    let fill = |bytes: &mut [u8]| file.read_exact_at(bytes, piece.offset).map_err(broken);
                    Arc::new(match kept {
                        Some(kept) => kept,
                        // Whoever wants it back waits for room by itself.
                        None => self
                            .engine
                            .filled(NAME, &piece.budget, descriptor, piece.bytes, fill)
                            .map_err(Error::settled)?,
                    })
                }
            };
            if made[at].is_none() {
                made[at] = Some(Arc::clone(&value));
            }
            values.push(value);
        }
        Ok(values.into())
    }

    fn release(&self) {
        let residents = self.engine.residents();
        let mut state = self.lock();
        state.leases = state.leases.saturating_sub(1);
        if state.leases == 0 {
            residents.leased.fetch_sub(1, Ordering::Relaxed);
            if self.engine.has_device_memory() {
                let here = self.here(&state);
                state.footprint = Some(here.max(state.footprint.unwrap_or(0)));
            }
        }
        self.used.store(residents.tick(), Ordering::Relaxed);
    }
}

/// The right to use a [`Holding`]'s values. While it lives they are not given up.
#[derive(Debug)]
pub struct Lease {
    holding: Arc<Holding>,
    values: Option<Arc<[Arc<Value>]>>,
    back: u64,
}

impl Lease {
    /// The value at a place of the list that the holding was made of.
    pub fn value(&self, at: usize) -> Option<&Arc<Value>> {
        self.values.as_ref()?.get(at)
    }

    /// Bytes that had been given up, and come back for this lease.
    pub fn brought_back(&self) -> u64 {
        self.back
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // First: whoever looks for memory counts references.
        self.values = None;
        self.holding.release();
    }
}
