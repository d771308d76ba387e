//! A pair whose loss is bounded, over real QUIC on loopback.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::time::{Duration, Instant};

use outlast_standby::certificate::{AcceptedLoss, Fencing, Outcome, PromoteOptions};
use outlast_standby::drive::compare_promises;
use outlast_standby::engine::{
    Batch, CommitError, CommitOptions, ErrorKind, Level, Lsn, ProtectionMark, Receipt,
    UnprotectedBy,
};
use outlast_standby::proto::{AckMark, Action, Bound, LEASE_DEFAULT, Policy, Standing};
use outlast_standby::status::{ProtectionState, Role, Stage, Unprotected};
use outlast_standby::{Node, NodeDir};

use support::{Pair, keys, options, put, until, until_promotable};

const LEASE: Duration = Duration::from_millis(500);

fn state(node: &Node) -> ProtectionState {
    node.status().protection.unwrap().state
}

fn put_within(node: &Node, key: &str, ms: u64) -> Result<Receipt, CommitError> {
    let keyspace = node.store().keyspace("default").unwrap();
    let mut batch = Batch::new();
    batch.put(&keyspace, key, "value").unwrap();
    let options = CommitOptions {
        level: Level::Local,
        deadline: Some(Duration::from_millis(ms)),
    };
    node.store().commit(batch, options)
}

const fn at_most(commits: u64) -> Policy {
    Policy::Bounded(Bound {
        bytes: None,
        commits: Some(commits),
        time: None,
        lease: LEASE,
    })
}

#[test]
fn under_sync_what_is_answered_is_on_both_disks_and_nothing_else_is() {
    let (pair, a, b) = Pair::met();
    assert_eq!(state(&a), ProtectionState::Off);
    let sync = Policy::sync(LEASE_DEFAULT);
    let written = a.set_policy(sync, Action::Stall, "test").unwrap();
    assert_eq!(written.standing, Standing::InForce);
    for n in 0..20 {
        let receipt = put(&a, &format!("key-{n}"), Level::Local).unwrap();
        assert!(b.store().positions().durable.lsn >= receipt.lsn);
    }
    until("it is kept", || state(&a) == ProtectionState::Protected);
    let status = a.status();
    assert_eq!(status.policy, "sync");
    assert_eq!(status.protection.unwrap().exposure_commits, 0);
    b.stop().unwrap();
    let late = put_within(&a, "alone", 100);
    let Err(CommitError::Unknown { receipt, error }) = late else {
        panic!("{late:?}")
    };
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!keys(&a).contains(&"alone".to_owned()));
    assert!(a.store().positions().visible.lsn < receipt.lsn);
    assert_eq!(state(&a), ProtectionState::Stalled);
    // It comes back, and so does what waited.
    let _b = pair.start("b");
    put(&a, "again", Level::Applied).unwrap();
    assert!(keys(&a).contains(&"alone".to_owned()));
    until("it is kept", || state(&a) == ProtectionState::Protected);
}

#[test]
fn a_primary_that_is_cut_off_answers_no_more_than_the_bound_and_nothing_after_the_lease() {
    const BOUND: u64 = 5;
    let (pair, a, b) = Pair::met();
    a.set_policy(at_most(BOUND), Action::Stall, "test").unwrap();
    put(&a, "last", Level::Replicated).unwrap();
    b.stop().unwrap();
    let cut_off = Instant::now();
    let mut answered = 0;
    let mut n = 0;
    while cut_off.elapsed() < LEASE * 2 {
        answered += u64::from(put_within(&a, &format!("alone-{n}"), 20).is_ok());
        n += 1;
    }
    // An answer that comes when its caller has given up is one all the same.
    let exposure = a.status().protection.unwrap().exposure_commits;
    assert!(answered > 0 && answered <= exposure, "{answered} of {n}");
    assert!(exposure <= BOUND, "{exposure} of {n}");
    // The lease is out: not even what would be within the bound.
    a.set_policy(at_most(1000), Action::Stall, "more").unwrap();
    assert!(put_within(&a, "later", 100).is_err());
    let why = a.status().protection.unwrap().why.unwrap();
    assert!(why.contains("lease"), "{why}");
    // Nor is what it shows known to be what holds.
    let store = a.store();
    let keyspace = store.keyspace("default").unwrap();
    let read = store.get(&keyspace, "last").unwrap_err();
    assert_eq!(read.kind(), ErrorKind::NotCurrent, "{read}");
    assert!(store.snapshot().get(&keyspace, "last").unwrap().is_some());
    let _b = pair.start("b");
    until("it is current again", || {
        store.get(&keyspace, "last").is_ok()
    });
}

