//! A primary and a standby over a line that loses nothing but delays, cuts data anywhere and
//! breaks, with crashes of both: whatever happens, in whatever order, the standby's log is the
//! primary's.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what cannot be fails the test"
)]

mod support;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use outlast_engine::format::{FrameRun, Lsn, NodeId, to_usize};
use outlast_proto::{
    CloseReason, Config, Identity, Meeting, Message, Mode, MonoTime, Nonce, PrimaryFacts,
    PrimaryState, PrimaryView, Receiver, ReceiverInput, ReceiverOutput, RunHeader, Sender,
    SenderEvent, SenderInput, SenderOutput, StandbyFacts, Term, decode, encode,
};
use proptest::prelude::*;
use support::log::{CLUSTER, FakeLog};

const SEGMENT_SIZE: u64 = 1 << 20;
const PRIMARY: NodeId = NodeId([1; 16]);
const STANDBY: NodeId = NodeId([2; 16]);
const WINDOW_BYTES: u64 = 64 << 10;
/// Longer than the window: goes alone.
const LONG_FRAME: usize = 100_000;

/// One thing that happens. `u16` chooses among what is possible.
#[derive(Clone, Debug)]
enum Op {
    Write {
        frames: u8,
        bytes: u16,
    },
    WriteLong,
    Fsync,
    /// The line and the shells go on for some steps, in an order drawn from the seed.
    Run {
        steps: u8,
        seed: u64,
    },
    Tick {
        ms: u16,
    },
    Dial,
    Break,
    CrashPrimary {
        keep: u16,
        alone: bool,
    },
    CrashStandby {
        keep: u16,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1..8u8, 1..4000u16).prop_map(|(frames, bytes)| Op::Write { frames, bytes }),
        1 => Just(Op::WriteLong),
        3 => Just(Op::Fsync),
        20 => (1..200u8, any::<u64>()).prop_map(|(steps, seed)| Op::Run { steps, seed }),
        4 => (0..1500u16).prop_map(|ms| Op::Tick { ms }),
        4 => Just(Op::Dial),
        1 => Just(Op::Break),
        3 => (any::<u16>(), any::<bool>())
            .prop_map(|(keep, alone)| Op::CrashPrimary { keep, alone }),
        2 => any::<u16>().prop_map(|keep| Op::CrashStandby { keep }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1500,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_standbys_log_is_the_primarys(ops in proptest::collection::vec(op(), 1..80)) {
        let mut pair = Pair::new();
        for op in &ops {
            pair.apply(op);
            pair.check();
        }
        pair.heal();
    }
}

/// A job that a shell has not done yet, and the lane in which jobs are done in order.
enum Job {
    Append(Box<FrameRun>),
    Sync,
    Quarantine(Lsn),
    ApplyTo(Lsn),
    Note(Term),
    NoteAttached,
    Read(Lsn, usize),
    Flush,
}

impl Job {
    fn lane(&self) -> u8 {
        match self {
            Self::Append(_) | Self::Sync | Self::Quarantine(_) => 0,
            Self::ApplyTo(_) => 1,
            Self::Note(_) | Self::NoteAttached => 2,
            Self::Read(..) => 3,
            Self::Flush => 4,
        }
    }
}

#[derive(Default)]
struct Inbox {
    /// Encoded, as they travel.
    messages: VecDeque<Vec<u8>>,
    data: VecDeque<(Option<RunHeader>, Bytes)>,
}

struct Pair {
    now: Duration,
    nonces: u8,
    epochs: u8,
    config: Config,

    p_log: FakeLog,
    sender: Option<Sender>,
    p_jobs: Vec<Job>,
    p_inbox: Inbox,
    /// It restarted and has begun no epoch.
    needs_contact: bool,

    s_log: FakeLog,
    receiver: Receiver,
    s_jobs: Vec<Job>,
    s_inbox: Inbox,
    s_noted: Term,
    s_told: Lsn,
    listener: Nonce,

