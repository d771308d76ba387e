//! One segment as it should be, from its own sound frames and those of a source.

use bytes::Bytes;

use super::source::{FrameSource, Given, Lack, LackKind, Want};
use crate::error::{Error, Result};
use crate::format::{
    Chain, ChainRecord, EpochRecord, FrameFault, FrameHeader, Lsn, LsnRange, SEGMENT_FOOTER_LEN,
    SEGMENT_HEADER_LEN, SegmentFooter, SegmentHeader, to_usize,
};
use crate::fs::{Fs, read_all, replace};
use crate::log::open::ASIDE;
use crate::log::walk::{Epochs, Hole, count_frames, walk};

/// A segment that has a fault, and what is known of it.
pub(super) struct Job<'a> {
    /// What its first frame continues.
    pub(super) start: Chain,
    pub(super) ordinal: u64,
    pub(super) segment_size: u64,
    /// What is left of its frames.
    pub(super) own: &'a Bytes,
    /// Where its frames end, if that is known.
    pub(super) sealed_to: Option<ChainRecord>,
    /// How far it reached, where nothing says where it ends.
    pub(super) vouched: Lsn,
}

/// A segment that is whole again.
pub(super) struct Mended {
    pub(super) header: SegmentHeader,
    pub(super) frames: Vec<u8>,
    pub(super) footer: Option<SegmentFooter>,
    pub(super) end: Chain,
    /// What came from the source.
    pub(super) ranges: Vec<LsnRange>,
}

/// What comes of a [`Job`].
pub(super) enum Outcome {
    Whole(Box<Mended>),
    /// Own frames and the source's do not reach as far as the segment once did; why, where there is
    /// a source.
    Lacking(Option<Lack>),
}

/// Puts a segment together. Every frame, from wherever, must continue the chain.
pub(super) fn mend(
    job: &Job<'_>,
    source: Option<&mut dyn FrameSource>,
    epochs: &mut Epochs,
) -> Result<Outcome> {
    let walked = walk(job.start, job.own, epochs);
    let header = SegmentHeader::new(&job.start, job.ordinal, job.segment_size);
    let reached = walked.last.lsn.max(job.vouched);
    let full = header
        .base()
        .advance(SegmentHeader::capacity(job.segment_size));
    let mut sealed_to = job.sealed_to;
    let mut pieces = Pieces {
        job,
        segment: header.clone(),
        source,
        given: (job.start.lsn, Bytes::new()),
        holes: walked.holes,
        target: sealed_to.map_or(reached.min(full), |end| end.lsn),
    };
    let mut frames = Vec::new();
    let mut ranges: Vec<LsnRange> = Vec::new();
    let mut end = job.start;
    while end.lsn < sealed_to.map_or(reached, |end| end.lsn) {
        let piece = match pieces.next(&end)? {
            Next::Frame(piece) => piece,
            Next::SegmentEnds => {
                sealed_to = Some(ChainRecord::new(&end));
                break;
            }
            Next::Nothing(lack) => return Ok(Outcome::Lacking(lack)),
        };
        let frame = &piece.header;
        if frame.first_in_segment && !frames.is_empty() {
            // It is the next segment's: this one ends before it.
            sealed_to = Some(ChainRecord::new(&end));
            break;
        }
        if let Some(epoch) = &piece.epoch {
            epochs.learn(epoch);
        }
        frames.extend_from_slice(&piece.bytes);
        end = end.after(frame, piece.epoch.as_ref());
        if piece.given {
            let range = LsnRange::new(frame.lsn, frame.end());
            match ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => ranges.push(range),
            }
        }
    }
    let missed = sealed_to.filter(|sealed| *sealed != ChainRecord::new(&end));
    if missed.is_some() || frames.len() as u64 > SegmentHeader::capacity(job.segment_size) {
        let range = LsnRange::new(job.start.lsn, end.lsn);
        let what = "the frames hold, and do not end where this node's segment does: they are of \
                    another history";
        let lack = Lack::new(range, LackKind::OtherHistory, what);
        return Ok(Outcome::Lacking((!ranges.is_empty()).then_some(lack)));
    }
    let footer = sealed_to.map(|end| SegmentFooter {
        base: job.start.lsn,
        frames: count_frames(&frames),
        end,
    });
    Ok(Outcome::Whole(Box::new(Mended {
        header,
        frames,
        footer,
        end,
        ranges,
    })))
}

/// Frames one behind the other: the segment's own where they hold, the source's where not.
struct Pieces<'a, 's> {
    job: &'a Job<'a>,
    segment: SegmentHeader,
    source: Option<&'s mut (dyn FrameSource + 's)>,
    /// What the source gave last, and where it begins.
    given: (Lsn, Bytes),
    /// Where the segment's own frames do not hold.
    holes: Vec<Hole>,
    /// Up to where anything can be missing.
    target: Lsn,
}

struct Piece {
    header: FrameHeader,
    epoch: Option<EpochRecord>,
    bytes: Bytes,
    given: bool,
}

