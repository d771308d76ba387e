//! What a transaction has read against what was written since: pure, without a store.
//!
//! Everything is told by position. A read holds up to some position; a write of the same key, or
//! within the same range, at or behind that position takes it away.

mod reads;
mod recent;
mod writes;

use std::fmt;
use std::ops::{Bound, RangeBounds};

use bytes::Bytes;

pub(crate) use self::reads::{READ_BYTES_MAX, READ_KEYS_MAX, READ_RANGES_MAX, ReadSet, Slot};
pub(crate) use self::recent::Recent;
pub(crate) use self::writes::Writes;
use crate::error::{Error, ErrorKind};
use crate::format::Lsn;

/// The entry that a transaction lost to.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LostTo {
    /// Where it lies. A new attempt sees it once more than this is visible.
    pub lsn: Lsn,
    /// Its keyspace, by id, and its key. `None` when so much was written while the transaction was
    /// checked that the rest cannot be told: then the newest position of which nothing is known.
    pub key: Option<(u32, Bytes)>,
}

impl fmt::Display for LostTo {
    // Without the key: what it names is not for a log of errors.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some((keyspace, _)) => write!(f, "an entry of keyspace {keyspace} at {}", self.lsn),
            None => write!(f, "what was written up to {}", self.lsn),
        }
    }
}

impl std::error::Error for LostTo {}

impl From<LostTo> for Error {
    fn from(lost: LostTo) -> Self {
        let message = match lost.key {
            Some(_) => format!(
                "{lost} was written after the transaction had read there: run it again once that \
                 is visible, as Store::transact does"
            ),
            None => format!(
                "too much was written while the transaction was checked ({lost}): run it again, or \
                 let it read less"
            ),
        };
        Self::new(ErrorKind::TransactionConflict, message).because(lost)
    }
}

/// A range of keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    pub(crate) keyspace: u32,
    pub(crate) lower: Bound<Bytes>,
    pub(crate) upper: Bound<Bytes>,
}

impl Span {
    /// Whether its bounds leave no key between them. A map asked for such a range would panic.
    pub(crate) fn is_empty(&self) -> bool {
        match (&self.lower, &self.upper) {
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
            (Bound::Included(lower), Bound::Included(upper)) => lower > upper,
            (
                Bound::Included(lower) | Bound::Excluded(lower),
                Bound::Included(upper) | Bound::Excluded(upper),
            ) => lower >= upper,
        }
    }

    /// The keys from `start` on, and before `end` if there is one.
    pub(crate) fn between(keyspace: u32, start: &[u8], end: Option<&[u8]>) -> Self {
        let upper = end.map(Bytes::copy_from_slice);
        Self {
            keyspace,
            lower: Bound::Included(Bytes::copy_from_slice(start)),
            upper: upper.map_or(Bound::Unbounded, Bound::Excluded),
        }
    }

    /// Whether a key is in it.
    pub(crate) fn contains(&self, keyspace: u32, key: &[u8]) -> bool {
        keyspace == self.keyspace && RangeBounds::<[u8]>::contains(&self.bounds(), key)
    }

    /// Where both have keys: their common part begins; `None` when they have none in common.
    pub(crate) fn meets<'a>(&'a self, other: &'a Self) -> Option<&'a Bound<Bytes>> {
        let lower = match (&self.lower, &other.lower) {
            (Bound::Unbounded, lower) | (lower, Bound::Unbounded) => lower,
            (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => {
                let ours = a > b || a == b && matches!(self.lower, Bound::Excluded(_));
                if ours { &self.lower } else { &other.lower }
            }
        };
        let ends_behind = |upper: &Bound<Bytes>| {
            let common = Self {
                keyspace: self.keyspace,
                lower: lower.clone(),
                upper: upper.clone(),
            };
            !common.is_empty()
        };
        let meet = self.keyspace == other.keyspace
            && ends_behind(&self.upper)
            && ends_behind(&other.upper);
        meet.then_some(lower)
    }

    /// The bounds, as a map asks for them.
    pub(crate) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        fn slice(bound: &Bound<Bytes>) -> Bound<&[u8]> {
            bound.as_ref().map(|key| &**key)
        }
        (slice(&self.lower), slice(&self.upper))
    }
}

#[cfg(test)]
mod tests;
