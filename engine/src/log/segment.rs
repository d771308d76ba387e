//! Segments as a running log holds them: the end of the active one in memory, all else mapped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;

use super::cursor::whole_frames;
use super::held::{Memory, kept_len};
use super::mapped::Mapped;
use super::records::Stretch;
use super::sparse::Sparse;
use super::walk::count_frames;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    ChainRecord, FrameHeader, Lsn, LsnRange, SEGMENT_HEADER_LEN, SegmentHeader, to_usize,
};
use crate::fs::{Access, File, Fs, MapPages};

pub(super) const DIR: &str = "log";
const SUFFIX: &str = ".seg";

pub(super) fn file_name(ordinal: u64) -> String {
    format!("{DIR}/{ordinal:012}{SUFFIX}")
}

/// What to type where a running node meets damage on its disk.
pub(crate) fn damage_hint(place: &str) -> String {
    format!(
        "`outlast repair --dir {place} --from-peer` mends it with the bytes of the other node \
         while both run, or with `--from DIR` those of a copy"
    )
}

/// The ordinal in a file's name (without the directory).
pub(super) fn ordinal_of(name: &str) -> Option<u64> {
    name.strip_suffix(SUFFIX)?.parse().ok()
}

/// One segment of the log.
///
/// Invariant: bytes in `[base, end)` never change. While `memory` is there, it holds all of them
/// from its `held_from` on, and those before are durable in the file.
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    end: AtomicU64,
    memory: RwLock<Option<Memory>>,
    map: Mapped,
    file: RwLock<Option<Arc<dyn File>>>,
}

/// Shortest piece of memory that counts as a stretch: one for each of the small ones would be more
/// than their bytes are worth.
const STRETCH_LEN_MIN: usize = 64 << 10;

impl Segment {
    /// The active segment, so far empty.
    pub(super) fn active(header: SegmentHeader) -> Self {
        let base = header.base();
        Self::active_behind(header, base)
    }

    /// The active segment, whose frames before `from` are durable in its file.
    pub(super) fn active_behind(header: SegmentHeader, from: Lsn) -> Self {
        let memory = Memory {
            pieces: Vec::new(),
            held_from: from,
        };
        Self {
            header,
            end: AtomicU64::new(from.0),
            memory: RwLock::new(Some(memory)),
            map: Mapped::default(),
            file: RwLock::new(None),
        }
    }

    /// A sealed segment that lies on the disk.
    pub(super) fn sealed(header: SegmentHeader, end: Lsn) -> Self {
        let end = AtomicU64::new(end.0);
        Self {
            header,
            end,
            memory: RwLock::new(None),
            map: Mapped::default(),
            file: RwLock::new(None),
        }
    }

    pub(super) fn range(&self) -> LsnRange {
        LsnRange::new(self.header.base(), Lsn(self.end.load(Ordering::Acquire)))
    }

    /// Bytes that frames may still take.
    pub(super) fn room(&self) -> u64 {
        SegmentHeader::capacity(self.header.segment_size) - self.range().len_bytes()
    }

    /// Adds whole frames at the end.
    pub(super) fn push(&self, start: Lsn, bytes: Bytes) {
        assert_eq!(start, self.range().end, "a segment grows at its end");
        assert!(
            bytes.len() as u64 <= self.room(),
            "{} bytes in {}",
            bytes.len(),
            self.room()
        );
        let end = start.advance(bytes.len() as u64);
        match &mut *self.memory.write() {
            Some(memory) => memory.pieces.push((start, bytes)),
            None => panic!("segment {} is no longer in memory", self.header.ordinal),
        }
        self.end.store(end.0, Ordering::Release);
    }

    /// Whether it is active, or was until a moment ago.
    pub(super) fn in_memory(&self) -> bool {
        self.memory.read().is_some()
    }

    /// Whether the byte at `lsn` is in memory, and in no map.
    pub(super) fn holds(&self, lsn: Lsn) -> bool {
        let memory = self.memory.read();
        memory
            .as_ref()
            .is_some_and(|memory| memory.held_from <= lsn)
    }

    /// Whether the byte at `lsn` is in memory, or in a map.
    fn has_mapped(&self, lsn: Lsn) -> bool {
        match &*self.memory.read() {
            Some(memory) => memory.piece(lsn).is_some(),
            None => self.map.is_there(),
        }
    }

