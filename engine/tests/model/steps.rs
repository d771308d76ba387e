//! What a case does, one step after another.

use std::ops::Bound;

use proptest::collection::vec;
use proptest::prelude::*;

/// Names of keyspaces.
pub(crate) const NAMES: [&str; 3] = ["a", "b", "c"];
/// All keys that are ever used: empty, each other's beginnings, with bytes that cannot be raised.
pub(crate) const KEYS: [&[u8]; 9] = [
    b"",
    b"\0",
    b"a",
    b"a\0",
    b"ab",
    b"b",
    b"b\xff",
    b"c",
    b"\xff\xff",
];

/// What is done to a keyspace.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) name: usize,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Put(usize),
    /// With the time in milliseconds that it lives.
    PutWithTtl(usize, u64),
    Delete(usize),
    DeleteRange(Bound<usize>, Bound<usize>),
    DeletePrefix(usize),
}

/// What a transaction reads.
#[derive(Clone, Debug)]
pub(crate) enum Read {
    Get(usize, usize),
    /// So many entries of a range, from its end if so told.
    Range(usize, Bound<usize>, Bound<usize>, usize, bool),
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Commit(Vec<Op>),
    /// Others commit between what a transaction reads and its commit.
    Transact {
        before: Vec<Op>,
        reads: Vec<Read>,
        between: Vec<Vec<Op>>,
        after: Vec<Op>,
    },
    /// A key is compared with what it holds, or with something else, and written.
    Compare {
        name: usize,
        key: usize,
        right: bool,
        by_lsn: bool,
        delete: bool,
    },
    Drop(usize),
    Snapshot,
    Forget(usize),
    /// Reads an earlier state.
    Past(usize),
    /// Time passes.
    Advance(u64),
    /// The wall clock is set.
    Jump(i64),
    Work(u8),
    CompactIndex,
    /// Compacts the log, and puts it in order if so told.
    CompactNow(bool),
    Reopen {
        /// Without a close, unsynced bytes being drawn from this seed.
        crash: Option<u64>,
        keep_index: bool,
        /// Whether log time may go on if it stands still.
        confirm: bool,
    },
    /// Reads the change feed from a commit on.
    Tail(usize),
    Check,
}

fn bound() -> impl Strategy<Value = Bound<usize>> {
    prop_oneof![
        1 => Just(Bound::Unbounded),
        2 => (0..KEYS.len()).prop_map(Bound::Included),
        2 => (0..KEYS.len()).prop_map(Bound::Excluded),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0..KEYS.len();
    let ttl = proptest::sample::select(&[0, 1, 400, 9_000, 40_000_000, u64::MAX][..]);
    let kind = prop_oneof![
        6 => key.clone().prop_map(Kind::Put),
        3 => (key.clone(), ttl).prop_map(|(key, ttl)| Kind::PutWithTtl(key, ttl)),
        2 => key.clone().prop_map(Kind::Delete),
        2 => (bound(), bound()).prop_map(|(lower, upper)| Kind::DeleteRange(lower, upper)),
        1 => key.prop_map(Kind::DeletePrefix),
    ];
    (0..NAMES.len(), kind).prop_map(|(name, kind)| Op { name, kind })
}

fn read() -> impl Strategy<Value = Read> {
    let name = 0..NAMES.len();
    prop_oneof![
        (name.clone(), 0..KEYS.len()).prop_map(|(name, key)| Read::Get(name, key)),
        (name, bound(), bound(), 0..12usize, any::<bool>()).prop_map(
            |(name, lower, upper, count, back)| Read::Range(name, lower, upper, count, back)
        ),
    ]
}

/// One step.
pub(crate) fn step() -> impl Strategy<Value = Step> {
    let transact = (
        vec(op(), 0..2),
        vec(read(), 0..4),
        vec(vec(op(), 1..3), 0..3),
        vec(op(), 0..3),
    );
    let compare = (0..NAMES.len(), 0..KEYS.len(), any::<[bool; 3]>());
    let hour = 3_600_000;
    let times = [1, 399, 400, 10_000, hour + 1, 30 * hour];
    let jumps = [-20 * hour as i64, -700, 900, 30 * hour as i64];
    prop_oneof![
        24 => vec(op(), 0..5).prop_map(Step::Commit),
        4 => transact.prop_map(|(before, reads, between, after)| Step::Transact {
            before,
            reads,
            between,
            after,
        }),
        3 => compare.prop_map(|(name, key, [right, by_lsn, delete])| Step::Compare {
            name,
            key,
            right,
            by_lsn,
            delete,
        }),
        2 => (0..NAMES.len()).prop_map(Step::Drop),
        3 => Just(Step::Snapshot),
        2 => (0..8usize).prop_map(Step::Forget),
        3 => any::<usize>().prop_map(Step::Past),
        6 => proptest::sample::select(times.to_vec()).prop_map(Step::Advance),
        1 => proptest::sample::select(jumps.to_vec()).prop_map(Step::Jump),
        8 => (1..12u8).prop_map(Step::Work),
        2 => Just(Step::CompactIndex),
        1 => any::<bool>().prop_map(Step::CompactNow),
        2 => (proptest::option::of(any::<u64>()), proptest::bool::weighted(0.7), any::<bool>())
            .prop_map(|(crash, keep_index, confirm)| Step::Reopen { crash, keep_index, confirm }),
        1 => any::<usize>().prop_map(Step::Tail),
        3 => Just(Step::Check),
    ]
}
