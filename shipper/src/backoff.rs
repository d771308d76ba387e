//! How long to wait before dialling again: longer each time, never in step with others, for ever.

use std::time::Duration;

/// Limits of the wait between two attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffLimits {
    /// The longest wait after the first failure.
    pub first: Duration,
    /// The longest wait after any failure. At least `first`.
    pub longest: Duration,
}

impl Default for BackoffLimits {
    /// 50 ms, and 2 s.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(50),
            longest: Duration::from_secs(2),
        }
    }
}

/// The waits of one dialler.
///
/// Each is drawn from the upper half of a span that doubles with every failure, so that two nodes
/// which lost each other at one moment do not keep meeting busy lines.
#[derive(Clone, Debug)]
pub struct Backoff {
    limits: BackoffLimits,
    span: Duration,
    rng: fastrand::Rng,
}

impl Backoff {
    /// A dialler that has not failed yet; the same seed gives the same waits.
    ///
    /// # Panics
    /// When the limits contradict each other or a wait may be nothing at all.
    #[must_use]
    pub fn new(limits: BackoffLimits, seed: u64) -> Self {
        assert!(
            Duration::ZERO < limits.first && limits.first <= limits.longest,
            "waits from {:?} up to {:?}",
            limits.first,
            limits.longest
        );
        Self {
            limits,
            span: limits.first,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// How long to wait after another failed attempt.
    pub fn after_failure(&mut self) -> Duration {
        let wait = self.span.mul_f64(0.5 + self.rng.f64() / 2.0);
        self.span = self.span.saturating_mul(2).min(self.limits.longest);
        wait
    }

    /// How long to wait after a link that lasted for `lasted`.
    ///
    /// A link that held for longer than the longest wait begins anew; one that broke at once counts
    /// as another failure, since otherwise a line that flaps would be dialled without a pause.
    pub fn after_link(&mut self, lasted: Duration) -> Duration {
        if lasted > self.limits.longest {
            self.span = self.limits.first;
        }
        self.after_failure()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn waits_double_up_to_the_longest_and_go_on_for_ever() {
        let mut backoff = Backoff::new(BackoffLimits::default(), 7);
        for longest_ms in [50, 100, 200, 400, 800, 1600, 2000, 2000] {
            let wait = backoff.after_failure();
            let longest = longest_ms * MS;
            assert!(
                longest / 2 <= wait && wait <= longest,
                "{wait:?} of {longest:?}"
            );
        }
        for _ in 0..100_000 {
            let wait = backoff.after_failure();
            assert!((1000 * MS..=2000 * MS).contains(&wait), "{wait:?}");
        }
    }

    #[test]
    fn waits_repeat_with_their_seed_and_differ_without() {
        let waits = |seed| {
            let mut backoff = Backoff::new(BackoffLimits::default(), seed);
            std::iter::repeat_with(|| backoff.after_failure())
                .take(20)
                .collect::<Vec<_>>()
        };
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
    }

    #[test]
    fn only_a_link_that_lasted_begins_anew() {
        let mut backoff = Backoff::new(BackoffLimits::default(), 7);
        for _ in 0..10 {
            backoff.after_link(10 * MS);
        }
        assert!(backoff.after_link(2000 * MS) >= 1000 * MS);
        assert!(backoff.after_link(2001 * MS) <= 50 * MS);
        assert!(backoff.after_failure() <= 100 * MS);
    }
}
