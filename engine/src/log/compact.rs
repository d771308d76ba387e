//! The log's side of compaction: which pieces may be rewritten, what is read of them, and putting a
//! sparse segment in their place.
//!
//! A sparse segment is durable under its name before anything that it stands for goes, and its
//! header names what that is: whoever opens the directory after a crash finds the one or the other.

use std::sync::Arc;

use bytes::Bytes;

use super::Log;
use super::cursor::whole_frames;
use super::retire::Retired;
use super::segment::{DIR, Piece};
use super::sparse::{self, Sparse, SparseWalk};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    Chain, FrameKind, FrameRun, Lsn, Op, RecordRef, Records, SEGMENT_HEADER_LEN, SPARSE_HEADER_LEN,
    SparseHeader, SparseTable, to_usize,
};
use crate::fs::{File, Fs};
use crate::kill_points::{Point, pass};
use crate::planted::{Bug, on};

/// Bytes that are read, or written, at a time. Less of small segments.
const STEP_LEN: usize = 1 << 20;
const WRITE_STEPS: u64 = 16;
/// Records that are taken from a sparse segment at a time.
const STEP_RECORDS: usize = 8192;

/// One piece of the log, as compaction sees it.
#[derive(Clone)]
pub(crate) struct Candidate {
    piece: Piece,
}

impl Candidate {
    /// Where it begins.
    pub(crate) fn base(&self) -> Lsn {
        self.piece.range().start
    }

    /// Where it ends.
    pub(crate) fn end(&self) -> Lsn {
        self.piece.range().end
    }

    /// Bytes on the disk that records could take.
    pub(crate) fn len_bytes(&self) -> u64 {
        match &self.piece {
            Piece::Whole(segment) => segment.header.segment_size,
            Piece::Sparse(sparse) => sparse.header.records_len,
        }
    }

    /// Bytes of its deletes, where that is known.
    pub(crate) fn deletes_len(&self) -> Option<u64> {
        match &self.piece {
            Piece::Whole(_) => None,
            Piece::Sparse(sparse) => Some(sparse.header.deletes_len),
        }
    }

    /// A reader of all its records.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn reader(&self, log: &Log) -> Result<Reader> {
        let fs = &*log.fs;
        let from = match &self.piece {
            Piece::Whole(segment) => From::Frames {
                map: segment.map_of_file(fs)?,
                chain: segment.header.chain(),
            },
            Piece::Sparse(sparse) => From::Sparse {
                walk: sparse.walk(fs)?,
                controls: false,
            },
        };
        let piece = self.piece.clone();
        Ok(Reader { piece, from })
    }
}

