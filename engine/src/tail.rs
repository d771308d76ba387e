//! The change feed: every commit from a position on, in order, exactly once.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    BatchRef, Batches, EpochId, FrameHeader, FrameKind, FrameRun, Lsn, Op, RecordFault,
};
use crate::keyspace::{Catalogue, Keyspace};
use crate::log::{Log, LogCursor};
use crate::store::Store;

/// Bytes of the log that are read at once.
const RUN_LEN: u64 = 256 << 10;

/// One commit.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Committed {
    /// Its number, from 1. In a tail of all keyspaces they have no gaps.
    pub commit: u64,
    /// Where it ends: the LSN of its receipt, and the position from which the next one is read.
    pub lsn: Lsn,
    /// The epoch that wrote it.
    pub epoch: EpochId,
    /// Log time in milliseconds since 1970: equal on all nodes, never decreases.
    pub log_ms: u64,
    /// The writer's wall clock in milliseconds since 1970, for people; may jump.
    pub wall_ms: u64,
    /// What it did in the keyspaces that were asked for, in its order.
    pub changes: Vec<Change>,
}

/// One operation of a commit.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Change {
    /// The keyspace.
    pub keyspace: Keyspace,
    /// What was done: to the key, to a range of keys, to the keyspace.
    pub op: Op,
    /// The key, sharing the log's memory. Of a deleted range ([`Op::DeleteRange`]) the first key
    /// that goes; empty where a keyspace was dropped ([`Op::DropKeyspace`]).
    pub key: Bytes,
    /// The value, sharing the log's memory; empty for a delete. Of a deleted range the first key
    /// that stays, or empty where all keys to the end of the keyspace go.
    pub value: Bytes,
    /// The log time, in milliseconds since 1970, from which on a put has no value any more.
    pub expires_ms: Option<u64>,
}

/// Reads the commits of a store in order, as they become visible. Never skips one.
///
/// What is read is verified on the way. To go on later, elsewhere or after a restart, keep
/// [`Tail::position`] with what was made of the commits.
pub struct Tail {
    store: Store,
    cursor: LogCursor,
    /// Where the cursor stands, for who would compact the log there.
    reads_from: Arc<AtomicU64>,
    position: Lsn,
    /// The epoch of the last frame that was read.
    epoch: EpochId,
    /// Read and not given yet.
    ready: VecDeque<Committed>,
    /// End of the frames that were read: where `position` goes once `ready` is empty.
    read_to: Lsn,
    /// The keyspaces whose changes are given; all if not said.
    only: Option<BTreeSet<u32>>,
    /// Why nothing more can be given: behind what cannot be read, nothing is.
    fault: Option<Error>,
}

impl Tail {
    pub(crate) fn new(store: Store, from: Lsn, only: Option<BTreeSet<u32>>) -> Result<Self> {
        let visible = store.shared.log.visible();
        if from > visible {
            let message = format!(
                "position {from} is not visible here yet: this node shows [0, {visible}]; wait \
                 until it is applied"
            );
            return Err(Error::new(ErrorKind::NotHeld, message));
        }
        let reads_from = store.shared.tails.enter();
        let cursor = boundary_at(&store.shared.log, from)?.cursor;
        reads_from.store(cursor.lsn().0, Ordering::Release);
        let epoch = cursor.chain().epoch.map_or(EpochId::NONE, |epoch| epoch.id);
        Ok(Self {
            store,
            cursor,
            reads_from,
            position: from,
            epoch,
            ready: VecDeque::new(),
            read_to: from,
            only,
            fault: None,
        })
    }

    /// Behind the last commit that was given, or further where only other records follow: the place
    /// to go on from.
    #[must_use]
    pub const fn position(&self) -> Lsn {
        self.position
    }

