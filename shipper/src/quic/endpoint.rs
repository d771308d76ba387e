//! One UDP socket that both dials and listens, and everybody who may come in through it.

use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use outlast_engine::format::NodeId;
use parking_lot::{Mutex, RwLock};
use quinn::{Connection, ConnectionError, TransportConfig, VarInt};
use rustls_pki_types::CertificateDer;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::control::{MessageReader, MessageSender};
use super::failure;
use super::link::{self, Link};
use super::runtime::SupervisedRuntime;
use super::shield::Shield;
use super::socket::{self, SocketBuffers};
use super::tls::{self, Judge, Trust};
use super::transport;
use crate::config::LinkConfig;
use crate::error::{CloseCode, LinkError, Refusal};
use crate::identity::Identity;
use crate::message::{KIND_OPEN, Message};
use crate::net::NetHandle;
use crate::peers::{Peer, Peers};
use crate::pin::Pin;

/// What is put where TLS wants a name of the server. It is not sent, and nobody looks at it.
const SERVER_NAME: &str = "outlast";

/// Links and refusals that wait to be taken by [`Endpoint::accept`].
const ARRIVALS_MAX: usize = 16;

/// How long the last packets of closed links may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// An attempt of somebody to make a link, which came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused {from}: {error}")]
pub struct Refused {
    /// From where.
    pub from: SocketAddr,
    /// Why.
    pub error: LinkError,
}

/// A node's place in the network: it dials peers and, while it listens, is dialled by them.
///
/// All of it runs on the thread of the [`NetHandle`] that it was started with. Dropping it closes
/// all its links.
pub struct Endpoint {
    core: Arc<Core>,
    arrivals: tokio::sync::Mutex<mpsc::Receiver<Result<Link, Refused>>>,
    buffers: SocketBuffers,
}

impl Endpoint {
    /// Binds `address` and begins to listen.
    ///
    /// # Errors
    /// When a setting is out of its limits, the list of peers holds this node's own key, or the
    /// address cannot be bound.
    pub async fn start(
        net: &NetHandle,
        address: SocketAddr,
        identity: Identity,
        peers: Peers,
        config: LinkConfig,
    ) -> Result<Self, LinkError> {
        let transport = transport::transport(&config);
        Self::start_with(net, address, identity, peers, config, transport).await
    }

    async fn start_with(
        net: &NetHandle,
        address: SocketAddr,
        identity: Identity,
        peers: Peers,
        config: LinkConfig,
        transport: TransportConfig,
    ) -> Result<Self, LinkError> {
        config.validate().map_err(transport::unusable)?;
        refuse_own_key(&identity, &peers)?;
        let transport = Arc::new(transport);
        let trust = Arc::new(Trust::new(peers));
        let tls = tls::server(&identity, Judge::new(trust.clone(), None));
        let server = transport::server(
            &config,
            transport.clone(),
            tls.map_err(transport::unusable)?,
        )?;
        let (socket, buffers) = socket::bind(address, &config).map_err(|error| {
            transport::unusable(format_args!("could not bind UDP {address}: {error}"))
        })?;
        let endpoint_config = transport::endpoint(&config)?;
        let listening = server.clone();
        let runtime = SupervisedRuntime {
            net: net.clone(),
            mtu_bytes: config.mtu_upper_bound_bytes,
        };
        // quinn registers the socket with the runtime of the thread that it is made on.
        let made = net.run("endpoint", async move {
            quinn::Endpoint::new(endpoint_config, Some(listening), socket, Arc::new(runtime))
        });
        let quic = made
            .await
            .ok_or_else(|| transport::unusable("the network's thread has ended"))?
            .map_err(transport::unusable)?;

        let (arrive, arrivals) = mpsc::channel(ARRIVALS_MAX);
        let core = Arc::new(Core {
            net: net.clone(),
            quic: Shield::new(quic),
            identity: RwLock::new(identity),
            trust,
            transport,
            server,
            handshakes: Arc::new(Semaphore::new(config.handshakes_max as usize)),
            config,
            links: Mutex::default(),
            listening: AtomicBool::new(true),
        });
        net.spawn("accept", core.clone().take_in_all(arrive));
        Ok(Self {
            core,
            arrivals: tokio::sync::Mutex::new(arrivals),
            buffers,
        })
    }

