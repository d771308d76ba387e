mod check;
mod full;
mod golden;
mod left;
mod mend;
mod overlap;
mod recover;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::clock::SystemClock;
use crate::config::InitOptions;
use crate::error::CommitError;
use crate::format::{
    BatchBuf, EpochReason, FrameFault, FrameKind, FrameRun, LsnRange, Op, Records,
    SEGMENT_HEADER_LEN, to_usize,
};
use crate::fs::{Crash, MemFs, OsFs, read_all};

const SMALL: u64 = 64 << 10;

/// Commit number, key and value.
type Record = (u64, Vec<u8>, Vec<u8>);

/// A state as simple as can be: all records, by their position.
#[derive(Default)]
struct Seen {
    records: Mutex<BTreeMap<Lsn, Record>>,
    frames: Mutex<Vec<(Lsn, FrameKind)>>,
}

impl FrameSink for Seen {
    fn has_expiring(&self) -> bool {
        false
    }

    fn apply(&self, header: &FrameHeader, frame: &Bytes) {
        self.frames.lock().push((header.lsn, header.kind));
        if header.kind != FrameKind::Batches {
            return;
        }
        let records = Records::new(header.payload(frame), header.payload_lsn(), header.batches);
        for placed in records {
            let placed = placed.unwrap();
            let commit = header.first_commit + u64::from(placed.batch);
            let (key, value) = (placed.record.key.to_vec(), placed.record.value.to_vec());
            self.records.lock().insert(placed.lsn, (commit, key, value));
        }
    }
}

fn options(cluster: ClusterId, segment_size: u64) -> InitOptions {
    InitOptions {
        cluster,
        segment_size,
        ..InitOptions::new("a")
    }
}

fn made() -> MemFs {
    let fs = MemFs::new();
    Log::init(&fs, &options(ClusterId::random(), SMALL)).unwrap();
    fs
}

fn open_with(fs: &MemFs, background: bool) -> Result<Arc<Log>> {
    let config = Config {
        background,
        ..Config::default()
    };
    Log::open(
        Arc::new(fs.clone()),
        Arc::new(SystemClock::default()),
        config,
        &mut |_, _| None,
    )
}

fn open(fs: &MemFs) -> Arc<Log> {
    open_with(fs, false).unwrap()
}

fn writing(fs: &MemFs) -> (Arc<Log>, Arc<Seen>) {
    let log = open(fs);
    let seen = Arc::new(Seen::default());
    log.replay(Lsn::ZERO, log.positions().appended.lsn, &*seen)
        .unwrap();
    log.set_sink(seen.clone());
    log.begin_epoch(EpochReason::Init, "", false).unwrap();
    (log, seen)
}

fn batch(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut batch = BatchBuf::default();
    batch.push(Op::Put, 1, key, value);
    batch.finish()
}

fn put(log: &Log, key: &[u8], value: &[u8]) -> Result<crate::Receipt, CommitError> {
    log.commit(batch(key, value), CommitOptions::default())
}

fn run(log: &Arc<Log>, from: Lsn) -> Option<FrameRun> {
    log.cursor(from)
        .unwrap()
        .next_up_to(Lsn(u64::MAX), 1 << 20)
        .unwrap()
}

#[test]
fn what_was_committed_is_there_after_a_power_cut_over_many_segments() {
    let fs = made();
    let mut receipts = Vec::new();
    let expected = {
        let (log, seen) = writing(&fs);
        for n in 0..200u32 {
            receipts.push(put(&log, &n.to_le_bytes(), &vec![1; 2000]).unwrap());
        }
        assert!(log.segments.all().len() > 6);
        let records = seen.records.lock().clone();
        for (lsn, (_, _, value)) in &records {
            let record = log.read(*lsn, 16 + 4 + value.len()).unwrap();
            assert_eq!(crate::format::decode_record(&record).unwrap().value, value);
        }
        records
    };
    assert!(
        receipts
            .windows(2)
            .all(|w| w[0].lsn < w[1].lsn && w[0].commit + 1 == w[1].commit)
    );
    let fs = fs.crash(Crash::LoseUnsynced);
    let (log, seen) = writing(&fs);
    assert_eq!(*seen.records.lock(), expected);
    let epochs = log.history();
    assert_eq!((epochs.epochs().len(), epochs.term()), (2, 1));
    let next = put(&log, b"next", b"").unwrap();
    assert_eq!(next.commit, receipts.len() as u64 + 1);
}

