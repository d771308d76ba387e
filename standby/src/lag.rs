//! Lag in time, from this node's own clock: how old the oldest byte is that the standby lacks.

use std::collections::VecDeque;
use std::time::Duration;

use outlast_engine::format::Lsn;

/// Samples that are kept; beyond, every second one is dropped.
const SAMPLES_MAX: usize = 4096;

/// When the log's end was where. Sampled, so the answer is exact to one sampling interval.
#[derive(Clone, Debug, Default)]
pub(crate) struct LagClock {
    /// Ends of the log that the standby has not reached, each with the moment when it was first
    /// seen.
    behind: VecDeque<(Lsn, Duration)>,
}

impl LagClock {
    /// Takes a sample: the log ends at `appended`, the standby has `replicated`.
    pub(crate) fn sample(&mut self, now: Duration, appended: Lsn, replicated: Lsn) {
        while self
            .behind
            .front()
            .is_some_and(|(lsn, _)| *lsn <= replicated)
        {
            self.behind.pop_front();
        }
        let newest = self.behind.back().map_or(replicated, |(lsn, _)| *lsn);
        if appended > newest {
            self.behind.push_back((appended, now));
        }
        if self.behind.len() > SAMPLES_MAX {
            // The oldest stays: it is the answer.
            let mut index = 0;
            self.behind.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
    }

    /// Age of the oldest byte that the standby lacks; zero when it lacks none.
    pub(crate) fn lag(&self, now: Duration) -> Duration {
        self.behind
            .front()
            .map_or(Duration::ZERO, |(_, since)| now.saturating_sub(*since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_rises_while_the_standby_stands_still_and_is_zero_when_it_has_all() {
        let mut clock = LagClock::default();
        let at = Duration::from_millis;
        clock.sample(at(0), Lsn(0), Lsn(0));
        assert_eq!(clock.lag(at(5)), at(0));
        clock.sample(at(10), Lsn(100), Lsn(0));
        clock.sample(at(20), Lsn(200), Lsn(0));
        assert_eq!(clock.lag(at(50)), at(40));
        clock.sample(at(60), Lsn(200), Lsn(100));
        assert_eq!(clock.lag(at(60)), at(40));
        clock.sample(at(70), Lsn(200), Lsn(200));
        assert_eq!(clock.lag(at(90)), at(0));
        for n in 0..20_000 {
            clock.sample(at(100 + n), Lsn(300 + n), Lsn(200));
        }
        assert!(clock.behind.len() <= SAMPLES_MAX);
        assert_eq!(clock.lag(at(20_100)), at(20_000));
    }
}
