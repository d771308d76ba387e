//! Clocks that stand still until they are told to move.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outlast_engine::clock::Clock;

#[derive(Debug)]
pub(crate) struct Hands {
    wall_ms: AtomicU64,
    monotonic_ms: AtomicU64,
}

impl Default for Hands {
    fn default() -> Self {
        Self {
            wall_ms: AtomicU64::new(1_700_000_000_000),
            monotonic_ms: AtomicU64::new(5_000),
        }
    }
}

impl Hands {
    /// Both clocks go on.
    pub(crate) fn advance(&self, ms: u64) {
        self.monotonic_ms.fetch_add(ms, Ordering::Relaxed);
        self.wall_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// The wall clock is set.
    pub(crate) fn jump(&self, ms: i64) {
        self.wall_ms
            .fetch_add(ms.cast_unsigned(), Ordering::Relaxed);
    }

    pub(crate) fn monotonic_ms(&self) -> u64 {
        self.monotonic_ms.load(Ordering::Relaxed)
    }
}

impl Clock for Hands {
    fn wall_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.monotonic_ms())
    }
}
