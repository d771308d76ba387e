//! Two nodes in one process, over real QUIC on loopback.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use outlast_shipper::Peers;
use outlast_standby::certificate::Outcome;
use outlast_standby::engine::{CommitError, ErrorKind, Level, Lsn, Positions, ReceiptStatus};
use outlast_standby::status::Role;
use outlast_standby::{Node, NodeDir};

use support::{Pair, keys, options, put, until, until_promotable};

#[test]
fn commits_reach_the_standby_and_its_readers() {
    let (_pair, a, b) = Pair::met();
    for n in 0..50 {
        let level = [Level::Local, Level::Replicated, Level::Applied][n % 3];
        put(&a, &format!("key-{n:03}"), level).unwrap();
    }
    let last = put(&a, "last", Level::Applied).unwrap();
    assert!(b.store().positions().visible.lsn >= last.lsn);
    b.store()
        .wait_applied(&last, Duration::from_secs(1))
        .unwrap();
    assert_eq!(keys(&b), keys(&a));
    assert_eq!(keys(&b).len(), 52);
    assert_eq!(
        b.store().receipt_status(&last),
        ReceiptStatus::InThisHistory
    );
    let status = b.status();
    assert_eq!(status.role, Role::Standby);
    assert!(status.peer.unwrap().connected);
    let refused = put(&b, "x", Level::Local).unwrap_err();
    assert!(matches!(refused, CommitError::Failed(e) if e.kind() == ErrorKind::NotWriter));
}

#[test]
fn a_standby_that_was_away_catches_up_and_a_running_primary_does_not_wait_for_it() {
    let (pair, a, b) = Pair::met();
    b.stop().unwrap();
    for n in 0..2000 {
        put(&a, &format!("key-{n:05}"), Level::Local).unwrap();
    }
    let b = pair.start("b");
    let last = put(&a, "last", Level::Applied).unwrap();
    assert!(b.store().positions().visible.lsn >= last.lsn);
    assert_eq!(keys(&b), keys(&a));
}

#[test]
fn a_restarted_primary_waits_for_its_standby_and_goes_on() {
    let (pair, a, b) = Pair::met();
    a.stop().unwrap();
    b.stop().unwrap();
    let a = pair.start("a");
    assert_eq!(a.status().role, Role::WaitingForPeer);
    assert!(matches!(
        put(&a, "two", Level::Local),
        Err(CommitError::Failed(_))
    ));
    // Nor does it show what may have been changed elsewhere, but to who asks for it.
    let keyspace = a.store().find_keyspace("default").unwrap();
    let read = a.store().get(&keyspace, "one").unwrap_err();
    assert_eq!(read.kind(), ErrorKind::NotConfirmed, "{read}");
    let stale = a.store().snapshot().get(&keyspace, "one").unwrap();
    assert!(stale.is_some());
    let b = pair.start("b");
    until("the primary writes again", || {
        a.status().role == Role::Primary
    });
    assert!(a.store().get(&keyspace, "one").unwrap().is_some());
    put(&a, "two", Level::Applied).unwrap();
    assert_eq!(keys(&b), ["one", "two"]);
    assert_eq!(a.store().history().epochs().len(), 2);
    let sessions = a.status().peer.unwrap().sessions;
    assert_eq!(sessions, 2, "one to hear from the standby, one to ship");
}

