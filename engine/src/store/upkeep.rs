//! Keeping the store in shape: memtables are written out, which moves the replay point on, runs are
//! merged, and the log is compacted.
//!
//! A step at a time, on the lane that does all background work. Everything here is derived from
//! the log: what fails is tried again, and nothing is lost.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::state::State;
use crate::compaction::Compaction;
use crate::compaction::victims::{Aim, Limits, Weight, is_behind, pick};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Lsn;
use crate::index::{Flush, Frozen, IndexFiles, Keep, Merging, Which};
use crate::log::{Background, Candidate, Log, LogState};
use crate::planted::{Bug, on};
use crate::snapshot::Register;
use crate::tail::Readers;

/// Versions that one step of a flush writes: few milliseconds of work.
const FLUSH_STEP_LEN: usize = 8192;
/// Bytes of index that one step of a merge takes up, likewise.
const MERGE_STEP_BYTES: u64 = 256 << 10;
/// How long the lane rests between two steps of a merge, so that it leaves room to others, and
/// before it looks again whether a memtable may be written out.
const REST: Duration = Duration::from_millis(2);
/// Memtables that wait before whoever filled the last one helps to write them out.
const WAITING_MAX: usize = 4;
/// How long a put has to have expired, in log time, to become a delete: a day.
const EXPIRED_FOR_MS: u64 = 24 * 60 * 60 * 1000;

/// Bytes of pieces that are compacted as one, in segments.
const INPUT_SEGMENTS: u64 = 4;
/// More of them are not, however large segments are: places in a sparse segment take 32 bits.
const INPUT_MAX: u64 = 2 << 30;

/// What keeps a store in shape.
pub(super) struct Upkeep {
    state: Arc<State>,
    snapshots: Arc<Register>,
    tails: Arc<Readers>,
    log: Weak<Log>,
    history_log_bytes: u64,
    retain_log_bytes: Option<u64>,
    work: Mutex<Work>,
}

struct Work {
    files: IndexFiles,
    flush: Option<Flush>,
    merging: Option<Merging>,
    compaction: Option<Compaction>,
    /// Whether it is compaction's turn before that of a merge.
    compacts_next: bool,
    /// Whether more of the log is waste than compactions at their leisure can take away.
    is_behind: bool,
    /// Whether the last compaction found the disk full.
    disk_was_full: bool,
    compacted: Compacted,
}

/// One step of one kind of work; `false` when there is none.
type Turn = fn(&mut Work, &Upkeep, &Log) -> Result<bool>;

/// What compactions have done since the store was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Compacted {
    pub(super) runs: u64,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
}

impl Upkeep {
    pub(super) fn new(
        log: &Arc<Log>,
        state: Arc<State>,
        snapshots: Arc<Register>,
        tails: Arc<Readers>,
        files: IndexFiles,
        (history_log_bytes, retain_log_bytes): (u64, Option<u64>),
    ) -> Arc<Self> {
        let work = Work {
            files,
            flush: None,
            merging: None,
            compaction: None,
            compacts_next: false,
            is_behind: false,
            disk_was_full: false,
            compacted: Compacted::default(),
        };
        Arc::new(Self {
            state,
            snapshots,
            tails,
            log: Arc::downgrade(log),
            history_log_bytes,
            retain_log_bytes,
            work: Mutex::new(work),
        })
    }

