//! The file seam: everything that the engine asks of a disk.
//!
//! Names are relative to the store's directory and use `/`. [`OsFs`] is the real one; [`MemFs`]
//! keeps what was written apart from what was synced, so that a test can take the power away.
//!
//! **Architecture invariant:** nothing else in the engine names `std::fs`.

mod map;
mod mem;
mod os;
mod read_only;
mod room;
mod tolerant;

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::kill_points::{Point, pass};
use crate::planted::{Bug, on};

pub(crate) use map::{is_resident, prefetch, will_need, zeroed};
pub use mem::{Crash, MemFs};
pub use os::OsFs;
pub(crate) use read_only::ReadOnly;
pub(crate) use tolerant::Tolerant;

/// Writes to segments start and end at multiples of this many bytes.
pub const BLOCK_LEN: usize = 4096;

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// For reading.
    Read,
    /// For reading and writing through the page cache.
    Write,
    /// For writing past the page cache; offsets, lengths and buffers are multiples of
    /// [`BLOCK_LEN`].
    WriteDirect,
}

/// When the pages of a map are brought in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapPages {
    /// At once, by whoever maps. A page that cannot be read is left to its reader.
    Now,
    /// Each by its first reader.
    WhenRead,
}

/// A directory of files. All methods may be called from several threads at once.
pub trait Fs: Send + Sync + Debug {
    /// Makes a new, empty file for writing; fails when the name is taken.
    ///
    /// The name lasts only after [`Fs::sync_dir`].
    ///
    /// # Errors
    /// As the operating system answers.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Opens a file that exists. [`Access::WriteDirect`] is `Unsupported` where it cannot be had.
    ///
    /// # Errors
    /// As the operating system answers.
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>>;

    /// Gives a file another name, replacing a file of that name.
    ///
    /// # Errors
    /// As the operating system answers.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Takes a name away.
    ///
    /// # Errors
    /// As the operating system answers.
    fn unlink(&self, name: &str) -> io::Result<()>;

    /// Makes a directory unless it is there.
    ///
    /// # Errors
    /// As the operating system answers.
    fn create_dir(&self, name: &str) -> io::Result<()>;

    /// Names of the files in a directory (`""` is the store's own), sorted.
    ///
    /// # Errors
    /// As the operating system answers.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Makes the names in a directory last.
    ///
    /// # Errors
    /// As the operating system answers.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Holds the directory against other processes until the answer is dropped.
    ///
    /// # Errors
    /// `WouldBlock` when another process holds it.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>>;

    /// Holds the directory against processes that write, until the answer is dropped, and writes
    /// nothing for that.
    ///
    /// # Errors
    /// `WouldBlock` when another process has it locked.
    fn lock_shared(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.lock()
    }

    /// Where the directory is, for messages.
    fn place(&self) -> String;

    /// The path of a file on the host, if it is one there.
    fn host_path(&self, name: &str) -> Option<PathBuf> {
        let _ = name;
        None
    }

    /// Keeps files as long as they are until the answer is dropped, also against other processes:
    /// who shortens one asks [`Fs::may_shorten`] first. A map of a file that is shortened ends its
    /// process. Writes nothing.
    ///
    /// # Errors
    /// As the operating system answers.
    fn keep_lengths(&self) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }

    /// Leave to shorten files until the answer is dropped; `None` while somebody keeps their
    /// lengths.
    ///
    /// # Errors
    /// As the operating system answers.
    fn may_shorten(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        Ok(Some(Box::new(())))
    }

    /// How many names a file has.
    ///
    /// # Errors
    /// As the operating system answers.
    fn names_of(&self, name: &str) -> io::Result<u64> {
        self.open(name, Access::Read).map(|_| 1)
    }

    /// Gives `to` a file that is never written again, under a new name: the same file where both
    /// are on one file system, else a copy, synced. The name lasts only after [`Fs::sync_dir`].
    ///
    /// # Errors
    /// As the operating system answers.
    fn share(&self, name: &str, to: &dyn Fs, to_name: &str) -> io::Result<()> {
        share(self, name, to, to_name)
    }
}

fn share<F: Fs + ?Sized>(fs: &F, name: &str, to: &dyn Fs, to_name: &str) -> io::Result<()> {
    if let (Some(from), Some(there)) = (fs.host_path(name), to.host_path(to_name)) {
        match std::fs::hard_link(from, there) {
            // Another file system, or one without links.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::CrossesDevices
                        | io::ErrorKind::Unsupported
                        | io::ErrorKind::PermissionDenied
                        | io::ErrorKind::TooManyLinks
                ) => {}
            linked => return linked,
        }
    }
    let file = fs.open(name, Access::Read)?;
    copy_file(&*file, to, to_name)
}

