//! The figures of a report that are worth comparing.

use serde::Serialize;

use super::Report;
use crate::floor::{BulkFloor, Floors};
use crate::lag::{LagReport, Spread};
use crate::summary::LatencySummary;

/// One number of a report.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What it is of, unique in its report.
    pub name: String,
    /// Its unit.
    pub unit: &'static str,
    /// The number.
    pub value: f64,
    /// Which way is better.
    pub better: Better,
}

/// Which way a figure is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Less is better.
    Lower,
    /// More is better.
    Higher,
}

impl Report {
    /// Its figures, in the order in which people want to read them.
    pub fn figures(&self) -> Vec<Figure> {
        let mut figures = Figures::default();
        match self {
            Self::Floors(report) => figures.floors("", &report.floors),
            Self::Lag(report) => figures.lag(report),
        }
        figures.0
    }
}

#[derive(Default)]
struct Figures(Vec<Figure>);

impl Figures {
    fn lower(&mut self, name: String, unit: &'static str, value: f64) {
        self.0.push(Figure {
            name,
            unit,
            value,
            better: Better::Lower,
        });
    }

    fn higher(&mut self, name: String, unit: &'static str, value: f64) {
        self.0.push(Figure {
            name,
            unit,
            value,
            better: Better::Higher,
        });
    }

    fn latency(&mut self, name: &str, latency: &LatencySummary) {
        self.lower(format!("{name} p50"), "us", latency.p50_us);
        self.lower(format!("{name} p99"), "us", latency.p99_us);
        self.lower(format!("{name} p99.9"), "us", latency.p99_9_us);
        self.lower(format!("{name} max"), "us", latency.max_us);
    }

    fn spread(&mut self, name: &str, unit: &'static str, spread: &Spread) {
        self.lower(format!("{name} p50"), unit, spread.p50);
        self.lower(format!("{name} p99"), unit, spread.p99);
        self.lower(format!("{name} p99.9"), unit, spread.p99_9);
        self.lower(format!("{name} max"), unit, spread.max);
    }

    fn bulk(&mut self, name: &str, bulk: &BulkFloor) {
        self.higher(name.to_owned(), "MB/s", bulk.bytes_per_s / 1e6);
    }

    fn lag(&mut self, report: &LagReport) {
        self.higher("answered OK".to_owned(), "/s", report.achieved.ok_per_s);
        self.lower(
            "failed".to_owned(),
            "commits",
            report.achieved.failed as f64,
        );
        self.lower(
            "unknown".to_owned(),
            "commits",
            report.achieved.unknown as f64,
        );
        for row in &report.latency {
            self.latency(&row.stage.to_string(), &row.latency);
        }
        self.spread("lag", "B", &report.lag_bytes);
        self.spread("lag", "ms", &report.lag_ms);
        self.spread("apply lag", "B", &report.apply_lag_bytes);
        for process in &report.processes {
            self.lower(
                format!("{} processor", process.name),
                "%",
                process.cpu_percent,
            );
            let megabytes = process.peak_memory_bytes as f64 / 1e6;
            self.lower(format!("{} peak memory", process.name), "MB", megabytes);
        }
        self.floors("floor: ", &report.floors);
    }

    fn floors(&mut self, before: &str, floors: &Floors) {
        for row in &floors.writes {
            let name = format!("{before}{} write {} B", row.mode, row.bytes);
            self.latency(&name, &row.latency);
        }
        for row in &floors.group_commits {
            let name = format!(
                "{before}{} group commit {} x {} B",
                row.mode, row.threads, row.record_bytes
            );
            self.higher(name.clone(), "/s", row.commits_per_s);
            self.latency(&name, &row.latency);
        }
        if let Some(quic) = &floors.quic {
            self.latency(&format!("{before}QUIC ping"), &quic.ping);
            self.higher(
                format!("{before}QUIC bulk"),
                "MB/s",
                quic.bulk_bytes_per_s / 1e6,
            );
        }
        if let Some(relay) = &floors.relay {
            self.latency(&format!("{before}UDP ping"), &relay.ping_direct);
            self.latency(&format!("{before}UDP ping, relay"), &relay.ping_relayed);
            self.bulk(&format!("{before}UDP bulk, relay"), &relay.single);
            self.bulk(&format!("{before}UDP bulk in bursts, relay"), &relay.bursts);
            self.bulk(&format!("{before}UDP bulk in bursts"), &relay.bursts_direct);
        }
    }
}
