//! Plugins as OCI artifacts: pulled by digest from registries and image layouts into a store of the
//! host's own, and made for them. Whoever sends them is not trusted: every byte is counted and hashed
//! while it comes, and a plugin appears whole or not at all. Loading it is somebody else's affair.
//!
//! The client is our own, on hyper, which is here anyway: `oci-client` 0.18 reads manifests, tokens and
//! errors without a limit, leaves redirects to reqwest, and brings 38 crates.

mod artifact;
mod auth;
mod http;
mod layout;
mod pack;
mod reference;
mod registry;
mod store;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

pub use pack::pack;
pub use reference::{Digest, Place, Reference};

use crate::config::{Registry as Settings, mib};
use crate::digest::Hasher;
use crate::plugin::manifest::Manifest;
use artifact::{Artifact, Blob};
use http::{Answer, Http, Upload};
use registry::Repository;
use store::Store;

/// Plugins that are pulled at a time.
const AT_A_TIME: usize = 16;
/// Pieces in which files are read, in bytes.
const PIECE: usize = 256 << 10;

/// Why a plugin cannot be had, or not be published. Each says where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// It is called by no name that there can be.
    #[error("{reference}: {problem}")]
    Reference {
        /// As it was given.
        reference: String,
        /// What is wrong and what is wanted.
        problem: String,
    },
    /// A setting that makes no sense.
    #[error("config: {key}: {problem}")]
    Settings {
        /// Which key.
        key: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The store.
    #[error("{path}: {problem}: set `registry.store`")]
    Store {
        /// Where.
        path: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The file with the logins.
    #[error("{path} (`registry.auth_file`): {problem}")]
    Login {
        /// Where.
        path: String,
        /// What is wrong; quotes nothing of it.
        problem: String,
    },
    /// A host cannot be reached, or answers what it should not.
    #[error("{host}: {problem}")]
    Network {
        /// Which.
        host: String,
        /// What happened.
        problem: String,
    },
    /// A host refuses us.
    #[error("{host}: {problem}: check the login for it in `registry.auth_file`")]
    Denied {
        /// Which.
        host: String,
        /// What it says.
        problem: String,
    },
    /// It took longer than it may.
    #[error("{reference}: not here after {seconds} s (`registry.seconds`)")]
    TooSlow {
        /// What was pulled.
        reference: String,
        /// The limit.
        seconds: u64,
    },
    /// What is there is no plugin, or not what its digest says.
    #[error("{reference}: {problem}")]
    Artifact {
        /// What was asked for.
        reference: String,
        /// What is wrong.
        problem: String,
    },
    /// A file of this machine.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A folder that is to be published, or what was pulled, is no plugin.
    #[error(transparent)]
    Plugin(#[from] crate::plugin::LoadError),
}

fn file(path: &Path) -> impl Fn(std::io::Error) -> OciError {
    let path = path.to_owned();
    move |source| OciError::File { path: path.display().to_string(), source }
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OciError> + Send + 'static,
) -> Result<T, OciError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(OciError::File { path: "a thread".to_owned(), source: std::io::Error::other(error) })
    })
}

/// Where plugins are had from.
pub struct Sources {
    settings: Settings,
    http: Http,
    slots: Semaphore,
}

/// Where one artifact is read.
enum Origin<'a> {
    Registry(Repository<'a>),
    Layout(&'a Path),
}

/// Bytes that come.
enum Stream {
    Answer(Answer),
    File(tokio::fs::File, String),
}

impl Stream {
    async fn piece(&mut self) -> Result<Option<Bytes>, OciError> {
        match self {
            Self::Answer(answer) => answer.piece().await,
            Self::File(opened, path) => {
                let mut piece = Vec::with_capacity(PIECE);
                opened.take(PIECE as u64).read_to_end(&mut piece).await.map_err(file(Path::new(path)))?;
                Ok((!piece.is_empty()).then(|| piece.into()))
            }
        }
    }
}

/// Where they go.
enum Sink {
    Memory(Vec<u8>),
    File(tokio::fs::File, PathBuf),
}

impl Sink {
    async fn take(&mut self, piece: &[u8]) -> Result<(), OciError> {
        match self {
            Self::Memory(bytes) => bytes.extend_from_slice(piece),
            Self::File(target, path) => target.write_all(piece).await.map_err(file(path))?,
        }
        Ok(())
    }
}

impl Origin<'_> {
    async fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, OciError> {
        match self {
            Self::Registry(repository) => repository.manifest(&digest.to_string()).await,
            Self::Layout(path) => {
                let (path, digest) = (path.to_path_buf(), digest.clone());
                blocking(move || layout::manifest(&path, &digest)).await
            }
        }
    }

    async fn open(&self, digest: &Digest) -> Result<Stream, OciError> {
        match self {
            Self::Registry(repository) => Ok(Stream::Answer(repository.blob(digest).await?)),
            Self::Layout(path) => {
                let (path, digest) = (path.to_path_buf(), digest.clone());
                let shown = path.display().to_string();
                let opened = blocking(move || layout::open_blob(&path, &digest)).await?;
                Ok(Stream::File(tokio::fs::File::from_std(opened), shown))
            }
        }
    }

    /// Reads a blob. An error may come after any of its pieces: only what was read to the end is what
    /// its digest says.
    async fn read(&self, blob: &Blob, sink: &mut Sink) -> Result<(), Flaw> {
        let Blob { digest, size } = blob;
        let mut stream = self.open(digest).await?;
        if let Stream::Answer(answer) = &stream
            && let Some(length) = answer.length()
            && length != *size
        {
            return Err(Flaw::Content(format!(
                "blob {digest} has {length} bytes, says the registry: its manifest says {size}"
            )));
        }
        let (mut hash, mut read) = (Hasher::default(), 0_u64);
        while let Some(piece) = stream.piece().await? {
            read = read.saturating_add(piece.len() as u64);
            if read > *size {
                return Err(Flaw::Content(format!(
                    "blob {digest} is longer than the {size} bytes of its manifest"
                )));
            }
            hash.update(&piece);
            sink.take(&piece).await?;
        }
        if read < *size {
            return Err(Flaw::Content(format!("blob {digest} ends after {read} of {size} bytes")));
        }
        let found = hash.hex();
        if found != digest.hex() {
            return Err(Flaw::Content(format!("blob {digest} is another: what came has sha256:{found}")));
        }
        Ok(())
    }
}

