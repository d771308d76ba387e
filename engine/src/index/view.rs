//! What a reader of the index looks at: memtables over runs, the newest first.

use std::sync::Arc;

use super::levels::Levels;
use super::memtable::Memtable;
use super::merged::Merged;
use super::run::{Run, RunCursor};
use super::source::{LevelCursor, Source};
use super::{Direction, KeyRange, Version};
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
    pub(super) levels: Levels<Arc<Run>>,
    /// The replay point.
    pub(crate) replay: Chain,
    /// The keyspaces that the log makes below it.
    pub(crate) keyspaces: Vec<KeyspaceRecord>,
}

/// A place among the versions of all runs.
pub(crate) type VersionCursor = Merged<LevelCursor<Vec<Arc<Run>>>>;

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
        let memtables = self.memtables().map(|memtable| boxed(memtable.cursor()));
        let (newest, deeper) = self.runs.levels.newest_and_deeper();
        let newest = newest.iter().map(|run| boxed(RunCursor::new(&**run)));
        let deeper = deeper.iter().map(|level| boxed(LevelCursor::new(level)));
        let sources = memtables.chain(newest).chain(deeper).collect();
        Merged::new(sources).visit(range, direction, limit, visit)
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
            levels: Levels::default(),
            replay: Chain::origin(cluster),
            keyspaces: Vec::new(),
        }
    }

    /// The same versions, in other runs.
    pub(super) fn with_levels(&self, levels: Levels<Arc<Run>>) -> Self {
        Self {
            levels,
            replay: self.replay,
            keyspaces: self.keyspaces.clone(),
        }
    }

    /// Bytes of their files.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.levels.len_bytes()
    }

    /// All of them, by level.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Run>> {
        self.levels.runs()
    }

    /// A place among all their versions.
    pub(crate) fn cursor(&self) -> VersionCursor {
        let (newest, deeper) = self.levels.newest_and_deeper();
        let newest = newest.iter().map(|run| vec![run.clone()]);
        let sources = newest.chain(deeper.iter().cloned()).map(LevelCursor::new);
        Merged::new(sources.collect())
    }

    fn get(&self, keyspace: u32, key: &[u8], at: Lsn) -> Result<Option<Version>> {
        let (newest, deeper) = self.levels.newest_and_deeper();
        for run in newest {
            let found = run.get(keyspace, key, at)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        for level in deeper {
            if let Some(run) = Levels::run_for(level, keyspace, key) {
                let found = run.get(keyspace, key, at)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }
}

fn boxed<'a>(source: impl Source + 'a) -> Box<dyn Source + 'a> {
    Box::new(source)
}
