//! Rot: every bit of a segment and of each control file flipped, every length cut to, frames and
//! segments in each other's place, forged headers behind the tail.
//!
//! A fault below what is known to have been durable is found and named, or lies in bytes that mean
//! nothing; one above is a torn tail. No wrong value is ever read, and nothing that was durable is
//! ever cut.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use outlast_engine::clock::SystemClock;
use outlast_engine::format::{ClusterId, FrameHeader, SEGMENT_FOOTER_LEN, SEGMENT_HEADER_LEN};
use outlast_engine::fs::{Access, Crash, Fs, MemFs, read_all};
use outlast_engine::{
    Batch, CommitOptions, Compact, Config, EpochReason, ErrorKind, InitOptions, Store, check_on,
};

const SEGMENT_SIZE: usize = 64 << 10;
const FIRST: &str = "log/000000000001.seg";
const SECOND: &str = "log/000000000002.seg";

type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

fn open(fs: &MemFs) -> outlast_engine::Result<Store> {
    let config = Config {
        background: false,
        ..Config::default()
    };
    Store::open_on(Arc::new(fs.clone()), Arc::<SystemClock>::default(), config)
}

fn new_store(cluster: u8) -> (MemFs, Store) {
    let fs = MemFs::new();
    let options = InitOptions {
        cluster: ClusterId([cluster; 16]),
        segment_size: SEGMENT_SIZE as u64,
        ..InitOptions::new("bytes")
    };
    Store::init_on(&fs, &options).unwrap();
    let store = open(&fs).unwrap();
    store.begin_epoch(EpochReason::Init, "").unwrap();
    (fs, store)
}

fn put(store: &Store, key: u32, len: usize) {
    let keyspace = store.keyspace("k").unwrap();
    let value: Vec<u8> = (0..len).map(|at| (at as u32 * 7 + key) as u8).collect();
    let mut batch = Batch::new();
    batch.put(&keyspace, key.to_le_bytes(), value).unwrap();
    store.commit(batch, CommitOptions::default()).unwrap();
}

/// A closed store with `sealed` sealed segments of about 25 frames, and some frames in the active
/// one.
fn closed(cluster: u8, sealed: usize) -> (MemFs, Contents) {
    let (fs, store) = new_store(cluster);
    let behind = format!("log/{:012}.seg", sealed + 1);
    let mut key = 0;
    while !has_frames(&fs, &behind) {
        put(&store, key, [30, 900, 6_000][key as usize % 3]);
        key += 1;
    }
    for _ in 0..5 {
        put(&store, key, 700);
        key += 1;
    }
    let contents = contents(&store).unwrap();
    store.close().unwrap();
    (fs.crash(Crash::KeepAll), contents)
}

fn has_frames(fs: &MemFs, name: &str) -> bool {
    read_all(fs, name).is_ok_and(|bytes| bytes.starts_with(b"OLSG"))
}

fn contents(store: &Store) -> outlast_engine::Result<Contents> {
    let snapshot = store.snapshot();
    let mut contents = Contents::new();
    for keyspace in store.keyspaces() {
        for entry in snapshot.iter(&keyspace) {
            let (key, value) = entry?;
            contents.insert(key.to_vec(), value.to_vec());
        }
    }
    Ok(contents)
}

/// What a store says of a fault in its files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// It refuses to open, or to read, and says where.
    Named,
    /// It holds exactly what it held.
    Whole,
    /// It holds what it held without the last frames.
    Shorter,
}

