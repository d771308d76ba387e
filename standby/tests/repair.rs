//! Mending a node with the bytes of the other one, over real QUIC on loopback.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use outlast_shipper::{Peer, Peers};
use outlast_standby::certificate::{Outcome, PromoteOptions};
use outlast_standby::control::Client;
use outlast_standby::control::protocol::{Ask, FailureKind, Reply};
use outlast_standby::engine::{Batch, CommitOptions, ErrorKind, LackKind, Level, Receipt, check};
use outlast_standby::status::Role;
use outlast_standby::{Node, NodeDir, Repair, RepairFrom, RepairOptions, card, repair_offline};

use support::{Pair, options, put, trust, until, until_promotable};

const COMMITS: u32 = 300;

fn value(n: u32) -> Vec<u8> {
    n.to_le_bytes().repeat(1000)
}

/// Commits values that fill a few segments.
fn load(node: &Node, prefix: &str, level: Level) -> Receipt {
    let keyspace = node.store().keyspace("default").unwrap();
    let commit = |n: u32, level| {
        let mut batch = Batch::new();
        batch
            .put(&keyspace, format!("{prefix}-{n:04}"), value(n))
            .unwrap();
        let options = CommitOptions {
            level,
            ..CommitOptions::default()
        };
        node.store().commit(batch, options).unwrap()
    };
    for n in 0..COMMITS - 1 {
        commit(n, Level::Local);
    }
    commit(COMMITS - 1, level)
}

/// How many of the loaded values can be read, and what the others answer.
fn read(node: &Node, prefix: &str) -> (u32, Vec<outlast_standby::engine::Error>) {
    let keyspace = node.store().find_keyspace("default").unwrap();
    let mut sound = 0;
    let mut errors = Vec::new();
    for n in 0..COMMITS {
        match node.store().get(&keyspace, format!("{prefix}-{n:04}")) {
            Ok(found) => {
                assert_eq!(found.unwrap(), value(n));
                sound += 1;
            }
            Err(error) => errors.push(error),
        }
    }
    (sound, errors)
}

fn segment(dir: &Path, ordinal: u32) -> PathBuf {
    dir.join(format!("log/{ordinal:012}.seg"))
}

fn flip(path: &Path, at: usize) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], at as u64).unwrap();
}

/// The files of a log that are sealed: those behind which another one holds something.
fn sealed(dir: &Path) -> BTreeMap<u32, Vec<u8>> {
    let mut files: BTreeMap<u32, Vec<u8>> = (1..)
        .map(|ordinal| (ordinal, std::fs::read(segment(dir, ordinal))))
        .map_while(|(ordinal, bytes)| Some((ordinal, bytes.ok()?)))
        .take_while(|(_, bytes)| bytes.iter().any(|byte| *byte != 0))
        .collect();
    files.pop_last();
    files
}

