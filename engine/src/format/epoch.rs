//! Epochs and the history that they form.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::control::ControlFault;
use super::ids::{EpochId, Lsn, NodeId};
use super::limits::{EPOCHS_MAX, NODE_NAME_LEN_MAX, NOTE_LEN_MAX};

/// Why an epoch began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EpochReason {
    /// The first epoch of a cluster.
    Init,
    /// The same writer started again.
    Restart,
    /// A standby was promoted.
    Promotion,
    /// A restarted writer was told by an operator not to wait for its standby.
    ResumeAlone,
}

/// One uninterrupted tenure of one writer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Raised by a change of roles, and by nothing else.
    pub term: u32,
    /// Raised by every start of a writer, never reset.
    pub start: u32,
    /// The epoch's identity.
    pub id: EpochId,
    /// The epoch before it; [`EpochId::NONE`] for the first.
    pub parent: EpochId,
    /// The epoch that raised the term: this one, or the first of its term.
    pub opened_by: EpochId,
    /// Where the parent ends and this epoch's own frame begins.
    pub fork: Lsn,
    /// The writer.
    pub node: NodeId,
    /// The writer's name, for people.
    pub node_name: String,
    /// Why it began.
    pub reason: EpochReason,
    /// What the operator said, if anything.
    pub note: String,
    /// The writer's wall clock in milliseconds since 1970, for people.
    pub wall_ms: u64,
}

impl EpochRecord {
    /// The record in the payload of its frame.
    ///
    /// # Errors
    /// When the payload is another thing.
    pub fn decode(payload: &[u8]) -> Result<Self, ControlFault> {
        super::control::decode(payload)
    }

    /// The order of epochs: the term first, then the start.
    #[must_use]
    pub const fn order(&self) -> (u32, u32) {
        (self.term, self.start)
    }

    /// Whether the texts keep their limits.
    #[must_use]
    pub fn within_limits(&self) -> bool {
        self.node_name.len() <= NODE_NAME_LEN_MAX && self.note.len() <= NOTE_LEN_MAX
    }
}

/// An epoch that does not continue a history.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum HistoryFault {
    /// The parent is not the newest epoch.
    #[error("epoch {id} names parent {parent}, but the newest epoch here is {newest}")]
    Parent {
        /// The refused epoch.
        id: EpochId,
        /// The parent that it names.
        parent: EpochId,
        /// The newest epoch of the history.
        newest: EpochId,
    },
    /// Its number is not above the newest one's, or its term was opened by a stranger.
    #[error("epoch {id} (term {term}, start {start}) does not follow its parent's number")]
    Order {
        /// The refused epoch.
        id: EpochId,
        /// Its term.
        term: u32,
        /// Its start.
        start: u32,
    },
    /// It forks before its parent began, or holds no id.
    #[error("epoch {id} forks at {fork}, before its parent began")]
    Fork {
        /// The refused epoch.
        id: EpochId,
        /// Where it says that it forks.
        fork: Lsn,
    },
    /// More epochs than a history may hold, or a text over its limit.
    #[error("epoch {id} breaks a limit: {EPOCHS_MAX} epochs, names and notes of bounded length")]
    Limit {
        /// The refused epoch.
        id: EpochId,
    },
}

/// The last position that two logs share.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CommonPoint {
    /// Both logs hold the same bytes up to here.
    pub lsn: Lsn,
    /// The epoch of those last bytes; [`EpochId::NONE`] when nothing is shared.
    pub epoch: EpochId,
}

/// The epochs of a log, oldest first.
///
/// Invariants, held by [`History::push`] and asserted by nothing else:
/// 1. the first epoch has no parent and forks at 0; every other one names the one before it;
/// 2. forks never decrease, and (term, start) increases strictly;
/// 3. an epoch that does not raise the term was opened by the same epoch as its parent.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<EpochRecord>", into = "Vec<EpochRecord>")]
pub struct History {
    epochs: Vec<EpochRecord>,
}

impl History {
    /// The history of a log that nobody has written.
    #[must_use]
    pub const fn new() -> Self {
        Self { epochs: Vec::new() }
    }

    /// Adds the epoch that begins now.
    ///
    /// # Errors
    /// When `record` does not continue this history.
    pub fn push(&mut self, record: EpochRecord) -> Result<(), HistoryFault> {
        if self.find(record.id).is_some() {
            let (id, fork) = (record.id, record.fork);
            return Err(HistoryFault::Fork { id, fork });
        }
        self.push_new(record)
    }

