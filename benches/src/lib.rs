//! What the benchmarks share: the beginning of a log, in memory.

use bytes::Bytes;
use outlast_engine::format::{
    Chain, ClusterId, EpochId, EpochReason, EpochRecord, FrameFields, FrameKind, NodeId,
};

/// A log with nothing in it but its first epoch, and the bytes of that.
#[must_use]
pub fn begun() -> (Chain, Bytes, EpochRecord) {
    let mut chain = Chain::origin(ClusterId([7; 16]));
    let id = EpochId([1; 16]);
    let record = EpochRecord {
        term: 1,
        start: 1,
        id,
        parent: EpochId::NONE,
        opened_by: id,
        fork: chain.lsn,
        node: NodeId([1; 16]),
        node_name: "bench".to_owned(),
        reason: EpochReason::Init,
        note: String::new(),
        wall_ms: 0,
    };
    let frame = chain.form_epoch(fields(&chain, FrameKind::Epoch, 0), &record);
    (chain, frame, record)
}

/// Fields of the next frame of a log of which nothing is durable or visible yet.
#[must_use]
pub const fn fields(chain: &Chain, kind: FrameKind, batches: u32) -> FrameFields {
    FrameFields {
        kind,
        first_in_segment: false,
        batches,
        wall_ms: 0,
        log_ms: 0,
        visible: chain.visible,
        watermark: chain.watermark,
    }
}
