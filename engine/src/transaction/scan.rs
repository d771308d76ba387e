//! Ranges of a transaction: what lies in its snapshot, with its own writes on top.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fmt;
use std::iter::Map;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::conflict::{ReadSet, Slot, Span};
use crate::error::Result;
use crate::index::Direction;
use crate::snapshot::{Keys, Range};

/// Keys with their values, in the order of their bytes; reversed by `rev()` or `next_back()`.
///
/// It sees what its transaction had written when it was begun, and outlives no use of it: what is
/// read from it after the commit is not part of the transaction. An entry that cannot be read is an
/// error in its place; once the transaction reads too much (`Limit`), an error is the last.
#[must_use = "a range is read as it is iterated"]
pub struct TransactionRange {
    merged: Merged<Hidden<Range>, Bytes>,
    cover: Cover,
}

impl TransactionRange {
    pub(super) fn new(
        inner: Hidden<Range>,
        own: VecDeque<(Bytes, Option<Bytes>)>,
        reads: Arc<Mutex<ReadSet>>,
        span: Span,
    ) -> Self {
        Self {
            merged: Merged {
                inner,
                front: None,
                back: None,
                own,
            },
            cover: Cover {
                reads,
                span,
                front: None,
                back: None,
                ended: false,
            },
        }
    }

    /// The keys alone, without a look at the log.
    pub fn keys(self) -> TransactionKeys {
        let bare = |found: Option<(Bytes, Bytes)>| found.map(|(key, _)| (key, ()));
        let Merged {
            inner,
            front,
            back,
            own,
        } = self.merged;
        let own = own.into_iter().map(|(key, value)| (key, value.map(drop)));
        let merged = Merged {
            inner: Hidden {
                ranges: inner.ranges,
                inner: inner.inner.keys().map(valueless as Valueless),
            },
            front: bare(front),
            back: bare(back),
            own: own.collect(),
        };
        let cover = self.cover;
        TransactionKeys { merged, cover }
    }
}

impl Iterator for TransactionRange {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.cover.step(&mut self.merged, Direction::Forward)
    }
}

impl DoubleEndedIterator for TransactionRange {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.cover.step(&mut self.merged, Direction::Reverse)
    }
}

impl fmt::Debug for TransactionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransactionRange over {:?}", self.merged.inner.inner)
    }
}

/// Keys in the order of their bytes; reversed by `rev()` or `next_back()`. Otherwise as
/// [`TransactionRange`].
#[must_use = "keys are read as they are iterated"]
pub struct TransactionKeys {
    merged: Merged<Hidden<Map<Keys, Valueless>>, ()>,
    cover: Cover,
}

type Valueless = fn(Result<Bytes>) -> Result<(Bytes, ())>;

fn valueless(key: Result<Bytes>) -> Result<(Bytes, ())> {
    key.map(|key| (key, ()))
}

impl TransactionKeys {
    fn step(&mut self, direction: Direction) -> Option<Result<Bytes>> {
        let next = self.cover.step(&mut self.merged, direction)?;
        Some(next.map(|(key, ())| key))
    }
}

impl Iterator for TransactionKeys {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(Direction::Forward)
    }
}

impl DoubleEndedIterator for TransactionKeys {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(Direction::Reverse)
    }
}

impl fmt::Debug for TransactionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransactionKeys in {:?}", self.cover.span)
    }
}

/// What a snapshot has, without the ranges that the transaction has deleted.
pub(super) struct Hidden<I> {
    pub(super) ranges: Vec<Span>,
    pub(super) inner: I,
}

impl<I> Hidden<I> {
    fn shows<V>(&self, found: &Result<(Bytes, V)>) -> bool {
        let hides = |key: &Bytes| {
            let mut ranges = self.ranges.iter();
            ranges.any(|range| range.contains(range.keyspace, key))
        };
        found.as_ref().map_or(true, |(key, _)| !hides(key))
    }
}

