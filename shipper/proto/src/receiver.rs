//! The standby's side, over all its sessions.
//!
//! A [`Receiver`] lives as long as its node follows. One at a time it goes through the sessions
//! that its primary opens; what must not depend on a session (the log, what is noted, the silence,
//! the withdrawal) stays. The handshake is here; what follows it is in `follow` (frames come in)
//! and `serve` (a restarted primary takes its lost tail back).

mod follow;
mod handshake;
mod io;
mod local;
mod notes;
mod serve;
mod session;
mod status;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use outlast_engine::format::{Lsn, LsnRange, NodeId};
use outlast_engine::planted::{Bug, on};

pub use self::io::{ReceiverEvent, ReceiverInput, ReceiverOutput};
use self::local::LocalLog;
use self::notes::Notes;
use self::session::{Phase, Session};
pub use self::status::{ReceiverPhase, ReceiverStatus, Told};
use crate::close::CloseReason;
use crate::config::Config;
use crate::dropped::Dropped;
use crate::facts::{Identity, PrimaryView, StandbyFacts};
use crate::meeting::{self, Local, Meeting, Role};
use crate::message::{ByeReason, ConflictKind, Hello, Message, RefuseReason};
use crate::session::{Nonce, RunHeader};
use crate::time::MonoTime;

/// The standby's side of a pair, as a pure state machine.
///
/// It never reads a clock, opens a file, spawns or blocks. `now` never goes backwards.
///
/// **Law:** after [`Receiver::new`] and after every [`Receiver::handle`], drain
/// [`Receiver::poll_output`] to `None`, then wait for the next input or for the moment of
/// [`Receiver::poll_timeout`].
///
/// Invariants:
/// 1. Nothing is concluded from a message that names another session or epoch, and no position of a
///    primary counts before this log is known to be a prefix of its history.
/// 2. Only checked frames that continue the log are handed out for appending.
/// 3. An ack reports as durable what [`ReceiverInput::Durable`] reported, and nothing else.
/// 4. Readers are let up to what is durable and what the primary's readers may see.
/// 5. Only the newest heartbeat of the session is echoed, after its term and its protection record
///    are noted durably.
/// 6. From [`ReceiverInput::Withdraw`] on nothing is accepted, echoed or acknowledged.
/// 7. The log is cut only where the primary's history proves a fork, at or above everything that
///    was seen.
#[derive(Debug)]
pub struct Receiver {
    config: Config,
    identity: Identity,
    now: MonoTime,
    standing: Standing,
    log: LocalLog,
    notes: Notes,
    /// When an echo was handed out last, or when this process began to follow.
    silent_since: MonoTime,
    /// When it withdrew, while it is withdrawn.
    withdrawn_at: Option<MonoTime>,
    told: Option<Told>,
    session: Option<Session>,
    /// A read of an earlier session was not answered yet.
    stale_read: bool,
    dropped: Dropped,
    out: VecDeque<ReceiverOutput>,
}

/// Whether this node takes sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Active,
    Withdrawn,
    Failed,
    Conflict(ConflictKind),
}

impl Receiver {
    /// A node that begins to follow at `now`: from here its silence counts.
    ///
    /// # Panics
    /// When the facts contradict each other.
    #[must_use]
    pub fn new(now: MonoTime, config: Config, facts: StandbyFacts) -> Self {
        config.assert_sound();
        let log = LocalLog::new(&facts);
        let mut receiver = Self {
            config,
            now,
            standing: Standing::Active,
            notes: Notes::new(&facts),
            silent_since: now,
            withdrawn_at: None,
            told: None,
            session: None,
            stale_read: false,
            dropped: Dropped::default(),
            out: VecDeque::new(),
            identity: facts.identity,
            log,
        };
        if let Some(lost) = receiver.log.tail_lost() {
            receiver.event(ReceiverEvent::AckedTailLost(lost));
        }
        receiver
    }

    /// What to do with a connection that opened with this Hello, its key being that of `peer`.
    /// Changes nothing: a live session goes on unless the answer is to follow.
    pub fn meet(&self, peer: NodeId, hello: &Hello) -> Meeting {
        let role = match self.standing {
            Standing::Active => Role::Standby,
            Standing::Withdrawn => Role::Withdrawn,
            Standing::Failed => Role::Failed,
            Standing::Conflict(kind) => Role::Conflict(kind),
        };
        let local = Local {
            identity: &self.identity,
            role,
            heard: self.notes.heard(),
        };
        meeting::meet(&self.config, &local, peer, hello)
    }

    /// Takes what happened at `now`.
    ///
    /// # Panics
    /// When time goes backwards, outputs were left undrained, or the shell answers what it was not
    /// asked.
    pub fn handle(&mut self, now: MonoTime, input: ReceiverInput) {
        assert!(now >= self.now, "time went from {} to {now}", self.now);
        assert!(self.out.is_empty(), "outputs were left undrained");
        self.now = now;
        if let Err(reason) = self.take(input).and_then(|()| self.settle()) {
            self.close(reason);
        }
    }

