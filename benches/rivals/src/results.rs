//! What a run leaves behind, as JSON lines: one [`Run`], then [`Row`]s.

use std::collections::BTreeMap;

use outlast_tools::machine::Machine;
use outlast_tools::summary::LatencySummary;
use serde::{Deserialize, Serialize};

use crate::settings::Settings;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// The first one.
    Run(Box<Run>),
    /// Each further one.
    Row(Row),
}

/// On what, when and with what was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// When it began, by the wall clock.
    pub(crate) began_at: String,
    /// The machine, and the file system of the data.
    pub(crate) machine: Machine,
    /// How many threads wanted a processor, on average over the minute before.
    pub(crate) load_1min_before: f64,
    /// The sizes.
    pub(crate) settings: Settings,
    /// Where the memory of reads was limited, if it was.
    pub(crate) memory_group: Option<String>,
    /// The version of each engine, by name, in the order of columns.
    pub(crate) versions: Vec<(String, String)>,
}

/// The column of what the machine can do at best.
pub(crate) const FLOOR: &str = "floor";

/// One workload of one engine in one round.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Which engine, or [`FLOOR`].
    pub(crate) engine: String,
    /// Which workload; a stable name.
    pub(crate) workload: String,
    /// Which repetition, from 1 on.
    pub(crate) round: usize,
    /// What was measured, by names that end with their unit.
    pub(crate) figures: BTreeMap<String, f64>,
    /// In which way, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) way: Option<String>,
    /// Why there are no figures, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unavailable: Option<String>,
}

impl Row {
    /// A row without figures yet.
    pub(crate) fn of(workload: impl Into<String>) -> Self {
        Self {
            workload: workload.into(),
            ..Self::default()
        }
    }

    /// A row that will have none.
    pub(crate) fn unavailable(workload: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            unavailable: Some(why.into()),
            ..Self::of(workload)
        }
    }

    /// Adds a figure.
    pub(crate) fn figure(mut self, name: &str, value: f64) -> Self {
        self.figures.insert(name.to_owned(), value);
        self
    }

    /// Says in which way it was done.
    pub(crate) fn way(mut self, way: impl Into<String>) -> Self {
        self.way = Some(way.into());
        self
    }

    /// Adds the percentiles of a latency.
    pub(crate) fn latency(self, latency: &LatencySummary) -> Self {
        self.figure("p50_us", latency.p50_us)
            .figure("p99_us", latency.p99_us)
            .figure("p99_9_us", latency.p99_9_us)
            .figure("max_us", latency.max_us)
    }
}
