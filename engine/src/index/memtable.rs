//! Versions in memory: a lock-free skip list from (keyspace, key, LSN) to the rest of the version.

use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_skiplist::SkipMap;
use crossbeam_skiplist::map::Entry;

use super::source::{self, Source};
use super::version::{Place, Probe, VersionKey};
use super::{KeyRange, Version};
use crate::error::Result;
use crate::format::{Lsn, Op};

/// Versions of one key that are stepped over one by one before the list is searched instead: a step
/// is much cheaper than a search, and few keys have many versions.
const STEPS_MAX: usize = 8;
/// Memory of a node without its key's bytes: the node, two pointers of tower on average, and what
/// the allocator adds to its two blocks.
const NODE_BYTES: usize = size_of::<VersionKey>() + size_of::<Tail>() + 8 + 2 * 8 + 2 * 8;

/// What a version holds beside its [`VersionKey`].
#[derive(Clone, Copy, Debug)]
struct Tail {
    len: u32,
    op: Op,
}

#[derive(Debug, Default)]
pub(super) struct Memtable {
    versions: SkipMap<VersionKey, Tail>,
    key_bytes: AtomicUsize,
}

type Node<'a> = Entry<'a, VersionKey, Tail>;

/// A place in a memtable, which may grow meanwhile.
#[derive(Debug)]
pub(super) struct MemtableCursor<'a> {
    memtable: &'a Memtable,
    node: Option<Node<'a>>,
}

impl Memtable {
    pub(super) fn insert(&self, keyspace: u32, key: &[u8], version: Version) {
        let Version { lsn, len, op } = version;
        let tail = Tail { len, op };
        self.versions
            .insert(VersionKey::new(keyspace, key, lsn), tail);
        self.key_bytes.fetch_add(key.len(), Ordering::Relaxed);
    }

    pub(super) fn get(&self, keyspace: u32, key: &[u8], at: Lsn) -> Option<Version> {
        let node = self.newest(keyspace, key, at)?;
        node.key().is_of(keyspace, key).then(|| version(&node))
    }

