//! How transactions end.

use super::*;
use crate::conflict::ReadSet;
use crate::error::CommitError;
use crate::log::{Check, Draft, LogState, Pipeline};
use crate::{Compared, Expected, TransactOptions, Transaction};

const OPTIONS: CommitOptions = CommitOptions {
    level: crate::Level::Local,
    deadline: None,
};

fn failed<T: std::fmt::Debug>(result: Result<T, CommitError>) -> ErrorKind {
    match result {
        Err(CommitError::Failed(error)) => error.kind(),
        other => panic!("{other:?}"),
    }
}

/// Leads one group.
fn lead(store: &Store) {
    let mut group = store.lead().unwrap();
    group.write();
    group.sync();
    group.finish();
}

/// A transaction that has read `key` and writes it.
fn increment(store: &Store, keyspace: &Keyspace, key: &str) -> Transaction {
    let mut tx = store.transaction();
    let old = tx.get(keyspace, key).unwrap().unwrap_or_default();
    tx.put(keyspace, key, [&old[..], b"+"].concat()).unwrap();
    tx
}

#[test]
fn a_transaction_sees_its_snapshot_with_its_own_writes_and_nobody_else_does() {
    let (_fs, store) = writer();
    let keys = store.keyspace("keys").unwrap();
    for key in ["a", "c", "e"] {
        put(&store, &keys, key, b"old");
    }
    let mut tx = store.transaction();
    tx.put(&keys, "b", "new").unwrap();
    tx.delete(&keys, "c").unwrap();
    tx.put(&keys, "e", "newer").unwrap();
    let range = tx.iter(&keys);
    tx.put(&keys, "f", "late").unwrap();
    put(&store, &keys, "d", b"other");

    let entries: Vec<_> = range.map(Result::unwrap).collect();
    assert_eq!(
        entries,
        [("a", "old"), ("b", "new"), ("e", "newer")].map(|(k, v)| (k.into(), v.into()))
    );
    let keys_of = |range: crate::TransactionRange| -> Vec<Bytes> {
        range.keys().rev().map(Result::unwrap).collect()
    };
    assert_eq!(keys_of(tx.iter(&keys)), ["f", "e", "b", "a"]);
    assert_eq!(keys_of(tx.prefix(&keys, "e")), ["e"]);
    assert_eq!(keys_of(tx.range(&keys, "z".."a")), Vec::<Bytes>::new());
    let several = tx.multi_get(&keys, ["a", "c", "d", "f"]).unwrap();
    let several: Vec<_> = several.iter().map(Option::as_deref).collect();
    assert_eq!(several, [Some(&b"old"[..]), None, None, Some(&b"late"[..])]);
    assert!(store.get(&keys, "b").unwrap().is_none());
    // It read that there is no `d`.
    let error = tx.commit(OPTIONS).unwrap_err();
    let lost = error.error().lost_to().unwrap();
    assert_eq!(lost.key, Some((keys.id(), "d".into())));
    assert_eq!(lost.lsn, store.get_entry(&keys, "d").unwrap().unwrap().lsn);
    assert!(store.get(&keys, "f").unwrap().is_none());
}

#[test]
fn the_check_sees_frames_that_are_formed_and_the_group_that_it_is_in() {
    let (_fs, store) = writer();
    let keys = store.keyspace("keys").unwrap();
    put(&store, &keys, "a", b"0");
    // All four read the same state; the first is formed before the others are queued.
    let [first, second, third, other] =
        ["a", "a", "b", "b"].map(|key| increment(&store, &keys, key));
    let first = first.commit_queued(OPTIONS);
    let mut group = store.lead().unwrap();
    let before = store.positions();
    let (second, third) = (second.commit_queued(OPTIONS), third.commit_queued(OPTIONS));
    let other = other.commit_queued(OPTIONS);
    assert_eq!(store.positions().visible, before.visible);
    group.write();
    group.sync();
    group.finish();
    lead(&store);
    let [first, second, third, other] = [first, second, third, other].map(block_on);
    let (first, third) = (first.unwrap(), third.unwrap());
    assert_eq!(third.commit, first.commit + 1);
    for (lost, winner) in [(second, first), (other, third)] {
        let error = lost.unwrap_err();
        let lsn = error.error().lost_to().unwrap().lsn;
        assert!(before.visible.lsn <= lsn && lsn < winner.lsn, "{error}");
    }
    // A group of which nothing is left forms no frame.
    let stale = increment(&store, &keys, "c");
    let stale_too = increment(&store, &keys, "c");
    let futures = [stale, stale_too].map(|tx| tx.commit_queued(OPTIONS));
    lead(&store);
    let appended = store.positions().appended;
    assert_eq!(
        futures
            .map(block_on)
            .iter()
            .filter(|end| end.is_ok())
            .count(),
        1
    );
    assert!(store.lead().is_none());
    assert_eq!(store.positions().appended, appended);
}

