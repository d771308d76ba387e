//! Versions in memory: a lock-free skip list from (keyspace, key, LSN) to the rest of the version.

use std::ops::{Bound, Deref};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam_skiplist::SkipMap;
use crossbeam_skiplist::map::Entry;
use parking_lot::RwLock;

use super::Version;
use super::cursor::Direction;
use super::ranges::Ranges;
use super::source::{self, Source};
use super::version::{Place, Probe, Resume, VersionKey};
use crate::error::Result;
use crate::format::{Lsn, Op};

/// Memory of a node without its key's bytes: the node, two pointers of tower on average, and what
/// the allocator adds to its two blocks.
const NODE_BYTES: usize = size_of::<VersionKey>() + size_of::<Tail>() + 8 + 2 * 8 + 2 * 8;

/// What a version holds beside its [`VersionKey`].
#[derive(Clone, Copy, Debug)]
struct Tail {
    len: u32,
    op: Op,
    expires_ms: u64,
}

#[derive(Debug, Default)]
pub(super) struct Memtable {
    versions: SkipMap<VersionKey, Tail>,
    key_bytes: AtomicUsize,
    ranges: RwLock<Ranges>,
    /// Positions in `ranges`, so that who reads where there are none takes no lock.
    range_len: AtomicUsize,
    /// When the last of the puts expires; 0 if none does.
    expires_last_ms: AtomicU64,
}

/// Versions that a cursor reads at first, and at most, before it looks into the memtable again.
const AHEAD_MIN: usize = 2;
const AHEAD_MAX: usize = 64;

type Node<'a> = Entry<'a, VersionKey, Tail>;
/// What takes versions, each with its keyspace and key.
type Take<'a> = dyn FnMut(u32, &[u8], Version) -> Result<()> + 'a;

/// A place in a memtable, which may grow meanwhile: what comes in behind its place may be seen or
/// not. `M` is what it holds the memtable by.
///
/// It reads some versions ahead and holds no node, which would hold up the memory of others.
#[derive(Debug)]
pub(super) struct MemtableCursor<M> {
    memtable: M,
    direction: Direction,
    ahead: Vec<Ahead>,
    keys: Vec<u8>,
    /// Which of those ahead it is at; at none behind them.
    at: usize,
    ahead_max: usize,
}

/// A version that was read ahead.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    keyspace: u32,
    key_start: usize,
    key_end: usize,
    version: Version,
}

impl Memtable {
    pub(super) fn insert(&self, keyspace: u32, key: &[u8], version: Version) {
        let Version {
            lsn,
            len,
            op,
            expires_ms,
        } = version;
        let tail = Tail {
            len,
            op,
            expires_ms,
        };
        if expires_ms != 0 {
            self.expires_last_ms
                .fetch_max(expires_ms, Ordering::Relaxed);
        }
        self.versions
            .insert(VersionKey::new(keyspace, key, lsn), tail);
        self.key_bytes.fetch_add(key.len(), Ordering::Relaxed);
    }

    /// Adds the range delete at `lsn`.
    pub(super) fn insert_range(&self, keyspace: u32, start: &[u8], end: Option<&[u8]>, lsn: Lsn) {
        let mut ranges = self.ranges.write();
        ranges.insert(keyspace, start, end, lsn);
        self.range_len.store(ranges.len(), Ordering::Release);
    }

    /// Asks something of the range deletes, if there are any.
    #[inline]
    pub(super) fn with_ranges<T>(&self, ask: impl FnOnce(&Ranges) -> Option<T>) -> Option<T> {
        if self.range_len.load(Ordering::Acquire) == 0 {
            return None;
        }
        ask(&self.ranges.read())
    }

    /// When the last of the puts expires; 0 if none does.
    pub(super) fn expires_last_ms(&self) -> u64 {
        self.expires_last_ms.load(Ordering::Relaxed)
    }

    pub(super) fn get(&self, keyspace: u32, key: &[u8], at: Lsn) -> Option<Version> {
        let node = self.newest(keyspace, key, at)?;
        node.key().is_of(keyspace, key).then(|| version(&node))
    }

    /// A cursor at no version.
    #[cfg(test)]
    pub(super) const fn cursor(&self) -> MemtableCursor<&Self> {
        MemtableCursor::new(self)
    }

    /// A cursor at no version, which keeps the memtable.
    pub(super) const fn into_cursor(self: Arc<Self>) -> MemtableCursor<Arc<Self>> {
        MemtableCursor::new(self)
    }

    /// Versions of keys.
    pub(super) fn versions(&self) -> usize {
        self.versions.len()
    }

    /// All that it holds, range deletes counted by their fragments.
    pub(super) fn len(&self) -> usize {
        self.versions.len() + self.range_len.load(Ordering::Relaxed)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.versions.len() * NODE_BYTES + self.key_bytes.load(Ordering::Relaxed)
    }

