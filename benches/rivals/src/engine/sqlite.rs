//! SQLite by rusqlite: with `synchronous=FULL` a transaction ends with an fdatasync of the log.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};

use super::{Engine, Reader, Show, Way};
use crate::data::{Key, Pair};

pub(super) struct Sqlite {
    /// One for all writers: SQLite lets one write at a time, and lets others try again by sleeping.
    writer: Mutex<Connection>,
    file: PathBuf,
    cache_bytes: u64,
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS pairs (key BLOB PRIMARY KEY, value BLOB NOT NULL) \
                     WITHOUT ROWID";
const PUT: &str = "INSERT INTO pairs VALUES (?1, ?2) \
                   ON CONFLICT (key) DO UPDATE SET value = excluded.value";
const GET: &str = "SELECT value FROM pairs WHERE key = ?1";
const SCAN: &str = "SELECT key, value FROM pairs WHERE key >= ?1 ORDER BY key";

impl Sqlite {
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Self> {
        let file = dir.join("sqlite");
        let flags = OpenFlags::default();
        let connection = connect(&file, flags, cache_bytes)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute(TABLE, [])?;
        Ok(Self {
            writer: Mutex::new(connection),
            file,
            cache_bytes,
        })
    }

    fn writer(&self) -> MutexGuard<'_, Connection> {
        // A transaction that a panic ends is rolled back.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One transaction.
    fn write<V: AsRef<[u8]>>(&self, pairs: impl Iterator<Item = (Key, V)>) -> Result<()> {
        let mut writer = self.writer();
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut put = transaction.prepare_cached(PUT)?;
        for (key, value) in pairs {
            put.execute(params![key, value.as_ref()])?;
        }
        drop(put);
        Ok(transaction.commit()?)
    }
}

fn connect(file: &Path, flags: OpenFlags, cache_bytes: u64) -> Result<Connection> {
    let connection = Connection::open_with_flags(file, flags)?;
    // Negative: in KiB, not in pages.
    connection.pragma_update(None, "cache_size", -i64::try_from(cache_bytes >> 10)?)?;
    Ok(connection)
}

impl Engine for Sqlite {
    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        let writer = self.writer();
        writer.prepare_cached(PUT)?.execute(params![key, value])?;
        Ok(())
    }

    fn put_batch(&self, pairs: &[Pair]) -> Result<()> {
        self.write(pairs.iter().map(|(key, value)| (*key, value)))
    }

    fn load(&self, pairs: &mut dyn Iterator<Item = Pair>) -> Result<&'static str> {
        self.write(pairs)?;
        Ok("one transaction")
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = connect(&self.file, flags, self.cache_bytes)?;
        connection.execute_batch("BEGIN")?;
        Ok(Box::new(View { connection }))
    }

    fn compact(&mut self) -> Result<Way> {
        let writer = self.writer();
        writer.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")?;
        Ok(Way::By("VACUUM"))
    }

    fn close(self: Box<Self>) -> Result<()> {
        let connection = self
            .writer
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        connection.close().map_err(|(_, error)| error.into())
    }
}

struct View {
    connection: Connection,
}

impl Reader for View {
    fn get(&mut self, key: &Key, show: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let mut get = self.connection.prepare_cached(GET)?;
        let shown = get.query_row([key], |row| {
            show(row.get_ref(0)?.as_blob()?);
            Ok(())
        });
        Ok(shown.optional()?.is_some())
    }

    fn scan(&mut self, from: &Key, show: Show<'_>) -> Result<()> {
        let mut scan = self.connection.prepare_cached(SCAN)?;
        let mut rows = scan.query([from])?;
        while let Some(row) = rows.next()? {
            let (key, value): (ValueRef<'_>, _) = (row.get_ref(0)?, row.get_ref(1)?);
            if show(key.as_blob()?, value.as_blob()?).is_break() {
                break;
            }
        }
        Ok(())
    }
}
