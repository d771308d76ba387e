//! The soft slope before the wall: in the upper half of a bound, answers come a little later, so
//! that what is left of it lasts until the standby has caught up by as much.

use std::time::Duration;

use outlast_engine::format::Position;

use super::status::Exposure;
use super::terms::Terms;
use crate::time::MonoTime;

/// Longest pause between two answers.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Answers per time, as the bound comes nearer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Slope {
    /// How long an answer is exposed, lately: a weighted mean.
    turnaround: Duration,
    /// No answer that adds to the exposure before this moment.
    until: Option<MonoTime>,
}

impl Slope {
    /// An answer was exposed for so long.
    pub(super) fn replicated(&mut self, took: Duration) {
        let took = took.min(PAUSE_MAX);
        self.turnaround = if self.turnaround.is_zero() {
            took
        } else {
            (self.turnaround * 7 + took) / 8
        };
        // Room was made: what comes next is judged by what is exposed then.
        self.until = None;
    }

    pub(super) fn holds(&self, now: MonoTime) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    pub(super) const fn until(&self) -> Option<MonoTime> {
        self.until
    }

    /// All from `before` to `end` was answered at `now`, and so much is exposed.
    pub(super) fn answered(
        &mut self,
        now: MonoTime,
        terms: &Terms,
        before: Position,
        end: Position,
        exposure: Exposure,
    ) {
        let bytes = end.lsn.bytes_since(before.lsn);
        let commits = end.commit.saturating_sub(before.commit);
        let pause = [
            self.pause(terms.bytes, exposure.bytes, bytes),
            self.pause(terms.commits, exposure.commits, commits),
        ];
        let pause = pause.into_iter().max().unwrap_or_default();
        self.until = (!pause.is_zero()).then(|| now.after(pause));
    }

    /// How long what was added lasts, if the rest of the bound is to last for one turnaround: from
    /// nothing at half of the bound, fully at its end.
    fn pause(&self, most: Option<u64>, exposed: u64, added: u64) -> Duration {
        let Some(most) = most else {
            return Duration::ZERO;
        };
        let upper = most - most / 2;
        let above = exposed.saturating_sub(most / 2);
        if above == 0 || upper == 0 {
            return Duration::ZERO;
        }
        let left = most.saturating_sub(exposed).max(1);
        let share = added.min(left);
        let nanos = self.turnaround.as_nanos() * u128::from(share) / u128::from(left);
        let nanos = nanos * u128::from(above.min(upper)) / u128::from(upper);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_from_half_of_the_bound_to_one_turnaround_at_its_end() {
        let mut slope = Slope::default();
        slope.replicated(Duration::from_millis(8));
        assert_eq!(slope.pause(None, 99, 1), Duration::ZERO);
        assert_eq!(slope.pause(Some(0), 0, 0), Duration::ZERO);
        assert_eq!(slope.pause(Some(100), 50, 10), Duration::ZERO);
        let pauses: Vec<_> = (50..=100)
            .map(|exposed| slope.pause(Some(100), exposed, 1))
            .collect();
        assert!(pauses.is_sorted(), "{pauses:?}");
        assert_eq!(pauses.last(), Some(&Duration::from_millis(8)));
        slope.replicated(Duration::from_secs(100));
        assert!(slope.pause(Some(100), 100, 50) <= PAUSE_MAX);
    }

    #[test]
    fn room_that_is_made_ends_a_pause() {
        let mut slope = Slope::default();
        slope.replicated(Duration::from_millis(8));
        let terms = Terms {
            commits: Some(10),
            ..Terms::default()
        };
        let at = |commit| Position {
            commit,
            ..Position::ZERO
        };
        let exposure = Exposure {
            commits: 9,
            ..Exposure::default()
        };
        let now = MonoTime::default();
        slope.answered(now, &terms, at(8), at(9), exposure);
        assert!(slope.holds(now) && slope.until().is_some());
        assert!(!slope.holds(now.after(PAUSE_MAX)));
        slope.replicated(Duration::from_millis(8));
        assert!(!slope.holds(now));
    }
}
