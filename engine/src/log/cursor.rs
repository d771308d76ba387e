//! Reading the log in order, as replay, a follower's feed and a change feed do.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Log;
use super::segment::{Piece, damage_hint};
use super::sparse::Sparse;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Chain, FRAME_HEADER_LEN, FrameHeader, FrameRun, Lsn};

/// A place in the log, between two frames, from which whole, checked frames are read.
///
/// Everything it gives was verified against checksums and chain on the way, whether it came from
/// memory or from a file, so damage on this disk never goes further.
pub struct LogCursor {
    log: Arc<Log>,
    chain: Chain,
}

impl LogCursor {
    /// A cursor that goes on from `chain`, which this log is known to hold.
    pub(super) const fn at(log: Arc<Log>, chain: Chain) -> Self {
        Self { log, chain }
    }

    /// A cursor at `from`, which must be where a frame begins.
    ///
    /// # Errors
    /// `NotHeld` when no frame begins there; `LogTruncated` when only a part of the log is left
    /// there; `Corrupt` when the way there is damaged.
    pub(super) fn new(log: Arc<Log>, from: Lsn) -> Result<Self> {
        let cursor = Self::before(log, from)?;
        if cursor.chain.lsn == from {
            return Ok(cursor);
        }
        let end = cursor.log.positions().appended.lsn;
        let message = format!("no frame begins at {from}; this log ends at {end}");
        Err(Error::new(ErrorKind::NotHeld, message))
    }

    /// A cursor at the last frame that begins at or before `lsn`, or at the end of the log.
    ///
    /// # Errors
    /// `LogTruncated` when only a part of the log is left there; `Corrupt` when the way there is
    /// damaged.
    pub(super) fn before(log: Arc<Log>, lsn: Lsn) -> Result<Self> {
        let chain = match log.segments.piece(lsn) {
            Some(Piece::Whole(segment)) => segment.header.chain(),
            Some(Piece::Sparse(_)) => return Err(log.truncated(lsn)),
            None => Chain::origin(log.cluster()),
        };
        let mut cursor = Self { log, chain };
        while cursor.chain.lsn < lsn {
            let left = lsn.bytes_since(cursor.chain.lsn);
            if cursor.next_up_to(lsn, left.min(4 << 20))?.is_none() {
                break;
            }
        }
        Ok(cursor)
    }

    /// Where the next frame begins.
    #[must_use]
    pub const fn lsn(&self) -> Lsn {
        self.chain.lsn
    }

    /// Whether the next frames lie in memory, so that reading them waits for no disk.
    #[must_use]
    pub fn reads_memory(&self) -> bool {
        let segment = self.log.segments.find(self.chain.lsn);
        segment.is_none_or(|segment| segment.holds(self.chain.lsn))
    }

    /// The chain that the next frame continues.
    #[must_use]
    pub const fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The next frames, as many whole ones as fit in `len_max` bytes but at least one; `None` when
    /// the next one ends behind `end` or behind the end of the log.
    ///
    /// # Errors
    /// `LogTruncated` when only a part of the log is left there; `Corrupt` when the bytes do not
    /// hold; `Io` when they cannot be read.
    pub fn next_up_to(&mut self, end: Lsn, len_max: u64) -> Result<Option<FrameRun>> {
        let from = self.chain.lsn;
        let next = self.next_in_segment(end, len_max);
        // Its file may have made room for another one meanwhile.
        let is_sparse = || matches!(self.log.segments.piece(from), Some(Piece::Sparse(_)));
        match next {
            Ok(Some(run)) => {
                self.chain = *run.after();
                Ok(Some(run))
            }
            _ if is_sparse() => Err(self.log.truncated(from)),
            none => none,
        }
    }

    /// What is left of the log where it stands, if that is not all of it and ends at or below
    /// `end`; goes on behind it.
    pub(crate) fn next_sparse(&mut self, end: Lsn) -> Option<Arc<Sparse>> {
        match self.log.segments.piece(self.chain.lsn) {
            Some(Piece::Sparse(sparse)) if sparse.range().end <= end => {
                self.chain = sparse.header.end.chain(self.log.cluster());
                Some(sparse)
            }
            _ => None,
        }
    }

