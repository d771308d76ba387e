//! Histories of repositories, loaded through a pair with a restart of each node and a promotion on
//! the way; each state compared with what git says it is.
//!
//! `OUTLAST_HISTORIES` names the folder of real ones, when the tests are built and when they run.
//! Without it those tests are ignored, and a generated one is tested.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outlast_engine::format::SEGMENT_FOOTER_LEN;
use outlast_engine::{Batch, CommitOptions, Compact, Config, EpochReason, Store, check};
use outlast_tools::model;
use outlast_tools::pair::{NodePlace, NodeProcess};
use sha2::{Digest, Sha256};
use support::{Site, batches, ended, history, json};

const VARIABLE: &str = "OUTLAST_HISTORIES";
const SEGMENT_SIZE: u64 = 1 << 20;
const SMALL_SEGMENT_SIZE: u64 = 256 << 10;
/// One, so that each batch is a frame of its own and the length of the log the same in every run.
const IN_FLIGHT: &str = "1";

/// What the state must be after so many batches.
#[derive(Clone, Debug)]
struct Expected {
    batches: usize,
    keys: u64,
    sha256: String,
}

struct History {
    lines: Vec<String>,
    expected: Vec<Expected>,
}

impl History {
    fn real(name: &str) -> Self {
        let folder = std::env::var_os(VARIABLE).map(PathBuf::from);
        let folder = folder.unwrap_or_else(|| panic!("{VARIABLE} names no folder of histories"));
        let read = |ending: &str| {
            let path = folder.join(format!("{name}-history.{ending}"));
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let expected = read("expected");
        let expected = expected.lines().map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            Expected {
                batches: words[0].parse().unwrap(),
                keys: words[1].parse().unwrap(),
                sha256: words[2].to_owned(),
            }
        });
        Self {
            expected: expected.collect(),
            lines: read("jsonl").lines().map(str::to_owned).collect(),
        }
    }

    fn generated(seed: u64, count: usize) -> Self {
        let lines = history(seed, count);
        let texts: Vec<&str> = lines.iter().map(String::as_str).collect();
        let batches = batches(&texts);
        let expected = (1..=8).map(|part| {
            let count = count * part / 8;
            let state = model::state(&batches[..count]);
            let mut hash = Sha256::new();
            for (key, value) in &state {
                hash.update(format!("{key}\t{value}\n"));
            }
            let hex = hex(&hash.finalize());
            Expected {
                batches: count,
                keys: state.len() as u64,
                sha256: hex,
            }
        });
        let expected = expected.collect();
        Self { lines, expected }
    }
}

/// Loads a history in slices that end where its state is known, at level applied, so that both
/// nodes must show that state at once. Between slices the standby restarts, then the primary; then
/// the primary is killed, its standby promoted, and a new standby begins from nothing.
fn through_a_pair(history: &History, segment_size: u64) -> (Site, NodeProcess, NodeProcess) {
    let site = Site::new(segment_size);
    let (mut primary, mut standby) = site.start();
    let (mut primary_at, mut standby_at) = (site.pair.a.clone(), site.pair.b.clone());
    let slices = history.expected.len();
    let mut from = 0;
    for (number, expected) in history.expected.iter().enumerate() {
        let lines: Vec<_> = history.lines[..expected.batches]
            .iter()
            .map(String::as_str)
            .collect();
        let input = site.input("slice.jsonl", &lines);
        let from_batch = from.to_string();
        let level = ["--level", "applied", "--from", &from_batch];
        let arguments = [&level[..], &["--in-flight", IN_FLIGHT]].concat();
        let loaded = json(&site.load(&primary_at, &input, &arguments));
        assert_eq!(loaded["acknowledged"]["applied"], expected.batches - from);
        compare(&site, &primary_at, expected);
        compare(&site, &standby_at, expected);
        from = expected.batches;
        if number == slices / 4 {
            standby.terminate().unwrap();
            standby = site.start_one(&standby_at);
            until_shown(&standby, expected.batches as u64);
            compare(&site, &standby_at, expected);
        }
        if number == slices / 2 {
            primary.terminate().unwrap();
            primary = site.start_one(&primary_at);
            primary.until_connected().unwrap();
            until_shown(&primary, expected.batches as u64);
            compare(&site, &primary_at, expected);
        }
        if number == slices * 3 / 4 {
            primary.kill().unwrap();
            site.pair
                .promote(&standby_at, "the primary was killed")
                .unwrap();
            compare(&site, &standby_at, expected);
            // The promoted node learns its new peer's key when it starts.
            standby.terminate().unwrap();
            site.pair.replace_a(&site.path("old-primary")).unwrap();
            std::mem::swap(&mut primary_at, &mut standby_at);
            primary = site.start_one(&primary_at);
            standby = site.start_one(&standby_at);
            primary.until_connected().unwrap();
        }
    }
    assert_eq!(from, history.lines.len(), "all of it is loaded");
    (site, primary, standby)
}

