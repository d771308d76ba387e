//! The index against a map that keeps every version.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::format::ClusterId;

/// Every version, by keyspace and key, oldest first.
type Model = BTreeMap<(u32, Vec<u8>), Vec<Version>>;

const KEYSPACES: [u32; 3] = [1, 2, u32::MAX];

fn key() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0), Just(b'a'), Just(b'b'), Just(0xfe), Just(0xff)];
    // Some longer than the head of a version key, with equal heads.
    let long = vec(prop_oneof![Just(b'x'), Just(0xff)], 8..11);
    prop_oneof![6 => vec(byte, 0..4), 1 => long]
}

fn write() -> impl Strategy<Value = (u32, Vec<u8>, bool)> {
    let keyspace = proptest::sample::select(&KEYSPACES[..]);
    (keyspace, key(), proptest::bool::weighted(0.7))
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![
        Just(Bound::Unbounded),
        key().prop_map(Bound::Included),
        key().prop_map(Bound::Excluded),
    ]
}

fn build(writes: &[(u32, Vec<u8>, bool)]) -> (Arc<Index>, Model) {
    let (index, mut model) = (none(), Model::new());
    for (number, (keyspace, key, put)) in (1..).zip(writes) {
        let op = if *put { Op::Put } else { Op::Delete };
        let (lsn, len) = (Lsn(number * 10), 20);
        let version = Version {
            lsn,
            len,
            op,
            expires_ms: 0,
        };
        index.insert(*keyspace, key, version);
        let versions = model.entry((*keyspace, key.clone())).or_default();
        versions.push(version);
    }
    (Arc::new(index), model)
}

fn at_lsn(lsn: u64) -> Moment {
    let (lsn, log_ms) = (Lsn(lsn), 0);
    Moment { lsn, log_ms }
}

/// An index of nothing.
fn none() -> Index {
    Index::new(Arc::new(Runs::none(ClusterId([7; 16]))))
}

fn newest(versions: &[Version], at: Lsn) -> Option<Version> {
    versions.iter().copied().rfind(|version| version.lsn < at)
}

/// What the range holds, by the model, lowest key first.
fn expected(model: &Model, range: &KeyRange<Bytes>) -> Vec<(Bytes, Version)> {
    let within = |key: &[u8]| {
        let lower = match &range.lower {
            Bound::Included(lower) => key >= &lower[..],
            Bound::Excluded(lower) => key > &lower[..],
            Bound::Unbounded => true,
        };
        lower
            && match &range.upper {
                Bound::Included(upper) => key <= &upper[..],
                Bound::Excluded(upper) => key < &upper[..],
                Bound::Unbounded => true,
            }
    };
    model
        .iter()
        .filter(|((keyspace, key), _)| *keyspace == range.keyspace && within(key))
        .filter_map(|((_, key), versions)| {
            let version = newest(versions, range.at.lsn)?;
            (version.op == Op::Put).then(|| (Bytes::from(key.clone()), version))
        })
        .collect()
}

fn pairs(found: Vec<Found>) -> Vec<(Bytes, Version)> {
    found.into_iter().map(|f| (f.key, f.version)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_get_sees_the_newest_version_below_its_position(
        writes in vec(write(), 0..120),
        reads in vec((write(), 0u64..1300), 1..40),
    ) {
        let (index, model) = build(&writes);
        prop_assert_eq!(index.versions(), writes.len() as u64);
        for ((keyspace, key, _), at) in reads {
            let versions = model.get(&(keyspace, key.clone())).map_or(&[][..], Vec::as_slice);
            prop_assert_eq!(index.get(keyspace, &key, Lsn(at)).unwrap(), newest(versions, Lsn(at)));
        }
    }

    #[test]
    fn a_range_read_from_both_ends_in_any_turns_is_the_range(
        writes in vec(write(), 0..160),
        keyspace in proptest::sample::select(&KEYSPACES[..]),
        lower in bound(),
        upper in bound(),
        at in 0u64..1700,
        turns in vec((any::<bool>(), 1usize..5), 1..60),
    ) {
        let (index, model) = build(&writes);
        let (lower, upper) = (lower.map(Bytes::from), upper.map(Bytes::from));
        let range = KeyRange { keyspace, lower, upper, at: at_lsn(at) };
        let expected = expected(&model, &range);

        let all = |direction| {
            pairs(Cursor::new(index.clone(), range.clone()).take(direction, 1000).unwrap())
        };
        prop_assert_eq!(&all(Direction::Forward), &expected);
        let mut reversed = all(Direction::Reverse);
        reversed.reverse();
        prop_assert_eq!(&reversed, &expected);

        let mut cursor = Cursor::new(index.clone(), range.clone());
        let (mut front, mut back) = (Vec::new(), Vec::new());
        for (forward, limit) in turns.iter().cycle().take(400) {
            let (direction, side) = match forward {
                true => (Direction::Forward, &mut front),
                false => (Direction::Reverse, &mut back),
            };
            side.extend(pairs(cursor.take(direction, *limit).unwrap()));
        }
        back.reverse();
        front.extend(back);
        prop_assert_eq!(front, expected);
    }
}

#[test]
fn many_versions_of_one_key_are_searched_past_in_both_directions() {
    let index = none();
    let put = |key: &[u8], lsn| {
        let (len, op) = (1, Op::Put);
        index.insert(
            1,
            key,
            Version {
                lsn: Lsn(lsn),
                len,
                op,
                expires_ms: 0,
            },
        );
    };
    (1..=1000).for_each(|lsn| put(b"hot", lsn));
    put(b"cold", 1);
    put(b"warm", 1);
    let index = Arc::new(index);
    for at in [2, 5, 500, 991, 2000] {
        let (lower, upper) = (Bound::Unbounded, Bound::Unbounded);
        let range = KeyRange {
            keyspace: 1,
            lower,
            upper,
            at: at_lsn(at),
        };
        let mut forward = Cursor::new(index.clone(), range.clone())
            .take(Direction::Forward, 9)
            .unwrap();
        let reverse = Cursor::new(index.clone(), range)
            .take(Direction::Reverse, 9)
            .unwrap();
        let lsns: Vec<_> = forward.iter().map(|found| found.version.lsn.0).collect();
        assert_eq!(lsns, [1, (at - 1).min(1000), 1]);
        forward.reverse();
        assert_eq!(forward, reverse);
    }
}

#[test]
fn memory_is_counted_with_the_keys() {
    let index = none();
    assert_eq!((index.versions(), index.memory_bytes()), (0, 0));
    let version = Version {
        lsn: Lsn(88),
        len: 30,
        op: Op::Put,
        expires_ms: 0,
    };
    index.insert(1, &[7; 1000], version);
    let one = index.memory_bytes();
    assert!((1050..1250).contains(&one), "{one} bytes");
    index.insert(
        1,
        b"",
        Version {
            lsn: Lsn(99),
            ..version
        },
    );
    assert!(index.memory_bytes() - one < 200);
}
