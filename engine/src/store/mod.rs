//! The store: the log with the state that it describes.

mod changes;
mod feed;
mod pool;
mod read;
mod read_only;
mod rebuild;
mod replication;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod times;
mod upkeep;
mod write;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub use self::pool::Reading;
pub use self::rebuild::rebuild_index;

use self::changes::Changes;
use self::feed::Feed;
use self::pool::ReadPool;
use self::state::{FreezeAfter, State};
use self::upkeep::Upkeep;
use crate::clock::{Clock, SystemClock};
use crate::compaction::victims::Aim;
use crate::config::{Config, InitOptions};
use crate::entropy::Entropy;
use crate::error::Result;
use crate::format::{ChainRecord, ClusterId, EpochReason, History, Lsn, NodeId};
use crate::fs::{Fs, MemFs, OsFs};
use crate::index::IndexFiles;
use crate::keyspace::StoreTag;
use crate::log::{
    Background, Checkpoint, Log, LogState, Opening, Positions, Recovered, RestoreOptions,
    restore_on,
};
use crate::metrics::Metrics;
use crate::snapshot::Register;
use crate::tail::Readers;

/// A store of one node: a primary, a standby, or a single node. Cheap to clone; all clones are one.
///
/// [`Store::open`] reads a directory and writes nothing. The node then becomes a writer by
/// [`Store::begin_epoch`], or a follower by [`Store::begin_following`].
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
}

/// What all handles on one open store share.
pub(crate) struct Shared {
    pub(crate) log: Arc<Log>,
    pub(crate) state: Arc<State>,
    pub(crate) snapshots: Arc<Register>,
    pub(crate) tails: Arc<Readers>,
    pub(crate) changes: Arc<Changes>,
    /// Reads for async callers.
    pub(crate) pool: ReadPool,
    feed: Feed,
    upkeep: Arc<Upkeep>,
    /// Held while a keyspace is made, so that two callers never make the same one.
    creation: Mutex<()>,
}

/// How large the index is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct IndexSize {
    /// Versions of keys that it holds, deletes included.
    pub versions: u64,
    /// Memory that those take which are not on the disk yet, in bytes, estimated.
    pub memory_bytes: u64,
    /// Size of the files that hold the others, in bytes.
    pub disk_bytes: u64,
    /// Number of those files.
    pub runs: u64,
    /// The replay point: what the log says below it is on the disk.
    pub replay: Lsn,
}

/// How large the log is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct LogSize {
    /// Number of its files.
    pub files: u64,
    /// Size of the segments of which all is left, in bytes, the one that is written included.
    pub whole_bytes: u64,
    /// Size of the segments of which only what is needed is left, in bytes.
    pub sparse_bytes: u64,
    /// Records that are needed, in bytes, as counted when the index was last written out and
    /// merged.
    pub live_bytes: u64,
    /// From here on all of the log is left.
    pub whole_from: Lsn,
    /// Stretches of the log that were compacted since the store was opened.
    pub compactions: u64,
    /// Bytes of the log in those.
    pub compacted_bytes: u64,
    /// Bytes of records that were written again for them: over the bytes that were committed, this
    /// is write amplification.
    pub rewritten_bytes: u64,
}

/// What a compaction is to achieve.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Compact {
    /// Room is given back.
    #[default]
    Reclaim,
    /// The same, and records are put in the order of their keys, also where none is given up.
    Order,
}

impl Store {
    /// Makes an empty store in `dir`, which may exist. Nothing that is there is overwritten.
    ///
    /// # Errors
    /// `AlreadyInitialised`, `Limit` for an option out of its limits, `Locked`, `DiskFull`, `Io`.
    pub fn init(dir: &Path, options: &InitOptions) -> Result<NodeId> {
        Self::init_on(&OsFs::new(dir), options)
    }

