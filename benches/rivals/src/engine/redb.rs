//! redb: a transaction with `Durability::Immediate` ends with one fdatasync of its file.

use std::path::Path;

use anyhow::{Context, Result};
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Engine, Reader, Show, Way};
use crate::data::{Key, Pair};

pub(super) struct Redb {
    database: Database,
}

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("default");

impl Redb {
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Self> {
        let cache_bytes = usize::try_from(cache_bytes)?;
        let database = Database::builder()
            .set_cache_size(cache_bytes)
            .create(dir.join("redb"))?;
        let own = Self { database };
        if own.database.begin_read()?.open_table(TABLE).is_err() {
            own.write(&mut std::iter::empty::<(&Key, &[u8])>())?;
        }
        Ok(own)
    }

    /// One transaction.
    fn write<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        pairs: &mut dyn Iterator<Item = (K, V)>,
    ) -> Result<()> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let mut table = transaction.open_table(TABLE)?;
        for (key, value) in pairs {
            table.insert(key.as_ref(), value.as_ref())?;
        }
        drop(table);
        Ok(transaction.commit()?)
    }
}

impl Engine for Redb {
    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        self.write(&mut std::iter::once((key, value)))
    }

    fn put_batch(&self, pairs: &[Pair]) -> Result<()> {
        self.write(&mut pairs.iter().map(|(key, value)| (key, value)))
    }

    fn load(&self, mut pairs: &mut dyn Iterator<Item = Pair>) -> Result<&'static str> {
        self.write(&mut pairs)?;
        Ok("one transaction")
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        Ok(Box::new(View { table }))
    }

    fn compact(&mut self) -> Result<Way> {
        self.database.compact()?;
        Ok(Way::By("compact"))
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.database.close().context("cannot close")
    }
}

struct View {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
}

impl Reader for View {
    fn get(&mut self, key: &Key, show: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let value = ReadableTable::get(&self.table, key.as_slice())?;
        Ok(value.map(|value| show(value.value())).is_some())
    }

    fn scan(&mut self, from: &Key, show: Show<'_>) -> Result<()> {
        for entry in ReadableTable::range::<&[u8]>(&self.table, from.as_slice()..)? {
            let (key, value) = entry?;
            if show(key.value(), value.value()).is_break() {
                break;
            }
        }
        Ok(())
    }
}
