//! The index's files: opening what is there, writing memtables out, merging runs, taking away what
//! was replaced.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Version;
use super::census::{Census, Tally};
use super::levels::{Levels, MergeJob};
use super::manifest::{
    DIR, IndexManifest, RangesFile, RunEntry, file_number, ranges_name, run_name, run_number,
};
use super::merge::{Keep, Merge, Output, Progress, RUN_LEN};
use super::merged::Merged;
use super::ranges::Ranges;
use super::run::{Run, RunWriter};
use super::source::{LevelCursor, Source};
use super::version::Resume;
use super::view::{Frozen, Runs};
use crate::error::{Error, Result};
use crate::format::{ChainRecord, ClusterId, Lsn, NodeId};
use crate::fs::Fs;
use crate::planted::{Bug, on};

/// The index of one store on its disk. Whoever holds it is the only one who changes it.
#[derive(Debug)]
pub(crate) struct IndexFiles {
    fs: Arc<dyn Fs>,
    cluster: ClusterId,
    node: NodeId,
    runs: Arc<Runs>,
    horizon: Lsn,
    /// What the log still holds for a reason.
    pub(crate) census: Census,
    next_number: Arc<AtomicU64>,
    /// Files that were there and are not used.
    unused: Vec<String>,
    /// Whether the directory is there for certain, also after a crash.
    has_dir: bool,
}

/// A memtable that is being written out.
#[derive(Debug)]
pub(crate) struct Flush {
    pub(crate) frozen: Arc<Frozen>,
    name: String,
    writer: Option<RunWriter>,
    at: Resume,
    written: Tally,
    superseded: Superseded,
}

/// Finds what the versions of a memtable take the place of. Of a large memtable only some keys are
/// looked up, and stand for the others: the counts are right on average, at a fraction of the cost.
#[derive(Debug)]
struct Superseded {
    runs: Arc<Runs>,
    /// The key last come by.
    before: Option<(u32, Vec<u8>)>,
    /// One key of so many is looked up.
    one_of: u64,
    tally: Tally,
}

/// Of memtables up to this length every key is looked up.
const LOOK_UP_ALL: usize = 4096;

impl Superseded {
    fn new(runs: Arc<Runs>, versions: usize, bases: Arc<[Lsn]>) -> Self {
        Self {
            runs,
            before: None,
            one_of: if versions > LOOK_UP_ALL { 8 } else { 1 },
            tally: Tally::new(bases),
        }
    }

    /// Takes up the next version; of one key they come newest first.
    fn take(&mut self, keyspace: u32, key: &[u8], version: Version) {
        if let Some((before, last)) = &mut self.before {
            if (*before, &**last) == (keyspace, key) {
                self.tally.add(version);
                return;
            }
            *before = keyspace;
            last.clear();
            last.extend_from_slice(key);
        } else {
            self.before = Some((keyspace, key.to_vec()));
        }
        // Positions say nothing about keys, so these are some of each kind.
        let drawn = (version.lsn.0 / 8).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        if drawn.is_multiple_of(self.one_of)
            // What cannot be read is not counted: whoever needs it will say so.
            && let Ok(Some(older)) = self.runs.get(keyspace, key, version.lsn)
        {
            self.tally.add_times(older, self.one_of);
        }
    }
}

/// Which runs to merge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Which {
    /// Those that have most need of it, if any have.
    Needed,
    /// All, until they are one level.
    All,
}

/// Runs that are being merged.
#[derive(Debug)]
pub(crate) struct Merging {
    job: MergeJob<Arc<Run>>,
    horizon: Lsn,
    merge: Merge<Merged<LevelCursor<Vec<Arc<Run>>>>>,
}