    /// Called by whoever filled a memtable: lets the lane know, and helps where it is behind.
    pub(super) fn filled(&self) {
        let Some(log) = self.log.upgrade() else {
            return;
        };
        log.wake_lane();
        if self.state.index().frozen().count() <= WAITING_MAX {
            return;
        }
        let began = log.now();
        while self.state.index().frozen().count() > WAITING_MAX {
            match self.work.lock().flush(self, &log) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    warn(&error);
                    break;
                }
            }
        }
        let took = log.now().saturating_sub(began).as_micros();
        let counters = log.counters();
        counters.stalls.add(1);
        counters
            .stalled_us
            .add(u64::try_from(took).unwrap_or(u64::MAX));
    }

    /// Writes out all that may be: what readers see.
    pub(super) fn flush_all(&self) -> Result<()> {
        self.state.freeze();
        let Some(log) = self.log.upgrade() else {
            return Ok(());
        };
        while self.work.lock().flush(self, &log)? {}
        Ok(())
    }

    /// Writes out all that may be, and merges it into one level.
    pub(super) fn compact_index(&self) -> Result<()> {
        self.flush_all()?;
        let Some(log) = self.log.upgrade() else {
            return Ok(());
        };
        while self.work.lock().merge(self, Which::All, &log)? {}
        Ok(())
    }

    /// The same, and compacts the log as far as it may be.
    pub(super) fn compact(&self, aim: Aim) -> Result<()> {
        self.compact_index()?;
        let Some(log) = self.log.upgrade() else {
            return Ok(());
        };
        while self.work.lock().compact(self, aim, &log)? {}
        log.retire_all()
    }

    /// Bytes of records that the log must hold, and what compactions have done.
    pub(super) fn figures(&self) -> (u64, Compacted) {
        let work = self.work.lock();
        (work.files.census.total(), work.compacted)
    }

    /// Ends for good: writes out all that may be, and leaves no file that is not used.
    pub(super) fn close(&self) -> Result<()> {
        let index = self.state.index();
        let all_written = index.memtable_len() == 0 && index.frozen().next().is_none();
        drop(index);
        let flushed = if all_written {
            Ok(())
        } else {
            self.flush_all()
        };
        let log = self.log.upgrade();
        let mut work = self.work.lock();
        work.give_up(log.as_deref());
        let swept = work.files.drop_all_unused();
        drop(work);
        let retired = log.map_or(Ok(()), |log| log.retire_all());
        flushed.and(swept).and(retired)
    }

    /// Gives up what is under way, and begins nothing until the answer is dropped.
    pub(super) fn pause(&self) -> impl Sized + '_ {
        let mut work = self.work.lock();
        work.give_up(self.log.upgrade().as_deref());
        work
    }

    /// The oldest memtable that waits, if it may be written out: only what readers see is, which
    /// nothing takes back.
    fn due(&self, visible: Lsn) -> Option<Arc<Frozen>> {
        let index = self.state.index();
        let oldest = index.frozen().next()?;
        (oldest.end.lsn <= visible).then(|| oldest.clone())
    }

    /// States from here on are promised to readers.
    fn horizon(&self, log: &Log) -> Lsn {
        Lsn(log.visible().0.saturating_sub(self.history_log_bytes))
    }

    /// What must be kept: the newest states, as far back as they are promised, and those that
    /// somebody looks at.
    fn keep(&self, log: &Log) -> Keep {
        let horizon = self.horizon(log);
        let settled = log.settled(Lsn::ZERO, Lsn::ZERO, Lsn::ZERO);
        Keep {
            horizon,
            snapshots: self.snapshots.raise_horizon(horizon, log.now()),
            settled: if on(Bug::DeleteLeavesEarly) {
                horizon
            } else {
                settled
            },
            expired_ms: self.log_ms_before(horizon).saturating_sub(EXPIRED_FOR_MS),
        }
    }

    /// Below this the log may be compacted: nobody will read it there as a log.
    fn compactable(&self, log: &Log, replay: Lsn) -> Lsn {
        let state = log.state();
        if !matches!(state, LogState::Writing | LogState::Following) {
            return Lsn::ZERO;
        }
        let positions = log.positions();
        let visible = positions.visible.lsn;
        // One that is further behind than what is retained begins anew.
        let retained = self
            .retain_log_bytes
            .map_or(Lsn::ZERO, |bytes| Lsn(visible.0.saturating_sub(bytes)));
        let awaited = |reader: Lsn| reader.max(retained);
        let replicated = if log.has_peer() && state == LogState::Writing {
            awaited(positions.replicated.lsn)
        } else {
            visible
        };
        let tails = self.tails.oldest().map_or(visible, awaited);
        self.horizon(log).min(replay).min(replicated).min(tails)
    }
}

impl Upkeep {
    /// A log time that the position has, or has passed.
    fn log_ms_before(&self, lsn: Lsn) -> u64 {
        let of_log = || self.log.upgrade().map_or(0, |log| log.log_ms_before(lsn));
        self.state.log_ms_at(lsn).unwrap_or_else(of_log)
    }
}

impl Work {
    /// Writes some of a memtable out; `false` when none may be.
    fn flush(&mut self, upkeep: &Upkeep, log: &Log) -> Result<bool> {
        let mut flush = match self.flush.take() {
            Some(flush) => flush,
            None => match upkeep.due(log.visible()) {
                Some(frozen) => self.files.begin_flush(frozen, log.bases())?,
                None => return Ok(false),
            },
        };
        let done = flush.step(FLUSH_STEP_LEN).and_then(|all| {
            if all {
                self.files.end_flush(&mut flush, || upkeep.keep(log))?;
            }
            Ok(all)
        });
        match done {
            Ok(false) => self.flush = Some(flush),
            Ok(true) => {
                let runs = self.files.runs().clone();
                upkeep.state.set_runs(runs, Some(&flush.frozen));
                log.counters().flushes.add(1);
                tracing::debug!(replay = %flush.frozen.end.lsn, "a memtable was written out");
            }
            Err(error) => {
                self.files.abandon_flush(&flush);
                return Err(error);
            }
        }
        Ok(true)
    }

