//! What is measured, one file a family.

pub(crate) mod commit;
pub(crate) mod floor;
pub(crate) mod load;
pub(crate) mod open;
pub(crate) mod overwrite;
pub(crate) mod read;

use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use outlast_tools::summary::{LatencySummary, latencies, record};

use crate::results::Row;

/// What some operations took, one by one and all together.
pub(crate) struct Timed {
    latencies: Histogram<u64>,
    /// Records that they put or read.
    records: u64,
    elapsed: Duration,
}

impl Timed {
    /// Repeats an operation, which tells how many records it had, until the time is up.
    pub(crate) fn repeat(time: Duration, mut once: impl FnMut() -> Result<u64>) -> Result<Self> {
        let mut own = Self {
            latencies: latencies(),
            records: 0,
            elapsed: Duration::ZERO,
        };
        let began = Instant::now();
        while own.elapsed < time {
            let before = own.elapsed;
            own.records += once()?;
            own.elapsed = began.elapsed();
            record(&mut own.latencies, own.elapsed - before);
        }
        Ok(own)
    }

    /// So many operations, which tell how many records they had and what they took.
    pub(crate) fn times(
        count: u64,
        mut once: impl FnMut() -> Result<(u64, Duration)>,
    ) -> Result<Self> {
        let mut own = Self {
            latencies: latencies(),
            records: 0,
            elapsed: Duration::ZERO,
        };
        for _ in 0..count {
            let (records, took) = once()?;
            own.records += records;
            own.elapsed += took;
            record(&mut own.latencies, took);
        }
        Ok(own)
    }

    /// One after the other.
    pub(crate) fn then(mut self, other: Self) -> Self {
        self.elapsed += other.elapsed;
        self.latencies += other.latencies;
        self.records += other.records;
        self
    }

    /// Several threads at the same time.
    pub(crate) fn together(threads: Vec<Self>) -> Option<Self> {
        threads.into_iter().reduce(|mut all, one| {
            all.latencies += one.latencies;
            all.records += one.records;
            all.elapsed = all.elapsed.max(one.elapsed);
            all
        })
    }

    /// A row of the table.
    pub(crate) fn row(&self, workload: impl Into<String>) -> Row {
        let per_s = self.records as f64 / self.elapsed.as_secs_f64();
        Row::of(workload)
            .figure("per_s", per_s)
            .latency(&LatencySummary::of(&self.latencies))
    }
}
