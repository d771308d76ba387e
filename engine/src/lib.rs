//! An append-only log of checksummed segments with an ordered key-value state on top.
//!
//! The engine knows nothing of networks. It keeps a log, forms and checks its frames, recovers its
//! tail, and holds the state that the log describes; what ships the log is built on top of it.

pub mod clock;
mod config;
mod error;
pub mod format;
pub mod fs;
mod log;
mod receipt;

pub use config::{Config, InitOptions, WriteMode};
pub use error::{CommitError, Error, ErrorKind, Result};
pub use log::{
    About, CommitFuture, CommitOptions, Level, LogCursor, LogState, LogView, Positions,
    ProtectionMark, Recovered, ReplicaPositions, TermMark, about,
};
pub use receipt::{Receipt, ReceiptStatus};
