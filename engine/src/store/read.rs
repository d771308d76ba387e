//! Reading: the newest state, snapshots, the change feed, receipts.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use super::{Reading, Shared, Store};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{History, Lsn};
use crate::keyspace::Keyspace;
use crate::log::{LogState, Positions};
use crate::receipt::{Receipt, ReceiptStatus};
use crate::snapshot::{Entry, OpenSnapshots, Snapshot};
use crate::tail::{Tail, boundary_at};

impl Store {
    /// The newest visible value of `key`, or `None` if it has none. For more than one key that
    /// belong together, take a [`Store::snapshot`].
    ///
    /// # Errors
    /// `NotCurrent` where a bound is promised and the standby was not heard for as long as its
    /// lease, `NotConfirmed` on a writer that was restarted, until it has heard from its standby;
    /// else as [`Snapshot::get`].
    pub fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.log().reads()?;
        self.shared.get_newest(keyspace, key.as_ref())
    }

    /// The newest visible values of `keys`, all of one moment, in their order. Quicker than one
    /// after the other where they are many.
    ///
    /// ```
    /// # use outlast_engine::{Batch, Store};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = Store::open_in_memory()?;
    /// # let users = store.keyspace("users")?;
    /// # let mut batch = Batch::new();
    /// # batch.put(&users, "mina", "sailing")?;
    /// # store.commit(batch, Default::default())?;
    /// let found = store.multi_get(&users, ["nobody", "mina"])?;
    /// assert_eq!(found, [None, Some("sailing".into())]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Store::get`], for one of the keys that have one.
    pub fn multi_get<K: AsRef<[u8]>>(
        &self,
        keyspace: &Keyspace,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>> {
        self.log().reads()?;
        self.snapshot().multi_get(keyspace, keys)
    }

    /// [`Store::get`] without waiting for the disk, as [`Snapshot::get_async`].
    ///
    /// # Errors
    /// As [`Store::get`], and [`Snapshot::get_async`].
    pub fn get_async(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Reading<Option<Bytes>> {
        if let Err(error) = self.log().reads() {
            return Reading::ready(Err(error));
        }
        self.snapshot().get_async(keyspace, key)
    }

    /// [`Store::multi_get`] without waiting for the disk, as [`Snapshot::multi_get_async`].
    ///
    /// # Errors
    /// As [`Store::multi_get`], and [`Snapshot::multi_get_async`].
    pub fn multi_get_async<K: AsRef<[u8]>>(
        &self,
        keyspace: &Keyspace,
        keys: impl IntoIterator<Item = K>,
    ) -> Reading<Vec<Option<Bytes>>> {
        if let Err(error) = self.log().reads() {
            return Reading::ready(Err(error));
        }
        self.snapshot().multi_get_async(keyspace, keys)
    }

    /// The newest visible value of `key` with its position, for a
    /// [`Store::compare_and_set`] by that.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn get_entry(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Entry>> {
        self.log().reads()?;
        self.snapshot().get_entry(keyspace, key)
    }

    /// The state as it is visible here now, also where it may no longer be what holds:
    /// [`Store::confirm_current`] says whether it is, and reads through the store ask that first.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::newest(self.shared.clone())
    }

    /// Whether what is visible here is known to be what holds now. It always is where nothing is
    /// promised about loss, and on a standby, which shows what its primary showed a moment ago.
    ///
    /// ```
    /// # use outlast_engine::Store;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = Store::open_in_memory()?;
    /// let snapshot = store.snapshot();
    /// store.confirm_current()?;
    /// // What is read from the snapshot was what held when it was taken.
    /// # drop(snapshot);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `NotCurrent` where a bound is promised and the standby was not heard for as long as its
    /// lease: it may have been promoted. `NotConfirmed` on a writer that was restarted, until it
    /// has heard from its standby.
    pub fn confirm_current(&self) -> Result<()> {
        self.log().reads()
    }

    /// The state at an earlier position: the end of a batch (a receipt's LSN) or of a frame.
    ///
    /// Reads the log around the position to see that it is one; costs a walk through part of a
    /// segment.
    ///
    /// # Errors
    /// `NotHeld` above what is visible or within a batch (there was no such state), and further
    /// back than states are kept; `Corrupt`, `Io`.
    pub fn snapshot_at(&self, lsn: Lsn) -> Result<Snapshot> {
        Snapshot::at(self.shared.clone(), lsn, || self.log_ms_at(lsn))
    }

    /// Log time at a position at which there is a state.
    fn log_ms_at(&self, lsn: Lsn) -> Result<u64> {
        let visible = self.log().visible();
        if lsn > visible {
            let message = format!(
                "position {lsn} is not visible here: this node shows [0, {visible}]; wait until it \
                 is applied"
            );
            return Err(Error::new(ErrorKind::NotHeld, message));
        }
        let horizon = self.shared.snapshots.horizon();
        if lsn < horizon {
            let message = format!(
                "the state at {lsn} is no longer held: this node holds [{horizon}, {visible}]; \
                 Config::history_log_bytes says how far back it keeps them"
            );
            return Err(Error::new(ErrorKind::NotHeld, message));
        }
        if lsn == visible
            && let Some(log_ms) = self.shared.state.log_ms_at(lsn)
        {
            return Ok(log_ms);
        }
        boundary_at(self.log(), lsn).map(|boundary| boundary.log_ms)
    }

    /// Snapshots that are open, with the ranges that read from them.
    #[must_use]
    pub fn open_snapshots(&self) -> OpenSnapshots {
        self.shared.snapshots.read(self.log().now())
    }

    /// The commits behind `from`, which is the end of a batch (a receipt's LSN, or
    /// [`Tail::position`]), of a frame, or [`Lsn::ZERO`] for all.
    ///
    /// # Errors
    /// `NotHeld` above what is visible or within a batch, `LogTruncated` where the log was given
    /// up, `Corrupt`, `Io`.
    pub fn tail(&self, from: Lsn) -> Result<Tail> {
        Tail::new(self.clone(), from, None)
    }

    /// The commits behind `from` that touch one of `keyspaces`, each with what it changed in those.
    /// As [`Store::tail`], but the numbers of its commits have gaps: [`Tail::position`] moves on
    /// over commits that touch none, so that it is the place to go on from.
    ///
    /// ```
    /// # use outlast_engine::{Batch, Lsn, Store};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = Store::open_in_memory()?;
    /// let (orders, views) = (store.keyspace("orders")?, store.keyspace("views")?);
    /// let mut batch = Batch::new();
    /// batch.put(&orders, "1", "tea")?;
    /// batch.put(&views, "mina", "7")?;
    /// store.commit(batch, Default::default())?;
    /// let mut batch = Batch::new();
    /// batch.put(&views, "mina", "8")?;
    /// let last = store.commit(batch, Default::default())?;
    ///
    /// let mut tail = store.tail_of([&orders], Lsn::ZERO)?;
    /// let commit = tail.poll()?.expect("one touches the orders");
    /// assert_eq!((commit.changes.len(), &commit.changes[0].key[..]), (1, &b"1"[..]));
    /// assert!(tail.poll()?.is_none());
    /// assert!(tail.position() >= last.lsn);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Store::tail`]; `NoKeyspace` when one is another store's.
    pub fn tail_of<'a>(
        &self,
        keyspaces: impl IntoIterator<Item = &'a Keyspace>,
        from: Lsn,
    ) -> Result<Tail> {
        let tag = self.shared.state.catalogue.tag();
        let id = |keyspace: &Keyspace| tag.check(keyspace).map(|()| keyspace.id());
        let only = keyspaces.into_iter().map(id).collect::<Result<_>>()?;
        Tail::new(self.clone(), from, Some(only))
    }

    /// What this node knows of a receipt.
    #[must_use]
    pub fn receipt_status(&self, receipt: &Receipt) -> ReceiptStatus {
        self.shared.receipt_status(receipt)
    }

    /// Waits until a commit is visible here, so that a read that follows sees it.
    ///
    /// # Errors
    /// `Timeout`; `NotHeld` when the receipt lies on a fork; `Poisoned` or `Closed` when it can no
    /// longer be applied here.
    pub fn wait_applied(&self, receipt: &Receipt, timeout: Duration) -> Result<()> {
        let look = || self.shared.applied(receipt);
        let answer = self.shared.changes.wait(timeout, look);
        answer.unwrap_or_else(|| {
            let visible = self.log().visible();
            let message = format!(
                "commit {} (position {}) is not visible here yet: this node shows up to {visible}; \
                 wait longer, or read on the primary",
                receipt.commit, receipt.lsn
            );
            Err(Error::new(ErrorKind::Timeout, message))
        })
    }

    /// [`Store::wait_applied`] as a future, on any runtime; put the runtime's deadline around it.
    ///
    /// # Errors
    /// As [`Store::wait_applied`], without `Timeout`.
    pub fn wait_applied_async(
        &self,
        receipt: Receipt,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        let shared = self.shared.clone();
        let changes = shared.changes.clone();
        changes.until(move || shared.applied(&receipt))
    }
}

