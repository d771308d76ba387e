//! Blocks of entries: at most 4 KiB of versions, in order, each as what it does not share with the
//! one before.
//!
//! ```text
//!  0 entries      u16
//!  2 prefix_len   u16   bytes that all keys of the block begin with
//!  4 end          u16   where the entries end
//!  6 lsn_width    u8    bytes of an LSN: 0 to 8
//!  7 len_width    u8    bytes of a length: 0 to 4
//!  8 lsn_base     u64   lowest LSN
//! 16 len_base     u32   shortest length
//! 20 exp_width    u8    bytes of an expiry: 0 to 8
//! 21 reserved     u8 × 3   0
//! 24 exp_base     u64   earliest expiry; only where exp_width is above 0
//!    heads        u64 each: of every eighth entry (a restart), the first bytes behind the prefix
//!    offsets      u16 each: where those entries begin
//!    prefix
//!    entries      up to 8 bytes before the end of the block, zeros behind
//! entry: shared     bytes behind the prefix that are those of the entry before; 0 in a restart
//!        own        2 × bytes of its own, + 1 if it is a delete
//!        bytes of its own
//!        lsn - lsn_base, len - len_base, in their widths
//!        expiry - exp_base + 1 in its width; 0 for what does not expire
//! ```
//! `shared` and `own` take one byte below 128, else two: the low seven bits first, with the high
//! bit set, then the rest.
//!
//! A search counts the heads below its own, which reads a few lines of memory that lie together,
//! and then passes over at most eight entries.

use super::layout::{BLOCK_LEN, PREFIXED_LEN_MAX};
use super::{Version, common_len, head};
use crate::format::{Lsn, Op};

const HEADER_LEN: usize = 24;
/// Added to the header of a block with puts that expire.
const EXPIRY_BASE_LEN: usize = 8;
/// Entries from one restart to the next.
const RESTART_INTERVAL: usize = 8;
const RESTART_LEN: usize = 8 + 2;
/// Numbers are read eight bytes at a time whatever their width.
const ENTRIES_END_MAX: usize = BLOCK_LEN - 8;

// The longest key fits in a block of its own, whose prefix it is.
const _: () =
    assert!(HEADER_LEN + 8 + RESTART_LEN + PREFIXED_LEN_MAX + 2 * 2 + 8 + 4 + 8 <= ENTRIES_END_MAX);

/// The entries of a block to be. Reused from one block to the next.
#[derive(Debug, Default)]
pub(super) struct BlockBuf {
    entries: Vec<Pending>,
    /// Bytes of their own, those of a restart being its whole key.
    bytes: Vec<u8>,
    /// The first key.
    first: Vec<u8>,
    shape: Shape,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    shared: usize,
    own_len: usize,
    version: Version,
}

/// What decides the length of the block.
#[derive(Clone, Copy, Default, Debug)]
struct Shape {
    entries: usize,
    prefix_len: usize,
    own_len: usize,
    /// Most bytes that the lengths of entries can take.
    lengths_len: usize,
    lsn: (u64, u64),
    len: (u32, u32),
    /// The earliest and the latest expiry; zeros where nothing expires.
    expires_ms: (u64, u64),
}

impl BlockBuf {
    pub(super) const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds an entry whose key begins with `shared` bytes of the last key. Refused when the block
    /// is full.
    pub(super) fn push(&mut self, key: &[u8], shared: usize, version: Version) -> bool {
        let count = self.entries.len();
        let restart = count.is_multiple_of(RESTART_INTERVAL);
        let prefix_len = match count {
            0 => key.len(),
            _ => shared.min(self.shape.prefix_len),
        };
        let shared = if restart { 0 } else { shared };
        let own = key.get(shared..).unwrap_or_default();
        let shape = self.shape.with(&version, shared, own.len(), prefix_len);
        if shape.encoded_len() > ENTRIES_END_MAX {
            assert!(count > 0, "a key of {} bytes fills a block", key.len());
            return false;
        }
        if count == 0 {
            self.first.clear();
            self.first.extend_from_slice(key);
        }
        self.shape = shape;
        self.bytes.extend_from_slice(own);
        self.entries.push(Pending {
            shared,
            own_len: own.len(),
            version,
        });
        true
    }

