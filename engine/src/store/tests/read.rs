//! Snapshots, ranges, receipts.

use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;

use super::*;
use crate::format::EpochId;
use crate::receipt::ReceiptStatus;

#[test]
fn ranges_agree_from_both_ends_with_and_without_values() {
    let (_fs, store) = writer();
    let users = store.keyspace("users").unwrap();
    let other = store.keyspace("other").unwrap();
    let mut batch = Batch::new();
    for i in 0..300_u32 {
        let key = [
            &[if i % 3 == 0 { 0xff } else { b'a' }][..],
            &i.to_le_bytes(),
        ]
        .concat();
        batch.put(&users, &key, i.to_string()).unwrap();
        if i % 7 == 0 {
            batch.delete(&users, &key).unwrap();
        }
    }
    batch.put(&other, "zzz", "not there").unwrap();
    store.commit(batch, CommitOptions::default()).unwrap();
    let snapshot = store.snapshot();
    let forward: Vec<_> = snapshot.iter(&users).map(Result::unwrap).collect();
    assert_eq!(forward.len(), 300 - 43);
    assert!(forward.is_sorted_by(|a, b| a.0 < b.0));
    let mut reverse: Vec<_> = snapshot.iter(&users).rev().map(Result::unwrap).collect();
    reverse.reverse();
    assert_eq!(forward, reverse);

    let (mut low, mut high) = (Vec::new(), Vec::new());
    let mut range = snapshot.iter(&users);
    while let Some(entry) = range.next() {
        low.push(entry.unwrap());
        high.extend(range.next_back().map(Result::unwrap));
        high.extend(range.next_back().map(Result::unwrap));
    }
    high.reverse();
    assert_eq!([low, high].concat(), forward);

    let prefixed = |prefix: &[u8]| snapshot.prefix(&users, prefix).map(Result::unwrap);
    let beginning = |prefix: &[u8]| {
        let begins = |(key, _): &&(Bytes, Bytes)| key.starts_with(prefix);
        forward.iter().filter(begins).cloned().collect::<Vec<_>>()
    };
    for prefix in [&b""[..], b"a", b"\xff", b"\xff\x03", b"b"] {
        assert_eq!(
            prefixed(prefix).collect::<Vec<_>>(),
            beginning(prefix),
            "{prefix:?}"
        );
    }
    // Shown where they lie, in turns with the rest.
    let mut shown = Vec::new();
    let mut range = snapshot.iter(&users);
    while let Some(entry) = range.next() {
        shown.push(entry.unwrap());
        let mut left = shown.len() % 40;
        let show = |key: &[u8], value: &[u8]| {
            shown.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            left = left.saturating_sub(1);
            match left {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        };
        range.visit(show).unwrap();
    }
    assert_eq!(shown, forward);
    // Keys alone, of what is left of a range that was begun at both ends.
    let mut begun = snapshot.iter(&users);
    begun.nth(9);
    begun.nth_back(19);
    let keys: Vec<_> = begun.keys().map(Result::unwrap).collect();
    let expected: Vec<_> = forward[10..forward.len() - 20]
        .iter()
        .map(|e| e.0.clone())
        .collect();
    assert_eq!(keys, expected);

    let values = snapshot
        .multi_get(&users, [&b"none"[..], &forward[5].0])
        .unwrap();
    assert_eq!(values, [None, Some(forward[5].1.clone())]);
    assert!(snapshot.contains_key(&users, &forward[5].0).unwrap());
    assert!(!snapshot.contains_key(&users, "none").unwrap());
    let (from, to) = (&forward[8].0[..], &forward[3].0[..]);
    assert_eq!(
        snapshot.range(&users, from..to).count(),
        0,
        "bounds that exclude one another"
    );
    assert_eq!(snapshot.range(&users, to..=from).count(), 6);
}

/// A range keeps its places in the index and in the log from portion to portion.
#[test]
fn a_range_that_is_kept_sees_its_state_whatever_is_written_flushed_and_sealed_meanwhile() {
    let (_fs, store) = writer();
    let users = store.keyspace("users").unwrap();
    let mut expected = Vec::new();
    // Long enough for many segments, with a record in a piece of its own now and then.
    for i in 0..600_u32 {
        let key = (i * 7919 % 600).to_string();
        let value = vec![b'v'; 100 + (i % 37) as usize * 30];
        put(&store, &users, &key, &value);
        expected.push((key, value));
    }
    expected.sort();
    let snapshot = store.snapshot();
    let mut range = snapshot.iter(&users);
    let (mut low, mut high) = (Vec::new(), Vec::new());
    for turn in 0.. {
        let count = turn % 23;
        let front = range.by_ref().take(count).map(Result::unwrap);
        low.extend(front.collect::<Vec<_>>());
        let back = range.by_ref().rev().take(count / 2).map(Result::unwrap);
        let back: Vec<_> = back.collect();
        if turn > 23 && back.is_empty() && count > 1 {
            break;
        }
        high.extend(back);
        for key in [turn * 31 % 600, turn * 57 % 600] {
            put(&store, &users, &key.to_string(), &vec![b'n'; 3000]);
        }
        // The range is at its place over whatever state of segments and runs there is then.
        for _ in 0..turn % 7 {
            let _ = store.background_step();
        }
    }
    high.reverse();
    let read = [low, high].concat();
    let read = read.into_iter().map(|(key, value)| {
        let key = String::from_utf8(key.to_vec()).unwrap();
        (key, value.to_vec())
    });
    assert_eq!(read.collect::<Vec<_>>(), expected);
}

#[test]
fn open_snapshots_are_counted_with_the_oldest_position() {
    let (_fs, store) = writer();
    let users = store.keyspace("users").unwrap();
    let old = store.snapshot();
    put(&store, &users, "a", b"1");
    let new = store.snapshot();
    let range = old.iter(&users);
    assert_eq!(store.open_snapshots().oldest, Some(old.lsn()));
    let at = old.lsn();
    drop(old);
    // The range reads from it still.
    assert_eq!(
        (store.open_snapshots().count, store.open_snapshots().oldest),
        (2, Some(at))
    );
    assert_eq!(range.count(), 0);
    let again = new.clone();
    drop(new);
    assert_eq!(
        (store.open_snapshots().count, store.open_snapshots().oldest),
        (1, Some(again.lsn()))
    );
    drop(again);
    assert_eq!(
        (store.open_snapshots().count, store.open_snapshots().oldest),
        (0, None)
    );
}

#[test]
fn a_snapshot_stands_at_every_end_of_a_batch_or_frame_and_nowhere_else() {
    let (_fs, store) = writer();
    let users = store.keyspace("users").unwrap();
    let mut ends = BTreeMap::from([(Lsn::ZERO, 0)]);
    for i in 0..10 {
        // Several batches in one frame: all wait for the first one's leader.
        let commit = |j: i32| {
            let mut batch = Batch::new();
            batch
                .put(&users, format!("{i}/{j}"), vec![b'v'; 30])
                .unwrap();
            store.commit_async(batch, CommitOptions::default())
        };
        for receipt in (0..3).map(commit).map(|commit| block_on(commit).unwrap()) {
            ends.insert(receipt.lsn, receipt.commit);
        }
    }
    let mut cursor = store.log_cursor(Lsn::ZERO).unwrap();
    while let Some(run) = cursor.next_up_to(Lsn(u64::MAX), 0).unwrap() {
        let commit = run.after().position().commit;
        ends.entry(run.range().end).or_insert(commit);
    }
    let end = store.positions().appended.lsn;
    for position in 0..=end.0 {
        match (store.snapshot_at(Lsn(position)), ends.get(&Lsn(position))) {
            (Ok(snapshot), Some(commit)) => {
                assert_eq!(snapshot.iter(&users).keys().count() as u64, *commit);
            }
            (Err(error), None) => assert_eq!(error.kind(), ErrorKind::NotHeld),
            (outcome, expected) => panic!("{position}: {outcome:?}, expected {expected:?}"),
        }
    }
    assert_eq!(kind(store.snapshot_at(end.advance(1))), ErrorKind::NotHeld);
    assert_eq!(store.open_snapshots().count, 0);
}

#[test]
fn a_value_that_rots_on_the_disk_is_never_returned() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(ClusterId::random(), "alone");
    options.has_peer = false;
    Store::init(dir.path(), &options).unwrap();
    let value = vec![b'v'; 5_000];
    {
        let store = Store::open(dir.path(), Config::default()).unwrap();
        store.begin_epoch(EpochReason::Init, "").unwrap();
        let users = store.keyspace("users").unwrap();
        for i in 0..40 {
            put(&store, &users, &format!("{i:02}"), &value);
        }
        store.close().unwrap();
    }
    let store = Store::open(dir.path(), Config::default()).unwrap();
    let users = store.find_keyspace("users").unwrap();
    assert_eq!(store.get(&users, "05").unwrap().unwrap(), value);

    let sealed = dir.path().join("log/000000000001.seg");
    let bytes = std::fs::read(&sealed).unwrap();
    let at = bytes
        .windows(7)
        .position(|seven| seven == b"05vvvvv")
        .unwrap()
        + 1_000;
    let mut file = std::fs::File::options().write(true).open(&sealed).unwrap();
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(b"w").unwrap();

    let error = store.get(&users, "05").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("the record at "), "{error}");
    // Its neighbours hold, and a range goes on behind it.
    let entries: Vec<_> = store.snapshot().iter(&users).collect();
    assert_eq!(entries.len(), 40);
    let bad = |(i, entry): (usize, &crate::Result<_>)| entry.is_err().then_some(i);
    assert_eq!(
        entries
            .iter()
            .enumerate()
            .filter_map(bad)
            .collect::<Vec<_>>(),
        [5]
    );
    // A feed must not skip: it stops there for good.
    let mut tail = store.tail(Lsn::ZERO).unwrap();
    while let Ok(Some(commit)) = tail.poll() {
        assert!(commit.commit <= 5);
    }
    let position = tail.position();
    assert_eq!(kind(tail.poll()), ErrorKind::Corrupt);
    assert_eq!(tail.position(), position);
}

