//! A primary `p` and a standby `s` on one table: what their shells and the line between them would
//! do happens when the script says so.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use outlast_engine::format::{EpochId, FrameRun, Lsn, NodeId, to_usize};
use outlast_proto::{
    AckMark, Binding, Config, Hello, Identity, Meeting, Message, Mode, MonoTime, Nonce,
    PrimaryFacts, PrimaryState, PrimaryView, ProtectionPoint, Receiver, ReceiverInput,
    ReceiverOutput, RunHeader, Sender, SenderInput, SenderOutput, SessionId, StandbyFacts, Term,
    Welcome,
};

use super::args;
use super::log::{CLUSTER, FakeLog};
use super::print;

pub const SEGMENT_SIZE: u64 = 64 << 10;
/// The clocks of the two machines have nothing to do with each other.
const PRIMARY_CLOCK: Duration = Duration::from_secs(1000);

pub struct World {
    now: Duration,
    pub p: Primary,
    pub s: Standby,
    out: Vec<String>,
    sessions: u8,
    /// Longest piece in which data arrives.
    pub chunk_len: usize,
}

/// What both nodes have.
pub struct Node {
    pub log: FakeLog,
    pub config: Config,
    pub id: NodeId,
    jobs: VecDeque<Job>,
    pub held: BTreeSet<String>,
    messages: VecDeque<Message>,
    data: VecDeque<(RunHeader, Bytes)>,
}

pub struct Primary {
    pub node: Node,
    sender: Option<Sender>,
    pub heard: Option<Term>,
    pub state: PrimaryState,
    pub protection: Option<ProtectionPoint>,
    pub remembered: Option<AckMark>,
    /// How the last session attached, if it did.
    pub last_attach: Option<Message>,
}

pub struct Standby {
    pub node: Node,
    receiver: Option<Receiver>,
    pub heard: Term,
    pub told: Lsn,
    pub acked: Option<AckMark>,
    pub protection: Option<ProtectionPoint>,
    nonce: Nonce,
}

/// Something that a shell was asked for and has not done.
enum Job {
    Append(Box<FrameRun>),
    Sync,
    ApplyTo(Lsn),
    Quarantine(Lsn),
    Note,
    NoteAttached,
    Read(Lsn, usize),
    Flush,
}

impl Job {
    fn name(&self) -> &'static str {
        match self {
            Self::Append(_) => "append",
            Self::Sync => "sync",
            Self::ApplyTo(_) => "apply",
            Self::Quarantine(_) => "quarantine",
            Self::Note => "note",
            Self::NoteAttached => "attach",
            Self::Read(..) => "read",
            Self::Flush => "flush",
        }
    }

    /// Jobs of one lane are done in order.
    fn lane(&self) -> u8 {
        match self {
            Self::Append(_) | Self::Sync | Self::Quarantine(_) => 0,
            Self::ApplyTo(_) => 1,
            Self::Note | Self::NoteAttached => 2,
            Self::Read(..) => 3,
            Self::Flush => 4,
        }
    }
}

impl Node {
    fn new(name: &str) -> Self {
        Self {
            log: FakeLog::new(),
            config: Config::default(),
            id: args::node(name),
            jobs: VecDeque::new(),
            held: BTreeSet::new(),
            messages: VecDeque::new(),
            data: VecDeque::new(),
        }
    }

    fn identity(&self, name: &str) -> Identity {
        Identity {
            cluster: CLUSTER,
            node: self.id,
            name: name.into(),
            segment_size: SEGMENT_SIZE,
        }
    }

    /// The next job that neither is held nor waits behind one of its lane that is.
    fn next_job(&mut self) -> Option<Job> {
        let mut blocked = BTreeSet::new();
        let at = self.jobs.iter().position(|job| {
            if self.held.contains(job.name()) {
                blocked.insert(job.lane());
            }
            !blocked.contains(&job.lane())
        })?;
        self.jobs.remove(at)
    }

    /// One flush at a time covers everything before it.
    fn flush(&mut self) {
        if !self.jobs.iter().any(|job| matches!(job, Job::Flush)) {
            self.jobs.push_back(Job::Flush);
        }
    }
}

impl World {
    pub fn new() -> Self {
        Self {
            now: Duration::ZERO,
            p: Primary {
                node: Node::new("p"),
                sender: None,
                heard: None,
                state: PrimaryState::Serving,
                protection: None,
                remembered: None,
                last_attach: None,
            },
            s: Standby {
                node: Node::new("s"),
                receiver: None,
                heard: Term::NONE,
                told: Lsn::ZERO,
                acked: None,
                protection: None,
                nonce: Nonce([0; 8]),
            },
            out: Vec::new(),
            sessions: 0,
            chunk_len: usize::MAX,
        }
    }

