//! Runs: sorted, immutable files of versions, the index on disk.
//!
//! A run is written once, in the order keyspace, key, newest version first, and then only read,
//! through one memory map. What a reader touches is checked against its checksum at its first touch
//! in this map and not again, so a warm read costs no checksum and opening costs one block:
//!
//! ```text
//! manifest ── check of the footer ── checks of check blocks ── checks of all other blocks
//! ```
//! So a block that is damaged, stale, or another run's is found before anything in it is believed.
//! An open run takes one bit of anonymous memory a block: filter and fences are used where they are
//! mapped.
//!
//! Inside, a key is its keyspace (4 bytes, the highest first) and its bytes behind it, so that one
//! comparison of bytes gives the order.

mod block;
mod cursor;
mod fence;
#[cfg(test)]
mod figures;
mod filter;
mod layout;
#[cfg(test)]
mod tests;
mod verified;
mod writer;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::block::Block;
use self::fence::Fences;
use self::layout::{BLOCK_LEN, Footer, PREFIXED_LEN_MAX, Parts};
use self::verified::Verified;
use super::Version;
use crate::error::{Error, ErrorKind, Result};
use crate::format::limits::KEY_LEN_MAX;
use crate::format::{Lsn, Op};
use crate::fs::{Access, Fs, MapPages, is_resident, prefetch, will_need};

pub(crate) use self::cursor::RunCursor;
pub(crate) use self::writer::RunWriter;

/// Longest key, its keyspace before it, for which a get takes the small buffer: clearing the large
/// one takes longer than many a search.
const SHORT_LEN_MAX: usize = 64;

/// Lines of memory at the beginning of a block that a search in it reads: header and heads.
const HEAD_LINES: usize = 4;

/// What is known of a run without opening it. Kept by whoever lists the runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct RunMeta {
    /// Versions, deletes included.
    pub(crate) entries: u64,
    /// Versions that are deletes.
    pub(crate) deletes: u64,
    /// Different keys.
    pub(crate) keys: u64,
    /// Length of the file in bytes.
    pub(crate) len_bytes: u64,
    pub(crate) first: RunKey,
    pub(crate) last: RunKey,
    /// Lowest LSN of a version.
    pub(crate) lowest: Lsn,
    /// Highest LSN of a version.
    pub(crate) highest: Lsn,
    /// Checksum of the footer, and through it of every byte of the file.
    pub(crate) check: u32,
    /// Versions at or above this position do not count: they lie behind where this node's history
    /// left another's, and their positions are used again. The highest position when all do. Unlike
    /// the rest it may be lowered for a file that is there.
    pub(crate) ceiling: Lsn,
    /// When the last of the puts expires, as log time in milliseconds; 0 if none does.
    pub(crate) expires_last_ms: u64,
}

/// A key with its keyspace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct RunKey {
    pub(crate) keyspace: u32,
    pub(crate) key: Vec<u8>,
}

/// An open run. Read by any number of threads at once.
#[derive(Debug)]
pub(crate) struct Run {
    name: String,
    meta: RunMeta,
    map: Bytes,
    footer: Footer,
    parts: Parts,
    verified: Verified,
}

impl Run {
    /// Opens a run that `meta` describes. Reads its footer and nothing else.
    ///
    /// # Errors
    /// `Corrupt` when it is not the file that `meta` describes, `Incompatible` when a later program
    /// wrote it, `Io` when it cannot be mapped.
    pub(crate) fn open(fs: &dyn Fs, name: &str, meta: &RunMeta) -> Result<Self> {
        let map = fs
            .open(name, Access::Read)
            .and_then(|file| file.map(MapPages::WhenRead))
            .map_err(|error| Error::io(format_args!("map the index run {name}"), error))?;
        let footer_at = map.len().saturating_sub(BLOCK_LEN);
        let refuse = |fault: String| damaged(name, footer_at, &fault);
        if map.len() as u64 != meta.len_bytes {
            let (have, need) = (map.len(), meta.len_bytes);
            return Err(refuse(format!("it has {have} bytes where {need} belong")));
        }
        let block = map.get(footer_at..).unwrap_or_default();
        let footer = Footer::decode(block, name)?;
        let parts = footer
            .parts(map.len())
            .ok_or_else(|| refuse("the parts that it names are not the file".into()))?;
        if footer.check != meta.check || !footer.agrees(meta) {
            return Err(refuse("it is another run's".into()));
        }
        Ok(Self {
            name: name.to_owned(),
            meta: meta.clone(),
            verified: Verified::new(parts.footer),
            map,
            footer,
            parts,
        })
    }

