//! Durable commits beside what the disk can do at best, in one run:
//! `cargo bench -p outlast-benches --bench commit -- [--dir DIR] [--rounds N] [--row-ms N]
//! [--threads N] [--only-threads]`.
//!
//! Each round measures every row once, floors and engine in turn, so that a machine that is busy
//! for a while is busy for both. The ratios are taken within a round; the table shows their
//! medians.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use outlast_engine::{
    Batch, CommitFuture, CommitOptions, Config, EpochReason, InitOptions, Keyspace, Store,
    WriteMode,
};
use outlast_tools::floor::{FloorFile, FloorSettings, Mode};
use outlast_tools::machine::load_1min;
use outlast_tools::process::usage;
use outlast_tools::summary::{LatencySummary, latencies, record};

const VALUE_BYTES: usize = 128;
const IN_FLIGHT: usize = 1000;
/// The first commits meet cold caches and are not counted.
const WARM_UP_COMMITS: u64 = 50;

const MODES: [(Mode, WriteMode); 2] = [
    (Mode::Buffered, WriteMode::Buffered),
    (Mode::Direct, WriteMode::Direct),
];

fn main() -> anyhow::Result<()> {
    let options = Options::from_args()?;
    println!(
        "{} rounds of {} ms a row in {}, load {} before",
        options.rounds,
        options.row_time.as_millis(),
        options.dir.display(),
        load_1min()
    );
    let bench = Bench::prepare(&options)?;
    let mut rounds = Vec::new();
    for number in 1..=options.rounds {
        eprintln!("round {number} of {}, load {}", options.rounds, load_1min());
        rounds.push(bench.round(&options)?);
    }
    print(&rounds, &options);
    Ok(())
}

struct Options {
    dir: PathBuf,
    rounds: usize,
    row_time: Duration,
    /// How many threads commit at once.
    threads: usize,
    /// Leaves out the other rows.
    only_threads: bool,
}

impl Options {
    fn from_args() -> anyhow::Result<Self> {
        let mut own = Self {
            dir: PathBuf::from("."),
            rounds: 5,
            row_time: Duration::from_millis(500),
            threads: 32,
            only_threads: false,
        };
        let mut args = std::env::args().skip(1);
        while let Some(name) = args.next() {
            let mut value = || {
                let missing = || anyhow::anyhow!("{name} needs a value");
                args.next().ok_or_else(missing)
            };
            match name.as_str() {
                "--dir" => own.dir = value()?.into(),
                "--rounds" => own.rounds = value()?.parse()?,
                "--row-ms" => own.row_time = Duration::from_millis(value()?.parse()?),
                "--threads" => own.threads = value()?.parse()?,
                "--only-threads" => own.only_threads = true,
                // What cargo itself hands to every benchmark.
                "--bench" => {}
                _ => anyhow::bail!("there is no option {name}"),
            }
        }
        Ok(own)
    }
}

/// Commits a second, and how long each took.
type Timed = (f64, LatencySummary);

/// One row: commits a second, how long each took, and processor time for each in microseconds,
/// background work included.
#[derive(Clone, Copy, Default)]
struct Row {
    per_s: f64,
    latency: LatencySummary,
    cpu_us: f64,
}

impl Row {
    /// What `measure` says, with the processor time that this process took meanwhile.
    fn of(measure: impl FnOnce() -> anyhow::Result<Timed>) -> anyhow::Result<Self> {
        let cpu = || anyhow::Ok(usage(std::process::id())?.cpu);
        let before = cpu()?;
        let (per_s, latency) = measure()?;
        let cpu_us = (cpu()? - before).as_secs_f64() * 1e6 / latency.count.max(1) as f64;
        Ok(Self {
            per_s,
            latency,
            cpu_us,
        })
    }
}

/// All rows of one round, by name.
struct Round(BTreeMap<String, Row>);

/// What all rounds run on: files that are filled with zeros take part of the disk while they are
/// made.
struct Bench {
    file: FloorFile,
    engines: Vec<(Mode, Engine)>,
}

