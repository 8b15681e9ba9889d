//! Inputs and outputs by reference: which stores are allowed, reading what a job names, writing
//! what leaves. Directories are opened once and walked beneath with cap-std, so that neither `..`
//! nor a symbolic link leads out.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};

use crate::config::{Artifacts as Config, mib};
use crate::digest::sha256_hex;
use crate::job::{Code, Data, Datatype, Failure, Named, Outputs, Reference};
use crate::plugin::manifest::Manifest;

/// The stores, opened.
#[derive(Debug, Clone)]
pub struct Artifacts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    read: Vec<(PathBuf, Dir)>,
    write: Option<(PathBuf, Dir)>,
    inline: u64,
    max_input: u64,
}

/// A store that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("artifacts: cannot open {path}: {source}: create the directory or change the config")]
pub struct StoreError {
    /// Where.
    path: String,
    /// Why.
    source: std::io::Error,
}

fn open(path: &Path) -> Result<(PathBuf, Dir), StoreError> {
    let fail = |source| StoreError { path: path.display().to_string(), source };
    let real = path.canonicalize().map_err(fail)?;
    let dir = Dir::open_ambient_dir(&real, ambient_authority()).map_err(fail)?;
    Ok((real, dir))
}

/// The path that a `file://` URL names; `%xx` is decoded.
fn file_path(url: &str) -> Result<PathBuf, String> {
    let rest = url
        .strip_prefix("file://")
        .ok_or_else(|| format!("{url:?}: only file:// references are served by this host"))?;
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(format!("{url:?}: use an absolute path, file:///…"));
    }
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit =
            |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(high), Some(low)) if high << 4 | low != 0 => out.push(high << 4 | low),
            _ => return Err(format!("{url:?}: a % is not followed by two hexadecimal digits")),
        }
    }
    String::from_utf8(out).map(PathBuf::from).map_err(|_| format!("{url:?}: the path is not UTF-8"))
}

/// A `file://` URL of an absolute path.
pub fn file_url(path: &Path) -> String {
    let mut url = String::from("file://");
    for byte in path.to_string_lossy().bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
    url
}

impl Artifacts {
    /// Opens the stores of the config.
    ///
    /// # Errors
    /// [`StoreError`] names the directory that is not there.
    pub fn open(config: &Config) -> Result<Self, StoreError> {
        let read = config.read.iter().map(|p| open(p)).collect::<Result<_, _>>()?;
        let write = config.write.as_deref().map(open).transpose()?;
        let inline = config.inline_kib.saturating_mul(1024);
        Ok(Self(Arc::new(Inner { read, write, inline, max_input: mib(config.max_input_mib) })))
    }

