//! Threads that race for the same keys.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::error::CommitError;
use crate::fs::Crash;
use crate::{Compared, Expected, TransactOptions};

/// A store whose segments are small, with or without a thread of its own.
pub(super) fn store(background: bool) -> (MemFs, Store) {
    let fs = MemFs::new();
    let mut options = options(ClusterId::random(), "alone");
    options.has_peer = false;
    Store::init_on(&fs, &options).unwrap();
    let config = Config {
        background,
        // Most of the index is on the disk, and holds nothing that no snapshot sees.
        flush_after_entries: 5,
        history_log_bytes: 0,
        ..Config::default()
    };
    let clock = Arc::<SystemClock>::default();
    let store = Store::open_on(Arc::new(fs.clone()), clock, config).unwrap();
    store.begin_epoch(EpochReason::Init, "").unwrap();
    (fs, store)
}

fn both(test: impl Fn(&MemFs, &Store)) {
    for background in [false, true] {
        let (fs, store) = store(background);
        test(&fs, &store);
        store.close().unwrap();
    }
}

fn number(value: &[u8]) -> u64 {
    u64::from_le_bytes(value.try_into().unwrap())
}

const ACCOUNTS: u64 = 6;
const DEPOSIT: u64 = 100;

/// Moves one from an account to another, if it has one.
fn transfer(store: &Store, accounts: &Keyspace, seed: u64) -> Receipt {
    let (from, to) = (seed % ACCOUNTS, (seed / ACCOUNTS) % ACCOUNTS);
    let run = |tx: &mut crate::Transaction| {
        let read = |account: u64| {
            let value = tx.get(accounts, account.to_le_bytes())?;
            Ok::<_, CommitError>(number(&value.unwrap()))
        };
        let (left, there) = (read(from)?, read(to)?);
        if left > 0 && from != to {
            tx.put(accounts, from.to_le_bytes(), (left - 1).to_le_bytes())?;
            tx.put(accounts, to.to_le_bytes(), (there + 1).to_le_bytes())?;
        }
        Ok::<_, CommitError>(())
    };
    // Half of them by a future.
    let transacted = match seed % 2 {
        0 => store.transact(TransactOptions::default(), run),
        _ => block_on(store.transact_async(TransactOptions::default(), run)),
    };
    transacted.unwrap().1
}

fn open_accounts(store: &Store) -> Keyspace {
    let accounts = store.keyspace("accounts").unwrap();
    let mut batch = Batch::new();
    for account in 0..ACCOUNTS {
        let deposit = DEPOSIT.to_le_bytes();
        batch
            .put(&accounts, account.to_le_bytes(), deposit)
            .unwrap();
    }
    store.commit(batch, CommitOptions::default()).unwrap();
    accounts
}

fn sum(store: &Store, accounts: &Keyspace) -> u64 {
    let snapshot = store.snapshot();
    let balances = snapshot.iter(accounts).map(|entry| entry.unwrap().1);
    balances.map(|balance| number(&balance)).sum()
}

#[test]
fn transfers_keep_the_sum_at_every_snapshot_and_after_every_crash() {
    both(|fs, store| {
        let accounts = open_accounts(store);
        let running = AtomicU64::new(4);
        let acked = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (accounts, running, acked) = (&accounts, &running, &acked);
                scope.spawn(move || {
                    for turn in 0..400 {
                        let receipt = transfer(store, accounts, turn * 7 + thread * 13);
                        acked.fetch_max(receipt.commit, Ordering::AcqRel);
                    }
                    running.fetch_sub(1, Ordering::Release);
                });
            }
            let mut seed = 0;
            while running.load(Ordering::Acquire) > 0 {
                assert_eq!(sum(store, &accounts), ACCOUNTS * DEPOSIT);
                seed += 1;
                let least = acked.load(Ordering::Acquire);
                let image = open(&fs.crash(Crash::Random(seed)));
                image.begin_epoch(EpochReason::Restart, "").unwrap();
                let accounts = image.keyspace("accounts").unwrap();
                assert_eq!(sum(&image, &accounts), ACCOUNTS * DEPOSIT);
                let mut probe = Batch::new();
                probe.delete(&accounts, "none").unwrap();
                let next = image.commit(probe, CommitOptions::default()).unwrap();
                assert!(next.commit > least, "{least} was acknowledged");
            }
        });
        assert_eq!(sum(store, &accounts), ACCOUNTS * DEPOSIT);
        let moved = store.snapshot().iter(&accounts).any(|entry| {
            let (_, balance) = entry.unwrap();
            number(&balance) != DEPOSIT
        });
        assert!(moved, "nothing was transferred");
    });
}