    /// The address that was bound, with the port that the system chose if none was given.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_address(&self) -> Result<SocketAddr, LinkError> {
        self.core
            .touch(quinn::Endpoint::local_addr)?
            .map_err(transport::unusable)
    }

    /// What the system granted of the socket buffers.
    #[must_use]
    pub const fn socket_buffers(&self) -> SocketBuffers {
        self.buffers
    }

    /// Makes a link with the node `expected` at `address`. It stands when both sides have let each
    /// other in. May be dropped at any time; nothing comes of it then.
    ///
    /// # Errors
    /// When nobody answers, somebody else does, or one side does not let the other in.
    pub async fn dial(&self, address: SocketAddr, expected: NodeId) -> Result<Link, LinkError> {
        let core = &self.core;
        let limit = core.config.handshake_timeout();
        match timeout(limit, core.dial(address, expected)).await {
            Ok(Err(LinkError::Silent { .. })) | Err(_) => Err(core.no_answer(address)),
            Ok(result) => result,
        }
    }

    /// The next link that a peer made, or the next attempt that was refused and was logged as such;
    /// none once the endpoint is closed. Of very many refusals at a time not all are told. May be
    /// dropped at any time without losing anything.
    pub async fn accept(&self) -> Option<Result<Link, Refused>> {
        self.arrivals.lock().await.recv().await
    }

    /// Whether peers can make links. Those that stand are not touched. To somebody who tries, a
    /// node that does not listen is as good as not there.
    pub fn set_listening(&self, listening: bool) {
        let server = listening.then(|| self.core.server.clone());
        self.core.listening.store(listening, Ordering::Relaxed);
        // After a panic there is nothing left to listen.
        let _ = self.core.touch(|quic| quic.set_server_config(server));
    }

    /// Whether peers can make links.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.core.listening.load(Ordering::Relaxed)
    }

    /// The peers that are trusted at this moment.
    #[must_use]
    pub fn peers(&self) -> Arc<Peers> {
        self.core.trust.peers()
    }

    /// Trusts these peers from now on, and closes the links of keys that are not among them.
    ///
    /// # Errors
    /// When this node's own key is among them; nothing is changed then.
    pub fn set_peers(&self, peers: Peers) -> Result<(), LinkError> {
        refuse_own_key(&self.core.identity.read(), &peers)?;
        self.core.trust.replace(peers);
        self.core.close_untrusted();
        Ok(())
    }

    /// Shows another key from now on. Links that stand are not touched.
    ///
    /// # Errors
    /// When the key is among those of trusted peers; nothing is changed then.
    pub fn set_identity(&self, identity: Identity) -> Result<(), LinkError> {
        refuse_own_key(&identity, &self.core.trust.peers())?;
        *self.core.identity.write() = identity;
        Ok(())
    }

    /// Number of links that stand.
    #[must_use]
    pub fn links(&self) -> usize {
        let mut links = self.core.links.lock();
        links.retain(|link| link.shared().is_some());
        links.len()
    }

    /// Closes all links and the endpoint, and waits for a moment for the peers to hear of it.
    pub async fn close(&self, code: CloseCode, reason: &str) {
        let links: Vec<_> = self.core.links.lock().drain(..).collect();
        for shared in links.iter().filter_map(Live::shared) {
            shared.close(code, reason);
        }
        self.core.close(code, reason);
        let _ = timeout(CLOSE_TIMEOUT, self.core.quic.wait_idle()).await;
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.core
            .close(CloseCode::STOPPING, "the endpoint was let go");
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("listening", &self.is_listening())
            .finish_non_exhaustive()
    }
}

fn refuse_own_key(identity: &Identity, peers: &Peers) -> Result<(), LinkError> {
    match peers.by_pin(&identity.pin()) {
        None => Ok(()),
        Some(peer) => Err(transport::unusable(format_args!(
            "the key of peer {} is this node's own: a node does not follow itself",
            peer.name
        ))),
    }
}

