//! A history as the handshake carries it: what tells epochs apart and orders them, and no texts.
//!
//! A parent is the epoch before, and the opener of a term is the first epoch of that term, so
//! neither is sent. What arrives is put through [`History::push`] and holds its invariants.

use outlast_engine::format::limits::EPOCHS_MAX;
use outlast_engine::format::{EpochId, EpochReason, EpochRecord, History, Lsn, NodeId};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::HANDSHAKE_LEN_MAX;

/// Longest encoding of one epoch in bytes: two varints of 32 bits, one of 64, two ids, a reason.
const EPOCH_LEN_MAX: usize = 5 + 5 + 10 + 16 + 16 + 1;

const _: () = assert!(
    EPOCHS_MAX * EPOCH_LEN_MAX + (64 << 10) <= HANDSHAKE_LEN_MAX as usize,
    "the longest history fits in a handshake"
);

#[derive(Serialize, Deserialize)]
struct WireEpoch {
    term: u32,
    start: u32,
    fork: Lsn,
    id: EpochId,
    node: NodeId,
    reason: EpochReason,
}

pub(crate) fn serialize<S: Serializer>(
    history: &History,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(history.epochs().iter().map(|epoch| WireEpoch {
        term: epoch.term,
        start: epoch.start,
        fork: epoch.fork,
        id: epoch.id,
        node: epoch.node,
        reason: epoch.reason,
    }))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<History, D::Error> {
    let mut history = History::new();
    for epoch in Vec::<WireEpoch>::deserialize(deserializer)? {
        let record = continuing(&history, epoch);
        history.push(record).map_err(D::Error::custom)?;
    }
    Ok(history)
}

fn continuing(history: &History, epoch: WireEpoch) -> EpochRecord {
    let parent = history.last();
    let opened_by = match parent {
        Some(parent) if parent.term == epoch.term => parent.opened_by,
        _ => epoch.id,
    };
    EpochRecord {
        term: epoch.term,
        start: epoch.start,
        id: epoch.id,
        parent: parent.map_or(EpochId::NONE, |parent| parent.id),
        opened_by,
        fork: epoch.fork,
        node: epoch.node,
        node_name: String::new(),
        reason: epoch.reason,
        note: String::new(),
        wall_ms: 0,
    }
}
