//! Disk space held back, so that what must be written can be on a full disk: the start of an epoch
//! (a promotion), a fence, the copy of a torn tail.
//!
//! One file, as long as a segment and a little more. The little is given back to the file system
//! when a control file must be replaced; the rest becomes the next segment when an epoch needs one.
//! Commits never touch it: they are told `DiskFull`.

use std::sync::atomic::Ordering;

use super::Log;
use super::segment::{DIR, file_name};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::Access;

const NAME: &str = "reserve";
/// For control files: both copies of a manifest of usual size, and a torn tail of usual length.
const CONTROL_LEN: u64 = 1 << 20;

impl Log {
    /// Makes the reserve, or makes it whole again. A full disk is no reason to complain: then it is
    /// what the reserve is for.
    pub(super) fn keep_reserve(&self) -> Result<()> {
        if self.reserve_kept.load(Ordering::Acquire) {
            return Ok(());
        }
        let keep = || {
            let file = match self.fs.create(NAME) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    self.fs.open(NAME, Access::Write)?
                }
                other => other?,
            };
            // Its name need not last: where a crash took it, it is made again.
            let len = self.segment_size + CONTROL_LEN;
            if file.len_bytes()? < len {
                file.allocate(len)?;
                file.sync().inspect_err(|_| self.drop_reserve())?;
            }
            Ok(())
        };
        let kept: std::io::Result<()> = keep();
        kept.map_err(|error| Error::io("hold space in reserve", error))?;
        self.reserve_kept.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether all of it is held, as far as this process knows.
    pub(crate) fn holds_reserve(&self) -> bool {
        self.reserve_kept.load(Ordering::Acquire)
    }

    /// A sync that failed is not tried again: the reserve is made anew. One that cannot be taken
    /// away holds its space as it is.
    fn drop_reserve(&self) {
        let _ = self.fs.unlink(NAME);
    }

    /// Does `act`; where the disk is full, again with the reserve's space for control files, and
    /// then with all of it.
    pub(super) fn with_reserve<T>(&self, mut act: impl FnMut() -> Result<T>) -> Result<T> {
        for left in [self.segment_size, 0] {
            match act() {
                Err(error) if error.kind() == ErrorKind::DiskFull => {
                    if !self.give_back(left)? {
                        return Err(error);
                    }
                }
                other => return other,
            }
        }
        act()
    }

    /// Leaves at most `len` bytes in the reserve. Answers whether that gave anything back.
    fn give_back(&self, len: u64) -> Result<bool> {
        let give = || {
            let file = match self.fs.open(NAME, Access::Write) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
                other => other?,
            };
            if file.len_bytes()? <= len {
                return Ok(len > 0);
            }
            file.set_len(len)?;
            file.sync()?;
            Ok(true)
        };
        self.reserve_kept.store(false, Ordering::Release);
        let given: std::io::Result<bool> = give();
        let given = given.map_err(|error| Error::io("give back the reserve", error))?;
        if given {
            tracing::warn!(left_bytes = len, "the disk is full: the reserve is used");
        }
        Ok(given)
    }

    /// Turns the reserve into the file of segment `ordinal`. Answers whether it could be.
    pub(super) fn take_reserve(&self, ordinal: u64) -> Result<bool> {
        let take = || {
            let file = match self.fs.open(NAME, Access::Write) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
                other => other?,
            };
            if file.len_bytes()? < self.segment_size {
                return Ok(false);
            }
            file.set_len(self.segment_size)?;
            file.sync()?;
            self.fs.rename(NAME, &file_name(ordinal))?;
            self.fs.sync_dir(DIR)?;
            self.fs.sync_dir("")?;
            Ok(true)
        };
        self.reserve_kept.store(false, Ordering::Release);
        let taken: std::io::Result<bool> = take();
        taken.map_err(|error| Error::io("use the reserve as a segment", error))
    }
}
