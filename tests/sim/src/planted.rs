//! The faults that are planted to grade this simulator, and within how many seeds each must be
//! found.

use outlast_engine::planted::Bug;

use crate::report::{Options, run};

/// A planted fault.
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    /// The fault.
    pub bug: Bug,
    /// What it is, for people.
    pub what: &'static str,
    /// It must be found within so many seeds.
    pub within: u64,
}

/// How a planted fault was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The first seed that fails.
    pub seed: u64,
    /// How many of the seeds that were run fail.
    pub failing: u64,
    /// How many were run.
    pub seeds: u64,
    /// The invariant that the first of them names.
    pub invariant: &'static str,
    /// What it says.
    pub what: String,
}

macro_rules! planted {
    ($($bug:ident, $within:literal, $what:literal;)*) => {
        /// All of them.
        pub const PLANTED: &[Planted] = &[
            $(Planted { bug: Bug::$bug, what: $what, within: $within },)*
        ];
    };
}

planted! {
    NoFsync, 100, "no fsync of a group or of received frames";
    NoDirSync, 100, "no fsync of a directory";
    AckOnReceive, 100, "a standby acknowledges as durable what it has received";
    ResumeFromReceived, 10_000, "a session resumes from what was received and not fsynced";
    HalfBatch, 100, "a batch is applied in part";
    EpochNotDurable, 100, "an epoch is used before it is durable";
    RetriedFsync, 1000, "a failed fsync is tried again, and believed";
    NoPoison, 1000, "a log goes on after a failed fsync";
    CutInMidLog, 100, "recovery cuts below what was vouched for";
    WatermarkAtZero, 1000, "frames vouch for nothing";
    StaleFrame, 100, "recovery takes a frame behind the end of the log";
    FetchBackSkipped, 1000, "a restarted primary does not fetch its lost tail back";
    VisibilityOutOfOrder, 100, "a standby shows what its primary does not show yet";
    ForeignWatermark, 1000, "a primary's watermark counts as evidence on the standby";
    SealBeforeSync, 10_000, "a footer is written before what it seals is fsynced";
    FenceNotDurable, 100, "a fence does not outlive the process";
    TermNotNoted, 100, "a term is answered before it is noted";
    UnknownAsFailed, 1000, "a commit in a frame that failed to be written ends as failed";
    NoRewrite, 5000, "the tail is not written again after a crash";
    FlushLosesSome, 100, "a memtable is written out without some of its versions";
    NewestRunLast, 100, "a run that was flushed is listed as the oldest of its level";
    SparseNotSynced, 100, "a sparse segment takes the place of others before it is synced";
    CompactionLosesNewest, 100, "a compaction leaves out the newest of some keys";
    DeleteLeavesEarly, 1000, "a compaction leaves out deletes that still hide something";
    RangeDeleteForgotten, 100, "a range delete on the disk is not found over its keys";
    RangeDeleteGone, 100, "a range delete goes with a merge while it still hides something";
    SnapshotsForgotten, 100, "a merge forgets the snapshots below the horizon";
    HorizonTooHigh, 100, "a merge drops what readers above the horizon may see";
    ExpiryByWallClock, 100, "puts expire by the clock of the node that reads";
    ExpiryLate, 100, "a put counts as expired a millisecond too late";
    DeleteGone, 100, "a delete goes while an older version of its key is left";
    LeaseWithoutDrift, 5000, "silence fences though the two clocks may run differently";
    BoundForgetsNewest, 100, "a commit is answered by what was exposed before it";
    BoundOffByOne, 100, "one commit and one byte more are answered than the bound allows";
    SpanFromNewest, 1000, "the span of what is exposed is measured from its newest answer";
    LeaseNotAsked, 100, "commits are answered though the lease is out";
    LeaseFromArrival, 1000, "the lease counts from the arrival of an echo";
    LooseningAtOnce, 1000, "a looser bound counts before the standby holds its record";
    TighteningLate, 100, "a tighter bound counts only once the standby holds its record";
    SuspensionUnheard, 1000, "a suspension counts before the standby has heard of it";
    SuspensionLate, 1000, "a suspension ends too late";
    RestartLiftsPromise, 1000, "a restart forgets what was promised";
    ReplicatedOnReceive, 100, "what a standby has received counts as replicated";
    EchoBeforeNote, 100, "a heartbeat is echoed before the record that it names is noted";
    EchoNotCounted, 100, "a standby's silence goes on though it has echoed";
    CertificateIgnoresHeard, 5000, "a certificate rests on an older record than was heard of";
    CertificateIgnoresStanding, 1000, "a certificate rests on a record that is not in force";
    EpochStartNotTold, 10_000, "a standby is not told that an epoch promises nothing";
    WindowIgnored, 1000, "commits are appended however much waits for the gate";
    EchoAfterWithdrawal, 1000, "a standby that has withdrawn goes on echoing";
}

/// Runs seeds from 0 on with a fault planted: as many as it is to be found within, or, with
/// `first_only`, until it is.
#[must_use]
pub fn hunt(planted: &Planted, first_only: bool) -> Option<Found> {
    let options = Options {
        bug: Some(planted.bug),
        ..Options::default()
    };
    let mut found: Option<Found> = None;
    for seed in 0..planted.within {
        let report = run(seed, options);
        let seeds = seed + 1;
        if let Some(found) = &mut found {
            found.seeds = seeds;
            found.failing += u64::from(report.violation.is_some());
        } else if let Some(violation) = report.violation {
            found = Some(Found {
                seed,
                failing: 1,
                seeds,
                invariant: violation.invariant,
                what: violation.what,
            });
            if first_only {
                break;
            }
        }
    }
    found
}
