//! `outlast bench catch-up`: a standby that was away.

use std::path::PathBuf;

use clap::Args;
use outlast_engine::format::limits::SEGMENT_SIZE_DEFAULT;
use outlast_standby::config::Policy;
use outlast_tools::exit::Exit;
use outlast_tools::lag::{self, BedSettings, CatchUpSettings};
use outlast_tools::units::parse_bytes;

use crate::Global;
use crate::failure::Failure;
use crate::output::{number, table};

/// Measure how fast a standby that was away catches up, and how fast its log is replayed
///
/// Makes a pair in a temporary directory, fills the primary while the standby is down, starts it
/// again and looks on until both logs are equal; then closes both and opens the standby's log.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outlast bench catch-up --fill 1GiB
  outlast bench catch-up -o json > catch-up.json")]
pub(crate) struct CatchUp {
    /// Where the pair's directory is made; it goes away at the end
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir_parent: PathBuf,

    /// How much the standby lacks
    #[arg(long, value_name = "BYTES", default_value = "512MiB", value_parser = parse_bytes)]
    fill: u64,

    /// Size of each value, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u16).range(1..))]
    value_bytes: u16,

    /// Commits a second that the primary takes meanwhile
    #[arg(long, value_name = "N", default_value_t = 100)]
    live: u32,
}

impl CatchUp {
    pub(super) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let bed = BedSettings {
            parent: self.dir_parent.clone(),
            exe: std::env::current_exe()?,
            segment_size: SEGMENT_SIZE_DEFAULT,
            lines: None,
            seed: 0,
            policy: Policy::Async,
        };
        let settings = CatchUpSettings {
            fill_bytes: self.fill,
            value_bytes: usize::from(self.value_bytes),
            live_per_s: self.live,
        };
        let found = lag::catch_up(&bed, &settings)?;
        global.output.result(&found, || text(&found))?;
        Ok(Exit::Ok)
    }
}

fn text(found: &lag::CatchUp) -> String {
    let mib = |bytes: u64| number(bytes as f64 / f64::from(1 << 20));
    let per_s = |bytes_per_s: f64| format!("{} MB/s", number(bytes_per_s / 1e6));
    let rows = [
        (
            "log that the standby lacked",
            format!("{} MiB", mib(found.lacked_bytes)),
        ),
        ("written in", format!("{} s", number(found.written_in_s))),
        (
            "caught up in",
            format!("{} s", number(found.caught_up_in_s)),
        ),
        ("which is", per_s(found.bytes_per_s)),
        ("QUIC alone", per_s(found.quic.bulk_bytes_per_s)),
        (
            "share of it",
            format!("{} %", number(found.share_of_bulk() * 100.0)),
        ),
        (
            "standby's start to its first byte",
            format!("{} s", number(found.started_in_s)),
        ),
        (
            "round trip meanwhile, p50 / p99",
            format!(
                "{} / {} us",
                number(found.round_trip_us.p50),
                number(found.round_trip_us.p99)
            ),
        ),
        (
            "QUIC ping alone, p50",
            format!("{} us", number(found.quic.ping.p50_us)),
        ),
        (
            "local commit meanwhile, p50 / p99",
            format!(
                "{} / {} us",
                number(found.local_commit_us.p50),
                number(found.local_commit_us.p99)
            ),
        ),
        (
            "replicated within 2 ms again after",
            format!("{} s", number(found.live_again_in_s)),
        ),
        (
            "replayed on opening in",
            format!("{} s", number(found.replayed_in_s)),
        ),
        (
            "standby's processor",
            format!("{} %", number(found.standby_cpu_percent)),
        ),
        ("load before", number(found.load_1min_before)),
    ];
    table(
        ["", ""],
        rows.map(|(name, value)| vec![name.to_owned(), value]),
    )
}