impl IndexFiles {
    /// Opens the index in `fs`; `None` where there is none of this node.
    ///
    /// # Errors
    /// When it cannot be used: it is derived, and a new one is made from the log.
    pub(crate) fn open(fs: Arc<dyn Fs>, cluster: ClusterId, node: NodeId) -> Result<Option<Self>> {
        let Some(manifest) = IndexManifest::load(&*fs)? else {
            return Ok(None);
        };
        if (manifest.cluster, manifest.node) != (cluster, node) {
            tracing::warn!(node = %manifest.node, "the index is another node's");
            return Ok(None);
        }
        let open = |entry: &RunEntry| Run::open(&*fs, &run_name(entry.number), &entry.meta);
        let levels = manifest
            .levels
            .iter()
            .map(|level| {
                level
                    .iter()
                    .map(|entry| open(entry).map(Arc::new))
                    .collect()
            })
            .collect::<Result<Vec<Vec<_>>>>()?;
        let ranges_file = manifest.ranges;
        let ranges = ranges_file.map(|file| file.load(&*fs)).transpose()?;
        let runs = Runs {
            levels: Levels::new(levels),
            ranges: Arc::new(ranges.unwrap_or_default()),
            ranges_file,
            replay: manifest.replay.chain(cluster),
            keyspaces: manifest.keyspaces,
        };
        Ok(Some(Self {
            fs,
            cluster,
            node,
            runs: Arc::new(runs),
            horizon: manifest.horizon,
            census: manifest.census,
            next_number: Arc::new(AtomicU64::new(manifest.next_number)),
            unused: Vec::new(),
            has_dir: false,
        }))
    }