#[test]
fn opening_twice_is_refused_and_an_empty_directory_is_not_initialised() {
    let fs = made();
    let log = open(&fs);
    assert_eq!(
        open_with(&fs, false).err().unwrap().kind(),
        ErrorKind::Locked
    );
    drop(log);
    let again = Log::init(&fs, &options(ClusterId::random(), SMALL)).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyInitialised);
    let empty = open_with(&MemFs::new(), false).err().unwrap();
    assert_eq!(empty.kind(), ErrorKind::NotInitialised);
}

#[test]
fn many_threads_share_groups_and_each_gets_its_own_receipt() {
    let dir = tempfile::tempdir().unwrap();
    let fs = Arc::new(OsFs::new(dir.path()));
    Log::init(&*fs, &options(ClusterId::random(), 1 << 20)).unwrap();
    let log = Log::open(
        fs,
        Arc::new(SystemClock::default()),
        Config::default(),
        &mut |_, _| None,
    )
    .unwrap();
    let seen = Arc::new(Seen::default());
    log.set_sink(seen.clone());
    log.begin_epoch(EpochReason::Init, "", false).unwrap();
    let (threads, each) = (8u8, 200u8);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let log = &log;
            scope.spawn(move || {
                for n in 0..each {
                    let receipt = put(log, &[thread, n], &[n; 300]).unwrap();
                    let positions = log.positions();
                    assert!(
                        receipt.lsn <= positions.visible.lsn
                            && receipt.lsn <= positions.durable.lsn
                    );
                }
            });
        }
    });
    let records = seen.records.lock();
    let commits: Vec<u64> = records.values().map(|(commit, _, _)| *commit).collect();
    assert_eq!(
        commits,
        (1..=u64::from(threads) * u64::from(each)).collect::<Vec<_>>()
    );
    for thread in 0..threads {
        let own: Vec<u8> = records
            .values()
            .filter(|(_, key, _)| key[0] == thread)
            .map(|r| r.1[1])
            .collect();
        assert_eq!(
            own,
            (0..each).collect::<Vec<_>>(),
            "commits of one caller keep their order"
        );
    }
}

#[test]
fn asynchronous_commits_need_no_thread_each_and_share_frames() {
    let fs = made();
    let log = open_with(&fs, true).unwrap();
    log.begin_epoch(EpochReason::Init, "", false).unwrap();
    let futures: Vec<_> = (0..2000u32)
        .map(|n| log.commit_async(batch(&n.to_le_bytes(), b"v"), CommitOptions::default()))
        .collect();
    let receipts: Vec<_> = futures
        .into_iter()
        .map(|future| block_on(future).unwrap())
        .collect();
    assert!(receipts.windows(2).all(|w| w[0].commit + 1 == w[1].commit));
    log.close().unwrap();
    let refused = block_on(log.commit_async(batch(b"k", b"v"), CommitOptions::default()));
    assert!(matches!(refused, Err(CommitError::Failed(e)) if e.kind() == ErrorKind::Closed));
}

fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn a_follower_fed_with_runs_of_any_length_holds_the_same_bytes() {
    let cluster = ClusterId::random();
    let (primary, standby) = (MemFs::new(), MemFs::new());
    Log::init(&primary, &options(cluster, SMALL)).unwrap();
    Log::init(
        &standby,
        &InitOptions {
            follower: true,
            ..options(cluster, SMALL)
        },
    )
    .unwrap();
    let (writer, written) = writing(&primary);
    let follower = open(&standby);
    follower.begin_following().unwrap();
    for n in 0..300usize {
        put(&writer, &n.to_le_bytes(), &vec![7; n * 13 % 4000]).unwrap();
    }
    drop(writer);
    // Again with another epoch behind it.
    let (writer, _) = writing(&primary);
    for n in 0..50usize {
        put(&writer, &n.to_le_bytes(), &vec![8; 1000]).unwrap();
    }
    let mut len_max = 100;
    while follower.positions().appended.lsn < writer.positions().appended.lsn {
        let mut cursor = writer.cursor(follower.positions().appended.lsn).unwrap();
        let run = cursor.next_up_to(Lsn(u64::MAX), len_max).unwrap().unwrap();
        follower.append_run(&run).unwrap();
        len_max = len_max * 5 / 3 % 300_000 + 100;
    }
    assert_eq!(follower.sync().unwrap(), writer.positions().durable.lsn);
    assert_eq!(follower.chain(), writer.chain());
    assert_eq!(follower.history(), writer.history());
    let sealed = writer.segments.all().len() - 1;
    assert!(sealed > 8, "{sealed} sealed segments");
    for ordinal in 1..=sealed as u64 {
        let name = segment::file_name(ordinal);
        assert!(
            read_all(&primary, &name).unwrap() == read_all(&standby, &name).unwrap(),
            "{name}"
        );
    }
    let replayed = Seen::default();
    follower
        .replay(Lsn::ZERO, Lsn(u64::MAX), &replayed)
        .unwrap();
    let written = written.records.lock();
    assert!(
        written
            .iter()
            .all(|(lsn, record)| replayed.records.lock().get(lsn) == Some(record))
    );
    // After a crash it goes on where it was durable, and takes nothing that does not follow.
    drop(follower);
    let standby = standby.crash(Crash::LoseUnsynced);
    let follower = open(&standby);
    assert_eq!(follower.chain(), writer.chain());
    follower.begin_following().unwrap();
    let old = run(&writer, Lsn::ZERO).unwrap();
    assert_eq!(
        follower.append_run(&old).unwrap_err().kind(),
        ErrorKind::NotHeld
    );
    put(&writer, b"more", b"").unwrap();
    follower
        .append_run(&run(&writer, follower.positions().appended.lsn).unwrap())
        .unwrap();
    assert_eq!(follower.sync().unwrap(), writer.positions().durable.lsn);
}

#[test]
fn every_single_change_that_a_crash_interrupts_leaves_all_that_was_acknowledged() {
    let count = {
        let fs = made();
        let before = fs.operations();
        workload(&fs).0.unwrap();
        fs.operations() - before
    };
    assert!(count > 60, "{count} operations");
    for number in 1..=count {
        let fs = made();
        fs.fail_at(fs.operations() + number, std::io::ErrorKind::Other);
        let (_, acked) = workload(&fs);
        for crash in [Crash::LoseUnsynced, Crash::KeepAll, Crash::Random(number)] {
            let image = fs.crash(crash);
            let log = open_with(&image, false)
                .unwrap_or_else(|e| panic!("operation {number}, {crash:?}: {e}"));
            let seen = Arc::new(Seen::default());
            log.set_sink(seen.clone());
            log.settle().unwrap();
            log.replay(Lsn::ZERO, Lsn(u64::MAX), &*seen).unwrap();
            let found = seen.records.lock().clone();
            for (lsn, key) in &acked {
                let holds = found.values().any(|(_, k, _)| k == key);
                assert!(
                    holds,
                    "operation {number}, {crash:?}: lost {key:?} acked at {lsn}"
                );
            }
            // And it can be written on.
            log.begin_epoch(EpochReason::Restart, "", false).unwrap();
            let after = put(&log, b"after", &[9; 8000]).unwrap();
            acked_are_there(&image, &acked, after.lsn);
        }
        // Without a crash: what a failed fsync left in the cache is not what the disk has.
        let log = open(&fs);
        log.settle().unwrap();
        let durable = log.positions().durable.lsn;
        acked_are_there(&fs, &acked, durable);
    }
}