    /// What happened since the last call.
    pub fn take_out(&mut self) -> Vec<String> {
        std::mem::take(&mut self.out)
    }

    pub fn node(&mut self, name: &str) -> &mut Node {
        match name {
            "p" => &mut self.p.node,
            "s" => &mut self.s.node,
            _ => panic!("no node {name}"),
        }
    }

    fn p_now(&self) -> MonoTime {
        MonoTime::new(PRIMARY_CLOCK + self.now)
    }

    fn s_now(&self) -> MonoTime {
        MonoTime::new(self.now)
    }

    pub fn view(&self) -> PrimaryView {
        let log = &self.p.node.log;
        PrimaryView {
            appended: log.position(log.end().lsn),
            durable: log.position(log.durable),
            visible: log.position(log.applied),
            protection: self.p.protection,
            state: self.p.state,
        }
    }

    pub fn primary_facts(&self) -> PrimaryFacts {
        PrimaryFacts {
            identity: self.p.node.identity("paul"),
            peer: self.s.node.id,
            heard: self
                .p
                .heard
                .unwrap_or_else(|| Term::of(self.p.node.log.history())),
            log: self.p.node.log.view(),
            protection: self.p.protection,
            state: self.p.state,
            remembered: self.p.remembered,
        }
    }

    pub fn start_standby(&mut self) {
        let facts = StandbyFacts {
            identity: self.s.node.identity("susan"),
            heard: self.s.heard,
            protection: self.s.protection,
            log: self.s.node.log.view(),
            visible_told: self.s.told,
            acked: self.s.acked,
        };
        let receiver = Receiver::new(self.s_now(), self.s.node.config.clone(), facts);
        self.s.receiver = Some(receiver);
        self.s.node.jobs.clear();
        self.drain_s();
    }

    pub fn dial(&mut self, mode: Mode) {
        self.cut_line();
        self.sessions += 1;
        self.s.nonce = Nonce([b'b', self.sessions, 0, 0, 0, 0, 0, 0]);
        let nonce = Nonce([b'a', self.sessions, 0, 0, 0, 0, 0, 0]);
        let config = self.p.node.config.clone();
        let facts = self.primary_facts();
        self.p.node.jobs.clear();
        self.p.sender = Some(Sender::new(self.p_now(), config, facts, mode, nonce));
        self.drain_p();
        self.work_p();
    }

    /// The connection is gone with everything on it; nobody is told.
    pub fn cut_line(&mut self) {
        for node in [&mut self.p.node, &mut self.s.node] {
            node.messages.clear();
            node.data.clear();
        }
    }

    pub fn disconnect(&mut self) {
        self.cut_line();
        self.input_p(SenderInput::Disconnected);
        let nonce = self.s.nonce;
        self.input_s(ReceiverInput::Disconnected { nonce });
    }

    pub fn input_p(&mut self, input: SenderInput) {
        let now = self.p_now();
        if let Some(sender) = &mut self.p.sender {
            sender.handle(now, input);
            self.drain_p();
            self.work_p();
        }
    }

    pub fn input_s(&mut self, input: ReceiverInput) {
        let now = self.s_now();
        if let Some(receiver) = &mut self.s.receiver {
            receiver.handle(now, input);
            self.drain_s();
            self.work_s();
        }
    }

    pub fn tell_view(&mut self) {
        let view = self.view();
        self.input_p(SenderInput::View(view));
    }

    fn drain_p(&mut self) {
        while let Some(output) = self.p.sender.as_mut().and_then(Sender::poll_output) {
            self.say(&format!("p {}", print::sender_output(&output)));
            let jobs = &mut self.p.node.jobs;
            match output {
                SenderOutput::Send(message) => {
                    if matches!(message, Message::Attach { .. }) {
                        self.p.last_attach = Some(message.clone());
                    }
                    self.s.node.messages.push_back(message);
                    self.p.node.flush();
                }
                SenderOutput::Data(header, bytes) => self.s.node.data.push_back((header, bytes)),
                SenderOutput::Read { from, max_bytes } => {
                    jobs.push_back(Job::Read(from, max_bytes))
                }
                SenderOutput::NoteAttached { .. } => jobs.push_back(Job::NoteAttached),
                SenderOutput::Append(run) => jobs.push_back(Job::Append(Box::new(run))),
                SenderOutput::Sync => jobs.push_back(Job::Sync),
                SenderOutput::Fence { .. }
                | SenderOutput::Conflict { .. }
                | SenderOutput::Event(_)
                | SenderOutput::Close(_) => {}
            }
        }
    }

