//! The next segment, filled with zeros before it is needed.
//!
//! Overwriting zeros spares every commit the file system's journal, and a full disk is met one
//! segment early, outside the commit path.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::to_usize;
use crate::fs::{AlignedBuf, File, Fs};
use crate::kill_points::{Point, pass};
use crate::planted::{Bug, on};

use super::Log;
use super::segment::{DIR, file_name};

/// Least zeros written and synced at a time. A commit that meets a step waits for it on the disk.
const STEP_LEN_MIN: u64 = 256 << 10;
/// Most of them: each step grows the file, which costs a turn of the file system's journal, so a
/// log that is written faster than small steps go takes larger ones.
const STEP_LEN_MAX: u64 = 4 << 20;

/// A segment file on its way to being all zeros.
///
/// Written in the way in which its frames will be: past the page cache, if they go past it, since
/// pages that nobody reads would be brought in and thrown out again.
#[derive(Debug)]
pub(super) struct Preparation {
    ordinal: u64,
    segment_size: u64,
    file: Arc<dyn File>,
    zeros: AlignedBuf,
    zeroed: u64,
    /// A sync of the file or of its name failed. It is not tried again: the next preparation makes
    /// a new file.
    spoiled: bool,
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
    /// Begins the file of segment `ordinal`, anew if there is one of this name: that holds no
    /// frame, since its header would have been found when the log was opened.
    pub(super) fn begin(log: &Log, ordinal: u64) -> Result<Self> {
        let name = file_name(ordinal);
        let fs = &*log.fs;
        let make = || {
            match fs.unlink(&name) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs.create(&name).map(drop)
        };
        make().map_err(|error| Error::io(format_args!("prepare {}/{name}", fs.place()), error))?;
        let file = log.open_for_writing(ordinal)?;
        pass(Point::PreparationBegun);
        Ok(Self {
            ordinal,
            segment_size: log.segment_size,
            file,
            zeros: AlignedBuf::zeroed(to_usize(STEP_LEN_MIN)),
            zeroed: 0,
            spoiled: false,
        })
    }

    pub(super) const fn ordinal(&self) -> u64 {
        self.ordinal
    }

    pub(super) const fn zeroed_bytes(&self) -> u64 {
        self.zeroed
    }

    pub(super) const fn is_spoiled(&self) -> bool {
        self.spoiled
    }

    pub(super) const fn is_done(&self) -> bool {
        self.zeroed == self.segment_size
    }

    /// Fills and syncs the next piece: up to `due`, as far as one step may go.
    pub(super) fn step(&mut self, fs: &dyn Fs, due: u64) -> Result<()> {
        let behind = due.saturating_sub(self.zeroed);
        let len = behind
            .next_multiple_of(STEP_LEN_MIN)
            .clamp(STEP_LEN_MIN, STEP_LEN_MAX);
        let end = self.segment_size.min(self.zeroed + len);
        let (zeroed, spoiled) = (self.zeroed, &mut self.spoiled);
        let mut write = || {
            let mut at = zeroed;
            while at < end {
                let zeros = self.zeros.as_slice();
                let rest = zeros.len().min(to_usize(end - at));
                let zeros = zeros.get(..rest).unwrap_or_default();
                self.file.write_at(at, zeros)?;
                at += zeros.len() as u64;
            }
            pass(Point::PreparationFilled);
            self.file.sync().inspect_err(|_| *spoiled = true)?;
            pass(Point::PreparationSynced);
            if end == self.segment_size && !on(Bug::NoDirSync) {
                fs.sync_dir(DIR).inspect_err(|_| *spoiled = true)
            } else {
                Ok(())
            }
        };
        write().map_err(|error| {
            let name = file_name(self.ordinal);
            Error::io(format_args!("fill {}/{name} with zeros", fs.place()), error)
        })?;
        self.zeroed = end;
        if self.is_done() {
            pass(Point::Prepared);
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, fs: &dyn Fs) -> Result<()> {
        while !self.is_done() {
            self.step(fs, self.segment_size)?;
        }
        Ok(())
    }
}