impl Bench {
    fn prepare(options: &Options) -> anyhow::Result<Self> {
        let file = FloorFile::create(FloorSettings {
            row_time: options.row_time,
            writes_max: u64::MAX,
            threads: options.threads,
            record_bytes: VALUE_BYTES,
            ..FloorSettings::usual(options.dir.clone())
        })?;
        let engine = |(mode, write_mode)| Ok((mode, Engine::make(&options.dir, write_mode)?));
        let engines = MODES
            .into_iter()
            .map(engine)
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { file, engines })
    }

    fn round(&self, options: &Options) -> anyhow::Result<Round> {
        let threads = options.threads;
        let mut rows = BTreeMap::new();
        let mut add = |name, row| rows.insert(name, row);
        for (mode, engine) in self.engines.iter().filter(|_| !options.only_threads) {
            let floor = Row::of(|| {
                let floor = self.file.append(*mode, VALUE_BYTES)?;
                Ok((floor.writes_per_s, floor.latency))
            });
            add(format!("floor lone {mode}"), floor?);
            let lone = Row::of(|| engine.threads(1, options));
            add(format!("engine lone {mode}"), lone?);
        }
        for (mode, engine) in &self.engines {
            let floor = Row::of(|| {
                let floor = self.file.group_commit(*mode)?;
                Ok((floor.commits_per_s, floor.latency))
            });
            add(format!("floor threads {mode}"), floor?);
            let shared = Row::of(|| engine.threads(threads, options));
            add(format!("engine threads {mode}"), shared?);
        }
        for (mode, engine) in self.engines.iter().filter(|_| !options.only_threads) {
            let in_flight = Row::of(|| engine.in_flight(options));
            add(format!("engine {IN_FLIGHT} in flight {mode}"), in_flight?);
        }
        Ok(Round(rows))
    }
}

