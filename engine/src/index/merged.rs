//! Several sources as one, and a range of keys as it looked at a position.

use std::cmp::Ordering;
use std::ops::Bound;

use super::cursor::Direction;
use super::source::{Entry, Source};
use super::{KeyRange, Version};
use crate::error::Result;
use crate::format::Lsn;

/// Versions of one key that are stepped over before it is searched past instead.
const STEPS_MAX: usize = 8;

/// Sources merged. Where two hold the same version of the same key, both are come by, that of the
/// earlier source first.
#[derive(Debug)]
pub(crate) struct Merged<S> {
    sources: Vec<S>,
    /// The sources that are at a version, in the order in which their versions come. Mostly the
    /// first one's next version is the next of all again, so one comparison is enough.
    order: Vec<Slot>,
    direction: Direction,
    /// The key last come by.
    key: Vec<u8>,
}

/// A source that is at a version.
#[derive(Clone, Copy, Debug)]
struct Slot {
    number: usize,
    /// Keyspace and first bytes of the key: decides most comparisons without a look at the source.
    head: u128,
}

impl<S: Source> Merged<S> {
    /// At no version.
    pub(crate) fn new(sources: Vec<S>) -> Self {
        Self {
            order: Vec::with_capacity(sources.len()),
            sources,
            direction: Direction::Forward,
            key: Vec::new(),
        }
    }

    /// Goes to that end of `range` from which it is read in `direction`.
    ///
    /// # Errors
    /// As the sources' moves.
    pub(crate) fn search(&mut self, range: &KeyRange<&[u8]>, direction: Direction) -> Result<()> {
        let (keyspace, at) = (range.keyspace, range.at.lsn);
        match (direction, range.lower, range.upper) {
            (Direction::Forward, Bound::Unbounded, _) => self.seek(keyspace, b"", at),
            (Direction::Forward, Bound::Included(key), _) => self.seek(keyspace, key, at),
            (Direction::Forward, Bound::Excluded(key), _) => self.seek(keyspace, key, Lsn::ZERO),
            (Direction::Reverse, _, Bound::Unbounded) => match keyspace.checked_add(1) {
                Some(above) => self.seek_before(above, b"", Lsn(u64::MAX)),
                None => self.seek_last(),
            },
            (Direction::Reverse, _, Bound::Included(key)) => {
                self.seek_before(keyspace, key, Lsn::ZERO)
            }
            (Direction::Reverse, _, Bound::Excluded(key)) => {
                self.seek_before(keyspace, key, Lsn(u64::MAX))
            }
        }
    }

    /// Visits at most `limit` keys of `range` whose newest version there is a value by what `shows`
    /// says, from its place on, which
    /// [`Merged::search`] or an earlier visit of the same direction has left it at. The far end of
    /// the range may have come nearer meanwhile.
    ///
    /// # Errors
    /// As the sources' moves. What was visited before holds.
    pub(crate) fn visit(
        &mut self,
        range: &KeyRange<&[u8]>,
        direction: Direction,
        limit: usize,
        shows: &dyn Fn(&[u8], &Version) -> bool,
        visit: &mut dyn FnMut(&[u8], Version),
    ) -> Result<()> {
        match direction {
            Direction::Forward => self.forward(range, limit, shows, visit),
            Direction::Reverse => self.reverse(range, limit, shows, visit),
        }
    }

    fn forward(
        &mut self,
        range: &KeyRange<&[u8]>,
        limit: usize,
        shows: &dyn Fn(&[u8], &Version) -> bool,
        visit: &mut dyn FnMut(&[u8], Version),
    ) -> Result<()> {
        let (keyspace, at) = (range.keyspace, range.at.lsn);
        let mut key = std::mem::take(&mut self.key);
        let mut visited = 0;
        while visited < limit
            && let Some(entry) = self.entry()
            && range.ends_behind(&entry)
        {
            let found = entry.version;
            key.clear();
            key.extend_from_slice(entry.key);
            if found.lsn >= at {
                // Too new: the newest that is seen, or where there is none the next key.
                self.pass(keyspace, &key, at)?;
                continue;
            }
            if shows(&key, &found) {
                visit(&key, found);
                visited += 1;
            }
            self.pass(keyspace, &key, Lsn::ZERO)?;
        }
        self.key = key;
        Ok(())
    }

    fn reverse(
        &mut self,
        range: &KeyRange<&[u8]>,
        limit: usize,
        shows: &dyn Fn(&[u8], &Version) -> bool,
        visit: &mut dyn FnMut(&[u8], Version),
    ) -> Result<()> {
        let (keyspace, at) = (range.keyspace, range.at.lsn);
        let mut key = std::mem::take(&mut self.key);
        let mut visited = 0;
        while visited < limit
            && let Some(oldest) = self.entry()
            && range.begins_before(&oldest)
        {
            key.clear();
            key.extend_from_slice(oldest.key);
            let found = self.newest_backwards(keyspace, &key, at)?;
            if let Some(version) = found
                && shows(&key, &version)
            {
                visit(&key, version);
                visited += 1;
            }
        }
        self.key = key;
        Ok(())
    }

    /// Moves past the versions of `key`, that it is at, which are not below `at`.
    fn pass(&mut self, keyspace: u32, key: &[u8], at: Lsn) -> Result<()> {
        let head = self.order.first().map(|slot| slot.head);
        for _ in 0..STEPS_MAX {
            self.next()?;
            if self.order.first().map(|slot| slot.head) != head {
                return Ok(());
            }
            let passed = |entry: Entry<'_>| entry.version.lsn < at || !entry.is_of(keyspace, key);
            if self.entry().is_none_or(passed) {
                return Ok(());
            }
        }
        self.seek(keyspace, key, at)
    }

