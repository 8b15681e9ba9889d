//! The scratch directory of a batch: what is written there is counted before it is, and it is removed
//! whatever its guest has made of it.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::File;
use std::io::Error;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use crate::config::mib;
use crate::job::Code;

/// What a file, a directory or a link counts besides its content, bytes: about what it takes on disk.
pub const ENTRY: u64 = 4096;

#[derive(Debug)]
struct Used {
    limit_mib: u64,
    jobs: u64,
    bytes: u64,
    denied: Option<(Code, String)>,
}

/// How much a batch may write. It counts by how much files grow and how many entries are made, and gives
/// nothing back before the batch ends: a write that is still on its way can then never undo what was
/// given back for a file that was cut or removed meanwhile. So there is never more than the limit on disk.
#[derive(Debug, Clone)]
pub struct Quota(Arc<Mutex<Used>>);

impl Quota {
    /// `limit_mib` for each of `jobs`.
    pub fn new(limit_mib: u64, jobs: usize) -> Self {
        let jobs = u64::try_from(jobs).unwrap_or(u64::MAX).max(1);
        Self(Arc::new(Mutex::new(Used { limit_mib, jobs, bytes: 0, denied: None })))
    }

    /// Takes so many bytes. On refusal the limit is on record.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub fn take(&self, bytes: u64) -> Result<(), Error> {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let total = used.bytes.saturating_add(bytes);
        if total > mib(used.limit_mib).saturating_mul(used.jobs) {
            let text = format!(
                "{total} bytes of scratch asked for, with {ENTRY} for each entry: limits.scratch_mib is {}",
                used.limit_mib
            );
            used.denied.get_or_insert((Code::ScratchLimit, text));
            return Err(Errno::NOSPC.into());
        }
        used.bytes = total;
        Ok(())
    }

    /// Gives back what was taken for something that did not come about.
    pub fn untake(&self, bytes: u64) {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        used.bytes = used.bytes.saturating_sub(bytes);
    }

    /// Takes what a file grows by when it ends at `end`: holes count like bytes.
    ///
    /// # Errors
    /// `ENOSPC`, or the file cannot be looked at.
    pub fn grow(&self, file: &File, end: u64) -> Result<(), Error> {
        self.take(end.saturating_sub(file.metadata()?.len()))
    }

    /// Notes a limit on files that is not one of bytes.
    pub fn deny(&self, code: Code, text: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).denied.get_or_insert((code, text));
    }

    /// The first limit that was hit.
    pub fn denied(&self) -> Option<(Code, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).denied.clone()
    }
}

/// A stream into a file of scratch that counts what it writes.
pub struct Counted {
    /// What writes.
    pub inner: Box<dyn OutputStream>,
    /// The file, which is as open as `inner` keeps it.
    pub file: Weak<File>,
    /// Where the next byte goes; none: to the end.
    pub at: Option<u64>,
    /// Who counts.
    pub quota: Quota,
}

impl Counted {
    fn count(&mut self, bytes: usize) -> StreamResult<()> {
        let bytes = bytes as u64;
        let taken = match &mut self.at {
            None => self.quota.take(bytes),
            Some(at) => {
                *at = at.saturating_add(bytes);
                let file = self.file.upgrade().ok_or(StreamError::Closed)?;
                self.quota.grow(&file, *at)
            }
        };
        taken.map_err(|error| StreamError::LastOperationFailed(error.into()))
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Counted {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Counted {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.count(bytes.len())?;
        self.inner.write(bytes)
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.count(bytes.len())?;
        self.inner.blocking_write_and_flush(bytes).await
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.inner.check_write()
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

/// Where a host makes its scratch directories: in a directory of its own, which it keeps locked. So what a
/// host has left that died is told from what one uses.
#[derive(Debug)]
pub struct Base {
    within: PathBuf,
    /// There while any batch needs it: an idle host leaves nothing behind, however it ends.
    own: Mutex<Weak<Own>>,
}

/// A host's own directory; removed when this is dropped.
#[derive(Debug)]
struct Own {
    path: PathBuf,
    /// Holds the lock.
    _open: OwnedFd,
}

/// What the names of hosts' directories begin with. While one is made its name begins with a dot.
const PREFIX: &str = "warren-scratch-";
/// The guest's directory in that of its batch.
const FILES: &str = "files";
const OPEN: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Own {
    fn make(within: &Path) -> Result<Self, Error> {
        let made = tempfile::Builder::new()
            .prefix(&format!(".{PREFIX}"))
            .permissions(private())
            .tempdir_in(within)?;
        let open = rustix::fs::open(made.path(), OPEN, Mode::empty())?;
        if let Err(error) = rustix::fs::flock(&open, FlockOperation::NonBlockingLockExclusive) {
            // Nobody else can lock it then, either: it is not taken for a dead host's.
            tracing::warn!(within = %within.display(), %error, "scratch directories cannot be locked here");
        }
        let name = made.path().file_name().unwrap_or_default().to_string_lossy();
        let path = within.join(name.trim_start_matches('.'));
        std::fs::rename(made.path(), &path)?;
        // It has another name now.
        let _ = made.keep();
        Ok(Self { path, _open: open })
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %self.path.display(), %error, "cannot remove the directory of scratch directories");
        }
    }
}

/// For this user's eyes only.
fn private() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o700)
}

