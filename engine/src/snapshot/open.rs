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

/// Counts open snapshots by their position.
#[derive(Debug, Default)]
pub(crate) struct Register {
    positions: Mutex<BTreeMap<Lsn, usize>>,
}

impl Register {
    /// Enters a snapshot at the position that `at` answers with. Asked under the lock, so that
    /// whoever computes the oldest position meanwhile never misses one that is about to be lower.
    pub(super) fn enter(&self, at: impl FnOnce() -> Lsn) -> Lsn {
        let mut positions = self.positions.lock();
        let at = at();
        *positions.entry(at).or_default() += 1;
        at
    }

    /// Takes a snapshot out again.
    pub(super) fn leave(&self, at: Lsn) {
        let mut positions = self.positions.lock();
        let Some(count) = positions.get_mut(&at) else {
            panic!("a snapshot at {at} was closed that was not open")
        };
        *count -= 1;
        if *count == 0 {
            positions.remove(&at);
        }
    }

    pub(crate) fn read(&self) -> OpenSnapshots {
        let positions = self.positions.lock();
        OpenSnapshots {
            count: positions.values().sum(),
            oldest: positions.first_key_value().map(|(at, _)| *at),
        }
    }
}