    /// Opens the store in `dir` and reads it up to the last position that is known to be durable
    /// and that readers might have seen. Writes nothing to the log.
    ///
    /// # Errors
    /// `NotInitialised`, `Locked` by another process, `Corrupt` when bytes that were durable do not
    /// hold, `Incompatible` for another version or cluster, `Io`.
    pub fn open(dir: &Path, config: Config) -> Result<Self> {
        let fs = Arc::new(OsFs::new(dir));
        Self::open_on(fs, Arc::<SystemClock>::default(), config)
    }

    /// A new store in memory, writing: for tests of what embeds the engine. Gone when it is
    /// dropped. It takes batches of up to 4 MiB, those in files by default of up to 16 MiB.
    ///
    /// # Errors
    /// `Io` when no thread can be started.
    pub fn open_in_memory() -> Result<Self> {
        let fs = Arc::new(MemFs::new());
        // All of a segment is written with zeros first, which here is memory.
        let options = InitOptions {
            segment_size: 16 << 20,
            ..InitOptions::new("memory")
        };
        Self::init_on(&*fs, &options)?;
        let store = Self::open_on(fs, Arc::<SystemClock>::default(), Config::default())?;
        store.begin_epoch(EpochReason::Init, "")?;
        Ok(store)
    }

    /// [`Store::init`] on any files.
    ///
    /// # Errors
    /// As [`Store::init`].
    pub fn init_on(fs: &dyn Fs, options: &InitOptions) -> Result<NodeId> {
        Log::init(fs, options)
    }

