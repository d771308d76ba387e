//! Errors of a node: what happened, what a caller can do about it, and what to type next.

use std::fmt;

use outlast_engine::{CommitError, ErrorKind};
use outlast_shipper::LinkError;

use crate::control::protocol::{Failure, FailureKind};

/// The node's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a node.
#[derive(Debug)]
pub struct Error {
    kind: FailureKind,
    what: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of this kind; `what` says what happened.
    #[must_use]
    pub fn new(kind: FailureKind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            hint: None,
            source: None,
        }
    }

    /// A precondition does not hold; nothing was changed.
    #[must_use]
    pub fn refused(what: impl Into<String>) -> Self {
        Self::new(FailureKind::Refused, what)
    }

    /// The same error with what to type next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error with what caused it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What a caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> FailureKind {
        self.kind
    }

    /// As it is told over the control socket.
    #[must_use]
    pub fn to_failure(&self) -> Failure {
        let mut what = self.what.clone();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            what = format!("{what}: {cause}");
            source = cause.source();
        }
        Failure {
            kind: self.kind,
            what,
            hint: self.hint.clone(),
            receipt: None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

impl From<outlast_engine::Error> for Error {
    fn from(error: outlast_engine::Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Corrupt => FailureKind::Corrupt,
            ErrorKind::Timeout => FailureKind::Timeout,
            ErrorKind::Limit | ErrorKind::NoKeyspace | ErrorKind::NotInitialised => {
                FailureKind::Usage
            }
            ErrorKind::NotWriter
            | ErrorKind::Fenced
            | ErrorKind::Conflict
            | ErrorKind::Locked
            | ErrorKind::NotHeld
            | ErrorKind::LogTruncated
            | ErrorKind::OutOfBound
            | ErrorKind::NotCurrent
            | ErrorKind::NotConfirmed
            | ErrorKind::Skipped
            | ErrorKind::AlreadyInitialised => FailureKind::Refused,
            _ => FailureKind::Failed,
        };
        let mut own = Self::new(kind, error.to_string());
        if let Some(source) = std::error::Error::source(&error) {
            own = own.because(source.to_string());
        }
        own
    }
}

impl From<LinkError> for Error {
    fn from(error: LinkError) -> Self {
        Self::new(FailureKind::Failed, error.to_string())
    }
}

/// How a commit's end is told over the control socket.
pub(crate) fn commit_failure(error: &CommitError) -> Failure {
    match error {
        CommitError::Unknown { receipt, error } => Failure {
            kind: FailureKind::Unknown,
            what: error.to_string(),
            hint: Some("check the receipt later".to_owned()),
            receipt: Some(*receipt),
        },
        CommitError::Failed(error) => Error::from(error.duplicate()).to_failure(),
        _ => Error::new(FailureKind::Failed, error.to_string()).to_failure(),
    }
}
