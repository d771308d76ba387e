//! Carrying out the plan of recovery, before anything new is written.
//!
//! The order makes a crash in between harmless: what was acknowledged and is gone is noted first;
//! then what goes is kept aside, durably; then it is taken out of the log, from its end on; then
//! what the disk may not have is written again. Done twice it is done once.

use super::blocks::BlockWriter;
use super::manifest::TailLost;
use super::recovery::{self, Facts, Missing, Peer, Plan};
use super::segment::{DIR, Segment, file_name};
use super::survey::{Survey, Whole};
use super::walk::written_len;
use super::writer::Active;
use super::{Log, LogState, open::ASIDE};
use crate::error::{Error, Result};
use crate::format::{
    SEGMENT_FOOTER_LEN, SEGMENT_HEADER_LEN, SegmentFooter, SegmentHeader, to_usize,
};
use crate::fs::{Access, Fs, read_all};
use crate::kill_points::{Point, pass};
use crate::planted::{Bug, on};

/// What recovery still has to do.
#[derive(Clone, Debug)]
pub(super) struct Unsettled {
    facts: Facts,
    tail_lost: Option<TailLost>,
    /// Whole segments whose header or footer must be written again.
    mend: Vec<Whole>,
    /// Files behind the log's end that hold something.
    behind: Vec<String>,
    /// Whether the last segment may be written in place.
    in_place: bool,
}

impl Unsettled {
    pub(super) fn new(survey: &Survey, facts: Facts, tail_lost: Option<TailLost>) -> Self {
        let derived = survey.whole.iter().filter(|whole| whole.derived);
        Self {
            facts,
            tail_lost,
            mend: derived.cloned().collect(),
            behind: survey.behind.clone(),
            in_place: survey.last.as_ref().is_none_or(|last| last.in_place),
        }
    }
}

impl Log {
    /// Does what recovery planned. Everything that is left is then durable. A failure leaves it to
    /// be done again.
    ///
    /// Whoever calls this has heard from the peer, or need not: there is none, an operator said so,
    /// or this node follows and is sent again what it lacks.
    pub(crate) fn settle(&self) -> Result<()> {
        let mut writer = self.writer();
        let Some(unsettled) = writer.unsettled.clone() else {
            return Ok(());
        };
        self.require_writable()?;
        if matches!(self.state(), LogState::Poisoned(_) | LogState::Closed) {
            return Err(self.not_writing());
        }
        let peer = self.peer_holds.lock().map_or(Peer::None, Peer::Has);
        let facts = Facts {
            peer,
            ..unsettled.facts
        };
        let (cut, missing) = match recovery::plan(facts) {
            Plan::Go { cut, missing } => (cut, missing),
            plan @ (Plan::Refuse(_) | Plan::Wait) => {
                panic!("a log was opened or settled against its plan {plan:?}: {facts:?}")
            }
        };
        self.settle_manifest(unsettled.tail_lost)?;
        let _replacing = self.replacing.lock();
        pass(Point::SettleBegun);
        for whole in &unsettled.mend {
            self.with_reserve(|| self.mend(whole))?;
        }
        let last = self.segments.last().filter(|segment| segment.in_memory());
        if cut {
            self.fs
                .create_dir(ASIDE)
                .map_err(|error| Error::io(format_args!("make {ASIDE}"), error))?;
            self.keep_files_aside(&unsettled.behind, facts.end)?;
        }
        if let Some(segment) = last {
            if cut {
                self.cut_tail(&segment, unsettled.in_place)?;
            }
            let blocks = if unsettled.in_place {
                let from = if on(Bug::NoRewrite) {
                    segment.range().end
                } else {
                    facts.vouched
                };
                self.rewrite(&segment, from)?
            } else {
                self.replace_last(&segment)?
            };
            let frames = segment.count_frames(&*self.fs)?;
            writer.active = Some(Active {
                segment,
                blocks,
                frames,
            });
        } else {
            // All is in sealed segments, or there is nothing yet.
            self.settle_footer()?;
        }
        writer.unsettled = None;
        self.cell
            .change(|now| now.durable = writer.chain.position());
        drop(writer);
        pass(Point::Settled);
        self.report(missing, unsettled.mend);
        self.cell.notify();
        Ok(())
    }

    fn report(&self, missing: Missing, mended: Vec<Whole>) {
        let mut recovered = self.recovered.lock();
        let mended = mended.iter().map(|whole| file_name(whole.header.ordinal));
        recovered.mended.extend(mended);
        match missing {
            Missing::Nothing => {}
            Missing::Fetch(range) => {
                tracing::warn!(%range, "the peer holds a tail that this disk lost");
                recovered.lost_tail = Some(range);
            }
            Missing::Acked(range) => {
                tracing::error!(%range, "ACKED TAIL LOST: it must be sent again");
            }
        }
    }

    /// Writes a sealed segment again whose frames hold and whose header or footer does not.
    fn mend(&self, whole: &Whole) -> Result<()> {
        let name = file_name(whole.header.ordinal);
        let mending = |error| Error::io(format_args!("write {name} again"), error);
        let bytes = read_all(&*self.fs, &name).map_err(mending)?;
        let len = to_usize(whole.footer.end.lsn.bytes_since(whole.footer.base));
        let start = to_usize(SEGMENT_HEADER_LEN);
        let frames = bytes.get(start..start + len).unwrap_or_default();
        replace_segment(&*self.fs, &whole.header, frames, Some(&whole.footer)).map_err(mending)?;
        tracing::warn!(%name, "what was damaged around the frames was written again");
        Ok(())
    }

