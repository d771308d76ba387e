//! Transactions: reads of one position, writes that are committed only if the reads still hold.

mod compare;
mod retry;
mod scan;
mod validate;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::batch::Batch;
use crate::conflict::{ReadSet, Span};
use crate::error::{CommitError, Error, Result};
use crate::format::Lsn;
use crate::keyspace::Keyspace;
use crate::log::{Check, CommitFuture, CommitOptions, Draft, Pipeline};
use crate::receipt::Receipt;
use crate::snapshot::{Entry, Snapshot, behind_prefix};
use crate::store::{Shared, Store};

pub use self::compare::{Compared, Expected};
pub use self::retry::TransactOptions;
use self::scan::Hidden;
pub use self::scan::{TransactionKeys, TransactionRange};

/// Reads of one position, and writes that go by them. Begun by [`Store::transaction`].
///
/// It reads as a [`Snapshot`] does, and sees its own writes on top. Committed, it is as if it had
/// run alone at the position of its receipt: keys that it read, found or not, and ranges as far as
/// it read them, empty ones included, were not written by anybody else in between. If one was, the
/// commit fails with [`TransactionConflict`](crate::ErrorKind::TransactionConflict), and nothing is
/// written. [`Store::transact`] then runs it again.
///
/// Nothing is locked: it costs nobody anything to keep one open, but that its position is kept
/// readable, and to drop one is to give it up. One that only reads need not be committed at all:
/// what it read is the state at [`Transaction::lsn`]. That a value expires is no write: what has
/// one at that position has one for the whole transaction.
///
/// ```
/// # use outlast_engine::{CommitError, ErrorKind, Store};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Store::open_in_memory()?;
/// let seats = store.keyspace("seats")?;
/// let mut mina = store.transaction();
/// let mut jun = store.transaction();
/// assert!(mina.get(&seats, "12A")?.is_none() && jun.get(&seats, "12A")?.is_none());
/// mina.put(&seats, "12A", "mina")?;
/// jun.put(&seats, "12A", "jun")?;
/// let receipt = mina.commit(Default::default())?;
/// let lost = jun.commit(Default::default()).unwrap_err();
/// assert_eq!(lost.error().kind(), ErrorKind::TransactionConflict);
/// assert!(lost.error().lost_to().unwrap().lsn < receipt.lsn);
/// # Ok(())
/// # }
/// ```
#[must_use = "a transaction that is dropped writes nothing"]
pub struct Transaction {
    store: Store,
    snapshot: Snapshot,
    /// Shared with the ranges that are being read.
    reads: Arc<Mutex<ReadSet>>,
    batch: Batch,
    own: Own,
}

/// What a transaction has written so far.
#[derive(Default)]
struct Own {
    /// By keyspace; no value for a delete.
    keys: BTreeMap<u32, BTreeMap<Bytes, Option<Bytes>>>,
    /// Ranges that it deleted. What it has put into them before is a delete among the keys.
    ranges: Vec<Span>,
}

impl Own {
    /// What was written to a key; `None` if nothing was.
    fn get(&self, keyspace: u32, key: &[u8]) -> Option<Option<Bytes>> {
        let written = self.keys.get(&keyspace).and_then(|own| own.get(key));
        let deleted = || {
            self.ranges
                .iter()
                .any(|range| range.contains(keyspace, key))
        };
        written.cloned().or_else(|| deleted().then_some(None))
    }
}

impl Store {
    /// Begins a transaction on the state as it is visible now.
    pub fn transaction(&self) -> Transaction {
        Transaction {
            store: self.clone(),
            snapshot: self.snapshot(),
            reads: Arc::default(),
            batch: Batch::new(),
            own: Own::default(),
        }
    }
}

impl Transaction {
    /// Keys that one transaction may read one by one.
    pub const READ_KEYS_MAX: usize = crate::conflict::READ_KEYS_MAX;
    /// Bytes that those keys may have, all together.
    pub const READ_BYTES_MAX: usize = crate::conflict::READ_BYTES_MAX;
    /// Ranges that one transaction may read, whatever they hold; one that is read from both of its
    /// ends counts twice.
    pub const READ_RANGES_MAX: usize = crate::conflict::READ_RANGES_MAX;

