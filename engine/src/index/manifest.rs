//! What the index on disk consists of, and up to where of the log it reaches: replaced as a whole.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::census::Census;
use super::run::RunMeta;
use crate::control_file;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ChainRecord, ClusterId, Envelope, KeyspaceRecord, Lsn, NodeId};
use crate::fs::{Fs, read_all, replace};

/// Where the index lies in a store's directory.
pub(super) const DIR: &str = "index";
pub(super) const NAME: &str = "index/manifest";
const ENVELOPE: Envelope = Envelope {
    magic: *b"OLIX",
    version: 2,
    kind: 1,
    len_max: 64 << 20,
};

/// The runs of an index, and the replay point that they reach.
///
/// Invariant: the runs hold every version below the replay point that a reader may still ask for,
/// and none at or above it; all of them are durable, and so is the log below the replay point.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct IndexManifest {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    /// The replay point: where in the log a state of these runs goes on.
    pub(crate) replay: ChainRecord,
    /// Below this no state is whole any more: versions that only it would show were dropped.
    pub(crate) horizon: Lsn,
    /// Bytes of records that the log still holds for a reason, by where they lie.
    pub(crate) census: Census,
    /// The keyspaces that the log makes below the replay point.
    pub(crate) keyspaces: Vec<KeyspaceRecord>,
    /// The number that the next run's file gets; none is given twice.
    pub(crate) next_number: u64,
    /// The runs by level. Those of the first overlap, the newest is first; those of each other
    /// level do not, and lie in the order of their keys.
    pub(crate) levels: Vec<Vec<RunEntry>>,
}

/// One run of an index.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct RunEntry {
    /// The number in its file's name.
    pub(crate) number: u64,
    pub(crate) meta: RunMeta,
}

impl IndexManifest {
    /// What the directory holds; `None` where there is no index.
    ///
    /// # Errors
    /// `Corrupt`, `Incompatible`, `Io`.
    pub(crate) fn load(fs: &dyn Fs) -> Result<Option<Self>> {
        let place = fs.place();
        let bytes = match read_all(fs, NAME) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(format_args!("read {place}/{NAME}"), error)),
        };
        let corrupt = |why: String| {
            let message = format!("{place}/{NAME} is damaged ({why}): the log tells all of it");
            Error::new(ErrorKind::Corrupt, message)
        };
        let path = format!("{place}/{NAME}");
        let manifest: Self = control_file::decode(&ENVELOPE, &bytes, &path, &corrupt)?;
        // A checksum that holds says that these are the bytes written, not that a sound program
        // wrote them.
        if !manifest.is_sound() {
            return Err(corrupt("its runs contradict one another".to_owned()));
        }
        Ok(Some(manifest))
    }

    fn is_sound(&self) -> bool {
        let mut numbers = HashSet::new();
        let entries = || self.levels.iter().flatten();
        let each = entries().all(|entry| {
            numbers.insert(entry.number)
                && entry.number < self.next_number
                && entry.meta.first <= entry.meta.last
        });
        let ordered = |level: &Vec<RunEntry>| {
            level.is_sorted_by(|one, other| one.meta.last < other.meta.first)
        };
        // Commits are numbered from 1.
        let somewhere = self.replay.next_commit > 0;
        somewhere && each && self.levels.iter().skip(1).all(ordered)
    }

    /// Makes this the durable one. The runs that it names are durable already.
    pub(super) fn store(&self, fs: &dyn Fs) -> Result<()> {
        let bytes = control_file::encode(&ENVELOPE, self, "the index's manifest")?;
        replace(fs, DIR, NAME, &bytes)
            .map_err(|error| Error::io(format_args!("write {}/{NAME}", fs.place()), error))
    }
}

/// The name of a run's file.
pub(super) fn run_name(number: u64) -> String {
    format!("{DIR}/{number:012}.run")
}

/// The number in the name of a run's file.
pub(super) fn run_number(name: &str) -> Option<u64> {
    let name = name.strip_prefix(DIR)?.strip_prefix('/')?;
    name.strip_suffix(".run")?.parse().ok()
}