/// Every file of a node, by its path.
fn all(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for folder in [dir.to_owned(), dir.join("log"), dir.join("aside")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                files.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

fn from_peer(dry_run: bool) -> RepairOptions {
    let from = RepairFrom::Peer;
    RepairOptions { from, dry_run }
}

fn assert_whole(repair: &Repair, files: usize) {
    let report = &repair.report;
    assert_eq!((&report.left[..], &report.lacks[..]), (&[][..], &[][..]));
    assert_eq!(report.repaired.len(), files, "{report:?}");
}

/// Frames, a header, and a file that is gone.
fn damage(dir: &Path) {
    for at in [5_000, 70_000, 200_000] {
        flip(&segment(dir, 1), at);
    }
    flip(&segment(dir, 2), 40);
    flip(&segment(dir, 2), 4_100);
    std::fs::remove_file(segment(dir, 3)).unwrap();
}

#[test]
fn a_primary_that_refuses_to_open_is_mended_by_its_running_standby() {
    let (pair, a, b) = Pair::met();
    load(&a, "key", Level::Applied);
    a.stop().unwrap();
    let (at_a, at_b) = (pair.path("a"), pair.path("b"));
    damage(&at_a);
    let refused = Node::start(&at_a).err().unwrap();
    assert_eq!(refused.kind(), FailureKind::Corrupt);
    let said = refused.to_string();
    let command = format!("outlast repair --dir {} --from-peer", at_a.display());
    assert!(said.contains(&command), "{said}");

    until_promotable(&b);
    let sessions = b.status().peer.unwrap().sessions;
    let before = all(&at_a);
    let rehearsed = repair_offline(&at_a, &from_peer(true)).unwrap();
    assert_whole(&rehearsed, 3);
    assert_eq!(all(&at_a), before, "a dry run wrote");
    let repair = repair_offline(&at_a, &from_peer(false)).unwrap();
    assert_whole(&repair, 3);
    assert_eq!(
        repair.report.repaired[0].ranges.len(),
        3,
        "no more than that"
    );
    assert_eq!(
        rehearsed.report.repaired[0].ranges,
        repair.report.repaired[0].ranges
    );
    assert!(repair.from.unwrap().starts_with("b at 127.0.0.1:"));
    assert!(!check(&at_a).unwrap().is_damaged());

    // The standby heard no primary in it.
    let dry_run = PromoteOptions {
        dry_run: true,
        ..options()
    };
    assert_eq!(b.promote(&dry_run).unwrap().outcome, Outcome::WouldPromote);
    assert_eq!(b.status().peer.unwrap().sessions, sessions);
    let theirs = sealed(&at_b);
    assert!(theirs.len() >= 4, "{} segments", theirs.len());
    assert_eq!(sealed(&at_a), theirs);

    let a = pair.start("a");
    put(&b, "no", Level::Local).unwrap_err();
    until("the primary writes again", || {
        a.status().role == Role::Primary
    });
    put(&a, "after", Level::Applied).unwrap();
    assert_eq!(read(&a, "key").0, COMMITS);
}

#[test]
fn a_stopped_standby_is_mended_by_its_running_primary() {
    let (pair, a, b) = Pair::met();
    load(&a, "key", Level::Applied);
    b.stop().unwrap();
    put(&a, "meanwhile", Level::Local).unwrap();
    let at_b = pair.path("b");
    damage(&at_b);
    assert!(check(&at_b).unwrap().is_damaged());
    assert_whole(&repair_offline(&at_b, &from_peer(false)).unwrap(), 3);
    assert!(!check(&at_b).unwrap().is_damaged());
    assert_eq!(sealed(&at_b), sealed(&pair.path("a")));
    let b = pair.start("b");
    assert_eq!(b.status().recovered.acked_tail_lost, None);
    put(&a, "after", Level::Applied).unwrap();
    assert_eq!(read(&b, "key").0, COMMITS);
}

#[test]
fn a_running_node_is_mended_while_a_load_goes_on() {
    let (pair, a, b) = Pair::met();
    load(&a, "key", Level::Applied);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let loading = scope.spawn(|| {
            let mut commits = 0;
            while !stop.load(Ordering::Relaxed) {
                let level = [Level::Local, Level::Applied][commits % 2];
                put(&a, &format!("load-{commits}"), level).unwrap();
                commits += 1;
            }
            commits
        });
        for (name, node) in [("a", &a), ("b", &b)] {
            let dir = pair.path(name);
            let wanted = sealed(&dir);
            damage(&dir);
            // From the moment on at which it no longer reads them from memory.
            until("a reader meets the damage", || {
                read(node, "key").0 < COMMITS
            });
            let (_, errors) = read(node, "key");
            let command = format!("outlast repair --dir {} --from-peer", dir.display());
            for error in &errors {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                assert!(error.to_string().contains(&command), "{error}");
            }
            let mut client = Client::connect(&dir).unwrap();
            let mut ask = |options| match client.ask_one(Ask::Repair(options)).unwrap() {
                Reply::Repaired(repair) => *repair,
                other => panic!("{other:?}"),
            };
            let own = ask(RepairOptions::default());
            assert!(own.report.repaired.is_empty() && own.report.left.len() >= 5);
            let before = sealed(&dir);
            assert_whole(&ask(from_peer(true)), 3);
            assert_eq!(sealed(&dir)[&1], before[&1], "a dry run wrote");
            let repair = ask(from_peer(false));
            assert!(repair.running);
            assert_whole(&repair, 3);
            assert_eq!(read(node, "key").0, COMMITS);
            let found = sealed(&dir);
            assert!(
                wanted
                    .iter()
                    .all(|(ordinal, bytes)| found[ordinal] == *bytes)
            );
            assert_whole(&ask(from_peer(false)), 0);
            let refused = check(&dir).unwrap_err().to_string();
            assert!(refused.contains("outlast repair --dir"), "{refused}");
        }
        stop.store(true, Ordering::Relaxed);
        assert!(loading.join().unwrap() > 0);
    });
    put(&a, "after", Level::Applied).unwrap();
    assert_eq!(
        a.status().peer.unwrap().sessions,
        1,
        "no session ended for it"
    );
    for name in ["a", "b"] {
        let aside = std::fs::read_dir(pair.path(name).join("aside")).unwrap();
        assert_eq!(aside.count(), 2, "two files were there to be kept");
    }
}

/// A primary, stopped and damaged, and its standby, stopped.
fn damaged() -> Pair {
    let (pair, a, b) = Pair::met();
    load(&a, "key", Level::Applied);
    a.stop().unwrap();
    b.stop().unwrap();
    damage(&pair.path("a"));
    pair
}

