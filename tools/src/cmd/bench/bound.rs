//! `outlast bench bound`: what a promise costs.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use outlast_engine::Level;
use outlast_engine::format::limits::SEGMENT_SIZE_DEFAULT;
use outlast_standby::config::Policy;
use outlast_standby::proto::{Action, Bound, LEASE_DEFAULT};
use outlast_tools::exit::Exit;
use outlast_tools::lag::{self, Arrivals, BedSettings, Cost, CostRun, CostSettings, Load};
use outlast_tools::relay::{LineSettings, Lines};
use outlast_tools::units::parse_time;

use crate::Global;
use crate::cmd::protect::{Kind, Limits};
use crate::failure::Failure;
use crate::output::{number, table};

/// Measure what a promise costs: the same load under `async` and under a policy, by turns
///
/// Makes one pair in a temporary directory and changes its policy between runs. Commits are timed
/// to their answer at level local, which both policies begin with the same fsync.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outlast bench bound
  outlast bench bound --policy sync --in-flight 1
  outlast bench bound --policy bounded --time 50ms --rtt 2ms --rate 2000")]
pub(crate) struct BoundCost {
    /// The policy beside `async` [default: bounded by 10,000 commits, 1 s and a lease of 3 s]
    #[arg(long, value_name = "POLICY")]
    policy: Option<Kind>,

    #[command(flatten)]
    limits: Limits,

    /// Most commits on their way at a time; each is a row
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1,8,32", value_parser = clap::value_parser!(u16).range(1..))]
    in_flight: Vec<u16>,

    /// Commits a second, begun whatever the answers do [default: the next one when the last is
    /// answered]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,

    /// Round trip that a relay adds to the line
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    rtt: Option<Duration>,

    /// How often each row is measured under each of both
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// How long each run is
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_time)]
    duration: Duration,

    /// Size of each value, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    value_bytes: u32,

    /// Where the pair's directory is made; it goes away at the end
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir_parent: PathBuf,
}

impl BoundCost {
    pub(super) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let line = LineSettings {
            delay: self.rtt.unwrap_or_default() / 2,
            ..LineSettings::default()
        };
        let bed = BedSettings {
            parent: self.dir_parent.clone(),
            exe: std::env::current_exe()?,
            segment_size: SEGMENT_SIZE_DEFAULT,
            lines: self.rtt.map(|_| Lines {
                up: line.clone(),
                down: line,
            }),
            seed: 1,
            policy: Policy::Async,
        };
        let settings = CostSettings {
            loads: self.in_flight.iter().map(|most| self.load(*most)).collect(),
            policy: self.limits.of_said(self.policy)?.unwrap_or_else(usual),
            rounds: self.rounds,
        };
        let found = lag::cost(&bed, &settings)?;
        global.output.result(&found, || text(&found))?;
        Ok(Exit::Ok)
    }

    fn load(&self, in_flight: u16) -> Load {
        Load {
            rate_per_s: self.rate.map(f64::from),
            arrivals: Arrivals::Poisson,
            warm_up: Duration::from_millis(300),
            run: self.duration,
            value_bytes: self.value_bytes as usize,
            level: Level::Local,
            in_flight: usize::from(in_flight),
            seed: 1,
        }
    }
}

fn usual() -> Policy {
    Policy::Bounded {
        bound: Bound {
            bytes: None,
            commits: Some(10_000),
            time: Some(Duration::from_secs(1)),
            lease: LEASE_DEFAULT,
        },
        action: Action::Stall,
    }
}

fn text(found: &Cost) -> String {
    let rows = found.rows.iter().flat_map(|row| {
        let name = match row.rate_per_s {
            Some(rate) => format!("{} in flight at most, {} /s", row.in_flight, number(rate)),
            None => format!("{} in flight", row.in_flight),
        };
        let figures: [(&str, (f64, f64)); 6] = [
            ("commits/s", row.medians(|run| run.ok_per_s)),
            ("p50 us", row.medians(|run| run.p50_us)),
            ("p99 us", row.medians(|run| run.p99_us)),
            ("slowest us", row.largest(|run| run.max_us)),
            ("exposed commits, most", row.largest(exposed)),
            ("exposed ms, most", row.largest(|run| run.exposed_ms_max)),
        ];
        figures.map(|(figure, (without, with))| {
            let ratio = if without > 0.0 {
                number(with / without)
            } else {
                String::new()
            };
            let name = format!("{name}: {figure}");
            vec![name, number(without), number(with), ratio]
        })
    });
    let heading = ["", "async", "with it", "ratio"];
    let relay = found.relay.as_deref().unwrap_or("none");
    format!(
        "{}\n\nwith it: {}; medians of {} runs of {} s each, by turns; relay {relay}; load {} before",
        table(heading, rows),
        found.policy,
        found.rows.first().map_or(0, |row| row.with.len()),
        number(found.run_s),
        found.load_1min_before
    )
}

const fn exposed(run: &CostRun) -> f64 {
    run.exposed_commits_max
}
