//! Following: binds the one [`Receiver`] of this process to whatever link its primary has made.

mod replay;
mod writer;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use outlast_engine::{LogView as StoreView, ProtectionMark, Store, TermMark};
use outlast_proto::{
    AckMark, ConflictKind, Hello, Identity, LogView, Nonce, ProtectionPoint, Receiver,
    ReceiverEvent, ReceiverInput, ReceiverOutput, ReceiverPhase, StandbyFacts, Term,
};
use outlast_shipper::drive::{LogReads, Wire, WireEvent, boot_time};
use outlast_shipper::{CloseCode, LinkHandle};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use self::writer::{Done, Job, LogWriter};

/// What a following node is told by the node around it.
pub(crate) enum Command {
    /// A primary has opened a session, and nothing speaks against it.
    Meet {
        wire: Box<Wire>,
        nonce: Nonce,
        hello: Box<Hello>,
    },
    /// A higher term exists whose writer cannot be followed.
    HeardTerm(Term),
    /// Promotion begins: accept, echo and acknowledge nothing any more. Answered once everything
    /// that was received before is in the log.
    Withdraw(oneshot::Sender<()>),
    /// The promotion was given up.
    Reinstate,
}

/// What a following node tells the node around it.
pub(crate) trait FollowHooks: Send + Sync {
    /// Stop, durably: two histories contradict each other.
    fn conflict(&self, kind: &ConflictKind, heard: Term);
    /// Something worth knowing.
    fn event(&self, event: &ReceiverEvent);
    /// The link came or went.
    fn link(&self, link: Option<LinkHandle>, why: Option<String>);
}

/// The handle on the task that follows.
pub(crate) struct Follower {
    commands: mpsc::UnboundedSender<Command>,
    receiver: Arc<Mutex<Receiver>>,
}

impl Follower {
    /// Starts to follow. The task runs until the handle is dropped.
    pub(crate) fn start(
        net: &outlast_shipper::NetHandle,
        store: &Store,
        config: outlast_proto::Config,
        hooks: Arc<dyn FollowHooks>,
    ) -> crate::error::Result<Self> {
        store.begin_following()?;
        let facts = facts(store);
        let receiver = Arc::new(Mutex::new(Receiver::new(boot_time(), config, facts)));
        let (writer, done) = LogWriter::start(store.clone())
            .map_err(|error| outlast_engine::Error::io("start a thread", error))?;
        let (commands, to_obey) = mpsc::unbounded_channel();
        let task = Task {
            receiver: receiver.clone(),
            reads: LogReads::new(store.clone()),
            answers: VecDeque::new(),
            session: None,
            writer,
            hooks,
        };
        net.spawn("follow", task.run(to_obey, done));
        Ok(Self { commands, receiver })
    }

    /// Tells the task; `false` when it has ended.
    pub(crate) fn tell(&self, command: Command) -> bool {
        self.commands.send(command).is_ok()
    }

    /// What speaks for or against following whoever says this Hello.
    pub(crate) fn meet(
        &self,
        peer: outlast_engine::format::NodeId,
        hello: &Hello,
    ) -> outlast_proto::Meeting {
        self.receiver.lock().meet(peer, hello)
    }

    /// How it stands.
    pub(crate) fn status(&self) -> outlast_proto::ReceiverStatus {
        self.receiver.lock().status()
    }

    /// How long nothing was echoed to a primary.
    pub(crate) fn silence(&self) -> Duration {
        self.receiver.lock().silence(boot_time())
    }
}

struct Task {
    receiver: Arc<Mutex<Receiver>>,
    writer: LogWriter,
    reads: LogReads,
    /// What was done at once and is told once all outputs are taken.
    answers: VecDeque<ReceiverInput>,
    session: Option<Session>,
    hooks: Arc<dyn FollowHooks>,
}

struct Session {
    wire: Wire,
    nonce: Nonce,
}