/// Opens the files and reads everything.
///
/// A state that never was, or an error that names no file and no position, ends the test.
fn outcome(fs: &MemFs, expected: &Contents, what: &dyn std::fmt::Debug) -> Outcome {
    let named = |error: outlast_engine::Error| {
        let kind = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Incompatible);
        let said = error.to_string();
        assert!(kind, "{what:?}: {:?}: {said}", error.kind());
        let place = ["log/", "index/", "manifest", "mark"]
            .iter()
            .any(|part| said.contains(part))
            || said.contains("segment ")
            || said.contains("the record at ");
        assert!(place, "{what:?}: it does not say where: {said}");
        Outcome::Named
    };
    let store = match open(fs) {
        Ok(store) => store,
        Err(error) => return named(error),
    };
    let found = match contents(&store) {
        Ok(found) => found,
        Err(error) => return named(error),
    };
    if found == *expected {
        return Outcome::Whole;
    }
    // Keys are written once and in order: a prefix of the history is a prefix of the keys.
    let last = found.len() as u32;
    let prefix = |(key, value): (&Vec<u8>, &Vec<u8>)| expected.get(key) == Some(value);
    assert!(
        found.iter().all(prefix) && (0..last).all(|key| found.contains_key(&key.to_le_bytes()[..])),
        "{what:?}: a state that never was"
    );
    Outcome::Shorter
}

/// Whether a check names damage: what follows from the rest is written again and opens as whole.
fn is_named_by_check(fs: &MemFs) -> bool {
    check_on(fs).unwrap().is_damaged()
}

/// Flips every bit of a file, each alone, and hands the outcome of each to `check`.
fn every_bit(
    fs: &MemFs,
    expected: &Contents,
    name: &str,
    check: impl Fn(&MemFs, usize, Outcome) + Sync,
) {
    some_bits(fs, expected, name, 1, check);
}

/// The same in every `step`th byte.
fn some_bits(
    fs: &MemFs,
    expected: &Contents,
    name: &str,
    step: usize,
    check: impl Fn(&MemFs, usize, Outcome) + Sync,
) {
    let len = read_all(fs, name).unwrap().len();
    // Two halves at a time, each on files of its own.
    std::thread::scope(|scope| {
        for half in 0..2 {
            let (fs, check) = (fs.crash(Crash::KeepAll), &check);
            scope.spawn(move || {
                for offset in (half * step..len).step_by(2 * step) {
                    for bit in 0..8 {
                        let what = (name, offset, bit);
                        fs.rot(name, offset, 1 << bit).unwrap();
                        check(&fs, offset, outcome(&fs, expected, &what));
                        fs.rot(name, offset, 1 << bit).unwrap();
                    }
                }
            });
        }
    });
}

/// Where the frames of a segment end.
fn frames_end(bytes: &[u8]) -> usize {
    frames(bytes).last().unwrap().1
}

/// Begin and end of each frame of a segment.
fn frames(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut at = SEGMENT_HEADER_LEN as usize;
    let mut frames = Vec::new();
    while let Some(len) = FrameHeader::announced_len(&bytes[at..]) {
        frames.push((at, at + len));
        at += len;
    }
    frames
}

#[test]
fn every_flipped_bit_of_a_sealed_segment_is_found_or_means_nothing() {
    let (fs, expected) = closed(1, 1);
    let bytes = read_all(&fs, FIRST).unwrap();
    let (end, footer) = (
        frames_end(&bytes),
        SEGMENT_SIZE - SEGMENT_FOOTER_LEN as usize,
    );
    // Zeros behind what the header, the frames and the footer hold.
    let content_len = |block: &[u8]| block.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let header_end = content_len(&bytes[..SEGMENT_HEADER_LEN as usize]);
    let footer_end = footer + content_len(&bytes[footer..]);
    every_bit(&fs, &expected, FIRST, |fs, offset, outcome| {
        let means_nothing = (header_end..SEGMENT_HEADER_LEN as usize).contains(&offset)
            || (end..footer).contains(&offset)
            || offset >= footer_end;
        let right = if means_nothing {
            matches!(outcome, Outcome::Whole | Outcome::Named)
        } else {
            outcome == Outcome::Named || outcome == Outcome::Whole && is_named_by_check(fs)
        };
        assert!(right, "a flip at {offset} of {FIRST}: {outcome:?}");
    });
}