/// Opens what a power cut would leave now, and looks for what was acknowledged, up to `end`.
fn acked_are_there(fs: &MemFs, acked: &[(Lsn, Vec<u8>)], end: Lsn) {
    let image = fs.crash(Crash::LoseUnsynced);
    let manifest = Manifest::load(&image).unwrap();
    let known = survey::Known::from(&manifest);
    let faults = survey::survey(&image, &known, None).unwrap().faults;
    let damage = faults.iter().find(|fault| !fault.kind.is_of_a_crash());
    assert_eq!(damage, None, "a crash is not damage");
    let log = open(&image);
    assert!(log.positions().appended.lsn >= end, "ends before {end}");
    let seen = Seen::default();
    log.replay(Lsn::ZERO, Lsn(u64::MAX), &seen).unwrap();
    let keys: Vec<_> = seen.records.lock().values().map(|r| r.1.clone()).collect();
    for (lsn, key) in acked {
        assert!(keys.contains(key), "lost {key:?}, acknowledged at {lsn}");
    }
}

/// Writes over three segments until something fails; answers with what was acknowledged.
fn workload(fs: &MemFs) -> (Result<()>, Vec<(Lsn, Vec<u8>)>) {
    let mut acked = Vec::new();
    let mut work = || {
        let log = open_with(fs, false)?;
        log.begin_epoch(EpochReason::Init, "", false)?;
        for n in 0..20u8 {
            let key = vec![n; 9];
            let receipt = put(&log, &key, &vec![n; 8000]).map_err(|e| match e {
                CommitError::Failed(error) | CommitError::Unknown { error, .. } => error,
            })?;
            acked.push((receipt.lsn, key));
            log.background_step();
        }
        Ok(())
    };
    let outcome = work();
    (outcome, acked)
}

#[test]
fn a_failed_fsync_poisons_and_is_never_tried_again() {
    let fs = made();
    let (log, _) = writing(&fs);
    put(&log, b"a", b"").unwrap();
    fs.fail_at(fs.operations() + 2, std::io::ErrorKind::Other);
    let outcome = put(&log, b"b", b"");
    assert!(
        matches!(outcome, Err(CommitError::Unknown { .. })),
        "{outcome:?}"
    );
    let operations = fs.operations();
    for _ in 0..3 {
        let outcome = put(&log, b"c", b"").unwrap_err();
        let CommitError::Failed(error) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(error.kind(), ErrorKind::Poisoned);
    }
    assert_eq!(
        fs.operations(),
        operations,
        "the disk was touched after the poisoning"
    );
    assert!(matches!(log.state(), LogState::Poisoned(_)));
    assert!(log.read(Lsn::ZERO, 8).is_ok());
}

#[test]
fn a_full_disk_fails_commits_before_they_are_written_and_clears_by_itself() {
    let fs = made();
    let (log, _) = writing(&fs);
    let outcome = loop {
        // Whatever fails next outside of write and fsync of a frame is the making of a segment.
        if log.segments.last().unwrap().room() < 3000 {
            fs.fail_at(fs.operations() + 1, std::io::ErrorKind::StorageFull);
        }
        let outcome = put(&log, b"k", &[1; 3000]);
        if outcome.is_err() {
            break outcome;
        }
    };
    let CommitError::Failed(error) = outcome.unwrap_err() else {
        panic!("not failed")
    };
    assert_eq!(error.kind(), ErrorKind::DiskFull);
    assert_eq!(log.state(), LogState::Writing);
    put(&log, b"k", &[1; 3000]).unwrap();
}

