//! What goes to stdout: tables for people, JSON for programs.

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use outlast_tools::exit::Exit;

use crate::failure::Failure;

/// In which form results are written.
#[derive(Debug, Args)]
pub(crate) struct Output {
    /// The form of results on stdout
    #[arg(
        short = 'o',
        long = "output",
        global = true,
        value_name = "FORM",
        env = "OUTLAST_OUTPUT",
        default_value = "table"
    )]
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people; may change
    Table,
    /// One JSON document; stable, with a number of its schema
    Json,
    /// One JSON document a line
    Jsonl,
}

impl Output {
    /// Writes a result: `value` for programs, or what `text` makes of it for people.
    pub(crate) fn result(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let text = match self.form {
            Form::Table => text(),
            Form::Json => serde_json::to_string_pretty(value)?,
            Form::Jsonl => serde_json::to_string(value)?,
        };
        write_line(&text)
    }

    /// Writes one of a sequence of events: one line, whatever the form.
    pub(crate) fn event(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let text = match self.form {
            Form::Table => text(),
            Form::Json | Form::Jsonl => serde_json::to_string(value)?,
        };
        write_line(&text)
    }
}

fn write_line(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush());
    match written {
        Ok(()) => Ok(()),
        // Whoever read it has seen enough, as `head` has.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Ok, error))
        }
        Err(error) => Err(Failure::from(error)),
    }
}

/// A table without lines: names to the left, all other columns to the right.
pub(crate) fn table(
    header: impl IntoIterator<Item = &'static str>,
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
        if column.index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<_> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n")
}

/// A number with the digits that a reader needs.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        a if a >= 100.0 || a == 0.0 => format!("{value:.0}"),
        a if a >= 10.0 => format!("{value:.1}"),
        a if a >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_no_lines_and_its_numbers_are_to_the_right() {
        let rows = [
            vec!["a".to_owned(), "1".to_owned()],
            vec!["long".to_owned(), "1000".to_owned()],
        ];
        assert_eq!(
            table(["name", "us"], rows),
            "name    us\na        1\nlong  1000"
        );
    }

    #[test]
    fn numbers_have_about_three_digits() {
        let numbers: Vec<_> = [0.0, 0.1234, 1.234, 56.78, 1234.5].map(number).to_vec();
        assert_eq!(numbers, ["0", "0.123", "1.23", "56.8", "1234"]);
    }
}
