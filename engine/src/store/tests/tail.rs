//! The change feed against what was committed.

use super::*;
use crate::format::Op;
use crate::tail::{Committed, Tail};

/// All that is there by now.
fn drain(tail: &mut Tail) -> Vec<Committed> {
    std::iter::from_fn(|| tail.poll().unwrap()).collect()
}

type Operation = (&'static str, Op, Vec<u8>, Vec<u8>);

fn operations(commit: &Committed) -> Vec<(&str, Op, Vec<u8>, Vec<u8>)> {
    let of = |change: &'_ crate::Change| (change.op, change.key.to_vec(), change.value.to_vec());
    let named = commit.changes.iter().map(|change| {
        let (op, key, value) = of(change);
        (change.keyspace.name(), op, key, value)
    });
    named.collect()
}

/// Commits batches over two keyspaces, with a restart in between; gives what was committed.
fn history(fs: &MemFs, mut store: Store) -> (Store, Vec<(Receipt, Vec<Operation>)>) {
    let mut committed = Vec::new();
    for i in 0..60_usize {
        if i == 30 {
            drop(store);
            store = open(fs);
            store.begin_epoch(EpochReason::Restart, "").unwrap();
        }
        let (users, rooms) = (
            store.keyspace("users").unwrap(),
            store.keyspace("rooms").unwrap(),
        );
        let mut futures = Vec::new();
        for j in 0..i % 4 + 1 {
            let mut batch = Batch::new();
            let mut ops: Vec<Operation> = Vec::new();
            for k in 0..(i + j) % 5 {
                let (key, value) = (format!("{i}/{j}/{k}").into_bytes(), vec![7; 300 * k]);
                if k == 2 {
                    batch.delete(&rooms, &key).unwrap();
                    ops.push(("rooms", Op::Delete, key, Vec::new()));
                } else {
                    batch.put(&users, &key, &value).unwrap();
                    ops.push(("users", Op::Put, key, value));
                }
            }
            futures.push((store.commit_async(batch, CommitOptions::default()), ops));
        }
        for (future, ops) in futures {
            committed.push((block_on(future).unwrap(), ops));
        }
    }
    (store, committed)
}

fn check(found: &[Committed], expected: &[(Receipt, Vec<Operation>)]) {
    assert_eq!(found.len(), expected.len());
    for (commit, (receipt, ops)) in found.iter().zip(expected) {
        let Receipt {
            epoch,
            lsn,
            commit: number,
        } = *receipt;
        assert_eq!(
            (commit.commit, commit.lsn, commit.epoch),
            (number, lsn, epoch)
        );
        assert_eq!(operations(commit), *ops, "commit {number}");
    }
    assert!(found.is_sorted_by(|a, b| a.log_ms <= b.log_ms));
}

#[test]
fn it_gives_every_commit_exactly_once_from_any_receipt_on() {
    let (fs, store) = writer();
    let (store, committed) = history(&fs, store);
    assert!(
        committed.iter().any(|(_, ops)| ops.is_empty()),
        "an empty batch is one of them"
    );
    let mut tail = store.tail(Lsn::ZERO).unwrap();
    check(&drain(&mut tail), &committed);
    assert!(tail.poll().unwrap().is_none());
    for (index, (receipt, _)) in committed.iter().enumerate() {
        let mut tail = store.tail(receipt.lsn).unwrap();
        check(&drain(&mut tail), &committed[index + 1..]);
    }
    // Going on from where another stopped, one commit at a time.
    let mut position = Lsn::ZERO;
    for (receipt, _) in &committed {
        let mut tail = store.tail(position).unwrap();
        assert_eq!(tail.poll().unwrap().unwrap().commit, receipt.commit);
        position = tail.position();
    }
    let (inside, end) = (Lsn(committed[5].0.lsn.0 - 1), store.positions().visible.lsn);
    assert_eq!(kind(store.tail(inside)), ErrorKind::NotHeld);
    assert_eq!(kind(store.tail(end.advance(8))), ErrorKind::NotHeld);
}

#[test]
fn on_a_standby_it_gives_the_same_and_never_more_than_is_applied() {
    let Pair {
        primary_fs,
        primary,
        standby,
        ..
    } = pair();
    let (primary, committed) = history(&primary_fs, primary);
    let mut cursor = primary.log_cursor(Lsn::ZERO).unwrap();
    let mut tail = standby.tail(Lsn::ZERO).unwrap();
    let mut found = Vec::new();
    while let Some(run) = ship(&mut cursor, &standby, 3_000) {
        standby.sync().unwrap();
        assert!(tail.poll().unwrap().is_none(), "received and not applied");
        standby.apply_to(run.range().end).unwrap();
        found.extend(drain(&mut tail));
        let applied = standby.positions().visible;
        assert_eq!(found.last().map_or(0, |last| last.commit), applied.commit);
    }
    check(&found, &committed);
}

#[test]
fn it_wakes_who_waits_and_says_when_nothing_more_comes() {
    let (_fs, store) = writer();
    let users = store.keyspace("users").unwrap();
    let mut tail = store.tail(store.positions().visible.lsn).unwrap();
    assert!(
        tail.next_timeout(Duration::from_millis(1))
            .unwrap()
            .is_none()
    );
    let mut other = store.tail(tail.position()).unwrap();
    std::thread::scope(|scope| {
        let blocking = scope.spawn(|| {
            let next = || tail.next_timeout(LONG).unwrap().unwrap().commit;
            std::iter::repeat_with(next).take(200).collect::<Vec<_>>()
        });
        let asynchronous = scope.spawn(|| {
            let next = || block_on(other.next()).unwrap().commit;
            std::iter::repeat_with(next).take(200).collect::<Vec<_>>()
        });
        for i in 0..200 {
            put(&store, &users, &i.to_string(), b"x");
        }
        assert_eq!(blocking.join().unwrap(), (1..=200).collect::<Vec<_>>());
        assert_eq!(asynchronous.join().unwrap(), (1..=200).collect::<Vec<_>>());
    });
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| tail.next_timeout(LONG));
        store.close().unwrap();
        assert_eq!(kind(waiting.join().unwrap()), ErrorKind::Closed);
    });
}

