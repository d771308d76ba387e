//! Beginning at a replay point: what lies before it is not read again, only looked at from outside.
//!
//! Everything below a replay point was durable when it was noted, and the index holds what it says.
//! Damage there is found by who reads it, by a scrub and by `check`; opening stays quick however
//! long the log is.

use super::{Surveyor, Whole};
use crate::error::Result;
use crate::format::{
    ChainRecord, EpochId, Position, SEGMENT_FOOTER_LEN, SegmentFooter, SegmentHeader, to_usize,
};
use crate::fs::Access;
use crate::log::segment::file_name;

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
