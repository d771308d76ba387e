//! Errors: few kinds, each of which tells the caller what to do.

use std::error::Error as StdError;
use std::fmt;

use crate::conflict::LostTo;
use crate::format::Lsn;
use crate::receipt::Receipt;

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The directory holds no store. Nothing is ever initialised implicitly: make it, or name the
    /// right one.
    NotInitialised,
    /// There is a store already; it is not overwritten.
    AlreadyInitialised,
    /// Another process holds the directory.
    Locked,
    /// An argument or a setting is out of its limits. Nothing was written.
    Limit,
    /// The directory was written by another version or for another cluster.
    Incompatible,
    /// Bytes below a position that was vouched for do not hold. Nothing was cut; repair them.
    Corrupt,
    /// No space is left for new writes. Reads go on, and writes do once space returns.
    DiskFull,
    /// The operating system refused.
    Io,
    /// A write or an fsync failed earlier: what the disk holds is unknown until the store is
    /// reopened.
    Poisoned,
    /// This node is not the writer (following, or not started), so it takes no commits.
    NotWriter,
    /// A newer term exists: this node may never write again under its own.
    Fenced,
    /// Two histories contradict each other: an operator must choose one of them.
    Conflict,
    /// No keyspace of this name.
    NoKeyspace,
    /// The position is not held here (not yet, or no longer).
    NotHeld,
    /// Only a part of the log is left at the position: the rest was compacted.
    /// [`Error::oldest`] says from where on all of it is.
    LogTruncated,
    /// The snapshot is older than [`Config::snapshot_age_max`](crate::Config::snapshot_age_max)
    /// allows, and so is what was read or begun from it: take a new one.
    SnapshotTooOld,
    /// The bound on loss is used up, or the standby was not heard for as long as the lease, and new
    /// commits are to be refused then. Nothing was written.
    OutOfBound,
    /// The standby was not heard for as long as the lease: it may have been promoted, and what this
    /// node shows may no longer be what holds. A [`Store::snapshot`](crate::Store::snapshot) is
    /// taken all the same.
    NotCurrent,
    /// This node was the writer, has a peer, and has not heard from it since it was started: the
    /// peer may have been promoted meanwhile. A [`Store::snapshot`](crate::Store::snapshot) is
    /// taken all the same.
    NotConfirmed,
    /// The deadline passed.
    Timeout,
    /// The store was closed while the call waited.
    Closed,
    /// A commit before it in its pipeline failed, so it was not tried.
    Skipped,
    /// A transaction read what another has changed before it could be committed. Run it again;
    /// [`Error::lost_to`] names the entry.
    TransactionConflict,
}

/// An error of the engine: what happened, of which kind, and from what it came.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    what: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// From where on all of the log is left.
#[derive(Debug, thiserror::Error)]
#[error("the log is whole from {0} on")]
struct OldestWhole(Lsn);

/// The engine's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this kind; `what` says what happened and what to do next.
    #[must_use]
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            source: None,
        }
    }

    /// The same error with what caused it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What the operating system answered when `doing` was done. A full disk has its own kind.
    #[must_use]
    pub fn io(doing: impl fmt::Display, error: std::io::Error) -> Self {
        let full = matches!(
            error.kind(),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
        );
        let kind = if full {
            ErrorKind::DiskFull
        } else {
            ErrorKind::Io
        };
        Self::new(kind, format!("could not {doing}")).because(error)
    }

    pub(crate) fn log_truncated(from: Lsn, oldest: Lsn) -> Self {
        let what = format!(
            "the log is no longer whole at {from}: what it says below {oldest} was compacted. Begin \
             with a snapshot or a checkpoint, and go on from its position"
        );
        Self::new(ErrorKind::LogTruncated, what).because(OldestWhole(oldest))
    }

    /// From where on all of the log is left, in an error of kind
    /// [`LogTruncated`](ErrorKind::LogTruncated).
    #[must_use]
    pub fn oldest(&self) -> Option<Lsn> {
        let oldest = self.source.as_ref()?.downcast_ref::<OldestWhole>()?;
        Some(oldest.0)
    }

    /// What a caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What the transaction lost to, in an error of kind
    /// [`TransactionConflict`](ErrorKind::TransactionConflict).
    #[must_use]
    pub fn lost_to(&self) -> Option<&LostTo> {
        self.source.as_ref()?.downcast_ref()
    }

    /// The same error again, for each of several waiting callers.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let source = self.source.as_ref().map(|source| {
            if let Some(lost) = self.lost_to() {
                lost.clone().into()
            } else if let Some(oldest) = self.oldest() {
                OldestWhole(oldest).into()
            } else {
                source.to_string().into()
            }
        });
        Self {
            kind: self.kind,
            what: self.what.clone(),
            source,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

/// How a commit ended when it did not end well. There is no third way.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The batch is not in the log and never will be.
    #[error("the commit failed, nothing of it was written: {0}")]
    Failed(#[source] Error),
    /// The batch was formed into a frame; whether it lasts is not known yet. Check the receipt
    /// later.
    #[error("the outcome of commit {} is unknown, check its receipt later: {error}", receipt.commit)]
    Unknown {
        /// Names the commit on every node.
        receipt: Receipt,
        /// Why it is not known.
        #[source]
        error: Error,
    },
}

impl CommitError {
    /// Why it did not end well.
    #[must_use]
    pub const fn error(&self) -> &Error {
        match self {
            Self::Failed(error) | Self::Unknown { error, .. } => error,
        }
    }
}

/// What failed before the commit was begun: nothing was written.
impl From<Error> for CommitError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_log_says_from_where_on_it_is_held_to_every_waiting_caller() {
        let error = Error::log_truncated(Lsn(8), Lsn(64))
            .duplicate()
            .duplicate();
        assert_eq!(error.kind(), ErrorKind::LogTruncated);
        assert_eq!(error.oldest(), Some(Lsn(64)));
        assert!(error.to_string().contains("below 64"), "{error}");
        assert_eq!(Error::new(ErrorKind::NotHeld, "x").oldest(), None);
    }
}
