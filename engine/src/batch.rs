//! Batches: what one caller commits as one.

use crate::error::{Error, ErrorKind, Result};
use crate::format::limits::{FRAME_LEN_MAX, KEY_LEN_MAX, SEGMENT_SIZE_MAX, payload_len_max};
use crate::format::{BatchBuf, Op};
use crate::keyspace::{Keyspace, StoreTag, foreign};

/// Longest batch in bytes, as encoded, that any store takes. One with small segments takes less.
const BATCH_LEN_MAX: usize = payload_len_max(SEGMENT_SIZE_MAX);
/// What a record takes beside its key and value, at most: its header, a checksum for each 8 KiB.
const RECORD_OVERHEAD_MAX: usize = 16 + 4 * (BATCH_LEN_MAX / crate::format::limits::PIECE_LEN + 1);

/// Puts and deletes over any keyspaces of one store, committed all or none, in their order.
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

    /// Takes the value of `key` away. A key without a value may be deleted: the log keeps the
    /// record.
    ///
    /// # Errors
    /// As [`Batch::put`].
    pub fn delete(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<()> {
        self.push(Op::Delete, keyspace, key.as_ref(), &[])
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
    pub(crate) fn finish(self, tag: StoreTag) -> Result<Vec<u8>> {
        match &self.store {
            Some((store, keyspace)) if *store != tag => Err(foreign(keyspace.name())),
            _ => Ok(self.records.finish()),
        }
    }

    fn push(&mut self, op: Op, keyspace: &Keyspace, key: &[u8], value: &[u8]) -> Result<()> {
        if key.len() > KEY_LEN_MAX {
            let message = format!(
                "a key of {} bytes: the limit is {KEY_LEN_MAX}; put a digest of it there and the \
                 key itself into the value",
                key.len()
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        let len = self.len_bytes().saturating_add(value.len());
        if len.saturating_add(key.len() + RECORD_OVERHEAD_MAX) > BATCH_LEN_MAX {
            let message = format!(
                "a batch of {len} bytes and more: the limit is {BATCH_LEN_MAX}, since a frame has at \
                 most {FRAME_LEN_MAX}; split it, or split the value"
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        match &self.store {
            Some((tag, _)) => tag.check(keyspace)?,
            None => self.store = Some((keyspace.store(), keyspace.clone())),
        }
        self.records.push(op, keyspace.id(), key, value);
        Ok(())
    }
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
        assert!(batch.finish(tag).unwrap().len() <= BATCH_LEN_MAX);
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
        let bytes = batch.finish(ours).unwrap();
        assert_eq!(Records::new(&bytes, Lsn::ZERO, 1).count(), 1);
        assert!(Batch::new().finish(theirs).is_ok());
    }
}