    /// Maps what is left to the file of the active segment and is in no map yet.
    pub(super) fn map_left(&self, fs: &dyn Fs) -> Result<()> {
        let base = self.header.base();
        let held_from = match &*self.memory.read() {
            Some(memory) if memory.piece(base).is_none() => memory.held_from,
            _ => return Ok(()),
        };
        let map = self.map_part(fs, LsnRange::new(base, held_from), MapPages::WhenRead)?;
        if let Some(memory) = &mut *self.memory.write()
            && !map.is_empty()
        {
            memory.pieces.insert(0, (base, map));
        }
        Ok(())
    }

    /// Leaves a part of what is in memory to the file, in which all before `durable` lies, as soon
    /// as that is enough to be worth it; also by a map, if it is `mapped`. Answers whether it did.
    pub(super) fn leave_to_file(&self, fs: &dyn Fs, durable: Lsn, mapped: bool) -> Result<bool> {
        let range = self.range();
        let (from, to) = match &*self.memory.read() {
            Some(memory) => {
                let len = kept_len(self.header.segment_size);
                let to = memory.held_from.advance(len);
                if durable.min(range.end) < to.advance(len) {
                    return Ok(false);
                }
                (memory.held_from, memory.frame_at(to))
            }
            None => return Ok(false),
        };
        if to <= from {
            return Ok(false);
        }
        let map = match mapped {
            true => Some(self.map_part(fs, LsnRange::new(from, to), MapPages::Now)?),
            false => None,
        };
        if let Some(memory) = &mut *self.memory.write() {
            memory.leave(to, map);
        }
        Ok(true)
    }

    fn map_part(&self, fs: &dyn Fs, range: LsnRange, pages: MapPages) -> Result<Bytes> {
        let offset = SEGMENT_HEADER_LEN + range.start.bytes_since(self.header.base());
        let file = self.opened(fs)?;
        file.map_part(offset, to_usize(range.len_bytes()), pages)
            .map_err(|error| self.unread(fs, error))
    }

    /// Number of its frames, by the lengths that they announce.
    ///
    /// # Errors
    /// `Corrupt` when they do not go on to its end, `Io`.
    pub(super) fn count_frames(&self, fs: &dyn Fs) -> Result<u64> {
        const PIECE_LEN: usize = 1 << 20;
        let range = self.range();
        let (mut at, mut frames) = (range.start, 0);
        while at < range.end {
            let len_max = to_usize(range.end.bytes_since(at));
            let piece = |len: usize| match self.holds(at) {
                true => self.read(fs, at, len),
                false => self.read_file(fs, at, len),
            };
            let mut bytes = piece(PIECE_LEN.min(len_max))?;
            let mut whole = whole_frames(&bytes);
            if whole == 0 {
                let len = FrameHeader::announced_len(&bytes);
                let Some(len) = len.filter(|len| *len <= len_max) else {
                    let (name, hint) = (file_name(self.header.ordinal), damage_hint(&fs.place()));
                    let message = format!("{}/{name}: no frame begins at {at}; {hint}", fs.place());
                    return Err(Error::new(ErrorKind::Corrupt, message));
                };
                bytes = piece(len)?;
                whole = bytes.len();
            }
            frames += count_frames(bytes.get(..whole).unwrap_or_default());
            at = at.advance(whole as u64);
        }
        Ok(frames)
    }

    /// Brings a sealed segment's pages into the cache and then drops the copy in memory.
    pub(super) fn release(&self, fs: &dyn Fs) -> Result<()> {
        self.mapped(fs, MapPages::Now)?;
        *self.memory.write() = None;
        Ok(())
    }

    /// Bytes from `lsn` on, at least one and at most `len_max`, as far as one piece of memory or
    /// the map of the file goes. Empty at the end.
    pub(super) fn read(&self, fs: &dyn Fs, lsn: Lsn, len_max: usize) -> Result<Bytes> {
        let range = self.range();
        assert!(
            range.start <= lsn && lsn <= range.end,
            "{lsn} is not in {range}"
        );
        if lsn == range.end {
            return Ok(Bytes::new());
        }
        if let Some(bytes) = self.read_memory(lsn, len_max) {
            return Ok(bytes);
        }
        if self.in_memory() {
            return self.read_file(fs, lsn, len_max);
        }
        let map = self.mapped(fs, MapPages::WhenRead)?;
        let offset = to_usize(SEGMENT_HEADER_LEN + lsn.bytes_since(range.start));
        let end = to_usize(SEGMENT_HEADER_LEN + range.len_bytes());
        if map.len() < end {
            return Err(self.is_cut(fs, map.len(), end));
        }
        Ok(map.slice(offset..end.min(offset.saturating_add(len_max))))
    }

