//! One process of a node, driven by hand: the real store, session and follower, and what a shell
//! with threads and links would hold around them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use outlast_engine::format::Position;
use outlast_engine::format::{EpochReason, NodeId};
use outlast_engine::{CommitFuture, Group, LogCursor, LogState, Lsn, Store};
use outlast_proto::{
    AckMark, ByeReason, CloseReason, Config, ConflictKind, Message, Mode, MonoTime, Nonce,
    ProtectionPoint, ReceiverPhase, RunHeader, Sender, SenderEvent, SenderInput, Term,
};
use outlast_shipper::drive::{Gatekeeper, ShipHooks, ShipOutput, Shipping, read_frames};
use outlast_standby::drive::{self, Done, FollowOutput, Following, Job, Round, replay_to};
use outlast_standby::status::Role;
use parking_lot::Mutex;

use crate::clock::SimClock;
use crate::network::LinkId;
use crate::observer::Observer;
use crate::reader::Reader;
use crate::report::Counts;

/// What a process hands to the world.
pub(crate) enum Out {
    Message(LinkId, Message),
    Data(LinkId, RunHeader, Bytes),
    Close(LinkId, String),
    /// Something for the trace.
    Note(String),
}

/// How far a group has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    Formed,
    Written,
    Synced,
}

pub(crate) struct Process {
    pub(crate) store: Store,
    pub(crate) gatekeeper: Arc<Gatekeeper>,
    /// Whether a standby is attached.
    pub(crate) attached: bool,
    /// When the newest heartbeat was formed that the standby is known to have echoed; before there
    /// is one, when this process began.
    pub(crate) contact: MonoTime,
    /// A suspension that has taken effect: its record, and since when.
    pub(crate) lifted: Option<(ProtectionPoint, MonoTime)>,
    /// What readers saw when this process was looked at last.
    pub(crate) shown: Position,
    /// When to look after the promise next, in true time.
    pub(crate) keep_ns: u64,
    /// How far the wall clock was from the boot clock then, in milliseconds.
    pub(crate) apart_ms: Option<i64>,
    pub(crate) clock: Arc<SimClock>,
    config: Config,
    hooks: Arc<Hooks>,
    changed: Arc<AtomicBool>,
    pub(crate) group: Option<(Group, Stage)>,
    pub(crate) group_scheduled: bool,
    pub(crate) pending: Vec<(u64, CommitFuture)>,
    pub(crate) ship: Option<Ship>,
    pub(crate) dialling: bool,
    /// When to dial next, in true time.
    pub(crate) dial_ns: u64,
    remembered: Option<AckMark>,
    pub(crate) following: Option<Following>,
    pub(crate) session: Option<Session>,
    follow_cursor: Option<LogCursor>,
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) jobs_scheduled: bool,
    /// Up to where readers are to be let, besides the jobs.
    pub(crate) replay: Option<Lsn>,
    pub(crate) replay_scheduled: bool,
    pub(crate) done: VecDeque<Done>,
    pub(crate) done_scheduled: bool,
    /// Links on which a Hello is due.
    pub(crate) greeting: Vec<LinkId>,
    /// When background work is due, in true time.
    pub(crate) lane_ns: u64,
    /// The earliest wake that is scheduled.
    pub(crate) wake_ns: u64,
    pub(crate) out: Vec<Out>,
    pub(crate) counts: Counts,
    pub(crate) observer: Observer,
    pub(crate) reader: Reader,
}

/// A session as the one who dialled.
pub(crate) struct Ship {
    pub(crate) link: LinkId,
    pub(crate) shipping: Shipping,
    cursor: Option<LogCursor>,
}

/// A session as the one who was dialled.
pub(crate) struct Session {
    pub(crate) link: LinkId,
    pub(crate) nonce: Nonce,
}