    /// Writes the footer of the last segment again: the page cache may show one that the disk does
    /// not have, and the log goes on behind it.
    fn settle_footer(&self) -> Result<()> {
        let Some(last) = self.segments.last() else {
            return Ok(());
        };
        let ordinal = last.header.ordinal;
        let mut footer = crate::fs::AlignedBuf::zeroed(to_usize(SEGMENT_FOOTER_LEN));
        let offset = self.segment_size - SEGMENT_FOOTER_LEN;
        let name = file_name(ordinal);
        let mut again = || {
            let read = self.fs.open(&name, Access::Read)?;
            read.read_at(offset, footer.as_mut_slice())?;
            let file = self.fs.open(&name, Access::Write)?;
            file.write_at(offset, footer.as_slice())?;
            file.sync()
        };
        again().map_err(|error| {
            let error = Error::io(format_args!("write the footer of {name} again"), error);
            self.poison(&error);
            error
        })
    }

    /// Moves files that lie behind the end of the log aside, the last one first: what is left is
    /// always a log without a gap.
    fn keep_files_aside(&self, names: &[String], end: crate::Lsn) -> Result<()> {
        for name in names.iter().rev() {
            let short = name.trim_start_matches(DIR).trim_start_matches('/');
            let aside = format!("{ASIDE}/torn-{end}-{}-{short}", self.clock.wall_ms());
            let moving = |error| Error::io(format_args!("move {name} to {aside}"), error);
            let bytes = read_all(&*self.fs, name).map_err(moving)?;
            self.fs.rename(name, &aside).map_err(moving)?;
            self.fs.sync_dir(ASIDE).map_err(moving)?;
            self.fs.sync_dir(DIR).map_err(moving)?;
            let len = written_len(&bytes);
            tracing::warn!(lsn = %end, bytes = len, %aside, "a file behind the log was moved");
            let mut recovered = self.recovered.lock();
            recovered.torn_bytes += len as u64;
            recovered.aside.push(aside);
        }
        Ok(())
    }

    /// Copies what lies behind the end of the log in its last segment aside, durably, and then
    /// overwrites it with zeros where the file may be written.
    fn cut_tail(&self, segment: &Segment, in_place: bool) -> Result<()> {
        let name = file_name(segment.header.ordinal);
        let end = segment.range().end;
        let cutting =
            |error| Error::io(format_args!("cut the torn tail of {name} at {end}"), error);
        let bytes = read_all(&*self.fs, &name).map_err(cutting)?;
        let start = to_usize(super::walk::offset_in_file(end, segment.header.base()));
        let behind = bytes.get(start..).unwrap_or_default();
        let len = written_len(behind);
        if len == 0 {
            return Ok(());
        }
        let torn = behind.get(..len).unwrap_or_default();
        let aside = format!("{ASIDE}/torn-{end}-{}", self.clock.wall_ms());
        self.with_reserve(|| crate::fs::replace(&*self.fs, ASIDE, &aside, torn).map_err(cutting))?;
        if in_place {
            let file = self.fs.open(&name, Access::Write).map_err(cutting)?;
            let zero = || {
                file.write_at(start as u64, &vec![0; len])?;
                file.sync()
            };
            zero().map_err(|error| {
                let error = cutting(error);
                self.poison(&error);
                error
            })?;
        }
        tracing::warn!(lsn = %end, bytes = len, %aside, "a torn tail was cut and kept aside");
        let mut recovered = self.recovered.lock();
        recovered.torn_bytes += len as u64;
        recovered.aside.push(aside);
        Ok(())
    }

    /// Puts a new file in the place of the last segment, which was sealed once or whose header does
    /// not hold, and goes on in it.
    fn replace_last(&self, segment: &Segment) -> Result<BlockWriter> {
        let range = segment.range();
        let frames = segment.read_whole(&*self.fs, range.end)?;
        self.with_reserve(|| {
            replace_segment(&*self.fs, &segment.header, &frames, None).map_err(|error| {
                let name = file_name(segment.header.ordinal);
                Error::io(format_args!("write {name} again"), error)
            })
        })?;
        self.blocks_at(segment)
    }
}

/// Puts a segment of these frames in the place of the file that is there: a crash leaves the old
/// one or the new one. Never in place, since readers may have mapped the old one.
pub(super) fn replace_segment(
    fs: &dyn Fs,
    header: &SegmentHeader,
    frames: &[u8],
    footer: Option<&SegmentFooter>,
) -> std::io::Result<()> {
    const ZEROS_LEN: u64 = 1 << 20;
    let name = file_name(header.ordinal);
    let temporary = format!("{name}.tmp");
    if let Err(error) = fs.unlink(&temporary)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let file = fs.create(&temporary)?;
    file.write_at(0, &header.encode())?;
    file.write_at(SEGMENT_HEADER_LEN, frames)?;
    // Zeros that are there and not only promised, so that later writes need no journal.
    let mut at = SEGMENT_HEADER_LEN + frames.len() as u64;
    while at < header.segment_size {
        let len = (header.segment_size - at).min(ZEROS_LEN);
        file.write_at(at, &vec![0; to_usize(len)])?;
        at += len;
    }
    if let Some(footer) = footer {
        // What a footer says must be durable before it.
        file.sync()?;
        file.write_at(header.segment_size - SEGMENT_FOOTER_LEN, &footer.encode())?;
    }
    file.sync()?;
    pass(Point::SegmentRewritten);
    fs.rename(&temporary, &name)?;
    fs.sync_dir(DIR)
}

const _: () = assert!(SEGMENT_HEADER_LEN.is_multiple_of(crate::fs::BLOCK_LEN as u64));
