//! An append-only log of checksummed segments with an ordered key-value state on top.
//!
//! The engine knows nothing of networks. It keeps a log, forms and checks its frames, recovers its
//! tail, and holds the state that the log describes; what ships the log is built on top of it.

pub mod clock;
mod error;
pub mod format;
mod receipt;

pub use error::{CommitError, Error, ErrorKind, Result};
pub use receipt::{Receipt, ReceiptStatus};
