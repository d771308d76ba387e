//! Why a session ended.

use outlast_engine::format::{FrameFault, Lsn, NodeId};
use thiserror::Error;

use crate::message::{ByeReason, ConflictKind, RefuseReason};
use crate::points::Term;

/// Why a session ended: what happened, and by its kind what follows.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer said good bye.
    #[error("the peer ended the session ({0:?})")]
    Bye(ByeReason),
    /// This node ended it in an orderly way, and said so.
    #[error("the session was ended here ({0:?})")]
    Ended(ByeReason),
    /// Nothing was heard for too long.
    #[error("the peer was silent for too long")]
    Silent,
    /// A step of the handshake took too long.
    #[error("the handshake took too long while {0}")]
    Handshake(&'static str),
    /// The peer declined.
    #[error("the peer declined: {0:?}")]
    Refused(RefuseReason),
    /// This node declined, or found the peer to be another than it should be.
    #[error("the peer was declined: {0:?}")]
    Declined(RefuseReason),
    /// A higher term exists; this node fences itself.
    #[error("the peer knows term {0}, which is higher")]
    HigherTerm(Term),
    /// Neither side may give way by itself: an operator must choose which history stays.
    #[error("conflict with the peer: {0:?}")]
    Conflict(ConflictKind),
    /// A message or data that has no place at this point of the session.
    #[error("{0} out of turn")]
    Unexpected(&'static str),
    /// A message whose content no honest peer sends.
    #[error("the peer sent {0}, which cannot be")]
    Impossible(&'static str),
    /// Data that is not the log's next frames. Nothing of it was taken.
    #[error("the data of the peer does not hold: {0}")]
    BadData(#[source] FrameFault),
    /// A run of data that does not begin where the last one ended.
    #[error("data begins at {got} where {expected} was due")]
    Gap {
        /// What was due.
        expected: Lsn,
        /// What came.
        got: Lsn,
    },
    /// The peer sent more than the window allows.
    #[error("{unwritten_bytes} bytes arrived before they could be written, {limit_bytes} allowed")]
    WindowOverrun {
        /// Bytes that arrived and are not appended yet.
        unwritten_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// This node's own log does not hold what it should: the bytes read from it fail their check.
    #[error(
        "this node's log is damaged where it was to be sent ({0}): mend it with `outlast repair`"
    )]
    OwnLogDamaged(#[source] FrameFault),
    /// This node's log could not be read or written.
    #[error("this node's log failed")]
    OwnLogFailed,
    /// The two logs end at the same place with different frames, although their histories agree.
    #[error("the logs differ at {at} although their histories agree: compare them with `cmp`")]
    LogsDiffer {
        /// Where both end.
        at: Lsn,
    },
    /// The standby's log goes on in this history where its running writer's ends: the writer was
    /// set back. Once it has restarted, it fetches what it lacks.
    #[error("the standby's log ends at {standby_end}, beyond its writer's: restart this node")]
    WriterBehind {
        /// Where the standby's log ends.
        standby_end: Lsn,
    },
    /// The node that answered is another than the one that was dialled.
    #[error("node {got} answered where {expected} was dialled")]
    OtherPeer {
        /// Whom this node dialled.
        expected: NodeId,
        /// Who answered.
        got: NodeId,
    },
}

impl CloseReason {
    /// Whether it must not happen between sound nodes, so that somebody should look.
    #[must_use]
    pub const fn is_alarm(&self) -> bool {
        match self {
            Self::Bye(ByeReason::Truncated) | Self::Ended(ByeReason::Truncated) => true,
            Self::Bye(_)
            | Self::Ended(_)
            | Self::Silent
            | Self::Handshake(_)
            | Self::Refused(_)
            | Self::Declined(_)
            | Self::HigherTerm(_) => false,
            Self::Conflict(_)
            | Self::Unexpected(_)
            | Self::Impossible(_)
            | Self::BadData(_)
            | Self::Gap { .. }
            | Self::WindowOverrun { .. }
            | Self::OwnLogDamaged(_)
            | Self::OwnLogFailed
            | Self::LogsDiffer { .. }
            | Self::WriterBehind { .. }
            | Self::OtherPeer { .. } => true,
        }
    }
}
