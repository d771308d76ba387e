//! Nodes killed under load, again and again, with a ledger of what was acknowledged kept outside.
//!
//! `OUTLAST_KILLS` says how many kills a level gets (50 without it). No failure in n kills bounds
//! the share of kills that fail by 3/n, with 95 % confidence.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use outlast_standby::control::Client;
use outlast_tools::load::{LedgerLine, LoadBatch};
use outlast_tools::model;
use outlast_tools::pair::{NodeProcess, PATIENCE};
use rustix::process::{Pid, Signal, kill_process};
use support::{Site, batches, history};

const SEGMENT_SIZE: u64 = 256 << 10;
const BATCHES: u64 = 2000;
/// Slow enough that a kill at four fifths still comes before the end.
const RATE: &str = "4000/s";
const IN_FLIGHT: &str = "64";

fn kills() -> u64 {
    let set = std::env::var("OUTLAST_KILLS").ok();
    set.map_or(50, |text| text.parse().expect("OUTLAST_KILLS is a number"))
}

/// A pair and its input.
struct Round {
    site: Site,
    input: PathBuf,
    batches: Vec<LoadBatch>,
    seed: u64,
    kill_at: u64,
}

impl Round {
    fn new(seed: u64) -> Self {
        let site = Site::new(SEGMENT_SIZE);
        let lines = history(seed, usize::try_from(BATCHES).unwrap());
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let input = site.input("input.jsonl", &lines);
        let batches = batches(&lines);
        let mut random = fastrand::Rng::with_seed(seed);
        let kill_at = random.u64(BATCHES / 5..BATCHES / 5 * 4);
        Self {
            site,
            input,
            batches,
            seed,
            kill_at,
        }
    }

    /// The only number of batches after which the state is what a node shows.
    fn prefix(&self, node: &NodeProcess) -> u64 {
        let equal = model::prefixes(&self.batches, &node.scan().unwrap());
        let seed = self.seed;
        assert_eq!(
            equal.len(),
            1,
            "seed {seed}: a state that never was: {equal:?}"
        );
        equal[0]
    }

    /// That a prefix of so many batches holds everything in the ledger.
    fn holds(&self, prefix: u64, ledger: &[LedgerLine]) {
        let newest = ledger.iter().map(|line| line.batch + 1).max().unwrap_or(0);
        let seed = self.seed;
        assert!(
            newest <= prefix,
            "seed {seed}: batch {newest} was acknowledged, and only {prefix} are there"
        );
    }
}

fn arguments(level: &str) -> [&str; 6] {
    ["--level", level, "--rate", RATE, "--in-flight", IN_FLIGHT]
}

fn primary_is_killed(level: &str) {
    let kills = kills();
    let mut lost = 0;
    for seed in 0..kills {
        let round = Round::new(seed);
        let (site, pair) = (&round.site, &round.site.pair);
        let (a, b) = site.start();
        let mut load = site.begin_load(&pair.a, &round.input, &arguments(level));
        load.until_acknowledged(round.kill_at);
        a.kill().unwrap();
        let said = load.said();
        let (status, ledger) = load.end();
        assert_eq!(
            status.code(),
            Some(3),
            "seed {seed}: the load lost its node: {said}"
        );
        let acknowledged = ledger.len() as u64;
        let certificate = pair.promote(&pair.b, "the primary was killed").unwrap();
        let promoted = round.prefix(&b);
        assert!(
            0 < promoted && promoted < BATCHES,
            "seed {seed}: {promoted} batches promoted, killed at {}",
            round.kill_at
        );
        assert!(
            acknowledged < BATCHES,
            "seed {seed}: the kill was not amid the load"
        );
        assert_eq!(
            certificate.positions.received.commit, promoted,
            "seed {seed}"
        );
        if level == "local" {
            lost += acknowledged.saturating_sub(promoted);
        } else {
            round.holds(promoted, &ledger);
        }
    }
    let bound = 300.0 / kills.max(1) as f64;
    eprintln!(
        "level {level}: {kills} primaries killed under load, each state an exact prefix; \
         {lost} acknowledged batches lost; at most {bound:.1} % of kills fail (95 % confidence, 3/n)"
    );
}

#[test]
fn a_primary_killed_at_level_local_leaves_a_prefix() {
    primary_is_killed("local");
}

#[test]
fn a_primary_killed_at_level_replicated_leaves_all_that_was_acknowledged() {
    primary_is_killed("replicated");
}

#[test]
fn a_primary_killed_at_level_applied_leaves_all_that_was_acknowledged() {
    primary_is_killed("applied");
}

#[test]
fn what_a_standing_standby_never_got_is_missed_and_the_ledger_shows_it() {
    // So that a loss, where there is one, is seen by the same checks that find none above.
    let round = Round::new(3000);
    let (site, pair) = (&round.site, &round.site.pair);
    let (a, b) = site.start();
    let mut load = site.begin_load(&pair.a, &round.input, &arguments("local"));
    load.until_acknowledged(BATCHES / 10);
    let pid = stop(&b);
    load.until_acknowledged(BATCHES / 10 * 9);
    a.kill().unwrap();
    let (_, ledger) = load.end();
    kill_process(pid, Signal::CONT).unwrap();
    let certificate = pair.promote(&pair.b, "the primary was killed").unwrap();
    let promoted = round.prefix(&b);
    let acknowledged = ledger.len() as u64;
    assert!(
        0 < promoted && promoted < acknowledged,
        "{promoted} of {acknowledged}"
    );
    // The certificate names what the primary last told, which is not more than what is missing.
    let measured = certificate.measured_loss.known().unwrap().commits;
    assert!(
        measured <= acknowledged + 64 - promoted,
        "{measured} said to be lost, {promoted} of {acknowledged} are there"
    );
}

