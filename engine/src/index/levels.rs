//! Which runs there are, in levels, and which to merge next. Pure: knows names and descriptions,
//! and touches no file.
//!
//! Level 0 holds the runs that were flushed, the newest first; they overlap. In every level below
//! no run holds a key of another, and each level may be ten times as long as the one above. A
//! version of a key in one level is newer than those in the levels below it.

#[cfg(test)]
mod tests;

use super::run::{RunKey, RunMeta};
use crate::planted::{Bug, on};

/// Runs in level 0 at which they are merged into level 1: what a get may have to ask at most, until
/// a merge is behind.
const FLUSHED_RUNS_MAX: u64 = 4;
/// Bytes of level 1 at which some of it is merged into level 2: about what level 0 is when it is
/// merged, several times.
const LEVEL_1_LEN: u64 = 64 << 20;
/// Bytes of a level against those of the level above.
const GROWTH: u64 = 10;

/// A run that is listed.
pub(crate) trait Listed {
    fn meta(&self) -> &RunMeta;
}

impl Listed for RunMeta {
    fn meta(&self) -> &RunMeta {
        self
    }
}

impl<T: Listed> Listed for std::sync::Arc<T> {
    fn meta(&self) -> &RunMeta {
        (**self).meta()
    }
}

impl Listed for super::run::Run {
    fn meta(&self) -> &RunMeta {
        self.meta()
    }
}

/// All runs of an index. Immutable: what changes it makes another.
///
/// Invariants: level 0 is ordered from the newest to the oldest; every other level by key, without
/// overlap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Levels<R> {
    levels: Vec<Vec<R>>,
}

/// Runs to be merged: those of one level, and those of the level below which they overlap. Holds
/// them itself, so that it stays what it is while others are flushed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct MergeJob<R> {
    /// The level whose runs go down into the next.
    pub(crate) from: usize,
    /// Its runs, in the order of the level. Each may overlap the others if it is level 0.
    pub(crate) upper: Vec<R>,
    /// Runs of the next level, in the order of their keys.
    pub(crate) lower: Vec<R>,
    /// Nothing overlaps: the runs may be listed in the next level as they are.
    pub(crate) moves: bool,
    /// No level below the next holds any key of these: what they lack then is nowhere.
    pub(crate) lowest: bool,
}

impl<R> Default for Levels<R> {
    fn default() -> Self {
        Self { levels: Vec::new() }
    }
}

impl<R: Listed + Clone> Levels<R> {
    /// Runs as they were listed.
    ///
    /// # Panics
    /// When a level below the first is not in the order of its keys, or overlaps.
    pub(crate) fn new(levels: Vec<Vec<R>>) -> Self {
        for (number, level) in levels.iter().enumerate().skip(1) {
            for (one, other) in level.iter().zip(level.iter().skip(1)) {
                let (last, first) = (&one.meta().last, &other.meta().first);
                assert!(
                    last < first,
                    "level {number}: {last:?} is not before {first:?}"
                );
            }
        }
        Self { levels }
    }

    /// The levels from the newest to the oldest; the first is level 0.
    pub(crate) fn levels(&self) -> &[Vec<R>] {
        &self.levels
    }

    /// Level 0, and the levels below it.
    pub(crate) fn newest_and_deeper(&self) -> (&[R], &[Vec<R>]) {
        match self.levels.split_first() {
            Some((newest, deeper)) => (newest, deeper),
            None => (&[], &[]),
        }
    }

    /// All runs.
    pub(crate) fn runs(&self) -> impl Iterator<Item = &R> {
        self.levels.iter().flatten()
    }

