//! What is served, kept in step with the plugin directory and with what operators ask for. One change
//! at a time: a folder is loaded while the versions before it serve on, put into service at once, and
//! the queues of its models are consumed for as long as any version serves them. What cannot be loaded
//! changes nothing but the list of what is refused.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as Cell, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use notify::Watcher;
use notify::event::{EventKind, ModifyKind, RenameMode};
use tokio::sync::{Mutex, Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{Inner, consume, share_out};
use crate::config::Config;
use crate::intake;
use crate::job::{Code, Data, Failure, Fault};
use crate::oci::OciError;
use crate::plugin::{self, Listed, LoadError, Plugin, Refused, Share, Standing, manifest};
use crate::sandbox::{Entry, Refusal};
use crate::wire;

/// How old the newest file of a folder must be before the folder counts as whole: somebody may still
/// be copying. A folder that appears by a rename is older than that.
const SETTLED: Duration = Duration::from_millis(500);
/// Between two looks at folders that are not settled, and after something happened in the directory.
const SOON: Duration = Duration::from_millis(100);

/// The largest request of a self-test that is read, bytes.
const MAX_REQUEST: u64 = 64 << 20;

/// Models whose queues are declared and opened at a time.
const AT_ONCE: usize = 16;

/// The folders of the plugin directory, and what was made of them.
pub(super) struct Deploy {
    /// One change at a time.
    folders: Mutex<HashMap<PathBuf, Folder>>,
    /// Models whose queues are consumed, and how to end that.
    consumed: Cell<HashMap<String, CancellationToken>>,
    /// Whether queues are consumed at all yet.
    serving: AtomicBool,
    /// Versions that must still prove themselves, each with the one that it took over from.
    trials: Cell<HashMap<Arc<str>, Arc<str>>>,
    /// Something may have changed.
    pub(super) look: Notify,
    /// Who may declare and open a model's queues.
    opening: Semaphore,
    /// Folders that came by a rename since the last look, by name.
    whole: Cell<HashSet<OsString>>,
}

impl Deploy {
    /// A folder that appears in `place` by a rename is complete, however new its files are.
    fn renamed(&self, paths: &[PathBuf], place: &Path) {
        let direct = paths.iter().filter(|path| path.parent() == Some(place));
        let names = direct.filter_map(|path| path.file_name()).map(ToOwned::to_owned);
        self.whole.lock().unwrap_or_else(PoisonError::into_inner).extend(names);
    }
}

impl Deploy {
    /// Waits until nothing else changes what is served; nothing does while the answer is held.
    pub(super) async fn one_change(&self) -> impl Drop + '_ {
        self.folders.lock().await
    }
}

impl Default for Deploy {
    fn default() -> Self {
        Self {
            folders: Mutex::default(),
            consumed: Cell::default(),
            serving: AtomicBool::default(),
            trials: Cell::default(),
            look: Notify::default(),
            opening: Semaphore::new(AT_ONCE),
            whole: Cell::default(),
        }
    }
}

/// What is known of a folder.
#[derive(Debug, Clone, Default)]
struct Folder {
    print: Print,
    /// The version that was loaded from it.
    serves: Option<Arc<str>>,
    /// It was not there at the last look.
    missing: bool,
}

/// What changes when a folder does: for each of its files name, inode, size and times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Print {
    files: Vec<(PathBuf, u64, u64, i64, i64)>,
    /// The newest time of any.
    newest: Option<SystemTime>,
}

impl Print {
    /// Of a folder and what lies directly in it. Blocks.
    fn of(folder: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let mut print = Self::default();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            // A link that leads nowhere must not hide the folder: loading says what is wrong with it.
            let data = std::fs::metadata(entry.path()).or_else(|_| entry.metadata())?;
            print.newest = print.newest.max(data.modified().ok());
            let time = data.mtime().saturating_mul(1_000_000_000).saturating_add(data.mtime_nsec());
            let changed = data.ctime().saturating_mul(1_000_000_000).saturating_add(data.ctime_nsec());
            print.files.push((entry.file_name().into(), data.ino(), data.len(), time, changed));
        }
        print.files.sort();
        Ok(print)
    }

    /// Whether nobody seems to be writing any more.
    fn is_settled(&self) -> bool {
        self.newest.is_none_or(|newest| newest.elapsed().is_ok_and(|age| age >= SETTLED))
    }
}