    /// The position that it reads.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.snapshot.lsn()
    }

    /// The value of `key`, or `None` if it has none.
    ///
    /// # Errors
    /// As [`Snapshot::get`]; `Limit` when the transaction reads too much.
    pub fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        let key = key.as_ref();
        match self.written(keyspace, key)? {
            Some(value) => Ok(value),
            None => self.snapshot.get(keyspace, key),
        }
    }

    /// The values of `keys`, in their order.
    ///
    /// # Errors
    /// As [`Transaction::get`], for one of the keys that have one.
    pub fn multi_get<K: AsRef<[u8]>>(
        &self,
        keyspace: &Keyspace,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>> {
        let mut values = Vec::new();
        let (mut places, mut unwritten) = (Vec::new(), Vec::new());
        for (place, key) in keys.into_iter().enumerate() {
            let written = self.written(keyspace, key.as_ref())?;
            if written.is_none() {
                places.push(place);
                unwritten.push(key);
            }
            values.push(written.flatten());
        }
        let found = self.snapshot.multi_get(keyspace, unwritten)?;
        for (place, value) in places.into_iter().zip(found) {
            if let Some(slot) = values.get_mut(place) {
                *slot = value;
            }
        }
        Ok(values)
    }

    /// Whether `key` has a value.
    ///
    /// # Errors
    /// As [`Snapshot::contains_key`]; `Limit` when the transaction reads too much.
    pub fn contains_key(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        match self.written(keyspace, key)? {
            Some(value) => Ok(value.is_some()),
            None => self.snapshot.contains_key(keyspace, key),
        }
    }

    /// All keys of a keyspace with their values, from either end.
    pub fn iter(&self, keyspace: &Keyspace) -> TransactionRange {
        self.scan(keyspace, Bound::Unbounded, Bound::Unbounded)
    }

    /// The keys within `bounds` with their values, from either end; with what the transaction had
    /// written when this was called. Only as much of it counts as read as is taken from it.
    ///
    /// ```
    /// # use outlast_engine::Store;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = Store::open_in_memory()?;
    /// # let queue = store.keyspace("queue")?;
    /// let mut add = store.transaction();
    /// for job in ["0001", "0002", "0003"] {
    ///     add.put(&queue, job, "work")?;
    /// }
    /// add.commit(Default::default())?;
    ///
    /// // Another job at the end does not disturb who takes one from the front.
    /// let mut take = store.transaction();
    /// let (job, _) = take.range(&queue, "0000"..).next().expect("three were added")?;
    /// take.delete(&queue, &job)?;
    /// let mut add = store.transaction();
    /// add.put(&queue, "0004", "more")?;
    /// add.commit(Default::default())?;
    /// take.commit(Default::default())?;
    /// assert_eq!(store.snapshot().iter(&queue).count(), 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn range<K: AsRef<[u8]>>(
        &self,
        keyspace: &Keyspace,
        bounds: impl RangeBounds<K>,
    ) -> TransactionRange {
        let own = |bound: Bound<&K>| bound.map(|key| Bytes::copy_from_slice(key.as_ref()));
        self.scan(keyspace, own(bounds.start_bound()), own(bounds.end_bound()))
    }

    /// The keys that begin with `prefix`, with their values, from either end, as
    /// [`Transaction::range`] has them.
    pub fn prefix(&self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> TransactionRange {
        let prefix = prefix.as_ref();
        let lower = Bound::Included(Bytes::copy_from_slice(prefix));
        self.scan(keyspace, lower, behind_prefix(prefix))
    }

    /// Gives `key` the value `value`.
    ///
    /// # Errors
    /// As [`Batch::put`].
    pub fn put(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<()> {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.shared().state.catalogue.tag().check(keyspace)?;
        self.batch.put(keyspace, key, value)?;
        let value = Bytes::copy_from_slice(value);
        self.note_written(keyspace, key, Some(value));
        Ok(())
    }

    /// Gives `key` the value `value` for as long as `ttl`, as [`Batch::put_with_ttl`] does: counted
    /// from the commit on.
    ///
    /// # Errors
    /// As [`Batch::put`].
    pub fn put_with_ttl(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> Result<()> {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.shared().state.catalogue.tag().check(keyspace)?;
        self.batch.put_with_ttl(keyspace, key, value, ttl)?;
        let value = Bytes::copy_from_slice(value);
        self.note_written(keyspace, key, Some(value));
        Ok(())
    }

    /// Takes the values of all keys within `bounds` away, as [`Batch::delete_range`] does. That is
    /// no read of them.
    ///
    /// # Errors
    /// As [`Batch::delete_range`].
    pub fn delete_range<K: AsRef<[u8]>>(
        &mut self,
        keyspace: &Keyspace,
        bounds: impl RangeBounds<K>,
    ) -> Result<()> {
        let own = |bound: Bound<&K>| bound.map(|key| Bytes::copy_from_slice(key.as_ref()));
        let (lower, upper) = (own(bounds.start_bound()), own(bounds.end_bound()));
        self.delete_between(keyspace, lower, upper)
    }

    /// Takes the values of all keys that begin with `prefix` away, as
    /// [`Transaction::delete_range`] does.
    ///
    /// # Errors
    /// As [`Batch::delete_range`].
    pub fn delete_prefix(&mut self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> Result<()> {
        let prefix = prefix.as_ref();
        let lower = Bound::Included(Bytes::copy_from_slice(prefix));
        self.delete_between(keyspace, lower, behind_prefix(prefix))
    }

    /// Takes the value of `key` away, if it has one.
    ///
    /// # Errors
    /// As [`Batch::delete`].
    pub fn delete(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<()> {
        let key = key.as_ref();
        self.shared().state.catalogue.tag().check(keyspace)?;
        self.batch.delete(keyspace, key)?;
        self.note_written(keyspace, key, None);
        Ok(())
    }

    /// Commits it, as [`Store::commit`] commits a batch. Where nothing was read it is one; where
    /// nothing was written, the receipt says up to where the reads held.
    ///
    /// # Errors
    /// As [`Store::commit`]; [`CommitError::Failed`] of kind
    /// [`TransactionConflict`](crate::ErrorKind::TransactionConflict), with
    /// [`lost_to`](crate::Error::lost_to), when something that it read was changed since.
    pub fn commit(self, options: CommitOptions) -> Result<Receipt, CommitError> {
        let (store, draft) = self.draft();
        store.shared.log.commit(draft?, options)
    }

    /// [`Transaction::commit`] without blocking, as [`Store::commit_async`].
    ///
    /// # Errors
    /// The future ends as [`Transaction::commit`] does.
    pub fn commit_async(self, options: CommitOptions) -> CommitFuture {
        let (store, draft) = self.draft();
        let log = &store.shared.log;
        match draft {
            Ok(draft) => log.commit_async(draft, options),
            Err(error) => log.refuse_async(error),
        }
    }

    /// [`Transaction::commit_async`] behind all commits of a pipeline, as [`Store::commit_behind`].
    /// One that loses ends the pipeline.
    ///
    /// # Errors
    /// The future ends as [`Transaction::commit`] does, or `Failed` with `Skipped`.
    pub fn commit_behind(self, pipeline: &mut Pipeline, options: CommitOptions) -> CommitFuture {
        let (store, draft) = self.draft();
        let log = &store.shared.log;
        match draft {
            Ok(draft) => log.commit_behind(pipeline, draft, options),
            Err(error) => {
                pipeline.fail();
                log.refuse_async(error)
            }
        }
    }

    /// Queues it for the next call of [`Store::lead`], as [`Store::commit_queued`].
    ///
    /// # Errors
    /// The future ends as [`Transaction::commit`] does.
    pub fn commit_queued(self, options: CommitOptions) -> CommitFuture {
        let (store, draft) = self.draft();
        let log = &store.shared.log;
        match draft {
            Ok(draft) => log.commit_queued(draft, options),
            Err(error) => log.refuse_async(error),
        }
    }

    /// What is committed: the batch, with the reads that the writer has yet to check. All that can
    /// be checked without the writer is.
    fn draft(self) -> (Store, Result<Draft, Error>) {
        let Self {
            store,
            snapshot,
            reads,
            batch,
            ..
        } = self;
        // A range that is still being read finds another set to write to.
        let reads = std::mem::take(&mut *reads.lock());
        let draft = || {
            let shared = &store.shared;
            let (batch, needs) = batch.finish(shared.state.catalogue.tag())?;
            reads.require_complete()?;
            if reads.is_empty() {
                return Ok(Draft::from((batch, needs)));
            }
            // Before the position is taken: from here on nothing gets into the log but what this
            // node forms.
            shared.log.require_writing()?;
            let from = shared.applied_end();
            let unchanged = validate::unchanged(shared, &reads, snapshot.moment(), from);
            // What tells of a change may be gone too.
            snapshot.check_age()?;
            unchanged?;
            let check = Some(Box::new(Check { reads, from }));
            Ok(Draft {
                batch,
                needs,
                check,
            })
        };
        let draft = draft();
        (store, draft)
    }

    /// The value of `key` before the transaction, with its position.
    fn get_entry(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Entry>> {
        self.reads.lock().add_key(keyspace.id(), key)?;
        self.snapshot.get_entry(keyspace, key)
    }

    /// What the transaction itself has written to a key. If nothing, the key counts as read.
    fn written(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Option<Bytes>>> {
        self.shared().state.catalogue.tag().check(keyspace)?;
        let written = self.own.get(keyspace.id(), key);
        if written.is_none() {
            self.reads.lock().add_key(keyspace.id(), key)?;
        }
        Ok(written)
    }

    fn delete_between(
        &mut self,
        keyspace: &Keyspace,
        lower: Bound<Bytes>,
        upper: Bound<Bytes>,
    ) -> Result<()> {
        self.shared().state.catalogue.tag().check(keyspace)?;
        self.batch.delete_between(keyspace, &lower, &upper)?;
        let span = Span {
            keyspace: keyspace.id(),
            lower,
            upper,
        };
        if span.is_empty() {
            return Ok(());
        }
        let own = self.own.keys.get_mut(&keyspace.id()).into_iter();
        own.flat_map(|own| own.range_mut::<[u8], _>(span.bounds()))
            .for_each(|(_, value)| *value = None);
        self.own.ranges.push(span);
        Ok(())
    }

    fn note_written(&mut self, keyspace: &Keyspace, key: &[u8], value: Option<Bytes>) {
        let own = self.own.keys.entry(keyspace.id()).or_default();
        own.insert(Bytes::copy_from_slice(key), value);
    }

    fn scan(
        &self,
        keyspace: &Keyspace,
        lower: Bound<Bytes>,
        upper: Bound<Bytes>,
    ) -> TransactionRange {
        let inner = self.snapshot.scan(keyspace, lower.clone(), upper.clone());
        let span = Span {
            keyspace: keyspace.id(),
            lower,
            upper,
        };
        let hidden = self.own.ranges.iter();
        let hidden = hidden.filter(|range| range.meets(&span).is_some()).cloned();
        let inner = Hidden {
            ranges: hidden.collect(),
            inner,
        };
        let own = self
            .own
            .keys
            .get(&keyspace.id())
            .filter(|_| !span.is_empty());
        let own = own
            .into_iter()
            .flat_map(|own| own.range::<[u8], _>(span.bounds()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        TransactionRange::new(inner, own, self.reads.clone(), span)
    }

    fn shared(&self) -> &Shared {
        &self.store.shared
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, writes) = (self.lsn(), self.batch.len());
        write!(f, "Transaction(at {at}, {writes} writes)")
    }
}
