//! The primary's side of one session.
//!
//! A [`Sender`] lives for one attempt: it says Hello, and ends with [`SenderOutput::Close`]. The
//! shell makes the next one. The handshake is here; what follows it is in `ship` (a writer ships
//! its log) and `fetch` (a restarted primary takes its lost tail back).

mod fetch;
mod handshake;
mod io;
mod ship;
mod stamps;
mod status;

use std::collections::VecDeque;

use bytes::Bytes;
use outlast_engine::format::Lsn;

use self::fetch::Fetching;
pub use self::io::{SenderEvent, SenderInput, SenderOutput};
use self::ship::Shipping;
pub use self::status::{SenderPhase, SenderStatus};
use crate::close::CloseReason;
use crate::config::Config;
use crate::dropped::Dropped;
use crate::facts::{PrimaryFacts, PrimaryView};
use crate::message::{ByeReason, Hello, Message, Mode, Welcome};
use crate::points::{LogEnd, Position};
use crate::session::{Binding, Nonce, RunHeader};
use crate::time::MonoTime;

/// The primary's side of one session, as a pure state machine.
///
/// It never reads a clock, opens a file, spawns or blocks. `now` never goes backwards.
///
/// **Law:** after [`Sender::new`] and after every [`Sender::handle`], drain [`Sender::poll_output`]
/// to `None`, then wait for the next input or for the moment of [`Sender::poll_timeout`].
///
/// Invariants:
/// 1. Nothing is concluded from a message that names another session or epoch.
/// 2. No data leaves before the standby's log is known to be a prefix of this one, the attachment
///    is noted durably, and the standby has accepted it.
/// 3. received ≥ durable ≥ applied, none moves back within the session, none is beyond what was
///    sent.
/// 4. Data in flight never exceeds the window (a single longer frame goes alone).
/// 5. `contact` is the moment of a heartbeat of this session that was echoed; it never moves back.
#[derive(Debug)]
pub struct Sender {
    config: Config,
    facts: PrimaryFacts,
    mode: Mode,
    nonce: Nonce,
    now: MonoTime,
    view: PrimaryView,
    phase: Phase,
    deadline: Option<MonoTime>,
    binding: Option<Binding>,
    link: Link,
    dropped: Dropped,
}

#[derive(Debug)]
enum Phase {
    /// Hello is sent.
    Greeting,
    /// Diverged is sent.
    Cutting(Box<Welcome>),
    /// The shell notes the attachment.
    Noting(Box<Welcome>),
    Shipping(Box<Shipping>),
    Fetching(Box<Fetching>),
    Over,
}

/// The outputs, and whether the control stream has taken the last ones.
#[derive(Debug, Default)]
struct Link {
    out: VecDeque<SenderOutput>,
    control_busy: bool,
}

impl Sender {
    /// Begins a session: the connection is there, and the first output is the Hello.
    ///
    /// # Panics
    /// When the facts contradict each other, or a fenced node dials as a primary.
    #[must_use]
    pub fn new(
        now: MonoTime,
        config: Config,
        facts: PrimaryFacts,
        mode: Mode,
        nonce: Nonce,
    ) -> Self {
        config.assert_sound();
        handshake::assert_sound(&facts, mode);
        let hello = Hello {
            versions: config.versions,
            features: config.features,
            nonce,
            mode,
            cluster: facts.identity.cluster,
            node: facts.identity.node,
            name: facts.identity.name.clone(),
            to: facts.peer,
            segment_size: facts.identity.segment_size,
            heard: facts.heard,
            history: facts.log.history.clone(),
            end: LogEnd::from(&facts.log.end),
            view: facts.view(),
            remembered: facts.remembered,
        };
        let mut link = Link::default();
        link.send(Message::Hello(Box::new(hello)));
        Self {
            deadline: Some(now.after(config.handshake_timeout)),
            view: facts.view(),
            config,
            facts,
            mode,
            nonce,
            now,
            phase: Phase::Greeting,
            binding: None,
            link,
            dropped: Dropped::default(),
        }
    }

    /// Takes what happened at `now`.
    ///
    /// # Panics
    /// When time goes backwards, outputs were left undrained, or the shell answers what it was not
    /// asked.
    pub fn handle(&mut self, now: MonoTime, input: SenderInput) {
        assert!(now >= self.now, "time went from {} to {now}", self.now);
        assert!(self.link.out.is_empty(), "outputs were left undrained");
        self.now = now;
        if matches!(self.phase, Phase::Over) {
            return;
        }
        let result = match input {
            SenderInput::Message(message) => self.on_message(message),
            SenderInput::RunStart(header) => self.on_run_start(&header),
            SenderInput::RunBytes(bytes) => self.on_run_bytes(bytes),
            SenderInput::ControlFlushed => {
                self.link.control_busy = false;
                Ok(())
            }
            SenderInput::View(view) => {
                self.on_view(view);
                Ok(())
            }
            SenderInput::LogBytes { from, bytes } => self.on_log_bytes(from, bytes),
            SenderInput::LogFailed => Err(CloseReason::OwnLogFailed),
            SenderInput::LogTruncated => Err(self.bye(ByeReason::Truncated)),
            SenderInput::AttachmentNoted => self.attach(),
            SenderInput::Appended(position) => self.on_fetched(position, false),
            SenderInput::Durable(position) => self.on_fetched(position, true),
            SenderInput::EpochBegins => Err(self.bye(ByeReason::EpochBegins)),
            SenderInput::Stop => Err(self.bye(ByeReason::Stopping)),
            SenderInput::Timeout => self.on_timeout(),
            SenderInput::Disconnected => {
                self.phase = Phase::Over;
                self.deadline = None;
                Ok(())
            }
        };
        match result {
            Ok(()) => self.settle(),
            Err(reason) => self.close(reason),
        }
    }