#[test]
fn new_commits_are_refused_where_the_policy_says_so() {
    let (_pair, a, b) = Pair::met();
    a.set_policy(at_most(3), Action::Refuse, "test").unwrap();
    put(&a, "last", Level::Replicated).unwrap();
    b.stop().unwrap();
    until("it refuses", || match put_within(&a, "alone", 20) {
        Err(CommitError::Failed(error)) => error.kind() == ErrorKind::OutOfBound,
        _ => false,
    });
    let end = a.store().positions().appended;
    assert!(put_within(&a, "refused", 20).is_err());
    assert_eq!(a.store().positions().appended, end);
}

#[test]
fn a_suspension_lifts_the_bound_and_ends_by_itself() {
    let (pair, a, b) = Pair::met();
    assert!(a.suspend_protection(LEASE, "nothing to lift").is_err());
    a.set_policy(at_most(0), Action::Stall, "test").unwrap();
    put(&a, "last", Level::Replicated).unwrap();
    b.stop().unwrap();
    assert!(a.suspend_protection(LEASE * 4, " ").is_err(), "no reason");
    a.suspend_protection(LEASE * 4, "the line is cut").unwrap();
    until("it is suspended", || {
        state(&a) == ProtectionState::Suspended
    });
    put_within(&a, "alone", 1000).unwrap();
    until("it is over", || state(&a) != ProtectionState::Suspended);
    assert!(put_within(&a, "later", 50).is_err());
    let _b = pair.start("b");
    put(&a, "again", Level::Replicated).unwrap();
    // And says so in the log by itself, so that the standby knows.
    until("in force again", || {
        let newest = a.store().protections().pop().unwrap();
        newest.record.note.contains("nearly all") && state(&a) == ProtectionState::Protected
    });
    a.suspend_protection(Duration::from_secs(600), "again")
        .unwrap();
    a.resume_protection("not needed").unwrap();
    put(&a, "resumed", Level::Local).unwrap();
    assert_eq!(state(&a), ProtectionState::Protected);
}

#[test]
fn a_restart_goes_on_with_the_bound_and_a_promotion_begins_without() {
    let (pair, a, b) = Pair::met();
    a.set_policy(at_most(0), Action::Stall, "test").unwrap();
    put(&a, "one", Level::Local).unwrap();
    let newest = a.store().newest_protection();
    until("the standby has noted it", || {
        b.store().protection_heard() == newest
    });
    assert_eq!(b.store().newest_protection(), newest);
    a.stop().unwrap();
    let a = pair.start("a");
    until("it writes again", || a.status().role == Role::Primary);
    put(&a, "two", Level::Local).unwrap();
    until("it is kept", || state(&a) == ProtectionState::Protected);
    a.stop().unwrap();
    until_promotable(&b);
    assert_eq!(b.promote(&options()).unwrap().outcome, Outcome::Promoted);
    put(&b, "alone", Level::Local).unwrap();
    assert_eq!(state(&b), ProtectionState::Off);
}

const SYNC: &str = "policy = { name = \"sync\", lease = \"500ms\" }";

#[test]
fn a_cluster_made_with_a_bound_begins_without_and_promises_once_the_standby_has_nearly_all() {
    let pair = Pair::new();
    pair.tune("policy = \"async\"", SYNC);
    let a = pair.start("a");
    put(&a, "alone", Level::Local).unwrap();
    let status = a.status();
    assert_eq!(status.policy, "sync");
    assert_eq!(status.protection.unwrap().state, ProtectionState::Off);
    let loud = |warning: &String| warning.contains("PROTECTION OFF");
    assert!(status.warnings.iter().any(loud), "{:?}", status.warnings);
    let written = a.store().protections();
    assert_eq!(written.len(), 1, "{written:?}");
    let b = pair.start("b");
    until("it is kept", || state(&a) == ProtectionState::Protected);
    put(&a, "both", Level::Applied).unwrap();
    let dry_run = PromoteOptions {
        dry_run: true,
        ..options()
    };
    let bound = b.promote(&dry_run).unwrap().bound;
    assert_eq!(bound.known().unwrap().commits, Some(0));
    assert!(!a.status().warnings.iter().any(loud));
}