#[test]
fn a_torn_tail_is_cut_and_kept_aside_and_rot_below_what_was_vouched_for_is_refused() {
    let fs = made();
    let (log, _) = writing(&fs);
    let first = put(&log, b"first", &[1; 500]).unwrap();
    let last = put(&log, b"last", &[2; 500]).unwrap();
    drop(log);
    let offset = |lsn: Lsn| to_usize(SEGMENT_HEADER_LEN + lsn.0) - 3;
    // Nothing vouches for the last frame yet: it reads as torn.
    let torn = fs.crash(Crash::KeepAll);
    torn.rot(&segment::file_name(1), offset(last.lsn), 1)
        .unwrap();
    let (log, seen) = writing(&torn);
    assert_eq!(
        seen.records
            .lock()
            .values()
            .map(|r| r.1.clone())
            .collect::<Vec<_>>(),
        [b"first"]
    );
    let recovered = log.recovered();
    assert!(recovered.torn_bytes > 500, "{recovered:?}");
    let aside = read_all(&torn, &recovered.aside[0]).unwrap();
    assert_eq!(aside.len() as u64, recovered.torn_bytes);
    // The second frame's watermark vouches for the first.
    let rotten = fs.crash(Crash::KeepAll);
    rotten
        .rot(&segment::file_name(1), offset(first.lsn), 1)
        .unwrap();
    let before = read_all(&rotten, &segment::file_name(1)).unwrap();
    assert_eq!(
        open_with(&rotten, false).err().unwrap().kind(),
        ErrorKind::Corrupt
    );
    assert_eq!(read_all(&rotten, &segment::file_name(1)).unwrap(), before);
}

#[test]
fn an_idle_log_vouches_for_its_last_commit() {
    let fs = made();
    let log = open_with(&fs, true).unwrap();
    log.begin_epoch(EpochReason::Init, "", false).unwrap();
    let last = put(&log, b"last", &[2; 500]).unwrap();
    wait_until(|| log.chain().watermark >= last.lsn);
    let end = log.positions().appended.lsn;
    drop(log);
    let rotten = fs.crash(Crash::LoseUnsynced);
    let at = to_usize(SEGMENT_HEADER_LEN + last.lsn.0) - 3;
    rotten.rot(&segment::file_name(1), at, 1).unwrap();
    assert_eq!(
        open_with(&rotten, false).err().unwrap().kind(),
        ErrorKind::Corrupt
    );
    assert!(end > last.lsn);
}

fn wait_until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain");
        std::thread::yield_now();
    }
}

#[test]
fn levels_wait_for_the_standby_and_end_as_unknown_when_this_node_is_fenced() {
    let fs = made();
    let log = open_with(&fs, true).unwrap();
    log.begin_epoch(EpochReason::Init, "", false).unwrap();
    let replicated = log.commit_async(batch(b"r", b""), CommitOptions::at(Level::Replicated));
    let applied = log.commit_async(batch(b"a", b""), CommitOptions::at(Level::Applied));
    let local = put(&log, b"l", b"").unwrap();
    let end = log.positions().durable.lsn;
    assert!(local.lsn <= end);
    let durable = log.positions().durable;
    log.set_replica_positions(ReplicaPositions {
        received: durable,
        durable,
        applied: Position::ZERO,
    });
    block_on(replicated).unwrap();
    let deadline = Some(Duration::from_millis(1));
    let late = log.commit(
        batch(b"d", b""),
        CommitOptions {
            level: Level::Replicated,
            deadline,
        },
    );
    assert!(matches!(late, Err(CommitError::Unknown { .. })), "{late:?}");
    let by = TermMark {
        term: 2,
        opened_by: EpochId::random(),
    };
    log.fence(by).unwrap();
    let outcome = block_on(applied);
    assert!(
        matches!(outcome, Err(CommitError::Unknown { .. })),
        "{outcome:?}"
    );
    let refused = put(&log, b"z", b"").unwrap_err();
    assert!(matches!(refused, CommitError::Failed(e) if e.kind() == ErrorKind::Fenced));
    drop(log);
    let log = open(&fs.crash(Crash::LoseUnsynced));
    assert_eq!(log.state(), LogState::Fenced(by));
    assert_eq!(
        log.begin_epoch(EpochReason::Restart, "", false)
            .unwrap_err()
            .kind(),
        ErrorKind::Fenced
    );
}

