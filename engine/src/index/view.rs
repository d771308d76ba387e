//! What a reader of the index looks at: memtables over runs, the newest first.

use std::sync::Arc;

use super::levels::Levels;
use super::manifest::RangesFile;
use super::memtable::{Memtable, MemtableCursor};
use super::merged::Merged;
use super::ranges::Ranges;
use super::run::{Run, RunCursor};
use super::source::{Entry, LevelCursor, Source};
use super::{Direction, KeyRange, Moment, Version};
use crate::error::Result;
use crate::format::{Chain, ClusterId, Lsn};
use crate::keyspace::Made;

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
    pub(super) keyspaces: Vec<Made>,
}

/// The runs on the disk, opened, and the replay point that they reach.
#[derive(Debug)]
pub(crate) struct Runs {
    pub(super) levels: Levels<Arc<Run>>,
    pub(super) ranges: Arc<Ranges>,
    /// The file of `ranges`, unless they are none.
    pub(super) ranges_file: Option<RangesFile>,
    /// The replay point.
    pub(crate) replay: Chain,
    /// The keyspaces that the log makes below it.
    pub(crate) keyspaces: Vec<Made>,
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

    /// Adds the range delete at `lsn`, of the keys from `start` on and before `end`. Adding the
    /// same one again changes nothing.
    pub(crate) fn insert_range(&self, keyspace: u32, start: &[u8], end: Option<&[u8]>, lsn: Lsn) {
        self.memtable.insert_range(keyspace, start, end, lsn);
    }

    /// Adds a version. Inserting the same one again changes nothing.
    pub(crate) fn insert(&self, keyspace: u32, key: &[u8], version: Version) {
        self.memtable.insert(keyspace, key, version);
    }

    /// The newest version of `key` below `at`, a delete included. Where a range delete over the key
    /// is newer, that is the version.
    ///
    /// # Errors
    /// `Corrupt` when a run does not hold, `Io`.
    pub(crate) fn get(&self, keyspace: u32, key: &[u8], at: Lsn) -> Result<Option<Version>> {
        let found = self.get_in_memory(keyspace, key, at);
        if found.is_some() {
            return Ok(found);
        }
        let found = self.runs.get(keyspace, key, at)?;
        if self.runs.ranges.is_empty() {
            return Ok(found);
        }
        let covered = self.runs.ranges.newest_below(keyspace, key, at);
        Ok(newer(found, covered))
    }

    /// The same, if it was written since the newest run.
    pub(crate) fn get_in_memory(&self, keyspace: u32, key: &[u8], at: Lsn) -> Option<Version> {
        let mut memtables = self.memtables();
        let found = memtables.find_map(|memtable| memtable.get(keyspace, key, at));
        newer(found, self.range_in_memory(keyspace, key, at))
    }

    /// The newest range delete over `key` below `at` that was written since the newest run.
    #[inline]
    fn range_in_memory(&self, keyspace: u32, key: &[u8], at: Lsn) -> Option<Lsn> {
        // Those of a newer part are newer.
        let mut memtables = self.memtables();
        memtables.find_map(|memtable| {
            memtable.with_ranges(|ranges| ranges.newest_below(keyspace, key, at))
        })
    }

    /// The newest range delete over `key` below `at`.
    #[inline]
    fn range_below(&self, keyspace: u32, key: &[u8], at: Lsn) -> Option<Lsn> {
        match self.range_in_memory(keyspace, key, at) {
            None if self.runs.ranges.is_empty() => None,
            None => self.runs.ranges.newest_below(keyspace, key, at),
            newest => newest,
        }
    }

    /// When the last of all puts expires; 0 if none does.
    pub(crate) fn expires_last_ms(&self) -> u64 {
        let memory = self.memtables().map(Memtable::expires_last_ms);
        let disk = self.runs.all().map(|run| run.meta().expires_last_ms);
        memory.chain(disk).max().unwrap_or_default()
    }

    /// Whether a range delete of this keyspace is held.
    fn has_ranges(&self, keyspace: u32) -> bool {
        let has = |ranges: &Ranges| ranges.has(keyspace).then_some(());
        self.runs.ranges.has(keyspace)
            || self
                .memtables()
                .any(|memtable| memtable.with_ranges(has).is_some())
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

    /// Visits at most `limit` keys of `range` that have a value there, from where `merged`, which
    /// is a cursor over these versions, was left.
    pub(super) fn visit(
        &self,
        merged: &mut Merged<Part>,
        range: &KeyRange<&[u8]>,
        direction: Direction,
        limit: usize,
        visit: &mut dyn FnMut(&[u8], Version),
    ) -> Result<()> {
        let Moment { lsn, log_ms } = range.at;
        let keyspace = range.keyspace;
        if !self.has_ranges(keyspace) {
            let shows = |_: &[u8], version: &Version| version.is_put_at(log_ms);
            return merged.visit(range, direction, limit, &shows, visit);
        }
        let shows = |key: &[u8], version: &Version| {
            let covered = || self.range_below(keyspace, key, lsn);
            version.is_put_at(log_ms) && covered().is_none_or(|lsn| lsn < version.lsn)
        };
        merged.visit(range, direction, limit, &shows, visit)
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
    pub(crate) fn freeze(&self, end: Chain, keyspaces: Vec<Made>) -> Self {
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

    /// Versions in the memtable that grows, range deletes counted by their fragments.
    pub(crate) fn memtable_len(&self) -> usize {
        self.memtable.len()
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

/// The newer one of a version of a key and of a range delete over it.
fn newer(found: Option<Version>, covered: Option<Lsn>) -> Option<Version> {
    let newer = covered.filter(|lsn| found.is_none_or(|found| found.lsn < *lsn));
    newer.map(Version::range_delete).or(found)
}

impl Runs {
    /// None, at the beginning of the log.
    pub(crate) fn none(cluster: ClusterId) -> Self {
        Self {
            levels: Levels::default(),
            ranges: Arc::default(),
            ranges_file: None,
            replay: Chain::origin(cluster),
            keyspaces: Vec::new(),
        }
    }

    /// The same versions, in other runs.
    pub(super) fn with_levels(&self, levels: Levels<Arc<Run>>) -> Self {
        Self {
            levels,
            ranges: self.ranges.clone(),
            ranges_file: self.ranges_file,
            replay: self.replay,
            keyspaces: self.keyspaces.clone(),
        }
    }

    /// The range deletes over their keys.
    pub(crate) const fn ranges(&self) -> &Arc<Ranges> {
        &self.ranges
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
