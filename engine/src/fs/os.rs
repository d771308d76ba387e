//! The operating system's files.

use std::fs::{DirBuilder, File as StdFile, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::OFlags;

use super::room::Room;
use super::{Access, File, Fs, MapPages, map};

const LOCK_NAME: &str = "LOCK";
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// Files below one directory, readable by their owner alone.
#[derive(Debug)]
pub struct OsFs {
    root: PathBuf,
    room: Arc<Room>,
}

impl OsFs {
    /// The directory `root`, which need not exist before something is created in it.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let room = Arc::new(Room::new(root.clone()));
        Self { root, room }
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            self.root.clone()
        } else {
            self.root.join(name)
        }
    }

    fn opened(&self, name: &str, file: StdFile) -> Arc<dyn File> {
        let room = self.room.clone();
        let name = name.to_owned();
        Arc::new(OsFile { file, name, room })
    }

    fn open_with(
        &self,
        name: &str,
        options: &mut OpenOptions,
        extra: OFlags,
    ) -> io::Result<StdFile> {
        let flags = (OFlags::NOFOLLOW | OFlags::CLOEXEC | extra).bits();
        options
            .mode(FILE_MODE)
            .custom_flags(flags.cast_signed())
            .open(self.path(name))
    }
}

impl Fs for OsFs {
    fn host_path(&self, name: &str) -> Option<PathBuf> {
        Some(self.path(name))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        let file = self.open_with(
            name,
            options.read(true).write(true).create_new(true),
            OFlags::empty(),
        )?;
        Ok(self.opened(name, file))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(access != Access::Read);
        let extra = if access == Access::WriteDirect {
            OFlags::DIRECT
        } else {
            OFlags::empty()
        };
        let file = self.open_with(name, &mut options, extra).map_err(|error| {
            let refused = error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error());
            if access == Access::WriteDirect && refused {
                return io::Error::new(io::ErrorKind::Unsupported, error);
            }
            error
        })?;
        Ok(self.opened(name, file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name))
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        match DirBuilder::new().mode(DIR_MODE).create(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.path(dir))? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        StdFile::open(self.path(dir))?.sync_all()
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let mut options = OpenOptions::new();
        let file = self.open_with(LOCK_NAME, options.write(true).create(true), OFlags::empty())?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(std::fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn lock_shared(&self) -> io::Result<Box<dyn Send + Sync>> {
        let mut options = OpenOptions::new();
        let file = match self.open_with(LOCK_NAME, options.read(true), OFlags::empty()) {
            Ok(file) => file,
            // Never opened by a process: a copy.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Box::new(())),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Box::new(file)),
            Err(std::fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    // The directory itself is what is locked: it is there, and nothing takes its place.
    fn keep_lengths(&self) -> io::Result<Box<dyn Send + Sync>> {
        let dir = StdFile::open(&self.root)?;
        dir.lock_shared()?;
        Ok(Box::new(dir))
    }

    fn may_shorten(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let dir = StdFile::open(&self.root)?;
        match dir.try_lock() {
            Ok(()) => Ok(Some(Box::new(dir))),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn names_of(&self, name: &str) -> io::Result<u64> {
        Ok(std::fs::symlink_metadata(self.path(name))?.nlink())
    }

    fn place(&self) -> String {
        self.root.display().to_string()
    }
}

#[derive(Debug)]
struct OsFile {
    file: StdFile,
    name: String,
    room: Arc<Room>,
}

impl File for OsFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while let Some(rest) = buf.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + read as u64) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn begin_writeback(&self, offset: u64, len: u64) {
        map::begin_writeback(&self.file, offset, len);
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            // Written where the file system cannot promise it otherwise.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                let mut at = self.len_bytes()?;
                while at < len {
                    let zeros = [0; 4096];
                    let piece = zeros.len().min(crate::format::to_usize(len - at));
                    self.write_at(at, zeros.get(..piece).unwrap_or_default())?;
                    at += piece as u64;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn map(&self, pages: MapPages) -> io::Result<Bytes> {
        // Where not all fits into memory, the pages around one would push out others.
        let around = self.room.has_for(&self.name);
        map::map(&self.file, pages, around)
    }

    fn map_part(&self, offset: u64, len: usize, pages: MapPages) -> io::Result<Bytes> {
        map::map_part(
            &self.file,
            (offset, len),
            pages,
            self.room.has_for(&self.name),
        )
    }
}
