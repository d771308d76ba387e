//! One stage of one engine in a process of its own, so that memory and a kill are its alone.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::engine::{Engine, Kind};
use crate::memory::{self, MemoryGroup};
use crate::results::Row;
use crate::settings::Settings;
use crate::workload;

/// What a process is started for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    /// The engine; none for the floor.
    pub(crate) engine: Option<Kind>,
    /// What to do with it.
    pub(crate) stage: Stage,
    /// Where its files are.
    pub(crate) dir: PathBuf,
    /// The sizes.
    pub(crate) settings: Settings,
    /// The group that limits its memory.
    pub(crate) memory_group: Option<PathBuf>,
}

/// What is done between an opening and a close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    /// Small durable commits into a new store.
    Commits,
    /// Loads everything in order into a new store.
    LoadSorted,
    /// Loads everything in no order into a new store.
    Load,
    /// Reads what was loaded.
    Read(Shape, Heat),
    /// Compacts what was loaded.
    Compact,
    /// Opens what was closed.
    OpenClean,
    /// Overwrites a few records durably and waits to be killed.
    Crash,
    /// Opens what was killed.
    OpenKilled,
    /// Overwrites a new store again and again, values of so many bytes.
    Overwrite(usize),
    /// So many lone durable puts, and nothing else.
    Puts(u64),
}

/// What was done to the data since it was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Shape {
    Loaded,
    Compacted,
}

/// Whether all data is in memory, or has no place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Heat {
    Warm,
    Limited,
}

impl Shape {
    /// Its part of a workload's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::Compacted => "compacted",
        }
    }
}

impl Heat {
    /// Its part of a workload's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Limited => "limited",
        }
    }
}

impl Stage {
    /// The name under which its use of memory is reported.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Commits => "commits".to_owned(),
            Self::LoadSorted => "load-sorted".to_owned(),
            Self::Load => "load".to_owned(),
            Self::Read(shape, heat) => format!("read-{}-{}", heat.name(), shape.name()),
            Self::Compact => "compact".to_owned(),
            Self::OpenClean => "open-clean".to_owned(),
            Self::Crash => "crash".to_owned(),
            Self::OpenKilled => "open-killed".to_owned(),
            Self::Overwrite(bytes) => format!("overwrite-{bytes}"),
            Self::Puts(count) => format!("puts-{count}"),
        }
    }
}

/// What a job says to who started it, a line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    /// Something was measured.
    Row(Row),
    /// It is time to kill.
    Kill,
}

impl Message {
    /// Says it.
    pub(crate) fn say(&self) -> Result<()> {
        let mut output = io::stdout().lock();
        serde_json::to_writer(&mut output, self)?;
        output.write_all(b"\n")?;
        Ok(output.flush()?)
    }
}

impl Job {
    /// Opens the engine.
    pub(crate) fn open(&self, kind: Kind) -> Result<Box<dyn Engine>> {
        // Where memory is limited, a cache of its own takes a part of that.
        let limited = self.memory_group.is_some();
        let cache_bytes = if limited {
            self.settings.memory_limit_bytes() / 4
        } else {
            self.settings.cache_bytes
        };
        kind.open(&self.dir, cache_bytes, limited)
    }
}

/// Does what a job says, and tells on standard output what was measured.
pub(crate) fn perform(job: &str) -> Result<()> {
    outlast_tools::child::end_with_parent()?;
    let job: Job = serde_json::from_str(job)?;
    if let Some(group) = &job.memory_group {
        MemoryGroup::enter(group)?;
    }
    let Some(kind) = job.engine else {
        return workload::floor::measure(&job);
    };
    let (result, peak) = memory::watched(|| match job.stage {
        Stage::Commits => workload::commit::measure(&job, kind),
        Stage::LoadSorted => workload::load::sorted(&job, kind),
        Stage::Load => workload::load::unsorted(&job, kind),
        Stage::Read(shape, heat) => workload::read::measure(&job, kind, shape, heat),
        Stage::Compact => workload::load::compact(&job, kind),
        Stage::OpenClean => workload::open::clean(&job, kind),
        Stage::Crash => workload::open::crash(&job, kind),
        Stage::OpenKilled => workload::open::killed(&job, kind),
        Stage::Overwrite(value_bytes) => workload::overwrite::measure(&job, kind, value_bytes),
        Stage::Puts(count) => workload::commit::puts(&job, kind, count),
    });
    result?;
    let row = Row::of(format!("memory/{}", job.stage.name()))
        .figure("peak_rss_mib", mib(peak.resident))
        .figure("peak_anonymous_mib", mib(peak.anonymous));
    Message::Row(row).say()
}

/// Bytes as MiB.
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