/// Waits until a node that was restarted shows as much as before: how far it may is told by its
/// peer.
fn until_shown(node: &NodeProcess, commit: u64) {
    let shown = |node: &NodeProcess| {
        let shown = node.status()?.positions.visible.commit;
        Ok((shown == commit).then_some(()))
    };
    node.until("it shows all again", shown).unwrap();
}

fn compare(site: &Site, node: &NodePlace, expected: &Expected) {
    let what = (expected.keys, expected.sha256.clone());
    let (count, name) = (expected.batches, node.name());
    assert_eq!(site.digest(node), what, "node {name} after {count} batches");
}

/// Sealed segments, compared byte by byte. How many there are.
fn equal_segments(site: &Site) -> usize {
    let names = |node: &NodePlace| {
        let files = fs::read_dir(node.dir().join("log")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.ends_with(".seg")).collect();
        names.sort();
        names
    };
    let (a, b) = (names(&site.pair.a), names(&site.pair.b));
    // Sealed is what has its footer; behind those lie the running one and perhaps a prepared one.
    let sealed = |bytes: &[u8]| {
        let footer = bytes.len() - usize::try_from(SEGMENT_FOOTER_LEN).unwrap();
        bytes[footer..].starts_with(b"OLSF")
    };
    let read = |node: &NodePlace, name: &str| fs::read(node.dir().join("log").join(name)).unwrap();
    let mut equal = 0;
    for name in a.iter().filter(|name| b.contains(name)) {
        let (ours, theirs) = (read(&site.pair.a, name), read(&site.pair.b, name));
        if sealed(&ours) && sealed(&theirs) {
            assert!(ours == theirs, "{name} differs");
            equal += 1;
        }
    }
    equal
}

fn is_loaded_through_a_pair(history: &History) {
    let (site, primary, standby) = through_a_pair(history, SEGMENT_SIZE);
    primary.terminate().unwrap();
    standby.terminate().unwrap();
    equal_segments(&site);
    is_the_same_when_compacted(&site, history);
}

/// Adds to what a pair holds everything beside puts and deletes of keys: ranges that are deleted,
/// keyspaces that are dropped, puts that expire. Then compacts the log of each node in another way
/// and throws the index of one away, some times over, each a run of the pair: both must show the
/// same throughout, and the history's own keyspace what git says.
fn is_the_same_when_compacted(site: &Site, history: &History) {
    let expected = history.expected.last().unwrap();
    let (a, b) = (site.pair.a.dir(), site.pair.b.dir());
    let written = add_the_rest(if writes(a) { a } else { b });
    let mut first = None;
    for round in 0..=2 {
        let nodes = site.start();
        for node in [&nodes.0, &nodes.1] {
            until_shown(node, written);
        }
        compare(site, &site.pair.a, expected);
        compare(site, &site.pair.b, expected);
        nodes.0.terminate().unwrap();
        nodes.1.terminate().unwrap();
        let state = first.get_or_insert_with(|| whole_state(a, written));
        for dir in [a, b] {
            assert_eq!(whole_state(dir, written), *state, "{round} {dir:?}");
        }
        if round < 2 {
            compact(b, Compact::Reclaim, round == 0);
            compact(a, Compact::Order, round == 0);
            for dir in [a, b] {
                assert_eq!(check(dir).unwrap().faults, []);
                assert_eq!(whole_state(dir, written), *state, "{round} {dir:?}");
            }
            fs::remove_dir_all([a, b][round].join("index")).unwrap();
        }
    }
}

fn config() -> Config {
    Config {
        history_log_bytes: 0,
        retain_log_bytes: Some(0),
        ..Config::default()
    }
}

/// Whether the node in `dir` wrote the last epoch.
fn writes(dir: &Path) -> bool {
    let store = Store::open(dir, config()).unwrap();
    let history = store.history();
    history.last().unwrap().node == store.node()
}

fn compact(dir: &Path, what: Compact, must_shrink: bool) {
    let store = Store::open(dir, config()).unwrap();
    if store.history().last().unwrap().node == store.node() {
        store
            .begin_epoch(EpochReason::Restart, "compacted")
            .unwrap();
    } else {
        store.begin_following().unwrap();
    }
    let before = store.log_size();
    store.compact_now(what).unwrap();
    let after = store.log_size();
    let (shown, was) = (dir.display(), before.whole_bytes + before.sparse_bytes);
    assert!(after.sparse_bytes > 0, "{shown}: {after:?}");
    let is = after.whole_bytes + after.sparse_bytes;
    // A node may have done it by itself while it ran.
    let due = must_shrink && before.sparse_bytes == 0;
    assert!(is < was || !due, "{shown}: {before:?}, {after:?}");
    store.close().unwrap();
}