    /// The next output; `None` when there is nothing to do before the next input.
    pub fn poll_output(&mut self) -> Option<ReceiverOutput> {
        self.out.pop_front()
    }

    /// When to give [`ReceiverInput::Timeout`], if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonoTime> {
        self.session.as_ref()?.deadline(&self.config)
    }

    /// How long this node has echoed nothing: what a promotion is judged by. From the withdrawal on
    /// it grows no more: a node that was heard until then must not seem silent because its own disk
    /// was slow.
    #[must_use]
    pub fn silence(&self, now: MonoTime) -> Duration {
        self.withdrawn_at.unwrap_or(now).since(self.silent_since)
    }

    fn take(&mut self, input: ReceiverInput) -> Result<(), CloseReason> {
        match input {
            ReceiverInput::Hello { nonce, peer, hello } => {
                return self.on_hello(nonce, peer, hello);
            }
            ReceiverInput::HeardTerm(term) => return self.on_heard_term(term),
            ReceiverInput::Message(message) => return self.on_message(message),
            ReceiverInput::RunStart(header) => return self.on_run_start(&header),
            ReceiverInput::RunBytes(bytes) => return self.on_run_bytes(bytes),
            ReceiverInput::LogBytes { from, bytes } => return self.on_log_bytes(from, bytes),
            ReceiverInput::ControlFlushed => {
                if let Some(session) = &mut self.session {
                    session.control_busy = false;
                }
            }
            ReceiverInput::Appended(position) => self.log.on_appended(position),
            // The one place where bytes become durable, and so may be acknowledged as such.
            ReceiverInput::Durable(position) => {
                if self.log.on_durable(position) {
                    self.event(ReceiverEvent::AckedTailRestored);
                }
            }
            ReceiverInput::Applied(position) => self.log.on_applied(position),
            ReceiverInput::Noted => self.notes.on_noted(),
            ReceiverInput::Quarantined(view) => self.on_quarantined(*view),
            ReceiverInput::Disconnected { nonce } => {
                if self.names_session(nonce) {
                    self.forget_session();
                }
            }
            ReceiverInput::LogFailed => {
                self.standing = Standing::Failed;
                return self.end(RefuseReason::LogFailed, None, CloseReason::OwnLogFailed);
            }
            ReceiverInput::Withdraw => {
                if self.standing == Standing::Active {
                    self.standing = Standing::Withdrawn;
                    self.withdrawn_at = Some(self.now);
                }
                if on(Bug::EchoAfterWithdrawal) {
                    return Ok(());
                }
                let bye = ByeReason::Withdrawn;
                return self.end(RefuseReason::Withdrawn, Some(bye), CloseReason::Ended(bye));
            }
            ReceiverInput::Reinstate => {
                if self.standing == Standing::Withdrawn {
                    self.standing = Standing::Active;
                    self.silent_since = self.now;
                    self.withdrawn_at = None;
                }
            }
            ReceiverInput::Stop => {
                let bye = ByeReason::Stopping;
                return self.end(RefuseReason::Stopping, Some(bye), CloseReason::Ended(bye));
            }
            ReceiverInput::Timeout => return self.on_timeout(),
        }
        Ok(())
    }

    fn on_message(&mut self, message: Message) -> Result<(), CloseReason> {
        let Some(session) = &mut self.session else {
            self.dropped.other_session += 1;
            return Ok(());
        };
        if !self.dropped.admits(&message, Some(&session.binding)) {
            return Ok(());
        }
        session.heard_at = self.now;
        let name = message.name();
        match (message, &mut session.phase) {
            (Message::Attach { resume, .. }, Phase::Welcomed) => self.on_attach(resume),
            (Message::Diverged { fork, .. }, Phase::Welcomed) => self.on_diverged(fork),
            (Message::Fetch { range, .. }, Phase::Welcomed) => {
                self.begin_serving()?;
                self.on_fetch(&range)
            }
            (Message::Fetch { range, .. }, Phase::Serving(_)) => self.on_fetch(&range),
            (Message::Heartbeat(heartbeat), Phase::Following(following)) => {
                if following.on_heartbeat(&heartbeat)? {
                    self.on_view(heartbeat.view);
                } else {
                    self.dropped.stale += 1;
                }
                Ok(())
            }
            (Message::Positions { view, .. }, Phase::Following(following)) => {
                following.on_view(&view)?;
                self.on_view(view);
                Ok(())
            }
            (Message::Bye { reason, .. }, _) => Err(CloseReason::Bye(reason)),
            _ => Err(CloseReason::Unexpected(name)),
        }
    }

    fn on_fetch(&mut self, range: &LsnRange) -> Result<(), CloseReason> {
        match self.phase_mut() {
            Some(Phase::Serving(serving)) => serving.on_fetch(range),
            _ => Ok(()),
        }
    }

    fn on_view(&mut self, view: PrimaryView) {
        self.log.tell_visible(view.visible.lsn);
        self.notes.hear_protection(view.protection);
        if let Some(session) = &self.session {
            self.told = Some(Told {
                at: self.now,
                primary: session.hello.node,
                epoch: session.binding.epoch,
                view,
            });
        }
    }

    fn on_run_start(&mut self, header: &RunHeader) -> Result<(), CloseReason> {
        let Some(session) = &mut self.session else {
            self.dropped.other_session += 1;
            return Ok(());
        };
        let bound = self
            .dropped
            .admits_binding(&header.binding, &session.binding);
        match &mut session.phase {
            Phase::Following(following) => following.on_run_start(header),
            _ if bound => Err(CloseReason::Unexpected("data")),
            _ => Ok(()),
        }
    }

    fn on_run_bytes(&mut self, bytes: Bytes) -> Result<(), CloseReason> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let Phase::Following(following) = &mut session.phase else {
            return Ok(());
        };
        let Some(runs) = following.on_run_bytes(bytes, &self.log)? else {
            return Ok(());
        };
        session.heard_at = self.now;
        let news = !runs.is_empty();
        for run in runs {
            self.log.append(&run);
            self.out.push_back(ReceiverOutput::Append(run));
        }
        if news {
            self.out.push_back(ReceiverOutput::Sync);
        }
        Ok(())
    }

    fn on_log_bytes(&mut self, from: Lsn, bytes: Bytes) -> Result<(), CloseReason> {
        if std::mem::take(&mut self.stale_read) {
            return Ok(());
        }
        match self.phase_mut() {
            Some(Phase::Serving(serving)) => serving.on_log_bytes(from, bytes),
            _ => panic!("bytes of the log from {from} that nobody asked for"),
        }
    }

    fn on_timeout(&mut self) -> Result<(), CloseReason> {
        let Some(session) = &self.session else {
            return Ok(());
        };
        let due = session.deadline(&self.config);
        if due.is_none_or(|due| self.now < due) {
            return Ok(());
        }
        Err(match session.phase {
            Phase::Welcomed => CloseReason::Handshake("waiting for it to attach"),
            _ => CloseReason::Silent,
        })
    }

    /// What follows from the state as it is now, whatever led to it.
    fn settle(&mut self) -> Result<(), CloseReason> {
        if self.standing != Standing::Active && !on(Bug::EchoAfterWithdrawal) {
            return Ok(());
        }
        self.out.extend(self.notes.next());
        self.out
            .extend(self.log.next_apply().map(ReceiverOutput::ApplyTo));
        let protection = self.session.as_ref().and_then(|s| s.hello.view.protection);
        let ready = self.log.is_settled() && self.notes.cover(protection);
        match self.phase_mut() {
            Some(Phase::Preparing) if ready => self.welcome(),
            Some(Phase::Following(_)) => {
                self.answer();
                Ok(())
            }
            Some(Phase::Serving(_)) => {
                self.serve();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Sends the echo and the ack that are due, while the control stream takes them.
    fn answer(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        let Phase::Following(following) = &mut session.phase else {
            return;
        };
        if session.control_busy {
            return;
        }
        let binding = session.binding;
        let ack = following.take_ack(&self.log);
        let noted = following
            .awaited_note()
            .is_some_and(|protection| self.notes.cover(protection));
        let echo = if noted || on(Bug::EchoBeforeNote) {
            following.take_echo()
        } else {
            None
        };
        if let Some(ack) = ack {
            self.log.on_acked(binding.epoch);
            self.send(Message::Ack(ack));
        }
        if let Some(stamp) = echo {
            if self.withdrawn_at.is_none() && !on(Bug::EchoNotCounted) {
                self.silent_since = self.now;
            }
            self.send(Message::Echo { binding, stamp });
        }
    }

    fn serve(&mut self) {
        let stale_read = self.stale_read;
        let Some(Phase::Serving(serving)) = self.phase_mut() else {
            return;
        };
        let data = serving.next_data();
        let read = if stale_read {
            None
        } else {
            serving.next_read()
        };
        let served = serving.served().filter(|_| data.is_some());
        self.out.extend(data);
        self.out.extend(read);
        if let Some(served) = served {
            self.event(ReceiverEvent::TailServed(served));
        }
    }

    fn close(&mut self, reason: CloseReason) {
        self.forget_session();
        self.out.push_back(ReceiverOutput::Close(reason));
    }

    fn forget_session(&mut self) {
        if let Some(Phase::Serving(serving)) = self.phase_mut() {
            self.stale_read |= serving.is_reading();
        }
        self.session = None;
    }

    fn names_session(&self, nonce: Nonce) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.binding.session.listener == nonce)
    }

    fn phase_mut(&mut self) -> Option<&mut Phase> {
        self.session.as_mut().map(|session| &mut session.phase)
    }

    fn send(&mut self, message: Message) {
        if let Some(session) = &mut self.session {
            session.control_busy = true;
        }
        self.out.push_back(ReceiverOutput::Send(message));
    }

    fn event(&mut self, event: ReceiverEvent) {
        self.out.push_back(ReceiverOutput::Event(event));
    }
}
