//! Outlast beside the engines that a developer would take instead: the same workloads, the same
//! durability, one run. See README.md.

mod data;
mod engine;
mod job;
mod memory;
mod report;
mod results;
mod run;
mod settings;
mod syncs;
mod wait;
mod workload;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use engine::Kind;

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures, and writes JSON lines.
    Run(run::Arguments),
    /// Writes tables and bar charts from the JSON lines of a run.
    Report(report::Arguments),
    /// Shows by strace that each engine syncs what it commits before it says so.
    Syncs {
        /// The engines to look at; all by default.
        #[arg(long, value_enum, value_delimiter = ',')]
        engines: Vec<Kind>,
        /// Where their files are made; on the file system that matters.
        #[arg(long, default_value = ".")]
        dir: PathBuf,
    },
    /// What a process of its own does for a run; started by the others.
    #[command(hide = true)]
    Job {
        /// A job as JSON.
        job: String,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Run(arguments) => run::run(arguments),
        Command::Report(arguments) => report::report(&arguments),
        Command::Syncs { engines, dir } => syncs::count(&or_all(engines), &dir),
        Command::Job { job } => job::perform(&job),
    }
}

fn or_all(engines: Vec<Kind>) -> Vec<Kind> {
    if engines.is_empty() {
        Kind::value_variants().to_vec()
    } else {
        engines
    }
}
