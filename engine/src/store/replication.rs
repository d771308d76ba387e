//! What ships the log, and what follows one.

use std::sync::Arc;

use bytes::Bytes;

use super::Store;
use super::state::check_payloads;
use crate::error::Result;
use crate::format::{
    Chain, EpochId, EpochReason, EpochRecord, FrameRun, Lsn, LsnRange, Position, ProtectionRecord,
};
use crate::log::{
    CommitGate, FrameSource, LogCursor, LogView, Protection, ProtectionMark, RepairReport,
    ReplicaPositions, TermMark, UnprotectedTime,
};

impl Store {
    /// Reads the log from `from`, where a frame must begin, frame by frame as far as it is formed:
    /// what a sender ships.
    ///
    /// # Errors
    /// `NotHeld` when no frame begins there, `Corrupt`, `Io`.
    pub fn log_cursor(&self, from: Lsn) -> Result<LogCursor> {
        self.log().cursor(from)
    }

    /// Whole frames that are durable here and continue `at`: what a node with damage is given. At
    /// least one, as many as fit in `len_max` bytes, none behind the segment of the first.
    ///
    /// `at` says what they must continue, and nothing else is taken from it.
    ///
    /// # Errors
    /// `NotHeld` where this log does not reach so far, `Conflict` when it holds other frames there,
    /// `Corrupt` when it is damaged there, `Io`.
    pub fn frames_behind(&self, at: &Chain, len_max: u64) -> Result<Bytes> {
        self.log().frames_behind(at, len_max)
    }

    /// Looks at every byte of the sealed segments and mends what does not hold, with the frames of
    /// `source` where the files themselves do not tell, while reads, commits and shipping go on.
    /// With `rehearse` nothing is written. Blocks for as long as that takes.
    ///
    /// The segment that is written is held in memory and not looked at.
    ///
    /// # Errors
    /// `Poisoned`, `Closed`, `DiskFull`, `Io`, those of the source. Damage that is left is none.
    pub fn repair_sealed(
        &self,
        source: Option<&mut dyn FrameSource>,
        rehearse: bool,
    ) -> Result<RepairReport> {
        self.log().repair_sealed(source, rehearse)
    }

    /// The chain that the next frame of this log continues.
    #[must_use]
    pub fn chain(&self) -> Chain {
        self.log().chain()
    }

    /// Finishes recovery, applies what readers might have seen, and takes frames from now on.
    ///
    /// # Errors
    /// `NotWriter` for a node that writes, `Fenced`, `Poisoned`, `Closed`, `Corrupt`, `Io`.
    pub fn begin_following(&self) -> Result<()> {
        self.log().begin_following()?;
        self.apply_to(self.chain().visible)?;
        Ok(())
    }

    /// Takes no more frames. What was taken stays, and reads go on.
    pub fn stop_following(&self) {
        self.log().stop_following();
    }

    /// Appends checked frames where the log ends, byte for byte. They are durable after
    /// [`Store::sync`] and visible after [`Store::apply_to`]. Answers with the received position.
    ///
    /// # Errors
    /// `NotHeld` when the run does not begin where this log ends, `Incompatible` when a frame holds
    /// what this program cannot apply, `NotWriter` when this node does not follow, `Poisoned`,
    /// `Closed`, `DiskFull`, `Io`.
    pub fn append_run(&self, run: &FrameRun) -> Result<Lsn> {
        let shared = &self.shared;
        shared.log.takes(run)?;
        let start = run.range().start;
        check_payloads(run, || shared.state.catalogue_at(&shared.log, start))?;
        shared.log.append_run(run)
    }

    /// Makes all that was appended durable. Answers with the durable position: what a follower may
    /// report.
    ///
    /// # Errors
    /// `NotWriter` when this node does not follow; an `Io` error poisons the store.
    pub fn sync(&self) -> Result<Lsn> {
        self.log().sync()
    }

    /// Applies whole frames up to `lsn` (the primary's visible position), never beyond what is
    /// durable here, and shows them. Answers with the applied position. A lower `lsn` changes
    /// nothing.
    ///
    /// # Errors
    /// `NotWriter` on a node that writes, `Corrupt`, `Io`.
    pub fn apply_to(&self, lsn: Lsn) -> Result<Position> {
        let shared = &self.shared;
        shared.feed.show(&shared.log, &shared.state, lsn)
    }

    /// Takes up what the standby has reported in its session, which may be lower than before.
    /// Commits that wait for it are answered.
    ///
    /// # Panics
    /// When they contradict one another or this log: a report is checked before it is taken up.
    pub fn set_replica_positions(&self, replica: ReplicaPositions) {
        self.log().set_replica_positions(replica);
    }

    /// The highest term that this node ever heard of, its own included.
    #[must_use]
    pub fn term_heard(&self) -> Option<TermMark> {
        self.log().term_heard()
    }

    /// Notes durably that a term exists, if it is the highest so far.
    ///
    /// # Errors
    /// `DiskFull`, `Io`.
    pub fn note_term(&self, mark: TermMark) -> Result<()> {
        self.log().note_term(mark)
    }

    /// Ends this node's right to write, durably and for good: a newer term exists. What waits ends
    /// as unknown; reads go on.
    ///
    /// # Errors
    /// `DiskFull`, `Io`; the node then still is what it was.
    pub fn fence(&self, by: TermMark) -> Result<()> {
        self.log().fence(by)
    }

    /// Stands still, durably: this node's history and another contradict each other, and an
    /// operator must choose. What waits ends as unknown; reads go on.
    ///
    /// # Errors
    /// `DiskFull`, `Io`; the node then still is what it was.
    pub fn halt(&self, why: &str) -> Result<()> {
        self.log().halt(why)
    }

