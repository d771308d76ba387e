//! Nodes that end themselves by SIGKILL at each named point, under load, with a ledger of what was
//! acknowledged kept outside.
//!
//! A *life* is a pair that is killed again and again, in each role: its standby comes first, then
//! the primary is killed under load, loses a tail that its standby has and gets it back or goes on
//! without it, the standby is killed under load, is promoted at last, and the old primary meets it.
//! After each kill the directory is opened: it holds what was acknowledged at its level. Whatever a
//! node shows is the state after one number of batches.
//!
//! `OUTLAST_KILLS` says how many kills there are at least, `OUTLAST_LIFE` which life alone is lived
//! again. A point that no kill was seen at fails
//! the test. No failure in n kills bounds the share of kills that fail by 3/n, with 95 %
//! confidence.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use outlast_engine::kill_points::Point;
use outlast_engine::{Config, Level, Store};
use outlast_standby::config::Tuning;
use outlast_standby::status::Role;
use outlast_tools::load::{Ledger, LoadBatch};
use outlast_tools::model;
use outlast_tools::pair::{NodePlace, NodeProcess, PATIENCE};
use support::{Loading, Site, batches, history};

/// Two steps of preparation.
const SEGMENT_SIZE: u64 = 512 << 10;
const BATCHES: usize = 24_000;
/// So that a segment is full after a quarter of a second.
const VALUE_LEN: usize = 1500;
const RATE: &str = "1500/s";
const IN_FLIGHT: &str = "32";
const KILLS: usize = 250;
const SIGKILL: i32 = 9;

/// Where a node that is on its way to be killed is in its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Part {
    /// The first session of a pair.
    FirstSession,
    /// A primary under load.
    Primary,
    /// A primary that gets its lost tail back.
    FetchBack,
    /// A standby whose tail is not in the history that it joins.
    Fork,
    /// A standby under load.
    Standby,
    /// A running standby that is promoted.
    Promotion,
    /// A standby that is promoted while no process runs it.
    Offline,
    /// A primary that meets the one that took its place.
    Fence,
}

/// A kill: where, and at which passing.
#[derive(Clone, Copy, Debug)]
struct Kill {
    part: Part,
    point: Point,
    passing: u64,
}

const ONCE: &[u64] = &[1];
const FRAMES: &[u64] = &[1, 8, 41, 150];
const FEW_FRAMES: &[u64] = &[1, 8, 60];
const SEGMENTS: &[u64] = &[1, 2, 3];
const FEW_SEGMENTS: &[u64] = &[1, 2];
const MARKS: &[u64] = &[1, 2, 4];

/// Each point that a primary under load passes, and how often it is killed there.
const PRIMARY: &[(Point, &[u64])] = &[
    (Point::WriteBegins, FRAMES),
    (Point::Written, FRAMES),
    (Point::SyncBegins, FRAMES),
    (Point::Synced, FRAMES),
    (Point::GroupShown, FRAMES),
    (Point::ReplicaShown, FRAMES),
    (Point::SealBegins, SEGMENTS),
    (Point::SealWritten, SEGMENTS),
    (Point::SealSynced, SEGMENTS),
    (Point::Sealed, SEGMENTS),
    (Point::SegmentBegun, SEGMENTS),
    (Point::PreparationBegun, SEGMENTS),
    (Point::PreparationFilled, SEGMENTS),
    (Point::PreparationSynced, SEGMENTS),
    (Point::Prepared, SEGMENTS),
    (Point::ReplaceWritten, &[1, 2, 3, 4]),
    (Point::ReplaceSynced, &[1, 2, 3, 4]),
    (Point::ReplaceRenamed, &[1, 2, 3, 4]),
    (Point::ManifestReplaced, &[1, 2]),
    (Point::SparsePartWritten, FEW_SEGMENTS),
    (Point::SparseSynced, FEW_SEGMENTS),
    (Point::SparseNamed, ONCE),
    (Point::SparseAdopted, ONCE),
    (Point::RetiredPart, FEW_SEGMENTS),
    (Point::Retired, ONCE),
    (Point::MarkBegins, SEGMENTS),
    (Point::MarkWritten, SEGMENTS),
    (Point::MarkSynced, SEGMENTS),
    (Point::SettleBegun, ONCE),
    (Point::TailRewritten, ONCE),
    (Point::Settled, ONCE),
    (Point::EpochNoted, ONCE),
    (Point::EpochFramed, ONCE),
    (Point::EpochOpen, ONCE),
];

