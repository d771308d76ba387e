//! The ledger: every commit that a client asked for, what it was to do, and how it ended.

use bytes::Bytes;
use outlast_engine::{CommitError, Committed, ErrorKind, Level, Op, Receipt};

use crate::violation::{Checked, check};

/// The key that names the commit in every batch.
pub(crate) const ID_KEY: &[u8] = b"id";

/// What a client was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Ok(Receipt),
    /// Not in the log, will never be.
    Failed(ErrorKind),
    /// May be there.
    Unknown(Receipt),
    /// The process died before it answered.
    Unheard,
}

/// One operation of a batch, as its commit must show it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Operation {
    /// The keyspace's id.
    pub(crate) keyspace: u32,
    pub(crate) op: Op,
    pub(crate) key: Bytes,
    /// Of a deleted range the first key that stays; empty where there is none.
    pub(crate) value: Bytes,
    /// For how long a put has its value, in log time.
    pub(crate) ttl_ms: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Entry {
    /// The node that was asked.
    pub(crate) node: usize,
    pub(crate) level: Level,
    pub(crate) operations: Vec<Operation>,
    pub(crate) outcome: Option<Outcome>,
    /// Whether any node has shown it.
    seen: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: Vec<Entry>,
}

impl Ledger {
    /// The number that the next commit will have.
    pub(crate) fn next_id(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(crate) fn add(&mut self, node: usize, level: Level, operations: Vec<Operation>) {
        self.entries.push(Entry {
            node,
            level,
            operations,
            outcome: None,
            seen: false,
        });
    }

    /// The receipts of what was answered OK, newest first.
    pub(crate) fn receipts(&self) -> impl Iterator<Item = Receipt> {
        let newest_first = self.entries.iter().rev();
        newest_first.filter_map(|entry| match entry.outcome {
            Some(Outcome::Ok(receipt)) => Some(receipt),
            _ => None,
        })
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (u64, &Entry)> {
        (0..).zip(&self.entries)
    }

    /// Takes the end of commit `id`, which must be its only one.
    pub(crate) fn end(&mut self, id: u64, outcome: Outcome) -> Checked {
        let entry = self.entry(id)?;
        check(entry.outcome.is_none(), "I13", || {
            format!(
                "commit {id} ended as {:?} and then as {outcome:?}",
                entry.outcome
            )
        })?;
        let appears = entry.seen && matches!(outcome, Outcome::Failed(_));
        check(!appears, "I13", || {
            format!("commit {id} ended as {outcome:?} and is readable")
        })?;
        entry.outcome = Some(outcome);
        Ok(())
    }

    /// The client's number in a commit.
    pub(crate) fn id_of(shown: &Committed) -> Option<u64> {
        let mut changes = shown.changes.iter();
        let id = changes.find(|change| change.key == ID_KEY)?;
        Some(u64::from_le_bytes(*id.value.first_chunk::<8>()?))
    }

    /// The drop of a keyspace, which has no client's number in it, by its receipt.
    fn drop_of(&self, shown: &Committed) -> Option<u64> {
        let [change] = shown.changes.as_slice() else {
            return None;
        };
        let dropped = change.keyspace.id();
        let is_it = |(_, entry): &(u64, &Entry)| match (&entry.outcome, entry.operations.as_slice())
        {
            (Some(Outcome::Ok(receipt) | Outcome::Unknown(receipt)), [only]) => {
                (only.op, only.keyspace) == (Op::DropKeyspace, dropped)
                    && (receipt.epoch, receipt.lsn) == (shown.epoch, shown.lsn)
            }
            _ => false,
        };
        self.entries().find(is_it).map(|(id, _)| id)
    }

    /// Compares a commit that a node shows with what a client had asked for. Answers with its id.
    pub(crate) fn compare(&mut self, shown: &Committed) -> Checked<u64> {
        let id = Self::id_of(shown).or_else(|| self.drop_of(shown));
        check(id.is_some(), "I9", || {
            format!("commit {} at {} is no client's", shown.commit, shown.lsn)
        })?;
        let id = id.unwrap_or_default();
        let entry = self.entry(id)?;
        let same = entry.operations.len() == shown.changes.len()
            && entry
                .operations
                .iter()
                .zip(&shown.changes)
                .all(|(asked, change)| {
                    let expires_ms = asked.ttl_ms.map(|ttl_ms| shown.log_ms + ttl_ms);
                    (asked.keyspace, asked.op) == (change.keyspace.id(), change.op)
                        && (&asked.key, &asked.value) == (&change.key, &change.value)
                        && expires_ms == change.expires_ms
                });
        check(same, "I1", || {
            format!("commit {id} is not what its client wrote: {shown:?}")
        })?;
        let receipt = match entry.outcome {
            Some(Outcome::Ok(receipt) | Outcome::Unknown(receipt)) => Some(receipt),
            _ => None,
        };
        let fits = receipt.is_none_or(|receipt| {
            (receipt.epoch, receipt.lsn, receipt.commit) == (shown.epoch, shown.lsn, shown.commit)
        });
        check(fits, "I13", || {
            format!("commit {id} has the receipt {receipt:?} and is shown as {shown:?}")
        })?;
        let failed = matches!(entry.outcome, Some(Outcome::Failed(_)));
        check(!failed, "I13", || {
            format!("commit {id} ended as {:?} and is readable", entry.outcome)
        })?;
        entry.seen = true;
        Ok(id)
    }

    fn entry(&mut self, id: u64) -> Checked<&mut Entry> {
        let index = usize::try_from(id).unwrap_or(usize::MAX);
        let known = self.entries.len();
        self.entries.get_mut(index).ok_or_else(|| {
            let what = format!("commit {id} was never asked for, {known} were");
            crate::violation::Violation::new("I9", what)
        })
    }
}

/// What a client makes of an answer.
pub(crate) fn outcome(answer: Result<Receipt, CommitError>) -> Outcome {
    match answer {
        Ok(receipt) => Outcome::Ok(receipt),
        Err(CommitError::Failed(error)) => Outcome::Failed(error.kind()),
        Err(CommitError::Unknown { receipt, .. }) => Outcome::Unknown(receipt),
        Err(other) => panic!("a commit ended in a way that clients do not know: {other}"),
    }
}