#[test]
fn a_standing_standby_vouches_for_nothing() {
    let round = Round::new(4000);
    let (site, pair) = (&round.site, &round.site.pair);
    let (a, b) = site.start();
    let mut load = site.begin_load(&pair.a, &round.input, &arguments("replicated"));
    load.until_acknowledged(BATCHES / 10);
    let pid = stop(&b);
    // Without a session nobody vouches: whatever is acknowledged from here on would be a lie.
    let waiting = |a: &NodeProcess| {
        let status = a.status()?;
        let alone = status.peer.is_some_and(|peer| !peer.connected);
        let positions = status.positions;
        Ok((alone && positions.durable.commit > positions.replicated.commit).then_some(()))
    };
    a.until("the load waits for the standby", waiting).unwrap();
    a.kill().unwrap();
    let (_, ledger) = load.end();
    let asked = pair.run(&pair.b, ["status"]).unwrap();
    let said = String::from_utf8_lossy(&asked.stderr);
    assert!(said.contains("did not answer within"), "{said}");
    kill_process(pid, Signal::CONT).unwrap();
    pair.promote(&pair.b, "the primary was killed").unwrap();
    round.holds(round.prefix(&b), &ledger);
}

/// Makes a node stand still, as a machine that is frozen does.
fn stop(node: &NodeProcess) -> Pid {
    let pid = node.status().unwrap().pid.unwrap();
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    pid
}

#[test]
fn a_standby_killed_under_load_catches_up() {
    for seed in 0..kills().div_ceil(10) {
        let round = Round::new(1000 + seed);
        let (site, pair) = (&round.site, &round.site.pair);
        let (a, b) = site.start();
        let mut load = site.begin_load(&pair.a, &round.input, &arguments("applied"));
        load.until_acknowledged(round.kill_at);
        b.kill().unwrap();
        let b = site.start_one(&pair.b);
        let said = load.said();
        let (status, ledger) = load.end();
        assert!(status.success(), "seed {seed}: {said}");
        assert_eq!(ledger.len() as u64, BATCHES);
        assert_eq!((round.prefix(&a), round.prefix(&b)), (BATCHES, BATCHES));
    }
}

#[test]
fn both_killed_under_load_come_back_with_all_that_was_acknowledged() {
    for seed in 0..kills().div_ceil(10) {
        let round = Round::new(2000 + seed);
        let (site, pair) = (&round.site, &round.site.pair);
        let (a, b) = site.start();
        let level = ["local", "replicated", "applied"][usize::try_from(seed % 3).unwrap()];
        let mut load = site.begin_load(&pair.a, &round.input, &arguments(level));
        load.until_acknowledged(round.kill_at);
        let (first, second) = if seed % 2 == 0 { (&a, &b) } else { (&b, &a) };
        first.kill().unwrap();
        second.kill().unwrap();
        let (status, ledger) = load.end();
        assert_eq!(status.code(), Some(3), "seed {seed}");
        let (a, b) = (site.start_one(&pair.a), site.start_one(&pair.b));
        a.until_connected().unwrap();
        let from = a
            .until("it takes writes again", |a| {
                let status = a.status()?;
                let writes = status.role == outlast_standby::status::Role::Primary;
                Ok(writes.then_some(status.positions.durable.commit))
            })
            .unwrap();
        assert_eq!(round.prefix(&a), from, "seed {seed}");
        assert!(0 < from && from < BATCHES, "seed {seed}: {from}");
        round.holds(from, &ledger);
        let from = from.to_string();
        let rest = ["--level", "applied", "--from", &from];
        support::ended(&site.load(&pair.a, &round.input, &rest), 0);
        assert_eq!((round.prefix(&a), round.prefix(&b)), (BATCHES, BATCHES));
    }
}

/// Waits until something holds; answers whether it does.
fn holds(mut look: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !look() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    true
}

/// Whether a process runs: one that nobody has reaped yet does not.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    state.is_some_and(|state| state != 'Z')
}

fn pid(dir: &Path) -> Option<u32> {
    Client::connect(dir).ok()?.status().ok()?.pid
}

#[test]
fn the_nodes_of_a_demo_that_is_killed_end_with_it() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("demo");
    let mut demo = Command::new(env!("CARGO_BIN_EXE_outlast"))
        .args(["demo", "--seed", "1", "--keep"])
        .arg(&dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The second one starts last, and nobody kills it.
    let mut node = None;
    let started = holds(|| {
        node = pid(&dir.join("b"));
        node.is_some()
    });
    demo.kill().unwrap();
    demo.wait().unwrap();
    assert!(started, "the demo started no node");
    let node = node.unwrap();
    let ended = holds(|| !runs(node));
    if !ended {
        let pid = Pid::from_raw(i32::try_from(node).unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    }
    assert!(ended, "node {node} outlived the demo");
}

#[test]
fn a_node_whose_parent_has_ended_already_does_not_start() {
    let site = Site::new(SEGMENT_SIZE);
    let mut command = site.pair.command(&site.pair.a, ["serve"]);
    // Nobody but the first process is this one's parent by that number.
    let output = command.env("OUTLAST_PARENT", "1").output().unwrap();
    let said = support::ended(&output, 1);
    assert!(said.contains("has ended"), "{said}");
}
