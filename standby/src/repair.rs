//! Mending a node's log with the frames of its peer, of a copy, or with its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outlast_engine::format::{ClusterId, Lsn};
use outlast_engine::{FrameSource, Given, Lack, LackKind, RepairReport, Want};
use outlast_proto::{Asker, NotGiven, RepairEnd, RepairRefusal};
use outlast_shipper::drive::{Answered, Asking, RepairFailure, boot_time};
use outlast_shipper::{CloseCode, Endpoint, Identity, LinkError, NetHandle, NetThread, Peer};
use serde::{Deserialize, Serialize};

use crate::config::NodeConfig;
use crate::control::protocol::FailureKind;
use crate::dir::NodeDir;
use crate::error::{Error, Result};
use crate::node::{load_peers, nonce, usage};

/// Where the frames come from that the directory itself lacks.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RepairFrom {
    /// From nowhere: only what the directory itself tells is mended.
    #[default]
    Nowhere,
    /// From the peer, over the network.
    Peer,
    /// From a directory with a copy of the log: the other node's, or a backup.
    Copy(PathBuf),
}

/// What a repair is asked to do.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RepairOptions {
    /// Where missing frames come from.
    pub from: RepairFrom,
    /// Fetch and check what is missing, say what would be done, and write nothing.
    pub dry_run: bool,
}

/// What a repair did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Repair {
    /// Whether the node ran meanwhile. Then only its sealed segments were looked at.
    pub running: bool,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Where missing frames came from, for people.
    pub from: Option<String>,
    /// What was mended, what is left, and what was not given.
    pub report: RepairReport,
}

/// Repairs the node in `dir`, which no process runs.
///
/// # Errors
/// When the peer is not known, cannot be reached, does not let this node in or belongs to another
/// cluster (nothing was changed then); those of the engine's repair. Damage that is left is none.
pub fn repair_offline(dir: &Path, options: &RepairOptions) -> Result<Repair> {
    let dry_run = options.dry_run;
    let done = |from, report| Repair {
        running: false,
        dry_run,
        from,
        report,
    };
    let copy = match &options.from {
        RepairFrom::Peer => {
            let (from, report) = from_peer(dir, dry_run)?;
            return Ok(done(Some(from), report));
        }
        RepairFrom::Copy(copy) => Some(copy.as_path()),
        RepairFrom::Nowhere => None,
    };
    let report = outlast_engine::repair(dir, copy, dry_run)?;
    Ok(done(copy.map(|copy| copy.display().to_string()), report))
}

fn from_peer(root: &Path, dry_run: bool) -> Result<(String, RepairReport)> {
    let dir = NodeDir::new(root);
    let config = NodeConfig::load(&dir)?;
    let identity = Identity::load(&dir.key()).map_err(usage)?;
    let peers = load_peers(&dir)?;
    let peer = config
        .peer
        .as_ref()
        .and_then(|name| peers.by_name(name).next().cloned());
    let net = NetThread::start("outlast-net", |_| {})
        .map_err(|error| outlast_engine::Error::io("start the network's thread", error))?;
    // From the node's own address: it is the one that is let through between the buildings.
    let (handle, address, links) = (net.handle(), config.listen, config.links());
    let starting = async move {
        let endpoint = Endpoint::start(&handle, address, identity, peers, links).await?;
        // A peer that dials meanwhile finds nobody: this is no node that runs.
        endpoint.set_listening(false);
        Ok::<_, LinkError>(endpoint)
    };
    let endpoint = net.handle().wait("start", starting);
    let endpoint = endpoint.ok_or_else(|| Error::refused("the network's thread has ended"))??;
    let endpoint = Arc::new(endpoint);
    let mend = || {
        let (net, links) = (net.handle(), endpoint.clone());
        let mut source = PeerSource::new(net, links, peer, config.protocol())?;
        // Where the manifest does not say which cluster this is, its frames will.
        if let Ok(about) = outlast_engine::about(root) {
            source.meet(about.cluster)?;
        }
        let report = outlast_engine::repair_from(root, &mut source, dry_run)?;
        Ok((source.place(), report))
    };
    let mended = mend();
    // The peer hears that it is over before this process ends.
    let closing = async move { endpoint.close(CloseCode::DONE, "the repair is done").await };
    net.handle().wait("close", closing);
    mended
}

/// The peer's log, over the network. Blocks; not for the network's thread.
pub(crate) struct PeerSource {
    net: NetHandle,
    endpoint: Arc<Endpoint>,
    peer: Peer,
    address: SocketAddr,
    protocol: outlast_proto::Config,
    /// The conversation, while it is open. The peer ends one in which nothing is asked for a while.
    asking: Option<Asking>,
}

impl PeerSource {
    pub(crate) fn new(
        net: NetHandle,
        endpoint: Arc<Endpoint>,
        peer: Option<Peer>,
        protocol: outlast_proto::Config,
    ) -> Result<Self> {
        let unknown = |what: &str, hint: &str| Error::refused(what).hint(hint);
        let peer = peer.ok_or_else(|| {
            unknown(
                "this node has no peer whose key it trusts; nothing was changed",
                "outlast pin trust '…' (the line that `outlast pin show` prints on the peer), or \
                 name a copy: outlast repair --from DIR",
            )
        })?;
        let address = peer.address.ok_or_else(|| {
            unknown(
                "no address of the peer is known; nothing was changed",
                "outlast pin trust --address HOST:PORT '…'",
            )
        })?;
        Ok(Self {
            net,
            endpoint,
            peer,
            address,
            protocol,
            asking: None,
        })
    }