/// What the endpoint and its tasks have in common.
struct Core {
    net: NetHandle,
    quic: Shield<quinn::Endpoint>,
    identity: RwLock<Identity>,
    trust: Arc<Trust>,
    transport: Arc<TransportConfig>,
    server: quinn::ServerConfig,
    handshakes: Arc<Semaphore>,
    config: LinkConfig,
    links: Mutex<Vec<Live>>,
    listening: AtomicBool,
}

/// A link that stands, as far as the endpoint must know it.
struct Live {
    node: NodeId,
    pin: Pin,
    shared: Weak<link::Shared>,
}

impl Live {
    fn shared(&self) -> Option<Arc<link::Shared>> {
        self.shared.upgrade().filter(|shared| !shared.is_closed())
    }
}

impl Core {
    /// Does something to quinn's endpoint, from any thread, that must not panic even if one of
    /// quinn's own tasks did.
    fn touch<T>(&self, what: impl FnOnce(&quinn::Endpoint) -> T) -> Result<T, LinkError> {
        let touched = catch_unwind(AssertUnwindSafe(|| what(&self.quic)));
        touched.map_err(|_| transport::unusable("a task of it panicked: start it again"))
    }

    fn close(&self, code: CloseCode, reason: &str) {
        // After a panic there is nothing left to close.
        let _ = self.touch(|quic| quic.close(VarInt::from_u32(code.0), reason.as_bytes()));
    }

    async fn dial(&self, address: SocketAddr, expected: NodeId) -> Result<Link, LinkError> {
        let judge = Judge::new(self.trust.clone(), Some(expected));
        let tls = tls::client(&self.identity.read(), judge.clone());
        let client = transport::client(self.transport.clone(), tls.map_err(transport::unusable)?)?;
        let connecting = self.touch(|quic| quic.connect_with(client, address, SERVER_NAME))?;
        let connected = connecting.map_err(transport::unusable)?.await;
        let connection = connected.map_err(|error| self.handshake_failure(error, &judge))?;
        let shared = self.admit(connection, &judge)?;

        let opened = shared.connection.open_bi().await;
        let (send, recv) = opened.map_err(|error| shared.failure(error))?;
        self.open(shared, send, recv).await
    }

    /// Sees to it that both sides have let each other in: in TLS 1.3 the side that dialled is done
    /// before the other has looked at its key.
    async fn open(
        &self,
        shared: Arc<link::Shared>,
        send: quinn::SendStream,
        recv: quinn::RecvStream,
    ) -> Result<Link, LinkError> {
        let mut messages_out = MessageSender::new(shared.clone(), send);
        let mut messages_in = MessageReader::new(shared.clone(), recv);
        let open = Message {
            kind: KIND_OPEN,
            body: bytes::Bytes::new(),
        };
        messages_out.send(&open).await?;
        match messages_in.next().await? {
            Some(message) if message.kind == KIND_OPEN => {}
            _ => return Err(shared.fail(LinkError::MessagesCut)),
        }
        Ok(Link::new(shared, messages_out, messages_in, &self.config))
    }

    /// Lets a peer in whose handshake is done, if it is still trusted.
    fn admit(&self, connection: Connection, judge: &Judge) -> Result<Arc<link::Shared>, LinkError> {
        let certificates = connection
            .peer_identity()
            .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
            .unwrap_or_default();
        // Under the lock, so that a key that is removed meanwhile is found in one place or the
        // other.
        let mut links = self.links.lock();
        let peer: Peer = match judge.peer(&certificates) {
            Ok(peer) => peer,
            Err(refusal) => {
                let code = VarInt::from_u32(CloseCode::UNTRUSTED.0);
                connection.close(code, b"the key is not trusted");
                return Err(LinkError::Refused(refusal));
            }
        };
        links.retain(|link| link.shared().is_some());
        let same: Vec<_> = links.iter().filter(|link| link.node == peer.node).collect();
        let over = (same.len() + 1).saturating_sub(self.config.links_per_peer_max as usize);
        for oldest in same.iter().take(over).filter_map(|link| link.shared()) {
            oldest.close(CloseCode::REPLACED, "the peer made a newer link");
        }
        let (node, pin) = (peer.node, peer.pin);
        let shared = Arc::new(link::Shared::new(connection, peer, &self.config));
        links.push(Live {
            node,
            pin,
            shared: Arc::downgrade(&shared),
        });
        Ok(shared)
    }