const ROUNDS: u64 = 150;

/// Runs `race` on two threads at once, again and again: first it reads, then, once both have, it
/// writes what the answer is. Answers for how many rounds `holds`, looked at after each.
///
/// Nothing is asserted before the end, so that no thread waits for one that panicked.
fn rounds(
    store: &Store,
    read: impl Fn(&mut crate::Transaction, u64, u64) + Sync,
    holds: impl Fn(u64) -> bool + Sync,
) -> (u64, u64) {
    let barrier = Barrier::new(2);
    let (held, committed) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (read, holds, barrier) = (&read, &holds, &barrier);
            let (held, committed) = (&held, &committed);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    barrier.wait();
                    let mut tx = store.transaction();
                    barrier.wait();
                    read(&mut tx, round, thread);
                    let is_committed = tx.commit(CommitOptions::default()).is_ok();
                    committed.fetch_add(u64::from(is_committed), Ordering::Relaxed);
                    if barrier.wait().is_leader() {
                        held.fetch_add(u64::from(holds(round)), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    (held.into_inner(), committed.into_inner())
}

#[test]
fn of_two_doctors_on_call_one_stays() {
    both(|_, store| {
        let on_call = store.keyspace("on-call").unwrap();
        let doctor = |round: u64, thread: u64| format!("{round}/{thread}");
        for round in 0..ROUNDS {
            for thread in 0..2 {
                put(store, &on_call, &doctor(round, thread), b"here");
            }
        }
        let leave = |tx: &mut crate::Transaction, round, thread: u64| {
            if tx
                .contains_key(&on_call, doctor(round, 1 - thread))
                .unwrap()
            {
                tx.delete(&on_call, doctor(round, thread)).unwrap();
            }
        };
        let there = |round: u64| {
            let snapshot = store.snapshot();
            snapshot.prefix(&on_call, format!("{round}/")).count() == 1
        };
        assert_eq!(rounds(store, leave, there), (ROUNDS, ROUNDS));
    });
}

#[test]
fn a_room_for_one_never_holds_two() {
    both(|_, store| {
        let rooms = store.keyspace("rooms").unwrap();
        let enter = |tx: &mut crate::Transaction, round: u64, thread: u64| {
            if tx.prefix(&rooms, format!("{round}/")).next().is_none() {
                tx.put(&rooms, format!("{round}/{thread}"), "").unwrap();
            }
        };
        let there = |round: u64| {
            let snapshot = store.snapshot();
            snapshot.prefix(&rooms, format!("{round}/")).count() == 1
        };
        assert_eq!(rounds(store, enter, there), (ROUNDS, ROUNDS));
    });
}

#[test]
fn a_counter_counts_every_success_of_eight_threads() {
    both(|_, store| {
        let counters = store.keyspace("counters").unwrap();
        let successes = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (counters, successes, stop) = (&counters, &successes, &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Acquire) {
                        let entry = store.get_entry(counters, "n").unwrap();
                        let now = entry.as_ref().map_or(0, |entry| number(&entry.value));
                        let expected = match (entry, thread % 2) {
                            (None, _) => Expected::Absent,
                            (Some(entry), 0) => Expected::Lsn(entry.lsn),
                            (Some(entry), _) => Expected::Value(entry.value),
                        };
                        let new = (now + 1).to_le_bytes();
                        let options = CommitOptions::default();
                        let compared = match thread < 4 {
                            true => {
                                store.compare_and_set(counters, "n", expected, Some(&new), options)
                            }
                            false => block_on(store.compare_and_set_async(
                                counters,
                                "n",
                                expected,
                                Some(&new),
                                options,
                            )),
                        };
                        match compared.unwrap() {
                            Compared::Set(_) => {
                                if successes.fetch_add(1, Ordering::AcqRel) >= 500 {
                                    stop.store(true, Ordering::Release);
                                }
                            }
                            Compared::Differs(entry) => {
                                // Visible by now, and ahead of what was compared with.
                                let found = number(&entry.unwrap().value);
                                let seen = store.get(counters, "n").unwrap().unwrap();
                                assert!(found > now && number(&seen) >= found);
                            }
                        }
                    }
                });
            }
        });
        let value = store.get(&counters, "n").unwrap().unwrap();
        assert_eq!(number(&value), successes.into_inner());
    });
}
