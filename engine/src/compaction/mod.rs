//! Compaction: a stretch of the log is written again without the records that nobody can ask for
//! any more, in the order of its keys. Every record keeps its LSN, so no index changes, nothing
//! goes through the log, and nothing is sent to anybody.
//!
//! ```text
//! victims ─→ read, check, note records ─→ in the order of keys ─→ judge by the index ─┬→ dropped
//!                                                                                     └→ sparse
//! ```

mod judge;
mod order;
pub(crate) mod victims;

use std::sync::Arc;

use bytes::Bytes;

use self::judge::{Verdict, Witness, judge};
use self::order::{Collected, Ordered};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Lsn, Op, RecordRef, decode_record};
use crate::index::{Keep, Ranges, Runs, Source, VersionCursor};
use crate::log::{Candidate, Kept, Log, Reader, SparseWriter};
use crate::planted::{Bug, on};

/// Records that are judged in one step, at most.
const STEP_RECORDS: usize = 4096;
/// Versions of the index that are passed one by one before they are jumped over.
const STEPS_MAX: usize = 16;

/// The rewriting of some pieces of the log, a step at a time.
pub(crate) struct Compaction {
    victims: Vec<Candidate>,
    keep: Keep,
    settled: Lsn,
    versions: VersionCursor,
    ranges: Arc<Ranges>,
    phase: Phase,
    writer: SparseWriter,
    /// Of each key, what a record below this supersedes is gone.
    known: Lsn,
    judged: Judged,
}

enum Phase {
    Collecting {
        /// How many victims are read.
        read: usize,
        reader: Option<Reader>,
        collected: Collected,
    },
    Writing(Ordered),
}

/// The key that is judged: its versions by the index, newest first.
#[derive(Default)]
struct Judged {
    keyspace: u32,
    key: Option<Bytes>,
    versions: Vec<Lsn>,
}

impl Compaction {
    /// Begins to rewrite `victims`, which lie one behind the other. `keep` and `runs` are of one
    /// moment.
    ///
    /// # Errors
    /// `DiskFull`, `Io`, `NotHeld` when the log was cut meanwhile.
    pub(crate) fn new(log: &Log, victims: Vec<Candidate>, keep: Keep, runs: &Runs) -> Result<Self> {
        let (Some(first), Some(last)) = (victims.first(), victims.last()) else {
            panic!("nothing is to be compacted");
        };
        // Where somebody looks at an older state, what that one sees stays.
        let seen = keep.snapshots.first().is_some_and(|at| *at < keep.horizon);
        let known = if seen { first.base() } else { keep.horizon };
        let settled = if on(Bug::DeleteLeavesEarly) {
            keep.horizon
        } else {
            log.settled(first.base(), last.end(), known)
        };
        let writer = log.begin_sparse(&victims, keep.horizon)?;
        Ok(Self {
            known: keep.horizon,
            victims,
            keep,
            settled,
            versions: runs.cursor(),
            ranges: runs.ranges().clone(),
            phase: Phase::Collecting {
                read: 0,
                reader: None,
                collected: Collected::default(),
            },
            writer,
            judged: Judged::default(),
        })
    }

    /// Where what is rewritten begins and ends, and how many bytes of records are left of it.
    pub(crate) fn outcome(&self) -> (Lsn, Lsn, u64) {
        let base = self.victims.first().map_or(Lsn::ZERO, Candidate::base);
        let end = self.victims.last().map_or(Lsn::ZERO, Candidate::end);
        (base, end, self.writer.records_len())
    }

