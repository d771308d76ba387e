//! Mending sealed segments under a log that runs: reads, commits and shipping go on.
//!
//! What a sealed segment must be is known without its file: memory holds where it begins and what
//! the next one continues. The one that is written is held in memory as a whole and not looked at.

use std::sync::Arc;

use bytes::Bytes;

use super::mend::{Job, Outcome, keep_aside, mend, room};
use super::source::{FrameSource, Lack};
use super::{RepairReport, Repaired};
use crate::error::{Error, Result};
use crate::format::{
    Chain, ChainRecord, Lsn, LsnRange, SEGMENT_FOOTER_LEN, SEGMENT_HEADER_LEN, SegmentFooter,
    to_usize,
};
use crate::fs::{Tolerant, read_all};
use crate::log::fault::{Fault, FaultKind, Remedy};
use crate::log::segment::{Piece, Segment, file_name};
use crate::log::settle::replace_segment;
use crate::log::walk::{Epochs, count_frames, offset_in_file, walk};
use crate::log::{Log, LogState};

impl Log {
    /// Looks at every byte of the sealed segments and mends what does not hold, with the frames of
    /// `source` where the files themselves do not tell. With `rehearse` nothing is written.
    ///
    /// # Errors
    /// `Poisoned`, `Closed`, `DiskFull`, `Io`, those of the source. Damage that is left is none.
    pub(crate) fn repair_sealed(
        &self,
        mut source: Option<&mut dyn FrameSource>,
        rehearse: bool,
    ) -> Result<RepairReport> {
        if matches!(self.state(), LogState::Poisoned(_) | LogState::Closed) {
            return Err(self.not_writing());
        }
        let mut epochs = Epochs::new(self.cluster, self.node, Vec::new());
        self.with_history(|history| {
            let known = history.epochs();
            known.iter().for_each(|epoch| epochs.learn(epoch));
        });
        let mut report = RepairReport {
            repaired: Vec::new(),
            left: Vec::new(),
            lacks: Vec::new(),
        };
        for (segment, end) in self.sealed() {
            let sealed = Sealed {
                log: self,
                segment: &segment,
                end,
            };
            let bytes = sealed.read()?;
            let faults = sealed.faults(&bytes, &mut epochs);
            if faults.is_empty() || !sealed.is_there() {
                continue;
            }
            let given = source.as_mut().map(|source| &mut **source as _);
            match sealed.mend(&bytes, given, rehearse, &mut epochs)? {
                Done::Mended(repaired) => {
                    tracing::warn!(file = %repaired.file, ranges = ?repaired.ranges, rehearse,
                        "mended while running");
                    report.repaired.push(repaired);
                    if !rehearse {
                        let bytes = sealed.read()?;
                        report.left.extend(sealed.faults(&bytes, &mut epochs));
                    }
                }
                Done::Lacking(_) if !sealed.is_there() => {}
                Done::Lacking(lack) => {
                    report.left.extend(faults);
                    report.lacks.extend(lack);
                }
                Done::Gone => {}
            }
        }
        Ok(report)
    }

    /// The sealed segments of which all is left, and where the log stands behind each.
    fn sealed(&self) -> Vec<(Arc<Segment>, Chain)> {
        let (pieces, end) = {
            let writer = self.writer();
            (self.segments.pieces(), writer.chain)
        };
        let behind = pieces
            .iter()
            .skip(1)
            .map(|next| next.start().chain(self.cluster));
        let whole = |(piece, end): (&Piece, Chain)| match piece {
            Piece::Whole(segment) => Some((segment.clone(), end)),
            Piece::Sparse(_) => None,
        };
        let last_is_sealed = self.segments.last().is_some_and(|last| !last.in_memory());
        let behind = behind.chain(last_is_sealed.then_some(end));
        pieces.iter().zip(behind).filter_map(whole).collect()
    }
}

enum Done {
    Mended(Repaired),
    Lacking(Option<Lack>),
    /// The log was cut meanwhile, and the segment with it.
    Gone,
}

/// A sealed segment of a running log.
struct Sealed<'a> {
    log: &'a Log,
    segment: &'a Arc<Segment>,
    /// What the next segment continues.
    end: Chain,
}

