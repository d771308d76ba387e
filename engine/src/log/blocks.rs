//! Appends bytes to a file in whole, aligned blocks.
//!
//! The last block is written again and again while it fills: a write of less than a block into the
//! page cache costs more than the block, and past the cache there are only blocks.

use std::io;
use std::sync::Arc;

use crate::fs::{AlignedBuf, BLOCK_LEN, File};

/// Bytes written by one call at most.
const SCRATCH_LEN: usize = 1 << 20;

/// Invariant: `scratch[..filled]` is what the file holds (or is to hold) from `offset` on, and
/// `offset` is a multiple of [`BLOCK_LEN`].
#[derive(Debug)]
pub(super) struct BlockWriter {
    file: Arc<dyn File>,
    scratch: AlignedBuf,
    offset: u64,
    filled: usize,
}

impl BlockWriter {
    /// Goes on in `file` at `offset`, whose unfinished block begins with `head`.
    pub(super) fn new(file: Arc<dyn File>, offset: u64, head: &[u8]) -> Self {
        assert!(offset.is_multiple_of(BLOCK_LEN as u64) && head.len() < BLOCK_LEN);
        let mut scratch = AlignedBuf::zeroed(SCRATCH_LEN);
        scratch
            .as_mut_slice()
            .iter_mut()
            .zip(head)
            .for_each(|(to, from)| *to = *from);
        Self {
            file,
            scratch,
            offset,
            filled: head.len(),
        }
    }

    /// Writes `parts` one behind the other. They last after [`BlockWriter::sync`].
    pub(super) fn append<'a>(
        &mut self,
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) -> io::Result<()> {
        for mut part in parts {
            while !part.is_empty() {
                let room = SCRATCH_LEN - self.filled;
                let (now, later) = part.split_at(part.len().min(room));
                let place = self.filled..self.filled + now.len();
                if let Some(place) = self.scratch.as_mut_slice().get_mut(place) {
                    place.copy_from_slice(now);
                }
                self.filled += now.len();
                part = later;
                if self.filled == SCRATCH_LEN {
                    self.flush()?;
                }
            }
        }
        self.flush()
    }

    /// The file, which what was appended lasts in once it is synced.
    pub(super) const fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    /// Writes the block at `offset`, which lies outside of what was appended.
    pub(super) fn write_block(&self, offset: u64, block: &[u8]) -> io::Result<()> {
        assert!(block.len() == BLOCK_LEN && offset.is_multiple_of(BLOCK_LEN as u64));
        let mut aligned = AlignedBuf::zeroed(BLOCK_LEN);
        aligned.as_mut_slice().copy_from_slice(block);
        self.file.write_at(offset, aligned.as_slice())
    }

    fn flush(&mut self) -> io::Result<()> {
        let whole = self.filled.next_multiple_of(BLOCK_LEN);
        let kept_from = self.filled - self.filled % BLOCK_LEN;
        let scratch = self.scratch.as_mut_slice();
        if let Some(padding) = scratch.get_mut(self.filled..whole) {
            padding.fill(0);
        }
        self.file
            .write_at(self.offset, scratch.get(..whole).unwrap_or_default())?;
        scratch.copy_within(kept_from..self.filled, 0);
        self.offset += kept_from as u64;
        self.filled -= kept_from;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Access, Fs, MemFs, read_all};

    #[test]
    fn appended_bytes_are_in_the_file_whatever_their_lengths() {
        let fs = MemFs::new();
        let file = fs.create("f").unwrap();
        let mut expected = vec![7; 100];
        file.write_at(0, &expected).unwrap();
        let file = fs.open("f", Access::WriteDirect).unwrap();
        let mut blocks = BlockWriter::new(file, 0, &expected);
        for len in [1, 4095, 4096, 4097, 100, SCRATCH_LEN, 3 * SCRATCH_LEN + 5] {
            let part: Vec<u8> = (0u8..=250).cycle().take(len).collect();
            let (a, b) = part.split_at(len / 3);
            blocks.append([a, b]).unwrap();
            expected.extend(&part);
            let found = read_all(&fs, "f").unwrap();
            assert!(found.starts_with(&expected), "after a part of {len} bytes");
            assert!(found[expected.len()..].iter().all(|byte| *byte == 0));
        }
    }
}
