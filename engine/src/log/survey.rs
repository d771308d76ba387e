//! Reading all segments of a directory: how far the log holds, what vouches for it, and what does
//! not hold. Writes nothing, and stops at no fault, so that one look names them all.

mod compacted;
mod skip;

use std::collections::BTreeMap;

use bytes::Bytes;

use super::fault::{Fault, FaultKind, Remedy};
use super::segment::{DIR, file_name, ordinal_of};
use super::sparse;
use super::walk::{Epochs, Hole, Walk, count_frames, offset_in_file, walk, written_len};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    Chain, ChainRecord, ClusterId, EpochRecord, Lsn, LsnRange, NodeId, Position,
    SEGMENT_FOOTER_LEN, SEGMENT_HEADER_LEN, SegmentFault, SegmentFooter, SegmentHeader,
    SparseHeader, to_usize,
};
use crate::fs::{Access, File, Fs, zeroed};

/// What must be known of a directory before its segments can be read.
#[derive(Clone, Debug)]
pub(super) struct Known<'a> {
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    pub(super) segment_size: u64,
    /// Epochs that the node knows of, whether their frames are in the log or not.
    pub(super) epochs: &'a [EpochRecord],
    /// What was fetched back from the peer though this node's own epochs cover it.
    pub(super) received: &'a [LsnRange],
}

/// A segment whose frames all hold, below X.
#[derive(Clone, Debug)]
pub(super) struct Whole {
    pub(super) header: SegmentHeader,
    pub(super) footer: SegmentFooter,
    /// Whether header or footer had to be computed from the chain, and must be written again.
    pub(super) derived: bool,
}

/// The segment in which the log ends.
#[derive(Clone, Debug)]
pub(super) struct Last {
    pub(super) header: SegmentHeader,
    /// Where the frames begin that were read: at its base, or at the replay point.
    pub(super) from: Lsn,
    /// Its frames from there up to X.
    pub(super) frames: Bytes,
    /// Whether the file may be written in place: it was never sealed, and its header holds.
    pub(super) in_place: bool,
}

/// What a look at the segments found.
#[derive(Clone, Debug)]
pub(super) struct Survey {
    /// The segments before the last one.
    pub(super) whole: Vec<Whole>,
    pub(super) last: Option<Last>,
    /// The chain at X, the end of the last frame before which all holds.
    pub(super) end: Chain,
    /// Where each frame of the last segment that was read ends, up to X.
    pub(super) ends: Vec<Position>,
    /// The epochs that begin below X.
    pub(super) epochs: Vec<EpochRecord>,
    /// L, as far as segments vouch: footers, headers of later segments, watermarks.
    pub(super) vouched: Lsn,
    /// Whether anything but zeros lies behind X.
    pub(super) litter: bool,
    /// Stretches of the log of which only a part is left, below X.
    pub(super) sparse: Vec<SparseHeader>,
    /// Files in whose place a sparse segment stands already: what a crash left of a compaction.
    pub(super) replaced: Vec<String>,
    /// Files behind the last segment, oldest first, that hold anything but zeros.
    pub(super) behind: Vec<String>,
    /// The headers that decode and belong where they are, whatever lies before them.
    pub(super) headers: BTreeMap<u64, SegmentHeader>,
    /// The sparse segments, likewise, by the first ordinal for which each stands.
    pub(super) stretches: BTreeMap<u64, SparseHeader>,
    /// Every fault, in the order of the files. Holes at or above L are told as what a crash left.
    pub(super) faults: Vec<Fault>,
    /// Whether a frame ends below X where the replay point says that one does.
    pub(super) replay_holds: bool,
}

/// Reads the segments in `fs`: all of them, or those from a replay point on, if there is one and
/// what lies before it is as it was left.
///
/// # Errors
/// `Io`; `Incompatible` for a segment that a newer version wrote.
pub(super) fn survey(
    fs: &dyn Fs,
    known: &Known<'_>,
    replay: Option<&ChainRecord>,
) -> Result<Survey> {
    let mut survey = Surveyor::new(fs, known, replay)?;
    let mut ordinal = survey.skip()?;
    while ordinal <= survey.ordinal_max {
        if let Some(header) = survey.found.stretches.get(&ordinal).cloned() {
            ordinal = header.last + 1;
            survey.take_sparse(header)?;
        } else {
            survey.segment(ordinal)?;
            ordinal += 1;
        }
    }
    Ok(survey.finish())
}

