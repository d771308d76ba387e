//! Commits, keyspaces, and who may make them.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::*;
use crate::error::CommitError;
use crate::log::LogState;
use crate::{Level, Op, TermMark};

#[test]
fn a_batch_is_seen_as_a_whole_by_readers_that_race_with_it() {
    /// Different states that each reader must have seen before the writer stops.
    const STATES: usize = 100;
    let (_fs, store) = writer();
    let names = ["profile", "viewers", "version"];
    let keyspaces = names.map(|name| store.keyspace(name).unwrap());
    let write = |version: u32| {
        let mut batch = Batch::new();
        for keyspace in &keyspaces {
            batch.put(keyspace, "mina", version.to_le_bytes()).unwrap();
        }
        store.commit(batch, CommitOptions::default()).unwrap();
    };
    let read = |by_range: bool| {
        let snapshot = store.snapshot();
        let versions = keyspaces.each_ref().map(|keyspace| {
            let value = match by_range {
                false => snapshot.get(keyspace, "mina").unwrap().unwrap(),
                true => snapshot.iter(keyspace).next_back().unwrap().unwrap().1,
            };
            u32::from_le_bytes(value[..].try_into().unwrap())
        });
        assert_eq!(versions, [versions[0]; 3], "at {snapshot:?}");
        versions[0]
    };
    write(0);
    let reading = AtomicUsize::new(2);
    std::thread::scope(|scope| {
        for by_range in [false, true] {
            let (read, reading) = (&read, &reading);
            scope.spawn(move || {
                let mut seen = vec![read(by_range)];
                while seen.len() < STATES {
                    let version = read(by_range);
                    let last = seen[seen.len() - 1];
                    assert!(last <= version, "{version} after {last}");
                    if last < version {
                        seen.push(version);
                    }
                }
                reading.fetch_sub(1, Ordering::Release);
            });
        }
        let mut versions = 1..;
        let deadline = Instant::now() + LONG;
        while reading.load(Ordering::Acquire) > 0 {
            assert!(Instant::now() < deadline, "the readers see nothing new");
            versions.by_ref().take(100).for_each(write);
        }
    });
}

#[test]
fn many_threads_commit_and_every_commit_has_its_own_number() {
    let store = Store::open_in_memory().unwrap();
    let users = store.keyspace("users").unwrap();
    let receipts: Vec<Receipt> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let (store, users) = (&store, &users);
                scope.spawn(move || {
                    let commit = |i| put(store, users, &format!("{thread}/{i}"), b"x");
                    (0..200).map(commit).collect::<Vec<_>>()
                })
            })
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Vec<Receipt>>| thread.join().unwrap();
        threads.into_iter().flat_map(join).collect()
    });
    let numbers: BTreeSet<u64> = receipts.iter().map(|receipt| receipt.commit).collect();
    assert_eq!(numbers, (1..=1600).collect());
    let mut by_number = receipts.clone();
    by_number.sort_by_key(|receipt| receipt.commit);
    assert!(by_number.is_sorted_by(|a, b| a.lsn < b.lsn));
    assert_eq!(store.snapshot().iter(&users).keys().count(), 1600);
    // Each receipt's position is the state right behind its commit.
    for receipt in by_number.iter().step_by(97) {
        let snapshot = store.snapshot_at(receipt.lsn).unwrap();
        assert_eq!(snapshot.iter(&users).keys().count() as u64, receipt.commit);
    }
    store.close().unwrap();
}

#[test]
fn asynchronous_commits_are_under_way_without_being_polled() {
    let store = Store::open_in_memory().unwrap();
    let users = store.keyspace("users").unwrap();
    let commit = |i: u32| {
        let mut batch = Batch::new();
        batch.put(&users, i.to_string(), "x").unwrap();
        store.commit_async(batch, CommitOptions::default())
    };
    let futures: Vec<_> = (0..500).map(commit).collect();
    for (number, future) in (1..).zip(futures) {
        let receipt = block_on(future).unwrap();
        assert_eq!(receipt.commit, number);
        store.wait_applied(&receipt, Duration::ZERO).unwrap();
    }
    let other = Store::open_in_memory().unwrap();
    let mut batch = Batch::new();
    batch
        .put(&other.keyspace("users").unwrap(), "a", "b")
        .unwrap();
    let refused = block_on(store.commit_async(batch, CommitOptions::default()));
    assert!(
        matches!(refused, Err(CommitError::Failed(error)) if error.kind() == ErrorKind::NoKeyspace)
    );
}

