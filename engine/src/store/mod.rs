//! The store: the log with the state that it describes.

mod changes;
mod feed;
mod read;
mod replication;
mod state;
#[cfg(test)]
mod tests;
mod write;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use self::changes::Changes;
use self::feed::Feed;
use self::state::State;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, InitOptions};
use crate::entropy::Entropy;
use crate::error::Result;
use crate::format::{ClusterId, EpochReason, History, NodeId};
use crate::fs::{Fs, MemFs, OsFs};
use crate::keyspace::StoreTag;
use crate::log::{Log, LogState, Positions, Recovered};
use crate::snapshot::Register;

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
    pub(crate) snapshots: Register,
    pub(crate) changes: Arc<Changes>,
    feed: Feed,
    /// Held while a keyspace is made, so that two callers never make the same one.
    creation: Mutex<()>,
}

/// How large the index is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IndexSize {
    /// Versions of keys that it holds, deletes included.
    pub versions: u64,
    /// Memory that they take, in bytes, estimated.
    pub memory_bytes: u64,
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
    /// dropped.
    ///
    /// # Errors
    /// `Io` when no thread can be started.
    pub fn open_in_memory() -> Result<Self> {
        let fs = Arc::new(MemFs::new());
        Self::init_on(&*fs, &InitOptions::new("memory"))?;
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
        let log = Log::open(fs, clock, config)?;
        let state = Arc::new(State::new(StoreTag::new()));
        log.set_sink(state.clone());
        let changes = Arc::<Changes>::default();
        let listener = changes.clone();
        log.on_change(Arc::new(move || listener.notify()));
        let feed = Feed::new(&log)?;
        feed.show_recovered(&log, &state)?;
        let shared = Shared {
            log,
            state,
            snapshots: Register::default(),
            changes,
            feed,
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
        self.log().close()
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
            versions: index.versions() as u64,
            memory_bytes: index.memory_bytes() as u64,
        }
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
