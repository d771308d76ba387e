//! What was promised about loss, and what was answered: judged by what both logs really hold, and
//! not by what the gate knows.

use std::time::Duration;

use outlast_engine::format::{EpochId, EpochReason, EpochRecord, Lsn, Position};
use outlast_proto::{MonoTime, Policy, Protection, ProtectionPoint, Standing};
use outlast_standby::certificate::CertifiedBound;

use crate::violation::{Checked, check};

/// Limits on exposure, each the tightest of some records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Promised {
    pub(crate) bytes: Option<u64>,
    pub(crate) commits: Option<u64>,
    pub(crate) time: Option<Duration>,
    pub(crate) lease: Option<Duration>,
}

/// One decision of a writer: all up to `to` was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) to: Position,
    /// By the writer's clock.
    pub(crate) at: MonoTime,
    /// Which of its clocks that is.
    pub(crate) boot: u32,
    pub(crate) true_ns: u64,
    pub(crate) under: Under,
}

/// What bound an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Under {
    Promise,
    /// The promise was suspended by this record.
    Lifted(ProtectionPoint),
    /// Nothing was promised in what this epoch, and starts of it, has recorded.
    Nothing(EpochId),
}

/// A heartbeat that a standby has echoed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Echoed {
    /// The life of the primary's process that formed it.
    pub(crate) life: u32,
    pub(crate) at: MonoTime,
}

/// What a promoted standby has stated.
#[derive(Clone, Debug)]
pub(crate) struct Certified {
    /// The node that was promoted.
    pub(crate) node: usize,
    pub(crate) true_ns: u64,
    /// Where its history leaves that of the old primary.
    pub(crate) fork: Position,
    pub(crate) bound: Option<CertifiedBound>,
    pub(crate) fenced: bool,
    /// The newest protection record that it had heard of.
    pub(crate) heard: Option<ProtectionPoint>,
}

/// The epoch from which on the newest writer's records count: the last that no plain restart began.
pub(crate) fn opening(epochs: &[EpochRecord]) -> Option<&EpochRecord> {
    let mut newest_first = epochs.iter().rev();
    newest_first.find(|epoch| epoch.reason != EpochReason::Restart)
}

/// What binds an answer while the standby holds all up to `held`: the newest record that it holds,
/// and every later one.
pub(crate) fn promised(
    epochs: &[EpochRecord],
    records: &[(ProtectionPoint, Protection)],
    held: Lsn,
) -> Promised {
    let from = opening(epochs).map_or(Lsn::ZERO, |epoch| epoch.fork);
    let counts = records.partition_point(|(point, _)| point.lsn <= from);
    let later = records.partition_point(|(point, _)| point.lsn <= held);
    let first = later.saturating_sub(1).max(counts);
    let binding = records.get(first..).unwrap_or_default();
    let terms = binding.iter().map(|(_, protection)| terms_of(protection));
    terms.fold(Promised::default(), |a, b| Promised {
        bytes: tighter(a.bytes, b.bytes),
        commits: tighter(a.commits, b.commits),
        time: tighter(a.time, b.time),
        lease: tighter(a.lease, b.lease),
    })
}

fn terms_of(protection: &Protection) -> Promised {
    match (protection.policy, protection.standing) {
        (Policy::Bounded(bound), Standing::InForce | Standing::Suspended { .. }) => Promised {
            bytes: bound.bytes,
            commits: bound.commits,
            time: bound.time,
            lease: Some(bound.lease),
        },
        _ => Promised::default(),
    }
}

fn tighter<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

impl Promised {
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Judges the answer to all up to `to`, given just now, while the standby holds `held`.
    /// `answers` are all so far, this one included.
    pub(crate) fn judge(&self, to: Position, held: Position, answers: &[Answer]) -> Checked {
        let loss = Loss::of(answers, to, held);
        let name = if (self.bytes, self.commits) == (Some(0), Some(0)) {
            "I3"
        } else {
            "I4"
        };
        check(
            loss.is_within(self.bytes, self.commits, self.time),
            name,
            || format!("{to} was answered while the standby holds {held}: {loss:?} under {self:?}"),
        )
    }
}

