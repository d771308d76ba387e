//! Running a transaction again when it lost.

use std::future::Future;
use std::time::{Duration, Instant};

use super::Transaction;
use crate::error::{CommitError, Error, ErrorKind};
use crate::format::Lsn;
use crate::log::{CommitOptions, Level};
use crate::receipt::Receipt;
use crate::store::{Shared, Store};

/// How a transaction is to be run by [`Store::transact`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactOptions {
    /// What the commit waits for. Default [`Level::Local`].
    pub level: Level,
    /// How long all attempts may take together. Default no limit.
    pub deadline: Option<Duration>,
    /// How often it is run at most. Default 100.
    pub attempts_max: u32,
}

impl Default for TransactOptions {
    fn default() -> Self {
        Self {
            level: Level::Local,
            deadline: None,
            attempts_max: 100,
        }
    }
}

impl Store {
    /// Runs a transaction and commits it. When it loses to another, it is run again as soon as what
    /// it lost to is visible: each attempt that is lost is one that somebody else has won, and
    /// nobody sleeps. Answers with what `run` did and the receipt.
    ///
    /// `run` may be called several times, so it does nothing but read and write its transaction.
    /// When it fails, nothing is written, and its error is the answer.
    ///
    /// ```
    /// # use outlast_engine::{CommitError, Store};
    /// # fn main() -> Result<(), CommitError> {
    /// let store = Store::open_in_memory()?;
    /// let counters = store.keyspace("counters")?;
    /// let (visits, receipt) = store.transact(Default::default(), |tx| {
    ///     let visits = match tx.get(&counters, "visits")? {
    ///         Some(value) => value[0] + 1,
    ///         None => 1,
    ///     };
    ///     tx.put(&counters, "visits", [visits])?;
    ///     Ok::<_, CommitError>(visits)
    /// })?;
    /// assert_eq!((visits, receipt.commit), (1, 1));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What `run` answers, and as [`Transaction::commit`]: `TransactionConflict` once the last
    /// attempt has lost, `Timeout` when the deadline passes while what it lost to is not visible.
    pub fn transact<T, E: From<CommitError>>(
        &self,
        options: TransactOptions,
        mut run: impl FnMut(&mut Transaction) -> Result<T, E>,
    ) -> Result<(T, Receipt), E> {
        let mut attempts = Attempts::new(options);
        loop {
            let mut transaction = self.transaction();
            let value = run(&mut transaction)?;
            match transaction.commit(attempts.commit_options()) {
                Ok(receipt) => return Ok((value, receipt)),
                Err(error) => attempts.lost(&self.shared, error)?,
            }
        }
    }

    /// [`Store::transact`] as a future, on any runtime. `run` is called while the future is polled:
    /// it reads, and does not wait. The deadline in `options` is not looked at: put the runtime's
    /// own around the future. One that is dropped leaves the outcome unknown.
    ///
    /// # Errors
    /// As [`Store::transact`], without `Timeout`.
    pub fn transact_async<T, E, F>(
        &self,
        options: TransactOptions,
        mut run: F,
    ) -> impl Future<Output = Result<(T, Receipt), E>> + use<T, E, F>
    where
        E: From<CommitError>,
        F: FnMut(&mut Transaction) -> Result<T, E>,
    {
        let store = self.clone();
        let mut attempts = Attempts::new(options);
        async move {
            loop {
                let mut transaction = store.transaction();
                let value = run(&mut transaction)?;
                match transaction.commit_async(attempts.commit_options()).await {
                    Ok(receipt) => return Ok((value, receipt)),
                    Err(error) => attempts.lost_async(&store.shared, error).await?,
                }
            }
        }
    }
}

/// The attempts of one caller, and its time.
pub(super) struct Attempts {
    level: Level,
    deadline: Option<Instant>,
    left: u32,
}

impl Attempts {
    pub(super) fn new(options: TransactOptions) -> Self {
        Self {
            level: options.level,
            // A time too far off to be named is no deadline.
            deadline: options
                .deadline
                .and_then(|after| Instant::now().checked_add(after)),
            left: options.attempts_max,
        }
    }

    /// For the next attempt.
    pub(super) fn commit_options(&mut self) -> CommitOptions {
        self.left = self.left.saturating_sub(1);
        CommitOptions {
            level: self.level,
            deadline: self.time_left(),
        }
    }

