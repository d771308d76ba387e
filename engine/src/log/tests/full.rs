//! A disk without room: what is told, what goes on, and what must be written all the same.

use super::recover::{Pair, feed, logs, pair};
use super::*;

/// Does all background work that there is.
fn work(log: &Log) {
    for _ in 0..200 {
        if log
            .background_step()
            .is_none_or(|rest| rest > Duration::ZERO)
        {
            return;
        }
    }
}

#[test]
fn a_full_disk_stops_new_commits_and_nothing_else_and_clears_by_itself() {
    let fs = made();
    let (log, seen) = writing(&fs);
    fs.limit(Some(fs.used_bytes()));
    let mut written = 0;
    let error = loop {
        match put(&log, &[written], &[1; 8000]) {
            Ok(_) => written += 1,
            Err(CommitError::Failed(error)) => break error,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(error.kind(), ErrorKind::DiskFull);
    assert!(written >= 6, "{written} fit in the running segment");
    assert_eq!(log.state(), LogState::Writing);
    assert_eq!(seen.records.lock().len(), usize::from(written));
    assert!(run(&log, Lsn::ZERO).is_some(), "shipping goes on");
    log.background_step();
    fs.limit(None);
    put(&log, b"after", &[1; 8000]).unwrap();
    drop(log);
    let (_, seen) = writing(&fs.crash(Crash::LoseUnsynced));
    assert_eq!(seen.records.lock().len(), usize::from(written) + 1);
}

#[test]
fn a_full_disk_is_told_of_once_and_once_more_when_it_is_not() {
    let fs = made();
    let (log, _) = writing(&fs);
    put(&log, b"a", &[1; 500]).unwrap();
    fs.limit(Some(fs.used_bytes()));
    for n in 0..10 {
        put(&log, &[n], &[1; 100]).unwrap();
        log.background_step();
        assert_eq!(log.lane.troubles(), 1, "after {n} commits");
        assert!(!log.holds_reserve());
    }
    fs.limit(None);
    work(&log);
    assert!(log.holds_reserve());
    assert_eq!(log.lane.troubles(), 2);
}

#[test]
fn without_space_in_the_commit_path_the_log_is_poisoned_and_reopening_finds_all() {
    let fs = made();
    let (log, _) = writing(&fs);
    put(&log, b"a", &[1; 500]).unwrap();
    for operation in [1, 2] {
        let image = fs.crash(Crash::KeepAll);
        let (log, _) = writing(&image);
        put(&log, b"b", &[1; 500]).unwrap();
        image.fail_at(
            image.operations() + operation,
            std::io::ErrorKind::StorageFull,
        );
        let outcome = put(&log, b"c", &[1; 500]);
        assert!(matches!(outcome, Err(CommitError::Unknown { .. })));
        assert!(matches!(log.state(), LogState::Poisoned(_)));
        drop(log);
        let (_, seen) = writing(&image);
        let keys: Vec<_> = seen.records.lock().values().map(|r| r.1.clone()).collect();
        assert!(
            keys.starts_with(&[b"a".to_vec(), b"b".to_vec()]),
            "{keys:?}"
        );
    }
}

#[test]
fn a_standby_is_promoted_at_no_free_bytes_whatever_room_its_segment_has() {
    for commits in 1..=14 {
        let Pair {
            standby, writer, ..
        } = pair(1);
        let log = open(&standby);
        log.begin_following().unwrap();
        work(&log);
        // The next segment must not be there yet: that is the hard case.
        standby.limit(Some(standby.used_bytes()));
        for n in 0..commits {
            put(&writer, &[n], &[n; 4000]).unwrap();
        }
        while let Some(run) = run(&writer, log.positions().appended.lsn) {
            if log.append_run(&run).is_err() {
                break; // No room for more; what came is kept.
            }
        }
        log.sync().unwrap();
        let end = log.positions().durable.lsn;
        let epoch = log.begin_epoch(EpochReason::Promotion, "", true).unwrap();
        assert_eq!(epoch.fork, end);
        drop(log);
        let image = standby.crash(Crash::LoseUnsynced);
        let again = open(&image);
        assert_eq!(again.history().last().unwrap().id, epoch.id, "{commits}");
        assert!(again.positions().appended.lsn > end);
    }
}

#[test]
fn an_epoch_takes_the_reserve_as_its_segment_when_there_is_no_other() {
    // Larger than what the reserve gives back for control files.
    let fs = MemFs::new();
    Log::init(&fs, &options(ClusterId::random(), 2 << 20)).unwrap();
    let (log, _) = writing(&fs);
    work(&log);
    assert!(fs.list("").unwrap().contains(&"reserve".to_owned()));
    // Filled up to the end of the second segment, with none behind it.
    fs.limit(Some(fs.used_bytes()));
    while put(&log, b"k", &[1; 40_000]).is_ok() {}
    while put(&log, b"k", &[1; 100]).is_ok() {}
    while put(&log, b"k", b"").is_ok() {}
    drop(log);
    let log = open(&fs);
    let epoch = log.begin_epoch(EpochReason::Restart, "", false).unwrap();
    assert!(!fs.list("").unwrap().contains(&"reserve".to_owned()));
    drop(log);
    let image = fs.crash(Crash::LoseUnsynced);
    let log = open(&image);
    assert_eq!(log.history().last().unwrap().id, epoch.id);
    log.begin_epoch(EpochReason::Restart, "", false).unwrap();
    work(&log);
    assert!(image.list("").unwrap().contains(&"reserve".to_owned()));
}

#[test]
fn a_fence_a_mark_and_a_torn_tail_are_written_at_no_free_bytes() {
    let fs = made();
    let (log, _) = writing(&fs);
    work(&log);
    let last = put(&log, b"last", &[2; 500]).unwrap();
    drop(log);
    let torn = to_usize(SEGMENT_HEADER_LEN + last.lsn.0) - 3;
    fs.rot(&segment::file_name(1), torn, 1).unwrap();
    fs.limit(Some(fs.used_bytes()));
    let log = open(&fs);
    log.begin_epoch(EpochReason::Restart, "", false).unwrap();
    assert_eq!(log.recovered().aside.len(), 1);
    log.note_mark().unwrap();
    log.fence(TermMark {
        term: 9,
        opened_by: EpochId([9; 16]),
    })
    .unwrap();
    drop(log);
    let image = fs.crash(Crash::LoseUnsynced);
    assert!(matches!(open(&image).state(), LogState::Fenced(_)));
}

#[test]
fn a_follower_that_ran_out_of_space_goes_on_where_it_stopped() {
    let Pair {
        primary,
        standby,
        writer,
    } = pair(2);
    let log = open(&standby);
    log.begin_following().unwrap();
    standby.limit(Some(standby.used_bytes()));
    for n in 0..30 {
        put(&writer, &[n], &[n; 4000]).unwrap();
    }
    let refused = loop {
        let next = run(&writer, log.positions().appended.lsn).unwrap();
        if let Err(error) = log.append_run(&next) {
            break error;
        }
    };
    assert_eq!(refused.kind(), ErrorKind::DiskFull);
    assert_eq!(log.state(), LogState::Following);
    log.sync().unwrap();
    standby.limit(None);
    feed(&writer, &log);
    assert_eq!(log.chain(), writer.chain());
    drop((log, writer));
    assert_eq!(logs(&primary), logs(&standby));
}
