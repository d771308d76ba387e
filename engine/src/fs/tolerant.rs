//! Files as far as they can be read: what a disk gives back no more reads as zeros.
//!
//! For looking at damage and mending it, where a sector that cannot be read is damage like any
//! other. A log is never opened through this: an error of a disk may pass, and what a follower then
//! took for damage it would cut.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::{Access, BLOCK_LEN, File, Fs, MapPages};

/// What Linux calls an error of the device itself.
const EIO: i32 = 5;

/// Another directory, whose files read as zeros where their disk answers with an error.
#[derive(Debug)]
pub(crate) struct Tolerant<'a>(pub(crate) &'a dyn Fs);

impl Fs for Tolerant<'_> {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.0.create(name)
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let file = self.0.open(name, access)?;
        Ok(match access {
            Access::Read => Arc::new(TolerantFile(file)),
            Access::Write | Access::WriteDirect => file,
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.0.unlink(name)
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        self.0.create_dir(name)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.0.sync_dir(dir)
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.0.lock()
    }

    fn lock_shared(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.0.lock_shared()
    }

    fn place(&self) -> String {
        self.0.place()
    }
}

#[derive(Debug)]
struct TolerantFile(Arc<dyn File>);

impl File for TolerantFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        match self.0.read_at(offset, buf) {
            Err(error) if error.raw_os_error() == Some(EIO) => {}
            read => return read,
        }
        let left = self.0.len_bytes()?.saturating_sub(offset);
        let len = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut at = offset;
        for block in buf.get_mut(..len).unwrap_or_default().chunks_mut(BLOCK_LEN) {
            match self.0.read_at(at, block) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(EIO) => block.fill(0),
                Err(error) => return Err(error),
            }
            at += block.len() as u64;
        }
        Ok(len)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.0.len_bytes()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }

    fn map(&self, pages: MapPages) -> io::Result<Bytes> {
        self.0.map(pages)
    }

    fn map_part(&self, offset: u64, len: usize, pages: MapPages) -> io::Result<Bytes> {
        self.0.map_part(offset, len, pages)
    }
}
