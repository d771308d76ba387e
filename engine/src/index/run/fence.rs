//! Fences: of each block of entries the shortest string of bytes that tells it from the block
//! before.
//!
//! ```text
//! heads   u64 each: the first bytes behind what all keys begin with, the first byte the highest
//! ends    u32 each: where its text ends in the texts; bit 31 if it continues a key
//! texts   what all keys begin with, then the fences without it
//! ```
//! A fence is above every key of the block before and not above the first key of its own. Where
//! that is one and the same key, of which the block before holds newer versions, the fence
//! *continues* it: it is the whole key, and the LSN of the first entry stands behind it, 8 bytes.
//! The first block's fence is empty.
//!
//! The heads alone decide nearly every search.

use super::{common_len, head};

const CONTINUES: u32 = 1 << 31;

/// The fences of a run to be.
#[derive(Debug, Default)]
pub(super) struct FenceBuf {
    texts: Vec<u8>,
    ends: Vec<(usize, bool)>,
}

impl FenceBuf {
    /// The fence of a block that begins with `key` at `lsn`; `shared` bytes of the key are those of
    /// the key before.
    pub(super) fn push(&mut self, before: &[u8], key: &[u8], shared: usize, lsn: u64) {
        let continues = !self.ends.is_empty() && shared == key.len() && before.len() == key.len();
        if !self.ends.is_empty() {
            let len = key.len().min(shared + 1);
            self.texts
                .extend_from_slice(key.get(..len).unwrap_or_default());
        }
        if continues {
            self.texts.extend_from_slice(&lsn.to_le_bytes());
        }
        self.ends.push((self.texts.len(), continues));
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.ends.len() * 12 + self.texts.len()
    }

    /// Appends the fences of a run whose keys all begin with `common`.
    pub(super) fn finish(&self, common: &[u8], out: &mut Vec<u8>) {
        let mut texts = common.to_vec();
        let mut ends = Vec::with_capacity(self.ends.len());
        let mut start = 0;
        for (text_end, continues) in &self.ends {
            let text = self.texts.get(start..*text_end).unwrap_or_default();
            let text = text.get(common.len()..).unwrap_or_default();
            let key_len = text.len() - if *continues { 8 } else { 0 };
            let key = text.get(..key_len).unwrap_or_default();
            out.extend_from_slice(&head(key).to_le_bytes());
            texts.extend_from_slice(text);
            let end = u32::try_from(texts.len())
                .ok()
                .filter(|end| *end < CONTINUES);
            let Some(end) = end else {
                panic!("{} bytes of fences", texts.len())
            };
            ends.push(end | if *continues { CONTINUES } else { 0 });
            start = *text_end;
        }
        ends.iter()
            .for_each(|end| out.extend_from_slice(&end.to_le_bytes()));
        out.extend_from_slice(&texts);
    }
}

/// The fences of a run, where they are mapped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fences<'a> {
    heads: &'a [[u8; 8]],
    ends: &'a [[u8; 4]],
    texts: &'a [u8],
    common: &'a [u8],
}

impl<'a> Fences<'a> {
    /// The fences of so many blocks. `None` when the bytes are too few.
    pub(super) fn new(bytes: &'a [u8], blocks: usize, common_len: usize) -> Option<Self> {
        let (heads, rest) = bytes.split_at_checked(blocks.checked_mul(8)?)?;
        let (ends, texts) = rest.split_at_checked(blocks * 4)?;
        Some(Self {
            heads: heads.as_chunks().0,
            ends: ends.as_chunks().0,
            texts,
            common: texts.get(..common_len)?,
        })
    }

    /// The last block whose fence is not behind the place of `key` at `newest`. `None` when the
    /// fences do not decode.
    pub(super) fn locate(&self, key: &[u8], newest: u64) -> Option<usize> {
        let common = common_len(self.common, key);
        if common < self.common.len() {
            let before = key.get(common) < self.common.get(common);
            return Some(if before {
                0
            } else {
                self.heads.len().checked_sub(1)?
            });
        }
        let key = key.get(common..)?;
        let searched = head(key);
        let below = |limit: u64| {
            self.heads
                .partition_point(|head| u64::from_le_bytes(*head) < limit)
        };
        let mut low = below(searched);
        let equal = self
            .heads
            .get(low)
            .is_some_and(|head| u64::from_le_bytes(*head) == searched);
        if equal {
            let mut high = searched.checked_add(1).map_or(self.heads.len(), below);
            while low < high {
                let middle = low.midpoint(high);
                if self.is_behind(middle, key, newest)? {
                    high = middle;
                } else {
                    low = middle + 1;
                }
            }
        }
        Some(low.saturating_sub(1))
    }

    /// Whether the block goes on with the last key of the one before.
    pub(super) fn continues(&self, block: usize) -> bool {
        self.ends
            .get(block)
            .is_some_and(|end| u32::from_le_bytes(*end) & CONTINUES != 0)
    }

    fn is_behind(&self, block: usize, key: &[u8], newest: u64) -> Option<bool> {
        let end = |block: usize| self.ends.get(block).map(|end| u32::from_le_bytes(*end));
        let start = match block.checked_sub(1) {
            Some(before) => (end(before)? & !CONTINUES) as usize,
            None => self.common.len(),
        };
        let text = self.texts.get(start..(end(block)? & !CONTINUES) as usize)?;
        if !self.continues(block) {
            return Some(text > key);
        }
        let (fence, lsn) = text.split_last_chunk()?;
        let order = fence.cmp(key);
        Some(order.is_gt() || order.is_eq() && u64::from_le_bytes(*lsn) < newest)
    }
}
