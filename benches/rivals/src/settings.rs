//! How much is measured, and for how long.

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

/// The size of values where a workload does not say another one.
pub(crate) const VALUE_BYTES: usize = 128;
/// How many threads commit at once.
pub(crate) const THREADS: [usize; 4] = [2, 8, 32, 128];
/// How many asynchronous commits are on their way at once.
pub(crate) const IN_FLIGHT: usize = 1000;
/// How many records a durable batch has.
pub(crate) const BATCHES: [usize; 2] = [100, 1000];
/// The batches that overwrite.
pub(crate) const OVERWRITE_BATCH: usize = 100;
/// How often all data is overwritten; the first time is not measured.
pub(crate) const OVERWRITES: u64 = 4;
/// How many keys a multi-get asks for.
pub(crate) const MULTI_GET_KEYS: usize = 100;
/// How many keys a short scan reads.
pub(crate) const SCAN_KEYS: usize = 100;
/// With how many times the memory the limited reads have to do.
pub(crate) const DATA_PER_MEMORY: u64 = 4;

/// The sizes of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Records that are loaded and read.
    pub(crate) keys: u64,
    /// The live data of the overwriting workloads.
    pub(crate) overwrite_bytes: u64,
    /// How long a row is measured, if it does not end by itself.
    pub(crate) row_ms: u64,
    /// How often everything is measured.
    pub(crate) rounds: usize,
    /// The memory of engines that have a cache of their own.
    pub(crate) cache_bytes: u64,
}

impl Settings {
    /// How long a row is measured.
    pub(crate) const fn row_time(&self) -> Duration {
        Duration::from_millis(self.row_ms)
    }

    /// The data that is loaded and read, without anything that an engine adds.
    pub(crate) const fn data_bytes(&self) -> u64 {
        self.keys * record_bytes(VALUE_BYTES)
    }

    /// How much memory the limited reads have.
    pub(crate) const fn memory_limit_bytes(&self) -> u64 {
        self.data_bytes() / DATA_PER_MEMORY
    }

    /// How many records the overwriting workload with these values has.
    pub(crate) const fn overwrite_records(&self, value_bytes: usize) -> u64 {
        self.overwrite_bytes / record_bytes(value_bytes)
    }
}

/// What a caller hands over for one record.
pub(crate) const fn record_bytes(value_bytes: usize) -> u64 {
    (crate::data::KEY_BYTES + value_bytes) as u64
}

/// The sizes on the command line: a preset, and what differs from it.
#[derive(Debug, Args)]
pub(crate) struct Sizes {
    /// About a minute: shows that everything works, and no figure.
    #[arg(long, conflicts_with = "standard")]
    quick: bool,
    /// A million keys. Without a preset: five million.
    #[arg(long)]
    standard: bool,
    /// Records that are loaded and read.
    #[arg(long)]
    keys: Option<u64>,
    /// Live data of the overwriting workloads, in MiB.
    #[arg(long)]
    overwrite_mib: Option<u64>,
    /// How long a row is measured, if it does not end by itself.
    #[arg(long)]
    row_ms: Option<u64>,
    /// How often everything is measured.
    #[arg(long)]
    rounds: Option<usize>,
    /// The memory of engines that have a cache of their own, in MiB.
    #[arg(long)]
    cache_mib: Option<u64>,
}

impl Sizes {
    /// The sizes in full.
    pub(crate) fn settings(&self) -> Settings {
        let (keys, overwrite_mib, row_ms, rounds) = if self.quick {
            (100_000, 4, 200, 1)
        } else if self.standard {
            (1_000_000, 64, 2000, 3)
        } else {
            (5_000_000, 256, 5000, 5)
        };
        Settings {
            keys: self.keys.unwrap_or(keys),
            overwrite_bytes: self.overwrite_mib.unwrap_or(overwrite_mib) << 20,
            row_ms: self.row_ms.unwrap_or(row_ms),
            rounds: self.rounds.unwrap_or(rounds),
            cache_bytes: self.cache_mib.unwrap_or(1024) << 20,
        }
    }
}