#[test]
fn a_transaction_that_loses_ends_its_pipeline() {
    let (_fs, store) = writer();
    let keys = store.keyspace("keys").unwrap();
    let lost = increment(&store, &keys, "a");
    let (fine, late) = (increment(&store, &keys, "b"), increment(&store, &keys, "c"));
    put(&store, &keys, "a", b"1");
    let mut pipeline = Pipeline::default();
    let mut behind = |tx: Transaction| block_on(tx.commit_behind(&mut pipeline, OPTIONS));
    assert!(behind(fine).is_ok());
    assert_eq!(failed(behind(lost)), ErrorKind::TransactionConflict);
    assert_eq!(failed(behind(late)), ErrorKind::Skipped);
}

#[test]
fn one_that_loses_takes_what_is_behind_it_in_its_group_along() {
    let fs = MemFs::new();
    Store::init_on(&fs, &InitOptions::new("alone")).unwrap();
    let clock = Arc::<SystemClock>::default();
    let store = Store::open_on(Arc::new(fs), clock, Config::default()).unwrap();
    store.begin_epoch(EpochReason::Init, "").unwrap();
    let keys = store.keyspace("keys").unwrap();
    let (lost, late) = (increment(&store, &keys, "a"), increment(&store, &keys, "b"));
    let mut winner = Batch::new();
    winner.put(&keys, "a", "1").unwrap();
    let winner = store.commit_queued(winner, OPTIONS);
    let mut group = store.lead().unwrap();
    // The store's own thread is to lead them, and waits for the group that is held here.
    let mut pipeline = Pipeline::default();
    let lost = lost.commit_behind(&mut pipeline, OPTIONS);
    let late = late.commit_behind(&mut pipeline, OPTIONS);
    group.write();
    group.sync();
    group.finish();
    block_on(winner).unwrap();
    assert_eq!(failed(block_on(lost)), ErrorKind::TransactionConflict);
    assert_eq!(failed(block_on(late)), ErrorKind::Skipped);
}

#[test]
fn reads_from_before_the_epoch_are_in_doubt_and_not_taken_for_granted() {
    let (_fs, store) = writer();
    let keys = store.keyspace("keys").unwrap();
    let mut reads = ReadSet::default();
    reads.add_key(keys.id(), b"never written").unwrap();
    let draft = Draft {
        check: Some(Box::new(Check {
            reads,
            from: Lsn::ZERO,
        })),
        ..Draft::from(Batch::new().finish(keys.store()).unwrap())
    };
    let error = store.shared.log.commit(draft, OPTIONS).unwrap_err();
    assert_eq!(error.error().lost_to().unwrap().key, None);
}

#[test]
fn one_that_reads_too_much_is_not_committed_whatever_was_done_about_the_error() {
    let (_fs, store) = writer();
    let keys = store.keyspace("keys").unwrap();
    let tx = store.transaction();
    for _ in 0..Transaction::READ_RANGES_MAX {
        assert!(tx.prefix(&keys, "x").next().is_none());
    }
    let mut range = tx.iter(&keys);
    let error = range.next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert!(range.next().is_none());
    assert_eq!(failed(tx.commit(OPTIONS)), ErrorKind::Limit);
}

