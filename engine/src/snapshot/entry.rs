//! A value with the position at which it was written.

use bytes::Bytes;

use super::Snapshot;
use crate::error::Result;
use crate::format::Lsn;
use crate::keyspace::Keyspace;
use crate::record;

/// What a key holds, and since when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// Where it was written: changes whenever the key is written again, be it with the same value.
    pub lsn: Lsn,
}

impl Snapshot {
    /// The value of `key` with its position, or `None` if it has none here.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn get_entry(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Entry>> {
        let found = self.entry_of(keyspace, key.as_ref());
        found.map_err(|error| self.of_age(error))
    }

    fn entry_of(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Entry>> {
        let shared = self.shared();
        self.check_tag(keyspace)?;
        let index = shared.state.index();
        self.check_age()?;
        shared.log.counters().gets.add(1);
        let found = index.get(keyspace.id(), key, self.lsn())?;
        let Some(version) = found.filter(|version| version.is_put_at(self.log_ms())) else {
            return Ok(None);
        };
        let bytes = record::read(&shared.log, version)?;
        let (_, value) = record::verify(&shared.log, &bytes, keyspace.id(), key, version.lsn)?;
        let lsn = version.lsn;
        Ok(Some(Entry { value, lsn }))
    }
}