#[test]
fn a_promoted_follower_raises_the_term_above_all_it_heard_of() {
    let cluster = ClusterId::random();
    let (primary, standby) = (MemFs::new(), MemFs::new());
    Log::init(&primary, &options(cluster, SMALL)).unwrap();
    Log::init(&standby, &options(cluster, SMALL)).unwrap();
    let (writer, _) = writing(&primary);
    put(&writer, b"k", b"").unwrap();
    let follower = open(&standby);
    follower.begin_following().unwrap();
    follower
        .append_run(&run(&writer, Lsn::ZERO).unwrap())
        .unwrap();
    follower.sync().unwrap();
    let heard = TermMark {
        term: 6,
        opened_by: EpochId::random(),
    };
    follower.note_term(heard).unwrap();
    let epoch = follower
        .begin_epoch(EpochReason::Promotion, "fire", true)
        .unwrap();
    assert_eq!(
        (epoch.term, epoch.opened_by, epoch.fork),
        (7, epoch.id, writer.chain().lsn)
    );
    let receipt = put(&follower, b"on", b"").unwrap();
    assert_eq!(receipt.commit, 2);
    assert_eq!(follower.term_heard().unwrap().term, 7);
}

#[test]
fn preparing_with_an_old_view_of_the_log_never_touches_a_file_in_use() {
    let fs = made();
    let (log, _) = writing(&fs);
    let first = log.segments.last().unwrap();
    while log.segments.last().unwrap().header.ordinal == 1 {
        put(&log, b"k", &[7; 9_000]).unwrap();
    }
    let second = segment::file_name(2);
    let before = read_all(&fs, &second).unwrap();
    // As the lane does that was held up between its look at the log and its turn.
    log.prepare_behind(&first).unwrap();
    assert!(
        read_all(&fs, &second).unwrap() == before,
        "frames were overwritten"
    );
    let active = log.segments.last().unwrap();
    while log.prepare_behind(&active).unwrap() == Some(Duration::ZERO) {}
    assert!(read_all(&fs, &segment::file_name(3)).is_ok());
}

/// What a node says of itself, and what it tells its peer, it can say while its disk hangs.
#[test]
fn nobody_who_asks_how_the_log_is_waits_for_a_disk() {
    let fs = made();
    let (log, _) = writing(&fs);
    put(&log, b"k", b"v").unwrap();
    let (said, heard) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        // As whoever writes a frame, and whoever writes the manifest, while the disk hangs.
        let writes = (log.writer.lock(), log.manifest_changes.lock());
        scope.spawn(|| {
            let _ = (log.positions(), log.state(), log.history(), log.recovered());
            let _ = (log.held_log_time(), log.term_heard(), log.node_name());
            let _ = (log.protections(), log.newest_protection());
            let _ = (log.protection_heard(), log.is_attached());
            said.send(()).unwrap();
        });
        let answered = heard.recv_timeout(Duration::from_secs(20));
        drop(writes);
        answered.expect("somebody waited");
    });
}

#[test]
fn a_batch_over_the_limit_names_it() {
    let fs = made();
    let (log, _) = writing(&fs);
    let fits = vec![0; log.batch_len_max() - batch(b"k", b"").len() - 4 - 4];
    put(&log, b"k", &fits).unwrap();
    let error = put(&log, b"k", &vec![0; 20_000]).unwrap_err();
    let CommitError::Failed(error) = error else {
        panic!("{error}")
    };
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert!(
        error.to_string().contains(&log.batch_len_max().to_string()),
        "{error}"
    );
}

