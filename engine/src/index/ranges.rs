//! Range deletes: which keys they took away, and where in the log they lie.
//!
//! They are few against the keys that they take away, so they are held in memory, apart from the
//! runs: whatever level a key's versions have reached, one search tells whether a range delete lies
//! over them, and it is compared by position with what was found.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use super::merge::Keep;
use crate::error::Result;
use crate::format::Lsn;
use crate::planted::{Bug, on};

/// Range deletes, cut where one begins or ends, so that each piece of the keys has a list of its
/// own.
///
/// Invariants: no two fragments of a keyspace overlap; each has a position at least, the newest
/// first.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Ranges {
    keyspaces: BTreeMap<u32, Fragments>,
    /// Positions in all fragments.
    len: usize,
}

/// By where each begins.
type Fragments = BTreeMap<Box<[u8]>, Fragment>;

#[derive(Clone, PartialEq, Eq, Debug)]
struct Fragment {
    /// The first key behind it; `None` where it takes all to the end of the keyspace.
    end: Option<Box<[u8]>>,
    lsns: Vec<Lsn>,
}

/// One fragment, as it is written down.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct RangeEntry {
    pub(crate) keyspace: u32,
    pub(crate) start: Vec<u8>,
    pub(crate) end: Option<Vec<u8>>,
    /// The newest first.
    pub(crate) lsns: Vec<Lsn>,
}

impl Ranges {
    pub(crate) fn is_empty(&self) -> bool {
        self.keyspaces.is_empty()
    }

    /// Positions in all fragments: what they take in memory goes by it.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Whether a range delete of this keyspace is among them.
    pub(crate) fn has(&self, keyspace: u32) -> bool {
        self.keyspaces.contains_key(&keyspace)
    }

    /// Adds the range delete at `lsn` of the keys from `start` on and before `end`. Adding the same
    /// one again changes nothing.
    pub(crate) fn insert(&mut self, keyspace: u32, start: &[u8], end: Option<&[u8]>, lsn: Lsn) {
        let fragments = self.keyspaces.entry(keyspace).or_default();
        for cut in [Some(start), end].into_iter().flatten() {
            self.len += split(fragments, cut);
        }
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        let within = fragments.range_mut::<[u8], _>((Bound::Included(start), upper));
        // Up to where the keys have a fragment; `None` once that is the end of the keyspace.
        let mut reached: Option<Box<[u8]>> = Some(start.into());
        let mut gaps = Vec::new();
        for (begin, fragment) in within {
            if let Some(reached) = reached.filter(|reached| reached < begin) {
                gaps.push((reached, Some(begin.clone())));
            }
            self.len += fragment.add(lsn);
            reached = fragment.end.clone();
        }
        if let Some(reached) = reached.filter(|reached| end.is_none_or(|end| **reached < *end)) {
            gaps.push((reached, end.map(Into::into)));
        }
        self.len += gaps.len();
        let fragment = |end| Fragment {
            end,
            lsns: vec![lsn],
        };
        fragments.extend(gaps.into_iter().map(|(begin, end)| (begin, fragment(end))));
    }

    /// Adds all of `other`.
    pub(crate) fn absorb(&mut self, other: &Self) {
        for entry in other.entries() {
            // The oldest first, each behind those that are there.
            for lsn in entry.lsns.iter().rev() {
                self.insert(entry.keyspace, &entry.start, entry.end.as_deref(), *lsn);
            }
        }
    }

    /// The newest one over `key` that lies below `at`.
    pub(crate) fn newest_below(&self, keyspace: u32, key: &[u8], at: Lsn) -> Option<Lsn> {
        self.over(keyspace, key)
            .iter()
            .find(|lsn| **lsn < at)
            .copied()
    }

    /// The oldest one over `key` that lies above `lsn`.
    pub(crate) fn oldest_above(&self, keyspace: u32, key: &[u8], lsn: Lsn) -> Option<Lsn> {
        let mut oldest_first = self.over(keyspace, key).iter().rev();
        oldest_first.find(|other| **other > lsn).copied()
    }

    /// Whether the one at `lsn` still takes a key away, from `start` on and before `end`.
    pub(crate) fn names(&self, keyspace: u32, start: &[u8], end: Option<&[u8]>, lsn: Lsn) -> bool {
        let Some(fragments) = self.keyspaces.get(&keyspace) else {
            return false;
        };
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        let mut within = fragments.range::<[u8], _>((Bound::Unbounded, upper));
        within.any(|(_, fragment)| {
            fragment.end.as_deref().is_none_or(|end| end > start) && fragment.lsns.contains(&lsn)
        })
    }

