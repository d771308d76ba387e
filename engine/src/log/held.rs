//! What is in memory of the active segment: its end, and maps of what was left to the file.

use bytes::Bytes;

use crate::format::{FrameHeader, Lsn, limits::SEGMENT_SIZE_MIN, to_usize};
use crate::fs::BLOCK_LEN;

/// Frames in the order of their positions, in pieces of one frame or of one received run, and
/// before `held_from` in maps of the file, where they are not left to it altogether. No frame is in
/// two pieces.
pub(super) struct Memory {
    pub(super) pieces: Vec<(Lsn, Bytes)>,
    pub(super) held_from: Lsn,
}

/// Bytes at the end of the active segment that stay in memory, and bytes before them that are left
/// to the file at a time: what was written last is read most, and a map keeps away from the blocks
/// that are still written and from what the operating system reads ahead of it.
pub(super) const fn kept_len(segment_size: u64) -> u64 {
    const LEN_MAX: u64 = 4 << 20;
    let part = segment_size / 8;
    if part < LEN_MAX { part } else { LEN_MAX }
}

const _: () = assert!(kept_len(SEGMENT_SIZE_MIN) >= 2 * BLOCK_LEN as u64);

impl Memory {
    /// The piece that holds the byte at `lsn`.
    pub(super) fn piece(&self, lsn: Lsn) -> Option<(Lsn, &Bytes)> {
        let after = self.pieces.partition_point(|(start, _)| *start <= lsn);
        let (start, bytes) = self.pieces.get(after.checked_sub(1)?)?;
        let holds = lsn < start.advance(bytes.len() as u64);
        holds.then_some((*start, bytes))
    }

    /// The last position up to `lsn` at which a frame that is held begins or ends.
    pub(super) fn frame_at(&self, lsn: Lsn) -> Lsn {
        let after = self.pieces.partition_point(|(start, _)| *start <= lsn);
        let piece = after.checked_sub(1).and_then(|at| self.pieces.get(at));
        let Some((start, bytes)) = piece else {
            return self.held_from;
        };
        let mut at = 0;
        while let Some(len) = bytes.get(at..).and_then(FrameHeader::announced_len)
            && start.advance((at + len) as u64) <= lsn
        {
            at += len;
        }
        start.advance(at as u64)
    }

    /// Holds nothing before `to`, where a frame begins, any more, but what is in maps; `map` is
    /// that from `held_from` to there.
    pub(super) fn leave(&mut self, to: Lsn, map: Option<Bytes>) {
        let first = self
            .pieces
            .partition_point(|(start, _)| *start < self.held_from);
        let behind = self.pieces.partition_point(|(start, _)| *start < to);
        // Not a slice of the piece, which would keep all of it.
        let cut = self.pieces.get(first..behind).and_then(|left| left.last());
        let cut = cut.map(|(start, bytes)| bytes.get(to_usize(to.bytes_since(*start))..));
        let cut = cut.flatten().filter(|rest| !rest.is_empty());
        let cut = cut.map(|rest| (to, Bytes::copy_from_slice(rest)));
        let map = map.map(|map| (self.held_from, map));
        self.pieces
            .splice(first..behind, map.into_iter().chain(cut));
        self.held_from = to;
    }
}