    /// The bytes that the standby reported durable, as long as nobody went on alone without them.
    promised: Vec<u8>,
    /// The highest position that the primary's readers ever saw.
    visible_max: Lsn,
}

impl Pair {
    fn new() -> Self {
        let config = Config {
            window_bytes: WINDOW_BYTES,
            run_bytes: 10_000,
            ..Config::default()
        };
        let s_log = FakeLog::new();
        let facts = standby_facts(&s_log, Term::NONE, Lsn::ZERO);
        let mut pair = Self {
            now: Duration::ZERO,
            nonces: 0,
            epochs: 0,
            receiver: Receiver::new(MonoTime::default(), config.clone(), facts),
            config,
            p_log: FakeLog::new(),
            sender: None,
            p_jobs: Vec::new(),
            p_inbox: Inbox::default(),
            needs_contact: false,
            s_log,
            s_jobs: Vec::new(),
            s_inbox: Inbox::default(),
            s_noted: Term::NONE,
            s_told: Lsn::ZERO,
            listener: Nonce([0; 8]),
            promised: Vec::new(),
            visible_max: Lsn::ZERO,
        };
        pair.begin_epoch();
        pair
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Write { frames, bytes } => self.write(frames, usize::from(bytes)),
            Op::WriteLong => self.write(1, LONG_FRAME),
            Op::Fsync => self.fsync(),
            Op::Run { steps, seed } => self.run(steps, seed),
            Op::Tick { ms } => self.tick(Duration::from_millis(u64::from(ms))),
            Op::Dial => self.dial(),
            Op::Break => self.break_line(),
            Op::CrashPrimary { keep, alone } => self.crash_primary(keep, alone),
            Op::CrashStandby { keep } => self.crash_standby(keep),
        }
    }

    fn run(&mut self, steps: u8, seed: u64) {
        let mut draws = Draws(seed);
        for _ in 0..steps {
            let which = draws.next();
            match draws.next() % 6 {
                0 => drop(self.message_to_standby()),
                1 => drop(self.message_to_primary()),
                2 => {
                    self.data(true, usize::from(which) + 1);
                }
                3 => {
                    self.data(false, usize::from(which) + 1);
                }
                4 => drop(self.work_standby(which)),
                _ => drop(self.work_primary(which)),
            }
            self.check();
        }
    }

    /// What must hold at every moment.
    fn check(&self) {
        let status = self.receiver.status();
        let (p, s) = (self.p_log.bytes(), self.s_log.bytes());
        assert!(self.s_log.applied <= self.s_log.durable);
        assert!(
            self.s_log.applied <= self.visible_max,
            "the standby shows {} and the primary showed {}",
            self.s_log.applied,
            self.visible_max
        );
        let Some(sender) = self.sender.as_ref().map(Sender::status) else {
            return;
        };
        if let Some(replicated) = sender.replicated {
            assert!(
                replicated.lsn <= self.s_log.durable,
                "{replicated} is said to be replicated, {status:?}"
            );
            assert_eq!(replicated, self.s_log.position(replicated.lsn));
            let end = to_usize(replicated.lsn.0);
            assert_eq!(p.get(..end), s.get(..end), "not a prefix at {replicated}");
        }
        let alone = sender.in_flight_bytes > LONG_FRAME as u64;
        assert!(
            sender.in_flight_bytes <= WINDOW_BYTES || alone,
            "{sender:?}"
        );
        let queued: usize = self.s_inbox.data.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(
            queued as u64 <= sender.in_flight_bytes,
            "{queued} bytes queued"
        );
        assert!(sender.contact.is_none_or(|contact| contact <= self.p_now()));
    }

    /// Once faults stop, both logs become equal, and nothing that was promised is missing.
    fn heal(&mut self) {
        self.break_line();
        for _ in 0..4 {
            self.dial();
            self.settle();
        }
        self.fsync();
        self.settle();
        assert!(
            !self.needs_contact,
            "the primary never heard from its standby"
        );
        assert!(
            self.p_log.bytes() == self.s_log.bytes(),
            "the logs differ: {:?}",
            self.receiver.status()
        );
        assert_eq!(
            self.s_log.applied,
            self.p_log.end().lsn,
            "{:?}",
            self.receiver.status()
        );
        let replicated = self.sender.as_ref().and_then(|it| it.status().replicated);
        assert_eq!(replicated.map(|at| at.lsn), Some(self.p_log.end().lsn));
        assert!(
            self.p_log.bytes().starts_with(&self.promised),
            "a promise was broken"
        );
    }

    fn settle(&mut self) {
        let mut busy = true;
        while busy {
            busy = self.message_to_standby().is_some()
                | self.message_to_primary().is_some()
                | self.data(true, usize::MAX)
                | self.data(false, usize::MAX)
                | self.work_standby(0).is_some()
                | self.work_primary(0).is_some();
            self.check();
        }
    }

    // The primary.

    fn p_now(&self) -> MonoTime {
        MonoTime::new(self.now + Duration::from_secs(77))
    }

