//! Faults that are planted on purpose, to grade the tests that ought to find them.
//!
//! Each is one wrong branch in the code that it names, taken when [`on`] says so. Without the
//! feature `planted`, which nothing but the simulator and the model test turn on, [`on`] is the
//! constant `false` and nothing of them is left in the program.

/// A fault that can be planted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Bug {
    /// A group is answered without an fsync.
    NoFsync,
    /// Names of new and replaced files are not synced.
    NoDirSync,
    /// A standby reports as durable what it has only received.
    AckOnReceive,
    /// A standby lets a session resume from what it received and has not fsynced.
    ResumeFromReceived,
    /// A follower applies a batch without its last record.
    HalfBatch,
    /// An epoch and its frame are not made durable before they are used.
    EpochNotDurable,
    /// A failed fsync is tried again, and the second answer is believed.
    RetriedFsync,
    /// Recovery cuts where a crash cannot have torn the log.
    CutInMidLog,
    /// Frames vouch for nothing.
    WatermarkAtZero,
    /// Recovery goes on behind the end of the log with frames that do not continue it.
    StaleFrame,
    /// A restarted primary does not fetch its lost tail back.
    FetchBackSkipped,
    /// A standby shows what its primary does not show yet.
    VisibilityOutOfOrder,
    /// A primary's watermark counts as evidence of what the standby's disk holds.
    ForeignWatermark,
    /// A segment's footer is written before what it seals is fsynced.
    SealBeforeSync,
    /// A log goes on after a failed fsync as if nothing had happened.
    NoPoison,
    /// A fence is not made durable.
    FenceNotDurable,
    /// A term is answered before it is noted durably.
    TermNotNoted,
    /// A batch whose outcome is unknown is reported as failed.
    UnknownAsFailed,
    /// The rewriting of the tail after a crash is skipped.
    NoRewrite,
    /// A memtable is written out without some of its versions.
    FlushLosesSome,
    /// A run that was flushed is listed as the oldest of its level.
    NewestRunLast,
    /// A sparse segment is not synced before it takes the place of others.
    SparseNotSynced,
    /// A compaction leaves out records that are the newest of their keys.
    CompactionLosesNewest,
    /// A compaction leaves out deletes that still hide something.
    DeleteLeavesEarly,
    /// A range delete on the disk is not found over its keys.
    RangeDeleteForgotten,
    /// A range delete goes with a merge while versions that it takes away are left.
    RangeDeleteGone,
    /// A merge drops a put that has expired where it has to become a delete.
    ExpiredDropped,
    /// A merge forgets the snapshots below the horizon.
    SnapshotsForgotten,
    /// A merge drops what readers at or above the horizon may see.
    HorizonTooHigh,
    /// Puts expire by the clock of the node that reads.
    ExpiryByWallClock,
    /// A put counts as expired one millisecond too late.
    ExpiryLate,
    /// A delete goes while an older version of its key is left.
    DeleteGone,
    /// A keyspace that was dropped keeps its keys.
    DropKeepsKeys,
    /// Silence fences a primary though its clock may be slow and the standby's fast.
    LeaseWithoutDrift,
    /// A commit is answered by what was exposed before it.
    BoundForgetsNewest,
    /// One commit and one byte more are answered than the bound allows.
    BoundOffByOne,
    /// The span of what is exposed is measured from its newest answer.
    SpanFromNewest,
    /// Commits are answered though the lease is out.
    LeaseNotAsked,
    /// The lease counts from when an echo arrives, and not from when its heartbeat was sent.
    LeaseFromArrival,
    /// A looser bound counts before the standby holds its record.
    LooseningAtOnce,
    /// A tighter bound counts only once the standby holds its record.
    TighteningLate,
    /// A suspension counts before the standby has heard of it.
    SuspensionUnheard,
    /// A suspension ends too late.
    SuspensionLate,
    /// A restart forgets what was promised.
    RestartLiftsPromise,
    /// What a standby has received counts as replicated.
    ReplicatedOnReceive,
    /// A standby echoes a heartbeat before it has noted the record that it names.
    EchoBeforeNote,
    /// A standby's silence goes on though it has echoed.
    EchoNotCounted,
    /// A certificate rests on the newest record of the log though a newer one was heard of.
    CertificateIgnoresHeard,
    /// A certificate rests on a record that does not say that its promise stands.
    CertificateIgnoresStanding,
    /// A primary that goes on with nothing promised names its last record to its standby.
    EpochStartNotTold,
    /// Commits are appended however much waits for the gate.
    WindowIgnored,
    /// A standby that has withdrawn goes on echoing.
    EchoAfterWithdrawal,
}

#[cfg(feature = "planted")]
mod planting {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a fault in all that this thread does from here on, or takes it out again.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// Whether a fault is planted.
    #[must_use]
    pub fn on(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(feature = "planted")]
pub use planting::{on, plant};

/// Whether a fault is planted: never, without the feature.
#[cfg(not(feature = "planted"))]
#[must_use]
pub const fn on(_: Bug) -> bool {
    false
}
