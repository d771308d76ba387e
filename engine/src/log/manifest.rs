//! The manifest: what a node knows of itself, replaced as a whole.

use serde::{Deserialize, Serialize};

use super::ledger::UnprotectedTime;
use crate::control_file;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    ClusterId, Envelope, EpochId, EpochRecord, History, Lsn, LsnRange, NodeId, ProtectionRecord,
    SegmentHeader,
};
use crate::fs::{Fs, read_all, replace};
use crate::kill_points::{Point, pass};

pub(super) const NAME: &str = "manifest";
/// A second copy, so that one damaged sector does not take away who this node is.
const COPY_NAME: &str = "manifest.copy";
const ENVELOPE: Envelope = Envelope {
    magic: *b"OLMF",
    version: 1,
    kind: 1,
    len_max: 16 << 20,
};

/// A term, and which epoch opened it: numbers alone collide after a double promotion.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TermMark {
    /// The term.
    pub term: u32,
    /// The epoch that raised it.
    pub opened_by: EpochId,
}

/// Where a protection record stands. Of two, the one of the later epoch is newer, whatever its LSN.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProtectionMark {
    /// Term of the epoch that wrote it.
    pub term: u32,
    /// Start of that epoch.
    pub start: u32,
    /// Where its frame ends in that epoch.
    pub lsn: Lsn,
    /// The epoch.
    pub epoch: EpochId,
}

/// A protection record and where it stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Protection {
    /// Where it stands.
    pub mark: ProtectionMark,
    /// What it says.
    pub record: ProtectionRecord,
    /// The writer's wall clock in milliseconds since 1970, for people.
    pub wall_ms: u64,
}

/// Up to where a log once reached that now ends before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct TailLost {
    pub(crate) term: u32,
    pub(crate) start: u32,
    pub(crate) epoch: EpochId,
    pub(crate) lsn: Lsn,
}

impl TailLost {
    pub(crate) const fn new(epoch: &EpochRecord, lsn: Lsn) -> Self {
        Self {
            term: epoch.term,
            start: epoch.start,
            epoch: epoch.id,
            lsn,
        }
    }

    /// Whether a log of this history, durable up to `durable`, still lacks it.
    pub(crate) fn lasts(&self, history: &History, durable: Lsn) -> bool {
        match history.end_of(self.epoch, self.lsn) {
            Some(left) => durable < left.min(self.lsn),
            // Its epoch went with it. A later one that came instead says that it is not in this
            // history any more.
            None => history
                .last()
                .is_none_or(|epoch| epoch.order() <= (self.term, self.start)),
        }
    }
}

/// Everything about a node that its log does not say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) node_name: String,
    pub(crate) segment_size: u64,
    pub(crate) has_peer: bool,
    pub(crate) follower_at_init: bool,
    /// Highest numbers that this node ever gave to an epoch, so that none is given twice.
    pub(crate) term_given: u32,
    pub(crate) start_given: u32,
    /// The highest term that this node ever heard of.
    pub(crate) term_heard: Option<TermMark>,
    /// The newer term that ended this node's right to write.
    pub(crate) fenced_by: Option<TermMark>,
    /// Why this node neither writes nor follows until an operator has chosen between two histories.
    pub(crate) halted: Option<String>,
    /// The newest protection record that this node ever heard of.
    pub(crate) protection_heard: Option<ProtectionMark>,
    /// The newest protection records of the log, in its order. May name some whose frames are not
    /// in the log, or no longer.
    pub(crate) protections: Vec<Protection>,
    /// The unprotected time up to those, as the records before them told.
    pub(crate) unprotected: UnprotectedTime,
    /// The term in which a standby has attached to this writer.
    pub(crate) attached_in: Option<u32>,
    /// What was received though this node's own epochs cover it: fetched back after a crash.
    pub(crate) received: Vec<LsnRange>,
    /// What this node acknowledged and lost, until it was sent again or its history went elsewhere.
    pub(crate) tail_lost: Option<TailLost>,
    /// The epochs of the log. May name one whose frame a crash kept out of it.
    pub(crate) history: History,
}

/// What a directory says of the node whose store it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct About {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub node_name: String,
    /// Size of its segment files in bytes.
    pub segment_size: u64,
    /// Whether it was made as a member of a pair.
    pub has_peer: bool,
    /// Ranges of its own epochs that it has fetched back from its peer, after a crash had cost it
    /// them, in their order. What lies in epochs of other nodes it has received anyway.
    pub received: Vec<LsnRange>,
}

