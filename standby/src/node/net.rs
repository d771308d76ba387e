//! The node's tasks on the network's thread: taking peers in, and dialling the standby.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use outlast_engine::LogState;
use outlast_engine::format::{EpochReason, NodeId};
use outlast_proto::{
    ByeReason, CloseReason, ConflictKind, Giver, Hello, Meeting, Message, Mode, Nonce,
    ReceiverEvent, Refuse, RefuseReason, Sender, SenderEvent, Term,
};
use outlast_shipper::drive::{
    Arrival, Ended, SessionEnd, ShipHooks, Shipment, Wire, arrival, boot_time, give, ship,
};
use outlast_shipper::{Backoff, BackoffLimits, CloseCode, Endpoint, Link, LinkHandle, Peer};

use super::Inner;
use crate::error::{Error, Result};
use crate::follow::{Command, FollowHooks};
use crate::roles;

/// How long a peer that connected may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a peer that mends its log waits while another repair is given to: long enough for one
/// that is just over.
const TURN_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a session may take to end when the node closes.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// How often the file of trusted peers is looked at.
const LOOK_AT_PEERS_EVERY: Duration = Duration::from_secs(1);

/// Binds the address and starts the tasks.
pub(super) fn start(inner: &Arc<Inner>) -> Result<()> {
    if inner.config.peer.is_none() {
        return Ok(());
    }
    let config = inner.config.links();
    let (net, address) = (inner.net.clone(), inner.config.listen);
    let (identity, peers) = (inner.identity.clone(), inner.peers.lock().clone());
    let starting = async move { Endpoint::start(&net, address, identity, peers, config).await };
    let endpoint = inner
        .net
        .wait("start", starting)
        .ok_or_else(|| Error::refused("the network's thread has ended"))??;
    *inner.listening.lock() = Some(endpoint.local_address()?);
    let endpoint = Arc::new(endpoint);
    let _ = inner.endpoint.set(Arc::downgrade(&endpoint));
    inner
        .net
        .spawn("take in", take_in(Arc::downgrade(inner), endpoint.clone()));
    let dialling = dial(Arc::downgrade(inner), endpoint.clone());
    let dialling = inner.net.spawn("dial", dialling);
    inner.closing.lock().push(dialling);
    inner
        .net
        .spawn("peers", watch_peers(Arc::downgrade(inner), endpoint));
    Ok(())
}

/// Ends the session, whichever side of it this node is, and waits until its last words have left or
/// the peer takes none.
pub(super) fn stop(inner: &Arc<Inner>) {
    inner.session_ends.send_replace(SessionEnd::Stop);
    inner.dial.notify_one();
    *inner.follower.lock() = None;
    let closing = std::mem::take(&mut *inner.closing.lock());
    let closed = async move {
        for task in closing {
            // A task that panicked was reported.
            let _ = task.await;
        }
    };
    let within = async move { tokio::time::timeout(STOP_TIMEOUT, closed).await.is_ok() };
    if inner.net.wait("stop", within) != Some(true) {
        tracing::warn!("the session did not end in time: it is cut off");
    }
}

/// Takes up what the file of trusted peers says, without a restart: a peer that is trusted now may
/// connect, and the session of one that no longer is ends.
async fn watch_peers(inner: Weak<Inner>, endpoint: Arc<Endpoint>) {
    let mut ticks = tokio::time::interval(LOOK_AT_PEERS_EVERY);
    loop {
        ticks.tick().await;
        let Some(inner) = inner.upgrade() else {
            return;
        };
        match super::load_peers(&inner.dir) {
            Ok(peers) if peers == *inner.peers.lock() => {}
            Ok(peers) => match endpoint.set_peers(peers.clone()) {
                Ok(()) => {
                    tracing::info!("the trusted peers have changed");
                    *inner.peers.lock() = peers;
                    inner.dial.notify_one();
                }
                Err(error) => tracing::error!(%error, "the new peers cannot be used"),
            },
            // What was trusted before stays: a file that is half edited cuts nobody off.
            Err(error) => tracing::error!(%error, "the peers cannot be read"),
        }
    }
}

