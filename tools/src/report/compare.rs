//! Two reports of one kind side by side.

use std::collections::BTreeMap;

use anyhow::ensure;
use serde::Serialize;
use serde_json::Value;

use super::figures::Better;
use super::{Report, SCHEMA};

/// Two reports side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The version of this form.
    pub schema: u32,
    /// The kind of both.
    pub kind: &'static str,
    /// What was not equal about machine, program and settings: with such differences a ratio says
    /// little about the program alone.
    pub differences: Vec<Difference>,
    /// The figures that both have.
    pub rows: Vec<Row>,
    /// The names of figures that one of them alone has.
    pub only_in_one: Vec<String>,
}

/// One thing about which the two runs differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Where in the report, for example `settings.rate_per_s`.
    pub field: String,
    /// In the first.
    pub a: Value,
    /// In the second.
    pub b: Value,
}

/// One figure of both.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What it is of.
    pub name: String,
    /// Its unit.
    pub unit: &'static str,
    /// In the first.
    pub a: f64,
    /// In the second.
    pub b: f64,
    /// The second by the first; `None` if the first is 0.
    pub ratio: Option<f64>,
    /// How the second does against the first.
    pub verdict: Verdict,
}

/// How the second does against the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Better by more than 5 %.
    Better,
    /// Worse by more than 5 %.
    Worse,
    /// Within 5 %, which is no more than two runs of one program differ.
    Same,
}

const SAME_WITHIN: f64 = 1.05;

/// Compares `b` against `a`, which must be of one kind.
pub fn compare(a: &Report, b: &Report) -> anyhow::Result<Comparison> {
    ensure!(
        a.kind() == b.kind(),
        "a report of kind `{}` cannot be compared with one of kind `{}`",
        a.kind(),
        b.kind()
    );
    let mut of_b: BTreeMap<_, _> = b
        .figures()
        .into_iter()
        .map(|figure| ((figure.name, figure.unit), figure.value))
        .collect();
    let mut rows = Vec::new();
    let mut only_in_one = Vec::new();
    for figure in a.figures() {
        match of_b.remove(&(figure.name.clone(), figure.unit)) {
            Some(value) => rows.push(Row {
                verdict: judge(figure.value, value, figure.better),
                ratio: (figure.value != 0.0).then(|| value / figure.value),
                name: figure.name,
                unit: figure.unit,
                a: figure.value,
                b: value,
            }),
            None => only_in_one.push(figure.name),
        }
    }
    only_in_one.extend(of_b.into_keys().map(|(name, _)| name));
    let differences = differences(&conditions(a)?, &conditions(b)?);
    Ok(Comparison {
        schema: SCHEMA,
        kind: a.kind(),
        differences,
        rows,
        only_in_one,
    })
}

fn judge(a: f64, b: f64, better: Better) -> Verdict {
    let (lower, higher) = match better {
        Better::Lower => (Verdict::Better, Verdict::Worse),
        Better::Higher => (Verdict::Worse, Verdict::Better),
    };
    if b > a * SAME_WITHIN {
        higher
    } else if a > b * SAME_WITHIN {
        lower
    } else {
        Verdict::Same
    }
}

/// Under what the figures were measured, as a flat map.
fn conditions(report: &Report) -> anyhow::Result<BTreeMap<String, Value>> {
    let whole = serde_json::to_value(report)?;
    let mut flat = BTreeMap::new();
    for field in ["outlast_version", "machine", "settings"] {
        if let Some(value) = whole.get(field) {
            flatten(field, value, &mut flat);
        }
    }
    Ok(flat)
}

fn flatten(name: &str, value: &Value, flat: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            fields
                .iter()
                .for_each(|(field, value)| flatten(&format!("{name}.{field}"), value, flat));
        }
        value => drop(flat.insert(name.to_owned(), value.clone())),
    }
}

fn differences(a: &BTreeMap<String, Value>, b: &BTreeMap<String, Value>) -> Vec<Difference> {
    let fields: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
    let value = |of: &BTreeMap<String, Value>, field: &String| of.get(field).cloned();
    let difference = |field: &String| {
        let (a, b) = (
            value(a, field).unwrap_or_default(),
            value(b, field).unwrap_or_default(),
        );
        (a != b).then(|| Difference {
            field: field.clone(),
            a,
            b,
        })
    };
    fields.into_iter().filter_map(difference).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::tests::lag_report;

    #[test]
    fn a_report_equals_itself() {
        let report = lag_report(Duration::from_micros(50));
        let comparison = compare(&report, &report).unwrap();
        assert!(comparison.differences.is_empty() && comparison.only_in_one.is_empty());
        assert!(comparison.rows.len() > 15);
        assert!(
            comparison
                .rows
                .iter()
                .all(|row| row.verdict == Verdict::Same)
        );
        let mut names: Vec<_> = comparison
            .rows
            .iter()
            .map(|row| (&row.name, row.unit))
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), comparison.rows.len(), "names are unique");
    }

    #[test]
    fn ratios_and_verdicts_follow_the_direction_that_is_better() {
        let (a, b) = (
            lag_report(Duration::from_micros(50)),
            lag_report(Duration::from_micros(100)),
        );
        let comparison = compare(&a, &b).unwrap();
        let row = comparison
            .rows
            .iter()
            .find(|row| row.name == "replicated p50")
            .unwrap();
        assert!(
            row.ratio.is_some_and(|ratio| (1.99..2.01).contains(&ratio)),
            "{row:?}"
        );
        assert_eq!(row.verdict, Verdict::Worse);
        assert_eq!(judge(100.0, 200.0, Better::Higher), Verdict::Better);
        assert_eq!(judge(100.0, 90.0, Better::Higher), Verdict::Worse);
        assert_eq!(judge(100.0, 104.0, Better::Lower), Verdict::Same);
        assert_eq!(judge(0.0, 0.0, Better::Lower), Verdict::Same);
        assert_eq!(judge(0.0, 1.0, Better::Lower), Verdict::Worse);
    }

    #[test]
    fn other_conditions_are_named() {
        let a = lag_report(Duration::from_micros(50));
        let Report::Lag(mut b) = a.clone() else {
            panic!("a lag report");
        };
        b.settings.rate_per_s = 5.0;
        b.settings.relay = Some("delay 1ms".to_owned());
        b.machine.file_system.kind = "xfs".to_owned();
        b.processes.clear();
        let comparison = compare(&a, &Report::Lag(b)).unwrap();
        let fields: Vec<_> = comparison
            .differences
            .iter()
            .map(|d| d.field.as_str())
            .collect();
        assert_eq!(
            fields,
            [
                "machine.file_system.kind",
                "settings.rate_per_s",
                "settings.relay"
            ]
        );
        assert_eq!(
            comparison.only_in_one,
            ["primary processor", "primary peak memory"]
        );
    }
}
