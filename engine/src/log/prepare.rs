//! The next segment, filled with zeros before it is needed.
//!
//! Overwriting zeros spares every commit the file system's journal, and a full disk is met one
//! segment early, outside the commit path.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::fs::{Access, File, Fs};

use super::segment::{DIR, file_name};

/// Zeros written and synced at a time. A commit that meets a step waits for it on the disk, and
/// each step grows the file, which costs a turn of the file system's journal.
const STEP_LEN: u64 = 256 << 10;

/// A segment file on its way to being all zeros.
#[derive(Debug)]
pub(super) struct Preparation {
    ordinal: u64,
    segment_size: u64,
    file: Arc<dyn File>,
    zeroed: u64,
}

/// What is prepared ahead of the log.
///
/// Invariant: the file of a segment up to `taken` belongs to the log and is never filled again.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    pub(super) next: Option<Preparation>,
    /// The last segment whose file was given to the log.
    pub(super) taken: u64,
}

impl Preparation {
    /// Begins, or begins again, the file of segment `ordinal`. A file of this name holds no frame:
    /// its header would have been found when the log was opened.
    pub(super) fn begin(fs: &dyn Fs, ordinal: u64, segment_size: u64) -> Result<Self> {
        let name = file_name(ordinal);
        let doing = |error| Error::io(format_args!("prepare {}/{name}", fs.place()), error);
        let file = match fs.create(&name) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                fs.open(&name, Access::Write).map_err(doing)?
            }
            other => other.map_err(doing)?,
        };
        if file.len_bytes().map_err(doing)? > segment_size {
            file.set_len(segment_size).map_err(doing)?;
        }
        Ok(Self {
            ordinal,
            segment_size,
            file,
            zeroed: 0,
        })
    }

    pub(super) const fn ordinal(&self) -> u64 {
        self.ordinal
    }

    pub(super) const fn zeroed_bytes(&self) -> u64 {
        self.zeroed
    }

    pub(super) const fn is_done(&self) -> bool {
        self.zeroed == self.segment_size
    }

    /// Fills and syncs the next piece.
    pub(super) fn step(&mut self, fs: &dyn Fs) -> Result<()> {
        let len = STEP_LEN.min(self.segment_size - self.zeroed);
        let zeros = vec![0; crate::format::to_usize(len)];
        let write = || {
            self.file.write_at(self.zeroed, &zeros)?;
            self.file.sync()?;
            if self.zeroed + len == self.segment_size {
                fs.sync_dir(DIR)
            } else {
                Ok(())
            }
        };
        write().map_err(|error| {
            let name = file_name(self.ordinal);
            Error::io(format_args!("fill {}/{name} with zeros", fs.place()), error)
        })?;
        self.zeroed += len;
        Ok(())
    }

    pub(super) fn finish(&mut self, fs: &dyn Fs) -> Result<()> {
        while !self.is_done() {
            self.step(fs)?;
        }
        Ok(())
    }
}
