//! Sparse segment files: what is left of a stretch of the log that was compacted. Every record
//! keeps its LSN; a table tells where in the file it lies now.
//!
//! ```text
//! header, 4 KiB:  envelope "OLSS", body padded with zeros
//! records         as they stood in their frames, in any order
//! controls        postcard: the control records, in the order of the log
//! fences          16 bytes each:  0 lsn u64   of the first entry of a group
//!                                 8 first u64 the number of that entry
//! entries         8 bytes each:   0 delta u32 LSN of a record less that of its fence
//!                                 4 offset u32 where it lies among the records
//! ```
//! Entries ascend. A group has at most 64 of them, and spans less than 4 GiB of the log.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::checksum;
use super::control;
use super::envelope::Envelope;
use super::frame::FrameKind;
use super::ids::{ClusterId, Lsn, LsnRange, to_usize};
use super::segment::{ChainRecord, SegmentFault, block, open};

/// Bytes of a sparse segment before its records.
pub const SPARSE_HEADER_LEN: u64 = 4096;
/// Entries of a table that one fence stands for, at most.
const GROUP_LEN: usize = 64;

const FENCE_LEN: usize = 16;
const ENTRY_LEN: usize = 8;
const FEATURES_KNOWN: u64 = 0;
const HEADER: Envelope = Envelope {
    magic: *b"OLSS",
    version: 1,
    kind: 1,
    len_max: 4096 - 16,
};

/// The header of a sparse segment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SparseHeader {
    /// Features that a reader must know.
    pub features_incompatible: u64,
    /// Features that a writer must know.
    pub features_read_only: u64,
    /// Features that may be ignored.
    pub features_compatible: u64,
    /// The cluster.
    pub cluster: ClusterId,
    /// The segments in whose place it stands: from this ordinal.
    pub first: u64,
    /// Up to this one.
    pub last: u64,
    /// Where the log stands before what it holds.
    pub start: ChainRecord,
    /// Where the log stands behind it.
    pub end: ChainRecord,
    /// States below this are not whole any more: records that only they show are gone.
    pub horizon: Lsn,
    /// Of each key, what a record below this position supersedes is gone; so a delete below it
    /// hides nothing in here.
    pub known: Lsn,
    /// Bytes of the records.
    pub records_len: u64,
    /// Bytes of those of them that are deletes.
    pub deletes_len: u64,
    /// Bytes of the control records.
    pub controls_len: u32,
    /// How many fences.
    pub fences: u32,
    /// How many records.
    pub entries: u32,
    /// Checksum of all behind the records, computed as for a record's body.
    pub check: u32,
}

/// A control record that was kept, with where its frame stood.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeptControl {
    /// Where its frame began.
    pub lsn: Lsn,
    /// The kind of its frame.
    pub kind: u8,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Bytes that are no sparse segment.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SparseFault {
    /// The header does not hold.
    #[error("its header does not hold: {0}")]
    Header(#[from] SegmentFault),
    /// The file is not as long as its header says.
    #[error("{found_bytes} bytes long instead of {len_bytes}")]
    Length {
        /// What the header says.
        len_bytes: u64,
        /// What was found.
        found_bytes: u64,
    },
    /// What stands behind the records does not hold.
    #[error("its table does not hold")]
    Table,
}

impl SparseHeader {
    /// The positions that it stands for.
    #[must_use]
    pub const fn range(&self) -> LsnRange {
        LsnRange::new(self.start.lsn, self.end.lsn)
    }

    /// Bytes of the whole file.
    #[must_use]
    pub const fn file_len(&self) -> u64 {
        SPARSE_HEADER_LEN + self.records_len + self.tail_len() as u64
    }

    const fn tail_len(&self) -> usize {
        let sealed = self.controls_len as usize
            + self.fences as usize * FENCE_LEN
            + self.entries as usize * ENTRY_LEN;
        sealed + checksum::table_len(sealed)
    }

    /// The whole block.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        block(&HEADER, &control::encode(self))
    }

    /// Decodes the block at the start of a file.
    ///
    /// # Errors
    /// For zeros, damage, another version, and values that no writer writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, SegmentFault> {
        let header: Self = open(&HEADER, bytes)?;
        let unknown = header.features_incompatible & !FEATURES_KNOWN;
        if unknown != 0 {
            return Err(SegmentFault::Features(unknown));
        }
        let sound = [
            (header.first > 0 && header.first <= header.last, "ordinals"),
            (header.start.lsn < header.end.lsn, "range"),
            (header.known <= header.horizon, "knowledge"),
            (
                header.records_len <= u64::from(u32::MAX)
                    && header.deletes_len <= header.records_len,
                "length",
            ),
            (
                header.fences <= header.entries
                    && (header.fences == 0) == (header.entries == 0)
                    && u64::from(header.entries) <= header.records_len,
                "number of records",
            ),
        ];
        match sound.iter().find(|(holds, _)| !holds) {
            Some((_, what)) => Err(SegmentFault::Field(what)),
            None => Ok(header),
        }
    }
}

