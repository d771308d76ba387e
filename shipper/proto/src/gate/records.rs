//! The records that still count: tightening works at once, loosening once the standbys hold it.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use outlast_engine::format::{Lsn, NodeId};
use outlast_engine::planted::{Bug, on};

use super::policy::{Protection, Standing};
use super::terms::Terms;
use crate::points::ProtectionPoint;
use crate::time::MonoTime;

/// Records in the order of the log, from the newest one that every standby holds.
///
/// Invariant: at least one; the positions rise.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Records {
    base: Protection,
    later: VecDeque<(ProtectionPoint, Protection)>,
    suspension: Option<Suspension>,
}

/// A promise that is lifted for a while, or is about to be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Suspension {
    point: ProtectionPoint,
    lasts: Duration,
    /// When it took effect.
    began: Option<MonoTime>,
}

/// What a suspension waits for.
pub(super) struct Heard {
    /// End of what is fsynced here.
    pub(super) durable: Lsn,
    /// The newest record that every standby has echoed.
    pub(super) echoed: Option<ProtectionPoint>,
    /// Whether no standby can have been heard for as long as the lease.
    pub(super) silent: bool,
}

impl Records {
    pub(super) const fn new(base: Protection) -> Self {
        Self {
            base,
            later: VecDeque::new(),
            suspension: None,
        }
    }

    /// A record is in the log.
    pub(super) fn push(&mut self, point: ProtectionPoint, protection: Protection) {
        let last = self.later.back().map(|(point, _)| *point);
        assert!(last < Some(point), "record {point:?} behind {last:?}");
        self.suspension = match protection.standing {
            Standing::Suspended { lasts } => Some(Suspension {
                point,
                lasts: lasts * (1 + u32::from(on(Bug::SuspensionLate))),
                began: None,
            }),
            Standing::Off | Standing::InForce => None,
        };
        self.later.push_back((point, protection));
    }

    /// Every standby holds the log up to here: of the records below, only the newest still counts.
    /// Answers whether any counts no more.
    pub(super) fn held(&mut self, replicated: Lsn) -> bool {
        let before = self.later.len();
        while let Some((point, _)) = self.later.front()
            && point.lsn <= replicated
            && let Some((_, protection)) = self.later.pop_front()
        {
            self.base = protection;
        }
        self.later.len() < before
    }

    /// Begins and ends suspensions.
    pub(super) fn settle(&mut self, now: MonoTime, heard: &Heard) {
        let Some(suspension) = &mut self.suspension else {
            return;
        };
        match suspension.began {
            None if heard.durable >= suspension.point.lsn
                && (heard.echoed >= Some(suspension.point)
                    || heard.silent
                    || on(Bug::SuspensionUnheard)) =>
            {
                suspension.began = Some(now);
            }
            Some(began) if now.since(began) >= suspension.lasts => self.suspension = None,
            _ => {}
        }
    }

    /// Ends a suspension, as a restart does.
    pub(super) const fn end_suspension(&mut self) {
        self.suspension = None;
    }

    /// Whether no suspension is in effect or waits to be.
    pub(super) const fn suspension_is_over(&self) -> bool {
        self.suspension.is_none()
    }

    /// Until when the promise is lifted, if it is.
    pub(super) fn suspended_until(&self) -> Option<MonoTime> {
        let suspension = self.suspension.as_ref()?;
        Some(suspension.began?.after(suspension.lasts))
    }

    /// Whether a suspension has not taken effect yet.
    pub(super) fn suspension_waits(&self) -> bool {
        self.suspension.is_some_and(|s| s.began.is_none())
    }

    /// What is promised, whether it is lifted or not.
    pub(super) fn promised(&self) -> Terms {
        let base = Terms::of(&self.base);
        if on(Bug::LooseningAtOnce) {
            return Terms::of(self.newest());
        }
        if on(Bug::TighteningLate) {
            return base;
        }
        let later = self.later.iter().map(|(_, protection)| protection);
        later.fold(base, |older, newer| Terms::of(newer).and(older))
    }

    /// All standbys that some record names.
    pub(super) fn members(&self) -> BTreeSet<NodeId> {
        let later = self.later.iter().map(|(_, protection)| protection);
        std::iter::once(&self.base)
            .chain(later)
            .flat_map(|protection| protection.members.iter().copied())
            .collect()
    }

    /// The newest record.
    pub(super) fn newest(&self) -> &Protection {
        self.later
            .back()
            .map_or(&self.base, |(_, protection)| protection)
    }

    /// How many records the standbys are not known to hold.
    pub(super) fn unheld(&self) -> usize {
        self.later.len()
    }
}
