//! Sparse segments as a running log holds them: mapped, their tables checked at the first touch.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::mapped::Mapped;
use super::records::Stretch;
use super::segment::DIR;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    KeptControl, Lsn, LsnRange, RecordRef, SPARSE_HEADER_LEN, SegmentFault, SparseFault,
    SparseHeader, SparseView, decode_record, to_usize,
};
use crate::fs::{Access, File, Fs, MapPages, will_need};

const SUFFIX: &str = ".sparse";

/// The file that stands in the place of the segments `first` to `last`.
pub(super) fn file_name(first: u64, last: u64) -> String {
    format!("{DIR}/{first:012}-{last:012}{SUFFIX}")
}

/// First and last ordinal in a file's name (without the directory).
pub(super) fn ordinals_of(name: &str) -> Option<(u64, u64)> {
    let (first, last) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// A stretch of the log of which only what is needed is left.
///
/// Invariant: its file is never written again; another one of its name may take its place.
#[derive(Debug)]
pub(crate) struct Sparse {
    pub(crate) header: SparseHeader,
    map: Mapped,
    /// For reads past the map.
    file: OnceLock<Arc<dyn File>>,
}

impl Sparse {
    pub(super) fn new(header: SparseHeader) -> Self {
        let (map, file) = (Mapped::default(), OnceLock::new());
        Self { header, map, file }
    }

    pub(crate) const fn range(&self) -> LsnRange {
        self.header.range()
    }

    pub(crate) fn name(&self) -> String {
        file_name(self.header.first, self.header.last)
    }

    /// The `len` bytes of the record at `lsn`.
    ///
    /// # Errors
    /// `Corrupt` when the table does not hold, or holds no such record; `Io`.
    pub(super) fn read(&self, fs: &dyn Fs, lsn: Lsn, len: usize) -> Result<Bytes> {
        let map = self.mapped(fs)?;
        let view = self.view(fs, &map)?;
        let found = view.find(lsn).and_then(|offset| {
            let from = offset as usize;
            view.records().get(from..from.checked_add(len)?)
        });
        found.map(|bytes| map.slice_ref(bytes)).ok_or_else(|| {
            let what = format!("it does not hold the record at {lsn} that the index names");
            self.damaged(fs, &what)
        })
    }

    /// As [`Sparse::read`], but copied from the file. The table is mapped all the same.
    ///
    /// # Errors
    /// As [`Sparse::read`].
    pub(super) fn read_through(&self, fs: &dyn Fs, lsn: Lsn, len: usize) -> Result<Bytes> {
        let map = self.mapped(fs)?;
        let found = self.view(fs, &map)?.find(lsn).ok_or_else(|| {
            let what = format!("it does not hold the record at {lsn} that the index names");
            self.damaged(fs, &what)
        })?;
        let file = match self.file.get() {
            Some(file) => file,
            None => {
                let file = self.opened(fs)?;
                self.file.get_or_init(|| file)
            }
        };
        let mut bytes = vec![0; len];
        let read = file
            .read_at(SPARSE_HEADER_LEN + u64::from(found), &mut bytes)
            .map_err(|error| self.unread(fs, error))?;
        if read < len {
            return Err(self.damaged(fs, "it was cut"));
        }
        Ok(bytes.into())
    }

    fn opened(&self, fs: &dyn Fs) -> Result<Arc<dyn File>> {
        let file = fs
            .open(&self.name(), Access::Read)
            .map_err(|error| self.unread(fs, error))?;
        let mut block = vec![0; to_usize(SPARSE_HEADER_LEN)];
        let read = file
            .read_at(0, &mut block)
            .map_err(|error| self.unread(fs, error))?;
        // Another one of its name may have taken its place.
        if block.get(..read) != Some(&*self.header.encode()) {
            return Err(self.damaged(fs, "its header is not the one that was written"));
        }
        Ok(file)
    }

    /// Why the file cannot be read; one that is gone is damage.
    fn unread(&self, fs: &dyn Fs, error: std::io::Error) -> Error {
        if error.kind() == std::io::ErrorKind::NotFound {
            return self.damaged(fs, "it is gone");
        }
        Error::io(format_args!("read {}/{}", fs.place(), self.name()), error)
    }

    /// All of its file, to find records in; `None` when it does not hold.
    pub(super) fn stretch(self: &Arc<Self>, fs: &dyn Fs) -> Option<Stretch> {
        let bytes = self.mapped(fs).ok()?;
        Some(Stretch {
            range: self.range(),
            bytes,
            offset: 0,
            sparse: Some(self.clone()),
        })
    }

    /// Where in its file, which is `map`, the record of `lsn` begins.
    #[inline]
    pub(super) fn place_in(&self, map: &[u8], lsn: Lsn) -> Option<usize> {
        let view = SparseView::trusted(&self.header, map).ok()?;
        Some(to_usize(SPARSE_HEADER_LEN) + view.find(lsn)? as usize)
    }

    /// The part of the table in `map` that says where the record of `lsn` begins.
    #[inline]
    pub(super) fn table_near<'a>(&self, map: &'a [u8], lsn: Lsn) -> &'a [u8] {
        SparseView::trusted(&self.header, map).map_or(&[], |view| view.near(lsn))
    }

    /// The control records, in the order of the log.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn controls(&self, fs: &dyn Fs) -> Result<Vec<KeptControl>> {
        let map = self.mapped(fs)?;
        let view = self.view(fs, &map)?;
        view.controls()
            .map_err(|fault| self.damaged(fs, &fault.to_string()))
    }

    /// Visits all records in the order in which they lie, each checked.
    ///
    /// # Errors
    /// `Corrupt`, also when bytes are no record's; `Io`; those of `visit`.
    pub(crate) fn visit(
        &self,
        fs: &dyn Fs,
        visit: &mut dyn FnMut(Lsn, RecordRef<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut walk = self.walk(fs)?;
        while walk.step(self, fs, usize::MAX, &mut |lsn, _, record| {
            visit(lsn, record)
        })? {}
        Ok(())
    }

    /// A walk over all records in the order in which they lie.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn walk(&self, fs: &dyn Fs) -> Result<SparseWalk> {
        let map = self.mapped(fs)?;
        will_need(&map);
        let mut entries: Vec<_> = self.view(fs, &map)?.entries().collect();
        entries.sort_unstable_by_key(|(_, offset)| *offset);
        let (next, at) = (0, 0);
        Ok(SparseWalk {
            map,
            entries,
            next,
            at,
        })
    }

    pub(super) fn is_mapped(&self) -> bool {
        self.map.is_there()
    }

    /// Whether nobody else holds bytes of its map.
    pub(super) fn lets_go(&self) -> bool {
        self.map.lets_go()
    }

    fn view<'a>(&self, fs: &dyn Fs, map: &'a Bytes) -> Result<SparseView<'a>> {
        SparseView::trusted(&self.header, map).map_err(|fault| self.damaged(fs, &fault.to_string()))
    }

    fn mapped(&self, fs: &dyn Fs) -> Result<Bytes> {
        self.map.get(|| self.map_and_check(fs))
    }

    fn map_and_check(&self, fs: &dyn Fs) -> Result<Bytes> {
        let name = self.name();
        let map = fs
            .open(&name, Access::Read)
            .and_then(|file| file.map(MapPages::WhenRead))
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => self.damaged(fs, "it is gone"),
                _ => Error::io(format_args!("read {}/{name}", fs.place()), error),
            })?;
        let block = map.get(..to_usize(SPARSE_HEADER_LEN)).unwrap_or_default();
        if block != self.header.encode() {
            return Err(self.damaged(fs, "its header is not the one that was written"));
        }
        SparseView::check(&self.header, &map)
            .map_err(|fault| self.damaged(fs, &fault.to_string()))?;
        Ok(map)
    }

    fn damaged(&self, fs: &dyn Fs, what: &str) -> Error {
        let (place, name) = (fs.place(), self.name());
        let message = format!(
            "{place}/{name} does not hold: {what}. Make this node again with a checkpoint of the \
             other one (`outlast checkpoint` there, `outlast restore` here) or with a backup, and \
             keep {place} until it runs"
        );
        Error::new(ErrorKind::Corrupt, message)
    }
}