/// What stands behind the records, while it is made.
#[derive(Debug, Default)]
pub struct SparseTable {
    controls: Vec<KeptControl>,
    /// LSN, and offset among the records.
    entries: Vec<(Lsn, u32)>,
}

impl SparseTable {
    /// Notes a control record.
    pub fn control(&mut self, lsn: Lsn, kind: FrameKind, payload: &[u8]) {
        self.controls.push(KeptControl {
            lsn,
            kind: kind as u8,
            payload: payload.to_vec(),
        });
    }

    /// Notes that the record of `lsn` lies at `offset` among the records.
    pub fn entry(&mut self, lsn: Lsn, offset: u32) {
        self.entries.push((lsn, offset));
    }

    /// The bytes behind the records; fills in what `header` says of them.
    ///
    /// # Panics
    /// When two records have one LSN.
    #[must_use]
    pub fn seal(mut self, header: &mut SparseHeader) -> Vec<u8> {
        self.controls.sort_unstable_by_key(|kept| kept.lsn);
        self.entries.sort_unstable();
        let unique = self.entries.is_sorted_by(|one, other| one.0 < other.0);
        assert!(unique, "two records of one position");
        let mut out = control::encode(&self.controls);
        header.controls_len = fits(out.len());
        let mut groups: Vec<(Lsn, u64)> = Vec::new();
        for (number, (lsn, _)) in (0..).zip(&self.entries) {
            let goes_on = groups.last().is_some_and(|(fence, first)| {
                number - first < GROUP_LEN as u64 && u32::try_from(lsn.bytes_since(*fence)).is_ok()
            });
            if !goes_on {
                groups.push((*lsn, number));
            }
        }
        for (lsn, first) in &groups {
            out.extend_from_slice(&lsn.0.to_le_bytes());
            out.extend_from_slice(&first.to_le_bytes());
        }
        let mut fences = groups.iter().peekable();
        let mut fence = Lsn::ZERO;
        for (number, (lsn, offset)) in (0..).zip(&self.entries) {
            if let Some((begins, _)) = fences.next_if(|(_, first)| *first == number) {
                fence = *begins;
            }
            let delta = u32::try_from(lsn.bytes_since(fence))
                .unwrap_or_else(|_| panic!("{lsn} is too far from {fence}"));
            out.extend_from_slice(&delta.to_le_bytes());
            out.extend_from_slice(&offset.to_le_bytes());
        }
        header.fences = fits(groups.len());
        header.entries = fits(self.entries.len());
        header.check = checksum::seal(&mut out, 0);
        out
    }
}

fn fits(count: usize) -> u32 {
    u32::try_from(count).unwrap_or_else(|_| panic!("{count} in one sparse segment"))
}

