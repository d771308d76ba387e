//! A primary, its standby, the line between them, and one promotion.
//!
//! What the primary may answer is decided by the product's own gate ([`outlast_proto::Gate`]),
//! which is a part of the state; everything else is written down again here.

mod gate;
mod rules;
mod words;

use std::rc::Rc;

use outlast_proto::Gate;

pub use self::rules::Rule;
use crate::search::Model;

/// Ticks of its own clock for which the primary answers after contact.
const LEASE: u8 = 1;
/// Most by which the clocks may run apart, in ticks, either way.
const DRIFT: i8 = 1;
/// Ticks of silence that fence: more than the lease after both clocks have erred the wrong way.
const FENCE: u8 = LEASE + 3;

/// A pair and the limits of what may happen to it.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// The rule that is switched off.
    pub off: Option<Rule>,
    /// Frames of the log, the protection record among them.
    pub frames: u8,
    /// Commits that may be lost, by the record that both hold at first; `None`: no promise.
    pub bound: Option<u8>,
    /// Ticks between the first and the last answer that may be lost, where time is what is bounded
    /// instead.
    pub time: Option<u8>,
    /// Protection records, in the order of the log.
    pub records: &'static [Record],
    /// Sessions that may begin.
    pub sessions: u8,
    /// Messages under way at once.
    pub under_way: usize,
    /// Where the primary's clock stops, in ticks since it booted.
    pub clock: u8,
    /// Crashes of the primary.
    pub primary_crashes: u8,
    /// Whether an operator may tell a restarted primary to go on alone.
    pub alone: bool,
    /// Crashes of the standby.
    pub standby_crashes: u8,
    /// Whether a delivered message may come again.
    pub duplicates: bool,
}

/// A protection record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Record {
    /// Which frame it is.
    pub at: u8,
    /// Commits that may be lost by it.
    pub bound: u8,
    /// For how many ticks that is suspended, if it is.
    pub lasts: Option<u8>,
}

/// What a primary that went on alone names as its newest record: its epoch's start.
const ALONE: u8 = u8::MAX;

/// A message. All name their session; `stamp` is a tick of the primary's clock.
#[allow(
    missing_docs,
    reason = "the words above and those of the variants say it"
)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Message {
    /// The primary begins a session, at this moment of its clock.
    Hello {
        session: u8,
        stamp: u8,
        /// The newest protection record; 0 for that which both held at first.
        record: u8,
        /// Whether the promise was lifted when this was formed.
        lifted: bool,
    },
    /// The standby agrees, and holds this much.
    Welcome { session: u8, stamp: u8, durable: u8 },
    /// The log up to here.
    Data { session: u8, end: u8 },
    /// This much is durable.
    Ack { session: u8, durable: u8 },
    /// A heartbeat, and the newest protection record.
    Heartbeat {
        session: u8,
        stamp: u8,
        record: u8,
        lifted: bool,
    },
    /// Its echo.
    Echo { session: u8, stamp: u8, record: u8 },
}

/// What may happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The primary makes a frame durable.
    Append,
    /// The gate reads its clock early.
    ReadClock,
    /// The gate answers the next commit OK.
    Answer,
    /// The primary's clock moves on.
    PrimaryTick,
    /// The standby's clock moves on.
    StandbyTick,
    /// The primary sends this.
    Send(Message),
    /// This arrives.
    Arrive(Message),
    /// This arrives and will come again.
    ArriveTwice(Message),
    /// This is lost.
    Drop(Message),
    /// The standby fsyncs.
    Fsync,
    /// The primary crashes and boots again.
    PrimaryCrash,
    /// The primary is told to go on alone.
    Alone,
    /// The standby crashes and boots again.
    StandbyCrash,
    /// The standby withdraws.
    Withdraw,
    /// The standby is promoted.
    Promote,
}

/// What a promotion certified.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Certificate {
    durable: u8,
    bound: u8,
}

