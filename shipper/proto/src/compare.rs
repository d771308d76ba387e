//! How two logs lie to each other: decided by their epochs, never by positions alone.

use outlast_engine::format::{CommonPoint, History, Lsn};

use crate::points::LogEnd;

/// How a standby's log lies to its primary's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
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

/// Compares a primary's log with its standby's: the history and the end of each.
#[must_use]
pub fn relate(
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

#[cfg(test)]
mod tests {
    use outlast_engine::format::{EpochId, EpochReason, EpochRecord, NodeId};

    use super::*;

    /// A history of (id, term, fork); starts count up.
    fn history(epochs: &[(u8, u32, u64)]) -> History {
        let mut history = History::new();
        for (start, (id, term, fork)) in (1..).zip(epochs) {
            let id = EpochId([*id; 16]);
            let last = history.last();
            let record = EpochRecord {
                term: *term,
                start,
                id,
                parent: last.map_or(EpochId::NONE, |last| last.id),
                opened_by: last
                    .filter(|last| last.term == *term)
                    .map_or(id, |last| last.opened_by),
                fork: Lsn(*fork),
                node: NodeId::NONE,
                node_name: String::new(),
                reason: EpochReason::Restart,
                note: String::new(),
                wall_ms: 0,
            };
            history.push(record).unwrap();
        }
        history
    }

    #[test]
    fn every_way_in_which_two_logs_can_lie() {
        let one = history(&[(1, 1, 0)]);
        let restarted = history(&[(1, 1, 0), (2, 1, 100)]);
        let promoted = history(&[(1, 1, 0), (3, 2, 80)]);
        let twice = history(&[(1, 1, 0), (2, 1, 100), (4, 1, 200)]);
        let stranger = history(&[(7, 1, 0)]);
        let empty = History::new();
        let at = |lsn, id| CommonPoint {
            lsn: Lsn(lsn),
            epoch: EpochId([id; 16]),
        };
        let forked = |lsn, id| Relation::Forked(at(lsn, id));
        let cases = [
            // An empty standby, and both empty.
            (&one, 50, &empty, 0, Relation::Prefix),
            (&empty, 0, &empty, 0, Relation::Prefix),
            // Within one epoch: shorter, equal, longer.
            (&one, 50, &one, 40, Relation::Prefix),
            (&one, 50, &one, 50, Relation::Prefix),
            (&one, 50, &one, 60, Relation::StandbyAhead),
            (&empty, 0, &one, 60, Relation::StandbyAhead),
            // The primary restarted at 100: the standby is below, at, or beyond it.
            (&restarted, 150, &one, 60, Relation::Prefix),
            (&restarted, 150, &one, 100, Relation::Prefix),
            (&restarted, 150, &one, 101, forked(100, 1)),
            (&restarted, 150, &restarted, 151, Relation::StandbyAhead),
            // An ancestor says hello: never a proof.
            (&one, 100, &restarted, 150, Relation::StandbyAhead),
            (&one, 90, &restarted, 150, Relation::StandbyAhead),
            (
                &one,
                120,
                &restarted,
                150,
                Relation::UnknownEpoch(at(100, 1)),
            ),
            // Promotions: the fork is where the first of them leaves the last shared epoch.
            (&promoted, 300, &one, 80, Relation::Prefix),
            (&promoted, 300, &one, 120, forked(80, 1)),
            (&promoted, 300, &restarted, 150, forked(80, 1)),
            (&promoted, 300, &twice, 250, forked(80, 1)),
            (&twice, 250, &restarted, 200, Relation::Prefix),
            (&twice, 250, &restarted, 220, forked(200, 2)),
            (&twice, 250, &one, 150, forked(100, 1)),
            // Both went on alone from the epoch they share, the primary later: its epoch forks
            // behind the standby's end, or below it.
            (
                &history(&[(1, 1, 0), (5, 1, 180)]),
                250,
                &restarted,
                150,
                Relation::UnknownEpoch(at(100, 1)),
            ),
            (
                &history(&[(1, 1, 0), (5, 1, 150)]),
                250,
                &restarted,
                150,
                Relation::UnknownEpoch(at(100, 1)),
            ),
            (
                &history(&[(1, 1, 0), (5, 1, 120)]),
                250,
                &restarted,
                150,
                forked(100, 1),
            ),
            // Nothing shared at all.
            (&one, 50, &stranger, 50, forked(0, 0)),
        ];
        for (i, (primary, primary_end, standby, standby_end, expected)) in cases.iter().enumerate()
        {
            let relation = relate((primary, Lsn(*primary_end)), (standby, Lsn(*standby_end)));
            assert_eq!(relation, *expected, "case {i}");
        }
    }
}
