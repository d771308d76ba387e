//! Walking the frames of one segment: which hold, where the first hole is, and what lies behind it.
//!
//! Behind a hole the walk goes on at the next frame that is sound by itself. Nothing behind a hole
//! is ever taken as the log; but it tells how long the hole is, and its watermarks may vouch that
//! what is missing was durable.

use std::collections::HashMap;

use crate::format::{
    Chain, ClusterId, EpochId, EpochKey, EpochRecord, FrameFault, FrameHeader, FrameKind, Lsn,
    LsnRange, NodeId, Position,
};
use crate::planted::{Bug, on};

const MAGIC: [u8; 4] = *b"OLF1";
const ALIGNMENT: usize = 8;

/// Frames that should be there and do not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hole {
    /// Up to the next sound frame, or to the last byte that is not zero.
    pub(super) range: LsnRange,
    /// What is wrong with the first of them.
    pub(super) fault: FrameFault,
}

/// The epochs by which frames are recognised, and what this node formed of them.
#[derive(Clone, Debug)]
pub(super) struct Epochs {
    cluster: ClusterId,
    node: NodeId,
    /// What was fetched back from the peer though this node's own epochs cover it.
    received: Vec<LsnRange>,
    by_order: HashMap<(u32, u32), Known>,
    by_id: HashMap<EpochId, EpochKey>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    key: EpochKey,
    parent: EpochId,
    node: NodeId,
}

impl Epochs {
    pub(super) fn new(cluster: ClusterId, node: NodeId, received: Vec<LsnRange>) -> Self {
        Self {
            cluster,
            node,
            received,
            by_order: HashMap::new(),
            by_id: HashMap::new(),
        }
    }

    pub(super) fn learn(&mut self, epoch: &EpochRecord) {
        let key = EpochKey::from(epoch);
        let (parent, node) = (epoch.parent, epoch.node);
        self.by_order
            .insert(epoch.order(), Known { key, parent, node });
        self.by_id.insert(epoch.id, key);
    }

    /// Whether this node itself wrote the frame to this disk; only then does its watermark say
    /// anything about this disk.
    fn formed_here(&self, header: &FrameHeader) -> bool {
        let known = self.by_order.get(&(header.term, header.start));
        let fetched = |range: &LsnRange| range.start <= header.lsn && header.lsn < range.end;
        on(Bug::ForeignWatermark)
            || known.is_some_and(|epoch| epoch.node == self.node)
                && !self.received.iter().any(fetched)
    }

    /// The frame header at the start of `bytes`, if a writer of a known epoch formed it for `lsn`,
    /// and the chain that its frame continued.
    fn stray(&self, bytes: &[u8], lsn: Lsn) -> Option<(FrameHeader, Chain)> {
        let announced = FrameHeader::unchecked(bytes)?;
        let known = self.by_order.get(&(announced.term, announced.start))?;
        let begins = announced.kind == FrameKind::Epoch;
        // The frame that begins an epoch is sealed with its parent's id, or the cluster's.
        let before = if begins {
            self.by_id.get(&known.parent).copied()
        } else {
            Some(known.key)
        };
        let seed = match before {
            Some(key) => key.id,
            None => EpochId(self.cluster.0),
        };
        let sealed_with = EpochKey {
            id: seed,
            ..known.key
        };
        let header = FrameHeader::stray(bytes, lsn, &sealed_with)?;
        let chain = Chain {
            lsn,
            check: header.chain,
            epoch: before,
            next_commit: header.first_commit,
            ..Chain::origin(self.cluster)
        };
        Some((header, chain))
    }
}

/// What the walk of a segment found.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    /// The chain behind the last frame before the first hole.
    pub(super) chain: Chain,
    /// Where each frame before the first hole ends.
    pub(super) ends: Vec<Position>,
    /// The epochs that begin before the first hole.
    pub(super) epochs: Vec<EpochRecord>,
    /// What does not hold, in order.
    pub(super) holes: Vec<Hole>,
    /// The chain behind the last sound frame; [`Walk::chain`] where nothing behind a hole is sound.
    pub(super) last: Chain,
    /// Highest watermark of a frame that this node formed.
    pub(super) vouched: Lsn,
}