#[test]
fn readers_of_the_tail_see_whole_frames_while_it_grows() {
    let fs = made();
    let log = open_with(&fs, true).unwrap();
    log.begin_epoch(EpochReason::Init, "", false).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut cursor = log.cursor(Lsn::ZERO).unwrap();
            let mut next_commit = 1;
            loop {
                let ended = done.load(Ordering::Acquire);
                match cursor.next_up_to(Lsn(u64::MAX), 10_000).unwrap() {
                    Some(run) => {
                        for (header, frame) in run.frames() {
                            assert_eq!(header.first_commit, next_commit);
                            assert_eq!(frame.len(), header.frame_len());
                            next_commit += u64::from(header.batches);
                        }
                    }
                    None if ended => break,
                    None => std::thread::yield_now(),
                }
            }
            assert_eq!(next_commit, 501);
        });
        for n in 0..500u32 {
            put(&log, &n.to_le_bytes(), &vec![3; 700]).unwrap();
        }
        done.store(true, Ordering::Release);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the sizes of the batches and wherever the power goes, what was acknowledged is
    /// there, and the log is a prefix of what was written.
    #[test]
    fn power_cuts_leave_a_prefix(
        lens in prop::collection::vec(0usize..9000, 1..40),
        seed in any::<u64>(),
    ) {
        let fs = made();
        let (log, seen) = writing(&fs);
        for (n, len) in lens.iter().enumerate() {
            put(&log, &n.to_le_bytes(), &vec![5; *len]).unwrap();
        }
        // One frame that was formed and never synced.
        fs.fail_at(fs.operations() + 2, std::io::ErrorKind::Other);
        let _ = put(&log, b"unsynced", &[9; 3000]);
        let acked = seen.records.lock().clone();
        drop(log);
        let image = fs.crash(Crash::Random(seed));
        let (_, found) = writing(&image);
        let found = found.records.lock().clone();
        prop_assert!(found.len() - acked.len() <= 1);
        prop_assert!(acked.iter().all(|(lsn, record)| found.get(lsn) == Some(record)));
    }
}

#[test]
fn a_cursor_stands_only_where_a_frame_begins() {
    let fs = made();
    let (log, _) = writing(&fs);
    put(&log, b"k", b"v").unwrap();
    let end = log.positions().appended.lsn;
    for at in (0..=end.0 + 8).map(Lsn) {
        let stands = log.cursor(at).is_ok();
        let frames: Vec<Lsn> = run(&log, Lsn::ZERO)
            .unwrap()
            .frames()
            .map(|(h, _)| h.lsn)
            .collect();
        assert_eq!(stands, frames.contains(&at) || at == end, "{at}");
    }
    let fault = Chain::origin(log.cluster())
        .check_header(&[0; 88])
        .unwrap_err();
    assert!(matches!(fault, FrameFault::Zeros { .. }));
}

#[test]
fn a_forked_tail_is_put_aside_and_the_log_goes_on_in_the_other_history() {
    // Forks in the active segment, in a sealed one, and between two.
    for (commits_before, commits_after) in [(3, 2), (3, 40), (12, 9), (0, 30)] {
        let cluster = ClusterId::random();
        let (a, b) = (MemFs::new(), MemFs::new());
        Log::init(&a, &options(cluster, SMALL)).unwrap();
        Log::init(&b, &options(cluster, SMALL)).unwrap();
        let (writer, _) = writing(&a);
        for n in 0..commits_before {
            put(&writer, &[n], &[1; 4000]).unwrap();
        }
        let fork = writer.positions().appended.lsn;
        let image = a.crash(Crash::LoseUnsynced);
        let follower = open(&b);
        follower.begin_following().unwrap();
        for n in 0..commits_after {
            put(&writer, &[n], &[2; 4000]).unwrap();
        }
        while let Some(run) = run(&writer, follower.positions().appended.lsn) {
            follower.append_run(&run).unwrap();
        }
        follower.sync().unwrap();
        let before = follower.positions().appended;

        // The writer lost its tail with its disk and went on alone.
        let (alone, _) = writing(&image);
        put(&alone, b"alone", &[3; 4000]).unwrap();
        let aside = follower.quarantine(fork).unwrap();
        assert_eq!(follower.positions().appended.lsn, fork);
        let kept = read_all(&b, &aside).unwrap();
        assert_eq!(kept.len() as u64, before.lsn.bytes_since(fork));
        while let Some(run) = run(&alone, follower.positions().appended.lsn) {
            follower.append_run(&run).unwrap();
        }
        follower.sync().unwrap();
        assert_eq!(follower.chain(), alone.chain());
        drop(follower);
        let reopened = open(&b.crash(Crash::LoseUnsynced));
        assert_eq!(reopened.chain(), alone.chain());
        assert_eq!(reopened.recovered().acked_tail_lost, None);
        let (ours, theirs) = (Seen::default(), Seen::default());
        reopened.replay(Lsn::ZERO, Lsn(u64::MAX), &ours).unwrap();
        alone.replay(Lsn::ZERO, Lsn(u64::MAX), &theirs).unwrap();
        assert_eq!(*ours.records.lock(), *theirs.records.lock());
    }
}