/// Takes peers in, whatever this node is: two primaries must be able to meet.
async fn take_in(inner: Weak<Inner>, endpoint: Arc<Endpoint>) {
    while let Some(arrival) = endpoint.accept().await {
        let Some(inner) = inner.upgrade() else { return };
        match arrival {
            Ok(link) => {
                let net = inner.net.clone();
                net.spawn("greet", greet(inner, link));
            }
            Err(refused) => {
                inner.peer_view.lock().refusals += 1;
                tracing::warn!(%refused, "a connection was refused");
            }
        }
    }
}

async fn greet(inner: Arc<Inner>, link: Link) {
    let handle = link.handle.clone();
    let (wire, hello) = match tokio::time::timeout(HELLO_TIMEOUT, arrival(link)).await {
        Ok(Ok(Arrival::Session(wire, hello))) => (*wire, hello),
        Ok(Ok(Arrival::Repair(link, ask))) => {
            let turn = tokio::time::timeout(TURN_TIMEOUT, inner.giving.clone().acquire_owned());
            let turn = turn.await;
            let (store, config) = (inner.store.clone(), inner.protocol());
            // Nothing of the node is held but its log: a repair changes nothing in it.
            drop(inner);
            let ids = (store.cluster(), store.node());
            let durable = store.positions().durable.lsn;
            let giver = Giver::new(boot_time(), config, ids, durable, turn.is_err(), nonce());
            return give(*link, ask, giver, store).await;
        }
        Ok(Err(error)) => {
            return tracing::info!(%error, "a peer left before it said who it is");
        }
        Err(_) => return handle.close(CloseCode::BAD_MESSAGE, "a Hello was due"),
    };
    let peer = wire.handle().peer().node;
    let theirs = Term::of(&hello.history).or_higher(hello.heard);
    let follower = inner.follower.lock().clone();
    let meeting = match &follower {
        Some(follower) => follower.meet(peer, &hello),
        None => inner.meet(peer, &hello),
    };
    match (meeting, follower) {
        (Meeting::Follow | Meeting::Conflict { .. }, Some(follower)) => {
            let noted = roles::compare_promises(&inner.store, &hello.history, hello.remembered);
            if let Err(error) = noted {
                tracing::error!(%error, "not followed: what was lost here could not be noted");
                return;
            }
            let (wire, nonce) = (Box::new(wire), nonce());
            let hello = Box::new(*hello);
            let meet = Command::Meet { wire, nonce, hello };
            if let Err(Command::Meet { wire, hello, .. }) = follower.tell(meet) {
                let refuse = Refuse {
                    dialler: hello.nonce,
                    heard: roles::heard(&inner.store),
                    node: inner.store.node(),
                    reason: RefuseReason::LogFailed,
                };
                decline(*wire, refuse).await;
            }
        }
        (Meeting::Follow, None) => {
            wire.close(CloseCode::DONE, "this node follows nobody")
                .await;
        }
        (Meeting::Refuse(refuse), _) => decline(wire, refuse).await,
        (Meeting::Hear { term, refuse }, follower) => {
            if let Some(follower) = follower
                && follower.tell(Command::HeardTerm(term)).is_err()
            {
                tracing::error!(%term, "not noted, since this node follows no longer");
            }
            decline(wire, refuse).await;
        }
        (Meeting::Fence { term, refuse }, _) => {
            inner.fence(term);
            decline(wire, refuse).await;
        }
        (Meeting::Conflict { kind, refuse }, None) => {
            inner.halt(&kind, theirs);
            decline(wire, refuse).await;
        }
    }
}

async fn decline(mut wire: Wire, refuse: Refuse) {
    tracing::info!(reason = ?refuse.reason, "a peer was declined");
    if wire.push(&Message::Refuse(refuse)).is_ok() {
        wire.close(CloseCode::DONE, "declined").await;
    }
}

