//! The index: which record of the log holds a key's value at a position.
//!
//! It maps (keyspace, key) to the versions that the log holds of it, each with the LSN and the
//! length of its record; the values stay in the log. It is derived: it can be thrown away at any
//! time and built again by replaying the log. A reader names a position and sees, of each key, the
//! newest version below it, so what is inserted meanwhile never disturbs it.
//!
//! ```text
//! insert ─→ memtable ─→ frozen memtables ─→ runs on disk, by level
//! ```
//!
//! **Architecture invariant:** nothing outside this module knows how versions are kept. Readers
//! never block the writer, nor it them.

mod census;
mod cursor;
mod files;
mod inspect;
mod levels;
mod manifest;
mod memtable;
mod merge;
mod merged;
mod ranges;
mod run;
mod source;
#[cfg(test)]
mod tests;
mod version;
mod view;

use std::ops::Bound;

use crate::format::{Lsn, Op};
use crate::planted::{Bug, on};

pub(crate) use self::cursor::{Cursor, Direction, Found, Portion};
pub(crate) use self::files::{Flush, IndexFiles, Merging, Which};
pub(crate) use self::inspect::{forget, inspect};
pub(crate) use self::merge::Keep;
pub(crate) use self::ranges::Ranges;
pub(crate) use self::source::Source;
pub(crate) use self::view::{Frozen, Index, Runs, VersionCursor};

/// One version of one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Version {
    /// Where the record begins: its address for life.
    pub(crate) lsn: Lsn,
    /// Length of the whole record in bytes.
    pub(crate) len: u32,
    /// What it did to the key: a put or a delete.
    pub(crate) op: Op,
    /// The log time from which on a put has no value any more; 0 for one that does not expire.
    pub(crate) expires_ms: u64,
}

/// Where a reader stands.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Moment {
    /// Records at or above this position do not exist for the reader.
    pub(crate) lsn: Lsn,
    /// Log time there, by which puts have expired or not.
    pub(crate) log_ms: u64,
}

impl Version {
    /// The delete of a key by the range delete at `lsn`.
    pub(crate) const fn range_delete(lsn: Lsn) -> Self {
        Self {
            lsn,
            len: 0,
            op: Op::Delete,
            expires_ms: 0,
        }
    }

    /// Whether the key has this value at the log time `log_ms`.
    #[inline]
    pub(crate) fn is_put_at(&self, log_ms: u64) -> bool {
        let late = u64::from(on(Bug::ExpiryLate));
        self.op == Op::Put
            && (self.expires_ms == 0 || self.expires_ms > log_ms.saturating_sub(late))
    }
}

/// A range of keys in one keyspace, as it looked at one position.
#[derive(Clone, Debug)]
pub(crate) struct KeyRange<K> {
    pub(crate) keyspace: u32,
    pub(crate) lower: Bound<K>,
    pub(crate) upper: Bound<K>,
    /// Where the reader stands.
    pub(crate) at: Moment,
}
