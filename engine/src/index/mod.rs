//! The index: which record of the log holds a key's value at a position.
//!
//! It maps (keyspace, key) to the versions that the log holds of it, each with the LSN and the
//! length of its record; the values stay in the log. It is derived: it can be thrown away at any
//! time and built again by replaying the log. A reader names a position and sees, of each key, the
//! newest version below it, so what is inserted meanwhile never disturbs it.
//!
//! **Architecture invariant:** nothing outside this module knows how versions are kept. Readers
//! never block the writer, nor it them.

#![allow(
    dead_code,
    unused_imports,
    reason = "what flushes and merges comes on top"
)]

mod cursor;
mod levels;
mod memtable;
mod merge;
mod merged;
#[allow(
    dead_code,
    unused_imports,
    reason = "what flushes and merges comes on top"
)]
mod run;
mod source;
#[cfg(test)]
mod tests;
mod version;

use std::ops::Bound;

use self::memtable::Memtable;
use crate::format::{Lsn, Op};

pub(crate) use self::cursor::{Cursor, Direction, Found};

/// One version of one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Version {
    /// Where the record begins: its address for life.
    pub(crate) lsn: Lsn,
    /// Length of the whole record in bytes.
    pub(crate) len: u32,
    /// What it did to the key.
    pub(crate) op: Op,
}

/// A range of keys in one keyspace, as it looked at one position.
#[derive(Clone, Debug)]
pub(crate) struct KeyRange<K> {
    pub(crate) keyspace: u32,
    pub(crate) lower: Bound<K>,
    pub(crate) upper: Bound<K>,
    /// Versions at or above this position do not exist for the reader.
    pub(crate) at: Lsn,
}

/// The versions of all keys of all keyspaces. Insert-only.
#[derive(Debug, Default)]
pub(crate) struct Index {
    memtable: Memtable,
}

impl Index {
    /// Adds a version. Inserting the same one again changes nothing.
    pub(crate) fn insert(&self, keyspace: u32, key: &[u8], version: Version) {
        self.memtable.insert(keyspace, key, version);
    }

    /// The newest version of `key` below `at`, a delete included.
    pub(crate) fn get(&self, keyspace: u32, key: &[u8], at: Lsn) -> Option<Version> {
        self.memtable.get(keyspace, key, at)
    }

    /// Visits at most `limit` keys that have a value in `range`, from its start or from its end.
    fn visit(
        &self,
        range: &KeyRange<&[u8]>,
        direction: Direction,
        limit: usize,
        visit: &mut dyn FnMut(&[u8], Version),
    ) {
        match direction {
            Direction::Forward => self.memtable.forward(range, limit, visit),
            Direction::Reverse => self.memtable.reverse(range, limit, visit),
        }
    }

    /// Versions held, deletes included.
    pub(crate) fn versions(&self) -> usize {
        self.memtable.versions()
    }

    /// Memory taken, in bytes: an estimate that counts each node with its average height.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memtable.memory_bytes()
    }
}
