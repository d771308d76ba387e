//! Control records: the payloads of frames that hold no batch, in postcard.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::ids::NodeId;

/// A payload that is not the control record its frame announces.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("a control record does not decode: {what}")]
pub struct ControlFault {
    what: String,
}

/// A keyspace is made. Its id is never used again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyspaceRecord {
    /// The id that records carry.
    pub id: u32,
    /// The name that callers use.
    pub name: String,
}

impl KeyspaceRecord {
    /// The payload of its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// The record in a payload.
    ///
    /// # Errors
    /// When the payload is another thing.
    pub fn decode(payload: &[u8]) -> Result<Self, ControlFault> {
        decode(payload)
    }
}

/// Policy and members from here on. Each record is complete.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProtectionRecord {
    /// Most acknowledged bytes that may be missing on the standbys; `None` for no such bound.
    pub bound_bytes: Option<u64>,
    /// Most acknowledged commits that may be missing.
    pub bound_commits: Option<u64>,
    /// Longest time between the first and the last acknowledgement that may be missing, in ms.
    pub bound_ms: Option<u64>,
    /// How long after the last echo commits may be acknowledged, in ms; `None` under `async`.
    pub lease_ms: Option<u64>,
    /// The standbys.
    pub members: Vec<NodeId>,
    /// How many of them must hold what is acknowledged.
    pub copies: u32,
    /// Whether the bound is in force.
    pub in_force: bool,
    /// Why, in the operator's words.
    pub note: String,
}

impl ProtectionRecord {
    /// The policy `async`: no bound, and no fence by silence.
    #[must_use]
    pub fn unbounded(members: Vec<NodeId>, note: String) -> Self {
        let (bound_bytes, bound_commits, bound_ms, lease_ms) = (None, None, None, None);
        let copies = 0;
        Self {
            bound_bytes,
            bound_commits,
            bound_ms,
            lease_ms,
            members,
            copies,
            in_force: false,
            note,
        }
    }

    /// The payload of its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// The record in a payload.
    ///
    /// # Errors
    /// When the payload is another thing.
    pub fn decode(payload: &[u8]) -> Result<Self, ControlFault> {
        decode(payload)
    }
}

pub(super) fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    match postcard::to_stdvec(record) {
        Ok(bytes) => bytes,
        Err(error) => panic!("a control record always encodes: {error}"),
    }
}

pub(super) fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, ControlFault> {
    let fault = |what: &dyn std::fmt::Display| ControlFault {
        what: what.to_string(),
    };
    match postcard::take_from_bytes(payload) {
        Ok((record, [])) => Ok(record),
        Ok((_, rest)) => Err(fault(&format_args!("{} bytes too many", rest.len()))),
        Err(error) => Err(fault(&error)),
    }
}