    /// As [`Segment::read`], but copied from the file where they are not in memory: what is read
    /// once and from end to end goes several times faster so than through a map, whose pages must
    /// each be found first.
    pub(super) fn read_through(&self, fs: &dyn Fs, lsn: Lsn, len_max: usize) -> Result<Bytes> {
        let range = self.range();
        assert!(
            range.start <= lsn && lsn <= range.end,
            "{lsn} is not in {range}"
        );
        if lsn == range.end {
            return Ok(Bytes::new());
        }
        if let Some(bytes) = self.read_memory(lsn, len_max) {
            return Ok(bytes);
        }
        self.read_file(fs, lsn, len_max)
    }

    fn read_file(&self, fs: &dyn Fs, lsn: Lsn, len_max: usize) -> Result<Bytes> {
        let range = self.range();
        let len = to_usize(range.end.bytes_since(lsn)).min(len_max);
        let offset = SEGMENT_HEADER_LEN + lsn.bytes_since(range.start);
        let mut bytes = vec![0; len];
        let file = self.opened(fs)?;
        let read = file
            .read_at(offset, &mut bytes)
            .map_err(|error| self.unread(fs, error))?;
        if read < len {
            let end = to_usize(SEGMENT_HEADER_LEN + range.len_bytes());
            return Err(self.is_cut(fs, to_usize(offset) + read, end));
        }
        Ok(bytes.into())
    }

    /// Bytes from `lsn` on, which is in this segment, if they are in memory or in a map of a part,
    /// as far as one piece goes.
    pub(super) fn read_memory(&self, lsn: Lsn, len_max: usize) -> Option<Bytes> {
        let memory = self.memory.read();
        let memory = memory.as_ref()?;
        let Some((start, bytes)) = memory.piece(lsn) else {
            let (range, held_from) = (self.range(), memory.held_from);
            assert!(
                lsn < held_from,
                "{lsn} of {range}, held from {held_from}, is in no piece"
            );
            return None;
        };
        let offset = to_usize(lsn.bytes_since(start));
        Some(bytes.slice(offset..bytes.len().min(offset.saturating_add(len_max))))
    }

    fn is_cut(&self, fs: &dyn Fs, len: usize, end: usize) -> Error {
        let place = fs.place();
        let message = format!(
            "{place}/{} is {len} bytes long and its frames end at {end}: it was cut; {}",
            file_name(self.header.ordinal),
            damage_hint(&place)
        );
        Error::new(ErrorKind::Corrupt, message)
    }

    fn opened(&self, fs: &dyn Fs) -> Result<Arc<dyn File>> {
        if let Some(file) = &*self.file.read() {
            return Ok(file.clone());
        }
        // Held while it is opened, so that no handle outlives `read_again`.
        let mut slot = self.file.write();
        if let Some(file) = &*slot {
            return Ok(file.clone());
        }
        let file = fs
            .open(&file_name(self.header.ordinal), Access::Read)
            .map_err(|error| self.unread(fs, error))?;
        Ok(slot.insert(file).clone())
    }

    /// Another file has taken the place of the one that was read so far. Bytes that were handed out
    /// stay what they are.
    pub(super) fn read_again(&self) {
        self.map.forget();
        *self.file.write() = None;
    }

    /// Why the file cannot be read; one that is gone is damage.
    fn unread(&self, fs: &dyn Fs, error: std::io::Error) -> Error {
        let (place, name) = (fs.place(), file_name(self.header.ordinal));
        if error.kind() == std::io::ErrorKind::NotFound {
            let message = format!("{place}/{name} is gone; {}", damage_hint(&place));
            return Error::new(ErrorKind::Corrupt, message);
        }
        Error::io(format_args!("read {place}/{name}"), error)
    }

    /// All bytes below `end`, in one piece.
    pub(super) fn read_whole(&self, fs: &dyn Fs, end: Lsn) -> Result<Bytes> {
        self.read_between(fs, self.range().start, end)
    }

