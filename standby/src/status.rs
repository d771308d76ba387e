//! What a node says of itself.

use outlast_engine::format::{ClusterId, EpochRecord, NodeId, Position};
use outlast_engine::{HeldLogTime, Positions, Recovered, UnprotectedBy};
use serde::{Deserialize, Serialize};

use crate::hook::HookRun;

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

impl Role {
    /// Its name: that of the JSON form, and what the command of `on_role_change` is told.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::WaitingForPeer => "waiting-for-peer",
            Self::Standby => "standby",
            Self::NotFollowing { .. } => "not-following",
            Self::Fenced { .. } => "fenced",
            Self::Conflict { .. } => "conflict",
            Self::Poisoned { .. } => "poisoned",
        }
    }
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
    /// Why it is not kept, or commits are held back.
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
    /// Whether a lease is asked for and is out.
    pub lease_out: bool,
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
    /// Since when it stands like this, in milliseconds since 1970, as far as this process knows.
    pub since_unix_ms: Option<u64>,
    /// How many bytes more may be lost before commits are held back; `None` without such a limit.
    pub headroom_bytes: Option<u64>,
    /// How many commits more.
    pub headroom_commits: Option<u64>,
    /// How much longer the span may get, in ms.
    pub headroom_ms: Option<u64>,
    /// What was exposed in the last hour.
    pub exposed: ExposedStatus,
}

impl ProtectionStatus {
    /// One that stands like this, and of which nothing else is known.
    pub(crate) const fn of(state: ProtectionState) -> Self {
        Self {
            state,
            why: None,
            ms: None,
            bound_bytes: None,
            bound_commits: None,
            bound_ms: None,
            lease_ms: None,
            lease_out: false,
            refuses: false,
            exposure_bytes: 0,
            exposure_commits: 0,
            exposure_ms: None,
            contact_age_ms: None,
            records_not_held: 0,
            since_unix_ms: None,
            headroom_bytes: None,
            headroom_commits: None,
            headroom_ms: None,
            exposed: ExposedStatus {
                seconds: 0,
                max_bytes: 0,
                max_commits: 0,
                max_ms: None,
                p99_bytes: 0,
                p99_commits: 0,
                p99_ms: None,
            },
        }
    }
}

/// What would have been lost at the moments of the last hour, on a primary.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ExposedStatus {
    /// Of how many seconds that is known.
    pub seconds: u64,
    /// The most at any moment: bytes of log.
    pub max_bytes: u64,
    /// Commits.
    pub max_commits: u64,
    /// The longest span, in ms; `None` where none was known.
    pub max_ms: Option<u64>,
    /// What the worst moment of 99 seconds in 100 was not above: bytes of log.
    pub p99_bytes: u64,
    /// Commits.
    pub p99_commits: u64,
    /// The span, in ms.
    pub p99_ms: Option<u64>,
}

/// Where a log may be behind.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Stage {
    /// Fsynced here, of what this node's log has.
    Durable,
    /// Answered and shown here, of what is fsynced here. On a standby: applied.
    Visible,
    /// Received by the standby, of what the primary's log has.
    Received,
    /// Fsynced by the standby, of what the primary's log has.
    Replicated,
    /// Shown to the standby's readers, of what the primary's log has.
    Applied,
}

impl Stage {
    /// Its name in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::Visible => "visible",
            Self::Received => "received",
            Self::Replicated => "replicated",
            Self::Applied => "applied",
        }
    }
}

/// How much a stage lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StageLag {
    /// The stage.
    pub stage: Stage,
    /// Bytes of log.
    pub bytes: u64,
    /// Commits.
    pub commits: u64,
}

/// Whether a promotion would now come out as it should: of this node, or, seen from a primary, of
/// its standby.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether nothing speaks against it, but that the primary is well.
    pub ready: bool,
    /// What does.
    pub why_not: Vec<String>,
}

/// For how long nothing limited what could be lost, as the log tells it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Unprotected {
    /// All of it, up to now, in ms.
    pub total_ms: u64,
    /// In how many spans.
    pub spans: u64,
    /// The one that lasts now.
    pub now: Option<UnprotectedSpan>,
    /// The last ones that have ended, the newest first, at most 8.
    pub last: Vec<UnprotectedSpan>,
}

/// A time for which nothing limited what could be lost.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnprotectedSpan {
    /// Its beginning, in milliseconds since 1970.
    pub since_unix_ms: u64,
    /// Its end; `None` while it lasts.
    pub until_unix_ms: Option<u64>,
    /// How long it was, or has been, in ms.
    pub ms: u64,
    /// Why.
    pub by: UnprotectedBy,
    /// What the operator said.
    pub note: String,
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
    /// Two histories contradict each other: nothing is answered until an operator has chosen.
    Conflict,
}

impl ProtectionState {
    /// Its name, as people read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "OFF",
            Self::Protected => "PROTECTED",
            Self::Suspended => "SUSPENDED",
            Self::Stalled => "STALLED",
            Self::Shut => "SHUT",
            Self::Conflict => "CONFLICT",
        }
    }
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
    /// How much each stage lacks; empty where there is no peer.
    pub stages: Vec<StageLag>,
    /// Whether a promotion would come out as it should; `None` where there is no peer.
    pub readiness: Option<Readiness>,
    /// For how long nothing limited what could be lost; `None` where there is no peer.
    pub unprotected: Option<Unprotected>,
    /// What recovery found when it started.
    pub recovered: Recovered,
    /// Process id of the running node; `None` when the directory was read without one.
    pub pid: Option<u32>,
    /// Where it listens for its peer.
    pub listen: Option<String>,
    /// Where it answers over HTTP.
    pub http: Option<String>,
    /// Log time, where it stands still: no put expires until the clock is confirmed.
    #[serde(default)]
    pub held_log_time: Option<HeldLogTime>,
    /// How the operator's command ended that was last run for a change of role.
    #[serde(default)]
    pub role_change: Option<HookRun>,
    /// What is worth attention, in words.
    pub warnings: Vec<String>,
    /// What to type next, if anything is to be done.
    pub next: Option<String>,
}
