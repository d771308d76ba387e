//! How the binary ends.

use std::process::ExitCode;

/// The exit codes of the binary. They are stable; one that is not listed counts as a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It failed, for a reason that has no code of its own.
    Failure = 1,
    /// The command line or the configuration cannot be meant so. Nothing was done.
    Usage = 2,
    /// The node or its peer cannot be reached.
    NotReachable = 3,
    /// A condition is not met, so it was refused. Nothing was changed.
    Refused = 4,
    /// Data are corrupt.
    Corruption = 5,
    /// Done in part; the message says what remains.
    Partial = 6,
    /// It did not come about in time.
    Timeout = 7,
}

impl Exit {
    /// All of them in short, for help texts.
    pub const HELP: &'static str = "\
Exit codes:
  0 ok  1 failure  2 usage or configuration  3 not reachable  4 refused, nothing changed
  5 corruption found  6 done in part  7 timeout";
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