    /// Adds an epoch whose id is known to be none of those that are there.
    fn push_new(&mut self, record: EpochRecord) -> Result<(), HistoryFault> {
        let id = record.id;
        let newest = self.last().map_or(EpochId::NONE, |last| last.id);
        if self.epochs.len() >= EPOCHS_MAX || !record.within_limits() {
            return Err(HistoryFault::Limit { id });
        }
        if record.parent != newest {
            return Err(HistoryFault::Parent {
                id,
                parent: record.parent,
                newest,
            });
        }
        let fork_least = self.last().map_or(Lsn::ZERO, |last| last.fork.advance(1));
        let fork_fits = if self.epochs.is_empty() {
            record.fork == Lsn::ZERO
        } else {
            record.fork >= fork_least
        };
        if !fork_fits || id == EpochId::NONE {
            return Err(HistoryFault::Fork {
                id,
                fork: record.fork,
            });
        }
        let order = HistoryFault::Order {
            id,
            term: record.term,
            start: record.start,
        };
        let follows = match self.last() {
            None => record.term >= 1 && record.start >= 1 && record.opened_by == id,
            Some(last) if record.term == last.term => {
                record.start > last.start && record.opened_by == last.opened_by
            }
            Some(last) => {
                record.term > last.term && record.start > last.start && record.opened_by == id
            }
        };
        if !follows {
            return Err(order);
        }
        self.epochs.push(record);
        Ok(())
    }

    /// The epochs, oldest first.
    #[must_use]
    pub fn epochs(&self) -> &[EpochRecord] {
        &self.epochs
    }

    /// The newest epoch.
    #[must_use]
    pub fn last(&self) -> Option<&EpochRecord> {
        self.epochs.last()
    }

    /// The newest term; 0 before the first epoch.
    #[must_use]
    pub fn term(&self) -> u32 {
        self.last().map_or(0, |last| last.term)
    }

    /// The epoch with this id.
    #[must_use]
    pub fn find(&self, id: EpochId) -> Option<&EpochRecord> {
        self.epochs.iter().rev().find(|epoch| epoch.id == id)
    }

    /// The epoch that the byte at `lsn` belongs to.
    #[must_use]
    pub fn epoch_at(&self, lsn: Lsn) -> Option<&EpochRecord> {
        self.epochs.iter().rev().find(|epoch| epoch.fork <= lsn)
    }

    /// The epoch that the last byte before `end` belongs to.
    #[must_use]
    pub fn epoch_before(&self, end: Lsn) -> Option<&EpochRecord> {
        self.epochs.iter().rev().find(|epoch| epoch.fork < end)
    }

    /// Where `id` ends in this history: the next epoch's fork, or `end` for the newest one.
    #[must_use]
    pub fn end_of(&self, id: EpochId, end: Lsn) -> Option<Lsn> {
        let index = self.epochs.iter().position(|epoch| epoch.id == id)?;
        Some(self.epochs.get(index + 1).map_or(end, |next| next.fork))
    }

    /// The history of the log cut at `end`: epochs whose own frame begins there or later are gone.
    #[must_use]
    pub fn cut(&self, end: Lsn) -> Self {
        Self {
            epochs: self
                .epochs
                .iter()
                .filter(|epoch| epoch.fork < end)
                .cloned()
                .collect(),
        }
    }

    /// The last position that this log, which ends at `end`, shares with another.
    ///
    /// Positions alone prove nothing: after a fork the same LSN names other bytes. Two logs share
    /// what lies in epochs that both have, up to where the first of them leaves the last such
    /// epoch.
    #[must_use]
    pub fn common_point(&self, end: Lsn, other: &Self, other_end: Lsn) -> CommonPoint {
        let shared = self
            .epochs
            .iter()
            .zip(&other.epochs)
            .take_while(|(ours, theirs)| ours.id == theirs.id && ours.fork == theirs.fork)
            .last();
        let Some((epoch, _)) = shared else {
            return CommonPoint {
                lsn: Lsn::ZERO,
                epoch: EpochId::NONE,
            };
        };
        let leaves = |history: &Self, end: Lsn| history.end_of(epoch.id, end).unwrap_or(end);
        let lsn = leaves(self, end)
            .min(leaves(other, other_end))
            .min(end)
            .min(other_end);
        let epoch = self
            .epoch_before(lsn)
            .map_or(EpochId::NONE, |epoch| epoch.id);
        CommonPoint { lsn, epoch }
    }
}

impl TryFrom<Vec<EpochRecord>> for History {
    type Error = HistoryFault;

    fn try_from(records: Vec<EpochRecord>) -> Result<Self, HistoryFault> {
        let mut history = Self::new();
        // A set for all of them: looking through the history for each is quadratic, and the longest
        // history took minutes to read.
        let mut ids = HashSet::with_capacity(records.len().min(EPOCHS_MAX));
        for record in records {
            let (id, fork) = (record.id, record.fork);
            if !ids.insert(id) {
                return Err(HistoryFault::Fork { id, fork });
            }
            history.push_new(record)?;
        }
        Ok(history)
    }
}

