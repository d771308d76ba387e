//! Which snapshots are open, so that nothing they see is given up.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::format::Lsn;

/// Snapshots that are open on a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenSnapshots {
    /// How many, with what reads from them.
    pub count: usize,
    /// The lowest position among them; `None` when there are none.
    pub oldest: Option<Lsn>,
}

/// Counts open snapshots by their position, and knows how far back one may be opened.
#[derive(Debug, Default)]
pub(crate) struct Register {
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    positions: BTreeMap<Lsn, usize>,
    /// States below this are not held any more, but for the snapshots that are open already.
    horizon: Lsn,
}

impl Register {
    /// Enters a snapshot at the position that `at` answers with. Asked under the lock, so that
    /// whoever computes the oldest position meanwhile never misses one that is about to be lower.
    pub(super) fn enter(&self, at: impl FnOnce() -> Lsn) -> Lsn {
        let mut entries = self.entries.lock();
        let at = at();
        *entries.positions.entry(at).or_default() += 1;
        at
    }

    /// The lowest position at which a snapshot may be opened.
    pub(crate) fn horizon(&self) -> Lsn {
        self.entries.lock().horizon
    }

    /// Gives up the states below `horizon`, which readers see, but for the snapshots that are open:
    /// answers with their positions, lowest first.
    pub(crate) fn raise_horizon(&self, horizon: Lsn) -> Vec<Lsn> {
        let mut entries = self.entries.lock();
        entries.horizon = entries.horizon.max(horizon);
        entries.positions.keys().copied().collect()
    }

    /// Takes a snapshot out again.
    pub(super) fn leave(&self, at: Lsn) {
        let positions = &mut self.entries.lock().positions;
        let Some(count) = positions.get_mut(&at) else {
            panic!("a snapshot at {at} was closed that was not open")
        };
        *count -= 1;
        if *count == 0 {
            positions.remove(&at);
        }
    }

    pub(crate) fn read(&self) -> OpenSnapshots {
        let positions = &self.entries.lock().positions;
        OpenSnapshots {
            count: positions.values().sum(),
            oldest: positions.first_key_value().map(|(at, _)| *at),
        }
    }
}
