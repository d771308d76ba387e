//! Many records at once, each by its address.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::Log;
use super::segment::{Piece, Segment};
use super::sparse::Sparse;
use crate::error::Result;
use crate::format::{Lsn, LsnRange, to_usize};
use crate::fs::{is_resident, prefetch, will_need};

/// Bytes that the processor brings nearer at once.
const LINE_LEN: usize = 64;
/// Lines of a record that are asked for ahead; what reads a longer one is fast without.
const LINES_AHEAD: usize = 4;

/// Records no further apart are asked of the disk as one.
const CLOSE: usize = 16 << 10;

/// Bytes that are asked of the disk beyond a portion whose records lie one behind the other: so
/// many at first, and twice as many each time, as long as those that follow do too.
const AHEAD_LEN_MIN: usize = 32 << 10;
const AHEAD_LEN_MAX: usize = 1 << 20;

fn ask(together: Option<(&Stretch, Range<usize>)>) {
    if let Some((stretch, range)) = together {
        will_need(stretch.bytes.get(range).unwrap_or_default());
    }
}

/// Where some records lie: looked up together, with one lookup of each segment, and then read one
/// by one. Reused from one portion of records to the next.
#[derive(Default)]
pub(crate) struct RecordPlaces {
    /// The state of the log's segments for which the rest holds.
    generation: u64,
    /// What was come by of the log, in its order.
    stretches: Vec<Stretch>,
    /// The segment in memory that was come by last.
    in_memory: Option<Arc<Segment>>,
    places: Vec<Place>,
    /// Bytes that were asked for beyond the last portion.
    ahead_len: usize,
}

/// Bytes of the log that lie together: the map of a sealed or a sparse segment, or a large piece of
/// memory.
#[derive(Debug)]
pub(super) struct Stretch {
    pub(super) range: LsnRange,
    pub(super) bytes: Bytes,
    /// Where in the bytes the range begins.
    pub(super) offset: usize,
    /// What tells where its records lie, if only a part of them is left.
    pub(super) sparse: Option<Arc<Sparse>>,
}

#[derive(Debug)]
enum Place {
    /// In a stretch, from this byte on to that.
    In {
        stretch: usize,
        start: usize,
        end: usize,
    },
    /// In a small piece of memory.
    Own(Bytes),
    /// Not found; whoever reads it learns why.
    Unknown { lsn: Lsn, len: usize },
}

impl RecordPlaces {
    /// Looks up where records of these positions and lengths lie, in the place of those before.
    pub(crate) fn find(&mut self, log: &Log, records: impl Iterator<Item = (Lsn, usize)> + Clone) {
        self.places.clear();
        let generation = log.segments.generation();
        if self.generation != generation {
            self.generation = generation;
            self.stretches.clear();
            self.in_memory = None;
        }
        let has_table = |stretch: &Stretch| stretch.sparse.is_some();
        if self.stretches.iter().any(has_table) {
            let positions = records.clone().map(|(lsn, _)| lsn);
            positions.for_each(|lsn| self.prefetch_table(lsn));
        }
        for (lsn, len) in records {
            let place = self.place(log, lsn, len);
            self.places.push(place);
        }
        self.ask_disk();
    }

    /// Begins to read all of them from the disk at once, where the last one found is not in memory.
    fn ask_disk(&mut self) {
        let in_maps = || self.places.iter().filter_map(|place| self.mapped(place));
        if in_maps().next_back().is_none_or(is_resident) {
            return;
        }
        // In the order of a portion, those that lie close together come one behind the other.
        let mut together: Option<(&Stretch, Range<usize>)> = None;
        let mut in_order = self.places.len() > 1;
        for place in &self.places {
            let Place::In {
                stretch,
                start,
                end,
            } = place
            else {
                continue;
            };
            let Some(stretch) = self.stretches.get(*stretch) else {
                continue;
            };
            match &mut together {
                Some((before, range))
                    if std::ptr::eq(*before, stretch)
                        && range.start <= *start
                        && *start <= range.end + CLOSE =>
                {
                    range.end = range.end.max(*end);
                }
                _ => {
                    in_order &= together.is_none();
                    ask(together.replace((stretch, *start..*end)));
                }
            }
        }
        self.ahead_len = match in_order {
            true => (2 * self.ahead_len).clamp(AHEAD_LEN_MIN, AHEAD_LEN_MAX),
            false => 0,
        };
        if let Some((stretch, range)) = &mut together {
            range.end = stretch.bytes.len().min(range.end + self.ahead_len);
        }
        ask(together);
    }

    /// The bytes of one that is part of a larger piece.
    fn mapped(&self, place: &Place) -> Option<&[u8]> {
        match place {
            Place::In {
                stretch,
                start,
                end,
            } => self.stretches.get(*stretch)?.bytes.get(*start..*end),
            Place::Own(_) | Place::Unknown { .. } => None,
        }
    }

