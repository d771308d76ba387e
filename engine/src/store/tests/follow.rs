//! A standby against its primary.

use super::*;
use crate::format::{BatchBuf, Chain, FrameFields, FrameKind, KeyspaceRecord, Op};
use crate::fs::{Crash, Fs, read_all};

/// Writes enough for several segments: puts, overwrites, deletes, two keyspaces.
fn write_some(primary: &Store, rounds: u32) {
    for i in 0..rounds {
        let users = primary.keyspace("users").unwrap();
        let mut batch = Batch::new();
        batch
            .put(&users, format!("{}", i % 50), vec![b'v'; 700])
            .unwrap();
        if i % 3 == 0 {
            batch.delete(&users, format!("{}", (i + 20) % 50)).unwrap();
        }
        if i > 100 {
            let late = primary.keyspace("late").unwrap();
            batch.put(&late, "i", i.to_le_bytes()).unwrap();
        }
        primary.commit(batch, CommitOptions::default()).unwrap();
    }
}

#[test]
fn at_every_frame_it_shows_the_primarys_state_there_from_equal_bytes() {
    let Pair {
        primary_fs,
        primary,
        standby_fs,
        standby,
    } = pair();
    write_some(&primary, 400);
    let mut cursor = primary.log_cursor(Lsn::ZERO).unwrap();
    let mut frames = 0;
    while let Some(run) = ship(&mut cursor, &standby, 0) {
        frames += 1;
        let end = run.range().end;
        // Neither received nor durable is applied.
        let before = standby.positions().visible;
        assert_eq!(standby.apply_to(end).unwrap().lsn, before.lsn);
        assert_eq!(standby.sync().unwrap(), end);
        assert_eq!(standby.positions().visible, before);
        assert_eq!(standby.apply_to(end).unwrap().lsn, end);
        let theirs = primary.snapshot_at(end).unwrap();
        assert_eq!(
            contents(&standby, &standby.snapshot()),
            contents(&primary, &theirs),
            "at {end}"
        );
    }
    assert!(frames > 400);
    assert_eq!(standby.positions().visible, primary.positions().visible);

    let names = primary_fs.list("log").unwrap();
    assert!(names.len() > 4, "{names:?}");
    for name in names {
        let name = format!("log/{name}");
        let (ours, theirs) = (read_all(&standby_fs, &name), read_all(&primary_fs, &name));
        assert!(ours.unwrap() == theirs.unwrap(), "{name} differs");
    }
}

#[test]
fn a_position_within_a_frame_shows_nothing_of_it() {
    let Pair {
        primary, standby, ..
    } = pair();
    write_some(&primary, 3);
    let mut cursor = primary.log_cursor(Lsn::ZERO).unwrap();
    while ship(&mut cursor, &standby, 1 << 20).is_some() {}
    standby.sync().unwrap();
    let mut ends = vec![Lsn::ZERO];
    let mut cursor = primary.log_cursor(Lsn::ZERO).unwrap();
    while let Some(run) = cursor.next_up_to(Lsn(u64::MAX), 0).unwrap() {
        ends.push(run.range().end);
    }
    for target in 0..=standby.positions().appended.lsn.0 {
        let whole = ends.iter().rfind(|end| end.0 <= target).unwrap();
        assert_eq!(
            standby.apply_to(Lsn(target)).unwrap().lsn,
            *whole,
            "target {target}"
        );
    }
}

/// A sound frame around any payload, as a faulty primary would form it.
fn crafted(standby: &Store, kind: FrameKind, batches: u32, payload: &[u8]) -> FrameRun {
    let chain = standby.chain();
    let fields = FrameFields {
        kind,
        first_in_segment: false,
        batches,
        wall_ms: 0,
        log_ms: 0,
        visible: chain.visible,
        watermark: chain.watermark,
    };
    let frame = Chain::form(&mut chain.clone(), fields, [payload]);
    FrameRun::check(&chain, frame).unwrap()
}

fn keyspace(id: u32, name: &str) -> Vec<u8> {
    let name = name.to_owned();
    KeyspaceRecord { id, name }.encode()
}

