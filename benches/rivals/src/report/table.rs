//! Markdown.

use std::fmt::Write;

use super::{Cell, Remark, Results, Section, TableLine, number};
use crate::job::mib;
use crate::results::Run;

/// What was measured on what.
pub(super) fn head(run: &Run) -> String {
    let Run {
        machine, settings, ..
    } = run;
    let mut text = String::from("## Beside other engines\n\n");
    let mut line = |what: String| text += &format!("- {what}\n");
    line(format!(
        "Begun {}, load {} before. {} cores ({}), {:.0} GiB, Linux {}, {} on {} ({}).",
        run.began_at,
        run.load_1min_before,
        machine.cores,
        machine.cpu_model,
        mib(machine.memory_bytes) / 1024.0,
        machine.kernel,
        machine.file_system.kind,
        machine.file_system.device,
        machine.file_system.options,
    ));
    line(format!(
        "{} keys of 16 B with 128 B; rows of {} ms; overwriting {:.0} MiB; caches of {:.0} MiB; \
         {}.",
        settings.keys,
        settings.row_ms,
        mib(settings.overwrite_bytes),
        mib(settings.cache_bytes),
        if settings.rounds == 1 {
            "one round".to_owned()
        } else {
            format!("medians of {} rounds (lowest - highest)", settings.rounds)
        },
    ));
    for (name, version) in &run.versions {
        line(format!("{name}: {version}."));
    }
    text
}

/// One table.
pub(super) fn section(section: &Section, lines: &[TableLine], columns: &[String]) -> String {
    let floor = lines
        .iter()
        .any(|line| line.cells.iter().take(1).any(Option::is_some));
    let skipped = usize::from(!floor);
    let mut text = format!("\n### {}\n\n| |", section.title);
    for column in columns.iter().skip(skipped) {
        text += &format!(" {column} |");
    }
    text += "\n|---|";
    text += &"---|".repeat(columns.len() - skipped);
    for line in lines {
        text += "\n| ";
        text += &line.workload;
        if section.figures.len() > 1 {
            text += &format!(", {}", line.figure);
        }
        text += " |";
        let best = line.best();
        for (column, cell) in line.cells.iter().enumerate().skip(skipped) {
            text += &match cell {
                Some(cell) if best == Some(column) => format!(" **{}** |", shown(cell)),
                Some(cell) => format!(" {} |", shown(cell)),
                None if column == 0 => " |".to_owned(),
                None => " n/a |".to_owned(),
            };
        }
    }
    text + "\n"
}

fn shown(cell: &Cell) -> String {
    let mut text = number(cell.median);
    if cell.rounds > 1 {
        // Writing to a text does not fail.
        let _ = write!(text, " ({} - {})", number(cell.min), number(cell.max));
    }
    text
}

/// How what was measured was done, and why the rest was not.
pub(super) fn notes(results: &Results) -> String {
    let mut text = String::from("\nNot available:\n\n");
    text += &list(&results.remarks(|row| row.unavailable.as_ref()));
    text += "\nIn which way, where there are several:\n\n";
    text + &list(&results.remarks(|row| row.way.as_ref()))
}

fn list(remarks: &[Remark<'_>]) -> String {
    let line = |remark: &Remark<'_>| {
        let (engines, workloads) = (remark.engines.join(", "), remark.workloads.join(", "));
        format!("- {engines}: {} ({workloads})\n", remark.remark)
    };
    remarks.iter().map(line).collect()
}
