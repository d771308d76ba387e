//! What a reader of the index looks at: memtables over runs, the newest first.

use std::ops::Bound;
use std::sync::Arc;

use super::memtable::Memtable;
use super::run::Run;
use super::{Direction, IndexManifest, KeyRange, Version};
use crate::error::Result;
use crate::format::{Chain, ClusterId, KeyspaceRecord, Lsn};

/// The versions of all keys of all keyspaces, as one reader sees them. Only its newest memtable
/// grows.
///
/// Invariant: of one key, a version in a newer part has a higher LSN than all in the older ones.
/// The newest part is the memtable, then come the frozen ones, then the runs by their levels.
#[derive(Debug)]
pub(crate) struct Index {
    pub(super) memtable: Arc<Memtable>,
    /// The newest first.
    pub(super) frozen: Vec<Arc<Frozen>>,
    pub(super) runs: Arc<Runs>,
}

/// A memtable that takes no more versions, and waits to be written out.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(super) memtable: Arc<Memtable>,
    /// Where it ends: the replay point once it is written out.
    pub(crate) end: Chain,
    /// The keyspaces that the log makes below that.
    pub(super) keyspaces: Vec<KeyspaceRecord>,
}

/// The runs on the disk, opened, and the replay point that they reach.
#[derive(Debug)]
pub(crate) struct Runs {
    /// As in [`IndexManifest::levels`].
    pub(super) levels: Vec<Vec<Arc<Run>>>,
    /// The replay point.
    pub(crate) replay: Chain,
    /// The keyspaces that the log makes below it.
    pub(crate) keyspaces: Vec<KeyspaceRecord>,
}

impl Index {
    /// No version but those in `runs`.
    pub(crate) fn new(runs: Arc<Runs>) -> Self {
        Self {
            memtable: Arc::default(),
            frozen: Vec::new(),
            runs,
        }
    }

    /// Adds a version. Inserting the same one again changes nothing.
    pub(crate) fn insert(&self, keyspace: u32, key: &[u8], version: Version) {
        self.memtable.insert(keyspace, key, version);
    }

    /// The newest version of `key` below `at`, a delete included.
    ///
    /// # Errors
    /// `Corrupt` when a run does not hold, `Io`.
    pub(crate) fn get(&self, keyspace: u32, key: &[u8], at: Lsn) -> Result<Option<Version>> {
        let mut memtables = self.memtables();
        let found = memtables.find_map(|memtable| memtable.get(keyspace, key, at));
        if found.is_some() {
            return Ok(found);
        }
        self.runs.get(keyspace, key, at)
    }

    /// Visits at most `limit` keys that have a value in `range`, from its start or from its end.
    pub(super) fn visit(
        &self,
        range: &KeyRange<&[u8]>,
        direction: Direction,
        limit: usize,
        visit: &mut dyn FnMut(&[u8], Version),
    ) -> Result<()> {
        // TEMPORARY
        let mut all = std::collections::BTreeMap::<Vec<u8>, Version>::new();
        let mut note = |key: &[u8], v: Version| {
            let inside = match range.lower {
                Bound::Included(l) => key >= l,
                Bound::Excluded(l) => key > l,
                Bound::Unbounded => true,
            } && match range.upper {
                Bound::Included(l) => key <= l,
                Bound::Excluded(l) => key < l,
                Bound::Unbounded => true,
            };
            if inside && v.lsn < range.at {
                let e = all.entry(key.to_vec()).or_insert(v);
                if v.lsn > e.lsn {
                    *e = v;
                }
            }
        };
        for m in self.memtables() {
            let mut r = super::version::Resume::default();
            m.export(&mut r, usize::MAX, &mut |ks, k, v| {
                if ks == range.keyspace {
                    note(k, v);
                }
                Ok(())
            })?;
        }
        for run in self.runs.all() {
            let mut cursor = super::run::RunCursor::new(&**run);
            cursor.first()?;
            while let Some(e) = cursor.entry() {
                if e.keyspace == range.keyspace {
                    note(e.key, e.version);
                }
                cursor.next()?;
            }
        }
        let live = all.iter().filter(|(_, v)| v.op == crate::format::Op::Put);
        match direction {
            Direction::Forward => live.take(limit).for_each(|(k, v)| visit(k, *v)),
            Direction::Reverse => live.rev().take(limit).for_each(|(k, v)| visit(k, *v)),
        }
        Ok(())
    }

