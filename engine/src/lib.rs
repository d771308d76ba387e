//! An embedded key-value store whose log is made to be shipped: an append-only log of checksummed
//! segments with an ordered state on top.
//!
//! The engine knows nothing of networks. It keeps a log, forms and checks its frames, recovers its
//! tail, and holds the state that the log describes; what ships the log is built on top of it.
//!
//! ```
//! use std::time::Duration;
//!
//! use outlast_engine::{Batch, CommitOptions, Lsn, Store};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Store::open_in_memory()?;
//! let profiles = store.keyspace("profiles")?;
//! let viewers = store.keyspace("viewers")?;
//!
//! // A batch is seen as a whole or not at all, here and wherever the log is shipped to.
//! let mut batch = Batch::new();
//! batch.put(&profiles, "mina", "sailing")?;
//! batch.put(&viewers, "mina/jun", "")?;
//! let receipt = store.commit(batch, CommitOptions::default())?;
//!
//! // A snapshot is the state at one position; what is committed later does not disturb it.
//! let before = store.snapshot();
//! let mut batch = Batch::new();
//! batch.delete(&viewers, "mina/jun")?;
//! store.commit(batch, CommitOptions::default())?;
//! assert_eq!(before.prefix(&viewers, "mina/").count(), 1);
//! assert_eq!(store.snapshot().prefix(&viewers, "mina/").count(), 0);
//! assert_eq!(store.get(&profiles, "mina")?.as_deref(), Some(&b"sailing"[..]));
//!
//! // Every commit can be read back in order, from any receipt on or from the beginning.
//! let mut tail = store.tail(Lsn::ZERO)?;
//! let first = tail.next_timeout(Duration::from_secs(5))?.expect("two were committed");
//! assert_eq!((first.commit, first.lsn, first.changes.len()), (1, receipt.lsn, 2));
//! let second = tail.poll()?.expect("two were committed");
//! assert_eq!(second.changes[0].key, "mina/jun");
//! # Ok(())
//! # }
//! ```
//!
//! # Contents
//! - [`Store`]: [`init`](Store::init) a directory, [`open`](Store::open) it, and begin to write
//!   ([`begin_epoch`](Store::begin_epoch)) or to follow
//!   ([`begin_following`](Store::begin_following)).
//! - Writing: [`Keyspace`], [`Batch`], [`CommitOptions`] with its [`Level`]; each commit ends as a
//!   [`Receipt`] or a [`CommitError`].
//! - Reading, then writing by it: [`Store::transaction`], [`Store::transact`] and
//!   [`Store::compare_and_set`].
//! - Reading: [`Store::get`], [`Snapshot`] with [`Range`] and [`Keys`], the change feed [`Tail`],
//!   [`Store::receipt_status`] and [`Store::wait_applied`]; from async code [`Store::get_async`],
//!   [`Store::multi_get_async`] and [`Range::into_async`]; from another process
//!   [`Store::open_read_only`].
//! - Watching: [`Store::metrics`].
//! - Shipping: [`LogCursor`], [`Store::append_run`], [`Store::sync`], [`Store::apply_to`].
//! - [`mod@format`]: the bytes of files and frames. [`fs`], [`clock`] and [`entropy`]: what a
//!   simulation replaces. [`planted`]: faults that grade it.

/// The examples of the README, tested.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

mod batch;
pub mod clock;
mod compaction;
mod config;
mod conflict;
mod control_file;
pub mod entropy;
mod error;
pub mod format;
pub mod fs;
mod index;
mod keyspace;
pub mod kill_points;
mod log;
mod metrics;
pub mod planted;
mod receipt;
mod record;
mod snapshot;
mod store;
mod tail;
mod transaction;

pub use batch::Batch;
pub use config::{Config, InitOptions, ReadMode, WriteMode};
pub use conflict::LostTo;
pub use error::{CommitError, Error, ErrorKind, Result};
pub use format::{EpochReason, Lsn, Op};
pub use keyspace::Keyspace;
pub use log::{
    About, Admit, CheckReport, Checkpoint, CommitFuture, CommitGate, CommitOptions, CopySource,
    Fault, FaultKind, FrameSource, Given, Group, HeldLogTime, Lack, LackKind, Level, LogCursor,
    LogState, LogView, Pipeline, Positions, Protection, ProtectionMark, Recovered, Remedy,
    RepairReport, Repaired, ReplicaPositions, RestoreOptions, TermMark, UnprotectedBy,
    UnprotectedSpan, UnprotectedTime, Want, about, check, check_on, repair, repair_from, repair_on,
    restore_on,
};
pub use metrics::{Latency, Metrics};
pub use receipt::{Receipt, ReceiptStatus};
pub use snapshot::{AsyncRange, Entry, Keys, OpenSnapshots, Range, Snapshot};
pub use store::{Compact, IndexSize, LogSize, Reading, Store, rebuild_index, restore};
pub use tail::{Change, Committed, Tail};
pub use transaction::{
    Compared, Expected, TransactOptions, Transaction, TransactionKeys, TransactionRange,
};