#[test]
fn every_flipped_bit_of_the_active_segment_is_found_or_a_torn_tail() {
    let (fs, expected) = closed(2, 1);
    let bytes = read_all(&fs, SECOND).unwrap();
    let frames = frames(&bytes);
    // The store was closed, which vouches for all of it.
    every_bit(&fs, &expected, SECOND, |fs, offset, outcome| {
        let frame = frames
            .iter()
            .position(|(start, end)| (*start..*end).contains(&offset));
        let right = match frame {
            // What lies before the replay point is not read again, but by who wants to know it.
            Some(number) if number + 1 < frames.len() => {
                outcome == Outcome::Named || outcome == Outcome::Whole && is_named_by_check(fs)
            }
            // The last frame vouches for those before it; the header's rest and what lies behind
            // the frames are zeros.
            _ => outcome != Outcome::Shorter,
        };
        assert!(right, "a flip at {offset} of {SECOND}: {outcome:?}");
    });
}

#[test]
fn every_flipped_bit_of_a_control_file_is_found_or_means_nothing() {
    let (fs, expected) = closed(3, 1);
    for name in ["manifest", "mark"] {
        every_bit(&fs, &expected, name, |_, offset, outcome| {
            assert!(outcome != Outcome::Shorter, "a flip at {offset} of {name}");
            assert!(
                name == "mark" || outcome == Outcome::Named,
                "a flip at {offset} of {name} goes unnoticed"
            );
        });
    }
}

/// A store whose log was compacted, with an index of several runs in which a range delete, expired
/// puts and a dropped keyspace hide something. `whole` is left as a compaction leaves it; else the
/// power goes when the sparse segment stands and what it replaces is not gone yet.
fn compacted(cluster: u8, whole: bool) -> (MemFs, Contents) {
    let (fs, store) = new_store(cluster);
    store.close().unwrap();
    let fs = fs.crash(Crash::KeepAll);
    let config = Config {
        background: false,
        flush_after_entries: 40,
        history_log_bytes: 0,
        retain_log_bytes: Some(0),
        ..Config::default()
    };
    let files = Arc::new(fs.clone());
    let store = Store::open_on(files, Arc::<SystemClock>::default(), config).unwrap();
    store.begin_epoch(EpochReason::Restart, "").unwrap();
    let (mine, drafts) = (store.keyspace("k").unwrap(), store.keyspace("d").unwrap());
    let commit = |batch| store.commit(batch, CommitOptions::default()).unwrap();
    let put = |number: u32, len| {
        let mut batch = Batch::new();
        let key = format!("key {:02}", number % 20);
        batch.put(&mine, key, vec![number as u8; len]).unwrap();
        commit(batch);
    };
    let mut batch = Batch::new();
    for number in 0..20 {
        batch
            .put(&mine, format!("old {number:02}"), [7; 40])
            .unwrap();
    }
    commit(batch);
    let mut number = 0;
    let sealed = if whole { 2 } else { 5 };
    while !has_frames(&fs, &format!("log/{:012}.seg", sealed + 1)) {
        put(number, 4_000);
        number += 1;
    }
    (0..20).for_each(|number| put(number, 40));
    if whole {
        // What was sealed a moment ago is still in memory.
        for _ in 0..200 {
            let _ = store.background_step();
        }
        store.compact_now(Compact::Order).unwrap();
    }
    let mut batch = Batch::new();
    batch.delete_range(&mine, "key 03".."key 06").unwrap();
    batch.put(&mine, "key 04", "again").unwrap();
    batch.delete(&mine, "key 10").unwrap();
    let ttl = std::time::Duration::ZERO;
    batch.put_with_ttl(&mine, "key 11", "gone", ttl).unwrap();
    batch.put(&drafts, "draft", "gone").unwrap();
    commit(batch);
    store
        .drop_keyspace(&drafts, CommitOptions::default())
        .unwrap();
    let contents = contents(&store).unwrap();
    assert_eq!(contents.len(), 36);
    if whole {
        store.close().unwrap();
        return (fs.crash(Crash::KeepAll), contents);
    }
    let is_sparse = |fs: &MemFs| {
        let names = fs.list("log").unwrap();
        names.iter().any(|name| name.ends_with(".sparse"))
    };
    for _ in 0..100_000 {
        let _ = store.background_step();
        if is_sparse(&fs) {
            let crashed = fs.crash(Crash::KeepAll);
            assert!(has_frames(&crashed, FIRST), "it is gone already");
            // Without a clean end the last commits are vouched for by nothing yet.
            let again = crashed.crash(Crash::KeepAll);
            let contents = self::contents(&open(&again).unwrap()).unwrap();
            assert!(contents.len() >= 36, "{}", contents.len());
            return (crashed, contents);
        }
    }
    panic!("nothing is compacted");
}

