//! Batches: what one caller commits as one.

use std::ops::{Bound, RangeBounds};
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::format::limits::{FRAME_LEN_MAX, KEY_LEN_MAX, SEGMENT_SIZE_MAX, payload_len_max};
use crate::format::{BatchBuf, Op, start_to_expire};
use crate::keyspace::{Keyspace, StoreTag, dropped, foreign};
use crate::snapshot::behind_prefix;

/// Longest batch in bytes, as encoded, that any store takes. One with small segments takes less.
const BATCH_LEN_MAX: usize = payload_len_max(SEGMENT_SIZE_MAX);
/// What a record takes beside its key and value, at most: its header, when it expires, a checksum
/// for each 8 KiB.
const RECORD_OVERHEAD_MAX: usize =
    16 + 8 + 4 * (BATCH_LEN_MAX / crate::format::limits::PIECE_LEN + 1);

/// Puts and deletes of keys and of ranges, over any keyspaces of one store, committed all or none,
/// in their order.
///
/// A batch is encoded while it is built: what a commit writes is what lies here already. A batch
/// without operations may be committed like any other; it has a commit number and a receipt, and
/// says that everything before it is durable.
///
/// ```
/// # use outlast_engine::{Batch, Store};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Store::open_in_memory()?;
/// let (users, rooms) = (store.keyspace("users")?, store.keyspace("rooms")?);
/// let mut batch = Batch::new();
/// batch.put(&users, "mina", "in room 7")?;
/// batch.put(&rooms, "7", "mina")?;
/// batch.delete(&rooms, "3")?;
/// let receipt = store.commit(batch, Default::default())?;
/// assert_eq!(receipt.commit, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Batch {
    records: BatchBuf,
    /// The store of the first keyspace, and that keyspace for an error to name.
    store: Option<(StoreTag, Keyspace)>,
    /// The other keyspaces.
    others: Vec<Keyspace>,
    /// Where the puts that expire begin, in bytes of the encoded batch.
    expiring: Vec<usize>,
}

/// What a batch asks of whoever puts it into the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Needs {
    /// Keyspaces that must be there.
    first: Option<Keyspace>,
    others: Vec<Keyspace>,
    /// Puts that are to be told the log time.
    expiring: Vec<usize>,
    /// The keyspace that its one record drops.
    pub(crate) drops: Option<Keyspace>,
}

impl Needs {
    /// # Errors
    /// `NoKeyspace` when one was dropped.
    pub(crate) fn check(&self) -> Result<()> {
        let mut keyspaces = self.first.iter().chain(&self.others);
        match keyspaces.find(|keyspace| keyspace.is_dropped()) {
            Some(keyspace) => Err(dropped(keyspace.name())),
            None => Ok(()),
        }
    }

    /// Whether [`Needs::start`] has anything to do.
    pub(crate) const fn expires(&self) -> bool {
        !self.expiring.is_empty()
    }

    /// Tells the puts of the batch that its log time is known, and with it when they expire.
    pub(crate) fn start(&self, batch: &mut [u8], log_ms: u64) {
        for offset in &self.expiring {
            start_to_expire(batch, *offset, log_ms);
        }
    }
}

impl Batch {
    /// A batch without operations.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives `key` the value `value`. Both may be empty.
    ///
    /// # Errors
    /// `Limit` when the key or the batch would be too long, `NoKeyspace` when the keyspace is
    /// another store's. The batch is then as it was.
    pub fn put(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<()> {
        self.push(Op::Put, keyspace, key.as_ref(), value.as_ref())
    }

    /// Gives `key` the value `value` for as long as `ttl`, rounded up to a millisecond: then it has
    /// none, as if it had been deleted.
    ///
    /// The time is counted in *log time*, which the writer's clock drives and the log carries: from
    /// that of the commit on, and equally on every node that has the log. Who reads at a position
    /// reads by the log time there, so a snapshot shows the same for as long as it is open. While
    /// nothing is committed, log time moves on every ten seconds; so a value may be seen for as
    /// long beyond its time. A clock that jumps moves it by a second at most.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use outlast_engine::{Batch, Store};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = Store::open_in_memory()?;
    /// let sessions = store.keyspace("sessions")?;
    /// let mut batch = Batch::new();
    /// batch.put_with_ttl(&sessions, "mina", "token", Duration::from_secs(1800))?;
    /// store.commit(batch, Default::default())?;
    /// assert_eq!(store.get(&sessions, "mina")?.as_deref(), Some(&b"token"[..]));
    /// # Ok(())
    /// # }
    /// ```
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
        let ttl_ms = u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        self.admit(keyspace, key, value)?;
        let offset = self
            .records
            .push_expiring(keyspace.id(), key, value, ttl_ms);
        self.expiring.push(offset);
        Ok(())
    }

