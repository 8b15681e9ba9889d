//! Compiled code on disk, in a directory of this user's own. What is loaded from there runs with the
//! host's rights: a file is used only if nobody else can have written it and its seal fits what it is
//! asked for. All else is removed and made anew.

use std::ffi::CStr;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::load;
use crate::config::mib;

/// What a file of compiled code is for.
pub struct Key {
    component: String,
    engine: String,
}

impl Key {
    /// Code of this component for this engine, both in lower-case hexadecimal; nothing else makes a
    /// file name.
    pub fn new(component: &str, engine: &str) -> Option<Self> {
        let hex = |text: &str| {
            text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        (hex(component) && hex(engine))
            .then(|| Self { component: component.to_owned(), engine: engine.to_owned() })
    }

    fn file(&self) -> String {
        format!("{}-{}{SUFFIX}", self.component, self.engine)
    }
}

const SUFFIX: &str = ".code";
/// Files that are not complete yet.
const DRAFT: &str = ".draft-";
/// A draft this old was left by a host that died.
const STALE: Duration = Duration::from_secs(3600);
/// The last bytes of a file: this, and the digest of what it is for and of its code.
const SEAL: &[u8] = b"warren compiled component 1\n";
const SEAL_LENGTH: u64 = SEAL.len() as u64 + 32;

/// The directory. All files are named relative to it while it is open: whoever renames what leads to it
/// changes nothing.
pub struct Cache {
    folder: OwnedFd,
    path: PathBuf,
    most: u64,
}

/// A file that has no name to be found by yet; dropping it removes it.
pub struct Draft<'a> {
    cache: &'a Cache,
    name: String,
    file: File,
}

impl Draft<'_> {
    /// To write the code to, and to map it from.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        // Not there any more once it was kept.
        let _ = rustix::fs::unlinkat(&self.cache.folder, &self.name, AtFlags::empty());
    }
}

impl Cache {
    /// Opens the directory, created where it is missing. The error says why it is not used.
    pub fn open(path: &Path, most_mib: u64) -> Result<Self, String> {
        // Without a slash at its end, by which a link would be followed after all.
        let path: PathBuf = path.components().collect();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|e| format!("it cannot be created: {e}"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| match e {
            Errno::LOOP | Errno::NOTDIR => "it is a symbolic link: name the directory itself".to_owned(),
            e => format!("it cannot be opened: {e}"),
        })?;
        let stat = rustix::fs::fstat(&folder).map_err(|e| format!("it cannot be looked at: {e}"))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(format!("it belongs to user {}: use a directory of this host's own", stat.st_uid));
        }
        if stat.st_mode & 0o022 != 0 {
            let mode = stat.st_mode & 0o7777;
            return Err(format!("others may write to it (mode {mode:o}): chmod 700 it, and empty it"));
        }
        let cache = Self { folder, path, most: mib(most_mib) };
        for (name, stat) in cache.files() {
            if name.starts_with(DRAFT) && modified(&stat).elapsed().is_ok_and(|age| age > STALE) {
                cache.remove(&name);
            }
        }
        Ok(cache)
    }

    /// The component's code, if it is there and can be trusted.
    pub fn take(&self, engine: &Engine, key: &Key) -> Option<Component> {
        let name = key.file();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let taken = match rustix::fs::openat(&self.folder, &name, flags, Mode::empty()) {
            Ok(file) => checked(&File::from(file), key, engine),
            Err(Errno::NOENT) => return None,
            Err(Errno::LOOP) => Err("it is a symbolic link".to_owned()),
            Err(e) => Err(format!("it cannot be opened: {e}")),
        };
        match taken {
            Ok(component) => {
                tracing::debug!(component = key.component, "compiled code taken from the cache");
                Some(component)
            }
            Err(reason) => {
                let path = self.path.join(&name);
                tracing::warn!(file = %path.display(), reason, "compiled code is not to be trusted: made anew");
                self.remove(&name);
                None
            }
        }
    }

    /// A file to write code to.
    ///
    /// # Errors
    /// The directory takes none.
    pub fn draft(&self) -> io::Result<Draft<'_>> {
        let name = format!("{DRAFT}{}", uuid::Uuid::new_v4());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.folder, &name, flags, Mode::RUSR | Mode::WUSR)?;
        // Whatever the umask made of it.
        rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
        Ok(Draft { cache: self, name, file: File::from(file) })
    }

    /// Seals a draft and gives it the name by which it is found. What cannot be kept is told in the
    /// log: its code runs all the same.
    pub fn keep(&self, draft: &Draft<'_>, key: &Key) {
        let kept = seal(&draft.file, key).and_then(|size| {
            if size > self.most {
                return Err(io::Error::other(format!("{size} bytes: cache_mib is {}", self.most >> 20)));
            }
            rustix::fs::renameat(&self.folder, &draft.name, &self.folder, key.file())?;
            Ok(())
        });
        match kept {
            Ok(()) => self.shrink(&key.file()),
            Err(reason) => tracing::warn!(cache = %self.path.display(), %reason, "compiled code is not kept"),
        }
    }

    /// Removes what was not used for longest until the rest is within bounds. Hosts that map what is
    /// removed keep it.
    fn shrink(&self, spare: &str) {
        let mut files: Vec<_> = self.files().into_iter().filter(|(name, _)| name.ends_with(SUFFIX)).collect();
        files.sort_by_key(|(_, stat)| modified(stat));
        let size = |stat: &Stat| u64::try_from(stat.st_size).unwrap_or(0);
        let mut total: u64 = files.iter().map(|(_, stat)| size(stat)).sum();
        for (name, stat) in files.iter().filter(|(name, _)| name != spare) {
            if total <= self.most {
                break;
            }
            self.remove(name);
            total = total.saturating_sub(size(stat));
        }
    }

    /// Every entry that can be looked at.
    fn files(&self) -> Vec<(String, Stat)> {
        let Ok(entries) = Dir::read_from(&self.folder) else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| {
                let name: &CStr = entry.file_name();
                let stat = rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
                Some((name.to_str().ok()?.to_owned(), stat))
            })
            .collect()
    }

    fn remove(&self, name: &str) {
        let removed = rustix::fs::unlinkat(&self.folder, name, AtFlags::empty());
        if matches!(removed, Err(Errno::ISDIR | Errno::PERM)) {
            // An empty directory in a file's place.
            let _ = rustix::fs::unlinkat(&self.folder, name, AtFlags::REMOVEDIR);
        }
    }
}

