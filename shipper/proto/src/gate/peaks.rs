//! How much was exposed in the last hour: the worst of each second, so that no moment between two
//! looks goes unseen.

use std::collections::VecDeque;

use super::Exposure;
use crate::time::MonoTime;

/// For how many seconds peaks are kept.
pub const PEAK_SECONDS: u64 = 3600;

/// The worst exposure of each of the last [`PEAK_SECONDS`] seconds in which it was looked at.
///
/// Invariants: the seconds rise strictly; the last is at most [`PEAK_SECONDS`] behind the first.
#[derive(Clone, Debug, Default)]
pub struct Peaks {
    seconds: VecDeque<Peak>,
}

/// The worst of one second, each figure by itself.
#[derive(Clone, Copy, Debug)]
struct Peak {
    second: u64,
    exposure: Exposure,
}

/// What [`Peaks`] have seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PeakExposure {
    /// In how many seconds of the last hour anything was seen.
    pub seconds: u64,
    /// The most, each figure by itself.
    pub max: Exposure,
    /// What the worst moment of 99 seconds in 100 was not above.
    pub p99: Exposure,
}

impl Peaks {
    /// So much is exposed. A span that is not known counts for nothing.
    ///
    /// # Panics
    /// When time goes back to an earlier second.
    pub fn note(&mut self, now: MonoTime, exposure: Exposure) {
        let second = now.as_duration().as_secs();
        match self.seconds.back_mut() {
            Some(last) if last.second == second => {
                last.exposure = worst(last.exposure, exposure);
            }
            last => {
                let last = last.map(|last| last.second);
                assert!(last < Some(second), "second {second} behind {last:?}");
                self.seconds.push_back(Peak { second, exposure });
            }
        }
        while let Some(first) = self.seconds.front()
            && first.second + PEAK_SECONDS <= second
        {
            self.seconds.pop_front();
        }
    }

    /// What was seen in the last hour.
    #[must_use]
    pub fn seen(&self, now: MonoTime) -> PeakExposure {
        let second = now.as_duration().as_secs();
        let recent = self.seconds.iter();
        let recent = recent.filter(|peak| peak.second + PEAK_SECONDS > second);
        let peaks: Vec<Exposure> = recent.map(|peak| peak.exposure).collect();
        let max = peaks.iter().copied().fold(Exposure::default(), worst);
        let spans = peaks.iter().filter_map(|peak| peak.span);
        PeakExposure {
            seconds: peaks.len() as u64,
            max: Exposure {
                span: spans.clone().max(),
                ..max
            },
            p99: Exposure {
                bytes: p99(peaks.iter().map(|peak| peak.bytes)).unwrap_or_default(),
                commits: p99(peaks.iter().map(|peak| peak.commits)).unwrap_or_default(),
                span: p99(spans),
            },
        }
    }
}

fn worst(a: Exposure, b: Exposure) -> Exposure {
    Exposure {
        bytes: a.bytes.max(b.bytes),
        commits: a.commits.max(b.commits),
        span: a.span.max(b.span),
    }
}

/// The least of them that 99 in 100 are not above.
fn p99<T: Ord + Copy>(figures: impl Iterator<Item = T>) -> Option<T> {
    let mut figures: Vec<T> = figures.collect();
    let rank = (figures.len() * 99).div_ceil(100);
    let (_, found, _) = figures.select_nth_unstable(rank.checked_sub(1)?);
    Some(*found)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn exposure(n: u64, span: Option<u64>) -> Exposure {
        Exposure {
            bytes: n * 7,
            commits: n,
            span: span.map(Duration::from_millis),
        }
    }

    #[test]
    fn of_a_hundred_seconds_the_worst_is_the_maximum_and_no_p99() {
        let mut peaks = Peaks::default();
        assert_eq!(peaks.seen(MonoTime::default()), PeakExposure::default());
        for second in 0..100 {
            for (ms, n) in [(0, 1), (300, second), (900, 2)] {
                let now = MonoTime::new(Duration::from_millis(second * 1000 + ms));
                peaks.note(now, exposure(n, Some(n)));
            }
        }
        let seen = peaks.seen(MonoTime::new(Duration::from_secs(99)));
        assert_eq!(
            (seen.seconds, seen.max.commits, seen.p99.commits),
            (100, 99, 98)
        );
        assert_eq!(seen.max.span, Some(Duration::from_millis(99)));
        // An hour later nothing of it is left.
        let seen = peaks.seen(MonoTime::new(Duration::from_secs(3699)));
        assert_eq!(seen, PeakExposure::default());
    }

    proptest! {
        /// It says what a list of everything that was noted says.
        #[test]
        fn it_is_what_a_plain_list_says(
            notes in proptest::collection::vec(
                (0..90_000u64, 0..1_000u64, proptest::option::of(0..500u64)), 1..300),
            after_ms in 0..4_000_000u64,
        ) {
            let mut peaks = Peaks::default();
            let mut list: BTreeMap<u64, Vec<Exposure>> = BTreeMap::new();
            let mut now_ms = 0;
            for (step_ms, n, span) in notes {
                now_ms += step_ms;
                let noted = exposure(n, span);
                peaks.note(MonoTime::new(Duration::from_millis(now_ms)), noted);
                list.entry(now_ms / 1000).or_default().push(noted);
                prop_assert!(peaks.seconds.len() as u64 <= PEAK_SECONDS);
            }
            now_ms += after_ms;
            list.retain(|second, _| second + 3600 > now_ms / 1000);
            let seen = peaks.seen(MonoTime::new(Duration::from_millis(now_ms)));
            prop_assert_eq!(seen.seconds, list.len() as u64);
            let of = |figure: fn(&Exposure) -> Option<u64>| {
                let mut worst: Vec<u64> = list
                    .values()
                    .filter_map(|noted| noted.iter().filter_map(figure).max())
                    .collect();
                worst.sort_unstable();
                let p99 = worst.iter().find(|it| {
                    let below = worst.iter().filter(|other| other <= it).count();
                    below * 100 >= worst.len() * 99
                });
                (worst.last().copied(), p99.copied())
            };
            let bytes = of(|it| Some(it.bytes));
            prop_assert_eq!(seen.max.bytes, bytes.0.unwrap_or(0));
            prop_assert_eq!(seen.p99.bytes, bytes.1.unwrap_or(0));
            let commits = of(|it| Some(it.commits));
            prop_assert_eq!(seen.max.commits, commits.0.unwrap_or(0));
            prop_assert_eq!(seen.p99.commits, commits.1.unwrap_or(0));
            let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap();
            let spans = of(|it| it.span.map(|span| u64::try_from(span.as_millis()).unwrap()));
            prop_assert_eq!((seen.max.span.map(ms), seen.p99.span.map(ms)), spans);
        }
    }
}