    /// Leaves out what no reader can tell apart any more: of two that lie over the same keys, the
    /// older one where no reader is between them.
    pub(crate) fn compress(&mut self, keep: &Keep) {
        for fragments in self.keyspaces.values_mut() {
            for fragment in fragments.values_mut() {
                let lsns = std::mem::take(&mut fragment.lsns);
                let newer = std::iter::once(None).chain(lsns.iter().copied().map(Some));
                let kept = lsns
                    .iter()
                    .zip(newer)
                    .filter(|(lsn, newer)| newer.is_none_or(|newer| keep.is_seen(**lsn, newer)))
                    .map(|(lsn, _)| *lsn);
                fragment.lsns = kept.collect();
            }
        }
        self.tidy();
    }

    /// Leaves out those below `below` that take nothing away any more: `covers` is asked whether a
    /// version older than a position is left among some keys.
    pub(crate) fn purge(
        &mut self,
        below: Lsn,
        mut covers: impl FnMut(u32, &[u8], Option<&[u8]>, Lsn) -> Result<bool>,
    ) -> Result<()> {
        for (keyspace, fragments) in &mut self.keyspaces {
            for (start, Fragment { end, lsns }) in fragments {
                // If one takes nothing away, no older one does.
                let due = lsns.partition_point(|lsn| *lsn >= below);
                for at in due..lsns.len() {
                    let lsn = lsns.get(at).copied().unwrap_or_default();
                    if !covers(*keyspace, start, end.as_deref(), lsn)? {
                        lsns.truncate(at);
                        break;
                    }
                }
            }
        }
        self.tidy();
        Ok(())
    }

    /// The fragments, in the order of their keys.
    pub(crate) fn entries(&self) -> impl Iterator<Item = RangeEntry> {
        self.keyspaces.iter().flat_map(|(keyspace, fragments)| {
            fragments.iter().map(|(start, fragment)| RangeEntry {
                keyspace: *keyspace,
                start: start.to_vec(),
                end: fragment.end.as_deref().map(<[u8]>::to_vec),
                lsns: fragment.lsns.clone(),
            })
        })
    }

    /// What was written down.
    pub(crate) fn of_entries(entries: Vec<RangeEntry>) -> Self {
        let mut ranges = Self::default();
        for entry in entries {
            for lsn in entry.lsns.iter().rev() {
                ranges.insert(entry.keyspace, &entry.start, entry.end.as_deref(), *lsn);
            }
        }
        ranges
    }

    fn over(&self, keyspace: u32, key: &[u8]) -> &[Lsn] {
        if on(Bug::RangeDeleteForgotten) {
            return &[];
        }
        let Some(fragments) = self.keyspaces.get(&keyspace) else {
            return &[];
        };
        let upto = (Bound::Unbounded, Bound::Included(key));
        match fragments.range::<[u8], _>(upto).next_back() {
            Some((_, fragment)) if fragment.end.as_deref().is_none_or(|end| key < end) => {
                &fragment.lsns
            }
            _ => &[],
        }
    }

    /// Takes empty fragments out, and makes one of neighbours that say the same.
    fn tidy(&mut self) {
        self.len = 0;
        for fragments in self.keyspaces.values_mut() {
            let mut tidied: Vec<(Box<[u8]>, Fragment)> = Vec::with_capacity(fragments.len());
            for (start, fragment) in std::mem::take(fragments) {
                if fragment.lsns.is_empty() {
                    continue;
                }
                match tidied.last_mut() {
                    Some((_, last))
                        if last.end.as_ref() == Some(&start) && last.lsns == fragment.lsns =>
                    {
                        last.end = fragment.end;
                    }
                    _ => {
                        self.len += fragment.lsns.len();
                        tidied.push((start, fragment));
                    }
                }
            }
            *fragments = tidied.into_iter().collect();
        }
        self.keyspaces.retain(|_, fragments| !fragments.is_empty());
    }
}

impl Fragment {
    /// Answers how many positions that adds.
    fn add(&mut self, lsn: Lsn) -> usize {
        let place = self.lsns.partition_point(|other| *other > lsn);
        if self.lsns.get(place) == Some(&lsn) {
            return 0;
        }
        self.lsns.insert(place, lsn);
        1
    }
}

/// Cuts the fragment in two that has keys on both sides of `key`; answers how many positions that
/// adds.
fn split(fragments: &mut Fragments, key: &[u8]) -> usize {
    let before = (Bound::Unbounded, Bound::Excluded(key));
    let Some((_, fragment)) = fragments.range_mut::<[u8], _>(before).next_back() else {
        return 0;
    };
    if fragment.end.as_deref().is_some_and(|end| end <= key) {
        return 0;
    }
    let rest = fragment.clone();
    fragment.end = Some(key.into());
    let added = rest.lsns.len();
    fragments.insert(key.into(), rest);
    added
}
