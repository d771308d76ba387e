//! Walking the bytes of segments: what is in them, and the first of them that does not hold.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use outlast_engine::format::{
    Chain, ChainRecord, EpochRecord, FrameFault, FrameHeader, LsnRange, SEGMENT_FOOTER_LEN,
    SEGMENT_HEADER_LEN, SegmentFault, SegmentFooter, SegmentHeader, to_usize,
};
use outlast_engine::{About, Lsn};

use crate::failure::Failure;

/// What lies in a log, in order. Given by reference, one at a time, and never kept.
#[allow(clippy::large_enum_variant)]
pub(super) enum Item<'a> {
    /// A file that is made and not used yet, or whose first write a crash tore.
    Unused { file: &'a Path, torn: bool },
    /// A segment begins.
    Segment {
        file: &'a Path,
        header: &'a SegmentHeader,
        /// There once it is sealed.
        footer: Option<&'a SegmentFooter>,
    },
    /// A frame that holds and continues the one before.
    Frame {
        offset: u64,
        header: FrameHeader,
        epoch: Option<EpochRecord>,
        bytes: &'a [u8],
    },
    /// Where the frames of the active segment end, and how many bytes behind are no frame.
    End {
        at: Lsn,
        offset: u64,
        torn_bytes: u64,
    },
}

/// Bytes that should hold and do not.
#[derive(Debug)]
pub(super) struct Fault {
    file: PathBuf,
    offset: u64,
    lsn: Option<Lsn>,
    what: String,
}

impl Fault {
    fn new(file: &Path, offset: u64, lsn: Option<Lsn>, what: String) -> Self {
        let file = file.to_owned();
        Self {
            file,
            offset,
            lsn,
            what,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, offset) = (self.file.display(), self.offset);
        match self.lsn {
            Some(lsn) => write!(f, "{file}: at offset {offset}, LSN {lsn}: {}", self.what),
            None => write!(f, "{file}: at offset {offset}: {}", self.what),
        }
    }
}

/// Why a walk ended early.
pub(super) enum Stop {
    Fault(Fault),
    Printing(Failure),
}

type Show<'a> = dyn FnMut(Item<'_>) -> Result<(), Failure> + 'a;

/// A walk along the segments of one log.
pub(super) struct Walk {
    /// Whose directory it is, if that is known.
    about: Option<About>,
    range: Range<Lsn>,
    /// Where the log stands behind the segment before, and whether that was sealed.
    before: Option<ChainRecord>,
    /// What is a fault if a segment that holds something follows.
    suspect: Option<Fault>,
    epochs: Vec<EpochRecord>,
    ordinal: u64,
}

impl Walk {
    pub(super) const fn new(about: Option<About>, range: Range<Lsn>) -> Self {
        Self {
            about,
            range,
            before: None,
            suspect: None,
            epochs: Vec::new(),
            ordinal: 0,
        }
    }