/// A change that was asked for and cannot be made: what is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The folder.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Where it comes from.
    #[error(transparent)]
    Source(#[from] OciError),
    /// No such version, or plugin.
    #[error("{name}: not in service; there are {served:?}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Versions in service.
        served: Vec<String>,
    },
    /// It takes no changes any more.
    #[error("the host is ending: nothing is changed any more")]
    Ended,
    /// There is nothing to go back to.
    #[error(
        "{name}: no earlier version is loaded: drop its folder again, or keep versions in folders of their own"
    )]
    NoEarlier {
        /// Which plugin.
        name: String,
    },
}

/// What a look at the directory found.
pub type Loaded = (PathBuf, Result<Arc<Plugin>, LoadError>);

impl Inner {
    /// Folders of the plugin directory that hold a manifest. Names that begin with a dot are for what
    /// is not whole yet. Blocks.
    fn find(&self) -> std::io::Result<Vec<PathBuf>> {
        let mut folders = Vec::new();
        for entry in std::fs::read_dir(&self.config.plugins)? {
            let entry = entry?;
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if !hidden && entry.path().join(manifest::FILE_NAME).is_file() {
                folders.push(entry.path());
            }
        }
        folders.sort();
        Ok(folders)
    }

    /// Loads what has come or changed and takes out what has gone. With `all` also what does not seem
    /// whole yet. Answers what was tried, and whether another look should follow soon.
    pub(super) async fn scan(self: &Arc<Self>, all: bool) -> std::io::Result<(Vec<Loaded>, bool)> {
        let mut known = self.deploy.folders.lock().await;
        let whole = std::mem::take(&mut *self.deploy.whole.lock().unwrap_or_else(PoisonError::into_inner));
        let inner = Arc::clone(self);
        let found = tokio::task::spawn_blocking(move || {
            let folders = inner.find()?.into_iter();
            Ok::<_, std::io::Error>(
                folders.filter_map(|f| Print::of(&f).ok().map(|p| (f, p))).collect::<Vec<_>>(),
            )
        });
        let found = found.await.map_err(std::io::Error::other)??;
        let (mut tried, mut soon) = (Vec::new(), false);
        for (path, print) in &found {
            let folder = known.entry(path.clone()).or_default();
            folder.missing = false;
            if folder.print == *print {
                continue;
            }
            let renamed = path.file_name().is_some_and(|name| whole.contains(name));
            if !all && !renamed && !print.is_settled() {
                soon = true;
                continue;
            }
            folder.print = print.clone();
            let before = folder.serves.clone();
            let loaded = self.bring(path, before).await;
            if let Ok(plugin) = &loaded {
                folder.serves = Some(Arc::clone(&plugin.identity.plugin));
            }
            tried.push((path.clone(), loaded));
        }
        let mut gone = Vec::new();
        let there: HashSet<&PathBuf> = found.iter().map(|(path, _)| path).collect();
        for (path, folder) in known.iter_mut().filter(|(path, _)| !there.contains(path)) {
            // Not at once: whoever replaces a folder takes the old one away first.
            if folder.missing {
                gone.push(path.clone());
            }
            folder.missing = true;
            soon = true;
        }
        for path in gone {
            if let Some(Folder { serves: Some(name), .. }) = known.remove(&path) {
                tracing::info!(plugin = %name, folder = %path.display(), "the folder is gone: taken out of service");
                self.take_out(&name);
            }
            self.plugins.forgive(&path);
        }
        drop(known);
        self.follow_models();
        Ok((tried, soon))
    }

    /// Loads a folder and puts it into service; the version that the folder served `before` stays ready
    /// until the new one has proved itself.
    pub(super) async fn bring(
        &self,
        folder: &Path,
        before: Option<Arc<str>>,
    ) -> Result<Arc<Plugin>, LoadError> {
        let start = Instant::now();
        let loaded = async {
            let plugin = Arc::new(
                plugin::load(folder, &self.sandbox, &self.config.limits, &self.config.signers).await?,
            );
            self.self_test(&plugin).await?;
            self.plugins.add(Arc::clone(&plugin))?;
            Ok::<_, LoadError>(plugin)
        };
        match loaded.await {
            Ok(plugin) => {
                let (name, took) = (Arc::clone(&plugin.identity.plugin), start.elapsed());
                tracing::info!(plugin = %name, digest = %plugin.identity.digest, models = ?plugin.manifest.models,
                    assets = plugin.guest.assets().len(), ms = took.as_millis(), "plugin loaded");
                self.plugins.forgive(folder);
                if let Some(before) = before.filter(|before| *before != name) {
                    self.on_trial(name, before);
                }
                Ok(plugin)
            }
            Err(error) => {
                tracing::error!(folder = %folder.display(), %error, "plugin not loaded");
                self.plugins.refuse(folder, error.to_string());
                Err(error)
            }
        }
    }

