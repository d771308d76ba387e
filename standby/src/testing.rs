//! A pair in one process, for the tests of a service that embeds one.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use outlast_shipper::{Peer, Peers};

use crate::config::{NodeConfig, Policy};
use crate::control::protocol::FailureKind;
use crate::dir::NodeDir;
use crate::error::{Error, Result};
use crate::init::{Card, NewNode, init};
use crate::node::Node;

/// Two nodes below one directory that trust each other and meet on loopback: the first one begins
/// as the primary, under the policy `async`. They notice within half a second that the other is
/// gone.
///
/// ```
/// use std::time::Duration;
///
/// use outlast_standby::certificate::{AcceptedLoss, PromoteOptions};
/// use outlast_standby::engine::{Batch, CommitOptions, Level};
/// use outlast_standby::testing::LoopbackPair;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let root = tempfile::tempdir()?;
/// let pair = LoopbackPair::make(root.path())?;
/// let (primary, standby) = (pair.start_primary()?, pair.start_standby()?);
///
/// let keyspace = primary.store().keyspace("default")?;
/// let mut batch = Batch::new();
/// batch.put(&keyspace, "key", "value")?;
/// let deadline = Some(Duration::from_secs(30));
/// primary.store().commit(batch, CommitOptions { level: Level::Applied, deadline })?;
///
/// primary.stop()?;
/// standby.promote(&PromoteOptions {
///     primary_is_down: true,
///     primary_is_sick: true, // it was closed, however lately it answered
///     accept_loss: Some(AcceptedLoss::Unbounded),
///     reason: "a test".to_owned(),
///     ..PromoteOptions::default()
/// })?;
/// let store = standby.writable_store().ok_or("not promoted")?;
/// let keyspace = store.keyspace("default")?;
/// assert_eq!(store.get(&keyspace, "key")?.as_deref(), Some(&b"value"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct LoopbackPair {
    root: PathBuf,
}

impl LoopbackPair {
    /// Makes both nodes in `root`, in `first` and `second`.
    ///
    /// # Errors
    /// When there are nodes already, or the files cannot be made.
    pub fn make(root: &Path) -> Result<Self> {
        let pair = Self {
            root: root.to_owned(),
        };
        let (here, there) = (free_address()?, free_address()?);
        let node = |name: &str, peer: &str, listen| NewNode {
            name: name.to_owned(),
            cluster: None,
            standby: false,
            peer: Some(peer.to_owned()),
            policy: Some(Policy::Async),
            listen,
            segment_size: 1 << 20,
        };
        let first = init(&pair.primary_dir(), &node("first", "second", here))?;
        let standby = NewNode {
            cluster: Some(first.cluster),
            standby: true,
            ..node("second", "first", there)
        };
        let second = init(&pair.standby_dir(), &standby)?;
        join(&pair.primary_dir(), &second, there)?;
        join(&pair.standby_dir(), &first, here)?;
        Ok(pair)
    }

    /// Where the node is that begins as the primary.
    #[must_use]
    pub fn primary_dir(&self) -> PathBuf {
        self.root.join("first")
    }

    /// Where the node is that begins as the standby.
    #[must_use]
    pub fn standby_dir(&self) -> PathBuf {
        self.root.join("second")
    }

    /// Starts the node that began as the primary, as what it last was.
    ///
    /// # Errors
    /// Those of [`Node::start`].
    pub fn start_primary(&self) -> Result<Node> {
        Node::start(&self.primary_dir())
    }

    /// Starts the node that began as the standby, as what it last was.
    ///
    /// # Errors
    /// Those of [`Node::start`].
    pub fn start_standby(&self) -> Result<Node> {
        Node::start(&self.standby_dir())
    }
}

/// Lets a node trust its peer, and notice quickly that it is gone.
fn join(dir: &Path, peer: &Card, address: SocketAddr) -> Result<()> {
    let failed = |what: String| Error::new(FailureKind::Failed, what);
    let mut peers = Peers::default();
    let peer = Peer {
        name: peer.name.clone(),
        node: peer.node,
        pin: peer.pin,
        address: Some(address),
    };
    peers.add(peer).map_err(|error| failed(error.to_string()))?;
    let dir = NodeDir::new(dir);
    let saved = peers.save(&dir.peers());
    saved.map_err(|error| failed(error.to_string()))?;
    let mut config = NodeConfig::load(&dir)?;
    config.tuning.heartbeat_interval = Duration::from_millis(50);
    config.tuning.silence_max = Duration::from_millis(500);
    let text = config.to_text()?;
    std::fs::write(dir.config(), text).map_err(|error| {
        failed(format!("could not write {}", dir.config().display())).because(error)
    })
}

fn free_address() -> Result<SocketAddr> {
    let bound = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    bound.map_err(|error| Error::new(FailureKind::Failed, "no port is free").because(error))
}
