//! A running node: its role, its network, and the commands that change either.

mod health;
mod net;
mod promote;
mod protect;
mod repair;
mod resolve;
mod roles;
mod state;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use outlast_engine::format::{EpochReason, EpochRecord};
use outlast_engine::{LogState, Store};
use outlast_proto::{Action, Protection};
use outlast_shipper::drive::{Gatekeeper, SessionEnd, boot_time};
use outlast_shipper::{Endpoint, Identity, NetThread, Peer, Peers};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;

pub(crate) use self::net::nonce;
pub use self::promote::promote_offline;
use self::roles::{Announced, watch_role};
use self::state::{PeerView, lag_sampler};
use crate::config::{NodeConfig, Policy};
use crate::control::protocol::FailureKind;
use crate::control::server::ControlServer;
use crate::dir::NodeDir;
use crate::error::{Error, Result};
use crate::follow::Follower;
use crate::hook::{Hook, RoleNow};
use crate::http::{HttpServer, Look, Source};
use crate::lag::LagClock;
use crate::roles::{Boot, boot, was_writer};
use crate::status::Role;

/// A node that runs: its store is open, its peer is dialled or awaited, its socket answers.
///
/// Dropping it closes the store cleanly and ends its threads.
pub struct Node {
    inner: Arc<Inner>,
    /// Before the network, which its requests may use.
    control: Option<ControlServer>,
    http: Option<HttpServer>,
    net: Option<NetThread>,
}

/// What all parts of a node share.
pub(crate) struct Inner {
    pub(crate) dir: NodeDir,
    pub(crate) config: NodeConfig,
    pub(crate) store: Store,
    /// What may be answered, while this node is the primary.
    gatekeeper: Arc<Gatekeeper>,
    /// What is to be promised once the standby has nearly all, where no record says so yet.
    wish: Mutex<Option<Policy>>,
    /// Since when the promise about loss stands as it does.
    stood: Mutex<protect::Stood>,
    identity: Identity,
    /// Whom this node trusts, as the file last said.
    peers: Mutex<Peers>,
    /// The follower, while this node is a standby.
    follower: Mutex<Option<Arc<Follower>>>,
    /// Held while the role changes, so that two commands never change it at once.
    changing_role: Mutex<()>,
    /// Told when the store's positions or state move.
    changed: Arc<Notify>,
    /// Told when the session with the standby must end, and why.
    session_ends: watch::Sender<SessionEnd>,
    /// Told when there may be somebody to dial.
    dial: Notify,
    peer_view: Mutex<PeerView>,
    lag: Mutex<LagClock>,
    listening: Mutex<Option<std::net::SocketAddr>>,
    /// Where HTTP is answered.
    http: OnceLock<std::net::SocketAddr>,
    net: outlast_shipper::NetHandle,
    /// Where links are made, once that is so. The network's tasks own it.
    endpoint: OnceLock<Weak<Endpoint>>,
    /// Held while this node is mended.
    mending: Mutex<()>,
    /// Held while a peer is given frames to mend its own log: one at a time.
    giving: Arc<Semaphore>,
    /// The tasks that say last words when the node closes.
    closing: Mutex<Vec<JoinHandle<()>>>,
    /// What each task of the network said when it panicked.
    panics: Panics,
    /// The role, for whoever watches.
    announced: Announced,
}

type Panics = Arc<Mutex<BTreeMap<&'static str, String>>>;