/// The whole file of a sparse segment, its table checked. The records are not: each has a checksum
/// of its own.
#[derive(Clone, Copy, Debug)]
pub struct SparseView<'a> {
    records: &'a [u8],
    controls: &'a [u8],
    fences: &'a [u8],
    entries: &'a [u8],
}

impl<'a> SparseView<'a> {
    /// Checks the table of `file`, whose header is `header`.
    ///
    /// # Errors
    /// `Length` or `Table`.
    pub fn check(header: &SparseHeader, file: &'a [u8]) -> Result<Self, SparseFault> {
        let view = Self::trusted(header, file)?;
        let tail_at = to_usize(SPARSE_HEADER_LEN + header.records_len);
        let sealed_len = view.controls.len() + view.fences.len() + view.entries.len();
        let tail = file.get(tail_at..).unwrap_or_default();
        let (sealed, table) = tail.split_at_checked(sealed_len).unwrap_or_default();
        if checksum::holds(sealed, table, header.check) && view.is_ordered(header) {
            Ok(view)
        } else {
            Err(SparseFault::Table)
        }
    }

    /// A file that [`SparseView::check`] has passed before.
    ///
    /// # Errors
    /// `Length`.
    pub fn trusted(header: &SparseHeader, file: &'a [u8]) -> Result<Self, SparseFault> {
        let (len_bytes, found_bytes) = (header.file_len(), file.len() as u64);
        let length = SparseFault::Length {
            len_bytes,
            found_bytes,
        };
        if len_bytes != found_bytes {
            return Err(length);
        }
        let take = |rest: &'a [u8], len: usize| rest.split_at_checked(len).ok_or(length.clone());
        let (_, rest) = take(file, to_usize(SPARSE_HEADER_LEN))?;
        let (records, rest) = take(rest, to_usize(header.records_len))?;
        let (controls, rest) = take(rest, header.controls_len as usize)?;
        let (fences, rest) = take(rest, header.fences as usize * FENCE_LEN)?;
        let (entries, _) = take(rest, header.entries as usize * ENTRY_LEN)?;
        Ok(Self {
            records,
            controls,
            fences,
            entries,
        })
    }

    /// Whether groups and entries ascend, within the positions and the records that there are.
    fn is_ordered(&self, header: &SparseHeader) -> bool {
        let count = self.entries.len() / ENTRY_LEN;
        let fences = self.fences.len() / FENCE_LEN;
        let mut before = None;
        for group in 0..fences {
            let (Some((fence, first)), next) = (self.fence(group), self.fence(group + 1)) else {
                return false;
            };
            let end = next.map_or(count, |(_, first)| first);
            let sized = first < end && end <= count && end - first <= GROUP_LEN;
            if !sized || group == 0 && first != 0 {
                return false;
            }
            for number in first..end {
                let Some((delta, offset)) = self.entry(number) else {
                    return false;
                };
                let lsn = fence.advance(u64::from(delta));
                let begins = number > first || delta == 0;
                let inside = header.start.lsn <= lsn && lsn < header.end.lsn;
                let placed = (offset as usize) < self.records.len();
                if !begins || !inside || !placed || before.is_some_and(|before| before >= lsn) {
                    return false;
                }
                before = Some(lsn);
            }
        }
        true
    }

