//! Looking at a store that nobody has open: every fault by name, and nothing is written.

use std::path::Path;

use serde::Serialize;

use super::fault::{Fault, FaultKind, Remedy};
use super::manifest::{self, Manifest};
use super::mark::{self, MarkFile};
use super::open::{Judged, judge};
use super::segment::{DIR, file_name, ordinal_of};
use super::sparse::Sparse;
use super::survey::{Known, Survey, survey};
use super::walk::offset_in_file;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    ChainRecord, ClusterId, Lsn, LsnRange, NodeId, SEGMENT_HEADER_LEN, SegmentHeader, SparseHeader,
    to_usize,
};
use crate::fs::{Access, Fs, OsFs, Tolerant};
use crate::index;

/// What a look at a store found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct CheckReport {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node; `None` when its manifest does not say.
    pub node: Option<NodeId>,
    /// Where the log ends, or where the first damage to it begins.
    pub end: Lsn,
    /// Highest position that something vouches was durable here.
    pub vouched: Lsn,
    /// Segment files that hold anything.
    pub segments: u64,
    /// Every fault, in the order of the files.
    pub faults: Vec<Fault>,
}

impl CheckReport {
    /// Whether there is damage, and not only what a crash leaves.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.faults.iter().any(|fault| !fault.kind.is_of_a_crash())
    }
}

/// Checks every byte of the store in `dir` that says something. Writes nothing.
///
/// # Errors
/// `Locked` while a process has it open; `NotInitialised`, `Incompatible`, `Io`. Damage is no
/// error.
pub fn check(dir: &Path) -> Result<CheckReport> {
    check_on(&OsFs::new(dir))
}

/// [`check`] on any files.
///
/// # Errors
/// As [`check`].
pub fn check_on(fs: &dyn Fs) -> Result<CheckReport> {
    let _lock = fs.lock_shared().map_err(|error| {
        let place = fs.place();
        let running = format!(
            "stop that one first, or let it look at its own sealed segments: `outlast repair --dir \
             {place} --dry-run`"
        );
        in_use(fs, error, &running)
    })?;
    Ok(Look::at(&Tolerant(fs))?.report())
}

/// Why a directory cannot be looked at, with what to do about it.
pub(super) fn in_use(fs: &dyn Fs, error: std::io::Error, what_to_do: &str) -> Error {
    match error.kind() {
        std::io::ErrorKind::WouldBlock => {
            let message = format!(
                "{} is in use by another process, and a log that is written cannot be judged from \
                 outside: {what_to_do}",
                fs.place()
            );
            Error::new(ErrorKind::Locked, message)
        }
        _ => Error::io(format_args!("lock {}", fs.place()), error),
    }
}

/// All that a directory says, damaged or not.
pub(super) struct Look {
    /// What the manifest says, or as much of it as the segments tell.
    pub(super) manifest: Manifest,
    pub(super) mark_damaged: bool,
    pub(super) index_damaged: bool,
    pub(super) survey: Survey,
    pub(super) judged: Judged,
    faults: Vec<Fault>,
    segments: u64,
}

