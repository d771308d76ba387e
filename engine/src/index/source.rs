//! What versions are read from, in their order: a memtable, a run, a level of runs, or all of them
//! merged.

use std::cmp::Ordering;
use std::ops::Deref;
use std::sync::Arc;

use super::Version;
use super::run::{Run, RunCursor, head};
use crate::error::Result;
use crate::format::Lsn;

/// One version with its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) keyspace: u32,
    pub(crate) key: &'a [u8],
    pub(crate) version: Version,
}

/// A place among versions in the order keyspace, key, newest first: at one of them or at none. A
/// move from no version goes nowhere; after an error it is at none.
///
/// # Errors
/// Every move: `Corrupt` or `Io` when what it must look at does not hold or cannot be read.
pub(crate) trait Source {
    /// The version that it is at.
    fn entry(&self) -> Option<Entry<'_>>;

    /// Goes to the newest version of `key` below `at`; where there is none, to the first version of
    /// a later key. [`Lsn::ZERO`] is behind all versions of the key.
    fn seek(&mut self, keyspace: u32, key: &[u8], at: Lsn) -> Result<()>;

    /// Goes to the last version before that to which [`Source::seek`] goes.
    fn seek_before(&mut self, keyspace: u32, key: &[u8], at: Lsn) -> Result<()>;

    /// Goes on to the next version.
    fn next(&mut self) -> Result<()>;

    /// Goes back to the version before.
    fn prev(&mut self) -> Result<()>;

    /// Goes to the first version.
    fn first(&mut self) -> Result<()> {
        self.seek(0, b"", Lsn(u64::MAX))
    }
}

impl Entry<'_> {
    /// Its place in the order against another's.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        self.keyspace
            .cmp(&other.keyspace)
            .then_with(|| self.key.cmp(other.key))
            .then_with(|| other.version.lsn.cmp(&self.version.lsn))
    }

    /// Its keyspace and the first bytes of its key, as a number in their order.
    #[inline]
    pub(super) fn head(&self) -> u128 {
        u128::from(self.keyspace) << 64 | u128::from(head(self.key))
    }

    pub(crate) fn is_of(&self, keyspace: u32, key: &[u8]) -> bool {
        self.keyspace == keyspace && self.key == key
    }
}

impl<S: Source + ?Sized> Source for Box<S> {
    fn entry(&self) -> Option<Entry<'_>> {
        (**self).entry()
    }

    fn seek(&mut self, keyspace: u32, key: &[u8], at: Lsn) -> Result<()> {
        (**self).seek(keyspace, key, at)
    }

    fn seek_before(&mut self, keyspace: u32, key: &[u8], at: Lsn) -> Result<()> {
        (**self).seek_before(keyspace, key, at)
    }

    fn next(&mut self) -> Result<()> {
        (**self).next()
    }

    fn prev(&mut self) -> Result<()> {
        (**self).prev()
    }
}

impl<R: Deref<Target = Run>> Source for RunCursor<R> {
    fn entry(&self) -> Option<Entry<'_>> {
        self.entry()
    }

    fn seek(&mut self, keyspace: u32, key: &[u8], at: Lsn) -> Result<()> {
        self.seek(keyspace, key, at)
    }

    fn seek_before(&mut self, keyspace: u32, key: &[u8], at: Lsn) -> Result<()> {
        self.seek_before(keyspace, key, at)
    }

    fn next(&mut self) -> Result<()> {
        self.next()
    }

    fn prev(&mut self) -> Result<()> {
        self.prev()
    }
}

/// A place in runs of which none holds a key of another: a level, or a single run. `L` is what
/// lists them, in the order of their keys.
#[derive(Debug)]
pub(crate) struct LevelCursor<L> {
    runs: L,
    /// Which run the cursor is in.
    current: usize,
    cursor: Option<RunCursor<Arc<Run>>>,
}

impl<L: AsRef<[Arc<Run>]>> LevelCursor<L> {
    /// A cursor at no version.
    pub(crate) const fn new(runs: L) -> Self {
        Self {
            runs,
            current: 0,
            cursor: None,
        }
    }

    /// The first run that has a key not before this one.
    fn run_for(&self, keyspace: u32, key: &[u8]) -> usize {
        self.runs.as_ref().partition_point(|run| {
            let last = &run.meta().last;
            (last.keyspace, &*last.key) < (keyspace, key)
        })
    }

    fn enter(&mut self, number: usize) -> Option<&mut RunCursor<Arc<Run>>> {
        if self.current != number || self.cursor.is_none() {
            self.cursor = self.runs.as_ref().get(number).cloned().map(RunCursor::new);
            self.current = number;
        }
        self.cursor.as_mut()
    }

    fn at_none(&self) -> bool {
        self.cursor.as_ref().is_none_or(RunCursor::at_none)
    }

    /// Where the cursor left its run at the end, goes on in the runs behind.
    fn go_on(&mut self) -> Result<()> {
        while self.at_none() && self.current + 1 < self.runs.as_ref().len() {
            if let Some(cursor) = self.enter(self.current + 1) {
                cursor.first()?;
            }
        }
        Ok(())
    }

    fn go_back(&mut self) -> Result<()> {
        while self.at_none()
            && let Some(before) = self.current.min(self.runs.as_ref().len()).checked_sub(1)
        {
            if let Some(cursor) = self.enter(before) {
                cursor.last()?;
            }
        }
        Ok(())
    }
}

impl<L: AsRef<[Arc<Run>]>> Source for LevelCursor<L> {
    fn entry(&self) -> Option<Entry<'_>> {
        self.cursor.as_ref()?.entry()
    }

    fn seek(&mut self, keyspace: u32, key: &[u8], at: Lsn) -> Result<()> {
        let number = self.run_for(keyspace, key);
        match self.enter(number) {
            Some(cursor) => cursor.seek(keyspace, key, at)?,
            None => return Ok(()),
        }
        self.go_on()
    }

    fn seek_before(&mut self, keyspace: u32, key: &[u8], at: Lsn) -> Result<()> {
        let number = self.run_for(keyspace, key);
        if let Some(cursor) = self.enter(number) {
            cursor.seek_before(keyspace, key, at)?;
        }
        self.go_back()
    }

    fn next(&mut self) -> Result<()> {
        if self.at_none() {
            return Ok(());
        }
        if let Some(cursor) = &mut self.cursor {
            cursor.next()?;
        }
        self.go_on()
    }

    fn prev(&mut self) -> Result<()> {
        if self.at_none() {
            return Ok(());
        }
        if let Some(cursor) = &mut self.cursor {
            cursor.prev()?;
        }
        self.go_back()
    }
}