#[test]
fn a_keyspace_that_was_received_and_not_applied_is_not_made_twice() {
    let Pair {
        primary, standby, ..
    } = pair();
    write_some(&primary, 2);
    ship_all(&primary, &standby);
    primary.keyspace("rooms").unwrap();
    let mut cursor = primary.log_cursor(standby.chain().lsn).unwrap();
    ship(&mut cursor, &standby, 1 << 20).unwrap();
    let received = standby.positions();
    assert!(received.visible.lsn < received.appended.lsn);
    for taken in [keyspace(2, "other"), keyspace(9, "rooms")] {
        let run = crafted(&standby, FrameKind::Keyspace, 0, &taken);
        assert_eq!(kind(standby.append_run(&run)), ErrorKind::Incompatible);
    }
    let run = crafted(&standby, FrameKind::Keyspace, 0, &keyspace(3, "halls"));
    let end = standby.append_run(&run).unwrap();
    standby.sync().unwrap();
    assert_eq!(standby.apply_to(end).unwrap().lsn, end);
}

#[test]
fn frames_that_no_writer_forms_never_reach_its_log() {
    let Pair {
        primary, standby, ..
    } = pair();
    write_some(&primary, 2);
    ship_all(&primary, &standby);
    let before = standby.positions();
    let garbage = |kind, batches, payload: &[u8]| crafted(&standby, kind, batches, payload);
    for run in [
        garbage(FrameKind::Batches, 1, b"no batch at all"),
        garbage(FrameKind::Batches, 2, &[0; 8]),
        garbage(FrameKind::Keyspace, 0, b"\xff\xff"),
        garbage(FrameKind::Keyspace, 0, &keyspace(0, "zero")),
        garbage(FrameKind::Keyspace, 0, &keyspace(9, "two words")),
        garbage(FrameKind::Keyspace, 0, &keyspace(1, "again")),
        garbage(FrameKind::Keyspace, 0, &keyspace(9, "users")),
    ] {
        assert_eq!(kind(standby.append_run(&run)), ErrorKind::Incompatible);
    }
    assert_eq!(standby.positions(), before);
    write_some(&primary, 2);
    ship_all(&primary, &standby);
    assert_eq!(standby.positions().visible, primary.positions().visible);
}

#[test]
fn a_keyspace_made_twice_stops_it_with_an_error_and_not_with_another_state() {
    let Pair {
        primary, standby, ..
    } = pair();
    write_some(&primary, 2);
    ship_all(&primary, &standby);
    let shown = contents(&standby, &standby.snapshot());
    let run = crafted(&standby, FrameKind::Keyspace, 0, &keyspace(1, "again"));
    // Past the check that keeps it out.
    standby.log().append_run(&run).unwrap();
    standby.sync().unwrap();
    for _ in 0..2 {
        assert_eq!(kind(standby.apply_to(run.range().end)), ErrorKind::Corrupt);
    }
    assert_eq!(contents(&standby, &standby.snapshot()), shown);
    assert_eq!(
        kind(standby.begin_epoch(EpochReason::Promotion, "")),
        ErrorKind::Corrupt
    );
}

#[test]
fn what_a_failed_promotion_applied_goes_with_the_tail_that_is_cut() {
    let keyspace = |primary: &Store| drop(primary.keyspace("left").unwrap());
    let batch = |primary: &Store| {
        let users = primary.keyspace("users").unwrap();
        put(primary, &users, "phantom", b"of the other history");
    };
    for tail in [&keyspace as &dyn Fn(&Store), &batch] {
        let Pair {
            primary_fs,
            primary,
            standby,
            ..
        } = pair();
        write_some(&primary, 110);
        ship_all(&primary, &standby);
        let shown = standby.snapshot();
        let range = shown.iter(&standby.find_keyspace("users").unwrap());
        // Two histories part here.
        let other = open(&primary_fs.crash(Crash::KeepAll));
        tail(&primary);
        let mut cursor = primary.log_cursor(standby.chain().lsn).unwrap();
        ship(&mut cursor, &standby, 1 << 20).unwrap();
        standby.sync().unwrap();
        let too_long = "x".repeat(5_000);
        let refused = standby.begin_epoch(EpochReason::Promotion, &too_long);
        assert_eq!(kind(refused), ErrorKind::Limit);
        assert_eq!(
            standby.snapshot().lsn(),
            shown.lsn(),
            "it shows nothing of that"
        );

        let fork = other.begin_epoch(EpochReason::Restart, "").unwrap().fork;
        standby.begin_following().unwrap();
        standby.quarantine(fork).unwrap();
        let right = other.keyspace("right").unwrap();
        put(&other, &right, "a", b"1");
        write_some(&other, 120);
        ship_all(&other, &standby);
        assert_eq!(kind(standby.find_keyspace("left")), ErrorKind::NoKeyspace);
        let state = contents(&other, &other.snapshot());
        assert_eq!(contents(&standby, &standby.snapshot()), state);
        // What was read before goes on.
        let users = other.find_keyspace("users").unwrap();
        let theirs = other.snapshot_at(shown.lsn()).unwrap();
        assert!(
            range
                .map(Result::unwrap)
                .eq(theirs.iter(&users).map(Result::unwrap))
        );
    }
}

