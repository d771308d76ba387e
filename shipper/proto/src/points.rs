//! Points in a history: positions, terms, ends of logs.

use std::fmt;

pub use outlast_engine::format::Position;
use outlast_engine::format::{Chain, ClusterId, EpochId, EpochKey, History, Lsn};
use serde::{Deserialize, Serialize};

/// A term, and which epoch opened it.
///
/// The number orders terms. The opener tells two promotions apart that chose the same number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Term {
    /// Raised by a change of roles, and by nothing else; 0 before the first epoch.
    pub number: u32,
    /// The epoch that raised it; [`EpochId::NONE`] before the first.
    pub opened_by: EpochId,
}

impl Term {
    /// Before the first epoch.
    pub const NONE: Self = Self {
        number: 0,
        opened_by: EpochId::NONE,
    };

    /// The newest term of a history.
    #[must_use]
    pub fn of(history: &History) -> Self {
        history.last().map_or(Self::NONE, |epoch| Self {
            number: epoch.term,
            opened_by: epoch.opened_by,
        })
    }

    /// Whether two nodes were promoted under this number: a double promotion.
    #[must_use]
    pub fn conflicts_with(&self, other: &Self) -> bool {
        self.number == other.number && self.opened_by != other.opened_by
    }

    /// The one with the higher number; `self` when they are equal.
    #[must_use]
    pub const fn or_higher(self, other: Self) -> Self {
        if other.number > self.number {
            other
        } else {
            self
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} opened by {}", self.number, self.opened_by.short())
    }
}

/// Where a protection record stands. Of two, the one of the later epoch is newer, whatever its LSN.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ProtectionPoint {
    /// Term of the epoch that wrote it.
    pub term: u32,
    /// Start of that epoch.
    pub start: u32,
    /// Where its frame ends in that epoch.
    pub lsn: Lsn,
    /// The epoch.
    pub epoch: EpochId,
}

/// A position that a standby acknowledged as durable, and the epoch in which it did.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct AckMark {
    /// The epoch named by the acknowledgement.
    pub epoch: EpochId,
    /// What was acknowledged.
    pub durable: Lsn,
}

/// The end of a log as its next frame will name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogEnd {
    /// Where the next frame begins.
    pub lsn: Lsn,
    /// Checksum of the last frame.
    pub check: u32,
    /// Term, start and id of the last frame's epoch; `None` for an empty log.
    pub epoch: Option<(u32, u32, EpochId)>,
    /// Commit number of the next batch.
    pub next_commit: u64,
    /// Log time of the last frame in milliseconds since 1970.
    pub log_ms: u64,
    /// `visible` of the last frame.
    pub visible: Lsn,
    /// `watermark` of the last frame.
    pub watermark: Lsn,
}

impl LogEnd {
    /// The chain that the next frame continues.
    #[must_use]
    pub fn chain(&self, cluster: ClusterId) -> Chain {
        Chain {
            cluster,
            lsn: self.lsn,
            check: self.check,
            epoch: self
                .epoch
                .map(|(term, start, id)| EpochKey { term, start, id }),
            next_commit: self.next_commit,
            log_ms: self.log_ms,
            visible: self.visible,
            watermark: self.watermark,
        }
    }
}

impl From<&Chain> for LogEnd {
    fn from(chain: &Chain) -> Self {
        Self {
            lsn: chain.lsn,
            check: chain.check,
            epoch: chain.epoch.map(|key| (key.term, key.start, key.id)),
            next_commit: chain.next_commit,
            log_ms: chain.log_ms,
            visible: chain.visible,
            watermark: chain.watermark,
        }
    }
}
