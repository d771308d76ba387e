//! Writing a run, in one pass.

use std::sync::Arc;

use super::block::BlockBuf;
use super::fence::FenceBuf;
use super::layout::{BLOCK_LEN, BLOCKS_MAX, Footer};
use super::{RunKey, RunMeta, Version, common_len, filter};
use crate::error::{Error, ErrorKind, Result};
use crate::format::limits::KEY_LEN_MAX;
use crate::format::{Lsn, Op};
use crate::fs::{File, Fs};

/// Bytes gathered for one write.
const WRITE_LEN: usize = 64 * BLOCK_LEN;

/// Streams versions, in strictly ascending order, into a new file. What is left of one that was not
/// finished, after an error or a crash, is a file that nothing names: its caller removes it.
#[derive(Debug)]
pub(crate) struct RunWriter {
    name: String,
    file: Arc<dyn File>,
    /// Bytes in the file.
    written: u64,
    buffer: Vec<u8>,
    /// Of each block written or in the buffer.
    checks: Vec<u8>,
    block: BlockBuf,
    fences: FenceBuf,
    hashes: Vec<u64>,
    /// The first and the last key, each with its keyspace before it.
    first: Vec<u8>,
    last: Vec<u8>,
    last_lsn: Lsn,
    /// Room for the next key.
    key: Vec<u8>,
    totals: Footer,
}

impl RunWriter {
    /// Makes the file.
    ///
    /// # Errors
    /// As the operating system answers; also where the name is taken.
    pub(crate) fn create(fs: &dyn Fs, name: &str) -> Result<Self> {
        let file = fs
            .create(name)
            .map_err(|error| Error::io(format_args!("make the index run {name}"), error))?;
        let totals = Footer {
            lowest: Lsn(u64::MAX),
            ..Footer::default()
        };
        Ok(Self {
            name: name.to_owned(),
            file,
            written: 0,
            buffer: Vec::with_capacity(WRITE_LEN + BLOCK_LEN),
            checks: Vec::new(),
            block: BlockBuf::default(),
            fences: FenceBuf::default(),
            hashes: Vec::new(),
            first: Vec::new(),
            last: Vec::new(),
            last_lsn: Lsn::ZERO,
            key: Vec::new(),
            totals,
        })
    }

    /// Adds a version.
    ///
    /// # Errors
    /// As the operating system answers; `Limit` when the run is as long as one may be.
    ///
    /// # Panics
    /// When it does not belong behind the one before, or its key is over its limit.
    pub(crate) fn push(&mut self, keyspace: u32, key: &[u8], version: Version) -> Result<()> {
        assert!(
            key.len() <= KEY_LEN_MAX,
            "a key of {} bytes in a run",
            key.len()
        );
        self.key.clear();
        self.key
            .extend_from_slice(&keyspace.swap_bytes().to_le_bytes());
        self.key.extend_from_slice(key);
        let shared = common_len(&self.last, &self.key);
        let first = self.totals.entries == 0;
        let same_key = !first && shared == self.key.len() && shared == self.last.len();
        let ascends = match same_key {
            true => version.lsn < self.last_lsn,
            false => first || self.key.get(shared) > self.last.get(shared),
        };
        assert!(
            ascends,
            "{:?} at {} behind {:?} at {} in a run",
            self.key, version.lsn, self.last, self.last_lsn
        );

        let mut fits = self.block.push(&self.key, shared, version);
        if !fits {
            self.finish_block()?;
            fits = self.block.push(&self.key, shared, version);
            self.fences
                .push(&self.last, &self.key, shared, version.lsn.0);
        } else if first {
            self.first.clone_from(&self.key);
            self.fences.push(&[], &self.key, 0, version.lsn.0);
        }
        assert!(
            fits,
            "an empty block has no room for {} bytes",
            self.key.len()
        );

        let totals = &mut self.totals;
        totals.entries += 1;
        totals.deletes += u64::from(version.op == Op::Delete);
        totals.lowest = totals.lowest.min(version.lsn);
        totals.highest = totals.highest.max(version.lsn);
        totals.expires_last_ms = totals.expires_last_ms.max(version.expires_ms);
        if !same_key {
            self.hashes.push(filter::hash(&self.key));
        }
        std::mem::swap(&mut self.key, &mut self.last);
        self.last_lsn = version.lsn;
        Ok(())
    }

    /// About the length that the file would have if it were finished now.
    pub(crate) fn len_bytes(&self) -> u64 {
        let rest = filter::lines(self.hashes.len()) * filter::LINE_LEN + self.fences.len_bytes();
        let pending = usize::from(!self.block.is_empty()) * BLOCK_LEN;
        self.written + (self.buffer.len() + pending + rest + 2 * BLOCK_LEN) as u64
    }

