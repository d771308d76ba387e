//! Commits that wait for more than this node's disk.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::waiter::Waiter;
use crate::error::{CommitError, Error};
use crate::format::Lsn;
use crate::receipt::Receipt;

/// What a commit waits for before it is answered. Every level implies fsynced here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Fsynced here.
    #[default]
    Local,
    /// And fsynced on the standby.
    Replicated,
    /// And visible to the standby's readers.
    Applied,
}

/// How one commit is to be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CommitOptions {
    /// What to wait for. Default [`Level::Local`].
    pub level: Level,
    /// How long to wait at most. A commit whose deadline passes before it is in a frame failed; one
    /// that is in a frame ends as unknown. Default none.
    pub deadline: Option<Duration>,
}

impl CommitOptions {
    /// Waits for `level`, for as long as it takes.
    #[must_use]
    pub const fn at(level: Level) -> Self {
        Self {
            level,
            deadline: None,
        }
    }
}

/// Commits that are durable here and wait for the standby, per level in the order of the log.
#[derive(Default)]
pub(super) struct Levels {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    replicated: Stage,
    applied: Stage,
    /// Why nothing waits any more.
    ended: Option<Error>,
}

#[derive(Default)]
struct Stage {
    reached: Lsn,
    queue: VecDeque<(Receipt, Arc<Waiter>)>,
}

/// Callers to be woken once no lock is held.
#[derive(Default)]
pub(super) struct Finished {
    outcomes: Vec<(Arc<Waiter>, Result<Receipt, CommitError>)>,
}

impl Finished {
    pub(super) fn push(&mut self, waiter: Arc<Waiter>, outcome: Result<Receipt, CommitError>) {
        self.outcomes.push((waiter, outcome));
    }

    pub(super) fn extend(
        &mut self,
        outcomes: impl IntoIterator<Item = (Arc<Waiter>, Result<Receipt, CommitError>)>,
    ) {
        self.outcomes.extend(outcomes);
    }

    pub(super) fn wake(self) {
        for (waiter, outcome) in self.outcomes {
            waiter.finish(outcome);
        }
    }
}

impl Levels {
    /// Lets a commit that is durable and visible here wait for its level, or finishes it if that is
    /// reached. Called in the order of the log.
    pub(super) fn wait(
        &self,
        level: Level,
        receipt: Receipt,
        waiter: Arc<Waiter>,
        finished: &mut Finished,
    ) {
        let mut waiting = self.waiting.lock();
        let ended = waiting.ended.as_ref().map(Error::duplicate);
        let Some(stage) = waiting.stage(level) else {
            return finished.push(waiter, Ok(receipt));
        };
        if receipt.lsn <= stage.reached {
            return finished.push(waiter, Ok(receipt));
        }
        // Writing has ended while this commit was on its way here.
        if let Some(error) = ended {
            return finished.push(waiter, Err(CommitError::Unknown { receipt, error }));
        }
        stage.queue.push_back((receipt, waiter));
    }

    /// What the standby holds by now.
    pub(super) fn reached(&self, replicated: Lsn, applied: Lsn, finished: &mut Finished) {
        let mut waiting = self.waiting.lock();
        for (level, lsn) in [(Level::Replicated, replicated), (Level::Applied, applied)] {
            let Some(stage) = waiting.stage(level) else {
                continue;
            };
            stage.reached = lsn;
            while stage
                .queue
                .front()
                .is_some_and(|(receipt, _)| receipt.lsn <= lsn)
            {
                if let Some((receipt, waiter)) = stage.queue.pop_front() {
                    finished.push(waiter, Ok(receipt));
                }
            }
        }
    }

    /// Lets commits wait again, of a node that writes again.
    pub(super) fn begin_again(&self) {
        self.waiting.lock().ended = None;
    }

    /// Ends all waiting, for good: whether their level was or will be reached is not known here any
    /// more.
    pub(super) fn abandon(&self, error: &Error, finished: &mut Finished) {
        let mut waiting = self.waiting.lock();
        let Waiting {
            replicated,
            applied,
            ended,
        } = &mut *waiting;
        ended.get_or_insert_with(|| error.duplicate());
        for (receipt, waiter) in replicated.queue.drain(..).chain(applied.queue.drain(..)) {
            let error = error.duplicate();
            finished.push(waiter, Err(CommitError::Unknown { receipt, error }));
        }
    }
}

impl Waiting {
    const fn stage(&mut self, level: Level) -> Option<&mut Stage> {
        match level {
            Level::Local => None,
            Level::Replicated => Some(&mut self.replicated),
            Level::Applied => Some(&mut self.applied),
        }
    }
}