    pub(crate) const fn meta(&self) -> &RunMeta {
        &self.meta
    }

    /// Whether it probably lies in memory: a few places of it do.
    pub(crate) fn is_resident(&self) -> bool {
        const PLACES: usize = 16;
        let step = (self.map.len() / PLACES).max(BLOCK_LEN);
        let places = (0..self.map.len()).step_by(step);
        let mut places = places.filter_map(|at| self.map.get(at..=at));
        places.all(is_resident)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The newest version of `key` below `at`, a delete included. Allocates nothing.
    ///
    /// # Errors
    /// `Corrupt` when what it must look at does not hold.
    pub(crate) fn get(&self, keyspace: u32, key: &[u8], at: Lsn) -> Result<Option<Version>> {
        let Some(newest) = at.min(self.meta.ceiling).0.checked_sub(1) else {
            return Ok(None);
        };
        if key.len() + 4 <= SHORT_LEN_MAX {
            let mut room = [0; SHORT_LEN_MAX];
            self.find_filtered(prefixed(keyspace, key, &mut room), newest)
        } else if key.len() <= KEY_LEN_MAX {
            self.find_long(keyspace, key, newest)
        } else {
            Ok(None)
        }
    }

    /// Checks every byte of the file, and that the entries are in their order and as many as the
    /// footer says.
    ///
    /// # Errors
    /// `Corrupt` with the first fault.
    pub(crate) fn verify(&self) -> Result<()> {
        for block in 0..self.parts.footer {
            // Anew, whatever was seen before: rot comes later, too.
            self.check_block(block)?;
        }
        let mut cursor = RunCursor::new(self);
        let (mut entries, mut deletes, mut keys) = (0, 0, 0);
        let (mut lowest, mut highest) = (Lsn(u64::MAX), Lsn::ZERO);
        let mut expires_last_ms = 0;
        let mut before: Option<(Vec<u8>, Lsn)> = None;
        cursor.rewind()?;
        while let Some(entry) = cursor.entry() {
            let (at, version) = (cursor.block_offset(), entry.version);
            let same_key = before
                .as_ref()
                .is_some_and(|(key, lsn)| *key == cursor.prefixed_key() && *lsn > version.lsn);
            let next_key = before
                .as_ref()
                .is_none_or(|(key, _)| &**key < cursor.prefixed_key());
            if !same_key && !next_key {
                return Err(self.fault(at, "its entries are not in their order"));
            }
            let hash = filter::hash(cursor.prefixed_key());
            if !self.passes(self.filter_line(hash), hash)? {
                return Err(self.fault(at, "the filter lacks one of its keys"));
            }
            if next_key && self.find(cursor.prefixed_key(), u64::MAX)? != Some(version) {
                return Err(self.fault(at, "the fences do not lead to one of its keys"));
            }
            entries += 1;
            deletes += u64::from(version.op == Op::Delete);
            keys += u64::from(next_key);
            lowest = lowest.min(version.lsn);
            highest = highest.max(version.lsn);
            expires_last_ms = expires_last_ms.max(version.expires_ms);
            before = Some((cursor.prefixed_key().to_vec(), version.lsn));
            cursor.step_on()?;
        }
        let meta = &self.meta;
        let counted = (entries, deletes, keys, lowest, highest, expires_last_ms);
        let listed = (
            meta.entries,
            meta.deletes,
            meta.keys,
            meta.lowest,
            meta.highest,
            meta.expires_last_ms,
        );
        if counted != listed {
            let fault = format!("it holds {counted:?} where it says {listed:?}");
            return Err(damaged(&self.name, self.parts.footer * BLOCK_LEN, &fault));
        }
        Ok(())
    }

    #[inline(never)]
    fn find_long(&self, keyspace: u32, key: &[u8], newest: u64) -> Result<Option<Version>> {
        let mut room = [0; PREFIXED_LEN_MAX];
        self.find_filtered(prefixed(keyspace, key, &mut room), newest)
    }

    /// What [`Run::find`] finds, if the filter lets the key pass.
    ///
    /// Nearly all of a get's time is waiting for memory, so the line of the filter is asked for
    /// before the fences are searched, and the head of the block before the filter is looked at.
    fn find_filtered(&self, key: &[u8], newest: u64) -> Result<Option<Version>> {
        let hash = filter::hash(key);
        let line = self.filter_line(hash);
        prefetch(self.map.get(line..).unwrap_or_default());
        let fences = self.fences()?;
        let number = self.locate(&fences, key, newest)?;
        let lines = self.bytes(number).map_or(&[][..], |block| block);
        let lines = lines.chunks(filter::LINE_LEN).take(HEAD_LINES);
        lines.for_each(prefetch);
        if !self.passes(line, hash)? {
            return Ok(None);
        }
        self.find_from(&fences, number, key, newest)
    }

    /// The first version of `key` that is not above `newest`.
    fn find(&self, key: &[u8], newest: u64) -> Result<Option<Version>> {
        let fences = self.fences()?;
        let number = self.locate(&fences, key, newest)?;
        self.find_from(&fences, number, key, newest)
    }

    fn locate(&self, fences: &Fences<'_>, key: &[u8], newest: u64) -> Result<usize> {
        let number = fences.locate(key, newest);
        number.ok_or_else(|| self.fence_fault())
    }

    fn find_from(
        &self,
        fences: &Fences<'_>,
        number: usize,
        key: &[u8],
        newest: u64,
    ) -> Result<Option<Version>> {
        let block = self.block(number)?;
        let fault = |number| self.fault(number * BLOCK_LEN, "an entry does not decode");
        let spot = block.search(key, newest).ok_or_else(|| fault(number))?;
        if spot.index < block.entries() {
            return Ok(spot.version);
        }
        // All versions of the key in this block are too new; the next block may go on with it.
        if !fences.continues(number + 1) {
            return Ok(None);
        }
        let block = self.block(number + 1)?;
        let spot = block.search(key, newest).ok_or_else(|| fault(number + 1))?;
        Ok(spot.version)
    }

    /// Where in the file the line of the filter lies.
    fn filter_line(&self, hash: u64) -> usize {
        let line = filter::line_of(hash, self.footer.filter_lines);
        self.parts.filter * BLOCK_LEN + line * filter::LINE_LEN
    }

    /// Whether the filter's line at `offset` lets a key pass.
    fn passes(&self, offset: usize, hash: u64) -> Result<bool> {
        self.verify_block(offset / BLOCK_LEN)?;
        let line = self.map.get(offset..).and_then(<[u8]>::first_chunk);
        match line {
            Some(line) => Ok(filter::holds(line, hash)),
            None => Err(self.fault(offset, "the filter ends early")),
        }
    }

    /// The fences, all of them checked.
    fn fences(&self) -> Result<Fences<'_>> {
        if !self.verified.fences() {
            for block in self.parts.fences..self.parts.checks {
                self.verify_block(block)?;
            }
            self.verified.set_fences();
        }
        let bytes = self
            .map
            .get(self.parts.fences * BLOCK_LEN..self.parts.checks * BLOCK_LEN);
        bytes
            .and_then(|bytes| Fences::new(bytes, self.parts.filter, self.footer.common_len.into()))
            .ok_or_else(|| self.fence_fault())
    }