impl Round {
    fn row(&self, name: &str) -> Row {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// The better of both modes by `better`, which is given rows.
    fn best(&self, what: &str, of: impl Fn(&Row) -> f64, better: fn(f64, f64) -> f64) -> f64 {
        MODES
            .iter()
            .map(|(mode, _)| of(&self.row(&format!("{what} {mode}"))))
            .reduce(better)
            .unwrap_or_default()
    }
}

fn print(rounds: &[Round], options: &Options) {
    let Some(first) = rounds.first() else { return };
    println!(
        "\n{:<36} {:>10} {:>10} {:>10} {:>10}",
        "", "/s", "p50 us", "p99 us", "cpu us"
    );
    for name in first.0.keys() {
        let column =
            |of: &dyn Fn(&Row) -> f64| median(rounds.iter().map(|round| of(&round.row(name))));
        println!(
            "{name:<36} {:>10.0} {:>10.1} {:>10.1} {:>10.2}",
            column(&|row| row.per_s),
            column(&|row| row.latency.p50_us),
            column(&|row| row.latency.p99_us),
            column(&|row| row.cpu_us)
        );
    }
    let p50 = |row: &Row| row.latency.p50_us;
    let per_s = |row: &Row| row.per_s;
    println!("\nwithin each round: median (lowest - highest)");
    if !options.only_threads {
        show(
            rounds,
            "lone commit p50 / better floor's p50 (aim: at most 1.25)",
            |round| {
                round.best("engine lone", p50, f64::min) / round.best("floor lone", p50, f64::min)
            },
        );
        for (mode, _) in MODES {
            show(rounds, &format!("  {mode} / floor {mode}"), |round| {
                p50(&round.row(&format!("engine lone {mode}")))
                    / p50(&round.row(&format!("floor lone {mode}")))
            });
        }
    }
    show(
        rounds,
        &format!(
            "{} threads / better bare group commit (aim: at least 0.85)",
            options.threads
        ),
        |round| {
            round.best("engine threads", per_s, f64::max)
                / round.best("floor threads", per_s, f64::max)
        },
    );
    for (mode, _) in MODES {
        show(rounds, &format!("  {mode} / floor {mode}"), |round| {
            per_s(&round.row(&format!("engine threads {mode}")))
                / per_s(&round.row(&format!("floor threads {mode}")))
        });
    }
    if !options.only_threads {
        show(
            rounds,
            "1,000 in flight / lone, per second (aim: at least 8)",
            |round| {
                round.best(&format!("engine {IN_FLIGHT} in flight"), per_s, f64::max)
                    / round.best("engine lone", per_s, f64::max)
            },
        );
    }
}

fn show(rounds: &[Round], what: &str, ratio: impl Fn(&Round) -> f64) {
    let ratios: Vec<f64> = rounds.iter().map(ratio).collect();
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    println!(
        "{what:<62} {:.2} ({least:.2} - {most:.2})",
        median(ratios.into_iter())
    );
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// A store in a directory of its own, gone with it.
struct Engine {
    store: Store,
    keyspace: Keyspace,
    _dir: tempfile::TempDir,
}

impl Engine {
    fn make(parent: &Path, write_mode: WriteMode) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir_in(parent)?;
        Store::init(dir.path(), &InitOptions::new("bench"))?;
        let config = Config {
            write_mode,
            ..Config::default()
        };
        let store = Store::open(dir.path(), config)?;
        store.begin_epoch(EpochReason::Init, "")?;
        let keyspace = store.keyspace("default")?;
        Ok(Self {
            store,
            keyspace,
            _dir: dir,
        })
    }

    fn batch(&self, number: u64) -> anyhow::Result<Batch> {
        let mut batch = Batch::new();
        // 16 bytes, spread over the order of keys.
        let key = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        batch.put(&self.keyspace, key.to_le_bytes(), [0xa5; VALUE_BYTES])?;
        Ok(batch)
    }

    /// `count` threads that each commit and wait.
    fn threads(&self, count: usize, options: &Options) -> anyhow::Result<Timed> {
        for number in 0..WARM_UP_COMMITS {
            self.store
                .commit(self.batch(number)?, CommitOptions::default())?;
        }
        let began = Instant::now();
        let deadline = began + options.row_time;
        let histogram = thread::scope(|scope| {
            let writer = |thread: u64| {
                let mut histogram = latencies();
                let mut last = Instant::now();
                let mut number = thread << 32;
                while last < deadline {
                    self.store
                        .commit(self.batch(number)?, CommitOptions::default())?;
                    number += 1;
                    let now = Instant::now();
                    record(&mut histogram, now - last);
                    last = now;
                }
                anyhow::Ok(histogram)
            };
            let writers: Vec<_> = (1..=count as u64)
                .map(|thread| scope.spawn(move || writer(thread)))
                .collect();
            let mut all = latencies();
            for writer in writers {
                all += writer
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            anyhow::Ok(all)
        })?;
        let elapsed = began.elapsed().as_secs_f64();
        Ok((
            histogram.len() as f64 / elapsed,
            LatencySummary::of(&histogram),
        ))
    }

    /// One thread that keeps many commits on their way.
    fn in_flight(&self, options: &Options) -> anyhow::Result<Timed> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut histogram = latencies();
        let mut waiting: VecDeque<(Instant, CommitFuture)> = VecDeque::new();
        let began = Instant::now();
        let mut number = 1 << 48;
        while began.elapsed() < options.row_time {
            while waiting.len() < IN_FLIGHT {
                let future = self
                    .store
                    .commit_async(self.batch(number)?, CommitOptions::default());
                waiting.push_back((Instant::now(), future));
                number += 1;
            }
            while let Some((since, future)) = waiting.front_mut() {
                match pin!(future).poll(&mut Context::from_waker(&waker)) {
                    Poll::Ready(outcome) => {
                        outcome?;
                        record(&mut histogram, since.elapsed());
                        waiting.pop_front();
                    }
                    // Filled up before it is waited for, so that the next group is a large one.
                    Poll::Pending if waiting.len() < IN_FLIGHT => break,
                    Poll::Pending => thread::park(),
                }
            }
        }
        let elapsed = began.elapsed().as_secs_f64();
        for (_, future) in waiting {
            block_on(future, &waker)?;
        }
        Ok((
            histogram.len() as f64 / elapsed,
            LatencySummary::of(&histogram),
        ))
    }
}

fn block_on(future: CommitFuture, waker: &Waker) -> anyhow::Result<()> {
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(waker)) {
            Poll::Ready(outcome) => return outcome.map(drop).map_err(Into::into),
            Poll::Pending => thread::park(),
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
