//! `outlast bench compare`: two reports side by side.

use std::path::PathBuf;

use clap::Args;
use outlast_tools::exit::Exit;
use outlast_tools::report::{Comparison, Report, Row, Verdict, compare};

use crate::Global;
use crate::failure::Failure;
use crate::output::{number, table};

/// Compare two reports, figure by figure
///
/// Both must be of one kind, as `-o json` writes them. A figure counts as better or worse when it
/// differs by more than 5 %. What differs about machine and settings comes first.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  outlast bench compare before.json after.json")]
pub(crate) struct Compare {
    /// The report to compare with
    a: PathBuf,
    /// The report to judge
    b: PathBuf,
}

impl Compare {
    pub(super) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let usage = |error| Failure::new(Exit::Usage, error);
        let read = |path| {
            Report::read(path).map_err(usage).map_err(|failure| {
                failure.hint("a report is what `outlast bench floors -o json` writes to stdout")
            })
        };
        let comparison = compare(&read(&self.a)?, &read(&self.b)?).map_err(usage)?;
        global.output.result(&comparison, || text(&comparison))?;
        Ok(Exit::Ok)
    }
}

fn text(comparison: &Comparison) -> String {
    let mut text = String::new();
    if !comparison.differences.is_empty() {
        let rows = comparison.differences.iter();
        let cells = |value: &serde_json::Value| match value {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let rows = rows.map(|row| vec![row.field.clone(), cells(&row.a), cells(&row.b)]);
        text += &table(["measured under other conditions", "a", "b"], rows);
        text += "\n\n";
    }
    text += &table(
        ["", "unit", "a", "b", "b / a", ""],
        comparison.rows.iter().map(cells),
    );
    if !comparison.only_in_one.is_empty() {
        text += &format!(
            "\n\nonly in one of them: {}",
            comparison.only_in_one.join(", ")
        );
    }
    text
}

fn cells(row: &Row) -> Vec<String> {
    let ratio = row
        .ratio
        .map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    let verdict = match row.verdict {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::Same => "",
    };
    let (a, b) = (number(row.a), number(row.b));
    vec![
        row.name.clone(),
        row.unit.to_owned(),
        a,
        b,
        ratio,
        verdict.to_owned(),
    ]
}