    /// A block of entries, checked.
    fn block(&self, number: usize) -> Result<Block<'_>> {
        self.verify_block(number)?;
        self.bytes(number)
            .and_then(Block::new)
            .ok_or_else(|| self.fault(number * BLOCK_LEN, "its head does not decode"))
    }

    /// Begins to read `count` blocks of entries from one on, as far as they are not in memory.
    fn will_need(&self, number: usize, count: usize) {
        let end = (number + count).min(self.parts.filter) * BLOCK_LEN;
        let blocks = self.map.get(number * BLOCK_LEN..end);
        will_need(blocks.unwrap_or_default());
    }

    /// The bytes of a block that was checked before.
    fn bytes(&self, number: usize) -> Option<&[u8; BLOCK_LEN]> {
        self.map.get(number * BLOCK_LEN..)?.first_chunk()
    }

    fn verify_block(&self, number: usize) -> Result<()> {
        if self.verified.get(number) {
            return Ok(());
        }
        self.check_block(number)
    }

    /// Compares a block with its checksum, and the block of checksums with its own before.
    #[cold]
    fn check_block(&self, number: usize) -> Result<()> {
        let holds = |number: usize, check: Option<[u8; 4]>| {
            let actual = self.bytes(number).map(|block| crc32fast::hash(block));
            if actual.is_none() || actual.map(u32::to_le_bytes) != check {
                return Err(self.fault(number * BLOCK_LEN, "its checksum does not hold"));
            }
            self.verified.set(number);
            Ok(())
        };
        if let Some(check_block) = number.checked_sub(self.parts.checks) {
            return holds(number, self.footer.checks.get(check_block).copied());
        }
        let (check_block, entry) = layout::check_place(number);
        self.verify_block(self.parts.checks + check_block)?;
        let checks = self.bytes(self.parts.checks + check_block);
        let check = checks.and_then(|block| block.as_chunks().0.get(entry).copied());
        holds(number, check)
    }

    #[cold]
    fn fence_fault(&self) -> Error {
        self.fault(self.parts.fences * BLOCK_LEN, "the fences do not decode")
    }

    #[cold]
    fn fault(&self, offset: usize, what: &str) -> Error {
        damaged(&self.name, offset / BLOCK_LEN * BLOCK_LEN, what)
    }
}

