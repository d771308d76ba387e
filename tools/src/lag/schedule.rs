//! When each commit of an open-loop run is meant to begin.

use std::time::Duration;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// How commits are spread over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// At equal distances.
    Fixed,
    /// As independent callers come: at distances drawn from an exponential distribution.
    Poisson,
}

/// The moments at which commits are meant to begin, from the beginning of the run, without end.
#[derive(Debug, Clone)]
pub struct Schedule {
    arrivals: Arrivals,
    interval_ns: f64,
    rng: Rng,
    ordinal: u64,
    last_ns: f64,
}

impl Schedule {
    /// `rate_per_s` commits a second on average; the same seed gives the same moments.
    ///
    /// # Panics
    /// If the rate is not a positive number.
    pub fn new(arrivals: Arrivals, rate_per_s: f64, seed: u64) -> Self {
        assert!(
            rate_per_s.is_finite() && rate_per_s > 0.0,
            "a rate of {rate_per_s}/s"
        );
        let interval_ns = 1e9 / rate_per_s;
        Self {
            arrivals,
            interval_ns,
            rng: Rng::with_seed(seed),
            ordinal: 0,
            last_ns: 0.0,
        }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let ns = match self.arrivals {
            // Multiplied and not added up, so that a long run does not drift.
            Arrivals::Fixed => self.ordinal as f64 * self.interval_ns,
            Arrivals::Poisson => {
                let uniform = 1.0 - self.rng.f64(); // never 0
                self.last_ns - uniform.ln() * self.interval_ns
            }
        };
        self.ordinal += 1;
        self.last_ns = ns;
        Some(Duration::from_secs_f64(ns / 1e9))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(arrivals: Arrivals, seed: u64) -> Vec<Duration> {
        Schedule::new(arrivals, 2000.0, seed).take(20_000).collect()
    }

    #[test]
    fn fixed_arrivals_are_equally_far_apart_however_long_the_run() {
        let moments = first(Arrivals::Fixed, 1);
        assert_eq!(moments[0], Duration::ZERO);
        assert_eq!(moments[1], Duration::from_micros(500));
        assert_eq!(moments[19_999], Duration::from_micros(500) * 19_999);
    }

    #[test]
    fn poisson_arrivals_keep_the_rate_and_vary_as_they_should() {
        let moments = first(Arrivals::Poisson, 1);
        assert!(moments.is_sorted());
        let last_s = moments[19_999].as_secs_f64();
        assert!(
            (9.6..10.4).contains(&last_s),
            "20,000 at 2,000/s took {last_s} s"
        );
        let gaps = moments
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).as_secs_f64());
        let short = gaps.filter(|gap| *gap < 0.0005).count() as f64 / 19_999.0;
        assert!(
            (short - (1.0 - (-1.0_f64).exp())).abs() < 0.02,
            "{short} are below the mean"
        );
    }

    #[test]
    fn the_seed_decides() {
        assert_eq!(first(Arrivals::Poisson, 1), first(Arrivals::Poisson, 1));
        assert_ne!(first(Arrivals::Poisson, 1), first(Arrivals::Poisson, 2));
    }
}