#[test]
fn a_tail_that_cannot_be_applied_may_be_cut() {
    let Pair {
        primary, standby, ..
    } = pair();
    write_some(&primary, 2);
    ship_all(&primary, &standby);
    let end = standby.chain().lsn;
    let run = crafted(&standby, FrameKind::Keyspace, 0, &keyspace(1, "again"));
    // Past the check that keeps it out.
    standby.log().append_run(&run).unwrap();
    standby.sync().unwrap();
    assert_eq!(kind(standby.apply_to(run.range().end)), ErrorKind::Corrupt);
    standby.quarantine(end).unwrap();
    write_some(&primary, 120);
    ship_all(&primary, &standby);
    let state = contents(&primary, &primary.snapshot());
    assert_eq!(contents(&standby, &standby.snapshot()), state);
}

#[test]
fn a_feed_that_cannot_name_a_change_stops_before_it_for_good() {
    let Pair {
        primary, standby, ..
    } = pair();
    write_some(&primary, 3);
    ship_all(&primary, &standby);
    let mut batch = BatchBuf::default();
    batch.push(Op::Put, 99, b"key", b"in a keyspace that was never made");
    let run = crafted(&standby, FrameKind::Batches, 1, &batch.finish());
    standby.append_run(&run).unwrap();
    let run = crafted(
        &standby,
        FrameKind::Batches,
        1,
        &BatchBuf::default().finish(),
    );
    standby.append_run(&run).unwrap();
    standby.sync().unwrap();
    standby.apply_to(run.range().end).unwrap();
    let mut tail = standby.tail(Lsn::ZERO).unwrap();
    let given = std::iter::from_fn(|| tail.poll().ok().flatten()).count();
    assert_eq!(given, 3);
    for _ in 0..2 {
        assert_eq!(kind(tail.poll()), ErrorKind::Corrupt);
        assert_eq!(kind(tail.next_timeout(LONG)), ErrorKind::Corrupt);
    }
}

#[test]
fn a_promotion_shows_all_that_was_received_and_goes_on_from_there() {
    let Pair {
        primary,
        standby,
        standby_fs,
        ..
    } = pair();
    write_some(&primary, 120);
    let mut cursor = primary.log_cursor(Lsn::ZERO).unwrap();
    ship(&mut cursor, &standby, 8_000).unwrap();
    standby.sync().unwrap();
    standby.apply_to(Lsn(4_000)).unwrap();
    // Received and never synced before the promotion.
    while ship(&mut cursor, &standby, 8_000).is_some() {}
    let epoch = standby.begin_epoch(EpochReason::Promotion, "fire").unwrap();
    assert_eq!(
        (epoch.term, epoch.fork),
        (2, primary.positions().appended.lsn)
    );
    let state = contents(&primary, &primary.snapshot());
    assert_eq!(contents(&standby, &standby.snapshot()), state);

    let users = standby.keyspace("users").unwrap();
    let receipt = put(&standby, &users, "new", b"era");
    assert_eq!((receipt.epoch, receipt.commit), (epoch.id, 121));
    let last = standby.tail(epoch.fork).unwrap().poll().unwrap().unwrap();
    assert_eq!((last.commit, last.epoch), (121, epoch.id));
    standby.close().unwrap();
    drop((standby, last, users));
    let standby = open(&standby_fs);
    standby.begin_epoch(EpochReason::Restart, "").unwrap();
    let users = standby.find_keyspace("users").unwrap();
    assert_eq!(standby.get(&users, "new").unwrap().unwrap(), "era");
}
