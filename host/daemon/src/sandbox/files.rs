//! The file system of a guest: `wasi:filesystem` as wasmtime-wasi has it, between the guest and which
//! stand the limits of its batch. Every call is listed here, so that none is overlooked.

use std::sync::{Arc, Weak};

use wasmtime::component::{HasData, Resource, ResourceTable};
use wasmtime_wasi::filesystem::{Descriptor, Dir, WasiFilesystemCtx, WasiFilesystemCtxView};
use wasmtime_wasi::p2::bindings::filesystem::{preopens, types};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsError, FsResult, ReaddirIterator};
use wasmtime_wasi::{FsPerms, OpenMode};

use super::scratch::{Base, Counted, ENTRY, Quota, Scratch};
use super::state::State;
use crate::folder::Folder;
use crate::job::Code;
use types::{DescriptorType, ErrorCode, HostDescriptor, HostDirectoryEntryStream};

/// Where a guest finds its plugin's folder.
pub const PLUGIN_DIR: &str = "/plugin";
/// Where a guest finds an empty directory that lives as long as the batch.
pub const SCRATCH_DIR: &str = "/scratch";
/// Files, directories and streams of files that a guest has open at a time. Each may hold a descriptor of
/// the host's process, or a buffer of 64 KiB.
const MAX_OPEN: usize = 128;
/// Listings of directories at a time: each is held in the host's memory.
const MAX_LISTINGS: usize = 8;

/// A plugin's folder as its guests get it: the very one that was hashed, read-only.
///
/// # Errors
/// The process has too many files open.
pub fn read_only(folder: &Folder) -> std::io::Result<Dir> {
    let mut dir = Dir::new(folder.handle().try_clone()?, FsPerms::ReadOnly, OpenMode::READ, false);
    // One descriptor for all guests.
    dir.dir = folder.handle();
    Ok(dir)
}

/// Lets this process have as many files open as the system allows: each plugin's folder is one, and each
/// guest has some.
pub fn make_room() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, open_files = ?limit.current, "cannot raise the limit of open files");
    }
}

/// What a batch has of the file system.
pub struct Place {
    context: WasiFilesystemCtx,
    plugin: Dir,
    base: Arc<Base>,
    /// Made when the guest asks for its directories: most short jobs never do.
    scratch: Option<(Scratch, Dir)>,
    scratch_mib: u64,
    quota: Quota,
    open: Vec<Weak<std::fs::File>>,
    listings: usize,
}

impl Place {
    /// The plugin's folder, and room for `scratch_mib` for each of `jobs` in a directory in `base`.
    pub fn new(plugin: Dir, base: Arc<Base>, scratch_mib: u64, jobs: usize) -> Self {
        Self {
            context: WasiFilesystemCtx::default(),
            plugin,
            base,
            scratch: None,
            scratch_mib,
            quota: Quota::new(scratch_mib, jobs),
            open: Vec::new(),
            listings: 0,
        }
    }

    /// The first limit that was hit.
    pub fn denied(&self) -> Option<(Code, String)> {
        self.quota.denied()
    }

    /// A directory that cannot be had is left out and said so in the host's log: the guest sees that it
    /// is not there, and the host goes on.
    fn scratch(&mut self) -> Option<Dir> {
        if self.scratch.is_none() && self.scratch_mib > 0 {
            match self.base.make() {
                Ok((scratch, open)) => {
                    let mode = OpenMode::READ | OpenMode::WRITE;
                    self.scratch = Some((scratch, Dir::new(open, FsPerms::ReadWrite, mode, false)));
                }
                Err(error) => {
                    let within = self.base.within().display();
                    tracing::error!(%within, %error, "cannot make a scratch directory");
                }
            }
        }
        self.scratch.as_ref().map(|(_, dir)| dir.clone())
    }

