//! Whether reads of one position hold at a later one, by the index: without the writer.

use std::sync::Arc;

use crate::conflict::{LostTo, ReadSet, Span};
use crate::error::Result;
use crate::format::Lsn;
use crate::index::{Cursor, Direction, Found, Index, KeyRange, Moment};
use crate::store::Shared;

/// Keys of a range that are compared at once.
const PORTION_LEN: usize = 256;

/// Checks that what was read at `at`, which is pinned, is the same at `end`, up to which the index
/// is complete.
///
/// # Errors
/// `TransactionConflict`; `Corrupt`, `Io` when the index cannot be read.
pub(super) fn unchanged(shared: &Shared, reads: &ReadSet, at: Moment, end: Lsn) -> Result<()> {
    if at.lsn >= end {
        return Ok(());
    }
    let index = shared.state.index();
    for (keyspace, key) in reads.keys() {
        let newest = index.get(keyspace, key, end)?;
        if let Some(version) = newest.filter(|version| version.lsn >= at.lsn) {
            let (lsn, key) = (version.lsn, Some((keyspace, key.clone())));
            return Err(LostTo { lsn, key }.into());
        }
    }
    reads
        .spans()
        .try_for_each(|span| same(&index, span, at, end))
}

/// Compares a range at two positions: a key that came, went or was written again tells them apart.
fn same(index: &Arc<Index>, span: &Span, at: Moment, end: Lsn) -> Result<()> {
    // By one log time: that a put expires is no write.
    let keys_at = |lsn| {
        let range = KeyRange {
            keyspace: span.keyspace,
            lower: span.lower.clone(),
            upper: span.upper.clone(),
            at: Moment { lsn, ..at },
        };
        Cursor::new(index.clone(), range)
    };
    let (mut before, mut after) = (keys_at(at.lsn), keys_at(end));
    loop {
        // Equal portions leave both at the same key.
        let old = before.take(Direction::Forward, PORTION_LEN)?;
        let new = after.take(Direction::Forward, PORTION_LEN)?;
        if old != new {
            return Err(difference(index, span.keyspace, &old, &new, end)?.into());
        }
        if old.is_empty() {
            return Ok(());
        }
    }
}

/// The entry that makes the first difference.
fn difference(
    index: &Index,
    keyspace: u32,
    old: &[Found],
    new: &[Found],
    end: Lsn,
) -> Result<LostTo> {
    let equal = old.iter().zip(new).take_while(|(old, new)| old == new);
    let at = equal.count();
    let (old, new) = (old.get(at), new.get(at));
    let gone = old.filter(|old| new.is_none_or(|new| old.key < new.key));
    let (key, lsn) = match (gone, new) {
        (Some(gone), _) => {
            let delete = index.get(keyspace, &gone.key, end)?;
            (
                gone.key.clone(),
                delete.map_or(Lsn(end.0 - 1), |delete| delete.lsn),
            )
        }
        (None, Some(new)) => (new.key.clone(), new.version.lsn),
        (None, None) => panic!("two equal portions of keyspace {keyspace} were told apart"),
    };
    let key = Some((keyspace, key));
    Ok(LostTo { lsn, key })
}
