//! Reading a peer's log in order to mend one's own: a conversation apart from sessions.
//!
//! The node that lacks frames dials, the peer answers from what is durable in its own log, whatever
//! its role. Nothing is concluded from such a conversation but what the log holds: no term is told,
//! no silence ends, no contact counts.

mod asker;
mod giver;
mod message;

use outlast_engine::format::{FrameFault, Lsn};
use thiserror::Error;

pub use self::asker::{Asker, AskerInput, AskerOutput};
pub use self::giver::{Giver, GiverInput, GiverOutput};
pub use self::message::{NotGiven, RepairAsk, RepairMessage, RepairRefusal};

/// Why a conversation about a repair ended.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum RepairEnd {
    /// The peer does not give to this node.
    #[error("the peer does not give its log to this node: {0}")]
    Refused(RepairRefusal),
    /// This node does not give to the peer.
    #[error("the peer was not given this node's log: {0}")]
    Declined(RepairRefusal),
    /// Nothing was heard for too long.
    #[error("the peer was silent for too long")]
    Silent,
    /// A message or data that has no place at this point.
    #[error("{0} out of turn")]
    Unexpected(&'static str),
    /// A message whose content no honest peer sends.
    #[error("the peer sent {0}, which cannot be")]
    Impossible(&'static str),
    /// Data that is not the frames asked for. Nothing of it was taken.
    #[error("the peer sent bytes for {at} that are not the log's: {fault}")]
    BadData {
        /// What was asked for begins there.
        at: Lsn,
        /// What is wrong.
        #[source]
        fault: FrameFault,
    },
}

#[cfg(test)]
mod tests;