fn modified(stat: &Stat) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0))
}

/// Loads an open file if nobody else can have written it and it is what the key names.
fn checked(file: &File, key: &Key, engine: &Engine) -> Result<Component, String> {
    let io = |e: io::Error| format!("it cannot be read: {e}");
    let stat = rustix::fs::fstat(file).map_err(|e| io(e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err("it is no regular file".to_owned());
    }
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(format!("it belongs to user {}", stat.st_uid));
    }
    if stat.st_mode & 0o7777 != 0o600 {
        return Err(format!("its mode is {:o}", stat.st_mode & 0o7777));
    }
    if stat.st_nlink != 1 {
        return Err(format!("it has {} names", stat.st_nlink));
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let length = size.checked_sub(SEAL_LENGTH).ok_or("it is cut short")?;
    let expected = digest(file, length, key).map_err(io)?;
    let mut found = Vec::new();
    let rest = file;
    rest.take(SEAL_LENGTH).read_to_end(&mut found).map_err(io)?;
    if found != [SEAL, &expected].concat() {
        return Err("its bytes were changed, or it is of another component or engine".to_owned());
    }
    let component = load(engine, file).map_err(|e| format!("{e:#}"))?;
    // Used just now: it goes last.
    let _ = file.set_modified(SystemTime::now());
    Ok(component)
}

/// Appends the seal. Answers the file's size.
fn seal(file: &File, key: &Key) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let digest = digest(file, length, key)?;
    let mut end = file;
    end.write_all(&[SEAL, &digest].concat())?;
    Ok(length + SEAL_LENGTH)
}