    /// The next output; `None` when there is nothing to do before the next input.
    pub fn poll_output(&mut self) -> Option<SenderOutput> {
        self.link.out.pop_front()
    }

    /// When to give [`SenderInput::Timeout`], if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonoTime> {
        let heartbeat = match &self.phase {
            Phase::Shipping(shipping) if !self.link.control_busy => shipping.next_heartbeat(),
            _ => None,
        };
        [self.deadline, heartbeat].into_iter().flatten().min()
    }

    fn on_message(&mut self, message: Message) -> Result<(), CloseReason> {
        if !self.dropped.admits(&message, self.binding.as_ref()) {
            return Ok(());
        }
        let name = message.name();
        match (message, &mut self.phase) {
            (Message::Welcome(welcome), Phase::Greeting) => return self.on_welcome(welcome),
            (Message::Refuse(refuse), _) => return self.on_refuse(&refuse),
            (Message::CutDone { end, .. }, Phase::Cutting(_)) => return self.on_cut_done(end),
            (Message::Bye { reason, .. }, _) => return Err(CloseReason::Bye(reason)),
            (Message::Ack(ack), Phase::Shipping(shipping)) => {
                shipping.on_ack(&ack, &mut self.link)?;
            }
            (Message::Echo { stamp, .. }, Phase::Shipping(shipping)) => {
                if !shipping.on_echo(self.now, stamp, &mut self.link)? {
                    self.dropped.stale += 1;
                }
            }
            _ => return Err(CloseReason::Unexpected(name)),
        }
        self.deadline = Some(self.now.after(self.config.silence_max));
        Ok(())
    }

    fn on_run_start(&mut self, header: &RunHeader) -> Result<(), CloseReason> {
        let Some(binding) = self.binding else {
            self.dropped.other_session += 1;
            return Ok(());
        };
        let bound = self.dropped.admits_binding(&header.binding, &binding);
        match &mut self.phase {
            Phase::Fetching(fetching) => fetching.on_run_start(header),
            _ if bound => Err(CloseReason::Unexpected("data")),
            _ => Ok(()),
        }
    }

    fn on_run_bytes(&mut self, bytes: Bytes) -> Result<(), CloseReason> {
        if let Phase::Fetching(fetching) = &mut self.phase
            && fetching.on_run_bytes(bytes, &mut self.link)?
        {
            self.deadline = Some(self.now.after(self.config.handshake_timeout));
        }
        Ok(())
    }

    fn on_fetched(&mut self, position: Position, durable: bool) -> Result<(), CloseReason> {
        let Phase::Fetching(fetching) = &mut self.phase else {
            panic!("the log moved to {position} by itself");
        };
        self.deadline = Some(self.now.after(self.config.handshake_timeout));
        if durable {
            if let Some(fetched) = fetching.on_durable(position) {
                let visible_told = fetching.visible_told();
                return Err(self.contact_complete(fetched, visible_told));
            }
        } else {
            fetching.on_appended(position, &mut self.link);
        }
        Ok(())
    }

    fn on_view(&mut self, view: PrimaryView) {
        assert!(view.in_order(), "positions out of order: {view:?}");
        let newer = view.appended.covers(&self.view.appended)
            && view.durable.covers(&self.view.durable)
            && view.visible.covers(&self.view.visible);
        if newer {
            self.view = view;
        }
    }

    fn on_log_bytes(&mut self, from: Lsn, bytes: Bytes) -> Result<(), CloseReason> {
        let Phase::Shipping(shipping) = &mut self.phase else {
            panic!("bytes of the log from {from} that nobody asked for");
        };
        shipping.on_log_bytes(from, bytes)
    }

    fn on_timeout(&mut self) -> Result<(), CloseReason> {
        if self.deadline.is_none_or(|deadline| self.now < deadline) {
            return Ok(());
        }
        Err(match &self.phase {
            Phase::Greeting => CloseReason::Handshake("waiting for its answer"),
            Phase::Cutting(_) => CloseReason::Handshake("it put its forked tail aside"),
            Phase::Noting(_) => CloseReason::Handshake("noting its attachment here"),
            Phase::Shipping(shipping) if !shipping.is_accepted() => {
                CloseReason::Handshake("attaching it")
            }
            Phase::Shipping(_) | Phase::Fetching(_) | Phase::Over => CloseReason::Silent,
        })
    }

    /// What follows from the state as it is now, whatever led to it.
    fn settle(&mut self) {
        if let Phase::Shipping(shipping) = &mut self.phase {
            shipping.settle(self.now, &self.view, &mut self.link);
        }
    }

    fn bye(&mut self, reason: ByeReason) -> CloseReason {
        if let Some(binding) = self.binding {
            self.link.send(Message::Bye { binding, reason });
        }
        CloseReason::Ended(reason)
    }

    fn close(&mut self, reason: CloseReason) {
        self.phase = Phase::Over;
        self.deadline = None;
        self.link.out.push_back(SenderOutput::Close(reason));
    }

    fn enter(&mut self, phase: Phase, wait: std::time::Duration) {
        self.phase = phase;
        self.deadline = Some(self.now.after(wait));
    }
}

impl Link {
    fn send(&mut self, message: Message) {
        self.control_busy = true;
        self.out.push_back(SenderOutput::Send(message));
    }

    fn event(&mut self, event: SenderEvent) {
        self.out.push_back(SenderOutput::Event(event));
    }
}
