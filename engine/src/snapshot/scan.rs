//! Reading a range of keys from both of its ends, a portion ahead of the reader.

use std::fmt;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::Snapshot;
use crate::error::{Error, Result};
use crate::format::{RecordRef, to_usize};
use crate::index::{Cursor, Direction, Portion};
use crate::log::RecordPlaces;
use crate::record;

/// Keys that the first portion holds. Few: many ranges are read for their first key alone.
const PORTION_LEN_MIN: usize = 4;
/// Keys that a later portion holds. Their records are looked up together.
const PORTION_LEN_MAX: usize = 64;
/// Records that are on their way to the processor while one is read.
const RECORDS_AHEAD: usize = 16;

/// What is left of a range, and the portions that were read from its ends.
struct Scan<T> {
    /// Keeps the state open that the cursor reads.
    snapshot: Snapshot,
    cursor: Cursor,
    front: Ahead<T>,
    back: Ahead<T>,
    portion_len: usize,
}

/// A portion, as far as it was not read yet, with what was loaded for it.
#[derive(Default)]
struct Ahead<T> {
    portion: Portion,
    loaded: T,
    next: usize,
    end: usize,
}

impl<T> Ahead<T> {
    const fn is_empty(&self) -> bool {
        self.next == self.end
    }

    /// The next one, from the end at which the portion was read.
    fn pop_near(&mut self) -> Option<usize> {
        let next = self.next;
        (!self.is_empty()).then(|| self.next += 1)?;
        Some(next)
    }

    /// The next one from the other end.
    fn pop_far(&mut self) -> Option<usize> {
        (!self.is_empty()).then(|| self.end -= 1)?;
        Some(self.end)
    }

    /// The same with other loads.
    fn reloaded<U>(mut self, load: impl FnOnce(&mut Portion) -> U) -> Ahead<U> {
        let loaded = load(&mut self.portion);
        let Self {
            portion, next, end, ..
        } = self;
        Ahead {
            portion,
            loaded,
            next,
            end,
        }
    }
}

impl<T: Default> Scan<T> {
    fn new(snapshot: Snapshot, cursor: Cursor) -> Self {
        Self {
            snapshot,
            cursor,
            front: Ahead::default(),
            back: Ahead::default(),
            portion_len: PORTION_LEN_MIN,
        }
    }

    /// The next key from one end: the snapshot, its portion and its number there. `load` prepares a
    /// portion that was just found.
    #[inline]
    fn next(
        &mut self,
        direction: Direction,
        load: impl FnOnce(&Snapshot, &mut Portion, &mut T),
    ) -> Option<Result<(&Snapshot, &Ahead<T>, usize)>> {
        let (near, far) = match direction {
            Direction::Forward => (&mut self.front, &mut self.back),
            Direction::Reverse => (&mut self.back, &mut self.front),
        };
        if near.is_empty() {
            if !self.cursor.is_exhausted()
                && let Err(error) = self.snapshot.check_age()
            {
                self.cursor.exhaust();
                return Some(Err(error));
            }
            let filled = self
                .cursor
                .fill(direction, self.portion_len, &mut near.portion);
            (near.next, near.end) = (0, near.portion.len());
            if let Err(error) = filled {
                return Some(Err(error));
            }
            self.snapshot.count_scanned(near.portion.len());
            self.portion_len = (2 * self.portion_len).min(PORTION_LEN_MAX);
            load(&self.snapshot, &mut near.portion, &mut near.loaded);
        }
        if let Some(number) = near.pop_near() {
            return Some(Ok((&self.snapshot, near, number)));
        }
        // When nothing is left between the ends, one meets what the other has read ahead.
        let number = far.pop_far()?;
        Some(Ok((&self.snapshot, far, number)))
    }
}

/// Keys with their values, in the order of their bytes; reversed by `rev()` or `next_back()`.
///
/// Owns all it needs: it may outlive the snapshot that it came from, and keeps its state open.
/// An entry that cannot be read is an error in its place; the entries behind it still come. Where
/// the index itself does not hold, an error is the last thing that comes.
#[must_use = "a range is read as it is iterated"]
pub struct Range {
    scan: Scan<RecordPlaces>,
    refused: Option<Error>,
}

impl Range {
    pub(super) fn new(snapshot: Snapshot, cursor: Cursor, refused: Option<Error>) -> Self {
        let scan = Scan::new(snapshot, cursor);
        Self { scan, refused }
    }

    pub(super) const fn snapshot(&self) -> &Snapshot {
        &self.scan.snapshot
    }

