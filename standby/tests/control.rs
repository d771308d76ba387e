//! The control socket of a running node, as its clients see it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::sync::mpsc;
use std::time::Duration;

use outlast_standby::certificate::Outcome;
use outlast_standby::control::Client;
use outlast_standby::control::protocol::{Ask, FailureKind, Reply, WireOp};
use outlast_standby::engine::{Level, Lsn, Receipt};

use support::{Pair, keys, options, put};

const DEADLINE: Duration = Duration::from_secs(20);

/// More than the threads that a runtime gives to what blocks.
const FOLLOWERS: usize = 600;

#[test]
fn readers_that_follow_leave_room_for_a_promotion() {
    let (pair, a, _b) = Pair::met();
    let receipt = put(&a, "two", Level::Applied).unwrap();
    drop(a);
    let mut followers = Client::connect(&pair.path("b")).unwrap();
    let (from, follow) = (Lsn::ZERO, true);
    for _ in 0..FOLLOWERS {
        followers.send(Ask::Tail { from, follow }).unwrap();
    }
    let beyond = Receipt {
        lsn: Lsn(1 << 40),
        ..receipt
    };
    for _ in 0..FOLLOWERS {
        let timeout_ms = 1 << 40;
        followers
            .send(Ask::WaitApplied {
                receipt: beyond,
                timeout_ms,
            })
            .unwrap();
    }
    let (tell, told) = mpsc::channel();
    let mut operator = Client::connect(&pair.path("b")).unwrap();
    std::thread::spawn(move || {
        // Each has read what there is, and waits.
        let mut seen = 0;
        while seen < 2 * FOLLOWERS {
            let Reply::Changes(changes) = followers.answer().unwrap().reply else {
                panic!("no changes")
            };
            seen += changes.len();
        }
        let asked = [Ask::Status, Ask::Promote(options())];
        let _ = tell.send(asked.map(|ask| operator.ask_one(ask).unwrap()));
    });
    let asked = told.recv_timeout(DEADLINE).expect("answers in time");
    let Reply::Promoted(certificate) = &asked[1] else {
        panic!("{asked:?}")
    };
    assert!(
        matches!(
            certificate.outcome,
            Outcome::Promoted | Outcome::Refused { .. }
        ),
        "{certificate:?}"
    );
}

#[test]
fn a_reader_that_follows_sees_every_commit_as_it_comes() {
    let (pair, a, b) = Pair::met();
    let mut client = Client::connect(&pair.path("b")).unwrap();
    let (from, follow) = (Lsn::ZERO, true);
    client.send(Ask::Tail { from, follow }).unwrap();
    let mut next = 1;
    for last in [1, 2, 50] {
        for n in next.max(2)..=last {
            put(&a, &format!("key-{n}"), Level::Local).unwrap();
        }
        while next <= last {
            let answer = client.answer().unwrap();
            assert!(!answer.last);
            let Reply::Changes(changes) = answer.reply else {
                panic!("{:?}", answer.reply)
            };
            for change in changes {
                assert_eq!(change.receipt.commit, next);
                next += 1;
            }
        }
    }
    b.store().close().unwrap();
    loop {
        let answer = client.answer().unwrap();
        if answer.last {
            assert!(matches!(answer.reply, Reply::Failed(_)), "{answer:?}");
            break;
        }
    }
}

#[test]
fn behind_a_commit_that_was_refused_no_pipelined_one_is_taken() {
    let (pair, a, _b) = Pair::met();
    let mut client = Client::connect(&pair.path("a")).unwrap();
    // The frames of this pair have room for 64 KiB, and no keyspace has an empty name.
    let long = vec![7; 100 << 10];
    let commits = [
        ("default", "taken", &b"1"[..], true),
        ("default", "too long", &long, true),
        ("default", "skipped", b"1", true),
        ("default", "another", b"1", false),
        ("", "no such keyspace", b"1", true),
        ("default", "skipped too", b"1", true),
    ];
    for (keyspace, key, value, pipelined) in commits {
        let commit = Ask::Commit {
            keyspace: keyspace.to_owned(),
            ops: vec![WireOp::Put(key.into(), value.into())],
            level: Level::Local,
            trace: false,
            pipelined,
        };
        client.send(commit).unwrap();
    }
    let mut answers: Vec<_> = commits.iter().map(|_| client.answer().unwrap()).collect();
    answers.sort_by_key(|answer| answer.id);
    let ends = answers.into_iter().map(|answer| match answer.reply {
        Reply::Reached { .. } => None,
        Reply::Failed(failure) => Some(failure.kind),
        other => panic!("{other:?}"),
    });
    let (usage, refused) = (Some(FailureKind::Usage), Some(FailureKind::Refused));
    assert_eq!(
        ends.collect::<Vec<_>>(),
        [None, usage, refused, None, usage, refused]
    );
    // A pipeline that fails before the log is asked.
    let mut client = Client::connect(&pair.path("a")).unwrap();
    for (keyspace, key) in [("", "refused"), ("default", "skipped as well")] {
        let commit = Ask::Commit {
            keyspace: keyspace.to_owned(),
            ops: vec![WireOp::Put(key.into(), b"1".into())],
            level: Level::Local,
            trace: false,
            pipelined: true,
        };
        assert!(client.ask_one(commit).is_err());
    }
    assert_eq!(keys(&a), ["another", "one", "taken"]);
}