    /// Reads what a reference names. Blocks: call it where that is allowed.
    ///
    /// # Errors
    /// `INPUT_UNAVAILABLE`. A path outside the allowed stores and one that is not there answer the
    /// same, so that a client cannot look around.
    pub fn read(&self, input: &str, reference: &Reference) -> Result<Bytes, Failure> {
        let fail = |text: String| Failure::new(Code::InputUnavailable, format!("input {input:?}: {text}"));
        let path = file_path(&reference.url).map_err(&fail)?;
        let (root, relative) = self
            .0
            .read
            .iter()
            .find_map(|(root, dir)| path.strip_prefix(root).ok().map(|relative| (dir, relative)))
            .ok_or_else(|| fail(format!("{:?} is not there or not in an allowed store", reference.url)))?;
        let not_there = |_| fail(format!("{:?} is not there or not in an allowed store", reference.url));
        // Opening a pipe that nobody writes to would hold this thread for ever.
        let mut plain = OpenOptions::new();
        plain.read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
        let file = root.open_with(relative, &plain).map_err(not_there)?;
        let size = match file.metadata() {
            Ok(metadata) if metadata.is_file() => metadata.len(),
            _ => return Err(fail(format!("{:?} is not a file", reference.url))),
        };
        let too_large =
            |size| fail(format!("{size} bytes: artifacts.max_input_mib is {}", self.0.max_input >> 20));
        if size > self.0.max_input {
            return Err(too_large(size));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        file.take(self.0.max_input + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| fail(format!("{:?} cannot be read: {e}", reference.url)))?;
        if bytes.len() as u64 > self.0.max_input {
            return Err(too_large(bytes.len() as u64));
        }
        if let Some(expected) = &reference.sha256 {
            let found = sha256_hex(&bytes);
            if !found.eq_ignore_ascii_case(expected) {
                return Err(fail(format!("{:?} has sha256 {found}, not {expected}", reference.url)));
            }
        }
        Ok(bytes.into())
    }

    /// Moves outputs that are large, or that the manifest calls artifacts, to the store, and leaves
    /// references in their place. Blocks when something is written.
    ///
    /// # Errors
    /// `HOST_ERROR` when the store cannot be written.
    pub fn store(
        &self,
        manifest: &Manifest,
        job: &str,
        attempt: u32,
        outputs: &mut Outputs,
    ) -> Result<(), Failure> {
        let Some((root, dir)) = &self.0.write else { return Ok(()) };
        for (place, named) in outputs.outputs.iter_mut().enumerate() {
            if !self.leaves(manifest, named) {
                continue;
            }
            let fail = |e: std::io::Error| {
                let text = format!("artifact {:?} cannot be written to {}: {e}", named.name, root.display());
                Failure::new(Code::HostError, text)
            };
            let bytes = match &named.data {
                Data::Raw(bytes) => bytes.clone(),
                Data::Strings(strings) => strings.iter().flat_map(|s| s.iter().copied()).collect(),
                Data::Reference(_) => continue,
            };
            // Ids and names come from outside: what a path is made of is their digest.
            let folder = &sha256_hex(job.as_bytes())[..16];
            dir.create_dir_all(folder).map_err(fail)?;
            let name = format!("{attempt}-{place}{}", extension(named.content_type.as_deref()));
            let path = Path::new(folder).join(&name);
            let partial = Path::new(folder).join(format!("{name}.part"));
            dir.write(&partial, &bytes).map_err(fail)?;
            dir.rename(&partial, dir, &path).map_err(fail)?;
            named.data = Data::Reference(Reference {
                url: file_url(&root.join(&path)),
                sha256: Some(sha256_hex(&bytes)),
                content_type: named.content_type.clone(),
                size: Some(bytes.len() as u64),
            });
        }
        Ok(())
    }

    /// Whether any output would be written.
    pub fn stores(&self, manifest: &Manifest, outputs: &Outputs) -> bool {
        self.0.write.is_some() && outputs.outputs.iter().any(|named| self.leaves(manifest, named))
    }

    fn leaves(&self, manifest: &Manifest, named: &Named) -> bool {
        let wanted = manifest.outputs.iter().any(|o| o.artifact && o.name == named.name);
        let size = match &named.data {
            Data::Raw(bytes) => bytes.len() as u64,
            // Several strings cannot be told apart in a file: they stay inline.
            Data::Strings(strings) if strings.len() == 1 => strings.iter().map(|s| s.len() as u64).sum(),
            Data::Strings(_) | Data::Reference(_) => return false,
        };
        (wanted && named.datatype == Datatype::Bytes) || size > self.0.inline
    }
}

/// A file name's ending for a media type, for people who look into the store.
fn extension(content_type: Option<&str>) -> &'static str {
    match content_type.map(|c| c.split(';').next().unwrap_or(c).trim()) {
        Some("audio/midi" | "audio/x-midi") => ".mid",
        Some("application/json") => ".json",
        Some("text/plain") => ".txt",
        Some("image/png") => ".png",
        Some("audio/wav" | "audio/x-wav") => ".wav",
        _ => ".bin",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(dir: &Path) -> Artifacts {
        let config = Config { read: vec![dir.to_owned()], write: Some(dir.to_owned()), ..Config::default() };
        Artifacts::open(&config).expect("opens")
    }

    fn reference(url: String, sha256: Option<&str>) -> Reference {
        Reference { url, sha256: sha256.map(str::to_owned), content_type: None, size: None }
    }

    #[test]
    fn reads_what_is_inside_and_nothing_else() {
        let outside = tempfile::tempdir().expect("dir");
        std::fs::write(outside.path().join("secret"), "s").expect("write");
        let inside = tempfile::tempdir().expect("dir");
        let root = inside.path().canonicalize().expect("real");
        std::fs::write(root.join("a b.wav"), "sound").expect("write");
        std::os::unix::fs::symlink(outside.path().join("secret"), root.join("link")).expect("link");
        std::os::unix::fs::symlink(outside.path(), root.join("dir")).expect("link");
        let (fifo, own) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
        rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), fifo, own, 0).expect("pipe");
        let store = store(&root);
        let url = file_url(&root.join("a b.wav"));
        assert!(url.contains("a%20b.wav"));
        assert_eq!(store.read("x", &reference(url.clone(), None)).expect("reads"), "sound");
        let good = sha256_hex(b"sound");
        assert!(store.read("x", &reference(url.clone(), Some(&good))).is_ok());
        let error = store.read("x", &reference(url, Some(&"0".repeat(64)))).expect_err("digest");
        assert!(error.text.contains("sha256") && error.code == Code::InputUnavailable, "{error}");
        let shown = root.display();
        for url in [
            format!("file://{shown}/link"),
            format!("file://{shown}/dir/secret"),
            format!("file://{shown}/../{}/secret", outside.path().file_name().expect("name").display()),
            format!("file://{}/secret", outside.path().display()),
            format!("file://{shown}/missing"),
            // Not one that nobody writes to, either: it would be waited for, for ever.
            format!("file://{shown}/pipe"),
            format!("file://{shown}"),
            format!("file://{shown}/%00"),
            format!("file://{shown}/%zz"),
            "file://relative".to_owned(),
            "http://127.0.0.1/x".to_owned(),
            "/etc/passwd".to_owned(),
        ] {
            let error = store.read("x", &reference(url.clone(), None)).expect_err(&url);
            assert_eq!(error.code, Code::InputUnavailable, "{url}");
        }
    }
}