    /// Walks one segment. `whole` says that all segments before it were walked.
    pub(super) fn segment(
        &mut self,
        file: &Path,
        bytes: Bytes,
        whole: bool,
        show: &mut Show<'_>,
    ) -> Result<(), Stop> {
        let fault = |offset, lsn, what| Stop::Fault(Fault::new(file, offset, lsn, what));
        let header = match SegmentHeader::decode(&bytes) {
            Ok(header) => header,
            Err(error) => {
                let zeros = error == SegmentFault::Zeros || bytes.is_empty();
                let what = format!("it has no header of a segment: {error}");
                let fault = Fault::new(file, 0, None, what);
                if !zeros && (!whole || matches!(error, SegmentFault::Features(_))) {
                    return Err(Stop::Fault(fault));
                }
                // A header is written with the first frame, under one fsync: a crash may tear it.
                self.suspect.get_or_insert(fault);
                let torn = !zeros;
                return show(Item::Unused { file, torn }).map_err(Stop::Printing);
            }
        };
        if let Some(fault) = self.suspect.take() {
            return Err(Stop::Fault(fault));
        }
        if whole {
            self.ordinal += 1;
            let origin = ChainRecord::new(&Chain::origin(header.cluster));
            let expected = self.before.unwrap_or(origin);
            if header.ordinal != self.ordinal || header.start != expected {
                let what = format!(
                    "it is segment {} and does not continue what lies before it",
                    header.ordinal
                );
                return Err(fault(0, Some(header.base()), what));
            }
        }
        let footer_at = header.segment_size - SEGMENT_FOOTER_LEN;
        let footer = bytes.get(to_usize(footer_at)..).unwrap_or_default();
        let footer = match SegmentFooter::decode(footer) {
            Ok(footer) if footer.base == header.base() => Some(footer),
            Ok(_) => {
                let what = "the footer is another segment's".to_owned();
                return Err(fault(footer_at, None, what));
            }
            // That of the last one may be torn: what it stands for lies in the frames.
            Err(error) => {
                let what = format!("it is not sealed and not the last segment: {error}");
                self.suspect = Some(Fault::new(file, footer_at, None, what));
                None
            }
        };
        let item = Item::Segment {
            file,
            header: &header,
            footer: footer.as_ref(),
        };
        show(item).map_err(Stop::Printing)?;
        self.before = footer.as_ref().map(|footer| footer.end);
        let end = footer.as_ref().map(|footer| footer.end.lsn);
        if end.is_some_and(|end| end <= self.range.start) || header.base() >= self.range.end {
            return Ok(());
        }

        let offset_of =
            |lsn: Lsn| SEGMENT_HEADER_LEN.saturating_add(lsn.bytes_since(header.base()));
        let frames_end = to_usize(end.map_or(footer_at, |end| offset_of(end).min(footer_at)));
        let room = bytes.get(..frames_end.min(bytes.len())).unwrap_or_default();
        let mut chain = header.chain();
        let mut frames = 0;
        let stopped = loop {
            let offset = offset_of(chain.lsn);
            if end == Some(chain.lsn) {
                break None;
            }
            let rest = room.get(to_usize(offset)..).unwrap_or_default();
            match chain.check_frame(rest) {
                Ok((frame, epoch)) => {
                    frames += 1;
                    chain = chain.after(&frame, epoch.as_ref());
                    self.epochs.extend(epoch.clone());
                    if frame.lsn < self.range.end && frame.end() > self.range.start {
                        let bytes = rest.get(..frame.frame_len()).unwrap_or_default();
                        let (header, item_epoch) = (frame, epoch);
                        show(Item::Frame {
                            offset,
                            header,
                            epoch: item_epoch,
                            bytes,
                        })
                        .map_err(Stop::Printing)?;
                    }
                }
                Err(error) => break Some(error),
            }
        };
        let (at, offset) = (chain.lsn, offset_of(chain.lsn));
        let Some(footer) = footer else {
            let rest = room.get(to_usize(offset)..).unwrap_or_default();
            if let Some(vouched) = self.vouched_behind(at, rest) {
                let what = format!(
                    "{}; a later frame says that this node had everything below {vouched} durable",
                    stopped.map_or_else(String::new, |fault: FrameFault| fault.to_string()),
                );
                return Err(fault(offset, Some(at), what));
            }
            let torn = rest.iter().rposition(|byte| *byte != 0);
            let torn_bytes = torn.map_or(0, |last| last as u64 + 1);
            let end = Item::End {
                at,
                offset,
                torn_bytes,
            };
            return show(end).map_err(Stop::Printing);
        };
        if let Some(stopped) = stopped {
            let what = format!("{stopped}; the segment is sealed up to {}", footer.end.lsn);
            return Err(fault(offset, Some(at), what));
        }
        if ChainRecord::new(&chain) != footer.end || footer.frames != frames {
            let what = "the footer does not agree with the frames before it".to_owned();
            return Err(fault(footer_at, Some(at), what));
        }
        let zeros = bytes.get(to_usize(offset)..to_usize(footer_at));
        if let Some(stray) = zeros.unwrap_or_default().iter().position(|byte| *byte != 0) {
            let what = "something lies between the last frame and the footer".to_owned();
            return Err(fault(offset + stray as u64, None, what));
        }
        Ok(())
    }

    /// What a frame behind the end says was durable there, if that is more than holds. Counts only
    /// for a frame that this directory's node formed itself, and has not fetched back from its
    /// peer: only then was it this disk.
    fn vouched_behind(&self, end: Lsn, behind: &[u8]) -> Option<Lsn> {
        let about = self.about.as_ref()?;
        let mut vouched = None;
        for offset in (8..behind.len()).step_by(8) {
            let at = behind.get(offset..).unwrap_or_default();
            if at.first_chunk() != Some(b"OLF1") {
                continue;
            }
            let lsn = end.advance(offset as u64);
            let fetched = |range: &LsnRange| range.start <= lsn && lsn < range.end;
            if about.received.iter().any(fetched) {
                continue;
            }
            let stray = self
                .epochs
                .iter()
                .filter(|epoch| epoch.node == about.node)
                .find_map(|epoch| FrameHeader::stray(at, lsn, &epoch.into()));
            vouched = vouched.max(stray.map(|header| header.watermark));
        }
        vouched.filter(|vouched| *vouched > end)
    }
}
