//! Two nodes in one process, over real QUIC on loopback.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use outlast_shipper::{Peer, Peers};
use outlast_standby::certificate::{AcceptedLoss, Outcome, PromoteOptions};
use outlast_standby::config::Policy;
use outlast_standby::engine::{Batch, CommitError, CommitOptions, ErrorKind, Level, ReceiptStatus};
use outlast_standby::status::Role;
use outlast_standby::{Card, NewNode, Node, NodeDir, init};

struct Pair {
    dir: tempfile::TempDir,
}

impl Pair {
    /// Makes both nodes and lets each trust the other.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (free_port(), free_port());
        let new = |name: &str, peer: &str, port, standby, cluster| NewNode {
            name: name.into(),
            cluster,
            standby,
            peer: Some(peer.into()),
            policy: Some(Policy::Async),
            listen: format!("127.0.0.1:{port}").parse().unwrap(),
            segment_size: 256 << 10,
        };
        let first = init(&dir.path().join("a"), &new("a", "b", a, false, None)).unwrap();
        let second = new("b", "a", b, true, Some(first.cluster));
        let second = init(&dir.path().join("b"), &second).unwrap();
        trust(&dir.path().join("a"), &second, b);
        trust(&dir.path().join("b"), &first, a);
        let pair = Self { dir };
        pair.quicken("a");
        pair.quicken("b");
        pair
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Shortens the times that a test would wait.
    fn quicken(&self, name: &str) {
        let path = NodeDir::new(self.path(name)).config();
        let mut text = std::fs::read_to_string(&path).unwrap();
        text = text.replace(
            "heartbeat_interval = \"1s\"",
            "heartbeat_interval = \"50ms\"",
        );
        text = text.replace("silence_max = \"3s\"", "silence_max = \"500ms\"");
        std::fs::write(&path, text).unwrap();
    }

    fn start(&self, name: &str) -> Node {
        Node::start(&self.path(name)).unwrap()
    }
}

fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn trust(dir: &Path, card: &Card, port: u16) {
    let path = NodeDir::new(dir).peers();
    let mut peers = Peers::default();
    let peer = Peer {
        name: card.name.clone(),
        node: card.node,
        pin: card.pin,
        address: Some(format!("127.0.0.1:{port}").parse().unwrap()),
    };
    peers.add(peer).unwrap();
    peers.save(&path).unwrap();
}

