//! `outlast bench lag`: what a commit costs at each level, and how far the standby is behind.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use outlast_engine::Level;
use outlast_engine::format::limits::SEGMENT_SIZE_DEFAULT;
use outlast_standby::config::Policy;
use outlast_tools::exit::Exit;
use outlast_tools::floor::{self, FloorSettings, Floors, QuicFloor};
use outlast_tools::lag::{
    self, Arrivals, Bed, BedSettings, BoundSettings, LagReport, LagSettings, Load, Measured,
    ProcessUse, socket,
};
use outlast_tools::machine::{Machine, load_1min};
use outlast_tools::process::{Usage, usage};
use outlast_tools::relay::{LineSettings, Lines};
use outlast_tools::report::{Report, SCHEMA};
use outlast_tools::summary::LatencySummary;
use outlast_tools::units::{Share, parse_time};

use super::floors::now_rfc3339;
use crate::Global;
use crate::cmd::protect::{Kind, Limits};
use crate::failure::Failure;
use crate::output::{number, table};

/// Measure what a commit costs at each level, and how far the standby is behind
///
/// Commits begin at moments that do not depend on the answers, and each is timed from the moment at
/// which it was meant to begin. Without --dir, a pair is made in a temporary directory: the primary
/// in this process, its standby in one of its own. With --dir, the load goes to the primary that
/// runs there, over its socket. What disk and QUIC can do at best is measured before.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outlast bench lag --rate 2000 --duration 20s --svg lag.svg
  outlast bench lag --rate max --in-flight 1 --level replicated
  outlast bench lag --rtt 2ms --loss 0.1%
  outlast bench lag --policy bounded --commits 1000 --outage 6s --level local --duration 20s
  outlast bench lag --dir /var/lib/outlast -o json > lag.json")]
pub(crate) struct Lag {
    /// Commits a second, or `max`: the next one when the last is answered
    #[arg(long, value_name = "N|max", default_value = "1000", value_parser = parse_rate)]
    rate: Rate,

    /// How commits are spread over time
    #[arg(long, value_name = "HOW", default_value = "poisson")]
    arrivals: ArrivalsArg,

    /// How long to measure
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    duration: Duration,

    /// How long to run before
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_time)]
    warm_up: Duration,

    /// Size of each value, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    value_bytes: u32,

    /// The level at which a commit counts as answered
    #[arg(long, value_name = "LEVEL", default_value = "replicated")]
    level: LevelArg,

    /// Most commits on their way at a time [default: 10000, or 1 with --rate max]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    in_flight: Option<u16>,

    /// Round trip that a relay adds to the line
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    rtt: Option<Duration>,

    /// What the pair promises
    #[arg(long, value_name = "POLICY", default_value = "async")]
    policy: Kind,

    #[command(flatten)]
    limits: Limits,

    /// For how long a relay cuts the line, a third of the run after the warm-up
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    outage: Option<Duration>,

    /// Share of datagrams that a relay loses, each way
    #[arg(long, value_name = "PERCENT")]
    loss: Option<Share>,

    /// Where the pair's directory is made; it goes away at the end
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir_parent: PathBuf,

    /// Draw a picture of the run
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// How long each floor is measured
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = parse_time)]
    floor_time: Duration,

    /// What keys, moments and faults are drawn from
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Clone, Copy)]
struct Rate(Option<f64>);