#[test]
fn a_caller_leads_all_groups_where_the_store_has_no_threads() {
    let (_, store) = writer();
    let users = store.keyspace("users").unwrap();
    let half = vec![7; crate::format::to_usize(store.segment_size() / 8)];
    let batch = |key: &str| {
        let mut batch = Batch::new();
        batch.put(&users, key, &half).unwrap();
        batch
    };
    let queued = ["a", "b"].map(|key| store.commit_queued(batch(key), CommitOptions::default()));
    let led = store.commit_async(batch("c"), CommitOptions::default());
    for (number, future) in (1..).zip(queued.into_iter().chain([led])) {
        assert_eq!(block_on(future).unwrap().commit, number);
    }
}

#[test]
fn callers_that_race_for_one_keyspace_get_the_same_one() {
    const NAMES: u32 = 500;
    let (_fs, store) = writer();
    let before = store.positions().appended.lsn;
    let together = Barrier::new(2);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for i in 0..NAMES {
                    together.wait();
                    store.keyspace(&format!("k{i}")).unwrap();
                }
            });
        }
    });
    let ids: Vec<u32> = store.keyspaces().iter().map(Keyspace::id).collect();
    assert_eq!(ids, (1..=NAMES).collect::<Vec<_>>());
    let mut frames = 0;
    let mut cursor = store.log_cursor(before).unwrap();
    while let Some(run) = cursor.next_up_to(Lsn(u64::MAX), 1 << 20).unwrap() {
        frames += run.frames().count();
    }
    assert_eq!(frames, NAMES as usize, "each keyspace is made by one frame");
    assert_eq!(
        store.keyspace("k7").unwrap(),
        store.find_keyspace("k7").unwrap()
    );
    assert_eq!(kind(store.find_keyspace("none")), ErrorKind::NoKeyspace);
    assert_eq!(kind(store.keyspace("a b")), ErrorKind::Limit);
}