    /// An empty index, whatever lies in the directory.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn empty(fs: Arc<dyn Fs>, cluster: ClusterId, node: NodeId) -> Result<Self> {
        let used = names(&*fs)?;
        let highest = used.iter().filter_map(|name| file_number(name)).max();
        Ok(Self {
            fs,
            cluster,
            node,
            runs: Arc::new(Runs::none(cluster)),
            horizon: Lsn::ZERO,
            census: Census::default(),
            next_number: Arc::new(AtomicU64::new(highest.unwrap_or(0) + 1)),
            unused: Vec::new(),
            has_dir: false,
        })
    }

    /// The lowest position at which a state is whole.
    pub(crate) const fn horizon(&self) -> Lsn {
        self.horizon
    }

    /// The runs.
    pub(crate) const fn runs(&self) -> &Arc<Runs> {
        &self.runs
    }

    /// Notes the files that are not used: what a crash left of a flush or a merge. No new run gets
    /// the name of one.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn find_unused(&mut self) -> Result<()> {
        let mut unused = names(&*self.fs)?;
        let ranges = self.runs.ranges_file.map(|file| ranges_name(file.number));
        let is_used = |name: &String| {
            ranges.as_ref() == Some(name) || self.runs.all().any(|run| run.name() == name)
        };
        unused.retain(|name| !is_used(name));
        let highest = unused.iter().filter_map(|name| file_number(name)).max();
        let behind = highest.map_or(0, |highest| highest + 1);
        self.next_number.fetch_max(behind, Ordering::Relaxed);
        self.unused = unused;
        Ok(())
    }

    /// Takes away one of the files that are not used; `false` when there is none. One takes some
    /// milliseconds, for which opening need not wait.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn drop_unused(&mut self) -> Result<bool> {
        let Some(name) = self.unused.pop() else {
            return Ok(false);
        };
        unlink(&*self.fs, &name)?;
        Ok(true)
    }

    /// Takes away all that are left of them.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn drop_all_unused(&mut self) -> Result<()> {
        while self.drop_unused()? {}
        Ok(())
    }

    /// Begins to write `frozen` out. The pieces of the log begin at `bases`.
    ///
    /// # Errors
    /// `DiskFull`, `Io`.
    pub(crate) fn begin_flush(&mut self, frozen: Arc<Frozen>, bases: Arc<[Lsn]>) -> Result<Flush> {
        let name = run_name(self.next_number.fetch_add(1, Ordering::Relaxed));
        let versions = frozen.memtable.versions();
        let superseded = Superseded::new(self.runs.clone(), versions, bases.clone());
        let writer = if versions == 0 {
            None
        } else {
            self.make_dir()?;
            Some(RunWriter::create(&*self.fs, &name)?)
        };
        Ok(Flush {
            frozen,
            name,
            writer,
            at: Resume::default(),
            written: Tally::new(bases.clone()),
            superseded,
        })
    }

    /// Makes what a flush wrote, and the replay point behind it, part of the durable index. `keep`
    /// is asked what must be kept of range deletes, where there are new ones.
    ///
    /// # Errors
    /// `DiskFull`, `Io`. The index is as it was then.
    pub(crate) fn end_flush(
        &mut self,
        flush: &mut Flush,
        keep: impl FnOnce() -> Keep,
    ) -> Result<()> {
        let mut levels = self.runs.levels.clone();
        if let Some(writer) = flush.writer.take() {
            let meta = writer.finish()?;
            levels = levels.with_flushed(Arc::new(Run::open(&*self.fs, &flush.name, &meta)?));
        }
        let mut runs = self.runs.with_levels(levels);
        runs.replay = flush.frozen.end;
        runs.keyspaces.clone_from(&flush.frozen.keyspaces);
        let absorbed = flush.frozen.memtable.with_ranges(|ranges| {
            let mut all = (*self.runs.ranges).clone();
            all.absorb(ranges);
            Some(all)
        });
        let mut census = self.census.clone();
        let superseded = std::mem::take(&mut flush.superseded.tally);
        census.grow(&flush.written, superseded, flush.frozen.end.lsn);
        match absorbed {
            None => self.adopt(runs, self.horizon, census),
            Some(mut all) => {
                let keep = keep();
                all.compress(&keep);
                self.adopt_ranges(runs, all, self.horizon.max(keep.horizon), census)
            }
        }
    }

    /// Takes away the range deletes that take nothing away any more. Looks for what they lie over
    /// in the runs, few entries for each, and keeps those for which that is not enough.
    ///
    /// # Errors
    /// `Corrupt` when a run does not hold, `DiskFull`, `Io`. The index is as it was then.
    pub(crate) fn purge_ranges(&mut self, keep: &Keep) -> Result<()> {
        if self.runs.ranges.is_empty() {
            return Ok(());
        }
        let mut left = (*self.runs.ranges).clone();
        left.compress(keep);
        if on(Bug::RangeDeleteGone) {
            left = Ranges::default();
        }
        let levels = &self.runs.levels;
        let below = keep.settled.min(keep.horizon);
        left.purge(below, |keyspace, start, end, lsn| {
            holds_older(levels, keyspace, start, end, lsn)
        })?;
        if left == *self.runs.ranges {
            return Ok(());
        }
        let runs = self.runs.with_levels(self.runs.levels.clone());
        let horizon = self.horizon.max(keep.horizon);
        self.adopt_ranges(runs, left, horizon, self.census.clone())
    }

    /// [`IndexFiles::adopt`] with other range deletes, which are written out first.
    fn adopt_ranges(
        &mut self,
        mut runs: Runs,
        ranges: Ranges,
        horizon: Lsn,
        census: Census,
    ) -> Result<()> {
        self.make_dir()?;
        let before = self.runs.ranges_file;
        runs.ranges_file = match ranges.is_empty() {
            true => None,
            false => {
                let number = self.next_number.fetch_add(1, Ordering::Relaxed);
                let stored = RangesFile::store(&*self.fs, number, &ranges);
                Some(stored.inspect_err(|_| self.remove(&ranges_name(number)))?)
            }
        };
        let written = runs.ranges_file;
        runs.ranges = Arc::new(ranges);
        self.adopt(runs, horizon, census).inspect_err(|_| {
            if let Some(file) = written {
                self.remove(&ranges_name(file.number));
            }
        })?;
        if let Some(file) = before {
            self.remove(&ranges_name(file.number));
        }
        Ok(())
    }

    /// Begins to merge runs, if any are to be. `keep` is asked what must be kept, `bases` says
    /// where the pieces of the log begin. Runs that need only be listed elsewhere are at once.
    ///
    /// # Errors
    /// `Corrupt` when a run does not hold, `DiskFull`, `Io`.
    pub(crate) fn begin_merge(
        &mut self,
        which: Which,
        bases: impl FnOnce() -> Arc<[Lsn]>,
        keep: impl FnOnce() -> Keep,
    ) -> Result<Option<Merging>> {
        let job = loop {
            let picked = match which {
                Which::Needed => self.runs.levels.pick(),
                Which::All => self.runs.levels.pick_to_compact(),
            };
            let Some(job) = picked else {
                return Ok(None);
            };
            if !job.moves {
                break job;
            }
            let levels = self.runs.levels.with_merged(&job, job.upper.clone());
            let census = self.census.clone();
            self.adopt(self.runs.with_levels(levels), self.horizon, census)?;
        };
        let mut keep = keep();
        if !job.lowest {
            // Something that a delete hides may lie below.
            keep.settled = Lsn::ZERO;
        }
        let horizon = keep.horizon;
        let upper = job.upper.iter().map(|run| vec![run.clone()]);
        let sources = upper.chain([job.lower.clone()]).map(LevelCursor::new);
        let numbers = self.next_number.clone();
        let names = move || run_name(numbers.fetch_add(1, Ordering::Relaxed));
        let ranges = self.runs.ranges.clone();
        let merge = Merge::new(
            Merged::new(sources.collect()),
            ranges,
            keep,
            RUN_LEN,
            bases(),
            names,
        )?;
        Ok(Some(Merging {
            job,
            horizon,
            merge,
        }))
    }

    /// Puts what a merge made in the place of what it read, durably, and takes that away.
    ///
    /// # Errors
    /// `DiskFull`, `Io`. The index is as it was then.
    pub(crate) fn end_merge(&mut self, merging: &Merging, output: &Output) -> Result<()> {
        let opened = |(name, meta): &(String, _)| Run::open(&*self.fs, name, meta).map(Arc::new);
        let made = output.runs.iter().map(opened).collect::<Result<Vec<_>>>()?;
        let job = &merging.job;
        let levels = self.runs.levels.with_merged(job, made);
        let mut census = self.census.clone();
        census.shrink(&output.dropped.settled);
        self.adopt(
            self.runs.with_levels(levels),
            self.horizon.max(merging.horizon),
            census,
        )?;
        for run in job.upper.iter().chain(&job.lower) {
            self.remove(run.name());
        }
        Ok(())
    }

    /// Makes the directory, once: each sync of a directory is work that commits wait behind.
    fn make_dir(&mut self) -> Result<()> {
        if self.has_dir {
            return Ok(());
        }
        let made = self.fs.create_dir(DIR).and_then(|()| self.fs.sync_dir(""));
        made.map_err(|error| Error::io(format_args!("make {DIR}"), error))?;
        self.has_dir = true;
        Ok(())
    }

    /// Makes `runs` the durable index. Their files are durable already, their names are made so.
    fn adopt(&mut self, runs: Runs, horizon: Lsn, census: Census) -> Result<()> {
        self.make_dir()?;
        self.fs
            .sync_dir(DIR)
            .map_err(|error| Error::io(format_args!("make the names in {DIR} last"), error))?;
        let entry = |run: &Arc<Run>| RunEntry {
            number: run_number(run.name())
                .unwrap_or_else(|| panic!("{} is not the name of a run", run.name())),
            meta: run.meta().clone(),
        };
        let level = |level: &Vec<_>| level.iter().map(entry).collect();
        let manifest = IndexManifest {
            cluster: self.cluster,
            node: self.node,
            replay: ChainRecord::new(&runs.replay),
            horizon,
            census,
            keyspaces: runs.keyspaces.clone(),
            next_number: self.next_number.load(Ordering::Relaxed),
            levels: runs.levels.levels().iter().map(level).collect(),
            ranges: runs.ranges_file,
        };
        manifest.store(&*self.fs)?;
        (self.runs, self.horizon, self.census) = (Arc::new(runs), horizon, manifest.census);
        Ok(())
    }

    /// Takes away the files of a flush that is not gone on with.
    pub(crate) fn abandon_flush(&self, flush: &Flush) {
        self.remove(&flush.name);
    }

    /// Takes away the files of a merge that is not gone on with.
    pub(crate) fn abandon_merge(&self, merging: &Merging) {
        merging
            .merge
            .made()
            .iter()
            .for_each(|name| self.remove(name));
    }

    /// Takes away a file that nothing names any more.
    fn remove(&self, name: &str) {
        if let Err(error) = unlink(&*self.fs, name) {
            tracing::warn!(%error, "a file of the index stays until the next start");
        }
    }
}