/// The key with its keyspace before it, in `room`, which is long enough.
fn prefixed<'a>(keyspace: u32, key: &[u8], room: &'a mut [u8]) -> &'a [u8] {
    let len = key.len() + 4;
    assert!(len <= room.len(), "{len} bytes of key for {}", room.len());
    let (head, rest) = room.split_at_mut(4);
    head.copy_from_slice(&keyspace.swap_bytes().to_le_bytes());
    rest.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    room.get(..len).unwrap_or_default()
}

/// The first eight bytes as a number in their order, filled up with zeros.
#[inline]
pub(super) fn head(bytes: &[u8]) -> u64 {
    if let Some(head) = bytes.first_chunk() {
        return u64::from_le_bytes(*head).swap_bytes();
    }
    let mut head = [0; 8];
    head.iter_mut()
        .zip(bytes)
        .for_each(|(to, from)| *to = *from);
    u64::from_le_bytes(head).swap_bytes()
}

/// Length of what two strings of bytes begin with alike.
fn common_len(a: &[u8], b: &[u8]) -> usize {
    let (a8, b8) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    for (n, (x, y)) in a8.iter().zip(b8).enumerate() {
        let differ = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if differ != 0 {
            return n * 8 + differ.trailing_zeros() as usize / 8;
        }
    }
    let done = a8.len().min(b8.len()) * 8;
    let (a, b) = (a.get(done..), b.get(done..));
    let pairs = a.unwrap_or_default().iter().zip(b.unwrap_or_default());
    done + pairs.take_while(|(x, y)| x == y).count()
}

fn damaged(name: &str, offset: usize, what: &str) -> Error {
    let message = format!(
        "the index run {name} does not hold at offset {offset} ({what}): no data is lost, the \
         index is derived from the log and has to be built again"
    );
    Error::new(ErrorKind::Corrupt, message)
}