/// Reads what a directory says of its node, without opening the store or disturbing who has it
/// open.
///
/// # Errors
/// `NotInitialised`, `Corrupt`, `Incompatible`, `Io`.
pub fn about(dir: &std::path::Path) -> Result<About> {
    let manifest = Manifest::load(&crate::fs::OsFs::new(dir))?;
    let Manifest {
        cluster,
        node,
        node_name,
        segment_size,
        has_peer,
        received,
        ..
    } = manifest;
    Ok(About {
        cluster,
        node,
        node_name,
        segment_size,
        has_peer,
        received,
    })
}

impl Manifest {
    /// That of no node yet.
    pub(crate) const fn of_cluster(cluster: ClusterId, segment_size: u64) -> Self {
        Self {
            cluster,
            node: NodeId::NONE,
            node_name: String::new(),
            segment_size,
            has_peer: false,
            follower_at_init: false,
            term_given: 0,
            start_given: 0,
            term_heard: None,
            fenced_by: None,
            halted: None,
            protection_heard: None,
            protections: Vec::new(),
            unprotected: UnprotectedTime::new(),
            attached_in: None,
            received: Vec::new(),
            tail_lost: None,
            history: History::new(),
        }
    }

    /// What comes at `end` and behind it is not what was received there once.
    pub(crate) fn forget_received(&mut self, end: Lsn) {
        self.received.retain(|range| range.start < end);
        if let Some(last) = self.received.last_mut() {
            last.end = last.end.min(end);
        }
    }

    /// Whether the directory holds one.
    pub(crate) fn exists(fs: &dyn Fs) -> Result<bool> {
        match fs.list("") {
            Ok(names) => Ok(names.iter().any(|name| name == NAME || name == COPY_NAME)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io(format_args!("list {}", fs.place()), error)),
        }
    }

    pub(crate) fn load(fs: &dyn Fs) -> Result<Self> {
        Self::load_from(fs, NAME)
    }

    /// Loads the second copy. It may be one change behind where a crash came between the two, until
    /// the store is opened.
    pub(crate) fn load_copy(fs: &dyn Fs) -> Result<Self> {
        Self::load_from(fs, COPY_NAME)
    }

    fn load_from(fs: &dyn Fs, name: &str) -> Result<Self> {
        let place = fs.place();
        let bytes = read_all(fs, name).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                let message = format!(
                    "{place} holds no store: name the right directory, or make one with init"
                );
                Error::new(ErrorKind::NotInitialised, message)
            }
            _ => Error::io(format_args!("read {place}/{name}"), error),
        })?;
        let corrupt = |why: String| {
            let message = format!(
                "{place}/{name} is damaged ({why}); nothing was touched. `outlast repair --dir \
                 {place}` puts its second copy in its place"
            );
            Error::new(ErrorKind::Corrupt, message)
        };
        let path = format!("{place}/{name}");
        let manifest: Self = control_file::decode(&ENVELOPE, &bytes, &path, &corrupt)?;
        // A checksum that holds says that these are the bytes written, not that a sound program
        // wrote them.
        if !SegmentHeader::size_fits(manifest.segment_size) {
            let bytes = manifest.segment_size;
            return Err(corrupt(format!("it speaks of segments of {bytes} bytes")));
        }
        if let Some(range) = manifest
            .received
            .iter()
            .find(|range| range.start > range.end)
        {
            return Err(corrupt(format!("it speaks of {range} as received")));
        }
        Ok(manifest)
    }

    /// Makes this manifest the durable one.
    pub(crate) fn store(&self, fs: &dyn Fs) -> Result<()> {
        let bytes = control_file::encode(&ENVELOPE, self, "the manifest")?;
        // The copy last, so that what a crash leaves of it is never newer than the manifest.
        replace(fs, "", NAME, &bytes)
            .map_err(|error| Error::io(format_args!("write {}/{NAME}", fs.place()), error))?;
        pass(Point::ManifestReplaced);
        if let Err(error) = replace(fs, "", COPY_NAME, &bytes) {
            // The manifest itself is durable: what was asked for is done.
            tracing::warn!(%error, "the second copy of the manifest could not be written");
        }
        Ok(())
    }
}