/// The same for a standby.
const STANDBY: &[(Point, &[u64])] = &[
    (Point::RunReceived, FEW_FRAMES),
    (Point::RunAppended, FEW_FRAMES),
    (Point::WriteBegins, FEW_FRAMES),
    (Point::Written, FEW_FRAMES),
    (Point::SyncBegins, FEW_FRAMES),
    (Point::Synced, FEW_FRAMES),
    (Point::RunSynced, FEW_FRAMES),
    (Point::Reported, FEW_FRAMES),
    (Point::FrameReplayed, FEW_FRAMES),
    (Point::SealBegins, FEW_SEGMENTS),
    (Point::SealWritten, FEW_SEGMENTS),
    (Point::SealSynced, FEW_SEGMENTS),
    (Point::Sealed, FEW_SEGMENTS),
    (Point::SegmentBegun, FEW_SEGMENTS),
    (Point::PreparationBegun, FEW_SEGMENTS),
    (Point::PreparationFilled, FEW_SEGMENTS),
    (Point::PreparationSynced, FEW_SEGMENTS),
    (Point::Prepared, FEW_SEGMENTS),
    (Point::ReplaceWritten, &[1, 2]),
    (Point::ReplaceSynced, &[1, 2]),
    (Point::ReplaceRenamed, &[1, 2]),
    (Point::ManifestReplaced, ONCE),
    (Point::SparsePartWritten, ONCE),
    (Point::SparseSynced, ONCE),
    (Point::SparseNamed, ONCE),
    (Point::SparseAdopted, ONCE),
    (Point::RetiredPart, ONCE),
    (Point::Retired, ONCE),
    (Point::MarkBegins, MARKS),
    (Point::MarkWritten, MARKS),
    (Point::MarkSynced, MARKS),
    (Point::SettleBegun, ONCE),
    (Point::TailRewritten, ONCE),
    (Point::Settled, ONCE),
];

/// The first session of a pair: what its standby, or its primary, notes before it answers.
const FIRST_SESSION: &[(Point, &[u64])] = &[
    (Point::TermNoted, ONCE),
    (Point::EpochLearnt, ONCE),
    (Point::AttachmentNoted, ONCE),
];

/// A promotion before its epoch can be durable. It is killed at several of these, one after the
/// other.
const OFFLINE: &[(Point, &[u64])] = &[
    (Point::SettleBegun, ONCE),
    (Point::ReplaceWritten, &[1, 2, 3, 4]),
    (Point::TailRewritten, ONCE),
    (Point::ManifestReplaced, &[1, 2]),
    (Point::Settled, ONCE),
    (Point::ReplaceSynced, &[1, 2, 3, 4]),
    (Point::PromotionDecided, ONCE),
    (Point::SyncBegins, ONCE),
    (Point::ReplaceRenamed, &[1, 2, 3, 4]),
    (Point::Synced, ONCE),
    (Point::EpochNoted, ONCE),
    (Point::WriteBegins, ONCE),
];

/// Behind these it may be: the last of a life.
const OFFLINE_LAST: &[(Point, &[u64])] = &[
    (Point::Written, ONCE),
    (Point::EpochFramed, ONCE),
    (Point::EpochOpen, ONCE),
    (Point::PromotionOpened, ONCE),
    (Point::CertificateWritten, ONCE),
    (Point::CertificateStored, ONCE),
];

const PROMOTION: &[(Point, &[u64])] = &[
    (Point::PromotionDecided, ONCE),
    (Point::PromotionWithdrawn, ONCE),
    (Point::EpochNoted, ONCE),
];

