//! What was answered OK and is not replicated: how much, and since when.

use std::collections::VecDeque;
use std::time::Duration;

use outlast_engine::format::Position;
use outlast_engine::planted::{Bug, on};

use crate::time::MonoTime;

/// Answers that are remembered one by one; beyond, neighbours share the older one's time.
const ANSWERS_MAX: usize = 4096;

/// Decisions to answer, until what they covered is replicated.
///
/// Invariants: positions rise strictly, times do not fall; all are above what is replicated; the
/// time of each is that of its decision or an earlier one, so that no exposure looks younger than
/// it is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Answered {
    open: VecDeque<(Position, MonoTime)>,
    /// Up to here something may have been answered at a time that is not known: by the process
    /// before this one, or it was replicated once and is no longer.
    unknown_until: Position,
    replicated: Position,
    newest: Position,
    /// When the newest was decided.
    newest_at: MonoTime,
}

impl Answered {
    /// Nothing was answered by this process; another one may have answered all up to `recovered`.
    pub(super) fn new(recovered: Position) -> Self {
        Self {
            open: VecDeque::new(),
            unknown_until: recovered,
            replicated: Position::ZERO,
            newest: recovered,
            newest_at: MonoTime::default(),
        }
    }

    /// End of the highest batch that was, or may have been, answered.
    pub(super) const fn newest(&self) -> Position {
        self.newest
    }

    /// All up to `to` is answered now.
    pub(super) fn answer(&mut self, now: MonoTime, to: Position) {
        if to.lsn <= self.newest.lsn {
            return;
        }
        assert!(
            now >= self.newest_at,
            "answered at {now}, before {}",
            self.newest_at
        );
        (self.newest, self.newest_at) = (to, now);
        if to.lsn <= self.replicated.lsn {
            return;
        }
        match self.open.back_mut() {
            Some((end, at)) if *at == now => *end = to,
            _ => self.open.push_back((to, now)),
        }
        if self.open.len() > ANSWERS_MAX {
            self.share();
        }
    }

    /// The standbys hold all up to here, which may be less than before. Answers with how long ago
    /// the newest of what they hold now was answered, if they lacked it.
    pub(super) fn replicated(&mut self, now: MonoTime, to: Position) -> Option<Duration> {
        if to.lsn < self.replicated.lsn {
            // When it was answered is forgotten.
            let lost = self.replicated.min(self.newest);
            self.unknown_until = self.unknown_until.max(lost);
        }
        self.replicated = to;
        let mut took = None;
        while let Some((end, at)) = self.open.front()
            && end.lsn <= to.lsn
        {
            took = Some(now.since(*at));
            self.open.pop_front();
        }
        took
    }

    /// Since when the oldest answer is exposed.
    pub(super) fn oldest(&self) -> Since {
        if self.unknown_until.lsn > self.replicated.lsn {
            return Since::Unknown;
        }
        let oldest = if on(Bug::SpanFromNewest) {
            self.open.back()
        } else {
            self.open.front()
        };
        oldest.map_or(Since::Nothing, |(_, at)| Since::At(*at))
    }

    /// Time from the oldest exposed answer to the newest one; `None` where it is not known.
    pub(super) fn span(&self) -> Option<Duration> {
        match self.oldest() {
            Since::Nothing => Some(Duration::ZERO),
            Since::At(oldest) => Some(self.newest_at.since(oldest)),
            Since::Unknown => None,
        }
    }

    /// Halves what is remembered.
    fn share(&mut self) {
        let entries = self.open.make_contiguous();
        let pairs = entries.chunks(2);
        self.open = pairs
            .filter_map(|pair| match pair {
                [(_, at), (end, _)] => Some((*end, *at)),
                [last] => Some(*last),
                _ => None,
            })
            .collect();
    }
}

/// Since when something is exposed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Since {
    /// Nothing is.
    Nothing,
    /// Since this decision.
    At(MonoTime),
    /// Longer than this gate knows.
    Unknown,
}

#[cfg(test)]
mod tests {
    use outlast_engine::format::Lsn;

    use super::*;

    fn at(ms: u64) -> MonoTime {
        MonoTime::new(Duration::from_millis(ms))
    }

    fn position(n: u64) -> Position {
        let (lsn, commit) = (Lsn(n * 8), n);
        Position { lsn, commit }
    }

    #[test]
    fn span_is_from_the_oldest_that_is_missing_to_the_newest() {
        let mut answered = Answered::new(Position::ZERO);
        assert_eq!(answered.span(), Some(Duration::ZERO));
        for n in 1..=5 {
            answered.answer(at(n * 10), position(n));
        }
        assert_eq!(answered.oldest(), Since::At(at(10)));
        assert_eq!(answered.span(), Some(Duration::from_millis(40)));
        let took = answered.replicated(at(60), position(3));
        assert_eq!(took, Some(Duration::from_millis(30)));
        assert_eq!(answered.span(), Some(Duration::from_millis(10)));
        answered.replicated(at(61), position(9));
        assert_eq!(answered.oldest(), Since::Nothing);
        // What arrived there before it was answered here was never exposed.
        answered.answer(at(70), position(8));
        assert_eq!(answered.oldest(), Since::Nothing);
    }

    #[test]
    fn what_another_process_answered_and_what_was_lost_again_is_of_unknown_age() {
        let mut answered = Answered::new(position(4));
        answered.replicated(at(1), position(3));
        assert_eq!(answered.span(), None);
        answered.replicated(at(2), position(4));
        assert_eq!(answered.span(), Some(Duration::ZERO));
        answered.answer(at(3), position(6));
        answered.replicated(at(4), position(6));
        answered.replicated(at(5), position(5));
        assert_eq!(answered.oldest(), Since::Unknown);
        answered.replicated(at(6), position(6));
        assert_eq!(answered.oldest(), Since::Nothing);
    }

    #[test]
    fn memory_is_bounded_and_nothing_looks_younger_than_it_is() {
        let mut answered = Answered::new(Position::ZERO);
        for n in 1..=100_000 {
            answered.answer(at(n), position(n));
            assert!(answered.open.len() <= ANSWERS_MAX);
        }
        assert_eq!(answered.oldest(), Since::At(at(1)));
        for n in (1..100_000).step_by(997) {
            answered.replicated(at(100_001), position(n));
            match answered.oldest() {
                Since::At(oldest) => assert!(oldest <= at(n + 1), "{n}: {oldest}"),
                other => panic!("{n}: {other:?}"),
            }
        }
    }
}