    /// Whether one more may be opened.
    fn opening(&mut self) -> FsResult<()> {
        self.open.retain(|file| file.strong_count() > 0);
        // A stream keeps its file open, whatever became of the descriptor.
        let open: usize = self.open.iter().map(Weak::strong_count).sum();
        if open < MAX_OPEN {
            return Ok(());
        }
        let text = format!("{} files and streams open: at most {MAX_OPEN} are allowed", open + 1);
        self.quota.deny(Code::HandleLimit, text);
        Err(ErrorCode::InsufficientMemory.into())
    }
}

/// The file system of one store, for one call.
pub struct Files<'a> {
    place: &'a mut Place,
    table: &'a mut ResourceTable,
}

/// Says that [`Files`] is what the calls are made on.
pub struct HasFiles;

impl HasData for HasFiles {
    type Data<'a> = Files<'a>;
}

/// The file system of a store.
pub fn of(state: &mut State) -> Files<'_> {
    Files { place: &mut state.place, table: &mut state.table }
}

type Fd = Resource<Descriptor>;

/// The same descriptor for another call.
fn again(fd: &Fd) -> Fd {
    Resource::new_borrow(fd.rep())
}

impl Files<'_> {
    fn inner(&mut self) -> WasiFilesystemCtxView<'_> {
        WasiFilesystemCtxView { ctx: &mut self.place.context, table: self.table }
    }

    fn is_writable(&self, fd: &Fd) -> FsResult<bool> {
        Ok(match self.table.get(fd)? {
            Descriptor::File(file) => !file.perms.write_not_permitted(),
            Descriptor::Dir(dir) => !dir.perms.write_not_permitted(),
        })
    }

    /// A file that may be written; none where the call will be refused anyway.
    fn written(&self, fd: &Fd) -> FsResult<Option<Arc<std::fs::File>>> {
        Ok(match self.table.get(fd)? {
            Descriptor::File(file) if !file.perms.write_not_permitted() => Some(Arc::clone(&file.file)),
            _ => None,
        })
    }

    /// Counts an entry that is about to be made.
    fn entry(&self, fd: &Fd) -> FsResult<u64> {
        if !self.is_writable(fd)? {
            return Ok(0);
        }
        self.place.quota.take(ENTRY)?;
        Ok(ENTRY)
    }

    /// Gives back what was counted for an entry that was not made.
    fn made<T>(&self, counted: u64, result: FsResult<T>) -> FsResult<T> {
        if result.is_err() {
            self.place.quota.untake(counted);
        }
        result
    }

    fn counted(
        &mut self,
        stream: FsResult<Resource<DynOutputStream>>,
        file: Option<Arc<std::fs::File>>,
        at: Option<u64>,
    ) -> FsResult<Resource<DynOutputStream>> {
        let (stream, Some(file)) = (stream?, file) else { return Err(ErrorCode::NotPermitted.into()) };
        let inner = self.table.delete(stream)?;
        let counted: DynOutputStream =
            Box::new(Counted { inner, file: Arc::downgrade(&file), at, quota: self.place.quota.clone() });
        Ok(self.table.push(counted)?)
    }
}

impl preopens::Host for Files<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Fd, String)>> {
        let mut found = vec![(self.place.plugin.clone(), PLUGIN_DIR)];
        found.extend(self.place.scratch().map(|dir| (dir, SCRATCH_DIR)));
        let table = &mut self.table;
        let pushed =
            found.into_iter().map(|(dir, name)| Ok((table.push(Descriptor::Dir(dir))?, name.into())));
        pushed.collect()
    }
}

impl types::Host for Files<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        self.inner().convert_error_code(error)
    }

    fn filesystem_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        self.inner().filesystem_error_code(error)
    }
}

