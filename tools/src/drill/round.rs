//! One round: a pair under load, a primary that is lost, a promotion, a judgement.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use outlast_engine::Level;
use outlast_standby::certificate::Certificate;
use outlast_standby::config::Tuning;
use outlast_standby::control::protocol::{Ask, FailureKind, Reply, WireOp};
use outlast_standby::status::Role;
use serde_json::json;

use super::how::How;
use super::judge::{Evidence, Promoted, Verdict, judge};
use super::line::{Cut, Line};
use super::plan::{LineEnd, Plan};
use super::promise::Promise;
use super::promotion::Operator;
use super::small_disk::SmallDisk;
use super::workload::{batch, part};
use super::writers::{Ledger, Writers};
use crate::model::{self, State};
use crate::pair::{NodeProcess, PATIENCE, Pair, PairSettings, Processes};

const SEGMENT_SIZE: u64 = 1 << 20;
/// Where the disk is to be full: little is prepared beforehand.
const SEGMENT_SIZE_FULL: u64 = 64 << 10;
/// Answers, and time, in which a standby with a full disk runs out of what it has prepared.
const ANSWERS_FULL: u64 = 4_000;
const FULL_AFTER: Duration = Duration::from_secs(1);
/// Shorter than usual, so that nobody waits for a dead primary to count as silent, and than most
/// leases, so that it is the lease that a promotion waits for.
const SILENCE_MAX: Duration = Duration::from_millis(400);
const HEARTBEATS_A_LEASE: u32 = 4;
const HEARTBEAT_MAX: Duration = Duration::from_millis(100);
/// How long a client of a fenced node is given to be refused.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);
/// How long a round may take to end that was interrupted.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Rounds of one promise.
#[derive(Clone, Debug)]
pub struct Drill {
    /// The `outlast` binary.
    pub exe: PathBuf,
    /// Where the pairs are made; each is removed again unless something was wrong.
    pub dir: PathBuf,
    /// What is promised.
    pub promise: Promise,
    /// How primaries are lost: one of these each time.
    pub hows: Vec<How>,
    /// Clients that write at the same time, at most.
    pub writers: usize,
    /// Batches that each of them has in flight at most.
    pub in_flight: usize,
    /// Delay of the line each way.
    pub delay: Duration,
    /// Whether a namespace without any network can be made for a promotion.
    pub namespaces: bool,
    /// What can end every process of it.
    pub processes: Processes,
    /// Whether a round is being played.
    pub playing: Arc<AtomicBool>,
}

/// What came of a round.
#[derive(Clone, Debug)]
pub struct Played {
    /// What it was drawn from.
    pub seed: u64,
    /// How the primary was lost.
    pub how: How,
    /// The same in words, with what was drawn besides.
    pub story: String,
    /// Commits that the old primary answered OK.
    pub answered: u64,
    /// The judgement.
    pub verdict: Verdict,
    /// From the loss of the primary to the first answer of the promoted node; `None` where it was
    /// lost little by little.
    pub recovery: Option<Duration>,
    /// What the promotion stated.
    pub certificate: Certificate,
    /// Where the nodes and the evidence are kept, if something was wrong.
    pub kept: Option<PathBuf>,
}

impl Drill {
    /// Leaves out, of how primaries are lost, what cannot be done here. Answers with what that is.
    pub fn leave_out_impossible(&mut self) -> Vec<String> {
        let mut left_out = Vec::new();
        if !self.namespaces && self.hows.contains(&How::Gone) {
            left_out.push(
                "gone: promotions in a network namespace with nothing in it (unshare --net needs \
                 root); they are made with the line cut"
                    .to_owned(),
            );
        }
        if self.hows.contains(&How::Full)
            && let Err(error) = SmallDisk::is_possible(&self.dir)
        {
            left_out.push(format!(
                "full: a small file system cannot be made: {error:#}"
            ));
            self.hows.retain(|how| *how != How::Full);
        }
        left_out
    }