impl Process {
    pub(crate) fn new(
        store: Store,
        gatekeeper: Arc<Gatekeeper>,
        clock: Arc<SimClock>,
        config: Config,
        observer: Observer,
        reader: Reader,
    ) -> Self {
        let changed = Arc::new(AtomicBool::new(true));
        let flag = changed.clone();
        store.on_change(move || flag.store(true, Ordering::Relaxed));
        let hooks = Arc::new(Hooks {
            store: store.clone(),
            gatekeeper: gatekeeper.clone(),
            standby: Mutex::default(),
            notes: Mutex::default(),
        });
        Self {
            gatekeeper,
            attached: false,
            contact: clock.now(),
            lifted: None,
            shown: store.positions().visible,
            keep_ns: 0,
            apart_ms: None,
            store,
            clock,
            config,
            hooks,
            changed,
            group: None,
            group_scheduled: false,
            pending: Vec::new(),
            ship: None,
            dialling: false,
            dial_ns: 0,
            remembered: None,
            following: None,
            session: None,
            follow_cursor: None,
            jobs: VecDeque::new(),
            jobs_scheduled: false,
            replay: None,
            replay_scheduled: false,
            done: VecDeque::new(),
            done_scheduled: false,
            greeting: Vec::new(),
            lane_ns: 0,
            wake_ns: u64::MAX,
            out: Vec::new(),
            counts: Counts::default(),
            observer,
            reader,
        }
    }

    pub(crate) fn role(&self) -> Role {
        drive::role(&self.store, self.following.is_some())
    }

    /// Whether a group is in flight: what needs the log to itself waits.
    pub(crate) const fn is_busy(&self) -> bool {
        self.group.is_some()
    }

