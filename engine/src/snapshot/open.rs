//! Which snapshots are open, so that nothing they see is given up.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::format::Lsn;

/// Snapshots that are open on a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct OpenSnapshots {
    /// How many, with what reads from them.
    pub count: usize,
    /// The lowest position among them; `None` when there are none.
    pub oldest: Option<Lsn>,
    /// How long ago the first of them was opened, in milliseconds; 0 when there are none.
    pub oldest_age_ms: u64,
}

/// A place in the register.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    pub(super) at: Lsn,
    number: u64,
}

/// Knows the open snapshots by their position, and how far back one may be opened.
#[derive(Debug, Default)]
pub(crate) struct Register {
    entries: Mutex<Entries>,
    /// How old a snapshot may get before it holds nothing back any more.
    age_max: Option<Duration>,
}

#[derive(Debug, Default)]
struct Entries {
    /// When each was opened, by the monotonic clock.
    opened: BTreeMap<Place, Duration>,
    next: u64,
    /// States below this are not held any more, but for the snapshots that are open already.
    horizon: Lsn,
}

impl Register {
    pub(crate) fn new(age_max: Option<Duration>) -> Self {
        let entries = Mutex::default();
        Self { entries, age_max }
    }

    /// Enters a snapshot at the position that `at` answers with. Asked under the lock, so that
    /// whoever computes the oldest position meanwhile never misses one that is about to be lower.
    pub(super) fn enter(&self, now: Duration, at: impl FnOnce() -> Lsn) -> Place {
        let mut entries = self.entries.lock();
        let number = entries.next;
        entries.next += 1;
        let place = Place { at: at(), number };
        entries.opened.insert(place, now);
        place
    }

    /// From when on a snapshot that is opened at `now` may not be read any more.
    pub(super) fn ends(&self, now: Duration) -> Option<Duration> {
        self.age_max.map(|age_max| now.saturating_add(age_max))
    }

    /// The lowest position at which a snapshot may be opened.
    pub(crate) fn horizon(&self) -> Lsn {
        self.entries.lock().horizon
    }

    /// Gives up the states below `horizon`, which readers see, but for the snapshots that are open
    /// and not too old at `now`: answers with their positions, lowest first.
    pub(crate) fn raise_horizon(&self, horizon: Lsn, now: Duration) -> Vec<Lsn> {
        let mut entries = self.entries.lock();
        entries.horizon = entries.horizon.max(horizon);
        let lasts = |opened: Duration| self.ends(opened).is_none_or(|end| now < end);
        let kept = entries.opened.iter().filter(|(_, opened)| lasts(**opened));
        let mut kept: Vec<_> = kept.map(|(place, _)| place.at).collect();
        kept.dedup();
        kept
    }

    /// Takes a snapshot out again.
    pub(super) fn leave(&self, place: Place) {
        let opened = self.entries.lock().opened.remove(&place);
        assert!(opened.is_some(), "{place:?} was closed and was not open");
    }

    pub(crate) fn read(&self, now: Duration) -> OpenSnapshots {
        let opened = &self.entries.lock().opened;
        let first = opened.values().min();
        let age = first.map_or(Duration::ZERO, |first| now.saturating_sub(*first));
        OpenSnapshots {
            count: opened.len(),
            oldest: opened.first_key_value().map(|(place, _)| place.at),
            oldest_age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        }
    }
}
