//! What the disk can do at best, under the names of the workloads that it bounds.

use anyhow::{Context, Result};
use outlast_tools::floor::{FloorFile, FloorSettings, Mode};
use outlast_tools::summary::LatencySummary;

use super::commit::{LONE_BYTES, lone, threads};
use crate::job::{Job, Message};
use crate::results::Row;
use crate::settings::{THREADS, VALUE_BYTES, record_bytes};

const MODES: [Mode; 2] = [Mode::Buffered, Mode::Direct];
const APPEND_BYTES: usize = 4096;

/// Raw appends of 4 KiB over zeros beside lone writers, the bare group commit beside threads; the
/// better way to the disk of the two.
pub(crate) fn measure(job: &Job) -> Result<()> {
    let appends = floor_file(job, 1)?;
    let append = best(|mode| {
        let floor = appends.append(mode, APPEND_BYTES)?;
        Ok((floor.writes_per_s, floor.latency))
    });
    for bytes in LONE_BYTES {
        say(lone(bytes), append.as_ref())?;
    }
    for count in THREADS {
        let file = floor_file(job, count)?;
        let commits = best(|mode| {
            let floor = file.group_commit(mode)?;
            Ok((floor.commits_per_s, floor.latency))
        });
        say(threads(count), commits.as_ref())?;
    }
    Ok(())
}

fn floor_file(job: &Job, threads: usize) -> Result<FloorFile> {
    FloorFile::create(FloorSettings {
        writes_max: u64::MAX,
        row_time: job.settings.row_time(),
        threads,
        record_bytes: usize::try_from(record_bytes(VALUE_BYTES))?,
        ..FloorSettings::usual(job.dir.clone())
    })
}

type Measured = (Mode, f64, LatencySummary);

/// Not every file system has both ways.
fn best(measure: impl Fn(Mode) -> Result<(f64, LatencySummary)>) -> Option<Measured> {
    let measured = MODES.into_iter().filter_map(|mode| {
        let (per_s, latency) = measure(mode).ok()?;
        Some((mode, per_s, latency))
    });
    measured.max_by(|a, b| a.1.total_cmp(&b.1))
}

fn say(workload: String, best: Option<&Measured>) -> Result<()> {
    let (mode, per_s, latency) = best.context("nothing can be appended")?;
    let row = Row::of(workload)
        .figure("per_s", *per_s)
        .latency(latency)
        .way(mode.to_string());
    Message::Row(row).say()
}
