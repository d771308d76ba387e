//! Mending with the frames of a log that runs, and under a log that runs.

use std::io;
use std::ops::Range;

use super::check::{Case, cases, closed, every_crash_is_mended, rot};
use super::recover::{files, logs};
use super::*;
use crate::fs::{Access, File, MapPages};
use crate::log::segment::file_name;
use crate::log::{
    CopySource, FaultKind, FrameSource, Given, Lack, LackKind, RepairReport, Want, check_on,
    repair_files,
};

/// A log that is asked as a peer asks another, and gives pieces of a few frames.
struct Peer {
    log: Arc<Log>,
    asked: Vec<LsnRange>,
}

const PIECE: u64 = 20_000;

impl Peer {
    fn of(fs: &MemFs) -> Self {
        let log = open(fs);
        log.settle().unwrap();
        let asked = Vec::new();
        Self { log, asked }
    }
}

impl FrameSource for Peer {
    fn give(&mut self, want: &Want) -> Result<Given> {
        self.asked.push(want.range);
        let len_max = want.range.len_bytes().min(PIECE);
        Ok(match self.log.frames_behind(&want.at, len_max) {
            Ok(frames) => Given::Frames(frames),
            Err(error) => {
                let kind = match error.kind() {
                    ErrorKind::NotHeld => LackKind::NotHeld,
                    ErrorKind::Conflict => LackKind::OtherHistory,
                    ErrorKind::Corrupt => LackKind::Damaged,
                    _ => return Err(error),
                };
                Given::Nothing(Lack::new(want.range, kind, error.to_string()))
            }
        })
    }
}

fn repair_with(fs: &MemFs, source: &mut dyn FrameSource) -> RepairReport {
    repair_files(fs, Some(source), false).unwrap()
}

#[test]
fn every_fault_made_by_hand_is_mended_by_a_log_that_runs() {
    let (sound, copy) = closed();
    let wanted = logs(&sound);
    for case in cases() {
        let what = case.what;
        let fs = sound.crash(Crash::KeepAll);
        (case.make)(&fs);
        let mut peer = Peer::of(&copy.crash(Crash::KeepAll));
        let report = repair_with(&fs, &mut peer);
        assert_eq!((report.left, report.lacks), (vec![], vec![]), "{what}");
        let image = fs.crash(Crash::LoseUnsynced);
        assert_eq!(logs(&image), wanted, "{what}");
        assert_eq!(check_on(&image).unwrap().faults, [], "{what}");
    }
}

#[test]
fn segments_of_which_nothing_is_left_end_where_the_next_one_begins() {
    let (sound, copy) = closed();
    let wanted = logs(&sound);
    for gone in [&[1, 2][..], &[2, 3], &[1, 2, 3, 4], &[3, 4]] {
        for running in [false, true] {
            let fs = sound.crash(Crash::KeepAll);
            for ordinal in gone {
                fs.unlink(&file_name(*ordinal)).unwrap();
            }
            let report = if running {
                repair_with(&fs, &mut Peer::of(&copy.crash(Crash::KeepAll)))
            } else {
                repair_with(&fs, &mut CopySource::new(&copy))
            };
            assert_eq!((report.left, report.lacks), (vec![], vec![]), "{gone:?}");
            assert_eq!(logs(&fs), wanted, "{gone:?}");
        }
    }
}

#[test]
fn exactly_the_frames_that_are_damaged_are_asked_for() {
    let (sound, copy) = closed();
    let fs = sound.crash(Crash::KeepAll);
    rot(&fs, 2, 4_100);
    rot(&fs, 2, 40_000);
    let holes: Vec<_> = check_on(&fs)
        .unwrap()
        .faults
        .into_iter()
        .filter_map(|fault| fault.range)
        .collect();
    assert_eq!(holes.len(), 2);
    let mut peer = Peer::of(&copy);
    let report = repair_with(&fs, &mut peer);
    assert_eq!(peer.asked, holes);
    assert_eq!(report.repaired.len(), 1);
    assert_eq!(report.repaired[0].ranges, holes);
}

#[test]
fn two_logs_that_are_damaged_at_different_places_mend_each_other() {
    let (sound, copy) = closed();
    let wanted = logs(&sound);
    let (left, right) = (sound.crash(Crash::KeepAll), copy.crash(Crash::KeepAll));
    // A frame of the peer's own comes before what it is asked for, and does not hold.
    let mut peer = Peer::of(&right);
    rot(&right, 2, 4_100);
    rot(&left, 2, 40_000);
    assert_eq!(repair_with(&left, &mut peer).left, []);
    assert_eq!(logs(&left), wanted);
    drop(peer);
    let mut peer = Peer::of(&left);
    assert_eq!(repair_with(&right, &mut peer).left, []);
    assert_eq!(logs(&right), wanted);
}