/// Length without the zeros at the end. Many are looked at at once: one by one, those of a segment
/// take longer than reading them.
pub(super) fn written_len(bytes: &[u8]) -> usize {
    const PIECE_LEN: usize = 1 << 10;
    let zeros = |piece: &[u8]| piece.iter().fold(0, |any, byte| any | byte) == 0;
    let (rest, pieces) = bytes.as_rchunks::<PIECE_LEN>();
    let behind = pieces.iter().rev().take_while(|piece| zeros(&piece[..]));
    let len = rest.len() + (pieces.len() - behind.count()) * PIECE_LEN;
    let last = bytes.iter().take(len).rposition(|byte| *byte != 0);
    last.map_or(0, |last| last + 1)
}

/// Walks `bytes`, the room for frames of a segment, from the chain of its header on.
pub(super) fn walk(start: Chain, bytes: &[u8], epochs: &mut Epochs) -> Walk {
    let base = start.lsn;
    let mut found = Walk {
        chain: start,
        ends: Vec::new(),
        epochs: Vec::new(),
        holes: Vec::new(),
        last: start,
        vouched: Lsn::ZERO,
    };
    let written = written_len(bytes).next_multiple_of(ALIGNMENT);
    let mut at = 0;
    while at < written {
        let rest = bytes.get(at..).unwrap_or_default();
        match found.last.check_frame(rest) {
            Ok((header, epoch)) => {
                if let Some(epoch) = &epoch {
                    epochs.learn(epoch);
                }
                if epochs.formed_here(&header) {
                    found.vouched = found.vouched.max(header.watermark);
                }
                found.last = found.last.after(&header, epoch.as_ref());
                at += header.frame_len();
                if found.holes.is_empty() {
                    found.chain = found.last;
                    found.ends.push(found.last.position());
                    found.epochs.extend(epoch);
                }
            }
            Err(fault) => {
                let hole_end = match resync(bytes, at, base, epochs, &mut found.vouched) {
                    Some((next, chain)) => {
                        found.last = chain;
                        if on(Bug::StaleFrame) && found.holes.is_empty() {
                            (found.chain, at) = (chain, next);
                            continue;
                        }
                        next
                    }
                    None => written.min(bytes.len()),
                };
                let lsn = |offset: usize| base.advance(offset as u64);
                let range = LsnRange::new(lsn(at), lsn(hole_end));
                found.holes.push(Hole { range, fault });
                if found.last.lsn < range.end {
                    break;
                }
                at = hole_end;
            }
        }
    }
    found
}

/// The next frame behind the one at `at` that is sound by itself, payload included, and the chain
/// before it. Headers on the way vouch by their watermarks, whatever became of their payloads.
fn resync(
    bytes: &[u8],
    at: usize,
    base: Lsn,
    epochs: &Epochs,
    vouched: &mut Lsn,
) -> Option<(usize, Chain)> {
    for offset in (at..bytes.len()).step_by(ALIGNMENT) {
        let rest = bytes.get(offset..).unwrap_or_default();
        if rest.first_chunk() != Some(&MAGIC) {
            continue;
        }
        let Some((header, chain)) = epochs.stray(rest, base.advance(offset as u64)) else {
            continue;
        };
        if epochs.formed_here(&header) {
            *vouched = (*vouched).max(header.watermark);
        }
        if offset > at && chain.check_frame(rest).is_ok() {
            return Some((offset, chain));
        }
    }
    None
}

/// Number of the whole frames in `bytes`, by the lengths that they announce.
pub(super) fn count_frames(bytes: &[u8]) -> u64 {
    let mut frames = 0;
    let mut at = 0;
    while let Some(len) = bytes.get(at..).and_then(FrameHeader::announced_len) {
        frames += 1;
        at += len;
    }
    frames
}

/// Where the byte at `lsn` lies in the file of a segment that begins at `base`.
pub(super) fn offset_in_file(lsn: Lsn, base: Lsn) -> u64 {
    crate::format::SEGMENT_HEADER_LEN + lsn.bytes_since(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_at_the_end_are_not_counted_wherever_the_last_byte_lies() {
        for len in [0, 1, 1023, 1024, 1025, 5000] {
            let mut bytes = vec![0; len];
            assert_eq!(written_len(&bytes), 0, "{len} zeros");
            for at in [0, 1, 903, 904, 1023, 1024, 2047, 4095, 4999] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = 0x80;
                    assert_eq!(written_len(&bytes), at + 1, "of {len}");
                }
            }
        }
    }
}