impl Look {
    pub(super) fn at(fs: &dyn Fs) -> Result<Self> {
        let mut faults = Vec::new();
        let (manifest, manifest_fault) = match Manifest::load(fs) {
            Ok(manifest) => (manifest, None),
            Err(error) if is_damage(&error, fs)? => {
                let Some(guess) = guess(fs)? else {
                    return Err(error);
                };
                let what = "it does not decode".to_owned();
                let fault =
                    control_fault(FaultKind::Manifest, manifest::NAME, what, Remedy::Repair);
                (guess, Some(fault))
            }
            Err(error) => return Err(error),
        };
        faults.extend(manifest_fault.clone());
        let found = survey(fs, &Known::from(&manifest), None)?;
        faults.extend(found.faults.iter().cloned());
        for name in fs
            .list("")
            .map_err(|error| Error::io(format_args!("list {}", fs.place()), error))?
        {
            if name.ends_with(".tmp") {
                let what = "a change of a file was interrupted here".to_owned();
                faults.push(control_fault(
                    FaultKind::Leftover,
                    &name,
                    what,
                    Remedy::Start,
                ));
            }
        }
        let (mark, mark_damaged) = match MarkFile::open(fs) {
            Ok(mark) => {
                for offset in mark.damaged_slots() {
                    let what = "one of two slots does not hold, the other does".to_owned();
                    let fault = control_fault(FaultKind::Leftover, mark::NAME, what, Remedy::Start);
                    faults.push(Fault { offset, ..fault });
                }
                (mark.newest(), false)
            }
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Io) => {
                let what = "neither slot holds".to_owned();
                faults.push(control_fault(
                    FaultKind::Mark,
                    mark::NAME,
                    what,
                    Remedy::Repair,
                ));
                (None, true)
            }
            Err(error) => return Err(error),
        };
        let unknown = found
            .epochs
            .iter()
            .find(|epoch| manifest.history.find(epoch.id).is_none());
        if let Some(epoch) = unknown
            && manifest_fault.is_none()
        {
            let what = format!(
                "it does not know epoch {} (term {}, start {}) that the log holds: an older copy",
                epoch.id, epoch.term, epoch.start
            );
            faults.push(control_fault(
                FaultKind::Manifest,
                manifest::NAME,
                what,
                Remedy::Repair,
            ));
        }
        faults.extend(
            found
                .sparse
                .iter()
                .filter_map(|header| inspect_sparse(fs, header)),
        );
        let index = index::inspect(fs, manifest.cluster, manifest.node)?;
        faults.extend(index.faults);
        let judged = judge(&found, &manifest, mark, index.replay.as_ref())?;
        faults.extend(lost(&found, &judged, &faults));
        faults.sort_by(|a, b| (&a.file, a.offset).cmp(&(&b.file, b.offset)));
        let segments = found.whole.len() + found.sparse.len() + usize::from(found.last.is_some());
        Ok(Self {
            manifest,
            mark_damaged,
            index_damaged: index.is_damaged,
            segments: (segments + found.behind.len()) as u64,
            survey: found,
            judged,
            faults,
        })
    }

    pub(super) fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter()
    }

    pub(super) fn into_faults(self) -> Vec<Fault> {
        self.faults
    }

    /// The ordinals of all segments that hold anything, or should.
    pub(super) fn ordinals(&self) -> impl Iterator<Item = u64> {
        let faulty = self.faults.iter().filter_map(|fault| {
            let name = fault.file.strip_prefix(DIR)?.strip_prefix('/')?;
            ordinal_of(name)
        });
        let used = self.survey.headers.keys().copied();
        faulty.chain(used)
    }

    /// What stands in the place of segment `ordinal` and of others behind it.
    pub(super) fn stretch(&self, ordinal: u64) -> Option<&SparseHeader> {
        self.survey.stretches.get(&ordinal)
    }

    /// Where the log stands before a segment, if its file says so.
    pub(super) fn start_of(&self, ordinal: u64) -> Option<ChainRecord> {
        self.survey.start_of(ordinal)
    }

    /// The header of a segment, if its file has one that belongs there.
    pub(super) fn header(&self, ordinal: u64) -> Option<SegmentHeader> {
        self.survey.headers.get(&ordinal).cloned()
    }

    fn report(self) -> CheckReport {
        CheckReport {
            cluster: self.manifest.cluster,
            node: (self.manifest.node != NodeId::NONE).then_some(self.manifest.node),
            end: self.judged.facts.end,
            vouched: self.judged.facts.vouched,
            segments: self.segments,
            faults: self.faults,
        }
    }
}

