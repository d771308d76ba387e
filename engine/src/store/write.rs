//! Writing: epochs, keyspaces, commits.

use super::Store;
use crate::batch::Batch;
use crate::error::{CommitError, Error, ErrorKind, Result};
use crate::format::{EpochReason, EpochRecord, FrameKind};
use crate::keyspace::Keyspace;
use crate::log::{CommitFuture, CommitOptions, Group, HeldLogTime, LogState, Pipeline};
use crate::receipt::Receipt;

impl Store {
    /// Makes this node the writer: applies all that its log holds, begins an epoch durably, and
    /// shows everything. Only [`EpochReason::Promotion`], and the first epoch of a cluster, raise
    /// the term.
    ///
    /// A node that has a peer calls it only after it has heard from that peer, or when an operator
    /// said so: it may have been replaced.
    ///
    /// # Errors
    /// `NotWriter` when it writes already, `Fenced` when a newer term exists, `Limit` when `note`
    /// is too long, `Corrupt`, `Poisoned`, `Closed`, `DiskFull`, `Io`.
    pub fn begin_epoch(&self, reason: EpochReason, note: &str) -> Result<EpochRecord> {
        let shared = &self.shared;
        shared
            .feed
            .begin_epoch(&shared.log, &shared.state, reason, note)
    }

    /// The keyspace of this name, made if there is none. A name has 1 to 255 bytes without spaces
    /// and control characters.
    ///
    /// # Errors
    /// `NoKeyspace` when there is none and this node does not write, `Limit` when the name is none
    /// that may be given, or those of a commit.
    pub fn keyspace(&self, name: &str) -> Result<Keyspace> {
        let catalogue = &self.shared.state.catalogue;
        if let Some(keyspace) = catalogue.by_name(name) {
            return Ok(keyspace);
        }
        let _creation = self.shared.creation.lock();
        // Another caller may have made it meanwhile.
        if let Some(keyspace) = catalogue.by_name(name) {
            return Ok(keyspace);
        }
        let record = catalogue.propose(name)?;
        if self.state() != LogState::Writing {
            return Err(missing(name));
        }
        self.log()
            .append_control(FrameKind::Keyspace, record.encode())?;
        match catalogue.by_name(name) {
            Some(keyspace) => Ok(keyspace),
            None => panic!("keyspace {name:?} is durable and was not applied"),
        }
    }

    /// Log time, if it stands still: since this node began to write, because its wall clock was
    /// further ahead of the log than [`Config::log_time_ahead_max`](crate::Config) allows while
    /// puts waited to expire. Nothing expires meanwhile.
    #[must_use]
    pub fn held_log_time(&self) -> Option<HeldLogTime> {
        self.log().held_log_time()
    }

    /// Says that this node's wall clock is right, so that log time goes on from there: what has
    /// expired by then is gone at once. Changes nothing where log time does not stand still.
    ///
    /// # Errors
    /// Those of a commit.
    pub fn confirm_log_time(&self) -> Result<()> {
        self.log().confirm_log_time()
    }

    /// Drops a keyspace: all keys in it go, as by one [`Batch::delete_range`] over all of it, and
    /// it takes no writes from then on. Its name is free, and asking for it makes a new, empty
    /// keyspace with another id. Snapshots from before the receipt's position go on showing what it
    /// held; every other use of its handles fails with `NoKeyspace`.
    ///
    /// It is a commit of its own, and waits for what `options` asks like any other.
    ///
    /// ```
    /// # use outlast_engine::{Batch, CommitOptions, ErrorKind, Store};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = Store::open_in_memory()?;
    /// let drafts = store.keyspace("drafts")?;
    /// let mut batch = Batch::new();
    /// batch.put(&drafts, "1", "…")?;
    /// store.commit(batch, CommitOptions::default())?;
    /// store.drop_keyspace(&drafts, CommitOptions::default())?;
    /// assert_eq!(store.get(&drafts, "1").unwrap_err().kind(), ErrorKind::NoKeyspace);
    /// assert!(store.get(&store.keyspace("drafts")?, "1")?.is_none());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Store::commit`]; `Failed` of kind `NoKeyspace` when it was dropped already, or is
    /// another store's.
    pub fn drop_keyspace(
        &self,
        keyspace: &Keyspace,
        options: CommitOptions,
    ) -> Result<Receipt, CommitError> {
        self.shared.state.catalogue.tag().check(keyspace)?;
        self.log().commit(Batch::drop_keyspace(keyspace), options)
    }

