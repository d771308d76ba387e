//! One caller that waits for one commit, blocking or not.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

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
    waits: Waits,
}

/// Who waits.
#[derive(Debug)]
enum Waits {
    /// A thread, which blocks and may therefore be asked to lead; until its deadline, if it has
    /// one.
    Thread {
        thread: Thread,
        deadline: Option<Instant>,
    },
    Task(Mutex<Option<Waker>>),
}

impl Waiter {
    /// This thread, which will block.
    pub(super) fn blocking(deadline: Option<Instant>) -> Arc<Self> {
        let thread = std::thread::current();
        Self::new(Waits::Thread { thread, deadline })
    }

    /// A task that polls.
    pub(super) fn polled() -> Arc<Self> {
        Self::new(Waits::Task(Mutex::default()))
    }

    fn new(waits: Waits) -> Arc<Self> {
        let stage = Mutex::new(Stage::Queued);
        Arc::new(Self { stage, waits })
    }

    /// Whether a thread blocks on it, which may therefore be asked to lead.
    pub(super) const fn is_blocking(&self) -> bool {
        matches!(self.waits, Waits::Thread { .. })
    }

    /// Who may give up before the end is told what it is then to be found by.
    pub(super) fn formed(&self, receipt: Receipt) {
        if !matches!(
            self.waits,
            Waits::Thread {
                deadline: Some(_),
                ..
            }
        ) {
            return;
        }
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
        drop(stage);
        self.wake();
    }

    pub(super) fn finish(&self, outcome: Outcome) {
        let mut stage = self.stage.lock();
        assert!(
            !matches!(*stage, Stage::Done(_)),
            "a commit ended twice, now {outcome:?}"
        );
        *stage = Stage::Done(Some(outcome));
        drop(stage);
        self.wake();
    }

    fn wake(&self) {
        match &self.waits {
            Waits::Thread { thread, .. } => thread.unpark(),
            Waits::Task(waker) => {
                if let Some(waker) = waker.lock().take() {
                    waker.wake();
                }
            }
        }
    }

    /// Waits until there is something to do, on the thread that made it.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Turn {
        loop {
            // Before the look, so that what comes while time runs out is still seen.
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let mut stage = self.stage.lock();
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
                Stage::Queued if left == Some(Duration::ZERO) => return Turn::Late(None),
                Stage::Formed(receipt) if left == Some(Duration::ZERO) => {
                    return Turn::Late(Some(*receipt));
                }
                Stage::Queued | Stage::Formed(_) => {}
            }
            drop(stage);
            match left {
                Some(left) => std::thread::park_timeout(left),
                None => std::thread::park(),
            }
        }
    }

    fn poll(&self, context: &Context<'_>) -> Poll<Outcome> {
        let Waits::Task(waker) = &self.waits else {
            panic!("the future of a thread that blocks was polled");
        };
        // The waker first: an outcome that arrives in between then finds it.
        let mut waker = waker.lock();
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