/// All records of a log as `places` has them, which go on from what they were used for before.
fn found_together(log: &Arc<Log>, places: &mut RecordPlaces) -> Vec<Vec<u8>> {
    let seen = Seen::default();
    log.replay(Lsn::ZERO, Lsn(u64::MAX), &seen).unwrap();
    let records = seen.records.into_inner();
    let len = |key: &[u8], value: &[u8]| batch(key, value).len() - 8; // Without the batch's header.
    // In no order of the log.
    let mut wanted: Vec<_> = records
        .into_iter()
        .map(|(lsn, (_, key, value))| (lsn, len(&key, &value), value))
        .collect();
    wanted.sort_by_key(|(lsn, ..)| lsn.0.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    places.find(log, wanted.iter().map(|(lsn, len, _)| (*lsn, *len)));
    let bytes = wanted
        .iter()
        .enumerate()
        .map(|(number, (lsn, len, value))| {
            places.prefetch(number);
            places
                .read(log, number, |memory, bytes| {
                    assert_eq!(memory.slice_ref(bytes), log.read(*lsn, *len).unwrap());
                    assert!(bytes.ends_with(value) || value.len() > 10_000);
                    Ok(bytes.to_vec())
                })
                .unwrap()
        });
    bytes.collect()
}

#[test]
fn records_are_found_together_wherever_they_lie_also_when_the_log_becomes_another_one() {
    let cluster = ClusterId::random();
    let (a, b) = (MemFs::new(), MemFs::new());
    Log::init(&a, &options(cluster, 1 << 20)).unwrap();
    Log::init(&b, &options(cluster, 1 << 20)).unwrap();
    let (writer, _) = writing(&a);
    put(&writer, b"first", &[0; 200_000]).unwrap();
    let fork = writer.positions().appended.lsn;
    let image = a.crash(Crash::LoseUnsynced);
    let (follower, mut places) = (open(&b), RecordPlaces::default());
    follower.begin_following().unwrap();
    for n in 0..60_u8 {
        let len = if n % 3 == 0 { 100_000 } else { 500 };
        put(&writer, &[n], &vec![n; len]).unwrap();
        while let Some(run) = run(&writer, follower.positions().appended.lsn) {
            follower.append_run(&run).unwrap();
        }
        if n % 8 == 0 {
            // Some of the sealed segments are released, and others still in memory.
            assert_eq!(
                found_together(&follower, &mut places).len(),
                2 + usize::from(n)
            );
            let _ = follower.background_step();
        }
    }
    follower.sync().unwrap();
    let (other, _) = writing(&image);
    for n in 0..60 {
        put(&other, &[n], &vec![!n; 40_000]).unwrap();
    }
    follower.quarantine(fork).unwrap();
    while let Some(run) = run(&other, follower.positions().appended.lsn) {
        follower.append_run(&run).unwrap();
    }
    let found = found_together(&follower, &mut places);
    assert_eq!(found, found_together(&other, &mut RecordPlaces::default()));

    // What no segment holds is an error where it is read, and only there.
    places.find(&follower, [(Lsn(u64::MAX / 2), 10), (fork, 10)].into_iter());
    assert!(places.read(&follower, 0, |_, _| Ok(())).is_err());
    assert!(places.read(&follower, 1, |_, _| Ok(())).is_ok());
}
