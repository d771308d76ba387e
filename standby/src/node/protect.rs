//! The promise about loss: writing it down, lifting it, and keeping its gate informed.

use std::sync::Weak;
use std::time::Duration;

use outlast_engine::Store;
use outlast_engine::clock::{Clock, SystemClock};
use outlast_engine::format::EpochReason;
use outlast_engine::format::limits::PROTECTIONS_MAX;
use outlast_proto::{
    Action, GATE_WINDOW_BYTES_DEFAULT, GateStatus, Guard, MonoTime, Policy, Protection, Standing,
};
use outlast_shipper::drive::{boot_time, why_held};

use super::health::why_unprotected;
use super::state::as_ms;
use super::{Inner, usage};
use crate::config::{self, NodeConfig};
use crate::control::protocol::FailureKind;
use crate::error::{Error, Result};
use crate::status::{ExposedStatus, ProtectionState, ProtectionStatus, Role, Unprotected};

/// How often it is looked at whether a promise may stand again, and whether a clock has jumped.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Further apart than a clock is slewed in that time: it was set, or this machine stood still.
const JUMP: Duration = Duration::from_millis(500);

impl Inner {
    /// An epoch of this node is about to begin: its gate goes on with what stands, or with nothing.
    pub(super) fn guard(&self, reason: EpochReason) {
        let members = self.peer().iter().map(|peer| peer.node).collect();
        let wish = self.wished(reason);
        *self.wish.lock() = wish.filter(|wish| *wish != config::Policy::Async);
        self.gatekeeper.begin(&self.store, reason, members);
    }

    /// What is to be promised as soon as that is possible, where the tenure that begins or goes on
    /// has no record of its own: what the cluster promised before, or what it was made with.
    fn wished(&self, reason: EpochReason) -> Option<config::Policy> {
        let Some(newest) = self.store.protections().pop() else {
            return self.config.policy;
        };
        let history = self.store.history();
        let mut tenures = history.epochs().iter().rev();
        let began = tenures.find(|epoch| epoch.reason != EpochReason::Restart);
        let goes_on = reason == EpochReason::Restart;
        if goes_on && began.is_none_or(|began| newest.mark.lsn > began.fork) {
            return None;
        }
        let newest = Protection::try_from(&newest.record).ok()?;
        Some(config::Policy::of(newest.policy, newest.action))
    }

    /// Writes down what the cluster is made with: as off, since no standby has anything yet. Where
    /// the standby is not known either, it is written when that has nearly all.
    pub(super) fn note_policy(&self) -> Result<()> {
        let policy = self.config.policy.unwrap_or_default();
        let standby = self.peer().map(|peer| peer.node);
        if policy != config::Policy::Async && standby.is_none() {
            return Ok(());
        }
        let note = "the policy that the cluster was made with";
        self.write_protection(policy.protection(standby, Standing::Off), note)?;
        Ok(())
    }

    pub(crate) fn set_policy(
        &self,
        policy: Policy,
        action: Action,
        note: &str,
        dry_run: bool,
    ) -> Result<Protection> {
        let _changing = self.changing_role.lock();
        let status = self.guarded()?;
        let Some(peer) = self.peer() else {
            let error = Error::refused("this node has no standby that could hold anything");
            return Err(error.hint("a bound needs one: outlast init --peer …"));
        };
        if let Err(what) = self.config.check_lease(&policy) {
            let what = format!("{what}; nothing was changed");
            return Err(Error::new(FailureKind::Usage, what));
        }
        let standing = match (&policy, status.newest.standing) {
            (Policy::Async, _) => Standing::Off,
            (_, Standing::InForce) => Standing::InForce,
            _ if self.standby_lacks_little() => Standing::InForce,
            _ => Standing::Off,
        };
        let policy = config::Policy::of(policy, action);
        let protection = policy.protection(Some(peer.node), standing);
        self.change_protection(protection, note, dry_run)
    }

    pub(crate) fn suspend_protection(
        &self,
        lasts: Duration,
        reason: &str,
        dry_run: bool,
    ) -> Result<Protection> {
        let _changing = self.changing_role.lock();
        require_reason(reason)?;
        let newest = self.guarded()?.newest;
        if newest.standing == Standing::Off {
            let what = "no bound is in force, so there is nothing to suspend; nothing was changed";
            return Err(Error::refused(what));
        }
        let suspended = newest.standing(Standing::Suspended { lasts });
        self.change_protection(suspended, reason, dry_run)
    }

    pub(crate) fn resume_protection(&self, reason: &str, dry_run: bool) -> Result<Protection> {
        let _changing = self.changing_role.lock();
        let newest = self.guarded()?.newest;
        let Standing::Suspended { .. } = newest.standing else {
            let what = "the bound is not suspended; nothing was changed";
            return Err(Error::refused(what));
        };
        self.change_protection(newest.standing(Standing::InForce), reason, dry_run)
    }