/// A place among the records of a sparse segment.
#[derive(Debug)]
pub(crate) struct SparseWalk {
    map: Bytes,
    entries: Vec<(Lsn, u32)>,
    next: usize,
    at: usize,
}

impl SparseWalk {
    /// The file.
    pub(crate) const fn map(&self) -> &Bytes {
        &self.map
    }

    /// Visits at most `limit` more records, each checked, with where it lies among them; `false`
    /// when there was none left.
    ///
    /// # Errors
    /// `Corrupt` when bytes are no record's; those of `visit`.
    pub(crate) fn step(
        &mut self,
        sparse: &Sparse,
        fs: &dyn Fs,
        limit: usize,
        visit: &mut dyn FnMut(Lsn, u32, RecordRef<'_>) -> Result<()>,
    ) -> Result<bool> {
        let view = sparse.view(fs, &self.map)?;
        let entries = self.entries.iter().skip(self.next).take(limit);
        for (lsn, offset) in entries {
            let bytes = view.records().get(self.at..).unwrap_or_default();
            let record = (*offset as usize == self.at)
                .then(|| decode_record(bytes).ok())
                .flatten();
            let record = record
                .ok_or_else(|| sparse.damaged(fs, &format!("the record at {lsn} does not hold")))?;
            visit(*lsn, *offset, record)?;
            self.at += record.len;
            self.next += 1;
        }
        let more = self.next < self.entries.len();
        if !more && self.at != view.records().len() {
            return Err(sparse.damaged(fs, "bytes behind its last record"));
        }
        Ok(more)
    }
}

/// The header of the sparse segment in the file `name` (with the directory).
pub(super) fn read_header(
    fs: &dyn Fs,
    name: &str,
) -> std::io::Result<Result<SparseHeader, SparseFault>> {
    let file = fs.open(name, Access::Read)?;
    let mut block = vec![0; to_usize(SPARSE_HEADER_LEN)];
    let read = file.read_at(0, &mut block)?;
    let header = match SparseHeader::decode(block.get(..read).unwrap_or_default()) {
        Ok(header) => header,
        Err(fault) => return Ok(Err(fault.into())),
    };
    let (len_bytes, found_bytes) = (header.file_len(), file.len_bytes()?);
    Ok(if len_bytes == found_bytes {
        Ok(header)
    } else {
        Err(SparseFault::Length {
            len_bytes,
            found_bytes,
        })
    })
}

/// Whether a fault says that a newer program wrote the file.
pub(super) const fn is_newer(fault: &SparseFault) -> bool {
    matches!(fault, SparseFault::Header(SegmentFault::Features(_)))
}
