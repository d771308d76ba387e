//! Time as an argument.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment on this machine's own clock: the time since some fixed moment of this boot.
///
/// The shell reads `CLOCK_BOOTTIME` and passes the result to every `handle`; it never goes
/// backwards. Moments of two machines are not comparable, and nothing here compares them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MonoTime(Duration);

impl MonoTime {
    /// The moment `since` after the clock's origin.
    #[must_use]
    pub const fn new(since: Duration) -> Self {
        Self(since)
    }

    /// The moment `wait` from here, or the last one there is.
    #[must_use]
    pub const fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }

    /// Time from `earlier` to here; zero when `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Time since the clock's origin.
    #[must_use]
    pub const fn as_duration(self) -> Duration {
        self.0
    }
}

impl fmt::Display for MonoTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}s", self.0.as_secs_f64())
    }
}

/// A moment on the *primary's* clock, in nanoseconds, as a heartbeat carries it.
///
/// Only the primary gives it a meaning. The standby orders the stamps of one session and gives the
/// newest one back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The stamp of a heartbeat sent at `now`.
    #[must_use]
    pub fn of(now: MonoTime) -> Self {
        Self(u64::try_from(now.0.as_nanos()).unwrap_or(u64::MAX))
    }

    /// The moment of the sender's clock that the stamp names.
    #[must_use]
    pub const fn moment(self) -> MonoTime {
        MonoTime(Duration::from_nanos(self.0))
    }
}