    /// Hands the versions behind `resume` to `take` in their order, at most `limit` of them, and
    /// moves `resume` behind them; whether they were the last.
    pub(super) fn export(
        &self,
        resume: &mut Resume,
        limit: usize,
        take: &mut Take<'_>,
    ) -> Result<bool> {
        let mut next = match resume.probe() {
            None => self.versions.front(),
            Some(probe) => self
                .versions
                .lower_bound::<dyn Place>(Bound::Excluded(&probe)),
        };
        for _ in 0..limit {
            let Some(node) = &mut next else {
                return Ok(true);
            };
            let key = node.key();
            take(key.keyspace(), key.key(), version(node))?;
            resume.set(key);
            if !node.move_next() {
                return Ok(true);
            }
        }
        Ok(next.is_none())
    }

    /// The newest version of the key below `at`; where there is none, the first node behind.
    fn newest(&self, keyspace: u32, key: &[u8], at: Lsn) -> Option<Node<'_>> {
        let below = at.0.checked_sub(1)?;
        let probe = Probe::new(keyspace, key, Lsn(below));
        self.versions
            .lower_bound::<dyn Place>(Bound::Included(&probe))
    }
}

impl<M> MemtableCursor<M> {
    const fn new(memtable: M) -> Self {
        Self {
            memtable,
            direction: Direction::Forward,
            ahead: Vec::new(),
            keys: Vec::new(),
            at: 0,
            ahead_max: AHEAD_MIN,
        }
    }

    fn key(&self, ahead: &Ahead) -> &[u8] {
        let key = self.keys.get(ahead.key_start..ahead.key_end);
        key.unwrap_or_default()
    }
}

impl<M: Deref<Target = Memtable>> MemtableCursor<M> {
    /// Moves in `direction`.
    fn step(&mut self, direction: Direction) {
        let Some(here) = self.ahead.get(self.at).copied() else {
            return;
        };
        if self.direction == direction && self.at + 1 < self.ahead.len() {
            self.at += 1;
            return;
        }
        if self.direction == direction && self.ahead.len() < self.ahead_max {
            // There were no more when these were read.
            self.at = self.ahead.len();
            return;
        }
        self.ahead_max = (4 * self.ahead_max).min(AHEAD_MAX);
        let key = self.key(&here).to_vec();
        let probe = Probe::new(here.keyspace, &key, here.version.lsn);
        self.read_from(direction, Bound::Excluded(&probe));
    }

    /// Reads ahead in `direction`, from `bound` on.
    fn read_from(&mut self, direction: Direction, bound: Bound<&(dyn Place + '_)>) {
        self.ahead.clear();
        self.keys.clear();
        (self.at, self.direction) = (0, direction);
        let versions = &self.memtable.versions;
        let mut next = match direction {
            Direction::Forward => versions.lower_bound(bound),
            Direction::Reverse => versions.upper_bound(bound),
        };
        while let Some(node) = &mut next
            && self.ahead.len() < self.ahead_max
        {
            let (key_start, place) = (self.keys.len(), node.key());
            self.keys.extend_from_slice(place.key());
            self.ahead.push(Ahead {
                keyspace: place.keyspace(),
                key_start,
                key_end: self.keys.len(),
                version: version(node),
            });
            let moved = match direction {
                Direction::Forward => node.move_next(),
                Direction::Reverse => node.move_prev(),
            };
            if !moved {
                break;
            }
        }
    }
}

impl<M: Deref<Target = Memtable>> Source for MemtableCursor<M> {
    fn entry(&self) -> Option<source::Entry<'_>> {
        let ahead = self.ahead.get(self.at)?;
        Some(source::Entry {
            keyspace: ahead.keyspace,
            key: self.key(ahead),
            version: ahead.version,
        })
    }

    fn seek(&mut self, keyspace: u32, key: &[u8], at: Lsn) -> Result<()> {
        let probe = Probe::new(keyspace, key, Lsn(at.0.saturating_sub(1)));
        self.ahead_max = AHEAD_MIN;
        self.read_from(Direction::Forward, Bound::Included(&probe));
        Ok(())
    }

    fn seek_before(&mut self, keyspace: u32, key: &[u8], at: Lsn) -> Result<()> {
        let probe = Probe::new(keyspace, key, Lsn(at.0.saturating_sub(1)));
        self.ahead_max = AHEAD_MIN;
        self.read_from(Direction::Reverse, Bound::Excluded(&probe));
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        self.step(Direction::Forward);
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        self.step(Direction::Reverse);
        Ok(())
    }
}

fn version(node: &Node<'_>) -> Version {
    let Tail {
        len,
        op,
        expires_ms,
    } = *node.value();
    let lsn = node.key().lsn();
    Version {
        lsn,
        len,
        op,
        expires_ms,
    }
}