#[test]
fn a_source_that_has_not_what_is_missing_says_why_and_nothing_is_changed() {
    let (sound, copy) = closed();
    let fs = sound.crash(Crash::KeepAll);
    rot(&fs, 3, 20_000);
    let before = files(&fs);
    let lacks = |source: &mut dyn FrameSource| {
        let report = repair_with(&fs, source);
        assert_eq!(files(&fs), before);
        assert_eq!((report.repaired, report.left.len()), (vec![], 1));
        assert_eq!(report.lacks.len(), 1);
        assert_eq!(Some(report.lacks[0].range), report.left[0].range);
        report.lacks[0].kind
    };
    // A log that went another way before it: same cluster, other epochs.
    let fork = MemFs::new();
    Log::init(&fork, &options(open(&sound).cluster(), SMALL)).unwrap();
    let (forked, _) = writing(&fork);
    for n in 0..30u8 {
        put(&forked, &[n], &[n; 8000]).unwrap();
    }
    let mut forked = Peer {
        log: forked,
        asked: Vec::new(),
    };
    assert_eq!(lacks(&mut forked), LackKind::OtherHistory);
    assert_eq!(lacks(&mut CopySource::new(&fork)), LackKind::OtherHistory);
    // One that is shorter.
    let short = MemFs::new();
    let standby = InitOptions {
        follower: true,
        ..options(open(&sound).cluster(), SMALL)
    };
    Log::init(&short, &standby).unwrap();
    let (from, to) = (open(&copy), open(&short));
    to.begin_following().unwrap();
    while to.positions().appended.lsn < Lsn(100_000) {
        let next = from.cursor(to.positions().appended.lsn);
        let run = next.unwrap().next_up_to(Lsn(120_000), 1).unwrap();
        to.append_run(&run.unwrap()).unwrap();
        to.sync().unwrap();
    }
    let mut behind = Peer {
        log: to,
        asked: Vec::new(),
    };
    assert_eq!(lacks(&mut behind), LackKind::NotHeld);
    assert_eq!(lacks(&mut CopySource::new(&short)), LackKind::NotHeld);
    // One that is damaged there itself.
    drop(from);
    let mut damaged = Peer::of(&copy);
    rot(&copy, 3, 20_001);
    assert_eq!(lacks(&mut damaged), LackKind::Damaged);
    drop(damaged);
    assert_eq!(lacks(&mut CopySource::new(&copy)), LackKind::Damaged);
    // One that gives what it was not asked for.
    struct Liar(Bytes);
    impl FrameSource for Liar {
        fn give(&mut self, _: &Want) -> Result<Given> {
            Ok(Given::Frames(self.0.clone()))
        }
    }
    for (bytes, kind) in [
        (vec![], LackKind::NotHeld),
        (vec![0; 100_000], LackKind::NotHeld),
        (vec![0xab; 100_000], LackKind::OtherHistory),
    ] {
        assert_eq!(lacks(&mut Liar(bytes.into())), kind);
    }
}

/// What a running log can be asked to mend: everything in a sealed segment.
fn sealed_cases() -> impl Iterator<Item = Case> {
    let sealed = |file: &str| file.starts_with("log/") && !file.ends_with("5.seg");
    cases().into_iter().filter(move |case| sealed(case.file))
}