#[test]
fn a_bound_waits_for_a_standby_that_is_not_known_yet() {
    let pair = Pair::new();
    pair.tune("policy = \"async\"", SYNC);
    let peers = NodeDir::new(pair.path("a")).peers();
    let trusted = std::fs::read(&peers).unwrap();
    std::fs::remove_file(&peers).unwrap();
    let a = pair.start("a");
    put(&a, "alone", Level::Local).unwrap();
    assert_eq!(a.store().protections(), []);
    assert_eq!(a.status().policy, "sync");
    // A restart forgets no wish.
    a.stop().unwrap();
    let (a, _b) = (pair.start("a"), pair.start("b"));
    std::fs::write(&peers, trusted).unwrap();
    until("it is kept", || {
        let status = a.status();
        let protection = status.protection.filter(|_| status.role == Role::Primary);
        protection.is_some_and(|it| it.state == ProtectionState::Protected)
    });
}

#[test]
fn going_on_alone_begins_without_a_bound_and_the_old_one_comes_back_with_the_standby() {
    let (pair, a, b) = Pair::met();
    a.set_policy(at_most(0), Action::Refuse, "test").unwrap();
    put(&a, "one", Level::Local).unwrap();
    b.stop().unwrap();
    a.stop().unwrap();
    let a = pair.start("a");
    until("it waits", || a.status().role == Role::WaitingForPeer);
    a.resume_alone("the standby's building burns").unwrap();
    assert_eq!(state(&a), ProtectionState::Off);
    put(&a, "alone", Level::Local).unwrap();
    let _b = pair.start("b");
    until("it is kept", || state(&a) == ProtectionState::Protected);
    let protection = a.status().protection.unwrap();
    assert_eq!(
        (protection.bound_commits, protection.refuses),
        (Some(0), true)
    );
}

fn unprotected(node: &Node) -> Unprotected {
    node.status().unprotected.unwrap()
}

#[test]
fn unprotected_time_is_known_on_both_nodes_and_outlives_restarts_and_promotions() {
    let (pair, a, b) = Pair::met();
    let first = unprotected(&a).now.unwrap();
    assert_eq!(first.by, UnprotectedBy::Async);
    assert_eq!(state(&a), ProtectionState::Off);
    a.set_policy(at_most(5), Action::Stall, "test").unwrap();
    assert_eq!(unprotected(&a).now, None);
    a.suspend_protection(Duration::from_secs(60), "the line is cut")
        .unwrap();
    until("it is suspended", || {
        state(&a) == ProtectionState::Suspended
    });
    let status = a.status();
    let open = status.unprotected.unwrap().now.unwrap();
    let said = (open.by, open.note.as_str());
    assert_eq!(said, (UnprotectedBy::Suspension, "the line is cut"));
    let protection = status.protection.unwrap();
    assert!(protection.why.unwrap().contains("the line is cut"));
    assert_eq!(protection.since_unix_ms, Some(open.since_unix_ms));
    let before = unprotected(&a).total_ms;
    until("time passes", || unprotected(&a).total_ms > before + 50);
    a.resume_protection("it is mended").unwrap();
    put(&a, "both", Level::Applied).unwrap();
    let known = unprotected(&a);
    assert_eq!(known.now, None);
    assert!(known.last[0].ms >= 50, "{:?}", known.last[0]);
    assert_eq!(known.last[0].by, UnprotectedBy::Suspension);
    assert_eq!(known.last[1].since_unix_ms, first.since_unix_ms);
    let spans = known.last.iter().map(|span| span.ms);
    assert_eq!(known.total_ms, spans.sum::<u64>());
    assert_eq!(unprotected(&b), known);
    a.stop().unwrap();
    let a = pair.start("a");
    until("it writes again", || a.status().role == Role::Primary);
    assert_eq!(unprotected(&a), known);
    put(&a, "again", Level::Applied).unwrap();
    a.stop().unwrap();
    until_promotable(&b);
    assert_eq!(b.promote(&options()).unwrap().outcome, Outcome::Promoted);
    let promoted = unprotected(&b);
    let open = promoted.now.unwrap();
    assert_eq!(
        (open.by, open.note),
        (UnprotectedBy::Promotion, options().reason)
    );
    assert_eq!(promoted.last, known.last);
    let b = {
        b.stop().unwrap();
        pair.start("b")
    };
    assert_eq!(unprotected(&b).last, known.last);
}

