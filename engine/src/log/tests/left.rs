//! What of the running segment is left to its file, and opening behind a replay point in it.

use super::*;
use crate::config::ReadMode;
use crate::format::ChainRecord;
use crate::log::segment::file_name;

fn open_at(fs: &MemFs, read_mode: ReadMode, replay: Option<Chain>) -> Result<Arc<Log>> {
    let config = Config {
        background: false,
        read_mode,
        ..Config::default()
    };
    Log::open(
        Arc::new(fs.clone()),
        Arc::new(SystemClock::default()),
        config,
        &mut |_, _| replay.as_ref().map(ChainRecord::new),
    )
}

fn value(n: u8) -> Vec<u8> {
    vec![n; 300 + 7 * usize::from(n)]
}

/// All frames and records from the beginning on, and each record looked up by its address.
fn all(log: &Arc<Log>) -> (Vec<Record>, Vec<Vec<u8>>) {
    let seen = Seen::default();
    let end = log.replay(Lsn::ZERO, Lsn(u64::MAX), &seen).unwrap();
    assert_eq!(end, log.positions().appended.lsn);
    let records = seen.records.into_inner().into_values().collect();
    (records, found_together(log, &mut RecordPlaces::default()))
}

#[test]
fn the_beginning_of_a_running_segment_is_left_to_its_file_and_read_from_there() {
    for read_mode in [ReadMode::Map, ReadMode::Copy] {
        let fs = made();
        let log = open_at(&fs, read_mode, None).unwrap();
        let seen = Arc::new(Seen::default());
        log.set_sink(seen.clone());
        log.begin_epoch(EpochReason::Init, "", false).unwrap();
        for n in 0..60 {
            put(&log, &[n], &value(n)).unwrap();
        }
        let before = all(&log);
        while log.background_step() == Some(Duration::ZERO) {}
        let segment = log.segments.last().unwrap();
        let range = segment.range();
        assert_eq!(range.start, Lsn::ZERO, "all of it is in one segment");
        assert!(!segment.holds(Lsn::ZERO) && !segment.holds(Lsn(range.end.0 / 2)));
        assert!(segment.holds(Lsn(range.end.0 - 8192)), "the last ones stay");
        assert_eq!(all(&log), before, "{read_mode:?}");
        assert_eq!(log.has_mapped(Lsn::ZERO), read_mode == ReadMode::Map);
        assert_eq!(segment.count_frames(&fs).unwrap(), 61);

        // It goes on, is sealed and released, and a power cut loses nothing.
        for n in 60..120 {
            put(&log, &[n], &value(n)).unwrap();
            let _ = log.background_step();
        }
        assert!(log.segments.all().len() > 1);
        let (records, _) = all(&log);
        assert_eq!(records.len(), 120);
        drop((log, segment));
        let again = open_at(&fs.crash(Crash::LoseUnsynced), read_mode, None).unwrap();
        assert_eq!(all(&again).0, records);
    }
}

#[test]
fn nothing_is_left_to_a_file_that_may_not_have_it() {
    let primary = made();
    let (writer, _) = writing(&primary);
    let standby = MemFs::new();
    Log::init(&standby, &options(writer.cluster(), SMALL)).unwrap();
    let follower = open(&standby);
    follower.begin_following().unwrap();
    for n in 0..60 {
        put(&writer, &[n], &value(n)).unwrap();
        let run = run(&writer, follower.positions().appended.lsn).unwrap();
        follower.append_run(&run).unwrap();
    }
    while follower.background_step() == Some(Duration::ZERO) {}
    let segment = follower.segments.last().unwrap();
    assert!(segment.holds(Lsn::ZERO), "nothing of it was synced");
    follower.sync().unwrap();
    while follower.background_step() == Some(Duration::ZERO) {}
    assert!(!segment.holds(Lsn::ZERO));
    assert_eq!(all(&follower), all(&writer));
}

