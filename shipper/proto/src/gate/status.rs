//! Where a gate stands: plain data, for operators and tests.

use std::time::Duration;

use outlast_engine::format::Position;

use super::policy::{Protection, Standing};
use super::terms::Terms;
use super::{Gate, Held, Lease};
use crate::time::MonoTime;

/// What would be lost if this building burnt now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Exposure {
    /// Bytes of log.
    pub bytes: u64,
    /// Commits.
    pub commits: u64,
    /// Time from the answer to the oldest of them to that to the newest; `None` where another
    /// process answered the oldest.
    pub span: Option<Duration>,
}

/// How the promise stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// Nothing is promised.
    Off,
    /// It is kept.
    Protected,
    /// An operator suspended it.
    Suspended {
        /// It stands again from this moment on.
        until: MonoTime,
    },
    /// It is kept, and commits wait because of it.
    Stalled {
        /// Since this moment.
        since: MonoTime,
        /// Why.
        why: Held,
    },
    /// Nothing is answered any more.
    Shut,
}

/// Where a gate stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GateStatus {
    /// How the promise stands.
    pub guard: Guard,
    /// What must hold for an answer.
    pub terms: Terms,
    /// The newest record.
    pub newest: Protection,
    /// Records that some standby is not known to hold: those below count until it does.
    pub records_not_held: usize,
    /// What is exposed.
    pub exposure: Exposure,
    /// End of what was answered.
    pub acked: Position,
    /// End of what all standbys hold; `None` where there is none.
    pub replicated: Option<Position>,
    /// When the newest heartbeat was formed that all of them have echoed.
    pub contact: Option<MonoTime>,
    /// How the lease stands.
    pub lease: Lease,
}

impl Gate {
    /// Where it stands at `now`.
    pub fn status(&mut self, now: MonoTime) -> GateStatus {
        self.tick(now);
        self.settle();
        GateStatus {
            guard: self.guard(),
            terms: self.terms(),
            newest: self.records.newest().clone(),
            records_not_held: self.records.unheld(),
            exposure: self.exposure(),
            acked: self.answered.newest(),
            replicated: (!self.named.is_empty()).then(|| self.replicated()),
            contact: self.contact(),
            lease: self.lease(),
        }
    }

    /// What is answered and not replicated.
    #[must_use]
    pub fn exposure(&self) -> Exposure {
        let (acked, replicated) = (self.answered.newest(), self.replicated());
        Exposure {
            bytes: acked.lsn.bytes_since(replicated.lsn),
            commits: acked.commit.saturating_sub(replicated.commit),
            span: self.answered.span(),
        }
    }

    /// Whether anything is promised, lifted for a while or not.
    #[must_use]
    pub fn promises(&self) -> bool {
        self.shut || !self.records.promised().is_free()
    }

    /// The newest record, if its promise does not stand and may, to be written again as standing
    /// once the standbys lack little: it was not in force yet, or its suspension is over.
    #[must_use]
    pub fn to_engage(&mut self, now: MonoTime) -> Option<Protection> {
        self.tick(now);
        self.settle();
        let newest = self.records.newest();
        let lapsed = match newest.standing {
            Standing::Off => true,
            Standing::InForce => false,
            Standing::Suspended { .. } => self.records.suspension_is_over(),
        };
        let engaged = newest.standing(Standing::InForce);
        (lapsed && engaged.check().is_ok()).then_some(engaged)
    }

    fn guard(&self) -> Guard {
        if self.shut {
            return Guard::Shut;
        }
        if let Some(until) = self.records.suspended_until() {
            return Guard::Suspended { until };
        }
        match self.held {
            _ if self.terms().is_free() => Guard::Off,
            Some((since, why)) if why != Held::Slope => Guard::Stalled { since, why },
            _ => Guard::Protected,
        }
    }
}
