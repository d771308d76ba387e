//! A primary, its standby, the line between them, and one promotion.

use crate::rules::Rule;
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
    /// A protection record: which frame it is, and how many commits may be lost by it.
    pub record: Option<(u8, u8)>,
    /// Sessions that may begin.
    pub sessions: u8,
    /// Messages under way at once.
    pub under_way: usize,
    /// Where the primary's clock stops, in ticks since it booted.
    pub clock: u8,
    /// Crashes of the primary.
    pub primary_crashes: u8,
    /// Crashes of the standby.
    pub standby_crashes: u8,
    /// Whether a delivered message may come again.
    pub duplicates: bool,
}

/// A message. All name their session; `stamp` is a tick of the primary's clock.
#[allow(
    missing_docs,
    reason = "the words above and those of the variants say it"
)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Message {
    /// The primary begins a session, at this moment of its clock.
    Hello { session: u8, stamp: u8 },
    /// The standby agrees, and holds this much.
    Welcome { session: u8, stamp: u8, durable: u8 },
    /// The log up to here.
    Data { session: u8, end: u8 },
    /// This much is durable.
    Ack { session: u8, durable: u8 },
    /// A heartbeat, and whether the new record is in the log.
    Heartbeat {
        session: u8,
        stamp: u8,
        record: bool,
    },
    /// Its echo.
    Echo { session: u8, stamp: u8 },
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
    read: Option<u8>,
    contact: Option<u8>,
    replicated: u8,
    session: u8,
    /// Whether this process has said hello in this session.
    asked: bool,
    up: bool,
    primary_crashes: u8,
    // The standby.
    received: u8,
    durable: u8,
    told: bool,
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
}

impl Pair {
    fn on(&self, rule: Rule) -> bool {
        self.off != Some(rule)
    }

    /// Whether the log up to `end` holds the record.
    fn holds_record(&self, end: u8) -> bool {
        self.record.is_some_and(|(at, _)| at <= end)
    }

    /// What the gate asks: the tightest of the record at `replicated` and all later ones.
    fn terms(&self, s: &State) -> Option<u8> {
        let newest = self
            .record
            .filter(|_| self.holds_record(s.appended))
            .map(|(_, bound)| bound);
        let held = self.holds_record(s.replicated);
        match (newest, self.bound) {
            (Some(new), Some(old)) if !held && self.on(Rule::LooseningWaitsForStandby) => {
                Some(new.min(old))
            }
            (new, old) => new.or(old),
        }
    }

    fn may_answer(&self, s: &State) -> bool {
        let end = s.answered + 1;
        if end > s.appended {
            return false;
        }
        let Some(bound) = self.terms(s) else {
            return true;
        };
        let now = if self.on(Rule::ClockReadLast) {
            s.now
        } else {
            s.read.unwrap_or(s.now)
        };
        let within = end.saturating_sub(s.replicated) <= bound;
        let contact = s
            .contact
            .is_some_and(|contact| now.saturating_sub(contact) <= LEASE);
        contact && (within || !self.on(Rule::AnswerWithinBound))
    }

    /// What a standby may certify that holds its log up to `durable`.
    fn certificate(&self, s: &State, durable: u8) -> Option<Certificate> {
        let by_log = self.holds_record(durable);
        let bound = match self.record {
            Some((_, bound)) if by_log => Some(bound),
            Some((_, bound)) if s.told => (!self.on(Rule::CertificateByRecord)).then_some(bound),
            _ => self.bound,
        };
        bound.map(|bound| Certificate { durable, bound })
    }

    fn arrive(&self, s: &mut State, message: Message) {
        match message {
            Message::Hello { session, stamp } => {
                if session > s.followed && !s.withdrawn {
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
                    s.replicated = durable;
                    s.contact = s.contact.max(Some(stamp));
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
                }
            }
            Message::Heartbeat {
                session,
                stamp,
                record,
            } => {
                if session != s.followed {
                    return;
                }
                if !s.withdrawn {
                    s.told |= record;
                    s.silence = 0;
                    s.line.push(Message::Echo { session, stamp });
                } else if !self.on(Rule::NoEchoAfterWithdrawal) {
                    s.line.push(Message::Echo { session, stamp });
                }
            }
            Message::Echo { session, stamp } => {
                let bound = self.on(Rule::EchoOfThisSession);
                if s.up && stamp <= s.now && (session == s.session || !bound) {
                    s.contact = s.contact.max(Some(stamp));
                }
            }
        }
    }

    fn messages(&self, s: &State) -> Vec<Message> {
        let session = s.session;
        let stamp = s.now;
        let mut all = Vec::new();
        if session < self.sessions {
            all.push(Message::Hello {
                session: session + 1,
                stamp,
            });
        }
        if s.up {
            all.push(Message::Data {
                session,
                end: s.appended,
            });
            let record = self.holds_record(s.appended);
            all.push(Message::Heartbeat {
                session,
                stamp,
                record,
            });
        }
        all.retain(|message| s.line.len() < self.under_way && !s.line.contains(message));
        all
    }

    fn primary(&self, s: &State, add: &mut impl FnMut(Step, &dyn Fn(&mut State))) {
        if s.appended < self.frames {
            add(Step::Append, &|s| s.appended += 1);
        }
        if !self.on(Rule::ClockReadLast) && s.read.is_none() {
            add(Step::ReadClock, &|s| s.read = Some(s.now));
        }
        if self.may_answer(s) {
            let promised = self.terms(s).is_some();
            add(Step::Answer, &|s| {
                s.answered += 1;
                s.late |= promised && s.certificate.is_some();
            });
        }
        if s.now < self.clock && s.skew < DRIFT {
            add(Step::PrimaryTick, &|s| {
                s.now += 1;
                s.skew += 1;
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
                s.contact = (!waits).then_some(0);
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
        State {
            appended: 0,
            answered: 0,
            now: 0,
            read: None,
            contact: None,
            replicated: 0,
            session: 0,
            asked: false,
            up: false,
            primary_crashes: 0,
            received: 0,
            durable: 0,
            told: false,
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
        }
    }

    fn next(&self, state: &State) -> Vec<(Step, State)> {
        let mut all = Vec::new();
        let mut add = |step, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
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
        let certificate = s.certificate?;
        if s.late {
            return Some("FENCED, and the old primary answered after it");
        }
        (s.answered > certificate.durable + certificate.bound)
            .then_some("BOUNDED, and more was answered than that")
    }
}
