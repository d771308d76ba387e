//! What must hold for an answer: the tightest of all records that still count.

use std::time::Duration;

use super::policy::{Action, Policy, Protection, Standing};

/// Limits on exposure, each the tightest of some records. All absent: nothing is promised.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// Most bytes.
    pub bytes: Option<u64>,
    /// Most commits.
    pub commits: Option<u64>,
    /// Longest span.
    pub time: Option<Duration>,
    /// Shortest lease.
    pub lease: Option<Duration>,
    /// What becomes of commits that cannot be answered.
    pub action: Action,
}

impl Terms {
    /// What one record asks for. A suspended promise is asked for too: that it is lifted for a
    /// while is for the suspension itself to say.
    pub(super) fn of(protection: &Protection) -> Self {
        match (&protection.policy, protection.standing) {
            (Policy::Async, _) | (_, Standing::Off) => Self::default(),
            (Policy::Bounded(bound), Standing::InForce | Standing::Suspended { .. }) => Self {
                bytes: bound.bytes,
                commits: bound.commits,
                time: bound.time,
                lease: Some(bound.lease),
                action: protection.action,
            },
        }
    }

    /// Both, in each dimension. What becomes of commits is as `self`, the newer one, says, unless
    /// it promises nothing.
    pub(super) fn and(self, older: Self) -> Self {
        Self {
            bytes: tighter(self.bytes, older.bytes),
            commits: tighter(self.commits, older.commits),
            time: tighter(self.time, older.time),
            lease: tighter(self.lease, older.lease),
            action: if self.is_free() {
                older.action
            } else {
                self.action
            },
        }
    }

    /// Whether nothing is promised.
    #[must_use]
    pub const fn is_free(&self) -> bool {
        self.lease.is_none()
    }
}

fn tighter<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}
