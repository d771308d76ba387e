//! `outlast bench floors`: what the disk and the loopback can do at best.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget};
use outlast_engine::clock::{Clock, SystemClock};
use outlast_tools::exit::Exit;
use outlast_tools::floor::{self, BulkFloor, FloorSettings, RelayFloor};
use outlast_tools::machine::{Machine, load_1min};
use outlast_tools::report::{FloorReport, Report, SCHEMA};
use outlast_tools::summary::LatencySummary;
use outlast_tools::units::{parse_bytes, parse_time};

use crate::Global;
use crate::failure::Failure;
use crate::output::{number, table};

/// Measure what the disk can do at best, whatever the engine
///
/// Measures the file system that holds --dir (else the working directory): durable writes to a file
/// of zeros by one thread, through the page cache and around it; the bare group commit of many
/// threads; and what a hop through `outlast relay` costs. Nothing is left behind.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outlast bench floors --dir /var/lib/outlast
  outlast bench floors -o json > floors.json")]
pub(crate) struct Floors {
    /// End each row after so many writes …
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    writes: u64,

    /// … or after this time
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_time)]
    time: Duration,

    /// How many threads share the group commits
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,

    /// The size of what each of them commits
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..))]
    record: u16,

    /// The size of the file of zeros, in whole MiB
    #[arg(long, value_name = "BYTES", default_value = "64MiB", value_parser = parse_bytes)]
    file_size: u64,
}

impl Floors {
    pub(super) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let dir = global
            .place
            .named_dir()?
            .unwrap_or_else(|| PathBuf::from("."));
        let settings = FloorSettings {
            dir,
            file_bytes: self.file_size,
            writes_max: self.writes,
            row_time: self.time,
            threads: usize::from(self.threads),
            record_bytes: usize::from(self.record),
        };
        let report = measure(settings, global)?;
        let text = text(&report);
        global
            .output
            .result(&Report::Floors(Box::new(report)), || text)?;
        Ok(Exit::Ok)
    }
}

fn measure(settings: FloorSettings, global: &Global) -> anyhow::Result<FloorReport> {
    let began_at = now_rfc3339();
    let load_1min_before = load_1min();
    let progress = ProgressBar::new_spinner();
    if !global.logging.shows_progress() {
        progress.set_draw_target(ProgressDrawTarget::hidden());
    }
    progress.enable_steady_tick(Duration::from_millis(100));
    let floors = floor::measure(&settings, |row| progress.set_message(row.to_owned()))?;
    progress.finish_and_clear();
    Ok(FloorReport {
        schema: SCHEMA,
        outlast_version: env!("CARGO_PKG_VERSION").to_owned(),
        began_at,
        machine: Machine::describe(&settings.dir)?,
        load_1min_before,
        settings,
        floors,
    })
}

pub(super) fn now_rfc3339() -> String {
    let ms = i64::try_from(SystemClock::default().wall_ms()).unwrap_or_default();
    jiff::Timestamp::from_millisecond(ms)
        .unwrap_or_default()
        .to_string()
}

fn text(report: &FloorReport) -> String {
    let floors = &report.floors;
    let header = ["", "/s", "p50 us", "p99 us", "p99.9 us", "max us"];
    let mut parts = vec![heading(report), table(header, rows(floors))];
    parts.extend(floors.relay.as_ref().map(relay_rates));
    let why = floors.direct_unavailable.as_ref();
    parts.extend(why.map(|why| format!("no rows around the page cache: {why}")));
    let load = report.load_1min_before;
    if load > report.machine.cores as f64 / 4.0 {
        parts.push(format!(
            "the machine was busy (load {load} before): these figures are not its floors"
        ));
    }
    parts.join("\n\n")
}

fn heading(report: &FloorReport) -> String {
    let machine = &report.machine;
    format!(
        "{} on {} ({}), Linux {}, {} cores {}",
        report.settings.dir.display(),
        machine.file_system.kind,
        machine.file_system.options,
        machine.kernel,
        machine.cores,
        machine.cpu_model,
    )
}

fn rows(floors: &floor::Floors) -> Vec<Vec<String>> {
    let writes = floors.writes.iter().map(|row| {
        let name = format!("{} write {} B", row.mode, row.bytes);
        cells(name, row.writes_per_s, &row.latency)
    });
    let groups = floors.group_commits.iter().map(|row| {
        let name = format!(
            "{} group commit {} x {} B",
            row.mode, row.threads, row.record_bytes
        );
        cells(name, row.commits_per_s, &row.latency)
    });
    let pings = floors.relay.iter().flat_map(|relay| {
        let direct = ("UDP ping", &relay.ping_direct);
        let relayed = ("UDP ping through the relay", &relay.ping_relayed);
        [direct, relayed].map(|(name, ping)| cells(name.to_owned(), 1e6 / ping.mean_us, ping))
    });
    writes.chain(groups).chain(pings).collect()
}

fn cells(name: String, per_s: f64, latency: &LatencySummary) -> Vec<String> {
    let latency = [
        latency.p50_us,
        latency.p99_us,
        latency.p99_9_us,
        latency.max_us,
    ];
    let numbers = std::iter::once(per_s).chain(latency).map(number);
    std::iter::once(name).chain(numbers).collect()
}

fn relay_rates(relay: &RelayFloor) -> String {
    let rate = |bulk: &BulkFloor| {
        let per_s = number(bulk.datagrams_per_s);
        format!("{per_s} /s = {} MB/s", number(bulk.bytes_per_s / 1e6))
    };
    format!(
        "datagrams of {} B through the relay: {} one by one, {} ten at a time (without it {})",
        relay.single.datagram_bytes,
        rate(&relay.single),
        rate(&relay.bursts),
        rate(&relay.bursts_direct),
    )
}
