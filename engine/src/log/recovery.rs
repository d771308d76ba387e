//! Recovery: what a crash leaves, told apart from what rot leaves.
//!
//! The log is scanned up to X, where the first bytes lie that are not the next frame. What is done
//! about them depends on **L**, the highest position that something vouches was durable *here*: a
//! crash never takes away what was fsynced, so a fault below L is damage, and one at or above L is
//! a tail that the crash tore.

use crate::format::{
    Chain, EpochRecord, FrameFault, FrameHeader, FrameKind, History, Lsn, Position,
};
use crate::planted::{Bug, on};

/// What the scan of a log found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Facts {
    /// X: end of the last frame that holds.
    pub(super) end: Lsn,
    /// L: highest position vouched durable here.
    pub(super) vouched: Lsn,
    /// Whether anything but zeros lies behind X.
    pub(super) litter: bool,
    /// Whether this node was the writer.
    pub(super) writer: bool,
}

/// What to do before the log goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Plan {
    /// Nothing lies behind the end. Rewrite what lies behind L, in case the disk does not have it.
    Clean,
    /// A torn tail: keep a copy of what lies behind X, then zero it.
    Cut,
    /// Damage below L on a follower, which may be all that is left: cut as a torn tail, keep the
    /// bytes aside, and say that acknowledged bytes up to `acked` must be sent again.
    CutAcked {
        /// L: what this node had acknowledged.
        acked: Lsn,
    },
    /// Damage below L on a writer: touch nothing.
    Refuse,
}

/// The decision, for every combination of facts.
pub(super) fn plan(facts: Facts) -> Plan {
    if on(Bug::CutInMidLog) && facts.litter {
        return Plan::Cut;
    }
    match (facts.end < facts.vouched, facts.writer, facts.litter) {
        (true, true, _) => Plan::Refuse,
        (true, false, _) => Plan::CutAcked {
            acked: facts.vouched,
        },
        (false, _, true) => Plan::Cut,
        (false, _, false) => Plan::Clean,
    }
}

/// What a scan of the active segment found.
#[derive(Debug)]
pub(super) struct Scan {
    /// The chain behind the last frame that holds.
    pub(super) chain: Chain,
    /// Bytes of the frames that hold.
    pub(super) len: usize,
    /// Where each of them ends.
    pub(super) ends: Vec<Position>,
    /// Epochs that begin in them.
    pub(super) epochs: Vec<EpochRecord>,
    /// What stopped the scan.
    pub(super) fault: Option<FrameFault>,
    /// Highest watermark of a frame that this node formed.
    pub(super) vouched: Lsn,
    /// Whether anything but zeros lies behind.
    pub(super) litter: bool,
}

/// Scans `bytes`, the room for frames of the active segment, from the chain of its header on.
///
/// `formed_here` tells whether this node itself wrote the byte at a position in an epoch; only then
/// does the watermark of a frame vouch for anything on this disk.
pub(super) fn scan(
    start: Chain,
    bytes: &[u8],
    history: &History,
    formed_here: &dyn Fn(Lsn, &EpochRecord) -> bool,
) -> Scan {
    let mut found = Scan {
        chain: start,
        len: 0,
        ends: Vec::new(),
        epochs: Vec::new(),
        fault: None,
        vouched: Lsn::ZERO,
        litter: false,
    };
    let mut known = history.epochs().to_vec();
    let vouches = |header: &FrameHeader, known: &[EpochRecord]| {
        let order = (header.term, header.start);
        let epoch = known.iter().find(|epoch| epoch.order() == order);
        epoch.is_some_and(|epoch| formed_here(header.lsn, epoch))
    };
    while found.len < bytes.len() {
        let rest = bytes.get(found.len..).unwrap_or_default();
        match found.chain.check_frame(rest) {
            Ok((header, epoch)) => {
                if let Some(epoch) = &epoch {
                    assert_eq!(header.kind, FrameKind::Epoch);
                    if known.iter().all(|other| other.id != epoch.id) {
                        known.push(epoch.clone());
                    }
                }
                if vouches(&header, &known) {
                    found.vouched = found.vouched.max(header.watermark);
                }
                found.chain = found.chain.after(&header, epoch.as_ref());
                found.len += header.frame_len();
                found.ends.push(found.chain.position());
                found.epochs.extend(epoch);
            }
            Err(fault) => {
                found.fault = Some(fault);
                break;
            }
        }
    }
    // A frame that survived behind the fault proves nothing by being there: its own write was not
    // synced. But its watermark may say that the damaged bytes were.
    let behind = bytes.get(found.len..).unwrap_or_default();
    found.litter = behind.iter().any(|byte| *byte != 0);
    if found.litter {
        for offset in (8..behind.len()).step_by(8) {
            let lsn = found.chain.lsn.advance(offset as u64);
            let at = behind.get(offset..).unwrap_or_default();
            if at.first_chunk() != Some(b"OLF1") {
                continue;
            }
            let stray = known.iter().find_map(|epoch| {
                FrameHeader::stray(at, lsn, &epoch.into()).filter(|_| formed_here(lsn, epoch))
            });
            let stale = known
                .iter()
                .find_map(|epoch| FrameHeader::stray(at, lsn, &epoch.into()));
            if on(Bug::StaleFrame)
                && let Some(header) = stale
            {
                found.len += offset + header.frame_len();
                found.chain.lsn = header.end();
                break;
            }
            if let Some(header) = stray {
                found.vouched = found.vouched.max(header.watermark);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_facts_has_its_plan() {
        for writer in [false, true] {
            for litter in [false, true] {
                for (end, vouched) in [(0, 0), (8, 0), (8, 8), (8, 16), (0, 8)] {
                    let facts = Facts {
                        end: Lsn(end),
                        vouched: Lsn(vouched),
                        litter,
                        writer,
                    };
                    let plan = plan(facts);
                    let damaged = end < vouched;
                    assert_eq!(matches!(plan, Plan::Refuse), damaged && writer, "{facts:?}");
                    assert_eq!(matches!(plan, Plan::CutAcked { .. }), damaged && !writer);
                    assert_eq!(matches!(plan, Plan::Cut), !damaged && litter);
                    assert_eq!(matches!(plan, Plan::Clean), !damaged && !litter);
                }
            }
        }
    }
}