#[test]
fn receipts_are_judged_by_the_history() {
    let Pair {
        primary, standby, ..
    } = pair();
    let users = primary.keyspace("users").unwrap();
    let shipped = put(&primary, &users, "a", b"1");
    ship_all(&primary, &standby);
    let received = put(&primary, &users, "b", b"2");
    let mut cursor = primary.log_cursor(standby.chain().lsn).unwrap();
    ship(&mut cursor, &standby, 1 << 20).unwrap();
    standby.sync().unwrap();
    let lost = put(&primary, &users, "c", b"3");

    for receipt in [shipped, received, lost] {
        assert_eq!(
            primary.receipt_status(&receipt),
            ReceiptStatus::InThisHistory
        );
    }
    assert_eq!(
        standby.receipt_status(&shipped),
        ReceiptStatus::InThisHistory
    );
    // Received and not applied; not even received; of an epoch that is yet to come.
    assert_eq!(standby.receipt_status(&received), ReceiptStatus::Pending);
    assert_eq!(standby.receipt_status(&lost), ReceiptStatus::Pending);
    let epoch = EpochId::random();
    assert_eq!(
        standby.receipt_status(&Receipt { epoch, ..lost }),
        ReceiptStatus::Pending
    );
    assert_eq!(
        standby.receipt_status(&Receipt { epoch, ..shipped }),
        ReceiptStatus::OnAFork
    );
    assert_eq!(
        primary.receipt_status(&Receipt { epoch, ..lost }),
        ReceiptStatus::OnAFork
    );

    standby.begin_epoch(EpochReason::Promotion, "fire").unwrap();
    let theirs = standby.find_keyspace("users").unwrap();
    let mut after = put(&standby, &theirs, "d", b"4");
    while after.lsn <= lost.lsn {
        after = put(&standby, &theirs, "d", b"4");
    }
    assert_eq!(
        standby.receipt_status(&received),
        ReceiptStatus::InThisHistory
    );
    assert_eq!(standby.receipt_status(&lost), ReceiptStatus::OnAFork);
    assert_eq!(standby.receipt_status(&after), ReceiptStatus::InThisHistory);
    assert_eq!(primary.receipt_status(&after), ReceiptStatus::OnAFork);
    let before_its_epoch = Receipt {
        lsn: shipped.lsn,
        ..after
    };
    assert_eq!(
        standby.receipt_status(&before_its_epoch),
        ReceiptStatus::OnAFork
    );
    assert_eq!(kind(standby.wait_applied(&lost, LONG)), ErrorKind::NotHeld);
}

#[test]
fn waiting_for_a_receipt_ends_when_it_is_applied_or_never_will_be() {
    let Pair {
        primary, standby, ..
    } = pair();
    let users = primary.keyspace("users").unwrap();
    ship_all(&primary, &standby);
    let receipt = put(&primary, &users, "a", b"1");
    let error = standby
        .wait_applied(&receipt, Duration::from_millis(1))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    std::thread::scope(|scope| {
        let blocking = scope.spawn(|| {
            standby.wait_applied(&receipt, LONG).unwrap();
            standby
                .get(&standby.find_keyspace("users").unwrap(), "a")
                .unwrap()
        });
        let asynchronous = scope.spawn(|| block_on(standby.wait_applied_async(receipt)));
        ship_all(&primary, &standby);
        assert_eq!(blocking.join().unwrap().unwrap(), "1");
        asynchronous.join().unwrap().unwrap();
    });
    let later = put(&primary, &users, "b", b"2");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| standby.wait_applied(&later, LONG));
        standby.close().unwrap();
        assert_eq!(kind(waiting.join().unwrap()), ErrorKind::Closed);
    });
}