/// A pair at one moment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    // The primary.
    appended: u8,
    answered: u8,
    now: u8,
    /// A gate that has read its clock, and when.
    read: Option<(Rc<Gate>, u8)>,
    gate: Rc<Gate>,
    contact: Option<u8>,
    replicated: u8,
    session: u8,
    /// Whether this process has said hello in this session.
    asked: bool,
    up: bool,
    primary_crashes: u8,
    /// Whether it started again and has not heard from its standby yet.
    waits: bool,
    alone: bool,
    /// Whether the promise was lifted.
    lifted: bool,
    // The standby.
    received: u8,
    durable: u8,
    /// The newest record that it noted, and what of that is durable.
    told: u8,
    told_durable: u8,
    /// Whether it has answered something that was formed after the promise was lifted.
    knows: bool,
    silence: u8,
    silence_noted: u8,
    followed: u8,
    withdrawn: bool,
    promoted: bool,
    certificate: Option<Certificate>,
    standby_crashes: u8,
    // Both.
    skew: i8,
    line: Vec<Message>,
    /// Whether the primary answered under the bound after the certificate.
    late: bool,
    fault: Option<&'static str>,
    /// When each commit was answered, where time is bounded.
    times: Vec<u8>,
}

impl Pair {
    fn on(&self, rule: Rule) -> bool {
        self.off != Some(rule)
    }

    /// What a standby may certify that holds its log up to `durable`.
    fn certificate(&self, s: &State, durable: u8) -> Option<Certificate> {
        let by_log = self.newest(durable);
        let mut newest = by_log;
        if s.told > by_log.map_or(0, |record| record.at) {
            if s.told == ALONE || self.on(Rule::CertificateByRecord) {
                return None;
            }
            newest = self.record_at(s.told);
        }
        let bound = match newest {
            None => self.bound,
            Some(Record { lasts: Some(_), .. }) if self.on(Rule::CertificateInForce) => None,
            Some(record) => Some(record.bound),
        };
        bound.map(|bound| Certificate { durable, bound })
    }

    /// The record that a primary names as its newest.
    fn named(&self, s: &State) -> u8 {
        if s.alone && self.on(Rule::EpochStartTold) {
            return ALONE;
        }
        self.newest(s.appended).map_or(0, |record| record.at)
    }

    /// The standby notes a record, and that it is about to answer.
    fn note(&self, s: &mut State, record: u8, lifted: bool) {
        s.told = s.told.max(record);
        if self.on(Rule::NoteBeforeEcho) {
            s.told_durable = s.told;
        }
        s.knows |= lifted;
    }

    /// Whether the promise is lifted now: a standby that was heard within the lease knows of it.
    fn look(&self, s: &mut State) {
        if s.lifted || !self.records.iter().any(|record| record.lasts.is_some()) {
            return;
        }
        if gate::suspended(s) {
            s.lifted = true;
            let silence = s.now - s.contact.unwrap_or(0);
            if s.told < self.named(s) && silence <= LEASE {
                s.fault = Some("LIFTED, and a standby that was just heard does not know");
            }
        }
    }

    /// Whether this message is formed after what may lift the promise.
    fn lifts(&self, s: &State) -> bool {
        s.alone
            || self
                .newest(s.appended)
                .is_some_and(|record| record.lasts.is_some())
    }