#[test]
fn a_large_range_is_one_read_and_every_change_in_it_is_seen() {
    let (_fs, store) = writer();
    let keys = store.keyspace("keys").unwrap();
    for first in (0..1000).step_by(100) {
        let mut batch = Batch::new();
        for number in first..first + 100 {
            batch.put(&keys, format!("{number:04}"), "").unwrap();
        }
        store.commit(batch, OPTIONS).unwrap();
    }
    let changes: [(&str, &str); 4] = [
        ("0000", "written again"),
        ("0512", "taken away"),
        ("0300+", "new"),
        ("9999", "new, at the end"),
    ];
    for (key, what) in changes {
        // Before it is queued by the index, behind that by the frames.
        for queued in [false, true] {
            let tx = store.transaction();
            assert!(tx.iter(&keys).all(|entry| entry.is_ok()));
            let mut change = Batch::new();
            match what {
                "taken away" if !queued => change.delete(&keys, key).unwrap(),
                _ => change.put(&keys, key, what).unwrap(),
            }
            let error = if queued {
                let (first, second) = (
                    store.commit_queued(change, OPTIONS),
                    tx.commit_queued(OPTIONS),
                );
                lead(&store);
                block_on(first).unwrap();
                block_on(second).unwrap_err()
            } else {
                store.commit(change, OPTIONS).unwrap();
                tx.commit(OPTIONS).unwrap_err()
            };
            let lost = error.error().lost_to().unwrap();
            assert_eq!(lost.key, Some((keys.id(), Bytes::from(key))), "{what}");
        }
    }
    // Only what was taken from the range was read.
    let tx = store.transaction();
    assert_eq!(tx.iter(&keys).keys().take(10).count(), 10);
    assert_eq!(tx.iter(&keys).rev().take(10).count(), 10);
    put(&store, &keys, "0010", b"in the middle");
    tx.commit(OPTIONS).unwrap();
}

#[test]
fn only_a_writer_commits_transactions_and_compares() {
    let Pair {
        primary, standby, ..
    } = pair();
    let keys = primary.keyspace("keys").unwrap();
    put(&primary, &keys, "a", b"1");
    ship_all(&primary, &standby);
    let theirs = standby.keyspace("keys").unwrap();
    let tx = increment(&standby, &theirs, "a");
    assert_eq!(failed(tx.commit(OPTIONS)), ErrorKind::NotWriter);
    let tx = increment(&standby, &theirs, "a");
    assert_eq!(
        failed(block_on(tx.commit_async(OPTIONS))),
        ErrorKind::NotWriter
    );
    let compared = standby.compare_and_set(&theirs, "a", Expected::Absent, None, OPTIONS);
    assert_eq!(failed(compared), ErrorKind::NotWriter);
    // One that was begun before the promotion, and is checked by the new writer.
    let (fine, stale) = (
        increment(&standby, &theirs, "b"),
        increment(&standby, &theirs, "a"),
    );
    put(&primary, &keys, "a", b"2");
    ship_all(&primary, &standby);
    standby.begin_epoch(EpochReason::Promotion, "").unwrap();
    fine.commit(OPTIONS).unwrap();
    assert_eq!(
        failed(stale.commit(OPTIONS)),
        ErrorKind::TransactionConflict
    );
    // The handle of another store.
    let mut tx = standby.transaction();
    let foreign = [
        kind(tx.get(&keys, "a")),
        kind(tx.put(&keys, "a", "")),
        kind(tx.delete(&keys, "a")),
        kind(tx.iter(&keys).next().unwrap()),
    ];
    assert_eq!(foreign, [ErrorKind::NoKeyspace; 4]);
}

#[test]
fn a_transaction_in_a_log_that_fails_is_unknown_and_one_behind_it_failed() {
    let (fs, store) = writer();
    let keys = store.keyspace("keys").unwrap();
    put(&store, &keys, "a", b"0");
    let [unknown, lost, late] = ["a", "a", "b"].map(|key| increment(&store, &keys, key));
    // The write passes, the fsync does not.
    fs.fail_at(fs.operations() + 2, std::io::ErrorKind::Other);
    let unknown = unknown.commit_queued(OPTIONS);
    let lost = lost.commit_queued(OPTIONS);
    lead(&store);
    assert!(matches!(store.state(), LogState::Poisoned(_)));
    assert!(matches!(
        block_on(unknown),
        Err(CommitError::Unknown { .. })
    ));
    assert_eq!(failed(block_on(lost)), ErrorKind::TransactionConflict);
    assert_eq!(failed(late.commit(OPTIONS)), ErrorKind::Poisoned);
    let again = store.transact(TransactOptions::default(), |tx| {
        tx.get(&keys, "a")?;
        Ok::<_, CommitError>(())
    });
    assert_eq!(failed(again), ErrorKind::Poisoned);
}

