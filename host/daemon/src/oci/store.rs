//! Where pulled plugins lie: a directory of the host's own, a folder a manifest, named by its digest.
//! What is there is whole, and is checked again before it is used: without a registry it serves as well.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::OciError;
use super::artifact::{Artifact, File, MAX_DOCUMENT};
use super::layout;
use super::reference::Digest;
use crate::folder::Folder;

/// The plugin's own folder within that of its manifest.
const PLUGIN: &str = "plugin";
const MANIFEST: &str = "manifest.json";
/// Folders that are not complete yet.
const DRAFT: &str = ".draft-";
/// A draft this old was left by a host that died.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// The directory.
pub(super) struct Store {
    path: PathBuf,
}

impl Store {
    /// Opens it; made where it is missing. Blocks.
    pub fn open(path: &Path) -> Result<Self, OciError> {
        let bad = |problem: String| OciError::Store { path: path.display().to_string(), problem };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|e| bad(format!("it cannot be made: {e}")))?;
        // Without a slash at its end, by which a link would be followed after all.
        let path: PathBuf = path.components().collect();
        let data = std::fs::symlink_metadata(&path).map_err(|e| bad(e.to_string()))?;
        if !data.is_dir() {
            return Err(bad("it is a symbolic link: name the directory itself".to_owned()));
        }
        if data.uid() != rustix::process::geteuid().as_raw() {
            return Err(bad(format!(
                "it belongs to user {}: use a directory of this user's own",
                data.uid()
            )));
        }
        if data.mode() & 0o022 != 0 {
            return Err(bad(format!(
                "others may write to it (mode {:o}): chmod 700 it",
                data.mode() & 0o7777
            )));
        }
        let path = path.canonicalize().map_err(|e| bad(e.to_string()))?;
        let store = Self { path };
        store.sweep();
        Ok(store)
    }

    /// Takes away what hosts that died have left.
    fn sweep(&self) {
        for entry in std::fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let draft = entry.file_name().as_encoded_bytes().starts_with(DRAFT.as_bytes());
            let age = entry.metadata().ok().and_then(|data| data.modified().ok()?.elapsed().ok());
            if draft && age.is_some_and(|age| age > STALE) {
                tracing::debug!(path = %entry.path().display(), "removing what a pull left behind");
                // Another host may do the same right now.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }

    fn folder(&self, digest: &Digest) -> PathBuf {
        self.path.join(format!("sha256-{}", digest.hex()))
    }

    /// The plugin's folder of a manifest, if it is there and what it was. Blocks.
    pub fn take(&self, digest: &Digest) -> Result<Option<PathBuf>, OciError> {
        let folder = self.folder(digest);
        if std::fs::symlink_metadata(&folder).is_err() {
            return Ok(None);
        }
        match intact(&folder, digest) {
            Ok(()) => Ok(Some(folder.join(PLUGIN))),
            Err(problem) => {
                tracing::warn!(folder = %folder.display(), problem, "not what was pulled: pulled anew");
                std::fs::remove_dir_all(&folder)
                    .map_err(|source| OciError::File { path: folder.display().to_string(), source })?;
                Ok(None)
            }
        }
    }

    /// A folder to fetch into; gone with the last word on it, unless it is kept. Blocks.
    pub fn draft(&self) -> Result<TempDir, OciError> {
        draft_in(&self.path)
    }

    /// Puts a draft in its place, complete. Blocks.
    pub fn keep(&self, draft: TempDir, manifest: &[u8]) -> Result<PathBuf, OciError> {
        let digest = Digest::of(manifest);
        let path = draft.path().join(MANIFEST);
        std::fs::write(&path, manifest)
            .map_err(|source| OciError::File { path: path.display().to_string(), source })?;
        let folder = self.folder(&digest);
        match std::fs::rename(draft.path(), &folder) {
            Ok(()) => drop(draft.keep()),
            // Somebody else was faster; what is there is by its name the same.
            Err(_) if folder.join(MANIFEST).is_file() => {}
            Err(source) => return Err(OciError::File { path: folder.display().to_string(), source }),
        }
        Ok(folder.join(PLUGIN))
    }
}

/// The plugin's folder of a draft.
pub(super) fn inner(draft: &TempDir) -> PathBuf {
    draft.path().join(PLUGIN)
}

/// A folder beside others that nobody takes for whole. Blocks.
pub(super) fn draft_in(folder: &Path) -> Result<TempDir, OciError> {
    let made = tempfile::Builder::new().prefix(DRAFT).tempdir_in(folder);
    made.map_err(|source| OciError::File { path: folder.display().to_string(), source })
}

/// Whether a folder of the store holds what its manifest says, and nothing else.
fn intact(folder: &Path, digest: &Digest) -> Result<(), String> {
    let manifest = layout::read(&folder.join(MANIFEST), MAX_DOCUMENT).map_err(|e| e.to_string())?;
    if Digest::of(&manifest) != *digest {
        return Err("its manifest has changed".to_owned());
    }
    // However large: it is here.
    let artifact = Artifact::parse(&manifest, u64::MAX)?;
    let plugin = folder.join(PLUGIN);
    let opened = Folder::open(&plugin).map_err(|e| format!("{}: {e}", plugin.display()))?;
    for file in &artifact.files {
        same(&opened, file)?;
    }
    let known = |path: &Path| artifact.files.iter().any(|file| plugin.join(&file.name) == path);
    let mut folders = vec![plugin.clone()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).map_err(|e| format!("{}: {e}", next.display()))? {
            let entry = entry.map_err(|e| format!("{}: {e}", next.display()))?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            } else if !known(&entry.path()) {
                return Err(format!("{}: nobody pulled it", entry.path().display()));
            }
        }
    }
    Ok(())
}

fn same(plugin: &Folder, file: &File) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("{}: {e}", plugin.join(&file.name).display());
    let size = plugin.size(&file.name).map_err(fail)?;
    if size != file.blob.size || plugin.sha256(&file.name).map_err(fail)? != file.blob.digest.hex() {
        return Err(format!("{}: it has changed", plugin.join(&file.name).display()));
    }
    Ok(())
}
