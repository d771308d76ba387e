//! Writing frames: rotation, the active segment, one write and one fsync at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use parking_lot::MutexGuard;

use super::blocks::BlockWriter;
use super::lane::Reserve;
use super::segment::{Segment, file_name};
use super::time::Base;
use super::{Log, LogState};
use crate::config::WriteMode;
use crate::conflict::Recent;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    Chain, ChainRecord, FrameFields, FrameHeader, FrameKind, Lsn, Position, SEGMENT_FOOTER_LEN,
    SEGMENT_HEADER_LEN, SegmentFooter, SegmentHeader,
};
use crate::fs::{Access, BLOCK_LEN, File};
use crate::kill_points::{Point, pass};
use crate::planted::{Bug, on};

/// What the one who leads holds.
///
/// Invariants: `chain` is where the active segment ends; `blocks` stands there too; `durable` never
/// exceeds what a finished fsync covered.
pub(super) struct Writer {
    pub(super) chain: Chain,
    /// The active segment; none before the first frame.
    pub(super) active: Option<Active>,
    /// What transactions are checked against.
    pub(super) recent: Recent,
    /// What log time counts from.
    pub(super) log_base: Base,
    /// What recovery still has to do before anything is written.
    pub(super) unsettled: Option<super::settle::Unsettled>,
}

pub(super) struct Active {
    pub(super) segment: Arc<Segment>,
    pub(super) blocks: BlockWriter,
    pub(super) frames: u64,
}

/// What was written and does not last yet.
pub(super) struct Unsynced {
    file: Arc<dyn File>,
    ordinal: u64,
    end: Position,
}

impl Writer {
    /// All that was written.
    pub(super) fn unsynced(&self) -> Option<Unsynced> {
        let active = self.active.as_ref()?;
        Some(Unsynced {
            file: active.blocks.file().clone(),
            ordinal: active.segment.header.ordinal,
            end: self.chain.position(),
        })
    }

    /// Fields of a frame that this node forms now.
    pub(super) fn fields(&self, log: &Log, kind: FrameKind, batches: u32) -> FrameFields {
        let wall_ms = log.clock.wall_ms();
        FrameFields {
            kind,
            first_in_segment: false,
            batches,
            wall_ms,
            log_ms: self
                .log_base
                .log_ms(wall_ms, log.now_ns(), self.chain.log_ms),
            visible: log.cell.visible().max(self.visible_floor()),
            watermark: if on(Bug::WatermarkAtZero) {
                Lsn::ZERO
            } else {
                log.cell.durable().max(self.watermark_floor())
            },
        }
    }

    const fn visible_floor(&self) -> Lsn {
        self.chain.visible
    }

    const fn watermark_floor(&self) -> Lsn {
        self.chain.watermark
    }
}