    /// Takes the value of `key` away. A key without a value may be deleted: the log keeps the
    /// record.
    ///
    /// # Errors
    /// As [`Batch::put`].
    pub fn delete(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<()> {
        self.push(Op::Delete, keyspace, key.as_ref(), &[])
    }

    /// Takes the values of all keys within `bounds` away, as one record however many they are:
    /// those that were put before, in this batch too. Bounds that exclude one another hold no key,
    /// and add nothing to the batch.
    ///
    /// ```
    /// # use outlast_engine::{Batch, Store};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = Store::open_in_memory()?;
    /// # let readings = store.keyspace("readings")?;
    /// # let mut batch = Batch::new();
    /// # for day in ["2026-11-21", "2026-11-22", "2026-11-23"] { batch.put(&readings, day, "")?; }
    /// # store.commit(batch, Default::default())?;
    /// let mut batch = Batch::new();
    /// batch.delete_range(&readings, .."2026-11-23")?;
    /// store.commit(batch, Default::default())?;
    /// assert_eq!(store.snapshot().iter(&readings).count(), 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Batch::put`], for the keys of the bounds.
    pub fn delete_range<K: AsRef<[u8]>>(
        &mut self,
        keyspace: &Keyspace,
        bounds: impl RangeBounds<K>,
    ) -> Result<()> {
        let own = |bound: Bound<&K>| bound.map(|key| Bytes::copy_from_slice(key.as_ref()));
        self.delete_between(
            keyspace,
            &own(bounds.start_bound()),
            &own(bounds.end_bound()),
        )
    }

    /// Takes the values of all keys that begin with `prefix` away, as [`Batch::delete_range`] does.
    ///
    /// # Errors
    /// As [`Batch::delete_range`].
    pub fn delete_prefix(&mut self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> Result<()> {
        let prefix = prefix.as_ref();
        let lower = Bound::Included(Bytes::copy_from_slice(prefix));
        self.delete_between(keyspace, &lower, &behind_prefix(prefix))
    }

    pub(crate) fn delete_between(
        &mut self,
        keyspace: &Keyspace,
        lower: &Bound<Bytes>,
        upper: &Bound<Bytes>,
    ) -> Result<()> {
        for bound in [lower, upper] {
            if let Bound::Included(key) | Bound::Excluded(key) = bound {
                check_key(key)?;
            }
        }
        // From the first key that goes to the first that stays.
        let first = match lower {
            Bound::Unbounded => Some(Vec::new()),
            Bound::Included(key) => Some(key.to_vec()),
            Bound::Excluded(key) => next_key(key),
        };
        let end = match upper {
            Bound::Unbounded => None,
            Bound::Included(key) => next_key(key),
            Bound::Excluded(key) => Some(key.to_vec()),
        };
        let Some(first) = first.filter(|first| end.as_ref().is_none_or(|end| first < end)) else {
            return match &self.store {
                Some((tag, _)) => tag.check(keyspace),
                None => Ok(()),
            };
        };
        self.push(Op::DeleteRange, keyspace, &first, &end.unwrap_or_default())
    }

    /// Drops the keyspace: the only record of its batch.
    pub(crate) fn drop_keyspace(keyspace: &Keyspace) -> (Vec<u8>, Needs) {
        let mut records = BatchBuf::default();
        records.push(Op::DropKeyspace, keyspace.id(), &[], &[]);
        let needs = Needs {
            first: Some(keyspace.clone()),
            drops: Some(keyspace.clone()),
            ..Needs::default()
        };
        (records.finish(), needs)
    }

    /// Operations so far.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.records.records() as usize
    }

    /// Whether it has no operations.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that it takes in the log, without its frame.
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        self.records.len_bytes()
    }

    /// The encoded batch, for a commit to the store of `tag`.
    pub(crate) fn finish(self, tag: StoreTag) -> Result<(Vec<u8>, Needs)> {
        let first = match self.store {
            Some((store, keyspace)) if store != tag => return Err(foreign(keyspace.name())),
            store => store.map(|(_, keyspace)| keyspace),
        };
        let needs = Needs {
            first,
            others: self.others,
            expiring: self.expiring,
            drops: None,
        };
        Ok((self.records.finish(), needs))
    }

    fn push(&mut self, op: Op, keyspace: &Keyspace, key: &[u8], value: &[u8]) -> Result<()> {
        self.admit(keyspace, key, value)?;
        self.records.push(op, keyspace.id(), key, value);
        Ok(())
    }

