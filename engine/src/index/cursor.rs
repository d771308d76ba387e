//! A walk over a range of keys, from both of its ends.

use std::ops::{Bound, Range};
use std::sync::Arc;

use bytes::Bytes;

use super::merged::Merged;
use super::view::Part;
use super::{Index, KeyRange, Version};
use crate::error::Result;

/// Which end of a range is read next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    Forward,
    Reverse,
}

/// A key that has a value, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) key: Bytes,
    pub(crate) version: Version,
}

/// Keys that have a value, one behind the other, with their versions. Reused from one portion to
/// the next.
#[derive(Default, Debug)]
pub(crate) struct Portion {
    keys: Vec<u8>,
    found: Vec<Place>,
}

/// A key of a portion.
#[derive(Clone, Copy, Debug)]
struct Place {
    key_end: usize,
    version: Version,
}

impl Portion {
    pub(crate) fn len(&self) -> usize {
        self.found.len()
    }

    /// Where a key lies among the keys.
    #[inline]
    pub(crate) fn key_range(&self, number: usize) -> Range<usize> {
        let end = |number: usize| self.found.get(number).map_or(0, |place| place.key_end);
        number.checked_sub(1).map_or(0, end)..end(number)
    }

    #[inline]
    pub(crate) fn key(&self, number: usize) -> &[u8] {
        self.keys.get(self.key_range(number)).unwrap_or_default()
    }

    /// The keys, one behind the other. None are left here.
    pub(crate) fn take_keys(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.keys)
    }

    /// The versions, in the order of the keys.
    pub(crate) fn versions(&self) -> impl ExactSizeIterator<Item = Version> + Clone {
        self.found.iter().map(|place| place.version)
    }

    /// A key with its version.
    #[inline]
    pub(crate) fn get(&self, number: usize) -> Option<(&[u8], Version)> {
        let version = self.found.get(number)?.version;
        Some((self.key(number), version))
    }

    fn clear(&mut self) {
        self.keys.clear();
        self.found.clear();
    }

    fn push(&mut self, key: &[u8], version: Version) {
        self.keys.extend_from_slice(key);
        let key_end = self.keys.len();
        self.found.push(Place { key_end, version });
    }
}

/// What is left of a range of keys, read in portions from both ends. Between two portions it keeps
/// its places in the index, so that the next one is not searched for.
#[derive(Debug)]
pub(crate) struct Cursor {
    index: Arc<Index>,
    left: KeyRange<Bytes>,
    /// Its places at both ends, once something was read there.
    front: Option<Merged<Part>>,
    back: Option<Merged<Part>>,
    exhausted: bool,
}

impl Cursor {
    pub(crate) const fn new(index: Arc<Index>, range: KeyRange<Bytes>) -> Self {
        Self {
            index,
            left: range,
            front: None,
            back: None,
            exhausted: false,
        }
    }

    pub(crate) const fn keyspace(&self) -> u32 {
        self.left.keyspace
    }

    /// Whether nothing is left to read.
    pub(crate) const fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Leaves nothing to read.
    pub(crate) fn exhaust(&mut self) {
        self.exhausted = true;
        (self.front, self.back) = (None, None);
    }

    /// Fills `portion` with the next keys from one end, at most `limit` of them; with none once
    /// nothing is left.
    ///
    /// # Errors
    /// `Corrupt` when a run does not hold, `Io`. Nothing is left then.
    pub(crate) fn fill(
        &mut self,
        direction: Direction,
        limit: usize,
        portion: &mut Portion,
    ) -> Result<()> {
        portion.clear();
        if self.exhausted {
            return Ok(());
        }
        let mut found = |key: &[u8], version| portion.push(key, version);
        if let Err(error) = self.visit(direction, limit, &mut found) {
            portion.clear();
            self.exhaust();
            return Err(error);
        }
        if portion.len() < limit {
            self.exhaust();
        } else if let Some(last) = portion.len().checked_sub(1) {
            let bound = Bound::Excluded(Bytes::copy_from_slice(portion.key(last)));
            match direction {
                Direction::Forward => self.left.lower = bound,
                Direction::Reverse => self.left.upper = bound,
            }
        }
        Ok(())
    }

    fn visit(
        &mut self,
        direction: Direction,
        limit: usize,
        visit: &mut dyn FnMut(&[u8], Version),
    ) -> Result<()> {
        let left = self.left.as_slices();
        let slot = match direction {
            Direction::Forward => &mut self.front,
            Direction::Reverse => &mut self.back,
        };
        let merged = match slot {
            Some(merged) => merged,
            None => {
                let merged = slot.insert(self.index.parts());
                merged.search(&left, direction)?;
                merged
            }
        };
        self.index.visit(merged, &left, direction, limit, visit)
    }

    /// The next keys from one end, as [`Cursor::fill`], each with memory of its own.
    ///
    /// # Errors
    /// As [`Cursor::fill`].
    pub(crate) fn take(&mut self, direction: Direction, limit: usize) -> Result<Vec<Found>> {
        let mut portion = Portion::default();
        self.fill(direction, limit, &mut portion)?;
        let found = portion.versions().enumerate().map(|(number, version)| {
            let key = Bytes::copy_from_slice(portion.key(number));
            Found { key, version }
        });
        Ok(found.collect())
    }
}

impl KeyRange<Bytes> {
    fn as_slices(&self) -> KeyRange<&[u8]> {
        fn slice(bound: &Bound<Bytes>) -> Bound<&[u8]> {
            match bound {
                Bound::Included(key) => Bound::Included(key),
                Bound::Excluded(key) => Bound::Excluded(key),
                Bound::Unbounded => Bound::Unbounded,
            }
        }
        KeyRange {
            keyspace: self.keyspace,
            lower: slice(&self.lower),
            upper: slice(&self.upper),
            at: self.at,
        }
    }
}
