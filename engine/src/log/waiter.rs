//! One caller that waits for one commit, blocking or not.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::Log;
use crate::error::CommitError;
use crate::receipt::Receipt;

pub(super) type Outcome = Result<Receipt, CommitError>;

/// How a commit stands.
#[derive(Debug)]
enum Stage {
    /// In the queue, in no frame yet.
    Queued,
    /// Its caller is to lead the next group.
    Lead,
    /// In a frame; ends as OK or Unknown from here on.
    Formed(Receipt),
    /// Ended.
    Done(Option<Outcome>),
}

/// What a blocking caller does next.
#[derive(Debug)]
pub(super) enum Turn {
    /// Lead a group, then wait on.
    Lead,
    /// The commit ended.
    Done(Outcome),
    /// The deadline passed; the receipt if the commit is in a frame by now.
    Late(Option<Receipt>),
}

/// Invariant: [`Stage`] only moves down the list above (but from `Lead` back to `Queued`), and
/// `Done` is reached exactly once.
#[derive(Debug)]
pub(super) struct Waiter {
    stage: Mutex<Stage>,
    woken: Condvar,
    waker: Mutex<Option<Waker>>,
    /// Whether a thread blocks on it, which may therefore be asked to lead.
    pub(super) blocking: bool,
}

impl Waiter {
    pub(super) fn new(blocking: bool) -> Arc<Self> {
        Arc::new(Self {
            stage: Mutex::new(Stage::Queued),
            woken: Condvar::new(),
            waker: Mutex::new(None),
            blocking,
        })
    }

    pub(super) fn formed(&self, receipt: Receipt) {
        let mut stage = self.stage.lock();
        assert!(matches!(*stage, Stage::Queued), "formed twice: {stage:?}");
        *stage = Stage::Formed(receipt);
    }

    /// Hands the leadership over.
    pub(super) fn lead(&self) {
        let mut stage = self.stage.lock();
        assert!(
            matches!(*stage, Stage::Queued),
            "a leader must be queued: {stage:?}"
        );
        *stage = Stage::Lead;
        self.woken.notify_one();
    }

    pub(super) fn finish(&self, outcome: Outcome) {
        let mut stage = self.stage.lock();
        assert!(
            !matches!(*stage, Stage::Done(_)),
            "a commit ended twice, now {outcome:?}"
        );
        *stage = Stage::Done(Some(outcome));
        if self.blocking {
            self.woken.notify_one();
            return;
        }
        drop(stage);
        if let Some(waker) = self.waker.lock().take() {
            waker.wake();
        }
    }

    /// Waits until there is something to do.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Turn {
        let mut stage = self.stage.lock();
        loop {
            match &mut *stage {
                Stage::Lead => {
                    // The group that it leads need not reach back to its own commit.
                    *stage = Stage::Queued;
                    return Turn::Lead;
                }
                Stage::Done(outcome) => match outcome.take() {
                    Some(outcome) => return Turn::Done(outcome),
                    None => panic!("the outcome of a commit was taken twice"),
                },
                Stage::Queued | Stage::Formed(_) => {}
            }
            let late = match deadline {
                Some(deadline) => self.woken.wait_until(&mut stage, deadline).timed_out(),
                None => {
                    self.woken.wait(&mut stage);
                    false
                }
            };
            if late {
                match *stage {
                    Stage::Queued => return Turn::Late(None),
                    Stage::Formed(receipt) => return Turn::Late(Some(receipt)),
                    Stage::Lead | Stage::Done(_) => {}
                }
            }
        }
    }

    fn poll(&self, context: &Context<'_>) -> Poll<Outcome> {
        // The waker first: an outcome that arrives in between then finds it.
        let mut waker = self.waker.lock();
        let mut stage = self.stage.lock();
        if let Stage::Done(outcome) = &mut *stage {
            return match outcome.take() {
                Some(outcome) => Poll::Ready(outcome),
                None => panic!("a commit future was polled after it was ready"),
            };
        }
        match &mut *waker {
            Some(waker) if waker.will_wake(context.waker()) => {}
            other => *other = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

/// A commit on its way. It goes on whether this future is polled or dropped.
#[must_use = "the outcome of a commit is known only from its future"]
pub struct CommitFuture {
    waiter: Arc<Waiter>,
    /// Keeps the log open until the commit ended.
    _log: Arc<Log>,
}

impl CommitFuture {
    pub(super) const fn new(waiter: Arc<Waiter>, log: Arc<Log>) -> Self {
        Self { waiter, _log: log }
    }
}

impl std::fmt::Debug for CommitFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommitFuture")
            .field("waiter", &self.waiter)
            .finish_non_exhaustive()
    }
}

impl Future for CommitFuture {
    type Output = Result<Receipt, CommitError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.waiter.poll(context)
    }
}