fn put(
    node: &Node,
    key: &str,
    level: Level,
) -> Result<outlast_standby::engine::Receipt, CommitError> {
    let keyspace = node
        .store()
        .keyspace("default")
        .map_err(CommitError::Failed)?;
    let mut batch = Batch::new();
    batch.put(&keyspace, key, "value").unwrap();
    let deadline = Some(Duration::from_secs(20));
    node.store()
        .commit(batch, CommitOptions { level, deadline })
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

fn keys(node: &Node) -> Vec<String> {
    let keyspace = node.store().find_keyspace("default").unwrap();
    let entries = node.store().snapshot();
    let keys = entries.iter(&keyspace).map(|entry| entry.unwrap().0);
    keys.map(|key| String::from_utf8(key.to_vec()).unwrap())
        .collect()
}

fn options() -> PromoteOptions {
    PromoteOptions {
        accept_loss: Some(AcceptedLoss::Unbounded),
        reason: "the building burns".into(),
        ..PromoteOptions::default()
    }
}

#[test]
fn commits_reach_the_standby_and_its_readers() {
    let pair = Pair::new();
    let (a, b) = (pair.start("a"), pair.start("b"));
    for n in 0..50 {
        let level = [Level::Local, Level::Replicated, Level::Applied][n % 3];
        put(&a, &format!("key-{n:03}"), level).unwrap();
    }
    let last = put(&a, "last", Level::Applied).unwrap();
    assert!(b.store().positions().visible.lsn >= last.lsn);
    b.store()
        .wait_applied(&last, Duration::from_secs(1))
        .unwrap();
    assert_eq!(keys(&b), keys(&a));
    assert_eq!(keys(&b).len(), 51);
    assert_eq!(
        b.store().receipt_status(&last),
        ReceiptStatus::InThisHistory
    );
    let status = b.status();
    assert_eq!(status.role, Role::Standby);
    assert!(status.peer.unwrap().connected);
    let refused = put(&b, "x", Level::Local).unwrap_err();
    assert!(matches!(refused, CommitError::Failed(e) if e.kind() == ErrorKind::NotWriter));
}

#[test]
fn a_standby_that_was_away_catches_up_and_a_running_primary_does_not_wait_for_it() {
    let pair = Pair::new();
    let (a, b) = (pair.start("a"), pair.start("b"));
    put(&a, "first", Level::Applied).unwrap();
    b.stop().unwrap();
    for n in 0..2000 {
        put(&a, &format!("key-{n:05}"), Level::Local).unwrap();
    }
    let b = pair.start("b");
    let last = put(&a, "last", Level::Applied).unwrap();
    assert!(b.store().positions().visible.lsn >= last.lsn);
    assert_eq!(keys(&b), keys(&a));
}

#[test]
fn a_restarted_primary_waits_for_its_standby_and_goes_on() {
    let pair = Pair::new();
    let (a, b) = (pair.start("a"), pair.start("b"));
    put(&a, "one", Level::Applied).unwrap();
    a.stop().unwrap();
    b.stop().unwrap();
    let a = pair.start("a");
    assert_eq!(a.status().role, Role::WaitingForPeer);
    assert!(matches!(
        put(&a, "two", Level::Local),
        Err(CommitError::Failed(_))
    ));
    let b = pair.start("b");
    until("the primary writes again", || {
        a.status().role == Role::Primary
    });
    put(&a, "two", Level::Applied).unwrap();
    assert_eq!(keys(&b), ["one", "two"]);
    assert_eq!(a.store().history().epochs().len(), 2);
}

#[test]
fn a_promoted_standby_takes_writes_and_the_old_primary_fences_itself() {
    let pair = Pair::new();
    let (a, b) = (pair.start("a"), pair.start("b"));
    put(&a, "replicated", Level::Replicated).unwrap();
    let refused = b.promote(&options()).unwrap();
    assert!(
        matches!(refused.outcome, Outcome::Refused { .. }),
        "{refused:?}"
    );
    put(&a, "still", Level::Replicated).unwrap();
    a.stop().unwrap();
    until("silence", || {
        let options = PromoteOptions {
            dry_run: true,
            ..options()
        };
        b.promote(&options).unwrap().outcome == Outcome::WouldPromote
    });
    let certificate = b.promote(&options()).unwrap();
    assert_eq!(certificate.outcome, Outcome::Promoted);
    assert_eq!(
        certificate.measured_loss.known().map(|loss| loss.commits),
        Some(0)
    );
    assert_eq!(certificate.epoch.as_ref().unwrap().term, 2);
    assert_eq!(
        b.promote(&options()).unwrap().outcome,
        Outcome::AlreadyPrimary
    );
    assert_eq!(keys(&b), ["replicated", "still"]);
    put(&b, "new", Level::Local).unwrap();
    // The old primary comes back, and meets the newer term.
    let a = pair.start("a");
    until("the fence", || a.status().role == Role::Fenced { term: 2 });
    assert!(matches!(
        put(&a, "old", Level::Local),
        Err(CommitError::Failed(_))
    ));
    assert_eq!(keys(&a), ["replicated", "still"]);
    drop(a);
    let a = pair.start("a");
    assert_eq!(a.status().role, Role::Fenced { term: 2 });
}

#[test]
fn resuming_alone_leaves_the_standbys_tail_to_be_put_aside() {
    let pair = Pair::new();
    let (a, b) = (pair.start("a"), pair.start("b"));
    put(&a, "one", Level::Applied).unwrap();
    a.stop().unwrap();
    b.stop().unwrap();
    let a = pair.start("a");
    assert!(a.resume_alone(" ").is_err());
    a.resume_alone("the standby's building burns").unwrap();
    assert_eq!(a.status().role, Role::Primary);
    put(&a, "two", Level::Local).unwrap();
    let b = pair.start("b");
    put(&a, "three", Level::Applied).unwrap();
    assert_eq!(keys(&b), ["one", "three", "two"]);
}

#[test]
fn a_peer_that_is_no_longer_trusted_is_cut_off_while_the_node_runs() {
    let pair = Pair::new();
    let (a, b) = (pair.start("a"), pair.start("b"));
    put(&a, "one", Level::Applied).unwrap();
    let path = NodeDir::new(pair.path("b")).peers();
    let trusted = Peers::load(&path).unwrap();
    Peers::default().save(&path).unwrap();
    until("the session ends", || {
        !a.status().peer.unwrap().connected && b.status().peer.is_none()
    });
    put(&a, "two", Level::Local).unwrap();
    assert_eq!(keys(&b), ["one"]);
    trusted.save(&path).unwrap();
    put(&a, "three", Level::Applied).unwrap();
    assert_eq!(keys(&b), ["one", "three", "two"]);
}
