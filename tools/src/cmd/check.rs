//! `outlast check`: every fault of a node's files, by name.

use std::path::Path;

use clap::Args;
use outlast_engine::{CheckReport, Fault, Remedy};
use outlast_tools::exit::Exit;
use serde_json::{Value, json};

use crate::Global;
use crate::failure::Failure;
use crate::node::failed;
use crate::output::table;

/// Look for damage in the files of a node that does not run
///
/// Reads everything and writes nothing. Every fault is named: its file, where in the file, which
/// positions of the log do not hold, and what mends it. What a crash leaves behind the end of the
/// log is shown and is no fault.
///
/// Exits with 5 when something is damaged, with 0 when nothing is, with 4 while the node runs.
#[derive(Debug, Args)]
pub(crate) struct Check {}

impl Check {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let dir = global.dir()?;
        let report = outlast_engine::check(&dir).map_err(|error| failed(error.into()))?;
        global
            .output
            .result(&value(&report, &dir), || text(&report, &dir))?;
        Ok(if report.is_damaged() {
            Exit::Corruption
        } else {
            Exit::Ok
        })
    }
}

fn value(report: &CheckReport, dir: &Path) -> Value {
    json!({
        "schema": 1,
        "dir": dir,
        "cluster": report.cluster,
        "node": report.node,
        "segments": report.segments,
        "end_lsn": report.end,
        "vouched_lsn": report.vouched,
        "damaged": report.is_damaged(),
        "faults": report.faults.iter().map(fault_value).collect::<Vec<_>>(),
        "next": next(&report.faults, dir),
    })
}

/// A fault as programs read it.
pub(crate) fn fault_value(fault: &Fault) -> Value {
    json!({
        "kind": fault.kind,
        "damage": !fault.kind.is_of_a_crash(),
        "file": fault.file,
        "offset_bytes": fault.offset,
        "len_bytes": fault.len_bytes,
        "from_lsn": fault.range.map(|range| range.start),
        "to_lsn": fault.range.map(|range| range.end),
        "what": fault.what,
        "remedy": fault.remedy,
    })
}

fn text(report: &CheckReport, dir: &Path) -> String {
    let mut text = format!(
        "{}: {} segments, the log holds up to {}\n",
        dir.display(),
        report.segments,
        report.end
    );
    if report.faults.is_empty() {
        return text + "no faults";
    }
    text += &faults_table(&report.faults);
    if let Some(next) = next(&report.faults, dir) {
        text += &format!("\nnext     {next}");
    }
    text
}

/// Faults as people read them.
pub(crate) fn faults_table(faults: &[Fault]) -> String {
    let row = |fault: &Fault| {
        let remedy = match fault.remedy {
            Remedy::Start => "next start",
            Remedy::Repair => "repair",
            Remedy::Restore => "restore",
            _ => "repair --from-peer",
        };
        vec![
            fault.kind.to_string(),
            fault.file.clone(),
            fault.offset.to_string(),
            fault.len_bytes.to_string(),
            fault
                .range
                .map_or_else(|| "-".to_owned(), |range| range.to_string()),
            remedy.to_owned(),
            fault.what.clone(),
        ]
    };
    let header = [
        "fault",
        "file",
        "offset",
        "bytes",
        "lsn",
        "mended by",
        "found",
    ];
    table(header, faults.iter().map(row))
}

/// The command that mends all of it.
fn next(faults: &[Fault], dir: &Path) -> Option<String> {
    let dir = dir.display();
    let needs = |remedy| {
        faults
            .iter()
            .any(|fault| !fault.kind.is_of_a_crash() && fault.remedy == remedy)
    };
    if needs(Remedy::Restore) {
        return Some(format!(
            "make this node again: outlast checkpoint --dir OTHER --to BACKUP on the other node, then \
             outlast restore --from BACKUP --to a new directory; keep {dir} until it runs"
        ));
    }
    if needs(Remedy::RepairFrom) {
        return Some(format!(
            "outlast repair --dir {dir} --from-peer (where the other node runs; else --from DIR: its \
             directory, or a backup)"
        ));
    }
    if needs(Remedy::Repair) {
        return Some(format!("outlast repair --dir {dir}"));
    }
    (!faults.is_empty()).then(|| format!("outlast serve --dir {dir}"))
}