impl<V, I: Iterator<Item = Result<(Bytes, V)>>> Iterator for Hidden<I> {
    type Item = Result<(Bytes, V)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let found = self.inner.next()?;
            if self.shows(&found) {
                return Some(found);
            }
        }
    }
}

impl<V, I: DoubleEndedIterator<Item = Result<(Bytes, V)>>> DoubleEndedIterator for Hidden<I> {
    fn next_back(&mut self) -> Option<Self::Item> {
        loop {
            let found = self.inner.next_back()?;
            if self.shows(&found) {
                return Some(found);
            }
        }
    }
}

/// Two sorted sources as one, from both ends. Where both have a key, the transaction's own counts.
struct Merged<I, V> {
    inner: I,
    /// Taken from an end of `inner`, and not yet given on.
    front: Option<(Bytes, V)>,
    back: Option<(Bytes, V)>,
    own: VecDeque<(Bytes, Option<V>)>,
}

impl<I, V> Merged<I, V>
where
    I: DoubleEndedIterator<Item = Result<(Bytes, V)>>,
{
    fn next(&mut self, direction: Direction) -> Option<Result<(Bytes, V)>> {
        let forward = direction == Direction::Forward;
        loop {
            let (near, far) = if forward {
                (&mut self.front, &mut self.back)
            } else {
                (&mut self.back, &mut self.front)
            };
            if near.is_none() {
                let next = if forward {
                    self.inner.next()
                } else {
                    self.inner.next_back()
                };
                *near = match next {
                    Some(Ok(found)) => Some(found),
                    Some(Err(error)) => return Some(Err(error)),
                    // Nothing is left between the ends, but for what the other has taken.
                    None => far.take(),
                };
            }
            let own = if forward {
                self.own.front()
            } else {
                self.own.back()
            };
            let order = match (&*near, own) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((found, _)), Some((own, _))) if forward => found.cmp(own),
                (Some((found, _)), Some((own, _))) => own.cmp(found),
            };
            if order.is_le() {
                let found = near.take();
                if order.is_lt() {
                    return found.map(Ok);
                }
            }
            let own = if forward {
                self.own.pop_front()
            } else {
                self.own.pop_back()
            };
            if let Some((key, Some(value))) = own {
                return Some(Ok((key, value)));
            }
        }
    }
}

/// Notes how far a range was read.
struct Cover {
    reads: Arc<Mutex<ReadSet>>,
    span: Span,
    front: Option<Slot>,
    back: Option<Slot>,
    ended: bool,
}

impl Cover {
    fn step<I, V>(
        &mut self,
        merged: &mut Merged<I, V>,
        direction: Direction,
    ) -> Option<Result<(Bytes, V)>>
    where
        I: DoubleEndedIterator<Item = Result<(Bytes, V)>>,
    {
        if self.ended {
            return None;
        }
        let next = match merged.next(direction) {
            Some(Err(error)) => return Some(Err(error)),
            Some(Ok(entry)) => Some(entry),
            None => None,
        };
        let reached = next.as_ref().map(|(key, _)| key.clone());
        self.ended = reached.is_none();
        if let Err(error) = self.note(direction, reached) {
            self.ended = true;
            return Some(Err(error));
        }
        next.map(Ok)
    }

    /// All up to `reached` from this end was read; all that there is if it is none.
    fn note(&mut self, direction: Direction, reached: Option<Bytes>) -> Result<()> {
        let mut reads = self.reads.lock();
        let mut span = self.span.clone();
        let slot = match direction {
            Direction::Forward => {
                span.upper = reached.map_or(span.upper, Bound::Included);
                &mut self.front
            }
            Direction::Reverse => {
                span.lower = reached.map_or(span.lower, Bound::Included);
                &mut self.back
            }
        };
        match (*slot, direction) {
            (None, _) => *slot = Some(reads.add_span(span)?),
            (Some(slot), Direction::Forward) => reads.raise(slot, span.upper),
            (Some(slot), Direction::Reverse) => reads.lower(slot, span.lower),
        }
        Ok(())
    }
}
