//! Merging against a map that keeps every version.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::fs::MemFs;
use crate::index::cursor::Direction;
use crate::index::memtable::Memtable;
use crate::index::merged::Merged;
use crate::index::run::{Run, RunCursor};
use crate::index::source::{Entry, LevelCursor};
use crate::index::{KeyRange, Moment};

/// Every version by keyspace and key, oldest first.
type Model = BTreeMap<(u32, Vec<u8>), Vec<Version>>;

/// One version, and which of the parts have it.
#[derive(Clone, Debug)]
struct Write {
    keyspace: u32,
    key: Vec<u8>,
    op: Op,
    expires_ms: u64,
    part: usize,
    also: Option<usize>,
}

const KEYSPACES: [u32; 3] = [1, 2, u32::MAX];
/// Two memtables, two runs, and a level.
const PARTS: usize = 5;

fn key() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0), Just(b'a'), Just(0xff)];
    let long = (0u8..4).prop_map(|last| [&[b'l'; 700][..], &[last]].concat());
    prop_oneof![8 => vec(byte, 0..4), 1 => long, 1 => Just(vec![0xff; KEY_LEN_MAX])]
}

fn write() -> impl Strategy<Value = Write> {
    let keyspace = proptest::sample::select(&KEYSPACES[..]);
    let also = proptest::option::weighted(0.1, 0..PARTS);
    (
        keyspace,
        key(),
        proptest::bool::weighted(0.7),
        prop_oneof![3 => Just(0u64), 1 => 1u64..100],
        0..PARTS,
        also,
    )
        .prop_map(|(keyspace, key, put, expires_ms, part, also)| Write {
            keyspace,
            key,
            op: if put { Op::Put } else { Op::Delete },
            expires_ms: if put { expires_ms } else { 0 },
            part,
            also,
        })
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![
        Just(Bound::Unbounded),
        key().prop_map(Bound::Included),
        key().prop_map(Bound::Excluded),
    ]
}

/// The parts that hold the writes, and the model of all of them.
#[derive(Default)]
struct Parts {
    memtables: [Memtable; 2],
    runs: Vec<Arc<Run>>,
    level: Vec<Arc<Run>>,
    model: Model,
}

fn build(fs: &MemFs, writes: &[Write]) -> Parts {
    let mut parts = Parts::default();
    let held: Vec<Memtable> = (0..PARTS).map(|_| Memtable::default()).collect();
    for (number, write) in (1u64..).zip(writes) {
        let (lsn, len) = (Lsn(number * 10), 20);
        let version = Version {
            lsn,
            len,
            op: write.op,
            expires_ms: write.expires_ms,
        };
        for part in [Some(write.part), write.also].into_iter().flatten() {
            held[part].insert(write.keyspace, &write.key, version);
        }
        let key = (write.keyspace, write.key.clone());
        parts.model.entry(key).or_default().push(version);
    }
    let all = || Keep {
        horizon: Lsn::ZERO,
        snapshots: Vec::new(),
        settled: Lsn::ZERO,
        expired_ms: 0,
    };
    for (number, memtable) in held.into_iter().enumerate() {
        let run_len = if number == PARTS - 1 { 1 } else { RUN_LEN };
        let name = move |n| format!("{number}-{n}");
        let mut names = (0..).map(name);
        if number < 2 {
            parts.memtables[number] = memtable;
            continue;
        }
        let names = move || names.next().unwrap();
        let merge = Merge::new(
            memtable.cursor(),
            Arc::default(),
            all(),
            run_len,
            Arc::default(),
            names,
        )
        .unwrap();
        let output = finish(fs, merge, u64::MAX);
        assert_eq!(output.dropped.versions, 0);
        let list = if number == PARTS - 1 {
            &mut parts.level
        } else {
            &mut parts.runs
        };
        list.extend(open(fs, &output));
    }
    parts
}

fn finish<S: Source>(fs: &MemFs, mut merge: Merge<S>, budget_bytes: u64) -> Output {
    loop {
        if let Progress::Done(output) = merge.step(fs, budget_bytes).unwrap() {
            let made: Vec<_> = output.runs.iter().map(|(name, _)| name.clone()).collect();
            assert_eq!(merge.made(), made);
            return output;
        }
    }
}

fn open(fs: &MemFs, output: &Output) -> Vec<Arc<Run>> {
    let open = |(name, meta): &(String, RunMeta)| Arc::new(Run::open(fs, name, meta).unwrap());
    output.runs.iter().map(open).collect()
}

