//! What is to go wrong, drawn from the seed before anything happens.
//!
//! Each seed allows only some kinds of faults, so that rare combinations of few are tried and not
//! only the soup of all.

mod promise;

use fastrand::Rng;
use outlast_proto::{Action, Policy};

pub(crate) use self::promise::{Accept, PromisePlan};
use crate::clock::RATE_ONE_PPM;

const MS: u64 = 1_000_000;

/// The kinds of faults that are several.
const HARASS: u8 = 13;
const SPOIL: u8 = 14;

/// Something that goes wrong, or that an operator does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Act {
    /// The machine loses power: of what was not synced, any sector may be lost.
    Power(usize),
    /// Both machines lose power.
    BothPower,
    /// The machine loses power in the middle of its next writes: behind so many operations.
    PowerAt { node: usize, operations: u64 },
    /// The process dies; what it wrote stays in the page cache.
    Kill(usize),
    /// The process is stopped in an orderly way, and started again.
    Stop(usize),
    /// An operation of the disk fails, once or from then on.
    DiskError {
        node: usize,
        operations: u64,
        sticky: bool,
    },
    /// The disk has no room for a while.
    DiskFull { node: usize, for_ns: u64 },
    /// Fsyncs take long for a while.
    SlowDisk { node: usize, for_ns: u64 },
    /// Nothing gets through from these nodes for a while.
    Cut { from: [bool; 2], for_ns: u64 },
    /// All links break.
    Break,
    /// The date of a machine is set.
    WallJump { node: usize, by_ms: i64 },
    /// An operator promotes the standby.
    Promote { node: usize, sick: bool, dry: bool },
    /// An operator lets a restarted primary go on without its standby.
    ResumeAlone(usize),
    /// An operator has looked at the clock of a machine.
    ConfirmTime(usize),
    /// A backup is taken, and a node made of it.
    Restore(usize),
    /// An operator says how much may be lost.
    SetPolicy { policy: Policy, action: Action },
    /// An operator suspends the promise.
    Suspend { lasts_ms: u64 },
    /// An operator ends the suspension.
    ResumeProtection,
    /// A process stands still for a while, and its clock does not.
    Pause { node: usize, for_ns: u64 },
    /// The line is cut, and an operator promotes the standby at the first moment at which its
    /// silence fences the primary.
    TakeOver { from: [bool; 2] },
    /// An operator promotes the standby for a loss that he accepts.
    PromoteFor {
        accept: Accept,
        down: bool,
        sick: bool,
    },
}

/// Everything about a run that is fixed beforehand.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Whether there is a second node.
    pub(crate) pair: bool,
    /// How long faults and load go on.
    pub(crate) chaos_ns: u64,
    pub(crate) acts: Vec<(u64, Act)>,
    pub(crate) rates_ppm: [u64; 2],
    pub(crate) wall_offsets_ms: [i64; 2],
    pub(crate) latency_ns: u64,
    pub(crate) fsync_ns: u64,
    /// How many times longer fsyncs take on a slow disk.
    pub(crate) slower: u64,
    pub(crate) commit_gap_ns: u64,
    pub(crate) value_len_max: usize,
    /// In percent: commits that wait for the standby.
    pub(crate) replicated: u8,
    /// In percent: groups between whose steps other things happen.
    pub(crate) stepped: u8,
    /// In percent: starts during which the power goes again.
    pub(crate) nested: u8,
    /// In percent: puts that expire.
    pub(crate) expiring: u8,
    /// How far ahead of the log a wall clock may be when a node begins to write.
    pub(crate) ahead_max_ms: u64,
    /// Whether messages of earlier sessions turn up again.
    pub(crate) replays: bool,
    /// Whether bits of data flip on their way.
    pub(crate) flips: bool,
    /// Whether bits of a log flip while the machine is down.
    pub(crate) rots: bool,
    /// What is promised about loss, if anything is.
    pub(crate) promise: Option<PromisePlan>,
}

