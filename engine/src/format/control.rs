//! Control records: the payloads of frames that hold no batch, in postcard.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::ids::NodeId;
use super::limits::{MEMBERS_MAX, NOTE_LEN_MAX};

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
    pub standing: ProtectionStanding,
    /// Whether new commits are refused, and do not wait, while the bound is used up.
    pub refuses: bool,
    /// Why, in the operator's words; at most [`NOTE_LEN_MAX`](super::limits::NOTE_LEN_MAX) bytes.
    pub note: String,
}

/// Whether a bound is in force.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ProtectionStanding {
    /// Not yet, or not any more.
    Off,
    /// It is.
    InForce,
    /// An operator suspended it; it is in force again after this time by itself.
    Suspended {
        /// For how long, in milliseconds.
        lasts_ms: u64,
    },
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
            standing: ProtectionStanding::Off,
            refuses: false,
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
    /// When the payload is another thing, or above a limit.
    pub fn decode(payload: &[u8]) -> Result<Self, ControlFault> {
        let record: Self = decode(payload)?;
        if record.within_limits() {
            return Ok(record);
        }
        let what = "more members, or a longer note, than any node writes".to_owned();
        Err(ControlFault { what })
    }

    /// Whether its lists and texts are as short as they must be.
    #[must_use]
    pub const fn within_limits(&self) -> bool {
        self.members.len() <= MEMBERS_MAX && self.note.len() <= NOTE_LEN_MAX
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
