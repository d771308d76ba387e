//! Figures of this machine, for whoever changes a run: `cargo test --release -p outlast-engine
//! --lib figures -- --ignored --nocapture`. Processor time, so that a busy machine shows less.
#![allow(clippy::cast_possible_truncation)]

use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::*;
use crate::fs::OsFs;
use crate::index::merge::{Keep, Merge, Progress, RUN_LEN};
use crate::index::merged::Merged;

const KEYS: u64 = 5_000_000;
const GETS: u64 = 2_000_000;
const SCANS: u64 = 100_000;
const SCAN_LEN: u64 = 100;
const PARTS: u64 = 5;
const LATEST: Lsn = Lsn(u64::MAX);

#[test]
#[ignore = "takes half a minute, and prints figures"]
fn figures() {
    let dir = tempfile::tempdir().unwrap();
    let fs = OsFs::new(dir.path());
    let mut keys: Vec<[u8; 16]> = (0..KEYS).map(key).collect();
    keys.sort_unstable();
    let asked: Vec<_> = (0..GETS)
        .map(|n| keys[(scatter(n) % KEYS) as usize])
        .collect();
    let rows: Vec<_> = (0..KEYS)
        .map(version)
        .zip(keys)
        .map(|(v, key)| (key, v))
        .collect();

    let run = timed("write, an entry", KEYS, || write(&fs, "whole", rows.iter()));
    println!("{:.2} bytes an entry", run.map.len() as f64 / KEYS as f64);
    let mut cursor = RunCursor::new(&run);
    for what in ["first forward scan, an entry", "forward scan, an entry"] {
        timed(what, KEYS, || {
            cursor.first().unwrap();
            assert_eq!(read(&mut cursor, u64::MAX), KEYS);
        });
    }
    timed("reverse scan, an entry", KEYS, || {
        cursor.last().unwrap();
        while cursor.entry().is_some() {
            cursor.prev().unwrap();
        }
    });
    for _ in 0..3 {
        timed("get", GETS, || {
            let found = |key: &&[u8; 16]| run.get(1, *key, LATEST).unwrap().is_some();
            assert_eq!(asked.iter().filter(found).count() as u64, GETS);
        });
    }
    timed("get of a key that is not there", GETS, || {
        let found = |key: &&[u8; 16]| run.get(2, *key, LATEST).unwrap().is_some();
        assert_eq!(asked.iter().filter(found).count(), 0);
    });
    timed(
        "search and forward scan of 100, an entry",
        SCANS * SCAN_LEN,
        || {
            for key in asked.iter().take(SCANS as usize) {
                cursor.seek(1, key, LATEST).unwrap();
                read(&mut cursor, SCAN_LEN);
            }
        },
    );
    timed("verify, an entry", KEYS, || run.verify().unwrap());

    let parts = (0..PARTS).map(|part| {
        let rows = (0..)
            .zip(&rows)
            .filter(|(n, _)| scatter(*n) % PARTS == part);
        let run = write(&fs, &format!("part-{part}"), rows.map(|(_, row)| row));
        RunCursor::new(Arc::new(run))
    });
    let parts = Merged::new(parts.collect());
    let bytes = timed("merge of five, an entry", KEYS, || {
        let keep = Keep {
            horizon: Lsn::ZERO,
            snapshots: Vec::new(),
            settled: Lsn::ZERO,
            expired_ms: 0,
        };
        let mut names = (0..).map(|n| format!("merged-{n}"));
        let names = move || names.next().unwrap();
        let mut merge =
            Merge::new(parts, Arc::default(), keep, RUN_LEN, Arc::default(), names).unwrap();
        loop {
            if let Progress::Done(output) = merge.step(&fs, 1 << 20).unwrap() {
                return output
                    .runs
                    .iter()
                    .map(|(_, meta)| meta.len_bytes)
                    .sum::<u64>();
            }
        }
    });
    println!("{bytes} bytes merged");
}

fn write<'a>(fs: &OsFs, name: &str, rows: impl Iterator<Item = &'a ([u8; 16], Version)>) -> Run {
    let mut writer = RunWriter::create(fs, name).unwrap();
    rows.for_each(|(key, version)| writer.push(1, key, *version).unwrap());
    let meta = writer.finish().unwrap();
    Run::open(fs, name, &meta).unwrap()
}

/// Reads so many entries, or all there are.
fn read(cursor: &mut RunCursor<&Run>, limit: u64) -> u64 {
    let (mut count, mut sum) = (0, 0);
    while count < limit
        && let Some(entry) = cursor.entry()
    {
        sum ^= entry.version.lsn.0 ^ u64::from(entry.key[0]);
        count += 1;
        cursor.next().unwrap();
    }
    std::hint::black_box(sum);
    count
}

fn timed<T>(what: &str, count: u64, work: impl FnOnce() -> T) -> T {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
    };
    let start = now();
    let done = work();
    println!(
        "{:8.1} ns {what}",
        (now() - start).as_nanos() as f64 / count as f64
    );
    done
}

fn scatter(n: u64) -> u64 {
    let mixed = (n ^ n >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

fn key(n: u64) -> [u8; 16] {
    let halves = [scatter(n), scatter(n + KEYS)].map(u64::to_le_bytes);
    std::array::from_fn(|at| halves[at / 8][at % 8])
}

/// As if the keys had been put in another order: LSNs without a pattern, of records of one length.
fn version(n: u64) -> Version {
    Version {
        lsn: Lsn(88 + scatter(n) % KEYS * 184),
        len: 160,
        op: Op::Put,
        expires_ms: 0,
    }
}