impl Node {
    /// Opens the node in `dir` and lets it run as what it last was.
    ///
    /// A primary that has a standby waits to hear from it before it acknowledges anything: it may
    /// have been replaced while it was down.
    ///
    /// # Errors
    /// When the directory holds no node, is in use, or cannot be used as it is; when its key, its
    /// peers or its settings are not in order; when the address cannot be bound.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::start_with(dir, |_| ())
    }

    /// The same, with settings that are changed for this process alone.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_with(dir: &Path, change: impl FnOnce(&mut NodeConfig)) -> Result<Self> {
        let dir = NodeDir::new(dir);
        let mut config = NodeConfig::load(&dir)?;
        change(&mut config);
        config
            .validate()
            .map_err(|what| Error::new(FailureKind::Usage, what))?;
        let identity = Identity::load(&dir.key()).map_err(usage)?;
        let peers = load_peers(&dir)?;
        let store = Store::open(dir.root(), config.tuning.engine())?;
        let panics = Panics::default();
        let panicked = panics.clone();
        let net = NetThread::start("outlast-net", move |panic| {
            panicked.lock().insert(panic.task, panic.message);
        })
        .map_err(|error| outlast_engine::Error::io("start the network's thread", error))?;
        let changed = Arc::new(Notify::new());
        let notify = changed.clone();
        store.on_change(move || notify.notify_one());
        let gatekeeper = Gatekeeper::new(boot_time);
        store.set_gate(gatekeeper.clone());
        let hook = config.on_role_change.clone().map(|command| {
            Hook::start(&dir, store.node_name(), command).map_err(|error| {
                outlast_engine::Error::io("start the thread of on_role_change", error)
            })
        });
        let announced = Announced::new(hook.transpose()?);
        let inner = Arc::new(Inner {
            dir,
            config,
            store,
            gatekeeper,
            wish: Mutex::new(None),
            stood: Mutex::new(protect::Stood::default()),
            identity,
            peers: Mutex::new(peers),
            follower: Mutex::new(None),
            changing_role: Mutex::new(()),
            changed,
            session_ends: watch::Sender::new(SessionEnd::EpochBegins),
            dial: Notify::new(),
            peer_view: Mutex::new(PeerView::default()),
            lag: Mutex::new(LagClock::default()),
            listening: Mutex::new(None),
            http: OnceLock::new(),
            net: net.handle(),
            endpoint: OnceLock::new(),
            mending: Mutex::new(()),
            giving: Arc::new(Semaphore::new(1)),
            closing: Mutex::new(Vec::new()),
            panics,
            announced,
        });
        inner.take_up_role()?;
        inner.announce_first_role();
        net::start(&inner)?;
        net.handle()
            .spawn("lag", lag_sampler(Arc::downgrade(&inner)));
        net.handle()
            .spawn("gate", protect::keep(Arc::downgrade(&inner)));
        net.handle()
            .spawn("role", watch_role(Arc::downgrade(&inner)));
        let control = ControlServer::start(&inner)?;
        let http = inner.config.http.map(|address| {
            let server = HttpServer::start(address, look(&inner))?;
            let _ = inner.http.set(server.address());
            Ok::<_, Error>(server)
        });
        let http = http.transpose()?;
        Ok(Self {
            inner,
            control: Some(control),
            http,
            net: Some(net),
        })
    }

    /// The store: read it in any role, write to it while this node is the primary.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// What the node is, for whoever waits for a change of it: `changed` and `wait_for` of the
    /// receiver, in any runtime. A change is seen once it is durable; two that follow each other
    /// at once may be seen as one.
    #[must_use]
    pub fn roles(&self) -> watch::Receiver<RoleNow> {
        self.inner.announced.watch()
    }

    /// The store, if it takes writes: this node is the primary. It may cease to be one at any
    /// moment; a commit then says so.
    #[must_use]
    pub fn writable_store(&self) -> Option<&Store> {
        (self.inner.store.state() == LogState::Writing).then_some(&self.inner.store)
    }

    /// Waits until this node is the primary, and hands its store over to be written to.
    pub async fn until_writable(&self) -> &Store {
        let mut roles = self.roles();
        // The sender lives as long as the node does.
        let _ = roles.wait_for(|now| now.role == Role::Primary).await;
        &self.inner.store
    }

    /// How the node is.
    #[must_use]
    pub fn status(&self) -> crate::status::Status {
        self.inner.status()
    }

    /// Promotes this node; see [`crate::certificate`]. Blocks until it is done: for as long as the
    /// disk takes, and for no peer. An async task calls it where it may block, as on
    /// `tokio::task::spawn_blocking` with the node in an `Arc`.
    ///
    /// # Errors
    /// When the epoch cannot be made durable; the node is then still a standby. A refusal is no
    /// error but an outcome of the certificate.
    pub fn promote(
        &self,
        options: &crate::certificate::PromoteOptions,
    ) -> Result<crate::certificate::Certificate> {
        self.inner.promote(options)
    }

    /// Mends the sealed segments of this node, while it goes on. Blocks for as long as that takes.
    ///
    /// # Errors
    /// When the peer cannot be asked (nothing was changed then), another repair is under way, or a
    /// file cannot be written. Damage that is left is no error.
    pub fn repair(&self, options: &crate::RepairOptions) -> Result<crate::Repair> {
        self.inner.repair(options)
    }

    /// Lets a restarted primary go on without having heard from its standby. What only the standby
    /// has is given up.
    ///
    /// # Errors
    /// Refused unless this node is such a primary.
    pub fn resume_alone(&self, reason: &str) -> Result<EpochRecord> {
        self.inner.resume_alone(reason)
    }

    /// Settles a conflict: this node goes on in a higher term, or stays behind as a fork.
    ///
    /// # Errors
    /// When the choice cannot be made durable; the node then still stands in the conflict. A
    /// refusal is no error but an outcome.
    pub fn resolve(&self, options: &crate::ResolveOptions) -> Result<crate::Resolution> {
        self.inner.resolve(options)
    }

    /// Promises, durably and for all answers from now on, that no more is lost than `policy` says.
    ///
    /// # Errors
    /// Refused unless this node is a primary with a standby, and for a promise that cannot be kept.
    pub fn set_policy(
        &self,
        policy: outlast_proto::Policy,
        action: Action,
        note: &str,
    ) -> Result<Protection> {
        self.inner.set_policy(policy, action, note, false)
    }

    /// Lifts the bound for a while: the only way to go on past it. It takes effect once the standby
    /// has echoed it, or the lease is out.
    ///
    /// # Errors
    /// Refused unless this node is a primary whose bound is in force.
    pub fn suspend_protection(&self, lasts: Duration, reason: &str) -> Result<Protection> {
        self.inner.suspend_protection(lasts, reason, false)
    }

    /// Ends a suspension before its time.
    ///
    /// # Errors
    /// Refused unless there is one.
    pub fn resume_protection(&self, reason: &str) -> Result<Protection> {
        self.inner.resume_protection(reason, false)
    }

    /// Closes the node: sessions end, the store is durable to its last byte.
    ///
    /// # Errors
    /// When the last bytes cannot be made durable.
    pub fn stop(mut self) -> Result<()> {
        self.shut_down()
    }

    fn shut_down(&mut self) -> Result<()> {
        drop(self.http.take());
        drop(self.control.take());
        let Some(net) = self.net.take() else {
            return Ok(());
        };
        // The session's last words leave before the store closes under it.
        net::stop(&self.inner);
        drop(net);
        self.inner.store.close()?;
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.shut_down() {
            tracing::error!(%error, "the node did not close cleanly");
        }
    }
}