    /// Runs the jobs that the manifest names; each must end in a result.
    async fn self_test(&self, plugin: &Arc<Plugin>) -> Result<(), LoadError> {
        for test in &plugin.manifest.selftest {
            let shown = plugin.guest.files().join(&test.request).display().to_string();
            let fail = |failure: String| LoadError::SelfTest { path: shown.clone(), failure };
            let (from, name) = (Arc::clone(plugin), test.request.clone());
            let body = tokio::task::spawn_blocking(move || from.guest.files().read(&name, MAX_REQUEST));
            let body = body
                .await
                .unwrap_or_else(|error| Err(std::io::Error::other(error)))
                .map_err(|source| LoadError::Read { path: shown.clone(), source })?;
            let model = plugin.manifest.models.first().map(String::as_str).unwrap_or_default();
            let job = wire::of_request(model, body.into()).map_err(|r| fail(r.failure.to_string()))?;
            if job.inputs.iter().any(|input| matches!(input.data, Data::Reference(_))) {
                return Err(fail("an input is a reference: put its data into the request".into()));
            }
            intake::check(&plugin.manifest, &job).map_err(|f| fail(f.to_string()))?;
            let requested = job.requested.clone();
            let entry = Entry { job: Arc::new(job), progress: Arc::new(|_| {}) };
            let answer = self.sandbox.run(&plugin.guest, vec![entry], |_| {}).await.pop();
            let mut outputs = match answer {
                Some(Ok(outputs)) => outputs,
                Some(Err(Refusal::Final(failure))) => return Err(fail(failure.to_string())),
                Some(Err(Refusal::Retry(text))) => return Err(fail(format!("it asks for a retry: {text}"))),
                None => return Err(fail("the sandbox answered nothing".into())),
            };
            intake::select(&plugin.manifest, &requested, &mut outputs).map_err(|f| fail(f.to_string()))?;
        }
        Ok(())
    }

    /// The version that a folder served before is kept until the new one's first jobs are done.
    fn on_trial(&self, new: Arc<str>, before: Arc<str>) {
        let version = |name: &str| self.plugins.get(name).map(|plugin| plugin.version.clone());
        // The newest takes all jobs: an older one in its place has nothing to be tried against.
        let tried = self.config.rollback.jobs > 0 && version(&new) > version(&before);
        let oldest = {
            let mut trials = self.deploy.trials.lock().unwrap_or_else(PoisonError::into_inner);
            let oldest = trials.remove(&before);
            if tried {
                trials.insert(Arc::clone(&new), Arc::clone(&before));
            }
            oldest
        };
        if !tried {
            self.take_out(&before);
        }
        // Three versions in a row: the middle one has had its time. Unless the oldest is back.
        if let Some(oldest) = oldest.filter(|oldest| *oldest != new) {
            self.take_out(&oldest);
        }
    }

