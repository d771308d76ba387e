//! The gate against an oracle that keeps everything and looks at all of it each time.

use outlast_engine::format::EpochId;
use proptest::prelude::*;

use super::*;

const NODES: [NodeId; 2] = [NodeId([1; 16]), NodeId([2; 16])];

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn point(lsn: Lsn) -> ProtectionPoint {
    ProtectionPoint {
        term: 1,
        start: 1,
        lsn,
        epoch: EpochId([7; 16]),
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A frame of so many words of 8 bytes and commits.
    Append(u64, u64),
    /// A record in a frame of its own.
    Record(Protection),
    /// All but the last so many frames are fsynced.
    Sync(usize),
    /// A standby holds up to its frame before the last, but so many.
    Ack(usize, usize),
    /// A standby echoes a heartbeat that was formed so long ago.
    Echo(usize, u64),
    Wait(u64),
    Decide,
    Jump,
    Withdraw(usize),
}

fn protection() -> impl Strategy<Value = Protection> {
    let bound = (
        proptest::option::of(0..100_u64),
        proptest::option::of(0..4_u64),
        proptest::option::of((1..20_u64).prop_map(ms)),
        (1..30_u64).prop_map(ms),
    );
    let standing = prop_oneof![
        Just(Standing::InForce),
        Just(Standing::InForce),
        Just(Standing::Off),
        (1..20_u64).prop_map(|lasts| Standing::Suspended { lasts: ms(lasts) }),
    ];
    (bound, standing, 0..4_usize).prop_map(|((bytes, commits, time, lease), standing, who)| {
        let members = match who {
            0 | 1 => vec![NODES[who]],
            _ => NODES.to_vec(),
        };
        if bytes.or(commits).is_none() && time.is_none() {
            return Protection::none(members);
        }
        Protection {
            policy: Policy::Bounded(Bound {
                bytes,
                commits,
                time,
                lease,
            }),
            action: Action::Stall,
            copies: members.len().try_into().unwrap(),
            members,
            standing,
        }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..5_u64, 0..3_u64).prop_map(|(words, commits)| Step::Append(words, commits)),
        1 => protection().prop_map(Step::Record),
        6 => (0..3_usize).prop_map(Step::Sync),
        5 => (0..2_usize, 0..6_usize).prop_map(|(node, but)| Step::Ack(node, but)),
        5 => (0..2_usize, 0..10_u64).prop_map(|(node, ago)| Step::Echo(node, ago)),
        5 => (1..8_u64).prop_map(Step::Wait),
        8 => Just(Step::Decide),
        1 => Just(Step::Jump),
        1 => (0..2_usize).prop_map(Step::Withdraw),
    ]
}

/// Everything that ever happened.
struct Oracle {
    now: MonoTime,
    frames: Vec<Position>,
    durable: usize,
    passed: usize,
    /// Answers with their times; none for those whose time is not known.
    answers: Vec<(Position, Option<MonoTime>)>,
    records: Vec<Written>,
    acks: [Position; 2],
    contacts: [Option<MonoTime>; 2],
    echoed: [Option<ProtectionPoint>; 2],
    contact_from: MonoTime,
    forgotten_at: MonoTime,
    replicated: Position,
}

struct Written {
    lsn: Lsn,
    protection: Protection,
    held: bool,
    began: Option<MonoTime>,
}

impl Oracle {
    fn new(base: Protection, recovered: Position) -> Self {
        let mut oracle = Self {
            now: MonoTime::new(ms(1000)),
            frames: Vec::new(),
            durable: 0,
            passed: 0,
            answers: vec![(recovered, None)],
            records: vec![Written {
                lsn: Lsn::ZERO,
                protection: base,
                held: true,
                began: None,
            }],
            acks: [Position::ZERO; 2],
            contacts: [None; 2],
            echoed: [None; 2],
            contact_from: MonoTime::default(),
            forgotten_at: MonoTime::new(ms(1000)),
            replicated: Position::ZERO,
        };
        oracle.look();
        oracle
    }

    fn end(&self) -> Position {
        self.frames.last().copied().unwrap_or(self.answers[0].0)
    }

    fn counting(&self) -> &[Written] {
        let first = self.records.iter().rposition(|record| record.held).unwrap();
        &self.records[first..]
    }

    fn members(&self) -> Vec<usize> {
        let named = |node: &usize| {
            let names = |record: &Written| record.protection.members.contains(&NODES[*node]);
            self.counting().iter().any(names)
        };
        (0..2).filter(named).collect()
    }

    fn look(&mut self) {
        loop {
            let replicated = self.members().into_iter().map(|n| self.acks[n]).min();
            let replicated = replicated.unwrap_or(Position::new(Lsn(u64::MAX), u64::MAX));
            let before = self.members();
            for record in &mut self.records {
                record.held |= record.lsn <= replicated.lsn;
            }
            if self.members() != before {
                continue;
            }
            for (end, at) in &mut self.answers {
                if end.lsn <= self.replicated.lsn && end.lsn > replicated.lsn {
                    *at = None;
                }
            }
            self.replicated = replicated;
            return;
        }
    }

    fn promised<T: Ord>(&self, of: impl Fn(&Bound) -> Option<T>) -> Option<T> {
        let bounds = self.counting().iter().filter_map(|record| {
            let protection = &record.protection;
            match (&protection.policy, protection.standing) {
                (Policy::Bounded(bound), Standing::InForce | Standing::Suspended { .. }) => {
                    of(bound)
                }
                _ => None,
            }
        });
        bounds.min()
    }

    fn lease_out(&self) -> bool {
        let contact = self.members().into_iter().map(|n| self.contacts[n]).min();
        match (self.promised(|bound| Some(bound.lease)), contact.flatten()) {
            (None, _) => false,
            (_, None) => true,
            (Some(lease), Some(contact)) => self.now.since(contact) > lease,
        }
    }

    /// Whether the lease would be out had the standbys been heard until they were forgotten.
    fn silent(&self) -> bool {
        let contact = self.members().into_iter().map(|n| self.contacts[n]).min();
        let heard = contact.flatten().unwrap_or(self.forgotten_at);
        let lease = self.promised(|bound| Some(bound.lease));
        lease.is_some_and(|lease| self.now.since(heard) > lease)
    }

    fn suspended(&mut self) -> bool {
        let silent = self.silent();
        let echoed = self.members().into_iter().map(|n| self.echoed[n]).min();
        let durable = self.durable_end();
        // One that was there before this epoch has ended.
        let [_, .., newest] = &mut self.records[..] else {
            return false;
        };
        let now = self.now;
        let Standing::Suspended { lasts } = newest.protection.standing else {
            return false;
        };
        let heard = echoed.flatten() >= Some(point(newest.lsn));
        if newest.began.is_none() && durable >= newest.lsn && (heard || silent) {
            newest.began = Some(now);
        }
        newest.began.is_some_and(|began| now.since(began) < lasts)
    }

    fn durable_end(&self) -> Lsn {
        let last = self.frames[..self.durable].last();
        last.map_or(Lsn::ZERO, |end| end.lsn)
    }

    /// How many more frames may be answered now.
    fn decide(&mut self) -> usize {
        let free = self.suspended() || self.promised(|bound| Some(bound.lease)).is_none();
        let mut count = 0;
        while self.passed < self.durable {
            let end = self.frames[self.passed];
            let missing = |answers: &[(Position, Option<MonoTime>)], time| {
                answers
                    .iter()
                    .filter(|(other, _)| other.lsn > self.replicated.lsn)
                    .any(|(_, at)| at.is_none_or(|at| self.now.since(at) > time))
            };
            let bytes = end.lsn.bytes_since(self.replicated.lsn);
            let commits = end.commit.saturating_sub(self.replicated.commit);
            let allowed = free
                || (!self.lease_out()
                    && self.promised(|b| b.bytes).is_none_or(|most| bytes <= most)
                    && self
                        .promised(|b| b.commits)
                        .is_none_or(|most| commits <= most)
                    && self
                        .promised(|b| b.time)
                        .is_none_or(|time| !missing(&self.answers, time)));
            if !allowed {
                break;
            }
            self.answers.push((end, Some(self.now)));
            self.passed += 1;
            count += 1;
        }
        count
    }
}

fn run(base: Protection, steps: Vec<Step>, slope: bool) -> usize {
    let recovered = Position::new(Lsn(80), 3);
    let mut oracle = Oracle::new(base.clone(), recovered);
    let config = GateConfig {
        slope,
        ..GateConfig::default()
    };
    let mut gate = Gate::new(oracle.now, config, GateStart::of(base, recovered));
    let mut answered = 0;
    for step in steps {
        match step {
            Step::Append(words, commits) => {
                let end = oracle.end();
                let end = Position::new(end.lsn.advance(words * 8), end.commit + commits);
                oracle.frames.push(end);
            }
            Step::Record(protection) => {
                let end = oracle.end();
                let end = Position::new(end.lsn.advance(8), end.commit);
                oracle.frames.push(end);
                gate.on_record(point(end.lsn), protection.clone());
                oracle.records.push(Written {
                    lsn: end.lsn,
                    protection,
                    held: false,
                    began: None,
                });
                oracle.look();
            }
            Step::Sync(but) => {
                oracle.durable = oracle.durable.max(oracle.frames.len().saturating_sub(but));
            }
            Step::Ack(node, but) => {
                let count = oracle.frames.len().saturating_sub(but);
                let end = oracle.frames[..count].last().copied().unwrap_or(recovered);
                oracle.acks[node] = end;
                gate.on_replicated(oracle.now, NODES[node], end);
                oracle.look();
            }
            Step::Echo(node, ago) => {
                let stamp = MonoTime::new(oracle.now.as_duration().saturating_sub(ms(ago)));
                let told = oracle.records.last().unwrap().lsn;
                let told = (told > Lsn::ZERO).then(|| point(told));
                gate.on_echo(oracle.now, NODES[node], stamp, told);
                oracle.echoed[node] = oracle.echoed[node].max(told);
                if stamp >= oracle.contact_from {
                    oracle.contacts[node] = oracle.contacts[node].max(Some(stamp));
                }
            }
            Step::Wait(for_ms) => oracle.now = oracle.now.after(ms(for_ms)),
            Step::Decide => {
                let durable = oracle.durable_end();
                let waiting = oracle.frames[oracle.passed..].to_vec();
                let decision = gate.decide(oracle.now, durable, waiting.iter().copied());
                let passed = decision.passed.map_or(0, |passed| {
                    1 + waiting.iter().position(|end| *end == passed).unwrap()
                });
                if slope {
                    // What the slope holds back is allowed all the same, and told when to come.
                    let (before, answers) = (oracle.passed, oracle.answers.len());
                    let allowed = oracle.decide();
                    assert!(passed <= allowed, "{decision:?} of {allowed}");
                    assert!(passed == allowed || decision.again_at > Some(oracle.now));
                    oracle.passed = before + passed;
                    oracle.answers.truncate(answers + passed);
                } else {
                    assert_eq!(passed, oracle.decide(), "{decision:?} of {waiting:?}");
                }
                let all_durable = passed == oracle.durable.saturating_sub(oracle.passed - passed);
                assert_eq!(decision.held.is_none(), all_durable, "{decision:?}");
                answered += passed;
            }
            Step::Jump => {
                oracle.contacts = [None; 2];
                oracle.contact_from = oracle.now;
                oracle.forgotten_at = oracle.now;
                gate.on_clock_jump(oracle.now);
            }
            Step::Withdraw(node) => {
                oracle.contacts[node] = None;
                oracle.forgotten_at = oracle.now;
                gate.on_withdrawn(oracle.now, NODES[node]);
            }
        }
    }
    answered
}

fn steps() -> impl Strategy<Value = (Protection, Vec<Step>)> {
    (protection(), proptest::collection::vec(step(), 1..120))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn it_answers_exactly_what_a_naive_reading_of_the_promise_allows((base, steps) in steps()) {
        run(base, steps, false);
    }

    #[test]
    fn with_the_slope_it_answers_no_more_and_says_when_to_come_again((base, steps) in steps()) {
        run(base, steps, true);
    }
}

fn bounded(bytes: Option<u64>, commits: Option<u64>) -> Protection {
    Protection {
        policy: Policy::Bounded(Bound {
            bytes,
            commits,
            time: None,
            lease: ms(100),
        }),
        action: Action::Stall,
        members: vec![NODES[0]],
        copies: 1,
        standing: Standing::InForce,
    }
}

/// A gate at 1 s whose standby was just heard, and holds all up to `replicated`.
fn in_touch(base: Protection, replicated: Position) -> (Gate, MonoTime) {
    let now = MonoTime::new(ms(1000));
    let config = GateConfig {
        window_bytes: 1000,
        slope: false,
    };
    let recovered = replicated;
    let mut gate = Gate::new(now, config, GateStart::of(base, recovered));
    gate.on_replicated(now, NODES[0], replicated);
    gate.on_echo(now, NODES[0], now, None);
    (gate, now)
}

#[test]
fn one_below_and_at_the_bound_pass_and_one_above_does_not() {
    let replicated = Position::new(Lsn(800), 10);
    let cases = [
        (Some(64), None, Position::new(Lsn(864), 99), Held::Bytes),
        (
            None,
            Some(7),
            Position::new(Lsn(999_999), 17),
            Held::Commits,
        ),
        (Some(0), Some(0), replicated, Held::Bytes),
    ];
    for (bytes, commits, last, why) in cases {
        let (mut gate, now) = in_touch(bounded(bytes, commits), replicated);
        let above = Position::new(last.lsn.advance(1), last.commit + 1);
        let decision = gate.decide(now, above.lsn, [last, above]);
        assert_eq!((decision.passed, decision.held), (Some(last), Some(why)));
        gate.on_replicated(now, NODES[0], above);
        assert_eq!(gate.decide(now, above.lsn, [above]).passed, Some(above));
    }
}

#[test]
fn what_waits_too_long_is_refused_or_waits_outside_as_the_policy_says() {
    let replicated = Position::new(Lsn(800), 10);
    let stuck = Position::new(Lsn(900), 11);
    for action in [Action::Stall, Action::Refuse] {
        let base = Protection {
            action,
            ..bounded(None, Some(0))
        };
        let (mut gate, now) = in_touch(base, replicated);
        let shut = |why| match action {
            Action::Stall => Admission::Wait(why),
            Action::Refuse => Admission::Refuse(why),
        };
        gate.decide(now, stuck.lsn, [stuck]);
        // A short wait is the normal state of a tight bound.
        assert_eq!(gate.admit(now, stuck.lsn, replicated.lsn), Admission::Go);
        let full = replicated.lsn.advance(1001);
        assert_eq!(gate.admit(now, full, replicated.lsn), shut(Held::Commits));
        // Heard all the time, but nothing arrives there.
        let later = now.after(ms(101));
        gate.on_echo(later, NODES[0], later, None);
        let patient = gate.admit(later, stuck.lsn, replicated.lsn);
        let refuses = action == Action::Refuse;
        let refused = Admission::Refuse(Held::Commits);
        assert_eq!(patient, if refuses { refused } else { Admission::Go });
        let out = later.after(ms(101));
        assert_eq!(gate.admit(out, full, replicated.lsn), shut(Held::Lease));
        let quiet = gate.admit(out, stuck.lsn, replicated.lsn);
        let refused = Admission::Refuse(Held::Lease);
        assert_eq!(quiet, if refuses { refused } else { Admission::Go });
    }
    let (mut free, now) = in_touch(Protection::none(vec![NODES[0]]), replicated);
    assert_eq!(free.admit(now, Lsn(1 << 30), Lsn::ZERO), Admission::Go);
}

#[test]
fn a_gate_that_is_shut_answers_nothing_under_any_policy() {
    let replicated = Position::new(Lsn(800), 10);
    for base in [Protection::none(Vec::new()), bounded(None, Some(5))] {
        let (mut gate, now) = in_touch(base, replicated);
        gate.shut();
        let decision = gate.decide(now, replicated.lsn, [replicated]);
        assert_eq!((decision.passed, decision.held), (None, Some(Held::Shut)));
        assert_eq!(gate.status(now).guard, Guard::Shut);
    }
}

#[test]
fn a_suspension_lifts_the_bound_once_it_is_heard_of_and_ends_by_itself() {
    let replicated = Position::new(Lsn(800), 10);
    let (mut gate, now) = in_touch(bounded(None, Some(0)), replicated);
    let record = Position::new(Lsn(900), 10);
    let end = Position::new(Lsn(1000), 11);
    let lasts = ms(50);
    let suspended = bounded(None, Some(0)).standing(Standing::Suspended { lasts });
    gate.on_record(point(record.lsn), suspended);
    let held = gate.decide(now, end.lsn, [end]);
    assert_eq!(held.held, Some(Held::Commits));
    // Nobody answers: it takes effect when the lease is out, and says when that is.
    let again = held.again_at.unwrap();
    assert_eq!(again, now.after(ms(100)).after(Duration::from_nanos(1)));
    let lifted = gate.decide(again, end.lsn, [end]);
    assert_eq!((lifted.passed, lifted.held), (Some(end), None));
    let until = again.after(lasts);
    assert_eq!(lifted.again_at, Some(until));
    assert_eq!(gate.status(again).guard, Guard::Suspended { until });
    // Over, and the standby is still away.
    let next = Position::new(Lsn(1100), 12);
    let decision = gate.decide(until, next.lsn, [next]);
    assert_eq!(decision.held, Some(Held::Lease));
    let stalled = Guard::Stalled {
        since: until,
        why: Held::Lease,
    };
    assert_eq!(gate.status(until).guard, stalled);
}

#[test]
fn a_suspension_waits_for_a_lease_after_the_standby_was_forgotten() {
    let replicated = Position::new(Lsn(800), 10);
    let (record, end) = (Lsn(900), Position::new(Lsn(1000), 11));
    let suspended = bounded(None, Some(0)).standing(Standing::Suspended { lasts: ms(50) });
    // The standby may have been promoted to rest on the record before: it is to hear of this one.
    let forget: [fn(&mut Gate, MonoTime); 2] = [
        |gate, now| gate.on_clock_jump(now),
        |gate, now| gate.on_withdrawn(now, NODES[0]),
    ];
    for forget in forget {
        let (mut gate, now) = in_touch(bounded(None, Some(0)), replicated);
        forget(&mut gate, now);
        gate.on_record(point(record), suspended.clone());
        let held = gate.decide(now, end.lsn, [end]);
        assert_eq!((held.passed, held.held), (None, Some(Held::Lease)));
        let again = held.again_at.unwrap();
        assert_eq!(again, now.after(ms(100)).after(Duration::from_nanos(1)));
        let last = gate.decide(now.after(ms(100)), end.lsn, [end]);
        assert_eq!(last.passed, None);
        assert_eq!(gate.decide(again, end.lsn, [end]).passed, Some(end));
    }
    // As after a start of the process.
    let now = MonoTime::new(ms(1000));
    let start = GateStart::of(bounded(None, Some(0)), replicated);
    let mut gate = Gate::new(now, GateConfig::default(), start);
    gate.on_record(point(record), suspended);
    assert_eq!(gate.decide(now, end.lsn, [end]).passed, None);
    let later = now.after(ms(100)).after(Duration::from_nanos(1));
    assert_eq!(gate.decide(later, end.lsn, [end]).passed, Some(end));
}

#[test]
fn an_off_record_with_a_promise_engages_and_one_without_does_not() {
    let replicated = Position::new(Lsn(800), 10);
    let off = bounded(None, Some(5)).standing(Standing::Off);
    let (mut gate, now) = in_touch(off, replicated);
    assert_eq!(gate.to_engage(now), Some(bounded(None, Some(5))));
    let (mut gate, now) = in_touch(bounded(None, Some(5)), replicated);
    assert_eq!(gate.to_engage(now), None);
    // Nor while it is suspended; but when that is over.
    let lasts = ms(50);
    let suspended = bounded(None, Some(5)).standing(Standing::Suspended { lasts });
    let record = point(Lsn(900));
    gate.on_record(record, suspended);
    gate.decide(now, record.lsn, []);
    assert_eq!(gate.to_engage(now), None);
    gate.on_echo(now, NODES[0], now, Some(record));
    assert_eq!(gate.to_engage(now), None);
    assert_eq!(
        gate.to_engage(now.after(lasts)),
        Some(bounded(None, Some(5)))
    );
    let (mut gate, now) = in_touch(Protection::none(vec![NODES[0]]), replicated);
    assert_eq!(gate.to_engage(now), None);
}