    /// Whether positions or state moved since the last call.
    pub(crate) fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::Relaxed)
    }

    pub(crate) const fn config(&self) -> &Config {
        &self.config
    }

    /// Whether this node looks for its peer.
    pub(crate) fn wants_to_dial(&self) -> bool {
        self.store.has_peer()
            && self.ship.is_none()
            && !self.dialling
            && drive::dial_mode(&self.role()).is_some()
    }

    /// Whether it is a standby whose log failed: it takes no session until it is started again.
    pub(crate) fn follows_no_longer(&self) -> bool {
        self.following.as_ref().is_some_and(|following| {
            following.receiver().lock().status().phase == ReceiverPhase::Failed
        })
    }

    /// Whether a commit waits for a group.
    pub(crate) fn waits_for_group(&self) -> bool {
        self.store.state() == LogState::Writing && self.store.has_queued()
    }

    /// Leads groups until no commit waits for one.
    pub(crate) fn finish_groups(&mut self) {
        if let Some((mut group, stage)) = self.group.take() {
            if stage == Stage::Formed {
                group.write();
            }
            if stage != Stage::Synced {
                group.sync();
            }
            group.finish();
        }
        while let Some(mut group) = self.store.lead() {
            group.write();
            group.sync();
            group.finish();
        }
    }

    /// Begins to follow.
    pub(crate) fn follow(&mut self) -> outlast_engine::Result<()> {
        let following = Following::start(self.clock.now(), self.config.clone(), &self.store)?;
        self.following = Some(following);
        Ok(())
    }

    /// Begins a session over a link to `peer`.
    pub(crate) fn begin_session(&mut self, link: LinkId, peer: NodeId, mode: Mode, nonce: Nonce) {
        let facts = drive::primary_facts(&self.store, peer, self.remembered);
        let sender = Sender::new(self.clock.now(), self.config.clone(), facts, mode, nonce);
        *self.hooks.standby.lock() = Some(peer);
        let shipping = Shipping::new(sender, self.store.clone(), self.hooks.clone());
        self.ship = Some(Ship {
            link,
            shipping,
            cursor: None,
        });
    }

    /// Ends the session that this node dialled, because its role changed.
    pub(crate) fn end_session(&mut self) {
        let now = self.clock.now();
        if let Some(ship) = &mut self.ship {
            ship.shipping.handle(now, SenderInput::EpochBegins);
        }
    }

    /// Does what the protocol asks for, until it asks for nothing.
    pub(crate) fn pump(&mut self) {
        loop {
            self.pump_ship();
            self.pump_following();
            self.take_notes();
            let now = self.clock.now();
            match &mut self.ship {
                Some(ship) if self.changed.swap(false, Ordering::Relaxed) => {
                    self.lane_ns = 0;
                    ship.shipping.look(now);
                }
                _ => return,
            }
        }
    }

    fn pump_ship(&mut self) {
        let now = self.clock.now();
        while let Some(ship) = &mut self.ship
            && let Some(output) = ship.shipping.poll_output(now)
        {
            match output {
                ShipOutput::Send(message) => self.out.push(Out::Message(ship.link, message)),
                ShipOutput::Data(header, bytes) => {
                    self.out.push(Out::Data(ship.link, header, bytes));
                }
                ShipOutput::Read { from, max_bytes } => {
                    let bytes = read_frames(&self.store, &mut ship.cursor, from, max_bytes);
                    ship.shipping.read_done(from, bytes);
                }
                ShipOutput::Close(reason) => {
                    self.out.push(Out::Close(ship.link, reason.to_string()));
                    self.ship = None;
                    self.attached = false;
                    if reason == CloseReason::Bye(ByeReason::Withdrawn)
                        && let Some(standby) = *self.hooks.standby.lock()
                    {
                        self.gatekeeper.on_withdrawn(standby);
                    }
                }
            }
        }
    }

    fn pump_following(&mut self) {
        let now = self.clock.now();
        while let Some(following) = &mut self.following
            && let Some(output) = following.poll_output(now)
        {
            match output {
                FollowOutput::Send(message) => {
                    if let Some(session) = &self.session {
                        self.out.push(Out::Message(session.link, message));
                    }
                }
                FollowOutput::Data(header, bytes) => {
                    if let Some(session) = &self.session {
                        self.out.push(Out::Data(session.link, header, bytes));
                    }
                }
                FollowOutput::Read { from, max_bytes } => {
                    let cursor = &mut self.follow_cursor;
                    let bytes = read_frames(&self.store, cursor, from, max_bytes);
                    following.read_done(from, bytes);
                }
                FollowOutput::Job(job) => self.jobs.push_back(job),
                FollowOutput::Conflict { kind, heard } => {
                    self.gatekeeper.shut();
                    drive::halt(&self.store, &kind, heard);
                    self.note(format_args!("conflict: {kind:?}"));
                }
                FollowOutput::Event(event) => self.note(format_args!("learns {event:?}")),
                FollowOutput::Close(reason) => {
                    if let Some(session) = self.session.take() {
                        self.out.push(Out::Close(session.link, reason.to_string()));
                    }
                }
            }
        }
    }

    fn take_notes(&mut self) {
        let notes = std::mem::take(&mut *self.hooks.notes.lock());
        for note in notes {
            match note {
                Note::Remember(mark) => self.remembered = mark,
                Note::Contact(at) => self.contact = self.contact.max(at),
                Note::Attached(what) => {
                    self.attached = true;
                    self.counts.attached += 1;
                    self.note(format_args!("{what}"));
                }
                Note::Fetched => self.counts.fetched_back += 1,
                Note::Fenced => self.counts.fenced += 1,
                Note::Ended(what) => {
                    self.note(format_args!("{what}"));
                    self.dial_ns = 0;
                }
                Note::Said(what) => self.note(format_args!("{what}")),
            }
        }
    }

    pub(crate) fn note(&mut self, what: fmt::Arguments<'_>) {
        self.out.push(Out::Note(what.to_string()));
    }

    /// Does the first `count` of the jobs that wait, as one round.
    pub(crate) fn do_jobs(&mut self, count: usize) {
        let mut round = Round::default();
        let (done, target) = (&mut self.done, &mut self.replay);
        let mut tell = |what| done.push_back(what);
        let mut replay = |lsn| *target = (*target).max(Some(lsn));
        for _ in 0..count {
            let Some(job) = self.jobs.pop_front() else {
                break;
            };
            if let Err(error) = round.take(&self.store, job, &mut replay, &mut tell) {
                tell(Done::Failed(error));
            }
        }
        if let Err(error) = round.finish(&self.store, &mut tell) {
            tell(Done::Failed(error));
        }
    }

    /// Replays up to where readers are to be let.
    pub(crate) fn do_replay(&mut self) {
        if let Some(lsn) = self.replay.take() {
            self.done.extend(replay_to(&self.store, lsn));
        }
    }

    /// Tells the follower the first thing that was done.
    pub(crate) fn tell_done(&mut self) {
        let now = self.clock.now();
        if let Some(done) = self.done.pop_front()
            && let Some(following) = &mut self.following
        {
            following.done(now, done);
        }
    }

    /// Takes this node out of its following, and leaves the rest for later.
    pub(crate) fn begin_withdrawal(&mut self) {
        let now = self.clock.now();
        if let Some(following) = &mut self.following {
            following.withdraw(now, Box::new(|| ()));
        }
        self.pump();
    }

    /// Takes this node out of its following, for a promotion, and does all that was accepted.
    pub(crate) fn withdraw(&mut self) -> bool {
        let now = self.clock.now();
        let passed = Arc::new(AtomicBool::new(false));
        let Some(following) = &mut self.following else {
            return false;
        };
        let flag = passed.clone();
        following.withdraw(now, Box::new(move || flag.store(true, Ordering::Relaxed)));
        self.pump();
        while !self.jobs.is_empty() || !self.done.is_empty() {
            self.do_jobs(usize::MAX);
            while !self.done.is_empty() {
                self.tell_done();
                self.pump();
            }
        }
        passed.load(Ordering::Relaxed)
    }
}

