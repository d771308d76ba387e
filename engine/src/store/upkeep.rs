//! Keeping the index on its disk: memtables are written out, and the replay point moves on.
//!
//! A step at a time, on the lane that does all background work. Everything here is derived from
//! the log: what fails is tried again, and nothing is lost.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::state::State;
use crate::error::{Error, Result};
use crate::format::Lsn;
use crate::index::{Flush, Frozen, IndexFiles};
use crate::log::{Background, Log, LogState};

/// Versions that one step writes: few milliseconds of work.
const STEP_LEN: usize = 8192;
/// How long the lane rests before it looks again whether a memtable may be written out.
const REST: Duration = Duration::from_millis(5);
/// Memtables that wait before whoever filled the last one helps to write them out.
const WAITING_MAX: usize = 4;

/// What writes a store's index out.
pub(super) struct Upkeep {
    state: Arc<State>,
    log: Weak<Log>,
    work: Mutex<Work>,
}

struct Work {
    files: IndexFiles,
    flush: Option<Flush>,
}

impl Upkeep {
    pub(super) fn new(log: &Arc<Log>, state: Arc<State>, files: IndexFiles) -> Arc<Self> {
        let flush = None;
        Arc::new(Self {
            state,
            log: Arc::downgrade(log),
            work: Mutex::new(Work { files, flush }),
        })
    }

    /// Called by whoever filled a memtable: lets the lane know, and helps where it is behind.
    pub(super) fn filled(&self) {
        if let Some(log) = self.log.upgrade() {
            log.wake_lane();
        }
        while self.state.index().frozen().count() > WAITING_MAX {
            match self.step() {
                Ok(Some(Duration::ZERO)) => {}
                Ok(_) => return,
                Err(error) => {
                    warn(&error);
                    return;
                }
            }
        }
    }

    /// Writes out all that may be: what readers see.
    pub(super) fn flush_all(&self) -> Result<()> {
        self.state.freeze();
        while self.step()? == Some(Duration::ZERO) {}
        Ok(())
    }

    /// Gives up what is under way, and begins nothing until the answer is dropped.
    pub(super) fn pause(&self) -> impl Sized + '_ {
        let mut work = self.work.lock();
        if let Some(flush) = work.flush.take() {
            work.files.abandon(flush);
        }
        work
    }

    /// The oldest memtable that waits, if it may be written out: only what readers see is, which
    /// nothing takes back.
    fn due(&self, visible: Lsn) -> Option<Arc<Frozen>> {
        let index = self.state.index();
        let oldest = index.frozen().next()?;
        (oldest.end.lsn <= visible).then(|| oldest.clone())
    }
}

impl Work {
    fn step(&mut self, upkeep: &Upkeep, visible: Lsn) -> Result<Option<Duration>> {
        if self.flush.is_none() {
            let Some(frozen) = upkeep.due(visible) else {
                let waits = upkeep.state.index().frozen().next().is_some();
                return Ok(waits.then_some(REST));
            };
            self.flush = Some(self.files.begin_flush(frozen)?);
        }
        let Some(mut flush) = self.flush.take() else {
            return Ok(None);
        };
        match IndexFiles::step_flush(&mut flush, STEP_LEN) {
            Ok(false) => self.flush = Some(flush),
            Ok(true) => {
                let frozen = flush.frozen.clone();
                let runs = self.files.end_flush(flush)?;
                upkeep.state.set_runs(runs, Some(&frozen));
                tracing::debug!(replay = %frozen.end.lsn, "a memtable was written out");
            }
            Err(error) => {
                self.files.abandon(flush);
                return Err(error);
            }
        }
        Ok(Some(Duration::ZERO))
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
        self.work.lock().step(self, log.visible())
    }
}

fn warn(error: &Error) {
    let source = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(%error, source, "the index could not be written out, trying again");
}
