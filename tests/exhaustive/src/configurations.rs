//! The configurations that are searched: what they differ in is what is promised, and what of the
//! world's freedom is kept small so that all of it can be visited.

use crate::pair::{self, Pair, Record, Rule};
use crate::search::{Searched, search};
use crate::terms::{self, Nodes};

const fn in_force(at: u8, bound: u8) -> Record {
    let lasts = None;
    Record { at, bound, lasts }
}

const fn suspended(at: u8, bound: u8) -> Record {
    let lasts = Some(1);
    Record { at, bound, lasts }
}

/// Those of a pair with its clocks, each with a name.
#[must_use]
pub fn pairs() -> Vec<(&'static str, Pair)> {
    let commits = Pair {
        off: None,
        frames: 3,
        bound: Some(1),
        time: None,
        records: &[],
        sessions: 1,
        under_way: 1,
        clock: 3,
        primary_crashes: 0,
        alone: false,
        standby_crashes: 0,
        duplicates: false,
    };
    let primary = Pair {
        frames: 1,
        sessions: 2,
        under_way: 2,
        primary_crashes: 1,
        ..commits
    };
    let duplicates = Pair {
        frames: 2,
        under_way: 2,
        duplicates: true,
        ..commits
    };
    vec![
        ("commits", commits),
        (
            "standby restarts",
            Pair {
                standby_crashes: 1,
                ..commits
            },
        ),
        ("primary restarts", primary),
        ("duplicates", duplicates),
        (
            "in force",
            Pair {
                bound: None,
                records: const { &[in_force(3, 1)] },
                ..commits
            },
        ),
        (
            "loosening",
            Pair {
                bound: Some(0),
                records: const { &[in_force(1, 2)] },
                ..commits
            },
        ),
        (
            "time",
            Pair {
                bound: Some(3),
                time: Some(1),
                ..commits
            },
        ),
        (
            "suspension",
            Pair {
                bound: Some(0),
                frames: 2,
                records: const { &[suspended(1, 0)] },
                standby_crashes: 1,
                ..commits
            },
        ),
        (
            "resumption",
            Pair {
                bound: Some(0),
                records: const { &[suspended(1, 0), in_force(2, 0)] },
                ..commits
            },
        ),
        (
            "suspended, the primary restarts",
            Pair {
                bound: Some(0),
                frames: 1,
                records: const { &[suspended(1, 0)] },
                sessions: 2,
                primary_crashes: 1,
                ..commits
            },
        ),
        (
            "the primary goes on alone",
            Pair {
                bound: Some(0),
                alone: true,
                under_way: 1,
                ..primary
            },
        ),
    ]
}

/// Those of up to three nodes without clocks, each with a name.
#[must_use]
pub fn nodes() -> Vec<(&'static str, Nodes)> {
    let chain = Nodes {
        off: None,
        standbys: [0b010, 0b100, 0],
        commits: 3,
        sessions: 3,
        under_way: 1,
        promotions: 2,
        crashes: 1,
        restores: 0,
        alone: 0,
    };
    let both = Nodes {
        standbys: [0b110, 0b100, 0b010],
        crashes: 0,
        ..chain
    };
    let alone = Nodes {
        standbys: [0b010, 0, 0],
        under_way: 2,
        promotions: 1,
        alone: 1,
        ..chain
    };
    vec![
        ("chain", chain),
        (
            "back and forth",
            Nodes {
                standbys: [0b010, 0b001, 0],
                restores: 1,
                ..chain
            },
        ),
        ("two standbys", both),
        (
            "two standbys, a crash",
            Nodes {
                commits: 2,
                sessions: 2,
                crashes: 1,
                ..both
            },
        ),
        (
            "promoted twice",
            Nodes {
                standbys: [0b110, 0b001, 0b001],
                commits: 2,
                crashes: 0,
                restores: 1,
                ..chain
            },
        ),
        ("alone", alone),
    ]
}

/// The configuration of a pair in which the lack of `rule` shows, and what the search finds there
/// without it.
#[must_use]
pub fn pair_without(rule: Rule) -> (&'static str, Searched<pair::Step>) {
    let shows = match rule {
        Rule::AckAfterFsync | Rule::SilenceFromRestart => "standby restarts",
        Rule::EchoOfThisSession | Rule::HandshakeOfThisSession | Rule::RestartWaitsForStandby => {
            "primary restarts"
        }
        Rule::CertificateByRecord => "in force",
        Rule::CertificateInForce | Rule::NoteBeforeEcho | Rule::SuspensionHeard => "suspension",
        Rule::AnswerWithinTime => "time",
        Rule::EpochStartTold => "the primary goes on alone",
        Rule::LooseningWaitsForStandby => "loosening",
        _ => "commits",
    };
    let (name, pair) = named(pairs(), shows);
    let off = Some(rule);
    (name, search(&Pair { off, ..pair }, usize::MAX))
}

/// The same for up to three nodes.
#[must_use]
pub fn nodes_without(rule: terms::Rule) -> (&'static str, Searched<terms::Step>) {
    use terms::Rule;
    let shows = match rule {
        Rule::EqualTermsConflict | Rule::EpochsHaveIds => "promoted twice",
        Rule::FollowsHighestOnly | Rule::AllHoldIt => "two standbys",
        Rule::TermNotedFirst | Rule::TermAboveHeard => "two standbys, a crash",
        Rule::HandshakeOfThisSession
        | Rule::AckOfThisSession
        | Rule::DurableHereToo
        | Rule::FenceDurable => "alone",
        _ => "chain",
    };
    let (name, nodes) = named(nodes(), shows);
    let off = Some(rule);
    (name, search(&Nodes { off, ..nodes }, usize::MAX))
}

fn named<T>(all: Vec<(&'static str, T)>, name: &str) -> (&'static str, T) {
    let mut all = all.into_iter();
    all.find(|(other, _)| *other == name)
        .expect("it is one of them")
}