    fn close_untrusted(&self) {
        let links = self.links.lock();
        let peers = self.trust.peers();
        for link in links.iter() {
            let trusted = peers
                .by_pin(&link.pin)
                .is_some_and(|peer| peer.node == link.node);
            if !trusted && let Some(shared) = link.shared() {
                shared.close(CloseCode::UNTRUSTED, "the key is trusted no longer");
            }
        }
    }

    async fn take_in_all(self: Arc<Self>, arrive: mpsc::Sender<Result<Link, Refused>>) {
        while let Some(incoming) = self.quic.accept().await {
            let from = incoming.remote_address();
            let allowed = &self.config.allowed_sources;
            if !allowed.is_empty() && !allowed.contains(&from.ip().to_canonical()) {
                incoming.ignore();
                let refusal = Refusal::Source { address: from };
                refused(&arrive, from, LinkError::Refused(refusal));
                continue;
            }
            if !incoming.remote_address_validated() {
                // A token, which costs nothing to keep, goes to where the packet says that it came
                // from.
                if let Err(error) = incoming.retry() {
                    error.into_incoming().ignore();
                }
                continue;
            }
            let Ok(permit) = self.handshakes.clone().try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            let (core, arrive) = (self.clone(), arrive.clone());
            self.net.spawn("handshake", async move {
                core.take_in(incoming, from, arrive).await;
                drop(permit);
            });
        }
    }

    async fn take_in(
        &self,
        incoming: quinn::Incoming,
        from: SocketAddr,
        arrive: mpsc::Sender<Result<Link, Refused>>,
    ) {
        let limit = self.config.handshake_timeout();
        let error = match timeout(limit, self.let_in(incoming)).await {
            Ok(Ok(link)) => match arrive.try_send(Ok(link)) {
                Ok(()) => return,
                Err(error) => {
                    if let Ok(link) = error.into_inner() {
                        link.handle
                            .close(CloseCode::BUSY, "nobody takes links here");
                    }
                    LinkError::ClosedHere {
                        code: CloseCode::BUSY,
                        reason: "nobody takes links here".to_owned(),
                    }
                }
            },
            Ok(Err(LinkError::Silent { .. })) | Err(_) => self.no_answer(from),
            Ok(Err(error)) => error,
        };
        refused(&arrive, from, error);
    }

    async fn let_in(&self, incoming: quinn::Incoming) -> Result<Link, LinkError> {
        let judge = Judge::new(self.trust.clone(), None);
        let tls = tls::server(&self.identity.read(), judge.clone());
        let mut server = self.server.clone();
        server.crypto = transport::server_crypto(tls.map_err(transport::unusable)?)?;
        let failure = |error| self.handshake_failure(error, &judge);
        let connecting = incoming.accept_with(Arc::new(server)).map_err(failure)?;
        let connection = connecting.await.map_err(failure)?;
        let shared = self.admit(connection, &judge)?;

        let accepted = shared.connection.accept_bi().await;
        let (send, recv) = accepted.map_err(|error| shared.failure(error))?;
        self.open(shared, send, recv).await
    }

    fn handshake_failure(&self, error: ConnectionError, judge: &Judge) -> LinkError {
        match judge.refusal() {
            Some(refusal) => LinkError::Refused(refusal),
            None => failure::of_connection(error, self.config.idle_timeout_ms),
        }
    }

    fn no_answer(&self, address: SocketAddr) -> LinkError {
        LinkError::NoAnswer {
            address,
            waited_ms: self
                .config
                .idle_timeout_ms
                .min(self.config.handshake_timeout_ms),
        }
    }
}

