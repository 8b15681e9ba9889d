//! Which plugin versions there are, which of them serve which model, and what became of the others.
//! Jobs ask it which version may serve them; a version that is taken out lives on until the last job
//! that runs on it has ended.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::SystemTime;

use super::{LoadError, Plugin};

/// How the versions of one plugin share its jobs.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Share {
    /// The newest takes all.
    #[default]
    Newest,
    /// This version takes all, as long as it is loaded; else the newest.
    Pinned(String),
    /// Each version takes its part; those that are not named, or not loaded, take none. When none of
    /// the named ones is loaded the newest takes all.
    Weighted(BTreeMap<String, u32>),
}

/// A folder that is not served, and why.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Where.
    pub folder: PathBuf,
    /// What was wrong, where, and what to do.
    pub reason: String,
    /// Since when.
    pub since: SystemTime,
}

/// What a version is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is chosen for jobs.
    Serving,
    /// It could be, but other versions of its plugin take all jobs.
    Standby,
    /// It is out of service, and jobs still run on it.
    Draining,
}

impl Standing {
    /// Its name, in lists and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Standby => "standby",
            Self::Draining => "draining",
        }
    }
}

/// A version, as a list shows it.
#[derive(Clone)]
pub struct Listed {
    /// The version; while it drains it is held for as long as this is.
    pub plugin: Arc<Plugin>,
    /// What it is doing.
    pub standing: Standing,
    /// The share of its models' jobs that it takes, of 1.
    pub share: f64,
}

/// How often versions came and did not, since the host began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Put into service.
    pub loaded: u64,
    /// Not put into service.
    pub refused: u64,
    /// Taken out because too many of their first jobs failed, or an operator said so.
    pub rolled_back: u64,
}

/// The plugin versions of a host.
#[derive(Default)]
pub struct Plugins {
    state: RwLock<State>,
}

impl std::fmt::Debug for Plugins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.read(|state| state.loaded.keys().cloned().collect::<Vec<_>>())).finish()
    }
}

#[derive(Default)]
struct State {
    /// Versions in service, by `name@version`.
    loaded: BTreeMap<Arc<str>, Arc<Plugin>>,
    /// Taken out of service; gone once nobody holds them.
    draining: Vec<Weak<Plugin>>,
    /// By folder.
    refused: BTreeMap<PathBuf, Refused>,
    /// By plugin name; the newest where none is given.
    shares: HashMap<String, Share>,
    changes: Changes,
    /// Made of the above whenever they change: what jobs look at.
    by_model: HashMap<String, Arc<[Candidate]>>,
    /// Models for which the change under way makes a difference: with a thousand plugins most have
    /// nothing to do with it.
    changed: HashSet<String>,
}

/// A version that may serve a model.
#[derive(Clone)]
struct Candidate {
    plugin: Arc<Plugin>,
    weight: u32,
}

impl State {
    /// Works out anew who serves these models.
    fn settle(&mut self, models: &HashSet<String>) {
        let mut by_model: HashMap<&String, Vec<Candidate>> =
            models.iter().map(|model| (model, Vec::new())).collect();
        for plugin in self.loaded.values() {
            for model in &plugin.manifest.models {
                if let Some(candidates) = by_model.get_mut(model) {
                    candidates.push(Candidate { plugin: Arc::clone(plugin), weight: 0 });
                }
            }
        }
        for (model, mut candidates) in by_model {
            // Newest first; of equal versions the name decides, so that the order never depends on the
            // order of loading.
            candidates.sort_by(|a, b| {
                let (a, b) = (&a.plugin, &b.plugin);
                b.version.cmp(&a.version).then_with(|| a.manifest.name.cmp(&b.manifest.name))
            });
            // Of several plugins for one model the one with the newest version decides.
            let Some(first) = candidates.first().map(|c| c.plugin.manifest.name.clone()) else {
                self.by_model.remove(model);
                continue;
            };
            let share = self.shares.get(&first).cloned().unwrap_or_default();
            let weight_of = |version: &str| match &share {
                Share::Newest => 0,
                Share::Pinned(pinned) => u32::from(pinned == version),
                Share::Weighted(weights) => weights.get(version).copied().unwrap_or(0),
            };
            for candidate in candidates.iter_mut().filter(|c| c.plugin.manifest.name == first) {
                candidate.weight = weight_of(&candidate.plugin.manifest.version);
            }
            if candidates.iter().all(|c| c.weight == 0)
                && let Some(newest) = candidates.first_mut()
            {
                newest.weight = 1;
            }
            self.by_model.insert(model.clone(), candidates.into());
        }
        self.draining.retain(|plugin| plugin.strong_count() > 0);
    }

