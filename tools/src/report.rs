//! Reports as they are stored, and the comparison of two of them.

mod compare;
mod figures;

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

pub use compare::{Comparison, Difference, Row, Verdict, compare};
pub use figures::{Better, Figure};

use crate::floor::{FloorSettings, Floors};
use crate::lag::LagReport;
use crate::machine::Machine;

/// The version of the form of all reports. It rises when a field changes its meaning or goes away;
/// a new field does not raise it.
pub const SCHEMA: u32 = 1;

/// A report of any kind; in JSON the field `report` says which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "lowercase")]
pub enum Report {
    /// Of `bench floors`.
    Floors(Box<FloorReport>),
    /// Of a lag run.
    Lag(Box<LagReport>),
}

/// What `bench floors` found out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FloorReport {
    /// The version of this form.
    pub schema: u32,
    /// The version of the program that measured.
    pub outlast_version: String,
    /// When it began, by the wall clock, in RFC 3339.
    pub began_at: String,
    /// What it ran on.
    pub machine: Machine,
    /// How many threads wanted a processor, on average over the minute before.
    pub load_1min_before: f64,
    /// What was asked for.
    pub settings: FloorSettings,
    /// What was measured.
    pub floors: Floors,
}

impl Report {
    /// Reads a report from a file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the report {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} holds no report", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let version: Version = serde_json::from_str(text)?;
        if version.schema != SCHEMA {
            bail!(
                "its form is version {}, and this program reads {SCHEMA}",
                version.schema
            );
        }
        Ok(serde_json::from_str(text)?)
    }

    /// The name of its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Floors(_) => "floors",
            Self::Lag(_) => "lag",
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::lag::{Latencies, Stage};

    pub(crate) fn lag_report(latency: Duration) -> Report {
        let mut latencies = Latencies::new(Duration::ZERO);
        latencies.record(Stage::Replicated, Duration::ZERO, latency);
        Report::Lag(Box::new(crate::lag::tests::report(&latencies)))
    }

    #[test]
    fn a_report_survives_its_file() {
        let report = lag_report(Duration::from_micros(70));
        let text = serde_json::to_string(&report).unwrap();
        assert!(text.starts_with(r#"{"report":"lag","schema":1,"#), "{text}");
        assert_eq!(Report::parse(&text).unwrap(), report);
    }

    #[test]
    fn another_version_or_kind_is_refused() {
        let error = |text| format!("{:#}", Report::parse(text).unwrap_err());
        assert!(error(r#"{"schema":2,"report":"lag"}"#).contains("version 2"));
        assert!(error(r#"{"schema":1,"report":"weather"}"#).contains("weather"));
        assert!(error("{}").contains("schema"));
    }
}