    /// The bytes of `[at, end)`, in one piece.
    pub(super) fn read_between(&self, fs: &dyn Fs, mut at: Lsn, end: Lsn) -> Result<Bytes> {
        let range = self.range();
        assert!(
            range.start <= at && at <= end && end <= range.end,
            "[{at}, {end}) is not in {range}"
        );
        let mut whole = bytes::BytesMut::with_capacity(to_usize(end.bytes_since(at)));
        while at < end {
            let bytes = self.read(fs, at, to_usize(end.bytes_since(at)))?;
            at = at.advance(bytes.len() as u64);
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    }

    /// The whole file of a sealed segment.
    pub(super) fn map_of_file(&self, fs: &dyn Fs) -> Result<Bytes> {
        let map = self.mapped(fs, MapPages::WhenRead)?;
        let end = to_usize(SEGMENT_HEADER_LEN + self.range().len_bytes());
        if map.len() < end {
            return Err(self.is_cut(fs, map.len(), end));
        }
        Ok(map)
    }

    /// Whether nobody else holds bytes of its map.
    fn lets_go(&self) -> bool {
        self.map.lets_go()
    }

    /// The bytes around `lsn` that lie together, if they are many: a sealed segment's map, or a
    /// large piece of memory. `None` also when the map fails, or does not hold all frames.
    pub(super) fn stretch(&self, fs: &dyn Fs, lsn: Lsn) -> Option<Stretch> {
        if let Some(memory) = &*self.memory.read() {
            let (start, bytes) = memory.piece(lsn)?;
            let end = start.advance(bytes.len() as u64);
            return (bytes.len() >= STRETCH_LEN_MIN).then(|| Stretch {
                range: LsnRange::new(start, end),
                bytes: bytes.clone(),
                offset: 0,
                sparse: None,
            });
        }
        let range = self.range();
        let bytes = self.mapped(fs, MapPages::WhenRead).ok()?;
        let offset = to_usize(SEGMENT_HEADER_LEN);
        let whole = bytes.len() >= offset + to_usize(range.len_bytes());
        (whole && lsn < range.end).then_some(Stretch {
            range,
            bytes,
            offset,
            sparse: None,
        })
    }

    fn mapped(&self, fs: &dyn Fs, pages: MapPages) -> Result<Bytes> {
        self.map.get(|| {
            fs.open(&file_name(self.header.ordinal), Access::Read)
                .and_then(|file| file.map(pages))
                .map_err(|error| self.unread(fs, error))
        })
    }
}

/// All that the log consists of, by where it begins. The last piece is a segment, and active.
///
/// Invariant: no position is held twice.
#[derive(Default)]
pub(super) struct Segments {
    pieces: RwLock<Pieces>,
    /// Counts the times that another file took the place of one, or none did.
    generation: AtomicU64,
}

#[derive(Default)]
struct Pieces {
    whole: BTreeMap<Lsn, Arc<Segment>>,
    sparse: BTreeMap<Lsn, Arc<Sparse>>,
}

/// A stretch of the log that one file holds.
#[derive(Clone)]
pub(super) enum Piece {
    Whole(Arc<Segment>),
    Sparse(Arc<Sparse>),
}

impl Piece {
    pub(super) fn range(&self) -> LsnRange {
        match self {
            Self::Whole(segment) => segment.range(),
            Self::Sparse(sparse) => sparse.range(),
        }
    }

    /// Where the log stands before it.
    pub(super) fn start(&self) -> ChainRecord {
        match self {
            Self::Whole(segment) => segment.header.start,
            Self::Sparse(sparse) => sparse.header.start,
        }
    }

    /// The segments for which it stands, from the first ordinal to the last.
    pub(super) fn ordinals(&self) -> (u64, u64) {
        match self {
            Self::Whole(segment) => (segment.header.ordinal, segment.header.ordinal),
            Self::Sparse(sparse) => (sparse.header.first, sparse.header.last),
        }
    }

