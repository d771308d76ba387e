//! How many bytes of records each piece of the log still holds for a reason, as flushes and merges
//! count them: what they write is needed from then on, what they drop no longer is.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Version;
use crate::format::Lsn;

/// Bytes of records by where they lie, while a flush or a merge goes on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Where the pieces of the log began when it began.
    bases: Arc<[Lsn]>,
    bytes: BTreeMap<Lsn, u64>,
}

impl Tally {
    pub(super) const fn new(bases: Arc<[Lsn]>) -> Self {
        let bytes = BTreeMap::new();
        Self { bases, bytes }
    }

    pub(super) fn add(&mut self, version: Version) {
        let above = self.bases.partition_point(|base| *base <= version.lsn);
        let base = above.checked_sub(1).and_then(|at| self.bases.get(at));
        let base = base.copied().unwrap_or_default();
        *self.bytes.entry(base).or_default() += u64::from(version.len);
    }
}

/// Bytes of records that are needed, by where they lie. A count: what decides is a look at each
/// record.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Census(BTreeMap<Lsn, u64>);

impl Census {
    /// What a flush has written.
    pub(super) fn grow(&mut self, tally: &Tally) {
        for (base, bytes) in &tally.bytes {
            *self.0.entry(*base).or_default() += bytes;
        }
    }

    /// What a merge has dropped.
    pub(super) fn shrink(&mut self, tally: &Tally) {
        for (base, bytes) in &tally.bytes {
            // Counted where they were then: the last piece that begins at or before that.
            if let Some((_, counted)) = self.0.range_mut(..=*base).next_back() {
                *counted = counted.saturating_sub(*bytes);
            }
        }
    }

    /// What a compaction found in `[from, to)`.
    pub(crate) fn set(&mut self, from: Lsn, to: Lsn, bytes: u64) {
        self.0.retain(|base, _| *base < from || *base >= to);
        self.0.insert(from, bytes);
    }

    /// Bytes in `[from, to)`.
    pub(crate) fn between(&self, from: Lsn, to: Lsn) -> u64 {
        self.0.range(from..to).map(|(_, bytes)| bytes).sum()
    }

    /// Bytes in all.
    pub(crate) fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Op;

    #[test]
    fn bytes_are_counted_where_they_lie_also_after_pieces_became_one() {
        let version = |lsn, len| Version {
            lsn: Lsn(lsn),
            len,
            op: Op::Put,
        };
        let bases: Arc<[Lsn]> = [0, 100, 200].map(Lsn).into();
        let mut written = Tally::new(bases.clone());
        for (lsn, len) in [(8, 1), (99, 2), (100, 4), (250, 8)] {
            written.add(version(lsn, len));
        }
        let mut census = Census::default();
        census.grow(&written);
        assert_eq!(census.between(Lsn(0), Lsn(100)), 3);
        assert_eq!(census.between(Lsn(0), Lsn(200)), 7);
        assert_eq!(census.total(), 15);

        let mut dropped = Tally::new(bases);
        dropped.add(version(99, 2));
        dropped.add(version(150, 1));
        census.shrink(&dropped);
        assert_eq!(census.between(Lsn(0), Lsn(200)), 4);
        census.set(Lsn(0), Lsn(200), 3);
        // Begun before the two became one.
        census.shrink(&dropped);
        assert_eq!(census.between(Lsn(0), Lsn(200)), 0);
        assert_eq!(census.total(), 8);
    }
}
