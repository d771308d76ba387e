//! fjall: a batch that is told to sync is one write to its journal and one fdatasync, both under
//! the journal's lock.

use std::path::Path;

use anyhow::Result;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};

use super::{Engine, Reader, Show, Way};
use crate::data::{Key, Pair};

pub(super) struct Fjall {
    database: Database,
    keyspace: Keyspace,
}

/// Syncs the size of a file that has grown too, on every file system of Linux.
const DURABLE: PersistMode = PersistMode::SyncData;
const LOAD_BATCH: usize = 10_000;

impl Fjall {
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Self> {
        let database = Database::builder(dir).cache_size(cache_bytes).open()?;
        let keyspace = database.keyspace("default", KeyspaceCreateOptions::default)?;
        Ok(Self { database, keyspace })
    }
}

impl Engine for Fjall {
    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        let mut batch = self.database.batch().durability(Some(DURABLE));
        batch.insert(&self.keyspace, key.as_slice(), value);
        Ok(batch.commit()?)
    }

    fn put_batch(&self, pairs: &[Pair]) -> Result<()> {
        let mut batch = self.database.batch().durability(Some(DURABLE));
        for (key, value) in pairs {
            batch.insert(&self.keyspace, key.as_slice(), value.as_slice());
        }
        Ok(batch.commit()?)
    }

    fn load(&self, pairs: &mut dyn Iterator<Item = Pair>) -> Result<&'static str> {
        loop {
            let mut batch = self.database.batch();
            for (key, value) in pairs.take(LOAD_BATCH) {
                batch.insert(&self.keyspace, key, value);
            }
            if batch.is_empty() {
                break;
            }
            batch.commit()?;
        }
        self.database.persist(DURABLE)?;
        Ok("batches of 10,000, then persist")
    }

    fn load_sorted(&self, pairs: &mut dyn Iterator<Item = Pair>) -> Result<&'static str> {
        let mut ingestion = self.keyspace.start_ingestion()?;
        for (key, value) in pairs {
            ingestion.write(key, value)?;
        }
        ingestion.finish()?;
        Ok("ingestion")
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(View {
            snapshot: self.database.snapshot(),
            keyspace: &self.keyspace,
        }))
    }

    fn compact(&mut self) -> Result<Way> {
        self.keyspace.rotate_memtable_and_wait()?;
        self.keyspace.major_compact()?;
        Ok(Way::By("major_compact"))
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.database.persist(DURABLE)?)
    }
}

struct View<'a> {
    snapshot: Snapshot,
    keyspace: &'a Keyspace,
}

impl Reader for View<'_> {
    fn get(&mut self, key: &Key, show: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let value = self.snapshot.get(self.keyspace, key)?;
        Ok(value.map(|value| show(&value)).is_some())
    }

    fn scan(&mut self, from: &Key, show: Show<'_>) -> Result<()> {
        for entry in self.snapshot.range(self.keyspace, from.as_slice()..) {
            let (key, value) = entry.into_inner()?;
            if show(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }
}
