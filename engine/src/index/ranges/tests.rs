//! Range deletes against a plain list of them.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

type Delete = (u32, Vec<u8>, Option<Vec<u8>>);

const KEYSPACES: [u32; 2] = [1, u32::MAX];

fn key() -> impl Strategy<Value = Vec<u8>> {
    vec(
        prop_oneof![Just(0), Just(b'a'), Just(b'b'), Just(0xff)],
        0..3,
    )
}

fn delete() -> impl Strategy<Value = Delete> {
    let keyspace = proptest::sample::select(&KEYSPACES[..]);
    let end = proptest::option::weighted(0.8, key());
    (keyspace, key(), end).prop_map(|(keyspace, start, end)| {
        let end = end.filter(|end| *end > start);
        (keyspace, start, end)
    })
}

fn lies_over((keyspace, start, end): &Delete, of: u32, key: &[u8]) -> bool {
    *keyspace == of && *key >= **start && end.as_ref().is_none_or(|end| *key < **end)
}

/// Those over a key, the oldest first. Each lies at ten times its number.
fn over(deletes: &[Delete], keyspace: u32, key: &[u8]) -> Vec<Lsn> {
    let over = (1..)
        .zip(deletes)
        .filter(|(_, delete)| lies_over(delete, keyspace, key));
    over.map(|(number, _)| Lsn(number * 10)).collect()
}

fn ranges(deletes: &[Delete]) -> Ranges {
    let mut ranges = Ranges::default();
    for (number, (keyspace, start, end)) in (1..).zip(deletes) {
        ranges.insert(*keyspace, start, end.as_deref(), Lsn(number * 10));
    }
    ranges
}

fn counted(ranges: &Ranges) -> usize {
    ranges.entries().map(|entry| entry.lsns.len()).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_key_finds_those_over_it_from_both_sides_of_any_position(
        deletes in vec(delete(), 0..24),
        half in 0usize..24,
        keys in vec((proptest::sample::select(&KEYSPACES[..]), key()), 1..20),
        at in 0u64..260,
    ) {
        let all = ranges(&deletes);
        prop_assert_eq!(all.len(), counted(&all));
        prop_assert_eq!(all.is_empty(), deletes.is_empty());
        // Written down, made of two parts, met twice: always the same.
        prop_assert_eq!(&Ranges::of_entries(all.entries().collect()), &all);
        let mut absorbed = ranges(&deletes[..half.min(deletes.len())]);
        absorbed.absorb(&all);
        for ranges in [&all, &absorbed] {
            for (keyspace, key) in &keys {
                let over = over(&deletes, *keyspace, key);
                let newest = over.iter().rfind(|lsn| **lsn < Lsn(at)).copied();
                prop_assert_eq!(ranges.newest_below(*keyspace, key, Lsn(at)), newest);
                let oldest = over.iter().find(|lsn| **lsn > Lsn(at)).copied();
                prop_assert_eq!(ranges.oldest_above(*keyspace, key, Lsn(at)), oldest);
            }
        }
        for (number, (keyspace, start, end)) in (1..).zip(&deletes) {
            prop_assert!(all.names(*keyspace, start, end.as_deref(), Lsn(number * 10)));
            prop_assert!(!all.names(*keyspace, start, end.as_deref(), Lsn(number * 10 + 1)));
        }
    }

    #[test]
    fn what_is_left_out_is_what_no_reader_can_tell(
        deletes in vec(delete(), 0..24),
        keys in vec((proptest::sample::select(&KEYSPACES[..]), key()), 1..20),
        horizon in 0u64..260,
        snapshots in vec(0u64..260, 0..3),
    ) {
        let mut snapshots: Vec<Lsn> = snapshots.into_iter().map(Lsn).collect();
        snapshots.sort_unstable();
        let (horizon, settled) = (Lsn(horizon), Lsn::ZERO);
        let keep = Keep { horizon, snapshots, settled, expired_ms: 0 };
        let all = ranges(&deletes);
        let mut left = all.clone();
        left.compress(&keep);
        prop_assert_eq!(left.len(), counted(&left));
        let readers = keep.snapshots.iter().copied().chain((horizon.0..300).map(Lsn));
        for at in readers {
            for (keyspace, key) in &keys {
                let seen = |ranges: &Ranges| ranges.newest_below(*keyspace, key, at);
                prop_assert_eq!(seen(&left), seen(&all), "{:?} at {}", key, at);
            }
        }
        // And no two are left that nobody stands between.
        for entry in left.entries() {
            for (newer, older) in entry.lsns.iter().zip(entry.lsns.iter().skip(1)) {
                prop_assert!(keep.is_seen(*older, *newer));
            }
        }
    }

    #[test]
    fn those_go_that_take_nothing_away(
        deletes in vec(delete(), 0..24),
        keys in vec((proptest::sample::select(&KEYSPACES[..]), key(), 0u64..26), 0..20),
        below in 0u64..260,
    ) {
        let all = ranges(&deletes);
        let mut left = all.clone();
        let covers = |keyspace: u32, start: &[u8], end: Option<&[u8]>, lsn: Lsn| {
            let delete = (keyspace, start.to_vec(), end.map(<[u8]>::to_vec));
            let mut versions = keys.iter();
            let older = |at: u64| Lsn(at * 10 + 5) < lsn;
            Ok(versions.any(|(of, key, at)| lies_over(&delete, *of, key) && older(*at)))
        };
        left.purge(Lsn(below), covers).unwrap();
        prop_assert_eq!(left.len(), counted(&left));
        for (keyspace, key, at) in &keys {
            let covered = |ranges: &Ranges| ranges.oldest_above(*keyspace, key, Lsn(at * 10 + 5));
            prop_assert_eq!(covered(&left), covered(&all));
        }
        for entry in left.entries() {
            let oldest = *entry.lsns.last().unwrap();
            let needed = covers(entry.keyspace, &entry.start, entry.end.as_deref(), oldest);
            prop_assert!(oldest >= Lsn(below) || needed.unwrap());
        }
    }
}

#[test]
fn a_queue_that_is_emptied_from_its_front_takes_one_fragment() {
    let mut ranges = Ranges::default();
    for n in 1..=1000u64 {
        let end = format!("{n:08}");
        ranges.insert(1, b"", Some(end.as_bytes()), Lsn(n * 10));
    }
    let keep = Keep {
        horizon: Lsn(20_000),
        snapshots: Vec::new(),
        settled: Lsn::ZERO,
        expired_ms: 0,
    };
    ranges.compress(&keep);
    assert_eq!((ranges.len(), ranges.entries().count()), (1, 1));
    assert_eq!(
        ranges.newest_below(1, b"00000500", Lsn(u64::MAX)),
        Some(Lsn(10_000))
    );
    assert_eq!(ranges.newest_below(1, b"00001000", Lsn(u64::MAX)), None);
}
