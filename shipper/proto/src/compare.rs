//! How two logs lie to each other: decided by their epochs, never by positions alone.

use outlast_engine::format::{CommonPoint, History, Lsn};

use crate::points::LogEnd;

/// How a standby's log lies to its primary's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Relation {
    /// The standby's log is a prefix of the primary's, or equal to it.
    Prefix,
    /// The primary's log is a proper prefix of the standby's: the primary lost a tail.
    StandbyAhead,
    /// The primary's history holds an epoch that forks below the standby's end, and that the
    /// standby does not have. This, and nothing else, proves that the standby's bytes behind the
    /// fork are in no history that goes on.
    Forked(CommonPoint),
    /// The standby's log goes on in an epoch that the primary does not have, where the primary's
    /// own goes on in the epoch before. No two sound nodes of one term come to this.
    UnknownEpoch(CommonPoint),
}

/// Compares a primary's log with its standby's.
pub(crate) fn relate(
    (primary, primary_end): (&History, Lsn),
    (standby, standby_end): (&History, Lsn),
) -> Relation {
    let common = primary.common_point(primary_end, standby, standby_end);
    if common.lsn == standby_end {
        return Relation::Prefix;
    }
    let shared = primary
        .epochs()
        .iter()
        .zip(standby.epochs())
        .take_while(|(ours, theirs)| ours.id == theirs.id && ours.fork == theirs.fork)
        .count();
    let parted = primary.epochs().get(shared);
    if parted.is_some_and(|epoch| epoch.fork < standby_end) {
        Relation::Forked(common)
    } else if common.lsn == primary_end {
        Relation::StandbyAhead
    } else {
        Relation::UnknownEpoch(common)
    }
}

/// Whether a history and an end, as a peer tells them, belong to one log.
pub(crate) fn agree(history: &History, end: &LogEnd) -> bool {
    let last = history.last();
    let key = last.map(|epoch| (epoch.term, epoch.start, epoch.id));
    let begins_below = last.is_none_or(|epoch| epoch.fork < end.lsn);
    let empty_together = last.is_none() == (end.lsn == Lsn::ZERO);
    key == end.epoch && begins_below && empty_together && end.next_commit > 0
}