impl Task {
    async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        mut done: mpsc::UnboundedReceiver<Done>,
    ) {
        loop {
            self.obey_all().await;
            if let Some(answer) = self.answers.pop_front() {
                self.give(answer);
                continue;
            }
            let wake_at = self.receiver.lock().poll_timeout();
            let next = {
                let session = &mut self.session;
                tokio::select! {
                    biased;
                    command = commands.recv() => match command {
                        Some(command) => Next::Command(command),
                        None => return self.stop().await,
                    },
                    done = done.recv() => match done {
                        Some(done) => Next::Input(told(done)),
                        None => return self.stop().await,
                    },
                    event = event(session) => Next::Wire(event),
                    (from, bytes) = self.reads.finished() => Next::Input(match bytes {
                        Ok(bytes) => ReceiverInput::LogBytes { from, bytes },
                        Err(error) => failed(&error),
                    }),
                    () = outlast_shipper::drive::sleep_until(wake_at) => {
                        Next::Input(ReceiverInput::Timeout)
                    }
                }
            };
            match next {
                Next::Input(input) => self.give(input),
                Next::Wire(event) => self.wire(event),
                Next::Command(command) => self.command(command).await,
            }
        }
    }

    fn give(&self, input: ReceiverInput) {
        self.receiver.lock().handle(boot_time(), input);
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Meet { wire, nonce, hello } => {
                if let Some(old) = self.session.take() {
                    let handle = old.wire.handle();
                    handle.close(CloseCode::REPLACED, "a newer session took its place");
                    self.give(ReceiverInput::Disconnected { nonce: old.nonce });
                    self.obey_all().await;
                }
                let handle = wire.handle().clone();
                let peer = handle.peer().node;
                self.hooks.link(Some(handle), None);
                self.session = Some(Session { wire: *wire, nonce });
                self.give(ReceiverInput::Hello { nonce, peer, hello });
            }
            Command::HeardTerm(term) => self.give(ReceiverInput::HeardTerm(term)),
            Command::Withdraw(barrier) => {
                // One that failed, or stands in a conflict, takes part in nothing already.
                if self.takes_part() {
                    self.give(ReceiverInput::Withdraw);
                    self.obey_all().await;
                }
                // Everything that was accepted before is appended, synced and counted.
                self.writer.give(Job::Sync);
                self.writer.give(Job::Barrier(barrier));
            }
            Command::Reinstate => {
                if self.phase() == ReceiverPhase::Withdrawn {
                    self.give(ReceiverInput::Reinstate);
                }
            }
        }
    }

    fn phase(&self) -> ReceiverPhase {
        self.receiver.lock().status().phase
    }

    fn takes_part(&self) -> bool {
        !matches!(
            self.phase(),
            ReceiverPhase::Withdrawn | ReceiverPhase::Failed | ReceiverPhase::Conflict(_)
        )
    }

    fn wire(&mut self, event: WireEvent) {
        let Some(session) = &self.session else { return };
        let input = match event {
            WireEvent::Message(message) => ReceiverInput::Message(message),
            WireEvent::RunStart(header) => ReceiverInput::RunStart(header),
            WireEvent::RunBytes(bytes) => ReceiverInput::RunBytes(bytes),
            WireEvent::MessagesFlushed => ReceiverInput::ControlFlushed,
            WireEvent::DataFlushed => return,
            WireEvent::Ended(error) => {
                tracing::info!(%error, "the link to the primary ended");
                let nonce = session.nonce;
                self.session = None;
                self.hooks.link(None, Some(error.to_string()));
                ReceiverInput::Disconnected { nonce }
            }
        };
        self.give(input);
    }

    /// Does what the protocol asks until it asks nothing.
    async fn obey_all(&mut self) {
        loop {
            let Some(output) = self.receiver.lock().poll_output() else {
                return;
            };
            self.obey(output).await;
        }
    }

    async fn obey(&mut self, output: ReceiverOutput) {
        match output {
            ReceiverOutput::Send(message) => {
                if let Some(session) = &mut self.session
                    && let Err(error) = session.wire.push(&message)
                {
                    tracing::error!(%error, "a message could not be sent");
                }
            }
            ReceiverOutput::Data(header, bytes) => {
                if let Some(session) = &mut self.session {
                    session.wire.push_data(&header, bytes);
                }
            }
            ReceiverOutput::Read { from, max_bytes } => {
                if let Some(bytes) = self.reads.read(from, max_bytes) {
                    self.answers.push_back(match bytes {
                        Ok(bytes) => ReceiverInput::LogBytes { from, bytes },
                        Err(error) => failed(&error),
                    });
                }
            }
            ReceiverOutput::Append(run) => self.writer.give(Job::Append(run)),
            ReceiverOutput::Sync => self.writer.give(Job::Sync),
            ReceiverOutput::ApplyTo(lsn) => self.writer.give(Job::ApplyTo(lsn)),
            ReceiverOutput::Note { heard, protection } => {
                let heard = TermMark {
                    term: heard.number,
                    opened_by: heard.opened_by,
                };
                let protection = protection.map(|point| ProtectionMark {
                    term: point.term,
                    start: point.start,
                    lsn: point.lsn,
                    epoch: point.epoch,
                });
                self.writer.give(Job::Note { heard, protection });
            }
            ReceiverOutput::Quarantine { from } => self.writer.give(Job::Quarantine { from }),
            ReceiverOutput::Conflict { kind, with, heard } => {
                tracing::error!(?kind, %with, %heard, "conflict with the peer");
                self.hooks.conflict(&kind, heard);
            }
            ReceiverOutput::Event(event) => self.hooks.event(&event),
            ReceiverOutput::Close(reason) => {
                if let Some(session) = self.session.take() {
                    tracing::info!(%reason, "the session with the primary is over");
                    self.hooks.link(None, Some(reason.to_string()));
                    session
                        .wire
                        .close(CloseCode::DONE, &reason.to_string())
                        .await;
                }
            }
        }
    }

    async fn stop(mut self) {
        self.give(ReceiverInput::Stop);
        self.obey_all().await;
        if let Some(session) = self.session.take() {
            session
                .wire
                .close(CloseCode::STOPPING, "the node is closing")
                .await;
        }
    }
}