/// What a reader hands out, with where it lies behind the file's header.
pub(crate) enum Kept<'a> {
    Record(Lsn, u32, RecordRef<'a>),
    Control(Lsn, FrameKind, &'a [u8]),
}

/// Reads one piece, a step at a time. Everything is checked on the way.
pub(crate) struct Reader {
    piece: Piece,
    from: From,
}

enum From {
    Frames { map: Bytes, chain: Chain },
    Sparse { walk: SparseWalk, controls: bool },
}

impl Reader {
    /// The piece's file. What lies behind its header is what places count from.
    pub(crate) fn file(&self) -> Bytes {
        match &self.from {
            From::Frames { map, .. } => map.clone(),
            From::Sparse { walk, .. } => walk.map().clone(),
        }
    }

    /// Visits some more; `false` at the end.
    ///
    /// # Errors
    /// `Corrupt`, `Io`, those of `visit`.
    pub(crate) fn step(
        &mut self,
        log: &Log,
        visit: &mut dyn FnMut(Kept<'_>) -> Result<()>,
    ) -> Result<bool> {
        let fs = &*log.fs;
        match (&mut self.from, &self.piece) {
            (From::Frames { chain, .. }, Piece::Whole(segment)) => {
                let range = segment.range();
                if chain.lsn == range.end {
                    return Ok(false);
                }
                // Read, and not by the map: a page that cannot be read is an error then.
                let mut bytes = segment.read_through(fs, chain.lsn, STEP_LEN)?;
                let mut whole = whole_frames(&bytes);
                if whole == 0 {
                    bytes = segment.read_through(fs, chain.lsn, to_usize(range.len_bytes()))?;
                    whole = whole_frames(&bytes);
                }
                let run = FrameRun::check(chain, bytes.slice(..whole)).map_err(|fault| {
                    let message = format!(
                        "the log is damaged in {range}: {fault}; {}",
                        super::damage_hint(&fs.place())
                    );
                    Error::new(ErrorKind::Corrupt, message)
                })?;
                for (header, frame) in run.frames() {
                    let payload = header.payload(&frame);
                    match header.kind {
                        FrameKind::Batches => {
                            let records =
                                Records::new(payload, header.payload_lsn(), header.batches);
                            for placed in records {
                                let placed = placed.map_err(|fault| {
                                    let message = format!("the frame at {}: {fault}", header.lsn);
                                    Error::new(ErrorKind::Corrupt, message)
                                })?;
                                let at = placed.lsn.bytes_since(range.start);
                                visit(Kept::Record(placed.lsn, short(at), placed.record))?;
                            }
                        }
                        FrameKind::Epoch | FrameKind::Keyspace | FrameKind::Protection => {
                            visit(Kept::Control(header.lsn, header.kind, payload))?;
                        }
                        // What it says of time and durability, the end of the stretch says too.
                        FrameKind::Watermark => {}
                    }
                }
                *chain = *run.after();
                Ok(true)
            }
            (From::Sparse { walk, controls }, Piece::Sparse(sparse)) => {
                if !std::mem::replace(controls, true) {
                    for kept in sparse.controls(fs)? {
                        if let Some(kind) = FrameKind::from_byte(kept.kind) {
                            visit(Kept::Control(kept.lsn, kind, &kept.payload))?;
                        }
                    }
                }
                walk.step(sparse, fs, STEP_RECORDS, &mut |lsn, at, record| {
                    visit(Kept::Record(lsn, at, record))
                })
            }
            _ => panic!("a reader reads the kind of piece that it was made for"),
        }
    }
}

/// Bytes of every piece's file before what places count from.
pub(crate) const PLACES_AT: usize = to_usize(SEGMENT_HEADER_LEN);
const _: () = assert!(SEGMENT_HEADER_LEN == SPARSE_HEADER_LEN);

fn short(at: u64) -> u32 {
    u32::try_from(at).unwrap_or_else(|_| panic!("offset {at} in one segment"))
}

/// A sparse segment while it is written, under a temporary name.
pub(crate) struct SparseWriter {
    pieces: Vec<Piece>,
    header: SparseHeader,
    table: SparseTable,
    file: Arc<dyn File>,
    temporary: String,
    waiting: Vec<u8>,
    written: u64,
    step_len: usize,
}

impl SparseWriter {
    /// Adds a record.
    pub(crate) fn record(&mut self, lsn: Lsn, op: Op, bytes: &[u8]) {
        self.table.entry(lsn, short(self.header.records_len));
        self.waiting.extend_from_slice(bytes);
        self.header.records_len += bytes.len() as u64;
        if matches!(op, Op::Delete | Op::DeleteRange) {
            self.header.deletes_len += bytes.len() as u64;
        }
    }

    /// Adds a control record.
    pub(crate) fn control(&mut self, lsn: Lsn, kind: FrameKind, payload: &[u8]) {
        self.table.control(lsn, kind, payload);
    }

    /// Whether there is enough to be written.
    pub(crate) fn is_due(&self) -> bool {
        self.waiting.len() >= self.step_len
    }

    /// Writes what waits, and lets it go to the disk. It is synced once, at the end: each sync of a
    /// file that grows takes a turn of the file system's journal, for which commits wait.
    ///
    /// # Errors
    /// `DiskFull`, `Io`. It cannot go on then.
    pub(crate) fn write(&mut self) -> Result<()> {
        let (at, len) = (SPARSE_HEADER_LEN + self.written, self.waiting.len() as u64);
        let written = self.file.write_at(at, &self.waiting);
        written.map_err(|error| self.doing("write", error))?;
        self.file.begin_writeback(at, len);
        self.written += len;
        self.waiting.clear();
        pass(Point::SparsePartWritten);
        Ok(())
    }

    /// Bytes of records.
    pub(crate) const fn records_len(&self) -> u64 {
        self.header.records_len
    }

    /// Writes the rest, and makes the file durable under its name. `known` is what
    /// [`SparseHeader::known`] is to be.
    fn finish(mut self, fs: &dyn Fs, known: Lsn) -> Result<(Vec<Piece>, SparseHeader)> {
        self.header.known = known;
        let records_end = self.waiting.len();
        let tail = std::mem::take(&mut self.table).seal(&mut self.header);
        self.waiting.extend_from_slice(&tail);
        let at = SPARSE_HEADER_LEN + self.written;
        let name = sparse::file_name(self.header.first, self.header.last);
        assert_eq!(
            self.written + records_end as u64,
            self.header.records_len,
            "bytes written of {name}"
        );
        let end = || {
            self.file.write_at(at, &self.waiting)?;
            self.file.write_at(0, &self.header.encode())?;
            if !on(Bug::SparseNotSynced) {
                self.file.sync()?;
            }
            pass(Point::SparseSynced);
            fs.rename(&self.temporary, &name)?;
            pass(Point::SparseNamed);
            fs.sync_dir(DIR)
        };
        end().map_err(|error| self.doing("finish", error))?;
        Ok((self.pieces, self.header))
    }

    fn doing(&self, what: &str, error: std::io::Error) -> Error {
        Error::io(format_args!("{what} {}", self.temporary), error)
    }
}

impl Log {
    /// The pieces that end at or below `limit`, in the order of the log; never the segment that is
    /// written, nor one that was sealed just now.
    pub(crate) fn candidates(&self, limit: Lsn) -> Vec<Candidate> {
        let pieces = self.segments.pieces();
        let last = pieces.len().saturating_sub(1);
        let quiet = |piece: &Piece| match piece {
            Piece::Whole(segment) => !segment.in_memory(),
            Piece::Sparse(_) => true,
        };
        pieces
            .into_iter()
            .take(last)
            .take_while(|piece| piece.range().end <= limit && quiet(piece))
            .map(|piece| Candidate { piece })
            .collect()
    }

    /// States below this are not whole: of what the log said below it only a part is left.
    pub(crate) fn sparse_horizon(&self) -> Lsn {
        let pieces = self.segments.pieces();
        let horizons = pieces.iter().filter_map(|piece| match piece {
            Piece::Whole(_) => None,
            Piece::Sparse(sparse) => Some(sparse.header.horizon),
        });
        horizons.max().unwrap_or_default()
    }

    /// Calls `visit` with each control record and each record of what is left of a stretch.
    ///
    /// # Errors
    /// `Corrupt`, `Io`, those of `visit`.
    pub(crate) fn visit_sparse(
        &self,
        sparse: &Sparse,
        visit: &mut dyn FnMut(Kept<'_>) -> Result<()>,
    ) -> Result<()> {
        for kept in sparse.controls(&*self.fs)? {
            if let Some(kind) = FrameKind::from_byte(kept.kind) {
                visit(Kept::Control(kept.lsn, kind, &kept.payload))?;
            }
        }
        sparse.visit(&*self.fs, &mut |lsn, record| {
            visit(Kept::Record(lsn, 0, record))
        })
    }

    /// Where each piece of the log begins.
    pub(crate) fn bases(&self) -> Arc<[Lsn]> {
        let pieces = self.segments.pieces();
        pieces.iter().map(|piece| piece.start().lsn).collect()
    }

    /// Below this position a delete hides nothing that the log still holds: every piece that begins
    /// below it was rewritten by somebody who knew of that delete. `[from, to)` is taken to be
    /// known up to `known`, since it is about to be.
    pub(crate) fn settled(&self, from: Lsn, to: Lsn, known: Lsn) -> Lsn {
        let mut settled = Lsn(u64::MAX);
        for piece in self.segments.pieces() {
            let range = piece.range();
            if range.start >= settled {
                break;
            }
            let known_here = match &piece {
                _ if from <= range.start && range.end <= to => known,
                Piece::Whole(_) => range.start,
                Piece::Sparse(sparse) => sparse.header.known,
            };
            settled = settled.min(known_here);
        }
        settled
    }

    /// Begins a sparse segment for `candidates`, which lie one behind the other. States below
    /// `horizon` are not kept.
    ///
    /// # Errors
    /// `DiskFull`, `Io`.
    pub(crate) fn begin_sparse(
        &self,
        candidates: &[Candidate],
        horizon: Lsn,
    ) -> Result<SparseWriter> {
        let pieces: Vec<_> = candidates.iter().map(|one| one.piece.clone()).collect();
        let all = self.segments.pieces();
        let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else {
            panic!("nothing is to be compacted");
        };
        let at = |one: &Piece| all.iter().position(|there| there.is(one));
        let (from, to) = (at(first), at(last));
        let next = to.and_then(|to| all.get(to + 1));
        let (Some(_), Some(next)) = (from, next) else {
            let message = "the log was cut meanwhile: nothing is compacted";
            return Err(Error::new(ErrorKind::NotHeld, message));
        };
        let header = SparseHeader {
            features_incompatible: 0,
            features_read_only: 0,
            features_compatible: 0,
            cluster: self.cluster,
            first: first.ordinals().0,
            last: last.ordinals().1,
            start: first.start(),
            end: next.start(),
            horizon,
            known: Lsn::ZERO,
            records_len: 0,
            deletes_len: 0,
            controls_len: 0,
            fences: 0,
            entries: 0,
            check: 0,
        };
        let name = sparse::file_name(header.first, header.last);
        let temporary = format!("{name}.tmp");
        let fs = &*self.fs;
        let make = || {
            match fs.unlink(&temporary) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs.create(&temporary)
        };
        let file = make().map_err(|error| Error::io(format_args!("make {temporary}"), error))?;
        Ok(SparseWriter {
            pieces,
            header,
            table: SparseTable::default(),
            file,
            temporary,
            waiting: Vec::new(),
            written: 0,
            step_len: STEP_LEN.min(to_usize(self.segment_size / WRITE_STEPS)),
        })
    }

    /// Makes what was written a part of the log, in the place of what it stands for. Those files
    /// are retired by and by.
    ///
    /// # Errors
    /// `DiskFull`, `Io`: the log is then as it was, or, if the name may have been given, as it is
    /// opened next. `NotHeld` when the log was cut meanwhile.
    pub(crate) fn adopt_sparse(&self, writer: SparseWriter, known: Lsn) -> Result<()> {
        let _replacing = self.replacing.lock();
        if !writer.pieces.iter().all(|piece| self.holds(piece)) {
            let message = "the log was changed meanwhile: nothing was compacted";
            return Err(Error::new(ErrorKind::NotHeld, message));
        }
        let (pieces, header) = writer.finish(&*self.fs, known)?;
        pass(Point::SparseAdopted);
        let sparse = Arc::new(Sparse::new(header));
        let name = sparse.name();
        self.segments.replace(&pieces, sparse);
        let replaced = pieces.into_iter().filter(|piece| piece.file_name() != name);
        self.retired.lock().extend(replaced.map(Retired::Piece));
        self.lane.wake();
        Ok(())
    }

    /// Takes away what was written of a sparse segment that is not gone on with.
    pub(crate) fn abandon_sparse(&self, writer: &SparseWriter) {
        match self.fs.unlink(&writer.temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, file = %writer.temporary, "stays until the next start");
            }
            _ => {}
        }
    }

    /// The files of the log: those of which all is left, and those that are sparse, with the bytes
    /// of each kind.
    pub(crate) fn sizes(&self) -> LogSizes {
        let mut sizes = LogSizes::default();
        for piece in self.segments.pieces() {
            match &piece {
                Piece::Whole(_) => sizes.whole_bytes += piece.file_len(),
                Piece::Sparse(_) => sizes.sparse_bytes += piece.file_len(),
            }
            sizes.files += 1;
        }
        sizes
    }
}

/// How large the files of a log are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct LogSizes {
    /// Files.
    pub(crate) files: u64,
    /// Bytes of segments of which all is left.
    pub(crate) whole_bytes: u64,
    /// Bytes of sparse segments.
    pub(crate) sparse_bytes: u64,
}