const PROMOTION_LAST: &[(Point, &[u64])] = &[
    (Point::EpochFramed, ONCE),
    (Point::EpochOpen, ONCE),
    (Point::PromotionOpened, ONCE),
    (Point::CertificateWritten, ONCE),
    (Point::CertificateStored, ONCE),
];

const FETCH_BACK: &[(Point, &[u64])] = &[(Point::FetchNoted, ONCE), (Point::FetchAppended, ONCE)];

const FORK: &[(Point, &[u64])] = &[
    (Point::ForkKept, ONCE),
    (Point::ForkUnmarked, ONCE),
    (Point::SegmentRewritten, ONCE),
    (Point::ForkCut, ONCE),
];

/// What a fenced primary's last points are; its manifest is replaced in between.
const FENCE: &[(Point, &[u64])] = &[(Point::FenceBegins, ONCE), (Point::FenceNoted, ONCE)];

/// Points that a start passes, or never: a kill there that does not come has been missed.
const AT_START: &[Point] = &[
    Point::SettleBegun,
    Point::TailRewritten,
    Point::Settled,
    Point::EpochNoted,
    Point::EpochFramed,
    Point::EpochOpen,
];

type Table = [(Point, &'static [u64])];

fn kills_of(part: Part, table: &Table) -> Vec<Kill> {
    let of = |(point, passings): &(Point, &'static [u64])| {
        let point = *point;
        passings.iter().map(move |passing| Kill {
            part,
            point,
            passing: *passing,
        })
    };
    table.iter().flat_map(of).collect()
}

/// Lives after which each kill of each table was tried once.
const CYCLE: usize = 12;

/// The share of a table that falls to a life.
fn share(part: Part, table: &Table, life: usize, lives: usize, index: usize) -> Vec<Kill> {
    let mut kills = kills_of(part, table);
    // The same lives in every run, and others in every cycle.
    fastrand::Rng::with_seed((life / CYCLE) as u64).shuffle(&mut kills);
    let share = kills.into_iter().skip(index).step_by(lives);
    share
        .flat_map(|kill| after(kill).into_iter().chain([kill]))
        .collect()
}

/// What leaves behind what a kill needs: only the tail of an unsealed segment is written again.
fn after(kill: Kill) -> Option<Kill> {
    let needs_tail = kill.point == Point::TailRewritten && kill.part != Part::Offline;
    needs_tail.then_some(Kill {
        point: Point::Written,
        passing: 5,
        ..kill
    })
}

/// A pair and what becomes of it.
struct Life {
    number: usize,
    site: Site,
    input: PathBuf,
    lines: Vec<String>,
    batches: Vec<LoadBatch>,
    seen: Vec<Kill>,
    /// What is going on, for whoever reads of a failure.
    now: String,
}

impl Life {
    fn new(number: usize) -> Self {
        // So that logs are compacted while nodes live and die.
        let tuning = Tuning {
            history_log: ByteSize(SEGMENT_SIZE / 4),
            flush_after_log: ByteSize(SEGMENT_SIZE / 4),
            ..Tuning::default()
        };
        let site = Site::tuned(SEGMENT_SIZE, tuning);
        let lines: Vec<String> = history(number as u64, BATCHES)
            .iter()
            .enumerate()
            .map(|(number, line)| {
                let value = format!("{number:06}").repeat(VALUE_LEN / 6);
                let put = format!(r#""ops":[["put","long/{}","{value}"],"#, number % 50);
                assert!(line.contains(r#""ops":["#), "{line}");
                line.replacen(r#""ops":["#, &put, 1)
            })
            .collect();
        let all: Vec<&str> = lines.iter().map(String::as_str).collect();
        let input = site.input("input.jsonl", &all);
        let batches = batches(&all);
        Self {
            number,
            site,
            input,
            lines,
            batches,
            seen: Vec::new(),
            now: String::new(),
        }
    }

    fn live(&mut self) {
        let (life, index) = (self.number, self.number % CYCLE);
        let (half, odd) = (index / 2, index % 2 == 1);
        let first = kills_of(Part::FirstSession, FIRST_SESSION)[index % FIRST_SESSION.len()];
        let b = self.first_session(first);
        self.primary(share(Part::Primary, PRIMARY, life, CYCLE, index));
        let b = if odd {
            self.fork(b, kills_of(Part::Fork, FORK))
        } else {
            self.fetch_back(&b, kills_of(Part::FetchBack, FETCH_BACK));
            b
        };
        let mut kills = share(Part::Standby, STANDBY, life, CYCLE, index);
        // At last one that leaves an unsealed segment to whoever promotes it.
        kills.push(Kill {
            part: Part::Standby,
            point: Point::RunAppended,
            passing: 5,
        });
        self.standby(&b, kills);
        let b = if odd {
            let mut kills = kills_of(Part::Promotion, PROMOTION);
            let last = kills_of(Part::Promotion, PROMOTION_LAST);
            kills.push(last[half % last.len()]);
            self.promotion(kills)
        } else {
            let mut kills = share(Part::Offline, OFFLINE, life, CYCLE / 2, half);
            kills.push(kills_of(Part::Offline, OFFLINE_LAST)[half % OFFLINE_LAST.len()]);
            self.offline(kills)
        };
        self.fence(&b, index);
    }

    /// Answers with the standby, which runs; the primary does not.
    fn first_session(&mut self, kill: Kill) -> NodeProcess {
        let primary_dies = kill.point == Point::AttachmentNoted;
        let (dies, other) = self.nodes(primary_dies);
        let other = self.start(&other);
        let dies = self.doomed(&dies, kill);
        let none = |_: &NodeProcess| false;
        assert!(self.dies(&dies, kill, none), "{}: not reached", self.now);
        if primary_dies {
            other
        } else {
            other.kill().unwrap();
            self.start(&self.site.pair.b.clone())
        }
    }

    fn nodes(&self, primary_first: bool) -> (NodePlace, NodePlace) {
        let pair = &self.site.pair;
        if primary_first {
            (pair.a.clone(), pair.b.clone())
        } else {
            (pair.b.clone(), pair.a.clone())
        }
    }

    /// Kills a primary under load, again and again.
    fn primary(&mut self, kills: Vec<Kill>) {
        let place = self.site.pair.a.clone();
        for (number, kill) in kills.into_iter().enumerate() {
            let a = self.doomed(&place, kill);
            let level = ["replicated", "local", "applied"][(self.number + number) % 3];
            let load = self
                .until_writing(&a)
                .map(|from| self.load(&a, from, level));
            let missed = load.is_some() && AT_START.contains(&kill.point);
            if missed || !self.dies_under(&a, kill, load) {
                a.kill().unwrap();
            }
            self.holds(&place, Level::Local);
        }
    }

    /// Kills a primary whose standby holds a tail that it never wrote, while it gets that back.
    fn fetch_back(&mut self, b: &NodeProcess, kills: Vec<Kill>) {
        let place = self.site.pair.a.clone();
        self.lose_a_tail(b);
        for kill in kills {
            let a = self.doomed(&place, kill);
            if !self.dies(&a, kill, writes) {
                a.kill().unwrap();
            }
            self.holds(&place, Level::Local);
        }
    }

    /// Goes on without such a tail, and kills the standby while it puts that aside.
    fn fork(&mut self, b: NodeProcess, kills: Vec<Kill>) -> NodeProcess {
        self.lose_a_tail(&b);
        b.kill().unwrap();
        let (a, place) = self.nodes(true);
        let a = self.start(&a);
        let alone = ["resume-alone", "--reason", "the standby does not answer"];
        support::ended(&self.site.pair.run(a.place(), alone).unwrap(), 0);
        self.write_some(&a);
        for kill in kills {
            let b = self.doomed(&place, kill);
            let end = a.status().unwrap().positions.durable;
            let follows = |b: &NodeProcess| {
                b.status()
                    .is_ok_and(|status| status.positions.visible.lsn >= end.lsn)
            };
            if !self.dies(&b, kill, follows) {
                b.kill().unwrap();
            }
        }
        let b = self.start(&place);
        b.until_connected().unwrap();
        a.kill().unwrap();
        b
    }

    /// Lets a primary die that has shipped a group and not written it.
    fn lose_a_tail(&mut self, b: &NodeProcess) {
        self.now = format!("life {}: losing a tail", self.number);
        let passing = fastrand::Rng::with_seed(self.number as u64).u64(20..200);
        let stall = format!("{}:{passing}", Point::WriteBegins.name());
        let pair = &self.site.pair;
        let a = pair
            .spawn(&pair.a, &[("OUTLAST_STALL_AT", &stall)])
            .unwrap();
        let from = self.until_writing(&a).expect("nothing ends it");
        let load = self.load(&a, from, "replicated");
        // For so many looks nothing moves, and the standby is ahead.
        let (mut before, mut still) = (None, 0);
        a.until("its standby is ahead", |a| {
            let (here, there) = (a.status()?.positions, b.status()?.positions);
            let ahead = here.durable.lsn < here.appended.lsn && there.durable == here.appended;
            let now = Some((here.appended, here.durable));
            still = if ahead && before == now { still + 1 } else { 0 };
            before = now;
            Ok((still > 20).then_some(()))
        })
        .unwrap();
        a.kill().unwrap();
        load.end();
        self.holds(a.place(), Level::Local);
    }

    /// Kills a standby under load, again and again, and its primary at last.
    fn standby(&mut self, b: &NodeProcess, kills: Vec<Kill>) {
        let (a, place) = self.nodes(true);
        let a = self.start(&a);
        let from = self.until_writing(&a).expect("nothing ends it");
        let mut load = self.load(&a, from, "replicated");
        b.kill().unwrap();
        for kill in kills {
            let b = self.doomed(&place, kill);
            let start = AT_START.contains(&kill.point);
            let missed = |b: &NodeProcess| {
                assert!(
                    !load.has_ended(),
                    "{kill:?}: the load is over: {}",
                    load.said()
                );
                start && b.until_connected().is_ok()
            };
            if !self.dies(&b, kill, missed) {
                b.kill().unwrap();
            }
            self.holds(&place, Level::Replicated);
        }
        a.kill().unwrap();
        load.end();
        self.holds(a.place(), Level::Local);
    }

    /// Promotes a standby that runs, and is killed.
    fn promotion(&mut self, kills: Vec<Kill>) -> NodeProcess {
        let place = self.site.pair.b.clone();
        for kill in kills {
            let b = self.doomed(&place, kill);
            let mut promoted = false;
            let promote = |b: &NodeProcess| {
                if b.status().is_ok() {
                    let output = self.site.pair.run(&place, promotion()).unwrap();
                    promoted = output.status.success();
                }
                promoted
            };
            let died = dies(&b, &format!("{kill:?}"), promote);
            assert!(died || promoted);
            if died {
                self.seen.push(kill);
            } else {
                b.kill().unwrap();
            }
            self.holds(&place, Level::Replicated);
        }
        let b = self.start(&place);
        if !writes(&b) {
            self.site
                .pair
                .promote(&place, "the primary was killed")
                .unwrap();
        }
        b
    }

    /// Promotes a standby that does not run, by a command that is killed. One that promotes it,
    /// since it ends before its kill or is killed too late, never was: the kills behind it want a
    /// standby.
    fn offline(&mut self, kills: Vec<Kill>) -> NodeProcess {
        let place = self.site.pair.b.clone();
        let before = self.site.path("before");
        let mut left = kills.len();
        for kill in kills {
            left -= 1;
            self.now = format!("life {}: {kill:?}", self.number);
            link_or_copy(place.dir(), &before, |from, to| {
                fs::copy(from, to).map(drop)
            });
            let mut command = self.site.pair.command(&place, promotion());
            let output = command.env("OUTLAST_KILL_AT", at(kill)).output().unwrap();
            let died = output.status.signal() == Some(SIGKILL);
            if died {
                self.seen.push(kill);
            } else {
                support::ended(&output, 0);
            }
            let standby = !self.has_begun_an_epoch(&place);
            self.holds(&place, Level::Replicated);
            if standby || died && left == 0 {
                fs::remove_dir_all(&before).unwrap();
            } else {
                fs::remove_dir_all(place.dir()).unwrap();
                fs::rename(&before, place.dir()).unwrap();
            }
        }
        let output = self.site.pair.run(&place, promotion()).unwrap();
        support::ended(&output, 0);
        self.start(&place)
    }

    /// Lets the old primary meet the new one, and kills it when it fences itself.
    fn fence(&mut self, b: &NodeProcess, index: usize) {
        let promoted = self.until_writing(b).expect("nothing ends it");
        let acknowledged = self.acknowledged(Level::Replicated);
        assert!(
            acknowledged <= promoted,
            "life {}: batch {acknowledged} was acknowledged, and {promoted} were promoted",
            self.number
        );
        self.write_some(b);
        let place = self.site.pair.a.clone();
        let mut kills = kills_of(Part::Fence, FENCE);
        let between = [
            Point::ReplaceWritten,
            Point::ReplaceSynced,
            Point::ReplaceRenamed,
            Point::ManifestReplaced,
        ][index % 4];
        // Once the manifest has its name the fence is there: nothing is noted again.
        if index % 4 > 1 {
            kills.pop();
        }
        let passing = 1;
        let part = Part::Fence;
        let point = between;
        kills.insert(
            1,
            Kill {
                part,
                point,
                passing,
            },
        );
        for kill in kills {
            let a = self.doomed(&place, kill);
            assert!(self.dies(&a, kill, is_fenced), "{}: not reached", self.now);
            self.holds(&place, Level::Local);
        }
        self.now = format!("life {}: at its end", self.number);
        let a = self.start(&place);
        a.until("it is fenced", |a| Ok(is_fenced(a).then_some(())))
            .unwrap();
        let (old, new) = (self.prefix(&a), self.prefix(b));
        assert!(
            0 < old && promoted < new,
            "{}: {old}, {promoted}, {new}",
            self.now
        );
    }

    fn start(&self, place: &NodePlace) -> NodeProcess {
        self.site.start_one(place)
    }

    /// Starts a node that will end itself.
    fn doomed(&mut self, place: &NodePlace, kill: Kill) -> NodeProcess {
        self.now = format!("life {}: {kill:?}", self.number);
        let pair = &self.site.pair;
        pair.spawn(place, &[("OUTLAST_KILL_AT", &at(kill))])
            .unwrap()
    }

    /// Waits until a node has ended itself; `false` when `missed` says that it will not.
    fn dies(
        &mut self,
        node: &NodeProcess,
        kill: Kill,
        missed: impl FnMut(&NodeProcess) -> bool,
    ) -> bool {
        let died = dies(node, &self.now, missed);
        if died {
            self.seen.push(kill);
        }
        died
    }

    fn dies_under(&mut self, a: &NodeProcess, kill: Kill, load: Option<Loading>) -> bool {
        let Some(mut load) = load else {
            return self.dies(a, kill, |_| false);
        };
        let died = self.dies(a, kill, |_| load.has_ended());
        let said = load.said();
        let (status, _) = load.end();
        // One that was killed takes its load with it, a moment earlier or later.
        assert!(!status.success(), "{}: not reached: {said}", self.now);
        died || self.dies(a, kill, |_| false)
    }

    /// Waits until a node takes writes, and answers how many batches it holds; `None` when it ends
    /// before.
    fn until_writing(&self, node: &NodeProcess) -> Option<u64> {
        let deadline = Instant::now() + PATIENCE;
        while node.ended().unwrap().is_none() {
            if writes(node)
                && let Ok(prefix) = self.try_prefix(node)
            {
                let acknowledged = self.acknowledged(Level::Replicated);
                assert!(acknowledged <= prefix, "{}: {prefix} are there", self.now);
                return Some(prefix);
            }
            let status = node.status();
            let said = node.said();
            assert!(
                Instant::now() < deadline,
                "{}: it takes no writes: {status:?}{said}",
                self.now
            );
            std::thread::park_timeout(Duration::from_millis(1));
        }
        None
    }

    fn load(&self, node: &NodeProcess, from: u64, level: &str) -> Loading {
        let from = from.to_string();
        let arguments = [
            "--from",
            &from,
            "--level",
            level,
            "--rate",
            RATE,
            "--in-flight",
            IN_FLIGHT,
        ];
        self.site.begin_load(node.place(), &self.input, &arguments)
    }

    /// Commits a few batches more, and waits for all of them.
    fn write_some(&self, node: &NodeProcess) {
        let from = self.until_writing(node).expect("nothing ends it");
        let until = usize::try_from(from).unwrap() + 40;
        let lines: Vec<&str> = self.lines[..until].iter().map(String::as_str).collect();
        let input = self.site.input("some.jsonl", &lines);
        let output = self
            .site
            .load(node.place(), &input, &["--from", &from.to_string()]);
        support::ended(&output, 0);
        assert_eq!(self.prefix(node), until as u64, "{}", self.now);
    }

    /// That the directory of a node that does not run holds what was acknowledged at a level.
    fn holds(&self, place: &NodePlace, level: Level) {
        let held = self.look_at(place, |store| store.positions().appended.commit);
        let acknowledged = self.acknowledged(level);
        assert!(
            acknowledged <= held,
            "{}: batch {acknowledged} was acknowledged, and {} holds {held}",
            self.now,
            place.name()
        );
    }

    /// Whether the newest epoch in the log of a node that does not run is its own.
    fn has_begun_an_epoch(&self, place: &NodePlace) -> bool {
        self.look_at(place, |store| {
            let history = store.history();
            history
                .last()
                .is_some_and(|epoch| epoch.node == store.node())
        })
    }

    /// Looks at the store of a node that does not run, under other names: opening it would hold it
    /// for a moment.
    fn look_at<T>(&self, place: &NodePlace, look: impl FnOnce(&Store) -> T) -> T {
        let other = self.site.path("looked-at");
        link_or_copy(place.dir(), &other, |from, to| fs::hard_link(from, to));
        let store = Store::open(&other, Config::default()).unwrap();
        let seen = look(&store);
        store.close().unwrap();
        fs::remove_dir_all(&other).unwrap();
        seen
    }

    /// How many batches begin the input and end with the newest that was acknowledged at a level or
    /// a higher one.
    fn acknowledged(&self, level: Level) -> u64 {
        let ledger = self.site.path("ledger.jsonl");
        let lines = if ledger.exists() {
            Ledger::read(&ledger).unwrap()
        } else {
            Vec::new()
        };
        let at_level = lines
            .iter()
            .filter(|line| level == Level::Local || line.level != Level::Local);
        at_level.map(|line| line.batch + 1).max().unwrap_or(0)
    }

    fn prefix(&self, node: &NodeProcess) -> u64 {
        self.try_prefix(node).unwrap()
    }

    fn try_prefix(&self, node: &NodeProcess) -> anyhow::Result<u64> {
        // The keyspace is not there before the first batch.
        if node.status()?.positions.visible.commit == 0 {
            return Ok(0);
        }
        Ok(self.prefix_of(&node.scan()?))
    }

    /// The only number of batches after which the state is this.
    fn prefix_of(&self, state: &model::State) -> u64 {
        let equal = model::prefixes(&self.batches, state);
        assert_eq!(
            equal.len(),
            1,
            "{}: a state that never was: {equal:?}",
            self.now
        );
        equal[0]
    }
}

/// Gives the files of a directory, and of those in it, names in another one, or copies them there.
fn link_or_copy(from: &Path, to: &Path, file: fn(&Path, &Path) -> io::Result<()>) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, to) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            link_or_copy(&entry.path(), &to, file);
        } else if kind.is_file() && entry.file_name() != "LOCK" {
            file(&entry.path(), &to).unwrap();
        }
    }
}

/// How a process is told. It dies at once at the odd passings; at the even ones what it has
/// promised too early has a moment to get out.
fn at(kill: Kill) -> String {
    let wait_ms = if kill.passing.is_multiple_of(2) { 5 } else { 0 };
    format!("{}:{}:{wait_ms}", kill.point.name(), kill.passing)
}

fn promotion() -> [&'static str; 6] {
    let reason = "the primary was killed";
    [
        "promote",
        "--primary-is-down",
        "--accept-loss",
        "unbounded",
        "--reason",
        reason,
    ]
}

fn role(node: &NodeProcess) -> Option<Role> {
    Some(node.status().ok()?.role)
}

fn writes(node: &NodeProcess) -> bool {
    role(node) == Some(Role::Primary)
}

fn is_fenced(node: &NodeProcess) -> bool {
    matches!(role(node), Some(Role::Fenced { .. }))
}

/// Waits until a node has ended itself; `false` when `missed` says that it will not.
fn dies(node: &NodeProcess, what: &str, mut missed: impl FnMut(&NodeProcess) -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Looked at first: what ends it may end at the same moment.
        let missed = missed(node);
        if let Some(status) = node.ended().unwrap() {
            let said = node.said();
            assert_eq!(status.signal(), Some(SIGKILL), "{what}: {status}{said}");
            return true;
        }
        if missed {
            return false;
        }
        assert!(
            Instant::now() < deadline,
            "{what}: not reached{}",
            node.said()
        );
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Lives these lives, two at a time.
fn live_all(lives: Range<usize>, seen: &mut Vec<Kill>) {
    let next = AtomicUsize::new(lives.start);
    let found = Mutex::new(seen);
    let live = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= lives.end {
                return;
            }
            let began = Instant::now();
            let mut life = Life::new(number);
            life.live();
            let (kills, took) = (life.seen.len(), began.elapsed());
            eprintln!("life {number} (its number is its seed): {kills} kills in {took:.1?}");
            found.lock().unwrap().append(&mut life.seen);
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(live);
        live();
        other.join().unwrap();
    });
}

#[test]
fn a_node_killed_at_any_point_keeps_what_was_acknowledged() {
    let wanted = std::env::var("OUTLAST_KILLS").ok();
    let wanted = wanted.map_or(KILLS, |text| {
        text.parse().expect("OUTLAST_KILLS is a number")
    });
    let mut seen = Vec::new();
    let mut lives = 0..CYCLE;
    if let Ok(life) = std::env::var("OUTLAST_LIFE") {
        let life: usize = life.parse().expect("OUTLAST_LIFE is the number of a life");
        return live_all(life..life + 1, &mut seen);
    }
    // Whole cycles, since each kill of each table falls to one life of a cycle.
    while seen.len() < wanted {
        live_all(lives.clone(), &mut seen);
        lives = lives.end..lives.end + CYCLE;
    }
    let mut counts: BTreeMap<Part, BTreeMap<&str, u32>> = BTreeMap::new();
    for kill in &seen {
        *counts
            .entry(kill.part)
            .or_default()
            .entry(kill.point.name())
            .or_default() += 1;
    }
    for (part, counts) in &counts {
        eprintln!("{part:?}: {counts:?}");
    }
    let total = seen.len();
    let bound = 300.0 / total as f64;
    eprintln!("{total} kills at named points; at most {bound:.1} % fail (95 % confidence, 3/n)");
    let missed: Vec<_> = [
        (Part::FirstSession, FIRST_SESSION),
        (Part::Primary, PRIMARY),
        (Part::FetchBack, FETCH_BACK),
        (Part::Fork, FORK),
        (Part::Standby, STANDBY),
        (Part::Promotion, PROMOTION),
        (Part::Promotion, PROMOTION_LAST),
        (Part::Offline, OFFLINE),
        (Part::Offline, OFFLINE_LAST),
        (Part::Fence, FENCE),
    ]
    .into_iter()
    .flat_map(|(part, table)| table.iter().map(move |(point, _)| (part, *point)))
    .filter(|(part, point)| {
        !seen
            .iter()
            .any(|kill| (kill.part, kill.point) == (*part, *point))
    })
    .collect();
    assert!(missed.is_empty(), "no kill was seen at {missed:?}");
    let nowhere: Vec<_> = Point::ALL
        .iter()
        .filter(|point| !seen.iter().any(|kill| kill.point == **point))
        .collect();
    assert!(nowhere.is_empty(), "no kill was seen at {nowhere:?}");
    assert!(total >= wanted, "{total} kills, {wanted} wanted");
}