    /// The records.
    #[must_use]
    pub const fn records(&self) -> &'a [u8] {
        self.records
    }

    /// The control records.
    ///
    /// # Errors
    /// `Table` when they do not decode.
    pub fn controls(&self) -> Result<Vec<KeptControl>, SparseFault> {
        control::decode(self.controls).map_err(|_| SparseFault::Table)
    }

    /// Where among the records that of `lsn` lies, if it is held.
    #[must_use]
    pub fn find(&self, lsn: Lsn) -> Option<u32> {
        let group = self.group_of(lsn)?;
        let Group {
            first, end, delta, ..
        } = group;
        let count = end - first;
        let below = partition_near(count, group.guess(), |number| {
            self.entry(first + number)
                .is_some_and(|(there, _)| there < delta)
        });
        let (there, offset) = self.entry(first + below)?;
        (below < count && there == delta).then_some(offset)
    }

    /// The part of the table that [`SparseView::find`] probably reads for `lsn`: to be brought
    /// nearer before many are looked for.
    #[must_use]
    pub fn near(&self, lsn: Lsn) -> &'a [u8] {
        let guess = self.group_of(lsn).map(|group| {
            let number = group.first + group.guess();
            self.entries.get(number * ENTRY_LEN..)
        });
        guess.flatten().unwrap_or_default()
    }

    /// The entries among which that of `lsn` is, if it is held.
    fn group_of(&self, lsn: Lsn) -> Option<Group> {
        let groups = self.fences.len() / FENCE_LEN;
        let (lowest, _) = self.fence(0)?;
        let (highest, _) = self.fence(groups - 1)?;
        let guess = share(
            lsn.0.checked_sub(lowest.0)?,
            highest.0.saturating_sub(lowest.0),
            groups - 1,
        );
        let above = partition_near(groups, guess, |group| {
            self.fence(group).is_some_and(|(fence, _)| fence <= lsn)
        });
        let group = above.checked_sub(1)?;
        let (fence, first) = self.fence(group)?;
        let (next, end) = self
            .fence(group + 1)
            .unwrap_or((highest, self.entries.len() / ENTRY_LEN));
        Some(Group {
            first,
            end,
            delta: u32::try_from(lsn.bytes_since(fence)).ok()?,
            span: next.0.saturating_sub(fence.0),
        })
    }

    /// All records by their LSN, with where they lie among the records.
    pub fn entries(&self) -> impl Iterator<Item = (Lsn, u32)> + use<'a> {
        let view = *self;
        let groups = view.fences.len() / FENCE_LEN;
        let count = view.entries.len() / ENTRY_LEN;
        (0..groups).flat_map(move |group| {
            let (fence, first) = view.fence(group).unwrap_or((Lsn::ZERO, count));
            let end = view.fence(group + 1).map_or(count, |(_, first)| first);
            (first..end).filter_map(move |number| {
                let (delta, offset) = view.entry(number)?;
                Some((fence.advance(u64::from(delta)), offset))
            })
        })
    }

    fn fence(&self, group: usize) -> Option<(Lsn, usize)> {
        let bytes = self.fences.get(group * FENCE_LEN..)?;
        let (lsn, rest) = bytes.split_first_chunk::<8>()?;
        let first = u64::from_le_bytes(*rest.first_chunk::<8>()?);
        Some((
            Lsn(u64::from_le_bytes(*lsn)),
            usize::try_from(first).unwrap_or(usize::MAX),
        ))
    }

    fn entry(&self, number: usize) -> Option<(u32, u32)> {
        let bytes = self.entries.get(number.checked_mul(ENTRY_LEN)?..)?;
        let (delta, rest) = bytes.split_first_chunk::<4>()?;
        let offset = rest.first_chunk::<4>()?;
        Some((u32::from_le_bytes(*delta), u32::from_le_bytes(*offset)))
    }
}

/// A group of entries, and what is looked for in it.
#[derive(Clone, Copy)]
struct Group {
    first: usize,
    end: usize,
    delta: u32,
    /// How far it is to the next group; none to the last one's end.
    span: u64,
}

impl Group {
    /// Which of its entries it is if they lie evenly.
    fn guess(&self) -> usize {
        let count = self.end.saturating_sub(self.first);
        share(self.delta.into(), self.span, count).min(count.saturating_sub(1))
    }
}

/// How many of `count` steps `part` of `whole` is; at most all of them.
fn share(part: u64, whole: u64, count: usize) -> usize {
    if part >= whole {
        return count;
    }
    // Where that is too much for a number, an even guess is none: the beginning is as good.
    let steps = part.checked_mul(count as u64).unwrap_or_default() / whole;
    usize::try_from(steps).unwrap_or(count)
}

