//! Plugins that are served by digest, from registries and image layouts, beside those of the plugin
//! directory. What the store has serves at once; the rest is pulled beside all that runs, again and
//! again until it is here. A source that takes the place of another of the same repository is a new
//! version of it: the old one serves until the new one does, and as long as that is on trial.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as Cell, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::Inner;
use super::deploy::{DeployError, Loaded};
use crate::oci::{OciError, Place, Reference};
use crate::plugin::Plugin;

/// Between two attempts at pulling a plugin: twice as long after each, up to the second.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The sources that the config names, and where what was loaded came from.
#[derive(Default)]
pub(super) struct Followed {
    list: Mutex<Vec<Arc<Source>>>,
    /// Reference by folder of the store.
    origins: Cell<HashMap<PathBuf, String>>,
}

/// One of them.
struct Source {
    text: String,
    place: Option<Place>,
    /// What was loaded from it, and its folder.
    serves: Cell<Option<Arc<str>>>,
    folder: Cell<Option<PathBuf>>,
    /// What serves in its place until it does.
    before: Option<Arc<str>>,
    stop: CancellationToken,
}

fn held<T: Clone>(cell: &Cell<T>) -> T {
    cell.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn set<T>(cell: &Cell<T>, value: T) {
    *cell.lock().unwrap_or_else(PoisonError::into_inner) = value;
}

impl Source {
    /// The version in service because of it: its own, or while that is not there the one before.
    fn current(&self, inner: &Inner) -> Option<Arc<str>> {
        let loaded = |name: &Arc<str>| inner.plugins.get(name).is_some();
        held(&self.serves).filter(loaded).or_else(|| self.before.clone().filter(loaded))
    }

    fn forgive(&self, inner: &Inner) {
        inner.plugins.forgive(Path::new(&self.text));
        if let Some(folder) = held(&self.folder) {
            inner.plugins.forgive(&folder);
        }
    }
}

impl Inner {
    /// Serves what these references name, and nothing any more that was named before. Answers what was
    /// tried at once; the rest is being pulled.
    pub(super) async fn follow_sources(self: &Arc<Self>, wanted: &[String]) -> Vec<Loaded> {
        let mut list = self.sources.list.lock().await;
        let done = |source: &Arc<Source>| wanted.contains(&source.text) && held(&source.serves).is_some();
        // What could not be served so far is begun anew.
        let (mut next, mut gone): (Vec<_>, Vec<_>) = list.drain(..).partition(done);
        gone.iter().for_each(|source| source.stop.cancel());
        let mut tried = Vec::new();
        for text in wanted {
            if next.iter().any(|source| source.text == *text) {
                continue;
            }
            let parsed = Reference::parse(text).and_then(|r| r.digest().map(|_| ()).map(|()| r));
            let place = parsed.as_ref().ok().map(|reference| reference.place.clone());
            // Itself, else one of the same repository: rather one that serves.
            let rank = |old: &Arc<Source>| match (old.text == *text, place.is_some() && old.place == place) {
                (true, _) => 3,
                (false, true) => 1 + u8::from(old.current(self).is_some()),
                (false, false) => 0,
            };
            let best = gone.iter().enumerate().map(|(at, old)| (rank(old), at)).max();
            let replaced = best.filter(|(rank, _)| *rank > 0).map(|(_, at)| gone.remove(at));
            if let Some(replaced) = &replaced {
                // Whatever was being loaded for it is, or is not.
                drop(self.deploy.one_change().await);
                replaced.forgive(self);
            }
            let source = Arc::new(Source {
                text: text.clone(),
                place,
                serves: Cell::default(),
                folder: Cell::default(),
                before: replaced.and_then(|replaced| replaced.current(self)),
                stop: self.stopping.child_token(),
            });
            next.push(Arc::clone(&source));
            match parsed {
                Ok(reference) => tried.extend(self.begin(source, reference).await),
                Err(error) => self.not_pulled(text, &error),
            }
        }
        for source in gone {
            let _one = self.deploy.one_change().await;
            source.forgive(self);
            if let Some(name) = source.current(self) {
                tracing::info!(plugin = %name, from = source.text, "no source any more: taken out of service");
                self.take_out(&name);
            }
        }
        *list = next;
        drop(list);
        self.follow_models();
        tried
    }

    /// Loads a source if the store has it, else sees to its being pulled.
    async fn begin(self: &Arc<Self>, source: Arc<Source>, reference: Reference) -> Option<Loaded> {
        if let Ok(Some(folder)) = self.oci.stored(&reference).await {
            return self
                .load_source(&source, &folder)
                .await
                .map(|loaded| (PathBuf::from(&source.text), loaded));
        }
        tracing::info!(from = source.text, "pulling a plugin");
        let inner = Arc::clone(self);
        self.threads.spawn(async move {
            let stop = source.stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = inner.pull(&source, &reference) => {}
            }
        });
        None
    }

    /// Pulls a source until it is here, and loads it.
    async fn pull(self: &Arc<Self>, source: &Arc<Source>, reference: &Reference) {
        let mut pause = FIRST_PAUSE;
        let folder = loop {
            match self.oci.fetch(reference).await {
                Ok(folder) => break folder,
                Err(error) => self.not_pulled(&source.text, &error),
            }
            // Hosts that lost a registry together do not come back to it together.
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        };
        self.plugins.forgive(Path::new(&source.text));
        // In a task of its own: what is being loaded is not broken off by a source that goes.
        let (inner, source) = (Arc::clone(self), Arc::clone(source));
        self.threads.spawn(async move {
            inner.load_source(&source, &folder).await;
            inner.follow_models();
        });
    }

    fn not_pulled(&self, text: &str, error: &OciError) {
        tracing::error!(from = text, %error, "plugin not pulled");
        self.plugins.refuse(Path::new(text), error.to_string());
    }

    /// Puts what was pulled into service, unless the source is gone meanwhile. What it is does not
    /// change: it is not tried twice.
    async fn load_source(
        &self,
        source: &Source,
        folder: &Path,
    ) -> Option<Result<Arc<Plugin>, crate::plugin::LoadError>> {
        let _one = self.deploy.one_change().await;
        if source.stop.is_cancelled() {
            return None;
        }
        self.note_origin(folder, &source.text);
        set(&source.folder, Some(folder.to_owned()));
        let loaded =
            self.bring(folder, source.before.clone().filter(|b| self.plugins.get(b).is_some())).await;
        if let Ok(plugin) = &loaded {
            set(&source.serves, Some(Arc::clone(&plugin.identity.plugin)));
        }
        Some(loaded)
    }

    fn note_origin(&self, folder: &Path, text: &str) {
        let mut origins = self.sources.origins.lock().unwrap_or_else(PoisonError::into_inner);
        origins.insert(folder.to_owned(), text.to_owned());
    }

    /// What a folder was pulled from, if it was.
    pub(super) fn origin(&self, folder: &Path) -> Option<String> {
        let origins = self.sources.origins.lock().unwrap_or_else(PoisonError::into_inner);
        origins.get(folder).cloned()
    }

    /// Pulls a plugin now and puts it into service.
    pub(super) async fn load_from(self: &Arc<Self>, text: &str) -> Result<Arc<Plugin>, DeployError> {
        let reference = Reference::parse(text)?;
        let folder = self.oci.fetch(&reference).await?;
        let one = self.deploy.one_change().await;
        self.note_origin(&folder, text);
        let plugin = self.bring(&folder, None).await?;
        drop(one);
        self.follow_models();
        Ok(plugin)
    }
}
