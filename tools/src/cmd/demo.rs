//! `outlast demo`: two nodes on this machine, one of which dies.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use outlast_engine::Level;
use outlast_standby::certificate::Certificate;
use outlast_standby::config::Tuning;
use outlast_standby::control::protocol::FailureKind;
use outlast_tools::exit::Exit;
use outlast_tools::load::{Batches, End, LoadBatch, Loaded, Options, load};
use outlast_tools::model::{self, State};
use outlast_tools::pair::{NodeProcess, Pair, PairSettings, Processes, scan};
use outlast_tools::profiles;
use serde_json::json;

use super::load::LevelName;
use super::promote;
use crate::Global;
use crate::failure::Failure;
use crate::signals::until_signal;

/// Batches of the workload that is written without --input.
const PROFILE_BATCHES: u64 = 6_000;
const IN_FLIGHT_MAX: usize = 256;
const SEGMENT_SIZE: u64 = 4 << 20;
/// Shorter than usual, so that nobody waits for the primary to count as silent.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);
const SILENCE_MAX: Duration = Duration::from_millis(600);

/// See a primary die and its standby promoted, on this machine
///
/// Makes two nodes in a temporary directory and starts them as two processes on loopback. Loads the
/// input, kills the primary with SIGKILL at a commit drawn from the seed, promotes the standby, and
/// checks with a plain map over the input, not with the engine, that the promoted state is exactly
/// a prefix of the input and that nothing acknowledged at level replicated is missing. Then it
/// writes on. Exits non-zero if anything is not so.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outlast demo
  outlast demo --input history.jsonl --seed 7 --keep /tmp/outlast-demo")]
pub(crate) struct Demo {
    /// Batches as JSON lines, as `outlast load` takes them [default: profiles, who may see them and
    /// their versions, each user's in one batch]
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// What the workload and the moment of the kill are drawn from [default: another each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// What each commit waits for
    #[arg(long, default_value = "replicated")]
    level: LevelName,
    /// Make the nodes in this new directory and leave them there
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

impl Demo {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let (dir, temporary) = self.dir()?;
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
        let show = Show {
            seed,
            level: self.level,
            dir,
            input: self.input.clone(),
            start: Instant::now(),
            processes: Processes::default(),
        };
        let processes = show.processes.clone();
        let ended = until_signal(move || show.play());
        // Whatever happened: no process outlives the command, nor the directory that it lives in.
        processes.end();
        drop(temporary);
        let played = ended?.map_err(|error| {
            let failure = Failure::new(Exit::Failure, error.context("the demo FAILED"));
            failure.hint(format_args!(
                "see it again with: outlast demo --seed {seed}"
            ))
        })?;
        let value = json!({
            "schema": 1,
            "seed": seed,
            "level": self.level.name(),
            "batches": played.batches,
            "killed_at": played.killed_at,
            "acknowledged": played.acknowledged,
            "promoted_batches": played.promoted,
            "consistent_reads": played.reads,
            "certificate": played.certificate,
        });
        global
            .output
            .result(&value, || promote::text(&played.certificate))?;
        Ok(Exit::Ok)
    }

    /// Where the nodes are made, and what removes that at the end.
    fn dir(&self) -> Result<(PathBuf, Option<tempfile::TempDir>), Failure> {
        match &self.keep {
            Some(dir) => {
                let made = std::fs::create_dir(dir)
                    .with_context(|| format!("cannot make the directory {}", dir.display()));
                made.map_err(|error| Failure::new(Exit::Usage, error))?;
                Ok((dir.clone(), None))
            }
            None => {
                let dir = tempfile::Builder::new().prefix("outlast-demo-").tempdir()?;
                Ok((dir.path().to_owned(), Some(dir)))
            }
        }
    }
}

/// What the demo came to.
struct Played {
    batches: u64,
    killed_at: u64,
    acknowledged: u64,
    promoted: u64,
    reads: u64,
    certificate: Certificate,
}

struct Show {
    seed: u64,
    level: LevelName,
    dir: PathBuf,
    input: Option<PathBuf>,
    start: Instant,
    processes: Processes,
}