#[test]
fn a_running_log_is_mended_while_it_is_read_and_written() {
    let (sound, copy) = closed();
    assert!(sealed_cases().count() >= 20);
    for case in sealed_cases() {
        let what = case.what;
        let fs = sound.crash(Crash::KeepAll);
        let (log, seen) = writing(&fs);
        put(&log, b"before", b"").unwrap();
        let wanted = logs(&fs);
        (case.make)(&fs);
        // Its handles are from before: what was mapped is the old file.
        let _ = log.replay(Lsn::ZERO, log.positions().durable.lsn, &Seen::default());
        let mut peer = Peer::of(&copy.crash(Crash::KeepAll));
        let before = files(&fs);
        let rehearsed = log.repair_sealed(Some(&mut peer), true).unwrap();
        assert_eq!(files(&fs), before, "{what}: a rehearsal wrote");
        let report = log.repair_sealed(Some(&mut peer), false).unwrap();
        assert_eq!((report.left, report.lacks), (vec![], vec![]), "{what}");
        assert_eq!(report.repaired.len(), 1, "{what}");
        assert_eq!(rehearsed.repaired[0].file, report.repaired[0].file);
        assert_eq!(report.repaired[0].file, case.file, "{what}");
        assert_eq!(logs(&fs), wanted, "{what}");
        let read = Seen::default();
        let end = log.positions().durable.lsn;
        assert_eq!(log.replay(Lsn::ZERO, end, &read).unwrap(), end, "{what}");
        assert_eq!(*read.records.lock(), *seen.records.lock(), "{what}");
        for (lsn, (_, key, value)) in &*seen.records.lock() {
            let record = log.read(*lsn, 16 + key.len() + value.len()).unwrap();
            assert_eq!(crate::format::decode_record(&record).unwrap().value, value);
        }
        put(&log, b"after", b"").unwrap();
        let again = log.repair_sealed(None, false).unwrap();
        assert_eq!((again.repaired, again.left), (vec![], vec![]), "{what}");
        log.close().unwrap();
        drop(log);
        let faults = check_on(&fs.crash(Crash::LoseUnsynced)).unwrap().faults;
        assert_eq!(faults, [], "{what}");
    }
}

#[test]
fn a_running_log_names_what_nobody_mends_and_a_reader_is_told_what_to_type() {
    let (sound, _) = closed();
    let fs = sound.crash(Crash::KeepAll);
    let (log, seen) = writing(&fs);
    rot(&fs, 2, 20_000);
    let report = log.repair_sealed(None, false).unwrap();
    assert_eq!((report.repaired, report.lacks), (vec![], vec![]));
    assert_eq!(report.left.len(), 1);
    assert_eq!(report.left[0].kind, FaultKind::Frames);
    let hole = report.left[0].range.unwrap();
    let records = seen.records.lock().clone();
    assert!(
        records
            .keys()
            .any(|lsn| hole.start <= *lsn && *lsn < hole.end)
    );
    let read = log.replay(Lsn::ZERO, log.positions().durable.lsn, &Seen::default());
    let error = read.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(
        error.to_string().contains("outlast repair --dir"),
        "{error}"
    );
    fs.unlink(&file_name(3)).unwrap();
    let (lsn, _) = records.range(Lsn(130_000)..).next().unwrap();
    let error = log.read(*lsn, 16).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(
        error.to_string().contains("outlast repair --dir"),
        "{error}"
    );
    put(&log, b"commits go on", b"").unwrap();
}

#[test]
fn a_crash_or_a_failure_at_any_moment_of_a_running_repair_costs_nothing() {
    let (sound, copy) = closed();
    let wanted = logs(&sound);
    let start = || {
        let fs = sound.crash(Crash::KeepAll);
        // Reading only, so that nothing but the repair writes.
        let log = open(&fs);
        rot(&fs, 2, 20_000);
        (fs, log)
    };
    let count = {
        let (fs, log) = start();
        let before = fs.operations();
        let report = log.repair_sealed(Some(&mut CopySource::new(&copy)), false);
        assert_eq!(report.unwrap().left, []);
        fs.operations() - before
    };
    assert!(count > 8, "{count} operations");
    for number in 1..=count {
        let (fs, log) = start();
        fs.fail_at(fs.operations() + number, io::ErrorKind::Other);
        let failed = log.repair_sealed(Some(&mut CopySource::new(&copy)), false);
        assert!(failed.is_err(), "operation {number}");
        every_crash_is_mended(&fs, &copy, &wanted, number);
    }
}

#[test]
fn nothing_is_given_that_is_not_durable_yet() {
    let (_, copy) = closed();
    let fs = MemFs::new();
    let standby = InitOptions {
        follower: true,
        ..options(open(&copy).cluster(), SMALL)
    };
    Log::init(&fs, &standby).unwrap();
    let (from, to) = (open(&copy), open(&fs));
    to.begin_following().unwrap();
    let first = run(&from, Lsn::ZERO).unwrap();
    to.append_run(&first).unwrap();
    let origin = Chain::origin(to.cluster());
    let refused = to.frames_behind(&origin, 1 << 20).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotHeld);
    to.sync().unwrap();
    let given = to.frames_behind(&origin, 1 << 20).unwrap();
    assert_eq!(given, first.bytes().slice(..given.len()));
}

