//! Settings: plain data, each with its unit, its default and what it costs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::format::limits::{
    NODE_NAME_LEN_MAX, SEGMENT_SIZE_DEFAULT, SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN, SEGMENT_SIZE_STEP,
};
use crate::format::{ClusterId, NodeId, SegmentHeader};

/// What a store is made with, once, for good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitOptions {
    /// The cluster: a new one for its first node, the same one for its peers.
    pub cluster: ClusterId,
    /// The node. Default a new one; it must differ from that of every other node.
    pub node: NodeId,
    /// The node's name, for people.
    pub node_name: String,
    /// Size of a segment file in bytes; the same on every node of the cluster. Default 64 MiB.
    pub segment_size: u64,
    /// Whether this node is to be a member of a pair: one that has a peer waits to hear from it
    /// when it starts again. Default no.
    pub has_peer: bool,
    /// Whether this node is to begin as the follower of another. Default no.
    pub follower: bool,
}

impl InitOptions {
    /// A single node of a new cluster.
    #[must_use]
    pub fn new(node_name: impl Into<String>) -> Self {
        Self {
            cluster: ClusterId::random(),
            node: NodeId::random(),
            node_name: node_name.into(),
            segment_size: SEGMENT_SIZE_DEFAULT,
            has_peer: false,
            follower: false,
        }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if !SegmentHeader::size_fits(self.segment_size) {
            let message = format!(
                "segment_size of {} bytes: choose a multiple of {SEGMENT_SIZE_STEP} from \
                 {SEGMENT_SIZE_MIN} to {SEGMENT_SIZE_MAX}",
                self.segment_size
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let name = &self.node_name;
        if name.is_empty() || name.len() > NODE_NAME_LEN_MAX || !name.chars().all(plain) {
            let message = format!(
                "node name {name:?}: use 1 to {NODE_NAME_LEN_MAX} letters, digits, `-`, `_` or `.`"
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        Ok(())
    }
}

/// How segments are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WriteMode {
    /// Past the page cache where the file system can, else through it.
    #[default]
    Auto,
    /// Through the page cache.
    Buffered,
    /// Past the page cache (`O_DIRECT`); opening fails where that cannot be had.
    Direct,
}

/// How values are read that lie in sealed segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ReadMode {
    /// Through maps of their files where the address space has room for all of them, else copied.
    #[default]
    Auto,
    /// Through maps of their files: nothing is copied, and a value that is kept keeps the map of
    /// its file. A sector that cannot be read ends the process.
    Map,
    /// Copied, each by a call: a value is memory of its own, and a sector that cannot be read is an
    /// error. What finds them is mapped all the same.
    Copy,
}

impl ReadMode {
    /// Whether values are copied.
    pub(crate) const fn copies(self) -> bool {
        match self {
            Self::Auto => cfg!(not(target_pointer_width = "64")),
            Self::Map => false,
            Self::Copy => true,
        }
    }
}

/// Settings of an open store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// How segments are written. Default [`WriteMode::Auto`].
    pub write_mode: WriteMode,
    /// How values are read that lie in sealed segments. Default [`ReadMode::Auto`].
    pub read_mode: ReadMode,
    /// How long after the last fsync an idle log vouches for itself with a watermark frame, and how
    /// long at most a follower's own mark lags behind its fsyncs. Default 50 ms.
    pub idle_mark_after: Duration,
    /// After how many changes of keys the index's memtable is written to disk. Its memory, and the
    /// time that opening takes after a crash, grow with this. Default 65,536.
    pub flush_after_entries: usize,
    /// After how many bytes of log, at most, the index's memtable is written to disk. Default
    /// 16 MiB.
    pub flush_after_log_bytes: u64,
    /// How many bytes of log behind the newest state past states stay readable
    /// ([`Store::snapshot_at`](crate::Store::snapshot_at)). More of it keeps more versions of keys
    /// in the index and in the log. Default 16 MiB.
    pub history_log_bytes: u64,
    /// How many bytes of log behind the newest state are kept whole at most for a change feed or a
    /// standby that is behind; one that is further behind begins anew, with `LogTruncated`. Default
    /// no limit: the log is not compacted where somebody has yet to read it.
    pub retain_log_bytes: Option<u64>,
    /// How many threads at most read from the disk for async callers; the first is started when it
    /// is needed. Default 2.
    pub read_threads: usize,
    /// How old a snapshot may get, with the ranges and transactions that read from it. An older one
    /// answers `SnapshotTooOld`, and no longer keeps the versions that it sees. Default no limit:
    /// one that is forgotten open then keeps them all.
    pub snapshot_age_max: Option<Duration>,
    /// How far the wall clock may be ahead of the log when this node begins to write while puts
    /// wait to expire. Where it is further, nothing expires until
    /// [`Store::confirm_log_time`](crate::Store::confirm_log_time) says that the clock is right: it
    /// is the one moment at which a wrong clock could take data away. Default an hour.
    pub log_time_ahead_max: Duration,
    /// Whether a thread does the background work (preparing segments, marks). Default yes; without
    /// it, whoever owns the store calls its background step.
    pub background: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            write_mode: WriteMode::Auto,
            read_mode: ReadMode::Auto,
            idle_mark_after: Duration::from_millis(50),
            flush_after_entries: 65_536,
            flush_after_log_bytes: 16 << 20,
            history_log_bytes: 16 << 20,
            retain_log_bytes: None,
            read_threads: 2,
            snapshot_age_max: None,
            log_time_ahead_max: Duration::from_secs(3600),
            background: true,
        }
    }
}