    fn view(&self) -> PrimaryView {
        PrimaryView {
            appended: self.p_log.position(self.p_log.end().lsn),
            durable: self.p_log.position(self.p_log.durable),
            visible: self.p_log.position(self.p_log.applied),
            protection: None,
            state: PrimaryState::Serving,
        }
    }

    fn tell_view(&mut self) {
        let view = self.view();
        self.feed_sender(SenderInput::View(view));
    }

    fn begin_epoch(&mut self) {
        self.epochs += 1;
        self.p_log
            .begin_epoch(self.epochs, 1, u32::from(self.epochs), PRIMARY);
        self.p_log.durable = self.p_log.end().lsn;
        self.needs_contact = false;
    }

    fn write(&mut self, frames: u8, bytes: usize) {
        if !self.needs_contact {
            for _ in 0..frames {
                self.p_log.append(bytes);
            }
            self.tell_view();
        }
    }

    fn fsync(&mut self) {
        if !self.needs_contact {
            self.p_log.durable = self.p_log.end().lsn;
            self.p_log.applied = self.p_log.durable;
            self.visible_max = self.visible_max.max(self.p_log.applied);
            self.tell_view();
        }
    }

    /// The process dies; of what was not fsynced, some frames survive. What readers saw is what the
    /// frames carry.
    fn crash_primary(&mut self, keep: u16, alone: bool) {
        self.break_line();
        self.sender = None;
        self.p_jobs.clear();
        cut_unsynced(&mut self.p_log, keep);
        self.p_log.applied = self.p_log.frame_end(self.p_log.end().visible);
        self.needs_contact = true;
        if alone {
            // What only the standby holds is discarded by the operator's word.
            self.promised.truncate(self.p_log.bytes().len());
            self.begin_epoch();
        }
    }

    fn dial(&mut self) {
        self.break_line();
        self.nonces += 1;
        self.listener = Nonce([b'l', self.nonces, 0, 0, 0, 0, 0, 0]);
        let nonce = Nonce([b'd', self.nonces, 0, 0, 0, 0, 0, 0]);
        let mode = if self.needs_contact {
            Mode::Contact
        } else {
            Mode::Ship
        };
        let facts = PrimaryFacts {
            identity: identity(PRIMARY),
            peer: STANDBY,
            heard: Term::of(self.p_log.history()),
            log: self.p_log.view(),
            protection: None,
            state: PrimaryState::Serving,
            remembered: None,
        };
        // Jobs of an earlier attempt that touch the log are done, or they would come too late.
        if self.p_jobs.iter().any(|job| job.lane() == 0) {
            return;
        }
        self.p_jobs.clear();
        self.sender = Some(Sender::new(
            self.p_now(),
            self.config.clone(),
            facts,
            mode,
            nonce,
        ));
        self.drain_sender();
    }

    fn feed_sender(&mut self, input: SenderInput) {
        let now = self.p_now();
        if let Some(sender) = &mut self.sender {
            sender.handle(now, input);
            self.drain_sender();
        }
    }

    fn drain_sender(&mut self) {
        while let Some(output) = self.sender.as_mut().and_then(Sender::poll_output) {
            match output {
                SenderOutput::Send(message) => {
                    self.s_inbox.messages.push_back(encode(&message).unwrap());
                    flush(&mut self.p_jobs);
                }
                SenderOutput::Data(header, bytes) => {
                    self.s_inbox.data.push_back((Some(header), bytes));
                }
                SenderOutput::Read { from, max_bytes } => {
                    self.p_jobs.push(Job::Read(from, max_bytes));
                }
                SenderOutput::NoteAttached { .. } => self.p_jobs.push(Job::NoteAttached),
                SenderOutput::Append(run) => self.p_jobs.push(Job::Append(Box::new(run))),
                SenderOutput::Sync => self.p_jobs.push(Job::Sync),
                SenderOutput::Event(event) => self.on_event(&event),
                SenderOutput::Close(reason) => {
                    assert!(!reason.is_alarm(), "{reason}");
                    if !matches!(reason, CloseReason::Ended(_)) {
                        self.break_line();
                    }
                    break;
                }
                SenderOutput::Fence { .. } | SenderOutput::Conflict { .. } => {
                    panic!("between sound nodes of one term: {output:?}")
                }
            }
        }
    }

