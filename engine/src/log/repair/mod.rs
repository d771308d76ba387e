//! Mending what `check` finds: by what the directory itself holds, and by a copy of the log.
//!
//! Both nodes' segments are equal byte for byte, so the other node, a copy of either, or a backup
//! has the bytes. Nothing is taken on trust: every frame, from wherever, must continue the chain
//! from the beginning of the log. The old file is kept aside, durably, before the new one takes its
//! place.

mod mend;
mod running;
mod source;

use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::mend::{Job, Mended, Outcome, footer_of, keep_aside, mend, room};
use super::check::{Look, in_use};
use super::fault::{Fault, FaultKind};
use super::manifest::{self, Manifest};
use super::mark::{self, Mark, MarkFile};
use super::segment::file_name;
use super::settle::replace_segment;
use super::walk::{Epochs, walk};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Chain, LsnRange, SegmentHeader};
use crate::fs::{Fs, OsFs, Tolerant, read_all};
use crate::index;

pub use self::source::{CopySource, FrameSource, Given, Lack, LackKind, Want};

/// One file that was mended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Repaired {
    /// The file, relative to the store's directory.
    pub file: String,
    /// The ranges of the log that came from the copy; empty where the directory itself told.
    pub ranges: Vec<LsnRange>,
    /// Where the old file is kept, if there was one; `None` in a rehearsal.
    pub aside: Option<String>,
}

/// What a repair did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RepairReport {
    /// What was mended (in a rehearsal: what would be).
    pub repaired: Vec<Repaired>,
    /// The damage that is left.
    pub left: Vec<Fault>,
    /// What the source was asked for and did not give.
    pub lacks: Vec<Lack>,
}

/// Mends the store in `dir`, which no process may have open, with the bytes of the store in `from`
/// where its own do not tell. With `rehearse` nothing is written.
///
/// # Errors
/// `Locked`, `NotInitialised`, `Incompatible` for a copy of another cluster, `DiskFull`, `Io`.
/// Damage that is left is no error.
pub fn repair(dir: &Path, from: Option<&Path>, rehearse: bool) -> Result<RepairReport> {
    let copy = from.map(OsFs::new);
    let copy = copy.as_ref().map(|copy| copy as &dyn Fs);
    repair_on(&OsFs::new(dir), copy, rehearse)
}

/// [`repair`] with the frames of any source.
///
/// # Errors
/// As [`repair`], and those of the source.
pub fn repair_from(
    dir: &Path,
    source: &mut dyn FrameSource,
    rehearse: bool,
) -> Result<RepairReport> {
    repair_files(&OsFs::new(dir), Some(source), rehearse)
}

/// [`repair`] on any files.
///
/// # Errors
/// As [`repair`].
pub fn repair_on(fs: &dyn Fs, from: Option<&dyn Fs>, rehearse: bool) -> Result<RepairReport> {
    let mut copy = from.map(CopySource::new);
    let source = copy.as_mut().map(|copy| copy as &mut dyn FrameSource);
    repair_files(fs, source, rehearse)
}

pub(super) fn repair_files(
    fs: &dyn Fs,
    source: Option<&mut dyn FrameSource>,
    rehearse: bool,
) -> Result<RepairReport> {
    let fs = &Tolerant(fs);
    let lock = if rehearse {
        fs.lock_shared()
    } else {
        fs.lock()
    };
    let _lock = lock.map_err(|error| in_use(fs, error, "stop that one first"))?;
    let mut repair = Repair {
        fs,
        source,
        rehearse,
        repaired: Vec::new(),
        lacks: Vec::new(),
    };
    repair.manifest()?;
    let look = Look::at(fs)?;
    repair.segments(&look)?;
    if look.mark_damaged {
        repair.mark(&look)?;
    }
    if look.index_damaged {
        repair.index(&look)?;
    }
    let (repaired, lacks) = (repair.repaired, repair.lacks);
    let left = if rehearse {
        let mended = |fault: &Fault| repaired.iter().any(|done| done.file == fault.file);
        let faults = look.into_faults();
        faults.into_iter().filter(|fault| !mended(fault)).collect()
    } else {
        Look::at(fs)?.into_faults()
    };
    let left = left
        .into_iter()
        .filter(|fault| !fault.kind.is_of_a_crash())
        .collect();
    Ok(RepairReport {
        repaired,
        left,
        lacks,
    })
}

struct Repair<'a, 's> {
    fs: &'a dyn Fs,
    source: Option<&'s mut (dyn FrameSource + 's)>,
    rehearse: bool,
    repaired: Vec<Repaired>,
    lacks: Vec<Lack>,
}