    /// Begins to bring a record nearer to the processor, and goes on.
    #[inline]
    pub(crate) fn prefetch(&self, number: usize) {
        let record = match self.places.get(number) {
            Some(Place::Own(bytes)) => Some(&**bytes),
            Some(place) => self.mapped(place),
            None => None,
        };
        let lines = record.unwrap_or_default().chunks(LINE_LEN);
        lines.take(LINES_AHEAD).for_each(prefetch);
    }

    /// Hands a record to `look`, with the memory of which it is a part.
    ///
    /// # Errors
    /// As [`Log::read`], and those of `look`.
    #[inline]
    pub(crate) fn read<T>(
        &self,
        log: &Log,
        number: usize,
        look: impl FnOnce(&Bytes, &[u8]) -> Result<T>,
    ) -> Result<T> {
        match self.places.get(number) {
            Some(Place::In {
                stretch,
                start,
                end,
            }) => {
                let Some(stretch) = self.stretches.get(*stretch) else {
                    panic!("stretch {stretch} of {}", self.stretches.len())
                };
                let bytes = &stretch.bytes;
                look(bytes, bytes.get(*start..*end).unwrap_or_default())
            }
            Some(Place::Own(bytes)) => look(bytes, bytes),
            Some(Place::Unknown { lsn, len }) => {
                let bytes = log.read(*lsn, *len)?;
                look(&bytes, &bytes)
            }
            None => panic!("record {number} of {}", self.places.len()),
        }
    }

    /// Begins to bring what tells where a record lies nearer to the processor, where that is a
    /// table, and goes on: with many under way at once, none is waited for long.
    #[inline]
    fn prefetch_table(&self, lsn: Lsn) {
        let stretches = &self.stretches;
        let after = stretches.partition_point(|stretch| stretch.range.start <= lsn);
        let stretch = after
            .checked_sub(1)
            .and_then(|number| stretches.get(number));
        if let Some(stretch) = stretch
            && let Some(sparse) = &stretch.sparse
        {
            prefetch(sparse.table_near(&stretch.bytes, lsn));
        }
    }

    #[inline]
    fn place(&mut self, log: &Log, lsn: Lsn, len: usize) -> Place {
        let stretches = &self.stretches;
        let after = stretches.partition_point(|stretch| stretch.range.start <= lsn);
        if let Some(number) = after.checked_sub(1)
            && let Some(place) = self.place_in(number, lsn, len)
        {
            return place;
        }
        self.look_up(log, after, lsn, len)
    }

    #[inline]
    fn place_in(&self, number: usize, lsn: Lsn, len: usize) -> Option<Place> {
        let stretch = self.stretches.get(number)?;
        let room = stretch.range.end.0.checked_sub(lsn.0)?;
        if room < len as u64 {
            return None;
        }
        let start = match &stretch.sparse {
            Some(sparse) => sparse.place_in(&stretch.bytes, lsn)?,
            None => stretch.offset + to_usize(lsn.bytes_since(stretch.range.start)),
        };
        let end = start + len;
        (end <= stretch.bytes.len()).then_some(Place::In {
            stretch: number,
            start,
            end,
        })
    }

    #[inline(never)]
    fn look_up(&mut self, log: &Log, number: usize, lsn: Lsn, len: usize) -> Place {
        if let Some(bytes) = self.read_memory(lsn, len) {
            return Place::Own(bytes);
        }
        let stretch = match log.segments.piece(lsn) {
            Some(Piece::Whole(segment)) if log.copies() && !segment.in_memory() => None,
            Some(Piece::Sparse(_)) if log.copies() => None,
            Some(Piece::Whole(segment)) => {
                let stretch = segment.stretch(&*log.fs, lsn);
                if stretch.is_none() && segment.in_memory() {
                    self.in_memory = Some(segment);
                }
                stretch
            }
            Some(Piece::Sparse(sparse)) => sparse.stretch(&*log.fs),
            None => None,
        };
        if let Some(stretch) = stretch {
            self.insert(number, stretch);
            if let Some(place) = self.place_in(number, lsn, len) {
                return place;
            }
        }
        match log.read(lsn, len) {
            Ok(bytes) => Place::Own(bytes),
            Err(_) => Place::Unknown { lsn, len },
        }
    }

    fn read_memory(&self, lsn: Lsn, len: usize) -> Option<Bytes> {
        let segment = self.in_memory.as_ref()?;
        let range = segment.range();
        if lsn < range.start || range.end < lsn.advance(len as u64) {
            return None;
        }
        let bytes = segment.read_memory(lsn, len)?;
        (bytes.len() == len).then_some(bytes)
    }

    fn insert(&mut self, number: usize, new: Stretch) {
        for place in &mut self.places {
            if let Place::In { stretch, .. } = place
                && *stretch >= number
            {
                *stretch += 1;
            }
        }
        self.stretches.insert(number, new);
    }
}