impl Inner {
    /// Becomes what the node last was.
    fn take_up_role(self: &Arc<Self>) -> Result<()> {
        match boot(&self.store) {
            Boot::Follow => self.follow(),
            Boot::Begin(reason) => {
                self.guard(reason);
                self.store.begin_epoch(reason, "")?;
                if reason == EpochReason::Init {
                    self.note_policy()?;
                }
                Ok(())
            }
            Boot::Wait | Boot::Stand => {
                if was_writer(&self.store) {
                    self.gatekeeper.await_contact();
                }
                Ok(())
            }
        }
    }

    fn follow(self: &Arc<Self>) -> Result<()> {
        let hooks = Arc::new(net::Hooks::new(self));
        let (follower, task) = Follower::start(&self.net, &self.store, self.protocol(), hooks)?;
        *self.follower.lock() = Some(Arc::new(follower));
        self.closing.lock().push(task);
        Ok(())
    }

    /// Begins the epoch that this restarted primary has waited for.
    fn resume(&self, reason: EpochReason, note: &str) -> Result<EpochRecord> {
        let _changing = self.changing_role.lock();
        self.guard(reason);
        let epoch = crate::roles::resume(&self.store, reason, note)?;
        tracing::info!(
            term = epoch.term,
            start = epoch.start,
            "this node takes writes again"
        );
        self.end_session();
        self.dial.notify_one();
        self.announce_role();
        Ok(epoch)
    }

    pub(crate) fn resume_alone(&self, reason: &str) -> Result<EpochRecord> {
        if reason.trim().is_empty() {
            let error = Error::new(FailureKind::Usage, "no reason was given for the record");
            return Err(error.hint("outlast resume-alone --reason '…'"));
        }
        if !self.is_waiting() {
            let role = format!("{:?}", self.role()).to_lowercase();
            return Err(Error::refused(format!(
                "this node does not wait for its standby (it is: {role}); nothing was changed"
            )));
        }
        self.resume(EpochReason::ResumeAlone, reason)
    }

    /// Whether this is a restarted primary that has not heard from its standby yet.
    fn is_waiting(&self) -> bool {
        self.follower.lock().is_none()
            && matches!(self.store.state(), LogState::Reading | LogState::Following)
    }

    /// The other node of the pair, once its key is trusted.
    fn peer(&self) -> Option<Peer> {
        let name = self.config.peer.as_ref()?;
        self.peers.lock().by_name(name).next().cloned()
    }

    fn protocol(&self) -> outlast_proto::Config {
        self.config.protocol()
    }
}

/// How the node is, for HTTP, which does not keep it from closing.
fn look(inner: &Arc<Inner>) -> Source {
    let inner = Arc::downgrade(inner);
    Arc::new(move || {
        let inner = inner.upgrade()?;
        let (status, metrics) = (inner.status(), inner.store.metrics());
        Some(Look { status, metrics })
    })
}

pub(crate) fn load_peers(dir: &NodeDir) -> Result<Peers> {
    match Peers::load(&dir.peers()) {
        Ok(peers) => Ok(peers),
        Err(_) if !dir.peers().exists() => Ok(Peers::default()),
        Err(error) => Err(usage(error)),
    }
}

pub(crate) fn usage(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(FailureKind::Usage, error.to_string())
}
