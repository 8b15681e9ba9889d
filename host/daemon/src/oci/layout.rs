//! An OCI image layout on disk: `index.json` and `blobs/sha256/`. Read with the same checks as what
//! comes from a registry; written whole file by whole file.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::OciError;
use super::artifact::{Descriptor, INDEX_TYPE, MANIFEST_TYPE, MAX_DOCUMENT, REF_NAME};
use super::reference::Digest;

/// Says that a folder is one.
const MARKER: (&str, &str) = ("oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");
const INDEX: &str = "index.json";

fn file(path: &Path) -> impl Fn(std::io::Error) -> OciError {
    let path = path.to_owned();
    move |source| OciError::File { path: path.display().to_string(), source }
}

fn broken(path: &Path, problem: impl Into<String>) -> OciError {
    OciError::Artifact { reference: path.display().to_string(), problem: problem.into() }
}

/// Where a blob lies.
fn blob_path(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}

/// Opens a plain file: no link, no pipe that never ends. Blocks.
pub(super) fn open_plain(path: &Path) -> Result<std::fs::File, OciError> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let opened = std::fs::OpenOptions::new()
        .read(true)
        // Both are flags of open(2), which fit.
        .custom_flags(flags as i32)
        .open(path)
        .map_err(file(path))?;
    if !opened.metadata().map_err(file(path))?.is_file() {
        return Err(broken(path, "it is no plain file"));
    }
    Ok(opened)
}

/// Opens a blob. Blocks.
pub(super) fn open_blob(layout: &Path, digest: &Digest) -> Result<std::fs::File, OciError> {
    open_plain(&blob_path(layout, digest))
}

/// Reads a plain file that must not have more than `most` bytes. Blocks.
pub(super) fn read(path: &Path, most: u64) -> Result<Vec<u8>, OciError> {
    let mut bytes = Vec::new();
    open_plain(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(file(path))?;
    if bytes.len() as u64 > most {
        return Err(broken(path, format!("it has more than {most} bytes")));
    }
    Ok(bytes)
}

/// The bytes of a manifest. Not checked. Blocks.
pub(super) fn manifest(layout: &Path, digest: &Digest) -> Result<Vec<u8>, OciError> {
    read(&blob_path(layout, digest), MAX_DOCUMENT)
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    /// As they are: what we do not know stays.
    manifests: Vec<Value>,
}

fn named<'a>(entry: &'a Value, tag: &str) -> Option<&'a str> {
    let name = entry.get("annotations")?.get(REF_NAME)?.as_str()?;
    (name == tag).then(|| entry.get("digest")?.as_str())?
}

/// What a tag points to. Blocks.
pub(super) fn resolve(layout: &Path, tag: &str) -> Result<Digest, OciError> {
    let path = layout.join(INDEX);
    let index: Index =
        serde_json::from_slice(&read(&path, MAX_DOCUMENT)?).map_err(|e| broken(&path, e.to_string()))?;
    let found = index.manifests.iter().find_map(|entry| named(entry, tag));
    let digest = found.ok_or_else(|| broken(&path, format!("nothing in it is called {tag:?}")))?;
    Digest::parse(digest).ok_or_else(|| broken(&path, format!("{tag:?} has no sha256 digest")))
}

/// Puts bytes in place of a file in one step. Blocks.
fn put(path: &Path, bytes: &[u8]) -> Result<(), OciError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut draft = tempfile::NamedTempFile::new_in(folder).map_err(file(folder))?;
    draft.write_all(bytes).map_err(file(path))?;
    keep(draft, path)
}

fn keep(draft: tempfile::NamedTempFile, path: &Path) -> Result<(), OciError> {
    use std::os::unix::fs::PermissionsExt;
    draft.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(file(path))?;
    draft.persist(path).map_err(|e| file(path)(e.error))?;
    Ok(())
}

/// Writes a manifest and its blobs into a layout, made where there is none. Blocks.
pub(super) fn write(
    layout: &Path,
    manifest: &[u8],
    config: &[u8],
    files: &[(Digest, PathBuf)],
    tag: Option<&str>,
) -> Result<(), OciError> {
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).map_err(file(&blobs))?;
    let marker = layout.join(MARKER.0);
    if !marker.exists() {
        put(&marker, MARKER.1.as_bytes())?;
    }
    for (digest, from) in files {
        let path = blob_path(layout, digest);
        if path.exists() {
            continue;
        }
        let mut draft = tempfile::NamedTempFile::new_in(&blobs).map_err(file(&blobs))?;
        let mut source = std::fs::File::open(from).map_err(file(from))?;
        std::io::copy(&mut source, &mut draft).map_err(file(from))?;
        keep(draft, &path)?;
    }
    let digest = Digest::of(manifest);
    put(&blob_path(layout, &Digest::of(config)), config)?;
    put(&blob_path(layout, &digest), manifest)?;
    let path = layout.join(INDEX);
    let mut index = match path.exists() {
        true => {
            serde_json::from_slice(&read(&path, MAX_DOCUMENT)?).map_err(|e| broken(&path, e.to_string()))?
        }
        false => Index { schema_version: 2, media_type: Some(INDEX_TYPE.to_owned()), manifests: Vec::new() },
    };
    // A tag is one manifest's at a time; without a tag a manifest stands there once.
    index.manifests.retain(|entry| match tag {
        Some(tag) => named(entry, tag).is_none(),
        None => entry.get("digest").and_then(Value::as_str) != Some(&digest.to_string()),
    });
    let annotations = tag.map(|tag| (REF_NAME.to_owned(), tag.to_owned())).into_iter().collect();
    let descriptor = Descriptor {
        media_type: MANIFEST_TYPE.to_owned(),
        digest: digest.to_string(),
        size: manifest.len() as u64,
        annotations,
    };
    let entry = serde_json::to_value(descriptor).map_err(|e| broken(&path, e.to_string()))?;
    index.manifests.push(entry);
    let text = serde_json::to_vec_pretty(&index).map_err(|e| broken(&path, e.to_string()))?;
    put(&path, &text)
}