    fn arrive(&self, s: &mut State, message: Message) {
        match message {
            Message::Hello {
                session,
                stamp,
                record,
                lifted,
            } => {
                if session > s.followed && !s.withdrawn {
                    self.note(s, record, lifted);
                    s.followed = session;
                    s.silence = 0;
                    s.silence_noted = 0;
                    let durable = s.durable;
                    s.line.push(Message::Welcome {
                        session,
                        stamp,
                        durable,
                    });
                }
            }
            Message::Welcome {
                session,
                stamp,
                durable,
            } => {
                let bound = self.on(Rule::HandshakeOfThisSession);
                if (session == s.session && s.asked) || (!bound && !s.up) {
                    let stamp = if bound { stamp } else { s.now };
                    s.up = true;
                    s.waits = false;
                    s.replicated = durable;
                    s.contact = s.contact.max(Some(stamp));
                    gate::tell_replicated(s, durable);
                    gate::tell_echo(s, stamp, 0);
                }
            }
            Message::Data { session, end } => {
                if session == s.followed && !s.withdrawn {
                    s.received = s.received.max(end);
                    if !self.on(Rule::AckAfterFsync) {
                        s.line.push(Message::Ack {
                            session,
                            durable: s.received,
                        });
                    }
                }
            }
            Message::Ack { session, durable } => {
                if session == s.session && s.up {
                    s.replicated = s.replicated.max(durable);
                    let replicated = s.replicated;
                    gate::tell_replicated(s, replicated);
                }
            }
            Message::Heartbeat {
                session,
                stamp,
                record,
                lifted,
            } => {
                if session != s.followed {
                    return;
                }
                let echo = Message::Echo {
                    session,
                    stamp,
                    record,
                };
                if !s.withdrawn {
                    self.note(s, record, lifted);
                    s.silence = 0;
                    s.line.push(echo);
                } else if !self.on(Rule::NoEchoAfterWithdrawal) {
                    s.line.push(echo);
                }
            }
            Message::Echo {
                session,
                stamp,
                record,
            } => {
                let bound = self.on(Rule::EchoOfThisSession);
                if s.up && stamp <= s.now && (session == s.session || !bound) {
                    s.contact = s.contact.max(Some(stamp));
                    gate::tell_echo(s, stamp, if record == ALONE { 0 } else { record });
                }
            }
        }
    }

    fn messages(&self, s: &State) -> Vec<Message> {
        let session = s.session;
        let (stamp, record, lifted) = (s.now, self.named(s), self.lifts(s));
        let mut all = Vec::new();
        if session < self.sessions {
            all.push(Message::Hello {
                session: session + 1,
                stamp,
                record,
                lifted,
            });
        }
        if s.up {
            all.push(Message::Data {
                session,
                end: s.appended,
            });
            all.push(Message::Heartbeat {
                session,
                stamp,
                record,
                lifted,
            });
        }
        all.retain(|message| s.line.len() < self.under_way && !s.line.contains(message));
        all
    }

    fn primary(&self, s: &State, add: &mut impl FnMut(Step, &dyn Fn(&mut State))) {
        if s.appended < self.frames {
            add(Step::Append, &|s| {
                s.appended += 1;
                if let Some(record) = self.record_at(s.appended).filter(|_| !s.alone) {
                    self.tell_record(s, record);
                }
                gate::refresh(s);
            });
        }
        if !self.on(Rule::ClockReadLast) && s.read.is_none() {
            add(Step::ReadClock, &|s| {
                s.read = Some((Rc::clone(&s.gate), s.now))
            });
        }
        if !s.waits
            && let Some((gate, promised)) = self.decide(s)
        {
            add(Step::Answer, &|s| {
                s.answered += 1;
                // Without a bound of time nothing depends on what it remembers of its answers.
                if self.time.is_some() {
                    s.gate = Rc::clone(&gate);
                    s.times.push(s.now);
                }
                s.late |= promised && s.certificate.is_some();
            });
        }
        if s.now < self.clock && s.skew < DRIFT {
            add(Step::PrimaryTick, &|s| {
                s.now += 1;
                s.skew += 1;
                gate::refresh(s);
            });
        }
        for message in self.messages(s) {
            add(Step::Send(message), &|s| {
                if let Message::Hello { session, .. } = message {
                    s.session = session;
                    s.asked = true;
                    s.up = false;
                }
                s.line.push(message);
            });
        }
        if s.primary_crashes < self.primary_crashes {
            let waits = self.on(Rule::RestartWaitsForStandby);
            add(Step::PrimaryCrash, &|s| {
                s.primary_crashes += 1;
                s.now = 0;
                s.read = None;
                s.asked = false;
                s.up = false;
                s.waits = waits;
                s.alone = false;
                s.replicated = 0;
                s.contact = (!waits).then_some(0);
                s.gate = self.gate(s);
                if !waits {
                    gate::tell_echo(s, 0, 0);
                }
            });
        }
        if self.alone && s.waits {
            add(Step::Alone, &|s| {
                s.waits = false;
                (s.alone, s.lifted) = (true, true);
                s.gate = self.gate_alone(s);
            });
        }
    }