fn refused(arrive: &mpsc::Sender<Result<Link, Refused>>, from: SocketAddr, error: LinkError) {
    tracing::warn!(%from, %error, "refused a connection");
    // A flood of refusals must not keep links waiting, so what does not fit is only logged.
    let _ = arrive.try_send(Err(Refused { from, error }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::any::Any;
    use std::net::Ipv4Addr;
    use std::time::Instant;

    use bytes::Bytes;
    use quinn::congestion::{Controller, ControllerFactory};

    use crate::net::NetThread;
    use crate::quic::link::LinkStats;

    /// Panics, when it is told to, where quinn asks it something under the lock of a connection.
    #[derive(Debug, Clone)]
    struct Trap(Arc<AtomicBool>);

    impl Controller for Trap {
        fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}
        fn on_mtu_update(&mut self, _: u16) {}
        fn window(&self) -> u64 {
            assert!(!self.0.load(Ordering::Relaxed), "the trap was set");
            1 << 20
        }
        fn clone_box(&self) -> Box<dyn Controller> {
            Box::new(self.clone())
        }
        fn initial_window(&self) -> u64 {
            1 << 20
        }
        fn into_any(self: Box<Self>) -> Box<dyn Any> {
            self
        }
    }

    impl ControllerFactory for Trap {
        fn build(self: Arc<Self>, _: Instant, _: u16) -> Box<dyn Controller> {
            Box::new((*self).clone())
        }
    }

    fn entry(name: &str, node: NodeId, identity: &Identity) -> Peers {
        let mut peers = Peers::default();
        let peer = Peer {
            name: name.to_owned(),
            node,
            pin: identity.pin(),
            address: None,
        };
        peers.add(peer).unwrap();
        peers
    }

    /// A panic in quinn itself poisons the lock of its connection, and every later touch of the
    /// connection panics too: in the tasks of the link, and in what they let go while they unwind.
    #[test]
    fn a_panic_within_quinn_costs_a_connection_and_neither_the_endpoint_nor_the_process() {
        const ROUNDS: usize = 10;
        let (report, reports) = std::sync::mpsc::channel();
        let net = NetThread::start("net-test", move |panic| drop(report.send(panic))).unwrap();
        let handle = net.handle();
        let test = async move {
            let config = LinkConfig {
                idle_timeout_ms: 200,
                keep_alive_ms: 50,
                ..LinkConfig::default()
            };
            let [left_key, right_key] = [(); 2].map(|()| Identity::ephemeral().unwrap());
            let [left_id, right_id] = [(); 2].map(|()| NodeId::random());
            let to_right = entry("right", right_id, &right_key);
            let to_left = entry("left", left_id, &left_key);
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let right = Endpoint::start(&handle, address, right_key, to_left, config.clone()).await;
            let right = right.unwrap();
            let trap = Arc::new(AtomicBool::new(false));
            let mut transport = transport::transport(&config);
            transport.congestion_controller_factory(Arc::new(Trap(trap.clone())));
            let left =
                Endpoint::start_with(&handle, address, left_key, to_right, config, transport);
            let left = left.await.unwrap();
            let address = right.local_address().unwrap();

            for _ in 0..ROUNDS {
                let dial = left.dial(address, right_id);
                let (dialled, accepted) = tokio::join!(dial, right.accept());
                let (mut link, mut there) = (dialled.unwrap(), accepted.unwrap().unwrap());
                trap.store(true, Ordering::Relaxed);
                let kept = link.handle.clone();
                let busy = handle.spawn("busy", async move {
                    loop {
                        let data = Bytes::from(vec![7; 100_000]);
                        link.data_out.send([data]).await.unwrap();
                        link.messages_in.next().await.unwrap();
                    }
                });
                busy.await.unwrap();
                trap.store(false, Ordering::Relaxed);
                // From any thread, a link that is lost in this way can still be asked and closed.
                assert_eq!(kept.stats(), LinkStats::default());
                kept.close(CloseCode::DONE, "lost");
                while there.data_in.next().await.is_ok() {}
            }
        };
        let limited = async { timeout(Duration::from_secs(60), test).await.is_ok() };
        assert_eq!(net.handle().wait("test", limited), Some(true));
        assert!(
            reports.try_iter().count() >= 2 * ROUNDS,
            "each in quinn and in the link"
        );
    }
}