enum Next {
    Frame(Box<Piece>),
    SegmentEnds,
    Nothing(Option<Lack>),
}

impl Pieces<'_, '_> {
    fn next(&mut self, at: &Chain) -> Result<Next> {
        let offset = to_usize(at.lsn.bytes_since(self.job.start.lsn));
        let own = self.job.own.slice(offset.min(self.job.own.len())..);
        if let Ok(piece) = piece(at, &own, false) {
            return Ok(Next::Frame(Box::new(piece)));
        }
        if let Some(piece) = self.left(at) {
            return Ok(Next::Frame(Box::new(piece)));
        }
        let Some(source) = &mut self.source else {
            return Ok(Next::Nothing(None));
        };
        let hole = self.holes.iter().map(|hole| hole.range);
        let hole = hole
            .filter(|hole| hole.start <= at.lsn && at.lsn < hole.end)
            .map(|hole| hole.end)
            .next();
        // One more byte than is known to be missing shows the frame behind it, where nothing says
        // where the segment ends.
        let least = at.lsn.advance(1);
        let range = LsnRange::new(at.lsn, hole.unwrap_or(self.target).max(least));
        let want = Want {
            segment: self.segment.clone(),
            at: *at,
            range,
        };
        let frames = match source.give(&want)? {
            Given::Frames(frames) => frames,
            Given::SegmentEnds => return Ok(Next::SegmentEnds),
            Given::Nothing(lack) => return Ok(Next::Nothing(Some(lack))),
        };
        self.given = (at.lsn, frames.clone());
        Ok(match piece(at, &frames, true) {
            Ok(piece) => Next::Frame(Box::new(piece)),
            Err(fault) => Next::Nothing(Some(misfit(range, &fault))),
        })
    }

    /// The next frame of what the source has given already.
    fn left(&self, at: &Chain) -> Option<Piece> {
        let (start, bytes) = &self.given;
        let offset = (at.lsn >= *start).then(|| to_usize(at.lsn.bytes_since(*start)))?;
        let rest = (offset < bytes.len()).then(|| bytes.slice(offset..))?;
        piece(at, &rest, true).ok()
    }
}

fn piece(at: &Chain, bytes: &Bytes, given: bool) -> Result<Piece, FrameFault> {
    let (header, epoch) = at.check_frame(bytes)?;
    Ok(Piece {
        bytes: bytes.slice(..header.frame_len()),
        header,
        epoch,
        given,
    })
}

/// What was given is not what is missing.
fn misfit(range: LsnRange, fault: &FrameFault) -> Lack {
    let (kind, what) = match fault {
        FrameFault::Short { .. } | FrameFault::Zeros { .. } => (
            LackKind::NotHeld,
            format!("the copy ends there ({fault}): name another one"),
        ),
        FrameFault::Payload { .. } => (
            LackKind::Damaged,
            format!("the copy is damaged there too ({fault}): name another one"),
        ),
        _ => (
            LackKind::OtherHistory,
            format!(
                "what the copy holds there does not continue this log ({fault}): it is damaged \
                 there too, or of another history; name another copy, of this node's own history"
            ),
        ),
    };
    Lack::new(range, kind, what)
}

/// The room for frames in the bytes of a segment's file.
pub(super) fn room(bytes: &Bytes, size: u64) -> Bytes {
    let end = bytes.len().min(to_usize(size - SEGMENT_FOOTER_LEN));
    bytes.slice(to_usize(SEGMENT_HEADER_LEN).min(end)..end)
}

/// The footer in the bytes of a segment's file, if it is this segment's.
pub(super) fn footer_of(bytes: &Bytes, header: &SegmentHeader) -> Option<SegmentFooter> {
    let start = to_usize(header.segment_size - SEGMENT_FOOTER_LEN);
    let footer = SegmentFooter::decode(bytes.get(start..)?).ok()?;
    let ends_behind: Lsn = footer.end.lsn;
    (footer.base == header.base() && ends_behind >= footer.base).then_some(footer)
}

/// Copies a file aside, durably, before another takes its place; `None` when there is none.
pub(super) fn keep_aside(fs: &dyn Fs, name: &str) -> Result<Option<String>> {
    let doing = |error| Error::io(format_args!("keep {name} aside"), error);
    let bytes = match read_all(fs, name) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(doing(error)),
    };
    fs.create_dir(ASIDE).map_err(doing)?;
    let kept = fs.list(ASIDE).map_err(doing)?;
    let short = name.rsplit('/').next().unwrap_or(name);
    // Numbered, so that what is kept never depends on a clock.
    let free = (1u64..)
        .map(|number| format!("damaged-{number}-{short}"))
        .find(|name| !kept.contains(name));
    let aside = format!("{ASIDE}/{}", free.unwrap_or_default());
    replace(fs, ASIDE, &aside, &bytes).map_err(doing)?;
    Ok(Some(aside))
}