/// Dials the standby whenever this node is a primary, or waits to become one again; for ever.
async fn dial(inner: Weak<Inner>, endpoint: Arc<Endpoint>) {
    let mut backoff = Backoff::new(BackoffLimits::default(), fastrand::u64(..));
    loop {
        let Some(node) = inner.upgrade() else { return };
        let Some((peer, address, mode)) = node.to_dial() else {
            if node.is_stopping() {
                return;
            }
            // Woken when the role changes; looks anyway now and then.
            let _ = tokio::time::timeout(Duration::from_secs(1), node.dial.notified()).await;
            continue;
        };
        let began = Instant::now();
        let mut ends = node.session_ends.subscribe();
        let dialled = tokio::select! {
            dialled = endpoint.dial(address, peer.node) => dialled,
            _ = ends.wait_for(|end| *end == SessionEnd::Stop) => return,
        };
        let wait = match dialled {
            Ok(link) => {
                run_session(&node, link, &peer, mode).await;
                backoff.after_link(began.elapsed())
            }
            Err(error) => {
                tracing::debug!(%error, "the standby could not be reached");
                node.peer_view.lock().last_close = Some(error.to_string());
                backoff.after_failure()
            }
        };
        drop(node);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = ends.wait_for(|end| *end == SessionEnd::Stop) => return,
        }
    }
}

async fn run_session(node: &Arc<Inner>, link: Link, peer: &Peer, mode: Mode) {
    // Before the facts are looked at: what makes them untrue ends the session.
    let ends = node.session_ends.subscribe();
    if node.is_stopping() {
        return;
    }
    {
        let mut view = node.peer_view.lock();
        view.link = Some(link.handle.clone());
        view.sessions += 1;
    }
    let remembered = node.peer_view.lock().remembered;
    let facts = roles::primary_facts(&node.store, peer.node, remembered);
    let sender = Sender::new(boot_time(), node.protocol(), facts, mode, nonce());
    let hooks = Arc::new(Hooks::of_standby(node, peer.node));
    let shipment = Shipment {
        store: node.store.clone(),
        changed: node.changed.clone(),
        ends,
        hooks: hooks.clone(),
    };
    let ended = ship(link, sender, shipment).await;
    if let Ended::Session(CloseReason::Bye(ByeReason::Withdrawn)) = &ended {
        node.gatekeeper.on_withdrawn(peer.node);
    }
    let mut view = node.peer_view.lock();
    view.attached = false;
    view.link = None;
    view.last_close = Some(ended.to_string());
    drop(view);
    match &ended {
        Ended::Session(reason) if reason.is_alarm() => {
            tracing::error!(%reason, "the session with the standby ended in alarm");
        }
        ended => tracing::info!(%ended, "the session with the standby is over"),
    }
}

impl Inner {
    /// Ends the session with the standby, if there is one; another may follow.
    pub(super) fn end_session(&self) {
        self.session_ends
            .send_if_modified(|end| *end == SessionEnd::EpochBegins);
    }

    fn is_stopping(&self) -> bool {
        *self.session_ends.borrow() == SessionEnd::Stop
    }

    /// Whom to dial now, and for what.
    fn to_dial(&self) -> Option<(Peer, std::net::SocketAddr, Mode)> {
        let peer = self.peer()?;
        let address = peer.address?;
        if self.is_stopping() {
            return None;
        }
        let mode = roles::dial_mode(&self.role())?;
        Some((peer, address, mode))
    }

    /// What to do about a Hello while this node follows nobody.
    fn meet(&self, peer: NodeId, hello: &Hello) -> Meeting {
        roles::meet(&self.store, &self.protocol(), &self.role(), peer, hello)
    }

    fn fence(&self, term: Term) {
        // What is durable already is not answered either.
        self.gatekeeper.shut();
        roles::fence(&self.store, term);
        self.end_session();
        self.announce_role();
    }

