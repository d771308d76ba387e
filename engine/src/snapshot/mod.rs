//! Snapshots: the state at one position of the log, for as long as somebody looks at it.

mod background;
mod entry;
mod many;
mod open;
mod scan;

use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use self::open::Place;
pub(crate) use self::open::Register;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Lsn, Op};
use crate::index::{Cursor, Index, KeyRange, Moment, Version};
use crate::keyspace::Keyspace;
use crate::planted::{Bug, on};
use crate::record;
use crate::store::Shared;

pub use self::background::AsyncRange;
pub use self::entry::Entry;
pub use self::open::OpenSnapshots;
pub use self::scan::{Keys, Range};

/// The state at one position. Cheap to clone; never blocks the writer, nor is blocked by it.
///
/// Keys and values come as [`Bytes`] that share the log's memory: one that is kept long keeps the
/// frame or the file that it lies in. Copy what is to be kept for ever.
#[derive(Clone)]
pub struct Snapshot {
    pin: Arc<Pin>,
}

/// An entry in the register of open snapshots, which lasts as long as this.
struct Pin {
    shared: Arc<Shared>,
    place: Place,
    /// Log time there.
    log_ms: u64,
    /// From when on it is too old, by the monotonic clock.
    ends: Option<Duration>,
}

impl Pin {
    /// A pin at the position that `at` answers with, without its log time.
    fn new(shared: Arc<Shared>, at: impl FnOnce() -> Lsn) -> Self {
        let now = shared.log.now();
        let place = shared.snapshots.enter(now, at);
        let ends = shared.snapshots.ends(now);
        Self {
            shared,
            place,
            log_ms: 0,
            ends,
        }
    }
}

impl Snapshot {
    /// A snapshot at what is visible now.
    pub(crate) fn newest(shared: Arc<Shared>) -> Self {
        loop {
            let mut pin = Pin::new(shared.clone(), || shared.log.visible());
            // Without it, this was overtaken: by now more is visible.
            if let Some(log_ms) = shared.log_ms_at(pin.place.at) {
                pin.log_ms = log_ms;
                let pin = Arc::new(pin);
                return Self { pin };
            }
        }
    }

    /// A snapshot at `lsn`, which is pinned before `log_ms` is asked for the log time there.
    ///
    /// # Errors
    /// Those of `log_ms`.
    pub(crate) fn at(
        shared: Arc<Shared>,
        lsn: Lsn,
        log_ms: impl FnOnce() -> Result<u64>,
    ) -> Result<Self> {
        let mut pin = Pin::new(shared, || lsn);
        pin.log_ms = log_ms()?;
        let pin = Arc::new(pin);
        Ok(Self { pin })
    }

    /// Asked after the index was taken and before it is used: what it holds was then not given up.
    ///
    /// # Errors
    /// `SnapshotTooOld`.
    pub(crate) fn check_age(&self) -> Result<()> {
        let Some(ends) = self.pin.ends else {
            return Ok(());
        };
        if self.shared().log.now() < ends {
            return Ok(());
        }
        let message = format!(
            "the snapshot at {} is older than Config::snapshot_age_max allows: what it sees may be \
             gone; take a new one",
            self.lsn()
        );
        Err(Error::new(ErrorKind::SnapshotTooOld, message))
    }

    fn count_scanned(&self, entries: usize) {
        self.shared().log.counters().scanned.add(entries as u64);
    }

    /// What could not be read is gone because the snapshot is too old, if it is.
    pub(crate) fn of_age(&self, error: Error) -> Error {
        self.check_age().err().unwrap_or(error)
    }