    pub(super) fn take_out(&self, name: &str) {
        if let Some(plugin) = self.plugins.remove(name) {
            tracing::info!(plugin = %plugin.identity.plugin, "out of service; what runs on it finishes");
        }
        self.deploy.trials.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// A job has ended on a version. One whose first jobs fail too often gives way to the version before
    /// it, wherever that came from; one that has passed lets go of the one whose folder it took.
    pub(super) fn judge(&self, plugin: &Plugin, failure: Option<&Failure>) {
        let limit = self.config.rollback.jobs;
        let broken =
            failure.is_some_and(|f| f.code.info().fault == Fault::Plugin || f.code == Code::HostCrash);
        let Some((jobs, broken)) = plugin.tally.count(broken, limit) else { return };
        let name = &plugin.identity.plugin;
        let mut trials = self.deploy.trials.lock().unwrap_or_else(PoisonError::into_inner);
        if f64::from(broken) > f64::from(limit) * self.config.rollback.rate {
            let Some(before) = trials.remove(name).or_else(|| self.plugins.before(plugin)) else { return };
            drop(trials);
            // The first line of it: a backtrace stands in the dead letter.
            let why = failure.map(Failure::to_string).unwrap_or_default();
            let why = why.lines().next().unwrap_or_default();
            let reason =
                format!("{broken} of its first {jobs} jobs failed: rolled back to {before}; the last: {why}");
            tracing::error!(plugin = %name, %reason, "rolled back");
            self.plugins.roll_back(plugin, reason);
        } else if jobs >= limit {
            let Some(before) = trials.remove(name) else { return };
            drop(trials);
            tracing::info!(plugin = %name, jobs, "has proved itself");
            self.take_out(&before);
        }
    }

    /// Consumes the queues of models that are served, and of no others.
    pub(super) fn follow_models(self: &Arc<Self>) {
        if !self.deploy.serving.load(Ordering::Acquire) || self.stopping.is_cancelled() {
            return;
        }
        let served = self.plugins.models();
        let mut consumed = self.deploy.consumed.lock().unwrap_or_else(PoisonError::into_inner);
        consumed.retain(|model, stop| {
            // They are sorted.
            let stays = served.binary_search(model).is_ok();
            if !stays {
                tracing::info!(model, "nobody serves it any more: its jobs wait for another host");
                stop.cancel();
            }
            stays
        });
        for model in served {
            if consumed.contains_key(&model) {
                continue;
            }
            let stop = self.stopping.child_token();
            let (inner, its_stop, its_name) = (Arc::clone(self), stop.clone(), model.clone());
            self.consumers.spawn_on(
                async move {
                    let all = {
                        // Not all of a thousand models at once.
                        let _turn = inner.deploy.opening.acquire().await;
                        consume::open_model(&inner, &its_name, &its_stop).await
                    };
                    for (source, first) in all {
                        let host = Arc::clone(&inner);
                        inner.consumers.spawn(async move {
                            let first = match first {
                                Ok(consumer) => Some(consumer),
                                Err(error) => {
                                    tracing::warn!(%error, "cannot consume a model's queue; trying again");
                                    source.again(&host).await
                                }
                            };
                            if let Some(first) = first {
                                consume::consume(host, source, first).await;
                            }
                        });
                    }
                },
                &self.threads,
            );
            consumed.insert(model, stop);
        }
    }

    /// From now on queues are consumed. Those of what is served already are there when this returns.
    pub(super) async fn consume_models(self: &Arc<Self>) -> Result<(), crate::broker::BrokerError> {
        let mut models = self.plugins.models().into_iter();
        let mut opening = tokio::task::JoinSet::new();
        loop {
            while opening.len() < AT_ONCE
                && let Some(model) = models.next()
            {
                let (inner, stop) = (Arc::clone(self), self.stopping.child_token());
                opening.spawn(async move {
                    let all = consume::open_model(&inner, &model, &stop).await;
                    (model, stop, all)
                });
            }
            let Some(opened) = opening.join_next().await else { break };
            let Ok((model, stop, all)) = opened else { continue };
            for (source, first) in all {
                let consumer = consume::consume(Arc::clone(self), source, first?);
                self.consumers.spawn_on(consumer, &self.threads);
            }
            self.deploy.consumed.lock().unwrap_or_else(PoisonError::into_inner).insert(model, stop);
        }
        self.deploy.serving.store(true, Ordering::Release);
        // Something may have been loaded meanwhile.
        self.follow_models();
        Ok(())
    }

    /// Loads a folder now, wherever it is.
    pub(super) async fn load_folder(self: &Arc<Self>, path: &Path) -> Result<Arc<Plugin>, LoadError> {
        let mut known = self.deploy.folders.lock().await;
        let before = known.get(path).and_then(|folder| folder.serves.clone());
        let plugin = self.bring(path, before).await?;
        let print = Print::of(path).unwrap_or_default();
        let serves = Some(Arc::clone(&plugin.identity.plugin));
        // Only what lies in the plugin directory comes and goes with it.
        if path.parent() == Some(self.config.plugins.as_path()) {
            known.insert(path.to_owned(), Folder { print, serves, missing: false });
        }
        drop(known);
        self.follow_models();
        Ok(plugin)
    }

    /// Takes out a version (`name@version`), or all versions of a plugin. Its folder is loaded again
    /// when it changes, or on demand.
    pub(super) async fn unload(self: &Arc<Self>, name: &str) -> Result<Vec<Arc<str>>, DeployError> {
        let _one_at_a_time = self.deploy.folders.lock().await;
        let all = self.plugins.list();
        let names: Vec<Arc<str>> = all
            .iter()
            .filter(|l| l.standing != Standing::Draining)
            .map(|l| &l.plugin)
            .filter(|p| *p.identity.plugin == *name || p.manifest.name == name)
            .map(|p| Arc::clone(&p.identity.plugin))
            .collect();
        if names.is_empty() {
            return Err(self.unknown(name));
        }
        names.iter().for_each(|name| self.take_out(name));
        self.follow_models();
        Ok(names)
    }

    /// Sets how the versions of a plugin share its jobs.
    pub(super) fn share(&self, name: &str, share: Share) -> Result<(), DeployError> {
        let known = |version: &str| self.plugins.get(&format!("{name}@{version}")).is_some();
        let missing = match &share {
            Share::Newest => None,
            Share::Pinned(version) => (!known(version)).then(|| version.clone()),
            Share::Weighted(weights) => weights.keys().find(|version| !known(version)).cloned(),
        };
        match missing {
            Some(version) => Err(self.unknown(&format!("{name}@{version}"))),
            None => {
                self.plugins.share(name, share);
                Ok(())
            }
        }
    }

    /// Takes the newest version of a plugin out, for the one before it.
    pub(super) async fn roll_back(self: &Arc<Self>, name: &str) -> Result<(Arc<str>, Arc<str>), DeployError> {
        let _one_at_a_time = self.deploy.folders.lock().await;
        let mut versions: Vec<Arc<Plugin>> = self
            .plugins
            .list()
            .into_iter()
            .filter(|l| l.standing != Standing::Draining && l.plugin.manifest.name == name)
            .map(|l| l.plugin)
            .collect();
        versions.sort_by(|a, b| b.version.cmp(&a.version));
        match versions.as_slice() {
            [] => Err(self.unknown(name)),
            [_] => Err(DeployError::NoEarlier { name: name.to_owned() }),
            [newest, before, ..] => {
                let (out, back) = (Arc::clone(&newest.identity.plugin), Arc::clone(&before.identity.plugin));
                self.plugins.roll_back(newest, format!("an operator rolled back to {back}"));
                self.take_out(&out);
                self.plugins.share(name, Share::Newest);
                tracing::warn!(plugin = %out, %back, "rolled back by an operator");
                self.follow_models();
                Ok((out, back))
            }
        }
    }

    fn unknown(&self, name: &str) -> DeployError {
        let served = self.plugins.list().iter().map(|l| l.plugin.identity.plugin.to_string()).collect();
        DeployError::Unknown { name: name.to_owned(), served }
    }
}

/// Changes what a host serves, while it serves.
#[derive(Clone)]
pub struct Deployer(Weak<Inner>);

impl Deployer {
    pub(super) fn new(inner: &Arc<Inner>) -> Self {
        Self(Arc::downgrade(inner))
    }