#[test]
fn every_flipped_bit_of_a_sparse_segment_and_of_an_index_is_found_or_means_nothing() {
    let (fs, expected) = compacted(4, true);
    let mut files = Vec::new();
    for dir in ["log", "index"] {
        let names = fs.list(dir).unwrap().into_iter();
        files.extend(names.map(|name| format!("{dir}/{name}")));
    }
    files.retain(|name| !name.ends_with(".seg"));
    let bits = |name: &String| 8 * read_all(&fs, name).unwrap().len();
    let shown: Vec<_> = files.iter().map(|name| (name, bits(name))).collect();
    eprintln!("bits flipped: {shown:?}");
    for kind in [".sparse", ".run", ".ranges", "manifest"] {
        let there = files.iter().any(|name| name.ends_with(kind));
        assert!(there, "no {kind}: {files:?}");
    }
    // A run is long for what little is in it.
    let every = std::env::var_os("OUTLAST_EVERY_BIT").is_some();
    for name in &files {
        let step = if every || !name.ends_with(".run") {
            1
        } else {
            7
        };
        some_bits(&fs, &expected, name, step, |_, offset, outcome| {
            assert!(outcome != Outcome::Shorter, "a flip at {offset} of {name}");
        });
        // The index is made again from the log; the log is not.
        let torn = fs.crash(Crash::KeepAll);
        torn.rot(name, read_all(&fs, name).unwrap().len() / 2, 0xff)
            .unwrap();
        let named = outcome(&torn, &expected, name) == Outcome::Named;
        assert!(
            named || name.starts_with("index/") || is_named_by_check(&torn),
            "{name}"
        );
    }
}

#[test]
fn a_flipped_bit_of_what_a_sparse_segment_replaces_means_nothing() {
    let (fs, expected) = compacted(5, false);
    some_bits(&fs, &expected, FIRST, 37, |_, offset, outcome| {
        assert_eq!(outcome, Outcome::Whole, "a flip at {offset} of {FIRST}");
    });
}

#[test]
fn a_file_that_was_cut_short_is_found_at_every_length() {
    for (name, cluster) in [(FIRST, 4), (SECOND, 5), ("manifest", 6), ("mark", 7)] {
        let (fs, expected) = closed(cluster, 1);
        let bytes = read_all(&fs, name).unwrap();
        let end = if name.starts_with("log") {
            frames_end(&bytes)
        } else {
            bytes.len()
        };
        let file = fs.open(name, Access::Write).unwrap();
        for len in (0..bytes.len()).rev() {
            file.set_len(len as u64).unwrap();
            let outcome = outcome(&fs, &expected, &(name, len));
            let may_be_whole = name == "mark" || name == SECOND && len >= end;
            let last = name == SECOND && len > frames(&bytes).last().unwrap().0;
            let right = match outcome {
                Outcome::Named => true,
                Outcome::Whole => may_be_whole || last || is_named_by_check(&fs),
                Outcome::Shorter => false,
            };
            assert!(right, "{name} cut to {len} bytes: {outcome:?}");
        }
    }
}

