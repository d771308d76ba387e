//! Bytes to types and back. Pure: no files, no clocks, no locks.
//!
//! Everything that is written to a disk or sent to a peer is laid out here, and nothing else in the
//! engine knows an offset. What follows below is `FORMAT.md`, which says the same in prose.
//!
//! **Architecture invariant:** nothing in this module panics on bytes it was given to decode; it
//! answers with a typed fault. It does panic when asked to *encode* what breaks a limit, since the
//! caller has checked that already.
#![doc = ""]
#![doc = include_str!("../../FORMAT.md")]

mod checksum;
mod control;
mod envelope;
mod epoch;
mod frame;
mod ids;
pub mod limits;
mod record;
mod run;
mod segment;
mod sparse;

pub use control::{ControlFault, KeyspaceRecord, ProtectionRecord, ProtectionStanding};
pub use envelope::{Envelope, EnvelopeFault};
pub use epoch::{CommonPoint, EpochReason, EpochRecord, History, HistoryFault};
pub use frame::{
    Chain, EpochKey, FRAME_HEADER_LEN, FrameFault, FrameFields, FrameHeader, FrameKind,
    encoded_frame_len,
};
pub use ids::{ClusterId, EpochId, IdFault, Lsn, LsnRange, NodeId, Position, to_usize};
pub use record::{
    BATCH_HEADER_LEN, BatchBuf, BatchRef, Batches, Op, Placed, RecordFault, RecordRef, Records,
    decode_record, key_of_record, start_to_expire,
};
pub use run::{FrameRun, RunFault};
pub use segment::{
    ChainRecord, SEGMENT_FOOTER_LEN, SEGMENT_HEADER_LEN, SegmentFault, SegmentFooter, SegmentHeader,
};
pub use sparse::{
    KeptControl, SPARSE_HEADER_LEN, SparseFault, SparseHeader, SparseTable, SparseView,
};