/// Why a blob is not taken.
enum Flaw {
    /// It is not what its manifest says.
    Content(String),
    Other(OciError),
}

impl From<OciError> for Flaw {
    fn from(error: OciError) -> Self {
        Self::Other(error)
    }
}

impl Flaw {
    fn of(self, reference: &Reference) -> OciError {
        match self {
            Self::Content(problem) => OciError::Artifact { reference: reference.to_string(), problem },
            Self::Other(error) => error,
        }
    }
}

impl Sources {
    /// Reads the certificates that the settings name; nothing is sent.
    ///
    /// # Errors
    /// [`OciError::Settings`].
    pub fn new(settings: &Settings) -> Result<Self, OciError> {
        Ok(Self { http: Http::new(settings)?, settings: settings.clone(), slots: Semaphore::new(AT_A_TIME) })
    }

    async fn origin<'a>(
        &'a self,
        reference: &'a Reference,
        actions: &'static str,
    ) -> Result<Origin<'a>, OciError> {
        match &reference.place {
            Place::Layout(path) => Ok(Origin::Layout(path)),
            Place::Registry { host, repository } => {
                let login = match self.settings.auth_file.clone() {
                    // Read each time: a password that was changed is in force at once.
                    Some(path) => {
                        let host = host.clone();
                        blocking(move || auth::login(&path, &host)).await?
                    }
                    None => None,
                };
                Ok(Origin::Registry(Repository::new(&self.http, host, repository, login, actions)?))
            }
        }
    }

    async fn in_time<T>(
        &self,
        reference: &Reference,
        work: impl Future<Output = Result<T, OciError>>,
    ) -> Result<T, OciError> {
        let seconds = self.settings.seconds;
        tokio::time::timeout(Duration::from_secs(seconds), work)
            .await
            .unwrap_or_else(|_| Err(OciError::TooSlow { reference: reference.to_string(), seconds }))
    }

    /// The reference with its digest, which a registry or an index is asked for where it has only a tag.
    ///
    /// # Errors
    /// [`OciError`].
    pub async fn resolve(&self, reference: &Reference) -> Result<Reference, OciError> {
        if reference.digest.is_some() {
            return Ok(reference.clone());
        }
        let tag = reference.tag.clone().unwrap_or_else(|| "latest".to_owned());
        let find = async {
            match self.origin(reference, "pull").await? {
                // Hashed here: what the registry says of it is not asked.
                Origin::Registry(repository) => Ok(Digest::of(&repository.manifest(&tag).await?)),
                Origin::Layout(path) => {
                    let path = path.to_owned();
                    blocking(move || layout::resolve(&path, &tag)).await
                }
            }
        };
        Ok(reference.pinned(self.in_time(reference, find).await?))
    }

    /// The store, opened in a thread that may block.
    async fn store<T: Send + 'static>(
        &self,
        work: impl FnOnce(Store) -> Result<T, OciError> + Send + 'static,
    ) -> Result<T, OciError> {
        let path = self.settings.store.clone().ok_or_else(|| OciError::Settings {
            key: "registry.store",
            problem: "not set, and none of STATE_DIRECTORY, XDG_DATA_HOME and HOME says where it may be"
                .to_owned(),
        })?;
        blocking(move || work(Store::open(&path)?)).await
    }

    /// The plugin's folder if the store has it, checked. Nobody is asked for it.
    ///
    /// # Errors
    /// [`OciError`].
    pub async fn stored(&self, reference: &Reference) -> Result<Option<PathBuf>, OciError> {
        let digest = reference.digest()?.clone();
        self.store(move |store| store.take(&digest)).await
    }

    /// The plugin's folder: from the store, else pulled into it. Whoever drops this leaves nothing behind.
    ///
    /// # Errors
    /// [`OciError`].
    pub async fn fetch(&self, reference: &Reference) -> Result<PathBuf, OciError> {
        if let Some(folder) = self.stored(reference).await? {
            return Ok(folder);
        }
        let draft = self.store(|store| store.draft()).await?;
        let folder = store::inner(&draft);
        let manifest = self.pull(reference, &folder).await?;
        self.store(move |store| store.keep(draft, &manifest)).await
    }

    /// Pulls a plugin to where nothing is yet.
    ///
    /// # Errors
    /// [`OciError`].
    pub async fn fetch_to(&self, reference: &Reference, to: &Path) -> Result<(), OciError> {
        let to = std::path::absolute(to).map_err(file(to))?;
        let parent = to.parent().unwrap_or(Path::new("/")).to_owned();
        let draft: TempDir = blocking(move || store::draft_in(&parent)).await?;
        let folder = store::inner(&draft);
        self.pull(reference, &folder).await?;
        // Not `rename`, which would take the place of an empty folder.
        rustix::fs::renameat_with(
            rustix::fs::CWD,
            &folder,
            rustix::fs::CWD,
            &to,
            rustix::fs::RenameFlags::NOREPLACE,
        )
        .map_err(|e| file(&to)(e.into()))
    }

    /// Pulls all that a plugin is made of into a new folder; answers its manifest's bytes.
    async fn pull(&self, reference: &Reference, folder: &Path) -> Result<Vec<u8>, OciError> {
        // Never closed.
        let _slot = self.slots.acquire().await;
        self.in_time(reference, self.pull_all(reference, folder)).await
    }

    async fn pull_all(&self, reference: &Reference, folder: &Path) -> Result<Vec<u8>, OciError> {
        let bad = |problem: String| OciError::Artifact { reference: reference.to_string(), problem };
        let digest = reference.digest()?;
        let origin = self.origin(reference, "pull").await?;
        let manifest = origin.manifest(digest).await?;
        let found = Digest::of(&manifest);
        if found != *digest {
            return Err(bad(format!("its manifest is another: what came has {found}")));
        }
        let artifact = Artifact::parse(&manifest, mib(self.settings.max_mib)).map_err(bad)?;
        let mut config = Sink::Memory(Vec::new());
        origin.read(&artifact.config, &mut config).await.map_err(|flaw| flaw.of(reference))?;
        if let Sink::Memory(config) = config {
            artifact::check_config(&config).map_err(bad)?;
        }
        tokio::fs::create_dir(folder).await.map_err(file(folder))?;
        for wanted in &artifact.files {
            let path = folder.join(&wanted.name);
            if let Some(parent) = path.parent() {
                tokio::fs::create_dir_all(parent).await.map_err(file(parent))?;
            }
            let target = tokio::fs::File::create_new(&path).await.map_err(file(&path))?;
            let mut sink = Sink::File(target, path.clone());
            origin.read(&wanted.blob, &mut sink).await.map_err(|flaw| flaw.of(reference))?;
            if let Sink::File(mut target, _) = sink {
                // It alone tells of a write that failed.
                target.flush().await.map_err(file(&path))?;
                target.sync_all().await.map_err(file(&path))?;
            }
        }
        let at = folder.to_owned();
        let (plugin, _) = blocking(move || {
            Manifest::read(&at).map_err(|e| OciError::Plugin(crate::plugin::LoadError::Manifest(e)))
        })
        .await
        .map_err(|e| bad(e.to_string()))?;
        if !artifact.files.iter().any(|file| file.wasm && file.name == plugin.component) {
            return Err(bad(format!(
                "no layer of type {} is called {:?}",
                artifact::WASM_TYPE,
                plugin.component
            )));
        }
        Ok(manifest)
    }

    /// Publishes a plugin's folder in a registry; answers its name by digest.
    ///
    /// # Errors
    /// [`OciError`].
    pub async fn push(&self, folder: &Path, to: &Reference) -> Result<Reference, OciError> {
        if to.digest.is_some() {
            return Err(OciError::Reference {
                reference: to.to_string(),
                problem: "a digest cannot be chosen: give a tag, or none".to_owned(),
            });
        }
        let folder = folder.to_owned();
        let packed = blocking(move || pack::Packed::of(&folder)).await?;
        let work = async {
            let Origin::Registry(repository) = self.origin(to, "pull,push").await? else {
                return Err(OciError::Reference {
                    reference: to.to_string(),
                    problem: "`warren plugin pack` writes into a layout".to_owned(),
                });
            };
            for (digest, path, size) in &packed.files {
                repository.put_blob(digest, Upload::File(path.clone(), *size)).await?;
            }
            let config: Bytes = packed.config.clone().into();
            repository.put_blob(&Digest::of(&config), Upload::Bytes(config)).await?;
            let digest = Digest::of(&packed.manifest);
            let name = to.tag.clone().unwrap_or_else(|| digest.to_string());
            repository.put_manifest(&name, packed.manifest.clone()).await?;
            Ok(to.pinned(digest))
        };
        self.in_time(to, work).await
    }
}