/// Where the zeros begin with which the part of a file from `start` to `len` ends.
fn written_to(file: &dyn File, start: usize, len: usize) -> std::io::Result<usize> {
    const PIECE_LEN: usize = 1 << 20;
    let mut piece = vec![0; PIECE_LEN.min(len)];
    let mut written = len;
    while written > start {
        let from = written.saturating_sub(PIECE_LEN).max(start);
        let piece = piece.get_mut(..written - from).unwrap_or_default();
        let read = file.read_at(from as u64, piece)?;
        if read < piece.len() {
            break;
        }
        let len = written_len(piece);
        written = from + len;
        if len > 0 {
            break;
        }
    }
    Ok(written)
}

impl Survey {
    /// Where the log stands before segment `ordinal`, as that one's own file says.
    pub(super) fn start_of(&self, ordinal: u64) -> Option<ChainRecord> {
        let whole = self.headers.get(&ordinal).map(|header| header.start);
        whole.or_else(|| self.stretches.get(&ordinal).map(|header| header.start))
    }
}

struct Surveyor<'a> {
    fs: &'a dyn Fs,
    known: &'a Known<'a>,
    epochs: Epochs,
    ordinal_max: u64,
    /// Files that are named like sparse segments and do not hold: ordinals, and why.
    unsound: Vec<(u64, u64, String)>,
    /// The chain that the next segment begins with, if it is known.
    before: Option<Chain>,
    /// Whether all held so far: while it does, the end moves.
    holding: bool,
    found: Survey,
    replay: Option<&'a ChainRecord>,
    /// Holes whose kind is known once L is: the file's ordinal, its base, the hole.
    holes: Vec<(u64, Lsn, Hole)>,
}

impl<'a> Surveyor<'a> {
    fn new(fs: &'a dyn Fs, known: &'a Known<'a>, replay: Option<&'a ChainRecord>) -> Result<Self> {
        let mut epochs = Epochs::new(known.cluster, known.node, known.received.to_vec());
        known.epochs.iter().for_each(|epoch| epochs.learn(epoch));
        let origin = Chain::origin(known.cluster);
        let mut surveyor = Self {
            fs,
            known,
            epochs,
            ordinal_max: 0,
            unsound: Vec::new(),
            before: Some(origin),
            holding: true,
            found: Survey {
                whole: Vec::new(),
                last: None,
                end: origin,
                ends: vec![origin.position()],
                epochs: Vec::new(),
                vouched: Lsn::ZERO,
                litter: false,
                sparse: Vec::new(),
                replaced: Vec::new(),
                behind: Vec::new(),
                headers: BTreeMap::new(),
                stretches: BTreeMap::new(),
                faults: Vec::new(),
                replay_holds: false,
            },
            replay,
            holes: Vec::new(),
        };
        let names = fs.list(DIR).map_err(|error| surveyor.reading(DIR, error))?;
        for name in names {
            if let Some(ordinal) = ordinal_of(&name) {
                surveyor.ordinal_max = surveyor.ordinal_max.max(ordinal);
                surveyor.read_header(ordinal)?;
            } else if let Some(ordinals) = sparse::ordinals_of(&name) {
                surveyor.read_sparse(ordinals)?;
            } else if name.contains(".seg") || name.contains(".sparse") {
                surveyor.leftover(
                    format!("{DIR}/{name}"),
                    "a change of a segment was interrupted here",
                );
            }
        }
        surveyor.find_replaced();
        Ok(surveyor)
    }

    fn read_header(&mut self, ordinal: u64) -> Result<()> {
        let name = file_name(ordinal);
        let mut block = vec![0; to_usize(SEGMENT_HEADER_LEN)];
        let read = self
            .fs
            .open(&name, Access::Read)
            .and_then(|file| file.read_at(0, &mut block))
            .map_err(|error| self.reading(&name, error))?;
        match SegmentHeader::decode(block.get(..read).unwrap_or_default()) {
            Ok(header) if self.belongs(&header, ordinal) => {
                self.found.headers.insert(ordinal, header);
            }
            Err(fault @ SegmentFault::Features(_)) => {
                let message = format!("{}/{name}: {fault}", self.fs.place());
                return Err(Error::new(ErrorKind::Incompatible, message));
            }
            Ok(_) | Err(_) => {}
        }
        Ok(())
    }

    fn belongs(&self, header: &SegmentHeader, ordinal: u64) -> bool {
        header.cluster == self.known.cluster
            && header.segment_size == self.known.segment_size
            && header.ordinal == ordinal
    }

