//! The newest frames of the writer, as far as transactions must be checked against them.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{LostTo, ReadSet, Writes};
use crate::format::{FrameHeader, Lsn};

/// Frames that are kept.
const FRAMES_MAX: usize = 1_024;
/// Their length in bytes, all together; the newest is kept whatever its length.
const BYTES_MAX: usize = 8 << 20;

/// The newest frames that this node formed, in their order. A frame costs what it takes to keep
/// hold of it until a transaction asks what it writes.
///
/// Invariant: it holds every frame of batches at or behind `known_from`.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    frames: VecDeque<Frame>,
    bytes: usize,
    known_from: Lsn,
}

#[derive(Debug)]
struct Frame {
    header: FrameHeader,
    bytes: Bytes,
    writes: Option<Writes>,
}

impl Recent {
    /// Starts over: this node forms what lies at `lsn` and behind it.
    pub(crate) fn begin(&mut self, lsn: Lsn) {
        *self = Self {
            known_from: lsn,
            ..Self::default()
        };
    }

    /// Adds the frame that was formed last; `writes` is what it writes, if that is known already.
    pub(crate) fn push(&mut self, header: FrameHeader, bytes: Bytes, writes: Option<Writes>) {
        self.bytes += bytes.len();
        self.frames.push_back(Frame {
            header,
            bytes,
            writes,
        });
        while self.frames.len() > FRAMES_MAX || (self.bytes > BYTES_MAX && self.frames.len() > 1) {
            if let Some(frame) = self.frames.pop_front() {
                self.bytes -= frame.bytes.len();
                self.known_from = frame.header.end();
            }
        }
    }

    /// What takes `reads` away, which hold below `from`.
    pub(crate) fn lost_to(&mut self, reads: &ReadSet, from: Lsn) -> Option<LostTo> {
        if from < self.known_from {
            let lsn = Lsn(self.known_from.0 - 1);
            return Some(LostTo { lsn, key: None });
        }
        self.frames
            .iter_mut()
            .rev()
            .take_while(|frame| frame.header.end() > from)
            .find_map(|frame| reads.lost_to(frame.writes(), from))
    }
}

impl Frame {
    fn writes(&mut self) -> &Writes {
        self.writes.get_or_insert_with(|| {
            let mut writes = Writes::default();
            let payload = self.header.payload(&self.bytes);
            writes.add(payload, self.header.payload_lsn(), self.header.batches);
            writes
        })
    }
}