    /// Does some more; `false` once all is written and [`Compaction::finish`] may be called.
    ///
    /// # Errors
    /// `Corrupt` when a victim or the index does not hold: nothing is rewritten then, and what is
    /// damaged stays for a repair. `DiskFull`, `Io`. It cannot go on after an error.
    pub(crate) fn step(&mut self, log: &Log) -> Result<bool> {
        match &mut self.phase {
            Phase::Collecting {
                read,
                reader,
                collected,
            } => {
                let Some(victim) = self.victims.get(*read) else {
                    let all = std::mem::take(collected);
                    self.phase = Phase::Writing(all.ordered());
                    return Ok(true);
                };
                if reader.is_none() {
                    let begun = victim.reader(log)?;
                    collected.begin_source(begun.file());
                    *reader = Some(begun);
                }
                let writer = &mut self.writer;
                let mut visit = |kept: Kept<'_>| {
                    match kept {
                        Kept::Record(lsn, at, record) => {
                            collected.note(record.keyspace, record.key, lsn, at);
                        }
                        Kept::Control(lsn, kind, payload) => writer.control(lsn, kind, payload),
                    }
                    Ok(())
                };
                let more = match reader {
                    Some(reader) => reader.step(log, &mut visit)?,
                    None => false,
                };
                if !more {
                    *read += 1;
                    *reader = None;
                }
                Ok(true)
            }
            Phase::Writing(ordered) => {
                for _ in 0..STEP_RECORDS {
                    let Some(place) = ordered.next() else {
                        return Ok(false);
                    };
                    let record = decode_record(ordered.bytes(&place)).map_err(|fault| {
                        let message = format!("the record at {}: {fault}", place.lsn);
                        Error::new(ErrorKind::Corrupt, message)
                    })?;
                    let (keyspace, op, lsn) = (record.keyspace, record.op, place.lsn);
                    self.judged
                        .turn_to(&mut self.versions, keyspace, record.key)?;
                    let witness = self.judged.witness(lsn, &record, &self.ranges);
                    // One that expired may have become a delete, and have gone like one.
                    let judged_as = match record.expires_ms {
                        Some(_) if !witness.held => Op::Delete,
                        _ => op,
                    };
                    match judge(lsn, judged_as, witness, &self.keep, self.settled) {
                        Verdict::Keep {
                            superseded_by: None,
                        } if on(Bug::CompactionLosesNewest) && lsn.0 % 64 == 0 => {}
                        Verdict::Keep { superseded_by } => {
                            self.known = superseded_by.unwrap_or(self.known).min(self.known);
                            let bytes = ordered.bytes(&place).get(..record.len);
                            self.writer.record(lsn, op, bytes.unwrap_or_default());
                        }
                        Verdict::Drop => {}
                        Verdict::Unknown => {
                            let message = format!(
                                "the index does not know the record at {lsn}, which nothing \
                                 replaced: the log stays as it is; `outlast rebuild-index` makes \
                                 the index again"
                            );
                            return Err(Error::new(ErrorKind::Corrupt, message));
                        }
                    }
                    if self.writer.is_due() {
                        self.writer.write()?;
                        return Ok(true);
                    }
                }
                Ok(true)
            }
        }
    }

    /// Puts what was written in the place of the victims.
    ///
    /// # Errors
    /// As [`Log::adopt_sparse`].
    pub(crate) fn finish(self, log: &Log) -> Result<()> {
        log.adopt_sparse(self.writer, self.known)
    }

    /// Leaves the log as it is.
    pub(crate) fn give_up(self, log: &Log) {
        log.abandon_sparse(&self.writer);
    }
}

impl Judged {
    /// Takes up what the index knows of a key. Keys come in their order.
    fn turn_to(&mut self, cursor: &mut VersionCursor, keyspace: u32, key: &[u8]) -> Result<()> {
        let same = self.key.as_deref() == Some(key) && self.keyspace == keyspace;
        if same {
            return Ok(());
        }
        let first = self.key.is_none();
        self.keyspace = keyspace;
        self.key = Some(Bytes::copy_from_slice(key));
        self.versions.clear();
        let mut steps = 0;
        loop {
            let before = cursor
                .entry()
                .is_some_and(|entry| (entry.keyspace, entry.key) < (keyspace, key));
            if first || before && steps == STEPS_MAX {
                cursor.seek(keyspace, key, Lsn(u64::MAX))?;
                break;
            }
            if !before {
                break;
            }
            cursor.next()?;
            steps += 1;
        }
        while let Some(entry) = cursor.entry()
            && entry.is_of(keyspace, key)
        {
            self.versions.push(entry.version.lsn);
            cursor.next()?;
        }
        self.versions.dedup();
        Ok(())
    }

    fn witness(&self, lsn: Lsn, record: &RecordRef<'_>, ranges: &Ranges) -> Witness {
        if record.op == Op::DeleteRange {
            let end = Some(record.value).filter(|end| !end.is_empty());
            return Witness {
                held: ranges.names(record.keyspace, record.key, end, lsn),
                newer: None,
            };
        }
        let newer = self.versions.partition_point(|version| *version > lsn);
        let version = newer.checked_sub(1).and_then(|at| self.versions.get(at));
        let over = ranges.oldest_above(record.keyspace, record.key, lsn);
        Witness {
            held: self.versions.get(newer) == Some(&lsn),
            newer: version.copied().into_iter().chain(over).min(),
        }
    }
}
