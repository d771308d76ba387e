//! Making the index again from the log.

use std::path::Path;

use super::{IndexSize, Store};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::fs::{Fs, OsFs};
use crate::index;

/// Throws the index of the store in `dir` away and makes it again from the log. The log is not
/// touched. Takes about as long as reading the log.
///
/// # Errors
/// `Locked` while a process has it open, and those of [`Store::open`].
pub fn rebuild_index(dir: &Path, config: Config) -> Result<IndexSize> {
    let fs = OsFs::new(dir);
    crate::log::about(dir)?;
    {
        let lock = fs.lock();
        let _lock = lock.map_err(|error| Error::io(format_args!("lock {}", fs.place()), error))?;
        index::forget(&fs)?;
    }
    let store = Store::open(dir, config)?;
    store.shared.upkeep.flush_all()?;
    Ok(store.index_size())
}
