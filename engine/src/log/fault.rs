//! What can be wrong with the files of a store, named so that somebody can act on it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::format::LsnRange;

/// What kind of fault it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FaultKind {
    /// The manifest does not decode.
    Manifest,
    /// The durable mark does not decode.
    Mark,
    /// A segment file is not there, and later ones hold frames.
    MissingSegment,
    /// A file bears a name of the log and belongs to another cluster, or to another place in it.
    Misplaced,
    /// The header of a segment does not hold.
    Header,
    /// The footer of a segment does not hold, or says other than its frames.
    Footer,
    /// Frames that were durable do not hold.
    Frames,
    /// What is left of a stretch of the log that was compacted does not hold.
    Sparse,
    /// Bytes where a segment has zeros.
    Zeros,
    /// A file is shorter or longer than a segment is.
    Length,
    /// The log ends below what this node had acknowledged.
    AckedTailLost,
    /// A file of the index does not hold. The index is derived: no data is lost.
    Index,
    /// Bytes behind the end of the log that nothing says were ever durable: what a crash leaves.
    TornTail,
    /// A file of a change that a crash interrupted.
    Leftover,
}

impl FaultKind {
    /// Whether it is what a crash leaves behind, and no damage.
    #[must_use]
    pub const fn is_of_a_crash(self) -> bool {
        matches!(self, Self::TornTail | Self::Leftover)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Manifest => "manifest",
            Self::Mark => "mark",
            Self::MissingSegment => "missing-segment",
            Self::Misplaced => "misplaced",
            Self::Header => "header",
            Self::Footer => "footer",
            Self::Frames => "frames",
            Self::Sparse => "sparse",
            Self::Zeros => "zeros",
            Self::Length => "length",
            Self::AckedTailLost => "acked-tail-lost",
            Self::Index => "index",
            Self::TornTail => "torn-tail",
            Self::Leftover => "leftover",
        })
    }
}

/// What mends a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Remedy {
    /// The next start does it by itself, and keeps aside what it takes away.
    Start,
    /// `outlast repair` does it from what this directory itself holds.
    Repair,
    /// `outlast repair --from-peer` does it with the bytes of the other node, `--from DIR` with
    /// those of its directory or a backup of one.
    RepairFrom,
    /// Nothing mends the file: make the node again with a checkpoint of the other one (`outlast
    /// checkpoint` there, `outlast restore` here) or from a backup.
    Restore,
}

/// One fault: where it is, what it means for the log, and what mends it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Fault {
    /// What kind of fault.
    pub kind: FaultKind,
    /// The file, relative to the store's directory.
    pub file: String,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes; 0 where that cannot be said.
    pub len_bytes: u64,
    /// The positions of the log that do not hold because of it, if any.
    pub range: Option<LsnRange>,
    /// What was found.
    pub what: String,
    /// What mends it.
    pub remedy: Remedy,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            file,
            offset,
            len_bytes,
            ..
        } = self;
        write!(
            f,
            "{kind}: {file}, {len_bytes} bytes at {offset}: {}",
            self.what
        )?;
        match self.range {
            Some(range) => write!(f, "; {range} of the log do not hold"),
            None => Ok(()),
        }
    }
}