/// Commits what a history has not, and answers with the number of the last commit.
fn add_the_rest(dir: &Path) -> u64 {
    let store = Store::open(dir, config()).unwrap();
    store.begin_epoch(EpochReason::Restart, "more").unwrap();
    let (extra, drafts) = (
        store.keyspace("extra").unwrap(),
        store.keyspace("drafts").unwrap(),
    );
    let mut random = fastrand::Rng::with_seed(7);
    let key = |number: u32| format!("folder {}/{number:05}", number % 7);
    let (short, long) = (Duration::ZERO, Duration::from_secs(86_400));
    for _ in 0..400 {
        let mut batch = Batch::new();
        for _ in 0..10 {
            let (at, value) = (key(random.u32(..2_000)), vec![b'v'; random.usize(..300)]);
            match random.u8(..10) {
                0 => batch.delete(&extra, at),
                1 => batch.put_with_ttl(&extra, at, value, short),
                2 => batch.put_with_ttl(&extra, at, value, long),
                3 => batch.put(&drafts, at, value),
                _ => batch.put(&extra, at, value),
            }
            .unwrap();
        }
        match random.u8(..20) {
            0 => batch.delete_prefix(&extra, format!("folder {}/0", random.u8(..7))),
            1..=6 => {
                let from = random.u32(..2_000);
                batch.delete_range(&extra, key(from)..key(from + 7 * random.u32(1..60)))
            }
            _ => Ok(()),
        }
        .unwrap();
        store.commit(batch, CommitOptions::default()).unwrap();
    }
    let options = CommitOptions::default();
    let dropped = store.drop_keyspace(&drafts, options).unwrap();
    let receipt = store
        .commit(Batch::new(), CommitOptions::default())
        .unwrap();
    assert_eq!(receipt.commit, dropped.commit + 1);
    // What has expired by any later log time, or by none that these tests come to.
    let left = store.snapshot().iter(&extra).count();
    assert!(left > 200, "only {left} keys are left");
    store.close().unwrap();
    receipt.commit
}

/// Keys, hashes of all keyspaces at the end of the last commit, as a view of the directory shows
/// them.
fn whole_state(dir: &Path, commit: u64) -> Vec<(String, u64, String)> {
    let view = Store::open_read_only(dir, config()).unwrap();
    let visible = view.positions().visible;
    assert!(visible.commit >= commit, "{visible:?} instead of {commit}");
    let snapshot = view.snapshot();
    let keyspaces = view.keyspaces().into_iter();
    let state = keyspaces.map(|keyspace| {
        let (mut hash, mut keys) = (Sha256::new(), 0);
        for entry in snapshot.iter(&keyspace) {
            let (key, value) = entry.unwrap();
            for part in [&key, &value] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
            keys += 1;
        }
        (keyspace.name().to_owned(), keys, hex(&hash.finalize()))
    });
    state.collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_generated_history_is_loaded_through_a_pair() {
    if std::env::var_os(VARIABLE).is_none() {
        eprintln!("{VARIABLE} is not set: the tests on real histories are LEFT OUT");
    }
    let history = History::generated(1, 4000);
    let (site, primary, standby) = through_a_pair(&history, SMALL_SEGMENT_SIZE);
    primary.terminate().unwrap();
    standby.terminate().unwrap();
    let equal = equal_segments(&site);
    assert!(equal >= 5, "only {equal} sealed segments");
    is_the_same_when_compacted(&site, &history);
}

#[test]
#[cfg_attr(not(histories), ignore = "OUTLAST_HISTORIES was not set")]
fn the_history_of_quinn_is_loaded_through_a_pair() {
    is_loaded_through_a_pair(&History::real("quinn"));
}

#[test]
#[cfg_attr(not(histories), ignore = "OUTLAST_HISTORIES was not set")]
fn the_history_of_etcd_is_loaded_through_a_pair() {
    is_loaded_through_a_pair(&History::real("etcd"));
}

#[test]
#[cfg_attr(not(histories), ignore = "OUTLAST_HISTORIES was not set")]
fn the_history_of_neon_fills_segments_that_are_equal_on_both_nodes() {
    let history = History::real("neon");
    let (site, primary, standby) = through_a_pair(&history, SMALL_SEGMENT_SIZE);
    primary.terminate().unwrap();
    standby.terminate().unwrap();
    let equal = equal_segments(&site);
    eprintln!("{equal} sealed segments are equal");
    assert!(equal >= 15, "only {equal} sealed segments");
    is_the_same_when_compacted(&site, &history);
}

#[test]
#[cfg_attr(not(histories), ignore = "OUTLAST_HISTORIES was not set")]
fn the_history_of_etcd_has_a_batch_that_small_segments_cannot_hold() {
    let history = History::real("etcd");
    let site = Site::new(SMALL_SEGMENT_SIZE);
    let (a, _b) = site.start();
    let lines: Vec<_> = history.lines.iter().map(String::as_str).collect();
    let input = site.input("etcd.jsonl", &lines);
    let said = ended(&site.load(a.place(), &input, &[]), 2);
    assert!(said.contains("limit") && said.contains("--from"), "{said}");
    // What was loaded ends right before the batch that was refused.
    let positions = a.status().unwrap().positions;
    let loaded = usize::try_from(positions.durable.commit).unwrap();
    assert!(
        said.contains(&format!("--from {loaded}")),
        "{loaded}: {said}"
    );
    assert_eq!(a.scan().unwrap(), model::state(&batches(&lines[..loaded])));
}