    /// [`Store::open`] on any files and clock.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_on(fs: Arc<dyn Fs>, clock: Arc<dyn Clock>, config: Config) -> Result<Self> {
        Self::open_as(Opening::Full, StoreTag::new(), fs, clock, config)
    }

    /// Opens the store in `fs`; handles of keyspaces that were given under `tag` are its own.
    fn open_as(
        opening: Opening,
        tag: StoreTag,
        fs: Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
        config: Config,
    ) -> Result<Self> {
        let freeze_after = FreezeAfter {
            entries: config.flush_after_entries,
            log_bytes: config.flush_after_log_bytes,
        };
        let snapshot_age_max = config.snapshot_age_max;
        let pool = ReadPool::new(config.read_threads);
        let kept_log_bytes = (config.history_log_bytes, config.retain_log_bytes);
        let mut on_disk = None;
        let log = Log::open_as(opening, fs.clone(), clock, config, &mut |cluster, node| {
            on_disk = open_index(&fs, cluster, node);
            on_disk
                .as_ref()
                .map(|files| ChainRecord::new(&files.runs().replay))
        })?;
        let usable = on_disk.filter(|files| files.runs().replay.lsn == log.replay_cursor().lsn());
        let mut files = match usable {
            Some(files) => files,
            None => IndexFiles::empty(fs, log.cluster(), log.node())?,
        };
        if opening == Opening::Full {
            files.find_unused()?;
        }
        let state = State::new(files.runs().clone(), tag, freeze_after)?;
        let state = Arc::new(state);
        log.set_sink(state.clone());
        let snapshots = Arc::new(Register::new(snapshot_age_max));
        snapshots.raise_horizon(files.horizon().max(log.sparse_horizon()), log.now());
        let tails = Arc::<Readers>::default();
        let upkeep = Upkeep::new(
            &log,
            state.clone(),
            snapshots.clone(),
            tails.clone(),
            files,
            kept_log_bytes,
        );
        let filled = Arc::downgrade(&upkeep);
        if opening == Opening::Full {
            state.on_freeze(move || {
                if let Some(upkeep) = filled.upgrade() {
                    upkeep.filled();
                }
            });
        }
        let background: Arc<dyn Background> = upkeep.clone();
        log.set_background(Arc::downgrade(&background));
        let changes = Arc::<Changes>::default();
        let listener = changes.clone();
        log.on_change(Arc::new(move || listener.notify()));
        let feed = Feed::new(&log);
        feed.show_recovered(&log, &state)?;
        let shared = Shared {
            log,
            state,
            snapshots,
            tails,
            changes,
            pool,
            feed,
            upkeep,
            creation: Mutex::new(()),
        };
        let shared = Arc::new(shared);
        Ok(Self { shared })
    }

    /// Draws the ids of later epochs from `entropy` and not from the operating system.
    pub fn draw_from(&self, entropy: Arc<dyn Entropy>) {
        self.log().draw_from(entropy);
    }

    /// Closes the store: what was written is durable and vouched for, and every later write is
    /// refused. Reads of open handles go on until the last one is dropped.
    ///
    /// # Errors
    /// `Poisoned`, `DiskFull`, `Io` when the last bytes cannot be made durable.
    pub fn close(&self) -> Result<()> {
        // Before the log's last frame, which then is the proof, at the next start, that what lies
        // before it need not be read.
        if !self.log().is_read_only()
            && let Err(error) = self.shared.upkeep.flush_all()
        {
            tracing::warn!(%error, "the index could not be written out");
        }
        self.log().close()?;
        if self.log().is_read_only() {
            return Ok(());
        }
        if let Err(error) = self.shared.upkeep.close() {
            // Nothing is lost: the next start replays it.
            tracing::warn!(%error, "the index could not be written out");
        }
        Ok(())
    }

    /// Brings the index into the shape in which it is read quickest and takes least room: one level
    /// of runs, without versions that nobody can ask for any more. The background work does what is
    /// needed by itself; this is for the moment after a bulk load. Reads and commits go on.
    ///
    /// # Errors
    /// `Corrupt` when a run does not hold, `DiskFull`, `Io`, `NotWriter` for a store that is only
    /// read.
    pub fn compact_index(&self) -> Result<()> {
        self.log().require_writable()?;
        self.shared.upkeep.compact_index()
    }

    /// Gives back the room of records that nobody can ask for any more, now, instead of when they
    /// are a quarter of the log; with [`Compact::Order`] also puts what is left in the order of its
    /// keys, which makes ranges of it quick to read. Reads and commits go on.
    ///
    /// The last [`Config::history_log_bytes`](crate::Config::history_log_bytes) of the log stay as
    /// they are, and so does what a standby or a change feed has yet to read.
    ///
    /// # Errors
    /// `Corrupt` when a segment or the index does not hold, `DiskFull`, `Io`, `NotWriter` for a
    /// store that is only read.
    pub fn compact_now(&self, what: Compact) -> Result<()> {
        self.log().require_writable()?;
        let aim = match what {
            Compact::Reclaim => Aim::Reclaim,
            Compact::Order => Aim::Order,
        };
        self.shared.upkeep.compact(aim)
    }

    /// How large its log is, and how much of that it needs.
    #[must_use]
    pub fn log_size(&self) -> LogSize {
        let (live_bytes, compacted) = self.shared.upkeep.figures();
        let sizes = self.log().sizes();
        LogSize {
            files: sizes.files,
            whole_bytes: sizes.whole_bytes,
            sparse_bytes: sizes.sparse_bytes,
            live_bytes,
            whole_from: self.log().whole_from(),
            compactions: compacted.runs,
            compacted_bytes: compacted.read_bytes,
            rewritten_bytes: compacted.written_bytes,
        }
    }

    /// Makes an online backup in `dir`, which must be empty or not there: the log as readers see it
    /// now. Sealed segments are linked, not copied, where `dir` is on the same file system. Commits
    /// and reads go on meanwhile. [`restore`] makes a node of it.
    ///
    /// # Errors
    /// `AlreadyInitialised` when `dir` is not empty, `Poisoned`, `Corrupt`, `DiskFull`, `Io`.
    pub fn checkpoint(&self, dir: &Path) -> Result<Checkpoint> {
        self.checkpoint_on(&OsFs::new(dir))
    }

    /// [`Store::checkpoint`] on any files.
    ///
    /// # Errors
    /// As [`Store::checkpoint`].
    pub fn checkpoint_on(&self, fs: &dyn Fs) -> Result<Checkpoint> {
        self.log().checkpoint(fs)
    }

    /// Where the store stands.
    #[must_use]
    pub fn positions(&self) -> Positions {
        self.log().positions()
    }

    /// The epochs of its log.
    #[must_use]
    pub fn history(&self) -> History {
        self.log().history()
    }

    /// What it may do at the moment.
    #[must_use]
    pub fn state(&self) -> LogState {
        self.log().state()
    }

    /// What recovery found when it was opened, and what it did about it.
    #[must_use]
    pub fn recovered(&self) -> Recovered {
        self.log().recovered()
    }

    /// The cluster that it belongs to.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.log().cluster()
    }

    /// Which node it is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.log().node()
    }

    /// The node's name, for people.
    #[must_use]
    pub fn node_name(&self) -> String {
        self.log().node_name()
    }

    /// Size of its segment files in bytes.
    #[must_use]
    pub fn segment_size(&self) -> u64 {
        self.log().segment_size()
    }

    /// Whether it was made as a member of a pair.
    #[must_use]
    pub fn has_peer(&self) -> bool {
        self.log().has_peer()
    }

    /// Whether it was made to begin as a follower.
    #[must_use]
    pub fn follower_at_init(&self) -> bool {
        self.log().follower_at_init()
    }

    /// How large its index is.
    #[must_use]
    pub fn index_size(&self) -> IndexSize {
        let index = self.shared.state.index();
        IndexSize {
            versions: index.versions(),
            memory_bytes: index.memory_bytes() as u64,
            disk_bytes: index.runs().len_bytes(),
            runs: index.runs().all().count() as u64,
            replay: index.runs().replay.lsn,
        }
    }

    /// What it is and what it has done since it was opened. Costs little; not for every commit.
    ///
    /// ```
    /// # use outlast_engine::{Batch, Store};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = Store::open_in_memory()?;
    /// let users = store.keyspace("users")?;
    /// let mut batch = Batch::new();
    /// batch.put(&users, "mina", "sailing")?;
    /// store.commit(batch, Default::default())?;
    /// store.get(&users, "mina")?;
    /// let metrics = store.metrics();
    /// assert_eq!((metrics.commits, metrics.gets), (1, 1));
    /// assert!(metrics.fsyncs.count >= 1);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let index = self.shared.state.index();
        let positions = self.positions();
        let replay = index.runs().replay.lsn;
        let metrics = Metrics {
            positions,
            index: self.index_size(),
            runs_by_level: index.runs().by_level().collect(),
            waiting_memtables: index.frozen().count() as u64,
            replay_lag_bytes: positions.durable.lsn.0.saturating_sub(replay.0),
            log: self.log_size(),
            snapshots: self.open_snapshots(),
            ..Metrics::default()
        };
        self.log().counters().add_to(metrics)
    }

    /// Calls `listener` after every change of the positions or of what the store may do.
    ///
    /// It is called by whoever made the change, often a committing thread: it must be quick, must
    /// not block, and must not call the store. Waking a task is what it is for.
    pub fn on_change(&self, listener: impl Fn() + Send + Sync + 'static) {
        self.log().on_change(Arc::new(listener));
    }

    /// Does one piece of background work, for a store opened with
    /// [`Config::background`](crate::Config::background) off. Answers when to call again: after so
    /// long, or (`None`) once something happened.
    #[must_use]
    pub fn background_step(&self) -> Option<Duration> {
        self.log().background_step()
    }

    fn log(&self) -> &Arc<Log> {
        &self.shared.log
    }
}

/// Makes a new node in `to` with the log of the checkpoint in `from`, which stays as it is.
///
/// # Errors
/// As [`restore_on`].
pub fn restore(from: &Path, to: &Path, options: &RestoreOptions) -> Result<Checkpoint> {
    restore_on(&OsFs::new(from), &OsFs::new(to), options)
}

/// The index on the disk, if it can be used: the log tells all of it anyway.
fn open_index(fs: &Arc<dyn Fs>, cluster: ClusterId, node: NodeId) -> Option<IndexFiles> {
    IndexFiles::open(fs.clone(), cluster, node)
        .inspect_err(|error| tracing::warn!(%error, "the index is made again from the log"))
        .ok()
        .flatten()
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let positions = self.positions();
        write!(
            f,
            "Store({:?} at {:?})",
            self.node_name(),
            positions.visible
        )
    }
}
