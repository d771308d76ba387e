//! What a transaction has read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;

use super::{LostTo, Span, Writes};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Lsn;

/// Keys read one by one, found or not.
pub(crate) const READ_KEYS_MAX: usize = 65_536;
/// Their length in bytes, all together.
pub(crate) const READ_BYTES_MAX: usize = 8 << 20;
/// Ranges; one that is read from both of its ends counts twice.
pub(crate) const READ_RANGES_MAX: usize = 1_024;

/// Keys, and ranges as far as they were read. What was found in them is not kept: that it changed
/// is told by the position of whoever changed it.
#[derive(Debug, Default)]
pub(crate) struct ReadSet {
    keys: BTreeMap<u32, BTreeSet<Bytes>>,
    key_count: usize,
    key_bytes: usize,
    spans: Vec<Span>,
    /// Something was read that is not in here.
    incomplete: bool,
}

/// A range in a read set, which grows while it is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot(usize);

impl ReadSet {
    /// Adds a key.
    ///
    /// # Errors
    /// `Limit`; nothing that was read afterwards may be committed then.
    pub(crate) fn add_key(&mut self, keyspace: u32, key: &[u8]) -> Result<()> {
        let keys = self.keys.entry(keyspace).or_default();
        if keys.contains(key) {
            return Ok(());
        }
        let bytes = self.key_bytes + key.len();
        if self.key_count == READ_KEYS_MAX || bytes > READ_BYTES_MAX {
            self.incomplete = true;
            return Err(too_many_keys());
        }
        keys.insert(Bytes::copy_from_slice(key));
        self.key_count += 1;
        self.key_bytes = bytes;
        Ok(())
    }

    /// Adds a range.
    ///
    /// # Errors
    /// As [`ReadSet::add_key`].
    pub(crate) fn add_span(&mut self, span: Span) -> Result<Slot> {
        if self.spans.len() == READ_RANGES_MAX {
            self.incomplete = true;
            return Err(too_many_ranges());
        }
        self.spans.push(span);
        Ok(Slot(self.spans.len() - 1))
    }

    /// Sets how far up a range was read.
    pub(crate) fn raise(&mut self, slot: Slot, upper: Bound<Bytes>) {
        if let Some(span) = self.spans.get_mut(slot.0) {
            span.upper = upper;
        }
    }

    /// Sets how far down a range was read.
    pub(crate) fn lower(&mut self, slot: Slot, lower: Bound<Bytes>) {
        if let Some(span) = self.spans.get_mut(slot.0) {
            span.lower = lower;
        }
    }

    /// Whether nothing was read.
    pub(crate) fn is_empty(&self) -> bool {
        self.key_count == 0 && self.spans.is_empty()
    }

    /// # Errors
    /// `Limit` when something was read that did not fit.
    pub(crate) fn require_complete(&self) -> Result<()> {
        match self.incomplete {
            false => Ok(()),
            true if self.spans.len() == READ_RANGES_MAX => Err(too_many_ranges()),
            true => Err(too_many_keys()),
        }
    }

    /// The keys, with their keyspaces.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (u32, &Bytes)> {
        self.keys
            .iter()
            .flat_map(|(keyspace, keys)| keys.iter().map(move |key| (*keyspace, key)))
    }

    /// The ranges.
    pub(crate) fn spans(&self) -> impl Iterator<Item = &Span> {
        self.spans.iter().filter(|span| !span.is_empty())
    }

    /// One of `writes`, at or behind `from`, that changes what was read.
    pub(crate) fn lost_to(&self, writes: &Writes, from: Lsn) -> Option<LostTo> {
        let lost = |keyspace, (key, lsn): (&Bytes, Lsn)| {
            let key = Some((keyspace, key.clone()));
            (lsn >= from).then_some(LostTo { lsn, key })
        };
        let of_keys = self.keys.iter().find_map(|(keyspace, read)| {
            let written = writes.of(*keyspace)?;
            // The shorter of the two is gone through.
            if read.len() <= written.len() {
                let mut both = read
                    .iter()
                    .filter_map(|key| Some((key, *written.get(key)?)));
                both.find_map(|entry| lost(*keyspace, entry))
            } else {
                let mut both = written.iter().filter(|(key, _)| read.contains(*key));
                both.find_map(|(key, lsn)| lost(*keyspace, (key, *lsn)))
            }
        });
        let of_spans = || {
            self.spans().find_map(|span| {
                writes
                    .within(span)
                    .find_map(|entry| lost(span.keyspace, entry))
            })
        };
        of_keys.or_else(of_spans).or_else(|| {
            let newer = writes.ranges().iter().filter(|(_, lsn)| *lsn >= from);
            newer.into_iter().find_map(|(deleted, lsn)| {
                let key = self.read_within(deleted)?;
                let (lsn, key) = (*lsn, Some((deleted.keyspace, key)));
                Some(LostTo { lsn, key })
            })
        })
    }

    /// A key that was read and lies within a range, or where a range that was read meets it.
    fn read_within(&self, deleted: &Span) -> Option<Bytes> {
        let keys = self.keys.get(&deleted.keyspace);
        let mut within = keys
            .into_iter()
            .flat_map(|keys| keys.range::<[u8], _>(deleted.bounds()));
        let of_spans = || {
            let bound = self.spans().find_map(|span| span.meets(deleted))?;
            Some(match bound {
                Bound::Included(key) | Bound::Excluded(key) => key.clone(),
                Bound::Unbounded => Bytes::new(),
            })
        };
        within.next().cloned().or_else(of_spans)
    }
}

fn too_many_keys() -> Error {
    let message = format!(
        "the transaction read more than {READ_KEYS_MAX} keys, or {READ_BYTES_MAX} bytes of keys, one \
         by one: read them as a range, or split the transaction"
    );
    Error::new(ErrorKind::Limit, message)
}

fn too_many_ranges() -> Error {
    let message = format!(
        "the transaction read more than {READ_RANGES_MAX} ranges: read wider ones, or split it"
    );
    Error::new(ErrorKind::Limit, message)
}
