//! Read sets against a plain list of reads, and the limits of what is kept.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::format::{BatchBuf, Chain, ClusterId, FrameFields, FrameKind, Op};

type Key = Vec<u8>;

fn key() -> impl Strategy<Value = Key> {
    vec(prop_oneof![Just(0), Just(b'a'), Just(0xff)], 0..3)
}

fn bound() -> impl Strategy<Value = Bound<Key>> {
    prop_oneof![
        Just(Bound::Unbounded),
        key().prop_map(Bound::Included),
        key().prop_map(Bound::Excluded),
    ]
}

fn is_within(key: &Key, lower: &Bound<Key>, upper: &Bound<Key>) -> bool {
    let above = match lower {
        Bound::Included(lower) => key >= lower,
        Bound::Excluded(lower) => key > lower,
        Bound::Unbounded => true,
    };
    let below = match upper {
        Bound::Included(upper) => key <= upper,
        Bound::Excluded(upper) => key < upper,
        Bound::Unbounded => true,
    };
    above && below
}

fn batch(writes: &[(u32, Key)]) -> Vec<u8> {
    let mut batch = BatchBuf::default();
    for (keyspace, key) in writes {
        batch.push(Op::Delete, *keyspace, key, b"");
    }
    batch.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_read_is_lost_to_a_later_write_of_its_key_or_within_its_range_and_to_nothing_else(
        keys in vec((1u32..3, key()), 0..6),
        spans in vec((1u32..3, bound(), bound()), 0..3),
        writes in vec((1u32..3, key()), 0..6),
        from in 0u64..160,
    ) {
        let mut reads = ReadSet::default();
        for (keyspace, key) in &keys {
            reads.add_key(*keyspace, key).unwrap();
        }
        for (keyspace, lower, upper) in &spans {
            let span = Span {
                keyspace: *keyspace,
                lower: lower.clone().map(Bytes::from),
                upper: upper.clone().map(Bytes::from),
            };
            reads.add_span(span).unwrap();
        }
        let mut written = Writes::default();
        let mut lost = Vec::new();
        let mut lsn = Lsn(8);
        for write in &writes {
            let bytes = batch(std::slice::from_ref(write));
            written.add(&bytes, lsn, 1);
            // A record begins behind the eight bytes of its batch's header.
            let at = lsn.advance(8);
            lsn = lsn.advance(bytes.len() as u64);
            let read = keys.contains(write)
                || spans.iter().any(|(keyspace, lower, upper)| {
                    *keyspace == write.0 && is_within(&write.1, lower, upper)
                });
            if read && at.0 >= from {
                lost.push((at, write.clone()));
            }
        }
        let found = reads.lost_to(&written, Lsn(from));
        prop_assert_eq!(found.is_some(), !lost.is_empty());
        if let Some(LostTo { lsn, key }) = found {
            let (keyspace, key) = key.unwrap();
            prop_assert!(lost.contains(&(lsn, (keyspace, key.to_vec()))));
        }
    }
}

#[test]
fn a_read_set_refuses_by_name_what_is_too_much_and_is_incomplete_from_then_on() {
    let mut reads = ReadSet::default();
    for number in 0..READ_KEYS_MAX {
        reads.add_key(1, &number.to_le_bytes()).unwrap();
    }
    // One that is known already takes no room.
    reads.add_key(1, &0usize.to_le_bytes()).unwrap();
    assert!(reads.require_complete().is_ok());
    let error = reads.add_key(1, b"one more").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert!(error.to_string().contains("65536"), "{error}");
    assert_eq!(
        reads.require_complete().unwrap_err().kind(),
        ErrorKind::Limit
    );

    let mut reads = ReadSet::default();
    let long = |number: usize| [&number.to_le_bytes()[..], &[7; 2040]].concat();
    let fit = READ_BYTES_MAX / 2048;
    (0..fit).for_each(|number| reads.add_key(1, &long(number)).unwrap());
    assert!(reads.add_key(1, &long(fit)).is_err());

    let mut reads = ReadSet::default();
    let span = || Span {
        keyspace: 1,
        lower: Bound::Unbounded,
        upper: Bound::Unbounded,
    };
    for _ in 0..READ_RANGES_MAX {
        reads.add_span(span()).unwrap();
    }
    let error = reads.add_span(span()).unwrap_err();
    assert!(error.to_string().contains("1024 ranges"), "{error}");
    assert!(reads.require_complete().is_err());
}

fn frame(chain: &mut Chain, key: &[u8], len: usize) -> (crate::format::FrameHeader, Bytes) {
    let mut batch = BatchBuf::default();
    batch.push(Op::Put, 1, key, &vec![7; len]);
    let before = *chain;
    let fields = FrameFields {
        kind: FrameKind::Batches,
        first_in_segment: false,
        batches: 1,
        wall_ms: 0,
        log_ms: 0,
        visible: chain.visible,
        watermark: chain.watermark,
    };
    let frame = chain.form(fields, [&*batch.finish()]);
    (before.check_header(&frame).unwrap(), frame)
}

fn chain() -> Chain {
    let mut chain = Chain::origin(ClusterId([7; 16]));
    let id = crate::format::EpochId([1; 16]);
    let record = crate::format::EpochRecord {
        term: 1,
        start: 1,
        id,
        parent: crate::format::EpochId::NONE,
        opened_by: id,
        fork: chain.lsn,
        node: crate::format::NodeId([1; 16]),
        node_name: "a".to_owned(),
        reason: crate::format::EpochReason::Init,
        note: String::new(),
        wall_ms: 0,
    };
    let fields = FrameFields {
        kind: FrameKind::Epoch,
        first_in_segment: false,
        batches: 0,
        wall_ms: 0,
        log_ms: 0,
        visible: chain.visible,
        watermark: chain.watermark,
    };
    drop(chain.form_epoch(fields, &record));
    chain
}

#[test]
fn frames_that_are_given_up_leave_their_readers_in_doubt_and_later_ones_do_not() {
    const VALUE_LEN: usize = 1 << 20;
    let mut chain = chain();
    let mut recent = Recent::default();
    recent.begin(chain.lsn);
    let mut reads = ReadSet::default();
    reads.add_key(1, b"read").unwrap();
    let start = chain.lsn;
    let (header, bytes) = frame(&mut chain, b"read", 10);
    recent.push(header, bytes, None);
    let behind = chain.lsn;
    let key = Some((1, Bytes::from_static(b"read")));
    let lsn = header.payload_lsn().advance(8);
    assert_eq!(recent.lost_to(&reads, start), Some(LostTo { lsn, key }));
    assert_eq!(recent.lost_to(&reads, behind), None);
    // Below where this node began to form frames, it knows of none.
    let doubt = recent.lost_to(&reads, Lsn(start.0 - 1)).unwrap();
    assert_eq!((doubt.key, doubt.lsn), (None, Lsn(start.0 - 1)));

    for _ in 0..9 {
        let (header, bytes) = frame(&mut chain, b"other", VALUE_LEN);
        recent.push(header, bytes, None);
    }
    assert_eq!(recent.lost_to(&reads, start).unwrap().key, None);
    let newest = chain.lsn;
    assert_eq!(recent.lost_to(&reads, newest), None);
    // Small ones are limited by their number.
    for _ in 0..2000 {
        let (header, bytes) = frame(&mut chain, b"other", 1);
        recent.push(header, bytes, None);
    }
    assert_eq!(recent.lost_to(&reads, newest).unwrap().key, None);
    assert_eq!(recent.lost_to(&reads, chain.lsn), None);
}