    /// Appends the block to `out` and is empty again.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        let Shape {
            prefix_len,
            lsn,
            len,
            expires_ms,
            ..
        } = self.shape;
        let start = out.len();
        let (lsn_width, len_width, exp_width) = self.shape.widths();
        let header_len = header_len(exp_width);
        let restarts = self.entries.len().div_ceil(RESTART_INTERVAL);
        let entries_at = header_len + restarts * RESTART_LEN + prefix_len;
        out.resize(start + header_len + restarts * RESTART_LEN, 0);
        out.extend_from_slice(self.first.get(..prefix_len).unwrap_or_default());

        let mut heads = Vec::with_capacity(restarts * RESTART_LEN);
        let mut offsets = Vec::with_capacity(restarts * 2);
        let mut bytes = &*self.bytes;
        for (number, entry) in self.entries.iter().enumerate() {
            let (mut own, rest) = bytes.split_at(entry.own_len);
            bytes = rest;
            let mut shared = entry.shared;
            if number.is_multiple_of(RESTART_INTERVAL) {
                own = own.get(prefix_len..).unwrap_or_default();
                heads.extend_from_slice(&head(own).to_le_bytes());
                offsets.extend_from_slice(&narrow(out.len() - start).to_le_bytes());
            } else {
                shared -= prefix_len;
            }
            let version = entry.version;
            put_len(out, shared);
            put_len(out, own.len() * 2 + usize::from(version.op == Op::Delete));
            out.extend_from_slice(own);
            put_bytes(out, version.lsn.0 - lsn.0, lsn_width);
            put_bytes(out, u64::from(version.len - len.0), len_width);
            let expiry = version.expires_ms.checked_sub(expires_ms.0.max(1));
            put_bytes(out, expiry.map_or(0, |after| after + 1), exp_width);
        }
        let end = out.len() - start;
        assert!(
            (entries_at..=ENTRIES_END_MAX).contains(&end),
            "a block's entries end at {end}"
        );
        out.resize(start + BLOCK_LEN, 0);

        heads.extend_from_slice(&offsets);
        let mut header = Vec::with_capacity(HEADER_LEN + heads.len());
        header.extend_from_slice(&narrow(self.entries.len()).to_le_bytes());
        header.extend_from_slice(&narrow(prefix_len).to_le_bytes());
        header.extend_from_slice(&narrow(end).to_le_bytes());
        put_bytes(&mut header, lsn_width as u64, 1);
        put_bytes(&mut header, len_width as u64, 1);
        header.extend_from_slice(&lsn.0.to_le_bytes());
        header.extend_from_slice(&len.0.to_le_bytes());
        put_bytes(&mut header, exp_width as u64, 1);
        header.extend_from_slice(&[0; 3]);
        if exp_width > 0 {
            header.extend_from_slice(&expires_ms.0.to_le_bytes());
        }
        header.extend_from_slice(&heads);
        if let Some(place) = out.get_mut(start..start + header.len()) {
            place.copy_from_slice(&header);
        }
        self.entries.clear();
        self.bytes.clear();
        self.shape = Shape::default();
    }
}

impl Shape {
    fn with(mut self, version: &Version, shared: usize, own: usize, prefix_len: usize) -> Self {
        let (lsn, len) = (version.lsn.0, version.len);
        if self.entries == 0 {
            (self.lsn, self.len) = ((lsn, lsn), (len, len));
        }
        self.lsn = (self.lsn.0.min(lsn), self.lsn.1.max(lsn));
        self.len = (self.len.0.min(len), self.len.1.max(len));
        if version.expires_ms != 0 {
            let (first, last) = self.expires_ms;
            let first = if first == 0 { u64::MAX } else { first };
            self.expires_ms = (first.min(version.expires_ms), last.max(version.expires_ms));
        }
        self.prefix_len = prefix_len;
        self.own_len += own;
        self.lengths_len += len_len(shared) + len_len(own * 2 + 1);
        self.entries += 1;
        self
    }

    fn widths(&self) -> (usize, usize, usize) {
        let (lsn, len, expires_ms) = (self.lsn, self.len, self.expires_ms);
        let expiry = match expires_ms {
            (_, 0) => 0,
            // Counted from 1, and no expiry is 0.
            (first, last) => width(last - first + 1),
        };
        (
            width(lsn.1 - lsn.0),
            width(u64::from(len.1 - len.0)),
            expiry,
        )
    }

    /// Length up to the end of the entries, or a little more.
    fn encoded_len(&self) -> usize {
        let restarts = self.entries.div_ceil(RESTART_INTERVAL);
        let (lsn_width, len_width, exp_width) = self.widths();
        header_len(exp_width)
            + restarts * RESTART_LEN
            + self.prefix_len
            + self.lengths_len
            + self.own_len
            - restarts * self.prefix_len
            + self.entries * (lsn_width + len_width + exp_width)
    }
}

/// A block that is read. Its checksum holds, and yet nothing in it is believed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    bytes: &'a [u8; BLOCK_LEN],
    pub(super) head: BlockHead,
}

/// The fixed part of a block, for who keeps no hold on its bytes.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct BlockHead {
    pub(super) entries: usize,
    prefix_len: usize,
    restarts: usize,
    end: usize,
    lsn_width: usize,
    len_width: usize,
    lsn_mask: u64,
    len_mask: u64,
    lsn_base: u64,
    len_base: u32,
    /// Zeros in a block of which nothing expires.
    exp_width: usize,
    exp_base: u64,
}