    /// The next commit, if it is visible by now. Never blocks, but for a read of the disk.
    ///
    /// # Errors
    /// `LogTruncated` when this one was so far behind that the log was compacted there
    /// ([`Config::retain_log_bytes`](crate::Config::retain_log_bytes)), `Corrupt` when the log does
    /// not hold there, `Io`. Nothing is skipped: the next call meets the same error, or goes on
    /// where it was once the cause is gone.
    pub fn poll(&mut self) -> Result<Option<Committed>> {
        while self.ready.is_empty() {
            if let Some(fault) = &self.fault {
                return Err(fault.duplicate());
            }
            self.position = self.read_to;
            let visible = self.store.shared.log.visible();
            let Some(run) = self.cursor.next_up_to(visible, RUN_LEN)? else {
                return Ok(None);
            };
            self.reads_from
                .store(self.cursor.lsn().0, Ordering::Release);
            // What was read before the fault is still given.
            self.fault = self.take(&run).err();
        }
        let next = self.ready.pop_front();
        if let Some(commit) = &next {
            self.position = commit.lsn;
        }
        Ok(next)
    }

    /// The next commit; waits for it at most `timeout`, and answers `None` when that is over.
    ///
    /// # Errors
    /// As [`Tail::poll`]; `Closed` or `Poisoned` when no further one can come.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Committed>> {
        let changes = self.store.shared.changes.clone();
        changes.wait(timeout, || self.look()).transpose()
    }

    /// The next commit, for as long as it takes; a future for any runtime. Dropping it loses
    /// nothing.
    ///
    /// # Errors
    /// As [`Tail::next_timeout`].
    pub async fn next(&mut self) -> Result<Committed> {
        let changes = self.store.shared.changes.clone();
        changes.until(|| self.look()).await
    }

    /// Waits until [`Tail::poll`] has something new to read, for as long as it takes, and reads
    /// nothing itself: for a runtime that leaves the disk to other threads. Dropping it loses
    /// nothing.
    ///
    /// # Errors
    /// `Closed` or `Poisoned` when nothing further can come.
    pub async fn ready(&self) -> Result<()> {
        let changes = self.store.shared.changes.clone();
        changes.until(|| self.look_ahead()).await
    }

    fn look_ahead(&self) -> Option<Result<()>> {
        let shared = &self.store.shared;
        let ended = shared.ended();
        let unread = shared.log.visible() > self.read_to;
        if unread || !self.ready.is_empty() || self.fault.is_some() {
            return Some(Ok(()));
        }
        ended.map(Err)
    }

    fn look(&mut self) -> Option<Result<Committed>> {
        // Whether anything more can come is asked first: what came before is then not missed.
        let ended = self.store.shared.ended();
        match self.poll() {
            Ok(Some(commit)) => Some(Ok(commit)),
            Ok(None) => ended.map(Err),
            Err(error) => Some(Err(error)),
        }
    }

    fn take(&mut self, run: &FrameRun) -> Result<()> {
        let catalogue = &self.store.shared.state.catalogue;
        let mut epochs = run.epochs().iter();
        for (header, frame) in run.frames() {
            if header.kind == FrameKind::Epoch
                && let Some(epoch) = epochs.next()
            {
                self.epoch = epoch.id;
            }
            if header.kind == FrameKind::Batches {
                let commits = commits_of(header, &frame, self.epoch, self.read_to, catalogue)?;
                let only = self.only.as_ref();
                let wanted = commits
                    .into_iter()
                    .filter_map(|commit| wanted(commit, only));
                self.ready.extend(wanted);
            }
            self.read_to = header.end().max(self.read_to);
        }
        Ok(())
    }
}

/// Where change feeds read, so that the log is left whole there.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    positions: Mutex<Vec<Weak<AtomicU64>>>,
}

impl Readers {
    /// Enters a reader that may yet read everything.
    fn enter(&self) -> Arc<AtomicU64> {
        let position = Arc::<AtomicU64>::default();
        let mut positions = self.positions.lock();
        positions.retain(|position| position.strong_count() > 0);
        positions.push(Arc::downgrade(&position));
        position
    }

    /// Where the one that is furthest behind reads.
    pub(crate) fn oldest(&self) -> Option<Lsn> {
        let positions = self.positions.lock();
        let positions = positions.iter().filter_map(Weak::upgrade);
        positions
            .map(|position| Lsn(position.load(Ordering::Acquire)))
            .min()
    }
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tail at {:?}", self.position)
    }
}

