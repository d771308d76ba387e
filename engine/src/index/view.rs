//! What a reader of the index looks at: memtables over runs, the newest first.

use std::sync::Arc;

use super::Version;
use super::levels::Levels;
use super::memtable::{Memtable, MemtableCursor};
use super::merged::Merged;
use super::run::{Run, RunCursor};
use super::source::{Entry, LevelCursor, Source};
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
        let found = self.get_in_memory(keyspace, key, at);
        if found.is_some() {
            return Ok(found);
        }
        self.runs.get(keyspace, key, at)
    }

    /// The same, if it was written since the newest run.
    pub(crate) fn get_in_memory(&self, keyspace: u32, key: &[u8], at: Lsn) -> Option<Version> {
        let mut memtables = self.memtables();
        memtables.find_map(|memtable| memtable.get(keyspace, key, at))
    }

    /// A cursor over all versions, at none of them.
    pub(super) fn parts(&self) -> Merged<Part> {
        let frozen = self.frozen.iter().map(|frozen| &frozen.memtable);
        let memtables = std::iter::once(&self.memtable).chain(frozen);
        let memtables = memtables.map(|memtable| Part::Memtable(memtable.clone().into_cursor()));
        let (newest, deeper) = self.runs.levels.newest_and_deeper();
        let newest = newest
            .iter()
            .map(|run| Part::Run(RunCursor::new(run.clone())));
        let deeper = (0..deeper.len()).map(|number| {
            let runs = self.runs.clone();
            Part::Level(LevelCursor::new(Level { runs, number }))
        });
        Merged::new(memtables.chain(newest).chain(deeper).collect())
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

/// One of the sources that a reader merges. It keeps what it reads.
#[derive(Debug)]
pub(super) enum Part {
    Memtable(MemtableCursor<Arc<Memtable>>),
    Run(RunCursor<Arc<Run>>),
    Level(LevelCursor<Level>),
}

/// A level below the first, by its number from there.
#[derive(Debug)]
pub(super) struct Level {
    runs: Arc<Runs>,
    number: usize,
}

impl AsRef<[Arc<Run>]> for Level {
    fn as_ref(&self) -> &[Arc<Run>] {
        let (_, deeper) = self.runs.levels.newest_and_deeper();
        deeper.get(self.number).map_or(&[], Vec::as_slice)
    }
}

/// The same of whichever source it is.
macro_rules! part {
    ($part:expr, $source:ident => $do:expr) => {
        match $part {
            Part::Memtable($source) => $do,
            Part::Run($source) => $do,
            Part::Level($source) => $do,
        }
    };
}

impl Source for Part {
    #[inline]
    fn entry(&self) -> Option<Entry<'_>> {
        part!(self, source => source.entry())
    }

    fn seek(&mut self, keyspace: u32, key: &[u8], at: Lsn) -> Result<()> {
        part!(self, source => source.seek(keyspace, key, at))
    }

    fn seek_before(&mut self, keyspace: u32, key: &[u8], at: Lsn) -> Result<()> {
        part!(self, source => source.seek_before(keyspace, key, at))
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        part!(self, source => source.next())
    }

    fn prev(&mut self) -> Result<()> {
        part!(self, source => source.prev())
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

    /// How many there are in each level, the newest level first.
    pub(crate) fn by_level(&self) -> impl Iterator<Item = u64> {
        self.levels.levels().iter().map(|level| level.len() as u64)
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

    pub(super) fn get(&self, keyspace: u32, key: &[u8], at: Lsn) -> Result<Option<Version>> {
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
