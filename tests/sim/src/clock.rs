//! Clocks of simulated machines: each has its own rate, its own origin and its own idea of the
//! date.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use outlast_engine::clock::Clock;
use outlast_proto::MonoTime;

/// Parts per million of a second that pass on a clock of rate 1.
pub(crate) const RATE_ONE_PPM: u64 = 1_000_000;

/// What all machines reckon with when no clock of theirs is off, in milliseconds since 1970.
const WALL_ORIGIN_MS: i64 = 1_665_814_740_000;

/// The clocks of one machine. The true time comes from the world.
#[derive(Debug)]
pub(crate) struct SimClock {
    true_ns: Arc<AtomicU64>,
    rate_ppm: u64,
    /// True time and reading of the last boot.
    boot_ns: AtomicU64,
    origin_ns: AtomicU64,
    wall_offset_ms: AtomicI64,
}

impl SimClock {
    pub(crate) fn new(true_ns: Arc<AtomicU64>, rate_ppm: u64, wall_offset_ms: i64) -> Self {
        Self {
            true_ns,
            rate_ppm,
            boot_ns: AtomicU64::new(0),
            origin_ns: AtomicU64::new(0),
            wall_offset_ms: AtomicI64::new(wall_offset_ms),
        }
    }

    /// The machine boots: its clock begins anew, at `origin_ns`.
    pub(crate) fn boot(&self, origin_ns: u64) {
        let now = self.true_ns.load(Ordering::Relaxed);
        self.boot_ns.store(now, Ordering::Relaxed);
        self.origin_ns.store(origin_ns, Ordering::Relaxed);
    }

    /// Sets the date on or back.
    pub(crate) fn jump(&self, by_ms: i64) {
        self.wall_offset_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// What the machine's own clock shows.
    pub(crate) fn now(&self) -> MonoTime {
        MonoTime::new(self.monotonic())
    }

    /// How long until this clock shows `at`, in true nanoseconds.
    pub(crate) fn true_ns_until(&self, at: MonoTime) -> u64 {
        let own_ns = u64::try_from(at.since(self.now()).as_nanos()).unwrap_or(u64::MAX);
        // A nanosecond more than needed, so that the moment has come whatever was rounded off.
        (own_ns / self.rate_ppm)
            .saturating_mul(RATE_ONE_PPM)
            .saturating_add(own_ns % self.rate_ppm * RATE_ONE_PPM / self.rate_ppm)
            .saturating_add(2)
    }
}

impl Clock for SimClock {
    fn wall_ms(&self) -> u64 {
        let true_ms = self.true_ns.load(Ordering::Relaxed) / 1_000_000;
        let offset_ms = self.wall_offset_ms.load(Ordering::Relaxed);
        (WALL_ORIGIN_MS + offset_ms).unsigned_abs() + true_ms
    }

    fn monotonic(&self) -> Duration {
        let since_ns = self.true_ns.load(Ordering::Relaxed) - self.boot_ns.load(Ordering::Relaxed);
        let own_ns = since_ns / RATE_ONE_PPM * self.rate_ppm
            + since_ns % RATE_ONE_PPM * self.rate_ppm / RATE_ONE_PPM;
        Duration::from_nanos(self.origin_ns.load(Ordering::Relaxed) + own_ns)
    }
}
