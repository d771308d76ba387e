//! Taking away files that nothing names any more, without a commit having to wait for it.
//!
//! Unlinking a whole segment at once holds the file system's journal for as long as it frees the
//! blocks, and every commit with it. So a file that has no other name is shrunk in steps first.

use std::time::Duration;

use super::Log;
use super::segment::Piece;
use crate::error::{Error, Result};
use crate::fs::Access;
use crate::kill_points::{Point, pass};

/// A file is shrunk by this part of a segment at a time.
const STEPS: u64 = 16;
/// How long the file system rests between two steps.
const REST: Duration = Duration::from_millis(5);

/// A file on its way out.
pub(super) enum Retired {
    /// A piece of the log that another one stands for: readers may still hold it.
    Piece(Piece),
    /// A file that nobody has open.
    File(String),
}

impl Log {
    /// Takes away all that nobody reads any more, at once.
    pub(crate) fn retire_all(&self) -> Result<()> {
        while self.retire_step()? == Some(REST) {}
        Ok(())
    }

    /// Does one step; when to go on, or `None` when there is nothing that can be done now.
    pub(super) fn retire_step(&self) -> Result<Option<Duration>> {
        let mut retired = self.retired.lock();
        let free = retired.iter().position(|one| match one {
            Retired::Piece(piece) => piece.lets_go(),
            Retired::File(_) => true,
        });
        let Some(at) = free else {
            // Somebody still reads what is left.
            return Ok((!retired.is_empty()).then_some(20 * REST));
        };
        let Some(one) = retired.get_mut(at) else {
            return Ok(None);
        };
        let name = match one {
            Retired::Piece(piece) => piece.file_name(),
            Retired::File(name) => name.clone(),
        };
        // Its map goes here, with the last handle on it.
        *one = Retired::File(name.clone());
        if self.shrink(&name)? {
            return Ok(Some(REST));
        }
        match self.fs.unlink(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format_args!("unlink {name}"), error));
            }
            _ => {}
        }
        retired.remove(at);
        pass(Point::Retired);
        Ok(Some(REST))
    }

    /// Shrinks a file that has no other name; `false` when it may be unlinked.
    fn shrink(&self, name: &str) -> Result<bool> {
        let doing = |error| Error::io(format_args!("shrink {name}"), error);
        match self.fs.names_of(name) {
            Ok(1) => {}
            // Another name of it is a checkpoint's.
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(doing(error)),
        }
        // Who only reads this directory may have mapped it.
        let leave = self.fs.may_shorten().map_err(doing)?;
        if leave.is_none() {
            return Ok(false);
        }
        let file = self.fs.open(name, Access::Write).map_err(doing)?;
        let len = file.len_bytes().map_err(doing)?;
        let step = self.segment_size / STEPS;
        if len <= step {
            return Ok(false);
        }
        file.set_len(len - step).map_err(doing)?;
        pass(Point::RetiredPart);
        Ok(true)
    }
}