impl Show {
    fn play(&self) -> Result<Played> {
        let batches = self.batches()?;
        let count = batches.len() as u64;
        ensure!(
            count >= 10,
            "{count} batches are too few to kill a primary amid them"
        );
        let mut random = fastrand::Rng::with_seed(self.seed);
        let killed_at = random.u64(count / 5..=count / 5 * 4);
        self.tell(format_args!(
            "seed {}: {count} batches; the primary will be killed at number {killed_at}",
            self.seed
        ));

        let settings = PairSettings {
            segment_size: SEGMENT_SIZE,
            tuning: Tuning {
                heartbeat_interval: HEARTBEAT_INTERVAL,
                silence_max: SILENCE_MAX,
                ..Tuning::default()
            },
        };
        let exe = std::env::current_exe().context("cannot find this program")?;
        let pair = Pair::make(&exe, &self.dir, settings)?.under(&self.processes);
        self.tell(format_args!("made nodes a and b in {}", self.dir.display()));
        let (primary, standby) = (pair.start(&pair.a)?, pair.start(&pair.b)?);
        primary.until_connected()?;
        self.tell("both run, as processes of their own, and have met over QUIC");

        let (loaded, reads) = self.load_and_kill(&batches, killed_at, &primary, &standby)?;
        let level = self.level.name();
        self.tell(format_args!(
            "SIGKILL for the primary: {} batches were acknowledged at level {level}, {} sent",
            loaded.acknowledged, loaded.sent
        ));
        ensure!(
            matches!(loaded.end, End::Gone(_)),
            "the load should have lost its node: {:?}",
            loaded.end
        );

        let promoting = Instant::now();
        let certificate = pair.promote(&pair.b, "the demo killed the primary")?;
        self.tell(format_args!(
            "promoted the standby, {} ms after the kill (it had to be silent for {} ms)",
            promoting.elapsed().as_millis(),
            SILENCE_MAX.as_millis()
        ));

        let promoted = self.check(&batches, &standby, &certificate)?;
        self.tell(format_args!(
            "the promoted state is exactly the first {promoted} batches of the input"
        ));
        ensure!(
            0 < promoted && promoted < count,
            "{promoted} of {count} batches were promoted: the kill was not amid the load"
        );
        let missing = loaded.resume_at.saturating_sub(promoted);
        if self.level.level() == Level::Local {
            self.tell(format_args!(
                "{missing} batches acknowledged at level local are lost"
            ));
        } else {
            ensure!(
                missing == 0,
                "{missing} batches acknowledged at level {level} are MISSING"
            );
            self.tell(format_args!(
                "nothing acknowledged at level {level} is missing"
            ));
        }

        self.write_on(&batches, promoted, &standby)?;
        standby.terminate()?;
        Ok(Played {
            batches: count,
            killed_at,
            acknowledged: loaded.acknowledged,
            promoted,
            reads,
            certificate,
        })
    }

    /// The input, or the workload of profiles, which is written down beside the nodes.
    fn batches(&self) -> Result<Vec<LoadBatch>> {
        let path = match &self.input {
            Some(path) => path.clone(),
            None => {
                let path = self.dir.join("input.jsonl");
                let batches = profiles::batches(self.seed, PROFILE_BATCHES);
                std::fs::write(&path, profiles::to_lines(&batches))?;
                path
            }
        };
        let read =
            Batches::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let batches: Result<Vec<_>, _> = read.collect();
        batches.with_context(|| format!("cannot load {}", path.display()))
    }

    /// Loads until the primary is gone, which it is once number `killed_at` is acknowledged.
    fn load_and_kill(
        &self,
        batches: &[LoadBatch],
        killed_at: u64,
        primary: &NodeProcess,
        standby: &NodeProcess,
    ) -> Result<(Loaded, u64)> {
        let client = primary.client()?;
        let over = AtomicBool::new(false);
        let reads = AtomicU64::new(0);
        thread::scope(|scope| {
            let reader = scope.spawn(|| self.read_along(standby, &over, &reads));
            let mut killed = Ok(());
            let all = batches.iter().cloned().map(Ok);
            let loaded = load(
                client,
                all,
                0,
                &self.options(batches.len()),
                |acknowledged| {
                    if acknowledged.batch == killed_at {
                        killed = primary.kill();
                    }
                    Ok(())
                },
            );
            over.store(true, Ordering::Release);
            let read = reader.join();
            killed.context("cannot kill the primary")?;
            read.unwrap_or_else(|_| bail!("the reader panicked"))?;
            Ok((loaded, reads.load(Ordering::Acquire)))
        })
    }

