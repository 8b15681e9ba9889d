//! Plugins: their manifests, loading them, and which of them serve which model.

pub mod manifest;
mod registry;
pub mod signature;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub use registry::{Changes, Listed, Plugins, Refused, Share, Standing};

use crate::config::Limits;
use crate::digest::sha256_hex;
use crate::folder::Folder;
use crate::job::Identity;
use crate::sandbox::{Guest, Sandbox, SandboxError};
use manifest::{Manifest, ManifestError};
use signature::SignatureError;

/// The largest component that is read.
const MAX_COMPONENT: u64 = 512 << 20;

/// A plugin version that is ready to run.
pub struct Plugin {
    /// What it says about itself.
    pub manifest: Manifest,
    /// Who it is, for events.
    pub identity: Identity,
    /// Its limits after the operator's cap.
    pub limits: Limits,
    /// What runs.
    pub guest: Guest,
    /// How its first jobs have ended.
    pub tally: Tally,
    pub(crate) version: semver::Version,
}

/// How the first jobs of a version have ended.
#[derive(Debug, Default)]
pub struct Tally {
    jobs: AtomicU32,
    broken: AtomicU32,
}

impl Tally {
    /// Counts a job. Answers how many there were and how many of them broke, as long as they are among
    /// the first `limit`.
    pub fn count(&self, broken: bool, limit: u32) -> Option<(u32, u32)> {
        if self.jobs.load(Ordering::Relaxed) >= limit {
            return None;
        }
        let jobs = self.jobs.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let broken = self.broken.fetch_add(u32::from(broken), Ordering::Relaxed) + u32::from(broken);
        (jobs <= limit).then_some((jobs, broken))
    }

    /// Jobs counted, and how many of them broke.
    pub fn counts(&self) -> (u32, u32) {
        (self.jobs.load(Ordering::Relaxed), self.broken.load(Ordering::Relaxed))
    }
}

/// Why a plugin is not served. Each says where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file that the manifest names.
    #[error("{path}: {source}: put it there, or correct the manifest")]
    Read {
        /// Which file.
        path: String,
        /// Why it cannot be read.
        source: std::io::Error,
    },
    /// A file that is not what the manifest says.
    #[error(
        "{path}: sha256 is {found}, the manifest says {expected}: the file was changed, or is another version"
    )]
    Digest {
        /// Which file.
        path: String,
        /// What it hashes to.
        found: String,
        /// What the manifest says.
        expected: String,
    },
    /// A component too large to be one.
    #[error("{path}: {size} bytes: a component may have {MAX_COMPONENT}")]
    TooLarge {
        /// Which file.
        path: String,
        /// Its size.
        size: u64,
    },
    /// The version is no semantic version after all.
    #[error("{path}: version: {reason}")]
    Version {
        /// Which manifest.
        path: String,
        /// What the parser says.
        reason: String,
    },
    /// Nobody vouches for it.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Compiling, the world, or `prepare`.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A job of its own that it could not do.
    #[error("{path}: the self-test failed: {failure}: mend the plugin, or the test")]
    SelfTest {
        /// The test's request.
        path: String,
        /// What a client would have got.
        failure: String,
    },
    /// A plugin of that name and version is loaded already, with other bytes.
    #[error("{folder}: {plugin} is loaded already from {other}: give the new one another version")]
    Duplicate {
        /// The folder refused.
        folder: String,
        /// `name@version`.
        plugin: String,
        /// The folder that serves it.
        other: String,
    },
}

/// A plugin's folder as read: manifest, component and its digest. Nothing has been compiled.
pub struct Package {
    /// The manifest.
    pub manifest: Manifest,
    /// Of its text; lower-case hex.
    pub manifest_sha256: String,
    /// The component's bytes: what is hashed is what is compiled.
    pub component: Vec<u8>,
    /// Lower-case hex.
    pub sha256: String,
    /// The folder, held open: all that is read of it from now on is of this one.
    pub folder: Arc<Folder>,
}

