//! Where the frames come from that a damaged log lacks.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::mend::{footer_of, room};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Chain, ChainRecord, LsnRange, SegmentHeader, to_usize};
use crate::fs::{Fs, read_all};
use crate::log::segment::file_name;

/// What is asked of a [`FrameSource`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Want {
    /// The segment in which it is missing.
    pub segment: SegmentHeader,
    /// What the first frame must continue.
    pub at: Chain,
    /// What is missing. It begins where `at` stands, and its end need not be the end of a frame.
    pub range: LsnRange,
}

/// What a [`FrameSource`] answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Given {
    /// Whole frames from the beginning of what is missing on, at least one. They need not reach its
    /// end, which is then asked for again, and are believed in nothing.
    Frames(Bytes),
    /// The frames of the segment end where those that are missing should begin.
    SegmentEnds,
    /// Nothing, and why.
    Nothing(Lack),
}

/// A copy of a log: the other node's directory, a backup, or the other node itself.
pub trait FrameSource {
    /// The frames that are missing, or the first of them.
    ///
    /// # Errors
    /// What makes the whole source useless, such as a copy of another cluster. That one range
    /// cannot be had is no error.
    fn give(&mut self, want: &Want) -> Result<Given>;
}

/// Why a source has not given what was asked of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LackKind {
    /// It does not hold those positions.
    NotHeld,
    /// It holds other frames there: its log is a fork of this one, or this one of it.
    OtherHistory,
    /// It is damaged there itself.
    Damaged,
    /// It could not be asked any more.
    Unreachable,
}

/// What a source has not given, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Lack {
    /// What was asked for.
    pub range: LsnRange,
    /// Why it was not given.
    pub kind: LackKind,
    /// The same for people, with what to do about it.
    pub what: String,
}

impl Lack {
    /// `range` was not given for this reason; `what` says more.
    #[must_use]
    pub fn new(range: LsnRange, kind: LackKind, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { range, kind, what }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was not given: {}", self.range, self.what)
    }
}

/// A directory with a copy of the log: the other node's, or a backup.
#[derive(Debug)]
pub struct CopySource<'a> {
    fs: &'a dyn Fs,
    /// The file that was read last, so that one segment is read once.
    last: Option<(u64, Bytes)>,
}

impl<'a> CopySource<'a> {
    /// The copy in these files, of which nothing is believed.
    #[must_use]
    pub const fn new(fs: &'a dyn Fs) -> Self {
        Self { fs, last: None }
    }

    fn file(&mut self, ordinal: u64) -> Result<Bytes> {
        if let Some((read, bytes)) = &self.last
            && *read == ordinal
        {
            return Ok(bytes.clone());
        }
        let name = file_name(ordinal);
        let bytes = match read_all(self.fs, &name) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Bytes::new(),
            Err(error) => {
                let doing = format!("read {}/{name}", self.fs.place());
                return Err(Error::io(doing, error));
            }
        };
        self.last = Some((ordinal, bytes.clone()));
        Ok(bytes)
    }
}

impl FrameSource for CopySource<'_> {
    fn give(&mut self, want: &Want) -> Result<Given> {
        let header = &want.segment;
        let bytes = self.file(header.ordinal)?;
        let (place, name) = (self.fs.place(), file_name(header.ordinal));
        let lacks = |kind, what: &str| {
            let what = format!("{place}/{name} {what}");
            Ok(Given::Nothing(Lack::new(want.range, kind, what)))
        };
        match SegmentHeader::decode(&bytes) {
            Ok(other) if other.cluster != header.cluster => {
                let message = format!(
                    "{place}/{name} belongs to cluster {} and this log to {}: name a copy of this \
                     one",
                    other.cluster, header.cluster
                );
                return Err(Error::new(ErrorKind::Incompatible, message));
            }
            Ok(other) if other == *header => {}
            // One of another fork begins elsewhere or goes on from another frame.
            Ok(_) => {
                let what = "begins elsewhere than this log's: it is of another history";
                return lacks(LackKind::OtherHistory, what);
            }
            Err(_) if bytes.is_empty() => return lacks(LackKind::NotHeld, "is not there"),
            Err(_) => return lacks(LackKind::Damaged, "has a header that does not hold"),
        }
        if footer_of(&bytes, header).is_some_and(|footer| footer.end == ChainRecord::new(&want.at))
        {
            return Ok(Given::SegmentEnds);
        }
        let offset = to_usize(want.range.start.bytes_since(header.base()));
        let room = room(&bytes, header.segment_size);
        let frames = room.slice(offset.min(room.len())..);
        if frames.iter().all(|byte| *byte == 0) {
            return lacks(LackKind::NotHeld, "ends before that");
        }
        Ok(Given::Frames(frames))
    }
}
