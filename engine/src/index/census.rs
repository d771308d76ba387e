//! How many bytes of records each piece of the log still holds for a reason. A flush counts what it
//! writes as needed from then on, and looks up what took the place of what; that is needed until
//! the horizon has passed.

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
        self.add_times(version, 1);
    }

    pub(super) fn add_times(&mut self, version: Version, times: u64) {
        let above = self.bases.partition_point(|base| *base <= version.lsn);
        let base = above.checked_sub(1).and_then(|at| self.bases.get(at));
        let base = base.copied().unwrap_or_default();
        *self.bytes.entry(base).or_default() += times * u64::from(version.len);
    }
}

/// Bytes of records that are needed, by where they lie. A count: what decides is a look at each
/// record.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Census {
    needed: BTreeMap<Lsn, u64>,
    /// What flushes have found to be superseded, and from which horizon on nobody asks for it.
    superseded: Vec<(Lsn, BTreeMap<Lsn, u64>)>,
}

impl Census {
    /// What a flush has written, and of what took the place of what: that is needed as long as the
    /// horizon is below `end`, where the flush ended.
    pub(super) fn grow(&mut self, written: &Tally, superseded: Tally, end: Lsn) {
        for (base, bytes) in &written.bytes {
            *self.needed.entry(*base).or_default() += bytes;
        }
        if !superseded.bytes.is_empty() {
            self.superseded.push((end, superseded.bytes));
        }
    }

    /// What went for another reason than that something newer is there.
    pub(super) fn shrink(&mut self, tally: &Tally) {
        take(&mut self.needed, &tally.bytes);
    }

    /// States below `horizon` are not asked for any more.
    pub(crate) fn advance(&mut self, horizon: Lsn) {
        let needed = &mut self.needed;
        self.superseded.retain(|(end, bytes)| {
            let waits = *end > horizon;
            if !waits {
                take(needed, bytes);
            }
            waits
        });
    }

    /// What a compaction found in `[from, to)`.
    pub(crate) fn set(&mut self, from: Lsn, to: Lsn, bytes: u64) {
        self.needed.retain(|base, _| *base < from || *base >= to);
        self.needed.insert(from, bytes);
    }

    /// Bytes in `[from, to)`.
    pub(crate) fn between(&self, from: Lsn, to: Lsn) -> u64 {
        self.needed.range(from..to).map(|(_, bytes)| bytes).sum()
    }

    /// Bytes in all.
    pub(crate) fn total(&self) -> u64 {
        self.needed.values().sum()
    }
}

fn take(needed: &mut BTreeMap<Lsn, u64>, gone: &BTreeMap<Lsn, u64>) {
    for (base, bytes) in gone {
        // Counted where they were then: the last piece that begins at or before that.
        if let Some((_, counted)) = needed.range_mut(..=*base).next_back() {
            *counted = counted.saturating_sub(*bytes);
        }
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
            expires_ms: 0,
        };
        let bases: Arc<[Lsn]> = [0, 100, 200].map(Lsn).into();
        let mut written = Tally::new(bases.clone());
        for (lsn, len) in [(8, 1), (99, 2), (100, 4), (250, 8)] {
            written.add(version(lsn, len));
        }
        let mut census = Census::default();
        let mut superseded = Tally::new(bases);
        superseded.add_times(version(99, 1), 2);
        superseded.add(version(150, 1));
        census.grow(&written, superseded.clone(), Lsn(300));
        assert_eq!(census.between(Lsn(0), Lsn(100)), 3);
        assert_eq!(census.between(Lsn(0), Lsn(200)), 7);
        assert_eq!(census.total(), 15);
        census.advance(Lsn(299));
        assert_eq!(census.total(), 15, "somebody may ask for it yet");

        let mut early = census.clone();
        early.advance(Lsn(300));
        early.advance(Lsn(300));
        assert_eq!(early.between(Lsn(0), Lsn(200)), 4);
        // Two pieces became one before the horizon passed.
        census.set(Lsn(0), Lsn(200), 7);
        census.advance(Lsn(300));
        assert_eq!(census.between(Lsn(0), Lsn(200)), 4);
        census.shrink(&superseded);
        census.shrink(&superseded);
        assert_eq!(census.between(Lsn(0), Lsn(200)), 0, "never below nothing");
        assert_eq!(census.total(), 8);
    }
}
