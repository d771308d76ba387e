//! Faults made by hand, each found, named and mended.

use super::recover::{Pair, feed, files, logs, pair};
use super::*;
use crate::log::segment::file_name;
use crate::log::{Fault, FaultKind, check_on, repair_on};

type Make = fn(&MemFs);

/// What makes a fault, and what must be found: its kind, its file, its offset if that is exact, and
/// whether positions of the log are named.
pub(super) struct Case {
    pub(super) what: &'static str,
    pub(super) make: Make,
    kind: FaultKind,
    pub(super) file: &'static str,
    offset: Option<u64>,
    in_log: bool,
}

const S1: &str = "log/000000000001.seg";
const S2: &str = "log/000000000002.seg";
const S3: &str = "log/000000000003.seg";
const S5: &str = "log/000000000005.seg";
const FOOTER: u64 = SMALL - 4096;

pub(super) fn rot(fs: &MemFs, ordinal: u64, offset: usize) {
    fs.rot(&file_name(ordinal), offset, 0x20).unwrap();
}

fn write(fs: &MemFs, name: &str, offset: u64, bytes: &[u8]) {
    let file = fs.open(name, crate::fs::Access::Write).unwrap();
    file.write_at(offset, bytes).unwrap();
    file.sync().unwrap();
}

fn put_file(fs: &MemFs, name: &str, bytes: &[u8]) {
    let _ = fs.unlink(name);
    fs.create(name).unwrap();
    write(fs, name, 0, bytes);
}

pub(super) fn cases() -> Vec<Case> {
    use FaultKind::*;
    let case = |what, make: Make, kind, file, offset, in_log| Case {
        what,
        make,
        kind,
        file,
        offset,
        in_log,
    };
    vec![
        case(
            "a bit of a payload",
            |fs| rot(fs, 1, 10_000),
            Frames,
            S1,
            None,
            true,
        ),
        case(
            "a bit of a frame's header",
            |fs| rot(fs, 2, 4_100),
            Frames,
            S2,
            Some(4096),
            true,
        ),
        case(
            "the first byte of the log",
            |fs| rot(fs, 1, 4_096),
            Frames,
            S1,
            Some(4096),
            true,
        ),
        case(
            "two holes in one segment",
            |fs| {
                rot(fs, 2, 4_100);
                rot(fs, 2, 40_000);
            },
            Frames,
            S2,
            Some(4096),
            true,
        ),
        case(
            "a sector of zeros",
            |fs| write(fs, S2, 8_192, &[0; 512]),
            Frames,
            S2,
            None,
            true,
        ),
        case(
            "a sector of other bytes",
            |fs| write(fs, S2, 8_192, &[0xab; 512]),
            Frames,
            S2,
            None,
            true,
        ),
        case(
            "a block of zeros over a frame's header",
            |fs| write(fs, S3, 4_096, &[0; 4096]),
            Frames,
            S3,
            Some(4096),
            true,
        ),
        case(
            "a stale sector of another frame",
            |fs| {
                let b = read_all(fs, S1).unwrap();
                write(fs, S2, 16_384, &b[20_480..20_992]);
            },
            Frames,
            S2,
            None,
            true,
        ),
        case(
            "two frames exchanged",
            |fs| {
                let b = read_all(fs, S2).unwrap();
                write(fs, S2, 4_096, &b[12_224..20_000]);
            },
            Frames,
            S2,
            Some(4096),
            true,
        ),
        case(
            "a vouched frame of the running segment",
            |fs| rot(fs, 5, 4_200),
            Frames,
            S5,
            Some(4096),
            true,
        ),
        case(
            "a sealed file without its end",
            |fs| {
                fs.open(S2, crate::fs::Access::Write)
                    .unwrap()
                    .set_len(30_000)
                    .unwrap()
            },
            Frames,
            S2,
            None,
            true,
        ),
        case(
            "a file without its end",
            |fs| {
                fs.open(S2, crate::fs::Access::Write)
                    .unwrap()
                    .set_len(30_000)
                    .unwrap()
            },
            Length,
            S2,
            Some(30_000),
            false,
        ),
        case(
            "a file that is too long",
            |fs| write(fs, S2, SMALL, &[1; 100]),
            Length,
            S2,
            Some(SMALL),
            false,
        ),
        case(
            "a file that is gone",
            |fs| fs.unlink(S3).unwrap(),
            MissingSegment,
            S3,
            Some(0),
            true,
        ),
        case(
            "the first file gone",
            |fs| fs.unlink(S1).unwrap(),
            MissingSegment,
            S1,
            Some(0),
            true,
        ),
        case(
            "an empty file",
            |fs| put_file(fs, S2, &[]),
            Header,
            S2,
            Some(0),
            true,
        ),
        case(
            "a file of zeros",
            |fs| put_file(fs, S2, &vec![0; 65_536]),
            Header,
            S2,
            Some(0),
            true,
        ),
        case(
            "a copy of the segment before",
            |fs| {
                let b = read_all(fs, S1).unwrap();
                put_file(fs, S2, &b);
            },
            Misplaced,
            S2,
            Some(0),
            true,
        ),
        case(
            "a segment of another cluster",
            |fs| {
                let b = read_all(&pair(30).primary, S2).unwrap();
                put_file(fs, S2, &b);
            },
            Misplaced,
            S2,
            Some(0),
            true,
        ),
        case(
            "a segment's header",
            |fs| rot(fs, 2, 30),
            Header,
            S2,
            Some(0),
            false,
        ),
        case(
            "the header of the running segment",
            |fs| rot(fs, 5, 30),
            Header,
            S5,
            Some(0),
            false,
        ),
        case(
            "the padding of a header",
            |fs| rot(fs, 2, 4_000),
            Header,
            S2,
            Some(0),
            false,
        ),
        case(
            "a footer",
            |fs| rot(fs, 2, to_usize(SMALL) - 4090),
            Footer,
            S2,
            Some(FOOTER),
            false,
        ),
        case(
            "a footer of zeros",
            |fs| write(fs, S2, FOOTER, &[0; 4096]),
            Footer,
            S2,
            Some(FOOTER),
            false,
        ),
        case(
            "a footer of another segment",
            |fs| {
                let b = read_all(fs, S1).unwrap();
                write(fs, S2, FOOTER, &b[to_usize(FOOTER)..]);
            },
            Footer,
            S2,
            Some(FOOTER),
            false,
        ),
        case(
            "bytes between frames and footer",
            |fs| write(fs, S2, FOOTER - 100, b"litter"),
            Zeros,
            S2,
            Some(FOOTER - 100),
            false,
        ),
        case(
            "a manifest with a flipped bit",
            |fs| fs.rot("manifest", 40, 1).unwrap(),
            Manifest,
            "manifest",
            Some(0),
            false,
        ),
        case(
            "a manifest cut short",
            |fs| {
                fs.open("manifest", crate::fs::Access::Write)
                    .unwrap()
                    .set_len(9)
                    .unwrap()
            },
            Manifest,
            "manifest",
            Some(0),
            false,
        ),
        case(
            "no manifest",
            |fs| fs.unlink("manifest").unwrap(),
            Manifest,
            "manifest",
            Some(0),
            false,
        ),
        case(
            "both slots of the mark",
            |fs| {
                fs.rot("mark", 20, 1).unwrap();
                fs.rot("mark", 4116, 1).unwrap();
            },
            Mark,
            "mark",
            Some(0),
            false,
        ),
        case(
            "no mark",
            |fs| fs.unlink("mark").unwrap(),
            Mark,
            "mark",
            Some(0),
            false,
        ),
    ]
}

