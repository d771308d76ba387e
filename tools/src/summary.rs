//! Latencies as histograms, their summary for reports, and the histogram itself as text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The longest latency that a histogram tells apart; anything above counts as this.
pub const LONGEST: Duration = Duration::from_secs(3600);

const SIGNIFICANT_DIGITS: u8 = 3;

/// An empty histogram for nanoseconds, exact to three digits.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, nanoseconds(LONGEST), SIGNIFICANT_DIGITS)
        .expect("one nanosecond to an hour with three digits are valid bounds")
}

/// Counts one latency.
pub fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    histogram.saturating_record(nanoseconds(latency));
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What a report says about latencies, in microseconds. All zero if there were none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    /// How many were counted.
    pub count: u64,
    /// Their mean.
    pub mean_us: f64,
    /// Half of them are at most this.
    pub p50_us: f64,
    /// 99 in a hundred are at most this.
    pub p99_us: f64,
    /// 999 in a thousand are at most this.
    pub p99_9_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl LatencySummary {
    /// Sums up a histogram of nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let quantile_us = |quantile| microseconds(histogram.value_at_quantile(quantile));
        Self {
            count: histogram.len(),
            mean_us: histogram.mean().round() / 1000.0,
            p50_us: quantile_us(0.5),
            p99_us: quantile_us(0.99),
            p99_9_us: quantile_us(0.999),
            max_us: microseconds(histogram.max()),
        }
    }
}

fn microseconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64() * 1e6
}

/// The whole histogram in HdrHistogram's compressed V2 form, as base64: other tools can read it.
pub fn to_text(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new()
        .serialize(histogram, &mut bytes)
        .expect("writing a histogram to memory cannot fail");
    STANDARD.encode(bytes)
}

/// Reads what [`to_text`] wrote.
pub fn from_text(text: &str) -> anyhow::Result<Histogram<u64>> {
    let bytes = STANDARD.decode(text)?;
    let histogram = Deserializer::new().deserialize(&mut bytes.as_slice());
    histogram.map_err(|error| anyhow::anyhow!("not an HdrHistogram: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_come_out_within_a_thousandth() {
        let mut histogram = latencies();
        for us in 1..=10_000 {
            record(&mut histogram, Duration::from_micros(us));
        }
        let summary = LatencySummary::of(&histogram);
        let near = |value: f64, expected: f64| (value / expected - 1.0).abs() < 0.002;
        assert_eq!(summary.count, 10_000);
        assert!(near(summary.p50_us, 5_000.0), "{summary:?}");
        assert!(near(summary.p99_us, 9_900.0), "{summary:?}");
        assert!(near(summary.p99_9_us, 9_990.0), "{summary:?}");
        assert!(near(summary.max_us, 10_000.0), "{summary:?}");
        assert!(near(summary.mean_us, 5_000.5), "{summary:?}");
    }

    #[test]
    fn nothing_counted_is_all_zero_and_too_long_is_the_longest() {
        assert_eq!(LatencySummary::of(&latencies()), LatencySummary::default());
        let mut histogram = latencies();
        record(&mut histogram, LONGEST * 50);
        assert!(LatencySummary::of(&histogram).max_us >= LONGEST.as_secs_f64() * 1e6);
    }

    #[test]
    fn a_histogram_survives_as_text() {
        let mut histogram = latencies();
        for us in [3, 50, 50, 7_000_000] {
            record(&mut histogram, Duration::from_micros(us));
        }
        assert_eq!(from_text(&to_text(&histogram)).unwrap(), histogram);
        assert!(from_text("bm90IG9uZQ==").is_err());
        assert!(from_text("?").is_err());
    }
}
