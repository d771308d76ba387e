//! Plain facts that the shell gives about a node and its log.

use outlast_engine::format::{Chain, ClusterId, History, Lsn, NodeId};
use serde::{Deserialize, Serialize};

use crate::points::{AckMark, Position, ProtectionPoint, Term};

/// Who a node is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Itself.
    pub node: NodeId,
    /// Its name, for people; at most [`NODE_NAME_LEN_MAX`] bytes.
    ///
    /// [`NODE_NAME_LEN_MAX`]: outlast_engine::format::limits::NODE_NAME_LEN_MAX
    pub name: String,
    /// Size of the cluster's segment files in bytes, which limits its frames.
    pub segment_size: u64,
}

/// How a primary is, as its heartbeats say.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PrimaryState {
    /// It takes writes.
    #[default]
    Serving,
    /// Its disk has no room for new writes; reads and shipping go on.
    DiskFull,
    /// A write or an fsync failed: it acknowledges nothing any more.
    Poisoned,
    /// It is closing in an orderly way.
    Stopping,
}

/// What a primary says of itself between frames. Order: visible ≤ durable ≤ appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PrimaryView {
    /// End of the last formed frame.
    pub appended: Position,
    /// End of what is fsynced on the primary.
    pub durable: Position,
    /// What its readers may see.
    pub visible: Position,
    /// The newest protection record, if any was written.
    pub protection: Option<ProtectionPoint>,
    /// How it is.
    pub state: PrimaryState,
}

impl PrimaryView {
    /// Whether visible ≤ durable ≤ appended.
    #[must_use]
    pub fn in_order(&self) -> bool {
        self.durable.covers(&self.visible) && self.appended.covers(&self.durable)
    }
}

/// A log and where it stands, as the shell reads it from the store in one go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogView {
    /// Its end: what the next frame continues.
    pub end: Chain,
    /// Its epochs, each of which begins below the end.
    pub history: History,
    /// End of what is fsynced. Below the end while received bytes wait for their fsync.
    pub durable: Position,
    /// End of what readers see.
    pub applied: Position,
}

/// What is true of a primary when it dials.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrimaryFacts {
    /// Who it is.
    pub identity: Identity,
    /// Whom it dials; the key that the peer proved belongs to this node.
    pub peer: NodeId,
    /// The highest term it ever heard of, its own included.
    pub heard: Term,
    /// Its log. `applied` is what its readers see: its visible position.
    pub log: LogView,
    /// The newest protection record, if any was written.
    pub protection: Option<ProtectionPoint>,
    /// How it is.
    pub state: PrimaryState,
    /// The last durable position that this standby acknowledged to it in its newest epoch.
    pub remembered: Option<AckMark>,
}

impl PrimaryFacts {
    /// What it says of itself at first.
    #[must_use]
    pub fn view(&self) -> PrimaryView {
        PrimaryView {
            appended: Position::from(&self.log.end),
            durable: self.log.durable,
            visible: self.log.applied,
            protection: self.protection,
            state: self.state,
        }
    }
}

/// What is true of a standby when its process starts to follow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StandbyFacts {
    /// Who it is.
    pub identity: Identity,
    /// The highest term that it ever heard of, noted durably.
    pub heard: Term,
    /// The newest protection record that it ever heard of, noted durably.
    pub protection: Option<ProtectionPoint>,
    /// Its log.
    pub log: LogView,
    /// The highest visible position that it was ever told, as far as it remembers.
    pub visible_told: Lsn,
    /// What it acknowledged last, by its own durable mark.
    pub acked: Option<AckMark>,
}