/// Repairs `a` in vain. Answers with what it says; nothing was changed.
fn refused(pair: &Pair) -> (FailureKind, String) {
    let dir = pair.path("a");
    let before = all(&dir);
    let refused = repair_offline(&dir, &from_peer(false)).unwrap_err();
    assert_eq!(all(&dir), before);
    let failure = refused.to_failure();
    assert!(failure.what.contains("nothing was changed"), "{failure:?}");
    (
        failure.kind,
        format!("{} ({})", failure.what, failure.hint.unwrap()),
    )
}

#[test]
fn a_peer_that_cannot_be_asked_is_named_with_what_to_do() {
    let pair = damaged();
    let (kind, said) = refused(&pair);
    assert_eq!(kind, FailureKind::NotReachable, "{said}");
    assert!(said.contains("--from DIR"), "{said}");

    // One that does not trust this node, and one that this node does not trust.
    let peers_of = |name: &str| NodeDir::new(pair.path(name)).peers();
    let trusted = Peers::load(&peers_of("b")).unwrap();
    Peers::default().save(&peers_of("b")).unwrap();
    let b = pair.start("b");
    let (kind, said) = refused(&pair);
    assert_eq!(kind, FailureKind::Refused, "{said}");
    assert!(said.contains("outlast pin"), "{said}");
    trusted.save(&peers_of("b")).unwrap();
    until("b trusts a again", || b.status().peer.is_some());

    let known = Peers::load(&peers_of("a")).unwrap();
    let other = Pair::new();
    let peer = known.by_name("b").next().unwrap().clone();
    let mut forged = Peers::default();
    let pin = card(&other.path("b")).unwrap().pin;
    forged.add(Peer { pin, ..peer }).unwrap();
    forged.save(&peers_of("a")).unwrap();
    let (kind, said) = refused(&pair);
    assert_eq!(kind, FailureKind::Refused, "{said}");
    Peers::default().save(&peers_of("a")).unwrap();
    let (kind, said) = refused(&pair);
    assert_eq!(kind, FailureKind::Refused, "{said}");
    assert!(said.contains("outlast pin trust"), "{said}");
    known.save(&peers_of("a")).unwrap();
    assert_whole(
        &repair_offline(&pair.path("a"), &from_peer(false)).unwrap(),
        3,
    );
}

#[test]
fn a_peer_of_another_cluster_gives_nothing() {
    let pair = damaged();
    let other = Pair::new();
    let port = other.address("b").port();
    trust(&pair.path("a"), &card(&other.path("b")).unwrap(), port);
    trust(
        &other.path("b"),
        &card(&pair.path("a")).unwrap(),
        pair.address("a").port(),
    );
    let b = other.start("b");
    let (kind, said) = refused(&pair);
    assert_eq!(kind, FailureKind::Refused, "{said}");
    assert!(said.contains("different clusters"), "{said}");
    assert_eq!(b.status().role, Role::Standby);
}

#[test]
fn a_fork_gives_nothing_of_its_own_and_says_so() {
    let (pair, a, b) = Pair::met();
    load(&a, "shared", Level::Applied);
    let shared = sealed(&pair.path("a")).len();
    b.stop().unwrap();
    load(&a, "lost", Level::Local);
    a.stop().unwrap();
    let b = pair.start("b");
    until_promotable(&b);
    assert_eq!(b.promote(&options()).unwrap().outcome, Outcome::Promoted);
    load(&b, "other", Level::Local);

    let dir = pair.path("a");
    let forked = u32::try_from(shared).unwrap() + 2;
    flip(&segment(&dir, forked), 70_000);
    let before = all(&dir);
    let repair = repair_offline(&dir, &from_peer(false)).unwrap();
    assert_eq!(all(&dir), before);
    assert!(repair.report.repaired.is_empty());
    assert_eq!(repair.report.left.len(), 1);
    let [lack] = &repair.report.lacks[..] else {
        panic!("{:?}", repair.report)
    };
    assert_eq!(lack.kind, LackKind::OtherHistory);
    assert!(lack.what.contains("backup"), "{lack}");
    // What both have in common is still mended.
    flip(&segment(&dir, 1), 5_000);
    let repair = repair_offline(&dir, &from_peer(false)).unwrap();
    assert_eq!(repair.report.repaired.len(), 1, "{:?}", repair.report);
    assert_eq!(sealed(&dir)[&1], sealed(&pair.path("b"))[&1]);
    // No term was told to either side.
    assert_eq!(b.status().role, Role::Primary);
    assert!(
        all(&dir)
            .keys()
            .any(|path| path.ends_with("aside/damaged-1-000000000001.seg"))
    );
}
