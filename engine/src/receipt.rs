//! Receipts: what a commit returns, and what any node can later say of it.

use serde::{Deserialize, Serialize};

use crate::format::{EpochId, Lsn};

/// Names one commit on every node, across forks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
pub struct Receipt {
    /// The epoch that wrote it. After a fork the same LSN names another commit; the pair never
    /// does.
    pub epoch: EpochId,
    /// Where the batch ends.
    pub lsn: Lsn,
    /// Its ordinal in the history.
    pub commit: u64,
}

/// What a node knows of a receipt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ReceiptStatus {
    /// In this node's history and readable here.
    InThisHistory,
    /// In this node's history, above what its readers may see; or not yet received.
    Pending,
    /// Its epoch is not in this history, or was left before it: it lies on a fork.
    OnAFork,
}
