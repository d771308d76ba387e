//! Beginning at a replay point: what lies before it is not read again, only looked at from outside.
//!
//! Everything below a replay point was durable when it was noted, and the index holds what it says.
//! Damage there is found by who reads it, by a scrub and by `check`; opening stays quick however
//! long the log is.

use super::{Last, Surveyor, Whole, written_to};
use bytes::Bytes;

use crate::error::Result;
use crate::format::{
    ChainRecord, EpochId, Position, SEGMENT_FOOTER_LEN, SegmentFooter, SegmentHeader, to_usize,
};
use crate::fs::Access;
use crate::log::segment::file_name;
use crate::log::walk::{offset_in_file, walk};

impl Surveyor<'_> {
    /// Takes up the segments below the one that holds the replay point as their headers and footers
    /// tell. Answers with the ordinal of the first that must be read: 1 where there is no replay
    /// point, or where anything about those files is not as it was left.
    pub(super) fn skip(&mut self) -> Result<u64> {
        let Some(replay) = self.replay else {
            return Ok(1);
        };
        let headers = &self.found.headers;
        let holds = |header: &SegmentHeader| header.base() <= replay.lsn;
        let Some((&first, header)) = headers.iter().rev().find(|(_, header)| holds(header)) else {
            return Ok(1);
        };
        let chain = header.chain();
        if !self.knows(replay) || !self.knows(&header.start) {
            return Ok(1);
        }
        let (mut whole, mut sparse) = (Vec::new(), Vec::new());
        let mut ordinal = 1;
        while ordinal < first {
            if let Some(header) = self.found.stretches.get(&ordinal) {
                let next = self.start_of(header.last + 1);
                if next != Some(header.end) || !self.knows(&header.end) {
                    return Ok(1);
                }
                ordinal = header.last + 1;
                sparse.push(header.clone());
                continue;
            }
            match self.look(ordinal)? {
                Some(found) => whole.push(found),
                None => return Ok(1),
            }
            ordinal += 1;
        }
        (self.found.whole, self.found.sparse) = (whole, sparse);
        self.found.end = chain;
        self.found.ends = vec![chain.position()];
        self.before = Some(chain);
        Ok(first)
    }

    /// Reads the last segment from the replay point on, if that lies in it, and takes it up if the
    /// frames there hold, go on from what the replay point says, and nothing is behind them.
    /// `false` where it must be read whole to tell what is there.
    ///
    /// The first of these frames is the proof that the log holds what the replay point says: it was
    /// formed by one who continued just that.
    pub(super) fn read_behind_replay(&mut self, ordinal: u64, name: &str) -> Result<bool> {
        let Some(replay) = self.replay else {
            return Ok(false);
        };
        let start = replay.chain(self.known.cluster);
        let header = self.found.headers.get(&ordinal).cloned();
        let header = header.filter(|header| {
            self.before == Some(header.chain()) && header.base() < start.lsn && self.knows(replay)
        });
        let Some(header) = header.filter(|_| self.holding) else {
            return Ok(false);
        };
        let size = to_usize(self.known.segment_size);
        let from = to_usize(offset_in_file(start.lsn, header.base()));
        let footer_at = size - to_usize(SEGMENT_FOOTER_LEN);
        let read = || {
            let file = self.fs.open(name, Access::Read)?;
            if file.len_bytes()? != size as u64 || from >= footer_at {
                return Ok(None);
            }
            let written = written_to(&*file, from, size)?;
            // With the zeros behind, of which the last frame may have some; untouched ones cost
            // nothing.
            let mut bytes = vec![0; footer_at - from];
            let Some(found) = bytes.get_mut(..written - from) else {
                return Ok(None);
            };
            let read = file.read_at(from as u64, found)?;
            Ok((read == written - from).then_some(bytes))
        };
        let Some(bytes) = read().map_err(|error| self.reading(name, error))? else {
            return Ok(false);
        };
        let bytes = Bytes::from(bytes);
        let mut epochs = self.epochs.clone();
        let walked = walk(start, &bytes, &mut epochs);
        if walked.ends.is_empty() || !walked.holes.is_empty() {
            return Ok(false);
        }
        self.epochs = epochs;
        let vouched = walked.vouched.max(header.base());
        let len = to_usize(walked.chain.lsn.bytes_since(start.lsn));
        self.found.vouched = self.found.vouched.max(vouched);
        self.found.replay_holds = true;
        self.found.end = walked.chain;
        self.found.ends = vec![start.position()];
        self.found.ends.extend(walked.ends);
        self.found.epochs.extend(walked.epochs);
        self.found.last = Some(Last {
            header,
            from: start.lsn,
            frames: bytes.slice(..len),
            in_place: true,
        });
        self.before = Some(walked.last);
        self.holding = false;
        Ok(true)
    }

    /// Whether the manifest names the epoch in which `record` stands: one that does not is an older
    /// copy, and the log must tell.
    pub(super) fn knows(&self, record: &ChainRecord) -> bool {
        let (_, _, id) = record.epoch;
        id == EpochId::NONE || self.known.epochs.iter().any(|epoch| epoch.id == id)
    }

    /// A sealed segment from outside; `None` when it is not between its neighbours as it should be.
    fn look(&self, ordinal: u64) -> Result<Option<Whole>> {
        let header = self.found.headers.get(&ordinal);
        let (Some(header), Some(next)) = (header, self.start_of(ordinal + 1)) else {
            return Ok(None);
        };
        let name = file_name(ordinal);
        let size = self.known.segment_size;
        let mut block = vec![0; to_usize(SEGMENT_FOOTER_LEN)];
        let mut read = || {
            let file = self.fs.open(&name, Access::Read)?;
            let read = file.read_at(size - SEGMENT_FOOTER_LEN, &mut block)?;
            Ok((read, file.len_bytes()?))
        };
        let (read, len) = read().map_err(|error| self.reading(&name, error))?;
        let footer = SegmentFooter::decode(block.get(..read).unwrap_or_default());
        let header = header.clone();
        Ok(footer
            .ok()
            .filter(|footer| len == size && footer.base == header.base())
            .filter(|footer| footer.end == next)
            .map(|footer| Whole {
                header,
                footer,
                derived: false,
            }))
    }

    /// Notes whether one of the frames that hold ends where the replay point says.
    pub(super) fn note_replay(&mut self, header: &SegmentHeader, ends: &[Position]) {
        let Some(replay) = self.replay else { return };
        let wanted = replay.chain(self.known.cluster).position();
        let ends_there = |at: usize| ends.get(at) == Some(&wanted);
        let begins_there = header.start == *replay;
        let at = ends.partition_point(|end| end.lsn < wanted.lsn);
        self.found.replay_holds |= begins_there || ends_there(at);
    }
}