impl HostDescriptor for Files<'_> {
    async fn open_at(
        &mut self,
        fd: Fd,
        follow: types::PathFlags,
        path: String,
        how: types::OpenFlags,
        flags: types::DescriptorFlags,
    ) -> FsResult<Fd> {
        self.place.opening()?;
        let mut counted = 0;
        let create = how.contains(types::OpenFlags::CREATE);
        if !self.is_writable(&fd)? {
            let truncate = how.contains(types::OpenFlags::TRUNCATE);
            if create || truncate || flags.contains(types::DescriptorFlags::WRITE) {
                return Err(ErrorCode::NotPermitted.into());
            }
            // Opening a pipe that nobody writes to would hold a thread of the host for ever. In scratch a
            // guest cannot make one.
            let what = self.inner().stat_at(again(&fd), follow, path.clone()).await?.type_;
            let plain =
                [DescriptorType::RegularFile, DescriptorType::Directory, DescriptorType::SymbolicLink];
            if !plain.contains(&what) {
                return Err(ErrorCode::NotPermitted.into());
            }
        } else if create && self.inner().stat_at(again(&fd), follow, path.clone()).await.is_err() {
            counted = self.entry(&fd)?;
        }
        let opened = self.inner().open_at(fd, follow, path, how, flags).await;
        let opened = self.made(counted, opened)?;
        let file = match self.table.get(&opened)? {
            Descriptor::File(file) => Arc::downgrade(&file.file),
            Descriptor::Dir(dir) => Arc::downgrade(&dir.dir),
        };
        self.place.open.push(file);
        Ok(opened)
    }

    fn read_via_stream(&mut self, fd: Fd, offset: u64) -> FsResult<Resource<DynInputStream>> {
        self.place.opening()?;
        self.inner().read_via_stream(fd, offset)
    }

    fn write_via_stream(&mut self, fd: Fd, offset: u64) -> FsResult<Resource<DynOutputStream>> {
        self.place.opening()?;
        let file = self.written(&fd)?;
        let stream = self.inner().write_via_stream(fd, offset);
        self.counted(stream, file, Some(offset))
    }

    fn append_via_stream(&mut self, fd: Fd) -> FsResult<Resource<DynOutputStream>> {
        self.place.opening()?;
        let file = self.written(&fd)?;
        let stream = self.inner().append_via_stream(fd);
        self.counted(stream, file, None)
    }

    async fn write(&mut self, fd: Fd, bytes: Vec<u8>, offset: u64) -> FsResult<u64> {
        if let Some(file) = self.written(&fd)? {
            self.place.quota.grow(&file, offset.saturating_add(bytes.len() as u64))?;
        }
        self.inner().write(fd, bytes, offset).await
    }

    async fn set_size(&mut self, fd: Fd, size: u64) -> FsResult<()> {
        if let Some(file) = self.written(&fd)? {
            self.place.quota.grow(&file, size)?;
        }
        self.inner().set_size(fd, size).await
    }

    async fn create_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        let counted = self.entry(&fd)?;
        let made = self.inner().create_directory_at(fd, path).await;
        self.made(counted, made)
    }

    async fn symlink_at(&mut self, fd: Fd, to: String, path: String) -> FsResult<()> {
        let counted = self.entry(&fd)?;
        let made = self.inner().symlink_at(fd, to, path).await;
        self.made(counted, made)
    }

    async fn link_at(
        &mut self,
        fd: Fd,
        follow: types::PathFlags,
        old: String,
        new_fd: Fd,
        new: String,
    ) -> FsResult<()> {
        let counted = self.entry(&new_fd)?;
        let made = self.inner().link_at(fd, follow, old, new_fd, new).await;
        self.made(counted, made)
    }

    async fn read_directory(&mut self, fd: Fd) -> FsResult<Resource<ReaddirIterator>> {
        if self.place.listings >= MAX_LISTINGS {
            let text = format!(
                "{} listings of directories at a time: at most {MAX_LISTINGS} are allowed",
                self.place.listings + 1
            );
            self.place.quota.deny(Code::HandleLimit, text);
            return Err(ErrorCode::InsufficientMemory.into());
        }
        let listing = self.inner().read_directory(fd).await?;
        self.place.listings += 1;
        Ok(listing)
    }

    // Nothing of a guest's has to survive the machine, and its neighbours would wait for the disk.
    async fn sync_data(&mut self, fd: Fd) -> FsResult<()> {
        self.table.get(&fd)?;
        Ok(())
    }

    async fn sync(&mut self, fd: Fd) -> FsResult<()> {
        self.table.get(&fd)?;
        Ok(())
    }

    // Others read the same files: what of them stays in memory is not for one guest to say.
    async fn advise(&mut self, fd: Fd, _offset: u64, _length: u64, _advice: types::Advice) -> FsResult<()> {
        match self.table.get(&fd)? {
            Descriptor::File(_) => Ok(()),
            Descriptor::Dir(_) => Err(ErrorCode::BadDescriptor.into()),
        }
    }

    // What neither writes nor grows goes through as it is.
    async fn get_flags(&mut self, fd: Fd) -> FsResult<types::DescriptorFlags> {
        self.inner().get_flags(fd).await
    }

    async fn get_type(&mut self, fd: Fd) -> FsResult<DescriptorType> {
        self.inner().get_type(fd).await
    }

    async fn set_times(
        &mut self,
        fd: Fd,
        access: types::NewTimestamp,
        modification: types::NewTimestamp,
    ) -> FsResult<()> {
        self.inner().set_times(fd, access, modification).await
    }

    async fn read(&mut self, fd: Fd, length: u64, offset: u64) -> FsResult<(Vec<u8>, bool)> {
        self.inner().read(fd, length, offset).await
    }

    async fn stat(&mut self, fd: Fd) -> FsResult<types::DescriptorStat> {
        self.inner().stat(fd).await
    }

    async fn stat_at(
        &mut self,
        fd: Fd,
        follow: types::PathFlags,
        path: String,
    ) -> FsResult<types::DescriptorStat> {
        self.inner().stat_at(fd, follow, path).await
    }

    async fn set_times_at(
        &mut self,
        fd: Fd,
        follow: types::PathFlags,
        path: String,
        access: types::NewTimestamp,
        modification: types::NewTimestamp,
    ) -> FsResult<()> {
        self.inner().set_times_at(fd, follow, path, access, modification).await
    }

    async fn readlink_at(&mut self, fd: Fd, path: String) -> FsResult<String> {
        self.inner().readlink_at(fd, path).await
    }

    async fn remove_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        self.inner().remove_directory_at(fd, path).await
    }

    async fn rename_at(&mut self, fd: Fd, old: String, new_fd: Fd, new: String) -> FsResult<()> {
        self.inner().rename_at(fd, old, new_fd, new).await
    }

    async fn unlink_file_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        self.inner().unlink_file_at(fd, path).await
    }

    async fn is_same_object(&mut self, a: Fd, b: Fd) -> wasmtime::Result<bool> {
        self.inner().is_same_object(a, b).await
    }

    async fn metadata_hash(&mut self, fd: Fd) -> FsResult<types::MetadataHashValue> {
        self.inner().metadata_hash(fd).await
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Fd,
        follow: types::PathFlags,
        path: String,
    ) -> FsResult<types::MetadataHashValue> {
        self.inner().metadata_hash_at(fd, follow, path).await
    }

    fn drop(&mut self, fd: Fd) -> wasmtime::Result<()> {
        HostDescriptor::drop(&mut self.inner(), fd)
    }
}

impl HostDirectoryEntryStream for Files<'_> {
    async fn read_directory_entry(
        &mut self,
        listing: Resource<ReaddirIterator>,
    ) -> FsResult<Option<types::DirectoryEntry>> {
        self.inner().read_directory_entry(listing).await
    }

    fn drop(&mut self, listing: Resource<ReaddirIterator>) -> wasmtime::Result<()> {
        self.place.listings = self.place.listings.saturating_sub(1);
        HostDirectoryEntryStream::drop(&mut self.inner(), listing)
    }
}
