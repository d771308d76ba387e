//! The log: segments, group commit, recovery of the tail, terms and epochs.
//!
//! ```text
//! commit ─→ queue ─→ leader forms one frame ─→ memory ─┬→ write, fsync ─→ sink ─→ visible ─→ OK
//!                                                      └→ readers of the tail (the sender)
//! ```
//! One thread at a time leads: it takes what waits, forms a frame and writes it, waits until the
//! group before is synced, and hands the leadership on. Then it syncs its group while the next one
//! is formed and written, and applies it and wakes its callers while that is synced. Two groups at
//! most are in flight, and one fsync. Where that does not pay, because the group is large or is
//! written through the page cache, it hands the leadership on after its fsync. Locks are taken in
//! the order writer, syncing, replacing, sink, queue, levels.

mod blocks;
mod check;
mod checked;
mod checkpoint;
mod commit;
mod compact;
mod cursor;
mod epoch;
mod fault;
mod follow;
mod gate;
mod group;
mod held;
mod lane;
mod ledger;
mod levels;
mod manifest;
mod mapped;
mod mark;
mod open;
mod pipeline;
mod positions;
mod prepare;
mod protection;
mod records;
mod recovery;
mod repair;
mod reserve;
mod retire;
mod rewind;
mod segment;
mod settle;
mod sparse;
mod survey;
mod time;
mod waiter;
mod walk;
mod writer;

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use self::commit::Queue;
use self::gate::Gated;
use self::lane::Lane;
use self::levels::{Finished, Levels};
use self::manifest::Manifest;
use self::mark::MarkFile;
use self::positions::Cell;
use self::prepare::Ahead;
use self::retire::Retired;
use self::segment::{Piece, Segments};
use self::writer::Writer;
use crate::clock::Clock;
use crate::config::Config;
use crate::entropy::Entropy;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    Chain, ClusterId, EpochId, FrameHeader, History, Lsn, NodeId, Position, limits,
};
use crate::fs::Fs;
use crate::kill_points::{Point, pass};
use crate::metrics::Counters;

pub use check::{CheckReport, check, check_on};
pub(crate) use checked::{Check, Draft};
pub use checkpoint::{Checkpoint, RestoreOptions, restore_on};
pub(crate) use compact::{Candidate, Kept, PLACES_AT, Reader, SparseWriter};
pub use cursor::LogCursor;
pub use fault::{Fault, FaultKind, Remedy};
pub use gate::{Admit, CommitGate};
pub use group::Group;
pub(crate) use lane::Background;
pub use ledger::{UnprotectedBy, UnprotectedSpan, UnprotectedTime};
pub use levels::{CommitOptions, Level};
pub use manifest::{About, Protection, ProtectionMark, TermMark, about};
pub(crate) use open::Opening;
pub use open::Recovered;
pub use pipeline::Pipeline;
pub use positions::Positions;
pub(crate) use records::RecordPlaces;
#[cfg(test)]
use repair::repair_files;
pub use repair::{
    CopySource, FrameSource, Given, Lack, LackKind, RepairReport, Repaired, Want, repair,
    repair_from, repair_on,
};
pub(crate) use segment::damage_hint;
pub(crate) use sparse::Sparse;
pub use time::HeldLogTime;
pub use waiter::CommitFuture;

/// What a log may do at the moment.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LogState {
    /// Opened and read; nothing was written to it.
    Reading,
    /// Opened for reading alone: nothing is ever written through it.
    ReadOnly,
    /// Takes frames that another node formed.
    Following,
    /// Forms frames.
    Writing,
    /// A newer term exists: it never forms a frame under its own again.
    Fenced(TermMark),
    /// Its history and another contradict each other, in this way: it neither writes nor follows.
    Halted(String),
    /// A write or an fsync failed, for this reason: nothing is written until it is reopened.
    Poisoned(String),
    /// Closed.
    Closed,
}

/// What a standby has reported in its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReplicaPositions {
    /// End of what it has received.
    pub received: Position,
    /// End of what it has fsynced.
    pub durable: Position,
    /// End of what its readers see.
    pub applied: Position,
}

/// A log as it stands, all of it of one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogView {
    /// What the next frame continues.
    pub chain: Chain,
    /// The epochs.
    pub history: History,
    /// The positions.
    pub positions: Positions,
}

/// Takes the frames of the log in order: the one function by which a state grows, whether a writer
/// commits, a follower follows, or either opens.
pub(crate) trait FrameSink: Send + Sync {
    /// Called once for each frame, in order, before `visible` covers it.
    fn apply(&self, header: &FrameHeader, frame: &Bytes);