impl Log {
    /// The writer, with no group in flight: what was formed lasts, or the log is poisoned.
    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        let writer = self.writer.lock();
        self.wait_for_sync();
        writer
    }

    /// Waits, with the writer's lock held, until the group before is synced.
    pub(super) fn wait_for_sync(&self) {
        drop(self.syncing.lock());
    }

    /// Makes room for a frame of `len` bytes: seals the active segment and opens the next one where
    /// it does not fit. Answers whether the frame will be the first of its segment.
    ///
    /// On error nothing of the frame was written and the log can go on.
    pub(super) fn make_room(
        &self,
        writer: &mut Writer,
        len: usize,
        reserve: Reserve,
    ) -> Result<bool> {
        match &writer.active {
            Some(active) if active.segment.room() >= len as u64 => {
                Ok(active.segment.range().is_empty())
            }
            _ => self.rotate(writer, reserve).map(|()| true),
        }
    }

    /// Seals the active segment, if there is one, and goes on in the next.
    pub(super) fn rotate(&self, writer: &mut Writer, reserve: Reserve) -> Result<()> {
        self.wait_for_sync();
        self.require_sound()?;
        // The file first: a full disk is met before anything changed.
        // Behind the last segment, which is a sealed one after a crash between a seal and the next
        // header.
        let last = self.segments.last();
        let ordinal = last.map_or(1, |segment| segment.header.ordinal + 1);
        self.take_prepared(ordinal, reserve)?;
        if let Some(active) = &writer.active {
            self.seal(active, &writer.chain)?;
            pass(Point::Sealed);
        }
        let header = SegmentHeader::new(&writer.chain, ordinal, self.segment_size);
        let mut blocks = BlockWriter::new(self.open_for_writing(ordinal)?, 0, &[]);
        let poisoning = |error| {
            let error = Error::io(
                format_args!("write the header of {}", file_name(ordinal)),
                error,
            );
            self.poison(&error);
            error
        };
        blocks
            .append([header.encode().as_slice()])
            .map_err(poisoning)?;
        pass(Point::SegmentBegun);
        let segment = Arc::new(Segment::active(header));
        self.segments.insert(segment.clone());
        writer.active = Some(Active {
            segment,
            blocks,
            frames: 0,
        });
        self.lane.wake();
        Ok(())
    }

    /// Writes the footer. All before it must be fsynced, since that is what it says.
    fn seal(&self, active: &Active, chain: &Chain) -> Result<()> {
        let range = active.segment.range();
        let poisoning = |error: std::io::Error| {
            let name = file_name(active.segment.header.ordinal);
            let error = Error::io(format_args!("seal {name}"), error);
            self.poison(&error);
            error
        };
        if self.cell.durable() < range.end {
            if !on(Bug::SealBeforeSync) {
                active.blocks.sync().map_err(poisoning)?;
            }
            let position = chain.position();
            assert_eq!(
                position.lsn, range.end,
                "the chain stands elsewhere than the segment ends"
            );
            self.cell.change(|now| now.durable = position);
        }
        pass(Point::SealBegins);
        let footer = SegmentFooter {
            base: range.start,
            frames: active.frames,
            end: ChainRecord::new(chain),
        };
        let offset = self.segment_size - SEGMENT_FOOTER_LEN;
        active
            .blocks
            .write_block(offset, &footer.encode())
            .map_err(poisoning)?;
        pass(Point::SealWritten);
        active.blocks.sync().map_err(poisoning)?;
        pass(Point::SealSynced);
        self.note_mark().inspect_err(|error| self.poison(error))
    }

    pub(super) fn open_for_writing(&self, ordinal: u64) -> Result<Arc<dyn File>> {
        let name = file_name(ordinal);
        let direct = self.fs.open(&name, Access::WriteDirect);
        let buffered = || {
            let file = self.fs.open(&name, Access::Write)?;
            Ok((file, false))
        };
        let opened = match (self.config.write_mode, direct) {
            (WriteMode::Buffered, _) => buffered(),
            (WriteMode::Auto, Err(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
                buffered()
            }
            (_, direct) => direct.map(|file| (file, true)),
        };
        let (file, past_cache) = opened.map_err(|error| {
            Error::io(
                format_args!("open {}/{name} for writing", self.fs.place()),
                error,
            )
        })?;
        self.past_cache.store(past_cache, Ordering::Relaxed);
        Ok(file)
    }

    /// Puts a formed frame (or run of frames) into memory. From here on it is part of the log.
    pub(super) fn push(&self, writer: &mut Writer, start: Lsn, bytes: Bytes, frames: u64) {
        let Some(active) = &mut writer.active else {
            panic!("no active segment at {start}")
        };
        active.segment.push(start, bytes);
        active.frames += frames;
        let position = writer.chain.position();
        self.cell.change(|now| now.appended = position);
    }

    /// Writes what was pushed. An error poisons the log.
    pub(super) fn write(&self, writer: &mut Writer, bytes: &[u8]) -> Result<()> {
        let Some(active) = &mut writer.active else {
            panic!("nothing to write to")
        };
        pass(Point::WriteBegins);
        active.blocks.append([bytes]).map_err(|error| {
            let name = file_name(active.segment.header.ordinal);
            let error = Error::io(format_args!("write to {name}"), error);
            self.poison(&error);
            error
        })?;
        pass(Point::Written);
        Ok(())
    }

    /// Makes everything that was written last. An error poisons the log; it is never tried again.
    pub(super) fn sync_active(&self, writer: &Writer) -> Result<()> {
        writer
            .unsynced()
            .map_or(Ok(()), |unsynced| self.sync_written(&unsynced))
    }

    /// The same of what was written by then.
    pub(super) fn sync_written(&self, unsynced: &Unsynced) -> Result<()> {
        let sync = || match unsynced.file.sync() {
            Err(_) if on(Bug::RetriedFsync) => unsynced.file.sync(),
            Err(_) if on(Bug::NoPoison) => Ok(()),
            synced => synced,
        };
        pass(Point::SyncBegins);
        let began = self.now();
        let synced = if on(Bug::NoFsync) { Ok(()) } else { sync() };
        self.counters.fsyncs.add(self.now().saturating_sub(began));
        synced.map_err(|error| {
            let name = file_name(unsynced.ordinal);
            let error = Error::io(format_args!("fsync {name}"), error);
            self.poison(&error);
            error
        })?;
        pass(Point::Synced);
        // Of what was written meanwhile, some may have failed, in a block that is also this one's.
        self.require_sound()?;
        self.cell.change(|now| now.durable = unsynced.end);
        let now_ns = self.now_ns();
        self.synced_at_ns.store(now_ns, Ordering::Relaxed);
        if !self.mark_armed.swap(true, Ordering::AcqRel) {
            self.armed_at_ns.store(now_ns, Ordering::Relaxed);
            self.lane.wake();
        }
        Ok(())
    }

    /// Forms one frame of this node's own, and writes and syncs it. Used by all that is not a group
    /// of commits.
    pub(super) fn append_own(
        &self,
        writer: &mut Writer,
        form: impl FnOnce(&mut Chain, bool) -> Bytes,
        len: usize,
    ) -> Result<(FrameHeader, Bytes)> {
        let first = self.make_room(writer, len, Reserve::Usable)?;
        let before = writer.chain;
        let frame = form(&mut writer.chain, first);
        let header = match before.check_header(&frame) {
            Ok(header) => header,
            Err(fault) => panic!("formed a frame that does not check: {fault}"),
        };
        assert_eq!(frame.len(), len, "a frame of another length than announced");
        let start = before.lsn;
        // Written and synced before anybody is shown it: an epoch must be durable before its first
        // frame can be shipped.
        self.write(writer, &frame)?;
        self.push(writer, start, frame.clone(), 1);
        if on(Bug::EpochNotDurable) {
            let position = writer.chain.position();
            self.cell.change(|now| now.durable = position);
        } else {
            self.sync_active(writer)?;
        }
        Ok((header, frame))
    }

    /// The error for a frame that this log cannot take in its present state.
    pub(super) fn require(&self, wanted: &LogState) -> Result<()> {
        if *self.state.read() == *wanted {
            Ok(())
        } else {
            Err(self.not_writing_but(wanted))
        }
    }

    /// # Errors
    /// `Poisoned`.
    pub(super) fn require_sound(&self) -> Result<()> {
        if matches!(*self.state.read(), LogState::Poisoned(_)) {
            return Err(self.not_writing());
        }
        Ok(())
    }

    fn not_writing_but(&self, wanted: &LogState) -> Error {
        if *self.state.read() == LogState::Writing {
            let message = format!("this node writes its own log; it is not {wanted:?}");
            return Error::new(ErrorKind::NotWriter, message);
        }
        self.not_writing()
    }

    /// Goes on behind `frames`, all that the segment's file holds.
    pub(super) fn blocks_at(&self, segment: &Segment) -> Result<BlockWriter> {
        let range = segment.range();
        let head_len = range.len_bytes() % BLOCK_LEN as u64;
        let offset = SEGMENT_HEADER_LEN + range.len_bytes() - head_len;
        let head = segment.read_between(&*self.fs, Lsn(range.end.0 - head_len), range.end)?;
        let file = self.open_for_writing(segment.header.ordinal)?;
        Ok(BlockWriter::new(file, offset, &head))
    }

    /// Rewrites `[from, end)` of the active segment, whose first block it fills up from memory, and
    /// syncs it: after a crash, or after an fsync that failed, the page cache can show bytes that
    /// the disk does not have.
    pub(super) fn rewrite(&self, segment: &Segment, from: Lsn) -> Result<BlockWriter> {
        let range = segment.range();
        let from = from.clamp(range.start, range.end);
        let offset = SEGMENT_HEADER_LEN + from.bytes_since(range.start);
        // Where nothing of the segment is known to be durable, its header is not either.
        let block = if from == range.start {
            0
        } else {
            offset - offset % BLOCK_LEN as u64
        };
        let file = self.open_for_writing(segment.header.ordinal)?;
        let poisoning = |error: std::io::Error| {
            let name = file_name(segment.header.ordinal);
            let error = Error::io(format_args!("rewrite the tail of {name}"), error);
            self.poison(&error);
            error
        };
        let whole = from == range.start;
        let mut blocks = BlockWriter::new(file, if whole { 0 } else { block }, &[]);
        // The header was written with the first frame: the disk may lack both.
        let mut at = if whole {
            blocks
                .append([segment.header.encode().as_slice()])
                .map_err(poisoning)?;
            range.start
        } else {
            range.start.advance(block - SEGMENT_HEADER_LEN)
        };
        // In whole blocks but for the last one: what is left of a block is written as zeros until
        // the rest follows, and a crash in between would find them in the place of frames.
        const PIECE_LEN: u64 = 1 << 20;
        while at < range.end {
            let to = Lsn(at.advance(PIECE_LEN).0.min(range.end.0));
            let bytes = segment.read_between(&*self.fs, at, to)?;
            blocks.append([&*bytes]).map_err(poisoning)?;
            at = to;
        }
        pass(Point::TailRewritten);
        blocks.sync().map_err(poisoning)?;
        Ok(blocks)
    }
}