/// What a session tells its node.
struct Hooks {
    store: Store,
    gatekeeper: Arc<Gatekeeper>,
    /// The node that was dialled.
    standby: Mutex<Option<NodeId>>,
    notes: Mutex<Vec<Note>>,
}

enum Note {
    Remember(Option<AckMark>),
    Contact(MonoTime),
    Attached(String),
    Fetched,
    Fenced,
    /// Something happened that ends sessions and lets this node dial at once.
    Ended(String),
    Said(String),
}

impl Hooks {
    fn note(&self, note: Note) {
        self.notes.lock().push(note);
    }
}

impl ShipHooks for Hooks {
    fn fence(&self, term: Term) {
        self.gatekeeper.shut();
        drive::fence(&self.store, term);
        self.note(Note::Fenced);
        self.note(Note::Ended(format!("fenced by term {}", term.number)));
    }

    fn conflict(&self, kind: &ConflictKind, heard: Term) {
        self.gatekeeper.shut();
        drive::halt(&self.store, kind, heard);
        self.note(Note::Ended(format!("conflict: {kind:?}")));
    }

    fn event(&self, event: &SenderEvent) {
        match event {
            SenderEvent::Replicated(position) => {
                self.note(Note::Remember(drive::remember(&self.store, *position)));
                if let Some(standby) = *self.standby.lock() {
                    self.gatekeeper.on_replicated(standby, *position);
                }
            }
            SenderEvent::Contact { at, told } => {
                self.note(Note::Contact(*at));
                if let Some(standby) = *self.standby.lock() {
                    self.gatekeeper.on_echo(standby, *at, *told);
                    self.store.ask_gate();
                }
            }
            SenderEvent::Attached { .. } => self.note(Note::Attached(format!("learns {event:?}"))),
            SenderEvent::ContactComplete { fetched, .. } => {
                if !fetched.is_empty() {
                    self.note(Note::Fetched);
                }
                let members = self.standby.lock().iter().copied().collect();
                let reason = EpochReason::Restart;
                self.gatekeeper.begin(&self.store, reason, members);
                let begun = drive::resume(&self.store, reason, "");
                let what = match begun {
                    Ok(epoch) => format!("contact, fetched {fetched}, start {}", epoch.start),
                    Err(error) => format!("contact, and no epoch: {error}"),
                };
                self.note(Note::Ended(what));
            }
            SenderEvent::Received(_) | SenderEvent::Applied(_) => {}
            other => self.note(Note::Said(format!("learns {other:?}"))),
        }
    }
}