    fn on_event(&mut self, event: &SenderEvent) {
        match event {
            SenderEvent::Replicated(at) => {
                let end = to_usize(at.lsn.0);
                if end > self.promised.len() {
                    self.promised = self.p_log.bytes()[..end].to_vec();
                }
            }
            SenderEvent::ContactComplete { .. } => {
                assert!(self.needs_contact);
                assert_eq!(self.p_log.durable, self.p_log.end().lsn);
                self.begin_epoch();
            }
            _ => {}
        }
    }

    fn work_primary(&mut self, which: u16) -> Option<()> {
        let input = match next_job(&mut self.p_jobs, which)? {
            Job::Append(run) => {
                self.p_log.append_run(&run);
                SenderInput::Appended(self.p_log.position(self.p_log.end().lsn))
            }
            Job::Sync => {
                self.p_log.durable = self.p_log.end().lsn;
                SenderInput::Durable(self.p_log.position(self.p_log.durable))
            }
            Job::NoteAttached => SenderInput::AttachmentNoted,
            Job::Read(from, max_bytes) => SenderInput::LogBytes {
                from,
                bytes: self.p_log.read(from, max_bytes),
            },
            Job::Flush => SenderInput::ControlFlushed,
            Job::ApplyTo(_) | Job::Quarantine(_) | Job::Note(_) => unreachable!(),
        };
        self.feed_sender(input);
        Some(())
    }

    // The standby.

    fn crash_standby(&mut self, keep: u16) {
        self.break_line();
        self.s_jobs.clear();
        cut_unsynced(&mut self.s_log, keep);
        let carried = self.s_log.end().visible.max(self.s_log.applied);
        self.s_told = carried;
        let facts = standby_facts(&self.s_log, self.s_noted, self.s_told);
        self.receiver = Receiver::new(MonoTime::new(self.now), self.config.clone(), facts);
        self.drain_receiver();
    }

    fn feed_receiver(&mut self, input: ReceiverInput) {
        self.receiver.handle(MonoTime::new(self.now), input);
        self.drain_receiver();
    }

    fn drain_receiver(&mut self) {
        while let Some(output) = self.receiver.poll_output() {
            match output {
                ReceiverOutput::Send(message) => {
                    self.p_inbox.messages.push_back(encode(&message).unwrap());
                    flush(&mut self.s_jobs);
                }
                ReceiverOutput::Data(header, bytes) => {
                    self.p_inbox.data.push_back((Some(header), bytes));
                }
                ReceiverOutput::Read { from, max_bytes } => {
                    self.s_jobs.push(Job::Read(from, max_bytes));
                }
                ReceiverOutput::Append(run) => self.s_jobs.push(Job::Append(Box::new(run))),
                ReceiverOutput::Sync => self.s_jobs.push(Job::Sync),
                ReceiverOutput::ApplyTo(lsn) => {
                    assert!(lsn <= self.s_log.durable, "{lsn} is not durable");
                    self.s_jobs.push(Job::ApplyTo(lsn));
                }
                ReceiverOutput::Note { heard, .. } => self.s_jobs.push(Job::Note(heard)),
                ReceiverOutput::Quarantine { from } => {
                    assert!(from >= self.s_log.applied, "a cut below what readers saw");
                    self.s_jobs.push(Job::Quarantine(from));
                }
                ReceiverOutput::Event(_) => {}
                ReceiverOutput::Close(reason) => {
                    assert!(!reason.is_alarm(), "{reason}");
                    self.break_line();
                }
                ReceiverOutput::Conflict { .. } => {
                    panic!("between sound nodes of one term: {output:?}")
                }
            }
        }
    }

    fn work_standby(&mut self, which: u16) -> Option<()> {
        let log = &mut self.s_log;
        let input = match next_job(&mut self.s_jobs, which)? {
            Job::Append(run) => {
                log.append_run(&run);
                ReceiverInput::Appended(log.position(log.end().lsn))
            }
            Job::Sync => {
                log.durable = log.end().lsn;
                ReceiverInput::Durable(log.position(log.durable))
            }
            Job::Quarantine(from) => {
                log.cut(from);
                ReceiverInput::Quarantined(Box::new(log.view()))
            }
            Job::ApplyTo(lsn) => {
                log.applied = log.applied.max(log.frame_end(lsn));
                ReceiverInput::Applied(log.position(log.applied))
            }
            Job::Note(heard) => {
                self.s_noted = heard;
                ReceiverInput::Noted
            }
            Job::Read(from, max_bytes) => ReceiverInput::LogBytes {
                from,
                bytes: log.read(from, max_bytes),
            },
            Job::Flush => ReceiverInput::ControlFlushed,
            Job::NoteAttached => unreachable!(),
        };
        self.feed_receiver(input);
        Some(())
    }

