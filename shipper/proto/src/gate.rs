//! The gate: which commits may be answered OK, so that no more is ever lost than was promised.
//!
//! A [`Gate`] lives as long as one epoch of a primary. It is told what the standbys hold and when
//! they were heard, which protection records the log holds, and asked what may be answered. It
//! keeps no commit and wakes nobody.

mod answered;
mod lease;
mod peaks;
mod policy;
mod record;
mod records;
mod slope;
mod status;
mod terms;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use outlast_engine::format::{Lsn, NodeId, Position};
use outlast_engine::planted::{Bug, on};

use self::answered::{Answered, Since};
pub use self::lease::{CLOCK_RATE_ERROR_PPM, Lease, fenced_after};
pub use self::peaks::{PEAK_SECONDS, PeakExposure, Peaks};
pub use self::policy::{
    Action, BOUND_TIME_MAX, BOUND_TIME_MIN, Bound, LEASE_DEFAULT, Policy, Protection,
    ProtectionFault, Standing,
};
use self::records::{Heard, Records};
use self::slope::Slope;
pub use self::status::{Exposure, GateStatus, Guard};
pub use self::terms::Terms;
use crate::points::ProtectionPoint;
use crate::time::MonoTime;

/// Default of [`GateConfig::window_bytes`].
pub const GATE_WINDOW_BYTES_DEFAULT: u64 = 8 << 20;

/// How a gate works, apart from what is promised.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GateConfig {
    /// Most bytes of log that wait for the gate before new commits wait outside of the log. Default
    /// 8 MiB. A single group may be longer.
    pub window_bytes: u64,
    /// Whether answers are slowed down as exposure nears the bound. Default yes; without, commits
    /// run into the bound and stop there until the standby has caught up.
    pub slope: bool,
}

impl Default for GateConfig {
    fn default() -> Self {
        Self {
            window_bytes: GATE_WINDOW_BYTES_DEFAULT,
            slope: true,
        }
    }
}

/// What is true when an epoch begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GateStart {
    /// The newest record that all standbys hold; that nothing is promised, where there is none.
    pub base: Protection,
    /// The records behind it that are in the log already. A suspension among them has ended.
    pub later: Vec<(ProtectionPoint, Protection)>,
    /// End of what a process before this one may have answered.
    pub recovered: Position,
}

impl GateStart {
    /// An epoch that goes on under one record, which all standbys hold.
    #[must_use]
    pub const fn of(base: Protection, recovered: Position) -> Self {
        Self {
            base,
            later: Vec::new(),
            recovered,
        }
    }
}

/// Why an answer is held back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Held {
    /// The standbys would lack more bytes than is promised.
    Bytes,
    /// They would lack more commits.
    Commits,
    /// They lack something that was answered too long ago.
    Time,
    /// They were not heard for as long as the lease.
    Lease,
    /// Nothing yet: the answer comes a little later, because the bound is near.
    Slope,
    /// This gate is shut for good.
    Shut,
}

/// What may be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// All that waits up to here is answered OK, and may be seen; `None` when nothing is.
    pub passed: Option<Position>,
    /// Why the next that is durable is not.
    pub held: Option<Held>,
    /// When to ask again, if nothing happens before.
    pub again_at: Option<MonoTime>,
}

/// What becomes of a commit that is not in the log yet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Admission {
    /// It may be appended.
    Go,
    /// It waits outside of the log.
    Wait(Held),
    /// It fails: new commits are to be refused, for this reason.
    Refuse(Held),
}

/// What one standby has said.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Member {
    /// What it reported durable in its session; between sessions, in the last one.
    replicated: Position,
    /// When the newest heartbeat that it echoed was formed.
    contact: Option<MonoTime>,
    /// The newest protection record that it echoed.
    echoed: Option<ProtectionPoint>,
}

