//! One key, written if it holds what its writer believes.

use std::future::Future;

use bytes::Bytes;

use super::retry::Attempts;
use super::{TransactOptions, Transaction};
use crate::error::CommitError;
use crate::format::Lsn;
use crate::keyspace::Keyspace;
use crate::log::CommitOptions;
use crate::receipt::Receipt;
use crate::snapshot::Entry;
use crate::store::Store;

/// What a key must hold to be written by [`Store::compare_and_set`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Expected {
    /// No value.
    Absent,
    /// This value, whoever wrote it and whenever.
    Value(Bytes),
    /// The value that was written at this position, as [`Store::get_entry`] tells it.
    Lsn(Lsn),
}

/// How a [`Store::compare_and_set`] ended that was carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Compared {
    /// The key held what was expected, and is written.
    Set(Receipt),
    /// The key holds this instead; nothing was written. It is visible: a read that follows sees it
    /// too, or something newer.
    Differs(Option<Entry>),
}

impl Store {
    /// Writes `new` to a key, or takes its value away (`None`), if it holds what is expected.
    ///
    /// The deadline in `options` is for all of it. Whoever is overtaken compares again with what
    /// overtook it, as soon as that is visible.
    ///
    /// ```
    /// # use outlast_engine::{Compared, Expected, Store};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = Store::open_in_memory()?;
    /// let locks = store.keyspace("locks")?;
    /// let take = |who: &str| {
    ///     let options = Default::default();
    ///     store.compare_and_set(&locks, "backup", Expected::Absent, Some(who.as_bytes()), options)
    /// };
    /// assert!(matches!(take("mina")?, Compared::Set(_)));
    /// let Compared::Differs(Some(holder)) = take("jun")? else {
    ///     panic!("two hold one lock")
    /// };
    /// assert_eq!(holder.value, "mina");
    /// // Only the holder's own entry is taken away, whatever was written since.
    /// let released = Expected::Lsn(holder.lsn);
    /// let released = store.compare_and_set(&locks, "backup", released, None, Default::default())?;
    /// assert!(matches!(released, Compared::Set(_)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Store::commit`]; `Timeout` too when the deadline passes before what it lost to is
    /// visible. A key that holds something else is no error.
    pub fn compare_and_set(
        &self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        expected: Expected,
        new: Option<&[u8]>,
        options: CommitOptions,
    ) -> Result<Compared, CommitError> {
        let mut attempts = Attempts::new(unlimited(options));
        loop {
            match self.compare(keyspace, key.as_ref(), &expected, new)? {
                Attempt::Differs(entry) => return Ok(Compared::Differs(entry)),
                Attempt::Matches(write) => match write.commit(attempts.commit_options()) {
                    Ok(receipt) => return Ok(Compared::Set(receipt)),
                    Err(error) => attempts.lost(&self.shared, error)?,
                },
            }
        }
    }

    /// [`Store::compare_and_set`] as a future, on any runtime; put the runtime's deadline around
    /// it. One that is dropped leaves the outcome unknown.
    ///
    /// # Errors
    /// As [`Store::compare_and_set`], without `Timeout`.
    pub fn compare_and_set_async<K: AsRef<[u8]>>(
        &self,
        keyspace: &Keyspace,
        key: K,
        expected: Expected,
        new: Option<&[u8]>,
        options: CommitOptions,
    ) -> impl Future<Output = Result<Compared, CommitError>> + Send + use<K> {
        let (store, keyspace) = (self.clone(), keyspace.clone());
        let key = Bytes::copy_from_slice(key.as_ref());
        let new = new.map(Bytes::copy_from_slice);
        let mut attempts = Attempts::new(unlimited(options));
        async move {
            loop {
                match store.compare(&keyspace, &key, &expected, new.as_deref())? {
                    Attempt::Differs(entry) => return Ok(Compared::Differs(entry)),
                    Attempt::Matches(write) => {
                        match write.commit_async(attempts.commit_options()).await {
                            Ok(receipt) => return Ok(Compared::Set(receipt)),
                            Err(error) => attempts.lost_async(&store.shared, error).await?,
                        }
                    }
                }
            }
        }
    }

    fn compare(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        expected: &Expected,
        new: Option<&[u8]>,
    ) -> Result<Attempt, CommitError> {
        // A node that does not write cannot tell what the key holds by now.
        self.shared.log.require_writing()?;
        let mut transaction = self.transaction();
        let entry = transaction.get_entry(keyspace, key)?;
        if !expected.is(entry.as_ref()) {
            return Ok(Attempt::Differs(entry));
        }
        match new {
            Some(value) => transaction.put(keyspace, key, value)?,
            None => transaction.delete(keyspace, key)?,
        }
        Ok(Attempt::Matches(Box::new(transaction)))
    }
}

enum Attempt {
    Differs(Option<Entry>),
    Matches(Box<Transaction>),
}

impl Expected {
    /// Expects this value.
    #[must_use]
    pub fn value(value: impl AsRef<[u8]>) -> Self {
        Self::Value(Bytes::copy_from_slice(value.as_ref()))
    }

    fn is(&self, entry: Option<&Entry>) -> bool {
        match (self, entry) {
            (Self::Absent, None) => true,
            (Self::Value(value), Some(entry)) => entry.value == value,
            (Self::Lsn(lsn), Some(entry)) => entry.lsn == *lsn,
            _ => false,
        }
    }
}

/// As often as it takes: each attempt that is lost is one that somebody else has won.
const fn unlimited(options: CommitOptions) -> TransactOptions {
    TransactOptions {
        level: options.level,
        deadline: options.deadline,
        attempts_max: u32::MAX,
    }
}
