//! `outlast load`: batches from JSON lines into a running node.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use outlast_engine::Level;
use outlast_tools::exit::Exit;
use outlast_tools::load::{Acknowledged, Batches, End, Ledger, Loaded, Options, load};
use serde_json::{Value, json};

use crate::Global;
use crate::failure::Failure;
use crate::node::failed;
use crate::output::{number, table};

/// Load batches into the running node
///
/// Each line of the input is one batch, committed as a whole and in order:
/// {"ops": [["put", "key", "value"], ["delete", "key"]]}. Other strings than Unicode are refused
/// with the number of their line, before anything behind it is sent.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outlast load --dir a --input history.jsonl --level replicated
  outlast load --dir a --input history.jsonl --from 4100 --ledger acknowledged.jsonl")]
pub(crate) struct Load {
    /// The input; `-` is standard input
    #[arg(long, default_value = "-", value_name = "FILE")]
    input: PathBuf,
    /// The keyspace of all operations; it is made if it is not there
    #[arg(long, default_value = "default", value_name = "NAME")]
    keyspace: String,
    /// What each commit waits for
    #[arg(long, default_value = "local")]
    level: LevelName,
    /// Skip so many batches of the input: where to resume
    #[arg(long, default_value_t = 0, value_name = "N")]
    from: u64,
    /// Commits on their way at any time, at most
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    in_flight: u16,
    /// Batches a second, at most
    #[arg(long, value_name = "N/s", value_parser = parse_rate)]
    rate: Option<f64>,
    /// Append each acknowledgement to this file, as a JSON line with its receipt
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
}

/// A level, as it is named on the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum LevelName {
    /// Fsynced on the primary
    Local,
    /// And fsynced on the standby
    Replicated,
    /// And visible to the standby's readers
    Applied,
}

impl LevelName {
    pub(crate) const fn level(self) -> Level {
        match self {
            Self::Local => Level::Local,
            Self::Replicated => Level::Replicated,
            Self::Applied => Level::Applied,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Replicated => "replicated",
            Self::Applied => "applied",
        }
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.strip_suffix("/s").unwrap_or(text).parse();
    match rate {
        Ok(rate) if rate > 0.0 && f64::is_finite(rate) => Ok(rate),
        _ => Err("a rate is a positive number, as in 500/s".to_owned()),
    }
}

impl Load {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let usage = |error| Failure::new(Exit::Usage, error);
        let mut batches = Batches::open(&self.input)
            .with_context(|| format!("cannot read {}", self.input.display()))
            .map_err(usage)?;
        batches
            .skip_batches(self.from)
            .map_err(|error| usage(error.into()))?;
        let mut ledger = match &self.ledger {
            Some(path) => Some(
                Ledger::append(path)
                    .with_context(|| format!("cannot write the ledger {}", path.display()))
                    .map_err(usage)?,
            ),
            None => None,
        };
        let client = global.client()?;
        let level = self.level.level();
        let options = Options {
            keyspace: self.keyspace.clone(),
            level,
            in_flight: self.in_flight.into(),
            rate_per_s: self.rate,
        };
        let bar = progress(self.level, &self.input, self.from);
        let note = |acknowledged: &Acknowledged| {
            bar.inc(1);
            match &mut ledger {
                Some(ledger) => ledger.note(acknowledged.batch, &acknowledged.receipt, level),
                None => Ok(()),
            }
        };
        let loaded = load(client, batches, self.from, &options, note);
        bar.finish_and_clear();
        let value = self.summary(&loaded, global);
        global.output.result(&value, || text(&value))?;
        outcome(loaded, &self.input)
    }

    fn summary(&self, loaded: &Loaded, global: &Global) -> Value {
        let seconds = loaded.elapsed.as_secs_f64();
        let per_second = |count: u64| match count {
            0 => 0.0,
            count => count as f64 / seconds.max(f64::EPSILON),
        };
        json!({
            "schema": 1,
            "sent": loaded.sent,
            "acknowledged": { self.level.name(): loaded.acknowledged },
            "operations": loaded.operations,
            "resume_at": loaded.resume_at,
            "seconds": seconds,
            "batches_per_s": per_second(loaded.acknowledged),
            "operations_per_s": per_second(loaded.operations),
            "commits": held(global),
        })
    }
}

/// Up to which commit each level has come, as the node says now; null if it does not answer.
fn held(global: &Global) -> Value {
    let status = global.client().ok();
    let Some(status) = status.and_then(|mut client| client.status().ok()) else {
        return Value::Null;
    };
    let positions = status.positions;
    json!({
        "local": positions.durable.commit,
        "replicated": positions.replicated.commit,
        "applied": positions.replica_applied.commit,
    })
}

fn text(value: &Value) -> String {
    let mut text = String::new();
    let rate = |name: &str| number(value[name].as_f64().unwrap_or_default());
    text += &format!(
        "{} batches sent in {} s: {} batches/s, {} operations/s\n",
        value["sent"],
        rate("seconds"),
        rate("batches_per_s"),
        rate("operations_per_s"),
    );
    let rows = ["local", "replicated", "applied"].map(|level| {
        let count = |of: &str| match value.pointer(&format!("/{of}/{level}")) {
            Some(Value::Number(count)) => count.to_string(),
            _ => "-".to_owned(),
        };
        vec![level.to_owned(), count("acknowledged"), count("commits")]
    });
    text + &table(["level", "acknowledged", "up to commit"], rows)
}

/// A bar on a terminal, with an end where the input is a file.
fn progress(level: LevelName, input: &Path, from: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match lines(input) {
        Some(lines) => (
            ProgressBar::new(lines.saturating_sub(from)),
            "{wide_bar} {pos}/{len} batches {msg}  {per_sec}  {eta}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {pos} batches {msg}  {per_sec}  {elapsed}",
        ),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(level.name());
    bar
}

/// How many lines a regular file has.
fn lines(input: &Path) -> Option<u64> {
    if !input.metadata().ok()?.is_file() {
        return None;
    }
    let lines = BufReader::new(File::open(input).ok()?).split(b'\n');
    Some(lines.map_while(Result::ok).count() as u64)
}

/// How the command ends, with the batch at which to resume.
fn outcome(loaded: Loaded, input: &Path) -> Result<Exit, Failure> {
    let at = loaded.resume_at;
    let resume = format!(
        "resume at batch {at}: outlast load --input {} --from {at}",
        input.display()
    );
    Err(match loaded.end {
        End::Complete => return Ok(Exit::Ok),
        End::Input(error) => Failure::new(Exit::Usage, error)
            .hint(format_args!("everything before it is loaded; {resume}")),
        End::Refused { batch, error } => {
            let what = format!(
                "batch {batch} (line {}) was not committed: {error}",
                batch + 1
            );
            let failure = failed(error);
            Failure::new(failure.exit(), anyhow::anyhow!(what)).hint(resume)
        }
        End::Gone(error) => {
            let error = anyhow::Error::new(error).context(format!(
                "the node went away after {} acknowledgements; later batches may be committed or not",
                loaded.acknowledged
            ));
            Failure::new(Exit::NotReachable, error).hint(resume)
        }
        End::Ledger(error) => {
            let error = anyhow::Error::new(error).context("an acknowledgement could not be noted");
            Failure::new(Exit::Failure, error).hint(resume)
        }
        other => Failure::from(anyhow::anyhow!("loading ended: {other:?}")).hint(resume),
    })
}