    fn take_out(&mut self, name: &str) -> Option<Arc<Plugin>> {
        let plugin = self.loaded.remove(name)?;
        self.changed.extend(plugin.manifest.models.iter().cloned());
        self.draining.push(Arc::downgrade(&plugin));
        Some(plugin)
    }
}

impl Plugins {
    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let answer = change(&mut state);
        let changed = std::mem::take(&mut state.changed);
        if !changed.is_empty() {
            state.settle(&changed);
        }
        answer
    }

    /// Puts a version into service. One of the same name and version with the same bytes is replaced.
    ///
    /// # Errors
    /// [`LoadError::Duplicate`].
    pub fn add(&self, plugin: Arc<Plugin>) -> Result<(), LoadError> {
        self.write(|state| {
            let name = Arc::clone(&plugin.identity.plugin);
            if let Some(other) = state.loaded.get(&name)
                && other.identity.digest != plugin.identity.digest
            {
                return Err(LoadError::Duplicate {
                    folder: plugin.guest.folder().display().to_string(),
                    plugin: name.to_string(),
                    other: other.guest.folder().display().to_string(),
                });
            }
            state.take_out(&name);
            state.refused.remove(plugin.guest.folder());
            state.changed.extend(plugin.manifest.models.iter().cloned());
            state.loaded.insert(name, plugin);
            state.changes.loaded += 1;
            Ok(())
        })
    }

    /// Takes a version out of service; jobs that run on it finish. Answers it, or nothing if it was not
    /// in service.
    pub fn remove(&self, name: &str) -> Option<Arc<Plugin>> {
        self.write(|state| state.take_out(name))
    }

    /// Remembers why a folder is not served.
    pub fn refuse(&self, folder: &Path, reason: String) {
        let refused = Refused { folder: folder.to_owned(), reason, since: SystemTime::now() };
        self.write(|state| {
            state.changes.refused += 1;
            state.refused.insert(folder.to_owned(), refused)
        });
    }

    /// Takes a version out of service for good, and remembers why.
    pub fn roll_back(&self, plugin: &Plugin, reason: String) {
        let folder = plugin.guest.folder().to_owned();
        let refused = Refused { folder: folder.clone(), reason, since: SystemTime::now() };
        self.write(|state| {
            state.take_out(&plugin.identity.plugin);
            state.changes.rolled_back += 1;
            state.refused.insert(folder, refused);
        });
    }

    /// How often versions came and did not.
    pub fn changes(&self) -> Changes {
        self.read(|state| state.changes)
    }

    /// Forgets a folder that was refused: it is gone, or served by now.
    pub fn forgive(&self, folder: &Path) {
        self.write(|state| state.refused.remove(folder));
    }

    /// Sets how the versions of a plugin share its jobs.
    pub fn share(&self, name: &str, share: Share) {
        self.write(|state| {
            let of_it = state.loaded.values().filter(|plugin| plugin.manifest.name == name);
            state.changed.extend(of_it.flat_map(|plugin| plugin.manifest.models.iter().cloned()));
            state.shares.insert(name.to_owned(), share)
        });
    }

    /// The versions for a model, newest first, each with its weight.
    pub fn candidates(&self, model: &str) -> Vec<(Arc<Plugin>, u32)> {
        self.read(|state| {
            let all = state.by_model.get(model).map(|all| &all[..]).unwrap_or_default();
            all.iter().map(|c| (Arc::clone(&c.plugin), c.weight)).collect()
        })
    }

    /// The version for a job of a model: by the weights, `draw` being an even number of [0, 1).
    pub fn choose(&self, model: &str, draw: impl FnOnce() -> f64) -> Option<Arc<Plugin>> {
        self.read(|state| {
            let all = state.by_model.get(model)?;
            let total: u64 = all.iter().map(|c| u64::from(c.weight)).sum();
            let mut serving = all.iter().filter(|c| c.weight > 0);
            let first = serving.next()?;
            if u64::from(first.weight) == total {
                return Some(Arc::clone(&first.plugin));
            }
            let mut left = draw() * total as f64 - f64::from(first.weight);
            let mut chosen = first;
            while left >= 0.0
                && let Some(next) = serving.next()
            {
                left -= f64::from(next.weight);
                chosen = next;
            }
            Some(Arc::clone(&chosen.plugin))
        })
    }

    /// The newest plugin of a model.
    pub fn newest(&self, model: &str) -> Option<Arc<Plugin>> {
        self.read(|state| state.by_model.get(model)?.first().map(|c| Arc::clone(&c.plugin)))
    }

    /// A version in service by its `name@version`.
    pub fn get(&self, name: &str) -> Option<Arc<Plugin>> {
        self.read(|state| state.loaded.get(name).cloned())
    }

    /// The version that takes over when this one is taken out: the next older one of the same plugin. None
    /// where an operator wants this one and no other.
    pub fn before(&self, plugin: &Plugin) -> Option<Arc<str>> {
        let name = &plugin.manifest.name;
        self.read(|state| {
            if matches!(state.shares.get(name), Some(Share::Pinned(pinned)) if *pinned == plugin.manifest.version) {
                return None;
            }
            let older = state.loaded.values().filter(|p| p.manifest.name == *name && p.version < plugin.version);
            older.max_by(|a, b| a.version.cmp(&b.version)).map(|p| Arc::clone(&p.identity.plugin))
        })
    }

    /// Every model served, sorted.
    pub fn models(&self) -> Vec<String> {
        self.read(|state| {
            let mut models: Vec<String> = state.by_model.keys().cloned().collect();
            models.sort_unstable();
            models
        })
    }

    /// Whether no version is in service.
    pub fn is_empty(&self) -> bool {
        self.read(|state| state.loaded.is_empty())
    }

    /// Every version, by name.
    pub fn list(&self) -> Vec<Listed> {
        self.read(|state| {
            let share = |plugin: &Arc<Plugin>| {
                let shares = plugin.manifest.models.iter().filter_map(|model| {
                    let all = state.by_model.get(model)?;
                    let total: u64 = all.iter().map(|c| u64::from(c.weight)).sum();
                    let own = all.iter().find(|c| Arc::ptr_eq(&c.plugin, plugin))?.weight;
                    Some(f64::from(own) / total.max(1) as f64)
                });
                shares.fold(0.0, f64::max)
            };
            let mut list: Vec<Listed> = state
                .loaded
                .values()
                .map(|plugin| {
                    let share = share(plugin);
                    let standing = if share > 0.0 { Standing::Serving } else { Standing::Standby };
                    Listed { plugin: Arc::clone(plugin), standing, share }
                })
                .collect();
            list.extend(state.draining.iter().filter_map(Weak::upgrade).map(|plugin| Listed {
                plugin,
                standing: Standing::Draining,
                share: 0.0,
            }));
            list
        })
    }

    /// Every folder that is not served.
    pub fn refused(&self) -> Vec<Refused> {
        self.read(|state| state.refused.values().cloned().collect())
    }
}
