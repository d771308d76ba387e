//! Figures of a running store: counted where it costs nothing that is felt, read as plain data.

use std::array::from_fn;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::log::Positions;
use crate::snapshot::OpenSnapshots;
use crate::store::{IndexSize, LogSize};

/// What a store is, and what it has done since it was opened. Taken by
/// [`Store::metrics`](crate::Store::metrics); counts only rise, and the parts are read one after
/// the other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Metrics {
    /// Where it stands.
    pub positions: Positions,
    /// How large its index is.
    pub index: IndexSize,
    /// Runs of each level of the index, the newest level first.
    pub runs_by_level: Vec<u64>,
    /// Memtables that are full and wait to be written out.
    pub waiting_memtables: u64,
    /// Bytes of log that an opening after a crash would replay.
    pub replay_lag_bytes: u64,
    /// How large its log is, and what compactions did.
    pub log: LogSize,
    /// The snapshots that are open.
    pub snapshots: OpenSnapshots,
    /// Batches that were committed here.
    pub commits: u64,
    /// Group commits in which they were.
    pub groups: u64,
    /// Bytes of log that this node has formed.
    pub formed_bytes: u64,
    /// The fsyncs of the log.
    pub fsyncs: Latency,
    /// Keys that were looked up.
    pub gets: u64,
    /// Entries that ranges have read.
    pub scanned: u64,
    /// Async reads that were answered at once.
    pub async_inline: u64,
    /// Async reads that were left to the store's threads.
    pub async_pooled: u64,
    /// Memtables that were written out.
    pub flushes: u64,
    /// Merges of runs.
    pub merges: u64,
    /// How often a committing thread had to help to write a memtable out, because that was behind.
    pub stalls: u64,
    /// How long that took, all together, in microseconds.
    pub stalled_us: u64,
}

/// How long something took, each time that it was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Latency {
    /// How often.
    pub count: u64,
    /// How long all together, in microseconds.
    pub sum_us: u64,
    /// How long at most, in microseconds.
    pub max_us: u64,
    /// How often it took less than 1, 2, 4, 8, … microseconds, and no less than the bucket before
    /// says. The last one counts the rest.
    pub buckets: [u64; Latency::BUCKETS],
}

impl Latency {
    /// Number of buckets: up to a second, and one for the rest.
    pub const BUCKETS: usize = 22;

    /// The time that `share` of all (0.99 for 99 %) stayed below, in microseconds, as the buckets
    /// tell: at most twice what it was. 0 when there were none.
    #[must_use]
    pub fn quantile_us(&self, share: f64) -> u64 {
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if *count > 0 && seen as f64 >= share * self.count as f64 {
                return (1 << bucket).min(self.max_us);
            }
        }
        self.max_us
    }
}

/// What is counted on the way.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: Count,
    pub(crate) groups: Count,
    pub(crate) formed_bytes: Count,
    pub(crate) fsyncs: Latencies,
    pub(crate) gets: Striped,
    pub(crate) scanned: Striped,
    pub(crate) async_inline: Striped,
    pub(crate) async_pooled: Striped,
    pub(crate) flushes: Count,
    pub(crate) merges: Count,
    pub(crate) stalls: Count,
    pub(crate) stalled_us: Count,
}

impl Counters {
    pub(crate) fn add_to(&self, metrics: Metrics) -> Metrics {
        Metrics {
            commits: self.commits.read(),
            groups: self.groups.read(),
            formed_bytes: self.formed_bytes.read(),
            fsyncs: self.fsyncs.read(),
            gets: self.gets.read(),
            scanned: self.scanned.read(),
            async_inline: self.async_inline.read(),
            async_pooled: self.async_pooled.read(),
            flushes: self.flushes.read(),
            merges: self.merges.read(),
            stalls: self.stalls.read(),
            stalled_us: self.stalled_us.read(),
            ..metrics
        }
    }
}

/// A count that few threads raise at a time.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

const STRIPES: usize = 16;

/// A count that many threads raise all the time: each has a line of memory to itself, unless there
/// are very many.
#[derive(Debug, Default)]
pub(crate) struct Striped([Line; STRIPES]);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line(Count);

thread_local! {
    static STRIPE: Cell<Option<usize>> = const { Cell::new(None) };
}

fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // A thread that is ending has none of its own any more.
    let own = STRIPE.try_with(|stripe| {
        stripe.get().unwrap_or_else(|| {
            let next = NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES;
            stripe.set(Some(next));
            next
        })
    });
    own.unwrap_or(0)
}

impl Striped {
    pub(crate) fn add(&self, more: u64) {
        if let Some(line) = self.0.get(stripe()) {
            line.0.add(more);
        }
    }

    fn read(&self) -> u64 {
        self.0.iter().map(|line| line.0.read()).sum()
    }
}

/// What [`Latency`] is read from.
#[derive(Debug)]
pub(crate) struct Latencies {
    sum_us: AtomicU64,
    max_us: AtomicU64,
    buckets: [AtomicU64; Latency::BUCKETS],
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            sum_us: AtomicU64::new(0),
            max_us: AtomicU64::new(0),
            buckets: from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Latencies {
    pub(crate) fn add(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
        self.max_us.fetch_max(us, Ordering::Relaxed);
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        let bucket = self.buckets.get(bucket.min(Latency::BUCKETS - 1));
        if let Some(bucket) = bucket {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn read(&self) -> Latency {
        let buckets = from_fn(|at| {
            let bucket = self.buckets.get(at);
            bucket.map_or(0, |bucket| bucket.load(Ordering::Relaxed))
        });
        Latency {
            count: buckets.iter().sum(),
            sum_us: self.sum_us.load(Ordering::Relaxed),
            max_us: self.max_us.load(Ordering::Relaxed),
            buckets,
        }
    }
}

#[cfg(feature = "metrics")]
impl Metrics {
    /// Hands all figures to the recorder of the `metrics` facade that the program has installed.
    /// Call it when they are asked for, or every few seconds. With the feature `metrics`.
    ///
    /// | name | kind | what |
    /// |---|---|---|
    /// | `outlast_commits_total` | counter | [`Metrics::commits`] |
    /// | `outlast_groups_total` | counter | [`Metrics::groups`] |
    /// | `outlast_formed_bytes_total` | counter | [`Metrics::formed_bytes`] |
    /// | `outlast_fsyncs_total` | counter | [`Metrics::fsyncs`], `count` |
    /// | `outlast_fsync_microseconds_total` | counter | the same, `sum_us` |
    /// | `outlast_fsync_microseconds_max` | gauge | the same, `max_us` |
    /// | `outlast_fsync_microseconds_p99` | gauge | the same, 99 % since the opening |
    /// | `outlast_gets_total` | counter | [`Metrics::gets`] |
    /// | `outlast_scanned_total` | counter | [`Metrics::scanned`] |
    /// | `outlast_async_inline_total` | counter | [`Metrics::async_inline`] |
    /// | `outlast_async_pooled_total` | counter | [`Metrics::async_pooled`] |
    /// | `outlast_flushes_total` | counter | [`Metrics::flushes`] |
    /// | `outlast_merges_total` | counter | [`Metrics::merges`] |
    /// | `outlast_stalls_total` | counter | [`Metrics::stalls`] |
    /// | `outlast_stalled_microseconds_total` | counter | [`Metrics::stalled_us`] |
    /// | `outlast_compactions_total` | counter | [`LogSize::compactions`] |
    /// | `outlast_compacted_bytes_total` | counter | [`LogSize::compacted_bytes`] |
    /// | `outlast_rewritten_bytes_total` | counter | [`LogSize::rewritten_bytes`] |
    /// | `outlast_appended_lsn`, `_durable_lsn`, `_visible_lsn`, `_replicated_lsn` | gauge |
    /// [`Metrics::positions`] |
    /// | `outlast_index_versions` | gauge | [`IndexSize::versions`] |
    /// | `outlast_index_memory_bytes` | gauge | [`IndexSize::memory_bytes`] |
    /// | `outlast_index_disk_bytes` | gauge | [`IndexSize::disk_bytes`] |
    /// | `outlast_index_runs`, with `level` | gauge | [`Metrics::runs_by_level`] |
    /// | `outlast_waiting_memtables` | gauge | [`Metrics::waiting_memtables`] |
    /// | `outlast_replay_lag_bytes` | gauge | [`Metrics::replay_lag_bytes`] |
    /// | `outlast_log_files` | gauge | [`LogSize::files`] |
    /// | `outlast_log_whole_bytes` | gauge | [`LogSize::whole_bytes`] |
    /// | `outlast_log_sparse_bytes` | gauge | [`LogSize::sparse_bytes`] |
    /// | `outlast_log_live_bytes` | gauge | [`LogSize::live_bytes`] |
    /// | `outlast_open_snapshots` | gauge | [`OpenSnapshots::count`] |
    /// | `outlast_oldest_snapshot_age_milliseconds` | gauge | [`OpenSnapshots::oldest_age_ms`] |
    pub fn record(&self) {
        let fsyncs = &self.fsyncs;
        for (name, value) in [
            ("outlast_commits_total", self.commits),
            ("outlast_groups_total", self.groups),
            ("outlast_formed_bytes_total", self.formed_bytes),
            ("outlast_fsyncs_total", fsyncs.count),
            ("outlast_fsync_microseconds_total", fsyncs.sum_us),
            ("outlast_gets_total", self.gets),
            ("outlast_scanned_total", self.scanned),
            ("outlast_async_inline_total", self.async_inline),
            ("outlast_async_pooled_total", self.async_pooled),
            ("outlast_flushes_total", self.flushes),
            ("outlast_merges_total", self.merges),
            ("outlast_stalls_total", self.stalls),
            ("outlast_stalled_microseconds_total", self.stalled_us),
            ("outlast_compactions_total", self.log.compactions),
            ("outlast_compacted_bytes_total", self.log.compacted_bytes),
            ("outlast_rewritten_bytes_total", self.log.rewritten_bytes),
        ] {
            metrics::counter!(name).absolute(value);
        }
        let Self {
            positions,
            index,
            log,
            snapshots,
            ..
        } = self;
        for (name, value) in [
            ("outlast_fsync_microseconds_max", fsyncs.max_us),
            ("outlast_fsync_microseconds_p99", fsyncs.quantile_us(0.99)),
            ("outlast_appended_lsn", positions.appended.lsn.0),
            ("outlast_durable_lsn", positions.durable.lsn.0),
            ("outlast_visible_lsn", positions.visible.lsn.0),
            ("outlast_replicated_lsn", positions.replicated.lsn.0),
            ("outlast_index_versions", index.versions),
            ("outlast_index_memory_bytes", index.memory_bytes),
            ("outlast_index_disk_bytes", index.disk_bytes),
            ("outlast_waiting_memtables", self.waiting_memtables),
            ("outlast_replay_lag_bytes", self.replay_lag_bytes),
            ("outlast_log_files", log.files),
            ("outlast_log_whole_bytes", log.whole_bytes),
            ("outlast_log_sparse_bytes", log.sparse_bytes),
            ("outlast_log_live_bytes", log.live_bytes),
            ("outlast_open_snapshots", snapshots.count as u64),
            (
                "outlast_oldest_snapshot_age_milliseconds",
                snapshots.oldest_age_ms,
            ),
        ] {
            metrics::gauge!(name).set(value as f64);
        }
        for (level, runs) in self.runs_by_level.iter().enumerate() {
            let level = level.to_string();
            metrics::gauge!("outlast_index_runs", "level" => level).set(*runs as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_counted_in_its_bucket_and_found_by_its_share() {
        let latencies = Latencies::default();
        assert_eq!(latencies.read().quantile_us(0.99), 0);
        for us in [0, 1, 2, 3, 4, 700, 5_000_000] {
            latencies.add(Duration::from_micros(us));
        }
        let read = latencies.read();
        assert_eq!(
            (read.count, read.sum_us, read.max_us),
            (7, 5_000_710, 5_000_000)
        );
        let filled = read
            .buckets
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0);
        let filled: Vec<_> = filled.map(|(bucket, count)| (bucket, *count)).collect();
        assert_eq!(filled, [(0, 1), (1, 1), (2, 2), (3, 1), (10, 1), (21, 1)]);
        assert_eq!(read.quantile_us(0.5), 4);
        assert_eq!(read.quantile_us(0.8), 1024);
        assert_eq!(read.quantile_us(1.0), 1 << 21);
    }

    #[test]
    fn threads_lose_no_count_to_each_other() {
        let striped = Striped::default();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| (0..1000).for_each(|_| striped.add(1)));
            }
        });
        assert_eq!(striped.read(), 20_000);
    }
}