    /// Whether some put has yet to expire, so that log time must go on while nobody commits.
    fn has_expiring(&self) -> bool;
}

/// One node's log.
pub(crate) struct Log {
    opening: Opening,
    counters: Counters,
    fs: Arc<dyn Fs>,
    clock: Arc<dyn Clock>,
    config: Config,
    cluster: ClusterId,
    node: NodeId,
    segment_size: u64,
    /// What is durable of it.
    manifest: Mutex<Manifest>,
    /// Held while it is changed: by whoever writes the new one.
    manifest_changes: Mutex<()>,
    /// Held while a file of the log is put in the place of another.
    replacing: Mutex<()>,
    /// Files that are no longer part of the log.
    retired: Mutex<Vec<Retired>>,
    mark: Mutex<MarkFile>,
    history: RwLock<History>,
    state: RwLock<LogState>,
    segments: Segments,
    /// Where a state that holds all below its replay point goes on: there, or at the beginning
    /// where this log does not hold that point.
    replay_from: Chain,
    cell: Cell,
    queue: Mutex<Queue>,
    /// Shared with the group that is led step by step, which holds it from step to step.
    writer: Arc<Mutex<Writer>>,
    /// Held by whoever syncs a group and has left the writer to the next one.
    syncing: Mutex<()>,
    /// Whether segments are written past the page cache. Through it a write waits for the pages
    /// that are being synced, and holds up the sync.
    past_cache: AtomicBool,
    entropy: Mutex<Arc<dyn Entropy>>,
    preparation: Mutex<Ahead>,
    sink: Mutex<Option<Arc<dyn FrameSink>>>,
    levels: Levels,
    gated: Gated,
    lane: Lane,
    background: Mutex<Option<Weak<dyn Background>>>,
    /// Log time while it stands still, in milliseconds since 1970; 0 while it goes on.
    held_log_ms: AtomicU64,
    /// When something was last synced, in nanoseconds of the monotonic clock.
    synced_at_ns: AtomicU64,
    /// Whether the lane knows that a mark is due, and since when.
    mark_armed: AtomicBool,
    armed_at_ns: AtomicU64,
    recovered: Mutex<Recovered>,
    /// Whether the reserve is known to be whole.
    reserve_kept: AtomicBool,
    /// P: what the peer said that it holds of this log.
    peer_holds: Mutex<Option<Lsn>>,
    _lock: Box<dyn Send + Sync>,
}

impl Log {
    pub(crate) const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    pub(crate) const fn node(&self) -> NodeId {
        self.node
    }

    /// Where it lies, for messages.
    pub(crate) fn place(&self) -> String {
        self.fs.place()
    }

    pub(crate) fn node_name(&self) -> String {
        self.manifest.lock().node_name.clone()
    }

    pub(crate) const fn segment_size(&self) -> u64 {
        self.segment_size
    }

    pub(crate) fn has_peer(&self) -> bool {
        self.manifest.lock().has_peer
    }

    pub(crate) fn follower_at_init(&self) -> bool {
        self.manifest.lock().follower_at_init
    }

    pub(crate) fn history(&self) -> History {
        self.history.read().clone()
    }