    /// The position: every record below it is seen, none at or above it.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.pin.place.at
    }

    /// Log time there, in milliseconds since 1970: what has expired by then has no value here.
    #[must_use]
    pub fn log_ms(&self) -> u64 {
        self.pin.log_ms
    }

    /// The value of `key`, or `None` if it has none here.
    ///
    /// # Errors
    /// `Corrupt` when the record does not hold, `Io` when it cannot be read, `NoKeyspace` when the
    /// keyspace is another store's, or was dropped before this position, `SnapshotTooOld`.
    pub fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        let shared = self.shared();
        let index = shared.state.index();
        self.check_age()?;
        let found = shared.get_in(&index, keyspace, key.as_ref(), self.moment());
        found.map_err(|error| self.of_age(error))
    }

    /// Whether `key` has a value here. Looks at the index alone.
    ///
    /// # Errors
    /// `Corrupt` when the index does not hold, `Io`, `NoKeyspace` when the keyspace is another
    /// store's, or was dropped before this position.
    pub fn contains_key(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<bool> {
        let Shared { state, .. } = &*self.pin.shared;
        let Moment { lsn, log_ms } = self.moment();
        state.catalogue.tag().check_at(keyspace, lsn)?;
        let index = state.index();
        self.check_age()?;
        let version = index.get(keyspace.id(), key.as_ref(), lsn)?;
        Ok(version.is_some_and(|version| version.is_put_at(log_ms)))
    }

    /// All keys of a keyspace with their values, from either end.
    pub fn iter(&self, keyspace: &Keyspace) -> Range {
        self.scan(keyspace, Bound::Unbounded, Bound::Unbounded)
    }

    /// The keys within `bounds` with their values, in the order of their bytes, from either end.
    /// Bounds that exclude one another hold nothing.
    ///
    /// ```
    /// # use outlast_engine::{Batch, Store};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = Store::open_in_memory()?;
    /// # let users = store.keyspace("users")?;
    /// # let mut batch = Batch::new();
    /// # for name in ["ara", "jun", "mina"] { batch.put(&users, name, "")?; }
    /// # store.commit(batch, Default::default())?;
    /// let snapshot = store.snapshot();
    /// let mut range = snapshot.range(&users, "b".."n");
    /// assert_eq!(range.next().unwrap()?.0, "jun");
    /// assert_eq!(range.next_back().unwrap()?.0, "mina");
    /// assert!(range.next().is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn range<K: AsRef<[u8]>>(&self, keyspace: &Keyspace, bounds: impl RangeBounds<K>) -> Range {
        let own = |bound: Bound<&K>| bound.map(|key| Bytes::copy_from_slice(key.as_ref()));
        self.scan(keyspace, own(bounds.start_bound()), own(bounds.end_bound()))
    }

    /// The keys that begin with `prefix`, with their values, from either end.
    pub fn prefix(&self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> Range {
        let prefix = prefix.as_ref();
        let lower = Bound::Included(Bytes::copy_from_slice(prefix));
        self.scan(keyspace, lower, behind_prefix(prefix))
    }

    pub(crate) fn scan(
        &self,
        keyspace: &Keyspace,
        lower: Bound<Bytes>,
        upper: Bound<Bytes>,
    ) -> Range {
        let index = self.pin.shared.state.index();
        let range = KeyRange {
            keyspace: keyspace.id(),
            lower,
            upper,
            at: self.moment(),
        };
        let refused = self.check_tag(keyspace).err();
        Range::new(self.clone(), Cursor::new(index, range), refused)
    }

    /// Where it stands.
    pub(crate) fn moment(&self) -> Moment {
        Moment {
            lsn: self.lsn(),
            log_ms: self.log_ms(),
        }
    }

    /// # Errors
    /// `NoKeyspace` when it is another store's, or was dropped before this position.
    fn check_tag(&self, keyspace: &Keyspace) -> Result<()> {
        let catalogue = &self.shared().state.catalogue;
        catalogue.tag().check_at(keyspace, self.lsn())
    }

    fn shared(&self) -> &Shared {
        &self.pin.shared
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot({})", self.lsn())
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.shared.snapshots.leave(self.place);
    }
}

impl Shared {
    /// The value of `key` at position `at`, which is pinned, as `index` tells.
    pub(crate) fn get_in(
        &self,
        index: &Index,
        keyspace: &Keyspace,
        key: &[u8],
        at: Moment,
    ) -> Result<Option<Bytes>> {
        self.state.catalogue.tag().check_at(keyspace, at.lsn)?;
        self.log.counters().gets.add(1);
        let found = index.get(keyspace.id(), key, at.lsn)?;
        match found.filter(|version| version.is_put_at(at.log_ms)) {
            Some(version) => self.value_of(keyspace, key, version).map(Some),
            None => Ok(None),
        }
    }

    /// The newest visible value of `key`.
    pub(crate) fn get_newest(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Bytes>> {
        loop {
            // The index first: what is given up in it meanwhile is not given up in this view of it.
            let index = self.state.index();
            let visible = self.log.visible();
            self.state.catalogue.tag().check_at(keyspace, visible)?;
            self.log.counters().gets.add(1);
            let found = index.get(keyspace.id(), key, visible)?;
            let Some(version) = found.filter(|version| version.op == Op::Put) else {
                return Ok(None);
            };
            let log_ms = match version.expires_ms {
                0 => Some(0),
                _ => self.log_ms_at(visible),
            };
            // `None` when this was overtaken: by now more is visible.
            if let Some(log_ms) = log_ms {
                let live = version.is_put_at(log_ms).then_some(version);
                return live
                    .map(|version| self.value_of(keyspace, key, version))
                    .transpose();
            }
        }
    }

    /// Log time at a position that is or was visible; `None` far below what is.
    fn log_ms_at(&self, lsn: Lsn) -> Option<u64> {
        if on(Bug::ExpiryByWallClock) {
            return Some(self.log.wall_ms());
        }
        self.state.log_ms_at(lsn)
    }

    fn value_of(&self, keyspace: &Keyspace, key: &[u8], version: Version) -> Result<Bytes> {
        let bytes = record::read(&self.log, version)?;
        let (_, value) = record::verify(&self.log, &bytes, keyspace.id(), key, version.lsn)?;
        Ok(value)
    }
}

/// The first key behind all keys that begin with `prefix`: its last byte that can be raised is.
pub(crate) fn behind_prefix(prefix: &[u8]) -> Bound<Bytes> {
    let mut behind = prefix.to_vec();
    while let Some(last) = behind.pop() {
        if let Some(raised) = last.checked_add(1) {
            behind.push(raised);
            return Bound::Excluded(Bytes::from(behind));
        }
    }
    Bound::Unbounded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_passes_over_bytes_that_cannot_be_raised() {
        let excluded = |key: &'static [u8]| Bound::Excluded(Bytes::from_static(key));
        assert_eq!(behind_prefix(b"ab"), excluded(b"ac"));
        assert_eq!(behind_prefix(b"a\xff\xff"), excluded(b"b"));
        assert_eq!(behind_prefix(b"\xfe"), excluded(b"\xff"));
        assert_eq!(behind_prefix(b"\xff"), Bound::Unbounded);
        assert_eq!(behind_prefix(b""), Bound::Unbounded);
    }
}