    /// Unmounts what a round that was interrupted left mounted. Its processes have been ended, so
    /// it is given a moment to end by itself.
    pub fn clean_up(&self) {
        let deadline = Instant::now() + ENDS_WITHIN;
        while self.playing.load(Ordering::Acquire) && Instant::now() < deadline {
            wait(Duration::from_millis(1));
        }
        for round in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            SmallDisk::unmount_below(&round.path());
        }
    }

    /// Plays the round of a seed.
    ///
    /// # Errors
    /// When it could not be played to its end: that is no verdict, but no pass either. Its
    /// directory is kept.
    pub fn play(&self, seed: u64) -> Result<Played> {
        ensure!(!self.processes.have_ended(), "the drill was interrupted");
        let dir = self.dir.join(format!("round-{seed}"));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut random = Rng::with_seed(seed);
        let how = How::draw(&self.hows, &mut random);
        let plan = Plan::draw(how, self, &mut random);
        let context = || format!("seed {seed}, {plan}; see {}", dir.display());
        self.playing.store(true, Ordering::Release);
        let played = self.play_in(&dir, seed, &plan);
        self.playing.store(false, Ordering::Release);
        let mut played = played.with_context(context)?;
        if played.verdict.violations.is_empty() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        } else {
            played.kept = Some(dir);
        }
        Ok(played)
    }

    fn play_in(&self, dir: &Path, seed: u64, plan: &Plan) -> Result<Played> {
        let settings = PairSettings {
            segment_size: match plan.how {
                How::Full => SEGMENT_SIZE_FULL,
                _ => SEGMENT_SIZE,
            },
            tuning: self.tuning(),
        };
        // Before the pair, so that it is there until the nodes have ended.
        let disk = match plan.how {
            How::Full => Some(SmallDisk::make(dir, "b")?),
            _ => None,
        };
        let pair = Pair::make(&self.exe, dir, settings)?.under(&self.processes);
        let line = Line::between(&pair, self.delay, seed)?;
        let (a, b) = (pair.start(&pair.a)?, pair.start(&pair.b)?);
        a.until_connected()?;
        let start = Instant::now();
        let mut round = Round {
            drill: self,
            plan,
            pair: &pair,
            disk: disk.as_ref(),
            line,
            a,
            b,
            start,
            writers: Writers::new(seed, plan.in_flight, start),
        };
        let ended = round.promise().and_then(|()| round.act());
        // Whatever happened, the clients of the old primary end with it.
        let _ = round.a.kill();
        let ledger = round.writers.end()?;
        let ended = ended?;
        let answered = ledger.answered.len() as u64;
        let evidence = ended.evidence(self.promise, seed, ledger);
        let verdict = judge(&evidence);
        let recovery = ended.served - ended.lost;
        if !verdict.violations.is_empty() {
            write_down(dir, &evidence, &verdict, &ended.certificate)?;
        }
        Ok(Played {
            seed,
            how: plan.how,
            story: plan.to_string(),
            answered,
            verdict,
            recovery: plan.is_sudden().then_some(recovery),
            certificate: ended.certificate,
            kept: None,
        })
    }

    fn tuning(&self) -> Tuning {
        let lease = self.promise.lease().unwrap_or(SILENCE_MAX);
        Tuning {
            heartbeat_interval: (lease / HEARTBEATS_A_LEASE).min(HEARTBEAT_MAX),
            silence_max: SILENCE_MAX,
            ..Tuning::default()
        }
    }
}

struct Round<'a> {
    drill: &'a Drill,
    plan: &'a Plan,
    pair: &'a Pair,
    disk: Option<&'a SmallDisk>,
    line: Line,
    a: NodeProcess,
    b: NodeProcess,
    start: Instant,
    writers: Writers,
}

/// What is known at the end of a round, but for the ledger.
struct Ended {
    lost: Duration,
    served: Duration,
    cut: Option<Duration>,
    fenced: Option<Duration>,
    certificate: Certificate,
    promoted: Promoted,
    state: State,
}

