//! LMDB by heed: a transaction ends with an fdatasync of its pages and a write of the page that
//! names them, which is synchronous by `O_DSYNC`.

use std::ops::Bound;
use std::path::Path;

use anyhow::Result;
use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, PutFlags, RoTxn, WithTls};

use super::{Engine, Reader, Show, Way};
use crate::data::{Key, Pair};

pub(super) struct Lmdb {
    env: Env<WithTls>,
    database: Database<'static, Bytes, Bytes>,
}

/// Address space, not memory.
const MAP_BYTES: usize = 64 << 30;
const READERS_MAX: u32 = 256;

impl Lmdb {
    /// Opens the store in `dir`; as its makers advise, without reading ahead where the data is
    /// larger than memory.
    pub(super) fn open(dir: &Path, larger_than_memory: bool) -> Result<Self> {
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_BYTES).max_readers(READERS_MAX);
        // SAFETY: no other process writes to these files, and this one opens them once.
        #[allow(unsafe_code)]
        let env = unsafe {
            if larger_than_memory {
                options.flags(EnvFlags::NO_READ_AHEAD);
            }
            options.open(dir)?
        };
        let database = env
            .create_databases_and_commit(env.write_txn()?, |opener, transaction| {
                let database = opener.create_database(transaction, None)?;
                heed::Result::Ok(CommitOrAbort::<_, ()>::Commit(database))
            })?
            .unwrap_commit();
        Ok(Self { env, database })
    }

    /// One transaction.
    fn write<V: AsRef<[u8]>>(
        &self,
        flags: PutFlags,
        pairs: impl Iterator<Item = (Key, V)>,
    ) -> Result<()> {
        let mut transaction = self.env.write_txn()?;
        for (key, value) in pairs {
            self.database
                .put_with_flags(&mut transaction, flags, &key, value.as_ref())?;
        }
        Ok(transaction.commit()?)
    }
}

impl Engine for Lmdb {
    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        self.write(PutFlags::empty(), std::iter::once((*key, value)))
    }

    fn put_batch(&self, pairs: &[Pair]) -> Result<()> {
        let pairs = pairs.iter().map(|(key, value)| (*key, value));
        self.write(PutFlags::empty(), pairs)
    }

    fn load(&self, pairs: &mut dyn Iterator<Item = Pair>) -> Result<&'static str> {
        self.write(PutFlags::empty(), pairs)?;
        Ok("one transaction")
    }

    fn load_sorted(&self, pairs: &mut dyn Iterator<Item = Pair>) -> Result<&'static str> {
        self.write(PutFlags::APPEND, pairs)?;
        Ok("one transaction with MDB_APPEND")
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(View {
            transaction: self.env.read_txn()?,
            database: self.database,
        }))
    }

    fn compact(&mut self) -> Result<Way> {
        Ok(Way::Cannot("only by copying into a new file"))
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.env.prepare_for_closing().wait();
        Ok(())
    }
}

struct View<'a> {
    transaction: RoTxn<'a, WithTls>,
    database: Database<'static, Bytes, Bytes>,
}

impl Reader for View<'_> {
    fn get(&mut self, key: &Key, show: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let value = self.database.get(&self.transaction, key)?;
        Ok(value.map(show).is_some())
    }

    fn scan(&mut self, from: &Key, show: Show<'_>) -> Result<()> {
        let from = (Bound::Included(from.as_slice()), Bound::Unbounded);
        for entry in self.database.range(&self.transaction, &from)? {
            let (key, value) = entry?;
            if show(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}