    /// The keyspace of this name, if there is one; makes none.
    ///
    /// # Errors
    /// `NoKeyspace`.
    pub fn find_keyspace(&self, name: &str) -> Result<Keyspace> {
        let catalogue = &self.shared.state.catalogue;
        catalogue.by_name(name).ok_or_else(|| missing(name))
    }

    /// All keyspaces that this node has applied and that are not dropped, in the order in which
    /// they were made.
    #[must_use]
    pub fn keyspaces(&self) -> Vec<Keyspace> {
        self.shared.state.catalogue.all()
    }

    /// Commits a batch and waits until it is durable here, and for what `options` asks beyond that.
    ///
    /// # Errors
    /// [`CommitError::Failed`] when nothing of it was written and never will be (of kind `Limit`:
    /// it is too long for this store's segments; `NoKeyspace`: one of its keyspaces was dropped;
    /// `NotWriter`, `Fenced`, `DiskFull`, `Poisoned`, `Closed`, `Timeout`).
    /// [`CommitError::Unknown`] when it may appear: check the receipt later.
    pub fn commit(&self, batch: Batch, options: CommitOptions) -> Result<Receipt, CommitError> {
        let tag = self.shared.state.catalogue.tag();
        let bytes = batch.finish(tag).map_err(CommitError::Failed)?;
        self.log().commit(bytes, options)
    }

    /// Commits a batch without blocking: it is on its way when this returns, whether the future is
    /// polled or not. Works on any runtime.
    ///
    /// The deadline in `options` is not looked at: put the runtime's own around the future. One
    /// that is dropped leaves the outcome unknown.
    ///
    /// # Errors
    /// The future ends as [`Store::commit`] does.
    pub fn commit_async(&self, batch: Batch, options: CommitOptions) -> CommitFuture {
        let tag = self.shared.state.catalogue.tag();
        match batch.finish(tag) {
            Ok(bytes) => self.log().commit_async(bytes, options),
            Err(error) => self.log().refuse_async(error),
        }
    }

    /// [`Store::commit_async`], behind all commits of a pipeline: it fails when one of them did.
    ///
    /// # Errors
    /// The future ends as [`Store::commit`] does, or `Failed` with `Skipped`.
    pub fn commit_behind(
        &self,
        pipeline: &mut Pipeline,
        batch: Batch,
        options: CommitOptions,
    ) -> CommitFuture {
        let tag = self.shared.state.catalogue.tag();
        match batch.finish(tag) {
            Ok(bytes) => self.log().commit_behind(pipeline, bytes, options),
            Err(error) => {
                pipeline.fail();
                self.log().refuse_async(error)
            }
        }
    }
}

/// For whoever drives a store without threads.
impl Store {
    /// Queues a commit for the next call of [`Store::lead`]. As [`Store::commit_async`], but nobody
    /// is asked to lead.
    ///
    /// # Errors
    /// The future ends as [`Store::commit`] does.
    pub fn commit_queued(&self, batch: Batch, options: CommitOptions) -> CommitFuture {
        let tag = self.shared.state.catalogue.tag();
        match batch.finish(tag) {
            Ok(bytes) => self.log().commit_queued(bytes, options),
            Err(error) => self.log().refuse_async(error),
        }
    }

    /// Whether a commit waits for a group.
    #[must_use]
    pub fn has_queued(&self) -> bool {
        self.log().has_queued()
    }

    /// Forms the next group of queued commits, to be led step by step; `None` when none waits.
    #[must_use]
    pub fn lead(&self) -> Option<Group> {
        self.log().lead()
    }
}

fn missing(name: &str) -> Error {
    let shown: String = name.chars().take(40).collect();
    let message = format!(
        "there is no keyspace {shown:?} here; the primary makes it when it is first written to"
    );
    Error::new(ErrorKind::NoKeyspace, message)
}
