//! What binds a message to one conversation: the nonces of both ends, and the epoch.

use std::fmt;

use outlast_engine::format::{EpochId, Lsn};
use serde::{Deserialize, Serialize};

/// A random number that one end makes for one session. The shell draws it; it must never repeat.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Nonce(pub [u8; 8]);

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({self})")
    }
}

/// One connection of a pair, from handshake to its end, named by the nonces of both ends.
///
/// Each end finds its own fresh nonce in the name, so neither can be answered with what belonged to
/// an earlier conversation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct SessionId {
    /// Made by the node that dialled.
    pub dialler: Nonce,
    /// Made by the node that listened.
    pub listener: Nonce,
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.dialler, self.listener)
    }
}

/// What every message behind the handshake names. One that names anything else is dropped and
/// counted, whatever it says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Binding {
    /// The session.
    pub session: SessionId,
    /// The primary's newest epoch when the session began. Beginning another one ends the session.
    pub epoch: EpochId,
}

/// The header of a run of data: what the bytes behind it belong to, and where they begin.
///
/// Runs of one session follow each other without gap or overlap. A run goes on until the next
/// header; it consists of whole frames.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct RunHeader {
    /// Session and epoch.
    pub binding: Binding,
    /// Position of the first byte of the run.
    pub first: Lsn,
}