    /// Bytes of all files.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.runs().map(|run| run.meta().len_bytes).sum()
    }

    /// The run of a level below the first that may hold the key.
    pub(crate) fn run_for<'a>(level: &'a [R], keyspace: u32, key: &[u8]) -> Option<&'a R> {
        let number = level.partition_point(|run| run.meta().last.is_before(keyspace, key));
        let run = level.get(number)?;
        (!run.meta().first.is_behind(keyspace, key)).then_some(run)
    }

    /// The same with a flushed run before all others.
    #[must_use]
    pub(crate) fn with_flushed(&self, run: R) -> Self {
        let mut levels = self.levels.clone();
        match levels.first_mut() {
            Some(flushed) if on(Bug::NewestRunLast) => flushed.push(run),
            Some(flushed) => flushed.insert(0, run),
            None => levels.push(vec![run]),
        }
        Self::new(levels)
    }

    /// What is to be merged next, if anything: from the level that is fullest against what it may
    /// hold, the runs whose merging rewrites the least of the level below.
    pub(crate) fn pick(&self) -> Option<MergeJob<R>> {
        let fullness = |number: usize| self.fullness_percent(number);
        let from = (0..self.levels.len())
            .rev()
            .max_by_key(|number| fullness(*number))?;
        if fullness(from) < 100 {
            return None;
        }
        if from == 0 {
            // They overlap, and of two with a key the older one has to go first: all of them.
            return Some(self.job(0, self.level(0).to_vec()));
        }
        let jobs = self
            .level(from)
            .iter()
            .map(|run| self.job(from, vec![run.clone()]));
        jobs.min_by_key(MergeJob::rewritten_percent)
    }

    /// What is to be merged next so that in the end all runs are in one level below the first,
    /// whoever is full; `None` when they are.
    pub(crate) fn pick_to_compact(&self) -> Option<MergeJob<R>> {
        let highest = self.levels.iter().position(|level| !level.is_empty())?;
        let lowest = self.levels.iter().rposition(|level| !level.is_empty())?;
        let more = highest < lowest || highest == 0;
        more.then(|| self.job(highest, self.level(highest).to_vec()))
    }

    /// The levels once `job` has made `made` of its runs. A job that [moves](MergeJob::moves) makes
    /// its own upper runs. What was flushed since the job was picked stays.
    ///
    /// # Panics
    /// When a run of the job is not where it was.
    #[must_use]
    pub(crate) fn with_merged(&self, job: &MergeJob<R>, made: Vec<R>) -> Self {
        let mut levels = self.levels.clone();
        levels.resize_with(levels.len().max(job.from + 2), Vec::new);
        let replaced = [(job.from, &job.upper), (job.from + 1, &job.lower)];
        for (number, runs) in replaced {
            let Some(level) = levels.get_mut(number) else {
                panic!("no level {number}")
            };
            let before = level.len();
            level.retain(|run| !runs.iter().any(|other| run.meta().is_file_of(other.meta())));
            let gone = before - level.len();
            assert_eq!(gone, runs.len(), "runs of a merge in level {number}");
        }
        if let Some(level) = levels.get_mut(job.from + 1) {
            level.extend(made);
            level.sort_by(|a, b| a.meta().first.cmp(&b.meta().first));
        }
        while levels.last().is_some_and(Vec::is_empty) {
            levels.pop();
        }
        Self::new(levels)
    }

    fn level(&self, number: usize) -> &[R] {
        self.levels.get(number).map_or(&[], Vec::as_slice)
    }

    fn fullness_percent(&self, number: usize) -> u64 {
        let level = self.level(number);
        match u32::try_from(number) {
            Ok(0) => 100 * level.len() as u64 / FLUSHED_RUNS_MAX,
            Ok(number) => {
                let len_bytes: u64 = level.iter().map(|run| run.meta().len_bytes).sum();
                let room = LEVEL_1_LEN.saturating_mul(GROWTH.saturating_pow(number - 1));
                (u128::from(len_bytes) * 100 / u128::from(room))
                    .try_into()
                    .unwrap_or(u64::MAX)
            }
            Err(_) => 0,
        }
    }

    fn job(&self, from: usize, upper: Vec<R>) -> MergeJob<R> {
        let overlapping = |number: usize, range: Option<(&RunKey, &RunKey)>| -> Vec<R> {
            let overlaps = |run: &&R| {
                let meta = run.meta();
                range.is_some_and(|(first, last)| meta.first <= *last && meta.last >= *first)
            };
            self.level(number)
                .iter()
                .filter(overlaps)
                .cloned()
                .collect()
        };
        let lower = overlapping(from + 1, range(upper.iter()));
        let all = range(upper.iter().chain(&lower));
        let mut below = from + 2..self.levels.len();
        let lowest = below.all(|number| overlapping(number, all).is_empty());
        let mut metas: Vec<&RunMeta> = upper.iter().map(Listed::meta).collect();
        metas.sort_by(|a, b| a.first.cmp(&b.first));
        let mut pairs = metas.iter().zip(metas.iter().skip(1));
        let moves = lower.is_empty() && pairs.all(|(one, other)| one.last < other.first);
        MergeJob {
            from,
            upper,
            lower,
            moves,
            lowest,
        }
    }
}

impl<R: Listed> MergeJob<R> {
    /// Bytes of the level below that it rewrites, against its own.
    fn rewritten_percent(&self) -> u64 {
        let len = |runs: &[R]| runs.iter().map(|run| run.meta().len_bytes).sum::<u64>();
        len(&self.lower) * 100 / len(&self.upper).max(1)
    }
}

/// The lowest and the highest key of some runs.
fn range<'a, R: Listed + 'a>(
    runs: impl Iterator<Item = &'a R> + Clone,
) -> Option<(&'a RunKey, &'a RunKey)> {
    let first = runs.clone().map(|run| &run.meta().first).min()?;
    let last = runs.map(|run| &run.meta().last).max()?;
    Some((first, last))
}

impl RunMeta {
    /// Whether both describe the same file, wherever its ceiling is.
    fn is_file_of(&self, other: &Self) -> bool {
        (self.check, self.len_bytes, &self.first) == (other.check, other.len_bytes, &other.first)
    }
}

impl RunKey {
    fn is_before(&self, keyspace: u32, key: &[u8]) -> bool {
        (self.keyspace, &*self.key) < (keyspace, key)
    }

    fn is_behind(&self, keyspace: u32, key: &[u8]) -> bool {
        (self.keyspace, &*self.key) > (keyspace, key)
    }
}
