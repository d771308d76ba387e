//! Where a log stands, and who is told when that changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::format::Lsn;

/// The positions of one node at one moment.
///
/// Invariants: visible ≤ durable ≤ appended on a writer, applied ≤ durable ≤ appended on a
/// follower, replicated ≤ appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Positions {
    /// End of the last frame formed or received.
    pub appended: Lsn,
    /// End of what is fsynced here.
    pub durable: Lsn,
    /// End of what the index holds.
    pub applied: Lsn,
    /// End of what readers may see.
    pub visible: Lsn,
    /// End of what the standby has reported received in its session.
    pub replica_received: Lsn,
    /// End of what the standby has reported durable in its session.
    pub replicated: Lsn,
    /// End of what the standby has reported applied in its session.
    pub replica_applied: Lsn,
    /// Number of the last commit formed or received; 0 before the first.
    pub last_commit: u64,
    /// Number of the last commit that readers may see.
    pub visible_commit: u64,
}

type Listener = Arc<dyn Fn() + Send + Sync>;

/// The live cell behind [`Positions`]: single words that move on their own.
#[derive(Default)]
pub(super) struct Cell {
    appended: AtomicU64,
    durable: AtomicU64,
    applied: AtomicU64,
    visible: AtomicU64,
    replica_received: AtomicU64,
    replicated: AtomicU64,
    replica_applied: AtomicU64,
    last_commit: AtomicU64,
    visible_commit: AtomicU64,
    listeners: RwLock<Vec<Listener>>,
}

macro_rules! word {
    ($get:ident, $set:ident) => {
        pub(super) fn $get(&self) -> Lsn {
            Lsn(self.$get.load(Ordering::Acquire))
        }

        pub(super) fn $set(&self, lsn: Lsn) {
            self.$get.store(lsn.0, Ordering::Release);
        }
    };
}

impl Cell {
    word!(appended, set_appended);
    word!(durable, set_durable);
    word!(visible, set_visible);
    word!(replicated, set_replicated);
    word!(applied, set_applied);
    word!(replica_received, set_replica_received);
    word!(replica_applied, set_replica_applied);

    pub(super) fn set_last_commit(&self, commit: u64) {
        self.last_commit.store(commit, Ordering::Release);
    }

    pub(super) fn set_visible_commit(&self, commit: u64) {
        self.visible_commit.store(commit, Ordering::Release);
    }

    /// All positions, read lowest first so that their order holds in the answer too.
    pub(super) fn read(&self) -> Positions {
        let visible_commit = self.visible_commit.load(Ordering::Acquire);
        let visible = self.visible();
        let applied = self.applied();
        let replica_applied = self.replica_applied();
        let replicated = self.replicated();
        let replica_received = self.replica_received();
        let durable = self.durable();
        let appended = self.appended();
        let last_commit = self.last_commit.load(Ordering::Acquire);
        Positions {
            appended,
            durable,
            applied,
            visible,
            replica_received,
            replicated,
            replica_applied,
            last_commit,
            visible_commit,
        }
    }

    pub(super) fn listen(&self, listener: Listener) {
        self.listeners.write().push(listener);
    }

    /// Tells everybody that something moved. Never called under a lock of the log.
    pub(super) fn notify(&self) {
        for listener in self.listeners.read().iter() {
            listener();
        }
    }
}