impl Flush {
    /// Writes at most `limit` more versions; whether all are written.
    ///
    /// # Errors
    /// `DiskFull`, `Io`. The flush cannot go on then; another one may be begun.
    pub(crate) fn step(&mut self, limit: usize) -> Result<bool> {
        let Some(writer) = &mut self.writer else {
            return Ok(true);
        };
        let mut push = |keyspace, key: &[u8], version: Version| {
            if on(Bug::FlushLosesSome) && version.lsn.0.is_multiple_of(64) {
                return Ok(());
            }
            self.written.add(version);
            self.superseded.take(keyspace, key, version);
            writer.push(keyspace, key, version)
        };
        self.frozen.memtable.export(&mut self.at, limit, &mut push)
    }
}

impl Merging {
    /// Takes up about `budget_bytes` more; what was made, once it is done.
    ///
    /// # Errors
    /// `Corrupt` when a run does not hold, `DiskFull`, `Io`. The merge cannot go on then.
    pub(crate) fn step(&mut self, files: &IndexFiles, budget_bytes: u64) -> Result<Option<Output>> {
        match self.merge.step(&*files.fs, budget_bytes)? {
            Progress::More => Ok(None),
            Progress::Done(output) => Ok(Some(output)),
        }
    }
}

/// Entries of a run that are looked at for one that a range delete takes away.
const LOOKED_AT_MAX: usize = 256;