#[test]
fn frames_in_each_others_place_are_found() {
    let (fs, store) = new_store(8);
    // All of one length, so that the lengths alone tell nothing.
    for key in 0..64 {
        put(&store, key, 700);
    }
    let expected = contents(&store).unwrap();
    store.close().unwrap();
    drop(store);
    let bytes = read_all(&fs, FIRST).unwrap();
    let frames = frames(&bytes);
    let batches: Vec<_> = frames
        .iter()
        .filter(|(start, end)| end - start > 700)
        .collect();
    assert!(batches.len() >= 64, "{}", batches.len());
    let file = fs.open(FIRST, Access::Write).unwrap();
    let mut pairs = 0;
    for (a, from) in batches.iter().enumerate() {
        for (b, to) in batches.iter().enumerate() {
            if a == b {
                continue;
            }
            file.write_at(to.0 as u64, &bytes[from.0..from.1]).unwrap();
            let outcome = outcome(&fs, &expected, &(a, b));
            assert_eq!(outcome, Outcome::Named, "frame {a} in the place of {b}");
            file.write_at(to.0 as u64, &bytes[to.0..to.1]).unwrap();
            pairs += 1;
        }
    }
    assert!(pairs >= 4_032, "{pairs}");
}

#[test]
fn segments_in_each_others_place_or_of_another_cluster_are_found() {
    let (fs, expected) = closed(9, 16);
    let (other, _) = closed(10, 16);
    let name = |number: usize| format!("log/{number:012}.seg");
    let bytes: Vec<_> = (1..=16).map(|n| read_all(&fs, &name(n)).unwrap()).collect();
    for a in 1..=16 {
        for b in 1..=16 {
            let file = fs.open(&name(b), Access::Write).unwrap();
            let foreign = read_all(&other, &name(a)).unwrap();
            let copies = if a == b {
                vec![&foreign]
            } else {
                vec![&bytes[a - 1], &foreign]
            };
            for copy in copies {
                file.write_at(0, copy).unwrap();
                let outcome = outcome(&fs, &expected, &(a, b));
                assert_eq!(outcome, Outcome::Named, "segment {a} in the place of {b}");
            }
            file.write_at(0, &bytes[b - 1]).unwrap();
        }
    }
    assert_eq!(outcome(&fs, &expected, &"restored"), Outcome::Whole);
}

#[test]
fn forged_headers_behind_the_tail_are_not_replayed() {
    let (fs, expected) = closed(11, 1);
    let bytes = read_all(&fs, SECOND).unwrap();
    let frames = frames(&bytes);
    let end = frames.last().unwrap().1;
    let last = &bytes[frames.last().unwrap().0..end];
    let first = &bytes[frames[0].0..frames[0].1];
    let with = |frame: &[u8], at: usize, change: &[u8]| {
        let mut forged = frame.to_vec();
        forged[at..at + change.len()].copy_from_slice(change);
        forged
    };
    let file = fs.open(SECOND, Access::Write).unwrap();
    let forgeries: Vec<Vec<u8>> = vec![
        last.to_vec(),
        first.to_vec(),
        bytes[frames[0].0..end].to_vec(),
        with(last, 0, b"OLF2"),
        with(last, 4, &[0; 8]),
        with(last, 8, &u64::MAX.to_le_bytes()),
        with(last, 16, &u64::MAX.to_le_bytes()),
        with(last, 24, &[0xff; 8]),
        last[..8].to_vec(),
        last[..last.len() / 2].to_vec(),
        b"OLF1".to_vec(),
        [b"OLF1".as_slice(), &[0; 92]].concat(),
        [b"OLF1".as_slice(), &[0xff; 92]].concat(),
        vec![0xff; 4096],
        [&[0; 8], last].concat(),
        [&[0; 4096], first].concat(),
    ];
    for (number, forged) in forgeries.iter().enumerate() {
        file.write_at(end as u64, forged).unwrap();
        let outcome = outcome(&fs, &expected, &number);
        assert_eq!(outcome, Outcome::Whole, "forgery {number}");
        file.write_at(end as u64, &vec![0; forged.len()]).unwrap();
    }
    assert!(forgeries.len() >= 15);
}
