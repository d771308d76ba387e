//! The keys that some batches write, and the ranges that they delete.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Span;
use crate::format::{Lsn, Op, RecordRef, Records};

/// The newest position at which each key was written, of one frame or one group.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    keyspaces: BTreeMap<u32, BTreeMap<Bytes, Lsn>>,
    ranges: Vec<(Span, Lsn)>,
}

impl Writes {
    /// Adds the records of `batches` batches, which this process has encoded itself and which lie
    /// behind all that was added before.
    pub(crate) fn add(&mut self, payload: &[u8], payload_lsn: Lsn, batches: u32) {
        for placed in Records::new(payload, payload_lsn, batches) {
            let placed = match placed {
                Ok(placed) => placed,
                Err(fault) => panic!("encoded a batch at {payload_lsn} that is none: {fault}"),
            };
            if let Some(span) = range_of(&placed.record) {
                self.ranges.push((span, placed.lsn));
                continue;
            }
            let keys = self.keyspaces.entry(placed.record.keyspace).or_default();
            match keys.get_mut(placed.record.key) {
                Some(newest) => *newest = placed.lsn,
                None => {
                    keys.insert(Bytes::copy_from_slice(placed.record.key), placed.lsn);
                }
            }
        }
    }

    /// The ranges that are deleted, the newest last.
    pub(super) fn ranges(&self) -> &[(Span, Lsn)] {
        &self.ranges
    }

    /// The keys of one keyspace.
    pub(super) fn of(&self, keyspace: u32) -> Option<&BTreeMap<Bytes, Lsn>> {
        self.keyspaces.get(&keyspace)
    }

    /// The keys within a range.
    pub(super) fn within(&self, span: &Span) -> impl Iterator<Item = (&Bytes, Lsn)> {
        let keys = self.of(span.keyspace).filter(|_| !span.is_empty());
        keys.into_iter()
            .flat_map(|keys| keys.range::<[u8], _>(span.bounds()))
            .map(|(key, lsn)| (key, *lsn))
    }
}

/// The keys that a record takes away as a range.
fn range_of(record: &RecordRef<'_>) -> Option<Span> {
    match record.op {
        Op::DeleteRange => {
            let end = Some(record.value).filter(|end| !end.is_empty());
            Some(Span::between(record.keyspace, record.key, end))
        }
        Op::DropKeyspace => Some(Span::between(record.keyspace, &[], None)),
        Op::Put | Op::Delete => None,
    }
}