/// Whether the runs may hold a version older than `lsn` among the keys from `start` on and before
/// `end`.
fn holds_older(
    levels: &Levels<Arc<Run>>,
    keyspace: u32,
    start: &[u8],
    end: Option<&[u8]>,
    lsn: Lsn,
) -> Result<bool> {
    let (newest, deeper) = levels.newest_and_deeper();
    let newest = newest.iter().map(|run| vec![run.clone()]);
    for level in newest.chain(deeper.iter().cloned()) {
        if level.iter().all(|run| run.meta().lowest >= lsn) {
            continue;
        }
        let mut cursor = LevelCursor::new(level);
        cursor.seek(keyspace, start, Lsn(u64::MAX))?;
        for looked_at in 0.. {
            let Some(entry) = cursor.entry() else {
                break;
            };
            let behind = entry.keyspace != keyspace || end.is_some_and(|end| entry.key >= end);
            if behind {
                break;
            }
            if entry.version.lsn < lsn || looked_at == LOOKED_AT_MAX {
                return Ok(true);
            }
            cursor.next()?;
        }
    }
    Ok(false)
}

/// The names of all files of runs and range deletes, in use or not.
fn names(fs: &dyn Fs) -> Result<Vec<String>> {
    match fs.list(DIR) {
        Ok(names) => Ok(names
            .iter()
            .map(|name| format!("{DIR}/{name}"))
            .filter(|name| file_number(name).is_some())
            .collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io(format_args!("list {}/{DIR}", fs.place()), error)),
    }
}

fn unlink(fs: &dyn Fs, name: &str) -> Result<()> {
    match fs.unlink(name) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format_args!("unlink {name}"), error))
        }
        _ => Ok(()),
    }
}