    /// Waits until what an attempt lost to is visible.
    ///
    /// # Errors
    /// `error` itself when it was not lost to another, or was the last attempt; `Timeout`, and why
    /// nothing will become visible any more.
    pub(super) fn lost(&self, shared: &Shared, error: CommitError) -> Result<(), CommitError> {
        let lsn = self.awaited(error)?;
        let timeout = self.time_left().unwrap_or(Duration::MAX);
        let look = || shared.shows(lsn);
        let answer = shared.changes.wait(timeout, look);
        let late = || {
            let message = format!(
                "the deadline passed before the entry at {lsn}, to which the transaction lost, was \
                 visible: nothing was written"
            );
            Err(Error::new(ErrorKind::Timeout, message))
        };
        answer.unwrap_or_else(late).map_err(CommitError::Failed)
    }

    /// The same without a thread, and without a deadline.
    pub(super) async fn lost_async(
        &self,
        shared: &std::sync::Arc<Shared>,
        error: CommitError,
    ) -> Result<(), CommitError> {
        let lsn = self.awaited(error)?;
        let until = shared.changes.until(|| shared.shows(lsn));
        until.await.map_err(CommitError::Failed)
    }

    fn awaited(&self, error: CommitError) -> Result<Lsn, CommitError> {
        match &error {
            CommitError::Failed(lost) if self.left > 0 => {
                let lost = lost.lost_to().map(|lost| lost.lsn);
                lost.ok_or(error)
            }
            _ => Err(error),
        }
    }

    fn time_left(&self) -> Option<Duration> {
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        self.deadline.map(left)
    }
}

impl Shared {
    /// Whether readers see the entry at `lsn`, or why they never will; `None` while it is awaited.
    fn shows(&self, lsn: Lsn) -> Option<Result<(), Error>> {
        if self.log.visible() > lsn {
            return Some(Ok(()));
        }
        self.log.require_writing().err().map(Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Batch;
    use crate::conflict::LostTo;

    fn lost_to(lsn: Lsn) -> CommitError {
        let key = None;
        CommitError::Failed(LostTo { lsn, key }.into())
    }

    #[test]
    fn who_lost_waits_until_the_winner_is_visible_or_its_time_is_up() {
        let store = Store::open_in_memory().unwrap();
        let attempts = |after| {
            let deadline = Some(after);
            Attempts::new(TransactOptions {
                deadline,
                ..TransactOptions::default()
            })
        };
        let visible = store.positions().visible.lsn;
        let below = lost_to(Lsn(visible.0 - 1));
        let (long, none) = (Duration::from_secs(60), Duration::ZERO);
        attempts(long).lost(&store.shared, below).unwrap();
        let late = attempts(none).lost(&store.shared, lost_to(visible));
        assert_eq!(late.unwrap_err().error().kind(), ErrorKind::Timeout);

        let began = Instant::now();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| attempts(long).lost(&store.shared, lost_to(visible)));
            store
                .commit(Batch::new(), CommitOptions::default())
                .unwrap();
            waiting.join().unwrap().unwrap();
        });
        assert!(began.elapsed() < long, "only the deadline ended the wait");

        // A winner that never becomes visible is not waited for.
        let never = lost_to(Lsn(u64::MAX));
        store.close().unwrap();
        let closed = attempts(long).lost(&store.shared, never).unwrap_err();
        assert_eq!(closed.error().kind(), ErrorKind::Closed);
    }

    #[test]
    fn the_last_attempt_and_what_no_attempt_can_mend_are_answered() {
        let store = Store::open_in_memory().unwrap();
        let mut attempts = Attempts::new(TransactOptions {
            attempts_max: 1,
            ..TransactOptions::default()
        });
        let full = || CommitError::Failed(Error::new(ErrorKind::DiskFull, "full"));
        let kind = |attempts: &Attempts, error| {
            let answer = attempts.lost(&store.shared, error);
            answer.map_err(|error| error.error().kind())
        };
        assert_eq!(kind(&attempts, full()), Err(ErrorKind::DiskFull));
        assert_eq!(kind(&attempts, lost_to(Lsn::ZERO)), Ok(()));
        assert_eq!(attempts.commit_options().deadline, None);
        let last = kind(&attempts, lost_to(Lsn::ZERO));
        assert_eq!(last, Err(ErrorKind::TransactionConflict));
    }
}