    /// Notes durably that this node acknowledged up to `lsn` in `epoch` and no longer holds that: a
    /// peer remembers it, and this node's disk does not, as after an older image of it was put
    /// back. It is said until it was sent again, as
    /// [`Recovered::acked_tail_lost`](crate::Recovered::acked_tail_lost).
    ///
    /// # Errors
    /// `DiskFull`, `Io`.
    pub fn note_tail_lost(&self, epoch: &EpochRecord, lsn: Lsn) -> Result<()> {
        self.log().note_tail_lost(epoch, lsn)
    }

    /// Goes on from a conflict, as an operator has chosen this node's history: begins an epoch of a
    /// higher term, as [`Store::begin_epoch`] does, which whoever holds the other history follows
    /// or is fenced by.
    ///
    /// # Errors
    /// `NotWriter` when this node stands in none, and those of [`Store::begin_epoch`]; it then
    /// still stands in it.
    pub fn settle_conflict(&self, note: &str) -> Result<EpochRecord> {
        let why = self.log().leave_conflict()?;
        let begun = self.begin_epoch(EpochReason::Promotion, note);
        begun.inspect_err(|_| self.log().return_to_conflict(&why))
    }

    /// The newest protection record that this node ever heard of.
    #[must_use]
    pub fn protection_heard(&self) -> Option<ProtectionMark> {
        self.log().protection_heard()
    }

    /// Notes durably that a protection record exists.
    ///
    /// # Errors
    /// `DiskFull`, `Io`.
    pub fn note_protection(&self, mark: ProtectionMark) -> Result<()> {
        self.log().note_protection(mark)
    }

    /// Chain, history and positions of one moment: what a handshake tells.
    #[must_use]
    pub fn log_view(&self) -> LogView {
        self.log().view()
    }

    /// How far this node has noted durably that it fsynced what it received, and in which epoch.
    #[must_use]
    pub fn durable_mark(&self) -> Option<(EpochId, Lsn)> {
        self.log().durable_mark()
    }

    /// Puts everything from `fork` on aside, durably, and cuts the log there: it is not in the
    /// history that this node joins. Answers with the file that keeps the bytes.
    ///
    /// # Errors
    /// `NotHeld` when no frame begins at `fork`, `NotWriter` when this node does not follow,
    /// `Corrupt`, `Io`.
    ///
    /// # Panics
    /// When readers have seen what lies behind `fork`.
    pub fn quarantine(&self, fork: Lsn) -> Result<String> {
        let shared = &self.shared;
        shared
            .feed
            .quarantine(&shared.log, &shared.state, &shared.upkeep, fork)
    }

    /// Writes down, in the log, which policy holds from here on, before whatever waits to be
    /// committed. It is durable on return. Answers with the record and where it stands.
    ///
    /// # Errors
    /// `Limit` for a note or a list that is too long, and those of a commit.
    pub fn append_protection(&self, record: &ProtectionRecord) -> Result<Protection> {
        self.log().append_protection(record)
    }

    /// Whether disk space is held in reserve for what must be written on a full disk: a fence, the
    /// start of an epoch. Made in the background once the log follows or is written; `false` while
    /// there is no space for it.
    #[must_use]
    pub fn holds_reserve(&self) -> bool {
        self.log().holds_reserve()
    }

    /// Lets `gate` decide about every answer from now on: which commits end as OK and may be seen,
    /// and which may be appended.
    ///
    /// # Panics
    /// When there is one already.
    pub fn set_gate(&self, gate: Arc<dyn CommitGate>) {
        self.log().set_gate(gate);
    }

    /// Asks the gate again about all that waits: it knows more than when it was last asked, or its
    /// time has come.
    pub fn ask_gate(&self) {
        self.log().ask_gate();
    }

    /// The newest protection records of this log, in its order: the last 32, and none from below
    /// the checkpoint that this node was made from.
    #[must_use]
    pub fn protections(&self) -> Vec<Protection> {
        self.log().protections()
    }

    /// For how long, when and why nothing limited what could be lost, as this log tells it: the
    /// same on every node that holds it. Outlasts compaction, promotion, and a backup.
    #[must_use]
    pub fn unprotected(&self) -> UnprotectedTime {
        self.log().unprotected()
    }

    /// Where the newest protection record of this log stands. The start of an epoch that no plain
    /// restart began counts as one: nothing is promised from there on.
    #[must_use]
    pub fn newest_protection(&self) -> Option<ProtectionMark> {
        self.log().newest_protection()
    }

    /// Takes up how far the peer's log holds this node's history, as it said in a handshake, before
    /// recovery is carried out: a tail that the peer has is lost here, and not torn.
    pub fn note_peer_holds(&self, lsn: Lsn) {
        self.log().note_peer_holds(lsn);
    }

    /// Whether a standby has attached to this node in its term.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.log().is_attached()
    }

    /// Notes durably that a standby attaches, before it is answered: from now on another node may
    /// be promoted in this one's absence.
    ///
    /// # Errors
    /// `DiskFull`, `Io`.
    pub fn note_attached(&self) -> Result<()> {
        self.log().note_attached()
    }

    /// Notes durably that `range` is received from the peer though this node wrote it once: it was
    /// lost here, and its watermarks say nothing about this disk.
    ///
    /// # Errors
    /// `DiskFull`, `Io`.
    pub fn note_fetched(&self, range: LsnRange) -> Result<()> {
        self.log().note_fetched(range)
    }
}
