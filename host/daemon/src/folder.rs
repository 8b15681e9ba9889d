//! A plugin's folder, held open from the moment it is read: an operator who renames another into its
//! place changes nothing for the version that was loaded from it, and what was hashed is what is used.
//! Knows no other module but the hash.

use std::io::{Error, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, OpenOptions, OpenOptionsExt};
use sha2::{Digest, Sha256};

use crate::digest::hex;

/// A folder that stays the one that was opened. Its files are found by names relative to it; a link that
/// leads out of it is refused.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// One descriptor for as long as anybody needs the folder, however many do.
    dir: Arc<std::fs::File>,
}

impl Folder {
    /// Opens a folder. Blocks.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let path = path.canonicalize()?;
        let dir = Dir::open_ambient_dir(&path, ambient_authority())?;
        Ok(Self { path, dir: Arc::new(dir.into_std_file()) })
    }

    /// Where it was when it was opened: a name for people and lists, which may be another folder's by now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a file of it was, for errors.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a file. What is no file, such as a pipe that nobody writes to, must not hold up who reads it.
    fn file(&self, name: &str) -> Result<(File, u64), Error> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0));
        let file = Dir::from_std_file(self.dir.try_clone()?).open_with(name, &options)?;
        let data = file.metadata()?;
        if !data.is_file() {
            return Err(Error::new(ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok((file, data.len()))
    }

    /// The size of a file, bytes. Blocks.
    ///
    /// # Errors
    /// It is not there, or no regular file.
    pub fn size(&self, name: &str) -> Result<u64, Error> {
        Ok(self.file(name)?.1)
    }

    /// The content of a file of at most `most` bytes. Blocks.
    ///
    /// # Errors
    /// It cannot be read, or is larger.
    pub fn read(&self, name: &str, most: u64) -> Result<Vec<u8>, Error> {
        let (file, size) = self.file(name)?;
        let mut bytes = Vec::with_capacity(usize::try_from(size.min(most)).unwrap_or(0));
        file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            let text = format!("more than the {most} bytes that such a file may have");
            return Err(Error::new(ErrorKind::FileTooLarge, text));
        }
        Ok(bytes)
    }

    /// SHA-256 of a file of any size, in lower-case hexadecimal. Blocks.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn sha256(&self, name: &str) -> Result<String, Error> {
        let mut file = self.file(name)?.0;
        let (mut hasher, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
        loop {
            match file.read(&mut piece) {
                Ok(0) => return Ok(hex(&hasher.finalize())),
                Ok(count) => hasher.update(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The open folder itself, for who hands it on to a guest.
    pub fn handle(&self) -> Arc<std::fs::File> {
        Arc::clone(&self.dir)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_folder_stays_the_one_that_was_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (place, aside) = (dir.path().join("plugin"), dir.path().join("old"));
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("model"), "old").unwrap();
        let folder = Folder::open(&place).unwrap();
        std::fs::rename(&place, &aside).unwrap();
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("model"), "new").unwrap();
        assert_eq!(folder.read("model", 10).unwrap(), b"old");
        assert_eq!(folder.sha256("model").unwrap(), crate::digest::sha256_hex(b"old"));
        // Even when it is gone altogether, nothing else takes its place.
        std::fs::remove_dir_all(&aside).unwrap();
        assert_eq!(folder.read("model", 10).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn only_regular_files_inside_are_read_and_only_so_much() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "outside").unwrap();
        let place = dir.path().join("plugin");
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("model"), [7; 100]).unwrap();
        for (link, to) in [("up", "../secret"), ("far", "/etc/passwd"), ("self", "self"), ("near", "model")] {
            std::os::unix::fs::symlink(to, place.join(link)).unwrap();
        }
        let pipe = rustix::fs::FileType::Fifo;
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, place.join("pipe"), pipe, mode, 0).unwrap();
        let folder = Folder::open(&place).unwrap();
        for name in ["up", "far", "self", "../secret", "/etc/passwd", "pipe", ".", ""] {
            assert!(folder.read(name, 1000).is_err(), "{name:?} was read");
            assert!(folder.sha256(name).is_err(), "{name:?} was hashed");
        }
        assert_eq!(folder.read("near", 100).unwrap(), [7; 100]);
        assert_eq!(folder.read("near", 99).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }
}