/// One entry as it lies in its block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    /// Bytes behind the block's prefix that are those of the key before.
    pub(super) shared: usize,
    pub(super) own: &'a [u8],
    pub(super) version: Version,
    /// Where the next entry begins.
    pub(super) next: usize,
}

/// Where a search ends: the first entry that is not before what was searched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    /// Which entry; the number of entries where all are before.
    pub(super) index: usize,
    /// The entry's version, if its key is the one searched.
    pub(super) version: Option<Version>,
}

impl<'a> Block<'a> {
    /// `None` when its head cannot be a block's.
    pub(super) fn new(bytes: &'a [u8; BLOCK_LEN]) -> Option<Self> {
        let [e0, e1, p0, p1, n0, n1, lsn_width, len_width, ..] = *bytes;
        let [exp_width, reserved @ ..] = *bytes.get(20..)?.first_chunk::<4>()?;
        let entries = usize::from(u16::from_le_bytes([e0, e1]));
        let restarts = entries.div_ceil(RESTART_INTERVAL);
        let head = BlockHead {
            entries,
            restarts,
            prefix_len: u16::from_le_bytes([p0, p1]).into(),
            end: u16::from_le_bytes([n0, n1]).into(),
            lsn_width: lsn_width.into(),
            len_width: len_width.into(),
            lsn_mask: mask(lsn_width),
            len_mask: mask(len_width),
            lsn_base: u64::from_le_bytes(*bytes.get(8..)?.first_chunk()?),
            len_base: u32::from_le_bytes(*bytes.get(16..)?.first_chunk()?),
            exp_width: exp_width.into(),
            exp_base: match exp_width {
                0 => 0,
                _ => u64::from_le_bytes(*bytes.get(HEADER_LEN..)?.first_chunk()?),
            },
        };
        let sound = entries > 0
            && head.end <= ENTRIES_END_MAX
            && head.entries_at() <= head.end
            && lsn_width <= 8
            && len_width <= 4
            && exp_width <= 8
            && reserved == [0; 3];
        sound.then_some(Self { bytes, head })
    }

    /// A block whose head was read before.
    pub(super) const fn with_head(bytes: &'a [u8; BLOCK_LEN], head: BlockHead) -> Self {
        Self { bytes, head }
    }

    pub(super) const fn entries(&self) -> usize {
        self.head.entries
    }

    pub(super) const fn prefix_len(&self) -> usize {
        self.head.prefix_len
    }