/// The gate of one epoch, as a pure state machine.
///
/// It never reads a clock. `now` is the primary's boot clock and never goes backwards; it is read
/// *after* whoever asks has captured the positions that it asks about.
///
/// Invariants, while something is promised:
/// 1. What is answered is durable here.
/// 2. After each answer the standbys lack no more bytes and commits than the bound of that moment,
///    and the span from the oldest answer that they lack to the newest is not longer.
/// 3. Nothing is answered later than a lease after the newest heartbeat that all have echoed.
/// 4. A record that tightens binds every answer after it; one that loosens, none before all of them
///    hold it, but for a suspension.
/// 5. Nothing is answered any more once it is shut.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Gate {
    config: GateConfig,
    now: MonoTime,
    records: Records,
    /// The standbys that the records name.
    named: BTreeSet<NodeId>,
    members: BTreeMap<NodeId, Member>,
    answered: Answered,
    slope: Slope,
    /// Heartbeats from before this moment count for nothing.
    contact_from: MonoTime,
    /// Until this moment a standby that does not count as heard may have been: by the process
    /// before this one, or before it was dropped.
    forgotten_at: MonoTime,
    durable: Lsn,
    /// Since when, and why, the first that waits is held back.
    held: Option<(MonoTime, Held)>,
    shut: bool,
}

impl Gate {
    /// The gate of an epoch that begins.
    ///
    /// # Panics
    /// When what is promised contradicts itself.
    #[must_use]
    pub fn new(now: MonoTime, config: GateConfig, start: GateStart) -> Self {
        let GateStart {
            base,
            later,
            recovered,
        } = start;
        assert_eq!(base.check(), Ok(()), "{base:?}");
        let mut records = Records::new(base);
        for (point, protection) in later {
            assert_eq!(protection.check(), Ok(()), "{protection:?}");
            records.push(point, protection);
        }
        records.end_suspension();
        let mut gate = Self {
            config,
            now,
            named: records.members(),
            records,
            members: BTreeMap::new(),
            answered: Answered::new(recovered),
            slope: Slope::default(),
            contact_from: MonoTime::default(),
            forgotten_at: now,
            durable: Lsn::ZERO,
            held: None,
            shut: false,
        };
        gate.take_stock();
        gate
    }

    /// A protection record is in the log; it counts from now on.
    ///
    /// # Panics
    /// When it contradicts itself, or is not newer than the last.
    pub fn on_record(&mut self, point: ProtectionPoint, protection: Protection) {
        assert_eq!(protection.check(), Ok(()), "{protection:?}");
        self.records.push(point, protection);
        self.named = self.records.members();
        self.take_stock();
    }

    /// A standby reported what it has durable, in its present session; maybe less than before.
    pub fn on_replicated(&mut self, now: MonoTime, node: NodeId, replicated: Position) {
        self.tick(now);
        self.members.entry(node).or_default().replicated = replicated;
        self.take_stock();
    }

    /// A standby has echoed a heartbeat of its present session that was formed at `stamp` and named
    /// `told` as the newest record.
    pub fn on_echo(
        &mut self,
        now: MonoTime,
        node: NodeId,
        stamp: MonoTime,
        told: Option<ProtectionPoint>,
    ) {
        self.tick(now);
        assert!(stamp <= now, "a heartbeat of {stamp} was echoed at {now}");
        let member = self.members.entry(node).or_default();
        member.echoed = member.echoed.max(told);
        let stamp = if on(Bug::LeaseFromArrival) {
            now
        } else {
            stamp
        };
        if stamp >= self.contact_from {
            member.contact = member.contact.max(Some(stamp));
        }
    }

    /// A standby has withdrawn, in order to be promoted: what it echoed before counts no more.
    pub fn on_withdrawn(&mut self, now: MonoTime, node: NodeId) {
        self.tick(now);
        self.forgotten_at = now;
        self.members.entry(node).or_default().contact = None;
    }

    /// The wall clock jumped against the boot clock, so this machine may have stood still with its
    /// clocks: no standby counts as heard before it answers a heartbeat from after now.
    pub fn on_clock_jump(&mut self, now: MonoTime) {
        self.tick(now);
        (self.contact_from, self.forgotten_at) = (now, now);
        self.members
            .values_mut()
            .for_each(|member| member.contact = None);
    }