    // The line.

    fn message_to_standby(&mut self) -> Option<()> {
        let bytes = self.s_inbox.messages.pop_front()?;
        match decode(&bytes).unwrap() {
            Message::Hello(hello) => {
                let meeting = self.receiver.meet(PRIMARY, &hello);
                assert!(matches!(meeting, Meeting::Follow), "{meeting:?}");
                let (nonce, peer) = (self.listener, PRIMARY);
                self.feed_receiver(ReceiverInput::Hello { nonce, peer, hello });
            }
            message => self.feed_receiver(ReceiverInput::Message(message)),
        }
        Some(())
    }

    fn message_to_primary(&mut self) -> Option<()> {
        let bytes = self.p_inbox.messages.pop_front()?;
        self.feed_sender(SenderInput::Message(decode(&bytes).unwrap()));
        Some(())
    }

    /// Delivers the next data, cut to `len` bytes; answers whether there was any.
    fn data(&mut self, to_standby: bool, len: usize) -> bool {
        let inbox = if to_standby {
            &mut self.s_inbox
        } else {
            &mut self.p_inbox
        };
        let Some((header, bytes)) = inbox.data.front_mut() else {
            return false;
        };
        let header = header.take();
        let piece = bytes.split_to(len.min(bytes.len()));
        if bytes.is_empty() {
            inbox.data.pop_front();
        }
        if to_standby {
            if let Some(header) = header {
                self.feed_receiver(ReceiverInput::RunStart(header));
            }
            self.feed_receiver(ReceiverInput::RunBytes(piece));
        } else {
            if let Some(header) = header {
                self.feed_sender(SenderInput::RunStart(header));
            }
            self.feed_sender(SenderInput::RunBytes(piece));
        }
        true
    }

    fn break_line(&mut self) {
        self.s_inbox = Inbox::default();
        self.p_inbox = Inbox::default();
        let nonce = self.listener;
        self.receiver.handle(
            MonoTime::new(self.now),
            ReceiverInput::Disconnected { nonce },
        );
        self.drain_receiver();
        let now = self.p_now();
        if let Some(sender) = &mut self.sender {
            sender.handle(now, SenderInput::Disconnected);
        }
    }

    fn tick(&mut self, wait: Duration) {
        self.now += wait;
        let now = self.p_now();
        let due = self.sender.as_ref().and_then(Sender::poll_timeout);
        if due.is_some_and(|due| due <= now) {
            self.feed_sender(SenderInput::Timeout);
        }
        let due = self.receiver.poll_timeout();
        if due.is_some_and(|due| due <= MonoTime::new(self.now)) {
            self.feed_receiver(ReceiverInput::Timeout);
        }
    }
}

fn identity(node: NodeId) -> Identity {
    Identity {
        cluster: CLUSTER,
        node,
        name: "n".into(),
        segment_size: SEGMENT_SIZE,
    }
}

fn standby_facts(log: &FakeLog, heard: Term, visible_told: Lsn) -> StandbyFacts {
    StandbyFacts {
        identity: identity(STANDBY),
        heard,
        protection: None,
        log: log.view(),
        visible_told,
        acked: None,
    }
}

/// A crash: of the frames behind the last fsync, some of the first survive; recovery makes them
/// durable.
fn cut_unsynced(log: &mut FakeLog, keep: u16) {
    let unsynced = log.end().lsn.bytes_since(log.durable);
    let kept = unsynced * u64::from(keep) / u64::from(u16::MAX);
    let end = log.frame_end(log.durable.advance(kept));
    log.cut(end);
    log.durable = end;
}

/// The first job of one of the lanes.
fn next_job(jobs: &mut Vec<Job>, which: u16) -> Option<Job> {
    let mut lanes: Vec<u8> = jobs.iter().map(Job::lane).collect();
    lanes.sort_unstable();
    lanes.dedup();
    let lane = *lanes.get(usize::from(which) % lanes.len().max(1))?;
    let at = jobs.iter().position(|job| job.lane() == lane)?;
    Some(jobs.remove(at))
}

/// Numbers from a seed (a linear congruence is random enough to choose an order).
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u16 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        u16::try_from(self.0 >> 48).unwrap()
    }
}

fn flush(jobs: &mut Vec<Job>) {
    if !jobs.iter().any(|job| matches!(job, Job::Flush)) {
        jobs.push(Job::Flush);
    }
}