impl Shared {
    /// Up to where the index is complete: on a writer ahead of what is visible, if anything.
    pub(crate) fn applied_end(&self) -> Lsn {
        self.state.end()
    }

    fn receipt_status(&self, receipt: &Receipt) -> ReceiptStatus {
        // Positions first: a later history only says more about bytes that were counted already.
        let positions = self.log.positions();
        let writes = self.log.state() == LogState::Writing;
        self.log
            .with_history(|history| judge(receipt, history, &positions, writes))
    }

    /// Whether a commit is visible, or why it never will be; `None` while it is awaited.
    fn applied(&self, receipt: &Receipt) -> Option<Result<()>> {
        match self.receipt_status(receipt) {
            ReceiptStatus::InThisHistory => return Some(Ok(())),
            ReceiptStatus::OnAFork => {
                let message = format!(
                    "commit {} of epoch {} at {} is not in this node's history: it lies on a fork",
                    receipt.commit, receipt.epoch, receipt.lsn
                );
                return Some(Err(Error::new(ErrorKind::NotHeld, message)));
            }
            ReceiptStatus::Pending => {}
        }
        self.ended().map(Err)
    }

    /// Why nothing will change any more, if so.
    pub(crate) fn ended(&self) -> Option<Error> {
        match self.log.state() {
            LogState::Poisoned(why) => {
                let message = format!("the log is poisoned ({why}): reopen the store");
                Some(Error::new(ErrorKind::Poisoned, message))
            }
            LogState::Closed => Some(Error::new(ErrorKind::Closed, "the store is closed")),
            LogState::Reading
            | LogState::ReadOnly
            | LogState::Following
            | LogState::Writing
            | LogState::Fenced(_)
            | LogState::Halted(_) => None,
        }
    }
}

/// What a node with this history and these positions can say of a receipt.
fn judge(
    receipt: &Receipt,
    history: &History,
    positions: &Positions,
    writes: bool,
) -> ReceiptStatus {
    let Some(epoch) = history.find(receipt.epoch) else {
        // Below the end of this log other epochs hold the place, and behind it a writer puts only
        // its own. A follower may yet receive the epoch.
        return if writes || receipt.lsn <= positions.appended.lsn {
            ReceiptStatus::OnAFork
        } else {
            ReceiptStatus::Pending
        };
    };
    let newest = history.last().is_some_and(|last| last.id == epoch.id);
    let left_at = history.end_of(epoch.id, positions.appended.lsn);
    let behind = left_at.is_none_or(|end| receipt.lsn > end) && !newest;
    if receipt.lsn <= epoch.fork || behind {
        ReceiptStatus::OnAFork
    } else if receipt.lsn <= positions.visible.lsn {
        ReceiptStatus::InThisHistory
    } else {
        ReceiptStatus::Pending
    }
}
