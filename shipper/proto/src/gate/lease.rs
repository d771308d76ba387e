//! The lease: for how long a primary may answer without hearing from its standby, and from when on
//! a standby may rest on it that it does not.

use std::time::Duration;

use outlast_engine::planted::{Bug, on};

use crate::time::MonoTime;

/// How far a clock may run wrong, in parts per million: what a kernel slews at most, and a
/// crystal's own error.
pub const CLOCK_RATE_ERROR_PPM: u32 = 1_000;

/// After how long a silence, on the standby's clock, no primary answers under this lease any more:
/// its clock may run slow by the stated error and the standby's fast by as much.
///
/// # Panics
/// When the stated error is that of no clock: a million parts per million.
#[must_use]
pub fn fenced_after(lease: Duration, rate_error_ppm: u32) -> Duration {
    const WHOLE: u32 = 1_000_000;
    assert!(
        rate_error_ppm < WHOLE,
        "a clock off by {rate_error_ppm} ppm"
    );
    let fast = u128::from(WHOLE + rate_error_ppm);
    let slow = u128::from(WHOLE - rate_error_ppm);
    if on(Bug::LeaseWithoutDrift) {
        return lease;
    }
    let nanos = (lease.as_nanos() * fast).div_ceil(slow);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// How the lease stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lease {
    /// None is asked for: nothing is promised now.
    NotAsked,
    /// Answers may be given up to and at this moment.
    Holds {
        /// The last such moment.
        until: MonoTime,
    },
    /// None may be given.
    Out {
        /// The last moment at which one might have been; `None` where there was no contact.
        since: Option<MonoTime>,
    },
}

impl Lease {
    /// How a lease of this length stands at `now`, running from `contact`.
    #[must_use]
    pub fn at(now: MonoTime, lease: Option<Duration>, contact: Option<MonoTime>) -> Self {
        let Some(lease) = lease else {
            return Self::NotAsked;
        };
        let until = contact.map(|contact| contact.after(lease));
        match until {
            Some(until) if now <= until => Self::Holds { until },
            since => Self::Out { since },
        }
    }

    /// Whether it forbids to answer.
    #[must_use]
    pub const fn is_out(&self) -> bool {
        matches!(self, Self::Out { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fence_is_later_than_any_clock_within_the_error_can_be_wrong() {
        for (lease_ms, ppm) in [(3_000, CLOCK_RATE_ERROR_PPM), (1, 1), (200, 500_000)] {
            let lease = Duration::from_millis(lease_ms);
            let fence = fenced_after(lease, ppm).as_nanos();
            let (fast, slow) = (1_000_000 + u128::from(ppm), 1_000_000 - u128::from(ppm));
            // True time: the primary's lease at most, the standby's silence at least.
            assert!(fence * slow >= lease.as_nanos() * fast, "{lease:?} {ppm}");
            assert!((fence - 1) * slow < lease.as_nanos() * fast);
        }
        let lease = Duration::from_secs(3);
        assert_eq!(fenced_after(lease, 0), lease);
        assert!(fenced_after(Duration::MAX, 999_999) > lease);
    }

    #[test]
    fn the_last_moment_of_a_lease_counts_and_the_next_does_not() {
        let at = |ms| MonoTime::new(Duration::from_millis(ms));
        let lease = Some(Duration::from_millis(10));
        let until = at(15);
        let contact = Some(at(5));
        assert_eq!(Lease::at(at(15), lease, contact), Lease::Holds { until });
        let since = Some(until);
        assert_eq!(Lease::at(at(16), lease, contact), Lease::Out { since });
        assert_eq!(Lease::at(at(6), lease, None), Lease::Out { since: None });
        assert_eq!(Lease::at(at(99), None, None), Lease::NotAsked);
    }
}
