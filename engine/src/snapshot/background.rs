//! Reading without waiting for the disk: what lies in memory at once, the rest by the store's own
//! threads.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;

use super::{Range, Snapshot};
use crate::error::Result;
use crate::fs::is_resident;
use crate::keyspace::Keyspace;
use crate::record;
use crate::store::{Reading, Shared};

/// Entries of a range that are read at once.
const PORTION_LEN: usize = 256;

impl Snapshot {
    /// [`Snapshot::get`] without waiting for the disk: a future for any runtime.
    ///
    /// ```
    /// # use outlast_engine::{Batch, Store};
    /// # async fn read() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = Store::open_in_memory()?;
    /// # let users = store.keyspace("users")?;
    /// let snapshot = store.snapshot();
    /// let (mina, jun) = (snapshot.get_async(&users, "mina"), snapshot.get_async(&users, "jun"));
    /// // Both are on their way.
    /// let _ = (mina.await?, jun.await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The future ends as [`Snapshot::get`] does; with `Closed` when the read came to no end, which
    /// would be a bug.
    pub fn get_async(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Reading<Option<Bytes>> {
        let key = key.as_ref();
        if let Some(answer) = self.get_resident(keyspace, key).transpose() {
            let counters = self.shared().log.counters();
            counters.gets.add(1);
            counters.async_inline.add(1);
            return Reading::ready(answer.map_err(|error| self.of_age(error)));
        }
        let key = Bytes::copy_from_slice(key);
        self.read_behind(keyspace, move |snapshot, keyspace| {
            snapshot.get(keyspace, &key)
        })
    }

    /// [`Snapshot::multi_get`] without waiting for the disk: a future for any runtime.
    ///
    /// # Errors
    /// As [`Snapshot::get_async`].
    pub fn multi_get_async<K: AsRef<[u8]>>(
        &self,
        keyspace: &Keyspace,
        keys: impl IntoIterator<Item = K>,
    ) -> Reading<Vec<Option<Bytes>>> {
        let keys = keys.into_iter();
        let keys: Vec<_> = keys
            .map(|key| Bytes::copy_from_slice(key.as_ref()))
            .collect();
        let resident = keys
            .iter()
            .map(|key| self.get_resident(keyspace, key))
            .collect::<Result<Option<Vec<_>>>>();
        if let Some(answer) = resident.transpose() {
            let counters = self.shared().log.counters();
            counters.gets.add(keys.len() as u64);
            counters.async_inline.add(1);
            return Reading::ready(answer.map_err(|error| self.of_age(error)));
        }
        self.read_behind(keyspace, move |snapshot, keyspace| {
            snapshot.multi_get(keyspace, &keys)
        })
    }

    fn read_behind<T: Send + 'static>(
        &self,
        keyspace: &Keyspace,
        read: impl FnOnce(&Self, &Keyspace) -> Result<T> + Send + 'static,
    ) -> Reading<T> {
        let (snapshot, keyspace) = (self.clone(), keyspace.clone());
        self.shared().log.counters().async_pooled.add(1);
        self.shared().pool.read(move || {
            let answer = read(&snapshot, &keyspace);
            snapshot.shared().look_at_index();
            answer
        })
    }

    /// The value of `key`, if all that tells it lies in memory; `None` when that is not known.
    fn get_resident(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Option<Bytes>>> {
        let shared = self.shared();
        self.check_tag(keyspace)?;
        let index = shared.state.index();
        self.check_age()?;
        let found = match index.get_in_memory(keyspace.id(), key, self.lsn()) {
            Some(version) => Some(version),
            None if index.runs().all().next().is_none() => None,
            None if shared.pool.index_is_resident(shared.log.now()) => {
                index.get(keyspace.id(), key, self.lsn())?
            }
            None => return Ok(None),
        };
        let Some(version) = found.filter(|version| version.is_put_at(self.log_ms())) else {
            return Ok(Some(None));
        };
        if !shared.log.has_mapped(version.lsn) {
            return Ok(None);
        }
        let bytes = record::read(&shared.log, version)?;
        if !is_resident(&bytes) {
            return Ok(None);
        }
        let (_, value) = record::verify(&shared.log, &bytes, keyspace.id(), key, version.lsn)?;
        Ok(Some(Some(value)))
    }
}

impl Shared {
    /// Finds out whether the index lies in memory, now and then.
    fn look_at_index(&self) {
        let look = || self.state.index().runs().all().all(|run| run.is_resident());
        self.pool.look_at_index(self.log.now(), look);
    }
}

impl Range {
    /// The same entries from the front, for async code: read by the store's own threads, several at
    /// a time.
    ///
    /// ```
    /// # use outlast_engine::{Batch, Store};
    /// # async fn read() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = Store::open_in_memory()?;
    /// # let users = store.keyspace("users")?;
    /// let mut range = store.snapshot().prefix(&users, "m").into_async();
    /// while let Some(entry) = range.next().await {
    ///     let (key, value) = entry?;
    ///     println!("{key:?} {value:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn into_async(self) -> AsyncRange {
        AsyncRange {
            ready: VecDeque::new(),
            rest: Rest::Left(Box::new(self)),
        }
    }
}

/// Keys with their values, in the order of their bytes, for async code. Made by
/// [`Range::into_async`].
pub struct AsyncRange {
    ready: Portion,
    rest: Rest,
}

type Portion = VecDeque<Result<(Bytes, Bytes)>>;

enum Rest {
    Left(Box<Range>),
    Reading(Reading<(Box<Range>, Portion)>),
    Ended,
}

impl AsyncRange {
    /// The next entry; `None` at the end. One that cannot be read is an error in its place.
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// As those of a [`Range`]; `Closed`, as the last, when a read came to no end, which would be a
    /// bug.
    pub async fn next(&mut self) -> Option<Result<(Bytes, Bytes)>> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Some(entry);
            }
            self.rest = match std::mem::replace(&mut self.rest, Rest::Ended) {
                Rest::Left(range) => Rest::Reading(read(range)),
                Rest::Ended => return None,
                reading @ Rest::Reading(_) => reading,
            };
            let Rest::Reading(reading) = &mut self.rest else {
                continue;
            };
            match reading.await {
                Ok((range, portion)) => {
                    self.rest = if portion.len() < PORTION_LEN {
                        Rest::Ended
                    } else {
                        Rest::Left(range)
                    };
                    self.ready = portion;
                }
                Err(error) => {
                    self.rest = Rest::Ended;
                    return Some(Err(error));
                }
            }
        }
    }
}

fn read(mut range: Box<Range>) -> Reading<(Box<Range>, Portion)> {
    let snapshot = range.snapshot().clone();
    snapshot.shared().pool.read(move || {
        let portion = range.by_ref().take(PORTION_LEN).collect();
        Ok((range, portion))
    })
}

impl fmt::Debug for AsyncRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AsyncRange")
    }
}