    /// Checks that a record may be added, and takes up its keyspace.
    fn admit(&mut self, keyspace: &Keyspace, key: &[u8], value: &[u8]) -> Result<()> {
        check_key(key)?;
        let len = self.len_bytes().saturating_add(value.len());
        if len.saturating_add(key.len() + RECORD_OVERHEAD_MAX) > BATCH_LEN_MAX {
            let message = format!(
                "a batch of {len} bytes and more: the limit is {BATCH_LEN_MAX}, since a frame has at \
                 most {FRAME_LEN_MAX}; split it, or split the value"
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        match &self.store {
            Some((tag, first)) => {
                tag.check(keyspace)?;
                if first != keyspace && !self.others.contains(keyspace) {
                    self.others.push(keyspace.clone());
                }
            }
            None => self.store = Some((keyspace.store(), keyspace.clone())),
        }
        Ok(())
    }
}

fn check_key(key: &[u8]) -> Result<()> {
    if key.len() <= KEY_LEN_MAX {
        return Ok(());
    }
    let message = format!(
        "a key of {} bytes: the limit is {KEY_LEN_MAX}; put a digest of it there and the key itself \
         into the value",
        key.len()
    );
    Err(Error::new(ErrorKind::Limit, message))
}

/// The first key behind `key`; `None` if it is the last that there can be.
pub(crate) fn next_key(key: &[u8]) -> Option<Vec<u8>> {
    let mut next = key.to_vec();
    if key.len() < KEY_LEN_MAX {
        next.push(0);
        return Some(next);
    }
    // No longer one can be: the last byte that can be raised is.
    while let Some(last) = next.pop() {
        if let Some(raised) = last.checked_add(1) {
            next.push(raised);
            return Some(next);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{KeyspaceRecord, Lsn, Records};
    use crate::keyspace::Catalogue;

    fn keyspace(tag: StoreTag) -> Keyspace {
        let catalogue = Catalogue::new(tag);
        let name = "users".to_owned();
        catalogue.learn(KeyspaceRecord { id: 1, name }).unwrap();
        catalogue.by_id(1).unwrap()
    }

    #[test]
    fn limits_are_refused_by_name_and_leave_the_batch_as_it_was() {
        let tag = StoreTag::new();
        let users = keyspace(tag);
        let mut batch = Batch::new();
        batch.put(&users, [7; KEY_LEN_MAX], "").unwrap();
        let before = batch.len_bytes();
        let error = batch.delete(&users, [7; KEY_LEN_MAX + 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
        assert!(error.to_string().contains("2049") && error.to_string().contains("2048"));
        let error = batch.put(&users, "k", vec![0; BATCH_LEN_MAX]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
        assert!(
            error.to_string().contains(&BATCH_LEN_MAX.to_string()),
            "{error}"
        );
        assert_eq!((batch.len(), batch.len_bytes()), (1, before));
        batch.put(&users, "k", vec![0; BATCH_LEN_MAX / 2]).unwrap();
        assert!(batch.finish(tag).unwrap().0.len() <= BATCH_LEN_MAX);
    }

    #[test]
    fn ranges_are_from_the_first_key_that_goes_to_the_first_that_stays() {
        let users = keyspace(StoreTag::new());
        let longest = vec![7; KEY_LEN_MAX];
        let last = vec![u8::MAX; KEY_LEN_MAX];
        let behind_longest = [&longest[1..], &[8]].concat();
        let key = |key: &[u8]| Bytes::copy_from_slice(key);
        let (included, excluded) = (
            |k: &[u8]| Bound::Included(key(k)),
            |k: &[u8]| Bound::Excluded(key(k)),
        );
        let cases = [
            (included(b"a"), excluded(b"b"), Some((&b"a"[..], &b"b"[..]))),
            (excluded(b"a"), included(b"b"), Some((b"a\0", b"b\0"))),
            (Bound::Unbounded, Bound::Unbounded, Some((b"", b""))),
            (
                excluded(&longest),
                Bound::Unbounded,
                Some((&behind_longest, b"")),
            ),
            (included(b"a"), included(&last), Some((b"a", b""))),
            (excluded(&last), Bound::Unbounded, None),
            (excluded(b"a"), excluded(b"a\0"), None),
            (included(b"a"), excluded(b"a"), None),
            (included(b"b"), included(b"a"), None),
            (included(b""), excluded(b""), None),
        ];
        for (lower, upper, expected) in cases {
            let mut batch = Batch::new();
            batch.delete_between(&users, &lower, &upper).unwrap();
            let (bytes, _) = batch.finish(users.store()).unwrap();
            let mut records = Records::new(&bytes, Lsn::ZERO, 1);
            let found = records.next().map(|placed| placed.unwrap().record);
            let found = found.map(|record| (record.key, record.value));
            assert_eq!(found, expected, "{lower:?} {upper:?}");
        }
        let too_long = Bytes::from(vec![7; KEY_LEN_MAX + 1]);
        let error = Batch::new().delete_range(&users, ..too_long).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
    }

    #[test]
    fn keyspaces_of_two_stores_never_meet() {
        let (ours, theirs) = (StoreTag::new(), StoreTag::new());
        let mut batch = Batch::new();
        batch.put(&keyspace(ours), "a", "1").unwrap();
        let error = batch.put(&keyspace(theirs), "a", "1").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoKeyspace);
        assert_eq!(batch.len(), 1);
        let error = batch.clone().finish(theirs).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoKeyspace);
        let (bytes, _) = batch.finish(ours).unwrap();
        assert_eq!(Records::new(&bytes, Lsn::ZERO, 1).count(), 1);
        assert!(Batch::new().finish(theirs).is_ok());
    }
}