    fn drain_s(&mut self) {
        while let Some(output) = self.s.receiver.as_mut().and_then(Receiver::poll_output) {
            self.say(&format!("s {}", print::receiver_output(&output)));
            let jobs = &mut self.s.node.jobs;
            match output {
                ReceiverOutput::Send(message) => {
                    self.p.node.messages.push_back(message);
                    self.s.node.flush();
                }
                ReceiverOutput::Data(header, bytes) => self.p.node.data.push_back((header, bytes)),
                ReceiverOutput::Read { from, max_bytes } => {
                    jobs.push_back(Job::Read(from, max_bytes));
                }
                ReceiverOutput::Append(run) => jobs.push_back(Job::Append(Box::new(run))),
                ReceiverOutput::Sync => jobs.push_back(Job::Sync),
                ReceiverOutput::ApplyTo(lsn) => jobs.push_back(Job::ApplyTo(lsn)),
                ReceiverOutput::Note { .. } => jobs.push_back(Job::Note),
                ReceiverOutput::Quarantine { from } => jobs.push_back(Job::Quarantine(from)),
                ReceiverOutput::Conflict { .. }
                | ReceiverOutput::Event(_)
                | ReceiverOutput::Close(_) => {}
            }
        }
    }

    /// The primary's shell does what it may.
    pub fn work_p(&mut self) {
        while let Some(job) = self.p.node.next_job() {
            let log = &mut self.p.node.log;
            let input = match job {
                Job::Append(run) => {
                    log.append_run(&run);
                    SenderInput::Appended(log.position(log.end().lsn))
                }
                Job::Sync => {
                    log.durable = log.end().lsn;
                    SenderInput::Durable(log.position(log.durable))
                }
                Job::NoteAttached => SenderInput::AttachmentNoted,
                Job::Read(from, max_bytes) => SenderInput::LogBytes {
                    from,
                    bytes: log.read(from, max_bytes),
                },
                Job::Flush => SenderInput::ControlFlushed,
                Job::ApplyTo(_) | Job::Quarantine(_) | Job::Note => panic!("not a primary's job"),
            };
            self.input_p(input);
        }
    }

    /// The standby's shell does what it may.
    pub fn work_s(&mut self) {
        while let Some(job) = self.s.node.next_job() {
            let log = &mut self.s.node.log;
            let input = match job {
                Job::Append(run) => {
                    log.append_run(&run);
                    ReceiverInput::Appended(log.position(log.end().lsn))
                }
                Job::Sync => {
                    log.durable = log.end().lsn;
                    ReceiverInput::Durable(log.position(log.durable))
                }
                Job::ApplyTo(lsn) => {
                    log.applied = log.frame_end(lsn).max(log.applied);
                    ReceiverInput::Applied(log.position(log.applied))
                }
                Job::Quarantine(from) => {
                    log.cut(from);
                    ReceiverInput::Quarantined(Box::new(log.view()))
                }
                Job::Note => ReceiverInput::Noted,
                Job::Read(from, max_bytes) => ReceiverInput::LogBytes {
                    from,
                    bytes: log.read(from, max_bytes),
                },
                Job::Flush => ReceiverInput::ControlFlushed,
                Job::NoteAttached => panic!("not a standby's job"),
            };
            self.input_s(input);
        }
    }

    /// Delivers one thing to a node; answers whether there was one.
    pub fn deliver(&mut self, to: &str, data: bool) -> bool {
        let node = self.node(to);
        if data {
            let Some((header, bytes)) = node.data.pop_front() else {
                return false;
            };
            self.deliver_data(to, header, bytes);
        } else {
            let Some(message) = node.messages.pop_front() else {
                return false;
            };
            self.deliver_message(to, message);
        }
        true
    }

    fn deliver_message(&mut self, to: &str, message: Message) {
        if to == "p" {
            self.input_p(SenderInput::Message(message));
        } else if let Message::Hello(hello) = message {
            self.accept(hello);
        } else {
            self.input_s(ReceiverInput::Message(message));
        }
    }

    fn deliver_data(&mut self, to: &str, header: RunHeader, mut bytes: Bytes) {
        if to == "p" {
            self.input_p(SenderInput::RunStart(header));
        } else {
            self.input_s(ReceiverInput::RunStart(header));
        }
        while !bytes.is_empty() {
            let piece = bytes.split_to(self.chunk_len.min(bytes.len()));
            if to == "p" {
                self.input_p(SenderInput::RunBytes(piece));
            } else {
                self.input_s(ReceiverInput::RunBytes(piece));
            }
        }
    }