    /// What all keys begin with.
    pub(super) fn prefix(&self) -> &'a [u8] {
        let end = self.head.entries_at();
        self.bytes
            .get(end - self.head.prefix_len..end)
            .unwrap_or_default()
    }

    /// The entry at `offset`.
    #[inline]
    pub(super) fn entry(&self, offset: usize) -> Option<Entry<'a>> {
        let head = &self.head;
        let (shared, offset) = self.len_at(offset)?;
        let (own_and_op, offset) = self.len_at(offset)?;
        let end = offset + own_and_op / 2;
        let expiry_at = end + head.lsn_width + head.len_width;
        let next = expiry_at + head.exp_width;
        if next > head.end {
            return None;
        }
        let lsn = self.number(end)? & head.lsn_mask;
        let len = self.number(end + head.lsn_width)? & head.len_mask;
        let version = Version {
            lsn: Lsn(head.lsn_base.checked_add(lsn)?),
            len: head.len_base.checked_add(u32::try_from(len).ok()?)?,
            op: if own_and_op % 2 == 1 {
                Op::Delete
            } else {
                Op::Put
            },
            expires_ms: match head.exp_width {
                0 => 0,
                width => self.expiry(expiry_at, width)?,
            },
        };
        Some(Entry {
            shared,
            own: self.bytes.get(offset..end)?,
            version,
            next,
        })
    }

    #[cold]
    fn expiry(&self, offset: usize, width: usize) -> Option<u64> {
        let mask = u8::try_from(width).map_or(u64::MAX, mask);
        match self.number(offset)? & mask {
            0 => Some(0),
            after => self.head.exp_base.checked_add(after - 1),
        }
    }

    /// Where the restart at or before entry `index` begins, and which entry it is.
    pub(super) fn restart_before(&self, index: usize) -> Option<(usize, usize)> {
        let restart = index / RESTART_INTERVAL;
        Some((restart * RESTART_INTERVAL, self.restart_offset(restart)?))
    }

    /// The first entry that is a later key, or the same and not newer than `newest`. `None` when
    /// the block does not decode.
    pub(super) fn search(&self, key: &[u8], newest: u64) -> Option<Spot> {
        let spot = |index| {
            Some(Spot {
                index,
                version: None,
            })
        };
        let prefix = self.prefix();
        let common = common_len(prefix, key);
        if common < prefix.len() {
            let before = key.get(common) < prefix.get(common);
            return spot(if before { 0 } else { self.entries() });
        }
        let key = key.get(common..)?;
        let restart = self.restart_for(key, newest)?;
        let mut index = restart * RESTART_INTERVAL;
        let mut offset = self.restart_offset(restart)?;
        // Bytes of the key that the entry before begins with, itself being before the key.
        let mut matched = 0;
        while index < self.entries() {
            let entry = self.entry(offset)?;
            if index.is_multiple_of(RESTART_INTERVAL) {
                matched = 0;
            }
            if entry.shared < matched {
                return spot(index);
            }
            if entry.shared == matched {
                let rest = key.get(matched..)?;
                let more = common_len(entry.own, rest);
                matched += more;
                match (entry.own.get(more), rest.get(more)) {
                    (None, None) if entry.version.lsn.0 <= newest => {
                        let version = Some(entry.version);
                        return Some(Spot { index, version });
                    }
                    (Some(_), None) => return spot(index),
                    (Some(theirs), Some(ours)) if theirs > ours => return spot(index),
                    _ => {}
                }
            }
            index += 1;
            offset = entry.next;
        }
        spot(index)
    }

    /// The last restart that is not behind the place searched, or the first one. `key` is without
    /// the prefix.
    fn restart_for(&self, key: &[u8], newest: u64) -> Option<usize> {
        let heads = self.bytes.get(self.head.header_len()..)?.as_chunks().0;
        let heads = heads.get(..self.head.restarts)?;
        let searched = head(key);
        // Counted without a branch, and every load without waiting for another.
        let (mut below, mut equal) = (0usize, 0usize);
        for head in heads {
            let head = u64::from_le_bytes(*head);
            below += usize::from(head < searched);
            equal += usize::from(head == searched);
        }
        let (mut low, mut high) = (below, below + equal);
        while low < high {
            let middle = low.midpoint(high);
            let entry = self.entry(self.restart_offset(middle)?)?;
            let order = entry.own.cmp(key);
            if order.is_lt() || order.is_eq() && entry.version.lsn.0 >= newest {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Some(low.saturating_sub(1))
    }

    fn restart_offset(&self, restart: usize) -> Option<usize> {
        let at = self.head.header_len() + self.head.restarts * 8 + restart * 2;
        let offset = u16::from_le_bytes(*self.bytes.get(at..)?.first_chunk()?);
        (restart < self.head.restarts).then_some(offset.into())
    }

    #[inline]
    fn len_at(&self, offset: usize) -> Option<(usize, usize)> {
        let low = usize::from(*self.bytes.get(offset)?);
        if low < 128 {
            return Some((low, offset + 1));
        }
        let high = usize::from(*self.bytes.get(offset + 1)?);
        Some((low - 128 + high * 128, offset + 2))
    }

    #[inline]
    fn number(&self, offset: usize) -> Option<u64> {
        Some(u64::from_le_bytes(
            *self.bytes.get(offset..)?.first_chunk()?,
        ))
    }
}

impl BlockHead {
    const fn header_len(&self) -> usize {
        header_len(self.exp_width)
    }

    pub(super) const fn entries_at(&self) -> usize {
        self.header_len() + self.restarts * RESTART_LEN + self.prefix_len
    }
}

const fn header_len(exp_width: usize) -> usize {
    HEADER_LEN + if exp_width > 0 { EXPIRY_BASE_LEN } else { 0 }
}

const fn len_len(len: usize) -> usize {
    if len < 128 { 1 } else { 2 }
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    if len < 128 {
        put_bytes(out, len as u64, 1);
    } else {
        put_bytes(out, (len % 128 + 128) as u64, 1);
        put_bytes(out, (len / 128) as u64, 1);
    }
}

/// The lowest `width` bytes of a number, which has no more.
fn put_bytes(out: &mut Vec<u8>, number: u64, width: usize) {
    debug_assert!(
        width == 8 || number >> (width * 8) == 0,
        "{number} in {width}"
    );
    let bytes = number.to_le_bytes();
    out.extend_from_slice(bytes.get(..width).unwrap_or_default());
}

fn narrow(number: usize) -> u16 {
    u16::try_from(number).unwrap_or_else(|_| panic!("{number} within a block"))
}

const fn width(number: u64) -> usize {
    (64 - number.leading_zeros() as usize).div_ceil(8)
}

const fn mask(width: u8) -> u64 {
    match width {
        0..8 => (1 << (width * 8)) - 1,
        _ => u64::MAX,
    }
}
