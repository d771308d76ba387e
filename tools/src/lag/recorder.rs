//! How long commits took to each stage, counted from when they were meant to begin.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::report::StageLatency;
use crate::summary::{LatencySummary, latencies, record, to_text};

/// What a commit reaches, in the order of the words' meaning; replicated may precede local.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Durable on the primary.
    LocalDurable,
    /// In the standby's memory.
    Received,
    /// Durable on the standby.
    Replicated,
    /// Shown to the standby's readers.
    Applied,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::LocalDurable,
        Self::Received,
        Self::Replicated,
        Self::Applied,
    ];
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LocalDurable => "local durable",
            Self::Received => "received",
            Self::Replicated => "replicated",
            Self::Applied => "applied",
        })
    }
}

/// The latencies of one run, or of one thread of it.
#[derive(Debug, Clone)]
pub struct Latencies {
    warm_up: Duration,
    local_durable: Histogram<u64>,
    received: Histogram<u64>,
    replicated: Histogram<u64>,
    applied: Histogram<u64>,
}

impl Latencies {
    /// Commits that are meant to begin before `warm_up` is over are not counted.
    pub fn new(warm_up: Duration) -> Self {
        Self {
            warm_up,
            local_durable: latencies(),
            received: latencies(),
            replicated: latencies(),
            applied: latencies(),
        }
    }

    /// Counts a commit that was meant to begin at `intended` and reached `stage` at `reached`, both
    /// from the beginning of the run.
    ///
    /// # Panics
    /// If it was reached before it was meant to begin: the load ran ahead of its schedule.
    pub fn record(&mut self, stage: Stage, intended: Duration, reached: Duration) {
        assert!(
            reached >= intended,
            "{stage} at {reached:?}, before the commit was meant to begin at {intended:?}"
        );
        if intended >= self.warm_up {
            record(self.of_mut(stage), reached - intended);
        }
    }

    /// Adds what another thread of the same run counted.
    pub fn merge(&mut self, other: &Self) {
        for stage in Stage::ALL {
            *self.of_mut(stage) += other.of(stage);
        }
    }

    /// The histogram of one stage, in nanoseconds.
    pub fn of(&self, stage: Stage) -> &Histogram<u64> {
        match stage {
            Stage::LocalDurable => &self.local_durable,
            Stage::Received => &self.received,
            Stage::Replicated => &self.replicated,
            Stage::Applied => &self.applied,
        }
    }

    fn of_mut(&mut self, stage: Stage) -> &mut Histogram<u64> {
        match stage {
            Stage::LocalDurable => &mut self.local_durable,
            Stage::Received => &mut self.received,
            Stage::Replicated => &mut self.replicated,
            Stage::Applied => &mut self.applied,
        }
    }

    /// For the report: every stage that was reached at all.
    pub fn report(&self) -> Vec<StageLatency> {
        let reached = Stage::ALL
            .into_iter()
            .filter(|stage| !self.of(*stage).is_empty());
        let row = |stage| StageLatency {
            stage,
            latency: LatencySummary::of(self.of(stage)),
            histogram_ns_v2_deflate_base64: to_text(self.of(stage)),
        };
        reached.map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lag::{Arrivals, Schedule};

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_stall_counts_in_every_commit_that_it_delayed() {
        // One a millisecond for a second; the store answers at once, but stands still for 100 ms.
        let mut latencies = Latencies::new(Duration::ZERO);
        for intended in Schedule::new(Arrivals::Fixed, 1000.0, 0).take(1000) {
            let stalled = (ms(500)..ms(600)).contains(&intended);
            let reached = if stalled { ms(600) } else { intended };
            latencies.record(Stage::LocalDurable, intended, reached);
        }
        let summary = LatencySummary::of(latencies.of(Stage::LocalDurable));
        assert_eq!(summary.count, 1000);
        // A loop that waits for each answer would have counted one slow commit and p99 = 0.
        assert!(
            (89_000.0..=91_500.0).contains(&summary.p99_us),
            "{summary:?}"
        );
        assert!(
            (99_900.0..=100_100.0).contains(&summary.max_us),
            "{summary:?}"
        );
    }

    #[test]
    fn the_warm_up_is_not_counted() {
        let mut latencies = Latencies::new(ms(10));
        latencies.record(Stage::Applied, ms(9), ms(5000));
        latencies.record(Stage::Applied, ms(10), ms(11));
        assert_eq!(latencies.of(Stage::Applied).len(), 1);
    }

    #[test]
    fn threads_are_added_up_stage_by_stage() {
        let mut all = Latencies::new(Duration::ZERO);
        let mut other = Latencies::new(Duration::ZERO);
        all.record(Stage::Received, ms(0), ms(1));
        other.record(Stage::Received, ms(0), ms(3));
        other.record(Stage::Replicated, ms(0), ms(4));
        all.merge(&other);
        let report = all.report();
        let counts: Vec<_> = report
            .iter()
            .map(|row| (row.stage, row.latency.count))
            .collect();
        assert_eq!(counts, [(Stage::Received, 2), (Stage::Replicated, 1)]);
    }

    #[test]
    #[should_panic(expected = "before the commit was meant to begin")]
    fn load_ahead_of_its_schedule_is_a_broken_harness() {
        Latencies::new(Duration::ZERO).record(Stage::Applied, ms(2), ms(1));
    }
}
