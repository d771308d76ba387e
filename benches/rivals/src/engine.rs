//! What is asked of every engine, and which ones there are.

mod fjall;
mod lmdb;
mod outlast;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod sqlite;

use std::ops::ControlFlow;
use std::path::Path;
use std::pin::Pin;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::data::{Key, Pair};

/// An open store. Whatever returns from a `put` is fsynced.
pub(crate) trait Engine: Sync {
    /// Commits one record durably.
    fn put(&self, key: &Key, value: &[u8]) -> Result<()>;

    /// Commits all records at once, durably.
    fn put_batch(&self, pairs: &[Pair]) -> Result<()>;

    /// As [`Engine::put`], without holding a thread; none where the engine cannot.
    fn put_async(&self, _key: &Key, _value: &[u8]) -> Option<Commit<'_>> {
        None
    }

    /// Loads records that come in no order, in the way that the engine's documents call the
    /// fastest; durable when it returns. Returns the name of that way.
    fn load(&self, pairs: &mut dyn Iterator<Item = Pair>) -> Result<&'static str>;

    /// The same for records that come in the order of their keys, into an empty store.
    fn load_sorted(&self, pairs: &mut dyn Iterator<Item = Pair>) -> Result<&'static str> {
        self.load(pairs)
    }

    /// A view for many reads of one thread.
    fn reader(&self) -> Result<Box<dyn Reader + '_>>;

    /// Brings the store into its best shape for reading.
    fn compact(&mut self) -> Result<Way>;

    /// What its log and index take, by its own account; none where there is no such account.
    fn space(&self) -> Option<Space> {
        None
    }

    /// Closes it as a service would that is stopped in good order.
    fn close(self: Box<Self>) -> Result<()>;
}

/// A commit on its way.
pub(crate) type Commit<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// What a log and its index take on the disk, without what is held ready for writing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Space {
    /// What is not written any more: the log without the segment that is written, and the index.
    pub(crate) settled_bytes: u64,
    /// Size of the index.
    pub(crate) index_bytes: u64,
    /// Versions in it.
    pub(crate) versions: u64,
}

/// How an engine does what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// With this call.
    By(&'static str),
    /// Not at all, for this reason.
    Cannot(&'static str),
}

/// One state of a store.
pub(crate) trait Reader {
    /// Shows the value of `key`. Whether there is one.
    fn get(&mut self, key: &Key, show: &mut dyn FnMut(&[u8])) -> Result<bool>;

    /// Shows the values of those of `keys` that have one, in their order.
    fn multi_get(&mut self, keys: &[Key], show: &mut dyn FnMut(&[u8])) -> Result<()> {
        for key in keys {
            self.get(key, show)?;
        }
        Ok(())
    }

    /// Whether [`Reader::multi_get`] is more than many gets.
    fn multi_get_way(&self) -> Way {
        Way::Cannot("no multi-get")
    }

    /// Shows keys with their values in order, from a key on, until told to stop.
    fn scan(&mut self, from: &Key, show: Show<'_>) -> Result<()>;
}

/// Is shown keys with their values, and says when it has seen enough.
pub(crate) type Show<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// The engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub(crate) enum Kind {
    Outlast,
    Fjall,
    Redb,
    #[cfg(feature = "rocksdb")]
    RocksDb,
    Lmdb,
    Sqlite,
}

impl Kind {
    /// Opens the store in `dir`, made if there is none; caches of its own take `cache_bytes`, and
    /// are told if the data is larger than memory.
    pub(crate) fn open(
        self,
        dir: &Path,
        cache_bytes: u64,
        larger_than_memory: bool,
    ) -> Result<Box<dyn Engine>> {
        Ok(match self {
            Self::Outlast => Box::new(outlast::Outlast::open(dir)?),
            Self::Fjall => Box::new(fjall::Fjall::open(dir, cache_bytes)?),
            Self::Redb => Box::new(redb::Redb::open(dir, cache_bytes)?),
            #[cfg(feature = "rocksdb")]
            Self::RocksDb => Box::new(rocksdb::RocksDb::open(dir, cache_bytes)?),
            Self::Lmdb => Box::new(lmdb::Lmdb::open(dir, larger_than_memory)?),
            Self::Sqlite => Box::new(sqlite::Sqlite::open(dir, cache_bytes)?),
        })
    }

    /// The packages that it comes in: what is called, and what that binds to.
    const fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Outlast => &["outlast-engine"],
            Self::Fjall => &["fjall", "lsm-tree"],
            Self::Redb => &["redb"],
            #[cfg(feature = "rocksdb")]
            Self::RocksDb => &["rocksdb", "librocksdb-sys"],
            Self::Lmdb => &["heed", "lmdb-master-sys"],
            Self::Sqlite => &["rusqlite", "libsqlite3-sys"],
        }
    }

    /// The versions that this program was built with.
    pub(crate) fn version(self) -> String {
        let versions = self.packages().iter().map(|name| locked(name));
        let mut versions: Vec<_> = versions.collect();
        match self {
            Self::Lmdb => {
                let lmdb = heed::lmdb_version();
                versions.push(format!("LMDB {}.{}.{}", lmdb.major, lmdb.minor, lmdb.patch));
            }
            Self::Sqlite => versions.push(format!("SQLite {}", rusqlite::version())),
            _ => {}
        }
        versions.join(", ")
    }

    /// Its name, as on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }
}

/// A package and its version by the lock file.
fn locked(name: &str) -> String {
    let lock = include_str!("../Cargo.lock");
    let entry = format!("name = \"{name}\"\nversion = \"");
    let version = lock
        .split_once(&entry)
        .and_then(|(_, rest)| rest.split_once('"'))
        .map_or("?", |(version, _)| version);
    format!("{name} {version}")
}

#[cfg(test)]
mod tests;