enum Next {
    Input(ReceiverInput),
    Wire(WireEvent),
    Command(Command),
}

async fn event(session: &mut Option<Session>) -> WireEvent {
    match session {
        Some(session) => session.wire.event().await,
        None => std::future::pending().await,
    }
}

fn told(done: Done) -> ReceiverInput {
    match done {
        Done::Appended(position) => ReceiverInput::Appended(position),
        Done::Durable(position) => ReceiverInput::Durable(position),
        Done::Applied(position) => ReceiverInput::Applied(position),
        Done::Noted => ReceiverInput::Noted,
        Done::Quarantined(view) => ReceiverInput::Quarantined(Box::new(log_view(*view))),
        Done::Failed(error) => failed(&error),
    }
}

fn failed(error: &outlast_engine::Error) -> ReceiverInput {
    tracing::error!(%error, "the log failed under a session");
    ReceiverInput::LogFailed
}

/// A store's view as the protocol takes it.
pub(crate) fn log_view(view: StoreView) -> LogView {
    LogView {
        end: view.chain,
        history: view.history,
        durable: view.positions.durable,
        applied: view.positions.visible,
    }
}

/// Who this node is, to the protocol.
pub(crate) fn identity(store: &Store) -> Identity {
    Identity {
        cluster: store.cluster(),
        node: store.node(),
        name: store.node_name(),
        segment_size: store.segment_size(),
    }
}

/// The highest term that a node ever heard of.
pub(crate) fn heard(store: &Store) -> Term {
    store.term_heard().map_or_else(
        || Term::of(&store.history()),
        |heard| Term {
            number: heard.term,
            opened_by: heard.opened_by,
        },
    )
}

fn facts(store: &Store) -> StandbyFacts {
    let view = store.log_view();
    let visible_told = view.chain.visible;
    StandbyFacts {
        identity: identity(store),
        heard: heard(store),
        protection: store.protection_heard().map(|mark| ProtectionPoint {
            term: mark.term,
            start: mark.start,
            lsn: mark.lsn,
            epoch: mark.epoch,
        }),
        log: log_view(view),
        visible_told,
        acked: store
            .durable_mark()
            .map(|(epoch, durable)| AckMark { epoch, durable }),
    }
}