impl Plan {
    pub(crate) fn draw(seed: u64, rng: &mut Rng) -> Self {
        let pair = rng.u8(..100) < 90;
        let chaos_ns = rng.u64(800..3_000) * MS;
        let mut rate = || match rng.u8(..4) {
            0 => RATE_ONE_PPM,
            1 => rng.u64(RATE_ONE_PPM - 500..=RATE_ONE_PPM + 500),
            _ => rng.u64(RATE_ONE_PPM * 8 / 10..=RATE_ONE_PPM * 12 / 10),
        };
        let rates_ppm = [rate(), rate()];
        let hour_ms = 3_600_000;
        let mut offset = || rng.i64(-24 * hour_ms..24 * hour_ms);
        let wall_offsets_ms = [offset(), offset()];
        let kinds = Self::kinds(rng, pair);
        let count = rng.usize(1..=8);
        let mut acts = Vec::new();
        for _ in 0..count {
            let at = rng.u64(20 * MS..chaos_ns);
            match rng.choice(&kinds) {
                Some(&HARASS) => acts.extend(Self::harass(rng, at)),
                Some(&SPOIL) => acts.extend(Self::spoil(rng, at, pair)),
                Some(&kind) => acts.push((at, Self::act(rng, kind, pair))),
                None => {}
            }
        }
        let ahead_max_ms = *rng.choice(&[1, 400]).unwrap_or(&1) * 3_600_000;
        let node = |rng: &mut Rng| if pair { rng.usize(..2) } else { 0 };
        for _ in 0..rng.u8(..3) {
            let at = rng.u64(20 * MS..chaos_ns);
            match rng.u8(..4) {
                0 => acts.push((at, Act::ConfirmTime(node(rng)))),
                1 => acts.push((at, Act::Restore(node(rng)))),
                _ => acts.extend(Self::leap(rng, at)),
            }
        }
        acts.sort_by_key(|(at, _)| *at);
        let mut plan = Self {
            pair,
            chaos_ns,
            acts,
            rates_ppm,
            wall_offsets_ms,
            latency_ns: rng.u64(50_000..8 * MS),
            fsync_ns: rng.u64(50_000..4 * MS),
            slower: *rng.choice(&[10, 40, 150]).unwrap_or(&40),
            commit_gap_ns: rng.u64(4 * MS..30 * MS),
            value_len_max: *rng.choice(&[40, 200, 1_000, 4_000]).unwrap_or(&200),
            replicated: rng.u8(..80),
            stepped: *rng.choice(&[0, 30, 90]).unwrap_or(&30),
            nested: *rng.choice(&[0, 20, 50]).unwrap_or(&20),
            expiring: *rng.choice(&[0, 10, 40]).unwrap_or(&10),
            ahead_max_ms,
            replays: rng.u8(..5) == 0,
            flips: rng.u8(..8) == 0,
            rots: rng.u8(..6) == 0,
            promise: None,
        };
        promise::add(seed, &mut plan);
        plan
    }

    /// The kinds of faults that this seed knows.
    fn kinds(rng: &mut Rng, pair: bool) -> Vec<u8> {
        const ALONE: [u8; 9] = [0, 1, 2, 3, 4, 5, 6, 7, SPOIL];
        const PAIR: [u8; 8] = [8, 9, 10, 11, 11, 12, HARASS, HARASS];
        let mut all = ALONE.to_vec();
        if pair {
            all.extend(PAIR);
        }
        let share = rng.u8(20..=100);
        let mut kinds: Vec<u8> = all
            .iter()
            .copied()
            .filter(|_| rng.u8(..100) < share)
            .collect();
        if kinds.is_empty() {
            kinds = all;
        }
        kinds
    }

    /// Several faults that belong together: a slow disk, a line that breaks meanwhile, and then no
    /// power.
    fn harass(rng: &mut Rng, at: u64) -> [(u64, Act); 3] {
        let node = usize::from(rng.u8(..4) != 0);
        let for_ns = rng.u64(100..600) * MS;
        let breaks = at + rng.u64(..for_ns / 2);
        let fails = breaks + rng.u64(..250) * MS;
        [
            (at, Act::SlowDisk { node, for_ns }),
            (breaks, Act::Break),
            (fails, Act::Power(node)),
        ]
    }

    /// The date of the first node is set far on, and its process begins anew: log time leaps, or
    /// stands still.
    fn leap(rng: &mut Rng, at: u64) -> [(u64, Act); 2] {
        let by_ms = rng.i64(30..80) * 3_600_000;
        [
            (at, Act::WallJump { node: 0, by_ms }),
            (at + MS, Act::Kill(0)),
        ]
    }

    /// An operation of a disk fails once, and then there is no power.
    fn spoil(rng: &mut Rng, at: u64, pair: bool) -> [(u64, Act); 2] {
        let node = if pair { rng.usize(..2) } else { 0 };
        let fails = Act::DiskError {
            node,
            operations: rng.u64(1..12),
            sticky: false,
        };
        let dark = at + rng.u64(5..150) * MS;
        [(at, fails), (dark, Act::Power(node))]
    }

    fn act(rng: &mut Rng, kind: u8, pair: bool) -> Act {
        let node = if pair { rng.usize(..2) } else { 0 };
        let operations = rng.u64(1..60);
        let for_ns = rng.u64(20..900) * MS;
        match kind {
            0 => Act::Power(node),
            1 => Act::PowerAt { node, operations },
            2 => Act::Kill(node),
            3 => Act::Stop(node),
            4 => Act::DiskError {
                node,
                operations,
                sticky: rng.bool(),
            },
            5 => Act::DiskFull { node, for_ns },
            6 => Act::SlowDisk { node, for_ns },
            7 => Act::WallJump {
                node,
                by_ms: {
                    let far_ms = *rng
                        .choice(&[2_000, 7_200_000, 86_400_000, 400_000_000])
                        .unwrap_or(&2_000);
                    rng.i64(-far_ms..far_ms)
                },
            },
            8 => Act::BothPower,
            9 => Act::Break,
            10 => Act::Cut {
                from: *rng
                    .choice(&[[true, true], [true, false], [false, true]])
                    .unwrap_or(&[true; 2]),
                for_ns,
            },
            11 => Act::Promote {
                node: usize::from(rng.u8(..8) != 0),
                sick: rng.bool(),
                dry: rng.u8(..5) == 0,
            },
            _ => Act::ResumeAlone(usize::from(rng.u8(..4) == 0)),
        }
    }
}