    /// A cursor at no version.
    pub(super) const fn cursor(&self) -> MemtableCursor<'_> {
        let (memtable, node) = (self, None);
        MemtableCursor { memtable, node }
    }

    pub(super) fn versions(&self) -> usize {
        self.versions.len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.versions.len() * NODE_BYTES + self.key_bytes.load(Ordering::Relaxed)
    }

    /// Visits at most `limit` keys that have a value, lowest first.
    pub(super) fn forward(
        &self,
        range: &KeyRange<&[u8]>,
        limit: usize,
        visit: &mut dyn FnMut(&[u8], Version),
    ) {
        let (keyspace, at) = (range.keyspace, range.at);
        let mut next = match range.lower {
            Bound::Unbounded => self.newest(keyspace, b"", at),
            Bound::Included(key) => self.newest(keyspace, key, at),
            Bound::Excluded(key) => self.behind(keyspace, key),
        };
        let mut visited = 0;
        while visited < limit
            && let Some(node) = next
            && range.holds(&node)
        {
            let seen = self.step(
                node.clone(),
                |node| node.key().lsn() < at,
                || self.newest(keyspace, node.key().key(), at),
            );
            let Some(seen) = seen else { return };
            if !seen.key().is_of(keyspace, node.key().key()) {
                // All of the key's versions are too new, and this is the next key.
                next = Some(seen);
                continue;
            }
            if seen.value().op == Op::Put {
                visit(seen.key().key(), version(&seen));
                visited += 1;
            }
            let other_key = |node: &Node<'_>| !node.key().is_of(keyspace, seen.key().key());
            next = self.step(seen.clone(), other_key, || {
                self.behind(keyspace, seen.key().key())
            });
        }
    }

    /// Visits at most `limit` keys that have a value, highest first.
    ///
    /// Going back costs a search a step whatever is done, so versions are not stepped over.
    pub(super) fn reverse(
        &self,
        range: &KeyRange<&[u8]>,
        limit: usize,
        visit: &mut dyn FnMut(&[u8], Version),
    ) {
        let (keyspace, at) = (range.keyspace, range.at);
        let mut next = match range.upper {
            Bound::Unbounded => match keyspace.checked_add(1) {
                Some(above) => self.before(above, b""),
                None => self.versions.back(),
            },
            Bound::Included(key) => self.last(keyspace, key),
            Bound::Excluded(key) => self.before(keyspace, key),
        };
        let mut visited = 0;
        while visited < limit
            && let Some(oldest) = next
            && range.holds(&oldest)
        {
            let key = oldest.key().key();
            let mut before = oldest.prev();
            let mut seen = Some(oldest.clone());
            if before
                .as_ref()
                .is_some_and(|node| node.key().is_of(keyspace, key))
            {
                seen = self.newest(keyspace, key, at);
                before = self.before(keyspace, key);
            }
            let shown = seen.filter(|node| {
                let key_now = node.key();
                key_now.lsn() < at && key_now.is_of(keyspace, key) && node.value().op == Op::Put
            });
            if let Some(node) = shown {
                visit(key, version(&node));
                visited += 1;
            }
            next = before;
        }
    }

    /// The first node from `node` on for which `reached` holds; `search` finds it where it is far.
    fn step<'a>(
        &self,
        mut node: Node<'a>,
        reached: impl Fn(&Node<'a>) -> bool,
        search: impl Fn() -> Option<Node<'a>>,
    ) -> Option<Node<'a>> {
        for _ in 0..STEPS_MAX {
            if reached(&node) {
                return Some(node);
            }
            if !node.move_next() {
                return None;
            }
        }
        search()
    }

    /// The newest version of the key below `at`; where there is none, the first node behind.
    fn newest(&self, keyspace: u32, key: &[u8], at: Lsn) -> Option<Node<'_>> {
        let below = at.0.checked_sub(1)?;
        let probe = Probe::new(keyspace, key, Lsn(below));
        self.versions
            .lower_bound::<dyn Place>(Bound::Included(&probe))
    }

    /// The first node behind all versions of the key.
    fn behind(&self, keyspace: u32, key: &[u8]) -> Option<Node<'_>> {
        let probe = Probe::new(keyspace, key, Lsn::ZERO);
        self.versions
            .lower_bound::<dyn Place>(Bound::Excluded(&probe))
    }

    /// The oldest version of the key; where there is none, the last node before.
    fn last(&self, keyspace: u32, key: &[u8]) -> Option<Node<'_>> {
        let probe = Probe::new(keyspace, key, Lsn::ZERO);
        self.versions
            .upper_bound::<dyn Place>(Bound::Included(&probe))
    }

    /// The last node before all versions of the key.
    fn before(&self, keyspace: u32, key: &[u8]) -> Option<Node<'_>> {
        let probe = Probe::new(keyspace, key, Lsn(u64::MAX));
        self.versions
            .upper_bound::<dyn Place>(Bound::Excluded(&probe))
    }
}

impl Source for MemtableCursor<'_> {
    fn entry(&self) -> Option<source::Entry<'_>> {
        let node = self.node.as_ref()?;
        Some(source::Entry {
            keyspace: node.key().keyspace(),
            key: node.key().key(),
            version: version(node),
        })
    }

    fn seek(&mut self, keyspace: u32, key: &[u8], at: Lsn) -> Result<()> {
        let probe = Probe::new(keyspace, key, Lsn(at.0.saturating_sub(1)));
        let versions = &self.memtable.versions;
        self.node = versions.lower_bound::<dyn Place>(Bound::Included(&probe));
        Ok(())
    }

    fn seek_before(&mut self, keyspace: u32, key: &[u8], at: Lsn) -> Result<()> {
        let probe = Probe::new(keyspace, key, Lsn(at.0.saturating_sub(1)));
        let versions = &self.memtable.versions;
        self.node = versions.upper_bound::<dyn Place>(Bound::Excluded(&probe));
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        if let Some(node) = &mut self.node
            && !node.move_next()
        {
            self.node = None;
        }
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        self.node = self.node.as_ref().and_then(Node::prev);
        Ok(())
    }
}

impl KeyRange<&[u8]> {
    fn holds(&self, node: &Node<'_>) -> bool {
        let key = node.key().key();
        let above = match self.lower {
            Bound::Unbounded => true,
            Bound::Included(lower) => key >= lower,
            Bound::Excluded(lower) => key > lower,
        };
        let below = match self.upper {
            Bound::Unbounded => true,
            Bound::Included(upper) => key <= upper,
            Bound::Excluded(upper) => key < upper,
        };
        node.key().keyspace() == self.keyspace && above && below
    }
}

fn version(node: &Node<'_>) -> Version {
    let Tail { len, op } = *node.value();
    let lsn = node.key().lsn();
    Version { lsn, len, op }
}