    fn next_in_segment(&self, end: Lsn, len_max: u64) -> Result<Option<FrameRun>> {
        let from = self.chain.lsn;
        let Some(segment) = self.log.segments.find(from) else {
            return Ok(None);
        };
        let stop = end.min(segment.range().end);
        if from >= stop {
            return Ok(None);
        }
        let room = crate::format::to_usize(stop.bytes_since(from).min(len_max));
        let fs = &*self.log.fs;
        let mut bytes = segment.read_through(fs, from, room.max(FRAME_HEADER_LEN))?;
        let mut whole = whole_frames(&bytes);
        if whole == 0 {
            // The first frame alone is longer than what was asked for.
            let need = FrameHeader::announced_len(&bytes).unwrap_or(FRAME_HEADER_LEN);
            let announced = self.chain.check_header(&bytes);
            if announced.is_ok_and(|header| header.end() > end) {
                return Ok(None);
            }
            bytes = segment.read_through(fs, from, need)?;
            whole = bytes.len();
        } else if bytes.len() < room {
            bytes = self.gather(&bytes.slice(..whole), room, stop)?;
            whole = bytes.len();
        }
        let run = FrameRun::check(&self.chain, bytes.slice(..whole)).map_err(|fault| {
            let message = format!(
                "the log is damaged in [{from}, {stop}), segment {}: {fault}; {}",
                segment.header.ordinal,
                damage_hint(&fs.place())
            );
            Error::new(ErrorKind::Corrupt, message)
        })?;
        Ok(Some(run))
    }

    /// Joins small pieces of memory behind `first` into one run of at most `room` bytes.
    fn gather(&self, first: &Bytes, room: usize, stop: Lsn) -> Result<Bytes> {
        let mut at = self.chain.lsn.advance(first.len() as u64);
        let Some(segment) = self.log.segments.find(self.chain.lsn) else {
            return Ok(first.clone());
        };
        let mut joined: Option<BytesMut> = None;
        let mut len = first.len();
        while at < stop && len < room {
            let piece = segment.read_through(&*self.log.fs, at, room - len)?;
            let whole = whole_frames(&piece);
            if whole == 0 {
                break;
            }
            let joined = joined.get_or_insert_with(|| {
                let mut joined = BytesMut::with_capacity(room.min(1 << 20));
                joined.extend_from_slice(first);
                joined
            });
            joined.extend_from_slice(piece.get(..whole).unwrap_or_default());
            len += whole;
            at = at.advance(whole as u64);
        }
        Ok(joined.map_or_else(|| first.clone(), BytesMut::freeze))
    }
}

impl Log {
    /// Why nothing is read from `lsn` on.
    fn truncated(&self, lsn: Lsn) -> Error {
        Error::log_truncated(lsn, self.segments.whole_from())
    }

    /// Whole frames that are durable here and continue `at`: at least one, as many as fit in
    /// `len_max` bytes, none of them behind the segment in which the first one lies.
    ///
    /// `at` may be anybody's word: it says what the frames must continue, and nothing else is taken
    /// from it. So damage before it in the same segment does not matter.
    ///
    /// # Errors
    /// `NotHeld` where this log does not reach so far, `LogTruncated` where only a part of it is
    /// left, `Conflict` when it holds other frames there, `Corrupt` when it is damaged there, `Io`.
    pub(crate) fn frames_behind(self: &Arc<Self>, at: &Chain, len_max: u64) -> Result<Bytes> {
        let durable = self.positions().durable.lsn;
        let beyond = || {
            let message = format!(
                "this log holds [0, {durable}), and {} is behind that",
                at.lsn
            );
            Error::new(ErrorKind::NotHeld, message)
        };
        if at.lsn >= durable {
            return Err(beyond());
        }
        let mut cursor = LogCursor {
            log: self.clone(),
            chain: *at,
        };
        let error = match cursor.next_up_to(durable, len_max) {
            Ok(Some(run)) => return Ok(run.bytes().clone()),
            Ok(None) => return Err(beyond()),
            Err(error) => error,
        };
        // Damage, or another history: the way there tells.
        let here = LogCursor::new(self.clone(), at.lsn).map(|cursor| cursor.chain);
        match (error.kind(), here) {
            (ErrorKind::Corrupt, Ok(chain)) if chain != *at => {}
            (ErrorKind::Corrupt, Err(fault)) if fault.kind() == ErrorKind::NotHeld => {}
            _ => return Err(error),
        }
        let message = format!("this log holds other frames at {}: it is a fork", at.lsn);
        Err(Error::new(ErrorKind::Conflict, message))
    }
}

/// Length of the whole frames at the start of `bytes`, by the lengths that they announce.
pub(super) fn whole_frames(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(len) = bytes.get(at..).and_then(FrameHeader::announced_len) {
        if at + len > bytes.len() {
            break;
        }
        at += len;
    }
    at
}