#[test]
fn who_lost_to_a_commit_that_found_the_disk_full_is_told_of_the_disk() {
    let (fs, store) = writer();
    let keys = store.keyspace("keys").unwrap();
    let batch = |key: &str| {
        let mut batch = Batch::new();
        batch.put(&keys, key, [7; 12_000]).unwrap();
        batch
    };
    fs.limit(Some(fs.used_bytes()));
    while store.commit(batch("filler"), OPTIONS).is_ok() {}
    let loser = increment(&store, &keys, "a");
    let winner = store.commit_queued(batch("a"), OPTIONS);
    let loser = loser.commit_queued(OPTIONS);
    lead(&store);
    assert_eq!(failed(block_on(winner)), ErrorKind::DiskFull);
    assert_eq!(failed(block_on(loser)), ErrorKind::DiskFull);
    fs.limit(None);
    // Nothing of either was kept to lose to.
    let again = increment(&store, &keys, "a");
    again.commit(OPTIONS).unwrap();
}

#[test]
fn an_attempt_that_lost_is_run_again_and_not_more_often_than_allowed() {
    let (_fs, store) = writer();
    let keys = store.keyspace("keys").unwrap();
    let run = |attempts_max: u32, disturbed: u8| {
        let mut runs = 0u8;
        let options = TransactOptions {
            attempts_max,
            deadline: Some(LONG),
            ..TransactOptions::default()
        };
        let transacted = store.transact(options, |tx| {
            runs += 1;
            let seen = tx.get(&keys, "a")?;
            if runs <= disturbed {
                put(&store, &keys, "a", &[runs]);
            } else {
                assert_eq!(seen.as_deref(), Some(&[disturbed][..]));
            }
            tx.put(&keys, "mine", "x")?;
            Ok::<_, CommitError>(runs)
        });
        (transacted, runs)
    };
    let (transacted, runs) = run(3, 2);
    let (value, receipt) = transacted.unwrap();
    assert_eq!((value, runs), (3, 3));
    assert!(store.positions().visible.lsn >= receipt.lsn);
    let (transacted, runs) = run(2, 2);
    assert_eq!(
        (failed(transacted), runs),
        (ErrorKind::TransactionConflict, 2)
    );
    // What the closure answers is not tried again.
    let refused = store.transact(TransactOptions::default(), |_| {
        Err::<(), CommitError>(crate::Error::new(ErrorKind::Limit, "too poor").into())
    });
    assert_eq!(failed(refused), ErrorKind::Limit);
}

#[test]
fn a_key_is_compared_by_value_by_position_and_by_absence() {
    let (_fs, store) = writer();
    let keys = store.keyspace("keys").unwrap();
    let cas = |expected, new: Option<&[u8]>| {
        store
            .compare_and_set(&keys, "k", expected, new, OPTIONS)
            .unwrap()
    };
    let entry = || store.get_entry(&keys, "k").unwrap();
    assert_eq!(cas(Expected::value("x"), None), Compared::Differs(None));
    assert_eq!(cas(Expected::Lsn(Lsn::ZERO), None), Compared::Differs(None));
    assert!(matches!(
        cas(Expected::Absent, Some(b"1")),
        Compared::Set(_)
    ));
    let first = entry().unwrap();
    let found = Compared::Differs(Some(first.clone()));
    assert_eq!(cas(Expected::Absent, Some(b"2")), found);
    assert_eq!(cas(Expected::value("2"), Some(b"2")), found);
    assert!(matches!(
        cas(Expected::value("1"), Some(b"1")),
        Compared::Set(_)
    ));
    // The same value, and another entry.
    let second = entry().unwrap();
    assert!(second.value == first.value && second.lsn > first.lsn);
    assert_eq!(
        cas(Expected::Lsn(first.lsn), None),
        Compared::Differs(Some(second.clone()))
    );
    assert!(matches!(
        cas(Expected::Lsn(second.lsn), None),
        Compared::Set(_)
    ));
    assert_eq!(entry(), None);
}

#[test]
fn a_transaction_that_read_nothing_is_a_batch_and_one_that_wrote_nothing_is_checked() {
    let (_fs, store) = writer();
    let keys = store.keyspace("keys").unwrap();
    let mut blind = store.transaction();
    blind.put(&keys, "a", "mine").unwrap();
    let reader = store.transaction();
    assert!(reader.get(&keys, "a").unwrap().is_none());
    let quiet = store.transaction();
    assert!(quiet.get(&keys, "b").unwrap().is_none());
    put(&store, &keys, "a", b"theirs");
    blind.commit(OPTIONS).unwrap();
    assert_eq!(store.get(&keys, "a").unwrap().unwrap(), "mine");
    assert_eq!(
        failed(reader.commit(OPTIONS)),
        ErrorKind::TransactionConflict
    );
    quiet.commit(OPTIONS).unwrap();
}