    /// Answers nothing any more: a higher term exists, or two histories contradict each other.
    pub const fn shut(&mut self) {
        self.shut = true;
    }

    /// Decides, once, what of `waiting` (ends of frames, in the order of the log) may be answered
    /// at `now`, with all up to `durable` fsynced here.
    ///
    /// # Panics
    /// When time or a position goes backwards.
    pub fn decide(
        &mut self,
        now: MonoTime,
        durable: Lsn,
        waiting: impl IntoIterator<Item = Position>,
    ) -> Decision {
        self.tick(now);
        assert!(
            durable >= self.durable,
            "durable from {} to {durable}",
            self.durable
        );
        self.durable = durable;
        self.settle();
        let terms = self.terms();
        let mut passed: Option<Position> = None;
        let mut held = None;
        for end in waiting {
            assert!(
                passed.is_none_or(|passed| end.covers(&passed)),
                "{end:?} behind {passed:?}"
            );
            if end.lsn > durable {
                break;
            }
            held = self.objection(&terms, end);
            if held.is_some() {
                break;
            }
            passed = Some(end);
        }
        if let Some(passed) = passed {
            self.answer(&terms, passed);
        }
        self.held = match (held, self.held) {
            (Some(held), Some((since, _))) if passed.is_none() => Some((since, held)),
            (held, _) => held.map(|held| (now, held)),
        };
        Decision {
            passed,
            held,
            again_at: self.again_at(held),
        }
    }

    /// What becomes of a commit that is to be appended now, with the log ending at `appended` and
    /// all up to `visible` answered.
    #[must_use]
    pub fn admit(&mut self, now: MonoTime, appended: Lsn, visible: Lsn) -> Admission {
        self.tick(now);
        self.settle();
        let terms = self.terms();
        if self.shut || terms.is_free() || on(Bug::WindowIgnored) {
            return Admission::Go;
        }
        let lease_out = self.lease().is_out();
        let full = appended.bytes_since(visible) > self.config.window_bytes;
        let why = match self.held {
            _ if lease_out => Held::Lease,
            Some((_, held)) => held,
            None => Held::Bytes,
        };
        // A bound that is used up for a moment is the normal state of a tight one.
        let patience = terms.lease.unwrap_or_default();
        let long = self
            .held
            .is_some_and(|(since, _)| now.since(since) > patience);
        match terms.action {
            Action::Refuse if lease_out || long || full => Admission::Refuse(why),
            _ if full => Admission::Wait(why),
            _ => Admission::Go,
        }
    }

    /// Until when what is visible here is known to be current.
    pub fn lease_at(&mut self, now: MonoTime) -> Lease {
        self.tick(now);
        self.settle();
        self.lease()
    }

    /// Why the frame that ends here may not be answered now.
    fn objection(&self, terms: &Terms, end: Position) -> Option<Held> {
        if self.shut {
            return Some(Held::Shut);
        }
        if terms.is_free() {
            return None;
        }
        if self.lease().is_out() && !on(Bug::LeaseNotAsked) {
            return Some(Held::Lease);
        }
        let replicated = self.replicated();
        let end = if on(Bug::BoundForgetsNewest) {
            self.answered.newest()
        } else {
            end
        };
        let beyond = u64::from(on(Bug::BoundOffByOne));
        let missing_bytes = end.lsn.bytes_since(replicated.lsn).saturating_sub(beyond);
        let missing_commits = end.commit.saturating_sub(replicated.commit + beyond);
        if terms.bytes.is_some_and(|most| missing_bytes > most) {
            return Some(Held::Bytes);
        }
        if terms.commits.is_some_and(|most| missing_commits > most) {
            return Some(Held::Commits);
        }
        let too_old = |most| match self.answered.oldest() {
            Since::Nothing => false,
            Since::At(oldest) => self.now.since(oldest) > most,
            Since::Unknown => true,
        };
        if terms.time.is_some_and(too_old) {
            return Some(Held::Time);
        }
        let slowed = self.config.slope && missing_bytes > 0 && self.slope.holds(self.now);
        slowed.then_some(Held::Slope)
    }