    fn halt(&self, kind: &ConflictKind, heard: Term) {
        // What a session found out before an operator settled it is about a term that was left.
        let left = heard.number < roles::heard(&self.store).number;
        if left || matches!(self.store.state(), LogState::Halted(_)) {
            return;
        }
        self.gatekeeper.shut();
        roles::halt(&self.store, kind, heard);
        self.end_session();
        self.announce_role();
    }
}

/// What sessions tell the node.
pub(super) struct Hooks {
    inner: Weak<Inner>,
    /// The standby, where this node dialled it.
    standby: Option<NodeId>,
}

impl Hooks {
    pub(super) fn new(inner: &Arc<Inner>) -> Self {
        Self {
            inner: Arc::downgrade(inner),
            standby: None,
        }
    }

    /// Those of a session with this standby.
    fn of_standby(inner: &Arc<Inner>, standby: NodeId) -> Self {
        Self {
            standby: Some(standby),
            ..Self::new(inner)
        }
    }

    fn with(&self, act: impl FnOnce(&Arc<Inner>)) {
        if let Some(inner) = self.inner.upgrade() {
            act(&inner);
        }
    }
}

impl ShipHooks for Hooks {
    fn fence(&self, term: Term) {
        self.with(|inner| inner.fence(term));
    }

    fn conflict(&self, kind: &ConflictKind, heard: Term) {
        self.with(|inner| inner.halt(kind, heard));
    }

    fn event(&self, event: &SenderEvent) {
        self.with(|inner| {
            let mut view = inner.peer_view.lock();
            match event {
                SenderEvent::Attached { name, resume, .. } => {
                    view.attached = true;
                    tracing::info!(standby = %name, %resume, "a standby is attached");
                }
                SenderEvent::Replicated(position) => {
                    view.remembered = roles::remember(&inner.store, *position);
                    if let Some(standby) = self.standby {
                        inner.gatekeeper.on_replicated(standby, *position);
                    }
                }
                SenderEvent::Contact { at, told } => {
                    view.contact = Some(*at);
                    drop(view);
                    if let Some(standby) = self.standby {
                        inner.gatekeeper.on_echo(standby, *at, *told);
                        inner.store.ask_gate();
                    }
                }
                SenderEvent::ContactComplete { fetched, .. } => {
                    drop(view);
                    if !fetched.is_empty() {
                        tracing::warn!(%fetched, "a lost tail was fetched back from the standby");
                    }
                    if let Err(error) = inner.resume(EpochReason::Restart, "") {
                        tracing::error!(%error, "no epoch could begin after the contact");
                    }
                }
                SenderEvent::AckedTailLost(range) => {
                    tracing::error!(%range, "the standby lost what it had acknowledged");
                }
                SenderEvent::CutAsked { fork, standby_end } => {
                    tracing::warn!(%fork, %standby_end, "the standby puts a forked tail aside");
                }
                _ => {}
            }
        });
    }
}

impl FollowHooks for Hooks {
    fn conflict(&self, kind: &ConflictKind, heard: Term) {
        self.with(|inner| inner.halt(kind, heard));
    }

    fn event(&self, event: &ReceiverEvent) {
        match event {
            ReceiverEvent::Attached {
                name, resume, term, ..
            } => {
                tracing::info!(primary = %name, %resume, %term, "attached to a primary");
            }
            ReceiverEvent::AckedTailLost(range) => {
                tracing::error!(%range, "ACKED TAIL LOST: it must be sent again");
            }
            other => tracing::info!(event = ?other, "following"),
        }
    }

    fn link(&self, link: Option<LinkHandle>, why: Option<String>) {
        self.with(|inner| {
            let mut view = inner.peer_view.lock();
            if link.is_some() {
                view.sessions += 1;
            }
            view.link = link;
            view.last_close = why.or_else(|| view.last_close.take());
        });
    }
}

/// A nonce must never repeat, so it comes from the operating system and not from a seed.
pub(crate) fn nonce() -> Nonce {
    let [a, b, c, d, e, f, g, h, ..] = outlast_engine::format::EpochId::random().0;
    Nonce([a, b, c, d, e, f, g, h])
}