/// What is answered and not held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loss {
    pub(crate) bytes: u64,
    pub(crate) commits: u64,
    /// From the first answer to the last; `None` where two clocks measured.
    pub(crate) span: Option<Duration>,
}

impl Loss {
    pub(crate) fn of(answers: &[Answer], to: Position, held: Position) -> Self {
        let first = answers.partition_point(|answer| answer.to.lsn <= held.lsn);
        let lost = answers.get(first..).unwrap_or_default();
        let span = match (lost.first(), lost.last()) {
            (Some(first), Some(last)) if first.boot == last.boot => Some(last.at.since(first.at)),
            (None, _) => Some(Duration::ZERO),
            _ => None,
        };
        Self {
            bytes: to.lsn.bytes_since(held.lsn),
            commits: to.commit.saturating_sub(held.commit),
            span,
        }
    }

    pub(crate) fn is_within(
        &self,
        bytes: Option<u64>,
        commits: Option<u64>,
        time: Option<Duration>,
    ) -> bool {
        bytes.is_none_or(|most| self.bytes <= most)
            && commits.is_none_or(|most| self.commits <= most)
            && time.is_none_or(|most| self.span.is_none_or(|span| span <= most))
    }
}

#[cfg(test)]
mod tests {
    use outlast_engine::format::NodeId;
    use outlast_proto::{Action, Bound};

    use super::*;

    fn record(lsn: u64, commits: Option<u64>) -> (ProtectionPoint, Protection) {
        let point = ProtectionPoint {
            term: 1,
            start: 1,
            lsn: Lsn(lsn),
            epoch: EpochId([1; 16]),
        };
        let members = vec![NodeId([1; 16])];
        let protection = match commits {
            None => Protection::none(members),
            Some(_) => Protection {
                policy: Policy::Bounded(Bound {
                    bytes: None,
                    commits,
                    time: None,
                    lease: Duration::from_secs(1),
                }),
                action: Action::Stall,
                members,
                copies: 1,
                standing: Standing::InForce,
            },
        };
        (point, protection)
    }

    #[test]
    fn the_tightest_of_what_is_held_and_all_later_records_binds() {
        let records = [record(10, Some(5)), record(20, Some(2)), record(30, None)];
        let commits = |held| promised(&[], &records, Lsn(held)).commits;
        assert_eq!(commits(0), Some(2));
        assert_eq!(commits(15), Some(2));
        assert_eq!(commits(29), Some(2));
        assert_eq!(commits(30), None);
        let loosening = [record(10, Some(2)), record(20, Some(5))];
        assert_eq!(promised(&[], &loosening, Lsn(19)).commits, Some(2));
        assert_eq!(promised(&[], &loosening, Lsn(20)).commits, Some(5));
    }

    #[test]
    fn an_answer_beyond_the_bound_is_a_violation() {
        let answer = |commit, ms| Answer {
            to: Position::new(Lsn(commit * 10), commit),
            at: MonoTime::new(Duration::from_millis(ms)),
            boot: 0,
            true_ns: 0,
            under: Under::Promise,
        };
        let answers = [answer(1, 10), answer(2, 20), answer(3, 40)];
        let (to, held) = (Position::new(Lsn(30), 3), Position::new(Lsn(10), 1));
        let bound = |commits, ms| Promised {
            commits: Some(commits),
            time: Some(Duration::from_millis(ms)),
            ..Promised::default()
        };
        assert_eq!(bound(2, 20).judge(to, held, &answers), Ok(()));
        assert!(bound(1, 20).judge(to, held, &answers).is_err());
        assert!(bound(2, 19).judge(to, held, &answers).is_err());
    }
}