    fn answer(&mut self, terms: &Terms, end: Position) {
        let before = self.answered.newest();
        self.answered.answer(self.now, end);
        if end.lsn <= before.lsn {
            // The process before this one may have answered it.
            return;
        }
        let exposure = self.exposure();
        let within = terms.bytes.is_none_or(|most| exposure.bytes <= most)
            && terms.commits.is_none_or(|most| exposure.commits <= most)
            && terms
                .time
                .is_none_or(|most| exposure.span.is_some_and(|span| span <= most));
        let planted = on(Bug::BoundForgetsNewest) || on(Bug::BoundOffByOne);
        let planted = planted || on(Bug::SpanFromNewest);
        assert!(
            within || planted,
            "answered {end:?} with {exposure:?} under {terms:?}"
        );
        if self.config.slope {
            self.slope.answered(self.now, terms, before, end, exposure);
        }
    }

    /// When time alone changes what may be answered.
    fn again_at(&self, held: Option<Held>) -> Option<MonoTime> {
        let slope = self.slope.until().filter(|_| held == Some(Held::Slope));
        let pending = self.records.suspension_waits().then(|| {
            let out_at = self.silent_from();
            out_at.map_or(self.now, |at| at.after(Duration::from_nanos(1)))
        });
        let resumes = self.records.suspended_until();
        [slope, pending, resumes].into_iter().flatten().min()
    }

    /// What must hold for an answer now.
    fn terms(&self) -> Terms {
        if self.records.suspended_until().is_some() {
            return Terms::default();
        }
        self.records.promised()
    }

    /// The lease of what is promised, whether it is suspended or not.
    fn lease(&self) -> Lease {
        Lease::at(self.now, self.records.promised().lease, self.contact())
    }

    /// The last moment of the lease, were those that do not count as heard heard until they were
    /// forgotten; `None` where no lease is asked for.
    fn silent_from(&self) -> Option<MonoTime> {
        let lease = self.records.promised().lease?;
        let heard = self.contact().unwrap_or(self.forgotten_at);
        Some(heard.after(lease))
    }

    /// End of what all standbys hold; of everything where there is none.
    fn replicated(&self) -> Position {
        self.worst(|member| member.replicated)
            .unwrap_or(Position::new(Lsn(u64::MAX), u64::MAX))
    }

    /// When the newest heartbeat was formed that all standbys have echoed, it or a later one.
    fn contact(&self) -> Option<MonoTime> {
        self.worst(|member| member.contact).flatten()
    }

    /// The least of what the standbys have said; those that said nothing count.
    fn worst<T: Ord>(&self, of: impl Fn(&Member) -> T) -> Option<T> {
        let silent = Member::default();
        let member = |node| of(self.members.get(node).unwrap_or(&silent));
        self.named.iter().map(member).min()
    }

    /// What follows from the positions and records as they are now.
    fn take_stock(&mut self) {
        // Whom a record names no more is not asked whether it holds the next.
        while self.records.held(self.replicated().lsn) {
            self.named = self.records.members();
        }
        let replicated = self.replicated();
        if let Some(took) = self.answered.replicated(self.now, replicated)
            && self.config.slope
        {
            self.slope.replicated(took);
        }
    }

    /// What follows from the time that has passed.
    fn settle(&mut self) {
        let heard = Heard {
            durable: self.durable,
            echoed: self.worst(|member| member.echoed).flatten(),
            silent: self.silent_from().is_some_and(|from| self.now > from),
        };
        self.records.settle(self.now, &heard);
    }

    fn tick(&mut self, now: MonoTime) {
        assert!(now >= self.now, "time went from {} to {now}", self.now);
        self.now = now;
    }
}