    /// How the promise stands, for people.
    pub(super) fn protection_status(
        &self,
        role: &Role,
        unprotected: Option<&Unprotected>,
    ) -> Option<ProtectionStatus> {
        self.config.peer.as_ref()?;
        let conflict = match role {
            Role::Primary => None,
            Role::Conflict { what } => Some(what.clone()),
            _ => return None,
        };
        let mut status = match self.gatekeeper.status() {
            Some(status) => self.figures(&status),
            None => ProtectionStatus::of(ProtectionState::Shut),
        };
        if conflict.is_some() {
            (status.state, status.why) = (ProtectionState::Conflict, conflict);
        }
        status.since_unix_ms = Some(self.stands_since(&status, unprotected));
        if let (ProtectionState::Off | ProtectionState::Suspended, Some(span)) =
            (status.state, unprotected.and_then(|it| it.now.as_ref()))
        {
            status.why = Some(why_unprotected(span));
        }
        Some(status)
    }

    fn figures(&self, status: &GateStatus) -> ProtectionStatus {
        let (state, why, ms) = standing(status, boot_time());
        let (terms, exposure) = (status.terms, status.exposure);
        let headroom = |most: Option<u64>, is: u64| most.map(|most| most.saturating_sub(is));
        let span_ms = exposure.span.map(as_ms);
        let exposed = self.gatekeeper.exposed();
        ProtectionStatus {
            why,
            ms: ms.map(as_ms),
            bound_bytes: terms.bytes,
            bound_commits: terms.commits,
            bound_ms: terms.time.map(as_ms),
            lease_ms: terms.lease.map(as_ms),
            lease_out: status.lease.is_out(),
            refuses: terms.action == Action::Refuse,
            exposure_bytes: exposure.bytes,
            exposure_commits: exposure.commits,
            exposure_ms: span_ms,
            contact_age_ms: status
                .contact
                .map(|contact| as_ms(boot_time().since(contact))),
            records_not_held: status.records_not_held as u64,
            headroom_bytes: headroom(terms.bytes, exposure.bytes),
            headroom_commits: headroom(terms.commits, exposure.commits),
            headroom_ms: span_ms.and_then(|ms| headroom(terms.time.map(as_ms), ms)),
            exposed: ExposedStatus {
                seconds: exposed.seconds,
                max_bytes: exposed.max.bytes,
                max_commits: exposed.max.commits,
                max_ms: exposed.max.span.map(as_ms),
                p99_bytes: exposed.p99.bytes,
                p99_commits: exposed.p99.commits,
                p99_ms: exposed.p99.span.map(as_ms),
            },
            ..ProtectionStatus::of(state)
        }
    }

    /// Since when it stands like this, on the wall clock.
    fn stands_since(&self, status: &ProtectionStatus, unprotected: Option<&Unprotected>) -> u64 {
        let now_ms = SystemClock::default().wall_ms();
        let noted = self.stood.lock().since(status.state, now_ms);
        match status.state {
            ProtectionState::Stalled => now_ms.saturating_sub(status.ms.unwrap_or_default()),
            ProtectionState::Off | ProtectionState::Suspended => unprotected
                .and_then(|it| it.now.as_ref())
                .map_or(noted, |span| span.since_unix_ms),
            _ => noted,
        }
    }

    fn note_standing(&self) {
        if let Some(status) = self.gatekeeper.status() {
            let (state, ..) = standing(&status, boot_time());
            let now_ms = SystemClock::default().wall_ms();
            self.stood.lock().since(state, now_ms);
        }
    }

    /// What an operator asked for: all but the writing, where it is a dry run.
    fn change_protection(
        &self,
        protection: Protection,
        note: &str,
        dry_run: bool,
    ) -> Result<Protection> {
        if dry_run {
            protection.check().map_err(usage)?;
            return Ok(protection);
        }
        self.write_protection(protection, note)
    }

    fn write_protection(&self, protection: Protection, note: &str) -> Result<Protection> {
        protection.check().map_err(usage)?;
        self.store
            .append_protection(&protection.to_record(note.trim().to_owned()))?;
        *self.wish.lock() = None;
        tracing::warn!(?protection, note, "a protection record was written");
        self.store.ask_gate();
        Ok(protection)
    }

    /// How the promise stands on this primary.
    fn guarded(&self) -> Result<GateStatus> {
        let role = self.role();
        let status = self.gatekeeper.status();
        let Some(status) = status.filter(|_| role == Role::Primary) else {
            let role = format!("{role:?}").to_lowercase();
            let error = Error::refused(format!(
                "only a primary promises anything (this node is: {role}); nothing was changed"
            ));
            return Err(error.hint("type it on the primary's host"));
        };
        if status.records_not_held >= PROTECTIONS_MAX / 2 {
            let what = "the standby lacks too many protection records to write another";
            return Err(Error::refused(what).hint("bring the standby back first: outlast status"));
        }
        Ok(status)
    }