    /// The newest version of `key` below `at`, from its oldest one on, and moves before them all.
    fn newest_backwards(&mut self, keyspace: u32, key: &[u8], at: Lsn) -> Result<Option<Version>> {
        let mut found = None;
        for _ in 0..STEPS_MAX {
            match self.entry() {
                Some(entry) if entry.is_of(keyspace, key) => {
                    if entry.version.lsn < at {
                        found = Some(entry.version);
                    }
                }
                _ => return Ok(found),
            }
            self.prev()?;
        }
        self.seek(keyspace, key, at)?;
        let newest = self.entry().filter(|entry| entry.is_of(keyspace, key));
        let found = newest.map(|entry| entry.version);
        self.seek_before(keyspace, key, Lsn(u64::MAX))?;
        Ok(found)
    }

    /// Goes to the last version of all.
    fn seek_last(&mut self) -> Result<()> {
        // No key is longer, and none of this length is higher.
        let highest = [u8::MAX; crate::format::limits::KEY_LEN_MAX];
        self.seek_before(u32::MAX, &highest, Lsn::ZERO)
    }

    fn turned(&mut self, direction: Direction) {
        self.direction = direction;
        self.order.clear();
        let slot = |(number, source): (usize, &S)| {
            let head = source.entry()?.head();
            Some(Slot { number, head })
        };
        let slots = self.sources.iter().enumerate().filter_map(slot);
        self.order.extend(slots);
        let Self { sources, order, .. } = self;
        order.sort_unstable_by(|a, b| compare(sources, direction, a, b));
    }

    /// Moves the first source of the order on, and puts it in its new place.
    #[inline]
    fn advance(&mut self, direction: Direction) -> Result<()> {
        assert_eq!(
            self.direction, direction,
            "a merge turned round without a search"
        );
        let Some(first) = self.order.first_mut() else {
            return Ok(());
        };
        let Some(source) = self.sources.get_mut(first.number) else {
            panic!("source {} of {}", first.number, self.sources.len())
        };
        let moved = match direction {
            Direction::Forward => source.next(),
            Direction::Reverse => source.prev(),
        };
        if let Err(error) = moved {
            self.order.clear();
            return Err(error);
        }
        let Some(entry) = source.entry() else {
            self.order.remove(0);
            return Ok(());
        };
        first.head = entry.head();
        let moved = *first;
        let mut place = 0;
        while let Some(next) = self.order.get(place + 1).copied()
            && compare(&self.sources, direction, &moved, &next).is_gt()
        {
            self.order.swap(place, place + 1);
            place += 1;
        }
        Ok(())
    }

    fn each(
        &mut self,
        direction: Direction,
        mut moves: impl FnMut(&mut S) -> Result<()>,
    ) -> Result<()> {
        self.order.clear();
        self.sources.iter_mut().try_for_each(&mut moves)?;
        self.turned(direction);
        Ok(())
    }
}

/// A merge moves in one direction after a search: [`Source::prev`] only behind
/// [`Source::seek_before`], [`Source::next`] behind the others.
impl<S: Source> Source for Merged<S> {
    fn entry(&self) -> Option<Entry<'_>> {
        self.sources.get(self.order.first()?.number)?.entry()
    }

    fn seek(&mut self, keyspace: u32, key: &[u8], at: Lsn) -> Result<()> {
        self.each(Direction::Forward, |source| source.seek(keyspace, key, at))
    }

    fn seek_before(&mut self, keyspace: u32, key: &[u8], at: Lsn) -> Result<()> {
        self.each(Direction::Reverse, |source| {
            source.seek_before(keyspace, key, at)
        })
    }

    fn next(&mut self) -> Result<()> {
        self.advance(Direction::Forward)
    }

    fn prev(&mut self) -> Result<()> {
        self.advance(Direction::Reverse)
    }
}

impl KeyRange<&[u8]> {
    fn ends_behind(&self, entry: &Entry<'_>) -> bool {
        entry.keyspace == self.keyspace
            && match self.upper {
                Bound::Unbounded => true,
                Bound::Included(upper) => entry.key <= upper,
                Bound::Excluded(upper) => entry.key < upper,
            }
    }

    fn begins_before(&self, entry: &Entry<'_>) -> bool {
        entry.keyspace == self.keyspace
            && match self.lower {
                Bound::Unbounded => true,
                Bound::Included(lower) => entry.key >= lower,
                Bound::Excluded(lower) => entry.key > lower,
            }
    }
}

/// Which source's version comes first; of equal ones, the earlier source's.
#[inline]
fn compare<S: Source>(sources: &[S], direction: Direction, a: &Slot, b: &Slot) -> Ordering {
    let heads = match direction {
        Direction::Forward => a.head.cmp(&b.head),
        Direction::Reverse => b.head.cmp(&a.head),
    };
    heads.then_with(|| compare_keys(sources, direction, a.number, b.number))
}

fn compare_keys<S: Source>(sources: &[S], direction: Direction, a: usize, b: usize) -> Ordering {
    let entry = |number: usize| sources.get(number).and_then(Source::entry);
    let (Some(one), Some(other)) = (entry(a), entry(b)) else {
        panic!("a source that is merged is at no version")
    };
    let order = match direction {
        Direction::Forward => one.order(&other),
        Direction::Reverse => other.order(&one),
    };
    order.then_with(|| a.cmp(&b))
}