    /// The standby's shell reads the first message of a connection.
    fn accept(&mut self, hello: Box<Hello>) {
        let peer = self.p.node.id;
        let Some(receiver) = &self.s.receiver else {
            return;
        };
        match receiver.meet(peer, &hello) {
            Meeting::Follow | Meeting::Conflict { .. } => {
                let nonce = self.s.nonce;
                self.input_s(ReceiverInput::Hello { nonce, peer, hello });
            }
            Meeting::Refuse(refuse) => {
                let refuse = Message::Refuse(refuse);
                self.say(&format!("s meets -> {}", print::message(&refuse)));
                self.p.node.messages.push_back(refuse);
            }
            Meeting::Fence { .. } => panic!("a standby has nothing to fence"),
            Meeting::Hear { term, refuse } => {
                self.input_s(ReceiverInput::HeardTerm(term));
                let refuse = Message::Refuse(refuse);
                self.say(&format!("s meets -> {}", print::message(&refuse)));
                self.p.node.messages.push_back(refuse);
            }
        }
    }

    /// Delivers everything until nothing is under way.
    pub fn run(&mut self) {
        while ["s", "p"]
            .into_iter()
            .map(|to| self.deliver(to, false) | self.deliver(to, true))
            .fold(false, |any, one| any | one)
        {}
    }

    /// Lets time pass, with the timeouts that fall into it, in order.
    pub fn tick(&mut self, wait: Duration, deliver: bool) {
        let end = self.now + wait;
        loop {
            let p_due = self.p.sender.as_ref().and_then(Sender::poll_timeout);
            let p_due = p_due.map(|due| due.since(MonoTime::new(PRIMARY_CLOCK)));
            let s_due = self.s.receiver.as_ref().and_then(Receiver::poll_timeout);
            let s_due = s_due.map(MonoTime::as_duration);
            let Some(due) = [p_due, s_due]
                .into_iter()
                .flatten()
                .min()
                .filter(|due| *due <= end)
            else {
                break;
            };
            self.now = self.now.max(due);
            if p_due == Some(due) {
                self.input_p(SenderInput::Timeout);
            }
            if s_due == Some(due) {
                self.input_s(ReceiverInput::Timeout);
            }
            if deliver {
                self.run();
            }
        }
        self.now = end;
    }

    /// The Welcome on its way to the primary, to be tampered with.
    pub fn welcome_mut(&mut self) -> Option<&mut Welcome> {
        match self.p.node.messages.front_mut() {
            Some(Message::Welcome(welcome)) => Some(welcome),
            _ => None,
        }
    }

    /// The first Hello on its way to the standby, to be tampered with.
    pub fn hello_mut(&mut self) -> Option<&mut Hello> {
        match self.s.node.messages.front_mut() {
            Some(Message::Hello(hello)) => Some(hello),
            _ => None,
        }
    }

    /// The session that was dialled last.
    pub fn session(&self) -> Binding {
        Binding {
            session: SessionId {
                dialler: Nonce([b'a', self.sessions, 0, 0, 0, 0, 0, 0]),
                listener: self.s.nonce,
            },
            epoch: self
                .p
                .node
                .log
                .history()
                .last()
                .map_or(EpochId::NONE, |last| last.id),
        }
    }

    /// Data with a header of the last attached session, cut from the primary's log.
    pub fn forge_data(&mut self, header: RunHeader, len: usize, flip: Option<usize>) {
        let start = to_usize(header.first.0);
        let mut bytes = self.p.node.log.bytes()[start..start + len].to_vec();
        if let Some(at) = flip {
            bytes[at] ^= 1;
        }
        self.s.node.data.push_back((header, Bytes::from(bytes)));
    }

    pub fn send_to(&mut self, to: &str, message: Message) {
        self.say(&format!("forged -> {to}: {}", print::message(&message)));
        self.node(to).messages.push_back(message);
    }

    pub fn status(&mut self, name: &str) {
        let line = match name {
            "p" => self
                .p
                .sender
                .as_ref()
                .map(|it| print::sender_status(&it.status())),
            _ => self
                .s
                .receiver
                .as_ref()
                .map(|it| print::receiver_status(&it.status())),
        };
        let silence = self.s.receiver.as_ref().map(|it| it.silence(self.s_now()));
        self.say(&format!(
            "{name} {}",
            line.unwrap_or_else(|| "is not there".into())
        ));
        if name == "s" {
            self.say(&format!("s silent for {:?}", silence.unwrap_or_default()));
        }
    }

    pub fn say(&mut self, line: &str) {
        self.out.push(line.to_owned());
    }
}

/// The id that scripts write as `e7`.
pub fn epoch(number: u8) -> EpochId {
    EpochId([number; 16])
}
