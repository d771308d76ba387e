//! A standby whose disk is full: it waits for space, and goes on by itself.

use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use outlast_engine::format::FrameRun;
use outlast_engine::{Error, ErrorKind, LogState, Result, Store};
use parking_lot::Mutex;

use super::jobs::Job;

/// How long until space is looked for again.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// Whether a standby waits for space now, and what it was told.
#[derive(Clone, Default)]
pub(crate) struct NoRoom(Arc<Mutex<Option<String>>>);

impl NoRoom {
    /// What the disk said, while space is waited for.
    pub(crate) fn why(&self) -> Option<String> {
        self.0.lock().clone()
    }

    /// Appends a run by `take`: again and again while the disk has no room for it, which is met
    /// before anything is written. What needs no room is done meanwhile; the rest goes to
    /// `waiting`.
    ///
    /// # Errors
    /// Those of `take`: `DiskFull` when the node is to be promoted, or closes, before there is
    /// room. What was not appended is then given up: it was never reported.
    pub(super) fn append(
        &self,
        store: &Store,
        mut run: FrameRun,
        jobs: &mpsc::Receiver<Job>,
        waiting: &mut VecDeque<Job>,
        take: &mut dyn FnMut(Job) -> Result<()>,
    ) -> Result<()> {
        let (bytes, start) = (run.bytes().clone(), run.range().start);
        loop {
            let error = match take(Job::Append(run)) {
                Err(error) if is_room_short(&error, store) => error,
                taken => {
                    if self.0.lock().take().is_some() {
                        tracing::warn!("there is space again: following goes on");
                    }
                    return taken;
                }
            };
            if self.0.lock().replace(error.to_string()).is_none() {
                tracing::warn!(%error, "the disk is full: nothing is received until there is space");
            }
            if !wait(store, jobs, waiting, take)? {
                *self.0.lock() = None;
                return Err(error);
            }
            // Some of it may be in the log by now.
            let chain = store.chain();
            let at = usize::try_from(chain.lsn.bytes_since(start)).unwrap_or(bytes.len());
            let rest = bytes.slice(at.min(bytes.len())..);
            run = FrameRun::check(&chain, rest).map_err(|fault| {
                let message = format!("what was received does not continue the log: {fault}");
                Error::new(ErrorKind::Corrupt, message)
            })?;
        }
    }
}

/// Whether the log was refused space before it wrote anything. One that failed in a write is
/// poisoned, and stays so.
fn is_room_short(error: &Error, store: &Store) -> bool {
    error.kind() == ErrorKind::DiskFull && store.state() == LogState::Following
}

/// Lets some time pass, and does what needs no room or is given some of the reserve. `false` when
/// the wait is over for good.
fn wait(
    store: &Store,
    jobs: &mpsc::Receiver<Job>,
    waiting: &mut VecDeque<Job>,
    take: &mut dyn FnMut(Job) -> Result<()>,
) -> Result<bool> {
    let until = Instant::now() + RETRY_EVERY;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match jobs.recv_timeout(left) {
            Ok(Job::Note { heard, protection }) => match take(Job::Note { heard, protection }) {
                Err(error) if is_room_short(&error, store) => {
                    waiting.push_back(Job::Note { heard, protection });
                }
                noted => noted?,
            },
            Ok(job @ Job::ApplyTo(_)) => take(job)?,
            // A promotion waits for no space.
            Ok(job @ Job::Barrier(_)) => {
                waiting.retain(|job| !matches!(job, Job::Append(_)));
                waiting.push_back(job);
                return Ok(false);
            }
            Ok(job) => waiting.push_back(job),
            Err(mpsc::RecvTimeoutError::Timeout) => return Ok(true),
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(false),
        }
    }
}
