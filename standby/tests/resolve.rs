//! Conflicts: two histories of which neither may give way, until an operator has chosen.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::path::Path;

use outlast_standby::certificate::Outcome;
use outlast_standby::config::Policy;
use outlast_standby::engine::Level;
use outlast_standby::status::Role;
use outlast_standby::{
    Card, NewNode, Node, Resolution, ResolveOptions, ResolveOutcome, card, restore,
};

use support::{Pair, keys, options, put, trust, until, until_promotable};

fn in_conflict(node: &Node) -> bool {
    matches!(node.status().role, Role::Conflict { .. })
}

fn epoch(node: &Node) -> String {
    node.status().epoch.unwrap().id.to_string()
}

fn keep(node: &Node, epoch: &str) -> Resolution {
    let options = ResolveOptions {
        keep: epoch.to_owned(),
        dry_run: false,
        reason: "its clients were the last to write".to_owned(),
    };
    let dry = ResolveOptions {
        dry_run: true,
        ..options.clone()
    };
    // A dry run says the same and changes nothing.
    let before = node.status();
    let would = node.resolve(&dry).unwrap().outcome;
    let after = node.status();
    assert_eq!((after.role, after.epoch), (before.role, before.epoch));
    let done = node.resolve(&options).unwrap();
    let expected = match &done.outcome {
        ResolveOutcome::Kept => ResolveOutcome::WouldKeep,
        ResolveOutcome::Fork => ResolveOutcome::WouldBeFork,
        refused => refused.clone(),
    };
    assert_eq!(would, expected);
    done
}

/// A pair of which both nodes were promoted in the same term: the standby, and a standby made from
/// a backup in the place of the primary that is gone. They have met.
fn promoted_twice() -> (Pair, Node, Node) {
    let (pair, a, b) = Pair::met();
    let backup = pair.path("backup");
    a.store().checkpoint(&backup).unwrap();
    put(&a, "two", Level::Applied).unwrap();
    a.stop().unwrap();
    until_promotable(&b);
    assert_eq!(b.promote(&options()).unwrap().outcome, Outcome::Promoted);
    put(&b, "on-b", Level::Local).unwrap();

    let restored = restore_as_a(&pair, &backup, "c");
    let c = pair.start("c");
    assert_eq!(c.promote(&options()).unwrap().outcome, Outcome::Promoted);
    put(&c, "on-c", Level::Local).unwrap();
    // The one that was there first does not know the other yet.
    assert_eq!(
        (b.status().role, c.status().role),
        (Role::Primary, Role::Primary)
    );
    trust(&pair.path("b"), &restored, pair.address("a").port());
    until("the conflict is seen", || {
        in_conflict(&b) && in_conflict(&c)
    });
    (pair, b, c)
}

#[test]
fn two_that_were_promoted_in_one_term_stop_and_the_one_that_is_kept_goes_on() {
    let (pair, b, c) = promoted_twice();
    for node in [&b, &c] {
        assert!(put(node, "neither", Level::Local).is_err());
        let Role::Conflict { what } = node.status().role else {
            panic!("{:?}", node.status().role)
        };
        assert!(
            what.contains(&epoch(&b)) && what.contains(&epoch(&c)),
            "{what}"
        );
        assert!(node.status().next.unwrap().contains("outlast resolve"));
    }
    // Durably.
    drop(b);
    let b = pair.start("b");
    assert!(in_conflict(&b));
    assert!(put(&b, "neither", Level::Local).is_err());
    let refused = b.promote(&options()).unwrap().outcome;
    assert!(matches!(refused, Outcome::Refused { .. }), "{refused:?}");
    // A few digits of the other one's epoch are too easily mistaken.
    let unclear = keep(&b, &epoch(&c)[..8]);
    assert!(
        matches!(unclear.outcome, ResolveOutcome::Refused { .. }),
        "{unclear:?}"
    );
    assert!(in_conflict(&b));

    let mut roles = b.roles();
    let kept = keep(&b, &epoch(&b)[..8]);
    assert_eq!(kept.outcome, ResolveOutcome::Kept);
    assert!(kept.lost_report.known().is_none() && kept.rejoin.known().is_none());
    assert_eq!(kept.epoch.unwrap().term, 3);
    assert_eq!(roles.borrow_and_update().role, Role::Primary);
    put(&b, "after", Level::Local).unwrap();
    assert_eq!(keys(&b), ["after", "on-b", "one", "two"]);
    // The other one steps back when they meet, whole and readable.
    until("the other one is fenced", || {
        c.status().role == Role::Fenced { term: 3 }
    });
    assert_eq!(keys(&c), ["on-c", "one"]);
    assert!(put(&c, "neither", Level::Local).is_err());
    // Both stay what they are.
    drop((b, c));
    let (b, c) = (pair.start("b"), pair.start("c"));
    assert_eq!(
        b.status().role,
        Role::Primary,
        "no standby ever attached to it"
    );
    assert_eq!(c.status().role, Role::Fenced { term: 3 });
    assert_eq!(keys(&c), ["on-c", "one"]);
    put(&b, "later", Level::Local).unwrap();
    let settled = keep(&b, &epoch(&b));
    assert!(
        matches!(settled.outcome, ResolveOutcome::Refused { .. }),
        "{settled:?}"
    );
}

