//! A place in a run that moves in both directions.

use std::ops::Deref;

use super::block::{Block, BlockHead, Spot};
use super::layout::{BLOCK_LEN, PREFIXED_LEN_MAX};
use super::{Run, Version, prefixed};
use crate::error::Result;
use crate::format::Lsn;
use crate::format::limits::KEY_LEN_MAX;
use crate::index::source::Entry;

/// Blocks that are asked of the disk together, by who goes through them in order.
const BLOCKS_AHEAD: usize = 64;

/// A place in a run: at one of its entries, or at none, where it begins and where it ends up after
/// the last one. `R` is what it holds the run by: a reference, or an `Arc` for one that is kept.
///
/// After an error it is at no entry.
#[derive(Debug)]
pub(crate) struct RunCursor<R> {
    run: R,
    /// The block of the entry, and the fixed part of that block.
    block: usize,
    head: BlockHead,
    index: usize,
    /// Where the entry behind begins in the block.
    next: usize,
    /// The entry's key with its keyspace before it.
    key: Vec<u8>,
    version: Option<Version>,
}

impl<R: Deref<Target = Run>> RunCursor<R> {
    /// A cursor at no entry.
    pub(crate) fn new(run: R) -> Self {
        Self {
            run,
            block: 0,
            head: BlockHead::default(),
            index: 0,
            next: 0,
            key: Vec::new(),
            version: None,
        }
    }

    #[cfg(test)]
    pub(crate) fn run(&self) -> &Run {
        &self.run
    }