/// A primary's files, closed cleanly, and a copy of its log.
pub(super) fn closed() -> (MemFs, MemFs) {
    let Pair {
        primary,
        standby,
        writer,
    } = pair(30);
    let follower = open(&standby);
    follower.begin_following().unwrap();
    writer.close().unwrap();
    feed(&writer, &follower);
    follower.close().unwrap();
    drop((writer, follower));
    (
        primary.crash(Crash::LoseUnsynced),
        standby.crash(Crash::LoseUnsynced),
    )
}

#[test]
fn every_fault_made_by_hand_is_named_and_nothing_is_written() {
    let (sound, _) = closed();
    let report = check_on(&sound).unwrap();
    assert_eq!(report.faults, [], "a sound store has no faults");
    assert_eq!(report.segments, 5);
    assert!(cases().len() >= 20);
    for case in cases() {
        let what = case.what;
        let fs = sound.crash(Crash::KeepAll);
        (case.make)(&fs);
        let before = files(&fs);
        let report = check_on(&fs).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(files(&fs), before, "{what}: the check wrote");
        let named = |fault: &&Fault| {
            fault.kind == case.kind
                && fault.file == case.file
                && case.offset.is_none_or(|offset| fault.offset == offset)
                && fault.range.is_some_and(|range| !range.is_empty()) == case.in_log
        };
        let found = report.faults.iter().find(named);
        assert!(found.is_some(), "{what} is not in {:#?}", report.faults);
        assert!(report.is_damaged());
    }
}