#[test]
fn a_segment_that_is_cut_off_while_its_frames_are_fetched_stays_away() {
    /// Gives the frames after the log was cut before them.
    struct Cuts<'a> {
        log: Arc<Log>,
        fs: MemFs,
        copy: CopySource<'a>,
    }
    impl FrameSource for Cuts<'_> {
        fn give(&mut self, want: &Want) -> Result<Given> {
            // It can only be kept aside where it holds.
            rot(&self.fs, 2, 20_000);
            self.log.quarantine(want.segment.base())?;
            self.copy.give(want)
        }
    }
    let (_, copy) = closed();
    let sound = copy.crash(Crash::KeepAll);
    let fs = copy.crash(Crash::KeepAll);
    let log = open(&fs);
    log.begin_following().unwrap();
    rot(&fs, 2, 20_000);
    let mut cuts = Cuts {
        log: log.clone(),
        fs: fs.clone(),
        copy: CopySource::new(&sound),
    };
    let report = log.repair_sealed(Some(&mut cuts), false).unwrap();
    assert_eq!((report.repaired, report.lacks), (vec![], vec![]));
    let kept: Vec<_> = logs(&fs).into_keys().collect();
    assert_eq!(kept, [file_name(1)], "what was cut is back");
}

/// A disk that cannot read some bytes of one file any more.
#[derive(Debug)]
struct BadSectors {
    files: MemFs,
    name: String,
    bad: Range<u64>,
    /// Whether the file lies on them: one that takes its place lies elsewhere.
    lies_there: AtomicBool,
}

#[derive(Debug)]
struct BadFile(Arc<dyn File>, Range<u64>);

impl Fs for BadSectors {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.files.create(name)
    }
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let file = self.files.open(name, access)?;
        if name != self.name || !self.lies_there.load(Ordering::Relaxed) {
            return Ok(file);
        }
        Ok(Arc::new(BadFile(file, self.bad.clone())))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if to == self.name {
            self.lies_there.store(false, Ordering::Relaxed);
        }
        self.files.rename(from, to)
    }
    fn unlink(&self, name: &str) -> io::Result<()> {
        self.files.unlink(name)
    }
    fn create_dir(&self, name: &str) -> io::Result<()> {
        self.files.create_dir(name)
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.files.list(dir)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.files.sync_dir(dir)
    }
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.files.lock()
    }
    fn place(&self) -> String {
        self.files.place()
    }
}

impl File for BadFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if offset < self.1.end && self.1.start < offset + buf.len() as u64 {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.0.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn len_bytes(&self) -> io::Result<u64> {
        self.0.len_bytes()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn map(&self, pages: MapPages) -> io::Result<Bytes> {
        self.0.map(pages)
    }
}

#[test]
fn sectors_that_cannot_be_read_are_damage_and_are_mended_running_or_not() {
    let (sound, copy) = closed();
    let wanted = logs(&sound);
    for running in [false, true] {
        let files = sound.crash(Crash::KeepAll);
        let disk = Arc::new(BadSectors {
            files: files.clone(),
            name: file_name(2),
            bad: 20_000..21_000,
            lies_there: AtomicBool::new(true),
        });
        let mut source = CopySource::new(&copy);
        let report = if running {
            let opened = |fs: Arc<dyn Fs>| {
                let config = Config {
                    background: false,
                    ..Config::default()
                };
                Log::open(fs, Arc::new(SystemClock::default()), config, &mut |_, _| {
                    None
                })
            };
            // Opening takes an error of the disk for what it is.
            let refused = opened(disk.clone()).err().unwrap();
            assert_eq!(refused.kind(), ErrorKind::Io, "{refused}");
            disk.lies_there.store(false, Ordering::Relaxed);
            let log = opened(disk.clone()).unwrap();
            disk.lies_there.store(true, Ordering::Relaxed);
            log.repair_sealed(Some(&mut source), false).unwrap()
        } else {
            let faults = check_on(&*disk).unwrap().faults;
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert_eq!(faults[0].kind, FaultKind::Frames);
            repair_files(&*disk, Some(&mut source), false).unwrap()
        };
        assert_eq!((report.left, report.lacks), (vec![], vec![]));
        // The frames on a page of the bad bytes, and no others.
        let bytes: u64 = report.repaired[0]
            .ranges
            .iter()
            .map(LsnRange::len_bytes)
            .sum();
        assert!(
            (8000..30_000).contains(&bytes),
            "{bytes} bytes were fetched"
        );
        assert_eq!(logs(&files), wanted);
    }
}