    pub(super) fn file_name(&self) -> String {
        match self {
            Self::Whole(segment) => file_name(segment.header.ordinal),
            Self::Sparse(sparse) => sparse.name(),
        }
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Whole(one), Self::Whole(other)) => Arc::ptr_eq(one, other),
            (Self::Sparse(one), Self::Sparse(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Whether the byte at `lsn`, which is in it, is in memory or mapped.
    pub(super) fn has_mapped(&self, lsn: Lsn) -> bool {
        match self {
            Self::Whole(segment) => segment.has_mapped(lsn),
            Self::Sparse(sparse) => sparse.is_mapped(),
        }
    }

    /// Whether nobody reads it any more: this is the last handle on it, and nobody holds bytes of
    /// its map.
    pub(super) fn lets_go(&self) -> bool {
        match self {
            Self::Whole(segment) => Arc::strong_count(segment) == 1 && segment.lets_go(),
            Self::Sparse(sparse) => Arc::strong_count(sparse) == 1 && sparse.lets_go(),
        }
    }

    /// Bytes of its file.
    pub(super) fn file_len(&self) -> u64 {
        match self {
            Self::Whole(segment) => segment.header.segment_size,
            Self::Sparse(sparse) => sparse.header.file_len(),
        }
    }
}

impl Segments {
    pub(super) fn insert(&self, segment: Arc<Segment>) {
        let base = segment.header.base();
        let replaced = self.pieces.write().whole.insert(base, segment);
        assert!(replaced.is_none(), "two segments begin at {base}");
    }

    pub(super) fn insert_sparse(&self, sparse: Arc<Sparse>) {
        let base = sparse.range().start;
        let replaced = self.pieces.write().sparse.insert(base, sparse);
        assert!(replaced.is_none(), "two sparse segments begin at {base}");
    }

    /// Forgets a segment that is no longer part of the log.
    pub(super) fn remove(&self, base: Lsn) {
        let removed = self.pieces.write().whole.remove(&base);
        assert!(removed.is_some(), "no segment begins at {base}");
        self.turn();
    }

    /// Changes whenever bytes that were mapped before may not be the log's any more.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Another file has taken the place of one.
    pub(super) fn turn(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Puts `sparse` in the place of `pieces`, which must be all that the log holds there.
    pub(super) fn replace(&self, pieces: &[Piece], sparse: Arc<Sparse>) {
        let mut now = self.pieces.write();
        for piece in pieces {
            let base = piece.range().start;
            let there = match piece {
                Piece::Whole(_) => now.whole.remove(&base).map(Piece::Whole),
                Piece::Sparse(_) => now.sparse.remove(&base).map(Piece::Sparse),
            };
            let same = there.is_some_and(|there| there.is(piece));
            assert!(same, "the piece at {base} is another one by now");
        }
        now.sparse.insert(sparse.range().start, sparse);
        drop(now);
        self.turn();
    }

    /// The segment that holds the byte at `lsn`, or the last one when `lsn` is the end of the log.
    pub(super) fn find(&self, lsn: Lsn) -> Option<Arc<Segment>> {
        let pieces = self.pieces.read();
        let (base, segment) = pieces.whole.range(..=lsn).next_back()?;
        let is_last = || {
            pieces
                .whole
                .last_key_value()
                .is_some_and(|(last, _)| last == base)
        };
        (lsn < segment.range().end || is_last()).then(|| segment.clone())
    }

    /// What holds the byte at `lsn`.
    pub(super) fn piece(&self, lsn: Lsn) -> Option<Piece> {
        if let Some(segment) = self.find(lsn) {
            return Some(Piece::Whole(segment));
        }
        let pieces = self.pieces.read();
        let (_, sparse) = pieces.sparse.range(..=lsn).next_back()?;
        (lsn < sparse.range().end).then(|| Piece::Sparse(sparse.clone()))
    }

    /// Up to where only a part of the log is left: from there on all of it is.
    pub(super) fn whole_from(&self) -> Lsn {
        let pieces = self.pieces.read();
        let last = pieces.sparse.last_key_value();
        last.map_or(Lsn::ZERO, |(_, sparse)| sparse.range().end)
    }

    pub(super) fn last(&self) -> Option<Arc<Segment>> {
        let pieces = self.pieces.read();
        let last = pieces.whole.last_key_value();
        last.map(|(_, segment)| segment.clone())
    }

    /// Sealed segments that are still in memory, oldest first.
    pub(super) fn unreleased(&self) -> Vec<Arc<Segment>> {
        let pieces = self.pieces.read();
        let sealed = pieces.whole.len().saturating_sub(1);
        let sealed = pieces.whole.values().take(sealed);
        sealed
            .filter(|segment| segment.in_memory())
            .cloned()
            .collect()
    }

    /// The segments of which all is left.
    pub(super) fn all(&self) -> Vec<Arc<Segment>> {
        self.pieces.read().whole.values().cloned().collect()
    }

    /// All that the log consists of, in its order.
    pub(super) fn pieces(&self) -> Vec<Piece> {
        let pieces = self.pieces.read();
        let whole = pieces.whole.values().cloned().map(Piece::Whole);
        let sparse = pieces.sparse.values().cloned().map(Piece::Sparse);
        let mut all: Vec<_> = whole.chain(sparse).collect();
        all.sort_by_key(|piece| piece.start().lsn);
        all
    }
}