impl From<History> for Vec<EpochRecord> {
    fn from(history: History) -> Self {
        history.epochs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(term: u32, start: u32, id: u8, parent: u8, opened_by: u8, fork: u64) -> EpochRecord {
        EpochRecord {
            term,
            start,
            id: EpochId([id; 16]),
            parent: EpochId([parent; 16]),
            opened_by: EpochId([opened_by; 16]),
            fork: Lsn(fork),
            node: NodeId::NONE,
            node_name: "a".into(),
            reason: EpochReason::Restart,
            note: String::new(),
            wall_ms: 0,
        }
    }

    fn history(records: &[EpochRecord]) -> History {
        History::try_from(records.to_vec()).unwrap()
    }

    #[test]
    fn refuses_what_does_not_continue_it() {
        let mut h = history(&[record(1, 1, 1, 0, 1, 0)]);
        assert!(matches!(
            h.push(record(1, 2, 2, 9, 1, 10)),
            Err(HistoryFault::Parent { .. })
        ));
        assert!(matches!(
            h.push(record(1, 1, 2, 1, 1, 10)),
            Err(HistoryFault::Order { .. })
        ));
        assert!(matches!(
            h.push(record(1, 2, 2, 1, 2, 10)),
            Err(HistoryFault::Order { .. })
        ));
        assert!(matches!(
            h.push(record(2, 2, 2, 1, 1, 10)),
            Err(HistoryFault::Order { .. })
        ));
        assert!(matches!(
            h.push(record(1, 2, 2, 1, 1, 0)),
            Err(HistoryFault::Fork { .. })
        ));
        assert!(matches!(
            h.push(record(1, 2, 1, 1, 1, 10)),
            Err(HistoryFault::Fork { .. })
        ));
        h.push(record(1, 2, 2, 1, 1, 10)).unwrap();
        h.push(record(2, 3, 3, 2, 3, 20)).unwrap();
        assert_eq!(h.term(), 2);
    }

    #[test]
    fn the_longest_history_is_read_at_once_and_no_id_comes_twice() {
        let id = |n: u32| EpochId(std::array::from_fn(|i| n.to_le_bytes()[i % 4]));
        let records: Vec<_> = (1..=100_000u32)
            .map(|n| EpochRecord {
                start: n,
                id: id(n),
                parent: if n == 1 { EpochId::NONE } else { id(n - 1) },
                opened_by: id(1),
                fork: Lsn(u64::from(n - 1) * 8),
                ..record(1, 1, 1, 0, 1, 0)
            })
            .collect();
        let bytes = postcard::to_stdvec(&records).unwrap();
        let before = std::time::Instant::now();
        let history: History = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(history.epochs().len(), EPOCHS_MAX);
        let took = before.elapsed();
        assert!(took.as_secs() < 5, "{took:?}");
        let mut twice = records;
        twice[50_000].id = id(7);
        assert!(History::try_from(twice).is_err());
    }

    #[test]
    fn finds_the_epoch_of_a_byte_and_of_an_end() {
        let h = history(&[record(1, 1, 1, 0, 1, 0), record(1, 2, 2, 1, 1, 100)]);
        assert_eq!(h.epoch_at(Lsn(99)).unwrap().id, EpochId([1; 16]));
        assert_eq!(h.epoch_at(Lsn(100)).unwrap().id, EpochId([2; 16]));
        assert_eq!(h.epoch_before(Lsn(100)).unwrap().id, EpochId([1; 16]));
        assert!(h.epoch_before(Lsn(0)).is_none());
        assert_eq!(h.cut(Lsn(100)).epochs().len(), 1);
        assert_eq!(h.cut(Lsn(101)).epochs().len(), 2);
    }

    #[test]
    fn common_point_is_where_the_first_log_leaves_the_last_shared_epoch() {
        let base = record(1, 1, 1, 0, 1, 0);
        let ours = history(&[base.clone(), record(1, 2, 2, 1, 1, 100)]);
        let promoted = history(&[base.clone(), record(2, 2, 3, 1, 3, 80)]);
        let behind = history(&[base]);
        let point = |lsn, id| CommonPoint {
            lsn: Lsn(lsn),
            epoch: EpochId([id; 16]),
        };
        // A fork: the promoted side left epoch 1 at 80.
        assert_eq!(
            ours.common_point(Lsn(150), &promoted, Lsn(300)),
            point(80, 1)
        );
        assert_eq!(
            promoted.common_point(Lsn(300), &ours, Lsn(150)),
            point(80, 1)
        );
        // A prefix that has not seen the second epoch yet.
        assert_eq!(ours.common_point(Lsn(150), &behind, Lsn(60)), point(60, 1));
        // One that got further in an epoch that its writer left earlier: lost tail or fork.
        assert_eq!(
            ours.common_point(Lsn(150), &behind, Lsn(120)),
            point(100, 1)
        );
        // Equal numbers, other ids: nothing in common.
        let stranger = history(&[record(1, 1, 7, 0, 7, 0)]);
        assert_eq!(
            ours.common_point(Lsn(150), &stranger, Lsn(150)),
            point(0, 0)
        );
        assert_eq!(
            ours.common_point(Lsn(150), &History::new(), Lsn(0)),
            point(0, 0)
        );
    }
}