/// What of a commit is to be given, if only some keyspaces were asked for.
fn wanted(mut commit: Committed, only: Option<&BTreeSet<u32>>) -> Option<Committed> {
    let Some(only) = only else {
        return Some(commit);
    };
    let changes = &mut commit.changes;
    changes.retain(|change| only.contains(&change.keyspace.id()));
    (!changes.is_empty()).then_some(commit)
}

/// The commits of a frame that end behind `from`.
fn commits_of(
    header: &FrameHeader,
    frame: &Bytes,
    epoch: EpochId,
    from: Lsn,
    catalogue: &Catalogue,
) -> Result<Vec<Committed>> {
    let batches = Batches::new(header.payload(frame), header.payload_lsn(), header.batches);
    let mut commits = Vec::new();
    for (commit, batch) in (header.first_commit..).zip(batches) {
        let batch = batch.map_err(|fault| corrupt(header.lsn, &fault))?;
        if batch.range.end > from {
            commits.push(Committed {
                commit,
                lsn: batch.range.end,
                epoch,
                log_ms: header.log_ms,
                wall_ms: header.wall_ms,
                changes: changes_of(&batch, frame, catalogue)?,
            });
        }
    }
    Ok(commits)
}

fn changes_of(batch: &BatchRef<'_>, frame: &Bytes, catalogue: &Catalogue) -> Result<Vec<Change>> {
    // Neighbours mostly lie in one keyspace.
    let mut last: Option<Keyspace> = None;
    batch
        .records()
        .map(|placed| {
            let placed = placed.map_err(|fault: RecordFault| corrupt(batch.range.start, &fault))?;
            let record = placed.record;
            let keyspace = last
                .take()
                .filter(|last| last.id() == record.keyspace)
                .or_else(|| catalogue.by_id(record.keyspace))
                .ok_or_else(|| corrupt(placed.lsn, &"no such keyspace was ever made"))?;
            last = Some(keyspace.clone());
            Ok(Change {
                keyspace,
                op: record.op,
                key: frame.slice_ref(record.key),
                value: frame.slice_ref(record.value),
                expires_ms: record.expires_ms,
            })
        })
        .collect()
}

/// A position at which there was a state.
pub(crate) struct Boundary {
    /// At the frame that holds or follows it.
    pub(crate) cursor: LogCursor,
    /// Log time there, in milliseconds.
    pub(crate) log_ms: u64,
}

/// Where `lsn` lies, which must be the end of a batch or of a frame.
///
/// # Errors
/// `NotHeld` when it is neither, `Corrupt`, `Io`.
pub(crate) fn boundary_at(log: &Arc<Log>, lsn: Lsn) -> Result<Boundary> {
    let cursor = log.cursor_before(lsn)?;
    let start = cursor.lsn();
    if start == lsn {
        let log_ms = cursor.chain().log_ms;
        return Ok(Boundary { cursor, log_ms });
    }
    let mut ahead = log.cursor(start)?;
    let run = ahead.next_up_to(Lsn(u64::MAX), 0)?;
    let frame_of_batch = run
        .iter()
        .flat_map(FrameRun::frames)
        .find(|(header, frame)| {
            let payload = header.payload(frame);
            Batches::new(payload, header.payload_lsn(), header.batches)
                .flatten()
                .any(|batch| batch.range.end == lsn)
        });
    if let Some((header, _)) = frame_of_batch {
        let log_ms = header.log_ms;
        return Ok(Boundary { cursor, log_ms });
    }
    let message = format!(
        "position {lsn} lies within a batch or a record of the frame at {start}: there was no such \
         state; use the LSN of a receipt, of a snapshot or of a tail"
    );
    Err(Error::new(ErrorKind::NotHeld, message))
}

fn corrupt(lsn: Lsn, fault: &dyn fmt::Display) -> Error {
    let message = format!(
        "the log at {lsn} does not hold ({fault}) though its checksum does: a writer's bug; keep \
         the directory and report it"
    );
    Error::new(ErrorKind::Corrupt, message)
}