#[test]
fn one_that_is_not_kept_steps_back_before_they_can_meet() {
    let (pair, b, c) = promoted_twice();
    let kept = epoch(&b);
    drop(b);
    let stepped_back = keep(&c, &kept);
    assert_eq!(stepped_back.outcome, ResolveOutcome::Fork);
    assert_eq!(c.status().role, Role::Fenced { term: 2 });
    drop(c);
    let c = pair.start("c");
    assert_eq!(c.status().role, Role::Fenced { term: 2 });
    assert_eq!(keys(&c), ["on-c", "one"]);
    let b = pair.start("b");
    assert_eq!(keep(&b, &kept).outcome, ResolveOutcome::Kept);
    put(&b, "after", Level::Local).unwrap();
    until("they meet", || c.status().role == Role::Fenced { term: 3 });
    assert_eq!(b.status().role, Role::Primary);
}

#[test]
fn two_operators_who_choose_otherwise_are_in_conflict_again() {
    let (_pair, b, c) = promoted_twice();
    let (ours, theirs) = (epoch(&b), epoch(&c));
    let choosing = std::thread::scope(|scope| {
        let other = scope.spawn(|| keep_or_refuse(&c, &theirs));
        (keep_or_refuse(&b, &ours), other.join().unwrap())
    });
    // Whoever was first may have been met before the other one chose.
    match choosing {
        (true, true) => until("they meet", || in_conflict(&b) && in_conflict(&c)),
        (true, false) => until("they meet", || {
            matches!(c.status().role, Role::Fenced { .. })
        }),
        (false, true) => until("they meet", || {
            matches!(b.status().role, Role::Fenced { .. })
        }),
        (false, false) => panic!("nobody could choose"),
    }
}

fn keep_or_refuse(node: &Node, epoch: &str) -> bool {
    let options = ResolveOptions {
        keep: epoch.to_owned(),
        dry_run: false,
        reason: "mine".to_owned(),
    };
    node.resolve(&options).unwrap().outcome == ResolveOutcome::Kept
}

#[test]
fn a_standby_that_showed_what_its_primary_lost_may_be_the_one_that_is_kept() {
    let (pair, a, b) = Pair::met();
    a.stop().unwrap();
    copy(&pair.path("a"), &pair.path("old"));
    let a = pair.start("a");
    until("it writes again", || a.status().role == Role::Primary);
    put(&a, "shown", Level::Applied).unwrap();
    a.stop().unwrap();
    let known = epoch(&b);
    drop(b);
    // The machine comes back from an image of before, and is told to go on alone.
    std::fs::remove_dir_all(pair.path("a")).unwrap();
    copy(&pair.path("old"), &pair.path("a"));
    let a = pair.start("a");
    a.resume_alone("the standby's building burns").unwrap();
    put(&a, "other", Level::Local).unwrap();
    let b = pair.start("b");
    until("the conflict is seen", || {
        in_conflict(&a) && in_conflict(&b)
    });
    assert_eq!(epoch(&b), known);
    assert_eq!(keep(&b, &known).outcome, ResolveOutcome::Kept);
    put(&b, "after", Level::Local).unwrap();
    assert_eq!(keys(&b), ["after", "one", "shown"]);
    until("the other one is fenced", || {
        a.status().role == Role::Fenced { term: 2 }
    });
    assert_eq!(keys(&a), ["one", "other"]);
    // The node that is kept is a whole primary, in the process that stood in the conflict.
    a.stop().unwrap();
    let backup = pair.path("backup");
    b.store().checkpoint(&backup).unwrap();
    let standby = restore_as_a(&pair, &backup, "d");
    let d = pair.start("d");
    trust(&pair.path("b"), &standby, pair.address("a").port());
    put(&b, "again", Level::Applied).unwrap();
    assert_eq!(keys(&d), ["after", "again", "one", "shown"]);
}

/// Makes a standby of `b` from a backup, in the place of `a`.
fn restore_as_a(pair: &Pair, backup: &Path, dir: &str) -> Card {
    let new = NewNode {
        name: "a".into(),
        cluster: None,
        standby: true,
        peer: Some("b".into()),
        policy: Some(Policy::Async),
        listen: pair.address("a"),
        segment_size: 0,
    };
    let (restored, _) = restore(backup, &pair.path(dir), &new).unwrap();
    let known = card(&pair.path("b")).unwrap();
    trust(&pair.path(dir), &known, pair.address("b").port());
    restored
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy(&entry.path(), &to),
            kind if kind.is_file() => drop(std::fs::copy(entry.path(), to).unwrap()),
            _ => {}
        }
    }
}
