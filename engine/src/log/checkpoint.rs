//! Online backups: the log up to one visible position, in a directory of its own, and making a new
//! node from one.
//!
//! Sealed segments are linked where the file system can, so a checkpoint takes little time and
//! space; the running one is copied. It carries no node's identity: two nodes of one name would
//! each take the other's acknowledgements for its own.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ledger::UnprotectedTime;
use super::manifest::Manifest;
use super::mark::{Mark, MarkFile};
use super::open::{ASIDE, lock};
use super::segment::{DIR, Piece, Segment, file_name, ordinal_of};
use super::settle::replace_segment;
use super::sparse;
use super::walk::count_frames;
use super::{Log, LogState};
use crate::control_file;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    ChainRecord, ClusterId, Envelope, History, Lsn, NodeId, Position, SegmentFooter,
};
use crate::fs::{Fs, OsFs, read_all, replace};

const NAME: &str = "checkpoint";
const ENVELOPE: Envelope = Envelope {
    magic: *b"OLCK",
    version: 1,
    kind: 1,
    len_max: 16 << 20,
};

/// What a checkpoint holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Checkpoint {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node that it was taken from.
    pub source: NodeId,
    /// Size of segment files in bytes.
    pub segment_size: u64,
    /// Where the log ends in it.
    pub end: ChainRecord,
    /// The epochs of that log.
    pub history: History,
    /// For how long, when and why nothing limited what could be lost in it.
    pub unprotected: UnprotectedTime,
}

impl Checkpoint {
    /// Where the log ends in it.
    #[must_use]
    pub fn position(&self) -> Position {
        self.end.chain(self.cluster).position()
    }
}

/// What a node is made with that begins with a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestoreOptions {
    /// The node: a new one, never that of another node, and not the one the checkpoint is of.
    pub node: NodeId,
    /// The node's name, for people.
    pub node_name: String,
    /// Whether it is to be a member of a pair.
    pub has_peer: bool,
    /// Whether it is to begin as the follower of another.
    pub follower: bool,
}

impl RestoreOptions {
    /// A single node.
    #[must_use]
    pub fn new(node_name: impl Into<String>) -> Self {
        Self {
            node: NodeId::random(),
            node_name: node_name.into(),
            has_peer: false,
            follower: false,
        }
    }
}

impl Log {
    /// Puts the log as readers see it into `to`, which must be empty. Nothing waits for this.
    pub(crate) fn checkpoint(self: &std::sync::Arc<Self>, to: &dyn Fs) -> Result<Checkpoint> {
        if let LogState::Poisoned(_) = self.state() {
            return Err(self.not_writing());
        }
        let making = |error| Error::io(format_args!("make a checkpoint in {}", to.place()), error);
        refuse_unless_empty(to)?;
        to.create_dir("").map_err(making)?;
        to.create_dir(DIR).map_err(making)?;
        // No file makes room for another meanwhile.
        let _replacing = self.replacing.lock();
        let chain = *self.cursor(self.visible())?.chain();
        let pieces = self.segments.pieces();
        let end = chain.lsn;
        for (at, piece) in pieces.iter().enumerate() {
            let base = piece.start().lsn;
            if base >= end && base > Lsn::ZERO {
                break;
            }
            let next = pieces.get(at + 1).map(Piece::start);
            let next = next.filter(|next| next.lsn <= end);
            match piece {
                Piece::Whole(segment) => self.put_segment(to, segment, next, end),
                Piece::Sparse(sparse) => self.fs.share(&sparse.name(), to, &sparse.name()),
            }
            .map_err(making)?;
        }
        to.sync_dir(DIR).map_err(making)?;
        let checkpoint = Checkpoint {
            cluster: self.cluster,
            source: self.node,
            segment_size: self.segment_size,
            end: ChainRecord::new(&chain),
            history: self.history().cut(end),
            unprotected: self.unprotected_to(end),
        };
        // Last: a directory without it is no checkpoint.
        checkpoint.store(to)?;
        Ok(checkpoint)
    }

    fn put_segment(
        &self,
        to: &dyn Fs,
        segment: &Segment,
        sealed: Option<ChainRecord>,
        end: Lsn,
    ) -> std::io::Result<()> {
        let name = file_name(segment.header.ordinal);
        // One that left memory was sealed, and its file is never written again.
        if sealed.is_some() && !segment.in_memory() {
            return self.fs.share(&name, to, &name);
        }
        let frames = segment
            .read_whole(&*self.fs, end.min(segment.range().end))
            .map_err(std::io::Error::other)?;
        let footer = sealed.map(|end| SegmentFooter {
            base: segment.header.base(),
            frames: count_frames(&frames),
            end,
        });
        replace_segment(to, &segment.header, &frames, footer.as_ref())
    }
}