    fn segment(&mut self, ordinal: u64) -> Result<()> {
        let name = file_name(ordinal);
        let later_used = self.is_used_behind(ordinal);
        if !later_used && self.read_behind_replay(ordinal, &name)? {
            return Ok(());
        }
        let (bytes, written) = match self.read(&name) {
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if later_used {
                    let range = self.range_of(ordinal);
                    let what = "the file is not there, and later ones hold frames".to_owned();
                    self.fault(FaultKind::MissingSegment, ordinal, (0, 0), range, what);
                }
                self.lose_track();
                return Ok(());
            }
            Err(error) => return Err(self.reading(&name, error)),
        };
        let size = to_usize(self.known.segment_size);
        if written == 0 && !later_used {
            return Ok(()); // Prepared, and not used yet.
        }
        let mut room = bytes.clone();
        room.truncate(size - to_usize(SEGMENT_FOOTER_LEN));
        let room = room.slice(room.len().min(to_usize(SEGMENT_HEADER_LEN))..);
        let Some((header, header_holds)) = self.header_of(ordinal, &bytes, &room, later_used)
        else {
            self.found.behind.push(file_name(ordinal));
            return Ok(());
        };
        if bytes.len() != size {
            let what = format!("{} bytes long instead of {size}", bytes.len());
            let at = (
                bytes.len().min(size) as u64,
                size.abs_diff(bytes.len()) as u64,
            );
            self.fault(FaultKind::Length, ordinal, at, None, what);
        }
        let footer_at = size - to_usize(SEGMENT_FOOTER_LEN);
        let footer = SegmentFooter::decode(bytes.get(footer_at..size).unwrap_or_default());
        let walked = walk(header.chain(), &room, &mut self.epochs);
        let whole_length = bytes.len() == size;
        self.judge(header, header_holds && whole_length, footer, walked, &room);
        Ok(())
    }

    /// The header of a segment, from its file or else computed from the chain; `None` when the file
    /// is not used, or what belongs in it cannot be told.
    fn header_of(
        &mut self,
        ordinal: u64,
        bytes: &Bytes,
        room: &Bytes,
        later_used: bool,
    ) -> Option<(SegmentHeader, bool)> {
        let len = SEGMENT_HEADER_LEN;
        if let Some(header) = self.found.headers.get(&ordinal).cloned() {
            let continues = self
                .before
                .is_none_or(|before| ChainRecord::new(&before) == header.start);
            if ordinal > 1 {
                // Written only after the segment before it was sealed, which is after its fsync.
                self.found.vouched = self.found.vouched.max(header.base());
            }
            if !continues {
                let what = "it does not continue the segment before it".to_owned();
                let range = Some(LsnRange::new(header.base(), header.base()));
                self.fault(FaultKind::Misplaced, ordinal, (0, len), range, what);
                self.holding = false;
            }
            return Some((header, true));
        }
        let decoded = SegmentHeader::decode(bytes);
        let derived = self
            .before
            .map(|chain| SegmentHeader::new(&chain, ordinal, self.known.segment_size));
        // The frames tell whether the header is only damaged: they go on from the segment before.
        let begins = derived.as_ref().is_some_and(|header| {
            let base = header.base();
            let walked = walk(header.chain(), room, &mut self.epochs);
            walked.chain.lsn > base || walked.vouched > base
        });
        let used = later_used || begins;
        if let Ok(other) = &decoded {
            let what = if other.cluster == self.known.cluster {
                format!("it is segment {} of this cluster", other.ordinal)
            } else {
                format!("it belongs to cluster {}", other.cluster)
            };
            let range = self.range_of(ordinal).filter(|_| used);
            self.fault(FaultKind::Misplaced, ordinal, (0, len), range, what);
            self.lose_track();
            return None;
        }
        if !used {
            // The header is written with the first frame, under one fsync, so a crash may tear it;
            // then nothing of the segment was ever durable.
            let (kind, what) = (FaultKind::TornTail, "its header was never finished");
            self.fault(kind, ordinal, (0, len), None, what.to_owned());
            self.found.litter = true;
            return None;
        }
        let what = match decoded {
            Err(fault) => fault.to_string(),
            Ok(_) => "it cannot be told".to_owned(),
        };
        if derived.is_none() || !begins {
            let range = self.range_of(ordinal);
            self.fault(FaultKind::Header, ordinal, (0, len), range, what);
            self.lose_track();
            return None;
        }
        self.fault(FaultKind::Header, ordinal, (0, len), None, what);
        derived.map(|header| (header, false))
    }

    /// Takes up one segment whose frames were walked.
    fn judge(
        &mut self,
        header: SegmentHeader,
        sound: bool,
        footer: Result<SegmentFooter, SegmentFault>,
        walked: Walk,
        room: &Bytes,
    ) {
        let (ordinal, base) = (header.ordinal, header.base());
        let next = self.start_of(ordinal + 1);
        let later_used = self.is_used_behind(ordinal);
        let footer_fault = footer.as_ref().err().cloned();
        let footer = footer.ok().filter(|footer| footer.base == base);
        let footer_foreign = footer.is_none() && footer_fault.is_none();
        if let Some(footer) = &footer {
            self.found.vouched = self.found.vouched.max(footer.end.lsn);
        }
        self.found.vouched = self.found.vouched.max(walked.vouched);
        let mut holes = walked.holes;
        // Where the frames of a sealed segment end, by its footer or by the segment behind it.
        let sealed_to = footer.as_ref().map(|footer| footer.end).or(next);
        let sealed = sealed_to.is_some() || later_used;
        if let Some(end) = sealed_to {
            // What lies behind the frames of a sealed segment is no frame that is missing.
            holes.retain(|hole| hole.range.start < end.lsn);
            if let Some(last) = holes.last_mut() {
                last.range.end = last.range.end.min(end.lsn);
            }
            let reached = holes
                .last()
                .map_or(walked.last.lsn, |hole| hole.range.end.max(walked.last.lsn));
            if reached < end.lsn {
                let range = LsnRange::new(reached, end.lsn);
                let fault = crate::format::FrameFault::Zeros { lsn: reached };
                match holes.last_mut() {
                    Some(hole) if hole.range.end == reached => hole.range.end = end.lsn,
                    _ => holes.push(Hole { range, fault }),
                }
            }
        }
        let frames_hold = holes.is_empty();
        let computed = SegmentFooter {
            base,
            frames: count_frames(
                room.get(..to_usize(walked.last.lsn.bytes_since(base)))
                    .unwrap_or_default(),
            ),
            end: ChainRecord::new(&walked.last),
        };
        let footer_at = (
            self.known.segment_size - SEGMENT_FOOTER_LEN,
            SEGMENT_FOOTER_LEN,
        );
        let mut derived = !sound;
        if sealed && frames_hold && footer.as_ref() != Some(&computed) {
            let what = match &footer_fault {
                Some(fault) => fault.to_string(),
                None if footer_foreign => "it is another segment's".to_owned(),
                None => "it does not agree with the frames before it".to_owned(),
            };
            self.fault(FaultKind::Footer, ordinal, footer_at, None, what);
            derived = true;
        } else if sealed && footer.is_none() {
            let what = footer_fault
                .as_ref()
                .map_or_else(|| "it is another segment's".to_owned(), ToString::to_string);
            self.fault(FaultKind::Footer, ordinal, footer_at, None, what);
        }
        // A footer that was being written when the power went lies behind the end, like a frame.
        let torn_footer = !sealed && footer_fault != Some(SegmentFault::Zeros);
        if torn_footer {
            let what = "its footer was never finished".to_owned();
            self.fault(FaultKind::TornTail, ordinal, footer_at, None, what);
        }
        if sealed && frames_hold {
            let end = to_usize(walked.last.lsn.bytes_since(base));
            let behind = room.get(end..).unwrap_or_default();
            if let Some(stray) = behind.iter().position(|byte| *byte != 0) {
                let what = "bytes between the last frame and the footer".to_owned();
                let offset = SEGMENT_HEADER_LEN + (end + stray) as u64;
                let at = (offset, footer_at.0 - offset);
                self.fault(FaultKind::Zeros, ordinal, at, None, what);
                derived = true;
            }
        }
        let clean = frames_hold && !torn_footer;
        let chain = walked.chain;
        if self.holding {
            self.note_replay(&header, &walked.ends);
            self.found.end = chain;
            self.found.ends = vec![header.chain().position()];
            self.found.ends.extend(walked.ends);
            self.found.epochs.extend(walked.epochs);
            if sealed && frames_hold {
                self.found.whole.push(Whole {
                    header,
                    footer: computed,
                    derived,
                });
                self.found.last = None;
            } else {
                let len = to_usize(chain.lsn.bytes_since(base));
                self.found.last = Some(Last {
                    header,
                    from: base,
                    frames: room.slice(..len.min(room.len())),
                    in_place: !sealed && sound,
                });
                self.holding = false;
                self.found.litter |= !clean;
            }
        } else {
            self.found.behind.push(file_name(ordinal));
        }
        let tail_holds = holes
            .last()
            .is_none_or(|hole| hole.range.end <= walked.last.lsn);
        self.before = match footer {
            Some(footer) => Some(footer.end.chain(self.known.cluster)),
            None => tail_holds.then_some(walked.last),
        };
        self.holes
            .extend(holes.into_iter().map(|hole| (ordinal, base, hole)));
    }

    /// The positions that belong in a segment, as far as its neighbours tell.
    fn range_of(&self, ordinal: u64) -> Option<LsnRange> {
        let start = match self.before {
            Some(before) => before.lsn,
            None => self.found.end.lsn,
        };
        let whole = self.found.headers.range(ordinal + 1..).next();
        let sparse = self.found.stretches.range(ordinal + 1..).next();
        let whole = whole.map(|(_, header)| header.base());
        let next = whole
            .into_iter()
            .chain(sparse.map(|(_, header)| header.start.lsn));
        // One that stands where it does not belong is told of by itself.
        let next = next.filter(|next| *next >= start).min()?;
        Some(LsnRange::new(start, next))
    }

    fn start_of(&self, ordinal: u64) -> Option<ChainRecord> {
        self.found.start_of(ordinal)
    }

    fn is_used_behind(&self, ordinal: u64) -> bool {
        let whole = self.found.headers.range(ordinal + 1..).next().is_some();
        whole || self.found.stretches.range(ordinal + 1..).next().is_some()
    }

    /// What comes next has no known place in the log.
    fn lose_track(&mut self) {
        self.before = None;
        self.holding = false;
    }

    fn finish(mut self) -> Survey {
        let behind = !self.found.behind.is_empty();
        self.found.litter |= behind;
        let vouched = self.found.vouched;
        for (ordinal, base, hole) in std::mem::take(&mut self.holes) {
            let offset = offset_in_file(hole.range.start, base);
            let at = (offset, hole.range.len_bytes());
            let torn = hole.range.start >= vouched && !behind;
            let (kind, range) = if torn {
                (FaultKind::TornTail, None)
            } else {
                (FaultKind::Frames, Some(hole.range))
            };
            self.fault(kind, ordinal, at, range, hole.fault.to_string());
        }
        self.found
            .faults
            .sort_by(|a, b| (&a.file, a.offset).cmp(&(&b.file, b.offset)));
        self.found
    }

    fn leftover(&mut self, file: String, what: &str) {
        self.found.faults.push(Fault {
            kind: FaultKind::Leftover,
            file,
            offset: 0,
            len_bytes: 0,
            range: None,
            what: what.to_owned(),
            remedy: Remedy::Start,
        });
    }

    fn fault(
        &mut self,
        kind: FaultKind,
        ordinal: u64,
        (offset, len_bytes): (u64, u64),
        range: Option<LsnRange>,
        what: String,
    ) {
        let remedy = match kind {
            FaultKind::TornTail | FaultKind::Leftover => Remedy::Start,
            _ if range.is_some() => Remedy::RepairFrom,
            _ => Remedy::Start,
        };
        self.found.faults.push(Fault {
            kind,
            file: file_name(ordinal),
            offset,
            len_bytes,
            range,
            what,
            remedy,
        });
    }

    /// The whole file, and where the zeros begin that it ends with. They are looked at and not
    /// kept: memory that nobody touches costs nothing, and most of a running or prepared segment is
    /// such zeros.
    fn read(&self, name: &str) -> std::io::Result<(Bytes, usize)> {
        const LARGE_LEN: usize = 4 << 20;
        let file = self.fs.open(name, Access::Read)?;
        let len = to_usize(file.len_bytes()?);
        let written = written_to(&*file, 0, len)?;
        let fill = |bytes: &mut [u8]| file.read_at(0, bytes.get_mut(..written).unwrap_or_default());
        let (mut bytes, read) = if len < LARGE_LEN {
            let mut memory = vec![0; len];
            let read = fill(&mut memory)?;
            (Bytes::from(memory), read)
        } else {
            let mut memory = zeroed(len)?;
            let read = fill(&mut memory)?;
            (Bytes::from_owner(memory), read)
        };
        if read < written {
            bytes.truncate(read);
        }
        Ok((bytes, written))
    }

    fn reading(&self, name: &str, error: std::io::Error) -> Error {
        Error::io(format_args!("read {}/{name}", self.fs.place()), error)
    }
}
