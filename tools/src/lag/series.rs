//! The lag over a run, in regular samples.

use serde::{Deserialize, Serialize};

/// The lag at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LagSample {
    /// When, from the beginning of the run.
    pub at_ms: f64,
    /// How much of the log the standby does not have durable.
    pub lag_bytes: u64,
    /// How long the oldest of that has waited.
    pub lag_ms: f64,
    /// How much of the log the standby does not show to its readers.
    pub apply_lag_bytes: u64,
    /// What would be lost of what was answered: bytes of log.
    #[serde(default)]
    pub exposed_bytes: u64,
    /// Commits.
    #[serde(default)]
    pub exposed_commits: u64,
    /// How long ago the oldest of them was answered, in ms.
    #[serde(default)]
    pub exposed_ms: f64,
}

/// The lag over a run. Samples are taken at equal distances, so a quantile of them is a share of
/// the time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LagSeries {
    /// In the order in which they were taken.
    pub samples: Vec<LagSample>,
}

/// How something spread over the samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// At most this for half of the time.
    pub p50: f64,
    /// At most this for 99 % of the time.
    pub p99: f64,
    /// At most this for 99.9 % of the time.
    pub p99_9: f64,
    /// The most.
    pub max: f64,
}

/// How what would be lost of what was answered spread over the samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ExposureSpread {
    /// Bytes of log.
    pub bytes: Spread,
    /// Commits.
    pub commits: Spread,
    /// From the answer to the oldest of them, in ms.
    pub ms: Spread,
}

impl LagSeries {
    /// How the bytes that the standby lacked spread over the time.
    pub fn lag_bytes(&self) -> Spread {
        self.spread(|sample| sample.lag_bytes as f64)
    }

    /// How the age of the oldest of them spread, in milliseconds.
    pub fn lag_ms(&self) -> Spread {
        self.spread(|sample| sample.lag_ms)
    }

    /// How the bytes that the standby did not show spread.
    pub fn apply_lag_bytes(&self) -> Spread {
        self.spread(|sample| sample.apply_lag_bytes as f64)
    }

    /// How what would be lost of what was answered spread.
    pub fn exposure(&self) -> ExposureSpread {
        ExposureSpread {
            bytes: self.spread(|sample| sample.exposed_bytes as f64),
            commits: self.spread(|sample| sample.exposed_commits as f64),
            ms: self.spread(|sample| sample.exposed_ms),
        }
    }

    fn spread(&self, value: impl Fn(&LagSample) -> f64) -> Spread {
        Spread::of(self.samples.iter().map(value).collect())
    }
}

impl Spread {
    /// How these values spread; all zero if there are none.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let quantile = |per_mille: usize| {
            let rank = (values.len() * per_mille).div_ceil(1000).max(1);
            values.get(rank - 1).copied().unwrap_or_default()
        };
        Self {
            p50: quantile(500),
            p99: quantile(990),
            p99_9: quantile(999),
            max: quantile(1000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_share_of_the_samples() {
        let sample = |n: u32| LagSample {
            at_ms: f64::from(n),
            lag_bytes: u64::from(1001 - n) * 10,
            lag_ms: f64::from(n),
            apply_lag_bytes: 7,
            ..LagSample::default()
        };
        let series = LagSeries {
            samples: (1..=1000).map(sample).collect(),
        };
        let expected = Spread {
            p50: 500.0,
            p99: 990.0,
            p99_9: 999.0,
            max: 1000.0,
        };
        assert_eq!(series.lag_ms(), expected);
        assert_eq!(series.lag_bytes().p99, 9900.0);
        assert_eq!(
            series.apply_lag_bytes(),
            Spread {
                p50: 7.0,
                p99: 7.0,
                p99_9: 7.0,
                max: 7.0
            }
        );
    }

    #[test]
    fn no_samples_and_one_sample() {
        assert_eq!(LagSeries::default().lag_ms(), Spread::default());
        let only = LagSample {
            at_ms: 0.0,
            lag_bytes: 3,
            lag_ms: 2.0,
            apply_lag_bytes: 1,
            ..LagSample::default()
        };
        let series = LagSeries {
            samples: vec![only],
        };
        assert_eq!(
            series.lag_ms(),
            Spread {
                p50: 2.0,
                p99: 2.0,
                p99_9: 2.0,
                max: 2.0
            }
        );
    }
}