    /// Merges some more; `false` when nothing needs it.
    fn merge(&mut self, upkeep: &Upkeep, which: Which, log: &Log) -> Result<bool> {
        let mut merging = match self.merging.take() {
            Some(merging) => merging,
            None => {
                let files = &mut self.files;
                let begun = files.begin_merge(which, || log.bases(), || upkeep.keep(log))?;
                // Some may have been listed anew.
                if !Arc::ptr_eq(upkeep.state.index().runs(), self.files.runs()) {
                    upkeep.state.set_runs(self.files.runs().clone(), None);
                }
                match begun {
                    Some(merging) => merging,
                    None => return Ok(false),
                }
            }
        };
        let done = merging
            .step(&self.files, MERGE_STEP_BYTES)
            .and_then(|output| {
                if let Some(output) = &output {
                    self.files.end_merge(&merging, output)?;
                }
                Ok(output)
            });
        match done {
            Ok(None) => self.merging = Some(merging),
            Ok(Some(output)) => {
                log.counters().merges.add(1);
                // What was merged without the versions that they take away.
                self.files.purge_ranges(&upkeep.keep(log))?;
                upkeep.state.set_runs(self.files.runs().clone(), None);
                tracing::debug!(?output.dropped, "runs were merged");
            }
            Err(error) => {
                self.files.abandon_merge(&merging);
                return Err(error);
            }
        }
        Ok(true)
    }

    /// Compacts some more of the log; `false` when nothing needs it.
    fn compact(&mut self, upkeep: &Upkeep, aim: Aim, log: &Log) -> Result<bool> {
        let mut compaction = match self.compaction.take() {
            Some(compaction) => compaction,
            None => match self.begin_compaction(upkeep, aim, log)? {
                Some(compaction) => compaction,
                None => return Ok(false),
            },
        };
        let stepped = compaction.step(log);
        if matches!(stepped, Ok(true)) {
            self.compaction = Some(compaction);
            return Ok(true);
        }
        let (from, to, left) = compaction.outcome();
        let done = match stepped {
            Ok(_) => compaction.finish(log),
            Err(error) => {
                compaction.give_up(log);
                Err(error)
            }
        };
        self.disk_was_full = done
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::DiskFull);
        done?;
        self.files.census.set(from, to, left);
        self.compacted.runs += 1;
        self.compacted.read_bytes += to.bytes_since(from);
        self.compacted.written_bytes += left;
        tracing::debug!(%from, %to, left_bytes = left, "the log was compacted");
        Ok(true)
    }

    fn begin_compaction(
        &mut self,
        upkeep: &Upkeep,
        aim: Aim,
        log: &Log,
    ) -> Result<Option<Compaction>> {
        self.files.census.advance(upkeep.horizon(log));
        let runs = self.files.runs();
        let candidates = log.candidates(upkeep.compactable(log, runs.replay.lsn));
        let weigh = |one: &Candidate| Weight {
            len: one.len_bytes(),
            live: self.files.census.between(one.base(), one.end()),
            deletes: one.deletes_len(),
        };
        let weights: Vec<_> = candidates.iter().map(weigh).collect();
        self.is_behind = is_behind(&weights);
        let limits = Limits {
            output: log.segment_size(),
            input: (INPUT_SEGMENTS * log.segment_size()).min(INPUT_MAX),
        };
        let aim = match aim {
            Aim::Needed if self.disk_was_full => Aim::NeededOnFullDisk,
            aim => aim,
        };
        let Some(picked) = pick(&weights, aim, limits) else {
            return Ok(None);
        };
        let victims = candidates.get(picked).unwrap_or_default().to_vec();
        let mut keep = upkeep.keep(log);
        // What the runs do not know yet, nothing is given up for.
        keep.horizon = keep.horizon.min(runs.replay.lsn);
        Compaction::new(log, victims, keep, runs).map(Some)
    }

    fn give_up(&mut self, log: Option<&Log>) {
        if let Some(flush) = self.flush.take() {
            self.files.abandon_flush(&flush);
        }
        if let Some(merging) = self.merging.take() {
            self.files.abandon_merge(&merging);
        }
        if let (Some(compaction), Some(log)) = (self.compaction.take(), log) {
            compaction.give_up(log);
        }
    }
}

impl Background for Upkeep {
    fn step(&self) -> Result<Option<Duration>> {
        let Some(log) = self.log.upgrade() else {
            return Ok(None);
        };
        if matches!(log.state(), LogState::Poisoned(_) | LogState::ReadOnly) {
            return Ok(None);
        }
        let mut work = self.work.lock();
        // First: a full disk needs their room.
        if work.files.drop_unused()? {
            return Ok(Some(REST));
        }
        if work.flush(self, &log)? {
            return Ok(Some(Duration::ZERO));
        }
        let mut turns: [Turn; 2] = [
            |work, upkeep, log| work.merge(upkeep, Which::Needed, log),
            |work, upkeep, log| work.compact(upkeep, Aim::Needed, log),
        ];
        if work.compacts_next {
            turns.reverse();
        }
        work.compacts_next = !work.compacts_next;
        let mut more = false;
        for turn in turns {
            more = more || turn(&mut work, self, &log)?;
        }
        if more {
            return Ok(Some(if work.is_behind { Duration::ZERO } else { REST }));
        }
        let waits = self.state.index().frozen().next().is_some();
        Ok(waits.then_some(REST))
    }
}

fn warn(error: &Error) {
    let source = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(%error, source, "the index could not be written out, trying again");
}
