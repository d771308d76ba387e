//! `outlast dump`: what lies in the files of a log, for people.

mod print;
#[cfg(test)]
mod tests;
mod walk;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use outlast_engine::{About, Lsn};
use outlast_tools::exit::Exit;

use crate::Global;
use crate::failure::Failure;
use walk::{Fault, Walk};

/// Show the segments of a log and the frames in them
///
/// Reads files and nothing else: no node need run, one that runs is not disturbed, and nothing is
/// written. Every frame that is shown was checked: its checksums, and that it continues the frame
/// before. Ends at the first bytes that should hold and do not, names them, and exits with 5.
///
/// What a crash may leave behind the last frame of the last segment is no fault; `outlast serve`
/// cuts it. Whatever a running node writes meanwhile may or may not be shown.
///
/// Of a node's own log, what it has fetched back from its peer after a crash is listed first: those
/// bytes it did not form itself, though its own epochs cover them.
#[derive(Debug, Args)]
pub(crate) struct Dump {
    /// A segment file; without it, all of the node that --dir names
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Also show the records in each frame
    #[arg(long)]
    records: bool,
    /// Only frames that end after this position
    #[arg(
        long,
        default_value = "0",
        hide_default_value = true,
        value_name = "LSN"
    )]
    from: Lsn,
    /// Only frames that begin before this position
    #[arg(long, value_name = "LSN")]
    to: Option<Lsn>,
}

impl Dump {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let (files, about) = match &self.file {
            Some(file) => (vec![file.clone()], None),
            None => files_of(&global.dir()?)?,
        };
        let whole = self.file.is_none();
        let mut printer = print::Printer::new(&global.output, self.records);
        for range in about.iter().flat_map(|about| &about.received) {
            printer.received(range)?;
        }
        let mut walk = Walk::new(about, self.from..self.to.unwrap_or(Lsn(u64::MAX)));
        for file in &files {
            let bytes = std::fs::read(file).with_context(|| format!("read {}", file.display()));
            let bytes = bytes.map_err(|error| Failure::new(Exit::NotReachable, error))?;
            match walk.segment(file, bytes.into(), whole, &mut |item| printer.item(&item)) {
                Ok(()) => {}
                Err(walk::Stop::Fault(fault)) => return Err(corrupt(&fault)),
                Err(walk::Stop::Printing(failure)) => return Err(failure),
            }
        }
        Ok(Exit::Ok)
    }
}

fn corrupt(fault: &Fault) -> Failure {
    let failure = Failure::new(Exit::Corruption, anyhow::anyhow!("{fault}"));
    failure.hint("nothing was changed; `outlast check` names every fault and its repair")
}

/// The segments of a node in order, and what the directory says of the node.
fn files_of(dir: &Path) -> Result<(Vec<PathBuf>, Option<About>), Failure> {
    let about = outlast_engine::about(dir)
        .map_err(|error| Failure::new(Exit::Usage, error).hint("name a node with --dir DIR"))?;
    let log = dir.join("log");
    let listed = std::fs::read_dir(&log).with_context(|| format!("list {}", log.display()));
    let mut files = Vec::new();
    for entry in listed.map_err(|error| Failure::new(Exit::NotReachable, error))? {
        let path = entry.context("list the segments")?.path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            files.push(path);
        }
    }
    // Their names are ordinals of one width.
    files.sort_unstable();
    Ok((files, Some(about)))
}
