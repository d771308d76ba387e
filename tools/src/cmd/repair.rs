//! `outlast repair`: mending what `outlast check` names.

use std::path::{Path, PathBuf};

use clap::Args;
use outlast_engine::format::LsnRange;
use outlast_engine::{LackKind, Repaired};
use outlast_standby::control::protocol::{Ask, Reply};
use outlast_standby::{Repair as Report, RepairFrom, RepairOptions, repair_offline};
use outlast_tools::exit::Exit;
use serde_json::{Value, json};

use super::check::{fault_value, faults_table};
use crate::Global;
use crate::failure::Failure;
use crate::node::{failed, unexpected};

/// Mend damaged files of a node
///
/// The two nodes of a pair hold equal bytes, so the other node has what is missing. With
/// --from-peer it is asked over the network, for exactly the damaged ranges: it must run, in
/// whatever role. With --from its directory, a copy of it or a backup is read. Every frame is
/// checked against the chain from the beginning of the log before anything is replaced, and the old
/// files are kept under `aside/`. Headers, footers, the manifest and the mark need neither.
///
/// Works on the directory when no process runs the node. A node that runs mends its own sealed
/// segments and goes on meanwhile; for the rest it must be stopped.
///
/// Exits with 0 when nothing damaged is left, with 5 when nothing could be mended, with 6 when some
/// was, with 4 when the peer does not give or holds another history, with 3 when it cannot be
/// reached.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  outlast repair --from-peer --dry-run
  outlast repair --from-peer
  outlast repair --from /mnt/backup/pangyo-b")]
pub(crate) struct Repair {
    /// Fetch what is missing from the other node, which must run
    #[arg(long, conflicts_with = "from")]
    from_peer: bool,
    /// The directory of the other node (running or not), a copy of it, or a backup
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Fetch and check what is missing, say what would be done, and write nothing
    #[arg(long)]
    dry_run: bool,
}

impl Repair {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let dir = global.dir()?;
        let from = match &self.from {
            // Another process may stand in another directory.
            Some(copy) => RepairFrom::Copy(std::path::absolute(copy)?),
            None if self.from_peer => RepairFrom::Peer,
            None => RepairFrom::Nowhere,
        };
        let again = match &from {
            RepairFrom::Copy(copy) => format!(" --from {}", copy.display()),
            RepairFrom::Peer => " --from-peer".to_owned(),
            _ => String::new(),
        };
        let options = RepairOptions {
            from,
            dry_run: self.dry_run,
        };
        let done = match global.running()? {
            Some(mut client) => match client.ask_one(Ask::Repair(options)).map_err(failed)? {
                Reply::Repaired(done) => *done,
                other => return Err(unexpected(&other)),
            },
            None => repair_offline(&dir, &options).map_err(failed)?,
        };
        global
            .output
            .result(&value(&done, &dir, &again), || text(&done, &dir, &again))?;
        let report = &done.report;
        let forked = |kind| kind == LackKind::OtherHistory;
        Ok(match (report.left.is_empty(), report.repaired.is_empty()) {
            (true, _) => Exit::Ok,
            (false, true) if report.lacks.iter().any(|lack| forked(lack.kind)) => Exit::Refused,
            (false, true) => Exit::Corruption,
            (false, false) => Exit::Partial,
        })
    }
}

fn value(done: &Report, dir: &Path, again: &str) -> Value {
    let ranges = done.report.repaired.iter().flat_map(|file| &file.ranges);
    let fetched: u64 = ranges.map(LsnRange::len_bytes).sum();
    json!({
        "schema": 1,
        "dir": dir,
        "running": done.running,
        "dry_run": done.dry_run,
        "from": done.from,
        "fetched_bytes": fetched,
        "repaired": done.report.repaired,
        "left": done.report.left.iter().map(fault_value).collect::<Vec<_>>(),
        "lacks": done.report.lacks,
        "next": next(done, dir, again),
    })
}

fn text(done: &Report, dir: &Path, again: &str) -> String {
    let report = &done.report;
    let mut lines: Vec<_> = report
        .repaired
        .iter()
        .map(|repaired| line(repaired, done))
        .collect();
    lines.extend(report.lacks.iter().map(ToString::to_string));
    if report.left.is_empty() {
        lines.push(if done.running {
            "no damage is left in sealed segments".to_owned()
        } else {
            "no damage is left".to_owned()
        });
    } else {
        lines.push(faults_table(&report.left));
    }
    if let Some(next) = next(done, dir, again) {
        lines.push(format!("next     {next}"));
    }
    lines.join("\n")
}

/// What to type next; `again` is where this repair was told to take frames from.
fn next(done: &Report, dir: &Path, again: &str) -> Option<String> {
    let report = &done.report;
    let dir = dir.display();
    let from = match &done.from {
        Some(_) => "--from DIR (a copy or backup that holds what is missing)",
        None => "--from-peer (or --from DIR: a copy or backup that holds what is missing)",
    };
    if !report.left.is_empty() {
        return Some(format!("outlast repair --dir {dir} {from}"));
    }
    if done.dry_run && !report.repaired.is_empty() {
        return Some(format!("outlast repair --dir {dir}{again}"));
    }
    (!done.running).then(|| format!("outlast serve --dir {dir}"))
}

fn line(repaired: &Repaired, done: &Report) -> String {
    let verb = if done.dry_run { "would mend" } else { "mended" };
    let mut line = format!("{verb} {}", repaired.file);
    if !repaired.ranges.is_empty() {
        let ranges: Vec<_> = repaired.ranges.iter().map(ToString::to_string).collect();
        let from = done.from.as_deref().unwrap_or("the copy");
        line += &format!(", {} from {from}", ranges.join(", "));
    }
    if let Some(aside) = &repaired.aside {
        line += &format!("; the old file is {aside}");
    }
    line
}