    /// Writes filter, fences, checksums and footer, and fsyncs the file. The directory is its
    /// caller's to fsync.
    ///
    /// # Errors
    /// As the operating system answers. The file is of no use then.
    ///
    /// # Panics
    /// When nothing was added: a run holds a version at least.
    pub(crate) fn finish(mut self) -> Result<RunMeta> {
        assert!(self.totals.entries > 0, "an empty run {}", self.name);
        self.finish_block()?;
        self.totals.entry_blocks = self.blocks();
        self.totals.keys = self.hashes.len() as u64;
        self.write_filter()?;
        self.write_fences()?;
        let checks = std::mem::take(&mut self.checks);
        self.write_blocks(&checks)?;
        self.totals.checks = self.checks.as_chunks().0.to_vec();
        let footer = self.totals.encode();
        self.write_blocks(&footer)?;
        self.flush()?;
        self.file
            .sync()
            .map_err(|error| Error::io(format_args!("sync the index run {}", self.name), error))?;
        let totals = self.totals;
        Ok(RunMeta {
            entries: totals.entries,
            deletes: totals.deletes,
            keys: totals.keys,
            len_bytes: self.written,
            first: RunKey::of_prefixed(&self.first),
            last: RunKey::of_prefixed(&self.last),
            lowest: totals.lowest,
            highest: totals.highest,
            check: totals.check,
            ceiling: Lsn(u64::MAX),
            expires_last_ms: totals.expires_last_ms,
        })
    }

    fn finish_block(&mut self) -> Result<()> {
        let start = self.buffer.len();
        self.block.finish(&mut self.buffer);
        self.check_from(start)?;
        if self.buffer.len() >= WRITE_LEN {
            self.flush()?;
        }
        Ok(())
    }

    fn write_filter(&mut self) -> Result<()> {
        let lines = filter::lines(self.hashes.len());
        self.totals.filter_lines =
            u32::try_from(lines).unwrap_or_else(|_| panic!("{lines} lines of filter in a run"));
        let mut bytes = vec![0; lines * filter::LINE_LEN];
        for hash in &self.hashes {
            let at = filter::line_of(*hash, self.totals.filter_lines) * filter::LINE_LEN;
            if let Some(line) = bytes.get_mut(at..at + filter::LINE_LEN) {
                filter::enter(line, *hash);
            }
        }
        self.write_blocks(&bytes)
    }

    fn write_fences(&mut self) -> Result<()> {
        let common = self.first.get(..common_len(&self.first, &self.last));
        let common = common.unwrap_or_default();
        self.totals.common_len = u16::try_from(common.len())
            .unwrap_or_else(|_| panic!("{} bytes begin all keys", common.len()));
        let mut bytes = Vec::with_capacity(self.fences.len_bytes() + common.len());
        self.fences.finish(common, &mut bytes);
        let before = self.blocks();
        self.write_blocks(&bytes)?;
        self.totals.fence_blocks = self.blocks() - before;
        Ok(())
    }

    /// Adds a part of the file, filled up with zeros.
    fn write_blocks(&mut self, part: &[u8]) -> Result<()> {
        self.flush()?;
        self.buffer.extend_from_slice(part);
        self.buffer
            .resize(part.len().next_multiple_of(BLOCK_LEN), 0);
        self.check_from(0)?;
        self.flush()
    }

    /// Notes the checksums of the buffer's blocks from `start` on.
    fn check_from(&mut self, start: usize) -> Result<()> {
        let blocks = self.buffer.get(start..).unwrap_or_default();
        for block in blocks.chunks(BLOCK_LEN) {
            self.checks
                .extend_from_slice(&crc32fast::hash(block).to_le_bytes());
        }
        if self.checks.len() / 4 > BLOCKS_MAX {
            let message = format!(
                "the index run {} would have more than {BLOCKS_MAX} blocks: write several",
                self.name
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.file
            .write_at(self.written, &self.buffer)
            .map_err(|error| Error::io(format_args!("write the index run {}", self.name), error))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Blocks whose checksums were noted.
    fn blocks(&self) -> u32 {
        let blocks = self.checks.len() / 4;
        u32::try_from(blocks).unwrap_or_else(|_| panic!("{blocks} blocks in a run"))
    }
}

impl RunKey {
    fn of_prefixed(key: &[u8]) -> Self {
        let Some((keyspace, key)) = key.split_first_chunk() else {
            panic!("a key of {} bytes has no keyspace", key.len())
        };
        Self {
            keyspace: u32::from_le_bytes(*keyspace).swap_bytes(),
            key: key.to_vec(),
        }
    }
}