impl Repair<'_, '_> {
    /// Puts the second copy of the manifest in the place of a damaged one.
    fn manifest(&mut self) -> Result<()> {
        match Manifest::load(self.fs) {
            Err(error)
                if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotInitialised) =>
            {
                let Ok(copy) = Manifest::load_copy(self.fs) else {
                    return Ok(());
                };
                let aside = self.keep_aside(manifest::NAME)?;
                if !self.rehearse {
                    copy.store(self.fs)?;
                }
                self.done(manifest::NAME, Vec::new(), aside);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Walks the log from its beginning and mends each segment that has a fault.
    fn segments(&mut self, look: &Look) -> Result<()> {
        let manifest = &look.manifest;
        let last = look.ordinals().max().unwrap_or(0);
        let mut epochs = Epochs::new(manifest.cluster, manifest.node, Vec::new());
        manifest
            .history
            .epochs()
            .iter()
            .for_each(|epoch| epochs.learn(epoch));
        let mut chain = Chain::origin(manifest.cluster);
        let mut next = 1;
        while next <= last {
            let ordinal = next;
            if let Some(stretch) = look.stretch(ordinal) {
                // Not frames any more: nothing here mends it.
                chain = stretch.end.chain(manifest.cluster);
                next = stretch.last + 1;
                continue;
            }
            next += 1;
            let name = file_name(ordinal);
            let mut local = self.read(self.fs, &name)?;
            if SegmentHeader::decode(&local).is_ok() && look.header(ordinal).is_none() {
                // Another segment, under this one's name: nothing in it is of use.
                local = Bytes::new();
            }
            let faulty = look
                .faults()
                .any(|fault| fault.file == name && !fault.kind.is_of_a_crash());
            if !faulty {
                let room = room(&local, manifest.segment_size);
                chain = walk(chain, &room, &mut epochs).chain;
                continue;
            }
            let Some(mended) = self.mend(ordinal, &chain, &local, look, &mut epochs)? else {
                // What comes behind cannot be checked against a chain that is not known.
                return Ok(());
            };
            chain = mended.end;
            let aside = self.keep_aside(&name)?;
            if !self.rehearse {
                replace_segment(
                    self.fs,
                    &mended.header,
                    &mended.frames,
                    mended.footer.as_ref(),
                )
                .map_err(|error| self.doing(&name, error))?;
            }
            self.done(&name, mended.ranges, aside);
        }
        Ok(())
    }

    /// The segment `ordinal` as it should be; `None` when it cannot be had.
    fn mend(
        &mut self,
        ordinal: u64,
        start: &Chain,
        local: &Bytes,
        look: &Look,
        epochs: &mut Epochs,
    ) -> Result<Option<Mended>> {
        let segment_size = look.manifest.segment_size;
        let header = SegmentHeader::new(start, ordinal, segment_size);
        let next = look.start_of(ordinal + 1);
        let own_footer = || footer_of(local, &header).map(|footer| footer.end);
        let job = Job {
            start: *start,
            ordinal,
            segment_size,
            own: &room(local, segment_size),
            sealed_to: next.or_else(own_footer),
            vouched: look.judged.facts.vouched,
        };
        let source = self.source.as_mut().map(|source| &mut **source as _);
        match mend(&job, source, epochs)? {
            Outcome::Whole(mended) => Ok(Some(*mended)),
            Outcome::Lacking(lack) => {
                self.lacks.extend(lack);
                Ok(None)
            }
        }
    }

    /// Makes the mark again: what this disk had acknowledged is taken to be what it holds.
    fn mark(&mut self, look: &Look) -> Result<()> {
        let aside = self.keep_aside(mark::NAME)?;
        if !self.rehearse {
            let end = Look::at(self.fs)?.judged.facts.end;
            let epoch = look.manifest.history.epoch_before(end);
            let mark = epoch.map(|epoch| Mark {
                epoch: epoch.id,
                lsn: end,
            });
            MarkFile::make_again(self.fs, mark)?;
        }
        self.done(mark::NAME, Vec::new(), aside);
        Ok(())
    }

    /// Takes a damaged index away. The next start makes it again from the log.
    fn index(&mut self, look: &Look) -> Result<()> {
        if !self.rehearse {
            index::forget(self.fs)?;
        }
        let damaged = look.faults().filter(|fault| fault.kind == FaultKind::Index);
        let files: Vec<_> = damaged.map(|fault| fault.file.clone()).collect();
        for file in files {
            self.done(&file, Vec::new(), None);
        }
        Ok(())
    }

    fn keep_aside(&self, name: &str) -> Result<Option<String>> {
        if self.rehearse {
            return Ok(None);
        }
        keep_aside(self.fs, name)
    }

    fn done(&mut self, file: &str, ranges: Vec<LsnRange>, aside: Option<String>) {
        tracing::warn!(file, ?ranges, ?aside, "repaired");
        self.repaired.push(Repaired {
            file: file.to_owned(),
            ranges,
            aside,
        });
    }

    fn read(&self, fs: &dyn Fs, name: &str) -> Result<Bytes> {
        match read_all(fs, name) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Bytes::new()),
            Err(error) => Err(self.doing(&format!("{}/{name}", fs.place()), error)),
        }
    }

    fn doing(&self, name: &str, error: std::io::Error) -> Error {
        Error::io(format_args!("mend {name} of {}", self.fs.place()), error)
    }
}
