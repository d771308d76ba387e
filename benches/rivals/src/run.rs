//! A run: every stage of every engine in its turn, each in a process of its own.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use outlast_tools::machine::{Machine, load_1min};
use tempfile::TempDir;

use crate::engine::Kind;
use crate::job::{Heat, Job, Message, Shape, Stage};
use crate::memory::{MemoryGroup, forget_cached};
use crate::results::{FLOOR, Line, Row, Run};
use crate::settings::{Settings, Sizes};
use crate::workload::load::COMPACT;
use crate::workload::{overwrite, read};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    sizes: Sizes,
    /// The engines to measure; all by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    engines: Vec<Kind>,
    /// The workloads to measure; all by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Group>,
    /// Where their files are made, and removed; on the file system that matters.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// A control group's directory in which groups may be made that limit memory.
    #[arg(long)]
    memory_group: Option<PathBuf>,
    /// Where the results go.
    #[arg(long, default_value = "rivals.jsonl")]
    out: PathBuf,
}

/// Workloads that share their data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Small durable commits, and the floors below them.
    Commits,
    /// Loading, reading, compacting and opening.
    Data,
    /// Overwriting until the steady state.
    Overwrite,
}

/// Measures what the arguments say.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let settings = arguments.sizes.settings();
    let engines = crate::or_all(arguments.engines);
    let only = if arguments.only.is_empty() {
        Group::value_variants().to_vec()
    } else {
        arguments.only
    };
    let out = File::create(&arguments.out)
        .with_context(|| format!("cannot write {}", arguments.out.display()))?;
    let mut conductor = Conductor {
        settings,
        dir: arguments.dir,
        memory_group: arguments.memory_group,
        out: BufWriter::new(out),
        round: 0,
        began: Instant::now(),
        failures: 0,
    };
    conductor.begin(&engines)?;
    for round in 1..=settings.rounds {
        conductor.round = round;
        // Another engine is the first in every round.
        let mut engines = engines.clone();
        let first = (round - 1) % engines.len().max(1);
        engines.rotate_left(first);
        for group in &only {
            match group {
                Group::Commits => conductor.commits(&engines)?,
                Group::Data => conductor.data(&engines)?,
                Group::Overwrite => conductor.overwrite(&engines)?,
            }
        }
    }
    let failures = conductor.failures;
    ensure!(
        failures == 0,
        "{failures} stages failed; the rest is in the results"
    );
    Ok(())
}

struct Conductor {
    settings: Settings,
    dir: PathBuf,
    memory_group: Option<PathBuf>,
    out: BufWriter<File>,
    round: usize,
    began: Instant,
    failures: usize,
}

/// An engine and its files, for stages that follow one another.
struct Subject {
    kind: Kind,
    dir: TempDir,
    /// What cannot be asked of it any more, because an earlier stage could not be done.
    spoilt: Option<String>,
}

impl Conductor {
    fn begin(&mut self, engines: &[Kind]) -> Result<()> {
        fs::create_dir_all(&self.dir)?;
        let versions = engines.iter().map(|kind| (kind.name(), kind.version()));
        let run = Run {
            began_at: jiff::Timestamp::now().to_string(),
            machine: Machine::describe(&self.dir)?,
            load_1min_before: load_1min(),
            settings: self.settings,
            memory_group: self
                .memory_group
                .as_ref()
                .map(|dir| dir.display().to_string()),
            versions: versions.collect(),
        };
        self.write(&Line::Run(Box::new(run)))
    }

    fn commits(&mut self, engines: &[Kind]) -> Result<()> {
        let dir = self.new_dir()?;
        self.job(None, Stage::Commits, dir.path(), None)?;
        self.fresh(engines, Stage::Commits)
    }

    fn overwrite(&mut self, engines: &[Kind]) -> Result<()> {
        for value_bytes in overwrite::VALUE_SIZES {
            self.fresh(engines, Stage::Overwrite(value_bytes))?;
        }
        Ok(())
    }

    /// One stage in an empty directory of each.
    fn fresh(&mut self, engines: &[Kind], stage: Stage) -> Result<()> {
        for &kind in engines {
            let dir = self.new_dir()?;
            self.job(Some(kind), stage, dir.path(), None)?;
        }
        Ok(())
    }

    fn data(&mut self, engines: &[Kind]) -> Result<()> {
        self.fresh(engines, Stage::LoadSorted)?;
        let subject = |&kind| {
            Ok(Subject {
                kind,
                dir: self.new_dir()?,
                spoilt: None,
            })
        };
        let mut subjects: Vec<_> = engines.iter().map(subject).collect::<Result<_>>()?;
        self.stage(&mut subjects, Stage::Load)?;
        self.reads(&mut subjects, Shape::Loaded)?;
        self.stage(&mut subjects, Stage::OpenClean)?;
        self.stage(&mut subjects, Stage::Compact)?;
        self.reads(&mut subjects, Shape::Compacted)?;
        // What was not compacted can be killed like the rest.
        subjects
            .iter_mut()
            .for_each(|subject| subject.spoilt = None);
        self.stage(&mut subjects, Stage::Crash)?;
        self.stage(&mut subjects, Stage::OpenKilled)
    }

