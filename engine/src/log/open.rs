//! Making a log, and opening one: the scan, the plan, and its execution once it may be executed.
//!
//! Opening writes nothing to the log. What recovery has to cut or rewrite is done by
//! [`Log::settle`], which a writer calls before it begins an epoch and a follower before it answers
//! a primary.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use super::commit::Queue;
use super::lane::Lane;
use super::levels::Levels;
use super::manifest::Manifest;
use super::mark::MarkFile;
use super::positions::Cell;
use super::recovery::{self, Facts, Plan};
use super::segment::{self, Segment, Segments, file_name, ordinal_of};
use super::writer::{Active, Writer};
use super::{Log, LogState};
use crate::clock::Clock;
use crate::config::{Config, InitOptions};
use crate::entropy::SystemEntropy;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    Chain, EpochRecord, History, Lsn, LsnRange, NodeId, SEGMENT_FOOTER_LEN, SEGMENT_HEADER_LEN,
    SegmentFault, SegmentFooter, SegmentHeader, to_usize,
};
use crate::fs::{Access, Fs, read_all};
use crate::planted::{Bug, on};

/// Where bytes that a cut takes out of the log are kept.
pub(super) const ASIDE: &str = "aside";

/// What recovery found, and what it did about it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Recovered {
    /// End of the log as it was found.
    pub end: Lsn,
    /// Highest position that something vouched was durable here.
    pub vouched: Lsn,
    /// Bytes that a crash tore off the tail; a copy is kept at [`Recovered::aside`].
    pub torn_bytes: u64,
    /// The file that keeps them.
    pub aside: Option<String>,
    /// On a follower whose log ends below what it had acknowledged: up to where. What is missing
    /// must be sent again.
    pub acked_tail_lost: Option<Lsn>,
}

/// What [`Log::settle`] has to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unsettled {
    plan: Plan,
    vouched: Lsn,
}

impl Log {
    /// Makes the files of an empty log. Nothing that exists is overwritten.
    pub(crate) fn init(fs: &dyn Fs, options: &InitOptions) -> Result<NodeId> {
        options.validate()?;
        let place = fs.place();
        if Manifest::exists(fs)? {
            let message =
                format!("{place} holds a store already: open it, or name another directory");
            return Err(Error::new(ErrorKind::AlreadyInitialised, message));
        }
        let making = |error| Error::io(format_args!("make a store in {place}"), error);
        fs.create_dir("").map_err(making)?;
        let _lock = lock(fs)?;
        for dir in [segment::DIR, ASIDE] {
            fs.create_dir(dir).map_err(making)?;
        }
        MarkFile::create(fs)?;
        // Its name must not be lost where that of the manifest is not.
        fs.sync_dir("").map_err(making)?;
        let manifest = Manifest {
            cluster: options.cluster,
            node: options.node,
            node_name: options.node_name.clone(),
            segment_size: options.segment_size,
            has_peer: options.has_peer,
            follower_at_init: options.follower,
            term_given: 0,
            start_given: 0,
            term_heard: None,
            fenced_by: None,
            halted: None,
            protection_heard: None,
            attached_in: None,
            received: Vec::new(),
            history: History::new(),
        };
        // The manifest last: a directory without one is not a store, whatever else lies in it.
        manifest.store(fs)?;
        Ok(manifest.node)
    }

