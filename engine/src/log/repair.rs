//! Mending what `check` finds: by what the directory itself holds, and by a copy of the log.
//!
//! Both nodes' segments are equal byte for byte, so a copy of either, or a backup, has the bytes.
//! Nothing is taken on trust: every frame, from wherever, must continue the chain from the
//! beginning of the log. The old file is kept aside, durably, before the new one takes its place.

use std::path::Path;

use bytes::Bytes;
use serde::Serialize;

use super::check::{Look, in_use};
use super::fault::{Fault, FaultKind};
use super::manifest::{self, Manifest};
use super::mark::{self, Mark, MarkFile};
use super::open::ASIDE;
use super::segment::file_name;
use super::settle::replace_segment;
use super::walk::{Epochs, count_frames, walk};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    Chain, ChainRecord, Lsn, LsnRange, SEGMENT_FOOTER_LEN, SEGMENT_HEADER_LEN, SegmentFooter,
    SegmentHeader, to_usize,
};
use crate::fs::{Fs, OsFs, read_all, replace};
use crate::index;

/// One file that was mended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct RepairReport {
    /// What was mended (in a rehearsal: what would be).
    pub repaired: Vec<Repaired>,
    /// The damage that is left.
    pub left: Vec<Fault>,
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

/// [`repair`] on any files.
///
/// # Errors
/// As [`repair`].
pub fn repair_on(fs: &dyn Fs, from: Option<&dyn Fs>, rehearse: bool) -> Result<RepairReport> {
    let lock = if rehearse {
        fs.lock_shared()
    } else {
        fs.lock()
    };
    let _lock = lock.map_err(|error| in_use(fs, error))?;
    let mut repair = Repair {
        fs,
        from,
        rehearse,
        repaired: Vec::new(),
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
    let repaired = repair.repaired;
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
    Ok(RepairReport { repaired, left })
}

struct Repair<'a> {
    fs: &'a dyn Fs,
    from: Option<&'a dyn Fs>,
    rehearse: bool,
    repaired: Vec<Repaired>,
}

impl Repair<'_> {
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
        for ordinal in 1..=last {
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
            let next = look.header(ordinal + 1);
            let mended = self.mend(ordinal, &chain, &local, next, look, &mut epochs)?;
            let Some(mended) = mended else {
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

    /// The segment `ordinal` as it should be, from its own sound frames and those of the copy;
    /// `None` when together they do not reach as far as it once did.
    fn mend(
        &self,
        ordinal: u64,
        start: &Chain,
        local: &Bytes,
        next: Option<SegmentHeader>,
        look: &Look,
        epochs: &mut Epochs,
    ) -> Result<Option<Mended>> {
        let size = look.manifest.segment_size;
        let header = SegmentHeader::new(start, ordinal, size);
        let own = room(local, size);
        let copy = self.copy_of(&header)?;
        let own_footer = footer_of(local, &header);
        let copy_footer = copy.as_ref().and_then(|copy| footer_of(copy, &header));
        let copy = copy.map_or_else(Bytes::new, |copy| room(&copy, size));
        let reached = walk(*start, &own, epochs).last.lsn;
        let sealed_to = next
            .map(|next| next.start)
            .or_else(|| own_footer.map(|footer| footer.end))
            .or_else(|| {
                copy_footer
                    .filter(|_| look.is_sealed(ordinal))
                    .map(|f| f.end)
            });
        let target =
            sealed_to.map_or_else(|| reached.max(look.judged.facts.vouched), |end| end.lsn);
        let mut mended = Mended {
            header,
            frames: Vec::new(),
            footer: None,
            end: *start,
            ranges: Vec::new(),
        };
        while mended.end.lsn < target {
            let at = mended.frames.len();
            let here = own.get(at..).unwrap_or_default();
            let there = copy.get(at..).unwrap_or_default();
            let (bytes, fetched, found) = match mended.end.check_frame(here) {
                Ok(found) => (here, false, found),
                Err(_) => match mended.end.check_frame(there) {
                    Ok(found) => (there, true, found),
                    Err(_) => return Ok(None),
                },
            };
            let (frame, epoch) = found;
            if let Some(epoch) = &epoch {
                epochs.learn(epoch);
            }
            let len = frame.frame_len();
            mended
                .frames
                .extend_from_slice(bytes.get(..len).unwrap_or_default());
            mended.end = mended.end.after(&frame, epoch.as_ref());
            if fetched {
                mended.fetched(LsnRange::new(frame.lsn, frame.end()));
            }
        }
        if sealed_to.is_some_and(|end| end != ChainRecord::new(&mended.end)) {
            return Ok(None);
        }
        mended.footer = sealed_to.map(|end| SegmentFooter {
            base: start.lsn,
            frames: count_frames(&mended.frames),
            end,
        });
        Ok(Some(mended))
    }

    /// The copy's file of the same segment of the same log.
    fn copy_of(&self, header: &SegmentHeader) -> Result<Option<Bytes>> {
        let Some(from) = self.from else {
            return Ok(None);
        };
        let name = file_name(header.ordinal);
        let bytes = self.read(from, &name)?;
        match SegmentHeader::decode(&bytes) {
            Ok(other) if other.cluster != header.cluster => {
                let message = format!(
                    "{}/{name} belongs to cluster {} and this log to {}: name a copy of this one",
                    from.place(),
                    other.cluster,
                    header.cluster
                );
                Err(Error::new(ErrorKind::Incompatible, message))
            }
            // One of another fork begins elsewhere or goes on from another frame.
            Ok(other) => Ok((other == *header).then_some(bytes)),
            Err(_) => Ok(None),
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
        let doing = |error| Error::io(format_args!("keep {name} aside"), error);
        let bytes = match read_all(self.fs, name) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(doing(error)),
        };
        self.fs.create_dir(ASIDE).map_err(doing)?;
        let kept = self.fs.list(ASIDE).map_err(doing)?;
        let short = name.rsplit('/').next().unwrap_or(name);
        // Numbered, so that what is kept never depends on a clock.
        let free = (1u64..)
            .map(|number| format!("damaged-{number}-{short}"))
            .find(|name| !kept.contains(name));
        let aside = format!("{ASIDE}/{}", free.unwrap_or_default());
        replace(self.fs, ASIDE, &aside, &bytes).map_err(doing)?;
        Ok(Some(aside))
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

struct Mended {
    header: SegmentHeader,
    frames: Vec<u8>,
    footer: Option<SegmentFooter>,
    end: Chain,
    /// What came from the copy.
    ranges: Vec<LsnRange>,
}

impl Mended {
    fn fetched(&mut self, range: LsnRange) {
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.ranges.push(range),
        }
    }
}

/// The room for frames in the bytes of a segment's file.
fn room(bytes: &Bytes, size: u64) -> Bytes {
    let end = bytes.len().min(to_usize(size - SEGMENT_FOOTER_LEN));
    bytes.slice(to_usize(SEGMENT_HEADER_LEN).min(end)..end)
}

fn footer_of(bytes: &Bytes, header: &SegmentHeader) -> Option<SegmentFooter> {
    let start = to_usize(header.segment_size - SEGMENT_FOOTER_LEN);
    let footer = SegmentFooter::decode(bytes.get(start..)?).ok()?;
    let ends_behind: Lsn = footer.end.lsn;
    (footer.base == header.base() && ends_behind >= footer.base).then_some(footer)
}