impl Checkpoint {
    /// The checkpoint in `dir`: what it holds, without a look at its segments.
    ///
    /// # Errors
    /// As [`Checkpoint::load_on`].
    pub fn load(dir: &Path) -> Result<Self> {
        Self::load_on(&OsFs::new(dir))
    }

    /// The checkpoint in `fs`.
    ///
    /// # Errors
    /// `NotInitialised` when there is none, `Corrupt`, `Incompatible`, `Io`.
    pub fn load_on(fs: &dyn Fs) -> Result<Self> {
        let place = fs.place();
        let bytes = read_all(fs, NAME).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                let message = format!(
                    "{place} holds no checkpoint, or one that was not finished: name another"
                );
                Error::new(ErrorKind::NotInitialised, message)
            }
            _ => Error::io(format_args!("read {place}/{NAME}"), error),
        })?;
        let corrupt = |why: String| {
            let message = format!("{place}/{NAME} is damaged ({why}): take another checkpoint");
            Error::new(ErrorKind::Corrupt, message)
        };
        control_file::decode(&ENVELOPE, &bytes, &format!("{place}/{NAME}"), &corrupt)
    }

    fn store(&self, fs: &dyn Fs) -> Result<()> {
        let bytes = control_file::encode(&ENVELOPE, self, "the checkpoint's history")?;
        replace(fs, "", NAME, &bytes)
            .map_err(|error| Error::io(format_args!("write {}/{NAME}", fs.place()), error))
    }
}

/// Makes a new node in `to` with the log of the checkpoint in `from`, which stays as it is.
///
/// What its segments hold is checked when the node is opened, byte for byte.
///
/// # Errors
/// `AlreadyInitialised`, those of [`Checkpoint::load_on`], `Limit`, `DiskFull`, `Io`.
pub fn restore_on(from: &dyn Fs, to: &dyn Fs, options: &RestoreOptions) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::load_on(from)?;
    if options.node == checkpoint.source {
        let message = format!(
            "the checkpoint is of node {}: a restored node is a new one, give it an id of its own",
            checkpoint.source
        );
        return Err(Error::new(ErrorKind::Limit, message));
    }
    if Manifest::exists(to)? {
        let message = format!(
            "{} holds a store already: name another directory",
            to.place()
        );
        return Err(Error::new(ErrorKind::AlreadyInitialised, message));
    }
    let making = |error| Error::io(format_args!("restore to {}", to.place()), error);
    to.create_dir("").map_err(making)?;
    let _lock = lock(to)?;
    for dir in [DIR, ASIDE] {
        to.create_dir(dir).map_err(making)?;
    }
    let names = from.list(DIR).map_err(making)?;
    let ordinals = || names.iter().filter_map(|name| ordinal_of(name));
    let last = ordinals().max();
    for name in names
        .iter()
        .filter(|name| sparse::ordinals_of(name).is_some())
    {
        let name = format!("{DIR}/{name}");
        from.share(&name, to, &name).map_err(making)?;
    }
    for ordinal in ordinals() {
        let name = file_name(ordinal);
        if Some(ordinal) == last {
            // The node goes on in it.
            crate::fs::copy(from, &name, to, &name).map_err(making)?;
        } else {
            from.share(&name, to, &name).map_err(making)?;
        }
    }
    to.sync_dir(DIR).map_err(making)?;
    let end = checkpoint.end;
    let mark = (end.lsn > Lsn::ZERO).then_some(Mark {
        epoch: end.epoch.2,
        lsn: end.lsn,
    });
    MarkFile::make_again(to, mark)?;
    let manifest = Manifest {
        node: options.node,
        node_name: options.node_name.clone(),
        has_peer: options.has_peer,
        follower_at_init: options.follower,
        history: checkpoint.history.clone(),
        unprotected: checkpoint.unprotected.clone(),
        ..Manifest::of_cluster(checkpoint.cluster, checkpoint.segment_size)
    };
    manifest.store(to)?;
    Ok(checkpoint)
}

fn refuse_unless_empty(fs: &dyn Fs) -> Result<()> {
    for dir in ["", DIR] {
        match fs.list(dir) {
            Ok(names) if names.is_empty() => {}
            Ok(_) => {
                let message = format!("{} is not empty: name a new directory", fs.place());
                return Err(Error::new(ErrorKind::AlreadyInitialised, message));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(format_args!("list {}", fs.place()), error)),
        }
    }
    Ok(())
}