    /// The memtables, the newest first.
    pub(super) fn memtables(&self) -> impl Iterator<Item = &Memtable> {
        let frozen = self.frozen.iter().map(|frozen| &*frozen.memtable);
        std::iter::once(&*self.memtable).chain(frozen)
    }

    /// The runs.
    pub(crate) const fn runs(&self) -> &Arc<Runs> {
        &self.runs
    }

    /// What waits to be written out, the oldest first.
    pub(crate) fn frozen(&self) -> impl Iterator<Item = &Arc<Frozen>> {
        self.frozen.iter().rev()
    }

    /// The same versions, with an empty memtable over the one that ends at `end`.
    pub(crate) fn freeze(&self, end: Chain, keyspaces: Vec<KeyspaceRecord>) -> Self {
        let memtable = self.memtable.clone();
        let newest = Arc::new(Frozen {
            memtable,
            end,
            keyspaces,
        });
        let frozen = std::iter::once(newest).chain(self.frozen.iter().cloned());
        Self {
            memtable: Arc::default(),
            frozen: frozen.collect(),
            runs: self.runs.clone(),
        }
    }

    /// The same versions, with other runs, which hold `written` too.
    pub(crate) fn with_runs(&self, runs: Arc<Runs>, written: Option<&Arc<Frozen>>) -> Self {
        let mut frozen = self.frozen.clone();
        if let Some(written) = written {
            let oldest = frozen.pop();
            assert!(
                oldest.is_some_and(|oldest| Arc::ptr_eq(&oldest, written)),
                "memtables are written out in their order"
            );
        }
        let memtable = self.memtable.clone();
        Self {
            memtable,
            frozen,
            runs,
        }
    }

    /// Versions in the memtable that grows.
    pub(crate) fn memtable_versions(&self) -> usize {
        self.memtable.versions()
    }

    /// Versions held, deletes included.
    pub(crate) fn versions(&self) -> u64 {
        let memory: usize = self.memtables().map(Memtable::versions).sum();
        memory as u64 + self.runs.all().map(|run| run.meta().entries).sum::<u64>()
    }

    /// Memory taken by memtables, in bytes: an estimate that counts each node with its average
    /// height.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memtables().map(Memtable::memory_bytes).sum()
    }
}

impl Runs {
    /// None, at the beginning of the log.
    pub(crate) fn none(cluster: ClusterId) -> Self {
        Self {
            levels: Vec::new(),
            replay: Chain::origin(cluster),
            keyspaces: Vec::new(),
        }
    }

    /// Those that `manifest` names, as they were opened.
    pub(super) fn new(manifest: &IndexManifest, levels: Vec<Vec<Arc<Run>>>) -> Self {
        Self {
            levels,
            replay: manifest.replay.chain(manifest.cluster),
            keyspaces: manifest.keyspaces.clone(),
        }
    }

    /// All of them, by level.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Run>> {
        self.levels.iter().flatten()
    }

    fn get(&self, keyspace: u32, key: &[u8], at: Lsn) -> Result<Option<Version>> {
        let ends_before = |run: &Run| {
            let last = &run.meta().last;
            (last.keyspace, &last.key[..]) < (keyspace, key)
        };
        let Some((newest, deeper)) = self.levels.split_first() else {
            return Ok(None);
        };
        for run in newest {
            let found = run.get(keyspace, key, at)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        for level in deeper {
            let at_or_behind = level.partition_point(|run| ends_before(run));
            if let Some(run) = level.get(at_or_behind) {
                let found = run.get(keyspace, key, at)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }
}
