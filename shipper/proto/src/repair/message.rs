//! What is said about a repair, and as which bytes.

use outlast_engine::format::{ClusterId, Lsn, LsnRange, NodeId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::message::Versions;
use crate::points::LogEnd;
use crate::session::{Nonce, SessionId};

/// A message of a conversation about a repair. Both ends name both nonces once they know them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RepairMessage {
    /// Opens it. Sent by the node that dialled, once, before anything else.
    Ask(RepairAsk),
    /// "Ask for what you lack." The answer to an Ask.
    Ready {
        /// The conversation.
        session: SessionId,
        /// The protocol version that both go on with.
        version: u16,
        /// How far the log of the one who answers is durable.
        durable: Lsn,
    },
    /// The other answer to an Ask; the connection ends.
    Refuse {
        /// The nonce of the Ask.
        asker: Nonce,
        /// Why.
        reason: RepairRefusal,
    },
    /// "Give me what continues this." The next one follows when this one is answered.
    Want {
        /// The conversation.
        session: SessionId,
        /// What the frames must continue: the last sound frame before the damage.
        at: LogEnd,
        /// Up to where they are wanted, at most a window behind `at`. Need not be a frame's end.
        end: Lsn,
    },
    /// Frames for the Want: so many bytes follow as data.
    Piece {
        /// The conversation.
        session: SessionId,
        /// Whole frames, from where the Want begins. They may end before the Want does; one frame
        /// that is longer than the Want goes alone.
        range: LsnRange,
    },
    /// No frames for the Want.
    Nothing {
        /// The conversation.
        session: SessionId,
        /// Where the Want begins.
        at: Lsn,
        /// Why.
        why: NotGiven,
    },
}

/// What a node says that asks for another's log. Which node it is, its key has proven.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RepairAsk {
    /// Protocol versions that it speaks.
    pub versions: Versions,
    /// Its half of the conversation's name.
    pub nonce: Nonce,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Whom it means to have dialled.
    pub to: NodeId,
}

/// Why a node does not give its log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RepairRefusal {
    /// It belongs to another cluster.
    #[error("the two nodes belong to different clusters")]
    OtherCluster,
    /// The Ask was meant for another node.
    #[error("another node answers at the peer's address")]
    OtherNode,
    /// No protocol version in common.
    #[error("the versions {}..={} are spoken there, and none of them here", .0.oldest, .0.newest)]
    Version(Versions),
    /// Another repair is given to at the moment.
    #[error("it gives to another repair at the moment")]
    Busy,
}

/// Why a Want brings no frames.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum NotGiven {
    /// The log does not reach so far.
    NotHeld {
        /// How far it is durable.
        durable: Lsn,
    },
    /// It holds other frames there: it is a fork of the asker's, or the asker's of it.
    OtherHistory,
    /// It is damaged there itself.
    Damaged,
    /// It could not be read.
    Unreadable,
}

impl RepairMessage {
    /// Its name, for logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ask(_) => "Ask",
            Self::Ready { .. } => "Ready",
            Self::Refuse { .. } => "Refuse",
            Self::Want { .. } => "Want",
            Self::Piece { .. } => "Piece",
            Self::Nothing { .. } => "Nothing",
        }
    }
}
