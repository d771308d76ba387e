//! Nodes to make links between.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use outlast_engine::format::NodeId;
use outlast_shipper::{
    Endpoint, Identity, Link, LinkConfig, LinkError, NetHandle, NetThread, Peer, Peers, Pin,
    Refused,
};
use parking_lot::Mutex;

/// How long a test waits for what must happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Runs a test on a network thread. A panic in any of its tasks fails it.
pub(crate) fn run<F: Future<Output = ()> + Send + 'static>(test: impl FnOnce(NetHandle) -> F) {
    let panics = Arc::new(Mutex::new(Vec::new()));
    let net = {
        let panics = panics.clone();
        NetThread::start("net-test", move |panic| panics.lock().push(panic)).unwrap()
    };
    let done = net.handle().wait("test", within(test(net.handle())));
    drop(net);
    assert!(panics.lock().is_empty(), "{:?}", panics.lock());
    assert!(done.is_some(), "the test did not come to its end");
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("nothing happened for {DEADLINE:?}"),
    }
}

/// Settings that let a test see the end of a timeout.
pub(crate) fn quick() -> LinkConfig {
    LinkConfig {
        idle_timeout_ms: 600,
        keep_alive_ms: 200,
        handshake_timeout_ms: 1_000,
        ..LinkConfig::default()
    }
}

pub(crate) fn anywhere() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

pub(crate) fn peer(name: &str, node: NodeId, pin: Pin) -> Peer {
    Peer {
        name: name.to_owned(),
        node,
        pin,
        address: None,
    }
}

pub(crate) fn peers<const N: usize>(entries: [Peer; N]) -> Peers {
    let mut peers = Peers::default();
    for peer in entries {
        peers.add(peer).unwrap();
    }
    peers
}

/// A node: its key, its id and its endpoint.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) id: NodeId,
    pub(crate) pin: Pin,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) address: SocketAddr,
}

impl Node {
    /// A node that trusts nobody yet.
    pub(crate) async fn start(net: &NetHandle, name: &str, config: &LinkConfig) -> Self {
        let identity = Identity::ephemeral().unwrap();
        let pin = identity.pin();
        let started =
            Endpoint::start(net, anywhere(), identity, Peers::default(), config.clone()).await;
        let endpoint = started.unwrap();
        Self {
            name: name.to_owned(),
            id: NodeId::random(),
            pin,
            address: endpoint.local_address().unwrap(),
            endpoint: Arc::new(endpoint),
        }
    }

    /// Two nodes that trust each other.
    pub(crate) async fn pair(net: &NetHandle, config: &LinkConfig) -> (Self, Self) {
        let left = Self::start(net, "left", config).await;
        let right = Self::start(net, "right", config).await;
        left.trust([right.as_peer()]);
        right.trust([left.as_peer()]);
        (left, right)
    }

    pub(crate) fn as_peer(&self) -> Peer {
        peer(&self.name, self.id, self.pin)
    }

    pub(crate) fn trust<const N: usize>(&self, entries: [Peer; N]) {
        self.endpoint.set_peers(peers(entries)).unwrap();
    }

    pub(crate) async fn dial(&self, other: &Self) -> Result<Link, LinkError> {
        self.endpoint.dial(other.address, other.id).await
    }

    /// The next link that comes in; fails the test on a refusal.
    pub(crate) async fn accept(&self) -> Link {
        within(self.endpoint.accept()).await.unwrap().unwrap()
    }

    /// The next attempt that is refused; fails the test on a link.
    pub(crate) async fn refusal(&self) -> LinkError {
        let refused: Refused = within(self.endpoint.accept()).await.unwrap().unwrap_err();
        refused.error
    }
}

/// Makes a link from `left`, which dials, to `right`.
pub(crate) async fn link(left: &Node, right: &Node) -> (Link, Link) {
    let (dialled, accepted) = tokio::join!(left.dial(right), right.accept());
    (dialled.unwrap(), accepted)
}

/// A pair of nodes and a link between them.
pub(crate) async fn linked(net: &NetHandle, config: &LinkConfig) -> (Node, Node, Link, Link) {
    let (left, right) = Node::pair(net, config).await;
    let (left_link, right_link) = link(&left, &right).await;
    (left, right, left_link, right_link)
}
