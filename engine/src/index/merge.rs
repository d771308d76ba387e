//! Writing sources into runs: a flush of a memtable, or the merging of runs.

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use super::Version;
use super::census::Tally;
use super::ranges::Ranges;
use super::run::{RunMeta, RunWriter};
use super::source::Source;
use crate::error::Result;
use crate::format::limits::KEY_LEN_MAX;
use crate::format::{Lsn, Op};
use crate::fs::Fs;
use crate::planted::{Bug, on};

/// A run is closed behind the first key that makes it as long as this.
pub(crate) const RUN_LEN: u64 = 8 << 20;

/// What a merge may leave out.
///
/// Positions are those of readers: one at `at` sees, of each key, the newest version whose record
/// begins below `at`. So a version `v` whose next newer version is `w` is seen at exactly the
/// positions `v < at ≤ w`, and may go when no reader is at one of them, nor ever will be: when
/// `w < horizon`, since readers come at the horizon or above it, and no snapshot is among them. A
/// range delete over the key is a newer version like any other.
#[derive(Clone, Debug)]
pub(crate) struct Keep {
    /// No reader is below this position but the snapshots that are listed, nor ever will be.
    pub(crate) horizon: Lsn,
    /// Positions of all readers below the horizon: snapshots, audits, transactions. Ascending.
    pub(crate) snapshots: Vec<Lsn>,
    /// A delete below this position may go with all that it hides, in the lowest level that has its
    /// key: for a reader the key is deleted either way, and no segment of the log holds an older
    /// value that a replay from the log's beginning would bring back. While the delete is in the
    /// index, whoever compacts the log sees what took the place of such a value.
    pub(crate) settled: Lsn,
    /// A put that has expired by this log time becomes a delete, where no reader below the horizon
    /// may see it: log time at the horizon, and a day before.
    pub(crate) expired_ms: u64,
}

/// A merge that goes on a step at a time. Holds no thread, no clock and no lock; what it has made
/// is nobody's until its caller lists it. One that is given up leaves files to be removed:
/// [`Merge::made`].
pub(crate) struct Merge<S> {
    source: S,
    /// All that lie over the keys of the source.
    ranges: Arc<Ranges>,
    keep: Keep,
    run_len: u64,
    names: Box<dyn FnMut() -> String + Send>,
    writer: Option<RunWriter>,
    made: Vec<String>,
    runs: Vec<(String, RunMeta)>,
    before: Before,
    dropped: Dropped,
}

/// How far a merge is.
#[derive(Debug)]
pub(crate) enum Progress {
    /// There is more to do.
    More,
    /// All is written and fsynced; the directory is not.
    Done(Output),
}

/// What a merge has made.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    /// Names and descriptions of the new runs, in the order of their keys. None of them holds a key
    /// of another.
    pub(crate) runs: Vec<(String, RunMeta)>,
    pub(crate) dropped: Dropped,
}

/// What a merge left out.
#[derive(Clone, Default, Debug)]
pub(crate) struct Dropped {
    /// Versions.
    pub(crate) versions: u64,
    /// Bytes of their records.
    pub(crate) record_bytes: u64,
    /// Those of them that nothing newer took the place of, by where their records lie.
    pub(crate) settled: Tally,
}

/// The version last come by, written or not, and what it leaves undecided.
#[derive(Debug, Default)]
struct Before {
    keyspace: u32,
    key: Vec<u8>,
    /// `None` before the first one.
    lsn: Option<Lsn>,
    /// A delete that is written only if an older version is.
    pending: Option<Version>,
}

impl<S: Source> Merge<S> {
    /// Begins to write all versions of `source`, but those that need not be kept, into runs of
    /// about `run_len` bytes with new names from `names`. What is dropped is counted by where the
    /// pieces of the log begin: `bases`.
    ///
    /// # Errors
    /// As the source's moves.
    pub(crate) fn new(
        mut source: S,
        ranges: Arc<Ranges>,
        keep: Keep,
        run_len: u64,
        bases: Arc<[Lsn]>,
        names: impl FnMut() -> String + Send + 'static,
    ) -> Result<Self> {
        assert!(keep.snapshots.is_sorted(), "snapshots {:?}", keep.snapshots);
        source.first()?;
        Ok(Self {
            source,
            ranges,
            keep,
            run_len,
            names: Box::new(names),
            writer: None,
            made: Vec::new(),
            runs: Vec::new(),
            before: Before::default(),
            dropped: Dropped {
                settled: Tally::new(bases),
                ..Dropped::default()
            },
        })
    }

    /// Takes up about `budget_bytes` of index from the source. A step that closes a run fsyncs it.
    ///
    /// # Errors
    /// As the source's moves and [`RunWriter`]'s. The merge cannot go on then.
    pub(crate) fn step(&mut self, fs: &dyn Fs, budget_bytes: u64) -> Result<Progress> {
        let mut taken = 0;
        while taken < budget_bytes {
            let Some(entry) = self.source.entry() else {
                self.close_run()?;
                return Ok(Progress::Done(Output {
                    runs: std::mem::take(&mut self.runs),
                    dropped: std::mem::take(&mut self.dropped),
                }));
            };
            taken += (entry.key.len() + size_of::<Version>()) as u64;
            self.take(fs)?;
            self.source.next()?;
        }
        Ok(Progress::More)
    }