    fn options(&self, batches: usize) -> Options {
        Options {
            keyspace: "default".to_owned(),
            level: self.level.level(),
            // Less than a tenth of all: what is on its way at the kill must not be the end.
            in_flight: IN_FLIGHT_MAX.min(batches / 10),
            rate_per_s: None,
        }
    }

    /// Reads all profiles on the standby, again and again, each time at one moment.
    fn read_along(
        &self,
        standby: &NodeProcess,
        over: &AtomicBool,
        reads: &AtomicU64,
    ) -> Result<()> {
        if self.input.is_some() {
            return Ok(());
        }
        let mut client = standby.client()?;
        let mut seen = State::new();
        loop {
            let last = over.load(Ordering::Acquire);
            // The keyspace is made by the first batch.
            if let Some(state) = found(scan(&mut client))? {
                let checked = profiles::unmixed(&state).and_then(|users| {
                    profiles::not_older(&seen, &state)?;
                    Ok(users)
                });
                match checked {
                    Ok(_) => reads.fetch_add(1, Ordering::Release),
                    Err(mixed) => {
                        bail!("a reader of the standby saw a state that never was: {mixed}")
                    }
                };
                seen = state;
            }
            if last {
                let reads = reads.load(Ordering::Acquire);
                self.tell(format_args!(
                    "{reads} reads of all profiles on the standby meanwhile: never two versions mixed"
                ));
                return Ok(());
            }
        }
    }

    /// How many batches of the input the promoted state equals.
    fn check(
        &self,
        batches: &[LoadBatch],
        node: &NodeProcess,
        certificate: &Certificate,
    ) -> Result<u64> {
        let state = node.scan()?;
        if self.input.is_none() {
            profiles::unmixed(&state).map_err(|mixed| {
                anyhow::anyhow!("the promoted state is one that never was: {mixed}")
            })?;
        }
        // Batches that change nothing make several prefixes equal; the node says which it means.
        let equal = model::prefixes(batches, &state);
        let says = certificate.positions.received.commit;
        ensure!(
            equal.contains(&says),
            "the promoted state has {} keys; it is said to be that after {says} batches, but equals \
             those after {equal:?}",
            state.len()
        );
        Ok(says)
    }

    /// Loads what the promoted node lacks, and compares its state with all of the input.
    fn write_on(&self, batches: &[LoadBatch], promoted: u64, node: &NodeProcess) -> Result<()> {
        let rest = batches.iter().skip(usize::try_from(promoted)?);
        let options = Options {
            level: Level::Local,
            ..self.options(batches.len())
        };
        let client = node.client()?;
        let loaded = load(
            client,
            rest.cloned().map(Ok),
            promoted,
            &options,
            |_| Ok(()),
        );
        ensure!(
            matches!(loaded.end, End::Complete),
            "the promoted node does not take what follows: {:?}",
            loaded.end
        );
        ensure!(
            node.scan()? == model::state(batches),
            "after the rest of the input the promoted node holds another state"
        );
        self.tell(format_args!(
            "wrote on: {} batches more, and its state is that of the whole input",
            loaded.acknowledged
        ));
        Ok(())
    }

    /// Tells what happened, with the time since the beginning.
    fn tell(&self, what: impl std::fmt::Display) {
        let seconds = self.start.elapsed().as_secs_f64();
        eprintln!("{seconds:7.2} s  {what}");
    }
}

/// What was read, or nothing while there is nothing to read.
fn found(read: Result<State>) -> Result<Option<State>> {
    match read {
        Ok(state) => Ok(Some(state)),
        Err(error) => match error.downcast_ref::<outlast_standby::Error>() {
            Some(own) if own.kind() == FailureKind::Usage => Ok(None),
            _ => Err(error),
        },
    }
}