#[test]
fn every_fault_made_by_hand_is_mended_with_a_copy_byte_for_byte() {
    let (sound, copy) = closed();
    let wanted = logs(&sound);
    for case in cases() {
        let what = case.what;
        let fs = sound.crash(Crash::KeepAll);
        (case.make)(&fs);
        let before = files(&fs);
        let rehearsed = repair_on(&fs, Some(&copy), true).unwrap();
        assert_eq!(files(&fs), before, "{what}: a rehearsal wrote");
        let report = repair_on(&fs, Some(&copy), false).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(report.left, [], "{what}");
        assert_eq!(report.repaired.len(), rehearsed.repaired.len(), "{what}");
        let image = fs.crash(Crash::LoseUnsynced);
        assert_eq!(logs(&image), wanted, "{what}");
        assert_eq!(check_on(&image).unwrap().faults, [], "{what}");
        // What was there is kept, byte for byte.
        for repaired in &report.repaired {
            let was_there = before.contains_key(&repaired.file);
            assert_eq!(repaired.aside.is_some(), was_there, "{what}");
            let Some(aside) = &repaired.aside else {
                continue;
            };
            assert_eq!(
                read_all(&image, aside).unwrap(),
                before[&repaired.file],
                "{what}"
            );
        }
        let (log, _) = writing(&image);
        put(&log, b"after", b"").unwrap();
    }
}

#[test]
fn a_repair_without_the_bytes_changes_nothing_and_says_what_is_left() {
    let (sound, copy) = closed();
    for from in [None, Some(&copy)] {
        let fs = sound.crash(Crash::KeepAll);
        rot(&fs, 2, 20_000);
        if let Some(copy) = from {
            // The copy has a fault at the same place.
            rot(copy, 2, 20_001);
        }
        let before = logs(&fs);
        let report = repair_on(&fs, from.map(|copy| copy as &dyn Fs), false).unwrap();
        assert_eq!(report.repaired, []);
        assert_eq!(report.left.len(), 1, "{:?}", report.left);
        assert_eq!(logs(&fs), before);
    }
    let stranger = pair(30).primary;
    let fs = sound.crash(Crash::KeepAll);
    rot(&fs, 2, 20_000);
    let refused = repair_on(&fs, Some(&stranger), false).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Incompatible);
}

/// That a repair from `copy` makes the segments `wanted`, whatever a crash at the `number`th
/// operation leaves.
pub(super) fn every_crash_is_mended(
    fs: &MemFs,
    copy: &MemFs,
    wanted: &BTreeMap<String, Vec<u8>>,
    number: u64,
) {
    for crash in [Crash::LoseUnsynced, Crash::KeepAll, Crash::Random(number)] {
        let image = fs.crash(crash);
        let report = repair_on(&image, Some(copy), false).unwrap();
        assert_eq!(report.left, [], "operation {number}, {crash:?}");
        let mut found = logs(&image);
        found.retain(|name, _| name.ends_with(".seg"));
        assert_eq!(found, *wanted, "operation {number}, {crash:?}");
    }
}

#[test]
fn a_crash_at_any_moment_of_a_repair_leaves_a_store_that_can_be_repaired() {
    let (sound, copy) = closed();
    let wanted = logs(&sound);
    let count = {
        let fs = sound.crash(Crash::KeepAll);
        rot(&fs, 2, 20_000);
        fs.rot("manifest", 30, 1).unwrap();
        let before = fs.operations();
        repair_on(&fs, Some(&copy), false).unwrap();
        fs.operations() - before
    };
    assert!(count > 15, "{count} operations");
    for number in 1..=count {
        let fs = sound.crash(Crash::KeepAll);
        rot(&fs, 2, 20_000);
        fs.rot("manifest", 30, 1).unwrap();
        fs.fail_at(fs.operations() + number, std::io::ErrorKind::Other);
        let _ = repair_on(&fs, Some(&copy), false);
        every_crash_is_mended(&fs, &copy, &wanted, number);
    }
}

#[test]
fn a_store_in_use_is_neither_checked_nor_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let fs = OsFs::new(dir.path());
    Log::init(&fs, &options(ClusterId::random(), SMALL)).unwrap();
    let log = Log::open(
        Arc::new(OsFs::new(dir.path())),
        Arc::new(SystemClock::default()),
        Config::default(),
        &mut |_, _| None,
    )
    .unwrap();
    log.begin_epoch(EpochReason::Init, "", false).unwrap();
    for refused in [
        check_on(&fs).map(|_| ()),
        repair_on(&fs, None, false).map(|_| ()),
        repair_on(&fs, None, true).map(|_| ()),
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Locked);
    }
    log.close().unwrap();
    drop(log);
    assert_eq!(check_on(&fs).unwrap().faults, []);
}
