//! The report of a lag run.

use std::time::Duration;

use outlast_standby::config::Policy;
use outlast_standby::proto::Policy as Promise;
use serde::{Deserialize, Serialize};

use super::recorder::Stage;
use super::schedule::Arrivals;
use super::series::{ExposureSpread, LagSeries, Spread};
use crate::floor::Floors;
use crate::machine::Machine;
use crate::process::Usage;
use crate::summary::LatencySummary;

/// What a lag run found out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LagReport {
    /// The version of this form.
    pub schema: u32,
    /// The version of the program that measured.
    pub outlast_version: String,
    /// When the run began, by the wall clock, in RFC 3339.
    pub began_at: String,
    /// What it ran on.
    pub machine: Machine,
    /// How many threads wanted a processor, on average over the minute before.
    pub load_1min_before: f64,
    /// What was asked for.
    pub settings: LagSettings,
    /// What the load came to.
    pub achieved: Achieved,
    /// How long commits took to each stage.
    pub latency: Vec<StageLatency>,
    /// How the bytes that the standby lacked spread over the time.
    pub lag_bytes: Spread,
    /// How the age of the oldest of them spread.
    pub lag_ms: Spread,
    /// How the bytes that the standby did not show spread.
    pub apply_lag_bytes: Spread,
    /// How what would have been lost of what was answered spread.
    #[serde(default)]
    pub exposure: ExposureSpread,
    /// What the processes used.
    pub processes: Vec<ProcessUse>,
    /// What the machine can do at best, measured in the same run.
    pub floors: Floors,
    /// The lag over the run.
    pub series: LagSeries,
}

/// What a lag run was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LagSettings {
    /// Commits a second; 0 for as fast as answers come.
    pub rate_per_s: f64,
    /// Most commits on their way at a time.
    #[serde(default)]
    pub in_flight: usize,
    /// How they are spread over time.
    pub arrivals: Arrivals,
    /// How long before anything is counted, in seconds.
    pub warm_up_s: f64,
    /// How long after that, in seconds.
    pub run_s: f64,
    /// Puts in each commit.
    pub puts_per_commit: usize,
    /// The size of each value.
    pub value_bytes: usize,
    /// The level that the callers wait for.
    pub level: String,
    /// The policy in force.
    pub policy: String,
    /// What it bounds.
    #[serde(default)]
    pub bound: BoundSettings,
    /// From when on, counted from the beginning, the line was cut, and for how long, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage_s: Option<(f64, f64)>,
    /// What the load is drawn from.
    pub seed: u64,
    /// How the relay in between behaves, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
}

/// What a policy bounds; nothing under `async`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct BoundSettings {
    /// Most bytes of log that may be lost.
    pub bytes: Option<u64>,
    /// Most commits.
    pub commits: Option<u64>,
    /// Longest time between the answers to the first and the last of them, in ms.
    pub ms: Option<f64>,
    /// How long after the last echo commits may be answered, in ms.
    pub lease_ms: Option<f64>,
}

impl From<Policy> for BoundSettings {
    fn from(policy: Policy) -> Self {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        match policy.promise() {
            Promise::Bounded(bound) => Self {
                bytes: bound.bytes,
                commits: bound.commits,
                ms: bound.time.map(ms),
                lease_ms: Some(ms(bound.lease)),
            },
            Promise::Async => Self::default(),
        }
    }
}

/// What the load came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Achieved {
    /// Commits that were begun after the warm-up.
    pub begun: u64,
    /// Of those, answered OK.
    pub ok: u64,
    /// Of those, not in the log and never to appear.
    pub failed: u64,
    /// Of those, without a certain end.
    pub unknown: u64,
    /// Answered OK a second.
    pub ok_per_s: f64,
}

/// How long commits took to one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageLatency {
    /// The stage.
    pub stage: Stage,
    /// The latency in short.
    pub latency: LatencySummary,
    /// The latency as a whole: an HdrHistogram of nanoseconds.
    pub histogram_ns_v2_deflate_base64: String,
}

/// What one process used during the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessUse {
    /// Which one.
    pub name: String,
    /// Processor time in percent of one core.
    pub cpu_percent: f64,
    /// The most memory that it ever had resident.
    pub peak_memory_bytes: u64,
}

impl ProcessUse {
    /// What was used between two looks that were `apart` from each other.
    pub fn between(name: impl Into<String>, before: Usage, after: Usage, apart: Duration) -> Self {
        let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
        let apart = apart.as_secs_f64();
        Self {
            name: name.into(),
            cpu_percent: if apart > 0.0 {
                cpu / apart * 100.0
            } else {
                0.0
            },
            peak_memory_bytes: after.peak_memory_bytes,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::lag::{LagSample, Latencies};
    use crate::machine::FileSystem;

    /// A report with these latencies; the rest is made up.
    pub(crate) fn report(latencies: &Latencies) -> LagReport {
        let sample = |n: u32| LagSample {
            at_ms: f64::from(n),
            lag_bytes: u64::from(n % 50) * 100,
            lag_ms: f64::from(n % 7),
            apply_lag_bytes: 1,
            ..LagSample::default()
        };
        let series = LagSeries {
            samples: (0..500).map(sample).collect(),
        };
        LagReport {
            schema: crate::report::SCHEMA,
            outlast_version: "0.1.0".to_owned(),
            began_at: "2026-11-22T16:00:00Z".to_owned(),
            machine: Machine {
                cores: 2,
                cpu_model: "a processor".to_owned(),
                memory_bytes: 1 << 30,
                kernel: "6.18".to_owned(),
                file_system: FileSystem::default(),
            },
            load_1min_before: 0.1,
            settings: LagSettings {
                rate_per_s: 1000.0,
                in_flight: 1000,
                arrivals: Arrivals::Poisson,
                warm_up_s: 1.0,
                run_s: 10.0,
                puts_per_commit: 1,
                value_bytes: 128,
                level: "replicated".to_owned(),
                policy: "async".to_owned(),
                bound: BoundSettings::default(),
                outage_s: None,
                seed: 1,
                relay: None,
            },
            achieved: Achieved {
                begun: 10,
                ok: 9,
                failed: 1,
                unknown: 0,
                ok_per_s: 0.9,
            },
            latency: latencies.report(),
            lag_bytes: series.lag_bytes(),
            lag_ms: series.lag_ms(),
            apply_lag_bytes: series.apply_lag_bytes(),
            exposure: series.exposure(),
            processes: vec![ProcessUse {
                name: "primary".to_owned(),
                cpu_percent: 12.0,
                peak_memory_bytes: 1 << 20,
            }],
            floors: Floors::default(),
            series,
        }
    }

    #[test]
    fn processor_use_is_a_share_of_the_time_between() {
        let usage = |ms, peak_memory_bytes| Usage {
            cpu: Duration::from_millis(ms),
            peak_memory_bytes,
        };
        let used = ProcessUse::between(
            "primary",
            usage(100, 5),
            usage(850, 9),
            Duration::from_secs(1),
        );
        assert_eq!((used.cpu_percent, used.peak_memory_bytes), (75.0, 9));
        let never = ProcessUse::between("primary", usage(0, 0), usage(9, 0), Duration::ZERO);
        assert_eq!(never.cpu_percent, 0.0);
    }
}