impl Sealed<'_> {
    fn name(&self) -> String {
        file_name(self.segment.header.ordinal)
    }

    /// Whether it is a part of the log still: a cut of a forked tail takes segments away.
    fn is_there(&self) -> bool {
        let there = self.log.segments.find(self.segment.header.base());
        there.is_some_and(|there| Arc::ptr_eq(&there, self.segment))
    }

    fn read(&self) -> Result<Option<Bytes>> {
        let name = self.name();
        match read_all(&Tolerant(&*self.log.fs), &name) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                let doing = format!("read {}/{name}", self.log.fs.place());
                Err(Error::io(doing, error))
            }
        }
    }

    /// What is wrong with the file of the segment.
    fn faults(&self, bytes: &Option<Bytes>, epochs: &mut Epochs) -> Vec<Fault> {
        let header = &self.segment.header;
        let (base, end) = (header.base(), self.end.lsn);
        let fault = |kind, (offset, len_bytes), range: Option<LsnRange>, what: &str| Fault {
            kind,
            file: self.name(),
            offset,
            len_bytes,
            range,
            what: what.to_owned(),
            remedy: match range {
                Some(_) => Remedy::RepairFrom,
                None => Remedy::Repair,
            },
        };
        let Some(bytes) = bytes else {
            let range = Some(LsnRange::new(base, end));
            let what = "the file is not there";
            return vec![fault(FaultKind::MissingSegment, (0, 0), range, what)];
        };
        let mut faults = Vec::new();
        if bytes.get(..to_usize(SEGMENT_HEADER_LEN)) != Some(&header.encode()) {
            let place = (0, SEGMENT_HEADER_LEN);
            let what = "it is not the one that was written";
            faults.push(fault(FaultKind::Header, place, None, what));
        }
        let (size, len) = (header.segment_size, bytes.len() as u64);
        if len != size {
            let place = (len.min(size), size.abs_diff(len));
            let what = format!("{len} bytes long instead of {size}");
            faults.push(fault(FaultKind::Length, place, None, &what));
        }
        let room = room(bytes, size);
        let used = to_usize(end.bytes_since(base));
        let frames = room.slice(..used.min(room.len()));
        let walked = walk(header.chain(), &frames, epochs);
        let holes = walked.holes.iter().map(|hole| (hole.range, hole.fault));
        let mut reached = walked.last.lsn;
        for (range, why) in holes {
            let place = (offset_in_file(range.start, base), range.len_bytes());
            reached = reached.max(range.end);
            faults.push(fault(
                FaultKind::Frames,
                place,
                Some(range),
                &why.to_string(),
            ));
        }
        if reached < end {
            let range = LsnRange::new(reached, end);
            let place = (offset_in_file(reached, base), range.len_bytes());
            let what = "nothing is written there any more";
            faults.push(fault(FaultKind::Frames, place, Some(range), what));
        }
        let hold = faults.iter().all(|fault| fault.range.is_none());
        let zeros = room.get(used..).unwrap_or_default();
        if let Some(stray) = zeros.iter().position(|byte| *byte != 0) {
            let offset = SEGMENT_HEADER_LEN + (used + stray) as u64;
            let place = (offset, size - SEGMENT_FOOTER_LEN - offset);
            let what = "bytes between the last frame and the footer";
            faults.push(fault(FaultKind::Zeros, place, None, what));
        }
        let footer = SegmentFooter {
            base,
            frames: count_frames(&frames),
            end: ChainRecord::new(&self.end),
        };
        let footer_at = size - SEGMENT_FOOTER_LEN;
        let found = bytes.get(to_usize(footer_at)..to_usize(size));
        let sound = match SegmentFooter::decode(found.unwrap_or_default()) {
            // Where frames do not hold, nobody knows how many there were.
            Ok(found) => found == footer || !hold && found.end == footer.end,
            Err(_) => false,
        };
        if !sound {
            let what = "it is not the one that was written";
            let place = (footer_at, SEGMENT_FOOTER_LEN);
            faults.push(fault(FaultKind::Footer, place, None, what));
        }
        faults
    }

    fn mend(
        &self,
        bytes: &Option<Bytes>,
        source: Option<&mut dyn FrameSource>,
        rehearse: bool,
        epochs: &mut Epochs,
    ) -> Result<Done> {
        let header = &self.segment.header;
        let own = bytes.clone().unwrap_or_default();
        let job = Job {
            start: header.chain(),
            ordinal: header.ordinal,
            segment_size: header.segment_size,
            own: &room(&own, header.segment_size),
            sealed_to: Some(ChainRecord::new(&self.end)),
            vouched: Lsn::ZERO,
        };
        let mended = match mend(&job, source, epochs)? {
            Outcome::Whole(mended) => mended,
            Outcome::Lacking(lack) => return Ok(Done::Lacking(lack)),
        };
        let file = self.name();
        let mut aside = None;
        if !rehearse {
            // From here on nobody else puts a file in the place of another, nor cuts the log.
            let _replacing = self.log.replacing.lock();
            if !self.is_there() {
                return Ok(Done::Gone);
            }
            let fs = &*self.log.fs;
            aside = keep_aside(&Tolerant(fs), &file)?;
            let footer = mended.footer.as_ref();
            let replaced = replace_segment(fs, &mended.header, &mended.frames, footer);
            // Whichever of the two files a failure left there is the one to read.
            self.segment.read_again();
            self.log.segments.turn();
            if let Err(error) = replaced {
                let _ = fs.unlink(&format!("{file}.tmp"));
                return Err(Error::io(format_args!("mend {}/{file}", fs.place()), error));
            }
        }
        Ok(Done::Mended(Repaired {
            file,
            ranges: mended.ranges,
            aside,
        }))
    }
}