impl Base {
    /// In this directory, or in the system's for temporary files. Nothing is made yet.
    pub fn new(within: Option<PathBuf>) -> Self {
        Self { within: within.unwrap_or_else(std::env::temp_dir), own: Mutex::default() }
    }

    /// Where it is.
    pub fn within(&self) -> &Path {
        &self.within
    }

    /// An empty scratch directory, and the guest's directory in it, open.
    ///
    /// # Errors
    /// What the system says.
    pub fn make(&self) -> Result<(Scratch, File), Error> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        // Someone may have tidied up.
        let host = match own.upgrade().filter(|own| own.path.is_dir()) {
            Some(there) => there,
            None => Arc::new(Own::make(&self.within)?),
        };
        *own = Arc::downgrade(&host);
        drop(own);
        let made = tempfile::Builder::new().prefix("batch-").permissions(private()).tempdir_in(&host.path)?;
        let scratch = Scratch { path: made.keep(), _host: host };
        let files = scratch.path.join(FILES);
        std::fs::create_dir(&files)?;
        let open = rustix::fs::open(&files, OPEN.union(OFlags::PATH), Mode::empty())?;
        Ok((scratch, open.into()))
    }

    /// Removes what hosts of this user have left here that died: nobody holds its lock. Blocks.
    pub fn sweep(&self) {
        for entry in std::fs::read_dir(&self.within).into_iter().flatten().flatten() {
            if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
                continue;
            }
            let path = entry.path();
            let Ok(open) = rustix::fs::open(&path, OPEN, Mode::empty()) else { continue };
            let ours =
                rustix::fs::fstat(&open).is_ok_and(|stat| stat.st_uid == rustix::process::geteuid().as_raw());
            if !ours || rustix::fs::flock(&open, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            match remove(&path) {
                Ok(()) => {
                    tracing::info!(dir = %path.display(), "removed what a host that died has left in scratch")
                }
                Err(error) => {
                    tracing::warn!(dir = %path.display(), %error, "cannot remove what a host that died has left")
                }
            }
        }
    }
}

/// The scratch directory of a batch; removed when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    /// Holds the guest's directory alone: on the way out everything moves up here, see [`remove`].
    path: PathBuf,
    _host: Arc<Own>,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::error!(dir = %self.path.display(), %error, "cannot remove a scratch directory: remove it");
        }
    }
}

/// How often a directory is emptied again that was not empty any more when it was to go: a call that the
/// guest was stopped in may still be on its way, and it is one.
const ATTEMPTS: u32 = 100;

