//! What a promotion states: what is known, what is not, and what was lost at most.
//!
//! What follows below is `PROMOTION.md`.
#![doc = ""]
#![doc = include_str!("../PROMOTION.md")]

mod files;
mod signed;
#[cfg(test)]
mod tests;

use outlast_engine::format::{ClusterId, EpochRecord, Lsn, NodeId, Position};
use serde::{Deserialize, Serialize};

pub use self::files::{
    CERTIFICATE_BYTES_MAX, SIGNATURE_SUFFIX, StoredCertificate, certificate_path,
    read_certificate_file, signature_path, stored_certificates,
};
pub use self::signed::{
    CertificateFault, CertificateSignature, Signer, Verified, known_signers, verify,
};

/// How a promotion is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PromoteOptions {
    /// Only say what would be done, by the same code up to the point of no return.
    pub dry_run: bool,
    /// The operator states that the primary is down and stays down until it follows this node.
    pub primary_is_down: bool,
    /// The operator states that the primary still answers but cannot do its work.
    pub primary_is_sick: bool,
    /// The loss that the operator accepts.
    pub accept_loss: Option<AcceptedLoss>,
    /// Why, for the record.
    pub reason: String,
}

/// The loss that an operator accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AcceptedLoss {
    /// Whatever it is.
    Unbounded,
    /// So many commits, if it is certain that no more are lost.
    Commits(u64),
    /// So many bytes of log.
    Bytes(u64),
}

impl AcceptedLoss {
    /// Whether a loss that is bounded so is accepted.
    #[must_use]
    pub fn covers(&self, bound: &CertifiedBound) -> bool {
        match self {
            Self::Unbounded => true,
            Self::Commits(most) => bound.commits.is_some_and(|commits| commits <= *most),
            Self::Bytes(most) => bound.bytes.is_some_and(|bytes| bytes <= *most),
        }
    }
}

impl std::str::FromStr for AcceptedLoss {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unbounded" {
            return Ok(Self::Unbounded);
        }
        if let Ok(commits) = text.parse() {
            return Ok(Self::Commits(commits));
        }
        let bytes = text.parse::<bytesize::ByteSize>().map_err(|_| {
            format!("`{text}`: write a number of commits, a size such as 64KiB, or `unbounded`")
        })?;
        Ok(Self::Bytes(bytes.as_u64()))
    }
}

/// The most that the old primary may have answered and this node does not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CertifiedBound {
    /// Bytes of log; `None` where that is not bounded.
    pub bytes: Option<u64>,
    /// Commits.
    pub commits: Option<u64>,
    /// Time from the answer to the first of them to that to the last, in milliseconds.
    pub span_ms: Option<u64>,
    /// How long after the last echo the old primary may have answered, in milliseconds.
    pub lease_ms: u64,
    /// Where the protection record ends that says so.
    pub record: Lsn,
}

/// One line of a certificate: what was found out, or that it could not be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding<T> {
    /// It was found out.
    Known(T),
    /// It was not, for this reason. Never a pass.
    NotAvailable(String),
}

impl<T> Finding<T> {
    /// The value, if it is known.
    pub const fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::NotAvailable(_) => None,
        }
    }
}

/// What keeps the old primary from acknowledging.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Fencing {
    /// The operator says that it is down.
    Stated,
    /// Nothing is known to: under the policy async silence fences nobody, and under a bound a lease
    /// may still hold.
    Not,
    /// This node has been silent for longer than its lease, whatever the two clocks: it answers
    /// nothing any more.
    Fenced,
}

/// What became of a promotion.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Outcome {
    /// The epoch is open: this node is the primary.
    Promoted,
    /// It was the primary already; nothing was done.
    AlreadyPrimary,
    /// A dry run: nothing was done, and nothing stands in the way.
    WouldPromote,
    /// Something stands in the way; nothing was done.
    Refused {
        /// Why.
        why: String,
        /// What to type instead.
        next: String,
    },
}

/// The positions of a standby when it was promoted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StandbyPositions {
    /// End of what it had received.
    pub received: Position,
    /// End of what it had fsynced.
    pub durable: Position,
    /// End of what its readers saw.
    pub applied: Position,
}

/// What the primary last said of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PrimaryLastSeen {
    /// End of its log.
    pub appended: Position,
    /// End of what it had fsynced.
    pub durable: Position,
    /// How long ago, in milliseconds.
    pub age_ms: u64,
}

/// What is missing here of what the primary was last known to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MeasuredLoss {
    /// Bytes of log.
    pub bytes: u64,
    /// Commits.
    pub commits: u64,
}

/// The record of a promotion. `"schema": 1`; fields are only ever added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Certificate {
    /// Version of this layout.
    pub schema: u32,
    /// What became of it.
    pub outcome: Outcome,
    /// The cluster.
    pub cluster: ClusterId,
    /// The node that was promoted.
    pub node: NodeId,
    /// Its name.
    pub node_name: String,
    /// The policy of the cluster.
    pub policy: String,
    /// What keeps the old primary from acknowledging.
    pub fencing: Fencing,
    /// For how long nothing was heard from the primary, in milliseconds.
    pub silence_ms: Finding<u64>,
    /// Where this node stood.
    pub positions: StandbyPositions,
    /// What the primary last said of itself.
    pub primary: Finding<PrimaryLastSeen>,
    /// What is missing here of that. Commits after its last word are not in it.
    pub measured_loss: Finding<MeasuredLoss>,
    /// The most that can be lost.
    pub bound: Finding<CertifiedBound>,
    /// Up to where every frame was checked against its checksums and its predecessor.
    pub chain_verified_to: Finding<Lsn>,
    /// The last comparison of the two nodes' states.
    pub state_audit: Finding<String>,
    /// Age of the last re-reading of the oldest file.
    pub scrub: Finding<String>,
    /// Acknowledged bytes that this node had lost and not been sent again: up to where.
    pub acked_tail_lost: Option<Lsn>,
    /// The epoch that began, or (dry run) would begin after.
    pub epoch: Option<EpochRecord>,
    /// Time from the request to the first possible write, in milliseconds.
    pub took_ms: u64,
    /// The writer's wall clock in milliseconds since 1970.
    pub wall_ms: u64,
    /// What all of this rests on, in words.
    pub conditions: Vec<String>,
}
