//! Profiles that are written, changed and withdrawn while both nodes flush, merge and compact, and
//! readers on both never see a mixture of two versions, and nobody again who was withdrawn.
//!
//! `OUTLAST_PROFILE_READS=N` goes on for N reads.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use outlast_standby::Node;
use outlast_standby::engine::{Batch, CommitOptions, Compact, Keyspace, Snapshot, Store};
use support::{Pair, until};

const READS: u64 = 200_000;
/// Users at a time. One who is withdrawn makes room for a new one, who has another name.
const USERS: usize = 40;
/// How many compactions of each node readers must have read through.
const COMPACTIONS: u64 = 4;

/// What all threads share.
#[derive(Default)]
struct Shared {
    /// Users from this number on are withdrawn, or were never there: told once that is durable.
    withdrawn: Vec<AtomicU64>,
    reads: AtomicU64,
    seen: AtomicU64,
    compacted: [AtomicU64; 2],
    over: AtomicBool,
}

impl Shared {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

/// The name of the `number`th user of a place.
fn keys(place: usize, number: u64) -> [String; 3] {
    ["profile", "version", "viewers"].map(|part| format!("{part}/{place:02}/{number:06}"))
}

/// The values of one version, each of another length; from version and part follows every byte.
fn value(version: u64, part: usize) -> Vec<u8> {
    let mut value = version.to_le_bytes().to_vec();
    let len = 8 + (version as usize * 37 + part * 211) % 900;
    value.resize(len, (version as u8).wrapping_add(part as u8));
    value
}

/// Writes until the test is over. Each place has one user at a time.
fn write(store: &Store, keyspace: &Keyspace, shared: &Shared) {
    let mut random = fastrand::Rng::with_seed(5);
    let mut numbers = [0_u64; USERS];
    let mut version = 0;
    while !shared.is_over() {
        let place = random.usize(..USERS);
        let number = numbers[place];
        let user = keys(place, number);
        version += 1;
        let mut batch = Batch::new();
        let withdraws = random.u8(..6) == 0;
        match random.u8(..4) {
            _ if !withdraws => {
                for (part, key) in user.iter().enumerate() {
                    batch.put(keyspace, key, value(version, part)).unwrap();
                }
            }
            0 => user
                .iter()
                .for_each(|key| batch.delete(keyspace, key).unwrap()),
            1 => user.iter().for_each(|key| {
                // To behind the user that this place has.
                let first = &key[..key.len() - 6];
                batch
                    .delete_range(keyspace, first..&format!("{key}+")[..])
                    .unwrap();
            }),
            2 => user
                .iter()
                .for_each(|key| batch.delete_prefix(keyspace, key).unwrap()),
            _ => user.iter().for_each(|key| {
                let ttl = Duration::ZERO;
                batch.put_with_ttl(keyspace, key, "over", ttl).unwrap();
            }),
        }
        store.commit(batch, CommitOptions::default()).unwrap();
        if withdraws {
            numbers[place] += 1;
            shared.withdrawn[place].store(number + 1, Ordering::Release);
        }
    }
}

/// What one reader has seen of each place: the user and the version.
type Seen = BTreeMap<usize, (u64, u64)>;

/// Reads one place at one snapshot. `least` is who cannot be withdrawn yet there.
fn read(
    snapshot: &Snapshot,
    keyspace: &Keyspace,
    place: usize,
    least: u64,
    seen: &mut Seen,
) -> bool {
    let before = seen.get(&place).copied().unwrap_or_default();
    let mut found = Vec::new();
    for (part, name) in ["profile", "version", "viewers"].iter().enumerate() {
        let prefix = format!("{name}/{place:02}/");
        let shown: Vec<_> = snapshot
            .prefix(keyspace, &prefix)
            .map(Result::unwrap)
            .collect();
        assert!(shown.len() <= 1, "two users of one place: {shown:?}");
        found.push(shown.first().map(|(key, shown)| {
            let number: u64 = std::str::from_utf8(&key[prefix.len()..])
                .unwrap()
                .parse()
                .unwrap();
            let version = u64::from_le_bytes(*shown.first_chunk::<8>().unwrap());
            assert_eq!(
                shown[..],
                value(version, part),
                "{key:?} of version {version}"
            );
            (number, version)
        }));
    }
    assert!(
        found.iter().all(|one| *one == found[0]),
        "a mixture in {place}: {found:?}"
    );
    let Some((number, version)) = found[0] else {
        return false;
    };
    assert!(
        number >= least,
        "user {number} of {place} is back, {least} was withdrawn"
    );
    assert!(
        (number, version) >= before,
        "{place} went back from {before:?} to {found:?}"
    );
    let user = keys(place, number);
    let again = snapshot.multi_get(keyspace, &user).unwrap();
    for (part, again) in again.iter().enumerate() {
        assert_eq!(
            again.as_deref(),
            Some(&value(version, part)[..]),
            "{user:?}"
        );
    }
    seen.insert(place, (number, version));
    true
}

/// Reads until the test is over. Of the primary it knows who was withdrawn; a standby may be
/// behind, and never goes back.
fn read_on(node: &Node, is_primary: bool, shared: &Shared) {
    let store = node.store();
    let keyspace = store.find_keyspace("profiles").unwrap();
    let (mut seen, mut held) = (Seen::new(), Vec::new());
    let mut random = fastrand::Rng::with_seed(u64::from(is_primary));
    while !shared.is_over() {
        let place = random.usize(..USERS);
        let least = shared.withdrawn[place].load(Ordering::Acquire);
        let least = if is_primary { least } else { 0 };
        let snapshot = store.snapshot();
        let there = read(&snapshot, &keyspace, place, least, &mut seen);
        // An old state stays what it was, whatever is merged and compacted meanwhile.
        if random.u8(..200) == 0 {
            let lasts = 50 * u64::from(random.u8(..));
            let mut then = Seen::new();
            for place in 0..USERS {
                read(&snapshot, &keyspace, place, 0, &mut then);
            }
            held.push((snapshot, then, shared.reads.load(Ordering::Relaxed) + lasts));
        }
        let reads = shared.reads.fetch_add(1, Ordering::Relaxed);
        shared.seen.fetch_add(u64::from(there), Ordering::Relaxed);
        held.retain(|(snapshot, then, until)| {
            if reads < *until {
                return true;
            }
            let mut now = Seen::new();
            for place in 0..USERS {
                read(snapshot, &keyspace, place, 0, &mut now);
            }
            assert_eq!(now, *then, "the state at {} has changed", snapshot.lsn());
            false
        });
    }
}

#[test]
fn no_profile_is_mixed_or_comes_back_while_both_nodes_compact() {
    let reads = std::env::var("OUTLAST_PROFILE_READS");
    let reads = reads.map_or(READS, |count| count.parse().expect("a number of reads"));
    let pair = Pair::patient();
    pair.tune("history_log = \"16.0 MiB\"", "history_log = \"64 KiB\"");
    pair.tune(
        "flush_after_log = \"16.0 MiB\"",
        "flush_after_log = \"128 KiB\"",
    );
    let (a, b) = (pair.start("a"), pair.start("b"));
    let keyspace = a.store().keyspace("profiles").unwrap();
    until("the standby has the keyspace", || {
        b.store().find_keyspace("profiles").is_ok()
    });
    let shared = Shared {
        withdrawn: (0..USERS).map(|_| AtomicU64::new(0)).collect(),
        ..Shared::default()
    };
    std::thread::scope(|scope| {
        let shared = &shared;
        scope.spawn(|| write(a.store(), &keyspace, shared));
        for (node, is_primary) in [(&a, true), (&b, false), (&b, false)] {
            scope.spawn(move || read_on(node, is_primary, shared));
        }
        for (number, node) in [&a, &b].into_iter().enumerate() {
            scope.spawn(move || {
                let mut what = [Compact::Reclaim, Compact::Order].into_iter().cycle();
                while !shared.is_over() {
                    node.store().compact_now(what.next().unwrap()).unwrap();
                    let count = node.store().log_size().compactions;
                    shared.compacted[number].store(count, Ordering::Relaxed);
                }
            });
        }
        let _over = Ending(shared);
        let began = std::time::Instant::now();
        loop {
            let compacted = shared
                .compacted
                .each_ref()
                .map(|count| count.load(Ordering::Relaxed));
            let done = shared.reads.load(Ordering::Relaxed) >= reads;
            if done && compacted.iter().all(|count| *count >= COMPACTIONS) {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(600), "{compacted:?}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    });
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    let (read, seen) = (count(&shared.reads), count(&shared.seen));
    let commits = a.store().positions().durable.commit;
    let compacted = shared.compacted.each_ref().map(count);
    let runs = [&a, &b].map(|node| node.store().index_size());
    eprintln!(
        "{read} reads, {seen} of a user; {commits} commits; compactions {compacted:?}; {runs:?}"
    );
    assert!(seen > read / 4, "{seen} of {read}");
    // And both hold the same when all is done.
    until("the standby shows all", || {
        b.store().positions().visible.lsn >= a.store().positions().visible.lsn
    });
    let state = |node: &Node| {
        let keyspace = node.store().find_keyspace("profiles").unwrap();
        let snapshot = node.store().snapshot();
        snapshot
            .iter(&keyspace)
            .map(Result::unwrap)
            .collect::<Vec<_>>()
    };
    assert_eq!(state(&a), state(&b));
}

/// Ends all threads, also where one of them failed.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
    }
}
