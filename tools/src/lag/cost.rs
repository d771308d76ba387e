//! What a promise costs: the same load under `async` and under a policy, by turns, on one pair.

use std::time::Duration;

use anyhow::Result;
use outlast_standby::config::Policy;
use serde::Serialize;

use super::bed::{Bed, BedSettings};
use super::load::{Load, run};
use super::report::BoundSettings;
use crate::machine::{Machine, load_1min};

/// What is measured.
#[derive(Debug, Clone)]
pub struct CostSettings {
    /// The loads: each is a row.
    pub loads: Vec<Load>,
    /// The policy.
    pub policy: Policy,
    /// How often each load is run under each of both.
    pub rounds: u32,
}

/// What a policy costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    /// The version of the program that measured.
    pub outlast_version: String,
    /// What it ran on.
    pub machine: Machine,
    /// How many threads wanted a processor, on average over the minute before.
    pub load_1min_before: f64,
    /// The policy's name.
    pub policy: String,
    /// What it bounds.
    pub bound: BoundSettings,
    /// How the relay in between behaves, if there is one.
    pub relay: Option<String>,
    /// How long each run was, in seconds.
    pub run_s: f64,
    /// One for each load.
    pub rows: Vec<CostRow>,
}

/// One load under both, a number a round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CostRow {
    /// Commits a second that were meant to be begun; `None` for as fast as answers came.
    pub rate_per_s: Option<f64>,
    /// Most commits on their way at a time.
    pub in_flight: usize,
    /// Under `async`.
    pub without: Vec<CostRun>,
    /// Under the policy.
    pub with: Vec<CostRun>,
}

/// One run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CostRun {
    /// Commits answered a second.
    pub ok_per_s: f64,
    /// Half of them were answered within this.
    pub p50_us: f64,
    /// 99 % of them.
    pub p99_us: f64,
    /// All of them.
    pub max_us: f64,
    /// The most commits that were exposed.
    pub exposed_commits_max: f64,
    /// The most time that any was, in ms; of a load with a rate.
    pub exposed_ms_max: f64,
}

impl CostRow {
    /// A figure of the runs under `async` and of those under the policy: each its median.
    pub fn medians(&self, of: fn(&CostRun) -> f64) -> (f64, f64) {
        (median(&self.without, of), median(&self.with, of))
    }

    /// The largest of a figure, likewise.
    pub fn largest(&self, of: fn(&CostRun) -> f64) -> (f64, f64) {
        let largest = |runs: &[CostRun]| runs.iter().map(of).fold(0.0, f64::max);
        (largest(&self.without), largest(&self.with))
    }
}

fn median(runs: &[CostRun], of: fn(&CostRun) -> f64) -> f64 {
    let mut values: Vec<_> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2).copied().unwrap_or_default();
    let lower = values.get(values.len().saturating_sub(1) / 2).copied();
    f64::midpoint(lower.unwrap_or_default(), upper)
}

/// Runs each load by turns under `async` and under the policy. In every other round the policy is
/// the first, so that what slows down over time slows both.
///
/// # Errors
/// When the pair cannot be made, or a promise does not come into force.
pub fn cost(bed: &BedSettings, settings: &CostSettings) -> Result<Cost> {
    let load_1min_before = load_1min();
    let machine = Machine::describe(&bed.parent)?;
    let relay = bed.lines.as_ref().map(ToString::to_string);
    let mut bed = Bed::make(bed)?;
    bed.start_standby()?;
    bed.wait_attached()?;
    let mut rows = Vec::new();
    for load in &settings.loads {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for round in 0..settings.rounds {
            let mut turns = [(Policy::Async, &mut without), (settings.policy, &mut with)];
            if round % 2 == 1 {
                turns.reverse();
            }
            for (policy, runs) in turns {
                bed.promise(policy)?;
                runs.push(one(&bed, load)?);
            }
        }
        rows.push(CostRow {
            rate_per_s: load.rate_per_s,
            in_flight: load.in_flight,
            without,
            with,
        });
    }
    Ok(Cost {
        outlast_version: env!("CARGO_PKG_VERSION").to_owned(),
        machine,
        load_1min_before,
        policy: settings.policy.name().to_owned(),
        bound: BoundSettings::from(settings.policy),
        relay,
        run_s: settings
            .loads
            .first()
            .map_or(Duration::ZERO, |load| load.run)
            .as_secs_f64(),
        rows,
    })
}

fn one(bed: &Bed, load: &Load) -> Result<CostRun> {
    let measured = run(bed.primary()?.store(), load)?;
    let answered = measured.latencies.of(load.stage());
    let us = |share: f64| answered.value_at_quantile(share) as f64 / 1e3;
    let exposure = measured.series.exposure();
    Ok(CostRun {
        ok_per_s: measured.achieved.ok_per_s,
        p50_us: us(0.5),
        p99_us: us(0.99),
        max_us: us(1.0),
        exposed_commits_max: exposure.commits.max,
        exposed_ms_max: exposure.ms.max,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_one_in_the_middle_or_between_the_two() {
        let runs = |values: &[f64]| {
            let run = |ok_per_s: &f64| CostRun {
                ok_per_s: *ok_per_s,
                p50_us: 0.0,
                p99_us: 0.0,
                max_us: 0.0,
                exposed_commits_max: 0.0,
                exposed_ms_max: 0.0,
            };
            values.iter().map(run).collect::<Vec<_>>()
        };
        let row = CostRow {
            rate_per_s: None,
            in_flight: 1,
            without: runs(&[3.0, 1.0, 200.0]),
            with: runs(&[4.0, 1.0, 2.0, 9.0]),
        };
        assert_eq!(row.medians(|run| run.ok_per_s), (3.0, 3.0));
        assert_eq!(row.largest(|run| run.ok_per_s), (200.0, 9.0));
    }
}
