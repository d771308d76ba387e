//! A small model of a pair (gate, lease, sessions, protection record, promotion), of which every
//! reachable state is visited, the shortest traces first.
//!
//! It is a model: the rules are written down again, small and with whole ticks as time; no code of
//! the product runs here. The simulator is what runs the product's own cores. What the model adds
//! is that within its limits no order of events is left out, and that each of its rules is shown
//! to be needed: with one switched off, the search finds what goes wrong.
//!
//! [`mod@search`] knows nothing of the pair; [`pair`] is what may happen; [`rules`] is what can be
//! switched off.

pub mod pair;
pub mod rules;
pub mod search;
mod words;

use pair::{Pair, Step};
use rules::Rule;
use search::{Searched, search};

/// The configurations, each with a name: what they differ in is what is promised, and what of the
/// world's freedom is kept small so that all of it can be visited.
#[must_use]
pub fn configurations() -> Vec<(&'static str, Pair)> {
    let commits = Pair {
        off: None,
        frames: 3,
        bound: Some(1),
        record: None,
        sessions: 1,
        under_way: 1,
        clock: 3,
        primary_crashes: 0,
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
                record: Some((3, 1)),
                ..commits
            },
        ),
        (
            "loosening",
            Pair {
                bound: Some(0),
                record: Some((1, 2)),
                ..commits
            },
        ),
    ]
}

/// The configuration in which the lack of `rule` shows, and what the search finds there without it.
#[must_use]
pub fn without(rule: Rule) -> (&'static str, Searched<Step>) {
    let shows = match rule {
        Rule::AckAfterFsync | Rule::SilenceFromRestart => "standby restarts",
        Rule::EchoOfThisSession | Rule::HandshakeOfThisSession | Rule::RestartWaitsForStandby => {
            "primary restarts"
        }
        Rule::CertificateByRecord => "in force",
        Rule::LooseningWaitsForStandby => "loosening",
        _ => "commits",
    };
    let mut all = configurations().into_iter();
    let (name, pair) = all
        .find(|(name, _)| *name == shows)
        .expect("it is one of them");
    (
        name,
        search(
            &Pair {
                off: Some(rule),
                ..pair
            },
            usize::MAX,
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_order_of_events_breaks_a_promise() {
        // The largest one is left to the binary.
        for (name, pair) in configurations() {
            if name != "primary restarts" && name != "duplicates" {
                let searched = search(&pair, usize::MAX);
                assert!(
                    searched.complete && searched.found.is_none(),
                    "{name}: {searched:?}"
                );
            }
        }
    }

    #[test]
    fn each_rule_is_needed() {
        for rule in Rule::ALL {
            let (name, searched) = without(rule);
            assert!(
                searched.found.is_some(),
                "nothing goes wrong without {rule:?} in {name}"
            );
        }
    }
}