/// Copies a file, and syncs the copy. Its name lasts only after [`Fs::sync_dir`].
///
/// # Errors
/// As the operating system answers.
pub fn copy(from: &dyn Fs, name: &str, to: &dyn Fs, to_name: &str) -> io::Result<()> {
    copy_file(&*from.open(name, Access::Read)?, to, to_name)
}

fn copy_file(file: &dyn File, to: &dyn Fs, to_name: &str) -> io::Result<()> {
    const PIECE_LEN: usize = 1 << 20;
    let copy = to.create(to_name)?;
    let mut piece = vec![0; PIECE_LEN];
    let mut at = 0;
    loop {
        let read = file.read_at(at, &mut piece)?;
        copy.write_at(at, piece.get(..read).unwrap_or_default())?;
        at += read as u64;
        if read < PIECE_LEN {
            return copy.sync();
        }
    }
}

/// One open file.
pub trait File: Send + Sync + Debug {
    /// Reads at `offset` until `buf` is full or the file ends; answers with the bytes read.
    ///
    /// # Errors
    /// As the operating system answers.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`. Lasts only after [`File::sync`].
    ///
    /// # Errors
    /// As the operating system answers; how much was written is then unknown.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes the file's bytes and length last.
    ///
    /// # Errors
    /// As the operating system answers. The call is never worth repeating: what failed to reach the
    /// disk may be forgotten by the second call.
    fn sync(&self) -> io::Result<()>;

    /// Begins to bring `len` bytes at `offset` to the disk and does not wait for them, so that a
    /// later [`File::sync`] finds little to do. A hint: it promises nothing.
    fn begin_writeback(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }

    /// Length of the file in bytes.
    ///
    /// # Errors
    /// As the operating system answers.
    fn len_bytes(&self) -> io::Result<u64>;

    /// Cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// As the operating system answers.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes the file at least `len` bytes long, with room on the disk for all of it. What is added
    /// reads as zeros.
    ///
    /// # Errors
    /// As the operating system answers; a full disk leaves no part of it behind for certain.
    fn allocate(&self, len: u64) -> io::Result<()> {
        const PIECE_LEN: u64 = 1 << 20;
        let mut at = self.len_bytes()?;
        while at < len {
            let piece = (len - at).min(PIECE_LEN);
            self.write_at(at, &vec![0; crate::format::to_usize(piece)])?;
            at += piece;
        }
        Ok(())
    }

    /// The whole file as memory, for files that are never written again.
    ///
    /// # Errors
    /// As the operating system answers.
    fn map(&self, pages: MapPages) -> io::Result<Bytes>;

    /// `len` bytes from `offset` on, as a map where there are maps, or else read. Nobody writes to
    /// the file's blocks that hold them any more, but perhaps to others.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before them, and as the operating system answers.
    fn map_part(&self, offset: u64, len: usize, pages: MapPages) -> io::Result<Bytes> {
        let _ = pages;
        let mut bytes = vec![0; len];
        if self.read_at(offset, &mut bytes)? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes.into())
    }
}

/// Reads a whole file.
///
/// # Errors
/// As the operating system answers.
pub fn read_all(fs: &dyn Fs, name: &str) -> io::Result<Vec<u8>> {
    let file = fs.open(name, Access::Read)?;
    let mut bytes = vec![0; crate::format::to_usize(file.len_bytes()?)];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Replaces a file as a whole: a crash leaves the old bytes or the new ones.
///
/// # Errors
/// As the operating system answers; the old file is then still there.
pub fn replace(fs: &dyn Fs, dir: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.tmp");
    if let Err(error) = fs.unlink(&temporary)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let file = fs.create(&temporary)?;
    file.write_at(0, bytes)?;
    pass(Point::ReplaceWritten);
    file.sync()?;
    pass(Point::ReplaceSynced);
    fs.rename(&temporary, name)?;
    pass(Point::ReplaceRenamed);
    if on(Bug::NoDirSync) {
        return Ok(());
    }
    fs.sync_dir(dir)
}

/// A buffer whose bytes begin at a multiple of [`BLOCK_LEN`], as direct I/O wants it.
#[derive(Debug)]
pub(crate) struct AlignedBuf {
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// A buffer of `len` zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        let storage = vec![0; len + BLOCK_LEN];
        let start = storage.as_ptr().align_offset(BLOCK_LEN);
        assert!(start < BLOCK_LEN, "no aligned byte within a block: {start}");
        Self {
            storage,
            start,
            len,
        }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        self.storage
            .get(self.start..self.start + self.len)
            .unwrap_or_default()
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        self.storage
            .get_mut(self.start..self.start + self.len)
            .unwrap_or_default()
    }
}