    /// Who is asked, for people.
    pub(crate) fn place(&self) -> String {
        format!("{} at {}", self.peer.name, self.address)
    }

    /// Opens the conversation: whatever speaks against it is known before anything is changed.
    pub(crate) fn meet(&mut self, cluster: ClusterId) -> Result<()> {
        self.asking = Some(
            self.open(cluster)
                .map_err(|failure| self.refused(failure))?,
        );
        Ok(())
    }

    fn open(&self, cluster: ClusterId) -> Result<Asking, RepairFailure> {
        let (endpoint, address, node) = (self.endpoint.clone(), self.address, self.peer.node);
        let protocol = self.protocol.clone();
        let opening = async move {
            let link = endpoint.dial(address, node).await?;
            let asker = Asker::new(boot_time(), protocol, cluster, node, nonce());
            Asking::open(link, asker).await
        };
        self.net.wait("repair", opening).unwrap_or_else(|| {
            let reason = "the network's thread has ended".to_owned();
            Err(LinkError::Endpoint { reason }.into())
        })
    }

    fn refused(&self, failure: RepairFailure) -> Error {
        let place = self.place();
        let (kind, hint) = match &failure {
            RepairFailure::Link(LinkError::Refused(_) | LinkError::RefusedByPeer(_)) => (
                FailureKind::Refused,
                "compare `outlast pin show` of each node with what the other trusts: outlast pin \
                 list",
            ),
            RepairFailure::Link(_) | RepairFailure::End(RepairEnd::Silent) => (
                FailureKind::NotReachable,
                "start the peer (outlast serve) and mend the line, or name a copy: outlast repair \
                 --from DIR",
            ),
            RepairFailure::End(RepairEnd::Refused(RepairRefusal::Busy)) => {
                (FailureKind::Refused, "try again when that one is done")
            }
            RepairFailure::End(RepairEnd::Refused(_)) => (
                FailureKind::Refused,
                "correct the peer's entry in peers.toml, or name a copy: outlast repair --from DIR",
            ),
            _ => (
                FailureKind::Failed,
                "bring both nodes to the same release, or name a copy: outlast repair --from DIR",
            ),
        };
        let what = format!("{place} gives nothing; nothing was changed");
        Error::new(kind, what).because(failure).hint(hint)
    }

    fn ask(&mut self, want: &Want) -> Result<Answered, RepairFailure> {
        let mut fresh = false;
        loop {
            let asking = match self.asking.take() {
                Some(asking) => asking,
                None => {
                    fresh = true;
                    self.open(want.at.cluster)?
                }
            };
            let (at, end) = (want.at, want.range.end);
            let segment_size = want.segment.segment_size;
            let asked = self.net.wait("repair", async move {
                let mut asking = asking;
                let answered = asking.want(at, end, segment_size).await;
                (asking, answered)
            });
            match asked {
                Some((asking, Ok(answered))) => {
                    self.asking = Some(asking);
                    return Ok(answered);
                }
                // It may have ended while this node looked at its own files.
                Some((_, Err(RepairFailure::Link(_)))) | None if !fresh => {}
                Some((_, Err(failure))) => return Err(failure),
                None => {
                    let reason = "the network's thread has ended".to_owned();
                    return Err(LinkError::Endpoint { reason }.into());
                }
            }
        }
    }
}

impl FrameSource for PeerSource {
    fn give(&mut self, want: &Want) -> outlast_engine::Result<Given> {
        let place = self.place();
        let lack = |kind, what: String| {
            let what = format!("{place} {what}");
            Ok(Given::Nothing(Lack::new(want.range, kind, what)))
        };
        match self.ask(want) {
            Ok(Answered::Frames(frames)) => Ok(Given::Frames(frames)),
            Ok(Answered::Nothing(why)) => {
                let (kind, what) = not_given(why, want.range.start);
                lack(kind, what)
            }
            Err(failure) => lack(
                LackKind::Unreachable,
                format!("cannot be asked any more ({failure}): run it again"),
            ),
        }
    }
}

impl Drop for PeerSource {
    fn drop(&mut self) {
        if let Some(asking) = self.asking.take() {
            asking.close();
        }
    }
}

fn not_given(why: NotGiven, at: Lsn) -> (LackKind, String) {
    match why {
        NotGiven::NotHeld { durable } => (
            LackKind::NotHeld,
            format!("holds the log up to {durable} only: name a backup with --from DIR"),
        ),
        NotGiven::OtherHistory => (
            LackKind::OtherHistory,
            format!(
                "holds other frames at {at}: its log and this one are forks of each other, and \
                 neither mends the other; name a backup of this node's own history with --from DIR"
            ),
        ),
        NotGiven::Damaged => (
            LackKind::Damaged,
            "is damaged there itself: run `outlast check` or `outlast repair` on it, and name a \
             backup with --from DIR"
                .to_owned(),
        ),
        _ => (
            LackKind::Unreachable,
            "could not read its own log: look at its disk".to_owned(),
        ),
    }
}
