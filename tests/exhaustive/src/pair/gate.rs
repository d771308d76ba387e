//! The product's own gate in the primary of the model: a tick is a second, a frame one byte and one
//! commit.

use std::rc::Rc;
use std::time::Duration;

use outlast_engine::format::{EpochId, Lsn, NodeId, Position};
use outlast_proto::{
    Action, Bound, Gate, GateConfig, GateStart, Guard, MonoTime, Policy, Protection,
    ProtectionPoint, Standing,
};

use super::{LEASE, Pair, Record, Rule, State};

const STANDBY: NodeId = NodeId([2; 16]);

fn seconds(ticks: u8) -> Duration {
    Duration::from_secs(u64::from(ticks))
}

fn moment(ticks: u8) -> MonoTime {
    MonoTime::new(seconds(ticks))
}

fn position(frame: u8) -> Position {
    Position::new(Lsn(u64::from(frame)), u64::from(frame))
}

/// The record whose frame is this one.
fn point(frame: u8) -> ProtectionPoint {
    ProtectionPoint {
        term: 1,
        start: 1,
        lsn: Lsn(u64::from(frame)),
        epoch: EpochId([1; 16]),
    }
}

fn promise(commits: u8, time: Option<u8>, standing: Standing) -> Protection {
    Protection {
        policy: Policy::Bounded(Bound {
            bytes: None,
            commits: time.is_none().then_some(u64::from(commits)),
            time: time.map(seconds),
            lease: seconds(LEASE),
        }),
        action: Action::Stall,
        members: vec![STANDBY],
        copies: 1,
        standing,
    }
}

impl Pair {
    /// A bound that was switched off is one that nobody reaches.
    fn enforced(&self, bound: u8) -> u8 {
        if self.on(Rule::AnswerWithinBound) {
            bound
        } else {
            u8::MAX
        }
    }

    fn span(&self) -> Option<u8> {
        let most = !self.on(Rule::AnswerWithinTime);
        self.time.map(|time| if most { u8::MAX } else { time })
    }

    fn protection(&self, record: &Record) -> Protection {
        let standing = record
            .lasts
            .map_or(Standing::InForce, |ticks| Standing::Suspended {
                lasts: seconds(ticks),
            });
        promise(self.enforced(record.bound), self.span(), standing)
    }

    fn base(&self) -> Protection {
        let none = Protection::none(vec![STANDBY]);
        let bound = self.bound.map(|bound| self.enforced(bound));
        bound.map_or(none, |bound| promise(bound, self.span(), Standing::InForce))
    }

    fn made(&self, s: &State, base: Protection, later: Vec<(ProtectionPoint, Protection)>) -> Gate {
        let config = GateConfig {
            slope: false,
            ..GateConfig::default()
        };
        let start = GateStart {
            base,
            later,
            recovered: position(s.answered),
        };
        Gate::new(moment(s.now), config, start)
    }

    /// A gate for the moment before there is one.
    pub(super) fn nothing(&self) -> Gate {
        let start = GateStart::of(Protection::none(vec![STANDBY]), Position::ZERO);
        Gate::new(moment(0), GateConfig::default(), start)
    }

    /// The gate of a primary that starts, or starts again.
    pub(super) fn gate(&self, s: &State) -> Rc<Gate> {
        let held = self.records.iter().filter(|record| record.at <= s.appended);
        let later = held.map(|record| (point(record.at), self.protection(record)));
        Rc::new(self.made(s, self.base(), later.collect()))
    }

    /// The gate of one that was told to go on alone: nothing is promised from there on.
    pub(super) fn gate_alone(&self, s: &State) -> Rc<Gate> {
        Rc::new(self.made(s, Protection::none(vec![STANDBY]), Vec::new()))
    }

    /// A record is in the log.
    pub(super) fn tell_record(&self, s: &mut State, record: &Record) {
        let protection = self.protection(record);
        if !self.on(Rule::LooseningWaitsForStandby) {
            s.gate = Rc::new(self.made(s, protection, Vec::new()));
            let (replicated, contact) = (s.replicated, s.contact);
            tell_replicated(s, replicated);
            if let Some(stamp) = contact {
                tell_echo(s, stamp, 0);
            }
            return;
        }
        let contact = s.contact;
        let gate = Rc::make_mut(&mut s.gate);
        gate.on_record(point(record.at), protection);
        if !self.on(Rule::SuspensionHeard)
            && let Some(stamp) = contact
        {
            tell_echo(s, stamp, record.at);
        }
    }

    /// The newest record in the primary's log.
    pub(super) fn newest(&self, end: u8) -> Option<&Record> {
        self.records.iter().rev().find(|record| record.at <= end)
    }

    /// The record that becomes part of the log with this frame.
    pub(super) fn record_at(&self, frame: u8) -> Option<&Record> {
        self.records.iter().find(|record| record.at == frame)
    }

    /// What the gate answers next: with this gate, under a promise or not.
    pub(super) fn decide(&self, s: &State) -> Option<(Rc<Gate>, bool)> {
        let end = s.answered + 1;
        if end > s.appended {
            return None;
        }
        // One that reads its clock too early decides as of then.
        let early = s.read.as_ref().filter(|_| !self.on(Rule::ClockReadLast));
        let (gate, now) = early.map_or((&s.gate, s.now), |(gate, now)| (gate, *now));
        let mut gate = Rc::clone(gate);
        let asked = Rc::make_mut(&mut gate);
        let durable = position(s.appended).lsn;
        let decision = asked.decide(moment(now), durable, [position(end)]);
        decision.passed?;
        let promised = !asked.status(moment(now)).terms.is_free();
        Some((gate, promised))
    }
}

pub(super) fn tell_replicated(s: &mut State, durable: u8) {
    let now = moment(s.now);
    Rc::make_mut(&mut s.gate).on_replicated(now, STANDBY, position(durable));
}

/// The standby echoed what was sent at `stamp`, and named the record at `told`.
pub(super) fn tell_echo(s: &mut State, stamp: u8, told: u8) {
    let now = moment(s.now);
    let told = (told > 0).then(|| point(told));
    Rc::make_mut(&mut s.gate).on_echo(now, STANDBY, moment(stamp), told);
}

/// Lets the gate see what time it is and what is durable, as whoever asks it does.
pub(super) fn refresh(s: &mut State) {
    let (now, durable) = (moment(s.now), position(s.appended).lsn);
    let decision = Rc::make_mut(&mut s.gate).decide(now, durable, []);
    assert_eq!(decision.passed, None, "an answer to nothing");
}

/// Whether the promise is suspended.
pub(super) fn suspended(s: &mut State) -> bool {
    refresh(s);
    let status = Rc::make_mut(&mut s.gate).status(moment(s.now));
    matches!(status.guard, Guard::Suspended { .. })
}
