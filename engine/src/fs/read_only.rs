//! A directory that is only read: whatever would write is refused.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Access, File, Fs};

/// Another directory, in which nothing can be made, changed or locked through this.
#[derive(Debug)]
pub(crate) struct ReadOnly(pub(crate) Arc<dyn Fs>);

fn refuse<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Fs for ReadOnly {
    fn create(&self, _: &str) -> io::Result<Arc<dyn File>> {
        refuse()
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        match access {
            Access::Read => self.0.open(name, access),
            Access::Write | Access::WriteDirect => refuse(),
        }
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        refuse()
    }

    fn unlink(&self, _: &str) -> io::Result<()> {
        refuse()
    }

    fn create_dir(&self, _: &str) -> io::Result<()> {
        refuse()
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }

    fn sync_dir(&self, _: &str) -> io::Result<()> {
        refuse()
    }

    /// Holds nobody off: whoever writes goes on, and shortens no file that may be mapped.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.0.keep_lengths()
    }

    fn names_of(&self, name: &str) -> io::Result<u64> {
        self.0.names_of(name)
    }

    fn place(&self) -> String {
        self.0.place()
    }

    fn host_path(&self, name: &str) -> Option<PathBuf> {
        self.0.host_path(name)
    }
}
