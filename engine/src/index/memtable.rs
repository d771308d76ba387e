//! Versions in memory: a lock-free skip list from (keyspace, key, LSN) to the rest of the version.

use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_skiplist::SkipMap;
use crossbeam_skiplist::map::Entry;

use super::Version;
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
}

#[derive(Debug, Default)]
pub(super) struct Memtable {
    versions: SkipMap<VersionKey, Tail>,
    key_bytes: AtomicUsize,
}

type Node<'a> = Entry<'a, VersionKey, Tail>;
/// What takes versions, each with its keyspace and key.
type Take<'a> = dyn FnMut(u32, &[u8], Version) -> Result<()> + 'a;

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

fn version(node: &Node<'_>) -> Version {
    let Tail { len, op } = *node.value();
    let lsn = node.key().lsn();
    Version { lsn, len, op }
}