#[test]
fn a_tail_of_some_keyspaces_skips_the_others_and_moves_on_over_them() {
    let (_fs, store) = writer();
    let [orders, views, users] =
        ["orders", "views", "users"].map(|name| store.keyspace(name).unwrap());
    let mut receipts = Vec::new();
    for n in 0..30u8 {
        let mut batch = Batch::new();
        if n % 3 == 0 {
            batch.put(&orders, [n], [n]).unwrap();
        }
        batch.put(&views, [n], [n]).unwrap();
        if n % 5 == 0 {
            batch.delete(&users, [n]).unwrap();
        }
        receipts.push(store.commit(batch, CommitOptions::default()).unwrap());
    }
    let wanted: Vec<u8> = (0..30).filter(|n| n % 3 == 0 || n % 5 == 0).collect();
    let mut tail = store.tail_of([&users, &orders], Lsn::ZERO).unwrap();
    let mut seen = Vec::new();
    while let Some(commit) = tail.poll().unwrap() {
        let n = commit.changes[0].key[0];
        assert_eq!(commit.lsn, receipts[usize::from(n)].lsn);
        assert!(commit.changes.iter().all(|change| change.keyspace != views));
        assert_eq!(
            commit.changes.len(),
            usize::from(n % 3 == 0) + usize::from(n % 5 == 0)
        );
        seen.push(n);
        // Another one goes on where this one stands, and gives what is left.
        let mut later = store.tail_of([&orders, &users], tail.position()).unwrap();
        let next = later.poll().unwrap().map(|commit| commit.changes[0].key[0]);
        assert_eq!(next, wanted.get(seen.len()).copied());
    }
    assert_eq!(seen, wanted);
    assert!(
        tail.position() >= receipts[29].lsn,
        "over what it does not give"
    );
    assert!(
        store
            .tail_of([], Lsn::ZERO)
            .unwrap()
            .poll()
            .unwrap()
            .is_none()
    );
    let (_fs, other) = writer();
    let refused = other.tail_of([&orders], Lsn::ZERO).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NoKeyspace);
}
