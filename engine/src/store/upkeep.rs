//! Keeping the index on its disk: memtables are written out, which moves the replay point on, and
//! runs are merged.
//!
//! A step at a time, on the lane that does all background work. Everything here is derived from
//! the log: what fails is tried again, and nothing is lost.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::state::State;
use crate::error::{Error, Result};
use crate::format::Lsn;
use crate::index::{Flush, Frozen, IndexFiles, Keep, Merging, Which};
use crate::log::{Background, Log, LogState};
use crate::snapshot::Register;

/// Versions that one step of a flush writes: few milliseconds of work.
const FLUSH_STEP_LEN: usize = 8192;
/// Bytes of index that one step of a merge takes up, likewise.
const MERGE_STEP_BYTES: u64 = 256 << 10;
/// How long the lane rests between two steps of a merge, so that it leaves room to others, and
/// before it looks again whether a memtable may be written out.
const REST: Duration = Duration::from_millis(2);
/// Memtables that wait before whoever filled the last one helps to write them out.
const WAITING_MAX: usize = 4;

/// What writes a store's index out.
pub(super) struct Upkeep {
    state: Arc<State>,
    snapshots: Arc<Register>,
    log: Weak<Log>,
    history_log_bytes: u64,
    work: Mutex<Work>,
}

struct Work {
    files: IndexFiles,
    flush: Option<Flush>,
    merging: Option<Merging>,
}

impl Upkeep {
    pub(super) fn new(
        log: &Arc<Log>,
        state: Arc<State>,
        snapshots: Arc<Register>,
        files: IndexFiles,
        history_log_bytes: u64,
    ) -> Arc<Self> {
        let work = Work {
            files,
            flush: None,
            merging: None,
        };
        Arc::new(Self {
            state,
            snapshots,
            log: Arc::downgrade(log),
            history_log_bytes,
            work: Mutex::new(work),
        })
    }

    /// Called by whoever filled a memtable: lets the lane know, and helps where it is behind.
    pub(super) fn filled(&self) {
        let Some(log) = self.log.upgrade() else {
            return;
        };
        log.wake_lane();
        while self.state.index().frozen().count() > WAITING_MAX {
            match self.work.lock().flush(self, log.visible()) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return warn(&error),
            }
        }
    }

    /// Writes out all that may be: what readers see.
    pub(super) fn flush_all(&self) -> Result<()> {
        self.state.freeze();
        let Some(log) = self.log.upgrade() else {
            return Ok(());
        };
        while self.work.lock().flush(self, log.visible())? {}
        Ok(())
    }

    /// Writes out all that may be, and merges it into one level.
    pub(super) fn compact(&self) -> Result<()> {
        self.flush_all()?;
        let Some(log) = self.log.upgrade() else {
            return Ok(());
        };
        while self.work.lock().merge(self, Which::All, log.visible())? {}
        Ok(())
    }

    /// Ends for good: writes out all that may be, and leaves no file that is not used.
    pub(super) fn close(&self) -> Result<()> {
        let flushed = self.flush_all();
        self.work.lock().give_up();
        flushed
    }

    /// Gives up what is under way, and begins nothing until the answer is dropped.
    pub(super) fn pause(&self) -> impl Sized + '_ {
        let mut work = self.work.lock();
        work.give_up();
        work
    }

    /// The oldest memtable that waits, if it may be written out: only what readers see is, which
    /// nothing takes back.
    fn due(&self, visible: Lsn) -> Option<Arc<Frozen>> {
        let index = self.state.index();
        let oldest = index.frozen().next()?;
        (oldest.end.lsn <= visible).then(|| oldest.clone())
    }

    /// What a merge must keep: the newest states, as far back as they are promised, and those that
    /// somebody looks at.
    fn keep(&self, visible: Lsn) -> Keep {
        let horizon = Lsn(visible.0.saturating_sub(self.history_log_bytes));
        Keep {
            horizon,
            snapshots: self.snapshots.raise_horizon(horizon),
            deletes: true,
        }
    }
}

impl Work {
    /// Writes some of a memtable out; `false` when none may be.
    fn flush(&mut self, upkeep: &Upkeep, visible: Lsn) -> Result<bool> {
        let mut flush = match self.flush.take() {
            Some(flush) => flush,
            None => match upkeep.due(visible) {
                Some(frozen) => self.files.begin_flush(frozen)?,
                None => return Ok(false),
            },
        };
        let done = flush.step(FLUSH_STEP_LEN).and_then(|all| {
            if all {
                self.files.end_flush(&mut flush)?;
            }
            Ok(all)
        });
        match done {
            Ok(false) => self.flush = Some(flush),
            Ok(true) => {
                let runs = self.files.runs().clone();
                upkeep.state.set_runs(runs, Some(&flush.frozen));
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
    fn merge(&mut self, upkeep: &Upkeep, which: Which, visible: Lsn) -> Result<bool> {
        let mut merging = match self.merging.take() {
            Some(merging) => merging,
            None => {
                let begun = self.files.begin_merge(which, || upkeep.keep(visible))?;
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

    fn give_up(&mut self) {
        if let Some(flush) = self.flush.take() {
            self.files.abandon_flush(&flush);
        }
        if let Some(merging) = self.merging.take() {
            self.files.abandon_merge(&merging);
        }
    }
}

impl Background for Upkeep {
    fn step(&self) -> Result<Option<Duration>> {
        let Some(log) = self.log.upgrade() else {
            return Ok(None);
        };
        if matches!(log.state(), LogState::Poisoned(_)) {
            return Ok(None);
        }
        let visible = log.visible();
        let mut work = self.work.lock();
        if work.flush(self, visible)? {
            return Ok(Some(Duration::ZERO));
        }
        if work.merge(self, Which::Needed, visible)? {
            return Ok(Some(REST));
        }
        let waits = self.state.index().frozen().next().is_some();
        Ok(waits.then_some(REST))
    }
}

fn warn(error: &Error) {
    let source = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(%error, source, "the index could not be written out, trying again");
}
