//! Reading many keys, reading without waiting, and snapshots that get too old.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::clock::Clock;
use crate::{CommitError, EpochReason, ReadMode};

/// A monotonic clock that stands until it is moved.
#[derive(Debug, Default)]
struct Standing(AtomicU64);

impl Standing {
    fn go_on(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for Standing {
    fn wall_ms(&self) -> u64 {
        1_700_000_000_000 + self.0.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

const AGE_MAX: Duration = Duration::from_secs(60);

fn with_age() -> (Arc<Standing>, Store) {
    let (fs, clock) = (MemFs::new(), Arc::<Standing>::default());
    let mut options = options(ClusterId::random(), "alone");
    options.has_peer = false;
    Store::init_on(&fs, &options).unwrap();
    let config = Config {
        background: false,
        flush_after_entries: 5,
        history_log_bytes: 0,
        snapshot_age_max: Some(AGE_MAX),
        ..Config::default()
    };
    let store = Store::open_on(Arc::new(fs), clock.clone(), config).unwrap();
    store.begin_epoch(EpochReason::Init, "").unwrap();
    (clock, store)
}

#[test]
fn many_keys_are_answered_in_the_order_in_which_they_were_asked() {
    let (_fs, store) = writer();
    let keyspace = store.keyspace("k").unwrap();
    for n in 0..200u32 {
        put(
            &store,
            &keyspace,
            &format!("{:03}", n * 7 % 100),
            &n.to_le_bytes(),
        );
    }
    let mut batch = Batch::new();
    batch.delete(&keyspace, "050").unwrap();
    store.commit(batch, CommitOptions::default()).unwrap();
    let snapshot = store.snapshot();
    put(&store, &keyspace, "051", b"later");
    let asked: Vec<String> = (0..150u32)
        .map(|n| format!("{:03}", n * 37 % 120))
        .collect();
    let one_by_one: Vec<_> = asked
        .iter()
        .map(|key| snapshot.get(&keyspace, key).unwrap())
        .collect();
    assert!(one_by_one.iter().filter(|value| value.is_none()).count() > 20);
    assert_eq!(snapshot.multi_get(&keyspace, &asked).unwrap(), one_by_one);
    let asynchronous = block_on(snapshot.multi_get_async(&keyspace, &asked));
    assert_eq!(asynchronous.unwrap(), one_by_one);
    for (key, value) in asked.iter().zip(&one_by_one) {
        assert_eq!(
            block_on(snapshot.get_async(&keyspace, key)).unwrap(),
            *value
        );
    }
    let newest = store.multi_get(&keyspace, ["051", "051", "x"]).unwrap();
    assert_eq!(newest, [Some("later".into()), Some("later".into()), None]);
    assert_eq!(store.multi_get(&keyspace, [""; 0]).unwrap(), []);
    let (_fs, other) = writer();
    assert_eq!(
        kind(other.multi_get(&keyspace, ["a"])),
        ErrorKind::NoKeyspace
    );
    let foreign = block_on(other.get_async(&keyspace, "a"));
    assert_eq!(kind(foreign), ErrorKind::NoKeyspace);

    let mut transaction = store.transaction();
    transaction.put(&keyspace, "000", "own").unwrap();
    transaction.delete(&keyspace, "001").unwrap();
    let read = transaction
        .multi_get(&keyspace, ["002", "001", "000", "no"])
        .unwrap();
    let two = store.get(&keyspace, "002").unwrap();
    assert_eq!(read, [two, None, Some("own".into()), None]);
    // What it read of others counts as read, be it there or not.
    put(&store, &keyspace, "no", b"there");
    let lost = transaction.commit(CommitOptions::default()).unwrap_err();
    assert_eq!(lost.error().kind(), ErrorKind::TransactionConflict);
}

#[test]
fn async_reads_wait_for_the_disk_on_threads_of_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(ClusterId::random(), "alone");
    options.has_peer = false;
    Store::init(dir.path(), &options).unwrap();
    let store = Store::open(dir.path(), Config::default()).unwrap();
    store.begin_epoch(EpochReason::Init, "").unwrap();
    let keyspace = store.keyspace("k").unwrap();
    for n in 0..600u32 {
        put(&store, &keyspace, &format!("{n:04}"), &[1; 900]);
    }
    store.close().unwrap();
    drop(store);
    let store = Store::open(dir.path(), Config::default()).unwrap();
    let keyspace = store.find_keyspace("k").unwrap();
    // The index is not known to be in memory yet, so the first is read elsewhere; then it is.
    let first = store.get_async(&keyspace, "0001");
    assert_eq!(format!("{first:?}"), "Reading");
    assert_eq!(block_on(first).unwrap().unwrap().len(), 900);
    let deadline = std::time::Instant::now() + LONG;
    loop {
        let again = store.get_async(&keyspace, "0001");
        let answered = format!("{again:?}") == "Reading(answered)";
        assert_eq!(block_on(again).unwrap().unwrap().len(), 900);
        if answered {
            break;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "never answered at once"
        );
    }
    let mut range = store.snapshot().range(&keyspace, "0100"..).into_async();
    let mut seen = 0;
    while let Some(entry) = block_on(range.next()) {
        let (key, _) = entry.unwrap();
        assert_eq!(key, format!("{:04}", 100 + seen));
        seen += 1;
    }
    assert_eq!(seen, 500);
    assert!(block_on(range.next()).is_none());
    // One that nobody awaits ends with the store.
    drop(store.multi_get_async(&keyspace, ["0500", "0001"]));
    let left = store.snapshot().iter(&keyspace).into_async();
    drop(store);
    drop(left);
}

#[test]
fn a_snapshot_that_is_too_old_says_so_and_keeps_nothing() {
    let (clock, store) = with_age();
    let keyspace = store.keyspace("k").unwrap();
    put(&store, &keyspace, "key", b"old");
    let old = store.snapshot();
    let mut range = old.iter(&keyspace);
    let mut transaction = store.transaction();
    assert!(transaction.get(&keyspace, "key").unwrap().is_some());
    transaction.put(&keyspace, "other", "x").unwrap();
    clock.go_on(AGE_MAX / 2);
    put(&store, &keyspace, "key", b"mid");
    let young = store.snapshot();
    let open = store.open_snapshots();
    assert_eq!((open.count, open.oldest), (3, Some(old.lsn())));
    assert_eq!(open.oldest_age_ms, 30_000);
    put(&store, &keyspace, "key", b"new");
    let churn = |store: &Store| {
        for n in 0..30 {
            put(store, &keyspace, &format!("filler-{n}"), b"x");
        }
        store.compact_index().unwrap();
    };
    churn(&store);
    assert_eq!(
        old.get(&keyspace, "key").unwrap().as_deref(),
        Some(&b"old"[..])
    );
    let kept = store.index_size().versions;

    clock.go_on(AGE_MAX / 2);
    let too_old = ErrorKind::SnapshotTooOld;
    assert_eq!(kind(old.get(&keyspace, "key")), too_old);
    assert_eq!(kind(old.get_entry(&keyspace, "key")), too_old);
    assert_eq!(kind(old.contains_key(&keyspace, "key")), too_old);
    assert_eq!(kind(old.multi_get(&keyspace, ["key"])), too_old);
    assert_eq!(kind(block_on(old.get_async(&keyspace, "key"))), too_old);
    assert_eq!(kind(range.next().unwrap()), too_old);
    assert!(range.next().is_none());
    assert_eq!(kind(old.iter(&keyspace).keys().next().unwrap()), too_old);
    let error = transaction.commit(CommitOptions::default()).unwrap_err();
    assert!(
        matches!(&error, CommitError::Failed(error) if error.kind() == too_old),
        "{error}"
    );
    // It is open all the same, and what it saw may go now; what the younger one sees may not.
    churn(&store);
    assert_eq!(store.index_size().versions, kept - 1);
    assert_eq!(
        young.get(&keyspace, "key").unwrap().as_deref(),
        Some(&b"mid"[..])
    );
    assert_eq!(
        store.get(&keyspace, "key").unwrap().as_deref(),
        Some(&b"new"[..])
    );
    drop((old, range));
    assert_eq!(store.open_snapshots().count, 1);
}

#[test]
fn values_are_the_same_whether_they_are_mapped_or_copied() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(ClusterId::random(), "alone");
    options.has_peer = false;
    Store::init(dir.path(), &options).unwrap();
    let mut seen = Vec::new();
    for read_mode in [ReadMode::Map, ReadMode::Copy, ReadMode::Auto] {
        let config = Config {
            read_mode,
            background: false,
            flush_after_entries: 30,
            history_log_bytes: 0,
            ..Config::default()
        };
        let store = Store::open(dir.path(), config).unwrap();
        store.begin_epoch(EpochReason::Restart, "").unwrap();
        let keyspace = store.keyspace("k").unwrap();
        if seen.is_empty() {
            for n in 0..200u32 {
                put(
                    &store,
                    &keyspace,
                    &format!("{:03}", n % 120),
                    &n.to_le_bytes().repeat(400),
                );
            }
            let due = |rest: Duration| rest <= Duration::from_millis(5);
            while store.background_step().is_some_and(due) {}
            store.compact_now(crate::Compact::Order).unwrap();
        }
        let sizes = store.log_size();
        assert!(sizes.sparse_bytes > 0 && sizes.whole_bytes > 0, "{sizes:?}");
        let snapshot = store.snapshot();
        let all: Vec<_> = snapshot
            .iter(&keyspace)
            .map(crate::Result::unwrap)
            .collect();
        let keys: Vec<_> = all.iter().map(|(key, _)| key.clone()).collect();
        let values: Vec<_> = all.iter().map(|(_, value)| Some(value.clone())).collect();
        assert_eq!(snapshot.multi_get(&keyspace, &keys).unwrap(), values);
        assert_eq!(
            block_on(snapshot.multi_get_async(&keyspace, &keys)).unwrap(),
            values
        );
        for (key, value) in &all {
            assert_eq!(store.get(&keyspace, key).unwrap().as_ref(), Some(value));
        }
        // A value that was copied is no part of a file's map: the only handle on it is this one.
        let (key, _) = all.first().unwrap();
        let value = store.get(&keyspace, key).unwrap().unwrap();
        let copied = value.try_into_mut().is_ok();
        assert_eq!(copied, read_mode == ReadMode::Copy, "{read_mode:?}");
        seen.push(all);
        store.close().unwrap();
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(seen[0].len(), 120);
}
