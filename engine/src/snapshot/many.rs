//! Reading many keys at once: the index in the order of the keys, the log in its own.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Snapshot;
use crate::error::Result;
use crate::fs::{is_resident, prefetch, will_need};
use crate::index::Version;
use crate::keyspace::Keyspace;
use crate::log::Log;
use crate::record;

/// Records whose bytes are touched together, so that the memory that they lie in, or the disk under
/// the map, is fetched for all of them at once.
const AHEAD: usize = 32;

impl Snapshot {
    /// The values of `keys`, in their order. Quicker than one after the other where they are many,
    /// above all where they are not in memory.
    ///
    /// # Errors
    /// As [`Snapshot::get`], for one of the keys that have one.
    pub fn multi_get<K: AsRef<[u8]>>(
        &self,
        keyspace: &Keyspace,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>> {
        let keys: Vec<K> = keys.into_iter().collect();
        let keys: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
        self.values_of(keyspace, &keys)
            .map_err(|error| self.of_age(error))
    }

    fn values_of(&self, keyspace: &Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>> {
        let shared = self.shared();
        self.check_tag(keyspace)?;
        let index = shared.state.index();
        self.check_age()?;
        shared.log.counters().gets.add(keys.len() as u64);
        let mut sorted: Vec<_> = keys.iter().copied().enumerate().collect();
        sorted.sort_unstable_by_key(|(_, key)| *key);
        let mut found = Vec::with_capacity(keys.len());
        for (place, key) in sorted {
            let version = index.get(keyspace.id(), key, self.lsn())?;
            found.extend(
                version
                    .filter(|version| version.is_put_at(self.log_ms()))
                    .map(|version| (version, place, key)),
            );
        }
        found.sort_unstable_by_key(|(version, ..)| version.lsn);
        let mut values = vec![None; keys.len()];
        let asks_disk = asks_disk(&shared.log, &found)?;
        let mut ahead = VecDeque::with_capacity(AHEAD);
        let mut found = found.into_iter();
        loop {
            while ahead.len() < AHEAD
                && let Some((version, place, key)) = found.next()
            {
                let bytes = record::read(&shared.log, version)?;
                prefetch(&bytes);
                if asks_disk {
                    will_need(&bytes);
                }
                ahead.push_back((version, place, key, bytes));
            }
            let Some((version, place, key, bytes)) = ahead.pop_front() else {
                return Ok(values);
            };
            let (_, value) = record::verify(&shared.log, &bytes, keyspace.id(), key, version.lsn)?;
            if let Some(slot) = values.get_mut(place) {
                *slot = Some(value);
            }
        }
    }
}

/// Whether some of the records are not in memory, by a look at a few of them.
fn asks_disk(log: &Log, found: &[(Version, usize, &[u8])]) -> Result<bool> {
    const LOOKED_AT: usize = 4;
    for (version, ..) in found.iter().step_by((found.len() / LOOKED_AT).max(1)) {
        if !is_resident(&record::read(log, *version)?) {
            return Ok(true);
        }
    }
    Ok(false)
}