    /// A look at the history without a copy of it.
    pub(crate) fn with_history<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.history.read())
    }

    pub(crate) fn state(&self) -> LogState {
        self.state.read().clone()
    }

    pub(crate) fn positions(&self) -> Positions {
        self.cell.read()
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.opening == Opening::ReadOnly
    }

    /// # Errors
    /// `NotWriter` when it was opened for reading alone.
    pub(crate) fn require_writable(&self) -> Result<()> {
        if self.is_read_only() {
            return Err(self.not_writing());
        }
        Ok(())
    }

    /// What is counted on the way.
    pub(crate) const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What it was opened with.
    pub(crate) fn opened_with(&self) -> (Arc<dyn Fs>, Arc<dyn Clock>, Config) {
        (self.fs.clone(), self.clock.clone(), self.config.clone())
    }

    /// What a reader that holds nobody off makes of `error`: a file that does not say what it said
    /// was taken away or replaced by whoever writes, unless it is damaged.
    pub(crate) fn of_a_view(&self, error: Error) -> Error {
        if !self.is_read_only() || error.kind() != ErrorKind::Corrupt {
            return error;
        }
        let message = "a file is not as it was when this read-only view was opened: refresh it and \
                       read again; if that fails too, the file is damaged";
        Error::new(ErrorKind::NotHeld, message).because(error)
    }

    /// End of what readers may see.
    pub(crate) fn visible(&self) -> Lsn {
        self.cell.visible()
    }

    /// Takes up what the peer holds of this log, before recovery is carried out: a tail that it has
    /// is lost here, and not torn.
    pub(crate) fn note_peer_holds(&self, lsn: Lsn) {
        *self.peer_holds.lock() = Some(lsn);
    }

    /// What the wall clock shows.
    pub(crate) fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    /// A log time that the log had reached at `lsn`: that at the beginning of its segment.
    pub(crate) fn log_ms_before(&self, lsn: Lsn) -> u64 {
        let piece = self.segments.piece(lsn);
        piece.map_or(0, |piece| piece.start().log_ms)
    }

    /// What recovery found, and what it did.
    pub(crate) fn recovered(&self) -> Recovered {
        self.recovered.lock().clone()
    }

    /// Chain, history and positions of one moment.
    pub(crate) fn view(&self) -> LogView {
        let writer = self.writer();
        LogView {
            chain: writer.chain,
            history: self.history(),
            positions: self.positions(),
        }
    }

    /// How far this node has noted durably that it fsynced what it received, and in which epoch:
    /// what it may have acknowledged, whether it still holds that or not.
    pub(crate) fn durable_mark(&self) -> Option<(EpochId, Lsn)> {
        if let Some(lost) = self.manifest.lock().tail_lost {
            return Some((lost.epoch, lost.lsn));
        }
        self.mark.lock().newest().map(|mark| (mark.epoch, mark.lsn))
    }

    /// The chain that the next frame continues.
    pub(crate) fn chain(&self) -> Chain {
        self.writer().chain
    }

    /// Longest batch in bytes, as encoded.
    pub(crate) const fn batch_len_max(&self) -> usize {
        limits::payload_len_max(self.segment_size)
    }

    /// Tells `listener` after each change of positions or state. It must be quick, and must not
    /// call the log.
    pub(crate) fn on_change(&self, listener: Arc<dyn Fn() + Send + Sync>) {
        self.cell.listen(listener);
    }

    /// Gives the frames that are formed from now on to `sink`.
    pub(crate) fn set_sink(&self, sink: Arc<dyn FrameSink>) {
        *self.sink.lock() = Some(sink);
    }

    /// Draws the ids of later epochs from `entropy`.
    pub(crate) fn draw_from(&self, entropy: Arc<dyn Entropy>) {
        *self.entropy.lock() = entropy;
    }

    /// A cursor where replay begins: at the replay point that this log was opened with, if it holds
    /// that, else at its beginning.
    pub(crate) fn replay_cursor(self: &Arc<Self>) -> LogCursor {
        self.cursor_at(self.replay_from)
    }

    /// A cursor that goes on from `chain`, which this log is known to hold.
    pub(crate) fn cursor_at(self: &Arc<Self>, chain: Chain) -> LogCursor {
        LogCursor::at(self.clone(), chain)
    }

    /// A cursor at `from`, where a frame must begin.
    pub(crate) fn cursor(self: &Arc<Self>, from: Lsn) -> Result<LogCursor> {
        LogCursor::new(self.clone(), from)
    }

    /// A cursor at the last frame that begins at or before `lsn`, which is not above the log's end.
    pub(crate) fn cursor_before(self: &Arc<Self>, lsn: Lsn) -> Result<LogCursor> {
        LogCursor::before(self.clone(), lsn)
    }

    /// The `len` bytes at `lsn`, which must lie in one frame; where only a part of the log is left,
    /// they must be a record's.
    pub(crate) fn read(&self, lsn: Lsn, len: usize) -> Result<Bytes> {
        loop {
            let Some(piece) = self.segments.piece(lsn) else {
                return Err(not_in_one_frame(lsn, len));
            };
            let fs = &*self.fs;
            let bytes = match &piece {
                Piece::Whole(segment) if lsn.advance(len as u64) > segment.range().end => {
                    return Err(not_in_one_frame(lsn, len));
                }
                Piece::Whole(segment) if self.copies() => segment.read_through(fs, lsn, len),
                Piece::Whole(segment) => segment.read(fs, lsn, len),
                Piece::Sparse(sparse) if self.copies() => sparse.read_through(fs, lsn, len),
                Piece::Sparse(sparse) => sparse.read(fs, lsn, len),
            };
            match bytes {
                Ok(bytes) if bytes.len() < len => return Err(not_in_one_frame(lsn, len)),
                // Its file may have made room for another one meanwhile.
                Err(_) if !self.holds(&piece) => {}
                read => return read.map_err(|error| self.of_a_view(error)),
            }
        }
    }

    /// Whether reading a record at `lsn` needs no call to the disk, but for what a map may cost.
    pub(crate) fn has_mapped(&self, lsn: Lsn) -> bool {
        let copies = self.copies();
        self.segments.piece(lsn).is_some_and(|piece| match &piece {
            Piece::Whole(segment) if copies => segment.holds(lsn),
            Piece::Sparse(_) if copies => false,
            mapped => mapped.has_mapped(lsn),
        })
    }

    /// Whether values in sealed segments are copied and not mapped.
    const fn copies(&self) -> bool {
        self.config.read_mode.copies()
    }

    /// Whether a piece of the log still is one.
    fn holds(&self, piece: &Piece) -> bool {
        let there = self.segments.piece(piece.start().lsn);
        there.is_some_and(|there| there.is(piece))
    }

    /// Up to where only a part of the log is left.
    pub(crate) fn whole_from(&self) -> Lsn {
        self.segments.whole_from()
    }

    /// Gives the frames of `[from, to)` to `sink`. Answers with the end of the last one.
    #[cfg(test)]
    pub(crate) fn replay(
        self: &Arc<Self>,
        from: Lsn,
        to: Lsn,
        sink: &dyn FrameSink,
    ) -> Result<Lsn> {
        const RUN_LEN: u64 = 4 << 20;
        let mut cursor = self.cursor(from)?;
        while let Some(run) = cursor.next_up_to(to, RUN_LEN)? {
            for (header, frame) in run.frames() {
                sink.apply(header, &frame);
            }
        }
        Ok(cursor.lsn())
    }

    /// Shows all up to `position`, which the state holds by now.
    pub(crate) fn show(&self, position: Position) {
        self.cell.change(|now| now.visible = position);
        self.cell.notify();
    }

    /// What the standby has reported in its session; may be lower than in an earlier one.
    pub(crate) fn set_replica_positions(&self, replica: ReplicaPositions) {
        self.cell.change(|now| {
            now.replica_received = replica.received;
            now.replicated = replica.durable;
            now.replica_applied = replica.applied;
        });
        pass(Point::ReplicaShown);
        self.ask_gate();
        self.cell.notify();
    }

    /// The monotonic clock.
    pub(crate) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Ends writing for good because the disk failed: what it holds is unknown until it is
    /// reopened.
    fn poison(&self, error: &Error) {
        let reason = match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        tracing::error!(%reason, "the log is poisoned: reopen the store");
        self.stop_writing(LogState::Poisoned(reason));
        self.cell.notify();
    }

    /// Why no frame can be formed or taken now.
    fn not_writing(&self) -> Error {
        match &*self.state.read() {
            LogState::Poisoned(reason) => Error::new(
                ErrorKind::Poisoned,
                format!("an earlier write failed ({reason}): close the store and open it again"),
            ),
            LogState::Fenced(by) => Error::new(
                ErrorKind::Fenced,
                format!(
                    "term {} was opened elsewhere (epoch {}): this node takes no writes, send them \
                     to the new primary",
                    by.term, by.opened_by
                ),
            ),
            LogState::Halted(why) => Error::new(
                ErrorKind::Conflict,
                format!(
                    "{why}: this node stands still, and nothing is merged or cut; keep both nodes' \
                     directories until it is decided which history stays"
                ),
            ),
            LogState::Closed => Error::new(ErrorKind::Closed, "the store is closed"),
            LogState::ReadOnly => Error::new(
                ErrorKind::NotWriter,
                "this store was opened for reading alone: write through the process that has it \
                 open",
            ),
            LogState::Reading => Error::new(
                ErrorKind::NotWriter,
                "no epoch has begun here: this node is not writing yet",
            ),
            LogState::Following => Error::new(
                ErrorKind::NotWriter,
                "this node follows a primary: send writes there, or promote it",
            ),
            LogState::Writing => panic!("a writing log was asked why it does not write"),
        }
    }
}

fn not_in_one_frame(lsn: Lsn, len: usize) -> Error {
    let message = format!("no frame holds the {len} bytes at {lsn}");
    Error::new(ErrorKind::NotHeld, message)
}

#[cfg(test)]
mod tests;