    /// Whether the standby is attached and lacks less than what may wait for it.
    fn standby_lacks_little(&self) -> bool {
        let positions = self.store.positions();
        let lacks = positions.appended.lsn.bytes_since(positions.replicated.lsn);
        self.peer_view.lock().attached && lacks < GATE_WINDOW_BYTES_DEFAULT
    }

    /// Whether a promise waits to be written down as one that stands, and may be.
    fn may_engage(&self) -> bool {
        let waits = self.wish.lock().is_some() || self.gatekeeper.to_engage().is_some();
        waits && self.standby_lacks_little()
    }

    /// What was wished for, as promised to the standby that is there now.
    fn wish_come_true(&self) -> Option<Protection> {
        let wish = (*self.wish.lock())?;
        let protection = wish.protection(Some(self.peer()?.node), Standing::InForce);
        Some(protection)
    }

    /// Writes down that a promise stands, once it may.
    fn engage(&self) {
        let Some(_changing) = self.changing_role.try_lock() else {
            return;
        };
        if self.role() != Role::Primary || !self.standby_lacks_little() {
            return;
        }
        let Some(protection) = self
            .gatekeeper
            .to_engage()
            .or_else(|| self.wish_come_true())
        else {
            return;
        };
        let written = self.write_protection(protection, "the standby has nearly all");
        if let Err(error) = written {
            tracing::error!(%error, "the bound could not be written down as in force");
        }
    }
}

/// How a gate stands: why, and for how long, or for how much longer.
fn standing(
    status: &GateStatus,
    now: MonoTime,
) -> (ProtectionState, Option<String>, Option<Duration>) {
    match status.guard {
        Guard::Off => (ProtectionState::Off, None, None),
        Guard::Protected => (ProtectionState::Protected, None, None),
        Guard::Suspended { until } => (ProtectionState::Suspended, None, Some(until.since(now))),
        Guard::Stalled { since, why } => {
            let why = why_held(why).to_owned();
            (ProtectionState::Stalled, Some(why), Some(now.since(since)))
        }
        Guard::Shut => (ProtectionState::Shut, None, None),
    }
}

/// Since when the promise stands as it does, as far as this process has seen.
#[derive(Default)]
pub(super) struct Stood {
    last: Option<(ProtectionState, u64)>,
}

impl Stood {
    /// Since when it stands like this, which it does now.
    fn since(&mut self, state: ProtectionState, now_ms: u64) -> u64 {
        // While commits wait, the promise is kept all the same.
        let state = match state {
            ProtectionState::Stalled => ProtectionState::Protected,
            other => other,
        };
        match self.last {
            Some((last, since_ms)) if last == state => since_ms,
            _ => {
                self.last = Some((state, now_ms));
                now_ms
            }
        }
    }
}

/// The name of the policy that the newest record of the log says.
pub(super) fn policy_name(store: &Store, config: &NodeConfig) -> String {
    let newest = store.protections().pop();
    let newest = newest.and_then(|newest| Protection::try_from(&newest.record).ok());
    match newest {
        Some(newest) => newest.policy.name().to_owned(),
        None => config.policy.unwrap_or_default().name().to_owned(),
    }
}

fn require_reason(reason: &str) -> Result<()> {
    if reason.trim().is_empty() {
        let error = Error::new(FailureKind::Usage, "no reason was given for the record");
        return Err(error.hint("--reason '…'"));
    }
    Ok(())
}

/// Asks the gate again when its time has come, and looks after what the passing of time changes;
/// until the node is gone.
pub(super) async fn keep(inner: Weak<Inner>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut clocks = Clocks::default();
    loop {
        let Some(node) = inner.upgrade() else { return };
        let gatekeeper = node.gatekeeper.clone();
        drop(node);
        let ticked = tokio::select! {
            () = gatekeeper.due() => false,
            _ = ticks.tick() => true,
        };
        let Some(node) = inner.upgrade() else { return };
        if ticked {
            node.note_standing();
        }
        if ticked && clocks.have_parted() {
            tracing::warn!("the wall clock jumped: the standby counts as heard from anew");
            gatekeeper.on_clock_jump();
        }
        if node.may_engage() {
            let engaging = node.clone();
            let engaged = tokio::task::spawn_blocking(move || engaging.engage()).await;
            if engaged.is_err() {
                tracing::error!("writing down that the bound is in force panicked");
            }
        }
        node.store.ask_gate();
    }
}

/// How far the wall clock is from the boot clock.
#[derive(Default)]
struct Clocks {
    apart_ms: Option<i128>,
}

impl Clocks {
    /// Whether one of the two has jumped since the last look.
    fn have_parted(&mut self) -> bool {
        let wall_ms = SystemClock::default().wall_ms();
        let boot_ms = boot_time().as_duration().as_millis();
        let apart_ms = i128::from(wall_ms) - i128::try_from(boot_ms).unwrap_or(i128::MAX);
        let before = self.apart_ms.replace(apart_ms);
        before.is_some_and(|before| before.abs_diff(apart_ms) > JUMP.as_millis())
    }
}