/// What is in a directory.
fn names(dir: &OwnedFd) -> Result<Vec<CString>, Error> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes a directory whose entries the host has named, however deep they are, with two descriptors and
/// no recursion: what lies in an entry moves up beside it, until nothing lies below anything.
fn remove(path: &Path) -> Result<(), Error> {
    let top = match rustix::fs::open(path, OPEN, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let mut left: VecDeque<(CString, u32)> = names(&top)?.into_iter().map(|name| (name, ATTEMPTS)).collect();
    let mut moved = 0u64;
    while let Some((name, attempts)) = left.pop_front() {
        let dir = match rustix::fs::openat(&top, &name, OPEN, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        for entry in names(&dir)? {
            match rustix::fs::unlinkat(&dir, &entry, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                // A directory.
                Err(Errno::ISDIR | Errno::PERM) => {
                    let up = CString::new(format!("moved-{moved}"))?;
                    moved += 1;
                    rustix::fs::renameat(&dir, &entry, &top, &up)?;
                    left.push_back((up, ATTEMPTS));
                }
                Err(error) => return Err(error.into()),
            }
        }
        match rustix::fs::unlinkat(&top, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) if attempts > 0 => left.push_back((name, attempts - 1)),
            Err(error) => return Err(error.into()),
        }
    }
    std::fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_quota_counts_growth_and_never_gives_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create_new(dir.path().join("a")).unwrap();
        let quota = Quota::new(1, 1);
        quota.grow(&file, 1 << 20).unwrap();
        file.set_len(1 << 20).unwrap();
        quota.grow(&file, 5).unwrap();
        quota.grow(&file, 1 << 20).unwrap();
        assert!(quota.denied().is_none());
        assert_eq!(quota.grow(&file, (1 << 20) + 1).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        file.set_len(0).unwrap();
        assert!(quota.grow(&file, 1).is_err(), "what was cut is not given back");
        let (code, text) = quota.denied().unwrap();
        assert_eq!(code, Code::ScratchLimit);
        assert!(text.contains("limits.scratch_mib is 1") && text.contains("1048577 bytes"), "{text}");
        assert!(Quota::new(1, 1).take(u64::MAX).is_err());
        assert!(Quota::new(u64::MAX, 7).take(u64::MAX).is_ok());
        // Each job of a batch brings its own.
        let two = Quota::new(1, 2);
        two.take(2 << 20).unwrap();
        assert!(two.take(1).is_err());
        two.untake(1);
        two.take(1).unwrap();
    }

    #[test]
    fn however_deep_a_scratch_directory_is_it_goes() {
        let base = tempfile::tempdir().unwrap();
        let host = Base::new(Some(base.path().to_owned()));
        let (scratch, files) = host.make().unwrap();
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at: std::os::fd::OwnedFd = files.into();
        // Deeper than a path can say, and with names that removal uses, too.
        for depth in 0..3000 {
            rustix::fs::mkdirat(&at, "0", Mode::RWXU).unwrap();
            if depth % 500 == 0 {
                rustix::fs::symlinkat("/etc", &at, "1").unwrap();
                rustix::fs::mkdirat(&at, "files", Mode::RWXU).unwrap();
                drop(rustix::fs::openat(&at, "2", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap());
            }
            at = rustix::fs::openat(&at, "0", flags, Mode::empty()).unwrap();
        }
        drop(scratch);
        drop(host);
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0, "something is left");
        assert!(Path::new("/etc").is_dir());
        // In a directory that is gone nothing can be made any more.
        assert!(rustix::fs::mkdirat(&at, "late", Mode::RWXU).is_err());
    }

    #[test]
    fn what_a_dead_host_has_left_is_removed_and_nothing_else() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for left in ["warren-scratch-dead/batch-1/files/a/b", "warren-scratch-dead/batch-2", "other/a"] {
            std::fs::create_dir_all(at(left)).unwrap();
        }
        std::fs::write(at("warren-scratch-dead/batch-1/files/a/secret"), "secret").unwrap();
        std::fs::write(at("warren-scratch-file"), "").unwrap();
        std::os::unix::fs::symlink("other", at("warren-scratch-link")).unwrap();
        let alive = Base::new(Some(dir.path().to_owned()));
        let (scratch, _) = alive.make().unwrap();
        for path in [&scratch.path, &scratch._host.path] {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
        }
        Base::new(Some(dir.path().to_owned())).sweep();
        assert!(scratch.path.join(FILES).is_dir(), "a host that lives keeps its own");
        assert!(!at("warren-scratch-dead").exists());
        assert!(at("other/a").is_dir() && at("warren-scratch-file").exists());
        // Whoever removes it all does the host no harm.
        std::fs::remove_dir_all(&scratch._host.path).unwrap();
        let (another, _) = alive.make().unwrap();
        assert!(another.path.join(FILES).is_dir() && another.path != scratch.path);
        // When nothing runs nothing is there.
        drop((scratch, another));
        let mut left: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        left.sort();
        assert_eq!(left, ["other", "warren-scratch-file", "warren-scratch-link"]);
    }
}
