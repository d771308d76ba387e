//! `outlast repair`: mending what `outlast check` names.

use std::path::PathBuf;

use clap::Args;
use outlast_engine::Repaired;
use outlast_tools::exit::Exit;
use serde_json::json;

use super::check::{fault_value, faults_table};
use crate::Global;
use crate::failure::Failure;
use crate::node::failed;

/// Mend damaged files of a node that does not run
///
/// The two nodes of a pair hold equal bytes, so the directory of the other node, a copy of it or a
/// backup of either has what is missing: name it with --from. Every frame is checked against the
/// chain from the beginning of the log before anything is replaced, and the old files are kept
/// under `aside/`. Headers, footers, the manifest and the mark need no copy.
///
/// Exits with 0 when nothing damaged is left, with 5 when nothing could be mended, with 6 when some
/// was, with 4 while the node runs.
#[derive(Debug, Args)]
pub(crate) struct Repair {
    /// The directory of the other node (running or not), a copy of it, or a backup
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Say what would be done, and write nothing
    #[arg(long)]
    dry_run: bool,
}

impl Repair {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let dir = global.dir()?;
        let report = outlast_engine::repair(&dir, self.from.as_deref(), self.dry_run)
            .map_err(|error| failed(error.into()))?;
        let value = json!({
            "schema": 1,
            "dir": dir,
            "dry_run": self.dry_run,
            "repaired": report.repaired,
            "left": report.left.iter().map(fault_value).collect::<Vec<_>>(),
        });
        global.output.result(&value, || {
            let mut lines: Vec<_> = report
                .repaired
                .iter()
                .map(|repaired| line(repaired, self.dry_run))
                .collect();
            if report.left.is_empty() {
                lines.push("no damage is left".to_owned());
                lines.push(format!("next     outlast serve --dir {}", dir.display()));
            } else {
                lines.push(faults_table(&report.left));
                let next = format!("outlast repair --dir {} --from DIR", dir.display());
                lines.push(format!(
                    "next     {next} (a copy that holds what is missing)"
                ));
            }
            lines.join("\n")
        })?;
        Ok(match (report.left.is_empty(), report.repaired.is_empty()) {
            (true, _) => Exit::Ok,
            (false, true) => Exit::Corruption,
            (false, false) => Exit::Partial,
        })
    }
}

fn line(repaired: &Repaired, dry_run: bool) -> String {
    let verb = if dry_run { "would mend" } else { "mended" };
    let mut line = format!("{verb} {}", repaired.file);
    if !repaired.ranges.is_empty() {
        let ranges: Vec<_> = repaired.ranges.iter().map(ToString::to_string).collect();
        line += &format!(", {} from the copy", ranges.join(", "));
    }
    if let Some(aside) = &repaired.aside {
        line += &format!("; the old file is {aside}");
    }
    line
}
