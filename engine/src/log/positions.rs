//! Where a log stands, and who is told when that changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::format::{Lsn, Position};

/// The positions of one node at one moment.
///
/// Invariants, asserted wherever one moves: applied = visible ≤ durable ≤ appended here; what the
/// replica reports never exceeds appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Positions {
    /// End of the last frame formed or received.
    pub appended: Position,
    /// End of what is fsynced here.
    pub durable: Position,
    /// End of what the state holds and readers may see.
    pub visible: Position,
    /// End of what the standby has reported received in its session.
    pub replica_received: Position,
    /// End of what the standby has reported durable in its session.
    pub replicated: Position,
    /// End of what the standby has reported applied in its session.
    pub replica_applied: Position,
}

type Listener = Arc<dyn Fn() + Send + Sync>;

/// The live cell behind [`Positions`].
#[derive(Default)]
pub(super) struct Cell {
    now: Mutex<Positions>,
    /// `now.visible.lsn`, for readers: one that is held up in the middle holds nobody else up.
    visible: AtomicU64,
    listeners: RwLock<Vec<Listener>>,
}

impl Cell {
    pub(super) fn read(&self) -> Positions {
        *self.now.lock()
    }

    pub(super) fn durable(&self) -> Lsn {
        self.now.lock().durable.lsn
    }

    pub(super) fn visible(&self) -> Lsn {
        Lsn(self.visible.load(Ordering::Acquire))
    }

    /// Moves what `change` changes, all at once.
    pub(super) fn change(&self, change: impl FnOnce(&mut Positions)) {
        let mut now = self.now.lock();
        let before = *now;
        change(&mut now);
        let ordered = now.visible.lsn <= now.durable.lsn
            && now.durable.lsn <= now.appended.lsn
            && now.replica_received.lsn <= now.appended.lsn
            && now.replicated.lsn <= now.replica_received.lsn
            && now.replica_applied.lsn <= now.replica_received.lsn;
        assert!(
            ordered,
            "positions out of order: {:?} after {before:?}",
            *now
        );
        let forward = before.appended <= now.appended
            && before.durable <= now.durable
            && before.visible <= now.visible;
        assert!(
            forward,
            "a position of this node moves back: {:?} after {before:?}",
            *now
        );
        self.visible.store(now.visible.lsn.0, Ordering::Release);
    }

    /// Goes back to a fork above what readers have seen: a tail of this log was cut.
    pub(super) fn rewind(&self, end: Position) {
        let mut now = self.now.lock();
        assert!(
            now.visible.lsn <= end.lsn,
            "a rewind to {end} below what is visible"
        );
        now.appended = end;
        now.durable = end;
    }

    pub(super) fn listen(&self, listener: Listener) {
        self.listeners.write().push(listener);
    }

    /// Tells everybody that something moved.
    pub(super) fn notify(&self) {
        for listener in self.listeners.read().iter() {
            listener();
        }
    }
}
