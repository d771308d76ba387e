//! What the index on disk consists of, and up to where of the log it reaches: replaced as a whole.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::census::Census;
use super::ranges::{RangeEntry, Ranges};
use super::run::RunMeta;
use crate::control_file;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ChainRecord, ClusterId, Envelope, Lsn, NodeId};
use crate::fs::{Fs, read_all, replace};
use crate::keyspace::Made;

/// Where the index lies in a store's directory.
pub(super) const DIR: &str = "index";
pub(super) const NAME: &str = "index/manifest";
const ENVELOPE: Envelope = Envelope {
    magic: *b"OLIX",
    version: 2,
    kind: 1,
    len_max: 64 << 20,
};
const RANGES: Envelope = Envelope {
    magic: *b"OLID",
    version: 1,
    kind: 1,
    len_max: 1 << 30,
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
    pub(crate) keyspaces: Vec<Made>,
    /// The number that the next run's file gets; none is given twice.
    pub(crate) next_number: u64,
    /// The runs by level. Those of the first overlap, the newest is first; those of each other
    /// level do not, and lie in the order of their keys.
    pub(crate) levels: Vec<Vec<RunEntry>>,
    /// The file of the range deletes, unless they are none.
    pub(crate) ranges: Option<RangesFile>,
}

/// Which file holds the range deletes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct RangesFile {
    /// The number in its name.
    pub(crate) number: u64,
    /// The checksum of its envelope.
    pub(crate) check: u32,
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
        let ranges = self
            .ranges
            .is_none_or(|ranges| numbers.insert(ranges.number) && ranges.number < self.next_number);
        somewhere && each && ranges && self.levels.iter().skip(1).all(ordered)
    }

    /// Makes this the durable one. The runs that it names are durable already.
    pub(super) fn store(&self, fs: &dyn Fs) -> Result<()> {
        let bytes = control_file::encode(&ENVELOPE, self, "the index's manifest")?;
        replace(fs, DIR, NAME, &bytes)
            .map_err(|error| Error::io(format_args!("write {}/{NAME}", fs.place()), error))
    }
}

impl RangesFile {
    /// Writes `ranges` into a new file of this number, and fsyncs it. The directory is its caller's
    /// to fsync.
    ///
    /// # Errors
    /// `Limit` when they are too many, `DiskFull`, `Io`.
    pub(super) fn store(fs: &dyn Fs, number: u64, ranges: &Ranges) -> Result<Self> {
        let name = ranges_name(number);
        let entries: Vec<RangeEntry> = ranges.entries().collect();
        let body = postcard::to_stdvec(&entries).map_err(|error| {
            Error::new(ErrorKind::Limit, format!("{name} grew too large")).because(error)
        })?;
        if body.len() > RANGES.len_max as usize {
            let message = format!(
                "{} range deletes take {} bytes: the limit is {}; delete wider ranges",
                entries.len(),
                body.len(),
                RANGES.len_max
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        let bytes = RANGES.seal(&body);
        let written = fs.create(&name).and_then(|file| {
            file.write_at(0, &bytes)?;
            file.sync()
        });
        written.map_err(|error| Error::io(format_args!("write {}/{name}", fs.place()), error))?;
        let check = envelope_check(&bytes);
        Ok(Self { number, check })
    }

    /// The range deletes in the file.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged or another one, `Incompatible`, `Io`.
    pub(super) fn load(self, fs: &dyn Fs) -> Result<Ranges> {
        let path = format!("{}/{}", fs.place(), ranges_name(self.number));
        let bytes = read_all(fs, &ranges_name(self.number))
            .map_err(|error| Error::io(format_args!("read {path}"), error))?;
        let corrupt = |why: String| {
            let message = format!("{path} is damaged ({why}): the log tells all of it");
            Error::new(ErrorKind::Corrupt, message)
        };
        if envelope_check(&bytes) != self.check {
            return Err(corrupt("it is another one".to_owned()));
        }
        let entries: Vec<RangeEntry> = control_file::decode(&RANGES, &bytes, &path, &corrupt)?;
        let sound = |entry: &RangeEntry| {
            let ends = entry.end.as_ref().is_none_or(|end| entry.start < *end);
            ends && !entry.lsns.is_empty() && entry.lsns.is_sorted_by(|a, b| a > b)
        };
        let ordered = entries.is_sorted_by(|one, other| {
            let before = one.end.as_ref().is_some_and(|end| *end <= other.start);
            one.keyspace < other.keyspace || one.keyspace == other.keyspace && before
        });
        if !ordered || !entries.iter().all(sound) {
            return Err(corrupt("its ranges contradict one another".to_owned()));
        }
        Ok(Ranges::of_entries(entries))
    }
}

fn envelope_check(bytes: &[u8]) -> u32 {
    let check = bytes.get(12..16).and_then(<[u8]>::first_chunk);
    check.copied().map_or(0, u32::from_le_bytes)
}

/// The name of a file of range deletes.
pub(super) fn ranges_name(number: u64) -> String {
    format!("{DIR}/{number:012}.ranges")
}

/// The number in the name of a file of the index, of whichever kind.
pub(super) fn file_number(name: &str) -> Option<u64> {
    run_number(name).or_else(|| {
        let name = name.strip_prefix(DIR)?.strip_prefix('/')?;
        name.strip_suffix(".ranges")?.parse().ok()
    })
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
