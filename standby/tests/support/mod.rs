//! What the tests of a pair share: two nodes in one process that trust each other, over real QUIC
//! on loopback.

// Each test includes this module by its path and uses a part of it.
#![allow(dead_code)]

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use outlast_shipper::{Peer, Peers};
use outlast_standby::certificate::{AcceptedLoss, Outcome, PromoteOptions};
use outlast_standby::config::{NodeConfig, Policy};
use outlast_standby::engine::{Batch, CommitError, CommitOptions, Level, Receipt};
use outlast_standby::{Card, NewNode, Node, NodeDir, init};

pub(crate) struct Pair {
    dir: tempfile::TempDir,
}

impl Pair {
    /// Makes both nodes and lets each trust the other.
    pub(crate) fn new() -> Self {
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
        pair.tune(
            "heartbeat_interval = \"1s\"",
            "heartbeat_interval = \"50ms\"",
        );
        pair.tune("silence_max = \"3s\"", "silence_max = \"500ms\"");
        pair
    }

    /// Two nodes that bear a longer silence, in which the machine may do other things.
    pub(crate) fn patient() -> Self {
        let pair = Self::new();
        pair.tune("silence_max = \"500ms\"", "silence_max = \"3s\"");
        pair
    }

    /// Where a node listens.
    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        let config = NodeConfig::load(&NodeDir::new(self.path(name))).unwrap();
        config.listen
    }

    /// Lets a node dial its peer at another address.
    pub(crate) fn dial(&self, name: &str, peer: &str, address: SocketAddr) {
        let path = NodeDir::new(self.path(name)).peers();
        let trusted = Peers::load(&path).unwrap();
        let peer = trusted.by_name(peer).next().unwrap().clone();
        let address = Some(address);
        let mut peers = Peers::default();
        peers.add(Peer { address, ..peer }).unwrap();
        peers.save(&path).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Changes a setting of both nodes.
    pub(crate) fn tune(&self, setting: &str, to: &str) {
        for name in ["a", "b"] {
            let path = NodeDir::new(self.path(name)).config();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains(setting), "{setting} is not in {text}");
            std::fs::write(&path, text.replace(setting, to)).unwrap();
        }
    }

    pub(crate) fn start(&self, name: &str) -> Node {
        Node::start(&self.path(name)).unwrap()
    }

    /// A pair that runs and has met: the primary and its standby.
    pub(crate) fn met() -> (Self, Node, Node) {
        let pair = Self::new();
        let (a, b) = (pair.start("a"), pair.start("b"));
        put(&a, "one", Level::Applied).unwrap();
        (pair, a, b)
    }
}

pub(crate) fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

pub(crate) fn trust(dir: &Path, card: &Card, port: u16) {
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

pub(crate) fn put(node: &Node, key: &str, level: Level) -> Result<Receipt, CommitError> {
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

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

pub(crate) fn keys(node: &Node) -> Vec<String> {
    let keyspace = node.store().find_keyspace("default").unwrap();
    let entries = node.store().snapshot();
    let keys = entries.iter(&keyspace).map(|entry| entry.unwrap().0);
    keys.map(|key| String::from_utf8(key.to_vec()).unwrap())
        .collect()
}

pub(crate) fn options() -> PromoteOptions {
    PromoteOptions {
        accept_loss: Some(AcceptedLoss::Unbounded),
        reason: "the building burns".into(),
        ..PromoteOptions::default()
    }
}

/// Waits until nothing speaks against the promotion of a node but that it was not asked for.
pub(crate) fn until_promotable(node: &Node) {
    let dry_run = PromoteOptions {
        dry_run: true,
        ..options()
    };
    until("silence", || {
        node.promote(&dry_run).unwrap().outcome == Outcome::WouldPromote
    });
}