    /// Names of all files that were made so far.
    pub(crate) fn made(&self) -> &[String] {
        &self.made
    }

    /// Writes the source's version, or drops it.
    fn take(&mut self, fs: &dyn Fs) -> Result<()> {
        let Some(entry) = self.source.entry() else {
            return Ok(());
        };
        let (keyspace, mut version) = (entry.keyspace, entry.version);
        // What is over the key as a range, if anything is at all.
        let covered = match self.ranges.is_empty() {
            true => None,
            false => self.ranges.oldest_above(keyspace, entry.key, version.lsn),
        };
        let newer = self
            .before
            .lsn
            .filter(|_| entry.is_of(self.before.keyspace, &self.before.key));
        if newer == Some(version.lsn) {
            // Two sources hold it, as after a replay from before what was flushed.
            return Ok(());
        }
        if newer.is_none() {
            if let Some(delete) = self.before.pending.take() {
                self.dropped.settle(delete);
            }
            self.before.keyspace = keyspace;
            self.before.key.clear();
            self.before.key.extend_from_slice(entry.key);
            if self
                .writer
                .as_ref()
                .is_some_and(|writer| writer.len_bytes() >= self.run_len)
            {
                self.close_run()?;
            }
        }
        self.before.lsn = Some(version.lsn);
        if self.keep.is_expired(&version) {
            if on(Bug::ExpiredDropped) {
                self.dropped.add(version);
                return Ok(());
            }
            (version.op, version.expires_ms) = (Op::Delete, 0);
        }
        let next = [newer, covered].into_iter().flatten().min();
        if next.is_some_and(|next| !self.keep.is_seen(version.lsn, next)) {
            match newer {
                Some(_) => self.dropped.add(version),
                None => self.dropped.settle(version),
            }
            return Ok(());
        }
        if on(Bug::DeleteGone) && version.op == Op::Delete {
            return Ok(());
        }
        let below_all = newer.is_none() && version.lsn < self.keep.horizon;
        if version.op == Op::Delete && version.lsn < self.keep.settled && below_all {
            self.before.pending = Some(version);
            return Ok(());
        }
        if let Some(delete) = self.before.pending.take() {
            self.write(fs, delete)?;
        }
        self.write(fs, version)
    }

    /// Writes a version of the key last come by.
    fn write(&mut self, fs: &dyn Fs, version: Version) -> Result<()> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => {
                let name = (self.names)();
                let writer = RunWriter::create(fs, &name)?;
                self.made.push(name);
                none.insert(writer)
            }
        };
        writer.push(self.before.keyspace, &self.before.key, version)
    }

    fn close_run(&mut self) -> Result<()> {
        if let Some(delete) = self.before.pending.take() {
            self.dropped.settle(delete);
        }
        if let (Some(writer), Some(name)) = (self.writer.take(), self.made.last()) {
            self.runs.push((name.clone(), writer.finish()?));
        }
        Ok(())
    }
}

impl<S> fmt::Debug for Merge<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Merge")
            .field("keep", &self.keep)
            .field("made", &self.made)
            .finish_non_exhaustive()
    }
}

impl Keep {
    /// Whether a reader is, or may yet be, where the version at `lsn` is the newest, the next one
    /// beginning at `newer`.
    pub(crate) fn is_seen(&self, lsn: Lsn, newer: Lsn) -> bool {
        let above = self.snapshots.partition_point(|at| *at <= lsn);
        let by_snapshot = self.snapshots.get(above).is_some_and(|at| *at <= newer);
        (newer >= self.horizon && !on(Bug::HorizonTooHigh))
            || (by_snapshot && !on(Bug::SnapshotsForgotten))
    }

    /// Whether it is a put that has expired for all who read it, now and later, and long enough
    /// ago.
    fn is_expired(&self, version: &Version) -> bool {
        let above = self.snapshots.partition_point(|at| *at <= version.lsn);
        // A snapshot below the horizon may be from before it expired.
        let old = self
            .snapshots
            .get(above)
            .is_some_and(|at| *at < self.horizon);
        version.expires_ms != 0
            && version.expires_ms <= self.expired_ms
            && version.lsn < self.horizon
            && !old
    }
}

impl Dropped {
    fn add(&mut self, version: Version) {
        self.versions += 1;
        self.record_bytes += u64::from(version.len);
    }

    /// One that no newer version of its key took the place of: a delete that hides nothing any
    /// more, or what a range delete took away.
    fn settle(&mut self, version: Version) {
        self.add(version);
        self.settled.add(version);
    }
}

const _: () = assert!(RUN_LEN > 64 * KEY_LEN_MAX as u64);