#[test]
fn what_is_exposed_is_remembered_with_what_is_left_of_the_bound() {
    const BOUND: u64 = 5;
    let (pair, a, b) = Pair::met();
    a.set_policy(at_most(BOUND), Action::Stall, "test").unwrap();
    put(&a, "last", Level::Applied).unwrap();
    b.stop().unwrap();
    until("it stalls", || {
        let _ = put_within(&a, "alone", 20);
        state(&a) == ProtectionState::Stalled
    });
    let status = a.status();
    let protection = status.protection.unwrap();
    let exposed = protection.exposed;
    let exposure = protection.exposure_commits;
    assert!((1..=BOUND).contains(&exposure), "{exposure}");
    assert_eq!(protection.headroom_commits, Some(BOUND - exposure));
    assert_eq!(protection.headroom_bytes, None);
    assert_eq!(exposed.max_commits, exposure);
    assert!(exposed.max_bytes >= protection.exposure_bytes);
    assert!(exposed.seconds > 0 && exposed.p99_commits <= exposed.max_commits);
    assert!(protection.since_unix_ms.is_some() && protection.why.is_some());
    let stage = |stage| status.stages.iter().find(|lag| lag.stage == stage).unwrap();
    assert!(
        stage(Stage::Replicated).commits > exposure,
        "what waits too"
    );
    assert!(stage(Stage::Visible).commits > 0);
    assert_eq!(stage(Stage::Durable).commits, 0);
    let _b = pair.start("b");
    put(&a, "again", Level::Applied).unwrap();
    until("nothing is exposed", || {
        a.status().protection.unwrap().exposure_commits == 0
    });
    assert!(a.status().protection.unwrap().exposed.max_commits >= exposure);
}

#[test]
fn a_standby_is_ready_while_a_promotion_would_come_out_as_it_should() {
    let (_pair, a, b) = Pair::met();
    let readiness = |node: &Node| node.status().readiness.unwrap();
    let not_for = |node: &Node, why: &str| {
        let readiness = readiness(node);
        !readiness.ready && readiness.why_not.iter().any(|said| said.contains(why))
    };
    until("both are ready", || {
        readiness(&a).ready && readiness(&b).ready
    });
    a.set_policy(at_most(0), Action::Stall, "test").unwrap();
    put(&a, "one", Level::Applied).unwrap();
    until("both are ready", || {
        readiness(&a).ready && readiness(&b).ready
    });
    a.suspend_protection(Duration::from_secs(60), "test")
        .unwrap();
    until("the primary is not", || not_for(&a, "SUSPENDED"));
    until("nor is the standby", || not_for(&b, "suspended"));
    a.resume_protection("").unwrap();
    until("both are ready", || {
        readiness(&a).ready && readiness(&b).ready
    });
    b.stop().unwrap();
    until("it knows", || not_for(&a, "no session"));
}

#[test]
fn a_promise_that_cannot_be_kept_changes_nothing() {
    let (_pair, a, b) = Pair::met();
    let before = a.store().newest_protection();
    let short = Policy::sync(Duration::from_millis(60));
    assert!(a.set_policy(short, Action::Stall, "").is_err());
    let nothing = Policy::Bounded(Bound {
        bytes: None,
        commits: None,
        time: None,
        lease: LEASE,
    });
    assert!(a.set_policy(nothing, Action::Stall, "").is_err());
    let on_standby = b.set_policy(at_most(1), Action::Stall, "");
    assert!(on_standby.is_err());
    assert_eq!(a.store().newest_protection(), before);
}