    /// Opens a log. Writes nothing to it.
    pub(crate) fn open(
        fs: Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
        config: Config,
    ) -> Result<Arc<Self>> {
        // Before the lock, which would leave a file in a directory that holds no store; and again
        // once nobody else can be changing it.
        Manifest::load(&*fs)?;
        let lock = lock(&*fs)?;
        let manifest = Manifest::load(&*fs)?;
        super::rewind::sweep(&*fs)
            .map_err(|error| Error::io(format_args!("tidy {}", fs.place()), error))?;
        let mark = MarkFile::open(&*fs)?;
        let found = find_segments(&*fs, &manifest)?;
        let segments = Segments::default();
        for (header, footer) in &found.sealed {
            segments.insert(Arc::new(Segment::sealed(header.clone(), footer.end.lsn)));
        }

        let formed_here = |lsn: Lsn, epoch: &EpochRecord| {
            let fetched = |range: &LsnRange| range.start <= lsn && lsn < range.end;
            on(Bug::ForeignWatermark)
                || epoch.node == manifest.node && !manifest.received.iter().any(fetched)
        };
        let mut history = manifest.history.clone();
        let mut chain = Chain::origin(manifest.cluster);
        if let Some((_, footer)) = found.sealed.last() {
            chain = footer.end.chain(manifest.cluster);
        }
        let mut vouched = chain.lsn;
        let mut ends = vec![chain.position()];
        let mut litter = false;
        if let Some((header, bytes)) = &found.active {
            let scan = recovery::scan(header.chain(), bytes, &history, &formed_here);
            if let Some(fault) = &scan.fault {
                tracing::debug!(%fault, end = %scan.chain.lsn, "the scan of the log ended");
            }
            let segment = Segment::active(header.clone());
            if scan.len > 0 {
                segment.push(header.base(), bytes.slice(..scan.len));
            }
            segments.insert(Arc::new(segment));
            history = history.cut(scan.chain.lsn);
            for epoch in scan.epochs {
                if history.find(epoch.id).is_none() {
                    history.push(epoch).map_err(|fault| {
                        let message = format!("the log's epochs contradict the manifest: {fault}");
                        Error::new(ErrorKind::Corrupt, message)
                    })?;
                }
            }
            (chain, vouched, litter) = (scan.chain, vouched.max(scan.vouched), scan.litter);
            ends.extend(scan.ends);
        }
        let end = chain.lsn;
        history = history.cut(end);
        if let Some(mark) = mark.newest() {
            // A mark counts up to where this history leaves its epoch.
            let holds = manifest.history.end_of(mark.epoch, mark.lsn);
            vouched = vouched.max(holds.map_or(Lsn::ZERO, |end| end.min(mark.lsn)));
        }
        let writer = history
            .last()
            .is_some_and(|epoch| epoch.node == manifest.node);
        let plan = recovery::plan(Facts {
            end,
            vouched,
            litter,
            writer,
        });
        if plan == Plan::Refuse {
            let ordinal = segments
                .find(end)
                .map_or(1, |segment| segment.header.ordinal);
            let message = format!(
                "{}/{} is damaged at {end} (offset {}): [{end}, {vouched}) was durable here and does \
                 not hold any more; nothing was cut; put back a copy of the file",
                fs.place(),
                file_name(ordinal),
                segments
                    .find(end)
                    .map_or(0, |s| Self::active_offset(end, s.header.base())),
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let acked_tail_lost = match plan {
            Plan::CutAcked { acked } => Some(acked),
            Plan::Clean | Plan::Cut | Plan::Refuse => None,
        };
        let recovered = Recovered {
            end,
            vouched: vouched.min(end),
            acked_tail_lost,
            ..Recovered::default()
        };
        let state = match (&manifest.halted, manifest.fenced_by) {
            (Some(why), _) => LogState::Halted(why.clone()),
            (None, Some(by)) => LogState::Fenced(by),
            (None, None) => LogState::Reading,
        };
        let cell = Cell::default();
        cell.change(|now| {
            now.appended = chain.position();
            let whole = ends.partition_point(|position| position.lsn <= vouched);
            now.durable = whole
                .checked_sub(1)
                .and_then(|i| ends.get(i))
                .copied()
                .unwrap_or_default();
        });
        let unsettled = Some(Unsettled {
            plan,
            vouched: vouched.min(end),
        });
        let log = Arc::new(Self {
            clock,
            cluster: manifest.cluster,
            node: manifest.node,
            segment_size: manifest.segment_size,
            mark: Mutex::new(mark),
            history: RwLock::new(history),
            state: RwLock::new(state),
            segments,
            cell,
            queue: Mutex::new(Queue::default()),
            writer: Arc::new(Mutex::new(Writer {
                chain,
                active: None,
                log_base: (0, 0),
                unsettled,
            })),
            entropy: Mutex::new(Arc::new(SystemEntropy)),
            preparation: Mutex::default(),
            sink: Mutex::new(None),
            levels: Levels::default(),
            lane: Lane::default(),
            synced_at_ns: AtomicU64::new(0),
            mark_armed: AtomicBool::new(false),
            armed_at_ns: AtomicU64::new(0),
            recovered: Mutex::new(recovered),
            manifest: Mutex::new(manifest),
            fs,
            config,
            _lock: lock,
        });
        if log.config.background {
            log.lane.start(&log)?;
        }
        Ok(log)
    }

    /// Does what recovery planned: keeps a torn tail aside and zeroes it, rewrites and syncs what
    /// the disk may not have. Everything that is left is then durable. A failure leaves it to be
    /// done again.
    pub(crate) fn settle(&self) -> Result<()> {
        let mut writer = self.writer.lock();
        let Some(unsettled) = writer.unsettled else {
            return Ok(());
        };
        self.settle_manifest()?;
        let Some(segment) = self.segments.last().filter(|segment| segment.in_memory()) else {
            // Everything is in sealed segments, or there is nothing yet.
            self.settle_footer()?;
            writer.unsettled = None;
            self.cell
                .change(|now| now.durable = writer.chain.position());
            return Ok(());
        };
        if matches!(unsettled.plan, Plan::Cut | Plan::CutAcked { .. }) {
            self.cut_tail(&segment)?;
        }
        let from = if on(Bug::NoRewrite) {
            segment.range().end
        } else {
            unsettled.vouched
        };
        let blocks = self.rewrite(&segment, from)?;
        let frames = count_frames(&segment, &*self.fs)?;
        writer.active = Some(Active {
            segment,
            blocks,
            frames,
        });
        writer.unsettled = None;
        self.cell
            .change(|now| now.durable = writer.chain.position());
        drop(writer);
        self.cell.notify();
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

    /// Copies what lies behind the end of the log aside, durably, and then overwrites it with
    /// zeros.
    fn cut_tail(&self, segment: &Segment) -> Result<()> {
        let name = file_name(segment.header.ordinal);
        let end = segment.range().end;
        let cutting =
            |error| Error::io(format_args!("cut the torn tail of {name} at {end}"), error);
        let bytes = read_all(&*self.fs, &name).map_err(cutting)?;
        let start = Self::active_offset(end, segment.header.base());
        let behind = bytes.get(start..).unwrap_or_default();
        let len = behind
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        let torn = behind.get(..len).unwrap_or_default();
        let aside = format!("{ASIDE}/torn-{end}-{}", self.clock.wall_ms());
        crate::fs::replace(&*self.fs, ASIDE, &aside, torn).map_err(cutting)?;
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
        tracing::warn!(lsn = %end, bytes = len, %aside, "a torn tail was cut and kept aside");
        let mut recovered = self.recovered.lock();
        recovered.torn_bytes = len as u64;
        recovered.aside = Some(aside);
        Ok(())
    }
}

fn lock(fs: &dyn Fs) -> Result<Box<dyn Send + Sync>> {
    fs.lock().map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => {
            let message = format!(
                "{} is in use by another process: talk to that one, or stop it first",
                fs.place()
            );
            Error::new(ErrorKind::Locked, message)
        }
        _ => Error::io(format_args!("lock {}", fs.place()), error),
    })
}

struct Found {
    sealed: Vec<(SegmentHeader, SegmentFooter)>,
    /// The last segment, if it is not sealed, with its room for frames.
    active: Option<(SegmentHeader, Bytes)>,
}

/// Reads headers and footers of all segments and checks that they continue one another.
fn find_segments(fs: &dyn Fs, manifest: &Manifest) -> Result<Found> {
    let place = fs.place();
    let reading = |name: &str, error| Error::io(format_args!("read {place}/{name}"), error);
    let corrupt = |name: &str, what: &dyn std::fmt::Display| {
        let message = format!("{place}/{name}: {what}; nothing was touched, put back a copy");
        Error::new(ErrorKind::Corrupt, message)
    };
    let mut ordinals: Vec<u64> = fs
        .list(segment::DIR)
        .map_err(|error| reading(segment::DIR, error))?
        .iter()
        .filter_map(|name| ordinal_of(name))
        .collect();
    ordinals.sort_unstable();
    let mut found = Found {
        sealed: Vec::new(),
        active: None,
    };
    let mut unused = None;
    for (ordinal, expected) in ordinals.into_iter().zip(1..) {
        let name = file_name(ordinal);
        if ordinal != expected {
            return Err(corrupt(&file_name(expected), &"this segment is missing"));
        }
        let file = fs
            .open(&name, Access::Read)
            .map_err(|error| reading(&name, error))?;
        let mut block = vec![0; to_usize(SEGMENT_HEADER_LEN)];
        let read = file
            .read_at(0, &mut block)
            .map_err(|error| reading(&name, error))?;
        // A file that is short of a header was being prepared when the power went.
        let header = match SegmentHeader::decode(&block) {
            Ok(header) if read == block.len() => header,
            Err(SegmentFault::Zeros) => {
                unused = Some(name);
                continue;
            }
            Err(SegmentFault::Features(bits)) => {
                let fault = SegmentFault::Features(bits);
                let message = format!("{place}/{name}: {fault}");
                return Err(Error::new(ErrorKind::Incompatible, message));
            }
            // The header is written with the first frame, under one fsync: a crash may tear it.
            // Then nothing of the segment was ever durable, and all before it is sealed.
            Ok(_) | Err(_) if found.active.is_none() && is_last(fs, ordinal)? => {
                tracing::warn!(%name, "the header of the last segment is torn; it is not used");
                unused = Some(name);
                continue;
            }
            Ok(_) => return Err(corrupt(&name, &"it is cut short")),
            Err(fault) => return Err(corrupt(&name, &fault)),
        };
        if let Some(unused) = unused {
            return Err(corrupt(
                &unused,
                &"it holds nothing and the next segment holds frames",
            ));
        }
        if header.cluster != manifest.cluster || header.segment_size != manifest.segment_size {
            let message = format!("{place}/{name} belongs to another cluster: move it away");
            return Err(Error::new(ErrorKind::Incompatible, message));
        }
        if found.active.is_some() {
            return Err(corrupt(
                &file_name(ordinal - 1),
                &"it is not sealed and not the last",
            ));
        }
        let expected_base = found
            .sealed
            .last()
            .map_or(Lsn::ZERO, |(_, footer)| footer.end.lsn);
        let expected_chain = found
            .sealed
            .last()
            .map_or(0, |(_, footer)| footer.end.check);
        if header.ordinal != ordinal
            || header.base() != expected_base
            || header.start.check != expected_chain
        {
            return Err(corrupt(
                &name,
                &"it does not continue the segment before it",
            ));
        }
        let mut footer = vec![0; to_usize(SEGMENT_FOOTER_LEN)];
        let offset = header.segment_size - SEGMENT_FOOTER_LEN;
        let read = file
            .read_at(offset, &mut footer)
            .map_err(|error| reading(&name, error))?;
        match SegmentFooter::decode(footer.get(..read).unwrap_or_default()) {
            Ok(footer) if footer.base == header.base() => found.sealed.push((header, footer)),
            Ok(_) => return Err(corrupt(&name, &"its footer is another segment's")),
            // The last segment's footer may be torn: its own fsync is what it says, not itself.
            Err(_) => {
                let mut frames = vec![0; to_usize(SegmentHeader::capacity(header.segment_size))];
                let read = file
                    .read_at(SEGMENT_HEADER_LEN, &mut frames)
                    .map_err(|error| reading(&name, error))?;
                frames.truncate(read);
                found.active = Some((header, Bytes::from(frames)));
            }
        }
    }
    Ok(found)
}

/// Whether no later segment has anything in its header.
fn is_last(fs: &dyn Fs, ordinal: u64) -> Result<bool> {
    let name = file_name(ordinal + 1);
    match read_all(fs, &name) {
        Ok(bytes) => {
            let header = bytes.get(..to_usize(SEGMENT_HEADER_LEN)).unwrap_or(&bytes);
            Ok(header.iter().all(|byte| *byte == 0))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Error::io(format_args!("read {}/{name}", fs.place()), error)),
    }
}

pub(super) fn count_frames(segment: &Segment, fs: &dyn Fs) -> Result<u64> {
    let range = segment.range();
    let bytes = segment.read(fs, range.start, to_usize(range.len_bytes()))?;
    let mut frames = 0;
    let mut at = 0;
    while let Some(len) = bytes
        .get(at..)
        .and_then(crate::format::FrameHeader::announced_len)
    {
        frames += 1;
        at += len;
    }
    Ok(frames)
}