/// How many of `0..count`, from the beginning, `holds` is true of. Looks from `guess` on in steps
/// that grow: positions in the log mostly lie evenly, so that a guess by their distances is close,
/// and few places of a large table are touched.
fn partition_near(count: usize, guess: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    let (mut step, mut at) = (1, guess.min(count.saturating_sub(1)));
    while low < high {
        if holds(at) {
            low = at + 1;
            // None holds at `high`, if it is a place at all.
            at = low.saturating_add(step - 1);
        } else {
            high = at;
            at = high.saturating_sub(step);
        }
        step = step.saturating_mul(2);
        if at < low || at >= high {
            at = low.midpoint(high);
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Chain;

    fn file(lsns: &[u64]) -> (SparseHeader, Vec<u8>) {
        let origin = Chain::origin(ClusterId::random());
        let end = Chain {
            lsn: Lsn(1 << 40),
            ..origin
        };
        let mut table = SparseTable::default();
        table.control(Lsn(8), FrameKind::Keyspace, b"control");
        let records: Vec<u8> = (0u8..=250).cycle().take(lsns.len().max(1)).collect();
        for (offset, lsn) in lsns.iter().enumerate() {
            // Not in the order of the log.
            table.entry(Lsn(*lsn), u32::try_from(lsns.len() - 1 - offset).unwrap());
        }
        let mut header = SparseHeader {
            features_incompatible: 0,
            features_read_only: 0,
            features_compatible: 0,
            cluster: origin.cluster,
            first: 1,
            last: 2,
            start: ChainRecord::new(&origin),
            end: ChainRecord::new(&end),
            horizon: Lsn(9),
            known: Lsn(9),
            records_len: records.len() as u64,
            deletes_len: 0,
            controls_len: 0,
            fences: 0,
            entries: 0,
            check: 0,
        };
        let tail = table.seal(&mut header);
        let file = [header.encode(), records, tail].concat();
        (header, file)
    }

    #[test]
    fn every_record_is_found_by_its_lsn_and_no_other_position_is() {
        for count in [0, 1, 2, 63, 64, 65, 1000] {
            // Some of them further apart than an entry can say.
            let lsns: Vec<u64> = (0..count)
                .map(|n| 100 + n * 160 + (n / 10) * (6 << 30))
                .collect();
            let (header, file) = file(&lsns);
            assert_eq!(SparseHeader::decode(&file), Ok(header.clone()));
            assert_eq!(header.file_len(), file.len() as u64);
            let view = SparseView::check(&header, &file).unwrap();
            let found: Vec<_> = view.entries().collect();
            assert_eq!(found.len(), lsns.len());
            for (at, lsn) in lsns.iter().enumerate() {
                let offset = u32::try_from(lsns.len() - 1 - at).unwrap();
                assert_eq!(view.find(Lsn(*lsn)), Some(offset));
                assert_eq!(found[at], (Lsn(*lsn), offset));
                assert_eq!(view.find(Lsn(lsn + 1)), None);
                assert_eq!(view.find(Lsn(lsn - 1)), None);
            }
            assert_eq!(view.controls().unwrap()[0].payload, b"control");
        }
    }

    #[test]
    fn every_flipped_bit_of_header_and_table_is_seen() {
        let (header, file) = file(&[100, 300, 20_000, 5 << 32]);
        let records_at = to_usize(SPARSE_HEADER_LEN);
        let records = records_at..records_at + to_usize(header.records_len);
        for bit in 0..file.len() * 8 {
            if records.contains(&(bit / 8)) {
                continue;
            }
            let mut bad = file.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let held = SparseHeader::decode(&bad)
                .map_err(SparseFault::from)
                .and_then(|header| SparseView::check(&header, &bad).map(drop));
            assert!(held.is_err(), "bit {bit}");
        }
        for len in [0, 1, 4096, file.len() - 1] {
            assert!(SparseView::check(&header, &file[..len]).is_err(), "{len}");
        }
    }
}