    fn stage(&mut self, subjects: &mut [Subject], stage: Stage) -> Result<()> {
        for subject in subjects
            .iter_mut()
            .filter(|subject| subject.spoilt.is_none())
        {
            let rows = self.job(Some(subject.kind), stage, subject.dir.path(), None)?;
            subject.spoilt = rows
                .into_iter()
                .find(|row| row.workload == COMPACT)
                .and_then(|row| row.unavailable);
        }
        Ok(())
    }

    fn reads(&mut self, subjects: &mut [Subject], shape: Shape) -> Result<()> {
        for heat in [Heat::Warm, Heat::Limited] {
            for subject in &*subjects {
                let spoilt = subject.spoilt.clone();
                let why = spoilt.or_else(|| self.unlimited(heat));
                if let Some(why) = why {
                    for workload in read::workloads(shape, heat) {
                        let row = Row::unavailable(workload, &why);
                        self.row(&subject.kind.name(), row)?;
                    }
                    continue;
                }
                let group = self.group(heat, subject.dir.path())?;
                let (kind, dir) = (Some(subject.kind), subject.dir.path());
                self.job(kind, Stage::Read(shape, heat), dir, group.as_ref())?;
            }
        }
        Ok(())
    }

    /// Why reads with little memory cannot be measured.
    fn unlimited(&self, heat: Heat) -> Option<String> {
        /// Less holds no process.
        const MEMORY_MIN: u64 = 32 << 20;
        if heat == Heat::Warm {
            return None;
        }
        if self.memory_group.is_none() {
            return Some("no --memory-group was given".to_owned());
        }
        let too_small = self.settings.memory_limit_bytes() < MEMORY_MIN;
        too_small.then(|| "a quarter of the data holds no process".to_owned())
    }

    fn group(&self, heat: Heat, dir: &Path) -> Result<Option<MemoryGroup>> {
        let Some(parent) = self.memory_group.as_ref().filter(|_| heat == Heat::Limited) else {
            return Ok(None);
        };
        forget_cached(dir)?;
        let limit_bytes = self.settings.memory_limit_bytes();
        Ok(Some(MemoryGroup::create(parent, limit_bytes)?))
    }

    /// Starts a process for one stage and writes down what it tells.
    fn job(
        &mut self,
        engine: Option<Kind>,
        stage: Stage,
        dir: &Path,
        group: Option<&MemoryGroup>,
    ) -> Result<Vec<Row>> {
        let name = engine.map_or_else(|| FLOOR.to_owned(), Kind::name);
        let (round, seconds) = (self.round, self.began.elapsed().as_secs());
        eprintln!("{seconds:>6} s  round {round}  {name:<8} {}", stage.name());
        let job = Job {
            engine,
            stage,
            dir: dir.to_owned(),
            settings: self.settings,
            memory_group: group.map(|group| group.dir().to_owned()),
        };
        let mut rows = Vec::new();
        if let Err(error) = listen(&job, &mut rows) {
            eprintln!("{name} {}: {error:#}", stage.name());
            self.failures += 1;
            rows.push(Row::unavailable(stage.name(), format!("failed: {error:#}")));
        }
        for row in &rows {
            self.row(&name, row.clone())?;
        }
        Ok(rows)
    }

    fn row(&mut self, engine: &str, row: Row) -> Result<()> {
        let row = Row {
            engine: engine.to_owned(),
            round: self.round,
            ..row
        };
        self.write(&Line::Row(row))
    }

    fn write(&mut self, line: &Line) -> Result<()> {
        serde_json::to_writer(&mut self.out, line)?;
        self.out.write_all(b"\n")?;
        // A run takes hours: what there is of it can be read.
        Ok(self.out.flush()?)
    }

    fn new_dir(&self) -> Result<TempDir> {
        let dir = tempfile::Builder::new()
            .prefix("rivals-")
            .tempdir_in(&self.dir);
        dir.with_context(|| format!("cannot make a directory in {}", self.dir.display()))
    }
}

/// Hears a process out, and kills it when it says that it is time.
fn listen(job: &Job, rows: &mut Vec<Row>) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("job").arg(serde_json::to_string(job)?);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = outlast_tools::child::end_with_this(&mut command).spawn()?;
    let output = child.stdout.take().context("it has an output")?;
    let mut asked_to_kill = false;
    let mut heard = BTreeSet::new();
    for line in BufReader::new(output).lines() {
        match serde_json::from_str(&line?)? {
            Message::Kill => {
                child.kill()?;
                asked_to_kill = true;
            }
            Message::Row(row) => {
                ensure!(
                    heard.insert(row.workload.clone()),
                    "{} came twice",
                    row.workload
                );
                rows.push(row);
            }
        }
    }
    let status = child.wait()?;
    if !status.success() && !asked_to_kill {
        bail!("its process ended with {status}");
    }
    Ok(())
}