/// What is wrong with a sparse segment, looking at every byte of it.
fn inspect_sparse(fs: &dyn Fs, header: &SparseHeader) -> Option<Fault> {
    let sparse = Sparse::new(header.clone());
    let looked = sparse
        .controls(fs)
        .and_then(|_| sparse.visit(fs, &mut |_, _| Ok(())));
    looked.err().map(|error| Fault {
        kind: FaultKind::Sparse,
        file: sparse.name(),
        offset: 0,
        len_bytes: header.file_len(),
        range: Some(header.range()),
        what: error.to_string(),
        remedy: Remedy::Restore,
    })
}

/// What was acknowledged, or vouched for, and is simply not there.
fn lost(survey: &Survey, judged: &Judged, named: &[Fault]) -> Option<Fault> {
    let facts = judged.facts;
    let (ordinal, base) = match &survey.last {
        Some(last) => (last.header.ordinal, last.header.base()),
        None => (survey.whole.len() as u64 + 1, survey.end.lsn),
    };
    let place = |kind, to: Lsn, remedy, what: String| Fault {
        kind,
        file: file_name(ordinal),
        offset: offset_in_file(facts.end, base),
        len_bytes: to.bytes_since(facts.end),
        range: Some(LsnRange::new(facts.end, to)),
        what,
        remedy,
    };
    if let Some(lost) = judged.tail_lost {
        let what = format!("this node had acknowledged everything up to {}", lost.lsn);
        let kind = FaultKind::AckedTailLost;
        return Some(place(kind, lost.lsn, Remedy::Start, what));
    }
    let explained = named
        .iter()
        .filter_map(|fault| fault.range)
        .any(|range| range.start <= facts.end && facts.end < range.end.max(range.start.advance(1)));
    (facts.end < facts.vouched && !explained).then(|| {
        let what = format!("the log ends here, and was durable up to {}", facts.vouched);
        place(FaultKind::Frames, facts.vouched, Remedy::RepairFrom, what)
    })
}

fn control_fault(kind: FaultKind, file: &str, what: String, remedy: Remedy) -> Fault {
    Fault {
        kind,
        file: file.to_owned(),
        offset: 0,
        len_bytes: 0,
        range: None,
        what,
        remedy,
    }
}

/// Whether the directory is a store whose manifest is damaged or gone, and not something else.
fn is_damage(error: &Error, fs: &dyn Fs) -> Result<bool> {
    match error.kind() {
        ErrorKind::Corrupt => Ok(true),
        ErrorKind::NotInitialised => {
            let names = match fs.list(DIR) {
                Ok(names) => names,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
                Err(error) => {
                    return Err(Error::io(format_args!("list {}", fs.place()), error));
                }
            };
            Ok(names.iter().any(|name| name.ends_with(".seg")))
        }
        _ => Ok(false),
    }
}

/// A manifest with as much as the headers of segments tell; `None` when none of them holds.
fn guess(fs: &dyn Fs) -> Result<Option<Manifest>> {
    let listing = |error| Error::io(format_args!("list {}/{DIR}", fs.place()), error);
    for name in fs.list(DIR).map_err(listing)? {
        let name = format!("{DIR}/{name}");
        let mut block = vec![0; to_usize(SEGMENT_HEADER_LEN)];
        let read = fs
            .open(&name, Access::Read)
            .and_then(|file| file.read_at(0, &mut block))
            .map_err(|error| Error::io(format_args!("read {}/{name}", fs.place()), error))?;
        let Ok(header) = SegmentHeader::decode(block.get(..read).unwrap_or_default()) else {
            continue;
        };
        let mut manifest = Manifest::of_cluster(header.cluster, header.segment_size);
        // The epochs that the log itself holds make the rest of it readable.
        let found = survey(fs, &Known::from(&manifest), None)?;
        for epoch in found.epochs {
            if manifest.history.push(epoch).is_err() {
                break;
            }
        }
        return Ok(Some(manifest));
    }
    Ok(None)
}