/// A writer's directory after a power cut, with a replay point in its one segment, and the end.
fn cut_with_replay_point(after: u8) -> (MemFs, Chain, Lsn) {
    let fs = made();
    let (log, _) = writing(&fs);
    for n in 0..40 {
        put(&log, &[n], &value(n)).unwrap();
    }
    let replay = log.chain();
    for n in 40..40 + after {
        put(&log, &[n], &value(n)).unwrap();
    }
    let end = log.positions().durable.lsn;
    drop(log);
    (fs.crash(Crash::LoseUnsynced), replay, end)
}

#[test]
fn a_running_segment_is_read_from_the_replay_point_on() {
    let (fs, replay, end) = cut_with_replay_point(10);
    let records = all(&open_at(&fs, ReadMode::Map, None).unwrap()).0;
    for read_mode in [ReadMode::Map, ReadMode::Copy] {
        let log = open_at(&fs, read_mode, Some(replay)).unwrap();
        let segment = log.segments.last().unwrap();
        assert!(!segment.holds(Lsn::ZERO) && segment.holds(replay.lsn));
        assert_eq!(log.replay_from, replay);
        assert_eq!(log.positions().appended.lsn, end);
        assert_eq!(all(&log).0, records);
        drop((log, segment));
    }

    // It was not looked at: what is damaged there is found by who reads it.
    fs.rot(&file_name(1), 9000, 1).unwrap();
    let log = open_at(&fs, ReadMode::Map, Some(replay)).unwrap();
    let read = log.replay(Lsn::ZERO, Lsn(u64::MAX), &Seen::default());
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Corrupt);
    let read = log.replay(replay.lsn, Lsn(u64::MAX), &Seen::default());
    assert_eq!(
        read.unwrap_err().kind(),
        ErrorKind::Corrupt,
        "the way there"
    );
    drop(log);
    let whole = open_at(&fs, ReadMode::Map, None).err().unwrap();
    assert_eq!(whole.kind(), ErrorKind::Corrupt);
}

#[test]
fn a_log_that_was_opened_behind_a_replay_point_goes_on_and_seals_what_it_should() {
    let (fs, replay, _) = cut_with_replay_point(10);
    let log = open_at(&fs, ReadMode::Map, Some(replay)).unwrap();
    log.begin_epoch(EpochReason::Restart, "", false).unwrap();
    for n in 50..120 {
        put(&log, &[n], &value(n)).unwrap();
        let _ = log.background_step();
    }
    let (records, _) = all(&log);
    assert_eq!(records.len(), 120);
    assert!(log.segments.all().len() > 1);
    drop(log);
    // Footers, which count frames, agree with the frames: else reading all finds a fault.
    let known = Manifest::load(&fs).unwrap();
    let survey = survey::survey(&fs, &(&known).into(), None).unwrap();
    assert_eq!(survey.faults, []);
    assert!(!survey.whole.is_empty());
}

#[test]
fn a_replay_point_that_nothing_proves_is_looked_for_from_the_beginning() {
    // Nothing behind it; what it says is not so; a torn tail behind it.
    let (fs, replay, end) = cut_with_replay_point(0);
    let log = open_at(&fs, ReadMode::Map, Some(replay)).unwrap();
    assert!(log.segments.last().unwrap().holds(Lsn::ZERO));
    assert_eq!(
        (log.replay_from, log.positions().appended.lsn),
        (replay, end)
    );
    drop(log);
    fs.rot(&file_name(1), 9000, 1).unwrap();
    let refused = open_at(&fs, ReadMode::Map, Some(replay)).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Corrupt);

    let (fs, replay, end) = cut_with_replay_point(10);
    let other = Chain {
        check: replay.check ^ 1,
        ..replay
    };
    let log = open_at(&fs, ReadMode::Map, Some(other)).unwrap();
    assert!(log.segments.last().unwrap().holds(Lsn::ZERO));
    assert_eq!(log.positions().appended.lsn, end);
    drop(log);
    let behind = SEGMENT_HEADER_LEN + end.0;
    fs.rot(&file_name(1), to_usize(behind) + 64, 1).unwrap();
    let log = open_at(&fs, ReadMode::Map, Some(replay)).unwrap();
    assert!(log.segments.last().unwrap().holds(Lsn::ZERO));
    log.begin_epoch(EpochReason::Restart, "", false).unwrap();
    assert!(log.recovered().torn_bytes > 0, "the litter is kept aside");
}
