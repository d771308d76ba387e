//! A walk over a range of keys, from both of its ends.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

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

/// What is left of a range of keys. Reads it in portions, so that it holds no place in the index
/// between two of them and may be kept as long as its reader likes.
#[derive(Clone, Debug)]
pub(crate) struct Cursor {
    index: Arc<Index>,
    left: KeyRange<Bytes>,
    exhausted: bool,
}

impl Cursor {
    pub(crate) fn new(index: Arc<Index>, range: KeyRange<Bytes>) -> Self {
        let (left, exhausted) = (range, false);
        Self {
            index,
            left,
            exhausted,
        }
    }

    pub(crate) const fn keyspace(&self) -> u32 {
        self.left.keyspace
    }

    /// Leaves nothing to read.
    pub(crate) const fn exhaust(&mut self) {
        self.exhausted = true;
    }

    /// The next keys from one end, at most `limit` of them; none once nothing is left.
    ///
    /// # Errors
    /// `Corrupt` when a run does not hold, `Io`. Nothing is left then.
    pub(crate) fn take(&mut self, direction: Direction, limit: usize) -> Result<Vec<Found>> {
        if self.exhausted {
            return Ok(Vec::new());
        }
        let mut portion = Vec::with_capacity(limit);
        let mut found = |key: &[u8], version| {
            let key = Bytes::copy_from_slice(key);
            portion.push(Found { key, version });
        };
        let left = self.left.as_slices();
        self.index
            .visit(&left, direction, limit, &mut found)
            .inspect_err(|_| self.exhausted = true)?;
        self.exhausted = portion.len() < limit;
        if let Some(last) = portion.last() {
            let bound = Bound::Excluded(last.key.clone());
            match direction {
                Direction::Forward => self.left.lower = bound,
                Direction::Reverse => self.left.upper = bound,
            }
        }
        Ok(portion)
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