    /// The entry that it is at.
    #[inline]
    pub(crate) fn entry(&self) -> Option<Entry<'_>> {
        let version = self.version?;
        let (keyspace, key) = self.key.split_first_chunk()?;
        Some(Entry {
            keyspace: u32::from_le_bytes(*keyspace).swap_bytes(),
            key,
            version,
        })
    }

    /// Whether it is at no entry.
    #[inline]
    pub(crate) const fn at_none(&self) -> bool {
        self.version.is_none()
    }

    /// Goes to the first entry.
    ///
    /// # Errors
    /// `Corrupt`, as all moves, when what it must look at does not hold.
    pub(crate) fn first(&mut self) -> Result<()> {
        self.load(0, 0)?;
        self.settle_on()
    }

    /// Goes to the last entry.
    ///
    /// # Errors
    /// As [`RunCursor::first`].
    pub(crate) fn last(&mut self) -> Result<()> {
        self.version = None;
        let block = self.run.parts.filter - 1;
        let last = self.run.block(block)?.entries() - 1;
        self.load(block, last)?;
        self.settle_back()
    }

    /// Goes to the newest version of `key` below `at`; where there is none, to the first entry of a
    /// later key. [`Lsn::ZERO`] is behind all versions.
    ///
    /// # Errors
    /// As [`RunCursor::first`].
    pub(crate) fn seek(&mut self, keyspace: u32, key: &[u8], at: Lsn) -> Result<()> {
        self.version = None;
        let (block, spot) = self.search(keyspace, key, at)?;
        let entries = self.run.block(block)?.entries();
        if spot.index < entries {
            self.load(block, spot.index)?;
        } else if block + 1 < self.run.parts.filter {
            self.load(block + 1, 0)?;
        }
        self.settle_on()
    }

    /// Goes to the last entry before that to which [`RunCursor::seek`] goes.
    ///
    /// # Errors
    /// As [`RunCursor::first`].
    pub(crate) fn seek_before(&mut self, keyspace: u32, key: &[u8], at: Lsn) -> Result<()> {
        self.version = None;
        let (block, spot) = self.search(keyspace, key, at)?;
        match spot.index.checked_sub(1) {
            Some(index) => self.load(block, index)?,
            None => self.load_last_before(block)?,
        }
        self.settle_back()
    }

    /// Goes on to the next entry.
    ///
    /// # Errors
    /// As [`RunCursor::first`].
    #[inline]
    pub(crate) fn next(&mut self) -> Result<()> {
        self.step_on()?;
        self.settle_on()
    }

    /// Goes back to the entry before.
    ///
    /// # Errors
    /// As [`RunCursor::first`].
    pub(crate) fn prev(&mut self) -> Result<()> {
        self.step_back()?;
        self.settle_back()
    }

    /// [`RunCursor::next`], entries above the run's ceiling included.
    #[inline]
    pub(super) fn step_on(&mut self) -> Result<()> {
        if self.version.take().is_none() {
            return Ok(());
        }
        if self.index + 1 == self.head.entries {
            return match self.block + 1 < self.run.parts.filter {
                true => self.load(self.block + 1, 0),
                false => Ok(()),
            };
        }
        let run = &*self.run;
        let moved = run.bytes(self.block).and_then(|bytes| {
            let block = Block::with_head(bytes, self.head);
            step(&block, &mut self.key, self.next)
        });
        let Some((version, next)) = moved else {
            return Err(run.fault(self.block * BLOCK_LEN, "an entry does not decode"));
        };
        self.index += 1;
        self.next = next;
        self.version = Some(version);
        Ok(())
    }

    fn step_back(&mut self) -> Result<()> {
        if self.version.take().is_none() {
            return Ok(());
        }
        match self.index.checked_sub(1) {
            Some(index) => self.load(self.block, index),
            None => self.load_last_before(self.block),
        }
    }

    #[inline]
    fn settle_on(&mut self) -> Result<()> {
        while self.is_hidden() {
            self.step_on()?;
        }
        Ok(())
    }

    fn settle_back(&mut self) -> Result<()> {
        while self.is_hidden() {
            self.step_back()?;
        }
        Ok(())
    }

    #[inline]
    fn is_hidden(&self) -> bool {
        self.version
            .is_some_and(|version| version.lsn >= self.run.meta.ceiling)
    }

    /// The first entry of the file, whatever the ceiling.
    pub(super) fn rewind(&mut self) -> Result<()> {
        self.load(0, 0)
    }

    /// The entry's key with its keyspace before it.
    pub(super) fn prefixed_key(&self) -> &[u8] {
        &self.key
    }

    /// Where the entry's block begins in the file.
    pub(super) const fn block_offset(&self) -> usize {
        self.block * BLOCK_LEN
    }

    /// The block in which an entry is, or behind which it would be.
    fn search(&self, keyspace: u32, key: &[u8], at: Lsn) -> Result<(usize, Spot)> {
        let run = &*self.run;
        let mut room = [0; PREFIXED_LEN_MAX + 1];
        // No key is longer, so that one byte more orders a longer one like the whole.
        let key = key.get(..KEY_LEN_MAX + 1).unwrap_or(key);
        let key = prefixed(keyspace, key, &mut room);
        let newest = at.0.saturating_sub(1);
        let fences = run.fences()?;
        let number = fences
            .locate(key, newest)
            .ok_or_else(|| run.fence_fault())?;
        let spot = run.block(number)?.search(key, newest);
        let fault = || run.fault(number * BLOCK_LEN, "an entry does not decode");
        Ok((number, spot.ok_or_else(fault)?))
    }

    fn load_last_before(&mut self, block: usize) -> Result<()> {
        match block.checked_sub(1) {
            Some(block) => {
                let last = self.run.block(block)?.entries() - 1;
                self.load(block, last)
            }
            None => Ok(()),
        }
    }

    /// Goes to an entry of a block.
    fn load(&mut self, number: usize, index: usize) -> Result<()> {
        self.version = None;
        let run = &*self.run;
        if number == self.block + 1 && number.is_multiple_of(BLOCKS_AHEAD) {
            run.will_need(number, BLOCKS_AHEAD);
        }
        let block = run.block(number)?;
        let fault = || run.fault(number * BLOCK_LEN, "an entry does not decode");
        let (mut at, mut offset) = block.restart_before(index).ok_or_else(fault)?;
        self.key.clear();
        self.key.extend_from_slice(block.prefix());
        loop {
            let (version, next) = step(&block, &mut self.key, offset).ok_or_else(fault)?;
            if at == index {
                self.version = Some(version);
                self.next = next;
                break;
            }
            (at, offset) = (at + 1, next);
        }
        (self.block, self.index, self.head) = (number, index, block.head);
        Ok(())
    }
}

/// Makes `key`, that of the entry before, the key of the entry at `offset`. Answers with its
/// version, and where the next one begins.
#[inline]
fn step(block: &Block<'_>, key: &mut Vec<u8>, offset: usize) -> Option<(Version, usize)> {
    let entry = block.entry(offset)?;
    let shared = block.prefix_len() + entry.shared;
    let len = shared + entry.own.len();
    if shared > key.len() || !(4..=PREFIXED_LEN_MAX).contains(&len) {
        return None;
    }
    key.truncate(shared);
    key.extend_from_slice(entry.own);
    Some((entry.version, entry.next))
}