#[test]
fn a_promoted_standby_takes_writes_and_the_old_primary_fences_itself() {
    let (pair, a, b) = Pair::met();
    put(&a, "replicated", Level::Replicated).unwrap();
    let refused = b.promote(&options()).unwrap();
    assert!(
        matches!(refused.outcome, Outcome::Refused { .. }),
        "{refused:?}"
    );
    put(&a, "still", Level::Replicated).unwrap();
    a.stop().unwrap();
    until_promotable(&b);
    let certificate = b.promote(&options()).unwrap();
    assert_eq!(certificate.outcome, Outcome::Promoted);
    assert_eq!(
        certificate.measured_loss.known().map(|loss| loss.commits),
        Some(0)
    );
    assert_eq!(certificate.epoch.as_ref().unwrap().term, 2);
    assert_eq!(
        b.promote(&options()).unwrap().outcome,
        Outcome::AlreadyPrimary
    );
    assert_eq!(keys(&b), ["one", "replicated", "still"]);
    put(&b, "new", Level::Local).unwrap();
    // The old primary comes back, and meets the newer term.
    let a = pair.start("a");
    until("the fence", || a.status().role == Role::Fenced { term: 2 });
    assert!(matches!(
        put(&a, "old", Level::Local),
        Err(CommitError::Failed(_))
    ));
    assert_eq!(keys(&a), ["one", "replicated", "still"]);
    let read = |node: &Node| {
        let keyspace = node.store().find_keyspace("default").unwrap();
        node.store().get(&keyspace, "one").map_err(|e| e.kind())
    };
    assert_eq!(read(&a), Err(ErrorKind::NotCurrent));
    assert!(read(&b).unwrap().is_some());
    drop(a);
    let a = pair.start("a");
    assert_eq!(a.status().role, Role::Fenced { term: 2 });
    assert_eq!(read(&a), Err(ErrorKind::NotConfirmed));
}

#[test]
fn resuming_alone_leaves_the_standbys_tail_to_be_put_aside() {
    let (pair, a, b) = Pair::met();
    a.stop().unwrap();
    b.stop().unwrap();
    let a = pair.start("a");
    assert!(a.resume_alone(" ").is_err());
    a.resume_alone("the standby's building burns").unwrap();
    assert_eq!(a.status().role, Role::Primary);
    put(&a, "two", Level::Local).unwrap();
    let b = pair.start("b");
    put(&a, "three", Level::Applied).unwrap();
    assert_eq!(keys(&b), ["one", "three", "two"]);
}

#[test]
fn a_peer_that_is_no_longer_trusted_is_cut_off_while_the_node_runs() {
    let (pair, a, b) = Pair::met();
    let path = NodeDir::new(pair.path("b")).peers();
    let trusted = Peers::load(&path).unwrap();
    Peers::default().save(&path).unwrap();
    until("the session ends", || {
        !a.status().peer.unwrap().connected && b.status().peer.is_none()
    });
    put(&a, "two", Level::Local).unwrap();
    assert_eq!(keys(&b), ["one"]);
    trusted.save(&path).unwrap();
    put(&a, "three", Level::Applied).unwrap();
    assert_eq!(keys(&b), ["one", "three", "two"]);
}

#[test]
fn a_standby_whose_log_failed_says_so() {
    let (_pair, a, b) = Pair::met();
    b.store().close().unwrap();
    put(&a, "two", Level::Local).unwrap();
    until(
        "the role shows it",
        || matches!(b.status().role, Role::NotFollowing { reason } if reason.contains("closed")),
    );
    until("the primary knows", || !a.status().peer.unwrap().connected);
}

#[test]
fn a_node_that_stops_says_goodbye() {
    let (pair, a, b) = Pair::met();
    let last_close = |node: &Node| node.status().peer.unwrap().last_close.unwrap_or_default();
    b.stop().unwrap();
    until("the primary hears of it", || {
        last_close(&a).contains("Stopping")
    });
    let b = pair.start("b");
    put(&a, "two", Level::Applied).unwrap();
    a.stop().unwrap();
    until("the standby hears of it", || {
        last_close(&b).contains("Stopping")
    });
}

#[test]
fn a_node_can_be_used_where_futures_run() {
    let (pair, a, b) = Pair::met();
    a.stop().unwrap();
    drop(b);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let b = pair.start("b");
        let certificate = b.promote(&options()).unwrap();
        assert_eq!(certificate.outcome, Outcome::Promoted);
        b.stop().unwrap();
    });
}

#[test]
fn what_a_new_session_reports_first_is_shown_as_one() {
    let (pair, a, b) = Pair::met();
    let (tell, shown) = std::sync::mpsc::channel();
    let store = a.store().clone();
    a.store().on_change(move || {
        let _ = tell.send(store.positions());
    });
    b.stop().unwrap();
    let b = pair.start("b");
    put(&a, "two", Level::Applied).unwrap();
    drop(b);
    let jumped = |at: &Positions| at.replica_applied.lsn == Lsn::ZERO;
    assert_eq!(shown.try_iter().find(jumped), None);
}