    fn host(&self) -> Result<Arc<Inner>, DeployError> {
        self.0.upgrade().filter(|host| !host.stopping.is_cancelled()).ok_or(DeployError::Ended)
    }

    /// Keeps what is served in step with the plugin directory from now on: folders that appear, change
    /// or go are noticed at once where the file system tells, else by the next look.
    ///
    /// # Errors
    /// [`DeployError::Ended`].
    pub fn watch_directory(&self) -> Result<(), DeployError> {
        let host = self.host()?;
        let looked = self.0.clone();
        // As events name it.
        let place = std::path::absolute(&host.config.plugins).unwrap_or_default();
        let told = move |event: notify::Result<notify::Event>| {
            let Some(host) = looked.upgrade() else { return };
            match event {
                Ok(event) if event.kind.is_access() => {}
                Ok(event) => {
                    if let EventKind::Modify(ModifyKind::Name(RenameMode::To)) = event.kind {
                        host.deploy.renamed(&event.paths, &place);
                    }
                    host.deploy.look.notify_one();
                }
                Err(error) => tracing::warn!(%error, "watching the plugin directory"),
            }
        };
        let directory = &host.config.plugins;
        let watcher = notify::recommended_watcher(told).and_then(|mut watcher| {
            watcher.watch(directory, notify::RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        if let Err(error) = &watcher {
            tracing::warn!(directory = %directory.display(), %error, every_ms = host.config.rescan_ms,
                "the system cannot tell of changes in the plugin directory: it is looked at from time to time");
        }
        let inner = self.0.clone();
        host.threads.spawn(async move {
            keep(inner).await;
            // It tells for as long as it lives.
            drop(watcher);
        });
        Ok(())
    }

    /// Loads a folder, wherever it is; it serves at once.
    ///
    /// # Errors
    /// [`DeployError::Load`]: nothing has changed then.
    pub async fn load(&self, folder: &Path) -> Result<Arc<Plugin>, DeployError> {
        Ok(self.host()?.load_folder(folder).await?)
    }

    /// Takes out a version (`name@version`) or every version of a plugin. What runs on it finishes.
    ///
    /// # Errors
    /// [`DeployError::Unknown`].
    pub async fn unload(&self, name: &str) -> Result<Vec<Arc<str>>, DeployError> {
        self.host()?.unload(name).await
    }

    /// Sets how the loaded versions of a plugin share its jobs, until the host ends.
    ///
    /// # Errors
    /// [`DeployError::Unknown`] where a version that is named is not loaded.
    pub fn share(&self, name: &str, share: Share) -> Result<(), DeployError> {
        self.host()?.share(name, share)
    }

    /// Takes the newest version of a plugin out, for the one before it: answers the two.
    ///
    /// # Errors
    /// [`DeployError::NoEarlier`], [`DeployError::Unknown`].
    pub async fn roll_back(&self, name: &str) -> Result<(Arc<str>, Arc<str>), DeployError> {
        self.host()?.roll_back(name).await
    }

    /// Pulls a plugin by its reference (`oci://…@sha256:…`), or takes it from the store; it serves at once.
    ///
    /// # Errors
    /// [`DeployError::Source`], [`DeployError::Load`]: nothing has changed then.
    pub async fn load_from(&self, reference: &str) -> Result<Arc<Plugin>, DeployError> {
        self.host()?.load_from(reference).await
    }

    /// What a folder of the store was pulled from.
    pub fn origin(&self, folder: &Path) -> Option<String> {
        self.0.upgrade()?.origin(folder)
    }

    /// Takes over what of a config may change while the host runs: how versions share jobs, and which
    /// plugins are pulled.
    ///
    /// # Errors
    /// [`DeployError::Ended`].
    pub async fn reload(&self, config: &Config) -> Result<(), DeployError> {
        let host = self.host()?;
        share_out(&host.plugins, config);
        host.follow_sources(&config.plugins_from).await;
        Ok(())
    }

    /// Every version there is, and every folder that is refused.
    ///
    /// # Errors
    /// [`DeployError::Ended`].
    pub fn list(&self) -> Result<(Vec<Listed>, Vec<Refused>), DeployError> {
        let host = self.host()?;
        Ok((host.plugins.list(), host.plugins.refused()))
    }
}

/// Looks at the directory when something happens there, and every so often, for some file systems tell
/// nothing.
pub(super) async fn keep(inner: Weak<Inner>) {
    let mut soon = false;
    loop {
        let Some(host) = inner.upgrade() else { return };
        let wait = if soon { SOON } else { Duration::from_millis(host.config.rescan_ms.max(1)) };
        tokio::select! {
            () = host.stopping.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            // A burst of events is one look.
            () = host.deploy.look.notified() => {
                // But what was renamed into its place is whole, and waits for nothing.
                let burst = tokio::time::Instant::now() + SOON;
                while host.deploy.whole.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
                    && tokio::time::timeout_at(burst, host.deploy.look.notified()).await.is_ok()
                {}
            }
        }
        soon = match host.scan(false).await {
            Ok((_, soon)) => soon,
            Err(error) => {
                tracing::warn!(directory = %host.config.plugins.display(), %error, "cannot look at the plugin directory");
                false
            }
        };
    }
}