/// What seals the first `length` bytes of a file as the code of this component for this engine. The
/// file is left to be read from there on.
fn digest(mut file: &File, length: u64, key: &Key) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    hash.update(SEAL);
    hash.update(&key.component);
    hash.update(&key.engine);
    file.seek(SeekFrom::Start(0))?;
    let mut code = file.take(length);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match code.read(&mut buffer)? {
            0 => break,
            n => hash.update(buffer.get(..n).unwrap_or_default()),
        }
    }
    if code.limit() != 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    /// A cache with a file under `key`, sealed for `sealed`, whose code is from the engine `maker`.
    fn filled(folder: &Path, key: &Key, sealed: &Key, maker: &Engine) -> Cache {
        let cache = Cache::open(folder, 64).expect("a cache");
        let draft = cache.draft().expect("a draft");
        draft.file().write_all(&maker.precompile_component(COMPONENT).expect("compiles")).expect("written");
        cache.keep(&draft, sealed);
        drop(draft);
        std::fs::rename(folder.join(sealed.file()), folder.join(key.file())).expect("renamed");
        cache
    }

    #[test]
    fn only_what_is_sealed_for_this_component_and_engine_is_taken() {
        let folder = tempfile::tempdir().expect("folder");
        let engine = Engine::new(&super::super::super::wasm(false)).expect("engine");
        let other = Engine::new(super::super::super::wasm(false).epoch_interruption(false)).expect("engine");
        let name = |engine| super::super::engine_key(engine);
        let (digest, another) = (&"a".repeat(64), &"b".repeat(64));
        let key = Key::new(digest, &name(&engine)).expect("a key");
        let others = Key::new(digest, &name(&other)).expect("a key");
        let stranger = Key::new(another, &name(&engine)).expect("a key");
        assert_ne!(key.file(), others.file(), "settings of the compiler are part of the name");

        let cache = filled(folder.path(), &key, &key, &engine);
        assert!(cache.take(&engine, &key).is_some());
        for (what, sealed, maker) in [
            ("another engine's under this name", &others, &other),
            ("another component's under this name", &stranger, &engine),
            // Nobody but a host of this user could make such a seal; the engine looks itself, too.
            ("another engine's with a seal that fits", &key, &other),
        ] {
            let cache = filled(folder.path(), &key, sealed, maker);
            assert!(cache.take(&engine, &key).is_none(), "{what}");
            assert!(cache.files().iter().all(|(file, _)| *file != key.file()), "{what}: removed");
        }
    }

    #[test]
    fn a_name_is_made_of_digests_only() {
        let digest = "0".repeat(64);
        for wrong in ["", "../../x", &"0".repeat(63), &"A".repeat(64), &"/".repeat(64)] {
            assert!(Key::new(wrong, &digest).is_none() && Key::new(&digest, wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first_and_leftovers_go_at_the_start() {
        let folder = tempfile::tempdir().expect("folder");
        let cache = Cache::open(folder.path(), 1).expect("a cache");
        let keys: Vec<Key> = ["1", "2", "3", "4"]
            .iter()
            .map(|digit| Key::new(&digit.repeat(64), &"e".repeat(64)).expect("a key"))
            .collect();
        let age = |file: &str, seconds| {
            let file = File::open(folder.path().join(file)).expect("there");
            file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).expect("set");
        };
        for (place, key) in keys.iter().enumerate() {
            let draft = cache.draft().expect("a draft");
            draft.file().write_all(&vec![0; 300 << 10]).expect("written");
            cache.keep(&draft, key);
            // The first was used last.
            age(&key.file(), if place == 0 { 10 } else { 1000 - place as u64 });
        }
        let left = |key: &Key| folder.path().join(key.file()).is_file();
        assert_eq!(keys.iter().map(left).collect::<Vec<_>>(), [true, false, true, true]);
        let draft = cache.draft().expect("a draft");
        draft.file().write_all(&vec![0; 2 << 20]).expect("written");
        cache.keep(&draft, &keys[1]);
        drop(draft);
        assert_eq!(
            std::fs::read_dir(folder.path()).expect("read").count(),
            3,
            "what is too large is not kept"
        );

        std::fs::write(folder.path().join(".draft-old"), "x").expect("written");
        std::fs::write(folder.path().join(".draft-new"), "x").expect("written");
        age(".draft-old", 7200);
        drop(Cache::open(folder.path(), 1));
        assert!(!folder.path().join(".draft-old").exists() && folder.path().join(".draft-new").exists());
    }
}