impl Parts {
    fn merged(&self) -> Merged<Box<dyn Source + '_>> {
        let mut sources: Vec<Box<dyn Source + '_>> = Vec::new();
        for memtable in &self.memtables {
            sources.push(Box::new(memtable.cursor()));
        }
        for run in &self.runs {
            sources.push(Box::new(RunCursor::new(run.clone())));
        }
        sources.push(Box::new(LevelCursor::new(self.level.clone())));
        Merged::new(sources)
    }
}

fn newest(versions: &[Version], at: Lsn) -> Option<Version> {
    versions.iter().copied().rfind(|version| version.lsn < at)
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

fn expected(model: &Model, range: &KeyRange<&[u8]>) -> Vec<(Vec<u8>, Version)> {
    let within = |key: &[u8]| {
        (match range.lower {
            Bound::Included(lower) => key >= lower,
            Bound::Excluded(lower) => key > lower,
            Bound::Unbounded => true,
        }) && match range.upper {
            Bound::Included(upper) => key <= upper,
            Bound::Excluded(upper) => key < upper,
            Bound::Unbounded => true,
        }
    };
    let seen = |((keyspace, key), versions): (&(u32, Vec<u8>), &Vec<Version>)| {
        let version = newest(versions, range.at.lsn)?;
        let shown =
            *keyspace == range.keyspace && within(key) && version.is_put_at(range.at.log_ms);
        shown.then(|| (key.clone(), version))
    };
    model.iter().filter_map(seen).collect()
}

/// What must be left of one key's versions, oldest first, by trying every reader.
fn kept(versions: &[Version], deletes: &[Lsn], keep: &Keep) -> BTreeSet<u64> {
    let end = versions.last().unwrap().lsn.0.max(keep.horizon.0) + 1;
    let later = (keep.horizon.0..=end).map(Lsn);
    let readers = keep.snapshots.iter().copied().chain(later);
    let seen: BTreeSet<u64> = readers
        .filter_map(|at| {
            let found = newest(versions, at)?;
            let over = |lsn: &Lsn| (found.lsn..at).contains(lsn);
            (!deletes.iter().any(over)).then_some(found.lsn.0)
        })
        .collect();
    let last = versions.last().unwrap();
    let alone = seen.iter().eq([&last.lsn.0]) && last.op == Op::Delete && last.lsn < keep.horizon;
    if alone && last.lsn < keep.settled {
        BTreeSet::new()
    } else {
        seen
    }
}

/// What a merge makes of a version that has expired by `keep.expired_ms`.
fn aged(version: &Version, keep: &Keep) -> Version {
    let expired = (1..=keep.expired_ms).contains(&version.expires_ms);
    let below = |at: &&Lsn| **at > version.lsn && **at < keep.horizon;
    if !expired || version.lsn >= keep.horizon || keep.snapshots.iter().any(|at| below(&at)) {
        return *version;
    }
    Version {
        op: Op::Delete,
        expires_ms: 0,
        ..*version
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_range_over_memtables_runs_and_levels_is_that_of_the_map(
        writes in vec(write(), 1..250),
        keyspace in proptest::sample::select(&KEYSPACES[..]),
        ranges in vec((bound(), bound(), 0u64..2600, 0u64..110, 1usize..40), 1..12),
    ) {
        let parts = build(&MemFs::new(), &writes);
        let mut merged = parts.merged();
        for (lower, upper, at, log_ms, limit) in &ranges {
            let (lower, upper) = (as_slice(lower), as_slice(upper));
            let at = Moment { lsn: Lsn(*at), log_ms: *log_ms };
            let range = KeyRange { keyspace, lower, upper, at };
            let mut all = expected(&parts.model, &range);
            for direction in [Direction::Forward, Direction::Reverse] {
                let mut found = Vec::new();
                let shows = |_: &[u8], version: &Version| version.is_put_at(*log_ms);
                merged.search(&range, direction).unwrap();
                // In portions, one going on where the one before has ended.
                loop {
                    let before = found.len();
                    let mut visit = |key: &[u8], version| found.push((key.to_vec(), version));
                    merged.visit(&range, direction, *limit, &shows, &mut visit).unwrap();
                    prop_assert!(found.len() <= before + limit);
                    if found.len() < before + limit {
                        break;
                    }
                }
                prop_assert_eq!(&found, &all, "{:?} of {:?}", direction, range);
                all.reverse();
            }
        }
    }

    #[test]
    fn a_merge_keeps_exactly_what_a_reader_may_see(
        writes in vec(write(), 1..250),
        horizon in 0u64..2600,
        snapshots in vec(0u64..2600, 0..4),
        settled in 0..2000u64,
        range_deletes in vec(
            (proptest::sample::select(&KEYSPACES[..]), key(), key(), 0u64..2600), 0..4,
        ),
        expired_ms in 0u64..110,
        budget_bytes in 1u64..5000,
        run_len in prop_oneof![Just(1u64), Just(20_000), Just(RUN_LEN)],
    ) {
        let fs = MemFs::new();
        let parts = build(&fs, &writes);
        let mut snapshots: Vec<Lsn> = snapshots.into_iter().map(Lsn).collect();
        snapshots.sort_unstable();
        let keep = Keep { horizon: Lsn(horizon), snapshots, settled: Lsn(settled), expired_ms };
        let mut ranges = Ranges::default();
        for (keyspace, one, other, lsn) in &range_deletes {
            // Between the versions, which lie at tens.
            let lsn = Lsn(lsn / 10 * 10 + 5);
            let (start, end) = (one.min(other), one.max(other));
            let end = Some(end).filter(|end| *end > start).map(|end| &**end);
            ranges.insert(*keyspace, start, end, lsn);
        }
        let mut names = (0..).map(|n| format!("out-{n}"));
        let names = move || names.next().unwrap();
        let over = Arc::new(ranges.clone());
        let bases = Arc::default();
        let merge = Merge::new(parts.merged(), over, keep.clone(), run_len, bases, names).unwrap();
        let output = finish(&fs, merge, budget_bytes);
        let runs = open(&fs, &output);
        runs.iter().for_each(|run| run.verify().unwrap());

        let mut left = Vec::new();
        let mut level = LevelCursor::new(runs);
        level.first().unwrap();
        while let Some(Entry { keyspace, key, version }) = level.entry() {
            left.push((keyspace, key.to_vec(), version));
            level.next().unwrap();
        }
        let mut expected = Vec::new();
        let mut all = 0;
        for ((keyspace, key), versions) in &parts.model {
            let versions: Vec<_> = versions.iter().map(|version| aged(version, &keep)).collect();
            let deletes = range_deletes.iter().map(|(_, _, _, lsn)| Lsn(lsn / 10 * 10 + 5));
            let oldest = |lsn: &Lsn| ranges.oldest_above(*keyspace, key, Lsn(lsn.0 - 1));
            let over = |lsn: &Lsn| oldest(lsn) == Some(*lsn);
            let deletes: Vec<_> = deletes.filter(over).collect();
            let kept = kept(&versions, &deletes, &keep);
            all += versions.len() as u64;
            let kept = versions.iter().rev().filter(|version| kept.contains(&version.lsn.0));
            expected.extend(kept.map(|version| (*keyspace, key.clone(), *version)));
        }
        prop_assert_eq!(output.dropped.versions, all - expected.len() as u64);
        prop_assert_eq!(output.dropped.record_bytes, output.dropped.versions * 20);
        prop_assert_eq!(&left, &expected);
        // And back again.
        let mut back = Vec::new();
        level.seek_before(u32::MAX, &[0xff; KEY_LEN_MAX], Lsn::ZERO).unwrap();
        while let Some(Entry { keyspace, key, version }) = level.entry() {
            back.push((keyspace, key.to_vec(), version));
            level.prev().unwrap();
        }
        back.reverse();
        prop_assert_eq!(back, expected);
    }

    #[test]
    fn what_lies_above_a_ceiling_is_not_there(
        writes in vec(write(), 1..150),
        ceiling in 0u64..1600,
    ) {
        let fs = MemFs::new();
        let parts = build(&fs, &writes);
        for run in parts.runs.iter().chain(&parts.level) {
            let meta = RunMeta { ceiling: Lsn(ceiling), ..run.meta().clone() };
            let low = Run::open(&fs, run.name(), &meta).unwrap();
            low.verify().unwrap();
            let all = |run: &Run| {
                let (mut forward, mut back) = (Vec::new(), Vec::new());
                let mut cursor = RunCursor::new(run);
                cursor.first().unwrap();
                while let Some(entry) = cursor.entry() {
                    forward.push((entry.keyspace, entry.key.to_vec(), entry.version));
                    cursor.next().unwrap();
                }
                cursor.last().unwrap();
                while let Some(entry) = cursor.entry() {
                    back.push((entry.keyspace, entry.key.to_vec(), entry.version));
                    cursor.prev().unwrap();
                }
                back.reverse();
                assert_eq!(forward, back);
                forward
            };
            let mut expected = all(run);
            expected.retain(|(_, _, version)| version.lsn < Lsn(ceiling));
            prop_assert_eq!(all(&low), expected);
            for (keyspace, key) in parts.model.keys() {
                let at = Lsn(ceiling);
                let found = low.get(*keyspace, key, Lsn(u64::MAX)).unwrap();
                prop_assert_eq!(found, run.get(*keyspace, key, at).unwrap());
            }
        }
    }
}