    /// The keys alone, without a look at the log.
    pub fn keys(self) -> Keys {
        let take_keys = |portion: &mut Portion| Bytes::from(portion.take_keys());
        let scan = Scan {
            snapshot: self.scan.snapshot,
            cursor: self.scan.cursor,
            front: self.scan.front.reloaded(take_keys),
            back: self.scan.back.reloaded(take_keys),
            portion_len: self.scan.portion_len,
        };
        let refused = self.refused;
        Keys { scan, refused }
    }

    /// Shows keys and values where they lie, from the front on, until `show` breaks or nothing is
    /// left. The quickest way through many small values: nothing is shared, let alone copied.
    ///
    /// The entry at which it breaks is read; iterating, or another call, goes on behind it.
    ///
    /// ```
    /// # use std::ops::ControlFlow;
    /// # use outlast_engine::{Batch, Store};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = Store::open_in_memory()?;
    /// # let sizes = store.keyspace("sizes")?;
    /// # let mut batch = Batch::new();
    /// # for name in ["ara", "jun", "mina"] { batch.put(&sizes, name, "7")?; }
    /// # store.commit(batch, Default::default())?;
    /// let mut sum = 0;
    /// store.snapshot().iter(&sizes).visit(|_key, value| {
    ///     sum += value.len();
    ///     ControlFlow::Continue(())
    /// })?;
    /// assert_eq!(sum, 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// That of the first entry that cannot be read; another call goes on behind it.
    pub fn visit(&mut self, mut show: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>) -> Result<()> {
        loop {
            let look = |_: &Bytes, put: RecordRef<'_>| show(put.key, put.value);
            match self.step(Direction::Forward, look) {
                Some(Ok(ControlFlow::Continue(()))) => {}
                Some(Ok(ControlFlow::Break(()))) | None => return Ok(()),
                Some(Err(error)) => return Err(error),
            }
        }
    }

    /// The next record from one end, checked. `look` gets it with the memory of which it is a part.
    #[inline]
    fn step<T>(
        &mut self,
        direction: Direction,
        look: impl FnOnce(&Bytes, RecordRef<'_>) -> T,
    ) -> Option<Result<T>> {
        if self.refused.is_some() {
            self.scan.cursor.exhaust();
            return self.refused.take().map(Err);
        }
        let keyspace = self.scan.cursor.keyspace();
        let (snapshot, ahead, number) = match self.scan.next(direction, find_records)? {
            Ok(next) => next,
            Err(error) => return Some(Err(error)),
        };
        ahead.loaded.prefetch(number + RECORDS_AHEAD);
        let log = &snapshot.shared().log;
        let (key, version) = ahead.portion.get(number)?;
        let read = ahead.loaded.read(log, number, |memory, bytes| {
            let record = record::check(log, bytes, keyspace, key, version.lsn)?;
            Ok(look(memory, record))
        });
        Some(read.map_err(|error| snapshot.of_age(error)))
    }
}

/// Key and value as parts of the memory in which they lie.
fn shared(memory: &Bytes, put: RecordRef<'_>) -> (Bytes, Bytes) {
    (memory.slice_ref(put.key), memory.slice_ref(put.value))
}

impl Iterator for Range {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(Direction::Forward, shared)
    }
}

impl DoubleEndedIterator for Range {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(Direction::Reverse, shared)
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Range at {:?}", self.scan.snapshot)
    }
}

/// Keys in the order of their bytes; reversed by `rev()` or `next_back()`.
#[must_use = "keys are read as they are iterated"]
pub struct Keys {
    scan: Scan<Bytes>,
    refused: Option<Error>,
}

impl Keys {
    fn step(&mut self, direction: Direction) -> Option<Result<Bytes>> {
        if let Some(error) = self.refused.take() {
            self.scan.cursor.exhaust();
            return Some(Err(error));
        }
        let keep = |_: &Snapshot, portion: &mut Portion, keys: &mut Bytes| {
            *keys = Bytes::from(portion.take_keys());
        };
        let next = self.scan.next(direction, keep)?;
        Some(next.map(|(_, ahead, number)| ahead.loaded.slice(ahead.portion.key_range(number))))
    }
}

impl Iterator for Keys {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(Direction::Forward)
    }
}

impl DoubleEndedIterator for Keys {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(Direction::Reverse)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys at {:?}", self.scan.snapshot)
    }
}

/// Looks up where the records of a portion lie. The processor waits for memory longer than it works
/// on a record, so that those that come next are always on their way.
fn find_records(snapshot: &Snapshot, portion: &mut Portion, places: &mut RecordPlaces) {
    let records = portion
        .versions()
        .map(|version| (version.lsn, to_usize(u64::from(version.len))));
    places.find(&snapshot.shared().log, records);
    (0..RECORDS_AHEAD).for_each(|number| places.prefetch(number));
}