#[test]
fn a_batch_too_long_for_the_segments_is_refused_with_both_numbers() {
    let (_fs, store) = writer();
    let users = store.keyspace("users").unwrap();
    let mut batch = Batch::new();
    batch.put(&users, "k", vec![7; 16_000]).unwrap();
    store
        .commit(batch.clone(), CommitOptions::default())
        .unwrap();
    batch.put(&users, "l", vec![7; 400]).unwrap();
    let len = batch.len_bytes();
    let before = store.positions();
    let refused = store.commit(batch, CommitOptions::default());
    let Err(CommitError::Failed(error)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(error.kind(), ErrorKind::Limit);
    let message = error.to_string();
    let limit = crate::format::limits::payload_len_max(SEGMENT_SIZE_MIN);
    assert!(
        message.contains(&len.to_string()) && message.contains(&limit.to_string()),
        "{message}"
    );
    assert!(message.contains("segment_size"), "{message}");
    assert_eq!(store.positions(), before);
    put(&store, &users, "after", b"goes on");
}

#[test]
fn an_empty_batch_is_a_commit_like_any_other() {
    let (_fs, store) = writer();
    let receipt = store
        .commit(Batch::new(), CommitOptions::default())
        .unwrap();
    assert_eq!(receipt.commit, 1);
    store.wait_applied(&receipt, Duration::ZERO).unwrap();
    assert_eq!(store.snapshot_at(receipt.lsn).unwrap().lsn(), receipt.lsn);
}

#[test]
fn calls_of_the_wrong_role_are_refused_by_type() {
    let Pair {
        primary, standby, ..
    } = pair();
    let users = primary.keyspace("users").unwrap();
    put(&primary, &users, "a", b"1");
    ship_all(&primary, &standby);
    let failed = |store: &Store, batch| match store.commit(batch, CommitOptions::default()) {
        Err(CommitError::Failed(error)) => error.kind(),
        other => panic!("{other:?}"),
    };

    // A writer's calls on a follower.
    let theirs = standby.find_keyspace("users").unwrap();
    let mut batch = Batch::new();
    batch.put(&theirs, "a", "2").unwrap();
    assert_eq!(failed(&standby, batch.clone()), ErrorKind::NotWriter);
    assert!(block_on(standby.commit_async(batch, CommitOptions::default())).is_err());
    assert_eq!(kind(standby.keyspace("rooms")), ErrorKind::NoKeyspace);
    assert_eq!(standby.get(&theirs, "a").unwrap().unwrap(), "1");

    // A follower's calls on a writer.
    let run = primary
        .log_cursor(Lsn::ZERO)
        .unwrap()
        .next_up_to(Lsn(u64::MAX), 1 << 20);
    let run = run.unwrap().unwrap();
    assert_eq!(kind(primary.append_run(&run)), ErrorKind::NotWriter);
    assert_eq!(kind(primary.sync()), ErrorKind::NotWriter);
    assert_eq!(kind(primary.apply_to(Lsn::ZERO)), ErrorKind::NotWriter);
    assert_eq!(kind(primary.begin_following()), ErrorKind::NotWriter);
    assert_eq!(
        kind(primary.begin_epoch(EpochReason::Restart, "")),
        ErrorKind::NotWriter
    );

    // Keyspaces of another store.
    assert_eq!(kind(standby.get(&users, "a")), ErrorKind::NoKeyspace);
    let snapshot = standby.snapshot();
    assert_eq!(
        kind(snapshot.contains_key(&users, "a")),
        ErrorKind::NoKeyspace
    );
    let range: Vec<_> = snapshot.iter(&users).collect();
    assert!(matches!(&range[..], [Err(error)] if error.kind() == ErrorKind::NoKeyspace));
    assert_eq!(snapshot.prefix(&users, "").keys().rev().count(), 1);

    // A fenced writer.
    let opened_by = crate::format::EpochId::random();
    let by = TermMark { term: 9, opened_by };
    primary.fence(by).unwrap();
    assert_eq!(primary.state(), LogState::Fenced(by));
    let mut batch = Batch::new();
    batch.put(&users, "a", "3").unwrap();
    assert_eq!(failed(&primary, batch), ErrorKind::Fenced);
    assert_eq!(primary.get(&users, "a").unwrap().unwrap(), "1");
    assert_eq!(
        kind(primary.begin_epoch(EpochReason::Restart, "")),
        ErrorKind::Fenced
    );
}

#[test]
fn a_replicated_commit_is_answered_when_the_standby_says_so() {
    let Pair {
        primary, standby, ..
    } = pair();
    let users = primary.keyspace("users").unwrap();
    ship_all(&primary, &standby);
    let mut batch = Batch::new();
    batch.put(&users, "a", "1").unwrap();
    let commit = primary.commit_async(batch, CommitOptions::at(Level::Applied));
    let mut commit = pin!(commit);
    let mut context = Context::from_waker(Waker::noop());
    assert!(commit.as_mut().poll(&mut context).is_pending());
    ship_all(&primary, &standby);
    let now = standby.positions();
    primary.set_replica_positions(crate::ReplicaPositions {
        received: now.appended,
        durable: now.durable,
        applied: now.visible,
    });
    let receipt = block_on(commit).unwrap();
    standby.wait_applied(&receipt, Duration::ZERO).unwrap();
    let change = standby
        .tail(Lsn::ZERO)
        .unwrap()
        .poll()
        .unwrap()
        .unwrap()
        .changes;
    assert_eq!((change[0].op, &change[0].value[..]), (Op::Put, &b"1"[..]));
}