impl Round<'_> {
    /// Writes the policy down and waits until the standby vouches for it.
    fn promise(&self) -> Result<()> {
        let mut arguments = vec!["policy".to_owned(), "set".to_owned()];
        arguments.extend(self.drill.promise.arguments());
        let output = self.pair.run(&self.pair.a, arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the policy was not set: {said}");
        self.operator().until_vouched_for()
    }

    fn act(&mut self) -> Result<Ended> {
        for _ in 0..self.plan.writers {
            self.writers.begin(self.a.client()?);
        }
        self.until_answers(self.plan.answers)?;
        wait(self.plan.pause);
        let lost = self.start.elapsed();
        let cut = self.lose()?;
        let certificate = self.operator().promote()?;
        let promoted = Promoted::of(&certificate, self.start.elapsed());
        if self.plan.offline {
            self.b = self.pair.start(&self.pair.b)?;
        }
        let state = state(&self.b)?;
        if let Some(disk) = self.disk {
            // It was promoted without any; new writes may wait for room.
            disk.clear()?;
            self.until_room()?;
        }
        self.serves()?;
        let served = self.start.elapsed();
        let fenced = self.come_back()?;
        Ok(Ended {
            lost,
            served,
            cut,
            fenced,
            certificate,
            promoted,
            state,
        })
    }

    /// Takes the primary away. Answers with when the line was cut, if it is.
    fn lose(&mut self) -> Result<Option<Duration>> {
        let mut cut = None;
        if let LineEnd::Before { cut: which, by } = self.plan.line {
            self.line.cut(which)?;
            cut = Some(self.start.elapsed());
            wait(by);
        }
        match self.plan.how {
            How::Cut => {}
            How::Stop => self.a.stand_still()?,
            How::Kill | How::Restart | How::Gone => self.a.kill()?,
            How::Full => {
                if let Some(disk) = self.disk {
                    self.until_reserved()?;
                    disk.fill()?;
                }
                // The old primary goes on, soon without room for what it sends.
                let (answers, deadline) = (self.writers.answers(), Instant::now() + FULL_AFTER);
                while self.writers.answers() < answers + ANSWERS_FULL && Instant::now() < deadline {
                    wait(Duration::from_millis(1));
                }
                self.a.kill()?;
            }
        }
        if self.plan.line == LineEnd::With {
            self.line.cut(Cut::Both)?;
            cut = Some(self.start.elapsed());
        }
        if self.plan.how == How::Gone {
            fs::remove_dir_all(self.pair.a.dir())?;
        }
        if self.plan.offline {
            self.b.kill()?;
        }
        Ok(cut)
    }

    fn operator(&self) -> Operator<'_> {
        let states = match self.plan.how {
            _ if self.plan.offline => Some("--primary-is-down"),
            How::Cut => Some("--primary-is-sick"),
            _ => None,
        };
        Operator {
            pair: self.pair,
            node: &self.pair.b,
            promise: &self.drill.promise,
            states,
            fenced: self.drill.promise.lease().is_some() && !self.plan.offline,
            without_network: self.plan.offline && self.drill.namespaces,
        }
    }

    /// That the promoted node takes a write and shows it.
    fn serves(&self) -> Result<()> {
        const AFTER: &str = "after";
        let mut client = self.b.client()?;
        let (key, value) = (b"key".to_vec(), b"value".to_vec());
        let commit = Ask::Commit {
            keyspace: AFTER.to_owned(),
            ops: vec![WireOp::Put(key.clone(), value.clone())],
            level: Level::Local,
            trace: false,
            pipelined: false,
        };
        let reply = client
            .ask_one(commit)
            .context("the promoted node takes no write")?;
        ensure!(matches!(reply, Reply::Reached { .. }), "it said {reply:?}");
        let (keyspace, at) = (AFTER.to_owned(), None);
        let reply = client.ask_one(Ask::Get { keyspace, key, at })?;
        ensure!(
            reply == Reply::Value(Some(value)),
            "the promoted node does not show what it took: {reply:?}"
        );
        Ok(())
    }

    /// Waits until the standby holds back the space that a promotion on a full disk needs.
    fn until_reserved(&self) -> Result<()> {
        let reserve = self.pair.b.dir().join("reserve");
        self.b.until("its reserve is whole", |_| {
            let len = fs::metadata(&reserve).map_or(0, |metadata| metadata.len());
            Ok((len > SEGMENT_SIZE_FULL).then_some(()))
        })
    }

    /// Waits until the promoted node has noticed that there is room again.
    fn until_room(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.serves() {
            if Instant::now() > deadline {
                return Err(error.context("there is room again"));
            }
            wait(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Lets the old primary go on, where it can, with its clients and a new one. Answers with when
    /// it had said that it is fenced.
    fn come_back(&mut self) -> Result<Option<Duration>> {
        match self.plan.how {
            How::Kill | How::Gone | How::Full => return Ok(None),
            How::Restart => {
                self.line.heal()?;
                self.a = self.pair.start(&self.pair.a)?;
            }
            How::Stop => self.a.go_on()?,
            How::Cut => {}
        }
        self.writers.begin(self.a.client()?);
        wait(self.plan.zombie);
        self.line.heal()?;
        self.a.until("the newer term fences it", |a| {
            let fenced = matches!(a.status()?.role, Role::Fenced { .. });
            Ok(fenced.then_some(()))
        })?;
        let fenced = self.start.elapsed();
        self.writers.begin(self.a.client()?);
        let deadline = Instant::now() + REFUSED_WITHIN;
        while !self.writers.newest_has_ended() && Instant::now() < deadline {
            wait(Duration::from_millis(1));
        }
        Ok(Some(fenced))
    }

    fn until_answers(&self, count: u64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.writers.answers() < count {
            if Instant::now() > deadline || self.a.ended()?.is_some() {
                let (answers, time) = (self.writers.answers(), self.start.elapsed());
                bail!("only {answers} of {count} commits were answered in {time:.1?}");
            }
            wait(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Ended {
    fn evidence(&self, promise: Promise, seed: u64, ledger: Ledger) -> Evidence {
        let (parts, strange_keys) = part(&self.state, ledger.sent.len());
        let prefixes = parts.iter().zip(&ledger.sent).enumerate();
        let prefixes = prefixes.map(|(writer, (part, sent))| {
            let batches: Vec<_> = (0..*sent)
                .map(|number| batch(seed, writer, number))
                .collect();
            model::prefixes(&batches, part)
        });
        Evidence {
            promise,
            prefixes: prefixes.collect(),
            strange_keys,
            sent: ledger.sent.iter().sum(),
            answered: ledger.answered,
            promoted: self.promoted.clone(),
            cut: self.cut,
            fenced: self.fenced,
        }
    }
}

/// All that readers see; nothing where nothing was ever written.
fn state(node: &NodeProcess) -> Result<State> {
    match node.scan() {
        Ok(state) => Ok(state),
        Err(error) => match error.downcast_ref::<outlast_standby::Error>() {
            Some(own) if own.kind() == FailureKind::Usage => Ok(State::new()),
            _ => Err(error),
        },
    }
}

/// Leaves beside the nodes what the verdict rests on.
fn write_down(
    dir: &Path,
    evidence: &Evidence,
    verdict: &Verdict,
    certificate: &Certificate,
) -> Result<()> {
    let violations: Vec<_> = verdict.violations.iter().map(ToString::to_string).collect();
    let value = json!({
        "schema": 1,
        "promise": evidence.promise,
        "violations": violations,
        "loss": verdict.loss,
        "certificate": certificate,
        "cut_us": evidence.cut.map(|time| time.as_micros()),
        "fenced_us": evidence.fenced.map(|time| time.as_micros()),
        "promoted_us": evidence.promoted.at.as_micros(),
        "prefixes": evidence.prefixes,
        "answered": evidence.answered,
    });
    let text = serde_json::to_vec(&value)?;
    Ok(fs::write(dir.join("evidence.json"), text)?)
}

/// Lets time pass, where that itself is what is drawn.
pub(super) fn wait(time: Duration) {
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::park_timeout(left);
    }
}