impl Package {
    /// Reads a plugin's folder and checks every digest that its manifest names. Blocks.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn read(folder: &Path) -> Result<Self, LoadError> {
        let read = |path: &Path, source| LoadError::Read { path: path.display().to_string(), source };
        let folder = Folder::open(folder).map_err(|source| ManifestError::Read {
            path: folder.join(manifest::FILE_NAME).display().to_string(),
            source,
        });
        let folder = Arc::new(folder?);
        let (manifest, text) = Manifest::of(&folder)?;
        let path = folder.join(&manifest.component);
        let size = folder.size(&manifest.component).map_err(|e| read(&path, e))?;
        if size > MAX_COMPONENT {
            return Err(LoadError::TooLarge { path: path.display().to_string(), size });
        }
        let component = folder.read(&manifest.component, MAX_COMPONENT).map_err(|e| read(&path, e))?;
        let sha256 = sha256_hex(&component);
        if let Some(expected) = &manifest.sha256 {
            same(&path, sha256.clone(), expected)?;
        }
        check_files(&manifest, &folder)?;
        let manifest_sha256 = sha256_hex(text.as_bytes());
        Ok(Self { manifest, manifest_sha256, component, sha256, folder })
    }

    /// `name@version`.
    pub fn name(&self) -> String {
        format!("{}@{}", self.manifest.name, self.manifest.version)
    }
}

fn same(path: &Path, found: String, expected: &str) -> Result<(), LoadError> {
    if found == expected {
        return Ok(());
    }
    Err(LoadError::Digest { path: path.display().to_string(), found, expected: expected.to_owned() })
}

/// Checks that the files that a manifest names are what it says. Blocks.
fn check_files(manifest: &Manifest, folder: &Folder) -> Result<(), LoadError> {
    for file in &manifest.files {
        let path = folder.join(&file.name);
        let found = folder
            .sha256(&file.name)
            .map_err(|source| LoadError::Read { path: path.display().to_string(), source })?;
        same(&path, found, &file.sha256)?;
    }
    Ok(())
}

/// Loads a plugin: read, hash, check the signature where `signers` name keys, compile, check the world,
/// run `prepare`.
///
/// # Errors
/// [`LoadError`] with the step that failed.
pub async fn load(
    folder: &Path,
    sandbox: &Arc<Sandbox>,
    cap: &Limits,
    signers: &[String],
) -> Result<Plugin, LoadError> {
    let (owned, engine, signers) = (folder.to_owned(), Arc::clone(sandbox), signers.to_vec());
    let compiled = tokio::task::spawn_blocking(move || {
        let package = Package::read(&owned)?;
        signature::check(&package, &signers)?;
        let path = package.folder.join(&package.manifest.component);
        let compiled =
            engine.compile_digest(&path.display().to_string(), &package.component, &package.sha256)?;
        Ok::<_, LoadError>((package, compiled))
    });
    let (package, compiled) = match compiled.await {
        Ok(done) => done?,
        Err(error) => {
            let source = std::io::Error::other(error);
            return Err(LoadError::Read { path: folder.display().to_string(), source });
        }
    };
    let name: Arc<str> = package.name().into();
    let limits = package.manifest.limits.capped(cap);
    let version = semver::Version::parse(&package.manifest.version).map_err(|e| LoadError::Version {
        path: package.folder.join(manifest::FILE_NAME).display().to_string(),
        reason: e.to_string(),
    })?;
    let guest = sandbox.prepare(Arc::clone(&name), compiled, limits.clone(), package.folder.clone()).await?;
    // What `prepare` read must be what was checked before it.
    check_files(&package.manifest, &package.folder)?;
    let digest: Arc<str> = format!("sha256:{}", package.sha256).into();
    Ok(Plugin {
        manifest: package.manifest,
        identity: Identity { plugin: name, digest },
        limits,
        guest,
        tally: Tally::default(),
        version,
    })
}