#[test]
fn a_promotion_of_a_bounded_standby_is_fenced_by_silence_and_certifies_the_bound() {
    const BOUND: u64 = 5;
    let (_pair, a, b) = Pair::met();
    a.set_policy(at_most(BOUND), Action::Stall, "test").unwrap();
    let mut acknowledged = put(&a, "last", Level::Replicated).unwrap().commit;
    until("the standby has noted it", || {
        b.store().protection_heard() == a.store().newest_protection()
    });
    let accepting = PromoteOptions {
        accept_loss: Some(AcceptedLoss::Commits(BOUND)),
        ..options()
    };
    let less = PromoteOptions {
        accept_loss: Some(AcceptedLoss::Commits(BOUND - 1)),
        ..accepting.clone()
    };
    for n in 0..50 {
        if let Ok(receipt) = put_within(&a, &format!("key-{n}"), 1000) {
            acknowledged = receipt.commit;
        }
    }
    a.stop().unwrap();
    let mut certificate = b.promote(&accepting).unwrap();
    until("it is fenced", || {
        certificate = b.promote(&accepting).unwrap();
        let refused = b.promote(&less).unwrap();
        let promoted = certificate.outcome == Outcome::Promoted;
        assert!(promoted || matches!(refused.outcome, Outcome::Refused { .. }));
        promoted
    });
    assert_eq!(certificate.fencing, Fencing::Fenced);
    assert_eq!(certificate.policy, "bounded");
    let bound = certificate.bound.known().unwrap();
    assert_eq!(bound.commits, Some(BOUND));
    let held = certificate.positions.durable.commit;
    assert!(acknowledged <= held + BOUND, "{acknowledged} of {held}");
    assert!(certificate.silence_ms.known() > Some(&500));
    // Its own promise is not made yet, so nothing could be certified of it.
    assert_eq!(state(&b), ProtectionState::Off);
}

#[test]
fn a_standby_that_knows_of_a_record_it_lacks_or_of_a_suspension_certifies_nothing() {
    let (_pair, a, b) = Pair::met();
    let dry_run = PromoteOptions {
        dry_run: true,
        ..options()
    };
    let bound = || b.promote(&dry_run).unwrap().bound;
    assert!(bound().known().is_none());
    a.set_policy(at_most(5), Action::Stall, "test").unwrap();
    put(&a, "one", Level::Applied).unwrap();
    assert_eq!(bound().known().unwrap().commits, Some(5));
    a.suspend_protection(Duration::from_secs(60), "test")
        .unwrap();
    put(&a, "two", Level::Applied).unwrap();
    assert!(bound().known().is_none(), "it is suspended");
    a.resume_protection("").unwrap();
    put(&a, "three", Level::Applied).unwrap();
    let known = *bound().known().unwrap();
    // One that it heard of and does not have.
    let newer = ProtectionMark {
        lsn: known.record.advance(1000),
        ..b.store().newest_protection().unwrap()
    };
    b.store().note_protection(newer).unwrap();
    assert!(bound().known().is_none(), "it lacks a record");
}

#[test]
fn a_standby_that_is_told_of_acknowledgements_that_it_lost_certifies_no_bound_until_it_has_them() {
    let (pair, a, b) = Pair::met();
    a.set_policy(at_most(5), Action::Stall, "test").unwrap();
    let last = put(&a, "last", Level::Replicated).unwrap();
    let dry = PromoteOptions {
        dry_run: true,
        ..options()
    };
    let bound = |node: &Node| node.promote(&dry).unwrap().bound;
    until("it has heard of the record", || bound(&b).known().is_some());
    a.stop().unwrap();
    // What a primary says that remembers more than this disk has: an older image was put back.
    let history = b.store().history();
    let more = AckMark {
        epoch: last.epoch,
        durable: Lsn(b.store().positions().durable.lsn.0 + 1000),
    };
    let nothing = AckMark {
        durable: b.store().positions().durable.lsn,
        ..more
    };
    for known in [None, Some(nothing)] {
        compare_promises(b.store(), &history, known).unwrap();
        assert!(bound(&b).known().is_some());
    }
    compare_promises(b.store(), &history, Some(more)).unwrap();
    let says_so = |node: &Node| {
        let loud = |warning: &String| warning.contains("ACKED TAIL LOST");
        assert!(
            node.status().warnings.iter().any(loud),
            "{:?}",
            node.status()
        );
        let certificate = node.promote(&dry).unwrap();
        assert_eq!(certificate.acked_tail_lost, Some(more.durable));
        assert!(certificate.bound.known().is_none(), "{certificate:?}");
    };
    says_so(&b);
    // Durably.
    b.stop().unwrap();
    let b = pair.start("b");
    says_so(&b);
    // The primary has it no more either: its next epoch begins before, and that is its history.
    let a = pair.start("a");
    until("it writes again", || a.status().role == Role::Primary);
    put(&a, "again", Level::Applied).unwrap();
    until("it is settled", || {
        b.store().recovered().acked_tail_lost.is_none()
    });
}
