//! What a node says of itself.

use outlast_engine::format::{ClusterId, EpochRecord, NodeId, Position};
use outlast_engine::{HeldLogTime, Positions, Recovered};
use serde::{Deserialize, Serialize};

/// What a node is at the moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It was the primary and waits to hear from its standby before it acknowledges anything.
    WaitingForPeer,
    /// It follows a primary, or waits for one.
    Standby,
    /// It is a standby that takes nothing more from its primary until it is started again.
    NotFollowing {
        /// What failed.
        reason: String,
    },
    /// A newer term exists: it is readable and never writes again under its own.
    Fenced {
        /// The newer term.
        term: u32,
    },
    /// Two nodes opened the same term, or hold what the other denies: an operator must choose.
    Conflict {
        /// What was found.
        what: String,
    },
    /// Its disk failed: reopen it.
    Poisoned {
        /// What failed.
        reason: String,
    },
}

/// The other node of the pair, as this one sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Where it is dialled.
    pub address: Option<String>,
    /// Whether a session is up.
    pub connected: bool,
    /// How long ago the last heartbeat was echoed (primary) or received (standby), in ms.
    pub contact_age_ms: Option<u64>,
    /// Round trip of the connection in microseconds.
    pub rtt_us: Option<u64>,
    /// On a standby: the end of the primary's log, as it last said.
    pub primary_appended: Option<Position>,
    /// Sessions since this process started.
    pub sessions: u64,
    /// Why the last one ended.
    pub last_close: Option<String>,
}

/// What lies between the two nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Lag {
    /// Bytes that the standby has not reported durable (primary), or that it knows it lacks.
    pub bytes: u64,
    /// Commits likewise.
    pub commits: u64,
    /// Age of the oldest such commit in ms; rises while the line is down. 0 when there is none.
    pub ms: u64,
}

/// How the promise about loss stands, on a primary.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProtectionStatus {
    /// How it stands.
    pub state: ProtectionState,
    /// Why commits are held back, where they are.
    pub why: Option<String>,
    /// For how long they have been, or for how much longer the bound is suspended, in ms.
    pub ms: Option<u64>,
    /// Most bytes that may be lost, as it binds now; `None` for no such limit.
    pub bound_bytes: Option<u64>,
    /// Most commits.
    pub bound_commits: Option<u64>,
    /// Longest span from the first lost answer to the last, in ms.
    pub bound_ms: Option<u64>,
    /// How long after the last echo commits may be answered, in ms.
    pub lease_ms: Option<u64>,
    /// Whether new commits are refused while they cannot be answered.
    pub refuses: bool,
    /// What would be lost now: bytes of log.
    pub exposure_bytes: u64,
    /// Commits.
    pub exposure_commits: u64,
    /// From the answer to the oldest of them to that to the newest, in ms; `None` where another
    /// process answered the oldest.
    pub exposure_ms: Option<u64>,
    /// Age of the newest heartbeat that the standby has echoed, in ms.
    pub contact_age_ms: Option<u64>,
    /// Records of policy that the standby is not known to hold.
    pub records_not_held: u64,
}

/// How the promise about loss stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ProtectionState {
    /// Nothing is promised, or not yet.
    Off,
    /// It is kept.
    Protected,
    /// An operator suspended it.
    Suspended,
    /// It is kept, and commits wait because of it.
    Stalled,
    /// Nothing is answered any more.
    Shut,
}

/// The whole status. `"schema": 1`; fields are only ever added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of this layout.
    pub schema: u32,
    /// What the node is.
    pub role: Role,
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub node_name: String,
    /// The cluster's policy.
    pub policy: String,
    /// The newest epoch of its log.
    pub epoch: Option<EpochRecord>,
    /// Its positions.
    pub positions: Positions,
    /// The other node.
    pub peer: Option<PeerStatus>,
    /// What lies between the two; `None` where it cannot be known.
    pub lag: Option<Lag>,
    /// How the promise about loss stands; `None` on a node that is no primary.
    pub protection: Option<ProtectionStatus>,
    /// What recovery found when it started.
    pub recovered: Recovered,
    /// Process id of the running node; `None` when the directory was read without one.
    pub pid: Option<u32>,
    /// Where it listens for its peer.
    pub listen: Option<String>,
    /// Log time, where it stands still: no put expires until the clock is confirmed.
    #[serde(default)]
    pub held_log_time: Option<HeldLogTime>,
    /// What is worth attention, in words.
    pub warnings: Vec<String>,
    /// What to type next, if anything is to be done.
    pub next: Option<String>,
}