    fn standby(&self, s: &State, add: &mut impl FnMut(Step, &dyn Fn(&mut State))) {
        if s.skew > -DRIFT {
            add(Step::StandbyTick, &|s| {
                s.skew -= 1;
                s.silence = FENCE.min(s.silence + 1);
                s.silence_noted = FENCE.min(s.silence_noted + 1);
            });
        }
        if s.promoted {
            return;
        }
        if s.durable < s.received && s.line.len() < self.under_way {
            add(Step::Fsync, &|s| {
                s.durable = s.received;
                if !s.withdrawn && s.followed > 0 {
                    s.line.push(Message::Ack {
                        session: s.followed,
                        durable: s.durable,
                    });
                }
            });
        }
        if s.standby_crashes < self.standby_crashes {
            let anew = self.on(Rule::SilenceFromRestart);
            add(Step::StandbyCrash, &|s| {
                s.standby_crashes += 1;
                s.received = s.durable;
                s.followed = 0;
                s.withdrawn = false;
                s.told = s.told_durable;
                s.silence = if anew { 0 } else { s.silence_noted };
            });
        }
        if !s.withdrawn {
            add(Step::Withdraw, &|s| s.withdrawn = true);
        }
        let fence = match self.off {
            Some(Rule::FenceWaitsForLease) => 0,
            Some(Rule::FenceAllowsForDrift) => LEASE + 1,
            _ => FENCE,
        };
        if s.withdrawn && s.silence >= fence {
            add(Step::Promote, &|s| {
                s.durable = s.received;
                s.promoted = true;
                s.certificate = self.certificate(s, s.durable);
            });
        }
    }
}

impl Model for Pair {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        let mut state = State {
            appended: 0,
            answered: 0,
            now: 0,
            read: None,
            gate: Rc::new(self.nothing()),
            contact: None,
            replicated: 0,
            session: 0,
            asked: false,
            up: false,
            primary_crashes: 0,
            waits: false,
            alone: false,
            lifted: false,
            received: 0,
            durable: 0,
            told: 0,
            told_durable: 0,
            knows: false,
            silence: 0,
            silence_noted: 0,
            followed: 0,
            withdrawn: false,
            promoted: false,
            certificate: None,
            standby_crashes: 0,
            skew: 0,
            line: Vec::new(),
            late: false,
            fault: None,
            times: Vec::new(),
        };
        state.gate = self.gate(&state);
        state
    }

    fn next(&self, state: &State) -> Vec<(Step, State)> {
        let mut all = Vec::new();
        let mut add = |step, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            self.look(&mut next);
            next.line.sort_unstable();
            next.line.dedup();
            all.push((step, next));
        };
        self.primary(state, &mut add);
        self.standby(state, &mut add);
        for &message in &state.line {
            add(Step::Drop(message), &|s| {
                s.line.retain(|other| *other != message)
            });
            add(Step::Arrive(message), &|s| {
                s.line.retain(|other| *other != message);
                self.arrive(s, message);
            });
            if self.duplicates && state.line.len() < self.under_way {
                add(Step::ArriveTwice(message), &|s| self.arrive(s, message));
            }
        }
        all
    }

    fn broken(&self, s: &State) -> Option<&'static str> {
        if s.fault.is_some() {
            return s.fault;
        }
        // A certificate names its condition: what its node could not know of is excused by it.
        let certificate = s.certificate.filter(|_| !s.lifted || s.knows)?;
        if s.late {
            return Some("FENCED, and the old primary answered after it");
        }
        let beyond = s.times.get(usize::from(certificate.durable)..);
        if let (Some(&[first, .., last]), Some(time)) = (beyond, self.time)
            && last - first > time
        {
            return Some("BOUNDED, and answers lie further apart than that");
        }
        (s.answered > certificate.durable + certificate.bound)
            .then_some("BOUNDED, and more was answered than that")
    }
}