fn parse_rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate(None));
    }
    let rate = text.parse::<f64>().ok();
    let rate = rate.filter(|rate| rate.is_finite() && *rate > 0.0);
    rate.map(|rate| Rate(Some(rate)))
        .ok_or_else(|| format!("`{text}` is no rate: write commits a second, or `max`"))
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ArrivalsArg {
    /// At equal distances
    Fixed,
    /// As independent callers come
    Poisson,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LevelArg {
    /// Durable on the primary
    Local,
    /// Durable on both
    Replicated,
    /// Visible to the standby's readers
    Applied,
}

impl LevelArg {
    const fn level(self) -> Level {
        match self {
            Self::Local => Level::Local,
            Self::Replicated => Level::Replicated,
            Self::Applied => Level::Applied,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Replicated => "replicated",
            Self::Applied => "applied",
        }
    }
}

impl Lag {
    pub(super) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let running = global.place.named_dir()?;
        let policy = self.limits.of(self.policy)?;
        if running.is_some() && (self.lines().is_some() || policy != Policy::Async) {
            let error = anyhow::anyhow!(
                "--rtt, --loss, --outage and --policy need a pair that is made for the run"
            );
            let failure = Failure::new(Exit::Usage, error);
            return Err(failure.hint(
                "put `outlast relay` between the nodes and set the policy with `outlast policy \
                 set`, or leave --dir out",
            ));
        }
        let began_at = now_rfc3339();
        let load_1min_before = load_1min();
        let at = running.as_ref().unwrap_or(&self.dir_parent);
        let machine = Machine::describe(at)?;
        let floors = self.floors(at.clone())?;
        let (measured, processes) = match &running {
            Some(dir) => self.on_running(dir)?,
            None => self.on_own(policy)?,
        };
        let Measured {
            latencies,
            achieved,
            series,
        } = measured;
        let report = LagReport {
            schema: SCHEMA,
            outlast_version: env!("CARGO_PKG_VERSION").to_owned(),
            began_at,
            machine,
            load_1min_before,
            settings: self.settings(policy),
            achieved,
            latency: latencies.report(),
            lag_bytes: series.lag_bytes(),
            lag_ms: series.lag_ms(),
            apply_lag_bytes: series.apply_lag_bytes(),
            exposure: series.exposure(),
            processes,
            floors,
            series,
        };
        if let Some(path) = &self.svg {
            std::fs::write(path, lag::draw(&report)?)?;
        }
        let text = text(&report);
        let report = Report::Lag(Box::new(report));
        global.output.result(&report, || text)?;
        Ok(Exit::Ok)
    }

    fn load(&self) -> Load {
        let in_flight = self.in_flight.map(usize::from);
        Load {
            rate_per_s: self.rate.0,
            arrivals: match self.arrivals {
                ArrivalsArg::Fixed => Arrivals::Fixed,
                ArrivalsArg::Poisson => Arrivals::Poisson,
            },
            warm_up: self.warm_up,
            run: self.duration,
            value_bytes: self.value_bytes as usize,
            level: self.level.level(),
            in_flight: in_flight.unwrap_or(if self.rate.0.is_some() { 10_000 } else { 1 }),
            seed: self.seed,
        }
    }

    fn lines(&self) -> Option<Lines> {
        if self.rtt.is_none() && self.loss.is_none() && self.outage.is_none() {
            return None;
        }
        let line = LineSettings {
            delay: self.rtt.unwrap_or_default() / 2,
            loss: self.loss.unwrap_or(Share::NONE),
            ..LineSettings::default()
        };
        Some(Lines {
            up: line.clone(),
            down: line,
        })
    }

    /// When the line is cut, from the beginning of the load on, and for how long.
    fn cut(&self) -> Option<(Duration, Duration)> {
        let lasts = self.outage?;
        Some((self.warm_up + self.duration / 3, lasts))
    }

    fn settings(&self, policy: Policy) -> LagSettings {
        let load = self.load();
        LagSettings {
            rate_per_s: load.rate_per_s.unwrap_or_default(),
            in_flight: load.in_flight,
            arrivals: load.arrivals,
            warm_up_s: load.warm_up.as_secs_f64(),
            run_s: load.run.as_secs_f64(),
            puts_per_commit: 1,
            value_bytes: load.value_bytes,
            level: self.level.name().to_owned(),
            policy: policy.name().to_owned(),
            bound: BoundSettings::from(policy),
            outage_s: self
                .cut()
                .map(|(from, lasts)| (from.as_secs_f64(), lasts.as_secs_f64())),
            seed: load.seed,
            relay: self.lines().map(|lines| lines.to_string()),
        }
    }

    fn floors(&self, dir: PathBuf) -> anyhow::Result<Floors> {
        let settings = FloorSettings {
            row_time: self.floor_time,
            ..FloorSettings::usual(dir)
        };
        let mut floors = floor::measure(&settings, |_| {})?;
        floors.quic = Some(QuicFloor::measure(10_000, 128 << 20)?);
        Ok(floors)
    }

    fn on_own(&self, policy: Policy) -> anyhow::Result<(Measured, Vec<ProcessUse>)> {
        let mut bed = Bed::make(&BedSettings {
            parent: self.dir_parent.clone(),
            exe: std::env::current_exe()?,
            segment_size: SEGMENT_SIZE_DEFAULT,
            lines: self.lines(),
            seed: self.seed,
            policy,
        })?;
        let standby = bed.start_standby()?;
        bed.wait_attached()?;
        bed.wait_promised(policy)?;
        let relay = &mut bed.take_relay();
        let mut watched = Watched::begin();
        watched.add("primary, with the load and the relay", std::process::id());
        watched.add("standby", standby);
        let store = bed.primary()?.store();
        let measured = thread::scope(|scope| {
            let cut = relay.as_mut().zip(self.cut());
            let cut = cut.map(|(relay, when)| scope.spawn(move || lag::cut(relay, when)));
            let measured = lag::run(store, &self.load())?;
            let cut = cut.map(|cut| {
                cut.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            cut.transpose()?;
            anyhow::Ok(measured)
        })?;
        Ok((measured, watched.end()))
    }

    fn on_running(&self, dir: &std::path::Path) -> anyhow::Result<(Measured, Vec<ProcessUse>)> {
        let mut watched = Watched::begin();
        if let Some(pid) = socket::status(dir)?.pid {
            watched.add("primary", pid);
        }
        watched.add("load", std::process::id());
        let measured = socket::run(dir, &self.load())?;
        Ok((measured, watched.end()))
    }
}

/// Processes whose use is counted.
struct Watched {
    since: Instant,
    before: Vec<(&'static str, u32, Usage)>,
}

impl Watched {
    fn begin() -> Self {
        Self {
            since: Instant::now(),
            before: Vec::new(),
        }
    }

    /// A process that may not be looked at is left out.
    fn add(&mut self, name: &'static str, pid: u32) {
        self.before
            .extend(usage(pid).ok().map(|use_| (name, pid, use_)));
    }

    fn end(self) -> Vec<ProcessUse> {
        let apart = self.since.elapsed();
        let row = |(name, pid, before)| {
            let after = usage(pid).ok()?;
            Some(ProcessUse::between(name, before, after, apart))
        };
        self.before.into_iter().filter_map(row).collect()
    }
}

fn text(report: &LagReport) -> String {
    let mut rows: Vec<_> = report
        .latency
        .iter()
        .map(|row| cells(row.stage.to_string(), &row.latency))
        .collect();
    let floors = &report.floors;
    let disk = floors.writes.iter().filter(|row| row.bytes <= 4096);
    rows.extend(disk.map(|row| {
        let name = format!("floor: {} write {} B", row.mode, row.bytes);
        cells(name, &row.latency)
    }));
    rows.extend(
        floors
            .quic
            .iter()
            .map(|quic| cells("floor: QUIC ping".to_owned(), &quic.ping)),
    );
    let latencies = table(
        ["", "count", "p50 us", "p99 us", "p99.9 us", "max us"],
        rows,
    );
    let exposure = &report.exposure;
    let spreads = [
        ("lag, bytes", &report.lag_bytes),
        ("lag, ms", &report.lag_ms),
        ("apply lag, bytes", &report.apply_lag_bytes),
        ("exposed, bytes", &exposure.bytes),
        ("exposed, commits", &exposure.commits),
        ("exposed, ms", &exposure.ms),
    ];
    let spreads = spreads.map(|(name, spread)| {
        let numbers = [spread.p50, spread.p99, spread.p99_9, spread.max];
        std::iter::once(name.to_owned())
            .chain(numbers.map(number))
            .collect()
    });
    let lag = table(["", "p50", "p99", "p99.9", "max"], spreads);
    let achieved = &report.achieved;
    let mut parts = vec![
        format!(
            "{} commits/s answered at level {}; {} failed, {} unknown; load {} before",
            number(achieved.ok_per_s),
            report.settings.level,
            achieved.failed,
            achieved.unknown,
            report.load_1min_before
        ),
        latencies,
        lag,
    ];
    let used = report.processes.iter().map(|process| {
        format!(
            "{}: {} % of a core, {} MiB at most",
            process.name,
            number(process.cpu_percent),
            process.peak_memory_bytes >> 20
        )
    });
    parts.push(used.collect::<Vec<_>>().join("\n"));
    parts.extend(against_floor(report));
    parts.join("\n\n")
}

/// The level's median beside the sum of what it cannot do without: a round trip and a durable
/// write.
fn against_floor(report: &LagReport) -> Option<String> {
    let quic = report.floors.quic?;
    let append = report.floors.append_p50_us(128)?;
    let floor = quic.ping.p50_us + append;
    let replicated = report
        .latency
        .iter()
        .find(|row| row.stage == lag::Stage::Replicated)?;
    Some(format!(
        "replicated p50 is {} x (QUIC ping {} us + durable append {} us); QUIC bulk {} MB/s",
        number(replicated.latency.p50_us / floor),
        number(quic.ping.p50_us),
        number(append),
        number(quic.bulk_bytes_per_s / 1e6)
    ))
}

fn cells(name: String, latency: &LatencySummary) -> Vec<String> {
    let numbers = [
        latency.p50_us,
        latency.p99_us,
        latency.p99_9_us,
        latency.max_us,
    ];
    [name, latency.count.to_string()]
        .into_iter()
        .chain(numbers.map(number))
        .collect()
}
